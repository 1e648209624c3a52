"""`scripts/compare.py`: shows runs beside each other, and whether one of two is better."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.commands.command_line import ROOT, importing_libraries, parse_arguments, run_command
from logreg.commands.overrides import is_override
from logreg.constraints import flag, one_of, optional
from logreg.errors import ConfigError
from logreg.files import is_there, shown
from logreg.reports.json_fields import to_json
from logreg.reports.summary_schema import Summary, read_summary, reading_summary
from logreg.run_folder import find_checkpoint
from logreg.settings import Setting, help_lines
from logreg.terminal import counted, terminal

if TYPE_CHECKING:
    from logreg.evaluation.paired_comparison import Paired

OWN = {
    "split": Setting(
        None,
        optional(one_of(("train", "val", "test"))),
        "val or test, whose rows two runs are compared on; null: the last that both have",
    ),
    "json": Setting(False, flag(), "true: prints one JSON object, with all settings"),
}
"""The keys of this command."""

SCORES = ("log_loss", "accuracy", "auroc")
"""Scores in the table, by their names in the evaluation of a run."""

MIN_WIDTH = 80
"""Columns of the table on a narrower terminal, and in a file."""

WIDTHS = {"log_loss": 23, "accuracy": 20, "auroc": 23}
"""Columns that a score with its interval takes."""

MAX_NAME_LENGTH = 40
"""Characters of the name of a run or the value of a setting, unless names of that length would be equal."""

MAX_SETTINGS = 6
"""Settings that differ, in the table; json=true prints all."""

NOT_OF_THE_MODEL = (
    "dataset.recipe",
    "expected",
    "verbose",
    "report",
    "ckpt_path",
    "facts",
    "accelerator",
    "devices",
    "num_nodes",
)
"""Settings that do not change the model."""


def help_text() -> str:
    """The text of ``--help``."""
    return f"""\
Shows runs beside each other: what differs in their settings, their scores with intervals, their certificates.  For two
runs that were scored on the same rows, a paired test shows whether one is better.

usage: python scripts/compare.py RUN RUN ... [key=value ...]
       python scripts/compare.py SWEEP

examples
  python scripts/compare.py runs/mnist/2026-11-22_10-00-00-000000_lr-0.1 latest
  python scripts/compare.py runs/sweeps/digits_l2_lr

  RUN is a run folder, a folder of runs such as a sweep, or latest.

keys
{help_lines(OWN)}

AIC and BIC are there for fits of maximum likelihood (no penalty, at the optimum) to the same train rows: smaller is
better.

