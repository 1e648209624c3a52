"""The package as a user gets it: `import logreg`, its public names, and what the wheel holds."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import logreg

PROJECT = Path(__file__).parents[1]

PUBLIC = [
    "LogisticModule",
    "LogisticRegression",
    "LogisticRegressionCV",
    "Objective",
    "TableEncoder",
    "TensorDataModule",
    "build_dataset",
    "fit",
]


def in_a_process_of_its_own(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    held: list[str] = json.loads(done.stdout)
    return held


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import logreg, json; print(json.dumps([*set(sys.modules) - before]))"
    imported = in_a_process_of_its_own(code)
    assert "logreg" in imported
    assert not [name for name in imported if name.startswith("logreg.")]
    assert not {"torch", "lightning", "numpy", "hydra", "omegaconf"} & {name.partition(".")[0] for name in imported}


def test_the_public_names_are_listed_before_they_are_imported() -> None:
    assert set(PUBLIC) <= set(in_a_process_of_its_own("import logreg, json; print(json.dumps(dir(logreg)))"))
    assert sorted([*PUBLIC, "__version__"]) == sorted(logreg.__all__)


def test_the_public_names_are_what_they_are_called() -> None:
    from logreg import LogisticModule, Objective, TensorDataModule, build_dataset, fit
    from logreg.data import TensorDataModule as Data
    from logreg.data import build_dataset as build
    from logreg.losses.objective import Objective as Minimized
    from logreg.solvers.fit import fit as function
    from logreg.training.module import LogisticModule as Module

    assert (LogisticModule, TensorDataModule, build_dataset, fit) == (Module, Data, build, function)
    assert Objective is Minimized


def test_type_checkers_see_the_names_that_are_imported_at_their_first_use() -> None:
    tree = ast.parse(Path(logreg.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("logreg")
        for alias in node.names
    }
    assert seen == logreg._MODULES


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'logreg' has no attribute 'fits'$"):
        logreg.fits  # noqa: B018  # looking is what raises


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What the wheel holds, but for its metadata; built from a copy without the rest of the checkout."""
    here = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, here)
    for name in ("src", "conf"):
        shutil.copytree(PROJECT / name, here / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", "built"]
    subprocess.run(command, cwd=here, check=True, capture_output=True, timeout=120)
    return {path.relative_to(here / "built").as_posix() for path in (here / "built").rglob("*") if path.is_file()}


@pytest.mark.long
def test_the_wheel_holds_the_package_and_the_configs_and_nothing_else(wheel_files: set[str]) -> None:
    package = {path.relative_to(PROJECT / "src").as_posix() for path in (PROJECT / "src" / "logreg").rglob("*.py")}
    configs = {f"logreg/{path.relative_to(PROJECT).as_posix()}" for path in (PROJECT / "conf").rglob("*.yaml")}
    assert {"logreg/conf/config.yaml", "logreg/conf/dataset/base/rows.yaml"} <= configs
    assert wheel_files == {*package, *configs, "logreg/py.typed"}
