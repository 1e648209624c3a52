"""Pictures: what every source of them offers, which files are some, and files to pixels on all cores."""

from __future__ import annotations

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from logreg.data.base import RawData
from logreg.errors import DataError, name_list
from logreg.facts import Split
from logreg.hardware import usable_cores
from logreg.terminal import terminal

if TYPE_CHECKING:
    from PIL.Image import Image


EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""Of files that are images: torchvision's list, and Keras's GIF."""

DEEP_EXTENSIONS = (".png", ".pgm", ".tif", ".tiff")
"""Of files that may have 16 bits a pixel."""

SYSTEM_NAMES = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),  # network drives
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    "lost+found",
}
"""Files and folders that operating systems and network drives put beside pictures, in lower case."""

CHUNK = 16
"""Images that a thread takes at once."""

DEPTHS = (8, 10, 12, 14, 16)
"""Bits a pixel that cameras and scanners have; all but the first write files of 16."""

FEW_FILES = 20
"""Files that one message names."""

WHITE = 255
"""Grey of the background that transparent parts are shown on."""

T = TypeVar("T")


class UnreadableImageError(DataError):
    """A file that is no image, is cut off, or has pixels of a kind that is not read; says why."""


@dataclass(frozen=True)
class Decoding:
    """How the file of an image becomes pixels: the same for all images of a model.

    Attributes:
        size: Side that the shorter side is reduced to; the square in the middle is taken. ``None``: as they are.
        grey: Whether they are made grey, rather than RGB.
        white_level: Value of a pixel of 16 bits that is served as 1; 0 where all images have 8 bits.
        background: Grey that transparent parts are shown on.  ``None`` is for models from before they kept this:
            transparency is dropped, and 16 bits are reduced to the upper 8.
    """

    size: int | None = None
    grey: bool = False
    white_level: int = 0
    background: int | None = WHITE

    @classmethod
    def of(cls, kept: Mapping[str, Any], size: int | None = None, grey: bool = False) -> Decoding:
        """That of a trained model, from what `plain` made; nothing was kept by older ones."""
        return cls(size, grey, kept.get("white_level", 0), kept.get("background"))

    @property
    def plain(self) -> dict[str, Any]:
        """What a model keeps of it besides the config."""
        return {"white_level": self.white_level, "background": self.background}

    @property
    def white(self) -> int:
        """Pixels divided by this are in [0, 1]."""
        return self.white_level or 255


@dataclass
class Found:
    """What was met while images were decoded, by many threads: file names under each heading."""

    transparent: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)
    """Files with several frames or pages."""
    deep: list[str] = field(default_factory=list)
    """Grey images of 16 bits a pixel."""
    deep_colors: list[str] = field(default_factory=list)
    """Images of 16 bits a color channel, of which Pillow reads 8."""
    broken: list[str] = field(default_factory=list)

    def notes(self, decoding: Decoding) -> tuple[str, ...]:
        """A sentence for each heading that has files."""
        white = decoding.white_level
        said = {
            "broken": "cannot be read, left out",
            "transparent": "with transparent parts, shown on white",
            "several": "with several frames or pages, of which the first is taken",
            "deep": f"of 16 bits a pixel, with white at {white:,} (set another with dataset.white_level)"
            if white
            else "of 16 bits a pixel, reduced to the upper 8",
            "deep_colors": "of 16 bits a color, of which the upper 8 are read",
        }
        notes = []
        for heading, words in said.items():
            if names := sorted(getattr(self, heading)):
                count = "1 image" if len(names) == 1 else f"{len(names):,} images"
                notes.append(f"{count} {words}: {names[0]}" + (", ..." if len(names) > 1 else ""))
        return tuple(notes)


@dataclass(frozen=True)
class ImageSplit:
    """The images of one split, each decoded when it is asked for."""

    labels: Tensor
    """Shape (N,), int64, in [0, C)."""
    image: Callable[[int, int], Image]
    """The image of a row, as `open_image` gives it; its shorter side may be reduced, but to no less than twice
    the second argument.  Raises UnreadableImageError."""
    names: Sequence[str] = ()
    """Of the files, N of them, where each image is one."""


@dataclass(frozen=True)
class Opened:
    """The images of all splits, and what is met while they are decoded."""

    splits: Mapping[Split, ImageSplit]
    """At least train."""
    where: str = ""
    """What the user typed to name the folder of the files, where they are files."""
    decoding: Decoding = Decoding()
    found: Found = field(default_factory=Found)
    skip_broken: bool = False
    """Whether a file that cannot be read is left out, rather than an error."""

    def decoded(
        self, work: Callable[[Image], T], doing: str, at_least: int = 0
    ) -> Generator[tuple[Split, int, T], None, None]:
        """Split, row and what ``work`` makes of each image that can be read, in order, on all cores.

        Args:
            work: Takes an image, as `open_image` gives it.
            doing: What a user at a terminal reads beside the progress bar.
            at_least: As for `open_image`.

        Raises:
            DataError: Files cannot be read, and shall not be left out; names all of them.
        """
        every = [(split, row) for split, images in self.splits.items() for row in range(len(images.labels))]
        names = [
            images.names[row] if images.names else ""
            for images in self.splits.values()
            for row in range(len(images.labels))
        ]

        def made(number: int) -> T:
            split, row = every[number]
            return work(self.splits[split].image(row, at_least))

        with closing(decoded(made, names, self.where, doing, self.found if self.skip_broken else None)) as results:
            for number, result in results:
                yield (*every[number], result)


@dataclass(frozen=True)
class Listing:
    """What there is, found without a look at any pixel."""

    key: Mapping[str, Any]
    """Plain values that change when an image, or how it is read, does."""
    class_names: tuple[str, ...]
    grey: bool
    open: Callable[[], Opened]
    size: int | None = None
    """Side that images are brought to; ``None``: they are as they are."""
    source: str = ""
    notes: tuple[str, ...] = ()
    groups: Mapping[Split, Tensor] = field(default_factory=dict)
    """Group of each image, shape (N,), int64, of each split; empty: there are no groups."""


@runtime_checkable
class ImageSource(Protocol):
    """A dataset of images."""

    @property
    def name(self) -> str:
        """As the user selects it."""

    @property
    def cache(self) -> str | None:
        """Folder of what was decoded before; ``None`` for none."""

    def read(self) -> RawData:
        """The images as rows of pixels."""

    def listing(self) -> Listing:
        """What there is."""


def files_below(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files in a folder and the folders in it, under their names below it, but what `is_hidden` says.

    Links are followed, once: not back into a folder that they lie in.
    """

    def walk(place: Path, name: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        status = place.stat()
        if (here := (status.st_dev, status.st_ino)) in above:
            return
        for entry in list(os.scandir(place)):
            if is_hidden(entry.name):
                continue
            if is_folder(entry):
                yield from walk(place / entry.name, f"{name}{entry.name}/", above | {here})
            else:
                yield name + entry.name, entry

    yield from walk(folder, "", frozenset())


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or is none of the user's: thumbnails, recycle bins, resource forks."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_image(name: str) -> bool:
    """Whether a file is an image, by its name."""
    return name.lower().endswith(EXTENSIONS)


def open_image(
    file: Path, decoding: Decoding = Decoding(), at_least: int = 0, found: Found | None = None, name: str = ""
) -> Image:
    """An image from a file, upright, its transparent parts on the background, of several frames the first.

    Args:
        file: Any of ``EXTENSIONS``.
        decoding: What is made of it.
        at_least: A JPEG may be decoded at a half, a quarter or an eighth, as long as its shorter
            side is at least twice this; 0 for all of it.
        found: Takes the name where there is something to say of it.
        name: What it takes.

    Returns:
        Of bytes in RGB or grey; or, if ``white_level`` is set and the file has 16 bits a pixel, of floats in grey
        whose values are those of the file.

    Raises:
        UnreadableImageError: The file is broken, or has pixels of an unusual kind; without its name.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    found = found or Found()
    mode = "L" if decoding.grey else "RGB"
    if not file.is_file():  # a pipe would be waited for
        raise UnreadableImageError("it is no file")
    try:
        with Image.open(file) as opened:
            # At twice the size, Pillow says, the reduction cannot be told from a full one.
            if wanted := 2 * (decoding.size or at_least):
                opened.draft(mode, (wanted, wanted))
            if getattr(opened, "is_animated", False) and opened.format != "MPO":  # a camera's JPEG with its preview
                found.several.append(name)
            if opened.mode in ("LA", "RGB", "RGBA") and any(";16" in str(tile.args) for tile in opened.tile):
                found.deep_colors.append(name)
            image: Image.Image = opened
            ImageOps.exif_transpose(image, in_place=True)
            if is_deep(image):
                pixels, deep = deep_pixels(image), decoding.white_level > 0
                if not deep and decoding.background is not None:
                    raise ValueError("it has 16 bits a pixel, and the images of train have 8: save it with 8")
                found.deep.append(name)
                image = Image.fromarray(pixels.astype(np.float32) if deep else (pixels >> 8).astype(np.uint8))
                image = image if deep else image.convert(mode)
            else:
                if decoding.background is not None and image.has_transparency_data:
                    layer = image.convert("RGBA")
                    if np.asarray(layer.getchannel("A")).min() < 255:
                        found.transparent.append(name)
                        below = Image.new("RGBA", layer.size, (decoding.background,) * 3 + (255,))
                        image = Image.alpha_composite(below, layer)
                image = image.convert(mode)
    except UnidentifiedImageError as error:
        empty = file.stat().st_size == 0
        raise UnreadableImageError("it is empty" if empty else "its content is no image") from error
    except Exception as error:  # whatever a decoder trips over, it is the file's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(reason.removesuffix(".")) from error
    if decoding.size is not None:
        image = ImageOps.fit(image, (decoding.size, decoding.size), Image.Resampling.BILINEAR)
    return image


def is_deep(image: Image) -> bool:
    """Whether an image, whose pixels need not be loaded, has more than 8 bits a pixel of grey."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def deep_pixels(image: Image) -> np.ndarray[Any, Any]:
    """The pixels of an image of 16 bits, in grey, shape (H, W), int64.

    Raises:
        ValueError: They are fractions, or do not lie in [0, 65535].
    """
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose white no file states: save it with 8 or 16 bits a pixel")
    pixels = np.asarray(image).astype(np.int64)
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 65535:
        raise ValueError(
            f"its pixels lie in [{pixels.min()}, {pixels.max()}], not in [0, 65535]: save it with 8 or 16 bits a pixel"
        )
    return pixels


def white_level_of(files: Sequence[Path]) -> int:
    """The white of all images of 16 bits together: the largest value of the fewest of ``DEPTHS`` that hold them.

    One for all files, as a darker one may be darker for its class.

    Returns:
        255, 1023, 4095, 16383 or 65535; 0 if no image has 16 bits a pixel.
    """
    from PIL import Image

    candidates = [file for file in files if file.name.lower().endswith(DEEP_EXTENSIONS) and file.is_file()]

    def largest(row: int) -> int:
        try:
            with Image.open(candidates[row]) as image:
                return max(1, int(deep_pixels(image).max())) if is_deep(image) else 0
        except Exception:  # it is named when it is decoded
            return 0

    with closing(in_threads(largest, len(candidates), "looking for images of 16 bits")) as found:
        brightest = max(found, default=0)
    return next(2**bits - 1 for bits in DEPTHS if brightest < 2**bits) if brightest else 0


def pixels_of(image: Image, decoding: Decoding = Decoding()) -> Tensor:
    """The pixels of an image: shape (H, W) if it is grey, (3, H, W) in RGB.

    Args:
        image: As `open_image` gives it.
        decoding: That it was opened with.

    Returns:
        uint8; with a ``white_level`` int32, which is the value of white.
    """
    pixels = np.asarray(image)
    if decoding.white_level:
        wide = pixels if image.mode == "F" else pixels * (decoding.white_level / 255)
        pixels = np.rint(wide).astype(np.int32)
    if image.mode == "F" and not decoding.grey:
        pixels = np.stack([pixels] * 3, axis=-1)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy() if pixels.ndim == 3 else pixels.copy())


