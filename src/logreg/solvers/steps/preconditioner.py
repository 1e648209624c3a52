"""Estimates of the inverse Hessian from sampled rows: each output's own block, whole, on a span, or nearly diagonal.

`preconditioner` chooses by the shape of the problem; blocks from more rows (`inverse_of_blocks`) may follow later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.solvers.costs import SECONDS_PER_GRAM_NUMBER, SECONDS_PER_GRAM_PRODUCT, blocks_seconds, pass_seconds
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import InterceptCurvature
from logreg.solvers.passes.hessian import (
    CurvatureInSpan,
    CurvatureSample,
    HessianDiagonal,
    SampledCurvature,
    adds_pairs,
)
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.steps.newton_steps import InverseHessian

SAMPLED_ROWS = 4000
"""Rows per output that a preconditioner is estimated from: about twice `MAX_BLOCK_FEATURES`, so that a sample
determines the largest blocks too."""

SAMPLING_RIDGE = 0.4
"""Added to the diagonal of a sampled block: this multiple of its mean, divided by the number of sampled rows.

A sample makes the smallest eigenvalues too small, and curvature falls on the way from zero to the optimum of a weak
penalty: steps along them would be too long."""

FACTOR_RIDGE = 1e-7
"""Multiple of its diagonal that is added to a block before it is factored: about the rounding of float32.  Where a
factorization fails, ten times as much is tried."""

SAMPLED_BLOCK_RIDGE = 1e-5
"""Multiple of the diagonal that is added to a sampled block so that Cholesky succeeds: above the rounding of
float32."""

MAX_BLOCK_FEATURES = 2048
"""Features up to which the preconditioner holds a matrix for each output: its factorization takes their third power."""

MIN_ROWS_PER_FEATURE = 4
"""Rows per feature from which the preconditioner holds a matrix for each output: then factoring one (D^3 / 3
operations) costs less than a twelfth of forming it from all rows (N * D^2)."""

BLOCKS_MEMORY_FRACTION = 0.2
"""Largest size of the preconditioner's matrices, as a fraction of the numbers in the data."""

SMALL_BLOCKS_NUMEL = 16e6
"""Numbers that the preconditioner's matrices may have for data of any size: 64 MB in float32."""

MAX_SPECTRUM_ROWS = 512
"""Rows at most that show the spectrum of the curvature: the decomposition of their covariance takes their third
power."""

SPECTRUM_PASSES = 16
"""Products with the features in whose time the covariance of these rows is decomposed, at most."""

EIGENVALUE_WORK = 10
"""Multiplications to decompose a symmetric matrix, as a multiple of the third power of its order."""

OUTPUTS_PER_READ = 12
"""Outputs for which a product with features takes as long as reading them from memory."""

SAMPLE_MEMORY_FRACTION = 0.1
"""Largest size of the rows that show the spectrum, as a fraction of the numbers in the data."""

SMALL_SAMPLE_NUMEL = 4e6
"""Numbers that the rows that show the spectrum may have for data of any size: 16 MB in float32."""

ZERO_VARIANCE_RATIO = 1e-6
"""Variance of a feature, relative to the mean one, that counts as 0 in the drawn rows."""

ZERO_DIAGONAL_RATIO = 1e-5
"""Second derivative by a coefficient, relative to the mean one, that a smaller one is raised to: that of a constant
feature is a rounding error of float32."""

MAX_SPAN_PASSES = 10
"""Time to form each output's block on the span of the directions of large curvature, in passes, at most: steps that
know one spectrum for all outputs take more passes than that."""

MIN_REST = 1e-4
"""Least eigenvalue of the preconditioner in units in which the diagonal is 1: a sample tells no smaller one."""


