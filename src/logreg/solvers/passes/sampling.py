"""A sample of the rows, and a pass of stochastic gradient descent."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.csr import is_sparse
from logreg.facts import Batch
from logreg.processes import Processes
from logreg.rows import chosen_rows, joined, part_rows, parts
from logreg.solvers.passes.base import Pass, PreparedRows
from logreg.solvers.passes.precise import weighing_rows
from logreg.solvers.problem import Coordinates, Problem


class RowSample(Pass[Batch]):
    """A sample of the rows: evenly spaced rows of the first block of each process, together as many as `part_rows`.

    Rows of weight 0 are left out, and so is a first block that has no others: it would show nothing of f.  The
    features of the sample are dense.
    """

    samples = ("_blocks",)
    interleaved = ends_early = True

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, problem.model)
        self._blocks: list[Batch] = []

    def add(self, block: Batch) -> None:
        """Keeps rows of the first block that weighs, and sets ``done``."""
        block = weighing_rows(block, self.problem)
        if len(block.labels):
            self._blocks.append(self._thinned(block))
            self.done = True

    def reduce(self, processes: Processes) -> None:
        """Joins the samples of all processes; each sends its part of what will be kept."""
        self._blocks = [self._thinned(block, processes.size) for block in self._blocks]
        super().reduce(processes)

    def result(self) -> Batch:
        """The rows, in the order of the processes."""
        return self._blocks[0] if len(self._blocks) == 1 else joined(self._blocks)

    @staticmethod
    def _thinned(block: Batch, processes: int = 1) -> Batch:
        step = max(1, -(-len(block.labels) * processes // part_rows(block.features.shape[1], torch.float32)))
        if is_sparse(block.features):
            few = chosen_rows(block, torch.arange(0, len(block.labels), step))
            return few._replace(features=few.features.to_dense())
        return chosen_rows(block, slice(None, None, step))


class StochasticDescent(Pass[Tensor]):
    """A pass of stochastic gradient descent in small batches, one of several with a step that falls to zero.

    Each of several processes descends on its own rows; the result is the mean of their points.
    """

    sums = ("_coef", "_intercept", "_processes")
    interleaved = True
    batch_size = 256
    batches_per_copy = 2
    """Number of batches whose features are centered in one copy."""

    def __init__(
        self, problem: Problem, coordinates: Coordinates, point: Tensor, step: float, number: int = 0, passes: int = 1
    ) -> None:
        """``number`` counts the passes from 0; the step falls from ``step`` to 0 (cosine) over all ``passes``."""
        super().__init__(problem, coordinates)
        self._coef, self._intercept = point[:, :-1].to(self.dtype).clone(), point[:, -1].to(self.dtype).clone()
        self._decay = problem.penalties(coordinates)[0][:-1].to(self.dtype) / (
            problem.row_sum_scale * problem.total_weight
        )
        self._step, self._seen, self._all = step, number * problem.rows, passes * problem.rows
        self._center, self._invert = coordinates.center.to(self.dtype), (1 / coordinates.scale).to(self.dtype)
        self._processes = self.zeros()

    def add(self, block: Batch) -> None:
        """Takes one block of rows, a few batches at a time."""
        self._processes.fill_(1)
        for part in parts(block, self.batches_per_copy * self.batch_size, dense=True):
            super().add(part)

    def accumulate(self, rows: PreparedRows) -> None:
        """Takes one step for each batch."""
        problem, loss = self.problem, self.problem.loss
        features = rows.features if self._shift is not None else (rows.features - self._center).mul_(self._invert)
        size, mean_weight = self.batch_size, problem.total_weight / problem.rows
        weights = [None] * math.ceil(len(features) / size) if rows.weights is None else rows.weights.split(size)
        offsets = [None] * len(weights) if rows.offset is None else rows.offset.split(size)
        for x, y, weight, offset in zip(features.split(size), rows.targets.split(size), weights, offsets, strict=True):
            step = self._step * (1 + math.cos(math.pi * min(self._seen / self._all, 1.0))) / 2
            logits = torch.addmm(self._intercept.unsqueeze(1), self._coef, x.T).T
            residuals = loss.residual(logits if offset is None else logits + offset, y)
            if weight is not None:
                residuals.mul_(weight)
            scale = -step / (len(x) * mean_weight)
            self._coef.addcmul_(self._coef, self._decay, value=-step).addmm_(residuals.T, x, alpha=scale)
            if problem.intercept:
                self._intercept.add_(residuals.sum(0), alpha=scale)
            self._seen += len(x)

    def finish(self) -> None:
        """Sets the point to 0 where this process has no rows, so that it adds nothing to the mean."""
        if not self._processes:
            self._coef.zero_()
            self._intercept.zero_()

    def result(self) -> Tensor:
        """The mean of the points of the processes that have rows, (K, D + 1)."""
        return torch.cat([self._coef, self._intercept.unsqueeze(1)], dim=1).double() / self._processes
