from __future__ import annotations

import errno
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from fake_mnist import md5s_of, write_fake, write_fake_mnist
from fake_server import Server, serving
from logreg.data.sources.vision import EMNIST_CLASSES, VISION_DATASETS, Vision
from logreg.errors import ConfigError, DatasetNotFoundError
from logreg.terminal import format_bytes

NAMES = tuple(VISION_DATASETS)

NUM_CLASSES = {"emnist": 47, "cifar100": 100}


def reader_of(name: str) -> Any:
    return getattr(torchvision.datasets, VISION_DATASETS[name].reader)


def replace_checksums(monkeypatch: pytest.MonkeyPatch, name: str, root: Path) -> None:
    """Replaces torchvision's checksums of the real files by those of the made-up files in ``root``."""
    sums, reader = md5s_of(root), reader_of(name)

    def known(pairs: Any) -> list[Any]:
        return [[*entry[:-1], sums.get(entry[-2].rpartition("/")[2], entry[-1])] for entry in pairs]

    for attribute in ("resources", "train_list", "test_list"):
        lists = getattr(reader, attribute, None)
        if lists is not None:
            value = {key: known(lists[key]) for key in lists} if isinstance(lists, dict) else known(lists)
            monkeypatch.setattr(reader, attribute, value)
    if hasattr(reader, "split_list"):
        monkeypatch.setattr(reader, "split_list", {key: known([value])[0] for key, value in reader.split_list.items()})
    if hasattr(reader, "meta"):
        meta = reader.meta
        monkeypatch.setattr(reader, "meta", {**meta, "md5": sums.get(meta["filename"], meta["md5"])})
    if hasattr(reader, "tgz_md5"):
        monkeypatch.setattr(reader, "tgz_md5", sums.get(reader.filename, reader.tgz_md5))
    if hasattr(reader, "md5"):
        monkeypatch.setattr(reader, "md5", sums.get("gzip.zip", reader.md5))


