"""Which of many optima is reported: the one of least norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import qr
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers import choose
from logreg.solvers.fit import Fit, bound_of, fit, problem_of
from logreg.solvers.methods import prox_newton
from logreg.solvers.minimum_norm import TriangularFactor, move_to_minimum_norm
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import drive
from logreg.solvers.state import SolverState

Array = NDArray[np.float64]
ROWS = 240


def levels(draw: np.random.Generator, number: int) -> Array:
    return np.eye(number)[draw.integers(0, number, ROWS)]


TABLES: dict[str, Callable[[np.random.Generator], Array]] = {
    "all levels of a category": lambda draw: np.column_stack([draw.normal(size=ROWS), levels(draw, 4)]),
    "two categories": lambda draw: np.column_stack([draw.normal(size=ROWS), levels(draw, 4), levels(draw, 3)]),
    "a column twice": lambda draw: draw.normal(size=(ROWS, 2))[:, [0, 1, 0]],
    "a sum of columns": lambda draw: (draw.integers(-9, 9, (ROWS, 2)) / 4.0) @ [[1.0, 0, 1], [0, 1, 1]],
    "a constant column": lambda draw: np.column_stack([draw.normal(size=(ROWS, 2)), np.full(ROWS, 0.1)]),
    "a large constant column": lambda draw: np.column_stack([draw.normal(size=(ROWS, 2)), np.full(ROWS, 12345.678)]),
    "more columns than different rows": lambda draw: np.repeat(draw.normal(size=(8, 12)), ROWS // 8, 0),
    "other units": lambda draw: (
        np.column_stack([draw.normal(size=(ROWS, 2)), levels(draw, 3), draw.normal(size=ROWS)])
        * [1e-3, 1e4, 1, 1, 1, 1e7]
        + [0, 5e4, 0, 0, 0, 0]
    ),
}


def labeled(table: str, classes: int) -> tuple[Tensor, Tensor]:
    """Features (N, D) that float32 holds, and labels that they tell something of."""
    draw = np.random.default_rng(7)
    x = TABLES[table](draw).astype(np.float32).astype(np.float64)
    size = x.std(0)
    units = np.where(size > 1e-6 * np.abs(x.mean(0)), size, np.inf)
    logits = (x - x.mean(0)) / units @ draw.normal(size=(x.shape[1], classes)) * 0.25
    return torch.from_numpy(x), torch.from_numpy((logits + draw.gumbel(size=logits.shape)).argmax(1))


def least_norm(x: Array, logits: Array) -> tuple[Array, Array]:
    """The coefficients of least norm (K, D), and intercepts, that give these logits (N, K)."""
    mean = x.mean(0)
    centered = x - mean
    size = np.abs(centered).max(0)
    some = size > 1e-9 * np.abs(mean)
    unit = centered[:, some] / size[some]
    # A solution by independent columns, less its part in the null space, each in units in which it has its digits.
    _, r, order = qr(unit, mode="economic", pivoting=True)
    kept = order[: int((np.abs(r.diagonal()) > 1e-7 * abs(r[0, 0])).sum())]
    part = np.zeros((x.shape[1], logits.shape[1]))
    part[np.flatnonzero(some)[kept]] = (
        np.linalg.lstsq(unit[:, kept], logits - logits.mean(0), rcond=None)[0] / size[some][kept, None]
    )
    rank, (_, values, axes) = len(kept), np.linalg.svd(unit, full_matrices=True)
    assert values[rank:].max(initial=0) < 1e-6 * values[0]
    null = axes[rank:].T
    null = np.where(np.abs(null) > 1e-9, null, 0) / size[some][:, None]
    part[some] -= null @ np.linalg.lstsq(null, part[some], rcond=None)[0] if null.shape[1] else 0
    return part.T, logits.mean(0) - mean @ part


def by_scikit_learn(x: Array, labels: Array, loss: str) -> Array:
    """Logits at the optimum without a penalty, (N, K), by independent columns alone."""
    centered = x - x.mean(0)
    size = centered.std(0)
    some = size > 1e-9 * np.abs(x).max(0)
    unit = centered[:, some] / size[some]
    _, r, order = qr(unit, mode="economic", pivoting=True)
    unit = unit[:, order[: int((np.abs(r.diagonal()) > 1e-7 * abs(r[0, 0])).sum())]]

    def logits(targets: Array) -> Array:
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(unit, targets)
        return np.asarray(unit @ model.coef_.T + model.intercept_)

    classes = int(labels.max()) + 1
    if loss == "bce" and classes > 2:
        return np.hstack([logits(labels == own) for own in range(classes)])
    found = logits(labels)
    return found - found.mean(1, keepdims=True) if loss == "cross_entropy" else found


def solved(features: Tensor, labels: Tensor, loss: str = "bce", **settings: Any) -> Fit:
    return fit(features, labels, Objective(loss), **{"tolerance": 1e-13} | settings)


@pytest.mark.parametrize(("loss", "classes"), [("bce", 2), ("bce", 3), ("cross_entropy", 3)])
@pytest.mark.parametrize("table", TABLES)
def test_the_solution_of_least_norm_is_that_of_scikit_learn_by_independent_columns(
    table: str, loss: str, classes: int
) -> None:
    features, labels = labeled(table, classes)
    coef, intercept = least_norm(features.numpy(), by_scikit_learn(features.numpy(), labels.numpy(), loss))
    mean, deviation = features.numpy().mean(0), np.maximum(features.numpy().std(0), 1e-3)
    largest = np.abs(coef * deviation).max()
    for optimizer in EXACT:
        for dtype in (torch.float64, torch.float32):
            found = solved(features.to(dtype), labels, loss, optimizer=optimizer)
            ours, at_mean = found.coef.numpy(), found.intercept.numpy() + found.coef.numpy() @ mean
            np.testing.assert_allclose(ours * deviation, coef * deviation, rtol=0, atol=2e-5 * largest)
            np.testing.assert_allclose(at_mean, intercept + coef @ mean, rtol=0, atol=2e-5)


GAUGE = [  # loss, slope, level 3 less level 0, by statsmodels
    (0, 200, 1, 0, 0.612523, 0.629378, 1.07401),
    (1, 200, 100, 500, 0.544215, 0.012747, 1.70086),
    (2, 400, 1, 0, 0.555685, 1.013718, 1.67226),
    (3, 400, 100, 500, 0.598230, 0.007285, 1.79076),
]


@pytest.mark.parametrize(("seed", "rows", "scale", "mean", "loss", "slope", "contrast"), GAUGE)
def test_levels_beside_an_intercept_have_the_contrasts_of_statsmodels(
    seed: int, rows: int, scale: float, mean: float, loss: float, slope: float, contrast: float
) -> None:
    draw = np.random.default_rng(seed)
    z = draw.normal(size=rows)
    level = draw.integers(0, 4, rows)
    labels = torch.from_numpy(draw.random(rows) < 1 / (1 + np.exp(-(0.8 * z + 0.5 * level - 1)))).long()
    x = np.column_stack([np.round(mean + scale * z, 4), np.eye(4)[level]])
    for optimizer in EXACT:
        found = fit(torch.from_numpy(x).float(), labels, Objective("bce"), optimizer=optimizer)
        assert found.converged
        assert found.bound.loss == pytest.approx(loss, abs=1e-6)
        assert float(found.coef[0, 0]) == pytest.approx(slope, rel=1e-3)
        assert float(found.coef[0, 4] - found.coef[0, 1]) == pytest.approx(contrast, rel=1e-3)
        assert float(found.coef[0, 1:].sum()) == pytest.approx(0, abs=1e-9)  # what a vanishing l2 leaves


@pytest.mark.parametrize("optimizer", EXACT)
@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
def test_it_is_the_limit_of_a_vanishing_penalty(loss: str, optimizer: str) -> None:
    features, labels = labeled("two categories", 3)
    near = fit(features, labels, Objective(loss, l2=1e-8), tolerance=1e-15)
    found = solved(features, labels, loss, optimizer=optimizer)
    torch.testing.assert_close(found.coef, near.coef, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.intercept, near.intercept, rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimizer", EXACT)
def test_without_an_intercept_constant_columns_are_columns(optimizer: str) -> None:
    features, labels = labeled("two categories", 2)
    found = solved(features, labels, optimizer=optimizer, intercept=False)
    with_one = solved(features, labels)
    logits = features @ with_one.coef[0] + with_one.intercept  # levels span the ones, so nothing is lost
    expected = np.linalg.lstsq(features.numpy(), logits.numpy(), rcond=1e-10)[0]
    np.testing.assert_allclose(found.coef[0], expected, atol=2e-5)
    assert float(found.intercept) == 0


@pytest.mark.parametrize("optimizer", EXACT)
def test_rows_of_weight_0_do_not_make_columns_independent(optimizer: str) -> None:
    features, labels = labeled("a sum of columns", 2)
    weight = torch.ones(ROWS, dtype=torch.float64)
    weight[:5] = 0
    features[:5, 2] += 3
    weighed = solved(features, labels, optimizer=optimizer, sample_weight=weight)
    without = solved(features[5:], labels[5:], optimizer=optimizer)
    torch.testing.assert_close(weighed.coef, without.coef, rtol=0, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("optimizer", EXACT)
@pytest.mark.parametrize(("loss", "classes"), [("bce", 2), ("cross_entropy", 3)])
def test_where_a_level_separates_the_other_levels_have_the_least_norm(loss: str, classes: int, optimizer: str) -> None:
    features, labels = labeled("two categories", classes)
    known = features[:, 2] > 0
    labels[known] = 1
    found = fit(features, labels, Objective(loss), optimizer=optimizer)
    coef, intercept = least_norm(features.numpy(), features.numpy() @ found.coef.numpy().T + found.intercept.numpy())
    np.testing.assert_allclose(found.coef, coef, atol=1e-9)
    np.testing.assert_allclose(found.intercept, intercept, atol=1e-9)
    assert found.coef.abs().max() < 100
    rest = solved(features[~known], labels[~known], loss)
    assert found.bound.value == pytest.approx(rest.bound.value * float((~known).double().mean()), rel=1e-5)


def test_more_columns_than_rows_stay_small_while_they_separate() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(30, 80, generator=draw)
    for optimizer in EXACT:
        found = fit(features, torch.arange(30) % 2, Objective("bce"), optimizer=optimizer)
        coef, _ = least_norm(features.double().numpy(), (features.double() @ found.coef.T + found.intercept).numpy())
        np.testing.assert_allclose(found.coef, coef, atol=1e-8)


def kinds_of_passes(features: Tensor, labels: Tensor, objective: Objective) -> list[type]:
    kinds: list[type] = []
    fit(features, labels, objective, watch=lambda state, question: kinds.append(type(question)))
    return kinds


def test_no_null_space_is_looked_for_where_the_hessian_is_positive_definite() -> None:
    features, labels = labeled("two categories", 2)
    assert TriangularFactor in kinds_of_passes(features, labels, Objective("bce"))
    assert TriangularFactor not in kinds_of_passes(features[:, [0, 2, 3, 4, 6, 7]], labels, Objective("bce"))
    assert TriangularFactor not in kinds_of_passes(features, labels, Objective("bce", l2=1e-6))
    assert TriangularFactor not in kinds_of_passes(features, labels, Objective("bce", l1=1e-3))


# The classes of a softmax with l1


@pytest.mark.parametrize("held", [True, False], ids=["Hessian", "working sets"])
@pytest.mark.parametrize("optimizer", EXACT)
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_classes_are_moved_to_where_l1_leaves_the_least_norm(
    classes: int, optimizer: str, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not held:
        monkeypatch.setattr(choose, "MAX_HELD_HESSIAN_PARAMETERS", 40)
        monkeypatch.setattr(prox_newton, "MAX_COMPLETE_COEFFICIENTS", 0)
    draw = np.random.default_rng(classes)
    x = draw.normal(size=(300, 20))
    y = (x[:, :5] @ draw.normal(size=(5, classes)) + draw.gumbel(size=(300, classes))).argmax(1)
    l1 = 0.02
    found = fit(
        torch.from_numpy(x),
        torch.from_numpy(y),
        Objective("cross_entropy", l1=l1),
        tolerance=1e-10,
        optimizer=optimizer,
    )
    assert found.converged
    assert float(found.intercept.sum()) == pytest.approx(0, abs=1e-12)
    coef = found.coef.numpy()
    shifts = np.concatenate([coef.ravel(), coef.mean(0), [0.0]])
    for feature in coef.T:
        moved = feature[None] - shifts[:, None]
        penalty, norm = np.abs(moved).sum(1), (moved**2).sum(1)
        assert penalty.min() >= np.abs(feature).sum() - 1e-12
        assert norm[penalty <= penalty.min() + 1e-9].min() >= (feature**2).sum() - 1e-9
    # The limit of a vanishing l2 is the same point.
    near = fit(torch.from_numpy(x), torch.from_numpy(y), Objective("cross_entropy", l1=l1, l2=1e-6), tolerance=1e-12)
    torch.testing.assert_close(found.coef, near.coef, rtol=0, atol=2e-4)
    torch.testing.assert_close(found.intercept, near.intercept, rtol=0, atol=2e-4)


@pytest.mark.parametrize("optimizer", EXACT)
def test_rows_repeated_are_rows_weighted_for_l1(optimizer: str) -> None:
    features, labels = labeled("all levels of a category", 3)
    times = torch.arange(ROWS) % 3
    objective = Objective("cross_entropy", l1=0.01)
    weighted = fit(features, labels, objective, sample_weight=times.double(), optimizer=optimizer, tolerance=1e-11)
    again = torch.repeat_interleave(torch.arange(ROWS), times)
    repeated = fit(features[again], labels[again], objective, optimizer=optimizer, tolerance=1e-11)

    def decision(found: Fit) -> Tensor:
        return features @ found.coef.T + found.intercept

    torch.testing.assert_close(decision(weighted), decision(repeated), rtol=0, atol=1e-4)


def test_the_bound_of_a_point_that_was_moved_is_its_own() -> None:
    draw = torch.Generator().manual_seed(2)
    features = torch.randn(60, 2, generator=draw, dtype=torch.float64)
    features = torch.cat([features, features[:, :1]], dim=1)  # the third column repeats the first
    memory = MemoryRows(features, torch.arange(60) % 2)
    problem = problem_of(memory, Objective("bce"))
    state = SolverState(problem, torch.tensor([[0.5, 0.2, -0.3, 0.1]], dtype=torch.float64))
    before = bound_of(problem, state.point, memory)
    state.best, state.bound = state.point, before._replace(gap=0.0)  # better than any that is true
    drive(move_to_minimum_norm(state), memory)
    torch.testing.assert_close(state.solution, torch.tensor([[0.1, 0.2, 0.1, 0.1]], dtype=torch.float64))
    assert state.bound is not None
    assert state.bound.gap == pytest.approx(before.gap, rel=1e-9)


@pytest.mark.parametrize(("l2", "l1"), [(0.1, 0.0), (0.0, 0.1), (0.1, 0.1)])
@pytest.mark.parametrize("classes", [2, 3])
def test_independent_outputs_with_a_penalty_stay_where_they_are_without_a_pass(
    l2: float, l1: float, classes: int
) -> None:
    draw = torch.Generator().manual_seed(3)
    memory = MemoryRows(torch.randn(30, 3, generator=draw, dtype=torch.float64), torch.arange(30) % classes)
    problem = problem_of(memory, Objective("bce", l2=l2, l1=l1), classes)
    state = SolverState(problem, torch.randn(problem.num_outputs, 4, generator=draw, dtype=torch.float64))
    before = state.solution
    assert list(move_to_minimum_norm(state)) == []
    assert torch.equal(state.solution, before)
