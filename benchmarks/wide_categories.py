"""Columns of many levels: time of each step, dense against sparse rows, and what an id is worth.

``steps`` times a table of --rows rows with a number and a column of --levels levels, whose frequencies follow a power
law, from Arrow to a certified fit; and scikit-learn's OneHotEncoder with its lbfgs and newton-cg, l2 = 1e-6, tol 1e-4.
The gap is (f - f*) / f*, with f* of a certified fit.

``forms`` times fits of tables with a few columns of levels beside five numbers, as dense and as sparse rows, in turns.
``ratio`` is the time of the sparse rows relative to the dense ones, and ``bytes`` the size of the dense matrix relative
to the sparse one.

``ids`` fits a class that depends on a column of levels alone, and reports how much lower the loss on new rows is
with the column than without it, by the fraction of train rows whose level occurs once; l2 is the best of six.

All times are processor seconds of one thread; start it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from common import new_parser, positive, print_versions
from logreg.csr import as_scipy
from logreg.data.encoding.columns import Columns, read_columns
from logreg.data.encoding.encode import encode
from logreg.data.encoding.learning import learn_encoding
from logreg.facts import DataFacts, names_of_features
from logreg.losses.objective import Objective
from logreg.solvers.fit import Fit, fit

L2 = 1e-6
"""Strength of the penalty of ``steps``."""

FORMS = ((20, 1), (20, 3), (40, 3), (90, 1), (50, 3), (180, 1), (90, 3), (1000, 1), (1000, 4))
"""Levels and columns of ``forms``."""

STRENGTHS = (1e-1, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Strengths of the penalty of ``ids``."""


def processor_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a call, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def drawn(rows: int, levels: int, columns: int, exponent: float, numbers: int) -> tuple[Columns, Tensor]:
    """A table with columns of levels, and classes (N,) that depend on the levels."""
    draw = np.random.default_rng(0)
    rates = (1 + np.arange(levels)) ** -exponent
    cells, logits = {}, np.zeros(rows)
    names = pa.array([f"level {place}" for place in range(levels)])
    for column in range(columns):
        codes = draw.choice(levels, rows, p=rates / rates.sum())
        cells[f"levels {column}"] = names.take(pa.array(codes))
        logits += draw.normal(size=levels)[codes]
    cells |= {f"number {place}": pa.array(draw.normal(size=rows)) for place in range(numbers)}
    labels = draw.random(rows) < 1 / (1 + np.exp(-logits))
    return read_columns(pa.table(cells), max_levels=levels), torch.from_numpy(labels.astype(np.int64))


