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

import torch
from torch import Tensor

from logreg.optimality.separation.rows import BOUNDARY_COSINE
from logreg.optimality.separation.work import TooMuchWork, Work

MAX_HINGE_STEPS = 100
"""Newton's steps at most; in exact arithmetic they end after fewer."""

MAX_STEP_DOUBLINGS = 1100
"""Largest number of doublings of a step's length; the exponents of float64 allow no more."""

STEP_BISECTIONS = 10
"""Bisections of a step's length: the line search need not be exact to the last digit."""

SLOPE_ROUNDING = 1e-12
"""Derivative of the loss along a step, relative to the derivative at its start, that counts as 0.

Without it the rounding of a margin that a step should not change would make the step longer by a factor of 1e16.
"""

MARGIN_ROUNDING = 1e-9
"""Rounding of a margin z'b near 1, at least."""

MIN_CHOLESKY_PIVOT = 1e-6
"""Smallest pivot of a Cholesky factorization, relative to the largest diagonal entry, for it to be accurate."""

PRODUCTS_OF_SVD = 10
"""Multiplications of a singular value decomposition in units of the cube of its order, about."""


def minimize_squared_hinge(signed: Tensor, work: Work, start: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
    """Minimizes sum max(0, 1 - z'b)^2 over rows z until it is known whether the minimum is 0.

    Args:
        signed: The rows z, shape (n, p).
        work: The work that may still be done.
        start: The first b, shape (p,); zero where ``None``.

    Returns:
        b if all z'b > 1/2, which separates the rows, or ``None``; and a mask of the rows with z'b < 1, which, in the
        case of ``None``, lie on the boundary of every direction that separates.

    Raises:
        TooMuchWork: Neither is certain within the steps or the work.
    """
    coef = signed.new_zeros(signed.shape[1]) if start is None else start
    noise = MARGIN_ROUNDING
    for _ in range(MAX_HINGE_STEPS):
        margins = signed @ coef
        left = margins < 1 - noise
        if bool((margins > 0.5).all()):
            return coef, left
        work.spend(numbers=signed.numel() + STEP_BISECTIONS * len(signed))
        residuals = 1 - margins[left]
        step, decrement, rounding = _least_squares(signed[left], residuals, work)
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

    def slope(length: float) -> float:
        return float((1 - margins - length * change).clamp_min(0) @ change)

    least = SLOPE_ROUNDING * slope(0)
    for _ in range(MAX_STEP_DOUBLINGS):
        if not slope(high) > least:
            break
        low, high = high, 2 * high
    for _ in range(STEP_BISECTIONS):
        middle = (low + high) / 2
        if slope(middle) > least:
            low = middle
        else:
            high = middle
    return high


def _least_squares(rows: Tensor, targets: Tensor, work: Work) -> tuple[Tensor, float, float]:
    """The b that minimizes |rows @ b - targets|, of least norm; the norm |rows @ b|; and the rounding error of that.

    The normal equations serve where they are well conditioned, and a singular value decomposition else.
    """
    order = rows.shape[1]
    work.spend(numbers=rows.numel(), products=rows.numel() * order + order**3 / 3)
    rounding = 10 * torch.finfo(rows.dtype).eps * float(targets.norm())
    gram, right = rows.T @ rows, rows.T @ targets
    root, failed = torch.linalg.cholesky_ex(gram)
    if not failed and bool((root.diagonal().square() > MIN_CHOLESKY_PIVOT * gram.diagonal().max()).all()):
        best = torch.cholesky_solve(right.unsqueeze(1), root).squeeze(1)
        return best, float(right @ best) ** 0.5, 1e3 * rounding
    best, (values, axes) = torch.zeros_like(right), row_space_axes(rows, work)
    for _ in range(2):  # the second time is a step of iterative refinement
        best = best + axes.T @ (axes @ (rows.T @ (targets - rows @ best)) / values.square())
    return best, float((rows @ best).norm()), float(values[0] / values[-1]) * rounding


def row_space_axes(rows: Tensor, work: Work) -> tuple[Tensor, Tensor]:
    """Singular values above rounding, shape (rank,), and the right singular vectors of them, (rank, p).

    Raises:
        TooMuchWork: They are more work than may still be done.
    """
    least = min(rows.shape)
    work.spend(products=2 * rows.numel() * least + PRODUCTS_OF_SVD * least**2 * rows.shape[1])
    square = torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows
    _, values, axes = torch.linalg.svd(square, full_matrices=False)
    rank = int((values > BOUNDARY_COSINE * values[0]).sum())
    return values[:rank], axes[:rank]
