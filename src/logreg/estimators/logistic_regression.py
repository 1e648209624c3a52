"""`LogisticRegression`: scikit-learn's interface on the exact optimizers, with a certificate of each fit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from logreg.errors import ConfigError, DataError
from logreg.estimators.input import (
    Array,
    as_array,
    as_tensor,
    encoded_labels,
    features_of,
    is_number,
    number_of_each_row,
    raise_not_finite,
    rows_of,
)
from logreg.facts import DataFacts
from logreg.losses import LOSSES, decided, default_loss, one_logit
from logreg.losses.objective import Objective
from logreg.optimality.certificate import Advice, Certificate
from logreg.optimality.separation.explain import explain_separation
from logreg.solvers.arguments import check_offset
from logreg.solvers.fit import Fit, fit
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import Pass
from logreg.solvers.state import SolverState
from logreg.terminal import counted
from logreg.training.model import linear_in_float64

DTYPES = {32: torch.float32, 64: torch.float64}
"""Floating type of the arithmetic by ``precision``."""

LARGEST = -torch.finfo(torch.float64).max, torch.finfo(torch.float64).max
"""Limits of a logit that overflows."""

PENALIZE = "set a penalty, such as C=1"
"""Advice on how to set a penalty."""


@dataclass(frozen=True)
class FitCertificate(Certificate):
    """The certificate of an estimator's fit; see `Certificate`.  Its advice names parameters of the estimator."""

    advice: ClassVar[Advice] = Advice(
        penalize=PENALIZE,
        go_on="raise max_iter",
        go_on_otherwise="raise max_iter, or scale the features (StandardScaler)",
        standardize="scale the features (StandardScaler)",
    )


