"""The names of run folders: the data above, and below it the time and what was typed.

Importing this module registers the functions that conf/config.yaml makes these names with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from logreg.commands.overrides import implied_overrides, override_lines, parse_overrides
from logreg.config import RunConfig
from logreg.files import folder_name, place_name

UNNAMED = {
    *("ckpt_path", "dataset", "dataset.name", "dataset.path", "dataset.train_path", "dataset.val_path"),
    *("dataset.test_path", "dataset.root", "dataset.cache", "dataset.download"),
    *("config_dir", "expected", "facts", "report", "verbose"),
}
"""Keys that are left out of the name of a run folder: they are in the folder above, or do not change the model."""

MAX_VALUE_LENGTH = 32
"""Characters of a value in the name of a run folder; a longer one is left out."""


def data_name(dataset: Mapping[str, Any]) -> str:
    """The folder for all runs on the same data: the name of the file, without its suffix, or of the dataset."""
    name = str(dataset["name"])
    paths = (dataset.get(key) for key in ("path", "train_path"))
    path = next((path for path in paths if path), None)
    if path is None:
        return name
    first = str(path[0] if isinstance(path, Sequence) and not isinstance(path, str) else path)
    file = place_name(first)
    stem = (file if name == "image_folder" else Path(file.removesuffix(".gz")).stem).lstrip(".")
    return f"{name}_{stem}" if stem in ("latest", "sweeps") else stem or name


def typed_name(lines: Sequence[str]) -> str:
    """The typed settings as the end of the name of a run folder.

    Example:
        >>> typed_name(["dataset=table", "dataset.path=data/titanic.csv", "dataset.drop=[alive]", "l2=0.1"])
        'drop-alive_l2-0.1'
    """
    values = {one.key_or_group: one for one in parse_overrides(lines) if not one.is_delete()}
    if implied_overrides(set(values) - {"optimizer"}) == [
        f"optimizer={values['optimizer'].value()}" if "optimizer" in values else ""
    ]:
        del values["optimizer"]
    if "backbone.name" in values:
        values.pop("backbone", None)
    named = {key.removesuffix(".name"): _value_in_name(one) for key, one in values.items() if key not in UNNAMED}
    named = {key: value for key, value in named.items() if value and len(value) <= MAX_VALUE_LENGTH}
    short = {key: key.rpartition(".")[2] for key in named}
    taken = [*short.values(), *(RunConfig.__dataclass_fields__.keys() - named.keys())]
    return "_".join(f"{short[key] if taken.count(short[key]) == 1 else key}-{value}" for key, value in named.items())


def _value_in_name(override: Override) -> str:
    """A value as typed, without brackets and quotes; of a path its last part, and nothing that may be secret."""
    text = (override.input_line or "").partition("=")[2]
    if "://" in text or "${" in text:
        return ""
    parts = re.split(r"[^\w./\\+-]+", text)
    return "-".join(PurePath(part.replace("\\", "/")).name for part in parts if part)


OmegaConf.register_new_resolver(
    "folder_name", lambda *parts: folder_name("_".join(str(part) for part in parts if part != "")), replace=True
)

OmegaConf.register_new_resolver("data_name", data_name, replace=True)

OmegaConf.register_new_resolver("typed_name", lambda overrides: typed_name(override_lines(overrides)), replace=True)
