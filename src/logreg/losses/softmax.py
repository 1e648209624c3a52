"""The softmax loss: cross-entropy of several classes together."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.losses.base import RowTerms
from logreg.losses.cross_entropy import CrossEntropy


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
        losses: Tensor = F.cross_entropy(logits, targets, reduction="none")
        return losses

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Probabilities minus targets."""
        return torch.softmax(logits, dim=1).sub_(targets)

    def curvature(self, logits: Tensor, targets: Tensor | None) -> Tensor:
        """The probabilities p: the second derivative is diag(p) - p p'."""
        return torch.softmax(logits, dim=1)

    def inverse_link(self, logits: Tensor) -> Tensor:
        """The softmax."""
        return torch.softmax(logits, dim=1)

    def conjugate(self, dual: Tensor, targets: Tensor) -> Tensor:
        """Minus the entropy of the probabilities y + dual."""
        entropy: Tensor = torch.special.entr(targets + dual)
        return -entropy.sum(1)

    def value_at(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Loss.value_at`; the one-hot targets, which are mostly 0, are not built."""
        losses: Tensor = F.cross_entropy(logits, labels, reduction="none")
        return losses

    def evaluate(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """See `Loss.evaluate`; the one-hot targets, which are mostly 0, are not built."""
        own = labels.unsqueeze(1)
        log_probabilities = torch.log_softmax(logits, dim=1)
        values = log_probabilities.gather(1, own)[:, 0].neg_()
        p = log_probabilities.exp_()
        minus_one = logits.new_full((1, 1), -1.0).expand(len(own), 1)
        return RowTerms(values, p.scatter_add(1, own, minus_one), p)

    def evaluate_precisely(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """See `Loss.evaluate_precisely`; computed from the probabilities of the wrong classes, precise where small."""
        own = labels.unsqueeze(1)
        behind = (logits - logits.gather(1, own)).scatter_(1, own, -math.inf)
        p = torch.softmax(logits, dim=1)
        wrong = p.scatter(1, own, 0.0)
        residuals = wrong.scatter_(1, own, -wrong.sum(1, keepdim=True))
        return RowTerms(-F.logsigmoid(-behind.logsumexp(1)), residuals, p)

    def class_probabilities(self, logits: Tensor, temperature: float = 1.0, log_weight: Tensor | None = None) -> Tensor:
        """See `Loss.class_probabilities`: log w_k is subtracted from logit k."""
        logits = logits if log_weight is None else logits - log_weight.to(logits)
        return torch.softmax(logits if temperature == 1 else logits / temperature, dim=1)
