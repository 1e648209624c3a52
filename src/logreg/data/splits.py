"""Splits rows into train, val and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.facts import SPLITS, Split


def stratified_split(labels: Tensor, fractions: Mapping[Split, float], seed: int) -> dict[Split, Tensor]:
    """Splits rows at random, with each class in proportion (stratified).

    The result depends only on the labels, the fractions and the seed; the test rows do not depend on the fraction of
    val.

    Args:
        labels: Class of each row, shape (N,), integers from 0.
        fractions: Fraction of the rows for val and for test, in [0, 1), with a sum below 1; a split with fraction 0 is
            left out.
        seed: Seed of the split.

    Returns:
        Row numbers of each split, ascending.  Train has the remaining rows, and at least one row of each class.  A
        class with three rows or more has a row in every split.
    """
    classes = shuffled_classes(labels, seed)
    sizes = [len(members) for members in classes]
    least = [int(size > 2) for size in sizes]
    most = [size - 1 - for_val for size, for_val in zip(sizes, least, strict=True)]  # one row stays for train
    tests = _in_proportion(sizes, fractions["test"], least, most) if fractions.get("test") else [0] * len(sizes)
    most = [size - 1 - test for size, test in zip(sizes, tests, strict=True)]
    vals = _in_proportion(sizes, fractions["val"], least, most) if fractions.get("val") else [0] * len(sizes)
    # Val takes rows from the front of each class and test from its end, so that the test rows do not depend on val.
    split_of_row = np.zeros(len(labels), dtype=np.uint8)
    for members, val, test in zip(classes, vals, tests, strict=True):
        split_of_row[members[:val]] = 1
        split_of_row[members[len(members) - test :]] = 2
    return _rows_of_splits(split_of_row, fractions)


def group_split(groups: Tensor, fractions: Mapping[Split, float], seed: int) -> dict[Split, Tensor]:
    """Splits whole groups at random, so that each split gets about its fraction of the rows.

    Args:
        groups: Group of each row, shape (N,), integers from 0.
        fractions: See `stratified_split`.
        seed: Seed of the split.

    Returns:
        Row numbers of each split, ascending; no group is in two splits.
    """
    names, group = groups.unique(return_inverse=True)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    sizes = torch.bincount(group, minlength=len(names))[order]
    # The groups lie one after the other on [0, 1]; the middle of a group decides on its split.
    middle = (sizes.cumsum(0) - sizes / 2) / len(groups)
    split_of_group = torch.zeros(len(names), dtype=torch.uint8)
    split_of_group[order[middle < fractions.get("val", 0)]] = 1
    split_of_group[order[middle > 1 - fractions.get("test", 0)]] = 2
    return _rows_of_splits(split_of_group[group].numpy(), fractions)


def stratified_sample(labels: Tensor, count: int, seed: int) -> Tensor:
    """Draws a sample with each class in proportion, and with at least one row of each class.

    A smaller sample is a subset of a larger one, up to rounding.

    Args:
        labels: Class of each row, shape (N,), integers from 0.
        count: Number of rows to draw, >= the number of classes.
        seed: Seed of the sample.

    Returns:
        Positions of at most ``count`` rows, ascending.
    """
    if count >= len(labels):
        return torch.arange(len(labels))
    classes = shuffled_classes(labels, seed)
    # One row of each class is drawn first, so that small classes are in the sample; the rest is in proportion.
    sizes = [len(members) - 1 for members in classes]
    counts = _in_proportion(sizes, (count - len(classes)) / sum(sizes), [0] * len(sizes), sizes)
    return torch.cat([members[: 1 + more] for members, more in zip(classes, counts, strict=True)]).sort().values


def shuffled_classes(labels: Tensor, seed: int) -> list[Tensor]:
    """The row numbers of each class that occurs, in random order."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    classes = labels[shuffled].numpy()
    if len(classes) and classes.max() < 2**15:
        classes = classes.astype(np.int16)  # NumPy sorts int16 in linear time
    order = torch.from_numpy(np.argsort(classes, kind="stable"))
    sizes: list[int] = torch.bincount(labels).tolist()
    return [members for members in shuffled[order].split(sizes) if len(members)]


def _in_proportion(sizes: Sequence[int], fraction: float, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Number of rows of each class, about ``fraction`` of its size and within ``least`` and ``most``.

    The sum is ``fraction`` of all rows, rounded, where the bounds allow it (largest remainder method).
    """
    wanted = [fraction * size for size in sizes]
    counts = [min(max(int(want), low), high) for want, low, high in zip(wanted, least, most, strict=True)]
    # Rounding down leaves rows over; the classes with the largest remainders get one more each.
    missing = round(sum(wanted)) - sum(counts)
    for label in sorted(range(len(counts)), key=lambda label: counts[label] - wanted[label]):
        if missing > 0 and counts[label] < most[label]:
            counts[label] += 1
            missing -= 1
    return counts


def _rows_of_splits(split_of_row: np.ndarray[Any, Any], fractions: Mapping[Split, float]) -> dict[Split, Tensor]:
    """Row numbers of each split, where 0 is train, 1 is val and 2 is test; a split without a fraction is left out."""
    return {
        split: torch.from_numpy((split_of_row == number).nonzero()[0])
        for number, split in enumerate(SPLITS)
        if split == "train" or fractions.get(split)
    }
