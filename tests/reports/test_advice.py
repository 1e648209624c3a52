"""What a run says to type next: what helps now, and every line of it can be pasted."""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logreg.reports.advice import logdir, next_commands
from summaries import EVALUATION, merged, summary_of
from whole_runs import Answer

RunCommand = Callable[..., Answer]


def after(answer: Answer) -> list[str]:
    """The lines behind ``next:``, less TensorBoard's, whose folder is looked at."""
    assert answer.code == 0, answer.err
    first, *others = [line.strip() for line in answer.out.partition("\nnext:\n")[2].splitlines()]
    program, option, folder = shlex.split(first)
    assert (program, option) == ("tensorboard", "--logdir")
    assert 1 <= len(others) <= 2
    return [folder, *others]


def paste(run_command: RunCommand, here: Path, line: str) -> Answer:
    python, script, *arguments = shlex.split(line)
    assert python == "python"
    answer = run_command(here, Path(script).stem, *arguments)
    assert answer.code == 0, f"{line}: {answer.err}"
    return answer


def kinds(lines: list[str]) -> list[str]:
    """Script and last setting of each."""
    return [f"{Path(shlex.split(line)[1]).stem} {shlex.split(line)[-1].partition('=')[0]}" for line in lines]


def write_rows(file: Path, noise: float = 1.0) -> None:
    draw = random.Random(0)
    points = [(draw.gauss(0, 1), draw.choice("abc")) for _ in range(200)]
    rows = [f"{x:.3f},{c},{'yes' if x + draw.gauss(0, noise) > 0 else 'no'}" for x, c in points]
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(["x,c,y", *rows]) + "\n")


@pytest.mark.long
def test_each_line_after_a_run_on_a_table_can_be_pasted(tmp_path: Path, run_command: RunCommand) -> None:
    write_rows(tmp_path / "my data" / "rows.csv")
    typed = ("dataset=table", "dataset.path='my data/rows.csv'", "dataset.target=y", "report=brief")
    folder, *lines = after(run_command(tmp_path, "train", *typed, "l2=0.1"))
    assert folder == "runs/rows"
    assert (tmp_path / folder).is_dir()
    assert lines == [
        "python scripts/predict.py 'input=my data/rows.csv' output=predictions.csv",
        "python scripts/evaluate.py",
    ]
    for line in lines:
        paste(run_command, tmp_path, line)
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 201
    # of two runs on the same data it is the difference that is asked for
    _, *lines = after(run_command(tmp_path, "train", *typed, "l2=0.01"))
    assert kinds(lines)[1:] == ["predict input"], "predictions.csv is there"
    assert "B - A on 40 rows of test" in paste(run_command, tmp_path, lines[0]).out
    paste(run_command, tmp_path, lines[1])


@pytest.mark.long
def test_only_runs_on_the_same_rows_are_compared(tmp_path: Path, run_command: RunCommand) -> None:
    write_rows(tmp_path / "rows.csv")
    typed = ("dataset=table", "dataset.path=rows.csv", "report=brief", "l2=0.1")
    others = (["dataset.target=c"], ["dataset.target=y", "seed=1"], ["dataset.target=y", "dataset.split.val=0.3"])
    first = run_command(tmp_path, "train", *typed, "dataset.target=y")
    for settings in others:
        assert "compare" not in " ".join(after(run_command(tmp_path, "train", *typed, *settings)))
    _, line, *_ = after(run_command(tmp_path, "train", *typed, "dataset.target=y", "dataset.drop=[c]"))
    assert shlex.split(line)[2] in first.out
    assert "B - A on 40 rows of test" in paste(run_command, tmp_path, line).out
    _, line = after(run_command(tmp_path, "train", "-m", *typed, "dataset.target=c,y", "seed=3"))
    assert kinds([line]) == ["evaluate ckpt_path"]


@pytest.mark.long
@pytest.mark.parametrize("target", ["pass", "far"])
def test_without_a_penalty_one_is_advised(tmp_path: Path, run_command: RunCommand, target: str) -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(200, 20 if target == "far" else 1))
    scores = features[:, 0] + (draw.normal(size=200) if target == "far" else 0)
    np.savez(tmp_path / "f.npz", features=features.astype(np.float32), labels=np.where(scores > 0, "yes", "no"))
    answer = run_command(tmp_path, "train", "dataset=features", "dataset.path=f.npz", "l2=0", "report=brief")
    _, first, *_ = after(answer)
    assert ("no finite optimum" in answer.out) == (target == "pass")
    assert first == "python scripts/train.py dataset=features dataset.path=f.npz l2=path"
    better = paste(run_command, tmp_path, f"{first} report=brief")
    assert "no finite optimum" not in better.out
    assert "l2=path" not in better.out


@pytest.mark.long
def test_the_default_run_goes_on_to_a_penalty_and_a_prediction(tmp_path: Path, run_command: RunCommand) -> None:
    folder, *lines = after(run_command(tmp_path, "train", "report=brief"))
    assert folder == "runs/toy"
    assert lines == ["python scripts/train.py l2=1e-3", "python scripts/predict.py hours=1"]
    for line in lines:
        paste(run_command, tmp_path, line)


@pytest.mark.long
def test_a_short_run_of_sgd_is_told_to_go_on_and_to_calibrate(tmp_path: Path, run_command: RunCommand) -> None:
    typed = ("dataset=iris", "optimizer=sgd", "max_epochs=2", "lr=0.01", "report=brief", "hydra.run.dir=elsewhere")
    answer = run_command(tmp_path, "train", *typed)
    assert "after epoch 2 of 2: loss/val is still falling, so longer training may lower it" in answer.out
    folder, *lines = after(answer)
    assert folder == "elsewhere"
    assert lines[0] == "python scripts/train.py ckpt_path=latest max_epochs=4"
    assert kinds(lines)[1:] == ["train calibrate"]
    for line in lines:
        paste(run_command, tmp_path, f"{line} report=brief")
    # what is no longer the newest is named
    (tmp_path / "runs" / "latest").unlink()
    _, *lines = after(run_command(tmp_path, "train", *typed[:-1], "hydra.run.dir=further"))
    (tmp_path / "runs" / "latest").unlink()


