"""Upper bounds on f - f*, the distance of the objective from its minimum, computed in float64 over all rows.

With a penalty the bound is a duality gap.  Let s_i be the weight of row i, S = sum_i s_i (or 1 for a summed loss), z_i
its logits, g(w) = l2/2 w^2 + l1 |w| the penalty of one coefficient, and * the convex conjugate.  Every theta with
sum_i s_i theta_i = 0 (the intercept is not penalized) gives a lower bound of f*, and with V = sum_i s_i theta_i x_i / S

    f - f*  <=  sum_i s_i [loss_i(z_i) + loss_i*(theta_i) - z_i theta_i] / S  +  sum_j [w_j V_j + g(w_j) + g*(-V_j)]

At theta_i = d loss_i / d z_i the first sum, the Fenchel-Young excess, is 0.  For l2 alone the second sum is then

    |gradient by the coefficients|^2 / (2 l2),

the bound by strong convexity.  Both need intercepts whose gradient is exactly 0: the intercepts are solved first, and
theta is moved by the rest.  With l1 alone g* is infinite where |V_j| > l1; theta is scaled down until it is feasible.

Where the Hessian can be formed a bound by curvature is tried too (`logreg.solvers.bounds.curvature`); it is the only
one without a penalty.  Else, without a penalty, half the Newton decrement is an estimate and no bound.

Rounding errors are bounded as well.  They are part of the gap or of `Bound.rounding`.

References:
    Boyd and Vandenberghe (2004), Convex optimization, sections 5.7 (Fenchel duality) and 9.1.2 (strong convexity).
    Koh, Kim and Boyd (2007), An interior-point method for large-scale l1-regularized logistic regression, section 3.
    Higham (2002), Accuracy and stability of numerical algorithms, chapters 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.losses import Loss
from logreg.solvers.bounds.curvature import (
    MAX_FEATURE_RMS,
    SATURATED_LOSS,
    EvaluatedPoint,
    bound_by_curvature,
    half_decrement_by_hessian,
)
from logreg.solvers.exact_sums import moved_to
from logreg.solvers.passes.base import MAX_FOLDED_MEAN, PassRequests, request
from logreg.solvers.passes.evaluate import Derivatives, sums_joint_curvature
from logreg.solvers.passes.hessian import HessianDiagonal
from logreg.solvers.passes.precise import (
    UNIT_ROUNDOFF,
    DualObjective,
    EvaluatePrecisely,
    centered_coordinates,
    uncentered_coordinates,
)
from logreg.solvers.passes.sampling import sampled_rows
from logreg.solvers.problem import Coordinates, Problem, column_parts
from logreg.solvers.steps.conjugate_gradients import conjugate_gradients
from logreg.solvers.steps.newton_steps import intercept_step, smallest_subgradient

MAX_BOUND_HESSIAN_PARAMETERS = 512
"""Parameters of one Hessian matrix up to which a certificate forms the Hessian: its eigenvalues take P^3 operations."""

MAX_BOUND_HESSIAN_WORK = 1e11
"""Rows times parameters times the parameters of one Hessian matrix up to which a certificate forms the Hessian.

The product is the number of multiplications; a certificate must not cost more than the fit.
"""

GOOD_RELATIVE_GAP = 1e-9
"""Relative gap below which no better bound is computed: 1000 times below the default tolerance."""

MAX_UNCHECKED_SHRINKAGE = 1e-9
"""Fraction by which a dual point is scaled down without another pass for the exact cost.

The cost is at most the fraction times f.
"""

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

MAX_LEAST_REACH = 0.7
"""Largest fraction of its least probability by which a row is moved without a pass; with `MAX_FEASIBLE_SHIFT`, by which
rounding may move it further, it is less than 1."""

MAX_MOVE_COST = 0.3
"""Largest cost of a move by the least probabilities, relative to the duality gap without it, where the gap with it is
not enough."""

MAX_INTERCEPT_PASSES = 30
"""Passes of Newton's method for the intercepts alone; where they do not suffice there is no bound by duality."""

SOLVED_INTERCEPT_STEP = 1e-9
"""Largest Newton step for an intercept from which a bracket of its optimum is tried; it is reached by one or two more
steps than the point took, and makes the width of the bracket too small to matter."""

