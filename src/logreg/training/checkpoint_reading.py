"""Reads checkpoints safely, and builds trained models from them."""

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
class TrainedModel:
    """A model that was read from a checkpoint.

    Attributes:
        file: The checkpoint.
        module: The model, on the CPU and ready to predict.
        config: Config of its run; ``None`` where the model was trained from Python.
        epochs: Passes over the train rows.
        optimality: The certificate of the fit, as plain values; ``None`` where the checkpoint has none.
    """

    file: Path
    module: LogisticModule
    config: RunConfig | None
    epochs: int
    optimality: dict[str, Any] | None

    @classmethod
    def load(cls, file: Path) -> TrainedModel:
        """Reads a checkpoint; code inside is never executed.

        Raises:
            ConfigError: The file is no complete, safe checkpoint of logreg.
        """
        held = read_checkpoint(file)
        with _refusing_foreign(file):
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
        """Facts of the data that the model was trained on."""
        return self.module.facts

    def run_config(self) -> RunConfig:
        """The config of the model's run.

        Raises:
            ConfigError: The model was trained from Python, so the source of its data is unknown.
        """
        if self.config is None:
            raise ConfigError(
                f"`ckpt_path` must be a checkpoint of scripts/train.py, and {shown(self.file)} does not name the "
                "data it was trained on."
            )
        return self.config


class Predictor:
    """A trained model for fast prediction: standardization is folded into the coefficients, all in float64."""

    def __init__(self, module: LogisticModule, device: str | torch.device = "cpu") -> None:
        """Copies the parameters.

        Args:
            module: The trained model.
            device: Device of the arithmetic; replaced by the CPU where the device has no float64.
        """
        self.device = torch.device("cpu" if torch.device(device).type == "mps" else device)
        self.loss, self.calibration = module.objective.loss, module.calibration
        self.coef, self.intercept = (part.detach().to(self.device) for part in module.model.of_stored())

    def __call__(self, features: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
        """Probabilities (N, C) in float64 and predicted labels (N,) of stored features (N, D).

        Args:
            features: On any device.
            threshold: Probability above which the second of two classes is predicted.
        """
        logits = linear_in_float64(features.to(self.device), self.coef, self.intercept)
        probabilities = self.calibration.probabilities(logits, self.loss)
        return probabilities, decided(probabilities, threshold)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Tensors and plain values of a checkpoint; code in the file is never executed.

    Raises:
        ConfigError: The file is no complete, safe checkpoint of logreg.
    """
    with _refusing_foreign(file):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                # torch never compresses, but would unpack a compressed file of any size
                if sum(member.file_size for member in archive.infolist()) > file.stat().st_size:
                    raise zipfile.BadZipFile
        held = torch.load(file, map_location="cpu", weights_only=True)
        if type(held["epoch"]) is not int or held["epoch"] < 0 or not isinstance(held["state_dict"], dict):
            raise TypeError("epoch")
        own = held["hyper_parameters"]
        held["hyper_parameters"] = {
            **LogisticModule(**own).hparams,
            **own,
        }  # with defaults for arguments that older checkpoints lack
    checked: dict[str, Any] = held
    return checked


@contextmanager
def _refusing_foreign(file: Path) -> Iterator[None]:
    """Turns every exception into one sentence, while a checkpoint is read whose content may be anything.

    Raises:
        ConfigError: The file is no complete, safe checkpoint of logreg.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about foreign pickles and strange values
            yield
    except Exception as error:
        raise ConfigError(f"`ckpt_path` must be a checkpoint of logreg, and {shown(file)} is not one.") from error
