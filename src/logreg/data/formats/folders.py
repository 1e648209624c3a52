"""Folders of files, one for each class, without the files that systems create there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from logreg.errors import DataError
from logreg.facts import SPLITS, Split

LAYOUT = "a folder for each class, or train, val and test with a folder for each class in them"
"""Constraint on the folder, for messages."""

SYSTEM_NAMES = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),  # network drives
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    "lost+found",
}
"""Names, in lower case, of files and folders that operating systems and network drives create beside a user's."""

NUMBER = r"[+-]?([0-9](_?[0-9])*\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
"""Pattern of a class name that is a number."""


def sort_classes(classes: Iterable[str]) -> list[str]:
    """Class names in alphabetical order; by value, 2 before 10, if all of them are numbers."""
    names = sorted(classes)
    if all(re.fullmatch(NUMBER, name) for name in names):
        names.sort(key=float)
    return names


def split_folders(root: Path, folders: list[str]) -> Mapping[Split, str]:
    """The folder of each split, relative to ``root``; "" if the classes are in ``root`` itself."""
    if "train" in folders and list_folder(root / "train")[0]:
        for folder in folders:
            if folder not in SPLITS:
                raise DataError(
                    f"`dataset.path` must have only the folders val and test beside train, got {root / folder}. "
                    "Rename or remove it."
                )
        return {split: split for split in SPLITS if split in folders}
    if folders and set(folders) <= {"val", "test"}:
        raise DataError(f"`dataset.path` must have a folder train beside {' and '.join(folders)} [in {root}].")
    return {"train": ""}


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, in alphabetical order, without hidden ones."""
    entries = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)]
    folders, files = (sorted(entry.name for entry in entries if is_folder(entry) == wanted) for wanted in (True, False))
    return folders, files


def files_with(suffixes: str | tuple[str, ...], folder: Path) -> list[str]:
    """The files with a suffix in a folder and the folders below it, relative to ``folder``, in order."""
    names = (name for name, _ in walk_files(folder) if name.lower().endswith(suffixes))
    return sorted(names, key=lambda name: name.split("/"))


def walk_files(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files in a folder and the folders below it, except hidden ones, each with its path relative to ``folder``.

    Symbolic links are followed, but not into a folder that contains the link.
    """

    def walk(place: Path, name: str, ancestors: frozenset[tuple[int, int]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        status = place.stat()
        if (identity := (status.st_dev, status.st_ino)) in ancestors:
            return
        for entry in list(os.scandir(place)):
            if is_hidden(entry.name):
                continue
            if is_folder(entry):
                yield from walk(place / entry.name, f"{name}{entry.name}/", ancestors | {identity})
            else:
                yield name + entry.name, entry

    yield from walk(folder, "", frozenset())


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a symbolic link to one; a link to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or made by the system: thumbnails, recycle bins, resource forks."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES
