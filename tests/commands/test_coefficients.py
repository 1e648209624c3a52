"""`scripts/coefficients.py` as a user types it: R's numbers, invariances, and what it refuses."""

from __future__ import annotations

import csv
import json
import random
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, softmax
from scipy.stats import cauchy, chi2, norm
from sklearn.feature_extraction.text import TfidfVectorizer

from logreg.commands.coefficients import main
from logreg.training.checkpoint_reading import TrainedModel
from tables import drawn, drawn_sparse, write_csv
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
    # To 1e-4 of the limit or of its standard error: R interpolates the profile by a spline, and errs by up to 3e-4 of
    # the limits near 0. The tests after this one hold ours to 1e-9.
    known, answer = of_r()["birthwt"]["profile_95"], ask(birthwt, f"{WHITE} interval=profile")
    errors = values(answer, "std_error")
    for key in ("low", "high"):
        for ours, theirs, error in zip(values(answer, key), known[key], errors, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4 * error)
    assert answer["limit_error"] <= 1e-9


def test_profile_limits_are_where_r_has_the_deviance(birthwt: Run, ask: Ask) -> None:
    # X <- model.matrix(m); uniroot(function(v) glm.fit(X[, -j], d$low, family = binomial(), offset = X[, j] * v,
    #   control = list(epsilon = 1e-14))$deviance - deviance(m) - qchisq(.95, 1), ., tol = 1e-12) for each j, in R 4.2.2
    known = (
        (-1.84120245399, 2.87735737419),
        (-0.103731256613, 0.0420758717762),
        (-0.0297839843769, -0.00246474987682),
        (0.241686257106, 2.32603967711),
        (0.0266108568285, 1.76507945576),
        (0.161581144959, 1.74786990592),
        (-0.123448467317, 1.24600600622),
        (0.532418408834, 3.32107605992),
        (-0.143525768434, 1.67087652658),
        (-0.283068699046, 0.398812113801),
    )
    answer = ask(birthwt, f"{WHITE} interval=profile")
    for key, theirs in zip(("low", "high"), zip(*known, strict=True), strict=True):
        assert values(answer, key) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.long
def test_the_likelihood_falls_by_half_a_quantile_at_a_profile_limit(birthwt: Run, ask: Ask) -> None:
    x, y = design_of_birthwt()

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


@pytest.mark.long
def test_weights_that_are_whole_are_frequencies(tmp_path: Path, ask: Ask) -> None:
    known = of_r()["frequency_weights"]
    with (REFERENCES / "birthwt.csv").open() as one, (REFERENCES / "birthwt_offset_and_weight.csv").open() as other:
        rows = [{**left, **right} for left, right in zip(csv.DictReader(one), csv.DictReader(other), strict=True)]
    columns = {name: [row[name] for row in rows] for name in ("age", "lwt", "smoke", "low", "n")}
    run = fitted(tmp_path, write_csv(tmp_path, columns), "low", "dataset.weight=n")
    answer = ask(run)
    assert values(answer, "coef") == pytest.approx(known["estimate"], rel=1e-6)
    assert values(answer, "std_error") == pytest.approx(known["std_error"], rel=1e-6)
    assert values(answer, "p") == pytest.approx(known["p"], rel=1e-6)
    assert answer["weights"] == "frequency"
    counted = {name: [row[name] for row in rows for _ in range(int(row["n"]))] for name in columns}
    again = fitted(tmp_path, write_csv(tmp_path, counted), "low", "dataset.drop=[n]")
    expanded = ask(again)
    for key in ("rows", "log_likelihood", "bic", "tjur_r2"):
        assert answer["fit"][key] == pytest.approx(expanded["fit"][key], rel=1e-9)
    run = fitted(tmp_path, write_csv(tmp_path, columns), "low", "dataset.weight=n")
    errors = values(ask(run, "covariance=HC3"), "std_error")
    again = fitted(tmp_path, write_csv(tmp_path, counted), "low", "dataset.drop=[n]")
    assert errors == pytest.approx(values(ask(again, "covariance=HC3"), "std_error"), rel=1e-9)


