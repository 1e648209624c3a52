"""Subspace descent: Newton steps on the span of a quasi-Newton direction and the last step, without a held Hessian.

`logreg.solvers.methods.newton` takes them where quasi-Newton steps are slow, and the logits of all rows can be cached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from logreg.solvers.kernels import affine
from logreg.solvers.passes.base import Pass, PassRequests, PreparedRows, request
from logreg.solvers.passes.evaluate import Derivatives, Evaluate
from logreg.solvers.passes.hessian import BlockCache
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import VALUE_ROUNDING, SolverState, certified, gap_from_gradient, scaled_gradient
from logreg.solvers.steps.limited_memory import LimitedMemoryInverse
from logreg.solvers.steps.newton_steps import intercept_step, newton_step_pinv
from logreg.solvers.steps.preconditioner import (
    OUTPUTS_PER_READ,
    BlockInverse,
    block_rows,
    blocks_work,
    centered,
    holds_blocks,
    inverse_of_blocks,
    preconditioner,
)

REMAKE_VALUE_RATIO = 0.8
"""Ratio of f to that at the last preconditioner, or its blocks, below which others may be made: the curvature has
changed."""

MAX_SUBSPACE_STEPS = 600
"""Largest number of steps; other ways continue from there."""

MAX_STEPS_PER_HALVING = 150
"""Consecutive steps without halving the estimated gap after which descent ends: a gradient in float32 has about seven
digits, beyond which further steps do not reduce it.  With a weak penalty slow steps are far more common than such an
end, and steps in float64 take more than twice as long: at the weakest strengths of `benchmarks/path.py` a limit of 60
is met too soon."""

MAX_ROUNDED_STEPS = 10
"""Consecutive steps without halving the estimated gap or the predicted decrease, where the latter is at most
`ROUNDED_DECREASE`, after which descent ends: both are rounding errors of float32 then."""

ROUNDED_DECREASE = 1e-8
"""Predicted decrease of a step, relative to f, that may be a rounding error of float32."""

MAX_EXTRAPOLATION_PAIRS = 40
"""Number of last steps whose span is searched for the point of least gradient norm; their Gram matrix costs
little."""

LINEAR_TOL = 3e-3
"""Predicted decrease of a step, relative to f, up to which the change of the gradient counts as linear along it: with
earlier steps the point of least gradient, which is extrapolated from them, is not one."""

EXTRAPOLATION_PINV_RTOL = 1e-10
"""Eigenvalue of the Gram matrix of the last steps, relative to the largest, below which steps count as linearly
dependent."""

CERTIFY_TOL_FACTOR = 0.8
"""Estimated gap, as a multiple of the tolerance, at which a point is evaluated in float64 to be certified.

It is less than 1 since the extrapolated gradient that the estimate is made from is slightly too small."""

BACKTRACKING_RATIO = 0.25
"""Ratio of the length of a shortened step to that of the step which increased f."""

MIN_STEP_LENGTH = 0.01
"""Length, as a fraction of the whole step, below which a step is not shortened further; descent then ends."""

SUBSPACE_PINV_RTOL = 1e-6
"""Eigenvalues of the Hessian on a subspace, relative to the largest, that are rounding errors of float32."""


def step_work(problem: Problem) -> float:
    """Multiplications in the time of a step, which reads the features twice."""
    return 2.0 * problem.numel * (problem.num_outputs + OUTPUTS_PER_READ)


@dataclass
class BlockLogits:
    """The logits of a block of rows that are cached from one pass to the next, each (n, K)."""

    logits: Tensor
    """Logits at the point."""
    direction: Tensor | None = None
    """Derivative of the logits along the new direction."""
    last_step: Tensor | None = None
    """Change of the logits by the last step."""


LogitsCache = BlockCache[BlockLogits]


class EvaluateAfterStep(Evaluate):
    """The objective and its gradient after a step, without a product of the features with the point.

    The logits after the step are a combination of cached ones: those at the last point, along the new direction, and of
    the last step.
    """

    def __init__(
        self,
        problem: Problem,
        coordinates: Coordinates,
        point: Tensor,
        cache: LogitsCache,
        factors: Tensor | None = None,
    ) -> None:
        """``point`` is the one after the step; the new direction and the last step are multiplied by ``factors``.

        ``factors`` are (M, K), or (M, 1) for all outputs.

        Where the cache is empty, this pass computes the logits of ``point`` and fills it, without factors.
        """
        super().__init__(problem, coordinates, point)
        self._cache, self._fills_cache = cache, not cache
        self._factors = None if factors is None else factors.to(self.dtype)
        cache.rewind()

    def logits(self, rows: PreparedRows) -> Tensor:
        """Logits of the block's rows after the step, (n, K)."""
        if self._fills_cache:
            block = BlockLogits(super().logits(rows))
            self._cache.write(rows.labels, block)
            return block.logits
        block = self._cache.read(rows.labels)
        assert self._factors is not None
        step = torch.zeros_like(block.logits) if block.direction is None else block.direction.mul_(self._factors[0])
        if block.last_step is not None:
            step.addcmul_(block.last_step, self._factors[1])
        if self.problem.coupled:  # as `centered` does to the point
            step -= step.mean(1, keepdim=True)
        block.last_step, block.direction = step, None
        block.logits += step
        return block.logits


