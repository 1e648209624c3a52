"""Pictures of a fitted model.  Drawn without a display: a Figure and its own canvas, no pyplot."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unicodedata import east_asian_width

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)
from numpy.typing import NDArray
from torch import Tensor

from logreg.evaluation.path_row import PathRow, varied
from logreg.evaluation.path_selection import best_of, simplest_of
from logreg.facts import DataFacts
from logreg.losses import LOSSES, Loss, default_loss
from logreg.terminal import on_one_line

MAX_COEFFICIENT_IMAGES = 100
"""Largest number of classes whose coefficients are drawn as images; more would be too small to see."""

COLOR_LIMIT_RATIO = 5.0
"""Upper end of the color scale, as a multiple of the 95th percentile of the sizes: otherwise one huge coefficient
would leave the others without color."""

BLUE = "#0072b2"
"""Color of the scores that choose."""

MAX_COUNTS = 8
"""Number of the ticks on the upper axis of a path; more would overlap."""

MAX_CAPS = 40
"""Largest number of error bars with caps; those of more would touch."""

MAX_LINES = 200
"""Largest number of coefficients that are drawn along a path: the largest."""

MAX_NAMED = 10
"""Number of the largest coefficients whose lines have a color and a name."""

MAX_COEFFICIENT_RATIO = 3.0
"""Upper end of the axis of coefficients along a path, as a multiple of the largest one at the chosen strength:
otherwise weak penalties, whose coefficients explode, would flatten the rest."""

LINE_COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"),
    *("#56b4e9", "#000000", "#882255", "#999933", "#6a3d9a"),
)
"""Colors of lines that color-blind readers can tell apart (Okabe and Ito, and Tol)."""


def label(text: str, most: int = 40) -> str:
    r"""A name for a picture: on one line, not too long, and never read as a formula.

    Args:
        text: The name.
        most: Largest width in letters; the middle of a longer name is left out, since names often differ in their ends.

    Example:
        >>> label("talk.politics.mideast", 15)
        'talk.po…mideast'
        >>> print(label("price in $"))
        price in \$
    """
    text = on_one_line(text)
    width = sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
    if width > most:
        kept = max(3, most * len(text) // width) - 1
        text = f"{text[: kept // 2]}…{text[len(text) - (kept + 1) // 2 :]}"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # matplotlib keeps such a name out of a legend


def labels(names: Sequence[str], most: int) -> list[str]:
    """Names for a picture that stay different, with up to four times as many letters where needed."""
    for letters in (most, 2 * most, 4 * most):
        found = [label(name, letters) for name in names]
        if len({*found}) == len({*names}):
            break
    return found


def further_fonts(text: str) -> tuple[list[str], str]:
    """Fonts of this machine for letters that the default font lacks, such as Chinese ones.

    Returns:
        The names of the fonts; the letters that no font has.
    """
    usual = get_font(findfont(FontProperties())).get_charmap()
    missing = {letter for letter in text if ord(letter) not in usual and letter.isprintable()}
    families: list[str] = []
    for entry in fontManager.ttflist if missing else ():
        if entry.name.startswith("Last Resort"):  # a font of boxes for every letter
            continue
        charmap = get_font(entry.fname).get_charmap()
        if found := {letter for letter in missing if ord(letter) in charmap}:
            families.append(entry.name)
            missing -= found
        if not missing:
            break
    return families, "".join(sorted(missing))


@contextmanager
def lettered(texts: Iterable[str]) -> Iterator[str]:
    """Adds fonts for the letters of some texts to pictures that are made and drawn inside.

    Yields:
        The letters that no font has, which are drawn as boxes.
    """
    families, missing = further_fonts("".join(texts))
    with mpl.rc_context({"font.family": [*mpl.rcParams["font.family"], *families]}):
        yield missing


@contextmanager
def without_warnings_of_letters() -> Iterator[None]:
    """Lets matplotlib draw letters that no font has without a warning of each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font|Matplotlib currently does not support")
        yield


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
"""Digits and sign of an exponent."""


