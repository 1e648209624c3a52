from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logreg.config import SETTINGS
from logreg.losses import LINKS, LOSSES, LogisticLoss, SoftmaxLoss, decided, default_loss, one_logit, one_vs_rest

CANONICAL = [name for name, loss in LOSSES.items() if loss.gives_log_odds]
"""The losses whose derivative is probabilities minus targets; `test_binary_link.py` has the others."""

logit = st.floats(-1e4, 1e4)


@given(logit, st.sampled_from([0.0, 1.0]))
def test_loss_is_minus_log_of_the_predicted_probability(z: float, label: float) -> None:
    # What is reported as a probability must be what was trained: else calibration is of another model.
    logits = torch.tensor([[z]], dtype=torch.float64)
    loss = LogisticLoss().value(logits, torch.tensor([[label]], dtype=torch.float64))
    log_probability = torch.nn.functional.logsigmoid(logits if label else -logits)
    torch.testing.assert_close(loss, -log_probability.sum(1))


@given(logit)
def test_a_logit_and_its_negative_swap_the_classes(z: float) -> None:
    logits = torch.tensor([[z]], dtype=torch.float64)
    ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
    torch.testing.assert_close(LogisticLoss().value(logits, ones), LogisticLoss().value(-logits, zeros))


@pytest.mark.parametrize(
    ("target", "probability", "cost"), [(1, 0.2, 1.61), (1, 0.8, 0.22), (0, 0.3, 0.36), (0, 0.7, 1.20)]
)
def test_the_tutorials_table_of_costs(target: float, probability: float, cost: float) -> None:
    logits = torch.tensor([[math.log(probability / (1 - probability))]])
    ours = LogisticLoss().value(logits, torch.tensor([[float(target)]]))
    assert round(float(ours), 2) == cost


@pytest.mark.parametrize("loss", CANONICAL)
@pytest.mark.parametrize("z", [-1e4, 1e4])
def test_loss_and_gradient_are_finite_at_extreme_logits_in_float32(loss: str, z: float) -> None:
    logits = torch.tensor([[z, 0.0]], requires_grad=True)
    for targets in (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])):
        cost = LOSSES[loss].value(logits, targets).sum()
        (gradient,) = torch.autograd.grad(cost, logits)
        assert cost.isfinite()
        assert gradient.isfinite().all()
        # A confident mistake costs its logit, and its gradient is not stuck at 0.
        wrong = (z > 0) == (targets[0, 0] == 0)
        if wrong:
            assert float(cost.detach()) == pytest.approx(1e4, rel=1e-3)
            assert float(gradient.abs().max()) == pytest.approx(1.0)


@pytest.mark.parametrize("loss", CANONICAL)
def test_gradient_by_the_logits_is_probabilities_minus_targets(loss: str, draw: torch.Generator) -> None:
    logits = torch.randn(7, 4, generator=draw, dtype=torch.float64).mul_(3).requires_grad_()
    targets = one_vs_rest(torch.randint(4, (7,), generator=draw), 4, torch.float64)
    theirs = torch.autograd.grad(LOSSES[loss].value(logits, targets).sum(), logits)[0]
    torch.testing.assert_close(LOSSES[loss].inverse_link(logits) - targets, theirs)
    torch.testing.assert_close(LOSSES[loss].residual(logits.detach(), targets), theirs)


@pytest.mark.parametrize("loss", CANONICAL)
def test_derivatives_agree_with_finite_differences(loss: str, draw: torch.Generator) -> None:
    logits = torch.randn(3, 3, generator=draw, dtype=torch.float64).requires_grad_()
    targets = torch.eye(3, dtype=torch.float64)

    def summed(logits: Tensor) -> Tensor:
        return LOSSES[loss].value(logits, targets).sum()

    assert torch.autograd.gradcheck(summed, (logits,))


