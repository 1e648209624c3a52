"""Newton's method: with Cholesky where the Hessian can be held, with conjugate gradients where it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.optim.certificate import Bound, Reach, bound, by_held_hessian
from logreg.optim.curvature import (
    Factored,
    Solve,
    centred,
    conjugate_gradients,
    factored,
    minimise_with_l1,
    preconditioner,
    smallest_subgradient,
)
from logreg.optim.passes import (
    Asking,
    Combination,
    Evaluate,
    Evaluation,
    Frame,
    Gram,
    InMemory,
    Pass,
    Problem,
    Sample,
    ask,
    choose_frame,
    gather,
)
from logreg.optim.progress import Progress, start_stochastically

HELD = 1024
"""Parameters that depend on each other, up to which the Hessian is held."""

WORK = 2e11
"""Rows times parameters times those that depend on each other, up to which it is."""

PRODUCTS = 100
"""Products for one step at most."""

MANY_ROWS = 5000
"""Rows from which a pass of stochastic gradient descent is a good place to start from."""

WIDE = 4
"""Features per row from which the problem is solved in the rows first."""

GRAM_RIDGE = 1e-6
"""What keeps inner products of repeated rows positive, relative to their size; later steps undo it."""

ENOUGH = 20
"""Rows per parameter that make a sample worth solving first."""

SHORT = 0.02
"""Length of a step at which float32 is no longer believed."""

START = 50
"""Features of the first working set."""

EIGEN = 256
"""Parameters up to which the eigenvalues of the Hessian cost nothing."""

PATIENCE = 12
"""Steps in a row that gain next to nothing, before giving up."""

NOISE = {torch.float32: 3e-7, torch.float64: 1e-14}
"""How exactly f is known, relative to it."""


def holds_hessian(problem: Problem) -> bool:
    """Whether the Hessian is formed and factored."""
    dependent = problem.num_parameters if problem.softmax else problem.num_features + 1
    enough = problem.rows >= dependent or problem.objective.l1 > 0
    return dependent <= HELD and enough and problem.rows * dependent * problem.num_parameters <= WORK


def newton(progress: Progress, rough: float = 0.0) -> Asking[None]:
    """Minimises f from where ``progress`` stands until it is certified to be within its tolerance.

    float32 arithmetic, where the problem asks for it, serves far from the optimum and in the curvature; the last
    gradients are taken in float64, so that the accuracy of the result does not depend on it.

    With l1 each step minimises the quadratic model with the penalty; where the Hessian of all features cannot be held, that
    of the features which are not held at 0 is.

    Args:
        progress: Of the problem; told of each step.
        rough: Relative gain still expected, at which to end without a certificate; 0 for a certified end.

    Source:
        Nocedal and Wright (2006), Numerical Optimization, chapter 7; Byrd and others (2016), A family of second-order
        methods for convex l1-regularized optimization.
    """
    problem = progress.problem
    held = holds_hessian(problem)
    if problem.objective.l1 and not held:
        yield from _on_working_sets(progress)
        return
    sample = yield from ask(Sample(problem))
    frame = choose_frame(problem, sample, held)
    progress.frame, progress.point = frame, progress.frame.to(frame, progress.point)
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
    # The duality gap of l1 alone is of first order in the distance, what the model expects of second.
    first_order = problem.objective.l1 > 0 and not problem.objective.l2
    stop_at = 0.1 * progress.tolerance ** (2 if first_order else 1)
    unpenalised = not (problem.objective.l2 or problem.objective.l1)
    floor = problem.share * problem.total_weight
    base: Evaluation | None = None
    direct: Factored | None = None
    inverse: Solve | None = None
    at, path, length, poor, stale = progress.point, None, 1.0, 0, True
    of_hessian = at
    exact = False
    while True:
        hessian = problem.dtype if held and (stale or progress.near > 1e-3) else None
        now = yield from ask(Evaluate(problem, frame, at, dtype, hessian))
        if path is not None and base is not None:
            worse = not now.value <= base.value + NOISE[torch.float64 if exact else problem.dtype] * abs(base.value)
            if worse and not exact and (dtype == torch.float64 or length < SHORT):
                # Perhaps it only looks so: the old value was one of float32.
                dtype, at, base, path, length = torch.float64, progress.point, None, None, 1.0
                continue
            if worse:
                length, poor = length / 4, poor + 1
                if poor >= PATIENCE:
                    break
                at = path(length)
                continue
            poor = poor + 1 if base.value - now.value < 0.05 * progress.near * abs(base.value) else 0
        base, exact, length = now, dtype == torch.float64, 1.0
        progress.point, progress.value = at, now.value
        slope = smallest_subgradient(at, now.gradient, l1)
        close = _by_slope(progress, slope)
        progress.gap = close * abs(now.value)

        if exact and not held and close <= progress.tolerance and (yield from _certified(progress, now)):
            return
        if held:
            if now.hessian is not None:
                direct, of_hessian = factored(problem, now.hessian), at
            assert direct is not None
            path, gain = _with_matrix(problem, direct, at, now.gradient, l1, min(1e-2, max(1e-16, progress.near)))
        else:
            if inverse is None or progress.near > 1e-4:
                inverse = yield from preconditioner(problem, frame, at, now.curvature, progress.seed)
            accuracy = 0.5 * float((slope * inverse(slope)).sum()) ** 0.25
            accuracy = max(min(accuracy, 0.3), min(0.5, 0.3 * math.sqrt(progress.tolerance / max(close, 1e-300))))
            path, gain = yield from _with_products(problem, frame, at, slope, inverse, accuracy)
        expected, progress.near = progress.near, gain / max(abs(now.value), 1e-300)
        progress.gap = min(progress.gap, now.value, gain if held else math.inf)
        stale = progress.near > 0.03 * expected
        if rough and progress.near < rough:
            return
        if exact and progress.near <= stop_at:
            if (
                held
                and not problem.objective.l1
                and (yield from _nearly_quadratic(progress, direct, at - of_hessian, now))
            ):
                return
            if (yield from _certified(progress, now)) or stop_at < 1e-15:
                break
            stop_at /= 10
        if unpenalised and now.value < progress.tolerance * floor:
            break  # separated: f goes to 0, and the coefficients go with it to infinity
        if poor >= PATIENCE and exact:
            break
        if poor >= PATIENCE or progress.near < (1e-3 if held else 1e-4):
            dtype, poor = torch.float64, poor if exact else 0
        at = path(1.0)
    if progress.best is not progress.point:
        yield from _certified(progress, base if base is not None and exact else None)
    if progress.best is not None:
        progress.point = progress.best


Path = Callable[[float], Tensor]
"""Length of a step -> the point it leads to."""


def _with_matrix(
    problem: Problem, direct: Factored, point: Tensor, gradient: Tensor, l1: Tensor, accuracy: float
) -> tuple[Path, float]:
    """Newton's step, and what the quadratic model says it is worth."""
    if bool(l1.any()):
        target, gain = minimise_with_l1(problem, direct.matrices, gradient, point, l1, accuracy)
    else:
        step = direct.step(gradient)
        target, gain = point - step, float((step * gradient).sum()) / 2
    return lambda length: target if length == 1 else point + length * (target - point), gain


