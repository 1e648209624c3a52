"""The front desk: every setting of a run, typed and checked.  Standard library only, so it answers at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from logreg.constraints import (
    Constraint,
    check,
    flag,
    labels,
    mapping,
    name,
    number,
    one_of,
    optional,
    strengths,
    text,
    weights,
    whole,
)
from logreg.errors import ConfigError, did_you_mean

SELECT = {"log_loss": ("loss", -1), "accuracy": ("accuracy", 1), "auroc": ("auroc", 1)}
"""What may choose among models: its name among the scores of a split, and 1 if more of it is better, or else -1."""

SETTINGS: dict[str, Constraint] = {
    "loss": one_of(("auto", "bce", "cross_entropy")),
    "reduction": one_of(("mean", "sum")),
    "l2": strengths(),
    "l1": number(at_least=0),
    "intercept": flag(),
    "init": one_of(("zeros", "linear")),
    "lr": optional(number(above=0)),
    "batch_size": whole(at_least=1, or_word="full"),
    "max_epochs": whole(at_least=1),
    "tolerance": number(above=0, below=1),
    "polish": flag(),
    "select": one_of(SELECT),
    "calibrate": one_of(("none", "temperature")),
    "accelerator": one_of(("auto", "cpu", "gpu", "mps")),
    "devices": whole(at_least=1),
    "facts": one_of(("none", "show", "only")),
    "precision": one_of(("32", "64")),
    "seed": whole(at_least=0, at_most=2**32 - 1),  # what numpy takes
    "report": one_of(("full", "brief")),
    "verbose": flag(),
}
"""What each setting must be."""

DATASET_SETTINGS: dict[str, Constraint] = {
    "standardize": flag(),
    "classes": optional(labels()),
    "positive": optional(labels()),
    "limit": optional(whole(at_least=2)),
    "class_weight": weights(),
}
"""What every dataset takes, besides ``split`` and arguments of its own."""

BACKBONE_SETTINGS: dict[str, Constraint] = {
    "name": text(),
    "weights": text(),
    "batch_size": whole(at_least=1),
}
"""What turns images into features before the model sees them."""

SECTIONS: dict[str, dict[str, dict[str, Constraint]]] = {
    "optimizer": {
        "sgd": {"momentum": number(at_least=0, below=1), "nesterov": flag()},
        "adam": {"beta1": number(at_least=0, below=1), "beta2": number(at_least=0, below=1), "eps": number(above=0)},
        "adamw": {
            "beta1": number(at_least=0, below=1),
            "beta2": number(at_least=0, below=1),
            "eps": number(above=0),
            "weight_decay": number(at_least=0),
        },
        "newton": {},
        "lbfgs": {},
        "auto": {},
    },
    "schedule": {
        "constant": {},
        "cosine": {"floor": number(at_least=0, below=1)},
        "step": {"every": whole(at_least=1), "factor": number(above=0)},
    },
}
"""What a user chooses between, and the arguments of each choice."""

EXACT = ("newton", "lbfgs", "auto")
"""Optimizers that step once per pass over all rows, and end when they are certified to be at the optimum."""

REFUSED_TRAINER_ARGUMENTS: dict[str, str] = {
    **{key: f"Set `{key}` instead." for key in ("accelerator", "devices", "precision", "max_epochs")},
    "max_steps": "Training counts passes over the data: set `max_epochs`.",
    "min_steps": "Training counts passes over the data: set `max_epochs`.",
    "gradient_clip_val": "The gradient is taken in closed form and not clipped: lower `lr` instead.",
    "gradient_clip_algorithm": "The gradient is taken in closed form and not clipped: lower `lr` instead.",
    "accumulate_grad_batches": "Nothing is accumulated: raise `batch_size` instead.",
    "logger": "Each run writes TensorBoard events and metrics.csv into its folder.",
    "callbacks": "Build a Trainer of your own: README, From Python.",
    "default_root_dir": "Set `hydra.run.dir` instead.",
    "enable_checkpointing": "Each run keeps best.ckpt and last.ckpt.",
    "num_nodes": "One machine fits a linear model.",
    "plugins": "Each run is a process of its own, and writes its checkpoints in its own way.",
    "strategy": "There is one device.",
    "enable_progress_bar": "Each run has a progress bar of its own.",
    "overfit_batches": "Take a small dataset instead: Lightning would draw single rows.",
    "use_distributed_sampler": "There is one device.",
    "barebones": "It would switch the checkpoints and TensorBoard off.",
    "fast_dev_run": "Set `max_epochs=1` and `dataset` to a small one instead.",
}
"""Arguments of Lightning's Trainer that would be ignored or would break a constraint, and what to do instead."""


