"""When an exact optimizer ends, and which of its bounds it keeps."""

from __future__ import annotations

import pytest
import torch

from logreg.losses.objective import Objective
from logreg.solvers.bounds.base import Bound
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import SolverState, keep_bound, within


def bound_of(gap: float, rounding: float, rigorous: bool = True) -> Bound:
    return Bound(2.0, gap, rigorous, torch.zeros(1, 2), 2.0, rounding)


@pytest.mark.parametrize(
    ("gap", "rounding", "ends"),
    [
        (1.9, 0.0, True),
        (2.1, 0.0, False),
        (1.9, 0.05, True),
        (1.9, 0.2, False),  # another step makes the gap smaller
        (1.1, 0.8, True),
        (1.9, 1.2, True),  # steps would not help
        (2.1, 5.0, False),
    ],
)
def test_a_gap_counts_with_its_rounding_where_that_leaves_room(gap: float, rounding: float, ends: bool) -> None:
    assert within(bound_of(1e-3 * gap, 1e-3 * rounding), 1e-3) == ends


def test_the_bound_that_is_kept_has_the_smaller_sum_of_gap_and_rounding() -> None:
    plain = Coordinates(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    problem = Problem(Objective("bce", l2=0.1), rows=4, total_weight=4.0, num_outputs=1, model=plain)
    state = SolverState(problem, problem.zeros())
    for gap, rounding in ((1.0, 0.5), (1.2, 0.1), (0.1, 1.4), (0.2, 1.0)):
        keep_bound(state, bound_of(gap, rounding))
    assert state.bound is not None
    assert (state.bound.gap, state.bound.rounding) == (0.2, 1.0)
    keep_bound(state, bound_of(1e-9, 0.0, rigorous=False))  # an estimate, but the only one within the tolerance
    assert not state.bound.rigorous
