"""The exact optimizers by name, and what follows where the chosen method ends far from the optimum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from torch import Tensor

from logreg.losses import default_loss
from logreg.solvers.choose import Method, choose
from logreg.solvers.methods.lbfgs import lbfgs
from logreg.solvers.methods.newton import newton
from logreg.solvers.methods.prox_newton import prox_newton
from logreg.solvers.minimum_norm import NullSpace, move_to_minimum_norm
from logreg.solvers.passes.base import PassRequests
from logreg.solvers.state import SolverState

FAILED_RELATIVE_GAP = 1e-3
"""Relative gap at the end of a method from which its second one follows; a smaller gap is mostly one of rounding."""

STEEP_START = 3.0
"""Multiple of the optimum of the logistic loss that is one of the starts for a loss that is not convex."""

FITS_IF_NOT_CONVEX = 4
"""Fits of a loss that is not convex: from the start, of the logistic loss, and from two multiples of its optimum."""


def _newton(state: SolverState) -> PassRequests[None]:
    """The chosen method; see `_from_several_starts` and `_newton_from_here`."""
    yield from _from_several_starts(state, _newton_from_here)


def _lbfgs(state: SolverState) -> PassRequests[None]:
    """L-BFGS; see `_from_several_starts` and `_lbfgs_from_here`."""
    yield from _from_several_starts(state, _lbfgs_from_here)


EXACT: dict[str, Callable[[SolverState], PassRequests[None]]] = {"newton": _newton, "lbfgs": _lbfgs}
"""The exact optimizers by name: each is a generator of passes that moves its `SolverState` to the optimum.

Where the optimum is not unique it is the one of least norm; see `logreg.solvers.minimum_norm`.
"""


def _from_several_starts(state: SolverState, way: Callable[[SolverState], PassRequests[None]]) -> PassRequests[None]:
    """Goes one way from the point of the state; for a loss that is not convex, from several points.

    A minimum of such a loss may be a local one.  Further starts are the optimum of the logistic loss with the same
    penalty, which is convex, and `STEEP_START` times that; the state ends at the lowest point of all.
    """
    yield from way(state)
    problem = state.problem
    if problem.loss.is_convex or problem.num_outputs > 1:
        return
    convex = dataclasses.replace(problem.objective, loss=default_loss(2))
    guide = SolverState(dataclasses.replace(problem, objective=convex), problem.zeros(), state.tolerance, state.seed)
    yield from way(guide)
    found = [(state.solution, state.bound)]
    for factor in (1.0, STEEP_START):
        _restart(state, factor * guide.solution)
        yield from way(state)
        found.append((state.solution, state.bound))
    values = [math.inf if bound is None else bound.value for _, bound in found]
    solution, best = found[values.index(min(values))]
    _restart(state, solution)
    if best is not None:
        state.bound, state.best, state.value = best._replace(starts=len(found)), state.point, best.value


def _restart(state: SolverState, point: Tensor) -> None:
    """Makes a state one that begins at a point, (K, D + 1) in the model's coordinates."""
    state.point, state.coordinates, state.inverse = point, state.problem.model, None
    state.predicted_decrease, state.row_sizes, state.sample = math.inf, None, None
    state.bound = state.best = None
    state.failed_gap = math.inf


def _newton_from_here(state: SolverState) -> PassRequests[None]:
    """The chosen method, and its second one where the first has failed; ends at the optimum of least norm."""
    plan = choose(state.problem)
    null = yield from _minimize(state, plan.method)
    if plan.second is not None and _has_failed(state):
        null = yield from _minimize_otherwise(state, plan.second)
    yield from move_to_minimum_norm(state, null)


def _lbfgs_from_here(state: SolverState) -> PassRequests[None]:
    """L-BFGS; ends at the optimum of least norm."""
    yield from move_to_minimum_norm(state, (yield from lbfgs(state)))


def _minimize(state: SolverState, method: Method) -> PassRequests[NullSpace | None]:
    """Goes to the optimum by a method that requests passes; returns the directions that change no logit, if known."""
    if method is Method.LBFGS:
        return (yield from lbfgs(state))
    if method is Method.WORKING_SETS:
        yield from prox_newton(state)
        return None
    state.plain = method is Method.PLAIN_NEWTON
    return (yield from newton(state))


def _has_failed(state: SolverState) -> bool:
    """Whether a method has ended far from the optimum."""
    bound = state.bound
    return not state.converged and (bound is None or not bound.gap <= FAILED_RELATIVE_GAP * abs(bound.value))


def _minimize_otherwise(state: SolverState, method: Method) -> PassRequests[NullSpace | None]:
    """Goes on by a second method, Newton's from zero, and keeps the better of both points."""
    first, point = state.bound, state.solution
    if method is Method.PLAIN_NEWTON:
        _restart(state, state.problem.zeros())
    state.bound = state.best = None  # it is of a point in other coordinates
    null = yield from _minimize(state, method)
    if first is not None and not state.converged and (state.bound is None or first.gap < state.bound.gap):
        state.coordinates, state.point, state.bound = state.problem.model, point, first
        state.best = state.point
    return null
