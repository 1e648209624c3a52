"""A limited-memory inverse of the Hessian: a preconditioner, corrected by the steps since it was made."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from logreg.solvers.newton_steps import Solve
from logreg.solvers.problem import Problem

PAIRS, PAIRS_MEMORY, PAIRS_LITTLE = 300, 0.1, 4e6
"""Moves that are remembered at most, the fraction of the data that they may take, and numbers in any case."""


class LimitedMemoryInverse:
    """About the inverse of the Hessian: a preconditioner, and the curvature that moves have met since it was made.

    What the loss has of it outlasts a change of l2.

    Source:
        Nocedal and Wright (2006), Numerical Optimization, algorithm 7.4.
    """

    def __init__(self, first: Solve, problem: Problem, l2: Tensor) -> None:
        """``first`` is the preconditioner, and ``l2`` the penalties (D + 1,) in the coordinates it works in."""
        self._first, self._l2 = first, l2
        most = max(PAIRS_LITTLE, PAIRS_MEMORY * problem.rows * problem.num_features) / (2 * problem.num_parameters)
        # One allocation, of which memory is taken as it is filled: many small ones among others leave gaps.
        self._kept = torch.empty(
            min(PAIRS, int(most)), 2, problem.num_parameters, dtype=problem.dtype, device=l2.device
        )
        self._places: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def most(self) -> int:
        """Moves that are remembered at most."""
        return len(self._kept)

    def __call__(self, gradient: Tensor) -> Tensor:
        """About the Newton step to be subtracted, (K, D + 1) as the gradient is."""
        rest, factors = gradient.flatten().to(self._kept.dtype), []
        for move, change in reversed(pairs := self.last(len(self))):
            factors.append(float(move @ rest))
            rest = rest.sub(change, alpha=factors[-1])
        step = self._first(rest.view_as(gradient).double()).flatten().to(self._kept.dtype)
        for (move, change), factor in zip(pairs, reversed(factors), strict=True):
            step = step.add_(move, alpha=factor - float(change @ step))
        return step.view_as(gradient).double()

    def learn(self, move: Tensor, change: Tensor) -> bool:
        """Takes a move of the point, and how it changed the gradient, both (K, D + 1); whether it met curvature."""
        if not self.most:
            return False
        place = self._places[0] if len(self) == self.most else min({*range(len(self) + 1)} - {*self._places})
        if not self._keep(place, move.flatten(), change.flatten()):
            return False
        if len(self) == self.most:
            self._places.popleft()
        self._places.append(place)
        return True

    def under(self, l2: Tensor) -> None:
        """Goes on with other penalties, (D + 1,)."""
        more = (l2 - self._l2).to(self._kept.dtype)
        self._l2 = l2
        if not bool(more.any()):
            return
        for place in list(self._places):
            move, change = self._kept[place]
            if not self._keep(place, move, change + (move.view(-1, len(more)) * more).flatten()):
                self._places.remove(place)

    def last(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """The last moves, and how they changed the gradient; each (K * (D + 1),), to one scale."""
        places = list(self._places)[len(self) - number :]
        return [(self._kept[place, 0], self._kept[place, 1]) for place in places]

    def _keep(self, place: int, move: Tensor, change: Tensor) -> bool:
        curvature = float(move.double() @ change.double())
        if not curvature > 0:
            return False
        by = math.sqrt(curvature)
        self._kept[place, 0], self._kept[place, 1] = move / by, change / by
        return True
