"""summary.json: what is written can be read back, also what earlier versions wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from logreg.errors import ConfigError
from logreg.evaluation.measured import Measured
from logreg.reports.summary_schema import Summary, UnfinishedSummary, read_summary
from models import Models
from summaries import EVALUATION, PLAIN, merged, summary_of

EARLIER = Path(__file__).parent / "earlier_summaries"
"""What the same runs wrote when summary.json was a dictionary without types."""

VOLATILE = {
    *("folder", "seconds", "versions", "git_commit"),  # of the machine and the moment
    *("gap", "relative_gap", "rounding", "max_abs_gradient", "passes", "epochs"),  # of the last step of a solver
    "largest_coefficients",  # some are equal up to rounding, which orders them
    "config",  # has every setting, new ones too
}
"""Keys whose values are not compared."""


ADDED = {"num_classes", "link", "is_convex", "decrement", "starts", "is_stationary"}
"""Keys that later versions have added."""

OTHER_INTERVALS = {"auroc", "average_precision"}
"""Scores whose intervals later versions compute in another way."""


def same(now: object, before: object) -> bool:
    """Whether plain values have the same keys in the same order, and the same numbers to rounding.

    Texts may be put in other words.
    """
    if isinstance(now, dict) and isinstance(before, dict):
        now, before = (
            {
                key: value["value"] if key in OTHER_INTERVALS and isinstance(value, dict) else value
                for key, value in each.items()
                if key not in ADDED
            }
            for each in (now, before)
        )
        return list(now) == list(before) and all(same(now[key], before[key]) for key in now if key not in VOLATILE)
    if isinstance(now, list) and isinstance(before, list):
        return len(now) == len(before) and all(map(same, now, before))
    if isinstance(now, float) and isinstance(before, float):
        return now == pytest.approx(before, rel=1e-3, abs=1e-9, nan_ok=True)
    return type(now) is type(before) and (isinstance(now, str) or now == before)


@pytest.mark.parametrize("name", ["toy", "binary", "table"])
def test_keys_order_and_numbers_are_those_of_earlier_versions(models: Models, name: str) -> None:
    before = json.loads((EARLIER / f"{name}.json").read_text(encoding="utf-8"))
    assert same(models.run(name).summary, before)
    assert same(Summary.from_json(before).to_json(), before)


@pytest.mark.parametrize("name", ["toy", "binary", "softmax", "weighted", "table", "pictures"])
def test_what_is_read_back_is_written_the_same(models: Models, name: str) -> None:
    file = models.run(name).folder / "summary.json"
    summary = read_summary(file.parent)
    assert isinstance(summary, Summary)
    assert json.dumps(summary.to_json(), indent=2, ensure_ascii=False) + "\n" == file.read_text(encoding="utf-8")


def test_the_summary_of_an_earlier_version_is_read() -> None:
    plain = merged(PLAIN, {"evaluation": EVALUATION | {"temperature": 0.5}})
    for part, names in {
        "dataset": ("leak",),
        "evaluation": ("calibration", "calibrated", "weights"),
        "optimality": ("rounding", "dependent"),
    }.items():
        for name in names:
            del plain[part][name]
    for name in ("l2_reason", "example"):
        del plain[name]
    summary = Summary.from_json(plain)
    assert summary.evaluation is not None
    assert summary.evaluation.calibrated == ("calibrated on val: temperature 0.5",)
    assert summary.evaluation.metrics["log_loss"] == Measured(0.5, 0.4, 0.6)
    assert (summary.l2_reason, summary.example, summary.dataset.leak) == (None, None, "")
    assert (summary.optimality.rounding, summary.optimality.dependent) == (0.0, ())


def test_what_a_later_version_writes_besides_is_ignored() -> None:
    assert Summary.from_json(PLAIN | {"later": 1}) == summary_of()


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": None},
        {"dataset": {"rows": {"train": "many"}}},
        {"metrics": {"train": 1}},
        {"optimality": {"verdict": None}},
        {"overrides": "lr=1"},
        {"evaluation": EVALUATION | {"metrics": {"log_loss": 0.5}}},
        {"evaluation": []},
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(merged(PLAIN, changes)))
    with pytest.raises(ConfigError, match="must be the summary of a run, and cannot be read as that"):
        read_summary(tmp_path)


@pytest.mark.parametrize("name", ["dataset", "optimality", "config", "overrides", "seconds", "epochs"])
def test_a_key_that_every_version_wrote_is_not_missed(tmp_path: Path, name: str) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({key: PLAIN[key] for key in PLAIN if key != name}))
    with pytest.raises(ConfigError, match="must be the summary of a run, and cannot be read as that"):
        read_summary(tmp_path)


def test_a_job_that_failed_is_read_as_one(tmp_path: Path) -> None:
    plain = {"status": "failed", "error": "`lr` is too high", "overrides": ["lr=9"], "metrics": {}}
    (tmp_path / "summary.json").write_text(json.dumps(plain))
    assert read_summary(tmp_path) == UnfinishedSummary(
        status="failed", error="`lr` is too high", overrides=("lr=9",), metrics={}
    )
