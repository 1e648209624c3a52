"""Numbers, names and columns of tables on the terminal and in reports."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from logreg.terminal import on_one_line

MAX_SHOWN = 100
"""Largest number of rows of a table on the terminal and in the report."""

MAX_NAME = 28
"""Characters of the name of a feature in a table; the middle of a longer one is left out."""

Cells = tuple[list[str], list[list[str]]]
"""Header and rows of a table."""


def number(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:.4g}"


def p_value(value: float) -> str:
    """A p-value; the smallest ones as a bound."""
    return "<1e-16" if value < 1e-16 else f"{value:.3g}"


def short(name: str) -> str:
    """The name of a feature, at most `MAX_NAME` characters long."""
    name = on_one_line(name)
    kept = MAX_NAME - 1
    return name if len(name) <= MAX_NAME else f"{name[: kept // 2]}…{name[len(name) - (kept + 1) // 2 :]}"


def aligned(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column is left-aligned, the others right-aligned."""
    widths = [max(map(cell_len, column)) for column in zip(header, *cells, strict=True)]
    lines = []
    for row in (header, *cells):
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        first, *others = zip(row, gaps, strict=True)
        lines.append("  ".join(["".join(first), *(gap + cell for cell, gap in others)]).rstrip())
    return lines
