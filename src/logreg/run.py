"""One run, top to bottom: seed -> data -> module -> trainer -> fit -> score -> report."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from logreg.calibration import Calibration, fit_calibration
from logreg.callbacks import Certificates, Checkpoints, Ending, HeldCheckpointIO, SignOfLife, TimeLimit
from logreg.config import DATASET_KNOBS, EXACT, KNOBS, REFUSED_TRAINER_ARGUMENTS, SECTIONS, RunConfig
from logreg.data import Selection, TensorDataModule, build_dataset, build_frozen_features
from logreg.data.image_folder import ImageFolder
from logreg.errors import ConfigError, LogregError, Terminated, did_you_mean
from logreg.evaluation import Predicted, are_counts, best_threshold, evaluate
from logreg.existence import Separation, find_separation
from logreg.facts import Batch, DataFacts, Split
from logreg.folder import Latest, check_new, find_checkpoint, goes_on_in, shown, start_anew
from logreg.inspection import print_facts
from logreg.metrics import Scores
from logreg.module import DTYPES, LogisticModule, resolve_loss
from logreg.optim.exact import drive
from logreg.optim.passes import threads_for
from logreg.optim.path import PathPoint, default_strengths, fit_path
from logreg.optimality import Certificate, is_penalised
from logreg.path import ROUGH, PathRow, best_of, score_path, search_strength
from logreg.ranking import log_odds
from logreg.report import RunResult, Summary, draw, summarise, write_report
from logreg.terminal import doing, on_one_line, terminal
from logreg.tracking import RunLogger
from logreg.trained import read_checkpoint

log = logging.getLogger("logreg")

SPLIT_BY = {"column": "split_column", "group": "group"}
"""Keys of ``dataset.split`` that name a column, and the dataset's argument for each."""

EVERY_S = 5.0
"""Seconds between two lines about what was tried, where stderr is a file."""

SEARCHES = (0.5, 5.0)
"""About how many seconds to look for separation: single columns, which are seen first, often decide already."""

