"""Pictures: what every source of them offers, and files to pixels on all cores."""

from __future__ import annotations

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from logreg.data.base import RawData
from logreg.errors import DataError
from logreg.facts import Split
from logreg.terminal import terminal

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of files that are images; torchvision's list."""

CHUNK = 16
"""Images that a thread takes at once."""

T = TypeVar("T")


@dataclass(frozen=True)
class ImageSplit:
    """The images of one split, each decoded when it is asked for."""

    labels: Tensor
    """Shape (N,), int64, in [0, C)."""
    image: Callable[[int, int], Image]
    """The image of a row, in RGB or grey; its shorter side may be reduced, but to no less than twice
    the second argument."""


@dataclass(frozen=True)
class Listing:
    """What there is, found without a look at any pixel."""

    key: Mapping[str, Any]
    """Plain values that change when an image, or how it is read, does."""
    class_names: tuple[str, ...]
    grey: bool
    open: Callable[[], Mapping[Split, ImageSplit]]
    """The splits, at least train."""
    size: int | None = None
    """Side that images are brought to; ``None``: they are as they are."""
    source: str = ""
    notes: tuple[str, ...] = ()


@runtime_checkable
class ImageSource(Protocol):
    """A dataset of images."""

    @property
    def name(self) -> str:
        """As the person selects it."""

    @property
    def cache(self) -> str | None:
        """Folder of what was decoded before; ``None`` for none."""

    def read(self) -> RawData:
        """The images as rows of pixels."""

    def listing(self) -> Listing:
        """What there is."""


def open_image(file: Path, size: int | None = None, grey: bool = False, at_least: int = 0) -> Image:
    """A picture from a file, upright.

    Args:
        file: Any of ``EXTENSIONS``.
        size: Reduces the shorter side to this and cuts the square in the middle out.
        grey: Whether to make it grey, rather than RGB.
        at_least: A JPEG may be decoded at a half, a quarter or an eighth, as long as its shorter
            side is at least twice this; 0 for all of it.

    Raises:
        DataError: The file is broken, or has pixels of an unusual kind.
    """
    from PIL import Image, ImageOps

    mode = "L" if grey else "RGB"
    try:
        with Image.open(file) as opened:
            wanted = 2 * (
                size or at_least
            )  # at twice the size, Pillow says, the reduction cannot be told from a full one
            if wanted:
                opened.draft(mode, (wanted, wanted))
            image: Image.Image = opened
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I;16"):  # Pillow would cut all above 255 off
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode in ("I", "F"):
                raise ValueError("its pixels are not of 8 or 16 bits")
            image = image.convert(mode)
    except Exception as error:  # whatever a decoder trips over, it is the file's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"`dataset.path` must hold images that can be read, and {file} cannot: {reason.removesuffix('.')}. "
            "Mend the file or take it out."
        ) from error
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return image


def pixels_of(image: Image) -> Tensor:
    """The bytes of an image: shape (H, W) if it is grey, (3, H, W) in RGB; uint8."""
    pixels = np.asarray(image)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy() if pixels.ndim == 3 else pixels.copy())


def in_threads(work: Callable[[int], T], count: int, doing: str) -> Generator[T, None, None]:
    """``work(0)``, ``work(1)``, ... in this order, done by as many threads as there are cores.

    Little is done ahead of the reader, so that what it does not keep never fills the memory.

    Args:
        work: Decodes; Pillow lets other threads run meanwhile.
        count: How often.
        doing: What a person at a terminal reads beside the progress bar.
    """
    if not sys.stderr.isatty():
        yield from _in_order(work, count)
        return
    from rich.progress import track

    yield from track(_in_order(work, count), doing, count, console=terminal(stderr=True), transient=True)


def _in_order(work: Callable[[int], T], count: int) -> Generator[T, None, None]:
    def chunk(start: int) -> list[T]:
        return [work(row) for row in range(start, min(start + CHUNK, count))]

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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
