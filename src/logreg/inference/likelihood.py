"""The log-likelihood of the rows as a function of a design's parameters, and its maximum in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from logreg.errors import DataError
from logreg.inference.design import Design
from logreg.losses.objective import Objective
from logreg.rows import RowSource
from logreg.solvers.kernels import gram_of_columns
from logreg.solvers.passes.base import PreparedRows, drive, request
from logreg.solvers.passes.evaluate import Derivatives, Evaluate
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.threads import threads_for

STEP_TOLERANCE = 1e-9
"""Length of a Newton step, in standard errors, after which the maximum is known.

The error is then its square, and the Hessian of the point before differs by about as much."""

ROUNDING_STEP = 1e-6
"""Length of a step, in standard errors, from which a step that does not halve is due to rounding."""

VALUE_ROUNDING = 1e-12
"""Relative rise of the negative log-likelihood that may be one of rounding."""

MIN_CURVATURE = 0.75
"""Curvature along the last step, relative to that of the point before, below which there is no maximum.

Of separated classes it falls by a factor of e with each step of Newton's method, and at a maximum it does not change.

References:
    Albert and Anderson (1984), On the existence of maximum likelihood estimates in logistic regression models.
"""


class LikelihoodPass(Evaluate):
    """Negative log-likelihood, gradient and Hessian, and the predicted probabilities of the true classes."""

    sums = (*Evaluate.sums, "chances")

    def __init__(
        self, problem: Problem, coordinates: Coordinates, point: Tensor, num_classes: int, expected: bool = False
    ) -> None:
        super().__init__(problem, coordinates, point, torch.float64, torch.float64, expected=expected)
        self.chances = self.zeros(num_classes)
        self._is_nonnegative = problem.loss.is_convex or expected

    def add_values(self, values: Tensor, rows: PreparedRows) -> None:
        """Adds the loss of each row and its exponential, the probability of the true class."""
        super().add_values(values, rows)
        chance = torch.exp(-values)
        chance = chance if rows.weights is None else chance * rows.weights[:, 0]
        self.chances.index_add_(0, rows.labels, chance)

    def gram(self, features: Tensor, weights: Tensor) -> Tensor:
        """See `Evaluate.gram`; one triangle alone is computed where no weight is negative."""
        if not self._is_nonnegative:
            return super().gram(features, weights)
        return gram_of_columns(features.T, weights[:, 0].clamp(min=0.0))


@dataclass(frozen=True)
class LikelihoodEvaluation:
    """The negative log-likelihood at some parameters.

    Attributes:
        parameters: Shape (M, P).
        value: In nats, summed over the rows.
        gradient: Shape (M * P,).
        hessian: Shape (M * P, M * P): the observed information; the expected one where a likelihood that is not concave
            has no positive definite one.
        chances: Sum over the rows of each class of the predicted probability of that class, (C,).
        remainder: What the Hessian has beside ``hessian``, where that is the information alone; ``None`` for nothing.
        observed: The observed information where ``hessian`` is the expected one; else ``None``.
    """

    parameters: Tensor
    value: float
    gradient: Tensor
    hessian: Tensor
    chances: Tensor
    remainder: Tensor | None = None
    observed: Tensor | None = None

    @property
    def model(self) -> Tensor:
        """The Hessian of the quadratic model that steps take, (M * P, M * P)."""
        return self.hessian if self.remainder is None else self.hessian + self.remainder


class Likelihood:
    """The likelihood of a model without redundancy on the rows of a source; each evaluation is one pass.

    Attributes:
        max_steps: Newton steps before the search for a maximum is given up; from an optimum to within 1e-6 it takes
            three.
        passes: Passes over the rows so far.
    """

    max_steps = 40

    def __init__(self, problem: Problem, rows: RowSource, design: Design, num_classes: int) -> None:
        """``problem`` has the coordinates of the parameters; its objective's loss is the negative log-likelihood."""
        self.problem = replace(problem, objective=Objective(problem.objective.loss, "sum"), dtype=torch.float64)
        self.rows, self.design, self.num_classes = rows, design, num_classes
        self.passes = 0

    def evaluate(self, parameters: Tensor) -> LikelihoodEvaluation:
        """Value, gradient and Hessian at parameters (M, P)."""
        found = self._evaluate(parameters, expected=False)
        if self.problem.loss.is_convex or not int(torch.linalg.cholesky_ex(found.hessian).info):
            return found
        expected = self.expected_information(parameters)  # Fisher scoring
        return replace(found, hessian=expected, observed=found.hessian)

    def expected_information(self, parameters: Tensor) -> Tensor:
        """Fisher's information at parameters (M, P): shape (M * P, M * P)."""
        return self._evaluate(parameters, expected=True).hessian

    def _evaluate(self, parameters: Tensor, expected: bool) -> LikelihoodEvaluation:
        problem, design = self.problem, self.design
        point = design.to_point(parameters, problem.num_outputs, problem.num_features)
        one = LikelihoodPass(problem, problem.model, point, self.num_classes, expected)
        found: Derivatives = self.run(one)
        outputs, kept, size = torch.tensor(design.outputs), design.kept, parameters.numel()
        assert found.hessian is not None
        if problem.coupled:
            hessian = found.hessian[outputs][:, kept][:, :, outputs][:, :, :, kept]
        else:
            hessian = found.hessian[0][kept][:, kept]
        gradient = found.gradient[outputs.unsqueeze(1), kept].flatten()
        return LikelihoodEvaluation(parameters, found.value, gradient, hessian.reshape(size, size), one.chances)

    def run(self, one: Evaluate) -> Derivatives:
        """Makes a pass over the rows."""
        self.passes += 1
        with threads_for(4.0 * self.problem.numel * self.problem.num_outputs):
            return drive(request(one), self.rows)


