"""Bounds of f - f* from the Hessian, for self-concordant losses: the only bounds where nothing is penalized.

The loss is self-concordant in the sense of Bach: along a line the third derivative of the loss by its logits is at most
M times the second derivative, times the speed of the logits.  Hence the Hessian H(x) at a point bounds the Hessian
around it.  Along a direction in which no logit changes by more than r / M, the second derivative of f falls at most by
the factor exp(-r).  With the Newton decrement d^2 = g' H^-1 g and with R^2 = max_i x_i' H^-1 x_i, the largest squared
norm of a row in the metric of the inverse Hessian,

    f - f*  <=  d^2 / (4 psi(r)),    psi(r) = (exp(-r) + r - 1) / r^2,    where r psi(r) = M R d.

For M R d -> 0 it is d^2 / 2, half the squared decrement; there is no bound for M R d >= 1.

Some losses have an M only while logits are within some reach.  For M of the logits as they are and `LOGIT_ROOM` beyond,
the bound holds if r <= M * LOGIT_ROOM: f is no smaller than at the point where a logit has moved by r / M, so, by
convexity, neither beyond.

The bound holds within the span of the eigenvectors of H whose eigenvalues are known above rounding.  It holds
everywhere if the rank of the features is no larger than their number, since f then has the same values on that span as
everywhere; `rank_of` proves the rank in exact arithmetic.

References:
    Bach (2010), Self-concordant analysis for logistic regression, Electronic Journal of Statistics 4, section 2.
    Boyd and Vandenberghe (2004), Convex optimization, section 9.5.1: the Newton decrement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.rows import BLOCK_ROWS
from logreg.solvers.bounds.base import EvaluatedPoint
from logreg.solvers.bounds.dependent_features import RESOLVED_EIGENVALUE_RATIO, rank_of
from logreg.solvers.exact_sums import moved_to
from logreg.solvers.kernels import SUM_ROWS
from logreg.solvers.passes.base import PassRequests, PreparedRows, request
from logreg.solvers.passes.precise import (
    ROUNDINGS_OF_A_TERM,
    UNIT_ROUNDOFF,
    EvaluatePrecisely,
    PreciseDerivatives,
    PrecisePass,
    RowNormBounds,
    accumulated,
    centered_coordinates,
)
from logreg.solvers.passes.sampling import sampled_rows
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.steps.newton_steps import FactoredHessian

MAX_SCALED_DECREMENT = 0.9
"""Largest M R d, the scaled Newton decrement, at which a bound is given.

The bound becomes infinite at 1, where rounding would decide on it.
"""

SINGLE_ADDITIONS = SUM_ROWS + BLOCK_ROWS // SUM_ROWS + 2 * ROUNDINGS_OF_A_TERM
"""Largest number of roundings to float32 from a row's term to its sum in a Hessian of that type: those of a part of a
product, one for each part of the rows that a pass takes at once, and the others.  Passes add in float64."""

LOGIT_ROOM = 1.0
"""Distance by which logits may change where the self-concordance of a loss depends on their reach."""

MAX_LOGIT_ROUNDING_FACTOR = 1.1
"""Largest factor by which rounding of the logits may change the Hessian; beyond it there is no bound."""


class Leverage(PrecisePass[Tensor]):
    """The largest squared norm of a row in a metric, for each output."""

    maxima = ("_largest",)

    def __init__(self, problem: Problem, coordinates: Coordinates, roots: Tensor) -> None:
        """``roots`` (K, D + 1, R) define the metric: the squared norm of a row x for output k is |roots_k' x|^2."""
        super().__init__(problem, coordinates)
        self._roots = roots
        self._largest = self.zeros(len(roots))

    def accumulate(self, rows: PreparedRows) -> None:
        """Updates the maximum."""
        for output, root in enumerate(self._roots):
            norms = torch.addmm(root[-1], rows.features, root[:-1]).square().sum(1)
            self._largest[output] = torch.maximum(self._largest[output], norms.max())

    def result(self) -> Tensor:
        """Shape (K,)."""
        return self._largest


class CurvatureBound(NamedTuple):
    """The result of `bound_by_curvature`."""

    gap: float
    """Upper bound on f - f* in nats; an estimate where not ``rigorous``."""
    rigorous: bool
    dependent: tuple[int, ...] = ()
    """Features that are linearly dependent to within rounding, in ascending order, where they prevent a bound."""


