"""Newton steps: by conjugate gradients, by Cholesky factors, by a pseudo-inverse; centered points of a softmax."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of
from logreg.solvers.passes.base import drive, request
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.problem import Problem
from logreg.solvers.steps.conjugate_gradients import conjugate_gradients
from logreg.solvers.steps.newton_steps import factor_hessian, newton_step_pinv
from logreg.solvers.steps.preconditioner import centered


def stated(objective: Objective) -> tuple[Problem, MemoryRows, Tensor]:
    """Three classes in float64, and a point."""
    draw = torch.Generator().manual_seed(5)
    features = torch.randn(80, 3, generator=draw, dtype=torch.float64)
    memory = MemoryRows(features, torch.randint(3, (80,), generator=draw))
    return problem_of(memory, objective, 3), memory, torch.randn(3, 4, generator=draw, dtype=torch.float64)


def test_conjugate_gradients_solve_with_the_hessian() -> None:
    problem, memory, point = stated(Objective("bce", l2=0.1))
    now = drive(request(Evaluate(problem, problem.model, point, torch.float64, torch.float64)), memory)
    assert now.hessian is not None
    found = drive(
        conjugate_gradients(problem, problem.model, point, now.gradient, lambda r: r, 1e-13, 100, 0.0), memory
    )
    residual = now.gradient - torch.einsum("kij,kj->ki", now.hessian, found.step)
    assert float(residual.norm()) < 1e-11 * float(now.gradient.norm())
    assert found.predicted_decrease == pytest.approx(
        float((found.step * (now.gradient + residual)).sum()) / 2, rel=1e-9
    )


def test_conjugate_gradients_return_a_step_of_zero_where_the_gradient_is_zero() -> None:
    problem, memory, point = stated(Objective("cross_entropy", l2=0.1))
    found = drive(conjugate_gradients(problem, problem.model, point, problem.zeros(), lambda r: r, 0.1, 9), memory)
    assert not found.step.any()
    assert found.predicted_decrease == 0


@pytest.mark.parametrize("l1", [0.0, 0.1])
def test_outputs_of_a_softmax_are_centered_as_far_as_the_penalty_allows(l1: float) -> None:
    problem, memory, point = stated(Objective("cross_entropy", l1=l1))
    found = centered(problem, point)
    before, after = (memory.features @ one[:, :-1].T + one[:, -1] for one in (point, found))
    torch.testing.assert_close(torch.softmax(after, 1), torch.softmax(before, 1))
    assert float(found[:, -1].sum().abs()) < 1e-14
    if l1:
        assert torch.equal(found[:, :-1], point[:, :-1])
    else:
        assert float(found.sum(0).abs().max()) < 1e-14


def test_a_step_by_the_pseudo_inverse_has_no_part_along_a_direction_without_curvature() -> None:
    hessian = torch.diag(torch.tensor([2.0, 1e-20, 8.0])).double()
    step, decrease = newton_step_pinv(hessian + 0, torch.tensor([1.0, 0.0, 2.0]).double(), 1e-13)
    torch.testing.assert_close(step, torch.tensor([0.5, 0.0, 0.25]).double())
    assert decrease == pytest.approx(0.5)


@pytest.mark.parametrize("intercept", [True, False])
def test_the_smallest_pivot_is_what_no_earlier_column_explains_of_a_column(intercept: bool) -> None:
    problem, _, _ = stated(Objective("bce", l2=0.1))
    problem = replace(problem, num_outputs=1, intercept=intercept)
    hessian = torch.diag(torch.tensor([4.0, 1.0, 9.0, float(intercept)])).double()
    hessian[1, 2] = hessian[2, 1] = 3 * 0.9  # a correlation of 0.9
    factored_hessian = factor_hessian(problem, hessian.unsqueeze(0))
    assert factored_hessian.smallest_pivot == pytest.approx(1 - 0.9**2, rel=1e-9)
    gradient = torch.tensor([[1.0, 2.0, 3.0, 0.0]]).double()
    torch.testing.assert_close(hessian @ factored_hessian.step(gradient)[0], gradient[0], rtol=1e-9, atol=1e-10)
