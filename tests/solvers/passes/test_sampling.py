"""The coordinates that a sample of the rows gives, and a batch of stochastic gradient descent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of
from logreg.solvers.passes.base import drive
from logreg.solvers.passes.sampling import sampled_rows, stochastic_descent
from logreg.solvers.problem import MAX_COPIED_NUMBERS, Problem, choose_coordinates


def stated(rows: int = 400, weighted: bool = False) -> tuple[Problem, Batch]:
    """A problem whose features have means and deviations of several sizes, and its rows."""
    draw = torch.Generator().manual_seed(rows)
    features = torch.randn(rows, 4, generator=draw, dtype=torch.float64)
    features = features * torch.tensor([1e-3, 1.0, 5.0, 2e4]).double() + torch.tensor([1.0, 0.0, -7.0, 1e5]).double()
    weight = torch.arange(rows).double() % 3 if weighted else None
    labels = torch.arange(rows) % 2
    return problem_of(MemoryRows(features, labels, weight), Objective("bce", l2=0.1)), Batch(features, labels, weight)


@pytest.mark.parametrize("weighted", [False, True])
def test_coordinates_have_the_means_and_deviations_of_the_sample(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    torch.testing.assert_close(fixed.scale, there.square().mean(0).sqrt())  # from 0


@pytest.mark.parametrize("stride", [2, 3, 7])
def test_a_sample_has_rows_that_weigh_however_few_they_are(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, rows = stated(stride * 60)
    monkeypatch.setattr("logreg.solvers.passes.sampling.part_rows", lambda *_: 60)  # one row of so many is in a sample
    for first in range(stride):  # one row of so many weighs, or all others do
        one = (torch.arange(problem.rows) % stride == first).double()
        for weight in (one, 1 - one):
            sample = drive(sampled_rows(problem), MemoryRows(rows.features, rows.labels, weight))
            assert sample.sample_weight is not None
            assert 30 <= len(sample.labels) <= 60
            assert bool((sample.sample_weight == 1).all())


@pytest.mark.parametrize("block_rows", [7, 400])
def test_a_sample_is_spread_over_all_rows(block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logreg.solvers.passes.sampling.part_rows", lambda *_: 110)
    problem, rows = stated(400)
    memory = MemoryRows(*rows)
    memory.block_rows = block_rows
    assert torch.equal(drive(sampled_rows(problem), memory).features, rows.features[::4])


def test_a_sample_of_rows_in_pairs_has_both_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logreg.solvers.passes.sampling.part_rows", lambda *_: 40)
    problem, rows = stated(400)  # one of two rows is of class 1
    assert drive(sampled_rows(problem), MemoryRows(*rows)).labels.bincount().tolist() == [19, 18]
    monkeypatch.setattr("logreg.solvers.passes.sampling.part_rows", lambda *_: 16)
    weight = (torch.arange(400) // 2 % 4 == 0).double()  # too few of the first sample, so that a second one follows
    sample = drive(sampled_rows(problem), MemoryRows(rows.features, rows.labels, weight))
    assert sample.labels.bincount().tolist() == [4, 4]


@pytest.mark.parametrize("weighted", [False, True])
def test_one_batch_of_stochastic_descent_is_a_step_along_the_gradient(weighted: bool) -> None:
    problem, rows = stated(200, weighted)
    coordinates = choose_coordinates(problem, rows, every_scale=True)
    problem = replace(problem, dtype=torch.float64)
    moved = stochastic_descent(problem, coordinates, rows, 0.3, steps=2)
    x = (rows.features - coordinates.center) / coordinates.scale
    weight = torch.ones(200).double() if rows.sample_weight is None else rows.sample_weight
    x, point = torch.cat([x, torch.ones(200, 1).double()], dim=1), torch.zeros(5).double()
    for length in (0.3, 0.15):  # two steps on one batch: their length falls as a cosine
        residuals = (torch.sigmoid(x @ point) - rows.labels) * weight / weight.sum()
        point = point - length * (residuals @ x + problem.penalties(coordinates)[0] * point)
    torch.testing.assert_close(moved[0], point, rtol=1e-10, atol=1e-12)


def column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def test_a_column_without_deviation_keeps_its_unit() -> None:
    problem, sample = stated()
    coordinates = choose_coordinates(
        problem, sample._replace(features=column([3.0] * 400).expand(-1, 4)), every_scale=True
    )
    assert torch.equal(coordinates.scale, torch.ones(4).double())
    assert torch.equal(coordinates.center, torch.full((4,), 3.0).double())
