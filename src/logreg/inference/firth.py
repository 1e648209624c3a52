"""Firth's penalized likelihood: maximum likelihood with Jeffreys' prior, finite where the classes are separated.

The function is l(theta) + log det I(theta) / 2, with the information I of all parameters.  Its maximum has a bias of
smaller order than that of l.  It is concave near its maximum but not everywhere, so a point with gradient 0 is certain,
and that no other one is higher is not.

References:
    Firth (1993), Bias reduction of maximum likelihood estimates.
    Heinze and Schemper (2002), A solution to the problem of separation in logistic regression.
    Kosmidis and Firth (2021), Jeffreys-prior penalty, finiteness and shrinkage in binomial-response generalized linear
    models.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from logreg.inference.design import Design
from logreg.inference.likelihood import Evaluation, Likelihood, inverse_information
from logreg.rows import RowSource
from logreg.solvers.passes.base import Pass, PreparedRows, drive, request
from logreg.solvers.problem import Problem


class FirthLikelihood(Likelihood):
    """The penalized likelihood; each evaluation is two passes, and the Hessian is the information.

    Newton's method is then Fisher scoring, which converges linearly.
    """

    max_steps = 400

    def __init__(self, problem: Problem, rows: RowSource, design: Design, num_classes: int, to_source: Tensor) -> None:
        """``to_source`` takes parameters to source units, (P, P): the information of the prior is in these."""
        super().__init__(problem, rows, design, num_classes)
        self._log_unit = len(design.outputs) * float(torch.linalg.slogdet(to_source).logabsdet)

    def evaluate(self, parameters: Tensor) -> Evaluation:
        """Value, gradient and information at parameters (M, P)."""
        plain = super().evaluate(parameters)
        inverse = inverse_information(plain.hessian)
        self.passes += 1
        change = drive(request(_DeterminantGradient(self, parameters, inverse)), self.rows)
        value = plain.value - float(torch.linalg.slogdet(plain.hessian).logabsdet) / 2 + self._log_unit
        return replace(plain, value=value, gradient=plain.gradient - change)


class _DeterminantGradient(Pass[Tensor]):
    """Gradient of log det I / 2: sum over the rows of x_i times third cumulants, weighted by leverages, (M * P,).

    With q_i = (x_i' C_ab x_i) for the blocks C_ab of the inverse of I, the derivative by the parameters of class k is
    sum_i x_i sum_ab q_i,ab kappa_abk / 2, where kappa is the third cumulant of the indicators of the classes.
    """

    sums = ("_total",)
    copies = True

    def __init__(self, likelihood: Likelihood, parameters: Tensor, inverse: Tensor) -> None:
        problem, design = likelihood.problem, likelihood.design
        super().__init__(problem, problem.model)
        self._design = design
        point = design.to_point(parameters, problem.num_outputs, problem.num_features)
        self._coef, self._intercept = self.linear(point)
        outputs, size = design.shape
        self._blocks = inverse.view(outputs, size, outputs, size).permute(0, 2, 1, 3)  # (M, M, P, P)
        self._total = self.zeros(outputs, size)

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the terms of these rows."""
        logits = rows.logits(self._coef, self._intercept)
        p = self.problem.loss.inverse_link(logits)[:, list(self._design.outputs)]
        features = self._design.columns(rows.features, self._fold)
        q = torch.einsum("ni,abij,nj->nab", features, self._blocks, features)
        own = q.diagonal(dim1=1, dim2=2)
        of_p = torch.einsum("nab,nb->na", q, p)  # sum_b q_ab p_b
        both = (of_p * p).sum(1, keepdim=True)
        terms = p * (own - (own * p).sum(1, keepdim=True) - 2 * of_p + 2 * both) / 2
        if rows.weights is not None:
            terms = terms * rows.weights
        self._total += terms.T @ features

    def result(self) -> Tensor:
        """The gradient."""
        return self._total.flatten()
