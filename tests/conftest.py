"""Fixtures shared by all tests: seeds, no network, the markers of slow tests and of those on a GPU."""

from __future__ import annotations

import copy
import dataclasses
import gc
import logging
import os
import pickle
import shlex
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two files at a time on two cores: threads would only fight

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch
    from forks import Server

    from models import Models
    from whole_runs import Answer

settings.register_profile("untimed", deadline=None)  # on a shared machine the duration of a test means nothing
settings.load_profile("untimed")

MNIST_ROOTS = (Path(__file__).parents[1] / "data", Path(__file__).parents[2] / "shared" / "data" / "mnist")
"""Folders where the true MNIST may lie: in the project's own data folder, or beside the checkout."""

TABLE_ROOTS = (Path(__file__).parents[1] / "data" / "tables", Path(__file__).parents[2] / "shared" / "data" / "tables")
"""Folders where diamonds.csv and planets.csv may lie."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that train for a minute")
    parser.addoption("--refresh-docs", action="store_true", help="rewrite the outputs in README and docs that changed")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses") and not hasattr(config, "workerinput"):
        return  # it only starts the processes that run the tests
    from logreg.fast_import import import_lightning, import_torchvision

    gc.disable()  # of the millions of objects that imports and the collection of tests make, nearly all stay
    import_lightning()  # as every script does, which also starts the tests seconds sooner
    import_torchvision()


LONGEST = (
    *("test_docs", "test_run_lifecycle", "test_coefficients", "test_offset", "test_cross_validated"),
    *("test_cross_validating", "test_search", "test_bootstrapping", "test_command_line_errors", "test_sparse_runs"),
    *("test_several_processes", "test_shared_runs", "test_memory", "test_export", "test_logistic_regression"),
    *("test_table", "test_fit", "test_path_selection", "test_runs_with_links", "test_very_many_classes", "test_mapped"),
    *("test_checking", "test_bad_data"),
)
"""Files that begin first, in this order, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: takes a minute or needs real data; run with --slow"))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="gpu: torch.cuda finds no GPU"))


def pytest_collection_finish() -> None:
    gc.freeze()  # which spares the collector what stays anyway
    gc.set_threshold(10_000, 10, 10)  # by default, of 700, it takes 5 % of the time of tests/test_offset.py
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries would complain of what they find at the end of the process


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test, and no process that it starts, reaches further than this machine."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # no server listens at this port
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1,localhost")
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        is_file = isinstance(address, str | bytes)  # of processes on this machine, such as multiprocessing's forkserver
        if not is_file and (not isinstance(address, tuple) or address[0] not in ("127.0.0.1", "::1")):
            raise AssertionError("a test reached for the network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Replaces fsync by nothing: the power stays on, and the writes of a killed process survive without fsync."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def conf_is_read_once() -> Iterator[None]:
    """Hydra reads each file of conf/, and lists and merges each choice of them, once, not in each of 1000 commands."""
    from hydra._internal import config_loader_impl
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import ConfigRepository
    from hydra._internal.defaults_list import Overrides, create_defaults_list

    from logreg.commands.config_files import CONF

    load, compose, known = ConfigRepository.load_config, ConfigLoaderImpl._compose_config_from_defaults_list, {}

    def once(repository: Any, what: str, make: Callable[[], Any]) -> Any:
        sources = [(source.scheme(), source.path) for source in repository.get_sources()]
        if any(scheme == "file" and Path(path) != CONF for scheme, path in sources):  # of a test, which may change them
            return make()
        key = (*sources, what)
        if key not in known:
            known[key] = pickle.dumps(make())
        return pickle.loads(known[key])

    def list_once(repo: Any, config_name: str, overrides_list: list[Any], **how: bool) -> Any:
        values = Overrides(repo, overrides_list).config_overrides  # which change no list
        choices = [one for one in overrides_list if not any(one is other for other in values)]
        key = repr((config_name, [one.input_line for one in choices], how))
        found = once(repo, key, lambda: create_defaults_list(repo, config_name, choices, **how))
        return dataclasses.replace(found, config_overrides=values)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            ConfigRepository,
            "load_config",
            lambda self, config_path: once(self, config_path, lambda: load(self, config_path)),
        )
        patched.setattr(
            ConfigLoaderImpl,
            "_compose_config_from_defaults_list",
            lambda self, defaults, repo: once(repo, repr(defaults), lambda: compose(self, defaults, repo)),
        )
        patched.setattr(config_loader_impl, "create_defaults_list", list_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def configs_are_copied_and_written_fast() -> Iterator[None]:
    """What Hydra and OmegaConf do slowly in each command: copies, the parsing of the same overrides, and YAML."""
    import yaml  # type: ignore[import-untyped]  # PyYAML brings no types
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import omegaconf
    from omegaconf._utils import get_omega_conf_dumper
    from omegaconf.base import Metadata

    parse_rule = OverridesParser.parse_rule
    parse = cache(lambda text, rule: parse_rule(OverridesParser.create(), text, rule))

    def copied(self: Metadata, memo: dict[int, Any]) -> Metadata:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)  # types and keys, which do not change
        new.flags = None if self.flags is None else dict(self.flags)
        new.resolver_cache = copy.deepcopy(self.resolver_cache) if self.resolver_cache else defaultdict(dict)
        return new

    def begin(self: CachingConfigRepository, delegate: Any) -> None:
        self.delegate, self.cache = copy.copy(delegate), {}  # whose list of sources is made anew, never changed

    class Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]  # as above; without libyaml the slow one
        yaml_representers = get_omega_conf_dumper().yaml_representers

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Metadata, "__deepcopy__", copied, raising=False)
        patched.setattr(CachingConfigRepository, "__init__", begin)
        patched.setattr(OverridesParser, "parse_rule", lambda self, text, rule: copy.copy(parse(text, rule)))
        patched.setattr(omegaconf, "get_omega_conf_dumper", lambda: Dumper)
        yield


