"""What an exact optimizer asks of the rows: sums over one pass, gathered block by block.

An exact optimizer is a generator.  It yields a `Pass`, whoever has the rows shows them to it block by block, and the
optimizer goes on with what was gathered.  So it needs no closure, holds no rows, and does not know whether they lie in
memory (`logreg.optim.exact.fit`) or come from Lightning (`logreg.module`).

A point is one tensor of shape (K, D + 1): the coefficients, and the intercept as the last column; always in float64.
Blocks are computed in the problem's floating type and summed over blocks in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.kernels import add_lower_triangle, affine, sum_over_rows
from logreg.losses import Loss, one_vs_rest
from logreg.objective import Objective

BLOCK_BYTES = 32 * 2**20
"""Size of a block of features in float32: so large that what is done once for each costs little."""

BLOCK_ROWS = 16_384
"""Rows of a block at most."""

PART_BYTES = {torch.float32: 6 * 2**20, torch.float64: 3 * 2**20}
"""Size of a part of it, where features are copied: the copy stays in the cache of common processors."""

COPIED = 2**18
"""Numbers of a sample that are copied at once."""

ONE_THREAD_FLOP = 2e6
"""Floating-point operations below which one thread does them: about 0.05 ms of work."""

FOLDED = {torch.float32: 10.0, torch.float64: 1e3}
"""Deviations between zero and the mean of a feature up to which the mean may be subtracted after multiplying."""


class Frame(NamedTuple):
    """Coordinates for the features: (features - center) / scale; a change of frame changes no logit."""

    center: Tensor
    """Shape (D,), float64, in source units."""
    scale: Tensor
    """Shape (D,), float64, > 0."""

    def to(self, other: Frame, point: Tensor) -> Tensor:
        """The point (K, D + 1) of this frame as the other one has it."""
        coef = point[:, :-1] / self.scale
        intercept = point[:, -1] - coef @ self.center + coef @ other.center
        return torch.cat([coef * other.scale, intercept.unsqueeze(1)], dim=1)

    def gradient_to(self, other: Frame, gradient: Tensor) -> Tensor:
        """The gradient (K, D + 1) by this frame's coordinates -> by the other's."""
        by_intercept = gradient[:, -1:]
        coef = gradient[:, :-1] * self.scale + by_intercept * (self.center - other.center)
        return torch.cat([coef / other.scale, by_intercept], dim=1)


@dataclass(frozen=True)
class Problem:
    """The objective over the rows of one train split: all that an optimizer knows of them.

    Attributes:
        objective: What is minimised.
        rows: N.
        total_weight: Sum over the rows of what each weighs in the loss.
        num_outputs: K.
        model: The frame that the coefficients are penalised and reported in.
        class_weight: Weight of each class in the loss, or empty.
        dtype: Floating type of the arithmetic within a block.
        intercept: Whether there is one; else it is 0.
    """

    objective: Objective
    rows: int
    total_weight: float
    num_outputs: int
    model: Frame
    class_weight: tuple[float, ...] = ()
    dtype: torch.dtype = torch.float32
    intercept: bool = True

    @property
    def num_features(self) -> int:
        """D."""
        return len(self.model.center)

    @property
    def num_parameters(self) -> int:
        """K * (D + 1)."""
        return self.num_outputs * (self.num_features + 1)

    @property
    def share(self) -> float:
        """What a sum over the rows is multiplied by in the objective."""
        return 1.0 if self.objective.reduction == "sum" else 1.0 / self.total_weight

    @property
    def loss(self) -> Loss:
        """Of a row."""
        return self.objective.row_loss

    @property
    def coupled(self) -> bool:
        """Whether the outputs share one loss (a softmax); else each is a problem of its own."""
        return self.loss.couples_outputs

    @property
    def dependent(self) -> int:
        """How many parameters depend on each other through the Hessian: all, or those of one output."""
        return self.num_parameters if self.coupled else self.num_features + 1

    def zeros(self) -> Tensor:
        """The point of all zeros, (K, D + 1)."""
        return self.model.center.new_zeros(self.num_outputs, self.num_features + 1)

    def penalties(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Strength of l2 and of l1 on each coordinate of a point in a frame, (D + 1,) each; the intercept's is 0."""
        ratio = self.model.scale / frame.scale
        zero = ratio.new_zeros(1)
        return (
            torch.cat([self.objective.l2 * ratio * ratio, zero]),
            torch.cat([self.objective.l1 * ratio, zero]),
        )

    def sub(self, sample: Batch) -> Problem:
        """The same problem over a sample of the rows."""
        weights = row_weights(sample, self.class_weight, torch.float64)
        return self.part(len(sample.labels), float(len(sample.labels) if weights is None else weights.sum()))

    def part(self, rows: int, total: float) -> Problem:
        """The same problem over so many of the rows that weigh so much in the loss."""
        objective = self.objective
        if objective.reduction == "sum":  # the data term of a sample is smaller
            l2, l1 = objective.l2 / self.total_weight, objective.l1 / self.total_weight
            objective = replace(objective, reduction="mean", l2=l2, l1=l1)
        return replace(self, objective=objective, rows=rows, total_weight=total)


