"""Callbacks: certificates, the end of training, the time limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.trainer.states import RunningStage

from logreg.processes import Processes
from logreg.training.module import LogisticModule


class Certificates(Callback):
    """Certifies the distance of the parameters from the optimum, after epochs 1, 2, 4, 8, ... and after the last.

    A certificate takes two passes in float64, and two more where the Hessian is small.  With many parameters its bound
    may be loose.  The last certificate is then improved by an exact optimizer that continues from the parameters, for
    at most as many passes as the fit, or 25 where the fit was shorter and passes take less than about a second.
    Without a penalty and with many parameters, and for a softmax of very many classes, the last certificate alone is
    made, in up to 25 passes.
    """

    def __init__(self, status: Callable[[str], None] = lambda line: None) -> None:
        """Nothing is certified yet.

        Args:
            status: Shows a line before the last certificate, which may take seconds.
        """
        self._started_s, self._status = time.perf_counter(), status

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._started_s = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Certifies the parameters after epochs 1, 2, 4, 8, ... and after the last."""
        assert isinstance(pl_module, LogisticModule)
        epochs = trainer.current_epoch + 1
        last = trainer.should_stop or epochs == trainer.max_epochs
        if last:
            self._status("certifying how far the optimum is ...")
        if last or (pl_module.is_stochastic_now and not epochs & (epochs - 1)):
            self.certify(trainer, pl_module, epochs, last)

    def certify(self, trainer: pl.Trainer, module: LogisticModule, epochs: int, last: bool) -> None:
        """Certifies the parameters of the module, and logs the certificate."""
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        seconds = time.perf_counter() - self._started_s
        if not module.certify(data.row_source("train", module.device), epochs, seconds, last):
            return
        assert module.certificate is not None
        certificate = module.certificate
        metrics = {
            "optimality/gap": certificate.gap,
            "optimality/max_abs_gradient": certificate.max_abs_gradient,
        }
        trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=epochs)


class TrainingEnd(Callback):
    """Records the end of training.

    Attributes:
        epochs: Number of epochs of the whole training; ``None`` before its end.
    """

    epochs: int | None = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records the number of epochs."""
        self.epochs = trainer.current_epoch


class TimeLimit(Timer):
    """``trainer.max_time``, checked at the end of each epoch: half an epoch could not be resumed bit for bit.

    Several processes end after the same epoch, by the clock of the first one.
    """

    def __init__(self, duration: Any) -> None:
        super().__init__(duration, interval="epoch", verbose=False)
        self._processes: Processes | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes the processes of the module."""
        assert isinstance(pl_module, LogisticModule)
        self._processes = pl_module.processes

    def time_elapsed(self, stage: str = RunningStage.TRAINING) -> float:
        """Seconds since the start, in the first process."""
        elapsed = super().time_elapsed(stage)
        return elapsed if self._processes is None else float(self._processes.gather(elapsed)[0])

    def state_dict(self) -> dict[str, Any]:
        """Empty: a resumed run has the whole time again."""
        return {}
