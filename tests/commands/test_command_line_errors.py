"""`scripts/train.py` as a user types it: what comes back, in which words, and what is left behind."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from logreg.commands.command_line import with_home
from logreg.commands.config_files import CONF
from logreg.commands.overrides import expand_backbone, implied_overrides, parse_overrides
from logreg.commands.run_names import data_name, typed_name
from logreg.commands.train_help import help_text
from logreg.config import EXACT, SETTINGS, RunConfig
from logreg.errors import ConfigError
from logreg.run_folder import find_checkpoint
from whole_runs import Answer, composed, left_in, train

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"

NO_GPU = not (torch.cuda.is_available() or torch.backends.mps.is_available())


def options(group: str) -> list[str]:
    """The options of a group that lie on disk."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def choices(group: str) -> str:
    return ", ".join(options(group))


LEAVE_IT = "Leave it out, and the key keeps its value."

ADVICE = "Name a run folder or a .ckpt file, or leave ckpt_path out to start from scratch."

MISTAKES: dict[str, str] = {
    "lr=abc": "`lr` must be a finite number > 0 or null, got 'abc'.",
    "lr=-1": "`lr` must be a finite number > 0 or null, got -1.",
    "dataset=iris optimizer=newton lr=0.1": (
        "`lr` must go with a first-order optimizer, and optimizer=newton finds its own steps. "
        "Leave it out, or set optimizer=sgd."
    ),
    "batch_size=0": "`batch_size` must be a whole number >= 1 or full, got 0.",
    "optimizer=sgdd": f"`optimizer` must be one of {choices('optimizer')}, got 'sgdd'. Did you mean sgd?",
    "dataset=mnits": f"`dataset` must be one of {choices('dataset')}, got 'mnits'. Did you mean mnist?",
    "lrr=0.1": "`lrr` must be a key of the config, and there is none of that name. Did you mean lr?",
    "zzz=1": "`zzz` must be a key of the config, and there is none of that name. `--help` lists the keys.",
    "ckpt_path=latest": f"`ckpt_path=latest` must find a run, and runs/latest is missing. {ADVICE}",
    "ckpt_path=nowhere.ckpt": (
        f"`ckpt_path=nowhere.ckpt` must find a checkpoint, and nowhere.ckpt is missing. {ADVICE}"
    ),
    "C=1": (
        "`C` must be a key of the config, and there is none of that name. "
        "scikit-learn's C is 1 / (rows * l2): set l2 instead."
    ),
    "target=cut": "`target` must be a key of the config, and there is none of that name. Did you mean dataset.target?",
    "max_iter=9": "`max_iter` must be a key of the config, and there is none of that name. Did you mean max_epochs?",
    "dataset=my/cuts.csv": (
        f"`dataset` must be one of {choices('dataset')}, got 'my/cuts.csv'. "
        "For data of your own set dataset=table dataset.path=my/cuts.csv dataset.target=COLUMN."
    ),
    "dataset.path=cuts.csv dataset.target=cut": (
        "`dataset.path` must go with dataset=features, image_folder, table or text. Set one of these, or leave it out."
    ),
    "lr=1,2": "`lr` must be one value, got '1,2'. Add -m to run once for each of them.",
    "optimizer=adam optimizer.momentum=0.9": (
        "`optimizer.momentum` must go with optimizer=sgd. Set optimizer=sgd, or leave it out."
    ),
    "lr=[1": "`lr=[1` must be written as key=value, brackets and quotes in pairs.",
    "cuts.csv": (
        "`cuts.csv` must be written as key=value, brackets and quotes in pairs. "
        "For data of your own set dataset=table dataset.path=cuts.csv dataset.target=COLUMN."
    ),
    "lr": (
        "`lr` must be written as key=value, brackets and quotes in pairs. "
        "No blanks stand around =, and a setting that has blanks stands in quotes."
    ),
    '"dataset.target=it\'s"': (
        "`dataset.target=it's` must be written as key=value, brackets and quotes in pairs. "
        "Text that has quotes stands in quotes: 'dataset.target=\"it'\\''s\"'."
    ),
}
"""Mistakes that are found before torch is imported, and the one line that answers each."""

LATE_MISTAKES: dict[str, str] = {
    "dataset=mnist dataset.download=false": (
        "mnist not found in `dataset.root=data`: MNIST/raw/train-images-idx3-ubyte is missing. "
        "Run again with `dataset.download=true`, or set `dataset.root` to the folder that has it."
    ),
    "dataset=digits +dataset.root=here": "`dataset.root` is not an argument of dataset=digits.",
    "dataset=blobs dataset.rows=3": "`dataset.rows` must be a whole number >= 10, got 3.",
}
"""Mistakes that need torch to be found."""

GPU_ANSWER = (
    "`accelerator=gpu` must name hardware that torch can use here, and there is no CUDA device. "
    "Use accelerator=cpu, or accelerator=auto to take whatever there is."
)


def ask(command: str, here: Path) -> Answer:
    """Types a command in a folder of its own, while Python notes what it imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(TRAIN), *shlex.split(command)],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stderr.splitlines(keepends=True)
    notes = [line for line in lines if line.startswith("import time:")]
    imported = frozenset(line.rpartition("|")[2].strip().partition(".")[0] for line in notes)
    said = "".join(line for line in lines if line not in notes)
    return Answer(done.returncode, done.stdout, said, left_in(here), imported)


FORKING = """
import json, os, shlex, sys, traceback
from logreg.commands.train import main

def answer(script, command, here, out, err, imported):
    os.chdir(here)
    for file, number in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = [script, *shlex.split(command)]
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    with open(imported, "w") as file:
        json.dump(sorted({name.partition(".")[0] for name in sys.modules}), file)
    os._exit(code)

