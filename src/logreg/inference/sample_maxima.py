"""The maxima of the likelihoods of many samples of the rows at once, as of a bootstrap.

The samples share their rows, and differ in the weights of these.  So a pass over the rows serves all of them, and their
logits, gradients and Hessians are matrix products: the Hessians are the weighted sums of the products x_i x_j of two
columns, which are computed once for all samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.inference.likelihood import MIN_CURVATURE, ROUNDING_STEP, VALUE_ROUNDING, Likelihood
from logreg.solvers.passes.base import Pass, PreparedRows, drive, request
from logreg.solvers.threads import threads_for

MAX_NUMBERS = 2**18
"""Logits of samples, and products of columns, that are held at once: 2 MiB each, about what a cache holds."""

MIN_ROWS = 64
"""Rows that are taken at once at least: with fewer, products of matrices take longer."""

MAX_HESSIAN_NUMBERS = 2**22
"""Numbers of the Hessians of the samples that are fitted at once: 32 MiB."""


class _Evaluations(NamedTuple):
    """The negative log-likelihoods of S samples at a point of each; see `LikelihoodEvaluation`."""

    parameters: Tensor
    """Shape (S, M, P)."""
    value: Tensor
    """Shape (S,)."""
    gradient: Tensor
    """Shape (S, M * P)."""
    hessian: Tensor
    """Shape (S, M * P, M * P)."""

    def at(self, which: Tensor) -> _Evaluations:
        """Those of some of the samples."""
        return _Evaluations(*(field[which] for field in self))


class _SamplesPass(Pass[_Evaluations]):
    """Value, gradient and Hessian of the likelihood of each sample."""

    sums = ("_values", "_gradients", "_hessians")
    copies = True

    def __init__(self, likelihood: Likelihood, parameters: Tensor, weights: Tensor, expected: bool) -> None:
        """Takes parameters (S, M, P) and weights (S, N); Hessians are Fisher's information where ``expected``."""
        super().__init__(likelihood.problem, likelihood.problem.model)
        self._design, self._parameters, self._weights, self._expected = likelihood.design, parameters, weights, expected
        samples, outputs, size = parameters.shape
        self._outputs, self._columns = (torch.triu_indices(number, number) for number in (outputs, size))
        self._first = 0
        self._values, self._gradients = self.zeros(samples), self.zeros(samples * outputs, size)
        self._hessians = self.zeros(samples * len(self._outputs[0]), len(self._columns[0]))

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the terms of these rows, some of them at a time."""
        columns = self._design.columns(rows.features, self._fold)
        of_samples = len(self._weights) * max(rows.outputs, len(self._outputs[0]))
        step = max(MIN_ROWS, MAX_NUMBERS // max(of_samples, len(self._columns[0])))
        for first in range(0, len(columns), step):
            some = slice(first, first + step)
            own = self._weights[:, self._first + first : self._first + min(first + step, len(columns))]
            self._add(columns[some], rows.labels[some], own, None if rows.offset is None else rows.offset[some])
        self._first += len(columns)

    def _add(self, columns: Tensor, labels: Tensor, weights: Tensor, offset: Tensor | None) -> None:
        (samples, number), loss = weights.shape, self.problem.loss
        kept = list(self._design.outputs)
        logits = columns.new_zeros(samples, number, self.problem.num_outputs)
        logits[:, :, kept] = columns @ self._parameters.mT
        if offset is not None:
            logits += offset
        logits, labels = logits.flatten(0, 1), labels.repeat(samples)
        values, residuals, curvature = loss.evaluate(logits, labels)
        if not loss.is_convex:
            of_targets = F.one_hot(labels, 2)[:, 1:].double()
            curvature = loss.expected_curvature(logits) if self._expected else loss.curvature(logits, of_targets)
        of_rows = weights.unsqueeze(2)
        residuals, curvature = (one.view(samples, number, -1)[:, :, kept] for one in (residuals, curvature))
        self._values += torch.linalg.vecdot(values.view(samples, number), weights)
        self._gradients += (residuals * of_rows).mT.flatten(0, 1) @ columns
        one, other = self._outputs
        spread = curvature[:, :, one]
        if self.problem.coupled:  # diag(p) - p p'
            spread = torch.where(one == other, spread, 0.0) - spread * curvature[:, :, other]
        products = columns.T[self._columns[0]] * columns.T[self._columns[1]]
        self._hessians.addmm_((spread * of_rows).mT.flatten(0, 1), products.T)

    def result(self) -> _Evaluations:
        """The evaluations."""
        samples, outputs, size = self._parameters.shape
        of_pairs = self._hessians.view(samples, len(self._outputs[0]), -1)
        rows, columns = _full(self._outputs, outputs), _full(self._columns, size)
        hessians = of_pairs[:, rows][..., columns].transpose(2, 3).reshape(samples, outputs * size, outputs * size)
        return _Evaluations(self._parameters, self._values, self._gradients.view(samples, -1), hessians)


def _full(upper: Tensor, size: int) -> Tensor:
    """The place among the pairs of the upper triangle of each element of a symmetric matrix, (size, size)."""
    places = upper.new_zeros(size, size)
    row, column = upper
    places[row, column] = places[column, row] = torch.arange(len(row))
    return places


def maximize_samples(likelihood: Likelihood, start: Tensor, weights: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Maximizes the likelihood of each of several samples of the rows: `maximize` for all of them at once.

    Args:
        likelihood: The likelihood; the weights of its own rows do not matter.
        start: The parameters to start from, (M, P).
        weights: Weights of the rows in each sample, (S, N), float64.
        tolerance: As of `maximize`.

    Returns:
        The maxima, (S, M, P), and whether each sample has one, (S,).
    """
    most = max(1, MAX_HESSIAN_NUMBERS // start.numel() ** 2)
    found = [_maximize(likelihood, start, some, tolerance) for some in weights.split(most)]
    return torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])


