"""Quasi-Newton steps with a length of its own for each output, from a rough start to the end if float32 leads there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from logreg.solvers.dual.row_space import is_wide
from logreg.solvers.kernels import affine
from logreg.solvers.newton_steps import newton_step_pinv
from logreg.solvers.passes.base import Pass, PassRequests, PreparedRows, request
from logreg.solvers.passes.evaluate import Derivatives, Evaluate
from logreg.solvers.passes.hessian import BlockCache
from logreg.solvers.preconditioner import centered, preconditioner
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.quasi_newton import LimitedMemoryInverse
from logreg.solvers.starting_point import MANY_ROWS, holds_hessian
from logreg.solvers.state import NOISE, SolverState, by_slope, certified, steepness

KEPT = 3
"""Numbers that are kept of each row and output."""

MEMORY = 0.1
"""Fraction of the data that these may take."""

LITTLE = 4e6
"""How many there may be in any case."""

STEPS = 300
"""At most."""

PATIENCE = 30
"""Steps in which the end must come nearer by half: what float32 knows of the slope ends somewhere."""

ENOUGH = 1e-8
"""Gain of a step, relative to f, from which exact curvature does better where no slope tells how near the end is."""

FLATTENED = 40
"""Last moves that tell where f is flattest."""

RANK = 1e-10
"""Relative size of what they tell twice."""

SAFE = 0.8
"""Of the tolerance, to look for an end at: what the last moves tell is not quite what is there."""

SHORTER, SHORTEST = 0.25, 0.01
"""Of a move that led upwards, what is tried next, and last."""

FLAT = 1e-6
"""Curvature along a direction, relative to the largest, that is rounding."""


def descends(problem: Problem) -> bool:
    """Whether there are many rows and no quicker way, and what is kept of them is small beside them."""
    kept = KEPT * problem.num_outputs
    small = kept <= MEMORY * problem.num_features or kept * problem.rows <= LITTLE
    other = holds_hessian(problem) or is_wide(problem) or problem.objective.l1 > 0
    return problem.rows >= MANY_ROWS and small and not other


@dataclass
class BlockLogits:
    """What is kept of the rows of a block, each (n, K)."""

    logits: Tensor
    """At the point."""
    along: Tensor | None = None
    """How they change along the new direction."""
    moved: Tensor | None = None
    """How they changed by the last move."""


Trails = BlockCache[BlockLogits]


class Follow(Evaluate):
    """The objective and its gradient after a move, the logits of which are known from the directions it is made of."""

    def __init__(
        self, problem: Problem, coordinates: Coordinates, point: Tensor, trails: Trails, factors: Tensor | None = None
    ) -> None:
        """The point after the move, and factors (M, K), or (M, 1), of the new direction and of a move before it.

        Where there are no trails yet this pass makes them, and needs no factors.
        """
        super().__init__(problem, coordinates, point)
        self._trails, self._first = trails, not trails
        self._factors = None if factors is None else factors.to(self.dtype)
        trails.rewind()

    def logits(self, rows: PreparedRows) -> Tensor:
        """Moves them, (n, K)."""
        if self._first:
            trail = BlockLogits(super().logits(rows).contiguous())
            self._trails.write(rows.labels, trail)
            return trail.logits
        trail = self._trails.read(rows.labels)
        assert self._factors is not None
        moved = torch.zeros_like(trail.logits) if trail.along is None else trail.along.mul_(self._factors[0])
        if trail.moved is not None:
            moved.addcmul_(trail.moved, self._factors[1])
        if self.problem.coupled:  # as `centered` does to the point
            moved -= moved.mean(1, keepdim=True)
        trail.moved, trail.along = moved, None
        trail.logits += moved
        return trail.logits


class Along(Pass[Tensor]):
    """The curvature of the loss along a new direction and along the last move, with a step of its own for each output.

    Its result is of shape (M, K, M, K) for M directions, without the penalty.
    """

    sums = ("_hessian",)

    def __init__(
        self, problem: Problem, coordinates: Coordinates, direction: Tensor, trails: Trails, moves: int
    ) -> None:
        """``moves`` is 1 where there was a move before, else 0."""
        super().__init__(problem, coordinates)
        self._coef, self._intercept = self.linear(direction)
        self._trails = trails
        trails.rewind()
        m, k = 1 + moves, problem.num_outputs
        self._hessian = self.zeros(m, k, m, k)

    def gather(self, rows: PreparedRows) -> None:
        """Products of pairs of directions."""
        trail = self._trails.read(rows.labels)
        trail.along = affine(rows.features, self._coef, self._intercept).contiguous()
        changes = [trail.along] if trail.moved is None else [trail.along, trail.moved]
        spread = self.problem.loss.curvature_at(trail.logits, rows.labels)
        by = [spread * change for change in changes]
        together = torch.cat(by, dim=1) if self.problem.coupled else None
        if rows.weights is not None:
            by = [one * rows.weights for one in by]
        if together is not None:
            weighed = together if rows.weights is None else torch.cat(by, dim=1)
            self._hessian -= (weighed.T @ together).view_as(self._hessian)
        for one in range(len(changes)):
            for other in range(one, len(changes)):
                both = (by[one] * changes[other]).sum(0)
                self._hessian[one, :, other].diagonal().add_(both)
                if other > one:
                    self._hessian[other, :, one].diagonal().add_(both)

    def result(self) -> Tensor:
        """The sums, times the problem's share."""
        return self._hessian * self.problem.row_sum_scale


