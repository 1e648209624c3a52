"""Times predictions: ten million rows from file to file, and blocks in memory against a bare matrix product.

The first table has seconds and peak memory of scripts/predict.py as a whole process, from .npy to three formats; the
target is 1.5 GiB of peak memory.  The other tables compare probabilities and labels of blocks in memory (computed in
float64) with torch.addmm over the same blocks in float32; the ratio is the cost of exact sums, softmax and labels.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import (
    SCRIPTS,
    Target,
    alternate,
    met,
    new_parser,
    positive,
    print_ratios,
    print_row,
    print_versions,
    process_use,
    timed,
)
from logreg.commands.predicting import predicted
from logreg.data.blocks import CACHED_BLOCK_BYTES
from logreg.facts import DataFacts
from logreg.training.checkpoint_reading import Predictor
from logreg.training.module import LogisticModule

FEATURES = 30
"""Number of features of the rows that are predicted from file to file."""

MOST_GIB = 1.5
"""Target for the peak memory of the process."""

MOST_RATIO = 2.0
"""Target for the ratio to a bare matrix product over the same blocks."""

SHAPES = {"784x10": (784, 10), "768x1000": (768, 1000), "30x1": (30, 1)}
"""Name -> number of features and of outputs, of the models that are compared with a bare product."""

ROWS_AT_A_TIME = 10**6
"""Rows that are drawn at a time."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--rows", type=positive, default=10_000_000, metavar="N", help="rows from file to file (default: 10000000)"
    )
    parser.add_argument("--blocks", type=positive, default=64, metavar="N", help="blocks in memory (default: 64)")
    parser.add_argument(
        "--shape", action="append", choices=list(SHAPES), help="features x outputs of a model (again for more)"
    )
    parser.add_argument("--blocks-only", action="store_true", help="leaves out the runs from file to file")
    arguments = parser.parse_args(typed)
    print_versions()
    if not arguments.blocks_only:
        with tempfile.TemporaryDirectory() as folder:
            file_to_file(Path(folder), arguments.rows)
    with torch.no_grad():
        for name in arguments.shape or SHAPES:
            features, outputs = SHAPES[name]
            against_a_product(name, features, outputs, arguments.blocks, arguments.repeats)
    return 0


def file_to_file(folder: Path, num_rows: int) -> None:
    """Prints seconds and peak memory of whole processes, from file to file."""
    draw = np.random.default_rng(0)
    save(model(FEATURES, 1, mean=0.5), folder / "model.ckpt")
    features = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (num_rows, FEATURES))
    for start in range(0, num_rows, ROWS_AT_A_TIME):
        rows = min(ROWS_AT_A_TIME, num_rows - start)
        features[start : start + rows] = draw.normal(size=(rows, FEATURES))
    del features
    size = (folder / "x.npy").stat().st_size / 2**30
    print(f"\nprediction: {num_rows:,} rows of {FEATURES} features, {size:.2f} GiB in .npy; whole processes")
    print_row("", "seconds", "peak GiB", "", "", "target")
    for suffix in (".npz", ".parquet", ".csv"):
        typed = [f"ckpt_path={folder / 'model.ckpt'}", f"input={folder / 'x.npy'}", f"output={folder / 'p'}{suffix}"]
        seconds, _, peak = process_use([str(SCRIPTS / "predict.py"), *typed])
        print_row(f".npy to {suffix}", f"{seconds:.1f}", f"{peak:.2f}", "", "", f"<= {MOST_GIB}", met(peak <= MOST_GIB))


def against_a_product(name: str, features: int, outputs: int, num_blocks: int, repeats: int) -> None:
    """Compares probabilities and labels of blocks in memory with the matrix product that they begin with."""
    rows = max(1, CACHED_BLOCK_BYTES // (4 * features))
    blocks = [torch.randn(rows, features) for _ in range(num_blocks)]
    for mean in (None, 0.5, 50.0):
        module = model(features, outputs, mean)
        predictor = Predictor(module)
        coef, intercept = module.model.coef.float(), module.model.intercept.float()

        def product(coef: Tensor = coef, intercept: Tensor = intercept) -> None:
            for block in blocks:
                torch.addmm(intercept, block, coef.T)

        def ours(predictor: Predictor = predictor) -> None:
            for block in blocks:
                predicted(predictor, block, None)

        arms: dict[str, Callable[[], list[float]]] = {
            "ours": lambda ours=ours: timed(ours, 3),  # type: ignore[misc]  # a default that binds early
            "a bare product": lambda product=product: timed(product, 3),  # type: ignore[misc]  # a default that binds early
        }
        seconds = alternate(arms, repeats)
        speed = num_blocks * rows / statistics.median(seconds["ours"])
        kind = "as they are" if mean is None else f"standardized, mean {mean} and deviation 2"
        title = f"prediction: {name}, features {kind}; {num_blocks} blocks of {rows:,} rows, {speed:,.0f} rows a second"
        print_ratios(title, seconds, {"a bare product": Target(MOST_RATIO)})


def model(features: int, outputs: int, mean: float | None) -> LogisticModule:
    """A model with random coefficients.

    Args:
        features: D.
        outputs: K.
        mean: Mean of each feature, for a standardized model; ``None`` for one that is not.
    """
    classes = max(2, outputs)
    facts = DataFacts(
        "made",
        features,
        tuple(f"c{number}" for number in range(classes)),
        {"train": 1},
        mean=() if mean is None else (mean,) * features,
        std=() if mean is None else (2.0,) * features,
    )
    module = LogisticModule(facts)
    torch.nn.init.normal_(module.model.coef, std=0.1)
    return module.eval().requires_grad_(False)


def save(module: LogisticModule, file: Path) -> None:
    """A checkpoint as Lightning would write it."""
    checkpoint: dict[str, Any] = {
        "hyper_parameters": dict(module.hparams),
        "state_dict": module.state_dict(),
        "epoch": 0,
    }
    torch.save(checkpoint, file)


if __name__ == "__main__":
    sys.exit(main())
