"""How far anyone's coefficients are from the optimum of the problem that they are meant to solve.

Like the door, nothing here imports torch before the command line is understood.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir

from logreg.commands.command_line import ROOT, run_command, say_importing
from logreg.commands.overrides import CONF, check_groups, is_override, parse, resolved, resumed_overrides, with_backbone
from logreg.config import RunConfig
from logreg.constraints import Constraint, check, flag, number
from logreg.errors import ConfigError, DataError, did_you_mean
from logreg.files import shown
from logreg.run_folder import find_checkpoint, run_folder_of
from logreg.terminal import on_one_line

if TYPE_CHECKING:
    from torch import Tensor

    from logreg.facts import DataFacts
    from logreg.losses.objective import Objective
    from logreg.optimality.implied_penalty import ImpliedPenalty
    from logreg.solvers.problem import Coordinates, Problem

HELP = """\
Says how far coefficients are from the optimum of the problem that they are meant to solve.

usage: python scripts/certify.py ckpt_path=... [key=value ...]
       python scripts/certify.py coef=FILE dataset=... PENALTY [key=value ...]

examples
  python scripts/certify.py ckpt_path=latest                           the newest run: its data and its objective
  python scripts/certify.py ckpt_path=latest l2=1e-3                   the same, against another penalty
  python scripts/certify.py coef=model.npz dataset=breast_cancer C=1 dataset.split.val=0 dataset.split.test=0
  python scripts/certify.py coef=probe.json dataset=features dataset.path=embeddings.npz weight_decay=1e-4

coefficients
  ckpt_path    latest, best, last, a run folder or a .ckpt file; data and objective are those of its run, unless typed
  coef         .npz or .json with coef (K, D) or (D,) and intercept (K,) or a number, for the features as they are in
               the source (pixels in [0, 1]).  scikit-learn's coef_ and intercept_, torch's weight and bias will do.
               K is 1 for two classes: the logit of the second.  Else there is a row for each class, in the order that
               is printed: numbers ascending, text alphabetic, as in scikit-learn's classes_.  Two rows for two
               classes are a softmax.

the penalty that coef= was fitted with, on the coefficients and not on the intercept
  l2           mean loss + l2/2 |coef|^2; 0 for none
  C            scikit-learn: 1 / (N * l2); inf for none
  lambda       glmnet with alpha=0: l2
  weight_decay torch's SGD on a mean loss: l2
  l1           beside one of them, or alone: + l1 |coef|_1

the data and the loss, all as in scripts/train.py
  dataset, dataset.<key>, backbone, experiment, seed, loss, reduction, intercept, precision, accelerator
               The rows are those of train: dataset.split.val=0 dataset.split.test=0 takes what is held out too.  Beside
               coef=, the penalty is on the raw features (dataset.standardize=true: on the standardized ones), the loss
               is a mean over the rows, and features are read with precision=64.

  tolerance    1e-6      gap, relative to the value, up to which coefficients are optimal
  json         false     true: prints one JSON object