MAX_ESTIMATE_PRODUCTS = 25
"""Products with the Hessian, each one pass, for the estimate without a penalty."""


class Bound(NamedTuple):
    """A bound of f - f* at a point, with the derivatives that it was made from."""

    value: float
    """f, in nats."""
    gap: float
    """Upper bound on f - f* without ``rounding``, in nats; an estimate of f - f* where not ``rigorous``."""
    rigorous: bool
    """Whether the gap is a bound, not an estimate."""
    gradient: Tensor
    """The gradient of f in the model's own coordinates, (K, D + 1); with l1 the subgradient of smallest norm."""
    loss: float
    """f without the penalty, in nats."""
    rounding: float = 0.0
    """Upper bound of the rounding error of the gap, in nats: of sums over the rows, and of the point as stored."""
    dependent: tuple[int, ...] = ()
    """Features that are linearly dependent to within rounding, in ascending order, where they prevent a bound."""
    error: float = 0.0
    """Upper bound of the rounding error of ``value``, in nats; the gap does not contain it."""
    decrement: float | None = None
    """Of a loss that is not convex: half the squared Newton decrement, in nats, about the distance from a local minimum
    nearby; infinite where the Hessian has a negative eigenvalue.  ``None`` where it was not computed."""
    starts: int = 1
    """Number of starts, of whose ends this is the lowest."""


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
    penalized = objective.l2 > 0 or objective.l1 > 0
    curved = not objective.l1 and forms_hessian(problem) and is_self_concordant(loss)
    dual = penalized and loss.has_conjugate
    strong = not dual and objective.l2 > 0 and not problem.coupled
    measured, own = None, problem.model if coordinates is None else coordinates
    total = problem.row_sum_scale * problem.total_weight
    if evaluation is not None and evaluation.loss > SATURATED_LOSS * total:
        at = evaluated_point(problem, own, point, evaluation)
    else:
        hessian = curved and not penalized and not cheaply
        if problem.is_sparse and not hessian:
            inner = uncentered_coordinates(problem)
        else:
            inner = centered_coordinates(problem, (yield from sampled_rows(problem)))
        moved = moved_to(own, inner, point)
        measured = yield from request(EvaluatePrecisely(problem, inner, moved, hessian))
        evaluation = measured.evaluation
        at = EvaluatedPoint(problem, inner, moved, *measured[:3])
    value, error = evaluation.value, at.value_error
    slope = at.coordinates.gradient_to(problem.model, evaluation.gradient)
    if objective.l1:
        slope = smallest_subgradient(own.to(problem.model, point), slope, problem.penalties(problem.model)[1])
    empty: tuple[int, ...] = ()
    # Neither a loss nor a penalty is negative, so f* >= 0.
    gap, hidden, rigorous, dependent = value + error, 0.0, True, empty
    if not math.isfinite(gap) or not math.isfinite(float(evaluation.gradient.sum())):
        return Bound(value, math.inf, True, slope, evaluation.loss)
    if not loss.is_convex:
        decrement = None
        if not objective.l1 and forms_hessian(problem):
            decrement = yield from half_decrement_by_hessian(problem, own, point, at, measured)
        return Bound(
            value, gap, True, slope, evaluation.loss, conversion_rounding(at, own), error=error, decrement=decrement
        )
    if dual and not gap <= enough * value:
        gap, hidden = min((gap, hidden), (yield from _bound_by_duality(at, enough)), key=_total_gap)
    if strong and not gap <= enough * value:
        gap, hidden = min((gap, hidden), ((yield from _bound_by_strong_convexity(at)), 0.0), key=_total_gap)
    if curved and not cheaply and not gap + hidden <= enough * value:
        found = yield from bound_by_curvature(problem, own, point, at, measured)
        dependent = found.dependent
        if found.gap < gap + hidden:
            gap, hidden, rigorous = found.gap, 0.0, found.rigorous
    elif objective.l1 and not (dual or strong or gap <= enough * value):
        coef = own.to(problem.model, point)[:, :-1]
        of_smooth = at.coordinates.gradient_to(problem.model, evaluation.gradient)
        gap, rigorous = min(gap, gap_by_residuals(problem, coef, of_smooth, evaluation.loss)), False
    elif not (curved or dual or strong or objective.l1 or cheaply) and not gap <= enough * value:
        estimate = yield from _half_decrement(problem, moved_to(own, problem.model, point), slope)
        if estimate < gap:
            gap, rigorous = estimate, False
    return Bound(value, gap, rigorous, slope, evaluation.loss, conversion_rounding(at, own) + hidden, dependent, error)


