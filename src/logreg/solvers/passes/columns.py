"""Passes over a few of the columns, which each process holds for its own rows together with their logits.

With l1 few coefficients are nonzero at the optimum.  A solver then needs few columns many times, and all columns a few
times only.  `HeldRows` stores what it needs of the rows of one process: labels, weights, logits, and the columns of a
working set of features.  A `HeldPass` reads these, and no block beyond the first; its accumulators are combined over
processes as those of every pass.  Where the columns are too large to be held, it selects them from each block anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from logreg.csr import is_sparse, selected_columns
from logreg.facts import Batch
from logreg.losses import one_vs_rest
from logreg.rows import PART_BYTES, parts, row_weights
from logreg.solvers import kernels
from logreg.solvers.kernels import empty, gram_of_columns, sum_over_cold_rows, sum_over_rows, total_over_rows
from logreg.solvers.passes.base import Pass, PreparedRows, Result
from logreg.solvers.passes.evaluate import additions_of, longest_sum
from logreg.solvers.passes.precise import fenchel_young
from logreg.solvers.problem import Coordinates, Problem

MAX_HELD_NUMEL = 2**28
"""Numbers of the working set's columns, of all processes together, up to which they are held: 2 GiB in float64."""

SMALL_HELD_NUMEL = 2**23
"""Numbers of the columns up to which those of sparse features are held, as dense ones, unless the features have more
non-zeros: 64 MiB in float64."""

MAX_PART_NUMEL = 2**20
"""Numbers of the held columns that one matrix product reads, so that temporary copies of them stay small: 8 MiB."""

COPIED_ROWS = 1024
"""Rows of which columns are copied at once: those of some hundred columns stay in the cache between the two copies."""

MIN_COLD_NUMEL = 2**21
"""Numbers of all features from which a pass finds none of them in the cache: 16 MiB in float64."""

RUN_ROWS = 64
"""Rows that follow each other in a sample for a Hessian: reading a run of a column costs little more than one row."""

MIN_ROOM = 256
"""Columns for which memory is reserved at first."""


