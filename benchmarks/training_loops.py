"""Training loops that benchmarks time: ours, and those that a user would write instead."""

from __future__ import annotations

import contextlib
import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common import alternate, timed

if TYPE_CHECKING:
    import lightning.pytorch as pl
    import torch
    from torch import Tensor

    from logreg.config import RunConfig
    from logreg.data import TensorDataModule
    from logreg.facts import Batch
    from logreg.training.module import LogisticModule

BATCH_SIZE = 128
"""For MNIST."""

LR = 0.1

EPOCHS = 20
"""Epochs of a fit of ours: those of the recipe of MNIST, so that certificates weigh as much as in a run."""


@dataclass(frozen=True)
class Rows:
    """The rows that all loops train on, with our split."""

    features: Tensor
    labels: Tensor
    train: Tensor
    val: Tensor
    outputs: int
    """Number of outputs of the model; 1 for two classes."""

    @classmethod
    def of_mnist(cls, root: Path) -> Rows:
        """MNIST's train images, read by torchvision."""
        from torchvision.datasets import MNIST

        from logreg.data.splits import stratified_split

        images = MNIST(str(root), train=True)
        rows = stratified_split(images.targets, {"val": 0.1}, seed=0)
        return cls(images.data.flatten(1) / 255, images.targets, rows["train"], rows["val"], outputs=10)

    @classmethod
    def of_run(cls, run: OurRun) -> Rows:
        """The rows of a run of ours that has two classes."""
        import torch

        train, val = (list(run.data.blocks(split)) for split in ("train", "val"))
        features = torch.cat([block.features for block in (*train, *val)])
        labels = torch.cat([block.labels for block in (*train, *val)])
        numbers = torch.arange(len(labels))
        num_train = run.data.facts.rows["train"]
        return cls(features, labels, numbers[:num_train], numbers[num_train:], outputs=1)

    def to(self, device: torch.device) -> Rows:
        """The rows on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("features", "labels", "train", "val")}
        return replace(self, **moved)

    @property
    def counts(self) -> str:
        """The number of rows of each split, for a title."""
        return f"{len(self.train):,} train and {len(self.val):,} val rows"


Pairs = Iterable[tuple["Tensor", "Tensor"]]
"""Features and labels, batch by batch."""


class HandWritten:
    """The loop a user writes in plain PyTorch, over tensors in memory."""

    def __init__(self, rows: Rows, batch_size: int = BATCH_SIZE) -> None:
        from torch import nn, optim

        self.batch_size = batch_size
        self.train = rows.features[rows.train], rows.labels[rows.train]
        self.val = rows.features[rows.val], rows.labels[rows.val]
        self.model = nn.Linear(rows.features.shape[1], rows.outputs, device=rows.features.device)
        self.optimizer = optim.SGD(self.model.parameters(), lr=LR)

    def epochs(self) -> list[float]:
        """Trains for three epochs; seconds of each."""
        return timed(lambda: hand_written_epoch(self, self.batches(), [self.val]), times=3)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled rows, one indexing operation per batch."""
        import torch

        features, labels = self.train
        for rows in torch.randperm(len(labels), device=labels.device).split(self.batch_size):
            yield features[rows], labels[rows]


class PerImage:
    """The plain loop with the tutorials' DataLoader, which turns image after image into a tensor."""

    def __init__(self, root: Path, rows: Rows) -> None:
        from torch import nn, optim
        from torch.utils.data import DataLoader, Subset
        from torchvision.datasets import MNIST
        from torchvision.transforms import ToTensor

        images = MNIST(str(root), train=True, transform=ToTensor())
        train, val = (Subset(images, part.tolist()) for part in (rows.train, rows.val))
        self.train = DataLoader(train, BATCH_SIZE, shuffle=True, num_workers=0)
        self.val = DataLoader(val, BATCH_SIZE, num_workers=0)
        self.model = nn.Linear(784, 10)
        self.optimizer = optim.SGD(self.model.parameters(), lr=LR)

    def epochs(self) -> list[float]:
        """Trains for one epoch; its seconds, as a list of one."""
        return timed(lambda: hand_written_epoch(self, self.train, self.val))


def hand_written_epoch(run: HandWritten | PerImage, train: Pairs, val: Pairs) -> tuple[float, float, float]:
    """One epoch of plain PyTorch.

    Returns:
        Mean loss over the train batches; loss and accuracy of the val split.
    """
    import torch
    from torch.nn import functional as F

    def loss_of(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float(), reduction=reduction)
        return F.cross_entropy(logits, labels, reduction=reduction)

    def predict(logits: Tensor) -> Tensor:
        return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)

    running, steps = 0.0, 0
    for features, labels in train:
        run.optimizer.zero_grad()
        loss = loss_of(run.model(features.flatten(1)), labels)
        loss.backward()
        run.optimizer.step()
        running += loss.item()
        steps += 1
    total, hits, rows = 0.0, 0, 0
    with torch.no_grad():
        for features, labels in val:
            logits = run.model(features.flatten(1))
            total += loss_of(logits, labels, "sum").item()
            hits += int((predict(logits) == labels).sum())
            rows += len(labels)
    return running / steps, total / rows, hits / rows