@pytest.fixture(scope="session", autouse=True)
def installed_packages_are_searched_once() -> Iterator[None]:
    """Lightning looks for callbacks among the entry points of all installed packages, for each Trainer anew."""
    from importlib.metadata import entry_points

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lightning.fabric.utilities.registry.entry_points", cache(entry_points))
        yield


@pytest.fixture(autouse=True)
def no_log_of_earlier_runs() -> Iterator[None]:
    """Closes the logs of runs in this process: Hydra leaves them open, also where their folders are removed."""
    yield
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture
def draw() -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def run_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[[str], Answer]]:
    """Runs a command of `scripts/train.py` in this process, which has imported torch, and restores its state.

    Without pictures, which take longer than a small run, unless ``report`` or an option is typed.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from logreg.commands.train import main
    from whole_runs import Answer, left_in, working_in

    def type_(command: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["train.py"])
        capfd.readouterr()
        GlobalHydra.instance().clear()
        words = shlex.split(command)
        code = main(words if any(word.startswith(("-", "report=")) for word in words) else [*words, "report=brief"])
        return Answer(code, *capfd.readouterr(), left_in(tmp_path), frozenset())

    with working_in(tmp_path):
        yield type_
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    for root in MNIST_ROOTS:
        if (root / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
            return root
    pytest.skip("the true MNIST is not on this disk")


@pytest.fixture(scope="session")
def true_tables() -> Path:
    for root in TABLE_ROOTS:
        if (root / "diamonds.csv").exists() and (root / "planets.csv").exists():
            return root
    pytest.skip("diamonds.csv and planets.csv are not on this disk")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Server of the attacks: forks of one process that has imported the modules of all commands."""
    from forks import serving

    with serving() as one:
        yield one


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Models that were trained once; tests may not change their runs."""
    from models import Models

    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def run_command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs a command of any script in this process, in a folder: ``run_command(here, "predict", "hours=3")``."""
    from importlib import import_module

    from hydra.core.global_hydra import GlobalHydra

    from whole_runs import Answer, left_in, working_in

    def type_(here: Path, script: str, *arguments: str) -> Answer:
        capfd.readouterr()
        GlobalHydra.instance().clear()
        with working_in(here):
            code = import_module(f"logreg.commands.{script}").main(arguments)
        return Answer(code, *capfd.readouterr(), left_in(here), frozenset())

    return type_


@pytest.fixture(autouse=True)
def general_solvers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No problem counts as small or medium in the tests of the other solvers, whose problems nearly all are."""
    if "solvers" in request.path.parts and not request.path.stem.startswith(("test_small", "test_choose")):
        monkeypatch.setattr("logreg.solvers.choose.MAX_SMALL_NUMEL", -1)
        monkeypatch.setattr("logreg.solvers.choose.MAX_SMALL_SOFTMAX_NUMEL", -1)
        if request.path.stem != "test_medium":
            monkeypatch.setattr("logreg.solvers.choose.MAX_MEDIUM_NUMEL", -1)
