"""The cross-validated estimator: scikit-learn's checks and numbers, the engine's, its splits, and what it refuses."""

from __future__ import annotations

import pickle
import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegressionCV as Theirs
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneOut,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from logreg import LogisticRegression, LogisticRegressionCV, Objective
from logreg.estimators import cross_validated
from logreg.evaluation.cross_validation import FoldScores
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of
from logreg.solvers.paths.folds import FoldPaths, fit_folds
from logreg.solvers.paths.l2_path import Strength

Array = np.ndarray[Any, Any]

TIGHT: dict[str, Any] = {"tol": 1e-11, "precision": 64}
CS = np.logspace(-3, 1, 5)


def two_classes() -> tuple[Array, Array]:
    X, y = load_breast_cancer(return_X_y=True)
    return ((X - X.mean(0)) / X.std(0))[::2, :8], y[::2]


def three_classes() -> tuple[Array, Array]:
    X, y = load_iris(return_X_y=True)
    return X - X.mean(0), y


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # some checks allow a few passes only
@parametrize_with_checks(  # type: ignore[untyped-decorator]  # scikit-learn has no types
    [
        LogisticRegressionCV(Cs=2, cv=2),
        LogisticRegressionCV(
            Cs=[1.0], l1_ratios=[0.0, 0.5], cv=2, cv_rule="one_se", scoring="accuracy", tol=1e-13, precision=64
        ),
    ]
)
def test_the_estimator_passes_every_check_of_scikit_learn(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


# ---------------------------------------------------------------------------------------------------------------------
# the same numbers as scikit-learn's and as the engine's

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "without an intercept": {"fit_intercept": False},
    "balanced": {"class_weight": "balanced"},
    "accuracy": {"scoring": "accuracy"},
    "overlapping splits": {"cv": ShuffleSplit(4, test_size=0.3, random_state=0)},
    "repeated": {"cv": RepeatedStratifiedKFold(n_splits=3, n_repeats=2, random_state=1)},
}


