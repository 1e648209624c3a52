"""An attack on what can be typed: typos, wrong values, nesting, options and keys of Hydra, places that are none.

Each line must end well, or in one line on stderr that leaves nothing behind; what that line says to type is typed, and
must lead on.  Run it with ``pytest --slow -n0 -s tests/attacks -k command_lines``; it prints a table of counts.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from forks import HANGS, LEFT, LINES, OK, REFUSED, TRACEBACK, Report, Result, Server, kind_of, seeds, words
from PIL import Image

LINES_TYPED = 300
"""Of the whole attack."""

SECRET = "s3cr3t-of-the-environment"

MEMORY = 6 * 2**30
"""Bytes that a line may take."""

FAILED, SECRETS, CONTROL, CIRCLE = "a job failed", "secret shown", "control character", "advice in a circle"

WRONG = (TRACEBACK, HANGS, LINES, LEFT, SECRETS, CONTROL, CIRCLE)

BASES: tuple[str, ...] = (
    "train max_epochs=3 report=brief",
    "train dataset=toy optimizer=adam lr=0.1 schedule=cosine max_epochs=3 report=brief",
    "train dataset=iris l2=1e-3 report=brief",
    "train dataset=blobs dataset.rows=60 dataset.features=2 dataset.distance=1.5 report=brief l2=0.1",
    "train dataset=table dataset.path=t.csv dataset.target=y l2=1e-2 report=brief",
    "train dataset=table dataset.path=t.csv dataset.target=y dataset.drop=[g] dataset.split.val=0.3 l2=1",
    "train dataset=table dataset.path=t.csv dataset.target=y l2=path report=brief dataset.split.group=g",
    "train dataset=table dataset.path=t.csv dataset.target=y dataset.class_weight=balanced l2=[1,0.1] report=brief",
    "train dataset=table dataset.path=t.csv dataset.target=y facts=only",
    "train dataset=features dataset.path=f.npz l2=1e-2 report=brief",
    "train dataset=image_folder dataset.path=pictures dataset.size=4 dataset.cache=null max_epochs=1 report=brief",
    "train ckpt_path=latest l2=1 report=brief",
    "train -m seed=0,1 max_epochs=2",
    "train -m dataset=iris l2=1,0.1 hydra.sweep.dir=swept",
    "train experiment=toy_tutorial max_epochs=3 report=brief",
    "train trainer.max_time=00:00:01:00 max_epochs=2 report=brief optimizer=sgd",
    "train hydra.run.dir=out max_epochs=2 report=brief",
    "train --cfg job dataset=iris",
    "evaluate",
    "evaluate split=val json=true",
    "evaluate dataset.path=t.csv output=e.json cost_ratio=5",
    "predict x=1 c=a z=2",
    "predict input=t.csv output=p.csv keep=[x] threshold=0.3",
    "predict input=t.csv separator=, ckpt_path=best",
    "certify ckpt_path=latest",
    "coefficients ckpt_path=latest firth=true interval=profile",
    "certify coef=model.npz dataset=features dataset.path=f.npz C=1",
    "export format=json",
    "export format=onnx output=m.onnx overwrite=true",
    "sweep dataset=table dataset.path=t.csv dataset.target=y search.l2=log(1e-4,1) trials=2",
    "sweep dataset=iris optimizer=sgd search.lr=uniform(0.1,1) max_epochs=2 trials=1 study=mine",
    "compare first latest",
    "compare runs json=true",
)
"""Lines that are right, to begin from."""

VALUES: tuple[str, ...] = (
    *words(
        " |null|none|None|nan|inf|-inf|-1|0|1|2|1.5|-0.0|1e999|1e23|1e-400|0x10|1_000|1e|--1|+1|true|False|yes", "|"
    ),
    *words(
        "'|\"|[|]|[]|{}|{a:1}|{a: {b: c}}|[1,2]|[[1]]|[a,a]|1,2|,|1,|a,b|a:b|a=b|=|==|(|)|f(1)|%s|%|$|$$|$HOME", "|"
    ),
    *words("${lr}|${nothing}|${|${l2.x}|${oc.env:SECRET}|${oc.env:SECRET,x}|${now:%Y}|${hydra:runtime.cwd}", "|"),
    *words(
        "${oc.decode:1}|${oc.select:lr}|${oc.create:{a:1}}|${oc.dict.keys:dataset}|${seed}|${dataset}|${${lr}}", "|"
    ),
    *words("choice(1,2)|range(1,4)|glob(*)|interval(0,1)|sort(3,1)|shuffle(1,2)|extend_list(1)|int(3)|str(x)", "|"),
    *words(
        "é|日本|\U0001f600|a b|\\|a\\|\n|\t|\x1b[31m|\x00|\x7f|\u202e|\udc80|<b>|;ls|`ls`|$(ls)|#|???|!x|&a|*a", "|"
    ),
    *[
        "/",
        ".",
        "..",
        "~",
        "/dev/null",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        "/nowhere/x",
        "t.csv",
        "f.npz",
        "pictures",
        "runs",
        "runs/latest",
    ],
    *[
        "first",
        "latest",
        "best",
        "last",
        "model.npz",
        "empty.csv",
        "folder.csv",
        "loop",
        "broken.ckpt",
        "toy",
        "iris",
        "mnist",
        "table",
        "sgd",
        "newton",
    ],
    *words("resnet18|gpu|mps|64|temperature|path|full|y|x|g|val|test", "|"),
    "",
    "x" * 300,
    "x/" * 3000,
    "9" * 400,
    "[" * 200,
)

KEYS: tuple[str, ...] = (
    *words("dataset lr l2 l1 optimizer schedule backbone experiment loss reduction intercept init batch_size polish"),
    *words("max_epochs tolerance calibrate accelerator devices facts precision seed report verbose ckpt_path expected"),
    *words("trainer trainer.max_time trainer.log_every_n_steps trainer.logger trainer.x trainer.limit_train_batches"),
    *words("trainer.profiler trainer.detect_anomaly trainer.val_check_interval trainer.num_sanity_val_steps"),
    *words("trainer.deterministic trainer.inference_mode trainer.benchmark trainer.min_epochs trainer.max_epochs"),
    *words("trainer.limit_val_batches trainer.check_val_every_n_epoch trainer.reload_dataloaders_every_n_epochs"),
    *words("dataset.path dataset.target dataset.name dataset.split dataset.split.val dataset.split.test dataset.x"),
    *words("dataset.split.column dataset.split.group dataset.classes dataset.positive dataset.limit dataset.seed"),
    *words("dataset.class_weight dataset.standardize dataset.recipe dataset.recipe.lr dataset.recipe.max_epochs"),
    *words(
        "dataset.drop dataset.features dataset.categorical dataset.missing_values dataset.weight dataset.train_path"
    ),
    *words("dataset.separator dataset.max_levels dataset.missing dataset.rows dataset.labels dataset.size"),
    *words("dataset.min_level_rows dataset.hash"),
    *words("optimizer.momentum optimizer.name optimizer.nesterov schedule.floor schedule.name backbone.weights"),
    *words("input output keep drop threshold split cost_ratio json overwrite format C lambda weight_decay coef"),
    *words("study storage prune trials search.l2 search.seed search.x search.dataset search.optimizer search. search"),
    *words("hydra.run.dir hydra.sweep.dir hydra.sweep.subdir hydra.verbose hydra.job.chdir hydra.job.name hydra"),
    *words("hydra.output_subdir hydra.mode hydra/launcher hydra/sweeper hydra.callbacks hydra.searchpath"),
    *words("hydra/job_logging hydra/hydra_logging hydra.job_logging.root.level hydra.job.num hydra.launcher"),
    *words("hydra.job.env_set.X hydra.job.config.override_dirname.kv_sep hydra/help hydra.help hydra/env hydra.x"),
    *words("hydra.runtime.cwd hydra.job hydra.run hydra.job_logging hydra.job.id hydra.overrides.task defaults"),
    *words("lr.x l2.0 seed.a.b _target_ dataset._target_ trainer._target_ optimizer@x dataset@_global_ x/y . a..b .a"),
)

OPTIONS: tuple[tuple[str, ...], ...] = (
    *(
        (option,)
        for option in words("-m --multirun --help -h --version --hydra-help --resolve --run -r -x --x -- - -1")
    ),
    *((option,) for option in words("--cfg --info -c -i -p -s --shell-completion -cn -cp -cd --config-dir -mm -h=1")),
    *(words(line) for line in ("--cfg job", "--cfg hydra", "--cfg all", "--cfg x", "--info", "-c job -m")),
    *(words(line) for line in ("--info defaults", "--info searchpath", "--info plugins", "--info config")),
    *(
        tuple(words.split())
        for words in ("--info defaults-tree", "-c job --resolve", "-c job -p dataset", "-c job -p x")
    ),
    *(
        tuple(words.split())
        for words in ("--config-name x", "-cn config", "--config-path /tmp", "-cd pictures", "-cd t.csv")
    ),
    *(
        tuple(words.split())
        for words in ("-sc install=bash", "-sc query=bash", "--experimental-rerun x.pickle", "word")
    ),
)

T = TypeVar("T")

Draw = np.random.Generator


def pick(draw: Draw, choices: Sequence[T]) -> T:
    return choices[int(draw.integers(len(choices)))]


def misspelled(draw: Draw, word: str) -> str:
    if not word:
        return "x"
    at = int(draw.integers(len(word)))
    return pick(
        draw,
        [
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + "abcxyz._-"[int(draw.integers(9))] + word[at + 1 :],
            word[: max(at - 1, 0)] + word[at] + word[max(at - 1, 0) : at] + word[at + 1 :],
            word.upper(),
            word.capitalize(),
            word + "s",
            word.replace("_", "-"),
        ],
    )


def mutated(draw: Draw, line: list[str]) -> list[str]:
    """A line with something wrong about it."""
    settings = [place for place, word in enumerate(line) if "=" in word]
    kind = int(draw.integers(10))
    if settings and kind < 6:
        place = settings[int(draw.integers(len(settings)))]
        key, _, value = line[place].partition("=")
        changed = [
            lambda: f"{key}={pick(draw, VALUES)}",
            lambda: f"{misspelled(draw, key)}={value}",
            lambda: f"{key}={misspelled(draw, value)}",
            lambda: f"{pick(draw, ('+', '++', '~', '-', '--', ' ', '~~'))}{line[place]}",
            lambda: pick(draw, (f"{key} = {value}", f"{key}", f"{key}:{value}", f"{key}=={value}", f"{key}.x={value}")),
            lambda: f"{key}={value} {line[place]}",
        ][kind]()
        return [*line[:place], changed, *line[place + 1 :]]
    if kind < 9 or not settings:
        more = [f"{pick(draw, ('', '', '', '', '+', '++', '~'))}{pick(draw, KEYS)}={pick(draw, VALUES)}"]
        if kind == 8:
            more = list(pick(draw, OPTIONS))
        at = int(draw.integers(len(line) + 1))
        return [*line[:at], *more, *line[at:]]
    return pick(draw, ([*line, line[settings[0]]], [word for word in line if word != line[settings[0]]]))


def drawn(seed: int) -> tuple[str, list[str]]:
    """Command and arguments."""
    draw = np.random.default_rng([seed, 17])
    command, *line = pick(draw, BASES).split()
    for _ in range(1 + int(draw.random() < 0.35)):
        line = mutated(draw, line)
    return command, [word for word in line if "\x00" not in word]  # which no process can be given


PASTED = re.compile(
    r"(?:[Ss]et|[Aa]dd|[Tt]ype|[Oo]r|with|[Uu]se) "
    r"('[^']+'|\"[^\"]+\"|[~a-z][\w.]*=(?:\[.*?\]|[^\s\[]+?))(?=[.,;:]?(?:\s|$))"
)


def advised(command: str, line: list[str], said: str) -> list[list[str]]:
    """The lines that somebody types who reads what was said."""
    tried = []
    key = match[1] if (match := re.match(r"`([^`=]+)[`=]", said)) else ""
    near = re.search(r"Did you mean (.*?)\?(?:\s|$)", said)
    mine = [word for word in line if word.lstrip("+~").partition("=")[0] == key]
    if near and mine:
        is_key = "there is none of that name" in said or re.search("a column that the model .*learned", said)
        for word in mine:
            value = word.partition("=")[2]
            changed = f"{near[1]}={value}" if is_key else f"{key}={near[1]}"
            tried.append([changed if other == word else other for other in line])
    for pasted in PASTED.findall(said.replace("`", "")):
        if re.search(r"[A-Z]{3,}|<", pasted) or "=" not in pasted:
            continue  # a word that stands for something
        setting = pasted.strip("'\"")
        its = setting.partition("=")[0]
        if "." not in its and its not in KEYS:
            continue
        tried.append([*(word for word in line if word.lstrip("+~").partition("=")[0] != its), setting])
    if "Leave it out" in said and mine:
        tried.append([word for word in line if word not in mine])
    if "Add -m" in said:
        tried.append(["-m", *line])
    if "Leave -m out" in said:
        tried.append([word for word in line if word not in ("-m", "--multirun")])
    return tried


@pytest.fixture(scope="module")
def place(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of every kind, and with two runs."""
    here = tmp_path_factory.mktemp("place")
    draw = np.random.default_rng(0)
    rows = ["x,c,z,g,y"]
    for number in range(60):
        x, z = draw.normal(), draw.normal()
        rows.append(f"{x:.3f},{'abc'[number % 3]},{z:.3f},{number // 4},{'yes' if x + draw.normal() > 0 else 'no'}")
    (here / "t.csv").write_text("\n".join(rows) + "\n")
    labels = np.arange(60) % 2
    np.savez(here / "f.npz", features=draw.normal(size=(60, 3)) + labels[:, None], labels=labels)
    np.savez(here / "model.npz", coef=np.ones(3), intercept=0.0)
    for number in range(12):
        picture = here / "pictures" / "ab"[number % 2] / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(picture)
    (here / "empty.csv").touch()
    (here / "folder.csv").mkdir()
    (here / "loop").symlink_to("loop")
    (here / "broken.ckpt").write_bytes(b"PK\x03\x04nonsense")
    base = ["dataset=table", "dataset.path=t.csv", "dataset.target=y", "dataset.drop=[g]", "report=brief"]
    for run, l2 in (("hydra.run.dir=first", "l2=1e-2"), ("seed=0", "l2=1")):
        assert kind_of(server.run(here, "train", *base, run, l2)) == OK
    return here


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_the_lines_to_begin_from_are_right(server: Server, place: Path, tmp_path: Path, base: str) -> None:
    command, *line = base.split()
    result = typed(server, place, tmp_path / "there", command, line)
    assert kind_of(result) == OK, result


