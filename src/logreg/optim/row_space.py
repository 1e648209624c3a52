"""Few rows of many features: the best coefficients are a combination of the rows, told by as many numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.optim.curvature import Learned, Solve, centred
from logreg.optim.kernels import add_lower_triangle, affine, sum_over_rows
from logreg.optim.passes import (
    Asking,
    Frame,
    InMemory,
    Pass,
    Problem,
    ask,
    gather,
    part_rows,
    parts,
    row_weights,
)
from logreg.optim.progress import Progress
from logreg.optim.span import Inverse, Seen, Span, apart, start_apart, together

WIDE = 4
"""Features per row from which the problem is solved in the rows first."""

GRAM_BYTES = 8 * 2**20
"""Size of the columns whose inner products are taken at once."""

ROWS, ROWS_MORE = 40, 8
"""So many rows, and so many more for each output, have inner products that take as long as a trial."""

LEAST, FIRST = 8, 3
"""Trials that must cost less than inner products for these to be put off, and those made before one can tell."""

HELD = 0.6
"""Rows times outputs, per feature, up to which their curvature is held: it is about as large as the data."""

APART, STEPS = 20, 60
"""Steps at most with inner products: as if rows were apart, and Newton's."""

NEAR = 1.0
"""Relative gap from which Newton's steps go on."""

SAFE = 0.3
"""Of the tolerance, to end at: what is seen from the rows is about what a certificate will say."""

SLOWLY = 0.1
"""Part of the gap that is left after a step, from which curvature is taken anew."""

PATIENCE, FALLS = 5, 0.99
"""Steps in which the gap must fall to a half, or f to this part."""

RIDGE = 1e-6
"""What keeps inner products of repeated rows positive, relative to their size; later steps undo it."""

Solver = Callable[[Progress, float], Asking[None]]
"""Newton's method, whole or, with a second argument > 0, roughly: what solves a smaller problem."""


def is_wide(problem: Problem) -> bool:
    """Whether there are so many more features than rows that the rows span all that matters cheaply."""
    return problem.objective.l2 > 0 and not problem.objective.l1 and problem.num_features >= WIDE * problem.rows


def solve_in_rows(progress: Progress, solve: Solver) -> Asking[None]:
    """Moves a start at zero to about the optimum, found in as many dimensions as there are rows.

    With l2 alone the coefficients are a combination of the rows.  Its factors are looked for in the span of a few, one
    more with each step.  Where rows differ from each other, their norms tell good ones; each then costs a product with
    the rows, and one with their transpose.  Where rows are so alike that it would take many such trials, their inner
    products are taken, which give Newton's steps; and that curvature serves what comes after, in all dimensions.

    Args:
        progress: Of the problem.
        solve: What solves it in the rows where the curvature of so many outputs cannot be held.
    """
    problem = progress.problem
    # Their mean would make rows alike; the intercept takes it.
    frame = Frame(progress.frame.center, problem.model.scale)
    rows = yield from ask(Kept(problem, frame))
    squares = rows.squares()
    if not float(squares.max()) < torch.finfo(rows.dtype).max / problem.rows:
        return  # products would be infinite
    held = problem.num_outputs * problem.rows <= HELD * problem.num_features
    trials = int(problem.rows / (ROWS + ROWS_MORE * problem.num_outputs))
    search = Search(rows, squares, progress.tolerance)
    if not (trials >= LEAST and search.apart(lambda factors: rows.logits(rows.combined(factors)), trials)):
        if not held:
            yield from _solve_at_root(progress, solve)
            return
        gram = rows.inner_products()
        if not search.apart(gram.matmul, APART):
            search.together(gram)
        progress.near = search.closes[-1]
        progress.inverse = Learned(InRows(rows, gram, search.seen), problem, problem.penalties(frame)[0])
    factors, intercept = search.span.point
    point = torch.cat([rows.combined(factors), intercept.unsqueeze(1)], dim=1)
    progress.frame, progress.point = frame, centred(problem, point)


