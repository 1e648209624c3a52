"""What the export formats share: their type, the rows to compare on, and the spellings of levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from torch import Tensor

from logreg.data.formats.text_tables import missing_words
from logreg.errors import ConfigError
from logreg.facts import Column, DataFacts
from logreg.losses import LINKS
from logreg.training.linear import Array, Linear


def spellings(column: Column, facts: DataFacts, any_case: bool = False) -> dict[str, int]:
    """The spellings of a column of text or booleans, without blanks around them, each with its level's position.

    A missing value has the position -1; other texts are no level.  `logreg.data.encoding.encode` reads text files in
    the same way.

    Args:
        column: The encoding of the column.
        facts: Facts of the data.
        any_case: Whether the caller lowers booleans itself; else their spellings in every case are listed.

    Raises:
        ConfigError: A level has the spelling of a missing value, or levels are hashed.
    """
    if column.buckets:
        raise ConfigError(
            f"`format` must compute the hash of the levels of {column.name!r}, and onnx and sklearn_only do not. "
            "Use format=sklearn, json, safetensors or torch_export, or train without dataset.hash."
        )
    if column.indicator and "" in column.places:
        blank = column.levels[column.places[""]]
        raise ConfigError(
            f"`format` must distinguish a missing value of {column.name!r} from its level {blank!r}, and onnx and "
            "sklearn_only have '' for both. Use format=sklearn, json, safetensors or torch_export, or give the level a "
            "name in the file."
        )
    places = dict(column.places)
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
        columns: The rows before encoding, arrays (n,) of numbers or text by column, nan or None where missing; empty
            without a table.
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


class _Functions:
    """The functions of `BinaryLink.probability` in NumPy, without warnings where they overflow."""

    arctan, sqrt, tanh, abs = np.arctan, np.sqrt, np.tanh, np.abs

    def exp(self, numbers: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(numbers))

    def erf(self, numbers: Array) -> Array:
        from scipy.special import erf

        return np.asarray(erf(numbers))


def linked(coef: Array, intercept: Array, link: str, sample: Sample, divisor: Sequence[float] | None) -> Array:
    """Probabilities in NumPy, computed as `Linear.described` describes."""
    logits = sample.features.double().numpy() @ coef.T + intercept
    link = link.partition(",")[0]
    is_one_vs_rest = link == "sigmoid" and logits.shape[1] > 1
    if is_one_vs_rest:  # sigmoids divided by their sum, also where all of them round to 0
        logits = -np.logaddexp(0, -logits) - (0 if divisor is None else np.log(divisor))
    if link == "softmax" or is_one_vs_rest:
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))
    chances = (1 + np.tanh(logits / 2)) / 2 if link == "sigmoid" else LINKS[link].probability(logits, _Functions())
    if chances.shape[1] == 1:
        chances = np.hstack([1 - chances, chances])
        if divisor is None:
            return np.asarray(chances)
    if divisor is not None:
        chances = chances / np.array(divisor)
    return np.asarray(chances / chances.sum(1, keepdims=True))


def spelling_coefficients(column: Column, places: Mapping[str, int], coef: Array) -> tuple[Array, Array]:
    """Coefficients of one-hot features of spellings, which are 0 for any other text.

    Args:
        column: The encoding of the column.
        places: The spellings, n of them, with the positions of their levels.
        coef: Coefficients of the column's features, shape (K, d).

    Returns:
        Coefficients of the spellings, shape (K, n), less that of any other text: the one of rare levels, or else 0; and
        the latter, shape (K,), to add to the intercept.
    """
    num_levels = len(column.levels)
    of_level = np.zeros((len(coef), num_levels + 1))
    of_level[:, : column.num_values] = coef[:, : column.num_values]
    of_other = of_level[:, num_levels]
    # A missing value has the coefficient of the level that fills it and that of its indicator.
    filled = column.places.get(str(column.fill), num_levels)
    of_missing = of_level[:, filled] + (coef[:, -1] if column.indicator else 0)
    every: Array = np.column_stack([of_level[:, :num_levels], of_missing])[:, list(places.values())]
    return every - of_other[:, None], of_other
