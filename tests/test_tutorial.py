"""The tutorial: what it says to type gives what it shows, in both languages alike."""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from whole_runs import Answer, standing_in

Types = Callable[..., Answer]

DOCS = Path(__file__).parents[1] / "docs"

PAGES = ("tutorial.md", "tutorial.zh-CN.md")


class Block(NamedTuple):
    """A piece of code in a page."""

    kind: str
    text: str


def blocks_of(page: str) -> list[Block]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


BLOCKS = blocks_of(PAGES[0])


class Command(NamedTuple):
    """A line that a user types, and what comes back."""

    line: str
    shown: str

    @property
    def needs_mnist(self) -> bool:
        return "dataset=mnist" in self.line


def commands() -> Iterator[Command]:
    for block in BLOCKS:
        if block.kind == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                line, _, shown = part.partition("\n")
                yield Command(line, shown)


COMMANDS = list(commands())


def matches(shown: str, out: str) -> bool:
    """Whether an output is as shown, ``...`` standing for any text."""
    pattern = re.escape(shown.strip("\n")).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, out.strip("\n"), re.DOTALL) is not None


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


def test_there_is_something_to_type() -> None:
    assert len(COMMANDS) >= 10
    assert sum(block.kind == "python" for block in BLOCKS) >= 5


@pytest.mark.parametrize("command", [each for each in COMMANDS if not each.needs_mnist], ids=lambda each: each.line)
def test_a_command_gives_what_is_shown(command: Command, here: Path, types: Types) -> None:
    python, script, *typed = shlex.split(command.line)
    assert python == "python"
    answer = types(here, Path(script).stem, *typed)
    assert answer.code == 0, answer.err
    assert matches(command.shown, answer.out), answer.out


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in COMMANDS if each.needs_mnist], ids=lambda each: each.line)
def test_a_command_on_mnist_gives_what_is_shown(
    command: Command, mnist_root: Path, tmp_path: Path, types: Types
) -> None:
    _, script, *typed = shlex.split(command.line)
    answer = types(tmp_path, Path(script).stem, *typed, f"dataset.root={mnist_root}")
    assert answer.code == 0, answer.err
    # other processors round otherwise, and a stochastic method makes something of it: the last digit may differ
    numbers = [re.findall(r"│ test .*?│ ([\d.]+) │ +([\d.]+)%", text)[0] for text in (answer.out, command.shown)]
    (loss, accuracy), (shown_loss, shown_accuracy) = ([float(number) for number in pair] for pair in numbers)
    assert loss == pytest.approx(shown_loss, abs=0.005)
    assert accuracy == pytest.approx(shown_accuracy, abs=0.3)
    assert "scores 11.35% on test" in answer.out


def test_the_python_of_the_page_gives_what_is_shown(tmp_path: Path) -> None:
    source = "\n".join(block.text for block in BLOCKS if block.kind == "python")
    test = doctest.DocTestParser().get_doctest(source, {}, "tutorial", "tutorial.md", 0)
    said: list[str] = []
    with standing_in(tmp_path):
        failed = doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed
    assert failed == 0, "".join(said)


@pytest.mark.parametrize("page", PAGES[1:])
def test_every_language_has_the_same_code_pictures_and_numbers(page: str) -> None:
    texts = [(DOCS / name).read_text(encoding="utf-8") for name in (PAGES[0], page)]
    assert blocks_of(page) == BLOCKS
    pictures = [re.findall(r"!\[.*?\]\((.*?)\)", text) for text in texts]
    assert pictures[0] == pictures[1]
    assert all((DOCS / picture).is_file() for picture in pictures[0])
    headings = [len(re.findall(r"^#+ ", text, re.MULTILINE)) for text in texts]
    assert headings[0] == headings[1]
    # numbers in the prose: written the same, in the same order within each section
    for ours, theirs in zip(*(re.split(r"^## ", text, flags=re.MULTILINE) for text in texts), strict=True):
        numbers = [
            sorted(re.findall(r"\d[\d,.]*\d|\d", re.sub(r"```.*?```", "", part, flags=re.DOTALL)))
            for part in (ours, theirs)
        ]
        assert numbers[0] == numbers[1]


def test_the_readme_names_only_scripts_that_there_are() -> None:
    root = DOCS.parent
    text = (root / "README.md").read_text(encoding="utf-8")
    for script in set(re.findall(r"scripts/(\w+)\.py", text)):
        assert (root / "scripts" / f"{script}.py").is_file()
