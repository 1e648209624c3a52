"""Mutation testing: does a test fail when the code is wrong?

    python tests/mutation/mutate.py --number 300            # samples mutants, and runs those that have no result yet
    python tests/mutation/mutate.py --number 300 --again    # once more those that survived, after tests were added
    python tests/mutation/mutate.py --number 300 --report   # the table, and the survivors

Everything lies in runs/mutation/: a copy of the checkout, which is what is changed; what each test calls (calls.json);
a line for each mutant (results.jsonl).

A mutant is one file with one small fault, made by an operator of Cosmic Ray or one of those below.  It is killed if a
test of the default suite fails, does not end in time, or cannot even be collected.

The default suite is run once with a tracer that says which functions each test calls.  A mutant then meets the tests
that call its function: first those of the test file of its name and of the quickest other files, then all the others.
A test that is not known to call the function (because a fixture or a cache of an earlier test did) is not run, so the
share killed is a lower bound.

One process imports the packages that take long to import, and forks a child for each mutant.  So this needs an
operating system that can fork.

References:
    DeMillo, Lipton and Sayward (1978), Hints on test data selection, Computer 11(4).
    Papadakis et al. (2019), Mutation testing advances, Advances in Computers 112.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import difflib
import hashlib
import importlib
import inspect
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.python.tree import Keyword, Name

FILES = (
    "src/logreg/rows.py",
    "src/logreg/losses/*.py",
    *(
        f"src/logreg/evaluation/{name}.py"
        for name in ("scores", "held_out", "predicted", "intervals", "ranking_scores", "threshold", "temperature")
    ),
    "src/logreg/optimality/*.py",
    "src/logreg/optimality/separation/*.py",
    "src/logreg/solvers/*.py",
    "src/logreg/solvers/*/*.py",
)
"""What is mutated: loss, objective, scores, calibration, separation, certificates and solvers."""

TUNING = frozenset(
    {
        "BLOCK_BYTES",
        "BLOCK_NUMEL",
        "BLOCK_ROWS",
        "GRAM_BLOCK_BYTES",
        "LOGITS_BYTES",
        "MAX_COPIED_NUMBERS",
        "MAX_HINGE_COEFFICIENTS",
        "MAX_NUMEL",
        "MAX_SAMPLE_NUMEL",
        "MIN_ROWS_PER_THREAD",
        "MIN_ROWWISE_OUTPUTS",
        "ONE_THREAD_FLOP",
        "PART_BYTES",
        "TRIANGLE_STRIP_COLUMNS",
    }
)
"""Constants that set the size of blocks or the number of threads: another value changes time or memory, but no answer.
They are not mutated."""

PRELOAD = (
    "hypothesis",
    "torch",
    "lightning.pytorch",
    "torchmetrics",
    "torchvision",
    "torch.utils.tensorboard",
    "hydra",
    "scipy.optimize",
    "scipy.sparse",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.datasets",
    "sklearn.metrics",
    "matplotlib.figure",
    "pandas",
    "pyarrow.dataset",
    "statsmodels.api",
    "mpmath",
    "rich",
    "onnx",
    "onnxruntime",
    "optuna",
)
"""Packages that tests import, as far as they are installed."""

NEAREST = 3
"""Test files that a mutant meets first."""

TIME_LIMIT_FACTOR = 5.0
"""Ratio of the time limit of a mutant's run to the seconds that its tests took when they were traced."""

TIME_LIMIT_EXTRA_S = 30.0
"""Seconds that are added to the time limit of a mutant's run, for the start of the process."""

MEMORY = 8 * 2**30
"""Bytes of data that a mutant may hold."""


def _replace(node: Any, code: str) -> Any:
    return Name(code, node.start_pos, node.get_first_leaf().prefix)


PAIRS = (
    ("min", "max"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("clamp_min", "clamp_max"),
    ("any", "all"),
    ("floor", "ceil"),
    ("sum", "mean"),
)
OTHER = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}


