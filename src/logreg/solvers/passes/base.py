"""A pass over the rows, and its driver.

A solver is a generator (reverse communication, as in ARPACK).  It yields a `Pass`, the caller feeds the rows to the
pass block by block, and the solver continues with the sums.  A solver therefore holds no rows, and the same code serves
rows in memory (`logreg.solvers.fit.fit`), rows from Lightning (`logreg.training.module`) and rows that several
processes share.

A point is one tensor of shape (K, D + 1): the coefficients, and the intercept as the last column; always in float64.
Blocks are computed in the problem's floating type and summed over blocks in float64.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from logreg.csr import converted, is_sparse
from logreg.facts import Batch
from logreg.losses import one_vs_rest
from logreg.processes import Accumulators, Processes
from logreg.rows import RowSource, logit_rows, part_rows, parts, row_weights, sparse_part_rows
from logreg.solvers.kernels import affine
from logreg.solvers.problem import Coordinates, Problem

MAX_FOLDED_MEAN = {torch.float32: 10.0, torch.float64: 1e3}
"""Largest |mean| of a feature, in standard deviations, that is subtracted from sums and not from every row: the sums
then lose about one digit in float32, and three in float64."""


class _Space(threading.local):
    """Memory for one block of converted features, of each type and for each thread.

    A block in memory of its own would take as long to be mapped by the system as to be computed with.
    """

    def __init__(self) -> None:
        self.of_type: dict[torch.dtype, Tensor] = {}


_SPACE = _Space()


class PreparedRows(NamedTuple):
    """A block after conversion, as `Pass.accumulate` takes it; the next block may take the memory of its features."""

    features: Tensor
    """Shape (n, D), in the coordinates of the pass."""
    labels: Tensor
    """Shape (n,)."""
    weights: Tensor | None
    """Shape (n, 1)."""
    outputs: int
    """K."""
    offset: Tensor | None = None
    """Shape (n, 1)."""
    positions: Tensor | None = None
    """Positions of the rows in the split, (n,), int64."""

    def at(self, places: Tensor) -> PreparedRows:
        """The rows at some places, (m,): a copy."""
        features, labels, weights, outputs, *others = self
        rest = (None if one is None else one[places] for one in (weights, *others))
        return PreparedRows(features[places], labels[places], next(rest), outputs, *rest)

    @property
    def targets(self) -> Tensor:
        """Shape (n, K); computed at each access, since many passes do not use targets.

        They lie in memory as the logits of `logreg.solvers.kernels.affine` do.
        """
        if self.outputs == 1 or self.features.device.type != "cpu":
            return one_vs_rest(self.labels, self.outputs, self.features.dtype)
        targets = self.labels.new_zeros(self.outputs, len(self.labels), dtype=self.features.dtype)
        return targets.scatter_(0, self.labels.unsqueeze(0), 1.0).T

    def logits(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """Logits (n, K) of coef (K, D) and intercept (K,), with the offset of each row."""
        logits = affine(self.features, coef, intercept)
        return logits if self.offset is None else logits.add_(self.offset)


Result = TypeVar("Result")


class Pass(Generic[Result]):
    """A streaming reduction over all training rows; subclasses define what is accumulated.

    A subclass names its accumulators in ``sums``, ``maxima`` and ``samples``: attributes that start at the neutral
    element and that `accumulate` updates block by block.  `run_pass` reads the blocks and combines the accumulators of
    several processes; `result` then computes the result from the accumulators of all rows.

    Attributes:
        sums: Names of attributes that are added over processes: tensors, or ``None`` where a sum is not computed.
        maxima: Names of attributes of which the elementwise maximum over processes is taken.
        samples: Names of attributes that are lists and are concatenated over processes.
        dtype: Floating type of the arithmetic within a block.
        every: One row in so many is enough, 0 for none; see `RowSource.blocks`.
        copies: Whether features are copied.
        takes_sparse: Whether `accumulate` takes sparse features, from whose sums the mean is subtracted; else it gets
            them as dense ones, a few rows at a time.
    """

    sums: ClassVar[tuple[str, ...]] = ()
    maxima: ClassVar[tuple[str, ...]] = ()
    samples: ClassVar[tuple[str, ...]] = ()
    every = 1
    copies = False
    takes_sparse = False

    def __init__(
        self,
        problem: Problem,
        coordinates: Coordinates,
        dtype: torch.dtype | None = None,
        deviation: Tensor | None = None,
    ) -> None:
        """``deviation`` (D,) approximates the standard deviation of the features; by default the coordinates' scale."""
        self.problem, self.coordinates, self.dtype = problem, coordinates, dtype or problem.dtype
        # The mean is subtracted from the sums where the floating type has enough digits, else from every row.
        deviation = coordinates.scale if deviation is None else deviation
        far = bool((coordinates.center.abs() > MAX_FOLDED_MEAN[self.dtype] * deviation).any())
        self._shift: tuple[Tensor, Tensor] | None = None
        self._fold = coordinates
        if far and not (problem.is_sparse and self.takes_sparse):
            center, by = coordinates.center.to(self.dtype), (1 / coordinates.scale).to(self.dtype)
            self._shift = center, by
            # After a shift, only the rounding errors of center and scale are left to correct.
            center, by = coordinates.center - center.double(), by.double()
            self._fold = Coordinates(center * by, coordinates.scale * by)

    @property
    def is_full(self) -> bool:
        """Whether it needs all rows, and so counts as a pass; others take a sample, or none."""
        return self.every == 1

    def add(self, block: Batch) -> None:
        """Takes one block of rows, features in source units."""
        features, rows = block.features, len(block.labels)
        of_logits = logit_rows(self.problem.num_outputs, self.dtype, features.device)
        stays_sparse = is_sparse(features) and self.takes_sparse
        if stays_sparse:
            rows = sparse_part_rows(features.shape[1])
        elif self.copies or self._shift is not None or features.dtype != self.dtype or is_sparse(features):
            rows = min(part_rows(features.shape[1], self.dtype), of_logits)
        else:
            rows = min(rows, of_logits)
        for part in parts(block, rows, dense=not stays_sparse):
            self._take(part)

    def _take(self, block: Batch) -> None:
        features = self._converted(block.features)
        if self._shift is not None:
            features = (features - self._shift[0]).mul_(self._shift[1])
        weights = row_weights(block, self.problem.class_weight, self.dtype)
        weights = None if weights is None else weights.unsqueeze(1)
        offset = None if block.offset is None else block.offset.to(self.dtype).unsqueeze(1)
        outputs = self.problem.num_outputs
        self.accumulate(PreparedRows(features, block.labels, weights, outputs, offset, block.positions))

    def _converted(self, features: Tensor) -> Tensor:
        """Features in the type of the pass; those of the blocks of all passes of a thread share their memory."""
        if is_sparse(features) or features.dtype == self.dtype or features.device.type != "cpu":
            return converted(features, self.dtype)
        space = _SPACE.of_type.get(self.dtype)
        if space is None or space.numel() < features.numel():
            space = _SPACE.of_type[self.dtype] = torch.empty(features.numel(), dtype=self.dtype)
        return space[: features.numel()].view(features.shape).copy_(features)

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the contribution of these rows to the accumulators."""
        raise NotImplementedError

    def finish(self) -> None:
        """Completes the accumulators after the last block of this process; most are complete."""

    def reduce(self, processes: Processes) -> None:
        """Replaces the accumulators of this process by those of all processes."""
        own = Accumulators(
            self._tensors(self.sums), self._tensors(self.maxima), {n: getattr(self, n) for n in self.samples}
        )
        total = processes.reduce(own)
        for name, value in (*total.sums.items(), *total.maxima.items(), *total.samples.items()):
            setattr(self, name, value)

    def _tensors(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}

    def result(self) -> Result:
        """The result over the rows of all processes."""
        raise NotImplementedError

    def zeros(self, *shape: int) -> Tensor:
        """A sum of no terms: zeros in float64."""
        return self.coordinates.center.new_zeros(shape)

    def linear(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """``coef`` (K, D) and ``intercept`` (K,) of ``point`` for the features that `accumulate` gets."""
        center, scale = self._fold
        coef = point[:, :-1] / scale
        return coef.to(self.dtype), (point[:, -1] - coef @ center).to(self.dtype)

    def frame_change(self) -> Tensor:
        """The matrix T (D + 1, D + 1) with x = T' x', from the features x' that `accumulate` gets to the coordinates.

        Both have a 1 for the intercept, so that a sum of products of rows is T' (sum of x' x'') T.
        """
        center, scale = self._fold
        change = torch.diag(torch.cat([1 / scale, scale.new_ones(1)]))
        change[-1, :-1] = -center / scale  # x_j = x'_j / scale_j - center_j / scale_j * 1
        return change

    def moments(self, of_features: Tensor, of_ones: Tensor) -> Tensor:
        """Sums over rows in the coordinates of the pass, (K, D + 1).

        Args:
            of_features: Sums of numbers times the features that `accumulate` gets, (K, D).
            of_ones: Sums of the numbers, (K,).
        """
        center, scale = self._fold
        sums = self.zeros(*of_ones.shape, len(center) + 1)
        torch.addcmul(of_features, of_ones.unsqueeze(-1), center, value=-1.0, out=sums[..., :-1]).div_(scale)
        if self.problem.intercept:  # without one it stays 0
            sums[..., -1] = of_ones
        return sums


PassRequests = Generator[Pass[Any], None, Result]
"""A solver, or a step of one: a generator that yields passes and returns a result."""


def request(requested: Pass[Result]) -> PassRequests[Result]:
    """Requests one pass and returns its result."""
    yield requested
    return requested.result()


def run_pass(source: RowSource, requested: Pass[Any]) -> None:
    """Makes a pass over the rows of this process, and combines the accumulators of all that share the split."""
    for block in source.blocks(requested.every) if requested.every else ():
        requested.add(block)
    finish_pass(requested, source.processes)


def finish_pass(requested: Pass[Any], processes: Processes | None = None) -> None:
    """Ends a pass whose blocks have been added: the only place where processes exchange numbers."""
    requested.finish()
    if processes is not None:
        requested.reduce(processes)


def drive(requests: PassRequests[Result], source: RowSource) -> Result:
    """Makes every pass that is requested, and returns the result at the end."""
    try:
        while True:
            run_pass(source, next(requests))
    except StopIteration as end:
        result: Result = end.value
        return result
