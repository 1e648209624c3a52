"""`scripts/coefficients.py interval=bootstrap`: what the spread of the estimates is, and what is refused."""

from __future__ import annotations

import csv
import json
import random
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from sklearn.linear_model import LogisticRegression

from logreg.commands.coefficients import main
from logreg.inference.bootstrap import percentile_limits, resampled_weights
from tables import drawn, write_csv
from whole_runs import Run, train, working_in

Ask = Callable[..., dict[str, Any]]

ALL = ("dataset.split.val=0", "dataset.split.test=0")


def fitted(folder: Path, columns: Mapping[str, Sequence[Any]], *arguments: str, target: str = "y") -> Run:
    table = ("dataset=table", f"dataset.path={write_csv(folder, columns)}", f"dataset.target={target}")
    return train(folder, *table, *ALL, *arguments)


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """What is answered about a run."""

    def type_(run: Run, arguments: str = "interval=bootstrap") -> dict[str, Any]:
        capsys.readouterr()
        with working_in(tmp_path):
            assert main([f"ckpt_path={run.folder}", *shlex.split(arguments), "json=true"]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return type_


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that is the answer to a mistake."""

    def type_(run: Run, *arguments: str) -> str:
        capsys.readouterr()
        with working_in(tmp_path):
            assert main([f"ckpt_path={run.folder}", "interval=bootstrap", *arguments]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return err.rstrip("\n")

    return type_


def values(answer: Mapping[str, Any], key: str) -> list[float]:
    return [row["per_unit"][key] for row in answer["coefficients"]]


@pytest.mark.long
@pytest.mark.parametrize("typed", [(), ("dataset.standardize=false",), ("precision=64", "reduction=sum")], ids=str)
def test_each_sample_has_the_fit_of_the_recipe(typed: tuple[str, ...], tmp_path: Path, ask: Ask) -> None:
    columns = {name: of_column for name, of_column in drawn().items() if name != "color"}
    strength = "l2=2.4" if "reduction=sum" in typed else "l2=0.02"  # the same of 120 rows
    answer = ask(fitted(tmp_path, columns, strength, *typed), "interval=bootstrap replicates=39 seed=5")
    x, y = np.column_stack([columns["a"], columns["b"]]), np.array(columns["y"]) == "yes"
    std = np.ones(2) if "dataset.standardize=false" in typed else x.std(0)
    found = []
    (weights,) = resampled_weights(torch.ones(120, dtype=torch.float64), 39, seed=5)
    for own in (np.ones(120), *weights.numpy()):
        theirs = LogisticRegression(C=1 / (120 * 0.02), solver="newton-cholesky", tol=1e-12)
        theirs.fit(x / std, y, own)
        found.append([theirs.intercept_[0], *(theirs.coef_[0] / std)])
    whole, replicates = found[0], np.array(found[1:])
    limits = percentile_limits(torch.from_numpy(replicates), torch.tensor(whole), 0.95)
    assert values(answer, "coef") == pytest.approx(whole, abs=1e-5)
    for key, limit in zip(("low", "high"), limits, strict=True):
        assert values(answer, key) == pytest.approx(limit.tolist(), abs=5e-3)
    assert values(answer, "std_error") == pytest.approx(replicates.std(0, ddof=1), abs=5e-3)
    assert answer["interval"] == answer["covariance"] == "bootstrap"
    assert [row["z"] for row in answer["coefficients"]] == [None] * 3
    assert answer["fit"]["log_likelihood"] is answer["fit"]["aic"] is None
    assert f"39 samples of the rows, seed 5, each fitted with {strength}" in answer["notes"][-1]


@pytest.mark.long
def test_the_spread_is_that_of_the_sandwich(tmp_path: Path, ask: Ask) -> None:
    columns = drawn(600)
    columns["school"] = [f"s{row % 40}" for row in range(600)]
    shift = [random.Random(place).gauss(0, 1) for place in range(40)]
    draw = random.Random(1)
    columns["y"] = ["yes" if a + shift[row % 40] + draw.gauss(0, 2) > 0 else "no" for row, a in enumerate(columns["a"])]
    free = fitted(tmp_path, columns, "dataset.drop=[school]", "l2=0")
    held = fitted(tmp_path / "held", columns, "dataset.drop=[school]", "l2=1e-5")
    for typed, kind, off in (("", "HC0", 0.1), ("covariance=cluster:school", "cluster:school", 0.15)):
        known = values(ask(free, f"covariance={kind}"), "std_error")
        spread = ask(free, f"interval=bootstrap replicates=399 {typed}")
        assert values(spread, "std_error") == pytest.approx(known, rel=off)
    assert "samples of the clusters" in spread["notes"][-1]
    penalized = ask(
        held, "interval=bootstrap replicates=399 covariance=cluster:school"
    )  # fitted as penalized models are
    assert values(penalized, "low") == pytest.approx(values(spread, "low"), abs=0.01)


@pytest.mark.long
@pytest.mark.parametrize("strength", ["l2=0.01", "l1=0.01"])
def test_other_models_have_intervals(strength: str, tmp_path: Path, ask: Ask) -> None:
    columns = drawn()
    answer = ask(fitted(tmp_path, columns, strength, target="color"), "interval=bootstrap replicates=39")
    assert {row["class_name"] for row in answer["coefficients"]} == {"green", "red"}
    assert all(
        low <= coef <= high
        for low, coef, high in zip(*(values(answer, k) for k in ("low", "coef", "high")), strict=True)
    )
    probit = ask(fitted(tmp_path, columns, "link=probit", "l2=0.01"), "interval=bootstrap replicates=39")
    assert probit["link"] == "probit"
    assert min(values(probit, "std_error")) > 0


@pytest.mark.long
def test_rows_of_a_weight_are_drawn_as_rows(tmp_path: Path, ask: Ask) -> None:
    columns = drawn()
    columns["n"] = [1 + row % 3 for row in range(120)]
    times = {
        name: [v for v, n in zip(part, columns["n"], strict=True) for _ in range(n)] for name, part in columns.items()
    }
    one = ask(fitted(tmp_path / "one", columns, "l2=0.01", "dataset.weight=n"))
    other = ask(fitted(tmp_path / "other", times, "l2=0.01", "dataset.drop=[n]"))
    assert one["fit"]["rows"] == 240
    assert values(one, "coef") == pytest.approx(values(other, "coef"), abs=1e-6)
    assert values(one, "std_error") == pytest.approx(values(other, "std_error"), rel=0.1)


@pytest.mark.long
def test_samples_without_an_estimate_are_counted(tmp_path: Path, ask: Ask, refused: Callable[..., str]) -> None:
    draw = random.Random(2)
    a = [round(draw.gauss(0, 1), 3) for _ in range(16)]
    columns: dict[str, list[Any]] = {"a": a, "y": ["yes" if x + draw.gauss(0, 0.8) > 0 else "no" for x in a]}
    run = fitted(tmp_path, columns, "l2=0")
    answer = ask(run, "interval=bootstrap replicates=100")
    (weights,) = resampled_weights(torch.ones(16, dtype=torch.float64), 100, seed=0)
    signed = np.where(np.array(columns["y"]) == "yes", 1, -1)[:, None] * np.column_stack([np.ones(16), a])
    separated = 0
    for own in weights.numpy():
        z = signed[own > 0]
        # max sum(z d) with z d >= 0 and |d| <= 1: above 0 where a direction separates (Konis, 2007)
        separated += -linprog(-z.sum(0), A_ub=-z, b_ub=np.zeros(len(z)), bounds=[(-1, 1)] * 2).fun > 1e-9
    assert 5 < separated < 60
    assert f"{separated} of 100 samples have no finite estimate" in answer["notes"][-1]
    assert max(map(abs, values(answer, "high"))) < 1e3
    penalized = ask(fitted(tmp_path, columns, "l2=1e-3"), "interval=bootstrap replicates=100")
    assert not any("no finite estimate" in note for note in penalized["notes"])
    columns["y"] = ["no"] * 16
    columns["y"][a.index(max(a))] = columns["y"][a.index(min(a))] = "yes"  # some samples have one class alone
    rare = ask(fitted(tmp_path, columns, "l2=1e-2"), "interval=bootstrap replicates=100")
    one_class = int((weights[:, [a.index(max(a)), a.index(min(a))]].sum(1) == 0).sum())
    assert one_class > 5
    assert f"{one_class} of 100 samples have no finite estimate" in rare["notes"][-1]
    few = refused(fitted(tmp_path, columns, "l2=0"), "replicates=39")
    assert few.startswith("`interval=bootstrap` must have at least 39 samples")
    assert few.endswith("is constant there. Train again with a penalty, such as l2=1e-3, or take more rows.")


@pytest.mark.long
def test_a_few_samples_without_an_estimate_are_made_up_for_by_more_samples(
    tmp_path: Path, ask: Ask, refused: Callable[..., str]
) -> None:
    columns: dict[str, list[Any]] = drawn()
    columns["flag"] = [int(row in (3, 50, 90, 110)) for row in range(120)]  # 0 in one sample of about 50
    columns["y"][3] = columns["y"][50] = "yes"
    columns["y"][90] = columns["y"][110] = "no"
    run = fitted(tmp_path, columns, "l2=0")
    line = refused(run, "replicates=39")
    assert line.endswith("Set replicates=78, or train again with a penalty, such as l2=1e-3, or take more rows.")
    assert "have no finite estimate" in ask(run, "interval=bootstrap replicates=78")["notes"][-1]


@pytest.mark.long
def test_separated_classes_are_sent_to_a_penalty(tmp_path: Path, ask: Ask, refused: Callable[..., str]) -> None:
    columns = drawn()
    columns["y"] = ["yes" if value > 0 else "no" for value in columns["a"]]
    line = refused(fitted(tmp_path, columns, "l2=0"))
    assert "'a' separates 'yes' from 'no'" in line
    assert "Train again with a penalty, such as l2=1e-3, or leave columns out (of a table: dataset.drop)" in line
    assert ask(fitted(tmp_path, columns, "l2=1e-3"), "interval=bootstrap replicates=39")["interval"] == "bootstrap"


@pytest.fixture(scope="module")
def penalized(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fitted(tmp_path_factory.mktemp("penalized"), drawn(), "l2=1e-2")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (("firth=true",), "`firth=true` must not go with interval=bootstrap"),
        (("test=lrt",), "`test=lrt` must not go with interval=bootstrap"),
        (("effects=mean",), "`effects=mean` must not go with interval=bootstrap"),
        (("checks=true",), "`checks=true` must not go with interval=bootstrap"),
        (("covariance=HC1",), "`covariance=HC1` must not go with interval=bootstrap"),
        (("replicates=30",), "`replicates` must be at least 39 for confidence=0.95, got 30. Set replicates=39."),
        (("replicates=0",), "`replicates` must be a whole number >= 1, got 0."),
        (("seed=-1",), "`seed` must be a whole number >= 0, got -1."),
    ],
    ids=str,
)
def test_what_does_not_go_with_a_bootstrap(
    typed: tuple[str, ...], answer: str, penalized: Run, refused: Callable[..., str]
) -> None:
    assert answer in refused(penalized, *typed)


@pytest.mark.long
def test_a_fit_short_of_its_optimum_has_no_bootstrap(tmp_path: Path, refused: Callable[..., str]) -> None:
    short = fitted(tmp_path, drawn(), "l2=1e-2", "optimizer=sgd", "max_epochs=1")
    assert "must be of a fit at its optimum, and this one is" in refused(short)


@pytest.mark.long
def test_the_report_has_intervals_of_the_bootstrap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fitted(tmp_path, drawn(), "l2=1e-2", "report=full")
    capsys.readouterr()
    with working_in(tmp_path):
        assert main([f"ckpt_path={run.folder}", "interval=bootstrap", "replicates=99", "report=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "log-odds of 'yes' against 'no'; standard errors of the bootstrap"
    assert lines[4].split() == ["coef", "std", "error", "low", ".95", "high", ".95"]
    assert "intervals of 95 %: bias-corrected percentiles" in lines
    page = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "standard errors of the bootstrap" in page
    assert "figures/odds_ratios.png" in page
    with (run.folder / "coefficients.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["yes: z"] == ""
    assert float(rows[1]["yes: low"]) < float(rows[1]["yes against no"])
    assert run.summary["inference"]["interval"] == "bootstrap"
