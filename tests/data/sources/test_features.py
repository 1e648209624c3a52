from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from logreg.data.formats.arrays import LIST_BATCH_ROWS
from logreg.data.sources.features import Features
from logreg.errors import ConfigError, DataError, DatasetNotFoundError, LogregError

ROWS, WIDTH = 12, 4

Files = str | list[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that messages have short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def numbers(dtype: torch.dtype = torch.float32, rows: int = ROWS) -> Tensor:
    """Small whole numbers, which every type can hold."""
    return (torch.arange(rows * WIDTH).reshape(rows, WIDTH) % 100).to(dtype)


def labels(rows: int = ROWS) -> np.ndarray[Any, Any]:
    return np.arange(rows) % 3


def write_safetensors(path: str, tensors: dict[str, Tensor], pad: int = 0) -> str:
    """Writes the format of the package safetensors; ``pad`` shifts the tensors by this many bytes."""
    names = {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL", torch.complex64: "C64",
    }  # fmt: skip
    header: dict[str, Any] = {"__metadata__": {"made by": "a test"}}
    data = b""
    for name, tensor in tensors.items():
        content = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + pad)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def write_npz(path: str = "emb.npz", /, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return path


def write_parquet(path: str = "emb.parquet", /, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return path


def as_npz(features: Tensor) -> Files:
    return write_npz(features=features.numpy(), labels=labels(len(features)))


def as_compressed_npz(features: Tensor) -> Files:
    np.savez_compressed("emb.npz", features=features.numpy(), labels=labels(len(features)))
    return "emb.npz"


def as_npy(features: Tensor) -> Files:
    np.save("features.npy", features.numpy())
    np.save("labels.npy", labels(len(features)))
    return ["features.npy", "labels.npy"]


def as_safetensors(features: Tensor) -> Files:
    return write_safetensors(
        "emb.safetensors", {"features": features, "labels": torch.from_numpy(labels(len(features)))}
    )


def as_lists(features: Tensor) -> Files:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.numpy().ravel()), features.shape[1])
    return write_parquet(
        features=lists.cast(pa.list_(lists.type.value_type)), labels=labels(len(features)), id=range(len(features))
    )


def as_large_lists(features: Tensor) -> Files:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.numpy().ravel()), features.shape[1])
    return write_parquet(features=lists.cast(pa.large_list(lists.type.value_type)), labels=labels(len(features)))


def as_fixed_size_lists(features: Tensor) -> Files:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.numpy().ravel()), features.shape[1])
    return write_parquet(features=lists, labels=labels(len(features)))


FORMATS = [as_npz, as_compressed_npz, as_npy, as_safetensors, as_lists, as_large_lists, as_fixed_size_lists]


# Content of the files


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.float32, torch.float64, torch.uint8, torch.int32, torch.int64], ids=str
)
def test_every_format_returns_the_written_arrays(
    here: Path, write: Callable[[Tensor], Files], dtype: torch.dtype
) -> None:
    raw = Features(write(numbers(dtype))).read()
    assert list(raw.tables) == ["train"]
    table = raw.tables["train"]
    assert isinstance(table.features, Tensor)
    assert table.features.dtype == dtype
    assert torch.equal(table.features, numbers(dtype))
    assert table.features.is_contiguous()
    assert table.labels.tolist() == labels().tolist()
    assert (table.index, table.sample_weight, table.groups) == (None, None, None)
    assert raw.class_names == ("0", "1", "2")
    assert raw.source in ("emb.npz", "features.npy", "emb.safetensors", "emb.parquet")
    assert (raw.notes, raw.image_shape, raw.splits_are_stated) == ((), (), False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool], ids=str)
def test_safetensors_may_have_types_that_numpy_lacks(here: Path, dtype: torch.dtype) -> None:
    features = Features(as_safetensors(numbers(dtype))).read().tables["train"].features
    assert isinstance(features, Tensor)
    assert features.dtype == dtype
    assert torch.equal(features, numbers(dtype))


@pytest.mark.parametrize("write", [as_lists, as_fixed_size_lists])
def test_a_parquet_file_of_many_batches_and_row_groups_is_one_matrix(
    here: Path, write: Callable[[Tensor], Files]
) -> None:
    rows = 2 * LIST_BATCH_ROWS + 100
    path = str(write(numbers(rows=rows)))
    pq.write_table(pq.read_table(path), path, row_group_size=LIST_BATCH_ROWS - 24)
    table = Features(path).read().tables["train"]
    assert torch.equal(torch.as_tensor(table.features), numbers(rows=rows))
    assert table.labels.tolist() == labels(rows).tolist()


