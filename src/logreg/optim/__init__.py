"""Optimizers and learning-rate schedules, by the names a person types."""

from logreg.optim.exact import EXACT, choose
from logreg.optim.first_order import OPTIMIZERS, build_optimizer
from logreg.optim.schedules import SCHEDULES, lr_factor

__all__ = ["EXACT", "OPTIMIZERS", "SCHEDULES", "build_optimizer", "choose", "lr_factor"]
