"""How far a point is from the optimum, at most: computed in float64 over all rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.facts import Batch
from logreg.kernels import affine, sum_over_rows
from logreg.optim.curvature import Factored, conjugate_gradients, intercept_step, smallest_subgradient
from logreg.optim.passes import (
    FOLDED,
    Answer,
    Asking,
    Diagonal,
    Evaluation,
    Frame,
    Pass,
    Problem,
    Rows,
    Sample,
    ask,
    diagonal_of,
    part_rows,
    parts,
    row_weights,
)

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

UNIT = 2.0**-53
"""Unit roundoff of float64."""

SUMMED = 512
"""Rows that a product of matrices adds up one after the other; such partial sums are added up in turn."""

TOGETHER = 2048
"""Rows at most whose Hessian is one product of matrices."""

RESOLVED = 20.0
"""An eigenvalue of the Hessian counts as known if it is so many times the Hessian's rounding error."""

LARGE = 10.0
"""Root mean square of a feature in an optimizer's frame, at most: of a sample of the rows it is about 1."""

SATURATED = 1e-6
"""Mean loss below which residuals are computed anew, since probabilities near 1 have lost what they are from 1."""

CLOSE = 0.9
"""Norm of the slope in the metric of the inverse Hessian, times the largest of a row, below which curvature tells."""

PRODUCTS = 25
"""Passes spent on an estimate."""

DIGITS, MULTIPLES = 12, 12
"""A coefficient of an exact dependence has so many binary digits, once multiplied by a number up to the second."""

ABSENT = 1e-5
"""Coefficient of a numerical dependence, relative to the largest, that is 0 but for rounding."""

ROUNDED = 1e-6
"""Difference between the sides of a dependence, relative to its terms, that is rounding: to float32, a few times."""

DISTILLATIONS = 12
"""Error-free transformations of a sum, before it is taken not to vanish."""


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


def accumulated(problem: Problem) -> float:
    """Relative rounding error of a sum over the rows, of products of which each has a few roundings.

    References:
        Higham (2002), Accuracy and stability of numerical algorithms, sections 3.1 and 4.2.
    """
    return (min(problem.rows, SUMMED) + problem.rows / SUMMED + 20) * UNIT


class Certifying(Pass[Answer]):
    """A pass in float64 that subtracts the center from every row, in a frame whose scales are powers of two.

    Then a feature in the frame has the relative error of one subtraction, whatever its offset and unit.  Rows that
    weigh nothing are left out.
    """

    def __init__(self, problem: Problem, frame: Frame) -> None:
        super().__init__(problem, frame, torch.float64)
        self._shift = (frame.center, 1 / frame.scale)
        self._fold = Frame(torch.zeros_like(frame.center), torch.ones_like(frame.scale))

    def add(self, block: Batch) -> None:
        """Takes one block of rows, features in source units."""
        for part in parts(block, min(part_rows(block.features.shape[1], self.dtype), TOGETHER)):
            if len((weighing := weighing_rows(part, self.problem)).labels):
                self._take(weighing)


def weighing_rows(block: Batch, problem: Problem) -> Batch:
    """Those rows of a block that weigh more than nothing in the loss."""
    weights = row_weights(block, problem.class_weight, torch.float64)
    if weights is None or bool((weights > 0).all()):
        return block
    some = weights > 0
    own = None if block.sample_weight is None else block.sample_weight[some]
    return Batch(block.features[some], block.labels[some], own)


def centered_frame(problem: Problem, sample: Batch) -> Frame:
    """Coordinates in which a weighted sample has mean 0 and deviations between 1/2 and 1, up to rounding.

    Scales are powers of two, found without squaring a feature in its own unit: so nothing overflows or underflows.
    """
    some = weighing_rows(sample, problem)
    features = (some if len(some.labels) else sample).features.double()
    weights = row_weights(some, problem.class_weight, torch.float64)
    weights = features.new_ones(len(features)) if weights is None or not len(weights) else weights / weights.max()
    weights = weights / weights.sum()
    unit = _power_of_two(features.abs().amax(0))
    features = features / unit
    center = (weights @ features).clamp(features.amin(0), features.amax(0))
    if not problem.intercept:  # moving the features would need one
        center = problem.model.center / unit
    deviation = (weights @ (features - center).square()).sqrt()
    return Frame(center * unit, (unit * _power_of_two(deviation)).clamp(2.0**-1000, 2.0**1000))


def _power_of_two(size: Tensor) -> Tensor:
    """The smallest power of two above each, and 1 for 0."""
    return torch.ldexp(torch.ones_like(size), torch.where(size > 0, torch.frexp(size).exponent, 0))


def moved_to(frame: Frame, other: Frame, point: Tensor) -> Tensor:
    """`Frame.to` with intercepts that are right to the last digit, also where large offsets cancel."""
    coef = point[:, :-1] / frame.scale
    terms = [point[:, -1:]]
    for one in _halves(coef):
        for center in (other.center, -frame.center):
            terms += [one * half for half in _halves(center)]
    intercept = _distilled(torch.cat(terms, dim=1)).sum(1)
    return torch.cat([coef * other.scale, intercept.unsqueeze(1)], dim=1)


