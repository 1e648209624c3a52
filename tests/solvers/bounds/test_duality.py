"""A bound is at least the true f - f* and not much larger, for random problems and points of every kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from logreg.csr import of_scipy
from logreg.facts import Batch
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective, Reduction
from logreg.rows import MemoryRows, parts
from logreg.solvers.bounds.balance import balanced_by_least
from logreg.solvers.bounds.base import EvaluatedPoint, conversion_rounding
from logreg.solvers.bounds.bound import bound
from logreg.solvers.bounds.duality import DualPoint, duality_gap
from logreg.solvers.fit import bound_of, fit, problem_of
from logreg.solvers.passes.base import drive, request, run_pass
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.passes.precise import UNIT_ROUNDOFF, DualObjective, EvaluatePrecisely, centered_coordinates
from logreg.solvers.problem import Coordinates
from logreg.solvers.state import SolverState, certified
from logreg.solvers.steps.newton_steps import intercept_step
from reference import Array, Reference, Stated

ROUNDING = 1e-12
"""Rounding of a gap, relative to max(1, f): the means of the features are up to 1000 standard deviations from 0."""

LOOSE = 10.0
"""Largest median of bound over true gap."""

OPTIMAL = 1e-6
"""Largest bound at the optimum itself, whose float64 parameters are rounded."""

PENALTIES = ("l2", "l1", "elastic net", "none")


def drawn(penalty: str, seed: int, size: float) -> Stated:
    """N from 5 to 2000, D from 1 to 3000, K from 2 to 20, N * D * K at most ``size``; awkward columns and weights."""
    draw = np.random.default_rng(seed)
    while True:
        rows, features = (int(np.exp(draw.uniform(np.log(low), np.log(high)))) for low, high in ((5, 2001), (1, 3001)))
        classes = int(draw.choice([2, 2, 2, 3, 4, 5, 10, 20]))
        fits = rows * features * classes <= size and min(rows, features) * classes <= 200
        overlaps = rows >= 30 * features * classes
        if fits and (overlaps if penalty == "none" else penalty != "elastic net" or features <= 100):
            break
    x = draw.standard_normal((rows, features))
    signal = draw.choice([0.3, 1, 3]) if penalty != "none" else 0.5
    logits = x @ draw.standard_normal((features, classes)) * signal / np.sqrt(features)
    labels = (logits + draw.gumbel(size=logits.shape)).argmax(1)
    if draw.random() < 0.4:
        x += draw.standard_normal(features) * 10 ** draw.uniform(-2, 3)
    if draw.random() < 0.5:
        x *= 10 ** draw.uniform(-4, 4, features)
    if draw.random() < 0.3:
        x[:, draw.integers(features)] = x[:, draw.integers(features)]
    if draw.random() < 0.3:
        x[:, draw.integers(features)] = draw.choice([0, 1, 3.7, 1e4])
    weight = draw.choice([0.0, 0.5, 1.0, 2.0], rows) if draw.random() < 0.3 else np.ones(rows)
    weight[0] = 1.0
    l1 = l2 = 0.0
    if penalty in ("l1", "elastic net"):  # relative to the strength from which on all coefficients are 0
        residuals = np.eye(classes)[labels] - np.bincount(labels, minlength=classes) / rows
        l1 = 10 ** draw.uniform(-2, 0.1) * max(1e-3, float(np.abs(residuals.T @ x).max()) / rows)
    if penalty in ("l2", "elastic net"):
        l2 = 10 ** draw.uniform(-8, 2)
    loss: str = "bce" if draw.random() < (0.7 if classes == 2 else 0.2) else "cross_entropy"
    summed = draw.random() < 0.2
    objective = Objective(loss, *(("sum", l2 * rows, l1 * rows) if summed else ("mean", l2, l1)))
    dtype = torch.float32 if draw.random() < 0.4 else torch.float64
    return Stated(
        torch.from_numpy(x).to(dtype),
        torch.from_numpy(labels),
        objective,
        classes,
        None if (weight == 1).all() else torch.from_numpy(weight).to(dtype),
        tuple(draw.uniform(0.2, 3, classes)) if draw.random() < 0.2 else (),
        bool(draw.random() < 0.85),
    )


def points(reference: Reference, draw: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Random points, points half-way, nearly optimal ones and the optimum, in the coordinates of the reference."""
    best = reference.solution
    yield "random", draw.standard_normal(best.shape) * draw.choice([1, 30])
    yield "half-way", best / 2
    for nearness in (1e-2, 1e-4):
        scale = np.abs(best) + draw.choice([0, 1]) * np.abs(best).max()
        yield f"within {nearness:.0e}", best + nearness * scale * draw.standard_normal(best.shape)
    yield "optimum", best


