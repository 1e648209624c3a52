"""Whether an unpenalized fit has a finite optimum: another program's linear program, constructed answers, tables."""

from __future__ import annotations

import math
import sys
from collections import Counter
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array
from sklearn import datasets
from torch import Tensor

from logreg.csr import of_scipy
from logreg.optimality.separation.find import Separation, _separate_each, find_separation, separate_groups
from logreg.optimality.separation.inequalities import _with_worst
from logreg.optimality.separation.rows import Kind, SeparationRows
from logreg.optimality.separation.work import TooMuchWork, Work

Array = NDArray[np.float64]


def separation_in(features: Any, labels: Any, loss: str = "cross_entropy", **options: Any) -> Separation:
    features, labels = torch.as_tensor(features), torch.as_tensor(labels).long()
    return find_separation(features, labels, int(labels.max()) + 1, loss, **options)


def kind_by_definition(features: Array, labels: NDArray[np.int64]) -> Kind:
    """By one linear program with unbounded coefficients: as many pairs with margin 1 as can be, none below 0."""
    rows = np.column_stack([np.ones(len(labels)), features])
    classes = int(labels.max()) + 1
    pairs = [(row, own, other) for row, own in zip(rows, labels, strict=True) for other in range(classes)]
    inequalities = []
    for row, own, other in pairs:
        if other != own:
            one = np.zeros((classes, rows.shape[1]))
            one[own], one[other] = row, -row
            inequalities.append(one[1:].ravel())
    signed = np.array(inequalities)
    total, number = signed.shape
    answer = linprog(
        np.concatenate([np.zeros(number), -np.ones(total)]),
        np.hstack([-signed, np.eye(total)]),
        np.zeros(total),
        bounds=[(None, None)] * number + [(0, 1)] * total,
    )
    assert answer.status == 0
    separated = round(-answer.fun)
    return "none" if separated == 0 else "complete" if separated == total else "quasi-complete"


def small_problem(draw: np.random.Generator) -> tuple[Array, NDArray[np.int64]]:
    """Whole numbers, so that ties are ties; of every kind, with repeated, dependent and constant columns."""
    classes = int(draw.choice([2, 2, 3, 4]))
    rows, columns = int(draw.integers(classes, 40)), int(draw.integers(1, 6))
    most = int(draw.choice([1, 3, 20]))
    features = draw.integers(-most, most + 1, (rows, columns)).astype(float)
    logits = features @ draw.integers(-2, 3, (columns, classes)) + draw.integers(-1, 2, classes)
    labels = (logits + draw.choice([0, 1, 5]) * draw.standard_normal((rows, classes))).argmax(1)
    labels[:classes] = np.arange(classes)
    more = [features[:, 0], 1 - features[:, 0], np.full(rows, 7.0), (labels == 1) & (draw.random(rows) < 0.3)]
    return np.column_stack([features, *(column for column in more if draw.random() < 0.3)]), labels


def in_other_units(features: Array, draw: np.random.Generator) -> Array:
    columns = features.shape[1]
    scaled: Array = (features + draw.choice([0, 1, 100, 10000], columns)) * 10.0 ** draw.integers(-4, 5, columns)
    return scaled