@pytest.mark.parametrize(("write", "file"), [(as_npy, "features.npy"), (as_safetensors, "emb.safetensors")])
def test_the_matrix_is_memory_mapped(here: Path, write: Callable[[Tensor], Files], file: str) -> None:
    mine = torch.full((ROWS, WIDTH), 7.0)
    features = Features(write(mine)).read().tables["train"].features
    assert isinstance(features, Tensor)
    content = Path(file).read_bytes()
    start = content.index(mine.numpy().tobytes())
    with Path(file).open("r+b") as opened:
        opened.seek(start)
        opened.write(np.float32(9).tobytes())
    assert features[0, 0] == 9  # nothing was read before
    features[0, 1] = 5  # and what is written stays in memory
    assert np.frombuffer(Path(file).read_bytes(), np.float32, 2, start).tolist() == [9, 7]


def test_other_orders_of_bytes_and_axes_are_converted(here: Path) -> None:
    np.save("features.npy", np.asfortranarray(numbers().numpy().astype(">f4")))
    np.save("labels.npy", labels().astype(">i2"))
    table = Features(["features.npy", "labels.npy"]).read().tables["train"]
    assert torch.equal(torch.as_tensor(table.features), numbers())
    assert torch.as_tensor(table.features).is_contiguous()
    assert table.labels.tolist() == labels().tolist()


# Labels, weights, groups


@pytest.mark.parametrize(
    ("given", "names", "codes"),
    [
        (np.array(["no", "yes", "no"]), ("no", "yes"), [0, 1, 0]),
        (np.array([True, False, True]), ("false", "true"), [1, 0, 1]),
        (np.array([-1, 1, -1], dtype=np.int8), ("-1", "1"), [0, 1, 0]),
        (np.array([10.0, 9.0, 9.0], dtype=np.float16), ("9", "10"), [1, 0, 0]),
    ],
)
def test_labels_of_every_kind_are_classes(here: Path, given: Any, names: tuple[str, ...], codes: list[int]) -> None:
    for path in (
        write_npz(x=numbers(rows=3).numpy(), y=given),
        write_parquet(x=list(numbers(rows=3).numpy()), y=given),
        write_parquet(
            x=list(numbers(rows=3).numpy()),
            y=pa.array(given.astype(np.float32) if given.dtype == np.float16 else given).dictionary_encode(),
        ),
    ):
        raw = Features(path).read()
        assert raw.class_names == names
        assert raw.tables["train"].labels.tolist() == codes


def test_labels_in_bfloat16_are_whole_numbers(here: Path) -> None:
    path = write_safetensors("e.safetensors", {"x": numbers(), "y": torch.from_numpy(labels()).bfloat16()})
    assert Features(path).read().class_names == ("0", "1", "2")


def test_rows_without_a_label_are_left_out_and_counted(here: Path) -> None:
    path = write_parquet(x=list(numbers(rows=4).numpy()), y=["a", None, "b", None])
    raw = Features(path).read()
    rows = raw.tables["train"].index
    assert rows is not None
    assert rows.tolist() == [0, 2]
    assert len(raw.tables["train"].features) == 4  # not copied for it
    assert raw.notes == ("left out 2 rows of emb.parquet, since y is missing there",)


def test_weights_and_groups_belong_to_their_rows(here: Path) -> None:
    who = np.array(["eve", "ada", "eve"])
    path = write_npz(x=numbers(rows=3).numpy(), y=[0, 1, 1], w=np.array([0.5, 0, 2], dtype=np.float16), who=who)
    table = Features(path, weight="w", group="who").read().tables["train"]
    assert table.sample_weight is not None
    assert table.sample_weight.dtype == torch.float64
    assert table.sample_weight.tolist() == [0.5, 0, 2]
    assert table.groups is not None
    assert table.groups.tolist() == [1, 0, 1]