@pytest.mark.long
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("data", [two_classes, three_classes], ids=["binary", "multinomial"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_scores_and_coefficients_are_those_of_scikit_learn(case: dict[str, Any], data: Any, weighted: bool) -> None:
    X, y = data()
    weights = np.random.default_rng(1).integers(1, 4, len(y)).astype(float) if weighted else None
    given = {"scoring": "neg_log_loss", **case}
    reference: dict[str, Any] = {"solver": "newton-cholesky", "tol": 1e-10, "l1_ratios": (0.0,)}
    theirs = Theirs(Cs=CS, use_legacy_attributes=False, max_iter=1000, **reference, **given).fit(
        X, y, sample_weight=weights
    )
    ours = LogisticRegressionCV(Cs=CS, tol=1e-13, precision=64, **case).fit(X, y, weights)
    np.testing.assert_allclose(ours.scores_, theirs.scores_, atol=1e-6)
    np.testing.assert_allclose(ours.coefs_paths_, theirs.coefs_paths_, atol=1e-5)
    np.testing.assert_array_equal(ours.Cs_, theirs.Cs_)
    np.testing.assert_array_equal(ours.l1_ratios_, theirs.l1_ratios_)
    assert ours.n_iter_.shape == theirs.n_iter_.shape
    assert (type(ours.C_), type(ours.l1_ratio_)) == (float, float)
    if given["scoring"] == "neg_log_loss":  # accuracy has ties, which other weights of the folds decide
        assert (ours.C_, ours.l1_ratio_) == (theirs.C_, theirs.l1_ratio_)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)


@pytest.mark.long
def test_the_elastic_net_is_that_of_scikit_learn() -> None:
    X, y = two_classes()
    given: dict[str, Any] = {"Cs": [0.03, 0.3], "l1_ratios": [0.3, 1.0], "cv": 3, "scoring": "roc_auc"}
    theirs = Theirs(**given, solver="saga", tol=1e-8, max_iter=20_000, use_legacy_attributes=False).fit(X, y)
    ours = LogisticRegressionCV(**given, **TIGHT).fit(X, y)
    np.testing.assert_allclose(ours.scores_, theirs.scores_, atol=1e-3)  # two rows whose logits are alike swap
    np.testing.assert_allclose(ours.coefs_paths_, theirs.coefs_paths_, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("data", [two_classes, three_classes])
def test_scores_means_and_choices_are_those_of_the_engine(data: Any) -> None:
    X, y = data()
    folds = np.random.default_rng(0).permutation(np.arange(len(y)) % 5)
    splits = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(5)]
    ours = LogisticRegressionCV(Cs=CS, cv=splits, **TIGHT).fit(X, y)

    rows = MemoryRows(torch.from_numpy(X), torch.from_numpy(y))
    problem = problem_of(rows, Objective("bce" if y.max() == 1 else "cross_entropy"), dtype=torch.float64)
    scale = len(y)  # the command minimizes a mean, whose strengths are those of a sum over the rows of the fit
    paths = [fit_folds(problem, rows, torch.from_numpy(folds), [Strength(1 / (C * scale * 0.8))], 1e-12) for C in CS]
    scores = [FoldScores.of_paths(problem, rows, [torch.from_numpy(folds)], [path], False) for path in paths]
    means, errors = (np.array([float(one.mean_and_error("loss")[k]) for one in scores]) for k in (0, 1))
    if len(y) % 5 == 0:  # then all fits have equally many rows
        np.testing.assert_allclose(-ours.mean_scores_[0], means, rtol=1e-5)
        np.testing.assert_allclose(ours.standard_errors_[0], errors, rtol=1e-3)
    weights = np.bincount(folds)
    np.testing.assert_allclose(ours.mean_scores_, np.average(ours.scores_, axis=0, weights=weights), rtol=1e-12)
    assert CS[ours.mean_scores_[0].argmax()] == ours.C_


@pytest.mark.long
def test_the_rule_of_one_standard_error_takes_the_strongest_penalty_within_it() -> None:
    X, y = two_classes()
    best, simple = (LogisticRegressionCV(Cs=20, l1_ratios=[1.0], cv_rule=rule).fit(X, y) for rule in ("best", "one_se"))
    np.testing.assert_array_equal(best.scores_, simple.scores_)
    place = int(best.mean_scores_[0].argmax())
    least = best.mean_scores_[0, place] - best.standard_errors_[0, place]
    assert best.Cs_[place] == best.C_
    assert simple.C_ == simple.Cs_[np.flatnonzero(simple.mean_scores_[0] >= least)[0]] < best.C_
    assert np.count_nonzero(simple.coef_) < np.count_nonzero(best.coef_)
    best, simple = (
        LogisticRegressionCV(Cs=CS, l1_ratios=[1.0, 0.0], cv_rule=rule).fit(X, y) for rule in ("best", "one_se")
    )
    ratio, place = divmod(int(best.mean_scores_.argmax()), len(CS))
    assert simple.l1_ratio_ == best.l1_ratio_ == best.l1_ratios_[ratio]
    assert CS[place] == best.C_
    least = best.mean_scores_[ratio, place] - best.standard_errors_[ratio, place]
    assert CS[np.flatnonzero(simple.mean_scores_[ratio] >= least)[0]] == simple.C_


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
@pytest.mark.parametrize("data", [two_classes, three_classes])
def test_the_refit_is_the_fit_of_the_other_estimator(data: Any, l1_ratio: float) -> None:
    X, y = data()
    ours = LogisticRegressionCV(Cs=[0.1, 1.0], l1_ratios=[l1_ratio]).fit(X, y)
    other = LogisticRegression(C=ours.C_, l1_ratio=l1_ratio).fit(X, y)
    np.testing.assert_array_equal(ours.coef_, other.coef_)
    np.testing.assert_array_equal(ours.predict_proba(X), other.predict_proba(X))
    assert ours.certificate_.gap == other.certificate_.gap
    assert ours.certificate_.converged
    place = int(np.flatnonzero(ours.Cs_ == ours.C_)[0])
    np.testing.assert_allclose(ours.full_path_[0, place, :, :-1], ours.coef_, atol=1e-2)


@pytest.mark.long
def test_without_a_refit_coefficients_are_means_over_the_splits() -> None:
    X, y = two_classes()
    theirs = Theirs(
        Cs=CS, refit=False, scoring="neg_log_loss", use_legacy_attributes=False, l1_ratios=(0.0,), tol=1e-8
    ).fit(X, y)
    ours = LogisticRegressionCV(Cs=CS, **TIGHT).fit(X, y).set_params(refit=False).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-4)
    assert pytest.approx(theirs.C_) == ours.C_
    assert not hasattr(ours, "certificate_")


