"""Files of coefficients: the names and shapes that are read, and the message for each file that is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from logreg.errors import DataError, shortened
from logreg.export.coefficient_files import COEF, INTERCEPT, read_coefficients


def written(folder: Path, suffix: str, **arrays: Any) -> Path:
    file = folder / f"model{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps({name: np.asarray(values).tolist() for name, values in arrays.items()}))
    else:
        np.savez(file, **arrays)
    return file


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize(("coef", "intercept"), list(zip(COEF, INTERCEPT, strict=True)))
def test_names_of_three_programs_are_read(tmp_path: Path, suffix: str, coef: str, intercept: str) -> None:
    file = written(tmp_path, suffix, **{coef: [[1.0, 2.0], [3.0, 4.0]], intercept: [5.0, 6.0]})
    found = read_coefficients(file)
    assert [part.tolist() for part in found] == [[[1, 2], [3, 4]], [5, 6]]
    assert [part.dtype for part in found] == [torch.float64, torch.float64]


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_vector_and_a_number_are_one_row(tmp_path: Path, suffix: str) -> None:
    coef, intercept = read_coefficients(written(tmp_path, suffix, coef=[1, 2, 3], intercept=4))
    assert (coef.shape, intercept.shape) == ((1, 3), (1,))


def test_an_intercept_is_0_where_the_model_has_none(tmp_path: Path) -> None:
    file = written(tmp_path, ".npz", coef=np.ones((2, 3)))
    with pytest.raises(DataError, match=r"must hold coef and intercept, got coef\. .* type intercept=false\.$"):
        read_coefficients(file)
    assert read_coefficients(file, has_intercept=False)[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"coef": [np.inf], "intercept": 0}, "must hold finite numbers, got nan or inf in coef"),
        ({"coef": [0.0], "bias": np.nan}, "must hold finite numbers, got nan or inf in bias"),
        ({"weights": [0.0]}, "must hold coef and intercept, got weights"),
        ({"coef": np.array([{}], dtype=object), "intercept": 0}, "Nothing is unpickled"),
        ({"coef": ["a"], "intercept": 0}, "cannot be read as that"),
    ],
)
def test_a_file_without_coefficients_is_a_mistake(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_coefficients(written(tmp_path, ".npz", **arrays))


def test_a_file_that_is_missing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a file, and there is none of that name"):
        read_coefficients(tmp_path / "model.npz")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("x" * 300 + ".npz", "File name too long"), ("x" * 300 + ".json", "File name too long"), ("", "Is a directory")],
)
def test_a_path_that_the_system_does_not_take_is_a_mistake(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = shortened(name) or "."
    message = f"`coef={path}` must be a file, and cannot be read: {reason}."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read_coefficients(Path(name))