class Judged(NamedTuple):
    """A bound and the truth."""

    name: str
    """Which problem and point."""
    gap: float
    """f - f*, relative to max(1, f)."""
    bound: float
    """The bound of f - f*, relative to max(1, f)."""
    rigorous: bool


def judged(penalty: str, seed: int, size: float) -> Iterator[Judged]:
    """The bounds at all points of a problem, and at the end of a fit that ends early."""
    features, labels, objective, classes, sample_weight, class_weight, intercept = drawn(penalty, seed, size)
    reference = Reference(features, labels, objective, classes, sample_weight, class_weight, intercept)
    rows = MemoryRows(features, labels, sample_weight)
    stated = problem_of(rows, objective, classes, class_weight, intercept=intercept)
    bounds = []
    fitted = partial(
        fit, features, labels, objective, classes, sample_weight, class_weight, intercept=intercept, max_passes=300
    )
    if seed % 2:
        early = fitted(tolerance=10.0 ** -(1 + seed % 4), max_passes=30)
        bounds.append(("where a fit ended", early.bound))
    for name, point in points(reference, np.random.default_rng(seed)):
        point = point * np.append(np.ones(point.shape[1] - 1), intercept)
        bounds.append((name, bound_of(stated, torch.from_numpy(reference.in_source_units(point)), rows)))
        assert bounds[-1][1].value == pytest.approx(reference.value(point), rel=1e-9, abs=1e-12), (seed, name)
    least = reference.minimum.value
    if bounds[-1][1].gap > OPTIMAL:  # perhaps the reference is not at the optimum: is there a better point?
        least = min(least, fitted(tolerance=OPTIMAL).bound.value)
    for name, found in bounds:
        scale = max(1, found.value)
        yield Judged(f"{seed} {name}", (found.value - least) / scale, found.gap / scale, found.rigorous)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_for_independent_outputs_the_evaluation_replaces_a_pass(classes: int, weighted: bool) -> None:
    draw = torch.Generator().manual_seed(classes)
    features = torch.randn(300, 5, generator=draw, dtype=torch.float64) + 2
    labels = torch.randint(classes, (300,), generator=draw)
    rows = MemoryRows(features, labels, torch.rand(300, generator=draw, dtype=torch.float64) if weighted else None)
    problem = problem_of(rows, Objective("bce", l2=0.1), classes, (0.5, 2.0, 1.0, 3.0)[:classes] if weighted else ())
    point = torch.randn(problem.num_outputs, 6, generator=draw, dtype=torch.float64) / 10
    for off in (0.0, 0.0, 0.0, 0.05):  # the intercepts are solved, and then are off a little
        evaluation = drive(request(Evaluate(problem, problem.model, point, torch.float64)), rows)
        shift = intercept_step(problem, evaluation.gradient[:, -1], evaluation.curvature)
        point[:, -1] += off - shift
    evaluation = drive(request(Evaluate(problem, problem.model, point, torch.float64)), rows)
    shift = intercept_step(problem, evaluation.gradient[:, -1], evaluation.curvature)
    assert 0.01 < float(shift.abs().max()) < 0.1
    sums, excess, rounding, _ = drive(request(DualObjective(problem, problem.model, point, shift)), rows)
    assert evaluation.by_intercept is not None
    smooth = evaluation.gradient - problem.penalties(problem.model)[0] * point
    torch.testing.assert_close(smooth - shift.unsqueeze(1) * evaluation.by_intercept, sums, rtol=1e-10, atol=1e-14)
    assert excess <= float(shift.square() @ evaluation.curvature.own) <= 3 * excess
    assert 0 < rounding < 1e-12


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize(("far", "l2", "enough"), [(0.01, 1e-3, 0.0), (0.2, 1.0, 0.5)])
def test_residuals_of_a_softmax_that_move_by_their_least_probabilities_are_a_dual_point(
    far: float, l2: float, enough: float, precise: bool, weighted: bool
) -> None:
    draw = torch.Generator().manual_seed(3)
    features = torch.randn(300, 5, generator=draw, dtype=torch.float64) + 2
    labels = torch.randint(4, (300,), generator=draw)
    weights = torch.rand(300, generator=draw, dtype=torch.float64) if weighted else torch.ones(300).double()
    rows = MemoryRows(features, labels, weights)
    problem = problem_of(rows, Objective("cross_entropy", l2=l2), 4)
    point = torch.randn(4, 6, generator=draw, dtype=torch.float64) / 10
    for off in (0.0, 0.0, 0.0, far):  # the intercepts are solved, and then are off a little
        evaluation = drive(request(Evaluate(problem, problem.model, point, torch.float64)), rows)
        shift = intercept_step(problem, evaluation.gradient[:, -1], evaluation.curvature)
        point[:, -1] += off * torch.tensor([1.0, -1.0, 2.0, -2.0]) - shift
    if precise:
        evaluation = drive(request(EvaluatePrecisely(problem, problem.model, point)), rows).evaluation
    else:
        evaluation = drive(request(Evaluate(problem, problem.model, point, torch.float64)), rows)
    at = EvaluatedPoint(problem, problem.model, point, evaluation, torch.ones(6).double(), torch.ones(6).double())
    before = evaluation.gradient - problem.penalties(problem.model)[0] * point
    assert (balanced_by_least(at, before) is None) == (enough > 0)  # beyond `MAX_MOVE_COST`
    moved = balanced_by_least(at, before, enough)
    assert moved is not None
    sums, cost, reach = moved
    slopes = sums[:, :-1] + l2 * point[:, :-1]
    just = (cost + float(slopes.square().sum()) / (2 * l2)) / evaluation.value
    if enough:  # the cost is a part of the gap
        assert balanced_by_least(at, before, just * (1 + 1e-9)) is not None
        assert balanced_by_least(at, before, just * (1 - 1e-9)) is None
    share, ones = weights / weights.sum(), F.pad(features, (0, 1), value=1.0)
    p = (ones @ point.T).softmax(1)
    least = p.amin(1, keepdim=True)
    dual = p - F.one_hot(labels, 4) - least * before[:, -1] / (share @ least)
    moved_p = F.one_hot(labels, 4) + dual
    assert float(moved_p.min()) > 0  # within the domain of the conjugate
    torch.testing.assert_close(sums, (share.unsqueeze(1) * dual).T @ ones)
    assert float(sums[:, -1].abs().max()) < 1e-15
    excess = float(share @ (moved_p * (moved_p / p).log()).sum(1))
    assert 0 < excess <= cost
    assert float(((moved_p - p).abs() / p).max()) <= reach * (1 + 1e-12) < 1
    before[:, -1] = torch.tensor([1.0, -1.0, 0.0, 0.0])  # no feasible move
    assert balanced_by_least(at, before, math.inf) is None


