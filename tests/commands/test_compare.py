"""`scripts/compare.py`: runs beside each other, and whether a difference is more than noise."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest, chi2

from logreg.commands.compare import MAX_NAME_LENGTH, shortened_names
from logreg.evaluation.measured import Measured
from logreg.evaluation.paired_comparison import Paired, compare, mcnemar
from logreg.evaluation.predicted import Predicted
from models import Models, write_table
from whole_runs import Answer, train

RunCommand = Callable[..., Answer]


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (3, 9), (40, 60), (0, 30)])
def test_few_rows_are_tested_exactly(only_a: int, only_b: int) -> None:
    expected = binomtest(only_a, only_a + only_b).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(expected)


def test_many_rows_are_tested_by_chi_squared() -> None:
    assert mcnemar(700, 800) == pytest.approx(float(chi2.sf((100 - 1) ** 2 / 1500, 1)))
    # where one goes over into the other they agree
    assert mcnemar(480, 520) == pytest.approx(float(chi2.sf((40 - 1) ** 2 / 1000, 1)), rel=0.02)


def pair(rows: int, better: float, seed: int) -> tuple[Predicted, Predicted]:
    """Two models, of which the second errs by ``better`` less."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 2, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=draw)[:, 0]
    noise = [torch.randn(rows, 2, generator=draw, dtype=torch.float64) for _ in "ab"]
    a = torch.softmax(logits + noise[0], 1)
    b = torch.softmax(logits + (1 - better) * noise[1], 1)
    return Predicted(a, labels), Predicted(b, labels)


@pytest.mark.long
def test_of_equals_one_is_called_better_in_five_of_a_hundred() -> None:
    # the chance of more than 12 of 100 is below 1 in 500 where each has chance 0.05 of the loss, some more by McNemar
    called = sum("is " in compare(*pair(400, 0.0, seed)).verdict for seed in range(100))
    assert called <= 15


def test_a_better_one_is_called_better_and_names_may_be_exchanged() -> None:
    a, b = pair(2000, 1.0, 0)
    found, other_way = compare(a, b), compare(b, a)
    assert found.verdict.startswith("B is better than A")
    assert other_way.verdict.startswith("A is better than B")
    assert found.log_loss.value == pytest.approx(-other_way.log_loss.value)
    assert found.log_loss.value == pytest.approx(float(b.losses.mean() - a.losses.mean()))
    assert (found.only_a, found.only_b) == (other_way.only_b, other_way.only_a)


def test_counts_of_rows_are_compared_as_the_rows_repeated() -> None:
    a, b = pair(400, 0.2, seed=0)
    weight = torch.randint(0, 4, (400,), generator=torch.Generator().manual_seed(5)).double()
    times = torch.arange(400).repeat_interleave(weight.long())
    weighted = (Predicted(each.probabilities, each.labels, weight, counts=True) for each in (a, b))
    repeated = (Predicted(each.probabilities[times], each.labels[times]) for each in (a, b))
    found, expected = (compare(next(both), next(both)) for both in (weighted, repeated))
    assert dataclasses.replace(found, rows=len(times)) == expected


def told(loss: tuple[float, float, float], accuracy: tuple[float, float, float], p_value: float | None) -> str:
    return Paired(1000, Measured(*loss), Measured(*accuracy), 5, 9, p_value).verdict


LOWER, HIGHER, ROUND_ZERO = (-0.1, -0.2, -0.01), (0.1, 0.01, 0.2), (0.001, -0.1, 0.1)


@pytest.mark.parametrize(
    ("loss", "accuracy", "p_value", "verdict"),
    [
        (LOWER, HIGHER, 0.01, "B is better than A: the interval of the difference in log loss excludes 0"),
        (HIGHER, LOWER, 0.01, "A is better than B: the interval of the difference in log loss excludes 0"),
        (LOWER, LOWER, 0.01, "B by log loss, A by accuracy; both differences are significant"),
        (HIGHER, HIGHER, 0.01, "A by log loss, B by accuracy; both differences are significant"),
        (LOWER, (-0.1, -0.2, 0.1), 0.4, "B by log loss, A by accuracy; only that in log loss is significant"),
        ((-0.1, -0.2, 0.1), LOWER, 0.01, "B by log loss, A by accuracy; only that in accuracy is significant"),
        ((-0.1, -0.2, 0.1), LOWER, None, "B by log loss, A by accuracy; only that in accuracy is significant"),
        ((-0.1, -0.2, 0.1), HIGHER, 0.01, "B is more accurate than A, though its log loss may be no lower"),
        (LOWER, (0.0, -0.1, 0.1), 1.0, "B is better than A: the interval of the difference in log loss excludes 0"),
        (ROUND_ZERO, ROUND_ZERO, 0.5, "no significant difference on 1,000 rows"),
        (ROUND_ZERO, ROUND_ZERO, None, "no significant difference on 1,000 rows"),
    ],
)
def test_the_verdict_says_by_what(
    loss: tuple[float, float, float], accuracy: tuple[float, float, float], p_value: float | None, verdict: str
) -> None:
    assert told(loss, accuracy, p_value) == verdict


