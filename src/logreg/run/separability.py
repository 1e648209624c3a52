"""Searches for separation in the train split: the reason why a fit has no finite optimum."""

from __future__ import annotations

from collections.abc import Callable

from logreg.data import TensorDataModule
from logreg.losses.objective import Objective
from logreg.optimality.separation.explain import SEARCH_LIMITS, explain_separation
from logreg.processes import in_first
from logreg.training.module import LogisticModule

MAX_SEARCHED_NUMBERS = 10**6
"""Rows times features of train up to which the search takes less time than a short fit, and is made before it."""

SEARCHING = "looking whether the classes are separable ..."
"""Status line during the search."""


def separation_in(
    data: TensorDataModule, objective: Objective, has_intercept: bool, max_work: float = SEARCH_LIMITS[-1]
) -> str:
    """The reason why the fit of an objective to the train split has no finite optimum; empty where none is found.

    Args:
        data: The data, whose train split is searched.
        objective: The objective of the fit.
        has_intercept: Whether the model has an intercept.
        max_work: Limit of the search, one of `SEARCH_LIMITS`; with 0, only single columns are compared.

    Of several processes the first one searches, since the others would do the same work.
    """
    features, labels, weights = data.feature_reader("train"), data.labels("train"), data.sample_weight("train")
    return in_first(
        data.processes,
        lambda: explain_separation(
            features, labels, objective, data.facts, has_intercept, weights, data.leaks.advice, max_work
        ),
    )


def separation_of(module: LogisticModule, data: TensorDataModule, max_work: float = SEARCH_LIMITS[-1]) -> str:
    """`separation_in` for a module's own objective."""
    return separation_in(data, module.objective, module.has_intercept, max_work)


def is_searched_after_fit(module: LogisticModule) -> bool:
    """Whether the full search for separation waits until after the fit.

    A few passes of a first-order optimizer over many rows may take less time than the search.  Single columns are
    tried before the fit in any case.
    """
    facts = module.facts
    return module.exact is None and facts.rows["train"] * facts.num_features > MAX_SEARCHED_NUMBERS


def separation_before_fit(module: LogisticModule, data: TensorDataModule, status: Callable[[str], None]) -> str:
    """`separation_of`, as far as it is searched for before the fit.

    Args:
        module: The module, which has the objective.
        data: The data, whose train split is searched.
        status: Shows what is being done.
    """
    if module.facts.draws_anew:  # the rows that are trained on are drawn later
        return ""
    if is_searched_after_fit(module):
        return separation_of(module, data, 0.0)
    status(SEARCHING)
    return separation_of(module, data)


def separation_after_fit(module: LogisticModule, data: TensorDataModule, status: Callable[[str], None]) -> str:
    """The separation that is known already, or `separation_of` where the search has waited for the end of the fit."""
    if module.separation or module.facts.draws_anew or not is_searched_after_fit(module):
        return module.separation
    status(SEARCHING)
    # Features without names, such as pixels, explain nothing to a user: the short search is enough.
    return separation_of(module, data, SEARCH_LIMITS[-1 if module.facts.feature_names else 0])


def is_worth_warning(module: LogisticModule) -> bool:
    """Whether separation is announced before the fit, and not in the report alone.

    Few rows of many features are always separable, and some images are: for a first-order optimizer, which stops long
    before coefficients are large, the report is soon enough.
    """
    facts = module.facts
    return module.exact is not None or bool(facts.feature_names and facts.rows["train"] > 2 * (facts.num_features + 1))
