"""Small tables that tests write."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from logreg.data import TensorDataModule
from whole_runs import data_of


def as_text(columns: dict[str, list[Any]], separator: str = ",") -> str:
    def written(value: Any) -> str:
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    rows = zip(*columns.values(), strict=True)
    return "\n".join([separator.join(columns), *(separator.join(map(written, row)) for row in rows), ""])


def write(folder: Path, **columns: Any) -> Path:
    """``t.csv`` with these columns."""
    path = folder / "t.csv"
    path.write_text(as_text(columns), encoding="utf-8")
    return path


def table(path: Path, *arguments: str, target: str = "y") -> TensorDataModule:
    """The DataModule of a table, set up."""
    data = data_of("table", f"dataset.path={path}", f"dataset.target={target}", *arguments)
    data.setup()
    return data


def alternating(*values: Any, rows: int = 60) -> list[Any]:
    return [values[row % len(values)] for row in range(rows)]


def write_csv(folder: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """``t.csv`` with these columns, whose names may be any text."""
    folder.mkdir(exist_ok=True)
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return folder / "t.csv"


def drawn(rows: int = 120, seed: int = 0, effect: Callable[[float], float] = float) -> dict[str, list[Any]]:
    """Two numbers, of the first of which the logit has an effect, a category, and classes that overlap."""
    draw = random.Random(seed)
    a, b = ([round(draw.gauss(0, 1), 3) for _ in range(rows)] for _ in "ab")
    color = [draw.choice(["blue", "green", "red"]) for _ in range(rows)]
    y = ["yes" if effect(x) + (c == "red") + draw.gauss(0, 2) > 0 else "no" for x, c in zip(a, color, strict=True)]
    return {"a": a, "b": b, "color": color, "y": y}


def drawn_sparse(folder: Path) -> tuple[Path, dict[str, list[Any]]]:
    """400 rows of 8 features, of which a tenth are not 0, as a file in the format of svmlight and as columns."""
    draw = random.Random(0)
    rows = [[round(draw.gauss(0, 1), 3) if draw.random() < 0.1 else 0.0 for _ in range(8)] for _ in range(400)]
    y = [int(sum(row) + draw.gauss(0, 1) > 0) for row in rows]
    lines = [
        " ".join([str(label), *(f"{place}:{value}" for place, value in enumerate(row, 1) if value)])
        for label, row in zip(y, rows, strict=True)
    ]
    (folder / "t.svm").write_text("\n".join(lines) + "\n")
    return folder / "t.svm", {**{f"x{place}": [row[place] for row in rows] for place in range(8)}, "y": y}