NO_BOUND = CurvatureBound(math.inf, True)
"""The infinite bound."""


def bound_by_curvature(
    problem: Problem, own: Coordinates, point: Tensor, at: EvaluatedPoint, measured: PreciseDerivatives | None
) -> PassRequests[CurvatureBound]:
    """Bounds f - f* at a point by the Hessian there; see the formula of the module.

    All rounding errors are bounded: of the gradient, of the logits, and of the Hessian, which may be smaller by its
    rounding error along every eigenvector.  Where the rank of the features exceeds the number of eigenvectors that are
    known above rounding, the result is an estimate, as if features that depend on each other to within rounding did so
    exactly; it is infinite where f has a slope outside of the span.

    Args:
        problem: The problem whose rows are requested.
        own: The coordinates of the point.
        point: Shape (K, D + 1).
        at: The point with its derivatives.
        measured: The result of `EvaluatePrecisely` at the point, if it is known already, with or without the Hessian.
    """
    at, measured = yield from _with_hessian(problem, own, point, at, measured)
    blocks = _blocks(at, measured)
    # Rounding moves the logits by ``off`` at most, and the curvature by the factor exp(M off).
    off = 2 * (problem.num_features + 10) * UNIT_ROUNDOFF * measured.reach
    constant, room = problem.loss.self_concordance, math.inf
    if not math.isfinite(constant):
        constant = problem.loss.self_concordance_within(measured.farthest + off + LOGIT_ROOM)
        room = constant * LOGIT_ROOM
    grown = math.exp(min(constant * off, 10.0))
    spectrum = _spectrum(at, blocks)
    if spectrum is None or grown > MAX_LOGIT_ROUNDING_FACTOR:
        return NO_BOUND
    grown = grown / (1 - float((spectrum.error * spectrum.roots.square()).max()))
    inverse_root = spectrum.units.unsqueeze(2) * spectrum.vectors * spectrum.roots.unsqueeze(1)
    of_logits = at.curved_error.norm().unsqueeze(0) if problem.coupled else at.curved_error
    along = (inverse_root.mT @ blocks.gradient.unsqueeze(2))[..., 0]
    blurred = (inverse_root.abs().mT @ blocks.noise.unsqueeze(2))[..., 0]
    decrement = (along.norm(dim=1) + blurred.norm(dim=1) + of_logits).square() * grown
    if not bool(decrement.isfinite().all()):
        return NO_BOUND
    padded = inverse_root.view(len(at.point), blocks.parameters, -1)
    padded = padded if problem.intercept else F.pad(padded, (0, 0, 0, 1))
    leverages = yield from request(Leverage(problem, at.coordinates, padded))
    if problem.coupled:  # a difference of two logits changes by at most twice the larger change
        leverages = 4 * leverages.max().unsqueeze(0)
    leverages = constant**2 * leverages
    decrements = decrement.tolist()
    products = [
        math.sqrt(squared * leverage)
        for squared, leverage in zip(decrements, (1.01 * grown * leverages).tolist(), strict=True)
    ]
    total = _sum_of_gaps(decrements, products, room)
    if total == math.inf:
        return NO_BOUND
    return (yield from _on_all_of_space(at, measured, blocks, spectrum, of_logits, total))


def half_decrement_by_hessian(
    problem: Problem, own: Coordinates, point: Tensor, at: EvaluatedPoint, measured: PreciseDerivatives | None
) -> PassRequests[float]:
    """Half the squared Newton decrement at a point, in nats: about its distance from a local minimum nearby.

    The arguments are those of `bound_by_curvature`.

    Returns:
        The estimate; infinite where the Hessian has a direction of negative curvature.
    """
    at, measured = yield from _with_hessian(problem, own, point, at, measured)
    blocks = _blocks(at, measured)
    spectrum = _spectrum(at, blocks)
    if spectrum is None or bool((spectrum.values < -spectrum.error).any()):
        return math.inf
    slopes = spectrum.vectors.mT @ (spectrum.units * blocks.gradient).unsqueeze(2)
    return float((slopes[..., 0] * spectrum.roots).square().sum()) / 2


