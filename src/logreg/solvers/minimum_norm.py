"""Which optimum is reported where there are many: the one of least norm, as a vanishing l2 would have it.

Without a penalty a direction of the coefficients that gives all rows the same logit changes nothing but the intercept:
columns that repeat or sum up others (all levels of a category beside an intercept), a constant one, more columns than
rows.  With l1 alone the classes of a softmax leave one number per feature open.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from logreg.errors import DivergedError
from logreg.solvers.l1_steps import regauged
from logreg.solvers.newton_steps import NOT_FINITE
from logreg.solvers.passes.base import Pass, PassRequests, PreparedRows, request
from logreg.solvers.passes.sampling import Sample
from logreg.solvers.problem import Coordinates, Problem, choose_coordinates
from logreg.solvers.state import SolverState, certified

NULL = 1e-7
"""Singular value, relative to the largest of columns of length 1, that is none: its square, which is what a Hessian
sees of it, is near the rounding of float64; and columns that were rounded to float32 sum up to no less."""

PART = 1e-10
"""Share of a column in a direction that is rounding."""

SAME = 1e-12
"""Move of a point, relative to it, that is rounding; and of f."""

WIDEST = 1024
"""Features up to which directions that change no logit are looked for."""


class NullSpace(NamedTuple):
    """Directions that change no logit of any row, in a model's own coordinates."""

    directions: Tensor
    """Shape (D + 1, R): coefficients that are orthonormal, and the intercept that makes up for them."""

    def within(self, problem: Problem, coordinates: Coordinates) -> Tensor:
        """The directions as another coordinates has them, (D + 1, R)."""
        return problem.model.to(coordinates, self.directions.T).T

    def without(self, problem: Problem, coordinates: Coordinates, point: Tensor) -> Tensor:
        """The point (K, D + 1) of the same logits whose norm in the model's coordinates is least."""
        if not self.directions.shape[1]:
            return point
        along = coordinates.to(problem.model, point)[:, :-1] @ self.directions[:-1]
        return point - problem.model.to(coordinates, along @ self.directions.T)


class Triangle(Pass[Tensor]):
    """The triangular factor R of the rows in coordinates, those that weigh something, with a 1 for the intercept.

    Its singular values are those of the rows to all digits, while those of sums of squares have half of them.
    """

    samples = ("_waiting",)
    copies = True

    def __init__(self, problem: Problem, coordinates: Coordinates) -> None:
        super().__init__(problem, coordinates, torch.float64)
        self._waiting: list[Tensor] = []
        self._rows, self._width = 0, problem.num_features + 1

    def gather(self, rows: PreparedRows) -> None:
        """Keeps them until they are many enough to be worth a factorization."""
        center, scale = self._fold
        features = rows.features if rows.weights is None else rows.features[rows.weights[:, 0] > 0]
        features = (features - center) / scale
        ones = features.new_full((len(features), 1), float(self.problem.intercept))
        self._waiting.append(torch.cat([features, ones], dim=1))
        self._rows += len(features)
        if self._rows >= 4 * self._width:
            self._reduce()

    def _reduce(self) -> None:
        factor = torch.linalg.qr(torch.cat(self._waiting), mode="r").R
        self._waiting, self._rows = [factor], len(factor)

    def finish(self) -> None:
        """One factor for the rows of this process."""
        if self._waiting:
            self._reduce()

    def result(self) -> Tensor:
        """Shape (min(N, D + 1), D + 1)."""
        if len(self._waiting) > 1:
            self._reduce()
        return self._waiting[0]


def find_null_space(problem: Problem, coordinates: Coordinates | None = None) -> PassRequests[NullSpace]:
    """Looks for the directions that change no logit of any row that weighs something.

    Args:
        problem: Whose rows will be shown.
        coordinates: In which the columns have mean 0, if it is known already.

    Raises:
        DivergedError: Squares of the rows are not finite.
    """
    if coordinates is None:
        coordinates = choose_coordinates(problem, (yield from request(Sample(problem))), every_scale=True)
    triangle = yield from request(Triangle(problem, coordinates))
    size = torch.linalg.vector_norm(triangle, dim=0)
    if not bool(size.isfinite().all()):
        raise DivergedError(NOT_FINITE)
    size = torch.where(size > 0, size, 1.0)
    _, values, vectors = torch.linalg.svd(triangle / size, full_matrices=True)
    rank = int((values > NULL * values.amax()).sum())
    null = vectors[rank:].T
    if not problem.intercept:  # its own column of zeros is none of them
        null = null[:, torch.linalg.vector_norm(null[:-1], dim=0) > PART]
        null[-1] = 0
    if not null.shape[1]:
        return NullSpace(null)
    # Rounding must not tie columns to each other that are in very different units.
    null = torch.where(null.abs() > PART, null, 0.0) / size.unsqueeze(1)
    directions = coordinates.to(problem.model, null.T).T
    # The largest rows first, so that each row of the factor has all its digits (Cox and Higham 1998).
    coef, by_intercept = directions[:-1], directions[-1:]
    coef, by_intercept = (part / torch.linalg.vector_norm(coef, dim=0) for part in (coef, by_intercept))
    order = coef.abs().amax(1).argsort(descending=True)
    orthonormal, root = torch.linalg.qr(coef[order])
    coef = torch.zeros_like(orthonormal).index_copy(0, order, orthonormal)
    by_intercept = torch.linalg.solve_triangular(root, by_intercept, upper=True, left=False)
    return NullSpace(torch.cat([coef, by_intercept]))


def settle(state: SolverState, null: NullSpace | None = None) -> PassRequests[None]:
    """Moves an optimizer's last point to the one of least norm among those that have the same objective.

    The norm is that of the coefficients in the model's own coordinates.  Intercepts of a softmax sum to 0.

    Args:
        state: Of the problem, at the end.
        null: Directions that change no logit, if they are known; without a penalty they are looked for else.

    References:
        Without a penalty: Albert and Anderson (1984), for what such a problem determines; the limit of l2 -> 0 is the
        minimum-norm solution, as of least squares by the pseudoinverse.
    """
    problem, before, model = state.problem, state.solution, state.problem.model
    if problem.objective.l2 and not problem.coupled:
        return
    point = before
    if not (problem.objective.l2 or problem.objective.l1):
        if null is None and problem.num_features < WIDEST:
            null = yield from find_null_space(problem)
        point = point if null is None else null.without(problem, model, point)
        point = point - point.mean(0) if problem.coupled else point
    elif problem.coupled and not problem.objective.l2:
        l2, l1 = problem.penalties(model)
        point = regauged(point.flatten(), l1.expand_as(point).flatten(), (point.shape, l2)).view_as(point)
    moved = bool(((point - before)[:, :-1].abs() > SAME * before[:, :-1].abs().amax()).any())
    if not moved:
        point = before
    if problem.coupled:
        point = torch.cat([point[:, :-1], (point[:, -1] - point[:, -1].mean()).unsqueeze(1)], dim=1)
    was = state.coordinates, state.point, state.best, state.bound
    state.coordinates, state.point = model, point
    if state.best is not None:
        state.best = point
    if not moved:
        return
    state.best = state.bound = None
    yield from certified(state, None)
    old, new = was[-1], state.bound
    if old is not None and new is not None and not new.value <= old.value + SAME * abs(old.value):
        state.coordinates, state.point, state.best, state.bound = was
