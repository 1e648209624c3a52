r"""Safe output to terminals: text without control characters, in the terminal's encoding.

Names of columns, classes and files may come from untrusted files: an escape sequence in a name could recolor the
terminal, set its title, or hide earlier output.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

UNPRINTABLE = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters except tab and line ends, separators of lines and paragraphs, marks that change the direction of
writing, and surrogates, which represent bytes of a file name that are not UTF-8."""

INSIDE_A_LINE = re.compile(rf"[{UNPRINTABLE}\r\n]")

IN_A_TEXT = re.compile(rf"[{UNPRINTABLE}]|(?<!\A)\r(?!\Z)")
"""A carriage return is allowed at the two ends of a text, where progress bars have it."""

ASCII = str.maketrans({"±": "+/-", "…": "...", "≤": "<=", "≥": ">="})
"""Replacements for the characters beyond ASCII in the sentences of this package."""

PASSWORD_PARAMETER = re.compile(r"(?<=[?&;])((?:\w*password|pwd|\w*token)=)[^\s&;'\"]+", re.IGNORECASE)
"""A password among the parameters of a URL."""

PASSWORD_OF_USER = re.compile(r"(?<=://)([^\s/:@]*):\S*@")
"""The password between a URL's user name and its last @: it may have a / or ?, since not all users escape these."""


def on_one_line(text: str) -> str:
    r"""Text with control characters and line ends escaped as in Python.

    Example:
        >>> on_one_line("a\x1b[31m\nb")
        'a\\x1b[31m\\nb'
    """
    return INSIDE_A_LINE.sub(_escaped, text)


def without_passwords(text: str) -> str:
    """Text with the passwords of URLs hidden.

    Example:
        >>> without_passwords("postgresql://me:secret@host/trials?sslpassword=secret")
        'postgresql://me:***@host/trials?sslpassword=***'
    """
    return PASSWORD_OF_USER.sub(r"\1:***@", PASSWORD_PARAMETER.sub(r"\1***", text))


def counted(number: float, noun: str) -> str:
    """A number with its noun, which takes an s or es in the plural.

    Example:
        >>> counted(1, "row"), counted(2_500, "row"), counted(0, "class")
        ('1 row', '2,500 rows', '0 classes')
    """
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,.10g} {noun}{ending}"


def format_bytes(count: float) -> str:
    """A number of bytes in the unit that suits it.

    Example:
        >>> format_bytes(2_640_397_119), format_bytes(11_594_722), format_bytes(28_881)
        ('2.6 GB', '11.6 MB', '29 kB')
    """
    for unit, factor, digits in (("GB", 1e9, 1), ("MB", 1e6, 1), ("kB", 1e3, 0)):
        if count >= factor:
            return f"{count / factor:,.{digits}f} {unit}"
    return f"{count:,.0f} bytes"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class Screen:
    """A text stream that escapes what a terminal must not get; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes text, with control characters escaped."""
        self.rich_proxied_file.write(IN_A_TEXT.sub(_escaped, text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each."""
        for line in lines:
            self.write(line)

    @property
    def rich_proxied_file(self) -> Letters:
        """The stream that rich writes to: its own control sequences are kept, and `terminal` escapes all others."""
        return Letters(self._stream)

    @property
    def buffer(self) -> Any:
        """Writes bytes unchanged, but to a terminal as text."""
        return _Bytes(self) if self._stream.isatty() else self._stream.buffer

    def __getattr__(self, name: str) -> Any:
        """All other attributes are those of the stream."""
        return getattr(self._stream, name)


class Letters:
    """A text stream that replaces characters which its encoding lacks."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = self.whole = stream

    def write(self, text: str) -> int:
        """Writes text over the line of `show_status`, with replacements for characters that cannot be encoded."""
        _wipe()
        encoding = self._stream.encoding or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            text = text.translate(ASCII).encode(encoding, "backslashreplace").decode(encoding)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        """All other attributes are those of the stream."""
        return getattr(self._stream, name)


class _Bytes(io.RawIOBase):
    """A binary stream whose bytes are written as UTF-8 text to a screen."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._screen.write(bytes(data).decode("utf-8", "replace"))
        return len(data)


_shown: list[tuple[TextIO, int]] = []
"""The stream on which `show_status` shows a line, and the line's width; empty where it shows none."""


def show_status(line: str) -> None:
    """Shows a status line on the terminal, which the next output replaces.

    The line goes to standard error within `safe_terminal`; nothing is shown where that is a pipe or has a progress bar.
    """
    if not isinstance(sys.stderr, Screen) or not sys.stderr.isatty():
        return
    line = on_one_line(line)[: shutil.get_terminal_size().columns - 1]
    stream = sys.stderr.rich_proxied_file
    stream.write(line + "\r")
    stream.flush()
    _shown.append((stream.whole, len(line)))


def _wipe() -> None:
    while _shown:
        stream, width = _shown.pop()
        stream.write(" " * width + "\r")
        stream.flush()


@contextmanager
def safe_terminal() -> Iterator[None]:
    """Replaces standard output and standard error by a `Screen` each."""
    out, err = sys.stdout, sys.stderr
    shown = Screen(out), Screen(err)
    sys.stdout, sys.stderr = shown
    try:
        yield
    finally:
        _wipe()
        # A stream that was replaced since then stays, such as one for a closed pipe.
        sys.stdout = out if sys.stdout is shown[0] else sys.stdout
        sys.stderr = err if sys.stderr is shown[1] else sys.stderr


def terminal(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console of rich whose only control sequences are its own."""
    file: TextIO = sys.stderr if stderr else sys.stdout
    while (inner := getattr(file, "rich_proxied_file", None)) is not None:  # a bar of rich stands before a `Screen`
        file = inner
    return _console_class()(file=file, width=width)


@cache
def _console_class() -> type[Console]:
    """The class of consoles; made on first use, since rich is slow to import."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError that rich would turn into the exit code 1

        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(on_one_line(text), **how)  # before its width is measured

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=IN_A_TEXT.sub(_escaped, segment.text))

    return Terminal