@pytest.mark.long
def test_default_strengths_begin_where_all_coefficients_are_zero() -> None:
    X, y = two_classes()
    lasso = LogisticRegressionCV(Cs=8, l1_ratios=[1.0]).fit(X, y)
    slope = np.abs(X.T @ (y - y.mean())).max()
    assert lasso.Cs_[0] == pytest.approx(1 / slope)
    assert lasso.Cs_[-1] == pytest.approx(1e4 / slope)
    np.testing.assert_allclose(np.diff(np.log(lasso.Cs_)), np.log(1e4) / 7)
    assert not lasso.full_path_[0, 0, :, :-1].any()
    assert lasso.full_path_[0, 1, :, :-1].any()
    ridge = LogisticRegressionCV(Cs=8).fit(X, y)
    largest = np.linalg.eigvalsh(np.cov(X.T, bias=True)).max() / 4 * len(y)
    assert ridge.Cs_[0] == pytest.approx(1 / largest, rel=1)
    assert ridge.Cs_[-1] / ridge.Cs_[0] == pytest.approx(1e6)
    both = LogisticRegressionCV(Cs=8, l1_ratios=[0.0, 1.0]).fit(X, y)
    assert both.Cs_[0] == min(lasso.Cs_[0], ridge.Cs_[0])
    assert both.Cs_[-1] == pytest.approx(max(lasso.Cs_[-1], ridge.Cs_[-1]))
    assert both.scores_.shape == (5, 2, 8)
    constant = LogisticRegressionCV().fit(np.ones((20, 2)), np.arange(20) % 2)
    assert not constant.coef_.any()
    np.testing.assert_allclose(constant.Cs_[[0, -1]], [1e-4, 1e4])


def test_a_softmax_of_two_classes_has_half_the_penalty() -> None:
    X, y = two_classes()
    once = LogisticRegressionCV(Cs=CS, **TIGHT).fit(X, y)
    again = LogisticRegressionCV(Cs=CS / 2, loss="cross_entropy", **TIGHT).fit(X, y)
    for name in ("scores_", "coefs_paths_", "full_path_", "coef_"):
        np.testing.assert_allclose(getattr(again, name), getattr(once, name), rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# weights, splits, groups


@pytest.mark.long
def test_a_weight_of_two_is_the_row_twice() -> None:
    X, y = two_classes()
    weights, folds = np.random.default_rng(2).integers(0, 3, len(y)), np.arange(len(y)) % 3

    def fitted(X: Array, y: Array, folds: Array, weights: Array | None) -> LogisticRegressionCV:
        splits = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(3)]
        return LogisticRegressionCV(Cs=6, l1_ratios=[0.0, 1.0], cv=splits, tol=1e-9, precision=64).fit(X, y, weights)

    once = fitted(X, y, folds, weights)
    again = fitted(X.repeat(weights, 0), y.repeat(weights), folds.repeat(weights), None)
    for name in ("Cs_", "scores_", "mean_scores_", "standard_errors_", "coef_"):
        np.testing.assert_allclose(getattr(once, name), getattr(again, name), rtol=1e-4, atol=1e-6, err_msg=name)
    assert pytest.approx(again.C_) == once.C_


def test_splitters_and_numbers_of_folds_give_the_same() -> None:
    X, y = two_classes()
    once = LogisticRegressionCV(Cs=CS, cv=4).fit(X, y)
    splitter = StratifiedKFold(4)
    for cv in (splitter, list(splitter.split(X, y)), iter(list(splitter.split(X, y)))):
        np.testing.assert_array_equal(LogisticRegressionCV(Cs=CS, cv=cv).fit(X, y).scores_, once.scores_)
    masks = [(np.isin(np.arange(len(y)), train), test.tolist()) for train, test in splitter.split(X, y)]
    np.testing.assert_array_equal(LogisticRegressionCV(Cs=CS, cv=masks).fit(X, y).scores_, once.scores_)


def test_the_default_has_no_more_folds_than_the_smallest_class_has_rows() -> None:
    X, y = two_classes()
    few = np.r_[np.flatnonzero(y == 0)[:3], np.flatnonzero(y == 1)[:30]]
    assert LogisticRegressionCV(Cs=2).fit(X[few], y[few]).scores_.shape == (3, 1, 2)
    assert LogisticRegressionCV(Cs=2).fit(X, y).scores_.shape == (5, 1, 2)


