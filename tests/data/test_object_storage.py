"""Tables in S3, read from a server on this machine: moto's, which is no dependency, since it brings boto and Flask."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_mapped import assert_same_rows, rows, sharded

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


def test_text_of_a_bucket(tmp_path: Path, bucket: Bucket) -> None:
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


def test_what_is_missing(tmp_path: Path, bucket: Bucket, run_command: RunCommand) -> None:
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