# What does not change the answer


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a table with a column that is far from zero, which is stored as a deviation."""
    folder, columns = tmp_path_factory.mktemp("far"), drawn()
    columns["year"] = [2e9 + 1e4 * number for number in columns["b"]]
    return fitted(folder, write_csv(folder, {name: columns[name] for name in ("a", "year", "color", "y")}), "y")


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [
        ("dataset.standardize=false",),
        ("precision=64",),
        ("optimizer=lbfgs", "tolerance=1e-8"),
        ("reduction=sum",),
        ("loss=cross_entropy",),
    ],
    ids=" ".join,
)
def test_the_form_of_the_fit_changes_nothing(arguments: tuple[str, ...], far: Run, tmp_path: Path, ask: Ask) -> None:
    file = Path(far.summary["config"]["dataset"]["path"])
    one, other = ask(far), ask(fitted(tmp_path, file, "y", *arguments))
    for key in ("coef", "std_error", "p", "low", "high", "odds_ratio"):
        assert values(other, key) == pytest.approx(values(one, key), rel=1e-9)
    for key in ("log_likelihood", "tjur_r2", "condition_number"):
        assert other["fit"][key] == pytest.approx(one["fit"][key], rel=1e-9)


@pytest.mark.long
def test_a_softmax_of_two_classes_has_the_leverages_of_the_logistic_loss(tmp_path: Path, ask: Ask) -> None:
    file = write_csv(tmp_path, drawn())
    one, other = (ask(fitted(tmp_path, file, "y", *typed), "covariance=HC3") for typed in ((), ("loss=cross_entropy",)))
    assert values(other, "std_error") == pytest.approx(values(one, "std_error"), rel=1e-9)


@pytest.mark.long
def test_the_order_of_the_classes_changes_signs_alone(tmp_path: Path, ask: Ask) -> None:
    file = write_csv(tmp_path, drawn())
    run = fitted(tmp_path, file, "y")
    one, other = ask(run, "covariance=HC3"), ask(run, "covariance=HC3 reference_class=yes")
    swapped = ask(fitted(tmp_path, file, "y", "dataset.positive=no"), "covariance=HC3")
    for answer in (other, swapped):
        assert answer["reference_class"] == "yes"
        assert values(answer, "coef") == pytest.approx([-coef for coef in values(one, "coef")], rel=1e-9)
        assert values(answer, "low") == pytest.approx([-high for high in values(one, "high")], rel=1e-9)
        assert values(answer, "std_error") == pytest.approx(values(one, "std_error"), rel=1e-9)


def test_odds_ratios_and_deviations_are_those_of_the_coefficients(tmp_path: Path, ask: Ask) -> None:
    columns = drawn()
    answer = ask(fitted(tmp_path, write_csv(tmp_path, columns), "y"))
    std = float(np.std(columns["a"]))
    (row,) = (row for row in answer["coefficients"] if row["feature"] == "a")
    for key in ("coef", "std_error", "low", "high"):
        assert row["per_std"][key] == pytest.approx(std * row["per_unit"][key], rel=1e-9)
    assert row["per_unit"]["odds_ratio"] == pytest.approx(np.exp(row["per_unit"]["coef"]))
    assert row["per_std"]["odds_ratio_high"] == pytest.approx(np.exp(row["per_std"]["high"]))
    assert row["z"] == pytest.approx(row["per_unit"]["coef"] / row["per_unit"]["std_error"])


@pytest.mark.long
def test_missing_values_are_columns_of_their_own(tmp_path: Path, ask: Ask) -> None:
    columns = drawn(300)
    gaps = random.Random(1)
    plain = {name: list(of_column) for name, of_column in columns.items()}
    for name in ("a", "color"):
        missing = [gaps.random() < 0.1 for _ in plain[name]]
        columns[name] = ["" if gap else value for gap, value in zip(missing, plain[name], strict=True)]
        kept = [value for value in columns[name] if value != ""]
        fill = float(np.median(kept)) if name == "a" else max(set(kept), key=kept.count)
        plain[name] = [fill if gap else value for gap, value in zip(missing, plain[name], strict=True)]
        plain[f"{name} is missing"] = [int(gap) for gap in missing]
    order = ("a", "a is missing", "b", "color", "color is missing", "y")
    one = ask(fitted(tmp_path, write_csv(tmp_path, columns), "y"))
    other = ask(fitted(tmp_path, write_csv(tmp_path, {name: plain[name] for name in order}), "y"))
    assert [row["feature"] for row in one["coefficients"]] == [row["feature"] for row in other["coefficients"]]
    assert len(one["coefficients"]) == 7
    assert values(one, "coef") == pytest.approx(values(other, "coef"), rel=1e-9)
    assert values(one, "std_error") == pytest.approx(values(other, "std_error"), rel=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("reference", ["red", "(rare)"])
def test_rare_levels_are_one_level(reference: str, tmp_path: Path, ask: Ask) -> None:
    columns = drawn()
    rare = [color if color != "blue" else f"blue {row}" for row, color in enumerate(columns["color"])]
    many, few = tmp_path / "many", tmp_path / "few"
    many.mkdir()
    few.mkdir()
    one = ask(fitted(few, write_csv(few, columns), "y"), f"reference={{color:{reference.replace('(rare)', 'blue')}}}")
    typed = f"'reference={{color:\"{reference}\"}}' test=lrt"
    joined = ask(fitted(many, write_csv(many, columns | {"color": rare}), "y", "dataset.min_level_rows=5"), typed)
    assert joined["references"] == {"color": reference}
    for key in ("coef", "std_error"):
        ours, theirs = (
            dict(zip((row["feature"] for row in answer["coefficients"]), values(answer, key), strict=True))
            for answer in (joined, one)
        )
        renamed = {name.replace("(rare)", "blue"): value for name, value in ours.items()}
        assert renamed == pytest.approx(theirs, rel=1e-8)
    assert {test["term"]: test["degrees"] for test in joined["tests"]} == {"a": 1, "b": 1, "color": 2}


@pytest.mark.long
def test_firth_that_does_not_converge_does_not_advise_firth(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = drawn()
    run = fitted(tmp_path, write_csv(tmp_path, columns | {"y": [int(a > 0) for a in columns["a"]]}), "y")
    assert "Set firth=true" in refused(run)
    monkeypatch.setattr("logreg.inference.firth.FirthLikelihood.max_steps", 2)
    assert refused(run, "firth=true") == (
        "`firth=true` must find the maximum of Firth's penalized likelihood, and 2 steps do not reach it: there are "
        "few rows for the number of parameters. Take more rows, or leave columns out, and train again."
    )


@pytest.mark.long
def test_sampling_weights_have_robust_errors_and_no_likelihood(tmp_path: Path, ask: Ask) -> None:
    columns = drawn()
    columns["w"] = [0.5 + row % 3 for row in range(120)]
    run = fitted(tmp_path, write_csv(tmp_path, columns), "y", "dataset.weight=w")
    answer = ask(run)
    assert (answer["weights"], answer["covariance"], answer["fit"]["rows"]) == ("sampling", "HC0", 120)
    assert answer["fit"]["log_likelihood"] is answer["fit"]["aic"] is answer["fit"]["likelihood_ratio"] is None
    leveraged = ask(run, "covariance=HC3")
    # weights in another unit are the same weights
    columns["w"] = [7.3 * weight for weight in columns["w"]]
    run = fitted(tmp_path, write_csv(tmp_path, columns), "y", "dataset.weight=w")
    for known, typed in ((answer, ""), (leveraged, "covariance=HC3")):
        other = ask(run, typed)
        for key in ("coef", "std_error"):
            assert values(other, key) == pytest.approx(values(known, key), rel=1e-8)
    # of a cluster for each row, errors are those of HC0 but for the factor of few clusters
    columns["w"] = [weight / 7.3 for weight in columns["w"]]
    columns["row"] = [f"r{row}" for row in range(120)]
    run = fitted(tmp_path, write_csv(tmp_path, columns), "y", "dataset.weight=w", "dataset.drop=[row]")
    clustered = ask(run, "covariance=cluster:row")
    factor = (120 / 119 * 119 / (120 - 5)) ** 0.5
    assert values(clustered, "std_error") == pytest.approx([factor * e for e in values(answer, "std_error")], rel=1e-8)


# What is refused


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A fit with no fault."""
    folder = tmp_path_factory.mktemp("plain")
    columns = drawn()
    columns["same"], columns["school"] = ["x"] * 120, [f"s{row % 9}" for row in range(120)]
    return fitted(folder, write_csv(folder, columns), "y", "dataset.features=[a,b,color]")


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        ("confidence=95", "`confidence` must be a number > 0 and < 1, such as 0.95, got 95."),
        (
            "covariance=HC4",
            "`covariance` must be one of auto, hessian, expected, HC0, HC1, HC2, HC3 or cluster:COLUMN, got ",
        ),
        ("covariance=cluster:scool", "Did you mean school?"),
        ("covariance=cluster:same", "and all rows of train have one value there. Name another column"),
        ("covariance=cluster:y", "by which rows depend on each other, and 'y' has the classes. Name another column"),
        ("reference={colour:red}", "of which there are color, got 'colour'. Did you mean color?"),
        ("reference={color:rad}", "`reference.color` must be one of blue, green, red, got 'rad'. Did you mean red?"),
        ("reference={a:1}", "'a' is a column of numbers. Leave it out, or train with dataset.categorical=[a]."),
        ("reference=white", "`reference` must be levels by column, such as {race:white}, got 'white'."),
        ("reference_class=yess", "`reference_class` must be one of no, yes, got 'yess'. Did you mean yes?"),
        ("weights=frequency", "must go with a run with dataset.weight, and this one has none. Leave it out."),
        ("intervall=profile", "`intervall` must be a key of coefficients, and there is none of that name. Did you"),
    ],
)
def test_a_mistake_is_one_line(argument: str, answer: str, plain: Run, refused: Callable[..., str]) -> None:
    assert answer in refused(plain, argument)