def test_the_cost_of_a_move_by_least_probabilities_is_its_chi_squared() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = MemoryRows(torch.randn(90, 2, generator=draw, dtype=torch.float64), torch.randint(3, (90,), generator=draw))
    problem = problem_of(rows, Objective("cross_entropy", l2=1.0), 3)
    point = problem.zeros()  # where all probabilities are the least one
    evaluation = drive(request(Evaluate(problem, problem.model, point, torch.float64)), rows)
    at = EvaluatedPoint(problem, problem.model, point, evaluation, torch.ones(3).double(), torch.ones(3).double())
    moved = balanced_by_least(at, evaluation.gradient, math.inf)
    assert moved is not None
    frequencies = torch.bincount(rows.labels) / 90  # each row's probabilities move there
    assert moved[1] == pytest.approx(float(((frequencies - 1 / 3).square() * 3).sum()), rel=1e-6)


def test_a_dual_point_that_is_nearer_to_the_edge_of_the_domain_costs_more_to_balance() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = MemoryRows(torch.randn(90, 2, generator=draw, dtype=torch.float64), torch.arange(90) % 3)
    problem = problem_of(rows, Objective("cross_entropy", l2=1.0), 3)
    evaluation = drive(request(Evaluate(problem, problem.model, problem.zeros(), torch.float64)), rows)
    sizes = torch.ones(3).double()
    at = EvaluatedPoint(problem, problem.model, problem.zeros(), evaluation, sizes, sizes)
    sums = evaluation.gradient.clone()
    sums[:, -1] += torch.tensor([1e-3, -1e-3, 0.0])
    near, farther, far = (
        drive(duality_gap(at, DualPoint(sums, 1.0, 0.0, 0.0, reach=reach)), rows)[1] for reach in (0.25, 0.5, 0.7)
    )
    # The second derivative of the conjugate is the inverse of what is left of a probability: 1/2, 1/4 and 1/20 of it.
    assert far - near == pytest.approx((20 - 2) / (4 - 2) * (farther - near))
    assert farther > near


