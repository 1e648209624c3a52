"""The commands that a run suggests to type next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from logreg.data.formats.find_shards import first_file, is_sharded
from logreg.errors import LogregError, shell_line
from logreg.evaluation.held_out import BINS
from logreg.invocation import command_words
from logreg.reports.summary_schema import Summary, have_same_rows, read_summary
from logreg.run_folder import RUNS, is_finished, latest_run

MAX_COMMANDS = 2
"""Largest number of commands, besides TensorBoard's."""

MAX_READ = 10
"""Earlier runs on the same data that are looked at for one on the same rows, at most."""

OVERFITTING_RATIO = 1.1
"""Ratio of the loss on held-out rows, at the low end of its interval, to that on train above which l2 may help."""

RISEN_RATIO = 1.01
"""Ratio of the last loss/val to the lowest one above which loss/val has risen."""

MIN_CALIBRATION_ERROR = 0.05
"""Expected calibration error above which a temperature is suggested, where the error is significant."""

SHOWN_ONLY = ("report", "verbose", "facts", "expected", "ckpt_path")
"""Keys that are left out when a run is typed again."""

ROWS = ("dataset.path", "dataset.test_path", "dataset.val_path", "dataset.train_path")
"""Keys that name a file of rows, which the model can predict."""


def next_commands(summary: Summary) -> list[str]:
    """TensorBoard, and at most ``MAX_COMMANDS`` commands that help now; each runs in the current folder."""
    ways = (_without_leak, _penalized, _longer, _calibrated, _compared, _used, _evaluated)
    helping = islice(filter(None, (way(summary) for way in ways)), MAX_COMMANDS)
    return [f"tensorboard --logdir {shlex.quote(logdir(summary.folder))}", *helping]


def logdir(folder: str) -> str:
    """The folder for TensorBoard: that of all runs on the same data, or the run's own where it lies elsewhere."""
    path = Path(folder)
    return path.parent.as_posix() if path.parts[:1] == RUNS.parts and len(path.parts) == 3 else folder


def has_risen(summary: Summary) -> bool:
    """Whether loss/val was clearly lower before the end."""
    best, now = summary.best, summary.metrics.get("val")
    return best is not None and now is not None and now["loss"] > RISEN_RATIO * best.loss_val


def overfits(summary: Summary) -> bool:
    """Whether loss/val rose while loss/train fell, and l2 was not chosen by scores.

    An exact optimizer may pass points of lower loss/val on its way to the optimum of a strong penalty, but their
    loss/train is lower too.  Where l2 was chosen by scores, no other strength had a better one.
    """
    if summary.best is None:
        return False
    before = math.inf if summary.best.loss_train is None else summary.best.loss_train
    return has_risen(summary) and summary.metrics["train"]["loss"] < before and not summary.path


def _again(summary: Summary, *settings: str, without: Sequence[str] = ()) -> str:
    """The command of the same run with other settings."""
    left_out = {*SHOWN_ONLY, *without, *(setting.partition("=")[0] for setting in settings)}
    kept = [line for line in summary.overrides if line.lstrip("+").partition("=")[0] not in left_out]
    return shell_line([*command_words("train"), *kept, *settings])


def _of_this(summary: Summary) -> list[str]:
    """The setting that names the run, where it is not the newest."""
    newest = latest_run(RUNS)
    is_newest = newest is not None and newest.resolve() == Path(summary.folder).resolve()
    return [] if is_newest else [f"ckpt_path={summary.folder}"]


def _without_leak(summary: Summary) -> str:
    """The run without the columns that may be the target under another name."""
    leak = shlex.split(summary.dataset.leak)
    return _again(summary, leak[0]) if len(leak) == 1 and leak[0].startswith("dataset.") else ""


