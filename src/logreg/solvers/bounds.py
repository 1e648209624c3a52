"""How far a point is from the optimum, at most: computed in float64 over all rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.solvers.conjugate_gradients import conjugate_gradients
from logreg.solvers.curvature_bound import LARGE, SATURATED, Known, by_curvature
from logreg.solvers.exact_sums import moved_to
from logreg.solvers.newton_steps import intercept_step, smallest_subgradient
from logreg.solvers.passes.base import MAX_FOLDED_MEAN, PassRequests, request
from logreg.solvers.passes.certifying import UNIT_ROUNDOFF, Dual, Measure, accumulated, centered_coordinates
from logreg.solvers.passes.evaluate import Derivatives
from logreg.solvers.passes.hessian import Diagonal
from logreg.solvers.passes.sampling import Sample
from logreg.solvers.problem import Coordinates, Problem

SMALL = 512
"""Parameters that depend on each other, up to which the Hessian is formed for a certificate."""

WORK = 1e11
"""Rows times parameters times those that depend on each other, up to which it is formed."""

GOOD = 1e-9
"""A relative gap that needs no better bound."""

SHRUNK = 1e-9
"""Part of a dual point that may be taken away without a look at what it costs."""

FEASIBLE = 0.25
"""Largest move of an intercept that keeps the dual point feasible, with room to spare."""

INTERCEPT_STEPS = 30
"""Passes spent on solving the intercepts alone, before giving up."""

PRODUCTS = 25
"""Passes spent on an estimate."""


class Bound(NamedTuple):
    """What is known of f - f* at a point."""

    value: float
    """f."""
    gap: float
    """f - f* is at most this and ``rounding``; where not ``rigorous``, about this."""
    rigorous: bool
    gradient: Tensor
    """Of f by the model's own coordinates, (K, D + 1); with l1 the subgradient of smallest size."""
    loss: float
    """The data term of f."""
    rounding: float = 0.0
    """What arithmetic in float64 may hide, at most: of sums over the rows, and of the point as it is stored."""
    dependent: tuple[int, ...] = ()
    """Features that depend on each other to within rounding, in ascending order, where that spoils the bound."""
    error: float = 0.0
    """Rounding error of ``value``; the gap does not contain it."""


def bound(
    problem: Problem,
    point: Tensor,
    evaluation: Derivatives | None = None,
    enough: float = GOOD,
    coordinates: Coordinates | None = None,
) -> PassRequests[Bound]:
    """Bounds f - f* at a point.

    With a penalty by duality: with theta as in `Dual` and V = sum_i theta_i x_i / N,

        f - f* <= sum_i excess_i / N  +  sum_j [ w_j V_j + g(w_j) + g*(-V_j) ]

    which for l2 alone is |V + l2 w|^2 / (2 l2) plus what an intercept that is not solved costs.  Where the Hessian can
    be formed, `by_curvature` is taken if it is the better bound, and without a penalty.  Else, without a penalty, half
    the Newton decrement is an estimate.

    All rounding errors are bounded: those of sums over the rows, of logits, and of the Hessian.  They are part of the
    gap or of its ``rounding``.  What is not finite gives an infinite gap.

    Duality needs the conjugate of the loss, and curvature its self-concordance; of a loss that is not convex only
    f* >= 0 is known.

    Args:
        problem: Whose rows will be shown.
        point: Shape (K, D + 1).
        evaluation: Of that point in float64 and in that coordinates, if it is there already.
        enough: Relative gap below which no better bound is looked for.
        coordinates: Of the point; the model's own where ``None``.

    References:
        Duality: Fenchel.  Curvature: Bach (2010), Self-concordant analysis for logistic regression.
    """
    objective, loss = problem.objective, problem.loss
    penalized = objective.l2 > 0 or objective.l1 > 0
    curved = not objective.l1 and forms_hessian(problem) and math.isfinite(loss.self_concordance)
    dual = penalized and loss.has_conjugate
    measured, own = None, problem.model if coordinates is None else coordinates
    total = problem.row_sum_scale * problem.total_weight
    if evaluation is not None and evaluation.loss > SATURATED * total:
        known = known_by(problem, own, point, evaluation)
    else:
        inner = centered_coordinates(problem, (yield from request(Sample(problem))))
        at = moved_to(own, inner, point)
        hessian = curved and not penalized and enough < math.inf
        measured = yield from request(Measure(problem, inner, at, hessian))
        evaluation = measured.evaluation
        known = Known(problem, inner, at, *measured[:3])
    value, error = evaluation.value, known.value_error
    slope = known.coordinates.gradient_to(problem.model, evaluation.gradient)
    slope = smallest_subgradient(own.to(problem.model, point), slope, problem.penalties(problem.model)[1])
    empty: tuple[int, ...] = ()
    # Neither a loss nor a penalty is negative, so f* >= 0.
    gap, hidden, rigorous, dependent = value + error, 0.0, True, empty
    if not math.isfinite(gap) or not bool(evaluation.gradient.isfinite().all()):
        return Bound(value, math.inf, True, slope, evaluation.loss)
    if not loss.is_convex:
        return Bound(value, gap, True, slope, evaluation.loss, rounding_of(known, own), error=error)
    if dual:
        gap, hidden = min((gap, hidden), (yield from _by_duality(known)), key=_all_of)
    if curved and not gap + hidden <= enough * value:
        found = yield from by_curvature(problem, own, point, known, measured)
        dependent = found.dependent
        if found.gap < gap + hidden:
            gap, hidden, rigorous = found.gap, 0.0, found.rigorous
    elif not (curved or dual or objective.l1) and not gap <= enough * value and enough < math.inf:
        estimate = yield from _by_products(problem, moved_to(own, problem.model, point), slope)
        if estimate < gap:
            gap, rigorous = estimate, False
    return Bound(value, gap, rigorous, slope, evaluation.loss, rounding_of(known, own) + hidden, dependent, error)


