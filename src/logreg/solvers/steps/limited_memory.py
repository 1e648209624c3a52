"""A limited-memory inverse of the Hessian (L-BFGS) on top of a preconditioner."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.solvers.problem import Problem
from logreg.solvers.steps.newton_steps import InverseHessian

MAX_STORED_PAIRS = 300
"""Largest number of stored pairs (step, change of the gradient): each is read four times in every application."""

PAIRS_MEMORY_FRACTION = 0.1
"""Largest size of the stored pairs, as a fraction of the numbers in the data."""

SMALL_PAIRS_NUMEL = 4e6
"""Numbers that the stored pairs may have for data of any size: 16 MB in float32."""

STALE_VALUE_RATIO = 2.0
"""Ratio of f at the start of a step to f now, from which its pair is stale: on the way to classes that are nearly
separated the curvature falls as f does."""


class LimitedMemoryInverse:
    """An approximate inverse of the Hessian: a preconditioner, corrected by the steps since it was made.

    It is the L-BFGS matrix H that the BFGS updates of all stored pairs (s, y) give when they start from the
    preconditioner, so `H @ y = s` holds for the last pair.  Each pair is stored divided by sqrt(s @ y), so s @ y = 1.

    A product with H is that of the two-loop recursion.  Its loops solve triangular systems with the inner products
    s_i @ y_j of an older step i and a newer change j.  With these at hand, a product takes four products of a matrix
    with a vector, however many pairs there are.

    A change of l2 changes each y by a known vector, so the pairs of one strength serve the next.

    Attributes:
        linear_pairs: Newest pairs in a row whose steps are so short that the gradient is about linear along them.
        own_pairs: Newest pairs that are from steps for the present l2.
        made_at: f at the point whose curvature the preconditioner has; infinite where it has no Hessian blocks.
        steps: Steps since the preconditioner was made, also those for other strengths of l2.
        is_stale: Whether the preconditioner has Hessian blocks with a far larger or smaller l2, and is to be made anew.

    References:
        Nocedal and Wright (2006), Numerical Optimization, algorithm 7.4.
        Byrd, Nocedal and Schnabel (1994), Representations of quasi-Newton matrices and their use in limited memory
        methods.
    """

    def __init__(self, first: InverseHessian, problem: Problem, l2: Tensor, made_at: float = math.inf) -> None:
        """``first`` is the preconditioner, and ``l2`` the penalty by each coordinate, (D + 1,)."""
        self._first, self._l2, self.made_at, self.steps, self.is_stale = first, l2, made_at, 0, False
        self.linear_pairs = self.own_pairs = 0
        numel = max(SMALL_PAIRS_NUMEL, PAIRS_MEMORY_FRACTION * problem.numel)
        most = min(MAX_STORED_PAIRS, int(numel / (2 * problem.num_parameters)))
        # One allocation, whose pages the system maps when they are written: many small ones would fragment the memory.
        self._steps, self._changes = torch.empty(2, most, problem.num_parameters, dtype=problem.dtype, device=l2.device)
        self._products = torch.empty(most, most, dtype=torch.float64, device=l2.device)
        """Inner product of each step with each change."""
        self._slots: list[int] = []
        """The rows of these matrices from the oldest pair to the newest: a permutation of the first ones."""
        self._values: list[float] = []
        """f at the start of each step, from the oldest pair to the newest."""

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def max_pairs(self) -> int:
        """Largest number of stored pairs."""
        return len(self._steps)

    def __call__(self, gradient: Tensor) -> Tensor:
        """H @ gradient: about the Newton step to be subtracted, (K, D + 1) as the gradient is."""
        number, slots = len(self), self._slots
        if not number:
            return self._first(gradient)
        steps, changes = self._steps[:number], self._changes[:number]
        newer, dtype = self._products[slots][:, slots].triu(), steps.dtype
        vector, factors = gradient.flatten().to(dtype), newer.new_empty(number)
        slopes = (steps @ vector).double()[slots].unsqueeze(1)
        of_changes = torch.linalg.solve_triangular(newer, slopes, upper=True, unitriangular=True)
        factors[slots] = of_changes[:, 0]
        product: Tensor = (
            self._first((vector - factors.to(dtype) @ changes).view_as(gradient).double()).flatten().to(dtype)
        )
        slopes = of_changes - (changes @ product).double()[slots].unsqueeze(1)
        of_steps = torch.linalg.solve_triangular(newer.T, slopes, upper=False, unitriangular=True)
        factors[slots] = of_steps[:, 0]
        product = product + factors.to(dtype) @ steps
        return product.view_as(gradient).double()

    def update(self, step: Tensor, change: Tensor, value: float = math.nan, is_linear: bool = False) -> bool:
        """Stores a step and the change of the gradient along it, both (K, D + 1), in place of the oldest pair if full.

        ``value`` is f at the start of the step, if pairs are to be forgotten by `forget_stale`; ``is_linear`` is as of
        ``linear_pairs``.

        Returns:
            Whether the pair was stored: it is not where the step met no curvature (step @ change <= 0).
        """
        curvature = float(step.flatten() @ change.flatten())
        if not self.max_pairs or not curvature > 0:
            return False
        if len(self) == self.max_pairs:
            slot = self._slots.pop(0)
            del self._values[0]
        else:
            slot = len(self)
        self._slots.append(slot)
        self._values.append(value)
        self.linear_pairs = min(self.linear_pairs + 1, self.max_pairs) if is_linear else 0
        self.own_pairs = min(self.own_pairs + 1, self.max_pairs)
        size, number = math.sqrt(curvature), len(self)
        self._steps[slot], self._changes[slot] = step.flatten() / size, change.flatten() / size
        self._products[:number, slot] = (self._steps[:number] @ self._changes[slot]).double()
        self._products[slot, :number] = (self._changes[:number] @ self._steps[slot]).double()
        return True

    def clear(self) -> None:
        """Forgets all pairs."""
        self.linear_pairs = self.own_pairs = 0
        self._slots.clear()
        self._values.clear()

    def forget_stale(self, value: float) -> None:
        """Forgets the oldest pairs, from steps that started where f was far above its value now; keeps the last one."""
        stale = 0
        while stale < len(self) - 1 and self._values[stale] > STALE_VALUE_RATIO * value:
            stale += 1
        if stale:
            left = self._slots[stale:]
            number = len(left)
            self._steps[:number], self._changes[:number] = self._steps[left], self._changes[left]
            self._products[:number, :number] = self._products[left][:, left]
            self._slots, self._values = list(range(number)), self._values[stale:]
            self.linear_pairs, self.own_pairs = min(self.linear_pairs, number), min(self.own_pairs, number)

    def change_l2(self, l2: Tensor) -> None:
        """Changes the inverse to that for another penalty, (D + 1,): (new l2 - old l2) * s is added to each y."""
        added = l2 - self._l2
        self._l2 = l2
        if not bool(added.any()):
            return
        number, self.own_pairs = len(self), 0
        for step, change in zip(self._steps[:number], self._changes[:number], strict=True):
            change += (step.view(-1, len(added)) * added.to(step.dtype)).flatten()
            curvature = float(step @ change)
            if not curvature > 0:
                self.clear()  # l2 has no part in the curvature: all of it is rounding
                return
            step /= math.sqrt(curvature)
            change /= math.sqrt(curvature)
        self._products[:number, :number] = (self._steps[:number] @ self._changes[:number].T).double()

    def last_pairs(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """The newest pairs from the oldest to the newest, each vector (K * (D + 1),), scaled to step @ change = 1."""
        slots = self._slots[len(self) - number :]
        return [(self._steps[slot], self._changes[slot]) for slot in slots]
