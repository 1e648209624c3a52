"""Who goes where: identities that hold of every split, group split and sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from logreg.data.splits import group_split, stratified_sample, stratified_split

FRACTIONS = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.25, 1 / 3, 0.45])
SEEDS = st.integers(0, 3)


@st.composite
def classes(draw: st.DrawFn) -> Tensor:
    """Labels in any order; some classes are rare, and some numbers below the largest are no class at all."""
    counts = draw(st.lists(st.integers(0, 30), min_size=2, max_size=5))
    assume(sum(counts) >= 2)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw(SEEDS)))]


@st.composite
def groups(draw: st.DrawFn) -> Tensor:
    """Group numbers in any order, some of one row and some of many."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=3, max_size=15))
    rows = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(draw(SEEDS)))]


def counts_of(labels: Tensor) -> list[int]:
    counted: list[int] = torch.bincount(labels, minlength=5).tolist()
    return counted


@given(labels=classes(), val=FRACTIONS, test=FRACTIONS, seed=SEEDS)
@settings(max_examples=40)
def test_every_row_is_in_one_split_and_each_split_is_ascending(
    labels: Tensor, val: float, test: float, seed: int
) -> None:
    rows = stratified_split(labels, {"val": val, "test": test}, seed)
    assert torch.cat(list(rows.values())).sort().values.tolist() == list(range(len(labels)))
    for part in rows.values():
        assert part.tolist() == sorted(part.tolist())
        assert part.dtype == torch.int64
    assert set(rows) == {"train"} | ({"val"} if val else set()) | ({"test"} if test else set())


@given(labels=classes(), val=FRACTIONS, test=FRACTIONS, seed=SEEDS)
@settings(max_examples=40)
def test_train_keeps_a_row_of_each_class_and_each_class_is_in_proportion(
    labels: Tensor, val: float, test: float, seed: int
) -> None:
    rows = stratified_split(labels, {"val": val, "test": test}, seed)
    held_out = {split: counts_of(labels[rows[split]]) for split in rows if split != "train"}
    for label, (count, left) in enumerate(zip(counts_of(labels), counts_of(labels[rows["train"]]), strict=True)):
        assert left >= min(count, 1)
        for split, fraction in (("val", val), ("test", test)):
            if split in held_out and left > 1:
                assert abs(held_out[split][label] - fraction * count) <= 1


@given(labels=classes(), seed=SEEDS, test=FRACTIONS)
@settings(max_examples=40)
def test_a_split_as_a_whole_has_the_fraction_that_was_asked_for(labels: Tensor, test: float, seed: int) -> None:
    rows = stratified_split(labels, {"test": test}, seed)
    assume(min(count for count in counts_of(labels[rows["train"]]) if count) > 1)
    # Where a class's share is less than a row, it has one all the same; and val and train keep one each.
    assume(all(test * count >= 1 and (1 - test) * count >= 3 for count in counts_of(labels) if count) or not test)
    assert abs(len(rows.get("test", [])) - test * len(labels)) <= 0.5


@given(labels=classes(), test=FRACTIONS.filter(bool), vals=st.tuples(FRACTIONS, FRACTIONS), seed=SEEDS)
@settings(max_examples=40)
def test_which_rows_are_test_does_not_depend_on_how_many_are_val(
    labels: Tensor, test: float, vals: tuple[float, float], seed: int
) -> None:
    # Else a user who tunes the size of val compares scores of different test rows.
    one, other = (stratified_split(labels, {"val": val, "test": test}, seed)["test"].tolist() for val in vals)
    assert one == other


@pytest.mark.long
@given(labels=classes(), seed=SEEDS)
@settings(max_examples=40)
def test_the_seed_and_nothing_else_fixes_the_split(labels: Tensor, seed: int) -> None:
    torch.manual_seed(seed + 17)
    one = stratified_split(labels, {"val": 0.2, "test": 0.2}, seed)
    torch.manual_seed(seed + 18)
    other = stratified_split(labels.clone(), {"test": 0.2, "val": 0.2}, seed)
    assert {split: rows.tolist() for split, rows in one.items()} == {
        split: rows.tolist() for split, rows in other.items()
    }


