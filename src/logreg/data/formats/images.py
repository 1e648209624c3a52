"""Reads image files: finds them, decodes them to pixels on all CPU cores, and names the ones that cannot be read.

Pillow decodes the files.  An image is turned upright by its EXIF orientation, transparent parts are composed onto a
background, and the first of several frames is taken.  Images of 16 bits per pixel keep all their values.

References:
    Pillow, image file formats, https://pillow.readthedocs.io/en/stable/handbook/image-file-formats.html
    W3C (2003), Portable Network Graphics (PNG) specification.
"""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
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
from logreg.terminal import counted, terminal

if TYPE_CHECKING:
    from PIL.Image import Image


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""Suffixes of image files: the list of torchvision, and GIF, which Keras also reads."""

SUFFIXES_OF_16_BITS = (".png", ".pgm", ".tif", ".tiff")
"""Suffixes of image files that may have 16 bits per pixel."""

IMAGES_PER_TASK = 16
"""Images that one task of a thread decodes: enough that starting a task costs little beside the decoding."""

BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Bits per pixel of cameras and scanners; their files have 16 bits per pixel for all depths but 8."""

MAX_REASON_LENGTH = 300
"""Number of characters of a file's name and the reason why it cannot be read."""

MAX_NAMED_FILES = 20
"""Number of files that one message names, so that it stays readable."""

OPAQUE_BACKGROUND = 255
"""Gray level of the background behind transparent parts: white, on which dark drawings stay visible."""

Output = TypeVar("Output")


class UnreadableImageError(DataError):
    """The file is not an image, is cut off, or has unsupported pixels; the message has the reason."""


@dataclass(frozen=True)
class DecodingOptions:
    """Options for the decoding of image files; all images of a model have the same options.

    Attributes:
        size: Side, in pixels, of the square that the middle of each image is reduced to; ``None`` keeps the size.
        grayscale: Whether images are converted to grayscale instead of RGB.
        white_level: Pixel value of 16-bit images that is white, which the model sees as 1; 0 if all images have 8 bits.
        background: Gray level, in [0, 255], behind transparent parts.  ``None`` is for models from before this option
            was stored: transparency is dropped, and 16 bits are reduced to the upper 8.
    """

    size: int | None = None
    grayscale: bool = False
    white_level: int = 0
    background: int | None = OPAQUE_BACKGROUND

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], size: int | None = None, grayscale: bool = False) -> DecodingOptions:
        """The options of a trained model.

        Args:
            facts: ``DataFacts.pixels`` of the model; empty for older models.
            size: See the attribute.
            grayscale: See the attribute.
        """
        return cls(size, grayscale, facts.get("white_level", 0), facts.get("background"))

    @property
    def facts(self) -> dict[str, Any]:
        """The options that a model stores besides its config, as ``DataFacts.pixels``."""
        return {"white_level": self.white_level, "background": self.background}

    @property
    def white_value(self) -> int:
        """Pixel value of white: pixels divided by it are in [0, 1]."""
        return self.white_level or 255


@dataclass
class DecodingReport:
    """Names of image files with properties that the user should know, gathered by many threads while they decode."""

    transparent: list[str] = field(default_factory=list)
    """Images with transparent parts."""
    multi_frame: list[str] = field(default_factory=list)
    """Images with several frames or pages."""
    gray_16_bits: list[str] = field(default_factory=list)
    """Grayscale images of 16 bits per pixel."""
    color_16_bits: list[str] = field(default_factory=list)
    """Color images of 16 bits per channel, of which Pillow reads the upper 8."""
    broken: list[str] = field(default_factory=list)
    """Images that cannot be read."""

    def notes(self, options: DecodingOptions) -> tuple[str, ...]:
        """A sentence for each property that some file has; ``options`` are those of the decoding."""
        white = options.white_level
        sentences = {
            "broken": "cannot be read, left out",
            "transparent": "with transparent parts, shown on white",
            "multi_frame": "with several frames or pages, of which the first is taken",
            "gray_16_bits": f"of 16 bits per pixel, with white at {white:,} (set another with dataset.white_level)"
            if white
            else "of 16 bits per pixel, reduced to the upper 8",
            "color_16_bits": "of 16 bits per color channel, of which the upper 8 are read",
        }
        notes = []
        for attribute, sentence in sentences.items():
            if names := sorted(getattr(self, attribute)):
                count = counted(len(names), "image")
                notes.append(f"{count} {sentence}: {names[0]}" + (", ..." if len(names) > 1 else ""))
        return tuple(notes)


