"""The choice of the method: which shape of problem gets which, whether it is followed, and its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.sparse import csr_array

from logreg.csr import checked_sparse
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers import optimizers
from logreg.solvers.choose import (
    Method,
    Plan,
    avoids_hessian,
    choose,
    has_fast_ways,
    holds_hessian,
    is_small,
    reason,
    uses_descent,
)
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import PassRequests
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import SolverState

L2, SOFTMAX = Objective("bce", l2=1e-3), Objective("cross_entropy", l2=1e-3)


def shaped(
    rows: int, features: int, outputs: int = 1, objective: Objective = L2, nonzeros: int | None = None
) -> Problem:
    """A problem of a shape; sparse with so many features that are not 0."""
    ones = torch.ones(features, dtype=torch.float64)
    return Problem(objective, rows, float(rows), outputs, Coordinates(0 * ones, ones), nonzeros=nonzeros)


def in_memory(problem: Problem) -> MemoryRows:
    """Rows of the problem's shape."""
    features = torch.empty(problem.rows, problem.num_features)  # its memory is never touched
    return MemoryRows(features, torch.zeros(problem.rows, dtype=torch.int64))


@pytest.mark.parametrize(
    ("problem", "plan"),
    [
        (shaped(10**6, 10), Plan(Method.HELD_HESSIAN)),
        (shaped(10_000, 30, objective=Objective("bce")), Plan(Method.HELD_HESSIAN)),
        (shaped(10_000, 50), Plan(Method.QUASI_NEWTON, Method.PLAIN_NEWTON)),
        (shaped(10_000, 50, objective=Objective("cloglog", l2=1e-3)), Plan(Method.QUASI_NEWTON, Method.PLAIN_NEWTON)),
        (shaped(10_000, 50, 20, SOFTMAX), Plan(Method.QUASI_NEWTON, Method.PLAIN_NEWTON)),
        (shaped(10**5, 50, 20, SOFTMAX), Plan(Method.SUBSPACE_DESCENT, Method.PLAIN_NEWTON)),
        (shaped(10_000, 2000), Plan(Method.SUBSPACE_DESCENT, Method.LBFGS)),
        (shaped(10_000, 2000, objective=Objective("bce")), Plan(Method.LBFGS, Method.LBFGS)),
        (shaped(500, 2000), Plan(Method.ROW_SPACE, Method.LBFGS)),
        (shaped(500, 2000, objective=Objective("bce")), Plan(Method.LBFGS, Method.LBFGS)),
        (shaped(1000, 2000, nonzeros=20_000), Plan(Method.ROW_SPACE, Method.LBFGS)),
        (shaped(10_000, 30, objective=Objective("bce", l1=1e-3)), Plan(Method.WORKING_SETS, Method.LBFGS)),
        (shaped(500, 2000, objective=Objective("bce", l2=1e-3, l1=1e-3)), Plan(Method.WORKING_SETS, Method.LBFGS)),
        (shaped(10_000, 30, objective=Objective("cloglog", l1=1e-3)), Plan(Method.LBFGS)),
        (shaped(10_000, 5, objective=Objective("cauchit", l2=1e-3)), Plan(Method.PLAIN_NEWTON)),
        (shaped(10_000, 2000, objective=Objective("cauchit", l2=1e-3)), Plan(Method.LBFGS)),
    ],
)
def test_each_shape_has_its_method(problem: Problem, plan: Plan) -> None:
    assert choose(problem) == plan


@pytest.mark.parametrize(
    ("problem", "method"),
    [
        (shaped(500, 30), Method.SMALL),
        (shaped(500, 30, 10, SOFTMAX), Method.SMALL),
        (shaped(500, 30, objective=Objective("bce", l1=1e-3)), Method.SMALL),
        (shaped(500, 30, objective=Objective("bce")), Method.HELD_HESSIAN),  # no bound by duality
        (shaped(500, 30, objective=Objective("cauchit", l2=1e-3)), Method.PLAIN_NEWTON),
        (shaped(10_000, 50), Method.MEDIUM),
        (shaped(10_000, 50, 20, SOFTMAX), Method.QUASI_NEWTON),  # several outputs
        (shaped(10**6, 50), Method.MEDIUM),
        (shaped(10**7, 50), Method.SUBSPACE_DESCENT),  # numbers for each row would take memory
        (shaped(500, 2000), Method.ROW_SPACE),
    ],
)
def test_rows_in_memory_may_have_a_method_without_passes(problem: Problem, method: Method) -> None:
    assert choose(problem, in_memory(problem)).method is method


