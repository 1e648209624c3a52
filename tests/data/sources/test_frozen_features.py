from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.models import regnet

from fake_mnist import write_fake
from fake_server import serving
from logreg.data.base import RawData
from logreg.data.new_rows import NewRowsReader
from logreg.data.sources import frozen_features as backbone_module
from logreg.data.sources.frozen_features import Backbone, FrozenFeatures, new_model, remove_head
from logreg.data.sources.image_folder import ImageFolder
from logreg.data.sources.toy import Toy
from logreg.data.sources.vision import Vision
from logreg.errors import ConfigError, DataError
from logreg.facts import DataFacts
from logreg.terminal import format_bytes

NAMES = torchvision.models.list_models(module=torchvision.models)

FAMILIES = {
    *("alexnet", "convnext_tiny", "googlenet", "inception_v3", "mobilenet_v3_small", "resnet18", "squeezenet1_1"),
    *("swin_t", "vgg11", "vit_b_16"),
}
"""One model for each kind of classification layer: a layer, a sequence of layers, auxiliary heads, a convolution."""

SMALL = "squeezenet1_1"
"""The fastest model."""


def write(root: Path, *names: str, size: tuple[int, int] = (30, 40)) -> Path:
    for seed, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(
            0, 256, (size[0] + seed % 9, size[1] - seed % 7, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(file)
    return root


FILES = ("train/a/1.png", "train/a/2.png", "train/b/1.png", "test/b/1.png")


def features_of(raw: RawData, split: Any = "train") -> Tensor:
    features = raw.tables[split].features
    assert isinstance(features, Tensor)
    return features


def frozen(root: Path, cache: Path | None = None, **arguments: Any) -> FrozenFeatures:
    source = ImageFolder(str(root), cache=None if cache is None else str(cache))
    return FrozenFeatures(source, **{"backbone": SMALL, "weights": "none", **arguments})


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., str]:
    """Writes a state dict with other random weights than those of "none" to a file."""

    def write_weights(name: str = SMALL, change: Callable[[Any], None] = lambda state: None, **arguments: Any) -> str:
        torch.manual_seed(5)
        state = torchvision.models.get_model(name, weights=None, **arguments).state_dict()
        change(state)
        torch.save(state, tmp_path / "weights.pth")
        return str(tmp_path / "weights.pth")

    return write_weights


# Every model


def check_width(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = regnet.BlockParams.from_init_params

    def on_cpu(**arguments: Any) -> Any:  # reads numbers from a tensor, and there are none on meta
        with torch.device("cpu"):
            return counted(**arguments)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", on_cpu)
    crop = torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    with torch.device("meta"):
        model = new_model(name, crop).eval()
        _, width = remove_head(model)
        assert model(torch.empty(2, 3, crop, crop)).shape == (2, width)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_model_without_its_head_returns_the_input_of_the_head(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_width(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in FAMILIES])
def test_every_other_model_without_its_head_returns_the_input_of_the_head(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_width(name, monkeypatch)


# what the features are


@pytest.mark.long
def test_features_agree_with_a_plain_loop_over_torchvision(tmp_path: Path, weights: Callable[..., str]) -> None:
    root = write(tmp_path / "root", *FILES)
    raw = frozen(root, backbone="resnet18", weights=weights("resnet18")).read()
    model = torchvision.models.resnet18()
    model.load_state_dict(torch.load(tmp_path / "weights.pth"))
    model.fc = nn.Identity()
    transforms = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    for split in ("train", "test"):
        theirs = torchvision.datasets.ImageFolder(str(root / split), transforms, allow_empty=True)
        with torch.inference_mode():
            expected = torch.cat([model.eval()(image[None]) for image, _ in theirs])
        assert features_of(raw, split).dtype == torch.float32
        torch.testing.assert_close(features_of(raw, split), expected, atol=1e-5, rtol=1e-4)
    assert raw.tables["train"].labels.tolist() == [0, 0, 1]
    assert raw.tables["test"].labels.tolist() == [1]
    assert (raw.class_names, raw.source, raw.image_shape, raw.scale) == (("a", "b"), "root", (), 1.0)


def test_rows_classes_and_notes_are_those_of_the_source(tmp_path: Path) -> None:
    root = write(tmp_path / "root", *FILES, size=(20, 20))
    (root / "train" / "a" / "x.txt").touch()
    ours, theirs = frozen(root).read(), ImageFolder(str(root), size=8, cache=None).read()
    assert (ours.class_names, ours.notes) == (theirs.class_names, theirs.notes)
    assert ours.notes != ()
    for split, table in theirs.tables.items():
        assert torch.equal(ours.tables[split].labels, table.labels)


@pytest.mark.long
def test_the_size_of_the_batches_does_not_matter(tmp_path: Path) -> None:
    root = write(tmp_path / "root", *(f"{c}/{n}.png" for c in "ab" for n in range(5)))
    first, second = (features_of(frozen(root, batch_size=size).read()) for size in (3, 64))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def test_size_and_grayscale_of_the_source_are_applied_first(tmp_path: Path) -> None:
    root = write(tmp_path / "root", *FILES)
    small = write(tmp_path / "small", *FILES)
    for file in small.rglob("*.png"):
        with Image.open(file) as image:
            reduced = torchvision.transforms.functional.resize(image.convert("L"), [10])
        torchvision.transforms.functional.center_crop(reduced, [10]).save(file)
    source = ImageFolder(str(root), size=10, grayscale=True, cache=None)
    raw = FrozenFeatures(source, SMALL, "none").read()
    assert (raw.backbone["size"], raw.backbone["grayscale"]) == (10, True)
    assert float((features_of(raw) - features_of(frozen(small).read())).abs().mean()) < 0.05


@pytest.mark.parametrize("name", ["mnist", "svhn"])
def test_images_of_torchvision_are_treated_as_files_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_fake(name, tmp_path / "root", classes=2)
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda _: True)
    for split, (images, labels) in written.items():
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = tmp_path / "files" / split / str(label) / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image if image.ndim == 2 else image.transpose(1, 2, 0)).save(file)
    ours = FrozenFeatures(Vision(name, str(tmp_path / "root"), cache=None), SMALL, "none").read()
    files = frozen(tmp_path / "files").read()
    for split, table in ours.tables.items():
        order = torch.argsort(table.labels, stable=True)  # folders come class by class
        torch.testing.assert_close(features_of(ours, split)[order], features_of(files, split), atol=1e-5, rtol=1e-4)
    assert ours.backbone["grayscale"] == (name == "mnist")


def test_random_weights_are_always_the_same_and_leave_the_seed_alone() -> None:
    torch.manual_seed(3)
    first = Backbone.build(SMALL, "none")
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    torch.manual_seed(4)
    assert Backbone.build(SMALL, "none").facts == first.facts


@pytest.mark.long
def test_from_facts_builds_the_same_backbone(tmp_path: Path, weights: Callable[..., str]) -> None:
    root = write(tmp_path / "root", *FILES)
    raw = frozen(root, weights=weights()).read()
    again = Backbone.from_facts(raw.backbone)
    with Image.open(root / "test" / "b" / "1.png") as image:
        (features,) = again.features([again.prepare(image)])
    torch.testing.assert_close(features, features_of(raw, "test"))
    weights(SMALL, lambda state: state["features.0.bias"].add_(1))
    with pytest.raises(ConfigError, match=r"^`backbone\.weights` must be those that .* checksum .*: find the old file"):
        Backbone.from_facts(raw.backbone)


# The cache


def test_with_a_filled_cache_neither_models_nor_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "root", *FILES)
    dataset = frozen(root, tmp_path / "cache")
    first = dataset.read()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr("logreg.data.sources.image_folder.open_image", None)
    second = dataset.read()
    for split, table in first.tables.items():
        assert torch.equal(features_of(first, split), features_of(second, split))
        assert torch.equal(table.labels, second.tables[split].labels)
    assert (first.class_names, first.backbone) == (second.class_names, second.backbone)


