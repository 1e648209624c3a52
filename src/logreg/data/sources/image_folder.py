"""Images of the user in folders, with a folder for each class, as torchvision's ImageFolder and Keras read them.

The decoding of the files is in `logreg.data.formats.images`.

References:
    torchvision, ImageFolder, https://pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html
"""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from logreg.constraints import check, flag, one_of, optional, text, whole
from logreg.constraints import name as column_name
from logreg.data.base import RawData, Table
from logreg.data.formats.cache import CacheEntry, load_or_compute
from logreg.data.formats.folders import LAYOUT, list_folder, sort_classes, split_folders, walk_files
from logreg.data.formats.images import (
    IMAGE_SUFFIXES,
    DecodingOptions,
    DecodingReport,
    ImageDecoder,
    ImageListing,
    ImageSplit,
    find_white_level,
    image_to_tensor,
    open_image,
)
from logreg.errors import ConfigError, DataError, DatasetNotFoundError
from logreg.facts import Split

if TYPE_CHECKING:
    from PIL.Image import Image


DECODING_VERSION = 2
"""Version of the decoding, which is part of the cache's key: raise it when files are decoded to other pixels."""

MIN_SUBJECTS = 10
"""Number of subjects from which a note advises to group images: with fewer, the pattern of names may be chance."""

MIN_SHARE_IN_SERIES = 0.9
"""Share of images that must belong to subjects with several images for the note that advises to group images."""

NUMBERED_NAME = r"([^/]+)[_-]([0-9]+)[.][a-zA-Z]+$"
"""Pattern of a file name that ends in a number; its groups are the text before the number, and the number."""

SUBJECT_PATTERN = r"([^/]+)[_-][0-9]+[.][a-zA-Z]+$"
"""`NUMBERED_NAME` as a value of ``dataset.split.group``, which has one group: the subject."""


class _File(NamedTuple):
    """An image file and its status in the file system."""

    name: str
    """Path relative to the dataset's folder."""
    bytes: int
    mtime_ns: int
    label: int


class _Scan(NamedTuple):
    """The content of the dataset's folder."""

    class_names: tuple[str, ...]
    files: dict[Split, list[_File]]
    others: list[str]
    """Files that are not images."""


