"""Why a fit to the train split has no finite optimum, if it has none."""

from __future__ import annotations

from logreg.data import TensorDataModule
from logreg.losses.objective import Objective
from logreg.optimality.separation.explain import SEARCH_SECONDS, explain_separation


def separation_of(
    data: TensorDataModule, objective: Objective, has_intercept: bool, seconds: float = SEARCH_SECONDS[-1]
) -> str:
    """The reason in one sentence; empty where a finite optimum exists or the search did not decide.

    Args:
        data: The data; its train split is searched.
        objective: The objective of the fit.
        has_intercept: Whether the model has an intercept.
        seconds: The longest search, of `SEARCH_SECONDS`; 0 for a comparison of single columns alone.
    """
    train = data.tables["train"]
    weights = None if train.sample_weight is None else train.chosen(train.sample_weight)
    features, labels = data.stored_matrix("train"), train.chosen(train.labels)
    return explain_separation(
        features, labels, objective, data.facts, has_intercept, weights, data.leaks.advice, seconds
    )
