"""scikit-learn's own tests of logistic regression, with our classes in place of theirs.

Runs ``sklearn/linear_model/tests/test_logistic.py`` of the installed scikit-learn.  Each test has passed, has failed,
or is not applicable, for the reason that is printed.  The exit code is 1 where a test fails.  Names of their solvers
stand for ours.  Where a test gives no values of C to LogisticRegressionCV, it gets theirs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import new_parser

SUITE = "sklearn.linear_model.tests.test_logistic"
"""The module of the tests."""

SOLVERS = {
    "lbfgs": "auto",
    "newton-cg": "newton",
    "newton-cholesky": "newton",
    "liblinear": "newton",
    "sag": "lbfgs",
    "saga": "lbfgs",
}
"""Our solver for each of theirs: the default for the default, and gradients for gradients."""

TOLERANCE = 1e-12
"""Largest ``tol`` of a fit.  Theirs is of the gradient and ours of the gap, which falls as the gradient squared; their
tests compare coefficients with four to seven digits."""

OTHER_SCORES = "it takes another score than log loss, accuracy and AUROC, or a scorer"

NOT_APPLICABLE = {
    r"test_logistic_cv_mock_scorer|test_lr_cv_scores_.*": OTHER_SCORES,
    r"test_logistic_cv_multinomial_score.*": "it is about a private function",
    r"test_(logistic_cv_folds_with_classes_missing|multinomial_cv_iris).*": (
        "a split whose fit lacks a class is refused"
    ),
    r"test_passing_params_without_enabling_metadata_routing": "groups are taken without metadata routing too",
    r"test_logisticregressioncv_warns_with_use_legacy_attributes": "it is about warnings of a deprecated default",
    r"test_(lr_scoring_warns|get_default_scorer|l1_ratio_None_deprecated)": (
        "it is about warnings of a deprecated default"
    ),
    r"test_logistic_regression_path_.*": "it is about a private function",
    r"test_logreg_predict_proba_multinomial.*": "it calls a private method",
    r"test_logistic_regression_array_api_.*": "attributes are NumPy arrays for tensors too",
    r"test_logistic_regression_callback_.*": "scikit-learn's callbacks are not offered",
    r"test_(check_solver_option|liblinear_multiclass_raises).*": "it is about the limits of their solvers",
    r"test_(liblinear_(dual_random_state|with_large_values).*|large_sparse_matrix.*-(liblinear|sag|saga)\])": (
        "it is about the limits of their solvers"
    ),
    r"test_newton_cholesky_fallback_to_lbfgs": "it is about the limits of their solvers",
    r"test_max_iter.*": "it is about the words of their warnings; ours is tested in tests/estimators",
    r"test_(penalty_none|penalty_deprecated|l1_ratio_non_elasticnet|lr_penalty_l1ratio_incompatible).*": (
        "it is about warnings of the deprecated argument penalty"
    ),
    r"test_elasticnet_l1_ratio_err_helpful.*": "it is about errors of the deprecated argument penalty",
    r"test_logisticregression_warns_with_n_jobs": "it is about the deprecated argument n_jobs",
    r"test_dtype_match.*": "coefficients are in float64 whatever the type of X",
    r"test_zero_max_iter.*": "max_iter is at least 1: a fit without a pass has no certificate",
}
"""Pattern of names of tests -> the reason why they say nothing about our classes; the first that fits."""


def reason_of(test: str) -> str | None:
    """The reason why a test is not applicable; ``None`` for one that must pass."""
    return next((reason for pattern, reason in NOT_APPLICABLE.items() if re.fullmatch(pattern, test)), None)


class Suite:
    """A plugin of pytest that replaces scikit-learn's classes, leaves out tests and notes the results."""

    def __init__(self, only: str) -> None:
        """Replaces the classes; ``only`` is a pattern of the tests to run."""
        import numpy as np
        import sklearn.linear_model

        import logreg

        class LogisticRegression(logreg.LogisticRegression):
            """Ours, with the names of their solvers and their older arguments."""

            def __init__(
                self,
                penalty: Any = "",
                *,
                dual: bool = False,
                intercept_scaling: float = 1,
                tol: float = 1e-4,
                max_iter: int = 100,
                solver: str = "lbfgs",
                **others: Any,
            ) -> None:
                super().__init__(tol=tol, max_iter=max_iter, solver=solver, **others)
                self.penalty, self.dual, self.intercept_scaling = penalty, dual, intercept_scaling

            @classmethod
            def _get_param_names(cls) -> list[str]:
                return [*logreg.LogisticRegression._get_param_names(), "penalty", "dual", "intercept_scaling"]

            def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Any:
                given = {name: getattr(self, name) for name in ("solver", "tol", "C", "l1_ratio")}
                self.solver, self.tol = SOLVERS.get(self.solver, self.solver), min(self.tol, TOLERANCE)
                self.C = np.inf if self.penalty is None else self.C
                self.l1_ratio = {"l1": 1.0, "l2": 0.0}.get(self.penalty, self.l1_ratio)
                try:
                    return super().fit(X, y, sample_weight, offset)
                finally:
                    self.set_params(**given)

        class LogisticRegressionCV(logreg.LogisticRegressionCV):
            """Ours, with the names of their solvers, their older arguments and their attributes."""

            C_: Any  # these four have another form with ``use_legacy_attributes``
            l1_ratio_: Any
            scores_: Any
            coefs_paths_: Any

            def __init__(
                self,
                *,
                Cs: Any = 10,
                l1_ratios: Any = None,
                penalty: Any = "",
                dual: bool = False,
                intercept_scaling: float = 1,
                n_jobs: Any = None,
                scoring: Any = None,
                tol: float = 1e-4,
                max_iter: int = 100,
                solver: str = "lbfgs",
                use_legacy_attributes: bool = True,
                **others: Any,
            ) -> None:
                super().__init__(
                    Cs=Cs, l1_ratios=l1_ratios, scoring=scoring, tol=tol, max_iter=max_iter, solver=solver, **others
                )
                self.penalty, self.dual, self.intercept_scaling, self.n_jobs = penalty, dual, intercept_scaling, n_jobs
                self.use_legacy_attributes = use_legacy_attributes

            @classmethod
            def _get_param_names(cls) -> list[str]:
                older = ["penalty", "dual", "intercept_scaling", "n_jobs", "use_legacy_attributes"]
                return [*logreg.LogisticRegressionCV._get_param_names(), *older]

            def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None, **params: Any) -> Any:
                given = {name: getattr(self, name) for name in ("solver", "tol", "Cs", "l1_ratios", "scoring")}
                self.solver, self.tol = SOLVERS.get(self.solver, self.solver), min(self.tol, TOLERANCE)
                self.Cs = np.logspace(-4, 4, self.Cs) if isinstance(self.Cs, int) else self.Cs
                self.l1_ratios = (0.0,) if self.l1_ratios is None else self.l1_ratios
                self.scoring = self.scoring or "accuracy"
                try:
                    super().fit(X, y, sample_weight, offset, **params)
                finally:
                    self.set_params(**given)
                if self.use_legacy_attributes:
                    self._take_legacy_attributes()
                return self

            def _take_legacy_attributes(self) -> None:
                several = len(self.coef_)
                scores, n_iter = self.scores_.swapaxes(1, 2), self.n_iter_.swapaxes(1, 2)[None]
                paths = self.coefs_paths_.transpose(3, 0, 2, 1, 4)
                if self.l1_ratios is None:
                    scores, n_iter, paths = scores[..., 0], n_iter[..., 0], paths[..., 0, :]
                names = self.classes_[-several:]
                legacy = {
                    "C_": np.full(several, self.C_),
                    "l1_ratio_": np.full(several, self.l1_ratio_),
                    "scores_": dict.fromkeys(names, scores),
                    "coefs_paths_": dict(zip(names, paths, strict=True)),
                    "n_iter_": n_iter,
                }
                for name, value in legacy.items():
                    setattr(self, name, value)

        sklearn.linear_model.LogisticRegressionCV = LogisticRegressionCV
        sklearn.linear_model.LogisticRegression = LogisticRegression
        self.only = only
        self.results: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leaves out the tests that are not applicable."""
        items[:] = [item for item in items if re.search(self.only, item.name)]
        for item in items:
            if (reason := reason_of(item.name)) is not None:
                self.results[item.name] = reason
        items[:] = [item for item in items if item.name not in self.results]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Notes how a test ended."""
        name = report.nodeid.split("::", 1)[1]
        if report.skipped:
            self.results[name] = f"skipped by scikit-learn: {report.longrepr[2].removeprefix('Skipped: ')}"
        elif report.failed or (report.when == "call" and name not in self.results):
            self.results[name] = report.outcome


