"""Times a training epoch on MNIST: 54,000 rows in batches of 128, with validation on 6,000 rows.

Ours is the mean over a fit of 20 epochs: its logging, checkpoints and certificates are included.  It is compared with
  - a hand-written PyTorch loop over tensors in memory,
  - a LightningModule with one training_step and one self.log a batch, fed from the same tensors, and
  - the hand-written loop fed by a DataLoader that converts image after image, as tutorials do.
The figures are seconds of one epoch; a ratio below 1 means that ours is faster.  A second table splits our epoch into
its parts.  Without MNIST in --mnist-root, random pixels of the same shape are used.
"""

from __future__ import annotations

import statistics
import struct
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from common import (
    Target,
    add_mnist_root,
    alternate,
    has_mnist,
    new_parser,
    print_ratios,
    print_row,
    print_versions,
    silence_lightning,
)
from training_loops import BATCH_SIZE, LR, HandWritten, OurRun, PerImage, PlainLightning, Rows, composed

RUN = ("dataset=mnist", f"batch_size={BATCH_SIZE}", f"lr={LR}")
"""Arguments of scripts/train.py."""

MOST_SLOW_REPEATS = 3
"""Repeats that include the DataLoader: its epoch takes as long as many epochs of the others."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__)
    add_mnist_root(parser)
    arguments = parser.parse_args(typed)
    print_versions()
    silence_lightning()
    with tempfile.TemporaryDirectory() as scratch:
        root = true_or_random_mnist(arguments.mnist_root, Path(scratch))
        compare(root, Path(scratch), arguments.repeats)
    return 0


def compare(root: Path, scratch: Path, repeats: int) -> None:
    """Prints both tables for the MNIST in ``root``."""
    rows = Rows.of_mnist(root)
    ours = OurRun(composed(RUN, root=str(root)), scratch / "runs")
    per_image = PerImage(root, rows)
    arms: dict[str, Callable[[], list[float]]] = {
        "ours": ours.epochs,
        "hand-written loop": HandWritten(rows).epochs,
        "Lightning, a step per batch": PlainLightning(rows, scratch / "lightning").epochs,
    }
    slow = {"torchvision, image by image": per_image.epochs}
    seconds = dict(alternate(arms | slow, min(repeats, MOST_SLOW_REPEATS)))
    if repeats > MOST_SLOW_REPEATS:
        for name, taken in alternate(arms, repeats - MOST_SLOW_REPEATS).items():
            seconds[name] = [*seconds[name], *taken]
    print_ratios(
        f"mnist: seconds of an epoch, {rows.counts}, batches of {BATCH_SIZE}, ours with all that a run does",
        seconds,
        {
            "hand-written loop": Target(0.75),
            "torchvision, image by image": Target(0.1),
        },
    )
    print_parts(ours.parts(repeats), statistics.median(seconds["ours"]))


def print_parts(parts: Mapping[str, float], epoch: float) -> None:
    """Prints the parts of our epoch; the rest was not timed alone."""
    print("\nour epoch, part by part (each timed alone)")
    print_row("", "median", share="of epoch")
    for name, median in {**parts, "the rest": epoch - sum(parts.values())}.items():
        print_row(name, f"{median:.4f}", share=f"{median / epoch:.0%}")


def true_or_random_mnist(root: Path, scratch: Path) -> Path:
    """The root if MNIST lies there; else one in ``scratch`` with random pixels, and a line that says so."""
    if has_mnist(root):
        return root
    print(f"\nNo MNIST in {root}: timed with random pixels of the same shape.")
    write_random_mnist(scratch / "data" / "MNIST" / "raw")
    return scratch / "data"


def write_random_mnist(folder: Path) -> None:
    """Writes files in MNIST's format, with its names and shapes; four pixels in five are black."""
    folder.mkdir(parents=True)
    for split, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = torch.randint(-1020, 256, (count, 28, 28), dtype=torch.int16).clamp_(min=0).to(torch.uint8)
        labels = torch.randint(0, 10, (count,), dtype=torch.uint8)
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            # The format: two zeros, 8 for bytes, the number of axes; their lengths; the values.
            header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{split}-{kind}-ubyte").write_bytes(header + values.numpy().tobytes())


if __name__ == "__main__":
    sys.exit(main())