def _halves(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers in float64 as sums of two with at most 27 binary digits each."""
    high = (numbers.view(torch.int64) & ~(2**27 - 1)).view(torch.float64)
    return high, numbers - high


def _distilled(terms: Tensor) -> Tensor:
    """Terms (n, m) -> others of the same exact sums over m, the first of which is nearly all.

    References:
        Knuth's TwoSum; Ogita, Rump and Oishi (2005), Accurate sum and dot product.
    """
    errors = []
    while terms.shape[1] > 1:
        left, right = terms[:, ::2], F.pad(terms[:, 1::2], (0, terms.shape[1] % 2))
        total = left + right
        part = total - left
        errors.append((left - (total - part)) + (right - part))
        terms = total
    return torch.cat([terms, *errors], dim=1)


class Measured(NamedTuple):
    """f near a point, and how exactly it is known."""

    evaluation: Evaluation
    squares: Tensor
    """Sum over the rows of what they weigh times squared features, times the problem's share: (D + 1,)."""
    largest: Tensor
    """Largest size of a feature, (D + 1,)."""
    slopes: Tensor
    """The same sum of sizes of what adds up to the gradient of the loss, (K, D + 1)."""
    reach: float
    """Largest sum of sizes of what adds up to a logit, of all rows."""
    rows: int
    """Rows that weigh more than nothing."""


class Measure(Certifying[Measured]):
    """The objective, its gradient, and its Hessian if asked for, with small relative errors of every row's share.

    Residuals and curvatures are made of the small probability where it is near 1, so that saturated rows keep their
    digits.
    """

    def __init__(self, problem: Problem, frame: Frame, point: Tensor, hessian: bool = False) -> None:
        super().__init__(problem, frame)
        self.point, self._wants = point, hessian
        k, p = point.shape
        self._loss, self._rows, self._reach = self.zeros(), 0, self.zeros()
        self._gradient, self._slopes, self._squares = self.zeros(k, p), self.zeros(k, p), self.zeros(p)
        self._largest = self.zeros(p)
        self._curvature, self._by_intercept = self.zeros(k, k), self.zeros(k, p)
        shape = ((k, p, k, p) if problem.coupled else (k, p, p)) if hessian else (0,)
        self._hessian = self.zeros(*shape)

    def gather(self, rows: Rows) -> None:
        """Adds the rows' share to the sums."""
        features = F.pad(rows.features, (0, 1), value=float(self.problem.intercept))
        coef = self.point
        logits = affine(features, coef, coef.new_zeros(len(coef)))
        weights = features.new_ones(len(features), 1) if rows.weights is None else rows.weights
        self._rows += len(features)
        values, residuals, curvature = self.problem.loss.evaluate_precisely(logits, rows.labels)
        spread = curvature * weights
        if self.problem.coupled:
            pairs = (spread.T @ curvature).fill_diagonal_(0)
            self._curvature += torch.diag(pairs.sum(1)) - pairs
        else:
            self._curvature += torch.diag(spread.sum(0))
            self._by_intercept += sum_over_rows(spread, features)
        self._loss += (values * weights[:, 0]).sum()
        residuals = residuals * weights
        self._gradient += sum_over_rows(residuals, features)
        self._largest = torch.maximum(self._largest, torch.linalg.vector_norm(features, math.inf, dim=0))
        self._squares += sum_over_rows(weights, features.square())[0]
        if not self._wants:
            return
        sizes = features.abs()
        self._slopes += sum_over_rows(residuals.abs(), sizes)
        self._reach = torch.maximum(self._reach, (sizes @ coef.abs().T).max())
        if self.problem.coupled:
            self._add_joint_hessian(features, curvature, spread)
        else:
            for output, hessian in enumerate(self._hessian):
                hessian += sum_over_rows(features, features * spread[:, output : output + 1])

    def _add_joint_hessian(self, features: Tensor, curvature: Tensor, spread: Tensor) -> None:
        k, p = self.point.shape
        for output in range(k):
            pairs = spread[:, output : output + 1] * curvature
            pairs[:, output] = 0
            of_pairs = -pairs[:, output:]
            of_pairs[:, 0] = pairs.sum(1)
            weighted = (of_pairs.unsqueeze(2) * features.unsqueeze(1)).flatten(1)
            block = sum_over_rows(features, weighted).view(p, k - output, p)
            self._hessian[output, :, output:] += block
            if output + 1 < k:
                self._hessian[output + 1 :, :, output] += block[:, 1:].permute(1, 2, 0)

    def result(self) -> Measured:
        """What all rows together say."""
        problem, share = self.problem, self.problem.share
        l2, l1 = problem.penalties(self.frame)
        loss = float(self._loss) * share
        penalty = float((l2 / 2 * self.point.square() + l1 * self.point.abs()).sum())
        hessian = self._hessian * share if self._wants else None
        if hessian is not None:
            diagonal = hessian.diagonal(dim1=1, dim2=2) if not problem.coupled else diagonal_of(hessian)
            diagonal += l2
        evaluation = Evaluation(
            loss + penalty,
            self._gradient * share + l2 * self.point,
            self._curvature * share,
            loss,
            hessian,
            None if problem.coupled else self._by_intercept * share,
        )
        return Measured(
            evaluation, self._squares * share, self._largest, self._slopes * share, float(self._reach), self._rows
        )


class Dual(Pass[tuple[Tensor, float, float]]):
    """The dual problem at the residuals of a point, moved so that those of each output sum to zero.

    With r_i the residuals and J_i their derivative by the logits, theta_i = r_i - J_i shift is feasible for the free
    intercept.
    ``scale`` in (0, 1] shrinks theta further, to what pure l1 asks for.
    """

    def __init__(self, problem: Problem, frame: Frame, point: Tensor, shift: Tensor, scale: float = 1.0) -> None:
        super().__init__(problem, frame, torch.float64)
        self._coef, self._intercept = self.linear(point)
        self._move, self._scale = shift, scale
        k, d = problem.num_outputs, problem.num_features
        self._sums, self._ones = self.zeros(k, d), self.zeros(k)
        self._fit, self._noise = self.zeros(), self.zeros()

    def gather(self, rows: Rows) -> None:
        """Residuals against features, and what the conjugate of the loss costs beyond Fenchel's equality."""
        features, targets, weights = rows.features, rows.targets, rows.weights
        logits = affine(features, self._coef, self._intercept)
        loss = self.problem.loss
        values, residuals, curvature = loss.evaluate(logits, rows.labels)
        theta = (residuals - loss.curvature_product(curvature, self._move.expand_as(logits))) * self._scale
        conjugate = loss.conjugate(theta, targets)
        # loss(z) + conjugate(theta) - z theta >= 0, and 0 where theta is the residual at z
        product = logits * theta
        excess = values + conjugate - product.sum(1)
        terms = values + conjugate.abs() + product.abs().sum(1)
        noise = UNIT * (8 * terms + loss.conjugate_slope(0.0) * self.problem.num_outputs)
        if weights is not None:
            excess, noise, theta = excess * weights[:, 0], noise * weights[:, 0], theta * weights
        self._fit += excess.sum()
        self._noise += noise.sum()
        self._sums += sum_over_rows(theta, features)
        self._ones += theta.sum(0)

    def result(self) -> tuple[Tensor, float, float]:
        """The sums of theta x in the frame, (K, D + 1), the excess, and its rounding, all times the problem's share."""
        share = self.problem.share
        return self.moments(self._sums, self._ones) * share, float(self._fit) * share, float(self._noise) * share


class Known(NamedTuple):
    """A point and all that a bound is made of."""

    problem: Problem
    frame: Frame
    point: Tensor
    """In the frame, (K, D + 1)."""
    evaluation: Evaluation
    """There, in float64."""
    squares: Tensor
    """As of `Measured`, by coordinates in which sums over the rows are made, (D + 1,)."""
    largest: Tensor
    """As of `Measured`, by the same coordinates."""

    @property
    def total(self) -> float:
        """What all rows weigh in the objective: 1 for a mean."""
        return self.problem.share * self.problem.total_weight

    @property
    def logits_error(self) -> Tensor:
        """Root of the weighted sum over the rows of squared rounding errors of each output's logits, (K,)."""
        reach = self.point[:, :-1].abs() @ self.squares[:-1].sqrt() + self.point[:, -1].abs() * math.sqrt(self.total)
        return (self.problem.num_features + 10) * UNIT * reach

    @property
    def value_error(self) -> float:
        """Of f as it was computed.

        The loss changes with its logits by no more than its largest slope, and, as `Measure` has it, by no larger
        factor than exp of that.
        """
        loss, evaluation = self.problem.loss, self.evaluation
        summed = 2 * accumulated(self.problem) * abs(evaluation.value)
        if evaluation.loss > SATURATED * self.total or loss.relative_lipschitz == math.inf:
            slope = loss.lipschitz * math.sqrt(self.total)
            slope = slope if math.isfinite(slope) else math.sqrt(2 * loss.max_curvature * evaluation.loss)
            return float(self.logits_error.sum()) * 2 * slope + summed
        reach = loss.relative_lipschitz * float((self.point.abs() @ self.largest).max())
        return evaluation.loss * math.expm1(min(2 * (self.problem.num_features + 10) * UNIT * reach, 700.0)) + summed


def bound(
    problem: Problem,
    point: Tensor,
    evaluation: Evaluation | None = None,
    enough: float = GOOD,
    frame: Frame | None = None,
) -> Asking[Bound]:
    """Bounds f - f* at a point.

    With a penalty by duality: with theta as in `Dual` and V = sum_i theta_i x_i / N,

        f - f* <= sum_i excess_i / N  +  sum_j [ w_j V_j + g(w_j) + g*(-V_j) ]

    which for l2 alone is |V + l2 w|^2 / (2 l2) plus what an intercept that is not solved costs.  Where the Hessian can
    be formed, `_by_curvature` is taken if it is the better bound, and without a penalty.  Else, without a penalty, half
    the Newton decrement is an estimate.

    All rounding errors are bounded: those of sums over the rows, of logits, and of the Hessian.  They are part of the
    gap or of its ``rounding``.  What is not finite gives an infinite gap.

    Duality needs the conjugate of the loss, and curvature its self-concordance; of a loss that is not convex only
    f* >= 0 is known.

    Args:
        problem: Whose rows will be shown.
        point: Shape (K, D + 1).
        evaluation: Of that point in float64 and in that frame, if it is there already.
        enough: Relative gap below which no better bound is looked for.
        frame: Of the point; the model's own where ``None``.

    References:
        Duality: Fenchel.  Curvature: Bach (2010), Self-concordant analysis for logistic regression.
    """
    objective, loss = problem.objective, problem.loss
    penalised = objective.l2 > 0 or objective.l1 > 0
    curved = not objective.l1 and forms_hessian(problem) and math.isfinite(loss.self_concordance)
    dual = penalised and loss.has_conjugate
    measured, own = None, problem.model if frame is None else frame
    total = problem.share * problem.total_weight
    if evaluation is not None and evaluation.loss > SATURATED * total:
        known = known_by(problem, own, point, evaluation)
    else:
        inner = centered_frame(problem, (yield from ask(Sample(problem))))
        at = moved_to(own, inner, point)
        hessian = curved and not penalised and enough < math.inf
        measured = yield from ask(Measure(problem, inner, at, hessian))
        evaluation = measured.evaluation
        known = Known(problem, inner, at, *measured[:3])
    value, error = evaluation.value, known.value_error
    slope = known.frame.gradient_to(problem.model, evaluation.gradient)
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
        found = yield from _by_curvature(problem, own, point, known, measured)
        dependent = found.dependent
        if found.gap < gap + hidden:
            gap, hidden, rigorous = found.gap, 0.0, found.rigorous
    elif not (curved or dual or objective.l1) and not gap <= enough * value and enough < math.inf:
        estimate = yield from _by_products(problem, moved_to(own, problem.model, point), slope)
        if estimate < gap:
            gap, rigorous = estimate, False
    return Bound(value, gap, rigorous, slope, evaluation.loss, rounding_of(known, own) + hidden, dependent, error)


def known_by(problem: Problem, frame: Frame, point: Tensor, evaluation: Evaluation) -> Known:
    """What is known of a point by an optimizer's evaluation in its frame alone."""
    folded = (frame.center / frame.scale).abs()  # how `Pass` subtracts the center, unless it is far
    folded = torch.zeros_like(folded) if bool((folded > FOLDED[torch.float64]).any()) else folded
    size = F.pad(LARGE + folded, (0, 1), value=1.0)
    squares = size.square() * problem.share * problem.total_weight
    return Known(problem, frame, point, evaluation, squares, size * math.sqrt(problem.rows))


def rounding_of(known: Known, own: Frame) -> float:
    """By how much f may differ between a point and the same point as the model's frame and the source's units store it.

    Each coefficient is rounded a few times, and the intercept is what large offsets leave.
    """
    coef, problem = known.point[:, :-1].abs() / known.frame.scale, known.problem
    offsets = coef @ (known.frame.center.abs() + own.center.abs() + problem.model.center.abs())
    of_intercept = (problem.num_features + 5) * UNIT * offsets + 4 * UNIT * known.point[:, -1].abs()
    of_logits = 4 * known.logits_error + of_intercept * math.sqrt(known.total)
    gradient = known.evaluation.gradient.abs()
    of_slope = float(gradient[:, -1] @ of_intercept + 4 * UNIT * (gradient * known.point.abs()).sum())
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


def _by_duality(known: Known) -> Asking[tuple[float, float]]:
    """The duality gap as it is computed, and by how much the exact one may be larger."""
    problem, frame, point, evaluation, squares, _ = known
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
        evaluation = (yield from ask(Measure(problem, frame, point))).evaluation
    else:
        return math.inf, 0.0
    at = known._replace(point=point, evaluation=evaluation)
    l2, l1 = (strength[:-1] for strength in problem.penalties(frame))
    coef = point[:, :-1]
    # A theta of which the sums are rounding is moved once more in thought, so that they are exactly zero.
    sums = evaluation.gradient - problem.penalties(frame)[0] * point
    if shift.any():
        if evaluation.by_intercept is None:
            sums = (yield from ask(Dual(problem, frame, point, shift)))[0]
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
    noise = noise + 8 * UNIT * (sums[:, :-1].abs() + l2 * coef.abs())
    # Probabilities near 1 of an optimizer's evaluation, rounded to float64.
    rounding = 8 * UNIT * known.total * problem.num_outputs if evaluation.loss > SATURATED * known.total else 0.0
    within = 1.0
    if not problem.objective.l2 and (reach := float((sums[:, :-1].abs() / l1).max())) > 1:
        # the conjugate of l1 alone is infinite beyond it
        within = (1 - 1e-12) / reach
        sums, excess, rounding = yield from ask(Dual(problem, frame, point, shift, within))
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
            sums, less, noise_there = yield from ask(Dual(problem, frame, point, shift, within * (1 - shrunk)))
            more = max(less, 0.0) - excess + float((coef * (sums[:, :-1] - slopes)).sum())
            rounding += max(more, 0.0) + noise_there
        else:
            rounding += shrunk * evaluation.value
        rounding += float((noise * coef.abs()).sum())
    rounding += 8 * UNIT * float((l1 * coef.abs()).sum()) + _second_order(problem, at.logits_error)
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
    off = sums.abs() * (1 + UNIT) + accumulated(problem) * sizes
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


class Leverage(Certifying[Tensor]):
    """The largest squared norm of a row under a metric, for each output."""

    def __init__(self, problem: Problem, frame: Frame, roots: Tensor) -> None:
        """``roots`` (K, D + 1, R) are such that the squared norm of a row x for output k is |roots_k' x|^2."""
        super().__init__(problem, frame)
        self._roots = roots
        self._largest = self.zeros(len(roots))

    def gather(self, rows: Rows) -> None:
        """Keeps the largest."""
        for output, root in enumerate(self._roots):
            norms = torch.addmm(root[-1], rows.features, root[:-1]).square().sum(1)
            self._largest[output] = torch.maximum(self._largest[output], norms.max())

    def result(self) -> Tensor:
        """Shape (K,)."""
        return self._largest


class Curved(NamedTuple):
    """What `_by_curvature` finds."""

    gap: float
    rigorous: bool
    dependent: tuple[int, ...] = ()


NOTHING_KNOWN = Curved(math.inf, True)
"""The infinite bound."""


def _by_curvature(
    problem: Problem, own: Frame, point: Tensor, known: Known, measured: Measured | None
) -> Asking[Curved]:
    """From the Hessian: f is so nearly quadratic around the point that half the Newton decrement bounds the gap.

    Along a direction that changes no logit by more than r / M, with M the self-concordance of the loss, the second
    derivative falls at most by exp(-r).  So with the decrement d = |g| in the metric of the inverse Hessian, and R the
    largest norm of a row in it,

        f - f* <= d^2 / (4 psi(r)),  psi(r) = (exp(-r) + r - 1) / r^2,  r psi(r) = M R d

    That holds within the span of eigenvectors whose eigenvalues are above rounding.  It holds everywhere if the rank of
    the features is no larger than their number, since f then has the same values on that span as everywhere; `_rank`
    proves that in exact arithmetic.  Otherwise it is an estimate: where features depend on each other to within
    rounding, as if they did so exactly, and else nothing at all where f has a slope outside.
    """
    frame, at = known.frame, known.point
    if measured is None:
        frame = centered_frame(problem, (yield from ask(Sample(problem))))
        at = moved_to(own, frame, point)
    if measured is None or measured.evaluation.hessian is None:
        measured = yield from ask(Measure(problem, frame, at, hessian=True))
    known = Known(problem, frame, at, *measured[:3])
    hessian, gradient = measured.evaluation.hessian, measured.evaluation.gradient
    assert hessian is not None
    (k, p), together = at.shape, problem.coupled
    if not problem.intercept:
        p -= 1
        hessian = hessian[:, :p, :, :p] if together else hessian[:, :p, :p]
    l2 = problem.penalties(frame)[0][:p]
    batch, count = (1, k * p) if together else (k, p)
    hessian = hessian.reshape(batch, count, count)
    noise = accumulated(problem) * measured.slopes[:, :p] + 4 * UNIT * (gradient[:, :p].abs() + l2 * at[:, :p].abs())
    gradient, noise = gradient[:, :p].reshape(batch, count), noise.reshape(batch, count)
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    units = torch.where(diagonal > 0, diagonal.rsqrt(), 1.0)  # the diagonal is 1 in these
    scaled = units.unsqueeze(2) * hessian * units.unsqueeze(1)
    off = 2 * (problem.num_features + 10) * UNIT * measured.reach  # logits, by which curvature is off as well
    grown = math.exp(min(problem.loss.self_concordance * off, 10.0))
    if not bool(scaled.isfinite().all()) or grown > 1.1:
        return NOTHING_KNOWN
    try:
        values, vectors = torch.linalg.eigh(scaled)
    except RuntimeError:  # torch's LinAlgError, which it does not export
        return NOTHING_KNOWN
    error = count * (accumulated(problem) + 20 * UNIT * values[:, -1:])
    seen = values > RESOLVED * error
    roots = torch.where(seen, values, 1.0).rsqrt() * seen
    grown = grown / (1 - float((error * roots.square()).max()))
    inverse_root = units.unsqueeze(2) * vectors * roots.unsqueeze(1)
    along = (inverse_root.mT @ gradient.unsqueeze(2))[..., 0]
    blurred = (inverse_root.abs().mT @ noise.unsqueeze(2))[..., 0]
    of_logits = known.logits_error * math.sqrt(problem.loss.max_curvature)
    of_logits = of_logits.norm().unsqueeze(0) if together else of_logits
    decrement = (along.norm(dim=1) + blurred.norm(dim=1) + of_logits).square() * grown
    if not bool(decrement.isfinite().all()):
        return NOTHING_KNOWN
    padded = inverse_root.view(k, p, -1)
    padded = padded if problem.intercept else F.pad(padded, (0, 0, 0, 1))
    leverages = yield from ask(Leverage(problem, frame, padded))
    if together:  # a difference of two logits moves by at most twice the larger
        leverages = 4 * leverages.max().unsqueeze(0)
    leverages = problem.loss.self_concordance**2 * leverages
    total = 0.0
    for squared, leverage in zip(decrement.tolist(), (1.01 * grown * leverages).tolist(), strict=True):
        product = math.sqrt(squared * leverage)
        if not product < CLOSE:
            return NOTHING_KNOWN
        total += squared / (4 * _psi(_invert(product)))
    least_seen = int(seen.sum(1).min())
    if problem.objective.l2:
        free = 1 if together and problem.intercept else 0
        return Curved(total, True) if least_seen >= count - free else NOTHING_KNOWN
    copies = k - 1 if together else 1
    if least_seen >= copies * min(p, measured.rows):
        return Curved(total, True)
    widest = int(measured.evaluation.curvature.diagonal().argmax())
    gram = hessian.view(k, p, k, p)[widest, :, widest] if together else hessian[widest]
    rank, seeming, dependent = yield from _rank(problem, frame, gram, measured.rows)
    if least_seen >= copies * rank:
        return Curved(total, True)
    if dependent and least_seen >= copies * seeming:
        return Curved(total, False, dependent)  # it would be a bound, were those exact dependences
    outside = vectors * (~seen).unsqueeze(1) * units.unsqueeze(2)
    slopes = (outside.mT @ gradient.unsqueeze(2)).abs()[..., 0]
    most = (outside.abs().mT @ noise.unsqueeze(2))[..., 0] + of_logits.unsqueeze(1) * (values.abs() + error).sqrt()
    sloped = bool((slopes > most).any())
    return Curved(math.inf, True, dependent) if sloped else Curved(total, False, dependent)


class Vanishing(Pass[Tensor]):
    """Which linear combinations of the features are the same in all rows, in exact arithmetic.

    Without an intercept, those of the features less the model's center that are zero.
    """

    def __init__(self, problem: Problem, combinations: Tensor) -> None:
        """``combinations`` (M, D) by source units, each coefficient 0 or of `DIGITS` binary digits and at least 1."""
        super().__init__(problem, problem.model, torch.float64)
        self._combinations = combinations
        self._vanish = torch.ones(len(combinations), dtype=torch.bool, device=combinations.device)
        self._first = None if problem.intercept else problem.model.center.unsqueeze(0)

    def add(self, block: Batch) -> None:
        """Takes one block of rows, features in source units."""
        for part in parts(block, part_rows(block.features.shape[1], self.dtype)):
            features = weighing_rows(part, self.problem).features.double()
            if not len(features):
                continue
            if self._first is None:
                self._first = features[:1].clone()
            for number in self._vanish.nonzero()[:, 0].tolist():
                some = self._combinations[number].nonzero()[:, 0]
                coef = self._combinations[number, some]
                numbers: tuple[Tensor, ...] = features[:, some], -self._first[:, some]
                if bool((torch.frexp(coef).mantissa.abs() != 0.5).any()):
                    # Products with a power of two are exact, and with others those with half of a number's digits.
                    numbers = (*_halves(numbers[0]), *_halves(numbers[1]))
                terms = [coef * one for one in numbers]
                self._vanish[number] = _vanish(torch.cat([one.expand(len(features), -1) for one in terms], dim=1))

    def result(self) -> Tensor:
        """Shape (M,)."""
        return self._vanish


class Residue(Pass[Tensor]):
    """By how much combinations of the features differ between rows, relative to what they add up, at most."""

    def __init__(self, problem: Problem, combinations: Tensor) -> None:
        """``combinations`` (M, D) by source units."""
        super().__init__(problem, problem.model, torch.float64)
        self._combinations = combinations
        self._largest = self.zeros(len(combinations))
        self._first = None if problem.intercept else self._sums(problem.model.center.unsqueeze(0))[0]

    def _sums(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of the terms of each combination, and of their sizes, (n, M)."""
        return features @ self._combinations.T, features.abs() @ self._combinations.abs().T

    def add(self, block: Batch) -> None:
        """Takes one block of rows, features in source units."""
        for part in parts(block, part_rows(block.features.shape[1], self.dtype)):
            features = weighing_rows(part, self.problem).features.double()
            if not len(features):
                continue
            sums, sizes = self._sums(features)
            self._first = sums[:1] if self._first is None else self._first
            differences = (sums - self._first).abs() / (sizes + self._first.abs()).clamp(min=1e-300)
            self._largest = torch.maximum(self._largest, differences.amax(0))

    def result(self) -> Tensor:
        """Shape (M,)."""
        return self._largest


def _vanish(terms: Tensor) -> bool:
    """Whether the exact sums of terms (n, m) over m are proven to be zero."""
    for _ in range(DISTILLATIONS):
        terms = terms[:, (terms != 0).any(0)]
        if not terms.shape[1]:
            return True
        terms = _distilled(terms[(terms != 0).any(1)])
    return False


def _rank(problem: Problem, frame: Frame, gram: Tensor, rows: int) -> Asking[tuple[int, int, tuple[int, ...]]]:
    """The rank of the features with the intercept, at most; what it is but for rounding; which depend on others so.

    The numerical null space suggests combinations of features with simple coefficients: copies, sums, the levels of a
    category.  Those that vanish in exact arithmetic lower the rank.

    Args:
        problem: Whose rows will be shown.
        frame: In which the features are multiplied.
        gram: Weighted sums over the rows of products of two features, (P, P), with the 1 of the intercept if any.
        rows: How many there are.
    """
    p = len(gram)
    diagonal = gram.diagonal()
    units = torch.where(diagonal > 0, diagonal.rsqrt(), 1.0)
    try:
        values, vectors = torch.linalg.eigh(units * gram * units.unsqueeze(1))
    except RuntimeError:  # torch's LinAlgError, which it does not export
        return min(p, rows), p, ()
    null = values <= RESOLVED * p * (accumulated(problem) + 20 * UNIT * values[-1])
    basis = _echelon(vectors[: problem.num_features, null].T.contiguous())
    combinations = _simple(basis * (units[: problem.num_features] / frame.scale))
    vanish = (yield from ask(Vanishing(problem, combinations))) & (combinations != 0).any(1)
    rest = basis[~vanish]
    known = int(vanish.sum())
    if len(rest):
        rest = rest * (units[: problem.num_features] / frame.scale)
        known += int(((yield from ask(Residue(problem, rest))) <= ROUNDED).sum())
    dependent = (rest != 0).any(0).nonzero()[:, 0]
    return min(p - int(vanish.sum()), rows), p - known, tuple(dependent.tolist())


def _echelon(basis: Tensor) -> Tensor:
    """Rows (M, D) -> others of the same span, each with a pivot where the others are 0; Gauss and Jordan."""
    done: list[int] = []
    for _ in range(min(basis.shape)):
        rest = basis.abs()
        rest[done] = 0
        row, column = divmod(int(rest.argmax()), basis.shape[1])
        if not float(rest[row, column]) > ABSENT:
            break
        basis[row] /= basis[row, column].clone()
        others = torch.arange(len(basis)) != row
        basis[others] -= basis[others, column].unsqueeze(1) * basis[row]
        done.append(row)
    basis = basis[done]
    return torch.where(basis.abs() > ABSENT * basis.abs().amax(1, keepdim=True), basis, 0.0)


def _simple(combinations: Tensor) -> Tensor:
    """The same directions (M, D) with coefficients of few binary digits, the smallest at least 1; else 0."""
    combinations = combinations / torch.where(combinations == 0, math.inf, combinations.abs()).amin(1, keepdim=True)
    found = torch.zeros_like(combinations)
    for multiple in range(MULTIPLES, 0, -1):
        digits, exponent = torch.frexp(combinations * multiple)
        rounded = torch.ldexp((digits * 2**DIGITS).round() / 2**DIGITS, exponent)
        fits = ((rounded - combinations * multiple).abs() <= ABSENT * rounded.abs()).all(1)
        found[fits] = rounded[fits]
    return found


class Reached(NamedTuple):
    """What `Reach` finds, in the units that it was given."""

    largest: float
    """Squared norm of a row."""
    mean: float
    """Sum over the rows of what they weigh times their squared norms, times the problem's share."""
    far: float
    """Square of a mean that is taken away from sums over the rows, the largest of all columns."""
    blurred: float
    """Rounding of a column of which the mean is subtracted row by row, relative to its deviation."""


class Reach(Pass[Reached]):
    """How large rows are in a frame, with the 1 that the intercept multiplies."""

    copies = True

    def __init__(self, problem: Problem, frame: Frame, size: Tensor) -> None:
        """``size`` (D + 1,) divides the coordinates of a row in the frame, and the 1."""
        super().__init__(problem, frame)
        self._one = float(size[-1]) ** -2 if problem.intercept else 0.0
        self._origin = (-frame.center / (frame.scale * size[:-1])).to(self.dtype)
        self._invert = (1 / (frame.scale * size[:-1])).to(self.dtype)
        self._size = size[:-1].to(self.dtype)
        self._largest = torch.zeros((), dtype=self.dtype, device=frame.center.device)
        self._sum = self.zeros()
        center, scale = self._fold
        self._far = float((center / (scale * size[:-1])).square().max()) if len(center) else 0.0
        blur = torch.finfo(self.dtype).eps * (frame.center / frame.scale).abs()
        self._blurred = float(blur.max()) if self._shift is not None else 0.0

    def gather(self, rows: Rows) -> None:
        """Keeps the largest of those that weigh something, and adds up."""
        shifted = self._shift is not None
        features = rows.features / self._size if shifted else torch.addcmul(self._origin, rows.features, self._invert)
        squares = torch.linalg.vector_norm(features, dim=1).square_()
        if rows.weights is not None:
            squares = torch.where(rows.weights[:, 0] > 0, squares, 0.0)
        self._largest = torch.maximum(self._largest, squares.max())
        self._sum += (squares if rows.weights is None else squares * rows.weights[:, 0]).sum(dtype=torch.float64)

    def result(self) -> Reached:
        """With room for the rounding of float32."""
        share, total = self.problem.share, self.problem.total_weight
        mean = float(self._sum) * share + share * total * self._one
        return Reached(1.001 * float(self._largest) + self._one, 1.001 * mean, self._far, self._blurred)


def size_of(direct: Factored, outputs: int) -> Tensor:
    """Roots of the curvature by each coordinate, the smallest of all outputs: (D + 1,)."""
    diagonal = direct.matrices.diagonal(dim1=1, dim2=2).reshape(outputs, -1).amin(0)
    return torch.where(diagonal > 0, diagonal, 1.0).sqrt()


class Norms(NamedTuple):
    """What a Hessian that is held tells of all rows, of each of its matrices; see `by_held_hessian`."""

    rows: Tensor
    """Largest squared norm of a row in the metric of the inverse, (B,)."""
    error: Tensor
    """Of the Hessian, relative to its smallest curvature, (B,)."""
    blur: Tensor
    """Rounding error of a gradient in float64, its norm in the metric of the inverse, (B,)."""
    self_concordance: float
    """Of the loss."""

    @property
    def reach(self) -> float:
        """The f - f* up to which there is a bound still where curvature fell by half since the Hessian was made."""
        largest = float(self.rows.max()) * self.self_concordance**2
        return CLOSE**2 / 8 / largest if largest else math.inf


def norms(problem: Problem, direct: Factored, size: Tensor, reached: Reached) -> Norms | None:
    """Those of a Hessian, or ``None`` where its smallest curvature is lost in rounding.

    Args:
        problem: Without l1.
        direct: The Hessian.
        size: Units of the coordinates, (D + 1,).
        reached: Of `Reach` in that frame and those units.
    """
    units = (1 / size).repeat(direct.matrices.shape[1] // len(size))
    matrices = direct.matrices * units * units.unsqueeze(1)
    if not problem.intercept:
        moves = torch.arange(len(units), device=size.device) % len(size) != len(size) - 1
        matrices = matrices[:, moves][:, :, moves]
    values = torch.linalg.eigvalsh(matrices)
    smallest, largest = values[:, 0], values[:, -1]
    eps, k = torch.finfo(problem.dtype).eps, problem.num_outputs if problem.coupled else 1
    of_ones = direct.matrices.diagonal(dim1=1, dim2=2)[:, len(size) - 1 :: len(size)].amax(1)
    # By how much it may be off: sums of so many rows, what a mean takes away from them, probabilities that are known
    # to so many digits, features likewise, and what was added so that it could be factored.
    summed = 10 * eps if problem.dtype != torch.float64 else accumulated(problem) + 10 * eps
    error = summed * values.shape[1] * (largest + 2 * reached.far * of_ones)
    error = error + 4 * eps * k * reached.mean + (4 * reached.blurred + direct.ridge) * largest
    error = error / smallest.clamp(min=1e-300)
    if not bool(((smallest > 0) & (error < 0.1)).all()):
        return None
    total = problem.share * problem.total_weight * problem.loss.lipschitz**2 * (2 if problem.coupled else 1)
    blur = accumulated(problem) * (total * (reached.mean + reached.far * total) / smallest).sqrt()
    rows = (2 if problem.coupled else 1) * reached.largest / smallest
    return Norms(rows, error, blur, problem.loss.self_concordance)


def by_held_hessian(direct: Factored, of_rows: Norms, change: Tensor, gradient: Tensor) -> float:
    """The bound of `_by_curvature` from a Hessian of a point nearby, with all that this costs added.

    Args:
        direct: The Hessian.
        of_rows: Its `norms`.
        change: Of the logits since that point, as `Evaluation` has it: curvature falls at most by exp(-M change).
        gradient: At the point, (K, D + 1), in the frame of the Hessian.
    """
    grown = (of_rows.self_concordance * change).exp() / (1 - of_rows.error)
    flat = (direct.step(gradient) * gradient).reshape(len(grown), -1)
    squared = (flat.sum(1).clamp(min=0).sqrt() + of_rows.blur).square() * grown
    total = 0.0
    products = of_rows.self_concordance * (squared * of_rows.rows * grown).sqrt()
    for decrement, product in zip(squared.tolist(), products.tolist(), strict=True):
        if not product < CLOSE:
            return math.inf
        total += decrement / (4 * _psi(_invert(product)))
    return total


def _psi(r: float) -> float:
    return 0.5 - r / 6 + r * r / 24 if r < 1e-3 else (math.expm1(-r) + r) / (r * r)


def _invert(product: float) -> float:
    """The r with r psi(r) = product; a little more, never less."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * _psi(middle) < product else (low, middle)
    return high


def _by_products(problem: Problem, point: Tensor, gradient: Tensor) -> Asking[float]:
    """Half the Newton decrement, by a few steps of conjugate gradients: an estimate from below."""
    diagonal = yield from ask(Diagonal(problem, problem.model, point))
    metric = diagonal.clamp(min=1e-12 * float(diagonal.max()))
    solution = yield from conjugate_gradients(
        problem, problem.model, point, gradient, lambda r: r / metric, 0.03, PRODUCTS
    )
    return solution.gain
