"""An attack by what strangers send: run folders, checkpoints, names, packed files, headers that lie, pipes and devices.

No code of theirs runs, no file of ours changes, memory and time are bounded, nothing reaches a terminal or a page but
text, and the answer is a result or one line.  Run it with ``pytest --slow -n0 -s tests/attacks -k hostile``.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from forks import HANGS, LEFT, LINES, OK, REFUSED, TRACEBACK, Report, Server, kind_of, seeds
from PIL import Image

MEMORY = 3 * 2**30
"""Bytes that a command may take beyond the imports."""

HOSTILE_SECONDS = 60

FUZZED = 20
"""Checkpoints in which a value was changed."""

CODE, CHANGED, CONTROL, MARKUP = "code run", "file changed", "control character", "markup"

WRONG = (TRACEBACK, HANGS, LINES, LEFT, CODE, CHANGED, CONTROL, MARKUP)

TRAIN_TABLE = ("train", "dataset=table", "dataset.target=y", "l2=0.1")


class Case(NamedTuple):
    """Files that are made, and what is typed beside them."""

    name: str
    typed: tuple[str, ...]
    make: Callable[[Path], object] = lambda here: None


class Payload:
    """What a pickle runs."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.system, ("touch PWNED",))


TABLE = "x,z,y\n" + "".join(f"{n % 7},{n % 5 - n % 3},{'no' if n % 4 < 2 else 'yes'}\n" for n in range(60))


def a_run(server: Server, here: Path) -> None:
    """A small table with a model of it, in ``stranger``."""
    (here / "t.csv").write_text(TABLE)
    (here / "precious.txt").write_text("precious")
    typed = ["dataset=table", "dataset.path=t.csv", "dataset.target=y", "l2=0.1", "report=brief"]
    for folder in ("stranger", "runs/table/own"):
        assert kind_of(server.run(here, "train", *typed, f"hydra.run.dir={folder}")) == OK


def typing_(*typed: str) -> tuple[str, ...]:
    return typed


def overrides(*lines: str) -> Callable[[Path], object]:
    """Further settings, after those of the run."""

    def write(here: Path) -> None:
        with (here / "stranger/.hydra/overrides.yaml").open("a") as file:
            file.writelines(f"- {line}\n" for line in lines)

    return write


def written(path: str, content: bytes | str) -> Callable[[Path], object]:
    def write(here: Path) -> None:
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).unlink(missing_ok=True)
        (here / path).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))

    return write


def special(path: str, kind: str) -> Callable[[Path], object]:
    """A pipe, a device, a link to itself, a folder, a terabyte of nothing."""

    def make(here: Path) -> None:
        file = here / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            file.unlink()
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "zero":
            file.symlink_to("/dev/zero")
        elif kind == "loop":
            file.symlink_to(file.name)
        elif kind == "folder":
            file.mkdir()
        elif kind == "sparse":
            with file.open("wb") as opened:
                opened.truncate(2**40)
        elif kind == "closed":
            file.write_text(TABLE)
            file.chmod(0)

    return make


SPECIAL = ("pipe", "zero", "loop", "folder", "sparse")

AGAIN = ("train", "ckpt_path=stranger", "max_epochs=2000")


