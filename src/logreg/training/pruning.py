"""Pruning: trials of a search that fall behind the others are stopped."""

from __future__ import annotations

from typing import Protocol

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from logreg.processes import in_first
from logreg.training.module import LogisticModule


class Pruned(Exception):  # a signal, not an error
    """A trial of a search that fell behind the others.

    Attributes:
        score: Score on val when the trial was stopped.
        epoch: Number of epochs until then.
    """

    def __init__(self, score: float, epoch: int, name: str = "loss") -> None:
        super().__init__(f"{name}/val {score:.4g} after epoch {epoch}")
        self.score, self.epoch = score, epoch


class Trial(Protocol):
    """The part of Optuna's trial that pruning uses."""

    def report(self, value: float, step: int) -> None:
        """Records a score."""

    def should_prune(self) -> bool:
        """Whether other trials were better at the same step."""


class Pruning(Callback):
    """Reports the score on val to a search after epochs 1, 2, 4, 8, ..., and stops a trial that falls behind.

    Epochs of an exact optimizer are not reported: they are few, and their score counts at the end alone.  Of several
    processes the first one reports and decides.
    """

    def __init__(self, trial: Trial, name: str = "loss") -> None:
        self.trial, self.name = trial, name

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports the score where it is due.

        Raises:
            Pruned: The trial fell behind.
        """
        epoch, score = trainer.current_epoch + 1, trainer.callback_metrics.get(f"{self.name}/val")
        assert isinstance(pl_module, LogisticModule)
        if score is None or epoch & (epoch - 1) or epoch == trainer.max_epochs or not pl_module.is_stochastic_now:
            return
        if in_first(pl_module.processes, lambda: self._falls_behind(float(score), epoch)):
            raise Pruned(float(score), epoch, self.name)

    def _falls_behind(self, score: float, epoch: int) -> bool:
        self.trial.report(score, epoch)
        return self.trial.should_prune()
