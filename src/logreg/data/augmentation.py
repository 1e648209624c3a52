"""Augmented images: random changes of train images, drawn anew in each epoch or kept as copies of the rows.

The changes are those of torchvision.transforms.v2, for many images at once, each with parameters of its own.  What a
row becomes depends on the seed, on the number of the draw (an epoch, or a copy) and on its position in train, on
nothing else: not on the order of the blocks, and not on the process that computes them.

References:
    torchvision, transforms v2, https://pytorch.org/vision/stable/transforms.html
    Simard, Steinkraus and Platt (2003), Best practices for convolutional neural networks applied to visual document
    analysis: shifts and affine changes of digits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad
from torch.utils.data import DataLoader, Dataset, Sampler

from logreg.data.base import Table
from logreg.data.blocks import BlockDataset, BlockSampler, Positions
from logreg.data.formats.cache import CacheEntry, load_or_compute
from logreg.errors import ConfigError
from logreg.facts import Batch

AUGMENTATION_VERSION = 1
"""Version of the changes, which is part of the cache's key: raise it when the same draws give other pixels."""

PIXELS_AT_ONCE = 2**18
"""Pixels that are changed at once: their copy in float32 and their grid stay in the cache of common processors."""

LARGEST_LOG_RATIO = math.log(4 / 3)
"""Logarithm of the largest ratio of the sides of a crop, the default of torchvision's RandomResizedCrop."""


# The changes, each image with its own parameters


def shifted(images: Tensor, right: Tensor, down: Tensor, most: int) -> Tensor:
    """Images moved by whole pixels; 0 moves in from outside.

    Args:
        images: Shape (N, C, H, W).
        right: Pixels to the right, shape (N,), int64, in [-most, most].
        down: Pixels down, shape (N,).
        most: Largest shift.
    """
    height, width = images.shape[2:]
    windows = pad(images, [most] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, most - down, most - right]


def flipped(images: Tensor, chosen: Tensor) -> Tensor:
    """Images mirrored from left to right where ``chosen``, shape (N,), bool."""
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


