"""Measures logreg against what a user would write instead: `python scripts/benchmark.py [door] [table] ...`.

Machines differ and are noisy, so what counts is a ratio of medians, with the two things compared
taking turns.  `--help` says the rest; README.md quotes the tables.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark_tools import Target, alternate, print_ratios, print_row, process_peak, spread, timed

if TYPE_CHECKING:
    import lightning.pytorch as pl
    import numpy as np
    import pyarrow as pa
    from torch import Tensor

    from logreg.config import RunConfig
    from logreg.data import TensorDataModule
    from logreg.facts import Batch
    from logreg.training.module import LogisticModule

TRAIN = str(Path(__file__).with_name("train.py").resolve())

BATCH_SIZE = 128
LR = 0.1

PLAIN_TOY = """
import torch
from torch import nn

hours = torch.tensor([[1.0], [2.0], [3.0]])
passed = torch.tensor([[0.0], [0.0], [1.0]])

model = nn.Linear(1, 1)
cost = nn.BCEWithLogitsLoss(reduction="sum")
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for epoch in range(1000):
    optimizer.zero_grad()
    loss = cost(model(hours), passed)
    loss.backward()
    optimizer.step()
    if (epoch + 1) % 200 == 0:
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

with torch.no_grad():
    print(torch.sigmoid(model(torch.tensor([[4.0]]))).item())
"""
"""The tutorials' own script: three students, no logs, no checkpoints, no picture."""

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
"""As slow as with weights that somebody trained."""

IMAGES = 1000
IMAGE_SIZE = (500, 375)
"""Width and height in pixels, as photographs have them in ImageNet."""

TABLE_ROWS = 1_000_000
TABLE_COLUMNS = 30

MATRIX_SHAPE = (1_000_000, 768)
MATRIX_GIB = 8
"""What a run on a matrix of this shape in float16, 1.4 GiB, may occupy at most."""

WIDE_BATCH_SIZE = 1024


def main() -> int:
    """Runs the parts that were asked for.

    Returns:
        Exit code: 0 done, whatever the numbers say; 2 there is no such part.
    """
    parser = argparse.ArgumentParser(description="Measures logreg against what a user would write instead.")
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all but solvers and predict if none is named"
    )
    parser.add_argument("--repeats", type=int, help="times each thing is timed (default: 5; solvers: 3)")
    parser.add_argument(
        "--mnist-root", type=Path, default=Path("data"), help="the folder that has MNIST/raw (default: data)"
    )
    parser.add_argument("--image-folder", type=Path, help="images for cache, a folder per class (default: made up)")
    parser.add_argument(
        "--problem", action="append", metavar="NAME", help="solvers: one of its problems; give it again for more"
    )
    parser.add_argument("--ours-alone", action="store_true", help="solvers: leaves scikit-learn out")
    parser.add_argument(
        "--gap",
        action="append",
        type=float,
        metavar="GAP",
        help="solvers: a relative gap to reach, such as 1e-5; again for more",
    )
    parser.add_argument("--device", default="cpu", help="solvers: cuda times ours alone there (default: cpu)")
    arguments = parser.parse_args()
    for part in arguments.parts:
        if part not in PARTS:
            parser.exit(2, f"`part` must be one of {', '.join(PARTS)}, got {part!r}.\n")
    if arguments.repeats is not None and arguments.repeats < 1:
        parser.exit(2, f"`--repeats` must be at least 1, got {arguments.repeats}.\n")
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "lightning", "scikit-learn"))
    print(f"python {platform.python_version()}, {versions}; {os.cpu_count()} cores", flush=True)
    for part in arguments.parts or [part for part in PARTS if part not in LONG]:
        repeats = arguments.repeats or LONG.get(part, 5)
        PARTS[part](argparse.Namespace(**{**vars(arguments), "repeats": repeats}))
    return 0


def door(arguments: argparse.Namespace) -> None:
    """Times what must be answered at once, as whole processes."""
    seconds = alternate(
        {
            "--help": lambda: process_seconds([TRAIN, "--help"]),
            "--cfg job": lambda: process_seconds([TRAIN, "--cfg", "job"]),
            "lrr=0.1 (mistyped)": lambda: process_seconds([TRAIN, "lrr=0.1"], exit_code=2),
        },
        arguments.repeats,
    )
    print("\ndoor: seconds of a whole process")
    print_row("", "median", "min", "max", "", "target")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print_row(name, *spread(taken), "", "<= 1 s", "met" if median <= 1 else "not met")


def toy(arguments: argparse.Namespace) -> None:
    """Times the default run, as a whole process."""
    seconds = alternate(
        {
            "ours": lambda: process_seconds([TRAIN]),
            "import lightning, torchvision": lambda: process_seconds(["-c", "import lightning.pytorch, torchvision"]),
            "the tutorial's plain script": lambda: process_seconds(["-c", PLAIN_TOY]),
        },
        arguments.repeats,
    )
    print_ratios(
        "toy: seconds of a whole process; 1000 epochs, TensorBoard, checkpoints, picture",
        seconds,
        {"import lightning, torchvision": Target(1.45)},
    )


def mnist(arguments: argparse.Namespace) -> None:
    """Times an epoch of 54,000 rows in batches of 128, validation and logging included."""
    quieten()
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.mnist_root
        if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
            print(f"\nNo MNIST in {root}: timed with random pixels of the same shape.")
            root = Path(scratch, "data")
            write_random_mnist(root / "MNIST" / "raw")
        rows = Rows.of_mnist(root)
        ours = OurRun(composed(MNIST_RUN, root=str(root)), Path(scratch, "runs"))
        per_image = PerImage(root, rows)
        arms: dict[str, Callable[[], list[float]]] = {
            "ours": ours.epochs,
            "hand-written loop": HandWritten(rows).epochs,
            "Lightning, a step per batch": PlainLightning(rows, Path(scratch, "lightning")).epochs,
        }
        # A single epoch of it takes as long as many of the others.
        slow = {"torchvision, image by image": per_image.epochs}
        repeats: int = arguments.repeats
        seconds = dict(alternate(arms | slow, min(repeats, 3)))
        if repeats > 3:
            for name, taken in alternate(arms, repeats - 3).items():
                seconds[name] = [*seconds[name], *taken]
        print_ratios(
            f"mnist: seconds of an epoch, {rows.counts}, batches of {BATCH_SIZE}, with validation and logging",
            seconds,
            {
                "hand-written loop": Target(1.15, "aim 0.75"),
                "torchvision, image by image": Target(0.1),
            },
        )
        print_parts(ours.parts(repeats), statistics.median(seconds["ours"]))


def table(arguments: argparse.Namespace) -> None:
    """Times reading, splitting and encoding a table, in this process."""
    quieten()
    targets = {".parquet": Target(1.5), ".csv": Target(1.2)}
    bare = {"numbers": bare_matrix, "numbers, text and booleans": bare_columns}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, bare_read in bare.items():
            for suffix, target in targets.items():
                path = Path(scratch, f"table{suffix}")
                write_table(path, with_text=bare_read is bare_columns)
                reference = f"pyarrow to {'a matrix' if bare_read is bare_matrix else 'NumPy arrays'}"
                seconds = alternate(
                    {
                        "ours": partial(timed, partial(set_up_table, path)),
                        reference: partial(timed, partial(bare_read, path)),
                    },
                    arguments.repeats,
                )
                path.unlink()
                print_ratios(
                    f"table: seconds to read, split and encode {suffix}, {TABLE_ROWS:,} x {TABLE_COLUMNS} ({kind})",
                    seconds,
                    {reference: target},
                )


