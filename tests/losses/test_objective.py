from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logreg.losses import LOSSES, one_vs_rest
from logreg.losses.objective import Objective, Reduction


def problem(draw: torch.Generator, rows: int = 20, features: int = 3, outputs: int = 1) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N,), every class there."""
    labels = torch.arange(rows) % max(outputs, 2)
    return torch.randn(rows, features, generator=draw, dtype=torch.float64) + labels.unsqueeze(1) * 0.5, labels


@pytest.mark.parametrize(("loss", "outputs"), [("bce", 1), ("bce", 3), ("cross_entropy", 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("l2", "l1"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.2)])
def test_gradient_in_closed_form_is_that_of_autograd(
    loss: str, outputs: int, reduction: Reduction, l2: float, l1: float, draw: torch.Generator
) -> None:
    features, labels = problem(draw, outputs=outputs)
    targets = one_vs_rest(labels, outputs, torch.float64)
    coef = torch.randn(outputs, 3, generator=draw, dtype=torch.float64).requires_grad_()
    intercept = torch.randn(outputs, generator=draw, dtype=torch.float64).requires_grad_()
    objective = Objective(loss, reduction, l2, l1)
    theirs = torch.autograd.grad(objective.value(features, targets, coef, intercept), (coef, intercept))

    coef.grad, intercept.grad = torch.full_like(coef, 7.0), torch.full_like(intercept, 7.0)
    logits = torch.empty_like(targets)
    with torch.no_grad():
        objective.gradient_(features, targets, coef, intercept, share=1.0, logits=logits)
    torch.testing.assert_close(coef.grad, theirs[0])
    torch.testing.assert_close(intercept.grad, theirs[1])
    # The logits it hands back are those before the step: the loss of the batch comes free.
    torch.testing.assert_close(logits, (features @ coef.T + intercept).detach())


def test_the_batches_of_an_epoch_add_up_to_the_summed_objective(draw: torch.Generator) -> None:
    # Else the weight of the penalty would depend on the batch size.
    features, labels = problem(draw)
    targets = one_vs_rest(labels, 1, torch.float64)
    objective = Objective("bce", "sum", l2=0.7, l1=0.2)
    coef = torch.ones(1, 3, dtype=torch.float64)
    intercept = torch.zeros(1, dtype=torch.float64)
    coef.grad, intercept.grad = torch.zeros_like(coef), torch.zeros_like(intercept)

    def gradient(rows: slice) -> Tensor:
        batch = features[rows]
        objective.gradient_(batch, targets[rows], coef, intercept, len(batch) / 20, torch.empty_like(targets[rows]))
        assert coef.grad is not None
        return coef.grad.clone()

    torch.testing.assert_close(gradient(slice(0, 8)) + gradient(slice(8, 20)), gradient(slice(0, 20)))


@pytest.mark.parametrize("copies", [2, 5])
def test_mean_loss_does_not_depend_on_how_often_the_batch_is_repeated(copies: int, draw: torch.Generator) -> None:
    # lightning-bolts divides by the batch size twice, so that lr depends on it.
    features, labels = problem(draw)
    targets = one_vs_rest(labels, 1, torch.float64)
    coef, intercept = torch.ones(1, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    once = Objective("bce", l2=0.1).value(features, targets, coef, intercept)
    often = Objective("bce", l2=0.1).value(features.repeat(copies, 1), targets.repeat(copies, 1), coef, intercept)
    torch.testing.assert_close(once, often)


def test_weight_two_is_the_row_twice_and_weight_zero_is_no_row(draw: torch.Generator) -> None:
    features, labels = problem(draw, rows=4)
    targets = one_vs_rest(labels, 1, torch.float64)
    coef, intercept = torch.ones(1, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    weight = torch.tensor([2.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    rows = [0, 0, 1, 3]
    for reduction in ("mean", "sum"):
        objective = Objective("bce", reduction)
        weighted = objective.value(features, targets, coef, intercept, weight)
        torch.testing.assert_close(weighted, objective.value(features[rows], targets[rows], coef, intercept))


def test_the_intercept_is_not_penalized() -> None:
    objective = Objective("bce", l2=5.0, l1=5.0)
    features, targets = torch.zeros(2, 1), torch.tensor([[0.0], [1.0]])
    coef = torch.zeros(1, 1, requires_grad=True)
    intercept = torch.tensor([3.0], requires_grad=True)
    value = objective.value(features, targets, coef, intercept)
    torch.testing.assert_close(value, LOSSES["bce"].value(torch.full((2, 1), 3.0), targets).mean())


def fitted(
    objective: Objective, features: Tensor, labels: Tensor, outputs: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """SciPy's minimizer on our objective: coef, intercept and value at the optimum."""
    targets = one_vs_rest(labels, outputs, torch.float64)
    size = features.shape[1]

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(flat).reshape(outputs, size + 1).requires_grad_()
        value = objective.value(features, targets, parameters[:, :size], parameters[:, size])
        (gradient,) = torch.autograd.grad(value, parameters)
        return float(value.detach()), gradient.flatten().numpy()

    start = np.zeros(outputs * (size + 1))
    found = minimize(value_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-10})
    flat = found.x.reshape(outputs, size + 1)
    return flat[:, :size], flat[:, size], float(found.fun)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_minimum_is_that_of_scikit_learn(outputs: int, draw: torch.Generator) -> None:
    features, labels = problem(draw, rows=60, outputs=outputs)
    loss: str = "bce" if outputs == 1 else "cross_entropy"
    l2 = 0.05
    coef, intercept, value = fitted(Objective(loss, l2=l2), features, labels, outputs)
    # C multiplies the summed loss, ours is the mean: C = 1 / (rows * l2).
    theirs = LogisticRegression(C=1 / (60 * l2), tol=1e-12, max_iter=10_000).fit(features, labels)
    np.testing.assert_allclose(coef, theirs.coef_, atol=1e-6)
    if outputs == 1:
        np.testing.assert_allclose(intercept, theirs.intercept_, atol=1e-6)
    else:  # softmax does not change when all intercepts move together
        np.testing.assert_allclose(
            intercept - intercept.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-6
        )
    their_value = Objective(loss, l2=l2).value(
        features,
        one_vs_rest(labels, outputs, torch.float64),
        torch.from_numpy(theirs.coef_),
        torch.from_numpy(theirs.intercept_),
    )
    assert value == pytest.approx(float(their_value), rel=1e-10)


def test_soft_targets_have_their_minimum_at_the_parameters_that_made_them(draw: torch.Generator) -> None:
    features, _ = problem(draw, rows=40)
    coef, intercept = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    targets = torch.sigmoid(features @ coef.T + intercept)
    coef, intercept = coef.requires_grad_(), intercept.requires_grad_()
    value = Objective("bce").value(features, targets, coef, intercept)
    for gradient in torch.autograd.grad(value, (coef, intercept)):
        assert float(gradient.abs().max()) < 1e-15
