"""Decides whether an unpenalized fit has a finite optimum, and names the columns and classes that prevent one.

The maximum-likelihood estimate is finite if and only if the classes overlap (Albert and Anderson 1984).  Otherwise a
direction of the coefficients exists along which no row's loss rises and some row's loss falls for ever.  With one
output let z = (1, x) for rows of class 1 and z = -(1, x) for the others: a direction d separates if z'd >= 0 for all
rows and z'd > 0 for some.  With a softmax the condition is on (d_y - d_k)'(1, x), for each row, its class y and every
other class k.  The separation is complete if all these inequalities are strict, and quasi-complete if only some are.

A linear program decides this (Konis 2007, as R's detectseparation does).  Here the squared hinge loss is minimized, by
Newton's method in finitely many steps, which is faster (`logreg.optimality.separation.hinge`).  A linear program names
the columns afterwards (`logreg.optimality.separation.inequalities`).

References:
    Albert and Anderson (1984), On the existence of maximum likelihood estimates in logistic regression models,
    Biometrika 71.
    Konis (2007), Linear programming algorithms for detecting separated data in binary logistic regression models,
    thesis, University of Oxford.
    Keerthi and DeCoste (2005), A modified finite Newton method for fast solution of large scale linear SVMs, Journal
    of Machine Learning Research 6.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.csr import is_sparse
from logreg.errors import name_list
from logreg.losses import LOSSES
from logreg.optimality.certificate import MAX_NAMED
from logreg.optimality.separation.inequalities import Inequalities
from logreg.optimality.separation.rows import (
    MAX_HINGE_COEFFICIENTS,
    MAX_NUMEL,
    NEGLIGIBLE_SLOPE,
    Features,
    Kind,
    SeparationRows,
    SparseFeatures,
)
from logreg.optimality.separation.work import TooMuchWork, Work

NAMING_WORK = 0.5
"""Work that may always be done to name the columns of a separation, in the unit of `Work`."""

PENALIZE = "set a penalty, such as l2=1e-3"
"""Advice of a command on how to set a penalty."""


@dataclass(frozen=True)
class Separation:
    """The separation of the classes of a data set, which keeps an unpenalized fit from a finite optimum."""

    kind: Kind
    """"none": a finite optimum exists.  "complete": a direction separates every row, and the loss can fall to 0.
    "quasi-complete": a direction separates some rows; where more was too much work to decide, at least some rows.
    "unknown": too much work to decide."""
    columns: tuple[int, ...] = ()
    """Features whose coefficients grow without bound along a direction that separates all rows that can be separated,
    the largest coefficient (per standard deviation) first.  The direction is sparse: of all directions whose slopes
    sum to 1 in absolute value it has the largest margin.  Where single columns separate every row, the columns are
    these, the widest gap first.  Where sparse directions are too much work, they are any separating ones."""
    classes: tuple[int, ...] = ()
    """Classes that can be separated, wholly or in part, from the others together; of two classes the second.  A softmax
    can have a separation where no class can be separated from the others together: then the classes whose
    coefficients grow."""

    def in_words(
        self, feature_names: Sequence[str], class_names: Sequence[str], leak: str = "", penalize: str = PENALIZE
    ) -> str:
        """The separation in one sentence, with what to do.

        Args:
            feature_names: The names of all features, or empty.
            class_names: The names of all classes.
            leak: Advice on leaving out columns that may be the target under another name; empty where there are none.
            penalize: Advice on how to set a penalty.

        Example:
            >>> Separation("complete", (0,), (1,)).in_words(["hours"], ["failed", "passed"])
            "no finite optimum: 'hours' separates 'passed' from 'failed' perfectly (complete separation), so \
coefficients grow without bound; set a penalty, such as l2=1e-3"
        """
        if self.kind == "none":
            return "a finite optimum exists: the classes overlap"
        if self.kind == "unknown":
            return (
                "whether a finite optimum exists is unknown, since the search for separation was too much work; to "
                f"ensure one, {penalize}"
            )
        classes = [f"'{class_names[place]}'" for place in self.classes]
        separated = name_list(classes, MAX_NAMED, ("class", "classes"), last=" and ")
        if len(class_names) == 2:
            separated += f" from '{class_names[0]}'"
        elif len(self.classes) < len(class_names):
            separated += " from the rest"
        else:
            separated = f"all {len(class_names)} classes"
        names = [f"'{feature_names[place]}'" if feature_names else f"feature {place}" for place in self.columns]
        columns = name_list(names, MAX_NAMED, ("column", "columns"), last=" and ") if names else "the intercept alone"
        if not feature_names and len(names) > MAX_NAMED:  # positions of pixels are of no use to a reader
            columns = f"{len(names):,} features"
        if self.kind == "complete":
            extent = " perfectly (complete separation)"
        else:
            extent = f"{' in some rows' if names else ''} (quasi-complete separation)"
        advice = penalize
        if leak:
            advice = f"may be the target under another name: {leak}; if not, {penalize}"
        return (
            f"no finite optimum: {columns} {'separate' if len(names) > 1 else 'separates'} {separated}{extent}, "
            f"so coefficients grow without bound; {advice}"
        )


def find_separation(
    features: Features,
    labels: Tensor,
    num_classes: int,
    loss: str,
    sample_weight: Tensor | None = None,
    max_work: float = 5.0,
) -> Separation:
    """Decides whether an unpenalized model with intercept has a finite optimum on these rows.

    Units, constant, repeated and dependent columns make no difference.  Features count as exact down to 1e-9 of a
    standard deviation: rows that overlap by so little do overlap, and the optimum is then very far out.

    Args:
        features: Shape (N, D), any type, finite.  They are not copied.  A sparse CSR tensor becomes dense block by
            block; with `MAX_HINGE_COEFFICIENTS` features or more its single columns alone are compared.
        labels: Shape (N,), integers in [0, C).
        num_classes: C >= 2.
        loss: The name of the loss.  With more than two classes, "bce" fits one output to each class against the rest.
        sample_weight: Shape (N,), >= 0; rows of weight 0 do not count, other weights make no difference.
        max_work: The work of the search at most, in predicted seconds of one core: they are counted, not timed, so that
            the result does not depend on the clock.  With 0 single columns alone are compared; infinite for no limit.

    Returns:
        The kind of separation, the columns and the classes.
    """
    if isinstance(features, Tensor) and is_sparse(features):
        features = SparseFeatures(features)
    if features.shape[1] >= MAX_HINGE_COEFFICIENTS and is_sparse(features[:1]):
        return _single_columns_of_sparse(features, labels, num_classes, sample_weight)
    rows = SeparationRows(features, labels, num_classes, sample_weight, Work(max_work))
    if num_classes == 2:
        return _softmax(rows, torch.tensor([1, 0]))  # the one output is for class 1
    group = torch.arange(num_classes)
    if LOSSES[loss].couples_outputs:
        return _softmax(rows, group)
    alone = _separate_each(rows, group)
    return _summarize(rows, alone, group, _kind_of(alone))


def _single_columns_of_sparse(
    features: Features, labels: Tensor, num_classes: int, sample_weight: Tensor | None
) -> Separation:
    """What single columns of sparse features show; arguments as of `find_separation`."""
    if num_classes * features.shape[1] > MAX_NUMEL:
        return Separation("unknown")
    rows = SeparationRows(features, labels, num_classes, sample_weight, Work(0))
    group = torch.tensor([1, 0]) if num_classes == 2 else torch.arange(num_classes)
    alone = _separate_each(rows, group)  # no work may be done, so that only columns are compared
    alone = alone[:1] if num_classes == 2 else alone
    return _summarize(rows, alone, group, _kind_of(alone))


class _GroupSeparation(NamedTuple):
    """The separation of two groups of classes."""

    kind: Kind
    separated: Tensor
    """Whether a row lies strictly on the side of its group, shape (n,)."""
    column_sizes: Callable[[bool], Tensor]
    """Computes how much each column contributes, shape (D,), >= 0; of a sparse direction if that is asked for."""


def _largest_first(weight: Tensor) -> tuple[int, ...]:
    """The positions of the weights (D,) that are not negligible, in descending order."""
    order = weight.argsort(descending=True, stable=True)
    return tuple(order[weight[order] > NEGLIGIBLE_SLOPE * weight.max()].tolist())


def separate_groups(rows: SeparationRows, group: Tensor) -> _GroupSeparation:
    """Decides whether the classes of group 1 can be separated from those of group 0.

    Where that is too much work only single columns are looked at.

    Args:
        rows: All rows.
        group: The group of each class, shape (C,); -1 for classes that are left out.
    """
    side = group[rows.labels]
    nobody, everybody = torch.zeros_like(side, dtype=torch.bool), side >= 0
    nothing = torch.zeros(rows.width - 1, dtype=torch.float64)
    if not (bool((side == 0).any()) and bool((side == 1).any())):
        return _GroupSeparation("complete", everybody, lambda _: nothing)
    kind: Kind = "unknown"
    inequalities = Inequalities(rows, group)
    with contextlib.suppress(TooMuchWork):
        kind, direction, separated = inequalities.solve(inequalities.pairs())
    if kind == "none":
        return _GroupSeparation("none", nobody, lambda _: nothing)
    low, high = rows.column_ranges[1:]
    gap, touching = _gaps(
        *(low[group == own].amin(0) for own in (0, 1)), *(high[group == own].amax(0) for own in (0, 1))
    )
    if kind == "unknown" or bool((gap > 0).any()):
        return _by_single_columns(gap, touching, nobody, everybody)
    separated_rows = nobody.index_copy(0, inequalities.places, separated[:, 0])
    return _GroupSeparation(
        kind, separated_rows, lambda sparse: inequalities.size(direction, separated, sparse).amax(0)
    )


def _gaps(low: Tensor, other_low: Tensor, high: Tensor, other_high: Tensor) -> tuple[Tensor, Tensor]:
    """The gap in each column between two groups, and whether they touch, from their extremes; all (..., D)."""
    gap = torch.maximum(other_low - high, low - other_high)
    return gap, (gap == 0) & (torch.maximum(high, other_high) > torch.minimum(low, other_low))


def _by_single_columns(gap: Tensor, touching: Tensor, nobody: Tensor, everybody: Tensor) -> _GroupSeparation:
    """What a look at single columns shows of two groups, from the result of `_gaps` for them, (D,) each."""
    if bool((gap > 0).any()):
        return _GroupSeparation("complete", everybody, lambda _: gap.clamp_min(0))
    return _GroupSeparation(
        "quasi-complete" if bool(touching.any()) else "unknown", nobody, lambda _: touching.double()
    )


def _separate_each(rows: SeparationRows, group: Tensor) -> list[_GroupSeparation]:
    """`separate_groups` of each group against the others together; single columns alone once it is too much work.

    Args:
        rows: All rows.
        group: The group of each class, shape (C,), in [0, G), G > 2.
    """
    groups = int(group.max()) + 1
    found: list[_GroupSeparation] = []
    with contextlib.suppress(TooMuchWork):
        while len(found) < groups:
            rows.work.spend()
            found.append(separate_groups(rows, (group == len(found)).long()))
    if len(found) == groups:
        return found
    index, columns = group.unsqueeze(1).expand(-1, rows.width - 1), rows.column_ranges
    extremes = torch.full((groups, rows.width - 1), torch.inf, dtype=torch.float64)
    low, high = (
        extremes.scatter_reduce(0, index, columns[1], "amin"),
        (-extremes).scatter_reduce(0, index, columns[2], "amax"),
    )
    # The extreme of all others is the first of all, or the second where the first is of the group itself.
    own = torch.arange(groups).unsqueeze(1)
    other_low, other_high = (
        first.values[0].where(first.indices[0] != own, first.values[1])
        for first in (low.topk(2, dim=0, largest=False), high.topk(2, dim=0))
    )
    gaps, touching = _gaps(low, other_low, high, other_high)
    nobody = torch.zeros_like(rows.labels, dtype=torch.bool)
    everybody, nothing = ~nobody, torch.zeros(rows.width - 1, dtype=torch.float64)
    for number in range(len(found), groups):
        if bool(low[number, 0] <= high[number, 0]):
            found.append(_by_single_columns(gaps[number], touching[number], nobody, everybody))
        else:  # no row is of this group
            found.append(_GroupSeparation("complete", everybody, lambda _: nothing))
    return found


def _kind_of(outputs: Sequence[_GroupSeparation]) -> Kind:
    """The kind of separation of a model with these outputs."""
    kinds = {output.kind for output in outputs}
    if kinds <= {"none", "unknown"}:
        return "unknown" if "unknown" in kinds else "none"
    return "complete" if kinds == {"complete"} else "quasi-complete"


def _sizes(rows: SeparationRows, compute: Callable[[bool], Tensor]) -> Tensor:
    """How much columns contribute: to sparse directions, or, where one of these is too much work, to any directions.

    Args:
        rows: All rows.
        compute: Computes it, of sparse directions or not.
    """
    rows.work.left = max(rows.work.left, NAMING_WORK)
    with contextlib.suppress(TooMuchWork):
        return compute(True)
    return compute(False)


def _summarize(rows: SeparationRows, outputs: Sequence[_GroupSeparation], group: Tensor, kind: Kind) -> Separation:
    """The separation of a model, with its columns and classes.

    Args:
        rows: All rows.
        outputs: One for each group of classes, against the rest.
        group: The group of each class, shape (C,).
        kind: The kind of separation of the model.
    """
    found = [own for own, output in enumerate(outputs) if output.kind in ("complete", "quasi-complete")]
    if not found:
        return Separation(kind)
    weights = _sizes(rows, lambda sparse: torch.stack([outputs[own].column_sizes(sparse) for own in found]))
    columns = _largest_first((weights / weights.amax(1, keepdim=True).clamp_min(1e-300)).sum(0))
    classes = torch.isin(group, torch.tensor(found)) | ((kind == "complete") & (len(outputs) > 1))
    return Separation(kind, columns, tuple(classes.nonzero().flatten().tolist()))


def _softmax(rows: SeparationRows, group: Tensor) -> Separation:
    """The separation of a softmax over groups of classes.

    Each group against the rest comes first, which is cheap; the inequalities of all groups together decide the rest.

    Args:
        rows: All rows.
        group: The group of each class, shape (C,), in [0, G).
    """
    groups = int(group.max()) + 1
    alone = _separate_each(rows, group) if groups > 2 else [separate_groups(rows, (group == 0).long())]
    kind = _kind_of(alone)
    if groups == 2 or kind == "complete":
        return _summarize(rows, alone, group, kind)
    try:
        if kind != "quasi-complete":
            return _jointly(rows, group)
        inequalities = Inequalities(rows, group)
        separated, own = torch.stack([one.separated for one in alone], dim=1), group[rows.labels].unsqueeze(1)
        left = ~(separated | separated.gather(1, own)).gather(1, inequalities.others)
        if not bool(left.any()) or inequalities.solve(left)[0] == "complete":
            kind = "complete"
    except TooMuchWork:
        kind = "quasi-complete" if kind == "quasi-complete" else "unknown"
    return _summarize(rows, alone, group, kind)


def _jointly(rows: SeparationRows, group: Tensor) -> Separation:
    """The separation of a softmax where no group can be separated from the others together.

    Two groups that overlap have the same coefficients in every direction that separates, up to a difference that is 0
    on their rows: they count as one group.

    Args:
        rows: All rows.
        group: The group of each class, shape (C,), in [0, G).
    """
    parts = [frozenset([own]) for own in range(int(group.max()) + 1)]
    groups, apart = len(parts), set[tuple[frozenset[int], ...]]()
    while (pair := next((pair for pair in combinations(parts, 2) if pair not in apart), None)) is not None:
        inequalities = Inequalities(rows, _numbered(group, pair))
        if inequalities.solve(inequalities.pairs())[0] == "none":
            parts = [pair[0] | pair[1], *(part for part in parts if part not in pair)]
        else:
            apart.add(pair)
    if len(parts) == 1:
        return Separation("none")
    if len(parts) < groups:
        result = _softmax(rows, _numbered(group, parts))
        return replace(result, kind="quasi-complete") if result.kind == "complete" else result
    inequalities = Inequalities(rows, group)
    kind, direction, separated = inequalities.solve(inequalities.pairs())
    if kind == "none":
        return Separation("none")
    size = _sizes(rows, lambda sparse: inequalities.size(direction, separated, sparse))
    grown = (size.amax(1) > NEGLIGIBLE_SLOPE * size.max()) | (kind == "complete")
    return Separation(kind, _largest_first(size.amax(0)), tuple(grown[group].nonzero().flatten().tolist()))


def _numbered(group: Tensor, parts: Iterable[Iterable[int]]) -> Tensor:
    """The number of the part that the group of each class belongs to, shape (C,); -1 for groups in no part."""
    numbered = torch.full_like(group, -1)
    for number, part in enumerate(parts):
        numbered[torch.isin(group, torch.tensor(sorted(part)))] = number
    return numbered
