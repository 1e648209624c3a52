"""The exact optimizers against scikit-learn's, and what must not change their answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logreg.functional import LossName
from logreg.objective import Objective
from logreg.optim.exact import EXACT, Fit, fit
from logreg.optim.passes import InMemory

TIGHT = 1e-11


class Rows(NamedTuple):
    features: Tensor
    labels: Tensor

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


def random_rows(rows: int, features: int, classes: int, seed: int = 0) -> Rows:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64) + 0.5
    logits = x @ torch.randn(features, classes, generator=draw, dtype=torch.float64) / features**0.5
    noise = -torch.log(-torch.log(torch.rand(rows, classes, generator=draw, dtype=torch.float64)))
    labels = (logits + noise).argmax(1)
    labels[:classes] = torch.arange(classes)
    return Rows(x, labels)


def table(load: object) -> Rows:
    x, y = load(return_X_y=True)  # type: ignore[operator]
    return Rows(torch.from_numpy((x - x.mean(0)) / x.std(0)), torch.from_numpy(y).long())


def loss_of(rows: Rows) -> LossName:
    return "bce" if rows.classes == 2 else "cross_entropy"


def value(rows: Rows, objective: Objective, coef: Tensor, intercept: Tensor, weight: Tensor | None = None) -> float:
    """f, written down once more."""
    logits = rows.features @ coef.T + intercept
    if len(coef) == 1:
        signs = 2.0 * rows.labels.double() - 1
        losses = torch.nn.functional.softplus(-signs * logits[:, 0])
    else:
        losses = torch.logsumexp(logits, 1) - logits.gather(1, rows.labels.unsqueeze(1))[:, 0]
    weight = torch.ones_like(losses) if weight is None else weight
    data = float(losses @ weight / weight.sum())
    return data + objective.l2 / 2 * float(coef.square().sum()) + objective.l1 * float(coef.abs().sum())


def centred(coef: Tensor) -> Tensor:
    return coef if len(coef) == 1 else coef - coef.mean(0)


PROBLEMS = {
    "breast_cancer": table(load_breast_cancer),
    "wine": table(load_wine),
    "iris": table(load_iris),
    "many parameters": random_rows(1500, 110, 10),
    "wide": random_rows(60, 400, 2),
    "wide softmax": random_rows(60, 300, 4),
}


@pytest.mark.parametrize("optimizer", EXACT)
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_fit_is_scikit_learns(name: str, l2: float, optimizer: str) -> None:
    rows = PROBLEMS[name]
    objective = Objective(loss_of(rows), l2=l2)
    theirs = LogisticRegression(C=1 / (l2 * len(rows.labels)), tol=1e-10, max_iter=10_000, solver="newton-cg")
    theirs.fit(rows.features.numpy(), rows.labels.numpy())
    coef, intercept = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
    tolerance = TIGHT if optimizer == "newton" else 1e-8
    ours = fit(rows.features, rows.labels, objective, tolerance=tolerance)
    assert ours.converged
    assert ours.bound.value == pytest.approx(value(rows, objective, ours.coef, ours.intercept), rel=1e-12)
    assert ours.bound.value <= value(rows, objective, coef, intercept) * (1 + tolerance) + 1e-15
    torch.testing.assert_close(ours.coef, centred(coef), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extra", ["sample weights", "class weights", "no intercept", "float32"])
@pytest.mark.parametrize("name", ["wine", "breast_cancer", "many parameters"])
def test_weights_and_the_intercept_mean_what_they_mean_to_scikit_learn(name: str, extra: str) -> None:
    rows = PROBLEMS[name]
    l2, number = 1e-2, len(rows.labels)
    weight = torch.linspace(0, 2, number, dtype=torch.float64) if extra == "sample weights" else None
    of_class = torch.linspace(0.5, 2, rows.classes, dtype=torch.float64)
    row_weight = of_class[rows.labels] if extra == "class weights" else weight
    total = number if row_weight is None else float(row_weight.sum())
    free = extra != "no intercept"
    theirs = LogisticRegression(C=1 / (l2 * total), tol=1e-10, max_iter=10_000, solver="newton-cg", fit_intercept=free)
    theirs.fit(
        rows.features.numpy(), rows.labels.numpy(), sample_weight=None if row_weight is None else row_weight.numpy()
    )
    ours = fit(
        rows.features.float() if extra == "float32" else rows.features,
        rows.labels,
        Objective(loss_of(rows), l2=l2),
        sample_weight=weight,
        class_weight=of_class.tolist() if extra == "class weights" else (),
        intercept=free,
        tolerance=TIGHT,
    )
    assert ours.converged
    torch.testing.assert_close(ours.coef, centred(torch.from_numpy(theirs.coef_)), rtol=1e-4, atol=2e-5)
    if not free:
        assert not ours.intercept.any()


@pytest.mark.parametrize("l2", [0.0, 1e-2])
@pytest.mark.parametrize("name", ["wine", "breast_cancer"])  # saga does not get to the end of a wide one
def test_with_l1_the_zeros_are_exact_and_the_objective_is_scikit_learns(name: str, l2: float) -> None:
    rows = PROBLEMS[name]
    l1 = 2e-2
    objective = Objective(loss_of(rows), l2=l2, l1=l1)
    share = l1 / (l1 + l2)
    scale = 1 / ((l1 + l2) * len(rows.labels))
    theirs = LogisticRegression(C=scale, l1_ratio=share, solver="saga", tol=1e-9, max_iter=20_000)
    theirs.fit(rows.features.numpy(), rows.labels.numpy())
    coef, intercept = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
    ours = fit(rows.features, rows.labels, objective, tolerance=1e-9)
    assert ours.converged
    assert ours.bound.value <= value(rows, objective, coef, intercept) * (1 + 1e-9)
    assert ours.bound.value == pytest.approx(value(rows, objective, coef, intercept), rel=1e-5)
    assert 0 < int((ours.coef == 0).sum()) < ours.coef.numel()
    torch.testing.assert_close(ours.coef, coef, rtol=0, atol=2e-2)


def test_a_row_of_weight_two_is_the_row_twice_and_one_of_weight_zero_is_absent() -> None:
    rows, objective = random_rows(200, 5, 3), Objective("cross_entropy", l2=1e-2)
    weight = torch.tensor([2.0, 1.0, 0.0, 1.0], dtype=torch.float64).repeat(50)
    times = weight.long()
    weighted = fit(*rows, objective, 3, sample_weight=weight, tolerance=TIGHT)
    repeated = fit(
        rows.features.repeat_interleave(times, 0), rows.labels.repeat_interleave(times), objective, 3, tolerance=TIGHT
    )
    torch.testing.assert_close(weighted.coef, repeated.coef, rtol=1e-6, atol=1e-7)
    assert weighted.bound.value == pytest.approx(repeated.bound.value, rel=1e-12)


def test_softmax_of_two_classes_with_twice_the_penalty_is_binary() -> None:
    rows = random_rows(300, 5, 2)
    binary = fit(*rows, Objective("bce", l2=1e-2), tolerance=TIGHT)
    softmax = fit(*rows, Objective("cross_entropy", l2=2e-2), 2, tolerance=TIGHT)
    torch.testing.assert_close(softmax.coef[1] - softmax.coef[0], binary.coef[0], rtol=1e-6, atol=1e-7)
    assert softmax.bound.value == pytest.approx(binary.bound.value, rel=1e-10)


def same(one: Fit, other: Fit, columns: Tensor | None = None) -> None:
    coef = one.coef if columns is None else one.coef[:, columns]
    torch.testing.assert_close(coef, other.coef, rtol=1e-6, atol=1e-7)
    assert one.bound.value == pytest.approx(other.bound.value, rel=1e-10)


@pytest.mark.parametrize("name", ["wine", "many parameters", "wide"])
def test_the_order_of_rows_and_columns_does_not_matter(name: str) -> None:
    rows = PROBLEMS[name]
    objective = Objective(loss_of(rows), l2=1e-2)
    draw = torch.Generator().manual_seed(1)
    order = torch.randperm(len(rows.labels), generator=draw)
    columns = torch.randperm(rows.features.shape[1], generator=draw)
    found = fit(*rows, objective, tolerance=TIGHT)
    same(found, fit(rows.features[order], rows.labels[order], objective, tolerance=TIGHT))
    same(found, fit(rows.features[:, columns], rows.labels, objective, tolerance=TIGHT), columns)


@pytest.mark.parametrize("name", ["wine", "many parameters"])
def test_the_size_of_a_block_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = PROBLEMS[name]
    objective = Objective(loss_of(rows), l2=1e-2)
    whole = fit(*rows, objective, tolerance=TIGHT)
    monkeypatch.setattr("logreg.optim.passes.BLOCK_BYTES", 37 * 4 * rows.features.shape[1])
    assert InMemory(*rows).block_rows == 37
    same(whole, fit(*rows, objective, tolerance=TIGHT))


def test_other_units_change_no_prediction_without_a_penalty() -> None:
    rows = random_rows(500, 4, 3, seed=3)
    scale = torch.tensor([1e-4, 1.0, 1e3, 1e4], dtype=torch.float64)
    one = fit(*rows, Objective("cross_entropy"), tolerance=TIGHT)
    other = fit(rows.features * scale + scale, rows.labels, Objective("cross_entropy"), tolerance=TIGHT)
    assert one.converged
    assert other.converged
    logits = rows.features @ one.coef.T + one.intercept
    others = (rows.features * scale + scale) @ other.coef.T + other.intercept
    torch.testing.assert_close(logits.softmax(1), others.softmax(1), rtol=1e-5, atol=1e-6)


def test_scikit_learns_silent_failure_is_none_of_ours() -> None:
    # 100 rows, 60 columns, one in units of 1e4, one far from 0: where solvers stop early without a warning
    draw = np.random.default_rng(0)
    x = draw.standard_normal((100, 60))
    x[:, 0] *= 1e4
    x[:, 1] += 1e4
    y = torch.from_numpy((x[:, 2] + draw.standard_normal(100) > 0).astype(np.int64))
    for dtype in (torch.float64, torch.float32):
        found = fit(torch.from_numpy(x).to(dtype), y, Objective("bce", l2=1e-2), tolerance=1e-8)
        assert found.converged
        assert found.passes < 40


def test_too_few_passes_end_with_an_honest_bound() -> None:
    rows = PROBLEMS["many parameters"]
    best = fit(*rows, Objective("cross_entropy", l2=1e-3), tolerance=TIGHT).bound.value
    early = fit(*rows, Objective("cross_entropy", l2=1e-3), tolerance=TIGHT, max_passes=6)
    assert not early.converged
    assert early.bound.gap >= early.bound.value - best > 0
