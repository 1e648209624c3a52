"""How far a point is from the optimum, at most: computed in float64 over all rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.functional import LOSSES
from logreg.optim.curvature import Factored, conjugate_gradients, intercept_step, smallest_subgradient
from logreg.optim.kernels import affine, sum_over_rows
from logreg.optim.passes import (
    Asking,
    Diagonal,
    Evaluate,
    Evaluation,
    Frame,
    Pass,
    Problem,
    Rows,
    Sample,
    ask,
    choose_frame,
)

SMALL = 512
"""Parameters that depend on each other, up to which the Hessian is formed for a certificate."""

WORK = 1e11
"""Rows times parameters times those that depend on each other, up to which it is formed."""

GOOD = 1e-9
"""A relative gap that needs no better bound."""

FEASIBLE = 0.25
"""Largest move of an intercept that keeps the dual point feasible, with room to spare."""

BALANCED, LAST_DIGIT = 1e-10, 1e-15
"""Sum of a dual point's entries, relative to the sum of their sizes and to their number, that is rounding."""

INTERCEPT_STEPS = 30
"""Passes spent on solving the intercepts alone, before giving up."""

RANK = 1e-13
"""Curvature relative to the largest that counts as none."""

FLAT = 1e-13
"""Likewise by a coordinate, relative to what it is before the mean of the feature is subtracted."""

NOTHING = 1e-26
"""Slope squared over curvature, relative to f, that is rounding."""

CLOSE = 0.9
"""Norm of the slope in the metric of the inverse Hessian, times the largest of a row, below which curvature tells."""

PRODUCTS = 25
"""Passes spent on an estimate."""


class Bound(NamedTuple):
    """What is known of f - f* at a point."""

    value: float
    """f."""
    gap: float
    """f - f* is at most this; where not ``rigorous``, about this."""
    rigorous: bool
    gradient: Tensor
    """Of f by the model's own coordinates, (K, D + 1); with l1 the subgradient of smallest size."""
    loss: float
    """The data term of f."""


class Dual(Pass[tuple[Tensor, float]]):
    """The dual problem at the residuals of a point, moved so that those of each output sum to zero.

    With q_i = p_i - J_i shift, J_i the derivative of the link, theta_i = q_i - y_i is feasible for the free intercept.
    ``scale`` in (0, 1] shrinks theta further, to what pure l1 asks for.
    """

    def __init__(self, problem: Problem, frame: Frame, point: Tensor, shift: Tensor, scale: float = 1.0) -> None:
        super().__init__(problem, frame, torch.float64)
        self._coef, self._intercept = self.linear(point)
        self._move, self._scale = shift, scale
        k, d = problem.num_outputs, problem.num_features
        self._sums, self._ones = self.zeros(k, d), self.zeros(k)
        self._sizes = self.zeros()
        self._fit = self.zeros()

    def gather(self, rows: Rows) -> None:
        """Residuals against features, and what the conjugate of the loss costs beyond Fenchel's equality."""
        features, targets, weights = rows.features, rows.targets, rows.weights
        logits = affine(features, self._coef, self._intercept)
        p = LOSSES[self.problem.objective.loss].link(logits)
        if self.problem.softmax:
            q = p * (1 - self._move + (p @ self._move).unsqueeze(1))
        else:
            q = p - p * (1 - p) * self._move
        theta = (q - targets) * self._scale
        q = targets + theta
        entropy = torch.special.entr(q).sum(1)
        if not self.problem.softmax:
            entropy = entropy + torch.special.entr(1 - q).sum(1)
        # loss(z) + conjugate(theta) - z theta >= 0, and 0 where q = p
        excess = LOSSES[self.problem.objective.loss].of_rows(logits, targets) - entropy - (logits * theta).sum(1)
        if weights is not None:
            excess, theta = excess * weights[:, 0], theta * weights
        self._fit += excess.sum()
        self._sums += sum_over_rows(theta, features)
        self._ones += theta.sum(0)
        self._sizes += theta.abs().sum()

    def result(self) -> tuple[Tensor, float]:
        """The sums of theta x in the frame, (K, D + 1), and the excess, both times the problem's share.

        Where probabilities are 0 or 1 to the last digit no shift moves them, and theta may not sum to zero: then there
        is no bound, and the excess is infinite.
        """
        share = self.problem.share
        rounding = BALANCED * self._sizes + LAST_DIGIT * self.problem.total_weight
        balanced = not self.problem.intercept or bool((self._ones.abs() <= rounding).all())
        return self.moments(self._sums, self._ones) * share, float(self._fit) * share if balanced else math.inf


