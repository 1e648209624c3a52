"""Where the text of a table comes from: a file, also compressed, or standard input."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logreg.data.formats.compression import COMPRESSED_SUFFIXES, open_binary, open_text, suffix_of
from logreg.data.formats.signatures import SAMPLE_BYTES


@dataclass(frozen=True)
class TextFile:
    """A text file."""

    path: str
    """Its path."""
    key: str
    """The key that the user typed to name it."""

    is_read_once = False
    """Whether `open` may be called only once."""

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return self.path

    @property
    def suffix(self) -> str:
        """The suffix that names the format of the text."""
        return suffix_of(self.path)

    @property
    def is_compressed(self) -> bool:
        """Whether it is decompressed while it is read."""
        return Path(self.path).suffix.lower() in COMPRESSED_SUFFIXES

    def look(self) -> io.BufferedReader:
        """Opens it to read its first lines."""
        return open_binary(self.path, self.key)

    def open(self) -> Any:
        """Opens it to read it to its end, as a file of Arrow."""
        return open_text(self.path, self.key)

    def sample(self) -> bytes:
        """Its first bytes, up to ``SAMPLE_BYTES``."""
        with self.look() as file:
            return file.read(SAMPLE_BYTES)


@dataclass(frozen=True)
class StandardInput:
    """Standard input: what is read of it to look at the first lines is kept, and read again.

    The attributes and methods are those of `TextFile`.
    """

    key: str
    start: bytearray = field(default_factory=bytearray)
    """Bytes that have been read to look at them."""

    is_read_once = True
    name = "standard input"
    suffix = ".csv"
    is_compressed = False

    def look(self) -> io.BufferedReader:
        """Opens it at its start, to read its first lines; does not wait for more than these."""
        return io.BufferedReader(_Replayed(self.start, is_kept=True))

    def open(self) -> Any:
        """Opens it at its start, to read it to its end."""
        import pyarrow as pa

        return pa.PythonFile(io.BufferedReader(_Replayed(self.start, is_kept=False), 2**20), mode="r")

    def sample(self) -> bytes:
        """Those of its first bytes that have been read to look at them, up to ``SAMPLE_BYTES``."""
        return bytes(self.start[:SAMPLE_BYTES])


TextInput = TextFile | StandardInput
"""What the text of a table is read from."""


class _Replayed(io.RawIOBase):
    """Standard input from its start: bytes that have been read, and then the rest, which is kept on request."""

    def __init__(self, start: bytearray, is_kept: bool) -> None:
        self.start, self.is_kept, self.position = start, is_kept, 0
        self.rest: Any = sys.stdin.buffer if sys.stdin else io.BytesIO()  # none where the process has none

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.start[self.position : self.position + len(buffer)]
        if not data:
            data = self.rest.read1(len(buffer))
            if self.is_kept:
                self.start += data
        self.position += len(data)
        buffer[: len(data)] = data
        return len(data)
