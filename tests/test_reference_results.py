"""Whole runs against known answers: other people's solvers, closed forms, and what the recipes constraint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from logreg.commands.config_files import CONF
from logreg.data import TensorDataModule, build_dataset
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.training.module import LogisticModule
from whole_runs import Run, data_of, train


def parameters_of(run: Run) -> tuple[np.ndarray, np.ndarray]:
    module = LogisticModule.load_from_checkpoint(run.folder / "checkpoints" / "last.ckpt", map_location="cpu")
    coef, intercept = module.model.in_source_units()
    return coef.numpy(), intercept.numpy()


@pytest.mark.long
def test_full_batch_training_ends_at_scikit_learns_optimum(tmp_path: Path) -> None:
    run = train(
        tmp_path, "dataset=iris", "dataset.split={val: 0, test: 0}", "precision=64",
        "batch_size=full", "l2=0.1", "lr=0.1", "optimizer.momentum=0.9", "max_epochs=600",
    )  # fmt: skip
    ours, _ = parameters_of(run)
    # Ours is a mean over 150 rows: C = 1 / (rows * l2).
    features, labels = load_iris(return_X_y=True)
    scaled = (features - features.mean(0)) / features.std(0)
    theirs = LogisticRegression(C=1 / (150 * 0.1), tol=1e-12, solver="newton-cholesky").fit(scaled, labels)
    # newton-cholesky: their lbfgs stops 3e-8 away, whatever tolerance is asked for
    np.testing.assert_allclose(ours * features.std(0), theirs.coef_, atol=1e-10)
    their_loss = -np.log(theirs.predict_proba(scaled)[np.arange(150), labels]).mean() + 0.05 * (theirs.coef_**2).sum()
    assert run.summary["objective"]["train"] == pytest.approx(their_loss, rel=1e-9)


@pytest.mark.long
def test_one_vs_rest_is_each_binary_fit_alone(tmp_path: Path) -> None:
    common = ("dataset=iris", "dataset.split={val: 0, test: 0}", "precision=64", "batch_size=full", "max_epochs=300")
    coef, intercept = parameters_of(train(tmp_path, *common, "loss=bce", "l2=0.05"))
    features, labels = load_iris(return_X_y=True)
    scaled = (features - features.mean(0)) / features.std(0)
    for outcome in range(3):
        weights, bias = np.zeros(4), 0.0
        for _ in range(300):  # plain gradient descent with the recipe's lr
            residual = 1 / (1 + np.exp(-(scaled @ weights + bias))) - (labels == outcome)
            step = scaled.T @ residual / 150 + 0.05 * weights
            weights, bias = weights - 0.5 * step, bias - 0.5 * residual.mean()
        np.testing.assert_allclose(coef[outcome], weights / features.std(0), rtol=1e-10)
        np.testing.assert_allclose(
            intercept[outcome], bias - weights @ (features.mean(0) / features.std(0)), rtol=1e-10
        )


@pytest.mark.long
def test_blobs_are_compared_with_the_best_classifier(tmp_path: Path) -> None:
    run = train(tmp_path, "dataset=blobs", "dataset.rows=20000", "schedule=cosine", "max_epochs=10")
    answer = run.summary["known_answer"]
    assert answer["accuracy"] == pytest.approx(0.841344746)
    # The fit of 12,000 rows is as far from the truth as its standard errors are large: a few percent.
    assert answer["coef_error"] < 0.08
    np.testing.assert_allclose(answer["learned_coef"], answer["coef"], atol=0.15)
    assert run.summary["metrics"]["test"]["accuracy"] == pytest.approx(answer["accuracy"], abs=0.02)


def test_batch_and_block_size_do_not_enter_a_full_batch_fit() -> None:
    # The same 20 rows as one block or many: same gradient, so the same parameters.
    data = TensorDataModule(build_dataset("blobs", {"rows": 20}), dtype=torch.float64)
    (block,) = data.train_dataloader()
    assert len(block.features) == 20


FREQUENT_METHODS = (
    "Eclipse Timing Variations,Imaging,Microlensing,Orbital Brightness Modulation,Pulsar Timing,Radial Velocity,"
    "Transit,Transit Timing Variations"
)
"""Those of planets.csv that have a row for each split."""


@pytest.mark.slow
def test_a_table_with_gaps_ends_at_scikit_learns_optimum(tmp_path: Path, true_tables: Path) -> None:
    typed = [
        *("dataset=table", f"dataset.path={true_tables / 'planets.csv'}", "dataset.target=method", "l2=1e-3"),
        *(f"dataset.classes=[{FREQUENT_METHODS}]", "optimizer=adam", "lr=0.05", "batch_size=full", "max_epochs=4000"),
        *("schedule=cosine", "precision=64"),
    ]
    run = train(tmp_path, *typed)
    data = data_of("table", *(word for word in typed if word.startswith(("dataset.", "precision"))))
    table, facts = data.tables["train"], data.facts
    features = (table.select(table.matrix) - torch.tensor(facts.mean)) / torch.tensor(facts.std)
    labels = table.select(table.labels)
    theirs = LogisticRegression(C=1 / (len(labels) * 1e-3), tol=1e-10, max_iter=20_000).fit(features, labels)
    objective = Objective("cross_entropy", l2=1e-3)
    coef, intercept = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
    best = float(objective.value(features, one_vs_rest(labels, 8, torch.float64), coef, intercept))
    # Adam with a cosine comes this near in 4000 passes: 2e-8 of the objective, 3e-4 of the coefficients.
    assert run.summary["objective"]["train"] == pytest.approx(best, rel=1e-6)
    ours = run.checkpoint()["state_dict"]["model.coef"]
    assert float((ours - coef).norm() / coef.norm()) < 1e-3


EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_recipe_reaches_what_it_promises(tmp_path: Path, experiment: str, request: pytest.FixtureRequest) -> None:
    root = [f"dataset.root={request.getfixturevalue('mnist_root')}"] if experiment.startswith("mnist") else []
    checks = train(tmp_path, f"experiment={experiment}", *root).summary["expected"]
    assert checks, "a recipe without an expectation"
    for check in checks:
        assert check["reached"], check


@pytest.mark.slow
def test_mnists_default_recipe_reaches_92_percent(tmp_path: Path, mnist_root: Path) -> None:
    run = train(tmp_path, "dataset=mnist", f"dataset.root={mnist_root}")
    assert run.summary["metrics"]["test"]["accuracy"] >= 0.92
