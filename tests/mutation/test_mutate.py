"""`tests/mutation/mutate.py`: which mutants it makes, and that a test kills one of them."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("cosmic_ray")
pytest.importorskip("resource", reason="not on Windows, which cannot fork")

PROJECT = Path(__file__).parents[2]

SOURCE = '''"""One of 2."""

BLOCK_NUMEL = 2**20


def between(low: int | None, value: int, high: int = 5) -> int:
    """Example 1 < 2."""
    assert low != high
    if value < 0:
        raise ValueError("negative" * 2)
    value += 7
    return max(value, low or 0)
'''


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("mutate")


def test_mutants_are_of_what_can_change_an_answer(mutate: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SOURCE)
    found = mutate.mutants_of(tmp_path, "one.py")
    assert {mutant.function for mutant in found} == {"between"}
    changed = [mutate.mutated(tmp_path, mutant)[1].splitlines()[1][1:].strip() for mutant in found]
    assert sorted(changed) == sorted(
        [
            *("def between(low: int | None, value: int, high: int = 4) -> int:",),
            *("def between(low: int | None, value: int, high: int = 6) -> int:",),
            *("if value <= 0:", "if value > 0:", "if not value < 0:", "if value < 1:", "if value < -1:"),
            *("pass", "pass", "value += 6", "value += 8"),
            *("return None", "return min(value, low or 0)", "return max(low or 0, value)"),
            *("return max(value, low and 0)", "return max(value, low or 1)", "return max(value, low or -1)"),
        ]
    )


@pytest.mark.long
def test_a_sample_follows_the_lines_and_takes_each_line_once_first(mutate: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SOURCE)
    (tmp_path / "two.py").write_text(SOURCE + SOURCE)
    chosen = mutate.sampled(tmp_path, ["one.py", "two.py"], 12, 0)
    assert [mutant.file for mutant in chosen] == ["one.py"] * 4 + ["two.py"] * 8
    assert len({(mutant.file, mutant.line) for mutant in chosen}) == 12
    assert chosen == mutate.sampled(tmp_path, ["one.py", "two.py"], 12, 0)
    assert chosen != mutate.sampled(tmp_path, ["one.py", "two.py"], 12, 1)


def test_what_is_left_alone_is_there(mutate: ModuleType) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for pattern in mutate.FILES for path in PROJECT.glob(pattern))
    assert [name for name in sorted(mutate.TUNING) if f"\n{name} =" not in sources] == []


@pytest.mark.long
def test_a_test_kills_the_mutant_of_what_it_calls_even_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "src" / "tiny.py").write_text("def one() -> int:\n    return 1\n\n\ndef two() -> int:\n    return 2\n")
    (tmp_path / "tests" / "test_tiny.py").write_text(
        "import subprocess\nimport sys\n\nimport tiny\n\n\n"
        "def test_one() -> None:\n    assert tiny.one()\n\n\n"
        "def test_two() -> None:\n"
        '    subprocess.run([sys.executable, "-c", "import tiny; assert tiny.two() == 2"], check=True)\n'
    )
    script, files = str(PROJECT / "tests" / "mutation" / "mutate.py"), ("--files", "src/*.py")
    command = [sys.executable, script, "--root", str(tmp_path), *files, "--number", "2", "--preload"]
    plain = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take seconds to import, and serve nothing here
    for _ in range(2):  # the second time nothing is left to do
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
    assert "| all | 2 | " in done.stdout
    lines = (tmp_path / "runs" / "mutation" / "results.jsonl").read_text().splitlines()
    by = {result["function"]: result["by"] for result in map(json.loads, lines)}
    assert len(lines) == 2
    assert by["two"] == "tests/test_tiny.py::test_two"
