"""Where Hydra ends and logreg begins: composes a config, runs it, turns mistakes into one line.

Nothing here imports torch before a run is certain to start: ``--help`` and typing mistakes are
answered at once.
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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from logreg import __version__
from logreg.commands.command_line import (
    MISSING_PATH_ERRNOS,
    ROOT,
    UNWRITABLE_ERRNOS,
    check_root,
    leave_quietly,
    print_error,
    say_importing,
)
from logreg.commands.overrides import (
    CONF,
    check_groups,
    explain_hydra_error,
    file_as_dataset,
    implied_overrides,
    is_override,
    lines_of,
    overrides_in,
    parse,
    quoted,
    resolved,
    resumed_overrides,
    with_backbone,
)
from logreg.commands.signals import ending_on_sigterm, interrupts_kept
from logreg.config import SELECT, RunConfig
from logreg.errors import ConfigError, LogregError, Terminated
from logreg.files import folder_name, shown
from logreg.invocation import as_started
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
from logreg.terminal import screened, terminal

SHOWN = ("facts", "report", "verbose")
"""Keys that make no other run, but say what is shown of it."""

NOTHING_SAVED = "No epoch was saved yet: the same command starts again."
"""What is said of a run that was stopped before its first checkpoint."""

FROM_SCRATCH = "leave ckpt_path out to start from scratch"


@ending_on_sigterm()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/train.py``.

    Args:
        arguments: What follows the script's name; ``sys.argv`` when ``None``.

    Returns:
        Exit code: 0 done; 1 a job of a sweep failed; 2 a mistake that the user can mend;
        130 stopped from the keyboard.  SIGTERM ends the process with 143.  A bug leaves with its traceback.
    """
    started = time.perf_counter()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises, and the sentence is ours
    with screened():
        return _main(list(sys.argv[1:] if arguments is None else arguments), started)


def _main(typed: list[str], started: float) -> int:
    # Options first, as argparse wants them, whatever the order they were typed in.
    options = [argument for argument in typed if argument.startswith("-") or not is_override(argument)]
    settings = [argument for argument in typed if argument not in options]
    sweep: Path | None = None
    try:
        if {"-h", "--help"} & set(options):  # without Hydra, which would list all groups first, its own too
            print(as_started(OmegaConf.load(CONF / "hydra" / "help" / "logreg.yaml").template), flush=True)
            return 0
        if "--version" in options:
            print(f"logreg {__version__}")
            return 0
        overrides, sweep = _understood(options, settings)
        sys.argv = [sys.argv[0], *overrides, *options]  # an option may take what comes after it for its value
        _hand_to_hydra(sweep is not None, started)
        if sweep is not None:
            from logreg.sweeps.results import gather

            return gather(sweep)
    except (LogregError, HydraException, OmegaConfBaseException) as error:
        print_error(error)
        if sweep is not None:
            _remove_if_unused(sweep)
        return 2
    except BrokenPipeError:
        leave_quietly()
        return 0
    except OSError as error:
        if error.errno not in UNWRITABLE_ERRNOS | MISSING_PATH_ERRNOS:
            raise
        key = "hydra.run.dir" if sweep is None else "hydra.sweep.dir"
        print_error(ConfigError(f"`{key}` must be a place to write to: {error}. Stand elsewhere, or set it."))
        return 2
    except (KeyboardInterrupt, Terminated) as stopped:
        if sweep is None:
            print(f"Stopped. {stopped.args[0] if stopped.args else NOTHING_SAVED}", file=sys.stderr)
        else:
            from logreg.sweeps.results import gather

            gather(sweep)
            print("Stopped. The jobs that were finished are above.", file=sys.stderr)
        return 130
    return 0


def _hand_to_hydra(sweeping: bool, started: float) -> None:
    """Composes the config of each run from ``sys.argv``, and has it run.

    Raises:
        ConfigError: Hydra could not begin.
        Exception: Whatever a run alone raised.
    """
    failures: list[Exception] = []
    job = run_job if sweeping else _keeping(failures, started)
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except (LogregError, HydraException, OmegaConfBaseException, OSError):
        raise
    except Exception as error:  # what the runs raise is in `failures`, and in the folders of a sweep
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
        What ``select`` says of val (of train where there is no val split), for sweepers that optimize it.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    overrides = lines_of(settings.overrides.task)
    if settings.mode == RunMode.MULTIRUN:
        from logreg.sweeps.grid import run_in_sweep

        score = SELECT.get(str(composed.select), ("loss",))[0]  # else the job says what is wrong with it
        return run_in_sweep(lambda: _run(composed, folder, overrides, None), folder, overrides, score)
    try:
        with interrupts_kept():
            return _run(composed, folder, overrides, started)
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


def _keeping(failures: list[Exception], started: float) -> Callable[[DictConfig], None]:
    """`run_job`, with what it raises kept for later: Hydra would print words of its own first."""

    def job(composed: DictConfig) -> None:
        try:
            run_job(composed, started)
        except Exception as error:
            failures.append(error)

    return job


def _run(composed: DictConfig, folder: Path, overrides: list[str], started: float | None) -> float:
    """Checks, imports what takes seconds, trains, shows the result; returns what ``select`` says of it."""
    config = RunConfig.from_mapping(resolved(composed))

    say_importing()
    from logreg.training.fast_import import import_lightning

    import_lightning()

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
    ours = config.ckpt_path is not None and goes_on_in(Path(config.ckpt_path), folder)
    # In a sweep each job has one line of its own at its end.
    lines, is_newest = 5 if single else 0, single and not (folder.parent / "multirun.yaml").exists()
    try:
        with written_by_us("ckpt_path" if ours else "hydra.run.dir", folder):
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


