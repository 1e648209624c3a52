"""A model out of its checkpoint: what it says, however it is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from logreg.errors import ConfigError
from logreg.evaluation.temperature import Calibration
from logreg.facts import DataFacts
from logreg.training.checkpoint_reading import Predictor, TrainedModel, read_checkpoint
from logreg.training.module import LogisticModule
from models import Models
from whole_runs import Answer

RunCommand = Callable[..., Answer]


def made(classes: int, loss: str, mean: float | None, precision: str = "32") -> LogisticModule:
    draw = torch.Generator().manual_seed(0)
    facts = DataFacts(
        "made",
        6,
        tuple(f"c{number}" for number in range(classes)),
        {"train": 9},
        mean=() if mean is None else (mean,) * 6,
        std=() if mean is None else (0.5,) * 6,
    )
    module = LogisticModule(facts, loss=loss, precision=precision)  # type: ignore[arg-type]  # one of two
    module.model.coef.data = torch.randn(module.model.coef.shape, generator=draw, dtype=module.model.coef.dtype)
    module.calibration = Calibration(1.7, tuple(0.5 + k for k in range(classes)))
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("precision", ["32", "64"])
@pytest.mark.parametrize("mean", [None, 0.5, 3.0, 1e4])
@pytest.mark.parametrize(("classes", "loss"), [(2, "bce"), (2, "cross_entropy"), (5, "cross_entropy"), (5, "bce")])
def test_made_ready_it_says_what_the_module_says(classes: int, loss: str, mean: float | None, precision: str) -> None:
    module = made(classes, loss, mean, precision)
    dtype = torch.float64 if precision == "64" else torch.float32
    draw = torch.Generator().manual_seed(1)
    features = ((mean or 0.0) + torch.randn(50, 6, generator=draw)).to(dtype)
    expected = module.probabilities(features)
    probabilities, labels = Predictor(module)(features.clone())
    # what is folded into the coefficients costs three of the 24 bits of float32 at most
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5 if precision == "32" else 1e-13)
    sure = expected.topk(2, dim=1).values.diff(dim=1)[:, 0].abs() > 1e-4
    assert torch.equal(labels[sure], expected.argmax(1)[sure])


def test_even_odds_are_the_first_class_with_and_without_a_threshold() -> None:
    # as scikit-learn's predict has them: the second class is where decision_function > 0
    module = made(2, "bce", None)
    module.calibration = Calibration(1.7)  # class weights would move even odds
    module.model.coef.data.zero_()
    features = torch.zeros(1, 6)
    for labels in (Predictor(module)(features)[1], Predictor(module)(features, 0.5)[1]):
        assert labels.tolist() == [0]
    assert Predictor(module)(features, 0.49)[1].tolist() == [1]


def test_a_checkpoint_knows_its_run_and_what_was_certified(models: Models) -> None:
    trained = TrainedModel.load(models.run("binary").folder / "checkpoints" / "last.ckpt")
    assert trained.run_config().dataset["name"] == "breast_cancer"
    assert trained.optimality is not None
    assert trained.optimality["converged"] is True
    assert trained.facts.class_rates == pytest.approx((126 / 341, 215 / 341))
    assert not trained.module.model.coef.requires_grad


def test_that_there_is_no_finite_optimum_stands_in_the_checkpoint(tmp_path: Path) -> None:
    from whole_runs import train

    run = train(tmp_path, "max_epochs=3")
    assert run.checkpoint()["optimality"] == run.summary["optimality"]
    assert run.checkpoint("best")["optimality"] == run.summary["optimality"], "without a val split it is the last"
    assert run.summary["optimality"]["separation"]


def _with(held: Any, place: tuple[Any, ...], value: object) -> None:
    for key in place[:-1]:
        held = held[key]
    held[place[-1]] = value


FACTS = ("hyper_parameters", "facts")

STRANGE: list[tuple[tuple[Any, ...], object]] = [
    ((*FACTS, "columns", 0, "kind"), []),
    ((*FACTS, "columns", 1, "levels"), []),
    ((*FACTS, "columns", 1, "fill"), "a level that is none"),
    ((*FACTS, "columns", 0, "indicator"), torch.zeros(3)),
    ((*FACTS, "columns", 0), torch.tensor(1)),
    ((*FACTS, "class_names", 1), 10**30),
    ((*FACTS, "class_names"), ["a", "a", "b"]),
    ((*FACTS, "class_rates", 1), "<script>"),
    ((*FACTS, "num_features"), -1),
    ((*FACTS, "shift"), [1.0]),
    ((*FACTS, "unit"), -1e-300),
    ((*FACTS, "mean", 0), float("nan")),
    ((*FACTS, "std", 0), 0.0),
    (("hyper_parameters", "l2"), "x"),
    (("hyper_parameters", "precision"), 16),
    (("hyper_parameters",), torch.zeros(1, dtype=torch.int8)),
    (("state_dict", "coef"), torch.full((3, 8), float("nan"))),
    (("state_dict", "coef"), torch.zeros(2, 2)),
    (("state_dict",), [1]),
    (("calibration", "temperature"), None),
    (("epoch",), -1),
    (("epoch",), "1"),
    (("config", "l2"), {"_target_": "os.system"}),
]


@pytest.mark.parametrize(("place", "value"), STRANGE)
def test_one_that_holds_something_else_is_refused(
    models: Models, tmp_path: Path, place: tuple[Any, ...], value: object
) -> None:
    held = torch.load(models.run("table").folder / "checkpoints" / "last.ckpt", weights_only=True)
    if place[0] == "state_dict" and len(place) > 1:
        (name,) = (name for name in held["state_dict"] if name.endswith(place[1]))
        place = (*place[:-1], name)
    _with(held, place, value)
    torch.save(held, tmp_path / "strange.ckpt")
    with pytest.raises(
        ConfigError, match=r"^`ckpt_path` must be a checkpoint of logreg, and .*strange\.ckpt is not one\.$"
    ):
        TrainedModel.load(tmp_path / "strange.ckpt")


@pytest.mark.parametrize(
    ("place", "value"),
    [(("loops", "fit_loop", "epoch_progress"), 3), (("calibration", "class_weight"), {"a": 1})],
)
def test_one_that_training_cannot_go_on_from_is_one_line(
    models: Models, run_command: RunCommand, tmp_path: Path, place: tuple[Any, ...], value: object
) -> None:
    held = torch.load(models.run("softmax").folder / "checkpoints" / "last.ckpt", weights_only=True)
    _with(held, place, value)
    torch.save(held, tmp_path / "strange.ckpt")
    typed = ("dataset=iris", "l2=1e-3", "max_epochs=2000", "ckpt_path=strange.ckpt")
    answer = run_command(tmp_path, "train", *typed)
    assert answer.code == 2
    assert answer.err.splitlines()[-1] == (
        "`ckpt_path` must be a checkpoint to continue from, and strange.ckpt lacks a part that Lightning needs. "
        "Leave ckpt_path out to start from scratch."
    )


def test_decimals_of_a_kind_that_no_file_has_are_one_line(
    models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    held = torch.load(models.run("table").folder / "checkpoints" / "last.ckpt", weights_only=True)
    _with(held, ("config", "dataset", "decimal"), 10**30)
    torch.save(held, tmp_path / "strange.ckpt")
    (tmp_path / "t.csv").write_text("size,color,wet\n1,red,true\n")
    answer = run_command(tmp_path, "predict", "input=t.csv", "output=p.csv", "ckpt_path=strange.ckpt")
    assert answer.code == 2
    assert answer.err.startswith("`dataset.decimal` must be ")
    assert answer.err.count("\n") == 1


def test_one_that_was_trained_from_python_does_not_say_which_data(models: Models, tmp_path: Path) -> None:
    held = read_checkpoint(models.run("toy").folder / "checkpoints" / "last.ckpt")
    del held["config"]
    torch.save(held, tmp_path / "mine.ckpt")
    trained = TrainedModel.load(tmp_path / "mine.ckpt")
    with pytest.raises(ConfigError, match=r"must be a checkpoint of scripts/train\.py, and .*mine\.ckpt does not name"):
        trained.run_config()