@dataclass(frozen=True)
class ImageSplit:
    """The images of one split, each of which is decoded when it is requested."""

    labels: Tensor
    """Shape (N,), int64, in [0, C)."""
    image: Callable[[int, int], Image]
    """Returns the image of a row as `open_image` does, given the row and ``min_side``.

    Raises:
        UnreadableImageError: The file of the image cannot be read.
    """
    names: Sequence[str] = ()
    """Names of the files, N of them, where each image is a file."""


@dataclass(frozen=True)
class ImageDecoder:
    """Decodes the images of all splits."""

    splits: Mapping[Split, ImageSplit]
    """The images of each split; at least train."""
    typed: str = ""
    """Key and value that the user typed to name the folder, such as ``dataset.path=birds``; empty if there are no
    files."""
    options: DecodingOptions = DecodingOptions()
    report: DecodingReport = field(default_factory=DecodingReport)
    """Filled while images are decoded."""
    skip_broken: bool = False
    """Whether a file that cannot be read is left out, instead of raising an error."""

    def decode(
        self, transform: Callable[[Image], Output], progress_label: str, min_side: int = 0
    ) -> Generator[tuple[Split, int, Output], None, None]:
        """Decodes the images in order, on all cores.

        Args:
            transform: Is applied to each image, as `open_image` gives it.
            progress_label: Text beside the progress bar on a terminal.
            min_side: See `open_image`.

        Yields:
            Split, row in the split, and result of ``transform``, for each image that can be read.

        Raises:
            DataError: Some files cannot be read and ``skip_broken`` is false, or no file can be read.
        """
        positions = [(split, row) for split, images in self.splits.items() for row in range(len(images.labels))]
        names = [
            images.names[row] if images.names else ""
            for images in self.splits.values()
            for row in range(len(images.labels))
        ]

        def decode_one(position: int) -> Output:
            split, row = positions[position]
            return transform(self.splits[split].image(row, min_side))

        report = self.report if self.skip_broken else None
        with closing(decode_rows(decode_one, names, self.typed, progress_label, report)) as results:
            for position, output in results:
                yield (*positions[position], output)


@dataclass(frozen=True)
class ImageListing:
    """The images of a dataset, found without decoding any of them."""

    key: Mapping[str, Any]
    """Plain values that change when an image, or the way it is decoded, changes: a key of the cache."""
    class_names: tuple[str, ...]
    grayscale: bool
    """Whether images are grayscale."""
    make_decoder: Callable[[], ImageDecoder]
    size: int | None = None
    """Side, in pixels, that images are reduced to; ``None`` keeps the size."""
    source: str = ""
    """See ``RawData.source``."""
    notes: tuple[str, ...] = ()
    """See ``RawData.notes``."""
    groups: Mapping[Split, Tensor] = field(default_factory=dict)
    """Group of each image of each split, shape (N,), int64; empty without groups."""


@runtime_checkable
class ImageSource(Protocol):
    """A dataset of images."""

    @property
    def name(self) -> str:
        """The name that the user selects the dataset by."""

    @property
    def cache(self) -> str | None:
        """Folder of the cache for decoded images; ``None`` without a cache."""

    def read(self) -> RawData:
        """The images as rows of pixels."""

    def list_images(self) -> ImageListing:
        """The images, without decoding them."""


# Decoding of one image


