"""Very many classes: no K x K matrix and no N x K matrix of all rows, in a run and in the commands that follow it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from logreg.commands import certify, compare, evaluate, predict
from whole_runs import Run, train, working_in

pytestmark = pytest.mark.long

CLASSES, ROWS = 2200, 6600
"""4.84 million pairs of classes, and as many of a class and a row of a split."""

LARGEST = 2**22
"""Numbers of the largest tensor: those of the bootstrap, `CLASS_SCORES_AT_ONCE`."""


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that an operation returns; of sparse ones the numbers that are stored."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.numel, self.where = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tree_flatten(result)[0]:
            if isinstance(one, Tensor) and one.layout == torch.strided:
                numel = one.untyped_storage().nbytes() // one.itemsize
                if numel > self.numel:
                    self.numel, self.where = numel, str(func)
        return result


@contextmanager
def bounded() -> Iterator[None]:
    """Asserts that no tensor inside is large."""
    with Largest() as largest:
        yield
    assert largest.numel <= LARGEST, largest.where


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of every step that a run may have, on three rows of each class."""
    folder = tmp_path_factory.mktemp("many")
    draw = np.random.default_rng(0)
    labels = np.arange(ROWS) % CLASSES
    means = draw.normal(size=(CLASSES, 4))
    np.save(folder / "x.npy", (2 * means[labels] + draw.normal(size=(ROWS, 4))).astype(np.float32))
    np.save(folder / "y.npy", labels)
    with bounded():
        return train(
            folder,
            "dataset=features",
            "dataset.path=[x.npy,y.npy]",
            "optimizer=sgd",
            "l2=1e-3",
            "max_epochs=1",
            "calibrate=temperature",
            "dataset.class_weight=balanced",
            "report=full",
        )


def test_reports_list_some_classes_and_files_have_all(run: Run) -> None:
    for name in ("summary.json", "report.md", "metrics.csv"):
        assert len((run.folder / name).read_text(encoding="utf-8").splitlines()) < 1500, name
    summary = run.summary
    assert summary["dataset"]["num_classes"] == summary["evaluation"]["num_classes"] == CLASSES
    assert len(summary["evaluation"]["classes"]) == 20
    assert "Of 2,200 classes" in (run.folder / "report.md").read_text(encoding="utf-8")
    with (run.folder / "classes.csv").open(encoding="utf-8") as file:
        classes = list(csv.DictReader(file))
    assert [one["class"] for one in classes] == sorted((str(k) for k in range(CLASSES)), key=int)
    by_name = {one["class"]: one for one in classes}
    for one in summary["evaluation"]["classes"]:
        assert float(by_name[one["class"]]["f1_low"]) == one["f1"]["low"]
    recall = np.mean([float(one["recall"]) for one in classes])
    assert recall == pytest.approx(summary["evaluation"]["metrics"]["balanced_accuracy"]["value"])
    with (run.folder / "confusions.csv").open(encoding="utf-8") as file:
        wrong = sum(float(one["rows"]) for one in csv.DictReader(file))
    rows = summary["dataset"]["rows"]["test"]
    assert 1 - wrong / rows == pytest.approx(summary["evaluation"]["metrics"]["accuracy"]["value"])


def test_the_certificate_is_a_bound(run: Run) -> None:
    optimality = run.summary["optimality"]
    assert optimality["rigorous"]
    assert 0 < optimality["gap"] < 0.9 * optimality["value"]


def test_the_commands_that_follow_are_bounded_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(run.folder)
    with working_in(run.folder.parents[2]), bounded():
        assert predict.main([f"ckpt_path={path}", "input=x.npy", "output=p.csv"]) == 0
        assert evaluate.main([f"ckpt_path={path}"]) == 0
        assert certify.main([f"ckpt_path={path}", "tolerance=0.9"]) == 0
        assert compare.main([path, path]) == 0
    assert len(capsys.readouterr().out.splitlines()) < 120
    with (run.folder.parents[2] / "p.csv").open(encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    assert first["predicted"] == first["top 1"]
    assert float(first["p(top 1)"]) >= float(first["p(top 2)"]) >= float(first["p(top 5)"]) > 0


def test_an_exact_fit_is_bounded_and_certified(tmp_path: Path) -> None:
    from logreg.losses.objective import Objective
    from logreg.solvers.fit import fit

    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(ROWS) % CLASSES
    features = 2 * torch.randn(CLASSES, 4, generator=draw)[labels] + torch.randn(ROWS, 4, generator=draw)
    with bounded():
        found = fit(features, labels, Objective("cross_entropy", l2=1.0), tolerance=1e-5)
    assert found.converged
    assert found.bound.rigorous
