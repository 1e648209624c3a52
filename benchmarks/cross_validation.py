"""Compares cross-validated regularization paths with R's cv.glmnet and scikit-learn's LogisticRegressionCV.

Ridge, elastic net (l1_ratio 0.5) and lasso, in 10 folds, at the strengths that cv.glmnet chooses: 100 of them, or fewer
where it stops early.  The tables are breast_cancer (569 x 30), 4,600 x 57 of skewed columns that are 0 or more, as in
the spambase data, and birthwt of R's package MASS (189 x 9, where there is R).  All columns are standardized before,
and the folds are the same.  Last, ridge for the 10 classes of digits (softmax), against scikit-learn alone.

glmnet stops at its default tolerance, ours where the relative gap of every fit is certified.  The gaps of glmnet's
fits on all rows are computed here in float64.  scikit-learn fits ridge alone, with newton-cholesky (lbfgs for softmax),
at its default tolerance.  "ours, by class" is LogisticRegressionCV of this package, with the fit at the best strength.

"deviance" compares the mean deviance of the held-out rows for each strength with cv.glmnet's at thresh=1e-14, with
probabilities that are cut off at 1e-5 as glmnet's are.  Where its deviance at thresh=1e-12 is another one, it has not
converged.

Times are processor times; those of R are taken inside of it.  Without R and its package glmnet ours are shown alone.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common import alternate, met, new_parser, print_row, print_versions, spread
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of
from logreg.solvers.paths.folds import FoldPaths, fit_folds
from logreg.solvers.paths.l1_path import default_l1_strengths, largest_slope
from logreg.solvers.paths.l2_path import Strength
from logreg.solvers.problem import Problem

RATIOS = {"ridge": 0.0, "elastic net": 0.5, "lasso": 1.0}
"""Share of l1 in the penalty; glmnet's alpha."""

MOST_RATIO = 1.0
"""Target for our time, in units of cv.glmnet's."""

MOST_DIFFERENCE = 1e-6
"""Target for the relative difference of the deviances."""

TIGHT = 1e-11
"""Relative gap of the fits that glmnet's are compared with."""

FOLDS = 10

RIDGE_RATIO = 1e-3
"""The l1_ratio at which glmnet takes the strongest penalty of ridge."""

MIN_PROBABILITY = 1e-5
"""glmnet's limit of probabilities in a deviance."""

CV_GLMNET = """
suppressMessages(library(glmnet))
arguments <- commandArgs(TRUE)
folder <- arguments[1]
alpha <- as.numeric(arguments[2])
read <- function(name) as.matrix(read.csv(file.path(folder, name), header = FALSE))
x <- read("x.csv"); y <- read("y.csv")[, 1]; foldid <- read("folds.csv")[, 1] + 1
write <- function(values, name) write.table(format(values, digits = 17), file.path(folder, name), sep = ",",
                                            quote = FALSE, row.names = FALSE, col.names = FALSE)
before <- proc.time()
fit <- cv.glmnet(x, y, family = "binomial", alpha = alpha, foldid = foldid, standardize = FALSE)
taken <- proc.time() - before
write(cbind(fit$glmnet.fit$lambda, t(as.matrix(coef(fit$glmnet.fit)))), "points.csv")
cat(taken[1] + taken[2])
"""
"""Runs cv.glmnet, prints its processor time, and writes a line for each strength: lambda, intercept, coefficients."""

PRECISE = """
suppressMessages(library(glmnet))
glmnet.control(fdev = 0, devmax = 1)
arguments <- commandArgs(TRUE)
folder <- arguments[1]
alpha <- as.numeric(arguments[2])
read <- function(name) as.matrix(read.csv(file.path(folder, name), header = FALSE))
x <- read("x.csv"); y <- read("y.csv")[, 1]; foldid <- read("folds.csv")[, 1] + 1
fit <- cv.glmnet(x, y, family = "binomial", alpha = alpha, foldid = foldid, standardize = FALSE,
                 lambda = read("lambda.csv")[, 1], thresh = 1e-12, maxit = 1e6)
better <- cv.glmnet(x, y, family = "binomial", alpha = alpha, foldid = foldid, standardize = FALSE,
                    lambda = read("lambda.csv")[, 1], thresh = 1e-14, maxit = 1e7)
number <- min(length(fit$cvm), length(better$cvm))
found <- format(cbind(fit$cvm[1:number], better$cvm[1:number]), digits = 17)
write.table(found, file.path(folder, "deviance.csv"), sep = ",", quote = FALSE, row.names = FALSE, col.names = FALSE)
"""
"""Runs cv.glmnet with tight tolerances, and writes a line for each strength: the mean deviances."""


