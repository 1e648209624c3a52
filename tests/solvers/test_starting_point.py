"""The start of an exact optimizer: from a sample, and the limits of a held Hessian."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers import starting_point
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.methods.newton import newton
from logreg.solvers.passes.base import drive, request
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.problem import Coordinates, Problem, choose_coordinates
from logreg.solvers.starting_point import curvature_growth, enough_rows, stable_step, start
from logreg.solvers.state import SolverState
from reference import correlated_rows


def stated() -> tuple[Problem, Batch]:
    """A problem of 400 rows whose features have means and deviations of several sizes, and its rows."""
    draw = torch.Generator().manual_seed(400)
    features = torch.randn(400, 4, generator=draw, dtype=torch.float64)
    features = features * torch.tensor([1e-3, 1.0, 5.0, 2e4]).double() + torch.tensor([1.0, 0.0, -7.0, 1e5]).double()
    labels = torch.arange(400) % 2
    return problem_of(MemoryRows(features, labels), Objective("bce", l2=0.1)), Batch(features, labels)


@pytest.mark.parametrize(("loss", "classes"), [("bce", 2), ("cross_entropy", 4)])
def test_the_stable_step_is_one_over_the_largest_curvature_at_zero(loss: str, classes: int) -> None:
    # With orthogonal columns the largest eigenvalue of the curvature at zero is that of the largest column.
    problem, sample = stated()
    problem = replace(problem, objective=Objective(loss), num_outputs=1 if classes == 2 else classes)
    columns = torch.linalg.qr(sample.features - sample.features.mean(0)).Q * torch.tensor([9.0, 3.0, 2.0, 1.0]).double()
    sample = sample._replace(features=columns + 5)
    coordinates = choose_coordinates(problem, sample, every_scale=True)
    coordinates = coordinates._replace(scale=torch.ones(4).double())
    spread = 0.25 if classes == 2 else (1 / 4) * (3 / 4)
    assert stable_step(problem, coordinates, sample) == pytest.approx(400 / (spread * 81), rel=1e-3)


@pytest.mark.parametrize("features", [30, 200])
def test_stochastic_descent_finds_a_start_where_features_are_correlated(features: int) -> None:
    draw = torch.Generator().manual_seed(3)
    coef, common = torch.randn(features, 40, generator=draw), torch.randn(6000, 1, generator=draw)
    for shared, expected in ((0.0, False), (1.0, True)):
        rows = torch.randn(6000, features, generator=draw) + shared * common
        memory = MemoryRows(rows, (rows @ coef).argmax(1))
        problem = problem_of(memory, Objective("cross_entropy", l2=1e-3), 40)
        state = SolverState(problem, problem.zeros())
        drive(start(state, newton), memory)
        assert bool(state.point.any()) == expected


def test_the_curvature_of_many_classes_grows_from_zero_to_the_frequencies_of_the_classes() -> None:
    problem, sample = stated()
    assert curvature_growth(problem, sample) == 1.0  # the curvature of the logistic loss is largest at zero
    many = replace(problem, objective=Objective("cross_entropy", l2=0.1), num_outputs=50)
    even = sample._replace(labels=torch.arange(400) % 50)
    assert curvature_growth(many, even) == pytest.approx(1.0)
    one = even._replace(labels=torch.where(torch.arange(400) < 80, 0, 1 + torch.arange(400) % 48))  # one has no row
    assert curvature_growth(many, one) == pytest.approx(0.2 * 0.8 / (0.02 * 0.98))
    doubled = one._replace(sample_weight=torch.where(one.labels == 0, 4.0, 1.0))
    assert curvature_growth(many, doubled) == pytest.approx(0.5 * 0.5 / (0.02 * 0.98))


def test_stochastic_steps_are_shorter_by_the_growth_of_the_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def recorded(problem: Problem, coordinates: Coordinates, rows: Batch, step: float, number: int) -> Tensor:
        steps.append(step)
        return problem.zeros()

    monkeypatch.setattr(starting_point, "stochastic_descent", recorded)
    for growth in (1.0, 3.0):
        monkeypatch.setattr(starting_point, "curvature_growth", lambda problem, sample, growth=growth: growth)
        problem, sample = stated()
        memory = MemoryRows(*sample)
        drive(starting_point._start_stochastically(SolverState(problem, problem.zeros()), sample), memory)
    assert steps[0] == pytest.approx(3 * steps[1])


def test_many_features_have_the_mean_of_all_rows_and_not_that_of_a_few() -> None:
    draw = torch.Generator().manual_seed(5)
    rows = torch.randn(4000, 2000, generator=draw) + 3
    memory = MemoryRows(rows, torch.arange(4000) % 2)
    problem = problem_of(memory, Objective("bce", l2=1e-3))
    state = SolverState(problem, problem.zeros())
    drive(start(state, newton), memory)
    torch.testing.assert_close(state.coordinates.center, rows.double().mean(0), rtol=1e-5, atol=0)


def shaped(rows: int, features: int, outputs: int = 1, loss: str = "bce") -> Problem:
    """A problem of a shape, with l2."""
    ones = torch.ones(features).double()
    problem = replace(stated()[0], rows=rows, num_outputs=outputs, objective=Objective(loss, l2=1.0))
    return replace(problem, model=problem.model._replace(center=ones, scale=ones))


def test_a_sample_is_enough_where_it_is_a_small_part_of_the_rows_with_several_for_each_parameter() -> None:
    def enough(problem: Problem, rows: int, rare: int = 2) -> tuple[int, int]:
        classes = max(problem.num_outputs, 2) if problem.coupled else 2
        labels = torch.arange(rows) % classes
        if rare > 2:
            labels = (torch.arange(rows) % rare == 0).long()
        return enough_rows(problem, Batch(torch.zeros(rows, 1), labels))

    assert [enough(shaped(10**6, 99), rows)[0] for rows in (1999, 2000, 10_000)] == [0, 2000, 2000]
    assert enough(shaped(10**6, 99), 10_000) == (2000, 10_000)  # the Hessian takes more
    assert enough(shaped(10**6, 99), 10_000, rare=8) == (4000, 10_000)  # half as many of the rare class as if even
    assert [enough(shaped(rows, 99), 10_000)[0] for rows in (7999, 8000)] == [0, 2000]  # a quarter at most
    assert [enough(shaped(10**6, 99, 3), rows)[0] for rows in (1999, 2000)] == [0, 2000]  # outputs are independent
    softmax = shaped(10**6, 99, 3, "cross_entropy")
    assert [enough(softmax, rows) for rows in (2399, 2400, 10_000)] == [(0, 0), (2400, 2400), (6000, 10_000)]
    expensive = shaped(60_000, 20, 16, "cross_entropy")  # its Hessian takes no more rows than necessary
    assert enough(expensive, 15_000) == (8 * 16 * 21, 8 * 16 * 21)
    assert enough(shaped(100_000, 40, 20, "cross_entropy"), 25_000) == (0, 0)  # even of these it takes some passes
    assert enough(shaped(10_000, 4), 2500) == (0, 0)  # a pass over all rows takes no longer
    assert enough(shaped(10**6, 10), 10_000) == (10_000, 10_000)  # a Hessian is cheap


@pytest.mark.parametrize("rare", [False, True])
def test_a_start_from_a_sample_is_improved_by_a_step_with_the_gradient_of_more_rows(
    rare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = correlated_rows(160_000, 6, 2)
    if rare:  # a column that is almost constant in the sample
        features = torch.cat([features, (torch.arange(160_000) % 32_000 == 0).float().unsqueeze(1)], dim=1)
    memory = MemoryRows(features, labels)
    monkeypatch.setattr("logreg.solvers.passes.sampling.part_rows", lambda *_: 4000)
    problem = problem_of(memory, Objective("bce", l2=1e-4))
    best = fit(features, labels, problem.objective, tolerance=1e-8).bound.value
    excess = []
    for more in (8, 10**6):
        monkeypatch.setattr("logreg.solvers.starting_point.EXTRA_ROWS_DIVISOR", more)
        state = SolverState(problem, problem.zeros())
        drive(start(state, newton), memory)
        excess.append(drive(request(Evaluate(problem, state.coordinates, state.point)), memory).value - best)
        assert not rare or float(state.solution[0, 6]) == 0
    assert excess[0] < excess[1] / 2


@pytest.mark.parametrize("without", ["a class", "any weight"])
def test_a_sample_without_a_class_or_any_weight_leaves_a_good_start(without: str) -> None:
    features, _ = correlated_rows(160_000, 2, 2)
    number = torch.arange(len(features))
    drawn_ones = number % 11 == 0  # the sample
    labels = ((number % 7999 == 1) & ~drawn_ones if without == "a class" else number % 2 == 0).long()
    weights = (~drawn_ones).double() if without == "any weight" else None
    memory = MemoryRows(features, labels, weights)
    problem = problem_of(memory, Objective("bce", l2=1e-4), 2)
    state = SolverState(problem, problem.zeros())
    drive(start(state, newton), memory)
    there = drive(request(Evaluate(problem, state.coordinates, state.point, torch.float64)), memory).value
    zero = drive(request(Evaluate(problem, problem.model, problem.zeros(), torch.float64)), memory).value
    assert there <= zero