@pytest.mark.long
@pytest.mark.parametrize("problems", [80, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_kind_is_that_of_the_definition(problems: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(problems):
        draw = np.random.default_rng(seed)
        features, labels = small_problem(draw)
        kind = kind_by_definition(features, labels)
        seen[kind] += 1
        found = separation_in(in_other_units(features, draw) if seed % 2 else features, labels)
        assert found.kind == kind, f"seed {seed}"
        if found.columns and labels.max() == 1:  # they alone separate
            assert kind_by_definition(features[:, found.columns], labels) == kind, f"seed {seed}"
    assert min(seen.values()) > problems / 5


def overlapping(draw: np.random.Generator) -> tuple[Array, NDArray[np.int64]]:
    """Rows that could be separated, but for a few that are there with both labels, and span the space."""
    columns = int(draw.choice([1, 3, 10, 40]))
    rows = int(draw.integers(columns + 5, 1000))
    features = draw.standard_normal((rows, columns))
    labels = (features @ draw.standard_normal(columns) > 0).astype(int)
    both = draw.choice(rows, columns + 2, replace=False)
    return np.concatenate([features, features[both]]), np.concatenate([labels, 1 - labels[both]])


@pytest.mark.long
def test_no_false_alarm_where_a_few_rows_overlap() -> None:
    for seed in range(100):
        draw = np.random.default_rng(seed)
        features, labels = overlapping(draw)
        assert separation_in(features if seed % 3 else in_other_units(features, draw), labels).kind == "none", (
            f"seed {seed}"
        )


@pytest.mark.long
def test_a_dummy_of_one_class_only_is_named() -> None:
    for seed in range(30):
        draw = np.random.default_rng(seed)
        features, labels = overlapping(draw)
        own = int(draw.integers(2))
        members = np.flatnonzero(labels == own)
        dummy = np.zeros(len(labels))
        dummy[draw.choice(members, int(draw.choice([1, 2, max(1, len(members) // 10)])))] = 1
        place = int(draw.integers(features.shape[1] + 1))
        features = np.insert(features, place, dummy, axis=1)
        found = separation_in(in_other_units(features, draw), labels)
        assert found == Separation("quasi-complete", (place,), (1,)), f"seed {seed}"


def separable(draw: np.random.Generator, rows: int, columns: int) -> tuple[Array, NDArray[np.int64]]:
    features = draw.standard_normal((rows, columns))
    direction = draw.standard_normal(columns) / columns**0.5
    labels = (features @ direction > np.median(features @ direction)).astype(int)
    return features + 0.01 * np.outer(labels - 0.5, direction), labels


@pytest.mark.long
def test_no_miss_where_a_plane_separates_all() -> None:
    for seed in range(40):
        draw = np.random.default_rng(seed)
        columns = int(draw.choice([1, 2, 5, 20]))
        features, labels = separable(draw, int(draw.integers(5, 1000)), columns)
        assert separation_in(in_other_units(features, draw), labels).kind == "complete", f"seed {seed}"


@pytest.mark.parametrize(("rows", "columns"), [(2000, 100), (300, 400), (20, 5000)])
def test_many_columns_are_separated_or_overlap(rows: int, columns: int) -> None:
    features, labels = separable(np.random.default_rng(0), rows, columns)
    assert separation_in(features, labels).kind == "complete"
    twice = np.concatenate([features, features])
    assert separation_in(twice, np.concatenate([labels, 1 - labels])).kind == "none"


@pytest.mark.parametrize(
    ("name", "loss", "kind", "classes"),
    [
        ("breast_cancer", "bce", "complete", (1,)),
        ("wine", "cross_entropy", "complete", (0, 1, 2)),
        ("wine", "bce", "complete", (0, 1, 2)),
        ("iris", "cross_entropy", "quasi-complete", (0,)),
        ("iris", "bce", "quasi-complete", (0,)),
        pytest.param("digits", "cross_entropy", "complete", tuple(range(10)), marks=pytest.mark.long),
        # 8 and 9 are separated from the rest in part
        pytest.param("digits", "bce", "quasi-complete", tuple(range(10)), marks=pytest.mark.slow),
    ],
)
def test_none_of_the_bundled_tables_has_an_optimum(name: str, loss: str, kind: Kind, classes: tuple[int, ...]) -> None:
    bunch = getattr(datasets, f"load_{name}")()
    found = separation_in(bunch.data, bunch.target, loss)
    assert (found.kind, found.classes) == (kind, classes)
    assert found.columns


def test_breast_cancer_by_definition() -> None:
    bunch = datasets.load_breast_cancer()
    standardized = (bunch.data - bunch.data.mean(0)) / bunch.data.std(0)
    assert kind_by_definition(standardized, bunch.target) == "complete"


def test_order_and_units_change_neither_kind_nor_columns() -> None:
    draw = np.random.default_rng(0)
    bunch = datasets.load_breast_cancer()
    features, labels = overlapping(draw)
    quasi = np.column_stack([features, labels * (draw.random(len(labels)) < 0.1), labels * np.arange(len(labels))])
    for values, target in [(bunch.data, bunch.target), (quasi, labels)]:
        found = separation_in(values, target)
        rows, columns = draw.permutation(len(values)), draw.permutation(values.shape[1])
        again = separation_in(in_other_units(values, draw)[rows][:, columns], target[rows])
        assert again.kind == found.kind
        assert {int(columns[place]) for place in again.columns} == set(found.columns)


def columns_by_definition(features: Array, labels: NDArray[np.int64]) -> list[int]:
    """By one linear program: the largest margin of slopes (per standard deviation) whose sizes sum to 1."""
    sign, (total, number) = 2.0 * labels - 1, features.shape
    standardized = (features - features.mean(0)) / features.std(0)
    signed = sign[:, np.newaxis] * standardized
    # Unknown: the positive and the negative parts of the slopes, the intercept, the margin.
    answer = linprog(
        np.concatenate([np.zeros(2 * number + 1), [-1]]),
        np.vstack([np.column_stack([-signed, signed, -sign, np.ones(total)]), [*np.ones(2 * number), 0, 0]]),
        np.concatenate([np.zeros(total), [1]]),
        bounds=[(0, None)] * (2 * number) + [(None, None)] * 2,
    )
    assert answer.status == 0
    size = np.abs(answer.x[:number] - answer.x[number : 2 * number])
    return [int(place) for place in np.argsort(-size) if size[place] > 1e-7]


@pytest.mark.parametrize("threshold", [-1.5, 1.5])
def test_the_columns_are_those_of_the_direction_with_the_largest_margin(threshold: float) -> None:
    for seed in range(4):
        draw = np.random.default_rng(seed)
        features = draw.standard_normal((300, 6)) * [1, 1, 1, 5, 5, 5]
        logits = features[:, 1] - 0.7 * features[:, 3] / 5 - threshold
        features, labels = features[np.abs(logits) > 0.2], (logits > 0)[np.abs(logits) > 0.2].astype(int)
        assert list(separation_in(features, labels).columns) == columns_by_definition(features, labels), f"seed {seed}"


@pytest.mark.parametrize("slopes", [(2.0, 1.0), (1.0, 2.0)])
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_an_offset_does_not_change_which_column_comes_first(slopes: tuple[float, float], offset: float) -> None:
    features = torch.cartesian_prod(torch.arange(-4.0, 5), torch.arange(-4.0, 5)).double()
    logits = features @ torch.tensor(slopes).double()
    features[:, 0] += offset
    first = 0 if slopes[0] > slopes[1] else 1
    assert separation_in(features[logits != 0], logits[logits != 0] > 0) == Separation(
        "complete", (first, 1 - first), (1,)
    )


def test_columns_that_separate_alone_come_with_the_widest_gap_first(draw: torch.Generator) -> None:
    labels = torch.arange(100) % 2
    noise = torch.rand(100, 4, generator=draw)
    features = torch.stack([noise[:, 0], noise[:, 1] - 1.1 * labels, noise[:, 2], 50 + 3.0 * labels + noise[:, 3]], 1)
    assert separation_in(features, labels) == Separation("complete", (3, 1), (1,))


def test_an_id_that_counts_the_rows_of_the_classes_is_named(draw: torch.Generator) -> None:
    features = torch.cat([torch.randn(60, 5, generator=draw), torch.arange(60.0).unsqueeze(1)], dim=1)
    assert separation_in(features, torch.arange(60) >= 30).columns == (5,)


@pytest.mark.parametrize("own", [0, 1])
def test_one_row_among_many(own: int, draw: torch.Generator) -> None:
    # A sample does not have the row: what samples cannot decide all rows must.
    features = torch.randn(50_000, 6, generator=draw)
    labels = (features[:, 0] + torch.randn(50_000, generator=draw) > 0).long()
    assert separation_in(features, labels).kind == "none"
    row = int((labels == own).nonzero()[777])
    features = torch.cat([features, torch.zeros(50_000, 1)], dim=1)
    assert separation_in(features, labels).kind == "none"
    features[row, 6] = 1
    assert separation_in(features, labels) == Separation("quasi-complete", (6,), (1,))
    features[int((labels != own).nonzero()[777]), 6] = 1
    assert separation_in(features, labels).kind == "none"


def test_one_wrong_label_among_many_counts_unless_it_weighs_nothing(draw: torch.Generator) -> None:
    features = torch.randn(50_000, 6, generator=draw)
    labels = (features @ torch.randn(6, generator=draw) > 0).long()
    weight = torch.rand(50_000, generator=draw) + 0.1
    assert separation_in(features, labels, sample_weight=weight).kind == "complete"
    labels[4321] = 1 - labels[4321]
    assert separation_in(features, labels, sample_weight=weight).kind == "none"
    weight[4321] = 0
    assert separation_in(features, labels, sample_weight=weight).kind == "complete"


@pytest.mark.parametrize(
    ("gap", "kind"), [(1e-3, "complete"), (1e-8, "complete"), (0, "quasi-complete"), (-1e-8, "none"), (-1e-3, "none")]
)
def test_a_narrow_gap_is_a_gap_and_a_narrow_overlap_an_overlap(gap: float, kind: Kind) -> None:
    draw = np.random.default_rng(0)
    sign = np.where(draw.random(300) < 0.5, 1, -1)
    distance = np.where(np.arange(300) < 200, gap / 2, draw.uniform(0.5, 1, 300))
    slab = np.column_stack([sign * distance, draw.standard_normal((300, 2))])
    turned = slab @ np.linalg.qr(draw.standard_normal((3, 3))).Q
    for features in (slab, turned, 1e-4 * turned):
        assert separation_in(features, sign > 0).kind == kind


def test_a_column_nearly_the_same_as_another_does_not_hide_a_separation() -> None:
    draw = np.random.default_rng(0)
    features, labels = overlapping(draw)
    dummy = (labels == 1) & (draw.random(len(labels)) < 0.2)
    found = separation_in(np.column_stack([features, features[:, 0] + 1e-6 * dummy]), labels)
    assert found.kind == "quasi-complete"
    assert set(found.columns) == {0, features.shape[1]}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_any_type_is_read_and_none_is_changed(dtype: torch.dtype, draw: torch.Generator) -> None:
    features = torch.randint(0, 200, (400, 3), generator=draw).to(dtype)
    before = features.clone()
    labels = features[:, 0].double() + features[:, 1].double() > 180
    found = separation_in(features, labels)
    assert found.kind == "complete"
    assert set(found.columns) >= {0, 1}
    labels[7] = ~labels[7]
    assert separation_in(features, labels).kind == "none"
    assert torch.equal(features, before)


def sectors(draw: torch.Generator, number: int) -> tuple[Tensor, Tensor]:
    angle, distance = (torch.rand(600, generator=draw) for _ in range(2))
    turn = 2 * torch.pi * angle
    return (0.5 + distance).unsqueeze(1) * torch.stack([turn.cos(), turn.sin()], 1), (angle * number).long()


def test_softmax_separates_classes_that_no_plane_separates_from_the_rest(draw: torch.Generator) -> None:
    features, labels = sectors(draw, 6)
    assert separation_in(features, labels, "bce").kind == "none"
    found = separation_in(features, labels, "cross_entropy")
    assert (found.kind, set(found.columns), found.classes) == ("complete", {0, 1}, tuple(range(6)))
    labels[5] = (labels[5] + 3) % 6
    assert separation_in(features, labels, "cross_entropy").kind in ("none", "quasi-complete")


def test_classes_in_order_on_a_line(draw: torch.Generator) -> None:
    hours = 5 * torch.rand(300, 1, generator=draw)
    assert separation_in(hours, hours.squeeze(1).long()) == Separation("complete", (0,), (0, 1, 2, 3, 4))
    assert separation_in(hours, hours.squeeze(1).long(), "bce") == Separation("quasi-complete", (0,), (0, 4))


def test_two_groups_of_classes_that_overlap_within(draw: torch.Generator) -> None:
    features = torch.randn(400, 2, generator=draw)
    labels = torch.randint(0, 2, (400,), generator=draw) + 2 * (features[:, 1] > 0)
    assert separation_in(features, labels, "bce").kind == "none"
    assert separation_in(features, labels, "cross_entropy") == Separation("quasi-complete", (1,), (2, 3))


def test_a_class_that_has_no_row_of_weight_is_separated_by_the_intercept(draw: torch.Generator) -> None:
    features, labels = torch.randn(300, 2, generator=draw), torch.arange(300) % 3
    weight = (labels != 1).float()
    for loss in ("bce", "cross_entropy"):
        found = find_separation(features, labels, 3, loss, weight)
        assert found == Separation("quasi-complete", (), (1,))
        assert "the intercept alone separates 'b' from the rest (quasi-complete separation)" in found.in_words(
            (), ("a", "b", "c")
        )
    assert find_separation(features, torch.zeros(300), 2, "bce").kind == "complete"


def test_where_pairs_are_too_many_for_softmax_the_classes_alone_decide_what_they_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels = torch.arange(60.0).unsqueeze(1), torch.arange(60) // 20
    assert separation_in(features, labels).kind == "complete"
    monkeypatch.setattr("logreg.optimality.separation.inequalities.MAX_NUMEL", 100)
    assert separation_in(features, labels).kind == "quasi-complete"


def test_the_pairs_that_lack_most_are_added_until_nothing_new_lacks() -> None:
    chosen, lack = torch.tensor([1, 4]), torch.tensor([[0.0, 9.0, 3.0], [1.0, 0.0, 2.0]])
    assert _with_worst(chosen, lack, 2).tolist() == [1, 2, 4, 5]
    assert _with_worst(chosen, lack, 10).tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(TooMuchWork):  # else the search for a direction would go on for ever
        _with_worst(torch.tensor([1, 2, 3, 5]), lack, 10)


def test_without_work_only_what_a_single_column_shows_is_found(draw: torch.Generator) -> None:
    features = torch.randn(500, 3, generator=draw)
    labels = torch.arange(500) % 2
    assert separation_in(features, labels, max_work=0).kind == "unknown"
    features[:, 1] = labels * (torch.rand(500, generator=draw) < 0.2)
    assert separation_in(features, labels, max_work=0) == Separation("quasi-complete", (1,), (1,))
    features[:, 1] += labels
    assert separation_in(features, labels, max_work=0) == Separation("complete", (1,), (1,))


def in_digits(loss: str = "cross_entropy", **options: Any) -> Separation:
    """The separation of 1,797 small images in 10 classes: each class is decided, then named by a linear program."""
    features, labels = datasets.load_digits(return_X_y=True)
    return separation_in(features, labels, loss, **options)


def statuses_of_programs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses of the linear programs that are solved from now on."""
    statuses = []

    def solved(*arguments: Any, **options: Any) -> Any:
        answer = linprog(*arguments, **options)
        statuses.append(answer.status)
        return answer

    monkeypatch.setattr("scipy.optimize.linprog", solved)
    return statuses


@pytest.mark.long
def test_a_clock_that_hurries_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = in_digits()
    assert 10 < len(found.columns) < 62  # of sparse directions; 61 columns vary
    limits = []

    def solved(*arguments: Any, **options: Any) -> Any:
        limits.append(options["options"])
        return linprog(*arguments, **options)

    monkeypatch.setattr("scipy.optimize.linprog", solved)
    for clock in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        ticks = count(0, 100.0)
        monkeypatch.setattr(f"time.{clock}", lambda ticks=ticks: next(ticks))
    assert in_digits() == found
    assert limits
    assert all("time_limit" not in options and options["maxiter"] > 0 for options in limits)


def test_the_work_is_counted_the_same_each_time_and_ends_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    features, labels = draw.standard_normal((2000, 100)), np.arange(2000) % 2  # the classes overlap
    spent, spend = [0.0], Work.spend

    def counted(self: Work, numbers: float = 0, products: float = 0) -> None:
        before = self.left
        spend(self, numbers, products)  # work that is too much is not done
        spent[-1] += before - self.left

    monkeypatch.setattr(Work, "spend", counted)
    assert separation_in(features, labels).kind == "none"
    spent.append(0.0)
    assert separation_in(features, labels).kind == "none"
    assert spent[0] == spent[1] > 0
    for part in (0.1, 0.5, 0.99):
        spent.append(0.0)
        assert separation_in(features, labels, max_work=part * spent[0]).kind == "unknown"
        assert spent[-1] <= part * spent[0]
    assert separation_in(features, labels, max_work=1.01 * spent[0]).kind == "none"
    features[:, 7] = labels * (np.arange(2000) < 500)  # a single column is compared whatever the work
    assert separation_in(features, labels, max_work=0.1 * spent[0]) == Separation("quasi-complete", (7,), (1,))


def test_work_may_have_no_limit() -> None:
    patients = datasets.load_breast_cancer(return_X_y=True)
    assert separation_in(*patients, max_work=math.inf) == separation_in(*patients)


def test_every_step_of_a_search_counts_its_work(draw: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    places, spend = set[tuple[str, int]](), Work.spend

    def counted(self: Work, numbers: float = 0, products: float = 0) -> None:
        caller = sys._getframe(1)
        places.add((caller.f_code.co_name, caller.f_lineno))
        assert numbers > 0 or products > 0 or caller.f_code.co_name == "_separate_each"
        spend(self, numbers, products)

    monkeypatch.setattr(Work, "spend", counted)
    features, labels = torch.randn(90, 12, generator=draw).double(), torch.arange(90) % 3
    assert separation_in(features, labels).kind == "none"
    features[:, 2] = (labels > 0) * (torch.arange(90) < 30)
    assert separation_in(features, labels > 0).kind == "quasi-complete"
    assert separation_in(features[:8], labels[:8] > 0).kind == "complete"  # fewer rows than coefficients
    assert Counter(name for name, _ in places) == {
        "_separate_each": 1,
        "solve": 4 + 2,  # of the inequalities and of the linear program
        "norm": 1,
        "margins": 1,
        "_matrix": 1,
        "minimize_squared_hinge": 1,
        "_least_squares": 1,
        "row_space_axes": 1,
    }


@pytest.mark.long
@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_where_naming_is_too_much_work_no_class_is_named_by_a_sparse_direction(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, programs = in_digits(loss), statuses_of_programs(monkeypatch)
    monkeypatch.setattr("logreg.optimality.separation.find.NAMING_WORK", 0.1)
    cut = in_digits(loss, max_work=0.35)  # enough to decide
    assert 1 < len(programs) < 10
    monkeypatch.setattr("logreg.optimality.separation.inequalities.MAX_PROGRAM_COEFFICIENTS", 0)
    assert cut == in_digits(loss) != found
    assert (cut.kind, cut.classes) == (found.kind, found.classes)


@pytest.mark.long
def test_more_work_decides_then_finds_any_direction_then_a_sparse_one(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = statuses_of_programs(monkeypatch)
    monkeypatch.setattr("logreg.optimality.separation.find.NAMING_WORK", 0.0)
    patients = datasets.load_breast_cancer(return_X_y=True)
    found = [separation_in(*patients, max_work=work) for work in np.arange(2e-3, 0.04, 1e-3)]
    undecided, any_columns, sparse = [one for one, before in zip(found, [None, *found], strict=False) if one != before]
    assert undecided == Separation("unknown")
    assert any_columns.kind == sparse.kind == "complete"
    assert len(any_columns.columns) > len(sparse.columns)
    assert set(programs) == {0, 1}  # 1: the iterations were too few


def test_where_the_linear_program_fails_any_direction_names_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    at = torch.arange(40.0)
    features = torch.stack([at, torch.where(at % 2 == 0, -at, 1 - at)], dim=1)  # their sum is 0 or 1
    labels = at.long() % 2
    assert separation_in(features, labels) == Separation("complete", (0, 1), (1,))
    monkeypatch.setattr("scipy.optimize.linprog", lambda *args, **options: SimpleNamespace(status=1, x=None))
    found = separation_in(features, labels)
    assert (found.kind, sorted(found.columns)) == ("complete", [0, 1])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Separation("none"), "a finite optimum exists"),
        (Separation("unknown"), "too much work"),
        (Separation("complete", (2,), (1,)), "'c' separates 'yes' from 'no' perfectly (complete separation), so"),
        (
            Separation("quasi-complete", (2, 0), (1,)),
            "'c' and 'a' separate 'yes' from 'no' in some rows (quasi-complete separation), so",
        ),
        (Separation("complete", (2, 0, 1, 3), (1,)), "'c', 'a', 'b' and 1 more column separate 'yes'"),
    ],
)
def test_one_sentence_names_the_columns_and_says_what_to_do(found: Separation, words: str) -> None:
    sentence = found.in_words(["a", "b", "c", "d"], ["no", "yes"])
    assert words in sentence
    assert ("l2=1e-3" in sentence) == (found.kind != "none")


def test_the_sentence_counts_many_classes_and_numbers_columns_without_names() -> None:
    names = [str(digit) for digit in range(10)]
    assert "feature 3 separates all 10 classes perfectly" in Separation("complete", (3,), tuple(range(10))).in_words(
        [], names
    )
    many = Separation("quasi-complete", tuple(range(297)), tuple(range(10))).in_words([], names)
    assert many.startswith("no finite optimum: 297 features separate all 10 classes in some rows (quasi-complete ")
    some = Separation("complete", (3,), (0, 1, 2, 4, 5)).in_words([], names)
    assert "separates '0', '1', '2' and 2 more classes from the rest" in some


def test_without_work_single_columns_are_compared_for_every_class(draw: torch.Generator) -> None:
    labels = torch.arange(400) % 40
    features = torch.randn(400, 3, generator=draw)
    features[labels == 7, 1] += 9  # alone beyond all others
    features[labels == 9, 2] = features[labels != 9, 2].max()  # touches them
    features[labels == 9, 0] = 0
    weight = torch.where(labels == 11, 0.0, 1.0)  # no row counts
    rows = SeparationRows(features, labels, 40, weight, Work(0))
    found = _separate_each(rows, torch.arange(40))
    expected = [separate_groups(rows, (torch.arange(40) == own).long()) for own in range(40)]
    assert [one.kind for one in found] == [one.kind for one in expected]
    assert (found[7].kind, found[9].kind, found[11].kind) == ("complete", "quasi-complete", "complete")
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.column_sizes(True), other.column_sizes(True))
        assert torch.equal(one.separated, other.separated)


# wide sparse features, of which single columns alone are compared


def wide_sparse(classes: int) -> tuple[Tensor, Tensor]:
    """2,500 columns in 400 rows; each column but the last is in rows of every class, with both signs."""
    draw = torch.Generator().manual_seed(0)
    features = torch.zeros(400, 2500, dtype=torch.float64)
    for column in range(2499):
        places = torch.randperm(400 // classes, generator=draw)[:2]
        for label in range(classes):
            features[places * classes + label, column] = torch.tensor([1.0, -1.0], dtype=torch.float64)
    return features, torch.arange(400) % classes


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["unknown", "quasi-complete", "complete"])
def test_single_columns_of_wide_sparse_features_are_compared(classes: int, kind: str) -> None:
    features, labels = wide_sparse(classes)
    labels = labels[:399]
    features = features[:399]
    if kind == "complete":
        features[:, -1] = torch.where(labels == 1, 3.0, -1.0 * (labels == 0))
    if kind == "quasi-complete":
        features[labels.eq(1).nonzero()[:5, 0], -1] = 2.0
    found = find_separation(of_scipy(csr_array(features.numpy())), labels, classes, "bce")
    if kind == "unknown":
        assert found == Separation("unknown")
        return
    assert found.kind == ("complete" if kind == "complete" and classes == 2 else "quasi-complete")
    assert found.columns[0] == 2499
    assert 1 in found.classes


def test_rows_of_weight_0_do_not_hide_a_separation_of_sparse_features() -> None:
    features, labels = wide_sparse(2)
    features[:, -1] = labels * 3.0
    features[:2, -1] = torch.tensor([3.0, 0.0])
    weights = torch.ones(400)
    assert find_separation(of_scipy(csr_array(features.numpy())), labels, 2, "bce", weights).kind != "complete"
    weights[:2] = 0
    found = find_separation(of_scipy(csr_array(features.numpy())), labels, 2, "bce", weights)
    assert (found.kind, found.columns) == ("complete", (2499,))
