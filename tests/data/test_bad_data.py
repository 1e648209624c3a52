"""Every table that cannot be learned from: what is typed, what is in the file, and the one line that comes back."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from whole_runs import Answer

Column = Callable[[int], object]
"""The value of a row, by its number from 0."""

ROWS = 40


def csv(rows: int = ROWS, **columns: Column) -> bytes:
    """A file with a header; ``a`` is a number and ``y`` one of two classes where nothing else is said."""
    columns = {"a": lambda row: row % 7, "y": lambda row: ["no", "yes"][row % 2]} | columns
    lines = [",".join(columns), *(",".join(str(value(row)) for value in columns.values()) for row in range(rows))]
    return "\n".join([*lines, ""]).encode()


def but(row: int, value: object, otherwise: Column = lambda row: row % 7) -> Column:
    """A column that is odd in one row, counted from 1 as a user does."""
    return lambda number: value if number == row - 1 else otherwise(number)


GOOD = csv(b=lambda row: "pq"[row // 2 % 2])
PACKED = gzip.compress(GOOD)
FLIPPED = PACKED[:-6] + bytes([PACKED[-6] ^ 255]) + PACKED[-5:]
ARROW = pa.table({"a": [float(row % 7) for row in range(ROWS)], "y": ["no", "yes"] * (ROWS // 2)})


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def feather(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.feather.write_feather(table, sink)
    return bytes(sink.getvalue())


def halves(row: int) -> str:
    return "train" if row < ROWS / 2 else "test"


class Bad(NamedTuple):
    """A mistake and its answer."""

    typed: str
    """After ``dataset=table``."""
    files: bytes | Mapping[str, bytes]
    """``t.csv``, or files by name."""
    answer: str
    """A pattern for what the line must say: the key that was typed, and what is at fault."""


FILE = "dataset.path=t.csv dataset.target=y"
TWO_FILES = "dataset.train_path=train.csv dataset.test_path=test.csv dataset.target=y"

BAD: dict[str, Bad] = {
    # files
    "no file is named": Bad("dataset.target=y", GOOD, r"`dataset\.path` .*None.*dataset\.path=FILE"),
    "the file is missing": Bad("dataset.path=no.csv dataset.target=y", GOOD, r"`dataset\.path` .*no\.csv is missing"),
    "a folder without tables": Bad(
        "dataset.path=. dataset.target=y", {"t.xlsx": b"PK"}, r"`dataset\.path` .*\.csv.*\. has none.*folder"
    ),
    "an unknown kind of file": Bad(
        "dataset.path=t.xlsx dataset.target=y", {"t.xlsx": b"PK"}, r"`dataset\.path` .*\.csv.*\.parquet.*'t\.xlsx'"
    ),
    "a workbook of Excel under another name": Bad(
        FILE,
        b"PK\x03\x04\x14\x00\x06\x00\x08,x\n",
        r"`dataset\.path` .*t\.csv is a ZIP archive, .*save this one as CSV",
    ),
    "UTF-16 without a mark": Bad(FILE, GOOD.decode().encode("utf-16-le"), r"`dataset\.path` .*UTF-8.*-f utf-16le "),
    "one file and files for each split": Bad(
        f"{FILE} dataset.train_path=t.csv", GOOD, r"`dataset\.path`.*`dataset\.train_path`"
    ),
    "one file and a file for test": Bad(f"{FILE} dataset.test_path=t.csv", GOOD, r"`dataset\.path`.*_path`"),
    "a file for test and none for train": Bad(
        "dataset.test_path=t.csv dataset.target=y", GOOD, r"`dataset\.(train_)?path` .*"
    ),
    "an empty file": Bad(FILE, b"", r"`dataset\.path` .*t\.csv.* empty"),
    "nothing but line ends": Bad(FILE, b"\n\n", r"`dataset\.path` .*t\.csv.* [Ee]mpty"),
    "a header only": Bad(FILE, b"a,y\n", r"`dataset\.path` .*rows.*only a header.*t\.csv"),
    "empty lines only": Bad(FILE, b"\n\n\n", r"`dataset\.path` .*rows.*t\.csv"),
    "a name of two lines": Bad(
        FILE.replace("target=y", "target=z"), GOOD.replace(b"a,", b'"a\nb",', 1), r"`dataset\.target`"
    ),
    "lists for classes": Bad(
        "dataset.path=t.parquet dataset.target=y",
        {"t.parquet": parquet(pa.table({"a": [1, 2], "y": [[1], [2]]}))},
        r"`dataset\.target=y` .*list.*Name another",
    ),
    "words for a missing value in Parquet": Bad(
        "dataset.path=t.parquet dataset.target=y dataset.missing_values=[-999]",
        {"t.parquet": parquet(ARROW)},
        r"`dataset\.missing_values` .*text file.*t\.parquet",
    ),
    "a positive class that is no number": Bad(f"{FILE} dataset.positive=nan", GOOD, r"`dataset\.positive` .*nan"),
    "an infinite class": Bad(f"{FILE} dataset.classes=[inf,no]", GOOD, r"`dataset\.classes` .*inf"),
    "a split without weight": Bad(
        f"{FILE} dataset.weight=w dataset.split.column=s",
        csv(w=lambda row: int(row < 30), s=lambda row: "train" if row < 30 else "test"),
        r"`dataset\.weight` .*every split.*test",
    ),
    "numbers with commas": Bad(
        FILE,
        csv(200, price=lambda row: f'"{row},50"'),
        r"'price'.*'0,50' with ',' in row 1.*dataset\.categorical=\[price\]",
    ),
    "an id of a name that must be quoted": Bad(
        FILE,
        csv(200, **{"the code (old)": lambda row: f"id{row}"}),
        r"'dataset\.drop=\[\"the code \(old\)\"\]'",
    ),
    "a header only, without a line end": Bad(FILE, b"a,y", r"`dataset\.path` .*rows.*only a header.*t\.csv"),
    "a header that is not UTF-8": Bad(
        FILE, csv(größe=lambda row: row).decode().encode("latin1"), r"`dataset\.path` .*UTF-8.*t\.csv.*iconv"
    ),
    "values that are not UTF-8": Bad(
        FILE, csv(b=lambda row: "äö"[row % 2]).decode().encode("latin1"), r"`dataset\.path` .*UTF-8.*'b'.*iconv"
    ),
    "classes that are not UTF-8": Bad(
        FILE, csv(y=lambda row: "äö"[row % 2]).decode().encode("latin1"), r"`dataset\.path` .*UTF-8.*'y'.*iconv"
    ),
    "categories that are not UTF-8": Bad(
        f"{FILE} dataset.categorical=[b]",
        csv(b=lambda row: "äö"[row % 2]).decode().encode("latin1"),
        r"`dataset\.path` .*UTF-8.*iconv",
    ),
    "UTF-16": Bad(FILE, GOOD.decode().encode("utf-16"), r"`dataset\.path` .*UTF-8.*t\.csv"),
    "a line that is too short": Bad(FILE, GOOD + b"1,no\n", r"`dataset\.path` .*3 values.*got 2 in line 42.*'1,no'"),
    "a line that is too long": Bad(FILE, GOOD + b"1,no,p,9\n", r"`dataset\.path` .*3 values.*got 4 in line 42"),
    "two columns of one name": Bad(FILE, GOOD.replace(b"a,", b"b,", 1), r"`dataset\.path` .*'b' twice.*t\.csv"),
    "two columns with the classes": Bad(FILE, GOOD.replace(b"a,", b"y,", 1), r"`dataset\.path` .*'y' twice"),
    "a header with another separator": Bad(FILE, GOOD.replace(b",", b";", 2), r"`dataset\.path` .*3 values.*got 1 in"),
    "a separator of two characters": Bad(f"{FILE} \"dataset.separator=';;'\"", GOOD, r"`dataset\.separator` .*';;'"),
    "gzip that is cut off": Bad(
        "dataset.path=t.csv.gz dataset.target=y",
        {"t.csv.gz": PACKED[:-40]},
        r"`dataset\.path` .*t\.csv\.gz.*[Tt]runcated",
    ),
    "gzip with a wrong checksum": Bad(
        "dataset.path=t.csv.gz dataset.target=y", {"t.csv.gz": FLIPPED}, r"`dataset\.path` .*t\.csv\.gz"
    ),
    "gzip in name only": Bad("dataset.path=t.csv.gz dataset.target=y", {"t.csv.gz": GOOD}, r"`dataset\.path` .*\.gz"),
    "gzip without the name": Bad(
        FILE, PACKED, r"`dataset\.path` .*t\.csv is compressed by gzip\. Call it t\.csv\.gz\.$"
    ),
    "gzip twice": Bad(
        "dataset.path=t.csv.gz dataset.target=y",
        {"t.csv.gz": gzip.compress(PACKED)},
        r"`dataset\.path` .*t\.csv\.gz is compressed by gzip twice\. Decompress it once\.$",
    ),
    "latin-1 within gzip": Bad(
        "dataset.path=t.csv.gz dataset.target=y",
        {"t.csv.gz": gzip.compress("a,y\n1,\xe9\n2,b\n".encode("latin-1"))},
        r"`dataset\.path` .*UTF-8.* Decompress and convert it: iconv -f latin1 -t utf-8 old\.csv > new\.csv\.$",
    ),
    "Parquet without the name": Bad(
        FILE, parquet(ARROW), r"`dataset\.path` .*t\.csv is a Parquet .*Call it t\.parquet\.$"
    ),
    "Parquet within gzip": Bad(
        "dataset.path=t.csv.gz dataset.target=y",
        {"t.csv.gz": gzip.compress(parquet(ARROW))},
        r"`dataset\.path` .*t\.csv\.gz is a Parquet file within\. Decompress it, and call it t\.parquet\.$",
    ),
    "an image": Bad(FILE, b"\x89PNG\r\n\x1a\n\0\0", r"`dataset\.path` must be text, and t\.csv is a PNG image\. "),
    "a document that begins as text does": Bad(FILE, b"%PDF-1.4\n1,2\n", r"`dataset\.path` .*t\.csv is a PDF\. "),
    "bytes of no known format": Bad(
        FILE,
        b"a,y\x06\x01\xff\0\0" + bytes(range(256)),
        r"`dataset\.path` must be text, and t\.csv is not: the header has bytes that no text has\. ",
    ),
    "UTF-16 without a mark, big-endian": Bad(
        FILE, GOOD.decode().encode("utf-16-be"), r"`dataset\.path` .*iconv -f utf-16be"
    ),
    "a first line that is not UTF-8 and no header": Bad(
        f"{FILE} dataset.header=false",
        b"\xe4,1\n2,3\n",
        r"UTF-8, and the first line of t\.csv is not\. .*iconv -f latin1",
    ),
    "a header that is said not to be there": Bad(
        "dataset.path=t.csv dataset.target=column_3 dataset.header=false",
        csv(h=lambda row: row + 0.5),
        r"`dataset\.header=false` .*first line of t\.csv is one: a, y, h\. Leave the setting out, and use these names",
    ),
    "a word in the first row and no header": Bad(
        "dataset.path=t.csv dataset.target=column_2 dataset.header=false",
        b"many,no\n" + b"".join(b"%d,%s\n" % (row, [b"yes", b"no"][row % 2]) for row in range(60)),
        r"column 'column_1' must hold numbers, got 'many' in row 1",
    ),
    "a comma before the decimals in the first row and no header": Bad(
        "dataset.path=t.csv dataset.target=column_2 dataset.header=false",
        b"1,5;a\n" + b"".join(b"%d;b\n" % row for row in range(60)),
        r"`dataset\.split` must give each class a row .*'a' \(1\)",
    ),
    "no header and no rows": Bad(
        f"{FILE} dataset.header=false", b"\n\n", r"must have rows, .*t\.csv has only empty lines"
    ),
    "Parquet in name only": Bad(
        "dataset.path=t.parquet dataset.target=y", {"t.parquet": GOOD}, r"`dataset\.path` .*t\.parquet.*[Pp]arquet"
    ),
    "Parquet that is cut off": Bad(
        "dataset.path=t.parquet dataset.target=y", {"t.parquet": parquet(ARROW)[:-40]}, r"`dataset\.path` .*t\.parquet"
    ),
    "Parquet with broken pages": Bad(
        "dataset.path=t.parquet dataset.target=y",
        {"t.parquet": parquet(ARROW)[:20] + b"\xff" * 40 + parquet(ARROW)[60:]},
        r"`dataset\.path` .*t\.parquet",
    ),
    "Feather that is cut off": Bad(
        "dataset.path=t.feather dataset.target=y", {"t.feather": feather(ARROW)[:-40]}, r"`dataset\.path` .*t\.feather"
    ),
    "Feather with broken messages": Bad(
        "dataset.path=t.feather dataset.target=y",
        {"t.feather": feather(ARROW)[:100] + b"\xff" * 300 + feather(ARROW)[400:]},
        r"`dataset\.path` .*t\.feather",
    ),
    # columns
    "no column is named": Bad("dataset.path=t.csv", GOOD, r"`dataset\.target` .*None.*a, y, b"),
    "the target is absent": Bad(
        "dataset.path=t.csv dataset.target=yy", GOOD, r"`dataset\.target` .*t\.csv.*'yy'.*Did you mean y\?"
    ),
    "the target is absent and nothing is near": Bad(
        "dataset.path=t.csv dataset.target=outcome", GOOD, r"`dataset\.target` .*'outcome'.*t\.csv has a, y, b"
    ),
    "a feature is absent": Bad(
        f"{FILE} dataset.features=[height]",
        csv(heigth=lambda row: row),
        r"`dataset\.features` .*'height'.*Did you mean heigth\?",
    ),
    "a feature that is the target": Bad(f"{FILE} dataset.features=[a,y]", GOOD, r"`dataset\.features` .*'y'"),
    "a feature that is to be dropped": Bad(
        f"{FILE} dataset.features=[a,b] dataset.drop=[b]", GOOD, r"`dataset\.features` .*'b'"
    ),
    "a feature named twice": Bad(f"{FILE} dataset.features=[a,a]", GOOD, r"`dataset\.features` .*'a'"),
    "no features": Bad(f"{FILE} dataset.features=[]", GOOD, r"`dataset\.features` .*"),
    "what is to be dropped is absent": Bad(f"{FILE} dataset.drop=[bb]", GOOD, r"`dataset\.drop` .*'bb'.*mean b\?"),
    "what is to be dropped is no list": Bad(f"{FILE} dataset.drop=b", GOOD, r"`dataset\.drop` .*list.*'b'"),
    "a category that is absent": Bad(
        f"{FILE} dataset.categorical=[bb]", GOOD, r"`dataset\.categorical` .*'bb'.*mean b"
    ),
    "nothing varies": Bad(FILE, csv(a=lambda row: 1), r"`dataset\.features` .*varies.*t\.csv"),
    "dates": Bad(FILE, csv(born=lambda row: f"2020-01-{row % 28 + 1:02}"), r"'born'.*date.*dataset\.drop=\[born\]"),
    "times": Bad(FILE, csv(born=lambda row: f"2020-01-01 10:{row:02}:00"), r"'born'.*dataset\.drop=\[born\]"),
    "lists": Bad(
        "dataset.path=t.parquet dataset.target=y",
        {"t.parquet": parquet(ARROW.append_column("list", pa.array([[1.0, 2.0]] * ROWS)))},
        r"'list'.*dataset\.drop=\[list\].*dataset=features",
    ),
    "an id": Bad(
        FILE, csv(200, code=lambda row: f"id{row}"), r"'code' .*120 levels in 120 .* id.*dataset\.drop=\[code\]"
    ),
    "no level in enough rows": Bad(
        f"{FILE} dataset.min_level_rows=100", csv(a=lambda row: f"t{row % 5}"), r"`dataset\.features` .*varies.*t\.csv"
    ),
    "a bad number of rows of a level": Bad(
        f"{FILE} dataset.min_level_rows=0", GOOD, r"`dataset\.min_level_rows` must be a whole number >= 1, got 0"
    ),
    "a bad number of buckets": Bad(
        f"{FILE} dataset.hash=2**40",
        GOOD,
        r"`dataset\.hash` must be a whole number >= 2 and < 2\*\*31, .*got '2\*\*40'",
    ),
    "a word among numbers": Bad(FILE, csv(a=but(9, "tall")), r"'a'.*numbers.*'tall'.*row 9\b.*t\.csv.*missing_values"),
    "a number that only Python would read": Bad(FILE, csv(a=but(9, "1_000")), r"'a'.*numbers.*'1_000'.*row 9\b"),
    "an infinite value": Bad(FILE, csv(a=but(9, "inf")), r"'a'.*finite.*inf.*row 9\b.*t\.csv"),
    "an infinite value below zero": Bad(FILE, csv(a=but(9, "-inf")), r"'a'.*finite.*-inf.*row 9\b.*t\.csv"),
    "a value beyond float32": Bad(FILE, csv(a=but(9, "1e60")), r"'a'.*finite.*1e\+60.*row 9\b.*precision=64"),
    "a missing value with missing=error": Bad(
        f"{FILE} dataset.missing=error", csv(a=but(9, "")), r"`dataset\.missing=error` .*'a'.*row 9\b.*missing=impute"
    ),
    "NaN with missing=error": Bad(
        f"{FILE} dataset.missing=error", csv(a=but(9, "NaN")), r"`dataset\.missing=error` .*'a'.*row 9\b"
    ),
    "a missing value in a text with missing=error": Bad(
        f"{FILE} dataset.missing=error",
        csv(b=but(9, "", lambda row: "pq"[row % 2])),
        r"`dataset\.missing=error` .*'b'.*row 9\b",
    ),
    "an unknown way with missing values": Bad(
        f"{FILE} dataset.missing=mean", GOOD, r"`dataset\.missing` .*impute, error.*'mean'"
    ),
    # classes
    "one class": Bad(FILE, csv(y=lambda row: "no"), r"`dataset\.target=y` .*2 classes.*only 'no'.*t\.csv"),
    "no class": Bad(FILE, csv(y=lambda row: ""), r"`dataset\.target=y` .*2 classes.*none.*t\.csv"),
    "a target with fractions": Bad(FILE, csv(y=lambda row: row / 2), r"`dataset\.target=y` .*classes.*not whole.*0\.5"),
    "a target of dates": Bad(FILE, csv(y=lambda row: f"2020-01-{row % 9 + 1:02}"), r"`dataset\.target=y` .*date"),
    "a class with fewer rows than splits": Bad(
        FILE,
        csv(y=but(9, "rare", lambda row: ["no", "yes"][row % 2])),
        r"`dataset\.split` .*'rare' \(1\).*dataset\.classes=\[no,yes\]",
    ),
    "numbers to predict": Bad(
        FILE, csv(200, y=lambda row: 7 * row), r"`dataset\.split` .*200 of 200 classes.*name another target"
    ),
    "one class in train": Bad(
        f"{FILE} dataset.split.column=part", csv(part=lambda row: ["test", "train"][row % 2]), r"train .*only 'yes'"
    ),
    "a class that train lacks": Bad(
        f"{FILE} dataset.split.column=part",
        csv(part=halves, y=but(40, "new", lambda row: ["no", "yes"][row % 2])),
        r"train .*'new'.*only in test.*dataset\.classes",
    ),
    "a long class that train lacks": Bad(
        f"{FILE} dataset.split.column=part",
        csv(part=halves, y=but(40, "new " * 50, lambda row: ["no", "yes"][row % 2])),
        rf"train .*'{'new ' * 15}\.\.\.' is only in test",
    ),
    "a class that is not there": Bad(f"{FILE} dataset.classes=[no,ye]", GOOD, r"`dataset\.classes` .*'ye'.*mean yes\?"),
    "one class kept": Bad(f"{FILE} dataset.classes=[no]", GOOD, r"`dataset\.classes` .*2 classes.*\['no'\]"),
    "no class kept": Bad(f"{FILE} dataset.classes=[]", GOOD, r"`dataset\.classes` .*\[\]"),
    "a positive class that is not there": Bad(
        f"{FILE} dataset.positive=ye", GOOD, r"`dataset\.positive` .*'ye'.*mean yes"
    ),
    "a positive class that was not kept": Bad(
        "dataset.path=t.csv dataset.target=a dataset.classes=[1,2] dataset.positive=3",
        GOOD,
        r"`dataset\.positive` .*'3'",
    ),
    "all classes positive": Bad(f"{FILE} dataset.positive=[no,yes]", GOOD, r"`dataset\.positive` .*\['no', 'yes'\]"),
    "a weight of no class": Bad(
        f"{FILE} 'dataset.class_weight={{ye: 2}}'", GOOD, r"`dataset\.class_weight` .*'ye'.*mean yes\?"
    ),
    "a class weight below zero": Bad(
        f"{FILE} 'dataset.class_weight={{yes: -2}}'", GOOD, r"`dataset\.class_weight` .*-2"
    ),
    "an unknown class weight": Bad(
        f"{FILE} dataset.class_weight=balance", GOOD, r"`dataset\.class_weight` .*'balance'"
    ),
    "a limit below the classes": Bad(
        "dataset.path=t.csv dataset.target=a dataset.limit=3", GOOD, r"`dataset\.limit` .*at least 7.*got 3"
    ),
    # weights
    "a weight column that is absent": Bad(f"{FILE} dataset.weight=bb", GOOD, r"`dataset\.weight` .*'bb'.*mean b\?"),
    "a negative weight": Bad(
        f"{FILE} dataset.weight=w", csv(w=but(9, -1)), r"`dataset\.weight=w` .*>= 0.*-1 .*row 9\b.*t\.csv"
    ),
    "a missing weight": Bad(f"{FILE} dataset.weight=w", csv(w=but(9, "")), r"`dataset\.weight=w` .*row 9\b.*t\.csv"),
    "an infinite weight": Bad(f"{FILE} dataset.weight=w", csv(w=but(9, "inf")), r"`dataset\.weight=w` .*inf.*row 9\b"),
    "a word among the weights": Bad(
        f"{FILE} dataset.weight=w", csv(w=but(9, "heavy")), r"`dataset\.weight=w` .*'heavy'.*row 9\b"
    ),
    "weights of words": Bad(f"{FILE} dataset.weight=b", GOOD, r"`dataset\.weight=b` must hold .*numbers.*'p'.*row 1\b"),
    "a weight that is a category": Bad(
        f"{FILE} dataset.weight=w dataset.categorical=[w]",
        csv(w=lambda row: 1),
        r"`dataset\.categorical` must not name a column that has another role, got 'w'\.",
    ),
    "no weight in train": Bad(f"{FILE} dataset.weight=w", csv(w=lambda row: 0), r"`dataset\.weight(=w)?` .*> 0.*train"),
    # splits
    "a split column that is absent": Bad(
        f"{FILE} dataset.split.column=bb", GOOD, r"`dataset\.split\.column` .*'bb'.*mean b"
    ),
    "a split column with another word": Bad(
        f"{FILE} dataset.split.column=part",
        csv(part=but(9, "tset", halves)),
        r"`dataset\.split\.column=part` .*train, val or test.*'tset'.*row 9\b",
    ),
    "a split column with a missing value": Bad(
        f"{FILE} dataset.split.column=part", csv(part=but(9, "", halves)), r"`dataset\.split\.column(=part)?` .*row 9\b"
    ),
    "a split column without train": Bad(
        f"{FILE} dataset.split.column=part", csv(part=lambda row: "test"), r"`dataset\.split\.column=part` .*train"
    ),
    "a fraction for a split that is there": Bad(
        f"{FILE} dataset.split.column=part dataset.split.test=0.2",
        csv(part=halves),
        r"`dataset\.split\.test` .*already has a test split",
    ),
    "a fraction for a split that has a file": Bad(
        f"{TWO_FILES} dataset.split.test=0.2",
        {"train.csv": GOOD, "test.csv": GOOD},
        r"`dataset\.split\.test` .*already has a test split",
    ),
    "a split column with files for each split": Bad(
        f"{TWO_FILES} dataset.split.column=b", {"train.csv": GOOD, "test.csv": GOOD}, r"`dataset\.split\.column` "
    ),
    "a group column that is absent": Bad(
        f"{FILE} dataset.split.group=bb", GOOD, r"`dataset\.split\.group` .*'bb'.*mean b"
    ),
    "a group column with a missing value": Bad(
        f"{FILE} dataset.split.group=g", csv(g=but(9, "")), r"`dataset\.split\.group(=g)?` .*row 9\b"
    ),
    "too few groups": Bad(f"{FILE} dataset.split.group=b", GOOD, r"`dataset\.split\.(val|test|group)` .*"),
    "groups that the split column tears apart": Bad(
        f"{FILE} dataset.split.column=part dataset.split.group=g",
        csv(part=halves, g=lambda row: row % 5),
        r"`dataset\.split\.group(=g)?` ",
    ),
    "groups that the files tear apart": Bad(
        f"{TWO_FILES} dataset.split.group=g",
        {"train.csv": csv(g=lambda row: row % 5), "test.csv": csv(g=lambda row: row % 8)},
        r"`dataset\.split\.group(=g)?` ",
    ),
    "nothing left to train on": Bad(f"{FILE} dataset.split.val=0.5 dataset.split.test=0.5", GOOD, r"`dataset\.split` "),
    # files that do not go together
    "test lacks a column": Bad(
        TWO_FILES, {"train.csv": GOOD, "test.csv": csv()}, r"`dataset\.test_path` .*lacks 'b'.*dataset\.features"
    ),
    "test has a column more": Bad(
        TWO_FILES, {"train.csv": csv(), "test.csv": GOOD}, r"`dataset\.test_path` .*also has 'b'"
    ),
    "test lacks the target": Bad(
        TWO_FILES, {"train.csv": csv(), "test.csv": csv().replace(b",y", b",z", 1)}, r"`dataset\.test_path` .*lacks 'y'"
    ),
    "test is missing": Bad(TWO_FILES, {"train.csv": GOOD}, r"`dataset\.test_path` .*test\.csv is missing"),
    "test has a word among numbers": Bad(
        TWO_FILES, {"train.csv": csv(), "test.csv": csv(a=but(9, "tall"))}, r"'a'.*'tall'.*row 9\b.*test\.csv"
    ),
    "train has a word among numbers": Bad(
        TWO_FILES,
        {"train.csv": csv(a=but(9, "tall")), "test.csv": csv(a=but(30, "small"))},
        r"'a'.*'tall'.*row 9\b.*\btrain\.csv(?! \+)",
    ),
    "test has words for numbers": Bad(
        TWO_FILES,
        {"train.csv": csv(), "test.csv": csv(a=lambda row: "tall")},
        r"'a'(?!.*(dictionary|indices)).*'tall'.*row 1\b.*test\.csv",
    ),
    "test has an infinite value": Bad(
        TWO_FILES, {"train.csv": csv(), "test.csv": csv(a=but(9, "inf"))}, r"'a'.*inf.*row 9\b.*test\.csv"
    ),
    "test has a negative weight": Bad(
        f"{TWO_FILES} dataset.weight=w",
        {"train.csv": csv(w=lambda row: 1), "test.csv": csv(w=but(9, -1))},
        r"`dataset\.weight=w` .*row 9\b.*test\.csv",
    ),
    "test has a missing value": Bad(
        f"{TWO_FILES} dataset.missing=error",
        {"train.csv": csv(), "test.csv": csv(a=but(9, ""))},
        r"`dataset\.missing=error` .*'a'.*row 9\b.*test\.csv",
    ),
}


def answered(run_train: Callable[[str], Answer], bad: Bad) -> None:
    files = {"t.csv": bad.files} if isinstance(bad.files, bytes) else bad.files
    for name, content in files.items():
        Path(name).write_bytes(content)
    answer = run_train(f"dataset=table {bad.typed}")
    assert re.search(bad.answer, answer.err), answer.err
    assert answer.err.count("\n") == 1
    assert (answer.code, answer.out, answer.left) == (2, "", sorted(files))


@pytest.mark.parametrize("mistake", BAD)
def test_a_bad_table_gets_one_line_that_names_the_problem_and_leaves_no_file(
    run_train: Callable[[str], Answer], mistake: str
) -> None:
    answered(run_train, BAD[mistake])


def test_a_bad_column_that_is_left_out_is_no_mistake(run_train: Callable[[str], Answer]) -> None:
    everything: dict[str, Any] = {
        "born": lambda row: f"2020-01-{row % 28 + 1:02}",
        "code": lambda row: f"id{row}",
        "tall": but(9, "tall"),
        "endless": but(9, "inf"),
    }
    Path("t.csv").write_bytes(csv(200, **everything))
    answer = run_train(
        f"dataset=table {FILE} dataset.drop=[{','.join(everything)}] max_epochs=1 report=brief accelerator=cpu"
    )
    assert answer.code == 0
