"""`scripts/sweep.py`: a search that learns from its trials which values to try next."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.commands.command_line import (
    ROOT,
    check_root,
    importing_libraries,
    parse_arguments,
    run_command,
    with_home,
)
from logreg.commands.config_files import is_group
from logreg.commands.overrides import (
    apply_overrides,
    check_groups,
    composed_config,
    expand_backbone,
    implied_overrides,
    parse_overrides,
    rows_for_folds,
    write_overrides,
)
from logreg.config import SELECT, SETTINGS, RunConfig, is_path
from logreg.constraints import flag, optional, text, whole
from logreg.errors import ConfigError, LogregError, Terminated, shell_line
from logreg.files import folder_name, shown, write_text
from logreg.invocation import command_words
from logreg.settings import Setting, help_lines
from logreg.sweeps.search import RANGE_FORMS, Range, Search, shown_value
from logreg.sweeps.storage import check_storage, explained, sqlite_url, storage_errors
from logreg.terminal import on_one_line, terminal

if TYPE_CHECKING:
    from logreg.data import TensorDataModule

OWN = {
    "trials": Setting(
        20,
        whole(at_least=1),
        "number of trials in all: the same command typed again continues where it stopped, also after a kill",
    ),
    "study": Setting(None, optional(text()), "name of the sweep; null: the dataset and the keys, such as digits_l2_lr"),
    "storage": Setting(
        None,
        optional(text()),
        "what several machines share, each with the same command: the URL of a database, such as "
        "postgresql://user@host/name, or a journal file in a shared folder (.log or .journal); null: study.db in the "
        "folder of the sweep, which processes on one machine share",
    ),
    "prune": Setting(True, flag(), "stops trials that are behind half of the others"),
}
"""The keys of this command alone."""

LOCK = ".lock"
"""The file, in the folder of a sweep, that is locked while the folder is made or removed."""

POLL_S = 1.0
"""Seconds between two looks at the trials of other processes, when none is left for this one."""

REFUSED = {
    "ckpt_path": "Each trial starts from scratch.",
    "facts": "Type scripts/train.py facts=only.",
    "seed": "",
}
"""Keys of ``scripts/train.py`` that cannot be searched; those with a reason cannot be set either."""


def help_text() -> str:
    """The text of ``--help``."""
    searched = Setting(None, text(), f"the values of a key of scripts/train.py: {RANGE_FORMS}", shown="")
    return f"""\
Searches for the values that give the best score, on val or by cross-validation (cv=5), and learns from each trial
which ones to try next.

usage: python scripts/sweep.py 'search.KEY=RANGE' ... [trials=30] [key=value ...]

examples
  python scripts/sweep.py dataset=digits 'search.lr=log(1e-4,1)' 'search.l2=log(1e-8,1)' trials=30
  python scripts/sweep.py dataset=breast_cancer 'search.l2=log(1e-8,1)' 'search.l1=log(1e-8,1)'
  python scripts/sweep.py dataset=mnist optimizer=sgd 'search.batch_size=choice(32,128,512)' 'search.lr=log(1e-3,1)'

keys
{help_lines({"search.KEY": searched, **OWN, "select": SETTINGS["select"]})}
  every other key is one of scripts/train.py and holds for all trials

Trials run one after the other in this process and share its imports and its data.  The folder of the sweep, under
runs/sweeps, has a folder for each trial, results.csv, and figures/history.png and importance.png.  A grid is for
scripts/train.py -m.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/sweep.py``.

    Args:
        arguments: The words after the command's name; ``sys.argv`` when ``None``.

    Returns:
        Exit code: that of `run_command`; 1 where no trial was finished.
    """
    return run_command(help_text, _run, arguments)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep as it was typed.

    Attributes:
        values: Values of the keys of this command alone.
        ranges: The ranges of the searched keys.
        settings: Settings of all trials, as typed.
        config: The run, with a value of each range.
    """

    values: Mapping[str, Any]
    ranges: tuple[Range, ...]
    settings: tuple[str, ...]
    config: RunConfig

    def trial(self, values: Mapping[str, str]) -> RunConfig:
        """The config of one trial; Hydra composes it, which takes a while, only where a group is searched."""
        if any(map(is_group, values)):
            return composed_config(trial_overrides(self.settings, values))
        return apply_overrides(self.config, parse_overrides([f"{key}={value}" for key, value in values.items()]))

    @property
    def score(self) -> str:
        """The score that the sweep improves, such as "loss/val"; of a cross-validation "loss/cv"."""
        return f"{SELECT[self.config.select][0]}/{'val' if self.config.cv is None else 'cv'}"

    @property
    def study(self) -> str:
        """The name of the study."""
        if self.values["study"]:
            return str(self.values["study"])
        return "_".join([self.config.dataset["name"], *sorted(one.key.replace(".", "-") for one in self.ranges)])


