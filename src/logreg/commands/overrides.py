"""Hydra's overrides: parsed, checked, completed, and put into the config of a run."""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load  # type: ignore[import-untyped]

from logreg.config import SECTIONS, RunConfig, unknown_key
from logreg.errors import ConfigError, LogregError, escaped, shell_line
from logreg.files import folder_name, shown
from logreg.run_folder import run_folder_of
from logreg.terminal import on_one_line

_PACKAGE = Path(__file__).parents[1]

CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The configs: in the package where it is installed from a wheel, else at the top of the project."""

STOCHASTIC = {"lr", "batch_size", "schedule", *(f"optimizer.{key}" for key in SECTIONS["optimizer"]["sgd"])}
"""Settings that nobody turns but for stochastic gradient descent."""

# `trainer` takes any key, where other keys must be known: it is Lightning's to say what it knows.
ConfigStore.instance().store(group="trainer", name="arguments", node=DictConfig({}, flags={"struct": False}))

LONGEST_FILE = 2**16
"""Bytes of .hydra/overrides.yaml: what somebody typed on a line."""


def _no_environment(name: object, *_: object) -> str:
    """Refuses ``${oc.env:NAME}``.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(
        f"the variable {name} of the environment may hold a secret, and settings are kept in summary.json and in "
        "checkpoints. Type the value itself; the shell fills in $NAME"
    )


UNNAMED = {
    *("ckpt_path", "dataset", "dataset.name", "dataset.path", "dataset.train_path", "dataset.val_path"),
    *(
        "dataset.test_path",
        "dataset.root",
        "dataset.cache",
        "dataset.download",
        "expected",
        "facts",
        "report",
        "verbose",
    ),
}
"""Keys that do not name a run folder: the folder above says which data it is, or they say nothing of the model."""

LONGEST_VALUE = 32
"""Characters of a value in the name of a run folder; a longer one is left out."""


def data_name(dataset: Mapping[str, Any]) -> str:
    """The folder for all runs of the same data: the name of the file, without its suffix, or of the dataset."""
    name = str(dataset["name"])
    paths = (dataset.get(key) for key in ("path", "train_path"))
    path = next((path for path in paths if path), None)
    if path is None:
        return name
    first = str(path[0] if isinstance(path, Sequence) and not isinstance(path, str) else path)
    file = Path(os.path.abspath(urlsplit(first).path if "://" in first else first)).name  # noqa: PTH100  # "." and ".."
    stem = (file if name == "image_folder" else Path(file.removesuffix(".gz")).stem).lstrip(".")
    return f"{name}_{stem}" if stem in ("latest", "sweeps") else stem or name


def typed_name(lines: Sequence[str]) -> str:
    """What was typed, for the name of a run folder.

    Example:
        >>> typed_name(["dataset=table", "dataset.path=data/titanic.csv", "dataset.drop=[alive]", "l2=0.1"])
        'drop-alive_l2-0.1'
    """
    values = {one.key_or_group: one for one in parse(lines) if not one.is_delete()}
    if implied_overrides(set(values) - {"optimizer"}) == [
        f"optimizer={values['optimizer'].value()}" if "optimizer" in values else ""
    ]:
        del values["optimizer"]
    if "backbone.name" in values:
        values.pop("backbone", None)
    named = {key.removesuffix(".name"): _value_in_name(one) for key, one in values.items() if key not in UNNAMED}
    named = {key: value for key, value in named.items() if value and len(value) <= LONGEST_VALUE}
    short = {key: key.rpartition(".")[2] for key in named}
    taken = [*short.values(), *(RunConfig.__dataclass_fields__.keys() - named.keys())]
    return "_".join(f"{short[key] if taken.count(short[key]) == 1 else key}-{value}" for key, value in named.items())


