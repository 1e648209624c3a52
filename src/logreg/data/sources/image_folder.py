"""A user's own pictures: a folder for each class."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from logreg.data.formats.cache import Cached, cached
from logreg.data.formats.images import (
    EXTENSIONS,
    Decoding,
    Found,
    ImageSplit,
    Listing,
    Opened,
    files_below,
    is_folder,
    is_hidden,
    is_image,
    open_image,
    pixels_of,
    white_level_of,
)
from logreg.errors import ConfigError, DataError, DatasetNotFoundError
from logreg.facts import SPLITS, Split

if TYPE_CHECKING:
    from PIL.Image import Image


LAYOUT = "a folder for each class, or train, val and test with a folder for each class in them"

READING = 2
"""Part of the cache's key: raise it when files are decoded otherwise."""

NUMBER = r"[+-]?([0-9](_?[0-9])*\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
"""A name that is a number."""

SERIES = r"([^/]+)[_-]([0-9]+)[.][a-zA-Z]+$"
"""A file name that ends in a number."""

SUBJECT = r"([^/]+)[_-][0-9]+[.][a-zA-Z]+$"
"""The same as a pattern for ``dataset.split.group``."""


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

    Pixels are flattened, kept as they are in the files and served in [0, 1].  Hidden files, thumbnails and the like
    are passed over; other files that are no images are left out and counted.

    Attributes:
        path: The folder.
        size: Side in pixels that images are brought to: the shorter side is reduced to it, the middle
            square taken.  ``None``: all have one size already.
        grey: Whether they are read in grey, rather than RGB.
        white_level: Value of a pixel of 16 bits that is white; ``None`` finds it, see `white_level_of`.
        broken: "skip" leaves files that cannot be read out and counts them; with "error" all are named.
        group: Which images are never in two splits: a regular expression with one group in it, whose text is the
            group of the file (searched in its name below ``path``); or a CSV file with the columns file and group.
        cache: Folder to keep the decoded pixels in; ``None`` to decode at each start.
    """

    path: str | None = None
    size: int | None = None
    grey: bool = False
    white_level: int | None = None
    broken: str = "error"
    group: str | None = None
    cache: str | None = "data/cache"
    name: str = "image_folder"
    model: Mapping[str, Any] | None = None
    """`Decoding.plain` of a trained model that the rows are for; ``None``: there is no model yet."""

    def __post_init__(self) -> None:
        check("dataset.path", self.path, optional(text()))
        check("dataset.size", self.size, optional(whole(at_least=1)))
        check("dataset.grey", self.grey, flag())
        check("dataset.white_level", self.white_level, optional(whole(at_least=1, at_most=65535)))
        check("dataset.broken", self.broken, one_of(("error", "skip")))
        check("dataset.split.group", self.group, optional(column_name()))
        check("dataset.cache", self.cache, optional(text()))

    def read(self) -> RawData:
        """The images as rows of pixels, classes and rows in order.

        Raises:
            DatasetNotFoundError: There is no such folder.
            DataError: It is laid out otherwise, or an image is broken or of another size than the rest.
            ConfigError: ``path`` is not given, or ``cache`` cannot be written to.
        """
        listing, files = self._list()
        kept = cached(self.cache, self.name, listing.key, lambda: self._decode(files))
        tables = {}
        for split, members in files.items():
            rows = kept.tensors[f"{split}.rows"]
            labels = torch.tensor([file.label for file in members])[rows]
            groups = listing.groups[split][rows] if listing.groups else None
            tables[split] = Table(kept.tensors[f"{split}.pixels"].flatten(1), labels, groups=groups)
        decoding = Decoding(**kept.facts["decoding"])
        return RawData(
            tables,
            class_names=listing.class_names,
            image_shape=tuple(kept.tensors["train.pixels"].shape[1:]),
            scale=1 / decoding.white,
            source=listing.source,
            notes=(*listing.notes, *kept.facts["notes"]),
            pixels=decoding.plain,
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
        groups, hint = self._groups(files)
        # Archives give files of two folders the same sizes and times, so the folder is part of what they are.
        key = {
            "folder": str(root.resolve()),
            "files": {split: [file[:3] for file in members] for split, members in files.items()},
        }
        notes: tuple[str, ...] = ()
        if others:
            what = "1 file that is no image" if len(others) == 1 else f"{len(others):,} files that are no images"
            notes = (f"left out {what}: {others[0]}" + (", ..." if len(others) > 1 else ""),)
        asked = {"size": self.size, "grey": self.grey, "white_level": self.white_level, "broken": self.broken}
        listing = Listing(
            key={**key, **asked, "model": self.model, "reading": READING},
            class_names=class_names,
            grey=self.grey,
            open=lambda: self._open(files),
            size=self.size,
            source=root.resolve().name,
            notes=(*notes, *hint),
            groups=groups,
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
                class_names = tuple(classes := in_order(classes))
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
                for below_class, entry in files_below(root / below / name):
                    file = "/".join(part for part in (below, name, below_class) if part)
                    if is_image(file):
                        # what is no file, such as a link to itself, is named with those that cannot be read
                        status = entry.stat() if os.path.isfile(entry.path) else None  # noqa: PTH113  # no Path is made
                        size, changed = (status.st_size, status.st_mtime_ns) if status else (0, 0)
                        images.append(_File(file, size, changed, class_names.index(name)))
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

    def _groups(self, files: Mapping[Split, Sequence[_File]]) -> tuple[dict[Split, Tensor], tuple[str, ...]]:
        """The group of each image in each split, and a word where there should perhaps be groups.

        Raises:
            ConfigError: The pattern or the file of groups is none.
            DataError: An image has no group.
        """
        every = [file.name for members in files.values() for file in members]
        if self.group is None:
            return {}, _hint(every) if files.keys() == {"train"} else ()
        given = str(self.group)
        is_file = given.lower().endswith((".csv", ".tsv"))
        group_of = _listed_groups(given) if is_file else _pattern(given)
        groups = [group_of(file) for file in every]
        if lacking := [file for file, group in zip(every, groups, strict=True) if group is None]:
            shown = ", ".join(lacking[:3]) + (" and so on" if len(lacking) > 3 else "")
            advice = "Add a line for each." if is_file else "Write an expression that is found in each of these names."
            raise DataError(
                f"`dataset.split.group={given}` must give each image a group, and gives none to {len(lacking):,} of "
                f"{len(every):,}: {shown}. {advice}"
            )
        code = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        parts = torch.tensor([code[group] for group in groups]).split([len(members) for members in files.values()])
        return dict(zip(files, parts, strict=True)), ()

    def _open(self, files: Mapping[Split, list[_File]]) -> Opened:
        """The images of each split, ready to be decoded."""
        every = [self._root / file.name for members in files.values() for file in members]
        decoding, found = Decoding(self.size, self.grey), Found()
        if self.model is not None:
            decoding = Decoding.of(self.model, self.size, self.grey)
        elif level := white_level_of(every):
            decoding = replace(decoding, white_level=self.white_level or level)

        def image(members: list[_File], row: int, at_least: int) -> Image:
            file = members[row].name
            return open_image(self._root / file, decoding, at_least, found, file)

        splits = {
            split: ImageSplit(
                torch.tensor([file.label for file in members]),
                partial(image, members),
                [file.name for file in members],
            )
            for split, members in files.items()
        }
        return Opened(splits, f"dataset.path={self.path}", decoding, found, self.broken == "skip")

    def _decode(self, files: Mapping[Split, list[_File]]) -> Cached:
        """Of each split the rows that could be read, shape (N,), and their pixels, shape (N, H, W) or (N, 3, H, W)."""
        opened = self._open(files)
        rows: dict[Split, list[int]] = {split: [] for split in files}
        stack, count, first = torch.empty(0), 0, ""

        with closing(opened.decoded(lambda image: pixels_of(image, opened.decoding), "decoding")) as images:
            for split, row, image in images:
                name = files[split][row].name
                if not count:
                    stack = torch.empty(sum(map(len, files.values())), *image.shape, dtype=image.dtype)
                    first = name
                if image.shape != stack.shape[1:]:
                    raise DataError(
                        f"`dataset.path` must hold images of one size, got {first} of {_size(stack[0])} and "
                        f"{name} of {_size(image)} pixels. Set dataset.size=32 to bring all to one size."
                    )
                stack[count] = image
                rows[split].append(row)
                count += 1
        tensors = {f"{split}.rows": torch.tensor(taken, dtype=torch.int64) for split, taken in rows.items()}
        parts = stack[:count].split([len(taken) for taken in rows.values()])
        tensors |= {f"{split}.pixels": part for split, part in zip(rows, parts, strict=True)}
        return Cached(tensors, {"decoding": asdict(opened.decoding), "notes": opened.found.notes(opened.decoding)})


def in_order(classes: Iterable[str]) -> list[str]:
    """Names in the order of the alphabet; if all are numbers, by their value: 2 before 10."""
    names = sorted(classes)
    if all(re.fullmatch(NUMBER, name) for name in names):
        names.sort(key=float)
    return names


def _folders(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, but hidden ones, in the order of the alphabet."""
    entries = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)]
    names = [sorted(entry.name for entry in entries if is_folder(entry) == wanted) for wanted in (True, False)]
    return names[0], names[1]


