"""Exact fits: the coefficients of scikit-learn, SciPy and a reference in NumPy, and what must come to the same."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_array
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from logreg import rows as row_blocks
from logreg.errors import LogregError
from logreg.losses.objective import Objective
from logreg.solvers.fit import Fit, fit
from logreg.solvers.optimizers import EXACT
from logreg.stored_form import is_plain_by_sample
from reference import Array, Reference, Stated

SAME = 1e-8
"""How far apart the same coefficients may be, relative to the largest, in units of the features' deviations."""


Parameters = tuple[Tensor, Tensor]
"""Coef (K, D) and intercept (K,)."""


class Route(NamedTuple):
    """A kind of problem that is solved in a way of its own."""

    rows: int
    features: int
    classes: int
    objective: Objective
    same: float = SAME
    """How far apart the same coefficients may be here."""


ROUTES = {
    "binary": Route(60, 4, 2, Objective("bce", l2=0.05)),
    "one-vs-rest": Route(60, 4, 3, Objective("bce", l2=0.05)),
    "softmax": Route(60, 4, 3, Objective("cross_entropy", l2=0.05)),
    "unpenalized, binary": Route(300, 3, 2, Objective("bce")),
    "unpenalized": Route(300, 3, 3, Objective("cross_entropy")),
    "l1, binary": Route(60, 8, 2, Objective("bce", l1=0.05)),
    "l1": Route(60, 5, 3, Objective("cross_entropy", l1=0.03)),
    "elastic net": Route(60, 5, 3, Objective("cross_entropy", l2=0.01, l1=0.03)),
    "wide, binary": Route(12, 60, 2, Objective("bce", l2=0.05), 1e-7),
    "wide": Route(12, 60, 3, Objective("cross_entropy", l2=0.05)),
    "conjugate gradients": Route(80, 300, 4, Objective("cross_entropy", l2=0.01)),
    "many features, l1, binary": Route(50, 100, 2, Objective("bce", l1=0.05)),
    "many features, l1": Route(80, 300, 4, Objective("cross_entropy", l1=0.04)),
    "many features, elastic net": Route(80, 300, 4, Objective("cross_entropy", l2=0.01, l1=0.04), 1e-4),
}


@cache
def stated(name: str) -> Stated:
    """A random problem of a kind, every class there and none told without an error."""
    rows, features, classes, objective, _ = ROUTES[name]
    draw = np.random.default_rng(0)
    x = draw.standard_normal((rows, features))
    logits = x @ draw.standard_normal((features, classes)) / np.sqrt(features) + draw.gumbel(size=(rows, classes))
    return Stated(torch.from_numpy(x), torch.from_numpy(logits.argmax(1)), objective, classes)


def fitted(problem: Stated, optimizer: str, tolerance: float, **settings: Any) -> Fit:
    features, labels, objective, classes, weight, of_class, intercept = problem
    return fit(
        features, labels, objective, classes, weight, of_class, optimizer, tolerance, intercept=intercept, **settings
    )


def solved(problem: Stated, optimizer: str = "newton", tolerance: float = 0.0, **settings: torch.dtype) -> Fit:
    """The fit; where no tolerance is given, as near to the optimum as float64 arithmetic comes."""
    # With l1 alone the bound is of first order in the error of the coefficients, and f is known to so many digits only.
    enough = tolerance or (1e-18 if problem.objective.l2 or not problem.objective.l1 else 1e-12)
    found = fitted(problem, optimizer, enough, **settings)
    assert found.bound.gap <= max(tolerance, 1e-10) * found.bound.value
    return found


def of(answer: Fit | Reference) -> Parameters:
    if isinstance(answer, Fit):
        return answer.coef, answer.intercept
    return torch.from_numpy(answer.minimum.coef), torch.from_numpy(answer.minimum.intercept)


