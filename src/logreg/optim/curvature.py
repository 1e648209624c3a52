"""Newton steps: from a Hessian that is held, or from products with one that is not."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.errors import DivergedError
from logreg.optim.passes import Asking, Diagonal, Frame, Notes, Problem, Product, SampledCurvature, ask

Solve = Callable[[Tensor], Tensor]
"""A gradient (K, D + 1) -> about the Newton step that is to be subtracted, (K, D + 1)."""

DRAWN = 4000
"""Rows per output that a preconditioner is made of."""

SHRINK = 8
"""What is added to the curvatures of a sample, relative to their mean over its rows: it makes small ones too small."""

WIDEST = 2048
"""Features up to which it holds a matrix for each output."""

MEMORY = 0.2
"""Fraction of the data that those matrices may take."""

DAMPING = 1e-7
"""What steps with l1 add to the curvature, relative to it, as long as they lead on."""

LEAST_DAMPING = 1e-13
"""What they add at least: rounding of a Hessian in float64."""

LESS_DAMPING = 1e-3
"""Factor from one strength of damping to the next."""

L1_STEPS = 100
"""Of a quadratic model with l1, at most; what is left is done by the next Newton step."""

L1_ROUNDING = 1e-12
"""Gain of a step with l1, relative to all of them, that is rounding."""

HOLDS = 10
"""Factorizations for one of them, at most: each time some coordinates at 0 are held there."""

PROJECTED = (1.0, 0.5, 0.25)
"""Lengths of a step with l1 whose projections are tried beside the one to the first crossing."""

LITTLE = 16e6
"""Numbers that they may hold in any case."""

PAIRS, PAIRS_MEMORY, PAIRS_LITTLE = 300, 0.1, 4e6
"""Moves that are remembered at most, the fraction of the data that they may take, and numbers in any case."""

STALLED = 0.5
"""Ratio of the last gain to the mean gain of a product so far, below which conjugate gradients have done their work."""

RIDGES = 11
"""How often that is made a hundred times as large, at most."""

FLAT = 1e-13
"""Curvature by a coordinate that is rounding of float64, relative to what it is before a mean is subtracted."""

SINGULAR = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Smallest pivot of a Hessian computed in that type, relative to its diagonal, from which on it may be singular."""

NOT_FINITE = (
    "the curvature of the objective is not finite: features are too large or too small for the arithmetic. Standardize "
    "them with dataset.standardize=true, bring them to units in which they are about 1, or set precision=64."
)
"""What is said of such a Hessian."""

RIDGE = 1e-12
"""What is added to a Hessian, relative to its diagonal, so that it can be factored where columns repeat each other."""


Gauge = tuple[tuple[int, ...], Tensor]
"""A softmax's shape (K, D + 1), and l2 (D + 1,): one vector added to all outputs changes the penalties alone."""


def smallest_subgradient(point: Tensor, gradient: Tensor, l1: Tensor) -> Tensor:
    """The smallest subgradient of f, given the gradient of its smooth part: 0 where l1 holds a coefficient at 0."""
    held = gradient.sign() * (gradient.abs() - l1).clamp(min=0)
    return torch.where(point == 0, held, gradient + l1 * point.sign())


def intercept_step(problem: Problem, gradient: Tensor, curvature: Tensor) -> Tensor:
    """Newton's step for the intercepts alone, to be subtracted.

    Args:
        problem: Whose intercepts they are.
        gradient: Of f by the intercepts, (K,).
        curvature: Second derivative by them, (K, K); singular for a softmax, where only differences matter.
    """
    inverse: Tensor = torch.linalg.pinv(curvature, rtol=1e-12, hermitian=True)
    step = inverse @ gradient
    return step - step.mean() if problem.coupled else step  # rounding may have left some curvature along all of them


