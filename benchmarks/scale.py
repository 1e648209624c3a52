"""Times a table in many Parquet files from the files to a certified model with scores: 10,000,000 x 50, as a process.

Peak memory is of two kinds.  Anonymous memory has no file behind it, so that it must be there.  Total memory also
counts the pages of mapped files, which the system takes back when it needs room.

Alone, ours runs twice: with val and test held out, as by default, and with all rows in train, which are then scored.
With --rivals all rows are train, and they are fitted by Spark ML (two threads) and by H2O too, each in a process of its
own that also computes the area under the ROC curve.
They need pyspark or h2o and a Java runtime.  The gap of each model is its objective in float64 over all rows, less the
lower bound on the minimum that our certificate gives.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from common import SCRIPTS, met, new_parser, positive, print_versions

FILES = 4

GROUP_ROWS = 2**17
"""Rows of a row group."""

L2 = 1e-6

SHARE = 0.25
"""Largest accepted ratio of our seconds to those of the faster rival."""

ANONYMOUS_GIB = 1.5
"""Largest accepted anonymous memory, GiB."""

POLL_SECONDS = 0.1
"""Time between two looks at the memory of a process."""

SPARK = """
import json, sys, time
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import SparkSession

folder, l2, target = sys.argv[1], float(sys.argv[2]), sys.argv[3]
spark = SparkSession.builder.master("local[2]").config("spark.driver.memory", "8g").getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
start = time.perf_counter()
table = spark.read.parquet(folder)
names = [name for name in table.columns if name != target]
rows = VectorAssembler(inputCols=names, outputCol="features").transform(table).select("features", target)
fit = LogisticRegression(labelCol=target, regParam=l2, elasticNetParam=0.0, standardization=False).fit(rows)
auroc = BinaryClassificationEvaluator(labelCol=target).evaluate(fit.transform(rows))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "coef": list(fit.coefficients), "intercept": fit.intercept, "auroc": auroc}))
"""
"""Spark ML with its default tolerance and number of iterations."""

H2O = """
import json, sys, time
import h2o
from h2o.estimators import H2OGeneralizedLinearEstimator

folder, l2, target = sys.argv[1], float(sys.argv[2]), sys.argv[3]
h2o.init(nthreads=2, max_mem_size="8g", port=54421, log_level="ERRR")
h2o.no_progress()
start = time.perf_counter()
table = h2o.import_file(folder)
table[target] = table[target].asfactor()
names = [name for name in table.columns if name != target]
fit = H2OGeneralizedLinearEstimator(family="binomial", alpha=0.0, lambda_=l2, standardize=False)
fit.train(x=names, y=target, training_frame=table)
auroc = fit.auc()
seconds = time.perf_counter() - start
found = fit.coef()
print(json.dumps({"seconds": seconds, "coef": [found[name] for name in names], "intercept": found["Intercept"],
                  "auroc": auroc}))
h2o.cluster().shutdown()
"""
"""H2O's generalized linear model with its default solver and tolerance."""

RIVALS = {"spark": SPARK, "h2o": H2O}


class Run(NamedTuple):
    """What a process did."""

    name: str
    seconds: float
    """Wall time of the whole process."""
    own_seconds: float
    """Wall time without the start of the runtime."""
    processor_seconds: float
    """Processor time of the process and of all that it started."""
    anonymous: float
    """Peak of its anonymous memory, GiB."""
    total: float
    """Peak of its resident memory, GiB."""
    objective: float
    """Objective that the process states; nan where it states none."""
    gap: float
    """Certified gap; nan where there is none."""
    auroc: float
    coef: np.ndarray[Any, Any]
    """Shape (D,)."""
    intercept: float


