"""The path over l2: every point is the optimum of its own strength, and the choice among them is an honest one."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from logreg.evaluation import path_selection
from logreg.evaluation.path_row import PathRow
from logreg.evaluation.path_selection import (
    SCORE_RTOL,
    alarm,
    best_of,
    path_csv,
    score_path,
    score_points,
    search_strength,
    simplest_of,
)
from logreg.facts import Batch
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows, dense_sample, part_rows
from logreg.solvers.bounds.base import Bound
from logreg.solvers.bounds.bound import bound
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.kernels import logits_of
from logreg.solvers.passes.base import PassRequests, drive, request
from logreg.solvers.passes.evaluate import Evaluate, KnownPoint
from logreg.solvers.paths import l2_path
from logreg.solvers.paths.l2_path import PathFitter, PathPoint, Strength, default_strengths, fit_path, nearest_start
from logreg.solvers.problem import Coordinates
from whole_runs import Answer, newest, train

STRENGTHS = [1.0, 1e-1, 1e-2, 1e-3]


def rows_of(classes: int, number: int = 300) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(classes)
    features = torch.randn(number, 6, generator=draw, dtype=torch.float64) + 1
    logits = features @ torch.randn(6, classes, generator=draw, dtype=torch.float64)
    noise = -torch.log(-torch.log(torch.rand(number, classes, generator=draw, dtype=torch.float64)))
    return features, (logits + 2 * noise).argmax(1)


def row(l2: float, loss_val: float, error: float = 0.1, accuracy: float = 0.9, auroc: float | None = None) -> PathRow:
    return PathRow(l2, 0.1, loss_val, error, accuracy, 1e-9, 1e-8, True, 3, 6, auroc)


@pytest.mark.parametrize(("classes", "loss", "l1"), [(2, "bce", 0.0), (3, "cross_entropy", 0.0), (3, "bce", 1e-2)])
def test_every_point_is_the_optimum_of_its_own_strength(classes: int, loss: str, l1: float) -> None:
    memory = MemoryRows(*rows_of(classes))
    objective = Objective(loss, l2=1.0, l1=l1)
    points = drive(fit_path(problem_of(memory, objective, classes), STRENGTHS, 1e-10), memory)
    assert [point.l2 for point in points] == STRENGTHS
    for point in points:
        cold = fit(*rows_of(classes), replace(objective, l2=point.l2), classes, tolerance=1e-10)
        assert point.converged
        assert point.bound.value == pytest.approx(cold.bound.value, rel=3e-10)
        torch.testing.assert_close(point.point[:, :-1], cold.coef, rtol=1e-3, atol=1e-4)
    losses = [point.bound.loss for point in points]
    sizes = [float(point.point[:, :-1].norm()) for point in points]
    assert losses == sorted(losses, reverse=True)
    assert sizes == sorted(sizes)


def test_the_order_in_which_strengths_are_named_does_not_matter() -> None:
    memory = MemoryRows(*rows_of(2))
    problem = problem_of(memory, Objective("bce", l2=1.0))
    one = drive(fit_path(problem, STRENGTHS), memory)
    other = drive(fit_path(problem, [STRENGTHS[2], STRENGTHS[0], STRENGTHS[3], STRENGTHS[1]]), memory)
    for left, right in zip(one, other, strict=True):
        assert left.converged
        assert left.bound.gap <= 1e-6 * left.bound.value
        assert torch.equal(left.point, right.point)


def test_a_strength_that_is_named_twice_is_fitted_once() -> None:
    memory = MemoryRows(*rows_of(2))
    points = drive(fit_path(problem_of(memory, Objective("bce", l2=1.0)), [0.1, 0.1, 0.01]), memory)
    assert [point.l2 for point in points] == [0.1, 0.01]


def test_strengths_are_in_their_order_whichever_is_fitted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, order = MemoryRows(*rows_of(2)), []
    problem, fit_one = problem_of(memory, Objective("bce", l2=1.0)), PathFitter.fit

    def watched(self: PathFitter, l2: float) -> PassRequests[PathPoint]:
        order.append(l2)
        return (yield from fit_one(self, l2))

    monkeypatch.setattr(PathFitter, "fit", watched)
    monkeypatch.setattr(l2_path, "MANY_PASSES", 0)
    points = drive(fit_path(problem, [1.0, 0.5, 0.2, 0.1], 1e-10), memory)
    assert order == [1.0, 0.2, 0.5, 0.1]
    assert [point.l2 for point in points] == [1.0, 0.5, 0.2, 0.1]
    assert all(point.converged for point in points)


@pytest.mark.parametrize("unit", [1.0, 2.0**-10])
@pytest.mark.parametrize(("factor", "is_saved"), [(1.02, True), (1.3, False)])
def test_bounds_on_both_sides_of_a_strength_save_its_fit(factor: float, is_saved: bool, unit: float) -> None:
    (features, labels), middle = rows_of(2), 1e-6 / unit**2
    memory = MemoryRows(features / unit, labels)
    problem = problem_of(memory, Objective("bce", l2=1.0))
    fitter = PathFitter(problem, 1e-3)
    for l2 in (1.2 * middle, 0.8 * middle):
        (best,) = drive(fit_path(problem, [l2], 1e-12), memory)
        point = factor * best.point  # the bound by duality is far larger than the gap there
        here = drive(bound(Strength(l2).of(problem), point), memory)
        gap = here.value - best.bound.value + best.bound.gap
        fitter.points.append(replace(best, point=point, bound=here._replace(gap=gap)))
    start = nearest_start(Strength(middle).of(problem), fitter.points)
    found = drive(fitter.fit(middle), memory)
    (best,) = drive(fit_path(problem, [middle], 1e-12), memory)
    assert found.converged
    assert found.bound.rigorous
    assert torch.equal(found.point, start) == is_saved
    assert (found.passes == 1) == is_saved
    assert found.bound.value - best.bound.value <= found.bound.gap + found.bound.rounding <= 1e-3 * found.bound.value
    by_duality = drive(bound(Strength(middle).of(problem), found.point, enough=math.inf), memory)
    assert by_duality.gap > 1e-3 * by_duality.value
    assert found.bound.error >= by_duality.error  # whose sizes of features are measured


def test_default_strengths_are_a_quarter_of_a_decade_apart() -> None:
    features, labels = torch.tensor([[1.0], [-1.0]] * 10).double(), torch.arange(20) % 2
    problem = problem_of(MemoryRows(features, labels), Objective("bce"))
    found = default_strengths(problem, Batch(features, labels, None))  # the curvature at zero is 1/4
    assert found[:5] == [0.32, 0.18, 0.1, 0.056, 0.032]
    assert found[-1] == 3.2e-7
    assert len(found) == 25


@pytest.mark.parametrize("intercept", [True, False])
def test_default_strengths_of_weighted_rows_are_those_of_repeated_ones(intercept: bool) -> None:
    features, labels = rows_of(2)
    times = torch.where(features.norm(dim=1) > features.norm(dim=1).quantile(0.9), 1000, 1)
    found = []
    for memory in (
        MemoryRows(features, labels, times.double()),
        MemoryRows(features.repeat_interleave(times, 0), labels.repeat_interleave(times)),
    ):
        problem = problem_of(memory, Objective("bce", "sum"), 2, intercept=intercept)
        found.append(default_strengths(problem, dense_sample(memory)))
    assert found[0] == found[1]


def test_a_fit_starts_at_the_optimum_of_the_nearest_strength() -> None:
    problem = problem_of(MemoryRows(*rows_of(2)), Objective("bce", l2=1e-3))
    line = torch.arange(14.0).double().view(2, 1, 7)
    bound = Bound(1.0, 0.0, True, line[0], 1.0)
    before, last = (PathPoint(line[0] + power * line[1], bound, True, 1, 10.0**power) for power in (1, -1))
    assert torch.equal(nearest_start(problem, [before, last]), last.point)
    assert torch.equal(nearest_start(problem, []), torch.zeros(1, 7).double())


@pytest.mark.parametrize(
    ("strengths", "place"),
    [((4e-3, 2e-3), 2.0), ((2e-3, 4e-3), -1.0), ((2e-3, 0.5e-3), 0.5), ((2.1e-3, 2e-3), 1.0), ((8e-3, 4e-3), 1.0)],
    ids=["downward", "upward", "between", "too close to each other", "too far"],
)
def test_a_fit_starts_where_the_line_through_two_near_optima_leads(strengths: Sequence[float], place: float) -> None:
    problem = problem_of(MemoryRows(*rows_of(2)), Objective("bce", l2=1e-3))
    line = torch.arange(14.0).double().view(2, 1, 7)
    bound = Bound(1.0, 0.0, True, line[0], 1.0)
    points = [PathPoint(line[0] + at * line[1], bound, True, 1, l2) for at, l2 in enumerate(strengths)]
    torch.testing.assert_close(nearest_start(problem, points), line[0] + place * line[1])


def test_a_point_that_was_not_given_passes_enough_says_so() -> None:
    memory = MemoryRows(*rows_of(3))
    points = drive(
        fit_path(problem_of(memory, Objective("cross_entropy", l2=1.0), 3), STRENGTHS, 1e-12, max_passes=1), memory
    )
    assert not any(point.converged for point in points)
    for point in points:
        best = fit(*rows_of(3), Objective("cross_entropy", l2=point.l2), 3, tolerance=1e-12).bound.value
        assert point.bound.gap >= point.bound.value - best > 0


def test_a_strength_may_take_the_passes_that_those_before_it_left() -> None:
    memory = MemoryRows(*rows_of(2))
    problem = problem_of(memory, Objective("bce", l2=1.0))
    points = drive(fit_path(problem, [1e3, 1e2, 1e-4], 1e-10, max_passes=5), memory)
    assert all(point.converged for point in points)
    assert points[-1].passes > 5
    assert sum(point.passes for point in points) <= 3 * 5


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_default_strengths_go_from_where_the_penalty_outweighs_the_data(factor: float) -> None:
    features, labels = rows_of(2)
    features = features * factor
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, Objective("bce", l2=1.0))
    values = default_strengths(problem, Batch(features, labels))
    assert len(values) == 25
    assert values == sorted(values, reverse=True)
    free = fit(features, labels, Objective("bce", l2=values[-1])).coef.norm()
    held = fit(features, labels, Objective("bce", l2=values[0])).coef.norm()
    assert held < 0.6 * free


def test_scores_on_val_are_those_of_each_point_alone() -> None:
    features, labels = rows_of(3)
    memory = MemoryRows(features[:200], labels[:200])
    problem = problem_of(memory, Objective("cross_entropy", l2=1.0), 3)
    points = drive(fit_path(problem, STRENGTHS), memory)
    rows = score_path(problem, points, MemoryRows(features[200:], labels[200:]))
    for point, row in zip(points, rows, strict=True):
        logits = features[200:] @ point.point[:, :-1].T + point.point[:, -1]
        losses = torch.nn.functional.cross_entropy(logits, labels[200:], reduction="none")
        assert row.loss_val == pytest.approx(float(losses.mean()), rel=1e-12)
        assert row.error == pytest.approx(float(losses.std(correction=0)) / 10, rel=1e-12)
        assert row.accuracy_val == pytest.approx(float((logits.argmax(1) == labels[200:]).double().mean()))
    weighted = MemoryRows(features[200:], labels[200:], torch.full((100,), 2.0, dtype=torch.float64))
    assert score_path(problem, points, weighted) == [
        pytest.approx(row) if isinstance(row, float) else row for row in rows
    ]


def test_the_auroc_on_val_is_that_of_scikit_learn() -> None:
    features, labels = rows_of(2)
    memory = MemoryRows(features[:200], labels[:200])
    problem = problem_of(memory, Objective("bce", l2=1.0))
    points = drive(fit_path(problem, STRENGTHS), memory)
    weight = torch.arange(100.0, dtype=torch.float64) % 3
    rows = score_path(problem, points, MemoryRows(features[200:], labels[200:], weight), auroc=True)
    for point, scored in zip(points, rows, strict=True):
        odds = features[200:] @ point.point[0, :-1]
        assert scored.auroc_val == pytest.approx(roc_auc_score(labels[200:], odds, sample_weight=weight))
    assert score_path(problem, points, memory)[0].auroc_val is None


# A search with few fits


def searched(
    features: Tensor, labels: Tensor, val: Tensor, val_labels: Tensor, select: str = "log_loss"
) -> tuple[list[PathRow], list[PathRow]]:
    """Rows of a search, and of the whole path with all digits."""
    memory, held = MemoryRows(features, labels), MemoryRows(val, val_labels)
    classes = int(labels.max()) + 1
    problem = problem_of(memory, Objective("bce" if classes == 2 else "cross_entropy", l2=1.0), classes)
    sample = Batch(features, labels)
    rows, points, place = search_strength(problem, memory, held, select)
    same = SCORE_RTOL * abs(rows[0].score(select))
    assert place == best_of(rows, select, same)
    assert (
        [each.l2 for each in rows] == [each.l2 for each in points] == sorted({each.l2 for each in rows}, reverse=True)
    )
    whole = drive(fit_path(problem, default_strengths(problem, sample), 1e-8), memory)
    return rows, score_path(problem, whole, held, select == "auroc")


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("train_rows", [40, 400, 2000])
def test_a_search_finds_about_what_the_whole_path_finds_with_fewer_fits(classes: int, train_rows: int) -> None:
    features, labels = rows_of(classes, train_rows + 500)
    rows, whole = searched(features[:train_rows], labels[:train_rows], features[train_rows:], labels[train_rows:])
    assert len(rows) <= 10 < len(whole)
    best, lowest = rows[best_of(rows)], whole[best_of(whole)]
    assert best.loss_val <= lowest.loss_val + 0.02 * whole[0].loss_val
    assert alarm(rows) is None


def test_a_search_does_not_end_where_the_penalty_still_holds_all_that_matters_at_zero() -> None:
    # noise of large variance: for decades it is all that the penalty lets go
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(1500, 2, generator=draw, dtype=torch.float64) * torch.tensor([100.0, 1.0]).double()
    labels = (features[:, 1] + 0.3 * torch.randn(1500, generator=draw, dtype=torch.float64) > 0).long()
    rows, _ = searched(features[:1000], labels[:1000], features[1000:], labels[1000:])
    flat = [each for each in rows if each.l2 >= 100]
    assert len(flat) >= 2
    assert flat[-1].loss_val > 0.68
    assert rows[best_of(rows)].loss_val < 0.25


def test_a_search_goes_above_where_labels_are_noise() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(400, 60, generator=draw, dtype=torch.float64)
    labels = torch.arange(400) % 2
    rows, whole = searched(features[:200], labels[:200], features[200:], labels[200:])
    best = rows[best_of(rows)]
    assert best.l2 >= whole[0].l2
    assert best.loss_val == pytest.approx(math.log(2), abs=0.01)


@pytest.mark.parametrize("select", ["accuracy", "auroc"])
def test_a_search_may_be_for_another_score(select: str) -> None:
    features, labels = rows_of(2, 500)
    rows, whole = searched(features[:200], labels[:200], features[200:], labels[200:], select)
    best, highest = rows[best_of(rows, select)], whole[best_of(whole, select)]
    assert best.score(select) == max(each.score(select) for each in rows) >= highest.score(select) - 0.01


def test_a_search_takes_the_sum_over_rows_as_it_is() -> None:
    features, labels = rows_of(2, 600)
    memory, held = MemoryRows(features[:300], labels[:300]), MemoryRows(features[300:], labels[300:])
    mean, of_sum = (
        search_strength(
            problem_of(memory, Objective("bce", reduction, l2=1.0)),
            memory,
            held,
        )[0]
        for reduction in ("mean", "sum")
    )
    assert of_sum[best_of(of_sum)].l2 / 300 == pytest.approx(mean[best_of(mean)].l2, rel=2.5)
    assert of_sum[best_of(of_sum)].loss_val == pytest.approx(mean[best_of(mean)].loss_val, abs=0.01)


def test_the_lowest_loss_is_best_and_the_strongest_within_one_error_is_simplest() -> None:
    rows = [row(10, 0.9), row(1, 0.55), row(0.1, 0.5), row(0.01, 0.52), row(0.001, 0.8)]
    assert rows[best_of(rows)].l2 == 0.1
    assert rows[simplest_of(rows)].l2 == 1
    assert alarm(rows) is None


def test_what_is_best_is_the_metrics_to_say_and_of_equals_the_strongest() -> None:
    rows = [row(10, 0.9, accuracy=0.7, auroc=0.8), row(1, 0.5, accuracy=0.8, auroc=0.9), row(0.1, 0.6, 0.1, 0.8, 0.95)]
    assert [rows[best_of(rows, select)].l2 for select in ("log_loss", "accuracy", "auroc")] == [1, 1, 0.1]
    assert best_of([row(1, 0.5), row(2, 0.5)]) == 1
    assert best_of([row(10, 0.6), row(1, 0.505), row(0.1, 0.5)], same=0.01) == 1
    assert best_of([row(1, 0.5), row(0.1, math.nan)]) == 0


def test_a_best_strength_at_an_edge_beyond_which_nothing_changes_raises_no_alarm() -> None:
    flat = 0.5 * (1 + SCORE_RTOL / 2)
    assert alarm([row(1, 0.9), row(0.1, flat), row(0.01, 0.5)]) is None
    assert alarm([row(1, 0.5), row(0.1, flat), row(0.01, 0.9)]) is None
    assert alarm([row(1, 0.9), row(0.1, 0.5 * (1 + 2 * SCORE_RTOL)), row(0.01, 0.5)]) is not None


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [row(1, 0.9), row(0.1, 0.5)],
            "the smallest that was tried, so a better one may lie beyond: try l2=[0.001,0.01,0.1]",
        ),
        (
            [row(1, 0.4), row(0.1, 0.5)],
            "the largest that was tried, so a better one may lie beyond: try l2=[1,10,100]",
        ),
        ([row(1, 0.4)], "the only that was tried, so a better one may lie beyond: try l2=[0.1,1,10]"),
    ],
)
def test_a_best_strength_at_the_edge_raises_an_alarm(rows: list[PathRow], says: str) -> None:
    assert alarm(rows) == f"the best l2 is {says}"


def test_path_csv_has_a_line_for_each_strength_with_scikit_learns_c() -> None:
    lines = list(csv.DictReader(io.StringIO(path_csv([row(0.5, 0.3), row(0.25, 0.2)], train_rows=100))))
    assert [float(line["l2"]) for line in lines] == [0.5, 0.25]
    assert [float(line["C"]) for line in lines] == [0.02, 0.04]
    assert [float(line["loss/val"]) for line in lines] == [0.3, 0.2]


@pytest.fixture
def val_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strengths are chosen on val, as over many train rows; of the few of these tests, folds would choose."""
    monkeypatch.setattr("logreg.run.choosing_strength.MAX_DEFAULT_ROWS", 0)


