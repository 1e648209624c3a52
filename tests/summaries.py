"""Made summaries, for tests of what is written about a run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from logreg.reports.summary_schema import Summary

PLAIN: dict[str, Any] = {
    "status": "finished",
    "folder": "runs/made/2026",
    "resumed_from": None,
    "command": "python scripts/train.py dataset=made",
    "overrides": ["dataset=made", "l2=0.1"],
    "dataset": {
        "name": "made",
        "source": "made.csv",
        "rows": {"train": 1200, "test": 300},
        "features": 2,
        "classes": ["a", "b", "c"],
        "class_weight": None,
        "backbone": None,
        "notes": [],
        "leak": "",
    },
    "majority": {"class": "b", "accuracy": {"train": 0.5, "test": 0.4}},
    "largest_coefficients": None,
    "metrics": {"train": {"loss": 0.25, "accuracy": 0.5}, "test": {"loss": 0.5, "accuracy": 0.25}},
    "evaluation": None,
    "mistakes": None,
    "objective": {"loss": "bce", "reduction": "mean", "l2": 0.1, "l1": 0.0, "train": 0.375},
    "optimality": {
        "objective": "mean binary cross-entropy + 0.1/2 |coef|^2, intercept free",
        "value": 0.375,
        "gap": 1.5e-3,
        "rigorous": True,
        "max_abs_gradient": 0.0625,
        "tolerance": 1e-6,
        "rows": 1200,
        "dtype": "float32",
        "passes": 10,
        "seconds": 1.0,
        "separation": "",
        "rounding": 0.0,
        "dependent": [],
        "relative_gap": 4e-3,
        "converged": False,
        "verdict": "0.0015 nats above the optimum at most: train longer, or use optimizer=newton",
    },
    "reason": None,
    "l2_reason": None,
    "path": None,
    "equation": None,
    "example": None,
    "known_answer": None,
    "expected": None,
    "best": None,
    "checkpoints": ["checkpoints/best.ckpt", "checkpoints/last.ckpt"],
    "epochs": 10,
    "seconds": {"fit": 1.0, "total": 2.0},
    "seed": 0,
    "config": {
        "optimizer": {"name": "sgd"},
        "schedule": {"name": "cosine"},
        "lr": 0.5,
        "batch_size": 32,
        "l2": 0.1,
        "l1": 0.0,
        "tolerance": 1e-6,
        "polish": False,
        "select": "log_loss",
    },
    "git_commit": None,
    "versions": {"python": "3.11"},
}
"""A run of sgd on three classes, as in summary.json."""

EVALUATION: dict[str, Any] = {
    "split": "test",
    "calibration": {"temperature": 1.0, "class_weight": [], "rows": 0, "low": None, "high": None, "reason": ""},
    "calibrated": [],
    "rows": 300,
    "confidence": 0.95,
    "metrics": {
        "log_loss": {"value": 0.5, "low": 0.4, "high": 0.6},
        "accuracy": {"value": 0.25, "low": 0.2, "high": 0.3},
        "ece": {"value": 0.1, "low": 0.08, "high": 0.12},
    },
    "baseline": {"log_loss": 0.69, "accuracy": 0.4, "ece": 0.01},
    "classes": [],
    "confusion": [],
    "weights": None,
    "threshold": None,
}
"""An ``evaluation`` of `PLAIN`, which has none."""


def merged(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with others in place of some; mappings are merged."""
    result = copy.deepcopy(dict(plain))
    for key, value in changes.items():
        both = isinstance(result.get(key), Mapping) and isinstance(value, Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def summary_of(plain: Mapping[str, Any] = PLAIN, **changes: Any) -> Summary:
    """`PLAIN`, or another, with changes."""
    return Summary.from_json(merged(plain, changes))
