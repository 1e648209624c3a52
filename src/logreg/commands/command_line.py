"""What all commands share: key=value, the exit codes, mistakes answered in one line.

Nothing here imports torch: ``--help`` and typing mistakes are answered at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from logreg import __version__
from logreg.commands.overrides import explain_hydra_error, is_override, parse, with_backbone
from logreg.commands.signals import ending_on_sigterm, interrupts_kept
from logreg.constraints import Constraint, check
from logreg.errors import ConfigError, LogregError, did_you_mean, shell_line
from logreg.invocation import as_started
from logreg.run_folder import RUNS
from logreg.terminal import doing, on_one_line, screened, without_passwords

ROOT = RUNS
"""Where runs live, seen from where the user stands."""

MISSING_PATH_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ELOOP}
"""Why a path that a user named is none."""

UNWRITABLE_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
"""Why a folder or a file cannot be written."""

LONGEST_MESSAGE = 4_000
"""Letters of a message; its ends are what is kept."""


@ending_on_sigterm()
def run_command(help_text: str, work: Callable[[list[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; what went wrong is said in one line on stderr.

    Args:
        help_text: What ``--help`` prints.
        work: Takes what was typed, returns the exit code.
        arguments: What follows the script's name; ``sys.argv`` when ``None``.

    Returns:
        Exit code: that of ``work``; 2 a mistake that the user can mend; 130 stopped from the
        keyboard.  SIGTERM ends the process with 143.  A bug leaves with its traceback.
    """
    with screened():
        return _run_command(help_text, work, list(sys.argv[1:] if arguments is None else arguments))


def _run_command(help_text: str, work: Callable[[list[str]], int], typed: list[str]) -> int:
    try:
        if {"-h", "--help"} & set(typed):
            print(as_started(help_text.rstrip("\n")), flush=True)
            return 0
        if "--version" in typed:
            print(f"logreg {__version__}")
            return 0
        with interrupts_kept():
            code = work(typed)
        sys.stdout.flush()
    except (LogregError, HydraException, OmegaConfBaseException) as error:
        print_error(error)
        return 2
    except BrokenPipeError:
        leave_quietly()
        return 0
    except OSError as error:
        if error.errno not in UNWRITABLE_ERRNOS | MISSING_PATH_ERRNOS:
            raise
        reason = " ".join(str(error).split())
        print_error(ConfigError(f"`output` must be a place to write to: {reason[:300]}. Nothing was left there."))
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def print_error(error: Exception) -> None:
    """A mistake in one line on stderr."""
    words = as_started(str(error) if isinstance(error, LogregError) else explain_hydra_error(error))
    if len(words) > LONGEST_MESSAGE:  # a name in it may be all of a file
        words = f"{words[: LONGEST_MESSAGE // 2]} ... {words[-LONGEST_MESSAGE // 2 :]}"
    # a column's name may have lines, an address a password
    print(without_passwords(on_one_line(" ".join(words.split("\n")))), file=sys.stderr)


def leave_quietly() -> None:
    """Whoever read our output has left, as `head` does."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # Python flushes it once more at exit


def say_importing() -> None:
    """Bridges the longest silence of a short command, where somebody watches."""
    doing("importing torch and lightning ...")


@dataclass(frozen=True)
class TypedArguments:
    """What a user typed after a script that works on a trained model.

    Attributes:
        values: Of the command's own keys; the default of those that were not typed.
        overrides: ``key=value`` for the config of the run.
        given: Every key that was typed.
        free: ``key=value`` that is neither, as it was typed.
    """

    values: Mapping[str, Any]
    overrides: tuple[Override, ...]
    given: frozenset[str]
    free: tuple[str, ...] = ()


def check_root(root: Path) -> None:
    """The folder of all runs is one, if it is there.

    Raises:
        ConfigError: It is a file.
    """
    if root.exists() and not root.is_dir():
        raise ConfigError(f"`{root}` must be the folder of all runs, and it is a file. Move it away.")


def read_typed(
    typed: Sequence[str],
    script: str,
    own: Mapping[str, tuple[Constraint, Any]],
    of_the_run: Sequence[str] = (),
    takes_more: bool = False,
) -> TypedArguments:
    """Checks what was typed, all of it ``key=value``.

    Args:
        typed: What follows the script's name.
        script: Its name, for messages.
        own: Constraint and default of the keys of this command alone; text is taken as it stands.
        of_the_run: Keys of ``scripts/train.py`` that may be typed as well, with what lies below them.
        takes_more: Whether a key that is none of these is taken all the same.

    Raises:
        ConfigError: Names the key, or the constraint that the value breaks.
    """
    values = {key: default for key, (_, default) in own.items()}
    overrides: list[Override] = []
    given, free = [], []
    for argument in typed:
        if not is_override(argument) or argument.startswith("-"):
            near = _such_as(argument, own, of_the_run)
            raise ConfigError(f"`{argument}` must be written as key=value{near}. `--help` lists the keys.")
        key, _, text = argument.partition("=")
        group = key.lstrip("+~").partition(".")[0]
        if takes_more and key not in own and group not in of_the_run:
            free.append(argument)
            continue
        if key in given:
            raise ConfigError(f"`{key}` must be typed once.")
        given.append(key)
        if key in own:
            values[key] = read_value(key, text, own[key][0])
        elif group in of_the_run:
            overrides += parse(with_backbone([argument]))
        else:
            known = [*own, *of_the_run]
            near = did_you_mean(key, known) or "`--help` lists the keys."
            raise ConfigError(f"`{key}` must be a key of {script}, and there is none of that name. {near}")
    for override in overrides:
        if override.is_sweep_override():
            raise ConfigError(f"`{override.key_or_group}` must be one value, got several in {override.input_line}.")
    return TypedArguments(values, tuple(overrides), frozenset(given), tuple(free))


def read_value(key: str, text: str, constraint: Constraint) -> Any:
    """A value as it was typed: text where that will do, else what Hydra reads.

    Raises:
        ConfigError: It breaks its constraint.
    """
    value: Any = text
    if not constraint.is_text:
        value = parse([f"{key}={text}"])[0].value()
    check(key, value, constraint)
    return value


def _such_as(word: str, own: Mapping[str, tuple[Constraint, Any]], of_the_run: Sequence[str]) -> str:
    """The key that a value was typed without, where the value tells it."""
    keys = [key for key, (constraint, _) in own.items() if word in constraint.choices]
    path = Path(word)
    if "ckpt_path" in own and (path.suffix == ".ckpt" or (path / ".hydra").is_dir()):
        keys.append("ckpt_path")
    elif not keys and path.suffix:
        keys += [key for key in ("input",) if key in own] or [
            "dataset.path" for group in of_the_run if group == "dataset"
        ]
    return "" if not keys or word.startswith("-") else f", such as {shell_line([f'{keys[0]}={word}'])}"