def _with_hessian(
    problem: Problem, own: Coordinates, point: Tensor, at: EvaluatedPoint, measured: PreciseDerivatives | None
) -> PassRequests[tuple[EvaluatedPoint, PreciseDerivatives]]:
    """The point measured together with its Hessian, which takes a pass where it is not known yet."""
    coordinates, moved = at.coordinates, at.point
    if measured is None:
        coordinates = centered_coordinates(problem, (yield from sampled_rows(problem)))
        moved = moved_to(own, coordinates, point)
    if measured is None or measured.evaluation.hessian is None:
        measured = yield from request(EvaluatePrecisely(problem, coordinates, moved, hessian=True))
    return EvaluatedPoint(problem, coordinates, moved, *measured[:3]), measured


class _Blocks(NamedTuple):
    """The Hessian as symmetric matrices: one for all outputs together (B = 1), or one for each (B = K)."""

    parameters: int
    """Parameters of one output: D + 1, or D without an intercept."""
    hessian: Tensor
    """Shape (B, P, P)."""
    gradient: Tensor
    """Shape (B, P)."""
    noise: Tensor
    """Upper bound of the rounding errors of the gradient, (B, P)."""
    terms: Tensor
    """Sum over the rows of the absolute terms of the diagonal, (B, P)."""


def _blocks(at: EvaluatedPoint, measured: PreciseDerivatives) -> _Blocks:
    """Flattens the parameters of outputs that are coupled, and leaves out an intercept that is fixed."""
    problem, hessian, gradient = at.problem, measured.evaluation.hessian, measured.evaluation.gradient
    assert hessian is not None
    (k, p), together = at.point.shape, problem.coupled
    if not problem.intercept:
        p -= 1
        hessian = hessian[:, :p, :, :p] if together else hessian[:, :p, :p]
    l2 = problem.penalties(at.coordinates)[0][:p]
    batch, count = (1, k * p) if together else (k, p)
    noise = at.accumulated * measured.slopes[:, :p]
    noise = noise + 4 * UNIT_ROUNDOFF * (gradient[:, :p].abs() + l2 * at.point[:, :p].abs())
    hessian = hessian.reshape(batch, count, count)
    terms = hessian.diagonal(dim1=1, dim2=2).abs()
    if measured.coupled_terms is not None:
        terms = measured.coupled_terms[:, :p].reshape(batch, count)
    return _Blocks(p, hessian, gradient[:, :p].reshape(batch, count), noise.reshape(batch, count), terms)


class _Spectrum(NamedTuple):
    """Eigenvalues and eigenvectors of the Hessian in units in which its diagonal is 1."""

    units: Tensor
    """The units, (B, P)."""
    values: Tensor
    """Eigenvalues in ascending order, (B, P)."""
    vectors: Tensor
    """Shape (B, P, P)."""
    error: Tensor
    """Upper bound of the rounding error of the Hessian, in the norm of its eigenvalues, (B, 1)."""
    resolved: Tensor
    """Whether an eigenvalue is known above rounding, (B, P)."""
    roots: Tensor
    """1 / sqrt(eigenvalue) where the eigenvalue is known above rounding, else 0, (B, P)."""


def _spectrum(at: EvaluatedPoint, blocks: _Blocks) -> _Spectrum | None:
    """Decomposes the Hessian at a point; ``None`` where it is not finite or the decomposition fails.

    The error of its sums has a norm of at most their relative error times the sum of the absolute terms of the
    diagonal.
    """
    hessian = blocks.hessian
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    units = torch.where(diagonal > 0, diagonal.rsqrt(), 1.0)
    scaled = units.unsqueeze(2) * hessian * units.unsqueeze(1)
    if not bool(scaled.isfinite().all()):
        return None
    try:
        values, vectors = torch.linalg.eigh(scaled)
    except RuntimeError:  # torch's LinAlgError, which it does not export
        return None
    terms = (units.square() * blocks.terms).sum(1, keepdim=True)
    error = at.accumulated * terms + 20 * UNIT_ROUNDOFF * values.shape[1] * values[:, -1:]
    resolved = values > RESOLVED_EIGENVALUE_RATIO * error
    roots = torch.where(resolved, values, 1.0).rsqrt() * resolved
    return _Spectrum(units, values, vectors, error, resolved, roots)


