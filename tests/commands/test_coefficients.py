"""`scripts/coefficients.py` as a user types it: R's numbers, invariances, and what it refuses."""

from __future__ import annotations

import csv
import json
import random
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import chi2

from logreg.commands.coefficients import main
from whole_runs import Run, left_in, train, working_in

REFERENCES = Path(__file__).parents[3] / "shared" / "references"

ALL = ("dataset.split.val=0", "dataset.split.test=0")
"""All rows, as R fits them."""

WHITE = "'reference={race:white}'"

Array = NDArray[np.float64]

Ask = Callable[..., dict[str, Any]]


@cache
def of_r() -> Mapping[str, Any]:
    """The numbers of R, made by the program that their README names."""
    file = REFERENCES / "inference.json"
    if not file.is_file():
        pytest.skip(f"the numbers of R are not in {REFERENCES}")
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return known


def fitted(folder: Path, file: Path, target: str, *arguments: str) -> Run:
    return train(folder, "dataset=table", f"dataset.path={file}", f"dataset.target={target}", *ALL, "l2=0", *arguments)


@pytest.fixture(scope="module")
def birthwt(tmp_path_factory: pytest.TempPathFactory) -> Run:
    of_r()
    return fitted(tmp_path_factory.mktemp("birthwt"), REFERENCES / "birthwt.csv", "low")


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """What is answered about a run."""

    def type_(run: Run, arguments: str = "") -> dict[str, Any]:
        capsys.readouterr()
        before = left_in(tmp_path)
        with working_in(tmp_path):
            assert main([f"ckpt_path={run.folder}", *shlex.split(arguments), "json=true"]) == 0
        assert left_in(tmp_path) == before
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return type_


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that is the answer to a mistake."""

    def type_(run: Run | None, *arguments: str) -> str:
        capsys.readouterr()
        with working_in(tmp_path):
            assert main([*([] if run is None else [f"ckpt_path={run.folder}"]), *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return err.rstrip("\n")

    return type_


def values(answer: Mapping[str, Any], key: str, class_name: str | None = None) -> list[float]:
    """One number of each coefficient, the intercept first, as R has them."""
    rows = [row for row in answer["coefficients"] if class_name in (None, row["class_name"])]
    return [row[key] if key in row else row["per_unit"][key] for row in rows]


def write(folder: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return folder / "t.csv"


def drawn(rows: int = 120, seed: int = 0) -> dict[str, list[Any]]:
    """Two numbers, a category, and classes that overlap."""
    draw = random.Random(seed)
    a, b = ([round(draw.gauss(0, 1), 3) for _ in range(rows)] for _ in "ab")
    color = [draw.choice(["blue", "green", "red"]) for _ in range(rows)]
    y = ["yes" if x + (c == "red") + draw.gauss(0, 2) > 0 else "no" for x, c in zip(a, color, strict=True)]
    return {"a": a, "b": b, "color": color, "y": y}


# The numbers of R


def test_estimates_and_errors_are_those_of_glm(birthwt: Run, ask: Ask) -> None:
    known, answer = of_r()["birthwt"]["logit"], ask(birthwt, WHITE)
    assert [row["feature"] for row in answer["coefficients"]] == [
        *("intercept", "age", "lwt", "race=black", "race=other", "smoke", "ptl", "ht", "ui", "ftv")
    ]
    assert values(answer, "coef") == pytest.approx(known["estimate"], rel=1e-8)
    assert values(answer, "std_error") == pytest.approx(known["std_error"], rel=1e-6)
    assert values(answer, "z") == pytest.approx(known["z"], rel=1e-6)
    assert values(answer, "p") == pytest.approx(known["p"], rel=1e-6)
    fit = answer["fit"]
    for ours, theirs in (
        ("log_likelihood", "loglik"),
        ("null_log_likelihood", "null_loglik"),
        ("aic", "aic"),
        ("bic", "bic"),
    ):
        assert fit[ours] == pytest.approx(known[theirs], rel=1e-10)
    assert (fit["rows"], fit["parameters"], fit["likelihood_ratio"]["degrees"]) == (189, 10, 9)
    assert fit["mcfadden_r2"] == pytest.approx(1 - known["loglik"] / known["null_loglik"], rel=1e-10)


def test_the_reference_level_is_the_first_unless_typed(birthwt: Run, ask: Ask) -> None:
    white, black = ask(birthwt, WHITE), ask(birthwt)
    assert black["references"] == {"race": "black"}
    by_name = {row["feature"]: row["per_unit"]["coef"] for row in white["coefficients"]}
    other = {row["feature"]: row["per_unit"]["coef"] for row in black["coefficients"]}
    assert other["race=white"] == pytest.approx(-by_name["race=black"], rel=1e-9)
    assert other["race=other"] == pytest.approx(by_name["race=other"] - by_name["race=black"], rel=1e-9)
    assert other["intercept"] == pytest.approx(by_name["intercept"] + by_name["race=black"], rel=1e-9)
    assert black["fit"]["variance_inflation"] == pytest.approx(white["fit"]["variance_inflation"], rel=1e-9)


def test_profile_limits_are_those_of_confint(birthwt: Run, ask: Ask) -> None:
    # To 1e-4 of the limit or of its standard error: R interpolates the profile by a spline, and errs by up to 2e-4
    # standard errors. The test after this one holds ours to 1e-9.
    known, answer = of_r()["birthwt"]["profile_95"], ask(birthwt, f"{WHITE} interval=profile")
    errors = values(answer, "std_error")
    for key in ("low", "high"):
        for ours, theirs, error in zip(values(answer, key), known[key], errors, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4 * error)
    assert answer["limit_error"] <= 1e-9


def test_the_likelihood_falls_by_half_a_quantile_at_a_profile_limit(birthwt: Run, ask: Ask) -> None:
    with (REFERENCES / "birthwt.csv").open() as file:
        rows = list(csv.DictReader(file))
    races = [[float(row["race"] == race) for race in ("black", "other")] for row in rows]
    columns = [[float(row[name]) for name in ("age", "lwt", "smoke", "ptl", "ht", "ui", "ftv")] for row in rows]
    x = np.array([[1, *own[:2], *race, *own[2:]] for own, race in zip(columns, races, strict=True)])
    y = np.array([float(row["low"]) for row in rows])

    def likelihood(logits: Array) -> float:
        return -float(np.logaddexp(0, np.where(y == 1, -1, 1) * logits).sum())

    def most(offset: Array, free: Array) -> float:
        """The largest log-likelihood, by Newton's method in NumPy with steps that are halved."""
        point = np.zeros(free.shape[1])
        for _ in range(100):
            p = expit(offset + free @ point)
            step = np.linalg.solve((free.T * (p * (1 - p))) @ free, free.T @ (y - p))
            while likelihood(offset + free @ (point + step)) < likelihood(offset + free @ point) - 1e-9:
                step = step / 2
            point = point + step
        return likelihood(offset + free @ point)

    answer = ask(birthwt, f"{WHITE} interval=profile confidence=0.9")
    best = most(np.zeros(len(y)), x)
    for place in range(x.shape[1]):
        for key in ("low", "high"):
            fallen = best - most(x[:, place] * values(answer, key)[place], np.delete(x, place, axis=1))
            assert fallen == pytest.approx(chi2.ppf(0.9, 1) / 2, rel=1e-9)


