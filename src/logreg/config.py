"""The config of a run: every setting with its type, default, constraint and help text.

Standard library only, so that a mistake is answered at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    one_of,
    optional,
    strength,
    strengths,
    text,
    weights,
    whole,
)
from logreg.errors import ConfigError, did_you_mean
from logreg.settings import Setting

SELECT = {"log_loss": ("loss", -1), "accuracy": ("accuracy", 1), "auroc": ("auroc", 1)}
"""Scores that may choose among models: the name in the scores of a split, and 1 if larger is better, else -1."""

MAX_SEED = 2**32 - 1
"""Largest seed: numpy takes no larger one."""

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

LINKS = (
    "logit",
    "probit",
    "cloglog",
    "loglog",
    "cauchit",
    "erf",
    "tanh",
    "arctan",
    "gudermannian",
    "algebraic",
    "softsign",
)
"""The links from probabilities of two classes to logits."""

EXACT = ("newton", "lbfgs", "auto")
"""Optimizers that step once per pass over all rows, and stop when a certificate proves them to be at the optimum."""

PROCESS_KEYS = ("devices", "num_nodes")
"""The settings that say how many processes train, which changes nothing else."""

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


def _declare(default: Any, constraint: Constraint, help_text: str) -> dict[str, Setting]:
    """The metadata of a field of `RunConfig` that is one setting and not a section."""
    return {"setting": Setting(default, constraint, help_text)}


@dataclass(frozen=True)
class RunConfig:
    """One run: every setting with its type, default, constraint and help text.

    The default is the one that conf/config.yaml has; a run has all settings, so none is a default in Python.

    Attributes:
        dataset: ``name`` of the dataset; ``split`` and the settings of ``DATASET_SETTINGS``; its own arguments.
        backbone: ``name`` of the model of torchvision that turns images into features, or "none"; its
            ``weights`` and ``batch_size``.
        optimizer: ``name`` and arguments.
        schedule: ``name`` and arguments.
        l2: ``None`` where the strength is chosen: along a path, or else by a short search where that is possible.
        l1: A number; "path" or a list of strengths where it is chosen.
        trainer: Further arguments of Lightning's Trainer.
    """

    dataset: Mapping[str, Any]
    backbone: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    loss: str = field(
        metadata=_declare(
            "auto",
            one_of(("auto", "bce", "cross_entropy")),
            "auto, bce or cross_entropy; auto is bce for two classes, cross_entropy for more; bce with more classes is "
            "one-vs-rest",
        )
    )
    link: str = field(
        metadata=_declare(
            "logit",
            one_of(LINKS),
            f"of two classes: {', '.join(LINKS[:-1])} or {LINKS[-1]}",
        )
    )
    reduction: str = field(
        metadata=_declare("${dataset.recipe.reduction}", one_of(("mean", "sum")), "mean or sum of the loss over rows")
    )
    l2: float | None = field(
        metadata=_declare(
            "${dataset.recipe.l2}",
            strength("auto", "path"),
            "adds l2/2 * |coef|^2, never the intercept; scikit-learn's C is 1/(rows * l2); path or a list: see "
            "l2_path; auto: chosen from few strengths by cross-validation or on val, C=1 with neither, 0 with sgd, "
            "adam or l1",
        )
    )
    l2_path: str | list[float] | None = field(
        metadata=_declare(
            None,
            strengths(),
            "default, or a list such as [1e-2,1e-3]: fits each strength of l2, and takes the best by cross-validation "
            "(cv) or on val; l2=path is l2_path=default",
        )
    )
    l1: float | str | list[float] = field(
        metadata=_declare(
            0.0,
            strength("path"),
            "adds l1 * |coef|_1; path or a list: fits each strength and takes the best, as l2_path; path begins where "
            "all coefficients are 0",
        )
    )
    l1_ratio: float | None = field(
        metadata=_declare(
            None,
            optional(number(above=0, at_most=1)),
            "with l1=path or a list: the elastic net, in which l1 is this part of l1 + l2; null: l2 stays as it is",
        )
    )
    cv: int | None = field(
        metadata=_declare(
            None,
            optional(whole(at_least=2)),
            "folds of a cross-validation over the train rows, which chooses the strength of a path, or else scores the "
            "recipe; stratified, of whole groups with dataset.split.group; val joins train unless dataset.split.val is "
            "typed; null: 5 for a path over fewer than 2,000 train rows",
        )
    )
    cv_repeats: int = field(
        metadata=_declare(1, whole(at_least=1), "repeats the cross-validation with other folds, and takes the mean")
    )
    cv_rule: str = field(
        metadata=_declare(
            "best",
            one_of(("best", "one_se")),
            "the strength that a cross-validated path takes: best, or one_se for the strongest within one standard "
            "error of the best",
        )
    )
    intercept: bool = field(
        metadata=_declare(
            True,
            flag(),
            "false: none, so the log-odds are 0 where all features, as the model reads them, are 0",
        )
    )
    init: str = field(
        metadata=_declare(
            "zeros", one_of(("zeros", "linear")), "where the parameters start: zeros, or linear, as nn.Linear starts"
        )
    )
    lr: float | None = field(
        metadata=_declare(
            "${dataset.recipe.lr.${optimizer.name}}",
            optional(number(above=0)),
            "step size in the first epoch, > 0; lr, batch_size or schedule implies optimizer=sgd, if none is typed",
        )
    )
    batch_size: int | str = field(
        metadata=_declare(
            "${dataset.recipe.batch_size}", whole(at_least=1, or_word="full"), "rows per optimizer step, or full"
        )
    )
    max_epochs: int = field(
        metadata=_declare(
            "${dataset.recipe.max_epochs}",
            whole(at_least=1),
            "passes over the train rows; the most that an exact optimizer takes, 1000 by default",
        )
    )
    tolerance: float = field(
        metadata=_declare(
            1e-6,
            number(above=0, below=1),
            "gap to the optimum, relative to the objective, at which an exact optimizer ends, and which counts as "
            "optimal",
        )
    )
    polish: bool = field(
        metadata=_declare(False, flag(), "true: an exact optimizer continues from where sgd or adam ended")
    )
    select: str = field(
        metadata=_declare(
            "log_loss",
            one_of(SELECT),
            "log_loss, accuracy or auroc, cross-validated or on val: chooses the strength on a path, ranks the jobs of "
            "a sweep, is what a search improves (best.ckpt is the epoch of the lowest loss/val, whatever select is)",
        )
    )
    calibrate: str = field(
        metadata=_declare(
            "none",
            one_of(("none", "temperature")),
            "temperature: class weights are taken out of the probabilities, then a temperature is fitted on val",
        )
    )
    accelerator: str = field(
        metadata=_declare(
            "auto",
            one_of(("auto", "cpu", "gpu", "mps")),
            "auto, cpu, gpu or mps; auto takes a GPU if there is one, gpu refuses to run where there is none",
        )
    )
    devices: int = field(
        metadata=_declare(
            1, whole(at_least=1), "processes on each machine that share the rows, each with a GPU of its own or a CPU"
        )
    )
    num_nodes: int = field(metadata=_declare(1, whole(at_least=1), "machines, each of which runs this command"))
    precision: str = field(metadata=_declare(32, one_of(("32", "64")), "bits of the arithmetic, 32 or 64"))
    seed: int = field(
        metadata=_declare(
            0,
            whole(at_least=0, at_most=MAX_SEED),
            "fixes the split, the order of rows and the start",
        )
    )
    ckpt_path: str | None = field(
        metadata=_declare(
            None,
            optional(text()),
            "latest, best, last, a run folder or a .ckpt file to resume from",
        )
    )
    facts: str = field(
        metadata=_declare(
            "none",
            one_of(("none", "show", "only")),
            "show: a profile of the data, before training; only: the profile and nothing else",
        )
    )
    expected: Mapping[str, Any] = field(
        metadata=_declare(
            None,
            optional(mapping("values and a tolerance, such as {accuracy/test: 0.92, tolerance: 0.003}")),
            "result that an experiment is expected to reach: {accuracy/test: 0.92, tolerance: 0.003}",
        )
    )
    report: str = field(
        metadata=_declare(
            "full",
            one_of(("full", "brief")),
            "brief: without pictures and report.html, as the jobs of a sweep have it",
        )
    )
    verbose: bool = field(metadata=_declare(False, flag(), "true: shows the messages of Lightning"))
    trainer: Mapping[str, Any]

    @classmethod
    def from_mapping(cls, plain: Mapping[str, Any]) -> RunConfig:
        """Checks each setting.

        Args:
            plain: One value for each attribute, as a yaml file has them; ``l2`` also as a user may type it: auto, path
                or a list.

        Raises:
            ConfigError: A key is unknown or missing, or a value breaks its constraint.
        """
        known = [one.name for one in dataclasses.fields(cls)]
        for key in plain:
            if key not in known:
                raise unknown_key(key, known)
        plain = {**ADDED_LATER, **plain}
        for key in known:
            if key not in plain:
                raise ConfigError.broken(key, "be given", None)
        for key, setting in SETTINGS.items():
            check(key, plain[key], setting.constraint)
        path_key = "l2" if plain["l2_path"] is None else "l2_path"
        plain = {**plain, **_separate_path(plain), "expected": plain["expected"] or {}}
        for section, choices in SECTIONS.items():
            _check_section(section, plain[section], choices)
        _check_steps(plain, path_key)
        _check_path(plain, path_key)
        _check_dataset(plain["dataset"])
        _check_backbone(plain["backbone"])
        _check_expected(plain["expected"])
        _check_trainer(plain["trainer"])
        if plain["link"] != "logit" and plain["loss"] == "cross_entropy":
            raise ConfigError.broken(
                "link", "be logit with loss=cross_entropy", plain["link"], "Leave loss out, or set link=logit."
            )
        return cls(**{**plain, "precision": str(plain["precision"])})

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `from_mapping` takes them back.  ``l2`` is "auto" where the strength is chosen."""
        return {**dataclasses.asdict(self), "l2": "auto" if self.l2 is None else self.l2}

    @property
    def takes_split(self) -> bool:
        """Whether the dataset has ``dataset.split``; toy has too few rows for it."""
        return "split" in self.dataset

    @property
    def has_path(self) -> bool:
        """Whether strengths of a penalty are fitted along a path, and one of them is chosen."""
        return self.l2_path is not None or is_path(self.l1)

    @property
    def fixed_l1(self) -> float:
        """The strength of l1 where it is one number; 0 where a path goes along it."""
        return float(self.l1) if isinstance(self.l1, int | float) else 0.0

    @property
    def typed_l2(self) -> float | str | list[float]:
        """``l2`` and ``l2_path`` as the one value that a user may type for ``l2``."""
        if self.l2_path is not None:
            return "path" if self.l2_path == "default" else self.l2_path
        return "auto" if self.l2 is None else self.l2


