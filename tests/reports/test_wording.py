from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from logreg.evaluation.measured import Threshold
from logreg.facts import DataFacts
from logreg.reports.advice import next_commands
from logreg.reports.console import print_summary
from logreg.reports.figures import coefficient_images, probability_curve
from logreg.reports.markdown import as_markdown
from logreg.reports.summary import equation
from logreg.reports.summary_schema import Summary
from logreg.reports.wording import optimality_in_words, remarks, score_table, settings_in_words, threshold_in_words
from logreg.training.module import LogisticModule
from summaries import summary_of


def module_of(coef: list[list[float]], intercept: list[float], names: tuple[str, ...], **others: Any) -> LogisticModule:
    facts = DataFacts("made", len(names), ("fail", "pass"), {"train": 3}, feature_names=names, **others)
    module = LogisticModule(facts, loss="bce" if len(coef) == 1 else "cross_entropy").double()
    with torch.no_grad():
        module.model.coef.copy_(torch.tensor(coef))
        module.model.intercept.copy_(torch.tensor(intercept))
    return module


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (
            module_of([[1.5]], [-4.08], ("hours",)),
            "p(pass) = sigmoid(1.50 * hours - 4.08), even odds at 2.72 hours",
        ),
        (module_of([[-1.0, 0.5]], [2.0], ("a", "b")), "p(pass) = sigmoid(-1.00 * a + 0.50 * b + 2.00)"),
        # standardized: 3 * (x - 10) / 2 = 1.5 x - 15
        (
            module_of([[3.0]], [0.0], ("x",), mean=(10.0,), std=(2.0,)),
            "p(pass) = sigmoid(1.50 * x - 15.00), even odds at 10.00 x",
        ),
        # two softmax outputs: the log-odds are their difference
        (module_of([[1.0], [3.0]], [0.0, -1.0], ("x",)), "p(pass) = sigmoid(2.00 * x - 1.00), even odds at 0.50 x"),
        (module_of([[0.0]], [1.0], ("x",)), "p(pass) = sigmoid(0.00 * x + 1.00)"),
        (module_of([[1.0] * 5], [0.0], tuple("abcde")), None),
    ],
)
def test_the_equation_in_words(module: LogisticModule, expected: str | None) -> None:
    assert equation(module) == expected


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.5"), (0.276149, "0.2761"), (1.23456e-7, "1.235e-07"), (1 - 1.23456e-6, "0.999998765")]
)
def test_the_best_threshold_is_shown_as_it_can_be_typed(value: float, shown: str) -> None:
    assert f" the best threshold is {shown} (" in threshold_in_words(Threshold(2.0, value, "val", 0.1, 0.2))


@pytest.mark.parametrize("strongest", [0, 1, 2])
def test_a_penalty_weaker_than_the_chosen_one_is_not_called_the_strongest(strongest: int) -> None:
    row = {"loss_train": 0.1, "loss_val": 0.2, "error": 0.01, "accuracy_val": 1.0, "gap": 0.0, "relative_gap": 0.0}
    rows = [{**row, "l2": l2, "converged": True, "passes": 1, "nonzero": 2} for l2 in (1.0, 0.1, 0.01)]
    path = {"rows": rows, "best": 1, "one_standard_error": strongest, "alarm": None}
    lines = remarks(summary_of(path=path, dataset={"rows": {"train": 1200, "val": 300, "test": 300}}))
    line = next(line for line in lines if line.startswith("l2=0.1, chosen among 3 strengths by log loss on val: "))
    assert ("is the strongest within one standard error" in line) == (strongest < 2)


SUMMARY = summary_of(
    dataset={
        "class_weight": {"a": 1.0, "b": 2.5, "c": 1.0},
        "notes": ["left out, since constant over train: z"],
    },
    largest_coefficients=[
        {"feature": "color=E", "class": "c", "coef": -2.5, "coef_per_std": -0.5},
        {"feature": "carat", "class": "a", "coef": 0.125, "coef_per_std": 0.25},
    ],
    resumed_from="runs/made/2025/checkpoints/last.ckpt",
    expected=[{"metric": "accuracy/test", "value": 0.9, "tolerance": 0.01, "got": 0.25, "reached": False}],
)


def test_the_table_has_a_row_per_split_and_a_column_per_metric_that_there_is() -> None:
    header, rows = score_table(SUMMARY.metrics, SUMMARY.dataset.scored_rows)
    assert header == ["split", "rows", "loss", "accuracy"]
    assert rows == [["train", "1,200", "0.2500", "50.00%"], ["test", "300", "0.5000", "25.00%"]]


def test_sentences_are_wrapped_between_words_in_a_terminal_and_never_in_a_pipe() -> None:
    sentence = next(line for line in remarks(SUMMARY) if len(line) > 80)
    shown = {True: io.StringIO(), False: io.StringIO()}
    for is_terminal, there in shown.items():
        print_summary(SUMMARY, Console(file=there, width=80, force_terminal=is_terminal, no_color=True))
    assert sentence in shown[False].getvalue().splitlines()
    lines = [line.rstrip() for line in shown[True].getvalue().splitlines()]
    begin = next(number for number, line in enumerate(lines) if sentence.startswith(line) and line)
    wrapped = lines[begin]
    while wrapped != sentence:
        begin += 1
        wrapped += f" {lines[begin]}"
        assert sentence.startswith(wrapped)