class HeldRows:
    """The rows of this process, as passes over a working set of features see them; everything in float64.

    Attributes:
        features: Positions of the features of the working set, (W,).
        columns: The columns in the coordinates, (W + 1, n): first that of the intercept, which is 1, or 0 without an
            intercept; then those of ``features``.  ``None`` where they are too large to be held.
        labels: Shape (n,).
        weights: Weight of each row in the loss, (n, 1); ``None`` if all are 1.
        offset: Offset of each row, (n, 1); ``None`` if there is none.
        logits: The logits at the solver's point, (n, K).
        change: The change of the logits by the last step that was tried, (n, K).
        residuals: Derivatives of each row's loss by its logits, (n, K), at the solver's point.
        curvature: The second derivatives of each row's loss that the last Hessian was made from, as of
            `Loss.curvature`, (n, K).
        theta: A point of the dual problem, (n, K): that of `TryStep`, or the residuals.
        spread: Second derivatives of each row's loss near that dual point, as of `Loss.curvature`, (n, K).
    """

    def __init__(self, problem: Problem, coordinates: Coordinates) -> None:
        """Holds nothing yet; `ReadLabels` and `GatherColumns` fill it."""
        self.problem, self.coordinates = problem, coordinates
        zero = coordinates.center
        self._is_shifted, self._is_scaled = bool((zero != 0).any()), bool((coordinates.scale != 1).any())
        self.features = torch.zeros(0, dtype=torch.long, device=zero.device)
        self._buffer: Tensor | None = None
        self.labels = self.features
        self.weights: Tensor | None = None
        self.offset: Tensor | None = None
        self.logits = self.change = self.residuals = self.curvature = self.theta = self.spread = self.zeros(0)

    def zeros(self, rows: int) -> Tensor:
        """A number for each row and output: zeros in float64, (n, K)."""
        return self.coordinates.center.new_zeros(rows, self.problem.num_outputs)

    @property
    def columns(self) -> Tensor | None:
        """See the attributes of the class."""
        return None if self._buffer is None else self._buffer[: len(self.features) + 1]

    def make_room(self, number: int) -> Tensor:
        """Memory for the columns of new features, (number, n); memory for more is reserved, and not touched yet."""
        first = len(self.features) + 1
        if self._buffer is None or len(self._buffer) < first + number:
            room = min(max(2 * (first + number), MIN_ROOM), self.problem.num_features + 1)
            buffer = empty(self.logits, room, len(self.labels))
            buffer[:first] = float(self.problem.intercept) if self._buffer is None else self._buffer[:first]
            self._buffer = buffer
        return self._buffer[first : first + number]

    def let_go(self) -> None:
        """Holds no columns any more."""
        self._buffer = None

    def select(self, features: Tensor, which: Tensor, into: Tensor | None = None) -> Tensor:
        """Columns of a block's features (n, D) in the coordinates, (W, n); in the memory of ``into`` where given."""
        if is_sparse(features):
            columns = selected_columns(features, which).T.double()
        elif features.device.type in kernels.NUMPY_DEVICES and features.dtype in (torch.float32, torch.float64):
            columns = empty(self.logits, len(which), len(features)) if into is None else into
            numbers, places, of_columns = features.numpy(), which.numpy(), columns.numpy()
            for first in range(0, len(numbers), COPIED_ROWS):
                part = slice(first, first + COPIED_ROWS)
                of_columns[:, part] = numbers[part, places].T
        else:
            columns = features.T[which].double()
        if self._is_shifted:
            columns.sub_(self.coordinates.center[which].unsqueeze(1))
        if self._is_scaled:
            columns.div_(self.coordinates.scale[which].unsqueeze(1))
        return columns if into is None or columns is into else into.copy_(columns)

    def intercept_column(self, rows: int) -> Tensor:
        """The column of the intercept, (1, n)."""
        return self.coordinates.center.new_full((1, rows), float(self.problem.intercept))

    def move(self, length: float) -> None:
        """Moves the logits by ``length`` times the step that was tried last."""
        self.logits = self.logits.add(self.change, alpha=length)

    def shift_theta(self, shift: Tensor) -> None:
        """Subtracts from the dual point its curvatures times a move of the intercepts, (K,)."""
        self.theta = self.theta - self.problem.loss.curvature_product(self.spread, shift.expand_as(self.theta))


class ReadLabels(Pass[None]):
    """Reads labels, weights and offsets of all rows into held rows, whose logits are the offsets then, or 0."""

    def __init__(self, rows: HeldRows) -> None:
        self.rows = rows
        self._labels: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._offsets: list[Tensor] = []

    def add(self, block: Batch) -> None:
        """Keeps labels, weights and offsets of a block."""
        self._labels.append(block.labels)
        weights = row_weights(block, self.rows.problem.class_weight, torch.float64)
        self._weights += [] if weights is None else [weights.unsqueeze(1)]
        self._offsets += [] if block.offset is None else [block.offset.double().unsqueeze(1)]

    def finish(self) -> None:
        """Prepares the held rows."""
        rows = self.rows
        rows.labels = torch.cat([rows.labels, *self._labels])
        rows.weights = torch.cat(self._weights) if self._weights else None
        rows.offset = torch.cat(self._offsets) if self._offsets else None
        zero = rows.zeros(len(rows.labels))
        rows.logits = zero.clone() if rows.offset is None else zero + rows.offset
        rows.change, rows.residuals = zero, zero.clone()
        rows.curvature, rows.theta, rows.spread = zero.clone(), zero.clone(), zero.clone()
        rows.make_room(0)

    def result(self) -> None:
        """Nothing: the held rows have changed."""


class GatherColumns(Pass[None]):
    """Adds features to the working set of held rows."""

    def __init__(self, rows: HeldRows, features: Tensor) -> None:
        """``features`` are the positions of the new features, (W,); none of them is held yet."""
        self.rows, self.new, self._first = rows, features, 0
        size = rows.problem.rows * (len(rows.features) + len(features) + 1)
        most = max(rows.problem.numel, SMALL_HELD_NUMEL) if rows.problem.is_sparse else MAX_HELD_NUMEL
        self._room = rows.make_room(len(features)) if size <= most and rows.columns is not None else None
        self.every = int(self._room is not None)

    def add(self, block: Batch) -> None:
        """Copies the columns of a block."""
        assert self._room is not None
        part = slice(self._first, self._first + len(block.labels))
        self.rows.select(block.features, self.new, self._room[:, part])
        self._first = part.stop

    def finish(self) -> None:
        """Counts the new features among those of the working set."""
        self.rows.features = torch.cat([self.rows.features, self.new])
        if self._room is None:
            self.rows.let_go()

    def result(self) -> None:
        """Nothing: the held rows have changed."""