def bound(problem: Problem, point: Tensor, evaluation: Evaluation | None = None, enough: float = GOOD) -> Asking[Bound]:
    """Bounds f - f* at a point of the model's own frame.

    With a penalty by duality: with theta as in `Dual` and V = sum_i theta_i x_i / N,

        f - f* <= sum_i excess_i / N  +  sum_j [ w_j V_j + g(w_j) + g*(-V_j) ]

    which for l2 alone is |V + l2 w|^2 / (2 l2) plus what an intercept that is not solved costs.  Where the Hessian can
    be formed, `_by_curvature` is taken if it is the better bound, and without a penalty.  Else, without a penalty, half
    the Newton decrement is an estimate.

    Args:
        problem: Whose rows will be shown.
        point: Shape (K, D + 1).
        evaluation: Of that point in float64 and in that frame, if it is there already.
        enough: Relative gap below which no better bound is looked for.

    Source:
        Duality: Fenchel.  Curvature: Bach (2010), Self-concordant analysis for logistic regression.
    """
    objective = problem.objective
    if evaluation is None:
        evaluation = yield from ask(Evaluate(problem, problem.model, point, torch.float64))
    value = evaluation.value
    # Neither a loss nor a penalty is negative, so f* >= 0.
    gap, rigorous = value, True
    if objective.l2 or objective.l1:
        gap = min(gap, (yield from _by_duality(problem, point, evaluation)))
    if not objective.l1 and not gap <= enough * value:
        if forms_hessian(problem):
            gap = min(gap, (yield from _by_curvature(problem, point)))
        elif not objective.l2 and enough < math.inf:
            estimate = yield from _by_products(problem, point, evaluation.gradient)
            if estimate < gap:
                gap, rigorous = estimate, False
    slope = smallest_subgradient(point, evaluation.gradient, problem.penalties(problem.model)[1])
    return Bound(value, max(gap, 0.0), rigorous, slope, evaluation.loss)


def forms_hessian(problem: Problem) -> bool:
    """Whether a certificate may form the Hessian."""
    dependent = problem.num_parameters if problem.softmax else problem.num_features + 1
    return dependent <= SMALL and problem.rows * dependent * problem.num_parameters <= WORK


def _by_duality(problem: Problem, point: Tensor, evaluation: Evaluation) -> Asking[float]:
    value = evaluation.value
    shift = intercept_step(problem, evaluation.gradient[:, -1], evaluation.curvature)
    for _ in range(INTERCEPT_STEPS):
        if float(shift.abs().max()) <= FEASIBLE:
            break
        point = point.clone()
        point[:, -1] -= shift.clamp(-1, 1)
        evaluation = yield from ask(Evaluate(problem, problem.model, point, torch.float64))
        shift = intercept_step(problem, evaluation.gradient[:, -1], evaluation.curvature)
    else:
        return math.inf
    l2, l1 = problem.objective.l2, problem.objective.l1
    coef = point[:, :-1]
    known = dual_point(problem, point, evaluation, shift)
    sums, excess = known or (yield from ask(Dual(problem, problem.model, point, shift)))
    reach = sums[:, :-1].abs()
    if not l2 and float(reach.max()) > l1:  # the conjugate of l1 alone is infinite beyond it
        scale = l1 / float(reach.max()) * (1 - 1e-12)
        sums, excess = yield from ask(Dual(problem, problem.model, point, shift, scale))
    slopes = sums[:, :-1]
    if l2:
        # |V + l2 w|^2 / (2 l2) for l1 = 0, written so that nothing large cancels
        held = (slopes.abs() - l1).clamp(min=0) * slopes.sign()
        rest = (held + l2 * coef).square() / (2 * l2) + l1 * coef.abs() + coef * (slopes - held)
    else:
        rest = coef * slopes + l1 * coef.abs()
    return value - evaluation.value + max(excess, 0.0) + max(float(rest.sum()), 0.0)


