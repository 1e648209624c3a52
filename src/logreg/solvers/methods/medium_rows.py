"""The passes of problems of medium size: f and its gradient over rows in memory, in NumPy.

Preparing a pass of `logreg.solvers.passes` would take longer than the arithmetic, so an evaluation is a handful of
operations.  It reads each block of rows once, for the logits and for the gradient: the block is still in the cache.
Threads share the blocks of many rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.rows import MemoryRows, row_weights
from logreg.solvers.kernels import MIN_NUMPY_FEATURES, SUM_ROWS, Array, times_vector
from logreg.solvers.passes.base import MAX_FOLDED_MEAN
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature, additions_of
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.threads import in_runs
from logreg.stored_form import is_plain

BLOCK_BYTES = 2**20
"""Size of a block of rows and its converted copy: both stay in the second-level cache from the logits to the
gradient."""


class MediumEvaluation(NamedTuple):
    """f and its gradient at a point."""

    value: float
    """f."""
    gradient: Array
    """Shape (D + 1,), float64; the last one is 0 without an intercept."""
    own: float
    """Second derivative of f by the intercept."""
    derivatives: Derivatives | None
    """The same for a certificate, where the evaluation was in float64."""


class _Part(NamedTuple):
    """A block of rows, and its part of the memory of a `_Work`."""

    features: Array
    """Shape (n, D), in the type as stored."""
    sign: Array
    """-1 where the label is 0, and 1 where it is 1, (n,)."""
    weighted_sign: Array
    """The sign times the weight of the row, (n,)."""
    margins: Array
    """Of `_Work`, (n,)."""
    terms: Array
    """Of `_Work`, (2, n)."""
    weights: Array | None
    """Shape (n,); ``None`` for all 1."""


class _Work:
    """Memory for the evaluations of one floating type: allocating it each time would take a part of their time.

    Both types share ``space``, 3 numbers for each row in float64: no evaluation needs what another one left there.
    """

    def __init__(self, kind: type, features: Array, labels: Array, weights: Array | None, space: Array) -> None:
        copies = () if features.dtype == kind else (kind,)
        block_rows = _block_rows(features, *copies)
        sign: Array = (2 * labels - 1).astype(kind)
        self.weights: Array | None = None if weights is None else weights.astype(kind)
        weighted_sign = sign if self.weights is None else sign * self.weights
        shared: Array = space.view(kind)[: 3 * len(labels)].reshape(3, -1)
        self.margins: Array = shared[0]
        """The logit of each row, times its sign."""
        self.terms: Array = shared[1:]
        """The negative weighted residual; and the probability of the wrong class, then the weighted second derivative
        of each row's loss, then its loss."""
        self.converted_shape = (block_rows, features.shape[1]) if copies else None
        """Shape of the memory for converted features of a block, where they must be converted."""
        self.parts: list[_Part] = []
        for first in range(0, len(labels), block_rows):
            part = slice(first, first + block_rows)
            own, terms = None if self.weights is None else self.weights[part], self.terms[:, part]
            self.parts.append(_Part(features[part], sign[part], weighted_sign[part], self.margins[part], terms, own))


