"""`scripts/coefficients.py checks=true`: R's and statsmodels' numbers, invariances, and what is refused."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import chi2

from logreg.commands.coefficients import main
from tables import drawn, drawn_sparse, write_csv
from whole_runs import Run, train, working_in

Array = NDArray[np.float64]

Ask = Callable[..., dict[str, Any]]

ALL = ("dataset.split.val=0", "dataset.split.test=0", "l2=0")
"""All rows, and no penalty."""

BIRTHWT = Path(__file__).parents[3] / "shared" / "references" / "birthwt.csv"


def fitted(folder: Path, file: Path, target: str, *arguments: str) -> Run:
    return train(folder, "dataset=table", f"dataset.path={file}", f"dataset.target={target}", *ALL, *arguments)


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """The checks of a run."""

    def type_(run: Run, arguments: str = "") -> dict[str, Any]:
        capsys.readouterr()
        with working_in(tmp_path):
            assert main([f"ckpt_path={run.folder}", "checks=true", *shlex.split(arguments), "json=true"]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)["checks"]
        return answer

    return type_


def parabola(rows: int = 150, seed: int = 0) -> dict[str, list[Any]]:
    """A table whose logit is a parabola in its first column."""
    return drawn(rows, seed, lambda value: value * value - 1)


def design_of(columns: Mapping[str, Sequence[Any]]) -> tuple[Array, Array]:
    """The rows by R's contrasts, the intercept last, and classes of 0 and 1."""
    levels = [[float(color == level) for color in columns["color"]] for level in ("green", "red")]
    x = np.column_stack([columns["a"], columns["b"], *levels, np.ones(len(columns["a"]))])
    return x, np.array([float(label == "yes") for label in columns["y"]])


def fit_of(x: Array, y: Array) -> Array:
    """The maximum of the likelihood by Newton's method."""
    point = np.zeros(x.shape[1])
    for _ in range(50):
        p = expit(x @ point)
        point = point + np.linalg.solve((x.T * (p * (1 - p))) @ x, x.T @ (y - p))
    return point


def log_likelihood(x: Array, y: Array) -> float:
    return -float(np.logaddexp(0, np.where(y == 1, -1, 1) * (x @ fit_of(x, y))).sum())


# The numbers of R 4.2.2


@pytest.fixture(scope="module")
def birthwt(tmp_path_factory: pytest.TempPathFactory) -> Run:
    if not BIRTHWT.is_file():
        pytest.skip(f"{BIRTHWT} is not there")
    return fitted(tmp_path_factory.mktemp("birthwt"), BIRTHWT, "low")


WHITE = "'reference={race:white}'"


def test_influence_is_that_of_r(birthwt: Run, ask: Ask) -> None:
    # m <- glm(low ~ ., binomial, d, epsilon = 1e-14); cook <- cooks.distance(m); o <- order(-cook)[1:10]
    # hatvalues(m)[o]; rstandard(m, type = "pearson")[o]; fitted(m)[o]; sum(hatvalues(m) > 3 * 10 / 189)
    checks = ask(birthwt, WHITE)
    rows = checks["influence"]
    assert [row["row"] for row in rows] == [94, 13, 147, 183, 65, 132, 33, 170, 171, 159]
    for key, known in {
        "cooks_distance": (0.0891426266683064, 0.0426088533564846, 0.039761584159704, 0.0314202404167132),
        "leverage": (0.13340199500268, 0.111067912771971, 0.109796124891334, 0.0302411031767548),
        "residual": (-2.40641426651927, -1.84667261853949, 1.79549034231357, 3.17422584381235),
        "probability": (0.833840711736345, 0.751949428854337, 0.258409524096447, 0.0928418115579756),
    }.items():
        assert [row[key] for row in rows[:4]] == pytest.approx(known, rel=1e-8)
    assert checks["high_leverage"] == 5
    # X <- model.matrix(m); V <- vcov(m)
    # V %*% X[94, ] * (d$low - fitted(m))[94] / (1 - hatvalues(m)[94]) / sqrt(diag(V))
    # (dfbetas(m) of R 4.2 takes deviance residuals in place of d$low - fitted(m))
    changes = {
        "intercept": -0.06974551332574876,
        "age": 0.00946926470763307,
        "race=other": 0.16638607795636484,
        "ptl": -0.80529107349648921,
        "ui": -0.19266950029630966,
    }
    assert {name: rows[0]["dfbetas"][name] for name in changes} == pytest.approx(changes, rel=1e-7)