def open_image(
    file: Path,
    options: DecodingOptions = DecodingOptions(),
    min_side: int = 0,
    report: DecodingReport | None = None,
    name: str = "",
) -> Image:
    """Decodes an image file.

    Args:
        file: A file with one of ``IMAGE_SUFFIXES``.
        options: The decoding options.
        min_side: A JPEG file may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side
            has at least twice this many pixels; 0 decodes all pixels.
        report: Gets the name of the file where the user should know something about it.
        name: The name for the report.

    Returns:
        An upright image of 8 bits per channel, in RGB or grayscale.  If ``white_level`` is set and the file has 16 bits
        per pixel: a grayscale image of floats with the values of the file.

    Raises:
        UnreadableImageError: The file is broken, or has pixels of a kind that is not read.  The message does not name
            the file.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    report = report or DecodingReport()
    mode = "L" if options.grayscale else "RGB"
    if not file.is_file():  # opening a pipe would wait forever
        raise UnreadableImageError("it is not a file")
    try:
        with Image.open(file) as opened:
            # Pillow: the result of a reduction from twice the size does not visibly differ from a full reduction.
            if draft_side := 2 * (options.size or min_side):
                opened.draft(mode, (draft_side, draft_side))
            # The further frames of an MPO file are previews that a camera stores in its JPEG.
            if getattr(opened, "is_animated", False) and opened.format != "MPO":
                report.multi_frame.append(name)
            if opened.mode in ("LA", "RGB", "RGBA") and any(";16" in str(tile.args) for tile in opened.tile):
                report.color_16_bits.append(name)
            ImageOps.exif_transpose(opened, in_place=True)
            if has_16_bits(opened):
                image = _decode_16_bits(opened, options, report, name)
            else:
                image = _compose(opened, options, report, name).convert(mode)
    except UnidentifiedImageError as error:
        is_empty = file.stat().st_size == 0
        raise UnreadableImageError("it is empty" if is_empty else "its content is not an image") from error
    except Exception as error:  # decoders raise exceptions of many kinds for a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(reason.removesuffix(".")) from error
    if options.size is not None:
        image = ImageOps.fit(image, (options.size, options.size), Image.Resampling.BILINEAR)
    return image


def _decode_16_bits(image: Image, options: DecodingOptions, report: DecodingReport, name: str) -> Image:
    """An image of 16 bits per pixel as floats, or reduced to 8 bits for models from before ``background`` was stored.

    Raises:
        ValueError: The images of train have 8 bits, so that nothing states the white level.
    """
    from PIL import Image as PillowImage

    pixels = read_16_bits(image)
    if options.white_level > 0:
        report.gray_16_bits.append(name)
        return PillowImage.fromarray(pixels.astype(np.float32))
    if options.background is not None:
        raise ValueError("it has 16 bits per pixel, and the images of train have 8: save it with 8")
    report.gray_16_bits.append(name)
    return PillowImage.fromarray((pixels >> 8).astype(np.uint8)).convert("L" if options.grayscale else "RGB")


def _compose(image: Image, options: DecodingOptions, report: DecodingReport, name: str) -> Image:
    """An image of 8 bits per channel with its transparent parts on the background."""
    from PIL import Image as PillowImage

    if options.background is None or not image.has_transparency_data:
        return image
    foreground = image.convert("RGBA")
    if np.asarray(foreground.getchannel("A")).min() == 255:
        return image
    report.transparent.append(name)
    background = PillowImage.new("RGBA", foreground.size, (options.background,) * 3 + (255,))
    return PillowImage.alpha_composite(background, foreground)


def has_16_bits(image: Image) -> bool:
    """Whether an image, whose pixels need not be loaded, is grayscale with more than 8 bits per pixel."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def read_16_bits(image: Image) -> np.ndarray[Any, Any]:
    """The pixels of a grayscale image of 16 bits per pixel, shape (H, W), int64.

    Raises:
        ValueError: The pixels are floats, or some lie outside of [0, 65535].
    """
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose white level no file states: save it with 8 or 16 bits per pixel")
    pixels = np.asarray(image).astype(np.int64)
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 65535:
        raise ValueError(
            f"its pixels lie in [{pixels.min()}, {pixels.max()}], not in [0, 65535]: "
            "save it with 8 or 16 bits per pixel"
        )
    return pixels


def find_white_level(files: Sequence[Path]) -> int:
    """The white level of all 16-bit images together: the largest value of the smallest bit depth that holds them.

    All files have one white level, since the brightness of a file may depend on its class.

    Returns:
        255, 1023, 4095, 16383 or 65535; 0 if no image has 16 bits per pixel.
    """
    from PIL import Image

    candidates = [file for file in files if file.name.lower().endswith(SUFFIXES_OF_16_BITS) and file.is_file()]

    def largest_value(position: int) -> int:
        try:
            with Image.open(candidates[position]) as image:
                return max(1, int(read_16_bits(image).max())) if has_16_bits(image) else 0
        except Exception:  # a broken file is named when it is decoded
            return 0

    with closing(map_in_threads(largest_value, len(candidates), "looking for images of 16 bits")) as values:
        brightest = max(values, default=0)
    return next(2**bits - 1 for bits in BIT_DEPTHS if brightest < 2**bits) if brightest else 0


