"""The storage of a study: a database, or a journal file in a folder that several machines share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.errors import ConfigError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

JOURNAL_SUFFIXES = (".log", ".journal")
"""Suffixes of journal files: Optuna's own examples have the first one."""

DATABASE_WAIT_S = 60
"""Seconds to wait for a file of SQLite that another process is writing."""

CONNECT_TIMEOUT_S = 10
"""Seconds until a PostgreSQL server that does not answer counts as unreachable."""

PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Packages to install for modules of other names, or without which they need a compiler."""

ADVICE = (
    ("password|authentication|role .* does not exist", "Correct the user or the password, or set PGPASSWORD."),
    ("database .* does not exist", "Create it first, with createdb."),
    ("refused|could not translate|resolve|time|unreachable|no route", "Start the server, or correct its address."),
)
"""Patterns of what databases say, and what to do then."""


def sqlite_url(file: Path) -> str:
    """The URL of a database in a file, which may not exist yet."""
    return f"sqlite:///{file.as_posix()}"


def check_storage(typed: str) -> None:
    """Checks the form of a storage.

    Raises:
        ConfigError: It is neither a URL nor a journal file.
    """
    if "://" not in typed and not typed.lower().endswith(JOURNAL_SUFFIXES):
        raise ConfigError.broken(
            "storage",
            "be the URL of a database, such as postgresql://user@host/name, or a journal file, such as trials.log",
            typed,
        )


def open_storage(typed: str) -> BaseStorage:
    """The storage that a user typed: the URL of a database, or the path of a journal file.

    Raises:
        ConfigError: The file is no journal, or its folder is missing.
        Exception: One of `storage_errors`, or what SQLAlchemy raises of a URL; `explained` puts it in words.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from sqlalchemy import make_url

    if "://" not in typed:
        _check_journal(Path(typed))
        return JournalStorage(_journal(typed))
    url = make_url(typed)
    if url.drivername == "postgresql":  # one driver, whatever version of SQLAlchemy chooses
        url = url.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {"pool_pre_ping": True}  # a connection may be lost between two trials
    if url.drivername.startswith("sqlite"):
        options["connect_args"] = {"timeout": DATABASE_WAIT_S}
    elif url.drivername.startswith("postgresql") and "connect_timeout" not in url.query:
        options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_S}
    return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)


def storage_errors() -> tuple[type[Exception], ...]:
    """The errors of a storage that cannot be reached or written."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError


def explained(typed: str, error: Exception, end: str = "") -> ConfigError:
    """A mistake of the user, in words, that an error of a storage is.

    Args:
        typed: The storage as typed.
        error: The error.
        end: A sentence for the end of the message.
    """
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        package = PACKAGES.get(cause.name, cause.name)
        return ConfigError(f"`storage` must have the package {cause.name}: pip install '{package}'.")
    shown, password = _without_password(typed)
    reason = str(cause).strip().split("\n")[0].rstrip(".")[:200]
    if password:
        reason = reason.replace(password, "***")
    advice = next((text for pattern, text in ADVICE if re.search(pattern, reason, re.IGNORECASE)), "")
    constraint = "a journal file" if "://" not in typed else "the URL of a database"
    sentences = [f"`storage` must be {constraint} that can be written to, got {shown!r}: {reason}.", advice, end]
    return ConfigError(" ".join(sentence for sentence in sentences if sentence))


def _without_password(typed: str) -> tuple[str, str | None]:
    """A storage to show, and the password that it has."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if "://" not in typed:
        return typed, None
    try:
        url = make_url(typed)
    except (ArgumentError, ValueError):  # such as a port that is no number
        return typed.partition("://")[0] + "://...", None
    return url.render_as_string(hide_password=True), url.password


def _check_journal(file: Path) -> None:
    """Checks a journal file before anything is appended to it.

    Raises:
        ConfigError: Its folder is missing, or it is another file.
    """
    if not file.parent.is_dir():
        raise ConfigError(f"`storage` must be in a folder that exists, got {str(file)!r}. Create {file.parent} first.")
    if not file.exists():
        return
    try:
        with file.open("rb") as held:
            first = held.readline()
        is_journal = not first or "op_code" in json.loads(first)
    except (ValueError, TypeError, IsADirectoryError):
        is_journal = False
    except OSError as error:
        raise explained(str(file), error) from error
    if not is_journal:
        raise ConfigError(f"`storage` must be a journal file of Optuna, got {str(file)!r}. Name another file.")


def _journal(path: str) -> Any:
    from optuna.exceptions import StorageInternalError
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    @contextmanager
    def explaining() -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # the latter where a line is broken, as on a full disk
            raise StorageInternalError(str(error)) from error

    class Journal(JournalFileBackend):
        """A journal file whose errors are those of a storage."""

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # a generator, as theirs
            with explaining():
                yield from super().read_logs(log_number_from)

        def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
            with explaining():
                super().append_logs(list(logs))

    with explaining():
        # Exclusive creation serves all file systems since NFS 3; not all of them have symbolic links, Optuna's default.
        return Journal(path, JournalFileOpenLock(path))
