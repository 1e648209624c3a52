"""Turns exceptions of Hydra and OmegaConf into the messages that users read.

Hydra gives keys and values only inside English sentences, so this module takes those of version 1.3 apart;
tests/commands/test_command_line_errors.py holds each of them.
"""

from __future__ import annotations

from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from logreg.commands.config_files import CONF, all_keys, keys_in, loaded, with_bases
from logreg.commands.overrides import RESOLVER_ERROR, explain_reference_error
from logreg.errors import ConfigError, name_list
from logreg.sections import unknown_key

MERGE_ERROR = "Error merging override "
"""The start of Hydra's message about a value that does not fit its key."""


def explain_hydra_error(error: Exception) -> str:
    """The message for a mistake that Hydra or OmegaConf found in a command line: one line with advice."""
    if isinstance(error, OmegaConfBaseException) and RESOLVER_ERROR in str(error):
        return explain_reference_error(error)
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return str(ConfigError.not_a_choice(group, sorted(error.options), name))
    if isinstance(error, OverrideParseException):  # of an option's value, such as a word without =
        return f"`{error.override}` must be written as key=value, brackets and quotes in pairs."
    message = str(error) or str(error.__cause__)
    words = message.replace("\n", " ").split("'")
    if message.startswith(MERGE_ERROR):
        key, _, value = message.removeprefix(MERGE_ERROR).partition("=")
        if inner := [known for known in all_keys() if known.rpartition(".")[0] == key]:
            return f"`{key}` must be set by its keys, got {value}. They are {name_list(inner)}."
        return f"`{key}` must be what Hydra has under that name, got {value}. `--cfg hydra` shows it."
    if message.startswith("Could not append to config"):
        return f"`+{words[1]}` must be typed without +, since {words[1]} has a value."
    if message.startswith("Could not override") or "is not in struct" in message:
        return _explain_unknown_key(words[1])
    if "requires --multirun" in message or message.startswith("Ambiguous value for argument"):
        key, _, value = words[1].partition("=")
        return f"`{key}` must be one value, got {value!r}. Add -m to run once for each of them."
    return " ".join(message.split())


def _explain_unknown_key(key: str) -> str:
    """The message for a key that the composed config lacks: another option of its group may have it."""
    known = all_keys()
    if key not in known or "." not in key:
        return str(unknown_key(key, known))
    group, _, inner = key.partition(".")
    options = [file.stem for file in sorted((CONF / group).glob("*.yaml")) if _has_key(file, inner)]
    choices = " or ".join(filter(None, (", ".join(options[:-1]), options[-1])))
    advice = f"Set {group}={options[0]}" if len(options) == 1 else "Set one of these"
    return f"`{key}` must go with {group}={choices}. {advice}, or leave it out."


def _has_key(file: Path, key: str) -> bool:
    """Whether a config, or one whose keys it takes over, has a key."""
    return any(key in keys_in(OmegaConf.to_container(loaded(one))) for one in with_bases(file))
