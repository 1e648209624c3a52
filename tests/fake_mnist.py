"""Writes a few made-up images in MNIST's true file format (IDX, gzip'd as it is distributed)."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np


def write_fake_mnist(
    root: Path, folder: str = "MNIST", train: int = 200, test: int = 50, gzipped: bool = False
) -> None:
    """Class k is a noisy picture with a bright row k, so that a linear model can learn it.

    Args:
        root: What ``dataset.root`` shall be.
        folder: "MNIST" or "FashionMNIST".
        train: Rows of the train split.
        test: Rows of the test split.
        gzipped: Whether the files are as downloaded, rather than as unpacked.
    """
    draw = np.random.default_rng(0)
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = draw.integers(0, 100, (count, 28, 28), dtype=np.uint8)
        images[np.arange(count), labels * 2] = 255
        for kind, header, content in (
            ("images-idx3-ubyte", struct.pack(">IIII", 2051, count, 28, 28), images),
            ("labels-idx1-ubyte", struct.pack(">II", 2049, count), labels),
        ):
            data = header + content.tobytes()
            name = f"{prefix}-{kind}"
            if gzipped:
                (raw / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (raw / name).write_bytes(data)
