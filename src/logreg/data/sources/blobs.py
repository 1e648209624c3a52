"""Two Gaussian classes whose Bayes-optimal classifier is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from logreg.constraints import check, number, whole
from logreg.data.base import BayesClassifier, RawData, Table


@dataclass(frozen=True)
class Blobs:
    """Two equally likely Gaussian classes with a common covariance matrix Sigma.

    The posterior probability is exactly logistic, with coef = Sigma^-1 (mu1 - mu0) and intercept 0.  The accuracy of
    the Bayes-optimal classifier is Phi(distance / 2), with Phi the cumulative distribution function of the standard
    normal distribution.

    Attributes:
        rows: Number of rows of all splits together, >= 10.
        features: Number of features D, >= 1.
        distance: Mahalanobis distance between the means, sqrt((mu1 - mu0)' Sigma^-1 (mu1 - mu0)), >= 0.
        correlation: Correlation between any two features, in [0, 1); the variance of each feature is 1.
        seed: Seed of the random draw, >= 0.

    References:
        Efron (1975), The efficiency of logistic regression compared to normal discriminant analysis, JASA 70.
    """

    rows: int = 3000
    features: int = 2
    distance: float = 2.0
    correlation: float = 0.5
    seed: int = 0
    name: str = "blobs"

    def __post_init__(self) -> None:
        check("dataset.rows", self.rows, whole(at_least=10))
        check("dataset.features", self.features, whole(at_least=1))
        check("dataset.distance", self.distance, number(at_least=0))
        check("dataset.correlation", self.correlation, number(at_least=0, below=1))
        check("dataset.seed", self.seed, whole(at_least=0))

    def read(self) -> RawData:
        """All rows as train, in random order; half of them are of each class.  Features are float64, shape (N, D)."""
        generator = torch.Generator().manual_seed(self.seed)
        labels = (torch.arange(self.rows) % 2)[torch.randperm(self.rows, generator=generator)]
        # x = sqrt(1 - r) individual + sqrt(r) shared has variance 1 and correlation r.
        individual = torch.randn(self.rows, self.features, generator=generator, dtype=torch.float64)
        shared = torch.randn(self.rows, 1, generator=generator, dtype=torch.float64)
        features = individual.mul_(math.sqrt(1 - self.correlation)).add_(shared, alpha=math.sqrt(self.correlation))
        mean_difference, coef = self._mean_difference_and_coef()
        features += (labels.unsqueeze(1) - 0.5) * mean_difference  # means at -+ half of it: the intercept is 0
        accuracy = (1 + math.erf(self.distance / 2 / math.sqrt(2))) / 2
        return RawData(
            {"train": Table(features, labels)},
            class_names=("class 0", "class 1"),
            feature_names=tuple(f"x{1 + feature}" for feature in range(self.features)),
            bayes_classifier=BayesClassifier(coef=coef, intercept=0.0, accuracy=accuracy),
        )

    def _mean_difference_and_coef(self) -> tuple[Tensor, Tensor]:
        """mu1 - mu0 and Sigma^-1 (mu1 - mu0), both of shape (D,)."""
        r, d = self.correlation, self.features
        # Unequal entries, so that the optimal coefficients differ from feature to feature.
        direction = 1 / torch.arange(1, d + 1, dtype=torch.float64)
        # Sigma = (1 - r) I + r 11', whose inverse is (I - r 11' / (1 - r + d r)) / (1 - r).
        solution = (direction - r * direction.sum() / (1 - r + d * r)) / (1 - r)
        length = self.distance / math.sqrt(float(direction @ solution))
        return direction * length, solution * length