def preconditioner(
    problem: Problem,
    coordinates: Coordinates,
    point: Tensor,
    curvature: InterceptCurvature,
    seed: int,
) -> PassRequests[InverseHessian]:
    """An approximate inverse of the Hessian at a point, from two or three passes: each output's own block is inverted.

    1. The diagonal of the Hessian is computed over all rows, and a few rows are drawn in proportion to their curvature.
       Their covariance gives the directions of large curvature (`spikes_of`).
    2. Where there are any, and blocks are small and few features are to be determined, each output's block (D, D) is
       estimated from many rows and factored.
    3. Where blocks are too large, each is computed on the span of these directions alone (`inverse_in_span`), unless
       there are many.
    4. Else the inverse is that of the diagonal with the large eigenvalues corrected.  Without any it is the diagonal.

    Args:
        problem: The problem, over whose rows the passes go.
        coordinates: Coordinates of the point.
        point: Shape (K, D + 1).
        curvature: Second derivatives of f by the intercepts at the point.
        seed: Fixes which rows are drawn.
    """
    by_intercept = curvature.diagonal().clamp(min=1e-30)
    measured = yield from request(HessianDiagonal(problem, coordinates, point))
    diagonal = measured.clamp(min=torch.finfo(torch.float32).tiny).maximum(
        ZERO_DIAGONAL_RATIO * measured[:, :-1].mean(1, keepdim=True)
    )
    number, mass = _rows_to_draw(problem), float(by_intercept.sum())
    mass = mass if number < problem.rows else 0.0  # few rows are all drawn
    drawn = yield from request(CurvatureSample(problem, coordinates, point, mass, number, seed))
    spikes = spikes_of(problem, coordinates, diagonal, by_intercept, *drawn, is_sample=number < problem.rows)
    if _samples_blocks(problem) and len(spikes.values):
        return (yield from inverse_of_blocks(problem, coordinates, point, by_intercept, SAMPLED_ROWS, seed, measured))
    if len(spikes.values) and span_passes(problem, len(spikes.values)) <= MAX_SPAN_PASSES:
        return (yield from inverse_in_span(problem, coordinates, point, by_intercept, measured, spikes))
    return _inverse_of_spikes(problem, coordinates, diagonal, by_intercept, spikes)


def preconditioner_passes(problem: Problem) -> float:
    """Time to form a `preconditioner`, in passes, at most: its two passes, and the blocks or their parts on a span."""
    if not _samples_blocks(problem):
        return 2 + MAX_SPAN_PASSES
    return 2 + blocks_seconds(problem, min(SAMPLED_ROWS, problem.rows)) / pass_seconds(problem)


def _samples_blocks(problem: Problem) -> bool:
    """Whether a `preconditioner` has each output's block where features are correlated."""
    d = problem.num_features
    return d <= MAX_BLOCK_FEATURES and d <= problem.rows / MIN_ROWS_PER_FEATURE and holds_blocks(problem)


def span_passes(problem: Problem, directions: int) -> float:
    """Time to form each output's block on the span of so many directions, in passes; infinite where they are large."""
    if problem.num_outputs * directions**2 > max(BLOCKS_MEMORY_FRACTION * problem.numel, SMALL_BLOCKS_NUMEL):
        return math.inf
    products = problem.rows * problem.num_outputs * directions
    return products * (SECONDS_PER_GRAM_NUMBER + SECONDS_PER_GRAM_PRODUCT * directions) / pass_seconds(problem)


def holds_blocks(problem: Problem) -> bool:
    """Whether a matrix (D, D) for each output is small beside the data."""
    k, d = problem.num_outputs, problem.num_features
    return k * d * d <= max(BLOCKS_MEMORY_FRACTION * problem.numel, SMALL_BLOCKS_NUMEL)


def blocks_work(problem: Problem) -> float:
    """Multiplications to form and factor each output's block (`inverse_of_blocks`) from `block_rows`."""
    d = problem.num_features
    return problem.num_outputs * (min(block_rows(problem), problem.rows) * d**2 / 2 + d**3 / 6)


def block_rows(problem: Problem) -> int:
    """Rows from which even the small eigenvalues of a block are known well."""
    return max(SAMPLED_ROWS, MIN_ROWS_PER_FEATURE * problem.num_features)


def _rows_to_draw(problem: Problem) -> int:
    """Rows for the spectrum of the curvature."""
    data = problem.numel
    most = max(SAMPLE_MEMORY_FRACTION * data, SMALL_SAMPLE_NUMEL) / max(problem.num_features, 1)
    in_time = (SPECTRUM_PASSES * data * (problem.num_outputs + OUTPUTS_PER_READ) / EIGENVALUE_WORK) ** (1 / 3)
    return 1 + int(min(MAX_SPECTRUM_ROWS, most, in_time))


