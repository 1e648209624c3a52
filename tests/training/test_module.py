"""The module without Hydra: as a user of the Python interface has it."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from fake_mnist import write_fake_mnist
from logreg.data import TensorDataModule, build_dataset
from logreg.errors import DivergedError
from logreg.facts import Batch
from logreg.files import write_whole
from logreg.losses import one_vs_rest
from logreg.losses.objective import Reduction
from logreg.run_folder import find_checkpoint, mark_latest
from logreg.training.checkpoints import BufferedCheckpointIO
from logreg.training.module import LogisticModule

QUIET = (  # Lightning's own; `run/train.py` has the reasons
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec, LeafSpec",
    "ignore:.*configure_optimizers.*returned.*None",
)
pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]


def trainer(**arguments: object) -> pl.Trainer:
    given: dict[str, object] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "num_sanity_val_steps": 0,
        **arguments,
    }
    return pl.Trainer(**given)  # type: ignore[arg-type]  # arguments of many types in one dict


def digits(batch_size: int | None = 50) -> TensorDataModule:
    return TensorDataModule(build_dataset("digits", {}), batch_size, {"val": 0.2, "test": 0.2}, dtype=torch.float64)


@pytest.mark.long
def test_a_batch_whose_logits_are_many_is_added_up_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted(batch_size: int | None, reduction: Reduction) -> LogisticModule:
        data = TensorDataModule(
            build_dataset("digits", {}),
            batch_size,
            {"val": 0.2, "test": 0.2},
            dtype=torch.float64,
            class_weight="balanced",
        )
        module = LogisticModule(
            data.facts,
            reduction=reduction,
            l2=0.1,
            lr=0.01 if reduction == "mean" else 1e-5,
            batch_size=batch_size,
            max_epochs=2,
            precision="64",
        )
        runner = trainer(max_epochs=2, precision="64-true")
        runner.fit(module, datamodule=data)
        steps[batch_size] = runner.global_step
        losses.append(float(runner.callback_metrics["loss/train"]))
        return module

    reductions: tuple[Reduction, ...] = ("mean", "sum")
    for batch_size, reduction in product((None, 50), reductions):
        steps: dict[int | None, int] = {}
        losses: list[float] = []
        whole = fitted(batch_size, reduction)
        with monkeypatch.context() as patch:
            patch.setattr("logreg.rows.LOGITS_BYTES", {"cpu": 80 * 7})  # 7 rows
            in_parts = fitted(batch_size, reduction)
        assert steps == {batch_size: 2 * (1 if batch_size is None else -(-whole.facts.rows["train"] // batch_size))}
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        torch.testing.assert_close(in_parts.model.coef, whole.model.coef, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(in_parts.model.intercept, whole.model.intercept, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_steps_in_closed_form_are_those_of_autograd_on_the_same_batches(optimizer: str, l2: float) -> None:
    data = digits(batch_size=50)
    module = LogisticModule(data.facts, l2=l2, optimizer=optimizer, lr=0.01, batch_size=50, max_epochs=2)
    trainer(max_epochs=2, precision="64-true").fit(module, datamodule=data)

    theirs = torch.nn.Linear(64, 10, dtype=torch.float64)
    torch.nn.init.zeros_(theirs.weight)
    torch.nn.init.zeros_(theirs.bias)
    stepper = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](theirs.parameters(), lr=0.01)
    loader = data.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # ours has it
        for block in loader:
            for features, labels in zip(block.features.split(50), block.labels.split(50), strict=True):
                stepper.zero_grad()
                loss = torch.nn.functional.cross_entropy(theirs(features), labels)
                (loss + l2 / 2 * theirs.weight.square().sum()).backward()
                stepper.step()
    torch.testing.assert_close(module.model.coef, theirs.weight)
    torch.testing.assert_close(module.model.intercept, theirs.bias)


def images(root: Path, standardize: bool, full_passes_from_epoch: int | None = None) -> TensorDataModule:
    write_fake_mnist(root)
    source = build_dataset("mnist", {"root": str(root), "download": False, "cache": str(root / "cache")})
    return TensorDataModule(source, 16, standardize=standardize, full_passes_from_epoch=full_passes_from_epoch)


@pytest.mark.parametrize("standardize", [False, True])
def test_pixels_that_come_as_bytes_train_as_numbers_do(standardize: bool, tmp_path: Path) -> None:
    data = images(tmp_path, standardize)
    module = LogisticModule(data.facts, lr=0.1, batch_size=16, max_epochs=2)
    blocks = list(data.train_dataloader())
    assert {block.features.dtype for block in blocks} == {torch.uint8}
    trainer(max_epochs=2, limit_val_batches=0).fit(module, datamodule=data)

    numbers = images(tmp_path, standardize, full_passes_from_epoch=0)
    theirs = LogisticModule(data.facts, lr=0.1, batch_size=16, max_epochs=2)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    positions = torch.arange(len(numbers.labels("train")))
    for epoch in range(2):
        order = torch.Generator().manual_seed(epoch)
        for batch in positions[torch.randperm(len(positions), generator=order)].split(16):
            rows = numbers.rows("train", batch)
            assert rows.features.dtype == torch.float32
            assert float(rows.features.max()) <= 1
            optimizer.zero_grad()
            features = theirs.model.standardize(rows.features)
            logits = torch.addmm(theirs.model.intercept, features, theirs.model.coef.T)
            torch.nn.functional.cross_entropy(logits, rows.labels).backward()
            optimizer.step()
    torch.testing.assert_close(module.model.coef, theirs.model.coef, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(module.model.intercept, theirs.model.intercept, rtol=1e-4, atol=1e-6)


def test_an_exact_optimizer_takes_pixels_that_come_as_bytes(tmp_path: Path) -> None:
    coefs = []
    for full_passes_from_epoch in (0, None):
        data = images(tmp_path, False, full_passes_from_epoch)
        module = LogisticModule(data.facts, l2=1.0, optimizer="newton", lr=None)
        trainer(max_epochs=100, limit_val_batches=0).fit(module, datamodule=data)
        assert module.progress is not None
        assert module.progress.converged
        coefs.append(module.model.coef)
    torch.testing.assert_close(coefs[0], coefs[1], rtol=0, atol=1e-4)


def test_lightnings_own_verbs_work() -> None:
    data = digits()
    module = LogisticModule(data.facts, lr=0.5, batch_size=50, max_epochs=3)
    runner = trainer(max_epochs=3, precision="64-true")
    runner.fit(module, datamodule=data)
    assert runner.global_step == 3 * -(-data.facts.rows["train"] // 50)
    (validated,) = [dict(runner.callback_metrics)]
    assert {"loss/train", "loss/val", "accuracy/val"} <= set(validated)
    runner.test(module, datamodule=data, verbose=False)
    tested = {key: float(value) for key, value in runner.callback_metrics.items() if key.endswith("/test")}
    predictions = runner.predict(module, dataloaders=data.blocks("test"))
    assert predictions is not None
    probabilities = torch.cat([page for page in predictions if isinstance(page, Tensor)])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(probabilities), dtype=torch.float64))
    labels = torch.cat([block.labels for block in data.blocks("test")])
    assert tested["accuracy/test"] == pytest.approx(float((probabilities.argmax(1) == labels).double().mean()))
    assert tested["loss/test"] == pytest.approx(-float(probabilities[torch.arange(len(labels)), labels].log().mean()))


@pytest.mark.parametrize("full_passes_from_epoch", [0, None])
def test_an_exact_optimizer_ends_the_training_by_itself(full_passes_from_epoch: int | None) -> None:
    # With shuffled batches as with whole passes: it sums over all rows before it steps.
    data = digits()
    data.full_passes_from_epoch = full_passes_from_epoch
    module = LogisticModule(data.facts, l2=0.1, optimizer="newton", lr=None, precision="64")
    runner = trainer(max_epochs=100, precision="64-true", limit_val_batches=0)
    runner.fit(module, datamodule=data)
    assert 1 < runner.current_epoch < 100
    assert module.progress is not None
    assert module.progress.converged
    features, labels = (torch.cat(parts) for parts in zip(*(block[:2] for block in data.blocks("train")), strict=True))
    gradient = torch.autograd.grad(
        torch.nn.functional.cross_entropy(module(features), labels) + 0.05 * module.model.coef.square().sum(),
        module.model.coef,
    )[0]
    assert float(gradient.square().sum()) / (2 * 0.1) <= 1e-6 * module.progress.value


def test_the_running_loss_is_the_mean_over_rows_also_with_a_short_last_batch() -> None:
    # With lr so small that nothing moves, the epoch's running loss is the loss of the start: log 10.
    data = digits(batch_size=100)
    assert data.facts.rows["train"] % 100 != 0
    module = LogisticModule(data.facts, lr=1e-12, batch_size=100, max_epochs=1)
    runner = trainer(max_epochs=1, precision="64-true")
    runner.fit(module, datamodule=data)
    assert float(runner.callback_metrics["loss/train"]) == pytest.approx(2.302585092994, rel=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    data = digits()
    module = LogisticModule(data.facts, lr=1e308, batch_size=50, max_epochs=5)
    with pytest.raises(DivergedError, match=re.escape("`lr=1e+308` is too high for these features: try lr=1e+307")):
        trainer(max_epochs=5, precision="64-true").fit(module, datamodule=data)


def test_stopping_early_watches_the_names_of_the_curves() -> None:
    data = digits()
    module = LogisticModule(data.facts, lr=1e-9, batch_size=50, max_epochs=50)
    stop = pl.callbacks.EarlyStopping("accuracy/val", mode="max", patience=2)
    runner = trainer(max_epochs=50, precision="64-true", callbacks=[stop])
    runner.fit(module, datamodule=data)
    assert runner.current_epoch < 10


def test_facts_may_be_plain_as_a_checkpoint_has_them() -> None:
    data = digits()
    module = LogisticModule(data.facts.as_dict())
    assert module.facts == data.facts


@pytest.mark.long
def test_binary_softmax_is_the_binary_fit_with_half_the_penalty() -> None:
    # scikit-learn #28703: switching the loss silently changes the strength of the penalty by 2.
    raw = build_dataset("blobs", {"rows": 200})
    data = TensorDataModule(raw, dtype=torch.float64)
    slopes = []
    for loss, l2 in (("bce", 0.1), ("cross_entropy", 0.2)):
        module = LogisticModule(data.facts, loss=loss, l2=l2, lr=1.0, max_epochs=400)
        trainer(max_epochs=400, precision="64-true", limit_val_batches=0).fit(module, datamodule=data)
        coef, _ = module.model.in_source_units()
        slopes.append(coef[-1] - (coef[0] if len(coef) == 2 else 0))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-6, atol=1e-8)


def test_held_checkpoints_are_copies_until_they_are_written(tmp_path: Path) -> None:
    io, tensor = BufferedCheckpointIO(), torch.zeros(2)
    io.save_checkpoint({"a": tensor}, tmp_path / "deep" / "x.ckpt")
    tensor += 1  # training goes on
    assert not (tmp_path / "deep").exists()
    io.flush()
    assert torch.load(tmp_path / "deep" / "x.ckpt", weights_only=True)["a"].tolist() == [0.0, 0.0]


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_whole(path, lambda file: file.write(b"old"))

    def half(file: object) -> None:
        file.write(b"ne")  # type: ignore[attr-defined]  # any open file
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, half)
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["x"]


def test_latest_is_found_wherever_the_run_lies(tmp_path: Path) -> None:
    run = tmp_path / "elsewhere" / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "runs").mkdir()
    mark_latest(run, tmp_path / "runs")
    assert find_checkpoint("latest", tmp_path / "runs").resolve() == (run / "checkpoints" / "last.ckpt").resolve()


def test_targets_follow_the_number_of_outputs() -> None:
    data = digits()
    block = next(iter(data.train_dataloader()))
    assert isinstance(block, Batch)
    assert one_vs_rest(block.labels, 10).shape == (len(block.labels), 10)
