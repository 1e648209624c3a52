"""The path over l2: every point is the optimum of its own strength, and the choice among them is an honest one."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.objective import Objective
from logreg.optim.certificate import Bound
from logreg.optim.exact import drive, fit, problem_of
from logreg.optim.passes import InMemory
from logreg.optim.path import PathPoint, _start, default_strengths, fit_path
from logreg.path import PathRow, alarm, best_of, path_csv, score_path, simplest_of
from whole_runs import train

STRENGTHS = [1.0, 1e-1, 1e-2, 1e-3]


def rows_of(classes: int, number: int = 300) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(classes)
    features = torch.randn(number, 6, generator=draw, dtype=torch.float64) + 1
    logits = features @ torch.randn(6, classes, generator=draw, dtype=torch.float64)
    noise = -torch.log(-torch.log(torch.rand(number, classes, generator=draw, dtype=torch.float64)))
    return features, (logits + 2 * noise).argmax(1)


def row(l2: float, loss_val: float, error: float = 0.1) -> PathRow:
    return PathRow(l2, 0.1, loss_val, error, 0.9, 1e-9, 1e-8, True, 3, 6)


@pytest.mark.parametrize(("classes", "loss", "l1"), [(2, "bce", 0.0), (3, "cross_entropy", 0.0), (3, "bce", 1e-2)])
def test_every_point_is_the_optimum_of_its_own_strength(classes: int, loss: str, l1: float) -> None:
    memory = InMemory(*rows_of(classes))
    objective = Objective(loss, l2=1.0, l1=l1)  # type: ignore[arg-type]  # pytest hands on plain str
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
    memory = InMemory(*rows_of(2))
    problem = problem_of(memory, Objective("bce", l2=1.0))
    one = drive(fit_path(problem, STRENGTHS), memory)
    other = drive(fit_path(problem, [STRENGTHS[2], STRENGTHS[0], STRENGTHS[3], STRENGTHS[1]]), memory)
    for left, right in zip(one, other, strict=True):
        assert left.converged
        assert left.bound.gap <= 1e-6 * left.bound.value
        assert torch.equal(left.point, right.point)


def test_default_strengths_are_a_quarter_of_a_decade_apart() -> None:
    features, labels = torch.tensor([[1.0], [-1.0]] * 10).double(), torch.arange(20) % 2
    problem = problem_of(InMemory(features, labels), Objective("bce"))
    found = default_strengths(problem, Batch(features, labels, None))  # the curvature at zero is 1/4
    assert found[:5] == [0.32, 0.18, 0.1, 0.056, 0.032]
    assert found[-1] == 3.2e-7
    assert len(found) == 25


def test_a_fit_starts_where_a_line_over_log_l2_leads() -> None:
    problem = problem_of(InMemory(*rows_of(2)), Objective("bce", l2=1e-3))
    line = torch.arange(14.0).double().view(2, 1, 7)
    bound = Bound(1.0, 0.0, True, line[0], 1.0)
    before, last = (PathPoint(10.0**power, line[0] + power * line[1], bound, True, 1) for power in (1, -1))
    torch.testing.assert_close(_start(problem, [before, last]), line[0] - 3 * line[1])
    assert torch.equal(_start(problem, [last]), last.point)
    assert torch.equal(_start(problem, []), torch.zeros(1, 7).double())


def test_a_point_that_was_not_given_passes_enough_says_so() -> None:
    memory = InMemory(*rows_of(3))
    points = drive(
        fit_path(problem_of(memory, Objective("cross_entropy", l2=1.0), 3), STRENGTHS, 1e-12, most=1), memory
    )
    assert not any(point.converged for point in points)
    for point in points:
        best = fit(*rows_of(3), Objective("cross_entropy", l2=point.l2), 3, tolerance=1e-12).bound.value
        assert point.bound.gap >= point.bound.value - best > 0


def test_a_strength_may_take_the_passes_that_those_before_it_left() -> None:
    memory = InMemory(*rows_of(2))
    problem = problem_of(memory, Objective("bce", l2=1.0))
    points = drive(fit_path(problem, [1e3, 1e2, 1e-4], 1e-10, most=5), memory)
    assert all(point.converged for point in points)
    assert points[-1].passes > 5
    assert sum(point.passes for point in points) <= 3 * 5


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_default_strengths_go_from_where_the_penalty_outweighs_the_data(factor: float) -> None:
    features, labels = rows_of(2)
    features = features * factor
    memory = InMemory(features, labels)
    problem = problem_of(memory, Objective("bce", l2=1.0))
    values = default_strengths(problem, Batch(features, labels))
    assert len(values) == 25
    assert values == sorted(values, reverse=True)
    free = fit(features, labels, Objective("bce", l2=values[-1])).coef.norm()
    held = fit(features, labels, Objective("bce", l2=values[0])).coef.norm()
    assert held < 0.6 * free


def test_scores_on_val_are_those_of_each_point_alone() -> None:
    features, labels = rows_of(3)
    memory = InMemory(features[:200], labels[:200])
    problem = problem_of(memory, Objective("cross_entropy", l2=1.0), 3)
    points = drive(fit_path(problem, STRENGTHS), memory)
    rows = score_path(problem, points, InMemory(features[200:], labels[200:])(False))
    for point, row in zip(points, rows, strict=True):
        logits = features[200:] @ point.point[:, :-1].T + point.point[:, -1]
        losses = torch.nn.functional.cross_entropy(logits, labels[200:], reduction="none")
        assert row.loss_val == pytest.approx(float(losses.mean()), rel=1e-12)
        assert row.error == pytest.approx(float(losses.std(correction=0)) / 10, rel=1e-12)
        assert row.accuracy_val == pytest.approx(float((logits.argmax(1) == labels[200:]).double().mean()))
    weighted = InMemory(features[200:], labels[200:], torch.full((100,), 2.0, dtype=torch.float64))
    assert score_path(problem, points, weighted(False)) == [
        pytest.approx(row) if isinstance(row, float) else row for row in rows
    ]


def test_the_lowest_loss_is_best_and_the_strongest_within_one_error_is_simplest() -> None:
    rows = [row(10, 0.9), row(1, 0.55), row(0.1, 0.5), row(0.01, 0.52), row(0.001, 0.8)]
    assert rows[best_of(rows)].l2 == 0.1
    assert rows[simplest_of(rows)].l2 == 1
    assert alarm(rows) is None


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
        f"l2={best['l2']:.3g}, chosen among 25 strengths by log-loss on val: " in (run.folder / "report.md").read_text()
    )