def test_classes_and_groups_have_one_encoding_for_all_files(here: Path) -> None:
    write_npz("train.npz", x=numbers(rows=3).numpy(), y=["b", "c", "b"], who=[5, 6, 5])
    write_parquet(
        "val.parquet",
        emb=list(numbers(rows=2).numpy()),
        label=pa.array(["c", "b"]).dictionary_encode(),
        who=pa.array([7, 5], pa.int32()),
    )
    write_npz("test.npz", x=numbers(torch.float16, rows=2).numpy(), y=["a", "c"], who=[6, 8])
    raw = Features(None, "train.npz", "val.parquet", "test.npz", group="who").read()
    assert raw.class_names == ("a", "b", "c")
    assert {split: table.labels.tolist() for split, table in raw.tables.items()} == {
        "train": [1, 2, 1],
        "val": [2, 1],
        "test": [0, 2],
    }
    groups = {split: table.groups.tolist() for split, table in raw.tables.items() if table.groups is not None}
    assert groups == {"train": [0, 1, 0], "val": [2, 0], "test": [1, 3]}
    assert raw.source == "train.npz + val.parquet + test.npz"


@pytest.mark.parametrize(
    ("arrays", "typed"),
    [
        (("X", "y"), {}),
        (("embeddings", "target", "id"), {}),
        (("data", "label"), {}),
        (("a", "b"), {"features": "a", "labels": "b"}),
        (("X", "features", "y", "label"), {"features": "X", "labels": "y"}),
    ],
)
def test_arrays_are_found_by_their_usual_names_or_as_typed(here: Path, arrays: Any, typed: dict[str, str]) -> None:
    ones = {typed.get("features", arrays[0]), typed.get("labels", arrays[1])}
    of: dict[str, Any] = {
        name: numbers().numpy() if name in ("X", "embeddings", "data", "features", "a") else labels() for name in arrays
    }
    of |= {name: array * 0 for name, array in of.items() if name not in ones}
    raw = Features(write_npz(**of), **typed).read()
    assert torch.equal(torch.as_tensor(raw.tables["train"].features), numbers())
    assert raw.class_names == ("0", "1", "2")


def test_the_only_column_of_lists_is_the_features(here: Path) -> None:
    path = write_parquet(vector=list(numbers().numpy()), y=labels())
    assert torch.equal(torch.as_tensor(Features(path).read().tables["train"].features), numbers())


# Errors


class Trap:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("sprung"),)  # type: ignore[return-value]  # pickle takes any callable


def test_objects_are_never_unpickled(here: Path) -> None:
    array = np.empty(ROWS, dtype=object)
    array[:] = [Trap() for _ in range(ROWS)]
    pickle.loads(pickle.dumps(Trap()))  # the trap works
    Path("sprung").unlink()
    np.save("labels.npy", array, allow_pickle=True)
    np.save("features.npy", numbers().numpy())
    write_npz("emb.npz", X=numbers().numpy(), y=array)
    Path("raw.npz").write_bytes(pickle.dumps(array))
    for path, name, file in (("emb.npz", "y", "emb.npz"), (["features.npy", "labels.npy"], "labels", "labels.npy")):
        refused(
            Features(path),
            DataError,
            f"`{name}` must hold numbers or text, got Python objects [in {file}], which are never unpickled. "
            "Save numbers with .astype(numpy.float32) and labels with .astype(str).",
        )
    refused(
        Features("raw.npz"), DataError, "`dataset.path` must be a complete file, and raw.npz could not be read:", ...
    )
    assert not Path("sprung").exists()


