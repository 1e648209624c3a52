"""The files of settings: those of conf/, and beside them those of a folder of the user's own, ``config_dir``.

Importing this module registers what files of settings refer to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]  # yaml has no type information

from logreg.errors import NOT_TEXT, ConfigError, escaped, shell_line
from logreg.files import shown
from logreg.terminal import on_one_line

_PACKAGE = Path(__file__).parents[1]

CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The configs: in the package where it is installed from a wheel, else at the top of the project."""

PACKAGE = "# @package _global_"
"""The line by which Hydra takes the keys of a file for those of a run, and not of its group."""

# `trainer` takes any key, unlike the rest of the config: Lightning checks its arguments.
ConfigStore.instance().store(group="trainer", name="arguments", node=DictConfig({}, flags={"struct": False}))


def _refuse_environment(name: object, *_: object) -> str:
    """Refuses ``${oc.env:NAME}``.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(
        f"the variable {name} of the environment may hold a secret, and settings are kept in summary.json and in "
        "checkpoints. Type the value itself; the shell fills in $NAME"
    )


OmegaConf.register_new_resolver("oc.env", _refuse_environment, replace=True)


def own_folder(overrides: Sequence[Override]) -> Path | None:
    """The folder that ``config_dir`` names; ``None`` without one.

    Raises:
        ConfigError: It is no folder, has no options, or one with the name of an option in conf/.
    """
    typed = next((one for one in reversed(overrides) if one.key_or_group == "config_dir"), None)
    if typed is None or (not typed.is_sweep_override() and typed.value() is None):
        return None
    if typed.is_sweep_override():
        raise ConfigError("`config_dir` must be one folder, for all jobs of a sweep.")
    value = typed.value()
    if not isinstance(value, str):
        in_quotes = shell_line([f'config_dir="{str(typed.input_line).partition("=")[2]}"'])
        raise ConfigError(f"`config_dir` must be text, got {value}. Put quotes around it: {in_quotes}.")
    folder = Path(value)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "missing"
        raise ConfigError(f"`config_dir` must be a folder, and {shown(folder)} is {what}.")
    groups = [path for path in sorted(folder.iterdir()) if is_group(path.name)]
    files = [file for group in groups for file in sorted(group.glob("*.yaml"))]
    if not files:
        raise ConfigError(
            f"`config_dir` must have files such as experiment/NAME.yaml or dataset/NAME.yaml, and {shown(folder)} has "
            "none."
        )
    for file in files:
        _check_own(file)
    return folder


def _check_own(file: Path) -> None:
    """Checks the form of a file in ``config_dir``, whose keys are checked where it is chosen.

    Raises:
        ConfigError: Hydra could not read it, or would not see it.
    """
    group = file.parent.name
    if (CONF / group / file.name).exists():
        raise ConfigError(
            f"`config_dir` must have names of its own, and {file.stem} of {shown(file)} is one that logreg has. "
            "Rename the file."
        )
    if not (file.stem[0].isalpha() or file.stem[0] == "_") or file.stem.lower() in NOT_TEXT:
        raise ConfigError(f"`config_dir` must have names that begin with a letter, as {shown(file)} does not.")
    for base in with_bases(file):
        if not base.exists():
            raise ConfigError.not_a_choice(f"defaults of {shown(file)}", options_of(group, file.parents[1]), base.stem)
    if group == "experiment" and not file.read_text(encoding="utf-8").lstrip().startswith(PACKAGE):
        raise ConfigError(f"`{shown(file)}` must begin with the line `{PACKAGE}`, so that its keys are those of a run.")


def search_path(overrides: Sequence[Override]) -> list[str]:
    """The override by which Hydra finds the files of ``config_dir``, too.

    Raises:
        ConfigError: ``config_dir`` is at fault, or goes with another such override.
    """
    folder = own_folder(overrides)
    if folder is None:
        return []
    if any(one.key_or_group == "hydra.searchpath" for one in overrides):
        raise ConfigError("`hydra.searchpath` must not go with config_dir, which sets it. Leave it out.")
    place = escaped(f"file://{folder.absolute().as_posix()}", "'")
    return [f"hydra.searchpath=['{place}']"]


def is_group(name: str) -> bool:
    """Whether conf/ has a folder of that name, with the options of a group."""
    return "/" not in name and name not in ("", ".", "..", "hydra") and (CONF / name).is_dir()


def options_of(group: str, own: Path | None = None) -> list[str]:
    """The names of the files in conf/<group>/ and in that folder of one's own."""
    folders = [CONF] if own is None else [CONF, own]
    return sorted(file.stem for folder in folders for file in (folder / group).glob("*.yaml"))


def config_file(group: str, name: str, own: Path | None = None) -> Path:
    """The file of an option."""
    file = CONF / group / f"{name}.yaml"
    return file if own is None or file.exists() else own / group / f"{name}.yaml"


def loaded(file: Path) -> DictConfig:
    """The content of a file of settings.

    Raises:
        ConfigError: It is no mapping in YAML.
    """
    try:
        content = OmegaConf.load(file)
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        reason = on_one_line(str(error))
        if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
            reason = f"line {error.problem_mark.line + 1}: {error.problem}"
        raise ConfigError(f"`{shown(file)}` must be a text file in YAML, and is not: {reason}.") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"`{shown(file)}` must have lines such as key: value.")
    return content


def defaults_of(file: Path) -> list[object]:
    """The list ``defaults`` of a file of settings; empty without one.

    Raises:
        ConfigError: It is something else, or the file is no mapping in YAML.
    """
    content = OmegaConf.to_container(loaded(file))
    defaults = content.get("defaults") if isinstance(content, dict) else None
    if not isinstance(defaults, list | None):
        raise ConfigError(f"`defaults` must be a list such as [{defaults}, _self_] in {shown(file)}.")
    return defaults or []


def with_bases(file: Path) -> list[Path]:
    """A config, and those of the same group whose keys it takes over; some of these may be missing.

    Raises:
        ConfigError: One of them is no mapping in YAML, or takes over its own keys.
    """
    files = [file]
    for one in files:
        if not one.exists():
            continue
        group = one.parent.name
        for base in (name.removesuffix("@_here_") for name in defaults_of(one) if isinstance(name, str)):
            name = f"{base.removeprefix(f'/{group}/')}.yaml"
            near = one.parent / name
            found = near if near.exists() else CONF / group / name
            if base == "_self_":
                continue
            if found == file:
                raise ConfigError(f"`{shown(file)}` must not build on itself.")
            if found not in files:
                files.append(found)
    return files


def all_keys() -> list[str]:
    """Every key that some config has, with dots."""
    keys: list[str] = []
    for file in sorted(CONF.rglob("*.yaml")):
        group = tuple(part for part in file.parent.relative_to(CONF).parts if part != "base")
        if PACKAGE in file.read_text(encoding="utf-8"):
            group = ()
        if group[:1] != ("experiment",):
            keys += keys_in(OmegaConf.to_container(OmegaConf.load(file)), ".".join(group))
    return sorted(set(keys) - {"defaults", "hydra"})


def keys_in(tree: object, prefix: str = "") -> list[str]:
    """All keys of nested mappings, with dots, each behind ``prefix``."""
    keys = [prefix] if prefix else []
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            keys += keys_in(value, f"{prefix}.{key}" if prefix else str(key))
    return keys