class SubspaceHessian(Pass[Tensor]):
    """The Hessian of the loss on the span of a new direction and the last step, separately for each output.

    Its result has the shape (M, K, M, K) for M directions, and does not contain the penalty.
    """

    sums = ("_hessian",)
    takes_sparse = True

    def __init__(
        self, problem: Problem, coordinates: Coordinates, direction: Tensor, cache: LogitsCache, last_steps: int
    ) -> None:
        """``direction`` is the new one, (K, D + 1); ``last_steps`` is 1 where the cache holds a last step, else 0."""
        super().__init__(problem, coordinates)
        self._coef, self._intercept = self.linear(direction)
        self._cache = cache
        cache.rewind()
        m, k = 1 + last_steps, problem.num_outputs
        self._hessian = self.zeros(m, k, m, k)

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the products of pairs of directions, weighted by the curvature of the loss."""
        block = self._cache.read(rows.labels)
        block.direction = affine(rows.features, self._coef, self._intercept)
        changes = [block.direction] if block.last_step is None else [block.direction, block.last_step]
        curvature = self.problem.loss.curvature_at(block.logits, rows.labels)
        products = [curvature * change for change in changes]
        joint = torch.cat(products, dim=1) if self.problem.coupled else None
        if rows.weights is not None:
            products = [product * rows.weights for product in products]
        if joint is not None:
            weighted = joint if rows.weights is None else torch.cat(products, dim=1)
            self._hessian -= (weighted.T @ joint).view_as(self._hessian)
        for one in range(len(changes)):
            for other in range(one, len(changes)):
                diagonal = (products[one] * changes[other]).sum(0)
                self._hessian[one, :, other].diagonal().add_(diagonal)
                if other > one:
                    self._hessian[other, :, one].diagonal().add_(diagonal)

    def result(self) -> Tensor:
        """The sums over the rows, times the scale of the objective."""
        return self._hessian * self.problem.row_sum_scale


def descend(state: SolverState) -> PassRequests[bool]:
    """Minimizes f by Newton steps on small subspaces, until certified or until Newton steps on all of space do better.

    Each step s solves `H @ factors = -slopes` on the span of two directions for each output: d = -B @ gradient, with B
    the `LimitedMemoryInverse`, and the last step.  The logits along both are cached, so a step costs half a pass for
    the products of the features with d, and half a pass for the gradient.  Each step:

    1. Estimate the gap at the point of least gradient norm in the span of the last steps.  Where it is within the
       tolerance, evaluate that point in float64 and certify it.  The steps may be quasi-Newton steps before this, also
       for another l2; where a certificate with them fails, only those since are used.
    2. Compute d, and the Hessian on the span of d and the last step (first half pass).
    3. Step to the minimum of the quadratic model on that span, and evaluate f and its gradient (second half pass).
    4. While f is larger than before, shorten the step.
    5. Store the step and the change of the gradient in B.

    A better preconditioner, each output's block of the Hessian, is made once steps have taken as long as it does, where
    there is none yet or f has fallen since (`REMAKE_VALUE_RATIO`): whenever the fit would have ended, it takes at most
    twice as long as with the better choice.

    It stops where a point is certified, after `MAX_SUBSPACE_STEPS`, after `MAX_STEPS_PER_HALVING` steps that did not
    halve the estimated gap, or `MAX_ROUNDED_STEPS` of rounding, and where no shorter step decreases f.

    Args:
        state: State of the problem, with l2 > 0; updated in each step.  It gets an ``inverse`` where it has none yet.

    Returns:
        Whether the point is certified.

    References:
        Narkiss and Zibulevsky (2005), Sequential subspace optimization method for large-scale unconstrained problems.
        Karlin, Manasse, Rudolph and Sleator (1988), Competitive snoopy caching, for when to pay for the preconditioner.
    """
    problem, coordinates = state.problem, state.coordinates
    cache: LogitsCache = BlockCache()
    point, last_step, predicted_decrease = state.point, None, math.inf
    gap_limit = CERTIFY_TOL_FACTOR * state.tolerance
    smallest_gap, steps_since_halving, work_since = math.inf, 0, 0.0
    smallest_decrease, rounded_steps = math.inf, 0
    if state.inverse is not None:
        state.inverse.change_l2(problem.penalties(coordinates)[0])
    now = yield from request(EvaluateAfterStep(problem, coordinates, point, cache))
    for number in range(MAX_SUBSPACE_STEPS + 1):
        state.point, state.value, state.predicted_decrease = point, now.value, predicted_decrease
        gap_here = gap_from_gradient(state, now.gradient, now.curvature)
        state.gap = min(gap_here, 1.0) * abs(now.value)
        extrapolates = state.inverse is not None and state.inverse.linear_pairs > 0
        flattest, gap = least_gradient_point(state, now) if extrapolates else (point, gap_here)
        halved = gap < smallest_gap / 2  # a gap of 0 is halved once
        smallest_gap, steps_since_halving = (gap, 0) if halved else (smallest_gap, steps_since_halving + 1)
        progresses = halved or predicted_decrease < smallest_decrease / 2
        smallest_decrease = min(smallest_decrease, predicted_decrease)
        rounded_steps = 0 if progresses or predicted_decrease > ROUNDED_DECREASE else rounded_steps + 1
        if gap < gap_limit:
            there = yield from request(Evaluate(problem, coordinates, flattest, torch.float64))
            gap_there = gap_from_gradient(state, there.gradient, there.curvature)
            if gap_there <= state.tolerance:
                state.point, state.value = flattest, there.value
                if (yield from certified(state, there)):
                    return True
                state.point, gap_there = point, state.gap / max(abs(there.value), 1e-300)
            if state.inverse is not None and state.inverse.linear_pairs > state.inverse.own_pairs:
                state.inverse.linear_pairs = state.inverse.own_pairs
            else:
                gap_limit *= CERTIFY_TOL_FACTOR * gap / gap_there
        stalls = steps_since_halving == MAX_STEPS_PER_HALVING or rounded_steps == MAX_ROUNDED_STEPS
        if number == MAX_SUBSPACE_STEPS or stalls:
            break
        if state.inverse is None:
            first = yield from preconditioner(problem, coordinates, point, now.curvature, state.seed)
            made_at, work_since = now.value if isinstance(first, BlockInverse) else math.inf, 0.0
            state.inverse = LimitedMemoryInverse(first, problem, problem.penalties(coordinates)[0], made_at)
        elif (
            work_since > blocks_work(problem)
            and holds_blocks(problem)
            and now.value < REMAKE_VALUE_RATIO * state.inverse.made_at
        ):
            state.inverse = None  # frees its memory before the next one takes it
            by_intercept = now.curvature.diagonal().clamp(min=1e-30)
            first = yield from inverse_of_blocks(
                problem, coordinates, point, by_intercept, block_rows(problem), state.seed
            )
            state.inverse = LimitedMemoryInverse(first, problem, problem.penalties(coordinates)[0], now.value)
            work_since = 0.0
        work_since += step_work(problem)
        direction = centered(problem, -state.inverse(now.gradient))
        directions = torch.stack([direction] if last_step is None else [direction, last_step])
        hessian = yield from request(SubspaceHessian(problem, coordinates, direction, cache, len(directions) - 1))
        factors, decrease = _subspace_newton_step(problem, coordinates, now.gradient, directions, hessian)
        predicted_decrease = decrease / max(abs(now.value), 1e-300)
        step = centered(problem, (factors.unsqueeze(2) * directions).sum(0))
        taken = yield from _backtrack(state, cache, now, step, factors)
        if taken is None:
            break
        length, last_length, after = taken
        point, last_step = point + length * step, last_length * step
        change = after.gradient - now.gradient
        state.inverse.update(length * step, change, is_linear=predicted_decrease <= LINEAR_TOL)
        now = after
    return False


def _backtrack(
    state: SolverState, cache: LogitsCache, now: Derivatives, step: Tensor, factors: Tensor
) -> PassRequests[tuple[float, float, Derivatives] | None]:
    """Takes a step (K, D + 1) with factors (M, K), and shortens it until f is no larger than it is ``now``.

    The cache holds the logits at the last point that was tried, so each shortening goes back by a part of the last one.

    Returns:
        The length of the step, the signed length by which the cache moved last, and f after the step; ``None`` where f
        is larger at all lengths down to `MIN_STEP_LENGTH`.
    """
    problem, coordinates, point = state.problem, state.coordinates, state.point
    largest_value = now.value * (1 + VALUE_ROUNDING[problem.dtype])
    after = yield from request(EvaluateAfterStep(problem, coordinates, point + step, cache, factors))
    length, last_length = 1.0, 1.0
    while not after.value <= largest_value and length > MIN_STEP_LENGTH:
        shorter = BACKTRACKING_RATIO * length
        factors = torch.tensor([[0.0], [(shorter - length) / last_length]], dtype=point.dtype, device=point.device)
        length, last_length = shorter, shorter - length
        after = yield from request(EvaluateAfterStep(problem, coordinates, point + length * step, cache, factors))
    return (length, last_length, after) if after.value <= largest_value else None


def least_gradient_point(state: SolverState, now: Derivatives) -> tuple[Tensor, float]:
    """Extrapolates to the point of least gradient norm in the span of the last steps.

    The gradient is taken to be linear on that span: gradient + sum_i factor_i * change_i, whose norm is least where the
    normal equations of the changes hold.  The point of least f has a larger gradient, and a certificate bounds the gap
    by the norm of the gradient.  There the intercepts are solved, as a certificate has to.

    Args:
        state: State of the problem, with the steps in its ``inverse``, whose ``linear_pairs`` are used.
        now: The objective at the last point.

    Returns:
        The point, (K, D + 1), and the relative gap that `gap_from_gradient` estimates there.

    References:
        Pulay (1980), Convergence acceleration of iterative sequences: the case of SCF iteration.
    """
    assert state.inverse is not None
    pairs = state.inverse.last_pairs(min(state.inverse.linear_pairs, MAX_EXTRAPOLATION_PAIRS))
    like = now.gradient
    changes = like.new_empty(len(pairs), like.numel())
    for row, (_, change) in zip(changes, pairs, strict=True):  # one at a time: a list of them would double the memory
        row.copy_(scaled_gradient(state, change.view_as(like).double()).flatten())
    size = torch.linalg.vector_norm(changes, dim=1)
    changes /= size.unsqueeze(1)
    slopes = changes @ scaled_gradient(state, like).flatten()
    gram_inverse = torch.linalg.pinv(changes @ changes.T, rtol=EXTRAPOLATION_PINV_RTOL, hermitian=True)
    factors = -(gram_inverse @ slopes) / size
    point, gradient = state.point.clone(), like.clone()
    for (step, change), factor in zip(pairs, factors.tolist(), strict=True):
        point.add_(step.view_as(like), alpha=factor)
        gradient.add_(change.view_as(like), alpha=factor)
    if now.curvature.joint is not None or not state.problem.coupled:
        point[:, -1] -= intercept_step(state.problem, gradient[:, -1], now.curvature)
    return point, gap_from_gradient(state, gradient, now.curvature)


def _subspace_newton_step(
    problem: Problem, coordinates: Coordinates, gradient: Tensor, directions: Tensor, hessian: Tensor
) -> tuple[Tensor, float]:
    """Minimizes the quadratic model of f on the span of the directions: `H @ factors = -slopes`.

    Args:
        problem: The problem of the point.
        coordinates: Coordinates of the point.
        gradient: Gradient of f, (K, D + 1).
        directions: Shape (M, K, D + 1).
        hessian: Hessian of the loss on the span, (M, K, M, K); the penalty's part is added.

    Returns:
        Factors of the directions, (M, K), and the predicted decrease.
    """
    l2, _ = problem.penalties(coordinates)
    m, k, _ = directions.shape
    slopes = (directions * gradient).sum(2)
    penalty = torch.einsum("akp,p,bkp->abk", directions, l2, directions)
    hessian = hessian + torch.einsum("abk,kl->akbl", penalty, torch.eye(k, dtype=l2.dtype, device=l2.device))
    hessian = hessian.reshape(m * k, m * k)
    step, decrease = newton_step_pinv(hessian, slopes.flatten(), SUBSPACE_PINV_RTOL)
    return -step.view(m, k), decrease
