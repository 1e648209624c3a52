"""Temperature scaling: it finds what spoiled the probabilities, and leaves alone what it cannot mend."""

from __future__ import annotations

import pytest
import torch

from logreg.calibration import fit_temperature
from logreg.functional import LossName, class_probabilities


def rows(outputs: int, loss: LossName, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels that are drawn by them."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(40_000, outputs, generator=draw, dtype=torch.float64)
    return logits, torch.multinomial(class_probabilities(logits, loss), 1, generator=draw)[:, 0]


@pytest.mark.parametrize("spoiled", [0.25, 1.0, 3.0])
@pytest.mark.parametrize(("outputs", "loss"), [(1, "bce"), (4, "cross_entropy"), (4, "bce")])
def test_it_finds_what_the_logits_were_multiplied_by(outputs: int, loss: LossName, spoiled: float) -> None:
    logits, labels = rows(outputs, loss)
    if loss == "bce" and outputs > 1 and spoiled != 1:
        pytest.skip("divided by their sum, sigmoids are no longer what they were drawn from")
    # the standard error of the slope of 40,000 rows is about one in a hundred
    assert fit_temperature(spoiled * logits, labels, loss) == pytest.approx(spoiled, rel=0.05)


def test_no_other_temperature_makes_the_rows_more_probable() -> None:
    logits, labels = rows(3, "cross_entropy")
    logits, labels = 1.7 * logits[:500], labels[:500]
    best = fit_temperature(logits, labels, "cross_entropy")

    def cost(temperature: float) -> float:
        p = class_probabilities(logits, "cross_entropy", temperature)
        return float(-p.gather(1, labels[:, None]).log().mean())

    assert cost(best) <= min(cost(best * (1 + step)) for step in (-0.1, -1e-3, 1e-3, 0.1))


def test_a_weight_of_two_is_the_row_twice() -> None:
    logits, labels = rows(1, "bce")
    logits, labels = logits[:300], labels[:300]
    weight = torch.ones(300)
    weight[:100] = 2
    twice = torch.cat([torch.arange(300), torch.arange(100)])
    expected = fit_temperature(logits[twice], labels[twice], "bce")
    assert fit_temperature(logits, labels, "bce", weight) == pytest.approx(expected, rel=1e-6)


def test_rows_without_an_error_have_no_temperature() -> None:
    logits = torch.tensor([[-1.0], [2.0], [-3.0], [0.5]])
    assert fit_temperature(logits, (logits[:, 0] > 0).long(), "bce") == 1.0


def test_rows_of_chance_have_none_either() -> None:
    logits = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
    assert fit_temperature(logits, torch.tensor([0, 0, 1, 1]), "bce") == 1.0
