"""What a pass over the rows is, and the one driver that makes it.

A solver is a generator (reverse communication).  It yields a `Pass`; whoever has the rows shows them to it block by
block, and the solver goes on with what was summed.  So it needs no closure, holds no rows, and does not know whether
they lie in memory (`logreg.solvers.fit.fit`) or come from Lightning (`logreg.training.module`).

A point is one tensor of shape (K, D + 1): the coefficients, and the intercept as the last column; always in float64.
Blocks are computed in the problem's floating type and summed over blocks in float64.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.losses import one_vs_rest
from logreg.rows import RowSource, part_rows, parts, row_weights
from logreg.solvers.problem import Coordinates, Problem

FOLDED = {torch.float32: 10.0, torch.float64: 1e3}
"""Deviations between zero and the mean of a feature up to which the mean may be subtracted after multiplying."""


class PreparedRows(NamedTuple):
    """A block, ready to be computed with."""

    features: Tensor
    """Shape (n, D), in the coordinates that the pass works in."""
    labels: Tensor
    """Shape (n,)."""
    weights: Tensor | None
    """Shape (n, 1)."""
    outputs: int
    """K."""

    @property
    def targets(self) -> Tensor:
        """Shape (n, K); made anew each time, since many passes need none."""
        return one_vs_rest(self.labels, self.outputs, self.features.dtype)


Result = TypeVar("Result")


class Pass(Generic[Result]):
    """A requested to the rows; each kind below adds up its own answer.

    Attributes:
        dtype: Floating type of the arithmetic within a block.
        done: Whether enough rows were seen; most kinds want all of them.
        mixed: Whether each block should be a sample of all rows.
        copies: Whether features are copied.
    """

    done = False
    mixed = False
    copies = False

    def __init__(
        self,
        problem: Problem,
        coordinates: Coordinates,
        dtype: torch.dtype | None = None,
        deviation: Tensor | None = None,
    ) -> None:
        """``deviation`` (D,) is about that of the features, where it is not the coordinates's scale."""
        self.problem, self.coordinates, self.dtype = problem, coordinates, dtype or problem.dtype
        # The mean is subtracted from the sums where the floating type can afford it, else from every row.
        center, by = coordinates.center.to(self.dtype), (1 / coordinates.scale).to(self.dtype)
        deviation = coordinates.scale if deviation is None else deviation
        far = bool((coordinates.center.abs() > FOLDED[self.dtype] * deviation).any())
        self._shift = (center, by) if far else None
        # What is left to do after a shift is what rounding kept from it.
        rest = Coordinates((coordinates.center - center.double()) * by.double(), coordinates.scale * by.double())
        self._fold = rest if far else coordinates

    def add(self, block: Batch) -> None:
        """Takes one block of rows, features in source units."""
        rows = len(block.labels)
        if self.copies or self._shift is not None or block.features.dtype != self.dtype:
            rows = part_rows(block.features.shape[1], self.dtype)
        for part in parts(block, rows):
            self._take(part)

    def _take(self, block: Batch) -> None:
        features = block.features.to(self.dtype)
        if self._shift is not None:
            features = (features - self._shift[0]).mul_(self._shift[1])
        weights = row_weights(block, self.problem.class_weight, self.dtype)
        weights = None if weights is None else weights.unsqueeze(1)
        self.gather(PreparedRows(features, block.labels, weights, self.problem.num_outputs))

    def gather(self, rows: PreparedRows) -> None:
        """Adds the rows' share to the sums."""
        raise NotImplementedError

    def result(self) -> Result:
        """What all rows together say."""
        raise NotImplementedError

    def zeros(self, *shape: int) -> Tensor:
        """A sum in float64 where nothing is added yet."""
        return self.coordinates.center.new_zeros(shape)

    def linear(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """(K, D) and (K,) such that logits of features as they are seen are features @ coef.T + intercept."""
        center, scale = self._fold
        coef = point[:, :-1] / scale
        return coef.to(self.dtype), (point[:, -1] - coef @ center).to(self.dtype)

    def moments(self, of_features: Tensor, of_ones: Tensor) -> Tensor:
        """Sums (K, D) against features as they are seen and sums (K,) of the same -> (K, D + 1) in the coordinates."""
        center, scale = self._fold
        if not self.problem.intercept:  # nothing ever moves it away from 0
            zero = torch.zeros_like(of_ones.unsqueeze(-1))
            return torch.cat([(of_features - of_ones.unsqueeze(-1) * center) / scale, zero], dim=-1)
        return torch.cat([(of_features - of_ones.unsqueeze(-1) * center) / scale, of_ones.unsqueeze(-1)], dim=-1)


PassRequests = Generator[Pass[Any], None, Result]
"""What an exact optimizer is: it yields passes, and returns its answer."""


def request(requested: Pass[Result]) -> PassRequests[Result]:
    """Has a pass made, and returns what it gathered."""
    yield requested
    return requested.result()


def gather(rows: RowSource, requested: Pass[Any]) -> None:
    """Shows the rows to a pass."""
    for block in rows(requested.mixed):
        requested.add(block)
        if requested.done:
            return


def drive(requests: PassRequests[Result], rows: RowSource) -> Result:
    """Makes every pass that is asked for, and returns the answer at the end."""
    try:
        while True:
            gather(rows, next(requests))
    except StopIteration as end:
        answer: Result = end.value
        return answer
