"""Times exact fits of sparse rows against scikit-learn's lbfgs, newton-cg, liblinear and saga.

``rcv1`` is a generated set in the shape of RCV1, news in two classes: --rows rows of about 75 words from a vocabulary
of --features, whose frequencies follow a power law, with TF-IDF weights and rows of norm 1.  ``text`` is a file with
the columns text and topic (--text), of which TfidfVectorizer makes words and pairs of words.  C is that of
scikit-learn: l2 = 1 / (C N).

f* comes from a certified fit of ours.  Each solver gets the loosest tolerance whose answer is within the gap, computed
here in float64 over all rows; the solvers are then timed in turns, from arrays in memory to the answer.  Our time
includes the certificate.  scikit-learn gets float32 and float64, its liblinear and saga float64 alone.

The figures are seconds to a true relative gap (f - f*) / f*.  The ratio is of our median to that of the best rival, so
below 1 ours is faster.  The memory is the peak during one fit of ours above the memory before it, on Linux; the size of
the CSR arrays stands in the title of the case.

With --epochs an epoch of sgd (batches of 256) of the training command's module is timed instead, against one of
SGDClassifier, and with --memory the peak memory of the training command above that of the same command on few rows.
"""

from __future__ import annotations

import csv
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from scipy import sparse
from scipy.special import logsumexp
from torch import Tensor

from common import SCRIPTS, new_parser, positive, print_versions, process_use, silence_lightning
from logreg.csr import as_scipy, num_bytes, of_scipy, some_rows
from logreg.data import RawData, Table, TensorDataModule
from logreg.losses.objective import Objective
from logreg.training.module import LogisticModule
from map import OPTIMUM, Answer, Optimum, Problem, Solver, compare

GAPS = (1e-3, 1e-5)
"""Relative gaps to reach."""

WORDS_PER_ROW = 86
"""Words that a row draws; the repeated ones leave about 75."""

ZIPF_EXPONENT = 0.9
"""Exponent of the power law of the words' frequencies."""

BATCH = 256
"""Rows of a batch of sgd, as dataset=features has."""

SGD_L2 = 1e-5
"""Penalty of an epoch of sgd."""

INTERCEPT_SCALING = 10.0
"""liblinear penalizes the intercept; with this scale of its column the penalty is small."""


@dataclass(frozen=True, eq=False)
class SparseProblem(Problem):
    """Sparse rows in memory, a CSR tensor, and the objective over them."""

    @property
    def shape(self) -> str:
        """The size, the penalty and the bytes of the arrays."""
        n, d = self.features.shape
        numbers, classes = self.features.values().shape[0], max(self.num_outputs, 2)
        arrays = (self.features.values(), self.features.col_indices(), self.features.crow_indices())
        size = sum(part.numel() * part.element_size() for part in arrays) / 2**20
        return (
            f"{n:,} x {d:,}, {numbers / n:.0f} in a row, {classes} classes, l2={self.objective.l2:.0e}, {size:.0f} MiB"
        )

    @cached_property
    def optimum(self) -> Optimum:
        """f*, from a fit of ours."""
        fit = self.fitted(OPTIMUM)
        certified = fit.bound.gap / fit.bound.value
        return Optimum(self.value(fit.coef, fit.intercept), certified, fit.bound.rigorous and certified <= OPTIMUM)

    def value(self, coef: Tensor, intercept: Tensor) -> float:
        """The objective at coef (K, D) and intercept (K,), in float64 over all rows."""
        logits = as_scipy(self.features).astype(np.float64) @ coef.numpy().T + intercept.numpy()
        labels = self.labels.numpy()
        if self.num_outputs == 1:
            losses = np.logaddexp(0.0, logits[:, 0] * (1 - 2 * labels))
        else:
            losses = logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]
        return float(losses.mean()) + float(self.objective.penalty(coef))


