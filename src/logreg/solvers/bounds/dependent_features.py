"""The rank of the feature matrix, proven in exact arithmetic, and the features that are linearly dependent.

Without a penalty a bound by curvature holds on the span of the eigenvectors of the Hessian whose eigenvalues are known
above rounding.  It holds everywhere if the rank of the features is no larger than the number of these eigenvectors.  A
computed rank proves nothing, since rounding hides small singular values.  Therefore the numerical null space only
suggests linear dependences; each is then checked in exact arithmetic over all rows, or counts as an estimate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.dependence import DependenceResidual, ExactDependence
from logreg.solvers.passes.precise import UNIT_ROUNDOFF
from logreg.solvers.problem import Coordinates, Problem

COEFFICIENT_BITS = 12
"""Largest number of binary digits of a coefficient of an exact linear dependence.

The dependences that tables have by construction (copies, sums, levels) have coefficients such as 1, -1 and 0.25.
"""

MAX_DENOMINATOR = 12
"""Largest number by which the coefficients of a dependence are multiplied to make them numbers of few binary digits.

Thirds, fifths and twelfths become whole numbers.
"""

NEGLIGIBLE_COEFFICIENT = 1e-5
"""Coefficient of a numerical null vector, relative to the largest one, up to which the coefficient counts as 0."""

DEPENDENCE_ROUNDING = 1e-6
"""Residual of a linear dependence, relative to its terms, up to which rounding of the features explains it.

Features in float32 have a relative rounding of 6e-8, and a dependence has a few terms.
"""

RESOLVED_EIGENVALUE_RATIO = 20.0
"""Ratio of an eigenvalue to the rounding error of the Hessian from which the eigenvalue counts as known."""


def rank_of(
    problem: Problem, coordinates: Coordinates, gram: Tensor, rows: int, accumulated: float
) -> PassRequests[tuple[int, int, tuple[int, ...]]]:
    """Bounds the rank of the features together with the intercept.

    The numerical null space is brought to reduced row echelon form, in which its vectors have simple coefficients
    where the dependence is simple: a copy, a sum, the levels of a category.  Vectors whose combination of the features
    vanishes in exact arithmetic lower the rank.

    Args:
        problem: The problem whose rows are requested.
        coordinates: The coordinates of the features in ``gram``.
        gram: Weighted sums over the rows of the products of two features, (P, P), with the 1 of the intercept if any.
        rows: The number of rows of positive weight.
        accumulated: Bound on the relative rounding error of the sums.

    Returns:
        An upper bound of the rank in exact arithmetic; the rank up to the rounding of the features; the features that
        are dependent up to rounding and not proven to be so exactly, in ascending order.
    """
    p = len(gram)
    diagonal = gram.diagonal()
    units = torch.where(diagonal > 0, diagonal.rsqrt(), 1.0)
    try:
        values, vectors = torch.linalg.eigh(units * gram * units.unsqueeze(1))
    except RuntimeError:  # torch's LinAlgError, which it does not export
        return min(p, rows), p, ()
    null = values <= RESOLVED_EIGENVALUE_RATIO * p * (accumulated + 20 * UNIT_ROUNDOFF * values[-1])
    basis = _echelon(vectors[: problem.num_features, null].T.contiguous())
    combinations = _simple(basis * (units[: problem.num_features] / coordinates.scale))
    vanish = (yield from request(ExactDependence(problem, combinations))) & (combinations != 0).any(1)
    rest = basis[~vanish]
    known = int(vanish.sum())
    if len(rest):
        rest = rest * (units[: problem.num_features] / coordinates.scale)
        known += int(((yield from request(DependenceResidual(problem, rest))) <= DEPENDENCE_ROUNDING).sum())
    dependent = (rest != 0).any(0).nonzero()[:, 0]
    return min(p - int(vanish.sum()), rows), p - known, tuple(dependent.tolist())


def _echelon(basis: Tensor) -> Tensor:
    """The reduced row echelon form of vectors (M, D), by Gauss-Jordan elimination with complete pivoting.

    Each vector of the result has a pivot of 1 where the other vectors are 0.  Negligible coefficients are set to 0.
    """
    done: list[int] = []
    for _ in range(min(basis.shape)):
        rest = basis.abs()
        rest[done] = 0
        row, column = divmod(int(rest.argmax()), basis.shape[1])
        if not float(rest[row, column]) > NEGLIGIBLE_COEFFICIENT:
            break
        basis[row] /= basis[row, column].clone()
        others = torch.arange(len(basis)) != row
        basis[others] -= basis[others, column].unsqueeze(1) * basis[row]
        done.append(row)
    basis = basis[done]
    return torch.where(basis.abs() > NEGLIGIBLE_COEFFICIENT * basis.abs().amax(1, keepdim=True), basis, 0.0)


def _simple(combinations: Tensor) -> Tensor:
    """Rounds vectors (M, D) to coefficients of few binary digits whose smallest is at least 1.

    A vector that has no such multiple within its rounding becomes 0.
    """
    combinations = combinations / torch.where(combinations == 0, math.inf, combinations.abs()).amin(1, keepdim=True)
    found = torch.zeros_like(combinations)
    for multiple in range(MAX_DENOMINATOR, 0, -1):
        digits, exponent = torch.frexp(combinations * multiple)
        rounded = torch.ldexp((digits * 2**COEFFICIENT_BITS).round() / 2**COEFFICIENT_BITS, exponent)
        fits = ((rounded - combinations * multiple).abs() <= NEGLIGIBLE_COEFFICIENT * rounded.abs()).all(1)
        found[fits] = rounded[fits]
    return found
