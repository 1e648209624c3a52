"""Three students: hours studied, pass or fail.  Where the tutorials on logistic regression begin."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from logreg.data.base import RawData, Table


@dataclass(frozen=True)
class Toy:
    """One, two and three hours of study; fail, fail, pass.

    The classes are separable, so without a penalty the loss has no minimum: the coefficient grows
    as long as training lasts.
    """

    name: str = "toy"

    def read(self) -> RawData:
        """Three rows, one feature, two classes; no val, no test."""
        hours = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
        outcome = torch.tensor([0, 0, 1])
        return RawData(
            {"train": Table(hours, outcome)},
            class_names=("fail", "pass"),
            feature_names=("hours",),
            plot_range=(0.0, 10.0),
        )