def test_sparse_rows_have_no_method_without_passes() -> None:
    # A softmax is small up to more numbers than those up to which sparse rows are made dense.
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 200, generator=draw) * (torch.rand(1000, 200, generator=draw) < 0.05)
    labels = torch.randint(3, (1000,), generator=draw)
    sparse_features = checked_sparse(csr_array(features.numpy()))
    dense, rows = MemoryRows(features, labels), MemoryRows(sparse_features, labels)
    objective = Objective("cross_entropy", l2=1e-2)
    assert is_small(problem_of(dense, objective), dense)
    assert not is_small(problem_of(rows, objective), rows)
    sparse = fit(sparse_features, labels, objective, tolerance=1e-9)
    assert sparse.converged
    torch.testing.assert_close(sparse.coef, fit(features, labels, objective, tolerance=1e-9).coef, rtol=0, atol=1e-4)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The solvers that are called, which do nothing here, so that each fails."""
    names: list[str] = []

    def recording(name: str) -> Callable[[SolverState], PassRequests[Any]]:
        def solver(state: SolverState) -> PassRequests[Any]:
            yield from ()
            plain = " from zero, plain" if state.plain and not state.point.any() else " plain" if state.plain else ""
            names.append(f"{name}{plain if name == 'newton' else ''}")

        return solver

    def stays(*_: object) -> PassRequests[None]:
        yield from ()

    for name in ("newton", "lbfgs", "prox_newton"):
        monkeypatch.setattr(optimizers, name, recording(name))
    monkeypatch.setattr(optimizers, "move_to_minimum_norm", stays)
    return names


@pytest.mark.parametrize(
    ("problem", "names"),
    [
        (shaped(10**6, 10), ["newton"]),
        (shaped(10_000, 50), ["newton", "newton from zero, plain"]),
        (shaped(10_000, 2000), ["newton", "lbfgs"]),
        (shaped(10_000, 2000, objective=Objective("bce")), ["lbfgs", "lbfgs"]),
        (shaped(10_000, 30, objective=Objective("bce", l1=1e-3)), ["prox_newton", "lbfgs"]),
        (shaped(10_000, 30, objective=Objective("cloglog", l1=1e-3)), ["lbfgs"]),
        # a loss that is not convex has four fits, of which the second is that of the logistic loss
        (
            shaped(10_000, 5, objective=Objective("cauchit", l2=1e-3)),
            ["newton plain", "newton", *["newton from zero, plain"] * 2],
        ),
    ],
)
def test_the_plan_is_followed(problem: Problem, names: list[str], called: list[str]) -> None:
    state = SolverState(problem, problem.zeros() + 1)
    assert list(EXACT["newton"](state)) == []
    assert called == names


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (
            shaped(5000, 10),
            "Newton with Cholesky, since a Hessian of 11 parameters is cheap [5,000 rows x 10 features]",
        ),
        (
            shaped(5000, 10, 3, Objective("cross_entropy", l1=0.1)),
            "Newton on working sets of features, since l1 holds most coefficients at 0 "
            "[5,000 rows x 10 features x 3 outputs]",
        ),
        (
            shaped(500, 2000),
            "Newton in 500 dimensions, since the optimal coefficients lie in the span of the rows "
            "[500 rows x 2,000 features]",
        ),
        (
            shaped(1000, 2000),
            "Quasi-Newton steps, since a Hessian of 2,001 parameters costs more than it saves "
            "[1,000 rows x 2,000 features]",
        ),
        (
            shaped(5000, 2000, objective=Objective("cauchit", l2=0.1)),
            "L-BFGS, since a Hessian of 2,001 parameters costs more than it saves [5,000 rows x 2,000 features]",
        ),
        (
            shaped(5000, 10, objective=Objective("cauchit", l1=0.1)),
            "L-BFGS, since working sets of features need a convex loss with a known conjugate "
            "[5,000 rows x 10 features]",
        ),
    ],
)
def test_the_words_name_the_method_that_runs(problem: Problem, words: str) -> None:
    assert reason(problem) == words


def test_a_hessian_is_avoided_where_it_takes_longer_than_a_few_passes() -> None:
    assert not avoids_hessian(shaped(10**6, 10))
    assert not avoids_hessian(shaped(10**6, 30))  # a sample is a small part of the rows
    assert avoids_hessian(shaped(10**5, 30))
    assert avoids_hessian(shaped(20_000, 50))
    assert not avoids_hessian(shaped(10_000, 2, 3, SOFTMAX))
    assert avoids_hessian(shaped(10_000, 900))
    assert avoids_hessian(shaped(100_000, 20, 20, SOFTMAX))
    assert not avoids_hessian(shaped(100, 900))  # the span of the rows is smaller
    for objective in (Objective("bce", l1=1e-3), Objective("bce")):  # no bound without a Hessian
        assert not avoids_hessian(shaped(10_000, 900, objective=objective))


def test_a_hessian_is_held_up_to_1024_parameters_of_one_matrix() -> None:
    assert holds_hessian(shaped(10_000, 1023, 10))
    assert not holds_hessian(shaped(10_000, 1024, 10))
    assert holds_hessian(shaped(10_000, 255, 4, SOFTMAX))
    assert not holds_hessian(shaped(10_000, 256, 4, SOFTMAX))
    assert not holds_hessian(shaped(100, 100))  # fewer rows than parameters
    assert not holds_hessian(shaped(10**6, 500))  # too much work


def test_a_loss_without_a_conjugate_has_fast_ways_without_l1() -> None:
    assert has_fast_ways(shaped(100, 2, objective=Objective("cloglog", l2=1.0)))
    assert not has_fast_ways(shaped(100, 2, objective=Objective("cloglog", l1=1.0)))
    assert not has_fast_ways(shaped(100, 2, objective=Objective("cauchit", l2=1.0)))


@pytest.mark.parametrize(
    ("rows", "features", "outputs", "objective", "answer"),
    [
        (6000, 140, 8, SOFTMAX, True),
        (6000, 2000, 1, L2, True),
        (4000, 140, 8, SOFTMAX, False),  # little data: other solvers are as fast
        (4000, 500, 8, SOFTMAX, True),
        (6000, 140, 100, SOFTMAX, True),
        (6000, 20, 100, SOFTMAX, False),  # the Hessian on the subspace takes many passes
        (4000, 140, 8, Objective("cross_entropy"), False),  # few rows and no bound: other solvers are as fast
        (6000, 140, 8, Objective("cross_entropy", l1=1e-3), False),  # with l1, steps must keep zeros
        (6000, 20, 3, SOFTMAX, False),  # its Hessian is held
        (200_000, 100, 50, SOFTMAX, False),  # the cache of logits would be large
    ],
)
def test_descent_is_used_where_it_is_the_fastest_solver(
    rows: int, features: int, outputs: int, objective: Objective, answer: bool
) -> None:
    assert uses_descent(shaped(rows, features, outputs, objective)) is answer
