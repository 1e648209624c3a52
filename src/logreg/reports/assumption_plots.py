"""Pictures of the assumptions of a fit: binned residuals of numeric columns, and the influence of single rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from logreg.inference.results import Checks, Linearity, RowInfluence
from logreg.reports.cells import p_value
from logreg.reports.diagnostic_plots import BLUE, ORANGE
from logreg.reports.figures import label

PANELS_ACROSS = 3
"""Largest number of columns whose binned residuals stand side by side."""

LARGEST_POINT = 300.0
"""Area of the point with the largest Cook's distance, in square points."""

TEXT_HEIGHT = 0.05
"""Distance of two lines of text, as a share of the height of the picture."""

NUM_NUMBERED = 5
"""Number of the most influential rows with their number beside the point."""


def binned_residuals(checked: Sequence[Linearity], class_name: str, title: str) -> Figure | None:
    """Mean residuals of the bins of each numeric column, with the band that 95 % of them should be in.

    Args:
        checked: The columns.
        class_name: The second class, whose probability the residuals are of.
        title: Title of the picture.

    Returns:
        ``None`` where no column has bins.
    """
    drawn = [one for one in checked if one.bins]
    if not drawn:
        return None
    across = min(PANELS_ACROSS, len(drawn))
    down = -(-len(drawn) // across)
    figure = Figure(figsize=(max(5.0, 3.4 * across), 2.7 * down + 0.6), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat[len(drawn) :]:
        axes.set_axis_off()
    for axes, one in zip(panels.flat, drawn, strict=False):
        value, residual, limit = (np.array(part) for part in zip(*(each[1:] for each in one.bins), strict=True))
        outside = np.abs(residual) > limit
        axes.fill_between(value, -limit, limit, color="0.88", linewidth=0)
        axes.axhline(0, color="0.5", linewidth=0.8, linestyle="--")
        axes.plot(value[~outside], residual[~outside], "o", color=BLUE, markersize=4)
        axes.plot(value[outside], residual[outside], "D", color=ORANGE, markersize=4.5)
        most = 1.08 * max(np.abs(residual).max(), min(limit.max(), 2 * np.abs(residual).max()))
        axes.set(ylim=(-most, most), xlabel=label(one.feature, 30))
        axes.set_title(f"spline: p {p_value(one.p)}", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(alpha=0.3)
    figure.supylabel(f"share of {class_name} less its probability", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure


def influence_plot(checks: Checks, title: str) -> Figure:
    """Standardized residuals against leverages, with areas proportional to Cook's distances.

    Args:
        checks: The checks.
        title: Title of the picture.
    """
    leverage, residual, distance = (np.array(part) for part in zip(*(one[1:] for one in checks.plotted), strict=True))
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    sizes = 4 + LARGEST_POINT * distance / max(distance.max(), 1e-300)
    axes.axhline(0, color="0.5", linewidth=0.8)
    for level in (-2, 2):
        axes.axhline(level, color="0.5", linewidth=0.8, linestyle="--")
    axes.scatter(leverage, residual, s=sizes, facecolor=BLUE, edgecolor="white", linewidth=0.5, alpha=0.6)
    axes.margins(0.08)
    _number(axes, checks.influence[:NUM_NUMBERED])
    axes.set(xlabel="leverage", ylabel="standardized Pearson residual")
    axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    return figure


def _number(axes: Axes, rows: Sequence[RowInfluence]) -> None:
    """Writes the numbers of rows beside their points, one below the other where points are near each other."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    taken = {-1: high, 1: high}
    """Where the text above ends, of texts on the left and on the right of their points."""
    for one in sorted(rows, key=lambda row: -row.residual):
        side = 1 if one.leverage < (left + right) / 2 else -1
        height = min(one.residual, taken[side] - TEXT_HEIGHT * (high - low))
        taken[side] = height
        axes.annotate(
            f"row {one.row:,}",
            (one.leverage, one.residual),
            xytext=(one.leverage + side * 0.05 * (right - left), height),
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "0.3"},
        )
    axes.set_ylim(min(low, min(taken.values()) - TEXT_HEIGHT * (high - low)), high)
