"""The classes to learn, and the weight of each class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logreg.data.encoding.labels import name_of
from logreg.errors import ConfigError, DataError, as_typed

WORDS = {"true": True, "false": False, "null": None}
"""Words that Hydra does not read as text, with the values that it reads."""

HYDRA_INT = r"(?:0|[1-9](?:_?[0-9])*)"
"""Regular expression of a whole number in Hydra's grammar, without the sign."""

HYDRA_FLOAT = (
    rf"(?:(?:{HYDRA_INT}\.|{HYDRA_INT}?\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9](?:_?[0-9])*)?"
    rf"|{HYDRA_INT}[eE][+-]?[0-9](?:_?[0-9])*|[iI][nN][fF]|[nN][aA][nN])"
)
"""Regular expression of any other number in Hydra's grammar, without the sign."""

MAX_NUMBER_LENGTH = 300
"""Length of a name, in characters, up to which it is tested as a number; float64 needs fewer."""


@dataclass(frozen=True)
class Selection:
    """Selects and merges the classes of a source.

    Attributes:
        classes: The classes to keep, as names or as values that YAML and Hydra read from names; empty for all.
        positive: The classes that are merged into the positive class, while all others are merged into the other one;
            empty to merge none.
    """

    classes: tuple[Any, ...] = ()
    positive: tuple[Any, ...] = ()

    @classmethod
    def of(cls, classes: Any = None, positive: Any = None) -> Selection:
        """A selection from settings as the user typed them: a value, a list of values, or ``None``."""
        return cls(_names("dataset.classes", classes), _names("dataset.positive", positive))

    def apply(self, names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
        """Maps old labels to new ones.

        Args:
            names: Names of the C classes of the source.

        Returns:
            The new label of each old one, shape (C,), int64, -1 for a class that is left out; and the names of the new
            classes, the positive one last.

        Raises:
            ConfigError: A name is not among the classes, or fewer than two classes remain.
        """
        selected = {class_named("dataset.classes", given, names) for given in self.classes} or set(names)
        if len(selected) < 2 and self.classes:
            raise ConfigError.broken("dataset.classes", "name at least 2 classes", list(self.classes))
        kept = [name for name in names if name in selected]
        positive = list(dict.fromkeys(class_named("dataset.positive", given, kept) for given in self.positive))
        if positive and len(positive) == len(kept):
            raise ConfigError.broken(
                "dataset.positive", "leave at least one class as the other class", list(self.positive)
            )
        if not positive:
            places = {name: place for place, name in enumerate(kept)}
            return torch.tensor([places.get(name, -1) for name in names]), tuple(kept)
        rest = [name for name in kept if name not in positive]
        other = rest[0] if len(rest) == 1 else f"not {positive[0]}" if len(positive) == 1 else "other"
        labels = [-1 if name not in selected else int(name in positive) for name in names]
        return torch.tensor(labels), (other, " or ".join(positive))


def class_named(key: str, given: Any, names: Sequence[str]) -> str:
    """Finds the class that a setting names.

    Hydra and YAML read some names as numbers or booleans (1_000, 1e3, True).  A value that is not text therefore means
    the name that is read as this value.

    Args:
        key: The setting, for messages.
        given: Text, a number or a boolean.
        names: Names of the classes.

    Raises:
        ConfigError: No name matches, or several do.
    """
    if isinstance(given, str):
        if given not in names:
            raise ConfigError.not_a_choice(key, names, given)
        return given
    matches = (
        [name for name in names if _same(_as_hydra_reads(name), given)]
        or [name for name in names if name == name_of(given)]
        or [name for name in names if _means(name, given)]
    )
    if not matches:
        raise ConfigError.not_a_choice(key, names, name_of(given))
    if len(matches) > 1:
        one = as_typed(key, matches[:1])
        raise ConfigError(f"`{key}` must name one class, and {given!r} may be {' or '.join(matches)}. Write {one}.")
    return matches[0]


def _as_hydra_reads(name: str) -> Any:
    """The value that Hydra reads from a name that is typed without quotes."""
    if name.lower() in WORDS:
        return WORDS[name.lower()]
    if len(name) <= MAX_NUMBER_LENGTH and re.fullmatch(f"[+-]?{HYDRA_INT}", name):
        return int(name)
    return float(name) if len(name) <= MAX_NUMBER_LENGTH and re.fullmatch(f"[+-]?{HYDRA_FLOAT}", name) else name


def _means(name: str, given: Any) -> bool:
    """Whether a name is another spelling of a value: 007 of 7, yes of true."""
    if isinstance(given, bool):
        return name.lower() in (("true", "yes", "on") if given else ("false", "no", "off"))
    if given is None:
        return False
    try:
        return _same(float(name), float(given))
    except (ValueError, OverflowError):
        return False


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of one type; nan equals nan."""
    return type(one) is type(other) and (one == other or (one != one and other != other))


def class_weights(
    wanted: Any, labels: Tensor, names: Sequence[str], sample_weight: Tensor | None = None
) -> tuple[float, ...]:
    """Weight of each class in the loss.

    Args:
        wanted: "none"; "balanced" for N / (C * rows of the class), so that all classes have the same total weight; or
            weights by class name, 1 for classes that are not named.
        labels: Class of each train row, shape (N,), int64, in [0, C); every class occurs.
        names: Names of the C classes.
        sample_weight: Weight of each train row, shape (N,), where weight 2 counts as two rows; ``None`` for weight 1.

    Returns:
        C weights > 0; empty for "none".

    Raises:
        ConfigError: A name is not among the classes.
        DataError: A class has no weight to balance.
    """
    if wanted == "none":
        return ()
    if wanted == "balanced":
        counts = torch.bincount(labels, sample_weight, len(names)).double()
        if bool((counts == 0).any()):
            empty = names[int((counts == 0).nonzero()[0])]
            raise DataError(f"`dataset.weight` must give every class a weight > 0 in train, and {empty!r} has none.")
        return tuple((counts.sum() / (len(names) * counts)).tolist())
    given = {class_named("dataset.class_weight", key, names): float(weight) for key, weight in wanted.items()}
    return tuple(given.get(name, 1.0) for name in names)


def _names(key: str, given: Any) -> tuple[Any, ...]:
    if given is None:
        return ()
    listed = given if isinstance(given, list | tuple) else [given]
    if not listed or any(isinstance(name, Mapping | list | tuple) for name in listed):
        raise ConfigError.broken(key, "be the name of a class or a list of names", given)
    return tuple(listed)