def evaluated_point(
    problem: Problem, coordinates: Coordinates, point: Tensor, evaluation: Derivatives
) -> EvaluatedPoint:
    """A point whose sizes of features are bounded and not measured, from an optimizer's evaluation in float64.

    Args:
        problem: The problem of the point.
        coordinates: The coordinates of the optimizer.
        point: Shape (K, D + 1).
        evaluation: The derivatives there.
    """
    # `Pass` subtracts the center after multiplying with the features, unless it is too large for that.
    folded = (coordinates.center / coordinates.scale).abs()
    is_shifted = bool((folded > MAX_FOLDED_MEAN[torch.float64]).any()) and not problem.is_sparse
    folded = torch.zeros_like(folded) if is_shifted else folded
    size = F.pad(MAX_FEATURE_RMS + folded, (0, 1), value=1.0)
    squares = size.square() * problem.row_sum_scale * problem.total_weight
    return EvaluatedPoint(problem, coordinates, point, evaluation, squares, size * math.sqrt(problem.rows))


def conversion_rounding(at: EvaluatedPoint, own: Coordinates) -> float:
    """Upper bound on the change of f when the point is rounded to the model's coordinates and to source units.

    Each coefficient is rounded a few times.  The intercept is a difference of products of coefficients and offsets,
    which may be large.

    Args:
        at: The point.
        own: The coordinates in which the caller holds the point.
    """
    problem, gradient = at.problem, at.evaluation.gradient
    centers = at.coordinates.center.abs() + own.center.abs() + problem.model.center.abs()
    offsets = at.sizes[:, :-1] @ (centers / at.coordinates.scale)
    of_intercept = (problem.num_features + 5) * UNIT_ROUNDOFF * offsets + 4 * UNIT_ROUNDOFF * at.sizes[:, -1]
    of_logits = 4 * at.logits_error + of_intercept * math.sqrt(at.total)
    products = sum(float((gradient[:, some].abs() * at.sizes[:, some]).sum()) for some in column_parts(gradient.shape))
    of_slope = float(gradient[:, -1].abs() @ of_intercept) + 4 * UNIT_ROUNDOFF * products
    # To first order f changes by the gradient, which vanishes at the optimum, and to second order by the curvature.
    if not math.isfinite(problem.loss.max_curvature):
        largest = 4 * at.largest_logit_error + of_intercept
        curvature = problem.loss.curvature_sum(at.evaluation.loss, at.total)
        return of_slope + curvature * float(largest.square().sum()) / 2
    return of_slope + _second_order(problem, of_logits)


def _second_order(problem: Problem, of_logits: Tensor) -> float:
    """Upper bound on the change of f beyond first order, by errors of the logits whose norms over the rows are (K,)."""
    return max(problem.loss.max_curvature, 1.0) * float(of_logits.square().sum()) / 2


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


class DualPoint(NamedTuple):
    """A point theta of the dual problem; with l1 alone times the largest number at which it is feasible."""

    sums: Tensor
    """The sums of theta x over the rows, V, and of theta, (K, D + 1)."""
    scale: float
    """The number, in (0, 1], that theta has been multiplied with; see `feasible_scale`."""
    excess: float
    """The Fenchel-Young excess at the primal point that theta belongs to."""
    rounding: float
    """Upper bound of the rounding error of the excess."""
    scaled: Callable[[float], PassRequests[tuple[Tensor, float, float]]] | None = None
    """Computes sums, excess and rounding of theta at another scale, which is relative to that of theta at scale 1;
    only l1 alone needs it."""
    hub: int | None = None
    """The class through which sums of a softmax of many outputs are moved; see `_balance`."""
    with_hub: Tensor | None = None
    """`DualSums.with_hub` of that class."""
    reach: float = MAX_FEASIBLE_SHIFT
    """Largest fraction by which theta changes a probability from that of the residuals."""


