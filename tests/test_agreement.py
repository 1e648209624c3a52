"""What is scored is what is certified: every program gives the same loss, accuracy and AUROC, and the right ones."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from logreg import LogisticRegression
from logreg.losses.objective import Objective
from logreg.solvers.fit import fit
from logreg.stored_form import choose_stored_form, moments
from whole_runs import Answer, newest, train

RunCommand = Callable[..., Answer]

SAME = 1e-6
"""Largest difference of a score between two programs."""

REFERENCES = Path(__file__).parents[2] / "shared" / "references"
"""Where R's tables may lie: beside the checkout."""


class Written(NamedTuple):
    """A table of a test: its columns by name, the last one being the class, and what is typed to train on it."""

    columns: dict[str, Sequence[Any]]
    typed: tuple[str, ...] = ("l2=1e-3",)


def odds(draw: np.random.Generator, logits: np.ndarray[Any, Any]) -> list[str]:
    return ["yes" if hit else "no" for hit in draw.random(len(logits)) < 1 / (1 + np.exp(-logits))]


def units(unit: float, *typed: str) -> Written:
    x = [unit * (i + 0.5) / 200 for i in range(200)]
    return Written({"x": x, "y": ["yes" if (37 * i) % 200 < i else "no" for i in range(200)]}, typed or ("l2=1e-3",))


def hashes() -> Written:
    draw = np.random.default_rng(0)
    numbers = draw.integers(-(2**63), 2**63 - 1, 200)
    return Written({"h": numbers.tolist(), "y": ["pq"[draw.integers(2)] for _ in range(200)]})


def seconds() -> Written:
    """Seconds since 1970 in steps of five: float32 tells them apart in steps of 128."""
    draw = np.random.default_rng(0)
    draw.integers(-(2**63), 2**63 - 1, 200)
    for _ in range(200):
        draw.integers(2)
    t = 1_700_000_000 + 5 * np.arange(121)
    y = [("no", "yes")[int(draw.random() < 1 / (1 + np.exp(-(i - 60) / 20)))] for i in range(121)]
    return Written({"t": t.tolist(), "y": y}, ("l2=0",))


def ties() -> Written:
    levels = [["p", "q", "r"][i % 3] for i in range(120)]
    return Written({"c": levels, "y": ["yes" if (i * 7) % 5 <= i % 3 else "no" for i in range(120)]}, ("l2=0",))


def even_odds() -> Written:
    rows = [(x, y) for x in (-1, 1) for y in ("no", "yes") for _ in range(10)]
    return Written({"x": [x for x, _ in rows], "y": [y for _, y in rows]}, ("l2=1",))


def gauge(l2: str) -> Written:
    """A number and the levels of a category, whose free direction is that of the intercept."""
    draw = np.random.default_rng(1)
    z, c = draw.normal(size=200), draw.integers(0, 4, 200)
    y = odds(draw, 0.8 * z + 0.5 * c - 1)
    return Written({"x": [round(500 + 100 * a, 4) for a in z], "c": [f"l{b}" for b in c], "y": y}, (f"l2={l2}",))


def gaps() -> Written:
    draw = random.Random(0)
    size = ["" if draw.random() < 0.1 else round(draw.gauss(2e6, 3.0), 3) for _ in range(150)]
    color = [draw.choice(["", "red", "green", "blue"]) for _ in range(150)]
    y = ["yes" if draw.random() < (0.7 if c == "red" else 0.3) else "no" for c in color]
    return Written({"size": size, "color": color, "y": y})


def offsets() -> Written:
    """Columns of every offset, unit and kind at once; a strong signal, so that coefficients are large."""
    draw = np.random.default_rng(2)
    z = draw.normal(size=(300, 5))
    y = odds(draw, 3 * z @ [1, -1, 1, -1, 0.5])
    columns: dict[str, Sequence[Any]] = {
        "plain": z[:, 0].tolist(),
        "far": (1e9 + z[:, 1]).tolist(),
        "tiny": (1e-40 * z[:, 2]).tolist(),
        "huge": (1e40 * (z[:, 3] + 50)).tolist(),
        "farthest": (1e12 + 1e-2 * z[:, 4]).tolist(),
    }
    return Written({**columns, "y": y}, ("l2=1e-6",))


