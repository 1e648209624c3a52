"""Moves of a dual point until its sums over the rows are 0, as the unpenalized intercepts require, and their costs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.solvers.bounds.base import EvaluatedPoint
from logreg.solvers.bounds.intercepts import MAX_FEASIBLE_SHIFT
from logreg.solvers.passes.precise import UNIT_ROUNDOFF
from logreg.solvers.problem import Problem, column_parts

MAX_LEAST_REACH = 0.7
"""Largest fraction of its least probability by which a row is moved without a pass; with `MAX_FEASIBLE_SHIFT`, by which
rounding may move it further, it is less than 1."""

MAX_MOVE_COST = 0.3
"""Largest cost of a move by the least probabilities, relative to the duality gap without it, where the gap with it is
not enough."""


def balanced_by_least(at: EvaluatedPoint, sums: Tensor, enough: float = 0.0) -> tuple[Tensor, float, float] | None:
    """Moves the residuals of a softmax by multiples of each row's least probability, until they sum to 0 over the rows.

    It takes no pass, while a move by the derivatives of the residuals takes one.  With u the sums, m_i the least
    probability of row i and M the sum of these, row i moves by u m_i / M, whose chi squared is at most |u|^2 / M.

    Args:
        at: The point whose residuals they are.
        sums: The sums of the residuals times the features, (K, D + 1).
        enough: The relative gap below which the move may cost as much as it does.

    Returns:
        The sums after the move, its chi squared, which is at least the excess, and its `DualPoint.reach`; ``None``
        where it is not feasible, or costs more than `MAX_MOVE_COST` and leaves a gap that is not enough.
    """
    problem, least, l2 = at.problem, at.evaluation.of_least, at.problem.objective.l2
    if least is None or not l2 or not problem.intercept:
        return None
    off, total, reach = sums[:, -1] - sums[:, -1].mean(), float(least[-1]), least_reach(sums[:, -1], least)
    if not reach <= MAX_LEAST_REACH:
        return None
    cost, moved = float(off.square().sum()) / total, torch.addr(sums, off, least / total, alpha=-1.0)
    ratio = at.coordinates.scale / problem.model.scale

    def gap_of(sums: Tensor) -> float:
        coef, strength, squares = at.point[:, :-1], at.penalties[0], 0.0
        for some in column_parts(coef.shape):
            slopes = torch.addcmul(sums[:, some], strength[some], coef[:, some])
            squares += float((slopes * ratio[some]).square_().sum())
        return squares / (2 * l2)

    if cost > MAX_MOVE_COST * gap_of(sums) and not cost + gap_of(moved) <= enough * at.evaluation.value:
        return None
    return moved, cost, reach


def least_reach(sums: Tensor, of_least: Tensor) -> float:
    """The `DualPoint.reach` of `balanced_by_least`: the part of its least probability by which a row is moved.

    Args:
        sums: The sums of the residuals over the rows, (K,).
        of_least: `Derivatives.of_least`.
    """
    size, total = float((sums - sums.mean()).abs().max()), float(of_least[-1])
    return size / total if total > 0 else math.inf


def cost_of_balance(
    at: EvaluatedPoint, sums: Tensor, distance: float, hub: int | None, with_hub: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The cost of moving a dual point until its sums over the rows, (K,), known up to rounding, are exactly zero.

    A move that is spread over the rows in proportion to their curvatures costs its chi squared.  A softmax moves the
    sum of each class to one class, the hub, in proportion to the product p_ik p_ih of their probabilities: moves of
    u_k in all then cost at most sum_k u_k^2 / sum_i s_i p_ik p_ih.  Where such a move is not feasible, since curvatures
    are too small, the move is made at rows with curvature; it costs at most the largest slope of the conjugate.

    Args:
        at: The primal point.
        sums: The sums of theta over the rows.
        distance: As of `sums_error`.
        hub: The hub; ``None`` for the best one, where the joint curvature is kept.
        with_hub: `DualSums.with_hub` of the hub; ``None`` where it is not known.

    Returns:
        The cost for each output, (K,), and by how much the sums of theta x change at most, (K, D).
    """
    problem, curvature = at.problem, at.evaluation.curvature
    reach, largest = at.squares[:-1].sqrt(), at.largest[:-1]
    if not problem.intercept:
        return torch.zeros_like(sums), torch.zeros_like(at.point[:, :-1])
    off = sums.abs() * (1 + UNIT_ROUNDOFF) + sums_error(at, distance)
    far = problem.loss.conjugate_slope(float(at.reach.max()))
    if not problem.coupled:
        conductance = curvature.own
    elif with_hub is not None:
        conductance = with_hub * (1 - at.accumulated)
    elif curvature.joint is None:
        hub, conductance = int(curvature.own.argmax()), torch.zeros_like(off)
    else:
        conductance = -curvature.joint * (1 - at.accumulated)
        costs, _ = _costs_of_moves(problem, off, conductance, far)
        hub = int(costs.fill_diagonal_(0.0).sum(1).argmin())
        conductance = conductance[hub]
    if hub is not None:
        off[hub] = 0.0
    costs, feasible = _costs_of_moves(problem, off, conductance, far)
    moves = torch.outer(torch.where(feasible, costs.sqrt(), 0.0), reach).addr_(off.masked_fill(feasible, 0.0), largest)
    if hub is not None:
        moves[hub] = costs[feasible].sum().sqrt() * reach + off[~feasible].sum() * largest
    return costs, moves


def sums_error(at: EvaluatedPoint, distance: float) -> Tensor:
    """Upper bound of the rounding error of each output's sum of theta over the rows, (K,).

    ``distance`` is an upper bound of the sum over the rows of the distances of an output's theta from its residuals.
    """
    problem, evaluation = at.problem, at.evaluation
    sizes = problem.loss.residual_bound(evaluation.loss, at.total)
    own = 2 * MAX_FEASIBLE_SHIFT * evaluation.curvature.own
    if problem.coupled:  # residuals p - y are at most p + y, and the sum of y is that of p less the gradient
        of_classes = 2 * evaluation.curvature.mass + evaluation.gradient[:, -1].abs()
        return at.accumulated * (of_classes.clamp(max=sizes) + own + distance)
    return at.accumulated * (sizes + own + distance)


def _costs_of_moves(problem: Problem, off: Tensor, conductance: Tensor, far: float) -> tuple[Tensor, Tensor]:
    """The costs of moves of ``off`` (K,), and whether each is feasible in proportion to the curvatures of the rows.

    Args:
        problem: The problem.
        off: Size of each move.
        conductance: Sums of the curvatures over the rows, (..., K).
        far: The largest slope of the conjugate.
    """
    feasible = (off * problem.loss.self_concordance <= MAX_FEASIBLE_SHIFT * conductance) & (conductance > 0)
    return torch.where(feasible, off * (off / conductance), far * off), feasible
