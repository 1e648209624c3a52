"""`LogisticRegressionCV`: the estimator that chooses its penalty by cross-validation, with scikit-learn's interface."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn import get_config
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, check_cv
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from torch import Tensor

from logreg.config import SELECT
from logreg.errors import ConfigError, DataError
from logreg.estimators.input import Array, as_array, is_number, number_of_each_row, raise_not_finite
from logreg.estimators.logistic_regression import DTYPES, LogisticRegression, is_share, is_strength, is_whole
from logreg.evaluation.cross_validation import FoldScores, cross_validated_rows
from logreg.evaluation.path_selection import best_of, score_points, simplest_of
from logreg.losses import one_logit
from logreg.optimality.certificate import is_stationary
from logreg.rows import MemoryRows, dense_sample
from logreg.solvers.arguments import check_offset, check_weights
from logreg.solvers.fit import problem_of
from logreg.solvers.paths.folds import FoldPaths, fit_folds, fit_parts
from logreg.solvers.paths.l1_path import default_l1_strengths, largest_slope
from logreg.solvers.paths.l2_path import PathPoint, Strength, default_strengths
from logreg.solvers.problem import Problem
from logreg.solvers.source_units import in_source_units, stored_rows
from logreg.solvers.threads import threads_for
from logreg.stored_form import StoredForm

SCORINGS = {"neg_log_loss": "log_loss", "accuracy": "accuracy", "roc_auc": "auroc"}
"""The score that chooses, by scikit-learn's name: its key in `SELECT`."""

RULES = ("best", "one_se")
"""The rules by which a penalty is chosen, as the commands name them (``cv_rule``)."""

DEFAULT_FOLDS = 5
"""Number of folds where ``cv`` is ``None``, as in scikit-learn, unless a class has fewer rows."""

Split = tuple[Array, Array]
"""The positions of the rows that are fitted, and of those that are scored."""


