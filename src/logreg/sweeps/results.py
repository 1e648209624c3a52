"""The results of a sweep: results.csv, the table at the end, the picture of a search."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from logreg.config import SELECT
from logreg.errors import shell_line
from logreg.files import write_whole
from logreg.invocation import command_words
from logreg.run_folder import RUNS, is_finished, latest_run
from logreg.sweeps.grid import SAME_DATA
from logreg.terminal import terminal

OPTIMALITY = ("optimality/gap", "optimality/converged", "optimality/verdict")
"""What each job says of its distance from the optimum."""

SEED = "seed"
"""The key that is averaged over."""


def gather(folder: Path, numbers: Collection[str] | None = None) -> int:
    """Ranks the jobs of a sweep, prints the table and writes results.csv.

    Jobs that differ in the seed alone are one row: mean and standard deviation over the seeds.
    Rows are ranked by what ``select`` says of val, or of train where there is no val split; of equal ones the stronger
    penalty comes first.

    Args:
        folder: The sweep folder.
        numbers: Of the jobs that count, which their folders begin with; ``None``: all.

    Returns:
        Exit code: 1 if a job failed, else 0.
    """
    jobs = [
        {**json.loads(path.read_text(encoding="utf-8")), "job": path.parent.relative_to(folder).as_posix()}
        for path in folder.rglob("summary.json")
        if path.is_file() and (numbers is None or path.parent.name.partition("_")[0] in numbers)
    ]
    jobs.sort(key=lambda job: (int(number) if (number := job["job"].split("_")[0]).isdigit() else 0, job["job"]))
    if not jobs:
        print(f"No job of {folder} has come to an end.", file=sys.stderr)
        return 1
    settings = [_settings(job["overrides"]) for job in jobs]
    columns = list(dict.fromkeys(key for setting in settings for key in setting))
    varied = [key for key in columns if len({setting.get(key) for setting in settings}) > 1]
    select = next((job["config"].get("select", "log_loss") for job in jobs if "config" in job), "log_loss")
    metrics = _metric_names(jobs, SELECT[select][0])
    _write_csv(folder / "results.csv", jobs, settings, columns, metrics)

    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    by = [key for key in varied if key != SEED]
    for job, setting in zip(jobs, settings, strict=True):
        if job["status"] == "finished":
            groups.setdefault(tuple(setting.get(key, "") for key in by), []).append(job)
    failed = [job for job in jobs if job["status"] == "failed"]
    pruned = sum(job["status"] == "pruned" for job in jobs)
    _print_table(folder, groups, by, metrics, SELECT[select][1], failed, pruned)
    return 1 if failed else 0


def _settings(overrides: Sequence[str]) -> dict[str, str]:
    return dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)


def _metric_names(jobs: Sequence[dict[str, Any]], ranking: str) -> list[str]:
    """Such as "loss/val"; the one that ranks comes first."""
    there = list(
        dict.fromkeys(
            f"{metric}/{split}" for job in jobs for split, scores in job["metrics"].items() for metric in scores
        )
    )
    splits = ("val", "test") if "loss/val" in there else ("train",)
    names = sorted(("loss", "accuracy", "auroc"), key=lambda name: name != ranking)
    order = [f"{name}/{split}" for split in splits for name in names]
    return [name for name in order if name in there] + [name for name in there if name not in order]


def _value(job: dict[str, Any], name: str) -> float | None:
    metric, split = name.split("/")
    value = job["metrics"].get(split, {}).get(metric)
    return None if value is None else float(value)


def _write_csv(
    path: Path,
    jobs: Sequence[dict[str, Any]],
    settings: Sequence[dict[str, str]],
    columns: list[str],
    metrics: list[str],
) -> None:
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, ["job", "status", *columns, *metrics, *OPTIMALITY, "seconds", "error"])
    table.writeheader()
    for job, setting in zip(jobs, settings, strict=True):
        table.writerow(
            {
                "job": job["job"],
                "status": job["status"],
                **setting,
                **{name: _value(job, name) for name in metrics},
                **{name: job.get("optimality", {}).get(name.split("/")[1]) for name in OPTIMALITY},
                "seconds": job.get("seconds", {}).get("total"),
                "error": job.get("error"),
            }
        )
    write_whole(path, lambda file: file.write(buffer.getvalue().encode()))


def _print_table(
    folder: Path,
    groups: dict[tuple[str, ...], list[dict[str, Any]]],
    by: list[str],
    metrics: list[str],
    sign: int,
    failed: Sequence[dict[str, Any]],
    pruned: int = 0,
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    console = terminal(width=None if sys.stdout.isatty() else 200)
    if groups:
        shown = [name for name in metrics if name.split("/")[1] != "train" or metrics[0].endswith("/train")]
        heading = f"by {metrics[0]}, mean±standard deviation over seeds (a seed also draws the split)"
        console.print(heading, markup=False, highlight=False, soft_wrap=True)
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        for column in ("rank", *by, "runs", *shown):
            table.add_column(column, justify="right", no_wrap=True)

        def order_of(jobs: list[dict[str, Any]]) -> tuple[float, ...]:
            values = [value for job in jobs if (value := _value(job, metrics[0])) is not None]
            penalties = ([job.get("objective", {}).get(key, 0.0) for job in jobs] for key in ("l2", "l1"))
            score = statistics.fmean(values) if values else -sign * math.inf
            return -sign * score, *(-statistics.fmean(strengths) for strengths in penalties)

        ranked = sorted(groups.items(), key=lambda group: order_of(group[1]))
        for rank, (setting, jobs) in enumerate(ranked, start=1):
            cells = [_mean_and_deviation([_value(job, name) for job in jobs]) for name in shown]
            table.add_row(str(rank), *(escape(value) for value in setting), str(len(jobs)), *cells)
        console.print(table)
        best = [override for override in ranked[0][1][0]["overrides"] if not override.startswith(f"{SEED}=")]
        console.print(
            f"best: {shell_line([*command_words('train'), *best])}", markup=False, highlight=False, soft_wrap=True
        )
    if pruned:
        console.print(f"{pruned} were broken off, since they fell behind", markup=False, highlight=False)
    for job in failed:
        console.print(f"failed: {folder / job['job']}: {job['error']}", markup=False, highlight=False, soft_wrap=True)
    after = [f"tensorboard --logdir {shlex.quote(folder.as_posix())}"]
    after += _next_after([folder / jobs[0]["job"] for _, jobs in ranked], ranked[0][1][0]) if groups else []
    for line in (f"all jobs: {folder / 'results.csv'}", "next:", *(f"  {command}" for command in after)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _next_after(ranked: Sequence[Path], best: Mapping[str, Any]) -> list[str]:
    """The best job beside the newest run alone on the same data, or else beside the second best; or its scores.

    Args:
        ranked: Folders of jobs, the best first.
        best: The summary of the first.
    """
    newest, words = latest_run(RUNS), [*command_words("compare"), ranked[0].as_posix()]
    if newest is not None and is_finished(newest):
        alone = json.loads((newest / "summary.json").read_text(encoding="utf-8"))
        if alone["status"] == "finished" and all(alone["dataset"][key] == best["dataset"][key] for key in SAME_DATA):
            return [shell_line([*words, newest.as_posix()])]
    if len(ranked) > 1:
        return [shell_line([*words, ranked[1].as_posix()])]
    return [shell_line([*command_words("evaluate"), f"ckpt_path={ranked[0].as_posix()}"])]


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ""
    if len(numbers) == 1:
        return f"{numbers[0]:.4f}"
    return f"{statistics.fmean(numbers):.4f}±{statistics.stdev(numbers):.4f}"


def draw_search(
    folder: Path,
    title: str,
    history: Sequence[tuple[str, float | None]],
    importance: Mapping[str, float],
    score: str = "loss",
    sign: int = -1,
) -> list[Path]:
    """Pictures of a tuned sweep: the scores in their order, and which keys they depend on.

    Args:
        folder: Of the sweep.
        title: Over the pictures.
        history: State and score of each trial.
        importance: Part of the spread that each key explains; empty where that is not known.
        score: Its name.
        sign: 1 if more of it is better, or else -1.

    Returns:
        The files.
    """
    from logreg.reports.figures import importance_bars, search_history

    drawn = {"history": search_history(history, title, score, sign)}
    if importance:
        drawn["importance"] = importance_bars(importance, title, score)
    files = []
    for name, figure in drawn.items():
        files.append(folder / "figures" / f"{name}.png")
        write_whole(files[-1], lambda file, figure=figure: figure.savefig(file, format="png", dpi=130))  # type: ignore[misc]
    return files