def test_groups_stay_together() -> None:
    X, y = two_classes()
    groups = np.arange(len(y)) % 7
    expected = LogisticRegressionCV(Cs=CS, cv=list(GroupKFold(3).split(X, y, groups))).fit(X, y)
    ours = LogisticRegressionCV(Cs=CS, cv=GroupKFold(3)).fit(X, y, groups=groups)
    np.testing.assert_array_equal(ours.scores_, expected.scores_)
    by_number = LogisticRegressionCV(Cs=CS, cv=7).fit(X, y, groups=groups)
    by_group = [(np.flatnonzero(groups != group), np.flatnonzero(groups == group)) for group in range(7)]
    each = LogisticRegressionCV(Cs=CS, cv=by_group).fit(X, y)
    np.testing.assert_allclose(np.sort(by_number.scores_, 0), np.sort(each.scores_, 0), atol=1e-5)
    with config_context(enable_metadata_routing=True):
        model = LogisticRegressionCV(Cs=CS, cv=GroupKFold(3)).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
        pipeline.fit(X, y, groups=groups, sample_weight=np.ones(len(y)))
        np.testing.assert_allclose(pipeline[-1].scores_, expected.scores_, atol=1e-2)  # columns are scaled again
        with pytest.raises(TypeError, match="unexpected argument"):
            LogisticRegressionCV(Cs=CS).fit(X, y, groups=groups)


@pytest.mark.parametrize(
    ("held_out", "repetitions"),
    [
        ([[0, 1], [2, 3]], 1),
        ([[0], [1, 2], [3]], 1),
        ([[0, 1], [2, 3], [0, 2], [1, 3]], 2),
        ([[0, 1]], 0),
        ([[0, 1], [1, 2], [3]], 0),
        ([[0, 1], [2, 3], [0]], 0),
        ([[0, 1], [2, 3], [0], [1], [2, 3]], 0),
    ],
)
def test_splits_that_hold_out_each_row_once_are_folds(held_out: list[list[int]], repetitions: int) -> None:
    splits = [(np.setdiff1d(np.arange(4), rows), np.array(rows)) for rows in held_out]
    partitions = cross_validated._partitions(splits, 4)
    assert len(partitions) == repetitions
    for number, rows in enumerate(held_out[:2] if repetitions else []):
        assert (partitions[0][rows] == number).all()
    assert not cross_validated._partitions([(train[1:], test) for train, test in splits], 4)


def test_repetitions_have_the_standard_error_of_one() -> None:
    X, y = two_classes()
    twice = list(StratifiedKFold(4).split(X, y)) * 2
    once, again = (LogisticRegressionCV(Cs=CS, cv=cv, **TIGHT).fit(X, y) for cv in (4, twice))
    assert again.scores_.shape == (8, 1, 5)
    np.testing.assert_allclose(again.mean_scores_, once.mean_scores_, rtol=1e-12)
    np.testing.assert_allclose(again.standard_errors_, once.standard_errors_, rtol=1e-12)
    single = LogisticRegressionCV(Cs=CS, cv=twice[:1], **TIGHT).fit(X, y)
    assert np.isnan(single.standard_errors_).all()
    np.testing.assert_allclose(single.scores_, once.scores_[:1], atol=1e-5)


