"""The rows that a trained model is scored on: those of its run, or others that a user names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from logreg.commands.command_line import TypedArguments
from logreg.commands.overrides import apply_overrides
from logreg.config import RunConfig
from logreg.errors import ConfigError
from logreg.terminal import show_status

if TYPE_CHECKING:
    from logreg.data import TensorDataModule
    from logreg.facts import DataFacts
    from logreg.training.checkpoint_reading import TrainedModel

FILE_KEYS = {f"dataset.{key}path" for key in ("", "train_", "val_", "test_")}
"""Keys that name files with rows."""

OF_THE_MODEL = {
    "name",
    "standardize",
    "limit",
    "class_weight",
    "classes",
    "positive",
    "recipe",
    "max_levels",
    "min_level_rows",
    "hash",
    "missing",
    "text",
    "word_ngrams",
    "char_ngrams",
    "min_df",
    "white_level",
    "augment",
    "copies",
}
"""Keys of a dataset that belong to the model: another value would make another model."""

LOCATION_KEYS = {"dataset.root", "dataset.cache", "dataset.download"}
"""Keys that name where the rows of the run are, and no other rows."""


def data_of(trained: TrainedModel, typed: TypedArguments) -> tuple[RunConfig, TensorDataModule, bool]:
    """The rows of the run of a trained model, or other rows that a user named.

    Returns:
        The config; the data, as the model reads it; whether the rows are other ones than those of the run.
    """
    from logreg.run.building import build_data, check_hardware, device_of

    config = apply_overrides(trained.run_config(), typed.overrides)
    others = {key for key in typed.given if key.startswith("dataset.")} - LOCATION_KEYS
    if others:
        _check_others(config, others)
        config = dataclasses.replace(config, dataset=_all_rows(config.dataset, others, trained.facts))
    check_hardware(config.accelerator)
    show_status(f"reading {config.dataset['name']} ...")
    data = build_data(config, trained.facts)
    data.device = device_of(config.accelerator)
    return config, data, bool(others)


def _check_others(config: RunConfig, typed: set[str]) -> None:
    """Checks that typed keys name other rows and do not change the model.

    Raises:
        ConfigError: One of them belongs to the model, or no file is named.
    """
    made = config.dataset["name"] == "blobs"
    for key in sorted(typed):
        if key.removeprefix("dataset.") in OF_THE_MODEL or not (made or FILE_KEYS & typed):
            raise ConfigError(f"`{key}` must be that of the checkpoint. Other rows are named by dataset.path=FILE.")


def _all_rows(dataset: Mapping[str, Any], typed: set[str], facts: DataFacts) -> dict[str, Any]:
    """The settings of a dataset that hold no rows out, and for a table read only the columns of the model."""
    plain = dict(dataset)
    if facts.columns:
        names = [column.name for column in facts.columns if not column.is_offset]
        plain |= {
            "features": names,
            "drop": [],
            "categorical": [one for one in plain["categorical"] if str(one) in names],
            "text": [column.name for column in facts.columns if column.kind == "text"],
        }
    if "dataset.path" in typed:
        plain |= {key: None for key in ("train_path", "val_path", "test_path") if key in plain}
    if not any(key.startswith("dataset.split") for key in typed):
        plain["split"] = {"val": 0, "test": 0}
    return plain | {"limit": None}