def parse_plan(arguments: Sequence[str]) -> Plan:
    """The typed request, checked and composed.

    Raises:
        ConfigError: A key, a value or a range is not allowed.
    """
    typed = parse_arguments(arguments, "sweep", OWN, takes_more=True)
    values = typed.values
    ranges: list[Range] = []
    settings: list[str] = []
    for argument in map(with_home, typed.free):
        key, _, value = argument.partition("=")
        if key.startswith("search."):
            ranges.append(Range.read(key.removeprefix("search."), value))
        elif REFUSED.get(key):
            raise ConfigError(f"`{key}` must not be set in a sweep. {REFUSED[key]}")
        else:
            settings.append(argument)
    if not ranges:
        raise ConfigError(f"`search.<key>` must name what to search, such as 'search.lr=log(1e-4,1)': {RANGE_FORMS}.")
    keys = [one.key for one in ranges]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"`search.{key}` must be typed once.")
        if key in (*REFUSED, "dataset", "experiment", "select"):
            raise ConfigError(f"`search.{key}` must be a key that makes a model better or worse on the same rows.")
        if any(setting.partition("=")[0] == key for setting in settings):
            raise ConfigError(f"`{key}` must be searched or set, not both.")
    if values["study"] is not None and not re.fullmatch(r"[\w.-]+", values["study"]):
        raise ConfigError.broken("study", "be made of letters, digits and -_.", values["study"])
    if values["study"] is not None and values["study"][0] in ".-":
        raise ConfigError.broken("study", "begin with a letter or a digit", values["study"])
    if values["storage"] is not None:
        check_storage(values["storage"])
    first = {one.key: shown_value(one.ends[0]) for one in ranges}
    plan = Plan(values, tuple(ranges), tuple(settings), composed_config(trial_overrides(settings, first)))
    for one in ranges:
        for value in one.samples[1:]:  # a mistake at any end of a range is reported before the first trial
            plan.trial(first | {one.key: shown_value(value)})
    if is_path(plan.config.l1):
        raise ConfigError("`l1` must be one number in a sweep. A path chooses for itself: scripts/train.py l1=path.")
    if plan.config.l2_path is not None:
        has_own_key = "l2_path" in keys or any(setting.partition("=")[0] == "l2_path" for setting in settings)
        mistake = "`l2_path` must be null" if has_own_key else "`l2` must be one number"
        raise ConfigError(f"{mistake} in a sweep. A path chooses for itself: scripts/train.py l2=path.")
    return plan