def test_the_end_of_a_run_on_the_terminal() -> None:
    shown = io.StringIO()
    print_summary(SUMMARY, Console(file=shown, width=80))
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert lines[0] == "made made.csv: one-vs-rest cross-entropy of 3 outputs, mean over rows"
    assert "objective on train 0.3750, of which penalty 0.1250" in lines
    assert "expected accuracy/test 0.9 ± 0.01: NOT reached, got 0.25" in lines
    assert "baseline: always predicting 'b' (most frequent in train) scores 40.00% on test" in lines
    assert any(
        line.startswith("class weights a 1, b 2.5, c 1 are part of the loss: probabilities and") for line in lines
    )
    assert "took 2.0 s, of which training 1.0 s" in lines
    assert (
        "0.0015 nats above the optimum at most: train longer, or use optimizer=newton [objective 0.375, gap <= 0.0015, "
        "max |gradient| 0.062, in float64 over 1,200 rows; 10 passes, 1 s]"
    ) in lines
    folder = SUMMARY.folder
    assert next_commands(SUMMARY)[1:] == [
        f"python scripts/train.py ckpt_path={folder} max_epochs=20",
        f"python scripts/evaluate.py ckpt_path={folder}",
    ]
    for command in next_commands(SUMMARY):
        assert f"  {command}" in lines
    assert "nan" not in shown.getvalue()


def test_the_report_page_has_the_table_and_the_pictures() -> None:
    page = as_markdown(SUMMARY, ["probability.png"])
    assert "| train | 1,200 | 0.2500 | 50.00% |" in page
    assert "![probability](figures/probability.png)" in page
    assert "Continues `runs/made/2025/checkpoints/last.ckpt`." in page
    assert "Trained by sgd with lr 0.5 (cosine), batches of 32, 10 epochs, l2 0.1, l1 0." in page
    assert "- left out, since constant over train: z" in page
    assert "| color=E | c | -2.5 | -0.5 |" in page
    assert "\n\n\n" not in page


def a_summary(optimizer: str = "sgd", polish: bool = False, reason: str | None = None, **optimality: Any) -> Summary:
    config: dict[str, Any] = {"optimizer": {"name": optimizer}, "polish": polish}
    if optimizer == "auto":
        config |= {"lr": None, "batch_size": "full"}
    return summary_of(SUMMARY.to_json(), reason=reason, config=config, optimality=optimality)


def test_an_exact_run_is_reported_with_its_tolerance_and_why_it_was_chosen() -> None:
    summary = a_summary("auto", reason="Newton with Cholesky, since 3 parameters are few")
    assert settings_in_words(summary) == (
        "Trained by auto (Newton with Cholesky, since 3 parameters are few) to a relative gap of 1e-06, 10 passes, "
        "l2 0.1, l1 0."
    )
    assert optimality_in_words(summary) in remarks(summary)


@pytest.mark.parametrize(
    ("summary", "warned"),
    [
        (a_summary("auto"), True),
        (a_summary("sgd", polish=True), True),
        (a_summary("sgd"), False),  # nobody promised it
        (a_summary("auto", converged=True, verdict="optimal to 1e-09"), False),
        (a_summary("auto", separation="no finite optimum", verdict="no finite optimum"), False),
    ],
)
def test_an_optimum_that_was_promised_and_not_reached_is_warned_of(summary: Summary, warned: bool) -> None:
    words = optimality_in_words(summary)
    assert words.startswith("WARNING: not within tolerance=1e-06: ") == warned
    assert f"{summary.optimality.verdict} [objective 0.375, gap <= 0.0015, " in words


def test_an_estimate_within_the_tolerance_is_a_warning_of_its_own() -> None:
    words = optimality_in_words(a_summary("auto", rigorous=False, relative_gap=1e-8, verdict="optimal by estimate"))
    assert words.startswith("WARNING: optimal by estimate [")


def test_a_gap_that_is_an_estimate_is_called_one() -> None:
    assert "gap about 0.0015, " in optimality_in_words(a_summary(rigorous=False))


def test_the_curve_goes_through_one_half_at_even_odds() -> None:
    facts = DataFacts("made", 1, ("fail", "pass"), {"train": 3}, feature_names=("hours",))
    features, labels = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1])
    figure = probability_curve(1.5, -3.75, facts, features, labels, "title", axis=(0.0, 10.0))
    (axes,) = figure.axes
    curve, half, even_line, even, fails, passes = axes.get_lines()
    assert axes.get_xlim() == (0.0, 10.0)
    assert np.interp(2.5, *curve.get_data()) == pytest.approx(0.5)  # type: ignore[arg-type]  # matplotlib says ArrayLike
    assert set(np.asarray(half.get_ydata())) == {0.5}
    assert set(np.asarray(even_line.get_xdata())) == {2.5}
    assert [float(np.asarray(even.get_xdata())[0]), float(np.asarray(even.get_ydata())[0])] == [2.5, 0.5]
    assert np.asarray(fails.get_xdata()).tolist() == [1.0, 2.0]
    assert np.asarray(passes.get_xdata()).tolist() == [3.0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("hours", "probability of pass")


def test_coefficients_share_one_scale_with_white_at_zero() -> None:
    facts = DataFacts("made", 4, ("a", "b", "c"), {"train": 3}, image_shape=(2, 2))
    coef = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, -6.0], [0.5, 0.5, 0.5, 0.5]])
    figure = coefficient_images(coef, facts)
    FigureCanvasAgg(figure).draw()
    images = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
    assert [image.get_clim() for image in images] == [(-6.0, 6.0)] * 3
    assert np.asarray(images[0].get_array()).tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert [axes.get_title() for axes in figure.axes if axes.get_images()] == ["a", "b", "c"]