def epoch(arguments: argparse.Namespace) -> None:
    """Times an epoch of a table in memory, validation and logging included."""
    quieten()
    with tempfile.TemporaryDirectory() as scratch:
        ours = OurRun(composed(WIDE_RUN), Path(scratch, "runs"))
        rows = Rows.of_blobs(ours)
        arms = {"ours": ours.epochs, "hand-written loop": HandWritten(rows, WIDE_BATCH_SIZE).epochs}
        print_ratios(
            f"epoch: seconds of an epoch, {rows.counts} of {rows.features.shape[1]} features, batches of "
            f"{WIDE_BATCH_SIZE}, with validation and logging",
            alternate(arms, arguments.repeats),
            {"hand-written loop": Target(1.5)},
        )


def cache(arguments: argparse.Namespace) -> None:
    """Times the second start on images against the first, each in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.image_folder or Path(scratch, "images")
        if not arguments.image_folder:
            write_images(folder)
        what = "images of --image-folder" if arguments.image_folder else f"{IMAGES:,} made-up photographs"
        backbones: dict[str, tuple[Mapping[str, object] | None, int]] = {
            "pixels, dataset.size=32": (None, arguments.repeats),
            "backbone=resnet18 backbone.weights=none": (BACKBONE, min(arguments.repeats, 1)),  # the first start is slow
        }
        for name, (backbone, repeats) in backbones.items():
            kept = Path(scratch, f"kept-{len(name)}")
            arms = {
                # The turn that does not count fills its cache.
                "second start": partial(setup_seconds, folder.resolve(), kept, backbone),
                "first start": partial(first_setup_seconds, folder.resolve(), backbone),
            }
            print_ratios(
                f"cache: seconds until {what} are ready, {name}",
                alternate(arms, repeats),
                {"first start": Target(1 / 20)},
            )


def features(arguments: argparse.Namespace) -> None:
    """Takes the time and the memory of a run of one epoch on a large matrix, as a whole process."""
    rows, width = MATRIX_SHAPE
    print(f"\nfeatures: a run of one epoch on {rows:,} x {width} in float16, as a whole process")
    print_row("", "seconds", "peak GiB", "", "", "target")
    with tempfile.TemporaryDirectory() as folder:
        matrix, labels = make_matrix(Path(folder))
        for suffix, write in MATRIX_WRITERS.items():
            path = Path(folder, f"matrix{suffix}")
            write(path, matrix, labels)
            named = str(path) if path.exists() else f"[{folder}/features.npy,{folder}/labels.npy]"
            run = [TRAIN, "dataset=features", f"dataset.path={named}", "max_epochs=1", "accelerator=cpu"]
            seconds, peak = process_peak(run)
            path.unlink(missing_ok=True)
            verdict = "met" if peak <= MATRIX_GIB else "not met"
            print_row(suffix, f"{seconds:.1f}", f"{peak:.2f}", "", "", f"<= {MATRIX_GIB}", verdict)


def predict(arguments: argparse.Namespace) -> None:
    """Runs ten million rows through scripts/predict.py, and blocks from memory through its model."""
    import benchmark_predict

    benchmark_predict.run(arguments)


def solvers(arguments: argparse.Namespace) -> None:
    """Times the way to the optimum, against scikit-learn's solvers; takes an hour and more."""
    import benchmark_solvers

    benchmark_solvers.run(arguments)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "door": door,
    "toy": toy,
    "mnist": mnist,
    "table": table,
    "epoch": epoch,
    "cache": cache,
    "features": features,
    "predict": predict,
    "solvers": solvers,
}
"""The parts by the names a user types."""

LONG = {"solvers": 3, "predict": 5}
"""Parts that run only when named, and how often they time a thing."""


