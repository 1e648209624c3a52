"""One run, top to bottom: seed -> data -> module -> trainer -> fit -> score -> report."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from logreg.config import SETTINGS, RunConfig
from logreg.data import TensorDataModule
from logreg.errors import ConfigError
from logreg.evaluation.held_out import evaluate
from logreg.evaluation.predicted import Predicted
from logreg.evaluation.temperature import Calibration
from logreg.evaluation.threshold import best_threshold
from logreg.facts import DataFacts
from logreg.files import shown
from logreg.optimality.certificate import Certificate
from logreg.processes import in_each, in_first, joined_processes
from logreg.reports.data_profile import print_facts
from logreg.reports.drawing import draw
from logreg.reports.summary import RunResult, summarize
from logreg.reports.summary_schema import Summary
from logreg.reports.writing import write_report
from logreg.run.building import (
    build_data,
    build_module,
    build_trainer,
    check_hardware,
    passes_without_optimum,
)
from logreg.run.choosing_strength import Chosen, check_select, choose_strengths, strengths_of_checkpoint
from logreg.run.cross_validating import cross_validate, make_folds
from logreg.run.resuming import Resumption, check_resumable, restore_ended, run_fit
from logreg.run.scoring import calibrate, predict, score, with_auroc
from logreg.run.separability import is_worth_warning, separation_after_fit, separation_before_fit
from logreg.run_folder import Latest, check_new, remove_unsaved_run
from logreg.sections import SECTIONS
from logreg.solvers.threads import threads_for
from logreg.terminal import on_one_line, show_status, terminal
from logreg.training.callbacks import Certificates
from logreg.training.checkpoint_reading import TrainedModel
from logreg.training.checkpoints import BufferedCheckpointIO, Checkpoints
from logreg.training.module import LogisticModule
from logreg.training.progress_display import ProgressDisplay
from logreg.training.tracking import RunLogger

log = logging.getLogger("logreg")


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
    show: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Fits one model to one dataset and fills the run folder.

    Order: seed -> data -> l2 -> module -> Trainer -> fit -> certificate -> scores -> show -> pictures and report.

    Where torch.distributed's default group has several processes, each of them calls this function: they share the
    passes over the rows, and the first one shows the results and writes the folder.

    Args:
        config: The run, checked.
        folder: The run folder; without checkpoints, or that of the run that continues.
        root: The folder whose file ``latest`` names the newest run.
        is_newest: Whether ``latest`` shall name this run; false for jobs of a sweep.
        overrides: Settings as typed after ``scripts/train.py``, for the report.
        started: ``time.perf_counter()`` when the user pressed Enter; now when ``None``.
        progress_lines: Number of lines on stderr during training, where stderr is not a terminal; 0 for no output.
        data: The data of this config, where they are read already; read when ``None``.
        callbacks: Further callbacks of the Trainer.
        show: Shows the results; called as soon as they are known, before pictures are drawn and the report is written.

    Returns:
        The summary that the folder has, in each process.

    Raises:
        LogregError: A mistake that the user can fix; the folder then has no checkpoints, unless training
            diverged later.
    """
    started = time.perf_counter() if started is None else started
    processes = joined_processes()
    is_first = processes is None or processes.rank == 0
    progress_lines = progress_lines if is_first else 0
    folder = in_first(processes, lambda: folder)
    status = show_status if progress_lines else _silent
    resumed = in_each(processes, lambda: Resumption.of(config, folder, root))
    same_run = resumed if resumed is not None and resumed.in_place else None
    in_each(processes, lambda: _prepare(config, 1 if processes is None else processes.size))

    data = build_data(config, processes=processes) if data is None else data
    data, config, chosen = _data_and_strengths(config, data, resumed, status, progress_lines)
    if same_run is not None:  # its settings are those of its begin
        config = dataclasses.replace(config, ckpt_path=None)
        overrides = [line for line in overrides if line.partition("=")[0] != "ckpt_path"]

    module = build_module(config, data.facts)
    if chosen.start is not None:
        module.start_at(chosen.start.point)
    if same_run is None:
        in_first(processes, lambda: _take_folder(folder))
    module.separation = separation_before_fit(module, data, status)

    max_passes = passes_without_optimum(config, module, 0 if resumed is None else resumed.epochs)
    display = ProgressDisplay(config.dataset["name"], progress_lines, _warning(config, module, max_passes))
    mark_newest = Latest(folder, root) if is_newest and is_first else None
    checkpoints = Checkpoints(
        folder, BufferedCheckpointIO(), mark_newest, config=config.as_dict(), path=chosen.for_checkpoint
    )
    # In this order: the bar is gone before the last certificate, and the checkpoint has it.
    callbacks = [display, Certificates(status), *([checkpoints] if is_first else []), *callbacks]
    logger = RunLogger(folder, None if same_run is None else same_run.epochs) if is_first else None
    with nullcontext() if logger is None else closing(logger):
        trainer = build_trainer(config, logger, checkpoints.io, callbacks, "val" in data.splits, max_passes)
        if logger is not None and same_run is None:
            logger.log_hparams(_hparams(config, module, overrides))
        log.info("%s: rows %s, %d features", data.facts.name, dict(data.facts.rows), data.facts.num_features)

        fit_start = time.perf_counter()
        with threads_for(_work(module, data.facts)):
            if resumed is not None and resumed.lacks_only_report(config):
                restore_ended(resumed, module, checkpoints, callbacks)
                epochs = resumed.epochs
            else:
                run_fit(trainer, module, data, None if resumed is None else resumed.file)
                epochs = trainer.current_epoch
            fit_seconds = time.perf_counter() - fit_start
            certificate = _certificate(module, data, checkpoints, epochs, fit_seconds, status)

        status(f"scoring {', '.join(data.splits)} ...")
        if config.calibrate == "temperature":
            module.calibration = in_first(processes, lambda: _calibrate(module, data, checkpoints))
        evaluated = data.splits[-1]
        scores = {split: score(module, data, split, auroc=split != evaluated) for split in data.splits}
        predicted, threshold = _predict(module, data)
        data.free_converted()

        def finish() -> Summary:
            """Evaluates the predictions, shows the results, and writes the report."""
            assert logger is not None
            facts = data.facts
            evaluation = evaluate(predicted, facts.class_names, facts.class_rates, threshold, seed=config.seed)
            scores[evaluated] = with_auroc(scores[evaluated], evaluation)
            result = RunResult(
                config=config,
                folder=folder,
                overrides=overrides,
                module=module,
                data=data,
                scores=scores,
                certificate=certificate,
                best=checkpoints.best,
                epochs=epochs,
                resumed_from=resumed.file if resumed is not None and same_run is None else None,
                path=chosen.path,
                path_coef=chosen.coef,
                path_rule=chosen.rule,
                cross_validation=chosen.cross_validation,
                predicted=predicted,
                evaluation=evaluation,
                l2_reason=chosen.reason,
            )
            summary = summarize(result, fit_seconds, time.perf_counter() - started)
            show(summary)
            status("drawing pictures and writing the report ...")
            figures = draw(result, logger) if config.report == "full" else []
            write_report(result, summary, figures, logger)
            log.info("finished: %s", summary.metrics)
            return summary

        return in_first(processes, finish)


