"""Builds the parts of a run from its config: data, module, Trainer."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from logreg.config import EXACT, RunConfig
from logreg.data import Selection, TensorDataModule, build_dataset, build_frozen_features
from logreg.data.sources.image_folder import ImageFolder
from logreg.data.sources.table import TableFile
from logreg.errors import ConfigError, did_you_mean
from logreg.facts import DataFacts
from logreg.processes import Processes
from logreg.sections import DATASET_SETTINGS, IMAGE_SETTINGS, REFUSED_TRAINER_ARGUMENTS, augmentation_of
from logreg.training.callbacks import TimeLimit
from logreg.training.checkpoints import BufferedCheckpointIO
from logreg.training.module import DTYPES, LogisticModule
from logreg.training.tracking import RunLogger

SPLIT_BY = {"column": "split_column", "group": "group"}
"""Keys of ``dataset.split`` that name a column, and the dataset's argument for each."""

PASSES_WITHOUT_OPTIMUM = 50
"""Passes of an exact optimizer where no finite optimum exists: the loss no longer changes in its first digits."""

MAX_POLISHING_PASSES = 1000
"""Largest number of passes of the exact optimizer that follows a first-order one (``polish``)."""

DEFAULT_COPIES = 1
"""Changed copies of each train row (``dataset.augment``), where the rows of a fit must not change."""


def build_data(
    config: RunConfig, model: DataFacts | None = None, processes: Processes | None = None
) -> TensorDataModule:
    """The DataModule that a config names.

    Args:
        config: Config of the run.
        model: Facts of a trained model, for which the rows are encoded then.
        processes: The processes that share the rows; ``None`` for one process.
    """
    own = dict(config.dataset)
    split = dict(own.pop("split", {}))
    own.pop("recipe", None)  # the command line has filled in the settings from it
    generic = {key: own.pop(key) for key in (*DATASET_SETTINGS, *IMAGE_SETTINGS) if key in own}
    # A column that splits rows is an argument of the source; fractions are one of the DataModule.
    own |= {argument: split.pop(key) for key, argument in SPLIT_BY.items() if key in split}
    dataset = build_dataset(own.pop("name"), own)
    if model is not None and isinstance(dataset, ImageFolder):
        dataset = dataclasses.replace(dataset, model=model.pixels)
    if model is not None and isinstance(dataset, TableFile):
        dataset = dataclasses.replace(dataset, model=[column.name for column in model.columns])
    if config.backbone["name"] != "none":
        dataset = build_frozen_features(dataset, config.backbone, device_of(config.accelerator))
    return TensorDataModule(
        dataset,
        batch_size=batch_size(config),
        full_passes_from_epoch=0 if config.optimizer["name"] in EXACT else config.max_epochs if config.polish else None,
        split=split,
        standardize=generic["standardize"],
        seed=config.seed,
        dtype=DTYPES[config.precision],
        selection=Selection.of(generic.get("classes"), generic.get("positive")),
        limit=generic.get("limit"),
        class_weight=generic.get("class_weight", "none"),
        model=model,
        shifts=config.intercept or generic["standardize"] is not False,
        augment=augmentation_of(generic.get("augment")),
        copies=copies_of(config),
        processes=processes,
    )


def copies_of(config: RunConfig) -> int:
    """Changed copies of each train row; 0 without ``dataset.augment``, and where each epoch draws anew.

    Exact optimizers need a fixed objective, and a backbone computes features once.
    """
    if not config.dataset.get("augment"):
        return 0
    is_fixed = config.optimizer["name"] in EXACT or config.polish or config.backbone["name"] != "none"
    return int(config.dataset.get("copies") or (DEFAULT_COPIES if is_fixed else 0))


def device_of(accelerator: str) -> torch.device:
    """The device of a backbone, and of a model outside of a Trainer."""
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def build_module(config: RunConfig, facts: DataFacts) -> LogisticModule:
    """The module that a config names, whose l2 and l1 are numbers; `logreg.run.choosing_strength` puts them there."""
    assert config.l2 is not None
    assert not config.has_path
    return LogisticModule(
        facts=facts,
        loss=config.loss,
        link=config.link,
        reduction=config.reduction,  # type: ignore[arg-type]  # checked by the config
        l2=float(config.l2),
        l1=config.fixed_l1,
        init=config.init,  # type: ignore[arg-type]  # checked by the config
        optimizer=config.optimizer,
        schedule=config.schedule,
        lr=None if config.lr is None else float(config.lr),
        batch_size=batch_size(config),
        max_epochs=config.max_epochs,
        seed=config.seed,
        precision=config.precision,  # type: ignore[arg-type]  # checked by the config
        tolerance=config.tolerance,
        polish=config.polish,
        intercept=config.intercept,
    )


def most_epochs(config: RunConfig) -> int:
    """Largest number of epochs of a run, with those of an exact optimizer that follows a first-order one."""
    return config.max_epochs + (MAX_POLISHING_PASSES if config.polish else 0)


