"""The certificate of coefficients, of this program or another: its values, its verdict in words, and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from logreg.optimality.certificate import dependence_in_words, stationarity_in_words
from logreg.optimality.implied_penalty import SAME_STRENGTH_TOLERANCE, ImpliedPenalty, likely_cause, rounded
from logreg.solvers.problem import Problem
from logreg.terminal import on_one_line

MAX_CLASSES = 10
"""Largest number of classes named in the table."""


@dataclass(frozen=True)
class CoefficientCertificate:
    """Distance of coefficients from the optimum of a stated problem; plain values.

    Attributes:
        coefficients: The file that they come from.
        data: The dataset.
        objective: The minimized function in words.
        features: The features whose coefficients are penalized, "raw" or "standardized".
        stated: The penalty as typed; empty where the penalty is that of the run.
        classes: Names of the classes, in the order of the rows of the coefficients.
        rows: Number of rows of the objective, which are those of train.
        left_out: Number of rows of each other split.
        value: f, in nats, of which ``loss`` is the data term.
        gap: Upper bound on f - f* in nats, rounding errors included; an estimate where not ``rigorous``.
        relative_gap: gap / value.
        optimum: value - gap, where the problem was solved to compute the gap; else ``None``.
        max_abs_gradient: Largest derivative of f by a coefficient; ``max_abs_gradient_intercept`` by an intercept.
        optimal: Whether the relative gap is known to be within the tolerance.
        verdict: The result in words.
        nearest: Another penalty whose problem the coefficients solve; ``None`` where none was found.
        notes: Sentences on the data.
        dependent: Names of features that depend on each other to within rounding, where no bound holds for that reason.
    """

    coefficients: str
    data: str
    objective: str
    features: str
    stated: str
    classes: Sequence[str]
    rows: int
    left_out: Mapping[str, int]
    value: float
    loss: float
    gap: float
    relative_gap: float
    rigorous: bool
    optimum: float | None
    max_abs_gradient: float
    max_abs_gradient_intercept: float
    optimal: bool
    verdict: str
    nearest: ImpliedPenalty | None
    notes: Sequence[str]
    dependent: Sequence[str] = ()
    decrement: float | None = None


def verdict_in_words(
    found: CoefficientCertificate, problem: Problem, tolerance: float, separation: str, next_step: str
) -> str:
    """The verdict: optimal, not optimal with the gap, or why there is no finite optimum; and which penalty fits.

    Args:
        found: The certificate; its field ``verdict`` is not read.
        problem: The stated problem.
        tolerance: Relative gap that counts as optimal.
        separation: Reason why there is no finite optimum; empty where there is one.
        next_step: Advice for coefficients that do not solve the problem with another strength of the penalty either.
    """
    if not (separation or problem.loss.is_convex):
        gradient = max(found.max_abs_gradient, found.max_abs_gradient_intercept)
        return stationarity_in_words(found.decrement, found.value, tolerance, gradient)
    if not separation and found.relative_gap <= tolerance:
        words = f"optimal to {found.relative_gap:.1g}" + ("" if found.rigorous else " by estimate")
        return f"{words}: {dependence_in_words(found.dependent)}" if found.dependent and not found.optimal else words
    words = separation
    if not words:
        bound = "at most" if found.rigorous else "by estimate"
        words = f"not optimal: {found.gap:.3g} nats above the optimum {bound}"
        if found.optimum:
            words += f", {100 * found.gap / found.optimum:.3g} %"
        if found.dependent and not found.rigorous:
            words += f"; {dependence_in_words(found.dependent)}"
    if found.nearest is not None:
        return f"{words}. The coefficients solve {_penalty_in_words(found.nearest, problem, found.features)}"
    return words if separation else f"{words}. {next_step}"


def _penalty_in_words(implied: ImpliedPenalty, problem: Problem, features: str) -> str:
    """The penalty whose problem coefficients solve, beside the stated one on ``features``."""

    def digits(strength: float) -> str:
        return rounded(strength, implied.error)

    words = " ".join(f"{name}={digits(value)}" for name, value in (("l2", implied.l2), ("l1", implied.l1)) if value)
    if not implied.l1:
        words += f" (C={digits(1 / (implied.l2 * (1 if problem.row_sum_scale == 1 else problem.total_weight)))})"
    if implied.features != features:
        words += f" on {implied.features} features (dataset.standardize={str(features == 'raw').lower()})"
    if implied.intercept:
        words += " with the intercept penalized too"
    if problem.objective.has_penalty:
        if abs(math.log(implied.factor)) > max(SAME_STRENGTH_TOLERANCE, implied.error):
            words += f", {digits(implied.factor)} times the stated strength"
        if cause := likely_cause(implied, problem.total_weight):
            words += f", {cause}"
    if implied.relative_gap is None:
        return f"{words}, to {implied.residual:.1g} of the gradient"
    return f"{words}, to a relative gap of at most {implied.relative_gap:.1g}"


def certificate_table(found: CoefficientCertificate) -> str:
    """The certificate as lines of a name and its value, and the notes."""
    names = found.classes[:MAX_CLASSES]
    others = " and ".join(f"{number:,} of {split}" for split, number in found.left_out.items())
    stated = f" [{found.stated}]" if found.stated else ""
    kind = "rigorous" if found.rigorous else "an estimate"
    lines = {
        "coefficients": f"{found.coefficients}, of {found.data}",
        "objective": f"{found.objective}, on {found.features} features{stated}",
        "classes": ", ".join(names) + (f", ... {len(found.classes)}" if len(names) < len(found.classes) else ""),
        "rows": f"{found.rows:,} of train" + (f", not the {others}" if others else ""),
        "value": f"{found.value:.10g} nats, of which {found.value - found.loss:.4g} penalty",
        "gap": f"{found.gap:.3g} nats at most, {found.relative_gap:.3g} of the value; {kind}",
        "gradient": f"{found.max_abs_gradient:.3g} at most by a coefficient, "
        f"{found.max_abs_gradient_intercept:.3g} by an intercept",
        "verdict": found.verdict,
    }
    width = max(map(len, lines)) + 2
    return "\n".join(map(on_one_line, [*(f"{name:{width}}{words}" for name, words in lines.items()), *found.notes]))
