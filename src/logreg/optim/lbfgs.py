"""Limited-memory BFGS: curvature from the gradients of the last steps, on top of a preconditioner."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.optim.curvature import Solve, centred, preconditioner, smallest_subgradient
from logreg.optim.newton import (
    MANY_ROWS,
    NOISE,
    _by_slope,
    _certified,
    _solve_in_rows,
    _solve_sample,
    enough_rows,
    holds_hessian,
    is_wide,
)
from logreg.optim.passes import Asking, Evaluate, Evaluation, Sample, ask
from logreg.optim.progress import Progress, choose_frame, start_stochastically

PAIRS = 30
"""Steps that are remembered."""

DECREASE, CURVATURE = 1e-4, 0.9
"""Wolfe's constants."""

TRIALS = 8
"""Points that one line search may try."""

PATIENCE = 5
"""Steps in a row that gain next to nothing, before going to float64, and there before giving up."""

REFRESH = 0.01
"""Fall of the expected gain after which the preconditioner is made anew."""


GAMMA = 1
ALIGN=0.01


class Trial(NamedTuple):
    """A point of a line search."""

    length: float
    value: float
    """f there."""
    slope: float
    """Derivative of f by the length."""


def decreases(first: Trial, trial: Trial, noise: float) -> bool:
    """Whether f falls enough (Armijo), as far as it is known: its values err by ``noise``."""
    return trial.value <= first.value + DECREASE * trial.length * first.slope + noise


def satisfies_wolfe(first: Trial, trial: Trial, noise: float) -> bool:
    """Whether f falls enough and the slope has flattened enough: the strong Wolfe conditions."""
    return decreases(first, trial, noise) and abs(trial.slope) <= -CURVATURE * first.slope


def next_length(trials: Sequence[Trial], noise: float) -> float:
    """Where to look next: lengths that satisfy the Wolfe conditions lie between the trials, or beyond the last.

    Args:
        trials: So far; the first is that of length 0, where f falls.
        noise: Error of the values.

    Source:
        Nocedal and Wright (2006), Numerical Optimization, algorithms 3.5 and 3.6, for convex functions.
    """
    first = trials[0]
    short = sorted(trial for trial in trials if decreases(first, trial, noise) and trial.slope < 0)
    beyond = [trial for trial in trials if trial not in short]
    low = short[-1]
    if not beyond:
        guess = _least_of_cubic(short[-2], low)
        return min(max(guess, 2 * low.length), 10 * low.length)
    high = min(beyond)
    width = high.length - low.length
    return min(max(_least_of_cubic(low, high), low.length + 0.1 * width), high.length - 0.1 * width)


def _least_of_cubic(left: Trial, right: Trial) -> float:
    """The minimum of the cubic with the values and slopes of two trials; halfway where it has none."""
    width = right.length - left.length
    mean = left.slope + right.slope - 3 * (right.value - left.value) / width
    square = mean * mean - left.slope * right.slope
    root = math.sqrt(square) if 0 <= square < math.inf else math.nan
    share = 1 - (right.slope + root - mean) / (right.slope - left.slope + 2 * root) if root else math.nan
    return left.length + width * (share if math.isfinite(share) else 0.5)


