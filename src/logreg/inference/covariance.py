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

from logreg.inference.likelihood import Likelihood, Maximum
from logreg.solvers.kernels import affine, gram_of_columns, sum_over_rows
from logreg.solvers.passes.base import Pass, PreparedRows, drive, request

ROBUST = ("HC0", "HC1", "HC2", "HC3")
"""Robust covariances of independent rows."""


class ScoreProducts(Pass[Tensor]):
    """Sum over the rows, or over clusters of rows, of the products of scores s_i s_i'."""

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
        self._point = design.to_point(found.parameters, problem.num_outputs, problem.num_features)
        self._coef, self._intercept = self.linear(self._point)
        self._frame, self._root = self.frame_change(), None
        if self._power:  # |root' x|^2 is the squared norm of a row in the metric of the covariance
            kept = design.kept
            root = self.zeros(problem.num_features + 1, len(kept))
            root[kept] = torch.linalg.cholesky(found.covariance)
            self._root = self._frame @ root
        size = found.parameters.numel()
        self._sums_rows = len(design.outputs) == 1 and clusters is None
        order = problem.num_features + 1 if self._sums_rows else size
        self._products = self.zeros(order, order)
        self._clusters, self._position = clusters, 0
        self._of_clusters = None if clusters is None else self.zeros(int(clusters.max()) + 1, size)

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the scores of these rows, which follow those before in the order of the source."""
        loss, weights = self.problem.loss, rows.weights
        logits = rows.logits(self._coef, self._intercept)
        residuals = loss.residual(logits, rows.targets)[:, list(self._design.outputs)]
        if self._sums_rows:
            squares = residuals.square()
            if self._root is not None:
                norms = torch.linalg.vector_norm(affine(rows.features, self._root[:-1].T, self._root[-1]), dim=1)
                leverage = norms.square_().unsqueeze(1) * loss.own_curvature(loss.expected_curvature(logits))[:, :1]
                leverage = leverage if weights is None or self._counts else leverage * weights
                squares /= (1 - leverage).clamp(min=1e-300) ** self._power
            squares = squares if weights is None else squares * weights ** (1 if self._counts else 2)
            self._add_products(rows.features, squares)
            return
        features = self._design.columns(rows.features, self._fold)
        if residuals.shape[1] == 1:
            scores = features.mul_(residuals)
        else:
            scores = (residuals.unsqueeze(2) * features.unsqueeze(1)).flatten(1)
        if self._of_clusters is not None:
            assert self._clusters is not None
            scores = scores if weights is None else scores * weights
            mine = self._clusters[self._position : self._position + len(scores)]
            self._of_clusters.index_add_(0, mine, scores)
            self._position += len(scores)
            return
        squares = scores.new_ones(len(scores)) if weights is None else weights[:, 0] ** (1 if self._counts else 2)
        self._products += gram_of_columns(scores.T, squares)

    def _add_products(self, features: Tensor, squares: Tensor) -> None:
        """Adds products of the features themselves, with weights (n, 1); `result` takes them to the coordinates."""
        sums = sum_over_rows(squares, features)[0]
        self._products[:-1, :-1] += gram_of_columns(features.T, squares[:, 0])
        self._products[:-1, -1] += sums
        self._products[-1, :-1] += sums
        self._products[-1, -1] += squares.sum()

    def result(self) -> Tensor:
        """The sum of products, (M * P, M * P)."""
        if self._of_clusters is not None:
            return self._of_clusters.T @ self._of_clusters
        if not self._sums_rows:
            return self._products
        kept = self._design.kept
        return (self._frame.T @ self._products @ self._frame)[kept][:, kept]


def robust_covariance(likelihood: Likelihood, found: Maximum, kind: str, rows: float, counts: bool) -> Tensor:
    """The covariance of the estimates where the model's variances may be wrong, (M * P, M * P).

    Args:
        likelihood: The likelihood.
        found: Its maximum.
        kind: One of `ROBUST`.
        rows: Number of rows, n; the sum of their weights where these are counts.
        counts: Whether weights are counts of rows.
    """
    products = drive(request(ScoreProducts(likelihood, found, kind, counts)), likelihood.rows)
    parameters = found.parameters.numel()
    factor = rows / (rows - parameters) if kind == "HC1" else 1.0
    return factor * found.covariance @ products @ found.covariance


def cluster_covariance(likelihood: Likelihood, found: Maximum, clusters: Tensor, rows: float) -> Tensor:
    """The covariance of the estimates where rows of one cluster depend on each other, (M * P, M * P).

    Args:
        likelihood: The likelihood.
        found: Its maximum.
        clusters: Cluster of each row in the order of the row source, (N,), from 0.
        rows: Number of rows, n.
    """
    products = drive(request(ScoreProducts(likelihood, found, clusters=clusters)), likelihood.rows)
    groups, parameters = int(clusters.max()) + 1, found.parameters.numel()
    factor = groups / (groups - 1) * (rows - 1) / (rows - parameters)
    return factor * found.covariance @ products @ found.covariance