def _on_all_of_space(
    at: EvaluatedPoint,
    measured: PreciseDerivatives,
    blocks: _Blocks,
    spectrum: _Spectrum,
    of_logits: Tensor,
    total: float,
) -> PassRequests[CurvatureBound]:
    """Decides whether a bound on the span of the resolved eigenvectors holds for all parameters.

    Args:
        at: The point.
        measured: The result of `EvaluatePrecisely` at the point.
        blocks: The Hessian and the gradient at the point.
        spectrum: The eigenvectors.
        of_logits: Upper bound of the gradient's error by rounding of the logits, in the metric of the inverse, (B,).
        total: The bound of f - f* on the span.
    """
    problem, p, count = at.problem, blocks.parameters, blocks.gradient.shape[1]
    k, together = len(at.point), problem.coupled
    resolved = int(spectrum.resolved.sum(1).min())
    if problem.objective.l2:
        free = 1 if together and problem.intercept else 0
        return CurvatureBound(total, True) if resolved >= count - free else NO_BOUND
    copies = k - 1 if together else 1
    if resolved >= copies * min(p, measured.rows):
        return CurvatureBound(total, True)
    widest = int(measured.evaluation.curvature.diagonal().argmax())
    hessian = blocks.hessian
    gram = hessian.view(k, p, k, p)[widest, :, widest] if together else hessian[widest]
    rank, seeming, dependent = yield from rank_of(problem, at.coordinates, gram, measured.rows, at.accumulated)
    if resolved >= copies * rank:
        return CurvatureBound(total, True)
    if dependent and resolved >= copies * seeming:
        return CurvatureBound(total, False, dependent)  # it would be a bound if the features depended exactly
    outside = spectrum.vectors * (~spectrum.resolved).unsqueeze(1) * spectrum.units.unsqueeze(2)
    slopes = (outside.mT @ blocks.gradient.unsqueeze(2)).abs()[..., 0]
    sizes = (spectrum.values.abs() + spectrum.error).sqrt()
    most = (outside.abs().mT @ blocks.noise.unsqueeze(2))[..., 0] + of_logits.unsqueeze(1) * sizes
    sloped = bool((slopes > most).any())
    return CurvatureBound(math.inf, True, dependent) if sloped else CurvatureBound(total, False, dependent)


def diagonal_roots(factored_hessian: FactoredHessian, outputs: int) -> Tensor:
    """Square roots of the Hessian's diagonal, the smallest over the outputs: units of the coordinates, (D + 1,)."""
    diagonal = factored_hessian.matrices.diagonal(dim1=1, dim2=2).reshape(outputs, -1).amin(0)
    return torch.where(diagonal > 0, diagonal, 1.0).sqrt()


class InverseHessianNorms(NamedTuple):
    """Upper bounds in the metric of the inverse of a held Hessian, for each of its B matrices.

    With them `bound_by_held_hessian` needs no pass.
    """

    rows: Tensor
    """Largest squared norm of a row, (B,)."""
    error: Tensor
    """Rounding error of the Hessian, relative to its smallest curvature, (B,)."""
    terms: Tensor
    """Norm of the sum over the rows of the absolute terms of a gradient, (B,)."""
    self_concordance: float
    """M of the loss."""

    @property
    def reach(self) -> float:
        """Largest f - f* for which there is a bound even if the curvature fell by half since the Hessian was formed."""
        largest = float(self.rows.max()) * self.self_concordance**2
        return MAX_SCALED_DECREMENT**2 / 8 / largest if largest else math.inf


