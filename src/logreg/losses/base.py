"""The base class of losses: one object has all properties of a loss that solvers, certificates and scores use.

Axes, here and everywhere: N rows, D features, K outputs (K = 1: binary), C classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

Numbers = TypeVar("Numbers", bound=Any)
"""A tensor or an array."""


def one_vs_rest(labels: Tensor, num_outputs: int, dtype: torch.dtype | None = None) -> Tensor:
    """Turns classes into the targets that a loss compares logits with.

    Args:
        labels: Classes, shape (N,), integers in [0, max(2, K)).
        num_outputs: K.  With K = 1 the only column is 1 for class 1; with K > 1 column k is 1 for class k.
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


def one_logit(outputs: Numbers) -> Numbers:
    """Logits or parameters of two classes as those of the one logit of the second class: a softmax has two outputs.

    Args:
        outputs: A row for each output, shape (K, ...), K = 1 or 2.

    Returns:
        Shape (1, ...): the only row, or the second one less the first.

    Example:
        >>> one_logit(torch.tensor([[1.0, 2.0], [4.0, 3.0]])).tolist()
        [[3.0, 1.0]]
    """
    if len(outputs) == 1:
        return outputs
    difference: Numbers = outputs[1:] - outputs[:1]
    return difference


def decided(probabilities: Tensor, threshold: float = 0.5) -> Tensor:
    """The predicted class of each row; every script and report calls this function.

    Of two classes, the second is predicted where its probability is greater than the threshold, so that even odds give
    the first class, as in scikit-learn's ``predict``.  Of more classes, the most probable one is predicted; among
    equally probable ones, the first.

    Args:
        probabilities: The result of `Loss.class_probabilities`, shape (N, C).
        threshold: Probability in [0, 1] above which the second of two classes is predicted.

    Returns:
        Shape (N,), int64.

    Example:
        >>> decided(torch.tensor([[0.5, 0.5], [0.4, 0.6]])).tolist()
        [0, 1]
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] > threshold).long()
    return probabilities.max(1).indices  # faster than argmax, and as clear about ties


def divided(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits over a temperature: the same tensor where that is the number 1.

    A temperature that is a tensor always divides, since a derivative by it is wanted.
    """
    return logits if not isinstance(temperature, Tensor) and temperature == 1 else logits / temperature


class RowTerms(NamedTuple):
    """A loss and its derivatives by the logits, row by row."""

    value: Tensor
    """Loss of each row in nats, (N,)."""
    residual: Tensor
    """First derivative by each logit, (N, K)."""
    curvature: Tensor
    """See `Loss.curvature`, (N, K)."""


