"""Every benchmark runs at a tiny size and prints its table.  Its figures mean nothing at that size."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from fake_mnist import write_fake_mnist

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SHARED = {"common", "cost_model", "training_loops"}
"""Files that benchmarks import; they measure nothing."""

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's about short fits, which the benchmarks silence


class SmokeRun(NamedTuple):
    """A benchmark at a tiny size."""

    name: str
    typed: str
    printed: Sequence[str]
    """Part of its output, each."""


FAST = [
    SmokeRun("commands", "--repeats 1 --only answers", ["lrr=0.1 (mistyped)", "<= 1 s"]),
    SmokeRun("mnist", "--repeats 1 --mnist-root {mnist}", ["image by image", "our epoch, part by part"]),
    SmokeRun("epoch", "--repeats 1 --rows 2000", ["1,800 train and 200 val rows", "hand-written loop"]),
    SmokeRun("table_reading", "--repeats 1 --rows 500", ["pyarrow to a matrix", "(numbers, text and booleans)"]),
    SmokeRun("prediction", "--repeats 1 --blocks 1 --blocks-only --shape 30x1", ["30x1", "a bare product"]),
    SmokeRun(
        "path",
        "--repeats 1 --rows 50 --strengths 5 --gap 1e-2 --mnist-root {mnist}",
        ["one fit from scratch", "the path", "5 of 5 converged"],
    ),
    SmokeRun("map", "--tiny --repeats 1 --case 1000-10 --gap 1e-3", ["300 x 10, 2 classes", "| 1e-03 |"]),
    SmokeRun(
        "gpu",
        "--device cpu --tiny --repeats 1 --case 20k-30-30 --case l1-20k-200-0.1 --case epoch --gap 1e-3 "
        "--mnist-root {mnist}",
        ["300 x 30, 5 classes", "lbfgs float", "300 x 40, 2 classes", "hand-written loop"],
    ),
    SmokeRun("solver_map", "--tiny", ["working sets", "one thread for little work"]),
    SmokeRun("l1", "--part dependent --l1 1e-2", ["certified: newton 6 of 6", "liblinear"]),
    SmokeRun("estimator", "--repeats 1 --fits 1", ["100 x 5: milliseconds of a fit", "ours: optimal to"]),
    SmokeRun(
        "sklearn_suite",
        "--only test_(nan|sparsify)",
        ["test_nan: passed", "test_sparsify[coo_array]: passed", " 0 failed"],
    ),
    SmokeRun(
        "cross_validation",
        "--tiny --repeats 1 --without-r",
        ["64 x 4, lasso: 10 folds", "55 of 55 fits certified", "softmax"],
    ),
    SmokeRun("l1", "--part path --tiny --repeats 1 --rival celer", ["500 x 5,000", "certified"]),
    SmokeRun("sparse", "--repeats 1 --rows 300 --features 60 --gap 1e-3", ["300 x 60", "2 classes", "| 1e-03 |"]),
    SmokeRun("sparse", "--epochs 2 --rows 300 --features 60", ["sgd, an epoch", "SGDClassifier"]),
    SmokeRun("sparse", "--repeats 1 --text {text} --gap 1e-3", ["**text**", "3 classes"]),
    SmokeRun(
        "processes", "--predict --simulate --tiny --runs 2", ["| 1e+11 x 1,000 |", "slowest of 1,024", "simulated, h"]
    ),
    SmokeRun("references", "", ["spector, std_error", "anes96, p", "0 comparisons beyond their target"]),
    SmokeRun("inference", "--repeats 1 --rows 200 --features 2", ["200 x 2", "HC3", "average effects", "checks"]),
    SmokeRun(
        "wide_categories",
        "--tiny --repeats 1 --rows 2000 --levels 200",
        ["2,000 rows, 200 levels", "scikit-learn's newton-cg", "20 x 1", "of one row"],
    ),
]
"""Those of a few seconds."""

SLOW = [
    SmokeRun("commands", "--repeats 1 --only commands", ["train.py breast_cancer", "the tutorial's plain script"]),
    SmokeRun("commands", "--repeats 1 --only table --rows 1000", ["1,000 x 30 in CSV: peak memory, GiB"]),
    SmokeRun("text", "--repeats 1 --text {text} --gap 1e-3", ["3 classes", "ours: accuracy", "scikit-learn: accuracy"]),
    SmokeRun("image_cache", "--repeats 1 --images 60", ["second start", "backbone=resnet18"]),
    SmokeRun(
        "processes",
        "--efficiency --measure --tiny --repeats 1 --processes 1 --processes 2 --file 0.01 --mnist-root {mnist}",
        ["| all-reduce of 20 | 2 |", "largest error", "1 process x 2 threads", "the optimum of MNIST", "mapped file"],
    ),
    SmokeRun("scale", "--rows 2000 --features 3", ["2,000 x 3 in 1 files", "ours, mapped", "anonymous memory"]),
    SmokeRun("feature_matrix", "--rows 500 --width 16", [".npy", ".npz", ".safetensors", ".parquet"]),
    SmokeRun(
        "prediction", "--repeats 1 --blocks 1 --shape 784x10 --rows 1000", ["1,000 rows of 30 features", ".npy to .csv"]
    ),
]
"""Those that start many processes."""

RUNS = [*FAST, *(pytest.param(run, marks=pytest.mark.slow) for run in SLOW)]


@pytest.mark.long
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_benchmark_runs_at_a_tiny_size(
    run: SmokeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # the one for the GPU sets it; it ends with the test
    write_fake_mnist(tmp_path)
    text = tmp_path / "text.csv"
    words = ["red green blue", "one two three", "north south east"]
    text.write_text("text,topic\n" + "".join(f"{words[row % 3]} {row % 4},{row % 3}\n" for row in range(60)))
    assert import_module(run.name).main(run.typed.format(mnist=tmp_path, text=text).split()) == 0
    out = capsys.readouterr().out
    assert [part for part in run.printed if part not in out] == []


def test_every_benchmark_has_a_smoke_run() -> None:
    files = {file.stem for file in BENCHMARKS.glob("*.py")}
    assert files >= SHARED
    assert files - SHARED == {run.name for run in [*FAST, *SLOW]}


@pytest.mark.parametrize("name", sorted({run.name for run in [*FAST, *SLOW]}))
def test_help_states_what_a_benchmark_compares(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = import_module(name)
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    assert str(module.__doc__).splitlines()[0] in capsys.readouterr().out


@pytest.mark.parametrize("repeats", ["0", "-1", "x"])
def test_a_number_of_repeats_must_be_positive(
    repeats: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    with pytest.raises(SystemExit, match="2"):
        import_module("commands").main([f"--repeats={repeats}"])
    assert "must be a whole number of at least 1" in capsys.readouterr().err


def test_a_path_is_not_compared_with_glmnet_where_r_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("PATH", str(tmp_path))
    benchmark = import_module("l1")
    assert list(benchmark._path_rivals(["glmnet"])) == []
    assert "glmnet: skipped, since R" in capsys.readouterr().out
