"""The sections of a config, each with several keys: their options, and the constraints on their settings.

Standard library only, so that a mistake is answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logreg.constraints import (
    Constraint,
    check,
    flag,
    labels,
    mapping,
    name,
    names_or_strengths,
    number,
    optional,
    text,
    weights,
    whole,
)
from logreg.errors import ConfigError, did_you_mean

DATASET_SETTINGS: dict[str, Constraint] = {
    "standardize": optional(flag()),
    "classes": optional(labels()),
    "positive": optional(labels()),
    "limit": optional(whole(at_least=2)),
    "class_weight": weights(),
}
"""Settings that every dataset has, besides ``split`` and the dataset's own arguments."""

IMAGE_SETTINGS: dict[str, Constraint] = {
    "augment": optional(names_or_strengths("[shift,flip] or {shift: 2, flip: 0.5}")),
    "copies": optional(whole(at_least=1)),
}
"""Settings that every dataset of images has in addition."""

AUGMENT: dict[str, dict[str, tuple[float, Constraint]]] = {
    "shift": {"pixels": (2, whole(at_least=1))},
    "flip": {"probability": (0.5, number(above=0, at_most=1))},
    "crop": {"area": (0.5, number(above=0, at_most=1))},
    "affine": {
        "degrees": (10, number(at_least=0, at_most=180)),
        "translate": (0, number(at_least=0, at_most=1)),
        "scale": (0, number(at_least=0, below=1)),
        "shear": (0, number(at_least=0, below=90)),
    },
}
"""The random changes of train images that ``dataset.augment`` names, and for each strength its default and constraint.

A single number sets the first strength.
"""

BACKBONE_SETTINGS: dict[str, Constraint] = {
    "name": text(),
    "weights": text(),
    "batch_size": whole(at_least=1),
}
"""Settings of the network that turns images into features."""

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
"""The options of a section, and the arguments of each option."""

REFUSED_TRAINER_ARGUMENTS: dict[str, str] = {
    **{key: f"Set `{key}` instead." for key in ("accelerator", "devices", "num_nodes", "precision", "max_epochs")},
    "max_steps": "Training counts passes over the data: set `max_epochs`.",
    "min_steps": "Training counts passes over the data: set `max_epochs`.",
    "gradient_clip_val": "The gradient is taken in closed form and not clipped: lower `lr` instead.",
    "gradient_clip_algorithm": "The gradient is taken in closed form and not clipped: lower `lr` instead.",
    "accumulate_grad_batches": "Nothing is accumulated: raise `batch_size` instead.",
    "logger": "Each run writes TensorBoard events and metrics.csv into its folder.",
    "callbacks": "Build a Trainer of your own, as docs/python.md shows.",
    "default_root_dir": "Set `hydra.run.dir` instead.",
    "enable_checkpointing": "Each run keeps best.ckpt and last.ckpt.",
    "plugins": "Each process has a Trainer of its own, and the first one writes the checkpoints.",
    "strategy": "Each process has a Trainer of its own: set `devices`.",
    "enable_progress_bar": "Each run shows its own progress bar.",
    "overfit_batches": "Take a small dataset instead: Lightning would draw single rows.",
    "use_distributed_sampler": "Each process reads its own share of the rows.",
    "barebones": "It would switch the checkpoints and TensorBoard off.",
    "fast_dev_run": "Set `max_epochs=1` and `dataset` to a small one instead.",
}
"""Arguments of Lightning's Trainer that have no effect or a wrong one here, and the advice for each."""

ELSEWHERE = {
    "C": "scikit-learn's C is 1 / (rows * l2): set l2 instead.",
    "lambda": "glmnet's lambda is l2 with alpha=0, and l1 with alpha=1: set l2 or l1.",
    "penalty": "Set l2=VALUE, l1=VALUE, or both; l2=0 is no penalty.",
    "threshold": "scripts/predict.py takes it, with any model of two classes.",
}
"""Advice on keys that other programs or commands have."""