class Spikes(NamedTuple):
    """The large eigenvalues of the curvature, in units in which its diagonal is 1; the other ones count as equal."""

    center: Tensor
    """Mean of the features, weighted by curvature, (D,)."""
    values: Tensor
    """Large eigenvalues, in descending order, (R,)."""
    vectors: Tensor
    """Their eigenvectors, (D, R)."""
    rest: float
    """The mean of the other eigenvalues."""
    units: Tensor
    """What the features are multiplied by, (D,), for the diagonal to be 1; 0 for features without variance."""


def spikes_of(
    problem: Problem,
    coordinates: Coordinates,
    diagonal: Tensor,
    by_intercept: Tensor,
    rows: Tensor,
    weights: Tensor,
    is_sample: bool,
) -> Spikes:
    """The eigenvalues of the drawn rows' covariance that no noise explains, corrected for their bias.

    In a sample of n rows of D features with equal variances v, the eigenvalues of the covariance reach up to
    (1 + sqrt(D / n))^2 v, the edge of Marchenko and Pastur.  An eigenvalue beyond the edge belongs to a direction of
    larger variance.  It is too large by about the sum of the smaller ones divided by n, which is subtracted.

    Args:
        problem: The problem.
        coordinates: Coordinates of the rows.
        diagonal: The diagonal of the Hessian, (K, D + 1).
        by_intercept: Second derivatives by the intercepts, (K,).
        rows: Drawn rows, (n, D).
        weights: Their weights, (n,).
        is_sample: Whether there are more rows than those drawn; else the eigenvalues are exact.

    References:
        Baik and Silverstein (2006), Eigenvalues of large sample covariance matrices of spiked population models.
        Yata and Aoshima (2012), Effective PCA for high-dimension, low-sample-size data with noise reduction.
    """
    (n, d), share = rows.shape, (weights / weights.sum().clamp(min=1e-300)).to(rows.dtype)
    center = share @ rows if problem.intercept else rows.new_zeros(d)
    l2 = problem.penalties(coordinates)[0][:-1]
    variance = ((diagonal[:, :-1] - l2).clamp(min=0).sum(0) / by_intercept.sum() - center.double().square()).clamp(
        min=0
    )
    units = torch.where(variance > ZERO_VARIANCE_RATIO * variance.mean(), variance.rsqrt(), 0.0).to(rows.dtype)
    rows = (rows - center).mul_(units).mul_(share.sqrt().unsqueeze(1))
    values, vectors = torch.linalg.eigh(rows @ rows.T if n < d else rows.T @ rows)
    values, vectors = values.double().clamp(min=0).flip(0), vectors.flip(1)
    smaller = values.flip(0).cumsum(0).flip(0) - values
    number = torch.arange(1, len(values) + 1, device=values.device)
    rows_left, features_left = (n - number).clamp(min=1), (d - number).clamp(min=1)
    edge = (values + smaller) / (features_left + 1) * (1 + (features_left / rows_left).sqrt()).square()
    bias = smaller / rows_left
    if not is_sample:
        edge, bias = MIN_REST * values[:1], torch.zeros_like(values)
    penalty = (l2 * units.double().square())[units > 0]
    if len(penalty):  # the penalty of most features outweighs it; features that are rare have far larger units
        edge = edge.maximum(penalty.median() / by_intercept.mean())
    rank = int((values > edge).long().cumprod(0).sum())
    large = (values - bias)[:rank]
    rest = float(values.sum() - large.sum()) / max(d - rank, 1)
    vectors = vectors[:, :rank] if n >= d else rows.T @ (vectors[:, :rank] / values[:rank].sqrt().to(rows.dtype))
    return Spikes(center, large.clamp(min=rest), vectors, rest, units)


