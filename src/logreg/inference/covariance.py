"""Covariance matrices of the estimates: from the Hessian, and robust ones from the scores of rows and of clusters.

With the information I and the scores s_i of the rows, the robust ("sandwich") matrix is I^-1 (sum_i s_i s_i') I^-1.
HC1 multiplies it by n / (n - k), HC2 divides each s_i s_i' by 1 - h_i and HC3 by (1 - h_i)^2, with the leverage h_i of
the row.  As in R's `sandwich`, information and leverages are the expected ones.  Clusters take the sum of their scores
in place of s_i, times G / (G - 1) * (n - 1) / (n - k).

References:
    White (1982), Maximum likelihood estimation of misspecified models.
    MacKinnon and White (1985), Some heteroskedasticity-consistent covariance matrix estimators with improved finite
    sample properties.
    Liang and Zeger (1986), Longitudinal data analysis using generalized linear models.
    Zeileis, Koell and Graham (2020), Various versatile variances: an object-oriented implementation of clustered
    covariances in R.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.inference.likelihood import Likelihood, Maximum
from logreg.solvers.kernels import affine, gram_of_columns
from logreg.solvers.passes.base import Pass, PreparedRows, drive, request

ROBUST = ("HC0", "HC1", "HC2", "HC3")
"""Robust covariances of independent rows."""


class Sandwich(Pass[Tensor]):
    """The robust matrix without its factor: I^-1 (sum of s_i s_i') I^-1, with the scores of rows or of clusters.

    Of one output, the score of a row x is r x, with the derivative r of the loss by the logit.  With I^-1 = L L', the
    leverage of the row is the squared norm of L' x, times the curvature, and x = L'^-1 (L' x).
    """

    sums = ("_products", "_of_clusters")
    copies = True

    def __init__(
        self,
        likelihood: Likelihood,
        found: Maximum,
        kind: str = "HC0",
        counts: bool = False,
        clusters: Tensor | None = None,
    ) -> None:
        """Prepares the sums.

        Args:
            likelihood: The likelihood.
            found: Its maximum.
            kind: One of `ROBUST`.
            counts: Whether a row of weight 3 is three rows; else it is one row whose score is multiplied by 3.
            clusters: Cluster of each row in the order of the row source, (N,), from 0; ``None`` for none.
        """
        problem, design = likelihood.problem, likelihood.design
        super().__init__(problem, problem.model)
        self._design, self._power, self._counts = design, {"HC2": 1, "HC3": 2}.get(kind, 0), counts
        point = design.to_point(found.parameters, problem.num_outputs, problem.num_features)
        self._coef, self._intercept = self.linear(point)
        self._clusters, self._position, size = clusters, 0, found.parameters.numel()
        self._of_clusters = None if clusters is None else self.zeros(int(clusters.max()) + 1, size)
        self._outer = found.covariance
        """The matrix A (M * P, Q) of the result A B A', with the sum B of products of Q numbers of each row."""
        self._of_columns = len(design.outputs) == 1 and clusters is None
        if self._of_columns and self._power:
            factor, change = torch.linalg.cholesky(found.covariance), self.frame_change()
            to_norm = change[:, design.kept] @ factor
            self._coef = torch.cat([self._coef, to_norm[:-1].T])  # one product for the logits and for L' x
            self._intercept = torch.cat([self._intercept, to_norm[-1]])
            self._outer = F.pad(factor, (problem.num_outputs, 0))
        elif self._of_columns:
            self._outer = found.covariance @ self.frame_change().T[design.kept]
        self._products = self.zeros(self._outer.shape[1], self._outer.shape[1])

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the scores of these rows, which follow those before in the order of the source."""
        loss, weights, outputs = self.problem.loss, rows.weights, self.problem.num_outputs
        linear = affine(rows.features, self._coef, self._intercept)
        logits = linear[:, :outputs] if rows.offset is None else linear[:, :outputs] + rows.offset
        residuals = loss.residual(logits, rows.targets)[:, list(self._design.outputs)]
        times = None if weights is None else weights[:, 0] ** (1 if self._counts else 2)
        if self._of_columns:
            squares = residuals[:, 0].square()
            if self._power:
                norms = torch.linalg.vector_norm(linear[:, outputs:], dim=1)
                leverage = norms.square_() * loss.own_curvature(loss.expected_curvature(logits))[:, 0]
                leverage = leverage if weights is None or self._counts else leverage * weights[:, 0]
                squares /= (1 - leverage).clamp(min=1e-300) ** self._power
            columns = linear if self._power else F.pad(rows.features, (0, 1), value=1.0)
            self._products += gram_of_columns(columns.T, squares if times is None else squares * times)
            return
        features = self._design.columns(rows.features, self._fold)
        scores = (residuals.unsqueeze(2) * features.unsqueeze(1)).flatten(1)
        if self._of_clusters is None:
            self._products += gram_of_columns(scores.T, scores.new_ones(len(scores)) if times is None else times)
            return
        assert self._clusters is not None
        scores = scores if weights is None else scores * weights
        mine = self._clusters[self._position : self._position + len(scores)]
        self._of_clusters.index_add_(0, mine, scores)
        self._position += len(scores)

    def result(self) -> Tensor:
        """The matrix, (M * P, M * P)."""
        products = self._products if self._of_clusters is None else self._of_clusters.T @ self._of_clusters
        return self._outer @ products @ self._outer.T


def robust_covariance(likelihood: Likelihood, found: Maximum, kind: str, rows: float, counts: bool) -> Tensor:
    """The covariance of the estimates where the model's variances may be wrong, (M * P, M * P).

    Args:
        likelihood: The likelihood.
        found: Its maximum.
        kind: One of `ROBUST`.
        rows: Number of rows, n; the sum of their weights where these are counts.
        counts: Whether weights are counts of rows.
    """
    factor = rows / (rows - found.parameters.numel()) if kind == "HC1" else 1.0
    return factor * drive(request(Sandwich(likelihood, found, kind, counts)), likelihood.rows)


def cluster_covariance(likelihood: Likelihood, found: Maximum, clusters: Tensor, rows: float) -> Tensor:
    """The covariance of the estimates where rows of one cluster depend on each other, (M * P, M * P).

    Args:
        likelihood: The likelihood.
        found: Its maximum.
        clusters: Cluster of each row in the order of the row source, (N,), from 0.
        rows: Number of rows, n.
    """
    groups, parameters = int(clusters.max()) + 1, found.parameters.numel()
    factor = groups / (groups - 1) * (rows - 1) / (rows - parameters)
    return factor * drive(request(Sandwich(likelihood, found, clusters=clusters)), likelihood.rows)
