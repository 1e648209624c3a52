"""Reads summary.json of a run folder, which may be of any origin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from logreg.errors import ConfigError, LogregError
from logreg.files import shown


@contextmanager
def reading_summary(file: Path) -> Iterator[None]:
    """Turns what a wrong summary raises, while its content is used, into a mistake of the user.

    Raises:
        ConfigError: The summary lacks something, or holds something else.
    """
    try:
        yield
    except LogregError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"`{shown(file)}` must be the summary of a run, and cannot be read as that. Remove it, or train anew."
        ) from error


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of the run in a folder.

    Raises:
        ConfigError: It cannot be read as a summary.
    """
    file = folder / "summary.json"
    with reading_summary(file):
        plain = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(plain, dict):
            raise TypeError
    return plain