def main(typed: Sequence[str] | None = None) -> int:
    """Prints a table; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=None)
    parser.add_argument("--rows", type=positive, default=10_000_000, metavar="N", help="rows (default: 10000000)")
    parser.add_argument("--features", type=positive, default=50, metavar="D", help="features (default: 50)")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="keeps the files here, and uses those that are there"
    )
    parser.add_argument(
        "--storage", default="mapped", choices=("auto", "memory", "mapped"), help="of our rows (default: mapped)"
    )
    parser.add_argument("--rivals", type=_rivals, default=[], metavar="LIST", help="some of spark,h2o (default: none)")
    arguments = parser.parse_args(typed)
    print_versions()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch, "rows")
        if not any(folder.glob("*.parquet")):
            write_rows(folder, arguments.rows, arguments.features)
        runs = [ours(folder, Path(scratch, "all"), arguments.storage, all_rows=True)]
        runs += [rival(name, folder) for name in arguments.rivals]
        if not arguments.rivals:
            runs.append(ours(folder, Path(scratch, "held-out"), arguments.storage, all_rows=False))
        report(runs, folder, arguments)
    return 0


def write_rows(folder: Path, rows: int, features: int) -> None:
    """Writes a logistic model's rows from a seed, one row group after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    coef = np.random.default_rng(0).standard_normal(features).astype(np.float32) / np.float32(features**0.5)
    fields = [*((f"x{number}", pa.float32()) for number in range(features)), ("target", pa.int8())]
    sizes = [min(GROUP_ROWS, rows - first) for first in range(0, rows, GROUP_ROWS)]
    for file, groups in enumerate(np.array_split(np.arange(len(sizes)), min(FILES, len(sizes)))):
        path = folder / f"part-{file}.parquet"
        with pyarrow.parquet.ParquetWriter(path, pa.schema(fields), use_dictionary=False) as writer:
            for group in groups.tolist():
                draw = np.random.default_rng([1, group])
                values = draw.standard_normal((sizes[group], features), dtype=np.float32)
                target = draw.random(sizes[group]) < 1 / (1 + np.exp(-values @ coef))
                columns = [*np.ascontiguousarray(values.T), target.astype(np.int8)]
                writer.write_table(pa.table(columns, schema=pa.schema(fields)), row_group_size=sizes[group])


def ours(folder: Path, scratch: Path, storage: str, all_rows: bool) -> Run:
    """Our command in a new folder; ``all_rows`` holds no rows out."""
    scratch.mkdir()
    settings = {
        "dataset": "table",
        "dataset.path": folder.resolve(),
        "dataset.target": "target",
        "dataset.storage": storage,
        "dataset.standardize": "false",
        "l2": L2,
        "report": "brief",
        "hydra.run.dir": scratch / "run",
    }
    if all_rows:
        settings |= {"dataset.split.val": 0, "dataset.split.test": 0}
    command = [str(SCRIPTS / "train.py"), *(f"{key}={value}" for key, value in settings.items())]
    seconds, processor_seconds, anonymous, total, _ = watched(command, scratch)
    summary = json.loads((scratch / "run" / "summary.json").read_text())
    found = {row["feature"]: row["1"] for row in _csv(scratch / "run" / "coefficients.csv")}
    certificate = summary["optimality"]
    return Run(
        f"ours, {storage}" if all_rows else "with val, test",
        seconds,
        seconds,
        processor_seconds,
        anonymous,
        total,
        certificate["value"],
        certificate["gap"],
        summary["metrics"]["train"]["auroc"],
        np.array([value for name, value in found.items() if name != "intercept"]),
        found["intercept"],
    )


def rival(name: str, folder: Path) -> Run:
    """Another program on the same rows."""
    command = ["-c", RIVALS[name], str(folder.resolve()), str(L2), "target"]
    seconds, processor_seconds, anonymous, total, out = watched(command, folder)
    found = json.loads(next(line for line in out.splitlines() if line.startswith('{"seconds"')))
    coef = np.array(found["coef"])
    nan = float("nan")
    return Run(
        name,
        seconds,
        found["seconds"],
        processor_seconds,
        anonymous,
        total,
        nan,
        nan,
        found["auroc"],
        coef,
        found["intercept"],
    )


def watched(arguments: Sequence[str], folder: Path) -> tuple[float, float, float, float, str]:
    """Runs Python: wall and processor seconds, peak anonymous and total memory in GiB, and output.

    The processes that it starts count too.

    Raises:
        RuntimeError: It had an exit code other than 0.
    """
    os.sync()  # else the disk would be busy with the files of what ran before
    start = time.perf_counter()
    peaks, ticks = [0, 0], dict[int, int]()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, *arguments], stdout=out, stderr=subprocess.STDOUT, cwd=folder)
        while process.poll() is None:
            family = _family(process.pid)
            ticks |= {one: max(ticks.get(one, 0), _ticks(one)) for one in family}
            used = [_memory(one) for one in family]
            peaks = [max(peak, sum(now)) for peak, now in zip(peaks, zip(*used, strict=True), strict=True)]
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - start
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} left with {process.returncode}:\n{text}")
    return seconds, sum(ticks.values()) / os.sysconf("SC_CLK_TCK"), peaks[0] / 2**20, peaks[1] / 2**20, text


