"""The steps of a first-order optimizer: one for each batch of a block of rows, with the gradient in closed form."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from lightning.pytorch.loops.progress import _Progress
from torch import Tensor

from logreg.csr import StandardizedRows, converted, is_sparse
from logreg.evaluation.scores import SplitScorer
from logreg.facts import Batch, DataFacts
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.processes import Accumulators, Processes
from logreg.rows import chosen_rows, logit_rows, own_part, row_weights
from logreg.training.model import LogisticModel


class BatchSteps:
    """The steps of a first-order optimizer, which blocks of rows are walked through with.

    Attributes:
        optimizer: torch's own, since the bookkeeping of Lightning's wrapper takes longer than a batch.
    """

    def __init__(
        self,
        model: LogisticModel,
        objective: Objective,
        facts: DataFacts,
        optimizer: torch.optim.Optimizer,
        scorer: SplitScorer,
        progress: _Progress,
        processes: Processes | None,
    ) -> None:
        """Allocates the gradients, which each batch overwrites in place.

        Args:
            model: The model, whose parameters the steps change.
            objective: The minimized function.
            facts: Facts of the data.
            optimizer: Has the parameters of the model.
            scorer: Scores each row just before its step.
            progress: Lightning's count of the steps.
            processes: The processes that share the rows; ``None`` for one process.
        """
        self._model, self._objective, self._facts, self._processes = model, objective, facts, processes
        self.optimizer, self._scorer, self._progress = optimizer, scorer, progress
        # Unwrapped: torch wraps a step with hooks of the profiler, which take a fifth of it, and with a call that
        # imports the compiler, which takes over a second.  Gradients are off already.
        self._step = inspect.unwrap(type(optimizer).step)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def walk_through(self, block: Batch, batches: Sequence[range]) -> None:
        """Makes one step for each batch of a block; of several processes each has its own part.

        The number of steps is the same on all processes: a part may be empty.

        Args:
            block: The rows of this process.
            batches: The positions of the rows of each batch, of all processes.
        """
        model = self._model
        totals, sizes = map(len, batches), [len(own_part(batch, self._processes)) for batch in batches]
        at_once = logit_rows(len(model.intercept), model.coef.dtype, model.coef.device)
        together, of_rows, first = max(1, at_once // max(*sizes, 1)), list(totals), 0
        for place in range(0, len(sizes), together):
            few = slice(place, place + together)
            end = first + sum(sizes[few])
            if end - first <= at_once:
                self._descend(chosen_rows(block, slice(first, end)), sizes[few], of_rows[few])
            else:  # one batch, whose logits are too many to be computed at once
                for part in range(first, end, at_once):
                    rows = min(at_once, end - part)
                    is_first, is_last = part == first, part + rows == end
                    self._descend(chosen_rows(block, slice(part, part + rows)), [rows], of_rows[few], is_first, is_last)
            first = end

    def _descend(
        self, block: Batch, sizes: list[int], totals: list[int], is_first: bool = True, is_last: bool = True
    ) -> None:
        """Makes one step for each batch of some rows, and scores them.

        Args:
            block: The rows of this process: of whole batches; or a part of one batch, which ``is_first``, ``is_last``
                or neither.
            sizes: Rows of each batch that are here.
            totals: Rows of each batch, of all its parts and of all processes.
            is_first: Whether the gradient is set, not added to.
            is_last: Whether a step is made.
        """
        model, processes, rows, dtype = self._model, self._processes, self._facts.rows["train"], self._model.coef.dtype
        features = self._as_multiplied(block.features)
        # Stored by columns, in which a CPU computes logits and softmax of few outputs faster.
        targets = one_vs_rest(block.labels, len(model.intercept), dtype).T.contiguous().T
        logits = torch.empty_like(targets)
        weights = row_weights(block, self._facts.class_weight, dtype)
        offset = None if block.offset is None else block.offset.to(dtype)
        batches = features.split(sizes), targets.split(sizes), logits.split(sizes)
        extras = [[None] * len(sizes) if one is None else one.split(sizes) for one in (weights, offset)]
        mean_weight, is_penalized = self._facts.mean_weight, processes is None or processes.rank == 0
        for x, y, z, weight, known, of_rows in zip(*batches, *extras, totals, strict=True):
            if isinstance(x, Tensor) and x.dtype == torch.uint8:  # a batch stays in the cache, a block would not
                x = self._standardized(x)
            self._objective.gradient_(
                x,
                y,
                model.coef,
                model.intercept,
                of_rows / rows,
                z,
                weight,
                mean_weight,
                of_rows,
                is_first,
                is_penalized,
                known,
            )
            if is_last:
                if processes is not None:
                    self._add_up_gradients(processes)
                self._step(self.optimizer)
                self._progress.increment_ready()
                self._progress.increment_completed()
        self._scorer.update(logits, block.labels, block.sample_weight)

    def _add_up_gradients(self, processes: Processes) -> None:
        """Replaces the gradient of this process's part of a batch by that of the batch, the same on all processes."""
        gradients = {name: part.grad for name, part in self._model.named_parameters() if part.grad is not None}
        for name, total in processes.reduce(Accumulators(gradients, {}, {})).sums.items():
            gradients[name].copy_(total)

    def _as_multiplied(self, features: Tensor) -> Tensor | StandardizedRows:
        """Features of a block as the coefficients multiply them, in the type of the parameters; bytes unchanged."""
        model = self._model
        if is_sparse(features):
            return StandardizedRows(converted(features, model.coef.dtype), model.mean, model.std)
        return features if features.dtype == torch.uint8 else self._standardized(features)

    def _standardized(self, features: Tensor) -> Tensor:
        """Features of a block as the coefficients multiply them, in the type of the parameters."""
        return self._model.standardize(self._facts.of_bytes(features, self._model.coef.dtype))