class MediumRows:
    """The rows in memory, in blocks; points are (D + 1,), in the coordinates."""

    def __init__(self, problem: Problem, rows: MemoryRows, at: Coordinates) -> None:
        self.problem = problem
        self._center, self._scale = at.center.numpy(), at.scale.numpy()
        self.l2: Array = problem.penalties(at)[0].numpy()
        """Strengths of l2 in the coordinates, (D + 1,)."""
        self._features, self._labels = rows.features.numpy(), rows.labels.numpy()
        batch = Batch(rows.features, rows.labels, rows.sample_weight)
        weights = row_weights(batch, problem.class_weight, torch.float64)
        self._weights = None if weights is None else weights.numpy()
        self._works: dict[type, _Work] = {}
        self._space = np.empty(3 * len(self._labels))
        self._backward = False  # every other pass: the blocks that the last one read last may still be in a cache

    def _work(self, kind: type) -> _Work:
        if kind not in self._works:
            self._works[kind] = _Work(kind, self._features, self._labels, self._weights, self._space)
        return self._works[kind]

    def evaluate(self, point: Array, dtype: torch.dtype) -> MediumEvaluation:
        """The objective and its derivatives at a point, computed in float32 or in float64."""
        exact, features, share = dtype == torch.float64, self.problem.num_features, self.problem.row_sum_scale
        kind = np.float64 if exact else np.float32
        work = self._work(kind)
        coef = point[:features] / self._scale
        intercept, coef = kind(point[features] - coef @ self._center), coef.astype(kind)
        self._backward = not self._backward
        order = -1 if self._backward else 1

        @np.errstate(all="ignore")  # each thread has its own settings
        def summed(parts: Sequence[_Part]) -> Array:
            """Sums of the negative residuals and, for a certificate, second derivatives, times the features."""
            sums = np.zeros((2 if exact else 1, features))
            space = None if work.converted_shape is None else np.empty(work.converted_shape, kind)
            for block, sign, weighted_sign, margins, terms, weights in parts[::order]:
                if space is None:
                    times_vector(block, coef, out=margins)
                else:
                    converted = space[: len(block)]
                    np.copyto(converted, block)
                    block = converted
                    np.matmul(block, coef, out=margins)
                residuals, wrong = terms[0], terms[1]
                margins += intercept
                margins *= sign
                np.exp(margins, out=wrong)
                wrong += 1
                np.reciprocal(wrong, out=wrong)
                np.multiply(wrong, weighted_sign, out=residuals)
                if not exact:
                    sums[0] += residuals @ block
                    continue
                _to_curvature(wrong, weights)
                for first in range(0, len(block), SUM_ROWS):
                    few = slice(first, first + SUM_ROWS)
                    for total, factor in zip(sums, terms, strict=True):  # one product for both takes longer
                        total += factor[few] @ block[few]
            return sums

        sums = np.sum(in_runs(summed, work.parts, self._features.size), 0)
        if not exact:
            _to_curvature(work.terms[1], work.weights)
        residual, own = -_total(work.terms[0]), _total(work.terms[1])
        loss = _total(self._losses(work)) * share
        shrunk = self.l2 * point
        value = loss + float(shrunk @ point) / 2
        whole = self._moments(-sums[0], residual) * share + shrunk
        if not exact:
            return MediumEvaluation(value, whole, own * share, None)
        column = torch.from_numpy(self._moments(sums[1], own) * share).unsqueeze(0)
        by_itself = torch.from_numpy(np.array([own * share]))  # takes less time than `torch.tensor`
        curvature = InterceptCurvature(by_itself, by_itself)
        derivatives = Derivatives(
            value,
            torch.from_numpy(whole).unsqueeze(0),
            curvature,
            loss,
            by_intercept=column,
            additions=SUM_ROWS + len(work.parts) + additions_of(len(self._labels)),
        )
        return MediumEvaluation(value, whole, own * share, derivatives)

    @staticmethod
    def _losses(work: _Work) -> Array:
        """The weighted loss of each row, log(1 + exp(-margin)), (N,); it takes the place of the terms.

        References:
            Goldberg (1991), What every computer scientist should know about floating-point arithmetic, theorem 4:
            log(1 + x) from a logarithm, which takes less time in NumPy than `numpy.log1p`.
        """
        margins: Array = work.margins
        small: Array = work.terms[0]
        losses: Array = work.terms[1]
        np.abs(margins, out=small)
        np.negative(small, out=small)
        np.exp(small, out=small)
        np.add(small, 1, out=losses)
        losses -= 1  # exact, as is the sum below
        rounding: Array = np.subtract(losses, small, out=small)
        losses += 1
        rounding /= losses
        np.log(losses, out=losses)
        losses -= rounding
        np.minimum(margins, 0, out=margins)
        losses -= margins
        if work.weights is not None:
            losses *= work.weights
        return losses

    def _moments(self, of_features: Array, of_ones: float) -> Array:
        """Sums over the rows in the coordinates, (D + 1,), from those of features as stored; see `Pass.moments`."""
        moments = np.zeros(len(of_features) + 1)
        moments[:-1] = (of_features - of_ones * self._center) / self._scale
        moments[-1] = of_ones if self.problem.intercept else 0.0
        return moments


