"""Bounds without a penalty where features are linearly dependent: exactly, or up to rounding."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.bounds.base import Bound
from logreg.solvers.fit import bound_of, fit, problem_of
from logreg.solvers.optimizers import EXACT
from reference import Array, Reference


def dyadic(draw: np.random.Generator, *shape: int) -> Array:
    """Normal numbers with few binary digits, of which small sums and differences are exact."""
    return np.round(draw.standard_normal(shape) * 64) / 64


def labels_for(draw: np.random.Generator, logits: Array) -> Tensor:
    return torch.from_numpy((draw.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(np.int64))


def unpenalized(x: Array, labels: Tensor, point: Array | None = None) -> Bound:
    """The bound at a point, or at where the slope ends for columns that are as good as equal."""
    rows = MemoryRows(torch.from_numpy(x), labels)
    problem = problem_of(rows, Objective("bce"), 2)
    if point is None:
        point = Reference(torch.from_numpy(x[:, :1]), labels, Objective("bce")).minimum.point
        point = np.insert(point, 1, np.zeros(x.shape[1] - 1)[:, None], axis=1)
    return bound_of(problem, torch.from_numpy(point), rows)


@pytest.mark.parametrize("binary_digits", range(20, 51, 6))
def test_columns_that_are_nearly_equal_have_no_rigorous_bound_above_rounding(binary_digits: int) -> None:
    draw = np.random.default_rng(0)
    u, z = dyadic(draw, 2, 200)
    labels = labels_for(draw, u + z)
    x = np.column_stack([u, u + 2.0**-binary_digits * z])
    found = unpenalized(x, labels)
    # In exact arithmetic the two columns span u and z.
    least = Reference(torch.from_numpy(np.column_stack([u, z])), labels, Objective("bce")).minimum.value
    assert found.value - least > 0.1
    assert not (found.rigorous and found.gap < found.value - least)
    assert found.dependent == (0, 1)


@pytest.mark.parametrize("offset", [1e6, 1e12, 1e14])
def test_an_offset_hides_no_gap(offset: float) -> None:
    draw = np.random.default_rng(1)
    u = np.round(draw.standard_normal((200, 1)) * 8)
    labels = labels_for(draw, u[:, 0] / 4)
    near = Reference(torch.from_numpy(u), labels, Objective("bce")).minimum.point
    slope = np.round(near[0, 0] * 1024) / 1024  # so that the intercept is exact, and the logits are
    intercept = np.round((near[0, 1] - slope * offset) * 1024) / 1024
    found = unpenalized(u + offset, labels, np.array([[slope, intercept]]))
    reference = Reference(torch.from_numpy(u), labels, Objective("bce"))
    # f at the same logits, with the offset taken out of them in exact arithmetic
    left = float(Fraction(intercept) + Fraction(slope) * Fraction(offset))
    gap = reference.value(reference.of_source_units(np.array([[slope]]), np.array([left]))) - reference.minimum.value
    assert found.rigorous
    assert gap <= found.gap + found.rounding
    assert found.gap <= 1.01 * gap + 1e-15
    assert found.rounding <= (1e-2 if offset > 1e13 else 1e-5)


@pytest.mark.parametrize("exponent", [-1000, -300, -83, 83, 300, 1000])
def test_a_unit_changes_no_bound(exponent: int) -> None:
    draw = np.random.default_rng(2)
    x = draw.standard_normal((100, 2))
    labels = labels_for(draw, x[:, 0])
    point = Reference(torch.from_numpy(x), labels, Objective("bce")).minimum.point * 1.01
    plain = unpenalized(x, labels, point)
    point[0, 0] /= 2.0**exponent
    other = unpenalized(x * [2.0**exponent, 1], labels, point)
    assert plain.rigorous
    assert 0 < plain.gap < 1e-3
    assert other.rigorous
    assert other.gap == pytest.approx(plain.gap, rel=1e-12)


def exact_dependences(draw: np.random.Generator) -> dict[str, Array]:
    """Columns of rank two with the intercept's less than their number, in exact arithmetic."""
    u, z, level = draw.standard_normal(200), dyadic(draw, 200), np.eye(4)[draw.integers(4, size=200)]
    return {
        "a copy": np.column_stack([u, z, u]),
        "a copy in another unit": np.column_stack([u * 1e3, z, -8 * (u * 1e3)]),
        "a constant": np.column_stack([u, z, np.full(200, 3.7)]),
        "nothing but zeros": np.column_stack([u, z, np.zeros(200)]),
        "levels of a category": np.column_stack([u, level]),
        "two categories": np.column_stack([u, level, np.eye(3)[draw.integers(3, size=200)]]),
        "a sum": np.column_stack([dyadic(draw, 200), z, 3 * z]) @ [[1, 0, 1, 5], [0, 1, 1, -3], [0, 0, 0, 0.25]],
        "a third": np.column_stack([3 * z, z, u]),
        "levels far from zero": np.column_stack([u, level + 1024]),
    }


