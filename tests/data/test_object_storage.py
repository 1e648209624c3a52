"""Tables in object storage, read from servers on this machine.

The one of S3 is moto's, which is no dependency, since it brings boto and Flask; the one of Google is a fake of ours.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest
from test_mapped import assert_same_rows, rows, sharded

from fake_server import serving_bucket
from logreg.data.formats.gathering import gather
from tables import table
from whole_runs import Answer

RunCommand = Callable[..., Answer]

TYPED = ("dataset=table", "dataset.target=y", "dataset.path=s3://bucket/rows")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Address of a server."""
    if (command := shutil.which("moto_server")) is None:
        pytest.skip("moto_server is not on the PATH: pip install 'moto[server]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Another environment than that of the tests may hold it.
    typed = [command, "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        typed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin"}
    )
    for _ in range(600):
        with socket.socket() as probe:
            if server.poll() is not None or not probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.05)
    if server.poll() is not None:
        pytest.skip("moto_server does not start here: pip install 'moto[server]'")
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


class Bucket:
    """The bucket ``bucket``, written to without a client of S3."""

    def __init__(self, endpoint: str) -> None:
        self.address = f"{endpoint}/bucket"
        self._send("PUT", "")

    def put(self, name: str, content: bytes) -> None:
        self._send("PUT", f"/{name}", content)

    def delete(self, name: str) -> None:
        self._send("DELETE", f"/{name}")

    def fill(self, folder: Path) -> None:
        for file in folder.rglob("*.*"):
            self.put(f"rows/{file.relative_to(folder)}", file.read_bytes())

    def _send(self, method: str, name: str, content: bytes = b"") -> None:
        # The server checks that a request is signed, but not by whom.
        signature = (
            "AWS4-HMAC-SHA256 Credential=one/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        )
        headers = {"Content-Type": "application/octet-stream", "Authorization": signature}
        request = urllib.request.Request(self.address + name, content, headers, method=method)
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, with the environment by which clients of S3 reach it."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "one",
        "AWS_SECRET_ACCESS_KEY": "two",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    request = urllib.request.Request(f"{endpoint}/moto-api/reset", b"", method="POST")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()
    return Bucket(endpoint)


@pytest.mark.parametrize("storage", ["memory", "mapped"])
@pytest.mark.parametrize("path", ["s3://bucket/rows", "s3://bucket/rows/year=*/*.parquet"])
def test_rows_of_a_bucket_are_those_of_a_folder(tmp_path: Path, bucket: Bucket, storage: str, path: str) -> None:
    sharded(rows(0, 500), tmp_path / "rows" / "year=1", 2)
    sharded(rows(1, 300), tmp_path / "rows" / "year=2", 1)
    bucket.fill(tmp_path / "rows")
    arguments = [f"dataset.storage={storage}", f"dataset.cache={tmp_path / 'cache'}"]
    local = table(tmp_path / "rows")
    assert "year" in local.facts.feature_names
    assert_same_rows(table(path, *arguments), local)  # type: ignore[arg-type]  # an address
    assert_same_rows(table(path, *arguments), local)  # type: ignore[arg-type]  # from the cache


def test_text_files_of_a_bucket_have_the_rows_of_local_ones(tmp_path: Path, bucket: Bucket) -> None:
    (tmp_path / "rows").mkdir()
    for part in range(3):
        lines = [f"{row * part},{'ab'[row % 2]}" for row in range(10 + part)]
        (tmp_path / "rows" / f"{part}.csv").write_text("\n".join(["x,y", *lines, ""]))
    bucket.fill(tmp_path / "rows")
    assert_same_rows(table("s3://bucket/rows"), table(tmp_path / "rows"))  # type: ignore[arg-type]  # an address


def test_a_broken_line_of_text_names_the_object(tmp_path: Path, bucket: Bucket, run_command: RunCommand) -> None:
    bucket.put("rows/0.csv", b"x,y\n1,a\n2,b\n3\n")
    assert "in line 4 [in bucket/rows/0.csv]: '3'. Fix the line." in refusal(run_command, tmp_path)


def refusal(run_command: RunCommand, here: Path, *typed: str) -> str:
    answer = run_command(here, "train", *TYPED, *typed)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert {entry.name for entry in here.iterdir()} <= {"rows"}, [*here.rglob("*")]
    return answer.err


def test_a_server_that_cannot_be_reached(
    tmp_path: Path, bucket: Bucket, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # no server listens there
    message = refusal(run_command, tmp_path)
    assert "`dataset.path` must name files that can be read, and s3://bucket/rows cannot:" in message
    assert "Check the address, the network and the credentials." in message


def test_a_missing_address_a_missing_bucket_and_no_table_are_told_apart(
    tmp_path: Path, bucket: Bucket, run_command: RunCommand
) -> None:
    assert "and s3://bucket/rows is missing. Check the address." in refusal(run_command, tmp_path)
    assert "bucket does not exist" in refusal(run_command, tmp_path, "dataset.path=s3://other/rows")
    bucket.put("rows/notes.md", b"x")
    assert "and s3://bucket/rows has none" in refusal(run_command, tmp_path)


@pytest.mark.parametrize("storage", ["memory", "mapped"])
@pytest.mark.parametrize("change", ["put", "delete"])
def test_an_object_that_changes_under_way(
    tmp_path: Path,
    bucket: Bucket,
    run_command: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
    storage: str,
    change: str,
) -> None:
    bucket.fill(sharded(rows(0, 300), tmp_path / "rows", 2))
    content = (tmp_path / "rows" / "part-0.parquet").read_bytes()

    def changing(*arguments: Any) -> Any:
        found = gather(*arguments)
        if change == "put":  # of the same length, in the same second
            bucket.put("rows/part-0.parquet", content[:100] + b"x" + content[101:])
        else:
            bucket.delete("rows/part-0.parquet")
        return found

    monkeypatch.setattr("logreg.data.formats.shards.gather", changing)
    message = refusal(run_command, tmp_path, f"dataset.storage={storage}")
    assert "`dataset.path` must not change while it is read, and bucket/rows/part-0.parquet" in message


def test_an_object_that_is_cut_off(tmp_path: Path, bucket: Bucket, run_command: RunCommand) -> None:
    bucket.fill(sharded(rows(0, 300), tmp_path / "rows", 2))
    bucket.put("rows/part-1.parquet", (tmp_path / "rows" / "part-1.parquet").read_bytes()[:500])
    message = refusal(run_command, tmp_path)
    assert "must be a complete file, and bucket/rows/part-1.parquet could not be read" in message


# Google's storage, and other file systems


@pytest.fixture
def google(tmp_path: Path) -> Iterator[str]:
    """What follows the path in an address of the bucket whose objects are the files of ``google``."""
    (tmp_path / "google").mkdir()
    with serving_bucket(tmp_path / "google") as place:
        yield f"?scheme=http&endpoint_override={place}"


@pytest.mark.long
@pytest.mark.parametrize("storage", ["memory", "mapped"])
def test_rows_of_a_bucket_of_google_are_those_of_a_folder(tmp_path: Path, google: str, storage: str) -> None:
    folder = tmp_path / "google" / "rows"
    sharded(rows(0, 500), folder / "year=1", 2)
    sharded(rows(1, 300), folder / "year=2", 1)
    for path in ("rows", "rows/year=*/*.parquet"):
        address: Any = f"gs://anonymous@bucket/{path}{google}"
        ours = table(address, f"dataset.storage={storage}", f"dataset.cache={tmp_path / 'cache'}")
        assert_same_rows(ours, table(folder))
        assert ours.facts.source == "rows"


@pytest.mark.long
def test_what_is_missing_in_a_bucket_of_google(tmp_path: Path, google: str, run_command: RunCommand) -> None:
    for bucket in ("bucket", "other"):
        address = f"gs://anonymous@{bucket}/rows{google}"
        message = refusal_in(run_command, tmp_path, address)
        assert f"and {address} is missing. Check the address." in message


@pytest.mark.long
def test_an_object_of_google_that_changes_under_way(
    tmp_path: Path, google: str, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = sharded(rows(0, 300), tmp_path / "google" / "rows", 2) / "part-0.parquet"

    def changing(*arguments: Any) -> Any:
        os.utime(part, ns=(1, 10**15))
        return gather(*arguments)

    monkeypatch.setattr("logreg.data.formats.shards.gather", changing)
    message = refusal_in(run_command, tmp_path, f"gs://anonymous@bucket/rows{google}")
    assert "`dataset.path` must not change while it is read, and bucket/rows/part-0.parquet did. Run again." in message


@pytest.mark.long
@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (
            "gs://anonymous@bucket/rows?scheme=http&endpoint_override=127.0.0.1:9",  # no server listens there
            "Could not connect to server. Check the address, the network and the credentials.",
        ),
        ("hdfs://127.0.0.1:9/rows", "Hadoop's libhdfs or Java cannot be loaded. Install them, or copy the files."),
        ("https://127.0.0.1:9/rows", "Download the files, and name their folder."),
    ],
)
def test_addresses_that_cannot_be_read(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, address: str, sentence: str
) -> None:
    monkeypatch.setattr("logreg.data.formats.file_systems.GCS_SECONDS", 1)
    if address.startswith("hdfs") and find_library("hdfs"):
        pytest.skip("Hadoop is installed here, and would look for the server")
    message = refusal_in(run_command, tmp_path, address)
    assert address in message
    assert message.endswith(sentence + "\n")


def refusal_in(run_command: RunCommand, here: Path, address: str) -> str:
    """The line in which an address is refused, without a file left."""
    (here / "work").mkdir(exist_ok=True)
    typed = [f"dataset.path='{address}'", "dataset.target=y"]
    answer = run_command(here / "work", "train", "dataset=table", *typed)
    assert (answer.code, answer.err.count("\n")) == (2, 1), answer.err
    assert [*(here / "work").iterdir()] == []
    return answer.err
