"""`LogisticRegression`: scikit-learn's interface on the exact optimizers, with a certificate of each fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from logreg.optimality.certificate import Certificate

Array = np.ndarray[Any, Any]


class LogisticRegression(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Logistic regression whose distance from the optimum is known."""

    def __init__(
        self,
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        loss: str = "auto",
        solver: str = "auto",
        precision: int = 32,
        device: str = "cpu",
        warm_start: bool = False,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.loss = loss
        self.solver = solver
        self.precision = precision
        self.device = device
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state

    @classmethod
    def _fitted(
        cls,
        coef: Array,
        intercept: Array,
        classes: Array,
        feature_names: Sequence[str] | None = None,
        certificate: Certificate | None = None,
        loss: str = "auto",
        **parameters: Any,
    ) -> Self:
        """The estimator with coefficients that are known already.

        Args:
            coef: Shape (K, D), of features in source units.  Two classes have one row, of the second class, or two
                rows, whose difference counts.
            intercept: Shape (K,).
            classes: The C classes in the order of the rows, in any order; ``classes_`` is sorted, as in scikit-learn.
            feature_names: Names of the D columns; ``None`` or empty where they have none.
            certificate: The certificate of the fit; ``None`` where there is none.
            loss: The loss that was minimized.
            parameters: Further parameters of the estimator.
        """
        self = cls(loss=loss, **parameters)
        order = np.argsort(classes)
        if len(classes) == 2:
            if len(coef) == 2:
                coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
            if order[1] == 0:
                coef, intercept = -coef, -intercept
        else:
            coef, intercept = coef[order], intercept[order]
        self.classes_ = classes[order]
        self.coef_, self.intercept_ = (
            np.ascontiguousarray(coef, np.float64),
            np.ascontiguousarray(intercept, np.float64),
        )
        self.n_features_in_, self.n_iter_ = (
            coef.shape[1],
            np.array([certificate.passes if certificate else 0], np.int32),
        )
        if feature_names:
            self.feature_names_in_ = np.array(feature_names, dtype=object)
        if certificate is not None:
            self.certificate_ = certificate
        return self
