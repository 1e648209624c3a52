"""Few rows of many features: the best coefficients are a combination of the rows, told by as many numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.rows import MemoryRows, part_rows, parts, row_weights
from logreg.solvers.dual.span import (
    Inverse,
    Span,
    best_for_gram_diagonal,
    inverse_of_gram,
    inverse_of_gram_diagonal,
    root_of,
)
from logreg.solvers.kernels import STRIP, add_lower_triangle, affine, sum_over_rows
from logreg.solvers.passes.base import Pass, PassRequests, request, run_pass
from logreg.solvers.preconditioner import centered
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.quasi_newton import LimitedMemoryInverse
from logreg.solvers.state import SolverState

WIDE = 4
"""Features per row from which the problem is solved in the rows first."""

GRAM_BYTES = 8 * 2**20
"""Size of the columns whose inner products are taken at once."""

ROWS, ROWS_MORE = 40, 8
"""So many rows, and so many more for each output, have inner products that take as long as a trial."""

LEAST, FIRST = 8, 3
"""Trials that must cost less than inner products for these to be put off, and those made before one can tell."""

HELD, LITTLE = 0.6, 8e6
"""Rows times outputs, per feature, up to which their curvature is held: it is about as large as the data then; and how
many numbers it may have in any case."""

APART, STEPS = 20, 60
"""Steps at most with inner products: as if rows were apart, and Newton's."""

NEAR = 1.0
"""Relative gap from which Newton's steps go on."""

SAFE, LAST = 0.3, 1e-15
"""Of the tolerance, to end at: what is seen from the rows is about what a certificate will say; and the last digit."""

SLOWLY = 0.1
"""Part of the gap that is left after a step, from which curvature is taken anew."""

PATIENCE, FALLS = 5, 0.99
"""Steps in which the gap must fall to a half, or f to this part."""

RIDGE = 1e-6
"""What keeps inner products of repeated rows positive, relative to their size; later steps undo it."""

Solver = Callable[[SolverState, float], PassRequests[Any]]
"""Newton's method, whole or, with a second argument > 0, roughly: what solves a smaller problem."""


def is_wide(problem: Problem) -> bool:
    """Whether there are so many more features than rows that the rows span all that matters cheaply."""
    return problem.objective.l2 > 0 and not problem.objective.l1 and problem.num_features >= WIDE * problem.rows


def solve_in_rows(state: SolverState, solve: Solver) -> PassRequests[None]:
    """Moves the start to about the optimum, found in as many dimensions as there are rows.

    With l2 alone the coefficients are a combination of the rows.  Its factors are looked for in the span of a few, one
    more with each step.  Where rows differ from each other, their norms tell good ones; each then costs a product with
    the rows, and one with their transpose.  Where rows are so alike that it would take many such trials, their inner
    products are taken, which give Newton's steps; and that curvature serves what comes after, in all dimensions.

    Args:
        state: Of the problem.
        solve: What solves it in the rows where the curvature of so many outputs cannot be held.
    """
    problem = state.problem
    held = problem.num_outputs * problem.rows <= max(HELD * problem.num_features, LITTLE / problem.rows)
    trials = int(problem.rows / (ROWS + ROWS_MORE * problem.num_outputs))
    if held or trials >= LEAST:
        # Their mean would make rows alike; the intercept takes it.
        coordinates = Coordinates(state.coordinates.center, problem.model.scale)
        rows = yield from request(DualRows(problem, coordinates, state.coordinates.scale))
        search = DualSolver(rows, state.tolerance)
        near = rows.multiply and search.run(trials if trials >= LEAST else 0, held)
        if near or (held and not state.point.any()):
            factors, intercept = search.span.point
            point = torch.cat([rows.combined(factors), intercept.unsqueeze(1)], dim=1)
            state.point = centered(problem, coordinates.to(state.coordinates, point))
            if search.gram is not None:
                state.near = search.closes[-1]
                inverse = WoodburyInverse(search, state.coordinates)
                state.inverse = LimitedMemoryInverse(inverse, problem, problem.penalties(state.coordinates)[0])
        if near or held:
            return
        del rows, search  # they may hold copies
    if not state.point.any():
        yield from _solve_at_root(state, solve)