def run_here(only: str, file: str) -> None:
    """Runs the tests in this process, and writes the result of each into a file as JSON."""
    import pytest

    suite = Suite(only)
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", "pytest.ini"]
    pytest.main([*options, "--pyargs", SUITE], plugins=[suite])
    Path(file).write_text(json.dumps(suite.results), encoding="utf-8")


def run_suite(only: str) -> tuple[dict[str, str], str]:
    """The result of each test by its name ("passed", "failed" or a reason), and what pytest printed."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        (Path(folder) / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import sklearn_suite"
        done = subprocess.run(
            [sys.executable, "-c", f"{code}; sklearn_suite.run_here(*sys.argv[1:])", only, str(results)],
            cwd=folder,
            env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
            capture_output=True,
            text=True,
            check=False,
        )
        if not results.exists():
            raise RuntimeError(f"the tests did not run:\n{done.stdout}{done.stderr}")
        return json.loads(results.read_text(encoding="utf-8")), done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tests and prints the list; 1 where one failed."""
    parser = new_parser(__doc__, repeats=None)
    parser.add_argument("--only", default="", metavar="PATTERN", help="run the tests whose names contain this pattern")
    parser.add_argument("--output", action="store_true", help="print what pytest printed too")
    options = parser.parse_args(arguments)
    results, output = run_suite(options.only)
    if options.output:
        print(output)
    print(
        f"{SUITE} of scikit-learn {version('scikit-learn')} with logreg's LogisticRegression and LogisticRegressionCV\n"
    )
    for test, result in sorted(results.items()):
        print(f"{test}: {result if result in ('passed', 'failed') else f'not applicable: {result}'}")
    counts = Counter(result if result in ("passed", "failed") else "not applicable" for result in results.values())
    print(
        f"\n{len(results)} tests: "
        + ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "failed", "not applicable"))
    )
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
