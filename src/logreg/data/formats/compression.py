"""Compressed text files: their suffixes, and their content up to a size.

A few bytes of an untrusted file could otherwise decompress to more than any memory holds.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from logreg.errors import DataError

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".zst")
"""Suffixes of compressed text files, which follow the suffix of the text file: ``a.csv.gz``."""

MAX_EXPANSION_RATIO = 100
"""Maximum size of a decompressed file, relative to its compressed size.  Text of numbers expands about 3 times, text of
mostly zeros about 50 times."""

ALWAYS_ALLOWED_BYTES = 2**26
"""Decompressed size, in bytes, that is allowed at any ratio, since small files of constants expand more: 64 MiB do no
harm."""


def suffix_of(path: str | Path) -> str:
    """The suffix that names a file's format, in lower case: ``.csv`` for ``a.csv`` and for ``a.csv.gz``."""
    name = Path(path)
    return (name.with_suffix("") if name.suffix.lower() in COMPRESSED_SUFFIXES else name).suffix.lower()


def max_decoded_bytes(file: str | Path | int) -> int:
    """Bytes that the content of a file, given by its path or its size, may have in memory."""
    return max(
        ALWAYS_ALLOWED_BYTES, MAX_EXPANSION_RATIO * (file if isinstance(file, int) else Path(file).stat().st_size)
    )


def open_text(path: str, key: str) -> Any:
    """The decompressed bytes of a text file, as a file of Arrow."""
    import pyarrow as pa

    if Path(path).suffix.lower() not in COMPRESSED_SUFFIXES:
        return pa.input_stream(path)
    return pa.PythonFile(open_binary(path, key), mode="r")


def open_binary(path: str | Path, key: str) -> io.BufferedReader:
    """The decompressed bytes of a text file, as a file of Python."""
    if Path(path).suffix.lower() not in COMPRESSED_SUFFIXES:
        return Path(path).open("rb")
    return io.BufferedReader(_Decompressed(str(path), key), 2**20)


class _Decompressed(io.RawIOBase):
    """The decompressed content of a text file, up to `max_decoded_bytes`."""

    def __init__(self, path: str, key: str) -> None:
        import pyarrow as pa

        self.path, self.key, self.bytes_left = path, key, max_decoded_bytes(path)
        self.stream = pa.input_stream(path, compression="detect")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise DataError(
                f"`{self.key}` must decompress to at most {MAX_EXPANSION_RATIO} times its size, and {self.path} of "
                f"{Path(self.path).stat().st_size:,} bytes decompresses to more. Decompress it yourself, if you trust "
                "the file."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()
