"""The certificate in words, and the bound by a better point."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch

from logreg.estimators.logistic_regression import FitCertificate
from logreg.losses.objective import Objective
from logreg.optimality.certificate import Certificate, bound_by_solution, names_of, objective_in_words
from logreg.rows import MemoryRows
from logreg.solvers.bounds.base import Bound
from logreg.solvers.fit import bound_of, problem_of
from reference import Reference


@pytest.mark.long
@pytest.mark.parametrize("most", [3, 1000])
def test_an_exact_optimizer_that_goes_on_makes_a_wide_bound_narrow(most: int) -> None:
    draw = np.random.default_rng(0)
    x, labels = torch.from_numpy(draw.standard_normal((400, 60))), torch.from_numpy(draw.integers(0, 10, 400))
    objective = Objective("cross_entropy", l2=1e-4)
    rows = MemoryRows(x, labels)
    problem = problem_of(rows, objective)
    point = torch.from_numpy(draw.standard_normal((10, 61))) / 100
    wide = bound_of(problem, point, rows)
    found = bound_by_solution(problem, point, rows, wide, accuracy=0.1, most=most)
    gap = wide.value - Reference(x, labels, objective).minimum.value
    assert found.value == wide.value
    assert found.rigorous
    assert gap <= found.gap <= wide.gap
    assert (found.gap <= 1.1 * gap < 0.5 * wide.gap) == (most > 3)


def test_an_exact_optimizer_goes_on_until_its_own_bound_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = []

    def vague_at_first(*arguments: Any) -> Bound:
        bounds.append(bound_of(*arguments))
        return bounds[0]._replace(gap=bounds[0].value) if len(bounds) == 1 else bounds[-1]

    draw = np.random.default_rng(1)
    x, labels = torch.from_numpy(draw.standard_normal((200, 4))), torch.from_numpy(draw.integers(0, 3, 200))
    objective, rows = Objective("cross_entropy", l2=1e-2), MemoryRows(x, labels)
    problem = problem_of(rows, objective)
    point = torch.from_numpy(draw.standard_normal((3, 5)))
    wide = bound_of(problem, point, rows)
    monkeypatch.setattr("logreg.optimality.certificate.bound_of", vague_at_first)
    found = bound_by_solution(problem, point, rows, wide, accuracy=0.1)
    gap = wide.value - Reference(x, labels, objective).minimum.value
    assert gap <= found.gap <= 1.1 * gap < wide.gap


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "optimal to 2e-09"),
        (
            {"rigorous": False, "dependent": ("a", "b")},
            "optimal to 2e-09 by estimate: 'a' and 'b' are linearly dependent",
        ),
        (
            {"gap": 0.5, "dependent": tuple("abcde")},
            "'a', 'b', 'c' and 2 more features are linearly dependent to within",
        ),
        ({"rounding": 1e-3}, "0.001 nats above the optimum at most, by rounding alone"),
    ],
)
def test_the_verdict_names_what_spoils_a_bound(changed: dict[str, Any], words: str) -> None:
    plain = Certificate("mean, no penalty", 0.5, 1e-9, True, 0.0, 1e-6, 10, "float64", 1, 1.0)
    certificate = dataclasses.replace(plain, **changed)
    assert words in certificate.verdict
    assert certificate.converged == (not changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"gap": 0.5, "dependent": ("a",)},
        {"rounding": 1e-3},
        {"gap": 0.6},
        {"gap": 0.1},
        {"gap": 0.1, "rigorous": False},
    ],
)
def test_the_advice_is_in_the_words_of_the_reader(changed: dict[str, Any]) -> None:
    plain = FitCertificate("sum, no penalty", 0.5, 1e-9, True, 0.0, 1e-6, 10, "float64", 1, 1.0)
    certificate = dataclasses.replace(plain, **changed)
    of_commands = Certificate(**dataclasses.asdict(certificate)).verdict
    assert not re.search(r"l2|train|dataset\.|optimizer=", certificate.verdict)
    assert re.search("a penalty, such as C=1|raise max_iter|StandardScaler", certificate.verdict)
    assert of_commands.partition(":")[0] == certificate.verdict.partition(":")[0]


def test_a_certificate_without_rounding_has_the_relative_gap_of_the_bound() -> None:
    certificate = Certificate("mean, no penalty", 0.5, 1e-9, True, 0.0, 1e-6, 10, "float64", 1, 1.0)
    assert certificate.relative_gap == pytest.approx(2e-9, rel=1e-12)


def test_a_certificate_survives_as_plain_values() -> None:
    certificate = Certificate("mean", 0.5, 1e-9, True, 0.0, 1e-6, 10, "float64", 1, 1.0, dependent=("a", "b"))
    plain = certificate.as_dict()
    assert plain["dependent"] == ["a", "b"]
    assert plain["verdict"] == certificate.verdict
    assert Certificate.of(plain) == certificate


def test_features_without_names_are_numbered() -> None:
    assert names_of((2, 0), ["a", "b", "c"]) == ("c", "a")
    assert names_of((2, 0), []) == ("feature 2", "feature 0")


@pytest.mark.parametrize(
    ("objective", "intercept", "words"),
    [
        (Objective("bce", l2=1e-3), True, "mean binary cross-entropy + 0.001/2 |coef|^2, intercept free"),
        (Objective("bce", l2=1e-3), False, "mean binary cross-entropy + 0.001/2 |coef|^2, no intercept"),
        (Objective("bce", "sum", l1=2.0), True, "sum binary cross-entropy + 2 |coef|_1, intercept free"),
        (Objective("bce"), True, "mean binary cross-entropy, no penalty"),
    ],
)
def test_an_objective_is_written_as_a_formula(objective: Objective, intercept: bool, words: str) -> None:
    assert objective_in_words(objective, 1, False, intercept) == words


def not_convex(**changes: Any) -> Certificate:
    """The certificate of a fit whose loss is not convex."""
    plain: dict[str, Any] = {"value": 0.5, "gap": 0.5, "rigorous": True, "max_abs_gradient": 1e-3, "tolerance": 1e-6}
    words: dict[str, Any] = {"objective": "f", "rows": 3, "dtype": "float64", "passes": 1, "seconds": 0.0}
    return Certificate(**{**plain, **words, "is_convex": False, **changes})


@pytest.mark.parametrize(
    ("changes", "is_stationary", "words"),
    [
        ({"decrement": 1e-9, "starts": 3}, True, "stationary point, a local minimum to 1e-09 nats, the lowest of 3"),
        (
            {"decrement": 1e-3},
            False,
            "not yet a stationary point: about 0.001 nats above a local minimum; train longer",
        ),
        ({"decrement": float("inf")}, False, "no stationary point that is a minimum: the Hessian has a negative"),
        ({"max_abs_gradient": 1e-9}, True, "stationary point: the loss is not convex, so another point may be lower"),
        ({}, False, "not yet a stationary point, where max |gradient| is 0 and not 0.001; train longer"),
        ({"decrement": 1e-9, "separation": "no finite optimum"}, False, "no finite optimum"),
    ],
)
def test_a_point_of_a_loss_that_is_not_convex_is_stationary_at_best(
    changes: dict[str, Any], is_stationary: bool, words: str
) -> None:
    found = not_convex(**changes)
    assert not found.converged
    assert found.is_stationary == is_stationary
    assert found.verdict.startswith(words)
    assert "optimal" not in found.verdict
    assert Certificate.of(found.as_dict()) == found


def test_a_certificate_of_an_earlier_version_is_of_a_convex_loss() -> None:
    plain = not_convex().as_dict()
    for name in ("is_convex", "decrement", "starts", "is_stationary"):
        del plain[name]
    assert Certificate.of(plain).is_convex


def test_an_estimate_within_the_tolerance_says_how_to_prove_it() -> None:
    found = not_convex(is_convex=True, rigorous=False, gap=1e-8)
    assert found.verdict == "optimal to 2e-08 by estimate: for a proof, set l2"
    assert not found.converged
