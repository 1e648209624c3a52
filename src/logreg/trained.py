"""A trained model out of its checkpoint, which is all that it takes to use it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logreg.config import RunConfig
from logreg.errors import ConfigError
from logreg.facts import DataFacts
from logreg.folder import shown
from logreg.functional import class_probabilities
from logreg.module import DTYPES, LogisticModule

NEAR = 8.0
"""Deviations that a mean may lie from 0 for it to be subtracted after the sum: three bits of 24 are lost."""


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
        try:
            module = LogisticModule(**held["hyper_parameters"])
            module.load_state_dict(held["state_dict"])
            module.on_load_checkpoint(held)
            epochs = int(held["epoch"]) + 1
            config = RunConfig.from_mapping(held["config"]) if "config" in held else None
        except Exception as error:  # what it holds may be anything
            raise _no_checkpoint(file) from error
        return cls(file, module.eval().requires_grad_(False), config, epochs, held.get("optimality"))

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
    """A trained model made ready for many blocks.

    Deviations, and where that costs no digit the means, are in its coefficients.
    """

    def __init__(self, module: LogisticModule, device: str | torch.device = "cpu") -> None:
        """Copies the parameters.

        Args:
            module: Trained.
            device: Where blocks come to.
        """
        model, dtype = module.model, DTYPES[module.hparams["precision"]]
        coef, intercept = (part.detach().cpu().double() for part in (model.coef, model.intercept))
        mean, std = model.mean.cpu().double(), model.std.cpu().double()
        self.loss, self.temperature, self.mean = module.objective.loss, module.temperature, None
        if len(std):
            coef = coef / std
            if bool((mean.abs() <= NEAR * std).all()):
                intercept = intercept - coef @ mean
            else:
                self.mean = mean.to(device, dtype)
        self.coef, self.intercept = coef.to(device, dtype), intercept.to(device, dtype)

    def __call__(self, features: Tensor, threshold: float | None = None) -> tuple[Tensor, Tensor]:
        """Probabilities (N, C) and labels (N,) of features (N, D) in source units, which are overwritten.

        Args:
            features: On the device, in the floating type of the model.
            threshold: Of two classes, the least probability of the second at which it is the label.
        """
        if self.mean is not None:
            features.sub_(self.mean)
        logits = torch.addmm(self.intercept, features, self.coef.T)
        probabilities = class_probabilities(logits, self.loss, self.temperature)
        if threshold is not None:
            return probabilities, (probabilities[:, 1] >= threshold).long()
        return probabilities, (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Tensors and plain values of a checkpoint.

    Raises:
        ConfigError: It is not one of ours, or broken.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                # torch packs nothing, and unpacks whatever it finds
                if sum(member.file_size for member in archive.infolist()) > file.stat().st_size:
                    raise zipfile.BadZipFile
        held = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(held, dict) or not {"hyper_parameters", "state_dict", "epoch"} <= held.keys():
            raise KeyError("hyper_parameters")
        DataFacts.from_dict(held["hyper_parameters"]["facts"])
    except Exception as error:  # torch trips over other bytes in ways of its own
        raise _no_checkpoint(file) from error
    return held


def _no_checkpoint(file: Path) -> ConfigError:
    return ConfigError(f"`ckpt_path` must be a checkpoint of logreg, and {shown(file)} is not one.")