class HeldPass(Pass[Result]):
    """A pass over the held rows; it reads no other rows, unless it needs columns that are not held."""

    def __init__(self, rows: HeldRows) -> None:
        self.rows, self.problem = rows, rows.problem
        self._first = 0

    def zeros(self, *shape: int) -> Tensor:
        """A sum of no terms: zeros in float64."""
        return self.rows.coordinates.center.new_zeros(shape)

    @property
    def every(self) -> int:  # type: ignore[override]  # an attribute of others
        """0 where the columns are held, or not needed."""
        return int(self.rows.columns is None and self.needs_columns)

    @property
    def needs_columns(self) -> bool:
        """Whether `take` uses the columns."""
        return True

    def add(self, block: Batch) -> None:
        """Takes the held rows of a block, whose columns are not held."""
        rows, size = self.rows, len(block.labels)
        if is_sparse(block.features):  # which may have many more rows than a block of dense ones
            size = max(MAX_PART_NUMEL // (len(rows.features) + 1), 1)
        for some in parts(block, size):
            part = slice(self._first, self._first + len(some.labels))
            self._first = part.stop
            selected = rows.select(some.features, rows.features)
            self.take(part, torch.cat([rows.intercept_column(len(some.labels)), selected]))

    def finish(self) -> None:
        """Takes all held rows, in parts, where their columns are held or not needed."""
        if self.every:
            return
        rows, columns = self.rows, self.rows.columns
        columns = rows.intercept_column(0) if columns is None else columns
        number, size = rows.labels.shape[0], max(MAX_PART_NUMEL // columns.shape[0], 1)
        for first in range(0, number, size):
            part = slice(first, first + size)
            self.take(part, columns if size >= number else columns[:, part])

    def take(self, part: slice, columns: Tensor) -> None:
        """Adds the contribution of some of the rows.

        Args:
            part: Which of the rows of this process.
            columns: Their columns, (W + 1, n); without meaning unless `needs_columns`.
        """
        raise NotImplementedError

    def weighted(self, part: slice, terms: Tensor) -> Tensor:
        """Terms of the rows, (n, K) or (n, 1), times the weights of the rows."""
        return terms if self.rows.weights is None else terms * self.rows.weights[part]

    def joint_curvature(self, part: slice, curvature: Tensor) -> Tensor:
        """The second derivatives of the loss of some rows by the intercepts, (K, K), from those of each row, (n, K)."""
        spread = self.weighted(part, curvature)
        own = torch.diag(total_over_rows(spread))
        return own - sum_over_rows(spread, curvature) if self.problem.coupled else own

    def targets(self, part: slice) -> Tensor:
        """What the loss compares the logits with, (n, K)."""
        return one_vs_rest(self.rows.labels[part], self.problem.num_outputs, torch.float64)


class LocalModel(NamedTuple):
    """The loss and its derivatives by the coefficients of the working set, without the penalty."""

    loss: float
    """The data term of f."""
    gradient: Tensor
    """Shape (K, W + 1), the intercept first."""
    hessian: tuple[Tensor, ...]
    """The second derivatives by the free coefficients: one matrix for coupled outputs, one for each separate output; or
    nothing where none was asked for."""


class DifferentiateHeld(HeldPass[LocalModel]):
    """The loss, its gradient and, on request, its Hessian by some coefficients of the working set at the logits."""

    sums: ClassVar[tuple[str, ...]] = ("_loss", "_gradient", "_flat")

    def __init__(
        self,
        rows: HeldRows,
        left: Sequence[Tensor] = (),
        right: Sequence[Tensor] = (),
        every: int = 1,
        is_new: bool = True,
    ) -> None:
        """The Hessian has a row for each coefficient of ``left`` and a column for each of ``right``.

        Args:
            rows: The held rows.
            left: The columns of each output's coefficients; nothing for no Hessian.
            right: The columns of each output's coefficients; in ascending order where it is ``left`` itself.
            every: The Hessian is estimated from every ``every``-th row; only one of all rows stores its curvatures.
            is_new: Whether the Hessian is that at the logits; else that of the curvatures that are stored.
        """
        super().__init__(rows)
        self._left, self._right, self._every, self._is_new = left, right, every, is_new
        self._loss, self._gradient = self.zeros(), self.zeros(self.problem.num_outputs, len(rows.features) + 1)
        self._shapes = [(len(one), len(other)) for one, other in zip(left, right, strict=True)]
        if self.problem.coupled and self._shapes:
            self._shapes = [(sum(one for one, _ in self._shapes), sum(other for _, other in self._shapes))]
        self._flat = self.zeros(sum(one * other for one, other in self._shapes))
        self._hessian = self._matrices()

    def _matrices(self) -> list[Tensor]:
        if len(self._shapes) == 1:
            return [self._flat.view(self._shapes[0])]
        split = self._flat.split([one * other for one, other in self._shapes])
        return [flat.view(shape) for flat, shape in zip(split, self._shapes, strict=True)]

    def take(self, part: slice, columns: Tensor) -> None:
        """Adds loss, gradient and Hessian; stores residuals and, with a new Hessian, curvatures."""
        rows = self.rows
        values, residuals, curvature = self.problem.loss.evaluate(rows.logits[part], rows.labels[part])
        rows.residuals[part] = residuals
        self._loss += self.weighted(part, values.unsqueeze(1)).sum()
        self._gradient += (columns @ self.weighted(part, residuals)).T
        if not self._left:
            return
        every = self._every
        if not self._is_new:
            curvature = rows.curvature[part]
        elif every == 1:
            rows.curvature[part] = curvature
        of_rows = self.weighted(part, torch.ones_like(curvature[:, :1])).T
        spread, curvature = self.weighted(part, curvature).T, curvature.T
        if every > 1:
            columns, of_rows, spread, curvature = (_every(one, every) for one in (columns, of_rows, spread, curvature))
        if not self.problem.coupled:
            for hessian, left, right, each in zip(self._hessian, self._left, self._right, spread, strict=True):
                hessian += self._product(columns, left, right, each)
            return
        # diag(c) - c c' for each row, with the columns of the outputs on either side
        (hessian,) = self._hessian
        times = self._times(columns, self._left, curvature)
        if self._right is self._left:
            hessian -= gram_of_columns(times, of_rows[0])
        else:
            hessian -= times @ (self._times(columns, self._right, curvature) * of_rows).T
        first = second = 0
        for left, right, each in zip(self._left, self._right, spread, strict=True):
            last, end = first + len(left), second + len(right)
            hessian[first:last, second:end] += self._product(columns, left, right, each)
            first, second = last, end

    def _product(self, columns: Tensor, left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum over the rows of the products of two selections of the columns."""
        if self._right is not self._left:
            return columns[left] @ (columns[right] * weights).T
        first, end = (int(left[0]), int(left[-1]) + 1) if len(left) else (0, 0)
        if end - first == len(left):  # neighbors, as all columns but that of the intercept, take no copy
            return gram_of_columns(columns[first:end], weights)
        return gram_of_columns(columns, weights, left)

    def _times(self, columns: Tensor, which: Sequence[Tensor], curvature: Tensor) -> Tensor:
        """Each output's columns times its curvature."""
        return torch.cat([columns[one] * each for one, each in zip(which, curvature, strict=True)])

    def result(self) -> LocalModel:
        """The sums in units of f."""
        share = self.problem.row_sum_scale
        hessian = tuple(matrix * (share * self._every) for matrix in self._matrices())
        return LocalModel(float(self._loss) * share, self._gradient * share, hessian)


def _every(numbers: Tensor, every: int) -> Tensor:
    """One of ``every`` runs of `RUN_ROWS` rows, of numbers (A, n): a view, (A, n / every) or (A, runs, RUN_ROWS)."""
    whole = numbers.shape[1] // (every * RUN_ROWS) * every * RUN_ROWS
    if not whole:
        return numbers[:, ::every]
    runs: Tensor = numbers[:, :whole].unflatten(1, (-1, every, RUN_ROWS))
    return runs[:, :, 0]


class StepEnd(NamedTuple):
    """The end of a step."""

    loss: float
    """The data term of f there."""
    excess: float
    """The Fenchel-Young excess of the dual point there, in units of f; infinite where it is not in the domain of the
    conjugate, and 0 for the residuals."""


class TryStep(HeldPass[StepEnd]):
    """The loss at the end of a step, and a dual point theta there.

    With residuals r and curvatures c at the point and a change dz of the logits, the quadratic model predicts
    theta = r + c dz.  Where the step leads to the minimum of the model and its penalty, this theta satisfies the
    optimality conditions of the free coefficients exactly, and it differs from the residuals at z + dz by terms of
    second order.  The Fenchel-Young excess, which is the duality gap that they leave, is of fourth order in the step.
    """

    sums = ("_loss", "_excess")

    def __init__(self, rows: HeldRows, step: Tensor | None, length: float = 1.0, predicts: bool = True) -> None:
        """``step`` (K, W + 1) has the intercept first; ``None`` for the last one, of another length.

        ``predicts`` is whether theta is the prediction of the model; else it is the residuals at the end of the step.
        """
        super().__init__(rows)
        self._step, self._length, self._predicts = step, length, predicts
        self._loss, self._excess = self.zeros(), self.zeros()

    @property
    def needs_columns(self) -> bool:
        """The logits of a step that was tried before are known."""
        return self._step is not None

    def take(self, part: slice, columns: Tensor) -> None:
        """Adds the terms of some rows; stores the change of their logits and their theta."""
        rows, loss = self.rows, self.problem.loss
        if self._step is not None:
            rows.change[part] = (self._step @ columns).T
        change = rows.change[part] if self._length == 1 else rows.change[part] * self._length
        logits, targets = rows.logits[part] + change, self.targets(part)
        values = loss.value(logits, targets)
        self._loss += self.weighted(part, values.unsqueeze(1)).sum()
        if not self._predicts:
            rows.theta[part] = loss.residual(logits, targets)
            return
        theta = rows.residuals[part] + loss.curvature_product(rows.curvature[part], change)
        rows.theta[part] = theta
        excess = values + loss.conjugate(theta, targets) - (logits * theta).sum(1)
        self._excess += self.weighted(part, excess.unsqueeze(1)).sum()

    def result(self) -> StepEnd:
        """The sums in units of f; what is not a number counts as infinite."""
        share = self.problem.row_sum_scale
        loss, excess = (float(total) * share for total in (self._loss, self._excess))
        return StepEnd(math.inf if math.isnan(loss) else loss, math.inf if math.isnan(excess) else excess)


class SumTheta(HeldPass[tuple[Tensor, Tensor]]):
    """The sums of the dual point over the rows, and of the second derivatives by the intercepts, in units of f."""

    sums = ("_theta", "_curvature")

    def __init__(self, rows: HeldRows, takes_residuals: bool) -> None:
        """``takes_residuals`` is whether the residuals at the logits replace the dual point first."""
        super().__init__(rows)
        self._takes_residuals = takes_residuals
        k = self.problem.num_outputs
        self._theta, self._curvature = self.zeros(k), self.zeros(k, k)

    @property
    def needs_columns(self) -> bool:
        """All numbers are known for each row."""
        return False

    def take(self, part: slice, columns: Tensor) -> None:
        """Adds the terms of some rows."""
        rows = self.rows
        if self._takes_residuals:
            _, rows.theta[part], rows.spread[part] = self.problem.loss.evaluate(rows.logits[part], rows.labels[part])
        curvature = rows.spread[part]
        self._theta += total_over_rows(self.weighted(part, rows.theta[part]))
        self._curvature += self.joint_curvature(part, curvature)

    def result(self) -> tuple[Tensor, Tensor]:
        """Shapes (K,) and (K, K)."""
        share = self.problem.row_sum_scale
        return self._theta * share, self._curvature * share


class HeldDual(NamedTuple):
    """The loss at the logits, and the excess of the dual point there; all in units of f."""

    loss: float
    curvature: Tensor
    """Second derivatives of f by the intercepts, (K, K)."""
    excess: float
    """The Fenchel-Young excess of ``scale`` times the dual point."""
    noise: float
    """Upper bound of the rounding error of the excess."""
    additions: float
    """As of `Derivatives`."""


class EvaluateHeld(HeldPass[HeldDual]):
    """The loss at a point, whose logits are computed anew, and the excess of a multiple of the dual point there."""

    sums = ("_loss", "_curvature", "_excess", "_noise", "_additions")

    def __init__(self, rows: HeldRows, point: Tensor | None, scale: float) -> None:
        """``point`` (K, W + 1), the intercept first; ``None`` for the logits as they are."""
        super().__init__(rows)
        self._point, self._scale = point, scale
        k = self.problem.num_outputs
        self._loss, self._excess, self._noise, self._additions = (self.zeros() for _ in range(4))
        self._curvature = self.zeros(k, k)

    @property
    def needs_columns(self) -> bool:
        """Whether logits are computed."""
        return self._point is not None

    def take(self, part: slice, columns: Tensor) -> None:
        """Adds the terms of some rows; stores their logits."""
        rows, loss = self.rows, self.problem.loss
        if self._point is not None:
            rows.logits[part] = (self._point @ columns).T
            if rows.offset is not None:
                rows.logits[part] += rows.offset[part]
        logits, theta = rows.logits[part], rows.theta[part] * self._scale
        values, _, curvature = loss.evaluate(logits, rows.labels[part])
        excess, noise = fenchel_young(loss, values, logits, theta, self.targets(part))
        sums = total_over_rows(self.weighted(part, torch.stack([values, excess, noise], dim=1)))
        self._loss += sums[0]
        self._excess += sums[1]
        self._noise += sums[2]
        self._curvature += self.joint_curvature(part, curvature)
        self._additions += additions_of(len(values))

    def result(self) -> HeldDual:
        """The sums in units of f."""
        share = self.problem.row_sum_scale
        return HeldDual(
            float(self._loss) * share,
            self._curvature * share,
            float(self._excess) * share,
            float(self._noise) * share,
            longest_sum(self.problem) + float(self._additions),
        )


class SumsOfTheta(NamedTuple):
    """The sums of a dual point over the rows."""

    slopes: Tensor
    """The sums of theta x and of theta in units of f, (K, D + 1)."""
    additions: float
    """As of `Derivatives`."""


class DualSlopes(Pass[SumsOfTheta]):
    """The sums of theta x over all rows, for the dual point of held rows and all features."""

    sums = ("_sums", "_ones", "_additions")
    takes_sparse = True

    def __init__(self, rows: HeldRows) -> None:
        super().__init__(rows.problem, rows.coordinates, torch.float64)
        self.rows, self._first = rows, 0
        k, d = self.problem.num_outputs, self.problem.num_features
        self._sums, self._ones, self._additions = self.zeros(k, d), self.zeros(k), self.zeros()

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds theta times the features of some rows."""
        part = slice(self._first, self._first + len(rows.labels))
        self._first = part.stop
        theta = self.rows.theta[part]
        theta = theta if self.rows.weights is None else theta * self.rows.weights[part]
        is_cold = self.problem.numel >= MIN_COLD_NUMEL and not self.problem.is_sparse
        if is_cold:  # a part that was converted to float64 is in the cache
            is_cold = rows.features.nbytes > PART_BYTES[torch.float64]
        add_up = sum_over_cold_rows if is_cold else sum_over_rows
        self._sums += add_up(theta, rows.features)
        self._ones += total_over_rows(theta)
        self._additions += additions_of(len(theta))

    def result(self) -> SumsOfTheta:
        """The sums over the rows of all processes."""
        slopes = self.moments(self._sums, self._ones) * self.problem.row_sum_scale
        return SumsOfTheta(slopes, longest_sum(self.problem) + float(self._additions))
