"""The reason why a fit has no finite optimum, in one sentence: the one place where separation is decided."""

from __future__ import annotations

from torch import Tensor

from logreg.facts import DataFacts
from logreg.losses.objective import Objective
from logreg.optimality.separation.find import PENALIZE, Separation, find_separation
from logreg.optimality.separation.rows import Features

SEARCH_LIMITS = (0.5, 5.0)
"""Work of the short and of the long search for separation at most, in predicted seconds of one core.

The short one often decides already, since single columns are compared whatever the work.
"""


def explain_separation(
    features: Features,
    labels: Tensor,
    objective: Objective,
    facts: DataFacts,
    has_intercept: bool = True,
    sample_weight: Tensor | None = None,
    leak: str = "",
    max_work: float = SEARCH_LIMITS[-1],
    penalize: str = PENALIZE,
) -> str:
    """The reason why the fit of an objective to these rows has no finite optimum.

    Args:
        features: Shape (N, D), any type, finite, in any units.
        labels: Shape (N,), integers in [0, C).
        objective: The objective; with a penalty a finite optimum exists.
        facts: The facts of the data: number and names of the classes, names of the features.
        has_intercept: Whether the model has an intercept; without one separation is not looked for.
        sample_weight: Shape (N,), >= 0.
        leak: Advice on leaving out columns that may be the target under another name; empty where there are none.
        max_work: The longest search, of `SEARCH_LIMITS`; 0 for a comparison of single columns alone.
        penalize: Advice on how to set a penalty.

    Returns:
        The sentence of `Separation.in_words`; empty where a finite optimum exists or the search did not decide.
    """
    if objective.has_penalty or not has_intercept:
        return ""
    found = Separation("unknown")
    for limit in [limit for limit in SEARCH_LIMITS if limit <= max_work] or [0.0]:
        found = find_separation(features, labels, facts.num_classes, objective.loss, sample_weight, limit)
        if found.kind != "unknown":
            break
    if found.kind in ("none", "unknown"):
        return ""
    return found.in_words(facts.feature_names, facts.class_names, leak, penalize)
