"""Hydra's overrides, such as ``lr=0.1``: parses them, checks them, adds those that others imply, and applies them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load  # type: ignore[import-untyped]  # yaml has no type information

from logreg.commands.config_files import (
    CONF,
    all_keys,
    config_file,
    defaults_of,
    is_group,
    loaded,
    options_of,
    own_folder,
    search_path,
    with_bases,
)
from logreg.config import PROCESS_KEYS, RunConfig
from logreg.errors import ConfigError, escaped, shell_line
from logreg.files import is_there, shown, write_text
from logreg.run_folder import run_folder_of
from logreg.sections import SECTIONS, unknown_key
from logreg.terminal import on_one_line

SGD_KEYS = {"lr", "batch_size", "schedule", *(f"optimizer.{key}" for key in SECTIONS["optimizer"]["sgd"])}
"""Keys that only a first-order optimizer has: one of them typed alone implies ``optimizer=sgd``."""


KEYS_OF_RUN = {*RunConfig.__dataclass_fields__, "experiment"}
"""What the settings of a run begin with: the keys of its config, and the group that sets some of them."""

OVERRIDES = ".hydra/overrides.yaml"
"""The file of a run folder in which Hydra keeps what the run was started with."""

MAX_OVERRIDES_BYTES = 2**16
"""Largest size of that file, which holds one command line; a larger file is no such file."""


# From text to overrides


def is_override(argument: str) -> bool:
    """Whether an argument sets or deletes a key, unlike an option."""
    return "=" in argument or argument.startswith("~")


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them; values outside its grammar (é, spaces) are text, also within a list or mapping.

    Raises:
        ConfigError: Brackets or quotes of an argument are not in pairs.
    """
    return [_parse_override(argument) for argument in arguments]


@lru_cache(maxsize=1024)  # a command reads each of its settings, fewer than these, five times
def _parse_override(argument: str) -> Override:
    key, _, value = argument.partition("=")
    brackets, inside = value[:1] + value[-1:], value[1:-1]
    parts = [] if not inside or set(inside) & set("[]{}$'\"") else inside.split(",")
    as_text = []
    in_pairs = all(value.count(left) == value.count(right) for left, right in ("[]", "{}"))
    if value[:1] not in ("[", "{") and in_pairs and "${" not in value and not set(value) & set("'\""):
        as_text = [f"{key}={quoted(value)}"]
    elif parts and brackets == "[]":
        as_text = [f"{key}=[{','.join(quoted(part.strip()) for part in parts)}]"]
    elif parts and brackets == "{}":
        pairs = [part.partition(":") for part in parts]
        as_text = [f"{key}={{{','.join(f'{name}:{quoted(text.strip())}' for name, _, text in pairs)}}}"]
    for line in (argument, *as_text):
        with suppress(HydraException):
            return OverridesParser.create().parse_override(line)
    has_quotes = value[:1] not in ("[", "{", "'", '"') and not {"'", '"'}.isdisjoint(value)
    in_quotes = f'{key}="{escaped(value, chr(34))}"'.replace("'", "'\\''")
    advice = f" Text that has quotes stands in quotes: '{in_quotes}'." if has_quotes else ""
    raise ConfigError(f"`{argument}` must be written as key=value, brackets and quotes in pairs.{advice}")


def quoted(text: str) -> str:
    """Text in the quotes in which Hydra reads it unchanged."""
    return "'" + escaped(text, "'") + "'"


def override_lines(overrides: object) -> list[str]:
    """Hydra's list of overrides as typed: ``${key}`` is not filled in."""
    lines = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(lines, list)
    return [str(line) for line in lines]


def expand_backbone(settings: Sequence[str]) -> list[str]:
    """Replaces ``backbone=resnet18``, for which there is no file in conf/, by the keys that it is short for."""
    expanded = []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "backbone" and value not in ("none", "torchvision"):
            expanded += ["backbone=torchvision", f"backbone.name={value}"]
        else:
            expanded.append(setting)
    return expanded


# Checks


