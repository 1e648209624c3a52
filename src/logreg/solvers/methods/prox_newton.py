"""Proximal Newton's method on working sets of coefficients, for l1 penalties.

With l1 few coefficients are nonzero at the optimum.  A step minimizes the quadratic model of f plus the penalty over a
working set of coefficients (`minimize_model`).  The columns of their features are held, so a step reads no others.  A
pass over all columns then computes the slopes of all coefficients at a dual point: they give the duality gap, and show
which coefficients are missing.

References:
    Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions.
    Johnson and Guestrin (2015), Blitz: a principled meta-algorithm for scaling sparse optimization.
    Massias, Vaiter, Gramfort and Salmon (2020), Dual extrapolation for sparse generalized linear models.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.losses.cross_entropy import SATURATED_LOSS
from logreg.rows import chosen_rows
from logreg.solvers.bounds.base import EvaluatedPoint, evaluated_point
from logreg.solvers.bounds.duality import DualPoint, bound_at_dual_point, feasible_scale, slopes_error
from logreg.solvers.l1_model import minimize_penalized_model
from logreg.solvers.methods.lbfgs import expected_gap, lbfgs
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.columns import (
    DifferentiateHeld,
    DualSlopes,
    EvaluateHeld,
    GatherColumns,
    HeldRows,
    LocalModel,
    ReadLabels,
    SumTheta,
    TryStep,
)
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature, penalty_at
from logreg.solvers.passes.moments import sparse_coordinates
from logreg.solvers.passes.precise import UNIT_ROUNDOFF
from logreg.solvers.passes.sampling import sampled_rows
from logreg.solvers.problem import Coordinates, Problem, choose_coordinates
from logreg.solvers.state import SolverState, certified, keep_bound, within
from logreg.solvers.steps.line_search import ARMIJO_CONSTANT
from logreg.solvers.steps.newton_steps import intercept_step

# Working sets

MAX_ROUNDS = 200
"""Largest number of working sets: a safeguard, since there are usually 1 to 10."""

MAX_MODEL_PARAMETERS = 1024
"""Coefficients of one quadratic model up to which it is formed and minimized; with more of them L-BFGS goes on."""

MAX_COMPLETE_COEFFICIENTS = 64
"""Coefficients of one model up to which all are in the working set from the start: a model of so many costs little."""

NEW_COEFFICIENTS = 64
"""Coefficients that may join the working set in a round.  With more of them most would leave it again, and the time to
minimize a model goes with the cube of its size."""

MIN_NEW_COEFFICIENTS = 10
"""Coefficients that may join in a round however few the rows are.  More than half as many as rows would make the matrix
of the model singular, and its minimum hard to find."""

ROWS_PER_NEW_COEFFICIENT = 100
"""Rows for each coefficient that may join in a round: with many rows, a pass over all columns outweighs a few
coefficients that leave again."""

NEAR_RATIO = 0.95
"""Slope of a coefficient of 0, relative to l1, from which it stays in the working set, and joins it where others join:
it may become nonzero, which a later round would only find out."""

# Coordinates

COORDINATE_ROWS = 64
"""Rows that means and deviations of the features are estimated from: they are units for rounding errors, and the means
are subtracted where they are large."""

FAR_MEAN = 10.0
"""Mean of a feature, in standard deviations, from which it is subtracted: it costs about a digit of the Hessian."""

# Steps

MAX_STEPS_PER_ROUND = 50
"""Largest number of steps on one working set."""

SHORTENING = 0.3
"""Factor of a step that does not lower f enough."""

MIN_LENGTH = 1e-6
"""Length at which no shorter step is tried."""

VALUE_RTOL = 1e-13
"""Rounding error of f, relative to f."""

HALVING_DECREASE = 1e-15
"""Predicted decrease, relative to f, below which steps go on only while each of them halves it."""

# Hessians

REUSE_CONTRACTION = 0.1
"""Ratio of two successive predicted decreases below which the Hessian serves the next step too."""

REUSE_FLOP = 2e6
"""Rows times the square of the coefficients, from which a Hessian is used again: below, it costs less than the rest of
a step."""

HESSIAN_ROWS_PER_COEFFICIENT = 20
"""Rows for each coefficient that a Hessian far from the optimum is estimated from."""

MIN_SAMPLE_DIVISOR = 4
"""Rows, relative to the sample of such a Hessian, from which the sample saves time."""

MIN_SAMPLE_DECREASE = 1e-2
"""Predicted decrease of the last step, relative to f, down to which Hessians come from a sample."""

HESSIAN_SPEED = 4.0
"""Multiplications of a Hessian in the time of one in a pass over all columns, at least: the pass waits for memory."""

# Stopping

TOLERANCE_FRACTION = 0.5
"""Gap on the working set, relative to the tolerance, at which all coefficients are looked at."""

GAP_FRACTION = 0.1
"""Gap on the working set, relative to that of all coefficients, at which they are looked at."""

MAX_PREDICTED_EXCESS = 0.1
"""Excess of the predicted dual point, relative to f, above which the residuals make a better one."""

MIN_PREDICTED_TOL = 1e-10
"""Tolerance from which the dual point that the model predicts is used: its excess is a sum that cancels, and known up
to the rounding error of f.  That of the residuals is 0."""

CERTIFICATE_FACTOR = 3.0
"""Estimated gap, relative to the tolerance, up to which it is computed."""

ROOM_FACTOR = 1.25
"""Room for the rounding error of a slope, relative to the bound of that error; this changes a little with the point."""

MAX_ROOM = 0.1
"""Largest room, relative to l1: with more of it the minimum would be another one."""

MAX_ROOM_COST = 0.25
"""Largest cost of that room, relative to the rounding of the gap without it."""

MAX_FAILURES = 6
"""Certificates that may fail with all coefficients in the working set; each makes the solver ten times as exact."""


def prox_newton(state: SolverState) -> PassRequests[None]:
    """Minimizes f with l1 from the point of ``state`` until it is certified to be within the tolerance.

    Each round:

    1. Steps on the working set (`WorkingSet.descend`): until the duality gap that is left on it is a fraction of the
       tolerance, or of the gap of all coefficients; or until they took as long as a pass over all columns.
    2. The slopes of all coefficients at the dual point of the last step; the duality gap from them, and where it may be
       within the tolerance its certificate.
    3. Coefficients of 0 whose slope exceeds l1 join the working set, those with the largest slopes first.  Those of 0
       whose slope is far below l1 leave it.

    It stops where the point is certified, or after `MAX_FAILURES` or `MAX_ROUNDS`.  Where a model would be too large,
    L-BFGS goes on.

    Args:
        state: State of the problem; updated in each step.
    """
    working_set = yield from working_set_of(state)
    yield from working_set.solve()


def working_set_of(state: SolverState) -> PassRequests[WorkingSet]:
    """The working set that the solver starts with: all coefficients that are not 0, or all of few features."""
    coordinates, units = yield from _coordinates(state.problem)
    state.coordinates, state.point = coordinates, state.coordinates.to(coordinates, state.point)
    working_set = WorkingSet(state, HeldRows(state.problem, coordinates), units)
    yield from working_set.start()
    return working_set


def _coordinates(problem: Problem) -> PassRequests[tuple[Coordinates, Coordinates]]:
    """The coordinates of the solver, in which no mean is large, and those in which features have about unit size."""
    if problem.is_sparse:
        return problem.model, (yield from sparse_coordinates(problem))
    sample = yield from sampled_rows(problem)
    step = max(1, len(sample.labels) // COORDINATE_ROWS)
    units = choose_coordinates(problem, chosen_rows(sample, slice(None, None, step)), every_scale=True)
    model = problem.model
    far = (units.center - model.center).abs() > FAR_MEAN * units.scale
    center = torch.where(far, units.center, model.center) if bool(far.any()) else model.center
    return Coordinates(center, model.scale), units


class _Hessian(NamedTuple):
    """The Hessian of the loss by some coefficients of the working set."""

    matrices: tuple[Tensor, ...]
    """One matrix for coupled outputs, else one for each output."""
    columns: list[Tensor]
    """The columns of each output's coefficients."""
    every: int
    """It comes from one of so many rows."""

    def extended(self, block: tuple[Tensor, ...], new: list[Tensor], coupled: bool) -> _Hessian:
        """With new coefficients, given their columns of the new Hessian."""
        joined = [torch.cat(pair) for pair in zip(self.columns, new, strict=True)]
        is_new = [
            torch.arange(len(all_), device=all_.device) >= len(old)
            for all_, old in zip(joined, self.columns, strict=True)
        ]
        matrices = []
        for old, part, fresh in zip(self.matrices, block, [torch.cat(is_new)] if coupled else is_new, strict=True):
            before, now = (~fresh).nonzero()[:, 0], fresh.nonzero()[:, 0]
            matrix = part.new_empty(len(fresh), len(fresh))
            matrix[before.unsqueeze(1), before] = old
            matrix[:, now] = part
            matrix[now] = part.T
            matrices.append(matrix)
        return _Hessian(tuple(matrices), joined, self.every)


