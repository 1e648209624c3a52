"""Callbacks of the Trainer: certificates, the end of a fit, limits of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Timer

from logreg.training.module import LogisticModule


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
        if not module.certify(data.row_source("train", module.device), epochs, seconds, last):
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
