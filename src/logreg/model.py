"""The logistic model: standardise, then linear, then nothing (the link belongs to the loss)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from logreg.facts import DataFacts

Init = Literal["zeros", "linear"]


class LogisticModel(nn.Module):
    """logits = ((features - mean) / std) @ coef.T + intercept.

    Features come in source units; mean and std are buffers, so a checkpoint alone predicts.

    Attributes:
        coef: Shape (K, D), of the features as standardised here.
        intercept: Shape (K,).
        mean, std: Shape (D,) each, or empty when the facts do not standardise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        facts: DataFacts,
        num_outputs: int,
        init: Init = "zeros",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Starts the parameters.

        Args:
            facts: Says D, and the mean and std to standardise by.
            num_outputs: K.
            init: "zeros", or "linear" for the start of ``nn.Linear`` right after
                ``torch.manual_seed(seed)``: uniform within 1 / sqrt(D).
            seed: Fixes the "linear" start.
            dtype: Floating type of parameters and buffers; the start is drawn in float32 all the same.
        """
        super().__init__()
        coef, intercept = torch.zeros(num_outputs, facts.num_features), torch.zeros(num_outputs)
        if init == "linear":
            # The draws of nn.Linear.reset_parameters in its order, from a generator of our own.
            draw = torch.Generator().manual_seed(seed)
            nn.init.kaiming_uniform_(coef, a=math.sqrt(5), generator=draw)
            bound = 1 / math.sqrt(facts.num_features)
            nn.init.uniform_(intercept, -bound, bound, generator=draw)
        self.coef = nn.Parameter(coef.to(dtype))
        self.intercept = nn.Parameter(intercept.to(dtype))
        self.register_buffer("mean", torch.tensor(facts.mean, dtype=dtype))
        self.register_buffer("std", torch.tensor(facts.std, dtype=dtype))

    def standardise(self, features: Tensor) -> Tensor:
        """Features (N, D) in source units -> what ``coef`` multiplies, (N, D)."""
        if not len(self.mean):
            return features
        return (features - self.mean.to(features.dtype)) / self.std.to(features.dtype)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) in source units -> logits (N, K), in the floating type of the features."""
        coef, intercept = self.coef.to(features.dtype), self.intercept.to(features.dtype)
        return torch.addmm(intercept, self.standardise(features), coef.T)

    def in_source_units(self) -> tuple[Tensor, Tensor]:
        """``coef`` (K, D) and ``intercept`` (K,) of the raw features, in float64 on the CPU."""
        coef = self.coef.detach().to("cpu", torch.float64)
        intercept = self.intercept.detach().to("cpu", torch.float64)
        if not len(self.mean):
            return coef, intercept
        coef = coef / self.std.to("cpu", torch.float64)
        return coef, intercept - coef @ self.mean.to("cpu", torch.float64)