def known_by(problem: Problem, coordinates: Coordinates, point: Tensor, evaluation: Derivatives) -> Known:
    """What is known of a point by an optimizer's evaluation in its coordinates alone."""
    folded = (coordinates.center / coordinates.scale).abs()  # how `Pass` subtracts the center, unless it is far
    folded = torch.zeros_like(folded) if bool((folded > MAX_FOLDED_MEAN[torch.float64]).any()) else folded
    size = F.pad(LARGE + folded, (0, 1), value=1.0)
    squares = size.square() * problem.row_sum_scale * problem.total_weight
    return Known(problem, coordinates, point, evaluation, squares, size * math.sqrt(problem.rows))


def rounding_of(known: Known, own: Coordinates) -> float:
    """Upper bound on the change of f when the point is rounded to the model's coordinates and to source units.

    Each coefficient is rounded a few times, and the intercept is what large offsets leave.
    """
    coef, problem = known.point[:, :-1].abs() / known.coordinates.scale, known.problem
    offsets = coef @ (known.coordinates.center.abs() + own.center.abs() + problem.model.center.abs())
    of_intercept = (problem.num_features + 5) * UNIT_ROUNDOFF * offsets + 4 * UNIT_ROUNDOFF * known.point[:, -1].abs()
    of_logits = 4 * known.logits_error + of_intercept * math.sqrt(known.total)
    gradient = known.evaluation.gradient.abs()
    of_slope = float(gradient[:, -1] @ of_intercept + 4 * UNIT_ROUNDOFF * (gradient * known.point.abs()).sum())
    # The loss changes with the logits by its slope, which vanishes at the optimum, and by its curvature.
    return of_slope + _second_order(problem, of_logits)


def _second_order(problem: Problem, of_logits: Tensor) -> float:
    """By how much the loss changes with wrong logits (K,), their norms over the rows, beyond its slope."""
    return max(problem.loss.max_curvature, 1.0) * float(of_logits.square().sum()) / 2


def _all_of(found: tuple[float, float]) -> float:
    """A gap with its rounding; infinite where it is no number."""
    return math.inf if math.isnan(sum(found)) else sum(found)


def forms_hessian(problem: Problem) -> bool:
    """Whether a certificate may form the Hessian."""
    dependent = problem.dependent
    return dependent <= SMALL and problem.rows * dependent * problem.num_parameters <= WORK


