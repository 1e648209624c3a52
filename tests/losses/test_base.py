"""The elementary functions of float64 are as precise as bounds on rounding errors assume, on this processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.losses import LOSSES

ULP = 2.0**-52
"""Distance of 1 from the next float64: an error relative to a number is at most that times its error in ulp."""

ROUNDINGS = 8
"""Roundings, of half an ulp each, that certificates allow for a function of a loss."""

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Any]]] = {
    "exp": (torch.exp, mpmath.exp),
    "log": (torch.log, mpmath.log),
    "log1p": (torch.log1p, mpmath.log1p),
    "sigmoid": (torch.sigmoid, lambda z: 1 / (1 + mpmath.exp(-z))),
    "softplus": (lambda z: -F.logsigmoid(-z), lambda z: mpmath.log1p(mpmath.exp(z))),
    "entropy": (torch.special.entr, lambda z: -z * mpmath.log(z)),
    "NumPy's exp": (lambda z: torch.from_numpy(np.exp(z.numpy())), mpmath.exp),
    "NumPy's log1p": (lambda z: torch.from_numpy(np.log1p(z.numpy())), mpmath.log1p),
}
"""A function of torch or NumPy, and the same of mpmath."""


def arguments(name: str) -> Tensor:
    """Numbers of all sizes, in an odd number of vector registers: positive ones for logarithms."""
    draw = torch.Generator().manual_seed(0)
    if name in ("log", "log1p", "NumPy's log1p", "entropy"):
        return torch.exp(torch.linspace(-700, 0, 1003, dtype=torch.float64)) * (
            1 + torch.rand(1003, generator=draw, dtype=torch.float64)
        )
    near, far = (torch.randn(1003, generator=draw, dtype=torch.float64) * size for size in (1, 100))
    return torch.cat([near, far, 1e-9 * near])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_an_error_of_few_ulp(name: str) -> None:
    function, exact = FUNCTIONS[name]
    z = arguments(name)
    with mpmath.workdps(60):
        expected = [exact(mpmath.mpf(one)) for one in z.tolist()]
        errors = [
            abs(mpmath.mpf(found) - one) / abs(one) for found, one in zip(function(z).tolist(), expected, strict=True)
        ]
    assert max(errors) <= ROUNDINGS * ULP / 2


@pytest.mark.long
@pytest.mark.parametrize(("loss", "outputs"), [("bce", 1), ("bce", 3), ("cross_entropy", 3), ("cross_entropy", 20)])
def test_the_terms_of_a_row_have_errors_of_few_roundings(loss: str, outputs: int) -> None:
    draw = torch.Generator().manual_seed(1)
    size = torch.logspace(-2, 2, 301, dtype=torch.float64).unsqueeze(1)
    logits = size * torch.randn(301, outputs, generator=draw, dtype=torch.float64)
    labels = torch.randint(max(outputs, 2), (301,), generator=draw)
    value, residual, curvature = LOSSES[loss].evaluate_precisely(logits, labels)
    plain = LOSSES[loss].evaluate(logits, labels)
    roundings = (ROUNDINGS + outputs) * ULP / 2
    with mpmath.workdps(400):
        for row, label in enumerate(labels.tolist()):
            z = [mpmath.mpf(one) for one in logits[row].tolist()]
            if loss == "bce":
                p = [1 / (1 + mpmath.exp(-one)) for one in z]
                y = [float(label)] if outputs == 1 else [float(label == one) for one in range(outputs)]
                costs = [-mpmath.log(q if t else 1 - q) for q, t in zip(p, y, strict=True)]
                cost, own = sum(costs), [q * (1 - q) for q in p]
            else:
                total = sum(mpmath.exp(one) for one in z)
                p = [mpmath.exp(one) / total for one in z]
                y = [float(label == one) for one in range(outputs)]
                cost, own = mpmath.log(total) - z[label], p
            # Logits count as exact, so what is done with them in a softmax moves them by a rounding of the largest.
            moved = 1 + 2 * float(logits[row].abs().max()) * (loss == "cross_entropy")
            assert abs(value[row].item() - cost) <= roundings * moved * cost
            for output in range(outputs):
                exact = p[output] - y[output]
                assert abs(residual[row, output].item() - exact) <= roundings * moved * abs(exact)
                assert abs(curvature[row, output].item() - own[output]) <= roundings * moved * own[output]
                assert abs(plain.residual[row, output].item() - exact) <= roundings * moved