@pytest.mark.long
def test_one_row_may_be_held_out_at_a_time() -> None:
    X, y = (part[::8] for part in two_classes())
    ours = LogisticRegressionCV(Cs=[1.0], cv=LeaveOneOut(), **TIGHT).fit(X, y)
    losses = []
    for row in range(len(y)):
        rest = np.arange(len(y)) != row
        model = LogisticRegression(**TIGHT).fit(X[rest], y[rest])
        losses.append(log_loss(y[[row]], model.predict_proba(X[[row]]), labels=[0, 1]))
    np.testing.assert_allclose(-ours.scores_[:, 0, 0], losses, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# rows of every kind, tools of scikit-learn


def test_rows_may_be_frames_and_tensors() -> None:
    X, y = two_classes()
    once = LogisticRegressionCV(Cs=CS).fit(X, y)
    names = np.array(["no", "yes"])
    frame = LogisticRegressionCV(Cs=CS).fit(pd.DataFrame(X).rename(columns="x{}".format), pd.Series(names[y]))
    np.testing.assert_array_equal(frame.scores_, once.scores_)
    assert frame.feature_names_in_[0] == "x0"
    assert frame.classes_.tolist() == ["no", "yes"]
    columns = pl.DataFrame(dict(zip("abcdefgh", X.T, strict=True)))
    np.testing.assert_array_equal(LogisticRegressionCV(Cs=CS).fit(columns, y.tolist(), 1.0).scores_, once.scores_)
    tensors = LogisticRegressionCV(Cs=CS).fit(torch.from_numpy(X), torch.from_numpy(y), torch.ones(len(y)))
    np.testing.assert_allclose(tensors.scores_, once.scores_, atol=1e-5)
    assert isinstance(tensors.predict(torch.from_numpy(X)), torch.Tensor)
    assert tensors.score(torch.from_numpy(X), torch.from_numpy(y)) == pytest.approx(once.score(X, y), rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
@pytest.mark.parametrize("splits", [3, ShuffleSplit(2, random_state=0)], ids=["folds", "parts"])
def test_sparse_rows_have_the_paths_of_dense_rows(splits: Any, l1_ratio: float, classes: int) -> None:
    draw = np.random.default_rng(0)
    X = sparse.random_array((120, 15), density=0.3, format="csr", rng=draw)
    y = (X @ draw.standard_normal((15, classes)) + 0.3 * draw.gumbel(size=(120, classes))).argmax(1)
    weights = 1.0 + draw.integers(0, 2, len(y))
    estimator = LogisticRegressionCV(Cs=3, cv=splits, l1_ratios=[l1_ratio], tol=1e-11, precision=64, refit=False)
    dense = clone(estimator).fit(X.toarray(), y, weights)
    ours = clone(estimator).fit(X, y, weights)
    np.testing.assert_allclose(ours.Cs_, dense.Cs_, rtol=1e-6)
    np.testing.assert_allclose(ours.coefs_paths_, dense.coefs_paths_, atol=2e-4 * np.abs(dense.coefs_paths_).max())
    np.testing.assert_allclose(ours.scores_, dense.scores_, atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(X), dense.predict_proba(X.toarray()), atol=1e-4)


def test_text_is_cross_validated_in_a_pipeline() -> None:
    texts = ["a red apple", "a green apple", "the fast car", "a slow car", "red apples", "fast cars"] * 4
    model = make_pipeline(TfidfVectorizer(), LogisticRegressionCV(Cs=3, cv=3)).fit(texts, ["fruit", "fruit", "car"] * 8)
    assert model[-1].certificate_.converged
    tensor = torch.tensor(model[0].transform(texts).toarray()).to_sparse_csr()
    again = LogisticRegressionCV(Cs=3, cv=3).fit(tensor, torch.arange(len(texts)) % 2)
    assert again.coef_.shape == (1, tensor.shape[1])


@pytest.mark.parametrize("l1_ratio", [0.0, 1.0])
def test_the_unit_and_the_offset_of_features_do_not_matter(l1_ratio: float) -> None:
    X, y = two_classes()
    unit = 1e-10  # such features are stored in other units and shifted
    factor = unit ** -(1 if l1_ratio else 2)
    once = LogisticRegressionCV(Cs=CS, l1_ratios=[l1_ratio], tol=1e-9, precision=64).fit(X, y)
    again = LogisticRegressionCV(Cs=CS * factor, l1_ratios=[l1_ratio], tol=1e-9, precision=64).fit(unit * (X + 10), y)
    np.testing.assert_allclose(again.scores_, once.scores_, rtol=1e-5)
    for name in ("coefs_paths_", "full_path_"):
        paths, others = getattr(again, name), getattr(once, name)
        np.testing.assert_allclose(paths[..., :-1] * unit, others[..., :-1], atol=1e-4)
        moved = others[..., -1] - 10 * others[..., :-1].sum(-1)
        np.testing.assert_allclose(paths[..., -1], moved, atol=1e-3)
    assert again.C_ / factor == pytest.approx(once.C_)


@pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy", "roc_auc"])
def test_the_score_is_the_one_that_chooses(scoring: str) -> None:
    X, y = two_classes()
    model = LogisticRegressionCV(Cs=CS, scoring=scoring).fit(X, y)
    expected = {
        "neg_log_loss": -log_loss(y, model.predict_proba(X)),
        "accuracy": np.mean(model.predict(X) == y),
        "roc_auc": roc_auc_score(y, model.decision_function(X)),
    }
    assert model.score(X, y) == pytest.approx(expected[scoring], rel=1e-12)


def test_it_is_cloned_pickled_and_cross_validated_itself() -> None:
    X, y = two_classes()
    model = clone(LogisticRegressionCV(Cs=CS, cv=3)).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.certificate_ == model.certificate_
    pipeline = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=CS))
    scores = cross_validate(pipeline, X, y, cv=3, scoring="accuracy")["test_score"]
    assert min(scores) > 0.85


