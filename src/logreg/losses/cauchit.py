"""The cauchit link: the distribution function of the Cauchy distribution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from logreg.losses.binary_link import BinaryLink, Terms, of_tail, sloped


class CauchitLoss(BinaryLink):
    """F(z) = 1/2 + arctan(z) / pi.

    The loss of a wrong logit grows as log |z|, so it is not convex: rows far on the wrong side hardly count.

    References:
        Koenker and Yoon (2009), Parametric links for binary choice models.
    """

    name = "cauchit"
    formula = "1/2 + arctan(z) / pi"
    is_convex = False
    max_curvature = 1.0
    lipschitz = 1.0

    def probability(self, z: Any, functions: Any) -> Any:
        """See `BinaryLink.probability`."""
        return functions.arctan(z) / math.pi + 0.5

    def of_one(self, logits: Tensor) -> Terms:
        """See `BinaryLink.of_one`."""
        tail = torch.atan2(torch.ones_like(logits), logits.abs()) / math.pi
        spread = 1 + logits.square()
        slope = -1 / (math.pi * spread * torch.where(logits < 0, tail, 1 - tail))
        return Terms(of_tail(tail, logits), slope, sloped(slope, -2 * logits / spread))
