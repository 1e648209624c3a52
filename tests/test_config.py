"""Every constraint and every setting: the values it takes, the values it refuses, and the message."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from typing import Any

import pytest

from logreg.config import (
    ADDED_LATER,
    EXACT,
    LINKS,
    SETTINGS,
    RunConfig,
)
from logreg.constraints import (
    Constraint,
    check,
    decimal_mark,
    flag,
    labels,
    listed,
    number,
    one_of,
    optional,
    text,
    weights,
    whole,
)
from logreg.errors import ConfigError, LogregError, did_you_mean
from logreg.fast_import import import_lightning
from logreg.sections import REFUSED_TRAINER_ARGUMENTS, SECTIONS, unknown_key


def a_run(**changes: Any) -> dict[str, Any]:
    """A whole config as a yaml file has it, with some values changed."""
    plain: dict[str, Any] = {
        "dataset": {"name": "iris", "split": {"val": 0.2, "test": 0.2}, "standardize": True},
        "backbone": {"name": "none", "weights": "DEFAULT", "batch_size": 64},
        "optimizer": {"name": "sgd", "momentum": 0.0, "nesterov": False},
        "schedule": {"name": "constant"},
        "loss": "auto",
        "link": "logit",
        "reduction": "mean",
        "l2": 0.0,
        "l2_path": None,
        "l1": 0.0,
        "l1_ratio": None,
        "cv": None,
        "cv_repeats": 1,
        "cv_rule": "best",
        "intercept": True,
        "init": "zeros",
        "lr": 0.1,
        "batch_size": 32,
        "max_epochs": 10,
        "tolerance": 1e-6,
        "polish": False,
        "select": "log_loss",
        "calibrate": "none",
        "report": "full",
        "accelerator": "auto",
        "devices": 1,
        "num_nodes": 1,
        "precision": 32,
        "seed": 0,
        "ckpt_path": None,
        "config_dir": None,
        "trainer": {},
        "facts": "none",
        "expected": {},
        "verbose": False,
    }
    return plain | changes


def whole_sentence(sentence: str) -> str:
    """A pattern that the sentence alone matches."""
    return rf"^{re.escape(sentence)}$"


# The constraints


@pytest.mark.parametrize(
    ("constraint", "words", "good", "bad"),
    [
        (number(), "be a finite number", [-1, 0, 0.5, 1e300], [math.inf, -math.inf, math.nan, "1", None, True, [1]]),
        (number(above=0), "be a finite number > 0", [1, 5e-324, 1e9], [0, 0.0, -0.0, -1, math.nan, math.inf, "abc"]),
        (number(at_least=0), "be a finite number >= 0", [0, 0.0, 3], [-1, -5e-324, math.nan, False, "0"]),
        (number(above=0, at_most=1), "be a finite number > 0 and <= 1", [1e-9, 1, 1.0], [0, 1.1, math.nan, True]),
        (number(at_least=0, below=1), "be a finite number >= 0 and < 1", [0, 0.999], [1, 1.0, -0.1, math.nan, True]),
        (whole(at_least=1), "be a whole number >= 1", [1, 10**12], [0, -1, 1.0, 1.5, True, "1", None, "full"]),
        (whole(at_least=1, or_word="full"), "be a whole number >= 1 or full", [1, "full"], [0, 1.0, True, "half", ""]),
        (whole(at_least=0), "be a whole number >= 0", [0], [-1, False, 0.0, ""]),
        (one_of(("32", "64")), "be one of 32, 64", ["32", 32, "64", 64], [16, "16", None, "", 32.0, [32]]),
        (flag(), "be true or false", [True, False], [0, 1, "true", None]),
        (text(), "be text", ["x", " "], ["", None, True, ["x"]]),
        (decimal_mark(), "be '.' or ','", [".", ","], ["", ";", 1, None]),
        (optional(whole(at_least=2)), "be a whole number >= 2 or null", [None, 2], [1, 2.0, "2", "null"]),
        (listed(), "be a list, such as [a,b]", [[], ["a", 1], ("a",)], ["a", None, {"a": 1}, [None], [["a"]]]),
        (
            labels(),
            "be a class or a list of classes, such as 7 or [3,8]",
            [7, "pass", True, [3, 8], ["a"], 1.0, [None]],
            [None, [], {"a": 1}, [[1]]],
        ),
        (
            weights(),
            "be none, balanced, or weights > 0 such as {pass: 2}",
            ["none", "balanced", {"pass": 2}, {3: 0.5}],
            ["equal", None, {"pass": 0}, {"pass": -1}, {"pass": "2"}, {"pass": math.inf}, [1, 2], 2],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_constraint_holds_of_what_its_description_names_and_of_nothing_else(
    constraint: Constraint, words: str, good: list[Any], bad: list[Any]
) -> None:
    assert constraint.description == words
    assert [value for value in good if not constraint.holds(value)] == []
    assert [value for value in bad if constraint.holds(value)] == []


def test_check_names_the_key_the_constraint_the_value_and_the_next_step() -> None:
    sentence = "`dataset.rows` must be a whole number >= 10, got 3. Three points are no cloud."
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        check("dataset.rows", 3, whole(at_least=10), "Three points are no cloud.")


def test_check_lists_the_choices_and_offers_the_nearest() -> None:
    sentence = "`reduction` must be one of mean, sum, got 'maen'. Did you mean mean?"
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        check("reduction", "maen", one_of(("mean", "sum")))


def test_check_is_silent_when_the_constraint_holds() -> None:
    check("lr", 0.1, number(above=0))


@pytest.mark.parametrize(
    ("got", "answer"),
    [
        ("mnits", "Did you mean mnist?"),
        ("MNIST", "Did you mean mnist?"),
        ("fashion-mnist", "Did you mean fashion_mnist?"),
        ("", ""),
        (7, ""),
        (None, ""),
    ],
)
def test_the_nearest_name_is_offered_only_when_one_is_near(got: object, answer: str) -> None:
    assert did_you_mean(got, ["toy", "mnist", "fashion_mnist"]) == answer


# The settings

LOSSES, REDUCTIONS, STARTS = "one of auto, bce, cross_entropy", "one of mean, sum", "one of zeros, linear"
ACCELERATORS, BITS = "one of auto, cpu, gpu, mps", "one of 32, 64"
POSITIVE, NOT_NEGATIVE = "a finite number > 0", "a finite number >= 0"
STRENGTHS = f"{NOT_NEGATIVE}, auto, path, or a list of numbers > 0 such as [1e-2,1e-3,1e-4]"
STRENGTHS_OF_L1 = STRENGTHS.replace("auto, ", "")
RATIO = "a finite number > 0 and <= 1 or null"
PATHS = "null, default, or a list of numbers > 0 such as [1e-2,1e-3,1e-4]"
POSITIVE_OR_NULL, FRACTION = "a finite number > 0 or null", "a finite number > 0 and < 1"
ROWS, FROM_ONE, FROM_ZERO = "a whole number >= 1 or full", "a whole number >= 1", "a whole number >= 0"

REFUSED: dict[str, list[tuple[Any, str]]] = {
    "loss": [
        ("bse", f"{LOSSES}, got 'bse'. Did you mean bce?"),
        ("cross-entropy", f"{LOSSES}, got 'cross-entropy'. Did you mean cross_entropy?"),
        (None, f"{LOSSES}, got None."),
    ],
    "link": [
        ("probt", f"one of {', '.join(LINKS)}, got 'probt'. Did you mean probit?"),
        ("bce", f"one of {', '.join(LINKS)}, got 'bce'."),
        (None, f"one of {', '.join(LINKS)}, got None."),
    ],
    "reduction": [("none", f"{REDUCTIONS}, got 'none'."), (0, f"{REDUCTIONS}, got 0.")],
    "l2": [
        (bad, f"{STRENGTHS}, got {bad!r}.")
        for bad in (
            -1e-3,
            "1e-3",
            math.nan,
            math.inf,
            True,
            "paths",
            [],
            [0.1, 0],
            [0.1, "1"],
            {"a": 1},
            "default",
            None,
        )
    ],
    "l2_path": [(bad, f"{PATHS}, got {bad!r}.") for bad in (0.1, "path", "auto", [], [0.1, 0], True)],
    "l1": [(bad, f"{STRENGTHS_OF_L1}, got {bad!r}.") for bad in (-1, None, "auto", [], [0.1, 0], True, math.nan)],
    "l1_ratio": [(bad, f"{RATIO}, got {bad!r}.") for bad in (0, -0.5, 1.1, "half", True, math.nan)],
    "cv": [(bad, f"a whole number >= 2 or null, got {bad!r}.") for bad in (1, 0, -5, 2.0, "ten", True, [5])],
    "cv_repeats": [(bad, f"{FROM_ONE}, got {bad!r}.") for bad in (0, 1.5, None, True)],
    "cv_rule": [
        ("1se", "one of best, one_se, got '1se'."),
        ("one-se", "one of best, one_se, got 'one-se'. Did you mean one_se?"),
    ],
    "intercept": [("no", "true or false, got 'no'."), (0, "true or false, got 0."), (None, "true or false, got None.")],
    "init": [("zero", f"{STARTS}, got 'zero'. Did you mean zeros?"), ("random", f"{STARTS}, got 'random'.")],
    "lr": [
        ("abc", f"{POSITIVE_OR_NULL}, got 'abc'."),
        (-1, f"{POSITIVE_OR_NULL}, got -1."),
        (0, f"{POSITIVE_OR_NULL}, got 0."),
        (math.nan, f"{POSITIVE_OR_NULL}, got nan."),
        (math.inf, f"{POSITIVE_OR_NULL}, got inf."),
        (None, "given with optimizer=sgd, got None. Leave it to the dataset, or set it."),
        ([0.1, 0.2], f"{POSITIVE_OR_NULL}, got [0.1, 0.2]."),
    ],
    "batch_size": [
        (0, f"{ROWS}, got 0."),
        (-32, f"{ROWS}, got -32."),
        (1.5, f"{ROWS}, got 1.5."),
        ("all", f"{ROWS}, got 'all'."),
        (True, f"{ROWS}, got True."),
    ],
    "max_epochs": [(0, f"{FROM_ONE}, got 0."), (-1, f"{FROM_ONE}, got -1."), (1e3, f"{FROM_ONE}, got 1000.0.")],
    "tolerance": [
        (0, f"{FRACTION}, got 0."),
        (1, f"{FRACTION}, got 1."),
        (-1e-6, f"{FRACTION}, got -1e-06."),
        (math.nan, f"{FRACTION}, got nan."),
        ("1e-6", f"{FRACTION}, got '1e-6'."),
        (None, f"{FRACTION}, got None."),
    ],
    "select": [
        ("loss", "one of log_loss, accuracy, auroc, got 'loss'. Did you mean log_loss?"),
        (1, "one of log_loss, accuracy, auroc, got 1."),
    ],
    "calibrate": [("platt", "one of none, temperature, got 'platt'."), (True, "one of none, temperature, got True.")],
    "report": [("long", "one of full, brief, got 'long'.")],
    "polish": [("yes", "true or false, got 'yes'."), (1, "true or false, got 1.")],
    "facts": [
        ("onyl", "one of none, show, only, got 'onyl'. Did you mean only?"),
        (True, "one of none, show, only, got True."),
    ],
    "accelerator": [
        ("gpus", f"{ACCELERATORS}, got 'gpus'. Did you mean gpu?"),
        ("cuda", f"{ACCELERATORS}, got 'cuda'. Did you mean gpu?"),
        ("tpu", f"{ACCELERATORS}, got 'tpu'. Did you mean gpu?"),
    ],
    "devices": [
        (0, f"{FROM_ONE}, got 0."),
        ("auto", f"{FROM_ONE}, got 'auto'."),
    ],
    "num_nodes": [(0, f"{FROM_ONE}, got 0."), (1.5, f"{FROM_ONE}, got 1.5.")],
    "precision": [(16, f"{BITS}, got 16."), ("bf16", f"{BITS}, got 'bf16'."), (True, f"{BITS}, got True.")],
    "seed": [(bad, f"{FROM_ZERO} and <= 4294967295, got {bad}.") for bad in (-1, 0.5, None, 2**32)],
    "ckpt_path": [(bad, f"text or null, got {bad!r}.") for bad in ("", True, ["latest"])],
    "config_dir": [(bad, f"text or null, got {bad!r}.") for bad in ("", True, ["mine"])],
    "expected": [
        (bad, f"values and a tolerance, such as {{accuracy/test: 0.92, tolerance: 0.003}} or null, got {bad!r}.")
        for bad in (3, "high", [0.9])
    ],
    "verbose": [("yes", "true or false, got 'yes'."), (1, "true or false, got 1.")],
}
"""For each setting: bad values, and how the sentence "`setting` must be ..." goes on."""

TAKEN: dict[str, list[Any]] = {
    "loss": ["auto", "bce", "cross_entropy"],
    "link": [*LINKS],
    "reduction": ["mean", "sum"],
    "l2": [0, 0.0, 1e-3, 10],
    "l2_path": [None],
    "l1": [0, 0.0, 1e-3, 10],
    "l1_ratio": [None],
    "cv": [None, 2, 10],
    "cv_repeats": [1],
    "cv_rule": ["best"],
    "intercept": [True, False],
    "init": ["zeros", "linear"],
    "lr": [1e-12, 0.1, 1, 1e3],
    "batch_size": [1, 128, 10**9, "full"],
    "max_epochs": [1, 1000],
    "tolerance": [1e-12, 0.5],
    "select": ["log_loss", "accuracy", "auroc"],
    "calibrate": ["none", "temperature"],
    "report": ["full", "brief"],
    "polish": [True, False],
    "facts": ["none", "show", "only"],
    "accelerator": ["auto", "cpu", "gpu", "mps"],
    "devices": [1, 2, 64],
    "num_nodes": [1, 1024],
    "precision": [32, "32", 64, "64"],
    "seed": [0, 1, 2**32 - 1],
    "ckpt_path": [None, "latest", "runs/iris/2026"],
    "config_dir": [None, "mine"],
    "expected": [{}, {"accuracy/test": 0.92, "tolerance": 0.003}],
    "verbose": [True, False],
}
"""For each setting: values that it must take."""


def test_every_setting_is_in_the_tables_of_this_file() -> None:
    # A new setting without a bad value here would be a setting whose constraint nobody has seen broken.
    assert set(REFUSED) == set(TAKEN) == set(SETTINGS)


@pytest.mark.parametrize(
    ("setting", "value", "rest"), [(setting, *row) for setting, rows in REFUSED.items() for row in rows]
)
def test_a_setting_refuses_what_breaks_its_constraint(setting: str, value: Any, rest: str) -> None:
    with pytest.raises(ConfigError, match=whole_sentence(f"`{setting}` must be {rest}")):
        RunConfig.from_mapping(a_run(**{setting: value}))


@pytest.mark.parametrize(
    ("setting", "value"), [(setting, value) for setting, values in TAKEN.items() for value in values]
)
def test_a_setting_takes_what_satisfies_its_constraint(setting: str, value: Any) -> None:
    ours = getattr(RunConfig.from_mapping(a_run(**{setting: value})), setting)
    # yaml reads 32 as a number and "32" as text: both are the same constraint kept, and one spelling comes out
    assert ours == (str(value) if setting == "precision" else value)


def an_exact_run(**changes: Any) -> dict[str, Any]:
    return a_run(**{"optimizer": {"name": "newton"}, "lr": None, "batch_size": "full", **changes})


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_optimizer_takes_a_tolerance_and_a_number_of_passes(name: str) -> None:
    ours = RunConfig.from_mapping(an_exact_run(optimizer={"name": name}, tolerance=1e-9, max_epochs=7))
    assert (ours.optimizer, ours.lr, ours.tolerance, ours.max_epochs) == ({"name": name}, None, 1e-9, 7)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    ("key", "value"),
    [("lr", 0.1), ("batch_size", 32), ("polish", True), ("schedule", {"name": "cosine", "floor": 0.0})],
)
def test_an_exact_optimizer_refuses_what_it_would_ignore(name: str, key: str, value: Any) -> None:
    sentence = (
        f"`{key}` must go with a first-order optimizer, and optimizer={name} finds its own steps. "
        "Leave it out, or set optimizer=sgd."
    )
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(an_exact_run(**{"optimizer": {"name": name}, key: value}))


@pytest.mark.parametrize("l2", ["path", [0.1, 0.01], [1e-3]])
def test_a_path_of_penalties_goes_with_an_exact_optimizer(l2: Any) -> None:
    ours = RunConfig.from_mapping(an_exact_run(l2=l2))
    assert (ours.l2, ours.l2_path, ours.typed_l2) == (None, "default" if l2 == "path" else l2, l2)
    assert RunConfig.from_mapping(an_exact_run(l2_path=ours.l2_path)) == ours  # whatever l2 the recipe has
    assert RunConfig.from_mapping(ours.as_dict()) == ours
    sentence = "`l2` must be one number with a first-order optimizer. Set optimizer=auto for a path."
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(l2=l2))
    sentence = "`l2_path` must be null with a first-order optimizer. Set optimizer=auto for a path."
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(l2_path=ours.l2_path))


def test_a_strength_that_is_to_be_chosen_is_no_number() -> None:
    ours = RunConfig.from_mapping(a_run(l2="auto"))
    assert (ours.l2, ours.l2_path, ours.typed_l2) == (None, None, "auto")
    assert ours.as_dict()["l2"] == "auto"
    assert RunConfig.from_mapping(ours.as_dict()) == ours


@pytest.mark.parametrize("name", sorted(set(SECTIONS["optimizer"]) - set(EXACT)))
def test_a_first_order_optimizer_needs_a_learning_rate(name: str) -> None:
    sentence = f"`lr` must be given with optimizer={name}, got None. Leave it to the dataset, or set it."
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(optimizer={"name": name}, lr=None))


def test_a_mistake_in_a_config_is_a_message_of_one_line() -> None:
    with pytest.raises(LogregError) as caught:
        RunConfig.from_mapping(a_run(lr="abc"))
    assert "\n" not in str(caught.value)


# Keys


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    sentence = "`max_epoch` must be a key of the config, and there is none of that name. Did you mean max_epochs?"
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(max_epoch=3))


@pytest.mark.parametrize(
    ("key", "advised"), [("C", "l2"), ("lambda", "l2"), ("penalty", "l2"), ("threshold", "predict")]
)
def test_a_key_of_another_program_is_told_where_it_is(key: str, advised: str) -> None:
    message = str(unknown_key(key, ["lr", "seed"]))
    assert advised in message
    assert "--help" not in message


def test_an_unknown_key_that_is_near_nothing_is_sent_to_the_help() -> None:
    ours = str(unknown_key("zzz", ["lr", "seed"]))
    assert ours == "`zzz` must be a key of the config, and there is none of that name. `--help` lists the keys."


@pytest.mark.parametrize(
    "key", [field.name for field in dataclasses.fields(RunConfig) if field.name not in ADDED_LATER]
)
def test_a_key_that_is_missing_is_named(key: str) -> None:
    plain = a_run()
    del plain[key]
    with pytest.raises(ConfigError, match=whole_sentence(f"`{key}` must be given, got None.")):
        RunConfig.from_mapping(plain)


@pytest.mark.parametrize("key", ADDED_LATER)
def test_a_key_that_an_older_checkpoint_lacks_has_the_value_that_was_meant(key: str) -> None:
    plain = a_run()
    del plain[key]
    assert getattr(RunConfig.from_mapping(plain), key) == ADDED_LATER[key]


# Sections

BETA, FLOOR = "a finite number >= 0 and < 1", "a finite number >= 0 and < 1"

BAD_ARGUMENTS: dict[str, dict[str, list[tuple[str, Any, str]]]] = {
    "optimizer": {
        "sgd": [("momentum", 1, BETA), ("momentum", -0.1, BETA), ("nesterov", 1, "true or false")],
        "adam": [("beta1", 1.0, BETA), ("beta2", "high", BETA), ("eps", 0, POSITIVE)],
        "adamw": [("beta1", -1, BETA), ("beta2", 1, BETA), ("eps", -1, POSITIVE), ("weight_decay", -1, NOT_NEGATIVE)],
        "newton": [],
        "lbfgs": [],
        "auto": [],
    },
    "schedule": {
        "constant": [],
        "cosine": [("floor", 1, FLOOR), ("floor", -0.1, FLOOR)],
        "step": [("every", 0, FROM_ONE), ("every", 2.5, FROM_ONE), ("factor", 0, POSITIVE)],
    },
}
"""For each optimizer and schedule: an argument, a value that it refuses, and the description of the constraint."""

GOOD_ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "optimizer": {
        "sgd": {"momentum": 0.9, "nesterov": True},
        "adam": {"beta1": 0, "beta2": 0.99, "eps": 1e-12},
        "adamw": {"beta1": 0.5, "beta2": 0, "eps": 1, "weight_decay": 0.1},
        "newton": {},
        "lbfgs": {},
        "auto": {},
    },
    "schedule": {"constant": {}, "cosine": {"floor": 0.5}, "step": {"every": 1, "factor": 2}},
}
"""For each optimizer and schedule: arguments other than the defaults, which it must take."""


def test_every_argument_of_every_section_is_in_the_tables_of_this_file() -> None:
    known = {section: {name: set(args) for name, args in choices.items()} for section, choices in SECTIONS.items()}
    good = {section: {name: set(args) for name, args in choices.items()} for section, choices in GOOD_ARGUMENTS.items()}
    bad = {
        section: {name: {argument for argument, *_ in rows} for name, rows in choices.items()}
        for section, choices in BAD_ARGUMENTS.items()
    }
    assert known == good == bad


@pytest.mark.parametrize(
    ("section", "name", "argument", "value", "words"),
    [
        (section, name, *row)
        for section, choices in BAD_ARGUMENTS.items()
        for name, rows in choices.items()
        for row in rows
    ],
)
def test_an_argument_of_a_section_refuses_what_breaks_its_constraint(
    section: str, name: str, argument: str, value: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=whole_sentence(f"`{section}.{argument}` must be {words}, got {value!r}.")):
        RunConfig.from_mapping(a_run(**{section: {"name": name, argument: value}}))


@pytest.mark.parametrize(
    ("section", "name"), [(section, name) for section, choices in GOOD_ARGUMENTS.items() for name in choices]
)
def test_a_section_keeps_the_arguments_it_was_given(section: str, name: str) -> None:
    asked = {"name": name, **GOOD_ARGUMENTS[section][name]}
    run = an_exact_run if name in EXACT else a_run
    assert getattr(RunConfig.from_mapping(run(**{section: asked})), section) == asked


@pytest.mark.parametrize(
    ("section", "name", "sentence"),
    [
        (
            "optimizer",
            "sgdd",
            "`optimizer` must be one of sgd, adam, adamw, newton, lbfgs, auto, got 'sgdd'. Did you mean sgd?",
        ),
        ("optimizer", "saga", "`optimizer` must be one of sgd, adam, adamw, newton, lbfgs, auto, got 'saga'."),
        ("schedule", "cosin", "`schedule` must be one of constant, cosine, step, got 'cosin'. Did you mean cosine?"),
    ],
)
def test_a_section_lists_its_choices(section: str, name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(**{section: {"name": name}}))


def test_an_argument_that_a_section_does_not_have_is_refused_with_the_nearest_one() -> None:
    sentence = (
        "`optimizer.momentun` must be a key of the config, and there is none of that name. "
        "Did you mean optimizer.momentum?"
    )
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(optimizer={"name": "sgd", "momentun": 0.9}))


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_optimizer_has_no_arguments(name: str) -> None:
    sentence = "`optimizer.momentum` must be a key of the config, and there is none of that name."
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        RunConfig.from_mapping(an_exact_run(optimizer={"name": name, "momentum": 0.9}))


@pytest.mark.parametrize("momentum", [{}, {"momentum": 0}, {"momentum": 0.0}])
def test_nesterov_without_momentum_is_refused(momentum: dict[str, Any]) -> None:
    # torch says so too, but in its own words, seconds later and with a traceback
    sentence = "`optimizer.nesterov` must go with a momentum > 0, got True. Set optimizer.momentum=0.9."
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(optimizer={"name": "sgd", "nesterov": True, **momentum}))


# The dataset's part


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("value", [1, 1.0, -0.1, "much", True, math.nan])
def test_a_fraction_of_a_split_refuses_what_is_none(split: str, value: Any) -> None:
    sentence = f"`dataset.split.{split}` must be a finite number >= 0 and < 1 or null, got {value!r}."
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(dataset={"name": "iris", "standardize": True, "split": {split: value}}))


def test_fractions_that_leave_no_row_to_train_on_are_refused() -> None:
    sentence = "`dataset.split` must leave rows to train on, got {'val': 0.5, 'test': 0.5}."
    split = {"val": 0.5, "test": 0.5}
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(dataset={"name": "iris", "standardize": True, "split": split}))


@pytest.mark.parametrize(
    "split",
    [
        {},
        {"val": 0},
        {"val": 0.5},
        {"val": 0.5, "test": 0.49},
        {"val": None, "test": 0.3},
        {"column": "part"},
        {"group": "who", "val": 0.1},
    ],
)
def test_splits_that_leave_rows_to_train_on_are_taken(split: dict[str, Any]) -> None:
    asked = {"name": "iris", "standardize": True, "split": split}
    assert RunConfig.from_mapping(a_run(dataset=asked)).dataset["split"] == split


def test_a_dataset_need_not_have_a_split() -> None:
    assert RunConfig.from_mapping(a_run(dataset={"name": "toy", "standardize": False})).dataset["name"] == "toy"


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        ({"name": "toy", "standardize": "yes"}, "`dataset.standardize` must be true or false or null, got 'yes'."),
        (
            {"name": 3, "standardize": True},
            "`dataset.name` must be text, got 3. Put quotes around it: 'dataset.name=\"3\"'.",
        ),
        (
            {"name": "toy", "standardize": True, "classes": []},
            "`dataset.classes` must be a class or a list of classes, such as 7 or [3,8] or null, got [].",
        ),
        (
            {"name": "toy", "standardize": True, "positive": {"a": 1}},
            "`dataset.positive` must be a class or a list of classes, such as 7 or [3,8] or null, got {'a': 1}.",
        ),
        (
            {"name": "toy", "standardize": True, "limit": 1},
            "`dataset.limit` must be a whole number >= 2 or null, got 1.",
        ),
        (
            {"name": "toy", "standardize": True, "class_weight": {"pass": 0}},
            "`dataset.class_weight` must be none, balanced, or weights > 0 such as {pass: 2}, got {'pass': 0}.",
        ),
        (
            {"name": "toy", "standardize": True, "split": {"grup": "who"}},
            "`dataset.split.grup` must be a key of the config, and there is none of that name. "
            "Did you mean dataset.split.group?",
        ),
        (
            {"name": "toy", "standardize": True, "split": {"group": [3]}},
            "`dataset.split.group` must be a name or null, got [3].",
        ),
    ],
)
def test_the_settings_that_every_dataset_has_are_checked(dataset: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(dataset=dataset))


@pytest.mark.parametrize(
    ("backbone", "sentence"),
    [
        (None, "`backbone` must be none or a model of torchvision, such as backbone=resnet18, got None."),
        ({"name": 18}, "`backbone.name` must be text, got 18. Put quotes around it: 'backbone.name=\"18\"'."),
        ({"weight": "none"}, "Did you mean backbone.weights?"),
        ({"batch_size": 0}, "`backbone.batch_size` must be a whole number >= 1, got 0."),
    ],
)
def test_the_backbone_is_checked(backbone: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"{re.escape(sentence)}$"):
        RunConfig.from_mapping(a_run(backbone=backbone))


# The trainer's part


@pytest.mark.parametrize("argument", REFUSED_TRAINER_ARGUMENTS)
def test_an_argument_of_the_trainer_that_would_have_a_wrong_effect_is_refused(argument: str) -> None:
    sentence = f"`trainer.{argument}` must not be set. {REFUSED_TRAINER_ARGUMENTS[argument]}"
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(trainer={argument: None}))


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("max_epochs", "`trainer.max_epochs` must not be set. Set `max_epochs` instead."),
        (
            "gradient_clip_val",
            "`trainer.gradient_clip_val` must not be set. "
            "The gradient is taken in closed form and not clipped: lower `lr` instead.",
        ),
        (
            "accumulate_grad_batches",
            "`trainer.accumulate_grad_batches` must not be set. Nothing is accumulated: raise `batch_size` instead.",
        ),
    ],
)
def test_what_lightning_cannot_do_here_is_refused_not_ignored(argument: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=whole_sentence(sentence)):
        RunConfig.from_mapping(a_run(trainer={argument: 2}))


def test_every_refused_argument_is_one_that_the_trainer_has() -> None:
    # Lightning renames arguments; a refusal of an old name would let the new one through.
    import_lightning()
    import lightning.pytorch as pl

    assert set(REFUSED_TRAINER_ARGUMENTS) <= set(inspect.signature(pl.Trainer.__init__).parameters)


def test_any_other_argument_of_the_trainer_goes_through_unchanged() -> None:
    asked = {"limit_train_batches": 0.5, "check_val_every_n_epoch": 2, "detect_anomaly": True}
    assert RunConfig.from_mapping(a_run(trainer=asked)).trainer == asked
