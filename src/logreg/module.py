"""The logistic model and its objective as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from logreg.errors import DivergedError
from logreg.facts import Batch, DataFacts, Split
from logreg.functional import LOSSES, LossName, one_vs_rest
from logreg.metrics import Scores, SplitScorer, loss_weight
from logreg.model import Init, LogisticModel
from logreg.objective import Objective, Reduction
from logreg.optim import build_optimizer, lr_factor

DTYPES = {"32": torch.float32, "64": torch.float64}
"""Floating type by its bits, as a person types them."""


def resolve_loss(loss: str, facts: DataFacts) -> LossName:
    """The loss that a name means: "auto" is bce for two classes and cross_entropy for more."""
    if loss == "auto":
        return "bce" if facts.is_binary else "cross_entropy"
    return loss  # type: ignore[return-value]  # the config has checked it


class LogisticModule(pl.LightningModule):
    """Logistic regression that Lightning can train, validate, test and predict with.

    Minimises `Objective`.  One training step takes a block of rows and walks through it batch by
    batch, with the gradient in closed form: Lightning's bookkeeping is paid per block.

    Attributes:
        facts: All that is known of the data.
        objective: What is minimised.
        model: Features in source units -> logits (N, K); K = 1 for two classes under bce, else C.
    """

    def __init__(
        self,
        facts: DataFacts | Mapping[str, Any],
        loss: str = "auto",
        reduction: Reduction = "mean",
        l2: float = 0.0,
        l1: float = 0.0,
        init: Init = "zeros",
        optimizer: Mapping[str, Any] | str = "sgd",
        schedule: Mapping[str, Any] | str = "constant",
        lr: float = 0.1,
        batch_size: int | None = None,
        max_epochs: int = 100,
        seed: int = 0,
        precision: Literal["32", "64"] = "32",
    ) -> None:
        """Builds the model; all arguments are kept in the checkpoint as plain values.

        Args:
            facts: Of the data, as the DataModule has them.
            loss: "bce", "cross_entropy", or "auto" for bce when there are two classes.
            reduction: "mean" or "sum" of the data term over rows.
            l2: Strength of the penalty (l2 / 2) * |coef|^2, >= 0.
            l1: Strength of the penalty l1 * |coef|_1, >= 0, followed by its subgradient.
            init: "zeros", or "linear" as ``nn.Linear`` starts.
            optimizer: Name, or a mapping of ``name`` and arguments.
            schedule: Likewise.
            lr: Step size in the first epoch, > 0.
            batch_size: Rows of a batch; ``None`` for all rows of a block.
            max_epochs: Length of the schedule, in passes over the train rows.
            seed: Fixes the "linear" start.
            precision: Bits of the parameters; the Trainer's must be the same.
        """
        super().__init__()
        if not isinstance(facts, DataFacts):
            facts = DataFacts.from_dict(facts)
        optimizer = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)
        schedule = {"name": schedule} if isinstance(schedule, str) else dict(schedule)
        self.facts = facts
        self.objective = Objective(resolve_loss(loss, facts), reduction, l2, l1)
        num_outputs = 1 if self.objective.loss == "bce" and facts.is_binary else facts.num_classes
        self.model = LogisticModel(facts, num_outputs, init, seed, DTYPES[precision])
        self.optimizer, self.schedule, self.lr = optimizer, schedule, lr
        self.batch_size, self.max_epochs = batch_size, max_epochs
        # Plain values only: an object in here would make the checkpoint unreadable for torch.load.
        self.save_hyperparameters(
            {
                "facts": facts.as_dict(),
                "loss": loss,
                "reduction": reduction,
                "l2": l2,
                "l1": l1,
                "init": init,
                "optimizer": optimizer,
                "schedule": schedule,
                "lr": lr,
                "batch_size": batch_size,
                "max_epochs": max_epochs,
                "seed": seed,
                "precision": precision,
            },
            logger=False,
        )
        self.automatic_optimization = False
        self.scorers: dict[Split, SplitScorer] = {
            "train": self.scorer(auroc=False),  # sorting all train rows each epoch is for the end
            "val": self.scorer(auroc=True),
            "test": self.scorer(auroc=True),
        }

    def scorer(self, auroc: bool) -> SplitScorer:
        """Of this objective and these class weights."""
        return SplitScorer(self.objective, auroc, self.facts.class_weight)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) in source units -> logits (N, K)."""
        logits: Tensor = self.model(features)
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer by its name; the schedule sets its lr at the start of each epoch."""
        return build_optimizer(self.optimizer, self.lr, self.model.coef, self.model.intercept)

    def on_train_start(self) -> None:
        """Sets: the gradients, which each batch overwrites in place."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        # torch's own, not Lightning's wrapper, whose bookkeeping takes longer than a batch; and without
        # the hooks of torch's profiler, which take a fifth of a step.
        step: Any = type(optimizer).step
        self._optimizer, self._step = optimizer, step.__wrapped__
        self._steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def on_validation_model_zero_grad(self) -> None:
        """Keeps the gradients, which Lightning would free before each validation."""

    def on_train_epoch_start(self) -> None:
        """Sets: the learning rate of this epoch.  Forgets the rows of an epoch that was broken off."""
        self.scorers["train"].clear()
        lr = self.lr * lr_factor(self.schedule, self.current_epoch, self.max_epochs)
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def training_step(self, block: Batch, batch_idx: int) -> None:
        """Walks through a block batch by batch, one optimizer step each."""
        model, rows = self.model, self.facts.rows["train"]
        features = model.standardise(block.features)
        targets = one_vs_rest(block.labels, len(model.intercept), features.dtype)
        logits = torch.empty_like(targets)
        weights = loss_weight(block.labels, block.sample_weight, self.facts.class_weight, features.dtype)
        size = self.batch_size or len(features)
        parts = features.split(size), targets.split(size), logits.split(size)
        part_weights = [None] * len(parts[0]) if weights is None else weights.split(size)
        mean_weight = self.facts.mean_weight
        for x, y, z, weight in zip(*parts, part_weights, strict=True):
            self.objective.gradient_(x, y, model.coef, model.intercept, len(x) / rows, z, weight, mean_weight)
            self._step(self._optimizer)
            self._steps.increment_ready()
            self._steps.increment_completed()
        self.scorers["train"].update(logits, block.labels, targets, block.sample_weight)

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Logs the train split as the epoch saw it: each row scored just before its step.

        After the last block and not in ``on_train_epoch_end``, which comes after that of the callbacks.
        """
        if not self.trainer.is_last_batch:
            return
        scores = self.scorers["train"].compute()
        if not math.isfinite(scores["loss"]):
            raise DivergedError(
                f"loss/train became {scores['loss']} in epoch {self.current_epoch + 1}. `lr={self.lr}` is too high "
                f"for these features: try lr={self.lr / 10:g}, or standardise them with dataset.standardize=true."
            )
        self._log("train", scores, lr=float(self._optimizer.param_groups[0]["lr"]))

    def validation_step(self, block: Batch, batch_idx: int) -> None:
        """Scores a block of the val split."""
        self.scorers["val"].update(self(block.features), block.labels, sample_weight=block.sample_weight)

    def on_validation_epoch_end(self) -> None:
        """Logs the val split as the parameters are at the end of the epoch."""
        if self.scorers["val"].rows:
            self._log("val", self.scorers["val"].compute())

    def test_step(self, block: Batch, batch_idx: int) -> None:
        """Scores a block of the test split."""
        self.scorers["test"].update(self(block.features), block.labels, sample_weight=block.sample_weight)

    def on_test_epoch_end(self) -> None:
        """Logs the test split."""
        if self.scorers["test"].rows:
            self._log("test", self.scorers["test"].compute())

    def predict_step(self, block: Batch, batch_idx: int) -> Tensor:
        """Probabilities of a block, (N, K): of class 1 alone when K = 1."""
        return LOSSES[self.objective.loss].link(self(block.features))

    def _log(self, split: Split, scores: Scores, **others: float) -> None:
        """To the loggers and, for callbacks that monitor a metric, to the Trainer.

        ``self.log`` does the same, but takes longer for it than an epoch of a small table.
        """
        if self.trainer.sanity_checking:
            return
        metrics = {f"{name}/{split}": value for name, value in scores.items()} | others
        self.trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in metrics.items()})
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.current_epoch + 1)  # the axis: passes over the data