SETTINGS: dict[str, Setting] = {
    one.name: one.metadata["setting"] for one in dataclasses.fields(RunConfig) if "setting" in one.metadata
}
"""The settings, in the order of ``--help``; the other fields of `RunConfig` are sections of several keys."""

ADDED_LATER = {
    "select": "log_loss",
    "l2_path": None,
    "l1_ratio": None,
    "cv": None,
    "cv_repeats": 1,
    "cv_rule": "best",
    "link": "logit",
    "num_nodes": 1,
}
"""Settings that the configs in older checkpoints lack, with the values that these runs had."""


def _separate_path(plain: Mapping[str, Any]) -> dict[str, Any]:
    """``l2`` and ``l2_path`` as `RunConfig` has them, of what was typed for them: ``l2=path`` is short for a path.

    A path takes the place of the strength that the dataset's recipe or an experiment has.
    """
    l2, path = plain["l2"], plain["l2_path"]
    if path is None and (l2 == "path" or isinstance(l2, list | tuple)):
        path = "default" if l2 == "path" else list(l2)
    return {"l2": l2 if path is None and l2 != "auto" else None, "l2_path": path}


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


def _check_steps(plain: Mapping[str, Any], path_key: str) -> None:
    """Checks that lr, batch_size, schedule and polish go with a first-order optimizer, and a path with an exact one.

    Args:
        plain: The settings, ``l2`` and ``l2_path`` as `RunConfig` has them.
        path_key: The key that has the path, if there is one: ``l2`` or ``l2_path``.

    Raises:
        ConfigError: Names the key that does not go with the optimizer.
    """
    name = plain["optimizer"]["name"]
    if name not in EXACT:
        for key, has_path in ((path_key, plain["l2_path"] is not None), ("l1", is_path(plain["l1"]))):
            if has_path:
                kind = "null" if key == "l2_path" else "one number"
                raise ConfigError(
                    f"`{key}` must be {kind} with a first-order optimizer. Set optimizer=auto for a path."
                )
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