def test_a_checkpoint_has_no_such_estimator() -> None:
    with pytest.raises(
        ValueError, match=r"^`from_checkpoint` must .* Use LogisticRegression\.from_checkpoint\('latest'\)"
    ):
        LogisticRegressionCV.from_checkpoint("latest")


def test_verbose_fits_print_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = two_classes()
    LogisticRegressionCV(Cs=CS, verbose=1).fit(X, y)
    assert "LogisticRegressionCV: 25 fits" in capsys.readouterr().out


def test_fits_that_miss_the_tolerance_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = two_classes()

    def fail_one(*arguments: Any, **options: Any) -> FoldPaths:
        paths = fit_folds(*arguments, **options)
        first, *others = paths.of_folds
        return replace(paths, of_folds=[[replace(first[0], converged=False), *first[1:]], *others])

    with pytest.warns(ConvergenceWarning, match=r"has not reached tol=1e-06 in 1 pass:"):
        LogisticRegressionCV(Cs=CS, max_iter=1, solver="lbfgs").fit(X, y)
    monkeypatch.setattr(cross_validated, "fit_folds", fail_one)
    with pytest.warns(ConvergenceWarning, match=r"tol=1e-06 in 1 of the 25 fits of the splits\. Set precision=64,"):
        LogisticRegressionCV(Cs=CS).fit(X, y)
    with pytest.warns(ConvergenceWarning, match=r"tol=1e-06 in 1 of the 25 fits of the splits\. Raise tol,"):
        LogisticRegressionCV(Cs=CS, precision=64).fit(X, y)


