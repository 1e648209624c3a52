"""The mathematics of one row: links and losses.  Tensors in, tensors out; torch and nothing else.

Axes, here and everywhere: N rows, D features, K outputs (K = 1: binary), C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["bce", "cross_entropy"]


def one_vs_rest(labels: Tensor, num_outputs: int, dtype: torch.dtype | None = None) -> Tensor:
    """Turns classes into the targets that a loss compares logits with.

    Args:
        labels: Classes, shape (N,), integers in [0, max(2, K)).
        num_outputs: K; with 1 the only column is 1 for class 1, with more column k is 1 for class k.
        dtype: Floating type of the result; torch's default when ``None``.

    Returns:
        Targets, shape (N, K), 0. or 1.

    Example:
        >>> one_vs_rest(torch.tensor([0, 1]), 1).tolist()
        [[0.0], [1.0]]
        >>> one_vs_rest(torch.tensor([0, 2]), 3).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    dtype = dtype or torch.get_default_dtype()
    if num_outputs == 1:
        return labels.to(dtype).unsqueeze(1)
    return labels.new_zeros(len(labels), num_outputs, dtype=dtype).scatter_(1, labels.unsqueeze(1), 1.0)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cost of each row, in nats, of predicting ``targets`` by ``sigmoid(logits)``.

    One entry with logit z and target y costs softplus(z) - y z, which is -log p for y = 1 and
    -log(1 - p) for y = 0.  torch computes it as max(z, 0) - y z + log1p(exp(-|z|)): no positive
    number is exponentiated, so a wrong z = 800 costs 800 and not inf.

    Args:
        logits: Log-odds of each output, shape (N, K), any finite value.
        targets: Probability of each output, shape (N, K), in [0, 1].

    Returns:
        Shape (N,): summed over the K outputs, so that each output is the fit it would be alone.

    Example:
        >>> binary_cross_entropy(torch.zeros(1, 1), torch.ones(1, 1))  # log 2
        tensor([0.6931])
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)


