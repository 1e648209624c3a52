"""What to type after a run: the one or two commands that help now."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from logreg.config import EXACT
from logreg.errors import shell_line
from logreg.evaluation.held_out import BINS
from logreg.invocation import command_words
from logreg.run_folder import RUNS, is_finished, latest_run

MOST = 2
"""Commands at most, besides TensorBoard: who reads more does none."""

OVERFITTED = 1.1
"""How many times the loss on train that of held-out rows is, at the low end of its interval, where l2 may help."""

RISEN = 1.01
"""How many times its lowest value loss/val is when it has risen."""

MISCALIBRATED = 0.05
"""Expected calibration error from which a temperature is worth fitting, if it is more than chance."""

SHOWN_ONLY = ("report", "verbose", "facts", "expected", "ckpt_path")
"""Keys that a run which is typed again does not need."""

ROWS = ("dataset.path", "dataset.test_path", "dataset.val_path", "dataset.train_path")
"""Keys that name a file whose rows a model can predict."""

Summary = Mapping[str, Any]
"""The content of summary.json."""


def next_commands(summary: Summary) -> list[str]:
    """TensorBoard, and one or two commands that help now; each can be typed from where the user stands."""
    ways = (_without_leak, _penalized, _longer, _calibrated, _compared, _used, _evaluated)
    helping = islice(filter(None, (way(summary) for way in ways)), MOST)
    return [f"tensorboard --logdir {shlex.quote(logdir(summary['folder']))}", *helping]


def logdir(folder: str) -> str:
    """What TensorBoard shall show beside a run: all runs of the same data, or the run alone where it lies elsewhere."""
    path = Path(folder)
    return path.parent.as_posix() if path.parts[:1] == RUNS.parts and len(path.parts) == 3 else folder


def has_risen(summary: Summary) -> bool:
    """Whether loss/val was clearly lower before the end."""
    best, now = summary["best"], summary["metrics"].get("val")
    return bool(best and now) and now["loss"] > RISEN * best["loss/val"]


def overfits(summary: Summary) -> bool:
    """Whether loss/val rose while loss/train fell, by an optimizer that was not told to stop where val is best.

    An exact optimizer on its way to a strong penalty passes better models, which had a lower loss on train, too; and
    where l2 was chosen on val, all other strengths did no better there.
    """
    best = summary["best"]
    fell = bool(best) and summary["metrics"]["train"]["loss"] < best.get("loss/train", math.inf)
    return has_risen(summary) and fell and not summary["path"]


def _again(summary: Summary, *settings: str, without: Sequence[str] = ()) -> str:
    """The same run with other settings."""
    left_out = {*SHOWN_ONLY, *without, *(setting.partition("=")[0] for setting in settings)}
    kept = [line for line in summary["overrides"] if line.lstrip("+").partition("=")[0] not in left_out]
    return shell_line([*command_words("train"), *kept, *settings])


def _of_this(summary: Summary) -> list[str]:
    """What names the run, where it is not the newest."""
    newest = latest_run(RUNS)
    is_newest = newest is not None and newest.resolve() == Path(summary["folder"]).resolve()
    return [] if is_newest else [f"ckpt_path={summary['folder']}"]


def _is_exact(summary: Summary) -> bool:
    return summary["config"]["optimizer"]["name"] in EXACT


def _without_leak(summary: Summary) -> str:
    """The run again without the columns that may be the target under another name."""
    leak = shlex.split(summary["dataset"].get("leak") or "")
    return _again(summary, leak[0]) if len(leak) == 1 and leak[0].startswith("dataset.") else ""


def _penalized(summary: Summary) -> str:
    """The run again with a penalty, where it lacks one."""
    found = summary["optimality"]
    lacks = bool(found["separation"] or found.get("dependent")) or _overfits(summary)
    if _is_exact(summary):
        l2 = "l2=path" if "val" in summary["metrics"] else "l2=1e-3"
        return _again(summary, l2, without=["l2_path"]) if lacks else ""
    # A first-order optimizer stops long before coefficients are large: it is val that says whether they are.
    lacks = lacks and (has_risen(summary) or "val" not in summary["metrics"])
    return _again(summary, "l2=1e-3") if lacks else ""


def _overfits(summary: Summary) -> bool:
    """Whether nothing is penalized and rows that were held out have a higher loss, by more than chance."""
    found, config = summary["evaluation"], summary["config"]
    if config["l2"] or config["l1"] or not found or found["split"] == "train" or summary["dataset"]["class_weight"]:
        return False
    measured, metrics = found["metrics"]["log_loss"], summary["metrics"]
    low = metrics[found["split"]]["loss"] * measured["low"] / measured["value"] if measured["value"] else 0.0
    return bool(low > OVERFITTED * metrics["train"]["loss"])


def _longer(summary: Summary) -> str:
    """Goes on, where that brings the model nearer to its optimum."""
    found, best, epochs = summary["optimality"], summary["best"], summary["epochs"]
    ended = summary["config"].get("max_epochs", epochs) > epochs  # an exact optimizer that has done what it could
    endless = found["separation"] and (_is_exact(summary) or not best)
    if found["converged"] or endless or ended or has_risen(summary):
        return ""
    if best and best["epoch"] < epochs and not _is_exact(summary):
        return ""
    ours = _of_this(summary) or ["ckpt_path=latest"]
    return shell_line([*command_words("train"), *ours, f"max_epochs={2 * epochs}"])


def _calibrated(summary: Summary) -> str:
    """The run again with a temperature, where probabilities are off."""
    found = summary["evaluation"]
    if summary["config"].get("calibrate") != "none" or "val" not in summary["metrics"] or not found:
        return ""
    error = found["metrics"]["ece"]
    # What it is on average where probabilities are right: 0.8 standard deviations, of 0.5 at most a row, in each bin.
    chance = 0.4 * (BINS / found["rows"]) ** 0.5
    is_off = error["value"] > MISCALIBRATED and error["low"] > chance
    return _again(summary, "calibrate=temperature") if is_off else ""


def _compared(summary: Summary) -> str:
    """This run beside the one before it on the same data."""
    folder = Path(summary["folder"])
    above = folder.parent
    if logdir(summary["folder"]) != above.as_posix() or not above.is_dir():
        return ""
    before = [path for path in above.iterdir() if path.name < folder.name and is_finished(path)]
    return shell_line([*command_words("compare"), max(before).as_posix(), folder.as_posix()]) if before else ""


def _used(summary: Summary) -> str:
    """Predictions for a file of rows, or for one row where features are few."""
    words = [*command_words("predict"), *_of_this(summary)]
    if example := summary.get("example"):
        return shell_line([*words, *(f"{name}={value:.4g}" for name, value in example.items())])
    dataset = summary["config"].get("dataset", {})
    keys = (key.removeprefix("dataset.") for key in ROWS)
    path = next((dataset[key] for key in keys if isinstance(dataset.get(key), str)), None)
    if path is None:
        return ""
    output = [] if Path("predictions.csv").exists() else ["output=predictions.csv"]
    return shell_line([*words, f"input={path}", *output])


def _evaluated(summary: Summary) -> str:
    """All scores with their intervals."""
    return shell_line([*command_words("evaluate"), *_of_this(summary)])
