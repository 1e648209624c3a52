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
    mapping,
    number,
    one_of,
    optional,
    strength,
    strengths,
    text,
    whole,
)
from logreg.errors import ConfigError
from logreg.sections import SECTIONS, check_backbone, check_dataset, check_section, check_trainer, unknown_key
from logreg.settings import Setting

SELECT = {"log_loss": ("loss", -1), "accuracy": ("accuracy", 1), "auroc": ("auroc", 1)}
"""Scores that may choose among models: the name in the scores of a split, and 1 if larger is better, else -1."""

MAX_SEED = 2**32 - 1
"""Largest seed: numpy takes no larger one."""

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


def _declare(default: Any, constraint: Constraint, help_text: str) -> dict[str, Setting]:
    """The metadata of a field of `RunConfig` that is one setting and not a section."""
    return {"setting": Setting(default, constraint, help_text)}


@dataclass(frozen=True)
class RunConfig:
    """One run: every setting with its type, default, constraint and help text.

    The default is the one that conf/config.yaml has; a run has all settings, so none is a default in Python.

    Attributes:
        dataset: ``name`` of the dataset; ``split``; `logreg.sections.DATASET_SETTINGS`; its own arguments.
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
    config_dir: str | None = field(
        metadata=_declare(
            None,
            optional(text()),
            "a folder of your own configs beside those of logreg: dataset/NAME.yaml, experiment/NAME.yaml",
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
        for section in SECTIONS:
            check_section(section, plain[section])
        _check_steps(plain, path_key)
        _check_path(plain, path_key)
        check_dataset(plain["dataset"])
        check_backbone(plain["backbone"])
        _check_expected(plain["expected"])
        check_trainer(plain["trainer"])
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
    "config_dir": None,
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


def _check_expected(plain: Mapping[str, Any]) -> None:
    for metric, value in plain.items():
        check(f"expected.{metric}", value, number())
        if metric != "tolerance" and metric.count("/") != 1:
            raise ConfigError(f"`expected.{metric}` must be written <metric>/<split>, such as accuracy/test.")
    if plain and "tolerance" not in plain:
        raise ConfigError.broken("expected", "have a tolerance", dict(plain))