@pytest.mark.long
@pytest.mark.usefixtures("val_chooses")
def test_a_path_is_one_word_on_the_command_line(tmp_path: Path) -> None:
    run = train(tmp_path, "dataset=iris", "l2=path", "report=full")
    path = run.summary["path"]
    best = path["rows"][path["best"]]
    assert len(path["rows"]) == 25
    assert all(line["converged"] for line in path["rows"])
    assert best["loss_val"] == min(line["loss_val"] for line in path["rows"])
    assert run.summary["objective"]["l2"] == run.summary["config"]["l2"] == best["l2"]
    assert run.summary["metrics"]["val"]["loss"] == pytest.approx(best["loss_val"], rel=1e-4)
    assert run.summary["optimality"]["converged"]
    assert len((run.folder / "path.csv").read_text().splitlines()) == 26
    assert (run.folder / "figures" / "path.png").stat().st_size > 10_000
    assert "path" in run.events().Tags()["images"]
    assert (
        f"l2={best['l2']:.3g}, chosen among 25 strengths by log loss on val: " in (run.folder / "report.md").read_text()
    )


# What happens to who types no strength


def written(here: Path, rows: Sequence[tuple[object, ...]], header: str = "x,z,y") -> str:
    (here / "t.csv").write_text("\n".join([header, *(",".join(map(str, each)) for each in rows)]) + "\n")
    return f"dataset=table dataset.path={here / 't.csv'} dataset.target=y report=brief accelerator=cpu"


