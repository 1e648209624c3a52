"""Two Gaussian clouds whose best classifier is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from logreg.constraints import check, number, whole
from logreg.data.base import BayesClassifier, RawData, Table


@dataclass(frozen=True)
class Blobs:
    """Two classes, equally likely, Gaussian with a common covariance Sigma.

    Their posterior is exactly logistic, with coef = Sigma^-1 (mu1 - mu0), and the best possible
    accuracy is Phi(distance / 2).

    Attributes:
        rows: Rows in all, before splitting, >= 10.
        features: D, >= 1.
        distance: Mahalanobis distance between the means, sqrt((mu1 - mu0)' Sigma^-1 (mu1 - mu0)), >= 0.
        correlation: Correlation between any two features, in [0, 1); their variances are 1.
        seed: Fixes the draw.

    Source:
        Efron (1975), The efficiency of logistic regression compared to normal discriminant analysis.
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
        """The draw as one table: half the rows are of each class, in random order."""
        draw = torch.Generator().manual_seed(self.seed)
        labels = (torch.arange(self.rows) % 2)[torch.randperm(self.rows, generator=draw)]
        # x = sqrt(1 - r) own + sqrt(r) common has variance 1 and correlation r.
        own = torch.randn(self.rows, self.features, generator=draw, dtype=torch.float64)
        common = torch.randn(self.rows, 1, generator=draw, dtype=torch.float64)
        features = own.mul_(math.sqrt(1 - self.correlation)).add_(common, alpha=math.sqrt(self.correlation))
        shift, coef = self._shift_and_coef()
        features += (labels.unsqueeze(1) - 0.5) * shift
        best = BayesClassifier(coef=coef, intercept=0.0, accuracy=(1 + math.erf(self.distance / 2 / math.sqrt(2))) / 2)
        return RawData(
            {"train": Table(features, labels)},
            class_names=("class 0", "class 1"),
            feature_names=tuple(f"x{1 + feature}" for feature in range(self.features)),
            bayes_classifier=best,
        )

    def _shift_and_coef(self) -> tuple[Tensor, Tensor]:
        """mu1 - mu0 and Sigma^-1 (mu1 - mu0); the means lie at -+ half the shift, so the intercept is 0."""
        r, d = self.correlation, self.features
        # Unequal parts, so that the best coefficients differ from feature to feature.
        direction = 1 / torch.arange(1, d + 1, dtype=torch.float64)
        # Sigma = (1 - r) I + r 11', whose inverse is (I - r 11' / (1 - r + d r)) / (1 - r).
        solved = (direction - r * direction.sum() / (1 - r + d * r)) / (1 - r)
        size = self.distance / math.sqrt(float(direction @ solved))
        return direction * size, solved * size