@dataclass(frozen=True)
class RunConfig:
    """One run, as a user asked for it.

    Attributes:
        dataset: ``name`` of the dataset; ``split`` and the settings of ``DATASET_SETTINGS``; its own arguments.
        backbone: ``name`` of the model of torchvision that turns images into features, or "none"; its
            ``weights`` and ``batch_size``.
        optimizer: ``name`` and arguments.
        schedule: ``name`` and arguments.
        loss: "auto" is bce for two classes and cross_entropy for more.
        reduction: Of the data term, over rows.
        l2: Strength of the penalty (l2 / 2) * |coef|^2. "path" or a list fits several and takes the best on val; "auto"
            does so with few, where that is possible.
        l1: Strength of the penalty l1 * |coef|_1.
        intercept: Whether there is one; else it stays 0.
        init: Where the parameters start.
        lr: Step size of a first-order optimizer in the first epoch; ``None`` for an exact one.
        batch_size: Its rows of a batch, or "full".
        max_epochs: Passes over the train rows; of an exact optimizer at most.
        tolerance: Relative gap to the optimum at which an exact optimizer ends, and which counts as optimal.
        polish: Whether an exact optimizer finishes what a first-order one began.
        select: What is best on val among the strengths of a path and the jobs of a sweep.
        calibrate: "temperature" takes class weights out of the probabilities of classes after training, and fits a
            temperature on val.
        accelerator: "auto" takes a GPU if there is one; the others insist.
        devices: How many of them.
        precision: Bits of the arithmetic.
        seed: Fixes the split, the order of rows and the start.
        ckpt_path: What to resume: latest, best, last, a run folder or a file.
        trainer: Further arguments of Lightning's Trainer.
        facts: Whether the facts of the data are shown before training, or shown and nothing else done.
        expected: Result an experiment is expected to reach: value by "<metric>/<split>", and ``tolerance``.
        report: "brief" leaves pictures and report.html out.
        verbose: Whether Lightning may speak.
    """

    dataset: Mapping[str, Any]
    backbone: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    loss: str
    reduction: str
    l2: float | str | list[float]
    l1: float
    intercept: bool
    init: str
    lr: float | None
    batch_size: int | str
    max_epochs: int
    tolerance: float
    polish: bool
    calibrate: str
    accelerator: str
    devices: int
    precision: str
    seed: int
    ckpt_path: str | None
    trainer: Mapping[str, Any]
    facts: str
    expected: Mapping[str, Any]
    report: str
    verbose: bool
    select: str = "log_loss"  # checkpoints from before there was a choice lack it

    @classmethod
    def from_mapping(cls, plain: Mapping[str, Any]) -> RunConfig:
        """Checks each setting.

        Args:
            plain: One value for each attribute, as a yaml file has them.

        Raises:
            ConfigError: A key is unknown or missing, or a value breaks its constraint.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in plain:
            if key not in known:
                raise unknown_key(key, known)
        plain = {"select": "log_loss", **plain}
        for key in known:
            if key not in plain:
                raise ConfigError.broken(key, "be given", None)
        plain = {**plain, "expected": {} if plain["expected"] is None else plain["expected"]}
        for key, constraint in SETTINGS.items():
            check(key, plain[key], constraint)
        for section, choices in SECTIONS.items():
            _check_section(section, plain[section], choices)
        _check_steps(plain)
        _check_dataset(plain["dataset"])
        _check_backbone(plain["backbone"])
        if plain["ckpt_path"] is not None:
            check("ckpt_path", plain["ckpt_path"], text())
        _check_expected(plain["expected"])
        check(
            "trainer",
            plain["trainer"],
            mapping("arguments of Lightning's Trainer, such as trainer.max_time=00:00:10:00"),
        )
        for key, advice in REFUSED_TRAINER_ARGUMENTS.items():
            if key in plain["trainer"]:
                raise ConfigError(f"`trainer.{key}` must not be set. {advice}")
        if plain["trainer"].get("limit_train_batches") == 0:
            raise ConfigError.broken("trainer.limit_train_batches", "leave something to train on", 0)
        if plain["devices"] != 1:
            raise ConfigError.broken(
                "devices", "be 1", plain["devices"], "Training on several devices at once is not built yet."
            )
        return cls(**{**plain, "precision": str(plain["precision"])})

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `from_mapping` takes them back."""
        return dataclasses.asdict(self)


