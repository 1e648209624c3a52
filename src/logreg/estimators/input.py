"""The rows that users give to an estimator, as tensors: arrays, data frames and tensors.

scikit-learn's `validate_data` checks everything that it can meet, which takes longer than a small fit.  Plain arrays of
floating numbers, the usual case, are looked at here alone.
"""

from __future__ import annotations

from numbers import Real
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from torch import Tensor

from logreg.csr import checked_sparse, is_sparse, place_not_finite
from logreg.errors import ConfigError, DataError, name_list

Array = np.ndarray[Any, Any]

MAX_COUNTED_CLASSES = 1000
"""Range of whole numbers up to which classes are found by counting."""

FLOATING = (np.dtype(np.float64), np.dtype(np.float32))
"""Types of rows that are fitted as they are."""


def rows_of(estimator: Any, X: Any, y: Any, device: str) -> tuple[Tensor, Array | Tensor]:
    """The rows of a fit: features (N, D), floating, and classes (N,); `raise_not_finite` looks at the numbers.

    Sparse features are a CSR tensor.

    The classes are a tensor only where both X and y are.

    Args:
        estimator: The estimator that is fitted; its ``n_features_in_`` and ``feature_names_in_`` are set.
        X: An array, data frame, sparse matrix of SciPy or tensor; a tensor stays on its device.
        y: An array, a column of a data frame, a list or a tensor.
        device: The device of features that are not a tensor.

    Raises:
        ValueError: X or y has another shape, X is no matrix of numbers, or y holds no classes.
    """
    if isinstance(X, Tensor):
        features = _of_tensor(X)
        if not (isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point()):
            y = _classes_of(estimator, as_array(y))
        if len(y) != X.shape[0]:
            raise DataError(f"y must have one class for each of the {X.shape[0]} rows of X, got {len(y)}.")
        _set_width(estimator, X.shape[1])
        return features, y
    y = as_array(y)
    if _is_plain(X) and type(y) is np.ndarray and y.dtype.kind in "biuU" and y.shape == X.shape[:1]:
        _set_width(estimator, X.shape[1])
    else:
        X, y = _checked(estimator, X, y)
        _check_classes(y)
    features = _as_features(X)
    return features if device == "cpu" else _on(device, features), y


def features_of(estimator: Any, X: Any) -> Tensor:
    """The features of a prediction (N, D), floating, on the device of X where it is a tensor, and else on the CPU.

    Args:
        estimator: The fitted estimator.
        X: An array, data frame, sparse matrix of SciPy or tensor, with the width and the names of the one that was
            fitted.

    Raises:
        ValueError: X has another width or other names, or is no matrix of numbers.
    """
    if isinstance(X, Tensor):
        features = _of_tensor(X)
    elif _is_plain(X) and not hasattr(estimator, "feature_names_in_"):
        features = as_tensor(np.ascontiguousarray(X))
    else:
        return _as_features(_checked(estimator, X, reset=False))
    if X.shape[1] != estimator.n_features_in_:
        name, expected = type(estimator).__name__, estimator.n_features_in_
        raise DataError(f"X has {X.shape[1]} features, but {name} is expecting {expected} features as input.")
    return features


def _on(device: str, features: Tensor) -> Tensor:
    """The features on a device.

    Raises:
        ConfigError: torch cannot use the device here.
    """
    try:
        return features.to(device)
    except (RuntimeError, AssertionError) as error:  # torch has no exception of its own for either
        reason = str(error).partition(".")[0].partition("\n")[0]
        raise ConfigError.broken(
            "device", "be a device that torch can use here", device, f"torch: {reason}."
        ) from error


def _checked(estimator: Any, *rows: Any, **options: Any) -> Any:
    """The rows as scikit-learn's `validate_data` returns them, floating; it does not look for missing values.

    Raises:
        ValueError: X has text or times, or scikit-learn refuses the rows.
    """
    try:
        return validate_data(estimator, *rows, dtype=FLOATING, ensure_all_finite=False, accept_sparse="csr", **options)
    except np.exceptions.DTypePromotionError as error:
        raise DataError(
            "X must hold numbers, and a column holds dates or times. "
            "Make numbers of them first, such as days since a start, or leave the column out."
        ) from error
    except ValueError as error:  # the latter where pandas converts a categorical beside columns of other types
        if not any(words in str(error) for words in ("could not convert string to float", "Cannot cast")):
            raise
        raise DataError(f"X must hold numbers: {error}. Encode text first, for example with TableEncoder.") from error


def _is_plain(X: Any) -> bool:
    return type(X) is np.ndarray and X.ndim == 2 and X.size > 0 and X.dtype in FLOATING


