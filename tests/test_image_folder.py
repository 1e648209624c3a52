from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageDraw
from PIL.JpegImagePlugin import JpegImageFile

from logreg.data import image_folder, images
from logreg.data.image_folder import ImageFolder
from logreg.data.images import EXTENSIONS, Decoding, open_image, pixels_of
from logreg.errors import ConfigError, DataError, DatasetNotFoundError


def noise(seed: int, width: int = 8, height: int = 6, mode: str = "RGB") -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def smooth(width: int, height: int) -> Image.Image:
    """A picture that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([255 * x / width, 255 * y / height, 0 * x + 90], -1).astype(np.uint8))


def write(root: Path, *names: str, **of: Any) -> Path:
    for seed, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(seed, **of).save(file)
    return root


def read(root: Path, **arguments: Any) -> Any:
    return ImageFolder(str(root), **{"cache": None, **arguments}).read()


# reading


def test_a_folder_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    write(tmp_path, "cat/2.png", "cat/10.png", "cat/more/1.png", "ant/B.PNG", "ant/a.bmp", "bee/x.tiff")
    raw, theirs = read(tmp_path), torchvision.datasets.ImageFolder(str(tmp_path))
    assert raw.class_names == tuple(theirs.classes) == ("ant", "bee", "cat")
    assert raw.tables.keys() == {"train"}
    assert raw.tables["train"].labels.tolist() == theirs.targets
    expected = np.stack([np.asarray(image).transpose(2, 0, 1) for image, _ in theirs])
    assert raw.image_shape == (3, 6, 8) == expected.shape[1:]
    np.testing.assert_array_equal(raw.tables["train"].features, expected.reshape(6, -1))
    assert (raw.scale, raw.source, raw.notes) == (1 / 255, tmp_path.name, ())


def test_the_extensions_are_torchvisions_and_gif() -> None:
    assert (*torchvision.datasets.folder.IMG_EXTENSIONS, ".gif") == EXTENSIONS


def test_the_splits_are_the_folders(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/1.png", "test/b/1.png", "val/a/1.png", "val/b/1.png", "val/b/2.png")
    raw = read(tmp_path)
    labels = {split: table.labels.tolist() for split, table in raw.tables.items()}
    assert labels == {"train": [0, 1], "val": [0, 1, 1], "test": [1]}
    image = pixels_of(Image.open(tmp_path / "test" / "b" / "1.png")).flatten()
    assert torch.equal(raw.tables["test"].features[0], image)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write(tmp_path, "train/1.png", "bus/1.png")
    assert read(tmp_path).class_names == ("bus", "train")


def test_hidden_files_are_passed_over_and_others_counted(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    for name in (".DS_Store", "a/.hidden.png", ".git/x.png", "a/.thumbs/x.png", "a/Thumbs.db", "__MACOSX/a/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert read(tmp_path).notes == ()
    (tmp_path / "a" / "words.txt").touch()
    assert read(tmp_path).notes == ("left out 1 file that is no image: a/words.txt",)
    (tmp_path / "labels.csv").touch()
    raw = read(tmp_path)
    assert raw.notes == ("left out 2 files that are no images: labels.csv, ...",)
    assert len(raw.tables["train"]) == 2


def test_grey_has_one_channel(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    raw = read(tmp_path, grey=True)
    assert raw.image_shape == (6, 8)
    expected = np.asarray(Image.open(tmp_path / "a" / "1.png").convert("L"))
    np.testing.assert_array_equal(raw.tables["train"].features[0].view(6, 8), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_pictures_of_every_mode_are_made_rgb(mode: str, tmp_path: Path) -> None:
    file = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    noise(0).convert(mode).save(file)
    assert pixels_of(open_image(file)).shape == (3, 6, 8)


def test_16_bits_keep_their_brightness(tmp_path: Path) -> None:
    wide = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(wide).save(tmp_path / "x.png")
    np.testing.assert_array_equal(pixels_of(open_image(tmp_path / "x.png", Decoding(grey=True))), wide // 257)


def test_a_picture_taken_with_the_camera_turned_is_upright(tmp_path: Path) -> None:
    image, exif = noise(0), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(
        pixels_of(open_image(tmp_path / "x.png")), np.rot90(pixels_of(image), k=-1, axes=(1, 2))
    )


@pytest.mark.parametrize(("width", "height"), [(40, 60), (61, 41), (32, 32), (20, 25)])
def test_size_is_the_shorter_side_and_the_middle_is_kept(width: int, height: int, tmp_path: Path) -> None:
    image = smooth(width, height)
    image.save(tmp_path / "x.png")
    ours = pixels_of(open_image(tmp_path / "x.png", Decoding(size=16))).short()
    functional = torchvision.transforms.functional
    theirs = functional.center_crop(functional.resize(image, [16]), [16])
    assert ours.shape == (3, 16, 16)
    assert int((ours - pixels_of(theirs).short()).abs().max()) <= 10  # they cut whole pixels only


def test_reducing_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255  # picking pixels would give black or white
    Image.fromarray(stripes).save(tmp_path / "x.png")
    pixels = pixels_of(open_image(tmp_path / "x.png", Decoding(size=8)))[:, 1:-1, 1:-1]
    assert 120 <= int(pixels.min()) <= int(pixels.max()) <= 135


def test_a_jpeg_decoded_at_a_fraction_looks_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = smooth(640, 480)
    ImageDraw.Draw(image).ellipse((200, 100, 500, 400), fill=(250, 20, 200))
    image.save(tmp_path / "x.jpg", quality=95)
    draft, decoded = JpegImageFile.draft, []

    def spy(self: Any, mode: str, size: tuple[int, int]) -> Any:
        drafted = draft(self, mode, size)
        decoded.append(self.size)
        return drafted

    monkeypatch.setattr(JpegImageFile, "draft", spy)
    quick = pixels_of(open_image(tmp_path / "x.jpg", Decoding(size=32))).short()
    assert decoded == [(160, 120)]  # an eighth would be shorter than twice 32
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: None)
    full = pixels_of(open_image(tmp_path / "x.jpg", Decoding(size=32))).short()
    assert float((quick - full).abs().float().mean()) < 1


# the cache


def test_the_second_read_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "root", "train/a/1.png", "train/b/1.png", "test/a/1.png")
    first = read(root, cache=str(tmp_path / "cache"))
    monkeypatch.setattr(image_folder, "open_image", None)
    second = read(root, cache=str(tmp_path / "cache"))
    for split, table in first.tables.items():
        assert torch.equal(table.features, second.tables[split].features)
        assert torch.equal(table.labels, second.tables[split].labels)
    assert (first.image_shape, first.class_names) == (second.image_shape, second.class_names)


@pytest.mark.parametrize("change", ["settings", "content", "name"])
def test_what_has_changed_is_decoded_anew(change: str, tmp_path: Path) -> None:
    root, cache = write(tmp_path / "root", "a/1.png", "b/1.png"), str(tmp_path / "cache")
    before = read(root, cache=cache)
    arguments: dict[str, Any] = {}
    if change == "settings":
        arguments = {"grey": True}
    elif change == "content":
        noise(7).save(root / "a" / "1.png")
    else:
        (root / "a" / "1.png").rename(root / "b" / "0.png")
        write(root, "a/2.png")
    after = read(root, cache=cache, **arguments)
    fresh = read(root, **arguments)
    assert torch.equal(after.tables["train"].features, fresh.tables["train"].features)
    assert not torch.equal(after.tables["train"].features[0], before.tables["train"].features[0]) or change == "name"
    assert after.tables["train"].labels.tolist() == fresh.tables["train"].labels.tolist()


def test_of_eight_that_start_at_once_one_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "root", *(f"{c}/{n}.png" for c in "ab" for n in range(20)))
    opened = []

    def spy(file: Path, *arguments: Any) -> Any:
        opened.append(file)
        return open_image(file, *arguments)

    monkeypatch.setattr(image_folder, "open_image", spy)
    with ThreadPoolExecutor(8) as pool:
        raws = list(pool.map(lambda _: read(root, cache=str(tmp_path / "cache")), range(8)))
    assert sorted(opened) == sorted(root.rglob("*.png"))
    assert all(torch.equal(raw.tables["train"].features, raws[0].tables["train"].features) for raw in raws)


# threads


@pytest.mark.parametrize("count", [0, 1, 16, 1000])
def test_threads_keep_the_order(count: int) -> None:
    assert list(images.in_threads(lambda row: row * row, count, "")) == [row * row for row in range(count)]


def test_threads_are_not_far_ahead_of_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the pixels of a whole set would pile up while a backbone is busy.
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(2))
    started: list[int] = []
    rows = images.in_threads(started.append, 10_000, "")
    next(rows)
    rows.close()
    assert len(started) <= 6 * images.CHUNK


def test_a_pipe_gets_no_progress_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read(write(tmp_path, "a/1.png", "b/1.png"))
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_one_that_goes_away(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path, "a/1.png", "b/1.png")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    read(root)
    output, errors = capfd.readouterr()
    assert output == ""
    assert "decoding" in errors


# what a person can mend


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=rf"^`dataset\.path` must be a folder.*{tmp_path}/no is missing"):
        read(tmp_path / "no")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetNotFoundError, match=r"^`dataset\.path` must be a folder of images, got the file"):
        read(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"^`dataset\.path` must name a folder, got None\. Set dataset\.path=FOLDER"):
        ImageFolder().read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "`dataset.size` must be a whole number >= 1 or null, got 0."),
        ({"grey": "no"}, "`dataset.grey` must be true or false, got 'no'."),
        ({"cache": 3}, "`dataset.cache` must be text or null, got 3."),
        ({"path": 3}, "`dataset.path` must be text or null, got 3."),
    ],
)
def test_arguments_are_checked_at_the_door(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        ImageFolder(**arguments)


@pytest.mark.parametrize(
    ("names", "empty", "message"),
    [
        ([], [], "`dataset.path` must hold a folder for each class, or train, val and test .*, and there is no folder"),
        (["1.png"], [], "`dataset.path` must hold a folder for each class, .*, and there is no folder in {root}."),
        (["a/1.png"], [], "`dataset.path` must have at least 2 classes, got only the folder a in {root}."),
        (["train/a/1.png"], [], "`dataset.path` must have at least 2 classes, got only the folder a in {root}/train."),
        (["a/1.png", "b/1.png"], ["c"], "`dataset.path` must have images in each class folder, got none in {root}/c "),
        (
            ["train/a/1.png", "train/b/1.png", "test/c/1.png"],
            [],
            "`dataset.path` must have each class in train, and {root}/test/c is of a class that train lacks.",
        ),
        (["test/a/1.png", "val/b/1.png"], [], "`dataset.path` must have a folder train beside test and val"),
        (
            ["train/a/1.png", "train/b/1.png", "valid/a/1.png"],
            [],
            "`dataset.path` must have no folder beside train but val and test, got {root}/valid. Rename it",
        ),
        (["train/a/1.png", "train/b/1.png"], ["test"], ".* and there is no folder in {root}/test."),
    ],
)
def test_another_layout_is_one_line(names: list[str], empty: list[str], message: str, tmp_path: Path) -> None:
    write(tmp_path, *names)
    for name in empty:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"^{message.replace('{root}', str(tmp_path))}"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["cut off", "empty", "text", "too large"])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_broken_image_is_named(kind: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/1.png", f"b/bad.{ending}", width=64, height=64)
    file = tmp_path / "b" / f"bad.{ending}"
    if kind == "cut off":
        file.write_bytes(file.read_bytes()[:-2000])
    elif kind == "too large":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 3)
        (tmp_path / "a" / "1.png").unlink()
        write(tmp_path, "a/1.png", width=8)
    else:
        file.write_bytes(b"" if kind == "empty" else b"no image\n" * 99)
    with pytest.raises(
        DataError,
        match=rf"^`dataset\.path={tmp_path}` must hold images that can be read, and 1 of 2 cannot: b/{file.name} "
        r"\([^\n]*[^.]\)\. Mend or remove it\. Set dataset\.broken=skip to train without it\.$",
    ):
        read(tmp_path)


def test_images_of_two_sizes_are_named_with_what_to_set(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    noise(0, width=9, height=7).save(tmp_path / "b" / "2.png")
    message = (
        "`dataset.path` must hold images of one size, got a/1.png of 8 x 6 and b/2.png of 9 x 7 pixels. "
        "Set dataset.size=32 to bring all to one size."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read(tmp_path)
    assert read(tmp_path, size=4).image_shape == (3, 4, 4)


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b" / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"^`dataset\.path` must .*b/2\.png cannot: No such file or directory\.$"):
        read(tmp_path)


def test_folders_whose_files_have_one_size_and_time_are_told_apart(tmp_path: Path) -> None:
    # As files from archives have.
    names = [f"{label}/{number}.bmp" for label in "ab" for number in range(2)]
    for seed, folder in enumerate(("one", "two")):
        for number, name in enumerate(names):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            noise(10 * seed + number).save(tmp_path / folder / name)
            os.utime(tmp_path / folder / name, (0, 0))
    one, two = (
        ImageFolder(str(tmp_path / folder), cache=str(tmp_path / "cache")).read().tables["train"].matrix
        for folder in ("one", "two")
    )
    assert not torch.equal(one, two)


def test_a_broken_image_leaves_no_cache_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("root"), "a/1.png", "b/1.png")
    Path("root/b/1.png").write_bytes(b"no image")
    with pytest.raises(DataError):
        ImageFolder("root").read()
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
