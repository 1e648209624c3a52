"""Intervals of predicted probabilities: by the delta method on the logit, which the link takes to a probability.

A logit of a row x has the standard error sqrt(x' C x), with the covariance C of the estimates; the ends of its interval
go through the link, so that they stay within 0 and 1.  Of several classes each has the interval of its own log-odds
against all others, eta_c - log sum_b exp(eta_b) over b != c.

References:
    Xu and Long (2005), Confidence intervals for predicted outcomes in regression models for categorical outcomes, The
    Stata Journal 5: endpoint transformation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from logreg.inference.design import Design
from logreg.losses import Loss
from logreg.solvers.problem import Coordinates

MAX_PRODUCTS = 2**20
"""Numbers of the covariances of logits that are held at once: 8 MiB."""


@dataclass(frozen=True)
class PredictionIntervals:
    """Estimates with their covariance, for the intervals of probabilities.

    Attributes:
        design: The parameters; the reference class is the first one.
        loss: The loss, which has the link.
        parameters: Shape (M, P), by features (x - mean) / std.
        covariance: Of the parameters, (M * P, M * P).
        mean, std: Shape (D,) each, in source units.
        confidence: Level of the intervals, in (0, 1).
    """

    design: Design
    loss: Loss
    parameters: Tensor
    covariance: Tensor
    mean: Tensor
    std: Tensor
    confidence: float

    def limits(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper limits of the probability of each class, (N, C) each.

        Args:
            features: Shape (N, D) in source units, float64, and an offset as one more column.
        """
        parts = features.split(max(1, MAX_PRODUCTS // (len(self.parameters) * len(self.covariance))))
        low, high = zip(*map(self._limits, parts), strict=True)
        return torch.cat(low), torch.cat(high)

    def _limits(self, features: Tensor) -> tuple[Tensor, Tensor]:
        learned, offset = features.split([len(self.mean), features.shape[1] - len(self.mean)], dim=1)
        columns = self.design.columns(learned, Coordinates(self.mean, self.std))
        logits = columns @ self.parameters.T + offset.sum(1, keepdim=True)
        (m, p), quantile = self.parameters.shape, NormalDist().inv_cdf((1 + self.confidence) / 2)
        blocks = self.covariance.view(m, p, m, p)
        between = torch.einsum("np,apbq,nq->nab", columns, blocks, columns)  # covariances of the logits of a row
        if not self.loss.couples_outputs:
            reach = quantile * between[:, :, 0].clamp(min=0).sqrt()
            ends = [self.loss.class_probabilities(logits + sign * reach) for sign in (-1.0, 1.0)]
            return torch.minimum(*ends), torch.maximum(*ends)
        log_odds, slopes = _log_odds(torch.nn.functional.pad(logits, (1, 0)))
        slopes = slopes[:, :, 1:]
        reach = quantile * torch.einsum("nca,nab,ncb->nc", slopes, between, slopes).clamp(min=0).sqrt()
        return torch.sigmoid(log_odds - reach), torch.sigmoid(log_odds + reach)


def _log_odds(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds (n, C) of each class against all others, and their derivatives (n, C, C) by the logits (n, C)."""
    own = torch.eye(logits.shape[1], dtype=torch.bool)
    others = logits.unsqueeze(1).masked_fill(own, -math.inf)
    slopes = torch.where(own, 1.0, -torch.softmax(others, dim=2))
    return logits - torch.logsumexp(others, dim=2), slopes
