"""Large text files are read with the types of their first block, and give the same tables as if all were inferred."""

from __future__ import annotations

import gzip
import io
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from logreg.data.formats import text_layout, text_tables
from logreg.data.formats.tables import column_names, open_blocks, read_table
from logreg.data.formats.text_input import StandardInput, TextFile
from logreg.data.formats.text_layout import TextOptions
from logreg.errors import DataError

ROWS = 400

COLUMNS: dict[str, Any] = {
    # name: function of the row; blocks have about 20 rows
    "whole": lambda row: row % 7,
    "fraction": lambda row: f"{row / 7:.3f}",
    "late fraction": lambda row: row if row < 300 else row + 0.5,
    "late exponent": lambda row: row if row < 100 else "1e2",
    "late integer": lambda row: row + 0.5 if row < 100 else row,
    "too large": lambda row: row if row < 200 else 2**63 + row,
    "wide": lambda row: 2**53 + 1 if row < 200 else "9007199254740993.0",
    "hexadecimal": lambda row: "0x1F" if row > 350 else row,
    "blanks": lambda row: f" {row} ",
    "gaps": lambda row: "" if row % 5 == 2 else row,
    "late gaps": lambda row: "" if row > 300 else row,
    "fraction with gaps": lambda row: "NA" if row % 5 == 2 else row / 4,
    "starts empty": lambda row: "" if row < 100 else row,
    "starts empty, late fraction": lambda row: "" if row < 100 else row if row < 200 else 0.5,
    "starts empty, then text": lambda row: "" if row < 100 else f"w{row % 3}",
    "empty": lambda row: "",
    "text": lambda row: ["red", "green", "blue"][row % 3],
    "quoted": lambda row: '"a, ""b""\nc"' if row % 2 else "d",
    "late text": lambda row: row / 2 if row < 390 else "many",
    "late quote": lambda row: row if row < 300 else '"x""y"',
    "boolean": lambda row: "true" if row % 2 else "false",
    "boolean of numbers": lambda row: row % 2 if row < 200 else "true",
    "date": lambda row: f"2020-01-{row % 28 + 1:02d}",
    "late date": lambda row: 2020 if row < 200 else "2020-01-01",
    "time": lambda row: f"{row % 24:02d}:00:00",
    "words for missing": lambda row: "null" if row % 3 else "x",
    "late word for missing": lambda row: "n/a" if row > 300 else row,
    "words for nan": lambda row: ["-nan", "NaN", "-NaN", row / 2][row % 4],
    "nan": lambda row: "nan" if row == 200 else row / 2,
    "infinite": lambda row: "-inf" if row > 200 else row / 2,
}


def write(path: Path, names: list[str], rows: int = ROWS) -> Path:
    lines = [
        ",".join(f'"{name}"' for name in names),
        *(",".join(str(COLUMNS[name](row)) for name in names) for row in range(rows)),
    ]
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def both(path: Path, monkeypatch: pytest.MonkeyPatch, block: int, **arguments: Any) -> tuple[Any, Any, list[bool]]:
    """The table as it is read in blocks, and as it is when Arrow infers all types; and whether the blocks sufficed."""
    names, typed, found = column_names(str(path), "k"), text_tables._read_typed, []

    def read(*given: Any) -> Any:
        table = typed(*given)
        found.append(table is not None)
        return table

    with monkeypatch.context() as patch:
        patch.setattr(text_tables, "_block_bytes", lambda header: block)
        patch.setattr(text_tables, "_read_typed", read)
        in_blocks = read_table(str(path), "k", names, **arguments)
        patch.setattr(text_tables, "_read_typed", lambda *given: None)
        return in_blocks, read_table(str(path), "k", names, **arguments), found


def assert_same(one: Any, other: Any) -> None:
    """The same names, types and values; nan and a missing float are the same."""
    assert one.column_names == other.column_names
    for name in one.column_names:
        ours, theirs = one.column(name), other.column(name)
        assert str(ours.type) == str(theirs.type), name
        if str(ours.type) == "double":
            np.testing.assert_array_equal(ours.to_numpy(), theirs.to_numpy(), name)
        else:
            assert ours.to_pylist() == theirs.to_pylist(), name