def nearly_collinear() -> Written:
    """Coefficients of thousands, of opposite signs."""
    draw = np.random.default_rng(3)
    u, z = draw.normal(size=200), draw.normal(size=200)
    v = u + 1e-4 * z
    return Written({"u": u.tolist(), "v": v.tolist(), "y": odds(draw, u + 0.5 * z)}, ("l2=1e-12", "tolerance=1e-8"))


def bundled(load: Callable[[], Any], typed: str = "l2=1e-3") -> Written:
    bunch = load()
    columns = {str(name): bunch.data[:, place].tolist() for place, name in enumerate(bunch.feature_names)}
    return Written({**columns, "y": [str(bunch.target_names[label]) for label in bunch.target]}, (typed,))


def separated() -> Written:
    return Written({"hours": [1.0, 2.0, 3.0], "y": ["fail", "fail", "pass"]}, ("l2=1e-9",))


QUICK: dict[str, Callable[[], Written]] = {
    "seconds": seconds,
    "ties": ties,
    "even odds": even_odds,
    "gaps": gaps,
    "offsets": offsets,
    "nearly collinear": nearly_collinear,
    "gauge, no penalty": lambda: gauge("0"),
}

SLOW: dict[str, Callable[[], Written]] = {
    "toy": separated,
    "breast_cancer": lambda: bundled(load_breast_cancer),
    "iris": lambda: bundled(load_iris),
    "wine": lambda: bundled(load_wine),
    "softmax of two classes": lambda: gaps()._replace(typed=("l2=1e-3", "loss=cross_entropy")),
    "one against the rest": lambda: bundled(load_iris)._replace(typed=("l2=1e-3", "loss=bce")),
    "not standardized": lambda: seconds()._replace(typed=("l2=0", "dataset.standardize=false")),
    "sgd": lambda: gaps()._replace(typed=("optimizer=sgd", "max_epochs=5")),
    "sgd, seconds": lambda: seconds()._replace(typed=("optimizer=sgd", "max_epochs=5")),
    "double precision": lambda: seconds()._replace(typed=("l2=0", "precision=64")),
    "gauge": lambda: gauge("1e-3"),
    "hashes": hashes,
    "1e-46": lambda: units(1e-46),
    "1e37": lambda: units(1e37),
}


