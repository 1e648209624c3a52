"""A limited-memory inverse of the Hessian (L-BFGS) on top of a preconditioner."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from logreg.solvers.newton_steps import InverseHessian
from logreg.solvers.problem import Problem

MAX_STORED_PAIRS = 300
"""Largest number of stored pairs (step, change of the gradient): each adds two inner products and two sums of vectors
to every application."""

PAIRS_MEMORY_FRACTION = 0.1
"""Largest size of the stored pairs, as a fraction of the numbers in the data."""

SMALL_PAIRS_NUMEL = 12e6
"""Numbers that the stored pairs may have for data of any size: 48 MB in float32."""


class LimitedMemoryInverse:
    """An approximate inverse of the Hessian: a preconditioner, corrected by the steps since it was made.

    It is the L-BFGS matrix H that the BFGS updates of all stored pairs (s, y) give when they start from the
    preconditioner, so `H @ y = s` holds for the last pair.  Products with H take the two-loop recursion.  Each pair is
    stored divided by sqrt(s @ y), so that s @ y = 1.

    A change of l2 changes each y by a known vector, so the pairs of one strength serve the next.

    References:
        Nocedal and Wright (2006), Numerical Optimization, algorithm 7.4.
    """

    def __init__(self, first: InverseHessian, problem: Problem, l2: Tensor) -> None:
        """``first`` is the preconditioner, and ``l2`` the penalty by each coordinate, (D + 1,)."""
        self._first, self._l2 = first, l2
        numel = max(SMALL_PAIRS_NUMEL, PAIRS_MEMORY_FRACTION * problem.rows * problem.num_features)
        # One allocation, whose pages the system maps when they are written: many small ones would fragment the memory.
        self._pairs = torch.empty(
            min(MAX_STORED_PAIRS, int(numel / (2 * problem.num_parameters))),
            2,
            problem.num_parameters,
            dtype=problem.dtype,
            device=l2.device,
        )
        self._slots: deque[int] = deque()
        """Rows of the allocation that are in use, from the oldest pair to the newest."""

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def max_pairs(self) -> int:
        """Largest number of stored pairs."""
        return len(self._pairs)

    def __call__(self, gradient: Tensor) -> Tensor:
        """H @ gradient: about the Newton step to be subtracted, (K, D + 1) as the gradient is."""
        rest, factors = gradient.flatten().to(self._pairs.dtype), []
        for step, change in reversed(pairs := self.last_pairs(len(self))):
            factors.append(float(step @ rest))
            rest = rest.sub(change, alpha=factors[-1])
        product = self._first(rest.view_as(gradient).double()).flatten().to(self._pairs.dtype)
        for (step, change), factor in zip(pairs, reversed(factors), strict=True):
            product = product.add_(step, alpha=factor - float(change @ product))
        return product.view_as(gradient).double()

    def update(self, step: Tensor, change: Tensor) -> bool:
        """Stores a step and the change of the gradient along it, both (K, D + 1), in place of the oldest pair if full.

        Returns:
            Whether the pair was stored: it is not where the step met no curvature (step @ change <= 0).
        """
        if not self.max_pairs:
            return False
        full = len(self) == self.max_pairs
        slot = self._slots[0] if full else min({*range(len(self) + 1)} - {*self._slots})
        if not self._store(slot, step.flatten(), change.flatten()):
            return False
        if full:
            self._slots.popleft()
        self._slots.append(slot)
        return True

    def clear(self) -> None:
        """Forgets all pairs."""
        self._slots.clear()

    def change_l2(self, l2: Tensor) -> None:
        """Changes the inverse to that for another penalty, (D + 1,): (new l2 - old l2) * s is added to each y."""
        added = (l2 - self._l2).to(self._pairs.dtype)
        self._l2 = l2
        if not bool(added.any()):
            return
        for slot in list(self._slots):
            step, change = self._pairs[slot]
            if not self._store(slot, step, change + (step.view(-1, len(added)) * added).flatten()):
                self._slots.remove(slot)

    def last_pairs(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """The newest pairs from the oldest to the newest, each vector (K * (D + 1),), scaled to step @ change = 1."""
        slots = list(self._slots)[len(self) - number :]
        return [(self._pairs[slot, 0], self._pairs[slot, 1]) for slot in slots]

    def _store(self, slot: int, step: Tensor, change: Tensor) -> bool:
        curvature = float(step.double() @ change.double())
        if not curvature > 0:
            return False
        size = math.sqrt(curvature)
        self._pairs[slot, 0], self._pairs[slot, 1] = step / size, change / size
        return True
