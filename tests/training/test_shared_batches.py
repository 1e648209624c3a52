"""First-order optimizers on several processes: real ones, each with its part of every batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scipy.sparse import csr_array
from torch import Tensor
from torch.utils.data import DataLoader

from logreg.csr import checked_sparse
from logreg.data import TensorDataModule
from logreg.data.base import RawData, Table
from logreg.data.blocks import BlockDataset, block_loader
from logreg.facts import Batch
from logreg.processes import Processes
from logreg.rows import batches_of_block
from logreg.solvers.optimizers import EXACT
from logreg.training.callbacks import TimeLimit
from logreg.training.checkpoints import BufferedCheckpointIO, Checkpoints
from logreg.training.module import LogisticModule
from logreg.training.pruning import Pruned, Pruning
from process_groups import in_processes

EPOCHS = 4

SLOW = pytest.mark.slow


@dataclass(frozen=True)
class Fit:
    """What is fitted to the rows of `given`."""

    optimizer: str = "sgd"
    loss: str = "auto"
    classes: int = 3
    kind: str = "dense"
    batch_size: int | None = 32
    precision: str = "64"
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Given:
    """A dataset of 211 weighted rows, sparse or dense, or pixels."""

    name = "given"

    def __init__(self, classes: int, kind: str) -> None:
        draw = torch.Generator().manual_seed(0)
        features = torch.randn(211, 16, generator=draw)
        labels = (features[:, :classes] + torch.randn(211, classes, generator=draw)).argmax(1)
        weights = torch.randint(0, 4, (211,), generator=draw) / 2 if kind != "pixels" else None
        scale, shape = 1.0, tuple[int, ...]()
        if kind == "sparse":
            features = checked_sparse(csr_array((features * (features.abs() > 1)).numpy()))
        elif kind == "pixels":
            features, scale, shape = (features.abs() * 60).clamp(max=255).to(torch.uint8), 1 / 255, (4, 4)
        names = tuple(str(label) for label in range(classes))
        self.raw = RawData(
            {"train": Table(features, labels, sample_weight=weights)}, names, scale=scale, image_shape=shape
        )

    def read(self) -> RawData:
        return self.raw


def fitted(
    processes: Processes | None,
    fit: Fit,
    callbacks: Sequence[Callback] = (),
    folder: Path | None = None,
    epochs: int | None = None,
) -> dict[str, Any]:
    """The parameters after some epochs, the scores of the last one, and the numbers of steps and epochs.

    Args:
        processes: The processes that train together.
        fit: What is fitted.
        callbacks: Callbacks of the Trainer.
        folder: A run folder, whose last.ckpt is continued where there is one, and written.
        epochs: Number of epochs after which the training is interrupted; ``None`` to train to its end.
    """
    arguments = dict(fit.arguments)
    polish = fit.arguments.get("polish", False)
    data = TensorDataModule(
        Given(fit.classes, fit.kind),
        fit.batch_size,
        split={"val": 0.2},
        standardize=None,
        seed=1,
        dtype={"32": torch.float32, "64": torch.float64}[fit.precision],
        class_weight="balanced",
        augment=arguments.pop("augment", None),
        full_passes_from_epoch=0 if fit.optimizer in EXACT else EPOCHS if polish else None,
        processes=processes,
    )
    module = LogisticModule(
        data.facts,
        loss=fit.loss,
        l2=0.01,
        lr=0.05,
        optimizer={"name": fit.optimizer, **({"momentum": 0.9} if fit.optimizer == "sgd" else {})},
        batch_size=fit.batch_size,
        max_epochs=EPOCHS,
        precision=fit.precision,  # type: ignore[arg-type]  # one of the two
        **arguments,
    )
    io, last = BufferedCheckpointIO(), None
    if folder is not None:
        (folder / ".hydra").mkdir(exist_ok=True)
        last = folder / "checkpoints" / "last.ckpt"
        if processes is None or processes.rank == 0:
            callbacks = [*callbacks, Checkpoints(folder, io, every_s=0)]
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision=f"{fit.precision}-true",  # type: ignore[arg-type]  # one of the two
        max_epochs=epochs or (100 if polish or fit.optimizer in EXACT else EPOCHS),
        logger=False,
        callbacks=list(callbacks),
        plugins=[io],
        enable_checkpointing=folder is not None and len(callbacks) > 0,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings(action="ignore"):  # Lightning's, about loaders
        trainer.fit(module, datamodule=data, ckpt_path=last if last is not None and last.is_file() else None)
    return {
        "coef": module.model.coef.detach(),
        "intercept": module.model.intercept.detach(),
        "scores": {tag: float(value) for tag, value in trainer.callback_metrics.items()},
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
    }


def all_fitted(processes: Processes | None, fits: list[Fit]) -> list[dict[str, Any]]:
    return [fitted(processes, fit) for fit in fits]


OPTIMIZERS, LOSSES = ("sgd", "adam", "adamw"), (("auto", 2), ("auto", 3), ("bce", 3))
EVERY = [Fit(optimizer, *loss, kind) for optimizer, loss, kind in product(OPTIMIZERS, LOSSES, ("dense", "sparse"))]
FITS = [
    *(EVERY[number] for number in (0, 5, 7, 8, 15, 16)),  # each kind of rows with each loss and each optimizer
    Fit(kind="pixels", classes=2),
    Fit(kind="pixels", arguments={"augment": {"shift": {"pixels": 1}}}),
    Fit(batch_size=None),
    Fit(batch_size=1),  # all but one process have no row of a batch
    Fit(batch_size=2, arguments={"reduction": "sum", "intercept": False}),
    Fit("sgd", kind="sparse", precision="32"),
    Fit(arguments={"polish": True}),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("size", "fits"),
    [
        (3, FITS),
        pytest.param(2, [*EVERY, Fit(batch_size=None, kind="sparse"), Fit("adam", precision="32")], marks=SLOW),
    ],
    ids=["three", "two"],
)
def test_several_processes_fit_what_one_does(size: int, fits: list[Fit]) -> None:
    alone = all_fitted(None, fits)
    every = in_processes(size, all_fitted, fits)
    for fit, one, *of_rank in zip(fits, alone, *every, strict=True):
        tolerance = 1e-12 if fit.precision == "64" else 1e-6
        for rank, several in enumerate(of_rank):
            assert several["steps"] == one["steps"] > 0, fit
            torch.testing.assert_close(several["coef"], one["coef"], rtol=0, atol=tolerance)
            torch.testing.assert_close(several["intercept"], one["intercept"], rtol=0, atol=tolerance)
            assert several["scores"] == pytest.approx(one["scores"], rel=tolerance), fit
            for part in ("coef", "intercept"):  # bit by bit, as the control flow of each depends on them
                assert torch.equal(several[part], of_rank[0][part]), (fit, rank)


# decisions


class Trial:
    """A trial of a search that is pruned in some process, or in none."""

    def __init__(self, is_behind: bool) -> None:
        self.is_behind = is_behind

    def report(self, value: float, step: int) -> None:
        pass

    def should_prune(self) -> bool:
        return self.is_behind


def decided(processes: Processes) -> list[tuple[int, int]]:
    """Epochs until the time of each process is over, and until a trial is behind in the eyes of each."""
    return [_decided(processes, processes.rank == deciding) for deciding in range(processes.size)]


def _decided(processes: Processes, decides: bool) -> tuple[int, int]:
    limit = TimeLimit(timedelta(hours=1))
    limit.on_fit_start = lambda *arguments: None  # type: ignore[method-assign]  # the time is over after an epoch
    limit._offset = 7200 if decides else 0  # by the clock of this process
    epochs = fitted(processes, Fit(), [limit])["epochs"]
    try:
        return epochs, fitted(processes, Fit(), [Pruning(Trial(decides))])["epochs"]
    except Pruned as pruned:
        return epochs, pruned.epoch


def test_the_first_process_decides_on_time_and_pruning() -> None:
    assert in_processes(2, decided) == [[(1, 1), (EPOCHS, EPOCHS)]] * 2


# checkpoints


RESUMED = [
    Fit(),
    Fit("adam", "bce"),
    Fit("adamw", kind="sparse", arguments={"polish": True}),
    Fit("newton", batch_size=None),
    Fit("lbfgs", kind="sparse", batch_size=None, arguments={"tolerance": 1e-13}),
]


def continued(
    processes: Processes | None, folder: Path, epochs: int | None, fits: Sequence[Fit] = RESUMED
) -> list[dict[str, Any]]:
    """Each of the fits, from its last checkpoint where there is one, to some epoch or to its end."""
    results = []
    for number, fit in enumerate(fits):
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        results.append(fitted(processes, fit, folder=place, epochs=epochs))
    return results


def interrupted(processes: Processes, folder: Path, fits: list[Fit]) -> tuple[list[dict[str, Any]], ...]:
    """Each of the fits without an interruption, and after one."""
    continued(processes, folder, 2, fits)
    return all_fitted(processes, fits), continued(processes, folder, None, fits)


@pytest.mark.long
def test_a_fit_goes_on_in_another_number_of_processes(tmp_path: Path) -> None:
    whole = all_fitted(None, RESUMED)
    continued(None, tmp_path, 1)
    (one, *_) = in_processes(3, continued, tmp_path, 3)
    assert [result["epochs"] for result in one] == [3] * len(RESUMED)
    for place in tmp_path.iterdir():
        assert {file.name for file in (place / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    for results in in_processes(2, continued, tmp_path, None):
        for fit, expected, result in zip(RESUMED, whole, results, strict=True):
            is_exact = fit.optimizer in EXACT or fit.arguments
            tolerance = 1e-6 if is_exact else 1e-12  # the end of an exact fit depends on its begin
            torch.testing.assert_close(result["coef"], expected["coef"], rtol=0, atol=tolerance)
            if not is_exact:
                assert result["scores"] == pytest.approx(expected["scores"], rel=tolerance)


def test_an_interruption_changes_no_bit(tmp_path: Path) -> None:
    first_order = [fit for fit in RESUMED if fit.optimizer not in EXACT and not fit.arguments]
    for whole, resumed in in_processes(2, interrupted, tmp_path, first_order):
        for fit, result, its in zip(first_order, resumed, whole, strict=True):
            assert result["steps"] == its["steps"], fit
            assert torch.equal(result["coef"], its["coef"]), fit
            assert torch.equal(result["intercept"], its["intercept"]), fit
            assert result["scores"] == its["scores"], fit


# blocks


class Part:
    """The rank and the number of processes, of which nothing more is asked."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize("batch_size", [1, 2, 7, 40, 100])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_parts_of_a_batch_are_its_rows_in_order(
    batch_size: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.data.blocks.LOADED_BLOCK_BYTES", 160)  # of 40 rows
    dataset = BlockDataset(torch.arange(100.0).unsqueeze(1), torch.arange(100), None, 1.0, torch.float32)

    def blocks(processes: Any) -> list[Batch]:
        loader: DataLoader[Batch] = block_loader(dataset, batch_size, True, seed=3, processes=processes)
        every = list(loader)
        assert len(loader) == len(every)
        return every

    def labels(every: list[Batch]) -> Tensor:
        return torch.cat([block.labels for block in every])

    order = labels(blocks(None))
    parts = [blocks(Part(rank, size)) for rank in range(size)]
    (number,) = {len(part) for part in parts}
    places = [0] * size
    own = [labels(part) for part in parts]
    for block in range(number):
        for batch in batches_of_block(100, batch_size, block, number):
            joined = []
            for rank in range(size):
                rows = len(batch) * (rank + 1) // size - len(batch) * rank // size
                joined += own[rank][places[rank] : places[rank] + rows].tolist()
                places[rank] += rows
            assert joined == order[batch.start : batch.stop].tolist()
    assert places == [len(part) for part in own]


@pytest.mark.parametrize("from_epoch", [0, None])
def test_fixed_blocks_and_those_of_held_out_rows_are_of_the_adjacent_rows_of_each_process(
    from_epoch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.data.blocks.LOADED_BLOCK_BYTES", 40)  # of 10 rows
    dataset = BlockDataset(torch.arange(97.0).unsqueeze(1), torch.arange(97), None, 1.0, torch.float32)
    numbers = set()
    for rank, own in enumerate((range(32), range(32, 64), range(64, 97))):
        part: Any = Part(rank, 3)
        blocks = list(block_loader(dataset, 1, from_epoch == 0, 0, from_epoch, processes=part))
        numbers.add(len(blocks))
        assert max(len(block.labels) for block in blocks) <= 10
        assert [label for block in blocks for label in block.labels.tolist()] == list(own)
    assert numbers == {4}
