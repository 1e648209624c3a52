"""An attack by tables as people and programs write them, and worse, against an independent reader.

Each table is refused in one line that leaves nothing, or trained; then its rows, classes, kinds of columns and levels
must be those that are counted here, its coefficients the optimum of what is encoded here (scikit-learn is no better),
and the probabilities of predict, of exports and of evaluate those that NumPy computes from the exported coefficients.
Run it with ``pytest --slow -n0 -s tests/attacks -k tables``; it prints a table of counts.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import math
import re
import shlex
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
from forks import HANGS, LEFT, LINES, OK, REFUSED, TRACEBACK, Report, Result, Server, kind_of, seeds
from numpy.typing import NDArray

TABLES = 150
"""Of the whole attack; SEEDS has more."""

NONSENSE, CLEAN, LATER = "nonsense", "clean but refused", "refused after training"

WRONG = (TRACEBACK, HANGS, LINES, LEFT, NONSENSE, CLEAN, LATER)

Draw = np.random.Generator
Array = NDArray[np.float64]

GAPS = frozenset(pyarrow.csv.ConvertOptions().null_values)
NUMBER = re.compile(
    r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)|0x[\da-f]+", re.ASCII | re.IGNORECASE
)
TRUE_FALSE = {"true": "true", "false": "false", "1": "true", "0": "false"}


class Column(NamedTuple):
    """A column as it is written, and whether a clean table may have it."""

    name: str
    values: list[Any]
    """Text of a text file; Python values of a binary one, ``None`` for a missing value."""
    is_clean: bool = True
    kind: Any = None
    """Of a binary file, the type of Arrow."""


class Drawn(NamedTuple):
    """A table and how it is trained on."""

    file: str
    content: bytes
    columns: list[Column]
    target: str
    options: tuple[str, ...]
    is_text: bool
    is_clean: bool
    gaps: frozenset[str]
    write: Callable[[Sequence[str], str], bytes]
    """The same rows with the columns in another order."""


def pick(draw: Draw, choices: Sequence[Any]) -> Any:
    return choices[int(draw.integers(len(choices)))]


# Columns of text files


def numbers(draw: Draw, rows: int) -> list[str]:
    form = pick(draw, ["{:.3f}", "{:.0f}", "{:g}", "{:e}", "{:+.2f}", "{:08.3f}", "{:.17g}", " {:.2f}", "{:.2f} "])
    scale = 10.0 ** pick(draw, [0, 0, 0, 3, -3, 8, -8])
    return [form.format(scale * value) for value in draw.normal(size=rows)]


def levels(draw: Draw, rows: int) -> list[str]:
    words = pick(
        draw,
        [
            *[["a", "b", "c"], ["red", "green", "deep blue"], ["x,y", 'q"q', "it's"], ["line\nbreak", "tab\tx", "z"]],
            *[
                ["é", "日本", "\U0001f600"],
                ["a", "A", "a."],
                ["x ", " x", "y"],
                ["=1+1", "@x", "-"],
                ["[b]", "{c}", "$x"],
            ],
            *[["<b>", "&amp;", "%s"], ["yes", "no", "maybe"], [f"l{n}" for n in range(40)], ["1st", "2nd", "3rd"]],
        ],
    )
    return [pick(draw, words) for _ in range(rows)]


def truths(draw: Draw, rows: int) -> list[str]:
    words = pick(draw, [["true", "false"], ["True", "False"], ["TRUE", "FALSE"], ["0", "1"], ["t", "f"]])
    return [pick(draw, words) for _ in range(rows)]


def odd(draw: Draw, rows: int) -> list[str]:
    """What spreadsheets, databases and people leave in a column."""
    n = range(rows)
    day = datetime.datetime(2020, 2, 28)
    kinds: list[list[str]] = [
        [f"{draw.normal():.2f}".replace(".", ",") for _ in n],
        [f"{draw.normal() * 1e4:,.2f}" for _ in n],
        [f"{draw.integers(1, 99)} kg" for _ in n],
        [f"{draw.integers(1, 99)}%" for _ in n],
        [f"${draw.integers(1, 99)}.00" for _ in n],
        [(day + datetime.timedelta(int(draw.integers(999)))).strftime("%Y-%m-%d") for _ in n],
        [(day + datetime.timedelta(int(draw.integers(999)))).isoformat() for _ in n],
        [(day + datetime.timedelta(int(draw.integers(999)))).strftime("%d/%m/%Y") for _ in n],
        [f"{draw.integers(0, 24):02d}:{draw.integers(0, 60):02d}" for _ in n],
        [f"id-{row}" for row in n],
        [f"{draw.integers(2**60):x}" for _ in n],
        [str(row) for row in n],
        [f"{draw.integers(1, 20):03d}" for _ in n],
        [str(2**63 + int(draw.integers(2**62))) for _ in n],
        [str(10 ** int(draw.integers(300, 320))) for _ in n],
        [pick(draw, ["1e400", "1", "2"]) for _ in n],
        [pick(draw, ["1e-400", "1e-320", "2"]) for _ in n],
        [pick(draw, ["inf", "1", "2"]) for _ in n],
        [pick(draw, ["-Infinity", "1", "2"]) for _ in n],
        [pick(draw, ["?", "1", "2", "3.5"]) for _ in n],
        [pick(draw, ["-", "1", "2", "3"]) for _ in n],
        [pick(draw, ["None", "a", "b"]) for _ in n],
        [pick(draw, ["unknown", "1.5", "2.5", "3.5"]) for _ in n],
        ["7"] * rows,
        ["same"] * rows,
        [""] * rows,
        ["NA"] * rows,
        [pick(draw, ["true", "false", "1", "0"]) for _ in n],
        [pick(draw, ["yes", "True", "FALSE"]) for _ in n],
        [pick(draw, ["0x1F", "0x2A"]) for _ in n],
        [pick(draw, ["1_000", "2_000"]) for _ in n],
        [pick(draw, ["x" * 20_000, "y"]) for _ in n],
        [str(1.6e9 + draw.integers(10**6)) for _ in n],
        [pick(draw, ["\u00a01", "2", "\u20033"]) for _ in n],
        [pick(draw, ["[1,2]", "[3]"]) for _ in n],
        [pick(draw, ['{"a":1}', "{}"]) for _ in n],
        [pick(draw, ["1e5", "100000", "1E5"]) for _ in n],
        [pick(draw, ["NaN", "nan", "1", "2.5"]) for _ in n],
        [pick(draw, ["\u0661", "\u0662"]) for _ in n],
    ]
    return pick(draw, kinds)  # type: ignore[no-any-return]  # one of several kinds of functions


NAMES = (
    *(
        "a",
        "b c",
        "x.y",
        "A",
        "é",
        "日本",
        "a=b",
        "a[0]",
        "{x}",
        "$v",
        "%",
        "'q'",
        '"q"',
        "l\nb",
        "t\tb",
        " lead",
        "trail ",
    ),
    *(
        "x,y",
        "<b>",
        "1",
        "2.5",
        "null",
        "true",
        "-",
        "~",
        "@",
        "#",
        "n" * 300,
        "\U0001f600",
        "a:b",
        "a/b",
        "\\",
        "is missing",
    ),
    *(
        "p(a)",
        "predicted",
        "intercept",
        "feature",
        "label",
        "input",
        "output",
        "__index_level_0__",
        "Unnamed: 0",
        "keep",
    ),
)

ODD_NAMES = ("", " ", "a\x1b[31mb", "a\x07", "\u202ex", "nul\x01")

CLASSES: tuple[tuple[list[str], bool], ...] = (
    (["no", "yes"], True),
    (["a", "b", "c"], True),
    (["0", "1"], True),
    (["1", "2", "10"], True),
    (["-1", "1"], True),
    (["true", "false"], True),
    (["True", "False"], True),
    (["é", "日本"], True),
    (["x,y", 'q"q', "it's"], True),
    ([f"c{n}" for n in range(12)], True),
    ([str(n) for n in range(30)], False),
    (["1.0", "2.0"], False),
    (["0120", "120"], False),
    (["1e3", "1000"], False),
    (["yes", "Yes"], False),
    (["a", "a."], False),
    (["a ", " b"], False),
    (["<=50K", ">50K", "<=50K."], False),
    (["none", "some"], False),
    (["null", "x", "y"], False),
    (["NA", "EU", "AS"], False),
    (["0.5", "1.5"], False),
    (["only"], False),
    (["a\nb", "c"], False),
    (["\x1b[31m", "x"], False),
    (["[a]", "{b}", "$c"], False),
    (["predicted", "p(x)", "x"], False),
    (["2020-01-01", "2020-01-02"], False),
    (["+1", "-1"], False),
    (["9223372036854775808", "9223372036854775809"], False),
    (["1", "x"], False),
    (["<script>", "&"], False),
)


def target_of(draw: Draw, rows: int, signal: Array) -> tuple[list[str], bool]:
    names, is_clean = pick(draw, CLASSES[:10]) if draw.random() < 0.65 else pick(draw, CLASSES)
    noisy = signal + draw.logistic(size=rows) * pick(draw, [1, 1, 1, 0.0, 5])
    ranks = noisy.argsort().argsort() * len(names) // max(1, rows)
    return [names[int(rank)] for rank in ranks], is_clean


def with_gaps(draw: Draw, values: list[str], words: Sequence[str]) -> list[str]:
    part = pick(draw, [0.02, 0.1, 0.5])
    return [pick(draw, words) if draw.random() < part else value for value in values]


def columns_of(draw: Draw, rows: int) -> tuple[list[Column], bool]:
    """The columns of a text file, the target last."""
    is_odd = draw.random() < 0.6
    columns: list[Column] = []
    base = draw.normal(size=rows)
    names = [str(name) for name in draw.permutation(np.array(NAMES, dtype=object))]
    for number in range(int(draw.integers(1, 6))):
        name = f"x{number}" if draw.random() < 0.6 else names[number]
        making, is_clean = pick(draw, [numbers, numbers, levels, truths]), True
        if is_odd and draw.random() < 0.35:
            making, is_clean = odd, False
        values = making(draw, rows)
        if number == 0:
            values = [f"{value:.4f}" for value in base]
            is_clean = True
        if draw.random() < 0.25:
            values = with_gaps(draw, values, pick(draw, [[""], ["NA"], ["", "NA", "null", "nan"], [" "], ["#N/A"]]))
        if name in ("__index_level_0__", "Unnamed: 0", "intercept", "feature", "n" * 300, "is missing"):
            is_clean = False
        columns.append(Column(name, values, is_clean))
    if is_odd and draw.random() < 0.2:
        columns[-1] = columns[-1]._replace(name=pick(draw, [*ODD_NAMES, columns[0].name]), is_clean=False)
    values, is_clean = target_of(draw, rows, base)
    if draw.random() < 0.15:
        values = with_gaps(draw, values, [""])
    columns.append(Column(pick(draw, ["y", "y", "target", "the class", "y=1", "[y]", "1"]), values, is_clean))
    if len({column.name for column in columns}) < len(columns):
        columns[-1] = columns[-1]._replace(is_clean=False)
    return columns, all(column.is_clean for column in columns)


def spelled(header: Sequence[str], rows: Sequence[Sequence[str]], separator: str, end: str, quote_all: bool) -> str:
    text = io.StringIO()
    quoting: Any = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def broken(draw: Draw, content: bytes, separator: str) -> tuple[bytes, str]:
    """A file that something has happened to."""
    lines = content.split(b"\n")
    mark = separator.encode()
    damage: dict[str, Callable[[], bytes]] = {
        "utf-16": lambda: content.decode().encode("utf-16"),
        "latin-1": lambda: content.decode().encode("latin-1", "replace"),
        "cut": lambda: content[: int(len(content) * draw.uniform(0.2, 0.99))],
        "ragged": lambda: b"\n".join([*lines[:3], lines[3] + mark + b"9" if len(lines) > 3 else b"", *lines[4:]]),
        "short": lambda: b"\n".join([*lines[:2], lines[2].rpartition(mark)[0] if len(lines) > 2 else b"", *lines[3:]]),
        "blank lines": lambda: b"\n\n" + content.replace(b"\n", b"\n\n", 3) + b"\n\n\n",
        "comment": lambda: b"# made by hand\n" + content,
        "sep": lambda: b"sep=" + mark + b"\n" + content,
        "no header": lambda: b"\n".join(lines[1:]),
        "header only": lambda: lines[0] + b"\n",
        "empty": lambda: b"",
        "blank": lambda: b"\n \n\n",
        "one row": lambda: b"\n".join(lines[:2]) + b"\n",
        "nul": lambda: content.replace(b"1", b"\x00", 3),
        "bom inside": lambda: lines[0] + b"\n\xef\xbb\xbf" + b"\n".join(lines[1:]),
        "trailing separators": lambda: content.replace(b"\n", mark + b"\n"),
        "open quote": lambda: content.replace(b"\n", b'\n"', 1),
        "two headers": lambda: lines[0] + b"\n" + content,
        "cr": lambda: content.replace(b"\n", b"\r"),
        "garbage": lambda: bytes(draw.integers(0, 256, 3000, dtype=np.uint8)),
        "html": lambda: b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n",
        "zip": lambda: b"PK\x03\x04" + content,
        "gz without its name": lambda: gzip.compress(content),
        "no end": lambda: content.rstrip(b"\r\n"),
        "surrogates": lambda: content.replace(b"a", b"\xed\xa0\x80", 2),
    }
    name = pick(draw, list(damage))
    return damage[name](), name


OPTIONS: tuple[str, ...] = (
    "dataset.class_weight=balanced",
    "calibrate=temperature",
    "dataset.standardize=false",
    "l1=1e-3",
    "loss=bce",
    "loss=cross_entropy",
    "precision=64",
    "optimizer=lbfgs",
    "optimizer=newton",
    "dataset.missing=error",
    "dataset.max_levels=5",
    "dataset.min_level_rows=3",
    "dataset.hash=8",
    "dataset.limit=30",
    "intercept=false",
    "l2=path",
    "l2=0",
    "reduction=sum",
    "seed=5",
    "dataset.split.test=0.3",
    "dataset.missing_values=[none]",
    "dataset.missing_values=[unknown,'?']",
    "facts=show",
    "report=full",
)


def text_table(draw: Draw) -> Drawn:
    rows = int(pick(draw, [12, 40, 40, 80, 80, 150, 300]))
    columns, is_clean = columns_of(draw, rows)
    is_clean &= rows >= 40
    separator, suffix = pick(
        draw, [(",", ".csv"), (",", ".csv"), ("\t", ".tsv"), (",", ".csv.gz"), (";", ".csv"), ("|", ".txt")]
    )
    end, quote_all, bom = pick(draw, ["\n", "\n", "\r\n"]), draw.random() < 0.15, draw.random() < 0.1
    options = []
    if separator == "|":  # that of the others is the usual one, or the header shows it
        options.append(f"dataset.separator='{separator}'")
    extra: list[Column] = []
    if draw.random() < 0.15:
        kind = pick(draw, ["1", "counts", "fractions", "0", "nan", "-1"])
        values = {"1": "1", "counts": "3", "fractions": "0.5", "0": "0", "nan": "", "-1": "-1"}[kind]
        extra.append(Column("w", [values if draw.random() < 0.3 else "1" for _ in range(rows)]))
        options.append("dataset.weight=w")
        is_clean &= kind not in ("nan", "-1")
    if draw.random() < 0.1:
        extra.append(Column("part", [pick(draw, ["train", "train", "val", "test"]) for _ in range(rows)]))
        options.append("dataset.split.column=part")
    elif draw.random() < 0.1:
        extra.append(Column("who", [f"p{draw.integers(10)}" for _ in range(rows)]))
        options.append("dataset.split.group=who")
        is_clean = False
    columns = [*columns[:-1], *extra, columns[-1]]

    def write(order: Sequence[str], new_level: str = "") -> bytes:
        chosen = [next(column for column in columns if column.name == name) for name in order]
        body = [list(row) for row in zip(*(column.values for column in chosen), strict=True)]
        if new_level:
            body = [[new_level if chosen[n].name == "c" else cell for n, cell in enumerate(row)] for row in body]
        text = spelled(order, body, separator, end, quote_all)
        content = (b"\xef\xbb\xbf" if bom else b"") + text.encode("utf-8", "surrogatepass")
        return gzip.compress(content, 1) if suffix.endswith(".gz") else content

    content = spelled(
        [c.name for c in columns], list(zip(*(c.values for c in columns), strict=True)), separator, end, quote_all
    )
    raw = (b"\xef\xbb\xbf" if bom else b"") + content.encode("utf-8", "surrogatepass")
    target = columns[-1].name
    if draw.random() < 0.2:
        raw, damage = broken(draw, raw, separator)
        is_clean = False
        if damage not in ("no end", "sep", "blank lines"):
            columns = []  # whatever stands in it now
    if suffix.endswith(".gz"):
        raw = gzip.compress(raw, 1)
    more, still_clean = options_of(draw, [column.name for column in columns[:-1]])
    gaps = GAPS | {
        word for option in more for word in re.findall(r"none|unknown|\?", option.partition("missing_values=")[2])
    }
    return Drawn(f"t{suffix}", raw, columns, target, (*options, *more), True, is_clean and still_clean, gaps, write)


def options_of(draw: Draw, names: Sequence[str]) -> tuple[list[str], bool]:
    chosen = [str(one) for one in draw.permutation(np.array(OPTIONS))[: int(pick(draw, [0, 0, 1, 2]))]]
    if draw.random() < 0.6:
        chosen += ["dataset.split.val=0", "dataset.split.test=0"]
        chosen = [one for one in chosen if one not in ("dataset.split.test=0.3", "calibrate=temperature", "l2=path")]
    if draw.random() < 0.1 and names:
        chosen.append(f"dataset.drop=[{quoted(pick(draw, names))}]")
    if draw.random() < 0.1 and names:
        chosen.append(f"dataset.categorical=[{quoted(pick(draw, names))}]")
    keys = [one.partition("=")[0] for one in chosen]
    chosen = [one for one in chosen if keys.count(one.partition("=")[0]) == 1]
    harmless = (
        "dataset.standardize",
        "l1",
        "precision",
        "optimizer",
        "intercept",
        "seed",
        "facts",
        "report",
        "reduction",
    )
    is_clean = all(one.startswith((*harmless, "dataset.split.val=0", "dataset.split.test=0")) for one in chosen)
    if not any(one.startswith("l2=") for one in chosen):
        chosen.append("l2=0.1")
    return chosen, is_clean


def quoted(name: str) -> str:
    """As Hydra takes it, whatever it is."""
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), name) + '"'


# Binary files


def arrow_columns(draw: Draw, rows: int) -> list[Column]:
    base = draw.normal(size=rows)
    whole = [int(value) for value in draw.integers(0, 100, rows)]
    real = [float(value) for value in draw.normal(size=rows).astype(np.float32)]
    half = [float(value) for value in draw.normal(size=rows).astype(np.float16)]
    words = [pick(draw, ["a", "b", " c", "c", ""]) for _ in range(rows)]
    truth = [bool(draw.random() < 0.5) for _ in range(rows)]
    day = datetime.date(2020, 1, 1)
    kinds: list[tuple[Any, list[Any], bool]] = [
        *((kind, whole, True) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16())),
        *((kind, whole, True) for kind in (pa.uint32(), pa.uint64())),
        (pa.float16(), half, True),
        (pa.float32(), real, True),
        (pa.float64(), real, True),
        (pa.decimal128(10, 3), [decimal.Decimal(round(value * 1000)).scaleb(-3) for value in real], True),
        (pa.string(), words, True),
        (pa.large_string(), words, True),
        (pa.string_view(), words, True),
        (pa.dictionary(pa.int8(), pa.string()), words, True),
        (pa.dictionary(pa.int32(), pa.int64()), whole, False),
        (pa.dictionary(pa.int16(), pa.large_string()), words, False),
        (pa.bool_(), truth, True),
        (pa.bool_(), truth, True),
        (pa.date32(), [day] * rows, False),
        (pa.timestamp("us"), [datetime.datetime(2020, 1, 1)] * rows, False),
        (pa.timestamp("ns", "UTC"), [datetime.datetime(2020, 1, 1)] * rows, False),
        (pa.time32("s"), [datetime.time(1)] * rows, False),
        (pa.duration("s"), [datetime.timedelta(1)] * rows, False),
        (pa.binary(), [b"x"] * rows, False),
        (pa.binary(2), [b"xx"] * rows, False),
        (pa.list_(pa.float32()), [[1.0]] * rows, False),
        (pa.struct([("a", pa.int64())]), [{"a": 1}] * rows, False),
        (pa.map_(pa.string(), pa.int64()), [[("a", 1)]] * rows, False),
        (pa.null(), [None] * rows, False),
        (pa.string(), [str(value) for value in whole], False),
        (pa.string(), ["same"] * rows, False),
        (pa.float64(), [math.inf, *real[1:]], False),
        (pa.float64(), [math.nan, *real[1:]], False),
        (pa.float64(), [1e300 * value for value in real], False),
        (pa.uint64(), [2**64 - 1 - value for value in whole], False),
    ]
    columns = [Column("x0", [float(value) for value in base], True, pa.float64())]
    for number in range(1, int(draw.integers(2, 6))):
        kind, values, is_clean = pick(draw, kinds[:20] if draw.random() < 0.7 else kinds)
        if draw.random() < 0.3:
            values = [None if draw.random() < 0.1 else value for value in values]
        columns.append(Column(f"x{number}", values, is_clean, kind))
    classes = pick(
        draw,
        [
            *((kind, ["no", "yes"]) for kind in (pa.string(), pa.large_string(), pa.string_view())),
            *((kind, [0, 1, 2]) for kind in (pa.int64(), pa.uint8(), pa.float32(), pa.uint64())),
            *((pa.dictionary(pa.int8(), pa.string()), ["u", "v", "w"]), (pa.bool_(), [False, True])),
            *((pa.string(), ["0120", "120"]), (pa.string(), ["a", "a "]), (pa.decimal128(5, 0), [1, 2])),
        ],
    )
    ranks = (base + draw.logistic(size=rows)).argsort().argsort() * len(classes[1]) // rows
    target = [classes[1][int(rank)] for rank in ranks]
    if draw.random() < 0.15:
        target = [None if draw.random() < 0.05 else value for value in target]
    columns.append(Column("y", target, classes[1] not in (["a", "a "], ["0120", "120"]), classes[0]))
    return columns


def arrow_table(draw: Draw) -> Drawn:
    rows = int(pick(draw, [40, 80, 200]))
    columns = arrow_columns(draw, rows)
    suffix = pick(draw, [".parquet", ".feather", ".arrow"])
    as_index = draw.random() < 0.15 and suffix != ".arrow"

    def write(order: Sequence[str], new_level: str = "") -> bytes:
        chosen = [next(column for column in columns if column.name == name) for name in order]
        arrays = [array_of(column) for column in chosen]
        table = pa.table(arrays, names=list(order))
        if as_index:
            plain = {"index_columns": ["x1"], "columns": [], "column_indexes": []}
            table = table.replace_schema_metadata({"pandas": json.dumps(plain)})
        sink = io.BytesIO()
        if suffix == ".parquet":
            pa.parquet.write_table(table, sink, row_group_size=int(pick(draw, [7, 1000])))
        elif suffix == ".feather":
            pa.feather.write_feather(table, sink)
        else:
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table, max_chunksize=13)
        return sink.getvalue()

    try:
        content = write([column.name for column in columns])
    except (pa.ArrowException, NotImplementedError, TypeError, ValueError):  # no such file can be written
        return arrow_table(draw)
    if suffix == ".parquet":  # which keeps no dictionaries of numbers
        kinds = pa.parquet.read_schema(io.BytesIO(content))
        columns = [column._replace(kind=kinds.field(column.name).type) for column in columns]
    options, still_clean = options_of(draw, [column.name for column in columns[:-1]])
    options = [one for one in options if "missing_values" not in one]
    is_clean = still_clean and all(column.is_clean for column in columns) and not as_index
    return Drawn(f"t{suffix}", content, columns, "y", tuple(options), False, is_clean, frozenset(), write)


def array_of(column: Column) -> Any:
    kind = column.kind
    if pa.types.is_dictionary(kind):
        return pa.array(column.values, kind.value_type).dictionary_encode().cast(kind)
    if pa.types.is_float16(kind):
        return pa.array([None if value is None else np.float16(value) for value in column.values], kind)
    return pa.array(column.values, kind)


# An independent reader


def plain(drawn: Drawn, value: Any) -> Any:
    """A cell as it is meant: text without blanks, ``None`` for a missing value."""
    if not drawn.is_text:
        return None if isinstance(value, float) and math.isnan(value) else value
    trimmed = value.strip()
    return None if trimmed in drawn.gaps or value in drawn.gaps else trimmed


def number_of(cell: Any) -> float:
    return float(int(cell, 16)) if isinstance(cell, str) and cell[:2].lower() == "0x" else float(cell)


def kind_of_column(drawn: Drawn, column: Column) -> str:
    given = [value for value in (plain(drawn, one) for one in column.values) if value is not None]
    if not given:
        return "none"
    if not drawn.is_text:
        if pa.types.is_dictionary(column.kind) or isinstance(given[0], str):
            return "category"
        return "boolean" if isinstance(given[0], bool) else "number"
    if all(NUMBER.fullmatch(value) for value in given):
        return "number"
    return "boolean" if all(value.lower() in TRUE_FALSE for value in given) else "category"


def encoded(drawn: Drawn, model: dict[str, Any]) -> Array:
    """The features of all rows, (N, D), by the exported description of the columns."""
    parts: list[Array] = []
    by_name = {column.name.strip(): column for column in drawn.columns}
    for described in model["columns"]:
        cells = [plain(drawn, value) for value in by_name[described["name"].strip()].values]
        missing = np.array([cell is None for cell in cells], dtype=float)
        if described["kind"] == "number":
            values = [described["fill"] if cell is None else number_of(cell) for cell in cells]
            part = np.array(values, dtype=float)[:, None]
        else:
            place = {level.strip(): number for number, level in enumerate(described["levels"])}
            place |= {level: number for number, level in enumerate(described["levels"])}
            part = np.zeros((len(cells), len(described["levels"])))
            for row, cell in enumerate(cells):
                word = described["fill"] if cell is None else str(cell)
                word = TRUE_FALSE[word.lower()] if described["kind"] == "boolean" else word
                if word in place:
                    part[row, place[word]] = 1
        parts.append(part[:, :0] if described["constant"] else part)
        if described["indicator"]:
            parts.append(missing[:, None])
    return np.concatenate(parts, axis=1)


def probabilities_of(model: dict[str, Any], features: Array) -> Array:
    logits = features @ np.array(model["coef"]).T + np.array(model["intercept"])
    if model["link"] == "softmax":
        powers = np.exp(logits - logits.max(1, keepdims=True))
        found = powers / powers.sum(1, keepdims=True)
    else:
        found = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        if found.shape[1] == 1:
            found = np.concatenate([1 - found, found], axis=1)
        else:
            found = found / found.sum(1, keepdims=True)
    if model.get("divisor"):
        found = found / np.exp(np.array(model["divisor"]))
        found = found / found.sum(1, keepdims=True)
    return np.asarray(found)


def class_of(drawn: Drawn, value: Any) -> str | None:
    """The name of the class that a cell of the target means."""
    cell = plain(drawn, value)
    if cell is None or isinstance(cell, str):
        return cell
    return str(cell).lower() if isinstance(cell, bool) else str(int(cell))


def same_classes(raw: set[str], names: Sequence[str]) -> dict[str, str] | None:
    """Which class each spelling is, or ``None`` where they do not fit."""
    if raw == set(names):
        return {name: name for name in names}
    for form in (str.lower, lambda word: str(int(float(word)))):
        try:
            formed = {word: form(word) for word in raw}
        except ValueError:
            continue
        if set(formed.values()) == set(names) and len(set(formed.values())) == len(formed):
            return formed
    return None


class Wrong(Exception):
    """What an independent reader reads otherwise."""


def demand(holds: object, what: str) -> None:
    if not holds:
        raise Wrong(what)


def has(drawn: Drawn, option: str) -> bool:
    return any(one.startswith(option) for one in drawn.options)


def check_reading(drawn: Drawn, summary: dict[str, Any], model: dict[str, Any]) -> tuple[Array, list[str | None]]:
    """Rows, classes, kinds and levels; returns the features of all rows and their classes."""
    labels = [class_of(drawn, value) for value in drawn.columns[-1].values]
    formed = same_classes({label for label in labels if label is not None}, model["classes"])
    if not has(drawn, "dataset.split.column"):
        demand(formed is not None, f"classes {model['classes']} of {sorted({str(label) for label in labels})[:9]}")
    assert formed is not None
    classes = [None if label is None else formed[label] for label in labels]
    rows = summary["dataset"]["rows"]
    labeled = sum(label is not None for label in labels)
    if not has(drawn, "dataset.limit"):
        demand(sum(rows.values()) == labeled, f"{rows} rows of {labeled}")
    categorical = " ".join(drawn.options)
    whole = set(rows) == {"train"} and not has(drawn, "dataset.limit")
    for described in model["columns"]:
        column = next(column for column in drawn.columns if column.name.strip() == described["name"].strip())
        kind = kind_of_column(drawn, column)
        if f"categorical=[{quoted(column.name)}]" in categorical:
            kind = "category"
        demand(described["kind"] == kind, f"column {column.name!r} is {described['kind']}, not {kind}")
        if not whole:
            continue
        cells = [plain(drawn, value) for value, label in zip(column.values, labels, strict=True) if label is not None]
        given = [cell for cell in cells if cell is not None]
        demand(described["indicator"] == (len(given) < len(cells)), f"missing values of {column.name!r}")
        if kind == "number":
            middle = float(np.median([number_of(cell) for cell in given]))
            close = math.isclose(described["fill"], middle, rel_tol=1e-6, abs_tol=1e-300) or math.isnan(middle)
            demand(close, f"median of {column.name!r}: {described['fill']}, not {middle}")
        else:
            spelled_out = [TRUE_FALSE[str(cell).lower()] if kind == "boolean" else str(cell) for cell in given]
            its = set(spelled_out)
            demand(
                set(described["levels"]) == its,
                f"levels of {column.name!r}: {described['levels'][:9]}, not {sorted(its)[:9]}",
            )
            counts = Counter(spelled_out)
            demand(counts[described["fill"]] == max(counts.values()), f"most frequent of {column.name!r}")
    kept = {described["name"] for described in model["columns"]}
    special = {drawn.target, "w", "part", "who"}
    for column in drawn.columns:
        name = (
            column.name.strip() if drawn.is_text else column.name
        )  # blanks around a value of a text file do not count
        if name in kept | special or not whole or has(drawn, "dataset.drop"):
            continue
        cells = [plain(drawn, value) for value, label in zip(column.values, labels, strict=True) if label is not None]
        if kind_of_column(drawn, column) == "number":
            cells = [None if cell is None else number_of(cell) for cell in cells]
        nameless = re.fullmatch(r"|Unnamed: \d+|__index_level_\d+__", column.name) or (
            column.name == "x1" and not drawn.is_text  # perhaps the index of pandas
        )
        demand(len(set(cells)) <= 1 or nameless, f"column {column.name!r} is left out")
    return encoded(drawn, model), classes


def check_optimum(drawn: Drawn, features: Array, classes: list[str | None], model: dict[str, Any]) -> None:
    """scikit-learn finds nothing better on the features as they are encoded here."""
    from sklearn.linear_model import LogisticRegression

    plain_options = {"l2=0.1", "dataset.split.val=0", "dataset.split.test=0", "report=full", "facts=show", "seed=5"}
    plain_options |= {"precision=64", "optimizer=newton", "optimizer=lbfgs"}
    plain_options |= {option for option in drawn.options if option.startswith(("dataset.separator", "dataset.drop"))}
    if set(drawn.options) - plain_options or not {"l2=0.1", "dataset.split.val=0"} <= set(drawn.options):
        return
    chosen = np.array([one is not None for one in classes])
    x, y = features[chosen], np.array([model["classes"].index(one) for one in classes if one is not None])
    if np.abs(x).max() > 1e12 or not np.isfinite(x).all():
        return
    mean, std = x.mean(0), x.std(0)
    std = np.where(std > 1e-12 * np.maximum(1, np.abs(mean)), std, 1)
    scaled = (x - mean) / std
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = LogisticRegression(C=1 / (0.1 * len(y)), tol=1e-10, max_iter=5000).fit(scaled, y)

    def objective(probabilities: Array, coef: Array) -> float:
        return float(-np.log(probabilities[np.arange(len(y)), y]).mean() + 0.05 * (coef**2).sum())

    best = objective(theirs.predict_proba(scaled), theirs.coef_)
    ours = objective(probabilities_of(model, x), np.array(model["coef"]) * std)
    demand(ours <= best + 1e-5 * max(1, abs(best)), f"objective {ours:.8g}, scikit-learn has {best:.8g}")


def read_predictions(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.reader(opened))[1:]


def check_predictions(rows: list[list[str]], model: dict[str, Any], expected: Array, what: str) -> None:
    demand(len(rows) == len(expected), f"{what}: {len(rows)} rows of {len(expected)}")
    found = np.array([[float(cell) for cell in row[1:]] for row in rows])
    with np.errstate(invalid="ignore"):
        worst = float(np.abs(found - expected).max())
    demand(worst < 1e-6, f"{what}: probabilities differ by {worst:.3g}")
    for row, its in zip(rows, expected, strict=True):
        best = np.sort(its)[-2:]
        if best[-1] - best[0] > 1e-6 or len(its) == 1:
            demand(row[0] == model["classes"][int(its.argmax())], f"{what}: {row[0]!r} is predicted")


def onnx_probabilities(file: Path, drawn: Drawn, model: dict[str, Any]) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feed = {}
    kinds = {described["name"]: described["kind"] for described in model["columns"]}
    for wanted in session.get_inputs():
        column = next(column for column in drawn.columns if column.name.strip() == wanted.name.strip())
        cells = [plain(drawn, value) for value in column.values]
        if "string" in wanted.type:
            words = ["" if cell is None else str(cell) for cell in cells]
            if kinds[wanted.name] == "boolean":
                words = [TRUE_FALSE.get(word.lower(), "") for word in words]
            feed[wanted.name] = np.array(words, dtype=object)[:, None]
        else:
            kind = np.float64 if "double" in wanted.type else np.float32
            values = np.array([np.nan if cell is None else number_of(cell) for cell in cells])
            with np.errstate(over="ignore"):
                feed[wanted.name] = values.astype(kind)[:, None]
    return np.asarray(session.run(["probabilities"], feed)[0])


def raw_rows(drawn: Drawn, model: dict[str, Any]) -> Array:
    """What the pipeline of a table takes: a column for each of the model's, as somebody reads them."""
    columns: list[list[Any]] = []
    for described in model["columns"]:
        column = next(column for column in drawn.columns if column.name.strip() == described["name"].strip())
        cells = [plain(drawn, value) for value in column.values]
        if described["kind"] == "number":
            columns.append([np.nan if cell is None else number_of(cell) for cell in cells])
        else:
            columns.append([None if cell is None else str(cell) for cell in cells])
    return np.array(columns, dtype=object).T


