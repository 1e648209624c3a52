"""The datasets that are part of scikit-learn: real data without a download.

Their files are read without scikit-learn, whose import takes longer than a fit, since it
brings pandas and SciPy's statistics.

References:
    scikit-learn, toy datasets, https://scikit-learn.org/stable/datasets/toy_dataset.html
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from logreg.data.base import RawData, Table

NUCLEUS = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)
"""What breast_cancer measures of the nuclei of an image: the mean, its standard error, and the mean of
the worst three."""

FEATURE_NAMES = {
    "breast_cancer": (
        *(f"mean {name}" for name in NUCLEUS),
        *(f"{name} error" for name in NUCLEUS),
        *(f"worst {name}" for name in NUCLEUS),
    ),
    "iris": ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
    "wine": (
        "alcohol",
        "malic_acid",
        "ash",
        "alcalinity_of_ash",
        "magnesium",
        "total_phenols",
        "flavanoids",
        "nonflavanoid_phenols",
        "proanthocyanins",
        "color_intensity",
        "hue",
        "od280/od315_of_diluted_wines",
        "proline",
    ),
    "digits": (),
}
"""Names of the features as scikit-learn gives them; its files have none.  Pixels have no names."""


class Content(NamedTuple):
    """A dataset as its file has it."""

    features: NDArray[np.float64]
    """Shape (N, D)."""
    labels: NDArray[Any]
    """Shape (N,)."""
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Bundled:
    """One of breast_cancer (569 x 30, 2 classes), iris (150 x 4, 3), wine (178 x 13, 3), digits (1797 x 64, 10).

    Attributes:
        name: Name of the dataset, as in scikit-learn's ``load_<name>``.
    """

    name: str

    def read(self) -> RawData:
        """All rows as train, from which the DataModule holds out val and test.  Features are float64, shape (N, D)."""
        try:
            content = read_file(self.name)
        except (OSError, ValueError):  # another release of scikit-learn may keep them in another form
            content = read_by_sklearn(self.name)
        is_digits = self.name == "digits"
        return RawData(
            {"train": Table(torch.from_numpy(content.features), torch.from_numpy(content.labels).long())},
            class_names=content.class_names,
            feature_names=FEATURE_NAMES[self.name],
            image_shape=(8, 8) if is_digits else (),
            scale=1 / 16 if is_digits else 1.0,  # pixels of digits lie in [0, 16]; the model sees all pixels in [0, 1]
        )


def read_file(name: str) -> Content:
    """Reads the file in scikit-learn's folder: a line of N, D and the class names, then a line a row, its class last.

    The file of digits has the rows alone.

    Raises:
        OSError: There is no such file.
        ValueError: It has another form.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise FileNotFoundError("sklearn")
    folder = Path(package.origin).parent / "datasets" / "data"
    if name == "digits":
        file, shape, class_names = folder / "digits.csv.gz", (1797, 64), tuple(map(str, range(10)))
    else:
        file = folder / ("wine_data.csv" if name == "wine" else f"{name}.csv")
        with file.open(encoding="utf-8") as lines:
            rows, columns, *names = next(lines, "").strip().split(",")
        shape, class_names = (int(rows), int(columns)), tuple(names)
    values = np.loadtxt(file, delimiter=",", skiprows=0 if name == "digits" else 1, ndmin=2)
    labels = values[:, -1].astype(np.int64)
    is_whole = (labels == values[:, -1]).all() and {*labels.tolist()} == {*range(len(class_names))}
    if values.shape != (shape[0], shape[1] + 1) or len(FEATURE_NAMES[name]) not in (0, shape[1]) or not is_whole:
        raise ValueError(name)
    return Content(np.ascontiguousarray(values[:, :-1]), labels, class_names)


def read_by_sklearn(name: str) -> Content:
    """Has scikit-learn read a dataset."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    return Content(bunch.data, bunch.target, tuple(str(each) for each in bunch.target_names))
