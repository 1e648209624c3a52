"""Whole runs as a user types them, in this process: their output and their files."""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from logreg.commands.config_files import CONF
from logreg.commands.overrides import parse_overrides, plain_config
from logreg.commands.train import main
from logreg.config import RunConfig
from logreg.data import TensorDataModule
from logreg.facts import DataFacts
from logreg.run.building import build_data
from logreg.run_folder import latest_run

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"
"""The script that a user runs."""


@dataclass(frozen=True)
class Run:
    """A run folder, read back."""

    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return plain

    def checkpoint(self, name: str = "last") -> dict[str, Any]:
        # weights_only: nothing but tensors and plain values may be inside
        held: dict[str, Any] = torch.load(self.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        return held

    def events(self) -> EventAccumulator:
        events = EventAccumulator(str(self.folder), size_guidance={"scalars": 0, "images": 0})
        return events.Reload()

    def curve(self, tag: str) -> dict[int, float]:
        return {event.step: event.value for event in self.events().Scalars(tag)}


class Answer(NamedTuple):
    """Exit code and output of a command, and what it left."""

    code: int
    out: str
    err: str
    left: list[str]
    """Files and folders that it left in the working folder."""
    imported: frozenset[str]
    """Top-level packages that it imported."""


def left_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Makes ``folder`` the working folder, and restores what a command changes in the process."""
    cwd, argv, environment = Path.cwd(), sys.argv, dict(os.environ)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    os.chdir(folder)
    sys.argv = [str(SCRIPT)]
    try:
        yield
    finally:
        os.chdir(cwd)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
        for handler in set(root.handlers) - set(handlers):
            handler.close()  # train.log
        root.handlers[:], root.level = handlers, level


def train(folder: Path, *arguments: str) -> Run:
    """``python scripts/train.py`` with these arguments in ``folder``; it must succeed.

    Without pictures, which take longer than a small run, unless ``report`` is among the arguments.
    """
    brief = [] if any(argument.startswith("report=") for argument in arguments) else ["report=brief"]
    with working_in(folder):
        assert main([*arguments, *brief]) == 0
        return newest(folder)


def newest(folder: Path) -> Run:
    """The newest run under ``folder``."""
    run = latest_run(folder / "runs")
    assert run is not None
    return Run(run.resolve())


@cache
def hydra_composed(dataset: str) -> DictConfig:
    """The config that Hydra composes of ``dataset=...``, with its own section; conf/ is read once."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"dataset={dataset}"], return_hydra_config=True)


@cache
def _without_hydra(dataset: str) -> DictConfig:
    whole = hydra_composed(dataset)
    return OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])


def composed(dataset: str, *arguments: str) -> DictConfig:
    """The config of a job for ``dataset=... arguments``."""
    config = copy.deepcopy(_without_hydra(dataset))
    for override in parse_overrides(arguments):
        OmegaConf.update(config, str(override.key_or_group), override.value())
    return config


def data_of(dataset: str, *arguments: str, model: DataFacts | None = None) -> TensorDataModule:
    """The DataModule of ``scripts/train.py dataset=... arguments``; or that of a model trained with these."""
    return build_data(RunConfig.from_mapping(plain_config(composed(dataset, *arguments))), model)
