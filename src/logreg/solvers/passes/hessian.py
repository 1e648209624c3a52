"""Passes for a Hessian that is not stored: its products with a direction, its diagonal, a sampled estimate."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.csr import is_sparse, selected_rows, squared
from logreg.rows import BLOCK_ROWS, logit_rows, part_rows
from logreg.solvers.kernels import add_lower_triangle, affine, empty, gram_of_columns, sum_over_rows
from logreg.solvers.passes.base import Pass, PreparedRows
from logreg.solvers.problem import Coordinates, Problem

Cached = TypeVar("Cached")


MIN_CACHED_CURVATURES = 2**26
"""Curvatures that products with the Hessian keep from the first to the later ones whatever the size of the data, 256
MiB in float32; they keep as many as there are numbers in the data, and compute the others again for each product."""


MAX_PAIRED_FEATURES = 64
"""Features up to which a preconditioner of many outputs adds the products of all pairs of features, D^2 / 2."""

MIN_PAIRED_PART = 0.25
"""Least part of the rows from which these products are added."""

MEAN_ROUNDING = 8
"""Rounding errors of a sum of squares of features, from which the square of the mean is subtracted, in machine epsilons
of that square: a smaller variance is none."""


class BlockCache(Generic[Cached]):
    """Values of each block that one pass stores for later passes; every pass must read the same blocks."""

    def __init__(self) -> None:
        self._pages: list[tuple[Tensor, Cached]] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._pages)

    def rewind(self) -> None:
        """Starts again at the first block."""
        self._next = 0

    def write(self, labels: Tensor, item: Cached) -> None:
        """Stores the values of the next block, which its labels (n,) identify."""
        self._pages.append((labels, item))

    def read(self, labels: Tensor) -> Cached:
        """The values of the next block.

        Raises:
            RuntimeError: The block is not the one that was written.
        """
        if self._next >= len(self) or not torch.equal(self._pages[self._next][0], labels):
            raise RuntimeError(
                "an exact optimizer needs the same blocks of rows in every pass: do not shuffle, or give the "
                "TensorDataModule full_passes_from_epoch=0"
            )
        self._next += 1
        return self._pages[self._next - 1][1]


class HessianProduct(Pass[Tensor]):
    """The Hessian at a point times a direction."""

    sums = ("_sums", "_ones")
    takes_sparse = True

    def __init__(
        self,
        problem: Problem,
        coordinates: Coordinates,
        point: Tensor,
        direction: Tensor,
        known: BlockCache[Tensor | None],
    ) -> None:
        """``known`` caches the curvatures at the point; an empty cache is filled by this pass."""
        super().__init__(problem, coordinates)
        self.direction = direction
        self._along, at_point = self.linear(direction), self.linear(point)
        # One product for both, since a second one over the same features would cost as much.
        self._both = tuple(torch.cat(pair) for pair in zip(self._along, at_point, strict=True))
        self._first, self._known = not known, known
        known.rewind()
        k, d = problem.num_outputs, problem.num_features
        self._left = max(MIN_CACHED_CURVATURES, problem.numel)
        self._sums, self._ones = self.zeros(k, d), self.zeros(k)

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the derivative of the residuals along the direction, times the features."""
        features, labels, weights = rows.features, rows.labels, rows.weights
        curvature = None if self._first else self._known.read(labels)
        if curvature is None:
            change, logits = affine(features, *self._both).chunk(2, dim=1)
            logits = logits if rows.offset is None else logits.add_(rows.offset)
            curvature = self.problem.loss.curvature_at(logits, labels)
        else:
            change = affine(features, *self._along)
        if self._first:
            self._left -= curvature.numel()
            self._known.write(labels, curvature if self._left >= 0 else None)
        change = self.problem.loss.curvature_product(curvature, change)
        if weights is not None:
            change = change * weights
        self._sums += sum_over_rows(change, features)
        self._ones += change.sum(0, dtype=torch.float64)

    def result(self) -> Tensor:
        """The product with the penalty's part, shape (K, D + 1)."""
        l2, _ = self.problem.penalties(self.coordinates)
        return self.moments(self._sums, self._ones) * self.problem.row_sum_scale + l2 * self.direction