def process_seconds(arguments: Sequence[str], exit_code: int = 0) -> list[float]:
    """Wall seconds of a Python process in an empty folder, as a list of one.

    Args:
        arguments: What follows ``python``.
        exit_code: What the process must leave with.

    Raises:
        RuntimeError: It left with another one.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode != exit_code:
        raise RuntimeError(f"python {' '.join(arguments)} left with {done.returncode}:\n{done.stderr}")
    return [seconds]


def print_parts(parts: Mapping[str, float], epoch: float) -> None:
    """Prints what our epoch is made of; the rest is what was not timed alone."""
    print("\nour epoch, part by part (each timed alone)")
    print_row("", "median", share="of epoch")
    for name, median in {**parts, "the rest": epoch - sum(parts.values())}.items():
        print_row(name, f"{median:.4f}", share=f"{median / epoch:.0%}")


def quieten() -> None:
    """Silences what Lightning says about fits that are made to be short."""
    from logreg.training.fast_import import import_lightning

    warnings.filterwarnings("ignore")
    import_lightning()
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def write_random_mnist(folder: Path) -> None:
    """Writes files as MNIST has them: the same names, format and shapes; one pixel in five is not black."""
    import torch

    folder.mkdir(parents=True)
    for split, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = torch.randint(-1020, 256, (count, 28, 28), dtype=torch.int16).clamp_(min=0).to(torch.uint8)
        labels = torch.randint(0, 10, (count,), dtype=torch.uint8)
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            # The format: two zeros, 8 for bytes, the number of axes; their lengths; the values.
            header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{split}-{kind}-ubyte").write_bytes(header + values.numpy().tobytes())


def write_table(path: Path, with_text: bool) -> None:
    """Writes a table from a seed: numbers and a target; with text and booleans in ten columns, if asked for."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    draw = np.random.default_rng(0)
    columns: dict[str, object] = {}
    for number in range(TABLE_COLUMNS - 1):
        if with_text and number % 4 == 1:
            words = np.array([f"level {level}" for level in range(2 + number // 2)])
            columns[f"text{number}"] = words[draw.integers(0, len(words), TABLE_ROWS)]
        elif with_text and number % 8 == 2:
            columns[f"flag{number}"] = draw.random(TABLE_ROWS) < 0.3
        else:
            columns[f"number{number}"] = draw.standard_normal(TABLE_ROWS).round(6)
    columns["target"] = draw.integers(0, 2, TABLE_ROWS)
    write = pyarrow.csv.write_csv if path.suffix == ".csv" else pyarrow.parquet.write_table
    write(pa.table(columns), str(path))


def set_up_table(path: Path) -> None:
    """Ours: from a file to splits that are ready to train on."""
    from logreg.data import TensorDataModule, build_dataset

    data = TensorDataModule(
        build_dataset("table", {"path": str(path), "target": "target"}), split={"val": 0.2, "test": 0.2}
    )
    data.setup()


def bare_read(path: Path) -> pa.Table:
    """The file as pyarrow reads it, when asked for nothing."""
    import pyarrow.csv
    import pyarrow.parquet

    return pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)


def bare_matrix(path: Path) -> None:
    """The reference for numbers: one matrix, with the target in it."""
    import numpy as np

    np.column_stack([column.to_numpy() for column in bare_read(path).columns])


def bare_columns(path: Path) -> None:
    """The reference where there is text: an array for each column, as it is."""
    for column in bare_read(path).columns:
        column.to_numpy()


def write_images(folder: Path) -> None:
    """Writes JPEG files from a seed, in ten folders: smooth pictures with some grain, as photographs are."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    width, height = IMAGE_SIZE
    for number in range(IMAGES):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(IMAGE_SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        grain = draw.integers(-8, 9, (height, width, 3), dtype=np.int16)
        place = folder / f"class {number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = (smooth + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number:05}.jpg", quality=90)


def setup_seconds(folder: Path, kept: Path, backbone: Mapping[str, object] | None) -> list[float]:
    """Seconds of a start on a folder of images that keeps what it decodes in ``kept``, as a list of one."""
    arguments = {"path": str(folder), "size": 32, "cache": str(kept)}
    command = [sys.executable, "-c", SETUP, json.dumps([arguments, backbone])]
    return [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])]


def first_setup_seconds(folder: Path, backbone: Mapping[str, object] | None) -> list[float]:
    """The same with nothing kept."""
    with tempfile.TemporaryDirectory() as kept:
        return setup_seconds(folder, Path(kept), backbone)


def make_matrix(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels from a seed, mapped from features.npy and labels.npy in the folder."""
    import numpy as np

    rows, width = MATRIX_SHAPE
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, rows)
    np.save(folder / "labels.npy", labels)
    centres = draw.standard_normal((10, width), dtype=np.float32) / 10
    matrix = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, MATRIX_SHAPE)
    for start in range(0, rows, 10_000):
        some = labels[start : start + 10_000]
        matrix[start : start + len(some)] = draw.standard_normal((len(some), width), dtype=np.float32) + centres[some]
    matrix.flush()
    return matrix, labels


