"""The life of a run: train, look, stop, go on, load elsewhere."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import urllib.request
import weakref
import zipfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException

from logreg.commands.overrides import plain_config
from logreg.commands.train import main
from logreg.config import RunConfig
from logreg.data import TensorDataModule
from logreg.errors import ConfigError
from logreg.run.train import train as run_training
from logreg.training.checkpoint_reading import read_checkpoint
from logreg.training.module import LogisticModule
from process_groups import begun, started
from whole_runs import Run, composed, data_of, newest, train, working_in


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The default run, but shorter."""
    return train(tmp_path_factory.mktemp("toy"), "max_epochs=100", "report=full")


@pytest.fixture(scope="module")
def cancer(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A table with all three splits, standardized."""
    return train(tmp_path_factory.mktemp("cancer"), "dataset=breast_cancer", "optimizer=sgd", "max_epochs=8", "l2=0.01")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same table and penalty by the optimizer that tables have."""
    return train(tmp_path_factory.mktemp("exact"), "dataset=breast_cancer", "l2=0.01")


def tutorial(dtype: torch.dtype, epochs: int) -> tuple[list[float], torch.nn.Linear]:
    """The twenty lines of the tutorials."""
    torch.manual_seed(0)
    hours = torch.tensor([[1.0], [2.0], [3.0]], dtype=dtype)
    outcome = torch.tensor([[0.0], [0.0], [1.0]], dtype=dtype)
    model = torch.nn.Linear(1, 1).to(dtype)
    criterion = torch.nn.BCEWithLogitsLoss(reduction="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(epochs):
        loss = criterion(model(hours), outcome)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses, model


@pytest.mark.long
@pytest.mark.parametrize(("precision", "tolerance"), [(32, 1e-5), (64, 1e-12)])
def test_the_same_loss_as_the_tutorial_at_each_epoch(tmp_path: Path, precision: int, tolerance: float) -> None:
    epochs = 200
    theirs, their_model = tutorial(torch.float64 if precision == 64 else torch.float32, epochs)
    run = train(tmp_path, "init=linear", f"precision={precision}", f"max_epochs={epochs}")
    with (run.folder / "metrics.csv").open() as file:
        ours = {int(row["epoch"]): float(row["loss/train"]) for row in csv.DictReader(file)}
    assert list(ours) == list(range(1, epochs + 1))
    np.testing.assert_allclose(list(ours.values()), theirs, rtol=tolerance)
    # The event file keeps single precision, whatever was computed in.
    curve = run.curve("loss/train")
    assert list(curve) == list(ours)
    np.testing.assert_allclose(list(curve.values()), theirs, rtol=max(tolerance, 1e-6))
    parameters = run.checkpoint()["state_dict"]
    torch.testing.assert_close(parameters["model.coef"], their_model.weight.detach(), rtol=tolerance, atol=0)
    torch.testing.assert_close(parameters["model.intercept"], their_model.bias.detach(), rtol=tolerance, atol=0)


def test_a_run_folder_holds_what_it_should(toy: Run) -> None:
    there = {path.relative_to(toy.folder).as_posix() for path in toy.folder.rglob("*") if path.is_file()}
    events = {name for name in there if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert there - events == {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "coefficients.csv",
        "figures/loss.png",
        "figures/probability.png",
        "metrics.csv",
        "report.html",
        "report.md",
        "summary.json",
        "train.log",
    }
    assert not any("=" in name for name in there)
    assert toy.folder.parent.name == "toy"


def test_the_summary_says_what_was_run_and_what_came_out(cancer: Run) -> None:
    summary = cancer.summary
    assert summary["status"] == "finished"
    assert (
        summary["command"]
        == "python scripts/train.py dataset=breast_cancer optimizer=sgd max_epochs=8 l2=0.01 report=brief"
    )
    assert set(summary["metrics"]) == {"train", "val", "test"}
    for scores in summary["metrics"].values():
        assert set(scores) == {"loss", "accuracy", "auroc"}
    assert summary["dataset"]["rows"] == {"train": 341, "val": 114, "test": 114}
    assert summary["epochs"] == 8
    assert summary["seed"] == 0
    assert summary["versions"]["torch"] == torch.__version__
    assert 0 < summary["seconds"]["fit"] < summary["seconds"]["total"]
    penalty = 0.01 / 2 * float(cancer.checkpoint()["state_dict"]["model.coef"].square().sum())
    assert summary["objective"]["train"] == pytest.approx(summary["metrics"]["train"]["loss"] + penalty, rel=1e-6)


def test_the_equation_is_that_of_the_parameters(toy: Run) -> None:
    parameters = toy.checkpoint()["state_dict"]
    coef, intercept = float(parameters["model.coef"]), float(parameters["model.intercept"])
    expected = f"p(pass) = sigmoid({coef:.2f} * hours - {-intercept:.2f}), even odds at {-intercept / coef:.2f} hours"
    assert toy.summary["equation"] == expected
    assert expected in (toy.folder / "report.md").read_text(encoding="utf-8")


def test_splits_that_a_dataset_lacks_have_no_curve(toy: Run) -> None:
    assert set(toy.summary["metrics"]) == {"train"}
    optimality = ["optimality/gap", "optimality/max_abs_gradient"]
    assert sorted(toy.events().Tags()["scalars"]) == ["accuracy/train", "loss/train", "lr", *optimality]


def test_curves_lie_on_one_axis_of_passes_over_the_data(cancer: Run) -> None:
    for tag in ("loss/train", "loss/val", "accuracy/train", "accuracy/val", "auroc/val", "lr"):
        assert list(cancer.curve(tag)) == list(range(1, 9))
    for tag in ("loss/test", "accuracy/test", "auroc/test"):
        assert list(cancer.curve(tag)) == [8]
    for tag in ("optimality/gap", "optimality/max_abs_gradient"):
        assert list(cancer.curve(tag)) == [1, 2, 4, 8]
    # The last point of val is the table's: same parameters, same rows.
    assert cancer.curve("loss/val")[8] == pytest.approx(cancer.summary["metrics"]["val"]["loss"], rel=1e-6)


@pytest.mark.long
def test_the_schedule_sets_the_learning_rate_of_each_epoch(tmp_path: Path) -> None:
    run = train(
        tmp_path, "dataset=iris", "lr=0.4", "schedule=step", "schedule.every=2", "schedule.factor=0.5", "max_epochs=5"
    )
    assert list(run.curve("lr").values()) == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1])
    # and the steps have that size: a factor of almost 0 leaves the first epoch's parameters
    (tmp_path / "other").mkdir()
    common = ("dataset=iris", "schedule=step", "schedule.every=1", "schedule.factor=1e-12", "precision=64")
    long, short = (train(tmp_path / "other", *common, f"max_epochs={epochs}") for epochs in (3, 1))
    torch.testing.assert_close(parameters(long)["model.coef"], parameters(short)["model.coef"], rtol=1e-8, atol=1e-8)


def test_the_hparams_tab_has_the_run_with_the_same_columns_whatever_the_dataset(toy: Run, cancer: Run) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    columns = []
    for run in (toy, cancer):
        summaries = run.events().summary_metadata
        experiment = plugin_data_pb2.HParamsPluginData.FromString(
            summaries["_hparams_/experiment"].plugin_data.content
        ).experiment
        columns.append([info.name.tag for info in experiment.metric_infos])
        start = plugin_data_pb2.HParamsPluginData.FromString(
            summaries["_hparams_/session_start_info"].plugin_data.content
        ).session_start_info
        assert start.hparams["dataset"].string_value == run.summary["dataset"]["name"]
        assert start.hparams["lr"].number_value == run.summary["config"]["lr"]
    assert columns[0] == columns[1]
    assert {"loss/val", "accuracy/val", "loss/test", "accuracy/test"} <= set(columns[1])
    assert set(columns[1]) <= set(cancer.events().Tags()["scalars"])


def test_the_row_of_an_exact_run_has_all_scores(tmp_path: Path) -> None:
    run = train(tmp_path, "dataset=iris", "l2=0.1")
    for split, scores in run.summary["metrics"].items():
        for name in ("loss", "accuracy"):
            curve = run.curve(f"{name}/{split}")
            assert curve[max(curve)] == pytest.approx(scores[name], rel=1e-6)
    assert list(run.curve("accuracy/train")) == [run.summary["epochs"]]  # no curve while it trained


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own, in its server
def test_the_hparams_tab_can_be_sorted_by_every_column(tmp_path: Path) -> None:
    # what is a number in one run and text or nothing in another: lr, l2, batch_size, dataset.features, dataset.positive
    for typed in (
        ("dataset=iris", "l2=[0.1,0.01]", "dataset.positive=setosa"),
        ("dataset=digits", "dataset.positive=3", "l2=0.1", "batch_size=full", "lr=0.1", "max_epochs=1"),
        ("dataset=blobs", "dataset.features=3", "lr=0.5", "max_epochs=1", "batch_size=7"),
        ("max_epochs=1", "verbose=false", "l1=0.1"),
    ):
        train(tmp_path, *typed)
    from tensorboard import program

    board = program.TensorBoard()
    # All is there, and a thread that goes on reading would write into the logs of later tests.
    once = ("--port", "0", "--load_fast", "false", "--reload_interval", "0")
    board.configure(argv=["tensorboard", "--logdir", str(tmp_path / "runs"), *once])
    url = board.launch() + "data/plugin/hparams/"

    def ask(what: str, **question: object) -> dict[str, Any]:
        request = urllib.request.Request(
            url + what, json.dumps(question).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            held: dict[str, Any] = json.load(answer)
            return held

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        experiment = ask("experiment", experimentName="")
        statuses = ["STATUS_SUCCESS"]
        columns = [{"hparam": info["name"]} for info in experiment.get("hparamInfos", [])]
        columns += [{"metric": info["name"]} for info in experiment.get("metricInfos", [])]
        rows = ask("session_groups", allowedStatuses=statuses, colParams=columns, sliceSize=9)
        if len(rows.get("sessionGroups", [])) == 4:
            break
        time.sleep(0.2)
    kinds = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    assert {name: kinds[name] for name in ("l2", "lr", "max_epochs", "seed", "batch_size", "dataset")} == {
        **dict.fromkeys(("l2", "lr", "max_epochs", "seed"), "DATA_TYPE_FLOAT64"),
        **dict.fromkeys(("batch_size", "dataset"), "DATA_TYPE_STRING"),
    }
    seen: dict[str, set[type]] = {}
    for group in rows["sessionGroups"]:
        for name, value in group["hparams"].items():
            seen.setdefault(name, set()).add(type(value))
    assert {name: kinds for name, kinds in seen.items() if len(kinds) > 1} == {}
    assert seen["lr"] == {float}
    for column in [*columns, *({"hparam": name} for name in seen)]:
        order = ask(
            "session_groups", allowedStatuses=statuses, colParams=[column | {"order": "ORDER_ASC"}], sliceSize=9
        )
        assert len(order["sessionGroups"]) == 4
    order = ask(
        "session_groups", allowedStatuses=statuses, colParams=[{"hparam": "lr", "order": "ORDER_ASC"}], sliceSize=9
    )
    assert [group["hparams"].get("lr") for group in order["sessionGroups"]] == [0.01, 0.1, 0.5, None]


def test_train_and_val_loss_share_a_custom_chart(cancer: Run) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2

    (event,) = cancer.events().Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert list(layout.category[0].chart[0].multiline.tag) == ["loss/train", "loss/val"]


@pytest.mark.long
def test_the_picture_is_on_disk_and_in_tensorboard(toy: Run) -> None:
    with Image.open(toy.folder / "figures" / "probability.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[2] == 3
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # something is drawn
    (image,) = toy.events().Images("probability")
    assert (image.width, image.height) == (pixels.shape[1], pixels.shape[0])


def test_a_checkpoint_alone_predicts_on_raw_features(cancer: Run) -> None:
    from sklearn.datasets import load_breast_cancer

    module = LogisticModule.load_from_checkpoint(cancer.folder / "checkpoints" / "last.ckpt", map_location="cpu")
    features = torch.from_numpy(load_breast_cancer().data).float()
    labels = torch.from_numpy(load_breast_cancer().target)
    accuracy = float(((module(features)[:, 0] > 0).long() == labels).double().mean())
    rows, metrics = cancer.summary["dataset"]["rows"], cancer.summary["metrics"]
    expected = sum(metrics[split]["accuracy"] * rows[split] for split in rows) / sum(rows.values())
    assert accuracy == pytest.approx(expected)
    coef, intercept = module.model.in_source_units()
    torch.testing.assert_close(
        features.double() @ coef.T + intercept, module(features).double().detach(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.long
def test_best_has_the_lowest_loss_on_val(tmp_path: Path) -> None:
    run = train(tmp_path, "dataset=breast_cancer", "optimizer=sgd", "max_epochs=40")
    curve = run.curve("loss/val")
    best = min(curve, key=lambda epoch: curve[epoch])
    assert best < 40, "this run was chosen because it overfits"
    assert run.summary["best"]["epoch"] == best
    assert run.checkpoint("best")["epoch"] == best - 1  # Lightning counts from 0
    assert run.checkpoint("last")["epoch"] == 39


RECIPES = [
    ("dataset=digits", "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true", "l2=0.001"),
    ("dataset=breast_cancer", "optimizer=adam", "schedule=step", "schedule.every=2"),
    ("dataset=iris", "optimizer=adamw", "optimizer.weight_decay=0.1", "batch_size=full", "l1=0.01"),
    ("dataset=digits", "optimizer=sgd", "l2=0.001", "dataset.augment=[shift,flip,crop,affine]"),
    ("dataset=digits", "optimizer=adam", "l2=0.001", "dataset.augment=flip", "dataset.copies=2"),
]


def parameters(run: Run) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = run.checkpoint()["state_dict"]
    return tensors


@pytest.mark.long
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_ends_with_the_bits_of_one_that_was_never_stopped(
    tmp_path: Path, recipe: tuple[str, ...]
) -> None:
    (tmp_path / "straight").mkdir()
    (tmp_path / "stopped").mkdir()
    straight = train(tmp_path / "straight", *recipe, "max_epochs=3")
    first = train(tmp_path / "stopped", *recipe, "max_epochs=1")
    resumed = train(tmp_path / "stopped", "ckpt_path=latest", "max_epochs=3")
    assert first.folder != resumed.folder
    for name, ours in parameters(resumed).items():
        torch.testing.assert_close(ours, parameters(straight)[name], rtol=0, atol=0)
    assert resumed.checkpoint()["global_step"] == straight.checkpoint()["global_step"]
    assert list(resumed.curve("loss/train")) == [2, 3]


@pytest.mark.long
def test_stopped_from_the_keyboard_it_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogisticModule.on_train_batch_end

    def control_c(module: LogisticModule, *arguments: object) -> None:
        log(module, *arguments)  # type: ignore[arg-type]  # handed on as they came
        if module.current_epoch == 2:
            raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched, working_in(tmp_path):
        patched.setattr(LogisticModule, "on_train_batch_end", control_c)
        assert main(["dataset=iris", "max_epochs=5", "batch_size=full"]) == 130
    signal.signal(signal.SIGINT, handler)  # Lightning has switched it off
    said = "Stopped. `ckpt_path=latest` continues from the last epoch that was saved.\n"
    assert capsys.readouterr().err.endswith(said)
    resumed = train(tmp_path, "ckpt_path=latest")
    assert resumed.checkpoint()["epoch"] == 4


@pytest.mark.long
def test_a_run_that_ends_before_its_last_epoch_is_saved_too(tmp_path: Path) -> None:
    run = train(tmp_path, "dataset=iris", "optimizer=sgd", "max_epochs=100000", "trainer.max_time={milliseconds: 300}")
    epochs = run.summary["epochs"]
    assert 1 < epochs < 100000
    assert run.checkpoint()["epoch"] == epochs - 1
    assert run.summary["optimality"]["passes"] == epochs
    assert run.checkpoint()["optimality"] == run.summary["optimality"]
    resumed = train(tmp_path, "ckpt_path=latest", f"max_epochs={epochs + 1}", "trainer.max_time=null")
    assert list(resumed.curve("loss/train")) == [epochs + 1]


class StopsAfterTwo(Callback):
    """Ends a fit after the certificate of the epoch was due."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 2


def test_a_fit_that_a_callback_ends_is_certified_in_its_checkpoint_too(tmp_path: Path) -> None:
    config = RunConfig.from_mapping(plain_config(composed("toy", "report=brief")))
    summary = run_training(config, tmp_path / "run", tmp_path, callbacks=[StopsAfterTwo()])
    assert summary.epochs == summary.optimality.passes == 3
    found = Run(tmp_path / "run")
    assert found.checkpoint()["optimality"] == found.summary["optimality"] == summary.to_json()["optimality"]


class SeesRows(Callback):
    """Refers to the train features of a fit without holding them."""

    data: TensorDataModule
    rows: Callable[[], Tensor | None]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert trainer.train_dataloader is not None
        self.data = trainer.datamodule  # type: ignore[attr-defined]  # set by a fit with one
        self.rows = weakref.ref(trainer.train_dataloader.dataset.features)


@pytest.mark.long
@pytest.mark.parametrize("splits", [(), ("dataset.split.val=0", "dataset.split.test=0", "dataset.limit=400")])
def test_the_rows_that_an_exact_fit_has_copied_are_freed_before_the_report(
    tmp_path: Path, splits: tuple[str, ...]
) -> None:
    seen, left = SeesRows(), list[Any]()
    run_training(
        RunConfig.from_mapping(plain_config(composed("breast_cancer", "l2=0.01", "report=brief", *splits))),
        tmp_path / "run",
        tmp_path,
        callbacks=[seen],
        show=lambda summary: left.extend([seen.rows(), seen.data._prepared.converted]),
    )
    assert left == [None, None]


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user has trained for two epochs."""
    here = tmp_path_factory.mktemp("two_epochs")
    train(here, "dataset=iris", "max_epochs=2")
    return here


@pytest.mark.parametrize("way", ["latest", "last", "best", "folder", "file"])
def test_each_way_to_name_a_checkpoint_resumes_it(tmp_path: Path, two_epochs: Path, way: str) -> None:
    shutil.copytree(two_epochs, tmp_path, dirs_exist_ok=True)
    first = newest(tmp_path)
    named = {"folder": str(first.folder), "file": str(first.folder / "checkpoints" / "last.ckpt")}.get(way, way)
    resumed = train(tmp_path, f"ckpt_path={named}", "max_epochs=3")
    # The saved overrides came along: nobody typed dataset=iris again.
    assert resumed.summary["dataset"]["name"] == "iris"
    assert max(resumed.curve("loss/train")) == 3


REFUSED = [
    (("max_epochs=9", "seed=1"), "`ckpt_path` must fit the run: the seed of"),
    (("max_epochs=9", "loss=bce"), "`ckpt_path` must fit the run: the loss of"),
    (("max_epochs=9", "dataset.standardize=false"), "`ckpt_path` must fit the run: the standardizing of"),
    (("max_epochs=9", "optimizer.momentum=0.9"), "`ckpt_path` must fit the run: the optimizer of"),
    (("max_epochs=9", "intercept=false"), "`ckpt_path` must fit the run: the intercept of"),
    (("max_epochs=2",), "`max_epochs` must exceed the 2 epochs in"),
    (("max_epochs=9", "optimizer=adam"), "`ckpt_path` must fit the run: the optimizer of"),
    (("max_epochs=9", "dataset=wine"), "`ckpt_path` must fit the run: the dataset of"),
    (("max_epochs=9", "dataset.split.val=0.4"), "`ckpt_path` must fit the run: the rows of each split of"),
]


@pytest.mark.long
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, "dataset=iris", "max_epochs=2")
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in REFUSED:
        capsys.readouterr()
        with working_in(tmp_path):
            assert main(["ckpt_path=latest", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith(message)
        assert printed.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.long
def test_a_checkpoint_of_before_there_were_exact_optimizers_goes_on(tmp_path: Path) -> None:
    first = train(tmp_path, "max_epochs=2")
    held = first.checkpoint()
    for name in ("tolerance", "polish", "intercept"):
        del held["hyper_parameters"][name]
    del held["optimality"]
    torch.save(held, first.folder / "checkpoints" / "last.ckpt")
    assert list(train(tmp_path, "ckpt_path=latest", "max_epochs=3").curve("loss/train")) == [3]


@pytest.mark.long
def test_a_checkpoint_of_before_offsets_were_subtracted_is_refused_in_words_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{1_700_000_000 + 5 * i},{'no' if (7 * i) % 40 > i else 'yes'}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["t,y", *rows]) + "\n")
    first = train(tmp_path, "dataset=table", "dataset.path=t.csv", "dataset.target=y", "l2=1e-3", "max_epochs=2")
    held = first.checkpoint()
    for name in ("shift", "unit"):
        del held["hyper_parameters"]["facts"][name]
    torch.save(held, first.folder / "checkpoints" / "last.ckpt")
    with working_in(tmp_path):
        assert main(["ckpt_path=latest", "max_epochs=9"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("`ckpt_path` must be of a run that stores features as this one does, and ")
    assert said.endswith("Leave ckpt_path out to train anew.")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04cut off"])
def test_a_broken_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "broken.ckpt").write_bytes(content)
    with working_in(tmp_path):
        assert main(["ckpt_path=broken.ckpt"]) == 2
    assert capsys.readouterr().err == "`ckpt_path` must be a checkpoint of logreg, and broken.ckpt is not one.\n"


def test_whatever_a_file_begins_with_it_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    for first in range(256):  # each means something else to pickle
        file.write_bytes(bytes([first]) + b"oot:x,y\n0:0,no\n1.5,yes\n")
        with pytest.raises(
            ConfigError, match=r"^`ckpt_path` must be a checkpoint of logreg, and .*rows.csv is not one.$"
        ):
            read_checkpoint(file)


def test_a_checkpoint_that_would_grow_is_not_unpacked(tmp_path: Path, toy: Run) -> None:
    file = tmp_path / "bomb.ckpt"
    last = toy.folder / "checkpoints" / "last.ckpt"
    with zipfile.ZipFile(last) as whole, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
        packed.writestr("last/data/99", bytes(2**20))
    with pytest.raises(ConfigError, match="is not one"):
        read_checkpoint(file)


def test_a_checkpoint_with_code_inside_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"hyper_parameters": Path("x"), "epoch": 0}, tmp_path / "code.ckpt")  # an object, not a plain value
    with working_in(tmp_path):
        assert main(["ckpt_path=code.ckpt"]) == 2
    assert "must be a checkpoint of logreg" in capsys.readouterr().err


@pytest.mark.long
def test_a_diverging_run_says_so_and_leaves_no_thread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = {*threading.enumerate()}
    with working_in(tmp_path):
        assert main(["dataset=digits", "lr=1e38", "max_epochs=5"]) == 2
    assert not [thread for thread in {*threading.enumerate()} - threads if "event_file" in type(thread).__module__]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("loss/train became nan in epoch ")


@pytest.mark.long
def test_other_data_of_the_same_shape_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, "dataset=blobs", "max_epochs=1")
    with working_in(tmp_path):
        assert main(["ckpt_path=latest", "dataset.distance=4", "max_epochs=2"]) == 2
    assert "the checksum of the rows of" in capsys.readouterr().err


@pytest.mark.long
def test_a_time_limit_ends_with_a_whole_epoch(tmp_path: Path) -> None:
    # Half an epoch could not be resumed bit for bit.
    typed = ("dataset=blobs", "dataset.rows=40000", "batch_size=64", "max_epochs=100000")
    run = train(tmp_path, *typed, "trainer.max_time={milliseconds: 300}")
    assert 1 <= run.summary["epochs"] < 100000
    steps = -(-run.summary["dataset"]["rows"]["train"] // 64)
    assert run.checkpoint()["global_step"] == steps * run.summary["epochs"]
    assert list(run.curve("loss/train")) == list(range(1, run.summary["epochs"] + 1))


@pytest.mark.long
def test_the_resumed_file_is_written_down_and_not_the_word_latest(tmp_path: Path) -> None:
    first = train(tmp_path, "dataset=iris", "max_epochs=1")
    resumed = train(tmp_path, "ckpt_path=latest", "max_epochs=2")
    file = (first.folder / "checkpoints" / "last.ckpt").relative_to(tmp_path.resolve()).as_posix()
    assert resumed.summary["resumed_from"] == file
    assert any(file in override for override in resumed.summary["overrides"])


@pytest.mark.long
@pytest.mark.parametrize("folder", ["runs/höhe", "a b/c"])
def test_folders_may_have_any_name(tmp_path: Path, folder: str) -> None:
    run = train(tmp_path, "dataset=iris", "max_epochs=1", f"hydra.run.dir={folder}")
    assert run.folder == (tmp_path / folder).resolve()
    again = train(tmp_path, f"ckpt_path={folder}", "max_epochs=2")
    assert again.checkpoint()["epoch"] == 1


MISUSED = [
    ("trainer.max_time=60", "`trainer` must suit Lightning's Trainer: "),
    ("trainer.overfit_batches=1", "`trainer.overfit_batches` must not be set. "),
    ("trainer.limit_train_batches=0.5", "`trainer` must suit Lightning's Trainer: "),
    ("trainer.limit_train_batches=0", "`trainer.limit_train_batches` must leave something to train on, got 0."),
    ("expected={accuracy/val: 0.9}", "`expected` must have a tolerance, "),
    ("ckpt_path=[a,b]", "`ckpt_path=['a', 'b']` must find a checkpoint, "),
]


@pytest.mark.parametrize(("typed", "message"), MISUSED)
def test_what_lightning_would_trip_over_is_one_line_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], typed: str, message: str
) -> None:
    with working_in(tmp_path):
        assert main(["dataset=iris", "l2=0.1", "max_epochs=2", typed]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(message)
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_expectations_can_be_typed(tmp_path: Path) -> None:
    run = train(
        tmp_path,
        "dataset=iris",
        "optimizer=sgd",
        "max_epochs=1",
        "expected={accuracy/val: 0.9, auroc/val: 1, tolerance: 0.5}",
    )
    first, second = run.summary["expected"]
    assert first["reached"]
    assert not second["reached"], "three classes have no auroc"
    assert second["got"] is None


# The optimum


def test_an_exact_run_ends_certified_at_scikit_learns_optimum(exact: Run) -> None:
    from sklearn.linear_model import LogisticRegression

    found = exact.summary["optimality"]
    assert found["converged"]
    assert found["rigorous"]
    assert 0 <= found["relative_gap"] <= found["tolerance"] == 1e-6
    assert found["verdict"] == f"optimal to {found['relative_gap']:.1g}"
    assert found["objective"] == "mean binary cross-entropy + 0.01/2 |coef|^2, intercept free"
    assert 1 < found["passes"] == exact.summary["epochs"] < 1000
    assert exact.summary["reason"].startswith("Newton with Cholesky, since ")

    data = data_of("breast_cancer")
    table, facts = data.tables["train"], data.facts
    features, labels = table.select(table.matrix).float().double().numpy(), table.select(table.labels).numpy()
    scaled = (features - np.array(facts.mean)) / np.array(facts.std)
    theirs = LogisticRegression(C=1 / (len(labels) * 0.01), tol=1e-12, solver="newton-cholesky").fit(scaled, labels)
    logits = theirs.decision_function(scaled) * np.where(labels, -1, 1)
    optimum = np.logaddexp(0, logits).mean() + 0.005 * np.square(theirs.coef_).sum()
    assert found["value"] == pytest.approx(optimum, rel=1e-6)
    # the bound holds, and strong convexity says how near the coefficients must be
    assert found["value"] - optimum <= found["gap"] + 1e-12
    ours = exact.checkpoint()["state_dict"]["model.coef"].numpy()
    assert np.square(ours - theirs.coef_).sum() <= 2 * found["gap"] / 0.01 + 1e-12


def test_the_certificate_stands_everywhere_and_is_everywhere_the_same(cancer: Run, exact: Run) -> None:
    for run in (cancer, exact):
        summary = run.summary
        found, epochs = summary["optimality"], summary["epochs"]
        assert found["rows"] == summary["dataset"]["rows"]["train"]
        # One is taken in float64, the other is the sum of two scores in float32.
        assert found["value"] == pytest.approx(summary["objective"]["train"], rel=1e-6)
        assert run.checkpoint()["optimality"] == found
        with (run.folder / "metrics.csv").open() as file:
            last = {int(row["epoch"]): row for row in csv.DictReader(file)}[epochs]
        for name in ("gap", "max_abs_gradient"):
            assert float(last[f"optimality/{name}"]) == found[name]
            assert run.curve(f"optimality/{name}")[epochs] == pytest.approx(found[name], rel=1e-6)
        assert found["verdict"] in (run.folder / "report.md").read_text(encoding="utf-8")


def test_the_certificate_of_stochastic_gradient_descent_is_true(cancer: Run, exact: Run) -> None:
    sgd, best = cancer.summary["optimality"], exact.summary["optimality"]
    distance = sgd["value"] - best["value"]
    assert distance > 1e-3, "else there is nothing to be certified"
    assert distance <= sgd["gap"] <= 10 * distance
    assert not sgd["converged"]
    assert sgd["verdict"] == f"{sgd['gap']:.2g} nats above the optimum at most: train longer, or use optimizer=newton"
    # and so is each on the way: the gap shrinks as the loss does
    gaps = cancer.curve("optimality/gap")
    assert list(gaps.values()) == sorted(gaps.values(), reverse=True)


@pytest.mark.long
def test_an_exact_run_that_is_cut_short_warns_and_goes_on_to_the_optimum(tmp_path: Path, exact: Run) -> None:
    short = train(tmp_path, "dataset=breast_cancer", "l2=0.01", "max_epochs=2")
    found = short.summary["optimality"]
    assert (found["passes"], found["converged"]) == (2, False)
    page = (short.folder / "report.md").read_text(encoding="utf-8")
    assert f"- WARNING: not within tolerance=1e-06: {found['verdict']} [" in page
    long = train(tmp_path, "ckpt_path=latest", "max_epochs=1000").summary
    assert long["optimality"]["converged"]
    assert "WARNING" not in (newest(tmp_path).folder / "report.md").read_text(encoding="utf-8")
    best = exact.summary["optimality"]
    assert long["optimality"]["value"] == pytest.approx(best["value"], rel=2e-6)
    # A run that has reached the optimum finds itself there, a pass or two later.
    again = train(tmp_path, "ckpt_path=latest").summary
    assert again["optimality"]["converged"]
    assert long["epochs"] < again["epochs"] <= long["epochs"] + 3


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_polishing_takes_a_first_order_run_to_its_certified_optimum(tmp_path: Path, exact: Run, optimizer: str) -> None:
    typed = ("dataset=breast_cancer", "l2=0.01", f"optimizer={optimizer}", "max_epochs=3", "polish=true")
    run = train(tmp_path, *typed)
    found = run.summary["optimality"]
    assert list(run.curve("lr")) == [1, 2, 3]
    assert 3 < run.summary["epochs"] == found["passes"]
    assert found["converged"]
    assert found["value"] == pytest.approx(exact.summary["optimality"]["value"], rel=2e-6)


@pytest.mark.long
def test_a_run_without_an_intercept_is_certified_against_the_best_without_one(tmp_path: Path, exact: Run) -> None:
    typed = ("dataset=breast_cancer", "l2=0.01", "intercept=false", "init=linear", "max_epochs=30")
    sgd, newton = (train(tmp_path, *typed, f"optimizer={optimizer}") for optimizer in ("sgd", "newton"))
    for run in (sgd, newton):
        assert parameters(run)["model.intercept"].tolist() == [0.0]
        assert run.summary["optimality"]["objective"] == "mean binary cross-entropy + 0.01/2 |coef|^2, no intercept"
    ours, best = sgd.summary["optimality"], newton.summary["optimality"]
    assert best["converged"]
    assert best["value"] > 1.001 * exact.summary["optimality"]["value"]
    assert 0 < ours["value"] - best["value"] <= ours["gap"]


@pytest.mark.long
@pytest.mark.parametrize("typed", [("toy",), ("breast_cancer",), ("wine",), ("digits", "dataset.limit=400")])
def test_without_a_penalty_separable_classes_have_no_finite_optimum(tmp_path: Path, typed: tuple[str, ...]) -> None:
    # However far training came: it is the data that says so.
    run = train(tmp_path, f"dataset={typed[0]}", *typed[1:], "max_epochs=1", "l2=0")
    found = run.summary["optimality"]
    assert found["verdict"].startswith("no finite optimum: ")
    assert "set a penalty, such as l2=1e-3" in found["verdict"]
    assert not found["converged"]
    page = (run.folder / "report.md").read_text(encoding="utf-8")
    assert f"- {found['verdict']} [" in page
    assert "WARNING" not in page


def no_finite_optimum(folder: Path) -> tuple[str, ...]:
    """What is typed for a table whose classes are separated in part, for which L-BFGS takes more than 50 passes."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(900, 3))
    labels = draw.random(900) < 1 / (1 + np.exp(-values[:, 0]))
    told = labels & (draw.random(900) < 0.1)
    rows = (",".join(map(str, [*row, int(one), label])) for row, one, label in zip(values, told, labels, strict=True))
    (folder / "t.csv").write_text("a,b,c,d,y\n" + "\n".join(rows) + "\n")
    held_out = ("dataset.split.val=0", "dataset.split.test=0")
    return ("dataset=table", "dataset.path=t.csv", "dataset.target=y", *held_out, "l2=0", "optimizer=lbfgs")


@pytest.mark.long
def test_an_exact_optimizer_is_warned_that_there_is_no_optimum_and_ends_early(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = no_finite_optimum(tmp_path)
    run = train(tmp_path, *typed)
    err = capsys.readouterr().err
    assert err.startswith("table: no finite optimum: ")
    assert err.splitlines()[0].endswith("; the fit ends after at most 50 passes")
    assert run.summary["epochs"] == 50
    assert run.summary["optimality"]["separation"].startswith(
        "no finite optimum: 'd' separates 'true' from 'false' in some rows (quasi-complete separation)"
    )
    # One that was broken off ends where it would have ended; one that had ended goes on.
    train(tmp_path, *typed, "max_epochs=20")
    assert train(tmp_path, "ckpt_path=latest", "max_epochs=1000").summary["epochs"] == 50
    assert 50 < train(tmp_path, "ckpt_path=latest").summary["epochs"] <= 100


@pytest.mark.long
def test_a_first_order_optimizer_is_warned_and_keeps_its_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = no_finite_optimum(tmp_path)
    run = train(tmp_path, *typed, "optimizer=sgd", "max_epochs=60")
    err = capsys.readouterr().err
    assert err.startswith("table: no finite optimum: 'd' separates 'true' from 'false' in some rows")
    assert "ends after" not in err.splitlines()[0]
    assert run.summary["epochs"] == 60
    polished = train(tmp_path, *typed, "optimizer=sgd", "max_epochs=3", "polish=true")
    assert 3 < polished.summary["epochs"] <= 53
    capsys.readouterr()
    students = train(tmp_path, "max_epochs=20")  # three of them, whom chance separates: the report is soon enough
    assert "no finite optimum" not in capsys.readouterr().err
    assert students.summary["optimality"]["separation"]


def test_without_a_penalty_classes_that_overlap_have_one(tmp_path: Path) -> None:
    found = train(tmp_path, "dataset=blobs").summary["optimality"]
    assert found["converged"]
    assert found["separation"] == ""
    assert found["objective"] == "mean binary cross-entropy, no penalty"


@pytest.mark.long
def test_a_run_never_writes_into_the_folder_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, "dataset=iris", "max_epochs=1", "hydra.run.dir=mine")
    capsys.readouterr()
    summary = (tmp_path / "mine" / "summary.json").read_text()
    with working_in(tmp_path):
        assert main(["dataset=iris", "max_epochs=1", "hydra.run.dir=mine"]) == 2
    assert capsys.readouterr().err == "`hydra.run.dir` must name a new folder, and mine holds a run.\n"
    assert json.loads(summary)["status"] == "finished"
    assert (tmp_path / "mine" / "summary.json").read_text() == summary


# Killed


def _in_silence(typed: Sequence[str], here: Path) -> int:
    """Types a command in a process of its own."""
    os.chdir(here)
    sys.argv = ["train.py"]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # its results, shown before its pictures
    os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT), 2)
    return main(list(typed))


def _killed(rank: int, typed: Sequence[str], here: Path, place: str, calls: int) -> None:
    """Types a command in a process that is killed when it calls a function for the n-th time."""
    module, _, names = place.partition(":")
    *holder, name = names.split(".")
    owner: Any = import_module(module)
    for part in holder:
        owner = getattr(owner, part)
    true, left = getattr(owner, name), calls

    def hook(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return true(*arguments, **named)

    setattr(owner, name, hook)
    _in_silence(typed, here)


CANCER = ("dataset=breast_cancer", "l2=0.01")
SGD = ("dataset=iris", "optimizer=sgd", "max_epochs=6", "batch_size=16")

KILLED: dict[str, tuple[tuple[str, ...], str, int]] = {
    "before the scores": ((*SGD, "report=brief"), "logreg.run.train:score", 1),
    "while it calibrates": (
        (*SGD, "calibrate=temperature", "report=brief"),
        "logreg.training.checkpoints:Checkpoints.amend",
        2,
    ),
    "in its pictures": ((*CANCER, "report=full"), "logreg.reports.drawing:_save", 3),
    "before its summary": (("dataset=wine", "report=brief"), "logreg.reports.writing:write_text", 3),
    "after a path": (("dataset=iris", "l2=[1,0.1,0.01]", "report=brief"), "logreg.run.train:summarize", 1),
    "after the time it had": (
        (
            "dataset=blobs",
            "optimizer=sgd",
            "max_epochs=1000000",
            "trainer.max_time={milliseconds: 200}",
            "report=brief",
        ),
        "logreg.run.train:summarize",
        1,
    ),
}
"""What was typed, and where the run was killed: a function, and which call of it; nothing but the report was left."""

UNDER_WAY: dict[str, tuple[tuple[str, ...], str, int]] = {
    "in an epoch": ((*SGD, "max_epochs=9", "report=brief"), "logreg.training.module:LogisticModule.training_step", 5),
    # all that a run that goes on must get right at once: order of rows, moments, schedule, epoch
    "in an epoch of Adam": (
        (
            *("dataset=digits", "optimizer=adam", "l2=0.001", "schedule=cosine", "batch_size=256", "max_epochs=20"),
            "report=brief",
        ),
        "logreg.training.module:LogisticModule.training_step",
        8,
    ),
    "while it polishes": (
        (*CANCER, "optimizer=sgd", "max_epochs=3", "polish=true", "report=brief"),
        "logreg.training.module:LogisticModule._end_pass",
        3,
    ),
    "before any checkpoint": (
        (*SGD, "hydra.run.dir=mine", "report=brief"),
        "logreg.training.checkpoints:write_whole",
        1,
    ),
    "between two checkpoints": (
        (*SGD, "hydra.run.dir=mine", "report=brief"),
        "logreg.training.checkpoints:write_whole",
        2,
    ),
}
"""The same of runs that were still training."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each was killed."""
    places = {name: tmp_path_factory.mktemp("killed") for name in KILLED | UNDER_WAY}
    for name, (typed, *how) in (KILLED | UNDER_WAY).items():
        with pytest.raises(ProcessExitedException, match="SIGKILL"):
            started(_killed, (typed, places[name], *how), 1)
    return places


def numbers(run: Run) -> dict[str, Any]:
    """All that a run says of itself, but when and where it was and how long it took."""
    summary = run.summary
    for name in ("folder", "seconds"):
        del summary[name]
    del summary["optimality"]["seconds"]
    with (run.folder / "metrics.csv").open() as file:
        curves = [{tag: value for tag, value in row.items() if value} for row in csv.DictReader(file)]
    page = re.sub(r"[\d.e-]+ s\b", "", (run.folder / "report.md").read_text(encoding="utf-8"))
    files = ("coefficients.csv", "path.csv", *(f"figures/{path.name}" for path in run.folder.glob("figures/*")))
    kept = {name: (run.folder / name).read_bytes() for name in files if (run.folder / name).exists()}
    return {"summary": summary, "curves": curves, "page": page, **kept}


def points(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Every point of every curve, and every picture, as TensorBoard has them."""
    events = run.events()
    tags = events.Tags()
    # the last gap is both that of the optimizer and that of the certificate
    scalars = {
        tag: list(dict.fromkeys((event.step, event.value) for event in events.Scalars(tag))) for tag in tags["scalars"]
    }
    return scalars | {tag: [(event.step, 0.0) for event in events.Images(tag)] for tag in tags["images"]}


@pytest.mark.long
@pytest.mark.parametrize("when", KILLED)
def test_a_run_that_was_killed_when_training_was_over_is_finished_to_the_bit(
    killed: dict[str, Path], tmp_path: Path, when: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder,) = killed[when].glob("runs/*/*/")
    assert not (folder / "summary.json").exists()
    before = dict(Run(folder).checkpoint()["state_dict"])
    finished = train(killed[when], f"ckpt_path={folder.relative_to(killed[when])}", KILLED[when][0][-1])
    assert finished.folder == folder.resolve()
    said = capfd.readouterr()
    epochs = finished.summary["epochs"]
    file = folder.relative_to(killed[when]) / "checkpoints" / "last.ckpt"
    assert f"all {epochs} epochs are in {file}: making the report\n" in said.err
    assert "epoch 1/" not in said.err
    assert said.out.startswith(finished.summary["dataset"]["name"])
    for name, ours in parameters(finished).items():
        assert torch.equal(ours, before[name])
    assert not [path for path in folder.rglob(".*") if path.name != ".hydra"]
    if when == "after the time it had":  # how many epochs that are depends on the machine
        assert list(finished.curve("loss/train")) == list(range(1, epochs + 1))
        return
    straight = train(tmp_path, *KILLED[when][0])
    assert numbers(finished) == numbers(straight)
    assert points(finished) == points(straight)
    assert finished.checkpoint()["calibration"] == straight.checkpoint()["calibration"]
    capfd.readouterr()
    # and then it is finished like any other
    with working_in(killed[when]):
        assert main([f"ckpt_path={folder}", f"max_epochs={epochs}"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"`max_epochs` must exceed the {epochs} epochs in ")


@pytest.mark.long
@pytest.mark.parametrize("when", ["in an epoch", "in an epoch of Adam"])
def test_a_run_that_was_killed_in_an_epoch_goes_on_in_its_folder(
    killed: dict[str, Path], tmp_path: Path, when: str
) -> None:
    (folder,) = killed[when].glob("runs/*/*/")
    finished = train(killed[when], "ckpt_path=latest")
    assert finished.folder == folder.resolve()
    straight = train(tmp_path, *UNDER_WAY[when][0])
    assert numbers(finished) == numbers(straight)
    assert points(finished) == points(straight)
    for name, ours in parameters(finished).items():
        assert torch.equal(ours, parameters(straight)[name])
    assert finished.checkpoint("best")["epoch"] == straight.checkpoint("best")["epoch"]


@pytest.mark.long
def test_a_run_that_was_killed_while_it_polished_goes_on_polishing(killed: dict[str, Path], tmp_path: Path) -> None:
    when = "while it polishes"
    finished = train(killed[when], "ckpt_path=latest")
    assert list(finished.curve("lr")) == [1, 2, 3], "no further epoch of sgd"
    found = finished.summary["optimality"]
    assert found["converged"]
    straight = train(tmp_path, *UNDER_WAY[when][0]).summary["optimality"]
    assert found["value"] == pytest.approx(straight["value"], abs=found["gap"] + straight["gap"])


@pytest.mark.long
@pytest.mark.parametrize("when", ["before any checkpoint", "between two checkpoints"])
def test_a_run_that_was_killed_before_it_had_a_checkpoint_starts_again_in_its_folder(
    killed: dict[str, Path], tmp_path: Path, when: str
) -> None:
    mine = killed[when] / "mine"
    assert list(mine.glob("events.*"))
    assert not (mine / "checkpoints" / "last.ckpt").exists()
    again, straight = train(killed[when], *UNDER_WAY[when][0]), train(tmp_path, *UNDER_WAY[when][0])
    assert again.folder == mine.resolve()
    assert numbers(again) == numbers(straight)
    assert points(again) == points(straight)
    assert len(list(mine.glob("events.*"))) == 1
    assert not [path for path in mine.rglob(".*") if path.name != ".hydra"]


@pytest.mark.long
def test_with_other_settings_it_is_another_run(killed: dict[str, Path], tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(killed["in an epoch"], here)
    (folder,) = here.glob("runs/*/*/")
    (folder / "summary.json").unlink(missing_ok=True)  # another test has finished it
    for typed in (("max_epochs=12",), ("lr=0.01", "max_epochs=13"), ("hydra.run.dir=there", "max_epochs=14")):
        other = train(here, f"ckpt_path={folder}", *typed)
        assert other.folder != folder.resolve()
    assert not (folder / "summary.json").exists()


@pytest.mark.long
def test_the_strength_of_a_path_stays_with_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(tmp_path, "dataset=iris", "l2=[1,0.1]")
    resumed = train(tmp_path, "ckpt_path=latest")
    assert resumed.folder != first.folder
    assert resumed.summary["config"]["l2"] == first.summary["config"]["l2"]
    assert resumed.summary["path"] == first.summary["path"]
    capsys.readouterr()
    with working_in(tmp_path):
        assert main(["ckpt_path=latest", "l2=path"]) == 2
        said = capsys.readouterr().err
        assert (
            said == "`ckpt_path` must be of a run with the same path over l2. Leave the path out, to continue with "
            "l2=0.1, which the checkpoint has.\n"
        )
        assert main(["ckpt_path=latest", "l2=0.1", "report=brief"]) == 0


def test_nobody_writes_into_the_folder_of_a_run_that_is_under_way(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = ("dataset=digits", "optimizer=sgd", "max_epochs=100000", "report=brief", "hydra.run.dir=mine")
    process = begun(_in_silence, typed, tmp_path)
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "runs" / "latest").exists():
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with working_in(tmp_path):
            assert main(["ckpt_path=mine"]) == 2
        assert capfd.readouterr().err.endswith(
            "`ckpt_path` must not be the folder of a run that is under way, and another process trains in mine. "
            "Wait for its end, or stop it.\n"
        )
        (tmp_path / "mine" / "checkpoints" / "last.ckpt").rename(tmp_path / "moved.ckpt")  # as before the first
        (tmp_path / "mine" / "checkpoints" / "best.ckpt").unlink()
        with working_in(tmp_path):
            assert main(["max_epochs=1", "hydra.run.dir=mine"]) == 2
    finally:
        process.kill()
        process.join()
    said = capfd.readouterr().err
    assert said.startswith("`hydra.run.dir` must ")
    assert said.count("\n") == 1


# Clusters

ALLOCATION = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NODELIST": "a,b",
}
"""What SLURM sets in an allocation; a process that srun starts there has the variables of its step, too."""


@pytest.mark.long
def test_a_plain_python_in_an_allocation_is_one_process(
    tmp_path: Path, cancer: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    for name, value in ALLOCATION.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # what Lightning reads when it is imported
    # what Lightning would silently go on from
    shutil.copyfile(cancer.folder / "checkpoints" / "last.ckpt", tmp_path / "hpc_ckpt_1.ckpt")
    run = train(tmp_path, "dataset=breast_cancer", "optimizer=sgd", "max_epochs=8", "l2=0.01")
    assert "process" not in capsys.readouterr().err
    assert run.curve("loss/train") == cancer.curve("loss/train")
    assert (run.folder / "metrics.csv").read_text() == (cancer.folder / "metrics.csv").read_text()
    assert run.summary["metrics"] == cancer.summary["metrics"]


def test_slurm_does_not_start_a_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ALLOCATION.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGUSR1)
    during = []

    from logreg.training.progress_display import ProgressDisplay

    def noted(self: ProgressDisplay, trainer: object, module: object) -> None:
        during.append(signal.getsignal(signal.SIGUSR1))

    monkeypatch.setattr(ProgressDisplay, "on_train_epoch_end", noted)
    train(tmp_path, "max_epochs=1")
    assert during == [before]


def test_arguments_of_the_trainer_in_the_environment_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PL_TRAINER_MAX_STEPS", "1")
    with working_in(tmp_path):
        assert main(["max_epochs=2"]) == 2
    assert capsys.readouterr().err == (
        "`PL_TRAINER_MAX_STEPS` must not be set in the environment. Unset it, and type trainer.max_steps=VALUE.\n"
    )
    assert not list(tmp_path.iterdir())