def weighted_curvature(problem: Problem, rows: PreparedRows, coef: Tensor, intercept: Tensor) -> Tensor:
    """Second derivative of each row's weighted loss by each logit, (n, K), at coef (K, D) and intercept (K,)."""
    loss, weights = problem.loss, rows.weights
    spread = loss.own_curvature(loss.curvature_at(rows.logits(coef, intercept), rows.labels))
    return spread if weights is None else spread * weights


def uniform(rows: PreparedRows, seed: int) -> Tensor:
    """A random number in [0, 1) for each row, (n,), float64.

    It is a function of the seed and of the position of the row, so a row has the same one whatever its block and
    whichever process reads it (a counter-based generator).

    References:
        Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators: SplitMix64.
    """
    assert rows.positions is not None, "rows are drawn by their positions in the split"
    bits = (rows.positions + 1 + (seed << 31)) * -0x61C8864680B583EB  # 2^64 over the golden ratio, odd, as signed
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        bits = (bits ^ (bits >> shift & (1 << 64 - shift) - 1)) * factor
    bits = bits ^ (bits >> 31 & (1 << 33) - 1)
    return (bits >> 11 & (1 << 53) - 1).double() * 2.0**-53


def adds_pairs(problem: Problem) -> bool:
    """Whether Hessian blocks of many outputs and few features come from the products of all pairs of features."""
    return problem.num_features <= MAX_PAIRED_FEATURES and logit_rows(problem.num_outputs, problem.dtype) < BLOCK_ROWS


