"""A person's own pictures: a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from logreg.data.base import RawData, Table
from logreg.data.cache import Kept, cached
from logreg.data.images import EXTENSIONS, ImageSplit, Listing, in_threads, open_image, pixels_of
from logreg.errors import ConfigError, DataError, DatasetNotFoundError
from logreg.facts import SPLITS, Split
from logreg.promises import check, flag, optional, text, whole

if TYPE_CHECKING:
    from PIL.Image import Image

LAYOUT = "a folder for each class, or train, val and test with a folder for each class in them"


class _File(NamedTuple):
    """An image, as the system knows it."""

    name: str
    """Below ``path``."""
    bytes: int
    mtime_ns: int
    label: int


@dataclass(frozen=True)
class ImageFolder:
    """Images in ``path/<class>/`` or ``path/{train,val,test}/<class>/``; the folders' names are the classes.

    Pixels are flattened, kept as bytes and served in [0, 1].  Hidden files are passed over; other files
    that are no images are left out and counted.

    Attributes:
        path: The folder.
        size: Side in pixels that images are brought to: the shorter side is reduced to it, the middle
            square taken.  ``None``: all have one size already.
        grey: Whether they are read in grey, rather than RGB.
        cache: Folder to keep the decoded pixels in; ``None`` to decode at each start.
    """

    path: str | None = None
    size: int | None = None
    grey: bool = False
    cache: str | None = "data/cache"
    name: str = "image_folder"

    def __post_init__(self) -> None:
        check("dataset.path", self.path, optional(text()))
        check("dataset.size", self.size, optional(whole(at_least=1)))
        check("dataset.grey", self.grey, flag())
        check("dataset.cache", self.cache, optional(text()))

    def read(self) -> RawData:
        """The images as rows of pixels, classes and rows in the order of the alphabet.

        Raises:
            DatasetNotFoundError: There is no such folder.
            DataError: It is laid out otherwise, or an image is broken or of another size than the rest.
            ConfigError: ``path`` is not given, or ``cache`` cannot be written to.
        """
        listing, files = self._list()
        kept = cached(self.cache, self.name, listing.key, lambda: Kept(self._decode(files)))
        tables = {
            split: Table(kept.tensors[split].flatten(1), torch.tensor([file.label for file in members]))
            for split, members in files.items()
        }
        return RawData(
            tables,
            class_names=listing.class_names,
            image_shape=tuple(kept.tensors["train"].shape[1:]),
            scale=1 / 255,
            source=listing.source,
            notes=listing.notes,
        )

    def listing(self) -> Listing:
        """What there is in the folder."""
        return self._list()[0]

    @property
    def _root(self) -> Path:
        if self.path is None:
            raise ConfigError.broken("dataset.path", "name a folder", None, "Set dataset.path=FOLDER.")
        return Path(self.path)

    def _list(self) -> tuple[Listing, dict[Split, list[_File]]]:
        root = self._root
        if not root.is_dir():
            what = f"got the file {root}" if root.exists() else f"and {root} is missing"
            raise DatasetNotFoundError(
                f"`dataset.path` must be a folder of images, {what}. Paths start where you stand."
            )
        try:
            class_names, files, others = self._scan(root)
        except OSError as error:
            raise DataError(
                f"`dataset.path` must be a folder that can be read, and {error.filename} cannot: {error.strerror}."
            ) from error
        # Archives give files of two folders the same sizes and times, so the folder is part of what they are.
        key = {
            "folder": str(root.resolve()),
            "files": {split: [file[:3] for file in members] for split, members in files.items()},
        }
        notes: tuple[str, ...] = ()
        if others:
            what = "1 file that is no image" if len(others) == 1 else f"{len(others):,} files that are no images"
            notes = (f"left out {what}: {others[0]}" + (", ..." if len(others) > 1 else ""),)
        listing = Listing(
            key={**key, "size": self.size, "grey": self.grey},
            class_names=class_names,
            grey=self.grey,
            open=lambda: {split: self._split(members) for split, members in files.items()},
            size=self.size,
            source=root.resolve().name,
            notes=notes,
        )
        return listing, files

    def _scan(self, root: Path) -> tuple[tuple[str, ...], dict[Split, list[_File]], list[str]]:
        """The classes, the images of each split, and the files that are no images."""
        folders, others = _folders(root)
        splits = self._splits(root, folders)
        class_names: tuple[str, ...] = ()
        files: dict[Split, list[_File]] = {}
        for split, below in splits.items():
            classes = folders
            if below:
                classes, more = _folders(root / below)
                others += [f"{below}/{other}" for other in more]
            where = root / below
            if not classes:
                raise DataError(f"`dataset.path` must hold {LAYOUT}, and there is no folder in {where}.")
            if split == "train":
                class_names = tuple(classes)
                if len(classes) == 1:
                    raise DataError(
                        f"`dataset.path` must have at least 2 classes, got only the folder {classes[0]} in {where}."
                    )
            for name in classes:
                if name not in class_names:
                    raise DataError(
                        f"`dataset.path` must have each class in train, and {where / name} is of a class that "
                        "train lacks. Add a folder of it to train, or take this one out."
                    )
            files[split] = []
            for name in classes:
                images = []
                for file, entry in _walk(root / below / name, f"{below}/{name}" if below else name):
                    if file.lower().endswith(EXTENSIONS):
                        status = entry.stat()
                        images.append(_File(file, status.st_size, status.st_mtime_ns, class_names.index(name)))
                    else:
                        others.append(file)
                if not images:
                    raise DataError(
                        f"`dataset.path` must have images in each class folder, got none in {where / name} "
                        f"({', '.join(EXTENSIONS)}). Add some, or take the folder out."
                    )
                files[split] += sorted(images)
        return class_names, files, others

    def _splits(self, root: Path, folders: list[str]) -> Mapping[Split, str]:
        """The folder of each split, "" for ``path`` itself."""
        if "train" in folders and _folders(root / "train")[0]:
            for folder in folders:
                if folder not in SPLITS:
                    raise DataError(
                        f"`dataset.path` must have no folder beside train but val and test, got {root / folder}. "
                        "Rename it, or take it out."
                    )
            return {split: split for split in SPLITS if split in folders}
        if folders and set(folders) <= {"val", "test"}:
            raise DataError(f"`dataset.path` must have a folder train beside {' and '.join(folders)} [in {root}].")
        return {"train": ""}

    def _split(self, files: list[_File]) -> ImageSplit:
        def image(row: int, at_least: int) -> Image:
            return open_image(self._root / files[row].name, self.size, self.grey, at_least)

        return ImageSplit(torch.tensor([file.label for file in files]), image)

    def _decode(self, files: Mapping[Split, list[_File]]) -> dict[str, Tensor]:
        """Pixels of each split, shape (N, H, W) or (N, 3, H, W), uint8."""
        every = [file.name for members in files.values() for file in members]

        def pixels(row: int) -> Tensor:
            return pixels_of(open_image(self._root / every[row], self.size, self.grey))

        with closing(in_threads(pixels, len(every), "decoding")) as images:
            first = next(images)
            decoded = torch.empty(len(every), *first.shape, dtype=torch.uint8)
            decoded[0] = first
            for row, image in enumerate(images, start=1):
                if image.shape != first.shape:
                    raise DataError(
                        f"`dataset.path` must hold images of one size, got {every[0]} of {_size(first)} and "
                        f"{every[row]} of {_size(image)} pixels. Set dataset.size=32 to bring all to one size."
                    )
                decoded[row] = image
        parts = decoded.split([len(members) for members in files.values()])
        return dict(zip(files, parts, strict=True))


def _folders(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, but hidden ones, in the order of the alphabet."""
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    names = [sorted(entry.name for entry in entries if entry.is_dir() == is_folder) for is_folder in (True, False)]
    return names[0], names[1]


def _walk(folder: Path, name: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files in a folder and the folders in it, but hidden ones, under names that begin with ``name``."""
    for entry in list(os.scandir(folder)):
        if entry.name.startswith("."):
            continue
        below = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _walk(folder / entry.name, below)
        else:
            yield below, entry


def _size(pixels: Tensor) -> str:
    height, width = pixels.shape[-2:]
    return f"{width} x {height}"
