"""Files of plain text in UTF-8, each of which is one row."""

from __future__ import annotations

from pathlib import Path

from logreg.data.formats.folders import files_with
from logreg.errors import DataError

TEXT_SUFFIX = ".txt"
"""Suffix of the files."""


def text_files(folder: Path) -> list[Path]:
    """The .txt files in a folder and the folders below it, in the order of their names."""
    return [folder / name for name in files_with(TEXT_SUFFIX, folder)]


def read_text_file(file: Path, key: str) -> str | None:
    """The text of a file in UTF-8; ``None`` where it has none.

    Args:
        file: The file.
        key: The key that the user typed to name it.

    Raises:
        DataError: It cannot be read, or is not in UTF-8.
    """
    try:
        held = file.read_bytes()
    except OSError as error:
        raise DataError(f"`{key}` must hold files that can be read, and {file} cannot: {error.strerror}.") from error
    try:
        return held.decode("utf-8-sig").strip() or None
    except UnicodeDecodeError as error:
        line = held.count(b"\n", 0, error.start) + 1
        encoding = "utf-16" if held[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise DataError(
            f"`{key}` must be in UTF-8, and line {line} of {file} is not. "
            f"Convert it: iconv -f {encoding} -t utf-8 old.txt > new.txt."
        ) from error
