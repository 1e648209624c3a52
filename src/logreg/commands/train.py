"""`scripts/train.py`: checks what was typed, has Hydra compose the config, and runs it.

Nothing here imports torch before a run is certain to start: ``--help`` and typing mistakes are answered at once.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from logging import FileHandler
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from logreg.commands import run_names  # noqa: F401  # registers the functions that conf/config.yaml calls
from logreg.commands.command_line import (
    ROOT,
    UNWRITABLE_ERRNOS,
    EarlyEnd,
    importing_libraries,
    run_command,
    with_home,
)
from logreg.commands.config_files import CONF, is_group, search_path
from logreg.commands.hydra_messages import explain_hydra_error
from logreg.commands.overrides import (
    composed_config,
    is_override,
    override_lines,
    parse_overrides,
    plain_config,
)
from logreg.commands.restarts import noted_for_restarts, settings_after_restart
from logreg.commands.several_processes import OF_OTHER_RANKS, start_together
from logreg.commands.signals import interrupts_kept
from logreg.commands.train_arguments import parse_train_arguments
from logreg.commands.train_help import help_text
from logreg.config import PROCESS_KEYS, SELECT, RunConfig
from logreg.errors import ConfigError, LogregError, Terminated, shell_line
from logreg.files import shown
from logreg.launchers import Placement, placement
from logreg.run_folder import (
    CHECKPOINTS,
    continues_in_place,
    is_unused,
    latest_run,
    locked_run_folder,
)
from logreg.terminal import terminal

if TYPE_CHECKING:
    from logreg.reports.summary_schema import Summary

KEYS_OF_SEVERAL = {*PROCESS_KEYS, "experiment"}
"""Keys whose values may make them several; a config is composed twice where one of them is typed."""

NOTHING_SAVED = "No epoch was saved yet: the same command starts again."
"""The end of the message about a run that was stopped before its first checkpoint."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/train.py``.

    Args:
        arguments: The words after the command's name; ``sys.argv`` when ``None``.

    Returns:
        Exit code: that of `run_command`; 1 where a job of a sweep failed.
    """
    started = time.perf_counter()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises, and `run_command` prints the message
    early_end = _EarlyEnd()
    typed = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: help_text(typed), lambda words: _run(words, started, early_end), typed, early_end, True)


class _EarlyEnd(EarlyEnd):
    """Actions of a run or a sweep when it ends early, besides those of all commands.

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

        print("Stopped.", file=sys.stderr)
        gather(self.sweep)

    def unwritable(self, error: OSError) -> ConfigError:
        key = "hydra.run.dir" if self.sweep is None else "hydra.sweep.dir"
        return ConfigError(f"`{key}` must be a place to write to: {error}. Go to another folder, or set it.")


def _run(typed: list[str], started: float, early_end: _EarlyEnd) -> int:
    typed = [with_home(word) for word in typed]
    # Options first, as argparse wants them, whatever the order they were typed in.
    options = [argument for argument in typed if argument.startswith("-") or not is_override(argument)]
    settings = settings_after_restart([argument for argument in typed if argument not in options])
    if settings is None:
        return 0
    placed = placement()
    if placed is not None and placed.rank:  # the first process alone has a folder, and may have begun to write it
        settings = [one for one in settings if one.partition("=")[0] != "hydra.run.dir"]
    overrides, early_end.sweep = parse_train_arguments(options, settings)
    sweeping = early_end.sweep is not None
    keys = {override.key_or_group for override in parse_overrides(overrides)}
    trains = sweeping or not any(option.startswith("-") for option in options)  # other options show something
    if trains and (placed is not None or keys & KEYS_OF_SEVERAL):
        devices, num_nodes = _checked_processes(overrides, sweeping, placed)
        if placed is None and devices * num_nodes > 1:
            return start_together(devices, num_nodes, [*_program(), *typed])
    if placed is not None and placed.rank:
        overrides = [*overrides, *OF_OTHER_RANKS]
    _run_hydra(overrides, options, sweeping, started)
    if early_end.sweep is None:
        return 0
    from logreg.sweeps.results import gather

    return gather(early_end.sweep)


