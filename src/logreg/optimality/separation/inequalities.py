"""The inequalities that a separating direction satisfies, and the search for a direction that satisfies them.

For a row x of group y and every other group k a direction d = (d_1, ..., d_G) must have (d_y - d_k)'(1, x) >= 0.  Such
a pair of row and group is separated if the inequality is strict.  `Inequalities.solve` finds which pairs some direction
separates: `minimize_squared_hinge` on a sample of the pairs gives a direction, or pairs that lie on the boundary of
every direction; then directions are sought in the orthogonal complement of these pairs.  Pairs that a direction gets
wrong join the sample, until no pair is wrong or nothing of the space is left.

`Inequalities.size` names the columns, by a linear program: of all directions whose slopes sum to 1 in absolute value,
the direction of the largest margin is sparse.

References:
    Konis (2007), Linear programming algorithms for detecting separated data in binary logistic regression models,
    thesis, University of Oxford.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from logreg.optimality.separation.hinge import minimize_squared_hinge, row_space_axes
from logreg.optimality.separation.rows import (
    BOUNDARY_COSINE,
    MAX_HINGE_COEFFICIENTS,
    MAX_NUMEL,
    MAX_PROGRAM_COEFFICIENTS,
    ORTHOGONAL_COSINE,
    Kind,
    Scaling,
    SeparationRows,
    evenly_spaced,
)
from logreg.optimality.separation.work import TooMuchWork, Work

NUMBERS_PER_LOGIT = 5
"""Numbers that are read or written for the difference of two logits."""

NUMBERS_PER_PAIR = 30
"""Numbers that are read or written for each pair in a round of the search."""

NUMBERS_PER_ENTRY = 240
"""Work to simplify a linear program before its first iteration, for each entry of its matrix."""

NUMBERS_PER_ITERATION = 10**4
"""Work of an iteration of the dual simplex method, besides that of reading the matrix once."""

MAX_ITERATIONS = 2**31 - 1
"""Iterations of the dual simplex method at most: the solver counts in 32 bits."""

MAX_SEARCH_ROUNDS = 100
"""Rounds of a search at most, each with more pairs or fewer dimensions than the one before."""

MAX_LINEAR_PROGRAMS = 1000
"""Linear programs of one search at most, each with more pairs than the one before."""

SAMPLE_PAIRS_PER_COEFFICIENT = 10
"""Pairs of a sample for each coefficient of a direction: enough for most directions to be right on all pairs."""

MAX_SAMPLE_NUMEL = 2**24
"""Largest number of entries of the first sample: 128 MB in float64."""

PROGRAM_PAIRS_PER_COEFFICIENT = 5
"""Pairs of the first linear program for each coefficient: those nearest to the boundary, of which few are active."""

PROGRAM_TOLERANCE = 1e-10
"""Feasibility tolerance of the linear program's solver, its smallest."""