@pytest.mark.parametrize("kind", exact_dependences(np.random.default_rng(0)))
def test_an_exact_dependence_leaves_the_bound_rigorous(kind: str) -> None:
    x = exact_dependences(np.random.default_rng(0))[kind]
    draw = np.random.default_rng(3)
    labels = labels_for(draw, x[:, 0] / x[:, 0].std())
    values, vectors = np.linalg.eigh(np.cov(x.T))
    basis = vectors[:, values > 1e-9 * values[-1]]
    narrow = Reference(torch.from_numpy((x - x.mean(0)) @ basis), labels, Objective("bce"))
    coef = narrow.minimum.coef @ basis.T
    point = np.column_stack([coef, narrow.minimum.intercept - coef @ x.mean(0)])
    found = unpenalized(x, labels, point)
    assert found.rigorous
    assert found.dependent == ()
    assert found.gap <= 1e-9


def test_a_sum_that_is_rounded_is_no_exact_dependence() -> None:
    draw = np.random.default_rng(4)
    x = draw.standard_normal((200, 3))
    x[:, 2] = x[:, 0] + x[:, 1]
    labels = labels_for(draw, x[:, 2])
    narrow = Reference(torch.from_numpy(x[:, :2]), labels, Objective("bce")).minimum
    found = unpenalized(x, labels, np.array([[*narrow.coef[0], 0, narrow.intercept[0]]]))
    assert not found.rigorous
    assert found.dependent == (0, 1, 2)
    assert found.gap <= 1e-9


def test_one_huge_row_is_no_dependence() -> None:
    """Beside it all others look like rounding; but they are not rounding of their own numbers."""
    draw = np.random.default_rng(0)
    x = dyadic(draw, 200, 2)
    labels = labels_for(draw, x @ [1, -1])
    x[0] = 2.0**36
    found = unpenalized(x, labels)
    assert found.rigorous
    assert found.gap >= found.value


@pytest.mark.parametrize("digits", [torch.float32, torch.float64])
@pytest.mark.parametrize("optimizer", EXACT)
def test_a_total_that_is_rounded_ends_soon_at_the_point_of_least_norm(optimizer: str, digits: torch.dtype) -> None:
    draw = np.random.default_rng(4)
    x = torch.from_numpy(draw.standard_normal((300, 3))).to(digits)
    x[:, 2] = x[:, 0] + x[:, 1]
    labels = labels_for(draw, x[:, 2].double().numpy())
    found = fit(x, labels, Objective("bce"), optimizer=optimizer)
    assert found.converged
    assert found.passes <= 20
    assert found.bound.dependent == (0, 1, 2)
    assert not found.bound.rigorous
    narrow = Reference(x[:, :2].double(), labels, Objective("bce")).minimum
    assert found.bound.value == pytest.approx(narrow.value, rel=1e-6)
    # a (u) + b (v) + c (u + v) of least norm: c = (a + b) / 3 of those of u and v alone
    third = narrow.coef[0].sum() / 3
    np.testing.assert_allclose(found.coef[0], [*(narrow.coef[0] - third), third], rtol=0, atol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_levels_of_a_category_have_a_rigorous_bound_wherever_they_lie(offset: float) -> None:
    draw = np.random.default_rng(5)
    rare = np.arange(400) < 5  # the other level lies far from zero for its deviation
    x = np.column_stack([draw.standard_normal(400) + offset, rare, ~rare])
    labels = labels_for(draw, x[:, 0] - offset)
    labels[:5] = torch.tensor([0, 1, 0, 1, 1])
    for dtype in (torch.float32, torch.float64):
        found = fit(torch.from_numpy(x).to(dtype), labels, Objective("bce"))
        assert found.converged
        assert found.bound.rigorous