def test_softmax_of_two_outputs_is_the_sigmoid_of_their_difference(draw: torch.Generator) -> None:
    logits = torch.randn(9, 2, generator=draw, dtype=torch.float64)
    labels = torch.arange(9) % 2
    two = SoftmaxLoss().value(logits, one_vs_rest(labels, 2, torch.float64))
    one = LogisticLoss().value(one_logit(logits.T).T, one_vs_rest(labels, 1, torch.float64))
    torch.testing.assert_close(two, one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loss", "outputs"), [("bce", 1), ("bce", 4), ("cross_entropy", 2), ("cross_entropy", 7)])
def test_rows_of_known_classes_are_scored_as_their_targets_are(
    loss: str, outputs: int, dtype: torch.dtype, draw: torch.Generator
) -> None:
    logits = torch.randn(50, outputs, generator=draw, dtype=dtype) * 5
    logits[:2] *= 200
    labels = torch.randint(max(outputs, 2), (50,), generator=draw)
    before, targets = logits.clone(), one_vs_rest(labels, outputs, dtype)
    for found in (LOSSES[loss].evaluate(logits, labels), LOSSES[loss].evaluate_precisely(logits, labels)):
        torch.testing.assert_close(found.value, LOSSES[loss].value(logits, targets))
        torch.testing.assert_close(found.residual, LOSSES[loss].residual(logits, targets))
        torch.testing.assert_close(found.curvature, LOSSES[loss].curvature(logits, targets))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("outputs", [2, 15, 16, 17])
@pytest.mark.parametrize("by_columns", [False, True])
def test_a_softmax_does_not_depend_on_the_layout_of_the_logits(
    outputs: int, by_columns: bool, draw: torch.Generator
) -> None:
    logits = 50 * torch.randn(7, outputs, dtype=torch.float64, generator=draw)
    labels = torch.arange(7) % outputs
    stored = logits.T.contiguous().T if by_columns else logits
    loss, targets = SoftmaxLoss(), one_vs_rest(labels, outputs, torch.float64)
    torch.testing.assert_close(loss.inverse_link(stored), torch.softmax(logits, dim=1))
    torch.testing.assert_close(loss.residual(stored, targets), torch.softmax(logits, dim=1) - targets)
    theirs = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(loss.value(stored, targets), theirs)
    torch.testing.assert_close(loss.evaluate(stored, labels).value, theirs)


@pytest.mark.parametrize("by_columns", [False, True])
def test_the_first_of_equally_probable_classes_is_predicted(by_columns: bool, draw: torch.Generator) -> None:
    probabilities = torch.randint(3, (1000, 7), generator=draw).float()
    first = [row.index(max(row)) for row in probabilities.tolist()]
    assert decided(probabilities.T.contiguous().T if by_columns else probabilities).tolist() == first


def test_one_vs_rest_sums_over_outputs_so_each_is_the_fit_it_would_be_alone(draw: torch.Generator) -> None:
    logits = torch.randn(5, 3, generator=draw)
    targets = one_vs_rest(torch.tensor([0, 1, 2, 0, 1]), 3)
    alone = [LogisticLoss().value(logits[:, [k]], targets[:, [k]]) for k in range(3)]
    torch.testing.assert_close(LogisticLoss().value(logits, targets), torch.stack(alone).sum(0))


def test_a_user_may_type_every_loss_that_there_is() -> None:
    # config.py, which must not import torch, has the names once more; other tests register losses of their own
    ours = {name for name, loss in LOSSES.items() if type(loss).__module__.startswith("logreg.")}
    assert set(SETTINGS["loss"].constraint.choices) == {"auto", *ours} - set(LINKS)
    assert {default_loss(2), default_loss(3)} == ours - set(LINKS)
    assert SETTINGS["link"].constraint.choices == ("logit", *LINKS)


@pytest.mark.parametrize(("loss", "outputs"), [("bce", 1), ("bce", 3), ("cross_entropy", 3), ("cross_entropy", 40)])
@pytest.mark.parametrize("right_by", [20.0, 36.0])
def test_a_saturated_loss_keeps_its_digits(loss: str, outputs: int, right_by: float) -> None:
    labels = torch.arange(8) % max(outputs, 2)
    margins = 2 * one_vs_rest(labels, outputs, torch.float64) - 1
    size = right_by / 2 if loss == "cross_entropy" else right_by
    value, residual, curvature = LOSSES[loss].evaluate(size * margins, labels)
    wrong = math.exp(-right_by)  # the odds of each wrong class
    others = outputs - 1 if loss == "cross_entropy" else outputs
    assert value.tolist() == pytest.approx([others * wrong] * 8, rel=1e-7, abs=0)
    own = (outputs - 1 if loss == "cross_entropy" else 1) * wrong
    for row, label in zip(residual.tolist(), labels.tolist(), strict=True):
        of_own = 0 if outputs == 1 else label
        assert row[of_own] == pytest.approx(own if outputs == 1 and not label else -own, rel=1e-7, abs=0)
        assert [r for k, r in enumerate(row) if k != of_own] == pytest.approx([wrong] * (outputs - 1), rel=1e-7, abs=0)
    if loss == "bce":
        assert curvature.flatten().tolist() == pytest.approx([wrong] * curvature.numel(), rel=1e-7, abs=0)
