"""logreg: the linear baseline you can trust.

Nothing is imported here, so that a command answers at once.  `docs/architecture.md` says where things live.
"""

__version__ = "0.1.0"
