"""Whether a fit without a penalty has a finite optimum, and whom to blame if it has none.

Maximum likelihood has a finite estimate if and only if the classes overlap (Albert and Anderson 1984,
Biometrika 71:1).  Otherwise some direction of the coefficients hurts no row and helps one, and the loss falls
for ever along it.  With one output, take z = (1, x) for rows of class 1 and z = -(1, x) for the others: a direction
d separates if z'd >= 0 for all rows and > 0 for some.  With softmax it is (d_y - d_k)'(1, x) that counts, for all
rows and all classes k but the row's own, y.  Separation is complete if it is > 0 for all.

R's detectseparation decides by a linear program (Konis 2007, thesis, Oxford).  Here the sum of max(0, 1 - z'b)^2 is
minimised, by Newton's method, which ends after finitely many steps (Keerthi and DeCoste 2005, JMLR 6), far sooner.
Either it falls to 0, and b tells all rows.  Or rows A with residuals r > 0 are left, and sum r z = 0 over them; then
any d that separates has sum r z'd = 0 with no term below 0, so that A lies on its boundary.  Hence d is sought among
what is orthogonal to A, until all rows that are not orthogonal to that are told, or nothing is left.  This needs
some rows only: first a sample, then those that it gets wrong.

A linear program names the columns: the direction of the largest margin whose slopes sum to 1 in absolute value.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from logreg.losses import LOSSES

Kind = Literal["none", "quasi-complete", "complete", "unknown"]

TIE = 1e-11
"""A row this near to the boundary lies on it: the cosine of the angle between row and direction."""

FINE = 1e-9
"""A row this nearly orthogonal to all directions is orthogonal to them."""

FAINT = 1e-7
"""A coefficient below this share of the largest one is 0."""

LARGEST, LARGEST_PROGRAM, MOST_NUMBERS = 2000, 300, 10**8
"""Coefficients beyond which Newton's method and the linear program take too long; numbers that fill the memory."""

BLOCK = 2**20
"""Numbers looked at at once."""

DOUBLINGS, PROGRAMS = 1100, 1000
"""Of the length of a step, all that float64 has; and linear programs, each with more rows than the one before."""

MOST_NAMES = 3
"""Columns and classes named in a sentence; the rest is counted."""


@dataclass(frozen=True)
class Separation:
    """What keeps an unpenalised fit from a finite optimum."""

    kind: Kind
    """"none": a finite optimum exists.  "complete": the loss can fall to 0, since every row can be told.
    "quasi-complete": some rows can be told.  "unknown": too much work to decide.
    When more than that would be too much work, "quasi-complete" means "at least some rows"."""
    columns: tuple[int, ...] = ()
    """Features whose coefficients grow without bound in a direction that tells all the rows that can be told,
    the largest coefficient (per standard deviation) first.  The direction is a sparse one: of all whose
    coefficients sum to 1 in absolute value, the one of the largest margin.  Where single columns tell every
    row, they are named, the widest gap first; where the sparse one is too much work, any direction."""
    classes: tuple[int, ...] = ()
    """Classes that can be told, wholly or in part, from the others together; of two, the second.  Softmax can have
    a separation where no class can be told alone: then the classes whose coefficients grow."""

    def in_words(self, feature_names: Sequence[str], class_names: Sequence[str], leak: str = "") -> str:
        """One sentence, with what to do.

        Args:
            feature_names: Of all features, or none.
            class_names: Of all classes.
            leak: What leaves out the columns that may be the target under another name, where there are such.

        Example:
            >>> Separation("complete", (0,), (1,)).in_words(["hours"], ["failed", "passed"])
            "no finite optimum: 'hours' tells 'passed' from 'failed' without an error, so coefficients grow without \
bound; set a penalty, such as l2=1e-3"
        """
        if self.kind == "none":
            return "a finite optimum exists: the classes overlap"
        if self.kind == "unknown":
            return (
                "whether a finite optimum exists was too much work to find out; a penalty, such as l2=1e-3, makes sure"
            )
        told = _listed([f"'{class_names[place]}'" for place in self.classes], "class", "classes")
        if len(class_names) == 2:
            told += f" from '{class_names[0]}'"
        elif len(self.classes) < len(class_names):
            told += " from the rest"
        else:
            told = f"all {len(class_names)} classes"
        names = [f"'{feature_names[place]}'" if feature_names else f"feature {place}" for place in self.columns]
        who = _listed(names, "column", "columns") if names else "the intercept alone"
        if not feature_names and len(names) > MOST_NAMES:  # numbers of pixels say nothing
            who = f"{len(names):,} features"
        some = "" if self.kind == "complete" or not names else "some rows of "
        advice = "set a penalty, such as l2=1e-3"
        if leak:
            advice = f"may be the target under another name: {leak}; if not, {advice}"
        return (
            f"no finite optimum: {who} {'tell' if len(names) > 1 else 'tells'} {some}{told} without an error, "
            f"so coefficients grow without bound; {advice}"
        )


