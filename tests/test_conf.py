"""Every file under conf/: it composes, is checked, builds and takes an epoch.  A new file is tested by existing."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from logreg import config as config_module
from logreg.commands.config_files import CONF
from logreg.config import SETTINGS, RunConfig
from logreg.constraints import check
from logreg.data import DATASETS
from logreg.facts import SPLITS
from logreg.reports.summary_schema import Summary
from logreg.run.building import build_data, build_module
from logreg.run.train import train
from logreg.sections import DATASET_SETTINGS, SECTIONS
from logreg.solvers.optimizers import EXACT
from logreg.training.optimizers import OPTIMIZERS
from logreg.training.schedules import SCHEDULES, lr_factor

FILES = sorted(file.relative_to(CONF).as_posix() for file in CONF.rglob("*.yaml"))

FRAGMENTS = {file for file in FILES if file.startswith("dataset/base/")}
"""Files that datasets share; users do not choose them."""

TABLES = {"blobs", "breast_cancer", "iris", "wine", "digits", "table", "text", "features"}
"""Datasets whose default optimizer is exact."""

NEED_FILES = set(DATASETS) - {"toy", "blobs", "breast_cancer", "iris", "wine", "digits"}
"""Datasets whose files must be downloaded or named by the user."""


def options(group: str) -> list[str]:
    """The options of a group that lie on disk."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def chosen_by(file: str) -> list[str]:
    """What a user types to get this file."""
    group, _, name = file.removesuffix(".yaml").rpartition("/")
    return [f"{group}={name}"] if group else []


