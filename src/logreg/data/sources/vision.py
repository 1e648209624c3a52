"""Image datasets of torchvision, downloaded when their files are missing.

To add a dataset, add a row to ``VISION_DATASETS`` and a yaml file to ``conf/dataset``.

References:
    torchvision, datasets, https://pytorch.org/vision/stable/datasets.html
"""

from __future__ import annotations

import errno
import gzip
import shutil
import string
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from logreg.constraints import check, flag, one_of, optional, text
from logreg.data.base import RawData, Table
from logreg.data.download import MIN_PROGRESS_BYTES, DownloadError, RemoteFile, download_lock, fetch, print_line
from logreg.data.formats.cache import CacheEntry, load_or_compute
from logreg.data.formats.images import ImageDecoder, ImageListing, ImageSplit
from logreg.errors import ConfigError, DatasetNotFoundError
from logreg.facts import Split
from logreg.fast_import import import_torchvision
from logreg.files import write_whole
from logreg.terminal import format_bytes

if TYPE_CHECKING:
    from PIL.Image import Image


OFFICIAL_SPLITS: tuple[Split, Split] = ("train", "test")
"""The splits that every dataset of this file has."""

AXIS_ORDERS = {"hw": (0, 1, 2), "wh": (0, 2, 1), "chw": (0, 1, 2, 3), "hwc": (0, 3, 1, 2)}
"""Permutation of a reader's axes to (row, height, width) or (row, channel, height, width), by the reader's axes after
the rows: h is height, w is width, c is channels."""


def train_argument(split: Split) -> dict[str, Any]:
    """Arguments of a reader of torchvision that selects the split by a flag."""
    return {"train": split == "train"}


def split_argument(split: Split) -> dict[str, Any]:
    """Arguments of a reader of torchvision that selects the split by its name."""
    return {"split": split}