def check_groups(overrides: Sequence[Override], own: Path | None = None) -> None:
    """Checks that each group is set to the name of a file in conf/<group>/; in a sweep to several.

    Args:
        overrides: What was typed.
        own: A folder with further files; that of ``config_dir`` when ``None``.

    Raises:
        ConfigError: It is set to something else, or written in another form.
    """
    own = own or own_folder(overrides)
    for override in overrides:
        group = override.key_or_group
        if group == "dataset.name":  # it names the run folder, too
            choices = options_of("dataset")
            for value in _values(override):
                if value not in choices:
                    raise ConfigError.not_a_choice("dataset", choices, value)
        if group == "trainer":
            raise ConfigError("`trainer` must be set by its arguments, such as trainer.max_time=00:00:10:00.")
        if not group:
            raise ConfigError(f"`{override.input_line}` must be written as key=value, without spaces.")
        if override.is_delete():
            raise _no_deletion(override)
        if not is_group(group):
            continue
        choices = options_of(group, own)
        if override.is_add() or override.is_force_add():
            line = str(override.input_line)
            raise ConfigError(f"`{line}` must be typed without +, since {group} has a value: {line.lstrip('+')}.")
        for value in _values(override):
            if str(value) not in choices:
                advice = file_as_dataset(str(value)) if group == "dataset" else ""
                raise ConfigError.not_a_choice(group, choices, value, advice)


def _no_deletion(override: Override) -> ConfigError:
    """The mistake to delete a key, as ``~lr`` does."""
    line = f"`{override.input_line}` must be written as key=value: no key can be deleted."
    return ConfigError(f"{line} Leave it out, and the key keeps its value.")


def _values(override: Override) -> list[Any]:
    """The values that an override gives to its key: one, or in a sweep several."""
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


DATA_SUFFIXES = (
    *(".csv", ".tsv", ".txt", ".gz", ".bz2", ".parquet", ".pq", ".arrow", ".feather"),
    *(".npz", ".npy", ".safetensors"),
)
"""Suffixes by which a word is taken for a file with data, even where no such file exists."""


def file_as_dataset(name: str) -> str:
    """Advice for a user who typed ``dataset=FILE``; empty for a word that is no file or folder."""
    path = Path(name)
    if path.suffix.lower() not in DATA_SUFFIXES and not is_there(path):
        return ""
    if is_there(path) and path.is_dir():
        has_text = any(next(path.glob(f"{depth}/*.txt"), None) for depth in ("*", "*/*"))
        settings = [f"dataset={'text' if has_text else 'image_folder'}", f"dataset.path={name}"]
    elif path.suffix.lower() in (".npz", ".npy", ".safetensors"):
        settings = ["dataset=features", f"dataset.path={name}"]
    else:
        settings = ["dataset=table", f"dataset.path={name}", "dataset.target=COLUMN"]
    return f"For data of your own set {shell_line(settings)}."


# Overrides that follow from others


def implied_overrides(typed: Collection[str]) -> list[str]:
    """Overrides that follow from typed keys: a setting of a first-order optimizer implies ``optimizer=sgd``."""
    if {"optimizer", "experiment"} & set(typed):
        return []
    is_first_order = any(key in SGD_KEYS or key.startswith("schedule.") for key in typed)
    return ["optimizer=sgd"] if is_first_order else []


def rows_for_folds(overrides: Sequence[Override]) -> list[str]:
    """The override by which the rows of val join train for a cross-validation, unless ``dataset.split.val`` is typed.

    A split that the dataset itself has stays as it is.
    """
    given = {override.key_or_group: override for override in overrides}
    if "dataset.split.val" in given or "cv" not in given or _values(given["cv"]) == [None]:
        return []
    datasets = _values(given["dataset"]) if "dataset" in given else ["toy"]
    own = own_folder(overrides)
    held_out = [_holds_out_val(config_file("dataset", name, own)) for name in datasets]
    # A dataset without held-out rows has no such key.
    return [f"{'' if all(held_out) else '++'}dataset.split.val=0"] if any(held_out) else []


def without_expectation(overrides: Sequence[Override]) -> list[str]:
    """The override that drops the result that an experiment expects, which is one of its own dataset, from another."""
    given = {override.key_or_group: override for override in overrides}
    if not {"experiment", "dataset"} <= given.keys() or any(key.partition(".")[0] == "expected" for key in given):
        return []
    folder, names = own_folder(overrides), filter(None, _values(given["experiment"]))
    own = {_dataset_of(config_file("experiment", name, folder)) for name in names}
    return ["expected=null"] if own and own != {*_values(given["dataset"])} else []


def _dataset_of(experiment: Path) -> object:
    """The dataset that the config of an experiment chooses."""
    chosen = (one for one in defaults_of(experiment) if isinstance(one, dict))
    return next((one["override /dataset"] for one in chosen if "override /dataset" in one), None)


def _holds_out_val(file: Path) -> bool:
    """Whether the config of a dataset, or one that it builds on, holds out rows for val."""
    return any("split" in loaded(one) for one in with_bases(file))


