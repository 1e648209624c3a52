"""The squared hinge loss sum_i max(0, 1 - z_i'b)^2 of signed rows z, minimized by a finite Newton method.

The loss is piecewise quadratic: on the rows with z'b < 1 it is a least-squares problem, and a step goes to its solution
with an exact line search.  If the minimum is 0, b separates the rows.  If it is positive, the rows A with residuals
r = 1 - z'b > 0 satisfy sum_A r z = 0.  For any d with z'd >= 0 for all rows then sum_A r z'd = 0, a sum without a
negative term, so that z'd = 0 for all rows of A: they lie on the boundary of every direction that separates.

References:
    Keerthi and DeCoste (2005), A modified finite Newton method for fast solution of large scale linear SVMs, Journal
    of Machine Learning Research 6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from logreg.optimality.separation.rows import BOUNDARY_COSINE, TooMuchWork

MAX_HINGE_STEPS = 100
"""Newton's steps at most; in exact arithmetic they end after fewer."""

MAX_STEP_DOUBLINGS = 1100
"""Largest number of doublings of a step's length; the exponents of float64 allow no more."""

STEP_BISECTIONS = 10
"""Bisections of a step's length: the line search need not be exact to the last digit."""

MARGIN_ROUNDING = 1e-9
"""Rounding of a margin z'b near 1, at least."""

MIN_CHOLESKY_PIVOT = 1e-6
"""Smallest pivot of a Cholesky factorization, relative to the largest diagonal entry, for it to be accurate."""


def minimize_squared_hinge(
    signed: Tensor, seconds_left: Callable[[], float], start: Tensor | None = None
) -> tuple[Tensor | None, Tensor]:
    """Minimizes sum max(0, 1 - z'b)^2 over rows z until it is known whether the minimum is 0.

    Args:
        signed: The rows z, shape (n, p).
        seconds_left: Raises `TooMuchWork` once the time is over.
        start: The first b, shape (p,); zero where ``None``.

    Returns:
        b if all z'b > 1/2, which separates the rows, or ``None``; and a mask of the rows with z'b < 1, which, in the
        case of ``None``, lie on the boundary of every direction that separates.

    Raises:
        TooMuchWork: Neither is certain within the steps or the time.
    """
    coef = signed.new_zeros(signed.shape[1]) if start is None else start
    noise = MARGIN_ROUNDING
    for _ in range(MAX_HINGE_STEPS):
        margins = signed @ coef
        left = margins < 1 - noise
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
        coef = coef + _step_length(margins, signed @ step, left) * step
    raise TooMuchWork


def _step_length(margins: Tensor, change: Tensor, left: Tensor) -> float:
    """The length of a step at which the loss is least along it, by bisection of its derivative.

    Args:
        margins: z'b before the step, (n,).
        change: The change of the margins by a step of length 1, (n,).
        left: The mask of the rows whose least-squares problem the step solves.
    """
    low, high = 0.0, 1.0
    if not bool(((margins + change < 1) != left).any()):
        return high  # the same rows have residuals there: the least-squares solution is the minimum
    for _ in range(MAX_STEP_DOUBLINGS):
        if not float((1 - margins - high * change).clamp_min(0) @ change) > 0:
            break
        low, high = high, 2 * high
    for _ in range(STEP_BISECTIONS):
        middle = (low + high) / 2
        if float((1 - margins - middle * change).clamp_min(0) @ change) > 0:
            low = middle
        else:
            high = middle
    return high


def _least_squares(rows: Tensor, targets: Tensor) -> tuple[Tensor, float, float]:
    """The b that minimizes |rows @ b - targets|, of least norm; the norm |rows @ b|; and the rounding error of that.

    The normal equations serve where they are well conditioned, and a singular value decomposition else.
    """
    rounding = 10 * torch.finfo(rows.dtype).eps * float(targets.norm())
    gram, right = rows.T @ rows, rows.T @ targets
    root, failed = torch.linalg.cholesky_ex(gram)
    if not failed and bool((root.diagonal().square() > MIN_CHOLESKY_PIVOT * gram.diagonal().max()).all()):
        best = torch.cholesky_solve(right.unsqueeze(1), root).squeeze(1)
        return best, float(right @ best) ** 0.5, 1e3 * rounding
    best, (values, axes) = torch.zeros_like(right), row_space_axes(rows)
    for _ in range(2):  # the second time is a step of iterative refinement
        best = best + axes.T @ (axes @ (rows.T @ (targets - rows @ best)) / values.square())
    return best, float((rows @ best).norm()), float(values[0] / values[-1]) * rounding


def row_space_axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values above rounding, shape (rank,), and the right singular vectors of them, (rank, p)."""
    square = torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows
    _, values, axes = torch.linalg.svd(square, full_matrices=False)
    rank = int((values > BOUNDARY_COSINE * values[0]).sum())
    return values[:rank], axes[:rank]
