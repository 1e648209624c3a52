"""Where Hydra ends and logreg begins: composes a config, runs it, turns mistakes into one line.

Nothing here imports torch before a run is certain to start: ``--help`` and typing mistakes are
answered at once.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from logreg import __version__
from logreg.config import SECTIONS, RunConfig, unknown_key
from logreg.errors import ConfigError, LogregError
from logreg.folder import CHECKPOINTS, find_checkpoint, run_folder_of, shown

CONF = Path(__file__).parents[2] / "conf"
"""The configs, at the top of the project."""

MADE_BY_STARTING = {".hydra", "train.log", "multirun.yaml", "metrics.csv"}
"""What lies in the folder of a run or a sweep before its first checkpoint, besides events."""

NO_ROOM = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC}
"""Why a folder or a file cannot be written."""

STOCHASTIC = {"lr", "batch_size", "schedule", *(f"optimizer.{key}" for key in SECTIONS["optimizer"]["sgd"])}
"""Knobs that nobody turns but for stochastic gradient descent."""

ROOT = Path("runs")
"""Where runs live, seen from where the person stands."""

HYDRA_OPTIONS = (
    *("-c", "--cfg", "-p", "--package", "-r", "--run", "-m", "--multirun", "-i", "--info", "--resolve", "--hydra-help"),
    *("-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir", "-sc", "--shell-completion"),
    "--experimental-rerun",
)
"""What Hydra takes with a dash; ours are --help and --version."""

# `trainer` takes any key, where other keys must be known: it is Lightning's to say what it knows.
ConfigStore.instance().store(group="trainer", name="arguments", node=DictConfig({}, flags={"struct": False}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/train.py``.

    Args:
        arguments: What follows the script's name; ``sys.argv`` when ``None``.

    Returns:
        Exit code: 0 done; 1 a job of a sweep failed; 2 a mistake that the person can mend;
        130 stopped from the keyboard.  A bug leaves with its traceback.
    """
    started = time.perf_counter()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises, and the sentence is ours
    typed = list(sys.argv[1:] if arguments is None else arguments)
    # Options first, as argparse wants them, whatever the order they were typed in.
    options = [argument for argument in typed if argument.startswith("-") or not is_override(argument)]
    settings = [argument for argument in typed if argument not in options]
    sweep: Path | None = None
    try:
        if {"-h", "--help"} & set(options):  # without Hydra, which would list all groups first, its own too
            print(OmegaConf.load(CONF / "hydra" / "help" / "logreg.yaml").template, flush=True)
            return 0
        if "--version" in options:
            print(f"logreg {__version__}")
            return 0
        overrides, sweep = _understood(options, settings)
        sys.argv = [sys.argv[0], *options, *overrides]
        failures: list[Exception] = []
        job = run_job if sweep is not None else _keeping(failures, started)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
        if failures:
            raise failures[0]
        if sweep is not None:
            from logreg.sweep import gather

            return gather(sweep)
    except (LogregError, HydraException, OmegaConfBaseException) as error:
        words = str(error) if isinstance(error, LogregError) else in_our_words(error)
        print(" ".join(words.split("\n")), file=sys.stderr)  # a column's name may have lines
        if sweep is not None:
            _remove_if_unused(sweep)
        return 2
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # Python flushes it once more at exit
        return 0
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(f"`hydra.run.dir` must be a place to write to: {error}. Stand elsewhere, or set it.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if sweep is None:
            print("Stopped. `ckpt_path=latest` goes on from the last epoch that was saved.", file=sys.stderr)
        else:
            from logreg.sweep import gather

            gather(sweep)
            print("Stopped. The jobs that were finished are above.", file=sys.stderr)
        return 130
    return 0


def run_job(composed: DictConfig, started: float | None = None) -> float | None:
    """One run: alone, or as a job of a sweep, whose failure must not stop the others.

    Args:
        composed: The config as Hydra composed it.
        started: ``time.perf_counter()`` when the person pressed Enter, for a run alone.

    Returns:
        The last loss on val (on train where there is no val split), for sweepers that optimise it.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    overrides = _lines(settings.overrides.task)
    if settings.mode == RunMode.MULTIRUN:
        from logreg.sweep import run_in_sweep

        return run_in_sweep(lambda: _run(composed, folder, overrides, None), folder, overrides)
    try:
        return _run(composed, folder, overrides, started)
    except LogregError:
        _remove_if_unused(folder)
        raise


def _keeping(failures: list[Exception], started: float) -> Callable[[DictConfig], None]:
    """`run_job`, with what it raises kept for later: Hydra would print words of its own first."""

    def job(composed: DictConfig) -> None:
        try:
            run_job(composed, started)
        except Exception as error:
            failures.append(error)

    return job


def _run(composed: DictConfig, folder: Path, overrides: list[str], started: float | None) -> float:
    """Checks, imports what takes seconds, trains, shows the result."""
    config = RunConfig.from_mapping(resolved(composed))

    if sys.stderr.isatty():  # the longest silence of a short run
        print("importing torch and lightning ...", end="\r", file=sys.stderr, flush=True)
    from logreg.lean import import_lightning

    import_lightning()
    from rich.console import Console

    from logreg.report import print_summary
    from logreg.run import show_facts, train

    if config.facts == "only":
        show_facts(config)
        _remove_if_unused(folder)
        return 0.0
    single = HydraConfig.get().mode == RunMode.RUN
    # In a sweep each job has one line of its own at its end.
    summary = train(config, folder, ROOT, single, overrides, started, progress_lines=5 if single else 0)
    if single:
        print_summary(summary, Console())
    metrics = summary["metrics"]
    return float(metrics.get("val", metrics["train"])["loss"])


def _lines(overrides: object) -> list[str]:
    """Overrides as they were typed: what is written ${key} stays so."""
    lines = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(lines, list)
    return [str(line) for line in lines]


def resolved(composed: DictConfig) -> dict[str, object]:
    """The config as plain values, with what refers to other keys filled in."""
    for section, choices in SECTIONS.items():  # first, since the learning rate is looked up by such a name
        name = OmegaConf.select(composed, f"{section}.name")
        if name not in choices:
            raise ConfigError.not_a_choice(section, choices, name)
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"`{error.full_key}` must have a value, and it refers to none: {reason}.") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def check_groups(overrides: Sequence[Override]) -> None:
    """A group takes the name of a file in conf/<group>/ and nothing else; in a sweep several."""
    for override in overrides:
        group = override.key_or_group
        if group == "trainer":
            raise ConfigError("`trainer` must be set by its arguments, such as trainer.max_time=00:00:10:00.")
        if not group:
            raise ConfigError(f"`{override.input_line}` must be written as key=value, without spaces.")
        if "/" in group or group == "hydra" or not (CONF / group).is_dir():
            continue
        choices = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        if override.is_delete():
            raise ConfigError.not_a_choice(group, choices, None)
        values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
        for value in values:
            if str(value) not in choices and not (value is None and group == "experiment"):
                raise ConfigError.not_a_choice(group, choices, value)


def is_override(argument: str) -> bool:
    """Whether it sets something, unlike an option."""
    return "=" in argument or argument.startswith("~")


def _understood(options: Sequence[str], settings: Sequence[str]) -> tuple[list[str], Path | None]:
    """What was typed, checked and completed.

    Args:
        options: What starts with a dash, and what follows it.
        settings: key=value.

    Returns:
        Overrides for Hydra; the sweep folder, if this is a sweep.
    """
    for option in options:
        if option.startswith("-") and not any(known.startswith(option) for known in HYDRA_OPTIONS):
            raise ConfigError(f"`{option}` is no option. Write settings as key=value, such as lr=0.1.")
    overrides = parse(with_backbone(settings))
    check_groups(overrides)
    given = {override.key_or_group: override for override in overrides}
    sweeping = any(option == "-m" or (option[:4] == "--mu" and "--multirun".startswith(option)) for option in options)
    if sweeping and "facts" in given and str(given["facts"].value()) == "only":
        raise ConfigError("`facts=only` must go with one run. Leave -m out.")
    added, sweep = [], None
    if "hydra.run.dir" in given and (Path(str(given["hydra.run.dir"].value())) / CHECKPOINTS).exists():
        raise ConfigError(f"`hydra.run.dir` must name a new folder, and {given['hydra.run.dir'].value()} holds a run.")
    if "ckpt_path" in given and given["ckpt_path"].value() is not None:
        if given["ckpt_path"].is_sweep_override():
            raise ConfigError("`ckpt_path` must be one checkpoint, got several. Resume one after the other.")
        checkpoint = find_checkpoint(str(given["ckpt_path"].value()), ROOT)
        # The file itself, since tomorrow "latest" is another one.
        overrides = [override for override in overrides if override.key_or_group != "ckpt_path"]
        overrides += parse([f"ckpt_path={_quoted(shown(checkpoint))}"])
        added += resumed_overrides(checkpoint, set(given))
    typed = set(given) | {override.key_or_group for override in parse(added)}
    if not typed & {"optimizer", "experiment"} and any(
        key in STOCHASTIC or key.startswith("schedule.") for key in typed
    ):
        added.append("optimizer=sgd")  # whoever sets its knobs means it, whatever the dataset would prefer
    if sweeping:
        from logreg.sweep import sweep_overrides

        more, sweep = sweep_overrides([*parse(added), *overrides], ROOT)
        added += more
    return [*added, *(override.input_line or "" for override in overrides)], sweep


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
        if not set(value) & set("[]{}$'\""):
            as_text = [f"{key}={_quoted(value)}"]
        elif listed and not set(listed) & set("[]{}$'\""):
            as_text = [f"{key}=[{','.join(_quoted(part.strip()) for part in listed.split(','))}]"]
        for line in (argument, *as_text):
            with suppress(HydraException):
                parsed.append(parser.parse_override(line))
                break
        else:
            raise ConfigError(f"`{argument}` must be written as key=value, brackets and quotes in pairs.")
    return parsed


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def resumed_overrides(checkpoint: Path, typed: set[str]) -> list[str]:
    """What a resumed run was started with, less what is typed anew: a checkpoint path is enough."""
    folder = run_folder_of(checkpoint)
    if folder is None:
        return []
    before = parse(_lines(OmegaConf.load(folder / ".hydra" / "overrides.yaml")))
    groups = {key for key in typed if "." not in key}
    return [
        override.input_line or ""
        for override in before
        if override.key_or_group not in typed
        # another optimizer does not take the arguments of the one before
        and override.key_or_group.split(".")[0] not in groups
    ]


def _remove_if_unused(folder: Path) -> None:
    """Takes back the folder of a run or a sweep that never came to anything."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name not in MADE_BY_STARTING and not path.name.startswith("events.out.tfevents."):
            return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    here, root = Path.cwd().resolve(), ROOT.resolve()
    for place in (folder.resolve(), *folder.resolve().parents):
        if place == here or any(place.iterdir()) or not (place == folder.resolve() or place.is_relative_to(root)):
            return
        place.rmdir()


def in_our_words(error: Exception) -> str:
    """What Hydra found wrong with the command line, in one line that says what to do."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return str(ConfigError.not_a_choice(group, sorted(error.options), name))
    if isinstance(error, OverrideParseException):  # of an option's value, such as a word without =
        return f"`{error.override}` must be written as key=value, brackets and quotes in pairs."
    message = str(error) or str(error.__cause__)
    words = message.replace("\n", " ").split("'")
    if message.startswith("Could not override") or "is not in struct" in message:
        key, known = words[1], _all_keys()
        if key in known and "." in key:
            group = key.partition(".")[0]
            return f"`{key}` belongs to another {group} than the one chosen. See conf/{group}/ for what each one takes."
        return str(unknown_key(key, known))
    if "requires --multirun" in message or message.startswith("Ambiguous value for argument"):
        key, _, value = words[1].partition("=")
        return f"`{key}` must be one value, got {value!r}. Add -m to run once for each of them."
    return " ".join(message.split())


def _all_keys() -> list[str]:
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
