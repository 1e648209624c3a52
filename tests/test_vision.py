from __future__ import annotations

import re
import shutil
import socket
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from fake_mnist import md5s_of, write_fake, write_fake_mnist
from logreg.data.vision import EMNIST, FACTS, Vision
from logreg.errors import ConfigError, DatasetNotFoundError

NAMES = tuple(FACTS)

NUM_CLASSES = {"emnist": 47, "cifar100": 100}


def reader_of(name: str) -> Any:
    return getattr(torchvision.datasets, FACTS[name].reader)


def know(monkeypatch: pytest.MonkeyPatch, name: str, root: Path) -> None:
    """torchvision knows the checksums of the true files; now it knows those of the made-up ones."""
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


# reading


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_each_is_read_in_its_true_format(
    name: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_fake(name, tmp_path, NUM_CLASSES.get(name, 10), packed=packed)
    if packed and FACTS[name].archive != "{}":
        write_fake(name, tmp_path / "sums", NUM_CLASSES.get(name, 10))  # an archive's own files have sums too
    know(monkeypatch, name, tmp_path)
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


@pytest.mark.parametrize("variant", EMNIST)
def test_each_variant_of_emnist_has_classes_from_0(variant: str, tmp_path: Path) -> None:
    written = write_fake("emnist", tmp_path, len(EMNIST[variant]), variant)
    raw = Vision("emnist", str(tmp_path), cache=None, variant=variant).read()
    assert raw.tables["test"].labels.tolist() == written["test"][1].tolist()
    assert raw.source == variant


def test_the_class_names_are_torchvisions() -> None:
    splits = torchvision.datasets.EMNIST.classes_split_dict
    assert {name: tuple(c for c in splits[name] if c != "N/A") for name in splits} == EMNIST
    assert FACTS["kmnist"].class_names == tuple(torchvision.datasets.KMNIST.classes)
    theirs = torchvision.datasets.FashionMNIST.classes
    assert [name.lower() for name in FACTS["fashion_mnist"].class_names[1:]] == [name.lower() for name in theirs[1:]]
    assert len(set(FACTS["cifar100"].class_names)) == 100
    assert list(FACTS["cifar100"].class_names) == sorted(FACTS["cifar100"].class_names)


def test_the_true_mnist_is_as_torchvision_reads_it(mnist_root: Path) -> None:
    raw = Vision("mnist", str(mnist_root), cache=None).read()
    theirs = torchvision.datasets.MNIST(str(mnist_root), train=False)
    assert torch.equal(raw.tables["test"].features, theirs.data.flatten(1))  # type: ignore[arg-type]  # a tensor
    assert torch.equal(raw.tables["test"].labels, theirs.targets)


def test_nothing_is_written_where_all_files_are(tmp_path: Path) -> None:
    # A root may be a folder that others share and nobody may write to.
    write_fake_mnist(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    Vision("mnist", str(tmp_path), cache=None).read()
    assert sorted(tmp_path.rglob("*")) == before


# the cache


def test_a_second_read_does_without_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fake("cifar10", tmp_path / "root")
    know(monkeypatch, "cifar10", tmp_path / "root")
    dataset = Vision("cifar10", str(tmp_path / "root"), cache=str(tmp_path / "cache"))
    first = dataset.read()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    second = dataset.read()
    for split, table in first.tables.items():
        assert torch.equal(table.features, second.tables[split].features)  # type: ignore[arg-type]  # tensors
        assert torch.equal(table.labels, second.tables[split].labels)
    assert (first.image_shape, first.class_names) == (second.image_shape, second.class_names)


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    dataset = Vision("mnist", str(tmp_path / "root"), cache=str(tmp_path / "cache"))
    write_fake_mnist(tmp_path / "root")
    assert len(dataset.read().tables["train"]) == 200
    write_fake_mnist(tmp_path / "root", train=210)
    assert len(dataset.read().tables["train"]) == 210


# what a person can mend


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_its_folder(name: str, tmp_path: Path) -> None:
    message = (
        f"{name} not found in `dataset.root={tmp_path}`: {FACTS[name].files[0]} is missing. "
        "Run again with `dataset.download=true`, or set `dataset.root` to the folder that has it."
    )
    with pytest.raises(DatasetNotFoundError, match=f"^{re.escape(message)}$"):
        Vision(name, str(tmp_path), cache=None).read()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_off_file_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fake(name, tmp_path, NUM_CLASSES.get(name, 10))
    know(monkeypatch, name, tmp_path)
    file = FACTS[name].files[1]  # the first would be named by a message that names them all
    cut(tmp_path / file)
    says = "is cut off, " if "-idx" in file else "is broken, its checksum is not "
    with pytest.raises(
        DatasetNotFoundError,
        match=rf"^{name} could not be read from `dataset\.root=.*`: {re.escape(file)} {says}.*"
        r"\. Remove the broken file, and put .* into .*\.$",
    ):
        Vision(name, str(tmp_path), cache=None).read()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("usps", "svhn")])
def test_a_broken_archive_is_named_and_nothing_is_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fake(name, tmp_path, NUM_CLASSES.get(name, 10), packed=True)
    know(monkeypatch, name, tmp_path)
    (archive, *_) = sorted(file for file in tmp_path.rglob("*") if file.suffix in (".gz", ".zip"))
    cut(archive)
    with pytest.raises(
        DatasetNotFoundError,
        match=rf"^{name} could not be unpacked in .*: {re.escape(archive.name)} is broken, its checksum is not",
    ):
        Vision(name, str(tmp_path), cache=None).read()


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


# downloads


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [urllib.error.URLError("no route to host"), TimeoutError("timed out")])
def test_no_network_is_one_line_with_what_to_put_where(
    name: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        assert socket.getdefaulttimeout()  # else a silent network would be waited for without end
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(DatasetNotFoundError) as caught:
        Vision(name, str(tmp_path), download=True, cache=None).read()
    archive = Path(FACTS[name].archive.format(FACTS[name].files[0]))
    assert str(caught.value).startswith(f"{name} could not be downloaded to `dataset.root={tmp_path}`: ")
    assert re.search(rf"put {re.escape(archive.name)}\b.* into {tmp_path / archive.parent}\.$", str(caught.value))
    assert re.search("no route to host|timed out", str(caught.value))
    assert "\n" not in str(caught.value)
    assert socket.getdefaulttimeout() is None


def test_parallel_jobs_download_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    def download(self: Any) -> None:
        if not self._check_exists():
            downloads.append(1)
            write_fake_mnist(tmp_path)

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    dataset = Vision("mnist", str(tmp_path), download=True, cache=None)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda _: len(dataset.read().tables["train"]), range(4)))
    assert (read, len(downloads)) == ([200] * 4, 1)


def test_a_download_into_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetNotFoundError, match=r"^usps could not be downloaded to .*Not a directory"):
        Vision("usps", str(tmp_path / "file" / "root"), download=True, cache=None).read()
