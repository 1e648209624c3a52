"""The rows that users give to an estimator, as tensors: arrays, data frames and tensors.

scikit-learn's `validate_data` checks everything that it can meet, which takes longer than a small fit.  Plain arrays of
floating numbers, the usual case, are looked at here alone.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from torch import Tensor

from logreg.errors import DataError

Array = np.ndarray[Any, Any]

FLOATING = (np.dtype(np.float64), np.dtype(np.float32))
"""Types of rows that are fitted as they are."""

NO_SPARSE = "X must be dense, and sparse matrices are not supported yet. Give X.toarray()."
"""The message for a sparse X."""


def features_of(estimator: Any, X: Any, y: Any = None, device: str = "cpu") -> tuple[Tensor, Any]:
    """The features as a tensor (N, D) of floating numbers, and y, with the checks that need no look at the numbers.

    Args:
        estimator: With a y, its ``n_features_in_`` and ``feature_names_in_`` are set; else X must have these.
        X: An array, data frame or tensor; a tensor stays on its device.
        y: Classes (N,); ``None`` for a prediction.
        device: The device of features that are not a tensor.

    Raises:
        TypeError: X is sparse.
        ValueError: X or y has another shape, or X is no matrix of numbers.
    """
    if isinstance(X, Tensor):
        return _checked_tensor(estimator, X, y), _plain(y)
    if issparse(X):
        raise TypeError(NO_SPARSE)
    y = _plain(y)
    if _is_plain(X) and not hasattr(estimator, "feature_names_in_") and (y is None or _goes_with(X, y)):
        if y is not None:
            estimator.n_features_in_ = X.shape[1]
        elif X.shape[1] != estimator.n_features_in_:
            raise _other_width(estimator, X.shape[1])
    elif y is None:
        X = validate_data(estimator, X, reset=False, dtype=FLOATING, ensure_all_finite=False)
    else:
        X, y = validate_data(estimator, X, y, dtype=FLOATING, ensure_all_finite=False)
    features = as_tensor(np.ascontiguousarray(X))
    return features if device == "cpu" else features.to(device), y


def _is_plain(X: Any) -> bool:
    return type(X) is np.ndarray and X.ndim == 2 and X.size > 0 and X.dtype in FLOATING


def _goes_with(X: Array, y: Any) -> bool:
    """Whether y is a plain array of classes, one for each row of X."""
    return type(y) is np.ndarray and y.shape == X.shape[:1] and y.dtype.kind in "biuU"


def _checked_tensor(estimator: Any, X: Tensor, y: Any) -> Tensor:
    """The features of a tensor: in float64 unless they are in float32."""
    if X.layout is not torch.strided:
        raise TypeError(NO_SPARSE.replace("toarray", "to_dense"))
    if X.ndim != 2 or not X.numel() or X.is_complex():
        raise DataError(f"X must be a matrix (N, D) of real numbers, got {X.dtype} of shape {tuple(X.shape)}.")
    if y is None:
        if X.shape[1] != estimator.n_features_in_:
            raise _other_width(estimator, X.shape[1])
    elif len(y) != len(X):
        raise DataError(f"y must have one class for each of the {len(X)} rows of X, got {len(y)}.")
    else:
        estimator.n_features_in_ = X.shape[1]
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
    X = X.detach()
    return X if X.dtype in (torch.float32, torch.float64) else X.double()


def _other_width(estimator: Any, width: int) -> DataError:
    name = type(estimator).__name__
    return DataError(f"X has {width} features, but {name} is expecting {estimator.n_features_in_} features as input.")


def _plain(y: Any) -> Any:
    """y, as an array where it is a tensor."""
    return as_array(y) if isinstance(y, Tensor) else y


def encoded_labels(y: Any) -> tuple[Array, Tensor]:
    """The classes in ascending order, (C,), and the position of each row's class among them, (N,).

    Args:
        y: Shape (N,).

    Raises:
        ValueError: y holds no classes, but for example measurements.
    """
    y = np.asarray(y)
    if y.dtype.kind not in "biuU":
        check_classification_targets(y)
    classes, labels = np.unique(y, return_inverse=True)
    return classes, torch.from_numpy(labels)


def as_array(values: Any) -> Any:
    """A tensor as an array on the CPU; anything else as it is."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def as_tensor(values: Array) -> Tensor:
    """An array as a tensor that shares its memory, without torch's warning where the array is read-only."""
    if not values.flags.writeable:  # as joblib maps it into several processes; nothing here writes into it
        place, _ = values.__array_interface__["data"]
        values = np.asarray(
            SimpleNamespace(__array_interface__={**values.__array_interface__, "data": (place, False)}, held=values)
        )
    return torch.from_numpy(values)


def raise_not_finite(estimator: Any, features: Tensor) -> None:
    """Raises the error of a number that is not finite, where there is one.

    Raises:
        DataError: A number is not finite.
    """
    wrong = (~features.isfinite()).nonzero()
    if len(wrong):
        row, column = (int(place) for place in wrong[0])
        names, value = getattr(estimator, "feature_names_in_", None), float(features[row, column])
        where = f"row {row}, column {column if names is None else repr(names[column])}"
        what = "NaN" if value != value else "infinity"
        advice = "Fill gaps first, for example with SimpleImputer." if what == "NaN" else "Cut or drop such values."
        raise DataError(f"X must be finite, got {what} in {where}. {advice}")
