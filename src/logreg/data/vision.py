"""torchvision's image datasets as tables of pixels.  A new one is a row of ``FACTS`` and a yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logreg.data.base import RawData, Table
from logreg.errors import DatasetNotFoundError
from logreg.promises import check, flag, text


@dataclass(frozen=True)
class ImageFacts:
    """What must be known of a torchvision dataset before its files are there."""

    torchvision_class: str
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    """Under ``root``; without or with .gz.  A file that is missing is named."""


_IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""In the order of torchvision's own list."""

FACTS = {
    "mnist": ImageFacts("MNIST", tuple("0123456789"), tuple(f"MNIST/raw/{file}" for file in _IDX)),
    "fashion_mnist": ImageFacts(
        "FashionMNIST",
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        tuple(f"FashionMNIST/raw/{file}" for file in _IDX),
    ),
}


@dataclass(frozen=True)
class Vision:
    """Official train and test splits; pixels flattened, kept as bytes, served in [0, 1].

    Attributes:
        name: A key of ``FACTS``.
        root: Folder that torchvision keeps (or shall put) the files in.
        download: Whether to fetch files that are not there.
    """

    name: str
    root: str = "data"
    download: bool = False

    def __post_init__(self) -> None:
        check("dataset.root", self.root, text())
        check("dataset.download", self.download, flag())

    def read(self) -> RawData:
        """Both splits, 28 x 28 pixels flattened to D = 784.

        Raises:
            DatasetNotFoundError: A file is missing or broken, or the download failed.
        """
        import torchvision  # takes two seconds to import, and no table needs it

        facts = FACTS[self.name]
        reader = getattr(torchvision.datasets, facts.torchvision_class)
        where = f"`dataset.root={self.root}`"
        missing = [file for file in facts.files if not any(Path(self.root, file + end).exists() for end in ("", ".gz"))]
        if missing and not self.download:
            raise DatasetNotFoundError(
                f"{self.name} not found in {where}: {missing[0]} is missing. "
                "Run again with `dataset.download=true`, or set `dataset.root` to the folder that has it."
            )
        try:
            if not self.download:
                self._unpack(reader)
            train = reader(self.root, train=True, download=self.download)
            test = reader(self.root, train=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise DatasetNotFoundError(
                f"{self.name} could not be read from {where}: {' '.join(str(error).split())}. "
                f"Remove the broken file, or put {', '.join(Path(file).name + '.gz' for file in facts.files)} "
                f"into {Path(self.root, facts.files[0]).parent}."
            ) from error
        height, width = train.data.shape[1:]
        return RawData(
            {"train": Table(train.data.flatten(1), train.targets), "test": Table(test.data.flatten(1), test.targets)},
            class_names=facts.class_names,
            image_shape=(height, width),
            scale=1 / 255,
        )

    def _unpack(self, reader: Any) -> None:
        """Unpacks .gz files that are whole; torchvision would do so only after a look at the network."""
        from torchvision.datasets.utils import check_integrity, extract_archive

        for file, (archive, checksum) in zip(FACTS[self.name].files, reader.resources, strict=True):
            path = Path(self.root, file)
            if not path.exists():
                if not check_integrity(str(path.with_name(archive)), checksum):
                    raise OSError(f"{archive} is broken, its checksum is not {checksum}")
                extract_archive(str(path.with_name(archive)), str(path.parent))
