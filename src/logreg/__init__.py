"""logreg: the linear baseline you can trust.

The names below are imported when they are first used, since torch takes seconds to import and a command must answer at
once.  `docs/architecture.md` describes the rest of the package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logreg.data import TensorDataModule as TensorDataModule
    from logreg.data import build_dataset as build_dataset
    from logreg.estimators.cross_validated import LogisticRegressionCV as LogisticRegressionCV
    from logreg.estimators.logistic_regression import LogisticRegression as LogisticRegression
    from logreg.estimators.table_encoder import TableEncoder as TableEncoder
    from logreg.losses.objective import Objective as Objective
    from logreg.solvers.fit import fit as fit
    from logreg.training.module import LogisticModule as LogisticModule

__version__ = "0.1.0"

_MODULES = {
    "LogisticModule": "logreg.training.module",
    "LogisticRegression": "logreg.estimators.logistic_regression",
    "LogisticRegressionCV": "logreg.estimators.cross_validated",
    "Objective": "logreg.losses.objective",
    "TableEncoder": "logreg.estimators.table_encoder",
    "TensorDataModule": "logreg.data",
    "build_dataset": "logreg.data",
    "fit": "logreg.solvers.fit",
}
"""The module of each public name."""

__all__ = [
    "LogisticModule",
    "LogisticRegression",
    "LogisticRegressionCV",
    "Objective",
    "TableEncoder",
    "TensorDataModule",
    "__version__",
    "build_dataset",
    "fit",
]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use (PEP 562).

    Raises:
        AttributeError: There is none of that name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet."""
    return sorted({*globals(), *_MODULES})
