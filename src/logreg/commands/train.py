"""`scripts/train.py`: checks what was typed, has Hydra compose the config, and runs it.

Nothing here imports torch before a run is certain to start: ``--help`` and typing mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from logreg.commands import run_names  # noqa: F401  # registers the functions that conf/config.yaml calls
from logreg.commands.command_line import (
    ROOT,
    UNWRITABLE_ERRNOS,
    EarlyEnd,
    check_root,
    import_libraries,
    run_command,
)
from logreg.commands.hydra_messages import explain_hydra_error
from logreg.commands.overrides import (
    CONF,
    check_groups,
    expand_backbone,
    file_as_dataset,
    implied_overrides,
    is_override,
    override_lines,
    overrides_in,
    parse_overrides,
    plain_config,
    quoted,
    resumed_overrides,
)
from logreg.commands.signals import interrupts_kept
from logreg.commands.train_help import help_text
from logreg.config import SELECT, RunConfig
from logreg.errors import ConfigError, LogregError, Terminated
from logreg.files import folder_name, shown
from logreg.run_folder import (
    CHECKPOINTS,
    check_new,
    find_checkpoint,
    goes_on_in,
    is_finished,
    is_unused,
    latest_run,
    run_folder_of,
    written_by_us,
)
from logreg.terminal import terminal

DISPLAY_KEYS = ("facts", "report", "verbose")
"""Keys that change what is shown of a run, and nothing else."""

NOTHING_SAVED = "No epoch was saved yet: the same command starts again."
"""The end of the message about a run that was stopped before its first checkpoint."""

FROM_SCRATCH = "leave ckpt_path out to start from scratch"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/train.py``.

    Args:
        arguments: What follows the command's name; ``sys.argv`` when ``None``.

    Returns:
        Exit code: that of `run_command`; 1 where a job of a sweep failed.
    """
    started = time.perf_counter()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises, and `run_command` prints the message
    early_end = _EarlyEnd()
    return run_command(help_text, lambda typed: _run(typed, started, early_end), arguments, early_end)


class _EarlyEnd(EarlyEnd):
    """What a run or a sweep does besides when it ends early.

    Attributes:
        sweep: The folder of the sweep; ``None`` for a single run.
    """

    sweep: Path | None = None

    def after_mistake(self) -> None:
        if self.sweep is not None:
            _remove_if_unused(self.sweep)

    def after_interrupt(self, interrupt: BaseException) -> None:
        if self.sweep is None:
            message = next((one for one in interrupt.args if isinstance(one, str)), NOTHING_SAVED)
            print(f"Stopped. {message}", file=sys.stderr)
            return
        from logreg.sweeps.results import gather

        gather(self.sweep)
        print("Stopped. The jobs that were finished are above.", file=sys.stderr)

    def unwritable(self, error: OSError) -> ConfigError:
        key = "hydra.run.dir" if self.sweep is None else "hydra.sweep.dir"
        return ConfigError(f"`{key}` must be a place to write to: {error}. Stand elsewhere, or set it.")


def _run(typed: list[str], started: float, early_end: _EarlyEnd) -> int:
    # Options first, as argparse wants them, whatever the order they were typed in.
    options = [argument for argument in typed if argument.startswith("-") or not is_override(argument)]
    settings = [argument for argument in typed if argument not in options]
    overrides, early_end.sweep = _parse(options, settings)
    sys.argv = [sys.argv[0], *overrides, *options]  # an option may take what comes after it for its value
    _run_hydra(early_end.sweep is not None, started)
    if early_end.sweep is None:
        return 0
    from logreg.sweeps.results import gather

    return gather(early_end.sweep)


def _run_hydra(sweeping: bool, started: float) -> None:
    """Has Hydra compose the config of each run from ``sys.argv``, and runs it.

    Raises:
        ConfigError: Hydra could not begin.
        Exception: Whatever a run alone raised.
    """
    failures: list[Exception] = []
    job = run_job if sweeping else _collecting(failures, started)
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except (LogregError, HydraException, OmegaConfBaseException, OSError):
        raise
    except Exception as error:  # of Hydra; those of runs are in `failures`, or in the folders of a sweep
        raise ConfigError(
            f"`hydra` must be set to what Hydra takes: {explain_hydra_error(error).rstrip('.')}."
        ) from error
    if failures:
        raise failures[0]