def test_a_cheap_bound_takes_no_pass_beyond_the_evaluation() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = MemoryRows(torch.randn(90, 2, generator=draw, dtype=torch.float64), torch.arange(90) % 2)
    problem = problem_of(rows, Objective("bce", l2=1.0))
    evaluation = drive(request(Evaluate(problem, problem.model, problem.zeros(), torch.float64)), rows)
    assert not list(bound(problem, problem.zeros(), evaluation, 0.0, problem.model, cheaply=True))
    assert next(bound(problem, problem.zeros(), evaluation, 0.0, problem.model)) is not None  # by curvature


@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_measured_derivatives_are_those_of_autograd(loss: str, reduction: Reduction) -> None:
    draw = torch.Generator().manual_seed(3)
    features = torch.randn(40, 3, generator=draw, dtype=torch.float64) + 2
    labels, weight = torch.randint(3, (40,), generator=draw), torch.arange(40).double() % 3
    rows, objective = MemoryRows(features, labels, weight), Objective(loss, reduction, l2=0.1)
    problem = problem_of(rows, objective, 3)
    point = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    found = drive(request(EvaluatePrecisely(problem, problem.model, point, hessian=True)), rows)

    def f(at: Tensor) -> Tensor:
        logits = features @ at[:, :-1].T + at[:, -1]
        return objective.data_term(logits, one_vs_rest(labels, 3, torch.float64), weight) + objective.penalty(
            at[:, :-1]
        )

    assert found.evaluation.value == pytest.approx(float(f(point)), rel=1e-13)
    gradient, hessian = torch.autograd.functional.jacobian(f, point), torch.autograd.functional.hessian(f, point)
    torch.testing.assert_close(found.evaluation.gradient, gradient, rtol=1e-12, atol=1e-13)
    own = torch.stack([hessian[k, :, k] for k in range(3)])
    assert found.evaluation.hessian is not None
    torch.testing.assert_close(found.evaluation.hessian, hessian if problem.coupled else own, rtol=1e-12, atol=1e-13)
    curvature, by_intercepts = found.evaluation.curvature, hessian[:, -1, :, -1]
    torch.testing.assert_close(curvature.own, by_intercepts.diagonal(), rtol=1e-12, atol=1e-13)
    if problem.coupled:
        torch.testing.assert_close(curvature.joint, by_intercepts, rtol=1e-12, atol=1e-13)
    else:
        torch.testing.assert_close(found.evaluation.by_intercept, own[:, -1], rtol=1e-12, atol=1e-13)
    assert found.rows == int((weight > 0).sum())
    mine = torch.cat([features, torch.ones(40, 1).double()], dim=1)
    torch.testing.assert_close(found.squares, problem.row_sum_scale * weight @ mine.square())
    torch.testing.assert_close(found.largest, mine[weight > 0].abs().amax(0))


def test_a_weighted_sample_is_brought_to_mean_zero_and_deviations_of_about_one() -> None:
    draw = torch.Generator().manual_seed(4)
    plain = torch.randn(50, 4, generator=draw, dtype=torch.float64)
    weight = torch.rand(50, generator=draw).double()
    weight[0], plain[0] = 0, 1e6  # a row of weight 0 does not count
    offset, unit = torch.tensor([[0, 1e3, -1e5, 3], [1, 1e-7, 1e5, 1e200]], dtype=torch.float64)
    features = (plain + offset) * unit
    labels = torch.arange(50) % 2
    problem = problem_of(MemoryRows(features, labels, weight), Objective("bce", l2=1.0))
    coordinates = centered_coordinates(problem, Batch(features, labels, weight))
    moved, weight = (features - coordinates.center) / coordinates.scale, weight / weight.sum()
    assert float((weight @ moved).abs().max()) < 1e-9
    deviation = (weight @ moved.square()).sqrt()
    assert bool(((deviation >= 0.5) & (deviation <= 1)).all())
    assert bool((torch.frexp(coordinates.scale).mantissa == 0.5).all())  # powers of two
    kept = centered_coordinates(dataclasses.replace(problem, intercept=False), Batch(features, labels, weight))
    assert not kept.center.any()  # without an intercept nothing is moved


