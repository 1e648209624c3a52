"""TODO."""

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
from logreg.losses import LOSSES
from logreg.training.module import DTYPES, LogisticModule

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Linear:
    """The model as it is exported.

    Attributes:
        coef: Shape (K, D), float64, of the features as they are stored; the temperature is in it.
        intercept: Shape (K,), float64.
        loss: Says the link.
        facts: Of the data.
        precision: "32" or "64": the floating type in which the model reads features.
        divisor: Of a calibrated one-vs-rest model with class weights, shape (C,): sigmoids are divided by it before
            they are divided by their sum; ``None`` elsewhere, where the intercept has such a correction in it.
    """

    coef: Tensor
    intercept: Tensor
    loss: str
    facts: DataFacts
    precision: str
    divisor: Tensor | None = None

    @classmethod
    def of(cls, module: LogisticModule) -> Linear:
        """That of a trained module."""
        coef, intercept = (part.detach().cpu() for part in module.model.of_stored())
        calibration, loss = module.calibration, module.objective.loss
        heat, log_weight = calibration.temperature, calibration.log_weight
        divisor = None
        if log_weight is not None and loss == "bce" and len(coef) > 1:
            divisor = (log_weight / heat).exp()
        elif log_weight is not None:
            intercept = intercept - (log_weight.diff() if len(coef) == 1 else log_weight)
        return cls(coef / heat, intercept / heat, loss, module.facts, module.hparams["precision"], divisor)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the features as they are stored."""
        return DTYPES[self.precision]

    @property
    def input_dtype(self) -> torch.dtype:
        """Floating type in which a program takes features in source units without losing a digit of what is stored."""
        return self.dtype if self.facts.stored.is_plain else torch.float64

    def in_source_units(self) -> tuple[Tensor, Tensor]:
        """``coef`` (K, D) and ``intercept`` (K,) of features in source units."""
        coef = self.coef / self.facts.stored.unit
        return coef, self.intercept - coef @ self.facts.stored.shift

    def probabilities(self, features: Tensor) -> Tensor:
        """Features (N, D) in source units -> probability of each class (N, C), in float64."""
        stored = self.facts.stored.transform(features, self.dtype).double()
        logits = torch.addmm(self.intercept, stored, self.coef.T)
        return LOSSES[self.loss].class_probabilities(logits, 1.0, self.log_divisor)

    @property
    def log_divisor(self) -> Tensor | None:
        """As `Loss.class_probabilities` takes it, shape (C,)."""
        return None if self.divisor is None else self.divisor.log()

    def described(self) -> dict[str, Any]:
        """What somebody must know to use the numbers, as plain values."""
        links = {"cross_entropy": "softmax", "bce": "sigmoid"}
        link = links[self.loss] if len(self.coef) > 1 or self.loss == "cross_entropy" else "sigmoid"
        if self.loss == "bce" and len(self.coef) > 1:
            link = "sigmoid, divided by the sum over the classes"
            if self.divisor is not None:
                link = "sigmoid, divided by divisor, divided by the sum over the classes"
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
    """The classes as what they are in the data: numbers, booleans or text; shape (C,)."""
    if facts.class_kind == "boolean":
        return np.array([name == "true" for name in facts.class_names])
    convert = {"integer": int, "float": float}.get(facts.class_kind, str)
    return np.array([convert(name) for name in facts.class_names])


def spellings(column: Column, facts: DataFacts, any_case: bool = False) -> dict[str, int]:
    """What a column of text or booleans may hold, without blanks around it, and the place of the level that it is.

    A gap has the place -1; what is not there is no level.  `logreg.data.encoding.encode` reads a text file so.

    Args:
        column: How it was learned.
        facts: Of the data.
        any_case: Whether booleans will be in small letters; else they are there in every case.

    Raises:
        ConfigError: A level is written as a gap is.
    """
    if column.indicator and "" in column.levels:
        raise ConfigError(
            f"`format` must tell a gap of {column.name!r} from its level '', and onnx and sklearn have '' for both. "
            "Use format=json, safetensors or torch_export, or give the level a name in the file."
        )
    places = {level.strip(): place for place, level in enumerate(column.levels)}
    places |= {level: place for place, level in enumerate(column.levels)}
    gaps = missing_words(facts.missing_values)
    if column.kind == "boolean":
        digits = {"false": "0", "true": "1"}
        for level, place in list(places.items()):
            places[digits[level]] = place
            if not any_case:
                letters = product(*zip(level, level.upper(), strict=True))
                places |= {"".join(spelled): place for spelled in letters}
        gaps = [gap.lower() for gap in gaps] if any_case else gaps
    return dict.fromkeys(gaps, -1) | places


@dataclass(frozen=True)
class Sample:
    """Held-out rows to compare on.

    Attributes:
        features: Shape (n, D), in source units, float64.
        columns: The same rows as they stand in the table, arrays (n,) of numbers or text by name; none elsewhere.
    """

    features: Tensor
    columns: Mapping[str, Array]


@dataclass(frozen=True)
class Format:
    """A way to write a model.

    Attributes:
        suffix: Of the file.
        packages: That it takes besides ours.
        write: Writes a model.
        read: Reads the file again as its user would, and gives the probabilities of a sample (n, C).
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Linear, Path], None]
    read: Callable[[Path, Linear, Sample], Array]


def linked(coef: Array, intercept: Array, link: str, sample: Sample, divisor: Sequence[float] | None) -> Array:
    """Probabilities in NumPy, by the words of `Linear.described`."""
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


def of_spellings(column: Column, places: Mapping[str, int], coef: Array) -> Array:
    """Coefficients (K, n) of features that say which of n spellings is there; ``coef`` (K, d) those of the column."""
    of_level = np.zeros((len(coef), len(column.levels))) if column.constant else coef[:, : len(column.levels)]
    # A gap counts as the level that fills it, and as a gap.
    of_gap = of_level[:, column.levels.index(str(column.fill))] + (coef[:, -1] if column.indicator else 0)
    every: Array = np.column_stack([of_level, of_gap])[:, list(places.values())]
    return every
