"""Limited-memory BFGS: the curvature that the last steps met, on top of a preconditioner."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.optim.certificate import forms_hessian
from logreg.optim.curvature import Solve, centred, preconditioner, smallest_subgradient
from logreg.optim.newton import (
    MANY_ROWS,
    NOISE,
    _certified,
    _solve_in_rows,
    _solve_sample,
    enough_rows,
    holds_hessian,
    is_wide,
)
from logreg.optim.passes import Asking, Evaluate, Evaluation, Problem, Sample, ask, choose_frame
from logreg.optim.progress import Progress, start_stochastically

PAIRS = 30
"""Steps that are remembered."""

DECREASE, FLATTER = 1e-4, 0.9
"""Wolfe's constants: part of the slope that f must fall by, and part of it that may remain."""

TRIALS = 8
"""Points that one line search may try."""

REFRESH = 0.01
"""Fall of the expected gain at which the preconditioner is made anew."""

PATIENCE = 8
"""Steps in a row that lead no nearer, before going to float64, and there before giving up."""

SAFE = 10.0
"""How much more than expected there may be to gain: the curvature of a few steps knows little of the rest."""


class Trial(NamedTuple):
    """A point of a line search."""

    length: float
    value: float
    """f there."""
    slope: float
    """Derivative of f by the length."""
    fall: float = 0.0
    """What f would change by, if the slopes at length 0 were those all the way."""


def decreases(first: Trial, trial: Trial, noise: float = 0.0) -> bool:
    """Whether f falls enough (Armijo), where its values are known to within ``noise``."""
    return trial.value <= first.value + DECREASE * trial.fall + noise


def satisfies_wolfe(first: Trial, trial: Trial, noise: float = 0.0) -> bool:
    """Whether f falls enough and its slope has flattened enough: the strong Wolfe conditions."""
    return decreases(first, trial, noise) and abs(trial.slope) <= -FLATTER * first.slope


def next_length(trials: Sequence[Trial], noise: float = 0.0) -> float:
    """Where to look next: beyond all trials while f falls, else between the last that falls and the first that rises.

    Args:
        trials: So far; the first is that of length 0, where f falls.
        noise: How exactly values are known.

    Source:
        Nocedal and Wright (2006), Numerical Optimization, algorithms 3.5 and 3.6.
    """
    falling = sorted(trial for trial in trials if trial.slope < 0 and decreases(trials[0], trial, noise))
    rising = [trial for trial in trials if trial not in falling]
    low = falling[-1]
    if not rising:
        return min(max(_least_of_cubic(falling[-2], low), 2 * low.length), 10 * low.length)
    high = min(rising)
    margin = 0.1 * (high.length - low.length)
    return min(max(_least_of_cubic(low, high), low.length + margin), high.length - margin)


def _least_of_cubic(left: Trial, right: Trial) -> float:
    """The minimum of the cubic with the values and slopes of two trials; halfway where it has none."""
    width = right.length - left.length
    bend = left.slope + right.slope - 3 * (right.value - left.value) / width
    square = bend * bend - left.slope * right.slope
    root = math.sqrt(square) if 0 <= square < math.inf else math.nan
    below = right.slope - left.slope + 2 * root
    share = 1 - (right.slope + root - bend) / below if below else math.nan
    return left.length + width * (share if math.isfinite(share) else 0.5)


def lbfgs(progress: Progress) -> Asking[None]:
    """Minimises f from where ``progress`` stands until it is certified to be within its tolerance.

    float32 arithmetic, where the problem asks for it, serves as long as it leads nearer.  With l1 a step stays within
    the orthant that the smallest subgradient points to: a coefficient stops at 0, and one that l1 holds there stays.

    Args:
        progress: Of the problem; told of each step.

    Source:
        Nocedal and Wright (2006), Numerical Optimization, algorithm 7.4; Andrew and Gao (2007), Scalable training of
        l1-regularized log-linear models.
    """
    problem = progress.problem
    dtype = yield from _start(progress)
    frame, l1 = progress.frame, problem.penalties(progress.frame)[1]
    by_hessian = not problem.objective.l1 and (forms_hessian(problem) or not problem.objective.l2)
    unpenalised = not (problem.objective.l2 or problem.objective.l1)
    pairs: deque[Pair] = deque(maxlen=PAIRS)
    inverse: Solve | None = None
    known, nearest, poor, enough = math.inf, math.inf, 0, progress.tolerance
    now = yield from ask(Evaluate(problem, frame, progress.point, dtype))
    while True:
        point, progress.value, size = progress.point, now.value, max(abs(now.value), 1e-300)
        exact, noise = dtype == torch.float64, NOISE[dtype] * size
        slope = smallest_subgradient(point, now.gradient, l1)
        if inverse is None or progress.near < REFRESH * known:
            inverse = yield from preconditioner(problem, frame, point, now.curvature, progress.seed)
            known = progress.near
        direction = _direction(problem, point, slope, l1, pairs, inverse)
        first = Trial(0.0, now.value, float((slope * direction).sum()))
        progress.near = -first.slope / 2 / size
        known = min(known, progress.near) if known == math.inf else known
        gap = expected_gap(problem, progress.solution, frame.gradient_to(problem.model, now.gradient)) / size
        gap = min(gap, SAFE * progress.near) if by_hessian else gap
        progress.gap = min(gap, 1.0) * size
        if gap <= enough or (not exact and progress.near < FAR) or poor >= PATIENCE or not first.slope < 0:
            if not exact:
                dtype, poor, nearest = torch.float64, 0, math.inf
                now = yield from ask(Evaluate(problem, frame, point, dtype))
                continue
            if gap <= enough and (yield from _certified(progress, now)):
                return
            if not gap <= enough or not first.slope < 0:
                break
            enough = gap / 10
        if unpenalised and now.value < progress.tolerance * problem.share * problem.total_weight:
            break  # separated: f goes to 0, and the coefficients go with it to infinity
        orthant = torch.where(point == 0, -slope.sign(), point.sign())
        best = yield from _search(problem, frame, point, direction, orthant, slope, l1, first, noise, dtype)
        if best is None:
            poor = PATIENCE
            continue
        at, there = best
        pairs.append(Pair(at - point, there.gradient - now.gradient))
        poor = 0 if now.value - there.value > noise or progress.near < nearest else poor + 1
        nearest = min(nearest, progress.near)
        progress.point, now = at, there
    if progress.best is not progress.point:
        yield from _certified(progress, now if exact else None)
    if progress.best is not None:
        progress.point = progress.best


