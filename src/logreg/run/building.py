"""Builds what a run consists of from its config: data, module, Trainer."""

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

from logreg.config import DATASET_SETTINGS, EXACT, REFUSED_TRAINER_ARGUMENTS, RunConfig
from logreg.data import Selection, TensorDataModule, build_dataset, build_frozen_features
from logreg.data.sources.image_folder import ImageFolder
from logreg.errors import ConfigError, did_you_mean
from logreg.facts import DataFacts
from logreg.training.callbacks import TimeLimit
from logreg.training.checkpoints import BufferedCheckpointIO
from logreg.training.module import DTYPES, LogisticModule
from logreg.training.tracking import RunLogger

SPLIT_BY = {"column": "split_column", "group": "group"}
"""Keys of ``dataset.split`` that name a column, and the dataset's argument for each."""

POLISHING = 1000
"""Passes at most of an exact optimizer that finishes what a first-order one began."""


def build_data(config: RunConfig, model: DataFacts | None = None) -> TensorDataModule:
    """The DataModule that a config names; with the facts of a trained model its rows are for that one."""
    own = dict(config.dataset)
    split = dict(own.pop("split", {}))
    own.pop("recipe", None)  # the front desk has taken from it what the user left open
    generic = {key: own.pop(key) for key in DATASET_SETTINGS if key in own}
    # Which column says it is the source's to know; which fraction, the DataModule's.
    own |= {argument: split.pop(key) for key, argument in SPLIT_BY.items() if key in split}
    dataset = build_dataset(own.pop("name"), own)
    if model is not None and isinstance(dataset, ImageFolder):
        dataset = dataclasses.replace(dataset, model=model.pixels)
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
    """The module that a config names; its l2 must be a number, which `run.choosing_l2` chooses where it is not."""
    assert config.l2 is not None
    return LogisticModule(
        facts=facts,
        loss=config.loss,
        reduction=config.reduction,  # type: ignore[arg-type]  # checked by the config
        l2=float(config.l2),
        l1=float(config.l1),
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


def build_trainer(
    config: RunConfig,
    logger: RunLogger | None,
    io: BufferedCheckpointIO,
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


def batch_size(config: RunConfig) -> int | None:
    """Rows of a batch; ``None`` for all."""
    return None if config.batch_size == "full" else int(config.batch_size)
