"""Pictures by what is drawn: curves, limits, names."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from legends import assert_the_legend_is_below
from logreg.evaluation.path_row import PathRow
from logreg.facts import DataFacts
from logreg.reports.figures import (
    coefficient_images,
    coefficient_paths,
    further_fonts,
    label,
    label_powers,
    labels,
    lettered,
    path_curve,
    probability_curve,
    search_history,
)
from whole_runs import Answer

# names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age", "age"),
        ("talk.politics.mideast", "talk.po…mideast"),
        ("", ""),
        ("學習時間的小時數每週", "學習時…數每週"),
        ("two\nlines", r"two\nlines"),
        ("$x$", r"\$x\$"),
        ("_x", " _x"),
        ("\x1b[31m", r"\x1b[31m"),
    ],
)
def test_a_name_in_a_picture_is_short_and_plain(text: str, expected: str) -> None:
    assert label(text, 15) == expected


def test_names_that_differ_in_their_middle_get_more_letters() -> None:
    names = ["comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware"]
    assert label(names[0], 16) == "comp.sy…hardware"
    assert len({*labels(names, 16)}) == 2
    assert labels(["a" * 40, "b"], 16) == ["a" * 7 + "…" + "a" * 8, "b"]


def test_letters_are_looked_for_in_all_fonts_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert further_fonts("an age of 3 größere αβγ имя") == ([], "")
    # as if the usual font had none of these letters, and another one all
    monkeypatch.setitem(mpl.rcParams, "font.family", ["cmr10"])
    assert "Ж" not in further_fonts("aЖ")[1]
    assert further_fonts("aЖ")[0] != []
    with lettered(["aЖ"]) as missing:
        assert missing == ""
        assert mpl.rcParams["font.family"] == ["cmr10", *further_fonts("aЖ")[0]]
    assert {*further_fonts("aЖ")[0]} <= {entry.name for entry in fontManager.ttflist}
    assert mpl.rcParams["font.family"] == ["cmr10"]


@pytest.mark.long
def test_a_run_with_names_of_many_scripts_is_drawn_and_says_what_it_cannot_write(
    tmp_path: Path, run_command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.reports.figures.further_fonts", lambda text: ([], "小時" if "小時" in text else ""))
    rows = [f"{n % 7},{n % 5},{n % 3},{'通過' if (n * n) % 7 < 3 else '$not'}" for n in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["小時,$\\frac{,_hidden,y", *rows]) + "\n", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = run_command(tmp_path, "train", "dataset=table", "dataset.path=t.csv", "dataset.target=y", "l2=0.1")
    assert answer.code == 0
    lines = [line for line in answer.err.splitlines() if not line.startswith(("optimizer=", "table: epoch"))]
    assert lines == [
        "pictures: no font of this machine has 小時, so boxes are drawn instead. "
        "Install one that has, such as Noto Sans CJK."
    ]


# probability


@pytest.mark.long
def test_no_legend_covers_a_point() -> None:
    features, labels_of = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 1])
    for names in (("no", "y" * 60), ("N" * 60, "W" * 60)):
        facts = DataFacts("made", 1, names, {"train": 4}, feature_names=("x",))
        assert_the_legend_is_below(probability_curve(0.1, -0.25, facts, features, labels_of, "flat"))
    trials = [("complete", 0.1), ("pruned", None), ("fail", None), ("complete", 1.0)]
    assert_the_legend_is_below(search_history(trials, "made"))


@pytest.mark.long
def test_classes_of_any_name_are_in_the_legend() -> None:
    facts = DataFacts("made", 1, ("_no", "$yes$"), {"train": 4}, feature_names=("x" * 200,))
    features, labels_of = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 1])
    figure = probability_curve(1.5, -3.75, facts, features, labels_of, "title")
    FigureCanvasAgg(figure).draw()
    legend = assert_the_legend_is_below(figure)
    assert [text.get_text() for text in legend.get_texts()] == [r"p(\$yes\$)", " _no", r"\$yes\$"]
    assert len(figure.axes[0].get_xlabel()) <= 60


# coefficients as images


def images_of(axes: list[Axes]) -> list[Axes]:
    return [one for one in axes if one.get_images()]


@pytest.mark.parametrize(("high", "between"), [(50.0, {2, 3, 4, 5, 6, 7, 8, 9}), (1e4, {2, 5})])
def test_of_several_powers_of_ten_few_numbers_between_them_have_ticks(high: float, between: set[int]) -> None:
    axes: Axes = Figure().subplots()
    axes.semilogx([1, high], [0, 1])
    axes.set_xlim(1, high)
    label_powers(axes.xaxis)
    ticks = axes.xaxis.get_minorticklocs()
    assert {round(tick / 10 ** np.floor(np.log10(tick))) for tick in ticks} == between


def test_one_huge_coefficient_leaves_the_others_their_colors() -> None:
    facts = DataFacts("made", 100, ("a", "b"), {"train": 3}, image_shape=(10, 10))
    coef = torch.linspace(-1, 1, 100).repeat(1, 1)
    coef[0, 7] = 1e9
    figure = coefficient_images(coef, facts)
    FigureCanvasAgg(figure).draw()
    low, high = images_of(figure.axes)[0].get_images()[0].get_clim()
    assert 4 < high < 5
    assert low == -high
    assert "(the largest has 1e+09)" in figure.axes[-1].get_ylabel()


def test_colors_end_at_the_largest_sum_over_the_channels() -> None:
    facts = DataFacts("made", 12, ("a", "b"), {"train": 3}, image_shape=(3, 2, 2))
    figure = coefficient_images(torch.ones(1, 12), facts)
    assert images_of(figure.axes)[0].get_images()[0].get_clim() == (-3.0, 3.0)


@pytest.mark.long
def test_of_very_many_classes_the_first_hundred_are_shown() -> None:
    facts = DataFacts("made", 4, tuple(f"a class {k}" for k in range(150)), {"train": 3}, image_shape=(2, 2))
    figure = coefficient_images(torch.randn(150, 4), facts)
    assert len(images_of(figure.axes)) == 100
    assert figure.get_suptitle() == "made: coefficients per class, the first 100 of 150"
    assert max(figure.get_size_inches()) < 20


# paths


@pytest.mark.long
def test_a_path_shows_loss_and_accuracy_and_what_was_chosen() -> None:
    losses = {1.0: 0.6, 0.1: 0.35, 0.01: 0.3, 0.001: 0.5}
    rows = [
        PathRow(l2, loss / 2, loss, 0.1, 1 - loss, 0.0, 0.0, converged=True, passes=3, nonzero=4)
        for l2, loss in losses.items()
    ]
    figure = path_curve(rows, "made")
    FigureCanvasAgg(figure).draw()
    upper, lower = figure.axes
    assert upper.get_xscale() == "log"
    by_label = {str(line.get_label()): line for line in upper.lines}
    assert np.asarray(by_label["val"].get_data()).tolist() == [sorted(losses), [losses[l2] for l2 in sorted(losses)]]
    assert np.asarray(lower.lines[0].get_ydata()).tolist() == [1 - losses[l2] for l2 in sorted(losses)]
    for axes, expected in ((upper, 0.3), (lower, 0.7)):
        (star,) = [line for line in axes.lines if line.get_marker() == "*" and len(np.ravel(line.get_xdata()))]
        assert np.ravel(np.asarray(star.get_data())).tolist() == pytest.approx([0.01, expected])
    texts = [text.get_text() for text in assert_the_legend_is_below(figure).get_texts()]
    assert "best log loss on val: l2 = 0.01, loss 0.3, accuracy 70.00%" in texts
    assert "strongest within one standard error: l2 = 0.1" in texts
    assert upper.get_ylim()[1] > 0.7  # the band is whole


def test_a_weak_penalty_whose_loss_explodes_does_not_flatten_the_rest() -> None:
    rows = [
        PathRow(l2, 0.1, loss, 0.1, 0.5, 0.0, 0.0, converged=True, passes=3, nonzero=4)
        for l2, loss in ((1.0, 0.6), (0.1, 0.3), (1e-9, 5000.0))
    ]
    assert path_curve(rows, "made").axes[0].get_ylim()[1] < 4
    assert path_curve(rows[1:2], "made").axes[0].get_ylim()[1] > 0.4  # one strength alone


def cross_validated(along: str, errors: float = 0.05) -> list[PathRow]:
    """Six strengths of l1 or l2, of which the third is best and the second the strongest within one standard error."""
    losses = {1.0: 0.69, 0.3: 0.33, 0.1: 0.3, 0.03: 0.31, 0.01: 0.35, 0.003: 0.4}
    return [
        PathRow(
            **{"l2": 0.0, along: strength},
            loss_train=loss / 2,
            loss_val=loss,
            error=errors,
            accuracy_val=1 - loss,
            accuracy_error=0.02,
            gap=0.0,
            relative_gap=0.0,
            converged=True,
            passes=3,
            nonzero=place,
            folds=(loss, loss),
        )
        for place, (strength, loss) in enumerate(losses.items())
    ]


def texts_in(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.long
@pytest.mark.parametrize("rule", ["best", "one_se"])
def test_a_cross_validated_path_has_error_bars_both_lines_and_a_star_at_the_chosen(rule: str) -> None:
    rows = cross_validated("l2")
    figure = path_curve(rows, "made", chosen=2 if rule == "best" else 1, folds="10-fold cross-validation", rule=rule)
    FigureCanvasAgg(figure).draw()
    upper, lower = figure.axes
    for axes, value, error in ((upper, "loss_val", 0.05), (lower, "accuracy_val", 0.02)):
        (bars,) = axes.containers
        (segments,) = bars[2]
        ends = [[low[1], high[1]] for low, high in segments.get_segments()]
        means = [getattr(row, value) for row in rows[::-1]]
        assert ends == [pytest.approx([mean - error, mean + error]) for mean in means]
        places = [np.ravel(np.asarray(line.get_xdata())).tolist() for line in axes.lines]
        vertical = {place[0] for place in places if len({*place}) == 1}
        assert {0.1, 0.3} <= vertical
        stars = [line for line in axes.lines if line.get_marker() == "*" and len(np.ravel(line.get_xdata()))]
        assert [float(np.ravel(star.get_xdata())[0]) for star in stars] == [0.1 if rule == "best" else 0.3]
    assert texts_in(figure) == [
        "10-fold cross-validation, ± one standard error",
        "train",
        "best log loss of the folds: l2 = 0.1, loss 0.3, accuracy 70.00%",
        "strongest within one standard error: l2 = 0.3",
    ]
    assert upper.child_axes == []  # of l2, no coefficient is 0


@pytest.mark.long
def test_along_l1_the_upper_axis_counts_coefficients_below_the_title() -> None:
    rows = cross_validated("l1")
    figure = path_curve(rows, "made", folds="5-fold cross-validation")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    upper = figure.axes[0]
    (above,) = upper.child_axes
    assert dict(zip(above.get_xticks(), [text.get_text() for text in above.get_xticklabels()], strict=True)) == {
        row.l1: str(row.nonzero) for row in rows
    }
    labels = [text.get_window_extent() for text in above.get_xticklabels()]
    assert not any(one.overlaps(other) for place, one in enumerate(labels) for other in labels[:place])
    assert not upper.title.get_window_extent().overlaps(above.xaxis.label.get_window_extent())
    assert figure.axes[1].get_xlabel() == "l1 (stronger penalty to the right)"


@pytest.mark.long
def test_coefficients_along_a_path_have_the_names_of_the_largest_where_it_was_chosen() -> None:
    rows = cross_validated("l1")
    coefs = [torch.linspace(-1, 1, 40).view(2, 20) * row.nonzero for row in rows]
    coefs[-1] = coefs[-1] * 100  # a weak penalty does not flatten the rest
    names = [f"feature {number}" for number in range(40)]
    figure = coefficient_paths(torch.stack(coefs), rows, names.__getitem__, "made", chosen=2)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    texts = texts_in(figure)
    assert {*texts[:10]} == {f"feature {number}" for number in (*range(5), *range(35, 40))}
    assert texts[10:] == ["chosen: l1 = 0.1", "30 others"]
    by_name = {str(line.get_label()): line for line in axes.lines}
    assert np.ravel(by_name["feature 39"].get_ydata()).tolist() == pytest.approx([float(coef[1, 19]) for coef in coefs])
    assert axes.get_ylim()[1] == pytest.approx(3 * 2)
    (above,) = axes.child_axes
    assert [text.get_text() for text in above.get_xticklabels()] == ["5", "4", "3", "2", "1", "0"]


def test_where_all_coefficients_are_0_the_largest_elsewhere_have_names() -> None:
    rows = cross_validated("l1")
    coefs = [torch.tensor([[1.0, -3.0, 2.0]]) * row.nonzero for row in rows]
    figure = coefficient_paths(torch.stack(coefs), rows, "abc".__getitem__, "made", chosen=0, standardized=False)
    assert texts_in(figure) == ["b", "c", "a", "chosen: l1 = 1"]
    assert figure.axes[0].get_ylabel() == "coefficient per unit of the feature"