def lbfgs(progress: Progress) -> Asking[None]:
    problem = progress.problem
    held = holds_hessian(problem)
    sample = yield from ask(Sample(problem))
    progress.frame, progress.point = (frame := choose_frame(problem, sample, held)), progress.frame.to(frame, progress.point)
    progress.point = centred(problem, progress.point)
    dtype = problem.dtype
    if not progress.point.any():
        if held and enough_rows(problem, sample):
            _solve_sample(progress, sample)
        elif is_wide(problem):
            yield from _solve_in_rows(progress)
            dtype = torch.float64
        elif not held and problem.rows >= MANY_ROWS:
            yield from start_stochastically(progress, sample)

    l1 = problem.penalties(frame)[1]
    pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=PAIRS)
    inverse: Solve | None = None
    made_at, lowest, poor, stop_at = math.inf, math.inf, 0, 0.1 * progress.tolerance
    now: Evaluation = yield from ask(Evaluate(problem, frame, progress.point, dtype))
    while poor < PATIENCE:
        exact = dtype == torch.float64
        point, progress.value = progress.point, now.value
        slope = smallest_subgradient(point, now.gradient, l1)
        if inverse is None or progress.near < REFRESH * made_at:
            inverse = yield from preconditioner(problem, frame, point, now.curvature, progress.seed)
            made_at = progress.near
        direction = _direction(progress, slope, l1, pairs, inverse)
        first = Trial(0.0, now.value, float((slope * direction).sum()))
        progress.near = -first.slope / 2 / max(abs(now.value), 1e-300)
        if math.isinf(made_at):
            made_at = progress.near
        close = expected_gap(problem, progress.solution, frame.gradient_to(problem.model, now.gradient)) / max(abs(now.value), 1e-300)
        may = not problem.objective.l1 and (not problem.objective.l2 or (problem.num_parameters if problem.softmax else problem.num_features+1) <= 512)
        if close <= progress.tolerance or (may or not exact) and progress.near <= stop_at:
            if not exact:
                dtype, now = torch.float64, (yield from ask(Evaluate(problem, frame, point, torch.float64)))
                continue
            if (yield from _certified(progress, now)):
                return
            stop_at = min(stop_at, progress.near) / 10
        noise = NOISE[dtype] * abs(now.value)
        orthant = torch.where(point == 0, -slope.sign(), point.sign())
        trials, best, length = [first], None, 1.0
        while len(trials) <= TRIALS:
            raw = point + length * direction
            inside = (l1 == 0) | (raw.sign() == orthant)
            at = torch.where(inside, raw, 0.0)
            there = yield from ask(Evaluate(problem, frame, at, dtype))
            by_length = (there.gradient + l1 * orthant) * direction * inside
            trial = Trial(length, there.value, float(by_length.sum()))
            if not math.isfinite(trial.value):
                trial = Trial(length, math.inf, math.inf)
            trials.append(trial)
            if decreases(first, trial, noise) and (best is None or there.value < best[1].value):
                best = at, there
            if satisfies_wolfe(first, trial, noise):
                best = at, there
                break
            length = next_length(trials, noise)
        if best is None:
            poor = PATIENCE
        else:
            at, there = best
            s, y = at - point, there.gradient - now.gradient
            if float((s * y).sum()) > 0:
                pairs.append((s, y))
            poor = 0 if now.value - there.value > noise or progress.near < lowest else poor + 1
            lowest = min(lowest, progress.near)
            progress.point, now = at, there
        if poor >= PATIENCE and not exact:
            dtype, poor, lowest = torch.float64, 0, math.inf
            now = yield from ask(Evaluate(problem, frame, progress.point, torch.float64))
    yield from _certified(progress, now)


def expected_gap(problem, point, gradient) -> float:
    """About what the certificate will say of a point, for free: its bound by duality where the intercepts are solved."""
    l2, l1 = problem.objective.l2, problem.objective.l1
    if not l2 and not l1:
        return math.inf
    coef = point[:, :-1]
    slopes = gradient[:, :-1] - l2 * coef
    if not l2:
        slopes = slopes * min(1.0, l1 / max(float(slopes.abs().max()), 1e-300))
        return float((coef * slopes + l1 * coef.abs()).sum())
    held = (slopes.abs() - l1).clamp(min=0) * slopes.sign()
    return float(((held + l2 * coef).square() / (2 * l2) + l1 * coef.abs() + coef * (slopes - held)).sum())


def _direction(progress, slope, l1, pairs, inverse) -> Tensor:
    problem, point = progress.problem, progress.point
    free = ((point != 0) | (slope != 0) | (l1 == 0)).double()
    while True:
        within = lambda v: centred(problem, v * free)
        direction = -_two_loops(slope * free, pairs, inverse, within, free)
        wrong = (l1 > 0) & (point == 0) & (free != 0) & (direction * slope >= 0)
        if not bool(wrong.any()):
            break
        free = free * ~wrong
    if problem.objective.l1:
        orthant = torch.where(point == 0, -slope.sign(), point.sign())
        kept = torch.where(direction * slope <= 0, direction, 0.0)
        direction, kept = (torch.where((l1 > 0) & ((point + d).sign() != orthant), -point, d) for d in (direction, kept))
        if not float((slope * direction).sum()) < ALIGN * float((slope * kept).sum()):
            print("fallback")
            direction = kept
    return direction


def _two_loops(gradient, pairs, inverse, within, free):
    q = within(gradient)
    kept = []
    for s, y in reversed(pairs):
        s, y = s * free, y * free
        sy = float((s * y).sum())
        if not sy > 0:
            continue
        factor = float((s * q).sum()) / sy
        q = q - factor * y
        kept.append((s, y, sy, factor))
    scale = 1.0
    if GAMMA and kept:
        s, y, sy, _ = kept[0]
        scale = sy / float((y * within(inverse(within(y)))).sum())
        if GAMMA == 2: scale = min(scale, 1.0)
    q = scale * within(inverse(within(q)))
    for s, y, sy, factor in reversed(kept):
        q = q + (factor - float((y * q).sum()) / sy) * s
    return within(q)