def test_with_a_filled_cache_torchvision_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fake("usps", tmp_path / "root", classes=2)
    dataset = FrozenFeatures(Vision("usps", str(tmp_path / "root"), cache=str(tmp_path / "cache")), SMALL, "none")
    first = dataset.read()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(Vision, "_read_pixels", None)
    assert torch.equal(features_of(dataset.read()), features_of(first))


@pytest.mark.long
@pytest.mark.parametrize("change", ["weights", "backbone", "image"])
def test_features_are_computed_again_after_a_change(change: str, tmp_path: Path, weights: Callable[..., str]) -> None:
    root, cache = write(tmp_path / "root", *FILES), tmp_path / "cache"
    file = weights()
    before = features_of(frozen(root, cache, weights=file).read())
    name = SMALL
    if change == "weights":
        weights(SMALL, lambda state: state["features.0.bias"].add_(1))
    elif change == "backbone":
        name, file = "shufflenet_v2_x0_5", weights("shufflenet_v2_x0_5")
    else:
        write(root, "train/z/0.png", FILES[0])
        (root / "train/z/0.png").unlink()
        (root / "train/z").rmdir()
    after = features_of(frozen(root, cache, backbone=name, weights=file).read())
    assert after.shape != before.shape or not torch.equal(after[0], before[0])


