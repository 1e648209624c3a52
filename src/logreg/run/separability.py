"""Why a fit to the train split has no finite optimum, if it has none."""

from __future__ import annotations

from logreg.data import TensorDataModule
from logreg.losses.objective import Objective
from logreg.optimality.separation.explain import SEARCH_LIMITS_S, explain_separation
from logreg.training.module import LogisticModule


def separation_in(
    data: TensorDataModule, objective: Objective, has_intercept: bool, seconds: float = SEARCH_LIMITS_S[-1]
) -> str:
    """Why the fit of an objective to the train split has no finite optimum; empty where it has one or none is found.

    Args:
        data: The data, whose train split is searched.
        objective: The objective of the fit.
        has_intercept: Whether the model has an intercept.
        seconds: The longest search, of `SEARCH_LIMITS_S`; with 0 single columns alone are compared.
    """
    features, labels, weights = data.feature_reader("train"), data.labels("train"), data.sample_weight("train")
    return explain_separation(
        features, labels, objective, data.facts, has_intercept, weights, data.leaks.advice, seconds
    )


def separation_of(module: LogisticModule, data: TensorDataModule, seconds: float = SEARCH_LIMITS_S[-1]) -> str:
    """`separation_in` for a module's own objective."""
    return separation_in(data, module.objective, module.has_intercept, seconds)
