"""The files of a table that a path names: a folder, a pattern such as ``rows/*.parquet``, or an address.

Folders named ``column=value`` (hive partitions) become columns.

References:
    Apache Hive, partitioned tables (folders named column=value).
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from logreg.data.formats import arrow_errors
from logreg.data.formats.compression import suffix_of
from logreg.data.formats.file_systems import file_system_of, unreachable_error, version_of
from logreg.data.formats.folders import files_with, is_hidden
from logreg.data.formats.shards import SHARD_SUFFIXES, Shard, Shards
from logreg.errors import DataError, DatasetNotFoundError, LogregError, name_list
from logreg.files import is_there

MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""Value in the name of a folder that means a missing one."""

WHOLE_NUMBER = re.compile(r"0|-?[1-9]\d{0,17}")
"""A value in the name of a folder that is a number and no code such as 01."""


def is_sharded(path: str) -> bool:
    """Whether a path names several files: a folder, a pattern, or an address of another file system."""
    there = is_there(Path(path))
    is_pattern = any(mark in path for mark in "*?[") and not there
    return "://" in path or is_pattern or (there and Path(path).is_dir())


def first_file(path: str) -> str | None:
    """A single file among those that a local path names; ``None`` where there is none that has all columns."""
    if "://" in path:
        return None
    with suppress(LogregError):
        first = find_shards(path, "dataset.path").shards[0]
        return None if first.values else first.path.removeprefix("./")
    arrays = files_with((".safetensors", ".npy"), Path(path)) if Path(path).is_dir() else []
    return str(Path(path) / arrays[0]) if arrays else None


def find_shards(path: str, key: str) -> Shards:
    """The files that a folder, a pattern or an address names.

    Args:
        path: A folder, all of whose files are read, those in inner folders too; a pattern with ``*``, ``?``, ``[...]``
            or ``**``; or an address that begins with ``s3://``, ``gs://``, ``hdfs://`` or ``file://``.
        key: The key that the user typed to name it.

    Raises:
        DatasetNotFoundError: There is no such folder or object, or the server cannot be reached.
        DataError: There are no files that can be read, or they have several formats.
    """
    import pyarrow as pa
    from pyarrow import fs

    filesystem, root = file_system_of(path, key)
    parts = root.split("/")
    marked = [place for place, part in enumerate(parts) if set(part) & set("*?[")]
    base = root
    try:
        if marked and filesystem.get_file_info(root).type != fs.FileType.NotFound:
            marked = []  # a name that has such letters
        if marked:
            base = "/".join(parts[: marked[0]]) or ("/" if root.startswith("/") else ".")
        info = filesystem.get_file_info(base)
        if info.type == fs.FileType.File:
            files, seen = [info], list[Any]()
        elif marked:
            files, seen = _matching(filesystem, base, parts[marked[0] :])
        else:
            files, seen = _all_in(filesystem, base, base), list[Any]()
    except (OSError, pa.ArrowException) as error:
        if not arrow_errors.is_missing(error):
            raise unreachable_error(key, path, error) from error
        expected = "match files" if marked else "be a file or a folder"
        fault = f"the pattern {path} matches none, since {base} is missing" if marked else f"{path} is missing"
        raise DatasetNotFoundError(
            f"`{key}` must {expected}, and {fault}. "
            f"{'Check the address.' if '://' in path else 'Relative paths start at the current folder.'}"
        ) from error
    if info.type != fs.FileType.File:
        files = [one for one in files if _is_shard(one, base)]
    if marked and not files:
        place = "the current folder" if base == "." else base
        others = sorted(_below(one.path, base) for one in seen if _is_shard(one, base))
        advice = f"It has {name_list(others, 3)}: correct the pattern." if others else "Name another folder or pattern."
        raise DataError(
            f"`{key}` must match files that end in {', '.join(SHARD_SUFFIXES)}, and the pattern {path} matches "
            f"none in {place}. {advice}"
        )
    if not files:
        raise DataError(
            f"`{key}` must hold files that end in {', '.join(SHARD_SUFFIXES)}, and {path} has none. "
            "Name another folder."
        )
    files.sort(key=lambda one: one.path.split("/"))
    kinds = {suffix_of(one.path): one.path for one in reversed(files)}
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        suffix = suffix_of(other)
        depth = len(parts) - marked[0] if marked else 1
        inner = [_below(file.path, base).count("/") for file in files if suffix_of(file.path) == suffix]
        raise DataError(
            f"`{key}` must hold files of one format, and {path} has {other} and {one}. "
            f"Name those to read, such as {_with_suffix(path, suffix, max(inner) >= depth)}."
        )
    empty = next((one.path for one in files if not one.size), None)
    if empty is not None:
        raise DataError(f"`{key}` must hold complete files, and {empty} is empty. Write it again.")
    values = folder_values([_below(one.path, base) for one in files])
    shards = [
        Shard(one.path, one.size, version_of(filesystem, one), of_file)
        for one, of_file in zip(files, values, strict=True)
    ]
    return Shards(key, path, filesystem, tuple(shards))