@pytest.mark.parametrize("name", COLUMNS)
def test_each_kind_of_column_is_read_as_if_its_type_were_inferred(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.csv", list(dict.fromkeys([name, "text", "whole"])))
    assert_same(*both(path, monkeypatch, 300)[:2])


@pytest.mark.parametrize(
    "name", ["late fraction", "starts empty, late fraction", "starts empty, then text", "too large"]
)
def test_a_type_that_is_contradicted_is_changed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, found = both(write(tmp_path / "t.csv", list(dict.fromkeys([name, "text", "whole"]))), monkeypatch, 300)
    assert found == [True]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["whole", "fraction", "words for missing"], [["", "many"]]),
        (["whole", "late word for missing", "words for missing"], [["", "many"], None]),
        (["whole", "text", "words for missing"], [None]),
    ],
)
def test_numbers_are_compared_with_all_words_for_a_missing_value_once_there_is_one(
    names: list[str], words: list[list[str] | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, found = pyarrow.csv.read_csv, list[list[str]]()

    def noted(file: Any, how: Any, parse: Any, convert: Any) -> Any:
        if how.column_names:  # a block
            found.append(convert.null_values)
        return read(file, how, parse, convert)

    monkeypatch.setattr(pyarrow.csv, "read_csv", noted)
    options, codes = TextOptions(("many",)), ["words for missing"]
    one, other, _ = both(write(tmp_path / "t.csv", names), monkeypatch, 300, options=options, codes=codes)
    assert_same(one, other)
    assert one.column("words for missing").null_count > 200
    every = [*pyarrow.csv.ConvertOptions().null_values, "many"]
    assert {*map(tuple, found)} == {tuple(every if each is None else each) for each in words}
    assert found[-1] == (every if words[-1] is None else words[-1])


def test_numbers_with_decimal_commas_are_those_with_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dots = write(tmp_path / "dots.csv", [name for name in COLUMNS if name not in ("quoted", "late text")])
    commas = tmp_path / "commas.csv"
    commas.write_text(dots.read_text().replace(",", ";").replace(".", ","))
    options = TextOptions(separator=";", decimal=",")
    expected = both(dots, monkeypatch, 4000)[0]
    for found in both(commas, monkeypatch, 4000, options=options)[:2]:
        assert_same(found.rename_columns([name.replace(";", ",") for name in found.column_names]), expected)


@pytest.mark.parametrize("seed", range(10))
def test_tables_of_many_kinds_are_read_as_if_all_types_were_inferred(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    names = draw.sample(list(COLUMNS), draw.randint(2, 9))
    path = write(tmp_path / draw.choice(["t.csv", "t.csv.gz"]), names)
    options = TextOptions(draw.choice([(), ("many", "0")]))
    arguments = {"as_text": names[:1], "codes": names[1:2], "options": options}
    assert_same(*both(path, monkeypatch, draw.choice([400, 1000, 4000]), **arguments)[:2])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1,2\n", "must have 3 values in every line, got 2 in line 302"),
        (b"1,\xe9,3\n", "must be in UTF-8, and column 'text'"),
    ],
)
def test_a_broken_line_far_down_is_named(
    line: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.csv", ["whole", "text", "fraction"], 300)
    path.write_bytes(path.read_bytes() + line)
    monkeypatch.setattr(text_tables, "_block_bytes", lambda header: 300)
    with pytest.raises(DataError, match=message):
        read_table(str(path), "k", ["whole", "text", "fraction"])


def columns_of(path: str, header: bool = True) -> dict[str, list[Any]]:
    _, blocks = open_blocks(path, "input", list, ["a"], TextOptions(header=header))
    return dict(pa.concat_tables(blocks).to_pydict())


TEXTS = {
    "line feeds": b"a,b\n1,x\n2,y\n",
    "carriage returns": b"a,b\r1,x\r2,y\r",
    "both": b"a,b\r\n1,x\r\n2,y\r\n",
    "empty lines": b"\r\n\na,b\n\n1,x\n\n2,y",
    "a byte order mark": b"\xef\xbb\xbfa,b\n1,x\n2,y\n",
    "a line that states the separator": b"sep=;\ra;b\r1;x\r2;y\r",
    "a line break in a name": b'a,"b\nc"\n1,x\n2,y\n',
    "a line break in a value": b'a,b\n1,"x\nz"\n2,y\n',
    "a name longer than the first look": b"a," + b"b" * 70_000 + b"\n1,x\n2,y\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_standard_input_is_read_as_a_file_is(text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_bytes(text)
    for source in ("-", str(tmp_path / "t.csv")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        name, values = columns_of(source).popitem()
        assert (name[0], [value[0] for value in values]) == ("b", ["x", "y"])


FAULTS = {
    "latin-1 in a late row": (
        b"a,b\n" + b"1,x\n" * 9999 + b"2,\xe4\n",
        "must be in UTF-8, and column 'b' of standard input is not. Send it through iconv -f latin1 -t utf-8 first.",
    ),
    "latin-1 in the header": (b"a,\xe4\n1,x\n", "must be in UTF-8, and the header of standard input is not. Send it"),
    "Windows-1252": ("a,b\n1,€\n".encode("cp1252"), "Send it through iconv -f cp1252 -t utf-8 first."),
    "gzip": (gzip.compress(b"a,b\n1,x\n"), "is compressed by gzip. Send it through gzip -dc first."),
    "nothing": (b"", "must have rows, and standard input is empty."),
    "a long line after empty ones": (b"\r\r\na,b\r\n1,x,2\r\n", "got 3 in line 4 [in standard input]: '1,x,2'."),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_standard_input_has_one_line(text: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    with pytest.raises(DataError, match=re.escape(message)):
        columns_of("-")


def test_a_process_without_standard_input_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match="must have rows, and standard input is empty"):
        columns_of("-")


def test_the_header_of_standard_input_is_read_before_there_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb", 0) as rows:
        rows.write(b"a,b\n")  # and the pipe stays open
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(pipe))
        assert text_layout.text_layout(StandardInput("input"), None).header == ["a", "b"]


def test_a_line_that_states_the_separator_may_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parts(io.RawIOBase):
        parts = iter([b"sep=", b";\n", b"a;b\n"])

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            part = next(self.parts, b"")
            buffer[: len(part)] = part
            return len(part)

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(Parts())))
    assert text_layout.text_layout(StandardInput("input"), None).header == ["a", "b"]


def test_a_header_longer_than_a_block_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "TEXT_BLOCK_BYTES", 1000)
    names = ["a", *(f"é{column}" for column in range(999))]
    text = f"{','.join(names)}\n{'1,' * 999}2\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    values = columns_of("-")
    assert (len(values), values["a"], values["é998"]) == (1000, [1.0], ["2"])


def test_a_line_longer_than_a_block_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.csv", ["whole", "text"])
    path.write_text(path.read_text() + f"1,{'x' * 1000}\n")
    assert_same(*both(path, monkeypatch, 300)[:2])


def test_a_first_line_without_an_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_layout, "LONG_LINE_BYTES", 2000)
    path = tmp_path / "t.csv"
    with path.open("wb") as file:
        file.truncate(2**40)  # a file of zeros that takes no place on the disk
    message = f"`k` must have lines of at most 2,000 bytes, and the first one of {path} is longer."
    with pytest.raises(DataError, match=re.escape(message)):
        column_names(str(path), "k")