class Inequalities:
    """(d_y - d_k)'(1, x) >= 0 for each row x, of group y, and each other group k: (n, G - 1) pairs.

    x is standardized.  A direction has the shape (G, 1 + D).  One vector added to all groups changes no inequality;
    the direction of the first group is 0.

    Attributes:
        rows: All rows.
        group: The group of each class, shape (C,); -1 for classes that are left out.
        places: Positions of the rows that have a group, (n,).
        own: The group of each of these rows, (n, 1).
        others: The other groups of each pair, (n, G - 1).
        groups: G.
        number: Coefficients of a direction, (G - 1) * (1 + D).
    """

    def __init__(self, rows: SeparationRows, group: Tensor, scaling: Scaling | None = None) -> None:
        """``scaling`` of the columns is that of a sample where ``None``.

        Raises:
            TooMuchWork: There are too many pairs or coefficients.
        """
        own = group[rows.labels]
        self.rows, self.group, self.places = rows, group, (own >= 0).nonzero().squeeze(1)
        self.own, self.groups = own[self.places].unsqueeze(1), int(group.max()) + 1
        self.number = (self.groups - 1) * rows.width
        if self.groups > 2 and (self.number > MAX_HINGE_COEFFICIENTS or self.groups * len(own) > MAX_NUMEL):
            raise TooMuchWork
        self.others = (self.own + torch.arange(1, self.groups)) % self.groups
        self.scaling = scaling or rows.scaling

    def pairs(self) -> Tensor:
        """A mask of all pairs, shape (n, G - 1)."""
        return torch.ones_like(self.others, dtype=torch.bool)

    @cached_property
    def norm(self) -> Tensor:
        """The norm of (1, x) of each row, shape (n, 1)."""
        self.rows.work.spend(len(self.places) * self.rows.width)
        shift, scale = self.scaling
        squares = [values.sub_(shift).div_(scale).square_().sum(1) for _, values in self.rows.blocks(self.places)]
        return torch.cat(squares).add_(1).sqrt_().unsqueeze(1)

    def margins(self, directions: Tensor) -> Tensor:
        """The margins (d_y - d_k)'(1, x) of the pairs, shape (n, G - 1).

        Args:
            directions: M directions, shape (M, G, 1 + D); of several the norm of their margins is returned.

        Raises:
            TooMuchWork: It is more work than may still be done.
        """
        many, groups, width = directions.shape
        rows, number = len(self.places), len(self.places) * many * groups
        self.rows.work.spend(numbers=rows * width + NUMBERS_PER_LOGIT * number, products=number * width)
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
        """Margins of a direction (G, 1 + D), divided by the norms of the row and of the direction: (n, G - 1)."""
        lengths: Tensor = self.norm * direction.norm()
        return self.margins(direction.unsqueeze(0)) / lengths

    def solve(self, pairs: Tensor) -> tuple[Kind, Tensor, Tensor]:
        """Finds which of these pairs can be separated, without regard to the others.

        Args:
            pairs: A mask, shape (n, G - 1).

        Returns:
            The kind of separation; a direction (G, 1 + D) that separates all pairs that can be separated; and a mask of
            these pairs, (n, G - 1).

        Raises:
            TooMuchWork: The search is too much work, or margins are too small for the rounding of float64.
        """
        nothing = torch.zeros(self.groups, self.rows.width, dtype=torch.float64), torch.zeros_like(pairs)
        total = int(pairs.sum())
        if min(total, self.number) > MAX_HINGE_COEFFICIENTS or min(total, self.number) * self.number > MAX_NUMEL:
            raise TooMuchWork
        basis: Tensor | None = None  # directions are combinations of its columns; None: all directions
        coef: Tensor | None = None
        sample = SAMPLE_PAIRS_PER_COEFFICIENT * self.number
        chosen = self._some(pairs, min(sample, MAX_SAMPLE_NUMEL // self.number))
        if total < self.number:
            chosen = pairs.flatten().nonzero().squeeze(1)
            signed = self._matrix(chosen)
            self.rows.work.spend(products=5 * signed.numel() * total)
            basis = torch.linalg.qr(signed.T).Q  # directions orthogonal to all rows have margins of 0
        for _ in range(MAX_SEARCH_ROUNDS):
            self.rows.work.spend(numbers=NUMBERS_PER_PAIR * pairs.numel())
            inside = signed = self._matrix(chosen)
            if basis is not None:
                self.rows.work.spend(numbers=signed.numel(), products=signed.numel() * basis.shape[1])
                inside = signed @ basis
                inside = inside[inside.norm(dim=1) > ORTHOGONAL_COSINE * signed.norm(dim=1)]
                if not len(inside):
                    moved = pairs & self._moved(basis)
                    if not bool(moved.any()):
                        return "none", *nothing
                    chosen = self._some(moved, sample)
                    continue
            coef, left = minimize_squared_hinge(inside, self.rows.work, coef)
            if coef is None:
                _, axes = row_space_axes(inside[left], self.rows.work)
                order = inside.shape[1]
                if len(axes) == order:
                    return "none", *nothing
                self.rows.work.spend(products=3 * order**3 + self.number * order**2)
                complement = torch.linalg.qr(axes.T, mode="complete").Q[:, len(axes) :]
                basis = complement if basis is None else basis @ complement
                continue
            free = coef if basis is None else basis @ coef
            direction = torch.cat([free.new_zeros(1, self.rows.width), free.reshape(-1, self.rows.width)])
            cosines = self.cosines(direction)
            separated = pairs & (cosines > BOUNDARY_COSINE)
            wrong = pairs & ~separated
            if basis is not None and bool(wrong.any()):
                wrong &= (cosines < -BOUNDARY_COSINE) | self._moved(basis)
            if not bool(wrong.any()):
                return "complete" if bool((separated == pairs).all()) else "quasi-complete", direction, separated
            # Pairs with a margin below 1 join the sample too, else wrong ones would appear a few at a time.
            near = separated & (cosines * self.norm * direction.norm() < 1)
            chosen = _with_worst(chosen, (1 - cosines).where(wrong | near, 0), max(100, len(chosen) // 2))
        raise TooMuchWork

    def _moved(self, basis: Tensor) -> Tensor:
        """Whether some direction of a subspace gives a pair a margin: a mask of shape (n, G - 1).

        Args:
            basis: An orthonormal basis of directions without those of the first group, shape (number, M).
        """
        directions = torch.cat([torch.zeros(self.rows.width, basis.shape[1]), basis]).T
        margins = self.margins(directions.reshape(-1, self.groups, self.rows.width).contiguous()).abs()
        return torch.gt(margins, ORTHOGONAL_COSINE * self.norm)

    def size(self, direction: Tensor, separated: Tensor, sparse: bool) -> Tensor:
        """Absolute slopes, per standard deviation of all rows, of a separating direction: shape (G, D).

        Args:
            direction: A direction that separates, (G, 1 + D).
            separated: A mask of the pairs that it separates, (n, G - 1).
            sparse: Whether to find a sparse direction that separates the same pairs: of all directions whose slopes sum
                to 1 in absolute value, the direction of the largest margin.

        Raises:
            TooMuchWork: The sparse direction has too many coefficients, is too much work, or the solver fails.
        """
        scaling = self.rows.column_ranges[0]
        if not sparse:
            return (direction[:, 1:] / self.scaling.scale * scaling.scale).abs()
        first = 1 if self.groups == 2 else 0
        if (self.groups - first) * self.rows.width > MAX_PROGRAM_COEFFICIENTS:
            raise TooMuchWork
        again = Inequalities(self.rows, self.group, scaling)
        return again._sparse(separated, self.cosines(direction), first)[:, 1:].abs()

    def _sparse(self, separated: Tensor, cosines: Tensor, first: int) -> Tensor:
        """The direction of the largest margin among those whose slopes sum to 1 in absolute value, (G, 1 + D).

        The linear program begins with the pairs nearest to the boundary; pairs that its solution gets wrong are added.

        Args:
            separated: See `size`.
            cosines: The cosines of a direction that separates these pairs, (n, G - 1).
            first: The first group that the direction has a part for.
        """
        program = _LinearProgram(self.groups - first, self.rows.width, float(self.norm.max()))
        number = PROGRAM_PAIRS_PER_COEFFICIENT * program.free
        nearest = cosines.where(separated, torch.inf).flatten()
        nearest = nearest.topk(min(number, int(separated.sum())), largest=False).indices
        chosen = torch.cat([nearest, self._some(~separated, number)]).unique()
        for _ in range(MAX_LINEAR_PROGRAMS):
            needs_margin = separated.flatten()[chosen].double()
            solution, margin = program.solve(self._matrix(chosen, first), needs_margin, self.rows.work)
            direction = torch.zeros(self.groups, self.rows.width, dtype=torch.float64)
            direction[first:] = solution
            margins = self.margins(direction.unsqueeze(0)) - margin * separated.double()
            lack = (-margins / self.norm - min(1e-9, margin / 1000)).clamp_min(0)
            if not bool(lack.any()):
                return direction
            chosen = _with_worst(chosen, lack, max(100, program.free))
        raise TooMuchWork

    def _some(self, pairs: Tensor, number: int) -> Tensor:
        """About ``number`` of these pairs, evenly from each group: positions in the flattened (n, G - 1), ascending."""
        places = pairs.flatten().nonzero().squeeze(1)
        own = self.own[places // (self.groups - 1), 0]
        share = max(500, number) // self.groups
        return torch.cat([evenly_spaced(places[own == group], share) for group in range(self.groups)]).sort().values

    def _matrix(self, chosen: Tensor, first: int = 1) -> Tensor:
        """Signed rows z, so that z'd is the margin of a pair: shape (m, (G - first) * (1 + D)).

        Args:
            chosen: Positions of the pairs in the flattened (n, G - 1), shape (m,).
            first: The first group that d has a part for.

        Raises:
            TooMuchWork: It is more work than may still be done.
        """
        self.rows.work.spend(numbers=len(chosen) * self.groups * self.rows.width)
        row, other = chosen // (self.groups - 1), chosen % (self.groups - 1)
        values = self.rows.in_float64(self.places[row]).sub_(self.scaling.shift).div_(self.scaling.scale)
        design = torch.cat([values.new_ones(len(values), 1), values], dim=1)
        signed = design.new_zeros(len(chosen), self.groups, self.rows.width)
        each = torch.arange(len(chosen))
        signed[each, self.own[row, 0]] = design
        signed[each, self.others[row, other]] = -design
        return signed[:, first:].flatten(1)


class _LinearProgram:
    """Maximizes the margin t of z'd >= t (or z'd >= 0) over directions d with sum |slopes of d| <= 1.

    The unknowns are d, upper bounds of the absolute values of its slopes, and t.

    Attributes:
        free: Coefficients of d.
    """

    def __init__(self, groups: int, width: int, farthest: float) -> None:
        """For a direction of shape (groups, width).

        Args:
            groups: Groups that the direction has a part for.
            width: 1 + D.
            farthest: The largest norm of a row, which bounds intercepts and margins.
        """
        from scipy import sparse

        self._width = width
        slope = np.tile(np.arange(width) > 0, groups)
        self.free, self._slopes = len(slope), int(slope.sum())
        self._within = [(-1.0, 1.0) if one else (-farthest, farthest) for one in slope]
        self._within += [(0.0, 1.0)] * self._slopes + [(0.0, 2 * farthest)]
        pick, one_each = sparse.eye_array(self.free, format="csr")[slope], sparse.eye_array(self._slopes)
        zero = sparse.csr_array((self._slopes, 1))
        total = np.concatenate([np.zeros(self.free), np.ones(self._slopes), [0.0]])[np.newaxis]
        self._absolute = [
            sparse.hstack([pick, -one_each, zero]),
            sparse.hstack([-pick, -one_each, zero]),
            sparse.csr_array(total),
        ]
        self._cost = np.zeros(self.free + self._slopes + 1)
        self._cost[-1] = -1

    def solve(self, signed: Tensor, needs_margin: Tensor, work: Work) -> tuple[Tensor, float]:
        """The direction of the largest margin for some pairs.

        Args:
            signed: The rows z of the pairs, shape (m, free).
            needs_margin: 1 for a pair whose margin must be at least t, 0 for at least 0; shape (m,).
            work: The work that may still be done.

        Returns:
            The direction, (groups, width), and its margin t.

        Raises:
            TooMuchWork: It takes too many iterations, the solver fails, or the margin is rounding.
        """
        from scipy import sparse
        from scipy.optimize import linprog

        needs = needs_margin.unsqueeze(1).numpy()
        rows = sparse.hstack([-sparse.csr_array(signed.numpy()), sparse.csr_array((len(signed), self._slopes)), needs])
        matrix = sparse.vstack([rows, *self._absolute], format="csc")
        limits = np.zeros(matrix.shape[0])
        limits[-1] = 1
        work.spend(numbers=NUMBERS_PER_ENTRY * matrix.nnz)
        of_iteration = matrix.nnz + NUMBERS_PER_ITERATION
        answer = linprog(
            self._cost,
            matrix,
            limits,
            bounds=self._within,
            method="highs-ds",
            options={
                "maxiter": int(min(work.numbers_left / of_iteration, MAX_ITERATIONS)),
                "primal_feasibility_tolerance": PROGRAM_TOLERANCE,
                "dual_feasibility_tolerance": PROGRAM_TOLERANCE,
            },
        )
        if answer.status != 0 or answer.x[-1] <= BOUNDARY_COSINE:
            raise TooMuchWork
        work.spend(numbers=answer.nit * of_iteration)
        return torch.from_numpy(answer.x[: self.free]).reshape(-1, self._width), float(answer.x[-1])


def _with_worst(chosen: Tensor, lack: Tensor, most: int) -> Tensor:
    """The chosen pairs together with the pairs that lack most, in ascending order.

    Args:
        chosen: Positions of pairs in the flattened (n, G - 1), shape (m,).
        lack: Amount by which each pair's margin is too small, >= 0, (n, G - 1).
        most: Pairs to add at most.

    Raises:
        TooMuchWork: All pairs that lack something are chosen already: the margins are too small for the rounding.
    """
    lack = lack.flatten().index_fill(0, chosen, 0)
    new = lack.topk(min(most, int((lack > 0).sum()))).indices
    if not len(new):
        raise TooMuchWork
    return torch.cat([chosen, new]).sort().values
