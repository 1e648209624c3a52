"""Bounds on the gap by the curvature of a self-concordant loss, where no penalty gives a duality gap."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.solvers.dependent_features import RESOLVED, rank_of
from logreg.solvers.exact_sums import moved_to
from logreg.solvers.newton_steps import Factored
from logreg.solvers.passes.base import PassRequests, PreparedRows, request
from logreg.solvers.passes.certifying import (
    UNIT_ROUNDOFF,
    Certifying,
    Measure,
    Measured,
    Reached,
    accumulated,
    centered_coordinates,
)
from logreg.solvers.passes.evaluate import Derivatives
from logreg.solvers.passes.sampling import Sample
from logreg.solvers.problem import Coordinates, Problem

LARGE = 10.0
"""Root mean square of a feature in an optimizer's coordinates, at most: of a sample of the rows it is about 1."""

CLOSE = 0.9
"""Norm of the slope in the metric of the inverse Hessian, times the largest of a row, below which curvature tells."""


SATURATED = 1e-6
"""Mean loss below which residuals are computed anew, since probabilities near 1 have lost what they are from 1."""


class Known(NamedTuple):
    """A point and all that a bound is made of."""

    problem: Problem
    coordinates: Coordinates
    point: Tensor
    """In the coordinates, (K, D + 1)."""
    evaluation: Derivatives
    """There, in float64."""
    squares: Tensor
    """As of `Measured`, by coordinates in which sums over the rows are made, (D + 1,)."""
    largest: Tensor
    """As of `Measured`, by the same coordinates."""

    @property
    def total(self) -> float:
        """What all rows weigh in the objective: 1 for a mean."""
        return self.problem.row_sum_scale * self.problem.total_weight

    @property
    def logits_error(self) -> Tensor:
        """Root of the weighted sum over the rows of squared rounding errors of each output's logits, (K,)."""
        reach = self.point[:, :-1].abs() @ self.squares[:-1].sqrt() + self.point[:, -1].abs() * math.sqrt(self.total)
        return (self.problem.num_features + 10) * UNIT_ROUNDOFF * reach

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
        return (
            evaluation.loss * math.expm1(min(2 * (self.problem.num_features + 10) * UNIT_ROUNDOFF * reach, 700.0))
            + summed
        )


class Leverage(Certifying[Tensor]):
    """The largest squared norm of a row under a metric, for each output."""

    maxima = ("_largest",)

    def __init__(self, problem: Problem, coordinates: Coordinates, roots: Tensor) -> None:
        """``roots`` (K, D + 1, R) are such that the squared norm of a row x for output k is |roots_k' x|^2."""
        super().__init__(problem, coordinates)
        self._roots = roots
        self._largest = self.zeros(len(roots))

    def gather(self, rows: PreparedRows) -> None:
        """Keeps the largest."""
        for output, root in enumerate(self._roots):
            norms = torch.addmm(root[-1], rows.features, root[:-1]).square().sum(1)
            self._largest[output] = torch.maximum(self._largest[output], norms.max())

    def result(self) -> Tensor:
        """Shape (K,)."""
        return self._largest


class Curved(NamedTuple):
    """What `by_curvature` finds."""

    gap: float
    rigorous: bool
    dependent: tuple[int, ...] = ()


NOTHING_KNOWN = Curved(math.inf, True)
"""The infinite bound."""