def _as_features(X: Any) -> Tensor:
    """Checked rows of scikit-learn, an array or a CSR matrix, as a tensor."""
    return checked_sparse(X) if issparse(X) else as_tensor(np.ascontiguousarray(X))


def _of_tensor(X: Tensor) -> Tensor:
    """The features of a tensor: in float64 unless they are in float32."""
    if X.layout is not torch.strided:
        return checked_sparse(X)
    if X.ndim != 2 or not X.numel() or X.is_complex():
        raise DataError(f"X must be a matrix (N, D) of real numbers, got {X.dtype} of shape {tuple(X.shape)}.")
    X = X.detach()
    return X if X.dtype in (torch.float32, torch.float64) else X.double()


def _classes_of(estimator: Any, y: Any) -> Array:
    """The classes of rows whose features are a tensor, checked."""
    checked: Array = validate_data(estimator, y=y)
    _check_classes(checked)
    return checked


def _check_classes(y: Array) -> None:
    """Checks that y (N,) has classes and no measurements, all of one type and none missing.

    Raises:
        ValueError: y has something else.
        TypeError: The classes have several types.
    """
    if y.dtype.kind == "O":
        kinds = sorted({kind.__name__ for kind in set(map(type, y))})
        if "NoneType" in kinds or "NAType" in kinds:
            raise DataError("Input y contains a missing value. Drop the rows without a class.")
        if len(kinds) > 1 and "str" in kinds:
            raise TypeError(f"y must have classes of one type, got {name_list(kinds, last=' and ')}. Give all as text.")
    check_classification_targets(y)


def _set_width(estimator: Any, width: int) -> None:
    """Notes the number of features of a fit without names."""
    estimator.n_features_in_ = width
    if hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_


def encoded_labels(y: Array | Tensor) -> tuple[Array, Tensor]:
    """The classes in ascending order, (C,), and the position of each row's class among them, (N,)."""
    if isinstance(y, Tensor):
        found, labels = torch.unique(y, return_inverse=True)
        return found.cpu().numpy(), labels
    if y.dtype.kind in "biu" and y.dtype != np.uint64:
        numbers = as_tensor(np.ascontiguousarray(y, dtype=np.int64))
        low, high = (int(extreme) for extreme in numbers.aminmax())
        if high - low < MAX_COUNTED_CLASSES:  # counting takes less time than sorting
            places = numbers - low
            is_there = torch.bincount(places) > 0
            found = is_there.nonzero()[:, 0]
            if len(found) <= high - low:  # some numbers in between are no class
                places = (is_there.cumsum(0) - 1)[places]
            return (found + low).numpy().astype(y.dtype), places
    classes, order = np.unique(y, return_inverse=True)
    return classes, torch.from_numpy(order)


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


def is_number(value: object) -> bool:
    """Whether a value is a real number, and no boolean."""
    return isinstance(value, Real) and not isinstance(value, bool)


def number_of_each_row(key: str, values: Any, rows: Tensor) -> Tensor | None:
    """An argument that has a number for each row, or one for all of them, (N,), float64; ``None`` where it is.

    Args:
        key: Name of the argument.
        values: The numbers.
        rows: Shape (N,), whose device the numbers are on.

    Raises:
        DataError: The numbers have another shape.
    """
    if values is None:
        return None
    if is_number(values):
        return torch.full(rows.shape, values, dtype=torch.float64, device=rows.device)
    if not isinstance(values, Tensor):
        values = as_tensor(np.asarray(values, dtype=np.float64))
    if values.shape != rows.shape:
        raise DataError(
            f"{key} must have one number for each row, shape {tuple(rows.shape)}, got {tuple(values.shape)}."
        )
    numbers: Tensor = values.detach().to(rows.device, torch.float64)
    return numbers


def raise_not_finite(estimator: Any, features: Tensor) -> None:
    """Raises the error of a number that is not finite, where there is one.

    Raises:
        DataError: A number is not finite.
    """
    if (place := _place_not_finite(features)) is not None:
        row, column, value = place
        names = getattr(estimator, "feature_names_in_", None)
        where = f"row {row}, column {column if names is None else repr(names[column])}"
        what = "NaN" if value != value else "infinity"
        fill = "Fill missing values first, for example with logreg.TableEncoder, which marks them too."
        advice = fill if what == "NaN" else "Cut or drop such values."
        raise DataError(f"Input X contains {what} in {where}. {advice}")


def _place_not_finite(features: Tensor) -> tuple[int, int, float] | None:
    """Row and column of the first number that is not finite, and the number; ``None`` without one."""
    if is_sparse(features):
        return place_not_finite(features)
    wrong = (~features.isfinite()).nonzero()
    if not len(wrong):
        return None
    row, column = (int(place) for place in wrong[0])
    return row, column, float(features[row, column])