@pytest.mark.long
def test_an_exact_run_names_an_earlier_epoch_only_where_loss_val_has_risen(
    tmp_path: Path, run_command: RunCommand
) -> None:
    typed = ("dataset=breast_cancer", "optimizer=newton", "report=brief")
    assert "lowest loss/val" not in run_command(tmp_path, "train", *typed, "l2=1e-2").out
    risen = run_command(tmp_path, "train", *typed, "l2=1e-5").out
    assert re.search(r"lowest loss/val [\d.]+ after epoch \d+ of \d+, and [\d.]+ at the end: the model overfits", risen)


@pytest.mark.long
def test_a_run_that_overfits_says_so_and_since_when(tmp_path: Path, run_command: RunCommand) -> None:
    typed = ("dataset=breast_cancer", "lr=5", "max_epochs=40", "report=brief")
    answer = run_command(tmp_path, "train", *typed)
    assert " at the end: the model overfits; best.ckpt is from epoch " in answer.out
    _, first, *_ = after(answer)
    assert first == f"python scripts/train.py optimizer=sgd {' '.join(typed[:-1])} l2=1e-3"
    paste(run_command, tmp_path, f"{first} report=brief")


@pytest.mark.long
@pytest.mark.parametrize("l2", ["3e-2", "auto"])
def test_better_models_on_the_way_to_a_penalty_are_no_overfitting(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, l2: str
) -> None:
    # typed, the penalty is far too strong; chosen on val, no other strength does better there
    monkeypatch.setattr("logreg.run.choosing_strength.MAX_DEFAULT_ROWS", 0)  # folds choose for so few rows
    dataset = "digits" if l2 == "3e-2" else "iris"
    answer = run_command(tmp_path, "train", f"dataset={dataset}", f"l2={l2}", "report=brief")
    assert " at the end; best.ckpt is from epoch " in answer.out
    assert "overfits" not in answer.out


@pytest.mark.long
def test_the_best_of_a_sweep_is_compared_with_the_run_before_it_or_with_the_second(
    tmp_path: Path, run_command: RunCommand
) -> None:
    typed = ("dataset=iris", "optimizer=newton", "report=brief")
    sweep = ("-m", *typed, "l2=0.001,0.1")
    folder, line = after(run_command(tmp_path, "train", *sweep))
    assert sorted(Path(word).parent.as_posix() for word in shlex.split(line)[2:]) == [folder, folder]
    assert "B - A on 30 rows of test" in paste(run_command, tmp_path, line).out
    run_command(tmp_path, "train", *typed, "l2=0.01")
    alone = "runs/" + (tmp_path / "runs" / "latest").read_text().strip()
    folder, line = after(run_command(tmp_path, "train", *sweep))
    assert shlex.split(line)[3] == alone
    assert "B - A on 30 rows of test" in paste(run_command, tmp_path, line).out
    folder, line = after(run_command(tmp_path, "train", "-m", "dataset=wine", "report=brief", "l2=0.1"))
    assert kinds([line]) == ["evaluate ckpt_path"]
    paste(run_command, tmp_path, line)


def test_a_row_to_predict_is_one_that_predict_takes(tmp_path: Path, run_command: RunCommand) -> None:
    _, *lines = after(run_command(tmp_path, "train", "dataset=iris", "l2=0.01", "report=brief"))
    assert "'sepal length (cm)=" in lines[0]
    paste(run_command, tmp_path, lines[0])


FINE: dict[str, Any] = {
    "overrides": ["dataset=table", "dataset.path=t.csv", "dataset.drop=[id]", "report=brief", "ckpt_path='a.ckpt'"],
    "dataset": {"leak": "dataset.drop=[id,alive]"},
    "metrics": {"train": {"loss": 0.5}, "val": {"loss": 0.5}},
    "evaluation": EVALUATION | {"split": "val", "rows": 400},
    "config": {"optimizer": {"name": "auto"}, "l2": 0.0, "l1": 0.0, "calibrate": "none", "max_epochs": 9},
    "optimality": {"converged": True},
    "best": {"epoch": 9, "loss/val": 0.5},
    "epochs": 9,
}


def test_columns_that_may_be_the_target_come_first() -> None:
    lines = next_commands(summary_of(**FINE))[1:]
    assert lines == [
        "python scripts/train.py dataset=table dataset.path=t.csv 'dataset.drop=[id,alive]'",
        "python scripts/train.py dataset=table dataset.path=t.csv 'dataset.drop=[id]' calibrate=temperature",
    ]
    by_chance = {"metrics": {"ece": {"value": 0.1, "low": 0.07, "high": 0.12}}}
    summary = summary_of(**merged(FINE, {"dataset": {"leak": ""}, "evaluation": by_chance}))
    assert next_commands(summary)[1:] == ["python scripts/evaluate.py ckpt_path=runs/made/2026"]


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        ("runs/titanic/2026_l2-0.1", "runs/titanic"),
        ("runs/mine", "runs/mine"),
        ("runs/sweeps/2026/0_lr-1", "runs/sweeps/2026/0_lr-1"),
        ("elsewhere/a/b", "elsewhere/a/b"),
        ("/absolute/run", "/absolute/run"),
    ],
)
def test_tensorboard_is_shown_the_runs_of_the_same_data(folder: str, shown: str) -> None:
    assert logdir(folder) == shown
