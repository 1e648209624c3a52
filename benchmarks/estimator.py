"""Small fits of the estimator: our LogisticRegression against scikit-learn's, each as a user would call it.

Both fit the same arrays with their defaults: ours to a certified relative gap of 1e-6, theirs to ``tol=1e-4`` of the
gradient or 100 iterations.  Processor time of one fit, the checks of its arguments included.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from common import Target, alternate, new_parser, positive, print_ratios, print_versions

TARGET = {"scikit-learn": Target(1.0)}


def problems() -> Iterator[tuple[str, Any, Any, int]]:
    """Name, features (N, D), labels (N,), and the number of fits that take about as long as 1,000 of the first."""
    from sklearn.datasets import load_breast_cancer, load_digits

    draw = np.random.default_rng(0)
    X = draw.standard_normal((100, 5))
    yield "100 x 5", X, (X @ draw.standard_normal(5) + draw.standard_normal(100) > 0).astype(int), 1000
    X, y = load_breast_cancer(return_X_y=True)
    yield "breast_cancer, 569 x 30", X, y, 200
    yield "breast_cancer, standardized", (X - X.mean(0)) / X.std(0), y, 500
    X, y = load_digits(return_X_y=True)
    yield "digits, 1,797 x 64, 10 classes", X, y, 5


def milliseconds_of(fit: Callable[[], object], times: int) -> list[float]:
    """Processor time of a fit in milliseconds, the mean of many."""
    start = time.process_time()
    for _ in range(times):
        fit()
    return [1000 * (time.process_time() - start) / times]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = new_parser(__doc__)
    parser.add_argument("--fits", type=positive, default=1000, metavar="N", help="fits of the smallest (default: 1000)")
    options = parser.parse_args(arguments)
    from sklearn.linear_model import LogisticRegression as Theirs

    from logreg import LogisticRegression

    print_versions()
    warnings.filterwarnings("ignore")  # theirs, of fits that end at max_iter
    for name, X, y, fits in problems():
        fits = max(1, fits * options.fits // 1000)
        ours, theirs = LogisticRegression(), Theirs()
        arms = {
            "ours": partial(milliseconds_of, partial(ours.fit, X, y), fits),
            "scikit-learn": partial(milliseconds_of, partial(theirs.fit, X, y), fits),
        }
        print_ratios(f"{name}: milliseconds of a fit", alternate(arms, options.repeats), TARGET)
        print(f"ours: {ours.certificate_.verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