def row_weights(block: Batch, class_weight: tuple[float, ...], dtype: torch.dtype) -> Tensor | None:
    """What each row weighs in the loss, shape (n,); ``None`` for all 1."""
    weights = None if block.sample_weight is None else block.sample_weight.to(dtype)
    if not class_weight:
        return weights
    of_class = torch.tensor(class_weight, dtype=dtype, device=block.labels.device)[block.labels]
    return of_class if weights is None else of_class * weights


def parts(block: Batch, rows: int) -> Iterator[Batch]:
    """A block as several of that many rows, and one of the rest."""
    for first in range(0, len(block.labels), max(rows, 1)):
        part = slice(first, first + rows)
        weights = None if block.sample_weight is None else block.sample_weight[part]
        yield Batch(block.features[part], block.labels[part], weights)


def part_rows(features: int, dtype: torch.dtype) -> int:
    """How many rows of so many features may be copied at once."""
    return min(max(1, PART_BYTES[dtype] // max(features * dtype.itemsize, 1)), BLOCK_ROWS)


class Rows(NamedTuple):
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


Answer = TypeVar("Answer")


class Pass(Generic[Answer]):
    """A question to the rows; each kind below adds up its own answer.

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
        self, problem: Problem, frame: Frame, dtype: torch.dtype | None = None, deviation: Tensor | None = None
    ) -> None:
        """``deviation`` (D,) is about that of the features, where it is not the frame's scale."""
        self.problem, self.frame, self.dtype = problem, frame, dtype or problem.dtype
        # The mean is subtracted from the sums where the floating type can afford it, else from every row.
        center, by = frame.center.to(self.dtype), (1 / frame.scale).to(self.dtype)
        deviation = frame.scale if deviation is None else deviation
        far = bool((frame.center.abs() > FOLDED[self.dtype] * deviation).any())
        self._shift = (center, by) if far else None
        # What is left to do after a shift is what rounding kept from it.
        rest = Frame((frame.center - center.double()) * by.double(), frame.scale * by.double())
        self._fold = rest if far else frame

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
        self.gather(Rows(features, block.labels, weights, self.problem.num_outputs))

    def gather(self, rows: Rows) -> None:
        """Adds the rows' share to the sums."""
        raise NotImplementedError

    def result(self) -> Answer:
        """What all rows together say."""
        raise NotImplementedError

    def zeros(self, *shape: int) -> Tensor:
        """A sum in float64 where nothing is added yet."""
        return self.frame.center.new_zeros(shape)

    def linear(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """(K, D) and (K,) such that logits of features as they are seen are features @ coef.T + intercept."""
        center, scale = self._fold
        coef = point[:, :-1] / scale
        return coef.to(self.dtype), (point[:, -1] - coef @ center).to(self.dtype)

    def moments(self, of_features: Tensor, of_ones: Tensor) -> Tensor:
        """Sums (K, D) against features as they are seen and sums (K,) of the same -> (K, D + 1) in the frame."""
        center, scale = self._fold
        if not self.problem.intercept:  # nothing ever moves it away from 0
            zero = torch.zeros_like(of_ones.unsqueeze(-1))
            return torch.cat([(of_features - of_ones.unsqueeze(-1) * center) / scale, zero], dim=-1)
        return torch.cat([(of_features - of_ones.unsqueeze(-1) * center) / scale, of_ones.unsqueeze(-1)], dim=-1)


class Evaluation(NamedTuple):
    """The objective at a point."""

    value: float
    """f."""
    gradient: Tensor
    """Of the smooth part of f (without l1), shape (K, D + 1)."""
    curvature: Tensor
    """Second derivative of f by the intercepts: (K, K)."""
    loss: float
    """The data term of f."""
    hessian: Tensor | None = None
    """Of the smooth part of f, (K, D + 1, K, D + 1), or (K, D + 1, D + 1) where outputs are independent."""
    by_intercept: Tensor | None = None
    """Of the loss: how a move of its intercept changes each output's gradient, (K, D + 1)."""
    change: Tensor | None = None
    """Most that a row's logit has changed since another point, (K,); of a softmax a difference of two of them, (1,)."""


class Evaluate(Pass[Evaluation]):
    """The objective and its gradient at a point, and its Hessian if asked for."""

    def __init__(
        self,
        problem: Problem,
        frame: Frame,
        point: Tensor,
        dtype: torch.dtype | None = None,
        hessian: torch.dtype | None = None,
        since: Tensor | None = None,
    ) -> None:
        """``dtype`` is that of value and gradient, ``hessian`` that of the Hessian; ``None`` for no Hessian.

        From a point ``since`` whose Hessian is known, in the same frame, the change of the logits is told, and not
        what a certificate by duality needs.
        """
        super().__init__(problem, frame, dtype)
        self.point = point
        self._coef, self._intercept = self.linear(point)
        k, d = problem.num_outputs, problem.num_features
        self._change: Tensor | None = None
        if since is not None:  # one product for both, since a second one over the same features would cost as much
            both = zip((self._coef, self._intercept), self.linear(point - since), strict=True)
            self._coef, self._intercept = (torch.cat(pair) for pair in both)
            self._change = torch.zeros(1 if problem.coupled else k, dtype=self.dtype, device=point.device)
        self._loss = self.zeros()
        self._gradient, self._residuals = self.zeros(k, d), self.zeros(k)
        self._curvature = self.zeros(k, k)
        shape = ((k, d + 1, k, d + 1) if problem.coupled else (k, d + 1, d + 1)) if hessian is not None else (0,)
        self._hessian = self.zeros(*shape)
        self._wants, self.copies = hessian, hessian is not None
        # A certificate asks for it, and there each output's needs one more product alone.
        column = self.dtype == torch.float64 and not problem.coupled and since is None
        self._by_intercept = self.zeros(k, d) if column else None

    def gather(self, rows: Rows) -> None:
        """Loss, gradient and, over pairs of outputs, curvature."""
        features, weights = rows.features, rows.weights
        values, residuals, curvature = self.problem.loss.evaluate(self.logits(rows), rows.labels)
        self._loss += (values if weights is None else values * weights[:, 0]).sum(dtype=torch.float64)
        if weights is not None:
            residuals *= weights
        self._residuals += residuals.sum(0, dtype=torch.float64)
        spread = curvature if weights is None else curvature * weights
        if self.problem.coupled:
            self._gradient += sum_over_rows(residuals, features)
            self._curvature += torch.diag(spread.sum(0, dtype=torch.float64)) - spread.T @ curvature
            if self._wants is not None:
                self._add_joint_hessian(features.to(self._wants), curvature.to(self._wants), spread.to(self._wants))
            return
        ones = spread.sum(0, dtype=torch.float64)
        self._curvature += torch.diag(ones)
        if self._wants is None and self._by_intercept is None:
            self._gradient += sum_over_rows(residuals, features)
            return
        gradient, sums = sum_over_rows(torch.cat([residuals, spread], dim=1), features).chunk(2)
        self._gradient += gradient
        if self._by_intercept is not None:
            self._by_intercept += sums
        if self._wants is not None:
            self._add_hessians(features.to(self._wants), spread.to(self._wants), sums, ones)

    def logits(self, rows: Rows) -> Tensor:
        """Of a block's rows at the point, (n, K)."""
        logits = affine(rows.features, self._coef, self._intercept)
        if self._change is None:
            return logits
        logits, change = logits.chunk(2, dim=1)
        if rows.weights is not None:
            change = torch.where(rows.weights > 0, change, 0.0)
        most = (change.amax(1) - change.amin(1)).max() if self.problem.coupled else change.abs().amax(0)
        self._change = torch.maximum(self._change, most)
        return logits

    def _add_hessians(self, features: Tensor, spread: Tensor, sums: Tensor, ones: Tensor) -> None:
        d = self.problem.num_features
        for output, hessian in enumerate(self._hessian):
            hessian[:d, :d] += sum_over_rows(features, features * spread[:, output : output + 1])
            hessian[:d, d] += sums[output]
            hessian[d, :d] += sums[output]
            hessian[d, d] += ones[output]

    def _add_joint_hessian(self, features: Tensor, curvature: Tensor, spread: Tensor) -> None:
        k, d = self.problem.num_outputs, self.problem.num_features
        hessian = self._hessian
        ones = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        for output in range(k):
            of_pairs = -spread[:, output:] * curvature[:, output : output + 1]
            of_pairs[:, 0] += spread[:, output]
            weighted = (of_pairs.unsqueeze(2) * ones.unsqueeze(1)).flatten(1)
            block = sum_over_rows(ones, weighted).view(d + 1, k - output, d + 1).double()
            hessian[output, :, output:] += block
            if output + 1 < k:
                hessian[output + 1 :, :, output] += block[:, 1:].permute(1, 2, 0)

    def result(self) -> Evaluation:
        """What all rows together say."""
        problem, share = self.problem, self.problem.share
        l2, l1 = problem.penalties(self.frame)
        loss = float(self._loss) * share
        penalty = float((l2 / 2 * self.point.square() + l1 * self.point.abs()).sum())
        gradient = self.moments(self._gradient, self._residuals) * share + l2 * self.point
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
            column = self.moments(self._by_intercept, self._curvature.diagonal()) * share
        return Evaluation(loss + penalty, gradient, self._curvature * share, loss, hessian, column, self._change)

    def _in_frame(self, hessian: Tensor) -> Tensor:
        """The Hessian against features as they are seen -> in the frame: T' H T with x_frame = T' x."""
        d = self.problem.num_features
        center, scale = self._fold
        change = torch.diag(torch.cat([1 / scale, scale.new_ones(1)]))
        change[d, :d] = -center / scale  # x_frame_j = x_j / scale_j - center_j / scale_j * 1
        if not self.problem.coupled:
            return change.T @ hessian @ change
        return torch.einsum("kalb,ai,bj->kilj", hessian, change, change)


class EvaluateSome(Evaluate):
    """The same over some of the rows.

    It is never done: whoever shows the rows may begin the next pass where one is done, and that may want all of them.
    """

    mixed = True

    def __init__(self, problem: Problem, frame: Frame, point: Tensor, rows: int) -> None:
        """Sees about so many ``rows``."""
        super().__init__(problem, frame, point)
        self._rows, self._seen, self._weight = rows, 0, self.zeros()

    def add(self, block: Batch) -> None:
        """Takes one block of rows, as long as there are not enough."""
        if self._seen < self._rows:
            super().add(block)

    def gather(self, rows: Rows) -> None:
        """Counts them."""
        super().gather(rows)
        self._seen += len(rows.labels)
        self._weight += len(rows.labels) if rows.weights is None else rows.weights.sum(dtype=torch.float64)

    def result(self) -> Evaluation:
        """What those rows together say."""
        self.problem = self.problem.part(self._seen, max(float(self._weight), 1e-300))
        return super().result()


def diagonal_of(hessian: Tensor) -> Tensor:
    """A view of the diagonal of (K, P, K, P), shape (K, P)."""
    k, p = hessian.shape[:2]
    return hessian.view(k * p, k * p).diagonal().view(k, p)


Note = TypeVar("Note")


class Notes(Generic[Note]):
    """What passes keep of each block of rows for those after them, which must bring the same blocks."""

    def __init__(self) -> None:
        self._pages: list[tuple[Tensor, Note]] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._pages)

    def rewind(self) -> None:
        """A new pass begins."""
        self._next = 0

    def write(self, labels: Tensor, note: Note) -> None:
        """Keeps something of the block with these labels, (n,)."""
        self._pages.append((labels, note))

    def read(self, labels: Tensor) -> Note:
        """What was kept of the next block.

        Raises:
            RuntimeError: It is another block than it was.
        """
        if self._next >= len(self) or not torch.equal(self._pages[self._next][0], labels):
            raise RuntimeError(
                "an exact optimizer needs the same blocks of rows in every pass: do not shuffle, or give the "
                "TensorDataModule whole_passes_after=0"
            )
        self._next += 1
        return self._pages[self._next - 1][1]


class Product(Pass[Tensor]):
    """The Hessian at a point times a direction."""

    def __init__(self, problem: Problem, frame: Frame, point: Tensor, direction: Tensor, known: Notes[Tensor]) -> None:
        """``known`` are the curvatures at the point; where nothing is noted yet, this pass notes them."""
        super().__init__(problem, frame)
        self.direction = direction
        coef, intercept = self.linear(point)
        along, offset = self.linear(direction)
        self._first, self._known = not known, known
        known.rewind()
        if self._first:  # one product for both, since a second one over the same features would cost as much
            along, offset = torch.cat([along, coef]), torch.cat([offset, intercept])
        self._coef, self._intercept = along, offset
        k, d = problem.num_outputs, problem.num_features
        self._sums, self._ones = self.zeros(k, d), self.zeros(k)

    def gather(self, rows: Rows) -> None:
        """The change of the residuals along the direction, against the features."""
        features, labels, weights, _ = rows
        change = affine(features, self._coef, self._intercept)
        if self._first:
            change, logits = change.chunk(2, dim=1)
            curvature = self.problem.loss.curvature_at(logits, labels)
            self._known.write(labels, curvature)
        else:
            curvature = self._known.read(labels)
        change = self.problem.loss.curvature_product(curvature, change)
        if weights is not None:
            change = change * weights
        self._sums += sum_over_rows(change, features)
        self._ones += change.sum(0, dtype=torch.float64)

    def result(self) -> Tensor:
        """Shape (K, D + 1)."""
        l2, _ = self.problem.penalties(self.frame)
        return self.moments(self._sums, self._ones) * self.problem.share + l2 * self.direction


class SampledCurvature(Pass[Tensor]):
    """Each output's own Hessian block at a point, from rows drawn in proportion to their curvature.

    Row i counts for output k with probability q = min(1, rows * w_ik / sum_i w_ik), w its curvature, and then weighs
    w_ik / q: an unbiased estimate that spends its rows where there is curvature.
    """

    enough, together = 64, 256
    """Rows whose products are added up at once, at least and at most about so many."""

    def __init__(self, problem: Problem, frame: Frame, point: Tensor, mass: Tensor, rows: int, seed: int) -> None:
        """Asks for about ``rows`` rows per output; ``mass`` (K,) is the curvature of f by each intercept."""
        super().__init__(problem, frame)
        self._coef, self._intercept = self.linear(point)
        self._rate = (rows * problem.share / mass.clamp(min=1e-300)).to(self.dtype)
        self._draw = torch.Generator().manual_seed(seed)
        k, d = problem.num_outputs, problem.num_features
        self._blocks = torch.zeros(k, d, d, dtype=self.dtype, device=point.device)
        self._waiting: list[list[Tensor]] = [[] for _ in range(k)]
        self._sums = self.zeros(k, d)
        self._ones = self.zeros(k)

    def gather(self, rows: Rows) -> None:
        """Draws rows for each output."""
        features, labels, weights, _ = rows
        loss = self.problem.loss
        spread = loss.own_curvature(loss.curvature_at(affine(features, self._coef, self._intercept), labels))
        if weights is not None:
            spread = spread * weights
        chance = (spread * self._rate).clamp(max=1)
        drawn = torch.rand(chance.shape, generator=self._draw, dtype=chance.dtype).to(chance.device) < chance
        for output in range(self.problem.num_outputs):
            which = drawn[:, output].nonzero()[:, 0]
            weight = spread[which, output] / chance[which, output]
            self._ones[output] += weight.sum(dtype=torch.float64)
            for few, root in zip(which.split(self.together), weight.sqrt().split(self.together), strict=True):
                some = features.index_select(0, few).mul_(root.unsqueeze(1))
                self._sums[output] += (root @ some).double()
                self._waiting[output].append(some)
                if sum(map(len, self._waiting[output])) >= self.enough:
                    self._add_up(output)

    def _add_up(self, output: int) -> None:
        if some := self._waiting[output]:
            rows = some[0] if len(some) == 1 else torch.cat(some)
            add_lower_triangle(self._blocks[output], rows.T)
            some.clear()

    def result(self) -> Tensor:
        """Shape (K, D, D), the lower triangles alone: the blocks of the coefficients, penalty included."""
        for output in range(self.problem.num_outputs):
            self._add_up(output)
        center, scale = self._fold
        share, (l2, _) = self.problem.share, self.problem.penalties(self.frame)
        # sum w (x - c)(x - c)' = sum w x x' - a c' - c a' + (sum w) c c', with a = sum w x
        c, a, ones = center.expand_as(self._sums), self._sums, self._ones.unsqueeze(1)
        left, right = torch.stack([c * ones - a, c], dim=2), torch.stack([c, -a], dim=1)
        blocks = self._blocks.baddbmm_(left.to(self.dtype), right.to(self.dtype))
        blocks *= (share / scale.unsqueeze(1)).to(self.dtype)
        blocks *= (1 / scale).to(self.dtype)
        blocks.diagonal(dim1=1, dim2=2).add_(l2[:-1].to(self.dtype))
        return blocks


class Diagonal(Pass[Tensor]):
    """The diagonal of the Hessian at a point."""

    copies = True

    def __init__(self, problem: Problem, frame: Frame, point: Tensor) -> None:
        super().__init__(problem, frame)
        self._coef, self._intercept = self.linear(point)
        k, d = problem.num_outputs, problem.num_features
        self._squares, self._sums, self._ones = (
            self.zeros(k, d),
            self.zeros(k, d),
            self.zeros(k),
        )

    def gather(self, rows: Rows) -> None:
        """Weighted squares."""
        features, labels, weights, _ = rows
        loss = self.problem.loss
        spread = loss.own_curvature(loss.curvature_at(affine(features, self._coef, self._intercept), labels))
        if weights is not None:
            spread = spread * weights
        self._squares += sum_over_rows(spread, features.square())
        self._sums += sum_over_rows(spread, features)
        self._ones += spread.sum(0, dtype=torch.float64)

    def result(self) -> Tensor:
        """Shape (K, D + 1), penalty included."""
        center, scale = self._fold
        squares = self._squares - 2 * center * self._sums + center.square() * self._ones.unsqueeze(1)
        diagonal = torch.cat([squares.clamp(min=0) / scale.square(), self._ones.unsqueeze(1)], dim=1)
        return diagonal * self.problem.share + self.problem.penalties(self.frame)[0]


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
    """Batches that are centred at once."""

    def __init__(
        self, problem: Problem, frame: Frame, point: Tensor, step: float, number: int = 0, passes: int = 1
    ) -> None:
        """The pass of this ``number``, out of ``passes``."""
        super().__init__(problem, frame)
        self._coef, self._intercept = point[:, :-1].to(self.dtype).clone(), point[:, -1].to(self.dtype).clone()
        self._decay = problem.penalties(frame)[0][:-1].to(self.dtype) / (problem.share * problem.total_weight)
        self._step, self._seen, self._all = step, number * problem.rows, passes * problem.rows
        self._center, self._invert = frame.center.to(self.dtype), (1 / frame.scale).to(self.dtype)

    def add(self, block: Batch) -> None:
        """Takes one block of rows, a few batches at a time."""
        for part in parts(block, self.together * self.batch_size):
            super().add(part)

    def gather(self, rows: Rows) -> None:
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


def choose_frame(problem: Problem, sample: Batch, every_scale: bool) -> Frame:
    """Coordinates in which a sample has mean 0 and deviations of one size; the model's own where it standardizes.

    Args:
        problem: Whose rows they are.
        sample: Some of its rows.
        every_scale: Whether small deviations are brought to 1 too.  That blows rare features up, which harms
            steps along the gradient and nothing else.
    """
    model = problem.model
    of_units = torch.frexp(model.scale).mantissa == 0.5  # powers of two: features in source units, as they are stored
    if bool((model.center != 0).any() | ~of_units.all()):
        return model
    weights = row_weights(sample, (), torch.float32)
    features = sample.features if weights is None else sample.features[weights > 0]
    few = features.split(max(1, COPIED // len(model.center)))  # at a time, since copies of all would be large
    number = max(len(features), 1)
    center = sum((part.sum(0, dtype=torch.float64) for part in few), start=torch.zeros_like(model.center)) / number
    near = center.to(torch.promote_types(features.dtype, torch.float32))
    squares = sum(((part - near).square_().sum(0) for part in few), start=torch.zeros_like(center))
    deviation = (squares / number).sqrt()
    if not problem.intercept:  # moving the features would need one
        center = torch.zeros_like(center)
    deviation = torch.where(deviation > 1e-9 * center.abs(), deviation, 1.0).nan_to_num(1.0)
    if every_scale:
        return Frame(center, deviation)
    return Frame(center, deviation.clamp(min=float(deviation.median())))


Asking = Generator[Pass[Any], None, Answer]
"""What an exact optimizer is: it yields passes, and returns its answer."""


def ask(question: Pass[Answer]) -> Asking[Answer]:
    """Has a pass made, and returns what it gathered."""
    yield question
    return question.result()


RowSource = Callable[[bool], Iterable[Batch]]
"""Begins a new pass over all rows when it is called; with ``True`` each block should be a sample of all rows."""


def gather(rows: RowSource, question: Pass[Any]) -> None:
    """Shows the rows to a pass."""
    for block in rows(question.mixed):
        question.add(block)
        if question.done:
            return


@contextmanager
def threads_for(work: float) -> Iterator[None]:
    """One CPU thread where there is too little work for two.

    Two threads wait for each other in every operation.  On a free machine that costs nothing; where
    other programs want the cores too, small operations take tens of times as long.

    Args:
        work: Floating-point operations between two such waits.
    """
    threads = torch.get_num_threads()
    if work < ONE_THREAD_FLOP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class InMemory:
    """Rows that lie in memory; calling it begins a pass over them, block by block, without a copy."""

    def __init__(self, features: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> None:
        """Features (N, D) in source units, labels (N,), weights (N,) or ``None``."""
        self.features, self.labels, self.sample_weight = features, labels, sample_weight
        row_bytes = features.shape[1] * 4
        self.block_rows = min(max(1, BLOCK_BYTES // max(row_bytes, 1)), BLOCK_ROWS)

    def __call__(self, mixed: bool) -> Iterator[Batch]:
        """The blocks in order; where ``mixed`` each has rows from everywhere."""
        number = len(self.labels)
        blocks = -(-number // self.block_rows)
        for block in range(blocks):
            first = block * self.block_rows
            part = slice(block, None, blocks) if mixed else slice(first, first + self.block_rows)
            weights = None if self.sample_weight is None else self.sample_weight[part]
            yield Batch(self.features[part], self.labels[part], weights)