def test_goodness_of_fit_is_that_of_r(birthwt: Run, ask: Ask) -> None:
    checks = ask(birthwt, WHITE)
    # hoslem.test(d$low, fitted(m)) of ResourceSelection: cut(p, unique(quantile(p, 0:10 / 10)), include.lowest = TRUE),
    # sum((observed - expected)^2 / expected) over groups and classes, pchisq(., 8, lower = FALSE)
    test = checks["hosmer_lemeshow"]
    assert [test[key] for key in ("chi2", "p")] == pytest.approx([3.943415479503794, 0.862192266127514], rel=1e-8)
    assert (test["degrees"], test["groups"]) == (8, 10)
    # e <- predict(m); anova(m, update(m, . ~ . + I(e^2 * (e >= 0) / 2) + I(-e^2 * (e < 0) / 2)), test = "LRT")
    assert checks["stukel"]["chi2"] == pytest.approx(0.361763507024762, rel=1e-8)
    assert checks["stukel"]["p"] == pytest.approx(0.834534033579965, rel=1e-8)


def test_splines_are_those_of_r(birthwt: Run, ask: Ask) -> None:
    checks = ask(birthwt, WHITE)
    found = {one["feature"]: one for one in checks["linearity"]}
    # anova(m, update(m, . ~ . - age + ns(age, df = 4)), test = "LRT"), and test = "Rao"; ns(ftv, knots = 1)
    for name, ratio, score, degrees, knots in (
        ("age", 5.820594140349698, 5.26999784388369, 3, [14, 19, 23, 26, 45]),
        ("lwt", 2.115811041553656, 1.94217543670015, 3, [80, 110, 121, 140, 250]),
        ("ftv", 0.101020667209468, None, 1, [0, 1, 6]),
    ):
        one = found[name]
        assert one["likelihood_ratio"]["chi2"] == pytest.approx(ratio, rel=1e-8)
        assert one["likelihood_ratio"]["degrees"] == one["score"]["degrees"] == degrees
        assert one["knots"] == pytest.approx(knots, rel=1e-12)
        if score is not None:
            assert one["score"]["chi2"] == pytest.approx(score, rel=1e-7)
    assert checks["left_out"]["linearity of ptl"] == "nearly all rows have the smallest or the largest value"
    # g <- cut(d$age, c(-Inf, unique(quantile(d$age, 1:12 / 13)), Inf)): length, and means of age, of low less p, and
    # 2 * sqrt(tapply(p * (1 - p), g, sum)) / table(g)
    assert found["age"]["bins"][0] == pytest.approx(
        {"rows": 25, "value": 16.12, "residual": 0.02815848420323931, "limit": 0.182872012879844}, rel=1e-8
    )
    assert found["age"]["bins"][-1] == pytest.approx(
        {"rows": 15, "value": 34.1333333333333, "residual": -0.06432958759204545, "limit": 0.180618645631746}, rel=1e-8
    )
    assert [one["rows"] for one in found["age"]["bins"]] == [25, 10, 16, 18, 12, 13, 13, 13, 15, 11, 16, 12, 15]


@pytest.mark.long
def test_overdispersion_is_that_of_r(tmp_path: Path, birthwt: Run, ask: Ask) -> None:
    # m <- glm(low ~ smoke + ht + ui, binomial, d); k <- interaction(d$smoke, d$ht, d$ui, drop = TRUE)
    # o <- tapply(d$low, k, sum); n <- tapply(d$low, k, length); p <- tapply(fitted(m), k, mean)
    # sum((o - n * p)^2 / (n * p * (1 - p)))
    run = fitted(tmp_path, BIRTHWT, "low", "dataset.features=[smoke,ht,ui]")
    assert ask(run)["overdispersion"] == pytest.approx(
        {"chi2": 0.665712535170130, "degrees": 2, "p": 0.716873224670893, "patterns": 6}, rel=1e-8
    )
    checks = ask(birthwt)
    assert checks["overdispersion"] is None
    assert checks["left_out"]["overdispersion"] == "covariate patterns hardly repeat, 183 of them in 189 rows"
    few = fitted(tmp_path, BIRTHWT, "low", "dataset.features=[smoke]")
    assert ask(few)["left_out"]["overdispersion"] == "2 covariate patterns are not more than the 2 parameters"


