"""Times commands as whole processes, which start, import, work, write their files and end.

The commands are compared with `import torch` alone, which no program with torch can undercut: three students for 1000
epochs with TensorBoard, checkpoints, pictures and report.html; breast_cancer; and a trained model that predicts, is
scored and is certified.  Beside them stand the import of lightning and torchvision, and the tutorials' plain script,
which trains the same model as the first and writes nothing.  The ratios are of processor time, which other programs on
the machine disturb less than wall time.

--help, --cfg job and the message for a mistyped key need no import: their target is one second.

A table of 1,000,000 x 30 in CSV, read, trained on, scored and reported, is compared with the script that a person would
write with pandas and scikit-learn: wall time and peak memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from common import (
    SCRIPTS,
    ProcessUse,
    Target,
    alternate,
    met,
    new_parser,
    positive,
    print_ratios,
    print_row,
    print_versions,
    process_use,
    spread,
)

TORCH = "import torch"
"""The program that the commands are compared with."""

TARGETS = {
    "train.py": Target(1.8),
    "train.py breast_cancer": Target(2.2),
    "predict.py": Target(1.3),
    "evaluate.py": Target(1.3),
    "certify.py": Target(1.3),
}
"""Largest accepted ratio of a command's processor time to that of ``import torch``."""

MOST_SECONDS = 1.0
"""Target for each answer that needs no import."""

PLAIN_SCRIPT = """
import torch
from torch import nn

hours = torch.tensor([[1.0], [2.0], [3.0]])
passed = torch.tensor([[0.0], [0.0], [1.0]])

model = nn.Linear(1, 1)
cost = nn.BCEWithLogitsLoss(reduction="sum")
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for epoch in range(1000):
    optimizer.zero_grad()
    loss = cost(model(hours), passed)
    loss.backward()
    optimizer.step()
    if (epoch + 1) % 200 == 0:
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

with torch.no_grad():
    print(torch.sigmoid(model(torch.tensor([[4.0]]))).item())
"""
"""The tutorials' script: three students, no logs, no checkpoints, no picture."""

TABLE_SCRIPT = """
import sys

import pandas
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split

table = pandas.read_csv(sys.argv[1])
features, target = table.drop(columns="target"), table["target"]
train, test, train_target, test_target = train_test_split(features, target, test_size=0.2, random_state=0)
model = LogisticRegression().fit(train, train_target)
probability = model.predict_proba(test)[:, 1]
print("accuracy", accuracy_score(test_target, probability > 0.5), "AUROC", roc_auc_score(test_target, probability))
"""
"""The script that a person would write for a table."""