def write(table: Written, file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(table.columns)
        writer.writerows(zip(*table.columns.values(), strict=True))


def scores(probabilities: np.ndarray[Any, Any], taken: Sequence[Any], truth: Sequence[str], classes: list[str]) -> Any:
    """Loss, accuracy and AUROC by scikit-learn; the loss of one against the rest is none of a distribution."""
    labels = np.array([classes.index(name) for name in truth])
    p = np.asarray(probabilities, dtype=np.float64)
    taken = [str(name) for name in taken]  # of classes that are numbers, programs give numbers
    found = {"log_loss": log_loss(labels, p / p.sum(1, keepdims=True)), "accuracy": accuracy_score(truth, taken)}
    if len(classes) == 2:
        found["auroc"] = roc_auc_score(labels, p[:, 1])
    return found


def predicted(
    here: Path, run_command: RunCommand, file: str, truth: Sequence[str], classes: list[str], *typed: str
) -> Any:
    output = here / "out.parquet"
    assert run_command(here, "predict", f"input={file}", f"output={output}", "overwrite=true", *typed).code == 0
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(output)
    p = np.column_stack([rows.column(name).to_numpy() for name in classes])
    return scores(p, rows.column("predicted").to_pylist(), truth, classes)


def by_onnx(here: Path, run_command: RunCommand, table: Written, truth: Sequence[str], classes: list[str]) -> Any:
    import onnxruntime

    file = here / "model.onnx"
    answer = run_command(here, "export", "format=onnx", f"output={file}", "overwrite=true")
    assert answer.code == 0, answer.err
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(string)": object}
    feed = {}
    for one in session.get_inputs():
        kind, cells = kinds[one.type], list(table.columns[one.name])
        cells = [np.nan if cell == "" and kind is not object else cell for cell in cells]
        feed[one.name] = np.array(cells, dtype=kind).reshape(-1, 1)
    labels, p = session.run(["label", "probabilities"], feed)
    return scores(p, labels.tolist(), truth, classes)


def trained(table: Written, here: Path, *typed: str) -> dict[str, Any]:
    """The summary of a run on all rows."""
    write(table, here / "t.csv")
    target = list(table.columns)[-1]
    typed = ("dataset=table", "dataset.path=t.csv", f"dataset.target={target}", *table.typed, *typed)
    return train(here, *typed, "dataset.split.val=0", "dataset.split.test=0").summary


def agree(table: Written, here: Path, run_command: RunCommand) -> dict[str, Any]:
    """Trains on all rows, asks every program, and compares.

    Returns:
        The content of summary.json.
    """
    summary, target = trained(table, here), list(table.columns)[-1]
    in_table, certificate, classes = summary["metrics"]["train"], summary["optimality"], summary["dataset"]["classes"]
    truth = [str(name) for name in table.columns[target]]
    assert certificate["value"] == pytest.approx(summary["objective"]["train"], rel=0, abs=1e-9)
    answer = run_command(here, "evaluate", "json=true", "split=train")
    assert answer.code == 0, answer.err
    evaluated = json.loads(answer.out)
    assert evaluated["metrics"]["train"] == in_table
    measured = {name: one["value"] for name, one in evaluated["evaluation"]["metrics"].items()}
    loss = measured["log_loss"] if "loss=bce" in table.typed and len(classes) > 2 else in_table["loss"]
    expected = {"log_loss": loss, "accuracy": in_table["accuracy"]}
    if len(classes) == 2:
        expected["auroc"] = in_table["auroc"]
    others = {
        "evaluate": {name: measured[name] for name in expected},
        "predict": predicted(here, run_command, "t.csv", truth, classes, f"drop=[{target}]"),
        "onnx": by_onnx(here, run_command, table, truth, classes),
    }
    for program, found in others.items():
        assert found == pytest.approx(expected, rel=0, abs=SAME), program
    return summary


@pytest.mark.long
def test_predictions_rank_rows_whose_probabilities_are_all_but_1(tmp_path: Path, run_command: RunCommand) -> None:
    # 1 - 1e-5 and closer: float32 tells 160 probabilities apart there
    draw = np.random.default_rng(0)
    x = draw.normal(size=1000)
    y = ["no" if place in (17, 400) else "yes" for place in range(1000)]
    table = Written({"x": x.tolist(), "y": y}, ("dataset.class_weight={yes: 1e4}", "l2=1e-3"))
    auroc = trained(table, tmp_path)["metrics"]["train"]["auroc"]
    slope = np.polyfit(x, np.array(y) == "yes", 1)[0]
    assert auroc == pytest.approx(roc_auc_score(np.array(y) == "yes", np.sign(slope) * x), abs=1e-12)
    assert predicted(tmp_path, run_command, "t.csv", y, ["no", "yes"], "drop=[y]")["auroc"] == pytest.approx(
        auroc, abs=1e-12
    )


def test_a_threshold_that_stands_in_the_output_divides_the_rows_there(tmp_path: Path, run_command: RunCommand) -> None:
    trained(gauge("1e-3"), tmp_path)
    rows = list(csv.DictReader(run_command(tmp_path, "predict", "input=t.csv", "drop=[y]").out.splitlines()))
    written = sorted(float(row["yes"]) for row in rows)[100]
    answer = run_command(tmp_path, "predict", "input=t.csv", "drop=[y]", f"threshold={written!r}")
    for row in csv.DictReader(answer.out.splitlines()):
        assert (row["predicted"] == "yes") == (float(row["yes"]) > written)


RIGHT = {
    "seconds": {"loss": 0.529159, "accuracy": 0.743802, "auroc": 0.812774},
    "ties": {"loss": 0.615475, "accuracy": 0.666667, "auroc": 0.685185},
    "even odds": {"loss": 0.693147, "accuracy": 0.5, "auroc": 0.5},
    "gauge, no penalty": {"loss": 0.544215, "accuracy": 0.715, "auroc": 0.787972},
}
"""By statsmodels, or by counting; six digits."""


@pytest.mark.long
@pytest.mark.parametrize("name", QUICK)
def test_every_program_gives_the_same_scores(name: str, tmp_path: Path, run_command: RunCommand) -> None:
    summary = agree(QUICK[name](), tmp_path, run_command)
    right = RIGHT.get(name, {})
    assert {score: summary["metrics"]["train"][score] for score in right} == pytest.approx(right, rel=0, abs=1e-6)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # both go on until rounding stops them
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(12, 60),
    features=st.integers(1, 4),
    classes=st.integers(2, 3),
    unit=st.sampled_from([1e-3, 1.0, 1e4]),
    l2=st.sampled_from([0.01, 1.0]),
    intercept=st.booleans(),
    standardize=st.booleans(),
    weighted=st.booleans(),
)
@settings(max_examples=10)
def test_the_estimator_and_the_command_give_the_same_coefficients(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    rows: int,
    features: int,
    classes: int,
    unit: float,
    l2: float,
    intercept: bool,
    standardize: bool,
    weighted: bool,
) -> None:
    draw = np.random.default_rng(seed)
    x = unit * (5 + draw.normal(size=(rows, features)))
    y = np.arange(rows) % classes
    draw.shuffle(y)
    weights = draw.integers(1, 4, rows).astype(float) if weighted else np.ones(rows)
    columns = {f"x{number}": x[:, number].tolist() for number in range(features)} | {"w": weights.tolist()}
    table = Written({**columns, "y": [f"class {label}" for label in y]})
    here = tmp_path_factory.mktemp("run")
    l2 = l2 if standardize else l2 * unit**2  # the same part of the curvature
    typed = f"l2={l2!r}", f"intercept={intercept}", f"dataset.standardize={standardize}", "precision=64"
    trained(table, here, *typed, "dataset.weight=w", "tolerance=1e-26")
    command = LogisticRegression.from_checkpoint(newest(here).folder)[-1]
    scaler = StandardScaler(with_mean=standardize, with_std=standardize)
    estimator = LogisticRegression(C=1 / (weights.sum() * l2), fit_intercept=intercept, tol=1e-26, precision=64).fit(
        scaler.fit_transform(x, sample_weight=weights), y, weights
    )
    scale = scaler.scale_ if standardize else np.ones(features)
    coef = estimator.coef_ / scale
    center = scaler.mean_ if standardize else np.zeros(features)
    np.testing.assert_allclose(command.coef_, coef, rtol=0, atol=1e-9 * np.abs(coef).max())
    np.testing.assert_allclose(command.intercept_, estimator.intercept_ - coef @ center, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_program_gives_the_same_scores_for_more_tables(
    name: str, tmp_path: Path, run_command: RunCommand
) -> None:
    agree(SLOW[name](), tmp_path, run_command)


def read(file: Path, target: str, rows: int, *left_out: str) -> Written:
    """The first rows of a CSV as its text and numbers, the class last."""
    import pyarrow.csv

    table = pyarrow.csv.read_csv(file).slice(0, rows)
    names = [name for name in table.column_names if name not in {target, *left_out}]
    columns = {name: ["" if cell is None else cell for cell in table.column(name).to_pylist()] for name in names}
    return Written({**columns, target: [str(cell) for cell in table.column(target).to_pylist()]})


@pytest.mark.slow
def test_diamonds_agree_in_every_command_and_export(true_tables: Path, tmp_path: Path, run_command: RunCommand) -> None:
    agree(read(true_tables / "diamonds.csv", "cut", 3000), tmp_path, run_command)


@pytest.mark.slow
def test_planets_agree_in_every_command_and_export(true_tables: Path, tmp_path: Path, run_command: RunCommand) -> None:
    agree(read(true_tables / "planets.csv", "method", 1035), tmp_path, run_command)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "target"), [("birthwt.csv", "low"), ("endometrial.csv", "HG")])
