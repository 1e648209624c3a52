"""Memory stays bounded: a small file that states or decompresses to a large content is refused in one line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fake_mnist import write_fake_mnist
from whole_runs import Answer

TABLE = "dataset=table dataset.target=y l2=0.1 max_epochs=3 report=brief dataset.path="
FEATURES = "dataset=features l2=0.1 max_epochs=3 report=brief dataset.path="

RunTrain = Callable[[str], Answer]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may always decompress to 1 MiB, instead of 64 MiB."""
    monkeypatch.setattr("logreg.data.formats.compression.ALWAYS_ALLOWED_BYTES", 2**20)


def npy(shape: tuple[int, ...], values: bytes, kind: str = "<f4") -> bytes:
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": kind, "fortran_order": False, "shape": shape})
    return held.getvalue() + values


LABELS = npy((4,), np.array([0, 1, 0, 1], "<i8").tobytes(), "<i8")

FEATURE_VALUES = np.arange(8, dtype="<f4").tobytes()


def refused(run_train: RunTrain, command: str, *words: str) -> str:
    """The error line of a command, which leaves no file."""
    before = sorted(path.name for path in Path().iterdir())
    answer = run_train(command)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), answer.err
    assert sorted(path.name for path in Path().iterdir()) == before
    for word in words:
        assert word in answer.err
    return answer.err


@pytest.mark.long
@pytest.mark.parametrize(("suffix", "open_"), [(".gz", gzip.open), (".bz2", bz2.open)])
@pytest.mark.parametrize("header", [b"x,y\n", b""])
def test_a_compressed_table_that_expands_too_much_is_refused(
    run_train: RunTrain, small: None, suffix: str, open_: Callable[..., io.BufferedIOBase], header: bytes
) -> None:
    with open_(f"bomb.csv{suffix}", "wb") as file:
        file.write(header)
        file.write((b"0,1\n" if header else b"x" * 4) * 2**20)  # without a header one endless line
    refused(
        run_train,
        f"{TABLE}bomb.csv{suffix}",
        "`dataset.path` must decompress to at most 100 times its size",
        "Decompress it",
    )


@pytest.mark.long
def test_a_compressed_table_of_a_usual_ratio_is_read(run_train: RunTrain, small: None) -> None:
    draw = np.random.default_rng(0).normal(size=200_000)
    rows = "".join(f"{value:.3f},{n % 2}\n" for n, value in enumerate(draw))
    with gzip.open("t.csv.gz", "wt") as file:
        file.write("x,y\n" + rows)
    assert len(rows) > 2**20
    assert run_train(f"{TABLE}t.csv.gz").code == 0