def is_path(value: Any) -> bool:
    """Whether the value of ``l2`` or ``l1`` is a path: the word, or a list of strengths."""
    return value == "path" or isinstance(value, list | tuple)


def _check_path(plain: Mapping[str, Any], path_key: str) -> None:
    """Checks that settings of a path and of a cross-validation have what they belong to.

    Args:
        plain: The settings, ``l2`` and ``l2_path`` as `RunConfig` has them.
        path_key: The key that has the path of l2, if there is one: ``l2`` or ``l2_path``.

    Raises:
        ConfigError: Names the key that stands alone.
    """
    along_l1, along_l2 = is_path(plain["l1"]), plain["l2_path"] is not None
    if along_l1 and along_l2:
        raise ConfigError(
            f"`l1` must be one number beside a path of l2. Leave {path_key} out, and type l1_ratio=0.5 for a path over "
            "both (elastic net)."
        )
    if plain["l1_ratio"] is not None and not along_l1:
        raise ConfigError("`l1_ratio` must go with a path over l1. Type l1=path.")
    if plain["cv_repeats"] > 1 and plain["cv"] is None:
        raise ConfigError("`cv_repeats` must go with cv. Type cv=5.")
    if plain["cv_rule"] != "best" and not along_l1 and plain["l2"] is not None:
        raise ConfigError("`cv_rule` must go with a path, from which it takes a strength. Type l2=path.")


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