def _maximize(likelihood: Likelihood, start: Tensor, weights: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """`maximize_samples` of so many samples that their Hessians are held; samples that are done rest."""
    found, has_one = start.repeat(len(weights), 1, 1), torch.zeros(len(weights), dtype=torch.bool)
    active = torch.arange(len(weights))
    at = _evaluate(likelihood, found, weights)
    hessian, length = at.hessian, torch.full_like(at.value, torch.inf)
    for _ in range(likelihood.max_steps):
        change, failed = _newton_change(at)
        before, length = length, torch.linalg.vecdot(change, -at.gradient).clamp(min=0.0).sqrt()
        failed |= ~length.isfinite()
        is_last = ~failed & ((length <= tolerance) | ((length <= ROUNDING_STEP) & (length > before / 2)))
        # Of separated classes the curvature goes on to fall.
        now, last = ((change * (one @ change.unsqueeze(2))[:, :, 0]).sum(1) for one in (at.hessian, hessian))
        which = active[is_last]
        found[which] = (at.parameters + change.view_as(at.parameters))[is_last]
        has_one[which] = (now >= MIN_CURVATURE * last)[is_last]
        left = (~is_last & ~failed).nonzero()[:, 0]
        active, at, length, change = active[left], at.at(left), length[left], change[left]
        if not len(active):
            break
        hessian = at.hessian
        at, is_lower = _lower(likelihood, at, change, weights[active])
        active, at, hessian, length = active[is_lower], at.at(is_lower), hessian[is_lower], length[is_lower]
    return found, has_one


def _lower(likelihood: Likelihood, at: _Evaluations, change: Tensor, weights: Tensor) -> tuple[_Evaluations, Tensor]:
    """The evaluations after changes, halved where the likelihood falls, and the places of those that are higher now."""
    largest = at.value + VALUE_ROUNDING * at.value.abs()
    trial = _evaluate(likelihood, at.parameters + change.view_as(at.parameters), weights)
    for _ in range(likelihood.max_steps):
        worse = (~(trial.value <= largest)).nonzero()[:, 0]
        if not len(worse):
            break
        change[worse] /= 2
        shorter = at.parameters[worse] + change[worse].view(-1, *at.parameters.shape[1:])
        for field, better in zip(trial, _evaluate(likelihood, shorter, weights[worse]), strict=True):
            field[worse] = better
    return trial, (trial.value <= largest).nonzero()[:, 0]


def _newton_change(at: _Evaluations) -> tuple[Tensor, Tensor]:
    """Newton's change of the parameters, (S, M * P), and where the Hessian is not positive definite, (S,)."""
    unit = at.hessian.diagonal(dim1=1, dim2=2).clamp(min=1e-300).rsqrt()
    factor, failed = torch.linalg.cholesky_ex(at.hessian * unit.unsqueeze(1) * unit.unsqueeze(2))
    change = torch.cholesky_solve((unit * at.gradient).unsqueeze(2), factor)[:, :, 0].mul_(-unit)
    return change, (failed != 0) | ~factor.isfinite().all(2).all(1)


def _evaluate(likelihood: Likelihood, parameters: Tensor, weights: Tensor) -> _Evaluations:
    """The evaluations of samples; with Fisher's information where a Hessian is not positive definite."""
    found = _run(likelihood, parameters, weights)
    if not likelihood.problem.loss.is_convex:
        failed = torch.linalg.cholesky_ex(found.hessian).info.nonzero()[:, 0]
        if len(failed):
            found.hessian[failed] = _run(likelihood, parameters[failed], weights[failed], expected=True).hessian
    return found


def _run(likelihood: Likelihood, parameters: Tensor, weights: Tensor, expected: bool = False) -> _Evaluations:
    likelihood.passes += 1
    with threads_for(4.0 * parameters.numel() * weights.shape[1]):
        return drive(request(_SamplesPass(likelihood, parameters, weights, expected)), likelihood.rows)