def some_rows(number: int = 300) -> list[tuple[object, ...]]:
    features, labels = rows_of(2, number)
    return [(*map(float, x[:2]), "yn"[int(y)]) for x, y in zip(features, labels, strict=True)]


@pytest.mark.long
@pytest.mark.usefixtures("val_chooses")
@pytest.mark.parametrize("dataset", ["breast_cancer", "iris", "wine", "digits"])
def test_tables_get_a_strength_that_val_has_chosen(tmp_path: Path, dataset: str) -> None:
    run = train(tmp_path, f"dataset={dataset}", *(["dataset.limit=400"] if dataset == "digits" else []))
    path, l2 = run.summary["path"], run.summary["config"]["l2"]
    best = path["rows"][path["best"]]
    lowest = min(line["loss_val"] for line in path["rows"])
    assert lowest <= best["loss_val"] <= lowest + SCORE_RTOL * max(line["loss_val"] for line in path["rows"])
    assert run.summary["objective"]["l2"] == l2 == best["l2"] > 0
    assert path["alarm"] is None
    # found roughly, fitted exactly
    assert run.summary["metrics"]["val"]["loss"] == pytest.approx(best["loss_val"], abs=3e-3)
    assert run.summary["optimality"]["relative_gap"] <= 1e-6
    assert run.checkpoint()["hyper_parameters"]["l2"] == run.checkpoint()["config"]["l2"] == l2
    said = f"l2={l2:.3g}, chosen among {len(path['rows'])} strengths by log loss on val: "
    assert said in (run.folder / "report.md").read_text()