class SampledCurvature(Pass[tuple[Tensor, Tensor]]):
    """Each output's own Hessian block at a point, from rows drawn in proportion to about their leverage.

    Importance sampling: row i, of curvature w_ik, is drawn for output k with probability
    q = min(1, rows * h_ik / sum_i h_ik), and then has weight w_ik / q.  The estimate is unbiased.  The leverage
    w_ik x_i' H_k^-1 x_i, with the penalty in the block H_k, would make the relative error of all its eigenvalues small;
    h_ik has the diagonal of the block in place of the block.  Rows drawn by their curvature alone would miss those that
    have a rare feature, and with them the small eigenvalues.  A row has one random number for all outputs.

    Where `adds_pairs`, one matrix product of the curvatures with the products of two features takes less time than a
    loop over the outputs.  Then rows are drawn with one probability for all, of at least `MIN_PAIRED_PART`: so a rare
    class keeps some of its rows.

    References:
        Alaoui and Mahoney (2015), Fast randomized kernel ridge regression with statistical guarantees: leverage.
    """

    sums = ("_blocks", "_sums", "_ones", "_pairs")
    enough, together = 64, 256
    """Least and about the largest number of drawn rows in one matrix product."""

    def __init__(
        self, problem: Problem, coordinates: Coordinates, point: Tensor, diagonal: Tensor | None, rows: int, seed: int
    ) -> None:
        """``rows`` is about the expected number per output, at most.

        ``diagonal`` is that of the Hessian, (K, D + 1); ``None`` where `adds_pairs`, which does without.
        """
        super().__init__(problem, coordinates)
        self._coef, self._intercept = self.linear(point)
        self._seed, self._draws = seed, rows < problem.rows
        k, d = problem.num_outputs, problem.num_features
        self._blocks = torch.zeros(k, d, d, dtype=self.dtype, device=point.device)
        self._waiting: list[list[Tensor]] = [[] for _ in range(k)]
        self._sums = self.zeros(k, d)
        self._ones = self.zeros(k)
        self._places = torch.tril_indices(d, d, device=point.device)
        self._pairs: Tensor | None = None
        if adds_pairs(problem):
            self._pairs = self._blocks.new_zeros(k, self._places.shape[1])
            self._part = min(max(rows / problem.rows, MIN_PAIRED_PART), 1.0)
            return
        assert diagonal is not None
        center, scale = self._fold
        curvature = diagonal[:, :-1] - problem.penalties(coordinates)[0][:-1]
        known = curvature > torch.finfo(self.dtype).eps * MEAN_ROUNDING * (center / scale).square() * diagonal[:, -1:]
        inverse = torch.where(known, 1 / diagonal[:, :-1], 0.0) / scale.square()
        ones = 1 / diagonal[:, -1].clamp(min=1e-300) + inverse @ center.square()
        rate = rows * problem.row_sum_scale / diagonal.shape[1]
        self._of_squares, self._of_features = (
            (rate * inverse).to(self.dtype),
            (-2 * rate * inverse * center).to(self.dtype),
        )
        self._of_ones = (rate * ones).to(self.dtype)

    def accumulate(self, rows: PreparedRows) -> None:
        """Draws rows of the block for each output, or for all."""
        if self._pairs is not None:
            self._add_pairs(rows, self._pairs)
            return
        features, spread = rows.features, weighted_curvature(self.problem, rows, self._coef, self._intercept)
        chance = self._chance(features, spread) if self._draws else (spread > 0).to(spread)
        drawn = uniform(rows, self._seed).unsqueeze(1) < chance
        for output in range(self.problem.num_outputs):
            which = drawn[:, output].nonzero()[:, 0]
            weight = spread[which, output] / chance[which, output]
            self._ones[output] += weight.sum(dtype=torch.float64)
            for few, root in zip(which.split(self.together), weight.sqrt().split(self.together), strict=True):
                some = features.index_select(0, few).mul_(root.unsqueeze(1))
                self._sums[output] += (root @ some).double()
                self._waiting[output].append(some)
                if sum(map(len, self._waiting[output])) >= self.enough:
                    self._add_up(output)

    def _add_pairs(self, rows: PreparedRows, sums: Tensor) -> None:
        """Draws rows of the block, and adds the products of their pairs of features for all outputs to the sums."""
        if self._part < 1:
            rows = rows.at((uniform(rows, self._seed) < self._part).nonzero()[:, 0])
        features, spread = rows.features, weighted_curvature(self.problem, rows, self._coef, self._intercept)
        spread = spread / self._part
        size = part_rows(len(sums[0]), self.dtype)
        space = empty(features, len(sums[0]), min(size, len(features)))
        for some, of_some in zip(features.split(size), spread.split(size), strict=True):
            columns, pairs = some.T.contiguous(), space[:, : len(some)]
            for last, column in enumerate(columns):  # products of whole columns, far faster than gathered ones
                done = last * (last + 1) // 2
                torch.mul(columns[: last + 1], column, out=pairs[done : done + last + 1])
            sums.addmm_(of_some.T, pairs.T)
        self._sums += sum_over_rows(spread, features)
        self._ones += spread.sum(0, dtype=torch.float64)

    def _chance(self, features: Tensor, spread: Tensor) -> Tensor:
        """The probability of each row to be drawn for each output, (n, K)."""
        sizes = affine(squared(features), self._of_squares, self._of_ones)
        sizes += affine(features, self._of_features, torch.zeros_like(self._of_ones))
        return sizes.clamp_(min=0).mul_(spread).clamp_(max=1)

    def _add_up(self, output: int) -> None:
        if some := self._waiting[output]:
            rows = some[0] if len(some) == 1 else torch.cat(some)
            add_lower_triangle(self._blocks[output], rows.T)
            some.clear()

    def finish(self) -> None:
        """Adds the products of the drawn rows that are left."""
        for output in range(self.problem.num_outputs):
            self._add_up(output)

    def result(self) -> tuple[Tensor, Tensor]:
        """Lower triangles of the diagonal blocks by the coefficients, (K, D, D), with the penalty.

        And the rest of each block: the derivatives by the coefficients and the intercept, (K, D + 1).
        """
        center, scale = self._fold
        share, (l2, _) = self.problem.row_sum_scale, self.problem.penalties(self.coordinates)
        if self._pairs is not None:
            self._blocks[:, self._places[0], self._places[1]] = self._pairs
        # sum w (x - c)(x - c)' = sum w x x' - a c' - c a' + (sum w) c c', with a = sum w x
        c, a, ones = center.expand_as(self._sums), self._sums, self._ones.unsqueeze(1)
        left, right = torch.stack([c * ones - a, c], dim=2), torch.stack([c, -a], dim=1)
        blocks = self._blocks.baddbmm_(left.to(self.dtype), right.to(self.dtype))
        blocks *= (share / scale.unsqueeze(1)).to(self.dtype)
        blocks *= (1 / scale).to(self.dtype)
        blocks.diagonal(dim1=1, dim2=2).add_(l2[:-1].to(self.dtype))
        return blocks, self.moments(self._sums, self._ones) * share