@dataclass(frozen=True)
class ImageFolder:
    """Images in ``path/<class>/`` or ``path/{train,val,test}/<class>/``; the names of the folders are the classes.

    Pixels are flattened, and keep the values of the files; the model sees them in [0, 1].  Hidden files and files made
    by the system, such as thumbnails, are ignored; other files that are not images are left out and counted.

    Attributes:
        path: The folder.
        size: Side, in pixels, that images are reduced to: the shorter side is reduced to it, and the square in the
            middle is taken.  ``None`` requires that all images have one size.
        grayscale: Whether images are converted to grayscale instead of RGB.
        white_level: Pixel value of 16-bit images that is white; ``None`` takes the one of `find_white_level`.
        broken: "skip" leaves out and counts files that cannot be read; "error" raises an error that names all of them.
        group: Groups of images; images of one group stay in one split.  A regular expression with one group, which is
            searched in the path of each file relative to ``path``; or a CSV file with the columns file and group.
        cache: Folder of the cache for decoded pixels; ``None`` decodes at each start.
        model: ``DataFacts.pixels`` of the trained model that the images are read for; ``None`` without a model.
    """

    path: str | None = None
    size: int | None = None
    grayscale: bool = False
    white_level: int | None = None
    broken: str = "error"
    group: str | None = None
    cache: str | None = "data/cache"
    name: str = "image_folder"
    model: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check("dataset.path", self.path, optional(text()))
        check("dataset.size", self.size, optional(whole(at_least=1)))
        check("dataset.grayscale", self.grayscale, flag())
        check("dataset.white_level", self.white_level, optional(whole(at_least=1, at_most=65535)))
        check("dataset.broken", self.broken, one_of(("error", "skip")))
        check("dataset.split.group", self.group, optional(column_name()))
        check("dataset.cache", self.cache, optional(text()))

    def read(self) -> RawData:
        """The images as rows of pixels, shape (N, H * W) or (N, 3 * H * W), in the order of classes and file names.

        Raises:
            DatasetNotFoundError: There is no such folder.
            DataError: The folder has another layout, or an image is broken or of another size than the first one.
            ConfigError: ``path`` is not given, ``group`` cannot be used, or ``cache`` cannot be written to.
        """
        listing, files = self._list_images()
        entry = load_or_compute(self.cache, self.name, listing.key, lambda: self._decode(files))
        tables = {}
        for split, members in files.items():
            rows = entry.tensors[f"{split}.rows"]
            labels = torch.tensor([file.label for file in members])[rows]
            groups = listing.groups[split][rows] if listing.groups else None
            tables[split] = Table(entry.tensors[f"{split}.pixels"].flatten(1), labels, groups=groups)
        options = DecodingOptions(**entry.metadata["decoding"])
        return RawData(
            tables,
            class_names=listing.class_names,
            image_shape=tuple(entry.tensors["train.pixels"].shape[1:]),
            scale=1 / options.white_value,
            source=listing.source,
            notes=(*listing.notes, *entry.metadata["notes"]),
            pixels=options.facts,
        )

    def list_images(self) -> ImageListing:
        """The images in the folder, without decoding them.

        Raises:
            LogregError: As `read`, except for images that are broken or of another size.
        """
        return self._list_images()[0]

    @property
    def _root(self) -> Path:
        if self.path is None:
            raise ConfigError.broken("dataset.path", "name a folder", None, "Set dataset.path=FOLDER.")
        return Path(self.path)

    def _list_images(self) -> tuple[ImageListing, dict[Split, list[_File]]]:
        """The listing, and the files of each split."""
        root = self._root
        if not root.is_dir():
            fault = f"got the file {root}" if root.exists() else f"and {root} is missing"
            raise DatasetNotFoundError(
                f"`dataset.path` must be a folder of images, {fault}. Relative paths start at the current folder."
            )
        try:
            class_names, files, others = self._scan(root)
        except OSError as error:
            raise DataError(
                f"`dataset.path` must be a folder that can be read, and {error.filename} cannot: {error.strerror}."
            ) from error
        groups, group_notes = self._groups(files)
        key = {
            # Files from archives may have equal names, sizes and times in two folders, so the folder is in the key.
            "folder": str(root.resolve()),
            "files": {split: [file[:3] for file in members] for split, members in files.items()},
            "size": self.size,
            "grayscale": self.grayscale,
            "white_level": self.white_level,
            "broken": self.broken,
            "model": self.model,
            "reading": DECODING_VERSION,
        }
        notes: tuple[str, ...] = ()
        if others:
            what = "1 file that is not an image" if len(others) == 1 else f"{len(others):,} files that are not images"
            notes = (f"left out {what}: {others[0]}" + (", ..." if len(others) > 1 else ""),)
        listing = ImageListing(
            key=key,
            class_names=class_names,
            grayscale=self.grayscale,
            make_decoder=lambda: self._make_decoder(files),
            size=self.size,
            source=root.resolve().name,
            notes=(*notes, *group_notes),
            groups=groups,
        )
        return listing, files

    def _scan(self, root: Path) -> _Scan:
        """The classes, the images of each split, and the files that are not images."""
        folders, others = list_folder(root)
        class_names: tuple[str, ...] = ()
        files: dict[Split, list[_File]] = {}
        for split, split_folder in split_folders(root, folders).items():
            classes = folders
            if split_folder:
                classes, other_names = list_folder(root / split_folder)
                others += [f"{split_folder}/{other}" for other in other_names]
            place = root / split_folder
            if not classes:
                raise DataError(f"`dataset.path` must hold {LAYOUT}, and there is no folder in {place}.")
            if split == "train":
                classes = sort_classes(classes)
                class_names = tuple(classes)
            self._check_classes(split, classes, class_names, place)
            files[split] = []
            for name in classes:
                images, other_names = self._scan_class(root, f"{split_folder}/{name}" if split_folder else name)
                if not images:
                    raise DataError(
                        f"`dataset.path` must have images in each class folder, got none in {place / name} "
                        f"({', '.join(IMAGE_SUFFIXES)}). Add some, or remove the folder."
                    )
                others += other_names
                files[split] += sorted(_File(*image, class_names.index(name)) for image in images)
        return _Scan(class_names, files, others)

    def _check_classes(self, split: Split, classes: Sequence[str], class_names: Sequence[str], place: Path) -> None:
        """Refuses a single class in train, and a class of another split that train does not have."""
        if split == "train" and len(classes) == 1:
            raise DataError(
                f"`dataset.path` must have at least 2 classes, got only the folder {classes[0]} in {place}."
            )
        for name in classes:
            if name not in class_names:
                raise DataError(
                    f"`dataset.path` must have each class in train, and {place / name} is of a class that train "
                    "lacks. Add a folder of this class to train, or remove this one."
                )

    def _scan_class(self, root: Path, folder: str) -> tuple[list[tuple[str, int, int]], list[str]]:
        """Name, size in bytes and time of change of each image in a folder, and the names of the other files."""
        images, others = [], []
        for name, entry in walk_files(root / folder):
            file = f"{folder}/{name}"
            if not file.lower().endswith(IMAGE_SUFFIXES):
                others.append(file)
                continue
            # A link to itself has no status; it is named with the files that cannot be read.
            status = entry.stat() if os.path.isfile(entry.path) else None  # noqa: PTH113  # no Path is made
            images.append((file, status.st_size, status.st_mtime_ns) if status else (file, 0, 0))
        return images, others

    def _groups(self, files: Mapping[Split, Sequence[_File]]) -> tuple[dict[Split, Tensor], tuple[str, ...]]:
        """The group of each image of each split, shape (N,), int64; and a note if groups are missing but likely needed.

        Raises:
            ConfigError: ``group`` is neither a regular expression with one group nor a file of groups.
            DataError: An image has no group.
        """
        names = [file.name for members in files.values() for file in members]
        if self.group is None:
            return {}, _group_notes(names) if files.keys() == {"train"} else ()
        given = str(self.group)
        is_file = given.lower().endswith((".csv", ".tsv"))
        group_of = _groups_from_file(given) if is_file else _groups_from_pattern(given)
        groups = [group_of(name) for name in names]
        if lacking := [name for name, group in zip(names, groups, strict=True) if group is None]:
            named = ", ".join(lacking[:3]) + (" and so on" if len(lacking) > 3 else "")
            advice = "Add a line for each." if is_file else "Write an expression that matches each of these names."
            raise DataError(
                f"`dataset.split.group={given}` must give each image a group, and gives none to {len(lacking):,} of "
                f"{len(names):,}: {named}. {advice}"
            )
        codes = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        parts = torch.tensor([codes[group] for group in groups]).split([len(members) for members in files.values()])
        return dict(zip(files, parts, strict=True)), ()

    def _make_decoder(self, files: Mapping[Split, list[_File]]) -> ImageDecoder:
        """The decoder for the images of all splits; finds the white level of 16-bit images."""
        paths = [self._root / file.name for members in files.values() for file in members]
        options, report = DecodingOptions(self.size, self.grayscale), DecodingReport()
        if self.model is not None:
            options = DecodingOptions.from_facts(self.model, self.size, self.grayscale)
        elif level := find_white_level(paths):
            options = replace(options, white_level=self.white_level or level)

        def image(members: list[_File], row: int, min_side: int) -> Image:
            file = members[row].name
            return open_image(self._root / file, options, min_side, report, file)

        splits = {
            split: ImageSplit(
                torch.tensor([file.label for file in members]),
                partial(image, members),
                [file.name for file in members],
            )
            for split, members in files.items()
        }
        return ImageDecoder(splits, f"dataset.path={self.path}", options, report, self.broken == "skip")

    def _decode(self, files: Mapping[Split, list[_File]]) -> CacheEntry:
        """For each split, the rows that can be read, shape (N,), and their pixels, shape (N, H, W) or (N, 3, H, W)."""
        decoder = self._make_decoder(files)
        rows: dict[Split, list[int]] = {split: [] for split in files}
        pixels, count, first = torch.empty(0), 0, ""

        with closing(decoder.decode(lambda image: image_to_tensor(image, decoder.options), "decoding")) as decoded:
            for split, row, image in decoded:
                name = files[split][row].name
                if not count:
                    pixels = torch.empty(sum(map(len, files.values())), *image.shape, dtype=image.dtype)
                    first = name
                if image.shape != pixels.shape[1:]:
                    raise DataError(
                        f"`dataset.path` must hold images of one size, got {first} of {_size(pixels[0])} and "
                        f"{name} of {_size(image)} pixels. Set dataset.size=32 to bring all to one size."
                    )
                pixels[count] = image
                rows[split].append(row)
                count += 1
        tensors = {f"{split}.rows": torch.tensor(split_rows, dtype=torch.int64) for split, split_rows in rows.items()}
        parts = pixels[:count].split([len(split_rows) for split_rows in rows.values()])
        tensors |= {f"{split}.pixels": part for split, part in zip(rows, parts, strict=True)}
        metadata = {"decoding": asdict(decoder.options), "notes": decoder.report.notes(decoder.options)}
        return CacheEntry(tensors, metadata)


