from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from logreg import LogisticRegression

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks(
    [
        LogisticRegression(),
        LogisticRegression(loss="bce", precision=64),
        LogisticRegression(solver="lbfgs", l1_ratio=0.5),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
