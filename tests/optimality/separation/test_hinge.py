"""The squared hinge loss of signed rows: its line search."""

from __future__ import annotations

import torch

from logreg.optimality.separation.hinge import _step_length


def test_the_rounding_of_a_margin_that_stays_does_not_lengthen_a_step() -> None:
    margins = torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float64)
    change = torch.tensor([3.0, 1e-17, 0.0], dtype=torch.float64)  # the second row is orthogonal to the step
    assert 2 / 3 <= _step_length(margins, change, margins < 1) < 0.67
    change[1] = 0.25
    assert 4 <= _step_length(margins, change, margins < 1) < 4.01
