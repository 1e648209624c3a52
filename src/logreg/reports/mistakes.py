"""The wrong predictions of a model that it is most confident of."""

from __future__ import annotations

from typing import NamedTuple

from logreg.evaluation.predicted import Predicted


class Mistake(NamedTuple):
    """A row with a wrong prediction."""

    position: int
    """Position of the row in its split, from 0."""
    true: int
    predicted: int
    probability: float
    """Probability of the predicted class."""


def confident_mistakes(predicted: Predicted, most: int) -> list[Mistake]:
    """The wrong predictions with the highest probabilities, highest first, at most ``most``."""
    found: list[Mistake] = []
    for rows, part in predicted.parts():
        sure, decided = part.rows.confidence, part.decided
        wrong = ((decided != part.labels) & (part.weight > 0)).nonzero()[:, 0]
        order = sure[wrong].argsort(descending=True, stable=True)[:most]
        found += [
            Mistake(rows.start + row, int(part.labels[row]), int(decided[row]), float(sure[row]))
            for row in wrong[order].tolist()
        ]
    return sorted(found, key=lambda mistake: -mistake.probability)[:most]