BIRTHWT = """
columns <- model.matrix(~ age + lwt + factor(race) + smoke + ptl + ht + ui + ftv, MASS::birthwt)[, -1]
write.table(cbind(MASS::birthwt$low, columns), sep = ",", row.names = FALSE, col.names = FALSE)
"""
"""Prints a line for each row: low, and the features."""


@dataclass(frozen=True)
class Table:
    """A table with its folds."""

    name: str
    features: Tensor
    """Standardized columns, (N, D), float64."""
    labels: Tensor
    folds: Tensor

    @property
    def rows(self) -> MemoryRows:
        """The rows for our solvers."""
        return MemoryRows(self.features, self.labels)

    @property
    def problem(self) -> Problem:
        """The problem over all rows."""
        return problem_of(self.rows, Objective("bce"))


def main(typed: Sequence[str] | None = None) -> int:
    """Prints a table for each penalty; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=5)
    parser.add_argument("--tiny", action="store_true", help="few rows and strengths, for a test of this script")
    parser.add_argument("--gap", type=float, default=1e-7, help="relative gap of our fits (default: 1e-7)")
    parser.add_argument("--without-r", action="store_true", help="leaves out cv.glmnet")
    arguments = parser.parse_args(typed)
    print_versions()
    reason = "asked for" if arguments.without_r else _missing()
    if reason:
        print(f"without cv.glmnet: {reason}")
    torch.set_num_threads(1)
    for table in tables(arguments.tiny, with_r=not reason):
        for penalty, ratio in RATIOS.items():
            print(f"\n{table.name}, {penalty}: {FOLDS} folds, processor seconds")
            with tempfile.TemporaryDirectory() as folder:
                compare(table, ratio, arguments.gap, arguments.repeats, arguments.tiny, Path(folder), not reason)
    compare_softmax(arguments.gap, arguments.repeats, arguments.tiny)
    return 0


def _missing() -> str:
    """The reason why cv.glmnet cannot be run; empty where it can."""
    if shutil.which("Rscript") is None:
        return "there is no Rscript (Debian: apt install r-base-core r-cran-glmnet)"
    done = subprocess.run(["Rscript", "-e", "library(glmnet)"], capture_output=True, check=False)
    return "R has no package glmnet (Debian: apt install r-cran-glmnet)" if done.returncode else ""


def tables(tiny: bool, with_r: bool) -> list[Table]:
    """The tables."""
    from sklearn.datasets import load_breast_cancer

    draw = torch.Generator().manual_seed(1)
    cancer, labels = (torch.from_numpy(part) for part in load_breast_cancer(return_X_y=True))
    skewed = (1.5 * torch.randn(4600, 57, generator=draw, dtype=torch.float64)).exp().sub(1.5).clamp(min=0)
    coef = torch.randn(57, generator=draw, dtype=torch.float64) * (torch.rand(57, generator=draw) < 0.5)
    odds = ((skewed - skewed.mean(0)) / skewed.std(0)) @ coef
    spam = (torch.rand(4600, generator=draw, dtype=torch.float64) < torch.sigmoid(odds)).long()
    given = [("breast_cancer", cancer.double(), labels), ("skewed columns", skewed, spam)]
    if with_r:
        values = torch.tensor([[float(one) for one in line.split(",")] for line in _of_r(BIRTHWT).split()]).double()
        given.append(("birthwt", values[:, 1:], values[:, 0].long()))
    found = []
    for name, x, y in given:
        if tiny:
            some = slice(None, None, len(x) // 60)
            x, y = x[some, :4], y[some]
        rows, columns = x.shape
        x = (x - x.mean(0)) / x.std(0, correction=0)
        folds = torch.randperm(len(x), generator=draw) % FOLDS
        found.append(Table(f"{name} {rows:,} x {columns}", x, y, folds))
    return found


def compare(table: Table, ratio: float, gap: float, repeats: int, tiny: bool, folder: Path, with_r: bool) -> None:
    """Prints the table of one penalty."""
    for name, values in (("x", table.features), ("y", table.labels), ("folds", table.folds)):
        np.savetxt(folder / f"{name}.csv", values.numpy(), delimiter=",", fmt="%.17g")
    strengths = _default_strengths(table, ratio, 5 if tiny else 100)
    if with_r:
        _in_r(CV_GLMNET, folder, ratio)
        glmnet_points = torch.from_numpy(np.loadtxt(folder / "points.csv", delimiter=",", ndmin=2))
        strengths = [Strength((1 - ratio) * one, ratio * one) for one in glmnet_points[:, 0].tolist()]
    paths: list[FoldPaths] = []
    arms = {
        "ours": lambda: _ours(table, strengths, gap, paths),
        "ours, by class": lambda: _by_class(table, strengths, ratio, gap),
    }
    if with_r:
        arms["cv.glmnet"] = lambda: [float(_in_r(CV_GLMNET, folder, ratio))]
    if not ratio:
        arms["scikit-learn"] = lambda: _sklearn(table, strengths)
    _show(alternate(arms, repeats))
    found = paths[-1]
    points = [point for path in (found.full, *found.of_folds) for point in path]
    largest = max((point.bound.gap + point.bound.rounding) / point.bound.value for point in points)
    certified = sum(point.converged for point in points)
    print(f"ours: {certified} of {len(points)} fits certified; largest certified relative gap {largest:.1e}")
    if not with_r:
        return
    tight = fit_folds(table.problem, table.rows, table.folds, strengths, TIGHT)
    gaps = _gaps(table, strengths, glmnet_points, tight)
    print(
        f"glmnet, {len(gaps)} fits on all rows: true relative gap {statistics.median(gaps):.1e} median, "
        f"{max(gaps):.1e} largest"
    )
    np.savetxt(folder / "lambda.csv", [one.l2 + one.l1 for one in strengths], fmt="%.17g")
    _in_r(PRECISE, folder, ratio)
    rough, theirs = torch.from_numpy(np.loadtxt(folder / "deviance.csv", delimiter=",", ndmin=2)).T
    ours = _deviance(table, tight)[: len(theirs)]
    difference = (ours - theirs).abs() / theirs
    settled = (rough - theirs).abs() <= MOST_DIFFERENCE * theirs
    within = int((difference[settled] <= MOST_DIFFERENCE).sum())
    print(
        f"deviance: cv.glmnet's at thresh=1e-12 and 1e-14 agree to {MOST_DIFFERENCE:.0e} at {int(settled.sum())} of "
        f"{len(theirs)} strengths, and ours with it at {within} of these; relative difference "
        f"{float(difference.median()):.1e} median, {float(difference.max()):.1e} largest"
    )


def compare_softmax(gap: float, repeats: int, tiny: bool) -> None:
    """Prints the table of several classes: LogisticRegressionCV of both packages, with the fit at the best strength."""
    from sklearn.datasets import load_digits

    pixels, digits = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    features, labels = (pixels[:300, 20:28], digits[:300]) if tiny else (pixels, digits)
    draw = torch.Generator().manual_seed(1)
    table = Table("digits", features / 16, labels, torch.randperm(len(labels), generator=draw) % (FOLDS // 2))
    strengths = [Strength(10.0**-power) for power in torch.linspace(0, 6, 3 if tiny else 25).tolist()]
    print(f"\ndigits {len(labels):,} x {features.shape[1]}, softmax, ridge: {FOLDS // 2} folds, processor seconds")
    arms = {
        "ours": lambda: _by_class(table, strengths, 0.0, gap),
        "scikit-learn": lambda: _sklearn(table, strengths, "lbfgs"),
    }
    _show(alternate(arms, repeats))


def _default_strengths(table: Table, ratio: float, number: int) -> list[Strength]:
    if ratio:
        return default_l1_strengths(table.problem, table.rows, ratio, number)
    strongest = largest_slope(table.problem, table.rows) / RIDGE_RATIO
    return [Strength(strongest * 1e-4**share) for share in torch.linspace(0, 1, number).tolist()]


def _in_r(script: str, folder: Path, ratio: float) -> str:
    """Runs a script in R on the files of a table, and returns what it prints."""
    return _of_r(script, str(folder), str(ratio))


def _of_r(script: str, *arguments: str) -> str:
    """What a script prints in R."""
    return subprocess.run(["Rscript", "-e", script, *arguments], capture_output=True, text=True, check=True).stdout


def _ours(table: Table, strengths: Sequence[Strength], gap: float, paths: list[FoldPaths]) -> list[float]:
    start = time.process_time()
    paths[:] = [fit_folds(table.problem, table.rows, table.folds, strengths, gap)]
    return [time.process_time() - start]


def _by_class(table: Table, strengths: Sequence[Strength], ratio: float, gap: float) -> list[float]:
    from logreg import LogisticRegressionCV

    return _seconds_of(LogisticRegressionCV(**_parameters(table, strengths), l1_ratios=[ratio], tol=gap), table)


def _sklearn(table: Table, strengths: Sequence[Strength], solver: str = "newton-cholesky") -> list[float]:
    from sklearn.linear_model import LogisticRegressionCV

    model = LogisticRegressionCV(
        **_parameters(table, strengths),
        solver=solver,
        l1_ratios=(0.0,),
        scoring="neg_log_loss",
        use_legacy_attributes=False,
    )
    return _seconds_of(model, table)


def _parameters(table: Table, strengths: Sequence[Strength]) -> dict[str, Any]:
    """The strengths and the folds as both classes take them.  C goes with a sum, and a fold's fit has fewer rows."""
    from sklearn.model_selection import PredefinedSplit

    Cs = [1 / (len(table.labels) * (one.l2 + one.l1)) for one in strengths]
    return {"Cs": Cs, "cv": PredefinedSplit(table.folds.numpy())}