def test_robust_errors_do_not_go_with_the_likelihood(plain: Run, refused: Callable[..., str]) -> None:
    for argument in ("interval=profile", "test=lrt"):
        line = refused(plain, argument, "covariance=HC1")
        assert line.startswith(f"`{argument}` must go with covariance=auto")


FITS = {
    "a penalty": (
        ("l2=1e-3",),
        "without penalty, got l2=0.001: a penalty moves",
        "for intervals of the penalized estimates, or train again with l2=0, or set firth=true, which needs no other "
        "fit.",
    ),
    "class weights": (("dataset.class_weight=balanced",), "without class weights", "dataset.class_weight=none."),
    "no intercept": (
        ("intercept=false",),
        "with an intercept, got intercept=false",
        "Train again with intercept=true.",
    ),
    "sgd": (
        ("optimizer=sgd", "max_epochs=2"),
        "at its optimum, and this one is",
        "Train again with optimizer=newton, and without lr, batch_size, schedule and max_epochs.",
    ),
    "groups": (
        ("dataset.split.group=school", "dataset.split.val=0.3"),
        "since rows of one school are not independent",
        "Set 'covariance=cluster:school'.",
    ),
    "few rows": (("dataset.limit=4",), "more rows than parameters", "and train again."),
}


@pytest.mark.parametrize("what", FITS)
def test_a_fit_without_standard_errors_is_refused(what: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    typed, reason, way_out = FITS[what]
    columns = drawn()
    columns["school"] = [f"s{row % 9}" for row in range(120)]
    features = "dataset.features=[a,b,color]"
    line = refused(fitted(tmp_path, write_csv(tmp_path, columns), "y", features, *typed))
    assert reason in line
    assert line.endswith(way_out)


@pytest.mark.long
def test_the_advice_on_a_penalty_goes_with_the_rest(tmp_path: Path, refused: Callable[..., str], ask: Ask) -> None:
    columns = drawn()
    run = fitted(tmp_path, write_csv(tmp_path, columns), "y", "l2=1e-3")
    assert refused(run, "test=lrt").endswith("say. Train again with l2=0, or set firth=true, which needs no other fit.")
    assert ask(run, "test=lrt firth=true")["firth"] is True
    assert refused(run, "checks=true").endswith("say. Train again with l2=0.")
    many = {f"x{place}": [random.Random(place + 99 * row).gauss(0, 1) for row in range(20)] for place in range(25)}
    many["y"] = columns["y"][:20]
    wide = fitted(tmp_path, write_csv(tmp_path, many), "y", "l2=0.1")
    assert "Set interval=bootstrap, or take more rows" in refused(wide)
    assert ask(wide, "interval=bootstrap replicates=39")["interval"] == "bootstrap"


@pytest.mark.long
def test_changed_copies_of_rows_are_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    run = train(tmp_path, "dataset=digits", "dataset.augment=[shift]", "max_epochs=1", "l2=0")
    line = refused(run)
    assert "of a fit to independent rows, and dataset.augment learns from changed copies of them." in line
    assert line.endswith("Train again with dataset.augment=null.")


@pytest.mark.long
def test_what_the_refusals_advise_gives_a_table(tmp_path: Path, ask: Ask, refused: Callable[..., str]) -> None:
    columns = drawn()
    columns["school"] = [f"s{row % 9}" for row in range(120)]
    columns["total"] = [round(a + 2 * b, 6) for a, b in zip(columns["a"], columns["b"], strict=True)]
    file = write_csv(tmp_path, columns)
    group = ("dataset.split.group=school", "dataset.split.val=0.3", "dataset.drop=[total]")
    grouped = fitted(tmp_path, file, "y", *group)
    assert ask(grouped, "covariance=cluster:school")["covariance"] == "cluster:school"
    line = refused(grouped, "firth=true", "interval=profile")
    assert line.endswith("and leave out firth=true interval=profile.")
    line = refused(fitted(tmp_path, file, "y", *group, "l2=1e-3"))
    assert line.endswith("for intervals of the penalized estimates, or train again with l2=0.")  # no firth=true
    line = refused(fitted(tmp_path, file, "y", "dataset.features=[a,b,color,total]"))
    assert "'total' is a linear combination of 'a' and 'b', so no coefficient" in line
    assert line.endswith("Train again with dataset.drop=[total].")
    short = fitted(tmp_path, file, "y", "dataset.features=[a,b,color]", "optimizer=newton", "max_epochs=1")
    assert refused(short).endswith("(tolerance=1e-06). Train again with a larger max_epochs.")


@pytest.mark.long
def test_dependent_columns_are_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    columns = drawn()
    columns["shade"] = [{"blue": "dark", "green": "dark", "red": "light"}[color] for color in columns["color"]]
    columns["fahrenheit"] = [round(1.8 * a + 32, 6) for a in columns["a"]]
    line = refused(fitted(tmp_path, write_csv(tmp_path, columns), "y"))
    assert "'shade=light' is a linear combination of 'color=red'" in line
    assert "'fahrenheit' is a linear combination of 'a', so no coefficient" in line
    assert line.endswith("Train again with dataset.drop=[shade,fahrenheit].")


@pytest.mark.long
@pytest.mark.parametrize(("cut", "kind"), [(0, "complete"), (3, "quasi-complete")])
def test_separated_classes_are_refused(cut: int, kind: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    columns = drawn()
    columns["y"] = ["no" if b < 0 else "yes" for b in columns["b"]]
    if cut:  # three rows of the other class where b is 0
        columns["b"] = [max(b, 0.0) for b in columns["b"]]
        columns["y"][:cut], columns["b"][:cut] = ["yes"] * cut, [0.0] * cut
    line = refused(fitted(tmp_path, write_csv(tmp_path, columns), "y"))
    assert "'b'" in line
    assert f"from 'no' {'in some rows' if cut else 'perfectly'} ({kind} separation)" in line
    assert "Set firth=true" in line


def test_data_that_has_changed_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    columns = drawn()
    run = fitted(tmp_path, write_csv(tmp_path, columns), "y")
    columns["b"][7] += 0.001
    write_csv(tmp_path, columns)
    assert "the data has changed since: their checksum is another one. Train again." in refused(run)
    columns["c"] = columns["b"]
    write_csv(tmp_path, columns)
    assert "the data has changed since" in refused(run)


@pytest.mark.long
def test_several_classes_have_no_leverage(tmp_path: Path, refused: Callable[..., str], ask: Ask) -> None:
    columns = drawn()
    run = fitted(tmp_path, write_csv(tmp_path, columns), "color")
    line = refused(run, "covariance=HC3")
    assert line.startswith("`covariance=HC3` must be asked of a model of two classes")
    assert len(ask(run, "covariance=HC1")["coefficients"]) == 8
    one_vs_rest = fitted(tmp_path, write_csv(tmp_path, columns), "color", "loss=bce")
    assert "loss=bce fits each class against the rest. Train again with loss=auto." in refused(one_vs_rest)


def test_what_is_printed_fits_into_100_columns(plain: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with working_in(plain.folder):
        assert main([f"ckpt_path={plain.folder}", "test=lrt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "log-odds of 'yes' against 'no'; standard errors of maximum likelihood"
    assert max(map(len, lines[1:])) <= 100
    assert "reference levels: color=blue" in lines
    table = lines[4:10]
    assert len({len(line) for line in table}) == 1
    assert table[0].split() == ["coef", "std", "error", "z", "p", "low", ".95", "high", ".95"]


# Firth's penalized likelihood


def test_bias_reduced_estimates_are_those_of_brglm2(birthwt: Run, ask: Ask) -> None:
    known, answer = of_r()["birthwt"]["firth"], ask(birthwt, f"{WHITE} firth=true")
    assert values(answer, "coef") == pytest.approx(known["estimate"], rel=1e-6)
    assert values(answer, "std_error") == pytest.approx(known["std_error"], rel=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("l2", ["0", "1e-2"])
def test_separated_data_has_finite_bias_reduced_estimates(
    l2: str, tmp_path: Path, ask: Ask, refused: Callable[..., str]
) -> None:
    known = of_r()["endometrial"]["firth"]
    run = fitted(tmp_path, REFERENCES / "endometrial.csv", "HG", f"l2={l2}")
    line = refused(run)
    assert ("'NV' separates '1' from '0' in some rows" in line) == (l2 == "0")
    assert "et firth=true" in line
    answer = ask(run, "firth=true")
    for ours, theirs in (("coef", "estimate"), ("std_error", "std_error"), ("z", "z"), ("p", "p")):
        assert values(answer, ours) == pytest.approx(known[theirs], rel=1e-6)


STUDENTS: dict[str, list[Any]] = {"hours": [1.0, 2.0, 3.0], "y": ["no", "no", "yes"]}
"""Whose hours separate them."""


@pytest.mark.long
@pytest.mark.parametrize("students", [False, True])
def test_bias_reduced_likelihood_has_its_own_tests_and_limits(students: bool, tmp_path: Path, ask: Ask) -> None:
    columns = {name: of_column for name, of_column in drawn(40).items() if name != "color"}
    columns = STUDENTS if students else columns
    answer = ask(fitted(tmp_path, write_csv(tmp_path, columns), "y"), "firth=true interval=profile test=lrt")
    *names, target = columns
    x = np.column_stack([np.ones(len(columns[target])), *(columns[name] for name in names)])
    y = np.array([label == "yes" for label in columns[target]])

    def penalized(point: Array) -> float:
        logits = np.where(y, 1, -1) * (x @ point)
        p = expit(x @ point)
        information = (x.T * (p * (1 - p))) @ x
        sign, size = np.linalg.slogdet(information)
        return float(-np.logaddexp(0, -logits).sum() + (size if sign > 0 else -1e6) / 2)

    estimate = np.array(values(answer, "coef"))

    def most(place: int, at: float) -> float:
        best = np.delete(estimate, place)
        for value in np.linspace(estimate[place], at, 4):  # the others follow
            best = minimize(
                lambda rest, value=value: -penalized(np.insert(rest, place, value)),
                best,
                method="Nelder-Mead",
                options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 10_000},
            ).x
        return penalized(np.insert(best, place, at))

    best = penalized(estimate)
    assert answer["fit"]["log_likelihood"] == pytest.approx(best, rel=1e-12)
    for place in range(x.shape[1]):
        assert penalized(estimate + 1e-3 * np.eye(x.shape[1])[place]) < best
        for key in ("low", "high"):
            assert best - most(place, values(answer, key)[place]) == pytest.approx(chi2.ppf(0.95, 1) / 2, rel=1e-7)
    for place, test in enumerate(answer["tests"], start=1):
        assert test["chi2"] == pytest.approx(2 * (best - most(place, 0.0)), rel=1e-6)


@pytest.mark.long
def test_a_level_of_one_row_has_a_bias_reduced_estimate(tmp_path: Path, ask: Ask) -> None:
    columns = drawn()
    columns["color"][5] = "odd"
    run = fitted(tmp_path, write_csv(tmp_path, columns), "y")
    answer = ask(run, "firth=true interval=profile test=lrt")
    coef = [row["per_unit"]["coef"] for row in answer["coefficients"]]
    levels = [[float(color == level) for color in columns["color"]] for level in ("green", "odd", "red")]
    x = np.column_stack([np.ones(120), columns["a"], columns["b"], *levels])
    y = np.array([float(label == "yes") for label in columns["y"]])
    p = expit(x @ coef)
    information = (x.T * (p * (1 - p))) @ x
    leverage = ((x @ np.linalg.inv(information)) * x).sum(1) * p * (1 - p)
    assert leverage[5] > 0.99
    score = x.T @ (y - p + leverage * (0.5 - p))  # Firth (1993)
    assert np.abs(score / np.sqrt(np.diag(information))).max() < 1e-7
    assert all(row["per_unit"]["low"] < row["per_unit"]["coef"] for row in answer["coefficients"])


def test_several_classes_have_bias_reduced_estimates(tmp_path: Path, ask: Ask) -> None:
    columns = drawn(60)
    run = fitted(tmp_path, write_csv(tmp_path, {name: columns[name] for name in ("a", "b", "color")}), "color")
    answer = ask(run, "firth=true")
    x = np.array([[1.0, a, b] for a, b in zip(columns["a"], columns["b"], strict=True)])
    codes = np.array([("blue", "green", "red").index(color) for color in columns["color"]])

    def penalized(point: Array) -> float:
        p = softmax(np.column_stack([np.zeros(60), x @ point.reshape(2, 3).T]), axis=1)
        information = np.zeros((6, 6))
        for row, q in zip(x, p[:, 1:], strict=True):
            information += np.kron(np.diag(q) - np.outer(q, q), np.outer(row, row))
        return float(np.log(p[np.arange(60), codes]).sum() + np.linalg.slogdet(information)[1] / 2)

    point = np.array([*values(answer, "coef", "green"), *values(answer, "coef", "red")])
    slopes = [(penalized(point + step) - penalized(point - step)) / 2e-5 for step in 1e-5 * np.eye(6)]
    assert np.abs(slopes).max() < 1e-6
    assert np.abs(point).max() > 0.1


# The report of the run


@pytest.mark.long
def test_the_report_of_the_run_gets_a_section_a_picture_and_columns(
    tmp_path: Path, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fitted(tmp_path, write_csv(tmp_path, drawn()), "y", "report=full")
    before = (run.folder / "report.md").read_text(encoding="utf-8")
    answer = ask(run, "test=lrt")
    for typed in ([], ["test=lrt"]):  # the second time replaces the first
        with working_in(tmp_path):
            assert main([f"ckpt_path={run.folder}", "report=true", *typed]) == 0
    capsys.readouterr()
    page = (run.folder / "report.md").read_text(encoding="utf-8")
    assert page.count("## Coefficients with standard errors") == 1
    assert page.count("![odds_ratios](figures/odds_ratios.png)") == 1
    assert "| color | 2" not in before
    assert re.search(r"^\| color \| [\d.]+ \| 2 \| ", page, re.MULTILINE)
    assert set(before.splitlines()) <= set(page.splitlines())
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Coefficients with standard errors" in html
    assert "at 1 a feature makes no difference" in html
    summary = run.summary["inference"]
    assert summary["coefficients"] == answer["coefficients"]
    with (run.folder / "coefficients.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["feature"] for row in rows] == ["intercept", "a", "b", "color=blue", "color=green", "color=red"]
    assert [row["yes: p"] for row in rows if row["yes: p"]] == [str(p) for p in values(answer, "p")]
    assert rows[3]["yes against no"] == ""
    assert float(rows[0]["yes against no"]) == pytest.approx(float(rows[0]["yes"]) + float(rows[3]["yes"]), rel=1e-6)


# Marginal effects


@pytest.mark.long
def test_a_level_may_end_as_the_name_of_an_indicator_does(tmp_path: Path, ask: Ask) -> None:
    columns = drawn(90)
    found = []
    for name in ("sea", "what is missing"):  # in the same place among the sorted levels
        named = [name if color == max(columns["color"]) else color for color in columns["color"]]
        run = fitted(tmp_path, write_csv(tmp_path, {**columns, "color": named}), "y", "dataset.features=[a,color]")
        found.append([row["effect"] for row in ask(run, "effects=average")["effects"]])
    assert found[0] == found[1]


@pytest.mark.parametrize("at", ["average", "mean"])
def test_marginal_effects_are_changes_of_probabilities(at: str, tmp_path: Path, ask: Ask) -> None:
    columns = drawn(90)
    columns["hit"] = [row % 2 for row in range(90)]
    columns["kind"] = [random.Random(row).choice("xyz") for row in range(90)]
    run = fitted(tmp_path, write_csv(tmp_path, columns), "kind", "dataset.features=[a,hit,color]")
    answer = ask(run, f"effects={at}")
    x = features_of(columns)
    x = x if at == "average" else x.mean(0, keepdims=True)
    point = np.array([values(answer, "coef", name) for name in ("y", "z")])

    def chances(rows: Array, at_point: Array) -> Array:
        p: Array = softmax(np.column_stack([np.zeros(len(rows)), rows @ at_point.T]), axis=1)
        return np.asarray(p.mean(0))

    def set_to(place: int, value: float) -> Array:
        rows = x.copy()
        if place >= 3:
            rows[:, 3:] = 0
        rows[:, place] = value
        return rows

    def effects(at_point: Array) -> Array:
        step = 1e-5 * np.eye(5)[1]
        slope = (chances(x + step, at_point) - chances(x - step, at_point)) / 2e-5
        others = [chances(set_to(place, 1), at_point) - chances(set_to(place, 0), at_point) for place in (2, 3, 4)]
        return np.array([slope, *others])

    expected = effects(point)
    p = softmax(np.column_stack([np.zeros(90), features_of(columns) @ point.T]), axis=1)[:, 1:]
    information = np.zeros((10, 10))
    for row, q in zip(features_of(columns), p, strict=True):
        information += np.kron(np.diag(q) - np.outer(q, q), np.outer(row, row))
    steps = [1e-4 * step.reshape(2, 5) for step in np.eye(10)]
    jacobian = np.array([(effects(point + step) - effects(point - step)) / 2e-4 for step in steps])
    variances = np.einsum("qjc,qr,rjc->jc", jacobian, np.linalg.inv(information), jacobian)
    assert [row["discrete"] for row in answer["effects"][:4]] == [False, True, True, True]
    for number, name in enumerate("xyz"):
        mine = [row for row in answer["effects"] if row["class_name"] == name]
        assert [row["effect"] for row in mine] == pytest.approx(expected[:, number], abs=1e-8)
        assert [row["std_error"] for row in mine] == pytest.approx(variances[:, number] ** 0.5, rel=1e-5)


def features_of(columns: Mapping[str, Sequence[Any]]) -> Array:
    """The columns of the test above by R's contrasts."""
    rows = zip(columns["a"], columns["hit"], columns["color"], strict=True)
    return np.array([[1.0, a, hit, color == "green", color == "red"] for a, hit, color in rows])


# Other links


LINKS: Mapping[str, Callable[[Any], Any]] = {
    "probit": norm.cdf,
    "cloglog": lambda z: -np.expm1(-np.exp(z)),
    "cauchit": cauchy.cdf,
}
"""Distribution functions by SciPy."""


@pytest.fixture(scope="module", params=list(LINKS))
def of_link(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Run]:
    of_r()
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, fitted(folder, REFERENCES / "birthwt.csv", "low", f"link={request.param}")


def design_of_birthwt() -> tuple[Array, Array]:
    """Rows by R's contrasts, and classes of 0 and 1."""
    with (REFERENCES / "birthwt.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = [[float(row[name]) for name in ("age", "lwt", "smoke", "ptl", "ht", "ui", "ftv")] for row in rows]
    races = [[float(row["race"] == race) for race in ("black", "other")] for row in rows]
    x = np.array([[1, *own[:2], *race, *own[2:]] for own, race in zip(columns, races, strict=True)])
    return x, np.array([float(row["low"]) for row in rows])


def log_likelihood(link: str, x: Array, y: Array, point: Array) -> float:
    p = LINKS[link](x @ point)
    return float(np.log(np.where(y == 1, p, 1 - p)).sum())


def test_other_links_have_the_numbers_of_glm(of_link: tuple[str, Run], ask: Ask) -> None:
    link, run = of_link
    known, answer = of_r()["birthwt"]["links"][link], ask(run, WHITE)
    for ours, theirs in (("coef", "estimate"), ("std_error", "std_error"), ("z", "z"), ("p", "p")):
        assert values(answer, ours) == pytest.approx(known[theirs], rel=1e-6)
    fit = answer["fit"]
    assert fit["log_likelihood"] == pytest.approx(known["loglik"], rel=1e-10)
    assert fit["aic"] == pytest.approx(20 - 2 * known["loglik"], rel=1e-10)
    assert fit["null_log_likelihood"] == pytest.approx(of_r()["birthwt"]["logit"]["null_loglik"], rel=1e-10)
    assert (answer["link"], answer["covariance"]) == (link, "expected")
    assert {
        row[unit][key]
        for row in answer["coefficients"][1:]
        for unit in ("per_unit", "per_std")
        for key in ("odds_ratio", "odds_ratio_low", "odds_ratio_high")
    } == {None}
    assert any("not concave" in note for note in answer["notes"]) == (link == "cauchit")
    assert any("ratio of hazards" in note for note in answer["notes"]) == (link == "cloglog")


@pytest.mark.long
def test_robust_and_observed_errors_of_other_links_are_their_formulas(of_link: tuple[str, Run], ask: Ask) -> None:
    link, run = of_link
    x, y = design_of_birthwt()
    answer = ask(run, f"{WHITE} covariance=HC3")
    point, step = np.array(values(answer, "coef")), 1e-5
    p = LINKS[link](x @ point)
    density = (LINKS[link](x @ point + step) - LINKS[link](x @ point - step)) / (2 * step)
    weight = density**2 / (p * (1 - p))
    inverse = np.linalg.inv((x.T * weight) @ x)
    scores = x * ((y - p) * density / (p * (1 - p)))[:, None]
    leverage = np.einsum("np,pq,nq->n", x, inverse, x) * weight
    for kind, factor in (("HC0", 1 + 0 * y), ("HC2", 1 / (1 - leverage)), ("HC3", 1 / (1 - leverage) ** 2)):
        expected = inverse @ (scores.T * factor) @ scores @ inverse
        errors = values(ask(run, f"{WHITE} covariance={kind}"), "std_error")
        assert errors == pytest.approx(np.sqrt(np.diag(expected)), rel=1e-6)
    unit = np.diag(values(answer, "std_error")) * 1e-3  # second differences, in units of standard errors
    corners = [
        [
            sum(a * b * log_likelihood(link, x, y, point + a * one + b * other) for a in (1, -1) for b in (1, -1))
            for other in unit
        ]
        for one in unit
    ]
    observed = -np.array(corners) / 4e-6
    of_observed = np.sqrt(np.diag(np.linalg.inv(observed))) * np.diag(unit) * 1e3
    assert values(ask(run, f"{WHITE} covariance=hessian"), "std_error") == pytest.approx(of_observed, rel=1e-4)


@pytest.mark.long
def test_likelihood_of_other_links_gives_limits_and_tests(of_link: tuple[str, Run], ask: Ask) -> None:
    link, run = of_link
    x, y = design_of_birthwt()
    answer = ask(run, f"{WHITE} interval=profile test=lrt")
    point, errors = np.array(values(answer, "coef")), np.array(values(answer, "std_error"))
    best = log_likelihood(link, x, y, point)
    assert answer["limit_error"] <= 1e-9

    def most(place: int, value: float) -> float:
        """The largest log-likelihood where one parameter has a value."""
        others = np.delete(np.arange(10), place)
        moved = point.copy()
        moved[place] = value

        def loss(scaled: Array) -> float:
            moved[others] = point[others] + scaled * errors[others]
            return -log_likelihood(link, x, y, moved)

        return -float(minimize(loss, np.zeros(9), options={"gtol": 1e-6}).fun)

    for place in (2, 7):  # a number, and a feature of 0 and 1
        for key in ("low", "high"):
            fallen = best - most(place, values(answer, key)[place])
            assert fallen == pytest.approx(chi2.ppf(0.95, 1) / 2, rel=1e-6)
        name = answer["coefficients"][place]["feature"]
        (found,) = (test["chi2"] for test in answer["tests"] if test["term"] == name)
        assert found == pytest.approx(2 * (best - most(place, 0.0)), rel=1e-6)


@pytest.mark.long
def test_limits_are_found_where_a_likelihood_is_not_concave(tmp_path: Path, ask: Ask) -> None:
    # Newton's method alone fails here: on the way the observed information is not positive definite
    run = fitted(tmp_path, write_csv(tmp_path, drawn(25, 3)), "y", "link=cauchit", "dataset.drop=[color]")
    assert ask(run, "interval=profile test=lrt")["limit_error"] <= 1e-9


@pytest.mark.parametrize("at", ["average", "mean"])
def test_marginal_effects_of_other_links(at: str, of_link: tuple[str, Run], ask: Ask) -> None:
    link, run = of_link
    x, _ = design_of_birthwt()
    answer = ask(run, f"{WHITE} effects={at}")
    point = np.array(values(answer, "coef"))
    p = LINKS[link](x @ point)
    density = (LINKS[link](x @ point + 1e-5) - LINKS[link](x @ point - 1e-5)) / 2e-5
    covariance = np.linalg.inv((x.T * (density**2 / (p * (1 - p)))) @ x)
    x = x if at == "average" else x.mean(0, keepdims=True)

    def effects(at_point: Array) -> Array:
        def chance(place: int, change: float = 0.0, value: float | None = None) -> float:
            rows = x.copy()
            rows[:, place] = value if value is not None else rows[:, place] + change
            if place in (3, 4) and value is not None:  # a level in place of the other
                rows[:, 7 - place] = 0
            return float(LINKS[link](rows @ at_point).mean())

        numbers = {1, 2, 6, 9}
        return np.array(
            [
                (chance(place, 1e-4) - chance(place, -1e-4)) / 2e-4
                if place in numbers
                else chance(place, value=1.0) - chance(place, value=0.0)
                for place in range(1, 10)
            ]
        )

    steps = np.diag(1e-3 * np.sqrt(np.diag(covariance)))
    jacobian = np.array([(effects(point + step) - effects(point - step)) / (2 * step.sum()) for step in steps]).T
    assert [row["effect"] for row in answer["effects"]] == pytest.approx(effects(point), rel=1e-5)
    errors = np.sqrt(np.diag(jacobian @ covariance @ jacobian.T))
    assert [row["std_error"] for row in answer["effects"]] == pytest.approx(errors, rel=1e-4)


@pytest.mark.long
def test_the_other_reference_class_has_the_mirrored_link(tmp_path: Path, ask: Ask) -> None:
    file = write_csv(tmp_path, drawn())
    one = ask(fitted(tmp_path, file, "y", "link=loglog"), "covariance=HC3")
    other = ask(fitted(tmp_path, file, "y", "link=cloglog", "dataset.positive=no"), "covariance=HC3 reference_class=no")
    assert (one["link"], other["link"]) == ("loglog", "loglog")
    for key in ("coef", "std_error", "low"):
        assert values(other, key) == pytest.approx(values(one, key), rel=1e-9)
    assert other["fit"]["log_likelihood"] == pytest.approx(one["fit"]["log_likelihood"], rel=1e-12)


def test_other_links_have_no_odds_ratios_in_texts_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    run = fitted(tmp_path, write_csv(tmp_path, drawn()), "y", "link=probit")
    assert refused(run, "firth=true") == (
        "`firth=true` must be of a logit link, got link=probit in the run. Leave firth out, or train again with "
        "link=logit."
    )
    capsys.readouterr()
    with working_in(tmp_path):
        assert main([f"ckpt_path={run.folder}", "report=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("probit link of the probability of 'yes' against 'no'; standard errors of the expected")
    page = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "probit link of the probability of 'yes' against 'no'" in page
    assert "odds ratio" not in "\n".join([*lines, page])
    assert not (run.folder / "figures" / "odds_ratios.png").exists()
    with (run.folder / "coefficients.csv").open(encoding="utf-8") as file:
        (header, *rows) = csv.reader(file)
    assert header[-1] == "yes: high"
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.long
def test_separated_classes_of_another_link_are_sent_to_firth_by_logit(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    columns = drawn()
    columns["y"] = ["no" if b < 0 else "yes" for b in columns["b"]]
    line = refused(fitted(tmp_path, write_csv(tmp_path, columns), "y", "link=probit"))
    assert "(complete separation)" in line
    assert "Train again with link=logit and set firth=true for finite" in line
    penalized = refused(fitted(tmp_path, write_csv(tmp_path, drawn()), "y", "link=probit", "l2=1e-3"))
    assert penalized.endswith("for intervals of the penalized estimates, or train again with l2=0.")


# Sparse features


@pytest.mark.long
def test_sparse_rows_have_the_numbers_of_dense_ones(tmp_path: Path, ask: Ask) -> None:
    file, columns = drawn_sparse(tmp_path)
    sparse = train(tmp_path, "dataset=features", f"dataset.path={file}", *ALL, "l2=0")
    facts = TrainedModel.load(sparse.folder / "checkpoints" / "last.ckpt").facts
    assert facts.nonzeros == sum(value != 0 for name in columns if name != "y" for value in columns[name])
    dense = fitted(tmp_path, write_csv(tmp_path, columns), "y")
    for typed in ("effects=average", "covariance=HC3", "interval=profile test=lrt"):
        one, other = ask(sparse, typed), ask(dense, typed)
        for key in ("coef", "std_error", "low"):
            assert values(one, key) == pytest.approx(values(other, key), rel=1e-9)
        for part, key in (("tests", "chi2"), ("effects", "effect")):
            ours, theirs = ([row[key] for row in answer[part] or ()] for answer in (one, other))
            assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("precision", [32, 64])
def test_words_of_text_have_standard_errors(precision: int, tmp_path: Path, ask: Ask) -> None:
    draw = random.Random(0)
    texts = [" ".join(word for word in ("one", "two", "red") if draw.random() < 0.5) for _ in range(200)]
    texts = [text or "one one" for text in texts]
    y = ["yes" if ("two" in text) + draw.gauss(0, 1) > 0.5 else "no" for text in texts]
    columns = {"text": texts, "y": y}
    of_text = ("dataset=text", "dataset.text=[text]", "dataset.target=y", f"dataset.path={tmp_path / 't.csv'}")
    write_csv(tmp_path, columns)
    answer = ask(train(tmp_path, *of_text, *ALL, "l2=0", f"precision={precision}"), "test=lrt")
    matrix = TfidfVectorizer(sublinear_tf=True).fit_transform(texts).toarray()
    numbers = {name: matrix[:, place].tolist() for place, name in enumerate(("one", "red", "two"))}
    known = ask(fitted(tmp_path, write_csv(tmp_path, {**numbers, "y": y}), "y", "precision=64"))
    assert [row["feature"] for row in answer["coefficients"]] == ["intercept", "text:one", "text:red", "text:two"]
    for key in ("coef", "std_error"):
        assert values(answer, key) == pytest.approx(values(known, key), rel=1e-9)
    for one, other in zip(answer["coefficients"][1:], known["coefficients"][1:], strict=True):
        assert one["per_std"] == pytest.approx(other["per_std"], rel=1e-9)
    # the text is one column
    assert [test["degrees"] for test in answer["tests"]] == [3]
    assert answer["tests"][0]["chi2"] == pytest.approx(known["fit"]["likelihood_ratio"]["chi2"], rel=1e-9)


@pytest.mark.long
def test_rare_levels_are_a_level(tmp_path: Path, ask: Ask) -> None:
    columns = drawn()
    for row, rare in enumerate(("pink", "pink", "gray", "gray", "gray", "teal", "teal", "teal")):
        columns["color"][row] = rare
    of_rare = fitted(tmp_path, write_csv(tmp_path, columns), "y", "dataset.min_level_rows=5")
    joined = [color if color in ("blue", "green", "red") else "zzz" for color in columns["color"]]
    (tmp_path / "joined").mkdir()
    of_one = fitted(tmp_path, write_csv(tmp_path / "joined", {**columns, "color": joined}), "y")
    for level in ("blue", "green"):
        one, other = (ask(run, f"'reference={{color:{level}}}'") for run in (of_rare, of_one))
        assert one["coefficients"][-1]["feature"] == "color=(rare)"
        for key in ("coef", "std_error"):
            assert values(one, key) == pytest.approx(values(other, key), rel=1e-9)


def test_models_of_many_parameters_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    run = fitted(tmp_path, write_csv(tmp_path, drawn()), "y", "l2=1e-3")
    monkeypatch.setattr("logreg.run.inference_request.MAX_PARAMETERS", 4)
    assert refused(run, "firth=true") == refused(run)
    assert "with at most 4 parameters, and this one has 5. Leave columns out, or rare words" in refused(run)


# statsmodels on its own data


@pytest.mark.long
def test_spector_of_statsmodels(tmp_path: Path, ask: Ask) -> None:
    statsmodels = pytest.importorskip("statsmodels.api", reason="statsmodels is not among the dependencies")
    data = statsmodels.datasets.spector.load_pandas()
    labels = data.endog.astype(int)
    data.exog.assign(GRADE=labels).to_csv(tmp_path / "t.csv", index=False)
    run = fitted(tmp_path, tmp_path / "t.csv", "GRADE")
    model = statsmodels.Logit(labels, statsmodels.add_constant(data.exog))
    theirs, answer = model.fit(method="newton", tol=1e-14, disp=0), ask(run, "effects=average")
    for ours, known in (
        ("coef", theirs.params),
        ("std_error", theirs.bse),
        ("z", theirs.tvalues),
        ("p", theirs.pvalues),
    ):
        assert values(answer, ours) == pytest.approx(list(known), rel=1e-6)
    limits = theirs.conf_int()
    assert values(answer, "low") == pytest.approx(list(limits[0]), rel=1e-6)
    fit = answer["fit"]
    known = (theirs.llf, theirs.llnull, theirs.aic, theirs.bic, theirs.prsquared)
    names = ("log_likelihood", "null_log_likelihood", "aic", "bic", "mcfadden_r2")
    assert [fit[name] for name in names] == pytest.approx(known, rel=1e-6)
    assert fit["likelihood_ratio"]["p"] == pytest.approx(theirs.llr_pvalue, rel=1e-6)
    effects = theirs.get_margeff(at="overall", dummy=True)
    assert [row["effect"] for row in answer["effects"]] == pytest.approx(list(effects.margeff), rel=1e-6)
    assert [row["std_error"] for row in answer["effects"]] == pytest.approx(list(effects.margeff_se), rel=1e-6)


@pytest.mark.long
def test_fair_of_statsmodels_by_clusters(tmp_path: Path, ask: Ask) -> None:
    statsmodels = pytest.importorskip("statsmodels.api", reason="statsmodels is not among the dependencies")
    table = statsmodels.datasets.fair.load_pandas().data
    labels, features = (table.affairs > 0).astype(int), table.drop(columns="affairs")
    features.assign(affair=labels).to_csv(tmp_path / "t.csv", index=False)
    run = fitted(tmp_path, tmp_path / "t.csv", "affair")
    model = statsmodels.Logit(labels, statsmodels.add_constant(features))
    groups = {"groups": table.occupation.astype(int)}
    theirs = model.fit(method="newton", tol=1e-14, disp=0, cov_type="cluster", cov_kwds=groups)
    answer = ask(run, "covariance=cluster:occupation")
    assert values(answer, "coef") == pytest.approx(list(theirs.params), rel=1e-6)
    assert values(answer, "std_error") == pytest.approx(list(theirs.bse), rel=1e-6)


@pytest.mark.long
def test_anes96_of_statsmodels(tmp_path: Path, ask: Ask) -> None:
    statsmodels = pytest.importorskip("statsmodels.api", reason="statsmodels is not among the dependencies")
    data = statsmodels.datasets.anes96.load_pandas()
    features, labels = data.exog[["logpopul", "selfLR", "age", "educ", "income"]], data.endog.astype(int)
    features.assign(PID=labels).to_csv(tmp_path / "t.csv", index=False)
    run = fitted(tmp_path, tmp_path / "t.csv", "PID")
    model = statsmodels.MNLogit(labels, statsmodels.add_constant(features))
    for kind in ("hessian", "HC0"):
        theirs = model.fit(method="newton", tol=1e-14, disp=0, cov_type="nonrobust" if kind == "hessian" else kind)
        answer = ask(run, f"covariance={kind} effects=average")
        assert values(answer, "coef") == pytest.approx(np.asarray(theirs.params).T.flatten().tolist(), rel=1e-6)
        assert values(answer, "std_error") == pytest.approx(np.asarray(theirs.bse).T.flatten().tolist(), rel=1e-6)
        assert answer["fit"]["bic"] == pytest.approx(theirs.bic, rel=1e-6)
    effects = theirs.get_margeff(at="overall")
    mine = np.array([row["effect"] for row in answer["effects"]]).reshape(7, 5).T
    assert mine == pytest.approx(effects.margeff, rel=1e-5)
    errors = np.array([row["std_error"] for row in answer["effects"]]).reshape(7, 5).T
    assert errors == pytest.approx(effects.margeff_se, rel=1e-5)