def refused(features: Features, kind: type[LogregError], message: str, rest: object = None) -> None:
    """Compares the error of ``read`` with the whole message, or with its beginning if ``rest`` is given."""
    with pytest.raises(kind) as caught:
        features.read()
    said = str(caught.value)
    assert "\n" not in said
    assert (said if rest is None else said[: len(message)]) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"path": "emb.csv"},
            "`dataset.path` must be a .npz, .safetensors, .parquet or .svm file, or two files: "
            "[FEATURES.npy,LABELS.npy] or [SPARSE.npz,LABELS.npy]; or a folder of .safetensors files, or two of .npy "
            "files, got 'emb.csv'. A table with a column per feature is read by dataset=table.",
        ),
        ({"path": "emb.npy"}, "got 'emb.npy'."),
        ({"test_path": ["a.npz", "b.npz"]}, "`dataset.test_path` must be a .npz,"),
        ({"train_path": ["a.npy"]}, "got ['a.npy']"),
        ({"path": 3}, "got 3."),
        ({"labels": 3}, "`dataset.labels` must be the name of an array, got 3."),
        (
            {"path": "a.npz", "test_path": "b.npz"},
            "`dataset.path` must not go with `dataset.test_path`: set `dataset.train_path` instead.",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_read(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Features(**arguments)


@pytest.mark.parametrize("arguments", [{}, {"test_path": "test.npz"}])
def test_without_a_file_the_message_advises_to_name_one(arguments: dict[str, str]) -> None:
    refused(Features(**arguments), ConfigError, "`dataset.path` must name a file, got None. Set dataset.path=FILE.")


def test_a_missing_file_is_named(here: Path) -> None:
    np.save("features.npy", numbers().numpy())
    Path("folder.npz").mkdir()
    end = "Relative paths start at the current folder."
    for path, message in (
        ("emb.npz", f"`dataset.path` must be a file, and emb.npz is missing. {end}"),
        (["features.npy", "y.npy"], f"`dataset.path` must be a file, and y.npy is missing. {end}"),
    ):
        refused(Features(path), DatasetNotFoundError, message)
    end = "has none. Name another folder, or a file."
    for path, message in (
        ("folder.npz", f"`dataset.path` must hold files that end in .safetensors, and the folder folder.npz {end}"),
        (["folder.npz", "y.npy"], f"`dataset.path` must hold files that end in .npy, and the folder folder.npz {end}"),
    ):
        refused(Features(path), DataError, message)


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_cut_off_file_is_named(here: Path, write: Callable[[Tensor], Files], keep: float) -> None:
    path = write(numbers(rows=100))
    for file in path if isinstance(path, list) else [path]:
        content = Path(file).read_bytes()
        Path(file).write_bytes(content[: int(keep * len(content))])
        message = f"`dataset.path` must be a complete file, and {file} could not be read: "
        refused(Features(path), DataError, message, ...)
        Path(file).write_bytes(content)


@pytest.mark.parametrize("path", ["emb.npz", "emb.safetensors", "emb.parquet", "features.npy"])
@pytest.mark.parametrize(
    "content", [b"no such file" * 100, b"\x10" + bytes(7) + b'{"x": [1, 2, 3]}', b"\x02" + bytes(7) + b"[]"]
)
def test_another_kind_of_file_is_named(here: Path, path: str, content: bytes) -> None:
    np.save("labels.npy", labels())
    Path(path).write_bytes(content)
    pair: Files = [path, "labels.npy"] if path.endswith(".npy") else path
    refused(Features(pair), DataError, f"`dataset.path` must be a complete file, and {path} could not be read: ", ...)


def test_a_changed_byte_in_a_zip_archive_is_found(here: Path) -> None:
    path = Path(write_npz(x=numbers().numpy(), y=labels()))
    content = bytearray(path.read_bytes())
    content[content.index(numbers().numpy().tobytes())] ^= 1
    path.write_bytes(content)
    refused(
        Features("emb.npz"),
        DataError,
        "`dataset.path` must be a complete file, and emb.npz could not be read: Bad CRC",
        ...,
    )


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 40]},
        {"dtype": "F32", "shape": [-3, -4], "data_offsets": [0, 48]},
        {"dtype": "F32", "shape": [3, 4], "data_offsets": [-48, 0]},
        {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 480]},
        {"dtype": "F32", "shape": [3, 4], "data_offsets": [0]},
        {"dtype": "F32", "shape": "?", "data_offsets": [0, 48]},
        {"dtype": "F32"},
    ],
)
def test_a_header_that_contradicts_its_file_is_found(here: Path, entry: dict[str, Any]) -> None:
    text = json.dumps({"x": entry, "y": {"dtype": "U8", "shape": [3], "data_offsets": [48, 51]}}).encode()
    Path("emb.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(51))
    refused(
        Features("emb.safetensors"),
        DataError,
        "`dataset.path` must be a complete file, and emb.safetensors could not be read: ",
        ...,
    )


X, Y = numbers().numpy(), labels()

BAD_ARRAYS: list[tuple[dict[str, Any], dict[str, str], str]] = [
    (
        {"a": X, "b": Y},
        {},
        "`dataset.features` must name one of a, b [in emb.npz], got None. Set dataset.features=NAME.",
    ),
    (
        {"x": X, "data": X, "y": Y},
        {},
        "`dataset.features` must name one of x, data, y [in emb.npz], got None. Set dataset.features=NAME.",
    ),
    (
        {"x": X, "classes": Y},
        {},
        "`dataset.labels` must name one of x, classes [in emb.npz], got None. Set dataset.labels=NAME.",
    ),
    (
        {"x": X, "classes": Y},
        {"labels": "clases"},
        "`dataset.labels` must name one of x, classes [in emb.npz], got 'clases'. Did you mean classes?",
    ),
    (
        {"x": X, "y": Y},
        {"weight": "w"},
        "`dataset.weight` must name one of x, y [in emb.npz], got 'w'.",
    ),
    (
        {"x": X, "y": Y[:9]},
        {},
        "`dataset.labels=y` must have a value for each of the 12 rows of x, got 9 [in emb.npz]. "
        "Save both from the same rows.",
    ),
    (
        {"x": X, "y": Y, "g": Y[:9]},
        {"group": "g"},
        "`dataset.split.group=g` must have a value for each of the 12 rows of x, got 9 [in emb.npz]. "
        "Save both from the same rows.",
    ),
    (
        {"x": X[:, 0], "y": Y},
        {},
        "`dataset.features=x` must have two axes, rows and features, got shape (12,) [in emb.npz]. "
        "A single feature is a matrix of one column: reshape(-1, 1).",
    ),
    (
        {"x": X.reshape(12, 2, 2), "y": Y},
        {},
        "`dataset.features=x` must have two axes, rows and features, got shape (12, 2, 2) [in emb.npz]. "
        "Flatten the other axes, or average over them, before saving.",
    ),
    ({"x": X[:0], "y": Y[:0]}, {}, "`dataset.features=x` must have rows and features, got shape (0, 4) [in emb.npz]."),
    ({"x": X[:, :0], "y": Y}, {}, "`dataset.features=x` must have rows and features, got shape (12, 0) [in emb.npz]."),
    ({"x": X.astype(complex), "y": Y}, {}, "`dataset.features=x` must hold numbers, got complex128 [in emb.npz]."),
    ({"x": X.astype(str), "y": Y}, {}, "`dataset.features=x` must hold numbers, got <U32 [in emb.npz]."),
    (
        {"x": X.astype("f2").view("V2"), "y": Y},
        {},
        "`dataset.features=x` must hold numbers, got |V2 [in emb.npz]. "
        "NumPy has no bfloat16: keep it in a .safetensors file.",
    ),
    (
        {"x": X, "y": np.eye(3)[Y]},
        {},
        "`y` must have one axis, a value for each row, got shape (12, 3) [in emb.npz].",
    ),
    (
        {"x": X, "y": Y, "w": np.where(Y == 2, -1.5, 1)},
        {"weight": "w"},
        "`dataset.weight=w` must hold finite numbers >= 0, got -1.5 in row 2 [in emb.npz].",
    ),
    (
        {"x": X, "y": Y, "w": np.where(Y == 1, np.inf, 1)},
        {"weight": "w"},
        "`dataset.weight=w` must hold finite numbers >= 0, got inf in row 1 [in emb.npz].",
    ),
    (
        {"x": X, "y": Y, "w": Y.astype(str)},
        {"weight": "w"},
        "`dataset.weight=w` must hold numbers >= 0, got text [in emb.npz].",
    ),
    (
        {"x": X, "y": Y, "g": np.where(Y == 1, np.nan, 1)},
        {"group": "g"},
        "`dataset.split.group=g` must have a value in every row, got none in row 1 [in emb.npz]. "
        "Give a row without a group its own group.",
    ),
    (
        {"x": X, "y": np.full(12, np.nan)},
        {},
        "`dataset.labels=y` must hold labels, got none [in emb.npz].",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "typed", "message"), BAD_ARRAYS)
def test_arrays_that_break_a_constraint_are_named(
    here: Path, arrays: dict[str, Any], typed: dict[str, str], message: str
) -> None:
    kind = ConfigError if "must name" in message else DataError
    refused(Features(write_npz(**arrays), **typed), kind, message)


def test_labels_that_are_not_classes_are_refused_by_name(here: Path) -> None:
    path = write_npz(x=X, y=Y / 2)
    refused(
        Features(path),
        DataError,
        "`dataset.labels=y` must hold classes, got numbers that are not whole, such as 0.5.",
        ...,
    )


def lists(*rows: Any, kind: pa.DataType | None = None) -> dict[str, Any]:
    return {"x": pa.array(rows, pa.list_(kind or pa.float32())), "y": np.arange(len(rows)) % 2}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            lists([1, 2], [3, 4], [5], [6, 7, 8]),
            "`dataset.features=x` must have lists of the same length, 2 in row 0, got 1 in row 2 [in emb.parquet].",
        ),
        (
            lists(*[[1, 2]] * LIST_BATCH_ROWS, [1, 2], [1, 2, 3]),
            f"`dataset.features=x` must have lists of the same length, 2 in row 0, got 3 in row {LIST_BATCH_ROWS + 1} "
            "[in emb.parquet].",
        ),
        (
            lists([1, 2], None, [5, 6]),
            "`dataset.features=x` must have a list in every row, got none in row 1 [in emb.parquet].",
        ),
        (
            lists([1, 2], [3, None], [5, 6]),
            "`dataset.features=x` must have lists without missing values, got one in row 1 [in emb.parquet].",
        ),
        (
            lists(["a"], ["b"], kind=pa.string()),
            "`dataset.features=x` must hold lists of numbers, got lists of string [in emb.parquet].",
        ),
        (lists(), "`dataset.features=x` must have rows and features, got shape (0, 0) [in emb.parquet]."),
        (lists([], []), "`dataset.features=x` must have rows and features, got shape (2, 0) [in emb.parquet]."),
        (
            {"a": [1.0, 2.0], "y": [0, 1]},
            "emb.parquet must have a column of lists, got a, y. "
            "A table with a column per feature is read by dataset=table.",
        ),
    ],
)
def test_lists_that_do_not_form_a_matrix_are_named(here: Path, columns: dict[str, Any], message: str) -> None:
    refused(Features(write_parquet(**columns)), DataError, message)