def passes_without_optimum(config: RunConfig, module: LogisticModule, epochs: int = 0) -> int | None:
    """Largest number of passes of an exact optimizer where there is no finite optimum; ``None`` where no limit applies.

    A run that was interrupted ends where it would have ended; a run that had ended continues for as many passes again.

    Args:
        config: Config of the run.
        module: The module, whose separation is known.
        epochs: Epochs that the run has made already.
    """
    if not module.separation or not module.exact:
        return None
    begins = config.max_epochs if config.polish else 0
    parts = max(0, epochs - begins) // PASSES_WITHOUT_OPTIMUM + 1
    return min(begins + parts * PASSES_WITHOUT_OPTIMUM, most_epochs(config))


def build_trainer(
    config: RunConfig,
    logger: RunLogger | None,
    io: BufferedCheckpointIO,
    callbacks: Sequence[Callback],
    has_val: bool,
    most: int | None = None,
) -> pl.Trainer:
    """Lightning's Trainer, with ``config.trainer`` as further arguments.

    Args:
        config: Config of the run.
        logger: ``None`` for a Trainer that writes nothing: it checks ``config.trainer``, or fits without a fold.
        io: Writes the checkpoints.
        callbacks: Callbacks, in the order in which they are called.
        has_val: Whether there is a val split.
        most: Largest number of epochs; ``None`` for that of the config.

    Raises:
        ConfigError: ``config.trainer``, or a variable of the environment, does not suit Lightning.
    """
    known = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self", *REFUSED_TRAINER_ARGUMENTS}
    for key in config.trainer:
        if key not in known:
            near = did_you_mean(f"trainer.{key}", [f"trainer.{name}" for name in sorted(known)])
            raise ConfigError(f"`trainer.{key}` must be an argument of Lightning's Trainer. {near}".rstrip())
    for variable in sorted(os.environ):
        # Lightning would read arguments that are not given from these variables, unchecked.
        if variable.startswith("PL_TRAINER_"):
            key = variable.removeprefix("PL_TRAINER_").lower()
            raise ConfigError(
                f"`{variable}` must not be set in the environment. Unset it, and type trainer.{key}=VALUE."
            )
    arguments: dict[str, Any] = {
        "accelerator": config.accelerator,
        "devices": [torch.cuda.current_device()] if device_of(config.accelerator).type == "cuda" else 1,
        "precision": f"{config.precision}-true",
        "max_epochs": most or most_epochs(config),
        "logger": logger or False,
        "callbacks": list(callbacks),
        "plugins": [io, OneProcess()],
        # the folder where Lightning looks for the checkpoints that it writes under SLURM
        "default_root_dir": None if logger is None else str(logger.folder.resolve()),
        "enable_progress_bar": False,
        "enable_checkpointing": logger is not None,  # else Lightning would write checkpoints of its own
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
            arguments["callbacks"].insert(0, TimeLimit(limit))  # first: the others see that the epoch is the last
        return pl.Trainer(**arguments)
    except (AttributeError, TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError(f"`trainer` must suit Lightning's Trainer: {error}") from error


class OneProcess(ClusterEnvironment):
    """A single process, whatever started it: SLURM, LSF, torchrun, Kubeflow or a user.

    Without this class Lightning reads the number of processes from the environment, and waits for the others.  Where
    several processes share the rows, each of them has a Trainer that knows of one: they meet in the passes
    (`logreg.processes`).  Lightning's own strategies would average gradients, which are sums over a pass here, and meet
    at each block, of which the processes need not have the same number.
    """

    creates_processes_externally = True
    main_address = "127.0.0.1"
    main_port = 0

    @staticmethod
    def detect() -> bool:
        """Always true."""
        return True

    def world_size(self) -> int:
        """Number of processes: 1."""
        return 1

    def set_world_size(self, size: int) -> None:
        """Does nothing: the size stays 1."""

    def global_rank(self) -> int:
        """Rank of this process: 0."""
        return 0

    def set_global_rank(self, rank: int) -> None:
        """Does nothing: the rank stays 0."""

    def local_rank(self) -> int:
        """Rank on this machine: 0."""
        return 0

    def node_rank(self) -> int:
        """Rank of this machine: 0."""
        return 0


def check_hardware(accelerator: str, processes: int = 1) -> None:
    """Checks that torch can use the hardware that ``accelerator`` names.

    Args:
        accelerator: As of a config.
        processes: Number of processes on this machine, each with a GPU of its own.

    Raises:
        ConfigError: There is no such hardware; a run never falls back to the CPU silently.
    """
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
    if device_of(accelerator).type == "cuda" and processes > (gpus := torch.cuda.device_count()):
        raise ConfigError.broken(
            "devices",
            f"be at most {gpus}, the number of GPUs of this machine",
            processes,
            "With accelerator=cpu it may be any number.",
        )


def batch_size(config: RunConfig) -> int | None:
    """Number of rows of a batch; ``None`` for all rows."""
    return None if config.batch_size == "full" else int(config.batch_size)