def _value_in_name(override: Override) -> str:
    """A value as it was typed, without brackets and quotes; the last part of a path, nothing of what may be secret."""
    text = (override.input_line or "").partition("=")[2]
    if "://" in text or "${" in text:
        return ""
    parts = re.split(r"[^\w./\\+-]+", text)
    return "-".join(PurePath(part.replace("\\", "/")).name for part in parts if part)


# These are for conf/config.yaml; the first also for what is typed.
OmegaConf.register_new_resolver("oc.env", _no_environment, replace=True)

OmegaConf.register_new_resolver(
    "folder_name", lambda *parts: folder_name("_".join(str(part) for part in parts if part != "")), replace=True
)

OmegaConf.register_new_resolver("data_name", data_name, replace=True)

OmegaConf.register_new_resolver("typed_name", lambda overrides: typed_name(lines_of(overrides)), replace=True)


def with_overrides(config: RunConfig, overrides: Sequence[Override]) -> RunConfig:
    """The config of a run with some keys set anew.

    Raises:
        ConfigError: A key is a group, or unknown, or a value breaks its constraint.
    """
    plain: dict[str, Any] = copy.deepcopy(config.as_dict())
    for override in overrides:
        key = str(override.key_or_group)
        if override.is_delete():
            raise ConfigError(f"`{override.input_line}` must be written as key=value: nothing is taken out here.")
        *above, last = key.split(".")
        if not above and isinstance(plain.get(last), dict):
            raise ConfigError(f"`{key}` must be that of the checkpoint. Set what is in it: {key}.<key>=VALUE.")
        place: Any = plain
        for part in above:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or (above[:1] != ["dataset"] and last not in place):
            raise unknown_key(key, all_keys())
        place[last] = override.value()
    return RunConfig.from_mapping(plain)


def resolved(composed: DictConfig) -> dict[str, object]:
    """The config as plain values, with what refers to other keys filled in."""
    for section, choices in SECTIONS.items():  # first, since the learning rate is looked up by such a name
        name = OmegaConf.select(composed, f"{section}.name")
        if name not in choices:
            raise ConfigError.not_a_choice(section, choices, name)
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_without_value(error)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


OURS = "ConfigError raised while resolving interpolation: "
"""How OmegaConf begins to say what one of our resolvers refused."""


def _without_value(error: OmegaConfBaseException) -> str:
    """What is wrong with a key that refers to something else."""
    reason = str(error.msg or error).splitlines()[0]
    if reason.startswith(OURS):
        return f"`{error.full_key or 'key=value'}` must be a plain value, since {reason.removeprefix(OURS)}."
    return f"`{error.full_key}` must have a value, and it refers to none: {reason}."


def check_groups(overrides: Sequence[Override]) -> None:
    """A group takes the name of a file in conf/<group>/ and nothing else; in a sweep several."""
    for override in overrides:
        group = override.key_or_group
        if group == "dataset.name":  # names the run folder, too
            choices = sorted(file.stem for file in (CONF / "dataset").glob("*.yaml"))
            for value in _values(override):
                if value not in choices:
                    raise ConfigError.not_a_choice("dataset", choices, value)
        if group == "trainer":
            raise ConfigError("`trainer` must be set by its arguments, such as trainer.max_time=00:00:10:00.")
        if not group:
            raise ConfigError(f"`{override.input_line}` must be written as key=value, without spaces.")
        if "/" in group or group == "hydra" or not (CONF / group).is_dir():
            continue
        choices = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        if override.is_delete():
            raise ConfigError.not_a_choice(group, choices, None)
        if override.is_add() or override.is_force_add():
            line = str(override.input_line)
            raise ConfigError(f"`{line}` must be typed without +, since {group} has a value: {line.lstrip('+')}.")
        for value in _values(override):
            if str(value) not in choices:
                advice = file_as_dataset(str(value)) if group == "dataset" else ""
                raise ConfigError.not_a_choice(group, choices, value, advice)


