"""The logistic loss: binary cross-entropy with logits, for two classes or for each class against the rest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.losses.base import RowTerms, divided, one_vs_rest
from logreg.losses.cross_entropy import CrossEntropy


class LogisticLoss(CrossEntropy):
    """softplus(z) - y z of a logit z and a target y: -log p for y = 1 and -log(1 - p) for y = 0, p = sigmoid(z).

    torch computes it as (1 - y) z - log sigmoid(z): no positive number is exponentiated, so that a wrong z = 800 costs
    800 and not inf.

    Example:
        >>> LogisticLoss().value(torch.zeros(1, 1), torch.ones(1, 1))  # log 2
        tensor([0.6931])
    """

    name = "bce"
    link = "sigmoid"
    max_curvature = 0.25

    def described(self, num_outputs: int) -> str:
        """See `Loss.described`."""
        return "binary cross-entropy" if num_outputs == 1 else f"one-vs-rest cross-entropy of {num_outputs} outputs"

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum of the K outputs' cross-entropies, so that each output is fitted as if it were alone."""
        losses: Tensor = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)
        return losses

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Probabilities minus targets."""
        return torch.sigmoid(logits).sub_(targets)

    def curvature(self, logits: Tensor, targets: Tensor | None) -> Tensor:
        """The variance of a label, p (1 - p)."""
        p = torch.sigmoid(logits)
        return p * (1 - p)

    def inverse_link(self, logits: Tensor) -> Tensor:
        """The sigmoid."""
        return torch.sigmoid(logits)

    def conjugate(self, dual: Tensor, targets: Tensor) -> Tensor:
        """Minus the entropy of the probability y + dual."""
        q = targets + dual
        entropy: Tensor = torch.special.entr(q) + torch.special.entr(1 - q)
        return -entropy.sum(1)

    def evaluate_fast(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """See `CrossEntropy.evaluate_fast`; residual and curvature share one sigmoid."""
        targets = one_vs_rest(labels, logits.shape[1], logits.dtype)
        p = torch.sigmoid(logits)
        return RowTerms(self.value(logits, targets), p - targets, p * (1 - p))

    def evaluate_precisely(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """See `Loss.evaluate_precisely`; computed from the wrong class's probability, which is precise where small."""
        sign = 2 * one_vs_rest(labels, logits.shape[1], logits.dtype) - 1
        margins = sign * logits
        wrong = torch.sigmoid(-margins)
        return RowTerms(-F.logsigmoid(margins).sum(1), -sign * wrong, wrong * torch.sigmoid(margins))

    def prior_shift(self, log_weight: Tensor, num_outputs: int) -> Tensor | None:
        """log(w_1 / w_0) of one output; one-vs-rest logits cannot be shifted."""
        return log_weight.diff() if num_outputs == 1 else None

    def class_probabilities(
        self, logits: Tensor, temperature: float | Tensor = 1.0, log_weight: Tensor | None = None
    ) -> Tensor:
        """See `Loss.class_probabilities`; computed from logarithms.

        One logit is corrected by log(w_1 / w_0).  One-vs-rest logits cannot be shifted: the negatives of output k have
        the weights of their own classes, so that its sigmoid estimates q_k, and the probabilities are sigmoid_k / w_k
        divided by the sum over the classes.

        Example:
            >>> LogisticLoss().class_probabilities(torch.zeros(1, 1)).tolist()
            [[0.5, 0.5]]
            >>> LogisticLoss().class_probabilities(torch.tensor([[0.0, -800.0]])).tolist()
            [[1.0, 0.0]]
            >>> LogisticLoss().class_probabilities(torch.zeros(1, 1), log_weight=torch.tensor([1.0, 3.0]).log())
            tensor([[0.7500, 0.2500]])
        """
        log_weight = None if log_weight is None else log_weight.to(logits)
        if logits.shape[1] == 1:
            logits = logits if log_weight is None else logits - log_weight.diff()
            logits = divided(logits, temperature)
            return torch.cat([-logits, logits], dim=1).sigmoid_()
        # A softmax of log-sigmoids is the sigmoids divided by their sum, and is defined where all sigmoids round to 0.
        logs = F.logsigmoid(divided(logits, temperature))
        return torch.softmax(logs if log_weight is None else logs - log_weight / temperature, dim=1)