def trial_overrides(settings: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The overrides of one trial, as a run of its own would have them.

    Args:
        settings: Settings of all trials.
        values: The values of the keys that are searched, as typed.

    Raises:
        ConfigError: A key or a value is at fault.
    """
    overrides = parse_overrides(expand_backbone([*settings, *(f"{key}={value}" for key, value in values.items())]))
    for override in overrides:
        if override.is_sweep_override():
            key = override.key_or_group
            raise ConfigError(f"`{key}` must be one value, or searched: search.{key}=choice(a,b).")
    check_groups(overrides)
    implied = implied_overrides({override.key_or_group for override in overrides}) + rows_for_folds(overrides)
    return [*implied, *(one.input_line or "" for one in overrides)]


def _run(arguments: list[str]) -> int:
    plan = parse_plan(arguments)
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise ConfigError("`search` must have the package optuna: pip install optuna.")
    with importing_libraries():
        from logreg.reports.fast_matplotlib import import_matplotlib

        import_matplotlib()
        import logreg.reports.figures  # after SIGTERM there is time to draw, but not to import matplotlib
        import logreg.run.train  # noqa: F401  # for its effect: trials find it
    check_root(ROOT)
    folder = ROOT / "sweeps" / folder_name(plan.study)
    data = {_data_key(plan.config): _read(plan.config)}  # a mistake in the data is reported before anything is made
    storage = plan.values["storage"] or sqlite_url(folder / "study.db")
    with _locked(folder):
        is_new = [path.name for path in folder.iterdir()] == [LOCK]
        try:
            prune, (_, sign) = plan.values["prune"], SELECT[plan.config.select]
            search = Search(plan.study, storage, plan.ranges, plan.settings, plan.config.seed, prune, sign)
        except ConfigError:
            if is_new:
                _remove(folder)
            raise
        search.fail_killed_trials()
        before = len(search.counted)
        if search.is_empty and any(folder.glob("*/summary.json")):
            search.forget()
            raise ConfigError(
                f"`study` must be a new name, since the storage has no trial of {plan.study} and {shown(folder)} has "
                "some. Type the storage of these, or study=NAME."
            )
        # A running trial keeps other processes from removing the study.
        request = search.ask(plan.values["trials"])
    with closing(search):
        return _run_search(plan, search, folder, data, before, request, storage)


def _run_search(
    plan: Plan,
    search: Search,
    folder: Path,
    data: dict[str, TensorDataModule],
    before: int,
    request: tuple[Any, dict[str, Any]] | None,
    storage: str,
) -> int:
    """Runs the trials and gathers their results; returns the exit code.

    Raises:
        ConfigError: A mistake of all trials alike, or the storage is lost.
    """
    try:
        _run_trials(plan, search, folder, data, before, request)
    except storage_errors() as error:
        raise explained(storage, error, "The same command continues from here.") from error
    except ConfigError:  # a mistake of all trials alike
        with _locked(folder):
            if not search.counted and not list(folder.rglob("summary.json")):
                search.forget()
                _remove(folder)
        raise
    except (KeyboardInterrupt, Terminated):
        _gather(plan, search, folder)
        print("Stopped. The same command continues from here.", file=sys.stderr)
        return 130
    return _gather(plan, search, folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes the folder of a sweep, and keeps other processes from making or removing it meanwhile."""
    from filelock import FileLock

    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # another process took the folder above back at this moment
            continue
        with FileLock(folder / LOCK):
            if not (folder / LOCK).exists():  # while this one waited, another removed it
                continue
            yield
            return


def _remove(folder: Path) -> None:
    """Removes the folder of a sweep, and those above it that were made for it."""
    shutil.rmtree(folder)
    with suppress(OSError):  # there are others
        folder.parent.rmdir()
        ROOT.rmdir()


def _data_key(config: RunConfig) -> str:
    """Equal for two configs whose rows are the same."""
    return json.dumps([dict(config.dataset), dict(config.backbone), config.seed, config.precision], sort_keys=True)


def _read(config: RunConfig) -> TensorDataModule:
    """Reads the rows of a trial.

    Raises:
        LogregError: A mistake in the data, no val split and no cross-validation, or too few rows for its folds.
    """
    from logreg.run.building import build_data
    from logreg.run.choosing_strength import check_select
    from logreg.run.cross_validating import make_folds

    data = build_data(config)
    data.setup()
    if config.cv is not None:
        make_folds(data, config.cv, config.cv_repeats, config.seed)
    elif "val" not in data.splits:
        advice = "Set dataset.split.val=0.2, or cv=5." if config.takes_split else "Choose another dataset."
        raise ConfigError(f"`search` must have a val split to choose by. {advice}")
    check_select(config, data)
    return data


def _run_trials(
    plan: Plan,
    search: Search,
    folder: Path,
    data: dict[str, TensorDataModule],
    before: int,
    request: tuple[Any, dict[str, Any]] | None,
) -> None:
    """Runs the trial that was requested, and all that are left; waits for those that other processes run."""
    from optuna.exceptions import UpdateFinishedTrialError

    total, is_waiting = plan.values["trials"], False
    if before:
        print(f"{plan.study}: continuing from {before} of {total} trials", file=sys.stderr)
    with _progress(total, before, plan.study, plan.score) as report:
        while request is not None or (awaited := search.awaited(total)):
            if request is not None:
                trial, values = request
                typed = {key: shown_value(value) for key, value in values.items()}
                name = folder_name("_".join([str(trial.number), *(f"{key}-{value}" for key, value in typed.items())]))
                try:
                    with search.alive(trial):
                        outcome = _trial(plan, search, trial, typed, folder / name, data)
                except UpdateFinishedTrialError:  # this process was suspended, or far from the storage
                    outcome = "another process took it for killed, and makes it again"
                report(len(search.counted), search.best, f"trial {trial.number}: {outcome}")
            else:
                if not is_waiting:
                    print(f"{plan.study}: waiting for {awaited} trials of other processes", file=sys.stderr)
                    is_waiting = True
                time.sleep(POLL_S)
            request = search.ask(total)


def _trial(
    plan: Plan, search: Search, trial: Any, typed: Mapping[str, str], folder: Path, shared: dict[str, TensorDataModule]
) -> str:
    """Runs one trial; returns its outcome in words."""
    from optuna.exceptions import UpdateFinishedTrialError

    from logreg.run.building import build_data
    from logreg.run.train import train
    from logreg.training.pruning import Pruned, Pruning

    values = " ".join(f"{key}={value}" for key, value in typed.items())
    config = dataclasses.replace(plan.trial(typed), report="brief")
    name, _ = SELECT[config.select]
    overrides = [*plan.settings, *(f"{key}={value}" for key, value in typed.items())]
    try:
        write_overrides(folder, trial_overrides(plan.settings, typed))
        data = build_data(config)
        data.adopt_rows_of(shared.setdefault(_data_key(config), data))
        callbacks = [Pruning(trial, name)]
        summary = train(config, folder, ROOT, False, overrides, progress_lines=0, data=data, callbacks=callbacks)
    except Pruned as pruned:
        reached = {"metrics": {"val": {name: pruned.score}}, "epochs": pruned.epoch}
        _write_unfinished(folder, "pruned", overrides, reached)
        search.pruned(trial, shown(folder))
        return f"{values}: pruned after epoch {pruned.epoch}, {name}/val {pruned.score:.4f}"
    except (ConfigError, KeyboardInterrupt, Terminated):
        search.dropped(trial)
        raise
    except storage_errors():
        raise
    except UpdateFinishedTrialError:
        raise
    except Exception as error:
        line = str(error) if isinstance(error, LogregError) else f"{type(error).__name__}: {error}"
        details = line if isinstance(error, LogregError) else "".join(traceback.format_exception(error))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.log").write_text(details + "\n", encoding="utf-8")
        _write_unfinished(folder, "failed", overrides, {"metrics": {}, "error": line})
        search.failed(trial, line)
        return f"{values}: failed: {line}"
    score = summary.metrics[summary.ranking_split][name]
    search.finished(trial, score, shown(folder))
    return f"{values}: {plan.score} {score:.4f}"


def _write_unfinished(folder: Path, status: str, overrides: Sequence[str], more: Mapping[str, Any]) -> None:
    plain = {"status": status, "overrides": list(overrides), **more}
    write_text(folder / "summary.json", json.dumps(plain, indent=2) + "\n")


def _gather(plan: Plan, search: Search, folder: Path) -> int:
    """Prints the table and the command of the best run, and draws the pictures; returns the exit code."""
    from logreg.sweeps.results import draw_search, gather

    if search.best is not None:
        _, sign = SELECT[plan.config.select]
        files = draw_search(folder, plan.study, search.history, search.importance(), plan.score, sign)
        print(f"pictures: {' '.join(map(shown, files))}")
    # A trial that was killed after its summary was written has been tried again.
    numbers = {str(trial.number) for trial in search.counted}
    gather(folder, numbers)
    elsewhere = numbers - {path.parent.name.partition("_")[0] for path in folder.glob("*/summary.json")}
    if elsewhere and search.best is not None:
        score, values = search.best
        settings = [*plan.settings, *(f"{key}={shown_value(value)}" for key, value in values.items())]
        print(f"{len(elsewhere)} of {len(numbers)} trials have their folders on other machines")
        best = shell_line([*command_words("train"), *settings])
        print(on_one_line(f"best of all machines, {plan.score} {score:.4f}: {best}"))
    return 0 if search.best is not None else 1


@contextmanager
def _progress(total: int, before: int, label: str, score: str) -> Iterator[Callable[[int, Any, str], None]]:
    """Yields a function that shows progress: as a bar on a terminal, else as a line for each trial."""

    def of_best(best: Any) -> str:
        return "" if best is None else f"best {score} {best[0]:.4f}"

    if not sys.stderr.isatty():
        yield lambda done, best, words: print(
            on_one_line(f"{label}: {done}/{total} {words}; {of_best(best)}"), file=sys.stderr, flush=True
        )
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        *(TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn()),
        *(TextColumn("{task.fields[best]}"), TimeRemainingColumn()),
    )
    with Progress(*columns, console=terminal(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, completed=before, best="")
        yield lambda done, best, words: bar.update(task, completed=done, best=of_best(best))
