"""Few rows of many features: the problem solved in the span of its rows, in N dimensions in place of D.

With l2 alone the optimal coefficients of an output are a combination of the rows, coef = X' a, by the representer
theorem: any part of the coefficients that is orthogonal to all rows changes no logit and only adds to the penalty.
With the Gram matrix G = X X' the objective in the dual coefficients a is

    f(a, b) = (1 / S) sum_i s_i loss_i((G a)_i + b) + (l2 / 2) a' G a

Newton's step of the coefficients, with D = diag of the weighted second derivatives by the logits, is by the Woodbury
identity a product with an inverse in N dimensions:

    (l2 + X' D X)^-1 = (1 - X' A X) / l2,    A = (l2 D^-1 + X X')^-1

The solver has three stages, from cheap to expensive; each ends where the estimated gap is a fraction of the tolerance:

1. Steps with the diagonal of G in place of G: `DualInverse` is then a division.  A step costs one product with the rows
   and one with their transpose.  It is enough where rows are nearly orthogonal, as many rows of noise are.
2. The Gram matrix, and such steps with it: no further product with the rows.
3. Newton's steps with the Gram matrix, whose inverse is reused while the gap falls fast; the last one becomes the
   optimizer's approximate inverse of the Hessian in all dimensions.

After each step f is minimized over the span of all steps so far (`Span`), which makes poor steps harmless.

Where the inverses of all outputs are too large to hold, another solver works on the rows of the Cholesky factor L of
G = L L', which has the same logits and the same penalty in N dimensions.

References:
    Kimeldorf and Wahba (1971), Some results on Tchebycheffian spline functions: the representer theorem.
    Rasmussen and Williams (2006), Gaussian processes for machine learning, sections 3.4 and 3.5: Newton's method in
    the rows for one output and for a softmax.
    Woodbury (1950), Inverting modified matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, reduce
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from logreg.csr import converted, squared, times
from logreg.facts import Batch
from logreg.rows import MemoryRows, parts, row_weights
from logreg.solvers.dual.span import (
    DualInverse,
    Span,
    cholesky_with_ridge,
    inverse_of_gram,
    inverse_of_gram_diagonal,
)
from logreg.solvers.kernels import TRIANGLE_STRIP_COLUMNS, add_lower_triangle, affine, sum_over_rows
from logreg.solvers.passes.base import Pass, PassRequests, request, run_pass
from logreg.solvers.problem import MAX_COPIED_NUMBERS, Coordinates, Problem
from logreg.solvers.state import SolverState
from logreg.solvers.steps.limited_memory import LimitedMemoryInverse
from logreg.solvers.steps.preconditioner import centered

GRAM_BLOCK_BYTES = 8 * 2**20
"""Size of the block of columns whose share of the Gram matrix is computed at once, in bytes.

The block has all rows, so that products are large, and is much smaller than the data.
"""

GRAM_ROWS_PER_TRIAL = 40
"""The 40 of the cost model: the Gram matrix of N rows takes as long as N / (40 + 8 K) steps without it, for K
outputs."""

GRAM_ROWS_PER_TRIAL_AND_OUTPUT = 8
"""The 8 of the cost model: the Gram matrix of N rows takes as long as N / (40 + 8 K) steps without it, for K
outputs."""

MIN_TRIALS = 8
"""Least number of steps that cost less than the Gram matrix for which steps are tried before it."""

MIN_PACE_STEPS = 3
"""Steps after which their pace decides whether the solver continues without the Gram matrix."""

MAX_INVERSE_DATA_RATIO = 0.6
"""Numbers in the inverses of all outputs, K N^2, relative to those of the data, up to which the inverses are held.

Together with their factors, the inverses are then about as large as the data.
"""

MIN_INVERSE_NUMEL = 8e6
"""Numbers in the inverses of all outputs, K N^2, up to which they are held for data of any size: 64 MB in float64."""

MAX_DIAGONAL_STEPS = 20
"""Largest number of steps with the inverse of the Gram matrix's diagonal after the Gram matrix was computed."""

MAX_DUAL_NEWTON_STEPS = 60
"""Largest number of Newton's steps with the Gram matrix."""

MAX_USEFUL_GAP = 1.0
"""Estimated gap, relative to f, above which a point is not used: Newton's steps begin at zero again."""

STOP_GAP_FRACTION = 0.3
"""Fraction of the tolerance at which the estimated gap ends the solver: a certificate may be a little larger."""