@pytest.mark.long
@pytest.mark.usefixtures("val_chooses")
def test_a_table_of_ones_own_gets_one_and_zero_is_for_who_types_it(run_train: Callable[[str], Answer]) -> None:
    typed = written(Path(), some_rows())
    answer = run_train(typed)
    assert answer.code == 0
    assert "strengths by log loss on val: " in answer.out
    assert answer.err.startswith("optimizer=auto: ")  # nothing before it, where there is nothing to wait for
    summary = newest(Path()).summary
    assert summary["path"] is not None
    answer = run_train(f"{typed} l2=0")
    assert "chosen" not in answer.out
    summary = newest(Path()).summary
    assert (summary["config"]["l2"], summary["path"], summary["l2_reason"]) == (0, None, None)


def test_a_matrix_of_ones_own_gets_one(tmp_path: Path) -> None:
    features, labels = rows_of(3)
    np.savez(tmp_path / "e.npz", features=features.numpy(), labels=labels.numpy())
    run = train(tmp_path, "dataset=features", f"dataset.path={tmp_path / 'e.npz'}")
    assert run.summary["path"]["rows"]
    assert run.summary["config"]["l2"] > 0


@pytest.mark.parametrize(
    ("typed", "l2", "reason"),
    [
        (
            "optimizer=sgd max_epochs=1",
            0,
            "l2=0 with optimizer=sgd: type l2 for a penalty, or optimizer=auto to have it chosen",
        ),
        ("lr=0.1 max_epochs=1", 0, "l2=0 with optimizer=sgd: "),
        ("optimizer=adam polish=true max_epochs=1", 0, "l2=0 with optimizer=adam: "),
        ("l1=0.01", 0, "l2=0 beside l1=0.01: type l2=path to have it chosen"),
        (
            "dataset.split.val=0",
            1 / 240,
            "l2=0.00417 as scikit-learn has it (C=1), since there is no val split to choose it by: ",
        ),
        ("dataset.split.val=0 dataset.split.test=0 reduction=sum", 1, "l2=1 as scikit-learn has it (C=1), since "),
    ],
)
def test_where_none_can_be_chosen_it_is_said_what_it_is(
    run_train: Callable[[str], Answer], typed: str, l2: float, reason: str
) -> None:
    answer = run_train(f"{written(Path(), some_rows())} {typed}")
    assert answer.code == 0, answer.err
    run = newest(Path())
    assert run.summary["config"]["l2"] == pytest.approx(l2, rel=2e-3)
    assert run.summary["path"] is None
    for text in (answer.out, (run.folder / "report.md").read_text()):
        assert reason in text