def write_nothing(path: Path, matrix: np.ndarray, labels: np.ndarray) -> None:
    """The .npy files are there already."""


def write_npz(path: Path, matrix: np.ndarray, labels: np.ndarray) -> None:
    """As NumPy does, unpacked."""
    import numpy as np

    np.savez(path, features=matrix, labels=labels)


def write_safetensors(path: Path, matrix: np.ndarray, labels: np.ndarray) -> None:
    """As the package of that name does."""
    from safetensors.numpy import save_file

    save_file({"features": matrix, "labels": labels}, path)


def write_parquet(path: Path, matrix: np.ndarray, labels: np.ndarray) -> None:
    """A column of lists of one length."""
    import pyarrow as pa
    import pyarrow.parquet

    lists = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    pyarrow.parquet.write_table(pa.table({"features": lists, "labels": labels}), str(path), row_group_size=50_000)


MATRIX_WRITERS = {
    ".npy": write_nothing,
    ".npz": write_npz,
    ".safetensors": write_safetensors,
    ".parquet": write_parquet,
}
"""What writes a matrix and its labels, by the suffix of the file."""


@dataclass(frozen=True)
class Rows:
    """The rows that everyone trains on, split as ours are."""

    features: Tensor
    labels: Tensor
    train: Tensor
    val: Tensor
    outputs: int
    """Of the model; 1 for two classes."""

    @classmethod
    def of_mnist(cls, root: Path) -> Rows:
        """Read by torchvision."""
        from torchvision.datasets import MNIST

        from logreg.data.splits import stratified_split

        images = MNIST(str(root), train=True)
        rows = stratified_split(images.targets, {"val": 0.1}, seed=0)
        return cls(images.data.flatten(1) / 255, images.targets, rows["train"], rows["val"], outputs=10)

    @classmethod
    def of_blobs(cls, run: OurRun) -> Rows:
        """Those of a run of ours."""
        import torch

        train, val = (list(run.data.blocks(split)) for split in ("train", "val"))
        features = torch.cat([block.features for block in (*train, *val)])
        labels = torch.cat([block.labels for block in (*train, *val)])
        numbers = torch.arange(len(labels))
        middle = run.data.facts.rows["train"]
        return cls(features, labels, numbers[:middle], numbers[middle:], outputs=1)

    @property
    def counts(self) -> str:
        """How many there are, for a title."""
        return f"{len(self.train):,} train and {len(self.val):,} val rows"


Batches = Iterable[tuple["Tensor", "Tensor"]]
"""Features and labels, batch by batch."""


