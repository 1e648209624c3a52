"""One run, top to bottom: seed -> data -> module -> trainer -> fit -> score -> report."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from logreg.config import SECTIONS, SETTINGS, RunConfig
from logreg.data import TensorDataModule
from logreg.errors import ConfigError
from logreg.evaluation.held_out import best_threshold, evaluate
from logreg.facts import DataFacts
from logreg.files import shown
from logreg.optimality.certificate import Certificate
from logreg.optimality.separation.explain import SEARCH_LIMITS_S
from logreg.reports.data_profile import print_facts
from logreg.reports.drawing import draw
from logreg.reports.summary import RunResult, Summary, summarize
from logreg.reports.writing import write_report
from logreg.run.building import (
    POLISHING,
    build_data,
    build_module,
    build_trainer,
    check_hardware,
    started_beside_others,
)
from logreg.run.choosing_l2 import along_path, check_select, chosen_before, without_choice
from logreg.run.resuming import check_resumable, fit, take_over
from logreg.run.scoring import calibrate, predict, score
from logreg.run.separability import separation_of
from logreg.run_folder import Latest, check_new, find_checkpoint, goes_on_in, start_anew
from logreg.solvers.threads import threads_for
from logreg.terminal import doing, on_one_line, terminal
from logreg.training.callbacks import Certificates, Ending
from logreg.training.checkpoints import BufferedCheckpointIO, Checkpoints
from logreg.training.module import LogisticModule
from logreg.training.progress_display import ProgressDisplay
from logreg.training.tracking import RunLogger
from logreg.training.trained import read_checkpoint

log = logging.getLogger("logreg")

WITHOUT_OPTIMUM = 50
"""Passes of an exact optimizer where there is no finite optimum: the loss is then as low as it gets to some digits."""

MANY_NUMBERS = 10**6
"""Features of train, in all its rows, up to which it takes next to no time to see whether a finite optimum exists."""

SEPARABLE = "looking whether the classes are separable ..."
"""What a terminal says meanwhile."""


def train(
    config: RunConfig,
    folder: Path,
    root: Path = Path("runs"),
    is_newest: bool = True,
    overrides: Sequence[str] = (),
    started: float | None = None,
    progress_lines: int = 5,
    data: TensorDataModule | None = None,
    callbacks: Sequence[Callback] = (),
) -> Summary:
    """Fits one model to one dataset and fills the run folder.

    Order: seed -> data -> module -> trainer -> fit -> score -> report.

    Args:
        config: The run, checked.
        folder: The run folder; one that has no checkpoints yet, or that of the run to go on with.
        root: Where ``latest`` stands that names the newest run.
        is_newest: Whether ``latest`` shall name this one; jobs of a sweep leave it alone.
        overrides: What the user typed after ``scripts/train.py``, for the report.
        started: ``time.perf_counter()`` when the user pressed Enter; now when ``None``.
        progress_lines: Lines on stderr during training, where stderr is not a terminal.
        data: That of this config, where it is read already; read when ``None``.
        callbacks: Further callbacks of the Trainer.

    Returns:
        The content of summary.json.

    Raises:
        LogregError: The user can mend it; the folder then has no checkpoints, unless training
            diverged later.
    """
    started = time.perf_counter() if started is None else started
    resumed, held, ours, ended, epochs = None, None, False, False, 0
    path, start, l2_reason = None, None, ""
    chooses_l2, typed_l2 = config.l2 is None, config.typed_l2
    if config.ckpt_path:
        resumed = find_checkpoint(config.ckpt_path, root, "leave ckpt_path out to start from scratch")
        held = read_checkpoint(resumed)
        ours = goes_on_in(resumed, folder)
    _quieten(config.verbose)
    if progress_lines and (alone := started_beside_others()):
        print(alone, file=sys.stderr)
    check_hardware(config.accelerator)
    if config.trainer:  # what Lightning does not take is said before anything is read, or fitted along a path
        build_trainer(config, None, BufferedCheckpointIO(), [], has_val=True)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    tell = doing if progress_lines else _silent
    tell(f"reading {config.dataset['name']} ...")
    data = build_data(config) if data is None else data
    if config.facts == "show":
        print_facts(data, terminal())
    data.setup("fit")
    if resumed and held:
        epochs, ended = check_resumable(resumed, held, config, data.facts, ours)
        if config.l2 is None:
            strength, path, l2_reason = chosen_before(config, held)
            config = dataclasses.replace(config, l2=strength, l2_path=None)
        said = f"going on from {shown(resumed)}, epoch {epochs}"
        print(f"all {epochs} epochs are in {shown(resumed)}: making the report" if ended else said, file=sys.stderr)
    if ours:  # it is one run, as it was begun
        config = dataclasses.replace(config, ckpt_path=None)
        overrides = [line for line in overrides if line.partition("=")[0] != "ckpt_path"]

    for note in data.notes if progress_lines else ():
        print(on_one_line(f"{config.dataset['name']}: {note}"), file=sys.stderr)
    if config.calibrate != "none" and "val" not in data.splits:
        raise ConfigError("`calibrate=temperature` must have a val split to be fitted on. Set dataset.split.val=0.2.")
    check_select(config, data)
    if config.l2 is None and config.l2_path is None:
        l2, l2_reason = without_choice(config, data)
        config = dataclasses.replace(config, l2=l2)
    if config.l2 is None:
        path, start = along_path(config, data, progress_lines > 0)
        config = dataclasses.replace(config, l2=start.l2, l2_path=None)
    module = build_module(config, data.facts)
    if start is not None:
        module.start_at(start.point)
    along = None
    if chooses_l2:
        along = {"asked": typed_l2, "rows": [dataclasses.asdict(row) for row in path or ()], "reason": l2_reason}
    if not ours:
        check_new("hydra.run.dir", folder, begun=True)
        start_anew(folder)
    checkpoints = Checkpoints(
        folder,
        BufferedCheckpointIO(),
        Latest(folder, root) if is_newest else None,
        config=config.as_dict(),
        path=along,
    )
    is_large = data.facts.rows["train"] * data.facts.num_features > MANY_NUMBERS
    # A few passes of a first-order optimizer may take less: what single columns do not show is looked for afterwards.
    is_short = is_large and module.exact is None
    if not is_short:
        tell(SEPARABLE)
    separation = separation_of(module, data, 0.0 if is_short else SEARCH_LIMITS_S[-1])
    most = _last_pass(config, epochs) if separation and module.exact else None
    # Few rows of many features are separated whatever they are, and so are some rows of images: for a first-order
    # optimizer the report is soon enough.
    is_telling = data.facts.feature_names and data.facts.rows["train"] > 2 * (data.facts.num_features + 1)
    is_news = module.exact is not None or is_telling
    ends = f"; the fit ends after at most {most} passes" if most and most < config.max_epochs else ""
    warning = f"{separation}{ends}" if separation and is_news else ""
    display = ProgressDisplay(config.dataset["name"], progress_lines, warning)
    # The bar is gone before the last certificate.
    callbacks = [display, Certificates(tell), checkpoints, *callbacks]
    logger = RunLogger(folder, epochs if ours else None)
    trainer = build_trainer(config, logger, checkpoints.io, callbacks, "val" in data.splits, most)
    if not ours:
        logger.log_hparams(_hparams(config, module, overrides))
    log.info("%s: rows %s, %d features", data.facts.name, dict(data.facts.rows), data.facts.num_features)

    fit_start = time.perf_counter()
    with threads_for(_work(module, data.facts)):
        if ended:
            assert held is not None
            take_over(held, module, data, checkpoints, [one for one in callbacks if isinstance(one, Ending)])
        else:
            fit(trainer, module, data, resumed)
            epochs = trainer.current_epoch
        fit_seconds = time.perf_counter() - fit_start
        if is_short and not separation:
            tell(SEPARABLE)
            # Numbers of pixels say nothing to anybody: a short look is enough.
            separation = separation_of(module, data, SEARCH_LIMITS_S[-1 if data.facts.feature_names else 0])
        certificate = _certificate(module, data, epochs, fit_seconds, separation)
    if certificate.separation:
        checkpoints.certify(certificate.as_dict())
    tell(f"scoring {', '.join(data.splits)} ...")
    if config.calibrate == "temperature":
        module.calibration = calibrate(module, data)
        checkpoints.calibrate(lambda other: calibrate(other, data))
    scores = {split: score(module, data, split) for split in data.splits}
    last = data.splits[-1]
    predicted = predict(module, data, last)
    chosen = (best_threshold(predict(module, data, "val"), 1.0), "val") if last == "test" and "val" in scores else None
    result = RunResult(
        config,
        folder,
        overrides,
        module,
        data,
        scores,
        certificate,
        checkpoints.best,
        epochs,
        None if ours else resumed,
        path,
        predicted,
        evaluate(predicted, data.facts.class_names, data.facts.class_rates, chosen, seed=config.seed),
        l2_reason,
    )
    tell("drawing pictures and writing the report ...")
    figures = draw(result, logger) if config.report == "full" else []
    summary = summarize(result, {"fit": fit_seconds, "total": time.perf_counter() - started})
    write_report(result, summary, figures, logger)
    log.info("finished: %s", summary["metrics"])
    return summary


def _silent(words: str) -> None:
    """Says nothing."""


def show_facts(config: RunConfig) -> None:
    """What stands in the data, and nothing else: nothing is written.

    Raises:
        LogregError: What training on this data would raise, after what could be shown.
    """
    print_facts(build_data(config), terminal())


def _certificate(
    module: LogisticModule, data: TensorDataModule, epochs: int, seconds: float, separation: str
) -> Certificate:
    """The certificate of the fit, with why there is no finite optimum, if there is none."""
    if module.certificate is None or module.certificate[0] != epochs:  # it was stopped where nobody expected it
        module.certify(data.row_source("train", module.device), epochs, seconds, last=True)
    assert module.certificate is not None
    return dataclasses.replace(module.certificate[1], separation=separation)


def _last_pass(config: RunConfig, epochs: int) -> int:
    """Where an exact optimizer ends that has no finite optimum to go to; ``epochs`` a resumed run has behind it.

    A run that was broken off ends where it would have ended, and one that had ended goes on for as long again.
    """
    begins = config.max_epochs if config.polish else 0
    parts = max(0, epochs - begins) // WITHOUT_OPTIMUM + 1
    return min(begins + parts * WITHOUT_OPTIMUM, config.max_epochs + (POLISHING if config.polish else 0))


def _quieten(verbose: bool) -> None:
    """Sends what Lightning says into train.log, and drops the warnings known to be beside the point."""
    if verbose:
        return
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    for message in (
        ".*does not have many workers.*",  # blocks are indexed in one go; a worker would only copy them
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning 2.6 on torch >= 2.9
        ".*configure_optimizers.*returned.*None.*",  # an exact optimizer is none of torch's
        ".*GPU available but not used.*",  # accelerator=cpu was the user's word
    ):
        warnings.filterwarnings("ignore", message)


def _work(module: LogisticModule, facts: DataFacts) -> float:
    """Floating-point operations of a step."""
    rows = facts.rows["train"]
    batch = rows if module.exact else min(module.batch_size or rows, rows)
    return 4.0 * batch * facts.num_features * len(module.model.intercept)


def _hparams(
    config: RunConfig, module: LogisticModule, overrides: Sequence[str]
) -> dict[str, float | str | bool | None]:
    """The columns of TensorBoard's HPARAMS tab: what is compared most, and what was typed.

    Not all there is: TensorBoard shows the first five in the order of the alphabet, and lr must be among them.  A
    column has one type in all runs.
    """
    columns: dict[str, Any] = {
        "batch_size": str(config.batch_size),  # a number or "full"
        "dataset": config.dataset["name"],
        "l2": module.objective.l2,
        "loss": module.objective.loss,
        "lr": config.lr,
        "max_epochs": config.max_epochs,
        "optimizer": config.optimizer["name"],
        "seed": config.seed,
    }
    for override in overrides:
        key, _, _ = override.lstrip("+").partition("=")
        value: Any = dataclasses.asdict(config)
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, bool | int | float | str):
            continue
        # The same argument of two datasets may be a number in one and a name in the other.
        has_one_type = key in SETTINGS or key.split(".")[0] in SECTIONS
        columns.setdefault(key, value if has_one_type else str(value))
    return columns