def _groups_from_pattern(given: str) -> Callable[[str], str | None]:
    """A function that returns the group of a file by a regular expression; ``None`` without a match.

    Raises:
        ConfigError: The text is not a regular expression, or does not have exactly one group.
    """
    must = "be a regular expression with one group in brackets, such as ([^/]+)_[0-9]+, or a .csv file"
    try:
        pattern = re.compile(given)
    except re.error as error:
        raise ConfigError.broken("dataset.split.group", must, given, f"It is not one: {error}.") from error
    if pattern.groups != 1:
        advice = "Write (?:...) for the others."
        if not pattern.groups:
            advice = "Put brackets around the part that names the subject."
        raise ConfigError.broken("dataset.split.group", must, given, advice)

    def group_of(file: str) -> str | None:
        match = pattern.search(file)
        return match[1] if match else None

    return group_of


def _groups_from_file(given: str) -> Callable[[str], str | None]:
    """A function that returns the group of a file by a table with the columns file and group; ``None`` without a line.

    The table may name a file by its path relative to ``dataset.path``, or without some of the leading folders.

    Raises:
        ConfigError: There is no such table, or it gives a file two groups.
    """
    key = f"`dataset.split.group={given}`"
    try:
        with Path(given).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t" if given.lower().endswith(".tsv") else ",")
            if not {"file", "group"} <= set(reader.fieldnames or ()):
                got = ", ".join(reader.fieldnames or ["none"])
                raise ConfigError(f"{key} must have the columns file and group, got {got}. Rename or add them.")
            lines = [(str(line["file"] or ""), str(line["group"] or "")) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(
            f"{key} must be a table that can be read: {reason}. Relative paths start at the current folder."
        ) from error
    groups: dict[str, str] = {}
    for name, group in lines:
        if group and groups.setdefault(name.replace("\\", "/").removeprefix("./"), group) != group:
            raise ConfigError(f"{key} must give each file one group, and {name} has two. Remove one of its lines.")

    def group_of(file: str) -> str | None:
        parts = file.split("/")
        suffixes = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((groups[suffix] for suffix in suffixes if suffix in groups), None)

    return group_of


def _group_notes(files: Sequence[str]) -> tuple[str, ...]:
    """A note if the files are numbered from 0 or 1 within many subjects: p07_0.png, p07_1.png, ..., p08_0.png, ...

    Files that are numbered across all subjects (cat_001.jpg) or named by a time (IMG_20240131_101502.jpg) give no note.
    """
    numbers_of: dict[str, set[int]] = defaultdict(set)
    for file in files:
        if match := re.search(NUMBERED_NAME, file):
            numbers_of[match[1]].add(int(match[2]))
    subjects = {
        name: numbers
        for name, numbers in numbers_of.items()
        if numbers in (set(range(len(numbers))), set(range(1, len(numbers) + 1)))
    }
    in_series = sum(len(numbers) for numbers in subjects.values() if len(numbers) > 1)
    if len(subjects) < MIN_SUBJECTS or in_series < MIN_SHARE_IN_SERIES * len(files):
        return ()
    return (
        f"the names look like {len(subjects):,} subjects with several images each ({files[0]}), of which some may be "
        f"in train and others in test; to keep them together: 'dataset.split.group=\"{SUBJECT_PATTERN}\"'",
    )


def _size(pixels: Tensor) -> str:
    height, width = pixels.shape[-2:]
    return f"{width} x {height}"
