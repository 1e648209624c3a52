"""Newton's method on working sets ends at the optimum of all features."""

from __future__ import annotations

import pytest
import torch

from logreg.objective import Objective
from logreg.optim.exact import drive, problem_of
from logreg.optim.passes import InMemory
from logreg.optim.progress import Progress
from logreg.optim.working_sets import newton_on_working_sets
from reference import Reference


@pytest.mark.parametrize("l2", [0.0, 1e-3])
@pytest.mark.parametrize(("classes", "loss"), [(2, "bce"), (3, "bce"), (3, "cross_entropy")])
def test_the_optimum_is_that_of_all_features(classes: int, loss: str, l2: float) -> None:
    draw = torch.Generator().manual_seed(classes)
    features = torch.randn(150, 80, generator=draw, dtype=torch.float64) + 1
    labels = (features[:, :4] @ torch.randn(4, classes, generator=draw, dtype=torch.float64)).argmax(1)
    objective = Objective(loss, l1=0.02, l2=l2)
    memory = InMemory(features, labels)
    problem = problem_of(memory, objective, classes)
    progress = Progress(problem, problem.zeros(), tolerance=1e-9)
    drive(newton_on_working_sets(progress), memory)
    least = Reference(features, labels, objective, classes).minimum
    assert progress.converged
    assert progress.bound is not None
    assert progress.bound.value == pytest.approx(least.value, rel=2e-9)
    assert torch.equal(progress.solution[:, :-1] != 0, torch.from_numpy(least.coef) != 0)
