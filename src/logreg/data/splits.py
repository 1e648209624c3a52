"""Which row goes to which split."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from logreg.facts import Split


def stratified_split(labels: Tensor, fractions: Mapping[Split, float], seed: int) -> dict[Split, Tensor]:
    """Holds rows out of a table, each class in proportion.

    The result depends on the labels, the fractions and the seed alone.

    Args:
        labels: Classes, shape (N,), integers from 0.
        fractions: Fraction of the rows that each split but train gets, in [0, 1), below 1 together;
            a split with fraction 0 is left out.
        seed: Fixes who goes where.

    Returns:
        Row numbers of each split, ascending; train has what the others leave, and of each class at
        least one row.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = [shuffled[labels[shuffled] == label] for label in labels.unique()]
    taken = [0] * len(by_class)
    rows: dict[Split, Tensor] = {}
    for split, fraction in fractions.items():
        if fraction == 0:
            continue
        wanted = [fraction * len(members) for members in by_class]
        counts = [
            min(int(count), len(members) - gone - 1)
            for count, members, gone in zip(wanted, by_class, taken, strict=True)
        ]
        # Rounding down loses rows; the classes that lost the largest part of one get it back.
        missing = round(sum(wanted)) - sum(counts)
        for label in sorted(range(len(counts)), key=lambda label: counts[label] - wanted[label]):
            if missing > 0 and taken[label] + counts[label] + 1 < len(by_class[label]):
                counts[label] += 1
                missing -= 1
        parts = []
        for label, members in enumerate(by_class):
            parts.append(members[taken[label] : taken[label] + counts[label]])
            taken[label] += counts[label]
        rows[split] = torch.cat(parts).sort().values
    rest = torch.cat([members[count:] for members, count in zip(by_class, taken, strict=True)])
    return {"train": rest.sort().values, **rows}