def _inverse_of_spikes(
    problem: Problem, coordinates: Coordinates, diagonal: Tensor, by_intercept: Tensor, spikes: Spikes
) -> InverseHessian:
    """The inverse of D^1/2 (V (values - rest) V' + rest) D^1/2 for each output, with D its own diagonal.

    l2 is part of D: in its share of D the matrix between is the identity.
    """
    l2 = problem.penalties(coordinates)[0][:-1]
    scale = diagonal[:, :-1].rsqrt()
    penalty = (l2 * scale.square()).mean(1, keepdim=True)
    values, rest = (penalty + (1 - penalty) * value for value in (spikes.values, spikes.rest))
    rest = rest.clamp(min=MIN_REST)
    excess, vectors, dtype = (1 / values.clamp(min=MIN_REST) - 1 / rest), spikes.vectors, spikes.vectors.dtype
    scale, rest, excess = scale.to(dtype), rest.to(dtype), excess.to(dtype)
    center = spikes.center.double() if len(spikes.values) else torch.zeros_like(l2)

    def apply_inverse(gradient: Tensor) -> Tensor:
        slopes = (gradient[:, :-1] - gradient[:, -1:] * center).to(dtype) * scale
        coef = ((slopes / rest + ((slopes @ vectors) * excess) @ vectors.T) * scale).double()
        return torch.cat([coef, (gradient[:, -1] / by_intercept - coef @ center).unsqueeze(1)], dim=1)

    return apply_inverse


@dataclass(frozen=True, eq=False)
class BlockInverse:
    """The inverse of each output's Hessian block."""

    factors: Tensor
    """Cholesky factors of the blocks by the coefficients at the best intercepts, (K, D, D): the Schur complements."""
    center: Tensor
    """Mean of the features for each output, weighted by its curvature, (K, D); 0 without an intercept."""
    by_intercept: Tensor
    """Second derivatives by the intercepts, (K,)."""

    def __call__(self, gradient: Tensor) -> Tensor:
        """The step to be subtracted, (K, D + 1) as the gradient is."""
        of_intercept = gradient[:, -1:]
        slopes = (gradient[:, :-1] - of_intercept * self.center).to(self.factors.dtype).unsqueeze(2)
        half = torch.linalg.solve_triangular(self.factors, slopes, upper=False)
        coef = torch.linalg.solve_triangular(self.factors.mT, half, upper=True)[..., 0].double()
        intercept = of_intercept / self.by_intercept.unsqueeze(1) - (coef * self.center).sum(1, keepdim=True)
        return torch.cat([coef, intercept], dim=1)


@dataclass(frozen=True, eq=False)
class SpanInverse:
    """The inverse of each output's Hessian block H, as it is on a span W (D, R) and diagonal elsewhere.

        P A^-1 P'  +  W (W' H W)^-1 W',   P = I - W S' the projection along W,   S' W = I.

    Elsewhere are the vectors with S' v = 0, which is one space for all outputs: one that depended on the diagonal of an
    output would share some of the large curvature within W.
    """

    span: Tensor
    """W, (D, R)."""
    dual: Tensor
    """S, (D, R)."""
    inner: Tensor
    """(W' H W)^-1 for each output, (K, R, R)."""
    diagonal: Tensor
    """A, the diagonal of H times the share of its trace beyond the span, for each output, (K, D)."""
    center: Tensor
    """As of `BlockInverse`, (K, D)."""
    by_intercept: Tensor
    """As of `BlockInverse`, (K,)."""

    def __call__(self, gradient: Tensor) -> Tensor:
        """The step to be subtracted, (K, D + 1) as the gradient is."""
        of_intercept = gradient[:, -1:]
        slopes = (gradient[:, :-1] - of_intercept * self.center).to(self.span.dtype)
        along = slopes @ self.span
        coef = (slopes - along @ self.dual.T).div_(self.diagonal)
        inside = torch.bmm(self.inner, along.unsqueeze(2))[..., 0] - coef @ self.dual
        coef = coef.addmm_(inside, self.span.T).double()
        intercept = of_intercept / self.by_intercept.unsqueeze(1) - (coef * self.center).sum(1, keepdim=True)
        return torch.cat([coef, intercept], dim=1)