class Factored(NamedTuple):
    """A Hessian that is held, ready to solve with."""

    matrices: Tensor
    """Shape (B, P, P): one for all outputs together (B = 1), or one for each."""
    roots: Tensor
    """Their Cholesky factors."""
    ridge: float
    """What was added to their diagonals for that, relative to these."""
    weakest: float = 1.0
    """The smallest pivot, relative to the diagonal: about 0 where a direction has next to no curvature."""

    def step(self, gradient: Tensor) -> Tensor:
        """The Newton step to be subtracted, in the shape of the gradient."""
        flat = gradient.reshape(len(self.matrices), -1, 1)
        return torch.cholesky_solve(flat, self.roots).view_as(gradient)


def factored(
    problem: Problem, hessian: Tensor, frame: Frame | None = None, null: Tensor | None = None, rounding: float = FLAT
) -> Factored:
    """Factors a Hessian of `Evaluate`; directions in which f does not change get a curvature of their own.

    Args:
        problem: Whose Hessian it is.
        hessian: As `Evaluation` has it.
        frame: Of the coordinates that it is by; the model's own for ``None``.
        null: Directions that change no logit, (D + 1, R), in that frame.
        rounding: Curvature by a coordinate that is none, without a penalty.

    Raises:
        DivergedError: It is not finite.
    """
    if not math.isfinite(float(hessian.sum())):
        raise DivergedError(NOT_FINITE)
    k, p = problem.num_outputs, problem.num_features + 1
    if problem.coupled:
        # Adding one vector to all outputs changes no probability, and no gradient points that way but l1's.
        mean = hessian.diagonal(dim1=1, dim2=3).diagonal(dim1=0, dim2=1).mean(1)  # (P,)
        if problem.objective.l1:
            mean = torch.cat([torch.zeros_like(mean[:-1]), mean[-1:]])
        hessian = hessian + torch.diag(mean)[None, :, None, :] / k
        matrices = hessian.reshape(1, k * p, k * p)
    else:
        matrices = hessian
    size = matrices.diagonal(dim1=1, dim2=2).clamp(min=0)
    flat, frame = size <= 0, frame or problem.model
    if not (problem.objective.l2 or problem.objective.l1):
        # The curvature by a constant column is what rounding left where its mean was taken away, in its own unit.
        mean = F.pad(frame.center / frame.scale, (0, 1)).square() * size.view(k, p)[:, -1:]
        flat |= size <= (rounding * mean).view_as(size)
        size = torch.where(flat, mean.view_as(size), size)
    size = torch.where(size > 0, size, 1.0).sqrt()
    scaled = matrices / size.unsqueeze(2)
    scaled /= size.unsqueeze(1)
    if null is not None and null.shape[1]:
        along = torch.block_diag(*[null] * k) if problem.coupled else null
        along = torch.linalg.qr(size.unsqueeze(2) * along).Q
        scaled += along @ along.mT
    ridge = 0.0
    for power in range(RIDGES):
        before, ridge = ridge, RIDGE * 100.0**power
        scaled.diagonal(dim1=1, dim2=2).add_(ridge - before)
        roots, failed = torch.linalg.cholesky_ex(scaled)
        if not bool(failed.any()):
            pivots = roots.diagonal(dim1=1, dim2=2).square().masked_fill(flat, 0.0)
            pivots = pivots if ridge == RIDGE else torch.zeros_like(pivots)
            if not problem.intercept:
                pivots = pivots.view(k, p)[:, :-1]
            return Factored(matrices, roots.mul_(size.unsqueeze(2)), ridge, float(pivots.min()))
    raise DivergedError(NOT_FINITE)


