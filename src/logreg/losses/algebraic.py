"""The algebraic link: z / sqrt(1 + z^2), scaled to probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logreg.losses.binary_link import BinaryLink, Terms, of_tail, sloped


class AlgebraicLoss(BinaryLink):
    """F(z) = (1 + z / sqrt(1 + z^2)) / 2: the distribution function of Student's t with 2 degrees of freedom, rescaled.

    The loss of a wrong logit grows as 2 log |z|, so it is not convex.
    """

    name = "algebraic"
    formula = "(1 + z / sqrt(1 + z^2)) / 2"
    is_convex = False
    max_curvature = 1.5
    lipschitz = 1.3

    def probability(self, z: Any, functions: Any) -> Any:
        """See `BinaryLink.probability`."""
        return (z / functions.sqrt(z * z + 1) + 1) / 2

    def of_one(self, logits: Tensor) -> Terms:
        """See `BinaryLink.of_one`."""
        size = logits.abs()
        spread = 1 + logits.square()
        root = spread.sqrt()
        slope = -torch.where(logits < 0, (root + size) / spread, 1 / (spread * (root + size)))
        return Terms(of_tail(0.5 / (root * (root + size)), logits), slope, sloped(slope, -3 * logits / spread))
