"""The file system of a path or an address such as ``s3://bucket/rows``: local, S3, Google's, Hadoop's.

References:
    Apache Arrow, file systems, https://arrow.apache.org/docs/python/filesystems.html
"""

from __future__ import annotations

import os
import urllib.parse
from typing import Any

from logreg.data.formats import arrow_errors
from logreg.errors import MAX_VALUE_LENGTH, ConfigError, DatasetNotFoundError, shortened

S3_TIMEOUTS = {"connect_timeout": 5.0, "request_timeout": 60.0}
"""Seconds until a server that does not answer counts as unreachable."""

S3_ATTEMPTS = 3
"""Number of times that a request is sent."""

GCS_SECONDS = 20
"""Seconds until a server of Google's kind counts as unreachable; Arrow tries for a quarter of an hour otherwise."""

SCHEMES = ("s3", "gs", "hdfs", "file")
"""Beginnings of addresses that messages name; pyarrow knows a few more."""


def file_system_of(path: str, key: str) -> tuple[Any, str]:
    """The file system of an address or a local path, and the path in it; ``key`` names it to the user.

    Raises:
        DatasetNotFoundError: The server cannot be reached.
        ConfigError: The address has an unknown beginning.
    """
    import pyarrow as pa
    from pyarrow import fs

    if "://" not in path:
        return fs.LocalFileSystem(), path.rstrip("/") or "/"
    scheme, _, rest = path.partition("://")
    if scheme == "file":  # names may have letters that an address must not have, such as blanks and brackets
        place = urllib.parse.unquote(rest.removeprefix("localhost"))
        if not place.startswith("/"):
            raise ConfigError.broken(key, "have three slashes before a path from the root", path)
        return fs.LocalFileSystem(), place.rstrip("/") or "/"
    try:
        if scheme in ("s3", "s3a"):
            # S3FileSystem.from_uri asks a server of Amazon for the region, also where another server is named.
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            protocol, _, server = (endpoint or "").rpartition("://")
            system = fs.S3FileSystem(
                region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
                endpoint_override=server or None,
                scheme=protocol or "https",
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
                **S3_TIMEOUTS,
            )
            return system, rest.rstrip("/")
        is_patient = scheme in ("gs", "gcs") and "retry_limit_seconds=" not in path
        limit = f"{'&' if '?' in path else '?'}retry_limit_seconds={GCS_SECONDS}" if is_patient else ""
        found: tuple[Any, str] = fs.FileSystem.from_uri(path + limit)
        return found
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem" not in str(error):
            raise unreachable_error(key, path, error) from error
        schemes = ", ".join(f"{one}://" for one in SCHEMES)
        raise ConfigError.broken(
            key, f"be a path or begin with one of {schemes}", path, "Download the files, and name their folder."
        ) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise unreachable_error(key, path, error) from error


def version_of(filesystem: Any, info: Any) -> str:
    """What changes when a file is written again."""
    version = str(info.mtime_ns)
    if filesystem.type_name == "s3":  # its times are whole seconds
        with filesystem.open_input_stream(info.path, compression=None) as stream:
            version += stream.metadata()["ETag"].decode()
    return version


def unreachable_error(key: str, path: str, error: Exception) -> DatasetNotFoundError:
    """The error of a path or address that cannot be read, with its reason in words; ``key`` names it to the user."""
    reason, advice = arrow_errors.reason_of(error, path), "Check the address, the network and the credentials"
    if "://" not in path:
        reason, advice = shortened(reason, MAX_VALUE_LENGTH), "Name a folder whose files you may read"
    if "libhdfs" in reason or "libjvm" in reason:
        reason, advice = "Hadoop's libhdfs or Java cannot be loaded", "Install them, or copy the files"
    return DatasetNotFoundError(f"`{key}` must name files that can be read, and {path} cannot: {reason}. {advice}.")