def dual_point(problem: Problem, point: Tensor, evaluation: Evaluation, shift: Tensor) -> tuple[Tensor, float] | None:
    """What `Dual` finds, without a pass, where the evaluation tells: of independent outputs, or where nothing moves.

    There the excess of row i for output k is KL(q_ik | p_ik), which is at most chi squared: p_ik (1 - p_ik) shift_k^2.
    """
    sums = evaluation.gradient - problem.penalties(problem.model)[0] * point
    if shift.any():
        if evaluation.by_intercept is None:
            return None
        sums = sums - shift.unsqueeze(1) * evaluation.by_intercept
    if bool((sums[:, -1].abs() > LAST_DIGIT * problem.share * problem.total_weight).any()):
        return None
    return sums, float(evaluation.curvature.diagonal() @ shift.square())


class Leverage(Pass[Tensor]):
    """The largest squared norm of a row under a metric, for each output."""

    copies = True

    def __init__(self, problem: Problem, frame: Frame, roots: Tensor) -> None:
        """``roots`` (K, D + 1, R) are such that the squared norm of a row x for output k is |roots_k' x|^2."""
        super().__init__(problem, frame, torch.float64)
        self._roots = roots
        self._largest = self.zeros(len(roots))

    def gather(self, rows: Rows) -> None:
        """Keeps the largest."""
        center, scale = self._fold
        features = (rows.features - center) / scale
        for output, root in enumerate(self._roots):
            norms = torch.addmm(root[-1], features, root[:-1]).square().sum(1)
            self._largest[output] = torch.maximum(self._largest[output], norms.max())

    def result(self) -> Tensor:
        """Shape (K,)."""
        return self._largest