def feasible_scale(problem: Problem, coordinates: Coordinates, sums: Tensor) -> float:
    """The factor in (0, 1] that makes a dual point feasible.

    The conjugate of l1 |w| is infinite beyond l1; with l2 every dual point is feasible.

    Args:
        problem: The problem.
        coordinates: The coordinates of ``sums``.
        sums: The sums of theta x over the rows, (K, D + 1).
    """
    if problem.objective.l2 or not problem.num_features:
        return 1.0
    l1 = problem.penalties(coordinates)[1][:-1]
    reach = float((sums[:, :-1].abs() / l1).max())
    return (1 - 1e-12) / reach if reach > 1 else 1.0


def _bound_by_duality(start: EvaluatedPoint, enough: float) -> PassRequests[tuple[float, float]]:
    """The duality gap at a point as it is computed, and an upper bound of what rounding hides of the exact one.

    The dual point is that of the residuals, after the intercepts are solved.  ``enough`` is as of `bound`.
    """
    solved = yield from _solve_intercepts(start)
    if solved is None:
        return math.inf, 0.0
    at, shift = solved
    problem, coordinates, point, evaluation = at.problem, at.coordinates, at.point, at.evaluation
    # Sums of theta that are left are made exactly 0 by one more small move, which `_balance` accounts for.
    before = torch.addcmul(evaluation.gradient, at.penalties[0], point, value=-1.0)
    moved, with_hub = _balanced_by_least(at, before, enough), None
    hub = int(evaluation.curvature.own.argmax()) if moved is None and _moves_through_one_class(at) else None
    sums = before
    if moved is None and evaluation.by_intercept is not None:
        sums = sums - shift.unsqueeze(1) * evaluation.by_intercept
    elif moved is None and (shift.any() or hub is not None):
        sums, _, _, with_hub = yield from request(DualObjective(problem, coordinates, point, shift, hub=hub))
    # Chi squared of the move, which is at least the excess: within such a move the conjugate is nearly quadratic.
    of_shift = sums, max(float(shift @ (before - sums)[:, -1]), 0.0), MAX_FEASIBLE_SHIFT
    sums, excess, reach = moved or of_shift
    rounding = start.probabilities_error + 2 * float(shift.abs() @ _sums_error(at, 0.0))

    def scaled(scale: float) -> PassRequests[tuple[Tensor, float, float]]:
        return (yield from request(DualObjective(problem, coordinates, point, shift, scale)))[:3]

    scale = feasible_scale(problem, coordinates, sums)
    if scale < 1:
        sums, excess, rounding = yield from scaled(scale)
        # Far from the residuals the cost of a move is no chi squared.
        with_hub = None if with_hub is None else torch.zeros_like(with_hub)
    theta = DualPoint(sums, scale, excess, rounding, scaled, hub, with_hub, reach)
    gap, rounding = yield from duality_gap(at, theta)
    if at.point is not start.point:
        rounding += start.value_error + at.value_error
    gap += start.evaluation.value - evaluation.value
    # Conjugate gradients leave more of the sums than rounding does.
    return (gap, rounding) if hub is None else (gap + rounding, 0.0)


def bound_at_dual_point(at: EvaluatedPoint, own: Coordinates, theta: DualPoint) -> PassRequests[Bound]:
    """Bounds f - f* by the duality gap between a point and a dual point that a solver has found.

    Args:
        at: The point; the gradient of its evaluation may be that of theta.
        own: The coordinates in which the caller holds the point.
        theta: The dual point.
    """
    problem, evaluation = at.problem, at.evaluation
    slope = at.coordinates.gradient_to(problem.model, evaluation.gradient)
    l1 = problem.penalties(problem.model)[1]
    slope = smallest_subgradient(at.coordinates.to(problem.model, at.point), slope, l1)
    gap, rounding = yield from duality_gap(at, theta)
    if math.isnan(gap + rounding) or gap + rounding > evaluation.value + at.value_error:
        gap, rounding = evaluation.value + at.value_error, 0.0  # neither a loss nor a penalty is negative
    rounding += conversion_rounding(at, own)
    return Bound(evaluation.value, gap, True, slope, evaluation.loss, rounding, error=at.value_error)


