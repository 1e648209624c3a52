"""The pictures of how a model fares, looked at by what they are drawn of; and the page that they stand in."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatterSciNotation
from sklearn.metrics import precision_recall_curve, roc_curve

from legends import assert_the_legend_is_below
from logreg.evaluation.held_out import Evaluation, evaluate
from logreg.evaluation.predicted import Predicted
from logreg.evaluation.threshold import best_threshold
from logreg.facts import DataFacts
from logreg.reports.diagnostic_plots import (
    coefficient_bars,
    confusion_matrix,
    loss_curves,
    mistakes_as_images,
    reliability,
    roc_and_precision_recall,
)
from logreg.reports.figures import PowersOfTen
from logreg.reports.html import as_html
from logreg.reports.mistakes import confident_mistakes
from logreg.reports.summary_schema import CoefficientSummary
from whole_runs import Run, train


def facts_of(classes: int, **others: Any) -> DataFacts:
    return DataFacts("made", 4, tuple(f"class {k}" for k in range(classes)), {"train": 3}, **others)


def made(classes: int, rows: int = 500) -> tuple[Predicted, Evaluation]:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(2 * logits, 1), 1, generator=draw)[:, 0]
    predicted = Predicted(torch.softmax(logits, 1), labels)
    return predicted, evaluate(predicted, facts_of(classes).class_names, [1 / classes] * classes)


def drawn(figure: Figure | None) -> np.ndarray[Any, Any]:
    """The picture's pixels: it can be drawn, and is not blank."""
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    assert pixels[..., :3].std() > 1
    return pixels


@pytest.mark.long
@pytest.mark.parametrize("classes", [2, 5])
def test_reliability_shows_how_often_each_bin_is_right(classes: int) -> None:
    predicted, evaluation = made(classes)
    figure = reliability(predicted, evaluation, facts_of(classes), "made")
    drawn(figure)
    line = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    at, of = line.get_data()
    sure = predicted.probabilities[:, 1] if classes == 2 else predicted.probabilities.max(1).values
    right = predicted.labels == (1 if classes == 2 else predicted.decided)
    for low in np.arange(15) / 15:
        inside = ((sure >= low) & (sure < low + 1 / 15)).numpy()
        if inside.any():
            place = int(np.argmin(np.abs(np.asarray(at) - sure.numpy()[inside].mean())))
            assert np.asarray(of)[place] == pytest.approx(right.numpy()[inside].mean())


@pytest.mark.long
def test_the_curves_are_those_of_scikit_learn() -> None:
    predicted, evaluation = made(2)
    figure = roc_and_precision_recall(predicted, evaluation, facts_of(2), "made")
    drawn(figure)
    assert figure is not None
    assert_the_legend_is_below(figure)
    p, y = predicted.probabilities[:, 1].numpy(), predicted.labels.numpy()
    fallout, recall, _ = roc_curve(y, p, drop_intermediate=False)
    x, ours = next(line for line in figure.axes[0].lines if "AUROC" in str(line.get_label())).get_data()
    np.testing.assert_allclose(np.stack([x, ours]), np.stack([fallout, recall]))
    precision, recall, _ = precision_recall_curve(y, p)
    x, ours = next(line for line in figure.axes[1].lines if "average" in str(line.get_label())).get_data()
    np.testing.assert_allclose(np.stack([x, ours])[:, 1:], np.stack([recall[-2::-1], precision[-2::-1]]))
    steps = (np.diff(x) * np.asarray(ours)[1:]).sum()
    assert steps == pytest.approx(evaluation.metrics["average_precision"].value)  # the area that is drawn


def test_one_class_alone_has_no_curves() -> None:
    predicted, _ = made(2)
    alone = Predicted(predicted.probabilities, torch.ones_like(predicted.labels))
    assert roc_and_precision_recall(alone, evaluate(alone, ["a", "b"], [0.5, 0.5]), facts_of(2), "made") is None