class PowersOfTen(LogFormatterSciNotation):
    """Labels of a logarithmic axis as plain text, such as 10⁻³.

    matplotlib's own look the same, and are formulas, whose parser takes longer to load than a picture takes to draw.
    """

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a tick; empty where it has none."""
        formula: str = super().__call__(x, pos)
        number, _, exponent = formula.removeprefix(r"$\mathdefault{").removesuffix("}$").partition("^")
        return number.replace(r"\times", "\N{MULTIPLICATION SIGN}") + exponent.strip("{}").translate(SUPERSCRIPTS)


def label_powers(axis: Axis) -> None:
    """Labels a logarithmic axis, whose data are drawn already, by `PowersOfTen`.

    Of several powers only 2 and 5 times each have ticks between them, since every tick takes time.
    """
    axis.set_major_formatter(PowersOfTen())
    axis.set_minor_formatter(PowersOfTen())
    low, high = sorted(axis.get_view_interval())
    if high > 100 * low > 0:
        axis.set_minor_locator(LogLocator(subs=(2, 5)))


def legend_below(figure: Figure, handles: Sequence[Any] | None = None, columns: int = 1) -> None:
    """Adds the legend below the axes: curves and points may be anywhere inside, and names may be long.

    Args:
        figure: Has a constrained layout.
        handles: What has an entry, in order; all that has a label where ``None``.
        columns: Largest number of columns of entries; fewer where these would be wider than the picture.
    """
    more = {} if handles is None else {"handles": handles}
    for number in range(columns, 0, -1):
        legend = figure.legend(loc="outside lower center", ncols=number, frameon=False, fontsize=9, **more)
        with without_warnings_of_letters():
            if number == 1 or legend.get_window_extent().width <= figure.bbox.width:
                return
        legend.remove()


def probability_curve(
    coef: float,
    intercept: float,
    facts: DataFacts,
    features: Tensor,
    labels: Tensor,
    title: str,
    axis: tuple[float, float] | None = None,
    loss: Loss | None = None,
) -> Figure:
    """Probability of the positive class against the one feature, with the train rows.

    Args:
        coef: Coefficients by features in source units.
        intercept: Intercept for features in source units.
        facts: Names the feature and the classes.
        features: Shape (N, 1), source units.
        labels: Shape (N,), 0 or 1.
        title: Title of the picture.
        axis: Range of the feature to draw; that of the rows when ``None``.
        loss: Has the inverse link of the logit; the logistic loss when ``None``.
    """
    loss = loss or LOSSES[default_loss(2)]
    low, high = axis or _padded(float(features.min()), float(features.max()))
    feature = label(facts.feature_names[0], 60) if facts.feature_names else "feature"
    positive = label(facts.class_names[1], 24)
    grid = np.linspace(low, high, 501)
    curve = loss.inverse_link(torch.from_numpy(coef * grid + intercept).unsqueeze(1))[:, 0].numpy()
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    axes.plot(grid, curve, color="#0072b2", linewidth=2, label=f"p({positive})")
    axes.axhline(0.5, color="0.5", linewidth=1, linestyle="--")
    even = (loss.even_logit - intercept) / coef if coef else math.nan
    if low <= even <= high:
        axes.axvline(even, color="0.5", linewidth=1, linestyle="--")
        axes.plot([even], [0.5], "o", color="black", markersize=5)
        axes.annotate(f"even odds at {even:.2f}", (even, 0.5), xytext=(8, -14), textcoords="offset points")
    for number, marker, color in ((0, "o", "#d55e00"), (1, "^", "#009e73")):
        rows = features[labels == number, 0].numpy()
        axes.plot(
            rows,
            np.full(len(rows), float(number)),
            marker,
            color=color,
            markersize=8,
            alpha=0.9 if len(rows) < 50 else 0.3,
            label=label(facts.class_names[number], 24),
            linestyle="none",
            clip_on=False,
            zorder=3,
        )
    axes.set(xlim=(low, high), ylim=(0, 1), xlabel=feature, ylabel=f"probability of {positive}")
    axes.set_title(title, fontsize=11, pad=10)  # markers of class 1 are half above the axes
    axes.grid(alpha=0.3)
    legend_below(figure, columns=3)
    return figure


def coefficient_images(coef: Tensor, facts: DataFacts) -> Figure:
    """One image of the coefficients per output, red where a pixel raises the class's probability.

    Args:
        coef: Shape (K, D), source units.
        facts: Names the classes and the shape of an image.
    """
    names = facts.names_of_outputs(len(coef))
    shown = names[:MAX_COEFFICIENT_IMAGES]
    columns = min(5 if len(shown) <= 25 else 10, len(shown))
    rows, side = -(-len(shown) // columns), 2.1 if columns <= 5 else 1.3
    figure = Figure(figsize=(side * columns + 0.9, (side + 0.2) * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    images = coef.numpy()[: len(shown)].reshape(len(shown), *facts.image_shape)
    if images.ndim == 4:  # colors: the sum over the channels of a pixel
        images = images.sum(1)
    limit, largest = _limit_of_colors(images)
    for axes, name, image in zip(grid.flat, shown, images, strict=False):
        drawn = axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(label(name, round(9 * side)), fontsize=11 if columns <= 5 else 9)
    cut = limit < largest
    words = "coefficient per unit of the feature" + (f"\n(the largest has {largest:.3g})" if cut else "")
    figure.colorbar(drawn, ax=grid, shrink=0.8, label=words, extend="both" if cut else "neither")
    figure.suptitle(
        f"{label(facts.title, 60)}: coefficients per class"
        + (f", the first {len(shown)} of {len(names)}" if len(shown) < len(names) else "")
    )
    return figure


def _limit_of_colors(images: NDArray[Any]) -> tuple[float, float]:
    """Upper end of the color scale, and the largest value.

    All images have one scale, symmetric about 0: white is 0, and classes can be compared.
    """
    sizes = np.abs(images)
    largest = float(sizes.max()) or 1.0
    some = sizes[sizes > 0]
    return min(largest, COLOR_LIMIT_RATIO * float(np.quantile(some, 0.95))) if len(some) else largest, largest


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low or 1.0) * 0.1
    return low - margin, high + margin


def path_curve(
    rows: Sequence[PathRow],
    title: str,
    select: str = "log_loss",
    chosen: int | None = None,
    folds: str = "",
    rule: str = "best",
) -> Figure:
    """Loss on train and on held-out rows, and accuracy on these, against the strength, with the chosen one.

    Lines mark the best strength and the strongest within one standard error of it.  Where a path goes along l1, the
    upper axis has the numbers of coefficients that are not 0.

    Args:
        rows: The strengths of the path with their scores.
        title: Title of the picture.
        select: Name of the score that the strength was chosen by.
        chosen: Position of the chosen strength; that of the best score when ``None``.
        folds: The cross-validation in words, such as "10-fold cross-validation"; empty where val has chosen.
        rule: The rule by which the strength was chosen: best, or one_se.

    References:
        Friedman, Hastie and Tibshirani (2010): the picture of their plot.cv.glmnet.
    """
    simplest, along = rows[simplest_of(rows, select)], varied(rows)
    best = rows[best_of(rows, select) if chosen is None or rule == "one_se" else chosen]
    taken = best if chosen is None else rows[chosen]
    at_best, at_simplest, at_taken = (float(getattr(row, along)) for row in (best, simplest, taken))
    rows = sorted(rows, key=lambda row: row.order)
    x = np.array([getattr(row, along) for row in rows])
    loss, error = np.array([row.loss_val for row in rows]), np.array([row.error for row in rows])
    figure = Figure(figsize=(7, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    if folds:
        _error_bars(upper, x, loss, error, label=f"{folds}, ± one standard error")
        _error_bars(lower, x, [row.accuracy_val for row in rows], [row.accuracy_error or 0.0 for row in rows])
    else:
        upper.fill_between(x, loss - error, loss + error, color=BLUE, alpha=0.2, label="val, ± one standard error")
        upper.plot(x, loss, "o-", color=BLUE, markersize=4, label="val")
        lower.plot(x, [row.accuracy_val for row in rows], "o-", color=BLUE, markersize=4)
    upper.plot(x, [row.loss_train for row in rows], "--", color="#d55e00", label="train")
    for axes, at in ((upper, taken.loss_val), (lower, taken.accuracy_val)):
        axes.axvline(at_simplest, color="0.5", linewidth=1, linestyle="--", zorder=1)
        axes.axvline(at_best, color="black", linewidth=1, zorder=1)
        axes.plot(at_taken, at, "*", color="black", markersize=11, clip_on=False, zorder=4)
        axes.grid(alpha=0.3)
    score = select.replace("_", " ")
    words = f"best {score} {'of the folds' if folds else 'on val'}: {along} = {at_best:.3g}"
    words += f", loss {best.loss_val:.4g}, accuracy {best.accuracy_val:.2%}"
    within = f"strongest within one standard error: {along} = {at_simplest:.3g}"
    for style, color, line, row in (("-", "black", words, best), ("--", "0.5", within, simplest)):
        star: dict[str, Any] = {"marker": "*", "markersize": 9, "markerfacecolor": "black"} if row is taken else {}
        upper.plot([], [], style, color=color, linewidth=1, label=line, **star)
    top = (loss + error)[np.isfinite(loss + error)].max(initial=best.loss_val)
    top = 1.05 * min(top, 10 * best.loss_val) or 1
    low = max(0.0, min([*(loss - error), *(row.loss_train for row in rows)]) - 0.05 * top) if folds else 0.0
    upper.set(xscale="log", ylim=(low, top), ylabel="loss, nats per row", title=title)
    label_powers(upper.xaxis)
    lower.set(xlabel=f"{along} (stronger penalty to the right)", ylabel=f"accuracy {'of folds' if folds else 'on val'}")
    lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    if along == "l1":
        _count_above(upper, x, [row.nonzero for row in rows])
    entries = sorted(
        zip(*upper.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] in ("train", words, within)
    )
    legend_below(figure, [handle for handle, _ in entries])
    return figure


def _error_bars(axes: Axes, x: Any, mean: Any, error: Any, **more: Any) -> None:
    style: dict[str, Any] = {"fmt": "o-", "color": BLUE, "markersize": 3, "linewidth": 1, "elinewidth": 0.8}
    axes.errorbar(x, mean, error, capsize=2 if len(x) <= MAX_CAPS else 0, **style, **more)


def _count_above(axes: Axes, x: NDArray[Any], counts: Sequence[int]) -> None:
    """Numbers of coefficients that are not 0 on an axis above the picture, at some of the strengths."""
    shown = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_COUNTS)).round().astype(int))
    above = axes.secondary_xaxis("top")
    above.xaxis.set_major_locator(FixedLocator(x[shown].tolist()))
    above.xaxis.set_minor_locator(NullLocator())
    above.xaxis.set_major_formatter(FixedFormatter([f"{counts[place]:,}" for place in shown]))
    above.set_xlabel("coefficients that are not 0", fontsize=9)
    above.tick_params(labelsize=9)


def coefficient_paths(
    coef: Tensor,
    rows: Sequence[PathRow],
    name_of: Callable[[int], str],
    title: str,
    chosen: int,
    standardized: bool = True,
) -> Figure:
    """Each coefficient against the strength, with names: those of the largest at the chosen strength, then elsewhere.

    Args:
        coef: Coefficients for each strength, as the model has them, (P, K, D).
        rows: The strengths of the path, in the same order.
        name_of: Gives the name of a coefficient by its position among the K * D, output by output.
        title: Title of the picture.
        chosen: Position of the chosen strength.
        standardized: Whether coefficients are per standard deviation of the feature.
    """
    along = varied(rows)
    x = np.array([getattr(row, along) for row in rows])
    values = coef.flatten(1).numpy()
    lines = np.argsort(-np.abs(values).max(0), kind="stable")[:MAX_LINES]
    named = np.lexsort((-np.abs(values).max(0), -np.abs(values[chosen])))[:MAX_NAMED]
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes: Axes = figure.subplots()
    axes.plot(x, values[:, [line for line in lines if line not in named]], color="0.75", linewidth=0.8)
    for color, line in zip(LINE_COLORS, named, strict=False):
        axes.plot(x, values[:, line], color=color, linewidth=1.5, label=label(name_of(int(line)), 30))
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.axvline(x[chosen], color="black", linewidth=1, zorder=1)
    widest = np.abs(values[chosen]).max()
    if widest and np.abs(values).max() > MAX_COEFFICIENT_RATIO * widest:
        axes.set_ylim(-MAX_COEFFICIENT_RATIO * widest, MAX_COEFFICIENT_RATIO * widest)
    per = "per standard deviation of the feature" if standardized else "per unit of the feature"
    axes.set(xscale="log", xlabel=f"{along} (stronger penalty to the right)", ylabel=f"coefficient {per}", title=title)
    label_powers(axes.xaxis)
    axes.grid(alpha=0.3)
    if along == "l1":
        _count_above(axes, x[::-1], [row.nonzero for row in rows][::-1])
    axes.plot([], [], color="black", linewidth=1, label=f"chosen: {along} = {x[chosen]:.3g}")
    if len(lines) > len(named):
        axes.plot([], [], color="0.75", linewidth=0.8, label=f"{len(lines) - len(named):,} others")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    return figure


def search_history(
    history: Sequence[tuple[str, float | None]], title: str, score: str = "loss/val", sign: int = -1
) -> Figure:
    """Score of each trial of a search, in order, and the best so far.

    Args:
        history: State (complete, pruned, fail) and score of each trial.
        title: Title of the picture.
        score: Name of the score, such as "loss/val".
        sign: 1 where a higher score is better, else -1.
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
            label_powers(axes.yaxis)
    low = axes.get_ylim()[0]
    for state, marker, words in (("pruned", "|", "pruned"), ("fail", "x", "failed")):
        numbers = [number for number, (was, _) in enumerate(history, start=1) if was == state]
        if numbers:
            axes.plot(numbers, [low] * len(numbers), marker, color="0.4", label=words, clip_on=False, linestyle="none")
    axes.set(xlabel="trial", ylabel=score, title=f"{title}: trials")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    legend_below(figure, columns=4)
    return figure


def importance_bars(importance: Mapping[str, float], title: str, score: str = "loss/val") -> Figure:
    """Share of the variance of the scores that each key explains."""
    names, parts = list(importance)[::-1], list(importance.values())[::-1]
    figure = Figure(figsize=(7, 1.1 + 0.4 * len(names)), layout="constrained")
    axes: Axes = figure.subplots()
    axes.barh(range(len(names)), parts, color="#0072b2")
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    for place, part in enumerate(parts):
        axes.annotate(f"{part:.0%}", (part, place), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set(xlim=(0, 1.1), xlabel=f"share of the variance of {score} (fANOVA)", title=title)
    return figure