def apart(problem: Stated, ours: Parameters, theirs: Parameters) -> float:
    """How far apart parameters are in units of the features' deviations, relative to the largest."""
    deviation, mean = torch.std_mean(problem.features.double(), 0, correction=0)

    def settled(coef: Tensor, intercept: Tensor) -> Tensor:
        """Shape (K, D + 1), the last column logits at the mean row; without what a softmax leaves open."""
        point = torch.cat([coef * deviation, (intercept + coef @ mean).unsqueeze(1)], dim=1)
        if problem.objective.loss == "cross_entropy":
            free = slice(None) if not (problem.objective.l2 or problem.objective.l1) else slice(-1, None)
            point[:, free] -= point[:, free].mean(0)
        return point

    theirs_settled = settled(*theirs)
    return float((settled(*ours) - theirs_settled).abs().max() / theirs_settled.abs().max())


SLOW = pytest.mark.slow
ALL = [pytest.param(name, marks=SLOW) if name.startswith("many") else name for name in ROUTES]
"""Every route, those that take long where people ask for it."""

SHORT = ("binary", "softmax", "l1", "elastic net", "wide", "conjugate gradients")
"""One of each way to solve."""

# Ours against theirs


@pytest.mark.parametrize("name", ROUTES)
def test_the_reference_has_no_slope_at_its_optimum(name: str) -> None:
    reference = Reference(*stated(name))
    assert np.abs(reference.slope(reference.solution)).max() < 1e-15


TYPES = [("float64", name) for name in ROUTES]
TYPES += [("float32 features", name) for name in ROUTES if not name.startswith("many")]
LATE = [("float32 arithmetic", name) for name in ROUTES]
LATE += [("float32 features", name) for name in ROUTES if name.startswith("many")]


@pytest.mark.parametrize(("kind", "name"), [*TYPES, *(pytest.param(*late, marks=SLOW) for late in LATE)])
def test_newton_finds_the_coefficients_of_the_reference(name: str, kind: str) -> None:
    problem = stated(name)
    if kind == "float32 features":
        problem = problem._replace(features=problem.features.float())
    reference = Reference(*problem)
    found = solved(problem, dtype=torch.float64 if kind == "float64" else torch.float32)
    assert apart(problem, of(found), of(reference)) < ROUTES[name].same
    assert found.bound.value == pytest.approx(reference.minimum.value, rel=1e-13)
    if problem.objective.l1:
        np.testing.assert_array_equal(found.coef == 0, reference.minimum.coef == 0)


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("optimizer", EXACT)
def test_every_optimizer_ends_within_its_tolerance_of_the_reference(name: str, optimizer: str) -> None:
    problem = stated(name)
    least = Reference(*problem).minimum.value
    found = solved(problem, optimizer, tolerance=1e-7)
    room = found.bound.rounding + found.bound.error + 1e-15  # the last of the reference's own
    assert found.bound.value - least <= found.bound.gap + room
    assert found.bound.gap <= 1e-7 * found.bound.value
    assert apart(problem, of(found), of(Reference(*problem))) < 0.02


TABLES = {
    "breast_cancer": load_breast_cancer,
    "wine": load_wine,
    "iris": load_iris,
    "digits": load_digits,
}


@cache
def table(name: str) -> tuple[Tensor, Tensor]:
    """Features of mean 0 and deviation 1, and labels."""
    features, labels = TABLES[name](return_X_y=True)
    return torch.from_numpy(StandardScaler().fit_transform(features)), torch.from_numpy(labels)