def unknown_key(key: str, known: list[str]) -> ConfigError:
    """The sentence for a key that no config has."""
    inner = [one for one in known if one.endswith(f".{key}")]
    if key == "C":
        near = "scikit-learn's C is 1 / (rows * l2): set l2 instead."
    elif len(inner) == 1:
        near = f"Did you mean {inner[0]}?"
    else:
        near = did_you_mean(key, known) or "`--help` lists the keys."
    return ConfigError(f"`{key}` must be a key of the config, and there is none of that name. {near}")


def _check_steps(plain: Mapping[str, Any]) -> None:
    """What belongs to first-order optimizers stands with one, and nothing of it with an exact one."""
    name = plain["optimizer"]["name"]
    if not isinstance(plain["l2"], int | float) and plain["l2"] != "auto" and name not in EXACT:
        raise ConfigError("`l2` must be one number with a first-order optimizer. Set optimizer=auto for a path.")
    if name not in EXACT:
        if plain["lr"] is None:
            raise ConfigError.broken(
                "lr", f"be given with optimizer={name}", None, "Leave it to the dataset, or set it."
            )
        return
    advice = f"optimizer={name} finds its own steps. Leave it out, or set optimizer=sgd."
    for key, unset in (("lr", None), ("batch_size", "full"), ("polish", False)):
        if plain[key] != unset:
            raise ConfigError(f"`{key}` must go with a first-order optimizer, and {advice}")
    if plain["schedule"]["name"] != "constant":
        raise ConfigError(f"`schedule` must go with a first-order optimizer, and {advice}")


def _check_dataset(plain: Mapping[str, Any]) -> None:
    check("dataset.name", plain.get("name"), text())
    for key, constraint in DATASET_SETTINGS.items():
        check(f"dataset.{key}", plain.get(key, "none" if key == "class_weight" else None), constraint)
    split = plain.get("split", {})
    check("dataset.split", split, mapping("fractions for val and test, such as {val: 0.2, test: 0.2}"))
    constraints = {
        **dict.fromkeys(("val", "test"), optional(number(at_least=0, below=1))),
        **dict.fromkeys(("column", "group"), optional(name())),
    }
    for key, value in split.items():
        if key not in constraints:
            raise unknown_key(f"dataset.split.{key}", [f"dataset.split.{known}" for known in constraints])
        check(f"dataset.split.{key}", value, constraints[key])
    if sum(split.get(key) or 0 for key in ("val", "test")) >= 1:
        raise ConfigError.broken("dataset.split", "leave rows to train on", dict(split))


def _check_backbone(plain: Any) -> None:
    check("backbone", plain, mapping("none or a model of torchvision, such as backbone=resnet18"))
    for key, value in plain.items():
        if key not in BACKBONE_SETTINGS:
            raise unknown_key(f"backbone.{key}", [f"backbone.{known}" for known in BACKBONE_SETTINGS])
        check(f"backbone.{key}", value, BACKBONE_SETTINGS[key])


def _check_expected(plain: Any) -> None:
    check("expected", plain, mapping("values and a tolerance, such as {accuracy/test: 0.92, tolerance: 0.003}"))
    for metric, value in plain.items():
        check(f"expected.{metric}", value, number())
        if metric != "tolerance" and metric.count("/") != 1:
            raise ConfigError(f"`expected.{metric}` must be written <metric>/<split>, such as accuracy/test.")
    if plain and "tolerance" not in plain:
        raise ConfigError.broken("expected", "have a tolerance", dict(plain))


def _check_section(section: str, plain: Mapping[str, Any], choices: Mapping[str, Mapping[str, Constraint]]) -> None:
    name = str(plain.get("name"))
    if name not in choices:
        raise ConfigError.not_a_choice(section, choices, name)
    for key, value in plain.items():
        if key == "name":
            continue
        if key not in choices[name]:
            raise unknown_key(f"{section}.{key}", [f"{section}.{known}" for known in choices[name]])
        check(f"{section}.{key}", value, choices[name][key])
    if plain.get("nesterov") and not plain.get("momentum"):
        raise ConfigError.broken("optimizer.nesterov", "go with a momentum > 0", True, "Set optimizer.momentum=0.9.")