POLISHING = 1000
"""Passes at most of an exact optimizer that finishes what a first-order one began."""

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
    watchers: Sequence[Callback] = (),
) -> Summary:
    """Fits one model to one dataset and fills the run folder.

    Order: seed -> data -> module -> trainer -> fit -> score -> report.

    Args:
        config: The run, checked.
        folder: The run folder; one that has no checkpoints yet, or that of the run to go on with.
        root: Where ``latest`` stands that names the newest run.
        is_newest: Whether ``latest`` shall name this one; jobs of a sweep leave it alone.
        overrides: What the person typed after ``scripts/train.py``, for the report.
        started: ``time.perf_counter()`` when the person pressed Enter; now when ``None``.
        progress_lines: Lines on stderr during training, where stderr is not a terminal.
        data: That of this config, where it is read already; read when ``None``.
        watchers: Further callbacks of the Trainer.

    Returns:
        The content of summary.json.

    Raises:
        LogregError: The person can mend it; the folder then has no checkpoints, unless training
            diverged later.
    """
    started = time.perf_counter() if started is None else started
    resumed, held, ours, ended, epochs = None, None, False, False, 0
    path, start, asked, l2_reason = None, None, config.l2, ""
    if config.ckpt_path:
        resumed = find_checkpoint(config.ckpt_path, root, "leave ckpt_path out to start from scratch")
        held = read_checkpoint(resumed)
        ours = goes_on_in(resumed, folder)
    _quieten(config.verbose)
    if progress_lines and (alone := started_beside_others()):
        print(alone, file=sys.stderr)
    check_hardware(config.accelerator)
    if config.trainer:  # what Lightning does not take is said before anything is read, or fitted along a path
        build_trainer(config, None, HeldCheckpointIO(), [], has_val=True)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    tell = doing if progress_lines else _silent
    tell(f"reading {config.dataset['name']} ...")
    data = build_data(config) if data is None else data
    if config.facts == "show":
        print_facts(data, terminal())
    data.setup("fit")
    if resumed and held:
        epochs, ended = _check_resumable(resumed, held, config, data.facts, ours)
        if not isinstance(config.l2, int | float):
            strength, path, l2_reason = _chosen_before(config, held)
            config = dataclasses.replace(config, l2=strength)
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
    if config.l2 == "auto":
        l2, l2_reason = _without_choice(config, data)
        config = config if l2 is None else dataclasses.replace(config, l2=l2)
    if not isinstance(config.l2, int | float):
        path, start = _along_path(config, data, progress_lines > 0)
        config = dataclasses.replace(config, l2=start.l2)
    module = build_module(config, data.facts)
    if start is not None:
        module.start_at(start.point)
    along = None
    if not isinstance(asked, int | float):
        along = {"asked": asked, "rows": [dataclasses.asdict(row) for row in path or ()], "reason": l2_reason}
    if not ours:
        check_new("hydra.run.dir", folder, begun=True)
        start_anew(folder)
    checkpoints = Checkpoints(
        folder,
        HeldCheckpointIO(),
        Latest(folder, root) if is_newest else None,
        config=config.as_dict(),
        path=along,
    )
    is_large = data.facts.rows["train"] * data.facts.num_features > MANY_NUMBERS
    # A few passes of a first-order optimizer may take less: what single columns do not show is looked for afterwards.
    is_short = is_large and module.exact is None
    if not is_short:
        tell(SEPARABLE)
    separation = _separation(module, data, 0.0 if is_short else SEARCHES[-1])
    most = _last_pass(config, epochs) if separation and module.exact else None
    # Few rows of many features are separated whatever they are, and so are some rows of images: for a first-order
    # optimizer the report is soon enough.
    is_telling = data.facts.feature_names and data.facts.rows["train"] > 2 * (data.facts.num_features + 1)
    is_news = module.exact is not None or is_telling
    ends = f"; the fit ends after at most {most} passes" if most and most < config.max_epochs else ""
    warning = f"{separation}{ends}" if separation and is_news else ""
    sign_of_life = SignOfLife(config.dataset["name"], progress_lines, warning)
    # The bar is gone before the last certificate.
    callbacks = [sign_of_life, Certificates(tell), checkpoints, *watchers]
    logger = RunLogger(folder, epochs if ours else None)
    trainer = build_trainer(config, logger, checkpoints.io, callbacks, "val" in data.splits, most)
    if not ours:
        logger.log_hparams(_hparams(config, module, overrides))
    log.info("%s: rows %s, %d features", data.facts.name, dict(data.facts.rows), data.facts.num_features)

    fit_start = time.perf_counter()
    with threads_for(_work(module, data.facts)):
        if ended:
            assert held is not None
            _take_over(held, module, data, checkpoints, [one for one in watchers if isinstance(one, Ending)])
        else:
            _fit(trainer, module, data, resumed)
            epochs = trainer.current_epoch
        fit_seconds = time.perf_counter() - fit_start
        if is_short and not separation:
            tell(SEPARABLE)
            # Numbers of pixels say nothing to anybody: a short look is enough.
            separation = _separation(module, data, SEARCHES[-1 if data.facts.feature_names else 0])
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
    summary = summarise(result, {"fit": fit_seconds, "total": time.perf_counter() - started})
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


RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector"
"""The module that takes a checkpoint apart before training goes on."""


def _fit(trainer: pl.Trainer, module: LogisticModule, data: TensorDataModule, resumed: Path | None) -> None:
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resumed)
    except MisconfigurationException as error:
        raise ConfigError(f"`trainer` must suit Lightning's Trainer: {' '.join(str(error).split())}") from error
    except Exception as error:
        restoring = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)}
        if resumed is not None and not isinstance(error, LogregError) and RESTORING in restoring:
            raise ConfigError(
                f"`ckpt_path` must be a checkpoint to go on from, and {shown(resumed)} lacks what Lightning wants of "
                "one. Leave ckpt_path out to start from scratch."
            ) from error
        raise
    except Terminated:
        raise
    except SystemExit as left:  # how Lightning answers Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from left
        raise


def _take_over(
    held: Mapping[str, Any],
    module: LogisticModule,
    data: TensorDataModule,
    checkpoints: Checkpoints,
    watchers: Sequence[Ending],
) -> None:
    """Sets all to where a fit ended that a checkpoint is of."""
    module.load_state_dict(held["state_dict"])
    epochs = held["epoch"] + 1
    if "optimality" in held:
        module.certificate = epochs, Certificate.of(held["optimality"])
    state = held.get("callbacks", {}).get(checkpoints.state_key)
    if state is not None:
        checkpoints.load_state_dict(state)
    if checkpoints.when_saved is not None:
        checkpoints.when_saved()
    for watcher in watchers:
        watcher.epochs = epochs


