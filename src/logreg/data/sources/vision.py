"""torchvision's image datasets as tables of pixels.  A new one is a row of ``FACTS`` and a yaml."""

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
from logreg.data.formats.cache import Cached, cached
from logreg.data.formats.images import ImageSplit, Listing, Opened
from logreg.errors import ConfigError, DatasetNotFoundError
from logreg.facts import Split
from logreg.files import write_whole
from logreg.terminal import format_bytes

if TYPE_CHECKING:
    from PIL.Image import Image


SPLITS: tuple[Split, Split] = ("train", "test")
"""Those that all of them have."""

AXES = {"hw": (0, 1, 2), "wh": (0, 2, 1), "chw": (0, 1, 2, 3), "hwc": (0, 3, 1, 2)}
"""By what a reader has after the rows: the order of its axes that makes it (height, width) or (channels, height,
width)."""


def by_flag(split: Split) -> dict[str, Any]:
    """How most readers are asked for a split."""
    return {"train": split == "train"}


def by_name(split: Split) -> dict[str, Any]:
    """How the others are."""
    return {"split": split}


@dataclass(frozen=True)
class ImageFacts:
    """What must be known of a torchvision dataset before its files are there."""

    reader: str
    """Class of ``torchvision.datasets``."""
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    """Under ``root``.  One that is missing is named."""
    megabytes: float
    """Of all that is downloaded, as its servers said in 2024."""
    archive: str = "{}.gz"
    """Under ``root``: what a file is unpacked from; {} is the file, alone where nothing is packed."""
    axes: str = "hw"
    """A key of ``AXES``."""
    ask: Callable[[Split], dict[str, Any]] = by_flag
    """Arguments of the reader for each split."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments."""
    labels: str = "targets"
    """Attribute of the reader."""
    first_label: int = 0


def _idx(folder: str, prefixes: tuple[str, str] = ("train", "t10k"), labels: str = "idx1-ubyte") -> tuple[str, ...]:
    kinds = ("images-idx3-ubyte", f"labels-{labels}")
    return tuple(f"{folder}/raw/{prefix}-{kind}" for prefix in prefixes for kind in kinds)


DIGITS = tuple(string.digits)

CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

_MERGED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")

EMNIST = {
    "balanced": _MERGED,
    "byclass": (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase),
    "bymerge": _MERGED,
    "digits": DIGITS,
    "letters": tuple(string.ascii_lowercase),
    "mnist": DIGITS,
}
"""The classes of each variant; letters look alike in both cases where they are merged."""


def _emnist(variant: str) -> ImageFacts:
    return ImageFacts(
        "EMNIST",
        EMNIST[variant],
        _idx("EMNIST", (f"emnist-{variant}-train", f"emnist-{variant}-test")),
        561.8,
        archive="EMNIST/raw/gzip.zip",
        axes="wh",
        more={"split": variant},
        first_label=int(variant == "letters"),
    )


FACTS = {
    "mnist": ImageFacts("MNIST", DIGITS, _idx("MNIST"), 11.6),
    "fashion_mnist": ImageFacts(
        "FashionMNIST",
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        _idx("FashionMNIST"),
        30.9,
    ),
    "kmnist": ImageFacts("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"), _idx("KMNIST"), 21.2),
    "qmnist": ImageFacts("QMNIST", DIGITS, _idx("QMNIST", ("qmnist-train", "qmnist-test"), "idx2-int"), 20.4),
    "usps": ImageFacts("USPS", DIGITS, ("usps.bz2", "usps.t.bz2"), 8.4, archive="{}"),
    "svhn": ImageFacts(
        "SVHN", DIGITS, ("train_32x32.mat", "test_32x32.mat"), 246.3, "{}", "chw", ask=by_name, labels="labels"
    ),
    "cifar10": ImageFacts(
        "CIFAR10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        tuple(f"cifar-10-batches-py/{file}" for file in (*_BATCHES, "test_batch", "batches.meta")),
        170.5,
        archive="cifar-10-python.tar.gz",
        axes="hwc",
    ),
    "cifar100": ImageFacts(
        "CIFAR100",
        tuple(CIFAR100.split()),
        tuple(f"cifar-100-python/{file}" for file in ("train", "test", "meta")),
        169.0,
        archive="cifar-100-python.tar.gz",
        axes="hwc",
    ),
    "stl10": ImageFacts(
        "STL10",
        ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        tuple(f"stl10_binary/{file}.bin" for file in ("train_X", "train_y", "test_X", "test_y", "unlabeled_X")),
        2640.4,
        archive="stl10_binary.tar.gz",
        axes="chw",
        ask=by_name,
        labels="labels",
    ),
    "emnist": _emnist("balanced"),
}
"""By name."""