class HandWritten:
    """The loop a user writes in plain PyTorch, over tensors in memory."""

    def __init__(self, rows: Rows, batch_size: int = BATCH_SIZE) -> None:
        from torch import nn, optim

        self.batch_size = batch_size
        self.train = rows.features[rows.train], rows.labels[rows.train]
        self.val = rows.features[rows.val], rows.labels[rows.val]
        self.model = nn.Linear(rows.features.shape[1], rows.outputs)
        self.optimizer = optim.SGD(self.model.parameters(), lr=LR)

    def epochs(self) -> list[float]:
        """Trains for three epochs; seconds of each."""
        return timed(lambda: hand_written_epoch(self, self.batches(), [self.val]), times=3)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled rows, one indexing operation per batch."""
        import torch

        features, labels = self.train
        for rows in torch.randperm(len(labels)).split(self.batch_size):
            yield features[rows], labels[rows]


class PerImage:
    """The same loop, fed as the tutorials do: a DataLoader that turns image after image into a tensor."""

    def __init__(self, root: Path, rows: Rows) -> None:
        from torch import nn, optim
        from torch.utils.data import DataLoader, Subset
        from torchvision.datasets import MNIST
        from torchvision.transforms import ToTensor

        images = MNIST(str(root), train=True, transform=ToTensor())
        train, val = (Subset(images, part.tolist()) for part in (rows.train, rows.val))
        self.train = DataLoader(train, BATCH_SIZE, shuffle=True, num_workers=0)
        self.val = DataLoader(val, BATCH_SIZE, num_workers=0)
        self.model = nn.Linear(784, 10)
        self.optimizer = optim.SGD(self.model.parameters(), lr=LR)

    def epochs(self) -> list[float]:
        """Trains for one epoch; its seconds."""
        return timed(lambda: hand_written_epoch(self, self.train, self.val))


def hand_written_epoch(run: HandWritten | PerImage, train: Batches, val: Batches) -> tuple[float, float, float]:
    """One epoch of plain PyTorch.

    Returns:
        Mean loss over the train batches; loss and accuracy of the val split.
    """
    import torch
    from torch.nn import functional as F

    def loss_of(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float(), reduction=reduction)
        return F.cross_entropy(logits, labels, reduction=reduction)

    def guess(logits: Tensor) -> Tensor:
        return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)

    running, steps = 0.0, 0
    for features, labels in train:
        run.optimizer.zero_grad()
        loss = loss_of(run.model(features.flatten(1)), labels)
        loss.backward()
        run.optimizer.step()
        running += loss.item()
        steps += 1
    total, hits, rows = 0.0, 0, 0
    with torch.no_grad():
        for features, labels in val:
            logits = run.model(features.flatten(1))
            total += loss_of(logits, labels, "sum").item()
            hits += int((guess(logits) == labels).sum())
            rows += len(labels)
    return running / steps, total / rows, hits / rows


class PlainLightning:
    """The LightningModule of the tutorials: a training step per batch, ``self.log`` in each."""

    def __init__(self, rows: Rows, folder: Path) -> None:
        self.fed = HandWritten(rows)
        self.folder = folder

    def epochs(self) -> list[float]:
        """Fits a new model; seconds of its steady epochs."""
        import lightning.pytorch as pl
        from lightning.pytorch.loggers import TensorBoardLogger

        clock, fed = EpochClock(), self.fed
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=4,
            logger=TensorBoardLogger(str(self.folder)),
            callbacks=[clock.callback()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        num_batches = -(-len(fed.train[1]) // BATCH_SIZE)
        trainer.fit(plain_module(), Again(fed.batches, num_batches), Again(lambda: [fed.val], 1))
        return clock.steady()


class Again:
    """Batches that can be gone through again and again, as a Trainer does."""

    def __init__(self, batches: Callable[[], Batches], count: int) -> None:
        self.batches, self.count = batches, count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches())

    def __len__(self) -> int:
        return self.count


def plain_module() -> pl.LightningModule:
    """The tutorials' LightningModule; made here, since Lightning takes seconds to import."""
    import lightning.pytorch as pl
    import torch
    from torch.nn import functional as F

    class Plain(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(784, 10)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self.linear(batch[0]), batch[1])
            self.log("loss/train", loss)
            return loss

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            logits = self.linear(batch[0])
            self.log("loss/val", F.cross_entropy(logits, batch[1]))
            self.log("accuracy/val", (logits.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    return Plain()


class OurRun:
    """Ours: data, module and Trainer as ``scripts/train.py`` builds them."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        from logreg.run.building import build_data

        self.config = config
        self.folder = folder
        self.fits = 0
        self.data: TensorDataModule = build_data(self.config)
        self.data.setup("fit")
        self.module: LogisticModule

    def epochs(self) -> list[float]:
        """Fits a new model; seconds of its steady epochs."""
        from logreg.run.building import build_module, build_trainer
        from logreg.training.checkpoints import BufferedCheckpointIO, Checkpoints
        from logreg.training.progress_display import ProgressDisplay
        from logreg.training.tracking import RunLogger

        self.fits += 1
        folder = self.folder / str(self.fits)
        self.module = build_module(self.config, self.data.facts)
        held = BufferedCheckpointIO()
        callbacks = [ProgressDisplay("benchmark"), Checkpoints(folder, held)]
        trainer = build_trainer(self.config, RunLogger(folder), held, callbacks, has_val=True)
        clock = EpochClock()
        trainer.callbacks.insert(0, clock.callback())  # type: ignore[attr-defined]  # a connector of Lightning's sets it
        with contextlib.redirect_stderr(io.StringIO()):  # five lines of progress
            trainer.fit(self.module, datamodule=self.data)
        return clock.steady()

    def parts(self, repeats: int) -> dict[str, float]:
        """Median seconds of what an epoch is made of, each part alone, after a fit."""
        blocks = list(self.data.train_dataloader())
        parts: dict[str, Callable[[], object]] = {
            "loading the train blocks": lambda: list(map(len, self.data.train_dataloader())),
            "steps in closed form": lambda: self._steps(blocks),
            "scoring the train rows": self.module.scorers["train"].compute,
            "loading and scoring val": self._validate,
        }
        seconds = alternate({name: partial(timed, part) for name, part in parts.items()}, 3 * repeats)
        return {name: statistics.median(taken) for name, taken in seconds.items()}

    def _steps(self, blocks: Iterable[Batch]) -> None:
        for block in blocks:
            self.module.training_step(block, 0)

    def _validate(self) -> None:
        import torch

        with torch.inference_mode():
            for block in self.data.blocks("val"):
                self.module.validation_step(block, 0)
        self.module.scorers["val"].compute()


MNIST_RUN = ("dataset=mnist", f"batch_size={BATCH_SIZE}", f"lr={LR}")

WIDE_RUN = (
    "dataset=blobs",
    "optimizer=sgd",
    "dataset.rows=1000000",
    "dataset.features=30",
    "dataset.split.val=0.1",
    "dataset.split.test=0",
    f"batch_size={WIDE_BATCH_SIZE}",
    f"lr={LR}",
)


def composed(overrides: Sequence[str], **dataset: str) -> RunConfig:
    """The config of a run, for five epochs on the CPU; with further arguments of its dataset."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from logreg.commands.overrides import CONF
    from logreg.config import RunConfig

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*overrides, "max_epochs=5", "accelerator=cpu"])
        plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    plain["dataset"] |= dataset
    return RunConfig.from_mapping({str(key): value for key, value in plain.items()})


class EpochClock:
    """BlockCache when the epochs of a fit start."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def callback(self) -> pl.Callback:
        """What the Trainer is to call."""
        from lightning.pytorch.callbacks import LambdaCallback

        return LambdaCallback(on_train_epoch_start=lambda trainer, module: self.starts.append(time.perf_counter()))

    def steady(self) -> list[float]:
        """Seconds from start to start, validation, logging and checkpoints included; neither first nor last epoch."""
        return [end - start for start, end in itertools.pairwise(self.starts[1:])]


if __name__ == "__main__":
    sys.exit(main())