@functools.cache
def composed(*overrides: str) -> str:
    """The composed config as yaml; text, so that no test can change what another one gets."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_yaml(compose("config", overrides=list(overrides)), resolve=True)


def plain_of(*overrides: str) -> dict[str, Any]:
    """The composed config as plain values."""
    plain = OmegaConf.to_container(OmegaConf.create(composed(*overrides)))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def config_of(*overrides: str) -> RunConfig:
    return RunConfig.from_mapping(plain_of(*overrides))


Trained = tuple[Summary, bool]
"""The summary of a run, and whether its parameters moved."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunConfig], Trained]:
    """Builds data and module and trains; once, however many files compose the same run."""
    taken: dict[str, Trained] = {}

    def take(config: RunConfig) -> Trained:
        if (key := repr(config)) not in taken:
            here = tmp_path_factory.mktemp("trained")
            config = dataclasses.replace(config, report="brief")  # test_diagnostics looks at pictures
            start = build_module(config, build_data(config).facts)
            summary = train(config, here / "run", here)
            end = torch.load(here / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            moved = any(not torch.equal(end[name], value) for name, value in start.state_dict().items())
            taken[key] = (summary, moved)
        return taken[key]

    return take


def test_the_files_are_found() -> None:
    # All tests below run over what is found: were nothing found, they would all pass.
    assert {"config.yaml", "dataset/toy.yaml", "optimizer/sgd.yaml", "schedule/constant.yaml"} <= set(FILES)
    assert len(options("experiment")) >= 1


@pytest.mark.parametrize("file", FILES)
def test_the_first_line_says_what_the_file_is(file: str) -> None:
    lines = (CONF / file).read_text(encoding="utf-8").splitlines()
    # Hydra's own directive must stand first where it is needed, and tells a reader nothing.
    first = next(line for line in lines if not line.startswith("# @package"))
    assert first.startswith("# ")
    assert len(first.split()) >= 4
    assert first.rstrip().endswith(".")


@pytest.mark.parametrize("file", FILES)
def test_no_file_names_code_to_be_run(file: str) -> None:
    # Config selects by name and code builds: so a stranger's config is only data.
    assert "_target_" not in (CONF / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", sorted(set(FILES) - FRAGMENTS))
def test_every_file_composes_and_satisfies_every_constraint(file: str) -> None:
    config = config_of(*chosen_by(file))
    group, _, name = file.removesuffix(".yaml").rpartition("/")
    if group in ("dataset", "optimizer", "schedule"):
        assert getattr(config, group)["name"] == name


# Recipes are run whole, with the results that they expect, by tests/test_reference_results.py.
@pytest.mark.parametrize("file", [file for file in sorted(set(FILES) - FRAGMENTS) if "experiment/" not in file])
def test_every_file_builds_and_trains(file: str, trained: Callable[[RunConfig], Trained]) -> None:
    config = config_of(*chosen_by(file))
    exact = config.optimizer["name"] in config_module.EXACT
    # A first-order optimizer has an epoch; an exact one as many as it takes to an optimum, which a penalty makes.
    config = dataclasses.replace(config, l2=0.01) if exact else dataclasses.replace(config, max_epochs=1)
    if config.backbone["name"] != "none":
        pytest.skip("a backbone needs images, and those of the default run are none")
    if config.dataset["name"] in NEED_FILES:
        pytest.skip("its files must be downloaded first")
    summary, moved = trained(config)
    assert summary.status == "finished"
    assert moved
    if exact:
        assert 1 < summary.epochs < config.max_epochs
        assert summary.optimality.converged
    else:
        assert summary.epochs == 1


@pytest.mark.parametrize("name", options("dataset"))
def test_a_dataset_has_a_learning_rate_for_every_first_order_optimizer(name: str) -> None:
    rates = plain_of(f"dataset={name}")["dataset"]["recipe"]["lr"]
    assert sorted(rates) == sorted(OPTIMIZERS)
    assert min(rates.values()) > 0


@pytest.mark.parametrize("name", options("dataset"))
def test_tables_have_an_exact_optimizer_and_the_rest_stochastic_gradient_descent(name: str) -> None:
    config = config_of(f"dataset={name}")
    assert config.optimizer["name"] == ("auto" if name in TABLES else "sgd")


@pytest.mark.parametrize("name", options("dataset"))
def test_the_penalty_of_tables_is_chosen_and_the_rest_have_none(name: str) -> None:
    chosen = name in TABLES - {"blobs"}  # the best classifier of those is known, and it is not penalized
    assert config_of(f"dataset={name}").l2 == (None if chosen else 0)
    assert config_of(f"dataset={name}", "l2=0.25").l2 == 0.25


@pytest.mark.long
@pytest.mark.parametrize("dataset", ["mnist", "image_folder"])
def test_frozen_features_are_fitted_as_a_table_is(dataset: str) -> None:
    config = config_of(f"dataset={dataset}", "backbone=torchvision")
    assert (config.optimizer["name"], config.lr, config.typed_l2) == ("auto", None, "auto")
    config = config_of(f"dataset={dataset}", "backbone=torchvision", "optimizer=sgd", "l2=0")
    assert (config.optimizer["name"], config.lr, config.l2) == ("sgd", 0.03, 0)


@pytest.mark.parametrize("name", sorted(config_module.EXACT))
@pytest.mark.parametrize("dataset", ["toy", "digits", "mnist"])
def test_an_exact_optimizer_has_no_learning_rate_whatever_the_dataset(dataset: str, name: str) -> None:
    config = config_of(f"dataset={dataset}", f"optimizer={name}")
    assert (config.optimizer, config.lr, config.batch_size, config.max_epochs) == ({"name": name}, None, "full", 1000)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_learning_rate_is_the_one_that_the_dataset_has_for_the_optimizer(name: str) -> None:
    config = config_of("dataset=digits", f"optimizer={name}")
    assert config.lr == config.dataset["recipe"]["lr"][name]


@pytest.mark.parametrize("dataset", ["toy", "mnist", "table"])
def test_the_command_line_wins_over_the_recipe_of_a_dataset(dataset: str) -> None:
    typed = ["lr=0.125", "batch_size=7", "max_epochs=3", "reduction=sum"]
    config = config_of(f"dataset={dataset}", "optimizer=sgd", *typed)
    assert (config.lr, config.batch_size, config.max_epochs, config.reduction) == (0.125, 7, 3, "sum")
    assert config_of(f"dataset={dataset}", "optimizer=newton", "max_epochs=3").max_epochs == 3


def test_the_default_run_is_the_recipe_of_the_tutorial() -> None:
    config = config_of()
    assert (config.dataset["name"], config.optimizer["name"], config.schedule["name"]) == ("toy", "sgd", "constant")
    assert (config.lr, config.reduction, config.batch_size, config.max_epochs) == (0.01, "sum", "full", 1000)
    assert (config.init, config.l2, config.l1, config.seed) == ("zeros", 0.0, 0.0, 0)


# The names on disk and the names in the code


def test_the_datasets_on_disk_are_the_datasets_in_the_code() -> None:
    assert options("dataset") == sorted(DATASETS)


def test_the_optimizers_on_disk_are_the_optimizers_in_the_code() -> None:
    assert options("optimizer") == sorted([*OPTIMIZERS, *EXACT, "auto"]) == sorted(SECTIONS["optimizer"])


def test_the_schedules_on_disk_are_the_schedules_in_the_code() -> None:
    assert options("schedule") == sorted(SCHEDULES) == sorted(SECTIONS["schedule"])


def test_the_settings_of_the_file_are_those_of_the_code_with_the_same_defaults_in_the_same_order() -> None:
    plain = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    assert isinstance(plain, dict)
    assert {key: plain[key] for key in plain if key not in ("defaults", "hydra")} == {
        key: setting.default for key, setting in SETTINGS.items()
    }
    assert [key for key in plain if key in SETTINGS] == list(SETTINGS)
    assert set(plain_of()) == set(RunConfig.__dataclass_fields__)


@pytest.mark.parametrize("key", SETTINGS)
def test_a_default_satisfies_its_constraint(key: str) -> None:
    setting = SETTINGS[key]
    default = plain_of()[key] if str(setting.default).startswith("${") else setting.default
    check(key, default, setting.constraint)


@pytest.mark.parametrize(("section", "name"), [(section, name) for section in SECTIONS for name in options(section)])
def test_a_file_of_a_section_has_every_argument_of_the_choice(section: str, name: str) -> None:
    # An argument that is missing on disk could not be set on the command line.
    assert set(plain_of(f"{section}={name}")[section]) == {"name", *SECTIONS[section][name]}


@pytest.mark.parametrize("name", options("schedule"))
def test_the_default_arguments_of_a_schedule_reach_it(name: str) -> None:
    schedule = config_of(f"schedule={name}").schedule
    # Whatever it does later, each schedule starts from lr itself.
    assert lr_factor(schedule, epoch=0, max_epochs=10) == 1.0
    signature = inspect.signature(SCHEDULES[name]).parameters
    assert {key: signature[key].default for key in schedule if key != "name"} == {
        key: value for key, value in schedule.items() if key != "name"
    }


@pytest.mark.parametrize("name", options("dataset"))
def test_a_dataset_takes_the_arguments_that_its_file_has(name: str) -> None:
    assert build_data(config_of(f"dataset={name}")).dataset.name == name


@pytest.mark.parametrize("name", options("dataset"))
def test_every_dataset_takes_what_is_said_of_its_rows(name: str) -> None:
    assert set(DATASET_SETTINGS) <= set(plain_of(f"dataset={name}")["dataset"])


# Experiments


@pytest.mark.parametrize("name", options("experiment"))
def test_an_experiment_says_what_it_is_expected_to_reach(name: str) -> None:
    expected = dict(config_of(f"experiment={name}").expected)
    assert expected.pop("tolerance") > 0
    assert len(expected) >= 1
    for key in expected:
        metric, split = key.split("/")
        assert metric in ("loss", "accuracy", "auroc")
        assert split in SPLITS
