"""Limits of predicted probabilities: the delta method by differences, mirrored classes, and coverage."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from logreg.facts import DataFacts
from logreg.inference.design import choose_design
from logreg.inference.prediction import MAX_PRODUCTS, PredictionIntervals
from logreg.losses import LOSSES

D = 4


def intervals(loss: str, classes: int, outputs: int, seed: int = 0) -> PredictionIntervals:
    """Estimates that are drawn, with a covariance of them."""
    draw = torch.Generator().manual_seed(seed)
    facts = DataFacts(name="drawn", num_features=D, class_names=tuple("abcdef"[:classes]), rows={"train": 100})
    design = choose_design(facts, outputs, {}, "")
    size = (classes - 1) * (D + 1)
    root = 0.2 * torch.randn(size, size, generator=draw, dtype=torch.float64)
    mean, std = 0.3 * torch.randn(2, D, generator=draw, dtype=torch.float64)
    parameters = 0.5 * torch.randn(classes - 1, D + 1, generator=draw, dtype=torch.float64)
    return PredictionIntervals(design, LOSSES[loss], parameters, root @ root.T, mean, std.exp(), 0.9)


def drawn(rows: int = 40) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def probabilities(of: PredictionIntervals, parameters: Tensor, features: Tensor) -> Tensor:
    columns = torch.nn.functional.pad((features - of.mean) / of.std, (0, 1), value=1.0)
    logits = columns @ parameters.view(of.parameters.shape).T
    if of.loss.couples_outputs:
        return torch.softmax(torch.nn.functional.pad(logits, (1, 0)), dim=1)
    return of.loss.class_probabilities(logits)


@pytest.mark.parametrize(
    ("loss", "classes", "outputs"), [("bce", 2, 1), ("cross_entropy", 2, 2), ("cross_entropy", 4, 4)]
)
def test_limits_are_the_delta_method_on_the_log_odds(loss: str, classes: int, outputs: int) -> None:
    of, features = intervals(loss, classes, outputs), drawn()

    def log_odds(parameters: Tensor) -> Tensor:
        return torch.logit(probabilities(of, parameters, features))

    at = of.parameters.flatten()
    jacobian = torch.autograd.functional.jacobian(log_odds, at)  # (n, C, M * P)
    error = torch.einsum("ncp,pq,ncq->nc", jacobian, of.covariance, jacobian).sqrt()
    reach = NormalDist().inv_cdf(0.95) * error
    low, high = of.limits(features)
    torch.testing.assert_close(low, torch.sigmoid(log_odds(at) - reach), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(high, torch.sigmoid(log_odds(at) + reach), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("link", ["probit", "cloglog", "cauchit"])
def test_a_link_takes_the_ends_of_the_logit(link: str) -> None:
    of, features = intervals(link, 2, 1), drawn()
    columns = torch.nn.functional.pad((features - of.mean) / of.std, (0, 1), value=1.0)
    z, error = columns @ of.parameters[0], (columns @ of.covariance * columns).sum(1).sqrt()
    low, high = of.limits(features)
    for limit, sign in ((low, -1), (high, 1)):
        end = z + sign * NormalDist().inv_cdf(0.95) * error
        torch.testing.assert_close(limit[:, 1], of.loss.inverse_link(end.unsqueeze(1))[:, 0])
    torch.testing.assert_close(low[:, 0], 1 - high[:, 1])


def test_extreme_rows_have_limits_within_0_and_1() -> None:
    of = intervals("cross_entropy", 4, 4)
    low, high = of.limits(1e3 * drawn())
    assert bool((low >= 0).all() & (low <= high).all() & (high <= 1).all())


def test_an_offset_is_one_more_column() -> None:
    of, features = intervals("bce", 2, 1), drawn()
    moved = torch.cat([features, torch.full((len(features), 1), 0.7, dtype=torch.float64)], dim=1)
    further = of.parameters.clone()
    further[0, -1] += 0.7
    same = PredictionIntervals(of.design, of.loss, further, of.covariance, of.mean, of.std, of.confidence)
    for one, other in zip(of.limits(moved), same.limits(features), strict=True):
        torch.testing.assert_close(one, other)


def test_many_rows_are_taken_in_parts() -> None:
    of = intervals("cross_entropy", 6, 6)
    number = 2 * MAX_PRODUCTS // (5 * 25) + 3
    features = drawn(number)
    low, _ = of.limits(features)
    assert torch.equal(low[-3:], of.limits(features)[0][-3:])
    torch.testing.assert_close(low[-3:], of.limits(features[-3:])[0])
