"""Folds of cross-validation: the number of the fold that holds out each train row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from logreg.data.splits import shuffled_classes
from logreg.errors import DataError, as_typed, shortened


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Folds at random, with each class in proportion (stratified).

    The result depends only on the labels, the number of folds and the seed.

    Args:
        labels: Class of each row, shape (N,), integers from 0.
        folds: F.
        seed: Seed of the folds.

    Returns:
        Fold of each row, shape (N,), int64, in [0, F).  The sizes of two folds differ by one row at most, in all and
        in each class.
    """
    order = torch.cat(shuffled_classes(labels, seed))
    # Rows are dealt out class after class, each class from where the one before it ended.
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)) % folds)


def group_folds(labels: Tensor, groups: Tensor, folds: int, seed: int) -> Tensor:
    """Folds of whole groups, with each class in proportion as far as the groups allow.

    The groups that hold the most of some class come first, and groups of equal size in random order.  Each goes to the
    fold where the sum of squares, over folds and classes, of the fraction of a class in a fold grows least: a fold
    that has little of the classes of the group.

    Args:
        labels: Class of each row, shape (N,), integers from 0.
        groups: Group of each row, shape (N,), integers.
        folds: F, at most the number of groups.
        seed: Seed of the folds.

    Returns:
        Fold of each row, shape (N,), int64, in [0, F); each fold has a group.

    References:
        scikit-learn's StratifiedGroupKFold, which minimizes the standard deviations of these fractions.
    """
    names, group = groups.unique(return_inverse=True)
    classes = int(labels.max()) + 1
    cells, counts = (group * classes + labels).unique(return_counts=True)  # the classes that occur in each group
    of_class = (cells % classes).numpy()
    share = counts.double().numpy() / torch.bincount(labels, minlength=classes).double().numpy()[of_class]
    last = torch.bincount(cells // classes, minlength=len(names)).cumsum(0).tolist()
    cells_of = [slice(begin, end) for begin, end in zip([0, *last[:-1]], last, strict=True)]

    size = torch.zeros(len(names), dtype=torch.float64)
    size.index_add_(0, cells // classes, torch.from_numpy(share**2))
    shuffled = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    order = shuffled[size[shuffled].argsort(descending=True, stable=True)].tolist()
    rows_of = torch.bincount(group, minlength=len(names)).tolist()
    held, rows, fold_of_group = np.zeros((classes, folds)), np.zeros(folds), torch.empty(len(names), dtype=torch.int64)
    for number in order:
        cell = cells_of[number]
        growth = share[cell] @ held[of_class[cell]]  # half of it, up to a term that all folds have in common
        least = np.flatnonzero(growth <= growth.min() * (1 + 1e-12))
        fold = least[rows[least].argmin()]
        held[of_class[cell], fold] += share[cell]
        rows[fold] += rows_of[number]
        fold_of_group[number] = int(fold)
    return fold_of_group[group]


def cross_validation_folds(
    labels: Tensor, groups: Tensor | None, class_names: Sequence[str], folds: int, seed: int, limited: bool = False
) -> Tensor:
    """The folds of `stratified_folds`, or of `group_folds` where rows have groups; each fold has every class.

    Args:
        labels: Class of each train row, shape (N,), integers in [0, C).
        groups: Group of each train row, shape (N,); ``None`` where rows have no groups.
        class_names: C names, for messages.
        folds: F.
        seed: Seed of the folds.
        limited: Whether train is a sample of more rows (``dataset.limit``), for messages.

    Raises:
        DataError: A class has fewer rows than folds, there are fewer groups than folds, or a fold lacks a class.
    """
    counts = torch.bincount(labels, minlength=len(class_names))
    least = int(counts[counts > 0].min())
    if least < folds:
        _refuse_small_class(counts, class_names, folds, limited)
    if groups is None:
        return stratified_folds(labels, folds, seed)
    number = len(groups.unique())
    found = group_folds(labels, groups, folds, seed) if number >= folds else None
    if found is not None and (lacking := _lacking(labels, found, folds)) is None:
        return found
    fewer = range(min(folds - 1, number), 1, -1)
    enough = next((few for few in fewer if _lacking(labels, group_folds(labels, groups, few, seed), few) is None), None)
    advice = f"Type cv={enough}." if enough else "Leave cv out, or get rows of more groups."
    if found is None:
        raise DataError(
            f"`cv={folds}` must be at most the number of groups in train, and dataset.split.group has {number} there. "
            f"{advice}"
        )
    assert lacking is not None
    fold, label = lacking
    raise DataError(
        f"`cv={folds}` must give each fold rows of every class, and fold {fold + 1} has none of "
        f"{shortened(class_names[label])!r}, since dataset.split.group keeps groups together. {advice}"
    )


def _lacking(labels: Tensor, fold: Tensor, folds: int) -> tuple[int, int] | None:
    """The first fold that lacks a class, and the class; ``None`` where all folds have all classes that occur."""
    classes = int(labels.max()) + 1
    counts = torch.bincount(fold * classes + labels, minlength=folds * classes).view(folds, classes)
    missing = ((counts == 0) & (counts.sum(0) > 0)).nonzero()
    return None if not len(missing) else (int(missing[0, 0]), int(missing[0, 1]))


def _refuse_small_class(counts: Tensor, class_names: Sequence[str], folds: int, limited: bool) -> None:
    """Says which class has too few rows for the folds; arguments as of `cross_validation_folds`.

    Raises:
        DataError: Always.
    """
    least = int(counts[counts > 0].min())
    name = class_names[int((counts == least).nonzero()[0])]
    enough = [class_names[label] for label in (counts >= folds).nonzero()[:, 0].tolist()]
    if least > 1:
        advice = f"Type cv={least}, or get more rows."
    elif len(enough) > 1:
        advice = f"Leave such classes out with {as_typed('dataset.classes', enough)}, or get more rows of them."
    else:
        advice = f"Leave cv out, {'raise dataset.limit, ' if limited else ''}or get more rows of it."
    raise DataError(
        f"`cv={folds}` must be at most the number of train rows of each class, and {shortened(name)!r} has {least}. "
        f"{advice}"
    )