MIN_STOP_GAP = 1e-15
"""Estimated relative gap that ends the solver at any tolerance: smaller gaps are rounding errors of float64."""

MAX_REUSE_CONTRACTION = 0.1
"""Ratio of the gaps after and before a Newton step above which the inverse is computed anew."""

MAX_STALLED_DUAL_STEPS = 5
"""Newton's steps without progress after which the solver gives up.

Progress is a gap half the smallest so far, or an f that falls to `PROGRESS_VALUE_RATIO` of itself.
"""

PROGRESS_VALUE_RATIO = 0.99
"""Ratio of f after and before a step that counts as progress."""

MAX_LOGIT_ROUNDING = 1.0
"""Largest change of a logit, as a bound on it, by the rounding of the coefficients X' a to the problem's type."""

MAX_GRAM_ROUNDING = 1.0
"""Rounding error of the Gram matrix, relative to the least diagonal entry that the identity of Woodbury adds to it, up
to which its inverse gives the last steps, in all dimensions."""

GRAM_RIDGE = 1e-6
"""Ridge that is added to the Gram matrix before its Cholesky factorization, relative to its mean diagonal.

It keeps the Gram matrix of repeated rows positive definite.  Later steps in all dimensions undo its effect.
"""

Solver = Callable[[SolverState, float], PassRequests[Any]]
"""Newton's method, which solves a smaller problem.

With a second argument > 0 it ends where the predicted decrease is below that number, relative to f, without a
certificate.
"""


def solve_in_rows(state: SolverState, solve: Solver) -> PassRequests[None]:
    """Moves the start to about the optimum, found in N dimensions.

    The state keeps its point where the dual solver comes no nearer than `MAX_USEFUL_GAP` and the point is not zero.

    Args:
        state: State of the problem; its point is updated, and so are ``inverse`` and
            ``predicted_decrease`` where the Gram matrix was computed.
        solve: Solves the problem over the rows of the Gram matrix's Cholesky factor, where inverses cannot be held.
    """
    problem = state.problem
    held = problem.num_outputs * problem.rows <= max(
        MAX_INVERSE_DATA_RATIO * problem.num_features, MIN_INVERSE_NUMEL / problem.rows
    )
    trials = int(problem.rows / (GRAM_ROWS_PER_TRIAL + GRAM_ROWS_PER_TRIAL_AND_OUTPUT * problem.num_outputs))
    if held or trials >= MIN_TRIALS:
        # Rows with their mean in common are not orthogonal; the intercept takes the mean.
        coordinates = Coordinates(state.coordinates.center, problem.model.scale)
        rows = yield from request(DualRows(problem, coordinates, state.coordinates.scale))
        solver = DualSolver(rows, state.tolerance)
        is_near = rows.has_finite_products and solver.run(trials if trials >= MIN_TRIALS else 0, held)
        if is_near or (held and not state.point.any()):
            dual_coef, intercept = solver.span.point
            coef = rows.combined(dual_coef, rows.precise_dtype(dual_coef))
            point = torch.cat([coef, intercept.unsqueeze(1)], dim=1)
            state.point = centered(problem, coordinates.to(state.coordinates, point))
            if solver.gram is not None:
                state.predicted_decrease = solver.estimated_gaps[-1]
                inverse = WoodburyInverse(solver, state.coordinates)
                state.inverse = LimitedMemoryInverse(inverse, problem, problem.penalties(state.coordinates)[0])
        if is_near or held:
            return
        del rows, solver  # frees their memory, since they may hold copies of the rows
    if not state.point.any():
        yield from _solve_at_cholesky_factor(state, solve)