def image_to_tensor(image: Image, options: DecodingOptions = DecodingOptions()) -> Tensor:
    """The pixels of an image.

    Args:
        image: An image as `open_image` gives it.
        options: The options that the image was opened with.

    Returns:
        Shape (H, W) for grayscale, (3, H, W) for RGB.  uint8 without a white level; else int32, scaled so that white is
        the white level.
    """
    pixels = np.asarray(image)
    if options.white_level:
        scaled = pixels if image.mode == "F" else pixels * (options.white_level / 255)
        pixels = np.rint(scaled).astype(np.int32)
    if image.mode == "F" and not options.grayscale:
        pixels = np.stack([pixels] * 3, axis=-1)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy() if pixels.ndim == 3 else pixels.copy())


def to_8_bits(image: Image, options: DecodingOptions) -> Image:
    """An image, as `open_image` gives it, with 8 bits per channel; values above the white level become white."""
    from PIL import Image

    if image.mode != "F":
        return image
    pixels = np.rint(np.asarray(image) * (255 / options.white_level)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("L" if options.grayscale else "RGB")


# Decoding of many images


def decode_rows(
    decode: Callable[[int], Output],
    names: Sequence[str],
    typed: str,
    progress_label: str,
    report: DecodingReport | None = None,
) -> Generator[tuple[int, Output], None, None]:
    """Decodes the images of all rows in order, on all cores.

    Args:
        decode: Decodes the image of a row; raises UnreadableImageError.
        names: Name of the file of each row.
        typed: Key and value that the user typed to name the folder, such as ``dataset.path=birds``.
        progress_label: Text beside the progress bar on a terminal.
        report: Gets the names of the files that cannot be read, which are left out; ``None`` makes them an error.

    Yields:
        Row and result of ``decode`` for each image that can be read.  Without a report, no row after the first that
        cannot be read.

    Raises:
        DataError: Some files cannot be read and there is no report, or no file can be read.  The message names all of
            them, since it is raised after the last file.
    """

    def decode_or_error(row: int) -> Output | UnreadableImageError:
        try:
            return decode(row)
        except UnreadableImageError as error:
            return error

    broken: dict[str, UnreadableImageError] = {}
    with closing(map_in_threads(decode_or_error, len(names), progress_label)) as results:
        for row, result in enumerate(results):
            if isinstance(result, UnreadableImageError):
                broken[names[row]] = result
            elif report is not None or not broken:
                yield row, result
    if report is not None:
        report.broken.extend(broken)
    if broken and (report is None or len(broken) == len(names)):
        raise _broken_files_error(broken, len(names), typed, report) from next(iter(broken.values()))


def _broken_files_error(
    broken: Mapping[str, UnreadableImageError], num_files: int, typed: str, report: DecodingReport | None
) -> DataError:
    named = name_list(
        (f"{name} ({error})" for name, error in broken.items()), MAX_NAMED_FILES, longest=MAX_REASON_LENGTH
    )
    them = "it" if len(broken) == 1 else "them"
    advice = f" Set dataset.broken=skip to train without {them}." if typed.startswith("dataset") and not report else ""
    return DataError(
        f"`{typed}` must hold images that can be read, and {len(broken):,} of {num_files:,} cannot: "
        f"{named}. Fix or remove {them}.{advice}"
    )


def map_in_threads(function: Callable[[int], Output], count: int, progress_label: str) -> Generator[Output, None, None]:
    """``function(0)``, ``function(1)``, ... in this order, computed by as many threads as there are cores.

    The threads stay only a few tasks ahead of the reader, so that memory stays bounded.

    Args:
        function: Decodes an image; Pillow releases Python's global lock meanwhile.
        count: Number of calls.
        progress_label: Text beside the progress bar on a terminal.
    """
    if not sys.stderr.isatty():
        yield from _ordered_map(function, count)
        return
    from rich.progress import track

    yield from track(
        _ordered_map(function, count), progress_label, count, console=terminal(stderr=True), transient=True
    )


def _ordered_map(function: Callable[[int], Output], count: int) -> Generator[Output, None, None]:
    def run_task(start: int) -> list[Output]:
        return [function(number) for number in range(start, min(start + IMAGES_PER_TASK, count))]

    cores = usable_cores()
    pending: deque[Future[list[Output]]] = deque()
    with ThreadPoolExecutor(cores) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # Pillow warns of odd EXIF data in images that it reads well
        try:
            for start in range(0, count, IMAGES_PER_TASK):
                pending.append(pool.submit(run_task, start))
                if len(pending) > 2 * cores:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
