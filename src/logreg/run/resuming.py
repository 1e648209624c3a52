"""Continues a run from a checkpoint: checks that the two fit, then trains, or restores a fit that had ended."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from logreg.config import RunConfig
from logreg.data import TensorDataModule
from logreg.errors import ConfigError, LogregError, Terminated
from logreg.facts import DataFacts
from logreg.files import shown
from logreg.optimality.certificate import Certificate
from logreg.run.building import most_epochs
from logreg.run_folder import continues_in_place, find_checkpoint, run_folder_of
from logreg.training.callbacks import TrainingEnd
from logreg.training.checkpoint_reading import read_checkpoint
from logreg.training.checkpoints import Checkpoints
from logreg.training.module import LogisticModule, resolve_loss

RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector"
"""Lightning's module that restores a checkpoint before training continues."""


@dataclass(frozen=True)
class Resumption:
    """A checkpoint that a run continues.

    Attributes:
        file: The checkpoint.
        held: Content of the checkpoint.
        in_place: Whether the run is the interrupted one itself, and continues in its own folder.
    """

    file: Path
    held: Mapping[str, Any]
    in_place: bool

    @classmethod
    def of(cls, config: RunConfig, folder: Path, root: Path) -> Resumption | None:
        """The checkpoint that a config names, if it names one.

        Raises:
            ConfigError: The checkpoint is missing or broken.
        """
        if not config.ckpt_path:
            return None
        file = find_checkpoint(config.ckpt_path, root, "leave ckpt_path out to start from scratch")
        return cls(file, read_checkpoint(file), continues_in_place(file, folder))

    @property
    def epochs(self) -> int:
        """Number of passes over the train rows that the checkpoint has made."""
        return int(self.held["epoch"]) + 1

    def has_ended(self, config: RunConfig) -> bool:
        """Whether the training of the checkpoint has ended."""
        return bool(self.held.get("ended")) or self.epochs >= most_epochs(config)

    def lacks_only_report(self, config: RunConfig) -> bool:
        """Whether the run was interrupted after its training, so that only its report is left to make."""
        return self.in_place and self.has_ended(config)


def run_fit(trainer: pl.Trainer, module: LogisticModule, data: TensorDataModule, resumed: Path | None) -> None:
    """Trains, from a checkpoint where there is one.

    Raises:
        ConfigError: Lightning refuses its arguments, or the checkpoint.
        KeyboardInterrupt: Stopped from the keyboard.
    """
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resumed)
    except MisconfigurationException as error:
        raise ConfigError(f"`trainer` must suit Lightning's Trainer: {' '.join(str(error).split())}") from error
    except Exception as error:
        restoring = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)}
        if resumed is not None and not isinstance(error, LogregError) and RESTORING in restoring:
            raise ConfigError(
                f"`ckpt_path` must be a checkpoint to continue from, and {shown(resumed)} lacks a part that Lightning "
                "needs. Leave ckpt_path out to start from scratch."
            ) from error
        raise
    except Terminated:
        raise
    except SystemExit as left:  # Lightning turns Ctrl-C into SystemExit
        if trainer.interrupted:
            raise KeyboardInterrupt from left
        raise


def restore_ended(
    resumed: Resumption, module: LogisticModule, checkpoints: Checkpoints, callbacks: Sequence[Callback]
) -> None:
    """Sets the module and the callbacks to the end of the fit that a checkpoint is of, in place of the fit."""
    held = resumed.held
    module.load_state_dict(held["state_dict"])
    if "optimality" in held:
        module.certificate = Certificate.of(held["optimality"])
    state = held.get("callbacks", {}).get(checkpoints.state_key)
    if state is not None:
        checkpoints.load_state_dict(state)
    if checkpoints.when_saved is not None:
        checkpoints.when_saved()
    for callback in callbacks:
        if isinstance(callback, TrainingEnd):
            callback.epochs = resumed.epochs


def check_resumable(resumed: Resumption, config: RunConfig, facts: DataFacts) -> None:
    """Checks that a run has the data, loss and optimizer of its checkpoint, and that epochs are left.

    lr, l2, l1, batch_size, schedule and max_epochs may change.

    Args:
        resumed: The checkpoint.
        config: Config of the run.
        facts: Facts of its data.

    Raises:
        ConfigError: A setting or the data differ where they must be equal, or ``max_epochs`` is reached.
    """
    checkpoint, arguments, epochs = resumed.file, resumed.held["hyper_parameters"], resumed.epochs
    theirs = DataFacts.from_dict(arguments["facts"])
    if "shift" not in arguments["facts"] and not facts.stored.is_plain:
        raise ConfigError(
            f"`ckpt_path` must be of a run that stores features as this one does, and {shown(checkpoint)} is of an "
            "older version, which rounded numbers far from 0, or very large or small. "
            "Leave ckpt_path out to train anew."
        )
    has_settings = run_folder_of(checkpoint) is not None
    advice = "Leave out the changed settings" if has_settings else "Type the settings of its run, which the file lacks"
    for what, mine, its in (
        ("dataset", facts.name, theirs.name),
        ("seed", config.seed, arguments["seed"]),
        ("number of features", facts.num_features, theirs.num_features),
        ("classes", facts.class_names, theirs.class_names),
        ("class weights", facts.class_weight, theirs.class_weight),
        ("augmentation", [*facts.augment.items()], [*theirs.augment.items()]),
        ("number of copies of a train row", facts.copies, theirs.copies),
        ("rows of each split", dict(facts.rows), dict(theirs.rows)),
        ("names of the features", facts.feature_names, theirs.feature_names),
        ("encoding of the columns", facts.columns, theirs.columns),
        ("backbone", dict(facts.backbone), dict(theirs.backbone)),
        ("checksum of the rows", facts.fingerprint, theirs.fingerprint),
        ("standardizing", bool(facts.mean), bool(theirs.mean)),
        (
            "loss",
            resolve_loss(config.loss, config.link, facts),
            resolve_loss(arguments["loss"], arguments.get("link", "logit"), theirs),
        ),
        ("reduction", config.reduction, arguments["reduction"]),
        ("precision", config.precision, arguments["precision"]),
        ("optimizer", dict(config.optimizer), arguments["optimizer"]),
        ("polishing", config.polish, arguments.get("polish", False)),
        ("intercept", config.intercept, arguments.get("intercept", True)),
    ):
        if mine != its:
            raise ConfigError(
                f"`ckpt_path` must fit the run: the {what} of {shown(checkpoint)} is {its!r}, of this run {mine!r}. "
                f"{advice}, or name another run."
            )
    if resumed.lacks_only_report(config):
        return
    if config.max_epochs <= epochs and (resumed.has_ended(config) or not config.polish):
        constraint = f"exceed the {epochs} epochs in {shown(checkpoint)}"
        raise ConfigError.broken("max_epochs", constraint, config.max_epochs, f"Try max_epochs={2 * epochs}.")
