"""The squared hinge loss, minimized by Newton's method, which separates rows or says which cannot be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from logreg.optimality.separation.rows import TIE, TooMuchWork

DOUBLINGS, PROGRAMS = 1100, 1000
"""Of the length of a step, all that float64 has; and linear programs, each with more rows than the one before."""


def least_hinge(
    signed: Tensor, seconds_left: Callable[[], float], start: Tensor | None = None
) -> tuple[Tensor | None, Tensor]:
    """Minimizes the sum of max(0, 1 - z'b)^2 over rows z, of shape (n, p), from b = ``start`` on.

    Returns:
        b if all z'b > 1/2, which is enough, or ``None``; and then a mask of the rows with z'b < 1, which lie on the
        boundary of every direction that separates.

    Raises:
        TooMuchWork: Neither is certain.
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
    raise TooMuchWork


def _least_squares(rows: Tensor, targets: Tensor) -> tuple[Tensor, float, float]:
    """The b of the least |rows @ b - targets|; |rows @ b|, and its error from rounding."""
    rounding = 10 * torch.finfo(rows.dtype).eps * float(targets.norm())
    gram, right = rows.T @ rows, rows.T @ targets
    root, failed = torch.linalg.cholesky_ex(gram)
    if not failed and bool((root.diagonal().square() > 1e-6 * gram.diagonal().max()).all()):
        best = torch.cholesky_solve(right.unsqueeze(1), root).squeeze(1)
        return best, float(right @ best) ** 0.5, 1e3 * rounding
    best, (values, axes) = torch.zeros_like(right), axes_of(rows)
    for _ in range(2):  # the second time corrects the rounding of the first
        best = best + axes.T @ (axes @ (rows.T @ (targets - rows @ best)) / values.square())
    return best, float((rows @ best).norm()), float(values[0] / values[-1]) * rounding


def axes_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values that are not 0, shape (rank,), and their axes, (rank, p)."""
    square = torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows
    _, values, axes = torch.linalg.svd(square, full_matrices=False)
    rank = int((values > TIE * values[0]).sum())
    return values[:rank], axes[:rank]
