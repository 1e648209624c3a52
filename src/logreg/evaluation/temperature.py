"""Calibration: removes class weights from the probabilities, then fits a temperature on held-out rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logreg.evaluation.intervals import Z
from logreg.evaluation.predicted import effective_rows
from logreg.losses import LOSSES, decided
from logreg.terminal import counted

TEMPERATURE_RANGE = (0.01, 100.0)
"""Range in which the temperature is searched; its optimum would be 0 for rows without an error, and infinite where
predictions are no better than chance."""

LIMIT_FACTOR = 1.01
"""A temperature within this factor of a limit is rejected: its optimum lies beyond."""

WIDE_INTERVAL_RATIO = 2.0
"""Ratio of the ends of the temperature's 95 % interval above which the report calls it imprecise: at the two ends, a
probability of 90 % becomes 83 % or 96 %."""

PART_NUMBERS = 2**18
"""Logits that are computed with at once: 2 MiB, which stay in a cache with what is computed from them."""

FIRST_STEP = 0.25
"""First step in log T of the search, which spans 0.78 to 1.28: most temperatures are as near to 1."""

LOG_TEMPERATURE_STEP = 1e-2
"""Step in log T for the second derivative from the first one: its relative error is about its square, and rounding
stays below 1e-12."""


@dataclass(frozen=True)
class Calibration:
    """A map from logits to class probabilities; plain values, kept in the checkpoint.

    Attributes:
        temperature: Divisor of the logits; 1 where none was fitted.
        class_weight: Class weights that are removed from the probabilities first, C of them; empty for none.
        rows: Rows of val with a weight above 0; 0 where nothing was fitted.
        low, high: 95 % interval of the temperature; ``None`` where none was fitted.
        reason: Reason why no temperature could be fitted; else empty.
    """

    temperature: float = 1.0
    class_weight: tuple[float, ...] = ()
    rows: int = 0
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @property
    def log_weight(self) -> Tensor | None:
        """Logarithms of the class weights, shape (C,), float64; ``None`` without any."""
        return torch.tensor(self.class_weight, dtype=torch.float64).log() if self.class_weight else None

    def probabilities(self, logits: Tensor, loss: str) -> Tensor:
        """Logits (N, K) -> probability of each class (N, C)."""
        return LOSSES[loss].class_probabilities(logits, self.temperature, self.log_weight)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `of_checkpoint` takes them back."""
        return dataclasses.asdict(self) | {"class_weight": list(self.class_weight)}

    @classmethod
    def of_checkpoint(cls, checkpoint: Mapping[str, Any]) -> Calibration:
        """The calibration in a checkpoint; older checkpoints have a temperature alone, or nothing."""
        plain = checkpoint.get("calibration")
        if plain is None:
            return cls(float(checkpoint.get("temperature", 1.0)))
        return cls(**dict(plain) | {"class_weight": tuple(map(float, plain["class_weight"]))})

    def in_words(self, class_names: Sequence[str]) -> list[str]:
        """Sentences on the calibration and its precision; empty without a calibration."""
        lines = []
        if self.class_weight:
            how = "log w is subtracted from the logit of a class of weight w"
            if len(class_names) == 2:
                shift = math.log(self.class_weight[1] / self.class_weight[0])
                how = f"{shift:.4g} is subtracted from the log-odds of {class_names[1]}"
            lines.append(
                f"class weights are removed from the probabilities ({how}), "
                "so that these estimate frequencies, and predicted labels follow them"
            )
        if self.reason:
            lines.append(f"no temperature was fitted: {self.reason}")
        elif self.low is not None and self.high is not None:
            lines.append(
                f"calibrated on val: temperature {self.temperature:.4g} (95 % interval {self.low:.3g} to "
                f"{self.high:.3g}), fitted on {counted(self.rows, 'row')}"
                + (", too few for a precise one" if self.high > WIDE_INTERVAL_RATIO * self.low else "")
            )
        elif self.temperature != 1:  # of an older checkpoint
            lines.append(f"calibrated on val: temperature {self.temperature:.4g}")
        return lines


