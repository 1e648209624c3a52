"""The command `logreg`, also as `python -m logreg`: names a command and hands the rest of the line to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from logreg.errors import ConfigError, did_you_mean

COMMANDS = {
    "train": "fits a logistic regression, scores it and writes a report",
    "evaluate": "scores a trained model, with intervals",
    "predict": "gives the probability of each class for new rows",
    "coefficients": "shows how sure the coefficients are: standard errors, intervals, tests",
    "certify": "certifies how far coefficients are from their optimum, also those of other programs",
    "export": "writes a trained model for other programs",
    "sweep": "searches for the settings with the best score on val",
    "compare": "shows runs beside each other, and whether one of two is better",
}
"""Each command, a module of `logreg.commands`, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``logreg``.

    Args:
        arguments: The words after ``logreg``; ``sys.argv`` when ``None``.

    Returns:
        Exit code of the command; 0 after the list of commands; 2 where there is no command of that name.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if typed and typed[0] in COMMANDS:
        return int(import_module(f"logreg.commands.{typed[0]}").main(typed[1:]))
    from logreg.commands.command_line import run_command

    return run_command(help_text, _refuse, typed or ["--help"])


def help_text() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "logreg fits logistic regressions to their certified optimum.",
            "",
            "usage: logreg COMMAND [key=value ...]",
            "",
            "commands",
            *lines,
            "",
            "logreg COMMAND --help lists the keys of a command.",
        ]
    )


def _refuse(typed: list[str]) -> int:
    """Says what was typed in the place of a command.

    Raises:
        ConfigError: Always.
    """
    word = typed[0]
    near = did_you_mean(word, COMMANDS) or ("Did you mean train?" if "=" in word else "")
    raise ConfigError(f"`logreg` must be followed by one of {', '.join(COMMANDS)}, got {word!r}. {near}".rstrip())


def start() -> NoReturn:
    """Runs the command line of ``logreg`` as a process of its own."""
    from logreg.commands.process import run_process

    run_process(main)


if __name__ == "__main__":
    start()