def _take_folder(folder: Path) -> None:
    """Makes sure that a new run can be written into a folder."""
    check_new("hydra.run.dir", folder, begun=True)
    remove_unsaved_run(folder)


def _prepare(config: RunConfig, processes: int) -> None:
    """Checks the hardware and Lightning's arguments before anything is read; seeds all generators."""
    _quieten(config.verbose)
    check_hardware(config.accelerator)
    if (asked := config.devices * config.num_nodes) not in (1, processes):
        raise ConfigError(
            f"`devices` times num_nodes must be the number of processes that run, {processes}, got {asked}. Type "
            f"devices={config.devices} after scripts/train.py, which starts them, or leave it out."
        )
    if config.trainer:
        build_trainer(config, None, BufferedCheckpointIO(), [], has_val=True)
    pl.seed_everything(config.seed, workers=True, verbose=False)


def _data_and_strengths(
    config: RunConfig,
    data: TensorDataModule,
    resumed: Resumption | None,
    status: Callable[[str], None],
    progress_lines: int,
) -> tuple[TensorDataModule, RunConfig, Chosen]:
    """Reads the data, chooses the strengths of the penalties where no numbers were typed, and cross-validates.

    Returns:
        The data; the config, with numbers for l2 and l1; how these numbers were chosen.

    Raises:
        LogregError: The data, or the checkpoint to continue from, do not fit the config.
    """
    status(f"reading {config.dataset['name']} ...")
    if config.facts == "show":
        print_facts(data, terminal())
    data.setup("fit")
    chosen = None
    if resumed is not None:
        check_resumable(resumed, config, data.facts)
        chosen = strengths_of_checkpoint(config, resumed.held, resumed.in_place)
        file, epochs = shown(resumed.file), resumed.epochs
        line = f"continuing from {file}, epoch {epochs}"
        if resumed.lacks_only_report(config):
            line = f"all {epochs} epochs are in {file}: making the report"
        if data.processes is None or data.processes.rank == 0:
            print(line, file=sys.stderr)
    for note in data.notes if progress_lines else ():
        print(on_one_line(f"{config.dataset['name']}: {note}"), file=sys.stderr)
    if config.calibrate != "none" and "val" not in data.splits:
        advice = "Set dataset.split.val=0.2." if config.takes_split else "Leave calibrate out."
        raise ConfigError(f"`calibrate=temperature` must have a val split to be fitted on. {advice}")
    check_select(config, data)
    folds = [] if config.cv is None else make_folds(data, config.cv, config.cv_repeats, config.seed)
    if config.cv is not None and progress_lines:
        print(on_one_line(_rows_of_folds(config.cv, data)), file=sys.stderr)
    chosen = choose_strengths(config, data, folds, progress_lines > 0) if chosen is None else chosen
    config = chosen.fixed(config)
    if folds and chosen.cross_validation is None:
        chosen = dataclasses.replace(chosen, cross_validation=cross_validate(config, data, folds, status))
    return data, config, chosen


