"""The cost model of the benchmarks: it recovers its constants, agrees with the solvers' costs, and simulates."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from logreg.losses.objective import Objective
from logreg.shared_memory import SLOT_NUMBERS
from logreg.solvers.costs import SECONDS_PER_PASS, hessian_seconds, pass_seconds
from logreg.solvers.problem import Coordinates, Problem

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("cost_model")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("processes")


def _cluster(model: Any, machines: int) -> Any:
    return model.Cluster(
        machines,
        cores=16,
        memory=2e11,
        memory_bandwidth=1e11,
        storage_bandwidth=2e9,
        network_bandwidth=1.25e9,
        latency=5e-5,
    )


def _problem(rows: int, features: int, outputs: int, nonzeros: int | None) -> Problem:
    ones = torch.ones(features, dtype=torch.float64)
    objective = Objective("bce" if outputs == 1 else "cross_entropy")
    numbers = None if nonzeros is None else rows * nonzeros
    return Problem(objective, rows, float(rows), outputs, Coordinates(0 * ones, ones), nonzeros=numbers)


def test_the_constants_of_made_up_times_are_recovered(model: Any, benchmark: Any) -> None:
    draw = np.random.default_rng(0)
    true = {unit: seconds * math.exp(draw.normal()) for unit, seconds in model.ASSUMED.items()}
    true["sparse row"] = 2e-8
    measured = [
        model.Measured(work, processes, model.seconds_of(model.scaled_units(work, processes, 2, 0.1), true))
        for work in benchmark.FITTED
        for processes in (1, 2, 4)
        if processes > 1 or not work.is_message
    ]
    found, slowdown = model.fitted(measured, cores=2)
    assert found == pytest.approx(true, rel=1e-3)
    assert slowdown == pytest.approx(0.1, abs=1e-4)
    noisy = [one._replace(seconds=one.seconds * math.exp(0.05 * draw.normal())) for one in measured]
    found, slowdown = model.fitted(noisy, cores=2)
    for work in benchmark.CHECKED:
        for processes in (2, 4):
            units = model.scaled_units(work, processes, 2, slowdown)
            exact = model.seconds_of(model.scaled_units(work, processes, 2, 0.1), true)
            assert model.seconds_of(units, found) == pytest.approx(exact, rel=0.1)


def test_what_is_compared_is_not_fitted(benchmark: Any) -> None:
    assert not set(benchmark.FITTED) & set(benchmark.CHECKED)


@pytest.mark.parametrize(
    ("rows", "features", "outputs", "nonzeros"), [(1000, 20, 1, None), (5000, 7, 3, None), (300, 60, 2, 4)]
)
def test_the_times_of_one_process_are_those_that_solvers_assume(
    model: Any, rows: int, features: int, outputs: int, nonzeros: int | None
) -> None:
    work = model.Work("gradient", rows, features, outputs, nonzeros)
    problem = _problem(rows, features, outputs, nonzeros)
    assert model.seconds_of(work.units(1), model.ASSUMED) == pytest.approx(pass_seconds(problem), rel=1e-12)
    hessian = model.seconds_of(work._replace(kind="hessian").units(1), model.ASSUMED) + model.factor_seconds(work)
    assert hessian == pytest.approx(pass_seconds(problem) + hessian_seconds(problem) - SECONDS_PER_PASS, rel=1e-12)


def test_work_is_shared_and_messages_grow(model: Any) -> None:
    work = model.Work("gradient", 10**9, 100)
    sizes = [2, 8, 64, 1024]
    clusters = [_cluster(model, size) for size in sizes]
    working = [one.work_seconds(work, model.ASSUMED) for one in clusters]
    ring = [one.reduce_seconds(work, model.ring_rounds(one.machines)) for one in clusters]
    halving = [one.reduce_seconds(work, model.halving_rounds(one.machines)) for one in clusters]
    gathering = [one.gather_seconds(100) for one in clusters]
    assert working == sorted(working, reverse=True)
    for growing in (ring, halving, gathering):
        assert growing == sorted(growing)
    assert ring[0] == halving[0]  # two processes send two messages either way
    assert all(one > other for one, other in zip(ring[1:], halving[1:], strict=True))


def test_rows_beyond_memory_are_read_from_the_disk(model: Any) -> None:
    work = model.Work("gradient", 10**9, 100)  # 400 GB
    assert _cluster(model, 1).work_seconds(work, model.ASSUMED) == pytest.approx(400e9 / 2e9)
    held = _cluster(model, 4)
    assert held.work_seconds(work, model.ASSUMED) == pytest.approx(100e9 / 1e11)
    slow = {unit: 100 * seconds for unit, seconds in model.ASSUMED.items()}  # then the cores take longer than reading
    of_one = model.seconds_of({**work.units(4), "meeting": 0, "copied byte": 0}, slow)
    assert held.work_seconds(work, slow) == pytest.approx(of_one / 16)


def test_more_processes_than_cores_take_turns(model: Any) -> None:
    work = model.Work("gradient", 1000, 10)
    assert model.scaled_units(work, 4, 2)["number"] == model.scaled_units(work, 2, 2)["number"] == 5000
    assert model.scaled_units(work, 4, 2)["meeting"] == 2 * model.MEETINGS
    switches = {size: model.scaled_units(work, size, 2)["switch"] for size in (1, 2, 4)}
    assert switches == {1: 0, 2: 0, 4: model.MEETINGS}
    assert model.scaled_units(model.Work("all-reduce", 0, 10), 4, 2)["round"] == 2 * model.ring_rounds(4) == 12


def test_processes_that_take_turns_do_not_slow_each_other(model: Any) -> None:
    work = model.Work("gradient", 1000, 10)
    sizes = (1, 2, 4, 8)
    slowed = [model.scaled_units(work, size, 4, 0.1)["number"] for size in sizes]
    assert slowed == pytest.approx([10_000, 5000 * 1.1, 2500 * 1.2, 2500 * 1.2])


def test_processes_meet_for_each_part_of_a_sum_that_fits_into_a_slot(model: Any) -> None:
    for numbers, parts in ((1, 1), (SLOT_NUMBERS, 1), (SLOT_NUMBERS + 1, 2), (300_000, 3)):
        units = model.scaled_units(model.Work("sum", 0, numbers), 4, 2)
        assert units["meeting"] == 2 * model.MEETINGS * parts
        assert units["switch"] == model.MEETINGS * parts
        assert units["copied byte"] == 2 * 8 * numbers


def test_one_triangle_of_a_large_hessian_is_computed(model: Any) -> None:
    assert model.Work("hessian", 1, 99).gram_products == 100**2  # one strip
    assert model.Work("hessian", 1, 255).gram_products == 256 * 128 + 128 * 128
    large = model.Work("hessian", 1, 12_799).gram_products
    assert large == pytest.approx(12_800**2 / 2, rel=0.02)


@pytest.mark.parametrize("processes", [8, 1024])
def test_the_slowest_process_is_that_of_order_statistics(model: Any, processes: int) -> None:
    def term(z: float) -> float:
        return float(processes * norm.pdf(z) * norm.cdf(z) ** (processes - 1) * math.exp(0.1 * z))

    assert model.slowest(processes, 0.1, passes=4000) == pytest.approx(quad(term, -10, 10, limit=200)[0], rel=0.005)


def test_simulated_failures_agree_with_the_formulas(model: Any) -> None:
    run = model.Failures(work=86_400.0, checkpoint=5.0, restart=300.0, between=30_000.0)
    best, draw = run.young_interval, np.random.default_rng(0)
    assert best == pytest.approx(math.sqrt(2 * 5 * 30_000))
    means = [np.mean([run.simulated(interval, draw) for _ in range(2000)]) for interval in (best / 10, best, 10 * best)]
    for mean, interval in zip(means, (best / 10, best, 10 * best), strict=True):
        assert mean == pytest.approx(run.expected(interval), rel=0.05)
    assert means[1] == min(means)


def test_without_failures_a_run_takes_its_work_and_its_checkpoints(model: Any) -> None:
    run = model.Failures(work=100.0, checkpoint=1.0, restart=10.0, between=1e12)
    assert run.simulated(40.0, np.random.default_rng(0)) == pytest.approx(103.0)
    always = replace(run, between=50.0)
    assert always.simulated(10.0, np.random.default_rng(0)) > 110.0
