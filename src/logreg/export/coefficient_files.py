"""Reads files of coefficients, as other programs and `scripts/export.py format=json` write them; never unpickles."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from logreg.data.formats.arrays import read_npz
from logreg.errors import DataError, shortened

COEF = ("coef", "coef_", "weight")
"""Names of the coefficients in a file: ours, scikit-learn's, torch's."""

INTERCEPT = ("intercept", "intercept_", "bias")
"""Names of the intercept in a file, of the same three."""


def read_coefficients(file: Path, has_intercept: bool = True) -> tuple[Tensor, Tensor]:
    """Reads coefficients and intercept.

    Args:
        file: .npz or .json, with an array under a name of ``COEF`` and one under a name of ``INTERCEPT``.
        has_intercept: Whether the file must hold an intercept; else a missing one is 0.

    Returns:
        Shapes (K, D) and (K,), float64; a vector or a number is one row.

    Raises:
        DataError: The file cannot be read, or lacks one of them, or holds numbers that are not finite.
    """
    try:
        with file.open("rb"):
            pass
    except FileNotFoundError as error:
        raise DataError(f"`coef={file}` must be a file, and there is none of that name.") from error
    except OSError as error:
        raise DataError(
            f"`coef={shortened(str(file))}` must be a file, and cannot be read: {error.strerror}."
        ) from error
    try:
        held = json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else read_npz(file)
        if not has_intercept and not set(INTERCEPT) & set(held):
            held["intercept"] = np.zeros(len(np.atleast_2d(next(held[name] for name in COEF if name in held))))
        found = [next(name for name in names if name in held) for names in (COEF, INTERCEPT)]
        coef, intercept = (torch.from_numpy(np.array(held[name], dtype=np.float64)) for name in found)
    except StopIteration as error:
        raise DataError(
            f"`coef={file}` must hold coef and intercept, got {', '.join(map(str, held)) or 'nothing'}. "
            "Of a model without one, type intercept=false."
        ) from error
    except (
        *(OSError, ValueError, TypeError, AttributeError, EOFError, MemoryError, RecursionError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise DataError(
            f"`coef={file}` must be .npz or .json with numbers under coef and intercept, and cannot be read as that. "
            "Nothing is unpickled: numpy.savez(file, coef=model.coef_, intercept=model.intercept_) writes a good one."
        ) from error
    for name, values in zip(found, (coef, intercept), strict=True):
        if not bool(values.isfinite().all()):
            raise DataError(f"`coef={file}` must hold finite numbers, got nan or inf in {name}.")
    return torch.atleast_2d(coef), torch.atleast_1d(intercept)
