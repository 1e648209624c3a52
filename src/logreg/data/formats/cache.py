"""A cache on disk for tensors that are slow to compute, safe when several runs start at the same time.

References:
    Safetensors, https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from logreg.data.memory import file_array
from logreg.errors import ConfigError
from logreg.files import unfinished, whole_file, write_whole

Entry = TypeVar("Entry")

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
    path = _path_of(folder, name, key, ".safetensors")

    def write() -> None:
        from safetensors import SafetensorError  # these imports take as long as the rest of a start with a filled cache
        from safetensors.torch import save_file

        entry = compute()
        tensors = {key: value.contiguous() for key, value in entry.tensors.items()}
        metadata = {"facts": json.dumps(dict(entry.metadata))}
        try:
            write_whole(path, lambda file: save_file(tensors, file.name, metadata))
        except (OSError, SafetensorError) as error:
            raise _unwritable_error(folder, error) from error

    return _load_or_write(folder, path, _load, write)


def _path_of(folder: str, name: str, key: Any, suffix: str) -> Path:
    """The file of an entry; arguments as of `load_or_compute`."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, key], sort_keys=True).encode()).hexdigest()
    return Path(folder, f"{name}-{digest[:32]}{suffix}")


def _load_or_write(folder: str, path: Path, load: Callable[[Path], Entry | None], write: Callable[[], object]) -> Entry:
    """What ``load`` reads from a file of the cache; where it reads ``None``, one process writes the file first."""
    if (entry := load(path)) is not None:
        return entry
    from filelock import FileLock

    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()  # fails at once in a folder that cannot be written to, where a lock would wait forever
    except OSError as error:
        raise _unwritable_error(folder, error) from error
    with FileLock(lock):
        if (entry := load(path)) is None:
            try:
                write()
            except Exception:
                _remove_lock(lock)
                raise
            entry = load(path)
            assert entry is not None, f"{path} was written a moment ago"
    return entry


class ArrayFiles:
    """The large arrays of an entry while it is written: each has a file of its own, which the system pages."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """Files beside the entry ``path``; ``stack`` removes them where `keep` is not called."""
        self._path, self._stack, self._made = path, stack, list[tuple[Path, np.ndarray[Any, Any]]]()

    def allocate(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """An array of zeros in a new file."""
        temporary = self._stack.enter_context(unfinished(self._path.with_suffix(f".{len(self._made)}")))
        self._made.append((temporary, file_array(temporary, shape, dtype)))
        return self._made[-1][1]

    def reference(self, tensor: Tensor) -> dict[str, Any] | Tensor:
        """Plain values for an array that `allocate` made, by which `referenced` finds it; another tensor itself."""
        for number, (_, array) in enumerate(self._made):
            if array.size and array.__array_interface__["data"][0] == tensor.data_ptr():
                dtype = str(tensor.dtype).removeprefix("torch.")
                return {"file": number, "shape": list(tensor.shape), "dtype": dtype}
        return tensor

    def keep(self) -> None:
        """Gives the files their names."""
        for number, (temporary, _) in enumerate(self._made):
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self._path.with_suffix(f".{number}"))


def referenced(path: Path, reference: Any) -> Tensor:
    """The tensor that `ArrayFiles.reference` of an entry describes, memory-mapped; a change does not reach the file.

    Raises:
        OSError: The file is missing or cut off.
    """
    if isinstance(reference, Tensor):
        return reference
    file, dtype = path.with_suffix(f".{reference['file']}"), getattr(torch, reference["dtype"])
    size = math.prod(reference["shape"])
    if file.stat().st_size != size * dtype.itemsize:
        raise FileNotFoundError(errno.ENOENT, "is not whole", str(file))
    return torch.from_file(str(file), shared=False, size=size, dtype=dtype).reshape(reference["shape"])


def load_or_write_arrays(
    folder: str,
    name: str,
    key: Any,
    write: Callable[[ArrayFiles], Mapping[str, Any]],
    read: Callable[[Path, Any], Entry],
) -> Entry:
    """An entry with arrays that are larger than memory, which is written once and from then on read from disk.

    Args:
        folder: Folder of the cache.
        name: As of `load_or_compute`.
        key: As of `load_or_compute`.
        write: Computes the entry: plain values and tensors, with `ArrayFiles.reference` for the large ones.
        read: Makes the result of the path and the content of the entry.

    Raises:
        ConfigError: The folder cannot be written to, or has too little room.
    """
    path = _path_of(folder, name, key, ".pt")

    def write_entry() -> None:
        try:
            with ExitStack() as stack:
                files = ArrayFiles(path, stack)
                content = dict(write(files))
                file = stack.enter_context(whole_file(path))
                _save(content, file)
                files.keep()
        except OSError as error:
            advice = ", make room in it, or hold the rows in memory with dataset.storage=memory"
            raise _unwritable_error(folder, error, advice) from error

    return _load_or_write(folder, path, lambda path: _load_arrays(path, read), write_entry)


def _save(content: Mapping[str, Any], file: IO[bytes]) -> None:
    """Writes plain values and tensors.

    Raises:
        OSError: The disk has no room for them.
    """
    try:
        torch.save(content, file.name)  # by its name: without a copy
    except RuntimeError:  # which does not say why
        file.seek(0, os.SEEK_END)
        file.write(bytes(2**20))
        file.flush()
        raise


def load_arrays(folder: str, name: str, key: Any, read: Callable[[Path, Any], Entry]) -> Entry | None:
    """The entry that `load_or_write_arrays` has written; ``None`` where there is none."""
    return _load_arrays(_path_of(folder, name, key, ".pt"), read)


def _load_arrays(path: Path, read: Callable[[Path, Any], Entry]) -> Entry | None:
    try:
        return read(path, torch.load(path, mmap=True, weights_only=True))
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, ValueError):
        return None


def _remove_lock(lock: Path) -> None:
    """Removes a lock file, and the empty folders below the current folder that it stood in."""
    with suppress(OSError):  # another process removes them or uses them; a folder is a disk of its own
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


def _unwritable_error(
    folder: str, error: Exception, advice: str = ", or turn the cache off with dataset.cache=null"
) -> ConfigError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return ConfigError.broken(
        "dataset.cache",
        "be a folder that can be written to",
        folder,
        f"{reason}: name another folder{advice}.",
    )
