"""Exported models far from the rows that they were trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from logreg.evaluation.temperature import Calibration
from logreg.export.base import Sample
from logreg.export.formats import FORMATS
from logreg.facts import DataFacts
from logreg.training.linear import Linear
from logreg.training.module import LogisticModule


@pytest.mark.parametrize("calibration", [Calibration(), Calibration(1.7, (0.5, 1.0, 4.0))])
@pytest.mark.parametrize("kind", ["onnx", "json", "safetensors", "torch_export"])
def test_one_vs_rest_has_probabilities_where_all_sigmoids_round_to_0(
    kind: str, calibration: Calibration, tmp_path: Path
) -> None:
    facts = DataFacts("made", 2, ("a", "b", "c"), {"train": 9}, mean=(0.0, 0.0), std=(1.0, 1.0))
    module = LogisticModule(facts, loss="bce").eval().requires_grad_(False)
    module.model.coef.data = torch.tensor([[-1.0, 0.0], [-1.001, 0.5], [0.0, -2.0]])
    module.calibration = calibration
    model = Linear.of(module)
    features = torch.tensor([[0.0, 0.0], [900.0, 0.0], [2000.0, 1000.0], [1e30, 1e30], [-1e30, 1e30], [1e4, -1e4]])
    expected = model.probabilities(features.double()).numpy()
    assert np.isfinite(expected).all()
    file = tmp_path / f"model{FORMATS[kind].suffix}"
    FORMATS[kind].write(model, file)
    found = FORMATS[kind].read(file, model, Sample(features.double(), {}))
    np.testing.assert_allclose(found, expected, atol=1e-6)
