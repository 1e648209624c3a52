"""A tuned sweep: proposes trials, and keeps them in a storage, so that a killed sweep continues where it stopped."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.errors import ConfigError
from logreg.sweeps.storage import explained, open_storage, storage_errors

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


RANGE_FORMS = "log(1e-4,1), uniform(0,1), int(1,100) or choice(a,b,c)"
"""The ways to write a range, for messages."""

OPEN_ATTEMPTS = 10
"""Number of attempts to open a database that another process is creating."""

BEING_CREATED = re.compile("already exists|unique|duplicate|locked", re.IGNORECASE)
"""Errors of a database whose tables another process is creating at the same moment."""

BEAT_S = 10.0
"""Seconds between two signs of life of a running trial."""

SILENT_S = 60.0
"""Seconds without a sign of life after which a trial counts as killed: some beats may be late, the clock is ours."""

RANDOM_TRIALS = 10
"""Number of trials that are drawn at random before the sampler models the scores."""


@dataclass(frozen=True)
class Range:
    """Values that a key may take.

    Attributes:
        key: Key as a user types it, such as "lr".
        kind: log, uniform, int or choice.
        ends: Smallest and largest; of a choice, its values.
    """

    key: str
    kind: str
    ends: tuple[Any, ...]

    @classmethod
    def read(cls, key: str, text: str) -> Range:
        """Parses a range as typed, such as ``log(1e-4,1)``.

        Raises:
            ConfigError: The text has another form, the range is empty, or not positive under log.
        """
        typed = f"search.{key}"
        found = re.fullmatch(r"\s*(log|uniform|int|choice)\((.*)\)\s*", text)
        parts = [part.strip() for part in found[2].split(",")] if found else []
        if found is None or not all(parts):
            raise ConfigError.broken(typed, f"be written as {RANGE_FORMS}", text)
        kind = found[1]
        if kind == "choice":
            if len(set(parts)) < len(parts):
                raise ConfigError.broken(typed, "name each choice once", text)
            return cls(key, kind, tuple(parts))
        try:
            ends = tuple((int if kind == "int" else float)(part) for part in parts)
        except ValueError:
            ends = ()
        if len(ends) != 2 or not ends[0] < ends[1] or abs(ends[0]) == float("inf") or abs(ends[1]) == float("inf"):
            what = "whole numbers" if kind == "int" else "numbers"
            raise ConfigError.broken(typed, f"have two {what}, the smaller one first", text)
        if kind == "log" and ends[0] <= 0:
            raise ConfigError.broken(typed, "begin above 0, since it is drawn on a log scale", text)
        return cls(key, kind, ends)

    @property
    def text(self) -> str:
        """The range in its canonical form, the same for equal ranges."""
        return f"{self.kind}({','.join(f'{end:g}' if isinstance(end, float) else str(end) for end in self.ends)})"

    @property
    def samples(self) -> tuple[Any, ...]:
        """Its ends, and a value between them where it is continuous."""
        if self.kind in ("log", "uniform"):
            return (*self.ends, 0.61803 * self.ends[0] + 0.38197 * self.ends[1])
        return self.ends

    def distribution(self) -> BaseDistribution:
        """The range as a distribution of Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(self.ends)
        low, high = self.ends
        return (
            IntDistribution(low, high) if self.kind == "int" else FloatDistribution(low, high, log=self.kind == "log")
        )