@dataclass(frozen=True)
class Vision:
    """Official train and test splits; pixels flattened, kept as bytes, served in [0, 1].

    Attributes:
        name: A key of ``FACTS``.
        root: Folder that torchvision keeps (or shall put) the files in.
        download: Whether to fetch files that are not there, from where torchvision fetches them.
        cache: Folder to keep the pixels in as they are served; ``None`` to read the files each time.
        variant: Which of emnist's collections, a key of ``EMNIST``; for emnist only, ``None`` is balanced.
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
            check("dataset.variant", self.variant, one_of(EMNIST))

    def read(self) -> RawData:
        """Both splits; pixels in the order (height, width) or (channels, height, width).

        Raises:
            DatasetNotFoundError: A file is missing or broken, or the download failed.
            ConfigError: ``cache`` cannot be written to.
        """
        listing = self.listing()
        kept = cached(self.cache, self.name, listing.key, lambda: Cached(self._pixels()))
        pixels = {split: kept.tensors[f"{split}.pixels"] for split in SPLITS}
        return RawData(
            {split: Table(pixels[split].flatten(1), kept.tensors[f"{split}.labels"]) for split in SPLITS},
            class_names=listing.class_names,
            image_shape=tuple(pixels["train"].shape[1:]),
            scale=1 / 255,
            source=listing.source,
        )

    def listing(self) -> Listing:
        """What there is: files, all of them unpacked, and what stands in them.

        Raises:
            DatasetNotFoundError: A file is missing or an archive broken, or the download failed.
        """
        if self._missing():
            self._provide()
        status = {file: self._path(file).stat() for file in self._facts.files}
        return Listing(
            key={file: [found.st_size, found.st_mtime_ns] for file, found in status.items()},
            class_names=self._facts.class_names,
            grey=len(self._facts.axes) == 2,
            open=self._open,
            source=(self.variant or "balanced") if self.name == "emnist" else "",
        )

    @property
    def _facts(self) -> ImageFacts:
        return FACTS[self.name] if self.variant is None else _emnist(self.variant)

    @property
    def _reader(self) -> Any:
        import torchvision  # takes two seconds to import, and no table needs it

        return getattr(torchvision.datasets, self._facts.reader)

    @property
    def _where(self) -> str:
        return f"`dataset.root={self.root}`"

    def _path(self, file: str) -> Path:
        return Path(self.root, file)

    def _archive(self, file: str) -> Path:
        return self._path(self._facts.archive.format(file))

    def _missing(self) -> list[str]:
        return [file for file in self._facts.files if not self._path(file).is_file()]

    def _absent(self) -> list[Path]:
        """Archives that are needed and not there."""
        return [path for path in dict.fromkeys(map(self._archive, self._missing())) if not path.exists()]

    def _provide(self) -> None:
        """Downloads what is not there, and unpacks it; one process at a time.

        Raises:
            DatasetNotFoundError: It may not be downloaded, no server gave it, or an archive is broken.
            ConfigError: ``root`` cannot be written to.
        """
        for file in self._missing():
            if self._path(file).exists():
                raise DatasetNotFoundError(
                    f"{self.name} could not be read from {self._where}: {file} is no file. Remove it, and run again."
                )
        absent = self._absent()
        if absent and not self.download:
            raise DatasetNotFoundError(
                f"{self.name} not found in {self._where}: {self._missing()[0]} is missing. "
                "Run again with `dataset.download=true`, or set `dataset.root` to the folder that has it."
            )
        known = _known(self._reader)
        try:
            with download_lock(Path(self.root), self.name):
                self._download(known)
                for file in self._missing():
                    if not self._path(file).exists():  # a tar has them all
                        self._unpack(file, known)
        except OSError as error:
            reason = (error.strerror or str(error)).rstrip(".")
            what = {errno.ENOSPC: "have room for the data", errno.EDQUOT: "have room for the data"}
            must = what.get(error.errno or 0, "be a folder that can be written to")
            raise ConfigError.broken(
                "dataset.root", must, self.root, f"{reason}: name another one, or one that has {self.name} already."
            ) from error

    def _download(self, known: Mapping[str, RemoteFile]) -> None:
        """Fetches the archives that are not there.

        Raises:
            DatasetNotFoundError: No server gave one.
            OSError: There is no place for it.
        """
        absent = self._absent()  # which another process may have fetched meanwhile
        if not absent:
            return
        facts, source = self._facts, known[absent[0].name].folder
        all_of_it = len(absent) == len({*map(self._archive, facts.files)})
        much = format_bytes(1e6 * facts.megabytes) if all_of_it else f"{len(absent)} of its files"
        print_line(f"{self.name}: downloading {much} from {source} to {absent[0].parent}")
        for path in absent:
            try:
                fetch(known[path.name], path)
            except DownloadError as error:
                names = ", ".join(path.name for path in self._absent())
                raise DatasetNotFoundError(
                    f"{self.name} could not be downloaded to {self._where}: {error}. Try again, set `dataset.root` to "
                    f"a folder that has it, or put {names} from {source} into {path.parent}."
                ) from error

    def _unpack(self, file: str, known: Mapping[str, RemoteFile]) -> None:
        """Unpacks an archive, if it is whole.

        Raises:
            DatasetNotFoundError: It is broken.
            OSError: There is no place for what is in it.
        """
        from torchvision.datasets.utils import check_integrity

        path, archive = self._path(file), self._archive(file)
        checksum = known[archive.name].digest
        if not check_integrity(str(archive), checksum):
            again = "run again to download it" if self.download else "put a whole one there"
            raise DatasetNotFoundError(
                f"{self.name} could not be unpacked in {self._where}: {archive.name} is broken, its checksum is not "
                f"{checksum}. Remove {archive}, and {again}."
            )
        if archive.stat().st_size >= MIN_PROGRESS_BYTES:
            print_line(f"{self.name}: unpacking {archive.name}")
        if archive.suffix == ".zip":  # emnist: of many files packed twice, the one
            with zipfile.ZipFile(archive) as outer, gzip.open(outer.open(f"gzip/{path.name}.gz")) as inner:
                write_whole(path, lambda whole: shutil.copyfileobj(inner, whole))
        elif archive.name.endswith(".tar.gz"):
            with tarfile.open(archive) as tar:
                for member in tar:
                    if member.isfile():  # the checksum says that no name leads elsewhere
                        inner_file = tar.extractfile(member)
                        assert inner_file is not None
                        write_whole(self._path(member.name), partial(shutil.copyfileobj, inner_file))
        else:
            with gzip.open(archive) as inner:
                write_whole(path, lambda whole: shutil.copyfileobj(inner, whole))

    def _pixels(self) -> dict[str, Tensor]:
        """Pixels of each split, shape (N, H, W) or (N, 3, H, W), uint8, and labels, shape (N,), int64."""
        facts, tensors = self._facts, {}
        try:
            for split in SPLITS:
                data = self._reader(self.root, download=False, **facts.ask(split), **facts.more)
                pixels, labels = torch.as_tensor(data.data), torch.as_tensor(getattr(data, facts.labels))
                if len(pixels) != len(labels):
                    raise ValueError(f"{split} has {len(pixels)} images and {len(labels)} labels")
                labels = labels if labels.ndim == 1 else labels[:, 0]  # qmnist: who wrote it and when
                tensors[f"{split}.pixels"] = pixels.permute(AXES[facts.axes]).contiguous()
                tensors[f"{split}.labels"] = labels.long() - facts.first_label
        except ImportError:
            raise
        except Exception as error:  # a reader trips over a broken file in ways of its own
            reason = self._broken() or " ".join(str(error).split()).removesuffix(".") or type(error).__name__
            archives = ", ".join(dict.fromkeys(self._archive(file).name for file in facts.files))
            folder = self._archive(facts.files[0]).parent
            again = "run again" if self.download else f"put {archives} into {folder}"
            raise DatasetNotFoundError(
                f"{self.name} could not be read from {self._where}: {reason}. Remove the broken file, and {again}."
            ) from error
        return tensors

    def _broken(self) -> str:
        """Which file is broken, if any is: by torchvision's checksums, or by the length that its own header says."""
        from torchvision.datasets.utils import check_integrity

        known = _known(self._reader)
        for file in self._facts.files:
            path = self._path(file)
            if not path.exists():
                continue
            if path.name in known and not check_integrity(str(path), known[path.name].digest):
                return f"{file} is broken, its checksum is not {known[path.name].digest}"
            if "-idx" in path.name:
                with path.open("rb") as opened:
                    header = opened.read(4)
                    shape = np.frombuffer(opened.read(4 * header[3]) if len(header) == 4 else b"", ">u4")
                    value_bytes = 4 if path.name.endswith("-int") else 1
                    expected = 4 + shape.nbytes + value_bytes * int(shape.prod(dtype=np.int64))
                if path.stat().st_size != expected:
                    return f"{file} is cut off, {path.stat().st_size:,} bytes of {expected:,}"
        return ""

    def _open(self) -> Opened:
        raw = self.read()
        return Opened({split: self._split(table, raw.image_shape) for split, table in raw.tables.items()})

    def _split(self, table: Table, shape: tuple[int, ...]) -> ImageSplit:
        assert isinstance(table.features, Tensor)
        pixels = table.features.view(-1, *shape).numpy()

        def image(row: int, at_least: int) -> Image:
            from PIL import Image

            return Image.fromarray(pixels[row] if len(shape) == 2 else pixels[row].transpose(1, 2, 0).copy())

        return ImageSplit(table.labels, image)


def _known(reader: Any) -> dict[str, RemoteFile]:
    """Each file and archive that torchvision knows, by name; its classes keep them in five ways.

    What is inside an archive has no address of its own.
    """
    resources = getattr(reader, "resources", [])
    pairs = [pair for pairs in resources.values() for pair in pairs] if isinstance(resources, dict) else [*resources]
    found = [
        ([address] if "://" in address else [mirror + address for mirror in reader.mirrors], digest)
        for address, digest in pairs
    ]
    found += [([url], digest) for url, _, digest in getattr(reader, "split_list", {}).values()]
    if hasattr(reader, "tgz_md5"):
        found.append(([reader.url], reader.tgz_md5))
    if hasattr(reader, "md5"):
        found.append(([reader.url], reader.md5))
    remotes = {urls[0].rpartition("/")[2]: RemoteFile(tuple(urls), digest) for urls, digest in found}
    inside = [*getattr(reader, "train_list", []), *getattr(reader, "test_list", [])]
    if hasattr(reader, "meta"):
        inside.append((reader.meta["filename"], reader.meta["md5"]))
    return remotes | {name: RemoteFile((), digest) for name, digest in inside}
