"""Constraints on the values of settings: a description for messages, and a test.  Standard library only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from logreg.errors import ConfigError, as_typed

MAX_POWER_DIGITS = 4
"""Digits of base and exponent up to which a power is computed: more of them may take forever."""


@dataclass(frozen=True)
class Constraint:
    """A condition on one value."""

    description: str
    """Ends the sentence "`key` must ..."."""
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()
    """The names to choose from, of a constraint to one of several names."""
    is_text: bool = False
    """Whether a value on the command line is text as typed, even where it looks like a number."""
    corrected: Callable[[str, Any], str] = lambda key, value: ""
    """What to type for a key in place of a value that does not hold; empty where that is not clear."""


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def number(
    above: float = -math.inf, at_least: float = -math.inf, below: float = math.inf, at_most: float = math.inf
) -> Constraint:
    """A finite number within bounds."""
    bounds = [
        f"> {above:g}" if above > -math.inf else "",
        f">= {at_least:g}" if at_least > -math.inf else "",
        f"< {below:g}" if below < math.inf else "",
        f"<= {at_most:g}" if at_most < math.inf else "",
    ]
    description = " and ".join(bound for bound in bounds if bound)
    return Constraint(
        f"be a finite number {description}".rstrip(),
        lambda value: _is_number(value) and at_least <= value <= at_most and above < value < below,
    )


def strength(*words: str) -> Constraint:
    """The strength of a penalty as a user types it: a number, one of some words, or the strengths of a path."""
    one = number(at_least=0)
    return Constraint(
        f"{one.description}, {', '.join(words)}, or a list of numbers > 0 such as [1e-2,1e-3,1e-4]",
        lambda value: value in words or one.holds(value) or _is_path(value),
    )


def strengths() -> Constraint:
    """The strengths of l2 on a path."""
    return Constraint(
        "be null, default, or a list of numbers > 0 such as [1e-2,1e-3,1e-4]",
        lambda value: value is None or value == "default" or _is_path(value),
    )


def _is_path(value: object) -> bool:
    """Whether a value is a list of numbers > 0, with at least one."""
    return isinstance(value, list | tuple) and bool(value) and all(_is_number(x) and x > 0 for x in value)


def whole(at_least: int, at_most: int | None = None, or_word: str = "") -> Constraint:
    """A whole number within bounds, or the word ``or_word``."""
    description = f"be a whole number >= {at_least}"
    description += (f" and <= {at_most}" if at_most is not None else "") + (f" or {or_word}" if or_word else "")

    def holds(value: Any) -> bool:
        if isinstance(value, int) and not isinstance(value, bool):
            return value >= at_least and (at_most is None or value <= at_most)
        return bool(or_word) and value == or_word

    return Constraint(description, holds)


def power() -> Constraint:
    """A whole number >= 2 that fits into 31 bits, which may be typed as a power: 2**18."""
    return Constraint(
        "be a whole number >= 2 and < 2**31, such as 2**18",
        lambda value: not isinstance(value, bool) and 2 <= whole_of(value) < 2**31,
    )


def whole_of(value: Any) -> int:
    """The whole number that ``value`` is, or means as a power such as "2**18"; 0 for anything else."""
    if isinstance(value, int):
        return value
    base, _, exponent = value.partition("**") if isinstance(value, str) else ("", "", "")
    if not (base.isdecimal() and exponent.isdecimal() and len(base + exponent) <= MAX_POWER_DIGITS):
        return 0
    return int(int(base) ** int(exponent))


def one_of(choices: Iterable[str]) -> Constraint:
    """One of several names."""
    names = tuple(choices)
    return Constraint(f"be one of {', '.join(names)}", lambda value: str(value) in names, names)


def flag() -> Constraint:
    """True or false."""
    return Constraint("be true or false", lambda value: isinstance(value, bool))


def mapping(of: str) -> Constraint:
    """A mapping; ``of`` describes its content in the message."""
    return Constraint(f"be {of}", lambda value: isinstance(value, Mapping))


def text() -> Constraint:
    """Text that is not empty."""
    return Constraint("be text", lambda value: isinstance(value, str) and value != "", is_text=True)


def character(escaped_tab: bool = False) -> Constraint:
    """One character.

    Args:
        escaped_tab: Whether a tab may also be typed as a backslash and a t; the value is then taken as it was typed.
    """
    return Constraint(
        "be one character, such as ';'",
        lambda value: isinstance(value, str) and (len(value) == 1 or (escaped_tab and value == "\\t")),
        is_text=escaped_tab,
    )


def decimal_mark() -> Constraint:
    """The character before the decimals of a number."""
    return Constraint("be '.' or ','", lambda value: value in (".", ","), is_text=True)


def name() -> Constraint:
    """The name of a column, which may look like a number."""
    return Constraint("be a name", lambda value: isinstance(value, str | int | float) and value != "")


def optional(constraint: Constraint) -> Constraint:
    """A value that satisfies ``constraint``, or ``None``."""
    return dataclasses.replace(
        constraint,
        description=f"{constraint.description} or null",
        holds=lambda value: value is None or constraint.holds(value),
    )


def labels() -> Constraint:
    """A class, or a list of classes."""
    return Constraint(
        "be a class or a list of classes, such as 7 or [3,8]",
        lambda value: (
            isinstance(value, str | int | float)
            or (
                isinstance(value, list | tuple)
                and bool(value)
                and listed().holds([name for name in value if name is not None])
            )
        ),
    )


def weights() -> Constraint:
    """Weights of the classes."""
    return Constraint(
        "be none, balanced, or weights > 0 such as {pass: 2}",
        lambda value: (
            value in ("none", "balanced")
            if isinstance(value, str)
            else isinstance(value, Mapping)
            and bool(value)
            and all(_is_number(weight) and weight > 0 for weight in value.values())
        ),
    )


def names_or_strengths(example: str) -> Constraint:
    """A name, a list of names, or strengths by name; ``example`` has the last two as the user writes them."""
    return Constraint(
        f"be a name, a list of names, or strengths by name, such as {example}",
        lambda value: bool(value) and isinstance(value, str | list | tuple | Mapping),
    )


def listed(in_python: bool = False) -> Constraint:
    """A list of names, as an argument in Python or on the command line."""

    def is_name(value: object) -> bool:
        return isinstance(value, str | int | float)

    def corrected(key: str, value: Any) -> str:
        if not is_name(value) or value == "":
            return ""
        return f"{key}={[value]}" if in_python else as_typed(key, [value])

    return Constraint(
        f"be a list, such as {['a', 'b'] if in_python else '[a,b]'}",
        lambda value: isinstance(value, list | tuple) and all(map(is_name, value)),
        corrected=corrected,
    )


def lengths() -> Constraint:
    """The smallest and the largest length of n-grams."""
    return Constraint(
        "be the smallest and the largest length of an n-gram, such as [1,2]",
        lambda value: (
            isinstance(value, list | tuple)
            and [type(length) for length in value] == [int, int]
            and 1 <= value[0] <= value[1]
        ),
    )


def check(key: str, value: Any, constraint: Constraint, next_step: str = "") -> None:
    """Checks one value.

    Raises:
        ConfigError: The value does not satisfy the constraint.
    """
    if constraint.holds(value):
        return
    if constraint.choices:
        raise ConfigError.not_a_choice(key, constraint.choices, value)
    if constraint.is_text and _is_number(value) and constraint.holds(str(value)):  # such as the name of a folder
        next_step = next_step or f"Put quotes around it: '{key}=\"{value}\"'."
    if typed := constraint.corrected(key, value):
        next_step = next_step or f"Set {typed}."
    raise ConfigError.broken(key, constraint.description, value, next_step)