def inverse_hessian_norms(
    problem: Problem,
    factored_hessian: FactoredHessian,
    size: Tensor,
    reached: RowNormBounds,
    additions: float | None = None,
) -> InverseHessianNorms | None:
    """Bounds norms in the metric of the inverse of a held Hessian by its smallest eigenvalue.

    Args:
        problem: A problem without l1.
        factored_hessian: The Hessian.
        size: Units of the coordinates, (D + 1,).
        reached: The result of `RowNorms` in these coordinates and units.
        additions: `Derivatives.additions` of the Hessian.

    Returns:
        The norms; ``None`` where the smallest eigenvalue is not known above rounding.
    """
    units = (1 / size).repeat(factored_hessian.matrices.shape[1] // len(size))
    matrices = factored_hessian.matrices * units * units.unsqueeze(1)
    if not problem.intercept:
        moves = torch.arange(len(units), device=size.device) % len(size) != len(size) - 1
        matrices = matrices[:, moves][:, :, moves]
    values = torch.linalg.eigvalsh(matrices)
    smallest, largest = values[:, 0], values[:, -1]
    eps, k = torch.finfo(problem.dtype).eps, problem.num_outputs if problem.coupled else 1
    total = problem.row_sum_scale * problem.total_weight
    # Errors of the Hessian: of sums over the rows of products v v', whose error has a norm of at most the relative one
    # times the sum of |v|^2.  For a softmax v is x sqrt(p_k) for each class k, and there are two such sums.
    if problem.coupled:
        squares, of_ones = values.new_tensor([2 * reached.mean]), values.new_tensor([2 * total])
    else:
        of_ones = factored_hessian.matrices.diagonal(dim1=1, dim2=2)[:, len(size) - 1 :: len(size)].amax(1)
        squares = values.sum(1)
    if reached.far:  # a mean is subtracted from the sums of v: (|x| + 2 |mean|)^2 <= 2 x^2 + 8 mean^2
        squares = 2 * squares + 8 * problem.num_features * reached.far * of_ones
    is_double = problem.dtype == torch.float64
    summed = accumulated(problem.rows, additions) + 10 * eps if is_double else SINGLE_ADDITIONS * eps / 2
    error = summed * squares
    # of probabilities and of features, which are rounded to the type; and the ridge that made it positive definite.
    error = error + 4 * eps * k * reached.mean + (4 * reached.blurred + factored_hessian.ridge) * largest
    error = error / smallest.clamp(min=1e-300)
    if not bool(((smallest > 0) & (error < 0.1)).all()):
        return None
    total *= problem.loss.lipschitz**2 * (2 if problem.coupled else 1)
    terms = (total * (reached.mean + reached.far * total) / smallest).sqrt()
    rows = (2 if problem.coupled else 1) * reached.largest / smallest
    return InverseHessianNorms(rows, error, terms, problem.loss.self_concordance)


def bound_by_held_hessian(
    factored_hessian: FactoredHessian, row_norms: InverseHessianNorms, change: Tensor, at: EvaluatedPoint
) -> float:
    """The bound of `bound_by_curvature` with a Hessian of a point nearby, and without a pass.

    Args:
        factored_hessian: The Hessian.
        row_norms: Row norms in the metric of the inverse of the Hessian.
        change: The largest change of a logit since the Hessian's point, `Derivatives.change`: curvature fell at most by
            the factor exp(-M change).
        at: The point, with a gradient in float64 in the coordinates of the Hessian.

    Returns:
        An upper bound of f - f* in nats; infinite where there is none.
    """
    gradient = at.evaluation.gradient
    grown = (row_norms.self_concordance * change).exp() / (1 - row_norms.error)
    blur = at.accumulated * row_norms.terms + at.curved_error.norm()
    flat = (factored_hessian.step(gradient) * gradient).reshape(len(grown), -1)
    squared = (flat.sum(1).clamp(min=0).sqrt() + blur).square() * grown
    products = row_norms.self_concordance * (squared * row_norms.rows * grown).sqrt()
    return _sum_of_gaps(squared.tolist(), products.tolist())


def _sum_of_gaps(decrements: Iterable[float], products: Iterable[float], room: float = math.inf) -> float:
    """The bound d^2 / (4 psi(r)), summed over the matrices of a Hessian.

    Args:
        decrements: Squared Newton decrements d^2.
        products: Scaled decrements M R d.
        room: The largest r up to which the self-concordance holds.

    Returns:
        The bound in nats; infinite where a scaled decrement is too large for one.
    """
    total = 0.0
    for decrement, product in zip(decrements, products, strict=True):
        if not product < MAX_SCALED_DECREMENT:
            return math.inf
        reach = _invert(product)
        if reach > room:
            return math.inf
        total += decrement / (4 * _psi(reach))
    return total


def _psi(r: float) -> float:
    """(exp(-r) + r - 1) / r^2, by its series near 0, where the differences cancel."""
    return 0.5 - r / 6 + r * r / 24 if r < 1e-3 else (math.expm1(-r) + r) / (r * r)


def _invert(product: float) -> float:
    """The r with r psi(r) = product, by bisection; a little more, never less."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * _psi(middle) < product else (low, middle)
    return high
