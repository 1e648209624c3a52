"""A sample of the rows, and stochastic gradient descent on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.losses import one_vs_rest
from logreg.rows import chosen_rows, joined, made_dense, part_rows, row_weights
from logreg.solvers.passes.base import Pass, PassRequests, request
from logreg.solvers.passes.precise import weighing_rows
from logreg.solvers.problem import Coordinates, Problem

BATCH_SIZE = 256
"""Rows of a step of stochastic gradient descent, at most."""

LEAST_ODD_SPACING = 8
"""Rows from one row of a sample to the next, above which their number is odd: rows that come in pairs, as cases and
controls do, or repeat a pattern of even length, such as the hours of a day, are then not all alike."""


class RowSample(Pass[Batch]):
    """One row in ``every``, in the order of their positions: the same ones, whichever process has them.

    Rows of weight 0 are left out, since they show nothing of f.  The features of the sample are dense.
    """

    samples = ("_blocks",)
    is_full = False  # also where it takes all of few rows

    def __init__(self, problem: Problem, every: int) -> None:
        super().__init__(problem, problem.model)
        self.every, self._blocks = every, list[Batch]()

    def add(self, block: Batch) -> None:
        """Keeps the rows of a block that weigh."""
        block = weighing_rows(block, self.problem)
        if len(block.labels):
            self._blocks.append(made_dense(block))

    def result(self) -> Batch:
        """The rows of all processes."""
        if not self._blocks:
            return Batch(self.zeros(0, self.problem.num_features), self.problem.model.center.new_zeros(0).long())
        return self._blocks[0] if len(self._blocks) == 1 else joined(self._blocks)


def sampled_rows(problem: Problem, times: int = 1) -> PassRequests[Batch]:
    """A sample of the rows, evenly spaced: at most so many times `part_rows`, and about half as many at least.

    Where less than half of its rows weigh, more rows are read.
    """
    most = times * part_rows(problem.num_features, torch.float32)
    every = max(1, -(-problem.rows // most))
    while True:
        every |= int(every > LEAST_ODD_SPACING)
        sample = yield from request(RowSample(problem, every))
        if every == 1 or 2 * len(sample.labels) >= most:
            return thinned(sample, min(most, len(sample.labels)))
        every //= 2


def thinned(sample: Batch, rows: int) -> Batch:
    """So many rows of a sample, evenly spaced: a copy, unless these are all."""
    if rows == len(sample.labels):
        return sample
    some = torch.arange(rows, device=sample.labels.device) * len(sample.labels) // rows
    return chosen_rows(sample, some)


def stochastic_descent(problem: Problem, coordinates: Coordinates, sample: Batch, step: float, steps: int) -> Tensor:
    """The end of stochastic gradient descent from zero, with a step that falls to zero, (K, D + 1) in float64.

    Args:
        problem: The problem over the sample, whose objective is a mean.
        coordinates: The coordinates of the steps.
        sample: The rows; each batch is evenly spaced over them, since neighbors are often alike.
        step: The first step; it falls to 0 (cosine).
        steps: Number of steps, each with the next batch; after the last batch comes the first one again.
    """
    dtype, loss, outputs = problem.dtype, problem.loss, problem.num_outputs
    point = problem.zeros().to(dtype)
    coef, intercept = point[:, :-1].contiguous(), point[:, -1].contiguous()
    decay = problem.penalties(coordinates)[0][:-1].to(dtype)
    center, invert = coordinates.center.to(dtype), (1 / coordinates.scale).to(dtype)
    batches, mean_weight = -(-len(sample.labels) // BATCH_SIZE), problem.total_weight / problem.rows
    parts = []
    for first in range(min(batches, steps)):  # prepared once, since each serves several steps
        batch = chosen_rows(sample, slice(first, None, batches))
        offset = None if batch.offset is None else batch.offset.to(dtype).unsqueeze(1)
        weights = row_weights(batch, problem.class_weight, dtype)
        x = (batch.features.to(dtype) - center).mul_(invert)
        parts.append((x, one_vs_rest(batch.labels, outputs, dtype), weights, offset))
    for number in range(steps):
        length = step * (1 + math.cos(math.pi * number / steps)) / 2
        x, targets, weights, offset = parts[number % batches]
        logits = torch.addmm(intercept.unsqueeze(1), coef, x.T).T
        residuals = loss.residual(logits if offset is None else logits + offset, targets)
        if weights is not None:
            residuals.mul_(weights.unsqueeze(1))
        scale = -length / (len(x) * mean_weight)
        coef.addcmul_(coef, decay, value=-length).addmm_(residuals.T, x, alpha=scale)
        if problem.intercept:
            intercept.add_(residuals.sum(0), alpha=scale)
    return torch.cat([coef, intercept.unsqueeze(1)], dim=1).double()
