"""The estimator: scikit-learn's checks, its answers and its tools; rows of every kind; what it warns of and refuses."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import coo_array, csr_array, csr_matrix, issparse
from sklearn import config_context, set_config
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import RFE
from sklearn.linear_model import LogisticRegression as Theirs
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from logreg import LogisticRegression, Objective, fit
from logreg.estimators.logistic_regression import FitCertificate
from logreg.training.checkpoint_reading import TrainedModel

Array = np.ndarray[Any, Any]
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"

TIGHT: dict[str, Any] = {"tol": 1e-12, "precision": 64}
"""Coefficients of a fit to this gap have six digits and more."""

ROUNDED: dict[str, Any] = TIGHT | {"tol": 1e-10}
"""For l1 and for columns of very different sizes, whose gap is known up to a larger rounding error."""


def iris() -> tuple[Array, Array]:
    X, y = load_iris(return_X_y=True)
    return X, y


def two_classes() -> tuple[Array, Array]:
    X, y = load_breast_cancer(return_X_y=True)
    return ((X - X.mean(0)) / X.std(0))[:, :12], y


def overlapping() -> tuple[Array, Array]:
    """Two features of which no direction separates the three classes."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 200)
    return draw.standard_normal((200, 2)) + 0.5 * np.stack([y, -y], axis=1), y


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # some checks allow a few passes only
@parametrize_with_checks(  # type: ignore[untyped-decorator]  # scikit-learn has no types
    [
        LogisticRegression(),
        LogisticRegression(loss="bce", class_weight="balanced", precision=64, tol=1e-14),
    ]
)
def test_the_estimator_passes_every_check_of_scikit_learn(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


# ---------------------------------------------------------------------------------------------------------------------
# the same answers as scikit-learn's


def objective_of(model: Any, X: Array, y: Array, weights: Array, C: float, l1_ratio: float) -> float:
    """scikit-learn's objective, divided by C, computed from the attributes of a fitted model."""
    logits = X @ model.coef_.T + model.intercept_
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    largest = logits.max(1, keepdims=True)
    logs = largest[:, 0] + np.log(np.exp(logits - largest).sum(1))
    losses = logs - logits[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    penalty = (1 - l1_ratio) / 2 * np.sum(model.coef_**2) + l1_ratio * np.abs(model.coef_).sum()
    return float(weights @ losses + penalty / C)


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "strong": {"C": 1e-3},
    "weak": {"C": 1e3},
    "without an intercept": {"fit_intercept": False},
    "l1": {"l1_ratio": 1.0, "C": 0.2},
    "elastic net": {"l1_ratio": 0.4, "C": 0.1},
    "balanced": {"class_weight": "balanced"},
    "weights of classes": {"class_weight": {0: 2.0, 1: 0.5}},
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("data", [two_classes, iris], ids=["binary", "multinomial"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_coefficients_and_objective_are_those_of_scikit_learn(case: dict[str, Any], data: Any, weighted: bool) -> None:
    X, y = data()
    weights = np.random.default_rng(1).integers(0, 4, len(y)).astype(float) if weighted else None
    smooth = not case.get("l1_ratio")
    reference = {"solver": "newton-cg" if smooth else "saga", "tol": 1e-8, "max_iter": 20_000}
    theirs = Theirs(**case, **reference).fit(X, y, weights)
    ours = LogisticRegression(**case, **(TIGHT if smooth else ROUNDED)).fit(X, y, weights)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))

    total = np.ones(len(y)) if weights is None else weights
    if case.get("class_weight") == "balanced":
        by_class = total.sum() / (len(ours.classes_) * np.bincount(y, total))
        total = total * by_class[y]
    elif "class_weight" in case:
        total = total * np.array([2.0, 0.5, 1.0])[y]
    C, l1_ratio = case.get("C", 1.0), case.get("l1_ratio", 0.0)
    mine, other = (objective_of(model, X, y, total, C, l1_ratio) for model in (ours, theirs))
    assert ours.certificate_.value == pytest.approx(mine, rel=1e-9)
    assert ours.certificate_.converged
    assert mine <= other + ours.certificate_.gap + 1e-9


def test_one_vs_rest_is_that_of_scikit_learn() -> None:
    X, y = iris()
    ours = LogisticRegression(loss="bce", **TIGHT).fit(X, y)
    theirs = OneVsRestClassifier(Theirs(tol=1e-10, max_iter=10_000)).fit(X, y)
    np.testing.assert_allclose(ours.coef_, np.concatenate([one.coef_ for one in theirs.estimators_]), rtol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_a_softmax_of_two_classes_has_half_the_penalty() -> None:
    # its two rows are opposite, and together weigh half of the square of their difference
    X, y = two_classes()
    ours = LogisticRegression(loss="cross_entropy", C=0.5, **TIGHT).fit(X, y)
    theirs = Theirs(C=1.0, tol=1e-10, max_iter=10_000).fit(X, y)
    assert ours.coef_.shape == (1, X.shape[1])
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("solver", ["auto", "newton", "lbfgs"])
@pytest.mark.parametrize("precision", [32, 64])
def test_every_solver_and_precision_end_at_the_same_optimum(solver: str, precision: int) -> None:
    X, y = two_classes()
    model = LogisticRegression(solver=solver, precision=precision, random_state=1).fit(X, y)
    assert model.certificate_.converged
    assert model.certificate_.dtype == f"float{precision}"
    np.testing.assert_allclose(model.coef_, LogisticRegression(**TIGHT).fit(X, y).coef_, atol=5e-3)


def test_an_unpenalized_fit_is_that_of_scikit_learn() -> None:
    X, y = overlapping()
    ours = LogisticRegression(C=np.inf).fit(X, y)
    theirs = Theirs(C=np.inf, tol=1e-10).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    assert ours.certificate_.converged
    assert not ours.certificate_.separation


def test_the_estimator_and_fit_have_the_same_coefficients() -> None:
    X, y = iris()
    model = LogisticRegression(C=0.5).fit(X, y)
    objective = Objective("cross_entropy", "sum", l2=2.0)
    found = fit(torch.from_numpy(X), torch.from_numpy(y), objective, dtype=torch.float32)
    np.testing.assert_array_equal(model.coef_, found.coef.numpy())
    np.testing.assert_array_equal(model.intercept_, found.intercept.numpy())
    assert model.certificate_.gap == found.bound.gap
    assert model.n_iter_.tolist() == [found.passes]


# ---------------------------------------------------------------------------------------------------------------------
# identities


@pytest.mark.parametrize("data", [two_classes, iris])
def test_a_weight_of_two_is_the_row_twice_and_of_zero_no_row(data: Any) -> None:
    X, y = data()
    weights = np.random.default_rng(2).integers(0, 3, len(y))
    once = LogisticRegression(**TIGHT).fit(X, y, weights)
    again = LogisticRegression(**TIGHT).fit(X.repeat(weights, 0), y.repeat(weights))
    np.testing.assert_allclose(once.coef_, again.coef_, rtol=1e-6, atol=1e-8)


def test_the_order_of_rows_and_columns_does_not_matter() -> None:
    X, y = iris()
    draw = np.random.default_rng(3)
    rows, columns = draw.permutation(len(X)), draw.permutation(X.shape[1])
    once = LogisticRegression(**TIGHT).fit(X, y)
    again = LogisticRegression(**TIGHT).fit(X[rows][:, columns], y[rows])
    np.testing.assert_allclose(again.coef_, once.coef_[:, columns], atol=1e-6)


NAMES: dict[str, Array] = {
    "text": np.array(["a", "b", "c"]),
    "objects": np.array(["a", "b", "c"], dtype=object),
    "negative": np.array([-7, -1, 5]),
    "bytes": np.array([0, 100, 255], dtype=np.uint8),
    "small": np.array([-128, 0, 127], dtype=np.int8),
    "large": np.array([-(2**62), 0, 2**62]),
    "beyond int64": np.array([0, 2**63, 2**64 - 1], dtype=np.uint64),
    "floating": np.array([-1.0, 0.0, 2.0]),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_the_names_of_the_classes_do_not_matter(names: Array) -> None:
    X, y = iris()
    once, again = LogisticRegression().fit(X, y), LogisticRegression().fit(X, names[y])
    np.testing.assert_array_equal(again.classes_, names)
    np.testing.assert_array_equal(again.coef_, once.coef_)
    np.testing.assert_array_equal(again.predict(X), names[once.predict(X)])
    assert again.predict(X).dtype == names.dtype


def test_booleans_are_classes() -> None:
    X, y = iris()
    model = LogisticRegression().fit(X, y == 1)
    assert model.classes_.tolist() == [False, True]
    assert model.predict(X).dtype == bool
    np.testing.assert_array_equal(model.coef_, LogisticRegression().fit(X, (y == 1) * 1).coef_)


@pytest.mark.parametrize("data", [two_classes, iris])
def test_probabilities_agree_with_each_other(data: Any) -> None:
    X, y = data()
    model = LogisticRegression().fit(X, y)
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), probabilities, rtol=1e-9)
    np.testing.assert_array_equal(model.classes_[probabilities.argmax(1)], model.predict(X))
    assert model.score(X, y) == np.mean(model.predict(X) == y)


# ---------------------------------------------------------------------------------------------------------------------
# classes without weight


def test_a_class_whose_rows_weigh_nothing_is_never_predicted() -> None:
    X, y = iris()
    weights = np.where(y == 0, 0.0, 1.0)
    ours, theirs = LogisticRegression(**TIGHT).fit(X, y, weights), Theirs(tol=1e-6, max_iter=5000).fit(X, y, weights)
    np.testing.assert_array_equal(ours.classes_, [0, 1, 2])
    assert ours.coef_.shape == (3, 4)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.predict_proba(X)[:, 0].max() < 1e-4
    by_class = LogisticRegression(class_weight={0: 0}, **TIGHT).fit(X, y)
    np.testing.assert_allclose(by_class.coef_, ours.coef_, atol=1e-6)
    balanced = LogisticRegression(class_weight="balanced", **TIGHT).fit(X, y, weights)
    np.testing.assert_array_equal(balanced.predict(X), theirs.predict(X))


def test_of_two_classes_the_one_with_weight_is_always_predicted() -> None:
    X, y = two_classes()
    for only in (0, 1):
        with pytest.warns(ConvergenceWarning, match=f"all rows of positive weight are of the class '{only}'"):
            model = LogisticRegression().fit(X, y, y == only)
        assert set(model.predict(X)) == {only}


# ---------------------------------------------------------------------------------------------------------------------
# scikit-learn's tools


@pytest.fixture
def routing() -> Any:
    set_config(enable_metadata_routing=True)
    yield
    set_config(enable_metadata_routing=False)


@pytest.mark.long
def test_it_works_in_a_pipeline_and_a_grid_search() -> None:
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    pipeline = Pipeline([("scale", StandardScaler()), ("model", LogisticRegression())]).set_output(transform="pandas")
    search = GridSearchCV(pipeline, {"model__C": [1e-3, 1e-1, 10.0], "model__l1_ratio": [0.0, 1.0]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.96
    best = search.best_estimator_["model"]
    assert list(best.feature_names_in_) == list(X.columns)
    assert best.certificate_.converged
    assert search.predict(X).shape == y.shape


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
def test_folds_in_parallel_are_those_in_turn(backend: str) -> None:
    X, y = iris()
    with joblib.parallel_config(backend):
        one, two = (cross_validate(LogisticRegression(), X, y, n_jobs=jobs, return_estimator=True) for jobs in (1, 2))
    np.testing.assert_array_equal(one["test_score"], two["test_score"])
    for mine, other in zip(one["estimator"], two["estimator"], strict=True):
        np.testing.assert_array_equal(mine.coef_, other.coef_)


def test_memory_that_joblib_maps_read_only_is_read(tmp_path: Path) -> None:
    X, y = iris()
    joblib.dump((X, y), tmp_path / "rows.joblib")
    mapped = joblib.load(tmp_path / "rows.joblib", mmap_mode="r")
    assert not mapped[0].flags.writeable
    model = LogisticRegression().fit(*mapped)  # torch's warning would be an error
    np.testing.assert_array_equal(model.predict(mapped[0]), LogisticRegression().fit(X, y).predict(X))
    X.flags.writeable = y.flags.writeable = False
    np.testing.assert_array_equal(LogisticRegression().fit(X, y, y + 1.0).coef_.shape, (3, 4))


def test_its_probabilities_are_calibrated() -> None:
    X, y = iris()
    calibrated = CalibratedClassifierCV(LogisticRegression(), method="sigmoid", cv=3).fit(X, y)
    assert calibrated.score(X, y) > 0.9


def test_features_are_eliminated_by_its_coefficients() -> None:
    X, y = two_classes()
    ours, theirs = (RFE(model, n_features_to_select=5).fit(X, y).support_ for model in (LogisticRegression(), Theirs()))
    np.testing.assert_array_equal(ours, theirs)


def test_weights_are_routed(routing: None) -> None:
    X, y = iris()
    weights = np.random.default_rng(4).uniform(size=len(y))
    model = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), LogisticRegression())
    model[-1].set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    model.fit(X, y, sample_weight=weights)
    scaled = StandardScaler().fit_transform(X)
    np.testing.assert_array_equal(model[-1].coef_, LogisticRegression().fit(scaled, y, weights).coef_)
    scores = cross_validate(model, X, y, params={"sample_weight": weights})["test_score"]
    assert scores.shape == (5,)


def test_a_clone_and_a_pickle_are_the_same_estimator() -> None:
    X, y = iris()
    model = LogisticRegression(C=0.3, l1_ratio=0.2, class_weight={0: 2.0}, warm_start=True).fit(X, y)
    assert clone(model).get_params() == model.get_params()
    assert not hasattr(clone(model), "coef_")
    again = pickle.loads(pickle.dumps(model))
    assert again.certificate_ == model.certificate_
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_its_parameters_are_shown() -> None:
    assert repr(LogisticRegression(C=2.0, device="cuda")) == "LogisticRegression(C=2.0, device='cuda')"
    assert LogisticRegression().set_params(solver="lbfgs").get_params()["solver"] == "lbfgs"


# ---------------------------------------------------------------------------------------------------------------------
# rows of every kind


def frames() -> dict[str, tuple[Any, Any]]:
    """Iris as data frames."""
    X, y = iris()
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    data = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    return {
        "pandas": (data, pd.Series(names)),
        "pandas, category": (data.astype("float32").astype({"a": "float64"}), pd.Series(names, dtype="category")),
        "pandas, nullable": (data.convert_dtypes(), pd.Series(names, dtype="string")),
        "polars": (pl.DataFrame(data.to_dict("list")), pl.Series(names)),
        "polars, categorical": (pl.DataFrame(data.to_dict("list")), pl.Series(names).cast(pl.Categorical)),
    }


@pytest.mark.parametrize("kind", frames())
def test_a_data_frame_is_its_columns_by_name(kind: str) -> None:
    X, y = iris()
    data, names = frames()[kind]
    model = LogisticRegression().fit(data, names)
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    np.testing.assert_allclose(model.coef_, LogisticRegression().fit(X, y).coef_, rtol=0, atol=1e-5)
    assert model.score(data, names) > 0.95
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        model.predict(data[["b", "a", "c", "d"]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)
    assert not hasattr(model.fit(X, y), "feature_names_in_")


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int16, np.uint8, bool, object])
def test_numbers_of_every_type_are_features(kind: type) -> None:
    X, y = iris()
    rounded: Array = X.round().astype(kind)
    model = LogisticRegression(**TIGHT).fit(rounded, y)
    np.testing.assert_allclose(model.coef_, LogisticRegression(**TIGHT).fit(rounded.astype(float), y).coef_, atol=1e-6)
    assert model.coef_.dtype == np.float64
    assert model.predict_proba(rounded).dtype == np.float64


def test_lists_and_strided_arrays_are_rows() -> None:
    X, y = iris()
    expected = LogisticRegression(**TIGHT).fit(X, y)
    for given, labels in ((X.tolist(), y.tolist()), (np.asfortranarray(X), y), (X[::-1], y[::-1])):
        model = LogisticRegression(**TIGHT).fit(given, labels)
        np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-6)
        assert len(model.predict(given)) == len(y)


