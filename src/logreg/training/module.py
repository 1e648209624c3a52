"""The logistic model and its objective as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from logreg.config import SETTINGS
from logreg.constraints import check, number
from logreg.errors import ConfigError, DivergedError
from logreg.evaluation.scores import Scores, SplitScorer
from logreg.evaluation.temperature import Calibration
from logreg.facts import Batch, DataFacts, Split
from logreg.losses import default_loss
from logreg.losses.objective import Objective, Reduction
from logreg.optimality.certificate import (
    LOOSE_RELATIVE_GAP,
    MIN_IMPROVING_PASSES,
    Certificate,
    bound_by_solution,
    improving_passes,
    train_problem,
)
from logreg.processes import Processes
from logreg.rows import RowSource, batches_of_block, with_offset_apart
from logreg.solvers.arguments import check_classes
from logreg.solvers.bounds.bound import GOOD_RELATIVE_GAP, forms_hessian
from logreg.solvers.bounds.intercepts import has_many_coupled_outputs
from logreg.solvers.choose import reason
from logreg.solvers.fit import bound_of
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import Pass, PassRequests, drive, finish_pass, run_pass
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.starting_point import first_point
from logreg.solvers.state import SolverState
from logreg.training.batch_steps import BatchSteps
from logreg.training.model import Init, LogisticModel
from logreg.training.optimizers import build_optimizer
from logreg.training.schedules import lr_factor

DTYPES = {"32": torch.float32, "64": torch.float64}
"""Floating type by its bits, as a user types them."""


def resolve_loss(loss: str, link: str, facts: DataFacts) -> str:
    """The name of a loss, where "auto" is bce for two classes and cross_entropy for more; that of another link is its.

    Raises:
        ConfigError: There are more than two classes, and another link than logit.
    """
    if link != "logit":
        check_classes(link, facts.num_classes)
        return link
    if loss == "auto":
        return default_loss(facts.num_classes)
    return loss


class LogisticModule(pl.LightningModule):
    """Logistic regression that Lightning can train, validate, test and predict with.

    Minimizes `Objective`.  One epoch is one pass over the train rows.  A first-order optimizer walks
    through each block batch by batch, with the gradient in closed form: Lightning's bookkeeping is
    paid per block.  An exact one gathers over the blocks and steps at the end of the pass; it ends the
    training when it is certified to be at the optimum.

    Attributes:
        facts: Facts of the data: shapes, names, class weights, standardization.
        objective: The minimized function.
        model: Features as they are stored -> logits (N, K); K = 1 for two classes under bce, else C.
        reason: Reason for the solver that optimizer "auto" chose; else empty.
        progress: State of the exact optimizer; ``None`` before it begins.
        certificate: The newest certificate, which may be of an earlier epoch (its ``passes``); ``None`` without one.
        separation: Reason why no finite optimum exists; empty where none is known.  Part of every certificate.
        calibration: Maps logits to class probabilities; the inverse link alone until a calibration is fitted.
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
        lr: float | None = 0.1,
        batch_size: int | None = None,
        max_epochs: int = 100,
        seed: int = 0,
        precision: Literal["32", "64"] = "32",
        tolerance: float = 1e-6,
        polish: bool = False,
        intercept: bool = True,
        link: str = "logit",
    ) -> None:
        """Builds the model; all arguments are kept in the checkpoint as plain values.

        Args:
            facts: Facts of the data, from the DataModule.
            loss: "bce", "cross_entropy", or "auto" for bce when there are two classes.
            reduction: "mean" or "sum" of the data term over rows.
            l2: Strength of the penalty (l2 / 2) * |coef|^2, >= 0.
            l1: Strength of the penalty l1 * |coef|_1, >= 0; first-order optimizers follow its subgradient.
            init: "zeros", or "linear" as ``nn.Linear`` starts.
            optimizer: Name, or a mapping of ``name`` and arguments; "auto" chooses an exact one by the problem's shape.
            schedule: Name, or a mapping of ``name`` and arguments.
            lr: Step size of a first-order optimizer in the first epoch, > 0.
            batch_size: Rows of a batch of a first-order optimizer; ``None`` for all rows of a block.
            max_epochs: Length of the schedule, in passes over the train rows.
            seed: Seed of the "linear" start, and of the random draws of an exact optimizer.
            precision: Bits of the arithmetic; the Trainer's must be the same.
            tolerance: Relative gap to the optimum at which an exact optimizer ends.
            polish: Whether an exact optimizer goes on where a first-order one ends, after ``max_epochs``.
            intercept: Whether the model has an intercept; else it stays 0.
            link: "logit", or a name of `logreg.losses.LINKS` with two classes.
        """
        super().__init__()
        check("l2", l2, number(at_least=0))
        arguments: dict[str, Any] = {
            "reduction": reduction,
            "l1": l1,
            "init": init,
            "lr": lr,
            "max_epochs": max_epochs,
            "seed": seed,
            "precision": precision,
            "tolerance": tolerance,
            "polish": polish,
            "intercept": intercept,
            "link": link,
        }
        for key, value in arguments.items():
            check(key, value, SETTINGS[key].constraint)
        if not isinstance(facts, DataFacts):
            facts = DataFacts.from_dict(facts)
        optimizer = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)
        schedule = {"name": schedule} if isinstance(schedule, str) else dict(schedule)
        self.facts = facts
        self.objective = Objective(resolve_loss(loss, link, facts), reduction, l2, l1)
        num_outputs = self.objective.row_loss.num_outputs(facts.num_classes)
        if facts.largest_offset is not None and num_outputs > 1:
            advice = "Set loss=bce" if facts.is_binary else "Choose two classes with dataset.classes=[...]"
            raise ConfigError(
                f"`dataset.offset={facts.offset}` must go with one logit, that of two classes, got {num_outputs} with "
                f"loss={self.objective.loss}. {advice}, or leave dataset.offset out."
            )
        self.dtype_of_arithmetic = DTYPES[precision]
        self.tolerance, self.seed, self.has_intercept = tolerance, seed, intercept
        is_auto = optimizer["name"] == "auto"
        chosen = "newton" if is_auto else optimizer["name"]
        self.reason = reason(self.problem(torch.device("cpu"), num_outputs)) if is_auto else ""
        self.exact = chosen if chosen in EXACT else "newton" if polish else None
        # An exact optimizer's parameters are exact, whatever the arithmetic that leads to them.
        dtype = torch.float64 if self.exact else self.dtype_of_arithmetic
        self.model = LogisticModel(facts, num_outputs, init, seed, dtype)
        if not intercept:
            self.model.intercept.data.zero_()
        self.optimizer, self.schedule, self.lr = {**optimizer, "name": chosen}, schedule, lr
        self.batch_size, self.max_epochs, self.polish = batch_size, max_epochs, polish
        self.progress: SolverState | None = None
        self.certificate: Certificate | None = None
        self.separation = ""
        self.calibration = Calibration()
        # Plain values only: an object in here would make the checkpoint unreadable for torch.load.
        arguments |= {"facts": facts.as_dict(), "loss": loss, "l2": l2, "batch_size": batch_size}
        arguments |= {"optimizer": optimizer, "schedule": schedule}
        self.save_hyperparameters(arguments, logger=False)
        self.automatic_optimization = False
        self.scorers: dict[Split, SplitScorer] = {
            "train": self.scorer(auroc=False),  # sorting all train rows each epoch is for the end
            "val": self.scorer(auroc=True),
            "test": self.scorer(auroc=True),
        }

    @property
    def output_names(self) -> tuple[str, ...]:
        """The class of each output, K of them."""
        return self.facts.names_of_outputs(len(self.model.intercept))

    def scorer(self, auroc: bool) -> SplitScorer:
        """A scorer with this objective and these class weights."""
        return SplitScorer(self.objective, auroc, self.facts.class_weight)

    def problem(self, device: torch.device, num_outputs: int | None = None) -> Problem:
        """The minimization problem over the train rows, for exact optimizers and certificates."""
        outputs = len(self.model.intercept) if num_outputs is None else num_outputs
        return train_problem(self.objective, self.facts, outputs, self.dtype_of_arithmetic, device, self.has_intercept)

    def start_at(self, point: Tensor) -> None:
        """Sets the parameters to a point (K, D + 1) whose last column is the intercept."""
        self.model.coef.data.copy_(point[:, :-1])
        self.model.intercept.data.copy_(point[:, -1])

    def point_of(self, problem: Problem) -> Tensor:
        """The parameters in the coordinates of `problem`, (K, D + 1) in float64, the intercept last."""
        point = torch.cat([self.model.coef, self.model.intercept.unsqueeze(1)], dim=1).detach().double()
        if self.model.coef.dtype == torch.float64 or not len(self.model.mean):
            return point
        # A first-order optimizer standardizes by means and deviations that are rounded to its type.
        return Coordinates(self.model.mean.double(), self.model.std.double()).to(problem.model, point)

    @property
    def is_stochastic_now(self) -> bool:
        """Whether a first-order optimizer makes the steps of this epoch."""
        return self.exact is None or (self.polish and self.current_epoch < self.max_epochs)

    @property
    def processes(self) -> Processes | None:
        """The processes that share the rows of the Trainer's DataModule; ``None`` for one process."""
        return getattr(self.trainer.datamodule, "processes", None)  # type: ignore[attr-defined]  # Lightning sets it

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) in source units -> logits (N, K), in float64; blocks have another form, for ``model``."""
        logits: Tensor = self.model(self.model.stored.transform(features, self.dtype_of_arithmetic))
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        """The first-order optimizer by its name; the schedule sets its lr at the start of each epoch."""
        if self.exact and not self.polish:
            return None
        assert self.lr is not None
        intercept = self.model.intercept if self.has_intercept else None
        return build_optimizer(self.optimizer, self.lr, self.model.coef, intercept)

    def on_fit_start(self) -> None:
        """Forgets the calibration of a checkpoint that the fit continues from, which is of other parameters."""
        self.calibration = Calibration()

    def on_train_start(self) -> None:
        """Prepares the steps of a first-order optimizer; balances large offsets by the intercept."""
        if self.exact and not self.polish:
            return
        if self.facts.largest_offset is not None and not any(bool(one.any()) for one in self.model.parameters()):
            rows = self.trainer.datamodule.row_source("train", self.device)  # type: ignore[attr-defined]  # Lightning sets it
            self.start_at(drive(first_point(self.problem(self.device)), rows))
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        self._steps = BatchSteps(
            self.model, self.objective, self.facts, optimizer, self.scorers["train"], progress, self.processes
        )

    def on_validation_model_zero_grad(self) -> None:
        """Keeps the gradients: Lightning's default would free them before each validation."""

    def on_train_epoch_start(self) -> None:
        """Sets the learning rate of this epoch, or starts the exact optimizer; clears the train scorer.

        The scorer still holds rows where the previous epoch was interrupted.
        """
        self.scorers["train"].clear()
        if not self.is_stochastic_now:
            if self.progress is None:
                self._begin_exact()
            self._make_early_passes()
            return
        assert self.lr is not None
        lr = self.lr * lr_factor(self.schedule, self.current_epoch, self.max_epochs)
        for group in self._steps.optimizer.param_groups:
            group["lr"] = lr

    def training_step(self, block: Batch, batch_idx: int) -> None:
        """Makes one optimizer step for each batch of a block, or adds the block to the pass of an exact optimizer."""
        with torch.no_grad():
            block = with_offset_apart(block) if self.model.has_offset else block
            if self.is_stochastic_now:
                self._steps.walk_through(block, self._batches(block, batch_idx))
            else:
                self._gather(block)

    def _batches(self, block: Batch, number: int) -> list[range]:
        """The rows of each batch of block ``number`` of the epoch, as positions in those of all processes."""
        if self.processes is None:
            rows = len(block.labels)
            return batches_of_block(rows, self.batch_size or rows, block=0, blocks=1)
        loader = self.trainer.train_dataloader
        assert loader is not None
        rows = self.facts.rows["train"]
        return batches_of_block(rows, self.batch_size or rows, number, blocks=len(loader))

    def _begin_exact(self) -> None:
        """Starts the exact optimizer at the current parameters."""
        assert self.exact is not None
        problem = self.problem(self.device)
        self.progress = SolverState(problem, self.point_of(problem), self.tolerance, self.seed)
        self._requests: PassRequests[None] = EXACT[self.exact](self.progress)
        self._requested: Pass[Any] | None = next(self._requests)

    def _make_early_passes(self) -> None:
        """Makes the passes up to one that needs all rows."""
        rows = self.trainer.datamodule.row_source("train", self.device)  # type: ignore[attr-defined]  # Lightning sets it
        while self._requested is not None and not self._requested.is_full:
            run_pass(rows, self._requested)
            self._requested = next(self._requests, None)

    def _gather(self, block: Batch) -> None:
        """Adds the block to the pass under way; that of a process without rows is empty."""
        if self._requested is None or not len(block.labels):
            return
        if block.features.dtype == torch.uint8:
            block = block._replace(features=self.facts.of_bytes(block.features, self.dtype_of_arithmetic))
        self._requested.add(block)

    def _end_pass(self) -> None:
        """Ends a pass: the exact optimizer uses its sums, and the parameters become the point that it has reached."""
        progress = self.progress
        assert progress is not None
        if self._requested is not None:
            finish_pass(self._requested, self.processes)
        self._requested = next(self._requests, None)
        if self._requested is None:
            self.trainer.should_stop = True
        if not math.isfinite(progress.value) and progress.value != math.inf:
            raise DivergedError(
                f"the objective became {progress.value} in pass {self.current_epoch + 1}. Standardize the features "
                "with dataset.standardize=true, or set precision=64."
            )
        self.start_at(progress.solution)
        if math.isfinite(progress.value):
            penalty = float(self.objective.penalty(self.model.coef.detach()))
            metrics = {"loss/train": progress.value - penalty}
            if math.isfinite(progress.gap):
                metrics["optimality/gap"] = progress.gap
            self._write(metrics)

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Logs the scores of the train split, where each row was scored just before its step.

        This happens after the last block and not in ``on_train_epoch_end``, which comes after that of the callbacks.
        """
        if not self.trainer.is_last_batch:
            return
        if not self.is_stochastic_now:
            self._end_pass()
            return
        scores = self.scorers["train"].compute(self.processes)
        if not math.isfinite(scores["loss"]):
            assert self.lr is not None
            raise DivergedError(
                f"loss/train became {scores['loss']} in epoch {self.current_epoch + 1}. `lr={self.lr}` is too high "
                f"for these features: try lr={self.lr / 10:g}, or standardize them with dataset.standardize=true."
            )
        self._log("train", scores, lr=float(self._steps.optimizer.param_groups[0]["lr"]))

    def certify(self, rows: RowSource, epochs: int, seconds: float, last: bool) -> bool:
        """Certifies the current parameters, and keeps the certificate in ``certificate``.

        Args:
            rows: The train rows.
            epochs: Passes of the fit so far.
            seconds: Duration of the fit so far.
            last: Whether this is the last certificate, for which more passes may be made.

        Returns:
            Whether the parameters were certified: where only a costly estimate is possible, the last one alone is made.
        """
        problem = self.problem(self.device)
        known = self.progress.bound if self.progress is not None else None
        if known is None:
            cheap = self.objective.has_penalty and not has_many_coupled_outputs(problem)
            if not (last or cheap or forms_hessian(problem)):
                return False
            enough = GOOD_RELATIVE_GAP if last or forms_hessian(problem) else math.inf
            known = bound_of(problem, self.point_of(problem), rows, enough)
            if (
                last
                and problem.loss.is_convex
                and self.objective.has_penalty
                and known.gap > LOOSE_RELATIVE_GAP * known.value
            ):
                most = max(improving_passes(problem), epochs)
                if most >= MIN_IMPROVING_PASSES:
                    known = bound_by_solution(problem, self.point_of(problem), rows, known, accuracy=0.1, most=most)
        self.certificate = Certificate.of_bound(
            known,
            self.objective,
            self.facts.feature_names,
            weighted=self.facts.mean_weight != 1,
            intercept=self.has_intercept,
            offset=self.facts.offset,
            dtype=self.dtype_of_arithmetic,
            tolerance=self.tolerance,
            rows=self.facts.rows["train"],
            passes=epochs,
            seconds=seconds,
            separation=self.separation,
            draws_anew=self.facts.draws_anew,
        )
        return True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the calibration."""
        self.calibration = Calibration.of_checkpoint(checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the calibration and, where the current parameters are certified, their certificate."""
        checkpoint["calibration"] = self.calibration.as_dict()
        if self.certificate is not None and self.certificate.passes == checkpoint["epoch"] + 1:
            checkpoint["optimality"] = self.certificate.as_dict()

    def validation_step(self, block: Batch, batch_idx: int) -> None:
        """Scores a block of the val split."""
        self.scorers["val"].update(self.model(block.features), block.labels, sample_weight=block.sample_weight)

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of the val split at the end of the epoch."""
        self._log_scores("val")

    def test_step(self, block: Batch, batch_idx: int) -> None:
        """Scores a block of the test split."""
        self.scorers["test"].update(self.model(block.features), block.labels, sample_weight=block.sample_weight)

    def on_test_epoch_end(self) -> None:
        """Logs the scores of the test split."""
        self._log_scores("test")

    def predict_step(self, block: Batch, batch_idx: int) -> Tensor:
        """Probability of each class for the rows of a block, (N, C)."""
        return self.calibration.probabilities(self.model(block.features), self.objective.loss)

    def probabilities(self, features: Tensor) -> Tensor:
        """Features (N, D) in source units -> probability of each class (N, C), calibrated where the model is."""
        return self.calibration.probabilities(self(features), self.objective.loss)

    def _log_scores(self, split: Split) -> None:
        """Logs the scores of a held-out split; a process without rows of it meets the others all the same."""
        scorer = self.scorers[split]
        if scorer.rows or self.processes is not None:
            self._log(split, scorer.compute(self.processes))

    def _log(self, split: Split, scores: Scores, **others: float) -> None:
        """Logs scores to the loggers and, for callbacks that monitor a metric, to the Trainer.

        ``self.log`` does the same, but takes longer than an epoch of a small table.
        """
        if self.trainer.sanity_checking:
            return
        self._write({f"{name}/{split}": value for name, value in scores.items()} | others)

    def _write(self, metrics: Mapping[str, float]) -> None:
        self.trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in metrics.items()})
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(metrics), step=self.current_epoch + 1)  # the axis: passes over the data
