"""The certificate of a fit: the distance of the model from the optimum of its objective, in numbers and words.

A fit is called optimal if (f - f*) / f <= tolerance is proven by an upper bound of f - f* that is computed in float64
over all train rows, with its rounding errors (`logreg.solvers.bounds.bound`).  Where a bound is loose, the objective
is minimized further from the same point by an exact optimizer: with its result f_better and its own bound,

    f - f*  <=  (f - f_better)  +  (bound of f_better - f*).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from logreg.errors import name_list
from logreg.facts import DataFacts
from logreg.losses.objective import Objective
from logreg.rows import RowSource
from logreg.solvers.bounds.base import Bound
from logreg.solvers.fit import bound_of
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import run_pass
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import SolverState
from logreg.solvers.threads import threads_for
from logreg.stored_form import StoredForm, check_scale

MAX_NAMED = 3
"""Features, columns or classes that a sentence names; further ones are counted, so that it stays on a line."""

LOOSE_RELATIVE_GAP = 0.01
"""Relative gap above which an exact optimizer improves the bound of a finished fit."""

IMPROVING_PASSES = 25
"""Passes that the exact optimizer may take to improve a bound, where the fit itself took fewer and a pass is short."""

MAX_IMPROVING_WORK = 2e10
"""Rows times parameters of these passes together, above which they would take longer than some seconds."""

MIN_IMPROVING_PASSES = 10
"""Passes below which the exact optimizer does not begin, since it would hardly improve a bound."""


class Advice(NamedTuple):
    """What a certificate advises, in the words of its reader: by default of the commands."""

    penalize: str = "set l2"
    go_on: str = "train longer"
    go_on_otherwise: str = "train longer, or use optimizer=newton"
    standardize: str = "set dataset.standardize=true"


@dataclass(frozen=True)
class Certificate:
    """Distance of a model from the optimum of its objective, in float64 over the whole train split.

    Attributes:
        objective: The objective f, in words.
        value: f, in nats.
        gap: f - f* is at most this plus ``rounding``, in nats; an estimate of f - f* where not ``rigorous``.
        rigorous: Whether the gap is a bound; else it is half the Newton decrement.
        max_abs_gradient: Largest absolute derivative of f by a coefficient of the features as the model reads them, or
            by an intercept.
        tolerance: The relative gap up to which the model counts as optimal.
        rows: Number of train rows.
        dtype: Floating type of the arithmetic of the fit.
        passes: Passes over the train rows so far.
        seconds: Seconds of the fit so far.
        separation: Reason why there is no finite optimum; empty where none is known.
        rounding: Upper bound, in nats, of what rounding may add to the gap.
        dependent: Names of features that are linearly dependent to within rounding, where they prevent a bound.
        draws_anew: Whether each epoch changes the train images at random (``dataset.augment``), while f is the
            objective over the rows as they are; the mean over all draws, which is minimized, has no certificate.
        is_convex: Whether the loss is convex; else no point is known to be the optimum.
        decrement: Of a loss that is not convex: see `Bound.decrement`.
        starts: Number of starts, of whose ends this is the lowest.
    """

    objective: str
    value: float
    gap: float
    rigorous: bool
    max_abs_gradient: float
    tolerance: float
    rows: int
    dtype: str
    passes: int
    seconds: float
    separation: str = ""
    rounding: float = 0.0
    dependent: tuple[str, ...] = ()
    draws_anew: bool = False
    is_convex: bool = True
    decrement: float | None = None
    starts: int = 1

    advice: ClassVar[Advice] = Advice()
    """What to do where the model is not optimal."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """The certificate that `as_dict` made plain values of."""
        # Earlier versions had not all of them.
        own = {field.name: plain[field.name] for field in dataclasses.fields(cls) if field.name in plain}
        return cls(**own | {"dependent": tuple(plain["dependent"])})

    @classmethod
    def of_bound(
        cls,
        bound: Bound,
        objective: Objective,
        feature_names: Sequence[str],
        weighted: bool,
        intercept: bool,
        offset: str,
        dtype: torch.dtype,
        **others: Any,
    ) -> Self:
        """The certificate that a bound gives the point of a fit.

        Args:
            bound: The bound at that point.
            objective: The objective; how it is put in words, see `objective_in_words`.
            feature_names: The names of all features, or empty.
            weighted: Whether rows have weights.
            intercept: Whether there is an intercept.
            offset: Name of the offset; empty without one.
            dtype: Floating type of the arithmetic of the fit.
            others: The attributes that are not of the bound or the objective.
        """
        return cls(
            objective=objective_in_words(objective, len(bound.gradient), weighted, intercept, offset),
            value=bound.value,
            gap=bound.gap,
            rigorous=bound.rigorous,
            max_abs_gradient=float(bound.gradient.abs().max()),
            dtype=str(dtype).removeprefix("torch."),
            rounding=bound.rounding,
            dependent=names_of(bound.dependent, feature_names),
            is_convex=objective.row_loss.is_convex,
            decrement=bound.decrement,
            starts=bound.starts,
            **others,
        )

    @property
    def relative_gap(self) -> float:
        """The gap plus the rounding, relative to f."""
        return (self.gap + self.rounding) / abs(self.value) if self.value else 0.0

    @property
    def converged(self) -> bool:
        """Whether the relative gap is known to be within the tolerance."""
        is_known = self.rigorous and not self.separation and not self.draws_anew
        return is_known and self.relative_gap <= self.tolerance

    @property
    def is_stationary(self) -> bool:
        """Whether the point is stationary to within the tolerance, where the loss is not convex."""
        if self.is_convex or self.separation:
            return False
        return is_stationary(self.decrement, self.value, self.tolerance, self.max_abs_gradient)

    @property
    def verdict(self) -> str:
        """The certificate in one sentence, with what to do where the model is not optimal."""
        if self.separation:
            return self.separation
        if self.draws_anew:
            known = f"{self.gap:.2g} nats above the optimum {'at most' if self.rigorous else 'by estimate'}"
            if self.rigorous and (self.dependent or self.gap >= self.value):
                known = "at an unknown distance from the optimum"
            return (
                "no certificate: each epoch draws other changes of the train images, so no fixed objective is "
                f"minimized (dataset.copies=1 fixes them); on the rows as they are the model is {known}"
            )
        if not self.is_convex:
            words = stationarity_in_words(
                self.decrement, self.value, self.tolerance, self.max_abs_gradient, self.starts
            )
            return words if self.is_stationary else f"{words}; {self.advice.go_on_otherwise}"
        if self.converged:
            return f"optimal to {self.relative_gap:.1g}"
        if self.dependent:
            known = f"{self.gap:.2g} nats above the optimum by estimate"
            if self.rigorous:
                known = "at an unknown distance from the optimum"
            elif self.relative_gap <= self.tolerance:
                known = f"optimal to {self.relative_gap:.1g} by estimate"
            return f"{known}: {dependence_in_words(self.dependent, self.advice.penalize)}"
        if self.gap <= self.tolerance * abs(self.value) and self.rigorous:
            return (
                f"{self.rounding:.2g} nats above the optimum at most, by rounding alone: "
                f"subtract an offset from the features, or {self.advice.standardize}"
            )
        if self.relative_gap <= self.tolerance and not self.rigorous:
            return f"optimal to {self.relative_gap:.1g} by estimate: for a proof, {self.advice.penalize}"
        most = "at most" if self.rigorous else "by estimate"
        if self.rigorous and self.gap >= self.value:
            penalize = f"{self.advice.penalize}, or " if "no penalty" in self.objective else ""
            return f"no useful bound yet: the optimum may be as low as 0; {penalize}{self.advice.go_on}"
        return f"{self.gap:.2g} nats above the optimum {most}: {self.advice.go_on_otherwise}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for summary.json and the checkpoint; ``draws_anew`` only where it is true."""
        plain = dataclasses.asdict(self)
        if not self.draws_anew:
            del plain["draws_anew"]
        return plain | {
            "dependent": list(self.dependent),
            "relative_gap": self.relative_gap,
            "converged": self.converged,
            "is_stationary": self.is_stationary,
            "verdict": self.verdict,
        }