def test_new_rows_that_expand_too_much_are_refused(
    tmp_path: Path, run_command: Callable[..., Answer], small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{n % 7},{n % 2}\n" for n in range(60)))
    assert run_command(tmp_path, "train", *f"{TABLE}t.csv".split()).code == 0
    with gzip.open(tmp_path / "bomb.csv.gz", "wb") as file:
        file.write(b"x\n" + b"0\n" * 2**21)
    answer = run_command(tmp_path, "predict", "input=bomb.csv.gz", "output=out.csv")
    assert answer.code == 2
    assert answer.err.startswith("`input` must decompress to at most 100 times its size")
    assert "out.csv" not in answer.left


CLAIMS = [(10**12, 2), (2, 10**12), (10**18, 10**18), (-(10**12), -2)]


@pytest.mark.parametrize("shape", CLAIMS)
def test_an_array_whose_header_states_more_than_the_file_holds_is_refused(
    run_train: RunTrain, shape: tuple[int, ...]
) -> None:
    Path("x.npy").write_bytes(npy(shape, FEATURE_VALUES))
    Path("y.npy").write_bytes(LABELS)
    Path("good.npy").write_bytes(npy((4, 2), FEATURE_VALUES))
    Path("bad.npy").write_bytes(npy(shape, FEATURE_VALUES, "<i8"))
    for name, features, labels in (("x.npz", "x.npy", "y.npy"), ("y.npz", "good.npy", "bad.npy")):
        with zipfile.ZipFile(name, "w") as archive:
            archive.write(features, "x.npy")
            archive.write(labels, "y.npy")
    for path in ("[x.npy,y.npy]", "[good.npy,bad.npy]", "x.npz", "y.npz"):
        refused(run_train, FEATURES + path, "`dataset.path` must be a complete file", "claims the shape")


def test_compressed_arrays_that_expand_too_much_are_refused(run_train: RunTrain, small: None) -> None:
    np.savez_compressed("x.npz", x=np.zeros((2**18, 8), np.float32), y=np.arange(2**18) % 2)
    refused(
        run_train,
        f"{FEATURES}x.npz",
        "x.npz must decompress to at most 100 times its size",
        "Save it without compression: numpy.savez.",
    )
    np.savez("x.npz", x=np.zeros((2**10, 8), np.float32), y=np.arange(2**10) % 2)
    assert run_train(f"{FEATURES}x.npz").code == 0  # as it advises


@pytest.mark.long
@pytest.mark.parametrize(("shape", "end"), [([10**12, 1], 4 * 10**12), ([10**12, 1], 32), ([2**62, 2**62], 32)])
def test_tensors_whose_header_states_more_than_the_file_holds_are_refused(
    run_train: RunTrain, shape: list[int], end: int
) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    Path("x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    refused(run_train, f"{FEATURES}x.safetensors", "`dataset.path` must be a complete file")
    Path("x.safetensors").write_bytes(struct.pack("<Q", 2**60) + header)
    refused(run_train, f"{FEATURES}x.safetensors", "`dataset.path` must be a complete file")


def test_columns_of_many_rows_in_few_bytes_are_refused(run_train: RunTrain, small: None) -> None:
    rows = 2**20
    constant = pa.array(np.zeros(rows, np.int8))
    pq.write_table(pa.table({"x": constant, "y": constant}), "t.parquet")
    assert Path("t.parquet").stat().st_size < 10_000
    refused(run_train, f"{TABLE}t.parquet", "`dataset.path` must have the rows that its header states", "1,048,576")
    lists = pa.FixedSizeListArray.from_arrays(constant, 2)
    pq.write_table(pa.table({"x": lists, "y": constant[: rows // 2]}), "x.parquet")
    refused(run_train, f"{FEATURES}x.parquet", "x.parquet must have the rows that its header states")
    # an Arrow column of nulls has no bytes at all
    nulls = pa.table({"x": pa.nulls(10**7), "y": pa.nulls(10**7)})
    with pa.OSFile("t.arrow", "wb") as file, pa.ipc.new_file(file, nulls.schema) as writer:
        writer.write_table(nulls)
    refused(run_train, f"{TABLE}t.arrow", "`dataset.path` must have the rows that its header states", "10,000,000")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("t.csv", TABLE),
        ("t.csv.gz", TABLE),
        ("t.parquet", TABLE),
        ("x.npz", FEATURES),
        ("x.safetensors", FEATURES),
        ("x.parquet", FEATURES),
        ("run.ckpt", "ckpt_path="),
    ],
)
def test_a_pipe_is_not_waited_for(run_train: RunTrain, name: str, command: str) -> None:
    os.mkfifo(name)
    refused(run_train, f"{command}{name}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_among_the_files_of_a_dataset_is_not_waited_for(run_train: RunTrain, tmp_path: Path) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    write_fake_mnist(tmp_path / "data")
    (raw / "train-images-idx3-ubyte").unlink()
    os.mkfifo(raw / "train-images-idx3-ubyte")
    refused(run_train, "dataset=mnist dataset.download=false", "train-images-idx3-ubyte")


def test_images_whose_header_states_more_than_the_file_holds_are_refused(run_train: RunTrain, tmp_path: Path) -> None:
    write_fake_mnist(tmp_path / "data")
    images = tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(struct.pack(">4I", 0x803, 2**32 - 1, 2**31, 2**31) + images.read_bytes()[16:])
    refused(run_train, "dataset=mnist", "mnist could not be read", "train-images-idx3-ubyte is cut off")