@dataclass(frozen=True)
class VisionInfo:
    """Facts about a dataset of torchvision that are needed before its files are there."""

    reader: str
    """Name of the class in ``torchvision.datasets``."""
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    """Decompressed files, relative to ``root``."""
    megabytes: float
    """Size of the download, in 10^6 bytes, as the servers stated it in 2024."""
    archive: str = "{}.gz"
    """Path, relative to ``root``, of the archive that holds a file; {} is replaced by the file's path.  "{}" alone
    means that the file is downloaded as it is."""
    axes: str = "hw"
    """Axes of the reader's pixels after the rows: a key of ``AXIS_ORDERS``."""
    split_arguments: Callable[[Split], dict[str, Any]] = train_argument
    """Returns the arguments of the reader that select a split."""
    extra_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the reader."""
    labels: str = "targets"
    """Attribute of the reader that holds the labels."""
    first_label: int = 0
    """Smallest label of the reader."""


def _idx(folder: str, prefixes: tuple[str, str] = ("train", "t10k"), labels: str = "idx1-ubyte") -> tuple[str, ...]:
    """Files in the IDX format of MNIST: images and labels of each split."""
    kinds = ("images-idx3-ubyte", f"labels-{labels}")
    return tuple(f"{folder}/raw/{prefix}-{kind}" for prefix in prefixes for kind in kinds)


DIGITS = tuple(string.digits)

CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

_CIFAR10_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

_MERGED_CLASSES = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")

EMNIST_CLASSES = {
    "balanced": _MERGED_CLASSES,
    "byclass": (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase),
    "bymerge": _MERGED_CLASSES,
    "digits": DIGITS,
    "letters": tuple(string.ascii_lowercase),
    "mnist": DIGITS,
}
"""Class names of each variant of EMNIST.  Merged variants have one class for letters whose two cases look alike."""


def _emnist_info(variant: str) -> VisionInfo:
    return VisionInfo(
        "EMNIST",
        EMNIST_CLASSES[variant],
        _idx("EMNIST", (f"emnist-{variant}-train", f"emnist-{variant}-test")),
        561.8,
        archive="EMNIST/raw/gzip.zip",
        axes="wh",
        extra_arguments={"split": variant},
        first_label=int(variant == "letters"),
    )


VISION_DATASETS = {
    "mnist": VisionInfo("MNIST", DIGITS, _idx("MNIST"), 11.6),
    "fashion_mnist": VisionInfo(
        "FashionMNIST",
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        _idx("FashionMNIST"),
        30.9,
    ),
    "kmnist": VisionInfo("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"), _idx("KMNIST"), 21.2),
    "qmnist": VisionInfo("QMNIST", DIGITS, _idx("QMNIST", ("qmnist-train", "qmnist-test"), "idx2-int"), 20.4),
    "usps": VisionInfo("USPS", DIGITS, ("usps.bz2", "usps.t.bz2"), 8.4, archive="{}"),
    "svhn": VisionInfo(
        "SVHN",
        DIGITS,
        ("train_32x32.mat", "test_32x32.mat"),
        246.3,
        "{}",
        "chw",
        split_arguments=split_argument,
        labels="labels",
    ),
    "cifar10": VisionInfo(
        "CIFAR10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        tuple(f"cifar-10-batches-py/{file}" for file in (*_CIFAR10_BATCHES, "test_batch", "batches.meta")),
        170.5,
        archive="cifar-10-python.tar.gz",
        axes="hwc",
    ),
    "cifar100": VisionInfo(
        "CIFAR100",
        tuple(CIFAR100_CLASSES.split()),
        tuple(f"cifar-100-python/{file}" for file in ("train", "test", "meta")),
        169.0,
        archive="cifar-100-python.tar.gz",
        axes="hwc",
    ),
    "stl10": VisionInfo(
        "STL10",
        ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        tuple(f"stl10_binary/{file}.bin" for file in ("train_X", "train_y", "test_X", "test_y", "unlabeled_X")),
        2640.4,
        archive="stl10_binary.tar.gz",
        axes="chw",
        split_arguments=split_argument,
        labels="labels",
    ),
    "emnist": _emnist_info("balanced"),
}
"""The datasets, by the name that the user selects them by."""


@dataclass(frozen=True)
class Vision:
    """A dataset of torchvision with its official splits; pixels are flattened, stored as uint8 and seen in [0, 1].

    Attributes:
        name: A key of ``VISION_DATASETS``.
        root: Folder where torchvision keeps the files.
        download: Whether missing files are downloaded, from the addresses that torchvision has.
        cache: Folder of the cache for the pixels; ``None`` reads the files each time.
        variant: Variant of emnist, a key of ``EMNIST_CLASSES``; ``None`` is balanced.  Other datasets have none.
    """

    name: str
    root: str = "data"
    download: bool = True
    cache: str | None = "data/cache"
    variant: str | None = None

    def __post_init__(self) -> None:
        check("dataset.root", self.root, text())
        check("dataset.download", self.download, flag())
        check("dataset.cache", self.cache, optional(text()))
        if self.variant is not None:
            if self.name != "emnist":
                raise ConfigError(f"`dataset.variant` is not an argument of dataset={self.name}.")
            check("dataset.variant", self.variant, one_of(EMNIST_CLASSES))

    def read(self) -> RawData:
        """Both splits; features are uint8, shape (N, H * W) or (N, 3 * H * W).

        Raises:
            DatasetNotFoundError: A file is missing or broken, or the download failed.
            ConfigError: ``root`` or ``cache`` cannot be written to.
        """
        listing = self.list_images()
        entry = load_or_compute(self.cache, self.name, listing.key, lambda: CacheEntry(self._read_pixels()))
        pixels = {split: entry.tensors[f"{split}.pixels"] for split in OFFICIAL_SPLITS}
        return RawData(
            {split: Table(pixels[split].flatten(1), entry.tensors[f"{split}.labels"]) for split in OFFICIAL_SPLITS},
            class_names=listing.class_names,
            image_shape=tuple(pixels["train"].shape[1:]),
            scale=1 / 255,
            source=listing.source,
        )

    def list_images(self) -> ImageListing:
        """The images, after missing files have been downloaded and decompressed.

        Raises:
            DatasetNotFoundError: A file is missing, an archive is broken, or the download failed.
            ConfigError: ``root`` cannot be written to.
        """
        if self._missing_files():
            self._provide_files()
        status = {file: self._path(file).stat() for file in self._info.files}
        return ImageListing(
            key={file: [found.st_size, found.st_mtime_ns] for file, found in status.items()},
            class_names=self._info.class_names,
            grayscale=len(self._info.axes) == 2,
            make_decoder=self._make_decoder,
            source=(self.variant or "balanced") if self.name == "emnist" else "",
        )

    @property
    def _info(self) -> VisionInfo:
        return VISION_DATASETS[self.name] if self.variant is None else _emnist_info(self.variant)

    @property
    def _reader(self) -> Any:
        """The class of torchvision that reads the files."""
        return getattr(import_torchvision().datasets, self._info.reader)

    @property
    def _typed_root(self) -> str:
        return f"`dataset.root={self.root}`"

    def _path(self, file: str) -> Path:
        return Path(self.root, file)

    def _archive(self, file: str) -> Path:
        """The archive that holds a file, or the file itself if it is downloaded as it is."""
        return self._path(self._info.archive.format(file))

    def _missing_files(self) -> list[str]:
        return [file for file in self._info.files if not self._path(file).is_file()]

    def _missing_archives(self) -> list[Path]:
        """Missing archives that hold missing files."""
        return [path for path in dict.fromkeys(map(self._archive, self._missing_files())) if not path.exists()]

    # Download and decompression

    def _provide_files(self) -> None:
        """Downloads and decompresses the missing files; only one process does so at a time.

        Raises:
            DatasetNotFoundError: ``download`` is false, the download failed, or an archive is broken.
            ConfigError: ``root`` cannot be written to.
        """
        for file in self._missing_files():
            if self._path(file).exists():
                raise DatasetNotFoundError(
                    f"{self.name} could not be read from {self._typed_root}: {file} is not a file. "
                    "Remove it, and run again."
                )
        if self._missing_archives() and not self.download:
            raise DatasetNotFoundError(
                f"{self.name} not found in {self._typed_root}: {self._missing_files()[0]} is missing. "
                "Run again with `dataset.download=true`, or set `dataset.root` to the folder that has it."
            )
        remotes = _remote_files(self._reader)
        try:
            with download_lock(Path(self.root), self.name):
                self._download(remotes)
                for file in self._missing_files():
                    if not self._path(file).exists():  # a tar archive holds several files
                        self._decompress(file, remotes)
        except OSError as error:
            reason = (error.strerror or str(error)).rstrip(".")
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            must = "have room for the data" if is_full else "be a folder that can be written to"
            raise ConfigError.broken(
                "dataset.root", must, self.root, f"{reason}: name another one, or one that has {self.name} already."
            ) from error

    def _download(self, remotes: Mapping[str, RemoteFile]) -> None:
        """Downloads the missing archives.

        Raises:
            DatasetNotFoundError: No server sent an archive.
            OSError: An archive cannot be written.
        """
        missing = self._missing_archives()  # another process may have downloaded some in the meantime
        if not missing:
            return
        info, source = self._info, remotes[missing[0].name].folder
        is_all = len(missing) == len({*map(self._archive, info.files)})
        amount = format_bytes(1e6 * info.megabytes) if is_all else f"{len(missing)} of its files"
        print_line(f"{self.name}: downloading {amount} from {source} to {missing[0].parent}")
        for path in missing:
            try:
                fetch(remotes[path.name], path)
            except DownloadError as error:
                names = ", ".join(path.name for path in self._missing_archives())
                raise DatasetNotFoundError(
                    f"{self.name} could not be downloaded to {self._typed_root}: {error}. Try again, set "
                    f"`dataset.root` to a folder that has it, or put {names} from {source} into {path.parent}."
                ) from error

    def _decompress(self, file: str, remotes: Mapping[str, RemoteFile]) -> None:
        """Checks the checksum of the archive that holds a file, and decompresses it.

        Raises:
            DatasetNotFoundError: The archive is broken.
            OSError: The files cannot be written.
        """
        check_integrity = import_torchvision().datasets.utils.check_integrity
        path, archive = self._path(file), self._archive(file)
        checksum = remotes[archive.name].digest
        if not check_integrity(str(archive), checksum):
            again = "run again to download it" if self.download else "put a complete one there"
            raise DatasetNotFoundError(
                f"{self.name} could not be decompressed in {self._typed_root}: {archive.name} is broken, its checksum "
                f"is not {checksum}. Remove {archive}, and {again}."
            )
        if archive.stat().st_size >= MIN_PROGRESS_BYTES:
            print_line(f"{self.name}: decompressing {archive.name}")
        if archive.suffix == ".zip":  # emnist: a zip archive of many .gz files, of which this one is needed
            with zipfile.ZipFile(archive) as outer, gzip.open(outer.open(f"gzip/{path.name}.gz")) as inner:
                write_whole(path, partial(shutil.copyfileobj, inner))
        elif archive.name.endswith(".tar.gz"):
            with tarfile.open(archive) as tar:
                for member in tar:
                    if member.isfile():  # by the checksum, no name of a member leads out of the folder
                        inner_file = tar.extractfile(member)
                        assert inner_file is not None
                        write_whole(self._path(member.name), partial(shutil.copyfileobj, inner_file))
        else:
            with gzip.open(archive) as inner:
                write_whole(path, partial(shutil.copyfileobj, inner))

    # Pixels

    def _read_pixels(self) -> dict[str, Tensor]:
        """Pixels of each split, shape (N, H, W) or (N, 3, H, W), uint8, and labels, shape (N,), int64.

        Raises:
            DatasetNotFoundError: A file is broken.
        """
        info, tensors = self._info, {}
        try:
            for split in OFFICIAL_SPLITS:
                data = self._reader(self.root, download=False, **info.split_arguments(split), **info.extra_arguments)
                pixels, labels = torch.as_tensor(data.data), torch.as_tensor(getattr(data, info.labels))
                if len(pixels) != len(labels):
                    raise ValueError(f"{split} has {len(pixels)} images and {len(labels)} labels")
                labels = labels if labels.ndim == 1 else labels[:, 0]  # further columns of qmnist describe the writer
                tensors[f"{split}.pixels"] = pixels.permute(AXIS_ORDERS[info.axes]).contiguous()
                tensors[f"{split}.labels"] = labels.long() - info.first_label
        except ImportError:
            raise
        except Exception as error:  # torchvision's readers raise exceptions of many kinds for a broken file
            reason = self._find_broken_file() or " ".join(str(error).split()).removesuffix(".") or type(error).__name__
            archives = ", ".join(dict.fromkeys(self._archive(file).name for file in info.files))
            folder = self._archive(info.files[0]).parent
            again = "run again" if self.download else f"put {archives} into {folder}"
            raise DatasetNotFoundError(
                f"{self.name} could not be read from {self._typed_root}: {reason}. Remove the broken file, and {again}."
            ) from error
        return tensors

    def _find_broken_file(self) -> str:
        """A sentence that names a broken file; empty if none is found.

        A file is broken if its checksum is not the one that torchvision has, or if its length is not the one that its
        IDX header states: four bytes with the number of axes in the last one, the length of each axis as a big-endian
        uint32, and the values.
        """
        check_integrity = import_torchvision().datasets.utils.check_integrity
        remotes = _remote_files(self._reader)
        for file in self._info.files:
            path = self._path(file)
            if not path.exists():
                continue
            if path.name in remotes and not check_integrity(str(path), remotes[path.name].digest):
                return f"{file} is broken, its checksum is not {remotes[path.name].digest}"
            if "-idx" in path.name:
                with path.open("rb") as opened:
                    header = opened.read(4)
                    shape = np.frombuffer(opened.read(4 * header[3]) if len(header) == 4 else b"", ">u4")
                    value_bytes = 4 if path.name.endswith("-int") else 1
                    expected = 4 + shape.nbytes + value_bytes * int(shape.prod(dtype=np.int64))
                if path.stat().st_size != expected:
                    return f"{file} is cut off, {path.stat().st_size:,} bytes of {expected:,}"
        return ""

    def _make_decoder(self) -> ImageDecoder:
        """The images as `FrozenFeatures` needs them; their pixels are in memory already."""
        raw = self.read()
        return ImageDecoder({split: self._image_split(table, raw.image_shape) for split, table in raw.tables.items()})

    def _image_split(self, table: Table, shape: tuple[int, ...]) -> ImageSplit:
        """The images of a split, whose pixels have this shape."""
        assert isinstance(table.features, Tensor)
        pixels = table.features.view(-1, *shape).numpy()

        def image(row: int, min_side: int) -> Image:
            from PIL import Image

            return Image.fromarray(pixels[row] if len(shape) == 2 else pixels[row].transpose(1, 2, 0).copy())

        return ImageSplit(table.labels, image)


def _remote_files(reader: Any) -> dict[str, RemoteFile]:
    """By name, each file whose address or checksum a reader of torchvision has.

    The readers hold them in five different attributes.  A file inside an archive has no address.
    """
    resources = getattr(reader, "resources", [])
    pairs = [pair for pairs in resources.values() for pair in pairs] if isinstance(resources, dict) else [*resources]
    downloads = [
        ([address] if "://" in address else [mirror + address for mirror in reader.mirrors], digest)
        for address, digest in pairs
    ]
    downloads += [([url], digest) for url, _, digest in getattr(reader, "split_list", {}).values()]
    if hasattr(reader, "tgz_md5"):
        downloads.append(([reader.url], reader.tgz_md5))
    if hasattr(reader, "md5"):
        downloads.append(([reader.url], reader.md5))
    remotes = {urls[0].rpartition("/")[2]: RemoteFile(tuple(urls), digest) for urls, digest in downloads}
    members = [*getattr(reader, "train_list", []), *getattr(reader, "test_list", [])]
    if hasattr(reader, "meta"):
        members.append((reader.meta["filename"], reader.meta["md5"]))
    return remotes | {name: RemoteFile((), digest) for name, digest in members}