def rivals(problem: SparseProblem) -> Iterator[Solver]:
    """scikit-learn's solvers for this problem."""
    features = as_scipy(problem.features)
    for name in ("lbfgs", "newton-cg"):
        for dtype in (np.float32, np.float64):
            converted = features.astype(dtype)
            yield Solver(f"{name} {converted.dtype}", partial(_scikit_learn, problem, converted, name))
    if problem.num_outputs == 1:
        yield Solver("liblinear", partial(_scikit_learn, problem, features.astype(np.float64), "liblinear"))
    yield Solver("saga", partial(_scikit_learn, problem, features.astype(np.float64), "saga"))


def _scikit_learn(problem: SparseProblem, features: sparse.csr_array, solver: str, tolerance: float) -> Answer:
    from sklearn.linear_model import LogisticRegression

    strength = 1 / (features.shape[0] * problem.objective.l2)
    model = LogisticRegression(
        C=strength, solver=solver, tol=tolerance, max_iter=10_000, intercept_scaling=INTERCEPT_SCALING, random_state=0
    ).fit(features, problem.labels.numpy())
    coef, intercept = (torch.from_numpy(part.astype(np.float64)) for part in (model.coef_, model.intercept_))
    return Answer(coef, intercept)


def rcv1_like(rows: int, features: int) -> tuple[Tensor, Tensor]:
    """Generated rows and their labels; see the top of the file."""
    draw = np.random.default_rng(0)
    frequency = 1 / (np.arange(features) + 10.0) ** ZIPF_EXPONENT
    counts = draw.poisson(WORDS_PER_ROW, rows).clip(1)
    words = np.searchsorted(np.cumsum(frequency / frequency.sum()), draw.random(counts.sum())).clip(max=features - 1)
    words = draw.permutation(features)[words].astype(np.int32)  # frequent words lie anywhere
    begins = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    x = sparse.csr_array((np.ones(len(words), dtype=np.float32), words, begins), shape=(rows, features))
    x.sum_duplicates()
    rows_with = np.bincount(x.indices, minlength=features)
    x.data = (1 + np.log(x.data)) * (1 + np.log((1 + rows) / (1 + rows_with[x.indices])).astype(np.float32))
    norms = np.sqrt(np.add.reduceat(x.data**2, x.indptr[:-1]))
    x.data = (x.data / np.repeat(norms, np.diff(x.indptr))).astype(np.float32)
    coef = 8 * draw.standard_normal(features) * (draw.random(features) < 0.3)
    logits = x @ coef
    return of_scipy(x), torch.from_numpy(
        (logits - np.median(logits) + draw.logistic(size=rows) / 2 > 0).astype(np.int64)
    )


def text_rows(path: Path) -> tuple[Tensor, Tensor]:
    """The texts of a file and their topics."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, dtype=np.float32)
    x = sparse.csr_array(vectorizer.fit_transform([row["text"] for row in rows]))
    x.sum_duplicates()
    return of_scipy(x), torch.from_numpy(np.unique([row["topic"] for row in rows], return_inverse=True)[1])


class _Given(NamedTuple):
    """A dataset of rows in memory."""

    features: Tensor
    labels: Tensor
    name: str = "given"

    def read(self) -> RawData:
        return RawData({"train": Table(self.features, self.labels)}, ("0", "1"))


class _Timer(pl.Callback):
    """Processor time of each epoch, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._start = time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seconds.append(time.process_time() - self._start)