class DualRows(Pass["DualRows"]):
    """All rows, kept as they are: each meets every other.

    What shows them must leave them as they are.  Products with them are not passes.
    """

    samples = ("_blocks",)

    def __init__(self, problem: Problem, coordinates: Coordinates, deviation: Tensor | None = None) -> None:
        super().__init__(problem, coordinates, deviation=deviation)
        self._blocks: list[Batch] = []

    def add(self, block: Batch) -> None:
        """Keeps the rows; a copy where they are of another type, or their means too large to be taken off later."""
        features = block.features.to(self.dtype)
        if self._shift is not None:
            features = (features - self._shift[0]).mul_(self._shift[1])
        self._blocks.append(block._replace(features=features))

    def result(self) -> DualRows:
        """Itself."""
        return self

    @cached_property
    def labels(self) -> Tensor:
        """Shape (N,)."""
        return torch.cat([block.labels for block in self._blocks])

    @cached_property
    def weights(self) -> Tensor:
        """What each row weighs in the objective, shape (N, 1), float64."""
        of_blocks = [row_weights(block, self.problem.class_weight, torch.float64) for block in self._blocks]
        ones = self.zeros(len(self.labels)).add_(1)
        weights = torch.cat([one for one in of_blocks if one is not None] or [ones])
        return (weights * self.problem.row_sum_scale).unsqueeze(1)

    @cached_property
    def squares(self) -> Tensor:
        """Of the rows' norms in the coordinates, (N, 1), float64."""
        center, scale = self._fold
        origin, invert = (-center / scale).to(self.dtype), (1 / scale).to(self.dtype)
        norms = [
            torch.linalg.vector_norm(torch.addcmul(origin, part.features, invert), dim=1)
            for block in self._blocks
            for part in parts(block, part_rows(len(center), self.dtype))
        ]
        return torch.cat(norms).double().square_().unsqueeze(1)

    @property
    def multiply(self) -> bool:
        """Whether products with them are finite."""
        return float(self.squares.max()) < torch.finfo(self.dtype).max / len(self.labels)

    def combined(self, factors: Tensor) -> Tensor:
        """The rows times factors (N, K), added up: coefficients (K, D) in the coordinates."""
        sums, of_blocks = (
            self.zeros(factors.shape[1], self.problem.num_features),
            factors.split([len(block.labels) for block in self._blocks]),
        )
        for block, some in zip(self._blocks, of_blocks, strict=True):
            sums += sum_over_rows(some.to(self.dtype), block.features)
        return self.moments(sums, factors.sum(0))[:, :-1]

    def logits(self, coef: Tensor) -> Tensor:
        """By coefficients (K, D) in the coordinates and an intercept of 0: (N, K), float64."""
        by = self.linear(torch.cat([coef, torch.zeros_like(coef[:, :1])], dim=1))
        return torch.cat([affine(block.features, *by) for block in self._blocks]).double()

    def inner_products(self, dtype: torch.dtype | None = None) -> Tensor:
        """Of all rows with each other in the coordinates: (N, N), float64, as exact as sums in ``dtype`` are."""
        # A few columns of all rows at a time, so that products are large and no second copy of the rows is needed.
        dtype = dtype or self.dtype
        center, scale = self._fold
        rows, plain = len(self.labels), not bool((center != 0).any() | (scale != 1).any())
        columns = max(1, GRAM_BYTES // (rows * dtype.itemsize))
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
        for first in range(0, rows, STRIP):  # above the diagonal what is below it
            end = first + STRIP
            own = gram[first:end, first:end].tril()
            gram[first:end, first:end] = own + own.tril(-1).T
            gram[first:end, end:] = gram[end:, first:end].T
        return gram


class DualSolver:
    """The way to the best factors of the rows.

    Attributes:
        rows: Whose factors they are.
        span: Of the directions so far; at the best point of it.
        seen: What is seen there.
        gram: Inner products of the rows, (N, N), once taken.
        closes: About the relative gap that a certificate would have said, after each step.
    """

    def __init__(self, rows: DualRows, tolerance: float) -> None:
        self.rows = rows
        self.gram: Tensor | None = None
        self._enough = max(SAFE * tolerance, LAST)
        self._begin()

    def run(self, trials: int, held: bool) -> bool:
        """Goes to the optimum, and says whether it is near.

        Args:
            trials: Steps at most before inner products are taken.
            held: Whether curvature may be taken.
        """
        if self._apart(trials):
            return True
        if held:
            self.gram = self.rows.inner_products()
            if not self._apart(APART) and not self._together() and self.rows.dtype != torch.float64:
                self.gram = self.rows.inner_products(torch.float64)
                self._begin()  # the logits along the span are by the products before
                self._together()
        return held and self.closes[-1] <= NEAR

    def _begin(self) -> None:
        self.span = Span(self.rows.problem, self.rows.labels, self.rows.weights)
        self.seen, self.closes = self.span.minimize(), [math.inf]

    def _apart(self, most: int) -> bool:
        """Takes steps as if no row had anything in common with another, while at their pace ``most`` are enough."""
        squares = self.rows.squares
        for left in range(most, 0, -1):
            if len(self.closes) == 1:
                self._go(best_for_gram_diagonal(self.span, squares))
            else:
                self._go(self.seen.step(squares * self.seen.slope, inverse_of_gram_diagonal(squares, self.seen)))
            self.closes.append(self.seen.close(self._image()))
            last = self.closes[-1]
            if last <= self._enough:
                return True
            if len(self.closes) > FIRST and (left - 1) * math.log(self.closes[-3] / last) / 2 < math.log(
                last / self._enough
            ):
                return False  # at the pace of the last two
        return False

    def _together(self) -> bool:
        """Takes Newton's steps: from zero, if what was found is far away."""
        assert self.gram is not None
        if not self.closes[-1] <= NEAR:
            self._begin()
        inverse: Inverse | None = None
        last, nearest, value, waited = math.inf, math.inf, math.inf, 0
        for _ in range(STEPS):
            image = self._image()
            close = self.seen.close(image)
            self.closes.append(close)
            if close <= self._enough:
                return True
            waited = 0 if close <= nearest / 2 or self.seen.value <= FALLS * value else waited + 1
            nearest, value = min(nearest, close), self.seen.value
            if waited == PATIENCE:
                break
            if inverse is None or close > SLOWLY * last:
                inverse = None  # frees its memory
                inverse = inverse_of_gram(self.gram, self.seen)
            last = close
            self._go(self.seen.step(image, inverse))
        return False

    def _image(self) -> Tensor:
        """The logits by the slope, or about them where only the norms of the rows are known."""
        return self.rows.squares * self.seen.slope if self.gram is None else self.gram @ self.seen.slope

    def _go(self, direction: Tensor) -> None:
        direction = self.span.beyond(direction)
        logits = self.rows.logits(self.rows.combined(direction)) if self.gram is None else self.gram @ direction
        self.span.add(direction, logits)
        self.seen = self.span.minimize()


class WoodburyInverse:
    """The inverse of the Hessian at the end of a search, by Woodbury's formula."""

    def __init__(self, search: DualSolver, coordinates: Coordinates) -> None:
        """Works in any coordinates."""
        assert search.gram is not None
        self._rows, self._gram, self._seen, self._frame = search.rows, search.gram, search.seen, coordinates

    @cached_property
    def _inverse(self) -> Inverse:
        return inverse_of_gram(self._gram, self._seen)

    def __call__(self, gradient: Tensor) -> Tensor:
        """The Newton step to be subtracted, (K, D + 1) as the gradient is."""
        gradient = self._frame.gradient_to(self._rows.coordinates, gradient)
        coef, by_intercept = gradient[:, :-1], gradient[:, -1]
        back, intercept = self._seen.taken_back(self._rows.logits(coef), by_intercept, self._inverse)
        step = (coef - self._rows.combined(back)) / self._rows.problem.objective.l2
        return self._rows.coordinates.to(self._frame, torch.cat([step, intercept.unsqueeze(1)], dim=1))


def _solve_at_root(state: SolverState, solve: Solver) -> PassRequests[None]:
    """If G = L L' are the inner products, the problem over the rows of L has the same logits and the same penalty."""
    problem, model = state.problem, state.problem.model
    rows = yield from request(DualRows(problem, model, state.coordinates.scale))
    if not rows.multiply:
        return
    gram = rows.inner_products()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    root = root_of(gram)
    inside = replace(problem, model=Coordinates(torch.zeros_like(gram[0]), torch.ones_like(gram[0])), class_weight=())
    inner = SolverState(inside, inside.zeros(), state.tolerance)
    features = root.to(problem.dtype, memory_format=torch.contiguous_format)
    memory = MemoryRows(features, rows.labels, rows.weights[:, 0] / problem.row_sum_scale)
    for requested in solve(inner, 0.0):
        run_pass(memory, requested)
    point = inner.solution
    factors = torch.linalg.solve_triangular(root, point[:, :-1], upper=False, left=False).T
    point = torch.cat([rows.combined(factors), point[:, -1:]], dim=1)
    state.point = centered(problem, model.to(state.coordinates, point))
