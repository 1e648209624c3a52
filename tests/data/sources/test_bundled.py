from __future__ import annotations

import gzip
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import datasets

from logreg.data.sources import bundled
from logreg.data.sources.bundled import FEATURE_NAMES, Bundled, read_by_sklearn, read_file

NAMES = ("breast_cancer", "iris", "wine", "digits")

IRIS = ["2,4,setosa,versicolor", "1,2,3,4,0", "5,6,7,8,1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_what_scikit_learn_gives(name: str) -> None:
    bunch = getattr(datasets, f"load_{name}")()
    for content in (read_file(name), read_by_sklearn(name)):
        assert np.array_equal(content.features, bunch.data)
        assert np.array_equal(content.labels, bunch.target)
        assert content.class_names == tuple(map(str, bunch.target_names))
    assert FEATURE_NAMES[name] == (() if name == "digits" else tuple(map(str, bunch.feature_names)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in the place of that of scikit-learn's files."""
    spec = ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(bundled, "find_spec", lambda name: spec)
    folder = tmp_path / "datasets" / "data"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "lines",
    [
        IRIS[1:],  # the first line is missing
        [IRIS[0], *IRIS[1:] * 2],  # more rows than it says
        ["2,3,setosa,versicolor", "1,2,3,0", "5,6,7,1"],  # another number of features
        [IRIS[0], "1,2,3,4,1", "5,6,7,8,2"],  # a class without a name
        [IRIS[0], "1,2,3,4,0.5", "5,6,7,8,1"],
        [*IRIS[:2], "5,6,7,8,one"],
        [],
        None,
    ],
)
def test_a_file_of_another_form_is_left_to_scikit_learn(folder: Path, lines: list[str] | None) -> None:
    if lines is not None:
        (folder / "iris.csv").write_text("\n".join(lines))
    with pytest.raises((OSError, ValueError)):
        read_file("iris")
    assert len(Bundled("iris").read().tables["train"].labels) == 150


def test_a_file_is_checked(folder: Path) -> None:
    (folder / "iris.csv").write_text("\n".join(IRIS))
    read = Bundled("iris").read()
    assert read.class_names == ("setosa", "versicolor")
    assert torch.equal(read.tables["train"].labels, torch.tensor([0, 1]))
    with gzip.open(folder / "digits.csv.gz", "wt") as file:
        file.write("\n".join(IRIS[1:]))
    with pytest.raises(ValueError, match="digits"):
        read_file("digits")
