"""An offset is a known term of the logit: in solvers, certificates, paths, runs and what follows from a run."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn import config_context
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from logreg import LogisticRegression, LogisticRegressionCV
from logreg.commands import certify, coefficients, evaluate, export, predict
from logreg.csr import of_scipy
from logreg.errors import ConfigError, DataError
from logreg.evaluation.path_selection import score_points
from logreg.facts import Batch
from logreg.inference.bootstrap import resampled_weights
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows, chosen_rows, joined, parts, with_offset_apart
from logreg.solvers.bounds.newton_bound import bound_by_sample
from logreg.solvers.fit import bound_of, fit, problem_of
from logreg.solvers.passes.base import drive, request
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.paths.folds import fit_folds
from logreg.solvers.paths.l1_path import largest_slope
from logreg.solvers.paths.l2_path import Strength
from logreg.training.checkpoint_reading import TrainedModel
from whole_runs import Run, train, working_in

REFERENCES = Path(__file__).parents[2] / "shared" / "references"

OBJECTIVES = [Objective("bce", l2=l2, l1=l1) for l2, l1 in ((0.0, 0.0), (0.01, 0.0), (0.0, 0.01), (0.005, 0.01))]


def drawn(rows: int = 300, features: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, D), labels (N,), offsets (N,)."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64)
    offset = torch.randn(rows, generator=draw, dtype=torch.float64) + 0.5 * x[:, 0]
    chance = torch.sigmoid(x[:, 0] - 0.5 * x[:, 1] + 0.3 + offset)
    return x, (torch.rand(rows, generator=draw, dtype=torch.float64) < chance).long(), offset


def as_sparse(x: Tensor) -> Tensor:
    import scipy.sparse

    return of_scipy(scipy.sparse.csr_matrix(x.numpy()))


def subgradient(x: Tensor, y: Tensor, offset: Tensor, coef: Tensor, intercept: Tensor, l2: float, l1: float) -> float:
    """The largest component of the subgradient of least norm, by its formula."""
    residual = torch.sigmoid(x @ coef + intercept + offset) - y
    slope = residual @ x / len(y) + l2 * coef
    at_zero = slope.sign() * (slope.abs() - l1).clamp(min=0)
    slope = torch.where(coef == 0, at_zero, slope + l1 * coef.sign())
    return max(float(slope.abs().max()), abs(float(residual.mean())))


# Solvers


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("optimizer", ["auto", "newton", "lbfgs"])
@pytest.mark.parametrize("sparse", [False, True])
def test_every_way_ends_at_the_optimum(objective: Objective, optimizer: str, sparse: bool) -> None:
    x, y, offset = drawn()
    features = as_sparse(x) if sparse else x
    found = fit(features, y, objective, optimizer=optimizer, offset=offset, tolerance=1e-12)
    assert found.converged
    assert found.bound.rigorous
    left = subgradient(x, y, offset, found.coef[0], found.intercept[0], objective.l2, objective.l1)
    assert left < 1e-6


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_a_start_elsewhere_ends_there_too(objective: Objective) -> None:
    x, y, offset = drawn()
    start = torch.tensor([[3.0, 0.0, -2.0, 0.0, 1.0]]), torch.tensor([1.0])
    found = fit(x, y, objective, optimizer="newton", offset=offset, tolerance=1e-12, start=start)
    assert subgradient(x, y, offset, found.coef[0], found.intercept[0], objective.l2, objective.l1) < 1e-6


@pytest.mark.parametrize("loss", ["bce", "probit", "cloglog", "cauchit"])
def test_a_multiple_of_a_feature_shifts_its_coefficient(loss: str) -> None:
    x, y, _ = drawn()
    plain = fit(x, y, Objective(loss), tolerance=1e-12)
    moved = fit(x, y, Objective(loss), tolerance=1e-12, offset=0.75 * x[:, 2] - 2)
    torch.testing.assert_close(moved.coef + 0.75 * torch.eye(5, dtype=x.dtype)[2], plain.coef, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(moved.intercept - 2, plain.intercept, rtol=1e-6, atol=1e-7)
    assert moved.bound.value == pytest.approx(plain.bound.value, rel=1e-10)


@pytest.mark.parametrize(("l2", "l1", "optimizer"), [(0.0, 0.0, "newton"), (0.0, 0.01, "newton"), (0.01, 0.0, "lbfgs")])
@pytest.mark.parametrize("sparse", [False, True])
def test_an_offset_of_zeros_changes_no_fit(l2: float, l1: float, optimizer: str, sparse: bool) -> None:
    x, y, offset = drawn()
    features = as_sparse(x) if sparse else x
    plain, same = (
        fit(features, y, Objective("bce", l2=l2, l1=l1), optimizer=optimizer, offset=one)
        for one in (None, torch.zeros_like(offset))
    )
    assert torch.equal(plain.coef, same.coef)
    assert torch.equal(plain.intercept, same.intercept)
    assert plain.passes == same.passes


@pytest.mark.parametrize(
    ("objective", "optimizer", "sparse"),
    [
        *itertools.product([*OBJECTIVES, Objective("probit")], ["newton", "lbfgs"], [False, True]),
        (Objective("cauchit"), "newton", False),  # whose several starts take the time of all others
    ],
    ids=str,
)
def test_a_large_mean_goes_into_the_intercept(objective: Objective, optimizer: str, sparse: bool) -> None:
    x, y, offset = drawn()
    features = as_sparse(x) if sparse else x
    plain, low, high = (
        fit(features, y, objective, optimizer=optimizer, offset=offset + mean, tolerance=1e-12)
        for mean in (0, -30, 1000)
    )
    for moved, mean in ((low, -30), (high, 1000)):
        assert moved.converged is plain.converged
        torch.testing.assert_close(moved.coef, plain.coef, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moved.intercept + mean, plain.intercept, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["auto", "newton", "lbfgs"])
@pytest.mark.parametrize("low", [0.0, -100.0])
@pytest.mark.parametrize("follows", [False, True])
def test_offsets_that_are_far_apart_leave_rows_with_curvature(optimizer: str, low: float, follows: bool) -> None:
    x, y, _ = drawn(4000)
    offset = torch.tensor([100.0, low], dtype=torch.float64).repeat(2000)  # at minus their mean all rows are saturated
    y = torch.where(offset == 0, y, (offset > 0).long()) if follows and not low else y
    found = fit(x, y, Objective("bce", l2=0.01), optimizer=optimizer, offset=offset, tolerance=1e-12)
    assert found.converged
    assert subgradient(x, y, offset, found.coef[0], found.intercept[0], 0.01, 0.0) < 1e-5


@pytest.mark.long
def test_paths_and_folds_take_a_large_mean() -> None:
    x, y, offset = drawn()
    folds, objective = torch.arange(len(y)) % 3, Objective("bce", l2=1.0)
    strengths = [Strength(0.1), Strength(0.01), Strength(0.0, 0.02)]
    plain, moved = (
        fit_folds(problem_of(rows, objective), rows, folds, strengths, tolerance=1e-10)
        for rows in (MemoryRows(x, y, offset=offset + mean) for mean in (0.0, 30.0))
    )
    for one, other in zip((*plain.of_folds, plain.full), (*moved.of_folds, moved.full), strict=True):
        for left, right in zip(one, other, strict=True):
            torch.testing.assert_close(left.point[:, :-1], right.point[:, :-1], rtol=1e-3, atol=1e-4)


def test_more_features_than_rows() -> None:
    x, y, offset = drawn(40, 200)
    found = fit(x, y, Objective("bce", l2=0.1), offset=offset, tolerance=1e-10)
    assert found.converged
    assert subgradient(x, y, offset, found.coef[0], found.intercept[0], 0.1, 0) < 1e-5


def test_many_rows_in_float32() -> None:
    x, y, offset = drawn(20_000, 60)
    found = fit(x.float(), y, Objective("bce", l2=1e-3), offset=offset.float(), tolerance=1e-9)
    assert found.converged
    known = fit(x.float().double(), y, Objective("bce", l2=1e-3), offset=offset.float().double(), tolerance=1e-12)
    torch.testing.assert_close(found.coef, known.coef, rtol=1e-4, atol=1e-5)


def test_weights_of_rows_count_them() -> None:
    x, y, offset = drawn()
    weight = torch.arange(len(y)) % 3
    times = torch.repeat_interleave(torch.arange(len(y)), weight)
    weighted = fit(x, y, Objective("bce", l2=0.01), sample_weight=weight.double(), offset=offset, tolerance=1e-12)
    repeated = fit(x[times], y[times], Objective("bce", l2=0.01), offset=offset[times], tolerance=1e-12)
    torch.testing.assert_close(weighted.coef, repeated.coef, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_the_bound_is_one_at_any_point(objective: Objective, size: float) -> None:
    x, y, offset = drawn()
    offset = offset + size * torch.sign(y - 0.5) * (torch.arange(len(y)) % 7 == 0)
    rows = MemoryRows(x, y, offset=offset)
    problem = problem_of(rows, objective)
    assert problem.largest_offset == float(offset.abs().max())
    best = fit(x, y, objective, offset=offset, tolerance=1e-12).bound
    draw = torch.Generator().manual_seed(1)
    for _ in range(5):
        point = torch.randn(1, 6, generator=draw, dtype=torch.float64)
        found = bound_of(problem, point, rows)
        z = x @ point[0, :-1] + point[0, -1] + offset
        value = torch.nn.functional.softplus(torch.where(y == 1, -z, z)).mean() + objective.penalty(point[:, :-1])
        assert found.value == pytest.approx(float(value), rel=1e-10)
        assert found.gap + found.rounding >= found.value - best.value - best.gap


def test_folds_are_fits_without_them() -> None:
    x, y, offset = drawn()
    folds, objective = torch.arange(len(y)) % 3, Objective("bce", l2=1.0)
    rows = MemoryRows(x, y, offset=offset)
    strengths = [Strength(0.1), Strength(0.01), Strength(0.0, 0.02)]
    paths = fit_folds(problem_of(rows, objective), rows, folds, strengths, tolerance=1e-10)
    for fold, path in enumerate(paths.of_folds):
        kept = folds != fold
        for strength, point in zip(strengths, path, strict=True):
            alone = Objective("bce", l2=strength.l2, l1=strength.l1)
            known = fit(x[kept], y[kept], alone, 2, offset=offset[kept], tolerance=1e-10)
            torch.testing.assert_close(point.point[:, :-1], known.coef, rtol=1e-3, atol=1e-4)


def test_scores_of_points_count_the_offset() -> None:
    x, y, offset = drawn()
    rows = MemoryRows(x, y, offset=offset)
    problem = problem_of(rows, Objective("bce", l2=1.0))
    point = fit_folds(problem, rows, torch.arange(len(y)) % 3, [Strength(0.1)]).of_folds[0][0].point
    scores = score_points(problem, [point], rows.blocks())
    z = x @ point[0, :-1] + point[0, -1] + offset
    assert float(scores.loss[0]) == pytest.approx(
        float(torch.nn.functional.softplus(torch.where(y == 1, -z, z)).mean())
    )


def test_the_bound_by_a_sample_is_one() -> None:
    x, y, offset = drawn(2000)
    objective = Objective("bce", l2=0.01)
    rows = MemoryRows(x, y, offset=offset)
    problem = problem_of(rows, objective)
    best = fit(x, y, objective, offset=offset, tolerance=1e-12)
    optimum = torch.cat([best.coef, best.intercept.unsqueeze(1)], dim=1)
    point = optimum + 0.01 * torch.randn(1, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    now = drive(request(Evaluate(problem, problem.model, point, torch.float64)), rows)
    sample = chosen_rows(Batch(x, y, None, offset), torch.arange(0, 2000, 2))
    found = drive(bound_by_sample(problem, problem.model, point, now, sample), rows)
    assert found is not None
    above = now.value - best.bound.value
    assert above <= found.gap + found.rounding <= 20 * above
    every = drive(bound_by_sample(problem, problem.model, point, now, Batch(x, y, None, offset)), rows)
    assert every is not None
    assert above <= every.gap + every.rounding <= 1.1 * above  # about half the squared Newton decrement


def test_the_largest_strength_of_l1_leaves_no_coefficient() -> None:
    x, y, offset = drawn()
    rows = MemoryRows(x, y, offset=offset)
    largest = largest_slope(problem_of(rows, Objective("bce")), rows)
    for factor, is_zero in ((1.001, True), (0.99, False)):
        found = fit(x, y, Objective("bce", l1=factor * largest), offset=offset, tolerance=1e-10)
        assert bool((found.coef == 0).all()) is is_zero


def test_rows_keep_their_offsets() -> None:
    x, y, offset = drawn(20)
    known = Batch(x, y, None, offset)
    for features in (torch.cat([x, offset.unsqueeze(1)], dim=1), as_sparse(torch.cat([x, offset[:, None]], dim=1))):
        apart = with_offset_apart(Batch(features, y))
        assert isinstance(apart.offset, Tensor)
        assert torch.equal(apart.features.to_dense(), x)
        assert torch.equal(apart.offset, offset)
        again = joined(list(parts(apart, 7, dense=True)))
        torch.testing.assert_close(again, known, rtol=0, atol=0)
    some = chosen_rows(known, torch.tensor([3, 1]))
    torch.testing.assert_close(some.offset, offset[[3, 1]], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda offset: offset[:-1], "`offset` must have one number for each row, shape (300,), got (299,)."),
        (lambda offset: offset.index_fill(0, torch.tensor(4), math.nan), "`offset` must be finite, got nan in row 4."),
        (
            lambda offset: offset.index_fill(0, torch.tensor(4), -1.1e6),
            "`offset` must be in the units of the logit, from -1e6 to 1e6, got -1.1e+06 in row 4. Of an exposure take",
        ),
    ],
)
def test_an_offset_that_does_not_fit_is_refused(change: Callable[[Tensor], Tensor], message: str) -> None:
    x, y, offset = drawn()
    with pytest.raises(DataError) as found:
        fit(x, y, Objective("bce"), offset=change(offset))
    assert str(found.value).startswith(message)


def test_several_outputs_have_no_offset() -> None:
    x, y, offset = drawn()
    with pytest.raises(ConfigError, match=r"`offset` must go with one output, that of two classes .* got 2"):
        fit(x, y, Objective("cross_entropy"), offset=offset)


# Estimators


@pytest.mark.long
def test_an_estimator_is_the_model_of_statsmodels() -> None:
    import statsmodels.api as sm

    x, y, offset = (part.numpy() for part in drawn())
    model = LogisticRegression(C=np.inf, tol=1e-12, precision=64).fit(x, y, offset=offset)
    theirs = sm.GLM(y, sm.add_constant(x), sm.families.Binomial(), offset=offset).fit(tol=1e-14)
    np.testing.assert_allclose(np.append(model.intercept_, model.coef_), theirs.params, rtol=1e-6)
    assert model.certificate_.value == pytest.approx(-theirs.llf, rel=1e-10)
    assert model.certificate_.objective.endswith("no penalty, offset of each row")
    expected = theirs.predict(sm.add_constant(x[:5]), offset=offset[:5])
    for given in (offset[:5], list(offset[:5]), torch.from_numpy(offset[:5])):
        np.testing.assert_allclose(model.predict_proba(x[:5], offset=given)[:, 1], expected, rtol=1e-6)
    np.testing.assert_allclose(model.decision_function(x[:5], offset=0), x[:5] @ model.coef_[0] + model.intercept_)
    np.testing.assert_array_equal(model.predict(x, offset=offset), theirs.predict() > 0.5)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(x, offset=1)), model.predict_proba(x, offset=1))
    assert model.score(x, y, offset=offset) == np.mean((theirs.predict() > 0.5) == y)


def test_an_estimator_needs_the_offset_again() -> None:
    x, y, offset = (part.numpy() for part in drawn())
    model = LogisticRegression().fit(x, y, offset=offset)
    for predict_rows in (model.predict, model.predict_proba, model.predict_log_proba, model.decision_function):
        with pytest.raises(ValueError, match="offset must be given, as to fit"):
            predict_rows(x)
    with pytest.raises(ValueError, match=r"offset must have one number for each row, shape \(300,\), got \(299,\)"):
        model.predict(x, offset=offset[:-1])
    for wrong in (lambda gap: model.fit(x, y, offset=gap), lambda gap: model.predict(x, offset=gap)):
        with pytest.raises(ValueError, match=r"`offset` must be finite, got nan in row 7. Leave out such rows\."):
            wrong(np.where(np.arange(300) == 7, np.nan, offset))
    plain = model.fit(x, y)
    assert plain.predict(x).shape == (300,)
    np.testing.assert_allclose(plain.decision_function(x, offset=offset), plain.decision_function(x) + offset)


@pytest.mark.parametrize("estimator", [LogisticRegression(), LogisticRegressionCV(Cs=2)], ids=["one", "cv"])
def test_an_estimator_of_several_classes_takes_none(estimator: LogisticRegression) -> None:
    x, y, offset = (part.numpy() for part in drawn())
    three = y + (x[:, 1] > 1)
    with pytest.raises(ValueError, match="`offset` must go with one output, that of two classes"):
        estimator.fit(x, three, offset=offset)
    fitted = estimator.fit(x, three)
    with pytest.raises(ValueError, match="`offset` must go with one output, that of two classes"):
        fitted.predict(x, offset=offset)


def test_the_tools_of_scikit_learn_route_the_offset() -> None:
    x, y, offset = (part.numpy() for part in drawn())
    with config_context(enable_metadata_routing=True):
        model = LogisticRegression().set_fit_request(offset=True).set_predict_proba_request(offset=True)
        pipeline = make_pipeline(StandardScaler(), model.set_score_request(offset=True)).fit(x, y, offset=offset)
        alone = LogisticRegression().fit(StandardScaler().fit_transform(x), y, offset=offset)
        np.testing.assert_array_equal(pipeline[-1].coef_, alone.coef_)
        np.testing.assert_array_equal(
            pipeline.predict_proba(x, offset=offset), alone.predict_proba(pipeline[0].transform(x), offset=offset)
        )
        found = cross_validate(model, x, y, cv=[(np.arange(200), np.arange(200, 300))], params={"offset": offset})
    by_hand = LogisticRegression().fit(x[:200], y[:200], offset=offset[:200])
    assert found["test_score"] == [by_hand.score(x[200:], y[200:], offset=offset[200:])]


@pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy", "roc_auc"])
@pytest.mark.parametrize("refit", [True, False])
def test_cross_validation_fits_and_scores_with_the_offset(scoring: str, refit: bool) -> None:
    x, y, offset = (part.numpy() for part in drawn())
    splits = list(StratifiedKFold(3).split(x, y))
    chosen = LogisticRegressionCV(Cs=[0.01, 1.0], cv=splits, scoring=scoring, refit=refit, tol=1e-10, precision=64)
    chosen.fit(x, y, offset=offset)
    for number, (train_rows, test_rows) in enumerate(splits):
        for place, C in enumerate(chosen.Cs_):
            alone = LogisticRegression(C=C, tol=1e-10, precision=64)
            alone.fit(x[train_rows], y[train_rows], offset=offset[train_rows])
            own = chosen.coefs_paths_[number, 0, place, 0]
            np.testing.assert_allclose(own, np.append(alone.coef_, alone.intercept_), rtol=1e-4, atol=1e-6)
            logits = alone.decision_function(x[test_rows], offset=offset[test_rows])
            known = {
                "neg_log_loss": -log_loss(y[test_rows], expit(logits)),
                "accuracy": np.mean((logits > 0) == y[test_rows]),
                "roc_auc": roc_auc_score(y[test_rows], logits),
            }
            assert chosen.scores_[number, 0, place] == pytest.approx(known[scoring], rel=1e-5)
    assert chosen.has_offset_
    logits = chosen.decision_function(x, offset=offset)
    known = {
        "neg_log_loss": -log_loss(y, expit(logits)),
        "accuracy": np.mean((logits > 0) == y),
        "roc_auc": roc_auc_score(y, logits),
    }
    assert chosen.score(x, y, offset=offset) == pytest.approx(known[scoring], rel=1e-12)


# Runs


def write(folder: Path, x: Tensor, y: Tensor, offset: Sequence[object]) -> Path:
    file = folder / "t.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow([*(f"x{place}" for place in range(x.shape[1])), "log_t", "y"])
        writer.writerows(
            [*row, one, ("no", "yes")[label]] for row, one, label in zip(x.tolist(), offset, y.tolist(), strict=True)
        )
    return file


def run(folder: Path, file: Path, *arguments: str, target: str = "y", offset: str = "log_t") -> Run:
    named = [f"dataset.path={file}", f"dataset.target={target}", *([f"dataset.offset={offset}"] if offset else [])]
    return train(folder, "dataset=table", *named, "dataset.split.val=0", "dataset.split.test=0", *arguments)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    x, y, offset = drawn(200, 3)
    return write(tmp_path, x, y, offset.tolist())


EPOCHS = ("max_epochs=60", "lr=0.1", "schedule=cosine", "precision=64")


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [
        ("optimizer=newton",),
        ("optimizer=lbfgs",),
        ("optimizer=sgd", *EPOCHS, "lr=0.5"),
        ("optimizer=adam", *EPOCHS),
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("standardize", ["true", "false"])
def test_every_optimizer_holds_the_coefficient_at_1(
    arguments: tuple[str, ...], standardize: str, table: Path, tmp_path: Path
) -> None:
    x, y, offset = drawn(200, 3)
    made = run(tmp_path, table, "l2=0.01", f"dataset.standardize={standardize}", *arguments)
    model = TrainedModel.load(made.folder / "checkpoints" / "last.ckpt").module.model
    coef, _ = model.in_source_units()
    assert float(coef[0, -1]) == 1.0
    scale = x.std(0, correction=0) if standardize == "true" else 1.0
    known = fit(x / scale, y, Objective("bce", l2=0.01), offset=offset, tolerance=1e-12)
    optimality = made.summary["optimality"]
    assert optimality["objective"].endswith("offset log_t")
    above = optimality["value"] - known.bound.value
    assert -1e-12 <= above <= min(optimality["gap"] + optimality["rounding"], 1e-3) + 1e-12
    # f is strongly convex in the coefficients
    assert float((coef[:, :-1] * scale - known.coef).square().sum()) <= 2 / 0.01 * above + 1e-9
    assert made.summary["metrics"]["train"]["loss"] == pytest.approx(known.bound.loss, abs=1e-3)


@pytest.mark.long
def test_a_large_mean_takes_stochastic_gradient_descent_no_longer(tmp_path: Path) -> None:
    x, y, offset = drawn(200, 3)
    gaps = []
    for mean in (0.0, 30.0):
        file = write(tmp_path, x, y, (offset - offset.mean() + mean).tolist())
        made = run(tmp_path, file, "l2=0.01", "optimizer=sgd", "lr=0.1", "max_epochs=5", "precision=64", "cv=3")
        gaps.append(made.summary["optimality"]["gap"])
        loss = made.summary["cross_validation"]["metrics"]["loss"]["mean"]
        assert loss < 1
    assert gaps[1] <= gaps[0]


@pytest.mark.long
@pytest.mark.parametrize("arguments", [("optimizer=newton",), ("optimizer=sgd", *EPOCHS, "lr=0.5")], ids=str)
def test_a_column_of_zeros_changes_nothing(arguments: tuple[str, ...], tmp_path: Path) -> None:
    x, y, _ = drawn(200, 3)
    file = write(tmp_path, x, y, [0.0] * len(y))
    coef = []
    for offset, drop in (("log_t", "[]"), ("", "[log_t]")):
        made = run(tmp_path, file, "l2=0.01", "precision=64", f"dataset.drop={drop}", *arguments, offset=offset)
        coef.append(TrainedModel.load(made.folder / "checkpoints" / "last.ckpt").module.model.coef.detach().double())
    torch.testing.assert_close(*coef, rtol=1e-5 if arguments == ("optimizer=newton",) else 1e-12, atol=0)


@pytest.mark.long
def test_paths_and_cross_validation_take_the_offset(table: Path, tmp_path: Path) -> None:
    x, y, offset = drawn(200, 3)
    for arguments in (("l2=[1,0.1,0.01]", "cv=4"), ("l1=[0.1,0.03,0.01]",)):
        made = run(tmp_path, table, *arguments, "dataset.standardize=false")
        objective = made.summary["objective"]
        known = fit(x, y, Objective("bce", l2=objective["l2"], l1=objective["l1"]), offset=offset, tolerance=1e-10)
        assert made.summary["optimality"]["value"] == pytest.approx(known.bound.value, rel=1e-6)
        assert made.summary["optimality"]["converged"]


@pytest.mark.parametrize(
    ("offset", "target", "values", "arguments", "message"),
    [
        ("log_s", "y", None, (), "`dataset.offset` must name a column of "),
        ("y", "y", None, (), "`dataset.offset` must not name a column that has another role, got 'y'."),
        ("log_t", "y", None, ("dataset.features=[x0,log_t]",), "`dataset.features` must not name a column that has"),
        ("log_t", "y", None, ("dataset.categorical=[log_t]",), "`dataset.categorical` must not name a column that has"),
        ("log_t", "y", None, ("loss=cross_entropy",), "`dataset.offset=log_t` must go with one logit, that of two cla"),
        ("log_t", "y", "", (), "column 'log_t', the offset, must hold finite numbers, got nan in row 3 [in t.csv]."),
        ("log_t", "y", "inf", (), "column 'log_t', the offset, must hold finite numbers, got inf in row 3 [in t.csv]"),
        (
            "log_t",
            "y",
            "1e308",
            (),
            "column 'log_t', the offset, must be in the units of the logit, from -1e6 to 1e6, ",
        ),
        ("log_t", "y", "low", (), "column 'log_t', the offset, must hold finite numbers, got 'low' in row 3 [in t.csv"),
    ],
)
def test_an_offset_that_cannot_be_one_is_refused(
    offset: str,
    target: str,
    values: str | None,
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from logreg.commands.train import main

    x, y, known = drawn(60, 2)
    file = write(
        tmp_path, x, y, [values if row == 2 and values is not None else one for row, one in enumerate(known.tolist())]
    )
    typed = ["dataset=table", f"dataset.path={file}", f"dataset.target={target}", f"dataset.offset={offset}"]
    with working_in(tmp_path):
        assert main([*typed, "l2=0.1", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("table: ")]
    assert len(lines) == 1
    assert lines[0].startswith(message)


@pytest.mark.long
def test_several_classes_have_no_offset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from logreg.commands.train import main

    x, _, offset = drawn(60, 2)
    file = tmp_path / "t.csv"
    rows = zip(x[:, 0].tolist(), offset.tolist(), "abc" * 20, strict=True)
    file.write_text("x,log_t,y\n" + "".join(f"{one},{two},{three}\n" for one, two, three in rows), encoding="utf-8")
    typed = ["dataset=table", f"dataset.path={file}", "dataset.target=y", "dataset.offset=log_t", "l2=0.1"]
    with working_in(tmp_path):
        assert main(typed) == 2
    assert "got 3 with loss=cross_entropy. Choose two classes" in capsys.readouterr().err
    with working_in(tmp_path):
        assert main([*typed, "dataset.classes=[a,b]"]) == 0  # the advice works


# What follows from a run


@pytest.fixture(scope="module")
def birthwt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of R's reference, with the logarithm of the exposure."""
    if not REFERENCES.is_dir():
        pytest.skip(f"the tables of R are not in {REFERENCES}")
    file = tmp_path_factory.mktemp("birthwt") / "t.csv"
    with (REFERENCES / "birthwt.csv").open() as one, (REFERENCES / "birthwt_offset_and_weight.csv").open() as other:
        rows = [row | extra for row, extra in zip(csv.DictReader(one), csv.DictReader(other), strict=True)]
    kept = ("low", "age", "lwt", "smoke")
    lines = [",".join((*(row[name] for name in kept), repr(math.log(float(row["exposure"]))))) for row in rows]
    file.write_text("\n".join([",".join((*kept, "log_exposure")), *lines, ""]), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def of_birthwt(birthwt: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("run"), birthwt, "l2=0", target="low", offset="log_exposure")


def typed(main: Callable[[Sequence[str]], int], folder: Path, *arguments: str) -> int:
    with working_in(folder):
        return main(arguments)


def test_coefficients_are_those_of_glm(of_birthwt: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads((REFERENCES / "inference.json").read_text(encoding="utf-8"))["offset"]
    capsys.readouterr()
    assert typed(coefficients.main, tmp_path, f"ckpt_path={of_birthwt.folder}", "json=true", "effects=mean") == 0
    answer = json.loads(capsys.readouterr().out)
    rows = answer["coefficients"]
    assert [row["feature"] for row in rows] == ["intercept", "age", "lwt", "smoke"]
    assert [row["per_unit"]["coef"] for row in rows] == pytest.approx(known["estimate"], rel=1e-8)
    assert [row["per_unit"]["std_error"] for row in rows] == pytest.approx(known["std_error"], rel=1e-6)
    assert [row["p"] for row in rows] == pytest.approx(known["p"], rel=1e-6)
    # R: logLik(m) and -m$null.deviance / 2 of m = glm(low ~ age + lwt + smoke + offset(log(exposure)), binomial)
    assert answer["fit"]["log_likelihood"] == pytest.approx(-112.976932354, rel=1e-10)
    assert answer["fit"]["null_log_likelihood"] == pytest.approx(-118.583554208, rel=1e-10)
    effect = next(one for one in answer["effects"] if one["feature"] == "age")
    with (of_birthwt.folder / "coefficients.csv").open() as file:
        assert [row["1"] for row in csv.DictReader(file)][-1] == "1.0"
    assert effect["discrete"] is False


def test_effects_at_the_mean_have_the_mean_offset(
    birthwt: Path, of_birthwt: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    table = np.genfromtxt(birthwt, delimiter=",", skip_header=1)
    for at in ("mean", "average"):
        assert typed(coefficients.main, tmp_path, f"ckpt_path={of_birthwt.folder}", "json=true", f"effects={at}") == 0
        answer = json.loads(capsys.readouterr().out)
        coef = np.array([row["per_unit"]["coef"] for row in answer["coefficients"]])
        rows = table.mean(0, keepdims=True) if at == "mean" else table
        p = expit(rows[:, 1:4] @ coef[1:] + coef[0] + rows[:, 4])
        assert answer["effects"][0]["effect"] == pytest.approx(float((p * (1 - p)).mean() * coef[1]), rel=1e-9)


def test_firths_score_with_an_offset_is_zero_at_the_estimates(
    of_birthwt: Run, birthwt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert typed(coefficients.main, tmp_path, f"ckpt_path={of_birthwt.folder}", "json=true", "firth=true") == 0
    coef = np.array([row["per_unit"]["coef"] for row in json.loads(capsys.readouterr().out)["coefficients"]])
    table = np.genfromtxt(birthwt, delimiter=",", skip_header=1)
    x = np.column_stack([np.ones(len(table)), table[:, 1:4]])
    p = expit(x @ coef + table[:, 4])
    information = (x * (p * (1 - p))[:, None]).T @ x
    leverage = (x @ np.linalg.inv(information) * x).sum(1) * p * (1 - p)
    score = (table[:, 0] - p + leverage * (0.5 - p)) @ x  # Firth's modified score
    assert np.abs(score / np.sqrt(np.diag(information))).max() < 1e-6


def test_checks_are_those_of_r(of_birthwt: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # m of above, update(m, start = coef(m)) for its weights; cook <- cooks.distance(m); o <- order(-cook);
    # hatvalues(m)[o]; rstandard(m, type = "pearson")[o]; the tests as in tests/run/test_checking.py
    capsys.readouterr()
    assert typed(coefficients.main, tmp_path, f"ckpt_path={of_birthwt.folder}", "checks=true", "json=true") == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    rows = checks["influence"]
    assert [row["row"] for row in rows] == [133, 147, 183, 171, 132, 186, 140, 141, 181, 144]
    for key, known in {
        "cooks_distance": (0.0679543813922503, 0.0574422653700223, 0.0317599979230853, 0.0305542490937780),
        "leverage": (0.0223422622803100, 0.0206294376277605, 0.0437868450421430, 0.0393428976611517),
        "residual": (3.44880449092448, 3.30274925799104, 1.66561935291340, 1.72749512509033),
        "probability": (0.0791859186505878, 0.0855935478992188, 0.2737618048346216, 0.2586097133482383),
    }.items():
        assert [row[key] for row in rows[:4]] == pytest.approx(known, rel=1e-8)
    changes = (0.302421180551342, 0.310516760807938, 0.178321726461722, -0.456557584285820)
    assert [rows[0]["dfbetas"][name] for name in ("age", "lwt", "smoke", "intercept")] == pytest.approx(changes)
    assert checks["high_leverage"] == 3
    assert checks["hosmer_lemeshow"]["chi2"] == pytest.approx(5.930011159826817, rel=1e-8)
    assert checks["stukel"]["chi2"] == pytest.approx(6.10046325384502, rel=1e-8)
    found = {one["feature"]: one for one in checks["linearity"]}
    for name, ratio, score in (
        ("age", 4.58591546763434, 4.28644104471371),
        ("lwt", 1.87771480770527, 1.86043492052795),
    ):
        assert found[name]["likelihood_ratio"]["chi2"] == pytest.approx(ratio, rel=1e-8)
        assert found[name]["score"]["chi2"] == pytest.approx(score, rel=1e-7)
    for one in found.values():
        assert sum(each["rows"] * each["residual"] for each in one["bins"]) == pytest.approx(0, abs=1e-7)


@pytest.fixture(scope="module")
def with_a_multiple(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A run without an offset, and one whose offset is a multiple of a feature and a constant."""
    here = tmp_path_factory.mktemp("multiple")
    x, y, _ = drawn(120, 3)
    x[:, 1] = (4 * x[:, 1]).round() / 4
    file = write(here, x, y, (0.75 * x[:, 2] + 40).tolist())
    return [
        run(here, file, "l2=0", f"dataset.drop={drop}", offset=offset)
        for offset, drop in (("", "[log_t]"), ("log_t", "[]"))
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        *((f"covariance={kind}",) for kind in ("hessian", "HC0", "HC1", "HC2", "HC3")),
        ("interval=profile",),
        ("firth=true",),
        ("checks=true",),
        ("interval=bootstrap", "replicates=39"),
        ("interval=bootstrap", "replicates=39", "covariance=cluster:x1"),
        ("test=lrt", "effects=average"),
    ],
    ids=" ".join,
)
def test_a_multiple_of_a_feature_changes_its_own_numbers_alone(
    arguments: tuple[str, ...], with_a_multiple: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for made in with_a_multiple:
        capsys.readouterr()
        assert typed(coefficients.main, tmp_path, f"ckpt_path={made.folder}", "json=true", *arguments) == 0
        answers.append(json.loads(capsys.readouterr().out))
    for plain, moved in zip(*(answer["coefficients"] for answer in answers), strict=True):
        assert plain["feature"] == moved["feature"]
        shift = {"x2": -0.75, "intercept": -40.0}.get(plain["feature"], 0.0)
        for key, value in plain["per_unit"].items():
            change = shift if key in ("coef", "low", "high") else 0.0
            if value is not None and not key.startswith("odds"):
                assert moved["per_unit"][key] == pytest.approx(value + change, rel=1e-7, abs=1e-7)
    if arguments == ("checks=true",):
        plain, moved = (answer["checks"] for answer in answers)
        assert plain["stukel"]["chi2"] == pytest.approx(moved["stukel"]["chi2"], rel=1e-7)
        for one, other in zip(plain["linearity"], moved["linearity"], strict=True):
            assert one["likelihood_ratio"]["chi2"] == pytest.approx(other["likelihood_ratio"]["chi2"], rel=1e-7)
            for left, right in zip(one["bins"], other["bins"], strict=True):
                assert left == pytest.approx(right, rel=1e-7, abs=1e-9)


@pytest.mark.long
def test_each_sample_of_a_bootstrap_has_the_offsets_of_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y, offset = drawn(120, 2)
    file = write(tmp_path, x, y, offset.tolist())
    for penalty, scale in (("l2=0.02", x.std(0, correction=0)), ("l1=0.02", torch.ones(2, dtype=x.dtype))):
        standardize = f"dataset.standardize={str(penalty == 'l2=0.02').lower()}"
        made = run(tmp_path, file, penalty, standardize)
        capsys.readouterr()
        arguments = (f"ckpt_path={made.folder}", "interval=bootstrap", "replicates=39", "json=true")
        assert typed(coefficients.main, tmp_path, *arguments) == 0
        rows = json.loads(capsys.readouterr().out)["coefficients"]
        (weights,) = resampled_weights(torch.ones(120, dtype=torch.float64), 39, seed=0)
        objective = Objective("bce", l2=0.02) if penalty == "l2=0.02" else Objective("bce", l1=0.02)
        found = [
            fit(x / scale, y, objective, sample_weight=own, offset=offset, tolerance=1e-12)
            for own in (torch.ones(120, dtype=torch.float64), *weights)
        ]
        values = torch.stack([torch.cat([one.intercept, one.coef[0] / scale]) for one in found])
        assert [row["per_unit"]["coef"] for row in rows] == pytest.approx(values[0].tolist(), abs=1e-5)
        assert [row["per_unit"]["std_error"] for row in rows] == pytest.approx(values[1:].std(0).tolist(), abs=5e-3)


@pytest.mark.long
def test_rows_of_other_offsets_are_of_another_covariate_pattern(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = torch.Generator().manual_seed(3)
    x = torch.randint(3, (120, 1), generator=draw).double()
    y = torch.randint(2, (120,), generator=draw)
    found = []
    for offsets in (torch.zeros(120), (torch.arange(120) % 2).double()):
        made = run(tmp_path, write(tmp_path, x, y, offsets.tolist()), "l2=0")
        capsys.readouterr()
        assert typed(coefficients.main, tmp_path, f"ckpt_path={made.folder}", "checks=true", "json=true") == 0
        found.append(json.loads(capsys.readouterr().out)["checks"]["overdispersion"]["patterns"])
    assert found == [3, 6]


def test_predictions_and_intervals_are_those_of_r(
    birthwt: Path, of_birthwt: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # R: p = predict(m, se.fit = TRUE); plogis(p$fit + c(0, -1, 1) * qnorm(0.975) * p$se.fit), of the first four rows
    known = [
        [0.130469562101, 0.0597227218195, 0.261697475917],
        [0.124774198609, 0.0583202199748, 0.247082007709],
        [0.512051299666, 0.3769982841711, 0.645367461097],
        [0.570775842089, 0.4405285989889, 0.691907364389],
    ]
    arguments = (f"ckpt_path={of_birthwt.folder}", f"input={birthwt}", "interval=0.95", "output=p.csv")
    assert typed(predict.main, tmp_path, *arguments) == 0
    with (tmp_path / "p.csv").open() as file:
        rows = [[float(row[name]) for name in ("1", "1 low", "1 high")] for row in csv.DictReader(file)]
    assert np.array(rows[:4]) == pytest.approx(np.array(known), rel=1e-6)
    capsys.readouterr()
    assert typed(evaluate.main, tmp_path, f"ckpt_path={of_birthwt.folder}") == 0
    assert f"{112.976932354 / 189:.4f}" in capsys.readouterr().out
    assert typed(certify.main, tmp_path, f"ckpt_path={of_birthwt.folder}") == 0
    assert "verdict       optimal" in capsys.readouterr().out


def test_new_rows_need_the_offset(
    birthwt: Path, of_birthwt: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = birthwt.read_text(encoding="utf-8")
    renamed, gap = tmp_path / "renamed.csv", tmp_path / "gap.csv"
    renamed.write_text(text.replace("log_exposure", "logexposure"), encoding="utf-8")
    gap.write_text("low,age,lwt,smoke,log_exposure\n0,19,182,0,\n1,20,100,1,0.5\n", encoding="utf-8")
    for file, message in (
        (
            renamed,
            "`input` must have the column 'log_exposure' that the model learned from [in renamed.csv]. Is it 'lo",
        ),
        (gap, "column 'log_exposure', the offset, must hold finite numbers, got nan in row 1 [in gap.csv]."),
    ):
        capsys.readouterr()
        assert typed(predict.main, tmp_path, f"ckpt_path={of_birthwt.folder}", f"input={file}") == 2
        assert capsys.readouterr().err.startswith(message)


def test_an_estimator_of_a_run_reads_it_from_the_table(birthwt: Path, of_birthwt: Run) -> None:
    import pandas as pd
    import statsmodels.api as sm

    model, frame = LogisticRegression.from_checkpoint(of_birthwt.folder), pd.read_csv(birthwt)
    assert model[-1].coef_[0, -1] == 1
    assert model[-1].certificate_.objective.endswith("offset log_exposure")
    columns = sm.add_constant(frame[["age", "lwt", "smoke"]])
    theirs = sm.GLM(frame["low"], columns, sm.families.Binomial(), offset=frame["log_exposure"]).fit()
    np.testing.assert_allclose(model.predict_proba(frame)[:, 1], theirs.predict(), rtol=1e-5)
    moved = frame.assign(log_exposure=frame["log_exposure"] + 1)
    np.testing.assert_allclose(model.decision_function(moved), model.decision_function(frame) + 1, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["onnx", "json", "safetensors", "pt2", "joblib"])
def test_exports_have_it_as_an_input(suffix: str, of_birthwt: Run, tmp_path: Path) -> None:
    name = {"pt2": "torch_export", "joblib": "sklearn_only"}.get(suffix, suffix)
    arguments = (f"ckpt_path={of_birthwt.folder}", f"format={name}", f"output=model.{suffix}")
    assert typed(export.main, tmp_path, *arguments) == 0  # which compares the model with the trained one
    if suffix == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
        row = {
            name: np.array([[value]], np.float32)
            for name, value in zip(("age", "lwt", "smoke"), (19, 182, 0), strict=True)
        }
        low, high, none = (
            session.run(["probabilities"], row | {"log_exposure": np.array([[value]], np.float32)})[0][0, 1]
            for value in (0.0, 2.0, np.nan)
        )
        assert math.log(high / (1 - high)) - math.log(low / (1 - low)) == pytest.approx(2, rel=1e-5)
        assert math.isnan(none)
    if suffix == "joblib":
        import joblib

        model = joblib.load(tmp_path / "model.joblib")
        with pytest.raises(ValueError, match="NaN"):
            model.predict_proba(np.array([[19, 182, 0, np.nan]]))