class SwapName(Operator):
    """Takes the other of a pair: the least for the largest, any for all."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Where such a name is called."""
        if isinstance(node, Name) and node.value in OTHER:
            after = node.get_next_leaf()
            if after is not None and after.value == "(" and node.parent.type in ("trailer", "atom_expr", "power"):
                yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The other name."""
        return _replace(node, OTHER[node.value])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        """For Cosmic Ray."""
        return (Example("x.max()", "x.min()"),)


class DropKeyword(Operator):
    """Calls without one of the arguments that are passed by name."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Where such an argument stands, unless it only asks for a check."""
        if node.type == "argument" and node.children[1] == "=" and node.children[0].value != "strict":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Nothing in its place: an empty dictionary, unpacked, which may stand anywhere in a call."""
        return _replace(node, "**{}")

    @classmethod
    def examples(cls) -> Iterable[Example]:
        """For Cosmic Ray."""
        return (Example("f(x, dim=1)", "f(x, **{})"),)


class SwapArguments(Operator):
    """Calls with its first two positional arguments the other way around."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Where at least two are passed."""
        if node.type == "arglist" and node.parent.type == "trailer":
            first, second = node.children[0], node.children[2]
            if all(child.type != "argument" for child in (first, second)) and first.get_code() != second.get_code():
                yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Swaps them."""
        first, second = node.children[0], node.children[2]
        node.children[0] = _replace(first, second.get_code(include_prefix=False))
        node.children[2] = _replace(second, first.get_code(include_prefix=False))
        return node

    @classmethod
    def examples(cls) -> Iterable[Example]:
        """For Cosmic Ray."""
        return (Example("f(x, y)", "f(y, x)"),)


class DeleteStatement(Operator):
    """Leaves out a call made for its effect, an update of a variable, or an error that is raised."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Where one stands; deleting the first assignment to a variable would be found by any test."""
        if node.parent is None or node.parent.type not in ("simple_stmt", "suite", "file_input"):
            return
        call = node.type in ("atom_expr", "power") and node.children[-1].get_code().endswith(")")
        update = node.type == "expr_stmt" and (
            node.children[1].type == "augassign" or node.children[1].get_code().strip().endswith("=")
        )
        if update and node.children[1] == "=":
            targets = {name.value for name in _names(node.children[0])}
            update = bool(targets & {name.value for name in _names(node.children[2])})
        if call or update or node.type == "raise_stmt":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """``pass`` in its place."""
        return Keyword("pass", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        """For Cosmic Ray."""
        return (Example("x += 1", "pass"),)


class ReturnNone(Operator):
    """Returns nothing."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Where something is returned."""
        if node.type == "return_stmt" and node.children[1].get_code().strip() != "None":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """``return None`` in its place."""
        return _replace(node, "return None")

    @classmethod
    def examples(cls) -> Iterable[Example]:
        """For Cosmic Ray."""
        return (Example("def f(): return 1", "def f(): return None"),)


def _names(node: Any) -> list[Any]:
    return [leaf for leaf in ast_nodes(node) if isinstance(leaf, Name)]


THEIRS = (
    *("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
    *("Lt_Gt", "Gt_Lt", "LtE_Gt", "GtE_Lt"),
)
BINARY = (
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Add", "Pow_Mul"),
    *("BitAnd_BitOr", "BitOr_BitAnd"),
)
OPERATORS: dict[str, Operator] = {
    **{
        name: OperatorProvider()[name]()
        for name in (
            *(f"ReplaceComparisonOperator_{pair}" for pair in THEIRS),
            *(f"ReplaceBinaryOperator_{pair}" for pair in BINARY),
            *(f"ReplaceUnaryOperator_Delete_{name}" for name in ("Not", "USub", "Invert")),
            *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
            *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "ZeroIterationForLoop"),
            "NumberReplacer",
        )
    },
    **{kind.__name__: kind() for kind in (SwapName, DropKeyword, SwapArguments, DeleteStatement, ReturnNone)},
}
"""By name: Cosmic Ray's, less those that any call would find (`+` by `<<`), and ours."""


@dataclass(frozen=True)
class Mutant:
    """One fault in one file."""

    file: str
    """Relative to the root."""
    operator: str
    occurrence: int
    """Which of the places in the file where the operator fits."""
    line: int
    function: str
    """Qualified name of the innermost function around it; empty outside of functions."""
    source: str
    """Digest of the file."""

    @property
    def key(self) -> str:
        """Names it among the results."""
        return f"{self.file}:{self.operator}:{self.occurrence}:{self.source}"


def mutants_of(root: Path, file: str) -> list[Mutant]:
    """All mutants of a file that mean something: not of annotations, assertions, messages of errors, or `TUNING`."""
    code = (root / file).read_text(encoding="utf-8")
    tree, digest = ast.parse(code), hashlib.sha256(code.encode()).hexdigest()[:8]
    barred, functions = list(_barred(tree)), list(_functions(tree))
    found: list[Mutant] = []
    for name, operator in OPERATORS.items():
        places = [place for node in ast_nodes(get_ast(code)) for place in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(places):
            if not any(first <= start < last for first, last in barred):
                around = [own for own, (first, last) in functions if first <= start < last]
                found.append(Mutant(file, name, occurrence, start[0], max(around, key=len, default=""), digest))
    return found


Span = tuple[tuple[int, int], tuple[int, int]]


def _span(node: Any) -> Span:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _barred(tree: ast.AST) -> Iterator[Span]:
    """What no operator may touch."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield _span(node)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield _span(node.exc)
        elif isinstance(node, ast.keyword) and node.arg == "strict":  # only a check
            yield _span(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            if names & TUNING:
                yield _span(node)
        for name in ("annotation", "returns"):
            if (child := getattr(node, name, None)) is not None:
                yield _span(child)
        for decorator in getattr(node, "decorator_list", []):
            yield _span(decorator)


def _functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, Span]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield within + node.name, _span(node)
            yield from _functions(node, f"{within}{node.name}.<locals>.")
        else:
            yield from _functions(node, f"{within}{node.name}." if isinstance(node, ast.ClassDef) else within)


def sampled(root: Path, files: Sequence[str], number: int, seed: int) -> list[Mutant]:
    """So many mutants: each file's share is that of its lines, and no line has a second one before each has one."""
    lines = {file: len((root / file).read_text(encoding="utf-8").splitlines()) for file in files}
    exact = {file: number * lines[file] / sum(lines.values()) for file in files}
    shares = {file: int(share) for file, share in exact.items()}
    for file in sorted(files, key=lambda file: shares[file] - exact[file])[: number - sum(shares.values())]:
        shares[file] += 1
    chosen: list[Mutant] = []
    for file in files:
        rng = random.Random(f"{seed} {file}")
        by_line = defaultdict[int, list[Mutant]](list)
        for mutant in mutants_of(root, file):
            by_line[mutant.line].append(mutant)
        for ones in by_line.values():
            rng.shuffle(ones)
        order = rng.sample(sorted(by_line), len(by_line))
        deepest = max(map(len, by_line.values()), default=0)
        ranked = [by_line[line][rank] for rank in range(deepest) for line in order if rank < len(by_line[line])]
        chosen += ranked[: shares[file]]
    return chosen


def mutated(root: Path, mutant: Mutant) -> tuple[str, str]:
    """The file with the fault, and how it differs."""
    before = (root / mutant.file).read_text(encoding="utf-8")
    after = mutate_code(before, OPERATORS[mutant.operator], mutant.occurrence)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return after, "\n".join(line for line in lines if line[:2] not in ("--", "++", "@@"))


class Tracer:
    """Remembers which functions in a project's src/ are called, in this process."""

    def __init__(self, root: Path, tell: Callable[[str], object] = lambda name: None) -> None:
        self.seen: set[str] = set()
        self._prefix, self._tell = f"{root}{os.sep}", tell
        self._names: dict[CodeType, str | None] = {}

    def __call__(self, coordinates: FrameType, event: str, argument: object) -> None:
        """As ``sys.settrace`` wants it: asks for no events within the function."""
        code = coordinates.f_code
        if code not in self._names:
            path = code.co_filename.removeprefix(self._prefix).replace(os.sep, "/")
            self._names[code] = f"{path}:{code.co_qualname}" if path.startswith("src/") else None
        name = self._names[code]
        if name is not None and name not in self.seen:
            self.seen.add(name)
            self._tell(name)

    def start(self) -> None:
        """In all threads."""
        threading.settrace(self)
        sys.settrace(self)


IN_CHILDREN = """
from __future__ import annotations
import os, sys, threading
from pathlib import Path
{tracer}
if folder := os.environ.get("TRACED_CALLS"):
    told = os.open(Path(folder, str(os.getpid())), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    Tracer(Path({source!r}), lambda name: os.write(told, (name + chr(10)).encode())).start()
"""
"""``sitecustomize.py`` of processes that tests start; they write down calls at once, as they may be killed."""


class Traced:
    """A pytest plugin: what each test calls, and how long it takes."""

    def __init__(self, folder: Path, children: Path) -> None:
        self.tests: dict[str, dict[str, Any]] = {}
        self.failed: list[str] = []
        self._tracer, self._children = Tracer(folder), children

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The last first: so a test that needs what those before it left behind fails, and is not used."""
        items.reverse()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Around each test with its fixtures."""
        self._tracer.seen = set()
        began = time.perf_counter()
        self._tracer.start()
        try:
            return (yield)
        finally:
            sys.settrace(None)
            calls = self._tracer.seen
            for file in self._children.iterdir():
                calls |= set(file.read_text().split("\n")) - {""}
                file.unlink()
            self.tests[item.nodeid] = {"seconds": time.perf_counter() - began, "calls": sorted(calls)}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What fails without a fault can kill nothing."""
        if report.failed:
            self.failed.append(report.nodeid)


class Killing:
    """A pytest plugin: runs some tests only, the quickest first, and says which failed."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.by: str | None = None
        self._seconds = seconds

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Those that call the function."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self._seconds), key=lambda item: self._seconds[item.nodeid]
        )

    def pytest_configure(self, config: pytest.Config) -> None:
        """One is enough."""
        config.option.maxfail = 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The first that fails."""
        if report.failed and self.by is None:
            self.by = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported."""
        if report.failed and self.by is None:
            self.by = f"{report.nodeid} (collection)"


def run_tests(copy: Path, files: Sequence[str], plugin: object, seconds: float, log: Path) -> dict[str, Any]:
    """Runs pytest in a fork of this process.

    Args:
        copy: The root of the project.
        files: Test files.
        plugin: Whose attributes without an underscore are handed back.
        seconds: After which it is ended.
        log: Where its output goes.

    Returns:
        Of the plugin, with ``status``: pytest's, or "timeout" or "crash".
    """
    answer = log.with_suffix(".json")
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            os.chdir(copy)
            options = ["-q", "-o", "addopts=", "--doctest-modules", "--rootdir", str(copy), "-p", "no:cacheprovider"]
            options += ["--basetemp", str(log.parent / "tmp")]
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # the plugins are imported already
            status = int(pytest.main([*options, *files], plugins=[plugin]))
            told = {name: value for name, value in vars(plugin).items() if not name.startswith("_")}
            answer.write_text(json.dumps({"status": status, **told}))
        finally:
            sys.stdout.flush()
            os._exit(0)
    end = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"status": "timeout"}
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # whom it started
    return json.loads(answer.read_text()) if answer.exists() else {"status": "crash"}


