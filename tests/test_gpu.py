"""Fits of rows on a GPU: as on the CPU, and no rows go back to the host.

Without a GPU the CPU stands in for it: the same tests then hold that no tensor is made on the wrong device.
"""

from __future__ import annotations

from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import Tensor

from devices import WatchedDevice
from logreg import LogisticRegression
from logreg.data import TensorDataModule, build_dataset
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers import choose, kernels
from logreg.solvers.fit import Fit, bound_of, fit, problem_of
from logreg.solvers.passes.base import drive
from logreg.solvers.paths.l2_path import PathPoint, fit_path
from logreg.training.module import LogisticModule


class Case(NamedTuple):
    """A problem that one part of the exact solvers is for."""

    rows: int
    features: int
    classes: int
    objective: Objective
    optimizer: str = "newton"
    weighted: bool = False
    dtype: torch.dtype = torch.float32

    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features (N, D), labels (N,) and weights (N,) on the CPU."""
        draw = torch.Generator().manual_seed(0)
        features = torch.randn(self.rows, self.features, generator=draw)
        logits = features @ torch.randn(self.features, self.classes, generator=draw) / self.features**0.5
        labels = (logits + torch.randn(logits.shape, generator=draw)).argmax(1)
        weights = torch.rand(self.rows, generator=draw) + 0.5
        return features.to(self.dtype), labels, weights if self.weighted else None


CASES = {
    "newton": Case(2000, 10, 2, Objective("bce", l2=1e-3)),
    "newton in float64": Case(2000, 10, 2, Objective("bce", l2=1e-3), dtype=torch.float64),
    "without a penalty": Case(2000, 10, 2, Objective("bce")),
    "lbfgs": Case(2000, 20, 2, Objective("bce", l2=1e-3), "lbfgs"),
    "softmax": Case(2000, 20, 5, Objective("cross_entropy", l2=1e-3)),
    "softmax, lbfgs": Case(2000, 20, 5, Objective("cross_entropy", l2=1e-3), "lbfgs"),
    "one-vs-rest": Case(2000, 20, 5, Objective("bce", l2=1e-3)),
    "l1": Case(1000, 20, 2, Objective("bce", l1=1e-2)),
    "l1, many features": Case(300, 600, 2, Objective("bce", l1=3e-2)),
    "l1, softmax": Case(1000, 20, 3, Objective("cross_entropy", l1=1e-2)),
    "few rows of many features": Case(60, 1000, 2, Objective("bce", l2=1e-2)),
    "few rows of many features, softmax": Case(60, 1000, 3, Objective("cross_entropy", l2=1e-2)),
    "conjugate gradients": Case(2000, 1100, 2, Objective("bce", l2=1e-2)),
    "many outputs": Case(1000, 60, 40, Objective("cross_entropy", l2=1e-2)),
    "small": Case(30, 3, 2, Objective("bce", l2=1e-2)),
    "weighted": Case(2000, 10, 2, Objective("bce", l2=1e-3), weighted=True),
    "weighted, softmax": Case(2000, 10, 3, Objective("cross_entropy", l2=1e-3), weighted=True),
}


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), "cpu"])
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> WatchedDevice:
    # Small problems of the CPU have a solver of their own, which a GPU does not use.
    monkeypatch.setattr(choose, "is_small", lambda *_: False)
    if request.param == "cpu":  # it stands in for a GPU, whose tensors NumPy does not read
        monkeypatch.setattr(kernels, "NUMPY_DEVICES", ())
    return WatchedDevice(request.param)


def fitted(case: Case, watched: WatchedDevice | None = None) -> Fit:
    """The fit of a case on the device; on the CPU, unwatched, where ``None``."""
    tensors = case.tensors()
    if watched is None:
        return fit_of(case, *tensors)
    features, labels, weights = (None if one is None else watched.put(one) for one in tensors)
    assert features is not None
    assert labels is not None
    with watched:
        return fit_of(case, features, labels, weights)


def fit_of(case: Case, features: Tensor, labels: Tensor, weights: Tensor | None) -> Fit:
    return fit(features, labels, case.objective, case.classes, weights, optimizer=case.optimizer)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_exact_fit_is_that_of_the_cpu(case: Case, watched: WatchedDevice) -> None:
    theirs, ours = fitted(case), fitted(case, watched)
    assert watched.holds(ours.coef)
    assert ours.converged
    assert ours.bound.rigorous
    torch.testing.assert_close(ours.coef.cpu(), theirs.coef, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.intercept.cpu(), theirs.intercept, rtol=0, atol=1e-4)
    # No number for each row went back; with l1 a matrix by the coefficients of the working set did, and of rows fewer
    # than features the numbers by which steps within their span are computed.
    is_wide = case.features > case.rows
    assert watched.largest_copy < case.rows * (case.features if case.objective.l1 or is_wide else 1)


def test_a_path_is_that_of_the_cpu(watched: WatchedDevice) -> None:
    case = CASES["softmax"]
    features, labels, _ = case.tensors()

    def points(features: Tensor, labels: Tensor) -> list[PathPoint]:
        rows = MemoryRows(features, labels)
        return drive(fit_path(problem_of(rows, case.objective), [1.0, 1e-2, 1e-4]), rows)

    theirs = points(features, labels)
    features, labels = watched.put(features), watched.put(labels)
    with watched:
        ours = points(features, labels)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.converged
        torch.testing.assert_close(mine.point.cpu(), other.point, rtol=0, atol=1e-4)
    assert watched.largest_copy < case.rows


@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_a_certificate_of_any_point_is_that_of_the_cpu(l2: float, watched: WatchedDevice) -> None:
    features, labels, _ = CASES["softmax"].tensors()
    objective = Objective("cross_entropy", l2=l2)
    rows = MemoryRows(features, labels)
    problem = problem_of(rows, objective)
    point = torch.full_like(problem.zeros(), 0.01)
    theirs = bound_of(problem, point, rows)
    features, labels, there = (watched.put(one) for one in (features, labels, point))
    with watched:
        rows = MemoryRows(features, labels)
        ours = bound_of(problem_of(rows, objective), there, rows)
    assert ours.rigorous == theirs.rigorous
    assert ours.gap == pytest.approx(theirs.gap)
    assert watched.largest_copy < len(labels)


@pytest.mark.parametrize("name", ["newton", "softmax", "l1", "weighted, softmax"])
def test_an_estimator_of_tensors_is_that_of_the_cpu(name: str, watched: WatchedDevice) -> None:
    case = CASES[name]
    tensors = case.tensors()
    objective = case.objective
    C = 1 / (case.rows * (objective.l2 + objective.l1))
    model = LogisticRegression(C=C, l1_ratio=float(objective.l1 > 0), class_weight="balanced", warm_start=True)
    theirs = clone(model).fit(*(None if one is None else one.numpy() for one in tensors))
    features, labels, weights = (None if one is None else watched.put(one) for one in tensors)
    with watched:
        model.fit(features, labels, weights)
        copied = watched.largest_copy
        model.fit(features, labels, weights)  # from the coefficients of the first
        found = [getattr(model, method)(features) for method in ("predict", "predict_proba", "decision_function")]
    assert all(watched.holds(one) for one in found)
    np.testing.assert_allclose(model.coef_, theirs.coef_, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found[1].cpu().numpy(), theirs.predict_proba(tensors[0].numpy()), rtol=0, atol=1e-4)
    assert model.certificate_.converged
    assert copied < case.rows * (case.features if objective.l1 else 1)


@pytest.mark.gpu
def test_arrays_are_fitted_on_the_device_that_is_named() -> None:
    features, labels, _ = CASES["softmax"].tensors()
    ours = LogisticRegression(device="cuda").fit(features.numpy(), labels.numpy())
    theirs = LogisticRegression().fit(features.numpy(), labels.numpy())
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=1e-3)
    assert ours.score(features.cuda(), labels.cuda()) == theirs.score(features.numpy(), labels.numpy())


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*isinstance.treespec, LeafSpec")
@pytest.mark.filterwarnings("ignore:.*configure_optimizers.*returned.*None")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "newton"])
@pytest.mark.parametrize("dataset", ["blobs", "digits"])
def test_a_run_of_the_trainer_is_that_of_the_cpu(optimizer: str, dataset: str, watched: WatchedDevice) -> None:
    def trained(accelerator: str) -> tuple[LogisticModule, TensorDataModule]:
        exact_passes = 0 if optimizer == "newton" else None
        data = TensorDataModule(build_dataset(dataset, {}), 50, {"val": 0.2}, full_passes_from_epoch=exact_passes)
        module = LogisticModule(data.facts, l2=0.01, optimizer=optimizer, lr=0.01, batch_size=50, max_epochs=2)
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=2 if exact_passes is None else 50,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, datamodule=data)
        module.certify(data.row_source("train", module.device), trainer.current_epoch, seconds=0.0, last=True)
        return module, data

    theirs, _ = trained("cpu")
    if watched.is_pretended:  # the data module cannot tell the CPU from the device
        ours, data = trained("cpu")
    else:
        with watched:
            ours, data = trained("gpu")
    torch.testing.assert_close(ours.model.coef.cpu(), theirs.model.coef, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.model.intercept.cpu(), theirs.model.intercept, rtol=0, atol=1e-4)
    assert ours.certificate is not None
    assert ours.certificate.rigorous
    assert ours.certificate.converged == (optimizer == "newton")
    # scores of val rows are ranked on the host, and nothing else is copied that has a number for each row
    most = max(data.facts.rows["val"], ours.model.coef.numel() + len(ours.model.intercept))
    assert watched.largest_copy <= most


def test_a_tensor_on_the_wrong_device_is_found() -> None:
    watched = WatchedDevice("cpu")
    features = watched.put(torch.ones(3, 2))
    with watched:
        assert watched.holds((2 * features + features.new_zeros(3, 1))[:, 0])
        assert watched.holds(torch.zeros(2, device=features.device) + features[0])
        assert watched.largest_copy == 0
        with pytest.raises(AssertionError, match="add of tensors on two devices"):
            features.add(torch.zeros(2))
        with pytest.raises(AssertionError, match="matmul"):
            torch.matmul(features, torch.eye(2))
        assert float(features.sum()) == 6
        assert watched.largest_copy == 1
        features.cpu().add(torch.zeros(2))
        assert watched.largest_copy == 6