class CurvatureInSpan(Pass[tuple[Tensor, Tensor]]):
    """Each output's own Hessian block at a point, on the span of a few directions that all outputs share."""

    sums = ("_blocks", "_sums", "_ones")
    takes_sparse = True

    def __init__(self, problem: Problem, coordinates: Coordinates, point: Tensor, span: Tensor) -> None:
        """``span`` has the directions of the coefficients, (D, R)."""
        super().__init__(problem, coordinates)
        self._coef, self._intercept = self.linear(point)
        self._span, self._origin = self.linear(F.pad(span.T, (0, 1)))
        k, d = problem.num_outputs, problem.num_features
        self._blocks = torch.zeros(k, span.shape[1], span.shape[1], dtype=self.dtype, device=point.device)
        self._sums, self._ones = self.zeros(k, d), self.zeros(k)

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the products of the rows along the directions, weighted by the curvature of each output."""
        features, spread = rows.features, weighted_curvature(self.problem, rows, self._coef, self._intercept)
        along = affine(features, self._span, self._origin).T.contiguous()
        for block, weights in zip(self._blocks, spread.T.contiguous(), strict=True):
            block += gram_of_columns(along, weights)
        self._sums += sum_over_rows(spread, features)
        self._ones += spread.sum(0, dtype=torch.float64)

    def result(self) -> tuple[Tensor, Tensor]:
        """The blocks on the span without the penalty, (K, R, R), in the type of the pass.

        And the rest of each block: the derivatives by the coefficients and the intercept, (K, D + 1).
        """
        share = self.problem.row_sum_scale
        return self._blocks.mul_(share), self.moments(self._sums, self._ones) * share


class CurvatureSample(Pass[tuple[Tensor, Tensor]]):
    """Rows drawn in proportion to their curvature summed over the outputs, for a covariance that all outputs share.

    Row i, of curvature c_i = sum_k w_ik, is drawn with probability q = min(1, rows * c_i / sum_i c_i), and then has
    weight c_i / q.
    """

    samples = ("_rows", "_weights")
    takes_sparse = True

    def __init__(
        self, problem: Problem, coordinates: Coordinates, point: Tensor, mass: float, rows: int, seed: int
    ) -> None:
        """``rows`` is the expected number; ``mass`` the second derivative of f by the intercepts, summed over them."""
        super().__init__(problem, coordinates)
        self._coef, self._intercept = self.linear(point)
        self._rate = rows * problem.row_sum_scale / max(mass, 1e-300)
        self._seed = seed
        self._rows: list[Tensor] = []
        self._weights: list[Tensor] = []

    def accumulate(self, rows: PreparedRows) -> None:
        """Draws rows of the block."""
        features, spread = rows.features, weighted_curvature(self.problem, rows, self._coef, self._intercept)
        total = spread.sum(1)
        chance = (total * self._rate).clamp(max=1)
        which = uniform(rows, self._seed) < chance
        self._rows.append(selected_rows(features, which).to_dense() if is_sparse(features) else features[which])
        self._weights.append((total[which] / chance[which]).double())

    def result(self) -> tuple[Tensor, Tensor]:
        """The drawn rows in the coordinates of the pass, (n, D), and their weights, (n,), float64."""
        center, scale = (part.to(self.dtype) for part in self._fold)
        return (torch.cat(self._rows) - center).div_(scale), torch.cat(self._weights)


class HessianDiagonal(Pass[Tensor]):
    """The diagonal of the Hessian at a point."""

    sums = ("_squares", "_sums", "_ones")
    copies = True
    takes_sparse = True

    def __init__(self, problem: Problem, coordinates: Coordinates, point: Tensor) -> None:
        super().__init__(problem, coordinates)
        self._coef, self._intercept = self.linear(point)
        k, d = problem.num_outputs, problem.num_features
        self._squares, self._sums, self._ones = (
            self.zeros(k, d),
            self.zeros(k, d),
            self.zeros(k),
        )

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the curvature times squared features."""
        features, spread = rows.features, weighted_curvature(self.problem, rows, self._coef, self._intercept)
        self._squares += sum_over_rows(spread, squared(features))
        self._sums += sum_over_rows(spread, features)
        self._ones += spread.sum(0, dtype=torch.float64)

    def result(self) -> Tensor:
        """The diagonal with the penalty's part, shape (K, D + 1)."""
        center, scale = self._fold
        squares = self._squares - 2 * center * self._sums + center.square() * self._ones.unsqueeze(1)
        diagonal = torch.cat([squares.clamp(min=0) / scale.square(), self._ones.unsqueeze(1)], dim=1)
        return diagonal * self.problem.row_sum_scale + self.problem.penalties(self.coordinates)[0]