# Weights from a file


def drop_head(state: Any) -> None:
    for key in ("fc.weight", "fc.bias"):
        del state[key]


@pytest.mark.parametrize("arguments", [{}, {"num_classes": 7}, {"change": drop_head}])
def test_the_head_of_a_file_may_be_any_or_missing(arguments: dict[str, Any], weights: Callable[..., str]) -> None:
    built = Backbone.build("shufflenet_v2_x0_5", weights("shufflenet_v2_x0_5", **arguments))
    state = torch.load(weights("shufflenet_v2_x0_5", **arguments), weights_only=True)
    for key, value in built.model.state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.long
def test_the_state_dicts_that_torchvision_distributes_are_read(weights: Callable[..., str]) -> None:
    def as_of_old(state: Any) -> None:
        for key in list(state):
            state[re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key)] = state.pop(key)

    Backbone.build("densenet121", weights("densenet121", as_of_old))
    Backbone.build("googlenet", weights("googlenet", init_weights=False))  # with heads beside the way
    Backbone.build("mnasnet0_5", weights("mnasnet0_5"))  # tells its version in an attribute


def shorten(state: Any) -> None:
    state["features.0.bias"] = state["features.0.bias"][:3]


def rename(state: Any) -> None:
    state["odd"] = state["features.0.bias"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("features.0.bias"), "features.0.bias is missing."),
        (shorten, "features.0.bias is 3, not 64."),
        (rename, "odd is not one of them."),
    ],
)
def test_weights_of_another_model_are_named(change: Any, message: str, weights: Callable[..., str]) -> None:
    file = weights(SMALL, change)
    message = f"`backbone.weights={file}` must hold the weights of the model, and {message}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        Backbone.build(SMALL, file)


@pytest.mark.parametrize("content", ["broken", "a list", "a whole checkpoint", "code"])
def test_a_file_that_is_not_a_state_dict_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    if content == "broken":
        file.write_bytes(b"not a pickle")
    else:
        values = {"a list": [1], "a whole checkpoint": {"model": {}, "epoch": 3}, "code": Path.cwd}
        torch.save(values[content], file)
    with pytest.raises(
        ConfigError, match=r"^`backbone\.weights` must be a file .*, got '.*'\. Write it with torch\.save"
    ):
        Backbone.build(SMALL, str(file))


# Weights from the network


def member() -> Any:
    return torchvision.models.get_model_weights(SMALL).DEFAULT