def duality_gap(at: EvaluatedPoint, theta: DualPoint) -> PassRequests[tuple[float, float]]:
    """The duality gap between a point and a dual point, and an upper bound of what rounding hides of the exact one."""
    problem, point, evaluation = at.problem, at.point, at.evaluation
    l2, l1 = (strength[:-1] for strength in at.penalties)
    coef, slopes, excess = point[:, :-1], theta.sums[:, :-1], max(theta.excess, 0.0)
    # The norm over the rows of the residuals: |residual|^2 <= 2 max_curvature loss, for a loss that is smooth and >= 0;
    # and that of theta minus the residuals, by the strong convexity of the conjugate.
    steepest = 2 * problem.loss.max_curvature
    distance = math.sqrt(steepest * excess)
    size = math.sqrt(steepest * evaluation.loss) + distance
    costs, moves = _balance(at, theta.sums[:, -1], math.sqrt(at.total) * distance, theta.hub, theta.with_hub)
    balance = float(costs.sum())
    noise = moves.add_(at.accumulated * size * at.squares[:-1].sqrt())
    if problem.objective.l2:
        of_penalty, rounding = _penalty_terms(coef, slopes, noise, l2, l1 if problem.objective.l1 else None)
    else:
        noise += 8 * UNIT_ROUNDOFF * slopes.abs()
        of_penalty, rounding = yield from _l1_penalty_terms(at, theta, noise, l1)
    rounding += theta.rounding + at.accumulated * (excess + 2 * theta.rounding)
    if problem.objective.l1:  # only coefficients other than 0 have terms
        rounding += (8 + 2 * int(coef.count_nonzero())) * UNIT_ROUNDOFF * float((l1 * coef.abs()).sum())
    rounding += _second_order(problem, at.logits_error) + distance * float(at.logits_error.norm())
    # The second derivative of the conjugate is 1 / q at a probability q, which is at least (1 - the fractions) p.
    balance /= 2 * (1 - MAX_FEASIBLE_SHIFT - theta.reach)
    rounding += balance + 2 * math.sqrt(excess * balance)
    return excess + max(of_penalty, 0.0), rounding


def _solve_intercepts(at: EvaluatedPoint) -> PassRequests[tuple[EvaluatedPoint, Tensor] | None]:
    """Minimizes f over the intercepts alone, until the rest of the way is at most `MAX_FEASIBLE_SHIFT`.

    Returns:
        The point reached and the Newton step for the intercepts that is left there, (K,), to be subtracted; ``None``
        where the passes do not suffice, or derivatives are not finite.
    """
    problem, coordinates = at.problem, at.coordinates
    for _ in range(MAX_INTERCEPT_PASSES):
        gradient, curvature = at.evaluation.gradient, at.evaluation.curvature
        if not math.isfinite(float(curvature.own.sum() + gradient.sum())):
            return None
        if _moves_through_one_class(at):
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


def gap_by_residuals(problem: Problem, coef: Tensor, gradient: Tensor, loss: float) -> float:
    """Estimates the duality gap without a pass, as if the intercepts were at their optimum.

    With l2 the gap of the dual point that the residuals give is a sum over the coefficients.  With l1 alone that point
    is not feasible, and is scaled down until it is.

    Args:
        problem: A problem with a penalty; without a penalty the gap is infinite.
        coef: Shape (K, D), in the model's coordinates.
        gradient: Gradient of the smooth part of f there, (K, D + 1).
        loss: The data term of f there.

    Returns:
        About f - f*, in units of f.
    """
    l2, l1 = problem.objective.l2, problem.objective.l1
    slopes = gradient[:, :-1] - l2 * coef
    if l2:
        beyond_l1 = (slopes.abs() - l1).clamp(min=0) * slopes.sign()
        gaps = (beyond_l1 + l2 * coef).square() / (2 * l2) + l1 * coef.abs() + coef * (slopes - beyond_l1)
        return float(gaps.sum())
    if not l1:
        return math.inf
    # Scaling the dual point costs about (1 - scale)^2 of the loss.
    scale = min(1.0, l1 / max(float(slopes.abs().max()), 1e-300))
    return float((scale * coef * slopes + l1 * coef.abs()).sum()) + (1 - scale) ** 2 * loss