def typed(server: Server, place: Path, there: Path, command: str, line: list[str]) -> Result:
    shutil.rmtree(there, ignore_errors=True)
    shutil.copytree(place, there, symlinks=True)
    return server.run(there, command, *line, memory=MEMORY, environment={"SECRET": SECRET})


def judged(result: Result, there: Path) -> str:
    kind = kind_of(result)
    if kind == TRACEBACK and result.code == 1 and "Traceback" not in result.err + result.out:
        kind = FAILED  # of a sweep
    if kind in WRONG:
        return kind
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u2028-\u202e\ud800-\udfff]", result.out + result.err):
        return CONTROL
    new = [there / name for name in result.left]
    held = [path.read_bytes() for path in new if path.is_file()]
    if SECRET in result.out + result.err or any(SECRET.encode() in one for one in held):
        return SECRETS
    return kind


def attack(server: Server, place: Path, there: Path, seed: int) -> list[tuple[str, Result]]:
    """What became of a line, and of what was typed after it."""
    command, line = drawn(seed)
    result = typed(server, place, there, command, line)
    outcomes = [(judged(result, there), result)]
    if outcomes[0][0] == REFUSED:
        for again in advised(command, line, result.err.strip()):
            after = typed(server, place, there, command, again)
            kind = judged(after, there)
            outcomes.append((CIRCLE if kind == REFUSED and after.err == result.err else kind, after))
    return outcomes


@pytest.mark.slow
def test_what_is_typed(server: Server, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report((OK, REFUSED, FAILED), WRONG)
    for seed in seeds(LINES_TYPED):
        for step, (kind, result) in enumerate(attack(server, place, tmp_path / "there", seed)):
            report.add("as advised" if step else result.typed[0], kind, f"[seed {seed}] {result}")
    with capsys.disabled():
        sys.stdout.write(str(report))
    assert not report.wrong, "\n\n".join(report.wrong)
