"""Estimators from trained models: of a run's checkpoint, and for `scripts/export.py format=sklearn`."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

from sklearn.pipeline import Pipeline

from logreg.errors import ConfigError
from logreg.estimators.table_encoder import TableEncoder
from logreg.optimality.certificate import Certificate
from logreg.run_folder import RUNS, find_checkpoint
from logreg.training.checkpoint_reading import TrainedModel
from logreg.training.linear import Linear, classes_of


def read_estimator(path: str | PathLike[str], classifier: type[Any]) -> Any:
    """A trained model as an estimator.

    Args:
        path: A checkpoint, a run folder, or "latest", "best" or "last" for those of the newest run.
        classifier: `logreg.LogisticRegression`, or a subclass.

    Raises:
        ConfigError: There is no such checkpoint, or the model has no such estimator.
    """
    trained = TrainedModel.load(find_checkpoint(fspath(path), RUNS))
    certificate = None if trained.optimality is None else Certificate.of(trained.optimality)
    return estimator_of(Linear.of(trained.module), classifier, certificate)


def estimator_of(model: Linear, classifier: type[Any], certificate: Certificate | None = None) -> Any:
    """A trained model as a fitted estimator.

    It takes features in source units (pixels in [0, 1]), and gives the probabilities of the model with its calibration.
    Of a table it is a Pipeline of a `TableEncoder` and the classifier: it takes a data frame as it stands.

    Args:
        model: The model.
        classifier: `logreg.LogisticRegression`, or a subclass.
        certificate: The certificate of the fit; ``None`` where there is none.

    Raises:
        ConfigError: Coefficients alone do not give the probabilities of the model.
    """
    if model.divisor is not None:
        raise ConfigError(
            "a model must have probabilities that its coefficients give, and this one, with class weights that "
            "calibrate=temperature removes, has not. Train with loss=cross_entropy link=logit, or export to onnx or "
            "json."
        )
    facts = model.facts
    coef, intercept = (part.numpy() for part in model.in_source_units())
    names = () if facts.columns else facts.feature_names  # the encoder has those of a table
    fitted = classifier._fitted(coef, intercept, classes_of(facts), names, certificate, model.loss)
    if not facts.columns:
        return fitted
    return Pipeline([("tableencoder", TableEncoder._of_run(facts, model.dtype)), ("logisticregression", fitted)])
