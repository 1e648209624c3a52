from __future__ import annotations

import pytest
import torch

from logreg import config
from logreg.solvers.optimizers import EXACT
from logreg.training.optimizers import OPTIMIZERS, build_optimizer
from logreg.training.schedules import SCHEDULES, lr_factor

ARGUMENTS: dict[str, dict[str, object]] = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "adam": {"beta1": 0.8, "beta2": 0.99, "eps": 1e-7},
    "adamw": {"beta1": 0.8, "beta2": 0.99, "eps": 1e-7, "weight_decay": 0.1},
}


def test_every_optimizer_has_its_row_here() -> None:
    assert set(ARGUMENTS) == set(OPTIMIZERS)


def test_the_exact_optimizers_of_the_command_line_are_those_there_are() -> None:
    assert set(config.EXACT) == {*EXACT, "auto"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch(name: str, draw: torch.Generator) -> None:
    ours = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))]
    theirs = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))]
    arguments = dict(ARGUMENTS[name])
    optimizer = build_optimizer({"name": name, **arguments}, 0.1, ours[0], ours[1])
    if "beta1" in arguments:
        arguments["betas"] = (arguments.pop("beta1"), arguments.pop("beta2"))
    decay = arguments.pop("weight_decay", 0.0)
    their_class = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    # One optimizer for each: the intercept never decays.
    their_coef = their_class([theirs[0]], lr=0.1, weight_decay=decay, **arguments)
    their_intercept = their_class([theirs[1]], lr=0.1, weight_decay=0.0, **arguments)
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=draw)
            other.grad = mine.grad.clone()
        for stepper in (optimizer, their_coef, their_intercept):
            stepper.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7, eta_min=0.2)
    for epoch in range(7):
        ours = 2.0 * lr_factor({"name": "cosine", "floor": 0.1}, epoch, 7)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_step_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    for epoch in range(10):
        ours = 2.0 * lr_factor({"name": "step", "every": 3, "factor": 0.5}, epoch, 10)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_starts_at_the_full_learning_rate(name: str) -> None:
    assert lr_factor({"name": name}, 0, 10) == 1.0