@pytest.mark.long
def test_checks_of_a_probit_link_are_those_of_r(tmp_path: Path, birthwt: Run, ask: Ask) -> None:
    checks = ask(fitted(tmp_path, BIRTHWT, "low", "link=probit"), WHITE)
    rows = checks["influence"][:3]
    assert [row["row"] for row in rows] == [94, 13, 183]
    for key, known in {
        "cooks_distance": (0.107999191464151, 0.0425956872555313, 0.0408586611528946),
        "leverage": (0.156545899004258, 0.115322481805535, 0.0379708685787453),
        "residual": (-2.41223787248945, -1.80766654415938, 3.21744336955022),
    }.items():
        assert [row[key] for row in rows] == pytest.approx(known, rel=1e-6)  # R stops at 1e-8 or so
    assert checks["hosmer_lemeshow"]["chi2"] == pytest.approx(5.70000267524059, rel=1e-6)
    (age,) = (one for one in checks["linearity"] if one["feature"] == "age")
    assert age["likelihood_ratio"]["chi2"] == pytest.approx(5.79072461207792, rel=1e-8)
    assert age["score"]["chi2"] == pytest.approx(5.14123228017098, rel=1e-6)
    assert checks["stukel"] is None
    assert checks["left_out"]["Stukel"] == "it is of a logit link, and this one is probit"


# Identities


@pytest.mark.long
def test_a_parabola_is_no_line(tmp_path: Path, ask: Ask) -> None:
    columns = parabola()
    checks = ask(fitted(tmp_path, write_csv(tmp_path, columns), "y"))
    first, second = checks["linearity"]
    assert (first["feature"], second["feature"]) == ("a", "b")
    x, y = design_of(columns)
    a = x[:, 0]
    knots = np.quantile(a, [0, 0.25, 0.5, 0.75, 1])
    assert first["knots"] == pytest.approx(knots, rel=1e-9)
    # natural cubic splines by Harrell's truncated powers
    last, before = knots[-1], knots[-2]

    def power(knot: float) -> Array:
        return np.clip(a - knot, 0, None) ** 3

    of_knots = [
        power(knot) - power(before) * (last - knot) / (last - before) + power(last) * (before - knot) / (last - before)
        for knot in knots[:-2]
    ]
    ratio = 2 * (log_likelihood(np.column_stack([x, *of_knots]), y) - log_likelihood(x, y))
    assert first["likelihood_ratio"]["chi2"] == pytest.approx(ratio, rel=1e-8)
    assert first["likelihood_ratio"]["p"] == pytest.approx(chi2.sf(ratio, 3), rel=1e-6)
    assert first["likelihood_ratio"]["p"] < 1e-3 < second["likelihood_ratio"]["p"]
    assert sum(one["rows"] for one in first["bins"]) == 150
    residuals = sum(one["rows"] * one["residual"] for one in first["bins"])
    assert residuals == pytest.approx(0, abs=1e-9)
    assert sum(abs(one["residual"]) > one["limit"] for one in first["bins"]) >= 3


@pytest.mark.long
def test_one_step_is_near_the_fit_without_the_row(tmp_path: Path, ask: Ask) -> None:
    columns = parabola()
    checks = ask(fitted(tmp_path, write_csv(tmp_path, columns), "y"))
    x, y = design_of(columns)
    whole = fit_of(x, y)
    p = expit(x @ whole)
    errors = np.sqrt(np.diag(np.linalg.inv((x.T * (p * (1 - p))) @ x)))
    for row in checks["influence"][:3]:
        place = row["row"] - 1
        moved = (whole - fit_of(np.delete(x, place, 0), np.delete(y, place))) / errors
        step = [row["dfbetas"][name] for name in ("a", "b", "color=green", "color=red", "intercept")]
        assert step == pytest.approx(moved, abs=0.1 * np.abs(moved).max())
        assert row["class_name"] == columns["y"][place]


