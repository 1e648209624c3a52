"""Every kind of image file is decoded to the right pixels, or refused with the reason."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from logreg.data.formats.images import (
    DecodingOptions,
    DecodingReport,
    UnreadableImageError,
    decode_rows,
    find_white_level,
    image_to_tensor,
    open_image,
    to_8_bits,
)
from logreg.errors import DataError

COLOR = (10, 200, 30)
GRAY = 97
"""A gray level that is not the mean of `COLOR`."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits: int, kind: int, row: bytes, *extra: bytes, width: int = 1) -> bytes:
    """A PNG of one row, by its specification, since Pillow writes only some kinds of PNG."""
    header = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def on_white(color: Any, alpha: int) -> list[int]:
    return [round(255 + (value - 255) * alpha / 255) for value in color]


def palette(alpha: int) -> Image.Image:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, *COLOR])
    image.info["transparency"] = bytes([0, alpha])
    return image


RGBA, CLEAR, SOLID = (Image.new("RGBA", (1, 1), (*COLOR, alpha)) for alpha in (100, 0, 255))

KINDS: dict[str, tuple[str, Any, list[int] | str, str]] = {
    # name: suffix, image or bytes, the right color or the start of the error, the list of the report with the file
    "gray": (".png", Image.new("L", (1, 1), GRAY), [GRAY] * 3, ""),
    "color": (".png", Image.new("RGB", (1, 1), COLOR), list(COLOR), ""),
    "1 bit, black": (".png", Image.new("1", (1, 1), 0), [0] * 3, ""),
    "1 bit, white": (".tif", Image.new("1", (1, 1), 1), [255] * 3, ""),
    "1 bit, transparent": (".png", png(1, 0, b"\x00", chunk(b"tRNS", b"\0\0")), [255] * 3, "transparent"),
    "2 bits": (".png", png(2, 0, b"\x80"), [170] * 3, ""),
    "4 bits": (".png", png(4, 0, b"\x30"), [51] * 3, ""),
    "palette": (".png", palette(255), list(COLOR), ""),
    "palette, transparent": (".png", palette(100), on_white(COLOR, 100), "transparent"),
    "color, partly transparent": (".png", RGBA, on_white(COLOR, 100), "transparent"),
    "color, transparent": (".png", CLEAR, [255] * 3, "transparent"),
    "color with alpha, opaque": (".png", SOLID, list(COLOR), ""),
    "color with alpha, TIFF": (".tif", RGBA, on_white(COLOR, 100), "transparent"),
    "color with alpha, WebP": (".webp", CLEAR, [255] * 3, "transparent"),
    "color, one value transparent": (
        ".png",
        png(8, 2, bytes(COLOR), chunk(b"tRNS", struct.pack(">3H", *COLOR))),
        [255] * 3,
        "transparent",
    ),
    "color, another value transparent": (
        ".png",
        png(8, 2, bytes(COLOR), chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))),
        list(COLOR),
        "",
    ),
    "gray with alpha": (".png", Image.new("LA", (1, 1), (GRAY, 100)), on_white([GRAY] * 3, 100), "transparent"),
    "gray, one value transparent": (
        ".png",
        png(8, 0, bytes([GRAY]), chunk(b"tRNS", struct.pack(">H", GRAY))),
        [255] * 3,
        "transparent",
    ),
    "inks": (".tif", Image.new("CMYK", (1, 1), (255, 0, 0, 0)), [0, 255, 255], ""),
    "inks, JPEG": (".jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 0)), [255] * 3, ""),
    "GIF": (".gif", Image.new("P", (1, 1), 0), [0] * 3, ""),
    "16 bits of color": (".png", png(16, 2, struct.pack(">3H", 2560, 51200, 7680)), list(COLOR), "color_16_bits"),
    "16 bits of gray": (".png", Image.fromarray(np.full((1, 1), 1000, np.uint16)), "it has 16 bits per pixel, and", ""),
    "floats": (".tif", Image.new("F", (1, 1), 0.5), "its pixels are floats, whose white level no file states", ""),
    "32 bits": (".tif", Image.new("I", (1, 1), -5), r"its pixels lie in \[-5, -5\], not in \[0, 65535\]", ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    suffix, content, right, noted = KINDS[kind]
    file = tmp_path / f"x{suffix}"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        content.save(file, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    report = DecodingReport()
    if isinstance(right, str):
        with pytest.raises(UnreadableImageError, match=f"^{right}"):
            open_image(file, report=report)
        return
    pixels = image_to_tensor(open_image(file, report=report, name="x"))
    assert pixels.dtype == torch.uint8
    np.testing.assert_allclose(pixels[:, 0, 0].tolist(), right, atol=1)  # Pillow composes in 8 bits
    assert {heading for heading, names in vars(report).items() if names} == ({noted} if noted else set())
    grayscale = image_to_tensor(open_image(file, DecodingOptions(grayscale=True)))[0, 0]
    assert abs(int(grayscale) - (0.299 * right[0] + 0.587 * right[1] + 0.114 * right[2])) <= 1  # ITU-R 601-2


def test_older_models_drop_transparency(tmp_path: Path) -> None:
    CLEAR.save(tmp_path / "x.png")
    report = DecodingReport()
    assert image_to_tensor(
        open_image(tmp_path / "x.png", DecodingOptions.from_facts({}), report=report)
    ).flatten().tolist() == list(COLOR)
    assert report == DecodingReport()


@pytest.mark.parametrize(("suffix", "how"), [(".gif", {}), (".webp", {"lossless": True}), (".png", {}), (".tif", {})])
def test_the_first_of_several_frames_is_taken_and_noted(suffix: str, how: dict[str, Any], tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in (COLOR, (250, 0, 0), (0, 0, 250))]
    frames[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:], **how)
    report = DecodingReport()
    assert image_to_tensor(open_image(tmp_path / f"x{suffix}", report=report, name="x"))[:, 0, 0].tolist() == list(
        COLOR
    )
    assert report.multi_frame == ["x"]
    assert report.notes(DecodingOptions()) == ("1 image with several frames or pages, of which the first is taken: x",)
    frames[0].save(tmp_path / f"one{suffix}", **how)
    open_image(tmp_path / f"one{suffix}", report=report, name="one")
    assert report.multi_frame == ["x"]


# 16 bits


def deep(file: Path, *values: int) -> Path:
    Image.fromarray(np.array([values], np.uint16)).save(file)
    return file


@pytest.mark.parametrize(
    ("brightest", "white"),
    [(200, 255), (256, 1023), (2013, 4095), (4095, 4095), (4096, 16383), (16384, 65535), (65535, 65535), (0, 255)],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_white_level_is_the_one_of_the_smallest_bit_depth_that_holds_all_files(
    brightest: int, white: int, suffix: str, tmp_path: Path
) -> None:
    files = [deep(tmp_path / f"{row}{suffix}", 0, value) for row, value in enumerate((0, brightest, brightest // 2))]
    Image.new("RGB", (1, 1), (255, 255, 255)).save(tmp_path / "bytes.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert find_white_level([*files, tmp_path / "bytes.png", tmp_path / "broken.png"]) == white
    assert find_white_level([tmp_path / "bytes.png", tmp_path / "broken.png"]) == 0


def test_16_bits_keep_every_value_and_8_bits_are_scaled_to_their_white_level(tmp_path: Path) -> None:
    file, decoding = deep(tmp_path / "x.png", 0, 1, 2000, 4095, 5000), DecodingOptions(white_level=4095)
    pixels = image_to_tensor(open_image(file, decoding), decoding)
    assert pixels.tolist() == [[[0, 1, 2000, 4095, 5000]]] * 3
    grayscale = DecodingOptions(white_level=4095, grayscale=True)
    assert image_to_tensor(open_image(file, grayscale), grayscale).tolist() == [[0, 1, 2000, 4095, 5000]]
    Image.fromarray(np.array([[0, 1, 100, 255]], np.uint8)).save(tmp_path / "bytes.png")
    assert image_to_tensor(open_image(tmp_path / "bytes.png", grayscale), grayscale).tolist() == [[0, 16, 1606, 4095]]


def test_16_bits_become_8_bits_by_their_white_level(tmp_path: Path) -> None:
    file, decoding = deep(tmp_path / "x.png", 0, 2048, 4095, 5000), DecodingOptions(white_level=4095)
    image = to_8_bits(open_image(file, decoding), decoding)
    assert (image.mode, np.asarray(image)[0, :, 2].tolist()) == ("RGB", [0, 128, 255, 255])


def test_16_bits_are_reduced_in_size_without_rounding_to_bytes(tmp_path: Path) -> None:
    file, decoding = deep(tmp_path / "x.png", 2000, 2003), DecodingOptions(size=1, grayscale=True, white_level=4095)
    Image.fromarray(np.array([[2000, 2003], [2001, 2004]], np.uint16)).save(file)
    assert image_to_tensor(open_image(file, decoding), decoding).tolist() == [[2002]]


# Files that cannot be read


def fails(broken: set[int]) -> Callable[[int], int]:
    def work(row: int) -> int:
        if row in broken:
            raise UnreadableImageError("why")
        return row

    return work


def test_all_broken_files_are_named_and_no_row_follows_the_first_one() -> None:
    names = [f"{row}.jpg" for row in range(100)]
    rows: list[int] = []
    with pytest.raises(DataError) as caught:
        rows.extend(row for row, _ in decode_rows(fails({50, 70}), names, "input=x", ""))
    assert rows == [*range(50)]
    assert str(caught.value) == (
        "`input=x` must hold images that can be read, and 2 of 100 cannot: 50.jpg (why), 70.jpg (why). "
        "Fix or remove them."
    )
    with pytest.raises(DataError, match=r"45 of 100 cannot: 0\.jpg \(why\), .*19\.jpg \(why\) and 25 more\. Fix"):
        list(decode_rows(fails(set(range(45))), names, "dataset.path=x", ""))


def test_broken_files_are_left_out_with_a_report_unless_all_are_broken() -> None:
    report, names = DecodingReport(), [f"{row}.jpg" for row in range(40)]
    assert [row for row, _ in decode_rows(fails({3, 7}), names, "x", "", report)] == [
        *range(3),
        *range(4, 7),
        *range(8, 40),
    ]
    assert report.notes(DecodingOptions()) == ("2 images cannot be read, left out: 3.jpg, ...",)
    with pytest.raises(DataError, match=r"40 of 40 cannot"):
        list(decode_rows(fails(set(range(40))), names, "x", "", DecodingReport()))
