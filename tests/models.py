"""Trained models that many tests use, each trained once by the command that a user would type."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import whole_runs

TABLE_HEADER = "id,size,color,wet,always,kind"


def table_rows(number: int, seed: int) -> list[str]:
    """Lines of a CSV with everything that tables have: missing values, levels, booleans, a constant, an id."""
    draw = random.Random(seed)
    lines = []
    for row in range(number):
        size, color, wet = draw.gauss(0, 2), draw.choice(["red", "green", "deep blue"]), draw.random() < 0.5
        score = size + {"red": 1.0, "green": 0.0, "deep blue": -2.0}[color] + (1.5 if wet else 0) + draw.gauss(0, 1)
        kind = "low" if score < -1 else "mid" if score < 1.5 else "high, very"
        shown = "" if draw.random() < 0.1 else f"{size:.3f}"
        color = "" if draw.random() < 0.1 else color
        lines.append(f'r{row},{shown},{color},{str(wet).lower()},7,"{kind}"')
    return lines


def write_table(file: Path, number: int = 400, seed: int = 0) -> Path:
    """A CSV of the rows of `table_rows`."""
    file.write_text("\n".join([TABLE_HEADER, *table_rows(number, seed)]) + "\n", encoding="utf-8")
    return file


def write_pictures(folder: Path, number: int = 12, size: int = 6) -> Path:
    """Gray pictures in a folder for each class: dark ones and bright ones."""
    draw = np.random.default_rng(0)
    for name, middle in (("dark", 70), ("bright", 170)):
        (folder / name).mkdir(parents=True)
        for place in range(number):
            pixels = draw.normal(middle, 40, (size, size)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{place}.png")
    return folder


def write_features(file: Path, rows: int = 200) -> Path:
    """A matrix of five features and three classes."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, rows)
    features = (draw.normal(size=(rows, 5)) + np.eye(3, 5)[labels]).astype(np.float32)
    np.savez(file, features=features, labels=np.array(["x", "y", "z"])[labels])
    return file


def _table(here: Path) -> tuple[str, ...]:
    write_table(here / "train.csv")
    return ("dataset=table", "dataset.path=train.csv", "dataset.target=kind", "dataset.drop=[id]", "l2=1e-3")


def _pictures(here: Path) -> tuple[str, ...]:
    write_pictures(here / "pictures")
    return (
        *("dataset=image_folder", "dataset.path=pictures", "dataset.grayscale=true", "dataset.cache=null", "l2=1e-2"),
        "max_epochs=3",
    )


def _features(here: Path) -> tuple[str, ...]:
    write_features(here / "train.npz")
    return ("dataset=features", "dataset.path=train.npz", "l2=1e-2", "optimizer=newton")


MODELS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "toy": lambda here: ("l2=0.1", "optimizer=newton"),
    "binary": lambda here: ("dataset=breast_cancer", "l2=1e-3"),
    "softmax": lambda here: ("dataset=iris", "l2=1e-3", "calibrate=temperature"),
    "one_vs_rest": lambda here: ("dataset=iris", "l2=1e-3", "loss=bce"),
    "weighted": lambda here: (
        *("dataset=iris", "l2=1e-3", "loss=bce", "dataset.class_weight={virginica: 5}", "calibrate=temperature"),
    ),
    "two_outputs": lambda here: ("dataset=breast_cancer", "l2=1e-3", "loss=cross_entropy"),
    "table": _table,
    "pictures": _pictures,
    "features": _features,
}
"""What is typed after ``scripts/train.py``, once what it reads is made."""


class Models:
    """Folders in which a user has trained a model each."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str) -> Path:
        """The folder that the user stood in."""
        here = self.root / name
        if not here.exists():
            here.mkdir(parents=True)
            whole_runs.train(here, *MODELS[name](here), "report=brief")
        return here

    def run(self, name: str) -> whole_runs.Run:
        """The run itself."""
        return whole_runs.newest(self(name))