def _bound_by_strong_convexity(start: EvaluatedPoint) -> PassRequests[float]:
    """A bound that needs l2 > 0 and a convex loss of separate outputs, and nothing else of the loss.

    Minimized over the intercepts, f is a function of the coefficients that is strongly convex with constant l2.  So

        f - f*  <=  |gradient by the coefficients at the optimal intercepts|^2 / (2 l2).

    The derivatives by the intercepts have opposite signs at both ends of a bracket, which therefore holds the optimal
    ones.  Within the bracket each residual grows with its intercept: so all residuals together change at most by the
    difference of the two derivatives, and the gradient by a coefficient by that times the largest feature.

    Returns:
        The bound with its rounding errors; infinite where no bracket is found.
    """
    problem, at = start.problem, start
    width = torch.zeros_like(start.point[:, -1])
    for _ in range(MAX_INTERCEPT_PASSES if problem.intercept else 0):
        gradient, own = at.evaluation.gradient[:, -1], at.evaluation.curvature.own
        shift = torch.where(own > 0, gradient / own, 0.0).clamp(-1, 1)
        if not bool(shift.isfinite().all()) or not bool((own > 0).all()):
            return math.inf
        noise = _gradient_error(at)[:, -1]
        if bool((shift.abs() <= SOLVED_INTERCEPT_STEP + noise / own).all()):
            width = 2 * shift.abs() + 4 * noise / own
            break
        there = yield from request(EvaluatePrecisely(problem, at.coordinates, _shifted(at.point, -shift)))
        at = EvaluatedPoint(problem, at.coordinates, _shifted(at.point, -shift), *there[:3])
    else:
        if problem.intercept:
            return math.inf
    evaluation, error = at.evaluation, _gradient_error(at)
    penalty, l1 = at.penalties
    slopes = smallest_subgradient(at.point, evaluation.gradient, l1)[:, :-1].abs() + error[:, :-1]
    left = max(start.evaluation.value - evaluation.value, 0.0)
    if at is not start:
        left += start.value_error + at.value_error
    if problem.intercept:
        ends = []
        for sign in (-1, 1):
            there = yield from request(EvaluatePrecisely(problem, at.coordinates, _shifted(at.point, sign * width)))
            end = EvaluatedPoint(problem, at.coordinates, _shifted(at.point, sign * width), *there[:3])
            ends.append((sign * end.evaluation.gradient[:, -1], _gradient_error(end)[:, -1], end.largest))
        (low, low_error, largest), (high, high_error, _) = ends
        if not bool(((low > low_error) & (high > high_error)).all()):
            return math.inf
        slopes = slopes + (low + low_error + high + high_error).unsqueeze(1) * largest[:-1]
        left += float((evaluation.gradient[:, -1].abs() + error[:, -1]) @ width)
    return left + float((slopes.square() / (2 * penalty[:-1])).sum()) * (1 + 8 * UNIT_ROUNDOFF)


def _gradient_error(at: EvaluatedPoint) -> Tensor:
    """Upper bound of the rounding error of the gradient, (K, D + 1)."""
    problem, evaluation = at.problem, at.evaluation
    summed = at.accumulated * problem.loss.residual_bound(evaluation.loss, at.total)
    of_logits = evaluation.curvature.own.sqrt() * at.curved_error
    of_penalty = 4 * UNIT_ROUNDOFF * (evaluation.gradient.abs() + at.penalties[0] * at.point.abs())
    return (summed + of_logits).unsqueeze(1) * at.largest + of_penalty


def _shifted(point: Tensor, shift: Tensor) -> Tensor:
    """A point (K, D + 1) whose intercepts are moved by a shift (K,)."""
    point = point.clone()
    point[:, -1] += shift
    return point


def has_many_coupled_outputs(problem: Problem) -> bool:
    """Whether a bound by duality takes several passes, since outputs are too many for their joint curvature."""
    return problem.coupled and problem.intercept and not sums_joint_curvature(problem, torch.float64)


def _moves_through_one_class(at: EvaluatedPoint) -> bool:
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