class DualRows(Pass["DualRows"]):
    """All rows X, kept as they are, and products with them; a product with them is no pass.

    The row source must leave the tensors of its blocks unchanged.
    """

    samples = ("_blocks",)
    takes_sparse = True

    def __init__(self, problem: Problem, coordinates: Coordinates, deviation: Tensor | None = None) -> None:
        super().__init__(problem, coordinates, deviation=deviation)
        self._blocks: list[Batch] = []

    def add(self, block: Batch) -> None:
        """Keeps the rows: a view, or a copy where their type differs or their mean is too large to subtract later."""
        features = converted(block.features, self.dtype)
        if self._shift is not None:
            features = (features - self._shift[0]).mul_(self._shift[1])
        self._blocks.append(block._replace(features=features))

    def result(self) -> DualRows:
        """This pass itself."""
        return self

    @property
    def features(self) -> list[Tensor]:
        """The features of each block."""
        return [block.features for block in self._blocks]

    @cached_property
    def labels(self) -> Tensor:
        """Shape (N,)."""
        return torch.cat([block.labels for block in self._blocks])

    @cached_property
    def weights(self) -> Tensor:
        """The weight of each row in the objective, shape (N, 1), float64."""
        of_blocks = [row_weights(block, self.problem.class_weight, torch.float64) for block in self._blocks]
        ones = self.zeros(len(self.labels)).add_(1)
        weights = torch.cat([one for one in of_blocks if one is not None] or [ones])
        return (weights * self.problem.row_sum_scale).unsqueeze(1)

    @cached_property
    def squared_norms(self) -> Tensor:
        """Squared norms of the rows in the coordinates, the diagonal of the Gram matrix, (N, 1), float64.

        They are |x|^2 - 2 x'c + |c|^2 for a center c: of sparse rows in float64, since the terms may cancel; of dense
        ones in their type, since a center that is far is subtracted from the rows before.
        """
        center, invert = self._fold.center, 1 / self._fold.scale
        across, constant, of_blocks = 2 * center * invert.square(), (center * invert).square().sum(), []
        for block in self._blocks:
            features = block.features
            if self.problem.is_sparse:
                features = converted(features, torch.float64)
                squares = times(squared(features), invert.square().unsqueeze(1))
            else:
                squares = self._norms(block, invert).double().square_().unsqueeze(1)
            by = across.to(features.dtype).unsqueeze(0)
            products = affine(features, by, by.new_zeros(1))
            of_blocks.append(squares - products + constant)
        return torch.cat(of_blocks).clamp_(min=0)

    def _norms(self, block: Batch, invert: Tensor) -> Tensor:
        """Norms of dense rows times ``invert`` (D,), shape (n,)."""
        if bool((invert == 1).all()):
            norms: Tensor = torch.linalg.vector_norm(block.features, dim=1)
            return norms
        some = parts(block, max(1, MAX_COPIED_NUMBERS // len(invert)))  # the copies stay in the cache
        invert = invert.to(self.dtype)
        return torch.cat([torch.linalg.vector_norm(part.features * invert, dim=1) for part in some])

    @property
    def has_finite_products(self) -> bool:
        """Whether products with the rows are finite."""
        return float(self.squared_norms.max()) < torch.finfo(self.dtype).max / len(self.labels)

    def combined(self, dual_coef: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Coefficients X' a, (K, D) in the coordinates, of dual coefficients a, (N, K); computed in ``dtype``.

        The type is the problem's own where ``None``.
        """
        (center, scale), rows, dtype = self._fold, [len(block.labels) for block in self._blocks], dtype or self.dtype
        of_blocks = zip(dual_coef.to(dtype).split(rows), self._blocks, strict=True)
        sums = reduce(
            torch.add,
            (sum_over_rows(some, converted(block.features, dtype)).double() for some, block in of_blocks),
        )
        return sums.addcmul_(dual_coef.sum(0).unsqueeze(1), center, value=-1.0).div_(scale)

    def precise_dtype(self, dual_coef: Tensor) -> torch.dtype:
        """The type in which the rounding of X' a changes no logit much: float64 where large terms cancel."""
        sizes = self.squared_norms.sqrt()
        change = torch.finfo(self.dtype).eps * float((dual_coef.abs() * sizes).sum(0).max() * sizes.max())
        return self.dtype if change <= MAX_LOGIT_ROUNDING else torch.float64

    def logits(self, coef: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Logits of coefficients (K, D) in the coordinates and an intercept of 0: (N, K), float64; as of `combined`."""
        (center, scale), dtype = self._fold, dtype or self.dtype
        coef = coef / scale
        by = coef.to(dtype), -(coef @ center).to(dtype)
        return torch.cat([affine(converted(block.features, dtype), *by) for block in self._blocks]).double()

    def gram_matrix(self, dtype: torch.dtype | None = None) -> Tensor:
        """X X' in the coordinates: (N, N), float64, from products in ``dtype``, the problem's own where ``None``."""
        dtype = dtype or self.dtype
        center, scale = self._fold
        rows, plain = len(self.labels), not bool((center != 0).any() | (scale != 1).any())
        columns = max(1, GRAM_BLOCK_BYTES // (rows * dtype.itemsize))
        gram = torch.zeros(rows, rows, dtype=dtype, device=center.device)
        ends = [0, *accumulate(len(block.labels) for block in self._blocks)]
        some = torch.empty(rows, columns, dtype=dtype, device=center.device)
        for first in range(0, self.problem.num_features, columns):
            which = slice(first, first + columns)
            some = some[:, : len(center[which])]
            for block, (begin, end) in zip(self._blocks, pairwise(ends), strict=True):
                some[begin:end] = block.features[:, which]
            if not plain:
                some.sub_(center[which].to(dtype)).mul_((1 / scale[which]).to(dtype))
            add_lower_triangle(gram, some)
        gram = gram.double()
        for first in range(0, rows, TRIANGLE_STRIP_COLUMNS):  # copies the lower triangle to the upper one
            end = first + TRIANGLE_STRIP_COLUMNS
            own = gram[first:end, first:end].tril()
            gram[first:end, first:end] = own + own.tril(-1).T
            gram[first:end, end:] = gram[end:, first:end].T
        return gram


class DualSolver:
    """Minimizes f over the dual coefficients; see the stages of the module.

    Attributes:
        rows: The rows.
        span: The span of the steps so far, at the best point within it.
        current: The objective and its derivatives at that point.
        gram: The Gram matrix, (N, N), once it was computed.
        estimated_gaps: The estimated gap, relative to f, after each step; it begins with infinity.
    """

    def __init__(self, rows: DualRows, tolerance: float) -> None:
        self.rows = rows
        self.gram: Tensor | None = None
        self._stop_gap = max(STOP_GAP_FRACTION * tolerance, MIN_STOP_GAP)
        self._start_at_zero()

    def run(self, trials: int, held: bool) -> bool:
        """Goes to the optimum as far as the stages lead.

        Args:
            trials: Steps before the Gram matrix is computed, at most.
            held: Whether the Gram matrix and inverses of its size may be computed.

        Returns:
            Whether the point reached is near the optimum.
        """
        if self._use_gram_diagonal(trials):
            return True
        if held:
            self.gram = self.rows.gram_matrix()
            if (
                not self._use_gram_diagonal(MAX_DIAGONAL_STEPS)
                and not self._use_gram()
                and self.rows.dtype != torch.float64
            ):
                self.gram = self.rows.gram_matrix(torch.float64)
                self._start_at_zero()  # the logits along the span came from the Gram matrix before
                self._use_gram()
        return held and self.estimated_gaps[-1] <= MAX_USEFUL_GAP

    def _start_at_zero(self) -> None:
        self.span = Span(self.rows.problem, self.rows.labels, self.rows.weights)
        self.current, self.estimated_gaps = self.span.minimize(), [math.inf]

    def _use_gram_diagonal(self, most: int) -> bool:
        """Takes steps as if the rows were orthogonal to each other: with the inverse of the Gram matrix's diagonal.

        The steps end early where their pace, that of the last two, does not reach the stopping gap in ``most`` steps.

        Returns:
            Whether the estimated gap is small enough to stop.
        """
        squares = self.rows.squared_norms
        for left in range(most, 0, -1):
            gradient = self.current.dual_gradient
            inverse = inverse_of_gram_diagonal(squares, self.current)
            self._extend(self.current.newton_step(squares * gradient, inverse))
            self.estimated_gaps.append(self.current.estimated_gap(self._gradient_logits()))
            last = self.estimated_gaps[-1]
            if last <= self._stop_gap:
                return True
            if len(self.estimated_gaps) > MIN_PACE_STEPS and (left - 1) * math.log(
                self.estimated_gaps[-3] / last
            ) / 2 < math.log(last / self._stop_gap):
                return False
        return False

    def _use_gram(self) -> bool:
        """Takes Newton's steps with the Gram matrix, from zero if the point so far is far from the optimum.

        Returns:
            Whether the estimated gap is small enough to stop.
        """
        assert self.gram is not None
        if not self.estimated_gaps[-1] <= MAX_USEFUL_GAP:
            self._start_at_zero()
        inverse: DualInverse | None = None
        last, nearest, value, stalled = math.inf, math.inf, math.inf, 0
        for _ in range(MAX_DUAL_NEWTON_STEPS):
            logits = self._gradient_logits()
            gap = self.current.estimated_gap(logits)
            self.estimated_gaps.append(gap)
            if gap <= self._stop_gap:
                return True
            progresses = gap <= nearest / 2 or self.current.value <= PROGRESS_VALUE_RATIO * value
            stalled = 0 if progresses else stalled + 1
            nearest, value = min(nearest, gap), self.current.value
            if stalled == MAX_STALLED_DUAL_STEPS:
                break
            if inverse is None or gap > MAX_REUSE_CONTRACTION * last:
                inverse = None  # frees its memory
                inverse = inverse_of_gram(self.gram, self.current)
            last = gap
            self._extend(self.current.newton_step(logits, inverse))
        return False

    def _gradient_logits(self) -> Tensor:
        """The logits X X' g of the dual gradient g, (N, K); by the diagonal alone where there is no Gram matrix."""
        gradient = self.current.dual_gradient
        return self.rows.squared_norms * gradient if self.gram is None else self.gram @ gradient

    def _extend(self, direction: Tensor) -> None:
        """Adds a direction of the dual coefficients, (N, K), to the span, and minimizes f over the span."""
        direction = self.span.orthogonal_part(direction)
        logits = self.rows.logits(self.rows.combined(direction)) if self.gram is None else self.gram @ direction
        self.span.add(direction, logits)
        self.current = self.span.minimize()


class WoodburyInverse:
    """The inverse of the Hessian in all D dimensions, at the end of a dual solver, by the Woodbury identity.

    It is used where the dual solver has not found the optimum.  Its products are in float64: most of a gradient
    cancels in a step, by a factor of the condition of the Hessian.
    """

    def __init__(self, solver: DualSolver, coordinates: Coordinates) -> None:
        """``coordinates`` are those of the gradients and steps."""
        assert solver.gram is not None
        self._rows, self._gram, self._current = solver.rows, solver.gram, solver.current
        self._coordinates = coordinates

    @cached_property
    def _inverse(self) -> DualInverse:
        """Of l2 D^-1 + X X', in float64 where the rounding of X X' in the type of the rows would hide l2 D^-1."""
        rows, gram = self._rows, self._gram
        least = rows.problem.objective.l2 / (float(rows.weights.max()) * rows.problem.loss.max_curvature)
        if torch.finfo(rows.dtype).eps * float(gram.diagonal().max()) > MAX_GRAM_ROUNDING * least:
            gram = rows.gram_matrix(torch.float64)
        return inverse_of_gram(gram, self._current)

    def __call__(self, gradient: Tensor) -> Tensor:
        """The Newton step to be subtracted, (K, D + 1) as the gradient is."""
        gradient = self._coordinates.gradient_to(self._rows.coordinates, gradient)
        coef, by_intercept = gradient[:, :-1], gradient[:, -1]
        logits = self._rows.logits(coef, torch.float64)
        correction, intercept = self._current.woodbury_correction(logits, by_intercept, self._inverse)
        step = (coef - self._rows.combined(correction, torch.float64)) / self._rows.problem.objective.l2
        return self._rows.coordinates.to(self._coordinates, torch.cat([step, intercept.unsqueeze(1)], dim=1))


def _solve_at_cholesky_factor(state: SolverState, solve: Solver) -> PassRequests[None]:
    """Solves the problem whose rows are those of L, for the Gram matrix X X' = L L'.

    Its coefficients u, (K, N), give the logits L u, and dual coefficients a with L' a = u give the same logits and the
    same penalty.
    """
    problem, model = state.problem, state.problem.model
    rows = yield from request(DualRows(problem, model, state.coordinates.scale))
    if not rows.has_finite_products:
        return
    gram = rows.gram_matrix()
    gram.diagonal().add_(GRAM_RIDGE * gram.diagonal().mean())
    root = cholesky_with_ridge(gram)
    inside = replace(problem, model=Coordinates(torch.zeros_like(gram[0]), torch.ones_like(gram[0])), class_weight=())
    inner = SolverState(inside, inside.zeros(), state.tolerance)
    features = root.to(problem.dtype, memory_format=torch.contiguous_format)
    memory = MemoryRows(features, rows.labels, rows.weights[:, 0] / problem.row_sum_scale)
    for requested in solve(inner, 0.0):
        run_pass(memory, requested)
    point = inner.solution
    dual_coef = torch.linalg.solve_triangular(root, point[:, :-1], upper=False, left=False).T
    point = torch.cat([rows.combined(dual_coef), point[:, -1:]], dim=1)
    state.point = centered(problem, model.to(state.coordinates, point))
