from __future__ import annotations

import json

import pytest
import torch

from logreg.facts import Column, DataFacts
from logreg.training.model import LogisticModel


def facts(**others: object) -> DataFacts:
    given: dict[str, object] = {
        "name": "made",
        "num_features": 2,
        "class_names": ("no", "yes"),
        "rows": {"train": 10},
        **others,
    }
    return DataFacts(**given)  # type: ignore[arg-type]  # arguments of many types in one dict


@pytest.mark.parametrize("seed", [0, 7])
def test_init_linear_is_the_start_of_nn_linear(seed: int) -> None:
    torch.manual_seed(seed)
    theirs = torch.nn.Linear(2, 3)
    ours = LogisticModel(facts(), 3, init="linear", seed=seed)
    torch.testing.assert_close(ours.coef, theirs.weight, rtol=0, atol=0)
    torch.testing.assert_close(ours.intercept, theirs.bias, rtol=0, atol=0)


def test_init_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.rand(3)
    torch.manual_seed(1)
    LogisticModel(facts(), 1, init="linear", seed=5)
    torch.testing.assert_close(torch.rand(3), before, rtol=0, atol=0)


def test_source_units_give_the_same_logits(draw: torch.Generator) -> None:
    model = LogisticModel(facts(mean=(10.0, -3.0), std=(2.0, 0.5)), 3, init="linear").double()
    features = torch.randn(5, 2, generator=draw, dtype=torch.float64) * 4 + 7
    coef, intercept = model.in_source_units()
    torch.testing.assert_close(features @ coef.T + intercept, model(features).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_float64_whatever_the_type_of_features_and_parameters(
    dtype: torch.dtype, draw: torch.Generator
) -> None:
    model = LogisticModel(facts(mean=(10.0, -3.0), std=(2.0, 0.5)), 3, init="linear", dtype=dtype)
    features = torch.randn(5, 2, generator=draw) * 4 + 7
    coef, intercept = model.coef.double(), model.intercept.double()
    expected = (features.double() - torch.tensor([10.0, -3.0])) / torch.tensor([2.0, 0.5]) @ coef.T + intercept
    logits = model(features)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, expected, rtol=1e-14, atol=1e-14)


def test_facts_of_stored_features_give_the_logits_of_features_in_source_units(draw: torch.Generator) -> None:
    # x - 1e9 in units of 2, standardized by mean and deviation in source units
    theirs = facts(mean=(1e9, -3.0), std=(4.0, 0.5), shift=(1e9, 0.0), unit=(2.0, 1.0))
    model = LogisticModel(theirs, 3, init="linear", dtype=torch.float64)
    assert (model.mean.tolist(), model.std.tolist()) == ([0.0, -3.0], [2.0, 0.5])
    stored = torch.randn(5, 2, generator=draw, dtype=torch.float64)
    coef, intercept = model.in_source_units()
    logits = theirs.stored.inverse_transform(stored) @ coef.T + intercept
    torch.testing.assert_close(model(stored).detach(), logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        theirs.stored.transform(theirs.stored.inverse_transform(stored), torch.float64), stored, rtol=0, atol=1e-6
    )
    plain = DataFacts.from_dict(json.loads(json.dumps(theirs.as_dict())))
    assert plain == theirs


def test_the_standardization_travels_in_the_state_dict() -> None:
    model = LogisticModel(facts(mean=(10.0, -3.0), std=(2.0, 0.5)), 1)
    other = LogisticModel(facts(mean=(0.0, 0.0), std=(1.0, 1.0)), 1)
    other.load_state_dict(model.state_dict())
    assert other.mean.tolist() == [10.0, -3.0]
    assert other.std.tolist() == [2.0, 0.5]


def test_facts_survive_as_plain_values() -> None:
    columns = (Column("a", "number", (), 1.5), Column("b", "category", ("x",), "x", True, True))
    ours = facts(
        mean=(10.0, -3.0),
        std=(2.0, 0.5),
        image_shape=(1, 2),
        feature_names=("a", "b is missing"),
        columns=columns,
        backbone={"name": "resnet18", "mean": [0.5]},
        class_weight=(1.0, 2.0),
        mean_weight=1.5,
        source="a.csv",
    )
    plain = ours.as_dict()
    # As json has them: what it cannot write is no plain value, and what it reads back is the same.
    assert DataFacts.from_dict(json.loads(json.dumps(plain))) == ours
    assert plain == json.loads(json.dumps(plain))
