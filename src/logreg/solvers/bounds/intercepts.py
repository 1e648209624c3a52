"""The intercepts that are best for given coefficients: bounds by duality need their gradient to be 0.

References:
    Darroch and Ratcliff (1972), Generalized iterative scaling for log-linear models.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from logreg.solvers.bounds.base import EvaluatedPoint
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import sums_joint_curvature
from logreg.solvers.passes.precise import EvaluatePrecisely
from logreg.solvers.problem import Problem
from logreg.solvers.steps.conjugate_gradients import conjugate_gradients
from logreg.solvers.steps.newton_steps import intercept_step

MAX_FEASIBLE_SHIFT = 0.25
"""Largest move of an intercept, times the self-concordance of the loss, for which the moved dual point is feasible.

The moved point theta_i = r_i - c_i shift, with residual r_i and curvature c_i, stays within the domain of the conjugate
with room to spare.
"""

INTERCEPT_CG_RTOL = 1e-5
"""Tolerance of conjugate gradients for the last step of the intercepts of a softmax of many outputs, which a few
products reach: what is left of the gradient then costs its square, some orders of magnitude more than at the best."""

FIRST_INTERCEPT_CG_RTOL = 0.1
"""Tolerance of conjugate gradients for their steps before the last one, after which the curvature is another one."""

MIN_SCALING = 1e-12
"""Smallest factor by which a step of iterative scaling changes a probability, as for a class without rows, and smallest
relative sum of the probabilities of a class that is scaled."""

MAX_INTERCEPT_PRODUCTS = 20
"""Products with the Hessian for one step of these intercepts; each is a pass."""

MIN_VALUE_RATIO = 0.1
"""Part of f that is left after a move of the intercepts alone, below which there is no bound by duality.

Such a bound would be at least 0.9 f, and f itself is one.  Where all rows that weigh are of one class, the intercepts
have no optimum: f tends to 0, and falls below this within a few passes."""

MAX_INTERCEPT_PASSES = 30
"""Passes of Newton's method for the intercepts alone; where they do not suffice there is no bound by duality."""


def solve_intercepts(at: EvaluatedPoint) -> PassRequests[tuple[EvaluatedPoint, Tensor] | None]:
    """Minimizes f over the intercepts alone, until the rest of the way is at most `MAX_FEASIBLE_SHIFT`.

    Returns:
        The point reached and the Newton step for the intercepts that is left there, (K,), to be subtracted; ``None``
        where the passes do not suffice, f falls below `MIN_VALUE_RATIO`, or derivatives are not finite.
    """
    problem, coordinates, first = at.problem, at.coordinates, at.evaluation.value
    for _ in range(MAX_INTERCEPT_PASSES):
        gradient, curvature = at.evaluation.gradient, at.evaluation.curvature
        is_finite = math.isfinite(float(curvature.own.sum() + gradient.sum()))
        if not is_finite or at.evaluation.value < MIN_VALUE_RATIO * first:
            return None
        if moves_through_one_class(at):
            shift = _scaling_step(at)
            if _is_feasible(problem, shift):
                shift = (yield from _intercept_step_by_products(at)).clamp(-1, 1)
        else:
            shift = intercept_step(problem, gradient[:, -1], curvature).clamp(-1, 1)
        if _is_feasible(problem, shift):
            return at, shift
        point = at.point.clone()
        point[:, -1] -= shift
        there = yield from request(EvaluatePrecisely(problem, coordinates, point))
        at = replace(at, point=point, evaluation=there.evaluation)
    return None


def has_many_coupled_outputs(problem: Problem) -> bool:
    """Whether a bound by duality takes several passes, since outputs are too many for their joint curvature."""
    return problem.coupled and problem.intercept and not sums_joint_curvature(problem, torch.float64)


def moves_through_one_class(at: EvaluatedPoint) -> bool:
    """Whether the intercepts are those of a softmax whose joint curvature is not kept, since outputs are many."""
    return at.problem.coupled and at.problem.intercept and at.evaluation.curvature.joint is None


def _is_feasible(problem: Problem, shift: Tensor) -> bool:
    """Whether a dual point that is moved by a shift of the intercepts (K,) is feasible; see `MAX_FEASIBLE_SHIFT`."""
    return float(shift.abs().max()) * problem.loss.self_concordance <= MAX_FEASIBLE_SHIFT


def _scaling_step(at: EvaluatedPoint) -> Tensor:
    """The step of iterative scaling for the intercepts, (K,): f falls at each, fast where classes are far from even.

    References:
        Darroch and Ratcliff (1972), Generalized iterative scaling for log-linear models.
    """
    mass, gradient = at.evaluation.curvature.mass, at.evaluation.gradient[:, -1]
    share = ((mass - gradient) / mass).clamp(min=MIN_SCALING)  # rows of the class, to the sum of their probabilities
    return torch.where(mass > MIN_SCALING * mass.max(), -share.log(), 0.0)


def _intercept_step_by_products(at: EvaluatedPoint) -> PassRequests[Tensor]:
    """About the Newton step for the intercepts alone, (K,), by conjugate gradients."""
    problem, gradient = at.problem, at.evaluation.gradient

    def of_intercepts(gradient: Tensor) -> Tensor:
        """The step by the diagonal of the curvature by the intercepts; 0 for the coefficients."""
        step = torch.zeros_like(gradient)
        step[:, -1] = intercept_step(problem, gradient[:, -1], at.evaluation.curvature)
        return step

    near = _is_feasible(problem, of_intercepts(gradient)[:, -1])
    for rtol in (INTERCEPT_CG_RTOL,) if near else (FIRST_INTERCEPT_CG_RTOL, INTERCEPT_CG_RTOL):
        solution = yield from conjugate_gradients(
            problem, at.coordinates, at.point, gradient, of_intercepts, rtol, MAX_INTERCEPT_PRODUCTS, 0.0
        )
        if not _is_feasible(problem, solution.step[:, -1]):
            break
    return solution.step[:, -1]