def run_folders() -> Iterator[Case]:
    """Run folders of strangers."""
    pickled = pickle.dumps(Payload())
    for number, lines in enumerate(
        (
            ["+hydra.callbacks.x._target_=joblib.load", "+hydra.callbacks.x.filename=bad.pickle"],
            ["hydra.callbacks={x: {_target_: joblib.load, filename: bad.pickle}}"],
            ["+hydra.callbacks.x._target_=os.system", "+hydra.callbacks.x.command='touch PWNED'"],
            ["hydra.job_logging.handlers.file.filename=precious.txt", "hydra.job_logging.handlers.file.mode=w"],
            ["+hydra.job_logging.handlers.x={class: logging.FileHandler, filename: precious.txt, mode: w}"],
            ["hydra.job_logging.formatters.simple.()=os.system"],
            ["hydra.run.dir=.", "hydra.output_subdir=."],
            ["hydra.searchpath=[file://bad]", "+evil=x"],
            ["hydra/launcher=joblib"],
            ["hydra.launcher._target_=os.system"],
            ["hydra.sweeper._target_=os.system"],
            ["hydra.job.env_set.PYTHONSTARTUP=x"],
            ["hydra.job.chdir=true"],
            ["_target_=os.system"],
            ["+_target_=os.system"],
            ["+dataset._target_=os.system"],
            ["dataset@hydra.callbacks.x=toy"],
            ["+dataset@hydra=toy"],
            ["+trainer.callbacks={_target_: os.system}"],
            ["+trainer.logger={_target_: os.system}"],
            ["+trainer.plugins=[{_target_: os.system}]"],
            ["+trainer.profiler=advanced"],
            ["+trainer.default_root_dir=/"],
            ["dataset.path=/dev/zero"],
            ["dataset.path=/etc/passwd"],
            ["dataset.path=../../../../etc/passwd"],
            ["l2=${oc.env:HOME}"],
            ["dataset.path=${oc.env:HOME}"],
            ["seed=${hydra:runtime.cwd}"],
            ["ckpt_path=other"],
            ["experiment=../../x"],
            ["dataset=../table"],
            ["~dataset"],
            ["l2=0.1,0.2"],
            ["l2=choice(1,2)"],
            ["-m"],
            ["--config-dir=bad"],
            ["x" * 10000],
            ["'l2=\x1b[31m'"],
            ["''"],
            ["'='"],
            ["1"],
            ["null"],
            ["{a: b}"],
            ["!!python/object/apply:os.system ['touch PWNED']"],
            ["&a [*a]"],
        )
    ):

        def make(here: Path, lines: list[str] = lines) -> None:
            (here / "bad.pickle").write_bytes(pickled)
            (here / "bad").mkdir()
            (here / "bad/evil.yaml").write_text("_target_: os.system\n")
            overrides(*lines)(here)

        yield Case(f"overrides {number} {lines[0][:40]}", AGAIN, make)
    bombs = "a: &a [x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
    )
    contents = (b"", b"\xff\xfe", b"[", b"{}", b"\x00", b"- " * 10000, bombs.encode(), b"[" * 5000, b"- 1\n" * 10**6)
    for place in (".hydra/overrides.yaml", ".hydra/config.yaml", ".hydra/hydra.yaml", "summary.json", "metrics.csv"):
        for number, content in enumerate(contents):
            yield Case(f"{place} {number}", AGAIN, written(f"stranger/{place}", content))
        for kind in SPECIAL[:4]:
            yield Case(f"{place} {kind}", AGAIN, special(f"stranger/{place}", kind))
    for number, content in enumerate(
        (*contents, b"[]", b'{"status": "finished"}', b'{"status": "finished", "config": 1}')
    ):
        for typed in (
            typing_("compare", "stranger", "runs/table/own"),
            typing_("export", "format=json", "ckpt_path=stranger"),
        ):
            yield Case(f"{typed[0]} summary {number}", typed, written("stranger/summary.json", content))
    for number, content in enumerate(
        (b"", b"\x00", b"../../../../etc", b"/dev/zero", b"a\nb", b"x" * 10**6, b"\xff\x1b[31m")
    ):
        yield Case(f"latest {number}", ("evaluate",), written("runs/latest", content))
    for kind in SPECIAL:
        yield Case(f"latest {kind}", ("evaluate",), special("runs/latest", kind))
    for study in ("../x", "/tmp/x", "..", ".", "a/b", "\x1b[31m", "x" * 300, "a\nb", "$(touch PWNED)", "{x}"):
        typed = typing_("sweep", "search.l2=log(1e-3,1)", "trials=1", "max_epochs=2", f"study={study}")
        yield Case(f"study {study[:9]!r}", typed)
    for kind in SPECIAL[:4]:
        typed = typing_("sweep", "search.l2=log(1e-3,1)", "trials=1", "max_epochs=2", "study=mine")
        yield Case(f"study.db {kind}", typed, special("runs/sweeps/mine/study.db", kind))
    for number, content in enumerate((b"x" * 5000, b"SQLite format 3\x00" + b"\xff" * 5000, pickled)):
        typed = typing_("sweep", "search.l2=log(1e-3,1)", "trials=1", "max_epochs=2", "study=mine")
        yield Case(f"study.db {number}", typed, written("runs/sweeps/mine/study.db", content))


