"""The stated problem in 60 decimal digits: what a float64 certificate is compared with.

A point with a lower f proves that a bound is false, however it was found.  So Newton's method here need not be sure of
its end, only good.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpmath import mp, mpf
from numpy.typing import NDArray
from torch import Tensor

from logreg.losses.objective import Objective

DIGITS = 60

STEPS = 80
"""Newton steps at most."""

Numbers = list[list[mpf]]


class ExactReference:
    """f over features (N, D), labels (N,) and weights (N,), each as the exact number that its floating type holds."""

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        objective: Objective,
        classes: int,
        sample_weight: Tensor | None = None,
        class_weight: Sequence[float] = (),
        intercept: bool = True,
    ) -> None:
        mp.dps = DIGITS
        weight = [mpf(1)] * len(labels) if sample_weight is None else [mpf(w) for w in sample_weight.tolist()]
        if class_weight:
            weight = [w * mpf(class_weight[y]) for w, y in zip(weight, labels.tolist(), strict=True)]
        total = mpf(1) if objective.reduction == "sum" else sum(weight, mpf(0))
        rows = [row for row, w in enumerate(weight) if w > 0]
        self.weight = [weight[row] / total for row in rows]
        self.labels = [int(labels[row]) for row in rows]
        self.rows = [[mpf(x) for x in features[row].double().tolist()] + [mpf(intercept)] for row in rows]
        self.softmax = objective.loss == "cross_entropy"
        self.outputs = classes if self.softmax or classes > 2 else 1
        self.l2, self.l1, self.intercept = mpf(objective.l2), mpf(objective.l1), intercept
        self._center()

    def _center(self) -> None:
        """Scales the columns to size 1, and centers them at mean 0 where the model has an intercept."""
        columns = list(zip(*self.rows, strict=True))[:-1]
        total = sum(self.weight)
        self.means = [sum(map(lambda w, x: w * x, self.weight, c)) / total * int(self.intercept) for c in columns]
        moved = [[x - mean for x in column] for column, mean in zip(columns, self.means, strict=True)]
        self.units = [max(map(abs, column)) or mpf(1) for column in moved]
        scaled = [[x / unit for x in column] for column, unit in zip(moved, self.units, strict=True)]
        self.inner = [[*row, mpf(self.intercept)] for row in zip(*scaled, strict=True)] if scaled else self.rows

    def value(self, point: NDArray[np.float64]) -> mpf:
        """f at a point (K, D + 1) in source units that float64 holds."""
        exact = [[mpf(float(x)) for x in row] for row in point]
        return self._loss(self.rows, exact) + self._penalty([row[:-1] for row in exact])

    def _penalty(self, coef: Numbers) -> mpf:
        flat = [x for row in coef for x in row]
        return self.l2 / 2 * sum((x * x for x in flat), mpf(0)) + self.l1 * sum(map(abs, flat), mpf(0))

    def _logits(self, row: list[mpf], point: Numbers) -> list[mpf]:
        return [mp.fdot(row, of_output) for of_output in point]

    def _loss(self, rows: Numbers, point: Numbers) -> mpf:
        total = mpf(0)
        for row, label, weight in zip(rows, self.labels, self.weight, strict=True):
            logits = self._logits(row, point)
            if self.softmax:
                others = sum(mp.exp(z - logits[label]) for k, z in enumerate(logits) if k != label)
                total += weight * mp.log1p(others)
            else:
                for k, z in enumerate(logits):
                    total += weight * mp.log1p(mp.exp(-z if self._is_target(label, k) else z))
        return total

    def _is_target(self, label: int, output: int) -> bool:
        return label == (1 if self.outputs == 1 else output)

    def least(self, starts: Sequence[NDArray[np.float64]]) -> mpf:
        """The lowest f that is found from these points in source units, and from zero."""
        best = min((self.value(start) for start in starts), default=mpf("inf"))
        zero = [[mpf(0)] * len(self.inner[0]) for _ in range(self.outputs)]
        if self.l1:  # Newton's method within the orthants that the starts are in
            return min(best, *(self._newton(self._inside(start)) for start in starts))
        return min(best, self._newton(zero), *(self._newton(self._inside(start)) for start in starts[:1]))

    def _inside(self, point: NDArray[np.float64]) -> Numbers:
        """A point in source units as the centered rows have it."""
        exact = [[mpf(float(x)) for x in row] for row in point]
        return [
            [*(w * unit for w, unit in zip(row, self.units, strict=False)), row[-1] + mp.fdot(row[:-1], self.means)]
            for row in exact
        ]

    def _newton(self, point: Numbers) -> mpf:
        """Damped, in the coordinates that are not held at 0 by l1."""
        p, k = len(self.inner[0]), self.outputs
        free = [
            (output, place)
            for output in range(k)
            for place in range(p)
            if (place < p - 1 or self.intercept) and (not self.l1 or place == p - 1 or point[output][place] != 0)
        ]
        sign = [[mp.sign(x) for x in row] for row in point]

        def value(at: Numbers) -> mpf:
            return self._loss(self.inner, at) + self._penalty(
                [[w / unit for w, unit in zip(row, self.units, strict=False)] for row in at]
            )

        if not free:
            return value(point)
        best, damping = value(point), mpf(10) ** -40
        for _ in range(STEPS):
            gradient, hessian = self._derivatives(point, free)
            for number, (output, place) in enumerate(free):
                if place < p - 1:
                    unit = self.units[place]
                    gradient[number] += (self.l2 * point[output][place] / unit + self.l1 * sign[output][place]) / unit
                    hessian[number, number] += self.l2 / unit**2
            improved = False
            for _ in range(30):
                held = hessian.copy()
                for number in range(len(free)):
                    held[number, number] += damping * (hessian[number, number] or mpf(10) ** -50)
                try:
                    step = mp.lu_solve(held, mp.matrix(gradient))
                except ZeroDivisionError:
                    damping = max(damping * 1000, mpf(10) ** -45)
                    continue
                length = mpf(1)
                for _ in range(6):
                    moved = [row[:] for row in point]
                    for number, (output, place) in enumerate(free):
                        moved[output][place] -= length * step[number]
                    if (new := value(moved)) < best:
                        improved = True
                        break
                    length /= 4
                if improved:
                    break
                damping *= 1000
                if damping > 10**6:
                    break
            if not improved:
                break
            gain, best, point = best - new, new, moved
            damping = max(damping / 1000, mpf(10) ** -40)
            if gain <= mpf(10) ** -30 * best or best < mpf(10) ** -30:
                break
        return best

    def _derivatives(self, point: Numbers, free: list[tuple[int, int]]) -> tuple[list[mpf], mp.matrix]:
        """Gradient and Hessian of the loss."""
        gradient, hessian = [mpf(0)] * len(free), mp.zeros(len(free))
        for row, label, weight in zip(self.inner, self.labels, self.weight, strict=True):
            logits = self._logits(row, point)
            if self.softmax:
                top = max(logits)
                sizes = [mp.exp(z - top) for z in logits]
                total = sum(sizes)
                probabilities = [size / total for size in sizes]
            else:
                probabilities = [1 / (1 + mp.exp(-z)) for z in logits]
            for one, (output, place) in enumerate(free):
                p = probabilities[output]
                x = weight * row[place]
                gradient[one] += (p - int(self._is_target(label, output))) * x
                for two in range(one + 1):
                    other, column = free[two]
                    if output == other:
                        hessian[one, two] += p * (1 - p) * x * row[column]
                    elif self.softmax:
                        hessian[one, two] -= p * probabilities[other] * x * row[column]
        for one in range(len(free)):
            for two in range(one):
                hessian[two, one] = hessian[one, two]
        return gradient, hessian
