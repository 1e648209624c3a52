"""Reads a table in threads of its own while the main thread imports torch, which takes as long and uses one core.

`begin` is called before torch is imported, with the settings of the dataset; `take` then gives what was read to whoever
needs the table.  Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from logreg.data.formats.compression import suffix_of
from logreg.data.formats.shards import SHARD_SUFFIXES, find_shards
from logreg.data.formats.tables import column_names, index_columns, read_table
from logreg.data.memory import fits_into_memory

if TYPE_CHECKING:
    import pyarrow as pa

LEAST_BYTES = 2**22
"""Size of a file, in bytes, from which on it is read ahead: a smaller one is read within a tenth of a second."""


class _Request(NamedTuple):
    """The arguments of `read_table`, besides its key."""

    path: str
    columns: frozenset[str]
    as_text: frozenset[str]
    missing_values: tuple[str, ...]
    separator: str | None
    codes: frozenset[str]


_BEGUN: dict[_Request, Future[Any]] = {}
"""The table that no one has taken yet: one at most."""


def begin(dataset: Mapping[str, Any]) -> None:
    """Begins to read the table of a dataset, if it is one large file that memory holds.

    Faults of the settings or the file are left to whoever needs the table.

    Args:
        dataset: The settings ``dataset`` of a run.
    """
    try:
        request = _request_of(dataset)
    except Exception:  # the settings are not checked yet
        return
    if request is None:
        return
    read: Future[Any] = Future()
    _BEGUN[request] = read
    # A daemon, since a command that ends early shall not wait for it.
    Thread(target=_read, args=(request, read), name="read ahead", daemon=True).start()


def take(
    path: str,
    columns: Sequence[str],
    as_text: Collection[str],
    missing_values: Sequence[str],
    separator: str | None,
    codes: Collection[str],
) -> pa.Table | None:
    """The table that `read_table` would read with these arguments; ``None`` where it was not read ahead.

    Raises:
        LogregError: As `read_table`.
    """
    request = _Request(path, frozenset(columns), frozenset(as_text), tuple(missing_values), separator, frozenset(codes))
    read = _BEGUN.get(request)
    _BEGUN.clear()
    return None if read is None else read.result().select(list(columns))


def _request_of(dataset: Mapping[str, Any]) -> _Request | None:
    """What `logreg.data.sources.table.TableFile` will ask for; ``None`` where nothing is read ahead.

    Raises:
        LogregError: The header of the file cannot be read.
    """
    path, storage = dataset.get("path"), dataset.get("storage")
    if dataset["name"] != "table" or not isinstance(path, str) or storage == "mapped":
        return None
    path = os.path.expanduser(path)  # noqa: PTH111  # text stays text
    if not Path(path).is_file() or Path(path).stat().st_size < LEAST_BYTES:
        return None
    split, texts, separator = dataset["split"], dataset["text"] or (), dataset["separator"]
    header = column_names(path, "dataset.path", separator)
    codes = {dataset["target"], split["column"], split["group"]} - {None}
    roles = codes | {dataset["weight"], dataset["offset"]} - {None}
    features = dataset["features"] or {*header} - index_columns(path, header) - {*map(str, dataset["drop"])}
    columns = frozenset(str(name) for name in (*features, *texts, *roles))
    as_text = frozenset(str(name) for name in (*dataset["categorical"], *texts))
    words = tuple(map(str, dataset["missing_values"]))
    request = _Request(path, columns, as_text, words, separator, frozenset(map(str, codes)))
    if not columns <= {*header}:
        return None
    if storage == "auto" and suffix_of(path) in SHARD_SUFFIXES:  # may be kept in files
        num_bytes = find_shards(path, "dataset.path").memory_bytes(columns, separator)
        return request if fits_into_memory(num_bytes) else None
    return request


def _read(request: _Request, read: Future[Any]) -> None:
    """Reads a table into ``read``."""
    path, columns, as_text, missing_values, separator, codes = request
    try:
        read.set_result(read_table(path, "dataset.path", sorted(columns), as_text, missing_values, separator, codes))
    except BaseException as error:
        read.set_exception(error)
