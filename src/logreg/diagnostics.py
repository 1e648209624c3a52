"""Pictures of how a model fares: curves of the training, and what its probabilities are worth on held-out rows.

Colours are those of Okabe and Ito, which the colour-blind tell apart; lines differ in their dashes too, for print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from logreg.evaluation import BINS, Evaluation, Predicted, rows_worth, wilson
from logreg.facts import DataFacts
from logreg.ranking import Ranking

BLUE, ORANGE, GREEN, BLACK = "#0072b2", "#d55e00", "#009e73", "#000000"

MOST_CLASSES = 25
"""More than that are not written beside a confusion matrix."""

NUMBERED = 12
"""Up to so many classes the cells of a confusion matrix have their numbers."""

POINTS = 2000
"""Of a curve that is drawn; more cannot be seen."""


def loss_curves(history: Mapping[str, Mapping[int, float]], title: str) -> Figure | None:
    """Loss on train and val against passes over the data, with the gap to the optimum where it was known.

    Args:
        history: Value by pass, by tag such as "loss/train".
        title: Over the picture.

    Returns:
        ``None`` where no curve has two points.
    """
    drawn = [("loss/train", ORANGE, "-"), ("loss/val", BLUE, "--")]
    if all(len(history.get(tag, ())) < 2 for tag, _, _ in drawn):
        return None
    gaps = {step: gap for step, gap in history.get("optimality/gap", {}).items() if gap > 0}
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    handles = []
    for tag, colour, dashes in drawn:
        if points := history.get(tag):
            handles += axes.plot(*_thinned(points), dashes, color=colour, linewidth=2, label=tag)
    axes.set(xlabel="passes over the data", ylabel="loss, nats", title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(gaps) > 1:
        other = axes.twinx()
        handles += other.plot(
            *_thinned(gaps), ":", color=GREEN, linewidth=2, marker=".", label="optimality/gap (right)"
        )
        other.set(yscale="log", ylabel="objective above its least value, at most")
    axes.legend(handles=handles, loc="best")
    return figure


def reliability(predicted: Predicted, evaluation: Evaluation, facts: DataFacts, title: str) -> Figure:
    """How often the model is right against how sure it was, with the rows in each bin below."""
    if facts.is_binary:
        sure, right = predicted.probabilities[:, 1], (predicted.labels == 1).double()
        x, y = f"predicted probability of {facts.class_names[1]}", f"fraction that is {facts.class_names[1]}"
    else:
        sure, right = predicted.probabilities.max(1).values, (predicted.decided == predicted.labels).double()
        x, y = "probability of the predicted class", "fraction that is right"
    weight = predicted.weight
    places = (sure * BINS).long().clamp(max=BINS - 1)
    total, at, of = (torch.bincount(places, values, BINS) for values in (weight, weight * sure, weight * right))
    there = total > 0
    at, of = (at / total)[there], (of / total)[there]
    bins = there.nonzero()[:, 0].tolist()
    sure_of = [
        wilson(part, rows_worth(weight[places == number], predicted.counts))
        for part, number in zip(of.tolist(), bins, strict=True)
    ]
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
        label=f"calibration error {ece.value:.3f}",
    )
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel=y, title=title)
    upper.legend(loc="upper left")
    upper.grid(alpha=0.3)
    edges = np.linspace(0, 1, BINS + 1)
    lower.bar(edges[:-1], total.numpy(), width=1 / BINS, align="edge", color=BLUE, alpha=0.6, edgecolor="white")
    lower.set(xlabel=x, ylabel="rows")
    if float(total.max()) > 50 * float(total[there].min()):
        lower.set_yscale("log")
    return figure


def roc_and_precision_recall(
    predicted: Predicted, evaluation: Evaluation, facts: DataFacts, title: str
) -> Figure | None:
    """Both curves of two classes side by side, with the chosen threshold; ``None`` where one class is missing."""
    if "auroc" not in evaluation.metrics:
        return None
    order, last = Ranking.of(predicted.scores)
    score, weight = predicted.probabilities[order, 1], predicted.weight[order]
    positive = (predicted.labels[order] == 1).double() * weight
    hits, taken = positive.cumsum(0)[last], weight.cumsum(0)[last]
    alarms, score = taken - hits, score[last]
    zero = torch.zeros(1, dtype=torch.float64)
    recall, fallout = torch.cat([zero, hits / hits[-1]]), torch.cat([zero, alarms / alarms[-1]])
    precision = hits / taken
    area, mean = evaluation.metrics["auroc"], evaluation.metrics["average_precision"]
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], "--", color="0.5", linewidth=1, label="chance")
    left.plot(
        *_few(fallout, recall),
        color=BLUE,
        linewidth=2,
        label=f"AUROC {area.value:.4f} [{area.low:.4f}, {area.high:.4f}]",
    )
    base = float(hits[-1] / taken[-1])
    right.axhline(base, linestyle="--", color="0.5", linewidth=1, label=f"base rate {base:.3f}")
    right.plot(
        *_few(recall[1:], precision),
        color=BLUE,
        linewidth=2,
        label=f"average precision {mean.value:.4f} [{mean.low:.4f}, {mean.high:.4f}]",
    )
    if evaluation.threshold is not None and len(at := (score > evaluation.threshold.value).nonzero()):
        place = int(at[-1])
        label = f"threshold {evaluation.threshold.value:.3f}"
        left.plot(float(fallout[place + 1]), float(recall[place + 1]), "D", color=ORANGE, label=label)
        right.plot(float(recall[place + 1]), float(precision[place]), "D", color=ORANGE, label=label)
    name = facts.class_names[1]
    left.set(xlabel="false alarms, fraction of the others", ylabel=f"recall of {name}", xlim=(0, 1), ylim=(0, 1.01))
    right.set(xlabel=f"recall of {name}", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))
    for axes in (left, right):
        axes.legend(loc="lower right" if axes is left else "lower left", fontsize=9)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    return figure


def confusion_matrix(evaluation: Evaluation, facts: DataFacts, title: str) -> Figure:
    """What each class was taken for, a row's weight being 1 together: darker is more."""
    counts = evaluation.confusion
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1e-300)
    classes = len(counts)
    side = max(3.6, min(9.0, 1.8 + 0.5 * classes))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes: Axes = figure.subplots()
    drawn = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="part of the class's rows")
    if classes <= MOST_CLASSES:
        names = [name if len(name) <= 14 else name[:13] + "…" for name in facts.class_names]
        turn = 90 if classes > 4 and max(map(len, names)) > 3 else 0
        axes.set_xticks(range(classes), names, rotation=turn)
        axes.set_yticks(range(classes), names)
    if classes <= NUMBERED:
        for row, column in np.ndindex(classes, classes):
            number, share = float(counts[row, column]), float(shares[row, column])
            text = f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 0.5 else "0.2")
    accuracy = evaluation.metrics["accuracy"]
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{title}\naccuracy {accuracy.value:.2%} [{accuracy.low:.2%}, {accuracy.high:.2%}]", fontsize=10)
    return figure


