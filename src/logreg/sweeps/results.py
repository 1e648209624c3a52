"""The results of a sweep: results.csv, the table at the end, the picture of a search."""

from __future__ import annotations

import csv
import io
import math
import shlex
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from logreg.config import SELECT
from logreg.errors import shell_line
from logreg.files import write_text, write_whole
from logreg.invocation import command_words
from logreg.reports.summary_schema import Summary, UnfinishedSummary, have_same_rows, read_summary
from logreg.run_folder import RUNS, is_finished, latest_run
from logreg.terminal import terminal

OPTIMALITY = ("optimality/gap", "optimality/converged", "optimality/verdict")
"""Columns of results.csv from the certificate of each job."""

SEED = "seed"
"""The key over whose values scores are averaged."""


@dataclass(frozen=True)
class Job:
    """A job of a sweep that has ended.

    Attributes:
        name: Folder of the job, relative to that of the sweep.
        summary: Summary that the job wrote.
    """

    name: str
    summary: Summary | UnfinishedSummary

    @property
    def settings(self) -> dict[str, str]:
        """Settings as typed, by key."""
        return dict(line.lstrip("+").split("=", 1) for line in self.summary.overrides if "=" in line)

    def score(self, name: str) -> float | None:
        """A score by its name, such as "loss/val"."""
        metric, split = name.split("/")
        return self.summary.metrics.get(split, {}).get(metric)


def gather(folder: Path, numbers: Collection[str] | None = None) -> int:
    """Ranks the jobs of a sweep, prints the table and writes results.csv.

    Jobs that differ in the seed alone are one row: mean and standard deviation over the seeds.
    Rows are ranked by the score that ``select`` names: cross-validated, or on val, or on train where there is neither;
    among equal scores the stronger penalty comes first.

    Args:
        folder: The sweep folder.
        numbers: Numbers of the jobs that count, with which the names of their folders begin; ``None`` for all.

    Returns:
        Exit code: 1 if a job failed, else 0.
    """
    jobs = [
        Job(path.parent.relative_to(folder).as_posix(), read_summary(path.parent))
        for path in folder.rglob("summary.json")
        if path.is_file() and (numbers is None or path.parent.name.partition("_")[0] in numbers)
    ]
    jobs.sort(key=lambda job: (int(number) if (number := job.name.split("_")[0]).isdigit() else 0, job.name))
    if not jobs:
        print(f"No job of {folder} has finished.", file=sys.stderr)
        return 1
    columns = list(dict.fromkeys(key for job in jobs for key in job.settings))
    varied = [key for key in columns if len({job.settings.get(key) for job in jobs}) > 1]
    finished = [(job, job.summary) for job in jobs if isinstance(job.summary, Summary)]
    select = next((summary.config.get("select", "log_loss") for _, summary in finished), "log_loss")
    metrics = _metric_names(jobs, SELECT[select][0])
    _write_csv(folder / "results.csv", jobs, columns, metrics)

    groups: dict[tuple[str, ...], list[Job]] = {}
    by = [key for key in varied if key != SEED]
    for job, _ in finished:
        groups.setdefault(tuple(job.settings.get(key, "") for key in by), []).append(job)
    failures = {
        job.name: job.summary.error
        for job in jobs
        if isinstance(job.summary, UnfinishedSummary) and job.summary.status == "failed"
    }
    pruned = sum(job.summary.status == "pruned" for job in jobs)
    _print_table(folder, groups, by, metrics, SELECT[select][1], failures, pruned)
    return 1 if failures else 0


def _metric_names(jobs: Sequence[Job], ranking: str) -> list[str]:
    """Names such as "loss/val", the one that ranks first."""
    there = list(
        dict.fromkeys(
            f"{metric}/{split}" for job in jobs for split, scores in job.summary.metrics.items() for metric in scores
        )
    )
    splits = ("cv", "val", "test") if {"loss/cv", "loss/val"} & set(there) else ("train",)
    names = sorted(("loss", "accuracy", "auroc"), key=lambda name: name != ranking)
    order = [f"{name}/{split}" for split in splits for name in names]
    return [name for name in order if name in there] + [name for name in there if name not in order]


