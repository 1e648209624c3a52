"""The reason why a fit has no finite optimum: which fits are searched, how far, and what is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from logreg.facts import DataFacts
from logreg.losses.objective import Objective
from logreg.optimality.separation import Separation, explain
from logreg.optimality.separation.explain import SEARCH_LIMITS, explain_separation

FACTS = cast(DataFacts, SimpleNamespace(num_classes=2, feature_names=("hours",), class_names=("fail", "pass")))
HOURS, PASSED = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1])
WORDS = (
    "no finite optimum: 'hours' separates 'pass' from 'fail' perfectly (complete separation), so coefficients grow "
    "without bound; set a penalty, such as l2=1e-3"
)


def test_three_students_have_no_finite_optimum() -> None:
    assert explain_separation(HOURS, PASSED, Objective("bce"), FACTS) == WORDS
    leak = explain_separation(HOURS, PASSED, Objective("bce"), FACTS, leak="dataset.drop=[hours]")
    assert leak.endswith(
        "; may be the target under another name: dataset.drop=[hours]; if not, set a penalty, such as l2=1e-3"
    )


@pytest.mark.parametrize(
    ("objective", "has_intercept"),
    [(Objective("bce", l2=1e-9), True), (Objective("bce", l1=1e-9), True), (Objective("bce"), False)],
)
def test_a_penalized_fit_and_one_without_an_intercept_are_not_searched(
    objective: Objective, has_intercept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "find_separation", None)
    assert explain_separation(HOURS, PASSED, objective, FACTS, has_intercept) == ""


def test_classes_that_overlap_are_not_spoken_of() -> None:
    assert explain_separation(HOURS, torch.tensor([0, 1, 0]), Objective("bce"), FACTS) == ""
    weight = torch.tensor([1.0, 0.0, 1.0])  # two rows of one class are left
    assert explain_separation(HOURS, torch.tensor([0, 1, 0]), Objective("bce"), FACTS, sample_weight=weight)


@pytest.mark.parametrize(("max_work", "limits"), [(0.0, [0.0]), (0.5, [0.5]), (5.0, [0.5, 5.0])])
def test_a_search_that_does_not_decide_is_repeated_with_more_work(
    max_work: float, limits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []

    def undecided(*arguments: Any) -> Separation:
        searched.append(arguments[-1])
        return Separation("unknown")

    monkeypatch.setattr(explain, "find_separation", undecided)
    assert explain_separation(HOURS, PASSED, Objective("bce"), FACTS, max_work=max_work) == ""
    assert searched == limits
    assert set(limits) <= {0.0, *SEARCH_LIMITS}
