"""Writes a few made-up images in the true file formats of torchvision's datasets."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHAPES = {"usps": (16, 16), "svhn": (3, 32, 32), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "stl10": (3, 96, 96)}
"""Of the datasets whose images are not 28 x 28."""

FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"}


def write_fake_mnist(
    root: Path, folder: str = "MNIST", train: int = 200, test: int = 50, gzipped: bool = False
) -> None:
    """Class k is a noisy picture with a bright row k, so that a linear model can learn it.

    Args:
        root: What ``dataset.root`` shall be.
        folder: "MNIST", "FashionMNIST" or "KMNIST".
        train: Rows of the train split.
        test: Rows of the test split.
        gzipped: Whether the files are as downloaded, rather than as unpacked.
    """
    draw = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = draw.integers(0, 100, (count, 28, 28), dtype=np.uint8)
        images[np.arange(count), labels * 2] = 255
        for kind, values in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            _write(root / folder / "raw" / f"{prefix}-{kind}", _idx(values), gzipped)


def _write(path: Path, data: bytes, gzipped: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if gzipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data, 1))
    else:
        path.write_bytes(data)


def _idx(values: NDArray[Any]) -> bytes:
    """The IDX format: a type, the shape, the values, all with their largest byte first."""
    kind = {"uint8": 8, "int32": 12}[values.dtype.name]
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
        + values.astype(values.dtype.newbyteorder(">")).tobytes()
    )


Split = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images of shape (N, H, W) or (N, 3, H, W); labels of shape (N,)."""


def write_fake(
    name: str, root: Path, classes: int = 10, variant: str = "balanced", packed: bool = False
) -> dict[str, Split]:
    """Noise under any of the ten names, and what was written.

    Args:
        name: As a user selects it.
        root: What ``dataset.root`` shall be.
        classes: How many there are.
        variant: Of emnist.
        packed: Whether the files are as downloaded, rather than as unpacked.
    """
    draw = np.random.default_rng(1)
    splits = {
        split: (
            draw.integers(0, 256, (count, *SHAPES.get(name, (28, 28))), dtype=np.uint8),
            draw.permutation(np.arange(count) % classes),
        )
        for split, count in (("train", 2 * classes), ("test", classes))
    }
    files: dict[str, bytes] = {}
    for split, (images, labels) in splits.items():
        if name == "usps":
            # The reader cuts fractions off, so half a step is added.
            rows = (images.reshape(len(images), -1) + 0.5) / 255 * 2 - 1
            text = "".join(
                f"{label + 1} {' '.join(f'{place}:{value:.6f}' for place, value in enumerate(row, 1))}\n"
                for label, row in zip(labels, rows, strict=True)
            )
            files[{"train": "usps.bz2", "test": "usps.t.bz2"}[split]] = bz2.compress(text.encode())
        elif name == "svhn":
            import scipy.io

            file = io.BytesIO()
            y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
            scipy.io.savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": y}, do_compression=True)
            files[f"{split}_32x32.mat"] = file.getvalue()
        elif name == "cifar10":
            parts = np.array_split(np.arange(len(images)), 5) if split == "train" else [np.arange(len(images))]
            for number, rows_of in enumerate(parts, 1):
                batch = f"data_batch_{number}" if split == "train" else "test_batch"
                content = {"data": images[rows_of].reshape(len(rows_of), -1), "labels": labels[rows_of].tolist()}
                files[f"cifar-10-batches-py/{batch}"] = pickle.dumps(content)
            files["cifar-10-batches-py/batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
        elif name == "cifar100":
            content = {"data": images.reshape(len(images), -1), "fine_labels": labels.tolist()}
            files[f"cifar-100-python/{split}"] = pickle.dumps(content)
            files["cifar-100-python/meta"] = pickle.dumps({"fine_label_names": list("abcdefghij")})
        elif name == "stl10":  # column by column, classes from 1
            files[f"stl10_binary/{split}_X.bin"] = images.transpose(0, 1, 3, 2).tobytes()
            files[f"stl10_binary/{split}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()
            files["stl10_binary/unlabeled_X.bin"] = b""
        elif name == "emnist":  # column by column, letters from 1
            first = int(variant == "letters")
            raw = f"EMNIST/raw/emnist-{variant}-{split}"
            files[f"{raw}-images-idx3-ubyte"] = _idx(images.transpose(0, 2, 1))
            files[f"{raw}-labels-idx1-ubyte"] = _idx((labels + first).astype(np.uint8))
        elif name == "qmnist":  # the class, and seven more numbers
            more = draw.integers(0, 70000, (len(labels), 7))
            files[f"QMNIST/raw/qmnist-{split}-images-idx3-ubyte"] = _idx(images)
            files[f"QMNIST/raw/qmnist-{split}-labels-idx2-int"] = _idx(np.c_[labels, more].astype(np.int32))
        else:
            raw = f"{FOLDERS[name]}/raw/{ {'train': 'train', 'test': 't10k'}[split] }"
            files[f"{raw}-images-idx3-ubyte"] = _idx(images)
            files[f"{raw}-labels-idx1-ubyte"] = _idx(labels.astype(np.uint8))
    archive = {"cifar10": "cifar-10-python", "cifar100": "cifar-100-python", "stl10": "stl10_binary"}.get(name)
    root.mkdir(parents=True, exist_ok=True)
    if packed and archive:
        with tarfile.open(root / f"{archive}.tar.gz", "w:gz", compresslevel=1) as tar:
            for file_name, data in files.items():
                member = tarfile.TarInfo(file_name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    elif packed and name == "emnist":
        (root / "EMNIST" / "raw").mkdir(parents=True)
        with zipfile.ZipFile(root / "EMNIST" / "raw" / "gzip.zip", "w") as zipped:
            for file_name, data in files.items():
                zipped.writestr(f"gzip/{Path(file_name).name}.gz", gzip.compress(data, 1))
    else:
        for file_name, data in files.items():
            _write(root / file_name, data, gzipped=packed and file_name.split("-")[-1] in ("ubyte", "int"))
    return splits


def md5s_of(root: Path) -> dict[str, str]:
    """The checksum of each file below a folder, by name."""
    return {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in root.rglob("*") if file.is_file()}