@pytest.mark.long
def test_the_mark_of_the_threshold_lies_on_both_curves_where_its_rows_are() -> None:
    predicted, _ = made(2)
    p, positive = predicted.probabilities[:, 1], predicted.labels == 1
    for value in (0.0, 1e-7, 0.3, 0.7, 1.0):
        chosen = (best_threshold(predicted, 1.0), "val")
        evaluation = evaluate(predicted, ["a", "b"], [0.5, 0.5], chosen)
        assert evaluation.threshold is not None
        moved = replace(evaluation, threshold=replace(evaluation.threshold, value=value))
        figure = roc_and_precision_recall(predicted, moved, facts_of(2), "made")
        drawn(figure)
        assert figure is not None
        yes = p > value
        recall, fallout = float(yes[positive].double().mean()), float(yes[~positive].double().mean())
        (mark,) = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
        assert np.ravel(np.asarray(mark.get_data())).tolist() == pytest.approx([fallout, recall])
        assert f"p > {value:g}, best on val: recall {recall:.1%}, false positive rate {fallout:.1%}" in str(
            mark.get_label()
        )
        assert not mark.get_clip_on()  # whole also in a corner
        marks = [line for line in figure.axes[1].lines if line.get_marker() == "D"]
        assert len(marks) == bool(yes.any())
        for mark in marks:
            precision = float(positive[yes].double().mean())
            assert np.ravel(np.asarray(mark.get_data())).tolist() == pytest.approx([recall, precision])


@pytest.mark.long
@pytest.mark.parametrize(("classes", "kind"), [(2, "long"), (10, "alike"), (20, "short"), (20, "long"), (20, "alike")])
def test_a_confusion_matrix_has_names_and_numbers(classes: int, kind: str) -> None:
    names = {
        "short": [str(k) for k in range(classes)],
        "long": [f"{k} is a class with a name of many letters" for k in range(classes)],
        "alike": [f"a class whose name begins as all do {k:02d} and ends so too" for k in range(classes)],
    }[kind]
    _, evaluation = made(classes)
    figure = confusion_matrix(evaluation, replace(facts_of(classes), class_names=tuple(names)), "made")
    drawn(figure)
    axes = figure.axes[0]
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert len({tick.get_text() for tick in ticks}) == classes
    for one, other in pairwise(tick.get_window_extent() for tick in axes.get_xticklabels()):
        assert one.x1 <= other.x0 + 1  # none lies on the next
    texts = [text.get_text() for text in axes.texts]
    assert texts == [f"{count:,.0f}" for count in evaluation.confusion.to_dense().flatten().tolist() if count]
    width = axes.get_window_extent().width / classes
    assert all(text.get_window_extent().width <= width for text in axes.texts)
    extent = figure.bbox
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        box = tick.get_window_extent()
        assert extent.x0 <= box.x0 <= box.x1 <= extent.x1
        assert extent.y0 <= box.y0 <= box.y1 <= extent.y1


@pytest.mark.long
def test_of_very_many_classes_the_most_frequent_mistakes_are_drawn() -> None:
    _, evaluation = made(150, rows=2000)
    figure = confusion_matrix(evaluation, facts_of(150), "made")
    drawn(figure)
    axes, counts = figure.axes[0], evaluation.confusion.to_dense().fill_diagonal_(0)
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    widths = [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]
    assert len(names) == len(widths) == 20
    assert widths == sorted(widths)
    assert widths[-1] == float(counts.max())
    for name, width in zip(names, widths, strict=True):
        true, predicted = (int(part.removeprefix("class ")) for part in name.split(" → "))
        assert float(counts[true, predicted]) == width
    assert "150 classes" in figure.get_suptitle()


