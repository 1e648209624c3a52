"""Samples of the rows, the limits of percentiles, and the fits to the samples."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logreg.errors import DataError
from logreg.inference.bootstrap import percentile_limits, resampled_weights
from logreg.inference.design import Design
from logreg.inference.likelihood import Likelihood, maximize
from logreg.inference.sample_maxima import maximize_samples
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of
from logreg.solvers.paths.folds import Reweighted, fit_resampled, fit_strengths
from logreg.solvers.paths.l2_path import Strength


def ones(rows: int) -> Tensor:
    return torch.ones(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("estimate", "confidence", "limits"),
    [
        # boot.ci(b, type = "perc") of boot 1.3 on R 4.2.2, where b$t is as below: of the median there is no correction
        (0.25, 0.95, (0.000625, 0.950625)),
        (0.25, 0.90, (0.0025, 0.9025)),
        # boot.ci(b, type = "bca", L = c(-1, 1, -2, 2)) with b$t0 = 0.3: the acceleration of L is 0
        (0.3, 0.95, (0.00181712772912609, 0.972306010036824)),
        (0.3, 0.90, (0.0063800768863951, 0.941290070437497)),
    ],
)
def test_limits_are_those_of_r(estimate: float, confidence: float, limits: tuple[float, float]) -> None:
    values = ((torch.arange(1, 1000) * 37 % 1000).double() / 1000) ** 2
    both = torch.stack([values, -values], dim=1)
    low, high = percentile_limits(both, torch.tensor([estimate, -estimate], dtype=torch.float64), confidence)
    assert [float(low[0]), float(high[0])] == pytest.approx(limits, rel=1e-9)
    assert [-float(high[1]), -float(low[1])] == pytest.approx(limits, rel=1e-9)


def test_limits_of_values_that_are_mostly_0_are_percentiles() -> None:
    # as an l1 penalty leaves them; the estimate is the median
    values = torch.cat([torch.zeros(800, dtype=torch.float64), torch.arange(-99, 100, dtype=torch.float64)])
    low, high = percentile_limits(values.unsqueeze(1), torch.zeros(1, dtype=torch.float64), 0.95)
    assert [float(low), float(high)] == [-75.0, 75.0]


@pytest.mark.long
def test_samples_have_as_many_rows_in_the_mean() -> None:
    (first,) = resampled_weights(ones(40), 300, seed=1)
    assert first.shape == (300, 40)
    assert bool((first.sum(1) == 40).all())
    assert float(first.var()) == pytest.approx(1, abs=0.05)  # about Poisson
    (again,) = resampled_weights(ones(40), 300, seed=1)
    (other,) = resampled_weights(ones(40), 300, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert sum(len(some) for some in resampled_weights(ones(2**20), 6, seed=0)) == 6


def test_rows_of_a_weight_are_drawn_one_by_one_or_as_one() -> None:
    weights = torch.tensor([1.0, 0.0, 5.0, 2.0], dtype=torch.float64)
    (counted,) = resampled_weights(weights, 4000, seed=0)
    assert bool((counted.sum(1) == 8).all())
    assert counted.mean(0).tolist() == pytest.approx(weights.tolist(), abs=0.1)
    assert float(counted[:, 2].var()) == pytest.approx(8 * 5 / 8 * 3 / 8, rel=0.1)
    (whole,) = resampled_weights(weights, 4000, seed=0, counts=False)
    assert {*whole[:, 2].tolist()} <= {5.0 * times for times in range(5)}
    assert whole.mean(0).tolist() == pytest.approx(weights.tolist(), abs=0.2)


def test_clusters_are_drawn_as_a_whole() -> None:
    clusters = torch.tensor([0, 1, 1, 2, 2, 2])
    (drawn,) = resampled_weights(ones(6), 500, seed=0, clusters=clusters)
    assert torch.equal(drawn[:, 1], drawn[:, 2])
    assert torch.equal(drawn[:, 3], drawn[:, 5])
    assert bool((drawn[:, 0] + drawn[:, 1] + drawn[:, 3] == 3).all())


@pytest.mark.parametrize(
    ("outputs", "l2", "l1", "rows"),
    [(1, 0.03, 0.0, 120), (1, 0.0, 0.02, 120), (3, 0.03, 0.0, 120), (1, 0.03, 0.0, 9000)],
    ids=["batch", "batch of l1", "softmax", "blocks"],
)
def test_fits_to_samples_are_those_of_scikit_learn(
    outputs: int, l2: float, l1: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 4, generator=draw, dtype=torch.float64)
    x[:, 3] = x[:, 3] * 3 + 1
    y = ((x[:, 0] + torch.randn(rows, generator=draw, dtype=torch.float64)) > 0).long()
    y = y if outputs == 1 else y + (x[:, 1] > 0.5).long()
    memory = MemoryRows(x, y)
    problem = problem_of(memory, Objective("bce" if outputs == 1 else "cross_entropy", l2=l2, l1=l1))
    if rows == 9000:  # not in a batch, and block by block
        monkeypatch.setattr("logreg.solvers.paths.folds._in_memory", lambda _: None)
        monkeypatch.setattr("logreg.solvers.paths.folds.MemoryRows", tuple)
        memory.block_rows = 2500
    (full,) = fit_strengths(problem, memory, [Strength(l2, l1)], 1e-10)
    (weights,) = resampled_weights(ones(rows), 3, seed=3)
    found = fit_resampled(problem, memory, weights, full, 1e-12)
    for own, point in zip(weights, found, strict=True):
        assert point.converged
        theirs = LogisticRegression(
            C=1 / (rows * (l2 + l1)),
            l1_ratio=float(l1 > 0),
            solver="saga" if l1 else "newton-cholesky",
            tol=1e-12,
            max_iter=100_000,
        )
        theirs.fit(x.numpy(), y.numpy(), own.numpy())
        mine = point.point[:, :-1] if outputs == 1 else point.point[:, :-1] - point.point[:, :-1].mean(0)
        coef = torch.from_numpy(theirs.coef_)
        assert mine.flatten().tolist() == pytest.approx(
            (coef if outputs == 1 else coef - coef.mean(0)).flatten().tolist(), abs=1e-5
        )


@pytest.mark.long
@pytest.mark.parametrize("name", ["bce", "cauchit", "cloglog", "cross_entropy"])
def test_maxima_of_samples_are_those_of_each_alone(name: str) -> None:
    draw = torch.Generator().manual_seed(1)
    x = 3 + torch.randn(40, 3, generator=draw, dtype=torch.float64)
    x[:, 2] = (x[:, 2] > 4).double()  # constant in some samples
    cuts = [2.0, 4.0] if name == "cross_entropy" else [3.0]
    y = torch.bucketize(x[:, 0] + 2 * torch.randn(40, generator=draw, dtype=torch.float64), torch.tensor(cuts).double())
    rows = MemoryRows(x, y, None, torch.linspace(-0.5, 0.5, 40, dtype=torch.float64) if name == "cloglog" else None)
    rows.block_rows = 10
    problem = problem_of(rows, Objective(name))
    outputs = tuple(range(problem.num_outputs))[1:] or (0,)
    design = Design((0, 1, 2), ("a", "b", "c", "intercept"), (), {}, outputs, tuple(map(str, outputs)), "0")
    likelihood = Likelihood(problem, rows, design, max(2, problem.num_outputs))
    start = maximize(likelihood, likelihood.evaluate(torch.zeros(design.shape, dtype=torch.float64))).parameters
    (weights,) = resampled_weights(ones(40), 30, seed=4)
    likelihood.passes = 0
    found, has_one = maximize_samples(likelihood, start, weights, 1e-4)
    assert likelihood.passes < 100  # for each alone some hundreds
    assert 0 < int(has_one.sum()) < 30
    for own, mine, is_found in zip(weights, found, has_one.tolist(), strict=True):
        alone = Likelihood(problem, Reweighted(rows, own), design, likelihood.num_classes)
        if not is_found:
            with pytest.raises(DataError, match="must have a maximum"):
                maximize(alone, alone.evaluate(start), tolerance=1e-4)
            continue
        theirs = maximize(alone, alone.evaluate(start), tolerance=1e-4).parameters
        assert mine.flatten().tolist() == pytest.approx(theirs.flatten().tolist(), rel=1e-6, abs=1e-6)
