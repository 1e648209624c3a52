"""Exports a model as JSON or safetensors: coefficients, and how to use them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from logreg.export.base import Sample, linked
from logreg.training.linear import Array, Linear


def write_json(model: Linear, file: Path) -> None:
    """Writes coefficients in source units and `Linear.described` as JSON."""
    coef, intercept = model.in_source_units()
    plain = {**model.described(), "coef": coef.tolist(), "intercept": intercept.tolist()}
    file.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(file: Path, model: Linear, sample: Sample) -> Array:
    """Probabilities of a sample, shape (n, C), by the standard library and NumPy."""
    held = json.loads(file.read_text(encoding="utf-8"))
    return linked(np.array(held["coef"]), np.array(held["intercept"]), held["link"], sample, held.get("divisor"))


def write_safetensors(model: Linear, file: Path) -> None:
    """Writes tensors ``coef`` and ``intercept``, and `Linear.described` as JSON under ``logreg`` in the metadata."""
    from safetensors.torch import save_file

    coef, intercept = model.in_source_units()
    tensors = {"coef": coef.contiguous(), "intercept": intercept.contiguous()}
    save_file(tensors, file, metadata={"logreg": json.dumps(model.described(), ensure_ascii=False)})


def read_safetensors(file: Path, model: Linear, sample: Sample) -> Array:
    """Probabilities of a sample, shape (n, C), by the package safetensors and NumPy."""
    from safetensors import safe_open

    with safe_open(file, "np") as held:
        described = json.loads(held.metadata()["logreg"])
        return linked(
            held.get_tensor("coef"), held.get_tensor("intercept"), described["link"], sample, described.get("divisor")
        )
