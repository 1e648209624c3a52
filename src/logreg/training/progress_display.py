"""Shows the progress of a fit: a bar in a terminal, a few lines in a pipe."""

from __future__ import annotations

import sys
import time

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from logreg.terminal import on_one_line, terminal
from logreg.training.module import LogisticModule


class ProgressDisplay(Callback):
    """Shows a progress bar where stderr is a terminal, and a few plain lines where it is not."""

    def __init__(self, label: str, lines: int = 5, warning: str = "") -> None:
        """Names the run.

        Args:
            label: First words of each line: the dataset's name.
            lines: Number of plain lines, spread evenly over the epochs; 0 silences the display.
            warning: A line to show before the fit.
        """
        self.label, self.lines, self.warning = label, lines, warning
        self._bar: Progress | None = None
        self._shown_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the choice of "auto" and the warning; starts the bar at the first epoch of this run."""
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
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Removes the bar."""
        self.on_train_end(trainer, pl_module)

    def _scores(self, trainer: pl.Trainer) -> str:
        metrics = trainer.callback_metrics
        return "  ".join(f"{tag} {float(metrics[tag]):.4g}" for tag in ("loss/train", "loss/val") if tag in metrics)