def test_the_strength_without_val_is_that_of_scikit_learn_with_weights_too(tmp_path: Path) -> None:
    rows = [(*each, 1 + number % 2) for number, each in enumerate(some_rows(100))]
    typed = written(tmp_path, rows, "x,z,y,w").split()
    run = train(tmp_path, *typed, "dataset.weight=w", "dataset.split.val=0", "dataset.split.test=0")
    assert run.summary["config"]["l2"] == pytest.approx(1 / 150, rel=2e-3)


@pytest.mark.long
@pytest.mark.usefixtures("val_chooses")
def test_rows_of_one_class_alone_choose_nothing_and_few_rows_little(run_train: Callable[[str], Answer]) -> None:
    rows = [(*each, "val" if number < 20 else "train") for number, each in enumerate(some_rows())]
    typed = written(Path(), rows, "x,z,y,s") + " dataset.split.column=s"
    answer = run_train(typed)
    assert "val has 20 rows, too few for a reliable choice of l2: " in answer.out
    alone = [(*each[:3], "val" if each[2] == "n" and number < 50 else "train") for number, each in enumerate(rows)]
    written(Path(), alone, "x,z,y,s")
    answer = run_train(typed)
    assert "since all rows of val are 'n': " in answer.out
    answer = run_train(f"{typed} select=auroc")
    assert answer.code == 2
    assert answer.err == (
        "`select=auroc` must have rows of both classes in val, and all are 'n'. "
        "Type select=accuracy, or leave it out for log_loss.\n"
    )


