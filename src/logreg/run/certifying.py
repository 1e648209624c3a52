"""Certifies coefficients of this program or another: bounds their distance from the optimum of a stated problem."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from logreg.config import RunConfig
from logreg.data.datamodule import TensorDataModule
from logreg.errors import ConfigError, DataError
from logreg.export.coefficient_files import read_coefficients
from logreg.facts import DataFacts
from logreg.files import shown
from logreg.losses import LOSSES, SoftmaxLoss, default_loss
from logreg.losses.objective import Objective, Reduction
from logreg.optimality.certificate import bound_by_solution, names_of, objective_in_words, train_problem
from logreg.optimality.implied_penalty import find_implied_penalty
from logreg.reports.coefficient_certificate import CoefficientCertificate, verdict_in_words
from logreg.run.building import build_data, copies_of
from logreg.run.separability import separation_in
from logreg.solvers.fit import bound_of
from logreg.solvers.problem import Coordinates
from logreg.training.checkpoint_reading import TrainedModel
from logreg.training.module import DTYPES, LogisticModule, resolve_loss

INTERCEPT_ROUNDING = 1e-5
"""Largest intercept, relative to the largest in source units, that a model in float32 may have in place of 0."""

GAP_ACCURACY = 0.01
"""Relative error of a gap that is found by solving the problem."""

UNCHANGED = "these are the train rows as they are, without the changes of dataset.augment, which each epoch draws anew"
"""Note on the rows, where the training had no fixed ones."""

MAX_FEATURE_NAMES = 3
"""Largest number of features named in a message."""


@dataclass(frozen=True)
class CertifyRequest:
    """Coefficients and the problem that they are meant to solve.

    Attributes:
        config: Data and loss.
        checkpoint: The checkpoint that has the coefficients; ``None`` where a file has them.
        coef: The file that has the coefficients; ``None`` for a checkpoint.
        typed: Keys of the config that the user typed; their values replace those of the checkpoint.
        penalty: The penalty as typed, by its name: l2, C, lambda, weight_decay or l1.
        tolerance: Relative gap that counts as optimal.
    """

    config: RunConfig
    checkpoint: Path | None
    coef: Path | None
    typed: frozenset[str]
    penalty: Mapping[str, float]
    tolerance: float


def certify(request: CertifyRequest) -> CoefficientCertificate:
    """Reads the data and the coefficients, and bounds their distance from the optimum.

    Where the bound is above the tolerance, the problem is solved to compute the gap, and the function searches for
    another penalty whose problem the coefficients solve.

    Raises:
        LogregError: The user can correct it.
    """
    config = request.config
    trained = None if request.checkpoint is None else TrainedModel.load(request.checkpoint).module
    data, notes = _data_of(request, trained)
    facts, standardize = data.facts, config.dataset["standardize"]
    is_standardized = facts.nonzeros is None if standardize is None else standardize
    penalized = "standardized" if is_standardized else "raw"
    stored = facts.stored
    learned = slice(facts.num_coef)
    # raw features, in whatever form they are stored
    source = Coordinates((-stored.shift / stored.unit)[learned], 1 / stored.unit[learned])
    model = _of_file(request, facts) if trained is None else _of_checkpoint(trained, request, facts)

    rows = data.row_source("train")
    outputs, dtype, device = len(model.coef), DTYPES[config.precision], torch.device("cpu")
    problems = {
        name: train_problem(model.objective, those, outputs, dtype, device, model.has_intercept)
        for name, those in (("raw", dataclasses.replace(facts, mean=(), std=())), ("standardized", facts))
    }
    problem = problems[penalized]
    coordinate_systems = {"raw": source, "standardized": problems["standardized"].model}
    objective = _stated(request.penalty, model.objective, problem.total_weight)
    problem = dataclasses.replace(problem, objective=objective)
    point = (model.coordinates or source).to(
        problem.model, torch.cat([model.coef, model.intercept.unsqueeze(1)], dim=1)
    )
    if not model.has_intercept:
        left = float(point[:, -1].abs().max())
        if left > INTERCEPT_ROUNDING * max(1.0, float(model.intercept.abs().max())):
            raise DataError(f"`intercept=false` must go with an intercept of 0 on {penalized} features, got {left:g}.")
        point[:, -1] = 0
        coordinate_systems = {penalized: problem.model}  # without an intercept, other features make another model

    bound = bound_of(problem, point, rows)
    if not math.isfinite(bound.value):
        raise DataError(
            f"`coef` must have an objective that is finite, got {bound.value}: the coefficients are too large."
        )
    separation = separation_in(data, objective, model.has_intercept)
    gap, optimum, nearest = bound.gap + bound.rounding, None, None
    is_convex = objective.row_loss.is_convex
    if gap > request.tolerance * bound.value and is_convex and not separation:
        start = problem.zeros()
        bound = bound_by_solution(problem, point, rows, bound, GAP_ACCURACY, 0.1 * request.tolerance, start)
        gap = bound.gap + bound.rounding
        optimum = bound.value - gap
    within = gap <= request.tolerance * bound.value and not separation
    if not within and is_convex:
        nearest = find_implied_penalty(
            problem, point, rows, coordinate_systems, intercept=model.has_intercept and request.coef is not None
        )
    found = CoefficientCertificate(
        coefficients=shown(request.checkpoint or request.coef or Path()),
        data=facts.title,
        objective=objective_in_words(objective, outputs, facts.mean_weight != 1, model.has_intercept, facts.offset),
        features=penalized,
        stated=" ".join(f"{key}={value:g}" for key, value in request.penalty.items()),
        classes=facts.class_names,
        rows=problem.rows,
        left_out={split: number for split, number in facts.rows.items() if split != "train"},
        value=bound.value,
        loss=bound.loss,
        gap=gap,
        relative_gap=gap / bound.value if bound.value else 0.0,
        rigorous=bound.rigorous,
        optimum=optimum,
        max_abs_gradient=float(bound.gradient[:, :-1].abs().max()),
        max_abs_gradient_intercept=float(bound.gradient[:, -1].abs().max()),
        optimal=within and bound.rigorous,
        verdict="",
        nearest=nearest,
        notes=(*data.notes, *notes, *model.notes),
        dependent=names_of(bound.dependent, facts.feature_names),
        decrement=bound.decrement,
    )
    next_step = _next_step(request, found.left_out)
    verdict = verdict_in_words(found, problem, request.tolerance, separation, next_step)
    return dataclasses.replace(found, verdict=verdict)


def _data_of(request: CertifyRequest, trained: LogisticModule | None) -> tuple[TensorDataModule, tuple[str, ...]]:
    """The data, with the copies of images that the run had, and a note where they are without its changes."""
    config = request.config
    # Mean and deviation are computed in any case: the penalty may turn out to be on standardized features.
    dataset = {**config.dataset, "standardize": True}
    of_run = trained is not None and not {"dataset.augment", "dataset.copies"} & request.typed
    copies = trained.facts.copies if trained is not None and of_run else copies_of(config)
    notes: tuple[str, ...] = ()
    if dataset.get("augment"):
        dataset |= {"copies": copies or None, "augment": dataset["augment"] if copies else None}
        notes = () if copies else (UNCHANGED,)
    data = build_data(dataclasses.replace(config, dataset=dataset, optimizer={"name": "newton"}))
    data.preparation.shifts = config.intercept or config.dataset["standardize"] is not False
    return data, notes


@dataclass(frozen=True)
class _Model:
    """Coefficients, and the objective that they are meant to minimize.

    Attributes:
        coef: Shape (K, D), float64.
        intercept: Shape (K,).
        objective: The objective without the penalty that was typed.
        has_intercept: Whether the model has an intercept.
        notes: Sentences on the data.
        coordinates: Coordinates of the coefficients, relative to the stored features; ``None`` for raw features.
    """

    coef: Tensor
    intercept: Tensor
    objective: Objective
    has_intercept: bool
    notes: tuple[str, ...] = ()
    coordinates: Coordinates | None = None


def _of_checkpoint(module: LogisticModule, request: CertifyRequest, facts: DataFacts) -> _Model:
    theirs, objective = module.facts, module.objective
    for what, ours, its in (
        ("classes", facts.class_names, theirs.class_names),
        ("number of features", facts.num_features, theirs.num_features),
        ("names of the features", facts.feature_names, theirs.feature_names),
    ):
        if ours != its:
            raise ConfigError(
                f"`ckpt_path` must fit the data: the {what} of the run are {its!r}, of the data {ours!r}."
            )
    if request.typed & {"loss", "link"}:
        objective = dataclasses.replace(objective, loss=resolve_loss(request.config.loss, request.config.link, facts))
    if "reduction" in request.typed:
        objective = dataclasses.replace(objective, reduction=cast(Reduction, request.config.reduction))
    has_intercept = request.config.intercept if "intercept" in request.typed else module.has_intercept
    coef, intercept = (part.detach() for part in module.model.of_stored())
    learned = slice(facts.num_coef)  # not that of an offset
    coef = coef[:, learned]
    _check_shape(request, coef, intercept, facts, objective.loss)
    same = facts.fingerprint == theirs.fingerprint
    notes = () if same else ("these are not the rows that the checkpoint was trained on",)
    here, there = facts.stored, theirs.stored
    # features as the checkpoint stores them, relative to those as the data are stored
    coordinates = Coordinates(((there.shift - here.shift) / here.unit)[learned], (there.unit / here.unit)[learned])
    return _Model(coef, intercept, objective, has_intercept, notes, coordinates)


def _of_file(request: CertifyRequest, facts: DataFacts) -> _Model:
    assert request.coef is not None
    coef, intercept = read_coefficients(request.coef, request.config.intercept)
    loss = resolve_loss(request.config.loss, request.config.link, facts)
    if loss == default_loss(2) and request.config.loss == "auto" and facts.is_binary and len(coef) == 2:
        loss = SoftmaxLoss.name  # only a softmax has two rows for two classes
    _check_shape(request, coef, intercept, facts, loss)
    objective = Objective(loss, cast(Reduction, request.config.reduction))
    return _Model(coef, intercept, objective, request.config.intercept)


def _check_shape(request: CertifyRequest, coef: Tensor, intercept: Tensor, facts: DataFacts, loss: str) -> None:
    outputs = LOSSES[loss].num_outputs(facts.num_classes)
    expected = (outputs, facts.num_coef)
    if tuple(coef.shape) == expected and tuple(intercept.shape) == (outputs,):
        return
    names = list(facts.feature_names[: min(facts.num_coef, MAX_FEATURE_NAMES)])
    features = f" ({', '.join(names)}{', ...' if len(names) < facts.num_coef else ''})" if names else ""
    key = "ckpt_path" if request.coef is None else "coef"
    raise DataError(
        f"`{key}` must hold coef {expected} and intercept ({outputs},) for loss={loss}, {facts.num_classes} classes "
        f"and {facts.num_coef} features{features} of {facts.name}, "
        f"got {tuple(coef.shape)} and {tuple(intercept.shape)}."
    )


def _stated(penalty: Mapping[str, float], objective: Objective, total_weight: float) -> Objective:
    """The objective with the penalty that was typed, converted to l2 and l1 of this program.

    scikit-learn's C is 1 / (l2 * total weight) of a mean and 1 / l2 of a sum; glmnet's lambda and torch's weight_decay
    are the l2 of a mean.
    """
    of_a_sum = objective.reduction == "sum"
    l2 = penalty.get("l2", objective.l2)
    if "C" in penalty:
        l2 = 1 / (penalty["C"] * (1 if of_a_sum else total_weight))
    for key in ("lambda", "weight_decay"):
        if key in penalty:
            l2 = penalty[key] * (total_weight if of_a_sum else 1)
    return dataclasses.replace(objective, l2=l2, l1=penalty.get("l1", objective.l1))


def _next_step(request: CertifyRequest, left_out: Mapping[str, int]) -> str:
    """Advice for coefficients that solve the problem with no strength of the penalty."""
    if request.checkpoint is not None:
        return "Train longer, or use optimizer=newton"
    words = "The coefficients solve it with no other strength either: they are not converged, or of other data"
    fractions = request.config.dataset.get("split", {})
    held_out = [f"dataset.split.{split}=0" for split in left_out if fractions.get(split)]
    return words + (f" ({' '.join(held_out)} takes those rows too)" if held_out else "")