class LogisticRegressionCV(LogisticRegression):
    """Logistic regression that chooses C and l1_ratio by cross-validation, with scikit-learn's interface.

    The objective is that of `LogisticRegression`.  It is fitted for every C and l1_ratio on all rows and on the rows of
    each split, to a certified gap each, and scored on the other rows of the split.  Attributes have the shapes of
    scikit-learn's ``use_legacy_attributes=False``.

    Args:
        Cs: The values of C, each > 0 and finite; or their number, for values at equal distances on a logarithmic scale.
            These begin where the penalty outweighs the data.  With l1 that is glmnet's largest lambda, from which all
            coefficients are 0, and the last is 1e-4 of it (1e-2 where rows do not outnumber features).  With l2
            alone it is the largest curvature of the loss at zero, and the last is 1e-6 of it.  Several ``l1_ratios``
            share the values, from the strongest penalty of any to the weakest of any.
        l1_ratios: The values of l1_ratio, each in [0, 1].
        cv: The number of folds, which are stratified and not shuffled; a splitter of scikit-learn; or an iterable of
            pairs of positions, of the rows that are fitted and of those that are scored.  ``None`` for 5 folds, or as
            many as the smallest class has rows.
        cv_rule: "best" for the best mean score, or "one_se" for the strongest penalty, with the same l1_ratio, whose
            score is within one standard error of the best.
        scoring: The score that chooses: "neg_log_loss", "accuracy" or, for two classes, "roc_auc".
        fit_intercept: As of `LogisticRegression`.
        class_weight: As of `LogisticRegression`; "balanced" counts all rows.  Scores are without it, as in
            scikit-learn.
        tol: As of `LogisticRegression`, of every fit.
        max_iter: Passes over the rows at most, of the last fit on all rows.
        loss: As of `LogisticRegression`.
        solver: As of `LogisticRegression`, of the last fit on all rows.
        precision: As of `LogisticRegression`.
        device: As of `LogisticRegression`.
        refit: Whether the coefficients are those of all rows with the chosen penalty.  Else they are the mean over the
            splits, each with the C and l1_ratio of its best score, and ``C_`` and ``l1_ratio_`` are means too.
        verbose: As of `LogisticRegression`.
        random_state: Seed of the samples of rows from which some solvers estimate the curvature; ``None`` for 0.  It
            does not shuffle folds.

    Attributes:
        C_: The chosen C.
        l1_ratio_: The chosen l1_ratio.
        Cs_: The values of C: as given, or in ascending order, (P,).
        l1_ratios_: The values of l1_ratio, (R,).
        scores_: The score of each split, (F, R, P); as ``scoring`` has it, so more is better.
        mean_scores_: Their mean over the splits, weighted by the scored rows, (R, P).
        standard_errors_: The standard error of the mean, (R, P); nan for a single split.
        coefs_paths_: The coefficients of each split, (F, R, P, K, D + 1) with the intercept last, or (F, R, P, K, D)
            without ``fit_intercept``; K is 1 for two classes and else their number.
        full_path_: The same of the fits on all rows, (R, P, K, D + 1).
        n_iter_: Passes over the rows of each split's fit, (F, R, P).
        coef_, intercept_, classes_, n_features_in_, feature_names_in_: As of `LogisticRegression`.
        certificate_: That of the fit on all rows with the chosen penalty; only with ``refit``.

    Example:
        >>> X = [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0]]
        >>> model = LogisticRegressionCV(Cs=[0.1, 1.0], cv=2).fit(X, [0, 0, 1, 0, 1, 0, 1, 1])
        >>> model.C_, model.scores_.shape, model.certificate_.converged
        (0.1, (2, 1, 2), True)

    References:
        Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate
        descent: means and standard errors are those of their program, cv.glmnet.
    """

    C_: float
    l1_ratio_: float
    Cs_: Array
    l1_ratios_: Array
    scores_: Array
    mean_scores_: Array
    standard_errors_: Array
    coefs_paths_: Array
    full_path_: Array

    def __init__(
        self,
        *,
        Cs: Any = 100,
        l1_ratios: Sequence[float] = (0.0,),
        cv: Any = None,
        cv_rule: Literal["best", "one_se"] = "best",
        scoring: str = "neg_log_loss",
        fit_intercept: bool = True,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        loss: str = "auto",
        solver: str = "auto",
        precision: int = 32,
        device: str = "cpu",
        refit: bool = True,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.cv = cv
        self.cv_rule = cv_rule
        self.scoring = scoring
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.loss = loss
        self.solver = solver
        self.precision = precision
        self.device = device
        self.refit = refit
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None, **params: Any) -> Self:
        """Chooses the penalty by cross-validation, and fits the coefficients to a certified optimum.

        Args:
            X: Shape (N, D), numbers without missing values.
            y: Shape (N,): the class of each row, as text, whole numbers or booleans.
            sample_weight: Shape (N,), >= 0; a number for all rows; ``None`` for 1.  Fits and scores have it.
            offset: As of `LogisticRegression`, of fits and scores.
            **params: ``groups`` (N,) for the splitter, by which a group stays on one side of every split; where ``cv``
                is a number, the splitter is then scikit-learn's StratifiedGroupKFold.  With metadata routing, whatever
                the splitter requests.

        Warns:
            ConvergenceWarning: The relative gap of some fit is above ``tol``.

        Raises:
            TypeError: ``params`` has another name.
            ValueError: A parameter, the data or the splits cannot be fitted; the message says what to do.
        """
        self._check_parameters()
        classes, features, labels, weights, offsets = self._read(X, y, sample_weight, offset)
        check_weights(labels, weights, (), len(classes))
        some = self._objective(classes, 1.0, 0.0)  # any penalty, in source units
        check_offset(labels, offsets, some.row_loss.num_outputs(len(classes)))
        if self.scoring == "roc_auc" and len(classes) != 2:
            raise ConfigError.broken(
                "scoring", 'be "neg_log_loss" or "accuracy" for more than two classes', self.scoring
            )
        splits = self._splits(X, classes, labels, {"sample_weight": sample_weight, "offset": offset}, params)
        own_weights = number_of_each_row("sample_weight", sample_weight, labels)
        self._check_splits(splits, classes, labels, weights, own_weights)
        try:
            memory, stored = stored_rows(features, labels, weights, self.fit_intercept, offsets)
        except DataError:
            raise_not_finite(self, features)
            raise
        problem = problem_of(memory, some, len(classes), (), DTYPES[self.precision], self.fit_intercept, stored)
        self.classes_, self.l1_ratios_ = classes, np.array(self.l1_ratios, dtype=np.float64)
        self.Cs_ = self._grid(problem, memory)
        partitions = _partitions(splits, len(labels))
        with threads_for(4.0 * problem.rows * problem.num_parameters):
            full, of_splits = self._fit_splits(problem, memory, splits, partitions)
        scored = MemoryRows(memory.features, labels, own_weights, offsets)
        held_out = [scored.at(torch.from_numpy(test)) for _, test in splits]
        scores = [
            score_points(problem, [one.point for one in points], rows.blocks(), self.scoring == "roc_auc")
            for points, rows in zip(of_splits, held_out, strict=True)
        ]
        self._choose(problem, FoldScores(scores, max(1, len(partitions))), full, of_splits)
        self.full_path_ = self._coefficients(problem, stored, [full])[0]
        self.coefs_paths_ = self._coefficients(problem, stored, of_splits)
        passes = np.array([[one.passes for one in points] for points in of_splits], dtype=np.int32)
        if self.refit:
            objective = self._objective(classes, self.C_, self.l1_ratio_)
            self._fit_rows(classes, features, labels, weights, offsets, objective)
            self._report()
        else:
            self._average()
        self.has_offset_ = offsets is not None
        self.n_iter_ = passes.reshape(self.scores_.shape)
        self._report_splits(problem, of_splits)
        return self

    def score(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> float:
        """The score that ``scoring`` names.

        Args:
            X: Shape (N, D).
            y: Shape (N,), the true classes.
            sample_weight: Shape (N,); ``None`` for 1.
            offset: As of `fit`.
        """
        if self.scoring == "accuracy":
            return super().score(X, y, sample_weight, offset)
        y, weights = as_array(y), as_array(sample_weight)
        if self.scoring == "roc_auc":
            return float(roc_auc_score(y, as_array(self.decision_function(X, offset)), sample_weight=weights))
        probabilities = as_array(self.predict_proba(X, offset))
        return -float(log_loss(y, probabilities, sample_weight=weights, labels=self.classes_))

    def get_metadata_routing(self) -> MetadataRouter:
        """The metadata that `fit` takes: its own, and that of the splitter."""
        router = MetadataRouter(owner=self).add_self_request(self)
        return router.add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))

    @classmethod
    def from_checkpoint(cls, ckpt_path: str | Path) -> Any:
        """A run keeps neither scores nor fits of the folds as this estimator has them.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "`from_checkpoint` must be called on LogisticRegression, since a checkpoint has no scores_ and no "
            f"coefs_paths_. Use LogisticRegression.from_checkpoint({str(ckpt_path)!r}), and read path.csv of the run."
        )

    def _check_parameters(self) -> None:
        """Checks the parameters.

        Raises:
            ConfigError: One of them is out of its range.
        """
        number = is_whole(self.Cs)
        self._check(
            Cs=(
                self.Cs >= 1 if number else _all_are(self.Cs, lambda C: is_strength(C) and math.inf > C),
                "be a whole number >= 1, or a list of finite numbers > 0",
            ),
            l1_ratios=(_all_are(self.l1_ratios, is_share), "be a list of numbers in [0, 1]"),
            cv=(not is_number(self.cv) or (is_whole(self.cv) and self.cv >= 2), "be a whole number >= 2"),
            refit=(isinstance(self.refit, bool | np.bool_), "be True or False"),
        )
        for key, choices in (("cv_rule", RULES), ("scoring", SCORINGS)):
            if getattr(self, key) not in choices:
                advice = "For another score use GridSearchCV." if key == "scoring" else ""
                raise ConfigError.not_a_choice(key, choices, getattr(self, key), advice)
        if self.cv_rule == "one_se" and not self.refit:
            raise ConfigError.broken(
                "cv_rule", 'be "best" with refit=False, which takes the best of each split', "one_se"
            )
        self._check_settings()

    def _splits(
        self, X: Any, classes: Array, labels: Tensor, own: dict[str, Any], params: dict[str, Any]
    ) -> list[Split]:
        """The splits that ``cv`` names; ``own`` has the metadata that fits take, and ``params`` all other.

        Raises:
            TypeError: A parameter of `fit` has no taker.
            ValueError: The rows do not allow these splits.
        """
        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit", **own, **params).splitter.split
        elif others := params.keys() - {"groups"}:
            raise TypeError(f"fit takes X, y, sample_weight, offset and groups, got {', '.join(sorted(others))}.")
        params = {key: as_array(value) for key, value in params.items() if value is not None}
        cv, counts = self.cv, np.bincount(labels.cpu())
        if cv is None:
            cv = max(2, min(DEFAULT_FOLDS, int(counts.min())))
        y, positions = classes[labels.cpu().numpy()], np.arange(len(labels))
        if is_whole(cv):
            least = int(counts.min())
            if least < cv:
                advice = f"Set cv={least}" if least > 1 else "Leave out its rows"
                raise DataError(
                    f"`cv` must be at most the number of rows of each class, got {cv}, and class "
                    f"{classes.tolist()[counts.argmin()]!r} has {least}. {advice}, or get more of them."
                )
            if "groups" in params:
                number = len(np.unique(params["groups"]))
                if number < cv:
                    advice = f"Set cv={number}" if number > 1 else "Leave groups out"
                    raise DataError(
                        f"`cv` must be at most the number of groups, got {cv}, and groups has {number}. {advice}."
                    )
                cv = StratifiedGroupKFold(cv)
        splits = check_cv(cv, y, classifier=True).split(positions[:, None] if isinstance(X, Tensor) else X, y, **params)
        try:
            return [(positions[as_array(train)], positions[as_array(test)]) for train, test in splits]
        except IndexError as error:
            raise DataError(f"`cv` must give positions of the {len(y)} rows: {error}.") from error

    def _check_splits(
        self, splits: Sequence[Split], classes: Array, labels: Tensor, weights: Tensor | None, own: Tensor | None
    ) -> None:
        """Checks that every split has rows to fit of every class, and rows to score.

        Args:
            splits: The splits.
            classes: The classes, (C,).
            labels: The class of each row, (N,).
            weights: The weight of each row in the fits, (N,).
            own: The weight of each row in the scores, (N,).

        Raises:
            DataError: A split does not.
        """
        if not splits:
            raise DataError("`cv` must give one split at least, got none.")
        place, names = labels.cpu().numpy(), classes.tolist()
        in_fits, in_scores = (np.ones(len(place)) if one is None else one.cpu().numpy() for one in (weights, own))
        for number, (train, test) in enumerate(splits, 1):
            fitted, held_out = (
                np.bincount(place[rows], of_rows[rows], len(names))
                for rows, of_rows in ((train, in_fits), (test, in_scores))
            )
            if not fitted.all():
                raise DataError(
                    f"split {number} of `cv` must have rows to fit of every class with a weight > 0, and has none of "
                    f"{names[int(fitted.argmin())]!r}. Use stratified folds, such as cv=StratifiedKFold(5)."
                )
            if not held_out.any():
                raise DataError(f"split {number} of `cv` must have rows to score with a weight > 0, and has none.")
            if self.scoring == "roc_auc" and not held_out.all():
                raise DataError(
                    f"split {number} of `cv` must have rows to score of both classes for roc_auc, and has none of "
                    f'{names[int(held_out.argmin())]!r}. Use fewer folds, or scoring="neg_log_loss".'
                )

    def _grid(self, problem: Problem, rows: MemoryRows) -> Array:
        """The values of C, (P,)."""
        if not is_whole(self.Cs):
            return np.array(self.Cs, dtype=np.float64)
        if not largest_slope(problem, rows):  # every penalty holds all coefficients at 0, as of constant features
            return np.geomspace(1e-4, 1e4, self.Cs)
        strongest, weakest = 0.0, math.inf
        for l1_ratio in self.l1_ratios_.tolist():
            if l1_ratio:
                ends = [one.l1 / l1_ratio for one in default_l1_strengths(problem, rows, l1_ratio, 2)]
            else:
                ends = default_strengths(problem, dense_sample(rows))
            strongest, weakest = max(strongest, ends[0]), min(weakest, ends[-1])
        return 1 / np.geomspace(strongest, weakest, self.Cs)

    def _fit_splits(
        self, problem: Problem, rows: MemoryRows, splits: Sequence[Split], partitions: Sequence[Tensor]
    ) -> tuple[list[PathPoint], list[list[PathPoint]]]:
        """The fits on all rows, R times P, and those of each split."""
        full: list[PathPoint] = []
        of_splits: list[list[PathPoint]] = [[] for _ in splits]
        for l1_ratio in self.l1_ratios_.tolist():
            strengths = [Strength((1 - l1_ratio) / C, l1_ratio / C) for C in self.Cs_.tolist()]
            found: list[Sequence[PathPoint]] = []
            if partitions:
                for number, folds in enumerate(partitions):
                    paths = fit_folds(problem, rows, folds, strengths, self.tol, self._seed(), with_full=not number)
                    full += paths.full
                    found += paths.of_folds
            else:
                places = [torch.arange(len(rows.labels)), *(torch.from_numpy(train) for train, _ in splits)]
                on_all, *others = fit_parts(problem, rows, places, strengths, self.tol, self._seed())
                full += on_all
                found += others
            for mine, points in zip(of_splits, found, strict=True):
                mine += points
        return full, of_splits

    def _choose(
        self, problem: Problem, scores: FoldScores, full: list[PathPoint], of_splits: list[list[PathPoint]]
    ) -> None:
        """Sets the scores and the chosen penalty."""
        select = SCORINGS[self.scoring]
        name, sign = SELECT[select]
        shape = len(self.l1_ratios_), len(self.Cs_)
        values = scores.values(name)
        assert values is not None
        self.scores_ = sign * values.numpy().reshape(-1, *shape)
        rows = cross_validated_rows(problem, full, scores, [FoldPaths([], full, of_splits)], select)
        means, errors = zip(*(row.mean_and_error(select) for row in rows), strict=True)
        self.mean_scores_, self.standard_errors_ = sign * np.reshape(means, shape), np.reshape(errors, shape)
        place = best_of(rows, select)
        if self.cv_rule == "one_se":
            first = place - place % shape[1]
            place = first + simplest_of(rows[first : first + shape[1]], select)
        self.C_, self.l1_ratio_ = float(self.Cs_[place % shape[1]]), float(self.l1_ratios_[place // shape[1]])

    def _coefficients(self, problem: Problem, stored: StoredForm, paths: Sequence[Sequence[PathPoint]]) -> Array:
        """Coefficients and intercepts in source units of each of F paths, (F, R, P, K, D + 1)."""
        each = [in_source_units(problem, stored, one.point, one.bound)[0] for path in paths for one in path]
        points = torch.stack([one_logit(point) for point in each] if len(self.classes_) == 2 else each).cpu()
        if not self.fit_intercept:
            points = points[..., :-1]
        return points.numpy().reshape(len(paths), len(self.l1_ratios_), len(self.Cs_), *points.shape[1:])

    def _average(self) -> None:
        """Sets the mean of the coefficients over the splits, each with its best penalty."""
        splits, _, strengths = self.scores_.shape
        best = self.scores_.reshape(splits, -1).argmax(1)
        of_ratio, of_C = best // strengths, best % strengths
        self.C_, self.l1_ratio_ = float(self.Cs_[of_C].mean()), float(self.l1_ratios_[of_ratio].mean())
        points = self.coefs_paths_[np.arange(splits), of_ratio, of_C].mean(0)
        self.coef_, self.intercept_ = points[:, : self.n_features_in_], np.zeros(len(points))
        if self.fit_intercept:
            self.intercept_ = points[:, -1]
        if hasattr(self, "certificate_"):  # of a fit before
            del self.certificate_

    def _report_splits(self, problem: Problem, of_splits: Sequence[Sequence[PathPoint]]) -> None:
        """Prints or warns how far the fits of the splits are from their optima.

        Of a loss that is not convex no optimum is known, and a fit is to end at a stationary point.
        """
        points, name = [one for path in of_splits for one in path], type(self).__name__
        if self.verbose:
            mean = self.mean_scores_.max()
            print(f"{name}: {len(points)} fits, C={self.C_:.3g}, l1_ratio={self.l1_ratio_:g}, best mean {mean:.4g}")
        goal, advice = f"tol={self.tol:g}", "Set precision=64" if self.precision == 32 else "Raise tol"
        if problem.loss.is_convex:
            failed = sum(not one.converged for one in points)
        else:
            goal = f"a stationary point to within {goal}"
            failed = sum(
                not is_stationary(bound.decrement, bound.value, self.tol, float(bound.gradient.abs().max()))
                for bound in (one.bound for one in points)
            )
        if failed:
            warnings.warn(
                f"{name} has not reached {goal} in {failed} of the {len(points)} fits of the splits. "
                f"{advice}, or scale the features (StandardScaler).",
                ConvergenceWarning,
                stacklevel=3,
            )


def _all_are(values: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether values are a sequence or an array of one value at least, all of which are as they must be."""
    is_list = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) and np.ndim(values) == 1
    return is_list and len(values) > 0 and all(map(holds, values))


def _partitions(splits: Sequence[Split], number: int) -> list[Tensor]:
    """The fold of each row, (N,), of each repetition of a cross-validation in which each split fits all other rows.

    Empty where the splits are of another kind: rows overlap, are left out, or are not scored equally often.
    """
    partitions: list[Tensor] = []
    folds, fold = torch.full((number,), -1), 0
    for train, test in splits:
        if not np.array_equal(np.sort(np.concatenate([train, test])), np.arange(number)) or (folds[test] >= 0).any():
            return []
        folds[test] = fold
        fold += 1
        if (folds >= 0).all():
            partitions.append(folds)
            folds, fold = torch.full((number,), -1), 0
    alike = len({int(folds.max()) for folds in partitions}) == 1
    return partitions if alike and not fold else []