@pytest.mark.long
def test_numbers_too_wide_for_their_cells_are_left_out() -> None:
    _, evaluation = made(40)
    texts = confusion_matrix(evaluation, facts_of(40), "made").axes[0].texts
    assert len(texts) > 40
    evaluation = replace(evaluation, confusion=evaluation.confusion * 12345.5)
    assert len(confusion_matrix(evaluation, facts_of(40), "made").axes[0].texts) == 0


@pytest.mark.parametrize("classes", [2, 3])
def test_mistakes_and_reliability_of_rows_in_parts_are_those_of_all_rows(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted, evaluation = made(classes)
    predicted.probabilities[400:] = predicted.probabilities[:100].clone()  # equal ones, in the order of the rows
    predicted = replace(predicted, sample_weight=torch.arange(500, dtype=torch.float64) % 3)
    weight, (sure, decided) = predicted.weight, predicted.probabilities.max(1)
    wrong = ((decided != predicted.labels) & (weight > 0)).nonzero()[:, 0]
    order = wrong[sure[wrong].argsort(descending=True, stable=True)]
    whole = reliability(predicted, evaluation, facts_of(classes), "made")
    monkeypatch.setattr("logreg.evaluation.predicted.ROWS_AT_ONCE", 7)
    assert [one.position for one in confident_mistakes(predicted, 40)] == order[:40].tolist()
    parts = reliability(predicted, evaluation, facts_of(classes), "made")
    for one, other in zip(whole.axes[0].lines, parts.axes[0].lines, strict=True):
        np.testing.assert_allclose(np.asarray(one.get_data()), np.asarray(other.get_data()))


@pytest.mark.long
@pytest.mark.parametrize("shape", [(2, 2), (3, 2, 2)])
def test_mistakes_as_thumbnails(shape: tuple[int, ...]) -> None:
    predicted, _ = made(3)
    found = confident_mistakes(predicted, 8)
    images = torch.rand(8, int(np.prod(shape)))
    figure = mistakes_as_images(images, found, facts_of(3, image_shape=shape), "made")
    drawn(figure)
    first = found[0]
    assert (
        figure.axes[0].get_title(loc="left")
        == f"true: class {first.true}\npred: class {first.predicted}, {first.probability:.2f}"
    )


@pytest.mark.long
@pytest.mark.parametrize("mistakes", [1, 7])
def test_titles_of_mistakes_do_not_lie_on_each_other(mistakes: int) -> None:
    predicted, _ = made(3)
    found = confident_mistakes(predicted, mistakes)
    names = ("MOUNTAIN BIKES AND WAGONS", "_comp.windows.x and more", "$a class$")
    facts = replace(facts_of(3, image_shape=(2, 2)), class_names=names)
    figure = mistakes_as_images(torch.rand(mistakes, 4), found, facts, "most confident mistakes on test")
    drawn(figure)
    boxes = [axes._left_title.get_window_extent() for axes in figure.axes[:mistakes]]  # type: ignore[attr-defined]  # matplotlib's own
    for one, other in pairwise(boxes[:6]):
        assert one.x1 <= other.x0
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.long
def test_logarithmic_axes_are_labeled_as_matplotlib_labels_them_without_its_formulas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs, ours = LogFormatterSciNotation(), PowersOfTen()
    for formatter in (theirs, ours):
        axes = Figure().subplots()
        axes.set(yscale="log", ylim=(0.02, 0.09))
        formatter.set_axis(axes.yaxis)
        formatter.set_locs([0.02, 0.04, 0.06, 0.07])
    two = "2\N{MULTIPLICATION SIGN}10⁻²"
    for value, formula, label in ((1e-12, "10^{-12}", "10⁻¹²"), (1.0, "10^{0}", "10⁰"), (0.02, r"2\times10^{-2}", two)):
        assert theirs(value) == rf"$\mathdefault{{{formula}}}$"
        assert ours(value) == label
    assert theirs(0.07) == ours(0.07) == ""  # where the labels of all would be too many

    def refuse(*_: object) -> None:
        raise AssertionError("a formula was parsed")

    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", refuse)
    drawn(loss_curves({"loss/train": {1: 0.9, 2: 0.5}, "optimality/gap": {1: 0.1, 2: 1e-5}}, "made"))


def test_the_curves_of_train_and_val_begin_with_the_first_pass_that_knows_the_objective() -> None:
    figure = loss_curves({"loss/train": {4: 0.7, 5: 0.2}, "loss/val": dict.fromkeys(range(1, 5), 0.7) | {5: 0.3}}, "x")
    assert figure is not None
    assert [np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines] == [[4, 5], [4, 5]]
    assert loss_curves({"loss/val": {1: 0.7, 2: 0.3}}, "x") is not None


@pytest.mark.long
def test_the_curves_of_a_training() -> None:
    history = {
        "loss/train": {1: 0.9, 2: 0.5, 3: 0.4},
        "loss/val": {1: 1.0, 2: 0.7, 3: 0.6},
        "optimality/gap": {2: 0.1, 3: 0.0},
    }
    figure = loss_curves(history, "made")
    drawn(figure)
    assert figure is not None
    assert_the_legend_is_below(figure)
    assert {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines} == {
        "loss/train": [0.9, 0.5, 0.4],
        "loss/val": [1.0, 0.7, 0.6],
    }
    assert loss_curves({"loss/train": {1: 0.5}}, "made") is None
    long = loss_curves({"loss/train": {step: 1 / step for step in range(1, 50_001)}}, "made")
    assert long is not None
    assert len(np.asarray(long.axes[0].lines[0].get_ydata())) <= 2001


def test_bars_of_coefficients_are_told_apart_without_colors() -> None:
    largest = [
        CoefficientSummary(feature="a", class_name="yes", coef=2.0, coef_per_std=1.0),
        CoefficientSummary(feature="b", class_name="yes", coef=-9.0, coef_per_std=-0.5),
    ]
    figure = coefficient_bars(largest, "made")
    drawn(figure)
    bars = figure.axes[0].patches
    assert [bar.get_width() for bar in bars] == [-0.5, 1.0]  # type: ignore[attr-defined]  # rectangles
    assert [bool(bar.get_hatch()) for bar in bars] == [True, False]


def test_bars_of_features_that_are_not_standardized_are_per_unit() -> None:
    largest = [
        CoefficientSummary(feature="a", class_name="yes", coef=2.0, coef_per_std=1.0),
        CoefficientSummary(feature="b", class_name="yes", coef=-9.0, coef_per_std=None),
    ]
    axes = coefficient_bars(largest, "made").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [-9.0, 1.0]  # type: ignore[attr-defined]  # rectangles
    assert axes.get_xlabel() == "log-odds toward yes per standard deviation, or per unit where not standardized"


def bars_of(*values: float) -> Figure:
    largest = [
        CoefficientSummary(feature=f"x{k}", class_name="yes", coef=1.0, coef_per_std=v) for k, v in enumerate(values)
    ]
    figure = coefficient_bars(largest, "made")
    drawn(figure)
    return figure


def test_one_huge_coefficient_leaves_the_others_their_bars() -> None:
    axes = bars_of(-3e7, 2.0, 1.5, -1.0).axes[0]
    widths = [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)][::-1]
    assert widths == [-3.0, 2.0, 1.5, -1.0]
    assert [text.get_text() for text in axes.texts][::-1] == ["-3e+07, cut off", "2", "1.5", "-1"]
    low, high = axes.get_xlim()
    assert -5 < low < -3
    assert 2 < high < 4
    inside = axes.get_window_extent()
    assert all(inside.x0 <= text.get_window_extent().x0 for text in axes.texts)
    assert all(text.get_window_extent().x1 <= inside.x1 for text in axes.texts)