@pytest.mark.parametrize("extra", ["", "sample weights", "class weights", "no intercept"])
@pytest.mark.parametrize(
    ("name", "solver", "l1_ratio", "close"),
    [
        ("breast_cancer", "newton-cholesky", 0.0, 1e-7),
        ("wine", "newton-cholesky", 0.0, 1e-7),
        ("iris", "lbfgs", 0.0, 1e-5),
        pytest.param("breast_cancer", "saga", 1.0, 1e-4, marks=SLOW),
        pytest.param("wine", "saga", 1.0, 1e-4, marks=SLOW),
        ("wine", "saga", 0.3, 1e-4),
    ],
)
def test_the_fit_of_a_table_is_that_of_scikit_learn(
    name: str, solver: str, l1_ratio: float, close: float, extra: str
) -> None:
    features, labels = table(name)
    classes = int(labels.max()) + 1
    weight = torch.linspace(0, 2, len(labels), dtype=torch.float64) if extra == "sample weights" else None
    class_weight = (0.5, 2.0, 1.0)[:classes] if extra == "class weights" else ()
    strength = 0.02
    of_rows = torch.ones(len(labels), dtype=torch.float64) if weight is None else weight
    total = float((of_rows * torch.tensor(class_weight or (1.0,) * classes)[labels]).sum())
    theirs = LogisticRegression(
        C=1 / (strength * total),
        l1_ratio=l1_ratio,
        solver=solver,
        tol=1e-10,
        max_iter=20_000,
        class_weight=dict(enumerate(class_weight)) or None,
        fit_intercept=extra != "no intercept",
        random_state=0,
    ).fit(features, labels, None if weight is None else weight.numpy())
    objective = Objective(
        "bce" if classes == 2 else "cross_entropy", l2=(1 - l1_ratio) * strength, l1=l1_ratio * strength
    )
    problem = Stated(features, labels, objective, classes, weight, class_weight, extra != "no intercept")
    found = solved(problem)
    their_parameters = torch.from_numpy(theirs.coef_), torch.from_numpy(np.atleast_1d(theirs.intercept_))
    largest = float(found.coef.abs().max())
    np.testing.assert_allclose(found.coef, theirs.coef_, rtol=0, atol=close * largest)
    reference = Reference(*problem)
    their_value = reference.value(reference.of_source_units(*(part.numpy() for part in their_parameters)))
    assert found.bound.value <= their_value * (1 + 1e-14)
    assert found.bound.value == pytest.approx(their_value, rel=close**2 + 1e-12)


@pytest.mark.parametrize("name", ["unpenalized, binary", "unpenalized", "binary", "softmax"])
def test_the_fit_is_that_of_a_minimizer_of_scipy(name: str) -> None:
    problem = stated(name)
    reference = Reference(*problem)
    shape = reference.solution.shape
    whole = np.arange(reference.solution.size)

    def at(function: Callable[[Array], Array | float]) -> Callable[[Array], Array]:
        return lambda flat: np.ravel(function(flat.reshape(shape)))

    found = minimize(
        lambda flat: reference.value(flat.reshape(shape)),
        np.zeros(len(whole)),
        jac=at(reference.gradient),
        hess=lambda flat: reference.hessian(flat.reshape(shape), whole),
        method="trust-exact",
        options={"gtol": 1e-12},
    )
    theirs = torch.from_numpy(reference.in_source_units(found.x.reshape(shape)))
    assert apart(problem, of(solved(problem)), (theirs[:, :-1], theirs[:, -1])) < ROUTES[name].same


@pytest.mark.parametrize("name", ["unpenalized, binary", "unpenalized"])
def test_the_unpenalized_fit_is_that_of_statsmodels(name: str) -> None:
    from statsmodels.api import Logit, MNLogit

    problem = stated(name)
    rows = np.hstack([problem.features.numpy(), np.ones((len(problem.labels), 1))])
    model = (Logit if problem.num_classes == 2 else MNLogit)(problem.labels.numpy(), rows)
    theirs = model.fit(method="newton", maxiter=100, tol=1e-14, disp=False)
    found = solved(problem)
    ours = torch.cat([found.coef, found.intercept.unsqueeze(1)], dim=1)
    if problem.num_classes > 2:  # theirs of the first class are 0
        ours = ours[1:] - ours[0]
    np.testing.assert_allclose(ours, theirs.params.T.reshape(ours.shape), rtol=0, atol=SAME * float(ours.abs().max()))
    assert found.bound.value == pytest.approx(-theirs.llf / len(rows), rel=1e-13)


# What must come to the same


Back = Callable[[Tensor, Tensor], Parameters]
"""Parameters of the other problem -> those of the one."""

Twins = tuple[Stated, Stated, Back]


def as_they_are(coef: Tensor, intercept: Tensor) -> Parameters:
    return coef, intercept