def build_data(config: RunConfig, model: DataFacts | None = None) -> TensorDataModule:
    """The DataModule that a config names; with the facts of a trained model its rows are for that one."""
    own = dict(config.dataset)
    split = dict(own.pop("split", {}))
    own.pop("recipe", None)  # the front desk has taken from it what the person left open
    generic = {key: own.pop(key) for key in DATASET_KNOBS if key in own}
    # Which column says it is the source's to know; which fraction, the DataModule's.
    own |= {argument: split.pop(key) for key, argument in SPLIT_BY.items() if key in split}
    dataset = build_dataset(own.pop("name"), own)
    if model is not None and isinstance(dataset, ImageFolder):
        dataset = dataclasses.replace(dataset, model=model.pixels)
    if config.backbone["name"] != "none":
        dataset = build_frozen_features(dataset, config.backbone, device_of(config.accelerator))
    return TensorDataModule(
        dataset,
        batch_size=_batch_size(config),
        whole_passes_after=0 if config.optimizer["name"] in EXACT else config.max_epochs if config.polish else None,
        split=split,
        standardize=generic["standardize"],
        seed=config.seed,
        dtype=DTYPES[config.precision],
        selection=Selection.of(generic.get("classes"), generic.get("positive")),
        limit=generic.get("limit"),
        class_weight=generic.get("class_weight", "none"),
        model=model,
        shifts=config.intercept or generic["standardize"],
    )


def device_of(accelerator: str) -> torch.device:
    """Where a backbone runs, and a model that needs no Trainer."""
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def build_module(config: RunConfig, facts: DataFacts) -> LogisticModule:
    """The module that a config names."""
    return LogisticModule(
        facts=facts,
        loss=config.loss,
        reduction=config.reduction,  # type: ignore[arg-type]  # checked by the config
        l2=float(config.l2),  # type: ignore[arg-type]  # a path has chosen one
        l1=float(config.l1),
        init=config.init,  # type: ignore[arg-type]  # checked by the config
        optimizer=config.optimizer,
        schedule=config.schedule,
        lr=None if config.lr is None else float(config.lr),
        batch_size=_batch_size(config),
        max_epochs=config.max_epochs,
        seed=config.seed,
        precision=config.precision,  # type: ignore[arg-type]  # checked by the config
        tolerance=config.tolerance,
        polish=config.polish,
        intercept=config.intercept,
    )