def _by_curvature(problem: Problem, point: Tensor) -> Asking[float]:
    """From the Hessian: f is so nearly quadratic around the point that half the Newton decrement bounds the gap.

    Along a direction that changes no logit by more than r, the second derivative falls at most by exp(-r).  So with the
    decrement d = |g| in the metric of the inverse Hessian, and R the largest norm of a row in it,

        f - f* <= d^2 / (4 psi(r)),  psi(r) = (exp(-r) + r - 1) / r^2,  r psi(r) = R d
    """
    # The bound is the same in any coordinates; digits are not.
    frame = choose_frame(problem, (yield from ask(Sample(problem))), every_scale=True)
    point = problem.model.to(frame, point)
    evaluation = yield from ask(Evaluate(problem, frame, point, torch.float64, torch.float64))
    assert evaluation.hessian is not None
    k, p = point.shape
    together = problem.softmax
    hessian = evaluation.hessian.view(1, k * p, k * p) if together else evaluation.hessian
    gradient = evaluation.gradient.view(len(hessian), -1)
    # In units in which the diagonal is 1; what has no curvature there is in none of the rows.
    reach = torch.cat([1 + (frame.center / frame.scale).abs(), torch.ones_like(point[0, :1])])
    diagonal = hessian.diagonal(dim1=1, dim2=2).reshape(k, p)
    some = diagonal > FLAT * reach.square() * diagonal[:, -1:]  # else it is what rounding left where a mean went
    size = torch.where(some, diagonal, 0.0).sqrt().view(len(hessian), -1)
    units = torch.where(size > 0, 1 / size, 0.0)
    values, vectors = torch.linalg.eigh(units.unsqueeze(2) * hessian * units.unsqueeze(1))
    seen = values > values[:, -1:] * RANK
    inverse_root = units.unsqueeze(2) * vectors * torch.where(seen, values.clamp(min=1e-300).rsqrt(), 0.0).unsqueeze(1)
    decrement = (inverse_root.mT @ gradient.unsqueeze(2)).square().sum((1, 2))
    # A constant feature has no curvature, and its slope is what rounding left of a sum over the rows.
    rounding = (1e-12 * problem.share * problem.total_weight * reach).repeat(gradient.shape[1] // p)
    unseen = (torch.where(seen, 0.0, 1.0).unsqueeze(1) * vectors).mT @ (units * gradient).unsqueeze(2)
    if float(unseen.square().sum()) > NOTHING * abs(evaluation.value) or bool(
        (gradient.abs() > rounding)[size <= 0].any()
    ):
        return math.inf  # a slope without curvature: there is no bound
    roots = inverse_root.view(k, p, -1)
    leverages = yield from ask(Leverage(problem, frame, roots))
    if together:  # a difference of two logits moves by at most twice the larger
        leverages = 4 * leverages.max().unsqueeze(0)
    total = 0.0
    for squared, leverage in zip(decrement.tolist(), leverages.tolist(), strict=True):
        product = math.sqrt(squared * leverage)
        if product >= CLOSE:
            return math.inf
        total += squared / (4 * _psi(_invert(product)))
    return total


class Reached(NamedTuple):
    """What `Reach` finds, in the units that it was given."""

    largest: float
    """Squared norm of a row."""
    mean: float
    """Sum over the rows of what they weigh times their squared norms, times the problem's share."""
    far: float
    """Square of a mean that is taken away from sums over the rows, the largest of all columns."""
    blurred: float
    """Rounding of a column of which the mean is subtracted row by row, relative to its deviation."""


class Reach(Pass[Reached]):
    """How large rows are in a frame, with the 1 that the intercept multiplies."""

    copies = True

    def __init__(self, problem: Problem, frame: Frame, size: Tensor) -> None:
        """``size`` (D + 1,) divides the coordinates of a row in the frame, and the 1."""
        super().__init__(problem, frame)
        self._one = float(size[-1]) ** -2 if problem.intercept else 0.0
        self._origin = (-frame.center / (frame.scale * size[:-1])).to(self.dtype)
        self._invert = (1 / (frame.scale * size[:-1])).to(self.dtype)
        self._size = size[:-1].to(self.dtype)
        self._largest = torch.zeros((), dtype=self.dtype, device=frame.center.device)
        self._sum = self.zeros()
        center, scale = self._fold
        self._far = float((center / (scale * size[:-1])).square().max()) if len(center) else 0.0
        blur = torch.finfo(self.dtype).eps * (frame.center / frame.scale).abs()
        self._blurred = float(blur.max()) if self._shift is not None else 0.0

    def gather(self, rows: Rows) -> None:
        """Keeps the largest of those that weigh something, and adds up."""
        shifted = self._shift is not None
        features = rows.features / self._size if shifted else torch.addcmul(self._origin, rows.features, self._invert)
        squares = torch.linalg.vector_norm(features, dim=1).square_()
        if rows.weights is not None:
            squares = torch.where(rows.weights[:, 0] > 0, squares, 0.0)
        self._largest = torch.maximum(self._largest, squares.max())
        self._sum += (squares if rows.weights is None else squares * rows.weights[:, 0]).sum(dtype=torch.float64)

    def result(self) -> Reached:
        """With room for the rounding of float32."""
        share, total = self.problem.share, self.problem.total_weight
        mean = float(self._sum) * share + share * total * self._one
        return Reached(1.001 * float(self._largest) + self._one, 1.001 * mean, self._far, self._blurred)


def size_of(direct: Factored, outputs: int) -> Tensor:
    """Roots of the curvature by each coordinate, the smallest of all outputs: (D + 1,)."""
    diagonal = direct.matrices.diagonal(dim1=1, dim2=2).reshape(outputs, -1).amin(0)
    return torch.where(diagonal > 0, diagonal, 1.0).sqrt()


class Norms(NamedTuple):
    """What a Hessian that is held tells of all rows, of each of its matrices; see `by_held_hessian`."""

    rows: Tensor
    """Largest squared norm of a row in the metric of the inverse, (B,)."""
    error: Tensor
    """Of the Hessian, relative to its smallest curvature, (B,)."""

    @property
    def reach(self) -> float:
        """The f - f* up to which there is a bound still where curvature fell by half since the Hessian was made."""
        return CLOSE**2 / 8 / float(self.rows.max())


def norms(problem: Problem, direct: Factored, size: Tensor, reached: Reached) -> Norms | None:
    """Those of a Hessian, or ``None`` where its smallest curvature is lost in rounding.

    Args:
        problem: Without l1.
        direct: The Hessian.
        size: Units of the coordinates, (D + 1,).
        reached: Of `Reach` in that frame and those units.
    """
    units = (1 / size).repeat(direct.matrices.shape[1] // len(size))
    matrices = direct.matrices * units * units.unsqueeze(1)
    if not problem.intercept:
        moves = torch.arange(len(units), device=size.device) % len(size) != len(size) - 1
        matrices = matrices[:, moves][:, :, moves]
    values = torch.linalg.eigvalsh(matrices)
    smallest, largest = values[:, 0], values[:, -1]
    eps, k = torch.finfo(problem.dtype).eps, problem.num_outputs if problem.softmax else 1
    of_ones = direct.matrices.diagonal(dim1=1, dim2=2)[:, len(size) - 1 :: len(size)].amax(1)
    # By how much it may be off: sums of so many rows, what a mean takes away from them, probabilities that are known
    # to so many digits, features likewise, and what was added so that it could be factored.
    error = 10 * eps * values.shape[1] * (largest + 2 * reached.far * of_ones)
    error = error + 4 * eps * k * reached.mean + (4 * reached.blurred + direct.ridge) * largest
    error = error / smallest.clamp(min=1e-300)
    if not bool(((smallest > 0) & (error < 0.1)).all()):
        return None
    return Norms((2 if problem.softmax else 1) * reached.largest / smallest, error)


def by_held_hessian(direct: Factored, of_rows: Norms, change: Tensor, gradient: Tensor) -> float:
    """The bound of `_by_curvature` from a Hessian of a point nearby, with all that this costs added.

    Args:
        direct: The Hessian.
        of_rows: Its `norms`.
        change: Of the logits since that point, as `Evaluation` has it: curvature falls at most by exp(-change).
        gradient: At the point, (K, D + 1), in the frame of the Hessian.
    """
    grown = change.exp() / (1 - of_rows.error)
    flat = (direct.step(gradient) * gradient).reshape(len(grown), -1)
    squared = flat.sum(1).clamp(min=0) * grown
    total = 0.0
    for decrement, product in zip(squared.tolist(), (squared * of_rows.rows * grown).sqrt().tolist(), strict=True):
        if not product < CLOSE:
            return math.inf
        total += decrement / (4 * _psi(_invert(product)))
    return total


def _psi(r: float) -> float:
    return 0.5 - r / 6 + r * r / 24 if r < 1e-3 else (math.expm1(-r) + r) / (r * r)


def _invert(product: float) -> float:
    """The r with r psi(r) = product; a little more, never less."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * _psi(middle) < product else (low, middle)
    return high


def _by_products(problem: Problem, point: Tensor, gradient: Tensor) -> Asking[float]:
    """Half the Newton decrement, by a few steps of conjugate gradients: an estimate from below."""
    diagonal = yield from ask(Diagonal(problem, problem.model, point))
    metric = diagonal.clamp(min=1e-12 * float(diagonal.max()))
    solution = yield from conjugate_gradients(
        problem, problem.model, point, gradient, lambda r: r / metric, 0.03, PRODUCTS
    )
    return solution.gain