def _penalized(summary: Summary) -> str:
    """The run with a penalty, where it lacks one."""
    lacks = bool(summary.optimality.separation or summary.optimality.dependent) or _overfits(summary)
    if summary.is_exact:
        l2 = "l2=path" if summary.ranking_split != "train" else "l2=1e-3"
        return _again(summary, l2, without=["l2_path"]) if lacks else ""
    # A first-order optimizer stops long before coefficients are large: val shows whether they are.
    lacks = lacks and (has_risen(summary) or "val" not in summary.metrics)
    return _again(summary, "l2=1e-3") if lacks else ""


def _overfits(summary: Summary) -> bool:
    """Whether nothing is penalized and held-out rows have a significantly higher loss."""
    evaluation, config, metrics = summary.evaluation, summary.config, summary.metrics
    if (
        config["l2"]
        or config["l1"]
        or evaluation is None
        or evaluation.split == "train"
        or summary.dataset.class_weight
    ):
        return False
    log_loss = evaluation.metrics["log_loss"]
    low = metrics[evaluation.split]["loss"] * log_loss.low / log_loss.value if log_loss.value else 0.0
    return low > OVERFITTING_RATIO * metrics["train"]["loss"]


def _longer(summary: Summary) -> str:
    """The run for longer, where that brings the model nearer to its optimum."""
    found, best, epochs = summary.optimality, summary.best, summary.epochs
    ended = summary.config.get("max_epochs", epochs) > epochs  # an exact optimizer that can get no further
    endless = found.separation and (summary.is_exact or not best)
    if found.converged or found.is_stationary or endless or ended or has_risen(summary):
        return ""
    if best and best.epoch < epochs and not summary.is_exact:
        return ""
    ours = _of_this(summary) or ["ckpt_path=latest"]
    own = [f"config_dir={folder}"] if (folder := summary.config.get("config_dir")) else []
    return shell_line([*command_words("train"), *ours, *own, f"max_epochs={2 * epochs}"])


def _calibrated(summary: Summary) -> str:
    """The run with a temperature, where probabilities are miscalibrated."""
    evaluation = summary.evaluation
    if summary.config.get("calibrate") != "none" or "val" not in summary.metrics or not evaluation:
        return ""
    error = evaluation.metrics["ece"]
    # Mean of the error for calibrated probabilities: 0.8 standard deviations in each bin, each at most 0.5 per row.
    chance = 0.4 * (BINS / evaluation.rows) ** 0.5
    is_off = error.value > MIN_CALIBRATION_ERROR and error.low > chance
    return _again(summary, "calibrate=temperature") if is_off else ""


def _compared(summary: Summary) -> str:
    """A comparison of the run with the one before it on the same rows."""
    folder = Path(summary.folder)
    above = folder.parent
    if logdir(summary.folder) != above.as_posix() or not above.is_dir():
        return ""
    before = sorted((path for path in above.iterdir() if path.name < folder.name and is_finished(path)), reverse=True)
    for path in before[:MAX_READ]:
        with suppress(LogregError):
            if have_same_rows(read_summary(path), summary):
                return shell_line([*command_words("compare"), path.as_posix(), folder.as_posix()])
    return ""


def _used(summary: Summary) -> str:
    """Predictions for a file of rows, or for one row where features are few."""
    words = [*command_words("predict"), *_of_this(summary)]
    if summary.example:
        return shell_line([*words, *(f"{name}={value:.4g}" for name, value in summary.example.items())])
    dataset = summary.config.get("dataset", {})
    keys = (key.removeprefix("dataset.") for key in ROWS)
    path = next((dataset[key] for key in keys if dataset.get(key)), None)
    if isinstance(path, list | tuple):
        path = path[0]  # the second file has the labels
    if not isinstance(path, str):
        return ""
    kind = dataset.get("name")
    has_tables = kind in ("table", "features") or (kind == "text" and not Path(path).is_dir())
    if has_tables and is_sharded(path):
        path = first_file(path)
        if path is None:
            return ""
    output = [] if Path("predictions.csv").exists() else ["output=predictions.csv"]
    return shell_line([*words, f"input={path}", *output])


def _evaluated(summary: Summary) -> str:
    """An evaluation with all scores and their intervals."""
    return shell_line([*command_words("evaluate"), *_of_this(summary)])