@dataclass(frozen=True)
class Maximum:
    """The maximum of the likelihood over some of the parameters.

    Attributes:
        parameters: Shape (M, P).
        at: The evaluation from which the last step was taken.
        value: Negative log-likelihood at the maximum.
        covariance: The inverse of the information, (M * P, M * P), 0 for parameters that are held; of `maximize` that
            of the observed one.
        moved: Distance of the start from the maximum in standard errors: the largest change of a combination of the
            parameters.
        steps: Number of Newton steps.
    """

    parameters: Tensor
    at: LikelihoodEvaluation
    value: float
    covariance: Tensor
    moved: float
    steps: int


def maximize(
    likelihood: Likelihood, start: LikelihoodEvaluation, free: Tensor | None = None, tolerance: float = STEP_TOLERANCE
) -> Maximum:
    """Maximizes the likelihood by Newton's method, with steps that are shortened where the likelihood falls again.

    Args:
        likelihood: The likelihood.
        start: The evaluation at the start.
        free: Whether each of the M * P parameters may change; ``None`` for all.
        tolerance: Length of a step, in standard errors, after which the maximum is known; the error of its value is
            about the third power of that.

    Raises:
        DataError: There is no maximum, or none that float64 resolves.
    """
    at, last, length, steps = start, start, math.inf, 0
    free = torch.ones(len(start.gradient), dtype=torch.bool) if free is None else free
    while True:
        change = -inverse_information(at.model, free) @ at.gradient
        before, length = length, math.sqrt(max(-float(change @ at.gradient), 0.0))
        steps += 1
        parameters = at.parameters + change.view_as(at.parameters)
        if length <= tolerance or (length <= ROUNDING_STEP and length > before / 2):
            break
        if steps >= likelihood.max_steps or not math.isfinite(length):
            raise _no_maximum()
        trial = likelihood.evaluate(parameters)
        while not trial.value <= at.value + VALUE_ROUNDING * abs(at.value) and steps < likelihood.max_steps:
            change, steps = change / 2, steps + 1
            trial = likelihood.evaluate(at.parameters + change.view_as(at.parameters))
        last, at = at, trial
    if float(change @ at.hessian @ change) < MIN_CURVATURE * float(change @ last.hessian @ change):
        raise _no_maximum()
    moved = (parameters - start.parameters).flatten()
    distance = math.sqrt(max(float(moved @ at.hessian @ moved), 0.0))
    covariance = inverse_information(at.hessian, free)
    return Maximum(parameters, at, at.value - length**2 / 2, covariance, distance, steps)


def with_expected_information(likelihood: Likelihood, found: Maximum) -> Maximum:
    """A maximum with the covariance that R's `glm` reports, from the expected information.

    Of a canonical link, which logit and softmax are, the observed information is the expected one.

    Args:
        likelihood: The likelihood.
        found: Its maximum.

    References:
        Efron and Hinkley (1978), Assessing the accuracy of the maximum likelihood estimator: observed versus expected
        Fisher information.
    """
    if not likelihood.problem.loss.curvature_needs_targets:
        return found
    return replace(found, covariance=inverse_information(likelihood.expected_information(found.parameters)))


def inverse_information(hessian: Tensor, free: Tensor | None = None) -> Tensor:
    """The inverse of a Hessian over the free parameters, 0 elsewhere.

    Raises:
        DataError: The Hessian is not positive definite.
    """
    which = torch.arange(len(hessian)) if free is None else free.nonzero()[:, 0]
    inverse = torch.zeros_like(hessian)
    if not len(which):
        return inverse
    part = hessian[which][:, which]
    unit = part.diagonal().clamp(min=1e-300).rsqrt()
    factor, failed = torch.linalg.cholesky_ex(part * unit * unit.unsqueeze(1))
    if int(failed) or not bool(factor.isfinite().all()):
        raise _no_maximum()
    inverse[which.unsqueeze(1), which] = torch.cholesky_inverse(factor) * unit * unit.unsqueeze(1)
    return inverse


def _no_maximum() -> DataError:
    return DataError(
        "the likelihood must have a maximum for standard errors, and none was found: the classes may be separated by "
        "a combination of columns. Leave columns out with dataset.drop, or keep l2 and do without standard errors."
    )
