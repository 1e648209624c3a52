"""Checkpoints of an earlier version are read, predict what they did, and go on.

``checkpoints`` has five that commit 50c2f60 wrote, rows for each, and what its predict.py made of them: three students;
a table with missing values and levels; digits under a softmax; iris, one class against the rest; and that table with
class weights and a temperature.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from whole_runs import Answer

HERE = Path(__file__).parent / "checkpoints"
RunCommand = Callable[..., Answer]


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("name", [file.stem for file in sorted(HERE.glob("*.ckpt"))])
def test_an_old_checkpoint_predicts_what_it_did(name: str, tmp_path: Path, run_command: RunCommand) -> None:
    (rows,) = (HERE / file for file in (f"{name}.csv", f"{name}.npy") if (HERE / file).exists())
    shutil.copy(HERE / f"{name}.ckpt", tmp_path)
    answer = run_command(tmp_path, "predict", f"ckpt_path={name}.ckpt", f"input={rows}", "output=out.csv")
    assert answer.code == 0, answer.err
    found, expected = read(tmp_path / "out.csv"), read(HERE / f"{name}.expected.csv")
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["predicted"] == theirs["predicted"]
        for column in theirs.keys() - {"predicted"}:  # other kernels sum in another order
            assert float(ours[column]) == pytest.approx(float(theirs[column]), rel=1e-12)


@pytest.mark.long
def test_an_old_run_goes_on(tmp_path: Path, run_command: RunCommand) -> None:
    shutil.copy(HERE / "toy.ckpt", tmp_path)
    answer = run_command(
        tmp_path, "train", "ckpt_path=toy.ckpt", "max_epochs=30", "report=brief", "hydra.run.dir=longer"
    )
    assert answer.code == 0, answer.err
    whole = run_command(tmp_path, "train", "max_epochs=30", "report=brief", "hydra.run.dir=whole")
    assert whole.code == 0, whole.err
    ends = [read(tmp_path / run / "metrics.csv")[-1] for run in ("longer", "whole")]
    assert ends[0]["epoch"] == ends[1]["epoch"] == "30"
    assert ends[0]["loss/train"] == ends[1]["loss/train"]
