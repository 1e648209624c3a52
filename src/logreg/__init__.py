"""logreg: the linear baseline you can trust.

Reading order: functional and objective (the mathematics), facts and model, data, metrics and optim,
module (Lightning), run (top to bottom), door (Hydra).  Nothing is imported here, so that the door
opens at once.
"""

__version__ = "0.1.0"