@pytest.mark.parametrize(
    "names",
    [
        [f"2026-11-28_09-25-{second}-054088_dataset.limit-1000_optimizer-newton_l2-0.1" for second in (20, 21, 22)],
        [f"2026-11-28_09-25-20-054088_dataset.limit-1000_optimizer-newton_l2-{l2}" for l2 in ("0.1", "0.10", "1")],
        [f"{number}_optimizer-newton_dataset.class_weight-balanced_l2-{number % 3}_seed-7" for number in range(120)],
        ["x" * 60 + middle + "y" * 60 for middle in "abc"],
        ["x" * 30 + middle + "y" * 60 for middle in ("a", "b", "ab")] + ["z" * 100],
        ["same" * 30, "same" * 30, "other" * 30],
        ["short", "a" * 300],
    ],
)
def test_shortened_names_can_be_told_apart(names: list[str]) -> None:
    short = shortened_names(names)
    assert max(map(len, short)) <= MAX_NAME_LENGTH
    assert len(set(short)) == len(set(names))
    assert shortened_names(names, 500) == names


@pytest.mark.long
def test_all_of_it_fits_into_eighty_columns(tmp_path: Path, run_command: RunCommand) -> None:
    typed = (
        "dataset=breast_cancer",
        "report=brief",
        "max_epochs=2",
        "lr=0.125",
        "optimizer=adam",
        "optimizer.beta1=0.5",
    )
    runs = []
    for number, l2 in enumerate(("0.0123456", "0.0123457", "1.5")):
        name = f"runs/2026-11-28_09-25-20-054088_optimizer.beta1-0.5_max_epochs-2_lr-0.125_{number}_l2-{l2}_seed-1"
        train(tmp_path, *typed, f"l2={l2}", f"hydra.run.dir={name}")
        runs.append(name)
    for some in (runs, runs[1:], ["runs"]):
        answer = run_command(tmp_path, "compare", *some)
        assert answer.code == 0, answer.err
        assert max(map(len, answer.out.splitlines())) <= 80, answer.out
        names = [line for line in answer.out.splitlines() if "_l2-" in line]
        assert len(names) == len(set(names)) == (2 if len(some) == 2 else 3)
        assert len(re.findall(r"0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]  \d\d\.\d%", answer.out)) == len(names)


def test_two_runs_on_the_same_rows(tmp_path: Path, run_command: RunCommand) -> None:
    one, other = (
        train(tmp_path, "dataset=digits", f"l2={l2}", "report=brief").folder.relative_to(tmp_path)
        for l2 in ("1e-3", "3")
    )
    answer = run_command(tmp_path, "compare", str(one), str(other))
    assert answer.code == 0, answer.err
    assert "A is better than B" in answer.out
    assert "McNemar p = " in answer.out
    found = json.loads(run_command(tmp_path, "compare", str(one), str(other), "json=true").out)
    assert [run["settings"]["l2"] for run in found["runs"]] == [1e-3, 3.0]
    assert found["paired"]["split"] == "test"
    assert found["paired"]["log_loss"]["low"] > 0
    a, b = (run["metrics"]["log_loss"]["value"] for run in found["runs"])
    assert found["paired"]["log_loss"]["value"] == pytest.approx(b - a)


@pytest.mark.long
def test_runs_on_other_rows_are_shown_and_not_tested(tmp_path: Path, run_command: RunCommand) -> None:
    runs = [train(tmp_path, "dataset=iris", f"seed={seed}", "l2=1e-2", "report=brief").folder for seed in (0, 1)]
    answer = run_command(tmp_path, "compare", *map(str, runs))
    assert answer.code == 0
    assert "no paired test: the two were not scored on the same rows" in answer.out


@pytest.mark.long
def test_a_folder_of_runs_is_ranked(models: Models, run_command: RunCommand) -> None:
    for name in ("softmax", "one_vs_rest", "binary"):
        models(name)
    answer = run_command(models.root, "compare", str(models.root))
    assert answer.code == 0
    assert "breast_cancer" in answer.out
    assert "optimal" in answer.out
    found = json.loads(run_command(models.root, "compare", str(models.root), "json=true").out)
    assert {run["data"] for run in found["runs"]} >= {"iris", "breast_cancer"}
    assert found["paired"] is None


MISTAKES = {
    (): "`RUN` must be given: run folders to compare, or the folder of a sweep. See --help.",
    ("nowhere",): "`nowhere` must be a run folder or hold some, and nowhere is missing.",
    ("hollow",): "`hollow` must be a run folder or hold some, and hollow holds no finished run.",
    (
        "torn",
    ): "`torn/summary.json` must be the summary of a run, and cannot be read as that. Remove it, or train anew.",
    ("hollow", "splits=val"): (
        "`splits` must be a key of compare, and there is none of that name. Did you mean split?"
    ),
}


