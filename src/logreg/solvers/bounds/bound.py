"""`bound`, an upper bound on f - f*, the distance of the objective from its minimum, in float64 over all rows.

With a penalty it is a duality gap (`logreg.solvers.bounds.duality`), or by strong convexity for a loss without a known
conjugate.  Where the Hessian can be formed a bound by curvature is tried too (`logreg.solvers.bounds.curvature`); it is
the only one without a penalty.  Else, without a penalty, half the Newton decrement is an estimate and no bound.

Rounding errors are bounded as well.  They are part of the gap or of `Bound.rounding`.
"""

from __future__ import annotations

import math

from torch import Tensor

from logreg.losses import Loss
from logreg.losses.cross_entropy import SATURATED_LOSS
from logreg.solvers.bounds.base import Bound, EvaluatedPoint, conversion_rounding, evaluated_point
from logreg.solvers.bounds.curvature import bound_by_curvature, half_decrement_by_hessian
from logreg.solvers.bounds.duality import bound_by_duality, gap_by_residuals
from logreg.solvers.bounds.strong_convexity import bound_by_strong_convexity
from logreg.solvers.exact_sums import moved_to
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import Derivatives
from logreg.solvers.passes.hessian import HessianDiagonal
from logreg.solvers.passes.precise import (
    EvaluatePrecisely,
    PreciseDerivatives,
    centered_coordinates,
    uncentered_coordinates,
)
from logreg.solvers.passes.sampling import sampled_rows
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.steps.conjugate_gradients import conjugate_gradients
from logreg.solvers.steps.newton_steps import smallest_subgradient

MAX_BOUND_HESSIAN_PARAMETERS = 512
"""Parameters of one Hessian matrix up to which a certificate forms the Hessian: its eigenvalues take P^3 operations."""

MAX_BOUND_HESSIAN_WORK = 1e11
"""Rows times parameters times the parameters of one Hessian matrix up to which a certificate forms the Hessian.

The product is the number of multiplications; a certificate must not cost more than the fit.
"""

GOOD_RELATIVE_GAP = 1e-9
"""Relative gap below which no better bound is computed: 1000 times below the default tolerance."""

MAX_ESTIMATE_PRODUCTS = 25
"""Products with the Hessian, each one pass, for the estimate without a penalty."""


def bound(
    problem: Problem,
    point: Tensor,
    evaluation: Derivatives | None = None,
    enough: float = GOOD_RELATIVE_GAP,
    coordinates: Coordinates | None = None,
    cheaply: bool = False,
) -> PassRequests[Bound]:
    """Bounds f - f* at a point: by duality with a penalty, by curvature where the Hessian can be formed.

    The smaller bound is returned.  Duality needs the conjugate of the loss, curvature its self-concordance; with l2,
    strong convexity needs neither.  For a loss that is not convex only f* >= 0 is known, and `Bound.decrement` states
    how near a local minimum is.  Where f or the gradient is not finite the gap is infinite.

    Args:
        problem: The problem whose rows are requested.
        point: Shape (K, D + 1).
        evaluation: The derivatives at the point in ``coordinates``, in float64, if they are known already.
        enough: The relative gap below which no better bound is looked for.
        coordinates: The coordinates of the point; the model's own where ``None``.
        cheaply: Whether the bound costs no passes beyond the evaluation and the intercepts.
    """
    objective, loss = problem.objective, problem.loss
    by_duality = objective.has_penalty and loss.has_conjugate
    by_strong_convexity = not by_duality and objective.l2 > 0 and not problem.coupled
    by_curvature = not objective.l1 and forms_hessian(problem) and is_self_concordant(loss)
    own = problem.model if coordinates is None else coordinates
    with_hessian = by_curvature and not objective.has_penalty and not cheaply
    at, measured = yield from _evaluated(problem, own, point, evaluation, with_hessian)
    evaluation, value, error = at.evaluation, at.evaluation.value, at.value_error
    slope = at.coordinates.gradient_to(problem.model, evaluation.gradient)
    if objective.l1:
        slope = smallest_subgradient(own.to(problem.model, point), slope, problem.penalties(problem.model)[1])
    # Neither a loss nor a penalty is negative, so f* >= 0.
    gap, rounding, rigorous, dependent = value + error, 0.0, True, tuple[int, ...]()
    if not math.isfinite(gap) or not math.isfinite(float(evaluation.gradient.sum())):
        return Bound(value, math.inf, True, slope, evaluation.loss)
    if not loss.is_convex:
        decrement = None
        if not objective.l1 and forms_hessian(problem):
            decrement = yield from half_decrement_by_hessian(problem, own, point, at, measured)
        return Bound(
            value, gap, True, slope, evaluation.loss, conversion_rounding(at, own), error=error, decrement=decrement
        )
    if by_duality and not gap <= enough * value:
        gap, rounding = min((gap, rounding), (yield from bound_by_duality(at, enough)), key=_total_gap)
    if by_strong_convexity and not gap <= enough * value:
        gap, rounding = min((gap, rounding), ((yield from bound_by_strong_convexity(at)), 0.0), key=_total_gap)
    if by_curvature and not cheaply and not gap + rounding <= enough * value:
        found = yield from bound_by_curvature(problem, own, point, at, measured)
        dependent = found.dependent
        if found.gap < gap + rounding:
            gap, rounding, rigorous = found.gap, 0.0, found.rigorous
    elif objective.l1 and not (by_duality or by_strong_convexity or gap <= enough * value):  # an estimate
        coef = own.to(problem.model, point)[:, :-1]
        of_smooth = at.coordinates.gradient_to(problem.model, evaluation.gradient)
        gap, rigorous = min(gap, gap_by_residuals(problem, coef, of_smooth, evaluation.loss)), False
    elif not (by_curvature or by_duality or by_strong_convexity or cheaply) and not gap <= enough * value:
        estimate = yield from _half_decrement(problem, moved_to(own, problem.model, point), slope)
        if estimate < gap:
            gap, rigorous = estimate, False
    rounding += conversion_rounding(at, own)
    return Bound(value, gap, rigorous, slope, evaluation.loss, rounding, dependent, error)