@pytest.mark.parametrize("far", ["of the known coordinates", "of the own coordinates", "of the model"])
def test_rounding_of_an_intercept_counts_each_center(far: str) -> None:
    rows = MemoryRows(torch.randn(20, 2).double(), torch.arange(20) % 2)
    problem, zero, ones = problem_of(rows, Objective("bce", l2=1.0)), torch.zeros(2).double(), torch.ones(2).double()
    known_frame, own, model = (
        Coordinates(torch.full_like(zero, 1e6 * (far == name)), ones)
        for name in ("of the known coordinates", "of the own coordinates", "of the model")
    )
    point = torch.tensor([[3.0, -1.0, 0.0]]).double()
    evaluation = drive(request(Evaluate(problem, problem.model, point, torch.float64)), rows)
    known = EvaluatedPoint(
        dataclasses.replace(problem, model=model), known_frame, point, evaluation, zero.new_zeros(3), zero
    )
    of_intercept = 7 * UNIT_ROUNDOFF * 4e6
    gradient = evaluation.gradient.abs()
    stored = 4 * UNIT_ROUNDOFF * float((gradient * point.abs()).sum())
    expected = float(gradient[0, -1]) * of_intercept + stored + of_intercept**2 / 2
    assert conversion_rounding(known, own) == pytest.approx(expected, rel=1e-12)


def test_an_output_of_zero_logits_makes_no_saturated_value_better_known() -> None:
    rows = MemoryRows(torch.ones(4, 1).double(), torch.ones(4, dtype=torch.int64))
    errors = []
    for coef in ([1e10], [1e10, 0.0]):
        point = torch.tensor([[one, 0.0] for one in coef]).double()
        problem = problem_of(rows, Objective("bce", l2=1.0), 2 if len(coef) == 1 else 3)
        problem = dataclasses.replace(problem, num_outputs=len(coef))
        evaluation = drive(request(Evaluate(problem, problem.model, torch.zeros_like(point), torch.float64)), rows)
        evaluation = evaluation._replace(value=1e-12, loss=1e-12)
        known = EvaluatedPoint(
            problem, problem.model, point, evaluation, torch.ones(2).double(), torch.ones(2).double()
        )
        errors.append(known.value_error)
    assert errors[0] == pytest.approx(1e-12 * math.expm1(22 * UNIT_ROUNDOFF * 1e10), rel=1e-6)
    assert errors[0] <= errors[1] <= (1 + 1e-9) * errors[0]


def test_an_evaluation_in_hand_spares_a_pass_unless_it_is_saturated() -> None:
    rows = MemoryRows(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]).double(), torch.tensor([1, 0, 0, 1]))
    problem = problem_of(rows, Objective("bce", l2=0.1))
    evaluation = drive(request(Evaluate(problem, problem.model, problem.zeros(), torch.float64)), rows)
    assert list(bound(problem, problem.zeros(), evaluation)) == []  # 0 is the optimum
    rows = MemoryRows(rows.features, torch.tensor([1, 0, 1, 0]))
    point, small = torch.tensor([[40.0, 0.0]]).double(), math.exp(-40)
    problem = problem_of(rows, Objective("bce"))
    evaluation = drive(request(Evaluate(problem, problem.model, point, torch.float64)), rows)
    lost = evaluation._replace(value=0.0, loss=0.0, gradient=torch.zeros_like(point))
    found = drive(bound(problem, point, lost), rows)
    assert found.value == pytest.approx(small, rel=1e-12)
    assert found.gradient.tolist() == [pytest.approx([-small, 0.0], rel=1e-12)]


@pytest.mark.long
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("seeds", "size"), [(range(15), 2e4), pytest.param(range(125), 2e5, marks=pytest.mark.slow)])
def test_the_bound_is_at_least_the_true_gap_and_not_far_above_it(penalty: str, seeds: range, size: float) -> None:
    found = [one for seed in seeds for one in judged(penalty, seed, size)]
    assert not [one for one in found if one.rigorous and not one.bound >= one.gap - ROUNDING]
    assert np.median([one.bound / one.gap for one in found if one.gap > 10 * ROUNDING]) <= LOOSE
    optimal = [one for one in found if one.name.endswith("optimum") and one.gap <= ROUNDING]
    assert len(optimal) > 0.95 * len(seeds)
    assert not [one for one in optimal if not one.bound <= OPTIMAL]