def whole_weights_are_rows_so_many_times(problem: Stated) -> Twins:
    weight = torch.arange(len(problem.labels)) % 3
    times = torch.repeat_interleave(torch.arange(len(weight)), weight)
    far = problem.features.clone()
    far[weight == 0] += 100  # rows that weigh nothing may be anything
    there = problem._replace(features=problem.features[times], labels=problem.labels[times])
    return problem._replace(features=far, sample_weight=weight.double()), there, as_they_are


def class_weights_are_weights_of_rows(problem: Stated) -> Twins:
    of_class = (0.5, 2.0, 1.0, 1.5)[: problem.num_classes]
    weight = torch.tensor(of_class, dtype=torch.float64)[problem.labels]
    return problem._replace(class_weight=of_class), problem._replace(sample_weight=weight), as_they_are


def rows_have_no_order(problem: Stated) -> Twins:
    order = torch.arange(len(problem.labels)).roll(5).flip(0)
    other = problem._replace(features=problem.features[order], labels=problem.labels[order])
    return problem, other, as_they_are


def columns_have_no_order(problem: Stated) -> Twins:
    other = problem._replace(features=problem.features.flip(1))
    return problem, other, lambda coef, intercept: (coef.flip(1), intercept)


def classes_have_no_order(problem: Stated) -> Twins:
    other = problem._replace(labels=problem.num_classes - 1 - problem.labels)

    def back(coef: Tensor, intercept: Tensor) -> Parameters:
        return (-coef, -intercept) if len(coef) == 1 else (coef.flip(0), intercept.flip(0))

    return problem, other, back


def signs_of_features_are_those_of_coefficients(problem: Stated) -> Twins:
    sign = 1.0 - 2.0 * (torch.arange(problem.features.shape[1]) % 2)
    return problem, problem._replace(features=problem.features * sign), lambda coef, intercept: (coef * sign, intercept)


def the_intercept_takes_up_an_offset(problem: Stated) -> Twins:
    offset = torch.arange(problem.features.shape[1], dtype=torch.float64) - 2.0
    other = problem._replace(features=problem.features + offset)
    return problem, other, lambda coef, intercept: (coef, intercept + coef @ offset)


def a_sum_with_so_many_times_the_penalty_is_a_mean(problem: Stated) -> Twins:
    loss, _, l2, l1 = (getattr(problem.objective, key) for key in ("loss", "reduction", "l2", "l1"))
    rows = len(problem.labels)
    return problem, problem._replace(objective=Objective(loss, "sum", rows * l2, rows * l1)), as_they_are


def units_are_free_without_a_penalty(problem: Stated) -> Twins:
    units = torch.logspace(-3, 4, problem.features.shape[1], dtype=torch.float64)
    return (
        problem,
        problem._replace(features=problem.features * units),
        lambda coef, intercept: (coef * units, intercept),
    )


def two_classes_of_a_softmax_share_the_penalty(problem: Stated) -> Twins:
    l2, l1 = problem.objective.l2, problem.objective.l1
    other = problem._replace(objective=Objective("cross_entropy", l2=2 * l2, l1=l1))
    return problem, other, lambda coef, intercept: (coef[1:] - coef[:1], intercept[1:] - intercept[:1])


FOR_ALL = [
    whole_weights_are_rows_so_many_times,
    class_weights_are_weights_of_rows,
    rows_have_no_order,
    columns_have_no_order,
    classes_have_no_order,
    signs_of_features_are_those_of_coefficients,
    the_intercept_takes_up_an_offset,
    a_sum_with_so_many_times_the_penalty_is_a_mean,
]
UNPENALIZED = ["unpenalized, binary", "unpenalized"]
BINARY = ["binary", "unpenalized, binary", "l1, binary", "wide, binary", "many features, l1, binary"]


