"""Wording that the sentences on optimality share."""

from __future__ import annotations

from collections.abc import Sequence

MAX_LISTED_NAMES = 3
"""Names in one list of a sentence; further ones are counted, so that the sentence stays on a line."""


def listed(names: Sequence[str], one: str, many: str) -> str:
    """A list of names as it stands in a sentence.

    Args:
        names: At least one, quoted as they are to appear.
        one: The noun for one further name.
        many: The noun for several further names.

    Example:
        >>> listed(["a", "b"], "column", "columns"), listed(list("abcde"), "column", "columns")
        ('a and b', 'a, b, c and 2 more columns')
    """
    shown, left = names[:MAX_LISTED_NAMES], len(names) - MAX_LISTED_NAMES
    if left > 0:
        return f"{', '.join(shown)} and {left:,} more {one if left == 1 else many}"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