def copied(root: Path, copy: Path) -> None:
    """Makes the copy that is changed; its compiled files know what they were compiled from."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("runs", "data", ".*", "__pycache__", "*.egg-info"))
    shutil.copytree(root / "src", copy / "src", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(copy, quiet=1, invalidation_mode=compileall.py_compile.PycInvalidationMode.CHECKED_HASH)


def traced(copy: Path, work: Path) -> dict[str, dict[str, Any]]:
    """What each test calls, by its id; only test files that changed are run, unless the source did."""
    children, site, stored = work / "calls", work / "site", work / "calls.json"
    for folder in (children, site):
        folder.mkdir(exist_ok=True)
    source = inspect.getsource(Tracer)
    (site / "sitecustomize.py").write_text(IN_CHILDREN.format(tracer=source, source=str(copy)))
    helpers = (file for file in copy.glob("tests/*.py") if not file.name.startswith("test_"))
    common = _digest([*copy.glob("src/**/*.py"), *copy.glob("conf/**/*"), *helpers])
    known = json.loads(stored.read_text()) if stored.exists() else {}
    calls: dict[str, Any] = {}
    for file in [*sorted(str(test.relative_to(copy)) for test in copy.glob("tests/**/test_*.py")), "src"]:
        digest = _digest([copy / file]) + common
        if known.get(file, {}).get("digest") != digest:
            os.environ["TRACED_CALLS"], before = str(children), os.environ["PYTHONPATH"]
            os.environ["PYTHONPATH"] = f"{site}{os.pathsep}{before}"
            answer = run_tests(copy, [file], Traced(copy, children), math.inf, work / "trace.log")
            os.environ["PYTHONPATH"] = before
            del os.environ["TRACED_CALLS"]
            if answer["status"] not in (
                pytest.ExitCode.OK,
                pytest.ExitCode.TESTS_FAILED,
                pytest.ExitCode.NO_TESTS_COLLECTED,
            ):
                raise SystemExit(f"{file} cannot be run; see {work / 'trace.log'}")
            for test in answer["failed"]:
                print(f"{test} is not used: it fails without a fault, or without the tests before it", flush=True)
                answer["tests"].pop(test, None)
            known[file] = {"digest": digest, "tests": answer["tests"]}
            stored.write_text(json.dumps(known))
        calls[file] = known[file]["tests"]
    return calls


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files) if file.is_file())).hexdigest()[:12]


def run_mutant(
    copy: Path, mutant: Mutant, calls: Mapping[str, Mapping[str, Any]], budget: float, work: Path
) -> dict[str, Any]:
    """Whether a test kills it: one of the nearest files, then the quickest of the others, for ``budget`` seconds."""
    began = time.perf_counter()
    after, difference = mutated(copy, mutant)
    chosen = {file: some for file, tests in calls.items() if (some := calling(mutant, tests))}
    own = f"/test_{Path(mutant.file).stem}.py"
    order = sorted(chosen, key=lambda file: (not file.endswith(own), sum(chosen[file].values())))
    nearest, left = order[:NEAREST], budget
    others: dict[str, dict[str, float]] = defaultdict(dict)
    rest = [(seconds, test, file) for file in order[NEAREST:] for test, seconds in chosen[file].items()]
    for seconds, test, file in sorted(rest):
        left -= seconds
        if left >= 0:
            others[file][test] = seconds
    result = {**asdict(mutant), "key": mutant.key, "diff": difference, "killed": False, "by": None, "tests": 0}
    result["calling"] = sum(map(len, chosen.values()))
    path = copy / mutant.file
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(after, encoding="utf-8")
        for stage in ({file: chosen[file] for file in nearest}, others):
            seconds_of = {test: seconds for tests in stage.values() for test, seconds in tests.items()}
            if not seconds_of or result["killed"]:
                continue
            limit = TIME_LIMIT_EXTRA_S + TIME_LIMIT_FACTOR * sum(seconds_of.values())
            answer = run_tests(copy, list(stage), Killing(seconds_of), limit, work / "mutant.log")
            result["tests"] += len(seconds_of)
            if answer["status"] in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
                raise SystemExit(f"tests cannot be run; see {work / 'mutant.log'}")
            if answer["status"] != pytest.ExitCode.OK:
                result |= {"killed": True, "by": answer.get("by") or answer["status"]}
    finally:
        path.write_text(before, encoding="utf-8")
    return {**result, "seconds": round(time.perf_counter() - began, 1)}


def calling(mutant: Mutant, tests: Mapping[str, Any]) -> dict[str, float]:
    """The tests that call the function with the fault, or any function of the file where it stands in none."""
    prefix = f"{mutant.file}:{mutant.function}"
    return {
        test: one["seconds"]
        for test, one in tests.items()
        if any(name == prefix or (not mutant.function and name.startswith(prefix)) for name in one["calls"])
    }


def report(mutants: Sequence[Mutant], results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the files, and the survivors."""
    done = [results[mutant.key] for mutant in mutants if mutant.key in results]
    of_file, killed = Counter(one["file"] for one in done), Counter(one["file"] for one in done if one["killed"])
    rows = [f"| {file} | {of_file[file]} | {killed[file]} |" for file in sorted(of_file)]
    total = f"| all | {len(done)} | {sum(killed.values())} ({sum(killed.values()) / max(len(done), 1):.1%}) |"
    lines = ["| file | mutants | killed |", "|---|---|---|", *rows, total, "", "Survivors:", ""]
    for one in done:
        if not one["killed"]:
            lines += [
                f"{one['file']}:{one['line']} {one['operator']} ({one['tests']} of {one['calling']} tests)",
                one["diff"],
                "",
            ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the project")
    parser.add_argument("--work", type=Path, help="where results lie; runs/mutation in the project by default")
    parser.add_argument("--files", nargs="+", default=FILES, help="patterns of what is mutated, relative to the root")
    parser.add_argument("--number", type=int, default=300, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of tests in other files than the nearest")
    parser.add_argument("--preload", nargs="*", default=PRELOAD, help="packages that are imported once")
    parser.add_argument("--again", action="store_true", help="run survivors once more")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    work = (options.work or root / "runs" / "mutation").resolve()
    work.mkdir(parents=True, exist_ok=True)
    stored, copy = work / "results.jsonl", work / "copy"
    lines = stored.read_text(encoding="utf-8").splitlines() if stored.exists() else []
    results = {one["key"]: one for one in map(json.loads, lines)}
    files = sorted({str(path.relative_to(root)) for pattern in options.files for path in root.glob(pattern)})
    mutants = sampled(root, files, options.number, options.seed)
    if not options.report:
        copied(root, copy)
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # as tests/conftest.py has it, before torch is imported
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        paths = [str(copy / "src"), str(copy / "tests")]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        sys.path[:0] = paths
        for package in options.preload:
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
        calls = traced(copy, work)
        for mutant in mutants:
            known = results.get(mutant.key)
            if known is None or (options.again and not known["killed"]):
                result = results[mutant.key] = run_mutant(copy, mutant, calls, options.budget, work)
                with stored.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
                verdict = f"killed by {result['by']}" if result["killed"] else "SURVIVED"
                print(f"{mutant.file}:{mutant.line} {mutant.operator}: {verdict} ({result['seconds']} s)", flush=True)
    print(report(mutants, results))


if __name__ == "__main__":
    main()
