"""A sweep that learns from its trials which values to try next: `scripts/sweep.py`."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir

from logreg.commands.command_line import ROOT, check_root, read_value, run_command, say_importing
from logreg.commands.overrides import (
    CONF,
    check_groups,
    implied_overrides,
    is_override,
    parse,
    resolved,
    with_backbone,
    with_overrides,
)
from logreg.config import SELECT, RunConfig
from logreg.constraints import Constraint, flag, optional, text, whole
from logreg.errors import ConfigError, LogregError, Terminated
from logreg.files import folder_name, shown, write_whole
from logreg.sweeps.search import RANGE_FORMS, Range, Search, sqlite_url
from logreg.sweeps.search import shown as shown_value
from logreg.terminal import on_one_line, terminal

if TYPE_CHECKING:
    from logreg.data import TensorDataModule

HELP = """\
Looks for the values that give the best score on val, and learns from each trial which ones to try next.

usage: python scripts/sweep.py 'search.KEY=RANGE' ... [trials=30] [key=value ...]

examples
  python scripts/sweep.py dataset=digits 'search.lr=log(1e-4,1)' 'search.l2=log(1e-8,1)' trials=30
  python scripts/sweep.py dataset=breast_cancer 'search.l2=log(1e-8,1)' 'search.l1=log(1e-8,1)'
  python scripts/sweep.py dataset=mnist optimizer=sgd 'search.batch_size=choice(32,128,512)' 'search.lr=log(1e-3,1)'

keys
  search.KEY             what to look for, a key of scripts/train.py: {forms}
  trials       20        how many in all: the same command typed again goes on where it stopped, by a kill too
  study        null      name of the sweep; null: the dataset and the keys, such as digits_l2_lr
  storage      null      URL of a database that several processes or machines share, each with the same command; null:
                         study.db in the folder of the sweep (which processes on one machine share as well)
  prune        true      breaks trials off that are behind half of the others
  select       log_loss  what is best: the lowest log-loss, or the highest accuracy or auroc, on val
  everything else is a key of scripts/train.py and holds for all trials

Trials run one after the other in this process and share its imports and its data.  The folder of the sweep, under
runs/sweeps, has a folder for each trial, results.csv, and figures/history.png and importance.png.  A grid is for
scripts/train.py -m.
""".replace("{forms}", RANGE_FORMS)

OWN: dict[str, tuple[Constraint, Any]] = {
    "trials": (whole(at_least=1), 20),
    "study": (optional(text()), None),
    "storage": (optional(text()), None),
    "prune": (flag(), True),
}

LOCK = ".lock"
"""Held in the folder of a sweep while it is made or removed."""

REFUSED = {
    "ckpt_path": "Each trial starts anew.",
    "facts": "Type scripts/train.py facts=only.",
    "seed": "",
}
"""Keys of scripts/train.py that cannot be searched or set, and why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/sweep.py``.

    Returns:
        Exit code: 0 done; 1 no trial came to an end; 2 a mistake that the user can mend; 130 stopped.
    """
    return run_command(HELP, _work, arguments)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was typed.

    Attributes:
        values: Of the own keys.
        ranges: What is searched.
        settings: What holds for all trials, as typed.
        config: The run, with a value of each range.
    """

    values: Mapping[str, Any]
    ranges: tuple[Range, ...]
    settings: tuple[str, ...]
    config: RunConfig

    def trial(self, values: Mapping[str, str]) -> RunConfig:
        """The config of one trial; Hydra, which takes a while, is asked only where a group is searched."""
        if any((CONF / key).is_dir() for key in values):
            return composed(self.settings, values)
        return with_overrides(self.config, parse([f"{key}={value}" for key, value in values.items()]))

    @property
    def study(self) -> str:
        """Its name."""
        if self.values["study"]:
            return str(self.values["study"])
        return "_".join([self.config.dataset["name"], *sorted(one.key.replace(".", "-") for one in self.ranges)])