Where the gap is larger, the stated problem is solved, so that the gap is known and not only bounded, and a penalty
is looked for that the coefficients do solve.  Nothing is written.  Exit code 0 whatever the verdict, 2 for a mistake.
"""

CONVENTIONS: dict[str, Constraint] = {
    "l2": number(at_least=0),
    "C": Constraint("be a number > 0, or inf for no penalty", lambda value: isinstance(value, float) and value > 0),
    "lambda": number(at_least=0),
    "weight_decay": number(at_least=0),
}
"""What the strength of the penalty is called elsewhere; one of them is stated."""

NUMBERS: dict[str, Constraint] = {**CONVENTIONS, "l1": number(at_least=0), "tolerance": number(above=0, below=1)}
"""What else is typed as a number."""

OWN = ("ckpt_path", "coef", "json", *NUMBERS)
"""Keys that Hydra does not see."""

SHARED = ("dataset", "backbone", "experiment", "seed", "loss", "reduction", "intercept", "precision", "accelerator")
"""Keys of ``scripts/train.py`` that say what the data and the loss are."""

FOREIGN = ("dataset.standardize=false", "reduction=mean", "precision=64")
"""What is meant by the coefficients of others, unless something else is typed."""

COEF, INTERCEPT = ("coef", "coef_", "weight"), ("intercept", "intercept_", "bias")
"""Names in a file: ours, scikit-learn's, torch's."""

ROUNDING = 1e-5
"""What a model in float32 may leave of an intercept that is 0."""

ACCURACY = 0.01
"""Relative error of a gap that is found by solving the problem."""

MOST_NAMES, MOST_CLASSES = 3, 10
"""Features named in a message; classes named in the answer."""


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        config: Data and loss.
        checkpoint: Whose parameters; ``None`` for those of a file.
        coef: The file; ``None`` for a checkpoint.
        typed: Keys of the config that the user typed.
        numbers: Those of ``NUMBERS`` that were typed.
        as_json: Whether to answer in JSON.
    """

    config: RunConfig
    checkpoint: Path | None
    coef: Path | None
    typed: frozenset[str]
    numbers: Mapping[str, float]
    as_json: bool

    @property
    def tolerance(self) -> float:
        """Relative gap that counts as optimal."""
        return self.numbers.get("tolerance", 1e-6)


