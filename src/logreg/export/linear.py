"""The model as every export format needs it: coefficients in float64 with the calibration folded in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.data.formats.text_tables import missing_words
from logreg.errors import ConfigError
from logreg.facts import Column, DataFacts
from logreg.losses import LOSSES, Loss
from logreg.training.module import DTYPES, LogisticModule

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Linear:
    """A trained model as it is exported.

    Attributes:
        coef: Shape (K, D), float64, of stored features, divided by the temperature.
        intercept: Shape (K,), float64, divided by the temperature.
        loss: Name of the loss, which determines the inverse link.
        facts: Facts of the data.
        precision: "32" or "64": the floating type in which the model reads features.
        divisor: Divisors of the sigmoids of a calibrated one-vs-rest model with class weights, shape (C,); the
            quotients are then divided by their sum.  ``None`` for other models, whose intercept has the correction.
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
        if log_weight is not None and not LOSSES[loss].couples_outputs and len(coef) > 1:
            divisor = (log_weight / heat).exp()
        elif log_weight is not None:
            intercept = intercept - (log_weight.diff() if len(coef) == 1 else log_weight)
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
        stored = self.facts.stored.transform(features, self.dtype).double()
        logits = torch.addmm(self.intercept, stored, self.coef.T)
        return self.row_loss.class_probabilities(logits, 1.0, self.log_divisor)

    @property
    def log_divisor(self) -> Tensor | None:
        """Logarithm of the divisor, shape (C,), for `Loss.class_probabilities`; ``None`` without one."""
        return None if self.divisor is None else self.divisor.log()

    def described(self) -> dict[str, Any]:
        """Everything that is needed to use the coefficients, as plain values."""
        link = self.row_loss.link
        if not self.row_loss.couples_outputs and len(self.coef) > 1:
            link += (
                ", divided by divisor" if self.divisor is not None else ""
            ) + ", divided by the sum over the classes"
        return {
            "made_by": "logreg",
            "data": self.facts.title,
            "classes": list(self.facts.class_names),
            "link": link,
            **({} if self.divisor is None else {"divisor": self.divisor.tolist()}),
            "outputs": list(self.facts.class_names if len(self.coef) > 1 else self.facts.class_names[1:]),
            "features": list(self.facts.feature_names),
            "image_shape": list(self.facts.image_shape),
            "columns": self.facts.as_dict()["columns"],
            "backbone": dict(self.facts.backbone),
            "pixels": dict(self.facts.pixels),
        }


def classes_of(facts: DataFacts) -> Array:
    """The classes in the type that they have in the data: numbers, booleans or text; shape (C,)."""
    if facts.class_kind == "boolean":
        return np.array([name == "true" for name in facts.class_names])
    convert = {"integer": int, "float": float}.get(facts.class_kind, str)
    return np.array([convert(name) for name in facts.class_names])


def spellings(column: Column, facts: DataFacts, any_case: bool = False) -> dict[str, int]:
    """The spellings of a column of text or booleans, without blanks around them, each with its level's position.

    A missing value has the position -1; other texts are no level.  `logreg.data.encoding.encode` reads text files in
    the same way.

    Args:
        column: The encoding of the column.
        facts: Facts of the data.
        any_case: Whether the caller lowers booleans itself; else their spellings in every case are listed.

    Raises:
        ConfigError: A level has the spelling of a missing value.
    """
    if column.indicator and "" in column.levels:
        raise ConfigError(
            f"`format` must distinguish a missing value of {column.name!r} from its level '', and onnx "
            "and sklearn have '' for both. Use format=json, safetensors or torch_export, or give the level a name in "
            "the file."
        )
    places = {level.strip(): place for place, level in enumerate(column.levels)}
    places |= {level: place for place, level in enumerate(column.levels)}
    missing = missing_words(facts.missing_values)
    if column.kind == "boolean":
        digits = {"false": "0", "true": "1"}
        for level, place in list(places.items()):
            places[digits[level]] = place
            if not any_case:
                letters = product(*zip(level, level.upper(), strict=True))
                places |= {"".join(spelled): place for spelled in letters}
        missing = [word.lower() for word in missing] if any_case else missing
    return dict.fromkeys(missing, -1) | places


@dataclass(frozen=True)
class Sample:
    """Held-out rows on which the exported model is compared with the trained one.

    Attributes:
        features: Shape (n, D), in source units, float64.
        columns: The rows before encoding, arrays (n,) of numbers or text by column; empty without a table.
    """

    features: Tensor
    columns: Mapping[str, Array]


@dataclass(frozen=True)
class Format:
    """A format that models are exported to.

    Attributes:
        suffix: Suffix of the file.
        packages: Further packages that writing it needs.
        write: Writes a model.
        read: Reads the file as its user would, and returns the probabilities of a sample, shape (n, C).
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Linear, Path], None]
    read: Callable[[Path, Linear, Sample], Array]


def linked(coef: Array, intercept: Array, link: str, sample: Sample, divisor: Sequence[float] | None) -> Array:
    """Probabilities in NumPy, computed as `Linear.described` describes."""
    logits = sample.features.double().numpy() @ coef.T + intercept
    if link == "softmax":
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))
    sigmoid = (1 + np.tanh(logits / 2)) / 2
    if sigmoid.shape[1] == 1:
        return np.hstack([1 - sigmoid, sigmoid])
    if divisor is not None:
        sigmoid = sigmoid / np.array(divisor)
    return np.asarray(sigmoid / sigmoid.sum(1, keepdims=True))


def spelling_coefficients(column: Column, places: Mapping[str, int], coef: Array) -> Array:
    """Coefficients (K, n) of one-hot features of n spellings, from ``coef`` (K, d) of a column's features."""
    of_level = np.zeros((len(coef), len(column.levels))) if column.constant else coef[:, : len(column.levels)]
    # A missing value has the coefficient of the level that fills it and that of its indicator.
    of_missing = of_level[:, column.levels.index(str(column.fill))] + (coef[:, -1] if column.indicator else 0)
    every: Array = np.column_stack([of_level, of_missing])[:, list(places.values())]
    return every
