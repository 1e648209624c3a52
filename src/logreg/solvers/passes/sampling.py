"""Passes that see a sample of the rows: one block of it, or stochastic gradient descent."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.rows import part_rows, parts
from logreg.solvers.passes.base import Pass, PreparedRows
from logreg.solvers.problem import Coordinates, Problem


class Sample(Pass[Batch]):
    """Rows of the first block themselves."""

    mixed = True

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, problem.model)
        self._block: Batch | None = None

    def add(self, block: Batch) -> None:
        """Keeps of it what may be copied, evenly.  Sets: done."""
        every = slice(None, None, max(1, -(-len(block.labels) // part_rows(block.features.shape[1], torch.float32))))
        weights = None if block.sample_weight is None else block.sample_weight[every]
        self._block, self.done = Batch(block.features[every], block.labels[every], weights), True

    def result(self) -> Batch:
        """The block."""
        assert self._block is not None
        return self._block


class Stochastic(Pass[Tensor]):
    """A pass of stochastic gradient descent in small batches, one of several with a step that falls to zero."""

    mixed = True
    batch_size = 256
    together = 2
    """Batches that are centered at once."""

    def __init__(
        self, problem: Problem, coordinates: Coordinates, point: Tensor, step: float, number: int = 0, passes: int = 1
    ) -> None:
        """The pass of this ``number``, out of ``passes``."""
        super().__init__(problem, coordinates)
        self._coef, self._intercept = point[:, :-1].to(self.dtype).clone(), point[:, -1].to(self.dtype).clone()
        self._decay = problem.penalties(coordinates)[0][:-1].to(self.dtype) / (
            problem.row_sum_scale * problem.total_weight
        )
        self._step, self._seen, self._all = step, number * problem.rows, passes * problem.rows
        self._center, self._invert = coordinates.center.to(self.dtype), (1 / coordinates.scale).to(self.dtype)

    def add(self, block: Batch) -> None:
        """Takes one block of rows, a few batches at a time."""
        for part in parts(block, self.together * self.batch_size):
            super().add(part)

    def gather(self, rows: PreparedRows) -> None:
        """Steps through the batches."""
        problem, loss = self.problem, self.problem.loss
        features = rows.features if self._shift is not None else (rows.features - self._center).mul_(self._invert)
        size, mean_weight = self.batch_size, problem.total_weight / problem.rows
        weights = [None] * math.ceil(len(features) / size) if rows.weights is None else rows.weights.split(size)
        for x, y, weight in zip(features.split(size), rows.targets.split(size), weights, strict=True):
            step = self._step * (1 + math.cos(math.pi * min(self._seen / self._all, 1.0))) / 2
            residuals = loss.residual(torch.addmm(self._intercept.unsqueeze(1), self._coef, x.T).T, y)
            if weight is not None:
                residuals.mul_(weight)
            scale = -step / (len(x) * mean_weight)
            self._coef.addcmul_(self._coef, self._decay, value=-step).addmm_(residuals.T, x, alpha=scale)
            if problem.intercept:
                self._intercept.add_(residuals.sum(0), alpha=scale)
            self._seen += len(x)

    def result(self) -> Tensor:
        """The point, (K, D + 1)."""
        return torch.cat([self._coef, self._intercept.unsqueeze(1)], dim=1).double()