def shown_value(value: Any) -> str:
    """A value as a user would type it, with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Search:
    """A study in a storage, which several processes and machines may share.

    Trials that have ended and trials that are running count toward the total; a trial that was killed does not.  Each
    trial has the smallest place in the sequence of draws that no trial before it has, and its values depend on the
    seed, the place, and the trials that have ended.  So a killed sweep that continues makes the same trials as one that
    was never killed, and processes that ask at the same moment get different ones.

    A process of this machine that was killed is known by its number.  That of another machine is known by its silence:
    a running trial gives a sign of life every ``BEAT_S`` seconds, and fails where none comes for ``SILENT_S`` seconds
    on the clock of the process that waits for it, so that the clocks of machines need not agree.  (Optuna's own
    heartbeat is for databases and `Study.optimize` alone.)
    """

    def __init__(
        self,
        name: str,
        storage: str,
        ranges: Sequence[Range],
        settings: Sequence[str],
        seed: int,
        prune: bool,
        sign: int = -1,
    ) -> None:
        """Opens the study, or creates it.

        Args:
            name: Name of the study.
            storage: URL of a database, or path of a journal file.
            ranges: The values to search.
            settings: All other settings as typed; a study continues only with the same ones.
            seed: Seed of the sampler.
            prune: Whether trials that fall behind are stopped.
            sign: 1 where a higher score is better, else -1.

        Raises:
            ConfigError: The study searched something else, or the storage cannot be opened.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.ranges, self.seed = {one.key: one for one in ranges}, seed
        self._beats: dict[int, tuple[int, float]] = {}
        pruner: Any = optuna.pruners.NopPruner()
        if prune:
            # The first epochs favor large learning rates, also those that end badly.
            pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3)
        unusable: tuple[type[Exception], ...] = (
            *(*storage_errors(), optuna.exceptions.OptunaError),
            *(ValueError, ImportError, AssertionError),
        )
        for attempt in range(OPEN_ATTEMPTS):
            try:
                self.study: Study = optuna.create_study(
                    storage=open_storage(storage),
                    study_name=name,
                    load_if_exists=True,
                    direction="minimize" if sign < 0 else "maximize",
                    pruner=pruner,
                )
                break
            except ConfigError:
                raise
            except unusable as error:
                # Its tables may be half created by another process.
                if (
                    isinstance(error, storage_errors())
                    and BEING_CREATED.search(str(error))
                    and attempt < OPEN_ATTEMPTS - 1
                ):
                    time.sleep(0.5)
                    continue
                raise explained(storage, error) from error
        wanted = {"search": {one.key: one.text for one in ranges}, "settings": sorted(settings), "seed": seed}
        known = self.study.user_attrs.get("logreg")
        if known is None:
            self.study.set_user_attr("logreg", wanted)
        elif known != wanted:
            _refuse(name, known, wanted)
        self._distributions = {one.key: one.distribution() for one in ranges}

    @property
    def is_empty(self) -> bool:
        """Whether no trial was ever begun."""
        return not self.study.get_trials(deepcopy=False)

    @property
    def counted(self) -> list[FrozenTrial]:
        """The trials that count, in the order of their numbers."""
        from optuna.trial import TrialState

        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state != TrialState.WAITING
            and "surplus" not in trial.user_attrs
            and (trial.state != TrialState.FAIL or "error" in trial.user_attrs)
        ]

    def fail_killed_trials(self) -> int:
        """Fails running trials whose process has died; returns their number."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        gone, now, machine = 0, time.monotonic(), _machine()
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            beat = int(trial.user_attrs.get("beat", 0))
            if self._beats.get(trial.number, (-1, now))[0] != beat:
                self._beats[trial.number] = beat, now
            is_silent = now - self._beats[trial.number][1] > SILENT_S
            host, pid = trial.user_attrs.get("host"), trial.user_attrs.get("pid")
            if is_silent or (host == machine and pid is not None and not _is_alive(int(pid))):
                with suppress(ValueError, UpdateFinishedTrialError):  # another process was quicker
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    gone += 1
        return gone

    @contextmanager
    def alive(self, trial: Trial) -> Iterator[None]:
        """Gives signs of life of a trial until the end of the block."""
        ended = threading.Event()

        def beat() -> None:
            for number in count(1):
                if ended.wait(BEAT_S):
                    return
                with suppress(Exception):  # what is wrong with the storage is told by the trial's own calls
                    trial.set_user_attr("beat", number)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def ask(self, total: int) -> tuple[Trial, dict[str, Any]] | None:
        """The next trial and its values; ``None`` where ``total`` trials count already."""
        import optuna
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        self.fail_killed_trials()
        if len(self.counted) >= total:
            return None
        trial_id = self._begin()
        number = self.study._storage.get_trial_number_from_id(trial_id)
        ahead = [other for other in self.counted if other.number < number]
        if len(ahead) >= total:  # another process took the last one at the same moment
            self.study._storage.set_trial_user_attr(trial_id, "surplus", True)
            self.study.tell(number, state=TrialState.FAIL)
            return None
        taken: set[int] = set()
        for other in ahead:  # one that begins at this moment will find the same place for itself
            taken.add(other.user_attrs.get("place", _smallest_not_in(taken)))
        place = _smallest_not_in(taken)
        self.study._storage.set_trial_user_attr(trial_id, "place", place)
        digest = hashlib.sha256(f"{self.seed} {place}".encode()).digest()
        self.study.sampler = TPESampler(
            n_startup_trials=RANDOM_TRIALS, seed=int.from_bytes(digest[:4], "big"), constant_liar=True
        )
        trial = optuna.trial.Trial(self.study, trial_id)
        return trial, {key: trial._suggest(key, kind) for key, kind in self._distributions.items()}

    def awaited(self, total: int) -> int:
        """Number of the first ``total`` trials that are running, in other processes where this one runs none."""
        from optuna.trial import TrialState

        return sum(trial.state == TrialState.RUNNING for trial in self.counted[:total])

    def _begin(self) -> int:
        """Makes a trial that has its process in the storage from its first moment; returns its id."""
        import optuna

        owner = {"host": _machine(), "pid": os.getpid()}
        template = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=owner)
        return self.study._storage.create_new_trial(self.study._study_id, template_trial=template)

    def finished(self, trial: Trial, score: float, folder: str) -> None:
        """Records the score of a trial."""
        trial.set_user_attr("folder", folder)
        self.study.tell(trial, score)

    def pruned(self, trial: Trial, folder: str) -> None:
        """Records that a trial was pruned."""
        from optuna.trial import TrialState

        trial.set_user_attr("folder", folder)
        self.study.tell(trial, state=TrialState.PRUNED)

    def failed(self, trial: Trial, error: str) -> None:
        """Records that a trial failed, with its error."""
        from optuna.trial import TrialState

        trial.set_user_attr("error", error)
        self.study.tell(trial, state=TrialState.FAIL)

    def dropped(self, trial: Trial) -> None:
        """Records that a trial failed and does not count."""
        from optuna.trial import TrialState

        self.study.tell(trial, state=TrialState.FAIL)

    def forget(self) -> None:
        """Deletes the study, which has no trials."""
        import optuna

        optuna.delete_study(study_name=self.study.study_name, storage=self.study._storage)

    def close(self) -> None:
        """Closes the connections to the storage."""
        held = self.study._storage
        held.remove_session()
        engine = getattr(getattr(held, "_backend", None), "engine", None)  # a journal file has none
        if engine is not None:
            engine.dispose()

    @property
    def best(self) -> tuple[float, Mapping[str, Any]] | None:
        """The best score and its values; ``None`` before a trial has a score."""
        with suppress(ValueError):
            return self.study.best_value, self.study.best_params
        return None

    @property
    def history(self) -> list[tuple[str, float | None]]:
        """State and score of the trials that have ended, in the order of their numbers."""
        from optuna.trial import TrialState

        return [
            (trial.state.name.lower(), trial.value if trial.state == TrialState.COMPLETE else None)
            for trial in self.counted
            if trial.state != TrialState.RUNNING
        ]

    def importance(self) -> dict[str, float]:
        """Share of the variance of the scores that each key explains, largest first; empty where it is not known.

        References:
            Hutter, Hoos and Leyton-Brown (2014), An efficient approach for assessing hyperparameter importance: fANOVA.
        """
        import optuna

        if len(self.ranges) < 2:
            return {}
        with suppress(ValueError, RuntimeError):
            return optuna.importance.get_param_importances(
                self.study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
            )
        return {}


def _refuse(name: str, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    what = next(key for key in wanted if known.get(key) != wanted[key])
    texts = {key: _listed(value[what]) for key, value in (("known", known), ("wanted", wanted))}
    key = "search" if what == "search" else "study"
    raise ConfigError(
        f"`{key}` must continue {name} as it began: its {what} {texts['known']}, got {texts['wanted']}. "
        "Type the same again, or begin another one with study=NAME."
    )


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={text}" for key, text in value.items())
    return " ".join(value) or "nothing" if isinstance(value, list) else f"is {value}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _machine() -> str:
    """The machine, or the container of it, whose processes can be seen from here by their numbers."""
    with suppress(OSError):  # containers may have one host name, each with processes of its own
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def _smallest_not_in(taken: set[int]) -> int:
    return next(number for number in count() if number not in taken)
