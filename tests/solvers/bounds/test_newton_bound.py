"""Bounds of f - f* by a Newton step: never below the true distance, and close to it with all rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.bounds.base import Bound, evaluated_point
from logreg.solvers.bounds.newton_bound import MAX_REACH, bound_by_newton_step, bound_by_sample
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.passes.base import drive, request
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.problem import Problem

LOSSES = [("bce", 2), ("bce", 3), ("cross_entropy", 2), ("cross_entropy", 3)]


class Near:
    """A point near the optimum of a drawn problem, and its distance from the minimum."""

    def __init__(self, loss: str, classes: int, intercept: bool = True, far: float = 1e-3, l2: float = 1e-6) -> None:
        draw = torch.Generator().manual_seed(classes)
        self.features = torch.randn(2000, 5, generator=draw, dtype=torch.float64)
        logits = self.features @ torch.randn(5, classes, generator=draw, dtype=torch.float64)
        noise = torch.rand(2000, classes, generator=draw, dtype=torch.float64)
        labels = (logits - (-noise.log()).log()).argmax(1)
        self.weights = weights = torch.rand(2000, generator=draw, dtype=torch.float64)
        objective = Objective(loss, l2=l2)
        self.rows = MemoryRows(self.features, labels, weights)
        self.problem: Problem = problem_of(self.rows, objective, classes, intercept=intercept)
        best = fit(self.features, labels, objective, classes, weights, tolerance=1e-14, intercept=intercept)
        at = torch.cat([best.coef, best.intercept.unsqueeze(1)], dim=1)
        self.point = at + far * torch.randn(at.shape, generator=draw, dtype=torch.float64)
        self.point[:, -1] *= float(intercept)
        derivatives = Evaluate(self.problem, self.problem.model, self.point, torch.float64, torch.float64)
        self.evaluation = drive(request(derivatives), self.rows)
        self.gap = self.evaluation.value - best.bound.value

    def bound(self, every: int) -> Bound | None:
        """The bound by one row in ``every``."""
        sample = Batch(self.features[::every], self.rows.labels[::every], self.weights[::every])
        return drive(bound_by_sample(self.problem, self.problem.model, self.point, self.evaluation, sample), self.rows)

    def bound_by(self, step: Tensor) -> Bound | None:
        """The bound by all rows and a step."""
        rows = torch.cat([self.features, torch.full((2000, 1), float(self.problem.intercept))], dim=1)
        curvature = self.problem.loss.evaluate_precisely(rows @ self.point.T, self.rows.labels).curvature
        weights = (self.weights * self.problem.row_sum_scale).unsqueeze(1)
        at = evaluated_point(self.problem, self.problem.model, self.point, self.evaluation)
        return drive(bound_by_newton_step(at, rows, weights, curvature, step), self.rows)


@pytest.mark.parametrize(("loss", "classes"), LOSSES)
@pytest.mark.parametrize("intercept", [True, False])
def test_with_all_rows_the_bound_is_the_distance_from_the_minimum(loss: str, classes: int, intercept: bool) -> None:
    near = Near(loss, classes, intercept)
    found = near.bound(every=1)
    assert found is not None
    assert found.rigorous
    assert 1 - 1e-6 < found.gap / near.gap < 1.01
    assert found.rounding < 1e-6 * found.gap


@pytest.mark.parametrize(("loss", "classes"), LOSSES)
def test_with_a_part_of_the_rows_the_bound_is_larger_by_about_that_part(loss: str, classes: int) -> None:
    near = Near(loss, classes)
    found = near.bound(every=8)
    assert found is not None
    assert 4 < found.gap / near.gap < 16


@pytest.mark.parametrize(("loss", "classes"), LOSSES)
def test_any_step_gives_a_bound(loss: str, classes: int) -> None:
    near = Near(loss, classes, l2=1e-2)
    draw = torch.Generator().manual_seed(7)
    for size in (0.0, 1e-4, 1e-3):
        step = size * torch.randn(near.point.shape, generator=draw, dtype=torch.float64)
        # The sums of theta over the rows must be about 0.
        step[:, -1] = near.evaluation.gradient[:, -1] / near.evaluation.curvature.diagonal()
        found = near.bound_by(step)
        assert found is not None
        assert found.gap + found.rounding >= near.gap


@pytest.mark.parametrize(("loss", "classes"), LOSSES)
def test_a_loose_bound_is_one_as_well(loss: str, classes: int) -> None:
    near = Near(loss, classes, far=0.02)
    found = near.bound(every=1)
    assert found is not None
    assert 1 < found.gap / near.gap < 1.4


def test_there_is_no_bound_where_a_logit_changes_by_too_much() -> None:
    near = Near("bce", 2)
    largest = float(near.features[:, 0].abs().max())
    step = torch.zeros_like(near.point)
    step[0, 0] = 1.01 * MAX_REACH / largest
    assert near.bound_by(step) is None
    step[0, 0] = 0.99 * MAX_REACH / largest
    assert near.bound_by(step) is not None


def test_a_summed_loss_has_a_bound_larger_by_the_sum_of_the_weights() -> None:
    near = Near("bce", 2)
    mean = near.bound(every=4)
    total = near.problem.total_weight
    near.problem = replace(near.problem, objective=Objective("bce", "sum", l2=1e-6 * total))
    near.evaluation = drive(request(Evaluate(near.problem, near.problem.model, near.point, torch.float64)), near.rows)
    summed = near.bound(every=4)
    assert mean is not None
    assert summed is not None
    assert summed.gap == pytest.approx(total * mean.gap, rel=1e-6)