@pytest.mark.parametrize(
    ("name", "twins"),
    [
        *(pytest.param(name, twins, marks=() if name in SHORT else SLOW) for name in ROUTES for twins in FOR_ALL),
        *((name, units_are_free_without_a_penalty) for name in UNPENALIZED),
        *((name, two_classes_of_a_softmax_share_the_penalty) for name in BINARY),
    ],
)
def test_two_ways_to_state_a_problem_have_one_answer(name: str, twins: Callable[[Stated], Twins]) -> None:
    one, other, back = twins(stated(name))
    assert apart(one, of(solved(one)), back(*of(solved(other)))) < ROUTES[name].same


@pytest.mark.parametrize("name", ALL)
def test_the_size_of_a_block_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = stated(name)
    whole = solved(problem)
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", 4 * problem.features.shape[1] * 7)
    assert apart(problem, of(whole), of(solved(problem))) < ROUTES[name].same / 10


# Conditioning


def conditioned(problem: Stated, scales: tuple[float, float], offset: float) -> Stated:
    """Features of other deviations, and so many deviations away from 0."""
    scale = torch.from_numpy(np.geomspace(*scales, problem.features.shape[1]))
    return problem._replace(features=(problem.features + offset) * scale)


FEW = [name for name in ROUTES if not name.startswith(("wide", "many", "conj"))]
OFFSETS = [
    (name, offset) for name in FEW for offset in (0.0, 10.0, 1e4) if offset < 1e4 or not ROUTES[name].objective.l1
]


@pytest.mark.parametrize(("name", "offset"), OFFSETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_and_offsets_change_no_digit_of_the_stated_problem(name: str, offset: float, dtype: torch.dtype) -> None:
    problem = conditioned(stated(name), (1e-3, 1e4), offset)
    assert apart(problem, of(solved(problem, dtype=dtype)), of(Reference(*problem))) < SAME


@pytest.mark.parametrize("name", ["l1, binary", "l1", "elastic net"])
def test_offsets_of_ten_thousand_deviations_leave_l1_five_digits_of_the_objective(name: str) -> None:
    problem = conditioned(stated(name), (1e-3, 1e4), 1e4)
    assert solved(problem, tolerance=1e-5).converged


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ROUTES if name.startswith(("wide", "many", "conj"))])
def test_scales_of_many_features_change_no_digit_either(name: str) -> None:
    problem = conditioned(stated(name), (1e-1, 1e2), 1.0)
    found, reference = solved(problem), Reference(*problem)
    assert found.bound.value == pytest.approx(reference.minimum.value, rel=1e-12)
    if ROUTES[name].objective.l2:  # l1 alone leaves coefficients of more features than rows open
        assert apart(problem, of(found), of(reference)) < ROUTES[name].same


@pytest.mark.parametrize("name", ["binary", "softmax", "unpenalized, binary", "unpenalized"])
def test_a_column_of_unix_timestamps_is_no_harder(name: str) -> None:
    problem = stated(name)
    features = problem.features.clone()
    features[:, 0] = (3e7 * features[:, 0] + 1.7e9).round()  # seconds, a year of deviation
    problem = problem._replace(features=features)
    assert apart(problem, of(solved(problem)), of(Reference(*problem))) < SAME


@pytest.mark.parametrize("name", [name for name, route in ROUTES.items() if not name.startswith("many")])
@pytest.mark.parametrize("value", [0.0, 3.7])
def test_a_constant_column_changes_no_prediction(name: str, value: float) -> None:
    problem = stated(name)
    more = problem._replace(features=torch.cat([problem.features, torch.full_like(problem.features[:, :1], value)], 1))
    found = solved(more, tolerance=1e-13)  # nothing is known less exactly than the coefficient of such a column
    coef = found.coef[:, :-1]
    assert apart(problem, of(solved(problem)), (coef, found.intercept + value * found.coef[:, -1])) < 1e-5


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("optimizer", [*EXACT, "auto"])
@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
@pytest.mark.parametrize("features", [0, 1, 30])
def test_features_that_are_all_zero_or_absent_leave_the_frequencies_of_the_classes(
    features: int, loss: str, optimizer: str, sparse: bool
) -> None:
    zeros, labels = torch.zeros(6, features), torch.tensor([0, 1, 0, 1, 1, 1])
    zeros = csr_array((6, features), dtype=np.float32) if sparse else zeros
    for l2, l1 in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (0.1, 0.1)):
        found = fit(zeros, labels, Objective(loss, l2=l2, l1=l1), optimizer=optimizer)
        logit = found.intercept if loss == "bce" else found.intercept.diff()
        assert found.converged
        assert found.coef.shape[1] == features
        assert not found.coef.any()
        assert found.bound.gradient.shape[1] == features + 1
        # f = 0.64 is within 1e-6 of itself, at a curvature of 2 / 9
        assert logit.tolist() == pytest.approx([math.log(4 / 2)], abs=2.5e-3)