def _rows_of_folds(folds: int, data: TensorDataModule) -> str:
    """The line on the rows of a cross-validation that was typed."""
    rows = f"cv={folds}: folds of the {data.facts.source_rows:,} train rows"
    if "val" in data.splits:
        return f"{rows}; val stays apart"
    return f"{rows}; no rows are held out for val (dataset.split.val=0.2 keeps some)"


def _warning(config: RunConfig, module: LogisticModule, max_passes: int | None) -> str:
    """The line on separation that is shown before the fit; empty for none."""
    if not module.separation or not is_worth_warning(module):
        return ""
    ends = f"; the fit ends after at most {max_passes} passes" if max_passes and max_passes < config.max_epochs else ""
    return f"{module.separation}{ends}"


def _certificate(
    module: LogisticModule,
    data: TensorDataModule,
    checkpoints: Checkpoints,
    epochs: int,
    seconds: float,
    status: Callable[[str], None],
) -> Certificate:
    """The certificate of the parameters at the end, which last.ckpt has too.

    The fit has computed it after its last epoch, unless a checkpoint of an earlier version was restored or a callback
    of the caller ended the fit.  A search for separation that has waited for the end of the fit is made here.
    """
    saved, module.separation = module.certificate, separation_after_fit(module, data, status)
    if module.certificate is None or module.certificate.passes != epochs:
        module.certify(data.row_source("train", module.device), epochs, seconds, last=True)
    assert module.certificate is not None
    module.certificate = dataclasses.replace(module.certificate, separation=module.separation)
    if module.certificate != saved and (data.processes is None or data.processes.rank == 0):
        checkpoints.amend(checkpoints.last_path, optimality=module.certificate.as_dict())
    return module.certificate


def _calibrate(module: LogisticModule, data: TensorDataModule, checkpoints: Checkpoints) -> Calibration:
    """Fits the calibration of the model and of best.ckpt, where it is another, and writes each into its checkpoint.

    Returns:
        The calibration of the model.
    """
    module.calibration = calibrate(module, data)
    checkpoints.amend(checkpoints.last_path, calibration=module.calibration.as_dict())
    best = TrainedModel.load(checkpoints.best_path).module
    pairs = zip(best.parameters(), module.parameters(), strict=True)
    is_last = all(torch.equal(one, other.cpu()) for one, other in pairs)
    of_best = module.calibration if is_last else calibrate(best, data)
    checkpoints.amend(checkpoints.best_path, calibration=of_best.as_dict())
    return module.calibration


def _predict(module: LogisticModule, data: TensorDataModule) -> tuple[Predicted, tuple[float, str] | None]:
    """Predictions of the last split; for test, the threshold of two classes that is best on val, and "val"."""
    split, threshold = data.splits[-1], None
    predicted = predict(module, data, split)
    if data.facts.is_binary and split == "test" and "val" in data.splits:
        threshold = best_threshold(predict(module, data, "val"), 1.0), "val"
    return predicted, threshold


def _silent(line: str) -> None:
    """Shows nothing."""


def show_facts(config: RunConfig) -> None:
    """Shows a profile of the data; nothing is written.

    Raises:
        LogregError: Training on this data would raise it; raised after the parts that can be shown.
    """
    print_facts(build_data(config), terminal())


def _quieten(verbose: bool) -> None:
    """Sends Lightning's log to train.log, and silences warnings that do not apply here."""
    if verbose:
        return
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    for message in (
        ".*does not have many workers.*",  # a block is one indexing operation; a worker would only copy it
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning 2.6 on torch >= 2.9
        ".*configure_optimizers.*returned.*None.*",  # an exact optimizer is not one of torch's
        ".*GPU available but not used.*",  # the user typed accelerator=cpu
    ):
        warnings.filterwarnings("ignore", message)


def _work(module: LogisticModule, facts: DataFacts) -> float:
    """Floating-point operations of one optimizer step."""
    rows = facts.rows["train"]
    batch = rows if module.exact else min(module.batch_size or rows, rows)
    return 4.0 * batch * facts.num_features * len(module.model.intercept)


def _hparams(
    config: RunConfig, module: LogisticModule, overrides: Sequence[str]
) -> dict[str, float | str | bool | None]:
    """The columns of TensorBoard's HPARAMS tab: the settings that are compared most, and those that were typed.

    Few, since TensorBoard shows the first five in alphabetical order, and lr must be among them.  A column has one type
    in all runs.
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
