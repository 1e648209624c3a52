"""Text in tables and folders: its columns are found or named, and both ways give the same rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from logreg.data import TensorDataModule
from logreg.errors import LogregError
from tables import write
from whole_runs import data_of

RED, BLUE = "a red rose and a red apple grow", "the blue sea and the blue sky meet"

WHOLE = ("dataset.split.val=0", "dataset.split.test=0")


def text_data(*arguments: str) -> TensorDataModule:
    data = data_of("text", *arguments)
    data.setup()
    return data


def sentences(rows: int = 12) -> dict[str, list[str]]:
    """A column of text, every other row about red, and its classes."""
    return {
        "t": [f"{(RED, BLUE)[row % 2]} here {'abcdefghijkl'[row % 12] * 3}" for row in range(rows)],
        "y": ["red" if row % 2 == 0 else "blue" for row in range(rows)],
    }


def folder_of(place: Path, columns: dict[str, list[str]], splits: dict[str, range] | None = None) -> Path:
    for split, rows in (splits or {"": range(len(columns["t"]))}).items():
        for row in rows:
            file = place / split / columns["y"][row] / f"{row:03}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(columns["t"][row], encoding="utf-8")
    return place


def test_text_and_classes_of_a_table_of_two_columns_are_found(tmp_path: Path) -> None:
    columns = sentences()
    data = text_data(f"dataset.path={write(tmp_path, **columns)}")
    assert [(column.name, column.kind) for column in data.facts.columns] == [("t", "text")]
    assert data.facts.class_names == ("blue", "red")
    assert "t:rose" in data.facts.feature_names
    assert data.facts.mean == ()


def test_a_table_in_many_files_is_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    columns = sentences()
    for part in range(2):
        some = {name: values[6 * part : 6 * part + 6] for name, values in columns.items()}
        write(tmp_path, **some).rename(tmp_path / "parts" / f"{part}.csv")
    ours = text_data(f"dataset.path='{tmp_path}/parts/*.csv'")
    assert ours.facts.fingerprint == text_data(f"dataset.path={write(tmp_path, **columns)}").facts.fingerprint


@pytest.mark.parametrize("named", ["dataset.target=y", "dataset.text=[t]"])
def test_the_other_one_of_two_columns_is_taken(tmp_path: Path, named: str) -> None:
    file = write(tmp_path, t=["a", "b"] * 10 + ["good stuff"] * 4, y=list("pq") * 12)
    data = text_data(f"dataset.path={file}", named, "dataset.char_ngrams=[1,1]", "dataset.word_ngrams=null")
    assert [column.name for column in data.facts.columns] == ["t"]
    assert data.facts.class_names == ("p", "q")


@pytest.mark.parametrize(
    ("columns", "typed", "message"),
    [
        (
            {"id": ["1"] * 12, **sentences()},
            "",
            r"`dataset.text` and `dataset.target` must name the columns of text and the column of classes: "
            r"\S*t.csv has id, t, y. Set dataset.text=[t] dataset.target=COLUMN.",
        ),
        (
            {"id": ["1"] * 12, **sentences()},
            "dataset.target=y",
            r"`dataset.text` must name the columns of text: \S*t.csv has id, t, y. Set dataset.text=[t].",
        ),
        (
            {"id": ["1"] * 12, **sentences()},
            "dataset.text=[t]",
            r"`dataset.target` must name the column of classes: \S*t.csv has id, t, y. Set dataset.target=COLUMN.",
        ),
        (
            {"t": ["a"] * 12, "y": ["p"] * 12},
            "",
            r"`dataset.text` and `dataset.target` must name the columns of text and the column of classes: "
            r"\S*t.csv has t, y. Set dataset.text=[COLUMN] dataset.target=COLUMN.",
        ),
        ({**sentences(), "x": ["1"] * 12}, "dataset.text=[u] dataset.target=y", "`dataset.text` must name a column of"),
        (sentences(), "dataset.text=[y] dataset.target=y", "`dataset.text` must not name a column that has another"),
        (sentences(), "dataset.text=[t] dataset.drop=[t] dataset.target=y", "`dataset.text` must not name a column"),
        (
            sentences(),
            "dataset.text=t",
            "`dataset.text` must be a list, such as [a,b] or null, got 't'. Set dataset.text=[t].",
        ),
        (sentences(), "dataset.word_ngrams=2", "`dataset.word_ngrams` must be the smallest and the largest length"),
        (sentences(), "dataset.char_ngrams=[3,2]", "`dataset.char_ngrams` must be the smallest and the largest"),
        (sentences(), "dataset.word_ngrams=null", "`dataset.word_ngrams` must be given where `dataset.char_ngrams` is"),
        (
            sentences(),
            "dataset.hash=8",
            "`dataset.hash` must go with dataset.features=[COLUMN]",
        ),
        (sentences(), "dataset.min_df=0", "`dataset.min_df` must be a whole number >= 1, got 0."),
        (sentences(), "dataset.min_df=99", "`dataset.min_df=99` must leave n-grams of column 't', and none is in more"),
    ],
)
def test_text_of_a_table_that_cannot_be_learned_is_refused(
    tmp_path: Path, columns: dict[str, list[Any]], typed: str, message: str
) -> None:
    file = write(tmp_path, **columns)
    pattern = re.escape(message).replace(re.escape(r"\S*"), r"\S*")
    with pytest.raises(LogregError, match=pattern):
        text_data(f"dataset.path={file}", *typed.split())


def test_a_table_has_text_beside_other_columns_which_alone_are_standardized(tmp_path: Path) -> None:
    columns = {**sentences(), "u": sentences()["t"], "x": list(range(12))}
    data = data_of(
        "table", f"dataset.path={write(tmp_path, **columns)}", "dataset.target=y", "dataset.text=[t,u]", *WHOLE
    )
    data.setup()
    kinds = {column.name: column.kind for column in data.facts.columns}
    assert kinds == {"t": "text", "u": "text", "x": "number"}
    means = dict(zip(data.facts.feature_names, zip(data.facts.mean, data.facts.std, strict=True), strict=True))
    assert means["t:rose"] == means["u:sky"] == (0.0, 1.0)
    assert means["x"][0] == pytest.approx(5.5)


def test_dataset_text_learns_from_other_columns_only_where_they_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, **sentences(), x=list(range(12)))
    named = (f"dataset.path={file}", "dataset.text=[t]", "dataset.target=y", *WHOLE)
    assert [column.name for column in text_data(*named).facts.columns] == ["t"]
    assert [column.name for column in text_data(*named, "dataset.features=[x]").facts.columns] == ["x", "t"]
    every = text_data(*named, "dataset.features=null").facts.columns
    assert sorted(column.name for column in every) == ["t", "x"]


def test_the_columns_of_a_folder_are_read_again_as_codes(tmp_path: Path) -> None:
    columns = sentences()
    data = text_data(f"dataset.path={folder_of(tmp_path / 'f', columns)}", *WHOLE)
    codes = data.codes("train", "class", "covariance")
    assert codes.tolist() == data.labels("train").tolist()


def test_a_folder_gives_the_rows_of_a_table(tmp_path: Path) -> None:
    columns = sentences()
    data = text_data(f"dataset.path={folder_of(tmp_path / 'f', columns)}", *WHOLE)
    order = sorted(range(12), key=lambda row: (columns["y"][row], row))
    table = {name: [values[row] for row in order] for name, values in columns.items()}
    same = text_data(f"dataset.path={write(tmp_path, **table)}", *WHOLE)
    assert data.tables["train"].matrix.equal(same.tables["train"].matrix)
    assert data.labels("train").equal(same.labels("train"))
    assert data.facts.columns[0].name == "text"
    assert data.facts.source == "f"


def test_a_folder_may_state_the_splits(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "f", sentences(), {"train": range(6), "val": range(6, 8), "test": range(8, 12)})
    data = text_data(f"dataset.path={place}")
    assert data.facts.rows == {"train": 6, "val": 2, "test": 4}
    assert data.facts.source == "f/train + f/val + f/test"


def test_empty_documents_are_kept_and_counted(tmp_path: Path) -> None:
    columns = sentences()
    columns["t"][3] = ""
    expected = "1 row of train without an n-gram of t that train has: all its features are 0"
    data = text_data(f"dataset.path={write(tmp_path, **columns)}", *WHOLE)
    assert data.facts.rows == {"train": 12}
    assert expected in data.notes
    folder = text_data(f"dataset.path={folder_of(tmp_path / 'f', columns)}", *WHOLE)
    assert folder.facts.rows == {"train": 12}
    assert expected.replace(" t ", " text ") in folder.notes


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda place: (place / "red" / "1.txt").write_bytes(b"one\ncaf\xe9"),
            r"be in UTF-8, and line 2 of .*1\.txt.*latin1",
        ),
        (lambda place: (place / "red" / "1.txt").write_bytes(b"\xff\xfea\x00"), r"be in UTF-8.*iconv -f utf-16"),
        (
            lambda place: (place / "red" / "1.txt").write_bytes(b"\x89PNG\r\n\x1a\n"),
            r"hold text, and .*1\.txt is a PNG image",
        ),
        (
            lambda place: (place / "red" / "1.txt").write_bytes(bytes(range(256))),
            r"hold text, and .*1\.txt is not\. Move",
        ),
        (lambda place: (place / "green").mkdir(), r"must have \.txt files in each class folder, got none in .*green"),
        (
            lambda place: (place / "red").rename(place.parent / "red"),
            r"dataset\.path=\S*f` must hold at least 2 classes",
        ),
        (
            lambda place: [(place / name).rename(place.parent / name) for name in ("red", "blue")],
            "there is no folder in",
        ),
    ],
    ids=["latin1", "utf-16", "image", "bytes", "empty class", "one class", "empty"],
)
def test_a_folder_of_text_files_that_cannot_be_learned_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    place = folder_of(tmp_path / "f", sentences())
    spoil(place)
    with pytest.raises(LogregError, match=message):
        text_data(f"dataset.path={place}")


def test_a_table_that_is_not_in_utf_8_is_named_with_its_column(tmp_path: Path) -> None:
    file = write(tmp_path, **sentences())
    file.write_bytes(file.read_bytes().replace(b"rose", b"ros\xe9"))
    with pytest.raises(LogregError, match=r"must be in UTF-8, and column 't' of .*t\.csv is not"):
        text_data(f"dataset.path={file}", "dataset.text=[t]", "dataset.target=y")
