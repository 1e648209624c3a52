"""The softmax loss: cross-entropy of several classes together."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.losses.base import RowTerms, divided
from logreg.losses.cross_entropy import CrossEntropy

MIN_ROWWISE_OUTPUTS = 16
"""Outputs from which a CPU computes a softmax row by row: they fill a vector register.

Of fewer outputs torch computes each number alone, but a softmax over columns for many rows at once, in far less
time.  Logits that lie in memory by columns are computed so however many there are.
"""

LOG2_E = 1 / math.log(2)
"""The binary logarithm of e."""


class SoftmaxLoss(CrossEntropy):
    """logsumexp(z) - y' z of the logits z of a row and targets y that sum to 1.

    The largest logit is subtracted before anything is exponentiated.

    Example:
        >>> SoftmaxLoss().value(torch.zeros(1, 4), torch.eye(4)[:1])  # log 4
        tensor([1.3863])
    """

    name = "cross_entropy"
    link = "softmax"
    couples_outputs = True
    max_curvature = 0.5

    def described(self, num_outputs: int) -> str:
        """See `Loss.described`."""
        return "softmax cross-entropy"

    def num_outputs(self, num_classes: int) -> int:
        """C: one output for each class."""
        return num_classes

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Minus the logarithm of the probability of the class."""
        return -(log_softmax(logits) * targets).sum(1)

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Probabilities minus targets."""
        return softmax(logits).sub_(targets)

    def curvature(self, logits: Tensor, targets: Tensor | None) -> Tensor:
        """The probabilities p: the second derivative is diag(p) - p p'."""
        return softmax(logits)

    def inverse_link(self, logits: Tensor) -> Tensor:
        """The softmax."""
        return softmax(logits)

    def conjugate(self, dual: Tensor, targets: Tensor) -> Tensor:
        """Minus the entropy of the probabilities y + dual."""
        entropy: Tensor = torch.special.entr(targets + dual)
        return -entropy.sum(1)

    def value_at(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Loss.value_at`; the one-hot targets, which are mostly 0, are not built."""
        if _by_columns(logits):
            return log_softmax(logits).gather(1, labels.unsqueeze(1))[:, 0].neg_()
        losses: Tensor = F.cross_entropy(logits, labels, reduction="none")
        return losses

    def evaluate_fast(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """See `CrossEntropy.evaluate_fast`; the one-hot targets, which are mostly 0, are not built."""
        own = labels.unsqueeze(1)
        minus_one = logits.new_full((1, 1), -1.0)
        if _by_columns(logits):  # one exponential of each logit, where a softmax and its logarithm take two
            columns = logits.T.contiguous()  # as they are, mostly
            behind = columns - columns.amax(0)
            of_own = behind.gather(0, own.T)[0]
            p = behind.mul_(LOG2_E).exp2_()  # takes less time than MKL's exponential, at least on processors of AMD
            sums = p.sum(0)
            values, p = sums.log() - of_own, p.div_(sums)
            residuals = p.scatter_add(0, own.T, minus_one.expand(1, len(own)))  # along whole columns, as they lie
            return RowTerms(values, residuals.T, p.T)
        log_probabilities = log_softmax(logits)
        values = log_probabilities.gather(1, own)[:, 0].neg_()
        p = log_probabilities.exp_()
        return RowTerms(values, p.scatter_add(1, own, minus_one.expand(len(own), 1)), p)

    def evaluate_precisely(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """See `Loss.evaluate_precisely`; computed from the probabilities of the wrong classes, precise where small."""
        own = labels.unsqueeze(1)
        behind = (logits - logits.gather(1, own)).scatter_(1, own, -math.inf)
        p = softmax(logits)
        wrong = p.scatter(1, own, 0.0)
        residuals = wrong.scatter_(1, own, -wrong.sum(1, keepdim=True))
        return RowTerms(-F.logsigmoid(-behind.logsumexp(1)), residuals, p)

    def prior_shift(self, log_weight: Tensor, num_outputs: int) -> Tensor | None:
        """The logarithms of the weights."""
        return log_weight

    def class_probabilities(
        self, logits: Tensor, temperature: float | Tensor = 1.0, log_weight: Tensor | None = None
    ) -> Tensor:
        """See `Loss.class_probabilities`: log w_k is subtracted from logit k."""
        logits = logits if log_weight is None else logits - log_weight.to(logits)
        return softmax(divided(logits, temperature))


def softmax(logits: Tensor) -> Tensor:
    """The softmax of each row of logits (N, K)."""
    return torch.softmax(logits.T, dim=0).T if _by_columns(logits) else torch.softmax(logits, dim=1)


def log_softmax(logits: Tensor) -> Tensor:
    """The logarithm of the softmax of each row of logits (N, K)."""
    return torch.log_softmax(logits.T, dim=0).T if _by_columns(logits) else torch.log_softmax(logits, dim=1)


def _by_columns(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and (logits.shape[1] < MIN_ROWWISE_OUTPUTS or logits.stride(0) == 1)