DATA_SUFFIXES = (
    *(".csv", ".tsv", ".txt", ".gz", ".bz2", ".parquet", ".pq", ".arrow", ".feather"),
    *(".npz", ".npy", ".safetensors"),
)
"""Of files that somebody may have data in, also where there is none of that name."""


def file_as_dataset(name: str) -> str:
    """How a file or a folder is named that was typed as ``dataset=FILE``; nothing for another word."""
    path = Path(name)
    if path.suffix.lower() not in DATA_SUFFIXES and not path.exists():
        return ""
    if path.is_dir():
        settings = ["dataset=image_folder", f"dataset.path={name}"]
    elif path.suffix.lower() in (".npz", ".npy", ".safetensors"):
        settings = ["dataset=features", f"dataset.path={name}"]
    else:
        settings = ["dataset=table", f"dataset.path={name}", "dataset.target=COLUMN"]
    return f"For data of your own set {shell_line(settings)}."


def _values(override: Override) -> list[Any]:
    """What it sets, one after the other in a sweep."""
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


def implied_overrides(typed: Collection[str]) -> list[str]:
    """Overrides that follow from others: a setting of gradient descent selects ``optimizer=sgd``."""
    if {"optimizer", "experiment"} & set(typed):
        return []
    meant = any(key in STOCHASTIC or key.startswith("schedule.") for key in typed)
    return ["optimizer=sgd"] if meant else []


def is_override(argument: str) -> bool:
    """Whether it sets something, unlike an option."""
    return "=" in argument or argument.startswith("~")


def with_backbone(settings: Sequence[str]) -> list[str]:
    """A model of torchvision is named like an option of its group, though no file for each stands in conf/."""
    spelled = []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "backbone" and value not in ("none", "torchvision"):
            spelled += ["backbone=torchvision", f"backbone.name={value}"]
        else:
            spelled.append(setting)
    return spelled


