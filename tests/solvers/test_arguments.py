"""What `fit` is called with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from logreg.errors import ConfigError, DataError, LogregError
from logreg.losses.objective import Objective
from logreg.solvers.fit import fit

FEATURES = torch.tensor([[0.0], [1.0], [2.0], [1.5], [0.5], [2.5]])
LABELS = torch.tensor([0, 0, 1, 1, 1, 0])
L2 = Objective("bce", l2=0.1)


def fitted(**changed: Any) -> Any:
    known: dict[str, Any] = {"features": FEATURES, "labels": LABELS, "objective": L2}
    return fit(**known | changed)


@pytest.mark.parametrize(
    ("changed", "kind", "says"),
    [
        (
            {"labels": 2 * LABELS - 1},
            DataError,
            r"`labels` must be in \[0, C\) for C classes, got -1. Number the classes",
        ),
        ({"labels": LABELS + 1}, DataError, "`labels` must have every class from 0 to 2, got none of class 0. Number"),
        ({"labels": LABELS * 10**15}, DataError, "got none of class 1. Number"),
        (
            {"labels": LABELS + 1, "num_classes": 2},
            DataError,
            r"`labels` must be in \[0, 2\), since num_classes is 2, got 2",
        ),
        ({"labels": LABELS * 0}, DataError, "`labels` must have two classes at least, got 0 alone. Give num_classes"),
        ({"labels": LABELS + 0.5}, DataError, "`labels` must be whole numbers, got 0.5. Number the classes from 0"),
        ({"labels": LABELS * math.nan}, DataError, "`labels` must be whole numbers, got nan"),
        (
            {"labels": torch.eye(6)},
            DataError,
            r"`labels` must have one entry for each row .* \(6,\), got \(6, 6\). Give",
        ),
        ({"features": FEATURES[:, 0]}, DataError, r"`features` must be a matrix .* of shape \(6,\). Give a single"),
        ({"features": FEATURES[:0], "labels": LABELS[:0]}, DataError, "`features` must be a matrix .* with N >= 1"),
        ({"features": FEATURES / 0}, DataError, "features must be finite, got nan in row 0, column 0"),
        (
            {"sample_weight": -FEATURES[:, 0]},
            DataError,
            "`sample_weight` must be finite and >= 0, got -1.0 in row 1. Leave",
        ),
        ({"sample_weight": FEATURES[:, 0] / 0}, DataError, "`sample_weight` must be finite and >= 0, got nan in row 0"),
        ({"sample_weight": 0 * FEATURES[:, 0]}, DataError, "`sample_weight` must be > 0 somewhere, got only 0. Give"),
        (
            {"sample_weight": 1e-35 * (1 + FEATURES[:, 0])},
            DataError,
            "`sample_weight` must give rows a mean weight of 1e-30",
        ),
        (
            {"sample_weight": 1e20 + FEATURES[:, 0], "class_weight": [1e20, 1e20]},
            DataError,
            "`sample_weight times class_weight` must give rows a mean weight .* got 1e\\+40. Multiply",
        ),
        ({"sample_weight": FEATURES}, DataError, r"`sample_weight` must have one number for each row.* got \(6, 1\)"),
        ({"class_weight": (1.0, 2.0, 3.0)}, ConfigError, "`class_weight` must have one number for each of 2 classes"),
        ({"class_weight": (1.0, 0.0)}, ConfigError, r"`class_weight` must have finite numbers > 0, got \(1.0, 0.0\)"),
        ({"num_classes": 1}, ConfigError, "`num_classes` must be an integer >= 2, got 1"),
        ({"tolerance": 0.0}, ConfigError, "`tolerance` must be a finite number > 0 and < 1, got 0.0"),
        ({"tolerance": math.nan}, ConfigError, "`tolerance` must be a finite number > 0 and < 1, got nan"),
        ({"max_passes": 0}, ConfigError, "`max_passes` must be an integer >= 1, got 0"),
        ({"optimizer": "adam"}, ConfigError, "`optimizer` must be one of newton, lbfgs, auto, got 'adam'"),
        ({"objective": Objective("bce", l2=-1.0)}, ConfigError, "`l2` must be a finite number >= 0, got -1.0"),
        ({"objective": Objective("bce", l1=math.inf)}, ConfigError, "`l1` must be a finite number >= 0, got inf"),
        ({"objective": Objective("hinge")}, ConfigError, "`loss` must be one of .*, got 'hinge'"),
        ({"objective": Objective("bce", "max")}, ConfigError, "`reduction` must be one of mean, sum, got 'max'"),  # type: ignore[arg-type]  # no reduction
    ],
)
def test_each_mistake_is_a_sentence(changed: dict[str, Any], kind: type[LogregError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        fitted(**changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.float32, torch.bool])
def test_labels_of_any_type_are_the_same_labels(kind: torch.dtype) -> None:
    found = fitted(labels=LABELS.to(kind), class_weight=(1.0, 3.0))
    assert torch.equal(found.coef, fitted(class_weight=(1.0, 3.0)).coef)


def test_the_advice_about_labels_works() -> None:
    labels = torch.unique(2 * LABELS - 1, return_inverse=True)[1]
    assert torch.equal(fitted(labels=labels).coef, fitted().coef)


def test_a_class_may_be_missing_where_num_classes_says_so() -> None:
    found = fitted(objective=Objective("cross_entropy", l2=0.1), num_classes=4, tolerance=1e-4)
    assert found.coef.shape == (4, 1)
