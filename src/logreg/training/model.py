"""The logistic model: standardize, then linear, then nothing (the link belongs to the loss)."""

from __future__ import annotations

import math
import threading
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from logreg.csr import converted, is_sparse
from logreg.facts import DataFacts
from logreg.solvers.kernels import affine

Init = Literal["zeros", "linear"]

MAX_CONVERTED = 2**21
"""Numbers that are converted to float64 at a time on a CPU, 16 megabytes: about one block of rows."""


def in_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64; on the CPU where its device has no float64 (Apple's GPUs)."""
    return tensor.to("cpu" if tensor.device.type == "mps" else tensor.device, torch.float64)


def linear_in_float64(features: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
    """The logits features @ coef.T + intercept, in float64.

    Narrower features are converted a part at a time, so that the copy stays small.

    Args:
        features: Shape (N, D), any floating type, dense or sparse.
        coef: Shape (K, D), float64.
        intercept: Shape (K,), float64.
    """
    if is_sparse(features):
        return affine(converted(features, torch.float64), coef, intercept)
    rows = max(1, MAX_CONVERTED // max(1, features.shape[1]))
    if features.dtype == torch.float64 or features.device.type != "cpu" or torch.is_grad_enabled():
        return affine(in_float64(features), coef, intercept)
    parts = [affine(_widened(part), coef, intercept) for part in features.split(rows)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


_SCRATCH = threading.local()
"""Buffer of each thread for float64 copies: to allocate it each time takes longer than to fill it."""


def _widened(features: Tensor) -> Tensor:
    """Features (n, D) on the CPU in float64, in a buffer that the next call of the thread overwrites."""
    if getattr(_SCRATCH, "numbers", torch.empty(0)).numel() < features.numel():
        with torch.inference_mode(False):  # the buffer outlives the inference mode
            _SCRATCH.numbers = torch.empty(max(features.numel(), MAX_CONVERTED), dtype=torch.float64)
    numbers: Tensor = _SCRATCH.numbers
    return numbers[: features.numel()].view(features.shape).copy_(features)


class LogisticModel(nn.Module):
    """logits = ((features - mean) / std) @ coef.T + intercept, + offset where the last feature is one.

    Features come as they are stored (`DataFacts.stored`).  Logits are float64 whatever the types of the features and
    of the parameters, so that scores and the certificate, which is in float64 too, agree.

    Attributes:
        coef: Shape (K, D), of the features as standardized here; an offset has none, so that D is then smaller by 1.
        intercept: Shape (K,).
        mean, std: Shape (D,) each, of the stored features; empty where features are not standardized.
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
            facts: Has D, the stored form of features, and the mean and std to standardize by.
            num_outputs: K.
            init: "zeros", or "linear" for the start of ``nn.Linear`` right after
                ``torch.manual_seed(seed)``: uniform within 1 / sqrt(D).
            seed: Fixes the "linear" start.
            dtype: Floating type of parameters and buffers, in which training computes; the start is always drawn in
                float32.
        """
        super().__init__()
        coef, intercept = torch.zeros(num_outputs, facts.num_coef), torch.zeros(num_outputs)
        if init == "linear":
            # The draws of nn.Linear.reset_parameters in the same order, from a separate generator.
            draw = torch.Generator().manual_seed(seed)
            nn.init.kaiming_uniform_(coef, a=math.sqrt(5), generator=draw)
            bound = 1 / math.sqrt(facts.num_coef)
            nn.init.uniform_(intercept, -bound, bound, generator=draw)
        self.coef = nn.Parameter(coef.to(dtype))
        self.intercept = nn.Parameter(intercept.to(dtype))
        center, scale = facts.standardization or (torch.zeros(0), torch.zeros(0))
        self.register_buffer("mean", center.to(dtype))
        self.register_buffer("std", scale.to(dtype))
        self.stored, self.has_offset = facts.stored, facts.largest_offset is not None

    def standardize(self, features: Tensor) -> Tensor:
        """Stored features (N, D) without an offset -> standardized features (N, D), in the same type."""
        if not len(self.mean):
            return features
        return (features - self.mean.to(features)) / self.std.to(features)

    def of_stored(self) -> tuple[Tensor, Tensor]:
        """``coef`` (K, D) and ``intercept`` (K,) of all stored features, in float64; that of an offset is 1."""
        coef, intercept = in_float64(self.coef), in_float64(self.intercept)
        if len(self.mean):
            coef = coef / in_float64(self.std)
            intercept = intercept - coef @ in_float64(self.mean)
        return F.pad(coef, (0, 1), value=1.0) if self.has_offset else coef, intercept

    def forward(self, features: Tensor) -> Tensor:
        """Stored features (N, D) -> logits (N, K), in float64."""
        coef, intercept = self.of_stored()
        return linear_in_float64(features, coef, intercept)

    def in_source_units(self) -> tuple[Tensor, Tensor]:
        """``coef`` (K, D) and ``intercept`` (K,) of features in source units, in float64 on the CPU."""
        coef, intercept = (part.detach().cpu() for part in self.of_stored())
        coef = coef / self.stored.unit
        return coef, intercept - coef @ self.stored.shift