def _with_products(
    problem: Problem, frame: Frame, point: Tensor, slope: Tensor, inverse: Solve, accuracy: float
) -> Asking[tuple[Path, float]]:
    """The same by conjugate gradients."""
    step, gain = yield from conjugate_gradients(problem, frame, point, slope, inverse, accuracy, PRODUCTS)
    return lambda length: point - length * step, gain


def _by_slope(progress: Progress, slope: Tensor) -> float:
    """The relative gap by the slope alone, |g|^2 / (2 l2); infinite without l2."""
    problem = progress.problem
    if not problem.objective.l2:
        return math.inf
    coef = progress.frame.gradient_to(problem.model, slope)[:, :-1]
    return float(coef.square().sum()) / (2 * problem.objective.l2) / max(abs(progress.value), 1e-300)


def _certified(progress: Progress, evaluation: Evaluation | None) -> Asking[bool]:
    """Bounds the gap of the point in float64; whether it is within the tolerance."""
    problem, frame = progress.problem, progress.frame
    if evaluation is not None:
        gradient = frame.gradient_to(problem.model, evaluation.gradient)
        evaluation = evaluation._replace(gradient=gradient, hessian=None)
    found = yield from bound(problem, progress.solution, evaluation, progress.tolerance)
    if progress.bound is None or found.gap <= progress.bound.gap:
        progress.bound, progress.best = found, progress.point
    progress.gap = found.gap
    return progress.converged


def _nearly_quadratic(progress: Progress, direct: Factored, moved: Tensor, evaluation: Evaluation) -> Asking[bool]:
    """Bounds the gap by the Hessian that is held, at next to no cost; whether it is within the tolerance."""
    problem, frame = progress.problem, progress.frame
    if len(direct.matrices[0]) > EIGEN:
        return False
    if progress.reach is None:
        progress.reach = yield from ask(Reach(problem, frame))
    gap = by_held_hessian(problem, direct, moved, evaluation.gradient, progress.reach)
    if not gap <= progress.tolerance * abs(evaluation.value):
        return False
    gradient = frame.gradient_to(problem.model, evaluation.gradient)
    progress.bound, progress.best = Bound(evaluation.value, gap, True, gradient, evaluation.loss), progress.point
    progress.gap = gap
    return True