def test_digits_of_float64_are_kept_in_single_precision() -> None:
    # seconds since 1970 differ by less than float32 resolves
    draw = np.random.default_rng(5)
    seconds = draw.uniform(0, 100, 300)
    y = draw.uniform(size=300) < 1 / (1 + np.exp(-(seconds - 50) / 10))
    near = LogisticRegression(C=np.inf).fit(seconds[:, None], y)
    far = LogisticRegression(C=np.inf).fit(seconds[:, None] + 1.7e9, y)
    np.testing.assert_allclose(far.coef_, near.coef_, rtol=1e-4)
    assert far.certificate_.converged


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.int32])
def test_tensors_are_rows_and_predictions(kind: torch.dtype) -> None:
    X, y = iris()
    features, labels = torch.from_numpy(X).round().to(kind), torch.from_numpy(y)
    model = LogisticRegression().fit(features, labels, torch.ones(len(y)))
    arrays = LogisticRegression().fit(X.round(), y)
    np.testing.assert_allclose(model.coef_, arrays.coef_, atol=1e-3)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        result = getattr(model, method)(features)
        assert isinstance(result, torch.Tensor)
        np.testing.assert_array_equal(result.numpy(), getattr(model, method)(features.double().numpy()))
    assert model.score(features, labels) == arrays.score(X.round(), y)
    assert isinstance(model.coef_, np.ndarray)