def test_tables_of_r_agree_in_every_command_and_export(
    file: str, target: str, tmp_path: Path, run_command: RunCommand
) -> None:
    if not (REFERENCES / file).exists():
        pytest.skip("R's tables are not on this disk")
    agree(read(REFERENCES / file, target, 1000), tmp_path, run_command)


UNITS = [1e-46, 1e-26, 1e19, 1e37]
"""Below what float32 holds, where squares leave it below and above, and at its edge."""


@pytest.mark.parametrize("unit", UNITS)
def test_a_column_in_any_unit_gives_the_same_optimum(unit: float, tmp_path: Path) -> None:
    summary = trained(units(unit), tmp_path)
    assert summary["optimality"]["value"] == pytest.approx(0.499537, abs=1e-6)
    assert summary["metrics"]["train"]["auroc"] == pytest.approx(0.8382, abs=5e-5)
    assert summary["optimality"]["converged"]


@pytest.mark.parametrize("unit", UNITS)
def test_a_column_in_any_unit_that_is_not_standardized_gives_the_same_optimum(unit: float, tmp_path: Path) -> None:
    summary = trained(units(unit, "l2=0", "dataset.standardize=false"), tmp_path)
    assert summary["optimality"]["value"] == pytest.approx(0.498363, abs=1e-6)
    assert summary["optimality"]["converged"]


