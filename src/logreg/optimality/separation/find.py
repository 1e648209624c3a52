"""Whether a fit without a penalty has a finite optimum, and whom to blame if it has none.

Maximum likelihood has a finite estimate if and only if the classes overlap (Albert and Anderson 1984,
Biometrika 71:1).  Otherwise some direction of the coefficients hurts no row and helps one, and the loss falls
for ever along it.  With one output, take z = (1, x) for rows of class 1 and z = -(1, x) for the others: a direction
d separates if z'd >= 0 for all rows and > 0 for some.  With softmax it is (d_y - d_k)'(1, x) that counts, for all
rows and all classes k but the row's own, y.  Separation is complete if it is > 0 for all.

R's detectseparation decides by a linear program (Konis 2007, thesis, Oxford).  Here the sum of max(0, 1 - z'b)^2 is
minimized, by Newton's method, which ends after finitely many steps (Keerthi and DeCoste 2005, JMLR 6), far sooner.
Either it falls to 0, and b tells all rows.  Or rows A with residuals r > 0 are left, and sum r z = 0 over them; then
any d that separates has sum r z'd = 0 with no term below 0, so that A lies on its boundary.  Hence d is sought among
what is orthogonal to A, until all rows that are not orthogonal to that are told, or nothing is left.  This needs
some rows only: first a sample, then those that it gets wrong.

A linear program names the columns: the direction of the largest margin whose slopes sum to 1 in absolute value.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.errors import name_list
from logreg.losses import LOSSES
from logreg.optimality.separation.inequalities import Inequalities
from logreg.optimality.separation.rows import FAINT, Features, Kind, SeparationRows, TooMuchWork

MOST_NAMES = 3
"""Columns and classes named in a sentence; the rest is counted."""


@dataclass(frozen=True)
class Separation:
    """What keeps an unpenalized fit from a finite optimum."""

    kind: Kind
    """"none": a finite optimum exists.  "complete": the loss can fall to 0, since every row can be told.
    "quasi-complete": some rows can be told.  "unknown": too much work to decide.
    When more than that would be too much work, "quasi-complete" means "at least some rows"."""
    columns: tuple[int, ...] = ()
    """Features whose coefficients grow without bound in a direction that tells all the rows that can be told,
    the largest coefficient (per standard deviation) first.  The direction is a sparse one: of all whose
    coefficients sum to 1 in absolute value, the one of the largest margin.  Where single columns tell every
    row, they are named, the widest gap first; where the sparse one is too much work, any direction."""
    classes: tuple[int, ...] = ()
    """Classes that can be told, wholly or in part, from the others together; of two, the second.  Softmax can have
    a separation where no class can be told alone: then the classes whose coefficients grow."""

    def in_words(self, feature_names: Sequence[str], class_names: Sequence[str], leak: str = "") -> str:
        """One sentence, with what to do.

        Args:
            feature_names: Of all features, or none.
            class_names: Of all classes.
            leak: What leaves out the columns that may be the target under another name, where there are such.

        Example:
            >>> Separation("complete", (0,), (1,)).in_words(["hours"], ["failed", "passed"])
            "no finite optimum: 'hours' tells 'passed' from 'failed' without an error, so coefficients grow without \
bound; set a penalty, such as l2=1e-3"
        """
        if self.kind == "none":
            return "a finite optimum exists: the classes overlap"
        if self.kind == "unknown":
            return (
                "whether a finite optimum exists was too much work to find out; a penalty, such as l2=1e-3, makes sure"
            )
        told = name_list(
            [f"'{class_names[place]}'" for place in self.classes], MOST_NAMES, ("class", "classes"), last=" and "
        )
        if len(class_names) == 2:
            told += f" from '{class_names[0]}'"
        elif len(self.classes) < len(class_names):
            told += " from the rest"
        else:
            told = f"all {len(class_names)} classes"
        names = [f"'{feature_names[place]}'" if feature_names else f"feature {place}" for place in self.columns]
        who = name_list(names, MOST_NAMES, ("column", "columns"), last=" and ") if names else "the intercept alone"
        if not feature_names and len(names) > MOST_NAMES:  # numbers of pixels say nothing
            who = f"{len(names):,} features"
        some = "" if self.kind == "complete" or not names else "some rows of "
        advice = "set a penalty, such as l2=1e-3"
        if leak:
            advice = f"may be the target under another name: {leak}; if not, {advice}"
        return (
            f"no finite optimum: {who} {'tell' if len(names) > 1 else 'tells'} {some}{told} without an error, "
            f"so coefficients grow without bound; {advice}"
        )


def find_separation(
    features: Features,
    labels: Tensor,
    num_classes: int,
    loss: str,
    sample_weight: Tensor | None = None,
    seconds: float = 5.0,
) -> Separation:
    """Tells whether a model with intercept has a finite optimum on these rows when nothing is penalized.

    Units, constant, repeated and dependent columns make no difference.  Data are taken at their word, down to 1e-9
    of a standard deviation: rows that overlap by so little overlap, and the optimum is very far out.

    Args:
        features: Shape (N, D), any type, finite.  No copy is made of them.
        labels: Shape (N,), integers in [0, C).
        num_classes: C >= 2.
        loss: With more than two classes, "bce" fits one output to each class against the rest.
        sample_weight: Shape (N,), >= 0; rows of weight 0 do not count, other weights make no difference.
        seconds: About how long to try, of processor time.

    Returns:
        The kind, the columns and the classes.
    """
    rows = SeparationRows(features, labels, num_classes, sample_weight, time.process_time() + seconds)
    if num_classes == 2:
        return _softmax(rows, torch.tensor([1, 0]))  # its one output tells class 1
    group = torch.arange(num_classes)
    if LOSSES[loss].couples_outputs:
        return _softmax(rows, group)
    alone = [told_apart(rows, (group == own).long()) for own in range(num_classes)]
    return _named(alone, group, _kind_of(alone))


class _Verdict(NamedTuple):
    """What is known of two sides."""

    kind: Kind
    told: Tensor
    """Whether a row lies strictly on its side, shape (N,)."""
    weigh: Callable[[], Tensor]
    """Finds how much each column matters, shape (D,), >= 0."""


def _largest_first(weight: Tensor) -> tuple[int, ...]:
    order = weight.argsort(descending=True, stable=True).tolist()
    return tuple(place for place in order if weight[place] > FAINT * weight.max())


def told_apart(rows: SeparationRows, group: Tensor) -> _Verdict:
    """Whether classes of group 1 can be told from those of group 0; ``group`` has shape (C,), -1: not in play."""
    side = group[rows.labels]
    nobody, everybody = torch.zeros_like(side, dtype=torch.bool), side >= 0
    nothing = torch.zeros(rows.width - 1, dtype=torch.float64)
    if not (bool((side == 0).any()) and bool((side == 1).any())):
        return _Verdict("complete", everybody, lambda: nothing)
    kind: Kind = "unknown"
    problem = Inequalities(rows, group)
    with contextlib.suppress(TooMuchWork):
        kind, direction, told = problem.solve(problem.pairs())
    if kind == "none":
        return _Verdict("none", nobody, lambda: nothing)
    low, high = ([extreme[group == own] for own in (0, 1)] for extreme in rows.survey[1:])
    gap = torch.maximum(low[1].amin(0) - high[0].amax(0), low[0].amin(0) - high[1].amax(0))
    if bool((gap > 0).any()):
        return _Verdict("complete", everybody, lambda: gap.clamp_min(0))
    if kind == "unknown":
        alone = (gap == 0) & (torch.cat(high).amax(0) > torch.cat(low).amin(0))
        return _Verdict("quasi-complete" if bool(alone.any()) else "unknown", nobody, alone.double)
    told_rows = nobody.index_copy(0, problem.places, told[:, 0])
    return _Verdict(kind, told_rows, lambda: problem.size(direction, problem.pairs(), told).amax(0))


def _kind_of(verdicts: Sequence[_Verdict]) -> Kind:
    """Of a model with these outputs."""
    kinds = {verdict.kind for verdict in verdicts}
    if kinds <= {"none", "unknown"}:
        return "unknown" if "unknown" in kinds else "none"
    return "complete" if kinds == {"complete"} else "quasi-complete"


def _named(verdicts: Sequence[_Verdict], group: Tensor, kind: Kind) -> Separation:
    """Of one output for each group of classes; ``group``, of shape (C,), numbers them."""
    found = [own for own, verdict in enumerate(verdicts) if verdict.kind in ("complete", "quasi-complete")]
    if not found:
        return Separation(kind)
    weights = [verdicts[own].weigh() for own in found]
    columns = _largest_first(torch.stack([weight / weight.max().clamp_min(1e-300) for weight in weights]).sum(0))
    told = torch.isin(group, torch.tensor(found)) | ((kind == "complete") & (len(verdicts) > 1))
    return Separation(kind, columns, tuple(told.nonzero().flatten().tolist()))


def _softmax(rows: SeparationRows, group: Tensor) -> Separation:
    """Of G groups of classes; ``group``, of shape (C,), numbers them."""
    groups = int(group.max()) + 1
    alone = [told_apart(rows, (group == own).long()) for own in range(groups if groups > 2 else 1)]
    kind = _kind_of(alone)
    if groups == 2 or kind == "complete":
        return _named(alone, group, kind)
    try:
        if kind != "quasi-complete":
            return _jointly(rows, group)
        problem = Inequalities(rows, group)
        told, own = torch.stack([one.told for one in alone], dim=1), group[rows.labels].unsqueeze(1)
        left = ~(told | told.gather(1, own)).gather(1, problem.others)
        if not bool(left.any()) or problem.solve(left)[0] == "complete":
            kind = "complete"
    except TooMuchWork:
        kind = "quasi-complete" if kind == "quasi-complete" else "unknown"
    return _named(alone, group, kind)


def _jointly(rows: SeparationRows, group: Tensor) -> Separation:
    """Where no group can be told from the others together.

    Two groups that overlap have the same coefficients in every direction that separates, up to what makes no
    difference to their rows: they count as one group.
    """
    parts = [frozenset([own]) for own in range(int(group.max()) + 1)]
    groups, apart = len(parts), set[tuple[frozenset[int], ...]]()
    while (pair := next((pair for pair in combinations(parts, 2) if pair not in apart), None)) is not None:
        problem = Inequalities(rows, _numbered(group, pair))
        if problem.solve(problem.pairs())[0] == "none":
            parts = [pair[0] | pair[1], *(part for part in parts if part not in pair)]
        else:
            apart.add(pair)
    if len(parts) == 1:
        return Separation("none")
    if len(parts) < groups:
        result = _softmax(rows, _numbered(group, parts))
        return replace(result, kind="quasi-complete") if result.kind == "complete" else result
    problem = Inequalities(rows, group)
    kind, direction, told = problem.solve(problem.pairs())
    if kind == "none":
        return Separation("none")
    size = problem.size(direction, problem.pairs(), told)
    grown = (size.amax(1) > FAINT * size.max()) | (kind == "complete")
    return Separation(kind, _largest_first(size.amax(0)), tuple(grown[group].nonzero().flatten().tolist()))


def _numbered(group: Tensor, parts: Iterable[Iterable[int]]) -> Tensor:
    """The number of the part that each class is in, by its group; -1: in none."""
    numbered = torch.full_like(group, -1)
    for number, part in enumerate(parts):
        numbered[torch.isin(group, torch.tensor(sorted(part)))] = number
    return numbered
