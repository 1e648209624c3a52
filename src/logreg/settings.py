"""A setting: its default, its constraint and its help text, declared together.  Standard library only."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from logreg.constraints import Constraint

WIDTH = 120
"""Columns of a help text."""

NAME_WIDTH = 13
"""Columns of the name of a setting, with the space behind it."""

DEFAULT_WIDTH = 10
"""Columns of its default, with the space behind it."""


@dataclass(frozen=True)
class Setting:
    """A key that a user may type.

    Attributes:
        default: The value of a key that was not typed; text with ``${...}`` refers to other keys of the config.
        constraint: Condition on a value.
        help: Text of the setting in ``--help``, after the default.
        shown: Text that ``--help`` shows as the default; the default itself when ``None``.
    """

    default: Any
    constraint: Constraint
    help: str
    shown: str | None = None

    @property
    def default_in_help(self) -> str:
        """The default as a user would type it; D for one that the dataset's recipe has."""
        if self.shown is not None:
            return self.shown
        if isinstance(self.default, str):
            return "D" if self.default.startswith("${dataset.recipe.") else self.default
        return json.dumps(self.default)


def help_lines(settings: Mapping[str, Setting]) -> str:
    """The lines of ``--help`` about settings: name, default and help text in three columns.

    Args:
        settings: Each by its name.

    Returns:
        Lines of at most ``WIDTH`` columns, without a line break at the end.
    """
    lines: list[str] = []
    for name, setting in settings.items():
        head = f"  {name:<{NAME_WIDTH}}{setting.default_in_help:<{DEFAULT_WIDTH}}"
        behind = " " * (2 + NAME_WIDTH + DEFAULT_WIDTH)
        lines += textwrap.wrap(
            setting.help,
            WIDTH,
            initial_indent=head,
            subsequent_indent=behind,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