def test_tensors_go_with_every_kind_of_class() -> None:
    X, y = iris()
    features = torch.from_numpy(X)
    names = np.array(["a", "b", "c"])[y]
    model = LogisticRegression().fit(features.requires_grad_(), names)
    assert model.predict(features).tolist() == LogisticRegression().fit(X, names).predict(X).tolist()
    assert model.score(features, names) > 0.95
    truth = LogisticRegression().fit(features, torch.from_numpy(y == 1))
    assert truth.predict(features).dtype == torch.bool
    floating = LogisticRegression().fit(features, torch.from_numpy(y).float())
    assert floating.classes_.tolist() == [0.0, 1.0, 2.0]
    arrays = LogisticRegression().fit(X, torch.from_numpy(y), torch.ones(len(y)))
    assert arrays.score(X, torch.from_numpy(y)) == LogisticRegression().fit(X, y).score(X, y)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so the error cannot be had")
def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"^`device` must be a device that torch can use here, got 'cuda'\. torch: "):
        LogisticRegression(device="cuda").fit(*iris())


@pytest.mark.long
def test_nothing_is_imported_but_what_a_fit_or_an_encoding_needs() -> None:
    code = """
import json, sys
import numpy as np, sklearn.linear_model, torch  # scikit-learn imports pandas where it is installed
before = {name.partition(".")[0] for name in sys.modules}
from logreg import LogisticRegression

def imported():
    return sorted({name.partition(".")[0] for name in sys.modules} - before - sys.stdlib_module_names)

X = np.arange(8.0).reshape(4, 2)
LogisticRegression().fit(X, [0, 1, 0, 1]).predict_proba(X)
of_fit = imported()
from logreg import TableEncoder
TableEncoder().fit_transform(np.array([[1.0, "a"], [2.0, "b"], [None, "a"]], dtype=object))
print(json.dumps([of_fit, imported()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    of_fit, of_encoding = json.loads(done.stdout)
    assert of_fit == ["logreg"]
    assert not {"lightning", "torchvision", "polars"} & {*of_encoding}


# ---------------------------------------------------------------------------------------------------------------------
# the certificate, and what a fit warns of


def test_the_certificate_bounds_the_distance_from_the_optimum() -> None:
    X, y = iris()
    model, optimum = LogisticRegression().fit(X, y), LogisticRegression(**TIGHT).fit(X, y).certificate_
    certificate = model.certificate_
    assert isinstance(certificate, FitCertificate)
    assert certificate.objective == "sum softmax cross-entropy + 1/2 |coef|^2, intercept free"
    assert certificate.value - optimum.value <= certificate.gap + certificate.rounding + 1e-9
    assert certificate.relative_gap <= certificate.tolerance == 1e-6
    assert certificate.rigorous
    assert certificate.max_abs_gradient < 0.1
    assert certificate.rows == len(X)
    assert re.fullmatch(r"optimal to \d?e?[-\d]+", certificate.verdict)


def test_a_fit_that_ends_too_early_warns_of_its_gap() -> None:
    X, y = two_classes()
    with pytest.warns(ConvergenceWarning, match=r"tol=1e-06 in 3 passes: .*raise max_iter.* gap is 1\.$") as caught:
        model = LogisticRegression(max_iter=3).fit(X, y)
    assert caught[0].filename == __file__
    assert model.n_iter_.tolist() == [3]
    assert not model.certificate_.converged
    assert LogisticRegression(max_iter=100).fit(X, y).certificate_.converged  # as advised


SEPARATED = pd.DataFrame({"hours": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "age": [20.0, 35.0, 21.0, 34.0, 22.0, 33.0]})


def test_separated_classes_without_a_penalty_are_named() -> None:
    passed = ["fail", "fail", "fail", "pass", "pass", "pass"]
    words = r"no finite optimum: 'hours' separates 'pass' from 'fail' perfectly .*set a penalty, such as C=1\.$"
    with pytest.warns(ConvergenceWarning, match=words) as caught:
        model = LogisticRegression(C=np.inf).fit(SEPARATED, passed)
    assert len(caught) == 1
    assert not model.certificate_.converged
    assert model.certificate_.separation == model.certificate_.verdict
    assert model.score(SEPARATED, passed) == 1
    assert LogisticRegression(C=1).fit(SEPARATED, passed).certificate_.converged  # as advised


@pytest.mark.long
def test_a_penalty_needs_no_search_for_separation(monkeypatch: pytest.MonkeyPatch) -> None:
    def searched(*_: Any, **__: Any) -> None:
        raise AssertionError("the search costs time")

    monkeypatch.setattr("logreg.optimality.separation.explain.find_separation", searched)
    LogisticRegression(C=1e6).fit(*iris())
    with pytest.raises(AssertionError, match="costs time"):
        LogisticRegression(C=np.inf).fit(*iris())


def test_rows_without_weight_do_not_prevent_separation() -> None:
    weights = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    with pytest.warns(ConvergenceWarning, match="'hours' separates"):
        LogisticRegression(C=np.inf).fit(SEPARATED, [0, 0, 1, 0, 1, 1], weights)


def test_a_line_is_printed_for_a_fit_and_one_for_a_pass(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = two_classes()
    LogisticRegression(verbose=1).fit(X, y)
    line = capsys.readouterr().out
    assert re.fullmatch(r"LogisticRegression: \d+ passes, [\d.e-]+ s: optimal to \S+\n", line)
    model = LogisticRegression(verbose=2, solver="newton").fit(X, y)
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) >= model.n_iter_[0]
    assert printed.startswith("f = ")
    LogisticRegression().fit(X, y)
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------------------------------------------------------------
# warm starts


@pytest.mark.parametrize("loss", ["auto", "cross_entropy"])
@pytest.mark.parametrize("data", [two_classes, iris])
def test_a_warm_start_goes_on_from_the_coefficients_before(data: Any, loss: str) -> None:
    X, y = data()
    cold = LogisticRegression(loss=loss, C=1.1).fit(X, y)
    warm = LogisticRegression(loss=loss, C=1.0, warm_start=True).fit(X, y)
    warm.set_params(C=1.1).fit(X, y)
    assert warm.n_iter_[0] < cold.n_iter_[0] - 2
    np.testing.assert_allclose(warm.coef_, cold.coef_, atol=1e-2)
    warm.fit(X, y)
    of_certificate = loss == "cross_entropy" or len(warm.classes_) > 2  # a product with the Hessian of a softmax
    assert warm.n_iter_[0] == 1 + of_certificate


def test_a_warm_start_of_another_shape_starts_from_zero() -> None:
    X, y = iris()
    model = LogisticRegression(warm_start=True).fit(X, y)
    for features, labels in ((X[:, :2], y), (X, y == 1)):
        model.fit(features, labels)
        np.testing.assert_array_equal(model.coef_, LogisticRegression().fit(features, labels).coef_)
    model.set_params(fit_intercept=False).fit(X, y == 1)
    assert model.intercept_.tolist() == [0]


def test_a_warm_start_of_rows_in_odd_units_is_where_it_was() -> None:
    draw = np.random.default_rng(6)
    X = draw.standard_normal((300, 3)) * [1e-12, 1.0, 1e11] + [0.0, 1e7, 0.0]
    y = (X / [1e-12, 1.0, 1e11]) @ [1.0, 1.0, -1.0] - 1e7 + draw.standard_normal(300) > 0
    model = LogisticRegression(C=np.inf, warm_start=True).fit(X, y)
    first = model.coef_
    model.fit(X, y)
    assert model.n_iter_[0] <= 3
    np.testing.assert_allclose(model.coef_, first, rtol=1e-3)


def test_a_warm_start_that_is_too_far_away_does_no_harm() -> None:
    draw = np.random.default_rng(8)
    X = draw.standard_normal((2000, 10))
    y = X @ draw.standard_normal(10) + draw.standard_normal(2000) > 0
    cold, warm = LogisticRegression(C=np.inf).fit(X, y), LogisticRegression(C=np.inf, warm_start=True)
    warm.coef_, warm.intercept_ = np.full((1, 10), 50.0), np.zeros(1)
    warm.fit(X, y)
    np.testing.assert_allclose(warm.coef_, cold.coef_, rtol=0, atol=1e-6)
    assert warm.n_iter_[0] > cold.n_iter_[0]


# ---------------------------------------------------------------------------------------------------------------------
# a run as an estimator


@pytest.mark.parametrize("name", ["digits", "ovr", "toy"])
def test_a_checkpoint_is_an_estimator(name: str) -> None:
    trained = TrainedModel.load(CHECKPOINTS / f"{name}.ckpt")
    model = LogisticRegression.from_checkpoint(CHECKPOINTS / f"{name}.ckpt")
    classes = trained.facts.class_names
    assert model.classes_.tolist() == sorted(classes)
    X = np.random.default_rng(7).standard_normal((20, trained.facts.num_features))
    expected = trained.module.model(trained.facts.stored.transform(torch.from_numpy(X), torch.float64))
    expected = trained.module.calibration.probabilities(expected, trained.module.objective.loss).detach().numpy()
    order = [classes.index(one) for one in model.classes_]
    names = trained.facts.feature_names
    rows = pd.DataFrame(X, columns=names) if names else X
    np.testing.assert_allclose(model.predict_proba(rows), expected[:, order], atol=1e-6)
    assert trained.optimality is not None
    assert model.certificate_.gap == trained.optimality["gap"]
    assert model.n_iter_.tolist() == [trained.optimality["passes"]]
    assert clone(model).fit(X, np.arange(20) % 2).coef_.shape == (1, X.shape[1])  # with its parameters


def test_classes_of_a_fitted_estimator_are_sorted() -> None:
    coef, intercept = np.array([[1.0, 2.0]]), np.array([3.0])
    model = LogisticRegression._fitted(coef, intercept, np.array(["yes", "no"]), ["a", "b"])
    assert model.classes_.tolist() == ["no", "yes"]
    assert model.predict(pd.DataFrame({"a": [9.0], "b": [9.0]})).tolist() == ["no"]
    three = LogisticRegression._fitted(np.eye(3), np.zeros(3), np.array([30, 10, 20]))
    assert three.predict(np.eye(3)).tolist() == [30, 10, 20]
    both = LogisticRegression._fitted(np.array([[0.0], [2.0]]), np.zeros(2), np.array([False, True]))
    assert both.decision_function([[1.0]]).tolist() == [2.0]


def test_a_checkpoint_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must find a checkpoint"):
        LogisticRegression.from_checkpoint(tmp_path / "none.ckpt")


# ---------------------------------------------------------------------------------------------------------------------
# bad input

PARAMETERS: dict[str, Any] = {
    "C must be a number > 0": [{"C": value} for value in (0, -1.0, "1", True, None, np.nan, 1e-320)],
    "l1_ratio must be a number in [0, 1]": [{"l1_ratio": value} for value in (-0.1, 1.1, None, "l1")],
    "fit_intercept must be True or False": [{"fit_intercept": "no"}],
    "tol must be a number > 0": [{"tol": value} for value in (0, -1, 1.0, "small")],
    "max_iter must be a whole number >= 1": [{"max_iter": value} for value in (0, 1.5, True)],
    "loss must be one of auto, bce, cross_entropy": [{"loss": value} for value in ("hinge", None, ["bce"])],
    "solver must be one of auto, newton, lbfgs": [{"solver": "liblinear"}],
    "precision must be 32 or 64": [{"precision": value} for value in (16, "32-true", [64])],
    "verbose must be a whole number >= 0": [{"verbose": -1}],
    "warm_start must be True or False": [{"warm_start": "no"}],
    "class_weight must be None": [{"class_weight": "even"}],
    "class_weight must have finite numbers >= 0": [{"class_weight": {0: -1}}, {"class_weight": {1: np.nan}}],
    "device must be a device that torch can use": [{"device": "nowhere"}],
}


@pytest.mark.parametrize("words", PARAMETERS)
def test_a_bad_parameter_is_named_at_the_fit(words: str) -> None:
    name, _, constraint = words.partition(" ")
    for parameters in PARAMETERS[words]:
        with pytest.raises(ValueError, match=re.escape(f"`{name}` {constraint}")):
            LogisticRegression(**parameters).fit(*iris())


X, Y = iris()
ROWS: dict[str, tuple[type[Exception], Any, Any, Any]] = {
    r"Input X contains NaN in row 1, column 0\. Fill": (
        ValueError,
        np.where(np.arange(150) == 1, np.nan, 1)[:, None],
        Y,
        None,
    ),
    r"Input X contains infinity in row 0, column 1": (ValueError, np.c_[X[:, 0], np.full(150, -np.inf)], Y, None),
    r"Input X contains NaN in row 3, column 'b'": (
        ValueError,
        pd.DataFrame(X, columns=list("abcd")).assign(b=[*"123", None, *[4] * 146]),
        Y,
        None,
    ),
    r"Expected 2D array, got 1D": (ValueError, X[:, 0], Y, None),
    r"Found array with dim 3": (ValueError, X[None], Y, None),
    r"0 sample": (ValueError, X[:0], Y[:0], None),
    r"inconsistent numbers of samples: \[150, 149\]": (ValueError, X, Y[1:], None),
    r"X must hold numbers: could not convert string to float: .* Encode text first, for example with TableEncoder": (
        ValueError,
        np.full((150, 2), "a"),
        Y,
        None,
    ),
    r"X must hold numbers: .* Encode text first, for example with TableEncoder\.$": (
        ValueError,
        pd.DataFrame({"c": pd.Categorical(["hi", "lo"] * 75), "i": pd.array([1, None] * 75, "Int64")}),
        Y,
        None,
    ),
    r"X must hold numbers, and a column holds dates or times\. Make numbers of them first": (
        ValueError,
        pd.DataFrame({"x": X[:, 0], "when": pd.date_range("2024-01-01", periods=150)}),
        Y,
        None,
    ),
    r"must be in the form CSR, got sparse_coo\. Give features\.to_sparse_csr\(\)": (
        ValueError,
        torch.from_numpy(X).to_sparse(),
        Y,
        None,
    ),
    r"Input X contains NaN in row 2, column 1": (
        ValueError,
        csr_array(np.where(np.arange(600).reshape(150, 4) == 9, np.nan, X)),
        Y,
        None,
    ),
    r"must be a matrix \(N, D\) of real numbers": (ValueError, torch.from_numpy(X)[0], Y, None),
    r"one class for each of the 150 rows": (ValueError, torch.from_numpy(X), Y[1:], None),
    r"requires y to be passed": (ValueError, X, None, None),
    r"requires y to be passed, but": (ValueError, torch.from_numpy(X), None, None),
    r"Unknown label type: continuous": (ValueError, X, Y + 0.5, None),
    r"Unknown label type: continuous\.": (ValueError, torch.from_numpy(X), torch.from_numpy(Y) + 0.5, None),
    r"y should be a 1d array": (ValueError, X, np.eye(3)[Y], None),
    r"Input y contains NaN": (ValueError, X, np.where(Y == 1, np.nan, Y), None),
    r"Input y contains a missing value\. Drop": (ValueError, X, np.array(["a", None, "b"] * 50, dtype=object), None),
    r"classes of one type, got int and str\. Give all as text": (
        TypeError,
        X,
        np.array(["a", 1, 2] * 50, dtype=object),
        None,
    ),
    r"at least 2 classes, got one class, 7\.": (ValueError, X, Y * 0 + 7, None),
    r"sample_weight must have one number for each row, shape \(150,\), got \(149,\)": (ValueError, X, Y, np.ones(149)),
    r"sample_weight must have one number for each row": (ValueError, X, Y, np.ones((150, 1))),
    r"must not be zero in every row": (ValueError, X, Y, np.zeros(150)),
    r"`sample_weight` must be finite and >= 0, got -1\.0 in row 0": (ValueError, X, Y, np.r_[-1.0, np.ones(149)]),
    r"`sample_weight` must be finite and >= 0, got nan": (ValueError, X, Y, np.r_[np.nan, np.ones(149)]),
    r"feature 0 must have a size of 1e-301 to 1e301": (ValueError, X * 1e306, Y, None),
    r"in source units, got about 5\.4e\+300\. Standardize it, or write it in another unit": (
        ValueError,
        X * 1e300,
        Y,
        None,
    ),
}


@pytest.mark.parametrize("make", [csr_array, csr_matrix, coo_array], ids=["csr", "matrix", "coo"])
@pytest.mark.parametrize("data", [two_classes, iris], ids=["binary", "multinomial"])
def test_sparse_rows_have_the_fit_of_dense_rows(data: Any, make: Any) -> None:
    X, y = data()
    X = np.where(np.median(X, axis=0) < X, X, 0.0)
    dense = LogisticRegression(**TIGHT).fit(X, y)
    sparse = LogisticRegression(**TIGHT).fit(make(X), y)
    np.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(sparse.predict_proba(make(X)), dense.predict_proba(X), atol=1e-9)
    np.testing.assert_array_equal(sparse.predict(make(X)), dense.predict(X))
    assert sparse.certificate_.converged


def test_sparse_coefficients_predict_and_start_as_dense_ones() -> None:
    X, y = iris()
    model = LogisticRegression(C=0.1, l1_ratio=1.0, warm_start=True).fit(X, y)
    expected, coef = model.predict_proba(X), model.coef_
    assert issparse(model.sparsify().coef_)
    assert model.coef_.nnz < coef.size
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    np.testing.assert_array_equal(model.predict_proba(csr_array(X)), expected)
    np.testing.assert_array_equal(clone(model).fit(X, y).densify().coef_, coef)
    np.testing.assert_allclose(model.fit(X, y).coef_, coef, atol=1e-2)  # from the sparse coefficients
    np.testing.assert_array_equal(model.sparsify().densify().coef_, model.coef_)
    for method in ("sparsify", "densify"):
        with pytest.raises(NotFittedError):
            getattr(LogisticRegression(), method)()


def test_text_is_fitted_in_a_pipeline_of_scikit_learn() -> None:
    # more features than are made dense, and fewer rows than features
    words = np.array([f"word{number}" for number in range(4000)])
    draw = np.random.default_rng(0)
    places = [np.minimum(draw.geometric(0.002, 40) + 20 * (row % 2), 3999) for row in range(300)]
    texts, topics = [" ".join(words[place]) for place in places], np.arange(300) % 2
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10.0, tol=1e-10)).fit(texts, topics)
    theirs = make_pipeline(TfidfVectorizer(), Theirs(C=10.0, tol=1e-10, max_iter=10_000)).fit(texts, topics)
    assert model[0].transform(texts).shape[1] > 1000
    assert model[-1].certificate_.converged
    np.testing.assert_allclose(model.predict_proba(texts), theirs.predict_proba(texts), atol=1e-5)


def test_a_csr_tensor_is_fitted_as_it_is() -> None:
    X, y = iris()
    tensor = torch.from_numpy(X).to_sparse_csr()
    model = LogisticRegression(**TIGHT).fit(tensor, torch.from_numpy(y))
    np.testing.assert_allclose(model.coef_, LogisticRegression(**TIGHT).fit(X, y).coef_, rtol=1e-6, atol=1e-9)
    assert torch.equal(model.predict(tensor), torch.from_numpy(model.predict(X)))


@pytest.mark.parametrize("words", ROWS)
def test_rows_that_cannot_be_fitted_are_refused(words: str) -> None:
    kind, features, labels, weights = ROWS[words]
    with pytest.raises(kind, match=words):
        LogisticRegression().fit(features, labels, weights)


def test_a_column_of_classes_is_taken_with_a_warning() -> None:
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        LogisticRegression().fit(X, Y[:, None])


def test_rows_that_cannot_be_predicted_are_refused() -> None:
    model = LogisticRegression().fit(X, Y)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            getattr(LogisticRegression(), method)(X)
        predict = getattr(model, method)
        with pytest.raises(
            ValueError, match=r"X must hold numbers: .* Encode text first, for example with TableEncoder"
        ):
            predict(np.full((2, 4), "a"))
        for features in (X[:, :3], torch.from_numpy(X[:, :3]), X[:, :3].tolist()):
            with pytest.raises(ValueError, match="X has 3 features, but LogisticRegression is expecting 4 features"):
                predict(features)
        for features in (X * np.nan, torch.from_numpy(X) * np.nan):
            with pytest.raises(ValueError, match="Input X contains NaN in row 0, column 0"):
                predict(features)
        with pytest.raises(ValueError, match="Input X contains infinity in row 1, column 3"):
            predict(csr_array(np.where(np.arange(600).reshape(150, 4) == 7, np.inf, X)))
    with pytest.raises(ValueError, match="too large"):
        model.predict(np.full((1, 4), 1.7e308) * np.sign(model.coef_[0]) * [1, 1, 1, -1])
    assert np.isfinite(model.predict_proba(X * 1e307)).all()  # logits overflow


def test_labels_that_were_not_fitted_are_an_error_of_the_score() -> None:
    # scikit-learn's accuracy counts other numbers as wrong, and refuses text beside numbers
    model = LogisticRegression().fit(X, Y)
    assert model.score(X, Y + 10) == 0
    with pytest.raises(ValueError, match="Mix of label"):
        model.score(X, np.array(["a", "b", "c"])[Y])


def test_more_digits_than_single_precision_has_are_compared() -> None:
    wine = load_wine()
    model = LogisticRegression(**ROUNDED, C=1e4).fit(wine.data, wine.target)
    assert model.certificate_.converged
    with config_context(assume_finite=True):
        np.testing.assert_array_equal(model.predict(wine.data), wine.target)