@pytest.mark.parametrize(
    ("unit", "typed", "sentence"),
    [
        (1e-310, (), "feature 'x' must have a size of 1e-301 to 1e301, got "),
        (
            1e-260,
            ("dataset.standardize=false",),
            "feature 'x' must have a size of 1e-120 to 1e120 where its coefficient",
        ),
    ],
)
def test_a_unit_that_cannot_be_held_is_refused_in_one_line(
    unit: float, typed: tuple[str, ...], sentence: str, tmp_path: Path, run_command: RunCommand
) -> None:
    write(units(unit), tmp_path / "t.csv")
    answer = run_command(
        tmp_path, "train", "dataset=table", "dataset.path=t.csv", "dataset.target=y", "l2=1e-3", *typed
    )
    assert answer.code == 2
    assert answer.err.startswith(sentence)
    assert answer.err.count("\n") == 1


def test_hashes_of_64_bits_are_learned_from_and_called_ids(tmp_path: Path) -> None:
    summary = trained(hashes(), tmp_path)
    assert summary["optimality"]["value"] == pytest.approx(0.684725, abs=1e-6)
    assert summary["metrics"]["train"]["auroc"] == pytest.approx(0.5734, abs=5e-5)
    assert any("if they are ids, add them to dataset.drop: h" in note for note in summary["dataset"]["notes"])


def test_seconds_keep_every_digit_of_their_slope(tmp_path: Path) -> None:
    trained(seconds(), tmp_path, "tolerance=1e-13")
    lines = (newest(tmp_path).folder / "coefficients.csv").read_text().splitlines()
    assert float(lines[-1].split(",")[1]) == pytest.approx(0.00774661, abs=5e-9)  # by statsmodels


def test_an_intercept_beside_all_levels_stays_small_and_what_is_determined_is_right(
    tmp_path: Path, run_command: RunCommand
) -> None:
    trained(gauge("0"), tmp_path, "tolerance=1e-13")
    lines = (newest(tmp_path).folder / "coefficients.csv").read_text().splitlines()[1:]
    coef = {name: float(value) for name, value in (line.split(",") for line in lines)}
    assert coef["x"] == pytest.approx(0.012747, abs=1e-6)  # all by statsmodels
    assert coef["c=l3"] - coef["c=l0"] == pytest.approx(1.70086, abs=1e-5)
    assert sum(coef[f"c=l{level}"] for level in range(4)) == pytest.approx(0, abs=0.1)  # was 1e6
    (tmp_path / "new.csv").write_text("x,c\n500,l1\n")
    (row,) = csv.DictReader(run_command(tmp_path, "predict", "input=new.csv").out.splitlines())
    assert float(row["yes"]) == pytest.approx(0.30848, abs=1e-5)


