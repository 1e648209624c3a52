"""Tables that a thread reads before they are asked for, and the runs that begin with it."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from logreg.data.formats import tables
from logreg.data.formats.tables import begin_reading, read_table
from logreg.data.formats.text_tables import TextOptions
from logreg.data.sources.table_reading import TableReading
from logreg.errors import DataError


def arguments(path: Path) -> tuple[Any, ...]:
    return str(path), "dataset.path", ["x", "y"], set(), TextOptions(), {"y"}


def test_a_table_that_is_begun_with_is_read_once_and_given_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("x,y\n1,a\n2,b\n")
    begin_reading(*arguments(path))
    with monkeypatch.context() as patched:
        patched.setattr(tables, "_read", None)  # who read it again would fail
        assert read_table(*arguments(path)).to_pydict() == {"x": [1, 2], "y": ["a", "b"]}
    path.write_text("x,y\n3,a\n4,b\n")
    assert read_table(*arguments(path)).column("x").to_pylist() == [3, 4]


def test_other_columns_are_not_those_that_are_begun_with(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("x,y\n1,a\n2,b\n")
    begin_reading(*arguments(path))
    assert read_table(str(path), "dataset.path", ["y"]).column_names == ["y"]
    assert read_table(*arguments(path)).column_names == ["x", "y"]


def test_an_error_is_raised_where_the_table_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("x,y\n1,a\n2,b,c\n")
    begin_reading(*arguments(path))
    with pytest.raises(DataError, match="2 values in every line, got 3 in line 3"):
        read_table(*arguments(path))


def test_a_program_that_ends_before_its_table_is_read_keeps_its_exit_code(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "table.csv.gz", "wt", compresslevel=1) as file:
        file.write("x,y\n" + "1.25,a\n" * 400_000)
    code = (
        "import sys\n"
        "from logreg.data.formats.tables import begin_reading\n"
        "from logreg.data.formats.text_tables import TextOptions\n"
        "begin_reading('table.csv.gz', 'dataset.path', ['x', 'y'], (), TextOptions(), ())\n"
        "sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (7, "")


def test_of_several_files_and_of_folders_none_is_begun_with(tmp_path: Path) -> None:
    for name in ("train.csv", "val.csv", "folder/part.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x,y\n1,a\n2,b\n")
    TableReading(train_path=str(tmp_path / "train.csv"), val_path=str(tmp_path / "val.csv"), target="y").begin()
    TableReading(path=str(tmp_path / "folder"), target="y").begin()
    assert not tables._BEGUN


@pytest.mark.long
def test_a_run_begins_with_its_table_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("x,y\n1,a\n2,b\n")
    code = (
        "import sys\n"
        "from logreg.config import RunConfig\n"
        "from logreg.data.formats import tables\n"
        "from logreg.run.reading_ahead import read_ahead\n"
        "from logreg.commands.overrides import composed_config\n"
        "read_ahead(composed_config(sys.argv[1:]))\n"
        "(begun,) = tables._BEGUN.values()\n"
        "print(begun.result().column_names, 'torch' in sys.modules)"
    )
    typed = ["dataset=table", "dataset.path=table.csv", "dataset.target=y", "dataset.split.group=x"]
    done = subprocess.run(
        [sys.executable, "-c", code, *typed], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("['y', 'x'] False\n", "")
