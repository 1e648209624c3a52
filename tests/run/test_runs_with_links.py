"""Whole runs with each link: what is reported, what the other commands make of them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import logreg
from logreg.commands.train import main
from logreg.config import LINKS
from logreg.export.formats import FORMATS
from logreg.losses import LOSSES
from logreg.training.checkpoint_reading import TrainedModel
from models import Models
from whole_runs import Answer, newest, train, working_in

RunCommand = Callable[..., Answer]

OTHERS = [link for link in LINKS if link != "logit"]


@pytest.fixture(scope="module", params=OTHERS)
def link(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def of_link(link: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the link; tests may not change the run."""
    here = tmp_path_factory.mktemp(link)
    train(here, f"link={link}", "l2=0.1", "optimizer=newton")
    return here


@pytest.mark.long
def test_a_run_ends_with_what_is_known_of_its_optimum(link: str, of_link: Path) -> None:
    run = newest(of_link)
    found, loss = run.summary["optimality"], LOSSES[link]
    assert run.summary["objective"]["loss"] == link
    assert found["converged"] == loss.is_convex
    assert found["rigorous"]
    text = (run.folder / "report.md").read_text(encoding="utf-8")
    assert f"with F(z) = {loss.formula}" in run.summary["equation"]
    assert f"binary cross-entropy of the {link} link" in text
    if loss.is_convex:
        assert found["verdict"].startswith("optimal to ")
        return
    assert found["is_stationary"]
    assert found["verdict"].startswith("stationary point, a local minimum to ")
    assert "the lowest of 3 starts: the loss is not convex" in found["verdict"]
    assert "optimal" not in text
    assert "WARNING" not in text


@pytest.mark.long
def test_logit_is_the_loss_that_there_was(models: Models, tmp_path: Path) -> None:
    run, before = train(tmp_path, "link=logit", "l2=0.1", "optimizer=newton"), models.run("toy")
    assert run.summary["objective"]["loss"] == "bce"
    for name, value in before.checkpoint()["state_dict"].items():
        assert torch.equal(run.checkpoint()["state_dict"][name], value)


@pytest.fixture(scope="module")
def cloglog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of an asymmetric link."""
    here = tmp_path_factory.mktemp("cloglog")
    train(here, "dataset=breast_cancer", "link=cloglog", "l2=1e-2", "calibrate=temperature")
    return here


@pytest.mark.long
@pytest.mark.parametrize("kind", ["onnx", "json", "safetensors", "sklearn", "torch_export"])
def test_formats_give_the_probabilities_of_the_model(
    kind: str, cloglog: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    file = tmp_path / f"model{FORMATS[kind].suffix}"
    answer = run_command(cloglog, "export", f"format={kind}", f"output={file}")
    assert answer.code == 0, answer.err
    assert float(answer.out.split("agrees to ")[1].split()[0]) <= (1e-6 if kind == "onnx" else 1e-12)


@pytest.mark.long
def test_onnx_has_the_operators_of_each_link(of_link: Path, run_command: RunCommand) -> None:
    answer = run_command(of_link, "export", "format=onnx", "output=model.onnx")
    assert answer.code == 0, answer.err
    assert float(answer.out.split("agrees to ")[1].split()[0]) <= 1e-6


def test_scikit_learn_alone_has_no_such_link(cloglog: Path, run_command: RunCommand) -> None:
    answer = run_command(cloglog, "export", "format=sklearn_only")
    assert answer.code == 2
    assert "must have the inverse link of the loss cloglog, and has not. Use format=torch_export." in answer.err


def test_other_commands_take_the_link_from_the_checkpoint(cloglog: Path, run_command: RunCommand) -> None:
    answer = run_command(cloglog, "evaluate", "json=true", "split=test")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["loss"]["loss"] == "cloglog"
    answer = run_command(cloglog, "certify", "ckpt_path=latest", "tolerance=1e-4")
    assert answer.code == 0, answer.err
    assert "verdict       optimal to" in answer.out
    answer = run_command(cloglog, "certify", "ckpt_path=latest", "link=probit")
    assert "verdict       not optimal" in answer.out
    estimator = logreg.LogisticRegression.from_checkpoint(newest(cloglog).folder)
    assert estimator.loss == "loglog"  # it sorts the classes, malignant and benign


@pytest.mark.long
def test_certify_says_stationary_of_a_loss_that_is_not_convex(run_command: RunCommand, tmp_path: Path) -> None:
    train(tmp_path, "link=cauchit", "l2=0.1", "optimizer=newton")
    answer = run_command(tmp_path, "certify", "ckpt_path=latest")
    assert "stationary point, a local minimum to" in answer.out
    assert "optimal" not in answer.out.split("verdict")[1]


@pytest.mark.long
@pytest.mark.parametrize("link", ["probit", "cloglog"])
def test_class_weights_are_taken_out_of_the_probabilities(link: str, run_command: RunCommand, tmp_path: Path) -> None:
    run = train(
        tmp_path,
        *("dataset=breast_cancer", f"link={link}", "l2=1e-2", "dataset.class_weight={benign: 4}"),
        "calibrate=temperature",
    )
    trained = TrainedModel.load(run.folder / "checkpoints" / "last.ckpt")
    features = torch.zeros(1, 30, dtype=torch.float64) + torch.tensor(trained.module.facts.mean, dtype=torch.float64)
    logits, calibration = trained.module(features), trained.module.calibration
    q = LOSSES[link].class_probabilities(logits / calibration.temperature)
    p = q / torch.tensor(trained.module.facts.class_weight, dtype=torch.float64) ** (1 / calibration.temperature)
    torch.testing.assert_close(trained.module.probabilities(features), p / p.sum())
    answer = run_command(tmp_path, "export", "format=onnx", "output=model.onnx")
    assert answer.code == 0, answer.err
    answer = run_command(tmp_path, "export", "format=json", "output=model.json")
    assert answer.code == 0, answer.err


@pytest.mark.long
@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", "0.1"), ("adam", "0.02")])
def test_first_order_optimizers_follow_the_gradient_of_the_link(optimizer: str, lr: str, tmp_path: Path) -> None:
    run = train(
        tmp_path,
        *("dataset=breast_cancer", "link=probit", "l2=1e-2", f"optimizer={optimizer}", "max_epochs=30", f"lr={lr}"),
    )
    found = run.summary["optimality"]
    assert found["rigorous"]
    assert found["gap"] <= 0.2 * found["value"]


def test_the_estimator_takes_a_link_as_its_loss() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(200, 3))
    labels = np.where(features @ [1.0, -1.0, 0.5] + draw.normal(size=200) > 0, "yes", "no")
    model = logreg.LogisticRegression(C=np.inf, loss="probit").fit(features, labels)
    assert model.certificate_.converged
    logits = torch.as_tensor(features @ model.coef_[0] + model.intercept_[0])
    np.testing.assert_allclose(model.predict_proba(features)[:, 1], torch.distributions.Normal(0, 1).cdf(logits))


@pytest.mark.long
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("dataset=iris link=probit", "`link=probit` must be used with two classes, got 3. Use link=logit."),
        ("link=probt", f"`link` must be one of {', '.join(LINKS)}, got 'probt'. Did you mean probit?"),
        (
            "link=probit loss=cross_entropy",
            "`link` must be logit with loss=cross_entropy, got 'probit'. Leave loss out, or set link=logit.",
        ),
    ],
)
def test_what_no_link_can_do_is_one_line(
    typed: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with working_in(tmp_path):
        assert main(typed.split()) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()