def _program() -> list[str]:
    """What follows the interpreter in the words that start this command, up to what is typed after its name."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return ["-m", "logreg", "train"]
    return [sys.argv[0], "train"] if started.name == "logreg" else [sys.argv[0]]


def _checked_processes(overrides: Sequence[str], sweeping: bool, placed: Placement | None) -> tuple[int, int]:
    """The processes on each machine, and the number of machines, that a command line asks for.

    Raises:
        ConfigError: A launcher has started other ones, or the jobs of a sweep would run in several processes.
    """
    if sweeping:
        numbers = {
            one.key_or_group: one.value() for one in parse_overrides(overrides) if one.key_or_group in PROCESS_KEYS
        }
        if placed is not None or any(number != 1 for number in numbers.values()):
            raise ConfigError(
                "`-m` must go with one process, which trains one job after the other. Leave devices, num_nodes and the "
                "launcher out, or start the runs one by one."
            )
        return 1, 1
    config = composed_config(overrides)
    devices, num_nodes = config.devices, config.num_nodes
    if placed is not None and devices * num_nodes not in (1, placed.size):
        raise ConfigError(
            f"`devices` times num_nodes must be the number of processes that {placed.launcher} started, {placed.size}, "
            f"got {devices * num_nodes}. Leave both out: the launcher decides."
        )
    return devices, num_nodes


def _run_hydra(overrides: Sequence[str], options: Sequence[str], sweeping: bool, started: float) -> None:
    """Has Hydra compose the config of each run, and runs it.

    Args:
        overrides: The settings, as Hydra takes them.
        options: Options of Hydra, such as -m, and their values.
        sweeping: Whether there may be several runs.
        started: ``time.perf_counter()`` at the start of the command.

    Raises:
        ConfigError: Hydra could not start.
        Exception: That of a single run.
    """
    overrides = [*overrides, *search_path(parse_overrides(overrides))]
    failures: list[Exception] = []
    job = run_job if sweeping else _collecting(failures, started)
    try:
        if options:
            sys.argv = [sys.argv[0], *overrides, *options]  # an option may take what comes after it for its value
            with _composing_each_choice_once():
                hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
        else:  # `hydra.main` would compose the config twice, at first for hydra.mode alone
            with initialize_config_dir(str(CONF), "train", version_base="1.3"):
                single = GlobalHydra.instance().hydra
                assert single is not None
                single.run("config", job, [*overrides, "hydra.mode=RUN"])
    except OSError:  # Hydra writes its files before it calls the run
        if not sweeping and (folder := _folder_of_log()) is not None:
            _remove_if_unused(folder)
        raise
    except (LogregError, HydraException, OmegaConfBaseException):
        raise
    except Exception as error:  # of Hydra; those of runs are in `failures`, or in the folders of a sweep
        raise ConfigError(
            f"`hydra` must be set to what Hydra takes: {explain_hydra_error(error).rstrip('.')}."
        ) from error
    if failures:
        raise failures[0]


@contextmanager
def _composing_each_choice_once() -> Iterator[None]:
    """Has Hydra look for mistakes in one job of each combination of choices before a sweep, in place of all jobs.

    Jobs that differ in the values of other keys alone are composed alike.  Each is composed again when it runs, so that
    1,000 jobs would take twice their time, half of it before the first one.
    """
    validate = Sweeper.validate_batch_is_legal

    def validate_once(sweeper: Sweeper, batch: Sequence[Sequence[str]]) -> None:
        different = {tuple(filter(_is_choice, job)): job for job in batch}
        validate(sweeper, [*different.values()])

    Sweeper.validate_batch_is_legal = validate_once  # type: ignore[method-assign, assignment]  # for this sweep
    try:
        yield
    finally:
        Sweeper.validate_batch_is_legal = validate  # type: ignore[method-assign]  # as it was


def _is_choice(line: str) -> bool:
    """Whether an override decides which keys there are, as that of a group does, or is one of Hydra's own."""
    key = line.partition("=")[0].lstrip("+~")
    return key.startswith("hydra") or is_group(key.partition("@")[0])