def unknown_key(key: str, known: list[str]) -> ConfigError:
    """The message for a key that no config has, with the nearest of the known keys."""
    inner = [one for one in known if one.endswith(f".{key}")]
    if key in ELSEWHERE:
        near = ELSEWHERE[key]
    elif len(inner) == 1:
        near = f"Did you mean {inner[0]}?"
    else:
        near = did_you_mean(key, known) or "`--help` lists the keys."
    return ConfigError(f"`{key}` must be a key of the config, and there is none of that name. {near}")


def check_section(section: str, plain: Mapping[str, Any]) -> None:
    """Checks the option of a section of `SECTIONS` and its arguments.

    Raises:
        ConfigError: The option or an argument is unknown, or an argument breaks its constraint.
    """
    choices, name = SECTIONS[section], str(plain.get("name"))
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


def check_dataset(plain: Mapping[str, Any]) -> None:
    """Checks the settings that every dataset has, those of images, and the split; a dataset checks its own arguments.

    Raises:
        ConfigError: A setting breaks its constraint.
    """
    check("dataset.name", plain.get("name"), text())
    for key, constraint in (DATASET_SETTINGS | IMAGE_SETTINGS).items():
        check(f"dataset.{key}", plain.get(key, "none" if key == "class_weight" else None), constraint)
    if plain.get("copies") is not None and plain.get("augment") is None:
        raise ConfigError(
            "`dataset.copies` must go with dataset.augment, by which copies differ from their rows. "
            "Set dataset.augment=[shift], or leave copies out."
        )
    augmentation_of(plain.get("augment"))
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


def augmentation_of(given: Any) -> dict[str, dict[str, float]]:
    """All strengths of each random change that a value of ``dataset.augment`` names, in its order; empty for ``None``.

    Raises:
        ConfigError: A name is unknown or given twice, or a strength breaks its constraint.
    """
    if given is None:
        return {}
    names = [given] if isinstance(given, str) else list(given)
    found: dict[str, dict[str, float]] = {}
    for change in names:
        if not isinstance(change, str) or change not in AUGMENT:
            has_strength = isinstance(change, Mapping) or ":" in str(change)
            advice = "Type strengths in curly brackets: 'dataset.augment={shift: 2, flip: 0.5}'."
            raise ConfigError.not_a_choice("dataset.augment", AUGMENT, change, advice if has_strength else "")
        if change in found:
            raise ConfigError.broken("dataset.augment", "name each change once", names)
        known, key = AUGMENT[change], f"dataset.augment.{change}"
        typed = given[change] if isinstance(given, Mapping) else None
        if typed is not None and not isinstance(typed, Mapping):
            check(key, typed, next(iter(known.values()))[1])
            typed = {next(iter(known)): typed}
        for part, value in (typed or {}).items():
            if part not in known:
                raise ConfigError.not_a_choice(key, known, part)
            check(f"{key}.{part}", value, known[part][1])
        found[change] = {part: default for part, (default, _) in known.items()} | dict(typed or {})
    return found


def check_backbone(plain: Any) -> None:
    """Checks the settings of the network that turns images into features.

    Raises:
        ConfigError: A key is unknown, or a value breaks its constraint.
    """
    check("backbone", plain, mapping("none or a model of torchvision, such as backbone=resnet18"))
    for key, value in plain.items():
        if key not in BACKBONE_SETTINGS:
            raise unknown_key(f"backbone.{key}", [f"backbone.{known}" for known in BACKBONE_SETTINGS])
        check(f"backbone.{key}", value, BACKBONE_SETTINGS[key])


def check_trainer(plain: Any) -> None:
    """Checks that no argument of Lightning's Trainer is one that has no effect or a wrong one.

    Raises:
        ConfigError: There is one.
    """
    check("trainer", plain, mapping("arguments of Lightning's Trainer, such as trainer.max_time=00:00:10:00"))
    for key, advice in REFUSED_TRAINER_ARGUMENTS.items():
        if key in plain:
            raise ConfigError(f"`trainer.{key}` must not be set. {advice}")
    if plain.get("limit_train_batches") == 0:
        raise ConfigError.broken("trainer.limit_train_batches", "leave something to train on", 0)