COLUMNS = 30
"""Columns of the table; the last one is the target."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints three tables; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__)
    parser.add_argument("--rows", type=positive, default=1_000_000, metavar="N", help="rows (default: 1000000)")
    parser.add_argument("--only", choices=PARTS, help="times one part (default: all)")
    arguments = parser.parse_args(typed)
    print_versions()
    for name, time_part in PARTS.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory() as scratch:
                time_part(Path(scratch), arguments)
    return 0


def time_commands(folder: Path, arguments: argparse.Namespace) -> None:
    """Whole commands against the import of torch; the models that they start from are trained in ``folder``."""
    toy, cancer = folder / "toy", folder / "cancer"
    for here, typed in ((toy, []), (cancer, ["dataset=breast_cancer"])):
        here.mkdir()
        process_use([script("train"), "report=brief", *typed], here)
    used = in_turns(
        {
            TORCH: partial(process_use, ["-c", TORCH]),
            "train.py": partial(process_use, [script("train")]),
            "train.py breast_cancer": partial(process_use, [script("train"), "dataset=breast_cancer"]),
            "predict.py": partial(process_use, [script("predict"), "hours=3.5"], toy),
            "evaluate.py": partial(process_use, [script("evaluate")], cancer),
            "certify.py": partial(process_use, [script("certify"), "ckpt_path=latest"], cancer),
            "import lightning, torchvision": partial(process_use, ["-c", "import lightning.pytorch, torchvision"]),
            "the tutorial's plain script": partial(process_use, ["-c", PLAIN_SCRIPT]),
        },
        arguments.repeats,
    )
    print("\ncommands: seconds of processor time of a whole process; the last two for reference")
    print_row("", "median", "min", "max", "/ torch", "target")
    torch = statistics.median(use.processor_seconds for use in used[TORCH])
    for name, uses in used.items():
        taken = [use.processor_seconds for use in uses]
        ratio, target = statistics.median(taken) / torch, TARGETS.get(name)
        verdict = ("none", "") if target is None else (f"<= {target.ratio:.2f}", met(ratio <= target.ratio))
        print_row(name, *spread(taken), f"{ratio:.2f}", *verdict)


def time_answers(folder: Path, arguments: argparse.Namespace) -> None:
    """The answers that need no training."""
    train = script("train")
    used = in_turns(
        {
            "--help": partial(process_use, [train, "--help"]),
            "--cfg job": partial(process_use, [train, "--cfg", "job"]),
            "lrr=0.1 (mistyped)": partial(process_use, [train, "lrr=0.1"], exit_code=2),
        },
        arguments.repeats,
    )
    print("\nanswers without training: seconds of processor time of a whole process")
    print_row("", "median", "min", "max", "", "target")
    for name, uses in used.items():
        taken = [use.processor_seconds for use in uses]
        median = statistics.median(taken)
        print_row(name, *spread(taken), "", f"<= {MOST_SECONDS:g} s", met(median <= MOST_SECONDS))


def time_table(folder: Path, arguments: argparse.Namespace) -> None:
    """A table in CSV against pandas and scikit-learn, where they are installed."""
    path = folder / "table.csv"
    write_table(path, arguments.rows)
    theirs = "pandas and scikit-learn"
    ours = [script("train"), "dataset=table", f"dataset.path={path}", "dataset.target=target"]
    processes = {"ours": partial(process_use, ours)}
    if find_spec("pandas") is not None:
        processes[theirs] = partial(process_use, ["-c", TABLE_SCRIPT, str(path)])
    used = in_turns(processes, arguments.repeats)
    if theirs not in used:
        print(f"\nwithout {theirs}: pandas is not installed")
    title = f"{arguments.rows:,} x {COLUMNS} in CSV"
    for what, part in (("seconds of a whole process", "seconds"), ("peak memory, GiB", "peak")):
        values = {name: [getattr(use, part) for use in uses] for name, uses in used.items()}
        print_ratios(f"{title}: {what}", values, {theirs: Target(1.0)})


def in_turns(processes: Mapping[str, Callable[[], ProcessUse]], repeats: int) -> dict[str, list[ProcessUse]]:
    """Runs processes in turns; the first turn, which finds cold caches, does not count."""
    used: dict[str, list[ProcessUse]] = {name: [] for name in processes}

    def run(name: str) -> list[float]:
        used[name].append(processes[name]())
        return [used[name][-1].seconds]

    alternate({name: partial(run, name) for name in processes}, repeats)
    return {name: uses[-repeats:] for name, uses in used.items()}


def script(command: str) -> str:
    """The file of a command."""
    return str(SCRIPTS / f"{command}.py")


def write_table(path: Path, rows: int) -> None:
    """Writes standard normal features and a target of the logistic model, from a seed."""
    draw = np.random.default_rng(0)
    features = draw.standard_normal((rows, COLUMNS - 1)).round(6)
    logits = features @ draw.standard_normal(COLUMNS - 1) / 3
    columns: dict[str, object] = {f"number{number}": column for number, column in enumerate(features.T)}
    columns["target"] = (draw.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    pyarrow.csv.write_csv(pa.table(columns), str(path))


PARTS = {"commands": time_commands, "answers": time_answers, "table": time_table}
"""The parts by the names that ``--only`` takes."""


if __name__ == "__main__":
    sys.exit(main())
