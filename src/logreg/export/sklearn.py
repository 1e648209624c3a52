"""Exports a model as an estimator of logreg, with scikit-learn's interface."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from logreg.estimators.from_checkpoint import estimator_of
from logreg.estimators.logistic_regression import LogisticRegression
from logreg.export.base import Sample
from logreg.training.linear import Array, Linear, classes_of


def write_sklearn(model: Linear, file: Path) -> None:
    """Writes a fitted estimator with joblib; of a table a Pipeline that takes a data frame."""
    import joblib

    joblib.dump(estimator_of(model, LogisticRegression), file)


def read_sklearn(file: Path, model: Linear, sample: Sample) -> Array:
    """Probabilities of a sample, shape (n, C), by the estimator, in the order of the model's classes."""
    import joblib
    import pyarrow as pa

    rows = pa.table(dict(sample.columns)) if sample.columns else sample.features.double().numpy()
    return probabilities_in_order(joblib.load(file), rows, model)


def probabilities_in_order(estimator: Any, rows: Any, model: Linear) -> Array:
    """Probabilities that an estimator gives, shape (n, C), in the order of the model's classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an array has no names of features, of which scikit-learn warns
        probabilities = estimator.predict_proba(rows)
    place = {one: number for number, one in enumerate(estimator.classes_.tolist())}
    return np.asarray(probabilities[:, [place[one] for one in classes_of(model.facts).tolist()]])
