"""What a pass is made of: frames, samples, blocks and threads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of
from logreg.solvers.passes.base import drive, request
from logreg.solvers.passes.sampling import Stochastic
from logreg.solvers.problem import MAX_COPIED_NUMBERS, Problem, choose_coordinates
from logreg.solvers.starting_point import enough_rows, holds_hessian, safe_step
from logreg.solvers.threads import threads_for


def stated(rows: int = 400, weighted: bool = False) -> tuple[Problem, Batch]:
    """A problem whose features have means and deviations of several sizes, and its rows."""
    draw = torch.Generator().manual_seed(rows)
    features = torch.randn(rows, 4, generator=draw, dtype=torch.float64)
    features = features * torch.tensor([1e-3, 1.0, 5.0, 2e4]).double() + torch.tensor([1.0, 0.0, -7.0, 1e5]).double()
    weight = torch.arange(rows).double() % 3 if weighted else None
    labels = torch.arange(rows) % 2
    return problem_of(MemoryRows(features, labels, weight), Objective("bce", l2=0.1)), Batch(features, labels, weight)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_frame_has_the_means_and_deviations_of_the_sample(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logreg.solvers.problem.MAX_COPIED_NUMBERS", 40)  # ten rows at a time
    assert MAX_COPIED_NUMBERS > 40
    problem, sample = stated(weighted=weighted)
    there = sample.features if sample.sample_weight is None else sample.features[sample.sample_weight > 0]
    deviation = there.std(0, correction=0)
    coordinates = choose_coordinates(problem, sample, every_scale=True)
    torch.testing.assert_close(coordinates.center, there.mean(0))
    torch.testing.assert_close(coordinates.scale, deviation)
    coarse = choose_coordinates(problem, sample, every_scale=False)
    torch.testing.assert_close(coarse.scale, deviation.clamp(min=float(deviation.median())))
    fixed = choose_coordinates(replace(problem, intercept=False), sample, every_scale=True)
    assert not fixed.center.any()
    torch.testing.assert_close(fixed.scale, deviation)


def test_little_work_is_done_by_one_thread_and_no_setting_is_left_behind() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with threads_for(1e3):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with threads_for(1e12):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("weighted", [False, True])
def test_one_batch_of_stochastic_descent_is_a_step_along_the_gradient(weighted: bool) -> None:
    problem, rows = stated(200, weighted)
    coordinates = choose_coordinates(problem, rows, every_scale=True)
    problem = replace(problem, dtype=torch.float64)
    point = torch.randn(1, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = drive(request(Stochastic(problem, coordinates, point, 0.3)), MemoryRows(*rows))
    x = (rows.features - coordinates.center) / coordinates.scale
    weight = torch.ones(200).double() if rows.sample_weight is None else rows.sample_weight
    residuals = (torch.sigmoid(x @ point[0, :-1] + point[0, -1]) - rows.labels) * weight / weight.sum()
    gradient = torch.cat([residuals @ x, residuals.sum().unsqueeze(0)]) + problem.penalties(coordinates)[0] * point[0]
    torch.testing.assert_close(moved[0], point[0] - 0.3 * gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("loss", "classes"), [("bce", 2), ("cross_entropy", 4)])
def test_the_safe_step_is_one_over_the_largest_curvature_at_zero(loss: str, classes: int) -> None:
    # With orthogonal columns the largest eigenvalue of the curvature at zero is that of the largest column.
    problem, sample = stated()
    problem = replace(problem, objective=Objective(loss), num_outputs=1 if classes == 2 else classes)
    columns = torch.linalg.qr(sample.features - sample.features.mean(0)).Q * torch.tensor([9.0, 3.0, 2.0, 1.0]).double()
    sample = sample._replace(features=columns + 5)
    coordinates = choose_coordinates(problem, sample, every_scale=True)
    coordinates = coordinates._replace(scale=torch.ones(4).double())
    spread = 0.25 if classes == 2 else (1 / 4) * (3 / 4)
    assert safe_step(problem, coordinates, sample) == pytest.approx(400 / (spread * 81), rel=1e-3)


def test_a_sample_is_enough_where_it_is_a_small_part_of_the_rows_with_twenty_for_each_parameter() -> None:
    problem, sample = stated()  # D + 1 = 5 parameters: 100 rows are enough

    def enough(problem: Problem, rows: int) -> bool:
        return enough_rows(problem, sample._replace(labels=sample.labels[:rows]))

    assert [enough(problem, rows) for rows in (99, 100, 101)] == [False, True, False]  # 400 / 4 at most
    several = replace(problem, num_outputs=3, rows=10_000)
    assert [enough(several, rows) for rows in (99, 100)] == [False, True]  # outputs are independent
    softmax = replace(several, objective=Objective("cross_entropy"))
    assert [enough(softmax, rows) for rows in (299, 300)] == [False, True]


def test_a_hessian_is_held_up_to_1024_parameters_that_depend_on_each_other() -> None:
    def holds(features: int, outputs: int, loss: str, rows: int = 10_000) -> bool:
        zeros = torch.zeros(features).double()
        problem = replace(stated()[0], rows=rows, num_outputs=outputs)
        model = problem.model._replace(center=zeros, scale=zeros + 1)
        return holds_hessian(replace(problem, model=model, objective=Objective(loss, l2=1.0)))

    assert holds(1023, 10, "bce")
    assert not holds(1024, 10, "bce")
    assert holds(255, 4, "cross_entropy")
    assert not holds(256, 4, "cross_entropy")
    assert not holds(100, 1, "bce", rows=100)  # fewer rows than parameters
    assert not holds(500, 1, "bce", rows=10**6)  # too much work


def column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def test_a_column_without_deviation_keeps_its_unit() -> None:
    problem, sample = stated()
    coordinates = choose_coordinates(
        problem, sample._replace(features=column([3.0] * 400).expand(-1, 4)), every_scale=True
    )
    assert torch.equal(coordinates.scale, torch.ones(4).double())
    assert torch.equal(coordinates.center, torch.full((4,), 3.0).double())
