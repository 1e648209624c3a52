"""Changed images: each change against torchvision's own, draws by seed, epoch and row, copies and their cache."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

import logreg.data.augmentation as augmentation_module
from fake_mnist import write_fake
from logreg.data import Table, TensorDataModule, build_dataset
from logreg.data.augmentation import Augmentation, cropped, flipped, shifted, transformed, with_copies
from logreg.data.sources.frozen_features import Backbone, FrozenFeatures
from logreg.data.sources.image_folder import ImageFolder
from logreg.errors import ConfigError
from logreg.facts import Batch
from logreg.sections import augmentation_of

SHAPES = [(1, 28, 28), (3, 32, 24), (3, 7, 9), (1, 1, 5)]
ALL: dict[str, Any] = {
    "shift": 2,
    "flip": 0.5,
    "crop": 0.4,
    "affine": {"degrees": 20, "translate": 0.1, "scale": 0.2, "shear": 5},
}


def images_of(shape: tuple[int, int, int], rows: int = 40, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (rows, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def parameters(rows: int, number: int) -> Tensor:
    """Numbers in [0, 1) for each row, shape (number, rows), float64."""
    return torch.from_numpy(np.random.default_rng(1).random((number, rows)))


# Against torchvision, picture by picture


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shift_is_that_of_torchvision(shape: tuple[int, int, int]) -> None:
    images = images_of(shape)
    right, down = (parameters(len(images), 2) * 7).long() - 3
    expected = [
        functional.affine(one, angle=0, translate=[int(x), int(y)], scale=1, shear=[0, 0])
        for one, x, y in zip(images, right, down, strict=True)
    ]
    assert torch.equal(shifted(images, right, down, 3), torch.stack(expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_flip_is_that_of_torchvision(shape: tuple[int, int, int]) -> None:
    images = images_of(shape)
    chosen = parameters(len(images), 1)[0] < 0.5
    expected = [
        functional.horizontal_flip(one) if which else one for one, which in zip(images, chosen.tolist(), strict=True)
    ]
    assert torch.equal(flipped(images, chosen), torch.stack(expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_crop_is_that_of_torchvision(shape: tuple[int, int, int]) -> None:
    images, (_, height, width) = images_of(shape), shape
    draws = parameters(len(images), 4)
    heights, widths = (draws[0] * height).long() + 1, (draws[1] * width).long() + 1
    tops, lefts = (draws[2] * (height - heights + 1)).long(), (draws[3] * (width - widths + 1)).long()
    expected = torch.stack(
        [
            functional.resized_crop(one.double(), int(y), int(x), int(h), int(w), [height, width])
            for one, y, x, h, w in zip(images, tops, lefts, heights, widths, strict=True)
        ]
    )
    found = cropped(images.double(), tops, lefts, heights, widths)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    # Of bytes, halves may be rounded to either side.
    in_bytes = cropped(images, tops, lefts, heights, widths)
    assert in_bytes.dtype == torch.uint8
    assert float((in_bytes - expected).abs().max()) < 0.5 + 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_an_affine_change_is_that_of_torchvision(shape: tuple[int, int, int]) -> None:
    images = images_of(shape)
    draws = 2 * parameters(len(images), 5) - 1
    degrees, right, down = 90 * draws[0], (3 * draws[1]).round(), (3 * draws[2]).round()
    scale, shear = 1 + 0.5 * draws[3], 30 * draws[4]
    each = list(zip(degrees, right, down, scale, shear, strict=True))
    expected = torch.stack(
        [
            functional.affine(
                one.double(), float(a), [int(x), int(y)], float(s), [float(k), 0], InterpolationMode.BILINEAR
            )
            for one, (a, x, y, s, k) in zip(images, each, strict=True)
        ]
    )
    found = transformed(images.double(), degrees, right, down, scale, shear)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    in_bytes = transformed(images, degrees, right, down, scale, shear)
    assert float((in_bytes - expected).abs().max()) < 0.5 + 1e-3


# From draws to changes


def test_draws_reach_every_shift_alike_and_flip_as_often_as_said() -> None:
    images = torch.zeros(20_000, 5, 5, dtype=torch.uint8)
    images[:, 2, 2] = 1
    shift = Augmentation(augmentation_of({"shift": 1}))
    rate = shift(images, shift.draws(len(images), 0, 0)).double().mean(0)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[1:4, 1:4] = 1 / 9
    torch.testing.assert_close(rate, expected, rtol=0, atol=5 * math.sqrt(1 / 9 / len(images)))
    images = torch.tensor([[[1, 0]]], dtype=torch.uint8).expand(20_000, 1, 2)
    flip = Augmentation(augmentation_of({"flip": 0.3}))
    rate = flip(images, flip.draws(len(images), 0, 0)).double().mean(0)
    torch.testing.assert_close(rate, torch.tensor([[0.7, 0.3]]).double(), rtol=0, atol=0.02)


def test_crops_keep_at_least_the_area_said_and_affine_changes_stay_within_their_strengths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, list[Tensor]] = {}
    for name in ("cropped", "transformed"):
        kept = seen.setdefault(name, [])

        def keep(images: Tensor, *arguments: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(torch.stack([argument.double() for argument in arguments]))
            return images

        monkeypatch.setattr(augmentation_module, name, keep)
    change = Augmentation(augmentation_of({"crop": 0.5, "affine": ALL["affine"]}))
    change(torch.zeros(2000, 1, 40, 30), change.draws(2000, 0, 0))
    top, left, height, width = torch.cat(seen["cropped"], dim=1)
    assert 0.45 * 1200 < float((height * width).min()) < 0.6 * 1200
    assert float((height * width).max()) > 0.9 * 1200
    assert float(top.min()) == float(left.min()) == 0
    assert float((top + height).max()) == 40
    assert float((left + width).max()) == 30
    degrees, right, down, scale, shear = torch.cat(seen["transformed"], dim=1)
    for found, most in ((degrees, 20), (right, 3), (down, 4), (scale - 1, 0.2), (shear, 5)):
        assert 0.95 * most < float(found.abs().max()) <= most
        assert abs(float(found.mean())) < 0.1 * most


def test_the_changes_come_in_the_order_typed() -> None:
    images = images_of((1, 6, 6)).squeeze(1)
    for typed in (["flip", "shift"], ["shift", "flip"]):
        both = Augmentation(augmentation_of(typed))
        draws, found, first = both.draws(len(images), 0, 0), images, 0
        for name in typed:
            one = Augmentation(augmentation_of(name))
            width = 2 if name == "shift" else 1
            found = one(found, draws[:, first : first + width])
            first += width
        assert torch.equal(both(images, draws), found)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float64])
def test_images_keep_their_type_and_shape_whatever_the_size_of_a_part(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Augmentation(augmentation_of(ALL))
    images = (images_of((3, 9, 8)).to(torch.int32) * (1 if dtype == torch.uint8 else 257)).to(dtype)
    draws = change.draws(len(images), 3, 1)
    found = change(images, draws)
    assert (found.dtype, found.shape) == (dtype, images.shape)
    assert not torch.equal(found, images)
    monkeypatch.setattr(augmentation_module, "PIXELS_AT_ONCE", 1)
    assert torch.equal(change(images, draws), found)


# Drawn anew in each epoch


def digits(copies: int = 0, seed: int = 0, augment: Any = ("shift", "flip"), **arguments: Any) -> TensorDataModule:
    return TensorDataModule(
        build_dataset("digits", {}),
        split={"val": 0.2, "test": 0.2},
        seed=seed,
        augment=augmentation_of(augment),
        copies=copies,
        **{"batch_size": 32, **arguments},
    )


def epoch_of(data: TensorDataModule, epoch: int) -> list[Batch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # ours; Lightning calls it
    return list(loader)


def test_a_row_is_drawn_by_seed_epoch_and_position_and_by_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_row(blocks: list[Batch], order: Tensor) -> Tensor:
        features = torch.cat([block.features for block in blocks])
        return torch.empty_like(features).index_copy_(0, order, features)

    def order_of(data: TensorDataModule, epoch: int) -> Tensor:
        sampler = data.train_dataloader().sampler
        sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # ours has it
        every = torch.arange(data.facts.rows["train"])
        return torch.cat([every[rows] for _, rows in sampler])

    data = digits()
    first = by_row(epoch_of(data, 0), order_of(data, 0))
    later = by_row(epoch_of(data, 1), order_of(data, 1))
    change, train = data.augmentation, data.tables["train"]
    images = train.select(train.matrix).float().view(-1, 8, 8)
    for epoch, found in enumerate((first, later)):
        expected = change(images, change.draws(len(images), 0, epoch)).flatten(1) / 16
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(first, later)
    loader = data.train_dataloader()  # as Lightning has it: the same one for all epochs
    for epoch, found in ((0, first), (1, later), (0, first)):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # ours has it
        assert torch.equal(by_row(list(loader), order_of(data, epoch)), found)
    whole = by_row(epoch_of(full := digits(batch_size=None), 0), order_of(full, 0))
    torch.testing.assert_close(whole, first, rtol=0, atol=0)
    monkeypatch.setattr("logreg.data.blocks.LOADED_BLOCK_BYTES", 32 * 64 * 4)
    blocks = epoch_of(data, 1)
    assert len(blocks) > 30
    # A process of a DataLoader has a copy of the dataset from before the epoch, and fetches some of the blocks.
    loader = data.train_dataloader()
    process = pickle.loads(pickle.dumps(loader.dataset))
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]  # ours has it
    for place, block in list(zip(loader.sampler, blocks, strict=True))[::-2]:
        assert torch.equal(process[place].features, block.features)
    torch.testing.assert_close(by_row(epoch_of(data, 1), order_of(data, 1)), later, rtol=0, atol=0)
    other_seed = digits()
    other_seed.seed = 1
    assert not torch.equal(by_row(epoch_of(other_seed, 0), order_of(other_seed, 0)), first)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "qmnist", "usps", "svhn", "cifar10", "stl10"])
@pytest.mark.parametrize("copies", [0, 2])
def test_the_datasets_of_torchvision_stay_bytes_and_keep_val_and_test(
    name: str, copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ("svhn", "cifar10", "stl10"):  # the checksums are those of the true files
        monkeypatch.setattr(
            f"torchvision.datasets.{'cifar' if name == 'cifar10' else name}.check_integrity", lambda *_: True
        )
    write_fake(name, tmp_path / "root")
    source = build_dataset(name, {"root": str(tmp_path / "root"), "cache": str(tmp_path / "cache")})
    plain, changed = (
        TensorDataModule(source, batch_size=4, split={"val": 0.3}, augment=augmentation_of(names), copies=copies)
        for names in (None, ALL)
    )
    for split in ("val", "test"):
        for one, other in zip(plain.blocks(split), changed.blocks(split), strict=True):
            assert torch.equal(one.features, other.features)
            assert torch.equal(one.labels, other.labels)
    assert changed.facts.copies == copies
    assert changed.facts.rows["train"] == (1 + copies) * plain.facts.rows["train"]
    blocks = list(changed.train_dataloader())
    assert {block.features.dtype for block in blocks} == {torch.uint8}
    before, after = (table.select(table.matrix) for table in (plain.tables["train"], changed.tables["train"]))
    assert torch.equal(after[: len(before)], before)
    for number in range(copies):
        copy = after[(1 + number) * len(before) : (2 + number) * len(before)]
        expected = changed.augmentation(
            before.view(-1, *plain.facts.image_shape), changed.augmentation.draws(len(before), 0, number)
        )
        assert torch.equal(copy, expected.flatten(1))
        assert not torch.equal(copy, before)


# Copies


def test_copies_have_the_label_the_weight_and_the_group_of_their_row() -> None:
    features, labels = torch.arange(24.0).view(6, 4), torch.tensor([0, 1, 0, 1, 1, 0])
    weights, groups = torch.arange(6.0).double(), torch.tensor([5, 4, 4, 3, 3, 3])
    train = Table(features, labels, torch.tensor([4, 0, 5]), weights, groups)
    source = build_dataset("digits", {})  # has no cache
    found = with_copies(train, source, (2, 2), Augmentation(augmentation_of("flip")), 2, seed=0)
    assert len(found) == 9
    assert found.labels.tolist() == [1, 0, 0] * 3
    assert found.sample_weight is not None
    assert found.sample_weight.tolist() == [4, 0, 5] * 3
    assert found.groups is not None
    assert found.groups.tolist() == [3, 5, 3] * 3
    mirrored = features[[4, 0, 5]].view(3, 2, 2).flip(2).flatten(1)
    for row, (copy, same, other) in enumerate(
        zip(found.matrix.view(3, 3, 4)[1], features[[4, 0, 5]], mirrored, strict=True)
    ):
        assert torch.equal(copy, same) or torch.equal(copy, other), row


def test_class_weights_and_rows_count_copies_and_the_checksum_is_that_of_the_rows() -> None:
    plain, copied = digits(augment=None), digits(copies=3, class_weight="balanced")
    assert copied.facts.rows == {**plain.facts.rows, "train": 4 * plain.facts.rows["train"]}
    assert copied.facts.source_rows == plain.facts.rows["train"]
    assert copied.facts.class_weight == digits(augment=None, class_weight="balanced").facts.class_weight
    assert copied.facts.fingerprint == plain.facts.fingerprint
    assert copied.notes == (
        f"train counts {plain.facts.rows['train']:,} rows and 3 changed copies of each, {4 * 1079:,} in all: "
        "shift (pixels 2), flip (probability 0.5)",
    )


def test_copies_are_computed_once_for_the_same_rows_seed_and_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fake("usps", tmp_path / "root")
    source = build_dataset("usps", {"root": str(tmp_path / "root"), "cache": str(tmp_path / "cache")})
    computed: list[Any] = []
    compute = augmentation_module._rows_and_copies

    def counted(*given: Any) -> Tensor:
        computed.append(given)
        return compute(*given)

    monkeypatch.setattr(augmentation_module, "_rows_and_copies", counted)

    def train(augment: Any = "shift", copies: int = 1, seed: int = 0) -> Tensor:
        data = TensorDataModule(source, seed=seed, augment=augmentation_of(augment), copies=copies)
        return data.tables["train"].matrix

    first = train()
    assert torch.equal(train(), first)
    assert len(computed) == 1
    for number, other in enumerate(
        (train({"shift": 1}), train(["shift", "flip"]), train(["flip", "shift"]), train(copies=2), train(seed=1)), 2
    ):
        assert len(computed) == 6
        assert other.shape != first.shape or not torch.equal(other, first), number


def write_folder(root: Path, rows: int = 6) -> Path:
    for number in range(rows):
        file = root / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return root


@pytest.mark.long
@pytest.mark.parametrize("cached", [False, True])
def test_with_a_backbone_the_copies_of_train_go_through_it_once(
    cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "cache") if cached else None
    source = ImageFolder(str(write_folder(tmp_path / "images")), cache=cache)
    changes = augmentation_of(["flip", "crop"])

    def read(augment: Any) -> TensorDataModule:
        frozen = FrozenFeatures(source, "squeezenet1_1", "none", batch_size=2)
        return TensorDataModule(frozen, split={"val": 0.3, "test": 0}, seed=3, augment=augment, copies=2)

    plain, copied = read(None), read(changes)
    before, after = (table.select(table.matrix) for table in (plain.tables["train"], copied.tables["train"]))
    assert torch.equal(after[: len(before)], before)
    assert torch.equal(*(data.rows("val", [0, 1]).features for data in (plain, copied)))
    backbone = Backbone.from_facts(plain.facts.backbone)
    names = sorted((tmp_path / "images").glob("*/*.png"), key=lambda file: (file.parent.name, file.name))
    chosen = plain.source_row_numbers("train")
    images = torch.stack([backbone.prepare(Image.open(names[row])) for row in chosen.tolist()])
    for number in range(2):
        change = Augmentation(changes)
        expected = torch.cat([*backbone.features(change(images, change.draws(len(images), 3, number)))])
        found = after[(1 + number) * len(before) : (2 + number) * len(before)]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if cached:
        monkeypatch.setattr(Backbone, "build", lambda *_: pytest.fail("the features are in the cache"))
        assert torch.equal(read(changes).tables["train"].matrix, after)


def test_image_folders_in_grayscale_or_not_have_copies(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    for grayscale, channels in ((True, 1), (False, 3)):
        source = ImageFolder(str(root), size=8, grayscale=grayscale, cache=None)
        data = TensorDataModule(source, split={"val": 0.3, "test": 0}, augment=augmentation_of("flip"), copies=4)
        rows = data.facts.source_rows
        images = data.tables["train"].matrix.view(5, rows, channels, 8, 8)
        same, mirrored = ((images[1:] == other).flatten(2).all(2) for other in (images[0], images[0].flip(3)))
        assert bool((same | mirrored).all())
        assert bool(same.any())
        assert bool(mirrored.any())


# Mistakes


def test_a_change_must_suit_the_images() -> None:
    with pytest.raises(ConfigError, match=r"^`dataset\.augment\.shift` must be less than 8 pixels, .*, got 8\.$"):
        digits(augment={"shift": 8}).setup()
    assert digits(augment={"shift": 7}).facts.augment == {"shift": {"pixels": 7}}
    iris = TensorDataModule(build_dataset("iris", {}), augment=augmentation_of("flip"))
    with pytest.raises(ConfigError, match=r"^`dataset\.augment` must go with images, and dataset=iris has none\."):
        iris.setup()


def test_facts_travel_as_plain_values() -> None:
    facts = digits(copies=2, augment=ALL).facts
    assert type(facts).from_dict(facts.as_dict()) == facts
    assert not facts.draws_anew
    assert digits().facts.draws_anew
    old = {key: value for key, value in facts.as_dict().items() if key not in ("augment", "copies")}
    assert type(facts).from_dict(old) == dataclasses.replace(facts, augment={}, copies=0)
