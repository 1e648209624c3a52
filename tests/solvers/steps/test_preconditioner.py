"""The inverse of the Hessian, estimated from sampled rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of
from logreg.solvers.passes.base import drive, request, run_pass
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.passes.hessian import CurvatureInSpan
from logreg.solvers.steps.preconditioner import SAMPLING_RIDGE, inverse_of_blocks, preconditioner


def condition(rows: Tensor, l2: float, intercept: bool = True) -> float:
    """The condition number of the Hessian of a binary problem at zero, times its estimated inverse."""
    labels = torch.arange(len(rows)) % 2
    memory = MemoryRows(rows, labels)
    problem = problem_of(memory, Objective("bce", l2=l2), intercept=intercept)
    now = drive(request(Evaluate(problem, problem.model, problem.zeros(), torch.float64, torch.float64)), memory)
    inverse = drive(preconditioner(problem, problem.model, problem.zeros(), now.curvature, seed=0), memory)
    assert now.hessian is not None
    size = rows.shape[1] + intercept
    hessian = now.hessian[0, :size, :size]
    unit = torch.eye(rows.shape[1] + 1, dtype=torch.float64)[:size]
    applied = torch.cat([inverse(row.unsqueeze(0)) for row in unit])[:, :size]
    torch.testing.assert_close(applied, applied.T, rtol=1e-4, atol=1e-5 * float(applied.abs().max()))
    root = torch.linalg.cholesky(hessian)
    values = torch.linalg.eigvalsh(root.T @ (applied + applied.T) @ root / 2)
    return float(values[-1] / values[0])


def factored(rows: int, features: int, factors: int) -> Tensor:
    """Features with common factors of standard deviation 10, and noise of standard deviation 1."""
    draw = torch.Generator().manual_seed(0)
    common = 10 * torch.randn(rows, factors, generator=draw)
    noise = torch.randn(rows, features, generator=draw)
    return noise.addmm_(common, torch.randn(factors, features, generator=draw))


@pytest.mark.long
@pytest.mark.parametrize("intercept", [False, True])
def test_few_rows_tell_the_common_factors_of_many_features(intercept: bool) -> None:
    rows = factored(2000, 600, 5) + 3  # more features than a quarter of the rows, so that no block is held
    covariance = torch.linalg.eigvalsh((rows.T @ rows / 2000).double() / 4)
    assert float(covariance[-1] / covariance[0]) > 1e5
    assert condition(rows, l2=1e-3, intercept=intercept) < 1000


@pytest.mark.long
def test_each_output_has_its_own_curvature_along_common_factors() -> None:
    rows = factored(3000, 800, 6)  # more features than a quarter of the rows, so that no block is held
    draw = torch.Generator().manual_seed(4)
    coef = torch.linalg.lstsq(rows, factored(3000, 1, 1) * torch.randn(1, 4, generator=draw)).solution
    memory = MemoryRows(rows, torch.arange(3000) % 4)
    problem = problem_of(memory, Objective("cross_entropy", l2=1e-3))
    point = problem.zeros()
    point[:, :-1] = coef.T
    now = drive(request(Evaluate(problem, problem.model, point)), memory)
    inverse = drive(preconditioner(problem, problem.model, point, now.curvature, seed=0), memory)
    p = torch.softmax(rows.double() @ point[:, :-1].T, dim=1)
    for output in range(4):
        weights = p[:, output] * (1 - p[:, output]) / 3000
        centered = rows.double() - weights @ rows.double() / weights.sum()
        block = (centered.T * weights) @ centered + 1e-3 * torch.eye(800).double()
        unit = torch.zeros(800, 4, 801, dtype=torch.float64)
        unit[:, output, :-1] = torch.eye(800)
        applied = torch.stack([inverse(one)[output, :-1] for one in unit])
        root = torch.linalg.cholesky(block)
        values = torch.linalg.eigvalsh(root.T @ (applied + applied.T) @ root / 2)
        assert float(values[-1] / values[0]) < 500


def test_common_factors_that_the_penalty_outweighs_take_no_pass() -> None:
    features, rare = factored(3000, 800, 6), torch.ones(800)
    rare[:20] = 0.003  # a few features whose own penalty outweighs all decide nothing
    for l2, units, expected in ((1e-3, 1, True), (1e6, 1, False), (10, rare, True)):
        memory = MemoryRows(features * units, torch.arange(3000) % 2)
        problem = problem_of(memory, Objective("bce", l2=l2))
        now = drive(request(Evaluate(problem, problem.model, problem.zeros())), memory)
        kinds = []
        for requested in preconditioner(problem, problem.model, problem.zeros(), now.curvature, seed=0):
            kinds.append(type(requested))
            run_pass(memory, requested)
        assert (CurvatureInSpan in kinds) == expected


def test_features_without_common_factors_are_divided_by_the_diagonal() -> None:
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(4000, 300, generator=draw) * torch.logspace(-1, 1, 300)
    assert condition(rows, l2=1e-6) < 5  # that of the diagonal; sampled blocks are no better


def test_all_of_few_rows_give_the_inverse_itself() -> None:
    rows = torch.randn(60, 400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows -= rows.mean(0)
    rows /= rows.square().mean(0).sqrt()  # equal features, so that l2 has the same share of each
    assert condition(rows, l2=1e-2) < 1.1


def test_the_small_eigenvalues_of_a_sampled_block_are_not_taken_at_their_value() -> None:
    draw = torch.Generator().manual_seed(3)
    rows = torch.randn(2000, 5, generator=draw, dtype=torch.float64)
    rows[:, 4] = rows[:, 3]
    memory = MemoryRows(rows, torch.arange(2000) % 2)
    problem = problem_of(memory, Objective("bce", l2=1e-9))
    curvature = torch.ones(1, dtype=torch.float64)
    for number, ridge in ((500, SAMPLING_RIDGE / 500), (2000, 1e-7)):
        found = inverse_of_blocks(problem, problem.model, problem.zeros(), curvature, number, seed=0)
        factor = drive(found, memory).factors[0].tril()
        block = factor @ factor.T
        assert float(torch.linalg.eigvalsh(block)[0] / block.diagonal().mean()) == pytest.approx(ridge, rel=0.05)
