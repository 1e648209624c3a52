"""Times the second start on a folder of images, which reads the cache, against the first start, which fills it.

Two cases: pixels at dataset.size=32, and frozen features of an untrained resnet18 (as slow as a trained one).  The
figures are seconds of a new process, from the DataModule's setup to rows that are ready to train on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from common import Target, alternate, new_parser, positive, print_ratios, print_versions

SETUP = """
import json, sys, time
import torch
from logreg.data import TensorDataModule, build_dataset, build_frozen_features

arguments, backbone = json.loads(sys.argv[1])
images = build_dataset("image_folder", arguments)
if backbone:
    images = build_frozen_features(images, backbone, torch.device("cpu"))
data = TensorDataModule(images, split={"val": 0.2, "test": 0.2})
start = time.perf_counter()
data.setup()
print(time.perf_counter() - start)
"""
"""A start on images, up to the point at which training would begin; prints its seconds."""

BACKBONE = {"name": "resnet18", "weights": "none", "batch_size": 64}

IMAGE_SIZE = (500, 375)
"""Width and height in pixels, which are typical of ImageNet's photographs."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints two tables; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__)
    parser.add_argument("--image-folder", type=Path, metavar="DIR", help="a folder per class (default: made-up images)")
    parser.add_argument("--images", type=positive, default=1000, metavar="N", help="made-up images (default: 1000)")
    arguments = parser.parse_args(typed)
    print_versions()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.image_folder or Path(scratch, "images")
        if not arguments.image_folder:
            write_images(folder, arguments.images)
        what = "images of --image-folder" if arguments.image_folder else f"{arguments.images:,} made-up photographs"
        cases: dict[str, tuple[Mapping[str, object] | None, int]] = {
            "pixels, dataset.size=32": (None, arguments.repeats),
            "backbone=resnet18 backbone.weights=none": (BACKBONE, 1),  # once: the first start takes minutes
        }
        for name, (backbone, repeats) in cases.items():
            cache = Path(scratch, f"cache-{len(name)}")
            arms = {
                # The turn that does not count fills its cache.
                "second start": partial(setup_seconds, folder.resolve(), cache, backbone),
                "first start": partial(first_setup_seconds, folder.resolve(), backbone),
            }
            print_ratios(
                f"image_cache: seconds until {what} are ready, {name}",
                alternate(arms, repeats),
                {"first start": Target(1 / 20)},
            )
    return 0


def write_images(folder: Path, count: int) -> None:
    """Writes JPEG files from a seed into ten folders: smooth images with some grain, as photographs have."""
    draw = np.random.default_rng(0)
    width, height = IMAGE_SIZE
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(IMAGE_SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        grain = draw.integers(-8, 9, (height, width, 3), dtype=np.int16)
        place = folder / f"class {number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = (smooth + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number:05}.jpg", quality=90)


def setup_seconds(folder: Path, cache: Path, backbone: Mapping[str, object] | None) -> list[float]:
    """Seconds of a start on a folder of images with its cache in ``cache``, as a list of one."""
    arguments = {"path": str(folder), "size": 32, "cache": str(cache)}
    command = [sys.executable, "-c", SETUP, json.dumps([arguments, backbone])]
    return [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])]


def first_setup_seconds(folder: Path, backbone: Mapping[str, object] | None) -> list[float]:
    """Seconds of a start with an empty cache, as a list of one."""
    with tempfile.TemporaryDirectory() as cache:
        return setup_seconds(folder, Path(cache), backbone)


if __name__ == "__main__":
    sys.exit(main())
