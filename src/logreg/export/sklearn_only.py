"""Exports a model as a fitted estimator of scikit-learn alone, for programs without logreg."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from logreg.data.encoding.text import vectorizer
from logreg.data.formats.text_tables import missing_words
from logreg.errors import ConfigError
from logreg.export.base import Sample, spelling_coefficients, spellings
from logreg.export.sklearn import probabilities_in_order
from logreg.losses import one_logit
from logreg.training.linear import Array, Linear, classes_of


def write_sklearn_only(model: Linear, file: Path) -> None:
    """Writes a fitted estimator with joblib; it takes a table's rows before encoding, or else named features."""
    import joblib

    joblib.dump(as_sklearn(model), file)


def as_sklearn(model: Linear) -> Any:
    """A fitted LogisticRegression; one-vs-rest with several classes is a OneVsRestClassifier of them.

    Of a table it is a Pipeline that takes a data frame with the columns, or an array of objects with them in order.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import LabelBinarizer

    facts = model.facts
    coef, intercept = (part.numpy() for part in model.in_source_units())
    names, encoder = facts.feature_names, None
    if facts.columns:
        encoder, coef, of_other = _encoder(model, coef)
        intercept = intercept + of_other
        names = ()
    classes = classes_of(facts)
    order = np.argsort(classes)  # scikit-learn sorts its classes; logreg keeps the order of the source
    classes = classes[order]

    def fitted(coef: Array, intercept: Array, classes: Array) -> Any:
        one = LogisticRegression(C=np.inf)
        one.coef_, one.intercept_, one.classes_ = coef, intercept, classes
        one.n_features_in_, one.n_iter_ = coef.shape[1], np.array([0], dtype=np.int32)
        if names:
            one.feature_names_in_ = np.array(names, dtype=object)
        return one

    def whole(estimator: Any) -> Any:
        return estimator if encoder is None else Pipeline([("columns", encoder), ("model", estimator)])

    if facts.is_binary:
        sign = 1 if order[1] == 1 else -1
        return whole(fitted(sign * one_logit(coef), sign * one_logit(intercept), classes))
    coef, intercept = coef[order], intercept[order]
    if model.row_loss.couples_outputs:
        return whole(fitted(coef, intercept, classes))
    if model.divisor is not None:
        raise ConfigError(
            "`format=sklearn_only` must be a model that scikit-learn has, and its OneVsRestClassifier has no place for "
            "the class weights that calibrate=temperature removes. Use format=onnx, json or torch_export."
        )
    several = OneVsRestClassifier(LogisticRegression())
    ends = np.array([0, 1])
    several.estimators_ = [fitted(coef[k : k + 1], intercept[k : k + 1], ends) for k in range(len(coef))]
    several.label_binarizer_ = LabelBinarizer(sparse_output=True).fit(classes)
    several.classes_, several.n_features_in_ = classes, coef.shape[1]
    return whole(several)


def _encoder(model: Linear, coef: Array) -> tuple[Any, Array, Array]:
    """A fitted encoder of a table's columns, the coefficients (K, n) of its output, and a term of the intercept (K,).

    The encoder consists of scikit-learn and NumPy alone, so that the file can be used without logreg.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.frozen import FrozenEstimator
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    def by(function: Callable[..., Any], **arguments: Any) -> Any:
        return FunctionTransformer(function, kw_args=arguments)

    def one_hot(texts: Iterable[str]) -> Any:
        return OneHotEncoder(categories=[np.array(list(texts), dtype=object)], handle_unknown="ignore")

    stored = model.facts.stored
    parts, weights, start = list[tuple[str, Any, Any]](), [], 0
    intercept = np.zeros(len(coef))
    for place, column in enumerate(model.facts.columns):
        first, start = start, start + column.num_features
        mine = coef[:, first:start]
        if column.kind == "number":
            # A column far from zero is stored minus an offset: single precision would round its digits away before.
            is_plain = bool((stored.shift[first:start] == 0).all() and (stored.unit[first:start] == 1).all())
            number = np.float32 if is_plain and model.dtype == torch.float32 else np.float64
            filled = SimpleImputer(strategy="constant", fill_value=number(column.fill))
            steps = [] if column.constant else ["passthrough" if column.is_offset else filled]
            steps += [MissingIndicator(features="all")] if column.indicator else []
            branch = make_pipeline(by(np.asarray, dtype=number), make_union(*steps))
            weights.append(mine)
        elif column.kind == "text":
            missing = [*MISSING_TEXTS, *filter(None, missing_words(model.facts.missing_values))]
            is_missing = re.compile(rf"\A\s*(?:{'|'.join(map(re.escape, missing))})\s*\Z")
            steps = [by(partial(map, step)) for step in (str, partial(is_missing.sub, ""))]
            for vocabulary in column.vocabularies:  # `place` alone, so that each takes one column
                branch = make_pipeline(*steps, FrozenEstimator(vectorizer(vocabulary)))
                parts.append((f"column {place}, {vocabulary.analyzer}", branch, place))
            weights.append(mine)
            continue
        else:
            places = dict.fromkeys(MISSING_TEXTS, -1) | spellings(column, model.facts, any_case=True)
            if column.kind == "boolean":
                places = {spelled.lower(): level for spelled, level in places.items()}
            small = [by(np.char.lower)] if column.kind == "boolean" else []
            text, objects = by(np.asarray, dtype=str), by(np.asarray, dtype=object)
            branch = make_pipeline(text, by(np.char.strip), *small, objects, one_hot(places))
            of_spelling, of_other = spelling_coefficients(column, places, mine)
            weights.append(of_spelling)
            padded = [level for level in column.levels if level != level.strip()]
            if padded:  # levels of a binary file with blanks around them are other levels than those without
                branch = make_union(branch, make_pipeline(text, objects, one_hot(padded)))
                at = {spelled: position for position, spelled in enumerate(places)}
                with_blanks, without = [at[level] for level in padded], [at[level.strip()] for level in padded]
                weights.append(of_spelling[:, with_blanks] - of_spelling[:, without])
            intercept += of_other
        parts.append((f"column {place}", branch, [place]))
    row = [[0.0 if column.kind == "number" else "" for column in model.facts.columns]]
    has_text = any(column.kind == "text" for column in model.facts.columns)
    encoder = ColumnTransformer(parts, sparse_threshold=1 if has_text else 0).fit(np.array(row, dtype=object))
    encoder.feature_names_in_ = np.array([column.name for column in model.facts.columns], dtype=object)
    return encoder, np.concatenate(weights, axis=1), intercept


MISSING_TEXTS = ("None", "nan", "<NA>")
"""The results of ``str`` for a missing value in Python, NumPy and pandas."""


def read_sklearn_only(file: Path, model: Linear, sample: Sample) -> Array:
    """Probabilities of a sample, shape (n, C), by scikit-learn alone, in logreg's order of the classes."""
    import joblib

    given = sample.features.double().numpy()
    if sample.columns:
        given = np.column_stack([values.astype(object) for values in sample.columns.values()])
    return probabilities_in_order(joblib.load(file), given, model)