def epochs(features: Tensor, labels: Tensor, number: int) -> str:
    """A row of the table: processor time of an epoch of sgd and of SGDClassifier, medians of ``number``."""
    from sklearn.linear_model import SGDClassifier

    silence_lightning()
    data = TensorDataModule(_Given(features, labels), BATCH, {"val": 0, "test": 0}, standardize=None)
    timer, module = _Timer(), LogisticModule(data.facts, l2=SGD_L2, lr=0.1, batch_size=BATCH, max_epochs=number)
    switches: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = pl.Trainer(
        max_epochs=number, accelerator="cpu", callbacks=[timer], enable_model_summary=False, **switches
    )
    trainer.fit(module, data)
    theirs = []
    for _ in range(number):
        model = SGDClassifier(loss="log_loss", alpha=SGD_L2, max_iter=1, tol=None, learning_rate="constant", eta0=0.1)
        start = time.process_time()
        model.fit(as_scipy(features), labels.numpy())
        theirs.append(time.process_time() - start)
    mine, other = median(timer.seconds), median(theirs)
    return f"| sgd, an epoch | {mine:.3f} | {other:.3f} | SGDClassifier | {mine / other:.2f} |"


def memory(features: Tensor, labels: Tensor) -> str:
    """A line: peak memory of the training command on a file of these rows, above that on the first hundred."""
    peaks = []  # bytes
    with TemporaryDirectory() as folder:
        for x, y in ((features, labels), (some_rows(features, 0, 100), labels[:100])):
            sparse.save_npz(f"{folder}/X.npz", as_scipy(x), compressed=False)
            np.save(f"{folder}/y.npy", y.numpy())
            words = ["dataset=features", "dataset.path=[X.npz,y.npy]", f"l2={1 / len(y)}", "report=brief"]
            use = process_use([str(SCRIPTS / "train.py"), *words], Path(folder))
            peaks.append(use.peak * 2**30)
    arrays = num_bytes(features)
    return (
        f"memory of the training command: {(peaks[0] - peaks[1]) / arrays:.2f} times the {arrays / 2**20:.0f} MiB of "
        "the CSR arrays"
    )


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=3)
    parser.add_argument("--rows", type=positive, default=800_000, metavar="N", help="rows of rcv1 (default: 800000)")
    parser.add_argument("--features", type=positive, default=47_000, metavar="D", help="its words (default: 47000)")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="CSV with the columns text and topic, for the case text"
    )
    parser.add_argument("--c", action="append", type=float, metavar="C", help="penalty (default: 1; again for more)")
    parser.add_argument("--gap", action="append", type=float, metavar="GAP", help="a relative gap (again for more)")
    parser.add_argument("--epochs", type=positive, metavar="NUMBER", help="times so many epochs of sgd instead")
    parser.add_argument("--memory", action="store_true", help="measures the training command's memory instead")
    parser.add_argument("--ours-alone", action="store_true", help="leaves the rivals out")
    parser.add_argument("--process-time", action="store_true", help="CPU time, for machines that are busy otherwise")
    parser.add_argument("--cut", type=float, default=5.0, help="breaks a rival off after this multiple of our time")
    parser.add_argument("--limit", type=float, default=300.0, metavar="SECONDS", help="breaks a fit of ours off")
    parser.add_argument("--threads", type=positive, help="threads of torch (default: all cores)")
    arguments = parser.parse_args(typed)
    arguments.gap = arguments.gap or list(GAPS)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    print_versions()
    print(f"{torch.get_num_threads()} threads, {'process' if arguments.process_time else 'wall'} time")
    if arguments.epochs or arguments.memory:
        features, labels = rcv1_like(arguments.rows, arguments.features)
        if arguments.epochs:
            print(epochs(features, labels, arguments.epochs))
        if arguments.memory:
            print(memory(features, labels))
        return 0
    print("| gap | ours, s | best rival, s | which | ratio | true gap | certified | passes | peak, MiB |")
    print("|---|--:|--:|---|--:|--:|--:|--:|--:|")
    name, loss = ("text", "cross_entropy") if arguments.text else ("rcv1", "bce")
    features, labels = text_rows(arguments.text) if arguments.text else rcv1_like(arguments.rows, arguments.features)
    for strength in arguments.c or [1.0]:
        problem = SparseProblem(features, labels, Objective(loss, l2=1 / (strength * len(labels))))
        print(f"| **{name}**, C={strength:g}: {problem.shape} | | | | | | | | |", flush=True)
        for line in compare(problem, arguments, rivals):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
