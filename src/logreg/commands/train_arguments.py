"""The command line of `scripts/train.py`: its options and settings, checked and completed for Hydra."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override

from logreg.commands.command_line import ROOT, check_root
from logreg.commands.config_files import own_folder
from logreg.commands.overrides import (
    check_groups,
    expand_backbone,
    file_as_dataset,
    implied_overrides,
    overrides_in,
    parse_overrides,
    quoted,
    resumed_overrides,
    rows_for_folds,
    without_expectation,
)
from logreg.config import PROCESS_KEYS
from logreg.errors import ConfigError, shell_line
from logreg.files import folder_name, shown
from logreg.run_folder import check_new, find_checkpoint, is_finished, run_folder_of

DISPLAY_KEYS = ("facts", "report", "verbose")
"""Keys that change what is shown of a run, and nothing else."""

FROM_SCRATCH = "leave ckpt_path out to start from scratch"
"""Advice where no checkpoint is found."""


def parse_train_arguments(options: Sequence[str], settings: Sequence[str]) -> tuple[list[str], Path | None]:
    """Parses and checks what was typed, and completes it.

    A checkpoint adds the settings of its run, a setting of a first-order optimizer adds ``optimizer=sgd``, ``cv`` adds
    ``dataset.split.val=0``, and a sweep gets its folder.

    Args:
        options: Words that start with a dash, and their values.
        settings: key=value.

    Returns:
        Overrides for Hydra; the folder of the sweep, ``None`` for a single run.

    Raises:
        ConfigError: An option, a key or a value is at fault.
    """
    read = _read_options(options)
    overrides = parse_overrides(expand_backbone(settings))
    given = {override.key_or_group: override for override in overrides}
    # experiment=null is the default of conf/config.yaml, and Hydra does not take it.
    overrides = [one for one in overrides if one.key_or_group != "experiment" or not _is_nothing(one)]
    check_groups(overrides)
    sweeping = bool(read.multirun)
    if sweeping and "facts" in given and str(given["facts"].value()) == "only":
        raise ConfigError("`facts=only` must go with one run. Leave -m out.")
    if "l2" in given and "l2_path" in given:
        raise ConfigError("`l2_path` must not go with l2, which a path chooses. Type one of them.")
    if "l2" in given and "l1_ratio" in given and given["l1_ratio"].value() is not None:
        advice = "Leave l2 out." if "l1" in given else "Type l1=path in place of l2."
        raise ConfigError(f"`l1_ratio` must not go with l2, which it sets beside each strength of l1. {advice}")
    if "hydra.mode" in given:
        raise ConfigError("`hydra.mode` must not be set. Add -m for several runs.")
    if "hydra.job.name" in given and folder_name(name := str(given["hydra.job.name"].value())) != name:
        raise ConfigError.broken("hydra.job.name", "be a name without separators", name, f"Try {folder_name(name)}.")
    if "hydra/job_logging" in given and str(given["hydra/job_logging"].value()) in ("disabled", "none"):
        raise ConfigError("`hydra/job_logging` must be default or stdout, since a run logs to its train.log.")
    if not read.cfg and not read.info:
        _check_folders(given, sweeping)
    added, sweep = [], None
    if "ckpt_path" in given and given["ckpt_path"].value() is not None:
        if given["ckpt_path"].is_sweep_override():
            raise ConfigError("`ckpt_path` must be one checkpoint, got several. Resume one after the other.")
        checkpoint = find_checkpoint(str(given["ckpt_path"].value()), ROOT, FROM_SCRATCH)
        # The file itself, since "latest" will name another one.
        overrides = [override for override in overrides if override.key_or_group != "ckpt_path"]
        overrides += parse_overrides([f"ckpt_path={quoted(shown(checkpoint))}"])
        added += resumed_overrides(checkpoint, set(given), own_folder(overrides))
        if not sweeping and _continues_in_place(checkpoint, overrides):
            # .hydra stays as it was when the run began
            added += [f"hydra.run.dir={quoted(shown(checkpoint.parents[1]))}", "hydra.output_subdir=null"]
    typed = set(given) | {override.key_or_group for override in parse_overrides(added)}
    every = [*parse_overrides(added), *overrides]
    added += implied_overrides(typed) + rows_for_folds(every) + without_expectation(every)
    if sweeping:
        from logreg.sweeps.grid import sweep_overrides

        more, sweep = sweep_overrides([*parse_overrides(added), *overrides], ROOT)
        added += more
    return [*added, *(override.input_line or "" for override in overrides)], sweep


def _continues_in_place(checkpoint: Path, overrides: Sequence[Override]) -> bool:
    """Whether a run continues in the folder of its checkpoint: that run was interrupted, and no setting is changed.

    With other settings it is another run, and the interrupted one stays as it is.  ``config_dir`` is typed again, and
    may be written in another way.
    """
    folder = run_folder_of(checkpoint)
    if folder is None or checkpoint.name != "last.ckpt" or is_finished(folder):
        return False
    others = {"ckpt_path", "config_dir", *DISPLAY_KEYS, *PROCESS_KEYS}
    typed = [one for one in overrides if one.key_or_group not in others]
    known = set(overrides_in(folder))
    return all(one.input_line in known for one in typed)


def _is_nothing(override: Override) -> bool:
    return not override.is_sweep_override() and not override.is_delete() and override.value() is None


def _read_options(options: Sequence[str]) -> argparse.Namespace:
    """The options of Hydra among what was typed; `run_command` has answered --help and --version.

    Raises:
        ConfigError: An option is unknown, or goes without another one.
    """
    for option in options:
        word = option.partition("=")[0]
        if option.startswith("-") and not any(known.startswith(word) for known in _parser()._option_string_actions):
            raise ConfigError(f"`{option}` is no option. Write settings as key=value, such as lr=0.1.")
    read = _parser().parse_args(options)
    if read.experimental_rerun is not None:
        raise ConfigError("`--experimental-rerun` must not be used: it runs what is pickled. See ckpt_path.")
    for option in ("config_dir", "config_name", "config_path"):
        if (typed := getattr(read, option)) is not None:
            folder = shell_line([f"config_dir={typed if option == 'config_dir' else 'FOLDER'}"])
            raise ConfigError(
                f"`--{option.replace('_', '-')}` must not be used. Type {folder}, a folder with files of your own such "
                "as experiment/NAME.yaml."
            )
    if (read.resolve or read.package) and not (read.cfg or read.info):
        raise ConfigError(f"`{'--resolve' if read.resolve else '--package'}` must go with --cfg job.")
    modes = {"-m": read.multirun, "--cfg": read.cfg, "--run": read.run, "--info": read.info}
    chosen = [option for option, is_there in modes.items() if is_there]
    if len(chosen) > 1:
        raise ConfigError(f"`{chosen[0]}` must not go with {chosen[1]}. Type one of them.")
    for word in read.overrides:
        near = file_as_dataset(word) or "No blanks stand around =, and a setting that has blanks stands in quotes."
        raise ConfigError(f"`{word}` must be written as key=value, brackets and quotes in pairs. {near}")
    return read


def _parser() -> argparse.ArgumentParser:
    """Hydra's parser of options, with our exception for mistakes."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"`--help` lists what can be typed: {message}.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # of this parser alone
    return parser


def _check_folders(given: Mapping[str, Override], sweeping: bool) -> None:
    """Checks that the folder of a run or a sweep can be written to, and holds nothing else.

    Raises:
        ConfigError: Names the key of the folder.
    """
    key = "hydra.sweep.dir" if sweeping else "hydra.run.dir"
    if key in given:
        folder = str(given[key].value())
        if "$" not in folder:  # else `train` checks it, once Hydra has filled it in
            check_new(key, Path(folder))
        return
    check_root(ROOT)
    if not sweeping and (ROOT / "latest").is_dir():
        raise ConfigError(
            f"`{ROOT / 'latest'}` must be the file that names the newest run, got a folder. Move it away."
        )