@pytest.mark.parametrize("kind", ["HC0", "HC1", "HC2", "HC3"])
def test_robust_errors_are_those_of_sandwich(kind: str, birthwt: Run, ask: Ask) -> None:
    answer = ask(birthwt, f"{WHITE} covariance={kind}")
    assert values(answer, "std_error") == pytest.approx(of_r()["birthwt"]["robust"][kind], rel=1e-6)


def test_errors_by_cluster_are_those_of_sandwich(birthwt: Run, ask: Ask) -> None:
    answer = ask(birthwt, f"{WHITE} covariance=cluster:race")
    known = of_r()["birthwt"]["cluster"]
    assert values(answer, "std_error") == pytest.approx(known["std_error_HC1"], rel=1e-6)
    factor = (3 / 2 * 188 / 179) ** 0.5
    assert [error / factor for error in values(answer, "std_error")] == pytest.approx(
        known["std_error_HC0_no_cadjust"], rel=1e-6
    )
    assert any("3 clusters of race: fewer than" in note for note in answer["notes"])


def test_likelihood_ratio_tests_are_those_of_drop1(birthwt: Run, ask: Ask) -> None:
    known, tests = of_r()["birthwt"]["likelihood_ratio"], ask(birthwt, f"{WHITE} test=lrt")["tests"]
    by_name = {test["term"]: test for test in tests}
    assert [by_name[name]["chi2"] for name in known["term"]] == pytest.approx(known["chi2"], rel=1e-6)
    assert [by_name[name]["p"] for name in known["term"]] == pytest.approx(known["p"], rel=1e-6)
    assert [by_name[name]["degrees"] for name in known["term"]] == [1, 1, 2, 1, 1, 1, 1, 1]


def test_several_classes_are_those_of_multinom(tmp_path: Path, ask: Ask) -> None:
    known = of_r()["multinomial"]
    run = fitted(tmp_path, REFERENCES / "birthwt.csv", "race", "dataset.features=[age,lwt,smoke]")
    answer = ask(run, "reference_class=white")
    for number, name in enumerate(known["classes"]):
        assert values(answer, "coef", name) == pytest.approx(known["estimate"][number], rel=1e-6)
        assert values(answer, "std_error", name) == pytest.approx(known["std_error"][number], rel=1e-6)
    assert answer["fit"]["log_likelihood"] == pytest.approx(known["loglik"], rel=1e-10)
    assert answer["fit"]["tjur_r2"] is None


def test_weights_that_are_whole_are_frequencies(tmp_path: Path, ask: Ask) -> None:
    known = of_r()["frequency_weights"]
    with (REFERENCES / "birthwt.csv").open() as one, (REFERENCES / "birthwt_offset_and_weight.csv").open() as other:
        rows = [{**left, **right} for left, right in zip(csv.DictReader(one), csv.DictReader(other), strict=True)]
    columns = {name: [row[name] for row in rows] for name in ("age", "lwt", "smoke", "low", "n")}
    run = fitted(tmp_path, write(tmp_path, columns), "low", "dataset.weight=n")
    answer = ask(run)
    assert values(answer, "coef") == pytest.approx(known["estimate"], rel=1e-6)
    assert values(answer, "std_error") == pytest.approx(known["std_error"], rel=1e-6)
    assert values(answer, "p") == pytest.approx(known["p"], rel=1e-6)
    assert answer["weights"] == "frequency"
    counted = {name: [row[name] for row in rows for _ in range(int(row["n"]))] for name in columns}
    again = fitted(tmp_path, write(tmp_path, counted), "low", "dataset.drop=[n]")
    expanded = ask(again)
    for key in ("rows", "log_likelihood", "bic", "tjur_r2"):
        assert answer["fit"][key] == pytest.approx(expanded["fit"][key], rel=1e-9)