@pytest.mark.long
def test_what_goes_on_has_the_strength_that_was_chosen(tmp_path: Path, run_command: Callable[..., Answer]) -> None:
    for typed in ((), ("l2=path",), ("l2=[0.1,0.01]",)):
        first = train(tmp_path, "dataset=iris", "max_epochs=1", "tolerance=1e-14", *typed)
        again = train(tmp_path, "ckpt_path=latest", "max_epochs=5")
        assert again.summary["config"]["l2"] == first.summary["config"]["l2"] > 0
        assert again.summary["path"]["rows"] == first.summary["path"]["rows"]
    train(tmp_path, "dataset=iris", "max_epochs=1", "l2=0.1")
    answer = run_command(tmp_path, "train", "ckpt_path=latest", "l2=path", "max_epochs=5")
    assert answer.code == 2
    assert (
        answer.err == "`ckpt_path` must be of a run with the same path over l2. Leave the path out, to continue with "
        "l2=0.1, which the checkpoint has.\n"
    )


@pytest.mark.usefixtures("val_chooses")
def test_a_sweep_chooses_for_each_job_by_what_it_is_told(tmp_path: Path) -> None:
    run = train(tmp_path, "dataset=breast_cancer", "select=auroc")
    path = run.summary["path"]
    assert path["select"] == "auroc"
    best = path["rows"][path["best"]]
    assert best["auroc_val"] >= max(line["auroc_val"] for line in path["rows"]) - SCORE_RTOL
    assert f"strengths by auroc on val: {best['auroc_val']:.4f}" in (run.folder / "report.md").read_text()
    assert "within one standard error" not in (run.folder / "report.md").read_text()


