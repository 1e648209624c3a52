"""Goes on from a checkpoint: what must be the same, and what is taken over."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException

from logreg.config import RunConfig
from logreg.data import TensorDataModule
from logreg.errors import ConfigError, LogregError, Terminated
from logreg.facts import DataFacts
from logreg.files import shown
from logreg.optimality.certificate import Certificate
from logreg.run.building import POLISHING
from logreg.training.callbacks import Ending
from logreg.training.checkpoints import Checkpoints
from logreg.training.module import LogisticModule, resolve_loss

RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector"
"""The module that takes a checkpoint apart before training goes on."""


def fit(trainer: pl.Trainer, module: LogisticModule, data: TensorDataModule, resumed: Path | None) -> None:
    """Trains, from a checkpoint on where there is one.

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


def take_over(
    held: Mapping[str, Any],
    module: LogisticModule,
    data: TensorDataModule,
    checkpoints: Checkpoints,
    callbacks: Sequence[Ending],
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
    for watcher in callbacks:
        watcher.epochs = epochs


def check_resumable(
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
        ("standardizing", bool(facts.mean), bool(theirs.mean)),
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
        constraint = f"exceed the {epochs} epochs in {shown(checkpoint)}"
        raise ConfigError.broken("max_epochs", constraint, config.max_epochs, f"Try max_epochs={2 * epochs}.")
    return int(epochs), False
