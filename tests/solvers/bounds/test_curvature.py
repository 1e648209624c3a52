"""Bounds by curvature, from a Hessian at the point and from one nearby."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.bounds.base import EvaluatedPoint, evaluated_point
from logreg.solvers.bounds.curvature import (
    InverseHessianNorms,
    _blocks,
    _spectrum,
    bound_by_curvature,
    bound_by_held_hessian,
    diagonal_roots,
    inverse_hessian_norms,
)
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.passes.base import drive, request
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.passes.precise import UNIT_ROUNDOFF, EvaluatePrecisely, RowNormBounds, RowNorms, accumulated
from logreg.solvers.problem import Coordinates
from logreg.solvers.steps.newton_steps import FactoredHessian, factor_hessian

LOOSE = 10.0
"""Largest median of bound over true gap."""


@pytest.mark.parametrize("intercept", [True, False])
def test_the_norms_of_a_diagonal_hessian_are_those_of_its_entries(intercept: bool) -> None:
    rows = MemoryRows(torch.randn(50, 2).double(), torch.arange(50) % 2)
    problem = problem_of(rows, Objective("bce", l2=1.0), intercept=intercept)
    diagonal = torch.tensor([4.0, 100.0, 1.0 if intercept else 0.0]).double()
    matrices = torch.diag(diagonal).unsqueeze(0)
    factored_hessian = FactoredHessian(matrices, matrices.sqrt(), 0.0)
    size = diagonal_roots(factored_hessian, 1)
    torch.testing.assert_close(size, torch.tensor([2.0, 10.0, 1.0]).double())
    found = inverse_hessian_norms(problem, factored_hessian, size, RowNormBounds(5.0, 2.0, 0.0, 0.0))
    assert found is not None  # in these units each curvature is 1, but for that of an absent intercept
    torch.testing.assert_close(found.rows, torch.tensor([5.0]).double())
    of_half = inverse_hessian_norms(problem, factored_hessian, size / 2, RowNormBounds(5.0, 2.0, 0.0, 0.0))
    assert of_half is not None
    torch.testing.assert_close(of_half.rows, torch.tensor([5.0 / 4]).double())


def test_a_gradient_that_is_not_finite_has_no_bound_by_curvature() -> None:
    rows = MemoryRows(torch.randn(30, 2).double(), torch.arange(30) % 2)
    problem = problem_of(rows, Objective("bce", l2=0.1))
    coordinates, at = problem.model, problem.zeros()
    measured = drive(request(EvaluatePrecisely(problem, coordinates, at, hessian=True)), rows)
    lost = measured._replace(evaluation=measured.evaluation._replace(gradient=torch.full_like(at, math.inf)))
    known = EvaluatedPoint(problem, coordinates, at, *lost[:3])
    assert drive(bound_by_curvature(problem, coordinates, at, known, lost), rows) == (math.inf, True, ())


def test_curvature_that_is_barely_above_rounding_makes_a_bound_wider_by_as_much() -> None:
    column = torch.linspace(-1, 1, 30, dtype=torch.float64).unsqueeze(1)
    rows = MemoryRows(torch.cat([column, column], dim=1), torch.arange(30) % 2)
    problem = problem_of(rows, Objective("bce", l2=0.1))
    coordinates, at = problem.model, problem.zeros()
    measured = drive(request(EvaluatePrecisely(problem, coordinates, at, hessian=True)), rows)
    error = 3 * (accumulated(30) + 20 * UNIT_ROUNDOFF * 2)
    hessian = torch.eye(3).double()
    hessian[0, 1] = hessian[1, 0] = 1 - 25 * error  # eigenvalues 2, and 25 times their rounding error
    gradient = torch.tensor([[1e-5, 1e-5, 0.0]]).double()
    measured = measured._replace(
        evaluation=measured.evaluation._replace(gradient=gradient, hessian=hessian.unsqueeze(0))
    )
    known = EvaluatedPoint(problem, coordinates, at, *measured[:3])
    found = drive(bound_by_curvature(problem, coordinates, at, known, measured), rows)
    assert found.rigorous
    assert found.gap == pytest.approx(1e-10 / 2 / (1 - 1 / 25), rel=2e-3)  # half the decrement, over the relative error


def test_a_held_hessian_reaches_as_far_as_its_output_of_largest_rows_allows() -> None:
    none = torch.zeros(1).double()
    rows = torch.tensor([2.0, 8.0, 0.5]).double()
    alone = [InverseHessianNorms(row.unsqueeze(0), none, none, 1.0).reach for row in rows]
    assert InverseHessianNorms(rows, none.expand(3), none.expand(3), 1.0).reach == min(alone) == alone[1]


@pytest.mark.long
@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_hessian_of_a_point_nearby_bounds_the_gap_too(classes: int, loss: str) -> None:
    ratios = []
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        normal = partial(torch.randn, generator=draw, dtype=torch.float64)
        features = normal(200, 3)
        labels = (features @ normal(3, classes) - 2 * (-torch.rand(200, classes, generator=draw).log()).log()).argmax(1)
        labels[:classes] = torch.arange(classes)
        rows = MemoryRows(features, labels)
        problem = problem_of(rows, Objective(loss, l2=(0.0, 1e-3)[seed % 2]), classes)
        best = fit(features, labels, problem.objective, classes, tolerance=1e-12)
        optimum = torch.cat([best.coef, best.intercept.unsqueeze(1)], dim=1)
        before, point = (optimum + normal(optimum.shape) * off for off in (0.1, 0.003))
        if problem.coupled:
            before, point = before - before.mean(0), point - point.mean(0)
        then = drive(request(Evaluate(problem, problem.model, before, torch.float64, torch.float64)), rows)
        now = drive(request(Evaluate(problem, problem.model, point, torch.float64, since=before)), rows)
        assert then.hessian is not None
        assert now.change is not None
        change = features @ (point - before)[:, :-1].T + (point - before)[:, -1]
        apart = (change.unsqueeze(2) - change.unsqueeze(1)).abs().max().unsqueeze(0)
        torch.testing.assert_close(now.change, apart if problem.coupled else change.abs().amax(0))
        factored_hessian = factor_hessian(problem, then.hessian)
        units = diagonal_roots(factored_hessian, problem.num_outputs)
        row_norms = inverse_hessian_norms(
            problem, factored_hessian, units, drive(request(RowNorms(problem, problem.model, units)), rows)
        )
        assert row_norms is not None
        bound = bound_by_held_hessian(
            factored_hessian, row_norms, now.change, evaluated_point(problem, problem.model, point, now)
        )
        gap = now.value - best.bound.value
        assert bound >= gap
        ratios.append(bound / gap)
    assert np.median(ratios) <= LOOSE


@pytest.mark.parametrize(("offset", "confidence"), [(0.0, 1.0), (9.0, 1.0), (0.0, 30.0)])
def test_the_error_of_a_hessian_in_float32_is_bounded(offset: float, confidence: float) -> None:
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(20_000, 2, generator=draw) + offset
    labels = (features.sum(1) > 2 * offset).long()
    weights = torch.ones(20_000)
    weights[0], features[0] = 0, 1e3  # a row of weight 0 does not count
    rows = MemoryRows(features, labels, weights)
    problem = problem_of(rows, Objective("bce", l2=1e-7))
    coordinates = Coordinates(torch.full((2,), offset).double(), torch.ones(2).double())
    point = torch.tensor([[confidence, confidence, 0.0]]).double()
    coarse, fine = (
        drive(request(Evaluate(problem, coordinates, point, dtype, dtype)), rows).hessian
        for dtype in (torch.float32, torch.float64)
    )
    assert coarse is not None
    assert fine is not None
    factored_hessian = factor_hessian(problem, coarse)
    units = diagonal_roots(factored_hessian, 1)
    reached = drive(request(RowNorms(problem, coordinates, units)), rows)
    assert reached.largest < 100 / float(units.min()) ** 2
    row_norms = inverse_hessian_norms(problem, factored_hessian, units, reached)
    values, vectors = torch.linalg.eigh(fine[0])
    root = vectors / values.sqrt()
    off = torch.linalg.eigvalsh(root.T @ (coarse[0] - fine[0]) @ root).abs().max()
    assert row_norms is not None
    assert off <= row_norms.error[0]


@pytest.mark.parametrize("confidence", [1.0, 10.0, 20.0])
def test_the_error_of_a_softmax_hessian_whose_terms_cancel_is_bounded(confidence: float) -> None:
    draw = torch.Generator().manual_seed(2)
    features = torch.randn(1500, 2, generator=draw, dtype=torch.float64)
    labels = torch.randint(3, (1500,), generator=draw)
    rows = MemoryRows(features, labels)
    problem = problem_of(rows, Objective("cross_entropy"), 3)
    point = torch.zeros(3, 3, dtype=torch.float64)
    point[0, 2] = confidence  # nearly all rows have a probability near 1 for the first class
    point[:, :2] = 0.1 * torch.randn(3, 2, generator=draw, dtype=torch.float64)
    measured = drive(request(EvaluatePrecisely(problem, problem.model, point, hessian=True)), rows)
    known = EvaluatedPoint(problem, problem.model, point, *measured[:3])
    blocks = _blocks(known, measured)
    spectrum = _spectrum(known, blocks)
    assert spectrum is not None
    x = F.pad(features, (0, 1), value=1.0).numpy().astype(np.longdouble)
    logits = F.pad(features, (0, 1), value=1.0) @ point.T
    c = problem.loss.evaluate_precisely(logits, labels).curvature.numpy().astype(np.longdouble)
    own = np.einsum("nk,kl->nkl", c, np.eye(3)) - c[:, :, None] * c[:, None, :]
    exact = np.einsum("nkl,ni,nj->kilj", own, x, x).reshape(9, 9) / 1500
    units = spectrum.units[0].numpy()
    off = (blocks.hessian[0].numpy() - exact).astype(float) * units * units[:, None]
    assert np.linalg.norm(off, 2) <= float(spectrum.error)
