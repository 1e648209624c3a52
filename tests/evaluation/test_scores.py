from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from logreg.evaluation.ranking import area_under_roc
from logreg.evaluation.scores import SplitScorer
from logreg.losses import LOSSES
from logreg.losses.objective import Objective


def test_scores_are_those_of_all_rows_at_once_also_with_a_short_last_block(draw: torch.Generator) -> None:
    # lightning-bolts averages over batches, which counts the rows of a short one double.
    logits = torch.randn(10, 1, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1, 1, 1])
    scorer = SplitScorer(Objective("bce"), auroc=True)
    for rows in (slice(0, 4), slice(4, 9), slice(9, 10)):
        scorer.update(logits[rows], labels[rows])
    ours = scorer.compute()
    probabilities = torch.sigmoid(logits)[:, 0].numpy()
    assert ours["loss"] == pytest.approx(log_loss(labels, probabilities))
    assert ours["accuracy"] == pytest.approx(accuracy_score(labels, probabilities > 0.5))
    assert ours["auroc"] == pytest.approx(roc_auc_score(labels, probabilities))


def test_auroc_ranks_by_probabilities_also_when_all_logits_lie_between_0_and_1() -> None:
    # torchmetrics takes values in [0, 1] for probabilities; what it is given must be some.
    logits, labels = torch.tensor([[0.1], [0.9], [0.2], [0.8]]), torch.tensor([0, 1, 1, 0])
    scorer = SplitScorer(Objective("bce"), auroc=True)
    scorer.update(logits, labels)
    assert scorer.compute()["auroc"] == pytest.approx(roc_auc_score(labels, logits[:, 0]))


def test_auroc_of_two_softmax_outputs_is_that_of_their_difference(draw: torch.Generator) -> None:
    logits, labels = torch.randn(30, 2, generator=draw), torch.arange(30) % 2
    scorer = SplitScorer(Objective("cross_entropy"), auroc=True)
    scorer.update(logits, labels)
    assert scorer.compute()["auroc"] == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))


def test_auroc_is_absent_where_a_split_has_one_class_only() -> None:
    scorer = SplitScorer(Objective("bce"), auroc=True)
    scorer.update(torch.tensor([[0.1], [0.9]]), torch.tensor([1, 1]))
    assert "auroc" not in scorer.compute()


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if not loss.is_binary])
def test_scores_of_several_classes_are_those_of_scikit_learn(loss: str, draw: torch.Generator) -> None:
    logits, labels = torch.randn(12, 3, generator=draw, dtype=torch.float64), torch.arange(12) % 3
    scorer = SplitScorer(Objective(loss), auroc=True)
    scorer.update(logits, labels)
    ours = scorer.compute()
    assert ours["accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    if loss == "cross_entropy":
        assert ours["loss"] == pytest.approx(log_loss(labels, torch.softmax(logits, 1).numpy()))
    else:
        p, y = torch.sigmoid(logits).numpy(), np.eye(3)[labels]
        assert ours["loss"] == pytest.approx(-(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1).mean())


def test_reduction_sum_is_the_sum_over_rows() -> None:
    logits, labels = torch.zeros(3, 1), torch.tensor([0, 1, 1])
    scorer = SplitScorer(Objective("bce", "sum"), auroc=False)
    scorer.update(logits, labels)
    assert scorer.compute()["loss"] == pytest.approx(3 * np.log(2))


def test_computing_forgets_the_rows() -> None:
    scorer = SplitScorer(Objective("bce"), auroc=True)
    scorer.update(torch.tensor([[9.0], [-9.0]]), torch.tensor([0, 1]))
    assert scorer.compute()["accuracy"] == 0
    scorer.update(torch.tensor([[9.0], [-9.0]]), torch.tensor([1, 0]))
    assert scorer.compute()["accuracy"] == 1


def test_the_same_score_for_all_rows_has_an_auroc_of_one_half() -> None:
    # 1e-16 apart, as a matrix product may leave equal rows by their place
    scores = 0.3 + 1e-16 * torch.arange(400, dtype=torch.float64)
    assert area_under_roc(scores, torch.arange(400) // 200) == 0.5


@pytest.mark.parametrize("weighted", [False, True])
def test_auroc_counts_ties_half_as_scikit_learn_does(weighted: bool, draw: torch.Generator) -> None:
    levels = torch.tensor([-40.0, -1.0, 0.0, 1 / 3, 41.0, 42.0], dtype=torch.float64)
    scores = levels[torch.randint(6, (500,), generator=draw)]
    labels = torch.randint(2, (500,), generator=draw)
    weights = torch.rand(500, generator=draw, dtype=torch.float64).round(decimals=1) if weighted else None
    noise = 1e-15 * torch.randn(500, generator=draw, dtype=torch.float64)
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert area_under_roc(scores + noise, labels, weights) == pytest.approx(expected, rel=1e-13)


def test_what_is_not_a_number_is_ranked_as_nothing_known() -> None:
    scores = torch.tensor([-torch.inf, torch.nan, 1.0, torch.inf, torch.inf], dtype=torch.float64)
    assert area_under_roc(scores, torch.tensor([0, 0, 1, 1, 0])) == pytest.approx(4.5 / 6)
