"""Each penalty: its value by hand, its gradient by autograd, and what it is in other coordinates."""

from __future__ import annotations

import pytest
import torch

from logreg.losses.objective import Objective
from logreg.losses.penalties import PENALTIES

COEF = torch.tensor([[1.5, -2.0, 0.0], [0.25, 3.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(("name", "value"), [("l2", 0.3 / 2 * 16.3125), ("l1", 0.3 * 7.75)])
def test_the_value_is_that_of_the_formula(name: str, value: float) -> None:
    assert float(PENALTIES[name](0.3).value(COEF)) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("name", PENALTIES)
def test_the_gradient_is_that_of_autograd_and_is_added(name: str) -> None:
    coef = COEF.clone().requires_grad_()
    penalty = PENALTIES[name](0.3)
    penalty.value(coef).backward()
    assert coef.grad is not None
    gradient = torch.ones_like(COEF)
    penalty.add_gradient_(COEF, gradient, scale=0.5)
    torch.testing.assert_close(gradient, 1 + 0.5 * coef.grad)


@pytest.mark.parametrize("name", PENALTIES)
def test_in_other_coordinates_the_penalty_of_the_same_coefficients_is_the_same(name: str) -> None:
    ratio = torch.tensor([0.5, 2.0, 10.0], dtype=torch.float64)
    strengths = PENALTIES[name](0.3).rescaled(ratio)
    smaller = COEF / ratio
    there = sum(
        float(PENALTIES[name](float(strength)).value(smaller[:, [column]])) for column, strength in enumerate(strengths)
    )
    assert there == pytest.approx(float(PENALTIES[name](0.3).value(COEF)), rel=1e-14)


def test_an_objective_has_the_penalties_that_it_is_given() -> None:
    assert Objective("bce").penalties == ()
    assert Objective("bce", l2=0.1, l1=0.2).penalties == (PENALTIES["l2"](0.1), PENALTIES["l1"](0.2))
    assert [Objective("bce", l2=0.1).is_smooth, Objective("bce", l1=0.1).is_smooth] == [True, False]
    assert [each.times(2).described() for each in Objective("bce", l2=0.1, l1=0.2).penalties] == [
        "0.2/2 |coef|^2",
        "0.4 |coef|_1",
    ]