@pytest.mark.long
def test_even_odds_are_the_first_class_for_every_program(tmp_path: Path, run_command: RunCommand) -> None:
    table = even_odds()
    agree(table, tmp_path, run_command)
    for typed in ((), ("threshold=0.5",)):
        answer = run_command(tmp_path, "predict", "input=t.csv", "drop=[y]", *typed)
        assert {line.split(",")[0].strip('"') for line in answer.out.splitlines()[1:]} == {"no"}
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    x = np.array(table.columns["x"], dtype=np.float32).reshape(-1, 1)
    assert set(session.run(["label"], {"x": x})[0].tolist()) == {"no"}


@pytest.mark.parametrize(("unit", "offset"), [(1, 1e9), (1e10, 1e14), (1e-25, 0), (1e30, 0), (1e300, 0), (1e-300, 0)])
@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_a_fit_in_python_is_the_same_in_any_unit_from_any_origin(unit: float, offset: float, optimizer: str) -> None:
    draw = np.random.default_rng(0)
    z = np.round(draw.normal(size=(300, 2)), 3)
    labels = torch.from_numpy(np.array(odds(draw, z[:, 0] - 0.5 * z[:, 1])) == "yes").long()
    x = torch.from_numpy(z * unit + offset)
    exactly = ((x - offset) / unit).contiguous()  # what is left of the numbers at that offset
    plain = fit(exactly, labels, Objective("bce"), tolerance=1e-12)
    found = fit(x, labels, Objective("bce"), tolerance=1e-12, optimizer=optimizer)
    assert found.converged
    assert found.bound.value == pytest.approx(plain.bound.value, rel=1e-11)
    torch.testing.assert_close(found.coef * unit, plain.coef, rtol=1e-5, atol=1e-6)


def test_the_bound_of_a_fit_contains_the_rounding_of_its_intercept() -> None:
    """In source units, at 1e12 and more, the intercept has few digits behind the point."""
    draw = np.random.default_rng(0)
    x = np.round(draw.normal(size=(40, 1)) * 64) / 64
    labels = torch.from_numpy((x[:, 0] + draw.logistic(size=40) > 0).astype(np.int64))
    found = fit(torch.from_numpy(x + 2.0**42), labels, Objective("bce"))
    near = fit(torch.from_numpy(x), labels, Objective("bce"), tolerance=1e-14)
    # Of exact products and sums: the coefficient times (x + 2^42), and the intercept.
    coef, intercept = Fraction(float(found.coef)), Fraction(float(found.intercept))
    logits = [float(coef * (Fraction(one) + 2**42) + intercept) for one in x[:, 0].tolist()]
    value = np.logaddexp(0, np.where(labels == 1, -1, 1) * logits).mean()
    assert value - near.bound.value > 1e-12
    assert value - near.bound.value <= found.bound.gap + found.bound.rounding
    assert found.bound.rounding < 1e-6


def test_what_is_left_of_short_numbers_is_exact() -> None:
    columns = torch.tensor([[1.0, 3e9, 0.0], [1, 3e9 + 7, 1e3], [0, 3e9 - 5, 1e3 + 0.125]], dtype=torch.float64)
    columns = columns[[1] * 90 + [0] * 9 + [2]]
    form = choose_stored_form(moments(lambda: [(columns, None)]), shifts=True)
    assert form.shift[0] == 1
    assert 3e9 < form.shift[1] < 3e9 + 9
    assert form.shift[2] == 0
    kept = form.transform(columns, torch.float32)
    assert torch.equal(form.inverse_transform(kept), columns)


