"""The part `predict` of the benchmark: many rows in bounded memory, and how close to bare arithmetic that is."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark_tools import Target, alternate, print_ratios, print_row, process_peak, timed
from logreg.commands.predict import predicted
from logreg.data.blocks import BLOCK_BYTES
from logreg.data.new_rows import Rows
from logreg.facts import DataFacts
from logreg.training.checkpoint_reading import Predictor
from logreg.training.module import LogisticModule

PREDICT = str(Path(__file__).with_name("predict.py"))

MANY_ROWS = 10_000_000
MANY_FEATURES = 30
MANY_GIB = 1.5
"""Most memory that the process may have."""

HALF = 2.0
"""Times what a bare matrix product over the same blocks takes, at most."""

SHAPES = {"MNIST's 784 x 10": (784, 10), "768 x 1000": (768, 1000), "30 x 1 of a table": (30, 1)}
"""Features and outputs of the models that are compared with a bare product."""

HELD = 64
"""Blocks that are held in memory."""


def run(arguments: argparse.Namespace) -> None:
    """Prints both tables."""
    with tempfile.TemporaryDirectory() as folder:
        whole(Path(folder))
    torch.set_grad_enabled(False)
    for name, (features, outputs) in SHAPES.items():
        against_a_product(name, features, outputs, arguments.repeats)


def whole(folder: Path) -> None:
    """Seconds and memory of whole processes, from file to file."""
    draw = np.random.default_rng(0)
    save(model(MANY_FEATURES, 1, mean=0.5), folder / "model.ckpt")
    features = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (MANY_ROWS, MANY_FEATURES))
    for start in range(0, MANY_ROWS, 10**6):
        rows = min(10**6, MANY_ROWS - start)
        features[start : start + rows] = draw.normal(size=(rows, MANY_FEATURES))
    del features
    size = (folder / "x.npy").stat().st_size / 2**30
    print(f"\npredict: {MANY_ROWS:,} rows of {MANY_FEATURES} features, {size:.2f} GiB in .npy; whole processes")
    print_row("", "seconds", "peak GiB", "", "", "target")
    for suffix in (".npz", ".parquet", ".csv"):
        typed = [f"ckpt_path={folder / 'model.ckpt'}", f"input={folder / 'x.npy'}", f"output={folder / 'p'}{suffix}"]
        seconds, peak = process_peak([PREDICT, *typed])
        met = "met" if peak <= MANY_GIB else "not met"
        print_row(f".npy to {suffix}", f"{seconds:.1f}", f"{peak:.2f}", "", "", f"<= {MANY_GIB}", met)


def against_a_product(name: str, features: int, outputs: int, repeats: int) -> None:
    """Probabilities and labels of blocks in memory, against the matrix product that they begin with."""
    rows = max(1, BLOCK_BYTES // (4 * features))
    blocks = [torch.randn(rows, features) for _ in range(HELD)]
    for mean in (None, 0.5, 50.0):
        module = model(features, outputs, mean)
        predictor = Predictor(module)
        coef, intercept = module.model.coef.float(), module.model.intercept.float()

        def product(coef: Tensor = coef, intercept: Tensor = intercept) -> None:
            for block in blocks:
                torch.addmm(intercept, block, coef.T)

        def ours(predictor: Predictor = predictor) -> None:
            for block in blocks:
                predicted(predictor, Rows(block), None)

        arms: dict[str, Callable[[], list[float]]] = {
            "ours": lambda ours=ours: timed(ours, 3),  # type: ignore[misc]  # a default that binds early
            "a bare product": lambda product=product: timed(product, 3),  # type: ignore[misc]  # likewise
        }
        seconds = alternate(arms, repeats)
        speed = HELD * rows / statistics.median(seconds["ours"])
        kind = "as they are" if mean is None else f"standardized, mean {mean} and deviation 2"
        title = f"predict: {name}, features {kind}; {HELD} blocks of {rows:,} rows, {speed:,.0f} rows a second"
        print_ratios(title, seconds, {"a bare product": Target(HALF)})


def model(features: int, outputs: int, mean: float | None) -> LogisticModule:
    """One with random coefficients."""
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
    held: dict[str, Any] = {
        "hyper_parameters": dict(module.hparams),
        "state_dict": module.state_dict(),
        "epoch": 0,
    }
    torch.save(held, file)