def checkpoints() -> Iterator[Case]:
    """Checkpoints of strangers that are no checkpoints."""
    pickled = pickle.dumps(Payload())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**28))
    saved = io.BytesIO()
    torch.save({"hyper_parameters": Payload(), "state_dict": {}, "epoch": 0}, saved)
    contents = (
        b"",
        pickled,
        packed.getvalue(),
        bomb.getvalue(),
        saved.getvalue(),
        TABLE.encode(),
        b"PK\x03\x04",
        b"\x80\x02",
    )
    commands = (
        ("evaluate",),
        ("predict", "x=1", "z=1"),
        ("export", "format=json", "output=m.json"),
        ("certify",),
        ("train", "dataset=table", "dataset.path=t.csv", "dataset.target=y"),
    )
    for number, content in enumerate(contents):
        for command in commands:
            yield Case(f"{command[0]} bytes {number}", (*command, "ckpt_path=c.ckpt"), written("c.ckpt", content))
    for kind in SPECIAL:
        for command in commands:
            yield Case(f"{command[0]} {kind}", (*command, "ckpt_path=c.ckpt"), special("c.ckpt", kind))


JUNK: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        10**30,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        "\x1b[31m<script>\n",
        "../../x",
        "/dev/zero",
    ),
    *([], {}, [1], ["x", "x"], {"a": 1}, {"_target_": "os.system"}, torch.zeros(0), torch.zeros(3, 3), torch.tensor(1)),
    *(
        torch.full((2,), float("nan")),
        torch.zeros(1, dtype=torch.int8),
        [[]] * 3,
        "x" * 10**5,
        -1e-300,
        [None],
        "${lr}",
    ),
)


def places(held: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, list | tuple) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


