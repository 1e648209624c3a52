"""`scripts/evaluate.py`: the checkpoint alone gives the numbers of the end of training, to the last bit."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from models import MODELS, Models, write_pictures, write_table
from whole_runs import Answer, Run, train

RunCommand = Callable[..., Answer]


def evaluated(run_command: RunCommand, here: Path, *arguments: str) -> dict[str, Any]:
    answer = run_command(here, "evaluate", "json=true", *arguments)
    assert answer.code == 0, answer.err
    plain: dict[str, Any] = json.loads(answer.out)
    return plain


@pytest.mark.parametrize("name", MODELS)
def test_the_numbers_are_those_of_the_end_of_training_bit_for_bit(
    name: str, models: Models, run_command: RunCommand
) -> None:
    summary = models.run(name).summary
    found = evaluated(run_command, models(name))
    assert found["metrics"] == summary["metrics"]
    assert found["evaluation"] == summary["evaluation"]


def test_a_checkpoint_that_was_taken_elsewhere_is_all_that_it_takes(
    models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    shutil.copy(models.run("binary").folder / "checkpoints" / "last.ckpt", tmp_path / "mine.ckpt")
    found = evaluated(run_command, tmp_path, "ckpt_path=mine.ckpt")
    assert found["metrics"] == models.run("binary").summary["metrics"]
    assert found["optimality"]["converged"] is True


def test_the_best_checkpoint_scores_what_was_lowest_on_val(tmp_path: Path, run_command: RunCommand) -> None:
    run = train(tmp_path, "dataset=iris", "optimizer=sgd", "lr=5", "max_epochs=7", "report=brief")
    found = evaluated(run_command, tmp_path, "ckpt_path=best")
    # Lightning keeps what a callback monitors in float32
    assert found["metrics"]["val"]["loss"] == pytest.approx(run.summary["best"]["loss/val"], rel=1e-6)


def test_other_rows_are_read_as_the_model_learned_and_teach_it_nothing(models: Models, run_command: RunCommand) -> None:
    here = models("table")
    write_table(here / "others.csv", number=77, seed=5)
    found = evaluated(run_command, here, "dataset.path=others.csv")
    assert found["rows"] == {"train": 77}
    assert found["evaluation"]["split"] == "all rows"
    # predict.py, which knows nothing of labels, gives the probabilities that the log loss is made of
    assert (
        run_command(
            here, "predict", "input=others.csv", "output=p.csv", "keep=[kind]", "drop=[id]", "overwrite=true"
        ).code
        == 0
    )
    shown = run_command(here, "evaluate", "dataset.path=others.csv").out
    assert "│ all   │" in shown
    assert "train" not in shown.split("intervals of")[0].partition("\n")[2]
    import pyarrow.csv

    rows = pyarrow.csv.read_csv(here / "p.csv").to_pydict()
    classes = ["high, very", "low", "mid"]
    probabilities = np.column_stack([rows[name] for name in classes])
    expected = log_loss(rows["kind"], probabilities / probabilities.sum(1, keepdims=True), labels=classes)
    assert found["evaluation"]["metrics"]["log_loss"]["value"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("huge", "Leave those rows out."),
        (
            "mid.",
            "'mid' and 'mid.' differ only by blanks, case or a dot: if they are one class, spell them alike in the "
            "data. Else leave those rows out.",
        ),
    ],
)
def test_a_class_that_the_model_does_not_know_is_named(
    name: str, advice: str, models: Models, run_command: RunCommand
) -> None:
    here = models("table")
    (here / "new.csv").write_text(f"id,size,color,wet,always,kind\nr0,1,red,true,7,low\nr1,2,red,true,7,{name}\n")
    answer = run_command(here, "evaluate", "dataset.path=new.csv")
    assert answer.code == 2
    assert answer.err == (
        f"`dataset=table` must hold classes that the model knows, high, very, low, mid, got '{name}'. {advice}\n"
    )


def test_a_column_of_the_model_that_a_file_lacks_is_named(models: Models, run_command: RunCommand) -> None:
    here = models("table")
    (here / "new.csv").write_text("kind,Size,color,wet\nlow,1,red,true\n")
    answer = run_command(here, "evaluate", "dataset.path=new.csv")
    assert answer.code == 2
    assert answer.err == (
        "`dataset.path` must have the column 'size' that the model learned from [in new.csv]. "
        "Is it 'Size'? Rename that one.\n"
    )


def test_pictures_of_another_size_are_refused(models: Models, run_command: RunCommand) -> None:
    here = models("pictures")
    write_pictures(here / "large", number=2, size=9)
    answer = run_command(here, "evaluate", "dataset.path=large")
    assert answer.code == 2
    assert answer.err == "`dataset=image_folder` must have the features of the model, (6, 6), got (9, 9).\n"


@pytest.mark.long
def test_rows_that_changed_since_are_spoken_of(tmp_path: Path, run_command: RunCommand) -> None:
    write_table(tmp_path / "t.csv")
    train(tmp_path, "dataset=table", "dataset.path=t.csv", "dataset.target=kind", "dataset.drop=[id]", "report=brief")
    write_table(tmp_path / "t.csv", seed=9)
    notes = evaluated(run_command, tmp_path)["notes"]
    assert "these are not the rows that the model was trained with: the data has changed since" in notes


def test_a_miss_that_costs_more_moves_the_threshold_down(models: Models, run_command: RunCommand) -> None:
    here = models("binary")
    one, nine = (evaluated(run_command, here, f"cost_ratio={ratio}")["evaluation"]["threshold"] for ratio in (1, 9))
    assert nine["value"] < one["value"]
    assert (one["chosen_on"], nine["cost_ratio"]) == ("val", 9)
    assert evaluated(run_command, here, "split=val")["evaluation"]["threshold"]["chosen_on"] == "these rows"


@pytest.mark.long
def test_the_temperature_makes_val_more_probable_and_changes_no_decision(
    tmp_path: Path, run_command: RunCommand
) -> None:
    # a fit without a penalty is too sure of itself
    runs = {
        name: train(tmp_path, "dataset=iris", "l2=1e-6", f"calibrate={name}", "report=brief")
        for name in ("none", "temperature")
    }
    found = {
        name: evaluated(run_command, tmp_path, f"ckpt_path={run.folder}", "split=val")["evaluation"]
        for name, run in runs.items()
    }
    assert found["temperature"]["calibration"]["temperature"] > 1
    losses, accuracies = (
        {name: each["metrics"][what]["value"] for name, each in found.items()} for what in ("log_loss", "accuracy")
    )
    assert losses["temperature"] < losses["none"]
    assert accuracies["temperature"] == accuracies["none"]
    held = Run(runs["temperature"].folder).checkpoint()
    assert held["calibration"] == found["temperature"]["calibration"]
    # best.ckpt has other parameters, and a temperature of its own
    assert Run(runs["temperature"].folder).checkpoint("best")["calibration"]["temperature"] != 1.0


@pytest.mark.long
def test_a_table_of_counts_has_the_intervals_of_its_rows_repeated(tmp_path: Path, run_command: RunCommand) -> None:
    draw = np.random.default_rng(0)
    number = 200
    x, times = draw.normal(size=number).round(3), draw.integers(1, 5, number)
    y = np.where(x + draw.logistic(size=number) > 0, "yes", "no")
    part = np.where(np.arange(number) % 3 == 0, "test", "train")
    for name, columns in (("counts", (x, y, part, times)), ("other", (x, y, part, times + 0.5))):
        lines = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,y,part,n", *lines]) + "\n")
    lines = [",".join(map(str, row)) for row in zip(*(each.repeat(times) for each in (x, y, part)), strict=True)]
    (tmp_path / "repeated.csv").write_text("\n".join(["x,y,part", *lines]) + "\n")
    found = {}
    for name in ("repeated", "counts", "other"):
        typed = (
            "dataset=table",
            f"dataset.path={name}.csv",
            "dataset.target=y",
            "dataset.split.column=part",
            "l2=1e-3",
        )
        run = train(tmp_path, *typed, "tolerance=1e-12", *([] if name == "repeated" else ["dataset.weight=n"]))
        found[name] = (
            run.summary["evaluation"],
            run_command(tmp_path, "evaluate").out,
            (run.folder / "report.md").read_text(),
        )
    ours, theirs = found["counts"][0], found["repeated"][0]
    for metric, one in theirs["metrics"].items():
        assert tuple(ours["metrics"][metric].values()) == pytest.approx(tuple(one.values()), rel=1e-6), metric
    assert theirs["weights"] is None
    assert ours["weights"] == {"counts": True, "rows": theirs["rows"]}
    words = (
        f"eights are counts of rows, since all are whole numbers: the {ours['rows']} lines are {theirs['rows']} rows"
    )
    assert all(words in text for text in found["counts"][1:])
    weight = (times + 0.5)[part == "test"]
    kish = weight.sum() ** 2 / np.square(weight).sum()
    assert found["other"][0]["weights"] == {"counts": False, "rows": pytest.approx(kish)}
    words = f"intervals are those of {kish:.1f} equal rows (Kish's effective sample size of {ours['rows']})"
    assert all(words in text for text in found["other"][1:])


@pytest.mark.long
def test_a_model_with_an_offset_scores_other_rows_with_theirs(tmp_path: Path, run_command: RunCommand) -> None:
    draw = np.random.default_rng(0)
    x, known = draw.normal(size=(2, 200)).round(3)
    y = np.where(x + 2 * known + draw.logistic(size=200) > 0, "yes", "no")
    lines = [",".join(map(str, row)) for row in zip(x, known, y, strict=True)]
    for name, part in (("train", lines[:100]), ("other", lines[100:])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,known,y", *part]) + "\n")
    train(tmp_path, "dataset=table", "dataset.path=train.csv", "dataset.target=y", "dataset.offset=known", "l2=0.1")
    found = evaluated(run_command, tmp_path, "dataset.path=other.csv")["evaluation"]["metrics"]
    answer = run_command(tmp_path, "predict", "input=other.csv", "drop=[y]")
    assert answer.code == 0, answer.err
    probabilities = [[float(row["no"]), float(row["yes"])] for row in csv.DictReader(io.StringIO(answer.out))]
    assert found["log_loss"]["value"] == pytest.approx(log_loss(y[100:], probabilities), rel=1e-5)


def test_everything_can_be_written_and_nothing_is_lost(models: Models, run_command: RunCommand, tmp_path: Path) -> None:
    here = models("toy")
    file = tmp_path / "scores.json"
    assert run_command(here, "evaluate", f"output={file}").code == 0
    before = file.read_bytes()
    assert json.loads(before)["metrics"] == models.run("toy").summary["metrics"]
    answer = run_command(here, "evaluate", f"output={file}")
    assert (answer.code, file.read_bytes()) == (2, before)
    assert answer.err == f"`output` must not exist, and {file} does. Name another one, or set overwrite=true.\n"
    assert run_command(here, "evaluate", f"output={file}", "overwrite=true").code == 0


def test_the_terminal_shows_loss_baseline_classes_calibration_and_certificate(
    models: Models, run_command: RunCommand
) -> None:
    answer = run_command(models("softmax"), "evaluate")
    assert answer.code == 0
    for words in (
        "checkpoints/last.ckpt on iris: softmax cross-entropy, mean over rows\n",
        "balanced accuracy",
        "baseline",
        "setosa",
        "calibrated on val",
        "optimal to",
    ):
        assert words in answer.out


def test_a_sum_over_rows_is_told_from_the_log_loss(models: Models, run_command: RunCommand) -> None:
    answer = run_command(models("toy"), "evaluate")
    assert "checkpoints/last.ckpt on toy: binary cross-entropy, sum over rows\n" in answer.out
    assert "train: 3 rows, intervals of 95%; log loss is the mean over rows\n" in answer.out


WITH_CODE = {"hyper_parameters": {}, "state_dict": {}, "epoch": 0, "code": print}


def broken(folder: Path, whole: bytes) -> None:
    (folder / "text.ckpt").write_text("not a checkpoint")
    (folder / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save(WITH_CODE, folder / "code.ckpt")
    torch.save({"state_dict": {}, "epoch": 3, "pytorch-lightning_version": "2.6"}, folder / "other.ckpt")


@pytest.mark.parametrize("name", ["text", "cut", "code", "other"])
@pytest.mark.parametrize("script", ["evaluate", "predict", "export"])
def test_what_is_no_whole_checkpoint_is_refused_and_never_run(
    script: str, name: str, models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    broken(tmp_path, (models.run("toy").folder / "checkpoints" / "last.ckpt").read_bytes())
    more = {"evaluate": [], "predict": ["hours=3"], "export": ["format=json", "output=m.json"]}[script]
    answer = run_command(tmp_path, script, f"ckpt_path={name}.ckpt", *more)
    assert answer.code == 2
    assert answer.err == f"`ckpt_path` must be a checkpoint of logreg, and {name}.ckpt is not one.\n"
    assert not (tmp_path / "m.json").exists()


def test_a_file_needs_no_column_that_the_model_does_not_read(models: Models, run_command: RunCommand) -> None:
    here = models("table")
    (here / "less.csv").write_text("kind,size,color,wet\nlow,-3,red,false\nmid,0.5,green,true\n")
    assert evaluated(run_command, here, "dataset.path=less.csv")["evaluation"]["rows"] == 2


def test_rows_of_one_class_can_be_scored(models: Models, run_command: RunCommand) -> None:
    here = models("table")
    (here / "one.csv").write_text("kind,size,color,wet\nlow,-3,red,false\n")
    found = evaluated(run_command, here, "dataset.path=one.csv")["evaluation"]
    assert (found["rows"], [one["weight"] for one in found["classes"]]) == (1, [0.0, 1.0, 0.0])


@pytest.mark.parametrize("typed", ["dataset.limit=10", "dataset.standardize=true", "dataset.split.val=0.1"])
def test_what_would_make_another_model_or_no_other_rows_is_refused(
    typed: str, models: Models, run_command: RunCommand
) -> None:
    answer = run_command(models("table"), "evaluate", typed)
    key = typed.partition("=")[0]
    assert answer.code == 2
    assert answer.err == f"`{key}` must be that of the checkpoint. Other rows are named by dataset.path=FILE.\n"


MISTAKES = {
    ("ckpt_path=nowhere.ckpt",): (
        "`ckpt_path=nowhere.ckpt` must find a checkpoint, and nowhere.ckpt is missing. "
        "Name a run folder or a .ckpt file, or train one first: scripts/train.py."
    ),
    ("split=valid",): "`split` must be one of train, val, test, got 'valid'. Did you mean val?",
    ("split=val",): "`split` must be one of train, which there are, got 'val'.",
    ("cost_ratio=0",): "`cost_ratio` must be a finite number > 0, got 0.",
    ("spilt=val",): "`spilt` must be a key of evaluate, and there is none of that name. Did you mean split?",
    ("new.csv",): "`new.csv` must be written as key=value, such as dataset.path=new.csv. `--help` lists the keys.",
    ("val",): "`val` must be written as key=value, such as split=val. `--help` lists the keys.",
    ("dataset=iris",): "`dataset` must be that of the checkpoint. Set a key in it: dataset.<key>=VALUE.",
    ("split=val", "split=test"): "`split` must be typed once.",
    ("~dataset.path=new.csv",): (
        "`~dataset.path=new.csv` must be written as key=value: no key can be deleted. "
        "Leave it out, and the key keeps its value."
    ),
    ("output=scores.txt",): "`output` must end in one of .json, got 'scores.txt'.",
}


@pytest.mark.parametrize(("typed", "sentence"), MISTAKES.items())
def test_a_mistake_is_answered_in_one_line(
    typed: tuple[str, ...], sentence: str, models: Models, run_command: RunCommand
) -> None:
    answer = run_command(models("toy"), "evaluate", *typed)
    assert (answer.code, answer.err, answer.out) == (2, sentence + "\n", "")