for words in json.load(sys.stdin):
    child = os.fork()
    if not child:
        answer(*words)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Does what scripts/train.py does, in a process of its own for each command, but starts Python and Hydra only once."""


def ask_all(commands: Sequence[str], folder: Path) -> dict[str, Answer]:
    """Types commands one after the other, each in a folder of its own."""
    heres = [folder / str(number) for number in range(len(commands))]
    words = []
    for command, here in zip(commands, heres, strict=True):
        here.mkdir()
        words.append([str(TRAIN), command, str(here), *(f"{here}.{kind}" for kind in ("out", "err", "imported"))])
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        input=json.dumps(words),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    answers = {}
    for command, here, code in zip(commands, heres, done.stdout.splitlines(), strict=True):
        out, err, imported = (Path(f"{here}.{kind}").read_text() for kind in ("out", "err", "imported"))
        answers[command] = Answer(int(code), out, err, left_in(here), frozenset(json.loads(imported)))
    return answers


WHOLE_PROCESSES = ("lrr=0.1", "--help", "--cfg job")
"""Commands that are typed as a user does."""


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Answer]:
    """What came back for a command of this file; all run once."""
    forked = ask_all([command for command in MISTAKES if command not in WHOLE_PROCESSES], tmp_path_factory.mktemp("f"))
    whole = {command: ask(command, tmp_path_factory.mktemp("here")) for command in WHOLE_PROCESSES}
    return (forked | whole).__getitem__


# Mistakes


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_gets_one_line_and_exit_code_2_and_leaves_nothing(
    typed: Callable[[str], Answer], command: str
) -> None:
    answer = typed(command)
    assert answer.err == MISTAKES[command] + "\n"
    assert (answer.code, answer.out, answer.left) == (2, "", [])


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_answered_without_waiting_for_torch(typed: Callable[[str], Answer], command: str) -> None:
    imported = typed(command).imported
    assert "hydra" in imported  # else nothing was noted, and the next line could not fail
    assert not {"torch", "lightning", "torchmetrics", "torchvision", "sklearn", "matplotlib"} & imported


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU, so this is no mistake here")
def test_a_gpu_that_is_not_there_is_a_mistake_never_a_quiet_run_on_the_cpu(run_train: Callable[[str], Answer]) -> None:
    answer = run_train("accelerator=gpu")
    assert answer.err == GPU_ANSWER + "\n"
    assert (answer.code, answer.out, answer.left) == (2, "", [])


@pytest.mark.parametrize("command", LATE_MISTAKES)
def test_a_mistake_that_torch_must_find_is_answered_in_the_same_way(
    run_train: Callable[[str], Answer], command: str
) -> None:
    answer = run_train(command)
    assert answer.err == LATE_MISTAKES[command] + "\n"
    assert (answer.code, answer.out, answer.left) == (2, "", [])


def test_an_argument_that_the_trainer_does_not_have_is_a_mistake(run_train: Callable[[str], Answer]) -> None:
    answer = run_train("trainer.max_step=3")
    assert re.fullmatch(
        r"`trainer\.max_step` must be an argument of Lightning's Trainer\.( Did you mean trainer\.\w+\?)?\n", answer.err
    )
    assert (answer.code, answer.out, answer.left) == (2, "", [])
    assert "trainer.self" not in run_train("trainer.sel=3").err


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("lr=nan", "`lr` must be a finite number > 0 or null, got nan."),
        ("lr=null", "`lr` must be given with optimizer=sgd, got None. Leave it to the dataset, or set it."),
        (
            "dataset=iris lr=null",
            "`lr` must be given with optimizer=sgd, got None. Leave it to the dataset, or set it.",
        ),
        ("lr=0.1 lr=-1", "`lr` must be a finite number > 0 or null, got -1."),
        *(
            (command, f"`{key}` must be written as key=value: no key can be deleted. {LEAVE_IT}")
            for command, key in (
                ("~lr", "~lr"),
                ("-m ~lr", "~lr"),
                ("-m l2=0.1,1 ~lr=0.1", "~lr=0.1"),
                ("~optimizer", "~optimizer"),
                ("dataset=iris ~dataset.split.val", "~dataset.split.val"),
                ("~hydra.run.dir", "~hydra.run.dir"),
                ("~hydra.run.dir=here", "~hydra.run.dir=here"),
            )
        ),
        ("+lr=0.1", "`+lr` must be typed without +, since lr has a value."),
        (
            "dataset=iris dataset.split=[0.6,null,0.2]",
            "`dataset.split` must be set by its keys, got [0.6,null,0.2]. They are dataset.split.column, "
            "dataset.split.group, dataset.split.test, dataset.split.val.",
        ),
        ("max_epochs=0", "`max_epochs` must be a whole number >= 1, got 0."),
        ("seed=true", "`seed` must be a whole number >= 0 and <= 4294967295, got True."),
        ("seed=4294967296", "`seed` must be a whole number >= 0 and <= 4294967295, got 4294967296."),
        ("loss=bse", "`loss` must be one of auto, bce, cross_entropy, got 'bse'. Did you mean bce?"),
        ("optimizer.momentum=1", "`optimizer.momentum` must be a finite number >= 0 and < 1, got 1."),
        ("schedule=cosin", f"`schedule` must be one of {choices('schedule')}, got 'cosin'. Did you mean cosine?"),
        (
            "schedule.floor=0.1",
            "`schedule.floor` must go with schedule=cosine. Set schedule=cosine, or leave it out.",
        ),
        *(
            (
                command,
                f"`{key}` must go with a first-order optimizer, and optimizer={name} finds its own steps. "
                "Leave it out, or set optimizer=sgd.",
            )
            for command, key, name in (
                ("optimizer=newton lr=0.1", "lr", "newton"),
                ("dataset=iris optimizer=auto batch_size=32", "batch_size", "auto"),
                ("dataset=mnist optimizer=lbfgs schedule=cosine", "schedule", "lbfgs"),
                ("dataset=iris polish=true", "polish", "auto"),
                ("optimizer=newton polish=true", "polish", "newton"),
            )
        ),
        ("tolerance=0", "`tolerance` must be a finite number > 0 and < 1, got 0."),
        ("dataset=iris tolerance=1", "`tolerance` must be a finite number > 0 and < 1, got 1."),
        ("polish=maybe", "`polish` must be true or false, got 'maybe'."),
        (
            "dataset=iris optimizer=newton optimizer.momentum=0.9",
            "`optimizer.momentum` must go with optimizer=sgd. Set optimizer=sgd, or leave it out.",
        ),
        ("trainer.max_epochs=3", "`trainer.max_epochs` must not be set. Set `max_epochs` instead."),
        (
            "dataset=iris dataset.split.val=0.9",
            "`dataset.split` must leave rows to train on, got {'val': 0.9, 'test': 0.2}.",
        ),
        ("dataset=iris,wine", "`dataset` must be one value, got 'iris,wine'. Add -m to run once for each of them."),
        ("+zzz=1", "`zzz` must be a key of the config, and there is none of that name. `--help` lists the keys."),
    ],
)
def test_a_mistake_names_key_constraint_value_and_choices(
    run_train: Callable[[str], Answer], command: str, sentence: str
) -> None:
    answer = run_train(command)
    assert answer.err == sentence + "\n"
    assert (answer.code, answer.out, answer.left) == (2, "", [])


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("seed=4294967296", "seed"),  # one more than the random generators take
        ("l2=1" + 400 * "0", "l2"),  # a whole number, but none that a float can hold
        ("dataset=null", "dataset"),
        ("optimizer.name=sgdd", "optimizer"),
        ("lr=${nowhere}", "lr"),
        ("dataset=iris dataset.split=0.2", "dataset.split"),
        ("-m experiment=null,toy_tutorial", "experiment"),
        ("--resolve", "--resolve"),
        ("-p dataset", "--package"),
        ("-m -c job", "-m"),
        ("--cfg job --info", "--cfg"),
        ("-c", "--help"),
        ("-c nothing", "--help"),
        ("-sc", "hydra"),
        ("--experimental-rerun x", "--experimental-rerun"),
        ("hydra/job_logging=disabled", "hydra/job_logging"),
        ("hydra/job_logging=none", "hydra/job_logging"),
        ("hydra.mode=MULTIRUN", "hydra.mode"),
        ("dataset.name=../../elsewhere", "dataset"),
        ("max_epochs=1e23", "max_epochs"),
        ("ckpt_path=" + 300 * "a", "ckpt_path=" + 300 * "a"),
        ("dataset=mnist dataset.root=null", "dataset.root"),
        ("expected=3 max_epochs=1", "expected"),
        ("trainer.benchmark=1e max_epochs=1", "trainer"),
        ("dataset=iris l2=path trainer.benchmark=1e", "trainer"),  # said before the path is fitted
        ("hydra.job_logging=64", "hydra.job_logging"),
        ("+dataset=iris", "+dataset=iris"),
        ("++schedule=cosine", "++schedule=cosine"),
    ],
)
def test_a_mistake_far_from_what_people_type_is_answered_in_the_same_way(
    run_train: Callable[[str], Answer], command: str, key: str
) -> None:
    answer = run_train(command)
    assert answer.err.startswith(f"`{key}")
    assert answer.err.count("\n") == 1
    assert (answer.code, answer.out, answer.left) == (2, "", [])


def test_a_mistake_leaves_the_runs_that_are_there_as_they_were(run_train: Callable[[str], Answer]) -> None:
    before = run_train("max_epochs=1 report=brief")
    assert before.code == 0
    newest = find_checkpoint("latest", Path("runs"))
    for command, sentence in (
        ("lr=abc", "`lr` must be a finite number > 0 or null, got 'abc'."),
        (
            "ckpt_path=latest max_epochs=1",
            f"`max_epochs` must exceed the 1 epochs in runs/toy/{newest.parts[-3]}/checkpoints/last.ckpt, got 1. "
            "Try max_epochs=2.",
        ),
    ):
        answer = run_train(command)
        assert (answer.code, answer.err) == (2, sentence + "\n")
        assert answer.left == before.left
        assert find_checkpoint("latest", Path("runs")) == newest


def test_a_run_that_has_no_checkpoint_yet_cannot_be_resumed(run_train: Callable[[str], Answer]) -> None:
    Path("runs/toy/killed").mkdir(parents=True)
    answer = run_train("ckpt_path=runs/toy/killed")
    missing = Path("runs/toy/killed/checkpoints/last.ckpt")
    assert answer.err == f"`ckpt_path=runs/toy/killed` must find a checkpoint, and {missing} is missing. {ADVICE}\n"
    assert (answer.code, answer.out, answer.left) == (2, "", ["runs", "runs/toy", "runs/toy/killed"])


def test_a_bug_keeps_its_traceback(run_train: Callable[[str], Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("logreg.run.train.train", broken)
    # What a user cannot correct must not look like what a user can.
    with pytest.raises(ZeroDivisionError, match=r"^a bug of ours$"):
        run_train("max_epochs=1")


def test_a_run_that_is_stopped_before_an_epoch_was_saved_says_so_and_leaves_nothing(
    run_train: Callable[[str], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("logreg.run.train.train", stopped)
    answer = run_train("max_epochs=1")
    assert answer.err == "Stopped. No epoch was saved yet: the same command starts again.\n"
    assert (answer.code, answer.out, answer.left) == (130, "", [])
    answer = run_train("-m hydra.sweep.dir=jobs lr=0.1,0.2")
    assert (answer.code, answer.err) == (130, "Stopped.\nNo job of jobs has finished.\n")


# Runs


def test_a_run_may_be_in_any_folder_that_the_user_names(run_train: Callable[[str], Answer]) -> None:
    # In a place where no run has ever been, so `runs` is not there yet.
    answer = run_train("max_epochs=1 report=brief hydra.run.dir=out")
    assert answer.code == 0
    assert "out/summary.json" in answer.left


@pytest.mark.long
def test_two_runs_in_the_same_second_have_folders_of_their_own(run_train: Callable[[str], Answer]) -> None:
    for _ in range(2):
        assert run_train("max_epochs=1 report=brief").code == 0
    folders = [path.name for path in Path("runs/toy").iterdir()]
    assert len(folders) == 2
    # Microseconds are in the name, so the same second is not the same folder; and it carries no `=`.
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}_max_epochs-1", folder) for folder in folders)
    assert run_train("report=brief").code == 0  # nothing that makes another model
    assert any(re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}", path.name) for path in Path("runs/toy").iterdir())


NAMES = {
    "": "",
    "dataset=mnist lr=0.1": "lr-0.1",  # and not the optimizer that goes without saying
    "optimizer=sgd lr=0.1": "lr-0.1",
    "optimizer=sgd": "optimizer-sgd",
    "optimizer=adam lr=-1": "optimizer-adam_lr--1",
    "dataset=table dataset.path=data/titanic.csv l2=1e-3 ~l1": "l2-1e-3",
    "'dataset.classes=[3, 8]' 'dataset.class_weight={pass: 2}'": "classes-3-8_class_weight-pass-2",
    "dataset.split.val=0.3 +trainer.max_time=00:00:10:00": "val-0.3_max_time-00-00-10-00",
    # what another key is called keeps its group
    "backbone=resnet18 backbone.batch_size=8": "backbone-resnet18_backbone.batch_size-8",
    "dataset.features=[a] backbone.features=b": "dataset.features-a_backbone.features-b",
    # nothing secret, nothing long
    "backbone.weights=/secret/best.pth lr=1": "weights-best.pth_lr-1",
    "dataset.weight=postgresql://me:hunter2@host/x lr=1": "lr-1",
    f"dataset.drop=[{','.join(20 * ['column'])}] lr=1": "lr-1",
    "lr=0.1 lr=0.2": "lr-0.2",
    "'l2=${lr}' lr=1": "lr-1",
}


@pytest.mark.parametrize("typed", NAMES)
def test_a_run_folder_is_called_after_what_was_typed(typed: str) -> None:
    words = expand_backbone(shlex.split(typed))
    lines = [*implied_overrides({word.partition("=")[0] for word in words}), *words]
    assert typed_name(lines) == NAMES[typed]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ({"name": "mnist", "root": "data"}, "mnist"),
        ({"name": "table", "path": "data/titanic.csv"}, "titanic"),
        ({"name": "table", "path": "../titanic.v2.tsv.gz"}, "titanic.v2"),
        ({"name": "table", "path": None, "train_path": "a/one.parquet", "test_path": "b/two.parquet"}, "one"),
        ({"name": "features", "path": ["x/clip.npy", "x/labels.npy"]}, "clip"),
        ({"name": "image_folder", "path": "birds.small/"}, "birds.small"),
        ({"name": "image_folder", "path": "birds/sub/.."}, "birds"),
        ({"name": "image_folder", "path": "/"}, "image_folder"),
        ({"name": "table", "path": "...csv"}, "table"),
        ({"name": "table", "path": "latest.csv"}, "table_latest"),  # runs/latest is a file
        ({"name": "table", "path": "taxis/*/part-?.parquet"}, "taxis"),
        ({"name": "table", "path": "s3://bucket/taxis/*.parquet"}, "taxis"),
        ({"name": "table", "path": "s3://bucket"}, "bucket"),
        ({"name": "table", "path": "s3://me:hunter2@host/taxis.csv?token=hunter2"}, "taxis"),
    ],
)
def test_the_folder_above_is_called_after_the_data(dataset: dict[str, object], name: str) -> None:
    assert data_name(dataset) == name


@pytest.mark.long
def test_runs_of_a_file_lie_together_under_its_name(run_train: Callable[[str], Answer]) -> None:
    Path("data").mkdir()
    rows = [f"{n % 7},{n % 3},{'no' if (5 * n) % 11 < 5 else 'yes'}" for n in range(60)]
    long = "\N{OX}" * 60 + "=b"
    for file in ("titanic", long):
        Path("data", f"{file}.csv").write_text("\n".join(["x,z,y", *rows]) + "\n", encoding="utf-8")
        typed = f"dataset=table 'dataset.path=\"data/{file}.csv\"' dataset.target=y l2=0.1 report=brief"
        assert run_train(typed).code == 0
    time = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}"
    (folder,) = Path("runs/titanic").iterdir()
    assert re.fullmatch(time + "_target-y_l2-0.1", folder.name)
    (other,) = (path for path in Path("runs").iterdir() if path.name[0] == "\N{OX}")
    assert "=" not in other.name
    # going on with other settings is a run beside it; the newest
    assert run_train(f"ckpt_path={folder} l2=0.2 report=brief").code == 0
    (further,) = set(Path("runs/titanic").iterdir()) - {folder}
    assert re.fullmatch(time + "_target-y_l2-0.2", further.name)
    assert find_checkpoint("latest", Path("runs")).parents[1] == further


def test_a_folder_that_holds_a_run_is_not_written_over(run_train: Callable[[str], Answer]) -> None:
    before = run_train("max_epochs=1 report=brief hydra.run.dir=runs/mine")
    answer = run_train("max_epochs=1 hydra.run.dir=runs/mine")
    sentence = "`hydra.run.dir` must name a new folder, and runs/mine holds a run.\n"
    assert (answer.code, answer.out, answer.err) == (2, "", sentence)
    assert answer.left == before.left


@pytest.mark.parametrize("typed", ["hydra.run.dir={}", "-m hydra.sweep.dir={} lr=0.1,0.2"])
@pytest.mark.parametrize("place", ["other", ".", "/", "other/..", "file", "file/below", 300 * "a", 3000 * "a/"])
def test_a_run_lives_in_a_folder_of_its_own(run_train: Callable[[str], Answer], typed: str, place: str) -> None:
    Path("other").mkdir()
    Path("other/thesis.txt").write_text("three years")
    Path("file").write_text("x")
    answer = run_train(f"{typed.format(place)} max_epochs=1")
    assert re.match(
        r"`hydra\.(run|sweep)\.dir` must (name a new folder|be a folder|be a place to write to)\b", answer.err
    )
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert answer.left == ["file", "other", "other/thesis.txt"]


def test_a_folder_that_hydra_knows_the_name_of_is_looked_at_too(run_train: Callable[[str], Answer]) -> None:
    Path("train").mkdir()
    Path("train/thesis.txt").write_text("three years")
    answer = run_train("'hydra.run.dir=${hydra.job.name}' max_epochs=1")
    assert answer.err == "`hydra.run.dir` must name a new folder, and train holds other things.\n"
    assert answer.code == 2
    assert Path("train/thesis.txt").read_text() == "three years"


@pytest.mark.parametrize("sweep", ["", "-m lr=0.1,0.2 "])
def test_a_job_whose_log_would_need_a_folder_is_refused(run_train: Callable[[str], Answer], sweep: str) -> None:
    answer = run_train(f"{sweep}hydra.job.name=x/y")
    assert answer.err == "`hydra.job.name` must be a name without separators, got 'x/y'. Try x-y.\n"
    assert (answer.code, answer.out, answer.left) == (2, "", [])


def test_an_empty_folder_and_that_of_a_run_killed_at_its_start_can_be_used(run_train: Callable[[str], Answer]) -> None:
    Path("mine/.hydra").mkdir(parents=True)
    Path("mine/checkpoints").mkdir()
    for name in (".hydra/config.yaml", "train.log", "events.out.tfevents.1.x.1.0", "checkpoints/.last.ckpt.1"):
        (Path("mine") / name).write_text("")
    Path("empty").mkdir()
    for folder in ("mine", "empty"):
        assert run_train(f"max_epochs=1 report=brief hydra.run.dir={folder}").code == 0
        assert Path(folder, "summary.json").is_file()


def test_where_runs_is_a_file_nothing_runs_but_elsewhere(
    run_train: Callable[[str], Answer], run_command: Callable[..., Answer]
) -> None:
    Path("runs").write_text("x")
    sentence = "`runs` must be the folder of all runs, and it is a file. Move it away.\n"
    for command in ("max_epochs=1", "-m lr=0.1,0.2"):
        answer = run_train(command)
        assert (answer.code, answer.err, answer.left) == (2, sentence, ["runs"])
    answer = run_command(Path.cwd(), "sweep", "dataset=iris", "search.l2=log(1e-3,1)", "trials=1")
    assert (answer.code, answer.err, answer.left) == (2, sentence, ["runs"])
    answer = run_train("max_epochs=1 report=brief hydra.run.dir=elsewhere")
    assert answer.code == 0
    assert "elsewhere/summary.json" in answer.left
    assert "runs/latest cannot be written (file exists): ckpt_path=latest does not know this run, " in answer.err
    assert answer.err.count("runs/latest") == 1
    assert Path("runs").read_text() == "x"


def test_a_folder_called_latest_is_refused(run_train: Callable[[str], Answer]) -> None:
    Path("runs/latest").mkdir(parents=True)
    answer = run_train("max_epochs=1")
    assert answer.err == "`runs/latest` must be the file that names the newest run, got a folder. Move it away.\n"
    assert (answer.code, answer.left) == (2, ["runs", "runs/latest"])
    answer = run_train("ckpt_path=latest")
    assert (answer.code, answer.err.count("\n")) == (2, 1)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can mount")
@pytest.mark.slow
def test_from_a_folder_that_cannot_be_written_to_a_run_goes_elsewhere(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", here], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        for places, code in (([], 2), ([f"hydra.run.dir={tmp_path}/run"], 0)):
            command = [sys.executable, str(TRAIN), "max_epochs=1", "report=brief", *places]
            done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == code, done.stderr
            assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", here], check=True)
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can mount")
@pytest.mark.slow
def test_a_full_disk_is_one_line_that_says_what_is_kept(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    ends = set()
    for kilobytes in (30, 60, 80, 150, 400):
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", here], check=False).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            typed = ("dataset=iris", "l2=0.1", f"hydra.run.dir={here}/run")
            command = [sys.executable, str(TRAIN), *typed]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 2, done.stderr
            assert "Traceback" not in done.stderr
            line = done.stderr.splitlines()[-1]
            assert line.startswith("`hydra.run.dir` must ")
            assert "o space left on device" in line
            finished = "Training is finished" in line
            ends.add(finished)
            is_saved = (here / "run" / "checkpoints" / "last.ckpt").is_file()
            assert is_saved if finished else is_saved or not (here / "run").exists()
        finally:
            subprocess.run(["umount", here], check=True)
    assert ends == {False, True}


def test_a_disk_that_is_full_after_training_is_one_line_that_says_so(
    run_train: Callable[[str], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("logreg.run.train.summarize", full)
    answer = run_train("max_epochs=3 hydra.run.dir=here")
    assert answer.err.splitlines()[-1] == (
        "`hydra.run.dir` must have room for the report, got no space left on device. Training is finished, and "
        "here/checkpoints/last.ckpt has its 3 epochs. Make room, and type ckpt_path=here/checkpoints/last.ckpt."
    )
    assert answer.code == 2


def test_the_thread_that_writes_events_leaves_its_end_to_us(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from logreg.training.tracking import RunLogger

    logger = RunLogger(tmp_path / "run")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    logger.writer._get_file_writer().event_writer._async_writer._writer.write = full
    logger.log_metrics({"loss/train": 1.0}, 1)
    with pytest.raises(OSError, match="No space left"):
        logger.writer.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("experiment=breast_cancer_l2", True),
        ("experiment=breast_cancer_l2 dataset=breast_cancer", True),
        ("experiment=breast_cancer_l2 dataset=wine", False),
        ("experiment=breast_cancer_l2 dataset=wine 'expected={loss/test: 1, tolerance: 1}'", True),
    ],
)
def test_an_experiment_on_other_data_expects_nothing(
    run_train: Callable[[str], Answer], typed: str, expected: bool
) -> None:
    answer = run_train(f"{typed} --cfg job")
    assert answer.code == 0, answer.err
    assert bool(OmegaConf.create(answer.out).expected) is expected


def test_text_outside_the_grammar_of_hydra_needs_no_quotes_in_a_mapping() -> None:
    (override,) = parse_overrides(["reference={color:deep (blue),size:2}"])
    assert override.value() == {"color": "deep (blue)", "size": "2"}
    (override,) = parse_overrides(["reference={color:red,size:2}"])
    assert override.value() == {"color": "red", "size": 2}
    with pytest.raises(ConfigError, match="brackets and quotes in pairs"):
        parse_overrides(["reference={deep (blue)}"])


def test_no_experiment_can_be_typed(run_train: Callable[[str], Answer]) -> None:
    assert run_train("experiment=null --cfg job").out == run_train("--cfg job").out


@pytest.mark.parametrize("typed", ["-i l2=0.5", "l2=0.5 -i report=brief", "--cfg job l2=0.5", "l2=0.5 --cfg job"])
def test_an_option_does_not_take_a_setting_for_its_value(run_train: Callable[[str], Answer], typed: str) -> None:
    answer = run_train(typed)
    assert (answer.code, answer.err) == (0, "")
    assert "\nl2: 0.5\n" in answer.out


@pytest.mark.parametrize(
    ("typed", "option", "folder"),
    [
        ("--config-dir=mine experiment=toy_tutorial", "--config-dir", "config_dir=mine"),
        ("-cd 'my own'", "--config-dir", "'config_dir=my own'"),
        ("--config-name=mine", "--config-name", "config_dir=FOLDER"),
        ("--config-path=mine", "--config-path", "config_dir=FOLDER"),
    ],
)
def test_hydras_options_for_files_elsewhere_have_a_setting_in_their_place(
    run_train: Callable[[str], Answer], typed: str, option: str, folder: str
) -> None:
    answer = run_train(typed)
    assert (answer.code, answer.err) == (
        2,
        f"`{option}` must not be used. Type {folder}, a folder with files of your own such as experiment/NAME.yaml.\n",
    )


def test_a_name_that_looks_like_a_number_is_typed_in_quotes(run_train: Callable[[str], Answer]) -> None:
    typed = "dataset=table dataset.target=y l2=1 report=brief"
    answer = run_train(f"{typed} dataset.path=2024")
    assert (
        answer.err == "`dataset.path` must be text or null, got 2024. Put quotes around it: 'dataset.path=\"2024\"'.\n"
    )
    answer = run_train(f"{typed} 'dataset.path=\"2024\"'")
    assert (
        answer.err
        == "`dataset.path` must be a file, and 2024 is missing. Relative paths start at the current folder.\n"
    )


@pytest.mark.parametrize(
    ("typed", "filled"),
    [
        ("x='~/a,~/b'", "x='HOME/a,~/b'"),
        ("x='a,~/b'", "x='a,~/b'"),
        ('x=["a, [~/b","~/c",~/d]', 'x=["a, [~/b","HOME/c",HOME/d]'),
        (r"x=['\',~/a',~/b]", r"x=['\',~/a',HOME/b]"),
        ("x=[it's,~/a]", "x=[it's,HOME/a]"),
        ("x=['',~/a,'']", "x=['',HOME/a,'']"),
    ],
)
def test_a_tilde_within_a_text_in_quotes_stays(typed: str, filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/folder")
    assert with_home(typed) == filled.replace("HOME", "/folder")


def test_a_long_value_is_not_repeated_in_full(run_train: Callable[[str], Answer]) -> None:
    answer = run_train("loss=" + 5000 * "x")
    assert answer.err.startswith("`loss` must be one of auto, bce, cross_entropy, got 'xxx")
    assert answer.err.endswith("x....\n")
    assert len(answer.err) < 400


def test_a_message_does_not_repeat_a_whole_file(run_train: Callable[[str], Answer]) -> None:
    Path("long.csv").write_text(50_000 * "x" + ",y\n1,a\n2,b\n")
    answer = run_train("dataset=table dataset.path=long.csv dataset.target=z")
    assert answer.code == 2
    assert answer.err.startswith("`dataset.target` must name a column of long.csv, got 'z'. long.csv has xxx")
    assert answer.err.endswith("xxx..., y.\n")
    assert len(answer.err) < 200


def test_options_may_stand_before_or_after_the_settings(run_train: Callable[[str], Answer]) -> None:
    before, after = run_train("--cfg job lr=0.25"), run_train("lr=0.25 --cfg job")
    assert before.code == after.code == 0
    assert before.out == after.out
    assert OmegaConf.create(before.out).lr == 0.25


# Who sets a setting of stochastic gradient descent asks for it


@pytest.mark.parametrize(
    ("command", "optimizer"),
    [
        ("dataset=iris", "auto"),
        ("dataset=iris l2=0.1 max_epochs=7 tolerance=1e-9 precision=64", "auto"),
        ("dataset=iris lr=0.25", "sgd"),
        ("dataset=iris batch_size=7", "sgd"),
        ("dataset=iris batch_size=full", "sgd"),
        ("dataset=iris schedule=cosine", "sgd"),
        ("dataset=iris schedule=step schedule.every=2", "sgd"),
        ("dataset=iris optimizer.momentum=0.9 optimizer.nesterov=true", "sgd"),
        ("dataset=iris optimizer=adam lr=0.25", "adam"),
        ("dataset=iris optimizer=newton", "newton"),
        ("optimizer=lbfgs", "lbfgs"),
        ("experiment=digits_softmax lr=0.25", "sgd"),
    ],
)
def test_the_optimizer_is_the_one_that_was_named_or_meant(
    run_train: Callable[[str], Answer], command: str, optimizer: str
) -> None:
    answer = run_train(f"{command} --cfg job --resolve")
    assert answer.err == ""
    plain = OmegaConf.to_container(OmegaConf.create(answer.out))
    assert isinstance(plain, dict)
    config = RunConfig.from_mapping({str(key): value for key, value in plain.items()})
    assert config.optimizer["name"] == optimizer
    if optimizer in EXACT:
        assert (config.lr, config.batch_size) == (None, "full")
    else:
        assert config.lr == (0.25 if "lr=" in command else 0.5)  # else the recipe of iris


# Run folders of strangers


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that may be copied."""
    return train(tmp_path_factory.mktemp("one"), "max_epochs=1").folder


