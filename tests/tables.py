"""Small tables that tests write."""

from __future__ import annotations

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
