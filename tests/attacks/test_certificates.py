"""An attack on certificates: problems that float64 hardly holds, against 60 digits or against other points.

A bound is false if some point has an f that is lower than it allows, beyond the rounding that it states.  Run it with
``pytest --slow -n0 -s tests/attacks``; the table that it prints counts what happened, family by family.
"""

from __future__ import annotations

import math
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from exact_reference import ExactReference
from forks import seeds

from logreg.errors import DataError
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.bounds.base import Bound
from logreg.solvers.fit import bound_of, fit, problem_of
from reference import Array, Stated

SECONDS = 10
"""Of processor time: a fit or a certificate that takes longer hangs."""

KINDS = ("false", "hang", "raise", "refused", "infinite", "estimate", "bound")
"""What may become of a point; of the first three there must be none."""

PROBLEMS = 400
"""Of the whole attack."""

ANY_ROUNDING = 1e-18
"""Of a reference in long double, relative to the sum of what it adds up."""

Draw = np.random.Generator


def attacked(
    draw: Draw,
    x: Array,
    *,
    l2: float = 0.0,
    l1: float = 0.0,
    dtype: torch.dtype = torch.float64,
    weight: Array | None = None,
    classes: int = 0,
    loss: str | None = None,
    signal_size: float = 1.0,
    intercept: bool | None = None,
    labels: Array | None = None,
) -> Stated:
    """A problem over these features; what is not given is drawn."""
    classes = classes or int(draw.choice([2, 2, 2, 3]))
    if labels is None:
        spread = np.abs(x - x[:1]).max(0) if len(x) else np.ones(x.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            moved = np.nan_to_num((x - x[:1]) / np.where(spread > 0, spread, 1), posinf=1, neginf=-1)
        logits = signal_size * 2 * moved @ draw.standard_normal((x.shape[1], classes))
        labels = (logits + draw.gumbel(size=logits.shape)).argmax(1)
        if len(labels) > classes:
            labels[: classes + 1] = np.arange(classes + 1) % classes
    loss = loss or ("bce" if draw.random() < (0.7 if classes == 2 else 0.4) else "cross_entropy")
    total = float(len(x) if weight is None else weight.sum())
    summed = draw.random() < 0.2
    objective = Objective(loss, *(("sum", l2 * total, l1 * total) if summed else ("mean", l2, l1)))
    return Stated(
        torch.from_numpy(np.ascontiguousarray(x)).to(dtype),
        torch.from_numpy(np.asarray(labels, dtype=np.int64)),
        objective,
        classes,
        None if weight is None else torch.from_numpy(weight),
        tuple(draw.uniform(0.2, 3, classes)) if draw.random() < 0.15 else (),
        bool(draw.random() < 0.85) if intercept is None else intercept,
    )


def grid(draw: Draw, rows: int, columns: int, bits: int = 6) -> Array:
    """Normal numbers with few binary digits, so that sums of them are exact."""
    return np.asarray(np.round(draw.standard_normal((rows, columns)) * 2**bits) / 2**bits)


def size(draw: Draw) -> tuple[int, int]:
    return int(draw.integers(6, 25)), int(draw.integers(1, 4))


def collinear(draw: Draw) -> Stated:
    rows, _ = size(draw)
    u, z = grid(draw, rows, 2).T
    near = u * draw.choice([1, 2, -1]) + 2.0 ** -draw.integers(8, 51) * z
    third = [grid(draw, rows, 1)] if draw.random() < 0.3 else []
    return attacked(draw, np.column_stack([u, near, *third]), l2=float(draw.choice([0, 0, 0, 1e-12])))


def sums(draw: Draw) -> Stated:
    x = draw.standard_normal((int(draw.integers(8, 25)), 2)) if draw.random() < 0.5 else grid(draw, 16, 2)
    total = draw.choice([1, 2, 3, 0.1]) * x[:, 0] + draw.choice([1, -1, 0.5, 1 / 3]) * x[:, 1]
    return attacked(draw, np.column_stack([x, total]), classes=2)


def offsets(draw: Draw) -> Stated:
    rows, columns = size(draw)
    x = np.round(grid(draw, rows, columns) * 8) * draw.choice([1, 1, 1 / 8]) + 10 ** draw.uniform(0, 14, columns)
    return attacked(draw, x, l2=float(draw.choice([0, 0, 1e-3, 1e-9])))


def scales(draw: Draw) -> Stated:
    rows, columns = size(draw)
    x = grid(draw, rows, columns) * 10 ** draw.uniform(-300, 300, columns)
    return attacked(draw, x, l2=float(draw.choice([0, 0, 1e-3])))


def mild_scales(draw: Draw) -> Stated:
    rows, columns = size(draw)
    x = grid(draw, rows, columns) * 10 ** draw.uniform(-30, 18, columns)
    return attacked(draw, x, l2=float(draw.choice([0, 0, 1e-3])), dtype=torch.float32)


def weights(draw: Draw) -> Stated:
    rows, columns = size(draw)
    weight = 10 ** draw.uniform(-15, 8, rows)
    weight[draw.random(rows) < 0.1] = 0
    weight[0] = 1.0
    return attacked(draw, grid(draw, rows, columns), weight=weight, l2=float(draw.choice([0, 0, 1e-3])))


def halves(draw: Draw) -> Stated:
    rows, columns = size(draw)
    x = draw.standard_normal((rows, columns)) + draw.choice([0, 100])
    return attacked(draw, x, dtype=torch.float16, l2=float(draw.choice([0, 0, 1e-4])))


def singles(draw: Draw) -> Stated:
    rows, columns = size(draw)
    x = draw.standard_normal((rows, columns)) + draw.choice([0, 1e4])
    return attacked(draw, x, dtype=torch.float32, l2=float(draw.choice([0, 0, 1e-4])))


def l1(draw: Draw) -> Stated:
    rows, columns = size(draw)
    x = grid(draw, rows, columns) * 10 ** draw.uniform(-2, 2) + draw.choice([0, 0, 1000])
    return attacked(draw, x, l1=float(10 ** draw.uniform(-6, 0)))


def elastic(draw: Draw) -> Stated:
    rows, columns = size(draw)
    return attacked(
        draw, grid(draw, rows, columns), l1=float(10 ** draw.uniform(-6, 0)), l2=float(10 ** draw.uniform(-8, 0))
    )


def tiny_l2(draw: Draw) -> Stated:
    rows, columns = size(draw)
    x = draw.standard_normal((rows, columns)) * 10 ** draw.uniform(-3, 3, columns)
    return attacked(draw, x, l2=float(10 ** draw.uniform(-16, -8)))


def huge_l2(draw: Draw) -> Stated:
    rows, columns = size(draw)
    return attacked(draw, draw.standard_normal((rows, columns)), l2=float(10 ** draw.uniform(2, 12)))


def one_vs_rest(draw: Draw) -> Stated:
    rows, _ = size(draw)
    return attacked(draw, grid(draw, rows, 1), classes=int(draw.integers(3, 6)), loss="bce")


def softmax(draw: Draw) -> Stated:
    rows, _ = size(draw)
    return attacked(draw, grid(draw, rows, 1), classes=int(draw.integers(3, 5)), loss="cross_entropy")


def separated(draw: Draw) -> Stated:
    rows, _ = size(draw)
    x = np.sort(grid(draw, rows, 1), axis=0)
    labels = (np.arange(rows) > rows // 2).astype(float)
    if draw.random() < 0.5:  # but for one row
        labels[0] = 1
    return attacked(draw, x, labels=labels, classes=2, l2=float(draw.choice([0, 0, 1e-14, 1e-6])))


def saturated(draw: Draw) -> Stated:
    rows, columns = size(draw)
    x = grid(draw, rows, columns)
    x[0] *= 2.0 ** draw.integers(4, 40)
    return attacked(draw, x, signal_size=20)


def few_rows(draw: Draw) -> Stated:
    rows = int(draw.integers(2, 5))
    return attacked(draw, grid(draw, rows, int(draw.integers(1, 4))), classes=2, l2=float(draw.choice([0, 1e-3])))


def duplicates(draw: Draw) -> Stated:
    rows, _ = size(draw)
    x = draw.standard_normal((rows, 1))
    return attacked(draw, np.column_stack([x, x * 2.0 ** draw.integers(-3, 4), np.full(rows, 3.7)]), classes=2)


def levels(draw: Draw) -> Stated:
    number, rows = int(draw.integers(2, 4)), int(draw.integers(12, 25))
    codes = draw.integers(number, size=rows)
    return attacked(draw, np.column_stack([np.eye(number)[codes], grid(draw, rows, 1)]), classes=2)


def wide(draw: Draw) -> Stated:
    rows = int(draw.integers(3, 6))
    x = np.repeat(grid(draw, rows, rows + 2), 2, axis=0)
    return attacked(draw, x, classes=2, loss="bce", labels=draw.integers(2, size=2 * rows).astype(float))


FAMILIES: dict[str, Callable[[Draw], Stated]] = {
    family.__name__: family
    for family in (
        collinear,
        sums,
        offsets,
        scales,
        mild_scales,
        weights,
        halves,
        singles,
        l1,
        elastic,
        tiny_l2,
        huge_l2,
        one_vs_rest,
        softmax,
        separated,
        saturated,
        few_rows,
        duplicates,
        levels,
        wide,
    )
}


def large(draw: Draw) -> Stated:
    """K up to 50, N up to 10,000, D up to 300."""
    while True:
        rows, columns = int(10 ** draw.uniform(2, 4)), int(10 ** draw.uniform(0, 2.5))
        classes = int(draw.choice([2, 2, 3, 10, 50]))
        if rows * columns * classes <= 3e6 and min(columns, rows) * classes <= 600 and rows > 4 * columns * classes:
            break
    x = draw.standard_normal((rows, min(columns, 300)))
    if draw.random() < 0.3 and columns > 1:
        x[:, -1] = x[:, 0] + 2.0 ** -draw.integers(10, 51) * x[:, -1]
    if draw.random() < 0.3:
        x = x * 10 ** draw.uniform(-6, 6, x.shape[1])
    if draw.random() < 0.3:
        x = x + np.abs(x).max(0) * 10 ** draw.uniform(0, 8, x.shape[1])
    strength = {"none": {}, "l2": {"l2": 10 ** draw.uniform(-8, 0)}, "l1": {"l1": 10 ** draw.uniform(-4, -1)}}
    weight = 10 ** draw.uniform(-3, 3, rows) if draw.random() < 0.3 else None
    dtype = torch.float32 if draw.random() < 0.4 else torch.float64
    chosen: dict[str, Any] = strength[str(draw.choice(["none", "none", "l2", "l1"]))]
    return attacked(draw, x, classes=classes, weight=weight, dtype=dtype, **chosen)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in what takes more processor time."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Outcome(NamedTuple):
    """What a certificate said of a point, and the truth."""

    name: str
    kind: str
    """One of `KINDS`."""
    said: str = ""


def point_of(found: Any) -> Array:
    return np.column_stack([found.coef.numpy(), found.intercept.numpy()])


def attempts(problem: Stated, draw: Draw, outcomes: list[Outcome]) -> Iterator[tuple[str, Array, Bound | None]]:
    """Points with what `fit` says of them, or ``None`` where it says nothing; adds hangs and raises to the outcomes."""

    def fitted(name: str, **options: Any) -> Iterator[tuple[str, Array, Bound | None]]:
        try:
            with limited(SECONDS):
                found = fit(**{**problem._asdict(), **options})
            yield name, point_of(found), found.bound
        except TimeoutError:
            outcomes.append(Outcome(name, "hang"))
        except DataError as error:
            # Numbers that float64 cannot compute with.
            outcomes.append(Outcome(name, "refused" if " must have a size of " in str(error) else "raise", repr(error)))
        except Exception as error:  # whatever it is, it is counted
            outcomes.append(Outcome(name, "raise", repr(error)))

    optimum = None
    for name, point, bound in fitted("fit"):
        optimum = point
        yield name, point, bound
        yield "fit, certified anew", point, None
    way = str(draw.choice(["half-way", "loose", "other strength"]))
    if way == "half-way":
        yield from fitted("lbfgs half-way", optimizer="lbfgs", max_passes=int(draw.integers(3, 12)))
    elif way == "loose":
        yield from fitted("loose", tolerance=10.0 ** -draw.integers(1, 12))
    elif not problem.objective.l1:
        other = problem.objective.l2 * 2 or 1e-2
        objective = Objective(problem.objective.loss, problem.objective.reduction, other)
        for name, point, _ in fitted("other strength", objective=objective):
            yield name, point, None
    outputs = 1 if problem.objective.loss == "bce" and problem.num_classes == 2 else problem.num_classes
    zero = np.zeros((outputs, problem.features.shape[1] + 1))
    yield "zero", zero, None
    base = zero if optimum is None else optimum
    moved = base * (1 + 10 ** draw.uniform(-8, 0) * draw.standard_normal(base.shape))
    yield "moved", moved, None


def outcomes_of(
    problem: Stated, draw: Draw, reference: Callable[[list[Array]], tuple[list[Any], Any]]
) -> list[Outcome]:
    """What certificates say at several points; ``reference`` gives f at points and the lowest f that it finds."""
    outcomes: list[Outcome] = []
    rows = MemoryRows(problem.features, problem.labels, problem.sample_weight)
    stated = problem_of(rows, problem.objective, problem.num_classes, problem.class_weight, intercept=problem.intercept)
    found: list[tuple[str, Array, Bound]] = []
    for name, point, known in attempts(problem, draw, outcomes):
        bound = known
        if bound is None:
            try:
                with limited(SECONDS):
                    bound = bound_of(stated, torch.from_numpy(point), rows)
            except TimeoutError:
                outcomes.append(Outcome(f"bound of {name}", "hang"))
                continue
            except Exception as error:
                outcomes.append(Outcome(f"bound of {name}", "raise", repr(error)))
                continue
        if np.isfinite(point).all():
            found.append((name, point, bound))
        elif bound.rigorous and math.isfinite(bound.gap):
            outcomes.append(Outcome(name, "false", "a gap at a point that is not finite"))
    values, least = reference([point for _, point, _ in found])
    for (name, _, bound), value in zip(found, values, strict=True):
        kind = "bound"
        if not bound.rigorous:
            kind = "estimate"
        elif not bound.gap < max(0.999 * bound.value, 1.1 * float(value - least)):
            kind = "infinite"  # f itself, and that is not near the truth
        said = f"true gap {float(value - least):.3g}, gap {bound.gap:.3g} + {bound.rounding:.3g}, f {bound.value:.6g}"
        if bound.rigorous and value - least > bound.gap + bound.rounding:
            kind = "false"
        outcomes.append(Outcome(name, kind, said))
    return outcomes


def in_sixty_digits(problem: Stated) -> Callable[[list[Array]], tuple[list[Any], Any]]:
    reference = ExactReference(*problem)

    def judge(points: list[Array]) -> tuple[list[Any], Any]:
        return [reference.value(point) for point in points], reference.least(points)

    return judge


def by_other_points(problem: Stated) -> Callable[[list[Array]], tuple[list[Any], Any]]:
    """In long double, whose rounding counts in the certificate's favor; any lower f is a witness."""
    x = problem.features.double().numpy().astype(np.longdouble)
    weight = np.ones(len(x)) if problem.sample_weight is None else problem.sample_weight.double().numpy()
    if problem.class_weight:
        weight = weight * np.asarray(problem.class_weight)[problem.labels.numpy()]
    share = weight.astype(np.longdouble)
    share = share if problem.objective.reduction == "sum" else share / share.sum()
    targets = np.eye(problem.num_classes)[problem.labels.numpy()]
    softmax_ = problem.objective.loss == "cross_entropy"
    targets = targets if softmax_ or problem.num_classes > 2 else targets[:, 1:]

    def value(point: Array) -> tuple[Any, Any]:
        coef, intercept = point[:, :-1].astype(np.longdouble), point[:, -1].astype(np.longdouble)
        logits = x @ coef.T + intercept
        if softmax_:
            own = (logits * targets).sum(1, keepdims=True)
            others = np.logaddexp.reduce(np.where(targets > 0, -np.inf, logits - own), axis=1)
            losses = np.logaddexp(0, others)
        else:
            losses = np.logaddexp(0, np.where(targets > 0, -logits, logits)).sum(1)
        penalty = problem.objective.l2 / 2 * (coef**2).sum() + problem.objective.l1 * np.abs(coef).sum()
        reach = share @ (np.abs(x) @ np.abs(coef.T)).sum(1) + np.abs(intercept).sum()
        return share @ losses + penalty, ANY_ROUNDING * (reach + share @ losses)

    def judge(points: list[Array]) -> tuple[list[Any], Any]:
        others = [*points]
        for optimizer in ("newton", "lbfgs"):
            try:
                with limited(SECONDS):
                    tight: Any = fit(
                        *problem[:6], intercept=problem.intercept, tolerance=1e-12, optimizer=optimizer, max_passes=500
                    )
                others.append(point_of(tight))
            except Exception:  # then the points themselves are the witnesses
                continue
        witnesses = [sum(value(point)) for point in others if np.isfinite(point).all()]
        return [f - error for f, error in map(value, points)], min(witnesses)

    return judge


def attack(name: str, seed: int) -> list[Outcome]:
    draw = np.random.default_rng([seed, *name.encode()])
    if name == "large":
        problem = large(draw)
        return outcomes_of(problem, draw, by_other_points(problem))
    problem = FAMILIES[name](draw)
    return outcomes_of(problem, draw, in_sixty_digits(problem))


LONG = ("wide", "singles", "mild_scales")
"""Families whose first problem takes more than a second in 60 digits."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in (*FAMILIES, "large")]
)
def test_no_certificate_of_a_few_hard_problems_is_false(name: str) -> None:
    wrong = [outcome for outcome in attack(name, 0) if outcome.kind in KINDS[:3]]
    assert not wrong


@pytest.mark.slow
def test_no_certificate_of_many_hard_problems_is_false(capsys: pytest.CaptureFixture[str]) -> None:
    names = [*FAMILIES, "large"]
    table: dict[str, Counter[str]] = {}
    wrong: list[tuple[str, int, Outcome]] = []
    for number, name in enumerate(names):
        chosen = seeds(PROBLEMS // len(names) + (number < PROBLEMS % len(names)))
        table[name] = Counter(problems=len(chosen))
        for seed in chosen:
            for outcome in attack(name, seed):
                table[name].update(points=1, **{outcome.kind: 1})
                if outcome.kind in KINDS[:3]:
                    wrong.append((name, seed, outcome))
    shown, together = ("problems", "points", *KINDS), sum(table.values(), Counter())
    lines = ["", f"{'family':12}" + "".join(f"{kind:>10}" for kind in shown)]
    for name, counts in [*table.items(), ("all", together)]:
        lines.append(f"{name:12}" + "".join(f"{counts[kind]:10}" for kind in shown))
    with capsys.disabled():
        sys.stdout.write("\n".join([*lines, ""]))
    assert not wrong
    assert together["bound"] > 0.6 * together["points"]