def test_only_columns_of_single_values_are_offered_as_labels(here: Path) -> None:
    path = write_parquet(x=list(X[:3]), tokens=[[1], [2], [3]], id=[1, 2, 3])
    refused(
        Features(path),
        ConfigError,
        "`dataset.labels` must name one of id [in emb.parquet], got None. Set dataset.labels=NAME.",
    )


def test_two_columns_of_one_name_are_refused(here: Path) -> None:
    one = pa.array([[1.0], [2.0]])
    pq.write_table(pa.Table.from_arrays([one, one, pa.array([0, 1])], ["x", "x", "y"]), "emb.parquet")
    refused(
        Features("emb.parquet"),
        DataError,
        "emb.parquet must have columns of different names, got 'x' twice. Rename one.",
    )


def test_missing_weights_and_groups_in_a_table_are_named(here: Path) -> None:
    path = write_parquet(x=list(X[:3]), y=[0, 1, 0], w=[1, None, 1], g=["a", "b", None])
    refused(
        Features(path, weight="w"),
        DataError,
        "`dataset.weight=w` must hold finite numbers >= 0, got nan in row 1 [in emb.parquet].",
    )
    refused(
        Features(path, group="g"),
        DataError,
        "`dataset.split.group=g` must have a value in every row, got none in row 2",
        ...,
    )


