"""Configs of the user's own, in the folder that ``config_dir`` names."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from logreg.commands import certify, sweep
from logreg.commands.config_files import CONF, own_folder, with_bases
from logreg.commands.overrides import composed_config, parse_overrides, quoted
from logreg.commands.train_help import help_text
from logreg.errors import ConfigError
from logreg.training.module import LogisticModule
from whole_runs import Answer

HEAD = "# @package _global_\n"

OWN = {
    "dataset/students.yaml": "defaults: [table@_here_, _self_]\npath: rows.csv\ntarget: passed\n",
    "experiment/strong.yaml": f"{HEAD}defaults:\n  - override /dataset: students\nl2: 0.5\n",
    "optimizer/heavy.yaml": "defaults: [sgd, _self_]\nmomentum: 0.5\n",
}
"""Files by their names in the folder."""


def write(files: dict[str, str], folder: Path = Path("mine")) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_rows() -> None:
    rows = "".join(f"{hours},{'yes' if hours in (3, 5, 6, 7, 8) else 'no'}\n" for hours in range(1, 9))
    Path("rows.csv").write_text("hours,passed\n" + 3 * rows, encoding="utf-8")


def newest(answer: Answer) -> dict[str, object]:
    """The summary of the newest run."""
    assert (answer.code, answer.err.count("Traceback")) == (0, 0), answer.err
    folder = Path("runs") / Path("runs/latest").read_text(encoding="utf-8").strip()
    summary: dict[str, object] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


def test_an_experiment_of_ones_own_chooses_a_dataset_of_ones_own(run_train: Callable[[str], Answer]) -> None:
    write(OWN)
    write_rows()
    summary = newest(run_train("config_dir=mine experiment=strong"))
    config = summary["config"]
    assert isinstance(config, dict)
    assert (config["l2"], config["dataset"]["name"], config["dataset"]["path"]) == (0.5, "table", "rows.csv")
    assert (config["config_dir"], config["optimizer"]["name"]) == ("mine", "auto")
    assert "config_dir" not in str(summary["folder"])
    typed = newest(run_train("dataset=table dataset.path=rows.csv dataset.target=passed l2=0.5"))
    assert typed["metrics"] == summary["metrics"]


def test_an_optimizer_of_ones_own_takes_over_the_keys_that_it_builds_on(run_train: Callable[[str], Answer]) -> None:
    write(OWN)
    config = newest(run_train("config_dir=mine optimizer=heavy max_epochs=2"))["config"]
    assert isinstance(config, dict)
    assert config["optimizer"] == {"name": "sgd", "momentum": 0.5, "nesterov": False}


def test_a_cross_validation_takes_the_rows_of_val_of_such_a_dataset(run_train: Callable[[str], Answer]) -> None:
    write(OWN)
    write_rows()
    summary = newest(run_train("config_dir=mine dataset=students cv=3 l2=0.1 report=brief"))
    assert isinstance(summary["metrics"], dict)
    assert [*summary["metrics"]] == ["train", "test", "cv"]


def test_an_experiments_expectation_holds_for_its_own_dataset_alone(run_train: Callable[[str], Answer]) -> None:
    expected = "expected: {accuracy/train: 0.5, tolerance: 0.5}\n"
    write({**OWN, "experiment/strong.yaml": OWN["experiment/strong.yaml"] + expected})
    write_rows()
    assert "expected accuracy/train" in run_train("config_dir=mine experiment=strong").out
    assert "expected accuracy/train" not in run_train("config_dir=mine experiment=strong dataset=blobs").out


def test_jobs_of_a_grid_choose_among_both(run_train: Callable[[str], Answer]) -> None:
    write(OWN)
    write_rows()
    answer = run_train("-m config_dir=mine dataset=students,blobs l2=0.1")
    assert answer.code == 0
    summaries = [json.loads(path.read_text(encoding="utf-8")) for path in Path("runs/sweeps").glob("*/*/summary.json")]
    assert sorted(one["config"]["dataset"]["name"] for one in summaries) == ["blobs", "table"]


def test_a_search_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(OWN)
    plan = sweep.parse_plan(["config_dir=mine", "dataset=students", "search.l2=log(1e-3,1)"])
    assert plan.config.dataset["path"] == "rows.csv"


def test_help_lists_the_keys_of_such_a_dataset(tmp_path: Path) -> None:
    text = help_text([f"config_dir={write(OWN, tmp_path)}", "dataset=students"])
    assert text.startswith("keys of dataset=students, as dataset.<key>=value\n  path: rows.csv\n  target: passed\n")
    assert "  decimal:" in text


def test_a_run_that_continues_has_its_configs_typed_again(
    run_train: Callable[[str], Answer], capfd: pytest.CaptureFixture[str]
) -> None:
    write(OWN)
    write_rows()
    newest(run_train("config_dir=mine experiment=strong"))
    refused = run_train("ckpt_path=latest max_epochs=2000")
    line = "`ckpt_path` must go with the configs of its run. Add config_dir=mine if you trust them.\n"
    assert (refused.code, refused.err) == (2, line)
    config = newest(run_train("ckpt_path=latest max_epochs=2000 config_dir=mine"))["config"]
    assert isinstance(config, dict)
    assert (config["l2"], config["max_epochs"], config["dataset"]["path"]) == (0.5, 2000, "rows.csv")
    assert certify.main([]) == 2
    assert capfd.readouterr().err == line
    assert certify.main(["config_dir=mine"]) == 0
    assert "verdict       optimal" in capfd.readouterr().out


@pytest.mark.long
def test_an_interrupted_run_continues_in_its_folder_however_config_dir_is_written(
    run_train: Callable[[str], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(OWN)
    write_rows()
    log, handler = LogisticModule.on_train_batch_end, signal.getsignal(signal.SIGINT)

    def control_c(module: LogisticModule, *arguments: object) -> None:
        log(module, *arguments)  # type: ignore[arg-type]  # handed on as they came
        if module.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LogisticModule, "on_train_batch_end", control_c)
        stopped = run_train("config_dir=mine dataset=students optimizer=sgd max_epochs=5 report=brief")
    signal.signal(signal.SIGINT, handler)  # Lightning has switched it off
    assert stopped.err.endswith("`ckpt_path=latest config_dir=mine` continues from the last epoch that was saved.\n")
    newest(run_train("ckpt_path=latest config_dir=./mine/"))
    assert len([*Path("runs/rows").iterdir()]) == 1


def test_a_run_of_an_experiment_is_certified_and_continues(
    run_train: Callable[[str], Answer], capfd: pytest.CaptureFixture[str]
) -> None:
    before = newest(run_train("experiment=breast_cancer_l2 max_epochs=3"))
    assert certify.main([]) == 0
    answer = capfd.readouterr()
    assert "breast_cancer" in answer.out
    assert "left out" not in answer.err
    after = run_train("ckpt_path=latest max_epochs=4")
    assert "left out" not in after.err
    config = newest(after)["config"]
    assert isinstance(config, dict)
    assert isinstance(before["config"], dict)
    assert config | {"max_epochs": 3, "ckpt_path": None} == before["config"]


def test_a_checkpoint_outside_its_run_folder_continues_with_the_settings_of_its_run(
    run_train: Callable[[str], Answer],
) -> None:
    newest(run_train("dataset=iris max_epochs=3 lr=0.1"))
    Path("runs/latest").rename("latest")
    next(Path("runs").glob("iris/*/checkpoints/last.ckpt")).rename("alone.ckpt")
    refused = run_train("ckpt_path=alone.ckpt max_epochs=4")
    advice = "Type the settings of its run, which the file lacks, or name another run."
    line = f"`ckpt_path` must fit the run: the dataset of alone.ckpt is 'iris', of this run 'toy'. {advice}\n"
    assert (refused.code, refused.err) == (2, line)
    config = newest(run_train("ckpt_path=alone.ckpt max_epochs=4 dataset=iris lr=0.1"))["config"]
    assert isinstance(config, dict)
    assert config["max_epochs"] == 4


BROKEN = {
    "missing": ({}, "config_dir=nowhere", "`config_dir` must be a folder, and nowhere is missing."),
    "a file": (
        OWN,
        "config_dir=mine/dataset/students.yaml",
        "must be a folder, and mine/dataset/students.yaml is a file.",
    ),
    "empty": (OWN, "config_dir=mine/dataset", "must have files such as experiment/NAME.yaml or dataset/NAME.yaml"),
    "several": (OWN, "-m config_dir=mine,yours", "`config_dir` must be one folder, for all jobs of a sweep."),
    "a known name": (
        {"dataset/mnist.yaml": "name: table\n"},
        "config_dir=mine",
        "must have names of its own, and mnist of mine/dataset/mnist.yaml is one that logreg has. Rename the file.",
    ),
    "no YAML": (
        {"dataset/a.yaml": "path: [1\n"},
        "config_dir=mine",
        "`mine/dataset/a.yaml` must be a text file in YAML, ",
    ),
    "no mapping": ({"dataset/a.yaml": "- path\n"}, "config_dir=mine", "`mine/dataset/a.yaml` must have lines such as "),
    "no package": (
        {"experiment/a.yaml": "l2: 1\n"},
        "config_dir=mine",
        "must begin with the line `# @package _global_`",
    ),
    "a package in a later line": (
        {"experiment/a.yaml": f"# a\n{HEAD}l2: 1\n"},
        "config_dir=mine experiment=a",
        "must begin with the line `# @package _global_`",
    ),
    "no list": (
        {"dataset/a.yaml": "defaults: table\n"},
        "config_dir=mine",
        "`defaults` must be a list such as [table, _self_] in mine/dataset/a.yaml.",
    ),
    "a number": (OWN, "config_dir=2024_01", """got 202401. Put quotes around it: 'config_dir="2024_01"'."""),
    "a number as a name": (
        {"experiment/1.yaml": f"{HEAD}l2: 1\n"},
        "config_dir=mine experiment=1",
        "must have names that begin with a letter, as mine/experiment/1.yaml does not.",
    ),
    "a folder as a file": (
        {"dataset/a.yaml/b.yaml": "path: a\n"},
        "config_dir=mine",
        "`mine/dataset/a.yaml` must be a text file in YAML, ",
    ),
    "another search path": (
        OWN,
        "config_dir=mine hydra.searchpath=[file:///] dataset=students",
        "`hydra.searchpath` must not go with config_dir, which sets it. Leave it out.",
    ),
    "in a circle": (
        {"dataset/a.yaml": "defaults: [b, _self_]\n", "dataset/b.yaml": "defaults: [a, _self_]\n"},
        "config_dir=mine",
        "`mine/dataset/a.yaml` must not build on itself.",
    ),
    "on nothing": (
        {"schedule/a.yaml": "defaults: [linear, _self_]\n"},
        "config_dir=mine",
        "`defaults of mine/schedule/a.yaml` must be one of a, constant, cosine, step, got 'linear'.",
    ),
    "an unknown key": (
        {"dataset/a.yaml": "defaults: [table, _self_]\npth: rows.csv\n"},
        "config_dir=mine dataset=a",
        "`dataset.pth` is not an argument of dataset=table. Did you mean path?",
    ),
    "an unknown setting": (
        {"experiment/a.yaml": f"{HEAD}lerning: 1\n"},
        "config_dir=mine experiment=a",
        "`lerning` must be a key of the config, and there is none of that name.",
    ),
    "an unknown option": (
        OWN,
        "config_dir=mine experiment=strnog",
        "`experiment` must be one of blobs_best, breast_cancer_l2, digits_softmax, mnist_one_vs_rest, mnist_softmax, "
        "strong, toy_tutorial, got 'strnog'. Did you mean strong?",
    ),
}


@pytest.mark.parametrize(("files", "typed", "message"), BROKEN.values(), ids=BROKEN)
def test_files_that_cannot_be_used_are_answered_by_one_line(
    run_train: Callable[[str], Answer], files: dict[str, str], typed: str, message: str
) -> None:
    write(files)
    answer = run_train(typed)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert message in answer.err
    assert not Path("runs").exists()


def test_text_of_another_encoding_is_no_yaml(tmp_path: Path) -> None:
    file = tmp_path / "dataset" / "a.yaml"
    file.parent.mkdir()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"must be a text file in YAML, and is not: 'utf-8' codec"):
        own_folder(parse_overrides([f"config_dir={tmp_path}"]))


@pytest.mark.parametrize("name", ["o'brien", "a, b]", "end\\", 'a"b'])
def test_a_folder_may_have_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(OWN, Path(name, "mine"))
    lines = [f"config_dir={quoted(f'{name}/mine')}", "experiment=strong"]
    assert composed_config(lines).l2 == 0.5
    monkeypatch.chdir(name)
    assert composed_config(["config_dir=mine", "experiment=strong"]).l2 == 0.5


@pytest.mark.parametrize(
    ("defaults", "base"),
    [
        ("", []),
        ("[base/rows@_here_, _self_]", ["base/rows"]),
        ("[/dataset/toy@_here_, {optional b: c}]", ["toy", "base/rows"]),
    ],
)
def test_bases_may_lie_below_or_be_named_from_the_top(defaults: str, base: list[str], tmp_path: Path) -> None:
    file = write({"dataset/a.yaml": f"defaults: {defaults}\n"}, tmp_path) / "dataset/a.yaml"
    assert with_bases(file) == [file, *(CONF / "dataset" / f"{name}.yaml" for name in base)]


def test_bases_are_those_of_logreg_and_the_neighbors(tmp_path: Path) -> None:
    write(
        {"dataset/a.yaml": "defaults: [b, _self_]\n", "dataset/b.yaml": "defaults: [text@_here_, _self_]\n"}, tmp_path
    )
    groups = [
        file.relative_to(tmp_path if tmp_path in file.parents else CONF)
        for file in with_bases(tmp_path / "dataset/a.yaml")
    ]
    assert [one.as_posix() for one in groups] == [
        "dataset/a.yaml",
        "dataset/b.yaml",
        "dataset/text.yaml",
        "dataset/table.yaml",
        "dataset/base/rows.yaml",
    ]