def in_bytes(image: Image, decoding: Decoding) -> Image:
    """An image as `open_image` gives it, of bytes; what is brighter than white is white."""
    from PIL import Image

    if image.mode != "F":
        return image
    pixels = np.rint(np.asarray(image) * (255 / decoding.white_level)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("L" if decoding.grey else "RGB")


def decoded(
    work: Callable[[int], T], names: Sequence[str], where: str, doing: str, found: Found | None = None
) -> Generator[tuple[int, T], None, None]:
    """The rows whose image can be read, in order, each with what ``work`` makes of it, on all cores.

    Args:
        work: Decodes the image of a row; raises UnreadableImageError.
        names: Of the files.
        where: What the user typed to name their folder, for the error: ``dataset.path=birds``.
        doing: What a user at a terminal reads beside the progress bar.
        found: Takes the names of files that cannot be read, which are left out; ``None``: they are an error.

    Raises:
        DataError: Files cannot be read, or none can; names all of them, after a look at the last one.
    """

    def attempt(row: int) -> T | UnreadableImageError:
        try:
            return work(row)
        except UnreadableImageError as error:
            return error

    broken: dict[str, UnreadableImageError] = {}
    with closing(in_threads(attempt, len(names), doing)) as results:
        for row, result in enumerate(results):
            if isinstance(result, UnreadableImageError):
                broken[names[row]] = result
            elif found is not None or not broken:
                yield row, result
    if found is not None:
        found.broken.extend(broken)
    if broken and (found is None or len(broken) == len(names)):
        shown = name_list((f"{name} ({error})" for name, error in broken.items()), FEW_FILES)
        them = "it" if len(broken) == 1 else "them"
        skip = f" Set dataset.broken=skip to train without {them}." if where.startswith("dataset") and not found else ""
        raise DataError(
            f"`{where}` must hold images that can be read, and {len(broken):,} of {len(names):,} cannot: "
            f"{shown}. Mend or remove {them}.{skip}"
        ) from next(iter(broken.values()))


def in_threads(work: Callable[[int], T], count: int, doing: str) -> Generator[T, None, None]:
    """``work(0)``, ``work(1)``, ... in this order, done by as many threads as there are cores.

    Little is done ahead of the reader, so that what it does not keep never fills the memory.

    Args:
        work: Decodes; Pillow lets other threads run meanwhile.
        count: How often.
        doing: What a user at a terminal reads beside the progress bar.
    """
    if not sys.stderr.isatty():
        yield from _in_order(work, count)
        return
    from rich.progress import track

    yield from track(_in_order(work, count), doing, count, console=terminal(stderr=True), transient=True)


def _in_order(work: Callable[[int], T], count: int) -> Generator[T, None, None]:
    def chunk(start: int) -> list[T]:
        return [work(row) for row in range(start, min(start + CHUNK, count))]

    cores = usable_cores()
    ahead: deque[Future[list[T]]] = deque()
    with ThreadPoolExecutor(cores) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # it minds odd EXIF data of pictures that are fine
        try:
            for start in range(0, count, CHUNK):
                ahead.append(pool.submit(chunk, start))
                if len(ahead) > 2 * cores:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