@pytest.mark.long
def test_fits_of_a_loss_that_is_not_convex_end_at_stationary_points(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(5)
    X = draw.normal(size=(120, 3))
    y = (draw.random(120) < 1 / (1 + np.exp(-X[:, 0]))).astype(int)
    found: list[FoldPaths] = []

    def noted(*arguments: Any, **options: Any) -> FoldPaths:
        found.append(fit_folds(*arguments, **options))
        return found[0]

    monkeypatch.setattr(cross_validated, "fit_folds", noted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogisticRegressionCV(Cs=2, cv=2, loss="cauchit", precision=64).fit(X, y)

    def raise_one(*arguments: Any, **options: Any) -> FoldPaths:
        (paths,) = found  # of the same rows and settings
        first, *others = paths.of_folds
        above = first[0].bound._replace(decrement=np.inf)
        return replace(paths, of_folds=[[replace(first[0], bound=above), *first[1:]], *others])

    monkeypatch.setattr(cross_validated, "fit_folds", raise_one)
    words = r"not reached a stationary point to within tol=1e-06 in 1 of the 4 fits of the splits\. Raise tol,"
    with pytest.warns(ConvergenceWarning, match=words):
        LogisticRegressionCV(Cs=2, cv=2, loss="cauchit", precision=64).fit(X, y)


# ---------------------------------------------------------------------------------------------------------------------
# bad input

X, Y = load_iris(return_X_y=True)

PARAMETERS: dict[str, dict[str, Any]] = {
    r"`Cs` must be a whole number >= 1, or a list of finite numbers > 0, got 0": {"Cs": 0},
    r"`Cs` must be .*, got \[\]": {"Cs": []},
    r"`Cs` must be .*, got \[1\.0, -1\.0\]": {"Cs": [1.0, -1.0]},
    r"`Cs` must be .*, got \[inf\]": {"Cs": [np.inf]},
    r"`Cs` must be .*, got 'ten'": {"Cs": "ten"},
    r"`Cs` must be .*, got 1\.5": {"Cs": 1.5},
    r"`l1_ratios` must be a list of numbers in \[0, 1\], got \[2\]": {"l1_ratios": [2]},
    r"`l1_ratios` must be .*, got 0\.5": {"l1_ratios": 0.5},
    r"`l1_ratios` must be .*, got None": {"l1_ratios": None},
    r"`cv` must be a whole number >= 2, got 1": {"cv": 1},
    r"`cv` must be a whole number >= 2, got 2\.5": {"cv": 2.5},
    r"Expected `cv` as an integer": {"cv": "five"},
    r"`cv_rule` must be one of best, one_se": {"cv_rule": "1se"},
    r"`cv_rule` must be \"best\" with refit=False": {"cv_rule": "one_se", "refit": False},
    r"`scoring` must be one of neg_log_loss, accuracy, roc_auc, got 'f1'\. For another score use GridSearchCV": {
        "scoring": "f1"
    },
    r"`scoring` must be \"neg_log_loss\" or \"accuracy\" for more than two classes": {"scoring": "roc_auc"},
    r"`refit` must be True or False": {"refit": 1},
    r"`tol` must be": {"tol": 0},
    r"`solver` must be one of": {"solver": "saga"},
    r"at most the number of rows of each class, got 51, and class 0 has 50\. Set cv=50,": {"cv": 51},
    r"split 1 of `cv` must have rows to fit of every class .* none of 0\. Use stratified folds": {"cv": KFold(3)},
    r"`cv` must give one split at least": {"cv": []},
    r"split 1 of `cv` must have rows to score": {"cv": [(np.arange(150), [])]},
    r"`cv` must give positions of the 150 rows: index 150": {"cv": [(np.arange(150), [150])]},
}


@pytest.mark.parametrize("words", PARAMETERS)
def test_parameters_out_of_range_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LogisticRegressionCV(**PARAMETERS[words]).fit(X, Y)


@pytest.mark.long
def test_what_the_messages_advise_fits() -> None:
    LogisticRegressionCV(Cs=[0.1, 1.0], cv=50).fit(X, Y)
    LogisticRegressionCV(Cs=2, cv=StratifiedKFold(5)).fit(X, Y)


def test_rows_that_cannot_be_fitted_are_refused() -> None:
    rows = np.random.default_rng(0).permutation(150)
    with pytest.raises(ValueError, match=r"Input X contains NaN in row 3, column 1\. Fill missing values"):
        LogisticRegressionCV().fit(np.where(np.arange(600).reshape(150, 4) == 13, np.nan, X), Y)
    with pytest.raises(ValueError, match="at least 2 classes, got one class, 7"):
        LogisticRegressionCV().fit(X, Y * 0 + 7)
    with pytest.raises(ValueError, match=r"class 2 has 1\. Leave out its rows"):
        LogisticRegressionCV(cv=2).fit(X[:101], Y[:101])
    with pytest.raises(ValueError, match="sample_weight must have one number for each row"):
        LogisticRegressionCV().fit(X, Y, np.ones(149))
    with pytest.raises(ValueError, match="`sample_weight` must be finite and >= 0"):
        LogisticRegressionCV().fit(X, Y, -np.ones(150))
    with pytest.raises(ValueError, match=r"split 1 of `cv` must have .* a weight > 0, and has none of 2"):
        LogisticRegressionCV().fit(X, Y, np.where(Y == 2, 0.0, 1.0))
    with pytest.raises(ValueError, match="groups"):
        LogisticRegressionCV(cv=GroupKFold(5)).fit(X, Y, groups=rows % 3)
    for groups, words in ((rows % 3, "3. Set cv=3."), (rows * 0, "1. Leave groups out.")):
        sentence = f"`cv` must be at most the number of groups, got 5, and groups has {words}"
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            LogisticRegressionCV(cv=5).fit(X, Y, groups=groups)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LogisticRegressionCV(cv=5).fit(X, Y, groups=rows[:9])
    with pytest.raises(TypeError, match="fit takes X, y, sample_weight, offset and groups, got group"):
        LogisticRegressionCV().fit(X, Y, group=rows)
    one = Y[:100] == 1
    with pytest.raises(ValueError, match=r"split 1 of `cv` must have rows to score of both classes for roc_auc"):
        LogisticRegressionCV(scoring="roc_auc", cv=KFold(5)).fit(X[:100], one)