def inverse_in_span(
    problem: Problem,
    coordinates: Coordinates,
    point: Tensor,
    by_intercept: Tensor,
    diagonal: Tensor,
    spikes: Spikes,
) -> PassRequests[SpanInverse]:
    """The inverse of each output's block, computed from all rows on the span of the spikes, in one pass.

    Args:
        problem: The problem, over whose rows the pass goes.
        coordinates: Coordinates of the point.
        point: Shape (K, D + 1).
        by_intercept: Second derivatives of f by the intercepts at the point, (K,).
        diagonal: The diagonal of the Hessian at the point, (K, D + 1).
        spikes: The directions of large curvature.

    References:
        Tang, Nabben, Vuik and Erlangga (2009), Comparison of two-level preconditioners derived from deflation, domain
        decomposition and multigrid methods: the additive coarse grid correction.
    """
    units, vectors = spikes.units.double().unsqueeze(1), spikes.vectors.double()
    span, dual = units * vectors, torch.where(units > 0, vectors / units, 0.0)
    inner, border = yield from request(CurvatureInSpan(problem, coordinates, point, span))
    l2, mass = problem.penalties(coordinates)[0][:-1], border[:, -1:]
    center = torch.where(mass > 0, border[:, :-1] / mass.clamp(min=1e-300), 0.0)
    own = (diagonal[:, :-1] - mass * center.square()).maximum(l2)
    own = own.maximum(ZERO_DIAGONAL_RATIO * own.mean(1, keepdim=True)).clamp(min=1e-30)
    traces, left = own @ units[:, 0].square(), problem.num_features / max(problem.num_features - span.shape[1], 1)
    penalty = span.T @ (l2.unsqueeze(1) * span)
    for block, of_rest, trace, mean, weight in zip(inner, own, traces, center @ span, mass[:, 0].tolist(), strict=True):
        precise = block.double().addr_(mean, mean, alpha=-weight).add_(penalty)  # one at a time, to save memory
        of_rest *= max(float(1 - precise.trace() / trace.clamp(min=1e-300)) * left, MIN_REST)
        values, basis = torch.linalg.eigh(precise)
        block.copy_((basis / values.clamp(min=max(FACTOR_RIDGE * float(values[-1]), 1e-300))) @ basis.T)
    span, dual, own = (part.to(inner.dtype) for part in (span, dual, own))
    return SpanInverse(span, dual, inner, own, center, by_intercept)


def inverse_of_blocks(
    problem: Problem,
    coordinates: Coordinates,
    point: Tensor,
    by_intercept: Tensor,
    number: int,
    seed: int,
    diagonal: Tensor | None = None,
) -> PassRequests[BlockInverse]:
    """The inverse of each output's block, estimated from rows that are drawn in proportion to about their leverage.

    Args:
        problem: The problem, over whose rows the pass goes.
        coordinates: Coordinates of the point.
        point: Shape (K, D + 1).
        by_intercept: Second derivatives of f by the intercepts at the point, (K,).
        number: Rows that are drawn for each output.
        seed: Fixes which rows are drawn.
        diagonal: The diagonal of the Hessian at the point, (K, D + 1); ``None`` for another pass that computes it where
            rows are drawn by it.
    """
    if diagonal is None and not adds_pairs(problem):
        diagonal = yield from request(HessianDiagonal(problem, coordinates, point))
    factors, border = yield from request(SampledCurvature(problem, coordinates, point, diagonal, number, seed))
    mass = border[:, -1:]
    center = torch.where(mass > 0, border[:, :-1] / mass.clamp(min=1e-300), 0.0)
    sampled = SAMPLING_RIDGE / number if number < problem.rows else 0.0
    for block, mean, weight in zip(factors, center.to(factors.dtype), mass.flatten().tolist(), strict=True):
        # In place: all blocks together take a good part of the memory of a fit.
        block.addr_(mean, mean, alpha=-weight)
        own, ridge, failed = block.diagonal().clone(), FACTOR_RIDGE, True
        typical = float(own.mean())
        own.clamp_(min=max(1e-30, ZERO_DIAGONAL_RATIO * typical)).add_(sampled * typical)
        while failed and ridge < 1:
            block.diagonal().copy_(own * (1 + ridge))
            factor, info = torch.linalg.cholesky_ex(block)
            failed, ridge = bool(info), 10 * ridge
        block.copy_(own.sqrt().diag() if failed else factor)

    return BlockInverse(factors, center, by_intercept)


def centered(problem: Problem, point: Tensor) -> Tensor:
    """Subtracts the mean over the outputs of a softmax's point or step, (K, D + 1), which changes no probability.

    The optimum of a softmax without l1 sums to 0 over its outputs, and within that subspace every direction has
    curvature.  With l1 the intercepts alone are centered, since the penalty determines the mean of the coefficients.
    Other losses' points stay.
    """
    if not problem.coupled:
        return point
    if not problem.objective.l1:
        return point - point.mean(0)
    point = point.clone()
    point[:, -1] -= point[:, -1].mean()
    return point