def descend(state: SolverState) -> PassRequests[bool]:
    """Moves the point down until it is certified to be within the tolerance, or exact curvature does better.

    Each step goes along the slope, preconditioned with all that moves have met of the curvature, and along the last
    move, but as far as f's curvature on the span of them says, and for each output as far as suits it.  The logits
    along both are kept, so a step costs two half passes: one product with the features, and one with their transpose.

    Args:
        state: Of the problem; told of each step, and of the inverse where it has none yet.

    Returns:
        Whether it is certified.

    Source:
        Narkiss and Zibulevsky (2005), Sequential subspace optimization method for large-scale unconstrained problems.
    """
    problem, coordinates = state.problem, state.coordinates
    trails: Trails = BlockCache()
    at, move, near = state.point, None, math.inf
    enough, moves = SAFE * state.tolerance, 0
    nearest, waited = math.inf, 0
    if state.inverse is not None:
        state.inverse.under(problem.penalties(coordinates)[0])
    now = yield from request(Follow(problem, coordinates, at, trails))
    for step in range(STEPS + 1):
        state.point, state.value, state.near = at, now.value, near
        close = by_slope(state, now.gradient, now.curvature)
        state.gap = min(close, 1.0) * abs(now.value)
        flattest, least = _flattest(state, now, moves) if moves else (at, close)
        nearest, waited = (least, 0) if least <= nearest / 2 else (nearest, waited + 1)
        if least <= enough:
            there = yield from request(Evaluate(problem, coordinates, flattest, torch.float64))
            found = by_slope(state, there.gradient, there.curvature)
            if found <= state.tolerance:
                state.point, state.value = flattest, there.value
                if (yield from certified(state, there)):
                    return True
                state.point, found = at, state.gap / max(abs(there.value), 1e-300)
            enough *= SAFE * least / found
        if step == STEPS or waited == PATIENCE or (near <= ENOUGH and math.isinf(close)):
            break
        if state.inverse is None:
            solve = yield from preconditioner(problem, coordinates, at, now.curvature, state.seed, state.drawn)
            state.inverse = LimitedMemoryInverse(solve, problem, problem.penalties(coordinates)[0])
        direction = centered(problem, -state.inverse(now.gradient))
        directions = torch.stack([direction] if move is None else [direction, move])
        hessian = yield from request(Along(problem, coordinates, direction, trails, len(directions) - 1))
        factors, gain = _best(problem, coordinates, now.gradient, directions, hessian)
        whole = centered(problem, (factors.unsqueeze(2) * directions).sum(0))
        most, near = now.value * (1 + NOISE[problem.dtype]), gain / max(abs(now.value), 1e-300)
        before, now = now, (yield from request(Follow(problem, coordinates, at + whole, trails, factors)))
        length, last = 1.0, 1.0  # how much of it was gone, and by the last move
        while not now.value <= most and length > SHORTEST:
            shorter = SHORTER * length
            factors = torch.tensor([[0.0], [(shorter - length) / last]], dtype=at.dtype, device=at.device)
            length, last = shorter, shorter - length
            now = yield from request(Follow(problem, coordinates, at + length * whole, trails, factors))
        if not now.value <= most:
            break
        at, move = at + length * whole, last * whole
        moves += state.inverse.learn(length * whole, now.gradient - before.gradient)
        moves = min(moves, FLATTENED, len(state.inverse))
    return False


def _flattest(state: SolverState, now: Derivatives, moves: int) -> tuple[Tensor, float]:
    """The point of least slope, as far as the last moves tell, and what `by_slope` might say of it.

    f and its slope are not least at the same point, and a certificate asks for a small slope.

    Source:
        Pulay (1980), Convergence acceleration of iterative sequences: the case of SCF iteration.
    """
    assert state.inverse is not None
    pairs = state.inverse.last(moves)
    like = now.gradient
    along = like.new_empty(len(pairs), like.numel())
    for row, (_, change) in zip(along, pairs, strict=True):  # one at a time: a list of them all is as large again
        row.copy_(steepness(state, change.view_as(like).double()).flatten())
    size = torch.linalg.vector_norm(along, dim=1)
    along /= size.unsqueeze(1)
    slope = along @ steepness(state, like).flatten()
    factors = -(torch.linalg.pinv(along @ along.T, rtol=RANK, hermitian=True) @ slope) / size
    point, gradient = state.point.clone(), like.clone()
    for (move, change), factor in zip(pairs, factors.tolist(), strict=True):
        point.add_(move.view_as(like), alpha=factor)
        gradient.add_(change.view_as(like), alpha=factor)
    return point, by_slope(state, gradient, now.curvature)


def _best(
    problem: Problem, coordinates: Coordinates, slope: Tensor, directions: Tensor, hessian: Tensor
) -> tuple[Tensor, float]:
    """Factors (M, K) of the directions (M, K, D + 1) that lead furthest down, and by how much: f as it looks from here.

    ``slope`` is the gradient of f, (K, D + 1), and ``hessian`` what `Along` says of the loss.
    """
    l2, _ = problem.penalties(coordinates)
    m, k, _ = directions.shape
    gradient = (directions * slope).sum(2)
    pairs = torch.einsum("akp,p,bkp->abk", directions, l2, directions)
    hessian = hessian + torch.einsum("abk,kl->akbl", pairs, torch.eye(k, dtype=l2.dtype, device=l2.device))
    hessian = hessian.reshape(m * k, m * k)
    step, gain = newton_step_pinv(hessian, gradient.flatten(), FLAT)
    return -step.view(m, k), gain