def _write_csv(path: Path, jobs: Sequence[Job], columns: list[str], metrics: list[str]) -> None:
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, ["job", "status", *columns, *metrics, *OPTIMALITY, "seconds", "error"])
    table.writeheader()
    for job in jobs:
        summary = job.summary
        cells: dict[str, object] = {"job": job.name, "status": summary.status, **job.settings}
        cells |= {name: job.score(name) for name in metrics}
        if isinstance(summary, Summary):
            cells |= {name: getattr(summary.optimality, name.split("/")[1]) for name in OPTIMALITY}
            cells["seconds"] = summary.seconds.total
        else:
            cells["error"] = summary.error
        table.writerow(cells)
    write_text(path, buffer.getvalue())


def _print_table(
    folder: Path,
    groups: dict[tuple[str, ...], list[Job]],
    by: list[str],
    metrics: list[str],
    sign: int,
    failures: Mapping[str, str | None],
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

        def order_of(jobs: list[Job]) -> tuple[float, float, float]:
            values = [value for job in jobs if (value := job.score(metrics[0])) is not None]
            objectives = [job.summary.objective for job in jobs if isinstance(job.summary, Summary)]
            score = statistics.fmean(values) if values else -sign * math.inf
            l2, l1 = (statistics.fmean(getattr(one, key) for one in objectives) for key in ("l2", "l1"))
            return -sign * score, -l2, -l1

        ranked = sorted(groups.items(), key=lambda group: order_of(group[1]))
        for rank, (setting, jobs) in enumerate(ranked, start=1):
            cells = [_mean_and_deviation([job.score(name) for job in jobs]) for name in shown]
            table.add_row(str(rank), *(escape(value) for value in setting), str(len(jobs)), *cells)
        console.print(table)
        best = [override for override in ranked[0][1][0].summary.overrides if not override.startswith(f"{SEED}=")]
        console.print(
            f"best: {shell_line([*command_words('train'), *best])}", markup=False, highlight=False, soft_wrap=True
        )
    if pruned:
        console.print(f"{pruned} pruned, since they fell behind", markup=False, highlight=False)
    for name, error in failures.items():
        console.print(f"failed: {folder / name}: {error}", markup=False, highlight=False, soft_wrap=True)
    after = [f"tensorboard --logdir {shlex.quote(folder.as_posix())}"]
    after += _next_after({folder / jobs[0].name: jobs[0] for _, jobs in ranked}) if groups else []
    for line in (f"all jobs: {folder / 'results.csv'}", "next:", *(f"  {command}" for command in after)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _next_after(ranked: Mapping[Path, Job]) -> list[str]:
    """A command that compares the best job with the newest run on the same rows, or with the next best job on them.

    Where there is none it is an evaluation of the best job.

    Args:
        ranked: Jobs by their folders, the best first.
    """
    (best, job), *others = ranked.items()
    newest = latest_run(RUNS)
    alone = {newest: read_summary(newest)} if newest is not None and is_finished(newest) else {}
    for folder, summary in (*alone.items(), *((other, each.summary) for other, each in others)):
        if have_same_rows(summary, job.summary):
            return [shell_line([*command_words("compare"), best.as_posix(), folder.as_posix()])]
    return [shell_line([*command_words("evaluate"), f"ckpt_path={best.as_posix()}"])]


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
    score: str = "loss/val",
    sign: int = -1,
) -> list[Path]:
    """Draws the pictures of a tuned sweep: the scores in order, and the importance of each key.

    Args:
        folder: Folder of the sweep.
        title: Title of the pictures.
        history: State and score of each trial.
        importance: Share of the variance of the scores that each key explains; empty where it is not known.
        score: Name of the score, such as "loss/val".
        sign: 1 where a higher score is better, else -1.

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
        write_whole(files[-1], partial(figure.savefig, format="png", dpi=130))
    return files
