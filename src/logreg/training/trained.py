"""A trained model out of its checkpoint, which is all that it takes to use it."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logreg.config import RunConfig
from logreg.errors import ConfigError
from logreg.facts import DataFacts
from logreg.files import shown
from logreg.losses import decided
from logreg.training.model import linear_in_float64
from logreg.training.module import LogisticModule


@dataclass(frozen=True)
class Trained:
    """A model, and the run that it comes from.

    Attributes:
        file: The checkpoint.
        module: On the CPU, ready to predict.
        config: Of its run; ``None`` where it was trained from Python.
        epochs: That it has behind it.
        optimality: Its certificate as plain values, where it was saved with one.
    """

    file: Path
    module: LogisticModule
    config: RunConfig | None
    epochs: int
    optimality: dict[str, Any] | None

    @classmethod
    def load(cls, file: Path) -> Trained:
        """Reads a checkpoint; code inside is never executed.

        Raises:
            ConfigError: It is not one of ours, or broken.
        """
        held = read_checkpoint(file)
        with _of_strangers(file):
            module = LogisticModule(**held["hyper_parameters"])
            module.load_state_dict(held["state_dict"])
            module.on_load_checkpoint(held)
            config = RunConfig.from_mapping(held["config"]) if "config" in held else None
            module.eval().requires_grad_(False)
            probabilities, _ = Predictor(module)(torch.zeros(1, module.facts.num_features))
            if probabilities.shape != (1, module.facts.num_classes) or not bool(probabilities.isfinite().all()):
                raise ValueError("parameters")
        return cls(file, module, config, held["epoch"] + 1, held.get("optimality"))

    @property
    def facts(self) -> DataFacts:
        """Of the data that it was trained on."""
        return self.module.facts

    def of_its_run(self) -> RunConfig:
        """The config of its run, for those who cannot do without.

        Raises:
            ConfigError: It was trained from Python, so nothing is known of where its data came from.
        """
        if self.config is None:
            raise ConfigError(
                f"`ckpt_path` must be a checkpoint of scripts/train.py, and {shown(self.file)} does not say which "
                "data it was trained on."
            )
        return self.config


class Predictor:
    """A trained model made ready for many blocks: means and deviations are in its coefficients, all in float64."""

    def __init__(self, module: LogisticModule, device: str | torch.device = "cpu") -> None:
        """Copies the parameters.

        Args:
            module: Trained.
            device: Where the arithmetic is done; on the CPU where it has no float64.
        """
        self.device = torch.device("cpu" if torch.device(device).type == "mps" else device)
        self.loss, self.calibration = module.objective.loss, module.calibration
        self.coef, self.intercept = (part.detach().to(self.device) for part in module.model.of_stored())

    def __call__(self, features: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
        """Probabilities (N, C) in float64 and labels (N,) of features (N, D) as they are stored.

        Args:
            features: On any device.
            threshold: Of two classes, the second is the label where its probability is greater.
        """
        logits = linear_in_float64(features.to(self.device), self.coef, self.intercept)
        probabilities = self.calibration.probabilities(logits, self.loss)
        return probabilities, decided(probabilities, threshold)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Tensors and plain values of a checkpoint.

    Raises:
        ConfigError: It is not one of ours, or broken.
    """
    with _of_strangers(file):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                # torch packs nothing, and unpacks whatever it finds
                if sum(member.file_size for member in archive.infolist()) > file.stat().st_size:
                    raise zipfile.BadZipFile
        held = torch.load(file, map_location="cpu", weights_only=True)
        if type(held["epoch"]) is not int or held["epoch"] < 0 or not isinstance(held["state_dict"], dict):
            raise TypeError("epoch")
        own = held["hyper_parameters"]
        held["hyper_parameters"] = {**LogisticModule(**own).hparams, **own}  # also what older ones did not state
    checked: dict[str, Any] = held
    return checked


@contextmanager
def _of_strangers(file: Path) -> Iterator[None]:
    """For what takes a checkpoint apart, which may hold anything.

    Raises:
        ConfigError: Whatever was wrong with it.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles as others write them, of values as nobody does
            yield
    except Exception as error:
        raise ConfigError(f"`ckpt_path` must be a checkpoint of logreg, and {shown(file)} is not one.") from error