def run_job(composed: DictConfig, started: float | None = None) -> float | None:
    """One run: a single one, or a job of a sweep, whose failure must not stop the others.

    Args:
        composed: The config as Hydra composed it.
        started: ``time.perf_counter()`` at the start of the command, for a single run.

    Returns:
        The score that ``select`` names, for sweepers of Hydra: cross-validated where ``cv`` is typed, else of val, or
        of train where there is no val split.
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
    except (LogregError, OSError):
        _remove_if_unused(folder)
        raise
    except (KeyboardInterrupt, Terminated) as stopped:
        _remove_if_unused(folder)
        if _is_first() and (folder / CHECKPOINTS / "last.ckpt").is_file():
            newest = latest_run(ROOT)
            is_newest = newest is not None and newest.resolve() == folder.resolve()
            own = [f"config_dir={composed.config_dir}"] if composed.config_dir else []
            resume = shell_line([f"ckpt_path={'latest' if is_newest else shown(folder)}", *own])
            stopped.args = (f"`{resume}` continues from the last epoch that was saved.",)
        raise


def _collecting(failures: list[Exception], started: float) -> Callable[[DictConfig], None]:
    """`run_job`, with its exceptions appended to ``failures``: Hydra would print another message first."""

    def job(composed: DictConfig) -> None:
        try:
            run_job(composed, started)
        except Exception as error:
            failures.append(error)

    return job


def _fit(composed: DictConfig, folder: Path, overrides: list[str], started: float | None) -> float:
    """Checks the config, imports torch, trains and shows the result; returns the score that ``select`` names."""
    config, placed = RunConfig.from_mapping(plain_config(composed)), placement()
    with importing_libraries():
        from logreg.processes import process_group
        from logreg.reports.console import print_summary
        from logreg.run.building import check_hardware, device_of
        from logreg.run.train import show_facts, train
        from logreg.training.callbacks import TrainingEnd

    check_hardware(config.accelerator, 1 if placed is None else placed.local_size)
    if config.facts == "only":
        show_facts(config)
        _remove_if_unused(folder)
        return 0.0
    single = HydraConfig.get().mode == RunMode.RUN
    if not single and not any(override.startswith("report=") for override in overrides):
        config = dataclasses.replace(config, report="brief")
    ending = TrainingEnd()
    resumes_itself = config.ckpt_path is not None and continues_in_place(Path(config.ckpt_path), folder)
    # In a sweep each job prints one line at its end.
    lines, is_newest = 5 if single else 0, single and not (folder.parent / "multirun.yaml").exists()
    unprinted: list[OSError] = []

    def show(summary: Summary) -> None:
        try:
            if single:
                print_summary(summary, terminal())
                sys.stdout.flush()
        except OSError as error:  # such as a reader of the output who has left; the report is still written
            unprinted.append(error)

    try:
        with ExitStack() as during:
            if placed is not None:
                during.enter_context(process_group(placed, device_of(config.accelerator).type == "cuda"))
            if _is_first():
                during.enter_context(locked_run_folder("ckpt_path" if resumes_itself else "hydra.run.dir", folder))
                during.enter_context(noted_for_restarts(folder))
            summary = train(config, folder, ROOT, is_newest, overrides, started, lines, callbacks=[ending], show=show)
    except OSError as error:
        if error.errno not in UNWRITABLE_ERRNOS or ending.epochs is None:
            raise
        last = shown(folder / CHECKPOINTS / "last.ckpt")
        raise ConfigError(
            f"`hydra.run.dir` must have room for the report, got {(error.strerror or str(error)).lower()}. Training is "
            f"finished, and {last} has its {ending.epochs} epochs. Make room, and type ckpt_path={last}."
        ) from error
    if unprinted:
        raise unprinted[0]
    return summary.metrics[summary.ranking_split][SELECT[config.select][0]]


def _is_first() -> bool:
    """Whether this process is alone or the first of several, and so has a folder to write into."""
    placed = placement()
    return placed is None or not placed.rank


def _folder_of_log() -> Path | None:
    """The folder of the log that Hydra has begun, which is that of the run; ``None`` before."""
    files = [handler.baseFilename for handler in logging.getLogger().handlers if isinstance(handler, FileHandler)]
    return Path(files[0]).parent if files else None


def _remove_if_unused(folder: Path) -> None:
    """Removes the folder of a run or a sweep that ended before it had saved anything."""
    if not _is_first() or not folder.is_dir() or not is_unused(folder):
        return
    with suppress(ConfigError), locked_run_folder("hydra.run.dir", folder):  # not that of a run which is under way
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
