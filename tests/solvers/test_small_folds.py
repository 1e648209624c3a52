"""Folds of small problems, which the general solvers do not reach."""

from __future__ import annotations

import pytest
import torch

from logreg.losses.objective import Objective
from logreg.solvers.fit import problem_of, stored_rows
from logreg.solvers.folds import fit_folds
from logreg.solvers.path import Strength


@pytest.mark.parametrize(("loss", "classes"), [("bce", 2), ("bce", 3), ("cross_entropy", 3)])
def test_features_far_from_0_are_certified_without_an_intercept(loss: str, classes: int) -> None:
    draw = torch.Generator().manual_seed(0)
    features, noise = (torch.randn(80, n, generator=draw, dtype=torch.float64) for n in (4, classes))
    labels = (features @ torch.randn(4, classes, generator=draw, dtype=torch.float64) + noise).argmax(1)
    rows, stored = stored_rows(features + 1e6, labels, None, False)
    problem = problem_of(rows, Objective(loss, l2=1.0), classes, intercept=False, stored=stored)
    strengths = [Strength(10.0**-power) for power in range(6)]
    paths = fit_folds(problem, rows, torch.arange(80) % 5, strengths)
    assert all(point.converged for path in (paths.full, *paths.of_folds) for point in path)