def _evaluated(
    problem: Problem, own: Coordinates, point: Tensor, evaluation: Derivatives | None, with_hessian: bool
) -> PassRequests[tuple[EvaluatedPoint, PreciseDerivatives | None]]:
    """The point with its derivatives in float64: the ones that are known, or those of a pass, which come with it.

    Args:
        problem: The problem.
        own: The coordinates of the point and of the known derivatives.
        point: Shape (K, D + 1).
        evaluation: The known derivatives, if there are any; they are not used where the loss is saturated.
        with_hessian: Whether a pass computes the Hessian too.
    """
    total = problem.row_sum_scale * problem.total_weight
    if evaluation is not None and evaluation.loss > SATURATED_LOSS * total:
        return evaluated_point(problem, own, point, evaluation), None
    if problem.is_sparse and not with_hessian:
        inner = uncentered_coordinates(problem)
    else:
        inner = centered_coordinates(problem, (yield from sampled_rows(problem)))
    moved = moved_to(own, inner, point)
    measured = yield from request(EvaluatePrecisely(problem, inner, moved, with_hessian))
    return EvaluatedPoint(problem, inner, moved, *measured[:3]), measured


def _total_gap(found: tuple[float, float]) -> float:
    """A gap with its rounding; infinite where it is not a number."""
    return math.inf if math.isnan(sum(found)) else sum(found)


def is_self_concordant(loss: Loss) -> bool:
    """Whether the loss has a self-concordance constant for logits within some reach."""
    return math.isfinite(loss.self_concordance_within(1.0))


def forms_hessian(problem: Problem) -> bool:
    """Whether a certificate may form the Hessian, which then costs no more than a few passes."""
    order = problem.hessian_order
    return (
        order <= MAX_BOUND_HESSIAN_PARAMETERS
        and problem.rows * order * problem.num_parameters <= MAX_BOUND_HESSIAN_WORK
    )


def _half_decrement(problem: Problem, point: Tensor, gradient: Tensor) -> PassRequests[float]:
    """Half the Newton decrement g' H^-1 g / 2, by a few steps of conjugate gradients: an estimate from below."""
    diagonal = yield from request(HessianDiagonal(problem, problem.model, point))
    metric = diagonal.clamp(min=1e-12 * float(diagonal.max()))
    solution = yield from conjugate_gradients(
        problem, problem.model, point, gradient, lambda r: r / metric, 0.03, MAX_ESTIMATE_PRODUCTS
    )
    return solution.predicted_decrease