@pytest.mark.parametrize("name", ["binary", "softmax", "unpenalized", "wide"])
def test_a_repeated_column_takes_half_of_the_coefficient(name: str) -> None:
    problem = stated(name)
    root = 2**0.5  # halves of sqrt(2) x have the penalty of x
    twice = torch.cat([problem.features[:, :1] / root] * 2 + [problem.features[:, 1:]], dim=1)
    found = solved(problem._replace(features=twice))
    joined = torch.cat([found.coef[:, :2].sum(1, keepdim=True) / root, found.coef[:, 2:]], dim=1)
    assert apart(problem, of(solved(problem)), (joined, found.intercept)) < ROUTES[name].same


@pytest.mark.parametrize(
    ("objective", "labels"),
    [
        (Objective("bce", l2=0.1), [0, 1, 1, 0]),
        (Objective("bce", l1=0.6), [0, 1, 0, 1]),
        (Objective("bce", l1=2.0), [0, 1, 1, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_start_at_the_optimum_is_certified(objective: Objective, labels: list[int], dtype: torch.dtype) -> None:
    corners = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=dtype)
    found = fit(corners, torch.tensor(labels), objective)
    assert found.converged
    assert not found.coef.any()
    assert found.bound.value == pytest.approx(math.log(2))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["binary", "one against the rest", "softmax"])
@pytest.mark.parametrize(("weighted", "intercept"), [(False, True), (True, True), (True, False)])
def test_what_is_said_of_float32_features_is_true(kind: str, weighted: bool, intercept: bool) -> None:
    classes = 2 if kind == "binary" else 3
    for seed in range(6):
        draw = np.random.default_rng(seed)
        x = draw.standard_normal((3000, 6)) * 10 ** draw.uniform(-3, 3, 6)
        x += x.std(0) * draw.choice([0, 3, 30], 6)
        x[:, 0] = draw.random(3000) < 0.003
        x[:, 1] = draw.choice([1.0, 7.0])
        logits = (x - x.mean(0)) / (x.std(0) + 1e-9) @ draw.standard_normal((6, classes)) * draw.choice([0.5, 4])
        labels = torch.from_numpy((logits + draw.gumbel(size=logits.shape)).argmax(1))
        weights = torch.from_numpy(draw.choice([0.0, 1, 2], 3000)).float() if weighted else None
        objective = Objective("cross_entropy" if kind == "softmax" else "bce", l2=10 ** draw.uniform(-7, -2))
        features = torch.from_numpy(x).float()
        best = fit(features.double(), labels, objective, classes, weights, tolerance=1e-12, intercept=intercept)
        assert best.bound.gap <= 1e-9 * best.bound.value
        for tolerance in (0.3, 1e-3, 1e-6):
            found = fit(features, labels, objective, classes, weights, tolerance=tolerance, intercept=intercept)
            assert found.converged
            assert found.bound.gap >= found.bound.value - best.bound.value - 1e-13


def test_scikit_learns_silent_failure_is_none_of_ours() -> None:
    # 100 rows, 60 columns, one in units of 1e4, one far from 0: where solvers stop early without a warning
    draw = np.random.default_rng(0)
    x = draw.standard_normal((100, 60))
    x[:, 0] *= 1e4
    x[:, 1] += 1e4
    y = torch.from_numpy((x[:, 2] + draw.standard_normal(100) > 0).astype(np.int64))
    for dtype in (torch.float64, torch.float32):
        found = fit(torch.from_numpy(x).to(dtype), y, Objective("bce", l2=1e-2), tolerance=1e-8)
        assert found.converged
        assert found.passes < 40


@pytest.mark.parametrize("name", ["softmax", "conjugate gradients", "many features, l1"])
def test_too_few_passes_end_with_an_honest_bound(name: str) -> None:
    early = fitted(stated(name), "newton", 1e-10, max_passes=3)
    assert not early.converged
    assert early.bound.gap >= early.bound.value - Reference(*stated(name)).minimum.value > 0


# What is no problem at all


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["binary", "softmax", "l1", "unpenalized", "wide", "conjugate gradients"])
def test_features_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    problem = stated(name)
    features = problem.features.clone()
    features[3, 2] = bad
    with pytest.raises(LogregError, match="finite"):
        solved(problem._replace(features=features))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rows", "features", "classes"),
    [(90_000, 5, 2), (6000, 140, 8), (30, 400, 2)],
    ids=["a sample first", "descent", "in the rows"],
)
def test_a_fit_leaves_the_rows_as_they_are(rows: int, features: int, classes: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, features, generator=draw, dtype=dtype) + 1
    labels = torch.randint(classes, (rows,), generator=draw)
    before = x.clone()
    assert fit(x, labels, Objective("bce" if classes == 2 else "cross_entropy", l2=0.1)).converged
    assert torch.equal(x, before)