@pytest.mark.parametrize("values", [(9.0, 2.0, 1.0), (5.0,), (1e300, 9e299), (3.0, 0.0, 0.0), (0.0, 0.0)])
def test_bars_that_can_be_seen_are_whole(values: tuple[float, ...]) -> None:
    widths = [bar.get_width() for bar in bars_of(*values).axes[0].patches]  # type: ignore[attr-defined]  # rectangles
    assert widths[::-1] == list(values)


def test_names_of_strangers_are_no_formulas_and_not_too_long() -> None:
    names = ["$\\frac{", "costs $5 or $6", "x" * 300, "two\nlines", "_hidden", "a\x1b[31m"]
    largest = [
        CoefficientSummary(feature=name, class_name=f"class {name}", coef=1.0, coef_per_std=None) for name in names
    ]
    figure = coefficient_bars(largest, "made")
    drawn(figure)
    texts = [tick.get_text() for tick in figure.axes[0].get_yticklabels()][::-1]
    assert "costs $5 or $6 → class" in texts[1].replace("\\$", "$")
    assert all(len(text) < 55 and text.isprintable() for text in texts)
    assert figure.axes[0].get_window_extent().width > 0.4 * figure.bbox.width


@pytest.mark.long
def test_few_rows_are_counted_in_whole_rows_and_every_point_is_seen() -> None:
    predicted, evaluation = made(2, rows=5)
    figure = reliability(predicted, evaluation, facts_of(2), "made")
    drawn(figure)
    upper, lower = figure.axes
    assert upper.get_title() == "made, 5 rows"
    assert all(tick == int(tick) for tick in lower.get_yticks())
    low, high = upper.get_ylim()
    assert low < 0 < 1 < high
    assert_the_legend_is_below(figure)