def changed(held: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    if isinstance(held, dict):
        if value is JUNK:
            return (
                {key: one for key, one in held.items() if key != path[0] or path[1:]}
                if len(path) == 1
                else {key: changed(one, path[1:], value) if key == path[0] else one for key, one in held.items()}
            )
        return {key: changed(one, path[1:], value) if key == path[0] else one for key, one in held.items()}
    return type(held)(changed(one, path[1:], value) if n == path[0] else one for n, one in enumerate(held))


def fuzzed() -> Iterator[Case]:
    """True checkpoints in which one value is another one, or missing."""
    commands = (
        ("evaluate",),
        ("predict", "x=1", "z=1"),
        ("predict", "input=t.csv", "output=p.csv"),
        ("export", "format=onnx", "output=m.onnx"),
        ("export", "format=json", "output=m.json"),
        ("certify",),
        ("train", "max_epochs=2000"),
        ("compare", "runs/table/own"),
    )
    for seed in seeds(FUZZED):
        draw = np.random.default_rng([seed, 3])

        def make(here: Path, draw: np.random.Generator = draw) -> None:
            file = here / "stranger/checkpoints/last.ckpt"
            held = torch.load(file, weights_only=True)
            keep = ("hyper_parameters", "state_dict", "config", "calibration", "optimality", "epoch", "scores")
            everywhere = [path for path in places(held) if path]
            mine = [path for path in everywhere if path[0] in keep]
            chosen = mine if draw.random() < 0.8 else everywhere
            path = chosen[int(draw.integers(len(chosen)))]
            value = JUNK if draw.random() < 0.2 and isinstance(path[-1], str) else JUNK[int(draw.integers(len(JUNK)))]
            (here / "changed").write_text(f"{path}: {str(value)[:80] if value is not JUNK else 'deleted'}")
            torch.save(changed(held, path, value), file)

        for command in commands:
            last = ("stranger",) if command[0] == "compare" else ("ckpt_path=stranger",)
            yield Case(f"fuzzed {seed} {' '.join(command)}", (*command, *last), make)


NAMES = (
    'a\x1b[31mred', 'a\nb', 'a\r\nb', 'a\tb', '<script>alert(1)</script>', '<img src=x onerror=alert(1)>',
    '../../up', '/etc/passwd', "n" * 5000, '$(touch PWNED)', '`touch PWNED`', '${lr}', '{}', '{x}', '%s%n', '=1+1',
    '@x', '-x', '~', '.', 'a,b', 'a"b', "a'b", 'a=b', 'a[b]', '[red]x[/red]', '[/]', '\u202egnp', 'é', '日本', ' ',
    'x y', 'null', 'true', '1e5', 'a|b', '$x$', '$\\frac{1}{0}$', '\\', 'a\\', '#', '*a*', '_', '__class__', 'x.y',
    'a: b', '!!x', '&amp;', '😀',
)  # fmt: skip  # a name a line would be a page


def names() -> Iterator[Case]:
    """Columns, classes, levels and files with names that mean something to somebody."""
    import csv

    for number, name in enumerate(NAMES):
        other = NAMES[(number + 7) % len(NAMES)]

        def table(here: Path, name: str = name, other: str = other) -> None:
            with (here / "n.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow([f"n{name}", f"c{name}", "y"])
                for row in range(80):
                    level, its = (f"{name}", f"l{other}", "z")[row % 3], (f"k{name}", "other")[(row % 3 + row % 5) % 2]
                    writer.writerow([row % 7 - row % 4, level, its])

        yield Case(f"column {name[:12]!r}", (*TRAIN_TABLE, "dataset.path=n.csv"), table)
        if "/" in name or len(name) >= 200:
            continue
        if number % 2:
            file = f"{name}.csv"
            quoted = file.replace("\\", "\\\\").replace("'", "\\'")
            typed = typing_(*TRAIN_TABLE, f"dataset.path='{quoted}'", "report=brief")
            yield Case(f"file {name[:12]!r}", typed, written(file, TABLE))
        else:

            def pictures(here: Path, name: str = name) -> None:
                for n in range(12):
                    folder = here / "pictures" / ("plain" if n % 2 else name if name not in (".", " ") else "dot")
                    folder.mkdir(parents=True, exist_ok=True)
                    pixels = np.random.default_rng(n).integers(0, 255, (5, 5, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{name}{n}.png")

            typed = typing_(
                "train", "dataset=image_folder", "dataset.path=pictures", "dataset.cache=null", "max_epochs=1"
            )
            yield Case(f"folder {name[:12]!r}", typed, pictures)


def npy_header(shape: str, kind: str = "<f4", order: str = "False") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return packed.getvalue()


def safetensors_file(header: object, size: int = 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(size)


def claiming(kind: str, rows: int) -> bytes:
    """A file of Arrow whose stated number of rows is another one."""
    draw = np.random.default_rng(0)
    table = pa.table({"x": draw.normal(size=77_777), "y": draw.integers(0, 2, 77_777)})
    sink = io.BytesIO()
    if kind == "parquet":
        pa.parquet.write_table(table, sink, compression="none", use_dictionary=False)
    elif kind == "feather":
        pa.feather.write_feather(table, sink, compression="uncompressed")
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    held = sink.getvalue()
    if kind == "parquet":

        def varint(value: int) -> bytes:
            out = b""
            value <<= 1  # zigzag
            while value > 127:
                out += bytes([value & 127 | 128])
                value >>= 7
            return out + bytes([value])

        start = len(held) - 8 - struct.unpack("<I", held[-8:-4])[0]
        footer = held[start:-8].replace(varint(77_777), varint(rows))
        return held[:start] + footer + struct.pack("<I", len(footer)) + b"PAR1"
    return held.replace(struct.pack("<q", 77_777), struct.pack("<q", rows))


def packed() -> Iterator[Case]:
    """Files that grow, that claim more than there is, or that are no files."""
    target = ("dataset.target=y", "l2=0.1", "report=brief")
    for suffix in ("csv", "tsv", "csv.gz", "tsv.gz", "parquet", "feather", "arrow", "npz", "npy", "safetensors"):
        kind = "features" if suffix in ("npz", "npy", "safetensors") else "table"
        for what in SPECIAL:
            place, more = f"d.{suffix}", target if kind == "table" else ("report=brief",)
            pair = f"[{place},l.npy]" if suffix == "npy" else place
            yield Case(
                f"train {suffix} {what}",
                ("train", f"dataset={kind}", f"dataset.path={pair}", *more),
                special(place, what),
            )
            predict = ("predict", "ckpt_path=stranger", f"input={place}", "output=p.csv")
            yield Case(f"predict {suffix} {what}", predict, special(place, what))
    files = {
        "bomb.csv.gz": gzip.compress(b"x,y\n" + b"1,a\n2,b\n" * 2**24, 9),
        "zeros.csv.gz": gzip.compress(bytes(2**28), 9),
        "header.csv.gz": gzip.compress(b"x" * 2**28 + b",y\n1,2\n", 9),
        "twice.csv.gz": gzip.compress(gzip.compress(TABLE.encode())),
        "cut.csv.gz": gzip.compress(TABLE.encode())[:-9],
        "empty.csv.gz": b"",
        "quote.csv": b'x,y\n"' + b"1,a\n" * 10**6,
        "wide.csv": b"," * 10**6 + b"\n" + b"," * 10**6,
        "line.csv": b"x" * 10**8,
        "nul.csv": b"x,z,y\n" + b"\x00,\x00,\x00\n" * 50,
        "text.parquet": TABLE.encode(),
        "magic.parquet": b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1",
        "magic.feather": b"ARROW1\x00\x00" + bytes(100) + b"\xff\xff\xff\x7fARROW1",
        "stream.arrow": b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        **{
            f"rows{rows}.{kind}": claiming(kind, rows)
            for kind in ("parquet", "feather", "arrow")
            for rows in (10**12, 2**62, 5)
        },
        "negative.parquet": claiming("parquet", 2**63 - 1),
    }
    for name, content in files.items():
        yield Case(f"train {name}", ("train", "dataset=table", f"dataset.path={name}", *target), written(name, content))
        yield Case(
            f"predict {name}",
            ("predict", "ckpt_path=stranger", f"input={name}", "output=p.csv"),
            written(name, content),
        )
    shapes = (
        "(1000000000000, 3)",
        "(3, 1000000000000)",
        "(-1, 3)",
        "(2, -3)",
        "(0, 0)",
        "()",
        "(10, 3.5)",
        "(9223372036854775807,)",
    )
    labels = npy_header("(60,)", "<i8") + np.arange(60).__mod__(2).astype("<i8").tobytes()
    matrices = {
        **{f"shape{number}": npy_header(shape) + bytes(720) for number, shape in enumerate(shapes)},
        "object": npy_header("(60, 3)", "|O") + pickle.dumps(Payload()),
        "code": b"\x93NUMPY\x01\x00"
        + struct.pack("<H", 64)
        + b"__import__('os').system('touch PWNED')".ljust(63)
        + b"\n",
        "deep": b"\x93NUMPY\x02\x00" + struct.pack("<I", 10**6) + b"(" * 10**6,
        "long": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"x",
        "kind": npy_header("(60, 3)", "<f3") + bytes(720),
        "void": npy_header("(60, 3)", "|V4") + bytes(720),
        "empty": b"",
    }
    for name, content in matrices.items():

        def make(here: Path, content: bytes = content) -> None:
            (here / "f.npy").write_bytes(content)
            (here / "l.npy").write_bytes(labels)

        pair = "dataset.path=[f.npy,l.npy]"
        yield Case(f"npy {name}", ("train", "dataset=features", pair, "report=brief"), make)
        archive = zipped(features__npy=content, labels__npy=labels)
        typed = typing_("train", "dataset=features", "dataset.path=f.npz", "report=brief")
        yield Case(f"npz {name}", typed, written("f.npz", archive))
        yield Case(
            f"coef {name}",
            ("certify", "coef=f.npz", *TRAIN_TABLE[1:3], "dataset.path=t.csv", "l2=0.1"),
            written("f.npz", archive),
        )
    typed = typing_("train", "dataset=features", "dataset.path=f.npz", "report=brief")
    yield Case(
        "npz bomb",
        typed,
        written("f.npz", zipped(features__npy=npy_header("(22369621, 3)") + bytes(2**28), labels__npy=labels)),
    )
    tensor = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    for number, (header, size, length) in enumerate(
        (
            ({"features": tensor}, 24, None),
            ({"features": {**tensor, "shape": [10**12, 3], "data_offsets": [0, 12 * 10**12]}}, 24, None),
            ({"features": {**tensor, "shape": [2**40, 2**40]}}, 24, None),
            ({"features": {**tensor, "data_offsets": [24, 0]}}, 24, None),
            ({"features": {**tensor, "data_offsets": [-24, 0]}}, 24, None),
            ({"features": tensor, "labels": {"dtype": "I64", "shape": [3], "data_offsets": [0, 24]}}, 24, None),
            ({"features": {**tensor, "dtype": "X9"}}, 24, None),
            (
                {
                    "features": {**tensor, "shape": [0, 3], "data_offsets": [0, 0]},
                    "labels": {"dtype": "I64", "shape": [0], "data_offsets": [0, 0]},
                },
                0,
                None,
            ),
            ({}, 0, None),
            ([], 0, None),
            (b"[" * 10**5, 0, None),
            (b'{"a":' * 10**5, 0, None),
            ({"features": tensor}, 24, 2**60),
            ({"features": tensor}, 24, 2**63 - 1),
            ({"features": tensor}, 24, 0),
            ({"__metadata__": {"x": "<script>" * 10**5}, "features": tensor}, 24, None),
        )
    ):
        content = safetensors_file(header, size, length)
        typed = typing_("train", "dataset=features", "dataset.path=f.safetensors", "report=brief")
        yield Case(f"safetensors {number}", typed, written("f.safetensors", content))
    numbers = ("1e999", '"x"', "[[1],[1,2]]", '[NaN, 1], "intercept": 0', '[1e308, 1], "intercept": 1e308', '{"a": 1}')
    texts = ("", "{}", "[]", "[" * 10**5, "nul", *(f'{{"coef": {one}}}' for one in numbers))
    for number, text in enumerate((*texts, '{"coef": [1, 1], "intercept": null}')):
        typed = typing_("certify", "coef=c.json", *TRAIN_TABLE[1:3], "dataset.path=t.csv", "l2=0.1")
        yield Case(f"coef json {number}", typed, written("c.json", text))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def pictures() -> Iterator[Case]:
    """Pictures that claim to be large, or are none."""
    true = io.BytesIO()
    Image.fromarray(np.zeros((6, 6, 3), dtype=np.uint8)).save(true, "PNG")
    contents = {
        "large.png": png(100_000, 100_000),
        "huge.png": png(2**31 - 1, 2**31 - 1),
        "bomb.png": png(20_000, 20_000, bytes(2**28)),
        "none.png": png(0, 0),
        "cut.png": true.getvalue()[:40],
        "empty.png": b"",
        "text.jpg": b"\xff\xd8\xff\xe0" + b"x" * 100,
        "code.png": pickle.dumps(Payload()),
        "x.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        "x.gif": b"GIF89a\xff\xff\xff\xff\x00\x00\x00;",
        "x.tiff": b"II*\x00\xff\xff\xff\xff",
        "x.webp": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        "x.bmp": b"BM" + b"\xff" * 60,
        "x.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(PWNED) (w) file closefile\nshowpage\n",
    }

    def folder(here: Path) -> Path:
        for n in range(12):
            place = here / "pictures" / "ab"[n % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(n).integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(
                place / f"{n}.png"
            )
        return here / "pictures"

    def with_pictures(make: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda here: (folder(here), make(here))

    typed = typing_(
        "train", "dataset=image_folder", "dataset.path=pictures", "max_epochs=1", "report=brief", "dataset.size=4"
    )
    for name, content in contents.items():
        yield Case(f"picture {name}", typed, with_pictures(written(f"pictures/a/{name}", content)))
        predict = ("predict", "ckpt_path=stranger", f"input={name}", "output=p.csv")
        yield Case(f"predict {name}", predict, written(name, content))
    for kind in SPECIAL:
        yield Case(f"picture {kind}", typed, with_pictures(special("pictures/a/x.png", kind)))
    yield Case("folder in itself", typed, lambda here: (folder(here) / "a" / "again").symlink_to("..", True))
    yield Case("class in itself", typed, lambda here: (folder(here) / "c").symlink_to(".", True))


FAMILIES = {
    "run folders": run_folders,
    "checkpoints": checkpoints,
    "fuzzed": fuzzed,
    "names": names,
    "packed": packed,
    "pictures": pictures,
}


@pytest.fixture(scope="module")
def place(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("place")
    a_run(server, here)
    return here


def attack(server: Server, place: Path, there: Path, case: Case) -> tuple[str, str]:
    """What became of a case, and how it looked."""
    shutil.rmtree(there, ignore_errors=True)
    shutil.copytree(place, there)
    case.make(there)
    result = server.run(there, *case.typed, memory=MEMORY, seconds=HOSTILE_SECONDS)
    told = f"{case.name}: {result}"
    if (there / "changed").exists():
        told = f"[{(there / 'changed').read_text()}] {told}"
    if list(there.rglob("PWNED")) or Path("PWNED").exists():
        return CODE, told
    if (there / "precious.txt").read_text() != "precious":
        return CHANGED, told
    notes = re.compile(r"^(left out of the settings of|continuing from) .*\n", re.MULTILINE)  # before the one line
    kind = kind_of(result._replace(err=notes.sub("", result.err)) if result.code == 2 else result)
    if kind in WRONG:
        return kind, told
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]", result.out + result.err):
        return CONTROL, told
    for name in result.left:
        if name.endswith("report.html") and re.search(r"<script>alert|<img src=x", (there / name).read_text("utf-8")):
            return MARKUP, told
    return kind, told


@pytest.mark.slow
def test_what_strangers_send(server: Server, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report((OK, REFUSED), WRONG)
    for family, cases in FAMILIES.items():
        if family in os.environ.get("FAMILIES", family):
            for case in cases():
                report.add(family, *attack(server, place, tmp_path / "there", case))
    with capsys.disabled():
        sys.stdout.write(str(report))
    assert not report.wrong, "\n\n".join(report.wrong)
