"""The logistic model: standardize, then linear, then nothing (the link belongs to the loss)."""

from __future__ import annotations

import math
import threading
from typing import Literal

import torch
from torch import Tensor, nn

from logreg.facts import DataFacts
from logreg.solvers.kernels import affine

Init = Literal["zeros", "linear"]

WIDENED = 2**21
"""Numbers that are converted to float64 at once on a processor, 16 megabytes: a block of rows, as they are read."""


def in_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64; on the CPU where its device has no float64 (Apple's GPUs)."""
    return tensor.to("cpu" if tensor.device.type == "mps" else tensor.device, torch.float64)


def linear_in_float64(features: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
    """The logits features @ coef.T + intercept, in float64.

    Narrower features are converted a part at a time, so that the copy stays small.

    Args:
        features: Shape (N, D), any floating type.
        coef: Shape (K, D), float64.
        intercept: Shape (K,), float64.
    """
    rows = max(1, WIDENED // max(1, features.shape[1]))
    if features.dtype == torch.float64 or features.device.type != "cpu" or torch.is_grad_enabled():
        return affine(in_float64(features), coef, intercept)
    parts = [affine(_widened(part), coef, intercept) for part in features.split(rows)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


_SCRATCH = threading.local()
"""Memory that each thread has for its copies: to ask the system for it each time takes longer than to write it."""


def _widened(features: Tensor) -> Tensor:
    """Features (n, D) of the CPU in float64, until the thread asks for others."""
    if getattr(_SCRATCH, "numbers", torch.empty(0)).numel() < features.numel():
        with torch.inference_mode(False):  # it outlives the mode
            _SCRATCH.numbers = torch.empty(max(features.numel(), WIDENED), dtype=torch.float64)
    numbers: Tensor = _SCRATCH.numbers
    return numbers[: features.numel()].view(features.shape).copy_(features)


class LogisticModel(nn.Module):
    """logits = ((features - mean) / std) @ coef.T + intercept.

    Features come as they are stored (`DataFacts.stored`), and logits are float64 whatever the type of the features and
    of the parameters: what is scored is what the certificate, which is in float64 too, speaks of.

    Attributes:
        coef: Shape (K, D), of the features as standardized here.
        intercept: Shape (K,).
        mean, std: Shape (D,) each, of the stored features, or empty when nothing is to be done.
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
            facts: Says D, how features are stored, and the mean and std to standardize by.
            num_outputs: K.
            init: "zeros", or "linear" for the start of ``nn.Linear`` right after
                ``torch.manual_seed(seed)``: uniform within 1 / sqrt(D).
            seed: Fixes the "linear" start.
            dtype: Floating type of parameters and buffers, which training computes in; the start is drawn in float32
                all the same.
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
        center, scale = facts.standardization or (torch.zeros(0), torch.zeros(0))
        self.register_buffer("mean", center.to(dtype))
        self.register_buffer("std", scale.to(dtype))
        self.stored = facts.stored

    def standardize(self, features: Tensor) -> Tensor:
        """Features (N, D) as they are stored -> what ``coef`` multiplies, (N, D), in the same type."""
        if not len(self.mean):
            return features
        return (features - self.mean.to(features)) / self.std.to(features)

    def of_stored(self) -> tuple[Tensor, Tensor]:
        """``coef`` (K, D) and ``intercept`` (K,) of the features as they are stored, in float64."""
        coef, intercept = in_float64(self.coef), in_float64(self.intercept)
        if not len(self.mean):
            return coef, intercept
        coef = coef / in_float64(self.std)
        return coef, intercept - coef @ in_float64(self.mean)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) as they are stored -> logits (N, K), in float64."""
        coef, intercept = self.of_stored()
        return linear_in_float64(features, coef, intercept)

    def in_source_units(self) -> tuple[Tensor, Tensor]:
        """``coef`` (K, D) and ``intercept`` (K,) of features in source units, in float64 on the CPU."""
        coef, intercept = (part.detach().cpu() for part in self.of_stored())
        coef = coef / self.stored.unit
        return coef, intercept - coef @ self.stored.shift
