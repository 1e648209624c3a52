"""The datasets that a user can select by name.  To add one, see CONTRIBUTING, "Add a dataset".

`TensorDataModule` is imported when it is first used: it brings Lightning, which takes seconds to import, and which the
encoding of tables does not need.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from logreg.data.base import BayesClassifier, Dataset, RawData, Table
from logreg.data.selection import Selection
from logreg.data.sources.blobs import Blobs
from logreg.data.sources.bundled import Bundled
from logreg.data.sources.features import Features
from logreg.data.sources.image_folder import ImageFolder
from logreg.data.sources.table import TableFile
from logreg.data.sources.text import Text
from logreg.data.sources.toy import Toy
from logreg.data.sources.vision import VISION_DATASETS, Vision
from logreg.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from logreg.data.datamodule import TensorDataModule

__all__ = [
    "DATASETS",
    "BayesClassifier",
    "Dataset",
    "RawData",
    "Selection",
    "Table",
    "TensorDataModule",
    "build_dataset",
]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "toy": Toy,
    "blobs": Blobs,
    "breast_cancer": partial(Bundled, "breast_cancer"),
    "iris": partial(Bundled, "iris"),
    "wine": partial(Bundled, "wine"),
    "digits": partial(Bundled, "digits"),
    "table": TableFile,
    "text": Text,
    "features": Features,
    "image_folder": ImageFolder,
    **{name: partial(Vision, name) for name in VISION_DATASETS},
}
"""Class or constructor of each dataset, by name."""


def __getattr__(name: str) -> Any:
    """Imports `TensorDataModule` at its first use (PEP 562).

    Raises:
        AttributeError: There is nothing of that name.
    """
    if name != "TensorDataModule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from logreg.data.datamodule import TensorDataModule

    globals()[name] = TensorDataModule
    return TensorDataModule


def build_frozen_features(source: Dataset, backbone: Mapping[str, Any], device: Any) -> Dataset:
    """A dataset of the features that a pretrained network (backbone) computes from images.

    Args:
        source: A dataset of images.
        backbone: ``name``, ``weights`` and ``batch_size``.
        device: Device of the backbone.

    Raises:
        ConfigError: The dataset has no images, or torchvision has no such model.
    """
    from logreg.data.sources.frozen_features import FrozenFeatures

    return FrozenFeatures(source, backbone["name"], backbone["weights"], backbone["batch_size"], device)


def build_dataset(name: str, arguments: Mapping[str, Any]) -> Dataset:
    """Builds a dataset by its name.

    Args:
        name: A key of ``DATASETS``.
        arguments: Arguments of the dataset, such as ``root``.

    Raises:
        ConfigError: The name or an argument is unknown, or a value breaks its constraint.
    """
    if name not in DATASETS:
        raise ConfigError.not_a_choice("dataset", DATASETS, name)
    known = [key for key in inspect.signature(DATASETS[name]).parameters if key != "model"]  # not a setting
    for key in arguments:
        if key not in known:
            raise ConfigError(
                f"`dataset.{key}` is not an argument of dataset={name}. {did_you_mean(key, known)}".strip()
            )
    return DATASETS[name](**arguments)
