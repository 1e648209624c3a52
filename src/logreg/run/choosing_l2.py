"""Chooses the strength of l2 on the val split: along a path, or by a short search."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from logreg.config import EXACT, RunConfig
from logreg.data import TensorDataModule
from logreg.errors import ConfigError
from logreg.evaluation.path_selection import ROUGH, PathRow, best_of, score_path, search_strength
from logreg.facts import Split
from logreg.run.building import build_module, device_of
from logreg.solvers.passes.base import drive
from logreg.solvers.path import PathPoint, default_strengths, fit_path
from logreg.solvers.threads import threads_for
from logreg.terminal import doing

EVERY_S = 5.0
"""Seconds between two lines about what was tried, where stderr is a file."""


def check_select(config: RunConfig, data: TensorDataModule) -> None:
    """What is best on val is something that val can tell.

    Raises:
        ConfigError: It is the AUROC, and there are not two classes.
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
    """The class of all rows of a split, if they have one."""
    labels = data.labels(split).unique()
    return data.facts.class_names[int(labels[0])] if len(labels) == 1 else None


def without_choice(config: RunConfig, data: TensorDataModule) -> tuple[float | None, str]:
    """What ``l2=auto`` is where no strength can be chosen on val, and why in a sentence; ``None`` where one can."""
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


def chosen_before(config: RunConfig, held: Mapping[str, Any]) -> tuple[float, list[PathRow] | None, str]:
    """The strength that a checkpoint has, the path that it was chosen from, if there was one, and why there was none.

    Raises:
        ConfigError: Another path is asked for.
    """
    # Checkpoints of before say nothing of it.
    typed = config.typed_l2
    before, chosen = held.get("path", {"asked": typed}) or {}, float(held["hyper_parameters"]["l2"])
    if typed not in ("auto", before.get("asked")):
        raise ConfigError.broken(
            "l2", "be one number to go on from this checkpoint", typed, f"Set l2={chosen:g}, which it has."
        )
    return chosen, [PathRow(**row) for row in before.get("rows", ())] or None, before.get("reason", "")


def along_path(config: RunConfig, data: TensorDataModule, shown: bool) -> tuple[list[PathRow], PathPoint]:
    """Fits several strengths of l2, scores them on val, and chooses.

    With ``l2=auto`` the fits are rough and few; whatever it is, the last one goes on from there to its end.

    Returns:
        A row for each strength, and the point that is best on val.
    """
    if "val" not in data.splits:
        raise ConfigError(
            "`l2` must be one number where there is no val split to choose by. Set dataset.split.val=0.2."
        )
    device = device_of(config.accelerator)
    data.device = device = torch.device("cpu") if device.type == "mps" else device  # where there is float64
    problem = build_module(dataclasses.replace(config, l2=1.0), data.facts).problem(device)

    train, val = data.row_source("train", device), data.row_source("val", device)
    told_s = time.monotonic()

    def tell(row: PathRow) -> None:
        nonlocal told_s
        line = f"choosing l2 on val: with {row.l2:g} loss/val {row.loss_val:.4g}"
        if shown:
            doing(line)
        if shown and not sys.stderr.isatty() and time.monotonic() - told_s > EVERY_S:
            print(line, file=sys.stderr, flush=True)
            told_s = time.monotonic()

    values = config.l2_path if isinstance(config.l2_path, list) else []
    if config.l2_path == "default":
        values = default_strengths(problem, next(train.interleaved_blocks()))
    if shown and values:
        said = f"path: {len(values)} strengths of l2 from {max(values):.3g} to {min(values):.3g}"
        print(said, file=sys.stderr)
    with threads_for(4.0 * problem.rows * problem.num_parameters):
        if values:
            points = drive(fit_path(problem, values, config.tolerance, config.seed), train)
            rows = score_path(problem, points, val.blocks(), config.select == "auroc")
            place = best_of(rows, config.select)
        else:
            tolerance = max(ROUGH, config.tolerance)
            rows, points, place = search_strength(problem, train, val, config.select, tolerance, config.seed, tell)
    return rows, points[place]