@dataclass(frozen=True)
class Answer:
    """What is known of coefficients; plain values.

    Attributes:
        coefficients: Where they come from.
        data: The dataset.
        objective: What is minimized, in words.
        features: Whose coefficients the penalty is on, "raw" or "standardized".
        stated: The penalty as it was typed; empty where it is the run's own.
        classes: In the order of the rows of the coefficients.
        rows: Over which the objective is taken, those of train.
        left_out: Rows of the other splits.
        value: f, in nats, of which ``loss`` is the data term.
        gap: f - f* is at most this, in nats, with all rounding; where not ``rigorous``, about this.
        relative_gap: gap / value.
        optimum: value - gap, where the problem was solved to know it; else ``None``.
        max_abs_gradient: Largest slope of f by a coefficient; ``max_abs_gradient_intercept`` by an intercept.
        optimal: Whether the relative gap is known to be within the tolerance.
        verdict: All of it in words.
        nearest: The penalty that the coefficients do solve, if it is another one.
        notes: On the data.
        dependent: Names of features that depend on each other to within rounding, where that spoils the bound.
    """

    coefficients: str
    data: str
    objective: str
    features: str
    stated: str
    classes: Sequence[str]
    rows: int
    left_out: Mapping[str, int]
    value: float
    loss: float
    gap: float
    relative_gap: float
    rigorous: bool
    optimum: float | None
    max_abs_gradient: float
    max_abs_gradient_intercept: float
    optimal: bool
    verdict: str
    nearest: ImpliedPenalty | None
    notes: Sequence[str]
    dependent: Sequence[str] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/certify.py``.

    Args:
        arguments: What follows the script's name; ``sys.argv`` when ``None``.

    Returns:
        Exit code: 0 answered, whatever the verdict; 2 a mistake that the user can mend; 130 stopped
        from the keyboard.
    """
    return run_command(HELP, _work, arguments)


def _work(typed: list[str]) -> int:
    request = understood(typed)
    say_importing()
    from logreg.training.fast_import import import_lightning

    import_lightning()
    found = certify(request)
    print(json.dumps(dataclasses.asdict(found)) if request.as_json else _shown(found))
    return 0


def understood(typed: Sequence[str]) -> Request:
    """What was typed, checked and completed from the run of the checkpoint.

    Raises:
        ConfigError: A key, a value or a combination is at fault.
    """
    for argument in typed:
        if not is_override(argument):
            raise ConfigError(f"`{argument}` must be written as key=value, such as C=1. `--help` lists the keys.")
    values = dict(argument.split("=", 1) for argument in typed if "=" in argument)
    known = [*OWN, *SHARED]
    for key in values:
        if _group(key) not in known:
            near = did_you_mean(key, known) or "`--help` lists the keys."
            raise ConfigError(f"`{key}` must be a key of certify.py, and there is none of that name. {near}")
    numbers = {key: _number(key, values[key]) for key in NUMBERS if key in values}
    text = values.get("json", "false")
    as_json = {"true": True, "false": False}.get(text.lower(), text)
    check("json", as_json, flag())
    stated = [key for key in CONVENTIONS if key in numbers]
    if len(stated) > 1:
        raise ConfigError(f"`{stated[0]}` must be the only word for the penalty, got {' and '.join(stated)}.")
    if ("coef" in values) == ("ckpt_path" in values):
        raise ConfigError("`coef` or `ckpt_path` must say whose coefficients, one of the two. See --help.")
    overrides = parse(with_backbone([line for line in typed if line.partition("=")[0] not in OWN]))
    for override in overrides:
        if override.is_sweep_override():
            raise ConfigError(f"`{override.key_or_group}` must be one value, got several in {override.input_line}.")
    check_groups(overrides)
    given = {override.key_or_group for override in overrides}
    if "coef" in values:
        if not numbers.keys() & {*CONVENTIONS, "l1"}:
            raise ConfigError("`l2` must be stated, or C, lambda or weight_decay: see --help. l2=0 is no penalty.")
        checkpoint, before = None, [line for line in FOREIGN if line.partition("=")[0] not in given]
    else:
        checkpoint = find_checkpoint(values["ckpt_path"], ROOT)
        before = [line for line in resumed_overrides(checkpoint, given) if _group(line) in SHARED]
    if not given & {"dataset", "experiment"} and (checkpoint is None or run_folder_of(checkpoint) is None):
        raise ConfigError("`dataset` must be given: the data that the coefficients were fitted to.")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", [*before, *(override.input_line or "" for override in overrides)])
    config = RunConfig.from_mapping(resolved(composed))
    coef = Path(values["coef"]) if "coef" in values else None
    return Request(config, checkpoint, coef, frozenset(given), numbers, bool(as_json))


def _group(line: str) -> str:
    """``+dataset.path=FILE`` is about the dataset."""
    return line.partition("=")[0].lstrip("+~").split(".")[0]


def _number(key: str, text: str) -> float:
    try:
        value: Any = float(text)
    except ValueError:
        value = text
    check(key, value, NUMBERS[key])
    return float(value)


def certify(request: Request) -> Answer:
    """Reads the data and the coefficients, and compares them with the optimum.

    Raises:
        LogregError: The user can mend it.
    """
    import torch

    from logreg.optimality.certificate import bound_by_solution, names_of, objective_in_words, problem_of
    from logreg.optimality.implied_penalty import find_implied_penalty
    from logreg.run.building import build_data
    from logreg.run.separability import separation_in
    from logreg.solvers.fit import bound_of
    from logreg.solvers.problem import Coordinates
    from logreg.training.module import DTYPES

    config = request.config
    penalized = "standardized" if config.dataset["standardize"] else "raw"
    # Mean and deviation are taken in any case: the penalty may turn out to be on coefficients of standardized features.
    dataset = {**config.dataset, "standardize": True}
    data = build_data(dataclasses.replace(config, dataset=dataset, optimizer={"name": "newton"}))
    data.shifts = config.intercept or config.dataset["standardize"]
    facts = data.facts
    stored = facts.stored
    source = Coordinates(-stored.shift / stored.unit, 1 / stored.unit)  # raw features, whatever is stored of them
    model = _of_file(request, facts) if request.checkpoint is None else _of_checkpoint(request, facts)

    rows = data.row_source("train")
    outputs, dtype, device = len(model.coef), DTYPES[config.precision], torch.device("cpu")
    problems = {
        name: problem_of(model.objective, theirs, outputs, dtype, device, model.has_intercept)
        for name, theirs in (("raw", dataclasses.replace(facts, mean=(), std=())), ("standardized", facts))
    }
    problem = problems[penalized]
    frames = {"raw": source, "standardized": problems["standardized"].model}
    objective = _stated(request.numbers, model.objective, problem.total_weight)
    problem = dataclasses.replace(problem, objective=objective)
    point = (model.coordinates or source).to(
        problem.model, torch.cat([model.coef, model.intercept.unsqueeze(1)], dim=1)
    )
    if not model.has_intercept:
        left = float(point[:, -1].abs().max())
        if left > ROUNDING * max(1.0, float(model.intercept.abs().max())):
            raise DataError(f"`intercept=false` must go with an intercept of 0 on {penalized} features, got {left:g}.")
        point[:, -1] = 0
        frames = {penalized: problem.model}  # without an intercept, other features make another model

    bound = bound_of(problem, point, rows)
    if not math.isfinite(bound.value):
        raise DataError(
            f"`coef` must have an objective that is finite, got {bound.value}: the coefficients are too large."
        )
    separation = separation_in(data, objective, model.has_intercept)
    gap, optimum, nearest = bound.gap + bound.rounding, None, None
    if gap > request.tolerance * bound.value and not separation:
        bound = bound_by_solution(problem, point, rows, bound, ACCURACY, 0.1 * request.tolerance, problem.zeros())
        gap = bound.gap + bound.rounding
        optimum = bound.value - gap
    within = gap <= request.tolerance * bound.value and not separation
    if not within:
        nearest = find_implied_penalty(
            problem, point, rows, frames, intercept=model.has_intercept and request.coef is not None
        )
    answer = Answer(
        coefficients=shown(request.checkpoint or request.coef or Path()),
        data=facts.title,
        objective=objective_in_words(objective, outputs, facts.mean_weight != 1, model.has_intercept),
        features=penalized,
        stated=" ".join(f"{key}={value:g}" for key, value in request.numbers.items() if key != "tolerance"),
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
        verdict=separation,
        nearest=nearest,
        notes=(*data.notes, *model.notes),
        dependent=names_of(bound.dependent, facts.feature_names),
    )
    return dataclasses.replace(answer, verdict=_verdict(answer, problem, request))


@dataclass(frozen=True)
class _Model:
    """Coefficients, and what they are said to minimize."""

    coef: Tensor
    """Shape (K, D), float64."""
    intercept: Tensor
    """Shape (K,)."""
    objective: Objective
    """Without what was typed of the penalty."""
    has_intercept: bool
    notes: tuple[str, ...] = ()
    coordinates: Coordinates | None = None
    """Of the features that they are of, as seen from how the data are stored; ``None``: of the raw features."""


def _of_checkpoint(request: Request, facts: DataFacts) -> _Model:
    from logreg.solvers.problem import Coordinates
    from logreg.training.checkpoint_reading import TrainedModel
    from logreg.training.module import resolve_loss

    assert request.checkpoint is not None
    module = TrainedModel.load(request.checkpoint).module
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
    if "loss" in request.typed:
        objective = dataclasses.replace(objective, loss=resolve_loss(request.config.loss, facts))
    if "reduction" in request.typed:
        objective = dataclasses.replace(objective, reduction=request.config.reduction)  # type: ignore[arg-type]
    has_intercept = request.config.intercept if "intercept" in request.typed else module.has_intercept
    coef, intercept = (part.detach() for part in module.model.of_stored())
    _check_shape(request, coef, intercept, facts, objective.loss)
    same = facts.fingerprint == theirs.fingerprint
    notes = () if same else ("these are not the rows that the checkpoint was trained on",)
    here, there = facts.stored, theirs.stored
    coordinates = Coordinates(
        (there.shift - here.shift) / here.unit, there.unit / here.unit
    )  # its features, seen from ours
    return _Model(coef, intercept, objective, has_intercept, notes, coordinates)


def _of_file(request: Request, facts: DataFacts) -> _Model:
    from logreg.losses.objective import Objective
    from logreg.training.module import resolve_loss

    assert request.coef is not None
    coef, intercept = read_coefficients(request.coef, request.config.intercept)
    loss = resolve_loss(request.config.loss, facts)
    if request.config.loss == "auto" and facts.is_binary and len(coef) == 2:
        loss = "cross_entropy"  # nobody else has two rows for two classes
    _check_shape(request, coef, intercept, facts, loss)
    objective = Objective(loss, request.config.reduction)  # type: ignore[arg-type]  # checked by the config
    return _Model(coef, intercept, objective, request.config.intercept)


def read_coefficients(file: Path, has_intercept: bool = True) -> tuple[Tensor, Tensor]:
    """Reads coefficients that somebody wrote; never unpickles.

    Args:
        file: .npz, or else .json: an array under a name of ``COEF`` and one under a name of ``INTERCEPT``.
        has_intercept: Whether the latter must be there; else it is 0.

    Returns:
        Shapes (K, D) and (K,), float64; a vector or a number is one row.

    Raises:
        DataError: The file cannot be read, or lacks one of them, or they are no finite numbers.
    """
    import zlib

    import numpy as np
    import torch

    from logreg.data.formats.arrays import read_npz

    try:
        held = json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else read_npz(file)
        if not has_intercept and not set(INTERCEPT) & set(held):
            held["intercept"] = np.zeros(len(np.atleast_2d(next(held[name] for name in COEF if name in held))))
        found = [next(name for name in names if name in held) for names in (COEF, INTERCEPT)]
        coef, intercept = (torch.from_numpy(np.array(held[name], dtype=np.float64)) for name in found)
    except FileNotFoundError as error:
        raise DataError(f"`coef={file}` must be a file, and there is none of that name.") from error
    except StopIteration as error:
        raise DataError(
            f"`coef={file}` must hold coef and intercept, got {', '.join(map(str, held)) or 'nothing'}. "
            "Of a model without one, type intercept=false."
        ) from error
    except (
        *(OSError, ValueError, TypeError, AttributeError, EOFError, MemoryError, RecursionError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise DataError(
            f"`coef={file}` must be .npz or .json with numbers under coef and intercept, and cannot be read as that. "
            "Nothing is unpickled: numpy.savez(file, coef=model.coef_, intercept=model.intercept_) writes a good one."
        ) from error
    for name, values in zip(found, (coef, intercept), strict=True):
        if not bool(values.isfinite().all()):
            raise DataError(f"`coef={file}` must hold finite numbers, got nan or inf in {name}.")
    return torch.atleast_2d(coef), torch.atleast_1d(intercept)


def _check_shape(request: Request, coef: Tensor, intercept: Tensor, facts: DataFacts, loss: str) -> None:
    from logreg.losses import LOSSES

    outputs = LOSSES[loss].num_outputs(facts.num_classes)
    expected = (outputs, facts.num_features)
    if tuple(coef.shape) == expected and tuple(intercept.shape) == (outputs,):
        return
    names = list(facts.feature_names[:MOST_NAMES])
    features = f" ({', '.join(names)}{', ...' if len(names) < facts.num_features else ''})" if names else ""
    key = "ckpt_path" if request.coef is None else "coef"
    raise DataError(
        f"`{key}` must hold coef {expected} and intercept ({outputs},) for loss={loss}, {facts.num_classes} classes "
        f"and {facts.num_features} features{features} of {facts.name}, "
        f"got {tuple(coef.shape)} and {tuple(intercept.shape)}."
    )


def _stated(numbers: Mapping[str, float], objective: Objective, total_weight: float) -> Objective:
    """The objective with the penalty that was typed, in our convention."""
    of_a_sum = objective.reduction == "sum"
    l2 = numbers.get("l2", objective.l2)
    if "C" in numbers:
        l2 = 1 / (numbers["C"] * (1 if of_a_sum else total_weight))
    for key in ("lambda", "weight_decay"):
        if key in numbers:
            l2 = numbers[key] * (total_weight if of_a_sum else 1)
    return dataclasses.replace(objective, l2=l2, l1=numbers.get("l1", objective.l1))


def _verdict(answer: Answer, problem: Problem, request: Request) -> str:
    """The answer in words; ``answer.verdict`` says why there is no optimum, where there is none."""
    from logreg.optimality.certificate import dependence_in_words

    if not answer.verdict and answer.relative_gap <= request.tolerance:
        words = f"optimal to {answer.relative_gap:.1g}" + ("" if answer.rigorous else " by estimate")
        return f"{words}: {dependence_in_words(answer.dependent)}" if answer.dependent and not answer.optimal else words
    words = answer.verdict
    if not words:
        most = "at most" if answer.rigorous else "by estimate"
        words = f"not optimal: {answer.gap:.3g} nats above the optimum {most}"
        if answer.optimum:
            words += f", {100 * answer.gap / answer.optimum:.3g} %"
        if answer.dependent and not answer.rigorous:
            words += f"; {dependence_in_words(answer.dependent)}"
    if answer.nearest is not None:
        return f"{words}. The coefficients solve {_in_words(answer.nearest, problem, answer.features)}"
    if answer.verdict:
        return words
    if request.checkpoint is not None:
        return f"{words}. Train longer, or use optimizer=newton"
    words += ". The coefficients solve it with no other strength either: they are not converged, or of other data"
    fractions = request.config.dataset.get("split", {})
    held_out = [f"dataset.split.{split}=0" for split in answer.left_out if fractions.get(split)]
    return words + (f" ({' '.join(held_out)} takes those rows too)" if held_out else "")


def _in_words(reading: ImpliedPenalty, problem: Problem, features: str) -> str:
    from logreg.optimality.implied_penalty import SAME_STRENGTH_TOLERANCE, likely_cause, rounded

    def digits(strength: float) -> str:
        return rounded(strength, reading.error)

    words = " ".join(f"{name}={digits(value)}" for name, value in (("l2", reading.l2), ("l1", reading.l1)) if value)
    if not reading.l1:
        words += f" (C={digits(1 / (reading.l2 * (1 if problem.row_sum_scale == 1 else problem.total_weight)))})"
    if reading.features != features:
        words += f" on {reading.features} features (dataset.standardize={str(features == 'raw').lower()})"
    if reading.intercept:
        words += " with the intercept penalized too"
    if problem.objective.l2 or problem.objective.l1:
        if abs(math.log(reading.factor)) > max(SAME_STRENGTH_TOLERANCE, reading.error):
            words += f", {digits(reading.factor)} times the stated strength"
        if confused := likely_cause(reading, problem.total_weight):
            words += f", {confused}"
    if reading.relative_gap is None:
        return f"{words}, to {reading.residual:.1g} of the slope"
    return f"{words}, to a relative gap of at most {reading.relative_gap:.1g}"


def _shown(answer: Answer) -> str:
    """The answer as a user reads it."""
    names = answer.classes[:MOST_CLASSES]
    others = " and ".join(f"{number:,} of {split}" for split, number in answer.left_out.items())
    stated = f" [{answer.stated}]" if answer.stated else ""
    known = "rigorous" if answer.rigorous else "an estimate"
    lines = {
        "coefficients": f"{answer.coefficients}, of {answer.data}",
        "objective": f"{answer.objective}, on {answer.features} features{stated}",
        "classes": ", ".join(names) + (f", ... {len(answer.classes)}" if len(names) < len(answer.classes) else ""),
        "rows": f"{answer.rows:,} of train" + (f", not the {others}" if others else ""),
        "value": f"{answer.value:.10g} nats, of which {answer.value - answer.loss:.4g} penalty",
        "gap": f"{answer.gap:.3g} nats at most, {answer.relative_gap:.3g} of the value; {known}",
        "slope": f"{answer.max_abs_gradient:.3g} at most by a coefficient, "
        f"{answer.max_abs_gradient_intercept:.3g} by an intercept",
        "verdict": answer.verdict,
    }
    width = max(map(len, lines)) + 2
    return "\n".join(map(on_one_line, [*(f"{name:{width}}{words}" for name, words in lines.items()), *answer.notes]))
