"""Whole runs as a person types them, in this process: what comes back and what lies on the disk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from logreg.door import main
from logreg.folder import latest_run

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"
"""What a person runs."""


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


@contextmanager
def standing_in(folder: Path) -> Iterator[None]:
    """As if the person stood in ``folder`` and typed there; what the door changes is put back."""
    cwd, argv, environment = Path.cwd(), sys.argv, dict(os.environ)
    os.chdir(folder)
    sys.argv = [str(SCRIPT)]
    try:
        yield
    finally:
        os.chdir(cwd)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)


def train(folder: Path, *arguments: str) -> Run:
    """``python scripts/train.py`` with these arguments, standing in ``folder``; it must succeed."""
    with standing_in(folder):
        assert main(arguments) == 0
        return newest(folder)


def newest(folder: Path) -> Run:
    """The newest run of those who stand in ``folder``."""
    run = latest_run(folder / "runs")
    assert run is not None
    return Run(run.resolve())
