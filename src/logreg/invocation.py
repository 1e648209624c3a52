"""The words that start a command: `python scripts/train.py`, `logreg train` or `python -m logreg train`.

Help texts, messages and reports name commands by this module, so that each command in them can be typed as printed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_IN_CHECKOUT = (Path(__file__).parents[2] / "scripts" / "train.py").is_file()
"""Whether the package is imported from a checkout, which has scripts."""

_SCRIPT = re.compile(r"(?:(python) )?\bscripts/(\w+)\.py\b")


def command_words(command: str) -> list[str]:
    """The words that start ``command`` in the way in which this process was started.

    In a process that no command started, such as a notebook, they name the scripts where there are any.
    """
    started = Path(sys.argv[0] if sys.argv else "")
    if started.name == "__main__.py" and started.parent.name == "logreg":
        return ["python", "-m", "logreg", command]
    if started.name in ("logreg", "logreg.exe") or not _IN_CHECKOUT:
        return ["logreg", command]
    return ["python", f"scripts/{command}.py"]


def as_started(text: str) -> str:
    """A help text or message in which each ``python scripts/NAME.py`` is replaced by the words that start it."""
    return _SCRIPT.sub(_replaced, text)


def _replaced(found: re.Match[str]) -> str:
    words = command_words(found[2])
    # Without "python" it is the name of the command in a sentence.
    is_name = found[1] is None and words[0] == "python" and len(words) == 2
    return words[1] if is_name else " ".join(words)
