"""Every benchmark runs, at a tiny size; what it measures is for `scripts/benchmark.py` itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from fake_mnist import write_fake_mnist

SCRIPTS = Path(__file__).parents[1] / "scripts"

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, which the script silences


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import benchmark
    import benchmark_predict

    monkeypatch.setattr(benchmark, "quieten", lambda: None)  # for good
    monkeypatch.setattr(benchmark, "TABLE_ROWS", 500)
    monkeypatch.setattr(benchmark, "IMAGES", 60)
    monkeypatch.setattr(benchmark, "MATRIX_SHAPE", (500, 16))
    tiny = [line.replace("rows=1000000", "rows=2000") for line in benchmark.WIDE_RUN]
    monkeypatch.setattr(benchmark, "WIDE_RUN", tiny)
    monkeypatch.setattr(benchmark_predict, "MANY_ROWS", 1000)
    monkeypatch.setattr(benchmark_predict, "SHAPES", {"tiny": (16, 3)})
    monkeypatch.setattr(benchmark_predict, "HELD", 1)
    return benchmark


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("door", "--help"),
        ("mnist", "our epoch, part by part"),
        ("table", "(numbers, text and booleans)"),
        ("epoch", "hand-written loop"),
        pytest.param("toy", "the tutorial's plain script", marks=pytest.mark.slow),
        pytest.param("cache", "second start", marks=pytest.mark.slow),
        pytest.param("features", ".safetensors", marks=pytest.mark.slow),
        pytest.param("predict", "a bare product", marks=pytest.mark.slow),
        ("solvers", "gap <= 1e-03"),
    ],
)
def test_a_part_runs(
    part: str,
    says: str,
    benchmark: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_fake_mnist(tmp_path)
    of_solvers = ("--problem", "breast_cancer", "--gap", "1e-3", "--ours-alone") if part == "solvers" else ()
    typed = ["benchmark.py", part, "--repeats", "1", "--mnist-root", str(tmp_path), *of_solvers]
    monkeypatch.setattr(sys, "argv", typed)
    assert benchmark.main() == 0
    assert says in capsys.readouterr().out


def test_predictions_are_compared_with_a_bare_product(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    import benchmark_predict

    benchmark_predict.against_a_product("tiny", 16, 3, 1)
    assert capsys.readouterr().out.count("a bare product") == 3
