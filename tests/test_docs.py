"""README.md and docs/*.md: every command, number, snippet, link and picture in them holds.

A ``console`` block is a session, whose output is compared; an ``sh`` block is parsed only; a ``python`` block is
executed.  The steps of a page run in order in one folder.  ``--refresh-docs`` rewrites the output that changed.
"""

from __future__ import annotations

import difflib
import doctest
import json
import math
import re
import runpy
import shlex
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML brings no types

from logreg.commands.coefficients import OWN as COEFFICIENTS
from logreg.commands.config_files import CONF
from logreg.commands.predict import OWN as PREDICT
from logreg.commands.sweep import OWN as SWEEP
from logreg.config import RunConfig
from logreg.data import DATASETS
from logreg.sections import SECTIONS
from test_architecture import LAYERS
from whole_runs import Answer, hydra_composed, working_in

RunCommand = Callable[..., Answer]

PROJECT = Path(__file__).parents[1]

LANGUAGES = ("docs/tutorial.md", "docs/tutorial.zh-CN.md")
"""One page in two languages: the code of the first is run, that of the other is the same."""

PAGES = ("README.md", *sorted(f"docs/{file.name}" for file in (PROJECT / "docs").glob("*.md")))

LINKED = (*PAGES, "CONTRIBUTING.md")
"""Pages whose links are followed."""

DRAWN = ("README.md", 0)
"""The run that draws its pictures; the others are brief, which changes no number."""

PLAIN = {"pip", "pytest", "tensorboard", "logreg"}
"""Other programs that a page may name."""

MAX_NOTEBOOK_BYTES = 200_000
"""Size of the notebook with its pictures, which every checkout has."""

BEGINNING, END = r"^(<!-- slow -->\n)?```(\w+)\n", r"^```$"


class Step(NamedTuple):
    """A line that a user types and what comes back, or a piece of Python."""

    page: str
    number: int
    kind: str
    """console or python."""
    text: str
    """The command; or the code."""
    shown: str
    slow: bool

    @property
    def needs_mnist(self) -> bool:
        return "dataset=mnist" in self.text