def is_stationary(decrement: float | None, value: float, tolerance: float, max_abs_gradient: float) -> bool:
    """Whether half the squared Newton decrement, or else the largest derivative, is small against f.

    The arguments are those of `stationarity_in_words`.
    """
    return (max_abs_gradient if decrement is None else decrement) <= tolerance * abs(value)


def stationarity_in_words(
    decrement: float | None, value: float, tolerance: float, max_abs_gradient: float, starts: int = 1
) -> str:
    """What is known of a point where the loss is not convex.

    Args:
        decrement: See `Bound.decrement`.
        value: f.
        tolerance: Relative gap that counts as small.
        max_abs_gradient: Largest absolute derivative.
        starts: Number of starts, of whose ends this is the lowest.
    """
    lowest = f", the lowest of {starts} starts" if starts > 1 else ""
    beyond = "the loss is not convex, so another point may be lower"
    if is_stationary(decrement, value, tolerance, max_abs_gradient):
        what = "" if decrement is None else f", a local minimum to {decrement:.1g} nats"
        return f"stationary point{what}{lowest}: {beyond}"
    if decrement is None:
        return f"not yet a stationary point, where max |gradient| is 0 and not {max_abs_gradient:.1g}"
    if math.isinf(decrement):
        return f"no stationary point that is a minimum: the Hessian has a negative eigenvalue{lowest}"
    return f"not yet a stationary point: about {decrement:.2g} nats above a local minimum{lowest}"


