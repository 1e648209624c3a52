"""The one function that every optimizer minimizes, written here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor

from logreg.losses import LOSSES, Loss
from logreg.losses.penalties import PENALTIES, Penalty

Reduction = Literal["mean", "sum"]


class ImplicitRows(Protocol):
    """Features (N, D) that are not formed, such as sparse ones: their products are enough."""

    def affine(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """Logits (N, K) of coef (K, D) and intercept (K,)."""

    def add_sums_(self, left: Tensor, sums: Tensor) -> None:
        """Adds left (N, K).T @ features to ``sums`` (K, D)."""


@dataclass(frozen=True)
class Objective:
    """Data term plus penalty, in nats.

        f(coef, intercept) = (1 / sum_i s_i) * sum_i s_i * loss(logits_i, targets_i)
                             + (l2 / 2) * |coef|^2 + l1 * |coef|_1

    with logits = features @ coef.T + intercept.  ``reduction="sum"`` drops the division, and so
    scales the data term only.  The intercept is never penalized.  ``coef`` multiplies the features
    that the model reads: standardized features if the model standardizes.

    scikit-learn's ``C`` is 1 / (rows * l2) for "mean" and 1 / l2 for "sum".
    """

    loss: str
    reduction: Reduction = "mean"
    l2: float = 0.0
    l1: float = 0.0

    @property
    def row_loss(self) -> Loss:
        """The loss of a row."""
        return LOSSES[self.loss]

    @cached_property  # read in every step of SGD
    def penalties(self) -> tuple[Penalty, ...]:
        """The penalties whose strength is not 0."""
        strengths = {"l2": self.l2, "l1": self.l1}
        return tuple(PENALTIES[name](strength) for name, strength in strengths.items() if strength)

    @property
    def has_penalty(self) -> bool:
        """Whether the coefficients are penalized, so that a finite optimum exists whatever the data."""
        return self.l2 > 0 or self.l1 > 0

    @property
    def is_smooth(self) -> bool:
        """Whether the gradient is continuous: no penalty has a kink."""
        return all(penalty.is_smooth for penalty in self.penalties)

    def data_term(self, logits: Tensor, targets: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The loss of all rows under ``reduction``.

        Args:
            logits: Shape (N, K).
            targets: Shape (N, K), in [0, 1].
            sample_weight: Weight of each row, shape (N,), >= 0; ``None`` weighs all rows 1.

        Returns:
            Scalar.
        """
        losses = self.row_loss.value(logits, targets)
        if sample_weight is None:
            return losses.sum() if self.reduction == "sum" else losses.mean()
        total = (sample_weight * losses).sum()
        return total if self.reduction == "sum" else total / sample_weight.sum()

    def penalty(self, coef: Tensor) -> Tensor:
        """All penalties of a ``coef`` of shape (K, D); scalar."""
        return sum((penalty.value(coef) for penalty in self.penalties), start=coef.new_zeros(()))

    def value(
        self,
        features: Tensor,
        targets: Tensor,
        coef: Tensor,
        intercept: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The value of f.

        Args:
            features: Shape (N, D).
            targets: Shape (N, K), in [0, 1].
            coef: Shape (K, D).
            intercept: Shape (K,).
            sample_weight: Shape (N,), >= 0; ``None`` weighs all rows 1.

        Returns:
            Scalar; autograd differentiates it.
        """
        logits = torch.addmm(intercept, features, coef.T)
        return self.data_term(logits, targets, sample_weight) + self.penalty(coef)

    def gradient_(
        self,
        features: Tensor | ImplicitRows,
        targets: Tensor,
        coef: Tensor,
        intercept: Tensor,
        share: float,
        logits: Tensor,
        sample_weight: Tensor | None = None,
        mean_weight: float = 1.0,
        of_rows: int | None = None,
        is_first: bool = True,
        is_penalized: bool = True,
        offset: Tensor | None = None,
    ) -> None:
        """Gradient over one batch, in closed form, into ``coef.grad`` and ``intercept.grad``.

        The derivatives of the rows' losses by their logits are the residuals, so the derivative by ``coef`` is
        residuals.T @ features.  Call this method under ``torch.no_grad()``.

        Args:
            features: The batch, shape (N, D), or its products alone.
            targets: Shape (N, K), in [0, 1].
            coef: Shape (K, D); its ``grad`` must be allocated.
            intercept: Shape (K,); its ``grad`` must be allocated.
            share: Fraction of the train rows that the batch holds.  With ``reduction="sum"`` the
                penalty is scaled by it, so that the batches of an epoch add up to f.
            logits: Shape (N, K); overwritten by the logits before the step.  Fastest is one whose columns are
                contiguous.
            sample_weight: Shape (N,), >= 0; ``None`` weighs all rows 1.
            mean_weight: Mean weight of all train rows.  With ``reduction="mean"`` the sum of a batch is divided by
                ``mean_weight`` times its number of rows and not by its own weights, so that the batches of an epoch
                average to f.
            of_rows: Number of rows of the batch where these rows are a part of it; ``None`` for a whole batch.
            is_first: Whether these are the first rows of the batch; the terms of further rows are added.
            is_penalized: Whether the first rows come with the penalty's gradient; where several processes add up their
                gradients, it is so on one of them.
            offset: Known term of each row's logit, shape (N,); ``None`` for none.
        """
        assert coef.grad is not None
        assert intercept.grad is not None
        if isinstance(features, Tensor):
            torch.addmm(intercept.unsqueeze(1), coef, features.T, out=logits.T)
        else:
            logits.copy_(features.affine(coef, intercept))
        if offset is not None:
            logits.add_(offset.unsqueeze(1))
        residuals = self.row_loss.residual(logits, targets)
        scale = 1.0
        if sample_weight is not None:
            residuals.mul_(sample_weight.unsqueeze(1))
        if self.reduction == "mean":
            residuals.div_((of_rows or len(targets)) * mean_weight)
        else:
            scale = share
        if not is_first:
            if isinstance(features, Tensor):
                coef.grad.addmm_(residuals.T, features)
            else:
                features.add_sums_(residuals, coef.grad)
            intercept.grad.add_(residuals.sum(0))
            return
        if isinstance(features, Tensor):
            torch.mm(residuals.T, features, out=coef.grad)
        else:
            features.add_sums_(residuals, coef.grad.zero_())
        torch.sum(residuals, dim=0, out=intercept.grad)
        for penalty in self.penalties if is_penalized else ():
            penalty.add_gradient_(coef, coef.grad, scale)
