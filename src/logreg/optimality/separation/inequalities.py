"""Linear programs over the rows that can be separated: directions of the largest margin."""

from __future__ import annotations

import contextlib
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from logreg.optimality.separation.hinge import PROGRAMS, axes_of, least_hinge
from logreg.optimality.separation.rows import (
    FINE,
    LARGEST,
    LARGEST_PROGRAM,
    MOST_NUMBERS,
    TIE,
    Kind,
    Scaling,
    SeparationRows,
    TooMuchWork,
    evenly,
)


class Inequalities:
    """(d_y - d_k)'(1, x) >= 0 of each row x and each group k that is not its own, y: (n, G - 1) pairs.

    x is standardized.  Directions have the shape (G, 1 + D); that of the first group is 0 while nothing else matters.
    """

    def __init__(self, rows: SeparationRows, group: Tensor, scaling: Scaling | None = None) -> None:
        own = group[rows.labels]
        self.rows, self.group, self.places = rows, group, (own >= 0).nonzero().squeeze(1)
        self.own, self.groups = own[self.places].unsqueeze(1), int(group.max()) + 1
        self.number = (self.groups - 1) * rows.width
        if self.groups > 2 and (self.number > LARGEST or self.groups * len(own) > MOST_NUMBERS):
            raise TooMuchWork
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
            TooMuchWork: It takes too long, or is too fine to see.
        """
        nothing = torch.zeros(self.groups, self.rows.width, dtype=torch.float64), torch.zeros_like(pairs)
        total = int(pairs.sum())
        if min(total, self.number) > LARGEST or min(total, self.number) * self.number > MOST_NUMBERS:
            raise TooMuchWork
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
            coef, left = least_hinge(inside, self.rows.seconds_left, coef)
            if coef is None:
                _, axes = axes_of(inside[left])
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
        raise TooMuchWork

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
        again = Inequalities(self.rows, self.group, self.rows.survey[0])
        with contextlib.suppress(TooMuchWork):
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
            raise TooMuchWork
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
                raise TooMuchWork
            direction = torch.zeros(self.groups, self.rows.width, dtype=torch.float64)
            direction[first:] = torch.from_numpy(answer.x[:free]).reshape(-1, self.rows.width)
            margins = self.margins(direction.unsqueeze(0)) - float(answer.x[-1]) * told.double()
            lack = (-margins / self.norm - min(1e-9, float(answer.x[-1]) / 1000)).clamp_min(0).where(pairs, 0)
            if not bool(lack.any()):
                return direction
            chosen = _with_worst(chosen, lack, max(100, free))
        raise TooMuchWork

    def _some(self, pairs: Tensor, number: int) -> Tensor:
        """Some of these pairs, of each group, by their places in a row-major list: shape (m,)."""
        places = pairs.flatten().nonzero().squeeze(1)
        own = self.own[places // (self.groups - 1), 0]
        share = max(500, number) // self.groups
        return torch.cat([evenly(places[own == group], share) for group in range(self.groups)]).sort().values

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
        TooMuchWork: All that lack something are chosen already: it is too fine to see.
    """
    lack = lack.flatten().index_fill(0, chosen, 0)
    new = lack.topk(min(most, int((lack > 0).sum()))).indices
    if not len(new):
        raise TooMuchWork
    return torch.cat([chosen, new]).sort().values