def _understood(options: Sequence[str], settings: Sequence[str]) -> tuple[list[str], Path | None]:
    """What was typed, checked and completed.

    Args:
        options: What starts with a dash, and what follows it.
        settings: key=value.

    Returns:
        Overrides for Hydra; the sweep folder, if this is a sweep.
    """
    asked = _read_options(options)
    overrides = parse(with_backbone(settings))
    given = {override.key_or_group: override for override in overrides}
    # No experiment is what conf/config.yaml has; Hydra has no word for it.
    overrides = [one for one in overrides if one.key_or_group != "experiment" or not _is_nothing(one)]
    check_groups(overrides)
    sweeping = bool(asked.multirun)
    if sweeping and "facts" in given and str(given["facts"].value()) == "only":
        raise ConfigError("`facts=only` must go with one run. Leave -m out.")
    if "hydra.mode" in given:
        raise ConfigError("`hydra.mode` must not be set. Add -m for several runs.")
    if "hydra.job.name" in given and folder_name(name := str(given["hydra.job.name"].value())) != name:
        raise ConfigError.broken("hydra.job.name", "be a name without separators", name, f"Try {folder_name(name)}.")
    if "hydra/job_logging" in given and str(given["hydra/job_logging"].value()) in ("disabled", "none"):
        raise ConfigError("`hydra/job_logging` must be default or stdout, since a run logs to its train.log.")
    if not asked.cfg and not asked.info:
        _check_places(given, sweeping)
    added, sweep = [], None
    if "ckpt_path" in given and given["ckpt_path"].value() is not None:
        if given["ckpt_path"].is_sweep_override():
            raise ConfigError("`ckpt_path` must be one checkpoint, got several. Resume one after the other.")
        checkpoint = find_checkpoint(str(given["ckpt_path"].value()), ROOT, FROM_SCRATCH)
        # The file itself, since tomorrow "latest" is another one.
        overrides = [override for override in overrides if override.key_or_group != "ckpt_path"]
        overrides += parse([f"ckpt_path={quoted(shown(checkpoint))}"])
        added += resumed_overrides(checkpoint, set(given))
        if not sweeping and _is_to_be_finished(checkpoint, overrides):
            # .hydra stays as it was when the run began
            added += [f"hydra.run.dir={quoted(shown(checkpoint.parents[1]))}", "hydra.output_subdir=null"]
    typed = set(given) | {override.key_or_group for override in parse(added)}
    added += implied_overrides(typed)
    if sweeping:
        from logreg.sweeps.grid import sweep_overrides

        more, sweep = sweep_overrides([*parse(added), *overrides], ROOT)
        added += more
    return [*added, *(override.input_line or "" for override in overrides)], sweep


def _is_to_be_finished(checkpoint: Path, overrides: Sequence[Override]) -> bool:
    """Whether a checkpoint is where a run was broken off that shall go on as it was begun: in its own folder.

    With other settings it is another run, and the one that was broken off stays as it is.
    """
    folder = run_folder_of(checkpoint)
    if folder is None or checkpoint.name != "last.ckpt" or is_finished(folder):
        return False
    typed = [one for one in overrides if one.key_or_group not in {"ckpt_path", *SHOWN}]
    known = set(overrides_in(folder))
    return all(one.input_line in known for one in typed)


def _is_nothing(override: Override) -> bool:
    return not override.is_sweep_override() and not override.is_delete() and override.value() is None


def _read_options(options: Sequence[str]) -> argparse.Namespace:
    """What Hydra takes with a dash; ours are --help and --version.

    Raises:
        ConfigError: An option is unknown, or goes without another one.
    """
    for option in options:
        if option.startswith("-") and not any(known.startswith(option) for known in _parser()._option_string_actions):
            raise ConfigError(f"`{option}` is no option. Write settings as key=value, such as lr=0.1.")
    asked = _parser().parse_args(options)
    if asked.experimental_rerun is not None:
        raise ConfigError("`--experimental-rerun` must not be used: it runs what is pickled. See ckpt_path.")
    if (asked.resolve or asked.package) and not (asked.cfg or asked.info):
        raise ConfigError(f"`{'--resolve' if asked.resolve else '--package'}` must go with --cfg job.")
    modes = {"-m": asked.multirun, "--cfg": asked.cfg, "--run": asked.run, "--info": asked.info}
    chosen = [option for option, is_there in modes.items() if is_there]
    if len(chosen) > 1:
        raise ConfigError(f"`{chosen[0]}` must not go with {chosen[1]}. Type one of them.")
    for word in asked.overrides:
        near = file_as_dataset(word)
        raise ConfigError(f"`{word}` must be written as key=value, brackets and quotes in pairs. {near}".rstrip())
    return asked


def _parser() -> argparse.ArgumentParser:
    """Hydra's, whose mistakes are ours."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"`--help` lists what can be typed: {message}.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser


def _check_places(given: Mapping[str, Override], sweeping: bool) -> None:
    """What a run or a sweep will write to can be written to, and is nobody else's.

    Raises:
        ConfigError: Says which is not.
    """
    key = "hydra.sweep.dir" if sweeping else "hydra.run.dir"
    if key in given:
        folder = str(given[key].value())
        if "$" not in folder:  # else `train` looks at it, once Hydra knows what it is
            check_new(key, Path(folder))
        return
    check_root(ROOT)
    if not sweeping and (ROOT / "latest").is_dir():
        raise ConfigError(
            f"`{ROOT / 'latest'}` must be the file that names the newest run, got a folder. Move it away."
        )


def _remove_if_unused(folder: Path) -> None:
    """Takes back the folder of a run or a sweep that never came to anything."""
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