@torch.no_grad()
def fit_calibration(
    logits: Tensor | Callable[[], Iterable[Tensor]],
    labels: Tensor,
    loss: str,
    class_names: Sequence[str],
    class_weight: Sequence[float] = (),
    sample_weight: Tensor | None = None,
    counts: bool = False,
) -> Calibration:
    """The prior correction for class weights, then the temperature of the highest likelihood on held-out rows.

    Weights of rows are part of the likelihood and are not corrected for.

    Args:
        logits: Logits of held-out rows, shape (N, K); or a function that gives them block by block, each time anew,
            since those of many classes are not held at once.
        labels: Shape (N,), int64, in [0, C).
        loss: The loss that the model was fitted with.
        class_names: C names.
        class_weight: The C class weights that the model was fitted with; empty for none.
        sample_weight: Shape (N,), >= 0; ``None`` weighs all rows 1.
        counts: Whether the weights of rows are numbers of rows.

    Returns:
        A temperature within ``TEMPERATURE_RANGE``, with an interval of log T from the curvature of the rows'
        log-likelihood; or 1, with the reason, where none can be fitted.

    References:
        Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks.
    """
    weight = torch.ones(len(labels), dtype=torch.float64) if sample_weight is None else sample_weight.cpu().double()
    labels, there = labels.cpu(), weight > 0
    weight = weight * (effective_rows(weight[there], counts) / weight[there].sum())
    found = Calibration(1.0, tuple(class_weight), int(there.sum()))

    def blocks() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Logits, labels and weights of the rows that have a weight, few at a time."""
        first = 0
        for block in logits() if callable(logits) else [logits]:
            rows = slice(first, first := first + len(block))
            mine, wide = there[rows].nonzero()[:, 0], block.detach().cpu()
            for few in mine.split(max(1, PART_NUMBERS // wide.shape[1])):
                yield wide[few].double(), labels[rows][few], weight[rows][few]

    def slope(log_temperature: float) -> float:
        """The derivative of the negative log-likelihood by log T."""
        at = math.exp(log_temperature), found.log_weight
        return sum(float(weights @ LOSSES[loss].temperature_slope(wide, own, *at)) for wide, own, weights in blocks())

    rows = counted(found.rows, "row")
    if len(classes := labels[there].unique()) == 1:
        return dataclasses.replace(found, reason=f"val has no other class than {class_names[int(classes)]!r} ({rows})")
    if all(bool((decided(found.probabilities(wide, loss)) == own).all()) for wide, own, _ in blocks()):
        # the likelihood grows without end as the temperature falls to 0
        return dataclasses.replace(
            found, reason=f"the model makes no mistake on val ({rows}), so its probabilities are never too high"
        )
    best = _least(slope, *map(math.log, TEMPERATURE_RANGE))
    if not TEMPERATURE_RANGE[0] * LIMIT_FACTOR < math.exp(best) < TEMPERATURE_RANGE[1] / LIMIT_FACTOR:
        beyond = (
            f"below {TEMPERATURE_RANGE[0]:g}"
            if best < 0
            else f"above {TEMPERATURE_RANGE[1]:g}, where probabilities carry no information"
        )
        return dataclasses.replace(found, reason=f"the best one on {rows} is {beyond}")
    after, before = slope(best + LOG_TEMPERATURE_STEP), slope(best - LOG_TEMPERATURE_STEP)
    curvature = (after - before) / (2 * LOG_TEMPERATURE_STEP)
    half = Z / math.sqrt(curvature) if curvature > 0 else math.inf
    low, high = (
        math.exp(min(max(best + step, math.log(TEMPERATURE_RANGE[0])), math.log(TEMPERATURE_RANGE[1])))
        for step in (-half, half)
    )
    return dataclasses.replace(found, temperature=math.exp(best), low=low, high=high)


def _least(slope: Callable[[float], float], low: float, high: float) -> float:
    """The minimizer in [low, high] of a unimodal function of this slope, as exact as rounding allows.

    Steps that double lead from 0 downhill until the slope changes its sign; most temperatures are near 1.
    """
    from scipy.optimize import brentq

    at, step = 0.0, FIRST_STEP
    here = slope(at)
    while low < at < high and here:
        there = min(max(at - math.copysign(step, here), low), high)
        after = slope(there)
        if after * here < 0:
            return float(brentq(slope, *sorted((at, there)), xtol=1e-15, rtol=1e-14))
        at, here, step = there, after, 2 * step
    return at