@pytest.mark.parametrize(
    ("penalty", "seed"),
    [
        ("l2", 28),  # probabilities of 0 and 1 to the last digit: nothing can balance the residuals
        ("l2", 31),  # the same, where the penalty is nearly all of f
        ("l2", 91),  # nearly separated: the curvature by the intercepts is rounding along the direction of all
        ("l2", 112),  # the same, in scales of 1e-4 to 1e4
        ("none", 1),  # a constant column, the curvature of which is what rounding left
    ],
)
def test_problems_that_once_had_wrong_bounds(penalty: str, seed: int) -> None:
    found = list(judged(penalty, seed, 2e5))
    assert not [one for one in found if one.rigorous and not one.bound >= one.gap - ROUNDING]
    assert found[-1].bound <= OPTIMAL


@pytest.mark.parametrize("penalty", ["l2", "l1", "none"])
@pytest.mark.parametrize("size", [1e300, 1.7e308])
def test_an_objective_that_is_not_finite_has_an_infinite_bound(size: float, penalty: str) -> None:
    x = np.array([[size], [-size], [size], [1.0]])
    labels = torch.tensor([0, 1, 1, 0])
    rows = MemoryRows(torch.from_numpy(x), labels)
    objective = Objective("bce", l2=1e-3 * (penalty == "l2"), l1=1e-3 * (penalty == "l1"))
    found = bound_of(problem_of(rows, objective, 2), torch.tensor([[1e10, 1e300]], dtype=torch.float64), rows)
    assert found.gap == math.inf


