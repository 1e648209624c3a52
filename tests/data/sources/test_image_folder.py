from __future__ import annotations

import dataclasses
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
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from logreg.data import Table, TensorDataModule
from logreg.data.formats import images
from logreg.data.formats.images import IMAGE_SUFFIXES, DecodingOptions, image_to_tensor, open_image
from logreg.data.new_rows import NewRowsReader
from logreg.data.sources import image_folder
from logreg.data.sources.image_folder import ImageFolder, _group_notes
from logreg.errors import ConfigError, DataError, DatasetNotFoundError
from logreg.facts import DataFacts


def noise(seed: int, width: int = 8, height: int = 6, mode: str = "RGB") -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def smooth(width: int, height: int) -> Image.Image:
    """An image that JPEG compression hardly changes."""
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


# Reading


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


def test_the_suffixes_are_those_of_torchvision_and_gif() -> None:
    assert (*torchvision.datasets.folder.IMG_EXTENSIONS, ".gif") == IMAGE_SUFFIXES


def test_the_splits_are_the_folders(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/1.png", "test/b/1.png", "val/a/1.png", "val/b/1.png", "val/b/2.png")
    raw = read(tmp_path)
    labels = {split: table.labels.tolist() for split, table in raw.tables.items()}
    assert labels == {"train": [0, 1], "val": [0, 1, 1], "test": [1]}
    image = image_to_tensor(Image.open(tmp_path / "test" / "b" / "1.png")).flatten()
    assert torch.equal(raw.tables["test"].features[0], image)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write(tmp_path, "train/1.png", "bus/1.png")
    assert read(tmp_path).class_names == ("bus", "train")


def test_hidden_files_are_ignored_and_others_counted(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    for name in (".DS_Store", "a/.hidden.png", ".git/x.png", "a/.thumbs/x.png", "a/Thumbs.db", "__MACOSX/a/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert read(tmp_path).notes == ()
    (tmp_path / "a" / "words.txt").touch()
    assert read(tmp_path).notes == ("left out 1 file that is not an image: a/words.txt",)
    (tmp_path / "labels.csv").touch()
    raw = read(tmp_path)
    assert raw.notes == ("left out 2 files that are not images: labels.csv, ...",)
    assert len(raw.tables["train"]) == 2


def test_grayscale_has_one_channel(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    raw = read(tmp_path, grayscale=True)
    assert raw.image_shape == (6, 8)
    expected = np.asarray(Image.open(tmp_path / "a" / "1.png").convert("L"))
    np.testing.assert_array_equal(raw.tables["train"].features[0].view(6, 8), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_images_of_every_mode_become_rgb(mode: str, tmp_path: Path) -> None:
    file = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    noise(0).convert(mode).save(file)
    assert image_to_tensor(open_image(file)).shape == (3, 6, 8)


def test_older_models_see_the_upper_8_of_16_bits(tmp_path: Path) -> None:
    wide = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(wide).save(tmp_path / "x.png")
    before = DecodingOptions.from_facts({}, grayscale=True)  # of models that keep nothing of the pixels
    np.testing.assert_array_equal(image_to_tensor(open_image(tmp_path / "x.png", before)), wide // 257)


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    image, exif = noise(0), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(
        image_to_tensor(open_image(tmp_path / "x.png")), np.rot90(image_to_tensor(image), k=-1, axes=(1, 2))
    )


@pytest.mark.parametrize(("width", "height"), [(40, 60), (61, 41), (32, 32), (20, 25)])
def test_size_is_the_shorter_side_and_the_middle_square_is_taken(width: int, height: int, tmp_path: Path) -> None:
    image = smooth(width, height)
    image.save(tmp_path / "x.png")
    ours = image_to_tensor(open_image(tmp_path / "x.png", DecodingOptions(size=16))).short()
    functional = torchvision.transforms.functional
    theirs = functional.center_crop(functional.resize(image, [16]), [16])
    assert ours.shape == (3, 16, 16)
    assert int((ours - image_to_tensor(theirs).short()).abs().max()) <= 10  # they cut whole pixels only


def test_reducing_the_size_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255  # picking pixels would give black or white
    Image.fromarray(stripes).save(tmp_path / "x.png")
    pixels = image_to_tensor(open_image(tmp_path / "x.png", DecodingOptions(size=8)))[:, 1:-1, 1:-1]
    assert 120 <= int(pixels.min()) <= int(pixels.max()) <= 135


def test_a_jpeg_decoded_at_a_fraction_of_its_size_has_nearly_the_same_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = smooth(640, 480)
    ImageDraw.Draw(image).ellipse((200, 100, 500, 400), fill=(250, 20, 200))
    image.save(tmp_path / "x.jpg", quality=95)
    draft, decoded = JpegImageFile.draft, []

    def spy(self: Any, mode: str, size: tuple[int, int]) -> Any:
        drafted = draft(self, mode, size)
        decoded.append(self.size)
        return drafted

    monkeypatch.setattr(JpegImageFile, "draft", spy)
    quick = image_to_tensor(open_image(tmp_path / "x.jpg", DecodingOptions(size=32))).short()
    assert decoded == [(160, 120)]  # an eighth would be shorter than twice 32
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: None)
    full = image_to_tensor(open_image(tmp_path / "x.jpg", DecodingOptions(size=32))).short()
    assert float((quick - full).abs().float().mean()) < 1


# The cache


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
def test_images_are_decoded_again_after_a_change(change: str, tmp_path: Path) -> None:
    root, cache = write(tmp_path / "root", "a/1.png", "b/1.png"), str(tmp_path / "cache")
    before = read(root, cache=cache)
    arguments: dict[str, Any] = {}
    if change == "settings":
        arguments = {"grayscale": True}
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


def test_one_of_eight_readers_at_once_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


# Threads


@pytest.mark.parametrize("count", [0, 1, 16, 1000])
def test_threads_keep_the_order(count: int) -> None:
    assert list(images.map_in_threads(lambda row: row * row, count, "")) == [row * row for row in range(count)]


def test_threads_stay_only_a_few_tasks_ahead_of_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the pixels of a whole set would pile up while a backbone is busy.
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(2))
    started: list[int] = []
    rows = images.map_in_threads(started.append, 10_000, "")
    next(rows)
    rows.close()
    assert len(started) <= 6 * images.IMAGES_PER_TASK


def test_without_a_terminal_there_is_no_progress_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read(write(tmp_path, "a/1.png", "b/1.png"))
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_a_progress_bar(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path, "a/1.png", "b/1.png")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    read(root)
    output, errors = capfd.readouterr()
    assert output == ""
    assert "decoding" in errors


# Errors


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
        ({"grayscale": "no"}, "`dataset.grayscale` must be true or false, got 'no'."),
        ({"cache": 3}, "`dataset.cache` must be text or null, got 3. Put quotes around it: 'dataset.cache=\"3\"'."),
        ({"path": 3}, "`dataset.path` must be text or null, got 3. Put quotes around it: 'dataset.path=\"3\"'."),
    ],
)
def test_arguments_are_checked_before_reading(arguments: dict[str, Any], message: str) -> None:
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
            "`dataset.path` must have only the folders val and test beside train, got {root}/valid. Rename or",
        ),
        (["train/a/1.png", "train/b/1.png"], ["test"], ".* and there is no folder in {root}/test."),
    ],
)
def test_another_layout_is_refused_in_one_line(
    names: list[str], empty: list[str], message: str, tmp_path: Path
) -> None:
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
        r"\([^\n]*[^.]\)\. Fix or remove it\. Set dataset\.broken=skip to train without it\.$",
    ):
        read(tmp_path)


