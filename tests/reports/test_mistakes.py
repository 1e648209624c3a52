from __future__ import annotations

import torch

from logreg.evaluation.predicted import Predicted
from logreg.reports.mistakes import Mistake, confident_mistakes


def predicted(weight: list[float] | None = None) -> Predicted:
    probabilities = torch.tensor(
        [[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.2, 0.5, 0.3]], dtype=torch.float64
    )
    sample_weight = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    return Predicted(probabilities, torch.tensor([1, 0, 0, 2]), sample_weight)


def test_the_surest_mistakes_come_first() -> None:
    found = confident_mistakes(predicted(), 10)
    assert found == [Mistake(1, 0, 2, 0.7), Mistake(0, 1, 0, 0.6), Mistake(3, 2, 1, 0.5)]
    assert confident_mistakes(predicted(), 2) == found[:2]
    right = Predicted(torch.eye(3, dtype=torch.float64), torch.arange(3))
    assert confident_mistakes(right, 10) == []


def test_a_row_without_weight_is_no_mistake() -> None:
    assert [one.position for one in confident_mistakes(predicted([1, 0, 1, 1]), 10)] == [0, 3]