def test_a_fit_in_python_refuses_what_float64_cannot_hold() -> None:
    from logreg.errors import DataError

    x, labels = torch.tensor([[1e-310], [2e-310], [3e-310], [2e-310]], dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    with pytest.raises(DataError, match=r"feature 0 must have a size of 1e-301 to 1e301, got 2\.1e-310\. Write it"):
        fit(x, labels, Objective("bce"))
    with pytest.raises(DataError, match=r"feature 0 must have a size of 1e-120 to 1e120 where its coefficient"):
        fit(x * 1e110, labels, Objective("bce", l2=1e-3))


@pytest.mark.parametrize(("offset", "is_said"), [(1.7e9, False), (1e17, True)])
def test_only_what_the_source_itself_has_lost_is_said(offset: float, is_said: bool, tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=100)
    table = Written({"x": (offset + 100 * z).tolist(), "y": odds(np.random.default_rng(1), z)})
    notes = trained(table, tmp_path)["dataset"]["notes"]
    assert any("in the source, since they vary little for their size: x" in note for note in notes) == is_said


@pytest.mark.long
def test_whole_numbers_that_float64_does_not_tell_apart_are_said(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    near = (2**62 + draw.integers(0, 50, 100)).tolist()  # its steps are 1024 there
    table = Written({"near": near, "x": draw.normal(size=100).tolist(), "y": odds(draw, draw.normal(size=100))})
    notes = trained(table, tmp_path)["dataset"]["notes"]
    assert any("in the source, since they vary little for their size: near" in note for note in notes)
    np.savez(tmp_path / "t.npz", features=np.array(near)[:, None].repeat(2, 1), labels=np.array(table.columns["y"]))
    notes = train(tmp_path, "dataset=features", "dataset.path=t.npz", "l2=1").summary["dataset"]["notes"]
    assert any("in the source, since they vary little for their size: feature 0, feature 1" in note for note in notes)


@pytest.mark.parametrize(
    ("typed", "is_said"),
    [
        (("intercept=false", "dataset.standardize=false"), True),
        (("intercept=false", "dataset.standardize=false", "precision=64"), False),
        (("intercept=false",), False),
        (("dataset.standardize=false",), False),
    ],
)
def test_an_offset_that_nothing_can_take_up_is_said(typed: tuple[str, ...], is_said: bool, tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=100)
    table = Written({"x": (1e7 + z).tolist(), "y": odds(np.random.default_rng(1), z)})
    sentence = (
        "few significant digits without an intercept, since they vary little for their size; "
        "set dataset.standardize=true, or subtract an offset: x"
    )
    assert any(sentence in note for note in trained(table, tmp_path, *typed)["dataset"]["notes"]) == is_said


@pytest.mark.long
@pytest.mark.parametrize("kind", ["json", "safetensors", "sklearn", "torch_export", "onnx"])
def test_every_format_takes_numbers_from_far_away(kind: str, tmp_path: Path, run_command: RunCommand) -> None:
    trained(seconds(), tmp_path)
    answer = run_command(tmp_path, "export", f"format={kind}")
    assert answer.code == 0, answer.err
    assert "double precision" in (newest(tmp_path).folder / "export" / "MODEL_CARD.md").read_text()


def test_without_an_intercept_nothing_is_subtracted_unless_features_are_standardized(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=100)
    table = Written({"x": (50 + z).tolist(), "y": odds(np.random.default_rng(1), z)})
    plain = trained(table, tmp_path, "intercept=false", "dataset.standardize=false", "tolerance=1e-10")
    x, labels = (
        torch.tensor(table.columns["x"], dtype=torch.float64)[:, None],
        torch.tensor(np.array(table.columns["y"]) == "yes").long(),
    )
    best = fit(x, labels, Objective("bce", l2=1e-3), tolerance=1e-12, intercept=False)
    assert plain["optimality"]["value"] == pytest.approx(best.bound.value, abs=1e-7)
