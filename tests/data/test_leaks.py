"""Columns that are the target under another name, and duplicate columns."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from logreg.data.base import Table
from logreg.data.encoding.columns import read_columns
from logreg.data.leaks import SAMPLE_ROWS, Leaks, find_leaks
from tables import alternating, table, write
from whole_runs import train

ROWS = 600


def columns_of(**columns: Any) -> tuple[Table, int]:
    """A train split of these columns; ``y`` are the classes."""
    _, labels = np.unique(columns.pop("y"), return_inverse=True)
    return Table(read_columns(pa.table(columns)), torch.from_numpy(labels)), int(labels.max()) + 1


def leaks_of(**columns: Any) -> Leaks:
    return find_leaks(*columns_of(**columns))


@pytest.fixture
def y() -> list[str]:
    return drawn(0, "no", "yes", "yes")


def noise(seed: int, rows: int = ROWS) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(size=rows)]


def drawn(seed: int, *values: Any) -> list[Any]:
    return [values[place] for place in np.random.default_rng(seed).integers(len(values), size=ROWS)]


ANSWERS: dict[str, Any] = {
    "other words": {"no": "perished", "yes": "survived"},
    "numbers": {"no": 7, "yes": 3},
    "booleans": {"no": False, "yes": True},
    "a gap for one of them": {"no": None, "yes": "boat"},
    "a number, and a gap": {"no": None, "yes": 2.5},
}


@pytest.mark.parametrize("how", ANSWERS)
def test_the_target_under_another_name_is_found(how: str, y: list[str]) -> None:
    found = leaks_of(noise=noise(1), answer=[ANSWERS[how][label] for label in y], y=y)
    assert found.target == ("answer",)
    assert found.advice == "dataset.drop=[answer]"
    assert found.notes(ROWS) == (
        "'answer' alone determines the class in all 600 rows of train: may be the target under another name: "
        "dataset.drop=[answer]",
    )


def test_finer_levels_and_ranges_of_a_number_are_leaks_too(y: list[str]) -> None:
    draw = np.random.default_rng(2)
    finer = [f"{label}{draw.integers(5)}" for label in y]
    score = [draw.random() + (label == "yes") for label in y]  # no two rows have the same
    place = [f"boat {draw.integers(90)}" if label == "yes" else None for label in y]
    assert leaks_of(finer=finer, score=score, boat=place, y=y).target == ("finer", "score", "boat")
    three = drawn(3, "a", "b", "c")
    code, shuffled = (["abc".index(label) for label in three], ["bca".index(label) * 10 for label in three])
    ranges = [draw.random() + 2 * place for place in code]
    assert leaks_of(code=code, shuffled=shuffled, ranges=ranges, y=three).target == ("code", "shuffled", "ranges")


def test_a_column_with_one_exception_is_not_a_leak(y: list[str]) -> None:
    for row in (0, ROWS // 2, ROWS - 1):
        answer = [label != "no" for label in y]
        answer[row] = not answer[row]
        assert leaks_of(answer=answer, y=y).target == ()
    many = y * 10  # more than the sample
    assert len(many) > SAMPLE_ROWS
    answer = [label != "no" for label in many]
    assert leaks_of(answer=answer, y=many).target == ("answer",)
    for row in (1, 3001, len(many) - 2):
        assert leaks_of(answer=[*answer[:row], not answer[row], *answer[row + 1 :]], y=many).target == ()


@pytest.mark.long
def test_columns_that_fit_by_chance_and_ids_are_not_leaks(y: list[str]) -> None:
    assert leaks_of(hours=[1.0, 2.0, 3.0], y=["fail", "fail", "pass"]).target == ()
    assert leaks_of(id=[f"r{row}" for row in range(ROWS)], x=noise(4), y=y).target == ()
    # Of 1,000 columns of noise some tell three rows from three others.
    few = {f"x{seed}": noise(seed, 6) for seed in range(1000)}
    assert any(max(column[:3]) < min(column[3:]) for column in few.values())
    assert leaks_of(**few, y=["a"] * 3 + ["b"] * 3).target == ()
    assert leaks_of(small=[1, 2, 3, 11, 12, 13], y=["a"] * 3 + ["b"] * 3).target == ()
    assert leaks_of(wide=[*range(10), *range(20, 30)], y=["a"] * 10 + ["b"] * 10).target == ("wide",)


def test_noise_and_strong_features_are_not_leaks(y: list[str]) -> None:
    strong = [value + 4 * (label == "yes") for value, label in zip(noise(5), y, strict=True)]
    found = leaks_of(noise=noise(6), strong=strong, level=alternating("p", "q", rows=ROWS), y=y)
    assert found == Leaks()


def test_rows_of_weight_zero_do_not_count(y: list[str]) -> None:
    train, classes = columns_of(answer=[label if row else "other" for row, label in enumerate(y)], y=["no", *y[1:]])
    assert find_leaks(train, classes).target == ("answer",)
    train, classes = columns_of(answer=["yes", *y[1:]], y=["no", *y[1:]])
    assert find_leaks(train, classes).target == ()
    weights = torch.ones(ROWS, dtype=torch.float64)
    weights[0] = 0
    assert find_leaks(Table(train.features, train.labels, None, weights), classes).target == ("answer",)


def test_duplicate_columns_are_named_with_their_relation() -> None:
    sex = drawn(7, "male", "female", None)
    fare = noise(8)
    found = leaks_of(
        sex=sex,
        fare=fare,
        is_male=[None if one is None else one == "male" for one in sex],
        sexe=[None if one is None else {"male": "homme", "female": "femme"}[one] for one in sex],
        gender=sex,
        price=fare,
        tax=[2 * value for value in fare],
        constant=[1] * ROWS,
        zero=[0] * ROWS,
        y=drawn(9, "no", "yes"),
    )
    assert found.duplicates == {
        "is_male": "a recoding of sex",
        "sexe": "a recoding of sex",
        "gender": "the same as sex",
        "price": "the same as fare",
    }
    assert found.notes(ROWS) == (
        "duplicate columns: is_male is a recoding of sex, sexe is a recoding of sex, "
        "gender is the same as sex, price is the same as fare",
    )


def test_columns_that_differ_outside_the_sample_are_not_duplicates() -> None:
    rows = 5 * SAMPLE_ROWS
    draw = np.random.default_rng(9)
    level, number, y = draw.choice(list("pqr"), rows), draw.normal(size=rows), draw.choice(["no", "yes"], rows)
    other, near = np.char.upper(level), number.copy()
    assert set(leaks_of(a=level, b=other, c=number, d=near, y=y).duplicates) == {"b", "d"}
    other[2], near[2] = "S", 0.5
    assert leaks_of(a=level, b=other, c=number, d=near, y=y).duplicates == {}


def test_features_of_a_matrix_are_named_by_number() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(ROWS, 5, generator=draw)
    labels = (features[:, 3] > 0).long()
    found = find_leaks(Table(features, labels), 2)
    assert (found.target, found.advice) == (("feature 3",), "leave it out of the file")
    assert find_leaks(Table(features.half(), labels.roll(1)), 2) == Leaks()


# whole runs


Captured = pytest.CaptureFixture[str]


@pytest.mark.long
def test_a_run_reports_a_leak_at_once_whatever_the_penalty_and_its_advice_works(
    tmp_path: Path, y: list[str], capsys: Captured
) -> None:
    write(tmp_path, age=noise(10), **{"was it so": [label == "yes" for label in y]}, y=y)
    typed = ["dataset=table", "dataset.path=t.csv", "dataset.target=y", "report=brief"]
    advice = "'dataset.drop=[\"was it so\"]'"
    repeated: list[str] = []
    for l2 in ("0", "0.01"):
        run = train(tmp_path, *typed, f"l2={l2}")
        out, err = capsys.readouterr()
        assert err.startswith(
            "table: 'was it so' alone determines the class in all 360 rows of train: may be the target under another "
            f"name: {advice}\n"
        )
        (again,) = [line for line in out.splitlines() if line.endswith(advice)]
        repeated = shlex.split(again)[2:]
        assert sorted([*repeated, "report=brief"]) == sorted([*typed, f"l2={l2}", 'dataset.drop=["was it so"]'])
        assert advice in (run.folder / "report.md").read_text(encoding="utf-8")
        verdict = run.summary["optimality"]["verdict"]
        if l2 == "0":
            assert verdict.endswith(
                f"so coefficients grow without bound; may be the target under another name: {advice}; if not, set a "
                "penalty, such as l2=1e-3"
            )
            assert err.index("table: no finite optimum: ") < err.index("table: epoch")
        else:
            assert run.summary["optimality"]["converged"]
    clean = train(tmp_path, *repeated, "report=brief")
    assert "another name" not in "".join(capsys.readouterr())
    assert clean.summary["dataset"]["leak"] == ""


def test_bundled_data_has_no_leaks(tmp_path: Path, capsys: Captured) -> None:
    run = train(tmp_path, "dataset=iris", "dataset.classes=[setosa,virginica]", "l2=0", "max_epochs=1")
    assert "another name" not in "".join(capsys.readouterr())
    assert run.summary["optimality"]["separation"].endswith("grow without bound; set a penalty, such as l2=1e-3")


def test_the_advice_keeps_what_was_dropped_before(tmp_path: Path, y: list[str]) -> None:
    data = table(write(tmp_path, a=noise(11), b=noise(12), c=y, y=y), "dataset.drop=[b]")
    assert data.leaks.advice == "dataset.drop=[b,c]"
    assert re.search(r"'c' alone determines .*dataset\.drop=\[b,c\]$", "\n".join(data.notes), re.MULTILINE)
