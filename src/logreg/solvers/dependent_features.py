"""The rank of the features, and which of them depend linearly on others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.certifying import UNIT_ROUNDOFF, accumulated
from logreg.solvers.passes.dependence import Residue, Vanishing
from logreg.solvers.problem import Coordinates, Problem

DIGITS, MULTIPLES = 12, 12
"""A coefficient of an exact dependence has so many binary digits, once multiplied by a number up to the second."""

ABSENT = 1e-5
"""Coefficient of a numerical dependence, relative to the largest, that is 0 but for rounding."""

ROUNDED = 1e-6
"""Difference between the sides of a dependence, relative to its terms, that is rounding: to float32, a few times."""


RESOLVED = 20.0
"""An eigenvalue of the Hessian counts as known if it is so many times the Hessian's rounding error."""


def rank_of(
    problem: Problem, coordinates: Coordinates, gram: Tensor, rows: int
) -> PassRequests[tuple[int, int, tuple[int, ...]]]:
    """The rank of the features with the intercept, at most; what it is but for rounding; which depend on others so.

    The numerical null space suggests combinations of features with simple coefficients: copies, sums, the levels of a
    category.  Those that vanish in exact arithmetic lower the rank.

    Args:
        problem: Whose rows will be shown.
        coordinates: In which the features are multiplied.
        gram: Weighted sums over the rows of products of two features, (P, P), with the 1 of the intercept if any.
        rows: How many there are.
    """
    p = len(gram)
    diagonal = gram.diagonal()
    units = torch.where(diagonal > 0, diagonal.rsqrt(), 1.0)
    try:
        values, vectors = torch.linalg.eigh(units * gram * units.unsqueeze(1))
    except RuntimeError:  # torch's LinAlgError, which it does not export
        return min(p, rows), p, ()
    null = values <= RESOLVED * p * (accumulated(problem) + 20 * UNIT_ROUNDOFF * values[-1])
    basis = _echelon(vectors[: problem.num_features, null].T.contiguous())
    combinations = _simple(basis * (units[: problem.num_features] / coordinates.scale))
    vanish = (yield from request(Vanishing(problem, combinations))) & (combinations != 0).any(1)
    rest = basis[~vanish]
    known = int(vanish.sum())
    if len(rest):
        rest = rest * (units[: problem.num_features] / coordinates.scale)
        known += int(((yield from request(Residue(problem, rest))) <= ROUNDED).sum())
    dependent = (rest != 0).any(0).nonzero()[:, 0]
    return min(p - int(vanish.sum()), rows), p - known, tuple(dependent.tolist())


def _echelon(basis: Tensor) -> Tensor:
    """PreparedRows (M, D) -> others of the same span, each with a pivot where the others are 0; Gauss and Jordan."""
    done: list[int] = []
    for _ in range(min(basis.shape)):
        rest = basis.abs()
        rest[done] = 0
        row, column = divmod(int(rest.argmax()), basis.shape[1])
        if not float(rest[row, column]) > ABSENT:
            break
        basis[row] /= basis[row, column].clone()
        others = torch.arange(len(basis)) != row
        basis[others] -= basis[others, column].unsqueeze(1) * basis[row]
        done.append(row)
    basis = basis[done]
    return torch.where(basis.abs() > ABSENT * basis.abs().amax(1, keepdim=True), basis, 0.0)


def _simple(combinations: Tensor) -> Tensor:
    """The same directions (M, D) with coefficients of few binary digits, the smallest at least 1; else 0."""
    combinations = combinations / torch.where(combinations == 0, math.inf, combinations.abs()).amin(1, keepdim=True)
    found = torch.zeros_like(combinations)
    for multiple in range(MULTIPLES, 0, -1):
        digits, exponent = torch.frexp(combinations * multiple)
        rounded = torch.ldexp((digits * 2**DIGITS).round() / 2**DIGITS, exponent)
        fits = ((rounded - combinations * multiple).abs() <= ABSENT * rounded.abs()).all(1)
        found[fits] = rounded[fits]
    return found
