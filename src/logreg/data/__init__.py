"""Every dataset a person may select, by name.  To add one: CONTRIBUTING, "Add a dataset"."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from logreg.data.base import Dataset, KnownAnswer, RawData, Table, TensorDataModule
from logreg.data.blobs import Blobs
from logreg.data.bundled import Bundled
from logreg.data.toy import Toy
from logreg.data.vision import Vision
from logreg.errors import ConfigError, did_you_mean

__all__ = ["DATASETS", "Dataset", "KnownAnswer", "RawData", "Table", "TensorDataModule", "build_dataset"]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "toy": Toy,
    "blobs": Blobs,
    "breast_cancer": partial(Bundled, "breast_cancer"),
    "iris": partial(Bundled, "iris"),
    "wine": partial(Bundled, "wine"),
    "digits": partial(Bundled, "digits"),
    "mnist": partial(Vision, "mnist"),
    "fashion_mnist": partial(Vision, "fashion_mnist"),
}
"""The datasets: a name, and what reads it."""


def build_dataset(name: str, arguments: Mapping[str, Any]) -> Dataset:
    """The dataset that a config names.

    Args:
        name: A key of ``DATASETS``.
        arguments: The dataset's own arguments, such as ``root``.

    Raises:
        ConfigError: The name or an argument is unknown, or a value breaks its promise.
    """
    if name not in DATASETS:
        raise ConfigError.not_a_choice("dataset", DATASETS, name)
    known = list(inspect.signature(DATASETS[name]).parameters)
    for key in arguments:
        if key not in known:
            raise ConfigError(
                f"`dataset.{key}` is not an argument of dataset={name}. {did_you_mean(key, known)}".strip()
            )
    return DATASETS[name](**arguments)