def _pattern(given: str) -> Callable[[str], str | None]:
    """The group of a file by a regular expression; ``None`` where it does not match.

    Raises:
        ConfigError: It is none, or has no group in it, or several.
    """
    must = "be a regular expression with one group in brackets, such as ([^/]+)_[0-9]+, or a .csv file"
    try:
        pattern = re.compile(given)
    except re.error as error:
        raise ConfigError.broken("dataset.split.group", must, given, f"It is none: {error}.") from error
    if pattern.groups != 1:
        advice = "Write (?:...) for the others." if pattern.groups else "Put what names the subject in brackets."
        raise ConfigError.broken("dataset.split.group", must, given, advice)

    def group_of(file: str) -> str | None:
        match = pattern.search(file)
        return match[1] if match else None

    return group_of


def _listed_groups(given: str) -> Callable[[str], str | None]:
    """The group of a file by a table with the columns file and group; ``None`` where it has no line.

    A file may stand there under its whole name below ``dataset.path`` or without some of the folders in front.

    Raises:
        ConfigError: There is no such table, or a file stands in it with two groups.
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
        raise ConfigError(f"{key} must be a table that can be read: {reason}. Paths start where you stand.") from error
    listed: dict[str, str] = {}
    for name, group in lines:
        if group and listed.setdefault(name.replace("\\", "/").removeprefix("./"), group) != group:
            raise ConfigError(f"{key} must give each file one group, and {name} has two. Remove one of its lines.")

    def group_of(file: str) -> str | None:
        parts = file.split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((listed[tail] for tail in tails if tail in listed), None)

    return group_of


def _hint(files: Sequence[str]) -> tuple[str, ...]:
    """A word on files that are numbered anew for each of many subjects: p07_0.png, p07_1.png, ..., p08_0.png, ...

    Names that are numbered through (cat_001.jpg) or carry a time (IMG_20240131_101502.jpg) do not count as such.
    """
    numbers: dict[str, set[int]] = defaultdict(set)
    for file in files:
        if match := re.search(SERIES, file):
            numbers[match[1]].add(int(match[2]))
    series = {
        name: found
        for name, found in numbers.items()
        if found in (set(range(len(found))), set(range(1, len(found) + 1)))
    }
    of_several = sum(len(found) for found in series.values() if len(found) > 1)
    if len(series) < 10 or of_several < 0.9 * len(files):
        return ()
    return (
        f"the names look like {len(series):,} subjects with several images each ({files[0]}), of which some may be in "
        f"train and others in test; to keep them together: 'dataset.split.group=\"{SUBJECT}\"'",
    )


def _size(pixels: Tensor) -> str:
    height, width = pixels.shape[-2:]
    return f"{width} x {height}"