def _balanced_by_least(at: EvaluatedPoint, sums: Tensor, enough: float = 0.0) -> tuple[Tensor, float, float] | None:
    """Moves the residuals of a softmax by multiples of each row's least probability, until they sum to 0 over the rows.

    It takes no pass, while a move by the derivatives of the residuals takes one.  With u the sums, m_i the least
    probability of row i and M the sum of these, row i moves by u m_i / M, whose chi squared is at most |u|^2 / M.

    Args:
        at: The point whose residuals they are.
        sums: The sums of the residuals times the features, (K, D + 1).
        enough: The relative gap below which the move may cost as much as it does.

    Returns:
        The sums after the move, its chi squared, which is at least the excess, and its `DualPoint.reach`; ``None``
        where it is not feasible, or costs more than `MAX_MOVE_COST` and leaves a gap that is not enough.
    """
    problem, least, l2 = at.problem, at.evaluation.of_least, at.problem.objective.l2
    if least is None or not l2 or not problem.intercept:
        return None
    off, total = sums[:, -1] - sums[:, -1].mean(), float(least[-1])
    size = float(off.abs().max())
    if not size <= MAX_LEAST_REACH * total or not total > 0:
        return None
    cost, moved = float(off.square().sum()) / total, torch.addr(sums, off, least / total, alpha=-1.0)
    ratio = at.coordinates.scale / problem.model.scale

    def gap_of(sums: Tensor) -> float:
        coef, strength, squares = at.point[:, :-1], at.penalties[0], 0.0
        for some in column_parts(coef.shape):
            slopes = torch.addcmul(sums[:, some], strength[some], coef[:, some])
            squares += float((slopes * ratio[some]).square_().sum())
        return squares / (2 * l2)

    if cost > MAX_MOVE_COST * gap_of(sums) and not cost + gap_of(moved) <= enough * at.evaluation.value:
        return None
    return moved, cost, size / total


def _penalty_terms(coef: Tensor, slopes: Tensor, noise: Tensor, l2: Tensor, l1: Tensor | None) -> tuple[float, float]:
    """The sum of the terms w V + g(w) + g*(-V) of the coefficients, (K, D), with l2 > 0; and what rounding adds.

    |V + l2 w|^2 / (2 l2) without l1, written so that nothing large cancels.  Few columns at a time stay in the cache.
    """
    total, rounding, parts = 0.0, 0.0, list(column_parts(coef.shape))
    for some in parts:
        w, v, by = coef[:, some], slopes[:, some], l2[some]
        held = v if l1 is None else (v.abs() - l1[some]).clamp(min=0) * v.sign()
        off = torch.addcmul(held, by, w).abs_()
        error = torch.add(noise[:, some], v.abs().addcmul_(by, w.abs()), alpha=8 * UNIT_ROUNDOFF)
        if l1 is not None:
            total += float((l1[some] * w.abs() + w * (v - held)).sum())
        steps = off / by
        of_l2 = float((off * steps).sum()) / 2
        total += of_l2
        rounding += (w.numel() + len(parts) + 8) * UNIT_ROUNDOFF * of_l2
        rounding += float((steps.add_(error / by, alpha=0.5).mul_(error)).sum())
    return total, rounding


def _l1_penalty_terms(
    at: EvaluatedPoint, theta: DualPoint, noise: Tensor, l1: Tensor
) -> PassRequests[tuple[float, float]]:
    """The sum of the terms w V + l1 |w| of the coefficients, (K, D), with l1 alone; and what rounding adds.

    A theta whose exact V is too large by rounding is feasible once it is scaled down by that little.  The excess is
    convex in the scale, and is the loss where nothing of theta is left: so the cost is at most the fraction times f.
    """
    coef, slopes = at.point[:, :-1], theta.sums[:, :-1]
    terms = float((coef * slopes + l1 * coef.abs()).sum())
    shrunk = min(max(float(((slopes.abs() + noise) / l1).max()) - 1, 0.0), 1.0) if coef.numel() else 0.0
    rounding = float((noise * coef.abs()).sum())
    if shrunk > MAX_UNCHECKED_SHRINKAGE:  # the exact cost is far less than the fraction times f
        assert theta.scaled is not None
        sums, less, noise_there = yield from theta.scaled(theta.scale * (1 - shrunk))
        more = max(less, 0.0) - max(theta.excess, 0.0) + float((coef * (sums[:, :-1] - slopes)).sum())
        return terms, rounding + max(more, 0.0) + noise_there
    return terms, rounding + shrunk * at.evaluation.value