class Loss(ABC):
    """The loss of a row as a function of its logits, with its link.

    A loss is a sum over outputs, each with a separate target (binary and one-vs-rest losses), unless it couples the
    outputs (the softmax).  A loss is smooth and never negative.  A subclass defines the four abstract methods; each
    further bound below that it defines lets certificates prove more.
    """

    name: ClassVar[str]
    """The name that a user types."""

    link: ClassVar[str] = ""
    """Name of the inverse link in the formats of other programs: "sigmoid" or "softmax"; empty for one they lack."""

    formula: ClassVar[str] = ""
    """The probability of class 1 as a formula of its logit z, where ``link`` does not name it."""

    even_logit: ClassVar[float] = 0.0
    """The logit of two classes that are equally probable."""

    is_binary: ClassVar[bool] = False
    """Whether the loss is one of two classes only."""

    couples_outputs: ClassVar[bool] = False
    """Whether the outputs of a row share one loss, which is unchanged when the same number is added to all logits."""

    is_convex: ClassVar[bool] = True
    """Whether the loss is convex in the logits: only then may a point be called an optimum."""

    curvature_needs_targets: ClassVar[bool] = False
    """Whether the curvature depends on the targets; for a canonical link it depends on the logits alone."""

    ratio_in_words: ClassVar[str] = ""
    """What the exponential of a coefficient is, where the literature knows it and it is no ratio of odds."""

    max_curvature: ClassVar[float] = math.inf
    """Largest second derivative along a direction of unit length in the space of a row's logits."""

    lipschitz: ClassVar[float] = math.inf
    """Largest absolute first derivative by a logit."""

    relative_lipschitz: ClassVar[float] = math.inf
    """Bound L on the relative first derivative: where no logit moves by more than r, the value changes at most by the
    factor exp(2 L r)."""

    self_concordance: ClassVar[float] = math.inf
    """Self-concordance constant M: the second derivative along a direction falls at most by the factor exp(-M r) where
    no logit (of coupled outputs: no difference of two logits) moves by more than r.

    References:
        Bach (2010), Self-concordant analysis for logistic regression.
    """

    def self_concordance_within(self, reach: float) -> float:
        """The constant M of `self_concordance` where no logit is larger than ``reach``; it grows with the reach."""
        return self.self_concordance

    def curvature_sum(self, value: float, weight: float) -> float:
        """Upper bound on the sum over rows of an output's second derivatives.

        Args:
            value: Weighted sum of the values of all rows.
            weight: Sum of the weights of all rows.
        """
        return self.max_curvature * weight

    def described(self, num_outputs: int) -> str:
        """Name of the loss of ``num_outputs`` outputs in words, such as "binary cross-entropy"."""
        words = self.name.replace("_", " ")
        return words if num_outputs == 1 else f"one-vs-rest {words} of {num_outputs} outputs"

    def num_outputs(self, num_classes: int) -> int:
        """K for C classes: two classes need one output."""
        return 1 if num_classes == 2 else num_classes

    @abstractmethod
    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of each row in nats, >= 0.

        Args:
            logits: Shape (N, K).
            targets: Shape (N, K), in [0, 1].

        Returns:
            Shape (N,).
        """

    @abstractmethod
    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """First derivative of the value by the logits, (N, K), in a new tensor, which the caller may overwrite."""

    @abstractmethod
    def curvature(self, logits: Tensor, targets: Tensor | None) -> Tensor:
        """The second derivative by the logits in a compact form, (N, K).

        For separate outputs the form is the K second derivatives.  For coupled outputs it is a vector c for each row,
        which sums to 1, such that the second derivative is the matrix diag(c) - c c'.  ``targets`` may be
        ``None`` unless `curvature_needs_targets`.
        """

    def expected_curvature(self, logits: Tensor) -> Tensor:
        """Mean of `curvature` over labels that have the probabilities of the model, (N, K): Fisher's information.

        It is never negative.  The curvature of a canonical link does not depend on the labels, and is its own mean.

        References:
            McCullagh and Nelder (1989), Generalized linear models, section 2.5: Fisher scoring.
        """
        return self.curvature(logits, None)

    @abstractmethod
    def inverse_link(self, logits: Tensor) -> Tensor:
        """Logits -> probabilities of the targets, both (N, K)."""

    @property
    def gives_log_odds(self) -> bool:
        """Whether logits, or their differences for a softmax, are logarithms of odds."""
        return bool(self.link)

    @property
    def mirror(self) -> str:
        """Name of the loss of 1 - y at -z; for a symmetric link its own."""
        return self.name

    @property
    def has_conjugate(self) -> bool:
        """Whether the loss defines `conjugate`, which duality gaps need."""
        return type(self).conjugate is not Loss.conjugate

    def conjugate(self, dual: Tensor, targets: Tensor) -> Tensor:
        """Fenchel conjugate of the value at ``dual`` (N, K), summed over outputs: (N,).

        Raises:
            NotImplementedError: The loss does not define its conjugate.
        """
        raise NotImplementedError

    def conjugate_slope(self, reach: float) -> float:
        """Largest slope of the conjugate between a feasible dual point and that of logits of at most ``reach``."""
        return math.inf

    def residual_bound(self, value: float, weight: float) -> float:
        """Upper bound on the sum over rows of an output's absolute residuals.

        Args:
            value: Weighted sum of the values of all rows.
            weight: Sum of the weights of all rows.
        """
        return math.sqrt(2 * self.max_curvature * value * weight)  # for any smooth function >= 0

    def evaluate(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """Value, residual and curvature at logits (N, K) and classes (N,).

        The curvature of a loss that is not convex is the expected one, which optimizers can build on.
        """
        targets = one_vs_rest(labels, logits.shape[1], logits.dtype)
        return RowTerms(self.value(logits, targets), self.residual(logits, targets), self.curvature(logits, targets))

    def evaluate_precisely(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """`evaluate` in float64 with a small relative error in each number, also where the loss is nearly 0.

        The curvature is the observed one.
        """
        return self.evaluate(logits, labels)

    def value_at(self, logits: Tensor, labels: Tensor) -> Tensor:
        """`value` at logits (N, K) and classes (N,)."""
        return self.value(logits, one_vs_rest(labels, logits.shape[1], logits.dtype))

    def curvature_at(self, logits: Tensor, labels: Tensor) -> Tensor:
        """`curvature` at logits (N, K) and classes (N,); the expected one of a loss that is not convex."""
        needs = self.curvature_needs_targets
        return self.curvature(logits, one_vs_rest(labels, logits.shape[1], logits.dtype) if needs else None)

    def own_curvature(self, curvature: Tensor) -> Tensor:
        """Second derivative by each single logit, (N, K), from the result of `curvature`."""
        return curvature * (1 - curvature) if self.couples_outputs else curvature

    def curvature_product(self, curvature: Tensor, change: Tensor) -> Tensor:
        """The second derivative, from the result of `curvature`, times a change of the logits, both (N, K)."""
        if self.couples_outputs:
            change = change - (curvature * change).sum(1, keepdim=True)
        return change * curvature

    def prior_shift(self, log_weight: Tensor, num_outputs: int) -> Tensor | None:
        """What to subtract from the logits to take class weights out of the probabilities, (K,).

        See `class_probabilities`.

        Args:
            log_weight: Logarithms of the class weights, shape (C,).
            num_outputs: K.

        Returns:
            ``None`` where no shift of the logits does that.
        """
        return None

    def class_probabilities(
        self, logits: Tensor, temperature: float | Tensor = 1.0, log_weight: Tensor | None = None
    ) -> Tensor:
        """Probability of each class.

        A model that was fitted with class weights w estimates q_k, proportional to w_k p_k: the probabilities of data
        in which class k occurs w_k times as often.  The prior correction recovers p_k, proportional to q_k / w_k.
        One-vs-rest probabilities are divided by their sum, as in scikit-learn's ``OneVsRestClassifier``.

        Args:
            logits: Shape (N, K).
            temperature: Divisor of the corrected logits; above 1, probabilities are less extreme.
            log_weight: Logarithms of the class weights to correct for, shape (C,); ``None`` for no correction.

        Returns:
            Shape (N, C), C = max(2, K); rows sum to 1.

        References:
            Saerens, Latinne and Decaestecker (2002), Adjusting the outputs of a classifier to new a priori
            probabilities.
        """
        probabilities = self.inverse_link(logits / temperature)
        if logits.shape[1] == 1:
            probabilities = torch.cat([1 - probabilities, probabilities], dim=1)
        logs = probabilities.clamp(min=torch.finfo(logits.dtype).tiny).log()
        if log_weight is not None:
            logs = logs - log_weight.to(logits) / temperature
        return torch.softmax(logs, dim=1)

    def temperature_slope(
        self, logits: Tensor, labels: Tensor, temperature: float, log_weight: Tensor | None = None
    ) -> Tensor:
        """Derivative of minus the logarithm of the probability of each row's class by log T, (N,).

        Args:
            logits: Shape (N, K), float64.
            labels: Shape (N,).
            temperature: T, as of `class_probabilities`.
            log_weight: As of `class_probabilities`.
        """
        with torch.enable_grad():
            log_temperature = torch.full_like(logits[:, :1], math.log(temperature), requires_grad=True)
            own = self.class_probabilities(logits, log_temperature.exp(), log_weight).gather(1, labels.unsqueeze(1))
            cost = -own.clamp(min=torch.finfo(own.dtype).tiny).log().sum()
            return torch.autograd.grad(cost, log_temperature)[0][:, 0]


def log_probability_slope(
    loss: Loss, logits: Tensor, labels: Tensor, temperature: float, log_weight: Tensor | None
) -> Tensor:
    """`Loss.temperature_slope` of a loss that is minus the logarithm of a probability, (N,).

    The probabilities of the classes are a softmax of numbers v: the logits, or for separate outputs the logarithms of
    their probabilities.  With moves m = -dv / dlog T the slope is m of the class less the mean of m.
    """
    at = logits / temperature
    moves = at
    if not loss.couples_outputs:
        moves = loss.residual(at, torch.ones_like(at)).mul_(at).neg_()
        if at.shape[1] == 1:
            moves = torch.cat([loss.residual(at, torch.zeros_like(at)).mul_(at).neg_(), moves], dim=1)
            moves.clamp_(min=torch.finfo(moves.dtype).min)  # that of a probability of 0 may be infinite
    if log_weight is not None:
        moves = moves - log_weight.to(moves) / temperature
    mean = (loss.class_probabilities(logits, temperature, log_weight) * moves).sum(1)
    return moves.gather(1, labels.unsqueeze(1))[:, 0].sub_(mean)
