"""Newton's method on working sets ends at the optimum of all features."""

from __future__ import annotations

import pytest
import torch

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of
from logreg.solvers.passes.base import drive
from logreg.solvers.state import SolverState
from logreg.solvers.working_sets import newton_on_working_sets
from reference import Reference


@pytest.mark.parametrize("l2", [0.0, 1e-3])
@pytest.mark.parametrize(("classes", "loss"), [(2, "bce"), (3, "bce"), (3, "cross_entropy")])
def test_the_optimum_is_that_of_all_features(classes: int, loss: str, l2: float) -> None:
    draw = torch.Generator().manual_seed(classes)
    features = torch.randn(150, 80, generator=draw, dtype=torch.float64) + 1
    labels = (features[:, :4] @ torch.randn(4, classes, generator=draw, dtype=torch.float64)).argmax(1)
    objective = Objective(loss, l1=0.02, l2=l2)
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective, classes)
    state = SolverState(problem, problem.zeros(), tolerance=1e-9)
    drive(newton_on_working_sets(state), memory)
    least = Reference(features, labels, objective, classes).minimum
    assert state.converged
    assert state.bound is not None
    assert state.bound.value == pytest.approx(least.value, rel=2e-9)
    assert torch.equal(state.solution[:, :-1] != 0, torch.from_numpy(least.coef) != 0)
