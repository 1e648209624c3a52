"""Which of a source's classes are told apart, from how many rows, and what each class weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logreg.data.labels import name_of
from logreg.errors import ConfigError, DataError


@dataclass(frozen=True)
class Selection:
    """What is made of the classes of a source.

    Attributes:
        classes: Names of the classes to keep; all when empty.
        positive: Names of the classes that are one, against all others as the other; each for
            itself when empty.
    """

    classes: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()

    @classmethod
    def of(cls, classes: Any = None, positive: Any = None) -> Selection:
        """From what a person types: a value, a list of values, or nothing."""
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
        kept = [self._known("dataset.classes", name, names) for name in self.classes] or list(names)
        if self.classes and len(kept) < 2:
            raise ConfigError.broken("dataset.classes", "name at least 2 classes", list(self.classes))
        kept = [name for name in names if name in kept]
        positive = [self._known("dataset.positive", name, kept) for name in self.positive]
        if positive and len(positive) == len(kept):
            raise ConfigError.broken("dataset.positive", "leave a class to tell them from", list(self.positive))
        if not positive:
            return torch.tensor([kept.index(name) if name in kept else -1 for name in names]), tuple(kept)
        rest = [name for name in kept if name not in positive]
        other = rest[0] if len(rest) == 1 else f"not {positive[0]}" if len(positive) == 1 else "other"
        labels = [-1 if name not in kept else int(name in positive) for name in names]
        return torch.tensor(labels), (other, " or ".join(positive))

    def _known(self, key: str, name: str, names: Sequence[str]) -> str:
        if name not in names:
            raise ConfigError.not_a_choice(key, names, name)
        return name


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
    given = {name_of(key): float(weight) for key, weight in wanted.items()}
    for name in given:
        if name not in names:
            raise ConfigError.not_a_choice("dataset.class_weight", names, name)
    return tuple(given.get(name, 1.0) for name in names)


def _names(key: str, given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    listed = given if isinstance(given, list | tuple) else [given]
    if not listed or any(isinstance(name, Mapping | list | tuple) or name is None for name in listed):
        raise ConfigError.broken(key, "be the name of a class or a list of names", given)
    return tuple(dict.fromkeys(name_of(name) for name in listed))