def by_curvature(
    problem: Problem, own: Coordinates, point: Tensor, known: Known, measured: Measured | None
) -> PassRequests[Curved]:
    """From the Hessian: f is so nearly quadratic around the point that half the Newton decrement bounds the gap.

    Along a direction that changes no logit by more than r / M, with M the self-concordance of the loss, the second
    derivative falls at most by exp(-r).  So with the decrement d = |g| in the metric of the inverse Hessian, and R the
    largest norm of a row in it,

        f - f* <= d^2 / (4 psi(r)),  psi(r) = (exp(-r) + r - 1) / r^2,  r psi(r) = M R d

    That holds within the span of eigenvectors whose eigenvalues are above rounding.  It holds everywhere if the rank of
    the features is no larger than their number, since f then has the same values on that span as everywhere; `rank_of`
    proves that in exact arithmetic.  Otherwise it is an estimate: where features depend on each other to within
    rounding, as if they did so exactly, and else nothing at all where f has a slope outside.
    """
    coordinates, at = known.coordinates, known.point
    if measured is None:
        coordinates = centered_coordinates(problem, (yield from request(Sample(problem))))
        at = moved_to(own, coordinates, point)
    if measured is None or measured.evaluation.hessian is None:
        measured = yield from request(Measure(problem, coordinates, at, hessian=True))
    known = Known(problem, coordinates, at, *measured[:3])
    hessian, gradient = measured.evaluation.hessian, measured.evaluation.gradient
    assert hessian is not None
    (k, p), together = at.shape, problem.coupled
    if not problem.intercept:
        p -= 1
        hessian = hessian[:, :p, :, :p] if together else hessian[:, :p, :p]
    l2 = problem.penalties(coordinates)[0][:p]
    batch, count = (1, k * p) if together else (k, p)
    hessian = hessian.reshape(batch, count, count)
    noise = accumulated(problem) * measured.slopes[:, :p] + 4 * UNIT_ROUNDOFF * (
        gradient[:, :p].abs() + l2 * at[:, :p].abs()
    )
    gradient, noise = gradient[:, :p].reshape(batch, count), noise.reshape(batch, count)
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    units = torch.where(diagonal > 0, diagonal.rsqrt(), 1.0)  # the diagonal is 1 in these
    scaled = units.unsqueeze(2) * hessian * units.unsqueeze(1)
    off = 2 * (problem.num_features + 10) * UNIT_ROUNDOFF * measured.reach  # logits, by which curvature is off as well
    grown = math.exp(min(problem.loss.self_concordance * off, 10.0))
    if not bool(scaled.isfinite().all()) or grown > 1.1:
        return NOTHING_KNOWN
    try:
        values, vectors = torch.linalg.eigh(scaled)
    except RuntimeError:  # torch's LinAlgError, which it does not export
        return NOTHING_KNOWN
    error = count * (accumulated(problem) + 20 * UNIT_ROUNDOFF * values[:, -1:])
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
    leverages = yield from request(Leverage(problem, coordinates, padded))
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
    rank, seeming, dependent = yield from rank_of(problem, coordinates, gram, measured.rows)
    if least_seen >= copies * rank:
        return Curved(total, True)
    if dependent and least_seen >= copies * seeming:
        return Curved(total, False, dependent)  # it would be a bound, were those exact dependences
    outside = vectors * (~seen).unsqueeze(1) * units.unsqueeze(2)
    slopes = (outside.mT @ gradient.unsqueeze(2)).abs()[..., 0]
    most = (outside.abs().mT @ noise.unsqueeze(2))[..., 0] + of_logits.unsqueeze(1) * (values.abs() + error).sqrt()
    sloped = bool((slopes > most).any())
    return Curved(math.inf, True, dependent) if sloped else Curved(total, False, dependent)


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
        reached: Of `Reach` in that coordinates and those units.
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
    total = problem.row_sum_scale * problem.total_weight * problem.loss.lipschitz**2 * (2 if problem.coupled else 1)
    blur = accumulated(problem) * (total * (reached.mean + reached.far * total) / smallest).sqrt()
    rows = (2 if problem.coupled else 1) * reached.largest / smallest
    return Norms(rows, error, blur, problem.loss.self_concordance)


def by_held_hessian(direct: Factored, of_rows: Norms, change: Tensor, gradient: Tensor) -> float:
    """The bound of `by_curvature` from a Hessian of a point nearby, with all that this costs added.

    Args:
        direct: The Hessian.
        of_rows: Its `norms`.
        change: Of the logits since that point, as `Derivatives` has it: curvature falls at most by exp(-M change).
        gradient: At the point, (K, D + 1), in the coordinates of the Hessian.
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