@pytest.mark.long
def test_a_typed_path_takes_the_score_too(tmp_path: Path) -> None:
    run = train(
        tmp_path, "dataset=digits", "dataset.limit=300", "l2=[1e-1,1e-3,1e-5]", "select=accuracy", "report=full"
    )
    path = run.summary["path"]
    assert path["best"] == max(range(3), key=lambda place: (path["rows"][place]["accuracy_val"], -place))
    assert json.loads((run.folder / "summary.json").read_text())["config"]["select"] == "accuracy"


def test_the_auroc_of_many_classes_is_refused(run_train: Callable[[str], Answer]) -> None:
    answer = run_train("dataset=iris select=auroc")
    assert (answer.code, answer.out, answer.left) == (2, "", [])
    assert answer.err == (
        "`select=auroc` must have two classes, and iris has 3. Type select=accuracy, or leave it out for log_loss.\n"
    )


@pytest.mark.long
def test_one_row_of_val_with_a_slip_of_the_pen_does_not_choose() -> None:
    features, labels = rows_of(2, 600)
    train_rows, val, val_labels = features[:300], features[300:].clone(), labels[300:]
    fine, _ = searched(train_rows, labels[:300], val, val_labels)
    toward = fit(train_rows, labels[:300], Objective("bce", l2=1e-3)).coef[0]
    val[0] = 1000 * toward * (1 - 2 * float(val_labels[0]))  # as if of the other class, and a thousand deviations off
    rows, _ = searched(train_rows, labels[:300], val, val_labels)
    chosen, usual = rows[best_of(rows)], fine[best_of(fine)]
    by_that_row = min(rows, key=lambda each: each.loss_val)
    assert by_that_row.l2 >= 10 * usual.l2
    assert usual.l2 / 4 < chosen.l2 < 4 * usual.l2


