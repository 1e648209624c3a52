"""Calibration: class weights are taken out of the probabilities, then one number is fitted on rows held out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logreg.evaluation.held_out import Z, rows_worth
from logreg.losses import LOSSES, decided

LIMITS = (0.01, 100.0)
"""Where the temperature is looked for; rows without an error would have it at 0, rows of chance at infinity."""

AT_AN_EDGE = 1.01
"""A temperature that is within this factor of a limit is none."""

WIDE = 2.0
"""Ratio of the ends of a 95 % interval of the temperature from which it says little: at either end a stated 90 % would
be 83 % or 96 %."""

CURVED = 1e-2
"""Step in log T for the second derivative: its relative error is about its square, and rounding stays below 1e-10."""


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities of classes; plain values, kept in the checkpoint.

    Attributes:
        temperature: Logits are divided by it; 1 where none was fitted.
        class_weight: Weights of the classes that are taken out of the probabilities first, C of them; empty for none.
        rows: Rows of val with some weight; 0 where nothing was to be fitted.
        low, high: 95 % interval of the temperature; ``None`` where none was fitted.
        reason: Why none was fitted, though it was asked for; else empty.
    """

    temperature: float = 1.0
    class_weight: tuple[float, ...] = ()
    rows: int = 0
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @property
    def log_weight(self) -> Tensor | None:
        """As `Loss.class_probabilities` takes it, shape (C,), float64."""
        return torch.tensor(self.class_weight, dtype=torch.float64).log() if self.class_weight else None

    def probabilities(self, logits: Tensor, loss: str) -> Tensor:
        """Logits (N, K) -> probability of each class (N, C)."""
        return LOSSES[loss].class_probabilities(logits, self.temperature, self.log_weight)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `of_checkpoint` takes them back."""
        return dataclasses.asdict(self) | {"class_weight": list(self.class_weight)}

    @classmethod
    def of_checkpoint(cls, checkpoint: Mapping[str, Any]) -> Calibration:
        """That of a checkpoint; older ones have a temperature alone, or nothing."""
        plain = checkpoint.get("calibration")
        if plain is None:
            return cls(float(checkpoint.get("temperature", 1.0)))
        return cls(**dict(plain) | {"class_weight": tuple(plain["class_weight"])})

    def in_words(self, class_names: Sequence[str]) -> list[str]:
        """What was done to the probabilities, and how well it is known, a sentence each."""
        lines = []
        if self.class_weight:
            how = "log w is subtracted from the logit of a class of weight w"
            if len(class_names) == 2:
                shift = math.log(self.class_weight[1] / self.class_weight[0])
                how = f"{shift:.4g} is subtracted from the log-odds of {class_names[1]}"
            lines.append(
                f"class weights are taken out of the probabilities again ({how}), "
                "so that they are frequencies, and predicted labels follow them"
            )
        if self.reason:
            lines.append(f"no temperature was fitted: {self.reason}")
        elif self.low is not None and self.high is not None:
            lines.append(
                f"calibrated on val: temperature {self.temperature:.4g} (95 % interval {self.low:.3g} to "
                f"{self.high:.3g}), fitted on {self.rows:,} row{'s' if self.rows != 1 else ''}"
                + (", which is too few to say much" if self.high > WIDE * self.low else "")
            )
        elif self.temperature != 1:  # of an older checkpoint
            lines.append(f"calibrated on val: temperature {self.temperature:.4g}")
        return lines


@torch.no_grad()
def fit_calibration(
    logits: Tensor,
    labels: Tensor,
    loss: str,
    class_names: Sequence[str],
    class_weight: Sequence[float] = (),
    sample_weight: Tensor | None = None,
    counts: bool = False,
) -> Calibration:
    """The prior correction for class weights, and then the temperature under which the rows are most probable.

    Weights of rows are not corrected for: they say how many rows, or how much of the population, a row stands for.

    Args:
        logits: Of rows that the model was not fitted to, shape (N, K).
        labels: Shape (N,), int64, in [0, C).
        loss: That the model was fitted with.
        class_names: C of them.
        class_weight: That the model was fitted with, C weights; empty for none.
        sample_weight: Shape (N,), >= 0; ``None`` weighs all rows 1.
        counts: Whether these weights are numbers of rows.

    Returns:
        A temperature within ``LIMITS``, with an interval of log T from the curvature of the rows' log-likelihood; 1
        with the reason where there is none.

    References:
        Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks.
    """
    weight = torch.ones(len(logits), dtype=torch.float64) if sample_weight is None else sample_weight.cpu().double()
    there = weight > 0
    wide, labels, weight = logits.detach().cpu().double()[there], labels.cpu()[there], weight[there]
    weight = weight * (rows_worth(weight, counts) / weight.sum())
    found = Calibration(1.0, tuple(class_weight), len(wide))

    def cost(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        probabilities = LOSSES[loss].class_probabilities(wide, temperature, found.log_weight)
        right = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
        return float(weight @ -right.clamp(min=torch.finfo(torch.float64).tiny).log())

    rows = f"the {len(wide):,} rows of val"
    if len(classes := labels.unique()) == 1:
        return dataclasses.replace(found, reason=f"{rows} are all of class {class_names[int(classes)]!r}")
    if bool((decided(found.probabilities(wide, loss)) == labels).all()):
        # the colder the better, without end
        return dataclasses.replace(found, reason=f"the model makes no mistake on {rows}, so none is too sure")
    best = _least(cost, *map(math.log, LIMITS))
    if not LIMITS[0] * AT_AN_EDGE < math.exp(best) < LIMITS[1] / AT_AN_EDGE:
        beyond = f"below {LIMITS[0]:g}" if best < 0 else f"above {LIMITS[1]:g}, as if probabilities said nothing"
        return dataclasses.replace(found, reason=f"the best one on {rows} is {beyond}")
    curvature = (cost(best + CURVED) - 2 * cost(best) + cost(best - CURVED)) / CURVED**2
    half = Z / math.sqrt(curvature) if curvature > 0 else math.inf
    low, high = (math.exp(min(max(best + step, math.log(LIMITS[0])), math.log(LIMITS[1]))) for step in (-half, half))
    return dataclasses.replace(found, temperature=math.exp(best), low=low, high=high)


def _least(cost: Callable[[float], float], low: float, high: float, tolerance: float = 1e-9) -> float:
    """Where a function with one valley is lowest."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": tolerance})
    return float(found.x)
