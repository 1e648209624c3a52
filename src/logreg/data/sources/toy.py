"""Three students with their hours of study, who pass or fail: the example of many tutorials on logistic regression."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from logreg.data.base import RawData, Table


@dataclass(frozen=True)
class Toy:
    """One, two and three hours of study; fail, fail, pass.

    The classes are separated completely, so that the loss without a penalty has no minimum: the coefficient grows as
    long as training continues.
    """

    name: str = "toy"

    def read(self) -> RawData:
        """Three rows, one feature in hours, two classes; only train."""
        hours = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
        outcomes = torch.tensor([0, 0, 1])
        return RawData(
            {"train": Table(hours, outcomes)},
            class_names=("fail", "pass"),
            feature_names=("hours",),
            plot_range=(0.0, 10.0),
        )
