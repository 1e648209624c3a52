"""Rows: sources, formats, splits, encoding, and the DataModule that serves them.

The names below are imported when they are first used: they bring torch, and `TensorDataModule` brings Lightning, which
take seconds to import, and which reading a text file does not need.
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
    "DATASETS": "logreg.data.datasets",
    "BayesClassifier": "logreg.data.base",
    "Dataset": "logreg.data.base",
    "RawData": "logreg.data.base",
    "Selection": "logreg.data.selection",
    "Table": "logreg.data.base",
    "TensorDataModule": "logreg.data.datamodule",
    "build_dataset": "logreg.data.datasets",
    "build_frozen_features": "logreg.data.datasets",
}
"""The module of each public name."""

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
    """Imports a public name at its first use (PEP 562).

    Raises:
        AttributeError: There is none of that name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value