def print_steps(rows: int, levels: int) -> None:
    """Prints the time of each step from Arrow to a fit, and scikit-learn's."""
    columns, labels = drawn(rows, levels, 1, 0.7, 1)
    table = pa.table(
        {one.name: pa.array(np.array(one.levels)[one.values] if one.levels else one.values) for one in columns.series}
    )

    def step(name: str, work: Callable[[], Any]) -> Any:
        seconds, result = processor_seconds(work)
        print(f"{name:<40}{seconds:8.2f} s", flush=True)
        return result

    print(f"\n{rows:,} rows, {levels:,} levels")
    read = step("read from Arrow", lambda: read_columns(table, max_levels=levels))
    encoding, _ = step("learn the encoding", lambda: learn_encoding(read, None))
    features, _ = step("encode", lambda: encode(read, encoding, torch.float32))
    names = names_of_features(encoding)
    facts = DataFacts("table", len(names), ("no", "yes"), {"train": rows}, names, columns=encoding)
    file = io.BytesIO()
    step("write the facts", lambda: torch.save(facts.as_dict(), file))
    file.seek(0)
    step("read the facts", lambda: DataFacts.from_dict(torch.load(file, weights_only=True)))
    found: Fit = step("fit, relative gap 1e-6, certified", lambda: fit(features, labels, Objective("bce", l2=L2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _print_sklearn(table, labels, found, step)


def _print_sklearn(table: pa.Table, labels: Tensor, found: Fit, step: Callable[..., Any]) -> None:
    """Prints the times of scikit-learn's encoder and solvers, and their gaps."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    level, number = table.column_names
    rows = np.column_stack([table[level].to_numpy().astype(object), table[number].to_numpy().astype(object)])
    encoder = make_column_transformer((OneHotEncoder(dtype=np.float32), [0]), remainder="passthrough")
    matrix = step("scikit-learn's OneHotEncoder", lambda: encoder.fit_transform(rows)).astype(np.float32).tocsr()
    targets = labels.numpy()
    optimum = found.bound.value - found.bound.gap
    for solver in ("lbfgs", "newton-cg"):
        model = LogisticRegression(C=1 / (L2 * len(targets)), solver=solver, tol=1e-4, max_iter=1000)
        step(f"scikit-learn's {solver}", lambda model=model: model.fit(matrix, targets))
        logits = matrix @ model.coef_[0] + model.intercept_[0]
        value = np.logaddexp(0, np.where(targets == 1, -logits, logits)).mean() + L2 / 2 * (model.coef_**2).sum()
        print(f"{'':<10}its relative gap is {(value - optimum) / optimum:.1e}")


def print_forms(bytes_of: Sequence[int], repeats: int) -> None:
    """Prints the times of fits of dense and of sparse rows."""
    print(f"\n{'levels x columns':<20}{'rows':>10}{'MiB':>6}{'bytes':>7}{'dense, s':>10}{'sparse, s':>11}{'ratio':>7}")
    for levels, number in FORMS:
        for size in bytes_of:
            rows = size // (4 * (levels * number + 5))
            if rows < 5 * levels:
                continue
            columns, labels = drawn(rows, levels, number, 0.0, 5)
            encoding, _ = learn_encoding(columns, None)
            forms = {form: encode(columns, encoding, torch.float32, sparse=form)[0] for form in (False, True)}
            held = as_scipy(forms[True])
            relative = forms[False].nbytes / (held.data.nbytes + held.indices.nbytes + held.indptr.nbytes)
            taken: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(repeats):
                for form, features in forms.items():
                    work = partial(fit, features, labels, Objective("bce", l2=1e-4))
                    taken[form].append(processor_seconds(work)[0])
            dense, sparse = (statistics.median(seconds) for seconds in taken.values())
            print(
                f"{f'{levels} x {number}':<20}{rows:>10,}{size / 2**20:>6.3g}{relative:>7.1f}{dense:>10.4f}"
                f"{sparse:>11.4f}{sparse / dense:>7.2f}",
                flush=True,
            )


def print_ids(rows: int) -> None:
    """Prints by how much a column of levels lowers the loss on new rows, by the fraction of levels of a single row."""
    print(f"\n{'levels':>8}{'of one row':>12}{'loss without':>14}{'loss with':>11}{'lower by':>10}")
    for levels in (rows // 10, rows // 2, rows, 2 * rows, 5 * rows, 10 * rows, 20 * rows):
        columns, labels = drawn(2 * rows, levels, 1, 0.0, 0)
        train = torch.arange(rows)
        counts = np.bincount(columns.series[0].values[:rows])
        encoding, _ = learn_encoding(columns, train)
        features, _ = encode(columns, encoding, torch.float64, sparse=True)
        matrix = as_scipy(features)
        losses = []
        for l2 in STRENGTHS:
            found = fit(matrix[:rows], labels[:rows], Objective("bce", l2=l2))
            losses.append(_loss(matrix[rows:] @ found.coef[0].numpy() + float(found.intercept), labels[rows:]))
        rate = float(labels[:rows].double().mean())
        without = _loss(np.full(rows, np.log(rate / (1 - rate))), labels[rows:])
        singles = (counts == 1).sum() / rows
        print(f"{levels:>8,}{singles:>12.1%}{without:>14.4f}{min(losses):>11.4f}{1 - min(losses) / without:>10.2%}")


def _loss(logits: np.ndarray[Any, Any], labels: Tensor) -> float:
    """Mean binary cross-entropy of logits (n,), in nats."""
    return float(np.logaddexp(0, np.where(labels.numpy() == 1, -logits, logits)).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts that are asked for, and returns the exit code."""
    parser = new_parser(__doc__)
    parser.add_argument("--part", choices=("steps", "forms", "ids"), help="one part only")
    parser.add_argument("--rows", type=positive, default=1_000_000, help="rows of steps (default: 1000000)")
    parser.add_argument("--levels", type=positive, default=100_000, help="levels of steps (default: 100000)")
    parser.add_argument("--tiny", action="store_true", help="small sizes of forms and ids, as a smoke test")
    options = parser.parse_args(arguments)
    print_versions()
    if options.part in (None, "steps"):
        print_steps(options.rows, options.levels)
    if options.part in (None, "forms"):
        print_forms([2**17] if options.tiny else [2**22, 2**24, 2**26], options.repeats)
    if options.part in (None, "ids"):
        print_ids(200 if options.tiny else 10_000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