def without_joint_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every softmax one of too many outputs for the matrix of second derivatives by its intercepts."""
    monkeypatch.setattr("logreg.solvers.passes.evaluate.MAX_JOINT_OUTPUTS", 1)
    monkeypatch.setattr("logreg.solvers.passes.evaluate.LARGEST_JOINT_OUTPUTS", 1)


@pytest.mark.long
@pytest.mark.parametrize("off", [0.0, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize(("signal", "l2"), [(1.0, 1e-2), (1.0, 1e-4), (4.0, 1e-3)])
def test_many_outputs_are_bounded_by_products_as_by_the_matrix(
    signal: float, l2: float, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(40, (1500,), generator=draw).square() // 40  # some classes have few rows
    features = signal * torch.randn(40, 15, generator=draw)[labels] + torch.randn(1500, 15, generator=draw)
    rows, objective = MemoryRows(features.double(), labels), Objective("cross_entropy", l2=l2)
    problem = problem_of(rows, objective, 40)
    best = fit(rows.features, labels, objective, 40, tolerance=1e-8)  # a point that the problem determines
    point = torch.cat([best.coef, best.intercept.unsqueeze(1)], dim=1)
    point[:, -1] += off * torch.randn(40, generator=draw, dtype=torch.float64)
    by_matrix = bound_of(problem, point, rows)
    without_joint_curvature(monkeypatch)
    by_products = bound_of(problem, point, rows)
    assert by_products.rigorous
    assert by_products.value == pytest.approx(by_matrix.value, rel=1e-13)
    assert by_products.gap <= 2 * (by_matrix.gap + by_matrix.rounding)


@pytest.mark.long
@pytest.mark.parametrize("penalty", ["l2", "l1", "elastic net"])
def test_bounds_by_products_hold(penalty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logreg.solvers.bounds.bound.forms_hessian", lambda problem: False)  # else curvature decides
    without_joint_curvature(monkeypatch)
    seeds = [seed for seed in range(80) if drawn(penalty, seed, 2e4)[2].loss == "cross_entropy"][:8]
    found = [one for seed in seeds for one in judged(penalty, seed, 2e4)]
    assert len(found) >= 40
    assert [one for one in found if not (one.rigorous and one.bound >= one.gap - ROUNDING)] == []
    ratios = [one.bound / one.gap for one in found if one.gap > 1e-6]
    assert float(np.median(ratios)) < LOOSE


ADVERSARIAL = 2.0**53
"""A feature of one row, to which 1 is lost where it is added: the features of all other rows are 1."""


def adversarial_rows(kind: str) -> MemoryRows:
    """Rows whose sums have nearly the largest rounding error that any order of additions allows."""
    features = torch.ones(1500, 5, dtype=torch.float64)
    features[0] = ADVERSARIAL
    labels = torch.ones(len(features), dtype=torch.int64)
    return MemoryRows(of_scipy(csr_array(features.numpy())) if kind == "sparse" else features, labels)


class SmallBlocks:
    """A `RowSource` of the same rows in blocks of few rows."""

    def __init__(self, rows: MemoryRows, size: int) -> None:
        self._rows, self._size = rows, size
        self.num_rows, self.num_features, self.is_sparse = rows.num_rows, rows.num_features, rows.is_sparse
        self.may_be_held, self.processes = True, None

    def blocks(self, every: int = 1) -> Iterator[Batch]:
        """The rows in order."""
        for block in self._rows.blocks(every):
            yield from parts(block, self._size)


@pytest.mark.long
@pytest.mark.parametrize("block_rows", [100_000, 1])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("precisely", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_error_of_sums_over_the_rows_is_within_its_bound(
    classes: int, precisely: bool, kind: str, block_rows: int
) -> None:
    memory = adversarial_rows(kind)
    rows = SmallBlocks(memory, block_rows)
    problem = problem_of(memory, Objective("bce" if classes == 2 else "cross_entropy"), classes, dtype=torch.float64)
    at = problem.zeros()  # where all logits are 0, each row has the same residuals
    if precisely:
        evaluation = drive(request(EvaluatePrecisely(problem, problem.model, at)), rows).evaluation
    else:
        evaluation = drive(request(Evaluate(problem, problem.model, at, torch.float64)), rows)
    known = EvaluatedPoint(problem, problem.model, at, evaluation, torch.ones(6).double(), torch.ones(6).double())
    exact = Fraction(ADVERSARIAL) + memory.num_rows - 1
    residuals = {2: [Fraction(-1, 2)], 3: [Fraction(1, 3), Fraction(-2, 3), Fraction(1, 3)]}[classes]
    errors = [
        abs(Fraction(found) * memory.num_rows / (exact * residual) - 1)
        for of_output, residual in zip(evaluation.gradient[:, :-1].tolist(), residuals, strict=True)
        for found in of_output
    ]
    assert max(errors) <= known.accumulated
    fewest = 512 + 1500 // 512 + 1 if kind == "dense" and block_rows > 1 else 1500
    assert known.accumulated == pytest.approx((fewest + 20) * UNIT_ROUNDOFF)


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_a_bound_covers_the_sums_of_a_dual_point_that_are_lost(penalty: str) -> None:
    memory = adversarial_rows("dense")
    half = torch.arange(memory.num_rows) % 2
    rows = MemoryRows(memory.features * (2 * half - 1).unsqueeze(1), half)
    strength = Objective("bce", l2=ADVERSARIAL) if penalty == "l2" else Objective("bce", l1=ADVERSARIAL)
    problem = problem_of(rows, strength, 2, intercept=False)
    at = problem.zeros()
    evaluation = drive(request(Evaluate(problem, problem.model, at, torch.float64)), rows)
    sums = drive(request(DualObjective(problem, problem.model, at, at[:, -1])), rows).moments[0, :-1]
    known = EvaluatedPoint(problem, problem.model, at, evaluation, torch.ones(6).double(), torch.ones(6).double())
    exact = -(Fraction(ADVERSARIAL) + memory.num_rows - 1) / 2 / memory.num_rows
    for found in (sums, evaluation.gradient[0, :-1]):
        assert max(abs(Fraction(one) / exact - 1) for one in found.tolist()) <= known.accumulated


@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
def test_the_search_for_an_intercept_without_an_optimum_ends_in_a_few_passes(loss: str) -> None:
    features, labels = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).double(), torch.arange(60) % 3
    memory = MemoryRows(features, labels, (labels == 1).double())  # all rows that weigh are of one class
    problem = problem_of(memory, Objective(loss, l2=1e-3), 3)
    state, kinds = SolverState(problem, problem.zeros()), []
    for requested in certified(state, None, cheaply=True):
        run_pass(memory, requested)
        kinds.append(type(requested).__name__)
    assert kinds.count("EvaluatePrecisely") <= 5  # the intercepts move by 1 at each
    assert state.bound is not None
    assert state.bound.gap == pytest.approx(state.bound.value)  # f itself, since f* >= 0