def test_another_seed_is_another_split() -> None:
    labels = torch.arange(60) % 3
    assert len({tuple(stratified_split(labels, {"test": 0.3}, seed)["test"].tolist()) for seed in range(5)}) == 5


@pytest.mark.parametrize("rare", [[3], [3, 3, 3, 3], [4, 4, 4], [5, 3, 5, 3, 5]])
def test_a_class_with_as_many_rows_as_splits_has_one_in_each(rare: list[int]) -> None:
    # A class with fewer is refused, in the words "must give each class a row in each of 3 splits".
    labels = torch.repeat_interleave(torch.arange(len(rare) + 1), torch.tensor([200, *rare]))
    parts = stratified_split(labels, {"val": 0.2, "test": 0.2}, seed=0)
    assert {split: labels[part].unique().tolist() for split, part in parts.items()} == {
        split: list(range(len(rare) + 1)) for split in parts
    }


# groups


@given(group=groups(), val=FRACTIONS, test=FRACTIONS, seed=SEEDS)
@settings(max_examples=40)
def test_no_group_is_in_two_splits_and_no_row_is_lost(group: Tensor, val: float, test: float, seed: int) -> None:
    rows = group_split(group, {"val": val, "test": test}, seed)
    assert torch.cat(list(rows.values())).sort().values.tolist() == list(range(len(group)))
    sides = [set(group[part].tolist()) for part in rows.values()]
    assert sum(len(side) for side in sides) == len(set(group.tolist()))
    for split, fraction in (("val", val), ("test", test)):
        if split in rows:
            # None is cut, so it may be off by half the largest.
            largest = max(group.bincount().tolist())
            assert abs(len(rows[split]) - fraction * len(group)) <= largest / 2 + 1e-9


@given(group=groups(), test=FRACTIONS.filter(bool), vals=st.tuples(FRACTIONS, FRACTIONS), seed=SEEDS)
@settings(max_examples=40)
def test_which_groups_are_test_does_not_depend_on_how_many_are_val(
    group: Tensor, test: float, vals: tuple[float, float], seed: int
) -> None:
    one, other = (group_split(group, {"val": val, "test": test}, seed)["test"].tolist() for val in vals)
    assert one == other


def test_the_names_of_groups_may_leave_gaps() -> None:
    group = torch.arange(30) % 6
    one = group_split(group, {"test": 0.3}, seed=1)["test"].tolist()
    assert one == group_split(group * 1000 + 7, {"test": 0.3}, seed=1)["test"].tolist()


# samples


@given(labels=classes(), share=st.floats(0, 1), seed=SEEDS)
@settings(max_examples=40)
def test_a_sample_has_as_many_rows_as_asked_and_each_class_in_proportion(
    labels: Tensor, share: float, seed: int
) -> None:
    counts = counts_of(labels)
    fewest = sum(count > 0 for count in counts)
    count = max(fewest, int(share * len(labels)))
    rows = stratified_sample(labels, count, seed)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == min(count, len(labels))
    for whole, got in zip(counts, counts_of(labels[rows]), strict=True):
        assert got >= min(whole, 1)
        # One row of each class comes first, the rest is in proportion.
        spare = (count - fewest) / max(1, len(labels) - fewest)
        assert abs(got - min(whole, 1) - spare * max(0, whole - 1)) <= 1 or got == whole


@pytest.mark.long
@given(labels=classes(), seed=SEEDS)
@settings(max_examples=40)
def test_of_a_binary_table_a_smaller_sample_is_part_of_a_larger_one(labels: Tensor, seed: int) -> None:
    # With three classes and more, rounding may take a row of one class for that of another.
    labels = (labels > 1).long()
    fewest = len(labels.unique())
    before: set[int] = set()
    for count in range(fewest, len(labels) + 1):
        rows = set(stratified_sample(labels, count, seed).tolist())
        assert before <= rows
        before = rows


def test_a_class_of_three_rows_is_in_every_split() -> None:
    labels = torch.tensor([0] * 200 + [1] * 3 + [2] * 3 + [3] * 3)
    rows = stratified_split(labels, {"val": 0.2, "test": 0.2}, seed=0)
    assert [sorted(set(labels[members].tolist())) for members in rows.values()] == [[0, 1, 2, 3]] * 3
