"""The datasets that are part of scikit-learn: real data without a download.

References:
    scikit-learn, toy datasets, https://scikit-learn.org/stable/datasets/toy_dataset.html
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from logreg.data.base import RawData, Table


@dataclass(frozen=True)
class Bundled:
    """One of breast_cancer (569 x 30, 2 classes), iris (150 x 4, 3), wine (178 x 13, 3), digits (1797 x 64, 10).

    Attributes:
        name: Name of the dataset, as in scikit-learn's ``load_<name>``.
    """

    name: str

    def read(self) -> RawData:
        """All rows as train, from which the DataModule holds out val and test.  Features are float64, shape (N, D)."""
        from sklearn import datasets  # takes half a second to import

        bunch = getattr(datasets, f"load_{self.name}")()
        is_digits = self.name == "digits"
        return RawData(
            {"train": Table(torch.from_numpy(bunch.data), torch.from_numpy(bunch.target).long())},
            class_names=tuple(str(name) for name in bunch.target_names),
            feature_names=() if is_digits else tuple(str(name) for name in bunch.feature_names),
            image_shape=(8, 8) if is_digits else (),
            scale=1 / 16 if is_digits else 1.0,  # pixels of digits lie in [0, 16]; the model sees all pixels in [0, 1]
        )
