"""Whether a model is at its optimum: the certificate of a fit, in numbers and in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logreg.errors import name_list
from logreg.facts import DataFacts
from logreg.losses.objective import Objective
from logreg.rows import RowSource
from logreg.solvers.bounds import Bound, forms_hessian
from logreg.solvers.fit import EXACT, bound_of, choose
from logreg.solvers.passes.base import run_pass
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import SolverState
from logreg.solvers.threads import threads_for
from logreg.stored_form import StoredForm, check_scale

FULL = 1e-9
"""Relative gap below which no better bound is looked for."""

VAGUE = 0.01
"""Relative gap above which it is worth passes to know it better."""

LEAST_PASSES = 25
"""Passes that may be spent on that where a fit took fewer itself."""

MOST_NAMES = 3
"""Features that a sentence names."""


@dataclass(frozen=True)
class Certificate:
    """How far a model is from the optimum of its own objective, in float64 over the whole train split.

    Attributes:
        objective: What is minimized, in words.
        value: f, in nats.
        gap: f - f* is at most this and ``rounding``, in nats; where not ``rigorous``, about this.
        rigorous: Whether the gap is a bound; else it is half the Newton decrement.
        max_abs_gradient: Largest slope of f by a coefficient of the features as the model reads them, or an intercept.
        tolerance: Relative gap that counts as optimal.
        rows: Train rows.
        dtype: Of the arithmetic of the fit.
        passes: Over the train rows, so far.
        seconds: Of the fit, so far.
        separation: Why there is no finite optimum, where that is known; else empty.
        rounding: By how much f may differ, in nats, from that of the same parameters in exact arithmetic.
        dependent: Names of features that depend on each other to within rounding, where that spoils the bound.
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

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Certificate:
        """Of what `as_dict` gave."""
        own = {field.name: plain[field.name] for field in dataclasses.fields(cls)}
        return cls(**own | {"dependent": tuple(plain["dependent"])})

    @property
    def relative_gap(self) -> float:
        """The gap, with the rounding, relative to f."""
        return (self.gap + self.rounding) / abs(self.value) if self.value else 0.0

    @property
    def converged(self) -> bool:
        """Whether the relative gap is known to be within the tolerance."""
        return self.rigorous and not self.separation and self.relative_gap <= self.tolerance

    @property
    def verdict(self) -> str:
        """All of it in one sentence."""
        if self.separation:
            return self.separation
        if self.converged:
            return f"optimal to {self.relative_gap:.1g}"
        if self.dependent:
            known = f"{self.gap:.2g} nats above the optimum by estimate"
            if self.rigorous:
                known = "at an unknown distance from the optimum"
            elif self.relative_gap <= self.tolerance:
                known = f"optimal to {self.relative_gap:.1g} by estimate"
            return f"{known}: {depend_in_words(self.dependent)}"
        if self.gap <= self.tolerance * abs(self.value) and self.rigorous:
            return (
                f"{self.rounding:.2g} nats above the optimum at most, by rounding alone: "
                "subtract an offset from the features, or set dataset.standardize=true"
            )
        most = "at most" if self.rigorous else "by estimate"
        if self.rigorous and self.gap >= self.value:
            advice = "set l2, or train longer" if "no penalty" in self.objective else "train longer"
            return f"far from the optimum, which may be anything down to 0: {advice}"
        return f"{self.gap:.2g} nats above the optimum {most}: train longer, or use optimizer=newton"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for summary.json and the checkpoint."""
        return dataclasses.asdict(self) | {
            "dependent": list(self.dependent),
            "relative_gap": self.relative_gap,
            "converged": self.converged,
            "verdict": self.verdict,
        }


def names_of(places: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    """Those of features by their places; ``names`` of all features, or none."""
    return tuple(names[place] if names else f"feature {place}" for place in places)


def depend_in_words(dependent: Sequence[str]) -> str:
    """What is wrong with features that depend on each other to within rounding, and what to do."""
    return f"{in_words(dependent)} depend on each other to within rounding, so no bound holds; drop one, or set l2"


def in_words(names: Sequence[str]) -> str:
    """Such as "'height' and 'width'", or the first of many."""
    return name_list(map(repr, names), MOST_NAMES, ("feature", "features"), last=" and ")


def problem_of(
    objective: Objective,
    facts: DataFacts,
    num_outputs: int,
    dtype: torch.dtype,
    device: torch.device,
    intercept: bool = True,
) -> Problem:
    """The problem that a model of these facts solves on its train split.

    Args:
        objective: What is minimized.
        facts: Of the data.
        num_outputs: K.
        dtype: Of the arithmetic within a block.
        device: Where the blocks are.
        intercept: Whether there is one.
    """
    plain = StoredForm.plain(facts.num_features)
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
    """A better bound of f - f* at a point, by an exact optimizer that goes on from there to where f is lower.

    Args:
        problem: Of the point.
        point: Shape (K, D + 1).
        rows: The train rows.
        known: The bound so far.
        accuracy: Relative error of the gap at which to end.
        tolerance: Relative gap at which the optimizer ends by itself.
        start: Where it starts instead.
        most: Passes at most, two more for the bound not counted.
    """
    progress, near, passes = SolverState(problem, point if start is None else start, tolerance), 0.1 * accuracy, 0
    solved: Bound | None = None
    with threads_for(4.0 * problem.rows * problem.num_parameters):
        for question in EXACT[choose(problem)[0]](progress):
            run_pass(rows, question)
            passes += not question.done
            if progress.gap <= near * (known.value - progress.value):  # as the optimizer sees it
                solved = bound_of(problem, progress.solution, rows)
                if solved.gap <= accuracy * (known.value - solved.value):
                    break
                near /= 10
            if passes >= most:
                solved = None
                break
        else:
            solved = progress.bound
        solved = solved or bound_of(problem, progress.solution, rows)
    gap = max(known.value - solved.value, 0.0) + solved.gap + solved.rounding + solved.error + known.error
    if not gap < known.gap:
        return known
    return known._replace(gap=gap, rigorous=solved.rigorous, dependent=solved.dependent)


def is_penalized(objective: Objective) -> bool:
    """Whether a finite optimum exists whatever the data."""
    return objective.l2 > 0 or objective.l1 > 0


def is_small(problem: Problem) -> bool:
    """Whether the best bound costs no more than a few passes."""
    return forms_hessian(problem)


def objective_in_words(objective: Objective, num_outputs: int, weighted: bool, intercept: bool = True) -> str:
    """Such as "mean binary cross-entropy + 0.001/2 |coef|^2, intercept free"."""
    loss = objective.row_loss.described(num_outputs)
    words = f"{'weighted ' if weighted else ''}{objective.reduction} {loss}"
    if objective.l2:
        words += f" + {objective.l2:g}/2 |coef|^2"
    if objective.l1:
        words += f" + {objective.l1:g} |coef|_1"
    words += ", intercept free" if is_penalized(objective) else ", no penalty"
    return words if intercept else words.replace(", intercept free", "") + ", no intercept"
