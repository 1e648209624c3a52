"""What a file is by its first bytes, where it was to be text: another format, or text in another encoding than UTF-8.

References:
    Linux man-pages, magic(5): formats are told apart by constant bytes, their signature.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SIGNATURE_BYTES = 16
"""First bytes of a file that suffice for every signature."""

SAMPLE_BYTES = 2**16
"""First bytes of a file in which control characters are looked for."""

CONTROL_CHARACTERS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Bytes that no text has: control characters but white space and the escape character."""


class Format(NamedTuple):
    """A format of files that are no text."""

    is_what: str
    """What a file is, after "the file is"."""
    suffix: str = ""
    """Suffix of a table in this format that is read; empty where it is not."""
    program: str = ""
    """The command that decompresses it; empty where it is not compressed text."""


SIGNATURES = {
    rb"\x1f\x8b": Format("compressed by gzip", ".gz", "gzip -dc"),
    rb"BZh[1-9]1AY&SY": Format("compressed by bzip2", ".bz2", "bzip2 -dc"),
    rb"\x28\xb5\x2f\xfd": Format("compressed by zstd", ".zst", "zstd -dc"),
    rb"\xfd7zXZ\x00": Format("compressed by xz"),
    rb"PK\x03\x04": Format("a ZIP archive, as Excel's files are"),
    rb"PAR1\x15": Format("a Parquet file", ".parquet"),
    rb"ARROW1\x00\x00": Format("an Arrow file", ".arrow"),
    rb"\x93NUMPY": Format("an array of NumPy"),
    rb"\x80[\x02-\x05]": Format("a pickle of Python"),
    rb"\x89HDF\r\n": Format("an HDF5 file"),
    rb"SQLite format 3\x00": Format("a database of SQLite"),
    rb"\xd0\xcf\x11\xe0": Format("an old file of Excel or another Office program"),
    rb"%PDF-\d\.\d": Format("a PDF"),
    rb"\x89PNG\r\n": Format("a PNG image"),
    rb"\xff\xd8\xff": Format("a JPEG image"),
    rb"GIF8[79]a": Format("a GIF image"),
}
"""Formats by the first bytes of their files, as regular expressions."""


def format_of(start: bytes) -> Format | None:
    """The format of a file that is no text, by its first bytes; ``None`` where it is text, or unknown."""
    return next((found for signature, found in SIGNATURES.items() if re.match(signature, start, re.DOTALL)), None)


def encoding_of(start: bytes) -> str | None:
    """The encoding of text that is not in UTF-8, as iconv names it; ``None`` for bytes that are no text.

    Without a byte order mark, UTF-16 is known by its zeros: Latin letters have one in every second byte.

    Args:
        start: The first bytes of the file, some thousand.
    """
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    zeros = [start[first::2].count(0) for first in (0, 1)]
    if max(zeros) > len(start) / 4 and min(zeros) <= len(start) / 64:
        return "utf-16be" if zeros[0] > zeros[1] else "utf-16le"
    if CONTROL_CHARACTERS.search(start):
        return None
    return "cp1252" if re.search(rb"[\x80-\x9f]", start) else "latin1"  # only cp1252 has letters there
