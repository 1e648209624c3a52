"""The tables that come with scikit-learn: real data that needs no network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from logreg.data.base import RawData, Table


@dataclass(frozen=True)
class Bundled:
    """breast_cancer (569 x 30, 2 classes), iris (150 x 4, 3), wine (178 x 13, 3), digits (1797 x 64, 10)."""

    name: str

    def read(self) -> RawData:
        """The whole table as train; the DataModule holds val and test out of it."""
        from sklearn import datasets  # takes half a second to import

        bunch = getattr(datasets, f"load_{self.name}")()
        return RawData(
            {"train": Table(torch.from_numpy(bunch.data), torch.from_numpy(bunch.target).long())},
            class_names=tuple(str(name) for name in bunch.target_names),
            feature_names=() if self.name == "digits" else tuple(str(name) for name in bunch.feature_names),
            image_shape=(8, 8) if self.name == "digits" else (),
            scale=1 / 16 if self.name == "digits" else 1.0,  # pixels of 0 to 16, served in [0, 1] as all pixels are
        )