def cropped(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Parts of images, resized to the size of the whole, bilinear.

    Args:
        images: Shape (N, C, H, W).
        top: First row of the part, in pixels, shape (N,).
        left: First column.
        height: Number of rows.
        width: Number of columns.
    """
    axes = []
    for size, first, length in zip(images.shape[2:], (top, left), (height, width), strict=True):
        first, length = (part.view(-1, 1).double() for part in (first, length))
        pixel = (torch.arange(size, device=images.device) + 0.5) * (length / size) - 0.5
        inside = torch.minimum(pixel.clamp(min=0), length - 1) + first
        axes.append(inside * (2 / max(size - 1, 1)) - 1)
    y, x = axes
    return _sampled(images, x.unsqueeze(1), y.unsqueeze(2), align_corners=True)


def transformed(images: Tensor, degrees: Tensor, right: Tensor, down: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Images after a rotation, translation, scaling and shear about their center, bilinear; 0 comes in from outside.

    Args:
        images: Shape (N, C, H, W).
        degrees: Rotation, clockwise, shape (N,).
        right: Translation to the right, in pixels.
        down: Translation down.
        scale: Factor, > 0.
        shear: Shear along the rows, in degrees.
    """
    angle, slope = degrees.deg2rad(), shear.deg2rad().tan()
    sine, cosine = angle.sin(), angle.cos()
    # The inverse of: shear, scale, rotate, translate.
    xx, xy = cosine - sine * slope, cosine * slope + sine
    yx, yy = -sine, cosine
    height, width = images.shape[2:]
    column, row = (torch.arange(size, device=images.device) - (size - 1) / 2 for size in (width, height))
    column, row = column - right.view(-1, 1), row - down.view(-1, 1)

    def axis(of_column: Tensor, of_row: Tensor, size: int) -> Tensor:
        factor = 2 / (size * scale)
        along = (of_column * factor).view(-1, 1) * column
        return along.unsqueeze(1) + ((of_row * factor).view(-1, 1) * row).unsqueeze(2)

    return _sampled(images, axis(xx, xy, width), axis(yx, yy, height), align_corners=False)


def _sampled(images: Tensor, x: Tensor, y: Tensor, align_corners: bool) -> Tensor:
    """Images at other places, bilinear: x (N, 1 or H, W), y (N, H, 1 or W) in [-1, 1]; whole numbers are rounded."""
    dtype = images.dtype if images.is_floating_point() else torch.float32
    places = torch.stack(torch.broadcast_tensors(x.to(dtype), y.to(dtype)), dim=-1)
    values = grid_sample(images.to(dtype), places, align_corners=align_corners)
    return values if images.is_floating_point() else values.round_().to(images.dtype)


# From draws in [0, 1) to parameters


def _shift(images: Tensor, draws: Tensor, strengths: Mapping[str, float]) -> Tensor:
    most = int(strengths["pixels"])
    right, down = ((draws * (2 * most + 1)).long() - most).unbind(1)
    return shifted(images, right, down, most)


def _flip(images: Tensor, draws: Tensor, strengths: Mapping[str, float]) -> Tensor:
    return flipped(images, draws[:, 0] < strengths["probability"])


def _crop(images: Tensor, draws: Tensor, strengths: Mapping[str, float]) -> Tensor:
    of_area, of_ratio, down, right = draws.unbind(1)
    height, width = images.shape[2:]
    area = height * width * (1 - of_area * (1 - strengths["area"]))
    ratio = ((2 * of_ratio - 1) * LARGEST_LOG_RATIO).exp()
    part_width = (area * ratio).sqrt().round().clamp(1, width)
    part_height = (area / ratio).sqrt().round().clamp(1, height)
    top, left = (down * (height - part_height + 1)).floor(), (right * (width - part_width + 1)).floor()
    return cropped(images, top, left, part_height, part_width)


def _affine(images: Tensor, draws: Tensor, strengths: Mapping[str, float]) -> Tensor:
    degrees, right, down, scale, shear = (2 * draws - 1).unbind(1)
    height, width = images.shape[2:]
    return transformed(
        images,
        degrees * strengths["degrees"],
        (right * (strengths["translate"] * width)).round(),
        (down * (strengths["translate"] * height)).round(),
        1 + scale * strengths["scale"],
        shear * strengths["shear"],
    )


class _Change(NamedTuple):
    """A random change of images."""

    apply: Callable[[Tensor, Tensor, Mapping[str, float]], Tensor]
    """Takes images (N, C, H, W), draws (N, num_draws) in [0, 1) and the strengths."""
    num_draws: int


CHANGES = {
    "shift": _Change(_shift, 2),
    "flip": _Change(_flip, 1),
    "crop": _Change(_crop, 4),
    "affine": _Change(_affine, 5),
}
"""The changes, by the names in `logreg.sections.AUGMENT`."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of images, one after the other.

    Attributes:
        strengths: Strengths of each change, by its name, as `logreg.sections.augmentation_of` returns them.
    """

    strengths: Mapping[str, Mapping[str, float]]

    def draws(self, rows: int, seed: int, number: int) -> Tensor:
        """The random numbers of all rows, shape (rows, n), float64 in [0, 1).

        Args:
            rows: Number of train rows.
            seed: Seed of the run.
            number: Number of the draw, from 0: an epoch, or a copy.
        """
        width = sum(CHANGES[name].num_draws for name in self.strengths)
        return torch.from_numpy(np.random.default_rng([seed, number]).random((rows, width)))

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Changed images, of the shape and type of ``images``: (N, H, W) or (N, C, H, W); draws are those of the N."""
        out = torch.empty_like(images)
        rows = max(1, PIXELS_AT_ONCE // max(images[:1].numel(), 1))
        for part, drawn, place in zip(images.split(rows), draws.split(rows), out.split(rows), strict=True):
            place.copy_(self._changed(part, drawn))
        return out

    def _changed(self, images: Tensor, draws: Tensor) -> Tensor:
        shape, first = images.shape, 0
        images = images.unsqueeze(1) if images.ndim == 3 else images
        for name, strengths in self.strengths.items():
            change = CHANGES[name]
            images = change.apply(images, draws[:, first : first + change.num_draws], strengths)
            first += change.num_draws
        return images.view(shape)

    def check_size(self, height: int, width: int) -> None:
        """Checks that the images are large enough.

        Raises:
            ConfigError: A shift would move all pixels out.
        """
        pixels, side = self.strengths.get("shift", {}).get("pixels", 0), min(height, width)
        if pixels >= side:
            raise ConfigError.broken(
                "dataset.augment.shift", f"be less than {side} pixels, the shorter side of the images", pixels
            )

    def in_words(self) -> str:
        """The changes with their strengths, such as "shift (pixels 2), flip (probability 0.5)"."""
        return ", ".join(
            f"{name} ({', '.join(f'{part} {value:g}' for part, value in strengths.items() if value)})"
            for name, strengths in self.strengths.items()
        )


# Drawn anew in each epoch


class _EpochSampler(Sampler[tuple[int, Positions]]):
    """The positions of each block with the epoch, which travels with them to whatever process fetches the rows."""

    def __init__(self, blocks: BlockSampler) -> None:
        self._blocks = blocks

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; Lightning calls this before each epoch, also after a resume."""
        self._blocks.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[tuple[int, Positions]]:
        return ((self._blocks.epoch, rows) for rows in self._blocks)


class _ChangedRows(Dataset[Batch]):
    """The rows of a split, whose images are changed when a block is fetched."""

    def __init__(self, rows: BlockDataset, shape: tuple[int, ...], augmentation: Augmentation, seed: int) -> None:
        self._rows, self._shape, self._augmentation, self._seed = rows, shape, augmentation, seed
        self._unconverted = BlockDataset(
            rows.features, rows.labels, rows.index, 1.0, rows.features.dtype, rows.sample_weight
        )
        self._drawn: tuple[int, Tensor] = -1, torch.empty(0)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: tuple[int, Positions]) -> Batch:
        epoch, positions = place
        if self._drawn[0] != epoch:
            self._drawn = epoch, self._augmentation.draws(len(self), self._seed, epoch)
        rows = self._rows
        block = self._unconverted[positions]
        images, drawn = block.features.view(-1, *self._shape), self._drawn[1][positions]
        changed = self._augmentation(images, drawn.to(block.features.device)).flatten(1)
        made = BlockDataset(changed, block.labels, None, rows.scale, rows.dtype, block.sample_weight, rows.stored)
        return made[:]._replace(positions=block.positions)


