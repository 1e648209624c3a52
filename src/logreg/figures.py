"""Pictures of a fitted model.  Drawn without a display: a Figure and its own canvas, no pyplot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from logreg.facts import DataFacts
from logreg.path import PathRow, best_of, simplest_of


def probability_curve(
    coef: float,
    intercept: float,
    facts: DataFacts,
    features: Tensor,
    labels: Tensor,
    title: str,
    axis: tuple[float, float] | None = None,
) -> Figure:
    """Probability of the positive class against the one feature, with the rows it was learned from.

    Args:
        coef: In source units.
        intercept: In source units.
        facts: Names the feature and the classes.
        features: Shape (N, 1), source units.
        labels: Shape (N,), 0 or 1.
        title: Over the picture.
        axis: Range of the feature to draw; the rows' own when ``None``.
    """
    low, high = axis or _padded(float(features.min()), float(features.max()))
    feature = facts.feature_names[0] if facts.feature_names else "feature"
    positive = facts.class_names[1]
    grid = np.linspace(low, high, 501)
    # tanh saturates where exp would overflow
    curve = (1 + np.tanh((coef * grid + intercept) / 2)) / 2
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    axes.plot(grid, curve, color="#0072b2", linewidth=2, label=f"p({positive})")
    axes.axhline(0.5, color="0.5", linewidth=1, linestyle="--")
    even = -intercept / coef if coef else math.nan
    if low <= even <= high:
        axes.axvline(even, color="0.5", linewidth=1, linestyle="--")
        axes.plot([even], [0.5], "o", color="black", markersize=5)
        axes.annotate(f"even odds at {even:.2f}", (even, 0.5), xytext=(8, -14), textcoords="offset points")
    for label, marker, colour in ((0, "o", "#d55e00"), (1, "^", "#009e73")):
        rows = features[labels == label, 0].numpy()
        axes.plot(
            rows,
            np.full(len(rows), float(label)),
            marker,
            color=colour,
            markersize=8,
            alpha=0.9 if len(rows) < 50 else 0.3,
            label=facts.class_names[label],
            linestyle="none",
            clip_on=False,
            zorder=3,
        )
    axes.set(xlim=(low, high), ylim=(0, 1), xlabel=feature, ylabel=f"probability of {positive}")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    return figure


def coefficient_images(coef: Tensor, facts: DataFacts) -> Figure:
    """One picture of the coefficients per output, red where a pixel speaks for the class.

    Args:
        coef: Shape (K, D), source units.
        facts: Names the classes and the shape of an image.
    """
    names = facts.class_names if len(coef) > 1 else facts.class_names[1:]
    columns = min(5, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(2.1 * columns + 0.9, 2.3 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    # One scale for all, symmetric about 0: white is "no say", and classes can be compared.
    limit = float(coef.abs().max()) or 1.0
    for axes, name, row in zip(grid.flat, names, coef.numpy(), strict=False):
        image = row.reshape(facts.image_shape)
        if image.ndim == 3:  # colours: a pixel's say is the sum over its channels
            image = image.sum(0)
        drawn = axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(name, fontsize=11)
    figure.colorbar(drawn, ax=grid, shrink=0.8, label="coefficient per unit of the feature")
    figure.suptitle(f"{facts.name}: coefficients per class")
    return figure


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low or 1.0) * 0.1
    return low - margin, high + margin


def path_curve(rows: Sequence[PathRow], title: str, select: str = "log_loss", chosen: int | None = None) -> Figure:
    """Loss on train and val against l2, with what was chosen.

    Args:
        rows: Of the path.
        title: Over the picture.
        select: What it was chosen by.
        chosen: Its place; that of the best score when ``None``.
    """
    l2 = np.array([row.l2 for row in rows])
    val, error = np.array([row.loss_val for row in rows]), np.array([row.error for row in rows])
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    axes.fill_between(l2, val - error, val + error, color="#0072b2", alpha=0.2, label="val, ± one standard error")
    axes.plot(l2, val, "o-", color="#0072b2", markersize=4, label="val")
    axes.plot(l2, [row.loss_train for row in rows], "-", color="#d55e00", label="train")
    best, simplest = rows[best_of(rows, select) if chosen is None else chosen], rows[simplest_of(rows)]
    axes.axvline(
        best.l2, color="black", linewidth=1, label=f"best {select.replace('_', '-')} on val: l2 = {best.l2:.3g}"
    )
    axes.axvline(
        simplest.l2, color="0.5", linewidth=1, linestyle="--", label=f"one standard error: l2 = {simplest.l2:.3g}"
    )
    axes.set(xscale="log", xlabel="l2 (stronger penalty to the right)", ylabel="loss, nats per row", title=title)
    axes.set_ylim(0, 1.15 * float(val[np.isfinite(val)].max()))
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none")
    return figure


def search_history(
    history: Sequence[tuple[str, float | None]], title: str, score: str = "loss", sign: int = -1
) -> Figure:
    """Score on val of each trial of a search in their order, and the best so far.

    Args:
        history: State (complete, pruned, fail) and score of each.
        title: Over the picture.
        score: Its name.
        sign: 1 if more of it is better, or else -1.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    there = [(number, value) for number, (_, value) in enumerate(history, start=1) if value is not None]
    if there:
        number, values = np.array(there).T
        best = sign * np.maximum.accumulate(sign * values)
        axes.plot(number, values, "o", color="#0072b2", markersize=5, label="trial")
        axes.step(
            number, best, "-", where="post", color="#d55e00", label=f"{'highest' if sign > 0 else 'lowest'} so far"
        )
        if values.max() > 3 * values.min() > 0:
            axes.set_yscale("log")
    low = axes.get_ylim()[0]
    for state, marker, words in (("pruned", "|", "broken off"), ("fail", "x", "failed")):
        numbers = [number for number, (was, _) in enumerate(history, start=1) if was == state]
        if numbers:
            axes.plot(numbers, [low] * len(numbers), marker, color="0.4", label=words, clip_on=False, linestyle="none")
    axes.set(xlabel="trial", ylabel=f"{score} on val", title=f"{title}: what was tried")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def importance_bars(importance: Mapping[str, float], title: str, score: str = "loss") -> Figure:
    """Part of the spread of the scores that each key explains."""
    names, parts = list(importance)[::-1], list(importance.values())[::-1]
    figure = Figure(figsize=(7, 1.1 + 0.4 * len(names)), layout="constrained")
    axes: Axes = figure.subplots()
    axes.barh(names, parts, color="#0072b2")
    for place, part in enumerate(parts):
        axes.annotate(f"{part:.0%}", (part, place), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set(xlim=(0, 1.1), xlabel=f"part of the spread of {score} on val that it explains (fANOVA)", title=title)
    return figure
