"""Crash-safe checkpoints: a kill at any moment leaves whole files."""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from logreg.files import write_whole
from logreg.run_folder import CHECKPOINTS, run_folder_of
from logreg.training.checkpoint_reading import read_checkpoint
from logreg.training.tracking import RunLogger


class BufferedCheckpointIO(TorchCheckpointIO):
    """Buffers the newest content of each file in memory until ``flush`` writes it, whole or not at all.

    Writing a file takes longer than an epoch of a small table, which takes a millisecond.
    """

    def __init__(self) -> None:
        self._held: dict[Path, dict[str, Any]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Buffers a copy, since training changes the parameters in place; Lightning calls this."""
        self._held[Path(path)] = copy.deepcopy(checkpoint)

    def flush(self) -> None:
        """Writes the buffered files."""
        for path, checkpoint in self._held.items():
            write_whole(path, partial(torch.save, checkpoint))
        self._held.clear()


class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt`` and ``best.ckpt`` in the run folder's ``checkpoints``.

    ``best`` has the lowest loss/val so far; without a val split it equals ``last``.  Both are written
    after the first epoch, then after each epoch that ends ``every_s`` seconds or more after the last
    write, and after the last epoch.
    """

    def __init__(
        self,
        folder: Path,
        io: BufferedCheckpointIO,
        when_saved: Callable[[], None] | None = None,
        every_s: float = 2.0,
        config: Mapping[str, Any] | None = None,
        path: dict[str, Any] | None = None,
    ) -> None:
        """Nothing is written yet.

        Args:
            folder: The run folder.
            io: Buffers and writes the files; the Trainer must have it as a plugin.
            when_saved: Function that is called each time that both files are on disk.
            every_s: Least seconds between two writes.
            config: Config of the run as plain values, so that the checkpoint names its data.
            path: The setting of l2 as typed and the regularization path that its strength was chosen from, as plain
                values.
        """
        self.config, self.path = config, path
        self.folder, self.io, self.when_saved, self.every_s = folder / CHECKPOINTS, io, when_saved, every_s
        self.best: dict[str, float] = {}
        """``epoch``, ``loss/val`` and ``loss/train`` of best.ckpt; empty without a val split."""
        self._written_s = -math.inf
        self._ended = False

    @property
    def last_path(self) -> Path:
        """The file last.ckpt."""
        return self.folder / "last.ckpt"

    @property
    def best_path(self) -> Path:
        """The file best.ckpt."""
        return self.folder / "best.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """The best epoch, which a resumed run has to beat."""
        return {"best": dict(self.best)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the result of ``state_dict``."""
        self.best = dict(state_dict["best"])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the config, the path, and whether training has ended, so that only the report is left to make."""
        if self.config is not None:
            checkpoint["config"] = copy.deepcopy(dict(self.config))
        checkpoint["path"] = copy.deepcopy(self.path)
        checkpoint["ended"] = self._ended

    def amend(self, path: Path, **values: Any) -> None:
        """Writes a checkpoint again with values that were computed after training, whole or not at all.

        The end of training is on disk before these values are computed, which may take seconds: a run that is killed
        meanwhile loses nothing of its training.
        """
        self.io.save_checkpoint({**read_checkpoint(path), **values}, path)
        self.io.flush()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copies best.ckpt of the run that is resumed, whose best epoch this run may never beat."""
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
        """Buffers a new best epoch; writes the files when it is time."""
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
        """Writes a buffered best epoch; up to ``every_s`` seconds of the last epochs are lost."""
        self.io.flush()

    def _write(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:  # first: a run that continues from the checkpoint needs the curves up to it
            if isinstance(logger, RunLogger):
                logger.flush()
        trainer.save_checkpoint(self.last_path, weights_only=False)
        if not self.best:
            trainer.save_checkpoint(self.best_path, weights_only=False)
        self.io.flush()
        if self.when_saved is not None:
            self.when_saved()
        self._written_s = time.monotonic()