def _by_duality(known: Known) -> PassRequests[tuple[float, float]]:
    """The duality gap as it is computed, and by how much the exact one may be larger."""
    problem, coordinates, point, evaluation, squares, _ = known
    value = evaluation.value
    moved = False
    for _ in range(INTERCEPT_STEPS):
        if not bool(evaluation.curvature.isfinite().all() & evaluation.gradient.isfinite().all()):
            return math.inf, 0.0
        shift = intercept_step(problem, evaluation.gradient[:, -1], evaluation.curvature)
        if float(shift.abs().max()) * problem.loss.self_concordance <= FEASIBLE:
            break
        point, moved = point.clone(), True
        point[:, -1] -= shift.clamp(-1, 1)
        evaluation = (yield from request(Measure(problem, coordinates, point))).evaluation
    else:
        return math.inf, 0.0
    at = known._replace(point=point, evaluation=evaluation)
    l2, l1 = (strength[:-1] for strength in problem.penalties(coordinates))
    coef = point[:, :-1]
    # A theta of which the sums are rounding is moved once more in thought, so that they are exactly zero.
    sums = evaluation.gradient - problem.penalties(coordinates)[0] * point
    if shift.any():
        if evaluation.by_intercept is None:
            sums = (yield from request(Dual(problem, coordinates, point, shift)))[0]
        else:
            sums = sums - shift.unsqueeze(1) * evaluation.by_intercept
    # Chi squared, which is no less than what the conjugate costs: within such a move its curvature hardly changes.
    excess = max(float(shift @ evaluation.curvature @ shift), 0.0)
    costs, moves = _balance(at, sums[:, -1])
    balance = float(costs.sum())
    # Of theta, its norm over the rows: residuals of a smooth loss that is never negative, and a move by the curvature.
    steepest = problem.loss.max_curvature
    size = math.sqrt(2 * steepest * evaluation.loss) + math.sqrt(steepest * excess)
    noise = accumulated(problem) * size * squares[:-1].sqrt() + moves
    noise = noise + 8 * UNIT_ROUNDOFF * (sums[:, :-1].abs() + l2 * coef.abs())
    # Probabilities near 1 of an optimizer's evaluation, rounded to float64.
    rounding = (
        8 * UNIT_ROUNDOFF * known.total * problem.num_outputs if evaluation.loss > SATURATED * known.total else 0.0
    )
    within = 1.0
    if not problem.objective.l2 and (reach := float((sums[:, :-1].abs() / l1).max())) > 1:
        # the conjugate of l1 alone is infinite beyond it
        within = (1 - 1e-12) / reach
        sums, excess, rounding = yield from request(Dual(problem, coordinates, point, shift, within))
        excess = max(excess, 0.0)
    slopes = sums[:, :-1]
    if problem.objective.l2:
        # |V + l2 w|^2 / (2 l2) for l1 = 0, written so that nothing large cancels
        held = (slopes.abs() - l1).clamp(min=0) * slopes.sign()
        off = (held + l2 * coef).abs()
        rest = off * (off / l2) / 2 + l1 * coef.abs() + coef * (slopes - held)
        rounding += float((noise * (off / l2) + noise * (noise / l2) / 2).sum())
    else:
        rest = coef * slopes + l1 * coef.abs()
        # A theta shrunk by so much is feasible; the excess is convex in that, and is the loss where nothing is left.
        shrunk = min(max(float(((slopes.abs() + noise) / l1).max()) - 1, 0.0), 1.0)
        if shrunk > SHRUNK:  # the loss is far more than that
            sums, less, noise_there = yield from request(
                Dual(problem, coordinates, point, shift, within * (1 - shrunk))
            )
            more = max(less, 0.0) - excess + float((coef * (sums[:, :-1] - slopes)).sum())
            rounding += max(more, 0.0) + noise_there
        else:
            rounding += shrunk * evaluation.value
        rounding += float((noise * coef.abs()).sum())
    rounding += 8 * UNIT_ROUNDOFF * float((l1 * coef.abs()).sum()) + _second_order(problem, at.logits_error)
    if moved:
        rounding += known.value_error + at.value_error
    rounding += balance + 2 * math.sqrt(excess * balance)
    return value - evaluation.value + excess + max(float(rest.sum()), 0.0), rounding


def _balance(at: Known, sums: Tensor) -> tuple[Tensor, Tensor]:
    """What it costs to move a dual point until its sums (K,) over the rows, known up to rounding, are zero.

    Spread over the rows as their curvatures are, that is chi squared of the move.  Where curvatures are so small that
    this is not feasible, some is taken from where there is any.  That costs the largest slope of the conjugate at most.

    Returns:
        The costs of each output, (K,), and by how much the sums of theta x change, (K, D).
    """
    problem, evaluation = at.problem, at.evaluation
    reach, largest = at.squares[:-1].sqrt(), at.largest[:-1]
    if not problem.intercept:
        return torch.zeros_like(sums), torch.zeros_like(at.point[:, :-1])
    curvature = evaluation.curvature
    sizes = problem.loss.residual_bound(evaluation.loss, at.total) + 2 * FEASIBLE * curvature.diagonal()
    off = sums.abs() * (1 + UNIT_ROUNDOFF) + accumulated(problem) * sizes
    if problem.coupled:
        second = float(torch.linalg.eigvalsh(curvature)[1]) - accumulated(problem) * float(curvature.trace())
        least = torch.full_like(off, second)
        feasible = (off.norm() * problem.loss.self_concordance <= FEASIBLE * least) & (least > 0)
    else:
        least = curvature.diagonal()
        feasible = (off * problem.loss.self_concordance <= FEASIBLE * least) & (least > 0)
    squared = off.square() / least
    squared = squared.sum().expand_as(off) if problem.coupled else squared
    spread = squared.sqrt().unsqueeze(1) * reach
    costs = squared / len(off) if problem.coupled else squared
    far = problem.loss.conjugate_slope(float((at.point.abs() @ at.largest).max()))
    return torch.where(feasible, costs, far * off), torch.where(
        feasible.unsqueeze(1), spread, off.unsqueeze(1) * largest
    )


def _by_products(problem: Problem, point: Tensor, gradient: Tensor) -> PassRequests[float]:
    """Half the Newton decrement, by a few steps of conjugate gradients: an estimate from below."""
    diagonal = yield from request(Diagonal(problem, problem.model, point))
    metric = diagonal.clamp(min=1e-12 * float(diagonal.max()))
    solution = yield from conjugate_gradients(
        problem, problem.model, point, gradient, lambda r: r / metric, 0.03, PRODUCTS
    )
    return solution.gain