class _Narrowed(Pass[None]):
    """A pass that sees some of the features."""

    def __init__(self, question: Pass[Any], features: Tensor) -> None:
        self.question, self.features = question, features

    def add(self, block: Batch) -> None:
        """Hands on those features.  Sets: done."""
        self.question.add(block._replace(features=block.features.index_select(1, self.features)))
        self.done = self.question.done


def _on_working_sets(progress: Progress) -> Asking[None]:
    """With l1 and many features: solves for those that matter, looks which others do, and so on.

    Source:
        Massias, Gramfort and Salmon (2018), Celer: a fast solver for the lasso with dual extrapolation.
    """
    problem = progress.problem
    point, l1 = progress.solution, problem.penalties(problem.model)[1]
    most = min(HELD // (problem.num_outputs if problem.softmax else 1), problem.num_features + 1) - 1
    sample = yield from ask(Sample(problem))
    scale = choose_frame(problem, sample, every_scale=True).scale
    accuracy, size, last = 0.1, START, math.inf
    while True:
        now = yield from ask(Evaluate(problem, problem.model, point, torch.float64))
        progress.frame, progress.point, progress.value = problem.model, point, now.value
        slope = smallest_subgradient(point, now.gradient, l1)
        if (yield from _certified(progress, now)) or not (now.value < last or accuracy > 1e-12):
            break
        last = now.value
        used = (point[:, :-1] != 0).any(0)
        worth = torch.where(used, math.inf, slope[:, :-1].abs().amax(0) / scale)
        size = min(max(size, 2 * int(used.sum())), most)
        chosen = worth.topk(size).indices.sort().values
        chosen = chosen[worth[chosen] > 0]
        if int(used.sum()) > most or not len(chosen):
            break
        model = Frame(problem.model.center[chosen], problem.model.scale[chosen])
        inside = replace(problem, model=model)
        columns = torch.cat([chosen, chosen.new_tensor([problem.num_features])])
        inner = Progress(inside, point[:, columns], accuracy, progress.seed)
        for question in newton(inner):
            narrowed = _Narrowed(question, chosen)
            narrowed.mixed = question.mixed
            yield narrowed
        point = point.clone()
        point[:, columns] = inner.solution
        accuracy = max(accuracy / 10, 0.1 * progress.tolerance)
    if progress.best is not None:
        progress.point = progress.best


def enough_rows(problem: Problem, sample: Batch) -> bool:
    """Whether a sample is a small part of the rows and still tells something of every parameter."""
    dependent = problem.num_parameters if problem.softmax else problem.num_features + 1
    return ENOUGH * dependent <= len(sample.labels) <= problem.rows / 4


def is_wide(problem: Problem) -> bool:
    """Whether there are so many more features than rows that the rows span all that matters cheaply."""
    return problem.objective.l2 > 0 and not problem.objective.l1 and problem.num_features >= WIDE * problem.rows


def _solve_sample(progress: Progress, sample: Batch) -> None:
    """Moves the start to about the optimum of a sample."""
    inner = Progress(progress.problem.sub(sample), progress.solution)
    inner.problem = replace(inner.problem, dtype=torch.float32)
    for question in newton(inner, rough=1e-3):
        gather(lambda mixed: [sample], question)
    progress.point = inner.frame.to(progress.frame, inner.point)


def _solve_in_rows(progress: Progress) -> Asking[None]:
    """Moves the start to the optimum, found in as many dimensions as there are rows.

    With l2 alone the coefficients are a combination of the rows.  If G = L L' are the rows' inner products, the problem
    over the rows of L has the same logits and the same penalty.
    """
    problem = progress.problem
    model = problem.model
    gram, rows = yield from ask(Gram(problem, model))
    size = gram.diagonal().mean()
    root = torch.linalg.cholesky(gram + GRAM_RIDGE * size * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    unit = Frame(torch.zeros_like(gram[0]), torch.ones_like(gram[0]))
    inside = replace(problem, model=unit, dtype=torch.float64)
    inner = Progress(inside, inside.zeros(), progress.tolerance)
    memory = InMemory(root, rows.labels, rows.sample_weight)
    for question in newton(inner):
        gather(memory, question)
    point = inner.solution
    factors = torch.linalg.solve_triangular(root, point[:, :-1], upper=False, left=False)
    coef = yield from ask(Combination(problem, model, factors))
    progress.point = model.to(progress.frame, torch.cat([coef, point[:, -1:]], dim=1))
