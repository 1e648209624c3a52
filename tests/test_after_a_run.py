"""What users do with a run next, for each way to start one: it is certified, scored, exported, and continues."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from whole_runs import Answer

RunCommand = Callable[..., Answer]

NUMBERS = "train dataset=table dataset.path=numbers.csv dataset.target=column_4 dataset.header=false"

STARTS = {
    "recipe": "train experiment=breast_cancer_l2 max_epochs=2",
    "job of a grid": "train -m dataset=iris l2=0.1 max_epochs=20",
    "job of a grid of recipes": "train -m experiment=digits_softmax,breast_cancer_l2 max_epochs=2",
    "trial of a search": "sweep experiment=breast_cancer_l2 search.l2=log(1e-4,1) trials=1 max_epochs=2",
    "path": "train dataset=breast_cancer l2=path cv=3 cv_rule=one_se",
    "elastic net": "train dataset=wine l1=path l1_ratio=0.5",
    "table": "train dataset=table dataset.path=rows.csv dataset.target=kind dataset.weight=w dataset.offset=known",
    "no header": NUMBERS,
    "link": f"{NUMBERS} link=cauchit l2=0",
    "text": "train dataset=text dataset.path=rows.csv dataset.target=kind dataset.drop=[size,w,known] "
    "dataset.text=[words]",
    "features": "train dataset=features dataset.path=arrays.npz loss=bce precision=64",
    "copies": "train dataset=digits dataset.limit=200 dataset.augment=[shift] dataset.copies=2 dataset.classes=[3,8]",
    "sgd": "train dataset=iris lr=0.1 schedule=cosine max_epochs=2 dataset.class_weight=balanced calibrate=temperature",
}
"""Commands that end with a run, without pictures, by a name."""


def write_data() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(90, 3))
    labels = (x.sum(1) + random.normal(size=90) > 0).astype(int)
    np.savetxt("numbers.csv", np.column_stack([x, labels]), fmt=("%.4f", "%.4f", "%.4f", "%d"), delimiter=",")
    np.savez("arrays.npz", features=x, labels=labels)
    words = random.choice(["good fast train", "late bad bus", "fine ship"], 90)
    lines = [
        f"{a:.4f},{text},{abs(b):.4f},{c:.4f},k{kind}" for (a, b, c), text, kind in zip(x, words, labels, strict=True)
    ]
    Path("rows.csv").write_text("\n".join(["size,words,w,known,kind", *lines, ""]), encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize("started", STARTS.values(), ids=STARTS)
def test_a_run_is_certified_scored_exported_and_continues(
    started: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: RunCommand
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data()

    def answered(script: str, *typed: str) -> str:
        answer = run_command(tmp_path, script, *typed)
        assert answer.code == 0, answer.err
        assert not re.search("left out of|Traceback|Warning", answer.err), answer.err
        return answer.out

    script, *typed = started.split()
    answered(script, *typed, *([] if script == "sweep" else ["report=brief"]))
    summary = min(Path("runs").rglob("summary.json"))
    run, written = summary.parent, json.loads(summary.read_text(encoding="utf-8"))

    certified = json.loads(answered("certify", f"ckpt_path={run}", "json=true"))
    assert certified["value"] == pytest.approx(written["optimality"]["value"], rel=1e-6)
    scored = json.loads(answered("evaluate", f"ckpt_path={run}", "json=true"))
    held_out = [split for split in ("val", "test") if split in written["metrics"]]
    assert [split for split in scored["metrics"] if split != "train"] == held_out != []
    for split in held_out:
        assert scored["metrics"][split]["loss"] == pytest.approx(written["metrics"][split]["loss"], rel=1e-6)
    assert "agrees to" in answered("export", f"ckpt_path={run}", "format=json", "output=model.json")
    epochs = 2 * written["config"]["max_epochs"]
    answered("train", f"ckpt_path={run}", f"max_epochs={epochs}", "report=brief")
    newest = json.loads((Path("runs") / Path("runs/latest").read_text().strip() / "summary.json").read_text())
    changed = {"max_epochs": epochs, "ckpt_path": newest["config"]["ckpt_path"]}
    kept = {key: value for key, value in (written["config"] | changed).items() if key not in ("report", "l2_path")}
    assert {key: newest["config"][key] for key in kept} == kept
