"""Files of plain text in UTF-8, each of which is one row; and folders of them, one for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from logreg.data.formats.folders import LAYOUT, files_with, list_folder
from logreg.data.formats.signatures import SAMPLE_BYTES, encoding_of, format_of
from logreg.data.formats.text_layout import Header
from logreg.errors import DataError
from logreg.facts import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_SUFFIX = ".txt"
"""Suffix of the files."""

FOLDER_COLUMNS = ("text", "class")
"""The columns of the table that a folder is."""


@dataclass(frozen=True)
class TextFolder:
    """A folder of texts with a folder for each class, as a table."""

    key: str
    """The key that the user typed to name it."""
    root: Path
    suffix: ClassVar[str] = TEXT_SUFFIX

    @property
    def name(self) -> str:
        """Its name, for messages: of the folder of a split with that of the whole."""
        folder = self.root.resolve()
        return f"{folder.parent.name}/{folder.name}" if folder.name in SPLITS else folder.name

    def header(self, separator: str | None = None, has_header: bool = True) -> Header:
        """The columns."""
        return Header(list(FOLDER_COLUMNS))

    def read(self, columns: Sequence[str], *options: Any) -> tuple[pa.Table, tuple[tuple[int, str], ...]]:
        """Some columns of all texts; the options are those of files of tables, and have no meaning here.

        Raises:
            DataError: There is no folder, or one without texts; or a text cannot be read, or is not in UTF-8.
        """
        import pyarrow as pa

        texts: list[str | None] = []
        classes: list[str] = []
        names = list_folder(self.root)[0]
        if not names:
            raise DataError(f"`{self.key}` must hold {LAYOUT}, and there is no folder in {self.root}.")
        for name in names:
            files = text_files(self.root / name)
            if not files:
                raise DataError(
                    f"`{self.key}` must have {TEXT_SUFFIX} files in each class folder, got none in {self.root / name}. "
                    "Add some, or remove the folder."
                )
            texts += [read_text_file(file, self.key) for file in files]
            classes += [name] * len(files)
        of_columns = (pa.array(texts, pa.string()), pa.array(classes, pa.string()))
        return pa.table(dict(zip(FOLDER_COLUMNS, of_columns, strict=True))).select(list(columns)), ((0, self.name),)


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
        other, encoding = format_of(held), encoding_of(held[:SAMPLE_BYTES])
        if other is not None or encoding is None:
            what = "is not" if other is None else f"is {other.is_what}"
            raise DataError(f"`{key}` must hold text, and {file} {what}. Move it elsewhere.") from error
        line = held.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"`{key}` must be in UTF-8, and line {line} of {file} is not. "
            f"Convert it: iconv -f {encoding} -t utf-8 old.txt > new.txt."
        ) from error