class Kept(Pass["Kept"]):
    """All rows, kept as they are: each meets every other."""

    def __init__(self, problem: Problem, frame: Frame) -> None:
        super().__init__(problem, frame)
        self._blocks: list[Batch] = []

    def add(self, block: Batch) -> None:
        """Keeps the rows; a copy of them where their means are too large to be subtracted later."""
        features = block.features.to(self.dtype)
        if self._shift is not None:
            features = (features - self._shift[0]).mul_(self._shift[1])
        self._blocks.append(block._replace(features=features))

    def result(self) -> Kept:
        """Itself."""
        return self

    @property
    def labels(self) -> Tensor:
        """Shape (N,)."""
        return torch.cat([block.labels for block in self._blocks])

    @property
    def weights(self) -> Tensor:
        """What each row weighs in the objective, shape (N, 1), float64."""
        of_blocks = [row_weights(block, self.problem.class_weight, torch.float64) for block in self._blocks]
        ones = self.zeros(self.problem.rows).add_(1)
        weights = torch.cat([one for one in of_blocks if one is not None] or [ones])
        return (weights * self.problem.share).unsqueeze(1)

    def combined(self, factors: Tensor) -> Tensor:
        """The rows times factors (N, K), added up: coefficients (K, D) in the frame."""
        sums, of_blocks = self.zeros(factors.shape[1], self.problem.num_features), self._split(factors)
        for block, some in zip(self._blocks, of_blocks, strict=True):
            sums += sum_over_rows(some.to(self.dtype), block.features)
        return self.moments(sums, factors.sum(0))[:, :-1]

    def logits(self, coef: Tensor) -> Tensor:
        """By coefficients (K, D) in the frame and an intercept of 0: (N, K), float64."""
        by = self.linear(torch.cat([coef, torch.zeros_like(coef[:, :1])], dim=1))
        return torch.cat([affine(block.features, *by) for block in self._blocks]).double()

    def squares(self) -> Tensor:
        """Of the rows' norms in the frame, (N, 1), float64."""
        center, scale = self._fold
        origin, invert = (-center / scale).to(self.dtype), (1 / scale).to(self.dtype)
        norms = [
            torch.linalg.vector_norm(torch.addcmul(origin, part.features, invert), dim=1)
            for block in self._blocks
            for part in parts(block, part_rows(len(center), self.dtype))
        ]
        return torch.cat(norms).double().square_().unsqueeze(1)

    def inner_products(self) -> Tensor:
        """Of all rows with each other in the frame: (N, N), as exact as the arithmetic, in float64."""
        # A few columns of all rows at a time, so that products are large and no second copy of the rows is needed.
        center, scale = self._fold
        rows, plain = self.problem.rows, not bool((center != 0).any() | (scale != 1).any())
        columns = max(1, GRAM_BYTES // (rows * self.dtype.itemsize))
        gram = torch.zeros(rows, rows, dtype=self.dtype, device=center.device)
        some = gram.new_empty(rows, columns)
        for first in range(0, self.problem.num_features, columns):
            which = slice(first, first + columns)
            of_blocks = [block.features[:, which] for block in self._blocks]
            some = some[:, : of_blocks[0].shape[1]]
            torch.cat(of_blocks, out=some)
            if not plain:
                some.sub_(center[which].to(self.dtype)).mul_((1 / scale[which]).to(self.dtype))
            add_lower_triangle(gram, some)
        wide = gram.double()  # where products with it cancel, their digits are needed
        return wide.tril_().add_(wide.tril(-1).T)

    def _split(self, of_rows: Tensor) -> tuple[Tensor, ...]:
        split: tuple[Tensor, ...] = of_rows.split([len(block.labels) for block in self._blocks])
        return split


class Search:
    """The way to the best factors of the rows.

    Attributes:
        span: Of the directions so far; at the best point of it.
        seen: What is seen there.
        closes: About the relative gap that a certificate would have said, after each step.
    """

    def __init__(self, rows: Kept, squares: Tensor, tolerance: float) -> None:
        """``squares`` (N, 1) of the rows' norms."""
        self._rows, self._squares, self._enough = rows, squares, SAFE * tolerance
        self._begin()

    def _begin(self) -> None:
        self.span = Span(self._rows.problem, self._rows.labels, self._rows.weights)
        self.seen, self.closes = self.span.minimise(), [math.inf]

    def apart(self, logits: Solve, most: int) -> bool:
        """Takes steps as if no row had anything in common with another; whether so many lead to the optimum.

        Args:
            logits: By factors, both (N, K).
            most: Steps at most; at the pace of the last two they must do.
        """
        direction = start_apart(self.span, self._squares) if len(self.closes) == 1 else self._apart()
        for left in range(most, 0, -1):
            if self.closes[-1] <= self._enough:
                return True
            pace = math.log(self.closes[-3] / self.closes[-1]) / 2 if len(self.closes) > FIRST else math.inf
            if left * pace < math.log(self.closes[-1] / self._enough):
                return False
            self._go(direction, logits)
            self.closes.append(self.seen.close(self._squares * self.seen.slope))
            direction = self._apart()
        return self.closes[-1] <= self._enough

    def together(self, gram: Tensor) -> None:
        """Takes Newton's steps, by inner products (N, N) of the rows: from zero, if what was found is far away."""
        if self.closes[-1] > NEAR:
            self._begin()
        inverse, last, nearest, value, waited = None, math.inf, math.inf, math.inf, 0
        for _ in range(STEPS):
            image = gram @ self.seen.slope
            close = self.seen.close(image)
            self.closes.append(close)
            waited = 0 if close <= nearest / 2 or self.seen.value <= FALLS * value else waited + 1
            nearest, value = min(nearest, close), self.seen.value
            if close <= self._enough or waited == PATIENCE:
                break
            if inverse is None or close > SLOWLY * last:
                inverse = together(gram, self.seen)
            last = close
            self._go(self.seen.step(image, inverse), gram.matmul)

    def _apart(self) -> Tensor:
        return self.seen.step(self._squares * self.seen.slope, apart(self._squares, self.seen))

    def _go(self, direction: Tensor, logits: Solve) -> None:
        direction = self.span.beyond(direction)
        self.span.add(direction, logits(direction))
        self.seen = self.span.minimise()


class InRows:
    """The inverse of the Hessian at a point of a span, by Woodbury's formula."""

    def __init__(self, rows: Kept, gram: Tensor, seen: Seen) -> None:
        """``gram`` (N, N), what was ``seen`` at the point."""
        self._rows, self._gram, self._seen = rows, gram, seen

    @cached_property
    def _inverse(self) -> Inverse:
        return together(self._gram, self._seen)

    def __call__(self, gradient: Tensor) -> Tensor:
        """The Newton step to be subtracted, (K, D + 1) as the gradient is."""
        coef, by_intercept = gradient[:, :-1], gradient[:, -1]
        back, intercept = self._seen.taken_back(self._rows.logits(coef), by_intercept, self._inverse)
        step = (coef - self._rows.combined(back)) / self._rows.problem.objective.l2
        return torch.cat([step, intercept.unsqueeze(1)], dim=1)


def _solve_at_root(progress: Progress, solve: Solver) -> Asking[None]:
    """If G = L L' are the inner products, the problem over the rows of L has the same logits and the same penalty."""
    problem, model = progress.problem, progress.problem.model
    rows = yield from ask(Kept(problem, model))
    gram = rows.inner_products()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    root = torch.linalg.cholesky(gram)
    inside = replace(problem, model=Frame(torch.zeros_like(gram[0]), torch.ones_like(gram[0])), class_weight=())
    inner = Progress(inside, inside.zeros(), progress.tolerance)
    features = root.to(problem.dtype, memory_format=torch.contiguous_format)
    memory = InMemory(features, rows.labels, rows.weights[:, 0] / problem.share)
    for question in solve(inner, 0.0):
        gather(memory, question)
    point = inner.solution
    factors = torch.linalg.solve_triangular(root, point[:, :-1], upper=False, left=False).T
    point = torch.cat([rows.combined(factors), point[:, -1:]], dim=1)
    progress.point = centred(problem, model.to(progress.frame, point))