def attack(server: Server, there: Path, seed: int) -> tuple[str, str, str]:
    """The format, what became of it, and how that looked."""
    draw = np.random.default_rng([seed, 23])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = (text_table if draw.random() < 0.75 else arrow_table)(draw)
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    (there / drawn.file).write_bytes(drawn.content)
    target = quoted(drawn.target)
    typed = [
        "dataset=table",
        f"dataset.path={drawn.file}",
        f"dataset.target={target}",
        "hydra.run.dir=m",
        *drawn.options,
    ]
    typed += [] if has(drawn, "report=") else ["report=brief"]
    result = server.run(there, "train", *typed, memory=6 * 2**30)
    kind, said = kind_of(result), f"[seed {seed}] {result}"
    if kind == LINES and result.code == 2 and result.err.count("\n`") + result.err.startswith("`") == 1:
        kind = REFUSED  # after notes on the data
    if kind == LEFT and has(drawn, "facts=show"):
        kind = REFUSED
    if kind == REFUSED and drawn.is_clean:
        kind = CLEAN
    family = drawn.file.partition(".")[2]
    if kind != OK or not drawn.columns:
        return family, kind, said
    try:
        return family, *follow_up(server, there, drawn, draw, said)
    except Wrong as wrong:
        return family, NONSENSE, f"{wrong.args[0]}: {said}"


