"""Exports a model as a program of torch.export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from logreg.export.base import Sample
from logreg.losses import LOSSES
from logreg.training.linear import Array, Linear


class _Probabilities(nn.Module):
    """Features -> probabilities, for torch.export."""

    def __init__(self, model: Linear) -> None:
        super().__init__()
        self.loss = model.loss
        self.dtype, stored = model.dtype, model.facts.stored
        self.is_plain = stored.is_plain
        self.register_buffer("shift", stored.shift)
        self.register_buffer("unit", stored.unit)
        self.register_buffer("coef", model.coef)
        self.register_buffer("intercept", model.intercept)
        self.register_buffer("log_divisor", model.log_divisor)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) in source units -> probabilities (N, C), float64."""
        if not self.is_plain:
            features = ((features - self.shift) / self.unit).to(self.dtype)  # type: ignore[operator]  # buffers
        logits = torch.addmm(self.intercept, features.double(), self.coef.T)  # type: ignore[arg-type]  # buffers
        return LOSSES[self.loss].class_probabilities(logits, 1.0, self.log_divisor)  # type: ignore[arg-type]  # a buffer


def write_torch_export(model: Linear, file: Path) -> None:
    """Writes a program for any number of rows, with `Linear.described` inside as ``logreg.json``."""
    example = (torch.zeros(2, model.facts.num_features, dtype=model.input_dtype),)
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(_Probabilities(model), example, dynamic_shapes={"features": {0: rows}})
    described = json.dumps(model.described(), ensure_ascii=False)
    torch.export.save(program, file, extra_files={"logreg.json": described})


def read_torch_export(file: Path, model: Linear, sample: Sample) -> Array:
    """Probabilities of a sample, shape (n, C), by torch alone."""
    program = torch.export.load(file).module()
    return np.asarray(program(sample.features.to(model.input_dtype)).detach().numpy())
