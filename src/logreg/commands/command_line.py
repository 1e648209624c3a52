"""Common parts of all commands: the parser of key=value, exit codes, and one line for a mistake of the user.

Nothing here imports torch: ``--help`` and typing mistakes are answered at once.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from logreg import __version__
from logreg.commands.hydra_messages import explain_hydra_error
from logreg.commands.overrides import expand_backbone, is_override, parse_overrides
from logreg.commands.several_processes import silent_unless_first, speak_if_left
from logreg.commands.signals import ending_on_sigterm, interrupts_kept
from logreg.constraints import Constraint, check
from logreg.errors import ConfigError, LogregError, LostProcessError, Terminated, did_you_mean, shell_line, shortened
from logreg.files import is_there
from logreg.invocation import as_started
from logreg.launchers import Placement, placement
from logreg.run_folder import RUNS
from logreg.settings import Setting
from logreg.terminal import on_one_line, safe_terminal, show_status, without_passwords

ROOT = RUNS
"""The folder of all runs, relative to the working folder."""

MISSING_PATH_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ELOOP}
"""System errors of a path that does not exist, or is of the wrong kind."""

UNWRITABLE_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
"""System errors of a folder or a file that cannot be written."""

QUOTED_OR_HOME = re.compile(r"""((?:\A|[\[,])\s*)?(?:(['"])((?:\\.|(?!\2)[^\\])*)\2|~(?=/))""")
"""A text in quotes, or the home folder, behind the start of a value or of an item of a list, if it stands there."""

MAX_MESSAGE_LENGTH = 4_000
"""Characters of a message; of a longer one both ends are kept."""


class EarlyEnd:
    """Actions of one command when it ends early, besides those of all commands; by default none."""

    def after_mistake(self) -> None:
        """Is called after a mistake of the user was printed."""

    def after_interrupt(self, interrupt: BaseException) -> None:
        """Is called after Ctrl-C or SIGTERM, with the exception that it raised."""

    def unwritable(self, error: OSError) -> ConfigError:
        """The mistake that an `OSError` is, of those in ``MISSING_PATH_ERRNOS`` and ``UNWRITABLE_ERRNOS``."""
        reason = " ".join(str(error).split())
        return ConfigError(f"`output` must be a place to write to: {reason[:300]}. Nothing was left there.")


@ending_on_sigterm()
def run_command(
    help_text: Callable[[], str],
    run: Callable[[list[str]], int],
    arguments: Sequence[str] | None = None,
    early_end: EarlyEnd | None = None,
    shares_rows: bool = False,
) -> int:
    """Runs a command line; the only place where an exception becomes an exit code.

    Args:
        help_text: Returns what ``--help`` prints.
        run: Takes what was typed, returns the exit code.
        arguments: The words after the command's name; ``sys.argv`` when ``None``.
        early_end: The command's own actions when it ends early.
        shares_rows: Whether several processes that a launcher has started do the work together; else the first of them
            does it, and the others end at once.

    Returns:
        Exit code: that of ``run``; 0 where the reader of the output has left, as `head` does; 2 for a mistake of the
        user, which is one line on stderr; 130 when stopped from the keyboard.  SIGTERM ends the process with 143.

    Raises:
        Exception: A bug, with its traceback.
    """
    early_end = EarlyEnd() if early_end is None else early_end
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        placed = placement()
    except ConfigError as error:
        print_error(error)
        return 2
    with safe_terminal(), silent_unless_first(placed):
        try:
            if placed is not None and not shares_rows:
                if placed.rank:
                    return 0
                print_alone(placed)
            if {"-h", "--help"} & set(typed):
                print(as_started(help_text().rstrip("\n")), flush=True)
                return 0
            if "--version" in typed:
                print(f"logreg {__version__}")
                return 0
            with interrupts_kept():
                code = run(typed)
            sys.stdout.flush()
        except (LogregError, HydraException, OmegaConfBaseException) as error:
            if placed is not None and placed.rank:
                speak_if_left()  # the first process has most probably met the same mistake
            print_error(error)
            early_end.after_mistake()
            return 2
        except LostProcessError as error:
            speak_if_left()
            print(f"Stopped: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            _close_stdout()
            return 0
        except OSError as error:
            if error.errno not in UNWRITABLE_ERRNOS | MISSING_PATH_ERRNOS:
                raise
            print_error(_too_long_name(error, typed) or early_end.unwritable(error))
            early_end.after_mistake()
            return 2
        except (KeyboardInterrupt, Terminated) as interrupt:  # after the latter `ending_on_sigterm` ends the process
            early_end.after_interrupt(interrupt)
            return 130
        return code


def with_home(word: str) -> str:
    """An argument with the path of the home folder for each "~/" at the start of a value, or of an item of a list.

    Not every shell fills it in behind "=", and none in a list.

    Example:
        >>> "~" in with_home("dataset.path=~/rows.csv"), "~" in with_home("dataset.path=[~/a.npy, '~/b.npy']")
        (False, False)
        >>> with_home("~schedule"), with_home("x=a~/b"), with_home("separator=~"), with_home("x='a,~/b'")
        ('~schedule', 'x=a~/b', 'separator=~', "x='a,~/b'")
    """
    home = os.path.expanduser("~")  # noqa: PTH111  # text stays text
    key, mark, value = word.partition("=")

    def filled(found: re.Match[str]) -> str:
        start, quote, quoted = found.groups()
        if start is None or not (quote is None or quoted.startswith("~/")):
            return found[0]
        return start + home if quote is None else f"{start}{quote}{home}{quoted[1:]}{quote}"

    return key + mark + QUOTED_OR_HOME.sub(filled, value)


def _too_long_name(error: OSError, typed: Sequence[str]) -> ConfigError | None:
    """The mistake that a path is, of those that were typed, with a longer name than the system takes; else ``None``."""
    if error.errno != errno.ENAMETOOLONG:
        return None
    names = Path(os.fsdecode(error.filename or "")).parts
    longest = max(names, key=len, default="")
    word = next((word for word in typed if longest and longest in word), None)
    if word is None:
        return None
    key, _, value = word.rpartition("=")
    return ConfigError(
        f"`{shortened(key or value)}` must be a path, and the system takes no name as long as {shortened(longest)!r}. "
        "Type a shorter one."
    )


def print_alone(placed: Placement) -> None:
    """Tells that one process does the work."""
    print(f"one process does this: the first of {placed.size} that {placed.launcher} started", file=sys.stderr)


def print_error(error: Exception) -> None:
    """Prints a mistake of the user in one line on stderr."""
    message = as_started(str(error) if isinstance(error, LogregError) else explain_hydra_error(error))
    if len(message) > MAX_MESSAGE_LENGTH:  # it may have the name of a column that is as long as the file
        message = f"{message[: MAX_MESSAGE_LENGTH // 2]} ... {message[-MAX_MESSAGE_LENGTH // 2 :]}"
    # the name of a column may have line breaks, a URL may have a password
    print(without_passwords(on_one_line(" ".join(message.split("\n")))), file=sys.stderr)


def _close_stdout() -> None:
    """Sends the rest of the output to nowhere: Python flushes stdout once more at exit, and the pipe is closed."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # stays open until the process ends


@contextmanager
def importing_libraries() -> Iterator[None]:
    """Imports torch and Lightning, which takes seconds, for the imports inside; a terminal shows a line meanwhile."""
    show_status("importing torch and lightning ...")
    from logreg.fast_import import import_lightning, without_collector

    with without_collector():
        import_lightning()
        yield


@dataclass(frozen=True)
class TypedArguments:
    """The arguments that a user typed after the name of a command.

    Attributes:
        values: Values of the command's own keys, with defaults for keys that were not typed.
        overrides: ``key=value`` for the config of the run.
        given: Every key that was typed.
        free: All other ``key=value``, as typed.
    """

    values: Mapping[str, Any]
    overrides: tuple[Override, ...]
    given: frozenset[str]
    free: tuple[str, ...] = ()


def check_root(root: Path) -> None:
    """Checks that the folder of all runs is a folder, if it exists.

    Raises:
        ConfigError: It is a file.
    """
    if root.exists() and not root.is_dir():
        raise ConfigError(f"`{root}` must be the folder of all runs, and it is a file. Move it away.")


def parse_arguments(
    typed: Sequence[str],
    command: str,
    own: Mapping[str, Setting],
    run_keys: Sequence[str] = (),
    takes_more: bool = False,
) -> TypedArguments:
    """Parses and checks what was typed, all of it ``key=value``.

    Args:
        typed: The words after the command's name.
        command: Name of the command, for messages.
        own: The keys of this command alone.
        run_keys: Keys of ``scripts/train.py`` that may be typed as well, with what lies below them.
        takes_more: Whether other keys are taken, too.

    Raises:
        ConfigError: Names the key, or the constraint that the value breaks.
    """
    values = {key: setting.default for key, setting in own.items()}
    overrides: list[Override] = []
    given, free = [], []
    for argument in typed:
        if not is_override(argument) or argument.startswith("-"):
            example = _example_with_key(argument, own, run_keys)
            raise ConfigError(f"`{argument}` must be written as key=value{example}. `--help` lists the keys.")
        key = argument.partition("=")[0]
        group = key.lstrip("+~").partition(".")[0]
        if takes_more and key not in own and group not in run_keys:
            free.append(argument)  # as it is: a column of text may begin with ~/
            continue
        with_path = with_home(argument)
        if key in given:
            raise ConfigError(f"`{key}` must be typed once.")
        given.append(key)
        if key in own:
            values[key] = parse_value(key, with_path.partition("=")[2], own[key].constraint)
        elif group in run_keys:
            overrides += parse_overrides(expand_backbone([with_path]))
        else:
            known = [*own, *run_keys]
            near = did_you_mean(key, known) or "`--help` lists the keys."
            raise ConfigError(f"`{key}` must be a key of {command}, and there is none of that name. {near}")
    for override in overrides:
        if override.is_sweep_override():
            raise ConfigError(f"`{override.key_or_group}` must be one value, got several in {override.input_line}.")
    return TypedArguments(values, tuple(overrides), frozenset(given), tuple(free))


def parse_value(key: str, text: str, constraint: Constraint) -> Any:
    """The value of one key: the text itself where the constraint is on text, else what Hydra reads.

    Raises:
        ConfigError: The value breaks the constraint.
    """
    value: Any = text
    if not constraint.is_text:
        (override,) = parse_overrides([f"{key}={text}"])
        value = text if override.is_sweep_override() else override.value()
    check(key, value, constraint)
    return value


def _example_with_key(word: str, own: Mapping[str, Setting], run_keys: Sequence[str]) -> str:
    """The argument that a user meant who typed a value without its key, as an example; empty where it is not clear."""
    keys = [key for key, setting in own.items() if word in setting.constraint.choices]
    path = Path(word)
    if "ckpt_path" in own and (path.suffix == ".ckpt" or is_there(path / ".hydra")):
        keys.append("ckpt_path")
    elif not keys and path.suffix:
        keys += [key for key in ("input",) if key in own] or (["dataset.path"] if "dataset" in run_keys else [])
    return "" if not keys or word.startswith("-") else f", such as {shell_line([f'{keys[0]}={word}'])}"
