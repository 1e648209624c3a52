"""What is made once, however many runs ask for it at the same time."""

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

FORMAT = 1
"""Part of every key: raise it when what is kept changes its meaning."""


@dataclass(frozen=True)
class Cached:
    """What the cache keeps under one key."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that belong to them."""


def cached(folder: str | None, name: str, key: Any, make: Callable[[], Cached]) -> Cached:
    """What ``make`` returns, made once and read from disk from then on.

    The tensors are mapped: the system reads what is looked at, and processes on one machine share
    it.  Changing one in place changes no file.  One process makes it, all others wait and read.

    Args:
        folder: Where the files are; ``None`` to make it each time and keep nothing.
        name: Begins the file's name, for people who look into the folder.
        key: Plain values that say all that the result depends on: settings, and of each file that
            is read its name, size and time of change.
        make: Does the work.

    Raises:
        ConfigError: The folder cannot be written to.
    """
    if folder is None:
        return make()
    digest = hashlib.sha256(json.dumps([FORMAT, key], sort_keys=True).encode()).hexdigest()
    path = Path(folder, f"{name}-{digest[:32]}.safetensors")
    if (kept := _read(path)) is not None:
        return kept
    from filelock import FileLock  # these take as long to import as all the rest of a second start
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()  # here, since a lock would wait for a folder that is never to be written to
    except OSError as error:
        raise _unwritable(folder, error) from error
    with FileLock(lock):
        if (kept := _read(path)) is None:
            try:
                kept = make()
            except Exception:
                lock.unlink(missing_ok=True)
                for place in (lock.parent, *lock.parent.parents):
                    if place == Path() or any(place.iterdir()) or not place.resolve().is_relative_to(Path.cwd()):
                        break
                    place.rmdir()
                raise
            tensors = {key: value.contiguous() for key, value in kept.tensors.items()}
            facts = {"facts": json.dumps(dict(kept.facts))}
            try:
                write_whole(path, lambda file: save_file(tensors, file.name, facts))
            except (OSError, SafetensorError) as error:
                raise _unwritable(folder, error) from error
            kept = _read(path)
            assert kept is not None, f"{path} was written a moment ago"
    return kept


def _read(path: Path) -> Cached | None:
    """What a file holds; ``None`` if there is none, or a broken one: it is made anew."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return Cached({key: file.get_tensor(key) for key in file.keys()}, facts)  # noqa: SIM118  # not a mapping
    except (FileNotFoundError, NotADirectoryError, SafetensorError, KeyError, ValueError):
        return None
    except OSError as error:
        raise ConfigError(
            f"`dataset.cache` must be a folder whose files can be read, and {path} cannot: "
            f"{error.strerror or error}. Remove it, or switch the cache off with dataset.cache=null."
        ) from error


def _unwritable(folder: str, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return ConfigError.broken(
        "dataset.cache",
        "be a folder that can be written to",
        folder,
        f"{reason}: name another one, or switch the cache off with dataset.cache=null.",
    )