def build_trainer(
    config: RunConfig,
    logger: RunLogger | None,
    io: HeldCheckpointIO,
    callbacks: Sequence[Callback],
    has_val: bool,
    most: int | None = None,
) -> pl.Trainer:
    """Lightning's Trainer; ``config.trainer`` reaches it unchanged; with ``most`` it ends after so many epochs.

    One without a logger shows that it takes ``config.trainer``.
    """
    known = set(inspect.signature(pl.Trainer.__init__).parameters) - set(REFUSED_TRAINER_ARGUMENTS)
    for key in config.trainer:
        if key not in known:
            near = did_you_mean(f"trainer.{key}", [f"trainer.{name}" for name in sorted(known)])
            raise ConfigError(f"`trainer.{key}` must be an argument of Lightning's Trainer. {near}".rstrip())
    for variable in sorted(os.environ):
        # Lightning takes them as arguments that were not given, unchecked.
        if variable.startswith("PL_TRAINER_"):
            key = variable.removeprefix("PL_TRAINER_").lower()
            raise ConfigError(
                f"`{variable}` must not be set in the environment. Unset it, and type trainer.{key}=VALUE."
            )
    arguments: dict[str, Any] = {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "precision": f"{config.precision}-true",
        "max_epochs": most or config.max_epochs + (POLISHING if config.polish else 0),
        "logger": logger or False,
        "callbacks": list(callbacks),
        "plugins": [io, OneProcess()],
        # Lightning looks there for checkpoints of its own that SLURM had it write
        "default_root_dir": None if logger is None else str(logger.folder.resolve()),
        "enable_progress_bar": False,
        "enable_model_summary": config.verbose,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        **config.trainer,
    }
    if not has_val:
        arguments["limit_val_batches"] = 0
    try:
        limit = arguments.pop("max_time", None)
        if limit is not None:
            arguments["callbacks"].append(TimeLimit(limit))
        return pl.Trainer(**arguments)
    except (AttributeError, TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError(f"`trainer` must suit Lightning's Trainer: {error}") from error


class OneProcess(ClusterEnvironment):
    """A process that trains for itself, whatever started it: SLURM, LSF, torchrun, Kubeflow or nobody.

    Without it Lightning reads from the environment how many processes there are, and waits for the others.
    """

    creates_processes_externally = True
    main_address = "127.0.0.1"
    main_port = 0

    @staticmethod
    def detect() -> bool:
        """Whether it is there, as it always is."""
        return True

    def world_size(self) -> int:
        """How many processes train together."""
        return 1

    def set_world_size(self, size: int) -> None:
        """Nothing: it stays 1."""

    def global_rank(self) -> int:
        """Which of them it is."""
        return 0

    def set_global_rank(self, rank: int) -> None:
        """Nothing: it stays 0."""

    def local_rank(self) -> int:
        """Which of them on its machine."""
        return 0

    def node_rank(self) -> int:
        """Which machine."""
        return 0


STARTED_BY = {
    "torchrun": ("RANK", "WORLD_SIZE"),  # Kubeflow sets the same
    "SLURM": ("SLURM_PROCID", "SLURM_NTASKS"),
    "LSF": ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    "MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}
"""Which variables of the environment say the number of a process, and how many there are."""


def started_beside_others() -> str | None:
    """That this process is one of several which something started together, in words."""
    for starter, (rank, size) in STARTED_BY.items():
        if os.environ.get(size, "1") not in ("", "0", "1"):
            return (
                f"process {os.environ.get(rank, '?')} of {os.environ[size]} that {starter} started: "
                "several processes do not train together yet, each is a run of its own"
            )
    return None


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
    table = data.tables[split]
    labels = table.chosen(table.labels).unique()
    return data.facts.class_names[int(labels[0])] if len(labels) == 1 else None


def _without_choice(config: RunConfig, data: TensorDataModule) -> tuple[float | None, str]:
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
    l2 = float(f"{problem.share:.3g}")
    why = f"all rows of val are {alone!r}" if alone else "there is no val split to choose it by"
    return l2, f"l2={l2:g} as scikit-learn has it (C=1), since {why}: type l2, or dataset.split.val=0.2"


def _chosen_before(config: RunConfig, held: Mapping[str, Any]) -> tuple[float, list[PathRow] | None, str]:
    """The strength that a checkpoint has, the path that it was chosen from, if there was one, and why there was none.

    Raises:
        ConfigError: Another path is asked for.
    """
    # Checkpoints of before say nothing of it.
    before, chosen = held.get("path", {"asked": config.l2}) or {}, float(held["hyper_parameters"]["l2"])
    if config.l2 not in ("auto", before.get("asked")):
        raise ConfigError.broken(
            "l2", "be one number to go on from this checkpoint", config.l2, f"Set l2={chosen:g}, which it has."
        )
    return chosen, [PathRow(**row) for row in before.get("rows", ())] or None, before.get("reason", "")


def _along_path(config: RunConfig, data: TensorDataModule, shown: bool) -> tuple[list[PathRow], PathPoint]:
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

    def rows_of(split: Split) -> Iterator[Batch]:
        for features, labels, weights in data.train_dataloader() if split == "train" else data.blocks(split):
            yield Batch(features.to(device), labels.to(device), None if weights is None else weights.to(device))

    told_s = time.monotonic()

    def tell(row: PathRow) -> None:
        nonlocal told_s
        line = f"choosing l2 on val: with {row.l2:g} loss/val {row.loss_val:.4g}"
        if shown:
            doing(line)
        if shown and not sys.stderr.isatty() and time.monotonic() - told_s > EVERY_S:
            print(line, file=sys.stderr, flush=True)
            told_s = time.monotonic()

    def train_rows(mixed: bool) -> Iterator[Batch]:
        return rows_of("train")

    sample = next(rows_of("train"))
    values = list(config.l2) if isinstance(config.l2, list | tuple) else []
    if config.l2 == "path":
        values = default_strengths(problem, sample)
    if shown and values:
        said = f"path: {len(values)} strengths of l2 from {max(values):.3g} to {min(values):.3g}"
        print(said, file=sys.stderr)
    with threads_for(4.0 * problem.rows * problem.num_parameters):
        if values:
            points = drive(fit_path(problem, values, config.tolerance, config.seed), train_rows)
            rows = score_path(problem, points, rows_of("val"), config.select == "auroc")
            place = best_of(rows, config.select)
        else:
            tolerance = max(ROUGH, config.tolerance)
            rows, points, place = search_strength(
                problem, train_rows, lambda: rows_of("val"), sample, config.select, tolerance, config.seed, tell
            )
    return rows, points[place]


def _certificate(
    module: LogisticModule, data: TensorDataModule, epochs: int, seconds: float, separation: str
) -> Certificate:
    """The certificate of the fit, with why there is no finite optimum, if there is none."""
    if module.certificate is None or module.certificate[0] != epochs:  # it was stopped where nobody expected it
        module.certify(lambda mixed: data.blocks("train"), epochs, seconds, last=True)
    assert module.certificate is not None
    return dataclasses.replace(module.certificate[1], separation=separation)


def _separation(module: LogisticModule, data: TensorDataModule, seconds: float = SEARCHES[-1]) -> str:
    """Why a fit without a penalty has no finite optimum, if it has none, as far as so many seconds tell.

    Without any, single columns are looked at.
    """
    objective, train, facts = module.objective, data.tables["train"], module.facts
    if is_penalised(objective) or not module.has_intercept:
        return ""
    weights = None if train.sample_weight is None else train.chosen(train.sample_weight)
    features, labels = data.stored_matrix("train"), train.chosen(train.labels)
    found = Separation("unknown")
    for most in (0.0,) if not seconds else SEARCHES:
        if most > seconds:
            break
        found = find_separation(features, labels, facts.num_classes, objective.loss, weights, most)
        if found.kind != "unknown":
            break
    if found.kind in ("none", "unknown"):
        return ""
    return found.in_words(facts.feature_names, facts.class_names, data.leaks.advice)


def _last_pass(config: RunConfig, epochs: int) -> int:
    """Where an exact optimizer ends that has no finite optimum to go to; ``epochs`` a resumed run has behind it.

    A run that was broken off ends where it would have ended, and one that had ended goes on for as long again.
    """
    begins = config.max_epochs if config.polish else 0
    parts = max(0, epochs - begins) // WITHOUT_OPTIMUM + 1
    return min(begins + parts * WITHOUT_OPTIMUM, config.max_epochs + (POLISHING if config.polish else 0))


@torch.no_grad()
def score(module: LogisticModule, data: TensorDataModule, split: Split) -> Scores:
    """Loss, accuracy and, for two classes, AUROC of all rows of a split."""
    scorer = module.scorer(auroc=True)
    for block in data.blocks(split):
        module.to(block.features.device)
        scorer.update(
            module.model(block.features),
            block.labels,
            sample_weight=block.sample_weight,
            log_weight=module.calibration.log_weight,
        )
    return scorer.compute()


@torch.no_grad()
def predict(module: LogisticModule, data: TensorDataModule, split: Split) -> Predicted:
    """Probabilities of all rows of a split, with what is known of the rows."""
    table = data.tables[split]
    logits = torch.cat([module.to(block.features.device).model(block.features).cpu() for block in data.blocks(split)])
    return Predicted(
        module.calibration.probabilities(logits, module.objective.loss),
        table.chosen(table.labels),
        None if table.sample_weight is None else table.chosen(table.sample_weight),
        None if table.groups is None else table.chosen(table.groups),
        log_odds(logits) if module.facts.is_binary else None,
        weights_are_counts(data),
    )


def weights_are_counts(data: TensorDataModule) -> bool:
    """Whether the weights of the rows are numbers of rows: those of all splits are whole, and not all are 1."""
    weights = [t.chosen(t.sample_weight) for t in data.tables.values() if t.sample_weight is not None]
    return bool(weights) and are_counts(torch.cat(weights))


@torch.no_grad()
def calibrate(module: LogisticModule, data: TensorDataModule) -> Calibration:
    """The calibration of a model: its class weights taken out, then a temperature fitted on the val split."""
    logits, labels, weights = [], [], []
    for block in data.blocks("val"):
        logits.append(module.to(block.features.device).model(block.features).cpu())
        labels.append(block.labels.cpu())
        weights += [] if block.sample_weight is None else [block.sample_weight.cpu()]
    weight = torch.cat(weights) if weights else None
    return fit_calibration(
        torch.cat(logits),
        torch.cat(labels),
        module.objective.loss,
        module.facts.class_names,
        module.facts.class_weight,
        weight,
        weights_are_counts(data),
    )


def check_hardware(accelerator: str) -> None:
    """``gpu`` without one is an error, never a quiet run on the CPU."""
    there = {
        "gpu": torch.cuda.is_available() or torch.backends.mps.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(accelerator, True):
        kind = "CUDA device" if accelerator == "gpu" else "Apple GPU"
        raise ConfigError(
            f"`accelerator={accelerator}` must name hardware that torch can use here, and there is no {kind}. "
            "Use accelerator=cpu, or accelerator=auto to take whatever there is."
        )


def _check_resumable(
    checkpoint: Path, held: Mapping[str, Any], config: RunConfig, facts: DataFacts, ours: bool
) -> tuple[int, bool]:
    """A checkpoint goes on only with the data, loss and optimizer it was made with, and with epochs left.

    lr, l2, l1, batch_size, schedule and max_epochs may change.

    Args:
        checkpoint: The file.
        held: What is in it.
        config: Of this run.
        facts: Of its data.
        ours: Whether it is this run, which was broken off: then it may be that nothing but the report is left.

    Returns:
        The epochs that it has behind it, and whether nothing but the report is left.
    """
    arguments, epochs = held["hyper_parameters"], held["epoch"] + 1
    theirs = DataFacts.from_dict(arguments["facts"])
    if "shift" not in arguments["facts"] and not facts.stored.is_plain:
        raise ConfigError(
            f"`ckpt_path` must be of a run that stores features as this one does, and {shown(checkpoint)} is of an "
            "older version, which rounded numbers far from 0, or very large or small. "
            "Leave ckpt_path out to train anew."
        )
    for what, mine, its in (
        ("dataset", facts.name, theirs.name),
        ("seed", config.seed, arguments["seed"]),
        ("number of features", facts.num_features, theirs.num_features),
        ("classes", facts.class_names, theirs.class_names),
        ("class weights", facts.class_weight, theirs.class_weight),
        ("rows of each split", dict(facts.rows), dict(theirs.rows)),
        ("names of the features", facts.feature_names, theirs.feature_names),
        ("encoding of the columns", facts.columns, theirs.columns),
        ("backbone", dict(facts.backbone), dict(theirs.backbone)),
        ("checksum of the rows", facts.fingerprint, theirs.fingerprint),
        ("standardising", bool(facts.mean), bool(theirs.mean)),
        ("loss", resolve_loss(config.loss, facts), resolve_loss(arguments["loss"], theirs)),
        ("reduction", config.reduction, arguments["reduction"]),
        ("precision", config.precision, arguments["precision"]),
        ("optimizer", dict(config.optimizer), arguments["optimizer"]),
        ("polishing", config.polish, arguments.get("polish", False)),
        ("intercept", config.intercept, arguments.get("intercept", True)),
    ):
        if mine != its:
            raise ConfigError(
                f"`ckpt_path` must fit the run: the {what} of {shown(checkpoint)} is {its!r}, of this run {mine!r}. "
                "Leave out what was typed anew, or name another run."
            )
    ended = bool(held.get("ended")) or epochs >= config.max_epochs + (POLISHING if config.polish else 0)
    if ours and ended:
        return int(epochs), True
    if config.max_epochs <= epochs and (ended or not config.polish):
        promise = f"exceed the {epochs} epochs in {shown(checkpoint)}"
        raise ConfigError.broken("max_epochs", promise, config.max_epochs, f"Try max_epochs={2 * epochs}.")
    return int(epochs), False


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
        ".*GPU available but not used.*",  # accelerator=cpu was the person's word
    ):
        warnings.filterwarnings("ignore", message)


def _work(module: LogisticModule, facts: DataFacts) -> float:
    """Floating-point operations of a step."""
    rows = facts.rows["train"]
    batch = rows if module.exact else min(module.batch_size or rows, rows)
    return 4.0 * batch * facts.num_features * len(module.model.intercept)


def _batch_size(config: RunConfig) -> int | None:
    return None if config.batch_size == "full" else int(config.batch_size)


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
        "l2": float(config.l2),  # type: ignore[arg-type]  # a path has chosen one
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
        has_one_type = key in KNOBS or key.split(".")[0] in SECTIONS
        columns.setdefault(key, value if has_one_type else str(value))
    return columns
