"""Whole runs on sparse features as a user types them: the numbers of the same features as a dense matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import dump_svmlight_file
from torch import Tensor

from logreg.training.checkpoint_reading import TrainedModel
from whole_runs import Answer, Run, train

RunCommand = Callable[..., Answer]

ROWS, WIDTH = 240, 30
SAME = 1e-9
"""How far apart the coefficients of sparse and of dense rows may be, relative to the largest."""


def rows_of(classes: int, seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Random features, about four of five 0; feature 1 is in no row, feature 2 in all, feature 3 far from 0."""
    draw = np.random.default_rng(seed)
    dense = draw.standard_normal((rows, WIDTH)) * (draw.random((rows, WIDTH)) < 0.2)
    dense[::40] = 0
    dense[:, 1], dense[:, 2], dense[:, 3] = 0, 1 + draw.random(rows), 5 + draw.random(rows)
    logits = dense @ np.random.default_rng(99).standard_normal((WIDTH, classes)) + draw.gumbel(size=(rows, classes))
    return dense, (logits - logits.mean(0)).argmax(1)


class Written(NamedTuple):
    """The same rows in each format, as ``dataset.path`` names them."""

    dense: str
    sparse: str
    svmlight: str


def write(folder: Path, classes: int = 2, seed: int = 0, name: str = "X", rows: int = ROWS) -> Written:
    features, labels = rows_of(classes, seed, rows)
    np.savez(folder / f"{name}_dense.npz", features=features, labels=labels)
    sparse.save_npz(folder / f"{name}.npz", sparse.csr_array(features))
    np.save(folder / f"{name}_labels.npy", labels)
    dump_svmlight_file(features, labels, str(folder / f"{name}.svm"), zero_based=False)
    return Written(f"{name}_dense.npz", f"[{name}.npz,{name}_labels.npy]", f"{name}.svm")


def fitted(folder: Path, path: str, *arguments: str) -> Run:
    return train(folder, "dataset=features", f"dataset.path={path}", "precision=64", *arguments)


def model_of(run: Run) -> tuple[Tensor, Tensor]:
    return TrainedModel.load(run.folder / "checkpoints" / "last.ckpt").module.model.in_source_units()


def assert_same_model(ours: Run, theirs: Run, same: float = SAME) -> None:
    (coef, intercept), (other, other_intercept) = model_of(ours), model_of(theirs)
    size = float(other.abs().max())
    torch.testing.assert_close(coef, other, rtol=0, atol=same * size)
    torch.testing.assert_close(intercept, other_intercept, rtol=0, atol=same * max(size, 1.0))


@pytest.mark.parametrize("standardize", ["true", "false"])
@pytest.mark.parametrize(
    ("classes", "arguments"),
    [
        (2, ("optimizer=newton", "l2=1e-2")),
        (2, ("optimizer=lbfgs", "l2=1e-2")),
        (2, ("optimizer=auto", "l2=1e-3", "l1=1e-2")),
        (3, ("optimizer=newton", "l2=1e-2")),
        (3, ("optimizer=lbfgs", "l2=1e-2", "loss=bce")),
        (2, ("optimizer=newton", "l2=1e-2", "intercept=false")),
        (2, ("optimizer=newton", "l2=1e-2", "dataset.class_weight=balanced")),
    ],
)
def test_exact_fits_are_those_of_dense_rows(
    tmp_path: Path, classes: int, arguments: tuple[str, ...], standardize: str
) -> None:
    written = write(tmp_path, classes)
    arguments = (*arguments, f"dataset.standardize={standardize}", "tolerance=1e-22")
    dense = fitted(tmp_path, written.dense, *arguments)
    for path in (written.sparse, written.svmlight):
        ours = fitted(tmp_path, path, *arguments)
        assert_same_model(ours, dense)
        mine, theirs = ours.summary, dense.summary
        assert mine["optimality"]["rigorous"] is theirs["optimality"]["rigorous"] is True
        assert mine["optimality"]["value"] == pytest.approx(theirs["optimality"]["value"], rel=1e-12)
        for split in ("train", "val", "test"):
            assert mine["metrics"][split] == pytest.approx(theirs["metrics"][split], rel=1e-7)


def test_sparse_features_are_not_standardized_by_default(tmp_path: Path) -> None:
    written = write(tmp_path)
    by_default = fitted(tmp_path, written.sparse, "l2=1e-2")
    assert not by_default.checkpoint()["hyper_parameters"]["facts"]["mean"]
    assert fitted(tmp_path, written.dense, "l2=1e-2").checkpoint()["hyper_parameters"]["facts"]["mean"]


@pytest.mark.parametrize("arguments", [("l2=auto",), ("l2=path", "cv=3"), ("l1=path", "l2=0", "cv=3")])
def test_the_strength_that_is_chosen_is_that_of_dense_rows(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    written = write(tmp_path)
    dense = fitted(tmp_path, written.dense, "dataset.standardize=false", *arguments)
    ours = fitted(tmp_path, written.sparse, *arguments)
    assert ours.checkpoint()["hyper_parameters"]["l2"] == dense.checkpoint()["hyper_parameters"]["l2"]
    assert ours.checkpoint()["hyper_parameters"]["l1"] == pytest.approx(
        dense.checkpoint()["hyper_parameters"]["l1"], rel=1e-6
    )
    if arguments[0] == "l2=auto":  # a rough search, whose fits end where they end
        return
    mine, theirs = (run.summary["cross_validation"]["metrics"] for run in (ours, dense))
    assert mine["loss"]["mean"] == pytest.approx(theirs["loss"]["mean"], rel=1e-3)