class Page(HTMLParser):
    """What a page has in it; a tag that is not closed is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with everything that a table of two classes has to show."""
    here = tmp_path_factory.mktemp("full")
    return train(here, "dataset=breast_cancer", "l2=[1e-2,1e-3]", "calibrate=temperature", "report=full")


@pytest.mark.long
def test_the_page_is_whole_and_needs_nothing_else(full: Run) -> None:
    page = Page()
    page.feed((full.folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    pictures = {path.stem for path in (full.folder / "figures").glob("*.png")}
    assert pictures == {"coefficient_paths", "coefficients", "confusion", "path", "reliability", "roc"}
    assert len(page.sources) == len(pictures)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    inside = {base64.b64decode(source.partition(",")[2]) for source in page.sources}
    assert inside == {path.read_bytes() for path in (full.folder / "figures").glob("*.png")}
    for words in ("Scores on test", "average precision", "malignant", "Where a false negative costs", "temperature"):
        assert words in page.text


@pytest.mark.long
def test_tensorboard_has_the_pictures_the_curves_and_the_coefficients(full: Run) -> None:
    tags = full.events().Tags()
    assert set(tags["images"]) == {"coefficient_paths", "coefficients", "confusion", "path", "reliability", "roc"}
    assert tags["histograms"] == ["coefficients/benign"]
    assert "test/benign" in tags["tensors"]


def test_text_in_a_page_is_no_markup() -> None:
    page = as_html("runs/<x>", "# a <b> & c\n\n| x\\|y | n |\n|---|--:|\n| <script> | 1 |\n\n- `<i>` & <u>\n", {})
    parsed = Page()
    parsed.feed(page)
    assert parsed.open == []
    assert not {"b", "script", "i", "u"} & set(parsed.seen)
    for text in ("a <b> & c", "x|y", "<script>", "<i>", "runs/<x>"):
        assert text in parsed.text


def test_a_brief_report_has_no_pictures(tmp_path: Path) -> None:
    folder = train(tmp_path, "dataset=iris", "l2=1e-2", "report=brief").folder
    assert not (folder / "figures").exists()
    assert not (folder / "report.html").exists()
    text = (folder / "report.md").read_text()
    assert "## Scores on test" in text
    assert not re.search(r"!\[", text)
