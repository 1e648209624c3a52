"""Which row goes to which split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.facts import SPLITS, Split


def stratified_split(labels: Tensor, fractions: Mapping[Split, float], seed: int) -> dict[Split, Tensor]:
    """Holds rows out of a table, each class in proportion.

    The result depends on the labels, the fractions and the seed alone; which rows are test does not
    depend on the fraction of val.

    Args:
        labels: Classes, shape (N,), integers from 0.
        fractions: Fraction of the rows that each split but train gets, in [0, 1), below 1 together;
            a split with fraction 0 is left out.
        seed: Fixes who goes where.

    Returns:
        Row numbers of each split, ascending; train has what the others leave, and of each class at
        least one row.  A class with three rows or more has one in every split.
    """
    classes = _shuffled_classes(labels, seed)
    sizes = [len(members) for members in classes]
    least = [int(size > 2) for size in sizes]
    room = [size - 1 - few for size, few in zip(sizes, least, strict=True)]  # train's row, and val's
    tests = _in_proportion(sizes, fractions["test"], least, room) if fractions.get("test") else [0] * len(sizes)
    room = [size - 1 - test for size, test in zip(sizes, tests, strict=True)]
    vals = _in_proportion(sizes, fractions["val"], least, room) if fractions.get("val") else [0] * len(sizes)
    # val from the front of each class and test from its end, so that test stays where it is when val grows.
    split_of_row = np.zeros(len(labels), dtype=np.uint8)
    for members, val, test in zip(classes, vals, tests, strict=True):
        split_of_row[members[:val]] = 1
        split_of_row[members[len(members) - test :]] = 2
    return _rows_of_splits(split_of_row, fractions)


def group_split(groups: Tensor, fractions: Mapping[Split, float], seed: int) -> dict[Split, Tensor]:
    """Holds whole groups out of a table, until they are the fraction of the rows that was asked for.

    Args:
        groups: Group of each row, shape (N,), integers from 0.
        fractions: As for `stratified_split`.
        seed: Fixes who goes where.

    Returns:
        Row numbers of each split, ascending; no group is in two of them.
    """
    names, group = groups.unique(return_inverse=True)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    sizes = torch.bincount(group, minlength=len(names))[order]
    # The middle of a group on the line of all rows decides, so none is cut.
    middle = (sizes.cumsum(0) - sizes / 2) / len(groups)
    split_of_group = torch.zeros(len(names), dtype=torch.uint8)
    split_of_group[order[middle < fractions.get("val", 0)]] = 1
    split_of_group[order[middle > 1 - fractions.get("test", 0)]] = 2
    return _rows_of_splits(split_of_group[group].numpy(), fractions)


def stratified_sample(labels: Tensor, count: int, seed: int) -> Tensor:
    """Positions of at most ``count`` rows, each class in proportion and with at least one row, ascending.

    A smaller sample is part of a larger one, as far as rounding lets it.

    Args:
        labels: Classes, shape (N,), integers from 0.
        count: How many, >= the number of classes.
        seed: Fixes which.
    """
    if count >= len(labels):
        return torch.arange(len(labels))
    classes = _shuffled_classes(labels, seed)
    # One row of each class is set aside, so that the small ones are there; the rest is in proportion.
    sizes = [len(members) - 1 for members in classes]
    counts = _in_proportion(sizes, (count - len(classes)) / sum(sizes), [0] * len(sizes), sizes)
    return torch.cat([members[: 1 + more] for members, more in zip(classes, counts, strict=True)]).sort().values


def _shuffled_classes(labels: Tensor, seed: int) -> list[Tensor]:
    """The rows of each class that there is, in an order that the seed fixes."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    classes = labels[shuffled].numpy()
    if len(classes) and classes.max() < 2**15:
        classes = classes.astype(np.int16)  # which NumPy sorts in linear time
    order = torch.from_numpy(np.argsort(classes, kind="stable"))
    sizes: list[int] = torch.bincount(labels).tolist()
    return [members for members in shuffled[order].split(sizes) if len(members)]


def _in_proportion(sizes: Sequence[int], fraction: float, least: Sequence[int], room: Sequence[int]) -> list[int]:
    """How many of each class make up the fraction of all, no fewer than ``least`` and no more than it has room for."""
    wanted = [fraction * size for size in sizes]
    counts = [min(max(int(want), few), most) for want, few, most in zip(wanted, least, room, strict=True)]
    # Rounding down loses rows; the classes that lost the largest part of one get it back.
    missing = round(sum(wanted)) - sum(counts)
    for label in sorted(range(len(counts)), key=lambda label: counts[label] - wanted[label]):
        if missing > 0 and counts[label] < room[label]:
            counts[label] += 1
            missing -= 1
    return counts


def _rows_of_splits(split_of_row: np.ndarray[Any, Any], fractions: Mapping[Split, float]) -> dict[Split, Tensor]:
    """The rows numbered 0 for train, 1 for val and 2 for test; a split that nobody asked for is left out."""
    return {
        split: torch.from_numpy((split_of_row == number).nonzero()[0])
        for number, split in enumerate(SPLITS)
        if split == "train" or fractions.get(split)
    }
