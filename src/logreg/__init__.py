"""logreg: the linear baseline you can trust.

Reading order: functional and objective (the mathematics), facts and model, data, metrics and optim,
module (Lightning), run (top to bottom), commands (what a person types).  Nothing is imported here,
so that a command answers at once.
"""

__version__ = "0.1.0"