class PlainLightning:
    """The LightningModule of the tutorials: one training step a batch, each with ``self.log``."""

    def __init__(self, rows: Rows, folder: Path) -> None:
        self.loop = HandWritten(rows)
        self.folder = folder

    def epochs(self) -> list[float]:
        """Fits a new model; seconds of its steady epochs."""
        import lightning.pytorch as pl
        from lightning.pytorch.loggers import TensorBoardLogger

        clock, loop = EpochClock(), self.loop
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=4,
            logger=TensorBoardLogger(str(self.folder)),
            callbacks=[clock.callback()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        num_batches = -(-len(loop.train[1]) // BATCH_SIZE)
        trainer.fit(plain_module(), Batches(loop.batches, num_batches), Batches(lambda: [loop.val], 1))
        return clock.steady()


class Batches:
    """Batches that a Trainer can iterate over once an epoch."""

    def __init__(self, batches: Callable[[], Pairs], count: int) -> None:
        self.batches, self.count = batches, count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches())

    def __len__(self) -> int:
        return self.count


def plain_module() -> pl.LightningModule:
    """The tutorials' LightningModule; its class is made here, since Lightning takes seconds to import."""
    import lightning.pytorch as pl
    import torch
    from torch.nn import functional as F

    class Plain(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(784, 10)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self.linear(batch[0]), batch[1])
            self.log("loss/train", loss)
            return loss

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            logits = self.linear(batch[0])
            self.log("loss/val", F.cross_entropy(logits, batch[1]))
            self.log("accuracy/val", (logits.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    return Plain()


class OurRun:
    """Ours: data, module, callbacks and Trainer as ``scripts/train.py`` builds them."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        from logreg.run.building import build_data

        self.config = config
        self.folder = folder
        self.fits = 0
        self.data: TensorDataModule = build_data(self.config)
        self.data.setup("fit")
        self.module: LogisticModule

    def epochs(self) -> list[float]:
        """Fits a new model; seconds of an epoch as a list of one: the mean, with the certificates of the fit."""
        from logreg.run.building import build_module, build_trainer
        from logreg.training.callbacks import Certificates
        from logreg.training.checkpoints import BufferedCheckpointIO, Checkpoints
        from logreg.training.progress_display import ProgressDisplay
        from logreg.training.tracking import RunLogger

        self.fits += 1
        folder = self.folder / str(self.fits)
        self.module = build_module(self.config, self.data.facts)
        checkpoint_io = BufferedCheckpointIO()
        callbacks = [Certificates(), ProgressDisplay("benchmark"), Checkpoints(folder, checkpoint_io)]
        trainer = build_trainer(self.config, RunLogger(folder), checkpoint_io, callbacks, has_val=True)
        clock = EpochClock()
        trainer.callbacks.insert(0, clock.callback())  # type: ignore[attr-defined]  # a connector of Lightning's sets it
        with contextlib.redirect_stderr(io.StringIO()):  # the display of progress
            trainer.fit(self.module, datamodule=self.data)
        return [clock.mean()]

    def parts(self, repeats: int) -> dict[str, float]:
        """Median seconds of each part of an epoch, timed alone, after a fit."""
        blocks = list(self.data.train_dataloader())
        parts: dict[str, Callable[[], object]] = {
            "loading the train blocks": lambda: list(map(len, self.data.train_dataloader())),
            "steps in closed form": lambda: self._steps(blocks),
            "scoring the train rows": self.module.scorers["train"].compute,
            "loading and scoring val": self._validate,
        }
        seconds = alternate({name: partial(timed, part) for name, part in parts.items()}, 3 * repeats)
        last = statistics.median(alternate({"last": lambda: timed(self._certify)}, repeats)["last"])
        return {name: statistics.median(taken) for name, taken in seconds.items()} | {
            f"the last certificate / {EPOCHS}": last / EPOCHS
        }

    def _steps(self, blocks: Iterable[Batch]) -> None:
        for block in blocks:
            self.module.training_step(block, 0)

    def _certify(self) -> None:
        self.module.certify(self.data.row_source("train"), EPOCHS, seconds=0.0, last=True)

    def _validate(self) -> None:
        import torch

        with torch.inference_mode():
            for block in self.data.blocks("val"):
                self.module.validation_step(block, 0)
        self.module.scorers["val"].compute()


def composed(overrides: Sequence[str], accelerator: str = "cpu", **dataset: str) -> RunConfig:
    """The config of a run of `EPOCHS`; with further arguments of its dataset."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from logreg.commands.config_files import CONF
    from logreg.config import RunConfig

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*overrides, f"max_epochs={EPOCHS}", f"accelerator={accelerator}"])
        plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    plain["dataset"] |= dataset
    return RunConfig.from_mapping({str(key): value for key, value in plain.items()})


class EpochClock:
    """Notes the time at which each epoch of a fit starts, and the end of the fit."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.end = 0.0

    def callback(self) -> pl.Callback:
        """The callback for the Trainer."""
        from lightning.pytorch.callbacks import LambdaCallback

        def on_train_end(trainer: pl.Trainer, module: pl.LightningModule) -> None:
            self.end = time.perf_counter()

        return LambdaCallback(
            on_train_epoch_start=lambda trainer, module: self.starts.append(time.perf_counter()),
            on_train_end=on_train_end,
        )

    def mean(self) -> float:
        """Seconds of the fit by epochs, with validation, logging, checkpoints and certificates."""
        return (self.end - self.starts[0]) / len(self.starts)

    def steady(self) -> list[float]:
        """Seconds from start to start, with validation, logging and checkpoints, without the first and last epoch."""
        return [end - start for start, end in itertools.pairwise(self.starts[1:])]