# Reading


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_each_dataset_is_read_in_its_real_format(
    name: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_fake(name, tmp_path, NUM_CLASSES.get(name, 10), packed=packed)
    if packed and VISION_DATASETS[name].archive != "{}":
        write_fake(name, tmp_path / "sums", NUM_CLASSES.get(name, 10))  # the files in an archive have checksums too
    replace_checksums(monkeypatch, name, tmp_path)
    shutil.rmtree(tmp_path / "sums", ignore_errors=True)
    raw = Vision(name, str(tmp_path), cache=None).read()
    assert set(raw.tables) == {"train", "test"}
    for split, (images, labels) in written.items():
        table = raw.tables[split]  # type: ignore[index]  # the two splits are named alike
        assert isinstance(table.features, torch.Tensor)
        assert raw.image_shape == images.shape[1:]
        assert table.features.dtype == torch.uint8
        np.testing.assert_array_equal(table.features.view(-1, *raw.image_shape), images)
        assert table.labels.dtype == torch.int64
        assert table.labels.tolist() == labels.tolist()
    assert len(raw.class_names) == NUM_CLASSES.get(name, 10)
    assert raw.scale == 1 / 255


@pytest.mark.parametrize("variant", EMNIST_CLASSES)
def test_each_variant_of_emnist_has_classes_from_0(variant: str, tmp_path: Path) -> None:
    written = write_fake("emnist", tmp_path, len(EMNIST_CLASSES[variant]), variant)
    raw = Vision("emnist", str(tmp_path), cache=None, variant=variant).read()
    assert raw.tables["test"].labels.tolist() == written["test"][1].tolist()
    assert raw.source == variant


def test_the_class_names_are_those_of_torchvision() -> None:
    splits = torchvision.datasets.EMNIST.classes_split_dict
    assert {name: tuple(c for c in splits[name] if c != "N/A") for name in splits} == EMNIST_CLASSES
    assert VISION_DATASETS["kmnist"].class_names == tuple(torchvision.datasets.KMNIST.classes)
    theirs = torchvision.datasets.FashionMNIST.classes
    assert [name.lower() for name in VISION_DATASETS["fashion_mnist"].class_names[1:]] == [
        name.lower() for name in theirs[1:]
    ]
    assert len(set(VISION_DATASETS["cifar100"].class_names)) == 100
    assert list(VISION_DATASETS["cifar100"].class_names) == sorted(VISION_DATASETS["cifar100"].class_names)


def test_the_real_mnist_is_as_torchvision_reads_it(mnist_root: Path) -> None:
    raw = Vision("mnist", str(mnist_root), cache=None).read()
    theirs = torchvision.datasets.MNIST(str(mnist_root), train=False)
    assert torch.equal(raw.tables["test"].features, theirs.data.flatten(1))  # type: ignore[arg-type]  # a tensor
    assert torch.equal(raw.tables["test"].labels, theirs.targets)


def test_nothing_is_written_if_all_files_are_there(tmp_path: Path) -> None:
    # A root may be a folder that others share and nobody may write to.
    write_fake_mnist(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    Vision("mnist", str(tmp_path), cache=None).read()
    assert sorted(tmp_path.rglob("*")) == before


# The cache


def test_a_second_read_does_not_import_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fake("cifar10", tmp_path / "root")
    replace_checksums(monkeypatch, "cifar10", tmp_path / "root")
    dataset = Vision("cifar10", str(tmp_path / "root"), cache=str(tmp_path / "cache"))
    first = dataset.read()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    second = dataset.read()
    for split, table in first.tables.items():
        assert torch.equal(table.features, second.tables[split].features)  # type: ignore[arg-type]  # tensors
        assert torch.equal(table.labels, second.tables[split].labels)
    assert (first.image_shape, first.class_names) == (second.image_shape, second.class_names)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    dataset = Vision("mnist", str(tmp_path / "root"), cache=str(tmp_path / "cache"))
    write_fake_mnist(tmp_path / "root")
    assert len(dataset.read().tables["train"]) == 200
    write_fake_mnist(tmp_path / "root", train=210)
    assert len(dataset.read().tables["train"]) == 210


# Errors


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_its_folder(name: str, tmp_path: Path) -> None:
    message = (
        f"{name} not found in `dataset.root={tmp_path}`: {VISION_DATASETS[name].files[0]} is missing. "
        "Run again with `dataset.download=true`, or set `dataset.root` to the folder that has it."
    )
    with pytest.raises(DatasetNotFoundError, match=f"^{re.escape(message)}$"):
        Vision(name, str(tmp_path), download=False, cache=None).read()
    assert list(tmp_path.iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("download", "advice"), [(True, "run again"), (False, "put .* into .*")])
def test_a_cut_off_file_is_named(
    name: str, download: bool, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fake(name, tmp_path, NUM_CLASSES.get(name, 10))
    replace_checksums(monkeypatch, name, tmp_path)
    file = VISION_DATASETS[name].files[1]  # the first would be named by a message that names them all
    cut(tmp_path / file)
    says = "is cut off, " if "-idx" in file else "is broken, its checksum is not "
    with pytest.raises(
        DatasetNotFoundError,
        match=rf"^{name} could not be read from `dataset\.root=.*`: {re.escape(file)} {says}.*"
        rf"\. Remove the broken file, and {advice}\.$",
    ):
        Vision(name, str(tmp_path), download=download, cache=None).read()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("usps", "svhn")])
@pytest.mark.parametrize(
    ("download", "advice"), [(True, "run again to download it"), (False, "put a complete one there")]
)
def test_a_broken_archive_is_named_and_nothing_is_downloaded(
    name: str, download: bool, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fake(name, tmp_path, NUM_CLASSES.get(name, 10), packed=True)
    replace_checksums(monkeypatch, name, tmp_path)
    (archive, *_) = sorted(file for file in tmp_path.rglob("*") if file.suffix in (".gz", ".zip"))
    cut(archive)
    with pytest.raises(
        DatasetNotFoundError,
        match=rf"^{name} could not be decompressed in .*: {re.escape(archive.name)} is broken, its checksum is not "
        rf"\w+\. Remove {re.escape(str(archive))}, and {advice}\.$",
    ):
        Vision(name, str(tmp_path), download=download, cache=None).read()


def test_images_without_their_labels_are_noticed(tmp_path: Path) -> None:
    write_fake_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    shutil.copy(raw / "t10k-labels-idx1-ubyte", raw / "train-labels-idx1-ubyte")
    with pytest.raises(DatasetNotFoundError, match="train has 200 images and 50 labels"):
        Vision("mnist", str(tmp_path), cache=None).read()


def test_only_emnist_has_variants() -> None:
    with pytest.raises(ConfigError, match=r"^`dataset\.variant` is not an argument of dataset=mnist\.$"):
        Vision("mnist", variant="letters")
    with pytest.raises(ConfigError, match=r"^`dataset\.variant` must be one of .* Did you mean letters\?$"):
        Vision("emnist", variant="leters")


# Downloads


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "there") as server:
        yield server


def offer(monkeypatch: pytest.MonkeyPatch, name: str, server: Server) -> dict[str, Any]:
    """Makes torchvision download made-up files of a dataset from a server; returns their images and labels."""
    written = write_fake(name, server.folder, NUM_CLASSES.get(name, 10), packed=True)
    if VISION_DATASETS[name].archive != "{}":
        write_fake(
            name, server.folder / "sums", NUM_CLASSES.get(name, 10)
        )  # the files in an archive have checksums too
    replace_checksums(monkeypatch, name, server.folder)
    shutil.rmtree(server.folder / "sums", ignore_errors=True)
    reader = reader_of(name)

    def moved(address: str) -> str:
        return server.address + address.rpartition("/")[2] if "://" in address else address

    if hasattr(reader, "mirrors"):
        monkeypatch.setattr(reader, "mirrors", ["http://127.0.0.1:9/", server.address])  # nobody is at the first
    if isinstance(getattr(reader, "resources", None), dict):
        monkeypatch.setattr(
            reader,
            "resources",
            {key: [(moved(url), sum_) for url, sum_ in pairs] for key, pairs in reader.resources.items()},
        )
    if hasattr(reader, "split_list"):
        split_list = {key: [moved(entry[0]), *entry[1:]] for key, entry in reader.split_list.items()}
        monkeypatch.setattr(reader, "split_list", split_list)
    if hasattr(reader, "url"):
        monkeypatch.setattr(reader, "url", moved(reader.url))
    return written


def archives_of(name: str) -> list[Path]:
    return [*dict.fromkeys(Path(VISION_DATASETS[name].archive.format(file)) for file in VISION_DATASETS[name].files)]


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_downloaded(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written, root, archives = offer(monkeypatch, name, server), tmp_path / "new" / "root", archives_of(name)
    raw = Vision(name, str(root), cache=None).read()
    for split, (images, labels) in written.items():
        table = raw.tables[split]  # type: ignore[index]  # the two splits are named alike
        np.testing.assert_array_equal(table.features.view(-1, *raw.image_shape), images)  # type: ignore[union-attr]  # a tensor
        assert table.labels.tolist() == labels.tolist()
    assert server.requested == [archive.name for archive in archives]
    first, *lines = capsys.readouterr().err.splitlines()
    where = (
        "http://127.0.0.1:9/"
        if VISION_DATASETS[name].reader.endswith("MNIST") and name[0] not in "qe"
        else server.address
    )
    much = format_bytes(1e6 * VISION_DATASETS[name].megabytes)
    assert first == f"{name}: downloading {much} from {where} to {(root / archives[0]).parent}"
    assert [line.split(",")[0] for line in lines] == [f"  {archive.name}" for archive in archives]
    left = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert left == {*VISION_DATASETS[name].files, *map(str, archives)}  # no lock, nothing unfinished
    Vision(name, str(root), cache=None).read()
    assert len(server.requested) == len(archives)


def test_only_missing_files_are_downloaded(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(monkeypatch, "kmnist", server)
    Vision("kmnist", str(tmp_path), cache=None).read()
    archives = archives_of("kmnist")
    (tmp_path / VISION_DATASETS["kmnist"].files[2]).unlink()  # its archive is there
    (tmp_path / VISION_DATASETS["kmnist"].files[3]).unlink()
    (tmp_path / archives[3]).unlink()
    server.requested.clear()
    capsys.readouterr()
    Vision("kmnist", str(tmp_path), cache=None).read()
    assert server.requested == [archives[3].name]
    assert "kmnist: downloading 1 of its files from " in capsys.readouterr().err


def test_the_sizes_are_those_of_the_real_downloads() -> None:
    # of https://yann.lecun.com/exdb/mnist and the other servers: bytes of each file
    true = {
        "mnist": (9912422, 28881, 1648877, 4542),
        "fashion_mnist": (26421880, 29515, 4422102, 5148),
        "kmnist": (18165135, 29497, 3041136, 5120),
        "qmnist": (9704059, 463024, 9742279, 526800),
        "emnist": (561753746,),
        "usps": (6579383, 1831726),
        "svhn": (182040794, 64275384),
        "cifar10": (170498071,),
        "cifar100": (169001437,),
        "stl10": (2640397119,),
    }
    assert {name: round(sum(sizes) / 1e6, 1) for name, sizes in true.items()} == {
        name: VISION_DATASETS[name].megabytes for name in NAMES
    }
    assert {name: len(sizes) for name, sizes in true.items()} == {name: len(archives_of(name)) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_without_a_network_one_line_names_the_files_and_the_folder(name: str, tmp_path: Path) -> None:
    # by way of a proxy that nobody runs, see `conftest.no_network`
    root, archives = tmp_path / "new" / "root", archives_of(name)
    with pytest.raises(DatasetNotFoundError) as caught:
        Vision(name, str(root), cache=None).read()
    message = str(caught.value)
    names = ", ".join(archive.name for archive in archives)
    assert message.startswith(f"{name} could not be downloaded to `dataset.root={root}`: {archives[0].name}: "), message
    assert ": Connection refused" in message
    assert re.search(
        r"\. Try again, set `dataset\.root` to a folder that has it, "
        rf"or put {re.escape(names)} from https?://.*/ into {(root / archives[0]).parent}\.$",
        message,
    )
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("manner", ["missing", "cut", "broken", "stalls"])
def test_a_broken_download_is_named_and_complete_files_stay(
    manner: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.data.download.TIMEOUT_S", 0.2)
    offer(monkeypatch, "svhn", server)
    root = tmp_path / "new" / "root"
    fetched = server.answer

    def answer(request: Any) -> None:
        server.manner = "well" if "train" in request.path else manner
        fetched(request)

    monkeypatch.setattr(server, "answer", answer)
    with pytest.raises(DatasetNotFoundError, match=r"^svhn could not be downloaded to .*: test_32x32\.mat: ") as caught:
        Vision("svhn", str(root), cache=None).read()
    assert "or put test_32x32.mat from" in str(caught.value)
    assert [path.name for path in root.iterdir()] == ["train_32x32.mat"]
    monkeypatch.setattr(server, "answer", fetched)
    server.manner = "well"
    server.requested.clear()
    Vision("svhn", str(root), cache=None).read()
    assert server.requested == ["test_32x32.mat"]


@pytest.mark.parametrize("manner", ["well", "missing"])
def test_parallel_jobs_download_once(
    manner: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, "mnist", server)
    server.manner = manner
    dataset = Vision("mnist", str(tmp_path / "new" / "root"), cache=None)

    def read(_: int) -> int | None:
        try:
            return len(dataset.read().tables["train"])
        except DatasetNotFoundError:
            return None

    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(read, range(4)))
    if manner == "well":
        assert rows == [20] * 4
        assert server.requested == [archive.name for archive in archives_of("mnist")]
    else:
        assert rows == [None] * 4
        assert not (tmp_path / "new").exists()


def test_a_root_that_cannot_be_written_to_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    root = str(tmp_path / "file" / "root")
    message = (
        f"`dataset.root` must be a folder that can be written to, got {root!r}. "
        "Not a directory: name another one, or one that has usps already."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        Vision("usps", root, cache=None).read()


@pytest.mark.parametrize("name", ["mnist", "cifar10", "emnist"])
def test_a_full_disk_leaves_no_incomplete_file(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, name, server)
    copied = 0

    def copy(source: Any, target: Any) -> None:
        nonlocal copied
        copied += 1
        target.write(source.read())
        if copied == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    dataset = Vision(name, str(tmp_path / "root"), cache=None)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", copy)
        with pytest.raises(ConfigError, match=r"^`dataset\.root` must have room for the data, got .*No space left"):
            dataset.read()
    left = {path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*") if path.is_file()}
    unpacked = left - {*map(str, archives_of(name))}
    assert unpacked == {VISION_DATASETS[name].files[0]}  # whole
    server.requested.clear()
    dataset.read()
    assert server.requested == []  # the archives were whole
