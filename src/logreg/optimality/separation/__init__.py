"""Separation: whether an unpenalized fit has a finite optimum, and which columns and classes prevent one."""

from logreg.optimality.separation.explain import explain_separation
from logreg.optimality.separation.find import Separation, find_separation

__all__ = ["Separation", "explain_separation", "find_separation"]