The paired test: the difference of the log loss with a 95 % bootstrap interval, and McNemar's test on the rows that only
one of them classifies correctly.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/compare.py``; the exit code is that of `run_command`."""
    return run_command(help_text, _run, arguments)


def _run(arguments: list[str]) -> int:
    named = [argument for argument in arguments if not is_override(argument)]
    typed = parse_arguments([argument for argument in arguments if is_override(argument)], "compare", OWN)
    for argument in named:
        if argument.startswith("-"):
            raise ConfigError(f"`{argument}` is no option. `--help` lists the keys.")
    if not named:
        raise ConfigError("`RUN` must be given: run folders to compare, or the folder of a sweep. See --help.")
    runs = {folder: summary for name in named for folder, summary in _runs_in(name).items()}
    rows = []
    for folder, summary in runs.items():
        with reading_summary(folder / "summary.json"):
            rows.append(_row(folder, summary))
    typed_keys = {override.lstrip("+").partition("=")[0] for one in runs.values() for override in one.overrides}
    differing = _differing([row["settings"] for row in rows], typed_keys)
    paired = None
    if len(runs) == 2:
        paired = _compared(list(runs), typed.values["split"])
    if typed.values["json"]:
        plain = {"runs": rows, "paired": paired[1].as_dict() | {"split": paired[0]} if paired else None}
        print(json.dumps(plain))
        return 0
    _show(rows, differing, paired)
    return 0


def _runs_in(name: str) -> dict[Path, Summary]:
    """The finished run in the folder of that name, or those in folders inside it.

    Raises:
        ConfigError: There is none.
    """
    folder = find_checkpoint(name, ROOT).parent.parent if name in ("latest", "best", "last") else Path(name)
    if is_there(folder / "summary.json"):
        found = [folder]
    else:
        found = sorted({file.parent for file in folder.rglob("summary.json")}) if is_there(folder) else []
    read = {each: read_summary(each) for each in found}
    finished = {each: summary for each, summary in read.items() if isinstance(summary, Summary)}
    if not finished:
        what = "is missing" if not is_there(folder) else "holds no finished run" if folder.is_dir() else "is a file"
        raise ConfigError(f"`{name}` must be a run folder or hold some, and {folder} {what}.")
    return finished


def _row(folder: Path, summary: Summary) -> dict[str, Any]:
    evaluation = summary.evaluation
    measured = evaluation.metrics if evaluation else {}
    return {
        "run": shown(folder),
        "data": f"{summary.dataset.name} {summary.dataset.source}".rstrip(),
        "split": evaluation.split if evaluation else None,
        "settings": _flat(summary.config),
        "metrics": {name: to_json(measured[name]) for name in SCORES if name in measured},
        "likelihood": None if summary.likelihood is None else to_json(summary.likelihood),
        "verdict": summary.optimality.verdict,
        "seconds": summary.seconds.total,
    }


MAPPINGS = ("dataset.class_weight", "dataset.augment")
"""Settings whose value may be a mapping."""


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        name = f"{prefix}{key}"
        if name in NOT_OF_THE_MODEL:
            continue
        is_section = isinstance(value, Mapping) and name not in MAPPINGS
        flat |= _flat(value, f"{name}.") if is_section else {name: value}
    return flat


def _differing(flat: Sequence[Mapping[str, Any]], typed: Collection[str]) -> list[str]:
    """Keys whose values differ between runs: those that were typed, or all where none of these was typed."""
    keys = list(dict.fromkeys(key for one in flat for key in one))
    keys = [key for key in keys if len({json.dumps(one.get(key)) for one in flat}) > 1]
    shown = [key for key in keys if key in typed or key.removesuffix(".name") in typed] or keys
    return shown[:MAX_SETTINGS]


def _compared(folders: Sequence[Path], split: str | None) -> tuple[str, Paired] | None:
    """The split and the paired test of two runs; ``None`` where their rows differ."""
    with importing_libraries():
        from logreg.evaluation.paired_comparison import compare
        from logreg.facts import SPLITS
        from logreg.run.building import build_data
        from logreg.run.scoring import predict
        from logreg.training.checkpoint_reading import TrainedModel

    both = [TrainedModel.load(find_checkpoint(str(folder), ROOT)) for folder in folders]
    configs = [trained.run_config() for trained in both]
    data = [build_data(config, trained.facts) for config, trained in zip(configs, both, strict=True)]
    shared = [name for name in SPLITS if all(name in each.splits for each in data)]
    if split is not None and split not in shared:
        raise ConfigError(f"`split` must be one that both have, {', '.join(shared)}, got {split!r}.")
    name = shared[shared.index(split)] if split in shared else shared[-1]
    same = (
        both[0].facts.class_names == both[1].facts.class_names
        and both[0].facts.name == both[1].facts.name
        and len({each.labels(name).numpy().tobytes() for each in data}) == 1
        and len({each.source_row_numbers(name).numpy().tobytes() for each in data}) == 1
    )
    if not same:
        return None
    a, b = (predict(trained.module, each, name) for trained, each in zip(both, data, strict=True))
    return name, compare(a, b, configs[0].seed)


def _show(rows: Sequence[Mapping[str, Any]], differing: Sequence[str], paired: tuple[str, Paired] | None) -> None:
    """Prints two lines for each run, which fit into 80 columns: its settings, and its scores."""
    console = terminal()
    width = max(console.width, MIN_WIDTH) if console.is_terminal else MIN_WIDTH
    letters = len(rows) == 2
    rows = list(rows) if letters else sorted(rows, key=_rank)
    names = "AB" if letters else [str(number) for number in range(1, len(rows) + 1)]
    indent = " " * (len(names[-1]) + 2)
    scores = [name for name in SCORES if any(name in row["metrics"] for row in rows)]
    likelihoods = [row["likelihood"] for row in rows if row["likelihood"]]
    same_rows = len(likelihoods) > 1 and len({one["checksum"] for one in likelihoods}) == 1
    splits = {row["split"] for row in rows}
    common, runs = _without_common_folder([row["run"] for row in rows])
    settings = {key: shortened_names([_plain(row["settings"].get(key)) for row in rows]) for key in differing}

    lines = [f"runs in {common}"] if common else []
    header = "  ".join(f"{name.replace('_', ' '):<{WIDTHS[name]}}" for name in scores)
    lines.append((indent + header).rstrip() + (f"  on {next(iter(splits))}" if len(splits) == 1 else ""))
    for number, (name, run, row) in enumerate(zip(names, shortened_names(runs), rows, strict=True)):
        parts = [run, *(f"{key}={of_key[number]}" for key, of_key in settings.items() if of_key[number])]
        parts += [f"on {row['split']}"] if len(splits) > 1 else []
        verdict = row["verdict"].partition(":")[0]
        lines += _wrapped([*parts, f"({verdict})"], f"{name:<{len(indent)}}", width)
        values = "  ".join(f"{_cell(each, row['metrics'].get(each)):<{WIDTHS[each]}}" for each in scores)
        lines.append((indent + values).rstrip())
        if same_rows and (fit := row["likelihood"]):
            criteria = (
                f"AIC {fit['aic']:.2f}  BIC {fit['bic']:.2f}  {counted(fit['parameters'], 'parameter')}, on train"
            )
            lines.append(indent + criteria)
    if letters:
        lines.append("")
    if paired is not None:
        split, found = paired
        loss, accuracy = found.log_loss, found.accuracy
        lines += [
            f"B - A on {counted(found.rows, 'row')} of {split}",
            f"   log loss {loss.value:+.4f} [{loss.low:+.4f}, {loss.high:+.4f}]",
            f"   accuracy {accuracy.value:+.2%} [{accuracy.low:+.2%}, {accuracy.high:+.2%}]",
            f"   only A right: {found.only_a:,}, only B right: {found.only_b:,}"
            + ("" if found.p_value is None else f", McNemar p = {found.p_value:.2g}"),
            *textwrap.wrap(found.verdict, width),
        ]
    elif letters:
        lines.append("no paired test: the two were not scored on the same rows")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _wrapped(parts: Sequence[str], head: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns, broken only between parts; the first begins with ``head``."""
    lines = [head + parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(" " * len(head) + part)
    return lines


def _without_common_folder(runs: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that has all runs, and the names of the runs relative to it."""
    common = os.path.commonpath([Path(run).parent for run in runs]) if len(runs) > 1 else ""
    return common, [Path(run).relative_to(common).as_posix() if common else run for run in runs]


def shortened_names(names: Sequence[str], most: int = MAX_NAME_LENGTH) -> list[str]:
    """Names of at most ``most`` characters that still differ: equal parts are left out; unchanged where that fails.

    Example:
        >>> shortened_names(["2026-11-28_l2-0.1", "2026-11-28_l2-0.01"], 10)
        ['…l2-0.1', '…l2-0.01']
        >>> shortened_names(["short", "names"], 10)
        ['short', 'names']
    """
    if max(map(len, names), default=0) <= most:
        return list(names)
    alike = next((place for place, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1), 0)
    while alike and names[0][alike - 1] not in "/_ ":  # back to the beginning of a word
        alike -= 1
    cut = [f"…{name[alike:]}" if alike > 1 else name for name in names]

    def with_tail(tail: int) -> list[str]:
        return [name if len(name) <= most else f"{name[: most - tail - 1]}…{name[-tail:]}" for name in cut]

    def window(start: int) -> list[str]:
        return [name if len(name) <= most else f"…{name[start : start + most - 2]}…" for name in names]

    tries = [*map(with_tail, (most // 2, most // 4, 3 * most // 4)), *map(window, range(max(map(len, names))))]
    return next((short for short in tries if len(set(short)) == len(set(names))), list(names))


def _rank(row: Mapping[str, Any]) -> tuple[str, float]:
    loss = row["metrics"].get("log_loss")
    return row["data"], float("inf") if loss is None else loss["value"]


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _cell(name: str, measured: Mapping[str, float] | None) -> str:
    if measured is None:
        return ""
    form = ".1%" if name == "accuracy" else ".4f"
    return f"{measured['value']:{form}} [{measured['low']:{form}}, {measured['high']:{form}}]"
