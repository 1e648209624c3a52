"""Text of the user with classes: a table with a column of text, or a folder with a folder of .txt files for each class.

A folder becomes a table with the columns text and class, and both go the way of `dataset=table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from logreg.data.base import RawData
from logreg.data.encoding.text import looks_like_text
from logreg.data.formats.binary_tables import TABLE_BATCH_ROWS
from logreg.data.formats.find_shards import is_sharded
from logreg.data.formats.folders import list_folder, split_folders
from logreg.data.formats.shards import TableFiles
from logreg.data.formats.tables import index_columns, open_blocks
from logreg.data.formats.text_files import FOLDER_COLUMNS, TextFolder
from logreg.data.sources.table import TableFile
from logreg.data.sources.table_reading import ROLE_KEYS
from logreg.errors import ConfigError, as_typed, name_list
from logreg.facts import Split


@dataclass(frozen=True)
class Text(TableFile):
    """Text in a table, or in ``path/<class>/*.txt`` or ``path/{train,val,test}/<class>/*.txt``.

    Attributes:
        text: Columns of text; ``None`` takes the one of a table of two columns, text and classes.
        features: Other columns to learn from; ``None`` takes all columns without another role.
    """

    text: Sequence[Any] | None = None
    features: Sequence[Any] | None = ()
    name: str = "text"

    def read(self) -> RawData:
        """The columns of text, as `TableFile.read` has them.

        Raises:
            ConfigError: As `TableFile.read`; or ``text`` or ``target`` is not given, and is not clear.
            DatasetNotFoundError: A file or folder is missing.
            DataError: As `TableFile.read`; or a folder has another layout, or a text is not in UTF-8.
        """
        return TableFile.read(self._resolved())

    def _resolved(self) -> Text:
        """The same dataset with the columns of text and of classes named.

        Raises:
            ConfigError: It is not clear which they are; or hash is set where no column has levels.
        """
        if self.hash is not None and self.features is not None and not self.features:
            raise ConfigError(
                "`dataset.hash` must go with dataset.features=[COLUMN], whose levels it hashes; n-grams are not. "
                "Leave it out; dataset.min_df=2 makes a vocabulary smaller."
            )
        texts, target = [str(column) for column in self.text or ()], self.target
        if not texts or target is None:
            key, path = self._files()["train"]
            taken = {*texts, *map(str, self.drop), *(getattr(self, key) for key in ROLE_KEYS)}
            header = self._header(path, key)
            left = [column for column in header if column not in taken | index_columns(path, header)]
            if self._is_folder(path):
                texts, target = texts or [FOLDER_COLUMNS[0]], target or FOLDER_COLUMNS[1]
            elif len(left) == 1 and (texts or target):
                texts, target = texts or left, target or left[0]
            else:
                found = [column for column in left if self._has_text(path, key, column)]
                others = [column for column in left if column not in found]
                if len(found) != 1 or len(others) != 1 or texts or target:
                    raise ConfigError(self._is_unclear(path, header, texts or found, target, others))
                texts, target = found, others[0]
        return replace(self, text=texts, target=target)

    def _is_unclear(
        self, path: str, header: Sequence[str], texts: Sequence[str], target: str | None, others: Sequence[str]
    ) -> str:
        """The message for a table where columns must be named, with the line to type.

        Args:
            path: The table.
            header: Its columns.
            texts: The columns that may be text.
            target: The column of the classes; ``None`` where the user has not named it.
            others: The columns that may have the classes.
        """
        missing = []
        if not self.text:
            missing.append(("dataset.text", "the columns of text", as_typed("dataset.text", texts or ["COLUMN"])))
        if target is None:
            typed = f"dataset.target={others[0] if len(others) == 1 else 'COLUMN'}"
            missing.append(("dataset.target", "the column of classes", typed))
        keys, what, settings = zip(*missing, strict=True)
        names = " and ".join(f"`{key}`" for key in keys)
        return f"{names} must name {' and '.join(what)}: {path} has {name_list(header)}. Set {' '.join(settings)}."

    def _has_text(self, path: str, key: str, column: str) -> bool:
        """Whether the first rows of a column look like text."""
        if is_sharded(path):
            files = self._shards(path, key)
            block = replace(files, shards=files.shards[:1]).read([column], (), self._text_options)[0]
            block = block.slice(0, TABLE_BATCH_ROWS)
        else:
            _, blocks = open_blocks(path, key, lambda names: [column], (), self._text_options)
            block = next(blocks, None)
        values = [] if block is None else block.column(column).to_pylist()
        return looks_like_text([value for value in dict.fromkeys(values) if isinstance(value, str)])

    # Folders

    @property
    def _target_setting(self) -> str:
        key, path = self._files()["train"]
        return f"{key}={path}" if self._is_folder(path) else super()._target_setting

    def _files(self) -> dict[Split, tuple[str, str]]:
        files = super()._files()
        key, path = files["train"]
        if key != "dataset.path" or not self._is_folder(path):
            return files
        parts = split_folders(Path(path), list_folder(Path(path))[0])
        return {split: (key, str(Path(path, folder))) for split, folder in parts.items()}

    def _is_folder(self, path: str) -> bool:
        """Whether a path names a folder of texts; else it is a table."""
        return Path(path).is_dir()

    def _find(self, path: str, key: str) -> TableFiles:
        return TextFolder(key, Path(path)) if self._is_folder(path) else super()._find(path, key)