def test_more_rows_than_the_first_block_lets_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1.000000000000000000000,2\n" * 20 + "1,2.5\n" * 5000 + ",\n")
    in_blocks, inferred, found = both(path, monkeypatch, 300)
    assert found == [True]
    assert_same(in_blocks, inferred)
    assert in_blocks.column("a").num_chunks == 1


def test_numbers_are_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "_block_bytes", lambda header: 300)
    table = read_table(
        str(write(tmp_path / "t.csv", ["whole", "fraction with gaps"])), "k", ["whole", "fraction with gaps"]
    )
    for column in table.columns:
        first, second = column.to_numpy(), column.to_numpy()
        assert np.shares_memory(first, second)


@pytest.mark.parametrize(
    ("row", "mark", "number"),
    [
        ("1,5;2,5;yes", ";", 3),
        ("1,5;a", ";", 2),
        ("1,5,a", ",", 3),
        ("1.5,a;b,yes", ",", 3),
        ("1.5,a;b", ",", 2),
        ("1|2|3", "|", 3),
    ],
)
def test_the_separator_of_a_file_without_a_header_is_no_decimal_comma(
    row: str, mark: str, number: int, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(f"{row}\n{row}\n")
    layout = text_layout.text_layout(TextFile(str(tmp_path / "t.csv"), "k"), None, has_header=False)
    assert (layout.separator, len(layout.header)) == (mark, number)
