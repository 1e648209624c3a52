"""Rows: from files and libraries to blocks of features and labels.

The names below are imported when they are first used, as those of `logreg`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logreg.data.base import BayesClassifier as BayesClassifier
    from logreg.data.base import Dataset as Dataset
    from logreg.data.base import RawData as RawData
    from logreg.data.base import Table as Table
    from logreg.data.datamodule import TensorDataModule as TensorDataModule
    from logreg.data.datasets import DATASETS as DATASETS
    from logreg.data.datasets import build_dataset as build_dataset
    from logreg.data.datasets import build_frozen_features as build_frozen_features
    from logreg.data.selection import Selection as Selection

_MODULES = {
    "BayesClassifier": "base",
    "DATASETS": "datasets",
    "Dataset": "base",
    "RawData": "base",
    "Selection": "selection",
    "Table": "base",
    "TensorDataModule": "datamodule",
    "build_dataset": "datasets",
    "build_frozen_features": "datasets",
}
"""The module of each name, within this package."""

__all__ = [
    "DATASETS",
    "BayesClassifier",
    "Dataset",
    "RawData",
    "Selection",
    "Table",
    "TensorDataModule",
    "build_dataset",
    "build_frozen_features",
]


def __getattr__(name: str) -> Any:
    """Imports a name at its first use (PEP 562).

    Raises:
        AttributeError: There is none of that name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value
