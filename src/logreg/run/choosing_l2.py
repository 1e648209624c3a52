"""Chooses the strength of l2 on the val split: along a path, or by a short search."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from logreg.config import EXACT, RunConfig
from logreg.data import TensorDataModule
from logreg.errors import ConfigError
from logreg.evaluation.path_row import PathRow
from logreg.evaluation.path_selection import SEARCH_TOLERANCE, best_of, score_path, search_strength
from logreg.facts import Split
from logreg.run.building import build_module, device_of
from logreg.solvers.passes.base import drive
from logreg.solvers.path import PathPoint, default_strengths, fit_path
from logreg.solvers.threads import threads_for
from logreg.terminal import show_status

PROGRESS_INTERVAL_S = 5.0
"""Least seconds between two progress lines, where stderr is not a terminal."""


def check_select(config: RunConfig, data: TensorDataModule) -> None:
    """Checks that ``select`` can be computed on val.

    Raises:
        ConfigError: It is the AUROC, and the data, or the val split, do not have two classes.
    """
    if config.select != "auroc":
        return
    advice = "Type select=accuracy, or leave it out for log_loss."
    classes = data.facts.num_classes
    if classes != 2:
        raise ConfigError(f"`select=auroc` must have two classes, and {data.facts.name} has {classes}. {advice}")
    if "val" in data.splits and (alone := _only_class(data, "val")):
        raise ConfigError(f"`select=auroc` must have rows of both classes in val, and all are {alone!r}. {advice}")


def _only_class(data: TensorDataModule, split: Split) -> str | None:
    """The class of all rows of a split; ``None`` where they have several."""
    labels = data.labels(split).unique()
    return data.facts.class_names[int(labels[0])] if len(labels) == 1 else None


def without_choice(config: RunConfig, data: TensorDataModule) -> tuple[float | None, str]:
    """The value of ``l2=auto`` where no strength can be chosen on val, and the reason; ``None`` where one can."""
    if config.optimizer["name"] not in EXACT:
        optimizer = config.optimizer["name"]
        return 0.0, f"l2=0 with optimizer={optimizer}: type another, or optimizer=auto to have it chosen on val"
    if config.l1:
        return 0.0, f"l2=0 beside l1={config.l1:g}: type l2=path to have it chosen on val"
    alone = _only_class(data, "val") if "val" in data.splits else None
    if "val" in data.splits and alone is None:
        return None, ""
    problem = build_module(dataclasses.replace(config, l2=1.0), data.facts).problem(torch.device("cpu"))
    l2 = float(f"{problem.row_sum_scale:.3g}")
    why = f"all rows of val are {alone!r}" if alone else "there is no val split to choose it by"
    return l2, f"l2={l2:g} as scikit-learn has it (C=1), since {why}: type l2, or dataset.split.val=0.2"


@dataclass(frozen=True)
class ChosenL2:
    """The strength of l2 of a run.

    Attributes:
        l2: The strength.
        asked: The setting as `RunConfig.typed_l2`: a number, "auto", "path" or a list of strengths.
        path: The regularization path that the strength was chosen from; ``None`` where there is none.
        start: The fitted point of that path, from which training starts; ``None`` for the start that the config names.
        reason: Reason for the value of l2, where it was neither typed nor chosen on val; else empty.
    """

    l2: float
    asked: Any
    path: Sequence[PathRow] | None = None
    start: PathPoint | None = None
    reason: str = ""

    @property
    def for_checkpoint(self) -> dict[str, Any] | None:
        """Plain values, for a run that continues from a checkpoint; ``None`` where a number was typed."""
        if isinstance(self.asked, int | float):
            return None
        rows = [dataclasses.asdict(row) for row in self.path or ()]
        return {"asked": self.asked, "rows": rows, "reason": self.reason}


def choose_l2(config: RunConfig, data: TensorDataModule, shown: bool) -> ChosenL2:
    """The number that was typed, or the strength that is best on val.

    Args:
        config: Config of the run.
        data: The data of the run.
        shown: Whether progress is shown.

    Raises:
        ConfigError: There is no val split to choose by.
    """
    typed, l2, reason = config.typed_l2, config.l2, ""
    if l2 is None and config.l2_path is None:
        l2, reason = without_choice(config, data)
    if l2 is not None:
        return ChosenL2(l2, typed, reason=reason)
    path, start = along_path(config, data, shown)
    return ChosenL2(start.l2, typed, path, start)


def l2_of_checkpoint(config: RunConfig, held: Mapping[str, Any]) -> ChosenL2:
    """The number that was typed, or the strength of the checkpoint that the run continues, with its path.

    Args:
        config: Config of the run.
        held: The checkpoint.

    Raises:
        ConfigError: The config has another path than the checkpoint.
    """
    if config.l2 is not None:
        return ChosenL2(config.l2, config.l2)
    typed = config.typed_l2
    # Checkpoints of earlier versions have no path.
    before, chosen = held.get("path", {"asked": typed}) or {}, float(held["hyper_parameters"]["l2"])
    if typed not in ("auto", before.get("asked")):
        raise ConfigError.broken(
            "l2", "be one number to continue from this checkpoint", typed, f"Set l2={chosen:g}, which it has."
        )
    path = [PathRow(**row) for row in before.get("rows", ())] or None
    return ChosenL2(chosen, typed, path, reason=before.get("reason", ""))


def along_path(config: RunConfig, data: TensorDataModule, shown: bool) -> tuple[list[PathRow], PathPoint]:
    """Fits several strengths of l2, scores them on val, and chooses the best.

    With ``l2=auto`` the fits are few and rough.  In either case the final fit starts from the chosen point.

    Returns:
        A row for each strength, and the point that is best on val.

    Raises:
        ConfigError: There is no val split to choose by.
    """
    if "val" not in data.splits:
        raise ConfigError(
            "`l2` must be one number where there is no val split to choose by. Set dataset.split.val=0.2."
        )
    device = device_of(config.accelerator)
    data.device = device = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
    problem = build_module(dataclasses.replace(config, l2=1.0), data.facts).problem(device)

    train, val = data.row_source("train", device), data.row_source("val", device)
    printed_s = time.monotonic()

    def show(row: PathRow) -> None:
        nonlocal printed_s
        line = f"choosing l2 on val: with {row.l2:g} loss/val {row.loss_val:.4g}"
        if shown:
            show_status(line)
        if shown and not sys.stderr.isatty() and time.monotonic() - printed_s > PROGRESS_INTERVAL_S:
            print(line, file=sys.stderr, flush=True)
            printed_s = time.monotonic()

    values = config.l2_path if isinstance(config.l2_path, list) else []
    if config.l2_path == "default":
        values = default_strengths(problem, next(train.interleaved_blocks()))
    if shown and values:
        line = f"path: {len(values)} strengths of l2 from {max(values):.3g} to {min(values):.3g}"
        print(line, file=sys.stderr)
    with threads_for(4.0 * problem.rows * problem.num_parameters):
        if values:
            points = drive(fit_path(problem, values, config.tolerance, config.seed), train)
            rows = score_path(problem, points, val.blocks(), config.select == "auroc")
            place = best_of(rows, config.select)
        else:
            tolerance = max(SEARCH_TOLERANCE, config.tolerance)
            rows, points, place = search_strength(problem, train, val, config.select, tolerance, config.seed, show)
    return rows, points[place]
