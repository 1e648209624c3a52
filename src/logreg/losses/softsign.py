"""The softsign link: z / (1 + |z|), scaled to probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logreg.losses.binary_link import BinaryLink, Terms, of_tail, sloped


class SoftsignLoss(BinaryLink):
    """F(z) = (1 + z / (1 + |z|)) / 2.

    The loss of a wrong logit grows as log |z|, so it is not convex.  Its second derivative jumps at 0, where it is that
    from the right.
    """

    name = "softsign"
    formula = "(1 + z / (1 + |z|)) / 2"
    is_convex = False
    max_curvature = 3.0
    lipschitz = 1.0

    def probability(self, z: Any, functions: Any) -> Any:
        """See `BinaryLink.probability`."""
        return (z / (functions.abs(z) + 1) + 1) / 2

    def of_one(self, logits: Tensor) -> Terms:
        """See `BinaryLink.of_one`."""
        size = logits.abs()
        slope = -torch.where(logits < 0, 1 / (1 + size), 1 / ((1 + size) * (1 + 2 * size)))
        right_sign = torch.where(logits < 0, 1.0, -1.0)
        return Terms(of_tail(0.5 / (1 + size), logits), slope, sloped(slope, right_sign * 2 / (1 + size)))