def report(runs: Sequence[Run], folder: Path, arguments: argparse.Namespace) -> None:
    """Prints the table, and the verdicts on both targets."""
    mine, rivals = runs[0], [run for run in runs if run.name in RIVALS]
    least = mine.objective - mine.gap
    print(f"\nscale: {arguments.rows:,} x {arguments.features} in {len(list(folder.glob('*.parquet'))):,} files")
    heads = {"seconds": 9, "own": 8, "cpu": 8, "anon GiB": 10, "all GiB": 9, "objective": 18, "gap <=": 10, "auroc": 9}
    print(" " * 16 + "".join(f"{head:>{width}}" for head, width in heads.items()))
    for run in runs:
        objective = objective_of(run, folder) if rivals else run.objective
        gap = objective - least if rivals else run.gap
        print(
            f"{run.name:<16}{run.seconds:>9.1f}{run.own_seconds:>8.1f}{run.processor_seconds:>8.1f}{run.anonymous:>10.2f}{run.total:>9.2f}"
            f"{objective:>18.12f}{gap:>10.1e}{run.auroc:>9.4f}",
            flush=True,
        )
    print(f"ours states the objective {mine.objective:.12f} and certifies a gap of {mine.gap:.1e}")
    anonymous = max(run.anonymous for run in runs if run.name not in RIVALS)
    print(f"anonymous memory of ours: <= {ANONYMOUS_GIB} GiB {met(anonymous <= ANONYMOUS_GIB)}")
    if rivals:
        ratio = mine.seconds / min(run.own_seconds for run in rivals)
        print(
            f"our seconds / those of the faster rival without its start: {ratio:.2f}, <= {SHARE} {met(ratio <= SHARE)}"
        )


def objective_of(run: Run, folder: Path) -> float:
    """The objective of a model in float64 over all rows."""
    total, rows = 0.0, 0
    for values, target in _batches(folder):
        logits = values.astype(np.float64) @ run.coef + run.intercept
        total += float(np.logaddexp(0, np.where(target == 1, -logits, logits)).sum())
        rows += len(target)
    return total / rows + L2 / 2 * float(run.coef @ run.coef)


def _batches(folder: Path) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Features (n, D) and targets (n,) of all rows, row group by row group."""
    for path in sorted(folder.glob("*.parquet")):
        file = pyarrow.parquet.ParquetFile(path)
        for group in range(file.num_row_groups):
            *columns, target = (column.to_numpy() for column in file.read_row_group(group).columns)
            yield np.stack(columns, axis=1), target


def _csv(path: Path) -> list[dict[str, Any]]:
    import pyarrow.csv

    rows: list[dict[str, Any]] = pyarrow.csv.read_csv(path).to_pylist()
    return rows


def _family(process: int) -> list[int]:
    """A process and all that it started.

    A child that has not yet begun its own program is left out: it shares the memory of its parent.
    """
    found = [process]
    for one in found:
        try:
            found += [
                int(child)
                for task in Path(f"/proc/{one}/task").iterdir()
                for child in (task / "children").read_text().split()
                if _command(child) != _command(one)
            ]
        except OSError:  # it has ended
            continue
    return found


def _command(process: int | str) -> str:
    """The command line of a process."""
    return Path(f"/proc/{process}/cmdline").read_text()


def _ticks(process: int) -> int:
    """Processor time of a process, in ticks of the system."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0
    return int(after_name[11]) + int(after_name[12])


def _memory(process: int) -> tuple[int, int]:
    """Anonymous and total resident memory of a process, KiB."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0, 0
    sizes = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "VmRSS"))}
    return sizes.get("RssAnon", 0), sizes.get("VmRSS", 0)


def _rivals(text: str) -> list[str]:
    """Names from a list with commas.

    Raises:
        argparse.ArgumentTypeError: One is unknown.
    """
    for name in (names := text.split(",")):
        if name not in RIVALS:
            raise argparse.ArgumentTypeError(f"must be of {', '.join(RIVALS)}, got {name!r}")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