def test_images_of_two_sizes_are_named_with_the_setting_that_helps(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    noise(0, width=9, height=7).save(tmp_path / "b" / "2.png")
    message = (
        "`dataset.path` must hold images of one size, got a/1.png of 8 x 6 and b/2.png of 9 x 7 pixels. "
        "Set dataset.size=32 to bring all to one size."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read(tmp_path)
    assert read(tmp_path, size=4).image_shape == (3, 4, 4)


def test_links_to_nothing_and_pipes_are_named_with_the_broken_files(tmp_path: Path) -> None:
    write(tmp_path, "a/0.png", "b/1.png")
    (tmp_path / "b/2.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "b/3.png").symlink_to("3.png")
    os.mkfifo(tmp_path / "b/4.png")
    named = ", ".join(rf"b/{number}\.png \(it is not a file\)" for number in (2, 3, 4))
    message = rf" 3 of 5 cannot: {named}\. Fix"
    with pytest.raises(DataError, match=message):
        read(tmp_path)
    assert len(read(tmp_path, broken="skip").tables["train"]) == 2


def test_folders_whose_files_have_equal_sizes_and_times_have_their_own_cache(tmp_path: Path) -> None:
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


# files that are no images of the user's, or cannot be read


def incoming(facts: DataFacts, folder: Path, **dataset: Any) -> tuple[list[str], torch.Tensor]:
    """The files that predict.py reads, and their features."""
    _, blocks = NewRowsReader(facts, dataset).read(str(folder))
    rows = list(blocks)
    return [name for block in rows for name in block.kept["file"].to_pylist()], torch.cat([r.features for r in rows])


def learned(root: Path, model: DataFacts | None = None, **arguments: Any) -> TensorDataModule:
    """The rows of a folder, none of them held out, as a model would get them."""
    dataset = ImageFolder(str(root), **{"cache": None, **arguments})
    if model is not None:
        dataset = dataclasses.replace(dataset, model=model.pixels)
    data = TensorDataModule(dataset, split={"val": 0, "test": 0}, model=model)
    data.setup()
    return data


def test_thumbnails_are_ignored_in_training_and_prediction(tmp_path: Path) -> None:
    write(tmp_path, *(f"{c}/{n}.jpg" for c in ("cats", "dogs") for n in range(3)))
    write(tmp_path, "cats/@eaDir/0.jpg/SYNOFILE_THUMB_M.jpg", "@eaDir/x.jpg", "dogs/.thumbnails/1.jpg", width=4)
    write(tmp_path, "__MACOSX/cats/1.jpg", "cats/._0.jpg", width=4)
    data = learned(tmp_path)
    names, features = incoming(data.facts, tmp_path)
    assert names == [f"{c}/{n}.jpg" for c in ("cats", "dogs") for n in range(3)]
    assert torch.equal(features, data.tables["train"].matrix / 255)
    assert (data.facts.class_names, data.notes) == (("cats", "dogs"), ())


def spoil(root: Path) -> Path:
    """Eight images of which three cannot be read, one of them in test."""
    write(root, *(f"{s}/{c}/{n}.jpg" for s in ("train", "test") for c in "ab" for n in range(2)), width=64, height=64)
    (root / "train/a/0.jpg").write_bytes(b"")
    (root / "train/b/1.jpg").write_bytes((root / "train/b/1.jpg").read_bytes()[:900])
    (root / "test/a/1.jpg").write_text("<html>404</html>")
    return root


BROKEN = (
    r"`dataset\.path=.*` must hold images that can be read, and 3 of 8 cannot: train/a/0\.jpg \(it is empty\), "
    r"train/b/1\.jpg \(.*runcated.*\), test/a/1\.jpg \(its content is not an image\)\. Fix or remove them\. "
    r"Set dataset\.broken=skip to train without them\."
)


def test_all_broken_files_are_named_at_once_with_the_setting_that_leaves_them_out(tmp_path: Path) -> None:
    root = spoil(tmp_path / "root")
    with pytest.raises(DataError, match=f"^{BROKEN}$"):
        read(root)
    model = dataclasses.replace(learned(write(tmp_path / "fine", "a/1.png", "b/1.png")).facts, image_shape=(3, 64, 64))
    with pytest.raises(
        DataError, match=r"^`input=.*/test` must .* 1 of 4 cannot: a/1\.jpg \(its .*\)\. Fix or remove it\.$"
    ):
        incoming(model, root / "test", broken="skip")  # a prediction for every file or none


def test_broken_files_can_be_left_out_and_are_counted_also_from_the_cache(tmp_path: Path) -> None:
    root, cache = spoil(tmp_path / "root"), str(tmp_path / "cache")
    for _ in range(2):
        raw = read(root, broken="skip", cache=cache, group=r"/(\d)\.")
        assert raw.notes == ("3 images cannot be read, left out: test/a/1.jpg, ...",)
        assert raw.tables["train"].labels.tolist() == [0, 1]
        assert raw.tables["test"].labels.tolist() == [0, 1, 1]
        assert raw.tables["train"].groups.tolist() == [1, 0]
        for split, row, name in (("train", 0, "train/a/1.jpg"), ("test", 2, "test/b/1.jpg")):
            assert torch.equal(raw.tables[split].matrix[row], image_to_tensor(open_image(root / name)).flatten())
    with pytest.raises(ConfigError, match=r"^`dataset\.broken` must be one of error, skip, got 'no'"):
        ImageFolder(broken="no")


# 16 bits and transparency, from training to predictions


def deep(file: Path, brightness: int, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = brightness + np.random.default_rng(seed).integers(-3, 4, (8, 8))
    Image.fromarray(pixels.astype(np.uint16)).save(file)


@pytest.fixture
def twelve_bits(tmp_path: Path) -> Path:
    """Two classes whose means are 10 apart, less than a step of 16 that 8 bits would have."""
    for seed in range(40):
        deep(tmp_path / f"twelve_bits/{'ab'[seed % 2]}/{seed}.png", 2000 + 10 * (seed % 2), seed)
    return tmp_path / "twelve_bits"


@pytest.mark.parametrize("grayscale", [True, False])
def test_12_bits_in_16_are_scaled_by_their_own_white_level(grayscale: bool, twelve_bits: Path, tmp_path: Path) -> None:
    for _ in range(2):  # from the files, and from the cache
        data = learned(twelve_bits, grayscale=grayscale, cache=str(tmp_path / "cache"))
        assert data.facts.pixels == {"white_level": 4095, "background": 255}
        assert data.notes == (
            "40 images of 16 bits per pixel, with white at 4,095 (set another with dataset.white_level): a/0.png, ...",
        )
        features = next(iter(data.blocks("train"))).features
        right = (
            np.asarray(Image.open(twelve_bits / "a" / "0.png")).reshape(1, -1).repeat(1 if grayscale else 3, 0) / 4095
        )
        np.testing.assert_allclose(features[0], right.flatten(), rtol=1e-6)
    assert roc_auc_score(data.tables["train"].labels, features.mean(1)) == 1
    names, predicted = incoming(DataFacts.from_dict(data.facts.as_dict()), twelve_bits, grayscale=grayscale)
    assert (names[0], len(names)) == ("a/0.png", 40)
    torch.testing.assert_close(predicted, features, rtol=1e-6, atol=0)


def test_the_white_level_of_the_model_holds_for_darker_files(twelve_bits: Path, tmp_path: Path) -> None:
    data = learned(twelve_bits)
    for label in "ab":
        deep(tmp_path / f"dark/{label}/1.png", 500, 0)
    there = learned(tmp_path / "dark", data.facts)
    assert there.facts.pixels == data.facts.pixels
    features = next(iter(there.blocks("train"))).features
    assert float(features.mean()) == pytest.approx(500 / 4095, rel=1e-2)  # not 500 / 1023
    torch.testing.assert_close(incoming(data.facts, tmp_path / "dark")[1], features)


def test_a_typed_white_level_is_used(twelve_bits: Path) -> None:
    data = learned(twelve_bits, white_level=65535)
    assert float(next(iter(data.blocks("train"))).features.mean()) == pytest.approx(2005 / 65535, rel=1e-3)
    assert (
        learned(write(twelve_bits.parent / "bytes", "a/1.png", "b/1.png"), white_level=9).facts.pixels["white_level"]
        == 0
    )


def test_a_model_of_8_bits_refuses_16_bits_rather_than_guess_their_white_level(
    twelve_bits: Path, tmp_path: Path
) -> None:
    facts = learned(write(tmp_path / "bytes", "a/1.png", "b/1.png", height=8)).facts
    with pytest.raises(
        DataError, match=r"40 of 40 cannot: a/0\.png \(it has 16 bits per pixel, and the images of train have 8"
    ):
        incoming(facts, twelve_bits)
    before = dataclasses.replace(facts, pixels={})  # as its checkpoint was written by an older version
    assert float(incoming(before, twelve_bits)[1].max()) == pytest.approx(7 / 255)


def test_a_matrix_of_raw_pixels_is_scaled_as_the_files_were(twelve_bits: Path, tmp_path: Path) -> None:
    data = learned(twelve_bits, grayscale=True)
    raw = np.stack([np.asarray(Image.open(file)) for file in sorted(twelve_bits.glob("a/*.png"))]).astype(np.int32)
    np.save(tmp_path / "x.npy", raw)
    _, blocks = NewRowsReader(data.facts, {}).read(str(tmp_path / "x.npy"))
    np.testing.assert_allclose(next(blocks).features, raw.reshape(len(raw), -1) / 4095, rtol=1e-6)


def test_transparent_drawings_are_separated_in_training_and_prediction(tmp_path: Path) -> None:
    for seed in range(40):
        x, y = np.random.default_rng(seed).integers(-2, 3, 2).tolist()
        image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
        draw = ImageDraw.Draw(image)
        if seed % 2:
            draw.line((8 + x, 3 + y, 8 + x, 13 + y), fill=(0, 0, 0, 255), width=2)
        else:
            draw.ellipse((3 + x, 3 + y, 12 + x, 12 + y), outline=(0, 0, 0, 255), width=2)
        (tmp_path / str(seed % 2)).mkdir(exist_ok=True)
        image.save(tmp_path / str(seed % 2) / f"{seed}.png")
    data = learned(tmp_path)
    assert data.notes == ("40 images with transparent parts, shown on white: 0/0.png, ...",)
    features, labels = data.tables["train"].matrix, data.tables["train"].labels
    assert roc_auc_score(labels, features.float().mean(1)) == 1  # a ring has more ink than a line
    assert torch.equal(incoming(data.facts, tmp_path)[1], features / 255)


# Several images of one subject


def patients(root: Path, count: int, images: int = 3) -> Path:
    """Patients with random labels; the images of a patient share a noise pattern, so that nothing can be learned."""
    for patient in range(count):
        draw = np.random.default_rng(patient)
        base, label = draw.integers(0, 255, (16, 16)), ("ill", "well")[int(draw.integers(2))]
        for number in range(images):
            (root / label).mkdir(parents=True, exist_ok=True)
            pixels = (base + draw.integers(-3, 4, (16, 16))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"p{patient:03d}_{number}.png")
    return root


def rows_of(table: Table) -> list[int]:
    assert table.index is not None
    rows: list[int] = table.index.tolist()
    return rows


@pytest.mark.long
def test_groups_prevent_leakage_between_train_and_test(tmp_path: Path) -> None:
    root = patients(tmp_path / "patients", 200)
    listed = sorted(str(file.relative_to(root)) for file in root.rglob("*.png"))
    lines = [f"{file},{file.split('/')[1][:4]}" for file in listed]
    (tmp_path / "groups.csv").write_text("\n".join(["file,group", *lines, "gone.png,x", ""]))
    (tmp_path / "names.tsv").write_text("group\tfile\n" + "".join(f"{n[-10:-6]}\t{n[-10:]}\n" for n in listed))
    patient_of = [file.split("/")[1][:4] for file in listed]
    auroc, held_out = {}, {}
    for group in (None, r"/(p\d+)_", str(tmp_path / "groups.csv"), str(tmp_path / "names.tsv")):
        dataset = ImageFolder(str(root), grayscale=True, group=group, cache=None)
        data = TensorDataModule(dataset, split={"val": 0, "test": 0.3})
        (x, y), (test_x, test_y) = (
            (table.select(table.matrix) / 255, table.select(table.labels)) for table in data.tables.values()
        )
        model = LogisticRegression(max_iter=1000).fit(x, y)
        auroc[group] = roc_auc_score(test_y, model.decision_function(test_x))
        train, test = ([patient_of[row] for row in rows_of(table)] for table in data.tables.values())
        held_out[group] = test
        if group:
            assert not set(train) & set(test)
            assert len(train) + len(test) == 600
            assert abs(len(test) - 180) <= 5
    alone, *grouped = auroc.values()
    assert alone > 0.9  # of 100 images 9 have no other one of theirs in train
    assert grouped == [pytest.approx(0.5, abs=0.12)] * 3
    _, by_pattern, *by_file = held_out.values()
    assert by_file == [by_pattern] * 2


def test_a_group_in_two_folders_of_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/a/p1_0.png", "train/b/p2_0.png", "test/a/p1_1.png", "test/b/p3_0.png")
    with pytest.raises(
        DataError, match=r"^`dataset\.split\.group` must keep each group in one split, and train and \w+ have 1 "
    ):
        _ = TensorDataModule(ImageFolder(str(tmp_path), group="(p.)_", cache=None)).tables


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            "p._",
            "`dataset.split.group` must be a regular expression with one group in brackets, such .*Put brackets around",
        ),
        ("(p)(.)_", "`dataset.split.group` must be .* got .*Write \\(\\?:...\\) for the others."),
        ("(p", "`dataset.split.group` must be a regular expression .* got '\\(p'. It is not one: "),
        (
            "(q)",
            "`dataset.split.group=\\(q\\)` must give each image a group, and gives none to 4 of 4: a/p1_0.png, .*Write",
        ),
        ("gone.csv", "`dataset.split.group=gone.csv` must be a table that can be read: No such file"),
        ("{here}/other.csv", "`dataset.split.group=.*other.csv` must have the columns file and group, got name, group"),
        (
            "{here}/few.csv",
            "`dataset.split.group=.*few.csv` must give .*, and gives none to 1 of 4: b/p2_0.png. Add a ",
        ),
        ("{here}/two.csv", "`dataset.split.group=.*two.csv` must give each file one group, and a/p1_0.png has two"),
    ],
)
def test_unusable_groups_are_refused_in_one_line(group: str, message: str, tmp_path: Path) -> None:
    root = write(tmp_path / "root", "a/p1_0.png", "a/p1_1.png", "b/p2_0.png", "b/p2_1.png")
    (tmp_path / "other.csv").write_text("name,group\na/p1_0.png,1\n")
    (tmp_path / "few.csv").write_text("file,group\na\\p1_0.png,1\np1_1.png,1\n./b/p2_1.png,2\nb/p2_0.png,\n")
    (tmp_path / "two.csv").write_text("file,group\na/p1_0.png,1\na/p1_0.png,2\n")
    with pytest.raises((ConfigError, DataError), match=f"^{message}"):
        read(root, group=group.format(here=tmp_path))


def test_names_of_many_subjects_give_a_note_and_its_advice_works(tmp_path: Path, run_train: Any) -> None:
    root = patients(tmp_path / "patients", 12)
    (note,) = read(root).notes
    assert note.startswith("the names look like 12 subjects with several images each (ill/p")
    advice = re.search(r"'dataset[^']*'", note)
    assert advice
    answer = run_train(f"dataset=image_folder dataset.path=patients dataset.cache=null facts=only {advice[0]}")
    assert answer.code == 0
    assert "subjects" not in answer.out
    write(root, "train/ill/x_0.png", "train/well/x_1.png")  # with folders for splits nothing is split by chance
    assert not any(
        "subjects" in note for note in read(write(tmp_path / "own", "train/a/p1_0.png", "train/b/p1_1.png")).notes
    )


@pytest.mark.parametrize(
    "name",
    [
        *("cat_{n:03d}.jpg", "IMG_{n:04d}.jpg", "IMG_20240131_{t}.jpg", "{n}.png", "n01440764_{t}.jpg", "{t}_s.jpg"),
        *("2024-01-{d:02d}_{t}.jpg", "scan-{t}-{n}.png"),
    ],
)
def test_other_names_give_no_note(name: str, tmp_path: Path) -> None:
    names = [f"{c}/{name.format(n=n, t=100000 + 7919 * n % 99991, d=n % 28)}" for c in "ab" for n in range(60)]
    assert _group_notes(names) == ()


# Names of classes


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "2", "1", "11"], ["1", "2", "10", "11"]),
        (["1.5", "-3", "1e3", "1_0"], ["-3", "1.5", "1_0", "1e3"]),
        (["10", "2", "b"], ["10", "2", "b"]),
        (["inf", "2"], ["2", "inf"]),
        (["1__0", "2", "1_"], ["1_", "1__0", "2"]),
        (["007", "7", "08"], ["007", "7", "08"]),
    ],
)
def test_classes_that_are_numbers_are_sorted_by_value(names: list[str], order: list[str], tmp_path: Path) -> None:
    assert list(read(write(tmp_path, *(f"{name}/1.png" for name in names))).class_names) == order


@pytest.mark.parametrize(
    ("folders", "typed", "classes"),
    [
        ("True False", "dataset.positive=True", ["False", "True"]),
        ("True False", "dataset.classes=[True,False]", ["False", "True"]),
        ("1_000 1e3 1.0", "dataset.classes=[1_000,1.0]", ["1.0", "1_000"]),
        ("1 2 10 11", "dataset.classes=[10,2]", ["2", "10"]),
        ("1 2 10 11", "dataset.positive=[10,1]", ["other", "10 or 1"]),
        ("null a b", "dataset.classes=[null,a]", ["a", "null"]),
        ("null a b", "'dataset.positive=\"null\"'", ["null", "not null"]),
    ],
)
def test_names_typed_as_they_are_shown_work(
    folders: str, typed: str, classes: list[str], tmp_path: Path, run_train: Any
) -> None:
    write(tmp_path / "root", *(f"{name}/{n}.png" for name in folders.split() for n in range(5)))
    answer = run_train(f"dataset=image_folder dataset.path=root dataset.cache=null facts=only {typed}")
    shown = [line.split("│")[1].strip() for line in answer.out.splitlines() if line.startswith("│")]
    assert (answer.code, answer.err, sorted(shown)) == (0, "", sorted([*classes, "all"]))