def softmax_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cost of each row, in nats, of predicting ``targets`` by ``softmax(logits)``.

    A row costs logsumexp(z) - sum_k y_k z_k (the targets of a row sum to 1), with the largest
    logit subtracted before anything is exponentiated.

    Args:
        logits: Unnormalised log-probabilities, shape (N, K), K >= 2, any finite value.
        targets: Probability of each class, shape (N, K), rows sum to 1.

    Returns:
        Shape (N,).

    Example:
        >>> softmax_cross_entropy(torch.zeros(1, 4), torch.eye(4)[:1])  # log 4
        tensor([1.3863])
    """
    return F.cross_entropy(logits, targets, reduction="none")


class Loss(NamedTuple):
    """A loss with the link whose probabilities it scores; the pair is canonical.

    Canonical means: the gradient of ``of_rows`` by the logits is ``link(logits) - targets``.
    """

    of_rows: Callable[[Tensor, Tensor], Tensor]
    """(logits, targets), both (N, K) -> cost of each row in nats, (N,)."""
    link: Callable[[Tensor], Tensor]
    """logits (N, K) -> probabilities (N, K)."""


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=1)


LOSSES: dict[LossName, Loss] = {
    "bce": Loss(binary_cross_entropy, torch.sigmoid),
    "cross_entropy": Loss(softmax_cross_entropy, _softmax),
}
"""The losses by the name a person types."""


class Scored(NamedTuple):
    """Rows whose classes are known, at their logits."""

    costs: Tensor
    """Of each row in nats, (N,)."""
    probabilities: Tensor
    """Shape (N, K)."""
    residuals: Tensor
    """Probabilities less targets, (N, K): the gradient of the costs by the logits."""


def scored(logits: Tensor, labels: Tensor, loss: LossName) -> Scored:
    """What `LOSSES` say of logits and the targets of `one_vs_rest`, without making what is mostly 0.

    Args:
        logits: Shape (N, K).
        labels: Classes, shape (N,), int64.
        loss: Which loss.

    Example:
        >>> scored(torch.zeros(1, 4), torch.tensor([2]), "cross_entropy").residuals
        tensor([[ 0.2500,  0.2500, -0.7500,  0.2500]])
    """
    if loss == "bce":
        targets = one_vs_rest(labels, logits.shape[1], logits.dtype)
        probabilities = torch.sigmoid(logits)
        return Scored(binary_cross_entropy(logits, targets), probabilities, probabilities - targets)
    own = labels.unsqueeze(1)
    log_probabilities = torch.log_softmax(logits, dim=1)
    costs = log_probabilities.gather(1, own)[:, 0].neg_()
    probabilities = log_probabilities.exp_()
    minus_one = logits.new_full((1, 1), -1.0).expand(len(own), 1)
    return Scored(costs, probabilities, probabilities.scatter_add(1, own, minus_one))


def class_probabilities(
    logits: Tensor, loss: LossName, temperature: float = 1.0, log_weight: Tensor | None = None
) -> Tensor:
    """Probability of each class, whatever the loss.

    A model that was fitted with class weights w estimates q_k, proportional to w_k p_k: the probabilities of data in
    which class k occurs w_k times as often.  The prior correction gives p_k back, proportional to q_k / w_k: one logit
    loses log(w_1 / w_0), each logit of a softmax log w_k.  One-vs-rest logits cannot be shifted: the negatives of
    output k have the weights of their own classes, so that its sigmoid estimates q_k itself, and sigmoid_k / w_k is
    divided by its sum.

    Args:
        logits: Shape (N, K).
        loss: Under "bce" with K > 1 the sigmoids, each of one class against the rest, are divided by
            their sum, as scikit-learn's ``OneVsRestClassifier`` does.
        temperature: Logits are divided by it, after the correction: above 1 probabilities come nearer to each other.
        log_weight: Logarithm of each class's weight, shape (C,), to correct for; ``None`` for no correction.

    Returns:
        Shape (N, C), C = max(2, K); rows sum to 1.

    References:
        Saerens, Latinne and Decaestecker (2002), Adjusting the outputs of a classifier to new a priori probabilities.

    Example:
        >>> class_probabilities(torch.zeros(1, 1), "bce").tolist()
        [[0.5, 0.5]]
        >>> class_probabilities(torch.tensor([[0.0, -800.0]]), "bce").tolist()
        [[1.0, 0.0]]
        >>> class_probabilities(torch.zeros(1, 1), "bce", log_weight=torch.tensor([1.0, 3.0]).log())
        tensor([[0.7500, 0.2500]])
    """
    several = loss == "bce" and logits.shape[1] > 1
    if log_weight is not None:
        log_weight = log_weight.to(logits)
        if not several:
            logits = logits - (log_weight.diff() if logits.shape[1] == 1 else log_weight)
    if temperature != 1:
        logits = logits / temperature
    if loss == "cross_entropy":
        return torch.softmax(logits, dim=1)
    if not several:
        return torch.cat([-logits, logits], dim=1).sigmoid_()
    logs = F.logsigmoid(logits)  # what the sigmoids are over their sum, also where all are 0
    return torch.softmax(logs if log_weight is None else logs - log_weight / temperature, dim=1)


def decided(probabilities: Tensor, threshold: float = 0.5) -> Tensor:
    """The class that each row is taken for; every script and report takes it from here.

    Of two classes the second where its probability is greater than the threshold, so that even odds are the first, as
    in scikit-learn's ``predict``; of more classes the most probable one, of equal ones the first.

    Args:
        probabilities: Of `class_probabilities`, shape (N, C).
        threshold: Of two classes, in [0, 1].

    Returns:
        Shape (N,), int64.

    Example:
        >>> decided(torch.tensor([[0.5, 0.5], [0.4, 0.6]])).tolist()
        [0, 1]
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] > threshold).long()
    return probabilities.argmax(1)