def resumed_overrides(checkpoint: Path, typed: set[str], own: Path | None = None) -> list[str]:
    """The overrides that the run of a checkpoint was started with, less those whose keys are typed anew.

    Args:
        checkpoint: The file; one outside a run folder has no such overrides.
        typed: Keys that are typed anew.
        own: The folder that ``config_dir`` names, where it is among these.

    Raises:
        ConfigError: The run folder does not list its settings, or lists one that `check_groups` refuses, or the run had
            configs of the user's own, and their folder is not typed again.
    """
    folder = run_folder_of(checkpoint)
    if folder is None:
        return []
    if typed & {"l2", "l2_path"}:  # each takes the place of the other
        typed = typed | {"l2", "l2_path", "l1_ratio"}
    if "l1" in typed:
        typed = typed | {"l1_ratio"}
    typed = typed | {*PROCESS_KEYS}  # a run may go on in another number of processes
    groups = {key for key in typed if "." not in key}
    kept = []
    for override in parse_overrides(overrides_in(folder)):
        group = override.key_or_group.split(".")[0]
        # The folder may be of unknown origin, and hydra.* calls functions and writes files.
        if group == "config_dir":
            if group not in typed:
                added = shell_line([str(override.input_line)])
                raise ConfigError(f"`ckpt_path` must go with the configs of its run. Add {added} if you trust them.")
        elif group not in KEYS_OF_RUN or override.package is not None:
            line = f"left out of the settings of {shown(folder)}: {override.input_line}"
            print(on_one_line(line), file=sys.stderr)
        elif override.key_or_group not in typed and group not in groups:
            # arguments of the former optimizer go with it where another one is typed
            kept.append(override)
    check_groups(kept, own)
    return [override.input_line or "" for override in kept]


def overrides_in(folder: Path) -> list[str]:
    """The overrides that the run in a folder was started with, as Hydra keeps them.

    Raises:
        ConfigError: The file is missing, or holds something else.
    """
    file = folder / OVERRIDES
    try:
        if not file.is_file() or file.stat().st_size > MAX_OVERRIDES_BYTES:
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


def write_overrides(folder: Path, lines: Sequence[str]) -> None:
    """Keeps the overrides of a run that Hydra did not start, for `overrides_in`."""
    (folder / OVERRIDES).parent.mkdir(parents=True, exist_ok=True)
    write_text(folder / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create([*lines])))


# From overrides to a config


def composed_config(lines: Sequence[str]) -> RunConfig:
    """The config that conf/ and overrides make, without a run of Hydra.

    Raises:
        ConfigError: A key or a value is at fault.
        HydraException: Hydra found the mistake; `explain_hydra_error` has the message.
    """
    lines = [*lines, *search_path(parse_overrides(lines))]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return RunConfig.from_mapping(plain_config(compose("config", lines)))


def plain_config(composed: DictConfig) -> dict[str, object]:
    """A composed config as plain values, with references to other keys filled in.

    Raises:
        ConfigError: A key refers to none, or a section to no choice.
    """
    for section, choices in SECTIONS.items():  # first, since the learning rate is looked up by such a name
        name = OmegaConf.select(composed, f"{section}.name")
        if name not in choices:
            raise ConfigError.not_a_choice(section, choices, name)
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain_reference_error(error)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def apply_overrides(config: RunConfig, overrides: Sequence[Override]) -> RunConfig:
    """The config of a run with some keys set anew.

    Raises:
        ConfigError: A key is a group, or unknown, or a value breaks its constraint.
    """
    plain: dict[str, Any] = copy.deepcopy(config.as_dict())
    for override in overrides:
        key = str(override.key_or_group)
        if override.is_delete():
            raise _no_deletion(override)
        *above, last = key.split(".")
        if not above and isinstance(plain.get(last), dict):
            raise ConfigError(f"`{key}` must be that of the checkpoint. Set a key in it: {key}.<key>=VALUE.")
        place: Any = plain
        for part in above:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or (above[:1] != ["dataset"] and last not in place):
            raise unknown_key(key, all_keys())
        place[last] = override.value()
    return RunConfig.from_mapping(plain)


RESOLVER_ERROR = "ConfigError raised while resolving interpolation: "
"""The start of OmegaConf's message about an exception of one of our resolvers."""


def explain_reference_error(error: OmegaConfBaseException) -> str:
    """The message for a key that refers to another one, or to the environment."""
    reason = str(error.msg or error).splitlines()[0]
    if reason.startswith(RESOLVER_ERROR):
        return f"`{error.full_key or 'key=value'}` must be a plain value, since {reason.removeprefix(RESOLVER_ERROR)}."
    return f"`{error.full_key}` must have a value, and it refers to none: {reason}."
