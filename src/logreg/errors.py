"""Exceptions for mistakes of the user, and the form of their messages.  Standard library only."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable

MAX_CHOICES = 25
"""Choices listed in one message; the others are counted."""

MAX_VALUE_LENGTH = 300
"""Characters of a wrong value in a message; a longer one is cut."""

MAX_NAME_LENGTH = 60
"""Characters of a name in a message, such as a class that is a sentence; a longer one is cut."""


class LogregError(ValueError):
    """A mistake of the user: a command prints it in one line on stderr, without traceback, and exits with code 2."""


class ConfigError(LogregError):
    """A wrong key, value or combination on the command line or in a config."""

    @classmethod
    def broken(cls, key: str, constraint: str, got: object, next_step: str = "") -> ConfigError:
        """The message `` `key` must <constraint>, got <value>. <What to do next>. ``.

        Args:
            key: The dotted name as the user types it, such as ``dataset.root``.
            constraint: Condition on a value, after "must", such as "be a finite number > 0".
            got: The value that does not.
            next_step: A sentence about what to do, where the constraint does not make it clear.
        """
        value = shortened(repr(got), MAX_VALUE_LENGTH)
        return cls(f"`{key}` must {constraint}, got {value}." + (f" {next_step}" if next_step else ""))

    @classmethod
    def not_a_choice(cls, key: str, choices: Iterable[str], got: object, advice: str = "") -> ConfigError:
        """The message for a name that is not among ``choices``, with ``advice`` or else the nearest choice."""
        choices = list(choices)
        listed = name_list(choices, MAX_CHOICES)
        return cls.broken(key, f"be one of {listed}", got, advice or did_you_mean(got, choices))


class DatasetNotFoundError(LogregError):
    """Files of a dataset that are missing."""


class DataError(LogregError):
    """Data that no model can be fitted to: wrong values, labels or splits."""


class DivergedError(LogregError):
    """Training whose loss is not finite any more."""


class LostProcessError(RuntimeError):
    """The end of another of several processes, which says itself why it ended."""


class Terminated(SystemExit):
    """Is raised by SIGTERM; a process that does not catch it exits with the code that shells use for SIGTERM."""

    EXIT_CODE = 143

    def __init__(self) -> None:
        super().__init__(self.EXIT_CODE)


def shortened(text: str, most: int = MAX_NAME_LENGTH) -> str:
    """Text of at most ``most`` characters, or that many and three dots.

    Example:
        >>> shortened("red"), shortened("a long name", 6)
        ('red', 'a long...')
    """
    return text if len(text) <= most else f"{text[:most]}..."


def name_list(
    names: Iterable[object],
    most: int = 10,
    kind: tuple[str, str] = ("", ""),
    last: str = ", ",
    longest: int = MAX_NAME_LENGTH,
) -> str:
    """Names in one line, with a count of those left out.

    Args:
        names: The names; `str` makes text of them, and long ones are cut.
        most: Number of names that are listed at most.
        kind: Name of the counted things, singular and plural.
        last: Separates the last two names where none is left out.
        longest: Number of characters from which a name is cut.

    Example:
        >>> name_list(["a", "b", "c"]), name_list(["a", "b", "c"], last=" and ")
        ('a, b, c', 'a, b and c')
        >>> name_list("abcd", 2), name_list("abcd", 3, ("column", "columns"))
        ('a, b and 2 more', 'a, b, c and 1 more column')
    """
    every = [shortened(str(name), longest) for name in names]
    left = len(every) - most
    if left > 0:
        return f"{', '.join(every[:most])} and {left:,} more {kind[left > 1]}".rstrip()
    return last.join([", ".join(every[:-1]), every[-1]] if len(every) > 1 else every)


def as_typed(key: str, names: Iterable[object]) -> str:
    r"""A list of names as a user types it, with quotes where Hydra or the shell would split or convert them.

    Example:
        >>> as_typed("dataset.drop", ["age"])
        'dataset.drop=[age]'
        >>> as_typed("dataset.drop", ["Price (USD)", "a,b"])
        '\'dataset.drop=["Price (USD)","a,b"]\''
    """
    plain = [str(name) for name in names]
    if all(re.fullmatch(r"[A-Za-z][A-Za-z_-]*", name) and name.lower() not in NOT_TEXT for name in plain):
        return f"{key}=[{','.join(plain)}]"
    quoted = ",".join('"' + escaped(name, '"') + '"' for name in plain)
    line = f"{key}=[{quoted}]".replace("'", "'\\''")
    return f"'{line}'"


def shell_line(words: Iterable[str]) -> str:
    """Words joined to a line of a shell, with quotes where the shell needs them, the more readable kind.

    Example:
        >>> print(shell_line(["python", "scripts/train.py", "lr=0.1", "dataset.target='a b'", "dataset.drop=[a,b]"]))
        python scripts/train.py lr=0.1 "dataset.target='a b'" 'dataset.drop=[a,b]'
    """
    return " ".join(
        f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else shlex.quote(word) for word in words
    )


def escaped(text: str, quote: str) -> str:
    r"""Text with escapes, to stand between two quotes in an override of Hydra.

    Hydra takes a backslash literally, except before a quote.

    Example:
        >>> escaped(r"(p\d+)'s", "'")
        "(p\\d+)\\'s"
    """
    return re.sub(rf"(\\*)({quote}|\Z)", lambda found: found[1] * 2 + (f"\\{quote}" if found[2] else ""), text)


NOT_TEXT = {"true", "false", "null", "nan", "inf"}
"""Words that Hydra converts to a value that is not text."""

SYNONYMS = {
    "learning_rate": "lr",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "max_iter": "max_epochs",
    "tol": "tolerance",
    "solver": "optimizer",
    "random_state": "seed",
    "fit_intercept": "intercept",
    "weight_decay": "l2",
    "cuda": "gpu",
    "device": "accelerator",
}
"""Keys and values of other programs, with those of this one."""


def nearest(got: object, choices: Iterable[str]) -> str | None:
    """The choice that ``got`` most likely means: another program's name of it, or the closest spelling.

    Example:
        >>> nearest("mnits", ["mnist", "toy"]), nearest("x", ["mnist", "toy"])
        ('mnist', None)
    """
    by_lower = {choice.lower(): choice for choice in choices}
    synonym = SYNONYMS.get(str(got).lower())
    if synonym in by_lower:
        return synonym
    near = difflib.get_close_matches(str(got).lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def did_you_mean(got: object, choices: Iterable[str]) -> str:
    """A sentence that offers the choice nearest to ``got``; empty where none is near.

    Example:
        >>> did_you_mean("mnits", ["mnist", "toy"])
        'Did you mean mnist?'
        >>> did_you_mean("x", ["mnist", "toy"])
        ''
    """
    name = nearest(got, choices)
    return "" if name is None else f"Did you mean {name}?"
