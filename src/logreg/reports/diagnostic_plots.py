"""Diagnostic pictures: loss curves, reliability, ROC, confusion matrix, mistakes, coefficients.

Colors are those of Okabe and Ito, which color-blind readers can distinguish; lines differ in their dashes too, for
print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, Locator, MaxNLocator
from torch import Tensor

from logreg.evaluation.held_out import BINS, Evaluation, frequent_mistakes
from logreg.evaluation.intervals import wilson
from logreg.evaluation.measured import MAX_LISTED_CLASSES
from logreg.evaluation.predicted import Predicted
from logreg.evaluation.ranking import Steps
from logreg.facts import DataFacts
from logreg.inference.results import CoefficientTable
from logreg.reports.figures import label, label_powers, labels, legend_below
from logreg.reports.mistakes import Mistake
from logreg.reports.summary_schema import CoefficientSummary
from logreg.reports.wording import typed_threshold, units_in_words
from logreg.terminal import counted

BLUE, ORANGE, GREEN, BLACK = "#0072b2", "#d55e00", "#009e73", "#000000"

NUM_CONFUSIONS = 20
"""Number of the most frequent mistakes that are drawn where classes are too many for a confusion matrix."""

MIN_FONT_SIZE = 5.0
"""Smallest font size that can be read, in points."""

CUT_OFF_RATIO = 10.0
"""Ratio of a bar's length to the next shorter one's above which the bar is cut off, so that the others are visible."""

NUM_ODDS_RATIOS = 40
"""Number of the odds ratios that are drawn, those with the largest z."""

MAX_POINTS = 2000
"""Largest number of points of a curve; more cannot be seen."""


def loss_curves(history: Mapping[str, Mapping[int, float]], title: str) -> Figure | None:
    """Loss on train and val against passes over the data, with the bound on the gap to the optimum.

    An exact optimizer may take a few passes before it knows f at its start.  Until then the model is that start, and
    neither curve is drawn.

    Args:
        history: For each tag, such as "loss/train", the value after each pass.
        title: Title of the picture.

    Returns:
        ``None`` where no curve has two points.
    """
    drawn = [("loss/train", ORANGE, "-"), ("loss/val", BLUE, "--")]
    if all(len(history.get(tag, ())) < 2 for tag, _, _ in drawn):
        return None
    first = min(history.get("loss/train") or (0,))
    gaps = {step: gap for step, gap in history.get("optimality/gap", {}).items() if gap > 0}
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    handles = []
    for tag, color, dashes in drawn:
        if points := {step: loss for step, loss in history.get(tag, {}).items() if step >= first}:
            handles += axes.plot(*_thinned(points), dashes, color=color, linewidth=2, label=tag)
    axes.set(xlabel="passes over the data", ylabel="loss, nats", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(gaps) > 1:
        other = axes.twinx()
        handles += other.plot(
            *_thinned(gaps), ":", color=GREEN, linewidth=2, marker=".", label="optimality/gap (right)"
        )
        other.set(yscale="log", ylabel="upper bound on objective - minimum, nats")
        label_powers(other.yaxis)
    legend_below(figure, handles, columns=3)
    return figure


def reliability(predicted: Predicted, evaluation: Evaluation, facts: DataFacts, title: str) -> Figure:
    """Fraction of right predictions against the predicted probability, with the number of rows in each bin below."""
    if facts.is_binary:
        name = label(facts.class_names[1], 24)
        x, y = f"predicted probability of {name}", f"fraction that is {name}"
    else:
        x, y = "probability of the predicted class", "fraction that is right"
    sums = torch.zeros(4, BINS, dtype=torch.float64)
    for _, part in predicted.parts():
        if facts.is_binary:
            sure, right = part.positive, part.labels == 1
        else:
            sure, right = part.rows.confidence, part.decided == part.labels
        weight, places = part.weight, (sure * BINS).long().clamp(max=BINS - 1)
        for of_bins, values in zip(sums, (weight, weight * sure, weight * right, weight.square()), strict=True):
            of_bins += torch.bincount(places, values, BINS)
    total, at, of, squares = sums
    there = total > 0
    at, of = (at / total)[there], (of / total)[there]
    effective = total if predicted.counts else total.square() / squares
    sure_of = [wilson(*each) for each in zip(of.tolist(), effective[there].tolist(), strict=True)]
    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot([0, 1], [0, 1], "--", color="0.5", linewidth=1, label="perfectly calibrated")
    errors = np.array([(max(0.0, one.value - one.low), max(0.0, one.high - one.value)) for one in sure_of]).T
    ece = evaluation.metrics["ece"]
    upper.errorbar(
        at.numpy(),
        of.numpy(),
        yerr=errors,
        fmt="o",
        color=BLUE,
        capsize=2,
        markersize=5,
        label=f"calibration error {ece.value:.3f} [{ece.low:.3f}, {ece.high:.3f}]",
    )
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel=y)
    rows = len(predicted.labels)
    upper.set_title(f"{title}, {counted(rows, 'row')}", fontsize=11)
    legend_below(figure, columns=2)
    upper.grid(alpha=0.3)
    edges = np.linspace(0, 1, BINS + 1)
    lower.bar(edges[:-1], total.numpy(), width=1 / BINS, align="edge", color=BLUE, alpha=0.6, edgecolor="white")
    lower.set(xlabel=x, ylabel="rows")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    if float(total.max()) > 50 * float(total[there].min()):
        lower.set_yscale("log")
        label_powers(lower.yaxis)
    return figure


def roc_and_precision_recall(
    predicted: Predicted, evaluation: Evaluation, facts: DataFacts, title: str
) -> Figure | None:
    """ROC and precision-recall curves of two classes, with the chosen threshold; ``None`` where a class is missing."""
    if "auroc" not in evaluation.metrics:
        return None
    ranking = predicted.ranking
    steps = ranking.steps(predicted.labels, predicted.sample_weight)
    length = len(steps.hits)
    drawn = torch.linspace(0, length, min(length + 1, MAX_POINTS), dtype=torch.float64).long()  # numbers of steps
    recall, fallout, precision = (each.numpy() for each in _after(steps, drawn))
    area, mean = evaluation.metrics["auroc"], evaluation.metrics["average_precision"]
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], "--", color="0.5", linewidth=1, label="chance")
    left.plot(
        fallout,
        recall,
        color=BLUE,
        linewidth=2,
        label=f"AUROC {area.value:.4f} [{area.low:.4f}, {area.high:.4f}]",
    )
    base = float(precision[-1])
    right.axhline(base, linestyle="--", color="0.5", linewidth=1, label=f"base rate {base:.3f}")
    right.plot(
        recall,
        precision,
        color=BLUE,
        drawstyle="steps-pre",  # so that the area below is the average precision
        linewidth=2,
        label=f"average precision {mean.value:.4f} [{mean.low:.4f}, {mean.high:.4f}]",
    )
    if evaluation.threshold is not None:
        score = predicted.positive[ranking.order[ranking.is_last]]  # of each step
        taken = int((score > evaluation.threshold.value).sum())
        caught, at, exact = (float(each[0]) for each in _after(steps, torch.tensor([taken])))
        mark: dict[str, Any] = {"marker": "D", "color": ORANGE, "linestyle": "none", "clip_on": False, "zorder": 3}
        words = f"p > {typed_threshold(evaluation.threshold.value)}, best on {evaluation.threshold.chosen_on}"
        left.plot(at, caught, label=f"{words}: recall {caught:.1%}, false positive rate {at:.1%}", **mark)
        if taken:
            right.plot(caught, exact, label=f"{words}: precision {exact:.1%}", **mark)
    name = label(facts.class_names[1], 24)
    left.set(xlabel="false positive rate", ylabel=f"recall of {name}")
    right.set(xlabel=f"recall of {name}", ylabel="precision")
    for axes in (left, right):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    legend_below(figure, columns=2)
    return figure


def confusion_matrix(evaluation: Evaluation, facts: DataFacts, title: str) -> Figure:
    """Predicted against true classes; the colors are fractions of each true class.

    Of more than `MAX_LISTED_CLASSES` classes, whose cells would be too small to see, the most frequent mistakes.
    """
    if len(evaluation.classes) > MAX_LISTED_CLASSES:
        return _frequent_mistakes(evaluation, facts, title)
    counts = evaluation.confusion.to_dense()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1e-300)
    classes = len(counts)
    side = max(2.6, min(9.0, 0.5 * classes))
    cell = 72 * side / classes  # points
    names = labels(facts.class_names, 16)
    letters, size = max(map(len, names), default=0), max(MIN_FONT_SIZE, min(10.0, 0.8 * cell))
    turned = 0.65 * size * letters > cell
    margin = 0.65 * size * letters / 72  # for the longest name
    width, height = side + margin + 1.6, side + (margin if turned else 0.2) + 1.0
    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Axes = figure.subplots()
    drawn = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="fraction of the true class")
    axes.set_xticks(range(classes), names, rotation=90 if turned else 0, fontsize=size)
    axes.set_yticks(range(classes), names, fontsize=size)
    texts = [f"{count:,.0f}" if count == int(count) else f"{count:,.1f}" for count in counts.flatten().tolist()]
    size = min(8.0, 0.8 * cell, 0.9 * cell / (0.65 * max(map(len, texts))))
    for (row, column), text in zip(np.ndindex(classes, classes), texts, strict=True):
        if size < MIN_FONT_SIZE or not counts[row, column]:
            continue
        color = "white" if float(shares[row, column]) > 0.5 else "0.2"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    accuracy = evaluation.metrics["accuracy"]
    axes.set(xlabel="predicted", ylabel="true")
    figure.suptitle(f"{title}\naccuracy {accuracy.value:.2%} [{accuracy.low:.2%}, {accuracy.high:.2%}]", fontsize=10)
    return figure


def _frequent_mistakes(evaluation: Evaluation, facts: DataFacts, title: str) -> Figure:
    """The numbers of rows of the most frequent mistakes, as bars."""
    frequent = frequent_mistakes(evaluation.confusion, NUM_CONFUSIONS)[::-1]
    names = [
        f"{label(facts.class_names[true], 24)} → {label(facts.class_names[predicted], 24)}"
        for true, predicted, _ in frequent
    ]
    figure = Figure(figsize=(7, 1.4 + 0.26 * max(len(names), 1)), layout="constrained")
    axes: Axes = figure.subplots()
    bars = axes.barh(range(len(names)), [weight for _, _, weight in frequent], color=ORANGE)
    axes.bar_label(bars, fmt="{:,.4g}", padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.margins(x=0.12, y=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="rows", ylabel="class → predicted class")
    axes.grid(alpha=0.3, axis="x")
    accuracy = evaluation.metrics["accuracy"]
    words = f"accuracy {accuracy.value:.2%} [{accuracy.low:.2%}, {accuracy.high:.2%}]"
    which = f"the most frequent mistakes of {facts.num_classes:,} classes"
    figure.suptitle(f"{title}, {which}\n{words}", fontsize=10)
    return figure


def mistakes_as_images(images: Tensor, mistakes: Sequence[Mistake], facts: DataFacts, title: str) -> Figure:
    """Thumbnails of the most confident mistakes.

    Args:
        images: Pixels in [0, 1] of the mistakes, shape (M, D).
        mistakes: M mistakes.
        facts: The shape of an image, the names of the classes.
        title: Title of the picture.
    """
    columns = min(6, len(mistakes))
    rows = -(-len(mistakes) // columns)
    figure = Figure(figsize=(max(4.0, 1.75 * columns), 2.1 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, pixels, mistake in zip(grid.flat, images, mistakes, strict=False):
        image = pixels.reshape(facts.image_shape).clamp(0, 1)  # 16-bit pixels may be brighter than white
        axes.imshow((image.permute(1, 2, 0) if image.ndim == 3 else image).numpy(), cmap="gray", vmin=0, vmax=1)
        true, predicted = (label(facts.class_names[number], 11) for number in (mistake.true, mistake.predicted))
        axes.set_title(f"true: {true}\npred: {predicted}, {mistake.probability:.2f}", fontsize=8, loc="left")
    figure.suptitle(title, fontsize=11)
    return figure


def coefficient_bars(largest: Sequence[CoefficientSummary], title: str, scale: str = "log-odds") -> Figure:
    """The largest coefficients by name, each with its value.

    Args:
        largest: The result of `logreg.reports.summary.largest_coefficients`.
        title: Title of the picture.
        scale: Name of the link's scale.
    """
    values = [row.of_fit for row in largest][::-1]
    several = len({row.class_name for row in largest}) > 1
    names = [
        f"{label(row.feature, 26)} → {label(row.class_name, 16)}" if several else label(row.feature, 36)
        for row in largest
    ][::-1]
    figure = Figure(figsize=(8, 1.1 + 0.3 * len(names)), layout="constrained")
    axes: Axes = figure.subplots()
    end = _end_of_bars([abs(value) for value in values])
    shown = [max(-end, min(end, value)) for value in values]
    bars = axes.barh(range(len(names)), shown, color=[BLUE if value > 0 else ORANGE for value in values])
    for bar, value in zip(bars, values, strict=True):
        if value < 0:
            bar.set_hatch("//")
        text = f"{value:.3g}" + (", cut off" if abs(value) > end else "")
        place = (max(-end, min(end, value)), bar.get_y() + bar.get_height() / 2)
        side = {"xytext": (3 if value >= 0 else -3, 0), "ha": "left" if value >= 0 else "right"}
        axes.annotate(text, place, textcoords="offset points", va="center", fontsize=8, **side)  # type: ignore[arg-type]  # by name
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.margins(x=0.16 if max(map(abs, values)) == end else 0.24, y=0.02)
    axes.axvline(0, color="black", linewidth=0.8)
    toward = "" if several else f" toward {label(largest[0].class_name, 24)}"
    axes.set_xlabel(f"{scale}{toward} {units_in_words(largest)}")
    figure.suptitle(title, fontsize=11)
    axes.grid(alpha=0.3, axis="x")
    return figure


def forest_plot(table: CoefficientTable, title: str) -> Figure | None:
    """Odds ratios per standard deviation with their intervals, the farthest from 1 where they are many.

    Args:
        table: The coefficients.
        title: Title of the picture.

    Returns:
        ``None`` where there is no coefficient besides the intercept, or where coefficients are not log-odds.
    """
    rows = [(row, row.per_std) for row in table.coefficients if row.per_std is not None and table.gives_odds]
    largest = sorted(rows, key=lambda pair: -pair[0].distance)[:NUM_ODDS_RATIOS]
    drawn = [(row, effect) for row, effect in rows if any(row is one for one, _ in largest)][::-1]
    if not drawn:
        return None
    several = len({row.class_name for row, _ in drawn}) > 1
    names = [
        f"{label(row.feature, 26)} → {label(row.class_name, 16)}" if several else label(row.feature, 36)
        for row, _ in drawn
    ]
    places = range(len(drawn))
    # on the scale of log-odds, which is what a logarithmic axis of odds ratios shows, and which does not overflow
    values = np.array([[effect.low, effect.coef, effect.high] for _, effect in drawn]) / np.log(10)
    figure = Figure(figsize=(8, 1.3 + 0.3 * len(drawn)), layout="constrained")
    axes: Axes = figure.subplots()
    for place, (low, _, high) in zip(places, values, strict=True):
        color = BLACK if low <= 0 <= high else BLUE
        axes.plot([low, high], [place, place], color=color, linewidth=1.6)
    axes.plot(values[:, 1], places, "s", color=BLACK, markersize=4)
    axes.axvline(0, color=BLACK, linewidth=0.8, linestyle="--")
    axes.set_yticks(places, names, fontsize=9)
    axes.margins(y=0.03)
    axes.xaxis.set_major_formatter(lambda exponent, _: _power_of_ten(exponent))
    axes.xaxis.set_major_locator(_ticks_of_ratios(float(values.min()), float(values.max())))
    ratios = [[_power_of_ten(exponent) for exponent in of_row] for of_row in values[:, [1, 0, 2]]]
    in_words = [f"{one} [{low}, {high}]" for one, low, high in ratios]
    axes.secondary_yaxis("right").set_yticks(places, in_words, fontsize=8)
    against = f"odds against {label(table.reference_class, 24)}"
    if not several:
        against = f"odds of {label(drawn[0][0].class_name, 24)} {against.removeprefix('odds ')}"
    axes.set_xlabel(f"{against}, ratio per standard deviation, {100 * table.confidence:.6g} % intervals")
    figure.suptitle(title, fontsize=11)
    axes.grid(alpha=0.3, axis="x")
    return figure


def _ticks_of_ratios(low: float, high: float) -> Locator:
    """Ticks at round ratios, on an axis of their logarithms to base 10."""
    for digits in ((1, 1.2, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5)):
        ticks = [
            float(np.log10(digit)) + exponent
            for exponent in range(int(np.floor(low)), int(np.ceil(high)))
            for digit in digits
        ]
        if 3 <= sum(low <= tick <= high for tick in ticks) <= 10:
            return FixedLocator(ticks)
    return MaxNLocator(8, integer=high - low > 3)


def _power_of_ten(exponent: float) -> str:
    return f"{10.0**exponent:.3g}" if abs(exponent) < 300 else f"1e{exponent:.0f}"


def _end_of_bars(sizes: Sequence[float]) -> float:
    """Length at which bars are cut off: the longest, or less where a few exceed the next ``CUT_OFF_RATIO`` times."""
    ordered = sorted(sizes, reverse=True)
    few = max(1, len(ordered) // 4)
    for longer, next_one in pairwise(ordered[: few + 1]):
        if longer > CUT_OFF_RATIO * next_one > 0:
            return 1.5 * next_one
    return ordered[0]


def _thinned(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    steps = sorted(points)
    every = -(-len(steps) // MAX_POINTS)
    kept = sorted({*steps[::every], steps[-1]})
    return kept, [points[step] for step in kept]


def _after(steps: Steps, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Recall, false positive rate and precision after some steps of the ROC curve; before any, the first precision.

    Args:
        steps: The steps.
        numbers: Numbers of steps, shape (n,).

    Returns:
        Shape (n,) each.
    """
    last = numbers.clamp(min=1) - 1
    hits, alarms = (each.cumsum(0, dtype=torch.float64)[last] for each in steps)
    recall, fallout = (part * (numbers > 0) / whole.sum() for part, whole in zip((hits, alarms), steps, strict=True))
    return recall, fallout, hits / (hits + alarms)
