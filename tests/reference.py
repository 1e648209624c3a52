"""The stated problem in float64 NumPy, minimized by SciPy and Newton: what tests compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, softmax
from torch import Tensor

from logreg.losses.objective import Objective

Array = NDArray[np.float64]


def correlated_rows(
    rows: int, features: int, classes: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Correlated features, and labels that depend on them."""
    draw = torch.Generator().manual_seed(rows + features)
    x = torch.randn(rows, features, generator=draw) + 2 * torch.randn(rows, 3, generator=draw) @ torch.randn(
        3, features, generator=draw
    )
    slopes = torch.randn(features, classes, generator=draw) / math.sqrt(features)
    noise = -(-torch.rand(rows, classes, generator=draw).log()).log()
    return x.to(dtype), (x @ slopes + noise).argmax(1)


class Stated(NamedTuple):
    """A problem as `fit` and `Reference` take it."""

    features: Tensor
    labels: Tensor
    objective: Objective
    num_classes: int
    sample_weight: Tensor | None = None
    class_weight: tuple[float, ...] = ()
    intercept: bool = True


class Minimum(NamedTuple):
    """Where f is least."""

    coef: Array
    """Shape (K, D)."""
    intercept: Array
    """Shape (K,)."""
    value: float

    @property
    def point(self) -> Array:
        """Both, shape (K, D + 1)."""
        return np.column_stack([self.coef, self.intercept])