STARTED = {
    "small": (100, 5, 2, "auto", Objective("bce", l2=1e-2)),
    "newton": (2000, 30, 2, "newton", Objective("bce", l2=1e-2)),
    "lbfgs": (2000, 30, 2, "lbfgs", Objective("bce", l2=1e-2)),
    "softmax": (2000, 20, 4, "lbfgs", Objective("cross_entropy", "sum", l2=1.0)),
    "conjugate gradients": (2000, 1100, 2, "newton", Objective("bce", l2=1e-2)),
    "l1": (300, 600, 2, "newton", Objective("bce", l1=3e-2)),
    "no penalty": (2000, 10, 3, "newton", Objective("cross_entropy")),
    "odd units": (2000, 10, 2, "newton", Objective("bce")),
}


@pytest.mark.parametrize("name", STARTED)
def test_a_fit_that_starts_at_the_optimum_is_there_at_once(name: str) -> None:
    rows, features, classes, optimizer, objective = STARTED[name]
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64)
    logits = x @ torch.randn(features, classes, generator=draw, dtype=torch.float64) / features**0.5
    labels = (logits + torch.randn(rows, classes, generator=draw)).argmax(1)
    unit = 1e12 if name == "odd units" else 1.0
    x = x * unit + (1e14 if unit > 1 else 0.0)  # stored as (x - shift) / unit
    first = fit(x, labels, objective, optimizer=optimizer, tolerance=1e-9)
    again = fit(x, labels, objective, optimizer=optimizer, start=(first.coef, first.intercept))
    assert again.converged
    assert again.passes <= 3 < first.passes
    torch.testing.assert_close(again.coef, first.coef, rtol=1e-3, atol=1e-4 / unit)


@pytest.mark.parametrize(("dtype", "near", "far"), [(torch.float32, 3.0, 5.0), (torch.float64, 50.0, 80.0)])
def test_features_near_zero_are_stored_as_they_are(dtype: torch.dtype, near: float, far: float) -> None:
    x = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for distance, is_plain in ((near, True), (-near, True), (far, False), (-far, False)):
        columns = (x + torch.tensor([0.0, distance, 0.0])).to(dtype)
        assert is_plain_by_sample(columns, 100.0) == is_plain
    columns[:, 1] = 0.0
    assert is_plain_by_sample(columns, 100.0)
    assert not is_plain_by_sample(columns, 2.0**33)


