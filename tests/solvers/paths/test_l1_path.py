"""A path over l1 has the optima of separate fits."""

from __future__ import annotations

import pytest
import torch

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.passes.base import drive
from logreg.solvers.paths.l1_path import fit_elastic_net_path
from logreg.solvers.paths.l2_path import Strength


@pytest.mark.parametrize(("classes", "loss"), [(2, "bce"), (3, "bce"), (3, "cross_entropy")])
@pytest.mark.parametrize("features", [20, 120])
def test_each_point_is_the_optimum_of_its_strength(features: int, classes: int, loss: str) -> None:
    draw = torch.Generator().manual_seed(classes)
    x = torch.randn(200, features, generator=draw, dtype=torch.float64) + 1
    logits = x[:, :4] @ torch.randn(4, classes, generator=draw, dtype=torch.float64)
    y = (logits + torch.rand(logits.shape, generator=draw).logit()).argmax(1)
    memory, strengths = MemoryRows(x, y), [Strength(l1=l1) for l1 in (0.3, 0.1, 0.03, 0.01, 0.003)]
    problem = problem_of(memory, Objective(loss), classes)
    points = drive(fit_elastic_net_path(problem, strengths, tolerance=1e-8), memory)
    assert [Strength(point.l2, point.l1) for point in points] == strengths
    for point in points:
        alone = fit(x, y, Objective(loss, l1=point.l1), classes, tolerance=1e-8)
        assert point.converged
        assert point.bound.rigorous
        assert point.bound.value == pytest.approx(alone.bound.value, rel=2e-8)
        torch.testing.assert_close(point.point[:, :-1], alone.coef, rtol=0, atol=3e-3)
    assert not points[0].point[:, :-1].any()


@pytest.mark.long
def test_a_step_along_the_path_takes_few_passes() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 500, generator=draw, dtype=torch.float64)
    y = (x[:, 0] - x[:, 1] + torch.randn(300, generator=draw) > 0).long()
    memory = MemoryRows(x, y)
    strengths = [Strength(l1=l1) for l1 in torch.logspace(-0.8, -2, 40).tolist()]
    points = drive(fit_elastic_net_path(problem_of(memory, Objective("bce")), strengths), memory)
    assert all(point.converged for point in points)
    assert sum(point.passes for point in points) <= 3 * len(points)
