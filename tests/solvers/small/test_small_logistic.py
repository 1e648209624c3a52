"""Few rows with a logistic loss in NumPy: the certificate and the loss are those of torch, number for number."""

from __future__ import annotations

import pytest
import torch

from logreg.losses import LOSSES
from logreg.losses.objective import Objective, Reduction
from logreg.rows import MemoryRows
from logreg.solvers.bounds.base import Bound, EvaluatedPoint
from logreg.solvers.bounds.newton_bound import bound_by_newton_step
from logreg.solvers.fit import problem_of
from logreg.solvers.passes.base import drive
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature
from logreg.solvers.small.small_logistic import SQUARES_MARGIN, SmallLogistic, logistic_terms
from logreg.solvers.small.small_newton import standardized_rows


def test_the_loss_is_that_of_torch() -> None:
    logits = torch.tensor([-800.0, -40.0, -1.0, 0.0, 1e-9, 3.0, 40.0, 800.0], dtype=torch.float64)
    for label in (0, 1):
        labels = torch.full((len(logits),), label)
        expected = LOSSES["bce"].evaluate_precisely(logits.unsqueeze(1), labels)
        minus_sign = (1.0 - 2 * labels).numpy()
        value, wrong, curvature = logistic_terms(logits.numpy() * minus_sign)
        for ours, theirs in zip((value, wrong * minus_sign, curvature), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs.flatten(), rtol=1e-14, atol=0)


def by_numpy_and_torch(
    classes: int, intercept: bool, reduction: Reduction, where: str
) -> tuple[Bound | None, Bound | None]:
    """The bound of `SmallLogistic`, and that of `bound_by_newton_step`, near the optimum or where it is harder."""
    draw = torch.Generator().manual_seed(classes + intercept)
    features = 3 + 2 * torch.randn(200, 4, generator=draw, dtype=torch.float64)
    features[:, 3] = 7.0
    labels = torch.randint(classes, (200,), generator=draw)
    labels = torch.ones_like(labels) if where == "without a wrong row" else labels
    source = MemoryRows(features, labels, torch.rand(200, generator=draw, dtype=torch.float64))
    problem = problem_of(source, Objective("bce", reduction, l2=0.1), classes, intercept=intercept)
    rows, weights, coordinates = standardized_rows(problem, source)
    small = SmallLogistic(problem, rows, labels, weights, coordinates)
    point = torch.zeros(problem.num_outputs, rows.shape[1], dtype=torch.float64).numpy()
    if where != "near the optimum":
        point[:, -1] = 500.0
        point[::2, -1] *= 1 if problem.num_outputs == 1 else -1  # of one against the rest, class 1 is on the other side
        step = 0 * point
    else:
        for _ in range(3):
            found = small.newton_step(small.evaluate(point), 0.0, 0)
            assert found is not None
            step, point = found.step, point - found.step
    now = small.evaluate(point)
    assert (now.loss < 1e-6) == (where == "without a wrong row")
    ours = small.bound(point, now, step)
    terms = problem.loss.evaluate_precisely(rows @ torch.from_numpy(point).T, labels)
    spread = (terms.curvature * weights).sum(0)
    zeros = torch.zeros(problem.num_outputs, 0 if intercept else 1, dtype=torch.float64)
    padded, gradient = (torch.cat([torch.from_numpy(part), zeros], dim=1) for part in (point, now.gradient))
    evaluation = Derivatives(now.value, gradient, InterceptCurvature(spread, spread), now.loss)
    largest = torch.cat([rows.abs().amax(0), zeros[0]])
    squares = torch.where(largest > 0, problem.row_sum_scale * problem.total_weight * SQUARES_MARGIN, 0.0).double()
    at = EvaluatedPoint(problem, coordinates, padded, evaluation, squares, largest)
    theirs = drive(bound_by_newton_step(at, rows, weights, terms.curvature, torch.from_numpy(step)), source)
    return ours, theirs


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("where", ["near the optimum", "far on one side", "without a wrong row"])
def test_the_bound_is_that_of_the_newton_step(classes: int, intercept: bool, reduction: Reduction, where: str) -> None:
    ours, theirs = by_numpy_and_torch(classes, intercept, reduction, where)
    assert ours is not None
    assert theirs is not None
    assert ours.value == pytest.approx(theirs.value, rel=1e-13)
    assert ours.gap == pytest.approx(theirs.gap, rel=1e-9)
    assert ours.rounding == pytest.approx(theirs.rounding, rel=1e-6, abs=0)
    assert theirs.error <= ours.error <= 1.1 * theirs.error  # the penalty is one sum over all outputs
    assert ours.rigorous
    torch.testing.assert_close(ours.gradient, theirs.gradient, rtol=1e-9, atol=1e-12)


def test_there_is_no_bound_where_a_step_is_long() -> None:
    draw = torch.Generator().manual_seed(0)
    source = MemoryRows(torch.randn(50, 2, generator=draw).double(), torch.arange(50) % 2)
    problem = problem_of(source, Objective("bce", l2=0.1))
    rows, weights, coordinates = standardized_rows(problem, source)
    small = SmallLogistic(problem, rows, source.labels, weights, coordinates)
    point = 0 * rows[:1].numpy()
    assert small.bound(point, small.evaluate(point), point) is not None
    assert small.bound(point, small.evaluate(point), point + 1) is None
