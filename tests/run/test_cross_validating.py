"""Cross-validation as a user types it: paths, recipes, sweeps, runs that continue, and mistakes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from logreg.commands.overrides import parse_overrides, rows_for_folds
from logreg.run.building import build_data, build_trainer
from logreg.run.cross_validating import make_folds
from logreg.training.checkpoint_reading import TrainedModel
from whole_runs import Answer, Run, newest, train

Type = Callable[[str], Answer]
TABLE = "dataset=table dataset.path=t.csv dataset.target=y report=brief accelerator=cpu"


def write_table(rows: int = 120, rare: int = 0, groups: int = 6) -> None:
    """A table of two classes, or of three with some rows of a rare one, whose groups are about equal."""
    draw = np.random.default_rng(0)
    lines = ["a,b,site,y"]
    for number in range(rows):
        a, b, noise = draw.normal(size=3)
        label = "rare" if number < rare else "p" if a + 0.5 * b + noise > 0 else "n"
        lines.append(f"{a:.4f},{b:.4f},s{number % groups},{label}")
    Path("t.csv").write_text("\n".join(lines) + "\n")


def read_path(run: Run) -> list[dict[str, str]]:
    return list(csv.DictReader((run.folder / "path.csv").read_text().splitlines()))


# Paths


@pytest.mark.long
def test_folds_of_train_choose_the_strength_and_test_is_scored_once(run_train: Type) -> None:
    write_table()
    answer = run_train(f"{TABLE} l2=path cv=10")
    assert answer.code == 0, answer.err
    assert answer.err.splitlines()[:2] == [
        "cv=10: folds of the 96 train rows; no rows are held out for val (dataset.split.val=0.2 keeps some)",
        next(line for line in answer.err.splitlines() if line.startswith("path: 25 strengths of l2 from ")),
    ]
    run = newest(Path())
    summary, path, lines = run.summary, run.summary["path"], read_path(run)
    assert list(summary["dataset"]["rows"]) == ["train", "test"]
    best = path["rows"][path["best"]]
    assert best["loss_val"] == min(row["loss_val"] for row in path["rows"])
    assert summary["config"]["l2"] == summary["objective"]["l2"] == best["l2"]
    assert summary["optimality"]["converged"]
    assert len(lines) == 25
    assert [key for key in lines[0] if "fold" in key] == [f"loss/fold {number}" for number in range(1, 11)]
    scores = summary["cross_validation"]
    assert (scores["folds"], scores["repeats"], scores["rows"], scores["typed"]) == (10, 1, 96, True)
    assert scores["metrics"]["loss"]["mean"] == summary["metrics"]["cv"]["loss"] == best["loss_val"]
    assert scores["metrics"]["loss"]["folds"] == best["folds"]
    assert set(scores["metrics"]) == {"loss", "accuracy", "auroc"}
    assert f"l2={best['l2']:.3g}, chosen among 25 strengths by log loss of 10-fold cross-validation: " in answer.out
    assert "10-fold cross-validation on train, means and 95% intervals: log loss " in answer.out
    table_row = re.search(r"│ cv +│ +96 │", answer.out)
    assert table_row
    assert run.curve("loss/cv") == {summary["epochs"]: pytest.approx(best["loss_val"])}


@pytest.mark.long
def test_the_scores_are_those_of_scikit_learns_fits_without_each_fold(run_train: Type) -> None:
    write_table()
    run_train(f"{TABLE} l2=0.03 cv=5 cv_repeats=2 dataset.standardize=false dataset.drop=[site] seed=3")
    run = newest(Path())
    config = TrainedModel.load(run.folder / "checkpoints" / "last.ckpt").run_config()
    data = build_data(config)
    data.setup()
    batch = data.rows("train", range(data.facts.rows["train"]))
    features, labels = data.facts.stored.inverse_transform(batch.features).numpy(), batch.labels.numpy()
    expected: dict[str, list[float]] = {"loss": [], "accuracy": [], "auroc": []}
    for fold in make_folds(data, 5, 2, 3):
        for number in range(5):
            out = (fold == number).numpy()
            theirs = LogisticRegression(C=1 / ((~out).sum() * 0.03), tol=1e-10, max_iter=1000)
            p = theirs.fit(features[~out], labels[~out]).predict_proba(features[out])[:, 1]
            expected["loss"].append(log_loss(labels[out], p))
            expected["accuracy"].append(accuracy_score(labels[out], p > 0.5))
            expected["auroc"].append(roc_auc_score(labels[out], p))
    found = run.summary["cross_validation"]["metrics"]
    for name, folds in expected.items():
        assert found[name]["folds"] == pytest.approx(folds, rel=2e-3), name
    assert "2 times 5-fold cross-validation on train" in (run.folder / "report.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize("l1_ratio", [None, 0.5])
def test_a_path_over_l1_or_an_elastic_net_begins_without_coefficients(run_train: Type, l1_ratio: float | None) -> None:
    write_table(60)
    typed = "" if l1_ratio is None else f" l1_ratio={l1_ratio}"
    answer = run_train(f"{TABLE} l1=path{typed} cv=3 cv_rule=one_se report={'brief' if l1_ratio else 'full'}")
    assert answer.code == 0, answer.err
    run = newest(Path())
    path, config = run.summary["path"], run.summary["config"]
    rows, chosen = path["rows"], path["rows"][path["best"]]
    assert len(rows) == 100
    assert path["rule"] == "one_se"
    assert path["best"] == path["one_standard_error"]
    assert rows[0]["nonzero"] <= 1 < rows[-1]["nonzero"]
    assert (config["l1"], config["l2"]) == (chosen["l1"], chosen["l2"])
    assert chosen["l2"] == (0 if l1_ratio is None else pytest.approx(chosen["l1"]))
    assert run.summary["optimality"]["converged"]
    name = f"l1={chosen['l1']:.3g}" + (f" l2={chosen['l2']:.3g}" if l1_ratio else "")
    assert f"{name}, chosen among 100 strengths as the strongest within one standard error of the best" in answer.out
    assert re.search(rf"; {chosen['nonzero']} of \d+ coefficients are not 0; ", answer.out)
    if l1_ratio:
        return
    for picture in ("path", "coefficient_paths"):
        assert (run.folder / "figures" / f"{picture}.png").stat().st_size > 10_000
        assert picture in run.events().Tags()["images"]
        assert f"({'figures/' + picture}.png)" in (run.folder / "report.md").read_text()
    assert (run.folder / "report.html").read_text().count("<img") == len(list((run.folder / "figures").iterdir()))


@pytest.mark.long
def test_a_list_of_l1_keeps_the_l2_that_is_typed_and_a_ratio_sets_it(run_train: Type) -> None:
    write_table()
    run_train(f"{TABLE} 'l1=[0.01,0.1]' l2=0.3 cv=3")
    rows = newest(Path()).summary["path"]["rows"]
    assert [(row["l1"], row["l2"]) for row in rows] == [(0.1, 0.3), (0.01, 0.3)]
    answer = run_train(f"{TABLE} 'l1=[0.01,0.1]' l1_ratio=0.2 cv=3")
    chosen = r"log loss of 3-fold cross-validation: \S+ ± \S+; \d+ of \d+ coefficients are not 0; l1=\S+ l2=\S+ is the"
    assert re.search(chosen, answer.out)
    rows = newest(Path()).summary["path"]["rows"]
    assert [(row["l1"], row["l2"]) for row in rows] == [(0.1, pytest.approx(0.4)), (0.01, pytest.approx(0.04))]


@pytest.mark.parametrize("select", ["accuracy", "auroc"])
def test_another_score_selects_and_has_its_own_error(run_train: Type, select: str) -> None:
    write_table()
    answer = run_train(f"{TABLE} 'l2=[1,0.1,0.01,0.001]' cv=5 select={select}")
    run = newest(Path())
    path = run.summary["path"]
    scores = [row[f"{select}_val"] for row in path["rows"]]
    assert scores[path["best"]] == max(scores)
    assert len(path["rows"][0]["folds"]) == 5
    assert f"{select}/fold 5" in read_path(run)[0]
    assert f"by {select} of 5-fold cross-validation: " in answer.out
    assert " is the strongest within one standard error, " in answer.out


# Which rows


@pytest.mark.long
def test_val_joins_train_unless_it_is_typed_or_the_data_have_it(run_train: Type) -> None:
    write_table()
    rows = {}
    for typed in ("", "cv=5", "cv=5 dataset.split.val=0.25", "cv=null"):
        answer = run_train(f"{TABLE} l2=0.1 {typed}")
        summary = newest(Path()).summary
        rows[typed] = summary["dataset"]["rows"], summary["metrics"]["test"]
        assert ("; val stays apart\n" in answer.err) == ("val=" in typed)
    assert rows[""] == rows["cv=null"]
    assert rows[""][0] == {"train": 72, "val": 24, "test": 24}
    assert rows["cv=5"][0] == {"train": 96, "test": 24}
    assert rows["cv=5 dataset.split.val=0.25"][0] == {"train": 66, "val": 30, "test": 24}
    text = Path("t.csv").read_text().splitlines()
    stated = [text[0] + ",part"] + [
        f"{line},{'val' if number % 5 == 0 else 'train'}" for number, line in enumerate(text[1:])
    ]
    Path("t.csv").write_text("\n".join(stated) + "\n")
    answer = run_train(f"{TABLE} l2=0.1 cv=5 dataset.split.column=part")
    assert answer.err.startswith("cv=5: folds of the 96 train rows; val stays apart\n")
    assert newest(Path()).summary["dataset"]["rows"] == {"train": 96, "val": 24}


@pytest.mark.parametrize(
    ("typed", "implied"),
    [
        ("dataset=iris cv=5", ["dataset.split.val=0"]),
        ("dataset=mnist cv=5", ["dataset.split.val=0"]),  # the split is in a file that mnist.yaml builds on
        ("cv=5", []),  # of the toy data no rows are held out
        ("dataset=iris,toy cv=5", ["++dataset.split.val=0"]),
        ("dataset=iris cv=5,10", ["dataset.split.val=0"]),
        ("dataset=iris cv=null", []),
        ("dataset=iris cv=5 dataset.split.val=0.1", []),
        ("dataset=iris l2=path", []),
    ],
)
def test_a_cross_validation_implies_that_no_rows_are_held_out_for_val(typed: str, implied: list[str]) -> None:
    assert rows_for_folds(parse_overrides(typed.split())) == implied


@pytest.mark.long
@pytest.mark.parametrize(("typed", "says"), [("l2=path", "path: 25 strengths of l2 from "), ("", "choosing l2 by ")])
def test_of_few_rows_folds_choose_by_themselves_and_val_stays(run_train: Type, typed: str, says: str) -> None:
    write_table()
    answer = run_train(f"{TABLE} {typed}")
    first = answer.err.splitlines()[0]
    assert first.startswith(says)
    assert first.endswith("5-fold cross-validation over the 72 train rows, the default below 2,000 (cv=5)")
    summary = newest(Path()).summary
    assert summary["dataset"]["rows"] == {"train": 72, "val": 24, "test": 24}
    assert summary["config"]["cv"] is None
    assert (summary["cross_validation"]["folds"], summary["cross_validation"]["typed"]) == (5, False)
    assert "cv" not in summary["metrics"]  # val compares this run with others
    assert " strengths by log loss of 5-fold cross-validation: " in answer.out
    assert summary["optimality"]["converged"]


@pytest.mark.long
def test_of_many_rows_val_chooses_and_of_a_class_of_few_too(run_train: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(rare=6)
    answer = run_train(f"{TABLE} l2=path")
    assert " strengths by log loss on val: " in answer.out  # train has 4 rows of the rare class
    assert answer.err.startswith("path: 25 strengths of l2 from ")
    assert "cross-validation" not in answer.out + answer.err
    write_table()
    monkeypatch.setattr("logreg.run.choosing_strength.MAX_DEFAULT_ROWS", 72)
    assert " strengths by log loss on val: " in run_train(f"{TABLE} l2=path").out
    monkeypatch.setattr("logreg.run.choosing_strength.MAX_DEFAULT_ROWS", 73)
    assert " strengths by log loss of 5-fold cross-validation: " in run_train(f"{TABLE} l2=path").out


def test_groups_stay_in_one_fold(run_train: Type) -> None:
    write_table()
    run_train(f"{TABLE} l2=0.1 cv=3 dataset.split.group=site")
    run = newest(Path())
    config = TrainedModel.load(run.folder / "checkpoints" / "last.ckpt").run_config()
    data = build_data(config)
    data.setup()
    (fold,) = make_folds(data, 3, 1, 0)
    groups = data.groups("train")
    assert groups is not None
    assert all(len(fold[groups == group].unique()) == 1 for group in groups.unique())
    weights = [float((fold == number).sum()) for number in range(3)]
    scores = run.summary["cross_validation"]["metrics"]["loss"]
    assert scores["mean"] == pytest.approx(np.average(scores["folds"], weights=weights))


# Recipes


@pytest.mark.long
@pytest.mark.parametrize(
    "typed", ["lr=0.1 max_epochs=3 batch_size=16", "optimizer=adam max_epochs=2", "l2=0", "l1=0.01"]
)
def test_every_fold_is_fitted_by_the_recipe_and_nothing_of_it_is_left(run_train: Type, typed: str) -> None:
    write_table()
    answer = run_train(f"{TABLE} {typed} cv=4")
    assert answer.code == 0, answer.err
    run = newest(Path())
    assert len(run.summary["cross_validation"]["metrics"]["loss"]["folds"]) == 4
    assert answer.out.count("4-fold cross-validation on train, means and 95% intervals: ") == 1
    assert not [name for name in answer.left if "lightning" in name or name.startswith("checkpoints")]
    # the model is that of the same recipe without folds, on the same rows
    run_train(f"{TABLE} {typed} dataset.split.val=0")
    alone = newest(Path()).summary
    assert alone["metrics"]["test"] == run.summary["metrics"]["test"]
    assert "cross_validation" not in alone


@pytest.mark.long
def test_a_first_order_fold_is_the_run_on_the_other_rows(run_train: Type) -> None:
    write_table(40)
    run_train(f"{TABLE} lr=0.1 max_epochs=5 batch_size=8 dataset.split.test=0 cv=4 seed=1 dataset.standardize=false")
    run = newest(Path())
    data = build_data(TrainedModel.load(run.folder / "checkpoints" / "last.ckpt").run_config())
    data.setup()
    (fold,) = make_folds(data, 4, 1, 1)
    lines = Path("t.csv").read_text().splitlines()
    for number, loss in enumerate(run.summary["cross_validation"]["metrics"]["loss"]["folds"]):
        parts = ["val" if held_out == number else "train" for held_out in fold.tolist()]
        Path("t.csv").write_text(
            "\n".join([f"{lines[0]},part", *(f"{line},{part}" for line, part in zip(lines[1:], parts, strict=True))])
        )
        run_train(
            f"{TABLE} lr=0.1 max_epochs=5 batch_size=8 dataset.split.column=part seed=1 dataset.standardize=false"
        )
        assert newest(Path()).summary["metrics"]["val"]["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.long
def test_separable_rows_end_in_each_fold_and_are_scored(run_train: Type) -> None:
    Path("t.csv").write_text("a,y\n" + "\n".join(f"{number},{'np'[number > 20]}" for number in range(40)) + "\n")
    answer = run_train(f"{TABLE} l2=0 cv=4")
    assert answer.code == 0, answer.err
    assert newest(Path()).summary["cross_validation"]["metrics"]["accuracy"]["mean"] > 0.9
    assert "complete separation" in answer.out


@pytest.mark.long
@pytest.mark.parametrize(("typed", "most"), [("", 50), ("max_epochs=7", 7)])
def test_separable_rows_end_in_each_fold_where_the_run_would(
    run_train: Type, typed: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int | None] = []

    def noted(*arguments: Any, **more: Any) -> Any:
        limits.append(more["most"])
        return build_trainer(*arguments, **more)

    monkeypatch.setattr("logreg.run.cross_validating.build_trainer", noted)
    Path("t.csv").write_text("a,y\n" + "\n".join(f"{number},{'np'[number > 20]}" for number in range(40)) + "\n")
    assert run_train(f"{TABLE} l2=0 cv=2 {typed}").code == 0
    assert limits == [most, most]
    assert newest(Path()).summary["epochs"] <= most


# What else runs on such runs


@pytest.mark.long
def test_jobs_of_a_sweep_are_ranked_by_their_folds(run_train: Type) -> None:
    write_table()
    answer = run_train(f"-m {TABLE} l2=10,0.03,0.001 cv=5")
    assert answer.code == 0, answer.err
    assert "by loss/cv, " in answer.out
    (file,) = Path("runs/sweeps").glob("*/results.csv")
    jobs = list(csv.DictReader(file.read_text().splitlines()))
    best = min(jobs, key=lambda job: float(job["loss/cv"]))
    assert best["l2"] == "0.03"
    assert re.search(r"^best: .* l2=0\.03 cv=5$", answer.out, re.MULTILINE)


@pytest.mark.long
def test_a_search_improves_the_cross_validated_score(
    tmp_path: Path, run_train: Type, run_command: Callable[..., Answer]
) -> None:
    write_table()
    answer = run_command(tmp_path, "sweep", *TABLE.split(), "search.l2=log(1e-3,1)", "trials=2", "cv=3")
    assert answer.code == 0, answer.err
    losses = [float(found) for found in re.findall(r"trial \d: l2=\S+: loss/cv ([\d.]+)", answer.err)]
    assert len(losses) == 2
    assert f"best loss/cv {min(losses):.4f}" in answer.err
    assert "by loss/cv, " in answer.out
    answer = run_command(tmp_path, "sweep", *TABLE.split(), "search.l2=log(1e-3,1)", "trials=2", "cv=300")
    assert answer.code == 2
    assert "`cv=300` must be at most the number of train rows of each class" in answer.err


@pytest.mark.long
@pytest.mark.parametrize("typed", ["l2=[1,0.1] cv=4", "l1=[0.1,0.01] l1_ratio=0.5 cv=4 cv_rule=one_se", "l2=0.1 cv=4"])
def test_other_commands_take_such_a_run(tmp_path: Path, run_command: Callable[..., Answer], typed: str) -> None:
    first = train(tmp_path, "dataset=iris", *typed.split())
    train(tmp_path, "dataset=iris", "l2=1", "cv=4")
    ours = first.folder.relative_to(tmp_path).as_posix()
    for command in (
        ("evaluate", f"ckpt_path={ours}"),
        ("certify", f"ckpt_path={ours}"),
        ("compare", ours, "latest"),
        ("export", f"ckpt_path={ours}", "format=json"),
        (
            "predict",
            f"ckpt_path={ours}",
            *(f"{name} (cm)=1" for name in ("sepal length", "sepal width", "petal length", "petal width")),
        ),
    ):
        answer = run_command(tmp_path, *command)
        assert answer.code == 0, (command, answer.err)


@pytest.mark.long
@pytest.mark.parametrize(
    "typed", ["l2=[1,0.1] cv=4", "l1=[0.1,0.01] cv=4 cv_rule=one_se", "l1=[0.1,0.01] l1_ratio=0.5 cv=3"]
)
def test_a_run_that_continues_keeps_its_path_and_its_folds(tmp_path: Path, typed: str) -> None:
    first = train(tmp_path, "dataset=iris", *typed.split(), "max_epochs=1", "tolerance=1e-14")
    again = train(tmp_path, "ckpt_path=latest", "max_epochs=5")
    for key in ("path", "cross_validation"):
        assert again.summary[key] == first.summary[key]
    assert again.summary["metrics"]["cv"] == first.summary["metrics"]["cv"]
    assert [again.summary["config"][key] for key in ("l2", "l1")] == [
        first.summary["config"][key] for key in ("l2", "l1")
    ]


@pytest.mark.long
def test_a_run_that_continues_draws_the_coefficients_of_its_path(tmp_path: Path) -> None:
    train(tmp_path, "dataset=iris", "l1=[0.1,0.01]", "cv=3", "max_epochs=1", "tolerance=1e-14")
    again = train(tmp_path, "ckpt_path=latest", "max_epochs=3", "report=full")
    assert (again.folder / "figures" / "coefficient_paths.png").exists()


@pytest.mark.long
def test_a_longer_recipe_is_cross_validated_anew_and_an_interrupted_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ("dataset=iris", "lr=0.1", "cv=3")
    first = train(tmp_path, *typed, "max_epochs=2")
    longer = train(tmp_path, "ckpt_path=latest", "max_epochs=6")
    anew = train(tmp_path, *typed, "max_epochs=6")
    assert longer.summary["cross_validation"] == anew.summary["cross_validation"] != first.summary["cross_validation"]
    (anew.folder / "summary.json").unlink()  # as if it was interrupted before its report
    monkeypatch.setattr("logreg.run.train.cross_validate", None)
    again = train(tmp_path, "ckpt_path=latest")
    assert again.folder == anew.folder
    assert again.summary["cross_validation"] == longer.summary["cross_validation"]


# Mistakes


SETTINGS = {
    "cv=1": "`cv` must be a whole number >= 2 or null, got 1.",
    "cv=3 select=auroc": "`select=auroc` must have two classes, and table has 3. Type select=accuracy, or leave it out "
    "for log_loss.",
    "l1=path optimizer=sgd": "`l1` must be one number with a first-order optimizer. Set optimizer=auto for a path.",
    "l1=path lr=0.1": "`l1` must be one number with a first-order optimizer. Set optimizer=auto for a path.",
    "'l1=[0.1,0]'": "`l1` must be a finite number >= 0, path, or a list of numbers > 0 such as [1e-2,1e-3,1e-4], "
    "got [0.1, 0].",
    "l1=path l2=path": "`l1` must be one number beside a path of l2. Leave l2 out, and type l1_ratio=0.5 for a path "
    "over both (elastic net).",
    "l1=path l2_path=default": "`l1` must be one number beside a path of l2. Leave l2_path out, and type l1_ratio=0.5 "
    "for a path over both (elastic net).",
    "l1_ratio=0.5": "`l1_ratio` must go with a path over l1. Type l1=path.",
    "l1=path l1_ratio=0.5 l2=0.1": "`l1_ratio` must not go with l2, which it sets beside each strength of l1. Leave l2 "
    "out.",
    "l2=path l1_ratio=0.5": "`l1_ratio` must not go with l2, which it sets beside each strength of l1. Type l1=path in "
    "place of l2.",
    "cv_repeats=2": "`cv_repeats` must go with cv. Type cv=5.",
    "l2=0.1 cv=3 cv_rule=one_se": "`cv_rule` must go with a path, from which it takes a strength. Type l2=path.",
    "cv=10": "`cv=10` must be at most the number of train rows of each class, and 'rare' has 7. Type cv=7, or get "
    "more rows.",
    "l2=path cv=10 dataset.limit=9": "`cv=10` must be at most the number of train rows of each class, and 'rare' has "
    "1. Leave cv out, raise dataset.limit, or get more rows of it.",
    "cv=6 dataset.split.group=site": "`cv=6` must be at most the number of groups in train, and dataset.split.group "
    "has 5 there. Type cv=5.",
}
"""What is typed, and the one line that answers."""


@pytest.mark.parametrize("typed", SETTINGS)
def test_a_mistake_is_answered_in_one_line_and_leaves_nothing(run_train: Type, typed: str) -> None:
    write_table(rare=8)
    answer = run_train(f"{TABLE} {typed}")
    assert (answer.code, answer.out, answer.left) == (2, "", ["t.csv"])
    lines = [line for line in answer.err.splitlines() if not line.startswith("table: ")]
    assert lines == [SETTINGS[typed]]


@pytest.mark.long
def test_what_the_refusals_advise_trains(run_train: Type) -> None:
    write_table(rare=8)
    for typed in (
        "cv=3 select=accuracy",
        "'l1=[0.1,0.01]' optimizer=auto",
        "'l1=[0.1,0.01]' l1_ratio=0.5",
        "l2=0.1 cv=5 cv_repeats=2",
        "l2=path cv=2 cv_rule=one_se",
        "l2=0.1 cv=7",
        "l2=0.1 cv=5 dataset.split.group=site",
    ):
        answer = run_train(f"{TABLE} {typed}")
        assert answer.code == 0, (typed, answer.err)


@pytest.mark.long
def test_one_standard_error_needs_folds(run_train: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table()
    monkeypatch.setattr("logreg.run.choosing_strength.MAX_DEFAULT_ROWS", 0)
    answer = run_train(f"{TABLE} l2=path cv_rule=one_se")
    assert (answer.code, answer.err) == (
        2,
        "`cv_rule` must go with a cross-validation, and val chooses here. Type cv=5.\n",
    )
    answer = run_train(f"{TABLE} 'l1=[0.1]' dataset.split.val=0")
    assert answer.err == (
        "a path over l1 must have held-out rows to choose by, and there is no val split. "
        "Set dataset.split.val=0.2, or cv=5.\n"
    )
    assert run_train(f"{TABLE} 'l1=[0.1]' dataset.split.val=0 cv=5").code == 0


@pytest.mark.long
def test_a_dataset_without_splits_is_not_told_to_split(run_train: Type) -> None:
    for typed, sentence, advised in (
        (
            "optimizer=auto l2=path",
            "a path over l2 must have held-out rows to choose by, and there is no val split. "
            "Type l2=1e-3 in place of the path.",
            "optimizer=auto l2=1e-3",
        ),
        (
            "optimizer=auto l1=path",
            "a path over l1 must have held-out rows to choose by, and there is no val split. "
            "Type l1=1e-3 in place of the path.",
            "optimizer=auto l1=1e-3",
        ),
        (
            "optimizer=auto l2_path=default",
            "a path over l2 must have held-out rows to choose by, and there is no val split. "
            "Type l2=1e-3 in place of the path.",
            "optimizer=auto l2=1e-3",
        ),
        (
            "calibrate=temperature",
            "`calibrate=temperature` must have a val split to be fitted on. Leave calibrate out.",
            "optimizer=auto",
        ),
        (
            "optimizer=auto l2=1e-3 cv=2",
            "`cv=2` must be at most the number of train rows of each class, and 'pass' has 1. Leave cv out, or get "
            "more rows of it.",
            "optimizer=auto l2=1e-3",
        ),
    ):
        answer = run_train(f"dataset=toy report=brief accelerator=cpu {typed}")
        assert (answer.code, answer.err) == (2, f"{sentence}\n")
        assert run_train(f"dataset=toy report=brief accelerator=cpu {advised}").code == 0, advised


@pytest.mark.long
def test_a_path_does_not_continue_with_other_folds(tmp_path: Path, run_command: Callable[..., Answer]) -> None:
    train(tmp_path, "dataset=iris", "l1=[0.02,0.01]", "cv=3", "max_epochs=1", "tolerance=1e-14")
    for typed, sentence in {
        "cv=4": "`cv` must be 3 to continue from this checkpoint, whose strength it has chosen, got 4. Leave it out, "
        "or leave ckpt_path out to train anew.",
        "cv=null": "`cv` must be 3 to continue from this checkpoint, whose strength it has chosen, got null. Leave it "
        "out, or leave ckpt_path out to train anew.",
        "cv_rule=one_se": "`cv_rule` must be best to continue from this checkpoint, whose strength it has chosen, got "
        "one_se. Leave it out, or leave ckpt_path out to train anew.",
    }.items():
        answer = run_command(tmp_path, "train", "ckpt_path=latest", "max_epochs=9", typed)
        assert answer.err.splitlines() == [sentence], typed
    l1 = json.loads((newest(tmp_path).folder / "summary.json").read_text())["config"]["l1"]
    answer = run_command(tmp_path, "train", "ckpt_path=latest", "max_epochs=9", "l1=[0.1]")
    assert answer.err.splitlines() == [
        "`ckpt_path` must be of a run with the same path over l1. Leave the path out, to continue with "
        f"l1={l1:g}, which the checkpoint has."
    ]
    answer = run_command(tmp_path, "train", "ckpt_path=latest", "max_epochs=9", f"l1={l1:g}", "report=brief")
    assert answer.code == 0, answer.err