def names_of(positions: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    """The names of the features at these positions; "feature 3" where the features have no names.

    Args:
        positions: Positions of features, from 0.
        names: The names of all features, or empty.
    """
    return tuple(names[position] if names else f"feature {position}" for position in positions)


def dependence_in_words(dependent: Sequence[str], penalize: str = Advice().penalize) -> str:
    """The sentence on features that are linearly dependent to within rounding, with what to do."""
    names = name_list(map(repr, dependent), MAX_NAMED, ("feature", "features"), last=" and ")
    return f"{names} are linearly dependent to within rounding, so no bound holds; drop one, or {penalize}"


def train_problem(
    objective: Objective,
    facts: DataFacts,
    num_outputs: int,
    dtype: torch.dtype,
    device: torch.device,
    intercept: bool = True,
) -> Problem:
    """The problem that a model solves on the train split of its data.

    Args:
        objective: The objective to minimize.
        facts: The facts of the data.
        num_outputs: K.
        dtype: The floating type of the arithmetic within a block.
        device: The device of the blocks.
        intercept: Whether the model has an intercept.

    Raises:
        DataError: A feature that is not standardized is too large or too small for its coefficient to be squared.
    """
    plain = StoredForm.plain(facts.num_coef)
    center, scale = facts.standardization or (plain.shift, plain.unit)
    check_scale(scale, facts.feature_names)
    rows = facts.rows["train"]
    return Problem(
        objective,
        rows=rows,
        total_weight=rows * facts.mean_weight,
        num_outputs=num_outputs,
        model=Coordinates(center.to(device), scale.to(device)),
        class_weight=facts.class_weight,
        dtype=dtype,
        intercept=intercept,
        nonzeros=facts.nonzeros,
        largest_offset=facts.largest_offset,
    )


def bound_by_solution(
    problem: Problem,
    point: Tensor,
    rows: RowSource,
    known: Bound,
    accuracy: float,
    tolerance: float = 0.0,
    start: Tensor | None = None,
    most: float = math.inf,
) -> Bound:
    """A better bound of f - f* at a point, by an exact optimizer that minimizes f further.

    With the point f_better that the optimizer reached, f - f* is at most f - f_better plus the bound there.

    Args:
        problem: The problem of the point.
        point: Shape (K, D + 1), in the problem's model coordinates.
        rows: The train rows.
        known: The bound so far.
        accuracy: The relative error of the gap at which to end.
        tolerance: The relative gap at which the optimizer ends by itself.
        start: The start of the optimizer, (K, D + 1); ``None`` for the point.
        most: Passes at most, not counting two more for the bound.

    Returns:
        The better bound; ``known`` if the optimizer's is no better.
    """
    state, passes = SolverState(problem, point if start is None else start, tolerance), 0
    target = 0.1 * accuracy  # the gap there, relative to the decrease of f so far, at which to compute a bound
    solved: Bound | None = None
    with threads_for(4.0 * problem.rows * problem.num_parameters):
        for requested in EXACT["newton"](state):
            run_pass(rows, requested)
            passes += requested.is_full
            if state.gap <= target * (known.value - state.value):  # the optimizer's estimate
                solved = bound_of(problem, state.solution, rows)
                if solved.gap <= accuracy * (known.value - solved.value):
                    break
                target /= 10
            if passes >= most:
                solved = None
                break
        else:
            solved = state.bound
        solved = solved or bound_of(problem, state.solution, rows)
    gap = max(known.value - solved.value, 0.0) + solved.gap + solved.rounding + solved.error + known.error
    if not gap < known.gap:
        return known
    return known._replace(gap=gap, rigorous=solved.rigorous, dependent=solved.dependent)


def improving_passes(problem: Problem) -> int:
    """Passes that an exact optimizer may take to improve a bound, however short the fit was."""
    return min(IMPROVING_PASSES, int(MAX_IMPROVING_WORK / max(problem.rows * problem.num_parameters, 1)))


def objective_in_words(
    objective: Objective, num_outputs: int, weighted: bool, intercept: bool = True, offset: str = ""
) -> str:
    """The objective in words, such as "mean binary cross-entropy + 0.001/2 |coef|^2, intercept free".

    Args:
        objective: The objective.
        num_outputs: K.
        weighted: Whether rows have weights.
        intercept: Whether there is an intercept.
        offset: Name of the offset; empty without one.
    """
    loss = objective.row_loss.described(num_outputs)
    words = f"{'weighted ' if weighted else ''}{objective.reduction} {loss}"
    if objective.l2:
        words += f" + {objective.l2:g}/2 |coef|^2"
    if objective.l1:
        words += f" + {objective.l1:g} |coef|_1"
    words += ", intercept free" if objective.has_penalty else ", no penalty"
    words = words if intercept else words.replace(", intercept free", "") + ", no intercept"
    return f"{words}, offset {offset}" if offset else words