@pytest.mark.parametrize("classes", [2, 3])
def test_a_rough_fit_starts_from_the_derivatives_that_the_last_one_left(classes: int) -> None:
    memory = MemoryRows(*rows_of(classes, 3000))
    objective = Objective("bce" if classes == 2 else "cross_entropy", l2=1.0)
    problem = problem_of(memory, objective, classes)
    fitter = PathFitter(problem, 1e-3, rough=True)
    last = drive(fitter.fit(1e-5), memory)
    near = drive(fitter.fit(1e-6), memory)
    assert (last.passes > 0, near.passes) == (True, 0)
    far = drive(fitter.fit(1.0), memory)
    alone = drive(PathFitter(problem, 1e-3, rough=True).fit(1.0), memory)
    for point in (near, far, alone):
        (optimum,) = drive(fit_path(problem, [point.l2], 1e-9), memory)
        value = drive(bound(Strength(point.l2).of(problem), point.point, cheaply=True), memory).value
        assert point.bound.value == pytest.approx(value, rel=1e-9)
        assert value - optimum.bound.value <= 2e-3 * value


@pytest.mark.parametrize("classes", [2, 3])
def test_derivatives_for_another_strength_are_those_of_its_problem(classes: int) -> None:
    memory = MemoryRows(*rows_of(classes))
    objective = Objective("bce" if classes == 2 else "cross_entropy", l2=1.0)
    problem, weaker = (Strength(l2).of(problem_of(memory, objective, classes)) for l2 in (1.0, 0.1))
    point = torch.arange(7.0 * problem.num_outputs, dtype=torch.float64).view(-1, 7) / 10
    coordinates = Coordinates(torch.arange(6.0).double(), torch.arange(1.0, 7.0).double())
    of_first, of_second = (
        drive(request(Evaluate(one, coordinates, point, torch.float64, torch.float64)), memory)
        for one in (problem, weaker)
    )
    known = KnownPoint(problem, coordinates, point, of_first)
    found = known.at(weaker, coordinates, point)
    assert found is not None
    assert found.value == pytest.approx(of_second.value, rel=1e-12)
    torch.testing.assert_close(found.gradient, of_second.gradient)
    torch.testing.assert_close(found.hessian, of_second.hessian)
    assert known.at(weaker, coordinates, point + 1e-3) is None
    assert known.at(weaker, problem.model, point) is None


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("is_sparse", [False, True])
def test_points_are_scored_with_copies_of_features_that_stay_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, is_sparse: bool
) -> None:
    features, labels = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0)), torch.arange(20_000) % 2
    block = Batch(features.to_sparse_csr() if is_sparse else features, labels)
    problem = problem_of(MemoryRows(*block[:2]), Objective("bce", l2=0.1))
    sizes = list[int]()

    def noted(block: Batch, *point: Tensor) -> Tensor:
        sizes.append(len(block.labels))
        return logits_of(block, *point)

    monkeypatch.setattr(path_selection, "logits_of", noted)
    point = torch.linspace(-0.3, 0.3, 65, dtype=torch.float64).unsqueeze(0)
    found = score_points(problem, [point], [block])
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        features.double() @ point[0, :-1] + point[0, -1], labels.double(), reduction="none"
    )
    torch.testing.assert_close(found.loss, losses.mean().unsqueeze(0))
    assert sum(sizes) == 20_000
    assert max(sizes) == (20_000 if is_sparse else part_rows(64, torch.float64))