def _with_suffix(path: str, suffix: str, is_deeper: bool) -> str:
    """A pattern of files with a suffix among those that a path names.

    Args:
        path: A folder or a pattern.
        suffix: The suffix.
        is_deeper: Whether such files lie in inner folders of what the path names.
    """
    stem = path.rstrip("/")
    if is_deeper or stem.endswith("**"):
        return f"{stem.removesuffix('/**')}/**/*{suffix}"
    is_pattern = set(stem) & set("*?[") and not Path(path).is_dir()
    return f"{(stem.rpartition('/')[0] or '.') if is_pattern else stem}/*{suffix}"


def _matching(filesystem: Any, base: str, parts: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """What matches a pattern below ``base``, a folder with all that is in it; and all that was seen on the way.

    Only folders that the pattern leads to are listed: those beside them may hold millions of files.

    Args:
        filesystem: Arrow's file system.
        base: The folder where the pattern begins.
        parts: The parts of the pattern between its slashes.
    """
    folders, seen = [base], list[Any]()
    for place, part in enumerate(parts):
        if part == "**" or filesystem.type_name == "gcs":  # whose folders Arrow sees in a recursive list alone
            below = [(folder, one) for folder in folders for one in _all_in(filesystem, folder, base)]
            found = [one for folder, one in below if _matches(_below(one.path, folder).split("/"), parts[place:])]
            return found, seen + [one for _, one in below]
        entries = [one for folder in folders for one in _listed(filesystem, folder)]
        seen += entries
        found = [one for one in entries if fnmatch.fnmatchcase(PurePosixPath(one.path).name, part)]
        folders = [one.path for one in found if _is_folder(filesystem, one, base)]
    return found + [one for folder in folders for one in _all_in(filesystem, folder, base)], seen


def _listed(filesystem: Any, folder: str, recursive: bool = False) -> list[Any]:
    """The files and folders in a folder, and in inner ones where ``recursive``."""
    from pyarrow import fs

    entries: list[Any] = filesystem.get_file_info(fs.FileSelector(folder, recursive=recursive))
    return entries


def _all_in(filesystem: Any, folder: str, base: str) -> list[Any]:
    """The files and folders in ``folder``, which is ``base`` or below it, and in inner ones, if these are not of tools.

    Links of the local file system are followed, but not into a folder that contains the link.
    """
    if filesystem.type_name != "local":  # servers list all names below a folder at once, and have no links
        return _listed(filesystem, folder, recursive=True)

    def walk(place: str) -> Iterator[Any]:
        for one in _listed(filesystem, place):
            yield one
            if _is_folder(filesystem, one, base):
                yield from walk(one.path)

    return list(walk(folder))


def _is_shard(info: Any, base: str) -> bool:
    """Whether what lies below ``base`` may be a shard."""
    from pyarrow import fs

    return info.type == fs.FileType.File and not _is_of_tools(info, base) and suffix_of(info.path) in SHARD_SUFFIXES


def _is_folder(filesystem: Any, info: Any, base: str) -> bool:
    """Whether what lies below ``base`` is a folder that may hold shards, and no link to a folder that contains it."""
    from pyarrow import fs

    if info.type != fs.FileType.Directory or _is_of_tools(info, base):
        return False
    if filesystem.type_name != "local":
        return True
    places = itertools.accumulate(_below(info.path, base).split("/"), os.path.join, initial=base)
    *above, own = map(os.path.realpath, places)
    return own not in above


def _is_of_tools(info: Any, base: str) -> bool:
    """Whether a name below ``base`` begins with a dot or an underscore, as those of tools do."""
    return any(is_hidden(part) or part.startswith("_") for part in _below(info.path, base).split("/"))


def _below(path: str, base: str) -> str:
    """The part of a path below ``base``, or the name of a file that is ``base`` itself."""
    if path == base:
        return PurePosixPath(path).name
    return path.removeprefix("./") if base == "." else path[len(base) + (base != "/") :]


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the names in a path match the parts of a pattern; a folder stands for its files."""
    if parts[:1] == ["**"]:
        return any(_matches(names[start:], parts[1:]) for start in range(len(names)))
    return not parts or (len(names) > 0 and fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:]))


def folder_values(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The values that the folders of each path state, whole numbers where all values of a column are."""
    found: list[dict[str, Any]] = []
    for path in paths:
        pairs = (part.partition("=") for part in path.split("/")[:-1] if "=" in part)
        texts = {urllib.parse.unquote(name): urllib.parse.unquote(value) for name, _, value in pairs}
        found.append({name: None if value == MISSING_PARTITION else value for name, value in texts.items()})
    for name in dict.fromkeys(name for values in found for name in values):  # a set has another order in each process
        given = {values[name] for values in found if values.get(name) is not None}
        if all(WHOLE_NUMBER.fullmatch(value) for value in given):
            for values in found:
                values[name] = None if values.get(name) is None else int(values[name])
    return found
