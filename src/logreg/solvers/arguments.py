"""Checks of the arguments of `logreg.solvers.fit.fit`: a mistake raises an error whose message gives the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import get_args

import torch
from torch import Tensor

from logreg.errors import ConfigError, DataError
from logreg.losses import LOSSES
from logreg.losses.objective import Objective, Reduction
from logreg.stored_form import MAX_OFFSET, check_mean_weight

MAP_LABELS = "Number the classes from 0: labels = torch.unique(labels, return_inverse=True)[1]."
"""The advice for labels that do not number the classes from 0."""


def check_settings(
    objective: Objective, optimizer: str, tolerance: float, max_passes: int, known: Iterable[str]
) -> None:
    """Checks the arguments that are not data.

    Args:
        objective: The objective, whose loss, reduction and penalties are checked.
        optimizer: The name to check.
        tolerance: A relative gap, in (0, 1).
        max_passes: At least 1.
        known: The names of the optimizers that exist.

    Raises:
        ConfigError: A name is not known, or a number is out of its range.
    """
    for key, choices, got in (
        ("loss", tuple(LOSSES), objective.loss),
        ("reduction", get_args(Reduction), objective.reduction),
        ("optimizer", tuple(known), optimizer),
    ):
        if got not in choices:
            raise ConfigError.not_a_choice(key, choices, got)
    for key, strength in (("l2", objective.l2), ("l1", objective.l1)):
        if not 0 <= strength < math.inf:
            raise ConfigError.broken(key, "be a finite number >= 0", strength)
    if not 0 < tolerance < 1:
        raise ConfigError.broken("tolerance", "be a finite number > 0 and < 1", tolerance)
    if max_passes < 1:
        raise ConfigError.broken("max_passes", "be an integer >= 1", max_passes)


def check_classes(loss: str, num_classes: int) -> None:
    """Checks that a loss takes this number of classes.

    Raises:
        ConfigError: It is one of two classes only.
    """
    if LOSSES[loss].is_binary and num_classes != 2:
        raise ConfigError(f"`link={loss}` must be used with two classes, got {num_classes}. Use link=logit.")


def checked_labels(features: Tensor, labels: Tensor, num_classes: int | None) -> tuple[Tensor, int]:
    """Checks the shapes of features and labels, and the labels.

    Args:
        features: Shape (N, D).
        labels: Shape (N,), whole numbers in [0, C) of any type, also floating or boolean.
        num_classes: C; ``None`` for one more than the largest label, where every class must have a row.

    Returns:
        The labels as int64, and C.

    Raises:
        ConfigError: ``num_classes`` is below 2.
        DataError: Shapes do not match, or labels do not number the classes.
    """
    if features.ndim != 2 or not len(features) or features.is_complex():
        shape = tuple(features.shape)
        raise DataError(
            f"`features` must be a matrix (N, D) of real numbers with N >= 1, got {features.dtype} of shape {shape}. "
            "Give a single feature as features.unsqueeze(1)."
        )
    if labels.shape != features.shape[:1]:
        raise DataError(
            f"`labels` must have one entry for each row of the features, shape ({len(features)},), got "
            f"{tuple(labels.shape)}. Give each row one class number, not indicators."
        )
    whole = labels.to(torch.int64)
    if labels.is_complex() or (labels.is_floating_point() and bool((wrong := whole != labels).any())):
        got = labels[0] if labels.is_complex() else labels[wrong][0]
        raise DataError(f"`labels` must be whole numbers, got {got.item()}. {MAP_LABELS}")
    low, high = int(whole.min()), int(whole.max())
    if num_classes is not None and num_classes < 2:
        raise ConfigError.broken("num_classes", "be an integer >= 2", num_classes)
    if low < 0:
        raise DataError(f"`labels` must be in [0, C) for C classes, got {low}. {MAP_LABELS}")
    if num_classes is not None and high >= num_classes:
        raise DataError(
            f"`labels` must be in [0, {num_classes}), since num_classes is {num_classes}, got {high}. {MAP_LABELS}"
        )
    if num_classes is None:
        if low == high:
            raise DataError(
                f"`labels` must have two classes at least, got {low} alone. Give num_classes where more are known."
            )
        if high == 1:  # both classes have rows
            return whole, 2
        # Classes without a row are an error, so there are at most as many classes as rows.  The count is limited to
        # that number, since labels such as 1e15 would fill the memory.
        counts = torch.bincount(whole[whole < len(whole)], minlength=min(high + 1, len(whole)))
        if high >= len(whole) or not bool(counts.all()):
            missing = int((counts == 0).nonzero()[0])
            raise DataError(
                f"`labels` must have every class from 0 to {high}, got none of class {missing}. {MAP_LABELS} Or give "
                f"num_classes={high + 1} if a class may be missing."
            )
    return whole, num_classes or high + 1


def check_offset(labels: Tensor, offset: Tensor | None, outputs: int) -> None:
    """Checks offsets (N,) of the logits, or ``None`` for none.

    Raises:
        DataError: Not one number from -1e6 to 1e6 for each row.
        ConfigError: There are several outputs.
    """
    if offset is None:
        return
    if outputs > 1:
        raise ConfigError(
            f"`offset` must go with one output, that of two classes with loss=bce or another link, got {outputs}. "
            "Leave it out."
        )
    if offset.shape != labels.shape:
        raise DataError(
            f"`offset` must have one number for each row, shape ({len(labels)},), got {tuple(offset.shape)}."
        )
    if not bool(offset.isfinite().all()):
        row = int((~offset.isfinite()).nonzero()[0])
        raise DataError(f"`offset` must be finite, got {offset[row].item()} in row {row}. Leave out such rows.")
    is_large = offset.abs() > MAX_OFFSET
    if bool(is_large.any()):
        row = int(is_large.nonzero()[0])
        raise DataError(
            f"`offset` must be in the units of the logit, from -1e6 to 1e6, got {offset[row].item():g} in row {row}. "
            "Of an exposure take the logarithm."
        )


def check_start(start: tuple[Tensor, Tensor] | None, outputs: int, features: int) -> None:
    """Checks the coefficients (K, D) and intercepts (K,) of a start, or ``None`` for zero.

    Raises:
        DataError: The start has another shape, or is not finite.
    """
    if start is None:
        return
    expected, got = ((outputs, features), (outputs,)), tuple(tuple(part.shape) for part in start)
    if got != expected:
        raise DataError(f"`start` must have coef {expected[0]} and intercept {expected[1]}, got {got[0]} and {got[1]}.")
    if not all(bool(part.isfinite().all()) for part in start):
        raise DataError("`start` must be finite. Leave it out to start from zero.")


def check_weights(labels: Tensor, sample_weight: Tensor | None, class_weight: Sequence[float], classes: int) -> None:
    """Checks the weights of rows and of classes.

    Args:
        labels: Shape (N,).
        sample_weight: Shape (N,), or ``None`` for all 1.
        class_weight: C numbers, or empty for all 1.
        classes: C.

    Raises:
        DataError: The weights of rows have another shape, are negative, not finite or all 0.
        ConfigError: The weights of classes are not C finite numbers > 0.
    """
    if class_weight and len(class_weight) != classes:
        raise ConfigError.broken("class_weight", f"have one number for each of {classes} classes", tuple(class_weight))
    if not all(0 < weight < math.inf for weight in class_weight):
        raise ConfigError.broken("class_weight", "have finite numbers > 0", tuple(class_weight))
    if sample_weight is None and not class_weight:
        return
    weights = torch.ones(len(labels), dtype=torch.float64, device=labels.device)
    if sample_weight is not None:
        if sample_weight.shape != labels.shape:
            raise DataError(
                f"`sample_weight` must have one number for each row, shape ({len(labels)},), got "
                f"{tuple(sample_weight.shape)}."
            )
        wrong = ~((sample_weight >= 0) & sample_weight.isfinite())
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise DataError(
                f"`sample_weight` must be finite and >= 0, got {sample_weight[row].item()} in row {row}. Leave out "
                "rows that should not count, or give them 0."
            )
        weights = sample_weight.double()
    if class_weight:
        weights = weights * weights.new_tensor(class_weight)[labels]
    if not bool((weights > 0).any()):
        raise DataError("`sample_weight` must be > 0 somewhere, got only 0. Give some row a weight.")
    check_mean_weight("sample_weight times class_weight" if class_weight else "sample_weight", float(weights.mean()))