def test_weights_that_cannot_be_downloaded_are_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # by way of a proxy that nobody runs
    *_, host, _, file = member().url.split("/")
    message = (
        f"`backbone.weights=DEFAULT` could not be downloaded: {file}: {host}: Connection refused. "
        f"Put {member().url} into {tmp_path}/torch/hub/checkpoints, or set `backbone.weights` to a file with a state "
        "dict, or to none for random weights."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        Backbone.build(SMALL, "DEFAULT")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_downloaded_once(
    tmp_path: Path, weights: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there" / "small-0000.pth"
    there.parent.mkdir()
    Path(weights()).rename(there)
    digest = hashlib.sha256(there.read_bytes()).hexdigest()[:8]
    there = there.rename(there.with_name(f"small-{digest}.pth"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with serving(there.parent) as server:
        url = server.address + there.name
        monkeypatch.setattr(member(), "_value_", dataclasses.replace(member().value, url=url))
        built = Backbone.build(SMALL, "DEFAULT")
        assert Backbone.build(SMALL, "DEFAULT").facts["checksum"] == built.facts["checksum"]
        assert server.requested == [there.name]
    assert built.facts["checksum"] == Backbone.build(SMALL, str(there)).facts["checksum"]
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    assert [file.name for file in folder.iterdir()] == [there.name]
    assert capfd.readouterr().err == (
        f"{SMALL}: downloading its weights from {server.address} to {folder}\n"
        f"  {there.name}, {format_bytes(there.stat().st_size)}\n"
    )


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_a_weights_file_in_the_folder_of_torch_hub_is_used(
    name: str, tmp_path: Path, weights: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / Path(member().url).name
    file.parent.mkdir(parents=True)
    Path(weights()).rename(file)
    built = Backbone.build(SMALL, name)
    assert built.facts["weights"] == "IMAGENET1K_V1"
    assert built.facts["checksum"] == Backbone.build(SMALL, str(file)).facts["checksum"]
    assert built.facts["checksum"] != Backbone.build(SMALL, "none").facts["checksum"]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=rf"^`backbone\.weights={name}` must .* {file} is broken\. Remove it\.$"):
        Backbone.build(SMALL, name)


# Errors


def test_unknown_names_offer_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^`backbone` must be one of alexnet, .* got 'resnet81'\. Did you mean resnet"
    ):
        Backbone.build("resnet81", "none")
    with pytest.raises(
        ConfigError,
        match=r"^`backbone\.weights` must be one of DEFAULT, IMAGENET1K_V1, none, or a file with a state dict, got 'x'",
    ):
        Backbone.build(SMALL, "x")
    with pytest.raises(ConfigError, match=r"^`backbone` must be none with dataset=toy, which has no images, got"):
        FrozenFeatures(Toy(), SMALL, "none")


@pytest.mark.parametrize(("key", "value"), [("batch_size", 0), ("weights", None), ("backbone", 3)])
def test_arguments_are_checked_before_reading(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^`backbone\.(batch_size|weights|name)` must be"):
        frozen(tmp_path, **{key: value})


def test_a_broken_image_is_named_and_nothing_is_cached(tmp_path: Path) -> None:
    root = write(tmp_path / "root", *FILES)
    (root / FILES[1]).write_bytes((root / FILES[1]).read_bytes()[:500])
    with pytest.raises(DataError, match=rf"1 of 4 cannot: {FILES[1]} \("):
        frozen(root, tmp_path / "cache").read()
    assert list((tmp_path / "cache").glob("[!.]*")) == []


def test_only_a_few_images_are_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "root", *(f"{c}/{n}.png" for c in "ab" for n in range(60)))
    alive = most = 0

    class Pixels:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def features(self: Any, prepared: Any, batch_size: int) -> Any:
        for _ in prepared:
            yield torch.zeros(1, self.facts["num_features"])

    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(2))
    monkeypatch.setattr("logreg.data.formats.images.IMAGES_PER_TASK", 4)
    monkeypatch.setattr(backbone_module.Backbone, "prepare", lambda *_: Pixels())
    monkeypatch.setattr(backbone_module.Backbone, "features", features)
    frozen(root).read()
    assert 0 < most < 40


# Kinds of image files


def test_16_bits_transparency_broken_files_and_groups_are_treated_as_without_a_backbone(tmp_path: Path) -> None:
    root = write(tmp_path / "root", "a/1.png", "a/2.png", "b/1.png")
    wide = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    Image.fromarray(wide).save(root / "a" / "12_bits.png")
    Image.new("RGBA", (30, 40), (0, 0, 0, 0)).save(root / "b" / "clear.png")
    (root / "a" / "1.png").write_bytes(b"no image")
    for _ in range(2):  # from the files, and from the cache
        source = ImageFolder(str(root), broken="skip", group=r"/(\w)", cache=str(tmp_path / "cache"))
        raw = FrozenFeatures(source, SMALL, "none").read()
        table, features = raw.tables["train"], features_of(raw)
        assert table.labels.tolist() == [0, 0, 1, 1]
        assert table.groups is not None
        assert table.groups.tolist() == [0, 1, 0, 2]  # 1, 2, 1 and c
        assert raw.notes == (
            "1 image cannot be read, left out: a/1.png",
            "1 image with transparent parts, shown on white: b/clear.png",
            "1 image of 16 bits per pixel, with white at 4,095 (set another with dataset.white_level): a/12_bits.png",
        )
    backbone = Backbone.from_facts(raw.backbone)
    as_bytes = Image.fromarray(np.rint(wide / 4095 * 255).astype(np.uint8))
    images = [as_bytes, Image.new("RGB", (30, 40), (255, 255, 255))]
    (right,) = backbone.features([backbone.prepare(image) for image in images])
    torch.testing.assert_close(features[[0, 3]], right)
    (root / "a" / "1.png").unlink()
    facts = DataFacts("image_folder", len(right[0]), ("a", "b"), {"train": 4}, backbone=raw.backbone, pixels=raw.pixels)
    _, blocks = NewRowsReader(facts, {}).read(str(root))
    torch.testing.assert_close(torch.cat([block.features for block in blocks]), features)