def _listed(names: Sequence[str], one: str, many: str) -> str:
    """a, b and c; a, b, c and 4 more columns."""
    shown, left = names[:MOST_NAMES], len(names) - MOST_NAMES
    if left > 0:
        return f"{', '.join(shown)} and {left:,} more {one if left == 1 else many}"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def find_separation(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    loss: str,
    sample_weight: Tensor | None = None,
    seconds: float = 5.0,
) -> Separation:
    """Tells whether a model with intercept has a finite optimum on these rows when nothing is penalised.

    Units, constant, repeated and dependent columns make no difference.  Data are taken at their word, down to 1e-9
    of a standard deviation: rows that overlap by so little overlap, and the optimum is very far out.

    Args:
        features: Shape (N, D), any type, finite.  No copy is made of them.
        labels: Shape (N,), integers in [0, C).
        num_classes: C >= 2.
        loss: With more than two classes, "bce" fits one output to each class against the rest.
        sample_weight: Shape (N,), >= 0; rows of weight 0 do not count, other weights make no difference.
        seconds: About how long to try, of processor time.

    Returns:
        The kind, the columns and the classes.
    """
    rows = _Rows(features, labels, num_classes, sample_weight, time.process_time() + seconds)
    if num_classes == 2:
        return _softmax(rows, torch.tensor([1, 0]))  # its one output tells class 1
    group = torch.arange(num_classes)
    if LOSSES[loss].couples_outputs:
        return _softmax(rows, group)
    alone = [_told_apart(rows, (group == own).long()) for own in range(num_classes)]
    return _named(alone, group, _kind_of(alone))


class _TooMuchWork(Exception):
    """Not to be decided in the time or the size there is."""


class _Verdict(NamedTuple):
    """What is known of two sides."""

    kind: Kind
    told: Tensor
    """Whether a row lies strictly on its side, shape (N,)."""
    weigh: Callable[[], Tensor]
    """Finds how much each column matters, shape (D,), >= 0."""


def _largest_first(weight: Tensor) -> tuple[int, ...]:
    order = weight.argsort(descending=True, stable=True).tolist()
    return tuple(place for place in order if weight[place] > FAINT * weight.max())


class _Scaling(NamedTuple):
    """How columns are made alike, shape (D,) each."""

    shift: Tensor
    """A value of the column: so dummies stay 0 and 1, and subtracting it rounds once."""
    scale: Tensor
    """The standard deviation; 1 where a column is constant."""