@pytest.fixture
def stranger(tmp_path: Path, one_epoch: Path) -> Path:
    """A run folder, of which only the checkpoint is trusted, and of that only the values; as it is typed."""
    shutil.copytree(one_epoch, tmp_path / "stranger")
    return Path("stranger")


HOSTILE = (
    "+hydra.callbacks.x._target_=joblib.load",
    "+hydra.callbacks.x.filename=evil.pkl",
    "++hydra.callbacks.y._target_=joblib.load",
    "++hydra.callbacks.y.filename=evil.pkl",
    "hydra.launcher._target_=joblib.load",
    "hydra/job_logging=stdout",
    "hydra.job_logging.handlers.file.filename=victim",
    "hydra.run.dir=victim.d",
    "hydra.output_subdir=x",
    "+trainer@hydra.callbacks.x=arguments",
    "+experiment/x@hydra=y",
)


@pytest.mark.long
@pytest.mark.parametrize("typed", ["ckpt_path=stranger", "ckpt_path=stranger/checkpoints/best.ckpt"])
def test_the_settings_of_a_strangers_run_folder_set_nothing_of_hydra(
    run_train: Callable[[str], Answer], stranger: Path, typed: str
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
            return os.mkdir, ("executed",)

    Path("evil.pkl").write_bytes(pickle.dumps(Evil()))
    Path("victim").write_text("mine")
    (stranger / ".hydra" / "overrides.yaml").write_text(json.dumps(["l2=0.5", *HOSTILE]))
    answer = run_train(f"{typed} max_epochs=2 report=brief")
    assert not Path("executed").exists()
    assert Path("victim").read_text() == "mine"
    assert "victim.d" not in answer.left
    assert answer.code == 0
    for setting in HOSTILE:
        assert f"left out of the settings of stranger: {setting}\n" in answer.err
    summary = json.loads((find_checkpoint("latest", Path("runs")).parents[1] / "summary.json").read_text())
    assert summary["overrides"] == [
        "l2=0.5",
        "max_epochs=2",
        "report=brief",
        "ckpt_path='" + summary["resumed_from"] + "'",
    ]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "lr: 0.1",
        "- {lr: 0.1}",
        "- 1",
        "null",
        "- " + 70_000 * "a",
        "\x00",
        b"\xff\xfe",
        "\n".join(["- &a0 x", *(f"- &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 40))]),
        "!!python/object/apply:os.mkdir [executed]",
        1000 * "[",
        Path("overrides.yaml"),  # a link to itself
    ],
)
def test_settings_that_cannot_be_read_are_one_line(
    run_train: Callable[[str], Answer], stranger: Path, content: str | bytes | Path | None
) -> None:
    file = stranger / ".hydra" / "overrides.yaml"
    file.unlink()
    if isinstance(content, Path):
        file.symlink_to(content)
    elif content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    answer = run_train("ckpt_path=stranger max_epochs=2")
    assert answer.err == (
        "`ckpt_path` must be of a run, whose settings stranger/.hydra/overrides.yaml lists, and that is no list of "
        "settings. Copy the .ckpt file out of the run folder, and type the settings.\n"
    )
    assert answer.code == 2
    assert not Path("executed").exists()


def test_settings_in_a_pipe_are_not_waited_for(run_train: Callable[[str], Answer], stranger: Path) -> None:
    file = stranger / ".hydra" / "overrides.yaml"
    file.unlink()
    os.mkfifo(file)
    answer = run_train("ckpt_path=stranger max_epochs=2")
    assert answer.code == 2
    assert answer.err.startswith("`ckpt_path` must be of a run, whose settings stranger/.hydra/overrides.yaml lists")


def test_the_settings_of_a_strangers_run_are_checked_like_typed_ones(
    run_train: Callable[[str], Answer], stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    for setting, sentence in (
        ("dataset.name=../../x", "`dataset` must be one of "),
        ("dataset=../evil", "`dataset` must be one of "),
        ("lr=${oc.env:SECRET}", "`lr` must be a plain value, since the variable SECRET of the environment"),
    ):
        (stranger / ".hydra" / "overrides.yaml").write_text(json.dumps([setting]))
        answer = run_train("ckpt_path=stranger max_epochs=2")
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert answer.err.startswith(sentence)
        assert "hunter2" not in answer.err


# Help


def test_cfg_job_shows_every_setting_at_once_and_leaves_nothing(typed: Callable[[str], Answer]) -> None:
    answer = typed("--cfg job")
    assert set(OmegaConf.create(answer.out)) == {field.name for field in dataclasses.fields(RunConfig)}
    assert (answer.code, answer.err, answer.left) == (0, "", [])
    assert "hydra" in answer.imported
    assert not {"torch", "lightning"} & answer.imported


def test_help_answers_at_once_and_leaves_nothing(typed: Callable[[str], Answer]) -> None:
    answer = typed("--help")
    assert answer.out.startswith("logreg fits a logistic regression")
    assert (answer.code, answer.err, answer.left) == (0, "", [])
    assert "hydra" in answer.imported
    assert not {"torch", "lightning"} & answer.imported


@pytest.mark.long
def test_help_begins_with_the_keys_of_the_option_that_is_typed(
    tmp_path: Path, run_command: Callable[..., Answer]
) -> None:
    for option in options("dataset"):
        keys = help_text([f"dataset={option}"]).removesuffix(help_text())
        assert keys.startswith(f"keys of dataset={option}, as dataset.<key>=value\n")
        listed = re.findall(r"^  (\w+):", keys, re.MULTILINE)
        assert {*listed} == {*composed(option).dataset}
        assert len(listed) <= len({*listed}) + (listed.count("recipe") > 1)  # which has a part in several files
    assert help_text(["dataset=nothing", "lr=1"]) == help_text()
    assert "  word_ngrams: [1, 1] # of text" in run_command(tmp_path, "train", "dataset=text", "--help").out


@pytest.mark.parametrize("group", ["dataset", "backbone", "optimizer", "schedule", "experiment"])
def test_help_names_the_options_on_disk_and_no_others(typed: Callable[[str], Answer], group: str) -> None:
    # The options of a group may fill several lines; a remark in brackets may stand behind them.
    found = re.search(rf"^ +{group} +(\S+(?: \| \S+)+.*(?:\n {{10,}}\S.*)*)$", typed("--help").out, re.MULTILINE)
    assert found is not None
    named = re.sub(r"\(.*?\)|;.*", "", found.group(1)).replace("|", " ").split()
    assert sorted(named) == options(group)


@pytest.mark.parametrize("setting", [field.name for field in dataclasses.fields(RunConfig)])
def test_help_has_every_setting_with_its_default(typed: Callable[[str], Answer], setting: str) -> None:
    shown = typed("--help").out
    if setting in ("dataset", "backbone", "optimizer", "schedule"):
        assert f"{setting}.<key>" in shown
        return
    if setting == "trainer":
        assert "trainer.<argument>" in shown
        return
    plain = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    assert isinstance(plain, dict)
    assert plain[setting] == SETTINGS[setting].default
    default = plain[setting] if isinstance(plain[setting], str) else json.dumps(plain[setting])
    # What the dataset's recipe decides has no default of its own: D.
    default = "D" if default.startswith("${dataset.recipe.") else default
    line = re.search(rf"^ +{setting} +(\S+) +(\S.*)$", shown, re.MULTILINE)
    assert line is not None
    assert line.group(1) == default
    assert SETTINGS[setting].help.startswith(line.group(2))


@pytest.mark.long
def test_a_reader_that_leaves_early_as_head_does_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, TRAIN, "--help"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_the_examples_of_help_can_be_typed(typed: Callable[[str], Answer], run_train: Callable[[str], Answer]) -> None:
    lines = [line.strip() for line in typed("--help").out.splitlines()]
    examples = [re.split(r" {2,}", line)[0] for line in lines if line.startswith("python scripts/train.py")]
    assert len(examples) == 8
    for example in examples:
        words = shlex.split(example)[2:]
        # Of a sweep its first job; a checkpoint is not there to continue from.
        settings = [word.partition(",")[0] for word in words if word != "-m" and not word.startswith("ckpt_path=")]
        answer = run_train(shlex.join([*settings, "--cfg", "job", "--resolve"]))
        assert answer.err == ""
        plain = OmegaConf.to_container(OmegaConf.create(answer.out))
        assert isinstance(plain, dict)
        RunConfig.from_mapping({str(key): value for key, value in plain.items()})


# l2, l2_path and the older form of both in one key


@pytest.mark.long
def test_a_path_can_be_typed_under_its_own_name(run_train: Callable[[str], Answer]) -> None:
    answer = run_train("dataset=iris l2_path=[1,0.1] report=brief")
    assert answer.code == 0
    assert "path: 2 strengths of l2 from 1 to 0.1" in answer.err
    summary = json.loads((find_checkpoint("latest", Path("runs")).parents[1] / "summary.json").read_text())
    assert summary["config"]["l2"] in (1, 0.1)
    assert len(summary["path"]["rows"]) == 2
    folder = find_checkpoint("latest", Path("runs")).parents[1]
    assert folder.name.endswith("_l2_path-1-0.1")
    # the one that is typed takes the place of the other
    assert run_train(f"ckpt_path={folder} l2=0.5 report=brief").code == 0
    summary = json.loads((find_checkpoint("latest", Path("runs")).parents[1] / "summary.json").read_text())
    assert (summary["config"]["l2"], summary["path"]) == (0.5, None)


def test_a_path_takes_the_place_of_the_strength_that_a_recipe_has(run_train: Callable[[str], Answer]) -> None:
    answer = run_train("dataset=blobs l2_path=[1,0.1] report=brief")  # whose recipe has l2=0
    assert answer.code == 0
    assert "path: 2 strengths of l2 from 1 to 0.1" in answer.err


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            "dataset=iris l2=0.1 l2_path=default",
            "`l2_path` must not go with l2, which a path chooses. Type one of them.",
        ),
        (
            "dataset=iris l2_path=path",
            "`l2_path` must be null, default, or a list of numbers > 0 such as [1e-2,1e-3,1e-4], got 'path'.",
        ),
        (
            "l2_path=default",
            "`l2_path` must be null with a first-order optimizer. Set optimizer=auto for a path.",
        ),
        (
            "dataset=iris l2=null",
            "`l2` must be a finite number >= 0, auto, path, or a list of numbers > 0 such as [1e-2,1e-3,1e-4], "
            "got None.",
        ),
    ],
)
def test_a_mistake_in_a_path_is_one_line(run_train: Callable[[str], Answer], command: str, sentence: str) -> None:
    answer = run_train(command)
    assert (answer.code, answer.err, answer.left) == (2, sentence + "\n", [])