STRANGE = ["", "[]", 5000 * "[", '{"status": "finished"}', '{"status": "finished", "config": 1}', b"\xff"]


@pytest.mark.parametrize("content", STRANGE)
def test_a_summary_that_is_none_is_one_line(
    content: str | bytes, models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "summary.json").write_bytes(content.encode() if isinstance(content, str) else content)
    answer = run_command(tmp_path, "compare", "strange", str(models.run("toy").folder))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "`strange/summary.json` must be the summary of a run, and cannot be read as that. Remove it, or train anew.\n"
    )


@pytest.mark.parametrize(("typed", "sentence"), MISTAKES.items())
def test_a_mistake_is_answered_in_one_line(
    typed: tuple[str, ...], sentence: str, run_command: RunCommand, tmp_path: Path
) -> None:
    (tmp_path / "hollow").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text("{")
    answer = run_command(tmp_path, "compare", *typed)
    assert (answer.code, answer.err, answer.out) == (2, sentence + "\n", "")


# AIC and BIC


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs on one table: three that are comparable by AIC, and others."""
    here = tmp_path_factory.mktemp("fits")
    write_table(here / "train.csv")
    table = ("dataset=table", "dataset.path=train.csv", "dataset.target=kind", "dataset.classes=[low,mid]")
    for name, arguments in {
        "logit": ("dataset.drop=[id]",),
        "probit": ("dataset.drop=[id]", "link=probit"),
        "fewer": ("dataset.drop=[id,color]", "seed=0"),
        "penalized": ("dataset.drop=[id]", "l2=0.01"),
        "other_rows": ("dataset.drop=[id]", "seed=1"),
        "stopped": ("dataset.drop=[id]", "optimizer=sgd", "max_epochs=2"),
    }.items():
        train(here, *table, "l2=0", *arguments, f"hydra.run.dir=runs/{name}", "report=brief")
    return here


def compared(fits: Path, run_command: RunCommand, *names: str) -> tuple[str, list[dict[str, float] | None]]:
    """What is printed, and the criteria of each run."""
    runs = [f"runs/{name}" for name in names]
    answer, plain = run_command(fits, "compare", *runs), run_command(fits, "compare", *runs, "json=true")
    assert answer.code == plain.code == 0
    by_run = {row["run"]: row["likelihood"] for row in json.loads(plain.out)["runs"]}
    return answer.out, [by_run[run] for run in runs]


def test_fits_of_the_same_rows_have_aic_and_bic(fits: Path, run_command: RunCommand) -> None:
    out, found = compared(fits, run_command, "logit", "probit", "fewer")
    for name, criteria in zip(("logit", "probit", "fewer"), found, strict=True):
        assert criteria is not None
        asked = run_command(fits, "coefficients", f"ckpt_path=runs/{name}", "json=true")
        known = json.loads(asked.out)["fit"]
        for key in ("rows", "parameters", "log_likelihood", "aic", "bic"):
            assert criteria[key] == pytest.approx(known[key], rel=1e-6)
        shown = f"AIC {known['aic']:.2f}  BIC {known['bic']:.2f}  {known['parameters']} parameters, on train"
        assert shown in out


@pytest.mark.parametrize("other", ["penalized", "stopped", "other_rows"])
def test_other_fits_are_not_compared_by_aic(other: str, fits: Path, run_command: RunCommand) -> None:
    out, (plain, criteria) = compared(fits, run_command, "logit", other)
    assert "AIC" not in out
    assert plain is not None
    assert (criteria is not None) == (other == "other_rows")


@pytest.mark.long
def test_a_row_that_counts_twice_is_two_rows(fits: Path, run_command: RunCommand) -> None:
    lines = (fits / "train.csv").read_text(encoding="utf-8").splitlines()
    few = [line for line in lines[1:] if not line.endswith('"high, very"')]
    (fits / "twice.csv").write_text("\n".join([lines[0], *few, *few, ""]), encoding="utf-8")
    (fits / "weighted.csv").write_text(
        "\n".join([f"{lines[0]},w", *(f"{line},2" for line in few), ""]), encoding="utf-8"
    )
    criteria = []
    for name, weight in (("twice", ()), ("weighted", ("dataset.weight=w",))):
        table = ("dataset=table", f"dataset.path={name}.csv", "dataset.target=kind", "dataset.drop=[id]", "l2=0")
        everything = ("dataset.split.val=0", "dataset.split.test=0", f"hydra.run.dir=runs/{name}", "report=brief")
        criteria.append(train(fits, *table, *weight, *everything).summary["likelihood"])
    for key in ("rows", "parameters", "log_likelihood", "aic", "bic"):
        assert criteria[0][key] == pytest.approx(criteria[1][key], rel=1e-6)