class Mistake(NamedTuple):
    """A row that the model is wrong about."""

    position: int
    """In its split, from 0."""
    true: int
    predicted: int
    probability: float
    """Of the predicted class."""


def confident_mistakes(predicted: Predicted, most: int) -> list[Mistake]:
    """The rows of wrong class that the model was surest of, surest first."""
    sure, decided = predicted.probabilities.max(1)
    wrong = ((decided != predicted.labels) & (predicted.weight > 0)).nonzero()[:, 0]
    order = sure[wrong].argsort(descending=True, stable=True)[:most]
    return [
        Mistake(row, int(predicted.labels[row]), int(decided[row]), float(sure[row])) for row in wrong[order].tolist()
    ]


def mistakes_as_images(images: Tensor, mistakes: Sequence[Mistake], facts: DataFacts, title: str) -> Figure:
    """Thumbnails of confident mistakes.

    Args:
        images: Pixels in [0, 1] of the mistakes, shape (M, D).
        mistakes: M of them.
        facts: The shape of an image, the names of the classes.
        title: Over the picture.
    """
    columns = min(6, len(mistakes))
    rows = -(-len(mistakes) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.9 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, pixels, mistake in zip(grid.flat, images, mistakes, strict=False):
        image = pixels.reshape(facts.image_shape).clamp(0, 1)  # of 16 bits some may be brighter than white
        axes.imshow((image.permute(1, 2, 0) if image.ndim == 3 else image).numpy(), cmap="gray", vmin=0, vmax=1)
        true, taken = (_short(facts.class_names[label]) for label in (mistake.true, mistake.predicted))
        axes.set_title(f"{taken} {mistake.probability:.0%}\nis {true}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def coefficient_bars(largest: Sequence[Mapping[str, object]], title: str) -> Figure:
    """The largest coefficients by name.

    Args:
        largest: As `logreg.report.largest_coefficients` has them.
        title: Over the picture.
    """
    per_std = largest[0]["coef_per_std"] is not None
    values = [float(str(row["coef_per_std" if per_std else "coef"])) for row in largest][::-1]
    several = len({row["class"] for row in largest}) > 1
    names = [f"{row['feature']} → {row['class']}" if several else str(row["feature"]) for row in largest][::-1]
    figure = Figure(figsize=(7, 0.9 + 0.34 * len(names)), layout="constrained")
    axes: Axes = figure.subplots()
    bars = axes.barh(range(len(names)), values, color=[BLUE if value > 0 else ORANGE for value in values])
    for bar, value in zip(bars, values, strict=True):
        if value < 0:
            bar.set_hatch("//")
    axes.set_yticks(range(len(names)), [name if len(name) < 45 else name[:44] + "…" for name in names])
    axes.axvline(0, color="black", linewidth=0.8)
    towards = "" if several else f" towards {largest[0]['class']}"
    axes.set(xlabel=f"log-odds{towards} per {'standard deviation' if per_std else 'unit'}", title=title)
    axes.grid(alpha=0.3, axis="x")
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 12 else name[:11] + "…"


def _thinned(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    steps = sorted(points)
    every = -(-len(steps) // POINTS)
    kept = sorted({*steps[::every], steps[-1]})
    return kept, [points[step] for step in kept]


def _few(x: Tensor, y: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A curve with no more points than can be seen, its ends among them."""
    kept = torch.linspace(0, len(x) - 1, min(len(x), POINTS)).long()
    return x[kept].numpy(), y[kept].numpy()