def parse(arguments: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them; what its grammar has no words for (é, spaces) is text, also within a list."""
    parser = OverridesParser.create()
    parsed = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        listed = value[1:-1] if value[:1] == "[" and value[-1:] == "]" else ""
        as_text = []
        in_pairs = all(value.count(left) == value.count(right) for left, right in ("[]", "{}"))
        if value[:1] not in ("[", "{") and in_pairs and "${" not in value and not set(value) & set("'\""):
            as_text = [f"{key}={quoted(value)}"]
        elif listed and not set(listed) & set("[]{}$'\""):
            as_text = [f"{key}=[{','.join(quoted(part.strip()) for part in listed.split(','))}]"]
        for line in (argument, *as_text):
            with suppress(HydraException):
                parsed.append(parser.parse_override(line))
                break
        else:
            raise ConfigError(f"`{argument}` must be written as key=value, brackets and quotes in pairs.")
    return parsed


def quoted(text: str) -> str:
    """Text that Hydra takes as it is."""
    return "'" + escaped(text, "'") + "'"


def resumed_overrides(checkpoint: Path, typed: set[str]) -> list[str]:
    """What a resumed run was started with, less what is typed anew: a checkpoint path is enough."""
    folder = run_folder_of(checkpoint)
    if folder is None:
        return []
    groups = {key for key in typed if "." not in key}
    kept = []
    for override in parse(overrides_in(folder)):
        group = override.key_or_group.split(".")[0]
        # The folder may be a stranger's: hydra.* calls functions and writes files.
        if group not in RunConfig.__dataclass_fields__ or override.package is not None:
            line = f"left out of the settings of {shown(folder)}: {override.input_line}"
            print(on_one_line(line), file=sys.stderr)
        elif override.key_or_group not in typed and group not in groups:
            # another optimizer does not take the arguments of the one before
            kept.append(override)
    check_groups(kept)
    return [override.input_line or "" for override in kept]


def overrides_in(folder: Path) -> list[str]:
    """What the run in a folder was started with, as Hydra keeps it.

    Raises:
        ConfigError: The file is missing, or holds something else.
    """
    file = folder / ".hydra" / "overrides.yaml"
    try:
        if not file.is_file() or file.stat().st_size > LONGEST_FILE:
            raise ValueError
        # not OmegaConf.load, which writes out what an alias of YAML repeats
        lines = safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise TypeError
    except (OSError, ValueError, TypeError, YAMLError, RecursionError) as error:
        raise ConfigError(
            f"`ckpt_path` must be of a run, whose settings {shown(file)} lists, and that is no list of settings. "
            "Copy the .ckpt file out of the run folder, and type the settings."
        ) from error
    return lines


MERGING = "Error merging override "
"""How Hydra begins to say that a value does not fit its key."""


def explain_hydra_error(error: Exception) -> str:
    """What Hydra found wrong with the command line, in one line that says what to do."""
    if isinstance(error, OmegaConfBaseException) and OURS in str(error):
        return _without_value(error)
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return str(ConfigError.not_a_choice(group, sorted(error.options), name))
    if isinstance(error, OverrideParseException):  # of an option's value, such as a word without =
        return f"`{error.override}` must be written as key=value, brackets and quotes in pairs."
    message = str(error) or str(error.__cause__)
    words = message.replace("\n", " ").split("'")
    if message.startswith(MERGING):
        key, _, value = message.removeprefix(MERGING).partition("=")
        return f"`{key}` must be what Hydra has under that name, got {value}. `--cfg hydra` shows it."
    if message.startswith("Could not override") or "is not in struct" in message:
        key, known = words[1], all_keys()
        if key in known and "." in key:
            group, _, inner = key.partition(".")
            takers = [
                file.stem
                for file in sorted((CONF / group).glob("*.yaml"))
                if inner in _flat(OmegaConf.to_container(OmegaConf.load(file)), "")
            ]
            if not takers:  # what stands in a file that several of them share
                return f"`{key}` must go with another {group} than the one chosen. Leave it out."
            choices = " or ".join(filter(None, (", ".join(takers[:-1]), takers[-1])))
            advice = f"Set {group}={takers[0]}" if len(takers) == 1 else "Set one of these"
            return f"`{key}` must go with {group}={choices}. {advice}, or leave it out."
        return str(unknown_key(key, known))
    if "requires --multirun" in message or message.startswith("Ambiguous value for argument"):
        key, _, value = words[1].partition("=")
        return f"`{key}` must be one value, got {value!r}. Add -m to run once for each of them."
    return " ".join(message.split())


@contextmanager
def reading_summary(file: Path) -> Iterator[None]:
    """For what takes a summary.json apart, which may have come from anywhere.

    Raises:
        ConfigError: It lacks something, or holds something else.
    """
    try:
        yield
    except LogregError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"`{shown(file)}` must be the summary of a run, and cannot be read as that. Remove it, or train anew."
        ) from error


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of the run in a folder.

    Raises:
        ConfigError: It cannot be read as that.
    """
    file = folder / "summary.json"
    with reading_summary(file):
        plain = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(plain, dict):
            raise TypeError
    return plain


def all_keys() -> list[str]:
    """Every key that some config has, with dots."""
    keys: list[str] = []
    for file in sorted(CONF.rglob("*.yaml")):
        group = tuple(part for part in file.parent.relative_to(CONF).parts if part != "base")
        if "@package _global_" in file.read_text(encoding="utf-8"):
            group = ()
        if group[:1] not in (("experiment",), ("hydra",)):
            keys += _flat(OmegaConf.to_container(OmegaConf.load(file)), ".".join(group))
    return sorted(set(keys) - {"defaults", "hydra"})


def _flat(tree: object, prefix: str) -> list[str]:
    keys = [prefix] if prefix else []
    if isinstance(tree, dict):
        for key, value in tree.items():
            keys += _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return keys


def lines_of(overrides: object) -> list[str]:
    """Overrides as they were typed: what is written ${key} stays so."""
    lines = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(lines, list)
    return [str(line) for line in lines]