def test_a_start_that_is_none_is_refused() -> None:
    x, labels = torch.randn(20, 3), torch.arange(20) % 2
    with pytest.raises(LogregError, match=r"`start` must have coef \(1, 3\) and intercept \(1,\), got \(3,\)"):
        fit(x, labels, Objective("bce", l2=1.0), start=(torch.zeros(3), torch.zeros(1)))
    with pytest.raises(LogregError, match="`start` must be finite"):
        fit(x, labels, Objective("bce", l2=1.0), start=(torch.full((1, 3), torch.nan), torch.zeros(1)))


@pytest.mark.parametrize("optimizer", [*EXACT, "auto"])
def test_without_an_intercept_that_of_a_start_has_no_effect(optimizer: str) -> None:
    x, labels = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 2
    start = torch.zeros(1, 3), torch.ones(1)
    found, expected = (
        fit(x, labels, Objective("bce", l2=0.1), optimizer=optimizer, intercept=False, start=one)
        for one in (start, None)
    )
    assert found.intercept.tolist() == [0.0]
    torch.testing.assert_close(found.coef, expected.coef)


@pytest.mark.parametrize("features", [0, 1])
def test_the_message_for_a_wrong_start_tells_the_shapes_that_are_right(features: int) -> None:
    x, labels = torch.zeros(20, features), torch.arange(20) % 2
    for wrong in (features + 1, features + 2):
        expected = re.escape(f"coef (1, {features}) and intercept (1,), got (1, {wrong}) and (1,)")
        with pytest.raises(LogregError, match=expected):
            fit(x, labels, Objective("bce", l2=1.0), start=(torch.zeros(1, wrong), torch.zeros(1)))
    assert fit(x, labels, Objective("bce", l2=1.0), start=(torch.zeros(1, features), torch.zeros(1))).converged


@pytest.mark.parametrize("shape", [(), (0,), (20,), (20, 0, 2), (0, 0)])
def test_features_that_are_no_matrix_are_refused_with_their_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(LogregError, match=re.escape(f"got torch.float32 of shape {shape}.")):
        fit(torch.zeros(shape), torch.arange(20) % 2, Objective("bce", l2=1.0))


def test_the_seed_chooses_the_sampled_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    x, labels = torch.randn(20_000, 30, generator=draw), torch.randint(2, (20_000,), generator=draw)
    fits = [fit(x, labels, Objective("bce", l2=1e-2), optimizer="lbfgs", seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(fits[0].coef, fits[1].coef)
    assert not torch.equal(fits[0].coef, fits[2].coef)
    torch.testing.assert_close(fits[0].coef, fits[2].coef, rtol=0, atol=1e-2)


@pytest.mark.parametrize("loss", ["bce", "cauchit", "probit", "cloglog", "cross_entropy"])
@pytest.mark.parametrize(("l2", "l1"), [(0.01, 0.0), (0.0, 0.01), (0.0, 0.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_one_class_alone_end_at_once_near_the_infimum(loss: str, l2: float, l1: float, weighted: bool) -> None:
    features = torch.randn(3000, 20, generator=torch.Generator().manual_seed(0))
    classes = 10 if loss == "cross_entropy" else 2
    labels, weight = torch.ones(3000, dtype=torch.long), None
    if weighted:
        labels[::3], weight = 0, (torch.arange(3000) % 3 > 0).double()
    passes: list[object] = []
    objective = Objective(loss, l2=l2, l1=l1)
    found = fit(features, labels, objective, classes, weight, watch=lambda *one: passes.append(one))
    assert not passes  # there were hundreds
    assert not found.converged  # f tends to 0 as the intercept grows
    assert not found.coef.any()
    assert 0 < found.bound.value <= 1e-12
    assert found.bound.gap >= found.bound.value
    assert int(found.intercept.argmax()) == (1 if len(found.intercept) > 1 else 0)
    assert float(found.intercept.max()) > 0


def test_rows_of_one_class_have_an_optimum_without_an_intercept() -> None:
    features = 1 + torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fit(features, torch.zeros(50, dtype=torch.long), Objective("bce", l2=0.1), 2, intercept=False)
    assert found.converged
    slope = torch.sigmoid(features @ found.coef[0]) @ features / 50 + 0.1 * found.coef[0]
    assert float(slope.abs().max()) < 1e-3
