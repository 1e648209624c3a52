from __future__ import annotations

import errno
import multiprocessing
import os
import re
import time
from pathlib import Path

import pytest
import torch

from logreg.data.formats.cache import CacheEntry, load_or_compute
from logreg.errors import ConfigError, DataError


def compute_never() -> CacheEntry:
    raise AssertionError("computed a second time")


def some() -> CacheEntry:
    return CacheEntry(
        {"pixels": torch.arange(6, dtype=torch.uint8).view(2, 3), "none": torch.empty(0, 4)}, {"name": "né"}
    )


def same(first: CacheEntry, second: CacheEntry) -> bool:
    return (
        dict(first.metadata) == dict(second.metadata)
        and first.tensors.keys() == second.tensors.keys()
        and all(torch.equal(value, second.tensors[key]) for key, value in first.tensors.items())
    )


def only_file(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def test_a_computed_entry_is_read_the_next_time(tmp_path: Path) -> None:
    made = load_or_compute(str(tmp_path), "x", {"a": 1}, some)
    assert same(made, some())
    assert same(load_or_compute(str(tmp_path), "x", {"a": 1}, compute_never), some())
    assert only_file(tmp_path).name.startswith("x-")


def test_each_key_has_its_own_entry(tmp_path: Path) -> None:
    load_or_compute(str(tmp_path), "x", {"a": 1}, some)
    other = CacheEntry({"pixels": torch.ones(1)})
    assert same(load_or_compute(str(tmp_path), "x", {"a": 2}, lambda: other), other)
    assert same(load_or_compute(str(tmp_path), "x", {"a": 1}, compute_never), some())


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert same(load_or_compute(None, "x", {}, some), some())
    with pytest.raises(AssertionError, match="computed a second time"):
        load_or_compute(None, "x", {}, compute_never)
    assert list(tmp_path.iterdir()) == []


def test_views_of_one_tensor_are_stored_separately(tmp_path: Path) -> None:
    whole = torch.arange(10)
    parts = CacheEntry({"train": whole[:7], "test": whole[7:], "turned": torch.arange(6).view(2, 3).T})
    assert same(load_or_compute(str(tmp_path), "x", {}, lambda: parts), parts)


def test_a_change_in_place_does_not_change_the_file(tmp_path: Path) -> None:
    load_or_compute(str(tmp_path), "x", {}, some)
    load_or_compute(str(tmp_path), "x", {}, compute_never).tensors["pixels"].zero_()
    assert same(load_or_compute(str(tmp_path), "x", {}, compute_never), some())


def test_tensors_are_memory_mapped(tmp_path: Path) -> None:
    size = 64 * 2**20
    load_or_compute(str(tmp_path), "x", {}, lambda: CacheEntry({"large": torch.zeros(size, dtype=torch.uint8)}))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell how much memory a process has")
    before = resident()
    kept = load_or_compute(str(tmp_path), "x", {}, compute_never)
    assert resident() - before < size / 4
    assert int(kept.tensors["large"][-1]) == 0


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, None])
def test_a_broken_file_is_computed_again(damage: bytes | None, tmp_path: Path) -> None:
    load_or_compute(str(tmp_path), "x", {}, some)
    file = only_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert same(load_or_compute(str(tmp_path), "x", {}, some), some())
    assert same(load_or_compute(str(tmp_path), "x", {}, compute_never), some())


def test_a_failed_computation_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> CacheEntry:
        raise DataError("a broken image")

    with pytest.raises(DataError):
        load_or_compute(str(tmp_path), "x", {}, fail)
    assert list(tmp_path.glob("[!.]*")) == []
    assert same(load_or_compute(str(tmp_path), "x", {}, some), some())  # the lock was given back


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_to_is_named_in_one_line(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / folder)
    with pytest.raises(
        ConfigError,
        match=rf"^`dataset\.cache` must be a folder that can be written to, got '{re.escape(path)}'\. "
        r"(File exists|Not a directory): name another folder, or turn the cache off with dataset\.cache=null\.$",
    ):
        load_or_compute(path, "x", {}, compute_never)


def test_a_folder_without_permission_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # permissions themselves do not bind the superuser, who may run this test
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(ConfigError, match=r"^`dataset\.cache` must .* Permission denied: name another folder"):
        load_or_compute(str(tmp_path), "x", {}, compute_never)


def test_a_full_disk_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ConfigError, match=r"^`dataset\.cache` must .* No space left on device: name another folder"):
        load_or_compute(str(tmp_path), "x", {}, some)


def _one_of_eight(folder: Path) -> None:
    def make() -> CacheEntry:
        with (folder / "made").open("a") as file:
            file.write("made\n")
        time.sleep(0.2)  # long enough for the others to come
        return some()

    kept = load_or_compute(str(folder / "cache"), "x", {}, make)
    (folder / f"read-{os.getpid()}").write_text(str(same(kept, some())))


@pytest.mark.long
def test_one_of_eight_processes_computes_and_all_get_the_entry(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")  # a fresh process would import torch eight times
    processes = [fork.Process(target=_one_of_eight, args=(tmp_path,)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "made").read_text() == "made\n"
    assert [file.read_text() for file in tmp_path.glob("read-*")] == ["True"] * 8


def test_a_folder_that_is_a_disk_of_its_own_is_left_after_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(folder: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", str(folder))

    def compute() -> CacheEntry:
        raise DataError("broken rows")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "rmdir", busy)
    with pytest.raises(DataError, match="broken rows"):
        load_or_compute("disk", "given", 1, compute)
    assert [*Path("disk").iterdir()] == []
