"""Who is held out with whom: identities that hold of all folds, and the words where rows are too few."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from logreg.data.folds import cross_validation_folds, group_folds, stratified_folds
from logreg.errors import DataError

SEEDS = st.integers(0, 3)
NAMES = ("a", "b", "c")


@st.composite
def classes(draw: st.DrawFn, at_least: int = 0) -> Tensor:
    """Labels of three classes in any order, some of them rare."""
    counts = draw(st.lists(st.integers(at_least, 30), min_size=3, max_size=3).filter(any))
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw(SEEDS)))]


@st.composite
def rows_in_groups(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Labels of three classes and groups, in any order; some groups have one class alone."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=6, max_size=25))
    groups = torch.repeat_interleave(torch.arange(len(sizes)) * 7 - 3, torch.tensor(sizes))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    labels = torch.randint(3, (len(groups),), generator=generator)
    order = torch.randperm(len(groups), generator=generator)
    return labels[order], groups[order]


@given(labels=classes(), folds=st.integers(2, 12), seed=SEEDS)
@settings(max_examples=60)
def test_each_row_has_one_fold_and_folds_differ_by_one_row_in_all_and_in_each_class(
    labels: Tensor, folds: int, seed: int
) -> None:
    found = stratified_folds(labels, folds, seed)
    assert found.dtype == torch.int64
    assert found.shape == labels.shape
    assert 0 <= int(found.min()) <= int(found.max()) < folds
    for rows in (labels >= 0, *(labels == label for label in range(3))):
        sizes = torch.bincount(found[rows], minlength=folds)
        assert int(sizes.max() - sizes.min()) <= 1


@given(labels=classes(at_least=2), folds=st.integers(2, 5))
@settings(max_examples=30)
def test_folds_are_those_of_their_seed(labels: Tensor, folds: int) -> None:
    assert torch.equal(stratified_folds(labels, folds, 1), stratified_folds(labels, folds, 1))
    others = [stratified_folds(labels, folds, seed) for seed in range(2, 12)]
    assert any(not torch.equal(stratified_folds(labels, folds, 1), other) for other in others)


@pytest.mark.long
@given(rows=rows_in_groups(), folds=st.integers(2, 6), seed=SEEDS)
@settings(max_examples=60)
def test_groups_stay_together_and_no_fold_is_empty(rows: tuple[Tensor, Tensor], folds: int, seed: int) -> None:
    labels, groups = rows
    found = group_folds(labels, groups, folds, seed)
    assert found.unique().tolist() == list(range(folds))
    for group in groups.unique():
        assert len(found[groups == group].unique()) == 1
    assert torch.equal(found, group_folds(labels, groups, folds, seed))


def spread(labels: Tensor, found: Tensor, folds: int) -> float:
    """Sum over the classes of the variance, over the folds, of the fraction of the class in a fold."""
    counts = torch.bincount(found * 3 + labels, minlength=folds * 3).view(folds, 3).double()
    return float((counts / counts.sum(0)).var(0, correction=0).sum())


@pytest.mark.long
def test_groups_are_stratified_as_well_as_by_scikit_learn() -> None:
    ours, theirs = 0.0, 0.0
    for seed in range(30):
        draw = torch.Generator().manual_seed(seed)
        groups = torch.randint(25, (300,), generator=draw)
        # classes that go with the groups, as the ill of several hospitals
        labels = (groups % 3 + torch.randint(2, (300,), generator=draw)) % 3
        ours += spread(labels, group_folds(labels, groups, 5, seed), 5)
        found = torch.empty_like(labels)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            found[torch.from_numpy(held_out)] = fold
        theirs += spread(labels, found, 5)
    assert ours <= theirs


def test_groups_of_one_row_are_stratified_to_one_row() -> None:
    labels = torch.tensor([0] * 23 + [1] * 12 + [2] * 6)
    found = group_folds(labels, torch.arange(len(labels)), 4, seed=0)
    for label in range(3):
        sizes = torch.bincount(found[labels == label], minlength=4)
        assert int(sizes.max() - sizes.min()) <= 1


@pytest.mark.long
def test_many_groups_do_not_take_a_matrix_of_groups_times_classes() -> None:
    rows = 20_000
    labels = torch.arange(rows) % 5_000
    found = group_folds(labels, torch.arange(rows), 3, seed=0)  # the matrix would have 10^8 numbers
    assert torch.bincount(found).tolist() == pytest.approx([rows / 3] * 3, rel=0.01)


def test_without_groups_folds_are_stratified_and_with_groups_whole() -> None:
    labels, groups = torch.arange(40) % 2, torch.arange(40) // 4
    assert torch.equal(cross_validation_folds(labels, None, NAMES[:2], 5, 3), stratified_folds(labels, 5, 3))
    assert torch.equal(cross_validation_folds(labels, groups, NAMES[:2], 5, 3), group_folds(labels, groups, 5, 3))


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "sentence"),
    [
        (
            [0] * 9 + [1] * 4,
            None,
            10,
            "`cv=10` must be at most the number of train rows of each class, and 'b' has 4. Type cv=4, "
            "or get more rows.",
        ),
        (
            [0] * 9 + [1],
            None,
            2,
            "`cv=2` must be at most the number of train rows of each class, and 'b' has 1. Leave cv out, or get more "
            "rows of it.",
        ),
        (
            [0] * 9 + [1] * 9 + [2],
            None,
            5,
            "`cv=5` must be at most the number of train rows of each class, and 'c' has 1. Leave such classes out with "
            "dataset.classes=[a,b], or get more rows of them.",
        ),
        (
            [0, 1] * 12,
            [group for group in range(6) for _ in range(4)],
            10,
            "`cv=10` must be at most the number of groups in train, and dataset.split.group has 6 there. Type cv=6.",
        ),
        (
            [0] * 12 + [1] * 8,
            [group for group in range(5) for _ in range(4)],
            5,
            "`cv=5` must give each fold rows of every class, and fold 1 has none of 'a', since dataset.split.group "
            "keeps groups together. Type cv=2.",
        ),
        (
            [0] * 12 + [1] * 4,
            [group for group in range(4) for _ in range(4)],
            2,
            "`cv=2` must give each fold rows of every class, and fold 2 has none of 'b', since dataset.split.group "
            "keeps groups together. Leave cv out, or get rows of more groups.",
        ),
    ],
)
def test_where_rows_or_groups_are_too_few_the_advice_works(
    labels: list[int], groups: list[int] | None, folds: int, sentence: str
) -> None:
    grouped = None if groups is None else torch.tensor(groups)
    with pytest.raises(DataError, match=rf"^{re.escape(sentence)}$"):
        cross_validation_folds(torch.tensor(labels), grouped, NAMES, folds, seed=0)
    if fewer := re.search(r"Type cv=(\d+)", sentence):
        found = cross_validation_folds(torch.tensor(labels), grouped, NAMES, int(fewer[1]), seed=0)
        assert len(found.unique()) == int(fewer[1])


def test_a_limit_is_named_where_it_may_be_the_reason() -> None:
    with pytest.raises(DataError, match=r"Leave cv out, raise dataset\.limit, or get more rows of it\.$"):
        cross_validation_folds(torch.tensor([0] * 9 + [1]), None, NAMES, 2, seed=0, limited=True)