def _check_dataset(plain: Mapping[str, Any]) -> None:
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


def _check_backbone(plain: Any) -> None:
    check("backbone", plain, mapping("none or a model of torchvision, such as backbone=resnet18"))
    for key, value in plain.items():
        if key not in BACKBONE_SETTINGS:
            raise unknown_key(f"backbone.{key}", [f"backbone.{known}" for known in BACKBONE_SETTINGS])
        check(f"backbone.{key}", value, BACKBONE_SETTINGS[key])


def _check_expected(plain: Mapping[str, Any]) -> None:
    for metric, value in plain.items():
        check(f"expected.{metric}", value, number())
        if metric != "tolerance" and metric.count("/") != 1:
            raise ConfigError(f"`expected.{metric}` must be written <metric>/<split>, such as accuracy/test.")
    if plain and "tolerance" not in plain:
        raise ConfigError.broken("expected", "have a tolerance", dict(plain))


def _check_trainer(plain: Any) -> None:
    check("trainer", plain, mapping("arguments of Lightning's Trainer, such as trainer.max_time=00:00:10:00"))
    for key, advice in REFUSED_TRAINER_ARGUMENTS.items():
        if key in plain:
            raise ConfigError(f"`trainer.{key}` must not be set. {advice}")
    if plain.get("limit_train_batches") == 0:
        raise ConfigError.broken("trainer.limit_train_batches", "leave something to train on", 0)


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