def test_tensors_of_other_types_are_refused(here: Path) -> None:
    path = write_safetensors("e.safetensors", {"x": numbers().to(torch.complex64), "y": torch.from_numpy(Y)})
    refused(
        Features(path),
        DataError,
        "`x` must hold numbers, got complex64 [in e.safetensors]. Save it as float32.",
    )


def test_files_that_do_not_fit_each_other_are_named(here: Path) -> None:
    write_npz("train.npz", x=X, y=Y)
    write_npz("wide.npz", x=np.hstack([X, X]), y=Y)
    write_npz("words.npz", x=X, y=Y.astype(str))
    refused(
        Features(train_path="train.npz", test_path="wide.npz"),
        DataError,
        "`dataset.test_path` must have the 4 features of `dataset.train_path`, got 8 [in wide.npz]. "
        "Make both with the same model.",
    )
    refused(
        Features(train_path="train.npz", test_path="words.npz"),
        DataError,
        "`dataset.labels=y` must have one type in all files, got numbers in train, text in test. Fix the files.",
    )


def test_a_zip_archive_without_arrays_is_refused(here: Path) -> None:
    with zipfile.ZipFile("emb.npz", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    refused(
        Features("emb.npz"),
        ConfigError,
        "`dataset.features` must name an array [in emb.npz], and the file has none for this purpose. Save one into it.",
    )