class WorkingSet:
    """The working set of a problem with l1, and the steps on it.

    Attributes:
        state: State of the problem, in the coordinates of the held rows.
        rows: The held rows; their logits are those of the state's point.
        wanted: Which coefficients are in the working set, (K, D).
        slopes: The sums of theta x over the rows for the last dual point, (K, D + 1); ``None`` before the first one.
        gap: The estimated duality gap of that dual point, in units of f.
    """

    def __init__(self, state: SolverState, rows: HeldRows, units: Coordinates) -> None:
        """``units`` are coordinates in which features have about unit size."""
        self.rows, self._units = rows, units
        self.slopes: Tensor | None = None
        coupled = state.problem.num_outputs if state.problem.coupled else 1
        self._has_all = state.problem.num_features * coupled <= MAX_COMPLETE_COEFFICIENTS
        self._column = torch.zeros_like(rows.coordinates.center, dtype=torch.long)
        """The held column of each feature, (D,); 0 where it is not held."""
        self._places = self._column.new_tensor([state.problem.num_features])
        """The column of a point that each held column belongs to, (W + 1,)."""
        self._hessian: _Hessian | None = None
        self._is_residual, self._excess = True, 0.0
        """Whether the dual point is the residuals, and its excess."""
        self._samples_rows = True
        """Whether the Hessian of the first steps may come from some of the rows."""
        self._set_problem(state)
        self.wanted = torch.full_like(self._l1[:-1], self._has_all, dtype=torch.bool) | (state.point[:, :-1] != 0)

    def _set_problem(self, state: SolverState) -> None:
        self.state, self.problem = state, state.problem
        self._l2, self._l1 = state.problem.penalties(state.coordinates)
        self.gap = self._decrease = math.inf
        self._tolerance = TOLERANCE_FRACTION * state.tolerance
        self._has_room = False
        """Whether l1 is smaller than that of the problem, see `_leaves_room`."""
        self._is_settled, self._failures = self._has_all, 0
        """Whether no coefficient was missing in the last round."""

    def start(self) -> PassRequests[None]:
        """Reads labels and columns, and computes the logits."""
        yield from request(ReadLabels(self.rows))
        yield from self._hold()
        point = self.state.point[:, self._places]
        if bool(point.any()):
            yield from request(EvaluateHeld(self.rows, point, 1.0))

    def continue_with(self, state: SolverState) -> PassRequests[None]:
        """Takes over another strength of l1, from the solution for the last one and with all that is held."""
        before, slopes = self._l1[:-1], self.slopes
        state.coordinates, state.point = self.state.coordinates, self.state.point
        self._set_problem(state)
        # By the sequential strong rule other coefficients stay 0; where that is wrong, they join later.
        self._is_settled, self._decrease = True, MIN_SAMPLE_DECREASE
        kept = state.point[:, :-1] != 0
        if slopes is not None:
            kept |= slopes[:, :-1].abs() >= 2 * self._l1[:-1] - before
        self.wanted = torch.ones_like(kept) if self._has_all else kept
        yield from self._hold()

    def solve(self) -> PassRequests[None]:
        """Minimizes f; see `prox_newton`."""
        state = self.state
        for _ in range(MAX_ROUNDS):
            if self._model_size > MAX_MODEL_PARAMETERS:
                yield from lbfgs(state)
                return
            yield from self.descend()
            self.slopes, additions = yield from request(DualSlopes(self.rows))
            if (yield from self._is_certified(self.slopes, additions)) or not (yield from self._extend()):
                break
        if not state.converged:
            yield from certified(state, None)
        if state.best is not None:
            state.point = state.best

    def _hold(self) -> PassRequests[None]:
        """Gathers the columns of the working set that are not held yet."""
        new = (self.wanted.any(0) & (self._column == 0)).nonzero()[:, 0]
        if len(new):
            yield from request(GatherColumns(self.rows, new))
            self._column[new] = torch.arange(len(self._places), len(self._places) + len(new), device=new.device)
            self._places = torch.cat([self._places, new])
        first = self._column.new_zeros(int(self.problem.intercept))
        self._free = [torch.cat([first, self._column[own.nonzero()[:, 0]].sort().values]) for own in self.wanted]
        self._own_l2, self._own_l1 = self._l2[self._places], self._l1[self._places]
        sizes = [len(one) for one in self._free]
        self._model_size = sum(sizes) if self.problem.coupled else max(sizes)

    # Steps

    def descend(self) -> PassRequests[None]:
        """Takes steps on the working set, and leaves a dual point of the last one."""
        state, rows = self.state, self.rows
        point, has_prediction, excess = state.point[:, self._places], False, 0.0
        penalty, work = self._penalty(point), 0.0
        for _ in range(MAX_STEPS_PER_ROUND if self._model_size else 0):
            found, is_new = yield from self._differentiate()
            assert self._hessian is not None
            of_hessian = self._model_size / (HESSIAN_SPEED * self._hessian.every) if is_new else 0.0
            work += self._model_size * (1 + of_hessian)
            value = found.loss + penalty
            target, decrease = self._model_minimum(found, point)
            last, state.predicted_decrease = self._decrease, decrease / max(value, 1e-300)
            if not state.predicted_decrease > (0 if last > HALVING_DECREASE else last / 2):
                if is_new:
                    break
                self._hessian = None
                continue
            has_prediction = self._hessian.every == 1 and self._tolerance > MIN_PREDICTED_TOL
            length, new, new_penalty = 1.0, target, self._penalty(target)
            trial = yield from request(TryStep(rows, target - point, 1.0, has_prediction))
            while not trial.loss + new_penalty <= value * (1 + VALUE_RTOL) - ARMIJO_CONSTANT * length * decrease:
                length, has_prediction = SHORTENING * length, False
                if length < MIN_LENGTH:
                    break
                new = point + length * (target - point)
                new_penalty = self._penalty(new)
                trial = yield from request(TryStep(rows, None, length, False))
            if length < MIN_LENGTH:
                if self._hessian is None or self._hessian.every == 1:
                    break
                # Some rows show nothing of a feature that is not 0 in few others.
                self._samples_rows, self._hessian = False, None
                continue
            rows.move(length)
            point, penalty, excess = new, new_penalty, trial.excess
            state.value, self._decrease = trial.loss + penalty, state.predicted_decrease
            contraction = self._decrease / last
            is_large = self.problem.rows * self._model_size**2 > REUSE_FLOP
            if not (has_prediction and is_large and contraction < REUSE_CONTRACTION):
                self._hessian = None
            enough = self._tolerance * state.value
            if has_prediction and excess <= (enough if self._is_settled else max(enough, GAP_FRACTION * self.gap)):
                break
            if not self._is_settled and work >= self.problem.num_features * self.problem.num_outputs:
                has_prediction = has_prediction and excess <= MAX_PREDICTED_EXCESS * state.value
                break
        else:
            has_prediction = False
        if self._model_size:
            state.point = state.point.index_copy(1, self._places, point)
        yield from self._balance(has_prediction, excess)

    def _penalty(self, point: Tensor) -> float:
        """The penalties of a point of the held columns, (K, W + 1)."""
        penalty = point.abs() @ self._own_l1
        return float((penalty + point.square() @ self._own_l2 / 2 if self.problem.objective.l2 else penalty).sum())

    def _differentiate(self) -> PassRequests[tuple[LocalModel, bool]]:
        """The derivatives at the logits, with the Hessian where it is not known; and whether it was computed."""
        rows, problem, known = self.rows, self.problem, self._hessian
        if known is not None:
            new = [self._not_among(other, one) for one, other in zip(self._free, known.columns, strict=True)]
            if not any(len(one) for one in new):
                return (yield from request(DifferentiateHeld(rows))), False
            if known.every == 1:  # one of fewer rows stores no curvatures that more columns could use
                joined = [torch.cat(pair) for pair in zip(known.columns, new, strict=True)]
                found = yield from request(DifferentiateHeld(rows, joined, new, 1, False))
                self._hessian = known.extended(found.hessian, new, problem.coupled)
                return found, False
        every = problem.rows // (HESSIAN_ROWS_PER_COEFFICIENT * self._model_size)
        # With a Hessian of all rows, the excess of a step's prediction is at most about the cube of twice the decrease
        # before.  Where that is within the tolerance, the step may be the last one.
        is_far = self._decrease > MIN_SAMPLE_DECREASE and (2 * self._decrease) ** 3 > self.state.tolerance
        every = every if self._samples_rows and every >= MIN_SAMPLE_DIVISOR and is_far else 1
        found = yield from request(DifferentiateHeld(rows, self._free, self._free, every))
        self._hessian = _Hessian(found.hessian, self._free, every)
        return found, True

    def _not_among(self, columns: Tensor, some: Tensor) -> Tensor:
        """Those of ``some`` held columns that are not among ``columns``; `torch.isin` would sort them."""
        is_new = torch.ones_like(self._places, dtype=torch.bool).index_fill_(0, columns, False)
        return some[is_new[some]]

    def _model_minimum(self, found: LocalModel, point: Tensor) -> tuple[Tensor, float]:
        """The minimum of the quadratic model with the penalty, (K, W + 1), and by how much the model is lower there."""
        known, l2 = self._hessian, self._own_l2
        assert known is not None
        gradient = found.gradient + l2 * point if self.problem.objective.l2 else found.gradient
        return minimize_penalized_model(self.problem, known.matrices, known.columns, gradient, point, l2, self._own_l1)

    # The dual point

    def _balance(self, has_prediction: bool, excess: float) -> PassRequests[None]:
        """Takes the dual point that the last step predicts, or else the residuals; its sums over the rows become 0."""
        rows, intercept = self.rows, self.problem.intercept
        self._is_residual, self._excess = not has_prediction, excess if has_prediction else 0.0
        if has_prediction and not intercept:
            return
        rows.spread = rows.curvature if has_prediction else torch.empty_like(rows.curvature)
        sums, curvature = yield from request(SumTheta(rows, not has_prediction))
        if intercept:
            shift = intercept_step(self.problem, sums, InterceptCurvature.of_matrix(self.problem, curvature))
            rows.shift_theta(shift)
            # Chi squared of the move, which is at least its excess: within it the conjugate is nearly quadratic.
            self._excess += max(float(shift @ curvature @ shift), 0.0)

    def _is_certified(self, slopes: Tensor, additions: float) -> PassRequests[bool]:
        """Estimates the gap, and computes it where it may be within the tolerance; returns whether it is."""
        state, problem, rows, point = self.state, self.problem, self.rows, self.state.point
        penalty = self._penalty(point[:, self._places])
        value, enough = state.value, CERTIFICATE_FACTOR * state.tolerance * abs(state.value)
        self._ratios = slopes[:, :-1].abs() / self._l1[:-1]
        largest = 1.0 if problem.objective.l2 else max(float(self._ratios.max()), 1.0)
        if value == math.inf and largest > 1:
            return False
        if value < math.inf and not self._failures:
            # Dividing the dual point by the largest ratio costs about a part of the loss.
            self.gap = self._excess + (1 - 1 / largest) ** 2 * (value - penalty)
            if self.gap <= enough:
                self.gap = self._excess + expected_gap(state, slopes + self._l2 * point, value - penalty)
            state.gap = self.gap = min(self.gap, value)
            if self.gap > enough:
                return False
        scale = feasible_scale(problem, state.coordinates, slopes)
        held = yield from request(EvaluateHeld(rows, point[:, self._places], scale))
        total = problem.row_sum_scale * problem.total_weight
        if held.loss <= SATURATED_LOSS * total:
            return (yield from certified(state, None))
        excess, noise = held.excess, held.noise
        if self._is_residual and scale == 1:
            excess, noise = self._excess, 8 * UNIT_ROUNDOFF * total * problem.num_outputs
        state.value = held.loss + penalty_at(point, *problem.penalties(state.coordinates))
        gradient = state.coordinates.gradient_to(self._units, slopes + self._l2 * point)
        sums = state.coordinates.gradient_to(self._units, slopes)

        def scaled(factor: float) -> PassRequests[tuple[Tensor, float, float]]:
            other = yield from request(EvaluateHeld(rows, None, factor))
            return sums * factor, other.excess, other.noise

        curvature = InterceptCurvature.of_matrix(problem, held.curvature)
        additions = max(additions, held.additions)
        now = Derivatives(state.value, gradient, curvature, held.loss, additions=additions)
        at = evaluated_point(problem, self._units, state.coordinates.to(self._units, point), now)
        theta = DualPoint(sums * scale, scale, excess, noise, scaled)
        found = yield from bound_at_dual_point(at, state.coordinates, theta)
        most = state.tolerance * abs(found.value)
        is_rounded = found.rounding > most / 2 and found.gap + found.rounding > most
        if is_rounded and within(found, state.tolerance):
            yield from certified(state, None)  # with the true sizes of the features rounding may be less
            assert state.bound is not None
            found = state.bound
            is_rounded = found.gap + found.rounding > most
        if is_rounded and self._leaves_room(at, theta, found.rounding):
            return False
        keep_bound(state, found)
        self.gap = state.gap
        return state.converged

    def _leaves_room(self, at: EvaluatedPoint, theta: DualPoint, rounding: float) -> bool:
        """Whether the steps go on with slightly smaller strengths of l1, to whose dual point rounding may be added.

        Where features differ in size by many orders of magnitude, the slopes of the largest ones have errors that are
        large against l1.  A whole dual point that is scaled down by these costs as much of the whole penalty, while a
        room in each slope costs that part of the penalty of its own coefficients, which are as small as their features
        are large.

        Args:
            at: The point.
            theta: The dual point.
            rounding: The rounding of the gap between them.
        """
        if self._has_room or self.problem.objective.l2:
            return False
        l1, sizes = at.penalties[1][:-1], at.point[:, :-1].abs().sum(0)
        room = ROOM_FACTOR * slopes_error(at, theta)[0].amax(0)
        if not float(room @ sizes) <= MAX_ROOM_COST * rounding:
            return False
        self._l1 = self._l1.clone()
        self._l1[:-1] *= 1 - (room / l1).clamp(max=MAX_ROOM)
        self._own_l1, self._has_room = self._l1[self._places], True
        return True

    def _extend(self) -> PassRequests[bool]:
        """Chooses the next working set; returns False to give up."""
        ratios, is_nonzero = self._ratios, self.state.point[:, :-1] != 0
        # A shift of all outputs of a softmax may have moved a coefficient from 0 that is not in the working set.
        outside = torch.where(self.wanted, 0.0, torch.where(is_nonzero, math.inf, ratios))
        if not bool((outside > 1).any()):
            if self._is_settled:
                self._failures += 1
                self._tolerance /= 10
            self._is_settled = True
            return self._failures < MAX_FAILURES
        self._is_settled = False
        rows = self.problem.rows
        most = min(max(NEW_COEFFICIENTS, rows // ROWS_PER_NEW_COEFFICIENT), max(rows // 2, MIN_NEW_COEFFICIENTS))
        new = outside.flatten().topk(min(int((outside > NEAR_RATIO).sum()), most)).indices
        kept = is_nonzero | (self.wanted & (ratios > NEAR_RATIO))
        self.wanted = kept.flatten().index_fill(0, new, True).view_as(kept)
        yield from self._hold()
        return True