class _Rows:
    """The rows that count, read in float64 and in blocks."""

    def __init__(
        self, features: Tensor, labels: Tensor, num_classes: int, sample_weight: Tensor | None, deadline: float
    ) -> None:
        self.features, self.num_classes, self.deadline = features, num_classes, deadline
        self.width = 1 + features.shape[1]
        self.kept: Tensor | None = None
        self.labels = labels.to("cpu", torch.int64)
        if sample_weight is not None and bool((sample_weight == 0).any()):
            self.kept = sample_weight.nonzero().squeeze(1).cpu()
            self.labels = self.labels[self.kept]

    def raw(self, places: Tensor | slice) -> Tensor:
        """A copy of the features of these rows, shape (n, D), float64."""
        if self.kept is not None:
            places = self.kept[places]
        return self.features[places].to("cpu", torch.float64, copy=True)

    def blocks(self, places: Tensor, width: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """These rows block by block: where it lies among them, and its features; ``width``: numbers made of a row."""
        everyone = len(places) == len(self.labels)
        step = max(1, BLOCK // max(width, self.width))
        for start in range(0, len(places), step):
            part = slice(start, min(start + step, len(places)))
            yield part, self.raw(part if everyone else places[part])

    @cached_property
    def scaling(self) -> _Scaling:
        """That of a sample, which is good enough to calculate with."""
        values = self.raw(_evenly(torch.arange(len(self.labels)), 1000))
        scale = values.std(0, correction=0)
        return _Scaling(values.median(0).values, scale.where(scale > 0, 1))

    @cached_property
    def survey(self) -> tuple[_Scaling, Tensor, Tensor]:
        """All rows, looked at once: their scaling; the least and the largest of each column in each class, (C, D).

        The extremes are in standard deviations from the shift; inf and -inf where a class has no row.
        """
        everyone, shift = torch.arange(len(self.labels)), self.scaling.shift
        low = torch.full((self.num_classes, len(shift)), torch.inf, dtype=torch.float64)
        high, total, square = -low, torch.zeros_like(shift), torch.zeros_like(shift)
        for part, values in self.blocks(everyone):
            values -= shift
            labels = self.labels[part]
            counts = torch.bincount(labels, minlength=self.num_classes).tolist()
            for own, mine in enumerate(values[labels.argsort()].split(counts)):
                if len(mine):
                    low[own] = torch.minimum(low[own], mine.amin(0))
                    high[own] = torch.maximum(high[own], mine.amax(0))
            total += values.sum(0)
            square += values.square_().sum(0)
        scale = (square / len(everyone) - (total / len(everyone)).square()).sqrt()
        scale = scale.where(scale > 0, 1)
        return _Scaling(shift, scale), low / scale, high / scale

    def seconds_left(self) -> float:
        """Of those there were.

        Raises:
            _TooMuchWork: There are none.
        """
        left = self.deadline - time.process_time()
        if left <= 0:
            raise _TooMuchWork
        return left


def _evenly(places: Tensor, number: int) -> Tensor:
    """As many of these places, if there are, from first to last."""
    number = min(number, len(places))
    return places[torch.linspace(0, len(places) - 1, number, dtype=torch.float64).long()]


def _told_apart(rows: _Rows, group: Tensor) -> _Verdict:
    """Whether classes of group 1 can be told from those of group 0; ``group`` has shape (C,), -1: not in play."""
    side = group[rows.labels]
    nobody, everybody = torch.zeros_like(side, dtype=torch.bool), side >= 0
    nothing = torch.zeros(rows.width - 1, dtype=torch.float64)
    if not (bool((side == 0).any()) and bool((side == 1).any())):
        return _Verdict("complete", everybody, lambda: nothing)
    kind: Kind = "unknown"
    problem = _Inequalities(rows, group)
    with contextlib.suppress(_TooMuchWork):
        kind, direction, told = problem.solve(problem.pairs())
    if kind == "none":
        return _Verdict("none", nobody, lambda: nothing)
    low, high = ([extreme[group == own] for own in (0, 1)] for extreme in rows.survey[1:])
    gap = torch.maximum(low[1].amin(0) - high[0].amax(0), low[0].amin(0) - high[1].amax(0))
    if bool((gap > 0).any()):
        return _Verdict("complete", everybody, lambda: gap.clamp_min(0))
    if kind == "unknown":
        alone = (gap == 0) & (torch.cat(high).amax(0) > torch.cat(low).amin(0))
        return _Verdict("quasi-complete" if bool(alone.any()) else "unknown", nobody, alone.double)
    told_rows = nobody.index_copy(0, problem.places, told[:, 0])
    return _Verdict(kind, told_rows, lambda: problem.size(direction, problem.pairs(), told).amax(0))


def _least_hinge(
    signed: Tensor, seconds_left: Callable[[], float], start: Tensor | None = None
) -> tuple[Tensor | None, Tensor]:
    """Minimises the sum of max(0, 1 - z'b)^2 over rows z, of shape (n, p), from b = ``start`` on.

    Returns:
        b if all z'b > 1/2, which is enough, or ``None``; and then a mask of the rows with z'b < 1, which lie on the
        boundary of every direction that separates.

    Raises:
        _TooMuchWork: Neither is certain.
    """
    coef = signed.new_zeros(signed.shape[1]) if start is None else start
    noise = 1e-9
    for _ in range(100):
        margins = signed @ coef
        left = margins < 1 - noise  # rounding leaves rows just there
        if bool((margins > 0.5).all()):
            return coef, left
        seconds_left()
        residuals = 1 - margins[left]
        step, decrement, rounding = _least_squares(signed[left], residuals)
        # Any d that separates has r'm = (sum r z)'d <= decrement * |m|_2 <= decrement * |m|_1 for the margins m >= 0
        # of these rows: all m are 0 as soon as every r is larger.
        if decrement + rounding < float(residuals.min()) / 2:
            return None, left
        noise = max(noise, rounding)
        change = signed @ step
        low, high = 0.0, 1.0
        if bool(((margins + change < 1) != left).any()):  # else the minimum is at 1
            for _ in range(DOUBLINGS):
                if not float((1 - margins - high * change).clamp_min(0) @ change) > 0:
                    break
                low, high = high, 2 * high
            for _ in range(10):
                middle = (low + high) / 2
                if float((1 - margins - middle * change).clamp_min(0) @ change) > 0:
                    low = middle
                else:
                    high = middle
        coef = coef + high * step
    raise _TooMuchWork


def _least_squares(rows: Tensor, targets: Tensor) -> tuple[Tensor, float, float]:
    """The b of the least |rows @ b - targets|; |rows @ b|, and its error from rounding."""
    rounding = 10 * torch.finfo(rows.dtype).eps * float(targets.norm())
    gram, right = rows.T @ rows, rows.T @ targets
    root, failed = torch.linalg.cholesky_ex(gram)
    if not failed and bool((root.diagonal().square() > 1e-6 * gram.diagonal().max()).all()):
        best = torch.cholesky_solve(right.unsqueeze(1), root).squeeze(1)
        return best, float(right @ best) ** 0.5, 1e3 * rounding
    best, (values, axes) = torch.zeros_like(right), _axes(rows)
    for _ in range(2):  # the second time corrects the rounding of the first
        best = best + axes.T @ (axes @ (rows.T @ (targets - rows @ best)) / values.square())
    return best, float((rows @ best).norm()), float(values[0] / values[-1]) * rounding


def _axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values that are not 0, shape (rank,), and their axes, (rank, p)."""
    square = torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows
    _, values, axes = torch.linalg.svd(square, full_matrices=False)
    rank = int((values > TIE * values[0]).sum())
    return values[:rank], axes[:rank]


class _Inequalities:
    """(d_y - d_k)'(1, x) >= 0 of each row x and each group k that is not its own, y: (n, G - 1) pairs.

    x is standardised.  Directions have the shape (G, 1 + D); that of the first group is 0 while nothing else matters.
    """

    def __init__(self, rows: _Rows, group: Tensor, scaling: _Scaling | None = None) -> None:
        own = group[rows.labels]
        self.rows, self.group, self.places = rows, group, (own >= 0).nonzero().squeeze(1)
        self.own, self.groups = own[self.places].unsqueeze(1), int(group.max()) + 1
        self.number = (self.groups - 1) * rows.width
        if self.groups > 2 and (self.number > LARGEST or self.groups * len(own) > MOST_NUMBERS):
            raise _TooMuchWork
        self.others = (self.own + torch.arange(1, self.groups)) % self.groups
        self.scaling = scaling or rows.scaling

    def pairs(self) -> Tensor:
        """All of them, as a mask of shape (n, G - 1)."""
        return torch.ones_like(self.others, dtype=torch.bool)

    @cached_property
    def norm(self) -> Tensor:
        """Of (1, x) of each row, shape (n, 1)."""
        shift, scale = self.scaling
        squares = [values.sub_(shift).div_(scale).square_().sum(1) for _, values in self.rows.blocks(self.places)]
        return torch.cat(squares).add_(1).sqrt_().unsqueeze(1)

    def margins(self, directions: Tensor) -> Tensor:
        """(d_y - d_k)'(1, x) of a direction d, of shape (1, G, 1 + D): shape (n, G - 1); of several, its length."""
        many, groups, _ = directions.shape
        slopes = (directions[:, :, 1:] / self.scaling.scale).flatten(0, 1).T.contiguous()
        offset = directions[:, :, 0].flatten()
        margins = torch.empty(self.others.shape, dtype=torch.float64)
        for part, values in self.rows.blocks(self.places, many * groups):
            logits = torch.addmm(offset, values.sub_(self.scaling.shift), slopes).reshape(-1, many, groups)
            own, others = (of[part].unsqueeze(1).expand(-1, many, -1) for of in (self.own, self.others))
            differences = logits.gather(2, own) - logits.gather(2, others)
            margins[part] = differences.squeeze(1) if many == 1 else torch.linalg.vector_norm(differences, dim=1)
        return margins

    def cosines(self, direction: Tensor) -> Tensor:
        """Margins by the length of row and direction."""
        lengths: Tensor = self.norm * direction.norm()
        return self.margins(direction.unsqueeze(0)) / lengths

    def solve(self, pairs: Tensor) -> tuple[Kind, Tensor, Tensor]:
        """Which of these pairs can be told, the others being left out of account.

        Returns:
            The kind; a direction that tells all that can be told; and which pairs these are, shape (n, G - 1).

        Raises:
            _TooMuchWork: It takes too long, or is too fine to see.
        """
        nothing = torch.zeros(self.groups, self.rows.width, dtype=torch.float64), torch.zeros_like(pairs)
        total = int(pairs.sum())
        if min(total, self.number) > LARGEST or min(total, self.number) * self.number > MOST_NUMBERS:
            raise _TooMuchWork
        basis: Tensor | None = None  # directions are sought among the combinations of its columns; None: of all
        coef: Tensor | None = None
        chosen = self._some(pairs, min(10 * self.number, 2**24 // self.number))
        if total < self.number:
            chosen = pairs.flatten().nonzero().squeeze(1)
            basis = torch.linalg.qr(self._matrix(chosen).T).Q  # what is orthogonal to all rows moves none
        for _ in range(100):
            self.rows.seconds_left()
            inside = signed = self._matrix(chosen)
            if basis is not None:
                inside = signed @ basis
                inside = inside[inside.norm(dim=1) > FINE * signed.norm(dim=1)]
                if not len(inside):
                    moved = pairs & self._moved(basis)
                    if not bool(moved.any()):
                        return "none", *nothing
                    chosen = self._some(moved, 10 * self.number)
                    continue
            coef, left = _least_hinge(inside, self.rows.seconds_left, coef)
            if coef is None:
                _, axes = _axes(inside[left])
                if len(axes) == inside.shape[1]:
                    return "none", *nothing
                beside = torch.linalg.qr(axes.T, mode="complete").Q[:, len(axes) :]
                basis = beside if basis is None else basis @ beside
                continue
            free = coef if basis is None else basis @ coef
            direction = torch.cat([free.new_zeros(1, self.rows.width), free.reshape(-1, self.rows.width)])
            cosines = self.cosines(direction)
            told = pairs & (cosines > TIE)
            wrong = pairs & ~told
            if basis is not None and bool(wrong.any()):
                wrong &= (cosines < -TIE) | self._moved(basis)
            if not bool(wrong.any()):
                return "complete" if bool((told == pairs).all()) else "quasi-complete", direction, told
            # With those that are only too near: else a few would come at a time.
            near = told & (cosines * self.norm * direction.norm() < 1)
            chosen = _with_worst(chosen, (1 - cosines).where(wrong | near, 0), max(100, len(chosen) // 2))
        raise _TooMuchWork

    def _moved(self, basis: Tensor) -> Tensor:
        """Whether some combination of these directions gives a pair a margin."""
        directions = torch.cat([torch.zeros(self.rows.width, basis.shape[1]), basis]).T
        margins = self.margins(directions.reshape(-1, self.groups, self.rows.width).contiguous()).abs()
        return torch.gt(margins, FINE * self.norm)

    def size(self, direction: Tensor, pairs: Tensor, told: Tensor) -> Tensor:
        """Of the slopes of a sparse direction that tells these of the pairs, or of this one: shape (G, D).

        Of all directions whose slopes, per standard deviation of all rows, sum to 1 in absolute value, the sparse one
        has the largest margin.
        """
        again = _Inequalities(self.rows, self.group, self.rows.survey[0])
        with contextlib.suppress(_TooMuchWork):
            direction = again._sparse(pairs, told, self.cosines(direction))
            return direction[:, 1:].abs()
        return (direction[:, 1:] / self.scaling.scale * again.scaling.scale).abs()

    def _sparse(self, pairs: Tensor, told: Tensor, cosines: Tensor) -> Tensor:
        """The linear program behind `size`, on the pairs nearest to the boundary and then those it gets wrong."""
        from scipy import sparse
        from scipy.optimize import linprog

        first = 1 if self.groups == 2 else 0
        slope = np.tile(np.arange(self.rows.width) > 0, self.groups - first)
        free, slopes = len(slope), int(slope.sum())
        if free > LARGEST_PROGRAM:
            raise _TooMuchWork
        # Unknown: the direction, the absolute values of its slopes, the margin.
        farthest = float(self.norm.max())
        within = [(-1.0, 1.0) if one else (-farthest, farthest) for one in slope]
        within += [(0.0, 1.0)] * slopes + [(0.0, 2 * farthest)]
        pick, one_each = sparse.eye_array(free, format="csr")[slope], sparse.eye_array(slopes)
        zero = sparse.csr_array((slopes, 1))
        total = sparse.csr_array(np.concatenate([np.zeros(free), np.ones(slopes), [0.0]])[np.newaxis])
        absolute = [sparse.hstack([pick, -one_each, zero]), sparse.hstack([-pick, -one_each, zero]), total]
        cost = np.zeros(free + slopes + 1)
        cost[-1] = -1
        nearest = cosines.where(told, torch.inf).flatten().topk(min(5 * free, int(told.sum())), largest=False).indices
        chosen = torch.cat([nearest, self._some(pairs & ~told, 5 * free)]).unique()
        for _ in range(PROGRAMS):
            signed = sparse.csr_array(self._matrix(chosen, first).numpy())
            needs = told.flatten()[chosen].double().unsqueeze(1).numpy()
            rows = sparse.hstack([-signed, sparse.csr_array((len(chosen), slopes)), needs])
            limits = np.zeros(len(chosen) + 2 * slopes + 1)
            limits[-1] = 1
            answer = linprog(
                cost,
                sparse.vstack([rows, *absolute], format="csc"),
                limits,
                bounds=within,
                method="highs-ds",
                options={
                    "time_limit": self.rows.seconds_left(),
                    "primal_feasibility_tolerance": 1e-10,
                    "dual_feasibility_tolerance": 1e-10,
                },
            )
            if answer.status != 0 or answer.x[-1] <= TIE:
                raise _TooMuchWork
            direction = torch.zeros(self.groups, self.rows.width, dtype=torch.float64)
            direction[first:] = torch.from_numpy(answer.x[:free]).reshape(-1, self.rows.width)
            margins = self.margins(direction.unsqueeze(0)) - float(answer.x[-1]) * told.double()
            lack = (-margins / self.norm - min(1e-9, float(answer.x[-1]) / 1000)).clamp_min(0).where(pairs, 0)
            if not bool(lack.any()):
                return direction
            chosen = _with_worst(chosen, lack, max(100, free))
        raise _TooMuchWork

    def _some(self, pairs: Tensor, number: int) -> Tensor:
        """Some of these pairs, of each group, by their places in a row-major list: shape (m,)."""
        places = pairs.flatten().nonzero().squeeze(1)
        own = self.own[places // (self.groups - 1), 0]
        share = max(500, number) // self.groups
        return torch.cat([_evenly(places[own == group], share) for group in range(self.groups)]).sort().values

    def _matrix(self, chosen: Tensor, first: int = 1) -> Tensor:
        """Rows z, so that z'd is the margin of d from group ``first`` on: shape (m, (G - first) * (1 + D))."""
        row, other = chosen // (self.groups - 1), chosen % (self.groups - 1)
        values = self.rows.raw(self.places[row]).sub_(self.scaling.shift).div_(self.scaling.scale)
        design = torch.cat([values.new_ones(len(values), 1), values], dim=1)
        signed = design.new_zeros(len(chosen), self.groups, self.rows.width)
        each = torch.arange(len(chosen))
        signed[each, self.own[row, 0]] = design
        signed[each, self.others[row, other]] = -design
        return signed[:, first:].flatten(1)


def _with_worst(chosen: Tensor, lack: Tensor, most: int) -> Tensor:
    """The pairs chosen, and of the others those that lack most, in ascending order.

    Raises:
        _TooMuchWork: All that lack something are chosen already: it is too fine to see.
    """
    lack = lack.flatten().index_fill(0, chosen, 0)
    new = lack.topk(min(most, int((lack > 0).sum()))).indices
    if not len(new):
        raise _TooMuchWork
    return torch.cat([chosen, new]).sort().values


def _kind_of(verdicts: Sequence[_Verdict]) -> Kind:
    """Of a model with these outputs."""
    kinds = {verdict.kind for verdict in verdicts}
    if kinds <= {"none", "unknown"}:
        return "unknown" if "unknown" in kinds else "none"
    return "complete" if kinds == {"complete"} else "quasi-complete"


def _named(verdicts: Sequence[_Verdict], group: Tensor, kind: Kind) -> Separation:
    """Of one output for each group of classes; ``group``, of shape (C,), numbers them."""
    found = [own for own, verdict in enumerate(verdicts) if verdict.kind in ("complete", "quasi-complete")]
    if not found:
        return Separation(kind)
    weights = [verdicts[own].weigh() for own in found]
    columns = _largest_first(torch.stack([weight / weight.max().clamp_min(1e-300) for weight in weights]).sum(0))
    told = torch.isin(group, torch.tensor(found)) | ((kind == "complete") & (len(verdicts) > 1))
    return Separation(kind, columns, tuple(told.nonzero().flatten().tolist()))


def _softmax(rows: _Rows, group: Tensor) -> Separation:
    """Of G groups of classes; ``group``, of shape (C,), numbers them."""
    groups = int(group.max()) + 1
    alone = [_told_apart(rows, (group == own).long()) for own in range(groups if groups > 2 else 1)]
    kind = _kind_of(alone)
    if groups == 2 or kind == "complete":
        return _named(alone, group, kind)
    try:
        if kind != "quasi-complete":
            return _jointly(rows, group)
        problem = _Inequalities(rows, group)
        told, own = torch.stack([one.told for one in alone], dim=1), group[rows.labels].unsqueeze(1)
        left = ~(told | told.gather(1, own)).gather(1, problem.others)
        if not bool(left.any()) or problem.solve(left)[0] == "complete":
            kind = "complete"
    except _TooMuchWork:
        kind = "quasi-complete" if kind == "quasi-complete" else "unknown"
    return _named(alone, group, kind)


def _jointly(rows: _Rows, group: Tensor) -> Separation:
    """Where no group can be told from the others together.

    Two groups that overlap have the same coefficients in every direction that separates, up to what makes no
    difference to their rows: they count as one group.
    """
    parts = [frozenset([own]) for own in range(int(group.max()) + 1)]
    groups, apart = len(parts), set[tuple[frozenset[int], ...]]()
    while (pair := next((pair for pair in combinations(parts, 2) if pair not in apart), None)) is not None:
        problem = _Inequalities(rows, _numbered(group, pair))
        if problem.solve(problem.pairs())[0] == "none":
            parts = [pair[0] | pair[1], *(part for part in parts if part not in pair)]
        else:
            apart.add(pair)
    if len(parts) == 1:
        return Separation("none")
    if len(parts) < groups:
        result = _softmax(rows, _numbered(group, parts))
        return replace(result, kind="quasi-complete") if result.kind == "complete" else result
    problem = _Inequalities(rows, group)
    kind, direction, told = problem.solve(problem.pairs())
    if kind == "none":
        return Separation("none")
    size = problem.size(direction, problem.pairs(), told)
    grown = (size.amax(1) > FAINT * size.max()) | (kind == "complete")
    return Separation(kind, _largest_first(size.amax(0)), tuple(grown[group].nonzero().flatten().tolist()))


def _numbered(group: Tensor, parts: Iterable[Iterable[int]]) -> Tensor:
    """The number of the part that each class is in, by its group; -1: in none."""
    numbered = torch.full_like(group, -1)
    for number, part in enumerate(parts):
        numbered[torch.isin(group, torch.tensor(sorted(part)))] = number
    return numbered
