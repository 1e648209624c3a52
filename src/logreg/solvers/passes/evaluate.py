"""Passes that evaluate the objective, its gradient and its Hessian at a point."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.rows import sparse_part_rows
from logreg.solvers.kernels import (
    SUM_ROWS,
    affine,
    coupled_gram,
    sum_of_parts,
    sum_over_rows,
    total_over_rows,
    weighted_gram,
)
from logreg.solvers.passes.base import Pass, PreparedRows
from logreg.solvers.problem import Coordinates, Problem, column_parts

MAX_JOINT_OUTPUTS = 512
"""Outputs of a softmax up to which their joint curvature by the intercepts is summed whatever the number of features.

The sums, K^2 of them, take longer than the rest of such a pass where outputs are many and features few, but save a
certificate several passes."""

MIN_FEATURES_PER_JOINT_OUTPUT = 16
"""Features of a row, or non-zeros of a sparse one, for each output from which the sums take less than a thirtieth of a
pass."""

LARGEST_JOINT_OUTPUTS = 1024
"""Outputs up to which it is summed where features are as many: 8 MiB, the size of a block of rows."""


def sums_joint_curvature(problem: Problem, dtype: torch.dtype) -> bool:
    """Whether a pass in this type sums the joint curvature by the intercepts.

    Certificates need it, which are in float64.  With at least as many features as outputs, the sums take no longer than
    those of the gradient.  In float32 an estimate does with the diagonal, unless the sums cost next to nothing.
    """
    few = max(MAX_JOINT_OUTPUTS, min(problem.num_features + 1, LARGEST_JOINT_OUTPUTS))
    if dtype != torch.float64:
        few = min(few, problem.numel // (MIN_FEATURES_PER_JOINT_OUTPUT * problem.rows))
    return problem.coupled and problem.num_outputs <= few


def longest_sum(problem: Problem) -> int:
    """Largest number of terms that a library adds up in a pass; those of all rows of a part where these are sparse."""
    return sparse_part_rows(problem.num_features) if problem.is_sparse else SUM_ROWS


def additions_of(rows: int) -> int:
    """Additions to the sums of a pass that come with a part of so many rows, besides those within `longest_sum`.

    They are one for the part and one for each part of it that a library adds up alone.
    """
    return 1 + rows // SUM_ROWS


class InterceptCurvature(NamedTuple):
    """Second derivatives of f by the intercepts.

    Of separate outputs they are the K numbers ``own``.  Of a softmax with probabilities p_i and weights s_i they are
    the matrix sum_i s_i (diag(p_i) - p_i p_i'), which is kept where outputs are few: else memory is O(K).
    """

    own: Tensor
    """The diagonal, (K,)."""
    mass: Tensor
    """Weighted sum of `Loss.curvature` over the rows, (K,): of a softmax, the probability of each class."""
    joint: Tensor | None = None
    """The matrix, (K, K), where `sums_joint_curvature`."""

    @classmethod
    def of_matrix(cls, problem: Problem, matrix: Tensor) -> InterceptCurvature:
        """From the matrix (K, K); the mass of a softmax is then an upper bound, the weight of all rows."""
        own = matrix.diagonal()
        if not problem.coupled:
            return cls(own, own)
        return cls(own, torch.full_like(own, problem.row_sum_scale * problem.total_weight), matrix)

    def diagonal(self) -> Tensor:
        """The second derivative by each intercept alone, (K,)."""
        return self.own


class Derivatives(NamedTuple):
    """The objective and its derivatives at a point."""

    value: float
    """f."""
    gradient: Tensor
    """Gradient of the smooth part of f (without l1), (K, D + 1)."""
    curvature: InterceptCurvature
    """Second derivatives of f by the intercepts."""
    loss: float
    """The data term of f."""
    hessian: Tensor | None = None
    """Hessian of the smooth part of f: (K, D + 1, K, D + 1), or (K, D + 1, D + 1) for separate outputs."""
    by_intercept: Tensor | None = None
    """Second derivatives of the loss by each output's intercept and its other parameters, (K, D + 1)."""
    change: Tensor | None = None
    """Largest change of a row's logit since a reference point, (K,); of coupled outputs the largest change of a
    difference of two logits, (1,)."""
    of_least: Tensor | None = None
    """Sum over the rows of the least probability of a softmax times the features, (D + 1,); in float32 the last one of
    these, its sum, alone, (1,)."""
    additions: float | None = None
    """Largest number of additions from a row's term to the sums over all rows that these numbers come from, if it is
    known to be less than the number of rows; see `accumulated`."""


class Evaluate(Pass[Derivatives]):
    """The objective and its gradient at a point; its Hessian on request."""

    sums: ClassVar[tuple[str, ...]] = (
        "_loss",
        "_gradient",
        "_residuals",
        "_own",
        "_mass",
        "_joint",
        "_hessian",
        "_by_intercept",
        "_least",
        "_additions",
    )
    maxima = ("_change",)

    def __init__(
        self,
        problem: Problem,
        coordinates: Coordinates,
        point: Tensor,
        dtype: torch.dtype | None = None,
        hessian: torch.dtype | None = None,
        since: Tensor | None = None,
        expected: bool = False,
    ) -> None:
        """``dtype`` is the floating type of value and gradient, ``hessian`` of the Hessian; ``None`` for no Hessian.

        ``since`` is a point in the same coordinates whose Hessian is known: then the largest change of the logits from
        that point is computed.  The Hessian is the observed one, unless ``expected``: then it is Fisher's information.
        """
        self.takes_sparse = hessian is None
        super().__init__(problem, coordinates, dtype)
        self.point, self._expected = point, expected
        self._coef, self._intercept = self.linear(point)
        k, d = problem.num_outputs, problem.num_features
        self._change: Tensor | None = None
        if since is not None:  # one product for both, since a second one over the same features would cost as much
            both = zip((self._coef, self._intercept), self.linear(point - since), strict=True)
            self._coef, self._intercept = (torch.cat(pair) for pair in both)
            self._change = torch.zeros(1 if problem.coupled else k, dtype=self.dtype, device=point.device)
        self._loss, self._additions = self.zeros(), self.zeros()
        self._gradient, self._residuals = self.zeros(k, d), self.zeros(k)
        self._own, self._mass = self.zeros(k), self.zeros(k)
        self._joint = self.zeros(k, k) if sums_joint_curvature(problem, self.dtype) else None
        shape = ((k, d + 1, k, d + 1) if problem.coupled else (k, d + 1, d + 1)) if hessian is not None else (0,)
        self._hessian = self.zeros(*shape)
        self._wants, self.copies = hessian, hessian is not None
        # Only certificates use `by_intercept` and all of `of_least`, which take a part of a matrix product there.
        column = self.dtype == torch.float64
        self._by_intercept = self.zeros(k, d) if column and not problem.coupled else None
        self._least = self.zeros(d + 1 if column else 1) if problem.coupled else None

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds loss, gradient, curvature by the intercepts and, on request, the Hessian."""
        features, weights = rows.features, rows.weights
        logits, loss = self.logits(rows), self.problem.loss
        values, residuals, curvature = loss.evaluate(logits, rows.labels)
        if self._wants is not None and loss.curvature_needs_targets:
            if self._expected:
                curvature = loss.expected_curvature(logits)
            elif not loss.is_convex:
                curvature = loss.curvature(logits, rows.targets)
        self.add_values(values, rows)
        self._additions += additions_of(len(values))
        if weights is not None:
            residuals *= weights
        self._residuals += total_over_rows(residuals)
        spread = curvature if weights is None else curvature * weights
        ones = total_over_rows(spread, None if self._wants is None else torch.float64)
        self._mass += ones
        if self.problem.coupled:
            self._gradient += sum_over_rows(residuals, features)
            if self._least is not None:
                least = spread.amin(1, keepdim=True)
                total = total_over_rows(least)
                is_whole = len(self._least) > 1
                self._least += torch.cat([sum_over_rows(least, features)[0], total]) if is_whole else total
            if self._joint is None:
                self._own += ones - total_over_rows(spread * curvature)
            else:
                self._joint += torch.diag(ones) - sum_over_rows(spread, curvature)
            if self._wants is not None:
                padded = F.pad(features.to(self._wants), (0, 1), value=1.0)
                scale = None if weights is None else weights.to(self._wants)
                self._hessian += coupled_gram(padded, curvature.to(self._wants), scale).view_as(self._hessian)
            return
        self._own += ones
        if self._wants is None and self._by_intercept is None:
            self._gradient += sum_over_rows(residuals, features)
            return
        add_up = sum_over_rows if self._wants is None else sum_of_parts
        gradient, sums = add_up(torch.cat([residuals, spread], dim=1), features).chunk(2)
        self._gradient += gradient
        if self._by_intercept is not None:
            self._by_intercept += sums
        if self._wants is not None:
            self._add_hessians(features.to(self._wants), spread.to(self._wants), sums, ones)

    def add_values(self, values: Tensor, rows: PreparedRows) -> None:
        """Adds the loss of each row of a block, (n,)."""
        values = values if rows.weights is None else values * rows.weights[:, 0]
        self._loss += total_over_rows(values, torch.float64)

    def logits(self, rows: PreparedRows) -> Tensor:
        """Logits of a block's rows at the point, (n, K)."""
        if self._change is None:
            return rows.logits(self._coef, self._intercept)
        logits, change = affine(rows.features, self._coef, self._intercept).chunk(2, dim=1)
        logits = logits if rows.offset is None else logits.add_(rows.offset)
        if rows.weights is not None:
            change = torch.where(rows.weights > 0, change, 0.0)
        most = (change.amax(1) - change.amin(1)).max() if self.problem.coupled else change.abs().amax(0)
        self._change = torch.maximum(self._change, most)
        return logits

    def gram(self, features: Tensor, weights: Tensor) -> Tensor:
        """Sum over the rows of weight x x', for features (n, D) and weights (n, 1): shape (D, D)."""
        return weighted_gram(features, weights)

    def _add_hessians(self, features: Tensor, spread: Tensor, sums: Tensor, ones: Tensor) -> None:
        d = self.problem.num_features
        for output, hessian in enumerate(self._hessian):
            hessian[:d, :d] += self.gram(features, spread[:, output : output + 1])
            hessian[:d, d] += sums[output]
            hessian[d, :d] += sums[output]
            hessian[d, d] += ones[output]

    def result(self) -> Derivatives:
        """The objective with its penalties, in the coordinates of the pass."""
        problem, share = self.problem, self.problem.row_sum_scale
        l2, l1 = problem.penalties(self.coordinates)
        loss = float(self._loss) * share
        penalty = penalty_at(self.point, l2, l1)
        gradient = self.moments(self._gradient, self._residuals).mul_(share).addcmul_(l2, self.point)
        hessian = None
        if self._wants is not None:
            hessian = self._in_frame(self._hessian) * share
            if not problem.intercept:
                hessian[..., -1] = 0
                hessian[:, -1] = 0
            diagonal = hessian.diagonal(dim1=1, dim2=2) if not problem.coupled else diagonal_of(hessian)
            diagonal += l2
        column = None
        if self._by_intercept is not None:
            column = self.moments(self._by_intercept, self._own) * share
        joint = None if self._joint is None else self._joint * share
        own = self._own * share if joint is None else joint.diagonal()
        curvature = InterceptCurvature(own, self._mass * share, joint)
        least = self._least
        if least is not None:
            least = (self.moments(least[:-1], least[-1]) if len(least) > 1 else least) * share
        additions = longest_sum(problem) + float(self._additions)
        return Derivatives(loss + penalty, gradient, curvature, loss, hessian, column, self._change, least, additions)

    def _in_frame(self, hessian: Tensor) -> Tensor:
        """The Hessian by raw features -> the Hessian by these coordinates: T' H T, where x = T' x_raw."""
        change = self.frame_change()
        if not self.problem.coupled:
            return change.T @ hessian @ change
        return torch.einsum("kalb,ai,bj->kilj", hessian, change, change)


class EvaluateSample(Evaluate):
    """The objective and its gradient over one row in ``every``."""

    sums: ClassVar[tuple[str, ...]] = (*Evaluate.sums, "_rows", "_weight")

    def __init__(self, problem: Problem, coordinates: Coordinates, point: Tensor, every: int) -> None:
        super().__init__(problem, coordinates, point)
        self.every, self._rows, self._weight = every, self.zeros(), self.zeros()

    def accumulate(self, rows: PreparedRows) -> None:
        """Counts the rows and their weights."""
        super().accumulate(rows)
        self._rows += len(rows.labels)
        self._weight += len(rows.labels) if rows.weights is None else rows.weights.sum(dtype=torch.float64)

    def result(self) -> Derivatives:
        """The objective of the problem over the sample."""
        self.problem = self.problem.part(int(self._rows), max(float(self._weight), 1e-300))
        return super().result()


def penalty_at(point: Tensor, l2: Tensor, l1: Tensor) -> float:
    """The penalties of a point (K, D + 1) of strengths l2 and l1, (D + 1,) each; see `additions_of_penalty`."""
    has_l1, total = bool(l1.any()), 0.0
    for some in column_parts(point.shape):
        total += float((point[:, some].square() @ l2[some]).sum()) / 2
        total += float((point[:, some].abs() @ l1[some]).sum()) if has_l1 else 0.0
    return total


class KnownPoint(NamedTuple):
    """f and its derivatives at a point, with the Hessian, from which those with another strength of l2 follow."""

    problem: Problem
    coordinates: Coordinates
    point: Tensor
    """Shape (K, D + 1), in ``coordinates``."""
    derivatives: Derivatives

    def at(self, problem: Problem, coordinates: Coordinates, point: Tensor) -> Derivatives | None:
        """The derivatives of the same problem with another l2; ``None`` at another point or in other coordinates.

        Args:
            problem: The problem.
            coordinates: Coordinates of the point.
            point: Shape (K, D + 1); it may differ by rounding.
        """
        same = all(torch.equal(mine, its) for mine, its in zip(self.coordinates, coordinates, strict=True))
        if not (same and torch.allclose(point, self.point, rtol=1e-9)):
            return None
        known = self.derivatives
        assert known.hessian is not None
        l2, l1 = problem.penalties(coordinates)
        change, hessian = l2 - self.problem.penalties(coordinates)[0], known.hessian.clone()
        diagonal = diagonal_of(hessian) if problem.coupled else hessian.diagonal(dim1=1, dim2=2)
        diagonal += change
        return known._replace(
            value=known.loss + penalty_at(point, l2, l1),
            gradient=known.gradient + change * point,
            hessian=hessian,
        )


def additions_of_penalty(shape: tuple[int, ...]) -> int:
    """Largest number of additions from the term of a coefficient to the penalty of a point (K, D + 1)."""
    parts = [part.stop - part.start for part in column_parts(shape)]
    return max(parts, default=0) + shape[0] + 2 * len(parts)


def diagonal_of(hessian: Tensor) -> Tensor:
    """A view of the diagonal of (K, P, K, P), shape (K, P)."""
    k, p = hessian.shape[:2]
    return hessian.view(k * p, k * p).diagonal().view(k, p)
