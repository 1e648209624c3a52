"""What happens beside the training: checkpoints that a kill cannot break, and a sign of life."""

from __future__ import annotations

import copy
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint, Timer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from logreg.calibration import Calibration
from logreg.folder import CHECKPOINTS, run_folder_of, write_whole
from logreg.module import LogisticModule
from logreg.terminal import on_one_line, terminal
from logreg.tracking import RunLogger
from logreg.trained import Trained, read_checkpoint


class HeldCheckpointIO(TorchCheckpointIO):
    """Holds the newest state of each file in memory until ``flush`` writes it, whole or not at all.

    An epoch of a small table takes a millisecond, a file takes longer.
    """

    def __init__(self) -> None:
        self._held: dict[Path, dict[str, Any]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """As Lightning calls it.  Copies: the parameters will move on."""
        self._held[Path(path)] = copy.deepcopy(checkpoint)

    def flush(self) -> None:
        """Writes what is held."""
        for path, checkpoint in self._held.items():
            write_whole(path, lambda file, checkpoint=checkpoint: torch.save(checkpoint, file))  # type: ignore[misc]
        self._held.clear()


class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt`` and ``best.ckpt`` in the run folder's ``checkpoints``.

    ``best`` has the lowest loss/val so far; without a val split there is nothing to choose by and
    it equals ``last``.  Both are written after the first epoch, then whenever ``every_s`` seconds
    have gone, and after the last.
    """

    def __init__(
        self,
        folder: Path,
        io: HeldCheckpointIO,
        when_saved: Callable[[], None] | None = None,
        every_s: float = 2.0,
        config: Mapping[str, Any] | None = None,
        path: dict[str, Any] | None = None,
    ) -> None:
        """Nothing is written yet.

        Args:
            folder: The run folder.
            io: Holds and writes the files; the Trainer must have it as a plugin.
            when_saved: Is called each time that both files are on disk.
            every_s: Seconds between two times.
            config: Of the run, as plain values: with it the checkpoint says which data it is of.
            path: What was asked of l2 and the regularisation path that it was chosen from, as plain values.
        """
        self.config, self.path = config, path
        self.folder, self.io, self.when_saved, self.every_s = folder / CHECKPOINTS, io, when_saved, every_s
        self.best: dict[str, float] = {}
        """``epoch``, ``loss/val`` and ``loss/train`` of best.ckpt; empty without a val split."""
        self._written_s = -math.inf
        self._ended = False

    @property
    def last_path(self) -> Path:
        """Where last.ckpt is."""
        return self.folder / "last.ckpt"

    @property
    def best_path(self) -> Path:
        """Where best.ckpt is."""
        return self.folder / "best.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """Which epoch was best, for a resumed run to beat."""
        return {"best": dict(self.best)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes up what ``state_dict`` gave."""
        self.best = dict(state_dict["best"])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the config, the path, and whether training came to its end, so that nothing but the report is left."""
        if self.config is not None:
            checkpoint["config"] = copy.deepcopy(dict(self.config))
        checkpoint["path"] = copy.deepcopy(self.path)
        checkpoint["ended"] = self._ended

    def calibrate(self, fit: Callable[[LogisticModule], Calibration]) -> None:
        """Writes into each checkpoint the calibration of the model that is in it."""
        for path in (self.last_path, self.best_path):
            self._amend(path, calibration=fit(Trained.load(path).module).as_dict())

    def certify(self, optimality: Mapping[str, Any]) -> None:
        """Writes what is known by now of the last parameters into their checkpoint."""
        self._amend(self.last_path, optimality=dict(optimality))

    def _amend(self, path: Path, **values: Any) -> None:
        self.io.save_checkpoint({**read_checkpoint(path), **values}, path)
        self.io.flush()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run may never beat the best epoch so far, so it brings that along."""
        resumed = Path(trainer.ckpt_path) if trainer.ckpt_path else None
        if not self.best or resumed is None:
            return
        best = resumed.parent / "best.ckpt"
        if run_folder_of(resumed) and best.is_file():
            if resumed.parent.resolve() == self.folder.resolve():
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(best, self.best_path)
        else:
            self.best = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes a new best epoch; writes the files when it is time."""
        self._ended = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        loss = trainer.callback_metrics.get("loss/val")
        if loss is not None and float(loss) < self.best.get("loss/val", math.inf):
            self.best = {"epoch": trainer.current_epoch + 1, "loss/val": float(loss)}
            if (of_train := trainer.callback_metrics.get("loss/train")) is not None:
                self.best["loss/train"] = float(of_train)
            trainer.save_checkpoint(self.best_path, weights_only=False)
        if self._ended or time.monotonic() - self._written_s > self.every_s:
            self._write(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Saves a best epoch that is held; of the last ones up to ``every_s`` seconds are lost."""
        self.io.flush()

    def _write(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:  # first: whoever goes on from the checkpoint needs the curves up to it
            if isinstance(logger, RunLogger):
                logger.flush()
        trainer.save_checkpoint(self.last_path, weights_only=False)
        if not self.best:
            trainer.save_checkpoint(self.best_path, weights_only=False)
        self.io.flush()
        if self.when_saved is not None:
            self.when_saved()
        self._written_s = time.monotonic()


class Certificates(Callback):
    """Says how far the parameters are from the optimum: after epochs 1, 2, 4, 8, ... and after the last.

    A certificate costs two passes in float64, and where the Hessian is small two more.  With many parameters the last
    one, where it would say little, costs at most as many passes as the fit and 25 in any case: an exact optimizer goes
    on from there, and tells how far below the optimum lies.  Without a penalty it costs up to 25, and the others are
    left out.
    """

    def __init__(self, tell: Callable[[str], None] = lambda words: None) -> None:
        """Nothing is certified yet.

        Args:
            tell: Is told of the last certificate, which may take a while.
        """
        self._started_s, self._tell = time.perf_counter(), tell

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._started_s = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Certifies, when it is time."""
        assert isinstance(pl_module, LogisticModule)
        epochs = trainer.current_epoch + 1
        last = trainer.should_stop or epochs == trainer.max_epochs
        if last:
            self._tell("certifying how far the optimum is ...")
        if last or (pl_module.is_stochastic_now and not epochs & (epochs - 1)):
            self.certify(trainer, pl_module, epochs, last)

    def certify(self, trainer: pl.Trainer, module: LogisticModule, epochs: int, last: bool) -> None:
        """Gives the module its certificate, and logs it."""
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        seconds = time.perf_counter() - self._started_s
        if not module.certify(lambda mixed: data.blocks("train"), epochs, seconds, last):
            return
        assert module.certificate is not None
        certificate = module.certificate[1]
        metrics = {
            "optimality/gap": certificate.gap,
            "optimality/max_abs_gradient": certificate.max_abs_gradient,
        }
        trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=epochs)


class Ending(Callback):
    """Notes that training came to its end.

    Attributes:
        epochs: That the model has behind it; ``None`` before the end.
    """

    epochs: int | None = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes it."""
        self.epochs = trainer.current_epoch


class TimeLimit(Timer):
    """``trainer.max_time``, but at the end of an epoch: half an epoch could not be resumed bit for bit."""

    def __init__(self, duration: Any) -> None:
        super().__init__(duration, interval="epoch", verbose=False)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a resumed run has the whole time again."""
        return {}


class SignOfLife(Callback):
    """A progress bar where a person watches stderr, a few plain lines where a file does."""

    def __init__(self, label: str, lines: int = 5, warning: str = "") -> None:
        """Names the run.

        Args:
            label: Such as the dataset's name.
            lines: How many plain lines, spread evenly over the epochs; with 0 nothing else is said either.
            warning: What to know of the fit before it begins.
        """
        self.label, self.lines, self.warning = label, lines, warning
        self._bar: Progress | None = None
        self._shown_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says what "auto" chose, and the warning; starts the bar, at the epoch that a resumed run begins with."""
        if isinstance(pl_module, LogisticModule) and pl_module.reason and self.lines:
            print(f"optimizer=auto: {pl_module.reason}", file=sys.stderr)
        if self.warning and self.lines:
            print(on_one_line(f"{self.label}: {self.warning}"), file=sys.stderr)
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("epoch {task.completed:.0f}/{task.total:.0f} {task.fields[scores]}"),
                TimeRemainingColumn(),
                console=terminal(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self.label, total=trainer.max_epochs, completed=trainer.current_epoch, scores=""
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the losses, at most ten times a second."""
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 1
        if self._bar is not None:
            if trainer.should_stop or done == total:
                self.on_train_end(trainer, pl_module)
            elif time.monotonic() - self._shown_s > 0.1:
                self._bar.update(self._task, completed=done, scores=self._scores(trainer))
                self._shown_s = time.monotonic()
        elif done * self.lines // total > (done - 1) * self.lines // total:
            print(f"{self.label}: epoch {done}/{total} {self._scores(trainer)}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Takes the bar away."""
        self.on_train_end(trainer, pl_module)

    def _scores(self, trainer: pl.Trainer) -> str:
        metrics = trainer.callback_metrics
        return "  ".join(f"{tag} {float(metrics[tag]):.4g}" for tag in ("loss/train", "loss/val") if tag in metrics)


class Pruned(Exception):  # no error: a trial that was not worth going on
    """A trial of a search that fell behind the others.

    Attributes:
        score: On val, when it was broken off.
        epoch: When that was.
    """

    def __init__(self, score: float, epoch: int, name: str = "loss") -> None:
        super().__init__(f"{name}/val {score:.4g} after epoch {epoch}")
        self.score, self.epoch = score, epoch


class Trial(Protocol):
    """What Optuna calls so."""

    def report(self, value: float, step: int) -> None:
        """Takes a score."""

    def should_prune(self) -> bool:
        """Whether others were better at the same step."""


class Pruning(Callback):
    """Tells a search a score on val after epochs 1, 2, 4, 8, ..., and breaks off what falls behind.

    An exact optimizer, which takes few epochs and has its score at the end, is left alone.
    """

    def __init__(self, trial: Trial, name: str = "loss") -> None:
        self.trial, self.name = trial, name

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports where it is time.

        Raises:
            Pruned: The trial fell behind.
        """
        epoch, score = trainer.current_epoch + 1, trainer.callback_metrics.get(f"{self.name}/val")
        assert isinstance(pl_module, LogisticModule)
        if score is None or epoch & (epoch - 1) or epoch == trainer.max_epochs or not pl_module.is_stochastic_now:
            return
        self.trial.report(float(score), epoch)
        if self.trial.should_prune():
            raise Pruned(float(score), epoch, self.name)