def run_job(composed: DictConfig, started: float | None = None) -> float | None:
    """One run: alone, or as a job of a sweep, whose failure must not stop the others.

    Args:
        composed: The config as Hydra composed it.
        started: ``time.perf_counter()`` when the user pressed Enter, for a run alone.

    Returns:
        The score that ``select`` names, of val (of train where there is no val split), for sweepers of Hydra.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    overrides = override_lines(settings.overrides.task)
    if settings.mode == RunMode.MULTIRUN:
        from logreg.sweeps.grid import run_in_sweep

        score = SELECT.get(str(composed.select), ("loss",))[0]  # for another word the job has a message
        return run_in_sweep(lambda: _fit(composed, folder, overrides, None), folder, overrides, score)
    try:
        with interrupts_kept():
            return _fit(composed, folder, overrides, started)
    except LogregError:
        _remove_if_unused(folder)
        raise
    except (KeyboardInterrupt, Terminated) as stopped:
        _remove_if_unused(folder)
        if (folder / CHECKPOINTS / "last.ckpt").is_file():
            newest = latest_run(ROOT)
            is_newest = newest is not None and newest.resolve() == folder.resolve()
            way = f"`ckpt_path={'latest' if is_newest else shown(folder)}`"
            stopped.args = (f"{way} goes on from the last epoch that was saved.",)
        raise


def _collecting(failures: list[Exception], started: float) -> Callable[[DictConfig], None]:
    """`run_job`, which appends what it raises to ``failures``: Hydra would print a message of its own first."""

    def job(composed: DictConfig) -> None:
        try:
            run_job(composed, started)
        except Exception as error:
            failures.append(error)

    return job


def _fit(composed: DictConfig, folder: Path, overrides: list[str], started: float | None) -> float:
    """Checks the config, imports torch, trains and shows the result; returns the score that ``select`` names."""
    config = RunConfig.from_mapping(plain_config(composed))
    import_libraries()
    from logreg.reports.console import print_summary
    from logreg.run.train import show_facts, train
    from logreg.training.callbacks import Ending

    if config.facts == "only":
        show_facts(config)
        _remove_if_unused(folder)
        return 0.0
    single = HydraConfig.get().mode == RunMode.RUN
    if not single and not any(override.startswith("report=") for override in overrides):
        config = dataclasses.replace(config, report="brief")
    ending = Ending()
    resumes_itself = config.ckpt_path is not None and goes_on_in(Path(config.ckpt_path), folder)
    # In a sweep each job has one line of its own at its end.
    lines, is_newest = 5 if single else 0, single and not (folder.parent / "multirun.yaml").exists()
    try:
        with written_by_us("ckpt_path" if resumes_itself else "hydra.run.dir", folder):
            summary = train(config, folder, ROOT, is_newest, overrides, started, lines, callbacks=[ending])
    except OSError as error:
        if error.errno not in UNWRITABLE_ERRNOS or ending.epochs is None:
            raise
        last = shown(folder / CHECKPOINTS / "last.ckpt")
        raise ConfigError(
            f"`hydra.run.dir` must have room for the report, got {(error.strerror or str(error)).lower()}. Training is "
            f"finished, and {last} has its {ending.epochs} epochs. Make room, and type ckpt_path={last}."
        ) from error
    if single:
        print_summary(summary, terminal())
    metrics, score = summary["metrics"], SELECT[config.select][0]
    return float(metrics.get("val", metrics["train"])[score])


def _parse(options: Sequence[str], settings: Sequence[str]) -> tuple[list[str], Path | None]:
    """Parses and checks what was typed, and completes it.

    Args:
        options: What starts with a dash, and what follows it.
        settings: key=value.

    Returns:
        Overrides for Hydra; the sweep folder, if this is a sweep.
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
        added += resumed_overrides(checkpoint, set(given))
        if not sweeping and _continues_in_place(checkpoint, overrides):
            # .hydra stays as it was when the run began
            added += [f"hydra.run.dir={quoted(shown(checkpoint.parents[1]))}", "hydra.output_subdir=null"]
    typed = set(given) | {override.key_or_group for override in parse_overrides(added)}
    added += implied_overrides(typed)
    if sweeping:
        from logreg.sweeps.grid import sweep_overrides

        more, sweep = sweep_overrides([*parse_overrides(added), *overrides], ROOT)
        added += more
    return [*added, *(override.input_line or "" for override in overrides)], sweep


def _continues_in_place(checkpoint: Path, overrides: Sequence[Override]) -> bool:
    """Whether a run continues in the folder of its checkpoint: that run was interrupted, and no setting is changed.

    With other settings it is another run, and the interrupted one stays as it is.
    """
    folder = run_folder_of(checkpoint)
    if folder is None or checkpoint.name != "last.ckpt" or is_finished(folder):
        return False
    typed = [one for one in overrides if one.key_or_group not in {"ckpt_path", *DISPLAY_KEYS}]
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
        if option.startswith("-") and not any(known.startswith(option) for known in _parser()._option_string_actions):
            raise ConfigError(f"`{option}` is no option. Write settings as key=value, such as lr=0.1.")
    read = _parser().parse_args(options)
    if read.experimental_rerun is not None:
        raise ConfigError("`--experimental-rerun` must not be used: it runs what is pickled. See ckpt_path.")
    if (read.resolve or read.package) and not (read.cfg or read.info):
        raise ConfigError(f"`{'--resolve' if read.resolve else '--package'}` must go with --cfg job.")
    modes = {"-m": read.multirun, "--cfg": read.cfg, "--run": read.run, "--info": read.info}
    chosen = [option for option, is_there in modes.items() if is_there]
    if len(chosen) > 1:
        raise ConfigError(f"`{chosen[0]}` must not go with {chosen[1]}. Type one of them.")
    for word in read.overrides:
        near = file_as_dataset(word)
        raise ConfigError(f"`{word}` must be written as key=value, brackets and quotes in pairs. {near}".rstrip())
    return read


def _parser() -> argparse.ArgumentParser:
    """Hydra's parser of options, with our exception for mistakes."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"`--help` lists what can be typed: {message}.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
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


def _remove_if_unused(folder: Path) -> None:
    """Removes the folder of a run or a sweep that ended before it had saved anything."""
    if not folder.is_dir() or not is_unused(folder):
        return
    with suppress(ConfigError), written_by_us("hydra.run.dir", folder):  # not that of a run which is under way
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    here, root = Path.cwd().resolve(), ROOT.resolve()
    for place in (folder.resolve(), *folder.resolve().parents):
        if place == here or any(place.iterdir()) or not (place == folder.resolve() or place.is_relative_to(root)):
            return
        place.rmdir()
