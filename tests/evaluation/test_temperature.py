"""Calibration: class weights are taken out, the temperature is found, and what cannot be found is said."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from logreg.evaluation.temperature import WIDE_INTERVAL_RATIO, Calibration, fit_calibration
from logreg.losses import LOSSES
from logreg.losses.base import Loss
from logreg.run.scoring import calibrate
from logreg.training.checkpoint_reading import TrainedModel
from models import Models
from whole_runs import Answer, train

RunCommand = Callable[..., Answer]

WEIGHTS = torch.tensor([0.5, 3.0, 20.0, 1.0], dtype=torch.float64)


def rows(outputs: int, loss: str, seed: int = 0, number: int = 40_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels that are drawn by them."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(number, outputs, generator=draw, dtype=torch.float64)
    return logits, torch.multinomial(LOSSES[loss].class_probabilities(logits), 1, generator=draw)[:, 0]


def fitted(logits: torch.Tensor, labels: torch.Tensor, loss: str, **more: Any) -> Calibration:
    return fit_calibration(logits, labels, loss, [f"c{k}" for k in range(max(2, logits.shape[1]))], **more)


@pytest.mark.parametrize("spoiled", [0.25, 1.0, 3.0])
@pytest.mark.parametrize(("outputs", "loss"), [(1, "bce"), (4, "cross_entropy"), (4, "bce")])
def test_it_finds_what_the_logits_were_multiplied_by(outputs: int, loss: str, spoiled: float) -> None:
    logits, labels = rows(outputs, loss)
    if loss == "bce" and outputs > 1 and spoiled != 1:
        pytest.skip("divided by their sum, sigmoids are no longer what they were drawn from")
    # the standard error of the slope of 40,000 rows is about one in a hundred
    found = fitted(spoiled * logits, labels, loss)
    assert found.temperature == pytest.approx(spoiled, rel=0.05)
    assert found.low is not None
    assert found.high is not None
    assert found.low < spoiled < found.high < 1.1 * found.low


def test_no_other_temperature_makes_the_rows_more_probable() -> None:
    logits, labels = rows(3, "cross_entropy")
    logits, labels = 1.7 * logits[:500], labels[:500]
    best = fitted(logits, labels, "cross_entropy").temperature

    def cost(temperature: float) -> float:
        p = LOSSES["cross_entropy"].class_probabilities(logits, temperature)
        return float(-p.gather(1, labels[:, None]).log().mean())

    assert cost(best) <= min(cost(best * (1 + step)) for step in (-0.1, -1e-3, 1e-3, 0.1))


def test_the_interval_is_that_of_the_slope_of_a_regression_on_the_logits() -> None:
    # 1 / T is the slope of a logistic regression on the logits without an intercept
    from statsmodels.api import Logit

    logits, labels = rows(1, "bce", number=200)
    theirs = Logit(labels.numpy(), 1.7 * logits.numpy()).fit(disp=0, tol=1e-12)
    slope, error = float(theirs.params[0]), float(theirs.bse[0])
    found = fitted(1.7 * logits, labels, "bce")
    half = 1.959963984540054 * error / slope  # of the logarithm, by the delta method
    assert found.temperature == pytest.approx(1 / slope, rel=1e-11)
    assert (found.low, found.high) == pytest.approx((math.exp(-half) / slope, math.exp(half) / slope), rel=1e-4)


def test_a_weight_that_counts_rows_is_the_row_so_many_times() -> None:
    logits, labels = rows(1, "bce", number=300)
    weight = torch.ones(300)
    weight[:100], weight[100:120] = 2, 0
    times = torch.arange(300).repeat_interleave(weight.long())
    expected = fitted(logits[times], labels[times], "bce")
    found = fitted(logits, labels, "bce", sample_weight=weight, counts=True)
    assert (found.temperature, found.low, found.high) == pytest.approx(
        (expected.temperature, expected.low, expected.high), rel=1e-12
    )
    assert (found.rows, expected.rows) == (280, 380)


def test_the_scale_of_sampling_weights_says_nothing() -> None:
    logits, labels = rows(1, "bce", number=300)
    weight = torch.rand(300, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5
    one, ten = (fitted(logits, labels, "bce", sample_weight=scale * weight) for scale in (1, 10))
    assert (one.temperature, one.low, one.high) == pytest.approx((ten.temperature, ten.low, ten.high), rel=1e-12)


@pytest.mark.parametrize(("outputs", "loss"), [(1, "bce"), (4, "cross_entropy"), (4, "bce"), (1, "probit")])
def test_rows_of_which_each_probability_rounds_to_0_or_1_have_a_temperature(outputs: int, loss: str) -> None:
    logits, labels = rows(outputs, loss, number=300)
    logits += 0.5 * logits.sign()
    found, expected = fitted(40 * logits, labels, loss), fitted(logits, labels, loss)
    assert found.temperature == pytest.approx(40 * expected.temperature, rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_probabilities_have_a_derivative_by_a_temperature_of_1(loss: str) -> None:
    logits = rows(3 if loss == "cross_entropy" else 1, loss, number=20)[0]
    slopes = []
    for at in (1.0, 1 + 1e-6):
        temperature = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        probabilities = LOSSES[loss].class_probabilities(logits, temperature)
        slopes.append(float(torch.autograd.grad(probabilities[:, 1].square().sum(), temperature)[0]))
    assert slopes[0] != 0
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-4)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
@pytest.mark.parametrize(
    ("outputs", "loss"), [(4, "cross_entropy"), (4, "bce"), *((1, one) for one in LOSSES if one != "cross_entropy")]
)
def test_the_slope_by_log_temperature_is_that_of_autograd_and_of_differences(
    outputs: int, loss: str, temperature: float, corrected: bool
) -> None:
    logits, labels = rows(outputs, loss, number=50)
    log_weight = WEIGHTS[: max(outputs, 2)].log() if corrected else None
    found = LOSSES[loss].temperature_slope(logits, labels, temperature, log_weight)
    by_autograd = Loss.temperature_slope(LOSSES[loss], logits, labels, temperature, log_weight)
    torch.testing.assert_close(found, by_autograd, rtol=1e-9, atol=1e-12)
    step = 1e-5
    costs = [
        -LOSSES[loss].class_probabilities(logits, t, log_weight).gather(1, labels[:, None])[:, 0].log()
        for t in (temperature * math.exp(step), temperature * math.exp(-step))
    ]
    torch.testing.assert_close(found, (costs[0] - costs[1]) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", [one for one in LOSSES if one != "cross_entropy"])
@pytest.mark.parametrize("size", [720.0, 5000.0])
def test_rows_that_are_right_beyond_all_numbers_do_not_change_the_temperature(loss: str, size: float) -> None:
    logits, labels = rows(1, loss, number=400)
    expected = fit_calibration(logits, labels, loss, ["a", "b"])
    far, right = torch.tensor([[-size], [size]], dtype=torch.float64), torch.tensor([0, 1])
    found = fit_calibration(torch.cat([logits, far]), torch.cat([labels, right]), loss, ["a", "b"])
    assert expected.temperature != 1
    assert found.reason == ""
    assert found.temperature == pytest.approx(expected.temperature, rel=1e-2)


NOTHING = {
    "right": ([-1.0, 2.0, -3.0, 0.5], [0, 1, 0, 1], "the model makes no mistake on val (4 rows)"),
    "chance": ([-1.0, 1.0, -1.0, 1.0], [0, 0, 1, 1], "above 100"),
    "tiny": ([-1e-9, 1e-9, -1e-9, 1e-9, 1e-9], [0, 1, 0, 1, 0], "below 0.01"),
    "one class": ([-1.0, 2.0, 1.0], [1, 1, 1], "val has no other class than 'c1' (3 rows)"),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_where_there_is_no_temperature_the_reason_is_said(kind: str) -> None:
    logits, labels, reason = NOTHING[kind]
    found = fitted(torch.tensor(logits).unsqueeze(1), torch.tensor(labels), "bce")
    assert (found.temperature, found.low, found.high) == (1.0, None, None)
    (line,) = found.in_words(["c0", "c1"])
    assert line.startswith("no temperature was fitted: ")
    assert reason in line


@pytest.mark.parametrize(("number", "little"), [(40, True), (4000, False)])
def test_few_rows_are_said_to_be_few(number: int, little: bool) -> None:
    logits, labels = rows(1, "bce", number=number)
    found = fitted(logits, labels, "bce")
    assert found.low is not None
    assert found.high is not None
    assert (found.high > WIDE_INTERVAL_RATIO * found.low) is little
    (line,) = found.in_words(["c0", "c1"])
    assert f"fitted on {number:,} rows" in line
    assert ("too few for a precise one" in line) is little


@pytest.mark.parametrize(("outputs", "loss"), [(1, "bce"), (2, "cross_entropy"), (4, "cross_entropy"), (4, "bce")])
def test_what_class_weights_do_to_probabilities_is_undone(outputs: int, loss: str) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = WEIGHTS[: max(2, outputs)]
    p = torch.softmax(3 * torch.randn(50, len(weight), generator=draw, dtype=torch.float64), dim=1)
    q = weight * p / (weight * p).sum(1, keepdim=True)  # what is learned of data in which class k is w_k times as often
    logits = q.log() if loss == "cross_entropy" else (q / (1 - q)).log()
    logits = logits[:, 1:] if outputs == 1 else logits
    torch.testing.assert_close(LOSSES[loss].class_probabilities(logits), q)
    torch.testing.assert_close(LOSSES[loss].class_probabilities(logits, log_weight=weight.log()), p)


def test_the_temperature_comes_after_the_correction() -> None:
    logits, log_weight = torch.tensor([[1.2], [-0.3]], dtype=torch.float64), WEIGHTS[:2].log()
    found = LOSSES["bce"].class_probabilities(logits, 2.0, log_weight)
    expected = torch.sigmoid((logits - math.log(3.0 / 0.5)) / 2)
    torch.testing.assert_close(found[:, 1:], expected)


def test_it_is_fitted_after_the_correction_too() -> None:
    logits, labels = rows(3, "cross_entropy")
    weight = (0.2, 1.0, 6.0)
    found = fitted(1.5 * logits + torch.tensor(weight).log(), labels, "cross_entropy", class_weight=weight)
    assert found.temperature == pytest.approx(1.5, rel=0.05)
    assert found.class_weight == weight


def rare(file: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """One row in twenty is yes."""
    draw = np.random.default_rng(0)
    labels = np.arange(4000) % 20 == 0
    features = np.round(draw.normal(size=4000) + labels, 4)
    lines = [f"{x:.4f},{'yes' if y else 'no'}" for x, y in zip(features, labels, strict=True)]
    file.write_text("\n".join(["x,y", *lines]) + "\n")
    return features[:, None], labels


@pytest.mark.long
def test_balanced_class_weights_are_taken_out_wherever_a_probability_comes_from(
    tmp_path: Path, run_command: RunCommand
) -> None:
    features, labels = rare(tmp_path / "rare.csv")
    typed = ("dataset=table", "dataset.path=rare.csv", "dataset.target=y", "dataset.class_weight=balanced")
    run = train(tmp_path, *typed, "calibrate=temperature", "report=brief")
    shift = math.log(19)  # balanced: each class weighs N / (2 * its rows), and no has 19 rows for each of yes
    found = run.summary["evaluation"]
    no, yes = found["calibration"]["class_weight"]
    assert math.log(yes / no) == pytest.approx(shift, rel=1e-3)  # train is 95.0 % no
    module = TrainedModel.load(run.folder / "checkpoints" / "last.ckpt").module
    coef, intercept = (float(part) for part in module.model.in_source_units())
    heat = module.calibration.temperature
    assert heat == found["calibration"]["temperature"] != 1
    p = 1 / (1 + np.exp(-(features[:, 0] * coef + intercept - math.log(yes / no)) / heat))
    assert p.mean() == pytest.approx(labels.mean(), abs=0.005)  # 1.5 standard errors of so many rows
    # predict.py, each format, and the sentence that the report has for it
    assert run_command(tmp_path, "predict", "input=rare.csv", "output=p.csv").code == 0
    with (tmp_path / "p.csv").open() as file:
        predicted = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["yes"]) for row in predicted], p, atol=1e-6)
    assert [row["predicted"] == "yes" for row in predicted] == (p > 0.5).tolist()
    for kind in ("onnx", "sklearn", "json"):
        answer = run_command(
            tmp_path, "export", f"format={kind}", f"output=model.{kind}.{SUFFIX[kind]}", "overwrite=true"
        )
        assert answer.code == 0, answer.err
    words = "class weights are removed from the probabilities (2.944 is subtracted from the log-odds of yes)"
    answer = run_command(tmp_path, "evaluate")
    assert words in answer.out
    assert "temperature" in answer.out
    assert words[1:] in (run.folder / "report.md").read_text()
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert words[1:] in card
    assert "those of the weighted problem" not in card
    # the accuracy of the table is that of the labels that are predicted, and the equation that of the probabilities
    assert run.summary["metrics"]["test"]["accuracy"] == found["metrics"]["accuracy"]["value"] == 0.95
    assert run.summary["equation"].startswith(f"p(yes) = sigmoid({coef / heat:.2f} * x - ")


SUFFIX = {
    "onnx": "onnx",
    "sklearn": "joblib",
    "json": "json",
    "safetensors": "safetensors",
    "torch_export": "pt2",
}


@pytest.mark.parametrize(("lr", "fits"), [("0.01", 1), ("1000", 2)])
def test_the_best_model_is_calibrated_on_its_own_only_where_it_is_not_the_last(
    lr: str, fits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def noted(*arguments: Any) -> Calibration:
        calls.append(arguments)
        return calibrate(*arguments)

    monkeypatch.setattr("logreg.run.train.calibrate", noted)
    run = train(tmp_path, "dataset=iris", f"lr={lr}", "l2=0", "max_epochs=2", "calibrate=temperature")
    assert len(calls) == fits
    best, last = (TrainedModel.load(run.folder / "checkpoints" / f"{name}.ckpt").module for name in ("best", "last"))
    assert torch.equal(best.model.coef, last.model.coef) == (fits == 1)
    assert (best.calibration == last.calibration) == (fits == 1)


@pytest.mark.long
def test_a_fit_that_continues_has_no_calibration_of_the_parameters_before(tmp_path: Path) -> None:
    typed = ("dataset=iris", "optimizer=sgd", "lr=0.1", "report=brief")
    first = train(tmp_path, *typed, "max_epochs=2", "calibrate=temperature")
    assert TrainedModel.load(first.folder / "checkpoints" / "last.ckpt").module.calibration != Calibration()
    start = f"ckpt_path={first.folder}"
    run = train(tmp_path, *typed, "max_epochs=3", "calibrate=none", start)
    module = TrainedModel.load(run.folder / "checkpoints" / "last.ckpt").module
    assert module.calibration == Calibration()
    whole = train(tmp_path, *typed, "max_epochs=3")
    assert run.summary["metrics"] == whole.summary["metrics"]


@pytest.mark.long
def test_without_calibration_they_are_those_of_the_weighted_problem_and_said_to_be(
    tmp_path: Path, run_command: RunCommand
) -> None:
    features, labels = rare(tmp_path / "rare.csv")
    typed = ("dataset=table", "dataset.path=rare.csv", "dataset.target=y", "dataset.class_weight=balanced")
    run = train(tmp_path, *typed, "l2=0", "tolerance=1e-12", "dataset.split.val=0", "dataset.split.test=0")
    theirs = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, class_weight="balanced")
    theirs.fit(features, labels)
    module = TrainedModel.load(run.folder / "checkpoints" / "last.ckpt").module
    coef, intercept = (float(part) for part in module.model.in_source_units())
    assert (coef, intercept) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), rel=1e-4)
    assert run_command(tmp_path, "export", "format=json", "output=model.json").code == 0
    for file in (run.folder / "report.md", tmp_path / "MODEL_CARD.md"):
        assert "those of the weighted problem" in file.read_text()


@pytest.mark.long
def test_one_vs_rest_with_class_weights_goes_where_it_can(
    models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    here = models("weighted")
    for kind in ("onnx", "json", "safetensors", "torch_export"):
        answer = run_command(
            here, "export", f"format={kind}", f"output={tmp_path / 'model'}.{SUFFIX[kind]}", "overwrite=true"
        )
        assert answer.code == 0, answer.err
    answer = run_command(here, "export", "format=sklearn", f"output={tmp_path / 'model.joblib'}")
    assert answer.code == 2
    assert answer.err.startswith("a model must have probabilities that its coefficients give")
    assert answer.err.count("\n") == 1


def test_a_checkpoint_of_before_has_its_temperature_alone(models: Models, tmp_path: Path) -> None:
    held = models.run("softmax").checkpoint()
    del held["calibration"]
    for old, expected in (({"temperature": 1.7}, 1.7), ({}, 1.0)):
        torch.save({**held, **old}, tmp_path / "old.ckpt")
        assert TrainedModel.load(tmp_path / "old.ckpt").module.calibration == Calibration(expected)