def drawn_anew(
    loader: DataLoader[Batch], shape: tuple[int, ...], augmentation: Augmentation, seed: int
) -> DataLoader[Batch]:
    """A loader of the same blocks, whose images are changed at random, in each epoch otherwise.

    Args:
        loader: Loader of images by `block_loader`.
        shape: Shape of an image.
        augmentation: The changes.
        seed: Seed of the draws.
    """
    rows, blocks = loader.dataset, loader.sampler
    assert isinstance(rows, BlockDataset)
    assert isinstance(blocks, BlockSampler)
    changed = _ChangedRows(rows, shape, augmentation, seed)
    return DataLoader(changed, batch_size=None, sampler=_EpochSampler(blocks))


# Copies of the rows


@runtime_checkable
class FeatureSource(Protocol):
    """A dataset that computes features from images: it changes the images, and computes the features of the copies."""

    def features_of_copies(self, rows: Tensor, augmentation: Augmentation, copies: int, seed: int) -> Tensor:
        """Features of changed copies of train images, first those of the first copy, shape (copies * n, F).

        Args:
            rows: Row numbers in the source, shape (n,).
            augmentation: The changes.
            copies: Copies of each row.
            seed: Seed of the draws.
        """


def with_copies(
    train: Table, source: Any, shape: tuple[int, ...], augmentation: Augmentation, copies: int, seed: int
) -> Table:
    """The train rows, then their first copies in the same order, then the second ones, and so on.

    Args:
        train: The n train rows, with images or features of images.
        source: The dataset; its ``cache``, where it has one, keeps the copies.
        shape: Shape of an image; empty where the source computes features from images.
        augmentation: The changes.
        copies: Copies of each row.
        seed: Seed of the draws.

    Returns:
        A table of (1 + copies) * n rows; labels, weights and groups of a copy are those of its row.
    """
    rows = train.select(train.matrix)
    if isinstance(source, FeatureSource):
        features = torch.cat([rows, source.features_of_copies(train.row_numbers, augmentation, copies, seed)])
    else:
        key = copies_key(rows, augmentation, copies, seed)
        entry = load_or_compute(
            getattr(source, "cache", None),
            f"{source.name}-copies",
            key,
            lambda: CacheEntry({"features": _rows_and_copies(rows, shape, augmentation, copies, seed)}),
        )
        features = entry.tensors["features"]

    def repeated(values: Tensor | None) -> Tensor | None:
        return None if values is None else train.select(values).repeat(1 + copies)

    labels, weights, groups = train.select(train.labels), repeated(train.sample_weight), repeated(train.groups)
    return Table(features, labels.repeat(1 + copies), None, weights, groups)


def copies_key(rows: Tensor, augmentation: Augmentation, copies: int, seed: int) -> dict[str, Any]:
    """Plain values on which the copies of rows depend, for the cache; ``rows`` are images, or their numbers."""
    return {
        "rows": hashlib.blake2b(rows.contiguous().view(torch.uint8).numpy().data, digest_size=16).hexdigest(),
        "shape": list(rows.shape),
        "augment": [[name, dict(strengths)] for name, strengths in augmentation.strengths.items()],  # in order
        "copies": copies,
        "seed": seed,
        "changing": AUGMENTATION_VERSION,
        "versions": [version("torch"), version("numpy")],
    }


def _rows_and_copies(
    rows: Tensor, shape: tuple[int, ...], augmentation: Augmentation, copies: int, seed: int
) -> Tensor:
    """The rows, then their copies, shape ((1 + copies) * n, D), in the type of the rows."""
    features = torch.empty(1 + copies, *rows.shape, dtype=rows.dtype)
    features[0] = rows
    for number in range(copies):
        changed = augmentation(rows.view(-1, *shape), augmentation.draws(len(rows), seed, number))
        features[1 + number] = changed.flatten(1)
    return features.flatten(0, 1)