def _search(
    problem, frame, point, direction, orthant, slope, l1, first, noise, dtype
) -> Asking[tuple[Tensor, Evaluation] | None]:
    """A point that satisfies the Wolfe conditions; else the lowest; ``None`` where f does not fall."""
    trials, best, length = [first], None, 1.0
    for _ in range(TRIALS):
        at = point + length * direction
        stopped = (l1 > 0) & (at.sign() != orthant)
        at = at.masked_fill(stopped, 0.0)
        there = yield from ask(Evaluate(problem, frame, at, dtype))
        along = ((there.gradient + l1 * orthant) * direction).masked_fill(stopped, 0.0).sum()
        trial = (
            Trial(length, there.value, float(along), min(0.0, float((slope * (at - point)).sum())))
            if math.isfinite(there.value)
            else Trial(length, math.inf, math.inf)
        )
        trials.append(trial)
        if satisfies_wolfe(first, trial, noise):
            return at, there
        if decreases(first, trial, noise) and (best is None or there.value < best[1].value):
            best = at, there
        length = next_length(trials, noise)
    return best


class Pair(NamedTuple):
    """A step and what it changed."""

    step: Tensor
    change: Tensor
    """Of the gradient."""


def expected_gap(problem: Problem, point: Tensor, gradient: Tensor) -> float:
    """About what a certificate will say by duality, without a pass: exact where the intercepts are at their optimum.

    Args:
        problem: With a penalty, else the answer is infinite.
        point: Shape (K, D + 1), in the model frame.
        gradient: Of the smooth part of f there, by the model's coordinates.
    """
    l2, l1 = problem.objective.l2, problem.objective.l1
    coef = point[:, :-1]
    slopes = gradient[:, :-1] - l2 * coef
    if l2:
        held = (slopes.abs() - l1).clamp(min=0) * slopes.sign()
        return float(((held + l2 * coef).square() / (2 * l2) + l1 * coef.abs() + coef * (slopes - held)).sum())
    if not l1:
        return math.inf
    slopes = slopes * min(1.0, l1 / max(float(slopes.abs().max()), 1e-300))
    return float((coef * slopes + l1 * coef.abs()).sum())


def _direction(
    problem: Problem, point: Tensor, slope: Tensor, l1: Tensor, pairs: Sequence[Pair], inverse: Solve
) -> Tensor:
    """Where to go, at full length: downhill, and with l1 within the orthant."""
    free = (point != 0) | (slope != 0) | (l1 == 0)
    while True:
        direction = -_product(problem, slope, free, pairs, inverse)
        wrong = free & (point == 0) & (l1 > 0) & (direction * slope >= 0)
        if not bool(wrong.any()):
            return direction
        free = free & ~wrong


STAT = []
ALIGN = 0.01
GAMMA = 1


def _product(problem: Problem, gradient: Tensor, free: Tensor, pairs: Sequence[Pair], inverse: Solve) -> Tensor:
    """What L-BFGS has for the inverse of the Hessian, times a gradient, on coordinates that are free."""

    def within(vector: Tensor) -> Tensor:
        return centred(problem, vector * free)

    rest, used = within(gradient), []
    for step, change in reversed(pairs):
        step, change = step * free, change * free
        curvature = float((step * change).sum())
        if curvature > 0:
            factor = float((step * rest).sum()) / curvature
            rest = rest - factor * change
            used.append((step, change, curvature, factor))
    product = within(inverse(within(rest)))
    if used and GAMMA:
        _, change, curvature, _ = used[0]
        product = product * (curvature / float((change * within(inverse(within(change)))).sum()))
    for step, change, curvature, factor in reversed(used):
        product = product + (factor - float((change * product).sum()) / curvature) * step
    return within(product)


def _start(progress: Progress) -> Asking[torch.dtype]:
    """As newton."""
    problem, held = progress.problem, holds_hessian(progress.problem)
    sample = yield from ask(Sample(problem))
    progress.frame, progress.point = (
        (frame := choose_frame(problem, sample, held)),
        progress.frame.to(frame, progress.point),
    )
    progress.point = centred(problem, progress.point)
    if not progress.point.any():
        if held and enough_rows(problem, sample):
            _solve_sample(progress, sample)
        elif is_wide(problem):
            yield from _solve_in_rows(progress)
            return torch.float64
        elif not held and problem.rows >= MANY_ROWS:
            yield from start_stochastically(progress, sample)
    return problem.dtype
