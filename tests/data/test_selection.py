from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from logreg.commands.overrides import parse_overrides
from logreg.data.selection import Selection, class_named, class_weights
from logreg.errors import ConfigError

SHOWN = (
    "True",
    "no",
    "1_000",
    "1e3",
    "1.0",
    "2",
    "10",
    "010",
    "-3",
    ".5",
    "1e-2",
    "inf",
    "NaN",
    "a b",
    "1__0",
    "yes",
    "Null",
)
"""Names that look like something else to Hydra or YAML, and some that do not."""


def typed(text: str) -> Any:
    """What Hydra makes of it."""
    return parse_overrides([f"x={text}"])[0].value()


@pytest.mark.parametrize("name", SHOWN)
def test_a_name_typed_as_it_is_shown_is_that_class(name: str) -> None:
    if name != "Null":  # which is a key left open, but in quotes or a list
        assert class_named("dataset.positive", typed(name), SHOWN) == name
    assert class_named("dataset.positive", typed(f"'{name}'"), SHOWN) == name
    (listed,) = typed(f"[{name}]")
    assert class_named("dataset.positive", listed, SHOWN) == name


@pytest.mark.parametrize(
    ("given", "names", "meant"),
    [
        (True, ("false", "true"), "true"),
        (True, ("no", "yes"), "yes"),
        (False, ("FALSE", "TRUE"), "FALSE"),
        (3.0, ("3", "4"), "3"),
        (3, ("3.0", "4.0"), "3.0"),
        (7, ("007", "008"), "007"),
        (1, ("True", "1"), "1"),
        (501, ("00501", "501"), "501"),
    ],
)
def test_yaml_and_python_values_are_taken_for_the_name_that_is_meant(
    given: Any, names: tuple[str, ...], meant: str
) -> None:
    assert class_named("dataset.positive", given, names) == meant


@pytest.mark.parametrize("names", [("1000", "1_000", "x"), ("True", "true", "x"), ("1e3", "1000.0", "x")])
def test_of_two_names_that_read_alike_the_advice_names_one(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        class_named("dataset.positive", typed(names[1]), names)
    assert f"may be {names[0]} or {names[1]}. Write 'dataset.positive=" in str(caught.value)
    advice = re.search(r"Write '(.*)'\.$", str(caught.value))
    assert advice
    assert parse_overrides([advice[1]])[0].value() == [names[0]]
    assert class_named("dataset.positive", names[0], names) == names[0]


@pytest.mark.parametrize("given", ["tru", 3, 2.5, True, float("nan")])
def test_a_value_that_names_no_class_is_refused_in_one_line(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^`dataset\.positive` must be one of a, 1, 2, got "):
        class_named("dataset.positive", given, ("a", "1", "2"))


def test_a_class_named_twice_counts_once_and_true_is_not_one() -> None:
    labels, names = Selection.of(classes=[1, True, "1"]).apply(("True", "1", "x"))
    assert (labels.tolist(), names) == ([0, 1, -1], ("True", "1"))


def test_class_weights_go_to_the_named_classes() -> None:
    names = ("False", "True", "1_000", "1e3")
    assert class_weights(typed("{True:2,1_000:3}"), torch.arange(4), names) == (1.0, 2.0, 3.0, 1.0)
    assert class_weights(typed("{False:2,1e3:3}"), torch.arange(4), names) == (2.0, 1.0, 1.0, 3.0)
