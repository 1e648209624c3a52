"""The architecture: imports go downward only, and no file knows the machine it was written on."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from logreg.__main__ import COMMANDS

PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src" / "logreg"

LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "csr",
        "errors",
        "constraints",
        "fast_import",
        "hardware",
        "invocation",
        "launchers",
        "sections",
        "settings",
        "shared_memory",
        "terminal",
        "stored_form",
    ),
    ("facts", "files", "processes", "rows", "losses", "config", "run_folder"),
    ("data", "solvers"),
    ("evaluation", "inference", "optimality"),
    ("training",),
    ("reports", "export", "estimators"),
    ("run", "sweeps"),
    ("commands",),
    ("__main__",),
)
"""From the bottom up: what a module may import lies in its own layer or below."""

BASE = {
    "losses": {"torch"},
    "config": set(),
    "errors": set(),
    "constraints": set(),
    "invocation": set(),
    "sections": set(),
    "settings": set(),
    "terminal": {"rich"},
    "hardware": set(),
    "launchers": set(),
}
"""What each may import besides the standard library and the others."""


class Import(NamedTuple):
    """One module that an import statement names."""

    by: str
    """The importing module, without "logreg.": "run", or "data.base"."""
    of: str
    """The imported module, in full: "torch.nn", or "logreg.data.base"."""
    lazy: bool
    """Whether the import is inside a function."""


def name_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name: file for file in sorted(SOURCE.rglob("*.py")) if (name := name_of(file))}
"""Every module but the package itself, whose file only names what there is."""


def imports_in(name: str, tree: ast.AST, lazy: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(name, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relative to itself"
            module = node.module or ""
            for alias in node.names:
                # `from logreg import figures` imports a module, `from logreg.data import Table` a thing in one
                inner = f"{module}.{alias.name}".removeprefix("logreg.")
                yield Import(name, f"logreg.{inner}" if inner in MODULES else module, lazy)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports_in(name, node, lazy or inside)


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module: parsing takes a second, which no other test should wait for."""
    return {name: ast.parse(file.read_text(encoding="utf-8"), str(file)) for name, file in MODULES.items()}


@pytest.fixture(scope="module")
def imports(trees: dict[str, ast.Module]) -> list[Import]:
    return [found for name, tree in trees.items() for found in imports_in(name, tree)]


@pytest.fixture(scope="module")
def ours(imports: list[Import]) -> list[Import]:
    """Imports of one module by another."""
    return [found._replace(of=found.of.removeprefix("logreg.")) for found in imports if found.of.startswith("logreg.")]


def folder_of(module: str) -> str:
    """The folder of a module, or the file itself where it lies at the top."""
    return module.partition(".")[0]


def layer_of(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if folder_of(module) in names)


def test_every_folder_has_its_layer() -> None:
    names = [name for names in LAYERS for name in names]
    assert sorted(names) == sorted({folder_of(name) for name in MODULES})


def test_the_walk_sees_imports_at_the_top_and_inside_functions(imports: list[Import], ours: list[Import]) -> None:
    # else the tests below would hold of anything
    assert Import("run.train", "run.building", lazy=False) in ours
    assert Import("commands.train", "run.train", lazy=True) in ours
    assert any(found.of.partition(".")[0] == "torch" for found in imports)


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    # `import logreg.commands.train` runs it first, and every command must answer at once
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and is_for_type_checkers(node))]
    assert {found.of for found in imports_in("", tree)} == {"importlib", "typing"}


