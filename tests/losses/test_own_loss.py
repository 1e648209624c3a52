"""A loss that is none of ours fits by every kind of optimizer to a certified end, without a change of the source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from logreg.data import TensorDataModule, build_dataset
from logreg.errors import ConfigError
from logreg.export.formats import check_link
from logreg.losses import LOSSES, Loss, register
from logreg.losses.objective import Objective
from logreg.solvers.fit import fit
from logreg.training.callbacks import Certificates
from logreg.training.module import LogisticModule


class SmoothHinge(Loss):
    """(u + sqrt(u^2 + d^2)) / 2 of u = 1 - s z, with s = 1 or -1 for the class and width d.

    References:
        Chen and Mangasarian (1996), A class of smoothing functions for nonlinear and mixed complementarity problems.
    """

    name = "smooth_hinge"
    width = 0.5
    curvature_needs_targets = True
    max_curvature = 1 / (2 * width)
    lipschitz = 1.0
    self_concordance = 3 / (2 * width)  # the third derivative over the second is 3 u / (u^2 + d^2)

    def _distance(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sign = 2 * targets - 1
        u = 1 - sign * logits
        return sign, u, (u.square() + self.width**2).sqrt()

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        _, u, root = self._distance(logits, targets)
        return ((u + root) / 2).sum(1)

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        sign, u, root = self._distance(logits, targets)
        return -sign * (1 + u / root) / 2

    def curvature(self, logits: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        root = self._distance(logits, targets)[2]
        return self.width**2 / (2 * root**3)

    def inverse_link(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(2 * logits)


class WithConjugate(SmoothHinge):
    """The same with its conjugate, so that duality gaps are proven."""

    name = "smooth_hinge_with_conjugate"

    def conjugate(self, dual: Tensor, targets: Tensor) -> Tensor:
        slope = (-(2 * targets - 1) * dual).clamp(0, 1)  # of the hinge by u
        return (-slope - self.width * (slope * (1 - slope)).sqrt() + 0.0).sum(1)

    def conjugate_slope(self, reach: float) -> float:
        return 1e9


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    before = dict(LOSSES)
    register(SmoothHinge())
    register(WithConjugate())
    yield
    LOSSES.clear()
    LOSSES.update(before)


def rows(classes: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(200, 4, generator=draw, dtype=torch.float64)
    scores = features @ torch.randn(4, classes, generator=draw, dtype=torch.float64)
    noise = torch.randn(200, classes, generator=draw, dtype=torch.float64)
    return features, (scores + 2 * noise).argmax(1)


def optimum(features: Tensor, labels: Tensor, loss: str, l2: float) -> float:
    """By SciPy and autograd, one output after the other."""
    total = 0.0
    for output in range(1) if int(labels.max()) == 1 else labels.unique().tolist():
        targets = (labels == (1 if int(labels.max()) == 1 else output)).double().unsqueeze(1)

        def value(at: Any, targets: Tensor = targets) -> tuple[float, Any]:
            point = torch.tensor(at, requires_grad=True)
            found = Objective(loss, l2=l2).value(features, targets, point[None, :-1], point[-1:])
            (slope,) = torch.autograd.grad(found, point)
            return float(found.detach()), slope.numpy()

        total += minimize(value, [0.0] * 5, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-12}).fun
    return total


def test_derivatives_and_conjugate_of_the_loss_are_its_own() -> None:
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64).unsqueeze(1).requires_grad_()
    for target in (0.0, 1.0):
        targets = torch.full_like(logits, target).detach()
        loss = WithConjugate()
        (slope,) = torch.autograd.grad(loss.value(logits, targets).sum(), logits, create_graph=True)
        (second,) = torch.autograd.grad(slope.sum(), logits)
        at = logits.detach()
        torch.testing.assert_close(loss.residual(at, targets), slope.detach())
        torch.testing.assert_close(loss.curvature(at, targets), second)
        # Fenchel's equality at the residuals
        dual = slope.detach()
        both = loss.value(at, targets) + loss.conjugate(dual, targets)
        torch.testing.assert_close(both, (dual * at).sum(1))


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("l2", [0.0, 1e-2])
@pytest.mark.parametrize("loss", ["smooth_hinge", "smooth_hinge_with_conjugate"])
def test_exact_optimizers_certify_a_loss_of_ones_own(loss: str, l2: float, classes: int, optimizer: str) -> None:
    features, labels = rows(classes)
    found = fit(features, labels, Objective(loss, l2=l2), optimizer=optimizer)
    assert found.converged
    assert found.bound.rigorous
    least = optimum(features, labels, loss, l2)
    assert found.bound.value == pytest.approx(least, rel=2e-6)
    # SciPy's own end is some 1e-15 off
    assert found.bound.value - least <= found.bound.gap + found.bound.rounding + found.bound.error


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_its_conjugate_proves_gaps_with_l1(optimizer: str) -> None:
    features, labels = rows(2)
    found = fit(features, labels, Objective("smooth_hinge_with_conjugate", l1=0.2), optimizer=optimizer)
    assert found.converged
    assert found.bound.rigorous
    assert bool((found.coef == 0).any())


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec")
@pytest.mark.parametrize("loss", ["smooth_hinge", "smooth_hinge_with_conjugate"])
def test_gradient_descent_ends_with_a_certificate(loss: str) -> None:
    data = TensorDataModule(
        build_dataset("breast_cancer", {}), 64, {"val": 0.2, "test": 0.2}, standardize=True, dtype=torch.float64
    )
    module = LogisticModule(data.facts, loss=loss, l2=1e-2, optimizer="sgd", lr=0.5, batch_size=64, max_epochs=40)
    trainer = pl.Trainer(
        max_epochs=40,
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        num_sanity_val_steps=0,
        callbacks=[Certificates()],
    )
    trainer.fit(module, datamodule=data)
    assert module.certificate is not None
    certificate = module.certificate
    assert certificate.rigorous
    assert certificate.gap <= 0.05 * certificate.value
    assert certificate.objective.startswith(f"mean {loss.replace('_', ' ')} + 0.01/2 |coef|^2")


def test_it_is_exported_where_its_link_is_known() -> None:
    check_link("torch_export", "smooth_hinge")
    with pytest.raises(
        ConfigError, match="`format=onnx` must have the inverse link of the loss smooth_hinge, and has not"
    ):
        check_link("onnx", "smooth_hinge")


def test_a_loss_that_is_not_convex_is_never_called_optimal() -> None:
    class Sigmoidal(SmoothHinge):
        name = "sigmoidal"
        is_convex = False

    register(Sigmoidal())
    features, labels = rows(2)
    found = fit(features, labels, Objective("sigmoidal", l2=1e-2), optimizer="lbfgs", max_passes=50)
    assert not found.converged
    assert found.bound.gap >= found.bound.value
