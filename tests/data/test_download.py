from __future__ import annotations

import errno
import hashlib
import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_server import Server, serving
from logreg.data import download
from logreg.data.download import DownloadError, RemoteFile, download_lock, fetch
from logreg.terminal import safe_terminal

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file.gz").write_bytes(CONTENT)
    with serving(tmp_path / "there") as server:
        yield server


def remote(*addresses: str, digest: str = hashlib.md5(CONTENT).hexdigest()) -> RemoteFile:
    return RemoteFile(tuple(f"{address}file.gz" for address in addresses), digest)


@pytest.mark.parametrize("manner", ["well", "without_length", "moved"])
@pytest.mark.parametrize("digest", [hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()[:8], ""])
def test_a_file_arrives_whole(manner: str, digest: str, server: Server, tmp_path: Path) -> None:
    server.manner = manner
    path = tmp_path / "new" / "folder" / "file.gz"
    fetch(remote(server.address, digest=digest), path)
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.gz"]


WRONG = {
    "missing": "404 Not Found",
    "cut": f"the connection broke after {len(CONTENT) // 2:,} of {len(CONTENT):,} bytes",
    "broken": f"the file is broken: its checksum is not {hashlib.md5(CONTENT).hexdigest()}",
    "stalls": "no answer for 0.2 seconds",
    "drips": "no answer for 0.2 seconds",
}


@pytest.mark.parametrize("manner", WRONG)
def test_a_bad_server_leaves_no_file_and_the_next_address_is_tried(
    manner: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.manner = manner
    is_late = WRONG[manner].startswith("no answer")
    path = tmp_path / "new" / "folder" / "file.gz"
    host = server.address.split("/")[2]
    with monkeypatch.context() as patched:
        if is_late:
            patched.setattr(download, "TIMEOUT_S", 0.2)
        with pytest.raises(DownloadError) as caught:
            fetch(remote(server.address), path)
    assert str(caught.value) == f"file.gz: {host}: {WRONG[manner]}"
    assert not (tmp_path / "new").exists()
    server.manner = "missing" if is_late else manner  # the other server may be as late on a loaded machine
    with serving(server.folder) as other:
        fetch(remote(server.address, other.address), path)
    assert path.read_bytes() == CONTENT


def test_without_a_server_every_address_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"^file\.gz: 127\.0\.0\.1:9: Connection refused; 127\.0\.0\.1:7: Connection"
    ):
        fetch(remote("http://127.0.0.1:9/", "http://127.0.0.1:7/"), tmp_path / "new" / "file.gz")
    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_space_is_noticed_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 5000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(OSError, match=r"file\.gz has 10 kB, and 5 kB are free") as caught:
        fetch(remote(server.address), tmp_path / "new" / "file.gz")
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "new").exists()


def test_a_pipe_gets_lines_of_progress(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 1024)
    fetch(remote(server.address), tmp_path / "file.gz")
    assert capsys.readouterr().err == "  file.gz, 10 kB\n"
    monkeypatch.setattr(download, "MIN_PROGRESS_BYTES", 10_000)
    fetch(remote(server.address), tmp_path / "file.gz")
    lines = "".join(f"  file.gz: {part} %\n" for part in (25, 50, 75, 100))
    assert capsys.readouterr() == ("", f"  file.gz, 10 kB\n{lines}")


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with safe_terminal():
        fetch(remote(server.address), tmp_path / "file.gz")
    assert "file.gz" in screen.getvalue()
    assert "\\x1b" not in screen.getvalue()
    assert "10.2/10.2 kB" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")  # the line is wiped


# several at once


def test_one_process_downloads_at_a_time_and_waiting_ones_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside, most, folder, said = [], [], tmp_path / "new" / "folder", list[str]()
    until = time.monotonic() + 60

    def work() -> None:
        with download_lock(folder, "mnist"):
            inside.append(1)
            most.append(len(inside))
            while len(said) < 3 and time.monotonic() < until:  # until all others wait
                time.sleep(0.01)
                said.extend(capsys.readouterr().err.splitlines())
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4
    assert not folder.exists()  # nothing was put there
    assert said == ["mnist: another process is downloading it; waiting until it ends"] * 3


# breaking off


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_download_leaves_no_file(
    number: signal.Signals, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.manner = "slowly"
    code = (
        "import logreg, sys, types\n"
        "package = sys.modules['logreg.data'] = types.ModuleType('logreg.data')  # its own imports take seconds\n"
        "package.__path__ = [logreg.__path__[0] + '/data']\n"
        "from pathlib import Path\n"
        "from logreg.commands.signals import ending_on_sigterm\n"
        "from logreg.data.download import RemoteFile, download_lock, fetch\n"
        "path = Path(sys.argv[2])\n"
        "with ending_on_sigterm(), download_lock(path.parent, 'mnist'):\n"
        "    fetch(RemoteFile((sys.argv[1],), ''), path)\n"
    )
    path = tmp_path / "new" / "folder" / "file.gz"
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    process = subprocess.Popen([sys.executable, "-c", code, f"{server.address}file.gz", str(path)], stderr=-1)
    assert process.stderr is not None
    assert process.stderr.readline() == b"  file.gz, 10 kB\n"  # it has begun
    assert len([*path.parent.iterdir()]) == 1  # what has come so far
    assert len([*(tmp_path / "tmp").iterdir()]) == 1  # the lock
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT)
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "tmp").iterdir()) == []
