"""Which of a source's classes are told apart, from how many rows, and what each class weighs."""

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
"""What Hydra reads as no text."""

HYDRA_INT = r"(?:0|[1-9](?:_?[0-9])*)"
"""A whole number as Hydra's grammar has it, without its sign."""

HYDRA_FLOAT = (
    rf"(?:(?:{HYDRA_INT}\.|{HYDRA_INT}?\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9](?:_?[0-9])*)?"
    rf"|{HYDRA_INT}[eE][+-]?[0-9](?:_?[0-9])*|[iI][nN][fF]|[nN][aA][nN])"
)
"""Another number."""

LONGEST_NUMBER = 300
"""Characters of a name that may be a number."""


@dataclass(frozen=True)
class Selection:
    """What is made of the classes of a source.

    Attributes:
        classes: The classes to keep, by their names or as YAML and Hydra read those; all when empty.
        positive: The classes that are one, against all others as the other; each for itself when empty.
    """

    classes: tuple[Any, ...] = ()
    positive: tuple[Any, ...] = ()

    @classmethod
    def of(cls, classes: Any = None, positive: Any = None) -> Selection:
        """From what a user types: a value, a list of values, or nothing."""
        return cls(_names("dataset.classes", classes), _names("dataset.positive", positive))

    def apply(self, names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
        """The new label of each old one, and the new names.

        Args:
            names: The classes of the source, C of them.

        Returns:
            Shape (C,), int64, -1 for a class that is left out; the name of each new class, the
            positive one last.

        Raises:
            ConfigError: A name is not among the classes, or fewer than two classes remain.
        """
        chosen = {class_named("dataset.classes", given, names) for given in self.classes} or set(names)
        if len(chosen) < 2 and self.classes:
            raise ConfigError.broken("dataset.classes", "name at least 2 classes", list(self.classes))
        kept = [name for name in names if name in chosen]
        positive = list(dict.fromkeys(class_named("dataset.positive", given, kept) for given in self.positive))
        if positive and len(positive) == len(kept):
            raise ConfigError.broken("dataset.positive", "leave a class to tell them from", list(self.positive))
        if not positive:
            return torch.tensor([kept.index(name) if name in kept else -1 for name in names]), tuple(kept)
        rest = [name for name in kept if name not in positive]
        other = rest[0] if len(rest) == 1 else f"not {positive[0]}" if len(positive) == 1 else "other"
        labels = [-1 if name not in kept else int(name in positive) for name in names]
        return torch.tensor(labels), (other, " or ".join(positive))


def class_named(key: str, given: Any, names: Sequence[str]) -> str:
    """The class that a user named.

    Hydra and YAML make numbers and booleans of names that look like some: of 1_000 and 1e3, of True. So a value
    that is no text stands for the name that is read as it.

    Args:
        key: What the user typed to name it.
        given: Text, a number or a boolean.
        names: Of the classes.

    Raises:
        ConfigError: None of the names is meant, or several.
    """
    if isinstance(given, str):
        if given not in names:
            raise ConfigError.not_a_choice(key, names, given)
        return given
    written = [name for name in names if _same(_as_hydra_reads(name), given)]
    alike = (
        written or [name for name in names if name == name_of(given)] or [name for name in names if _means(name, given)]
    )
    if not alike:
        raise ConfigError.not_a_choice(key, names, name_of(given))
    if len(alike) > 1:
        one = as_typed(key, alike[:1])
        raise ConfigError(f"`{key}` must name one class, and {given!r} may be {' or '.join(alike)}. Write {one}.")
    return alike[0]


def _as_hydra_reads(name: str) -> Any:
    """What becomes of a name that is typed without quotes."""
    if name.lower() in WORDS:
        return WORDS[name.lower()]
    if len(name) <= LONGEST_NUMBER and re.fullmatch(f"[+-]?{HYDRA_INT}", name):
        return int(name)
    return float(name) if len(name) <= LONGEST_NUMBER and re.fullmatch(f"[+-]?{HYDRA_FLOAT}", name) else name


def _means(name: str, given: Any) -> bool:
    """Whether a name is another way to write a value: 007 for 7, yes for true."""
    if isinstance(given, bool):
        return name.lower() in (("true", "yes", "on") if given else ("false", "no", "off"))
    if given is None:
        return False
    try:
        return _same(float(name), float(given))
    except (ValueError, OverflowError):
        return False


def _same(one: Any, other: Any) -> bool:
    """Equal and of one type; nan is nan."""
    return type(one) is type(other) and (one == other or (one != one and other != other))


def class_weights(
    wanted: Any, labels: Tensor, names: Sequence[str], sample_weight: Tensor | None = None
) -> tuple[float, ...]:
    """What each class weighs in the loss.

    Args:
        wanted: "none"; "balanced" for N / (C * rows of the class), so that all classes weigh the
            same together; or the weight by name, 1 for those that are not named.
        labels: Of the train rows, shape (N,), int64, in [0, C); every class is there.
        names: Of the C classes.
        sample_weight: Of the train rows, shape (N,): one of weight 2 counts as two; ``None`` for all 1.

    Returns:
        C weights > 0; empty for "none".

    Raises:
        ConfigError: A name is not among the classes.
    """
    if wanted == "none":
        return ()
    if wanted == "balanced":
        counts = torch.bincount(labels, sample_weight, len(names)).double()
        if bool((counts == 0).any()):
            empty = names[int((counts == 0).nonzero()[0])]
            raise DataError(f"`dataset.weight` must leave every class some weight, and {empty!r} has none in train.")
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