def is_for_type_checkers(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_no_command_imports_another_command(ours: list[Import]) -> None:
    commands = {f"commands.{name}" for name in COMMANDS}
    assert commands <= set(MODULES)
    assert [found for found in ours if {found.by, found.of} <= commands and found.by != found.of] == []


def test_imports_go_downward_only(ours: list[Import]) -> None:
    assert [found for found in ours if layer_of(found.of) > layer_of(found.by)] == []


def test_no_two_modules_import_each_other(ours: list[Import]) -> None:
    below: dict[str, set[str]] = {}
    for found in ours:
        if found.of != found.by:
            below.setdefault(found.by, set()).add(found.of)
    # raises CycleError, which names the circle
    TopologicalSorter(below).prepare()


@pytest.mark.parametrize("parent", ["", "data", "optimality", "solvers"])
def test_no_two_folders_import_each_other(parent: str, ours: list[Import]) -> None:
    inside = f"{parent}." if parent else ""
    below: dict[str, set[str]] = {}
    for found in ours:
        if found.by.startswith(inside) and found.of.startswith(inside):
            by, of = (folder_of(name.removeprefix(inside)) for name in (found.by, found.of))
            if by != of:
                below.setdefault(by, set()).add(of)
    TopologicalSorter(below).prepare()


def test_every_folder_with_folders_inside_is_looked_into() -> None:
    parents = {name.partition(".")[0] for name in MODULES if name.count(".") > 1}
    assert parents == {"data", "optimality", "solvers"}


def test_data_and_solvers_do_not_know_each_other(ours: list[Import]) -> None:
    # They meet in Batch and DataFacts alone, so either can be exchanged; so do data and the Lightning module.
    pairs = {(folder_of(found.by), folder_of(found.of)) for found in ours}
    assert pairs & {("data", "solvers"), ("solvers", "data"), ("data", "training"), ("training", "data")} == set()


def test_what_docstrings_name_is_where_they_say() -> None:
    files = {**MODULES, "": SOURCE / "__init__.py"}
    text = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    named = [(by, of) for by in text for of in re.findall(r"(?<!`)`logreg\.([\w.]+)`", text[by])]
    assert ("optimality.certificate", "solvers.bounds.bound") in named

    def is_there(of: str) -> bool:
        parent, _, name = of.rpartition(".")
        return of in text or bool(re.search(rf"\b{name}\b", text.get(parent, "")))

    assert [(by, of) for by, of in named if not is_there(of)] == []


INSIDE_DATA = ("raw", "selected", "tables", "matrix", "dataset", "_held", "_done", "_blocks")
"""Attributes of `TensorDataModule`, of its tables and of its loaders that give all rows at once."""


def uses_of_rows(name: str, tree: ast.AST) -> list[str]:
    """Expressions that reach for rows behind the methods of `TensorDataModule`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in INSIDE_DATA:
            owner = ast.unparse(node.value)
            settings = node.attr == "dataset" and owner.endswith(("config", "summary"))  # a section of these
            # `SeparationRows.raw`, `pickle.PickleBuffer.raw` and other attributes that share a name
            own = owner in ("self", "self.rows", "array")
            if not settings and not own:
                found.append(f"{name}: {ast.unparse(node)}")
    return found


@pytest.mark.long
def test_only_data_holds_tables(trees: dict[str, ast.Module]) -> None:
    # Rows that are streamed or shared among processes have no table in memory: callers ask for what they need.
    assert uses_of_rows("x", ast.parse("data.tables['train'].matrix; data.blocks(split).dataset; config.dataset"))
    found = [use for name, tree in trees.items() if folder_of(name) != "data" for use in uses_of_rows(name, tree)]
    assert found == []


@pytest.mark.parametrize("module", BASE)
def test_the_base_stands_on_torch_and_the_standard_library_alone(
    module: str, imports: list[Import], ours: list[Import]
) -> None:
    theirs = {
        found.of.partition(".")[0] for found in imports if folder_of(found.by) == module and found.of[:7] != "logreg."
    }
    assert theirs - set(sys.stdlib_module_names) <= BASE[module]
    its_own = {folder_of(found.of) for found in ours if folder_of(found.by) == module}
    with_torch = bool(BASE[module])
    # mathematics imports mathematics, the words of the command line import words
    assert its_own <= {name for name, others in BASE.items() if bool(others) == with_torch}


@pytest.mark.long
def test_only_losses_know_the_names_of_losses(trees: dict[str, ast.Module]) -> None:
    # a name in another file would be a branch that the next loss must add to
    named = [
        (name, node.lineno)
        for name, tree in trees.items()
        if folder_of(name) not in ("losses", "config")  # config.py types the setting, without torch
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in ("bce", "cross_entropy")
    ]
    assert named == []


def test_torchvision_is_imported_without_the_compiler(imports: list[Import]) -> None:
    assert {found.by for found in imports if found.of.partition(".")[0] == "torchvision"} == {"fast_import"}


ACROSS = {
    "commands/command_line_errors": "what each command says to each mistake",
    "commands/many_levels": "tables with a column of many levels, from training to predictions and exported models",
    "data/bad_data": "tables that cannot be learned from, by every way to them",
    "data/encoding/wide_categories": "what is learned of columns of many levels, and how they are encoded",
    "data/formats/limits": "files that claim to be larger than they are, in every format",
    "data/sources/text_source": "the source data.sources.text; the file of data.encoding.text has its name",
    "losses/losses": "what holds of every loss",
    "losses/own_loss": "a loss that is none of ours",
    "data/mapped": "tables in many files, in memory and mapped",
    "data/mapped_features": "matrices in many files, in memory and mapped",
    "data/object_storage": "tables in S3",
    "data/stratified_folds": "the folds of data.folds; the file of solvers.paths.folds has their name",
    "run/run_lifecycle": "train, stop, go on, load elsewhere",
    "run/shared_runs": "whole runs of several processes, with every optimizer, loss and kind of data",
    "run/sparse_runs": "sparse features from the files through every command",
    "run/runs_with_links": "whole runs, and the commands after them, with each link",
    "run/text_runs": "text from the files through every command",
    "run/very_many_classes": "the memory of a run and of the commands after it, and what they list",
    "training/shared_batches": "first-order optimizers, their decisions and checkpoints in several processes",
    "solvers/passes/reduction": "what holds of every pass when several processes share the rows",
    "solvers/sparse": "sparse rows in every pass, solver, bound and search",
}
"""Files of tests in a folder of the source that are about more than one module of it."""


def test_tests_lie_where_their_source_lies() -> None:
    # files at the top of tests/ are about the whole project; attacks/ and mutation/ are programs of their own
    tests = PROJECT / "tests"
    found = [file.relative_to(tests) for file in sorted(tests.glob("*/**/test_*.py"))]
    found = [file for file in found if file.parts[0] not in ("attacks", "mutation")]
    about = [str(file.with_name(file.stem.removeprefix("test_"))) for file in found]
    assert [name for name in about if not (SOURCE / f"{name}.py").is_file() and name not in ACROSS] == []
    assert ACROSS.keys() <= set(about)


def files_of_the_repository() -> list[Path]:
    """All that git has, and what it would be given next."""
    listed = subprocess.run(
        ["git", "-C", str(PROJECT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [PROJECT / name for name in listed.stdout.split("\0") if name and (PROJECT / name).is_file()]


def test_what_a_checker_is_told_to_ignore_has_its_reason() -> None:
    files = [file for file in files_of_the_repository() if file.suffix == ".py"]
    pattern = re.compile(r"# (?:noqa|type: ignore)(?!.*# )[^\"\n]*$", re.MULTILINE)
    assert pattern.search("import x  # " + "noqa: F401")
    assert [(str(file), found[0]) for file in files for found in pattern.finditer(file.read_text("utf-8"))] == []


# Written in pieces, so that this file is not the one that is found.
FORBIDDEN = {
    "a path of the machine it was made on": rf"(?<![\w.~-])/(?:{'|'.join(('work', 'home', 'root', 'Users'))})/",
    "a path of a Windows machine": r"\b[A-Z]:\\" + "Users",
    "the address of a package registry": r"|".join(
        re.escape(".".join(words))
        for words in (
            ("pypi", "org"),
            ("files", "pythonhosted", "org"),
            ("download", "pytorch", "org"),
            ("conda", "anaconda", "org"),
        )
    ),
    "an option that names a package registry": "--(?:extra-)?" + "index" + "-url",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    files = files_of_the_repository()
    assert PROJECT / "pyproject.toml" in files
    pattern = re.compile(FORBIDDEN[what].encode())
    assert [(str(file), found.group()) for file in files for found in pattern.finditer(file.read_bytes())] == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of the machine it was made on", "root: /" + "home/someone/data"),
        ("the address of a package registry", "https://" + "pypi" + ".org/simple"),
        ("an option that names a package registry", "pip install --extra-" + "index" + "-url x"),
    ],
)
def test_what_is_forbidden_would_be_found(what: str, text: str) -> None:
    assert re.search(FORBIDDEN[what], text)
