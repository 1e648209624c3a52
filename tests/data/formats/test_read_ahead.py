"""A table that is read while torch is imported is the one that its source asks for, or is not used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from logreg.commands.overrides import composed_config
from logreg.config import RunConfig
from logreg.data.formats import read_ahead
from logreg.data.formats.tables import read_table
from logreg.data.sources import table as source
from logreg.errors import DataError, LogregError
from logreg.run.building import build_data

ROWS = 300

SETTINGS: dict[str, list[str]] = {
    "all columns": [],
    "named": ["dataset.features=[size,color]"],
    "left out": ["dataset.drop=[size,other]"],
    "of text": ["dataset.text=[color]"],
    "categories": ["dataset.categorical=[zip]"],
    "with roles": ["dataset.weight=weight", "dataset.offset=other", "dataset.split.group=zip"],
    "stated splits": ["dataset.split.column=part"],
    "words for missing": ["dataset.missing_values=[red]"],
}


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "LEAST_BYTES", 0)
    read_ahead._BEGUN.clear()


def written(folder: Path, suffix: str = ".csv") -> Path:
    """A table with columns of all roles, and an index of pandas without a name."""
    draw = np.random.default_rng(0)
    columns = {
        "": np.arange(ROWS),
        "target": draw.choice(["no", "yes"], ROWS),
        "size": draw.normal(size=ROWS),
        "other": draw.normal(size=ROWS),
        "color": draw.choice(["red", "green", "blue"], ROWS),
        "zip": draw.integers(10, ROWS, ROWS),
        "weight": draw.uniform(1, 2, ROWS),
        "part": draw.choice(["train", "val", "test"], ROWS),
    }
    path = folder / f"rows{suffix}"
    if suffix == ".csv":
        pyarrow.csv.write_csv(pa.table(columns), str(path))
    else:
        pq.write_table(pa.table(columns), path)
    return path


def config_of(path: Path, *settings: str) -> RunConfig:
    return composed_config(["dataset=table", f"dataset.path={path}", "dataset.target=target", *settings])


@pytest.fixture
def read_later(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that a source reads itself, because they were not read ahead."""
    paths: list[str] = []

    def noted(path: str, *arguments: Any) -> pa.Table:
        paths.append(path)
        return read_table(path, *arguments)

    monkeypatch.setattr(source, "read_table", noted)
    return paths


@pytest.mark.parametrize(
    ("settings", "suffix"),
    [
        (name, suffix)
        for name in SETTINGS
        for suffix in (".csv", ".parquet")
        if name != "words for missing" or suffix == ".csv"
    ],
)
def test_a_source_takes_what_was_read_ahead(settings: str, suffix: str, tmp_path: Path, read_later: list[str]) -> None:
    config = config_of(written(tmp_path, suffix), *SETTINGS[settings])
    directly = build_data(config).facts
    read_later.clear()
    read_ahead.begin(config.dataset)
    assert build_data(config).facts == directly
    assert not read_later


def test_another_reading_takes_nothing_and_leaves_nothing(tmp_path: Path, read_later: list[str]) -> None:
    path = written(tmp_path)
    read_ahead.begin(config_of(path).dataset)
    assert read_ahead._BEGUN
    assert build_data(config_of(path, "dataset.drop=[size]")).facts.num_features
    assert read_later == [str(path)]
    assert not read_ahead._BEGUN


def test_a_broken_file_has_its_own_message(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text() + "1,2,3\n")
    config = config_of(path)
    with pytest.raises(DataError) as directly:
        build_data(config).setup()
    read_ahead.begin(config.dataset)
    with pytest.raises(DataError) as ahead:
        build_data(config).setup()
    assert str(ahead.value) == str(directly.value)


@pytest.mark.parametrize(
    "settings",
    [
        *("dataset.target=absent", "dataset.path=absent.csv", "dataset.path=3", "dataset.separator='|'"),
        *("dataset.separator=ab", "dataset.drop=3", "dataset.features=3"),
    ],
)
def test_what_cannot_be_read_ahead_is_left_alone(settings: str, tmp_path: Path) -> None:
    config = config_of(written(tmp_path), settings)
    read_ahead.begin(config.dataset)
    assert not read_ahead._BEGUN
    with pytest.raises(LogregError, match="`dataset"):
        build_data(config).setup()


def test_a_table_that_is_kept_in_files_is_not_read_ahead(tmp_path: Path) -> None:
    read_ahead.begin(config_of(written(tmp_path), "dataset.storage=mapped").dataset)
    assert not read_ahead._BEGUN


def test_a_small_file_is_not_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    monkeypatch.setattr(read_ahead, "LEAST_BYTES", path.stat().st_size + 1)
    read_ahead.begin(config_of(path).dataset)
    assert not read_ahead._BEGUN


def test_what_memory_does_not_hold_is_not_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(written(tmp_path))
    monkeypatch.setattr(read_ahead, "fits_into_memory", lambda num_bytes: num_bytes < 1000)
    read_ahead.begin(config.dataset)
    assert not read_ahead._BEGUN


def test_reading_needs_no_torch() -> None:
    code = "import sys, logreg.data.formats.read_ahead; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