class Reference:
    """f over features (N, D) and labels (N,).

    A point here is (K, P + 1), the intercepts last, over features of mean 0 and size 1; for l2 and more features than
    rows over the P directions that the rows span.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        objective: Objective,
        num_classes: int | None = None,
        sample_weight: Tensor | None = None,
        class_weight: Sequence[float] = (),
        intercept: bool = True,
    ) -> None:
        classes = num_classes or int(labels.max()) + 1
        weight = np.ones(len(labels)) if sample_weight is None else sample_weight.double().numpy()
        if class_weight:
            weight = weight * np.asarray(class_weight)[labels.numpy()]
        rows = weight > 0
        self.softmax = objective.loss == "cross_entropy"
        self.weight = weight[rows] / (1.0 if objective.reduction == "sum" else weight.sum())
        self.targets = np.eye(classes)[labels.numpy()[rows]]
        if classes == 2 and not self.softmax:
            self.targets = self.targets[:, 1:]
        raw = features.double().numpy()[rows]
        self.intercept, self.center = float(intercept), raw.mean(0) * intercept
        moved = raw - self.center
        self.basis: Array | None = None
        if len(moved) < moved.shape[1] and not objective.l1:
            left, size, self.basis = np.linalg.svd(moved, full_matrices=False)
            self.scale = np.where(size > 1e-14 * size[0], size, np.inf)
            moved = left * (self.scale < np.inf)
        else:
            size = np.sqrt((moved**2).mean(0))
            self.scale = np.where(size > 1e-13 * np.abs(self.center), size, np.inf)
            moved = moved / self.scale
        self.rows = np.column_stack([moved, np.full(len(moved), self.intercept)])
        self.l2 = np.append(objective.l2 / self.scale**2, 0.0)
        self.l1 = np.append(objective.l1 / self.scale, 0.0)

    def value(self, point: Array) -> float:
        logits = self.rows @ point.T
        if self.softmax:  # the log-odds of all other classes, so that a small loss keeps its digits
            own = (logits * self.targets).sum(1, keepdims=True)
            losses = np.logaddexp(0, np.logaddexp.reduce(np.where(self.targets > 0, -np.inf, logits - own), axis=1))
        else:
            losses = np.logaddexp(0, np.where(self.targets > 0, -logits, logits)).sum(1)
        return float(self.weight @ losses + (self.l2 / 2 * point**2 + self.l1 * np.abs(point)).sum())

    def probabilities(self, point: Array) -> Array:
        logits = self.rows @ point.T
        return np.asarray(softmax(logits, axis=1) if self.softmax else expit(logits))

    def gradient(self, point: Array) -> Array:
        """Of f without l1."""
        residuals = (self.probabilities(point) - self.targets) * self.weight[:, None]
        return np.asarray(residuals.T @ self.rows + self.l2 * point)

    def slope(self, point: Array) -> Array:
        """The smallest subgradient of f."""
        gradient = self.gradient(point)
        held = np.sign(gradient) * np.maximum(np.abs(gradient) - self.l1, 0)
        return np.asarray(np.where(point == 0, held, gradient + self.l1 * np.sign(point)))

    def hessian(self, point: Array, free: NDArray[np.intp]) -> Array:
        """Of f without l1, by the coordinates of a flat point that are ``free``."""
        output, feature = np.divmod(free, self.rows.shape[1])
        x, p = self.rows[:, feature], self.probabilities(point)[:, output]
        weighted, same = x * self.weight[:, None], output[:, None] == output
        if self.softmax:
            hessian = np.where(same, weighted.T @ (x * p), 0.0) - (weighted * p).T @ (x * p)
        else:
            hessian = np.where(same, weighted.T @ (x * p * (1 - p)), 0.0)
        return np.asarray(hessian + np.diag(self.l2[feature]))

    def in_source_units(self, point: Array) -> Array:
        """The point as (K, D + 1) over the features themselves."""
        coef = point[:, :-1] / self.scale
        if self.basis is not None:
            coef = coef @ self.basis
        return np.column_stack([coef, self.intercept * point[:, -1] - coef @ self.center])

    def of_source_units(self, coef: Array, intercept: Array) -> Array:
        """The way back, where features are not many."""
        assert self.basis is None
        scale = np.where(np.isinf(self.scale), 0, self.scale)
        return np.column_stack([coef * scale, intercept + coef @ self.center])

    @cached_property
    def solution(self) -> Array:
        """The point where f is least."""
        start = np.zeros((self.targets.shape[1], self.rows.shape[1]))
        return self._regauged(self._newton(self._regauged(self._scipy(start)) if self.l1.any() else start))

    @cached_property
    def minimum(self) -> Minimum:
        """The same in source units."""
        point = self.in_source_units(self.solution)
        if self.softmax and self.l2.any() and not self.l1.any():
            point[:, :-1] -= point[:, :-1].mean(0)  # in large units the penalty hardly determines the mean
        return Minimum(point[:, :-1], point[:, -1], self.value(self.solution))

    def _regauged(self, point: Array) -> Array:
        """With l1 alone: the classes' coefficients of a feature less the median of theirs next to their mean.

        All of them may be moved together without a change of any probability; no Newton step goes that way.
        """
        if not self.softmax or not self.l1.any() or self.l2.any():
            return point
        ordered = np.sort(point, axis=0)
        low, high = ordered[(len(point) - 1) // 2], ordered[len(point) // 2]
        # A penalty is never on the intercepts, which sum to 0.
        shift = np.where(self.l1 > 0, np.clip(point.mean(0), low, high), point.mean(0))
        return np.asarray(point - shift)

    def _scipy(self, start: Array) -> Array:
        """By L-BFGS-B over u >= 0 and v >= 0 with u - v the point, where l1 is linear."""
        l1 = np.broadcast_to(self.l1, start.shape)

        def value_and_gradient(parts: Array) -> tuple[float, Array]:
            u, v = parts.reshape(2, *start.shape)
            point = u - v
            slope = self.gradient(point)
            excess = (l1 * (u + v - np.abs(point))).sum()
            return self.value(point) + excess, np.concatenate([(slope + l1).ravel(), (l1 - slope).ravel()])

        options = {"maxiter": 500, "maxfun": 1000, "ftol": 0, "gtol": 1e-10, "maxcor": 30}
        bounds = [(0, None)] * (2 * start.size)
        found = minimize(
            value_and_gradient, np.zeros(2 * start.size), jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        u, v = found.x.reshape(2, *start.shape)
        return np.asarray(u - v)

    def _newton(self, point: Array) -> Array:
        """Newton's method on what l1 leaves free; a coordinate ends its step at 0."""
        close = 0
        for _ in range(500):
            slope = self.slope(point)
            orthant = np.where(point == 0, -np.sign(slope), np.sign(point))
            free = np.flatnonzero((point != 0) | (slope != 0))
            if not len(free):
                break
            hessian, value = self.hessian(point, free), self.value(point)
            size = np.sqrt(np.maximum(hessian.diagonal(), 1e-300))
            newton, steepest = np.zeros_like(point), np.zeros_like(point)
            steepest.flat[free] = slope.flat[free] / size**2
            scaled = np.linalg.lstsq(hessian / size / size[:, None], slope.flat[free] / size, rcond=1e-14)[0]
            newton.flat[free] = scaled / size

            def moved(step: Array, length: float, start: Array = point, orthant: Array = orthant) -> Array:
                end = start - length * step
                return np.where((self.l1 > 0) & (np.sign(end) != orthant), 0, end)

            better = None
            if (slope * newton).sum() > 1e-13 * value and not close:
                tried = (moved(step, 0.5**halving) for step in (newton, steepest) for halving in range(25))
                better = next((end for end in tried if self.value(end) < value), None)
            # Nearer to the optimum than values can show, Newton's step is right.
            point, close = (moved(newton, 1.0), close + 1) if better is None else (better, 0)
            if close == 4:
                break
        return point