@cache
def text_of(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> list[tuple[str, str, str]]:
    """The mark above each block, its kind, its text."""
    return re.findall(rf"{BEGINNING}(.*?){END}", text_of(page), re.MULTILINE | re.DOTALL)


def steps_of(page: str) -> Iterator[Step]:
    number = 0
    for mark, kind, text in blocks_of(page):
        if kind == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                line, _, shown = part.partition("\n")
                slow = bool(mark) or "dataset=mnist" in line
                yield Step(page, number, kind, line, shown, slow)
                number += 1
        elif kind == "python":
            yield Step(page, number, kind, text, "", bool(mark))
            number += 1


STEPS = {page: list(steps_of(page)) for page in PAGES if page != LANGUAGES[1]}


def parsed_only() -> Iterator[tuple[str, str]]:
    """Page and command of each line that is only parsed: those of ``sh`` blocks, and those within sentences."""
    for page in PAGES:
        for _, kind, text in blocks_of(page):
            if kind == "sh":
                yield from ((page, line) for line in text.splitlines())
        prose = re.sub(rf"{BEGINNING}.*?{END}", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
        yield from (
            (page, line) for line in re.findall(r"`((?:python (?:scripts|benchmarks)/|pip install )[^`]+)`", prose)
        )


PARSED = [(page, line) for page, line in parsed_only() if "..." not in line]


# ---- numbers ----

NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")

TINY = 1e-6

RUN_NAME = re.compile(r"\d{4}-\d\d-\d\d_[\w.-]+")


def unit_of(number: str) -> float:
    """One in its last digit; 0 of a whole number."""
    mantissa, _, exponent = number.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 0.0 if not decimals and not exponent else 10.0 ** (int(exponent or 0) - decimals)


def most_difference(number: str, after: str, of_mnist: bool) -> float:
    """By how much a number may differ from the one that is shown, given what follows it there.

    Other processors round otherwise, so the last digit may differ by one.  In a table of scores of MNIST, where
    stochastic gradient descent amplifies that, losses may differ by 0.005 and percentages by 0.3.  Seconds and passes
    are what they are, and a number below 1e-6 is rounding, which must stay as small.
    """
    if re.match(r" (s|passes)\b", after):
        return math.inf
    if abs(float(number.replace(",", ""))) < TINY:
        return TINY
    unit = unit_of(number)
    if of_mnist and unit:
        return 0.3 if after.startswith("%") else 0.005
    return 1.01 * unit  # a bit more, since neither number is binary


def line_matches(shown: str, line: str, of_mnist: bool = False) -> bool:
    """Whether a line is as shown.

    ``...`` stands for any text, right after digits for more digits, and blanks for any number of blanks; numbers may
    differ by `most_difference`.
    """
    parts = [part for part in re.split(rf"(\.\.\.|{NUMBER.pattern})", shown.strip()) if part]
    pattern, numbers = "", []
    for part, after in zip(parts, [*parts[1:], ""], strict=True):
        if part == "...":
            pattern += ".*?"
        elif NUMBER.fullmatch(part) and after == "...":
            pattern += re.escape(part)
        elif NUMBER.fullmatch(part):
            pattern += f"({NUMBER.pattern})"
            numbers.append((part, most_difference(part, after, of_mnist and "│" in shown)))
        else:
            pattern += re.sub(r"(?:\\ )+", r"\\s+", re.escape(part))
    found = re.fullmatch(pattern, line.strip())
    if found is None:
        return False
    return all(
        abs(float(number.replace(",", "")) - float(value.replace(",", ""))) <= most
        for (number, most), value in zip(numbers, found.groups(), strict=True)
    )


def matches(shown: str, out: str, of_mnist: bool = False) -> bool:
    """Whether an output is as shown; a line ``...`` stands for any lines."""
    lines, at, gap = out.replace("\\", "/").strip("\n").splitlines(), 0, False  # Windows has other paths
    for wanted in shown.strip("\n").splitlines():
        if wanted.strip() == "...":
            gap = True
            continue
        places = range(at, len(lines)) if gap else range(at, min(at + 1, len(lines)))
        found = next((place for place in places if line_matches(wanted, lines[place], of_mnist)), None)
        if found is None:
            return False
        at, gap = found + 1, False
    return gap or at == len(lines)


def refreshed(shown: str, out: str) -> str:
    """What is shown, with each line that changed exchanged for the nearest of the output."""
    lines, at, new = out.strip("\n").splitlines(), 0, []
    for wanted in shown.strip("\n").splitlines():
        if wanted.strip() == "...":
            new.append(wanted)
            continue
        found = next((place for place in range(at, len(lines)) if line_matches(wanted, lines[place])), None)
        if found is None:
            ratios = [difflib.SequenceMatcher(None, wanted, line).ratio() for line in lines[at:]]
            if not ratios or max(ratios) < 0.4:
                continue
            found = at + ratios.index(max(ratios))
            new.append(RUN_NAME.sub("...", lines[found].rstrip()))
        else:
            new.append(wanted)
        at = found + 1
    return "".join(f"{line}\n" for line in new)


@pytest.mark.parametrize(
    ("shown", "line", "same"),
    [
        ("loss 0.52 of 100", "loss 0.53 of 100", True),
        ("loss 0.52 of 100", "loss 0.54 of 100", False),
        ("loss 0.52 of 100", "loss 0.52 of 101", False),
        ("optimal to ... [... s]", "optimal to 2e-10 [3 passes, 0.04 s]", True),
        ("│ test │  99.9% │", "│ test │ 100.0% │", True),
        ("took 3 s", "took 4.1 s", True),
        ("took 3 s", "took 3 m", False),
        ("gap <= 5.5e-13", "gap <= 9e-12", True),
        ("gap <= 5.5e-13", "gap <= 9e-5", False),
        ("l2=0.001, chosen", "l1=0.001, chosen", False),
        ("gap <= 1e-03", "gap <= 3e-03", False),
        ("0.52%", "0.52x", False),
        ("at most, 3... %", "at most, 30.9 %", True),
        ("at most, 3... %", "at most, 40.9 %", False),
        ("C=1]", "C=10]", False),
    ],
)
def test_a_line_is_compared_up_to_one_in_the_last_digit(shown: str, line: str, same: bool) -> None:
    assert line_matches(shown, line) == same


@pytest.mark.parametrize(
    ("shown", "out", "same"),
    [
        ("a\n...\nc\n", "a\nb\nb\nc\n", True),
        ("a\nc\n", "a\nb\nc\n", False),
        ("a\n...\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("...\nb 1.0\n", "a\nb 1.2\n", False),
    ],
)
def test_lines_are_compared_in_order(shown: str, out: str, same: bool) -> None:
    assert matches(shown, out) == same
    assert matches(refreshed(shown, out), out) or "..." not in shown


# ---- running ----


class Sitting:
    """A user who goes through one page, in a folder of its own."""

    def __init__(self, page: str, here: Path) -> None:
        self.page, self.here = page, here
        self.done: dict[int, Answer | str] = {}
        self.names: dict[str, Any] = {}

    def answer(self, step: Step, run_command: RunCommand, mnist_root: Path | None) -> Answer | str:
        """That of a step, after those before it.  Slow ones before it are left out if it is not slow itself."""
        for earlier in STEPS[self.page][: step.number + 1]:
            if earlier.number not in self.done and (earlier == step or not earlier.slow):
                self.done[earlier.number] = self._run(earlier, run_command, mnist_root)
        return self.done[step.number]

    def _run(self, step: Step, run_command: RunCommand, mnist_root: Path | None) -> Answer | str:
        if step.kind == "python":
            return self._python(step)
        python, script, *typed = shlex.split(step.text)
        assert python == "python"
        if script.startswith("docs/"):
            with working_in(self.here):
                runpy.run_path(str(PROJECT / script), run_name="__main__")
            return Answer(0, "", "", [], frozenset())
        if script == "scripts/train.py" and (step.page, step.number) != DRAWN and not {"-m", "report=brief"} & {*typed}:
            typed.append("report=brief")
        if mnist_root is not None:
            typed.append(f"dataset.root={mnist_root}")
        return run_command(self.here, Path(script).stem, *typed)

    def _python(self, step: Step) -> str:
        """What is wrong with a piece of Python; empty if nothing is."""
        found: list[str] = []
        with working_in(self.here), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what other packages warn of is not what a page shows
            if ">>>" not in step.text:
                exec(compile(step.text, step.page, "exec"), {"__name__": "__main__"})
                return ""
            test = doctest.DocTestParser().get_doctest(step.text, self.names, step.page, step.page, 0)
            doctest.DocTestRunner(verbose=False).run(test, out=found.append, clear_globs=False)
        self.names |= test.globs
        return "".join(found)


@pytest.fixture(scope="module")
def sittings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sitting]:
    return {page: Sitting(page, tmp_path_factory.mktemp(Path(page).stem)) for page in STEPS}


def as_parameters(steps: Sequence[Step]) -> list[Any]:
    marks = {True: [pytest.mark.slow], False: []}
    return [
        pytest.param(step, id=f"{step.page}: {step.text.splitlines()[0]}", marks=marks[step.slow]) for step in steps
    ]


RUN = [step for steps in STEPS.values() for step in steps]


@pytest.mark.long
@pytest.mark.parametrize("step", as_parameters([step for step in RUN if step.kind == "console"]))
def test_a_command_gives_what_is_shown(
    step: Step, sittings: dict[str, Sitting], run_command: RunCommand, request: pytest.FixtureRequest
) -> None:
    mnist_root = request.getfixturevalue("mnist_root") if step.needs_mnist else None
    answer = sittings[step.page].answer(step, run_command, mnist_root)
    assert isinstance(answer, Answer)
    is_error = step.shown.startswith("`")
    out = answer.err if is_error else answer.out
    assert answer.code == (2 if is_error else 0), answer.err
    if matches(step.shown, out, step.needs_mnist):
        return
    new = refreshed(step.shown, out)
    if request.config.getoption("--refresh-docs"):
        for page in LANGUAGES if step.page in LANGUAGES else (step.page,):
            old, file = (PROJECT / page).read_text(encoding="utf-8"), PROJECT / page
            file.write_text(old.replace(f"$ {step.text}\n{step.shown}", f"$ {step.text}\n{new}"), encoding="utf-8")
    pytest.fail(f"{step.page} shows another output of\n$ {step.text}\nThe new lines:\n{new}\nAll of it:\n{out}")


@pytest.mark.long
@pytest.mark.parametrize("step", as_parameters([step for step in RUN if step.kind == "python"]))
def test_python_gives_what_is_shown(step: Step, sittings: dict[str, Sitting], run_command: RunCommand) -> None:
    assert sittings[step.page].answer(step, run_command, None) == ""


@pytest.mark.long
def test_the_notebook_gives_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a change, ``jupyter execute --inplace docs/python.ipynb`` runs it again."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    text, names = text_of("docs/python.ipynb"), {"__name__": "__main__"}
    assert len(text) < MAX_NOTEBOOK_BYTES
    with working_in(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Agg, which shows nothing
        for cell in json.loads(text)["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), "python.ipynb", "exec"), names)
                shown = [out for out in cell["outputs"] if out["output_type"] == "stream"]
                assert {out["name"] for out in shown} <= {"stdout"}
                assert matches("".join("".join(out["text"]) for out in shown), capsys.readouterr().out)


def test_there_is_something_to_run() -> None:
    assert sum(step.kind == "console" for step in STEPS["README.md"]) >= 5
    assert len(STEPS[LANGUAGES[0]]) >= 15
    assert len(PARSED) >= 20


# ---- parsing ----


def check_train(typed: list[str], run_command: RunCommand, here: Path) -> None:
    """Composes the config of a command and checks every value; of a grid, that of its first job."""
    typed = [one for one in typed if one != "-m" and not one.startswith("ckpt_path=")]
    typed = [re.sub(r"^([^=]+=[^,\[{(]+),.*", r"\1", one) for one in typed]
    answer = run_command(here, "train", *typed, "--cfg", "job", "--resolve")
    assert answer.code == 0, answer.err
    RunConfig.from_mapping(yaml.safe_load(answer.out))


def check_command(script: str, typed: list[str], run_command: RunCommand, here: Path) -> None:
    """Keys and values are known; without any run or file, that is all that the command can find wrong."""
    answer = run_command(here, script, *typed)
    assert answer.code == 2
    assert re.search(r"Name a run|no run|train one first|is missing", answer.err), answer.err


def check_options(script: Path, typed: list[str]) -> None:
    """The script, or what all benchmarks share, defines every option that is typed."""
    sources = [file.read_text(encoding="utf-8") for file in (script, script.with_name("common.py")) if file.is_file()]
    options = [one.partition("=")[0] for one in typed if one.startswith("--")]
    assert [one for one in options if not any(f'"{one}"' in source for source in sources)] == []


def write_configs(page: str, here: Path) -> None:
    """Writes the configs that a page shows to the files that their comments name."""
    for _, kind, text in blocks_of(page):
        if kind == "yaml":
            name = next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# mine/"))
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("page", "line"), [pytest.param(page, line, id=f"{page}: {line}") for page, line in PARSED])
def test_a_command_that_is_only_named_is_understood(
    page: str, line: str, run_command: RunCommand, tmp_path: Path
) -> None:
    write_configs(page, tmp_path)
    for command in line.partition("  #")[0].split(" && "):
        words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
        program, *typed = words
        if program == "torchrun":
            program, typed = "python", [word for word in typed if not word.startswith("--")]
        if program in PLAIN:
            extras = re.findall(r"\.\[(\w+)\]", command)
            project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            assert set(extras) <= set(project["optional-dependencies"])
            continue
        assert program == "python"
        script, *typed = typed
        assert (PROJECT / script).is_file()
        if script == "scripts/train.py":
            check_train(typed, run_command, tmp_path)
        elif script == "scripts/sweep.py":
            own = tuple(f"{key}=" for key in SWEEP)
            check_train([one for one in typed if not one.startswith(("search.", *own))], run_command, tmp_path)
        elif script.startswith("scripts/"):
            check_command(Path(script).stem, typed, run_command, tmp_path)
        elif typed:
            check_options(PROJECT / script, typed)


def test_the_benchmarks_page_names_every_benchmark_and_its_options() -> None:
    named = re.findall(r"`((\w+)\.py[^`]*)`", text_of("docs/benchmarks.md"))
    shared = {"common", "cost_model", "training_loops"}
    assert {name for _, name in named} == {file.stem for file in (PROJECT / "benchmarks").glob("*.py")} - shared
    cases = {case for command, _ in named for case in re.findall(r"--case ([\w.-]+)", command)}
    source = (PROJECT / "benchmarks" / "map.py").read_text(encoding="utf-8")
    assert [name for name in cases if f'"{name}": Case(' not in source] == []


# ---- names ----


def named_in_table(page: str, heading: str) -> set[str]:
    """What stands between backquotes in the first column of a table, under its heading."""
    table = text_of(page).partition(f"| {heading} |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def test_every_dataset_and_experiment_has_its_row() -> None:
    assert named_in_table("docs/datasets.md", "`dataset=`") == set(DATASETS)
    experiments = {file.stem for file in (CONF / "experiment").glob("*.yaml")}
    assert named_in_table("docs/datasets.md", "`experiment=`") == experiments


def test_every_optimizer_has_its_row() -> None:
    assert named_in_table("docs/optimizers.md", "`optimizer=`") == set(SECTIONS["optimizer"])


def test_every_part_that_the_map_of_solvers_measures_has_its_row() -> None:
    table = text_of("docs/optimizers.md").partition("| part |")[2].partition("\n\n")[0]
    source = text_of("benchmarks/solver_map.py").partition("CASES = [")[2]
    parts = re.findall(r'Case\(\s*"([^"]+)"', source)
    assert len(parts) > 20
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]] == parts


@pytest.mark.parametrize(
    ("page", "dataset"), [("tables", "table"), ("linear-probes", "features"), ("images", "image_folder")]
)
def test_every_key_of_a_users_own_data_is_one(page: str, dataset: str) -> None:
    named = named_in_table(f"docs/{page}.md", "`dataset.<key>`")
    known = hydra_composed(dataset).dataset
    keys = {str(key) for key in known} | {f"split.{key}" for key in known.split}
    assert named <= keys
    shared = set(yaml.safe_load((CONF / "dataset" / "base" / "rows.yaml").read_text(encoding="utf-8")))
    assert keys - named <= shared | {"name", "split", "recipe", "standardize", "train_path", "val_path", "test_path"}


def keys_in(plain: Any, above: str = "") -> Iterator[str]:
    """The keys of nested settings, with the dots that a user types."""
    for key, value in plain.items() if isinstance(plain, dict) else ():
        yield f"{above}{key}"
        yield from keys_in(value, f"{above}{key}.")


@cache
def known_keys() -> set[str]:
    """Every key that a file of conf/ has."""
    known = set()
    for file in CONF.rglob("*.yaml"):
        group = file.parent.relative_to(CONF).parts[:1]
        plain = yaml.safe_load(file.read_text(encoding="utf-8"))
        is_global = group == ("experiment",) or "optimizer" in plain or "backbone" in plain
        known |= set(keys_in(plain, f"{group[0]}." if group and not is_global else "")) | set(group)
    return known


OF_COMMANDS = {"coef", "cost_ratio", *COEFFICIENTS, *PREDICT, *SWEEP}
"""Keys of commands other than scripts/train.py."""

OF_OTHERS = {"color", "column", "product", "hydra/launcher", "hash", "offset", "sep", "solver"}
OF_OTHERS |= {"sparse_output", "warm_start"}
"""Names of columns, a key of Hydra, the first line of a text file, arguments in Python."""


@pytest.mark.parametrize("page", LINKED)
def test_every_key_within_a_sentence_is_one(page: str) -> None:
    prose = re.sub(rf"{BEGINNING}.*?{END}", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    codes = re.findall(r"`([^`\n]+)`", prose)
    named = {key for code in codes for key in re.findall(r"(?:^| )([a-z_][\w./]*)=", code)}
    assert sorted(named - known_keys() - OF_COMMANDS - OF_OTHERS) == []


@pytest.mark.long
def test_every_name_of_the_checklists_is_there() -> None:
    prose = re.sub(rf"{BEGINNING}.*?{END}", "", text_of("CONTRIBUTING.md"), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([A-Z]{4,}[A-Z_]*|test_\w+|[A-Z][a-z]+[A-Z]\w+)`", prose)) - {"CHANGELOG"}
    files = [file for folder in ("src", "tests") for file in (PROJECT / folder).rglob("*.py")]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert len(named) >= 8
    assert [name for name in sorted(named) if not re.search(rf"^(class |def )?{name}\b", source, re.MULTILINE)] == []


def text_block(page: str, heading: str) -> str:
    """The first ``text`` block under a heading."""
    section = text_of(page).partition(f"## {heading}\n")[2]
    return section.partition("```text\n")[2].partition("```")[0]


def test_the_tree_of_the_package_is_that_on_the_disk() -> None:
    package, parents, listed = PROJECT / "src" / "logreg", {2: ""}, set()
    for line in text_block("docs/architecture.md", "The package").splitlines()[1:]:
        level, names = len(line) - len(line.lstrip()), re.split(r" {2,}", line.strip())[0].split(", ")
        for name in names:
            path = f"{parents[level]}{name}"
            assert (package / path).is_dir() == name.endswith("/"), path
            assert (package / path).exists(), path
            listed.add(path)
        parents[level + 2] = f"{parents[level]}{names[0]}"
    there = {path.name + "/" * path.is_dir() for path in package.iterdir() if not path.name.startswith(("_", "py."))}
    assert {path for path in listed if "/" not in path[:-1]} == there


def test_every_file_that_a_run_flows_through_is_there() -> None:
    lines = text_block("docs/architecture.md", "How a run flows through the files").splitlines()
    paths = [line.split()[0] for line in lines]
    assert [
        path for path in paths if not any((root / path).exists() for root in (PROJECT, PROJECT / "src/logreg"))
    ] == []


def test_the_layers_are_those_of_the_test_that_holds_them() -> None:
    named = [tuple(line.split()) for line in text_block("docs/architecture.md", "Layers").splitlines()]
    assert [set(layer) for layer in reversed(named)] == [set(layer) for layer in LAYERS]


@pytest.mark.parametrize("page", LINKED)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    roots = (PROJECT, PROJECT / "src" / "logreg", PROJECT / "conf")
    prose = re.sub(rf"{BEGINNING}.*?{END}", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    named = {
        path for path in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|yaml|md))`", prose) if not path.startswith("runs/")
    }
    assert [path for path in sorted(named) if not any((root / path).is_file() for root in roots)] == []
    # in a tree and beside a path the name alone stands for a file
    trees = "".join(re.findall(r"^```text\n(.*?)^```$", text_of(page), flags=re.MULTILINE | re.DOTALL))
    alone = set(re.findall(r"`(\w+\.py)`", prose)) | set(re.findall(r"[ /](\w+\.py)\b", trees))
    assert sorted(alone - names_of_sources()) == []


@cache
def names_of_sources() -> set[str]:
    """Names of all Python files of the repository."""
    folders = ("benchmarks", "docs", "scripts", "src", "tests")
    return {file.name for folder in folders for file in (PROJECT / folder).rglob("*.py")}


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", LINKED)
def test_every_link_and_picture_is_there(page: str) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    missing = []
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (PROJECT / page).parent / name if name else PROJECT / page
        if not file.is_file():
            missing.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            missing += [] if anchor in map(slug, headings) else [target]
    assert missing == []


def test_every_page_and_picture_is_linked() -> None:
    linked = "".join(text_of(page) for page in LINKED)
    files = [*(PROJECT / "docs").glob("*.md"), *(PROJECT / "docs" / "images").iterdir()]
    assert [file.name for file in files if file.name not in linked] == []


def test_a_caption_names_the_run_that_makes_the_picture() -> None:
    runs = run_path(str(PROJECT / "docs" / "pictures.py"))["RUNS"]
    captioned = {page: text for page in LINKED if "(`figures/" in (text := text_of(page).replace("'", ""))}
    missing = [
        (page, picture)
        for command, pictures in runs.items()
        for picture in pictures.values()
        for page, text in captioned.items()
        if f"images/{picture}.png" in text and f"{command.partition(' ')[2]}`" not in text
    ]
    assert missing == []
    assert len(captioned) >= 6


@pytest.mark.parametrize("page", LINKED)
def test_every_block_is_of_a_known_kind(page: str) -> None:
    fences = re.findall(r"^ *```(.*)$", text_of(page), re.MULTILINE)
    assert {"console", "sh", "python", "text", "yaml"} >= set(fences[::2])
    assert set(fences[1::2]) <= {""}


def test_the_first_command_installs_what_a_user_needs() -> None:
    first = next(text for _, kind, text in blocks_of("README.md") if kind in ("sh", "console"))
    assert first == "pip install -e .\n"


def test_every_language_has_the_same_code_pictures_and_numbers() -> None:
    assert blocks_of(LANGUAGES[1]) == blocks_of(LANGUAGES[0])
    texts = [text_of(page) for page in LANGUAGES]
    pictures = [re.findall(r"!\[.*?\]\((.*?)\)", text) for text in texts]
    assert pictures[0] == pictures[1]
    headings = [len(re.findall(r"^#+ ", text, re.MULTILINE)) for text in texts]
    assert headings[0] == headings[1]
    # numbers in the prose: written the same, in the same order within each section
    for ours, theirs in zip(*(re.split(r"^## ", text, flags=re.MULTILINE) for text in texts), strict=True):
        numbers = [
            sorted(re.findall(r"\d[\d,.]*\d|\d", re.sub(r"```.*?```|\]\(.*?\)", "", part, flags=re.DOTALL)))
            for part in (ours, theirs)
        ]
        assert numbers[0] == numbers[1]
