"""A trained model as a linear function: coefficients in float64 with the calibration folded in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.csr import converted
from logreg.facts import DataFacts
from logreg.losses import LOSSES, Loss
from logreg.solvers.kernels import affine
from logreg.training.module import DTYPES, LogisticModule

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Linear:
    """A trained model as other programs and estimators need it.

    Attributes:
        coef: Shape (K, D), float64, of stored features, divided by the temperature.
        intercept: Shape (K,), float64, divided by the temperature.
        loss: Name of the loss, which determines the inverse link.
        facts: Facts of the data.
        precision: "32" or "64": the floating type in which the model reads features.
        divisor: Divisors of the probabilities of a calibrated model with class weights, shape (C,), where no shift of
            the intercept has the correction: one-vs-rest, and links other than logit.  The quotients are then divided
            by their sum.  ``None`` for other models.
    """

    coef: Tensor
    intercept: Tensor
    loss: str
    facts: DataFacts
    precision: str
    divisor: Tensor | None = None

    @classmethod
    def of(cls, module: LogisticModule) -> Linear:
        """The exported form of a trained module."""
        coef, intercept = (part.detach().cpu() for part in module.model.of_stored())
        calibration, loss = module.calibration, module.objective.loss
        heat, log_weight = calibration.temperature, calibration.log_weight
        divisor = None
        if log_weight is not None:
            shift = LOSSES[loss].prior_shift(log_weight, len(coef))
            if shift is None:
                divisor = (log_weight / heat).exp()
            else:
                intercept = intercept - shift
        return cls(coef / heat, intercept / heat, loss, module.facts, module.hparams["precision"], divisor)

    @property
    def row_loss(self) -> Loss:
        """The loss by its name."""
        return LOSSES[self.loss]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of stored features."""
        return DTYPES[self.precision]

    @property
    def input_dtype(self) -> torch.dtype:
        """Floating type of a program's inputs, in source units: float64 where float32 would lose stored digits."""
        return self.dtype if self.facts.stored.is_plain else torch.float64

    def in_source_units(self) -> tuple[Tensor, Tensor]:
        """``coef`` (K, D) and ``intercept`` (K,) of features in source units."""
        coef = self.coef / self.facts.stored.unit
        return coef, self.intercept - coef @ self.facts.stored.shift

    def probabilities(self, features: Tensor) -> Tensor:
        """Features (N, D) in source units -> probability of each class (N, C), in float64."""
        stored = self.facts.stored.transform(features, self.dtype)
        logits = affine(converted(stored, torch.float64), self.coef, self.intercept)
        return self.row_loss.class_probabilities(logits, 1.0, self.log_divisor)

    @property
    def log_divisor(self) -> Tensor | None:
        """Logarithm of the divisor, shape (C,), for `Loss.class_probabilities`; ``None`` without one."""
        return None if self.divisor is None else self.divisor.log()

    def described(self) -> dict[str, Any]:
        """Everything that is needed to use the coefficients, as plain values."""
        link = self.row_loss.link or self.loss
        if self.divisor is not None:
            link += ", divided by divisor"
        if self.divisor is not None or (not self.row_loss.couples_outputs and len(self.coef) > 1):
            link += ", divided by the sum over the classes"
        columns = self.facts.as_dict()["columns"]
        for one in (one for column in columns for one in column["vocabularies"]):
            one |= {"tokens": one["tokens"].split("\n"), "idf": one["idf"].tolist()}
        return {
            "made_by": "logreg",
            "data": self.facts.title,
            "classes": list(self.facts.class_names),
            "link": link,
            **({} if self.divisor is None else {"divisor": self.divisor.tolist()}),
            "outputs": list(self.facts.names_of_outputs(len(self.coef))),
            "features": list(self.facts.feature_names),
            "image_shape": list(self.facts.image_shape),
            "columns": columns,
            "backbone": dict(self.facts.backbone),
            "pixels": dict(self.facts.pixels),
        }


def classes_of(facts: DataFacts) -> Array:
    """The classes in the type that they have in the data: numbers, booleans or text; shape (C,)."""
    if facts.class_kind == "boolean":
        return np.array([name == "true" for name in facts.class_names])
    convert = {"integer": int, "float": float}.get(facts.class_kind, str)
    return np.array([convert(name) for name in facts.class_names])