@pytest.mark.long
def test_influence_is_that_of_statsmodels(tmp_path: Path, ask: Ask) -> None:
    statsmodels = pytest.importorskip("statsmodels.api", reason="statsmodels is not among the dependencies")
    columns = parabola()
    checks = ask(fitted(tmp_path, write_csv(tmp_path, columns), "y"))
    x, y = design_of(columns)
    model = statsmodels.GLM(y, x, family=statsmodels.families.Binomial()).fit(tol=1e-14)
    theirs = model.get_influence()
    order = np.argsort(-theirs.cooks_distance[0])[:10]
    rows = checks["influence"]
    assert [row["row"] for row in rows] == (order + 1).tolist()
    for key, known in {
        "cooks_distance": theirs.cooks_distance[0],
        "leverage": theirs.hat_matrix_diag,
        "residual": theirs.resid_studentized,
    }.items():
        assert [row[key] for row in rows] == pytest.approx(known[order], rel=1e-7)
    mine = np.array([list(row["dfbetas"].values()) for row in rows])
    assert mine == pytest.approx(theirs.d_params[order] / model.bse, rel=1e-6)
    by_row = {row["row"]: row["leverage"] for row in checks["plotted"]}
    assert len(by_row) == 150
    assert sum(by_row.values()) == pytest.approx(5, rel=1e-9)  # the number of parameters


