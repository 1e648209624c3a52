"""A cache on disk for tensors that are slow to compute, safe when several runs start at the same time.

References:
    Safetensors, https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from logreg.errors import ConfigError
from logreg.files import write_whole

FORMAT_VERSION = 1
"""Version of the files of the cache, which is part of every key: raise it when the content changes its meaning."""


@dataclass(frozen=True)
class CacheEntry:
    """The content of one file of the cache."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that describe the tensors."""


def load_or_compute(folder: str | None, name: str, key: Any, compute: Callable[[], CacheEntry]) -> CacheEntry:
    """The result of ``compute``, which is computed once and from then on read from disk.

    The tensors are memory-mapped: the system reads pages when they are used, and processes on one machine share them.
    A change in place does not change the file.  One process computes; the others wait and read.

    Args:
        folder: Folder of the cache; ``None`` computes each time and writes nothing.
        name: Beginning of the file's name, for users who look into the folder.
        key: Plain values on which the result depends: settings, and of each input file its name, size and time of
            change.
        compute: Returns the entry.

    Raises:
        ConfigError: The folder cannot be written to, or a file in it cannot be read.
    """
    if folder is None:
        return compute()
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, key], sort_keys=True).encode()).hexdigest()
    path = Path(folder, f"{name}-{digest[:32]}.safetensors")
    if (entry := _load(path)) is not None:
        return entry
    from filelock import FileLock  # these imports take as long as the rest of a start with a filled cache
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()  # fails at once in a folder that cannot be written to, where a lock would wait forever
    except OSError as error:
        raise _unwritable_error(folder, error) from error
    with FileLock(lock):
        if (entry := _load(path)) is None:
            try:
                entry = compute()
            except Exception:
                _remove_lock(lock)
                raise
            tensors = {key: value.contiguous() for key, value in entry.tensors.items()}
            metadata = {"facts": json.dumps(dict(entry.metadata))}
            try:
                write_whole(path, lambda file: save_file(tensors, file.name, metadata))
            except (OSError, SafetensorError) as error:
                raise _unwritable_error(folder, error) from error
            entry = _load(path)
            assert entry is not None, f"{path} was written a moment ago"
    return entry


def _remove_lock(lock: Path) -> None:
    """Removes a lock file, and the empty folders below the current folder that it stood in."""
    lock.unlink(missing_ok=True)
    for folder in (lock.parent, *lock.parent.parents):
        if folder == Path() or any(folder.iterdir()) or not folder.resolve().is_relative_to(Path.cwd()):
            break
        folder.rmdir()


def _load(path: Path) -> CacheEntry | None:
    """The content of a file; ``None`` if the file is missing or broken, so that it is computed again."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["facts"])
            return CacheEntry({key: file.get_tensor(key) for key in file.keys()}, metadata)  # noqa: SIM118  # not a mapping
    except (FileNotFoundError, NotADirectoryError, SafetensorError, KeyError, ValueError):
        return None
    except OSError as error:
        raise ConfigError(
            f"`dataset.cache` must be a folder whose files can be read, and {path} cannot: "
            f"{error.strerror or error}. Remove it, or turn the cache off with dataset.cache=null."
        ) from error


def _unwritable_error(folder: str, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return ConfigError.broken(
        "dataset.cache",
        "be a folder that can be written to",
        folder,
        f"{reason}: name another folder, or turn the cache off with dataset.cache=null.",
    )