def follow_up(server: Server, there: Path, drawn: Drawn, draw: Draw, said: str) -> tuple[str, str]:
    """All that can be done with a model."""

    def type_(command: str, *typed: str) -> Result | None:
        nonlocal said
        result = server.run(there, command, "ckpt_path=m", *typed, memory=6 * 2**30)
        said = f"{said}\n  then {result}"
        return result if kind_of(result) == OK else None

    def bad(result: Result | None) -> str:
        return LATER if said.rpartition("-> ")[2].startswith("2 ") else TRACEBACK

    if type_("export", "format=json", "output=m.json") is None:
        return bad(None), said
    model = json.loads((there / "m.json").read_text())
    summary = json.loads((there / "m" / "summary.json").read_text())
    features, classes = check_reading(drawn, summary, model)
    expected = probabilities_of(model, features)
    check_optimum(drawn, features, classes, model)
    if type_("predict", f"input={drawn.file}", "output=p.csv") is None:
        return bad(None), said
    check_predictions(read_predictions(there / "p.csv"), model, expected, "predict")
    names = [column.name for column in drawn.columns[:-1] if column.name]
    order = [str(name) for name in draw.permutation(np.array(names, dtype=object))]
    if len(set(order)) == len(drawn.columns) - 1:
        (there / f"shuffled_{drawn.file}").write_bytes(drawn.write(order, ""))
        again = f"input=shuffled_{drawn.file}", "output=q.csv"
        if type_("predict", *again) is None:
            told = re.search(r"(separator='.*') keeps it whole", said.rpartition("  then ")[2])
            if told is None or type_("predict", *again, *shlex.split(told[1])) is None:  # as a shell has it
                return bad(None), said
        check_predictions(read_predictions(there / "q.csv"), model, expected, "predict with columns in another order")
    if type_("evaluate", "split=train", "json=true", "output=e.json") is None:
        return bad(None), said
    scores = json.loads((there / "e.json").read_text())
    trained_on_all = set(summary["dataset"]["rows"]) == {"train"} and not has(drawn, "dataset.limit")
    if trained_on_all and not has(drawn, "dataset.weight"):
        chosen = [(row, model["classes"].index(one)) for row, one in enumerate(classes) if one is not None]
        loss = -np.log([expected[row, label] for row, label in chosen]).mean()
        found = scores["evaluation"]["metrics"]["log_loss"]["value"]
        demand(math.isclose(found, loss, rel_tol=1e-6, abs_tol=1e-9), f"evaluate says log loss {found}, not {loss}")
        counts = Counter(one for one in classes if one is not None)
        for one in scores["evaluation"]["classes"]:
            demand(one["weight"] == counts[one["class"]], f"{one['weight']} rows of class {one['class']!r}")
    form = pick(draw, ["onnx", "sklearn", "sklearn_only", "safetensors"])
    suffix = {"onnx": "onnx", "sklearn": "joblib", "sklearn_only": "joblib", "safetensors": "safetensors"}[form]
    if type_("export", f"format={form}", f"output=n.{suffix}", "overwrite=true") is None:
        cannot = (
            "logits",
            "calibrate=temperature removes",
            "one-vs-rest",
            "must distinguish a missing value",
        )
        if any(words in said for words in cannot):
            return OK, said  # a format that cannot hold this model says so
        return bad(None), said
    if form == "onnx" and model["columns"]:
        theirs = onnx_probabilities(there / "n.onnx", drawn, model)
        with np.errstate(invalid="ignore"):
            worst = float(np.abs(theirs - expected).max())
        demand(worst < 1e-4, f"ONNX differs by {worst:.3g}")
    if form in ("sklearn", "sklearn_only"):
        import joblib

        estimator = joblib.load(there / "n.joblib")
        if estimator.classes_.dtype.kind in "biuf":  # as numbers or booleans, and the names as they are written
            wanted = [TRUE_FALSE.get(name.lower(), name) for name in model["classes"]]
            places = [
                [float(one) for one in estimator.classes_].index(
                    float(name == "true") if name in ("true", "false") else number_of(name)
                )
                for name in wanted
            ]
        else:
            places = [[str(one) for one in estimator.classes_].index(name) for name in model["classes"]]
        with warnings.catch_warnings(action="ignore"):  # of names, which an array lacks
            theirs = estimator.predict_proba(raw_rows(drawn, model) if model["columns"] else features)
        theirs = theirs[:, places]
        demand(np.abs(theirs - expected).max() < 1e-6, "scikit-learn differs")
    return OK, said


@pytest.mark.slow
def test_what_tables_hold(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report((OK, REFUSED), WRONG)
    for seed in seeds(TABLES):
        report.add(*attack(server, tmp_path / "there", seed))
    with capsys.disabled():
        sys.stdout.write(str(report))
    assert not report.wrong, "\n\n".join(report.wrong)