def understood(typed: Sequence[str]) -> Plan:
    """What was typed, checked and composed.

    Raises:
        ConfigError: A key, a value or a range is at fault.
    """
    values = {key: default for key, (_, default) in OWN.items()}
    ranges: list[Range] = []
    settings: list[str] = []
    for argument in typed:
        if not is_override(argument) or argument.startswith("-"):
            raise ConfigError(f"`{argument}` must be written as key=value. `--help` lists the keys.")
        key, _, value = argument.partition("=")
        if key in OWN:
            values[key] = read_value(key, value, OWN[key][0])
        elif key.startswith("search."):
            ranges.append(Range.read(key.removeprefix("search."), value))
        elif REFUSED.get(key):
            raise ConfigError(f"`{key}` must not be set in a sweep. {REFUSED[key]}")
        else:
            settings.append(argument)
    if not ranges:
        raise ConfigError(f"`search.<key>` must say what to look for, such as 'search.lr=log(1e-4,1)': {RANGE_FORMS}.")
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
    first = {one.key: shown_value(one.ends[0]) for one in ranges}
    plan = Plan(values, tuple(ranges), tuple(settings), composed(settings, first))
    for one in ranges:
        for value in one.samples[1:]:  # a constraint that holds for one value and not for another is seen at once
            plan.trial(first | {one.key: shown_value(value)})
    if not isinstance(plan.config.l2, int | float) and plan.config.l2 != "auto":
        raise ConfigError("`l2` must be one number in a sweep. A path chooses for itself: scripts/train.py l2=path.")
    return plan


