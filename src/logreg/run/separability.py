"""Whether a fit without a penalty has a finite optimum on this data."""

from __future__ import annotations

from logreg.data import TensorDataModule
from logreg.optimality.certificate import is_penalized
from logreg.optimality.separation import Separation, find_separation
from logreg.training.module import LogisticModule

SEARCHES = (0.5, 5.0)
"""About how many seconds to look for separation: single columns, which are seen first, often decide already."""


def separation_of(module: LogisticModule, data: TensorDataModule, seconds: float = SEARCHES[-1]) -> str:
    """Why a fit without a penalty has no finite optimum, if it has none, as far as so many seconds tell.

    Without any, single columns are looked at.
    """
    objective, facts = module.objective, module.facts
    if is_penalized(objective) or not module.has_intercept:
        return ""
    features, labels, weights = data.feature_reader("train"), data.labels("train"), data.sample_weight("train")
    found = Separation("unknown")
    for most in (0.0,) if not seconds else SEARCHES:
        if most > seconds:
            break
        found = find_separation(features, labels, facts.num_classes, objective.loss, weights, most)
        if found.kind != "unknown":
            break
    if found.kind in ("none", "unknown"):
        return ""
    return found.in_words(facts.feature_names, facts.class_names, data.leaks.advice)