class LogisticRegression(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Logistic regression whose distance from the optimum is known, with scikit-learn's interface.

    It minimizes scikit-learn's objective, here divided by C:

        sum_i s_i loss_i  +  ((1 - l1_ratio) / 2 |coef|^2 + l1_ratio |coef|_1) / C,

    with the weight s_i of a row times that of its class.  The intercept is not penalized.

    X is an array, a data frame (pandas, polars, or any other that NumPy converts), a sparse matrix of SciPy, or a
    tensor of torch, dense or CSR; sparse rows stay sparse.  Attributes are NumPy arrays in float64 whatever X is.
    Predictions for a tensor are tensors on its device (labels only where the classes are numbers or booleans); other
    predictions are arrays.

    Args:
        C: Inverse strength of the penalty, > 0; ``np.inf`` for no penalty.
        l1_ratio: Share of the l1 penalty, in [0, 1].
        fit_intercept: Whether an intercept is fitted; else it is 0.
        class_weight: ``None`` for 1; a dict from class to weight; or "balanced" for weights in inverse proportion to
            the weights of the classes' rows.
        tol: Relative gap (f - minimum) / f at which a fit ends, > 0.  It is proven, not estimated from steps.
        max_iter: Passes over the rows at most.
        loss: "auto" for "bce" with two classes and "cross_entropy" (softmax) with more.  "bce" with several classes is
            one-vs-rest.  With two classes also the name of another link: "probit", "cloglog", and others of
            `logreg.losses.LINKS`.
        solver: "newton", "lbfgs", or "auto" for the one that suits the problem.
        precision: 32 or 64 bits of the arithmetic far from the optimum.  Rows keep their own type, and the certificate
            is computed in float64.
        device: Device that arrays and data frames are fitted on, "cpu" or "cuda".  Tensors are fitted where they are.
        warm_start: Whether a fit starts from the coefficients of the one before, if these have the same shape.
        verbose: 1 prints a line for each fit, 2 one for each pass too (small problems are solved without passes).
        random_state: Seed of the samples of rows from which some solvers estimate the curvature; ``None`` for 0.

    Attributes:
        coef_: Coefficients of the features as they are, (1, D) of two classes and else (C, D).
        intercept_: Shape (1,) or (C,).
        classes_: The classes in ascending order, (C,).
        n_iter_: Passes over the rows that the fit took, (1,).
        n_features_in_: D.
        has_offset_: Whether `fit` had an offset; predictions then need one too.
        feature_names_in_: Names of the columns, (D,); only where X is a data frame whose names are texts.
        certificate_: How far the coefficients are from the optimum, a `Certificate`: ``value`` is f as above, in nats,
            and f - minimum is at most ``gap`` plus ``rounding``; ``relative_gap``, ``converged``, ``rigorous``,
            ``max_abs_gradient``, ``separation`` and ``verdict`` (in words) say more.

    Example:
        >>> model = LogisticRegression(C=np.inf).fit([[0.0], [1.0], [2.0], [3.0]], ["no", "yes", "no", "yes"])
        >>> model.predict([[2.5]]).tolist(), model.certificate_.converged
        (['yes'], True)

    References:
        Buitinck et al. (2013), API design for machine learning software: experiences from the scikit-learn project.
    """

    classes_: Array
    coef_: Any  # an array; a sparse one after `sparsify`
    intercept_: Array
    n_features_in_: int
    n_iter_: Array
    certificate_: Certificate
    has_offset_: bool = False

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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Self:
        """Fits the coefficients to a certified optimum.

        Args:
            X: Shape (N, D), numbers without missing values.
            y: Shape (N,): the class of each row, as text, whole numbers or booleans.
            sample_weight: Shape (N,), >= 0; a number for all rows; ``None`` for 1.
            offset: A known term of each row's logit, (N,), or a number for all rows, of two classes; ``None`` for 0.

        Warns:
            ConvergenceWarning: The relative gap is above ``tol``, or there is no penalty and the classes are separated,
                so that no finite optimum exists.

        Raises:
            ValueError: A parameter, or the data, cannot be fitted; the message says what to do.
        """
        self._check_parameters()
        classes, features, labels, weights, offsets = self._read(X, y, sample_weight, offset)
        objective = self._objective(classes, self.C, self.l1_ratio)
        start = self._start(classes, features, objective) if self.warm_start else None
        self._fit_rows(classes, features, labels, weights, offsets, objective, start)
        self._report()
        return self

    def _read(
        self, X: Any, y: Any, sample_weight: Any, offset: Any
    ) -> tuple[Array, Tensor, Tensor, Tensor | None, Tensor | None]:
        """The classes (C,), and features (N, D), labels (N,), weights (N,) and offsets (N,) of the rows of `fit`."""
        features, y = rows_of(self, X, y, self.device)
        classes, labels = encoded_labels(y)
        if len(classes) < 2:
            raise DataError(f"y must have rows of at least 2 classes, got one class, {classes.tolist()[0]!r}.")
        labels = labels.to(features.device)
        weights = self._weights(sample_weight, classes, labels)
        return classes, features, labels, weights, number_of_each_row("offset", offset, labels)

    def _objective(self, classes: Array, C: float, l1_ratio: float) -> Objective:
        """The objective divided by C, for these strengths of the penalties."""
        loss = default_loss(len(classes)) if self.loss == "auto" else self.loss
        return Objective(loss, "sum", (1 - l1_ratio) / C, l1_ratio / C)

    def _seed(self) -> int:
        """The seed of a fit."""
        if self.random_state is None or is_whole(self.random_state):
            return int(self.random_state or 0)
        return int(check_random_state(self.random_state).randint(2**31))

    def _fit_rows(
        self,
        classes: Array,
        features: Tensor,
        labels: Tensor,
        weights: Tensor | None,
        offset: Tensor | None,
        objective: Objective,
        start: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Fits the coefficients, and sets the attributes; ``start`` has coefficients (K, D) and intercepts (K,)."""
        solve = partial(
            fit,
            features,
            labels,
            objective,
            len(classes),
            weights,
            optimizer=self.solver,
            tolerance=self.tol,
            dtype=DTYPES[self.precision],
            intercept=self.fit_intercept,
            watch=_print_pass if self.verbose > 1 else None,
            seed=self._seed(),
            offset=offset,
        )
        try:
            found = solve(max_passes=self.max_iter, start=start)
        except DataError:
            raise_not_finite(self, features)
            raise
        if start is not None and not found.converged and found.passes < self.max_iter:  # too far from the optimum
            before, found = found.passes, solve(max_passes=self.max_iter - found.passes)
            found = replace(found, passes=before + found.passes)
        parts = [found.coef, found.intercept]
        if len(classes) == 2:
            parts = [one_logit(part) for part in parts]
        # In the order that a pickle has, too: products of another order have other last digits.
        self.coef_, self.intercept_ = (part.cpu().numpy().copy(order="C") for part in parts)
        self.classes_ = classes
        self.n_iter_ = np.array([found.passes], dtype=np.int32)
        self.has_offset_ = offset is not None
        self.certificate_ = self._certificate(found, objective, features, labels, weights)

    def decision_function(self, X: Any, offset: Any = None) -> Any:
        """The logits: (N,) for two classes, of the second one, and else (N, C); ``offset`` as of `fit`."""
        logits = self._logits(X, offset)
        return _like(X, logits[:, 0] if logits.shape[1] == 1 else logits)

    def predict_proba(self, X: Any, offset: Any = None) -> Any:
        """Probability of each class in ``classes_``, (N, C); of one-vs-rest they are divided by their sum."""
        return _like(X, self._probabilities(X, offset))

    def predict_log_proba(self, X: Any, offset: Any = None) -> Any:
        """Logarithm of `predict_proba`."""
        return _like(X, self._probabilities(X, offset).log())

    def predict(self, X: Any, offset: Any = None) -> Any:
        """The most probable class of each row, (N,)."""
        places = decided(self._probabilities(X, offset))
        if isinstance(X, Tensor) and self.classes_.dtype.kind in "biuf":
            return torch.from_numpy(self.classes_).to(places.device)[places]
        return self.classes_[places.cpu().numpy()]

    def score(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> float:
        """Accuracy: the share of rows whose class is predicted.

        Args:
            X: Shape (N, D).
            y: Shape (N,), the true classes.
            sample_weight: Shape (N,); ``None`` for 1.
            offset: As of `fit`.
        """
        predicted = as_array(self.predict(X, offset))
        return float(accuracy_score(as_array(y), predicted, sample_weight=as_array(sample_weight)))

    def sparsify(self) -> Self:
        """Makes ``coef_`` a sparse array, which takes less memory where l1 holds most coefficients at 0."""
        check_is_fitted(self)
        self.coef_ = csr_array(self.coef_)
        return self

    def densify(self) -> Self:
        """Makes ``coef_`` a dense array again, as `fit` leaves it."""
        check_is_fitted(self)
        self.coef_ = self.coef_.toarray() if issparse(self.coef_) else self.coef_
        return self

    @classmethod
    def from_checkpoint(cls, ckpt_path: str | Path) -> Any:
        """The model of a run as a fitted estimator.

        Args:
            ckpt_path: A run folder, for its last checkpoint, or a checkpoint.

        Returns:
            The estimator.  Its coefficients are of features in source units; a calibration is part of them, so that
            probabilities are those of the run.  Of a table it is a Pipeline of a `TableEncoder` and the estimator,
            which takes a data frame as it stands.

        Raises:
            ConfigError: There is no checkpoint, or no estimator gives the same probabilities.
        """
        from logreg.estimators.from_checkpoint import read_estimator  # it brings Lightning, which takes seconds

        return read_estimator(ckpt_path, cls)

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
        order = np.argsort(classes)
        if len(classes) == 2:
            coef, intercept = one_logit(coef), one_logit(intercept)
            if order[1] == 0:
                coef, intercept = -coef, -intercept
                loss = loss if loss == "auto" else LOSSES[loss].mirror
        else:
            coef, intercept = coef[order], intercept[order]
        self = cls(loss=loss, **parameters)
        self.classes_, self.n_features_in_ = classes[order], coef.shape[1]
        self.coef_, self.intercept_ = (np.array(part, dtype=np.float64) for part in (coef, intercept))
        self.n_iter_ = np.array([certificate.passes if certificate else 0], dtype=np.int32)
        if feature_names:
            self.feature_names_in_ = np.array(feature_names, dtype=object)
        if certificate is not None:
            self.certificate_ = certificate
        return self

    def _check_parameters(self) -> None:
        """Checks the parameters.

        Raises:
            ConfigError: One of them is out of its range.
        """
        self._check(
            C=(is_strength(self.C), "be a number > 0, or np.inf"),
            l1_ratio=(is_share(self.l1_ratio), "be a number in [0, 1]"),
            warm_start=(isinstance(self.warm_start, bool | np.bool_), "be True or False"),
        )
        self._check_settings()

    def _check_settings(self) -> None:
        """Checks the parameters other than the penalty.

        Raises:
            ConfigError: One of them is out of its range.
        """
        self._check(
            fit_intercept=(isinstance(self.fit_intercept, bool | np.bool_), "be True or False"),
            tol=(is_number(self.tol) and 0 < self.tol < 1, "be a number > 0 and < 1"),
            max_iter=(is_whole(self.max_iter) and self.max_iter >= 1, "be a whole number >= 1"),
            precision=(self.precision in tuple(DTYPES), "be 32 or 64"),
            verbose=(isinstance(self.verbose, Integral) and self.verbose >= 0, "be a whole number >= 0"),
            class_weight=(
                self.class_weight is None or isinstance(self.class_weight, dict) or self.class_weight == "balanced",
                'be None, "balanced" or a dict from class to weight',
            ),
        )
        for key, choices in (("loss", ("auto", *LOSSES)), ("solver", ("auto", *EXACT))):
            if getattr(self, key) not in choices:
                raise ConfigError.not_a_choice(key, choices, getattr(self, key))

    def _check(self, **constraints: tuple[bool, str]) -> None:
        """Checks parameters, each by whether its constraint holds and the constraint in words.

        Raises:
            ConfigError: One does not hold.
        """
        for key, (holds, constraint) in constraints.items():
            if not holds:
                raise ConfigError.broken(key, constraint, getattr(self, key))

    def _weights(self, sample_weight: Any, classes: Array, labels: Tensor) -> Tensor | None:
        """The weight of each row, times that of its class, (N,), float64; ``None`` for 1 everywhere."""
        weights = number_of_each_row("sample_weight", sample_weight, labels)
        if weights is None and self.class_weight is None:
            return None
        if weights is None:
            weights = torch.ones(len(labels), dtype=torch.float64, device=labels.device)
        if self.class_weight is not None:
            weights = weights * self._class_weights(classes, labels, weights)[labels]
        if not bool(weights.any()):
            raise DataError("sample_weight times class_weight must not be zero in every row. Give some row a weight.")
        return weights

    def _class_weights(self, classes: Array, labels: Tensor, weights: Tensor) -> Tensor:
        """The weight of each class, (C,), float64."""
        if self.class_weight == "balanced":  # a class whose rows weigh nothing counts, as in scikit-learn
            totals = torch.bincount(labels, weights, len(classes))
            return torch.where(totals > 0, totals.sum() / (len(classes) * totals), 0.0)
        by_class = as_tensor(compute_class_weight(self.class_weight, classes=classes, y=classes))
        if not bool(((by_class >= 0) & by_class.isfinite()).all()):
            raise ConfigError.broken("class_weight", "have finite numbers >= 0", self.class_weight)
        return by_class.to(labels.device)

    def _start(self, classes: Array, features: Tensor, objective: Objective) -> tuple[Tensor, Tensor] | None:
        """The coefficients (K, D) and intercepts (K,) of the fit before; ``None`` where they have another shape."""
        outputs = 1 if len(classes) == 2 else len(classes)
        if not hasattr(self, "coef_") or self.coef_.shape != (outputs, features.shape[1]):
            return None
        start = self._parameters(features.device)
        if objective.row_loss.num_outputs(len(classes)) > outputs:  # a softmax of two classes
            start = [torch.cat([-part, part]) / 2 for part in start]
        return start[0], start[1] * self.fit_intercept

    def _parameters(self, device: torch.device) -> list[Tensor]:
        """The coefficients (K, D) and the intercepts (K,), float64, whether ``coef_`` is sparse or not."""
        coef = self.coef_.toarray() if issparse(self.coef_) else self.coef_
        return [as_tensor(part).to(device, torch.float64) for part in (coef, self.intercept_)]

    def _certificate(
        self, found: Fit, objective: Objective, features: Tensor, labels: Tensor, weights: Tensor | None
    ) -> FitCertificate:
        """The certificate of a fit."""
        separation, texts = "", tuple(map(str, self.classes_.tolist()))
        names = list(getattr(self, "feature_names_in_", ()))
        if weights is not None and self.fit_intercept:
            weighted = labels[weights > 0]
            if bool((weighted == weighted[0]).all()):
                separation = (
                    f"no finite optimum: all rows of positive weight are of the class '{texts[int(weighted[0])]}', so "
                    "the intercept grows without bound; give rows of another class a weight"
                )
        if not (objective.has_penalty or separation):
            facts = DataFacts("", features.shape[1], texts, {}, tuple(names))
            separation = explain_separation(
                features, labels, objective, facts, self.fit_intercept, weights, penalize=PENALIZE
            )
        return FitCertificate.of_bound(
            found.bound,
            objective,
            names,
            weighted=weights is not None,
            intercept=self.fit_intercept,
            offset="of each row" if self.has_offset_ else "",
            dtype=DTYPES[self.precision],
            tolerance=self.tol,
            rows=features.shape[0],
            passes=found.passes,
            seconds=found.seconds,
            separation=separation,
        )

    def _report(self) -> None:
        """Prints or warns what the certificate says."""
        certificate, name = self.certificate_, type(self).__name__
        if self.verbose:
            print(f"{name}: {counted(certificate.passes, 'pass')}, {certificate.seconds:.2g} s: {certificate.verdict}")
        if certificate.separation:
            warnings.warn(f"{name}: {certificate.separation}.", ConvergenceWarning, stacklevel=3)
        elif not (certificate.relative_gap <= self.tol or certificate.is_stationary):
            warnings.warn(
                f"{name} has not reached tol={self.tol:g} in {counted(certificate.passes, 'pass')}: "
                f"{certificate.verdict}. The relative gap is {certificate.relative_gap:.2g}.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _logits(self, X: Any, offset: Any) -> Tensor:
        """The logits (N, K), float64, on the device of X where it is a tensor."""
        if not hasattr(self, "coef_"):
            check_is_fitted(self)
        if self.has_offset_ and offset is None:
            raise DataError("offset must be given, as to fit. Give one number for each row, or offset=0 for none.")
        features = features_of(self, X)
        coef, intercept = self._parameters(features.device)
        logits = linear_in_float64(features, coef, intercept)
        offsets = number_of_each_row("offset", offset, logits[:, 0])
        if offsets is not None:
            check_offset(logits[:, 0], offsets, logits.shape[1])
            logits = logits + offsets.unsqueeze(1)
        if not bool(logits.isfinite().all()):
            raise_not_finite(self, features)
            if bool(logits.isnan().any()):  # products of both signs overflow
                raise DataError("X is too large for float64 to add its products with coef_. Write it in another unit.")
            logits = logits.clamp(*LARGEST)
        return logits

    def _probabilities(self, X: Any, offset: Any) -> Tensor:
        """Probability of each class, (N, C), float64."""
        logits = self._logits(X, offset)
        loss = LOSSES[default_loss(len(self.classes_)) if self.loss == "auto" else self.loss]
        if logits.shape[1] == 1:  # a softmax of two classes is a sigmoid of the difference
            loss = LOSSES[default_loss(2)] if loss.couples_outputs else loss
        return loss.class_probabilities(logits)


def is_strength(value: Any) -> bool:
    """Whether a value can be C: a number > 0 whose inverse is finite."""
    return is_number(value) and value > 0 and math.inf > 1 / value


def is_share(value: Any) -> bool:
    """Whether a value can be l1_ratio: a number in [0, 1]."""
    return is_number(value) and 0 <= value <= 1


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, and no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _print_pass(state: SolverState, requested: Pass[object]) -> None:
    """Prints the state of a solver after a pass."""
    print(f"f = {state.value:.9g}, gap about {state.gap:.2g}, predicted decrease {state.predicted_decrease:.2g}")


def _like(X: Any, result: Tensor) -> Any:
    """A result for X: a tensor for a tensor, else an array."""
    return result if isinstance(X, Tensor) else result.numpy()
