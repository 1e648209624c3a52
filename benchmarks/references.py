"""Compares statsmodels on its own data sets, and every number of R's references, with what the commands give.

`scripts/train.py l2=0` fits each table, and `scripts/coefficients.py json=true` is asked for the numbers.  A row has
the largest difference of some numbers, relative to theirs; of limits, which may be near 0, relative to the limit or to
its standard error.  The folder of the references has ``inference.json`` with the numbers of R, and its tables as CSV.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import met, new_parser, print_versions
from logreg.commands import coefficients, train

Answer = dict[str, Any]
Ask = Callable[..., Answer]

MOST_DIFFERENCE, MOST_OF_LIMITS = 1e-6, 1e-4
"""Targets; R interpolates profile limits by a spline."""

NAMES = {"coef": "estimate", "std_error": "std_error", "z": "z", "p": "p"}
"""Numbers of a coefficient, by our name: R's."""

WHITE = "reference={race:white}"


class Compared:
    """Compares numbers, and prints a row for each comparison."""

    def __init__(self) -> None:
        self.numbers, self.missed = 0, 0

    def __call__(
        self,
        name: str,
        ours: Sequence[float],
        theirs: Any,
        most: float = MOST_DIFFERENCE,
        errors: Any = 0.0,
    ) -> None:
        """``errors`` are standard errors by which differences may be divided instead."""
        own, known = np.asarray(ours), np.asarray(theirs)
        largest = float((np.abs(own - known) / np.maximum(np.abs(known), errors)).max())
        self.numbers += known.size
        self.missed += largest > most
        print(f"{name:<36}{known.size:>8}{largest:>20.1e}  <= {most:<6g} {met(largest <= most)}", flush=True)


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the table; returns 0 where all numbers agree, and 1 else."""
    parser = new_parser(__doc__, repeats=None)
    parser.add_argument("--references", type=Path, metavar="FOLDER", help="folder of R's references (default: none)")
    arguments = parser.parse_args(typed)
    print_versions()
    print(f"{'':<36}{'numbers':>8}{'largest difference':>20}  target")
    compare, folder = Compared(), arguments.references and arguments.references.resolve()
    with tempfile.TemporaryDirectory() as own, contextlib.chdir(own):
        if folder:
            compare_with_r(compare, folder, json.loads((folder / "inference.json").read_text(encoding="utf-8")))
        compare_with_statsmodels(compare)
    print(f"{compare.numbers:,} numbers; {compare.missed} comparisons beyond their target")
    return int(compare.missed > 0)


def compare_with_r(compare: Compared, folder: Path, known: Mapping[str, Any]) -> None:
    """All numbers of ``inference.json``."""
    of_table = known["birthwt"]
    ask = fitted(folder / "birthwt.csv", "low")
    answer = ask(WHITE)
    compare_coefficients(compare, "birthwt", answer, of_table["logit"])
    of_fit = ("log_likelihood", "null_log_likelihood", "aic", "bic")
    of_r = [of_table["logit"][name] for name in ("loglik", "null_loglik", "aic", "bic")]
    compare("birthwt, likelihoods, AIC, BIC", [answer["fit"][name] for name in of_fit], of_r)
    profile = ask(WHITE, "interval=profile")
    for end in ("low", "high"):
        limits, errors = numbers(profile, end), numbers(answer, "std_error")
        compare(f"birthwt, profile, {end}", limits, of_table["profile_95"][end], MOST_OF_LIMITS, errors)
    for kind, theirs in of_table["robust"].items():
        compare(f"birthwt, {kind}", numbers(ask(WHITE, f"covariance={kind}"), "std_error"), theirs)
    clustered = numbers(ask(WHITE, "covariance=cluster:race"), "std_error")
    factor = math.sqrt(3 / 2 * 188 / 179)
    compare("birthwt, clusters", clustered, of_table["cluster"]["std_error_HC1"])
    without = [error / factor for error in clustered]
    compare("birthwt, clusters without a factor", without, of_table["cluster"]["std_error_HC0_no_cadjust"])
    theirs, tests = of_table["likelihood_ratio"], {one["term"]: one for one in ask(WHITE, "test=lrt")["tests"]}
    for key in ("chi2", "p"):
        compare(f"birthwt, likelihood ratio, {key}", [tests[name][key] for name in theirs["term"]], theirs[key])
    compare_coefficients(compare, "birthwt, firth", ask(WHITE, "firth=true"), of_table["firth"])
    for link, theirs in of_table["links"].items():
        answer = fitted(folder / "birthwt.csv", "low", f"link={link}")(WHITE)
        compare_coefficients(compare, f"birthwt, {link}", answer, theirs)
        compare(f"birthwt, {link}, likelihood", [answer["fit"]["log_likelihood"]], [theirs["loglik"]])
    separated = fitted(folder / "endometrial.csv", "HG")("firth=true")
    compare_coefficients(compare, "endometrial, firth", separated, known["endometrial"]["firth"])
    theirs = known["multinomial"]
    answer = fitted(folder / "birthwt.csv", "race", "dataset.features=[age,lwt,smoke]")("reference_class=white")
    for key in ("coef", "std_error"):
        of_classes = [value for name in theirs["classes"] for value in numbers(answer, key, name)]
        compare(f"multinomial, {NAMES[key]}", of_classes, np.ravel(theirs[NAMES[key]]))
    compare("multinomial, likelihood", [answer["fit"]["log_likelihood"]], [theirs["loglik"]])
    rows = [
        one | other
        for one, other in zip(
            *map(read, (folder / "birthwt.csv", folder / "birthwt_offset_and_weight.csv")), strict=True
        )
    ]
    for row in rows:
        row["log_exposure"] = repr(math.log(float(row["exposure"])))
    for name, column, setting in (("offset", "log_exposure", "offset"), ("frequency_weights", "n", "weight")):
        kept = ("age", "lwt", "smoke", column, "low")
        file = write(Path(f"{name}.csv"), kept, [[row[key] for key in kept] for row in rows])
        compare_coefficients(compare, name, fitted(file, "low", f"dataset.{setting}={column}")(), known[name])


def compare_with_statsmodels(compare: Compared) -> None:
    """Its fits of its own data sets."""
    import statsmodels.api as sm

    spector, fair, anes = (getattr(sm.datasets, name).load_pandas() for name in ("spector", "fair", "anes96"))
    for name, model, x, y in (
        ("spector", sm.Logit, spector.exog, spector.endog),
        ("fair", sm.Logit, fair.exog, (fair.endog > 0).astype(int)),
        ("anes96", sm.MNLogit, anes.exog, anes.endog.astype(int)),
    ):
        x = x.drop(columns=[column for column in x if x[column].nunique() == 1])
        theirs = model(y, sm.add_constant(x)).fit(disp=0, maxiter=100, tol=1e-14, method="newton")
        rows = [[*map(repr, map(float, row)), str(label)] for row, label in zip(x.to_numpy(), y, strict=True)]
        ask = fitted(write(Path(f"{name}.csv"), [*x.columns, "target"], rows), "target")
        answer = ask()
        for key, values in (
            ("coef", theirs.params),
            ("std_error", theirs.bse),
            ("z", theirs.tvalues),
            ("p", theirs.pvalues),
        ):
            by_class = np.asarray(values).T.ravel()  # class by class, the constant first
            compare(f"{name}, {NAMES[key]}", numbers(answer, key), by_class)
        likelihoods = [answer["fit"][key] for key in ("log_likelihood", "null_log_likelihood", "mcfadden_r2")]
        compare(f"{name}, likelihoods, R^2", likelihoods, [theirs.llf, theirs.llnull, theirs.prsquared])


def compare_coefficients(compare: Compared, name: str, answer: Answer, known: Mapping[str, Any]) -> None:
    """The numbers of all coefficients."""
    for key, theirs in NAMES.items():
        compare(f"{name}, {theirs}", numbers(answer, key), known[theirs])


def numbers(answer: Answer, key: str, class_name: str | None = None) -> list[float]:
    """One number of each coefficient of a class, or of all, the intercept first."""
    rows = [row for row in answer["coefficients"] if class_name in (None, row["class_name"])]
    return [row[key] if key in row else row["per_unit"][key] for row in rows]


def fitted(file: Path, target: str, *settings: str) -> Ask:
    """Trains on all rows of a table; the result asks for its coefficients."""
    number = len(list(Path().glob("run*")))
    run = Path(f"run{number}").resolve()
    typed = (
        "dataset=table",
        f"dataset.path={file}",
        f"dataset.target={target}",
        "dataset.split.val=0",
        "dataset.split.test=0",
    )
    typed_to(train.main, *typed, "l2=0", f"hydra.run.dir={run}", "report=brief", *settings)
    return lambda *arguments: json.loads(typed_to(coefficients.main, f"ckpt_path={run}", "json=true", *arguments))


def typed_to(command: Callable[[Sequence[str]], int], *arguments: str) -> str:
    """What a command prints.

    Raises:
        SystemExit: It refuses; with its message.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command(arguments)
    if code:
        raise SystemExit(err.getvalue())
    return out.getvalue()


def read(file: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV."""
    with file.open(encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def write(file: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    """A CSV."""
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([header, *rows])
    return file


if __name__ == "__main__":
    sys.exit(main())