class ZeroStart:
    """Coefficients of 0 and the best intercept, where residuals depend on the labels alone; takes one pass.

    The pass shows the means and the deviations of the features, too: so the coordinates are those of all rows, and not
    of a sample, whose errors would cost steps.
    """

    @np.errstate(all="ignore")  # features may not be finite
    def __init__(self, problem: Problem, rows: MemoryRows) -> None:
        self.problem = problem
        features, labels = rows.features.numpy(), rows.labels.numpy()
        weights = row_weights(
            Batch(rows.features, rows.labels, rows.sample_weight), problem.class_weight, problem.dtype
        )
        factors = np.ones((2, len(labels)), np.float64 if problem.dtype == torch.float64 else np.float32)
        if weights is not None:
            factors[0] = weights.numpy()
        np.multiply(factors[0], labels, out=factors[1])
        is_wide = weights is None and problem.num_features >= MIN_NUMPY_FEATURES
        copies = [factors.dtype] * (int(features.dtype != factors.dtype) + int(not is_wide))
        block_rows = _block_rows(features, *copies)

        @np.errstate(all="ignore")  # each thread has its own settings
        def summed(starts: Sequence[int]) -> Array:
            """Sums over the rows of the weights, of those of label 1, and of the squares, times the features."""
            space = None if is_wide else np.empty((block_rows, problem.num_features), factors.dtype)
            sums = np.zeros((3, problem.num_features))
            for first in starts:
                part = slice(first, first + block_rows)
                block = features[part].astype(factors.dtype, copy=False)
                for total, factor in zip(sums, factors[:, part], strict=False):  # one product for both takes longer
                    total += factor @ block
                # The products come first: they wait less for the memory.
                if space is None:  # reads rows in their order; BLAS does not
                    sums[2] += np.einsum("ij,ij->j", block, block)
                else:
                    sums[2] += factors[0, part] @ np.multiply(block, block, out=space[: len(block)])
            return sums

        *sums, squares = np.sum(in_runs(summed, range(0, len(labels), block_rows), features.size), 0)
        self._total, self._ones = factors.sum(1, dtype=np.float64).tolist()  # weights of all rows, and of label 1
        center = sums[0] / self._total
        self.is_plain = weights is None and _is_plain(center, squares, rows.features)
        """Whether all features are finite and scaled well as they are; ``False`` where rows weigh."""
        if not problem.intercept:  # a shift of the features would need an intercept
            center = np.zeros_like(center)
        scale = np.sqrt(np.maximum(squares / self._total - center * center, 0))
        # Rounding leaves a small deviation of a constant feature; other features so far from 0 are not for these steps.
        is_far = np.abs(center) > MAX_FOLDED_MEAN[problem.dtype] * scale
        alike = is_far & (features[0] == features[-1])
        if alike.any():
            alike[alike] = (features[:, alike] == features[0, alike]).all(0)
        scale[alike | (scale == 0) & ~is_far] = 1.0
        self._sums = (sums - np.outer((self._total, self._ones), center)) / scale
        self.coordinates = Coordinates(torch.from_numpy(center), torch.from_numpy(scale))

    def evaluate(self) -> tuple[Array, MediumEvaluation]:
        """The point (D + 1,), and f and its gradient there."""
        total, ones, share = self._total, self._ones, self.problem.row_sum_scale
        p = 0.5
        if self.problem.intercept:  # finite where all rows have one label
            least = 0.5 / self.problem.rows
            p = min(max(ones / total, least), 1 - least)
        intercept = math.log(p / (1 - p))
        gradient = np.append(p * self._sums[0] - self._sums[1], p * total - ones if self.problem.intercept else 0.0)
        loss = -ones * math.log(p) - (total - ones) * math.log(1 - p)
        point = np.append(np.zeros(self.problem.num_features), intercept)
        return point, MediumEvaluation(loss * share, gradient * share, p * (1 - p) * total * share, None)


def _block_rows(features: Array, *copies: np.typing.DTypeLike) -> int:
    """Rows in a block of features (N, D) that is copied into these types."""
    of_number = features.itemsize + sum(np.dtype(kind).itemsize for kind in copies)
    most: int = BLOCK_BYTES // (of_number * features.shape[1])
    return min(max(1, most), len(features))


def _is_plain(mean: Array, squares: Array, features: Tensor) -> bool:
    """Whether features are scaled well, from their means (D,) and the sums of their squares (D,)."""
    std = np.sqrt(np.maximum(squares / len(features) - mean * mean, 0))
    return is_plain(torch.from_numpy(mean), torch.from_numpy(std), math.sqrt(squares.sum()), features.dtype)


def _to_curvature(wrong: Array, weights: Array | None) -> None:
    """Turns the probabilities of the wrong class, (n,), into the weighted second derivatives of the rows' losses."""
    wrong -= wrong * wrong
    if weights is not None:
        wrong *= weights


def _total(of_rows: Array) -> float:
    """The sum of numbers of the rows, (n,), as that of sums over at most `SUM_ROWS` rows each."""
    even = len(of_rows) // SUM_ROWS * SUM_ROWS
    return float(
        of_rows[:even].reshape(-1, SUM_ROWS).sum(1, dtype=np.float64).sum() + of_rows[even:].sum(dtype=np.float64)
    )