def _sums_error(at: EvaluatedPoint, distance: float) -> Tensor:
    """Upper bound of the rounding error of each output's sum of theta over the rows, (K,).

    ``distance`` is an upper bound of the sum over the rows of the distances of an output's theta from its residuals.
    """
    problem, evaluation = at.problem, at.evaluation
    sizes = problem.loss.residual_bound(evaluation.loss, at.total)
    own = 2 * MAX_FEASIBLE_SHIFT * evaluation.curvature.own
    if problem.coupled:  # residuals p - y are at most p + y, and the sum of y is that of p less the gradient
        of_classes = 2 * evaluation.curvature.mass + evaluation.gradient[:, -1].abs()
        return at.accumulated * (of_classes.clamp(max=sizes) + own + distance)
    return at.accumulated * (sizes + own + distance)


def _balance(
    at: EvaluatedPoint, sums: Tensor, distance: float, hub: int | None, with_hub: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The cost of moving a dual point until its sums over the rows, (K,), known up to rounding, are exactly zero.

    A move that is spread over the rows in proportion to their curvatures costs its chi squared.  A softmax moves the
    sum of each class to one class, the hub, in proportion to the product p_ik p_ih of their probabilities: moves of
    u_k in all then cost at most sum_k u_k^2 / sum_i s_i p_ik p_ih.  Where such a move is not feasible, since curvatures
    are too small, the move is made at rows with curvature; it costs at most the largest slope of the conjugate.

    Args:
        at: The primal point.
        sums: The sums of theta over the rows.
        distance: As of `_sums_error`.
        hub: The hub; ``None`` for the best one, where the joint curvature is kept.
        with_hub: `DualSums.with_hub` of the hub; ``None`` where it is not known.

    Returns:
        The cost for each output, (K,), and by how much the sums of theta x change at most, (K, D).
    """
    problem, curvature = at.problem, at.evaluation.curvature
    reach, largest = at.squares[:-1].sqrt(), at.largest[:-1]
    if not problem.intercept:
        return torch.zeros_like(sums), torch.zeros_like(at.point[:, :-1])
    off = sums.abs() * (1 + UNIT_ROUNDOFF) + _sums_error(at, distance)
    far = problem.loss.conjugate_slope(float(at.reach.max()))
    if not problem.coupled:
        conductance = curvature.own
    elif with_hub is not None:
        conductance = with_hub * (1 - at.accumulated)
    elif curvature.joint is None:
        hub, conductance = int(curvature.own.argmax()), torch.zeros_like(off)
    else:
        conductance = -curvature.joint * (1 - at.accumulated)
        costs, _ = _costs_of_moves(problem, off, conductance, far)
        hub = int(costs.fill_diagonal_(0.0).sum(1).argmin())
        conductance = conductance[hub]
    if hub is not None:
        off[hub] = 0.0
    costs, feasible = _costs_of_moves(problem, off, conductance, far)
    moves = torch.outer(torch.where(feasible, costs.sqrt(), 0.0), reach).addr_(off.masked_fill(feasible, 0.0), largest)
    if hub is not None:
        moves[hub] = costs[feasible].sum().sqrt() * reach + off[~feasible].sum() * largest
    return costs, moves


def _costs_of_moves(problem: Problem, off: Tensor, conductance: Tensor, far: float) -> tuple[Tensor, Tensor]:
    """The costs of moves of ``off`` (K,), and whether each is feasible in proportion to the curvatures of the rows.

    Args:
        problem: The problem.
        off: Size of each move.
        conductance: Sums of the curvatures over the rows, (..., K).
        far: The largest slope of the conjugate.
    """
    feasible = (off * problem.loss.self_concordance <= MAX_FEASIBLE_SHIFT * conductance) & (conductance > 0)
    return torch.where(feasible, off * (off / conductance), far * off), feasible


def _half_decrement(problem: Problem, point: Tensor, gradient: Tensor) -> PassRequests[float]:
    """Half the Newton decrement g' H^-1 g / 2, by a few steps of conjugate gradients: an estimate from below."""
    diagonal = yield from request(HessianDiagonal(problem, problem.model, point))
    metric = diagonal.clamp(min=1e-12 * float(diagonal.max()))
    solution = yield from conjugate_gradients(
        problem, problem.model, point, gradient, lambda r: r / metric, 0.03, MAX_ESTIMATE_PRODUCTS
    )
    return solution.predicted_decrease