def _seconds_of(model: Any, table: Table) -> list[float]:
    """The processor time of a fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.process_time()
        model.fit(table.features.numpy(), table.labels.numpy())
        return [time.process_time() - start]


def _show(seconds: Mapping[str, Sequence[float]]) -> None:
    print_row("", "median", "min", "max", "ours / it", "target")
    ours = statistics.median(seconds["ours"])
    for name, taken in seconds.items():
        share = ours / statistics.median(taken)
        if name.startswith("ours"):
            print_row(name, *spread(taken))
        else:
            print_row(name, *spread(taken), f"{share:.2f}", f"<= {MOST_RATIO:.2f}", met(share <= MOST_RATIO))


def _gaps(table: Table, strengths: Sequence[Strength], points: Tensor, tight: FoldPaths) -> list[float]:
    """The relative gaps of glmnet's fits on all rows."""
    targets, found = table.labels.double(), []
    for strength, point, best in zip(strengths, points, tight.full, strict=True):
        logits = table.features @ point[2:] + point[1]
        penalty = strength.l2 / 2 * point[2:].square().sum() + strength.l1 * point[2:].abs().sum()
        value = float(F.binary_cross_entropy_with_logits(logits, targets) + penalty)
        found.append((value - best.bound.value + best.bound.gap) / value)
    return found


def _deviance(table: Table, paths: FoldPaths) -> Tensor:
    """The mean deviance of the held-out rows, (P,)."""
    total = torch.zeros(len(paths.strengths), dtype=torch.float64)
    for fold, path in enumerate(paths.of_folds):
        own, points = table.folds == fold, torch.cat([one.point for one in path])
        logits = table.features[own] @ points[:, :-1].T + points[:, -1]
        sign = 2.0 * table.labels[own].unsqueeze(1) - 1
        right = torch.sigmoid(sign * logits).clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        total -= 2 * right.log().sum(0)
    return total / len(table.labels)


if __name__ == "__main__":
    sys.exit(main())
