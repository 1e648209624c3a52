"""Whole runs of several processes: each optimizer, loss, kind of data and setting gives the answer of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from logreg.commands.overrides import composed_config
from logreg.config import EXACT, RunConfig
from logreg.processes import Processes
from logreg.run.train import train
from process_groups import in_processes
from whole_runs import Run, left_in

ROWS = 400

MANY = 60_000
"""Rows of a table of which a sample is a part."""


@dataclass(frozen=True)
class Cell:
    """One run of the matrix: ``scripts/train.py settings`` in float64, without pictures.

    Attributes:
        name: What it is about.
        settings: The settings as typed.
        shares_paths: Whether the fits of paths and folds are shared, as they are for more rows.
    """

    name: str
    settings: tuple[str, ...]
    shares_paths: bool = True

    @cached_property
    def config(self) -> RunConfig:
        """The config; exact optimizers end at their last digit, others after four epochs."""
        is_exact = any(f"optimizer={name}" in self.settings for name in EXACT)
        usual = ["precision=64", "tolerance=1e-13", "report=brief", "accelerator=cpu"]
        return composed_config([*usual, *([] if is_exact else ["max_epochs=4"]), *self.settings])


def cell(name: str, *settings: str, shares_paths: bool = True) -> Cell:
    """A run of the matrix."""
    return Cell(name, settings, shares_paths)


TABLE = ("dataset=table", "dataset.path=rows", "dataset.drop=[y2,y3,w,o,g]")
KINDS = {
    "memory": (*TABLE, "dataset.storage=memory"),
    "mapped": (*TABLE, "dataset.storage=mapped"),
    "sparse": ("dataset=features",),
}
LOSSES = {"binary": ("y2", ()), "softmax": ("y3", ()), "one-vs-rest": ("y3", ("loss=bce",))}


def of_kind(kind: str, target: str = "y2") -> list[str]:
    """The settings for rows of a kind."""
    if kind == "sparse":
        return [*KINDS[kind], f"dataset.path=[x.npz,{target}.npy]"]
    return [*KINDS[kind], f"dataset.target={target}"]


def matrix() -> Iterator[Cell]:
    """Every optimizer with every loss and every kind of data."""
    for optimizer, loss, kind in product(("newton", "lbfgs", "sgd", "adam"), LOSSES, KINDS):
        target, more = LOSSES[loss]
        # L-BFGS finds lengths of steps from values of f, whose differences are rounding at last: later steps mend it
        step = {"newton": [], "lbfgs": ["tolerance=1e-20"]}.get(optimizer, ["lr=0.1"])
        words = [*of_kind(kind, target), f"optimizer={optimizer}", "l2=0.1", *step, *more]
        yield cell(f"{optimizer}, {loss}, {kind}", *words)


def large() -> Iterator[Cell]:
    """Fits of many rows with the usual tolerance: they start from a sample of the rows, or by descent on it."""
    for optimizer, loss in product(("newton", "lbfgs"), LOSSES):
        (target, more), usual = LOSSES[loss], [f"optimizer={optimizer}", "l2=0.01", "tolerance=1e-6"]
        for kind in ("memory", "mapped"):
            table = ["dataset=table", "dataset.path=many", f"dataset.storage={kind}", f"dataset.target={target}"]
            drop = f"dataset.drop=[{'y3' if target == 'y2' else 'y2'}]"
            yield cell(f"large, {optimizer}, {loss}, {kind}", *table, drop, *usual, *more)
        words = ["dataset=features", f"dataset.path=[wide.npy,wide_{target}.npy]", *usual, *more]
        yield cell(f"large, {optimizer}, {loss}, wide", *words)


def others() -> Iterator[Cell]:
    """Settings that make passes of their own, or change the rows."""
    sparse = of_kind("sparse")
    newton = ["optimizer=newton", "l2=0.01"]
    for kind in ("mapped", "memory"):
        of = of_kind(kind)
        yield cell(f"offset, {kind}", *of, *newton, "dataset.offset=o")
        yield cell(f"offset, sgd, {kind}", *of, "optimizer=sgd", "lr=0.1", "l2=0.01", "dataset.offset=o")
        yield cell(
            f"offset, l1=path, {kind}",
            *of,
            "optimizer=newton",
            "l1=path",
            "dataset.offset=o",
            "tolerance=1e-6",
            shares_paths=False,
        )
        yield cell(f"offset, l1 of a list, {kind}", *of, "optimizer=newton", "l1=[0.1,0.03,0.01]", "dataset.offset=o")
        yield cell(f"weights, {kind}", *of, *newton, "dataset.weight=w", "dataset.class_weight=balanced")
        yield cell(
            f"l2=path, {kind}",
            *of,
            "optimizer=newton",
            "l2=[1,0.1,0.01]",
            "cv=5",
            "calibrate=temperature",
            "dataset.split.val=0.2",
        )
        yield cell(f"l2=path by val, {kind}", *of, "optimizer=newton", "l2=[0.1,0.01]", "cv=null", "dataset.limit=200")
        yield cell(f"l2=auto, {kind}", *of, "optimizer=auto")
        yield cell(f"limit, l1, {kind}", *of, "optimizer=newton", "l1=0.01", "l2=0.001", "dataset.limit=100")
        yield cell(f"groups, {kind}", *of, *newton, "dataset.split.group=g", "cv=3")
        yield cell(f"probit, {kind}", *of, *newton, "link=probit")
        yield cell(f"cauchit, {kind}", *of, *newton, "link=cauchit", "tolerance=1e-20")  # by L-BFGS
        yield cell(f"no penalty, {kind}", *of, "optimizer=newton", "l2=0")
        yield cell(f"no intercept, {kind}", *of, *newton, "intercept=false", "dataset.standardize=false")
        yield cell(f"polish, {kind}", *of, "optimizer=sgd", "lr=0.1", "max_epochs=2", "polish=true", "l2=0.01")
        yield cell(f"sgd, cv, {kind}", *of, "optimizer=sgd", "lr=0.1", "max_epochs=2", "cv=3", "l2=0.01")
        yield cell(f"newton, cv, l2=0, {kind}", *of, "optimizer=newton", "cv=3", "l2=0")
        yield cell(
            f"class weights, adam, {kind}",
            *of_kind(kind, "y3"),
            "optimizer=adam",
            "lr=0.1",
            "dataset.class_weight=balanced",
            "dataset.weight=w",
        )
    yield cell("l1, sparse", *sparse, "optimizer=newton", "l1=0.01")
    yield cell("l1=path, sparse", *sparse, "optimizer=newton", "l1=[0.1,0.03]", "cv=3")
    lbfgs = ["optimizer=lbfgs", "tolerance=1e-20"]  # as in the matrix
    yield cell("l2=path, softmax, sparse", *of_kind("sparse", "y3"), *lbfgs, "l2=[1,0.1]", "cv=3")
    yield cell("text", "dataset=text", "dataset.path=text.csv", "dataset.target=topic", *newton)
    yield cell(
        "text, mapped, adam",
        "dataset=text",
        "dataset.path=text.csv",
        "dataset.target=topic",
        "optimizer=adam",
        "lr=0.1",
        "dataset.storage=mapped",
        "l2=0.01",
    )
    yield cell(
        "text, mapped",
        "dataset=text",
        "dataset.path=text.csv",
        "dataset.target=topic",
        "optimizer=auto",
        "dataset.storage=mapped",
        "l2=0.01",
    )
    yield cell(
        "augmentation, sgd",
        "dataset=digits",
        "optimizer=sgd",
        "dataset.limit=300",
        "dataset.augment=[shift]",
        "lr=0.1",
        "max_epochs=2",
        "l2=0.01",
    )
    yield cell(
        "augmentation, newton",
        "dataset=digits",
        "optimizer=lbfgs",
        "dataset.limit=200",
        "l2=0.1",
        "dataset.augment=[shift]",
    )
    yield cell("toy, more processes than rows", "dataset=toy", *newton)
    yield cell("more features than rows", *sparse, "optimizer=auto", "l2=0.1", "dataset.limit=30")
    yield cell("l2=auto, adamw", "dataset=breast_cancer", "optimizer=adamw", "calibrate=temperature")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of every kind."""
    folder = tmp_path_factory.mktemp("rows")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, 5)) * [1, 10, 0.1, 1, 3] + [0, 100, 0, 5, 0]
    city = draw.integers(0, 4, ROWS)
    logit = (x - x.mean(0)) / x.std(0) @ [1, -1, 0.5, 0, 0.2] + 0.3 * city - 0.4
    offset = draw.normal(size=ROWS)
    y2 = (draw.random(ROWS) < 1 / (1 + np.exp(-logit - offset))).astype(int)
    y3 = np.digitize(logit + draw.logistic(size=ROWS), [-1, 1])
    columns: dict[str, Any] = {f"x{number}": x[:, number] for number in range(5)}
    columns |= {
        "city": pa.array(np.array(list("abcd"))[city]).dictionary_encode(),
        "o": offset,
        "g": city * 50 + np.arange(ROWS) % 50,
    }
    columns |= {"w": draw.integers(0, 4, ROWS), "y2": y2, "y3": y3}
    columns["x4"] = pa.array(np.where(draw.random(ROWS) < 0.1, np.nan, x[:, 4]), from_pandas=True)
    (folder / "rows").mkdir()
    table = pa.table(columns)
    for part, (first, last) in enumerate(((0, 150), (150, 160), (160, ROWS))):
        pq.write_table(table.slice(first, last - first), folder / "rows" / f"{part}.parquet", row_group_size=64)
    wide = scipy.sparse.random_array((ROWS, 40), density=0.2, rng=draw, format="csr")
    wide = scipy.sparse.hstack([wide, scipy.sparse.csr_array(x[:, :1])], format="csr")
    scipy.sparse.save_npz(folder / "x.npz", scipy.sparse.csr_matrix(wide))
    np.save(folder / "y2.npy", y2)
    np.save(folder / "y3.npy", y3)
    many = draw.normal(size=(MANY, 20))
    logit = many[:, :5].sum(1)
    labels = {"y2": logit > draw.logistic(size=MANY), "y3": np.digitize(logit + draw.logistic(size=MANY), [-1, 1])}
    columns = {f"x{number}": many[:, number] for number in range(20)} | {key: one + 0 for key, one in labels.items()}
    (folder / "many").mkdir()
    pq.write_table(pa.table(columns), folder / "many" / "all.parquet", row_group_size=MANY // 4)
    factors = draw.normal(size=(5000, 20))  # with which descent is stable
    np.save(folder / "wide.npy", factors @ draw.normal(size=(20, 600)) / 4 + 0.1 * draw.normal(size=(5000, 600)))
    np.save(folder / "wide_y2.npy", (factors[:, 0] > draw.logistic(size=5000)) + 0)
    np.save(folder / "wide_y3.npy", np.digitize(factors[:, 0] + draw.logistic(size=5000), [-1, 1]))
    words = np.array([f"word{number}" for number in range(30)])
    lines = [f"{' '.join(words[draw.integers(0, 10, 6) + 10 * label % 25])},topic {label}" for label in y3.tolist()]
    (folder / "text.csv").write_text("text,topic\n" + "\n".join(lines) + "\n")
    return folder


def answers(processes: Processes | None, rows: Path, runs: Path, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What each run ends with."""
    size = 1 if processes is None else processes.size
    os.chdir(rows)
    found = []
    for number, one in enumerate(cells):
        folder, limit = runs / str(size) / str(number), -1 if one.shares_paths else 2**22
        with pytest.MonkeyPatch.context() as patched:
            for module in ("run.cross_validating", "solvers.paths.folds"):
                patched.setattr(f"logreg.{module}.MAX_ROW_NUMBERS", limit)
            try:
                summary = train(one.config, folder, runs / str(size), is_newest=False, progress_lines=0)
            except Exception as error:
                error.add_note(f"in {one.name}")
                raise
        if processes is not None and processes.rank:
            continue
        run = Run(folder)
        held = run.checkpoint()
        found.append({"held": held, "summary": run.summary, "files": left_in(folder), "metrics": dict(summary.metrics)})
    return found


def numbers_in(plain: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in plain values with their names, in order, but how long fits took."""
    if isinstance(plain, dict | list):
        for key, one in plain.items() if isinstance(plain, dict) else enumerate(plain):
            if key not in ("passes", "gap", "relative_gap"):
                yield from numbers_in(one, f"{name} {key}")
    elif isinstance(plain, int | float):
        yield name, plain


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What differs, in words.

    A loss that is not convex ends where f no longer falls, which is known to its rounding only.
    """
    faults = []
    of_scores = 1e-12 if expected["held"]["optimality"]["is_convex"] else 1e-9
    for name in ("model.coef", "model.intercept"):
        mine, its = found["held"]["state_dict"][name], expected["held"]["state_dict"][name]
        if (far := float((mine - its).abs().max())) > 1e-9 * max(1.0, float(its.abs().max())):
            faults.append(f"{name} by {far:.2e}")
    for part in ("metrics", "evaluation", "path", "calibration", "cross_validation", "dataset"):
        pairs = zip_longest(numbers_in(found["summary"].get(part)), numbers_in(expected["summary"].get(part)))
        for one, other in pairs:
            if one is None or other is None or one[0] != other[0]:
                faults.append(f"{part}: {one} and {other}")
                break
            if one[1] != pytest.approx(other[1], rel=of_scores, abs=of_scores):
                faults.append(f"{part}{one[0]}: {one[1]} and {other[1]}")
    for key in ("converged", "rigorous"):
        mine, its = found["summary"]["optimality"][key], expected["summary"]["optimality"][key]
        faults += [f"{key}: {mine} and not {its}"] if mine != its else []
    if len(found["files"]) != len(expected["files"]):
        faults.append(f"files {found['files']}, not {expected['files']}")
    return faults


QUICK = (
    *("newton, binary, mapped", "lbfgs, softmax, sparse", "sgd, softmax, mapped", "adam, one-vs-rest, sparse"),
    *("offset, l1 of a list, memory", "weights, mapped", "l2=path, mapped", "polish, memory", "sgd, cv, memory"),
    *("text, mapped, adam", "augmentation, sgd", "large, lbfgs, softmax, memory"),
)
"""Names of the runs of the default suite: each optimizer, loss and kind, and what has faults of its own."""


def assert_same_answers(cells: Sequence[Cell], rows: Path, folder: Path, size: int) -> None:
    """Each run of several processes must give the answer of one."""
    alone = answers(None, rows, folder, cells)
    several, *_ = in_processes(size, answers, rows, folder, cells)
    faults = {}
    for one, found, expected in zip(cells, several, alone, strict=True):
        if faulty := differences(found, expected):
            faults[one.name] = faulty
    assert not faults, "\n".join(f"{name}: {what}" for name, what in faults.items())


@pytest.mark.long
def test_runs_of_two_processes_give_the_answer_of_one(rows: Path, tmp_path: Path) -> None:
    cells = [one for one in (*matrix(), *large(), *others()) if one.name in QUICK]
    assert len(cells) == len(QUICK)
    assert_same_answers(cells, rows, tmp_path, 2)


def lacking(processes: Processes, rows: Path, runs: Path, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """`answers` where the second process has too little memory for the rows."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("logreg.data.sources.table_reading.fits_into_memory", lambda num_bytes: processes.rank == 0)
        return answers(processes, rows, runs, cells)


def test_rows_are_mapped_by_all_processes_where_one_must(rows: Path, tmp_path: Path) -> None:
    words = ["dataset=table", "dataset.drop=[y3,w,o,g]", "dataset.target=y2", "dataset.path=rows", "optimizer=adam"]
    mapped, auto = (cell(storage, *words, "lr=0.1", f"dataset.storage={storage}") for storage in ("mapped", "auto"))
    (expected,), ((found,), _) = (
        answers(None, rows, tmp_path, [mapped]),
        in_processes(2, lacking, rows, tmp_path, [auto]),
    )
    assert differences(found, expected) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_every_run_of_several_processes_gives_the_answer_of_one(rows: Path, tmp_path: Path, size: int) -> None:
    assert_same_answers([*matrix(), *large(), *others()], rows, tmp_path, size)