def least(hessian: Tensor, gradient: Tensor, flat: float) -> tuple[Tensor, float]:
    """Newton's step to be subtracted, (..., P), where some directions may have no curvature, and what it is worth.

    Args:
        hessian: Shape (..., P, P).
        gradient: Shape (..., P).
        flat: Curvature along a direction, relative to the largest, that is none.
    """
    size = hessian.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    units = torch.where(size > 0, 1 / size, 0.0)
    values, vectors = torch.linalg.eigh(hessian * units.unsqueeze(-2) * units.unsqueeze(-1))
    along = (vectors.mT @ (units * gradient).unsqueeze(-1))[..., 0]
    steps = torch.where(values > flat * values[..., -1:], along / values, 0.0)
    return units * (vectors @ steps.unsqueeze(-1))[..., 0], float((along * steps).sum()) / 2


def minimise_with_l1(
    problem: Problem,
    frame: Frame,
    matrices: Tensor,
    gradient: Tensor,
    point: Tensor,
    accuracy: float,
    noise: float = 0.0,
    damping: float = DAMPING,
) -> tuple[Tensor, float]:
    """Minimises the quadratic model with the penalty: g (v - u) + (v - u) H (v - u) / 2 + l1 |v|.

    Args:
        problem: Of the point.
        frame: Likewise.
        matrices: H, (B, P, P): one for all outputs together, or one for each.
        gradient: Of the smooth part at the point, (K, D + 1).
        point: u, (K, D + 1).
        accuracy: Last gain relative to all gain at which to end.
        noise: Last gain itself at which to end.
        damping: What steps add to the curvature, relative to it; more where that leads nowhere, up to `DAMPING`.

    Returns:
        v, in which zeros are exact, and by how much the model is lower there than at u.
    """
    flat = (len(matrices), -1)
    l2, l1 = problem.penalties(frame)
    parts = (matrices, gradient.reshape(flat), point.reshape(flat), l1.expand_as(point).reshape(flat))
    gauge = (point.shape, l2) if problem.coupled else None
    solved = [_one_with_l1(*part, accuracy, noise, damping, gauge) for part in zip(*parts, strict=True)]
    return torch.stack([v for v, _ in solved]).view_as(point), sum(gain for _, gain in solved)


def _one_with_l1(
    matrix: Tensor,
    gradient: Tensor,
    start: Tensor,
    l1: Tensor,
    accuracy: float,
    noise: float,
    damping: float,
    gauge: Gauge | None,
) -> tuple[Tensor, float]:
    """By projected Newton steps within the orthant that the slope points to.

    Each is exact on the coordinates that are free.  Those at 0 that it would lead out of the orthant are held there,
    and the rest is solved again.  Of the projected step and the one that ends where the first coordinate becomes 0,
    the better one is taken: the second always leads down.

    Where there is a gauge, steps leave that direction alone, and `regauged` finds the best place along it.

    References:
        Bertsekas (1982), Projected Newton methods for optimization problems with simple constraints.
    """
    diagonal = matrix.diagonal()
    # Steps alone are damped, not the model: where columns repeat each other l1 has the last word.
    damped = matrix + torch.diag(torch.where(diagonal > 0, damping * diagonal, 1.0))
    penalised = l1 > 0
    v, gain = start, 0.0
    for _ in range(L1_STEPS):
        smooth = gradient + matrix @ (v - start)
        slope = smallest_subgradient(v, smooth, l1)
        step = _step_within(damped, slope, (v != 0) | (slope != 0), penalised & (v == 0), gauge)
        orthant = torch.where(v == 0, -slope.sign(), v.sign())
        ratio = torch.where(penalised & (v * step > 0), v / step, math.inf)  # length at which a coordinate is 0
        if bool((there := ratio <= L1_ROUNDING).any()):  # they are as good as at 0, and would hold up all others
            v = v.masked_fill(there, 0.0)
            continue
        first = min(float(ratio.min()), 1.0)
        crossing = torch.where(ratio <= first, 0.0, v - first * step)
        moves = [crossing] if first == 1 else [crossing, *(v - length * step for length in PROJECTED)]
        moved, change = v, 0.0
        for move in moves:
            there = torch.where(penalised & (move.sign() != orthant), 0.0, move)
            there = there if gauge is None else regauged(there, l1, gauge)
            its = _model_change(matrix, smooth, l1, v, there)
            if its < change:
                moved, change = there, its
        if not change < 0:
            if damping >= DAMPING:
                break
            damping /= LESS_DAMPING
            damped = matrix + torch.diag(torch.where(diagonal > 0, damping * diagonal, 1.0))
            continue
        v, gain = moved, gain - change
        if -change < max((accuracy if first == 1 else L1_ROUNDING) * gain, noise):
            break
    return v, gain


