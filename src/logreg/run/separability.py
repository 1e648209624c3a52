"""Whether a fit without a penalty has a finite optimum on this data."""

from __future__ import annotations

from collections.abc import Callable

from logreg.data import TensorDataModule
from logreg.optimality.certificate import is_penalized
from logreg.optimality.separation import Separation, find_separation
from logreg.training.module import LogisticModule

SEARCH_LIMITS_S = (0.5, 5.0)
"""Approximate limits of the two searches for separation, in seconds; the first is often enough, since single columns
come first."""

MAX_SEARCHED_NUMBERS = 10**6
"""Rows times features of train up to which the search takes less time than a short fit, and is made before it."""

SEARCHING = "looking whether the classes are separable ..."
"""The status line during the search."""


def separation_of(module: LogisticModule, data: TensorDataModule, seconds: float = SEARCH_LIMITS_S[-1]) -> str:
    """Why a fit without a penalty has no finite optimum; empty where it has one or none is found.

    Args:
        module: Its objective.
        data: Its rows.
        seconds: Approximate limit of the search; with 0 single columns alone are tried.
    """
    objective, facts = module.objective, module.facts
    if is_penalized(objective) or not module.has_intercept:
        return ""
    features, labels, weights = data.feature_reader("train"), data.labels("train"), data.sample_weight("train")
    found = Separation("unknown")
    for most in (0.0,) if not seconds else SEARCH_LIMITS_S:
        if most > seconds:
            break
        found = find_separation(features, labels, facts.num_classes, objective.loss, weights, most)
        if found.kind != "unknown":
            break
    if found.kind in ("none", "unknown"):
        return ""
    return found.in_words(facts.feature_names, facts.class_names, data.leaks.advice)


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
        module: Its objective.
        data: Its rows.
        status: Shows what is being done.
    """
    if is_searched_after_fit(module):
        return separation_of(module, data, 0.0)
    status(SEARCHING)
    return separation_of(module, data)


def separation_after_fit(module: LogisticModule, data: TensorDataModule, status: Callable[[str], None]) -> str:
    """The separation that is known already, or `separation_of` where the search has waited for the end of the fit."""
    if module.separation or not is_searched_after_fit(module):
        return module.separation
    status(SEARCHING)
    # Features without names, such as pixels, explain nothing to a user: the short search is enough.
    return separation_of(module, data, SEARCH_LIMITS_S[-1 if module.facts.feature_names else 0])


def is_worth_warning(module: LogisticModule) -> bool:
    """Whether separation is announced before the fit, and not in the report alone.

    Few rows of many features are always separable, and some images are: for a first-order optimizer, which stops long
    before coefficients are large, the report is soon enough.
    """
    facts = module.facts
    return module.exact is not None or bool(facts.feature_names and facts.rows["train"] > 2 * (facts.num_features + 1))