@pytest.fixture(scope="module")
def of_parabola(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("parabola")
    return fitted(folder, write_csv(folder, parabola()), "y")


@pytest.mark.long
@pytest.mark.parametrize("typed", [("loss=cross_entropy",), ("dataset.positive=no",), ("precision=64",)], ids=" ".join)
def test_the_form_of_the_fit_changes_no_check(
    typed: tuple[str, ...], of_parabola: Run, tmp_path: Path, ask: Ask
) -> None:
    known = ask(of_parabola)
    run = fitted(tmp_path, Path(of_parabola.summary["config"]["dataset"]["path"]), "y", *typed)
    swapped = "dataset.positive=no" in typed
    for arguments in ("", "reference_class=yes"):
        other = ask(run, arguments)
        sign = -1 if (arguments != "") else 1
        for ours, theirs in zip(other["influence"], known["influence"], strict=True):
            assert ours["row"] == theirs["row"]
            for key in ("leverage", "cooks_distance"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-8)
            assert ours["residual"] == pytest.approx(-theirs["residual"] if swapped else theirs["residual"], rel=1e-8)
            if not swapped:
                expected = {name: sign * change for name, change in theirs["dfbetas"].items()}
                assert ours["dfbetas"] == pytest.approx(expected, rel=1e-6, abs=1e-9)
        for ours, theirs in zip(other["linearity"], known["linearity"], strict=True):
            assert ours["likelihood_ratio"]["chi2"] == pytest.approx(theirs["likelihood_ratio"]["chi2"], rel=1e-8)
            assert ours["score"]["chi2"] == pytest.approx(theirs["score"]["chi2"], rel=1e-8)
        assert other["hosmer_lemeshow"]["chi2"] == pytest.approx(known["hosmer_lemeshow"]["chi2"], rel=1e-7)
        assert other["stukel"]["chi2"] == pytest.approx(known["stukel"]["chi2"], rel=1e-7)


@pytest.mark.long
def test_rows_of_a_weight_are_as_many_rows(tmp_path: Path, ask: Ask) -> None:
    columns = parabola()
    columns["n"] = [1 + row % 3 for row in range(150)]
    counted = {name: [v for v, n in zip(columns[name], columns["n"], strict=True) for _ in range(n)] for name in "abyn"}
    counted["color"] = [v for v, n in zip(columns["color"], columns["n"], strict=True) for _ in range(n)]
    one = ask(fitted(tmp_path, write_csv(tmp_path, columns), "y", "dataset.weight=n"))
    other = ask(fitted(tmp_path, write_csv(tmp_path / "counted", counted), "y", "dataset.drop=[n]"))
    assert one["hosmer_lemeshow"] == pytest.approx(other["hosmer_lemeshow"], rel=1e-8)
    assert one["overdispersion"] == pytest.approx(other["overdispersion"], rel=1e-8)
    assert one["stukel"]["chi2"] == pytest.approx(other["stukel"]["chi2"], rel=1e-8)
    for ours, theirs in zip(one["linearity"], other["linearity"], strict=True):
        assert ours["knots"] == pytest.approx(theirs["knots"], rel=1e-9)
        assert ours["likelihood_ratio"]["chi2"] == pytest.approx(theirs["likelihood_ratio"]["chi2"], rel=1e-8)
        assert ours["bins"] == [pytest.approx(each, rel=1e-8) for each in theirs["bins"]]
    assert one["high_leverage"] == other["high_leverage"]
    assert one["influence"][0]["cooks_distance"] == pytest.approx(other["influence"][0]["cooks_distance"], rel=1e-8)
    repeated = ask(fitted(tmp_path, write_csv(tmp_path / "all", {k: v * 2 for k, v in parabola().items()}), "y"))
    assert repeated["overdispersion"]["patterns"] == 150
    assert repeated["overdispersion"]["degrees"] == 145


@pytest.mark.long
def test_more_rows_than_a_block_have_the_same_checks(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fitted(tmp_path, write_csv(tmp_path, parabola()), "y")
    known = ask(run)
    monkeypatch.setattr("logreg.solvers.passes.base.part_rows", lambda *_: 7)
    monkeypatch.setattr("logreg.rows.BLOCK_ROWS", 40)
    monkeypatch.setattr("logreg.data.row_source.CACHED_BLOCK_BYTES", 1500)
    other = ask(run)
    assert [row["row"] for row in other["influence"]] == [row["row"] for row in known["influence"]]
    assert other["hosmer_lemeshow"] == pytest.approx(known["hosmer_lemeshow"], rel=1e-9)
    for ours, theirs in zip(other["linearity"], known["linearity"], strict=True):
        assert ours["bins"] == [pytest.approx(each, rel=1e-8, abs=1e-12) for each in theirs["bins"]]
        assert ours["likelihood_ratio"]["chi2"] == pytest.approx(theirs["likelihood_ratio"]["chi2"], rel=1e-8)


@pytest.mark.long
def test_of_many_rows_a_sample_has_the_quantiles(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = parabola()
    run = fitted(tmp_path, write_csv(tmp_path, columns), "y")
    monkeypatch.setattr("logreg.inference.diagnostics.MAX_SAMPLED_ROWS", 50)
    monkeypatch.setattr("logreg.run.checking.MIN_REFITS", 1)
    monkeypatch.setattr("logreg.run.checking.MAX_REFIT_FLOP", 0.0)
    monkeypatch.setattr("logreg.run.checking.MAX_BINNED", 1)
    checks = ask(run)
    (one,) = (one for one in checks["linearity"] if one["feature"] == "a")
    a = np.array(columns["a"])
    assert one["knots"] == pytest.approx([a.min(), *np.quantile(a[::3], [0.25, 0.5, 0.75]), a.max()], rel=1e-9)
    assert [one["likelihood_ratio"] is None for one in checks["linearity"]] == [False, True]
    assert [len(one["bins"]) > 0 for one in checks["linearity"]] == [True, False]


# What is left out, and what is refused


def test_tests_of_rows_that_depend_on_each_other_are_left_out(tmp_path: Path, ask: Ask) -> None:
    columns = parabola()
    columns["school"] = [f"s{row % 9}" for row in range(150)]
    run = fitted(tmp_path, write_csv(tmp_path, columns), "y", "dataset.drop=[school]")
    checks = ask(run, "covariance=cluster:school")
    assert checks["hosmer_lemeshow"] is checks["stukel"] is checks["overdispersion"] is None
    assert checks["linearity"] == []
    assert set(checks["left_out"].values()) == {"rows of one cluster are not independent"}
    assert len(checks["influence"]) == 10


def test_a_row_with_a_sampling_weight_is_one_row(tmp_path: Path, ask: Ask) -> None:
    columns = parabola()
    columns["w"] = [0.5 + row % 3 for row in range(150)]
    checks = ask(fitted(tmp_path, write_csv(tmp_path, columns), "y", "dataset.weight=w"))
    assert set(checks["left_out"].values()) == {"weights are sampling weights, which have no likelihood"}
    x, y = design_of(columns)
    w = np.array(columns["w"])
    point = np.zeros(5)
    for _ in range(50):
        p = expit(x @ point)
        point = point + np.linalg.solve((x.T * (w * p * (1 - p))) @ x, x.T @ (w * (y - p)))
    row = checks["influence"][0]
    place, variance = row["row"] - 1, w * p * (1 - p)
    inverse = np.linalg.inv((x.T * variance) @ x)
    leverage = np.einsum("np,pq,nq->n", x, inverse, x) * variance
    pearson = w / w.mean() * (y - p) ** 2 / (p * (1 - p))
    distance = pearson * leverage / (5 * (1 - leverage) ** 2)
    assert place == distance.argmax()
    assert row["leverage"] == pytest.approx(leverage[place], rel=1e-7)
    assert row["cooks_distance"] == pytest.approx(distance[place], rel=1e-7)
    scores = (w * (y - p))[:, None] * x
    change = inverse @ scores[place] / (1 - leverage[place])
    errors = np.sqrt(np.diag(inverse @ scores.T @ scores @ inverse))  # HC0
    step = [row["dfbetas"][name] for name in ("a", "b", "color=green", "color=red", "intercept")]
    assert step == pytest.approx(change / errors, rel=1e-6)


@pytest.mark.long
def test_sparse_rows_have_influence_and_no_splines(tmp_path: Path, ask: Ask) -> None:
    file, columns = drawn_sparse(tmp_path)
    sparse = ask(train(tmp_path, "dataset=features", f"dataset.path={file}", *ALL))
    dense = ask(fitted(tmp_path, write_csv(tmp_path, columns), "y"))
    assert sparse["left_out"] == {**dict.fromkeys(("linearity", "Stukel"), "the rows are sparse")} | {
        key: why for key, why in dense["left_out"].items() if key == "overdispersion"
    }
    for ours, theirs in zip(sparse["influence"], dense["influence"], strict=True):
        assert ours["row"] == theirs["row"]
        assert ours["cooks_distance"] == pytest.approx(theirs["cooks_distance"], rel=1e-8)
    assert sparse["hosmer_lemeshow"]["chi2"] == pytest.approx(dense["hosmer_lemeshow"]["chi2"], rel=1e-8)


@pytest.mark.long
def test_several_classes_and_firth_have_no_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_csv(tmp_path, parabola())
    for target, typed, answer in (
        ("color", (), "`checks=true` must be asked of a model of two classes, and this one has 3: binned residuals"),
        ("y", ("firth=true",), "`checks=true` must be asked of a maximum of the likelihood itself"),
    ):
        run = fitted(tmp_path, file, target)
        capsys.readouterr()
        with working_in(tmp_path):
            assert main([f"ckpt_path={run.folder}", "checks=true", *typed]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert answer in err


# The terminal and the report


@pytest.mark.long
def test_the_report_has_tables_and_pictures_of_the_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fitted(tmp_path, write_csv(tmp_path, parabola()), "y", "report=full")
    capsys.readouterr()
    with working_in(tmp_path):
        assert main([f"ckpt_path={run.folder}", "checks=true", "report=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("checks of the assumptions")
    assert lines[start + 2].split() == [
        *("row", "class", "predicted", "leverage", "residual", "Cook's", "D", "largest", "DFBETA")
    ]
    assert len({len(line) for line in lines[start + 2 : start + 8]}) == 1
    assert any(line.startswith("linearity: a spline improves a (p ") for line in lines)
    page = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "## Checks of the assumptions" in page
    for name in ("binned_residuals", "influence", "odds_ratios"):
        assert page.count(f"![{name}](figures/{name}.png)") == 1
        assert (run.folder / "figures" / f"{name}.png").stat().st_size > 10_000
    with (run.folder / "coefficients.csv").open(encoding="utf-8") as file:
        rows = {row["feature"]: row for row in csv.DictReader(file)}
    checks = run.summary["inference"]["checks"]
    for one in checks["linearity"]:
        assert float(rows[one["feature"]]["linearity: p"]) == one["likelihood_ratio"]["p"]
    assert rows["color=red"]["linearity: p"] == ""
    assert all(name in (run.folder / "report.html").read_text(encoding="utf-8") for name in ("Cook&#x27;s", "Stukel"))
    with working_in(tmp_path):  # without checks, their pictures go
        assert main([f"ckpt_path={run.folder}", "report=true"]) == 0
    page = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "influence.png" not in page
    assert not (run.folder / "figures" / "influence.png").exists()
