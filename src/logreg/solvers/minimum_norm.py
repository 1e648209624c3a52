"""The optimum of least norm, which is reported where the optimum is not unique.

Without a penalty f depends on the coefficients through the logits alone.  A direction of the coefficients that gives
all rows the same logit changes nothing that an intercept could not undo.  Such directions exist where columns repeat or
sum up others (all levels of a category beside an intercept), where a column is constant, and where there are more
columns than rows.  The optimum is then an affine set; its point of least norm |coef| is the limit of the solutions for
l2 -> 0, as the pseudo-inverse gives it for least squares.

The null space is found from the triangular factor R of a QR factorization of the rows: its singular values have all
digits, while those of X'X have half of them.

With l1 alone the classes of a softmax leave one number for each feature open: a constant that is added to the
coefficients of all classes.

References:
    Albert and Anderson (1984), On the existence of maximum likelihood estimates in logistic regression models.
    Golub and Van Loan (2013), Matrix computations, section 5.5: minimum-norm solutions of rank-deficient problems.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from logreg.errors import DivergedError
from logreg.solvers.passes.base import Pass, PassRequests, PreparedRows, request
from logreg.solvers.passes.sampling import sampled_rows
from logreg.solvers.problem import Coordinates, Problem, choose_coordinates
from logreg.solvers.state import SolverState, certified
from logreg.solvers.steps.newton_steps import NOT_FINITE_MESSAGE

NULL_SINGULAR_VALUE = 1e-7
"""Singular value that counts as 0, relative to the largest one, of columns scaled to length 1.

Its square, which is the curvature in a Hessian, is near the rounding of float64.  Columns that depend on each other
only up to the rounding of float32 have singular values of about this size.
"""

NEGLIGIBLE_COMPONENT = 1e-10
"""Component of a unit null vector below which it counts as 0."""

NEGLIGIBLE_CHANGE = 1e-12
"""Change below which it is a rounding error: of the coefficients, relative to the largest; and of f, relative to f."""

MAX_NULL_SPACE_FEATURES = 1024
"""Number of features from which no null space is computed: a singular value decomposition takes D^3 operations."""


SharedShift = tuple[tuple[int, ...], Tensor]
"""The shape (K, D + 1) of a softmax's point, and l2 by each coordinate, (D + 1,).

Adding one vector to the coefficients of all outputs changes the penalties and no probability."""


class NullSpace(NamedTuple):
    """Directions of the parameters that change no logit of any row, in the model's own coordinates."""

    directions: Tensor
    """Shape (D + 1, R): coefficients, which are orthonormal, and in the last row the intercepts that undo them."""

    def in_coordinates(self, problem: Problem, coordinates: Coordinates) -> Tensor:
        """The directions in other coordinates, (D + 1, R)."""
        return problem.model.to(coordinates, self.directions.T).T

    def project_out(self, problem: Problem, coordinates: Coordinates, point: Tensor) -> Tensor:
        """The point of the same logits whose norm is least.

        Args:
            problem: The problem, whose model coordinates define the norm.
            coordinates: The coordinates of the point and of the result.
            point: Shape (K, D + 1); a direction of the parameters is possible too.

        Returns:
            Shape (K, D + 1).
        """
        if not self.directions.shape[1]:
            return point
        along = coordinates.to(problem.model, point)[:, :-1] @ self.directions[:-1]
        return point - problem.model.to(coordinates, along @ self.directions.T)


class TriangularFactor(Pass[Tensor]):
    """The triangular factor R of a QR factorization of the rows, with a 1 for the intercept.

    Rows of weight 0 are left out; other weights do not count.  Rows are collected and factored a few blocks at a time
    (a sequential tall-skinny QR), so that no more than 4 (D + 1) rows beside one block are held.

    References:
        Demmel, Grigori, Hoemmen and Langou (2012), Communication-optimal parallel and sequential QR and LU
        factorizations.
    """

    samples = ("_waiting",)
    copies = True

    def __init__(self, problem: Problem, coordinates: Coordinates) -> None:
        super().__init__(problem, coordinates, torch.float64)
        self._waiting: list[Tensor] = []
        self._rows, self._width = 0, problem.num_features + 1

    def accumulate(self, rows: PreparedRows) -> None:
        """Collects the rows; factors them once there are 4 (D + 1) of them."""
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
    """Finds the directions of the parameters that change no logit of any row of positive weight.

    Args:
        problem: The problem whose rows are requested.
        coordinates: Coordinates in which the columns have mean 0, if such are known already.

    Raises:
        DivergedError: Squares of the rows are not finite.
    """
    if coordinates is None:
        coordinates = choose_coordinates(problem, (yield from sampled_rows(problem)), every_scale=True)
    triangle = yield from request(TriangularFactor(problem, coordinates))
    size = torch.linalg.vector_norm(triangle, dim=0)
    if not bool(size.isfinite().all()):
        raise DivergedError(NOT_FINITE_MESSAGE)
    size = torch.where(size > 0, size, 1.0)
    _, values, vectors = torch.linalg.svd(triangle / size, full_matrices=True)
    rank = int((values > NULL_SINGULAR_VALUE * values.amax()).sum())
    null = vectors[rank:].T
    if not problem.intercept:  # the column of zeros in the place of the intercept is no direction
        null = null[:, torch.linalg.vector_norm(null[:-1], dim=0) > NEGLIGIBLE_COMPONENT]
        null[-1] = 0
    if not null.shape[1]:
        return NullSpace(null)
    # A component of rounding must not couple columns that are in very different units.
    null = torch.where(null.abs() > NEGLIGIBLE_COMPONENT, null, 0.0) / size.unsqueeze(1)
    return NullSpace(_orthonormal(coordinates.to(problem.model, null.T).T))