def composed(settings: Sequence[str], values: Mapping[str, str]) -> RunConfig:
    """The config of one trial."""
    overrides = parse(with_backbone([*settings, *(f"{key}={value}" for key, value in values.items())]))
    for override in overrides:
        if override.is_sweep_override():
            key = override.key_or_group
            raise ConfigError(f"`{key}` must be one value, or searched: search.{key}=choice(a,b).")
    check_groups(overrides)
    lines = [
        *implied_overrides({override.key_or_group for override in overrides}),
        *(one.input_line or "" for one in overrides),
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return RunConfig.from_mapping(resolved(compose("config", lines)))


def _work(typed: list[str]) -> int:
    plan = understood(typed)
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise ConfigError('`search` must have the package optuna: pip install -e ".[sweep]".')
    say_importing()
    from logreg.training.fast_import import import_lightning

    import_lightning()
    check_root(ROOT)
    folder = ROOT / "sweeps" / folder_name(plan.study)
    data = {_of_data(plan.config): _read(plan.config)}  # what is wrong with it is said before anything is made
    storage = plan.values["storage"] or sqlite_url(folder / "study.db")
    with _alone(folder):
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
        # A trial that is under way keeps others from taking the study back.
        asked = search.ask(plan.values["trials"])
    try:
        _run_trials(plan, search, folder, data, before, asked)
    except ConfigError:  # of all trials alike
        with _alone(folder):
            if not search.counted and not list(folder.rglob("summary.json")):
                search.forget()
                _remove(folder)
        raise
    except (KeyboardInterrupt, Terminated):
        _gather(plan, search, folder)
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return _gather(plan, search, folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The folder of a sweep, which is there within and which no other process makes or removes."""
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
    """Takes the folder of a sweep back, and those above it that were made for it."""
    shutil.rmtree(folder)
    with suppress(OSError):  # there are others
        folder.parent.rmdir()
        ROOT.rmdir()


def _of_data(config: RunConfig) -> str:
    """What two configs have in common whose rows are the same."""
    return json.dumps([dict(config.dataset), dict(config.backbone), config.seed, config.precision], sort_keys=True)


def _read(config: RunConfig) -> TensorDataModule:
    """The rows of a trial.

    Raises:
        LogregError: There is something wrong with them, or none are held out for val.
    """
    from logreg.run.building import build_data
    from logreg.run.choosing_l2 import check_select

    data = build_data(config)
    data.setup()
    if "val" not in data.splits:
        advice = "Set dataset.split.val=0.2." if "split" in config.dataset else "Choose another dataset."
        raise ConfigError(f"`search` must have a val split to choose by. {advice}")
    check_select(config, data)
    return data


def _run_trials(
    plan: Plan,
    search: Search,
    folder: Path,
    data: dict[str, TensorDataModule],
    before: int,
    asked: tuple[Any, dict[str, Any]] | None,
) -> None:
    """Runs the trial that was asked for, and all that are left."""
    total = plan.values["trials"]
    if before:
        print(f"{plan.study}: going on from {before} of {total} trials", file=sys.stderr)
    with _bar(total, before, plan.study, SELECT[plan.config.select][0]) as tell:
        while asked is not None:
            trial, values = asked
            typed = {key: shown_value(value) for key, value in values.items()}
            name = folder_name("_".join([str(trial.number), *(f"{key}-{value}" for key, value in typed.items())]))
            words = _trial(plan, search, trial, typed, folder / name, data)
            tell(len(search.counted), search.best, f"trial {trial.number}: {words}")
            asked = search.ask(total)


def _trial(
    plan: Plan, search: Search, trial: Any, typed: Mapping[str, str], folder: Path, shared: dict[str, TensorDataModule]
) -> str:
    """One run; returns what came of it in words."""
    from logreg.run.building import build_data
    from logreg.run.train import train
    from logreg.training.pruning import Pruned, Pruning

    said = " ".join(f"{key}={value}" for key, value in typed.items())
    config = dataclasses.replace(plan.trial(typed), report="brief")
    name, _ = SELECT[config.select]
    overrides = [*plan.settings, *(f"{key}={value}" for key, value in typed.items())]
    try:
        data = build_data(config)
        data.adopt_rows_of(shared.setdefault(_of_data(config), data))
        callbacks = [Pruning(trial, name)]
        summary = train(config, folder, ROOT, False, overrides, progress_lines=0, data=data, callbacks=callbacks)
    except Pruned as pruned:
        _note(folder, "pruned", overrides, {"metrics": {"val": {name: pruned.score}}, "epochs": pruned.epoch})
        search.pruned(trial, shown(folder))
        return f"{said}: pruned after epoch {pruned.epoch}, {name}/val {pruned.score:.4f}"
    except ConfigError:
        search.dropped(trial)
        raise
    except Exception as error:
        line = str(error) if isinstance(error, LogregError) else f"{type(error).__name__}: {error}"
        details = line if isinstance(error, LogregError) else "".join(traceback.format_exception(error))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.log").write_text(details + "\n", encoding="utf-8")
        _note(folder, "failed", overrides, {"metrics": {}, "error": line})
        search.failed(trial, line)
        return f"{said}: failed: {line}"
    score = summary.metrics["val"][name]
    search.finished(trial, score, shown(folder))
    return f"{said}: {name}/val {score:.4f}"


def _note(folder: Path, status: str, overrides: Sequence[str], more: Mapping[str, Any]) -> None:
    plain = {"status": status, "overrides": list(overrides), **more}
    write_whole(folder / "summary.json", lambda file: file.write((json.dumps(plain, indent=2) + "\n").encode()))


def _gather(plan: Plan, search: Search, folder: Path) -> int:
    """The table, the pictures, and how to have the best run again."""
    from logreg.sweeps.results import draw_search, gather

    if search.best is not None:
        name, sign = SELECT[plan.config.select]
        files = draw_search(folder, plan.study, search.history, search.importance(), name, sign)
        print(f"pictures: {' '.join(map(shown, files))}")
    # One that was killed at its end has a summary, and was tried again.
    gather(folder, {str(trial.number) for trial in search.counted})
    return 0 if search.best is not None else 1


@contextmanager
def _bar(total: int, before: int, label: str, name: str) -> Iterator[Callable[[int, Any, str], None]]:
    """Progress: a bar on a terminal, a line for each trial elsewhere."""

    def of_best(best: Any) -> str:
        return "" if best is None else f"best {name}/val {best[0]:.4f}"

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