def _step_within(matrix: Tensor, slope: Tensor, free: Tensor, at_zero: Tensor, gauge: Gauge | None) -> Tensor:
    """Newton's step to be subtracted, within the coordinates that are free, (P,).

    Coordinates at 0 may leave it only along the slope; others of them are held, and the rest is solved again.
    """
    step = torch.zeros_like(slope)
    for _ in range(HOLDS):
        which = free.nonzero()[:, 0]
        step = torch.zeros_like(slope)
        within = matrix[which][:, which]
        if gauge is not None:
            # All outputs together have no curvature of their own; where one of them is held there is that of the rest.
            k, p = gauge[0]
            mean = torch.where(free.view(k, p).all(0), matrix.diagonal().view(k, p).mean(0), 0.0) / k
            feature = which % p
            within = within + torch.where(feature.unsqueeze(1) == feature, mean[feature], 0.0)
        root, failed = torch.linalg.cholesky_ex(within)
        if bool(failed):
            step[which] = slope[which] / matrix.diagonal()[which]
            break
        step[which] = torch.cholesky_solve(slope[which].unsqueeze(1), root)[:, 0]
        wrong = free & at_zero & (step * slope <= 0)
        if not bool(wrong.any()):
            break
        free = free & ~wrong
    return step


def regauged(point: Tensor, l1: Tensor, gauge: Gauge) -> Tensor:
    """The outputs' coefficients of each feature less the number s that makes the penalties least.

    Without l2 that is any median of theirs, and of these the one next to their mean: it leaves the least norm.  With
    l2, s is the median of the K of them and of the K + 1 places where the slope would be 0 if j of them lay below s.
    """
    shape, l2 = gauge
    values, l1 = point.view(shape), l1.view(shape)[0]
    k = len(values)
    below = torch.arange(k + 1, dtype=point.dtype, device=point.device).unsqueeze(1)
    places = values.mean(0) + (k - 2 * below) * (l1 / (k * l2.clamp(min=1e-300)))
    shift = torch.cat([values, places]).median(0).values
    ordered = values.sort(0).values
    median = values.mean(0).clamp(ordered[(k - 1) // 2], ordered[k // 2])
    shift = torch.where(l2 > 0, shift, median)
    return (values - torch.where(l1 > 0, shift, 0.0)).flatten()


def _model_change(matrix: Tensor, smooth: Tensor, l1: Tensor, v: Tensor, moved: Tensor) -> float:
    """By how much the model changes; from the move itself, so that small changes keep their digits."""
    move = moved - v
    # |v + m| - |v| is m times the sign of both, where they agree
    same = moved.sign() * v.sign() > 0
    length = torch.where(same, move * v.sign(), moved.abs() - v.abs())
    return float(smooth @ move + move @ (matrix @ move) / 2 + l1 @ length)


class Learned:
    """About the inverse of the Hessian: a preconditioner, and the curvature that moves have met since it was made.

    What the loss has of it outlasts a change of l2.

    Source:
        Nocedal and Wright (2006), Numerical Optimization, algorithm 7.4.
    """

    def __init__(self, first: Solve, problem: Problem, l2: Tensor) -> None:
        """``first`` is the preconditioner, and ``l2`` the penalties (D + 1,) in the coordinates it works in."""
        self._first, self._l2 = first, l2
        most = max(PAIRS_LITTLE, PAIRS_MEMORY * problem.rows * problem.num_features) / (2 * problem.num_parameters)
        # One allocation, of which memory is taken as it is filled: many small ones among others leave gaps.
        self._kept = torch.empty(
            min(PAIRS, int(most)), 2, problem.num_parameters, dtype=problem.dtype, device=l2.device
        )
        self._places: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def most(self) -> int:
        """Moves that are remembered at most."""
        return len(self._kept)

    def __call__(self, gradient: Tensor) -> Tensor:
        """About the Newton step to be subtracted, (K, D + 1) as the gradient is."""
        rest, factors = gradient.flatten().to(self._kept.dtype), []
        for move, change in reversed(pairs := self.last(len(self))):
            factors.append(float(move @ rest))
            rest = rest.sub(change, alpha=factors[-1])
        step = self._first(rest.view_as(gradient).double()).flatten().to(self._kept.dtype)
        for (move, change), factor in zip(pairs, reversed(factors), strict=True):
            step = step.add_(move, alpha=factor - float(change @ step))
        return step.view_as(gradient).double()

    def learn(self, move: Tensor, change: Tensor) -> bool:
        """Takes a move of the point, and how it changed the gradient, both (K, D + 1); whether it met curvature."""
        if not self.most:
            return False
        place = self._places[0] if len(self) == self.most else min({*range(len(self) + 1)} - {*self._places})
        if not self._keep(place, move.flatten(), change.flatten()):
            return False
        if len(self) == self.most:
            self._places.popleft()
        self._places.append(place)
        return True

    def under(self, l2: Tensor) -> None:
        """Goes on with other penalties, (D + 1,)."""
        more = (l2 - self._l2).to(self._kept.dtype)
        self._l2 = l2
        if not bool(more.any()):
            return
        for place in list(self._places):
            move, change = self._kept[place]
            if not self._keep(place, move, change + (move.view(-1, len(more)) * more).flatten()):
                self._places.remove(place)

    def last(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """The last moves, and how they changed the gradient; each (K * (D + 1),), to one scale."""
        places = list(self._places)[len(self) - number :]
        return [(self._kept[place, 0], self._kept[place, 1]) for place in places]

    def _keep(self, place: int, move: Tensor, change: Tensor) -> bool:
        curvature = float(move.double() @ change.double())
        if not curvature > 0:
            return False
        by = math.sqrt(curvature)
        self._kept[place, 0], self._kept[place, 1] = move / by, change / by
        return True


def preconditioner(
    problem: Problem, frame: Frame, point: Tensor, curvature: Tensor, seed: int, drawn: int = DRAWN
) -> Asking[Solve]:
    """About the inverse of the Hessian at a point: that of each output's own block.

    Args:
        problem: Whose rows will be shown.
        frame: Of the point.
        point: Shape (K, D + 1).
        curvature: Of f by the intercepts there, (K, K).
        seed: Fixes which rows are drawn.
        drawn: How many per output.
    """
    k, d = problem.num_outputs, problem.num_features
    own = curvature.diagonal().clamp(min=1e-30)
    inverse: Solve
    if d <= WIDEST and d <= problem.rows / 4 and k * d * d <= max(MEMORY * problem.rows * d, LITTLE):
        roots = yield from ask(SampledCurvature(problem, frame, point, own, drawn, seed))
        for block in roots:  # each in its place: together they are a good part of what a fit occupies
            block.diagonal().add_(SHRINK / drawn * block.diagonal().mean())
            root, failed = torch.linalg.cholesky_ex(block)
            if bool(failed):
                block.diagonal().mul_(1 + 1e-5).add_(1e-30)
                root = torch.linalg.cholesky_ex(block)[0]
            block.copy_(root)

        def inverse(gradient: Tensor) -> Tensor:
            half = torch.linalg.solve_triangular(roots, gradient[:, :-1].to(roots.dtype).unsqueeze(2), upper=False)
            coef = torch.linalg.solve_triangular(roots.mT, half, upper=True)[..., 0]
            return torch.cat([coef.double(), (gradient[:, -1] / own).unsqueeze(1)], dim=1)

    else:
        diagonal = yield from ask(Diagonal(problem, frame, point))
        metric = torch.where(diagonal > 0, diagonal, 1.0)

        def inverse(gradient: Tensor) -> Tensor:
            return gradient / metric

    return inverse


def centred(problem: Problem, point: Tensor) -> Tensor:
    """The same logits up to a softmax's gauge, with outputs that sum to zero where no l1 forbids it.

    The optimum is of that kind, and within that subspace no direction is without curvature.
    """
    if not problem.coupled:
        return point
    if not problem.objective.l1:
        return point - point.mean(0)
    point = point.clone()
    point[:, -1] -= point[:, -1].mean()
    return point


class Solution(NamedTuple):
    """What conjugate gradients came to."""

    step: Tensor
    """To be subtracted, (K, D + 1)."""
    gain: float
    """What the quadratic model says it is worth."""
    directions: Tensor
    """Those that were tried, conjugate to each other and with curvature 1, (M, K * (D + 1))."""
    products: Tensor
    """The Hessian times those, (M, K * (D + 1))."""


def conjugate_gradients(
    problem: Problem,
    frame: Frame,
    point: Tensor,
    gradient: Tensor,
    inverse: Solve,
    accuracy: float,
    most: int,
    free: Tensor | None = None,
) -> Asking[Solution]:
    """Solves Hessian @ step = gradient, a pass for each product.

    Args:
        problem: Whose rows will be shown.
        frame: Of the point.
        point: Where the Hessian is taken, (K, D + 1).
        gradient: Shape (K, D + 1).
        inverse: The preconditioner, symmetric and positive.
        accuracy: Norm of the residual, in the metric of the preconditioner and relative to the first, to end at.
        most: Products at most.
        free: Coordinates that may move, (K, D + 1); ``None`` for all.
    """

    def within(vector: Tensor) -> Tensor:
        return centred(problem, vector) if free is None else vector * free

    residual = within(gradient)
    step, gain = torch.zeros_like(residual), 0.0
    towards = within(inverse(residual))
    direction, squared = towards, float((residual * towards).sum())
    enough = accuracy * accuracy * squared
    curvatures: Notes[Tensor] = Notes()
    tried: list[tuple[Tensor, Tensor]] = []
    for number in range(1, most + 1):
        if not squared > 0:
            break
        product = within((yield from ask(Product(problem, frame, point, direction, curvatures))))
        curvature = float((direction * product).sum())
        if not curvature > 0 or not math.isfinite(curvature):
            break
        length = squared / curvature
        tried.append((direction / math.sqrt(curvature), product / math.sqrt(curvature)))
        step = step + length * direction
        residual = residual - length * product
        gain += length * squared / 2
        towards = within(inverse(residual))
        last, squared = squared, float((residual * towards).sum())
        if squared <= enough or number * length * last / 2 <= STALLED * gain:
            break
        direction = towards + squared / last * direction
    pairs = [torch.stack(side).flatten(1) for side in zip(*tried, strict=True)] or [
        residual.new_zeros(0, residual.numel())
    ] * 2
    return Solution(step, gain, *pairs)


def corrected(inverse: Solve, known: Solution) -> Solve:
    """A preconditioner that is exact on the directions of an earlier solution, where it was near enough.

    Source:
        Morales and Nocedal (2000), Automatic preconditioning by limited memory quasi-Newton updating.
    """
    directions, products = known.directions, known.products

    def better(gradient: Tensor) -> Tensor:
        flat = gradient.flatten()
        along = directions @ flat
        rest = inverse((flat - along @ products).view_as(gradient)).flatten()
        return (rest + (along - products @ rest) @ directions).view_as(gradient)

    return better