def _orthonormal(directions: Tensor) -> Tensor:
    """Directions (D + 1, R) of the same span whose coefficients, all rows but the last, are orthonormal.

    References:
        Cox and Higham (1998), Stability of Householder QR factorization for weighted least squares problems: with the
        largest rows first each row of the factor has a small relative error.
    """
    coef, by_intercept = directions[:-1], directions[-1:]
    coef, by_intercept = (part / torch.linalg.vector_norm(coef, dim=0) for part in (coef, by_intercept))
    order = coef.abs().amax(1).argsort(descending=True)
    orthonormal, root = torch.linalg.qr(coef[order])
    coef = torch.zeros_like(orthonormal).index_copy(0, order, orthonormal)
    by_intercept = torch.linalg.solve_triangular(root, by_intercept, upper=True, left=False)
    return torch.cat([coef, by_intercept])


def move_to_minimum_norm(state: SolverState, null: NullSpace | None = None) -> PassRequests[None]:
    """Moves an optimizer's last point to the one of least norm among the points that have the same objective.

    The norm is |coef| in the model's own coordinates.  The intercepts of a softmax sum to 0 afterwards.  Where the
    point moved, its gap is bounded again; a point whose f is higher than rounding explains is not taken.

    Args:
        state: The state at the end of the optimizer; its point, coordinates and bound are updated.
        null: The directions that change no logit, if they are known; without a penalty they are looked for else.
    """
    problem, model = state.problem, state.problem.model
    if problem.objective.has_penalty and not problem.coupled:
        return
    point = before = state.solution
    if not problem.objective.has_penalty:
        if null is None and problem.num_features < MAX_NULL_SPACE_FEATURES:
            null = yield from find_null_space(problem)
        point = point if null is None else null.project_out(problem, model, point)
        point = point - point.mean(0) if problem.coupled else point
    elif problem.coupled and not problem.objective.l2:
        l2, l1 = problem.penalties(model)
        point = shift_to_least_penalty(point.flatten(), l1.expand_as(point).flatten(), (point.shape, l2)).view_as(point)
    moved = point is not before and bool(
        ((point - before)[:, :-1].abs() > NEGLIGIBLE_CHANGE * before[:, :-1].abs().amax()).any()
    )
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
    if old is not None and new is not None and not new.value <= old.value + NEGLIGIBLE_CHANGE * abs(old.value):
        state.coordinates, state.point, state.best, state.bound = was


def shift_to_least_penalty(point: Tensor, l1: Tensor, shared: SharedShift) -> Tensor:
    """Subtracts from all outputs' coefficients of a feature the number s that minimizes their penalties.

    Without l2, any median of the K coefficients is such an s; the median nearest to their mean leaves the least norm.
    With l2, s is the median of the K coefficients and of K + 1 numbers: for each j, the place where the derivative of
    the penalties would be 0 if j of the coefficients were below s.

    Args:
        point: Point of a softmax, (K * (D + 1),).
        l1: Strength of l1 by each coordinate, (K * (D + 1),); coordinates without l1 stay.
        shared: Shape of the point, and l2.
    """
    shape, l2 = shared
    values, l1 = point.view(shape), l1.view(shape)[0]
    k = len(values)
    below = torch.arange(k + 1, dtype=point.dtype, device=point.device).unsqueeze(1)
    zeros = values.mean(0) + (k - 2 * below) * (l1 / (k * l2.clamp(min=1e-300)))
    shift = torch.cat([values, zeros]).median(0).values
    ordered = values.sort(0).values
    median = values.mean(0).clamp(ordered[(k - 1) // 2], ordered[k // 2])
    shift = torch.where(l2 > 0, shift, median)
    return (values - torch.where(l1 > 0, shift, 0.0)).flatten()
