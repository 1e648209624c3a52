"""`scripts/predict.py` on folders: a file of predictions for each file, whoever writes it, and what stops it."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from logreg.commands.predicting import Task, _parts
from models import TABLE_HEADER, Models, table_rows
from process_groups import free_port, typed_in_processes
from whole_runs import Answer, left_in, train

RunCommand = Callable[..., Answer]

SCRIPT = Path(__file__).parents[2] / "scripts" / "predict.py"

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT))

FILES = ("2026/a.csv", "2026/b.tsv", "c.csv.gz", "d.parquet", "e.feather", "f.pq")
"""Files of a folder, some of them below it."""

OUTPUTS = ("2026/a.csv", "2026/b.tsv", "c.csv", "d.parquet", "e.parquet", "f.parquet")
"""Files that they give."""


def write_shards(folder: Path) -> None:
    """Writes tables of 10, 11, ... rows under the names of `FILES`."""
    for place, name in enumerate(FILES):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [TABLE_HEADER, *table_rows(10 + place, seed=place)]
        text = "\n".join(lines) + "\n"
        if name.endswith(".gz"):
            file.write_bytes(gzip.compress(text.encode()))
        elif name.endswith((".csv", ".tsv")):
            file.write_text(text.replace(",", "\t") if name.endswith(".tsv") else text)
        else:
            (folder / "rows.csv").write_text(text)
            table = pyarrow.csv.read_csv(folder / "rows.csv")
            (folder / "rows.csv").unlink()
            (pyarrow.feather.write_feather if name.endswith("feather") else pyarrow.parquet.write_table)(table, file)


def files_in(folder: Path) -> list[str]:
    return [name for name in left_in(folder) if (folder / name).is_file()]


def table_of(file: Path) -> pa.Table:
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file)
    options = pyarrow.csv.ParseOptions(delimiter="\t" if file.suffix == ".tsv" else ",")
    return pyarrow.csv.read_csv(file, parse_options=options)


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    """The same rows; probabilities depend in their last digits on the length of a block, and on threads and memory."""
    assert found.schema == expected.schema
    for name in found.column_names:
        if pa.types.is_floating(found[name].type):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
        else:
            assert found[name].equals(expected[name])


@pytest.fixture
def here(models: Models, tmp_path: Path) -> Path:
    """A folder with the run of a table, and with shards in ``in``."""
    shutil.copytree(models("table") / "runs", tmp_path / "runs", symlinks=True)
    write_shards(tmp_path / "in")
    return tmp_path


@pytest.mark.long
def test_each_file_has_the_predictions_that_it_has_alone(here: Path, run_command: RunCommand) -> None:
    answer = run_command(here, "predict", "input=in", "output=out/deep")
    assert answer.code == 0, answer.err
    assert files_in(here / "out" / "deep") == sorted(OUTPUTS)
    for source, target in zip(FILES, OUTPUTS, strict=True):
        alone = "alone" + Path(target).suffix
        assert run_command(here, "predict", f"input=in/{source}", f"output={alone}", "overwrite=true").code == 0
        assert_same(table_of(here / "out" / "deep" / target), table_of(here / alone))
    last = answer.err.splitlines()[-1]
    assert last.startswith("75 rows of 6 files in ")
    assert last.endswith(" s: out/deep")


def test_the_same_command_goes_on_with_the_missing_files(here: Path, run_command: RunCommand) -> None:
    assert run_command(here, "predict", "input=in", "output=out").code == 0
    whole = {name: table_of(here / "out" / name) for name in OUTPUTS}
    stamps = {name: (here / "out" / name).stat().st_mtime_ns for name in OUTPUTS[2:]}
    for name in OUTPUTS[:2]:
        (here / "out" / name).unlink()
    answer = run_command(here, "predict", "input=in", "output=out")
    assert answer.err.splitlines()[0] == "already in out: 4 files; overwrite=true predicts all again"
    assert answer.err.splitlines()[-1].startswith("21 rows of 2 files in ")
    assert {name: (here / "out" / name).stat().st_mtime_ns for name in stamps} == stamps
    for name in OUTPUTS:
        assert_same(table_of(here / "out" / name), whole[name])
    answer = run_command(here, "predict", "input=in", "output=out", "overwrite=true")
    assert answer.err.splitlines()[-1].startswith("75 rows of 6 files in ")

    later = time.time_ns() + 10**9
    os.utime(here / "in" / FILES[3], ns=(later, later))
    answer = run_command(here, "predict", "input=in", "output=out")
    assert answer.code == 2
    assert answer.err == (
        "`output` must have no file that is older than its input or the model, got out/d.parquet. Name another folder, "
        "or set overwrite=true.\n"
    )


def test_a_file_with_other_columns_is_named_before_anything_is_written(here: Path, run_command: RunCommand) -> None:
    (here / "in" / "z.csv").write_text("size,color\n1,red\n")
    answer = run_command(here, "predict", "input=in", "output=out")
    assert answer.code == 2
    assert answer.err == "`input` must have the column 'wet' that the model learned from [in z.csv].\n"
    assert not (here / "out").exists()


def test_a_file_that_breaks_off_is_not_written_and_the_others_are_whole(here: Path, run_command: RunCommand) -> None:
    lines = table_rows(400, seed=9)
    (here / "in" / "z.csv").write_text("\n".join([TABLE_HEADER, *lines[:300], "wide,red,true,1,2,3,4,5", ""]))
    answer = run_command(here, "predict", "input=in", "output=out")
    assert answer.code == 2
    assert "z.csv" in answer.err
    assert answer.err.count("\n") == 1
    assert "z.csv" not in files_in(here / "out")
    for name in files_in(here / "out"):
        assert table_of(here / "out" / name).num_rows >= 10


def test_a_file_without_rows_gives_one(here: Path, run_command: RunCommand) -> None:
    empty = pyarrow.parquet.read_table(here / "in" / "d.parquet").slice(0, 0)
    pyarrow.parquet.write_table(empty, here / "in" / "d.parquet")
    answer = run_command(here, "predict", "input=in", "output=out", "keep=[size]")
    assert answer.code == 0, answer.err
    tables = [table_of(here / "out" / name) for name in ("d.parquet", "f.parquet")]
    assert tables[0].num_rows == 0
    assert tables[0].schema.equals(tables[1].schema)


def test_matrices_give_arrays(models: Models, tmp_path: Path, run_command: RunCommand) -> None:
    shutil.copytree(models("features") / "runs", tmp_path / "runs", symlinks=True)
    (tmp_path / "in").mkdir()
    rows = np.load(models("features") / "train.npz")["features"]
    np.save(tmp_path / "in" / "a.npy", rows)
    np.savez(tmp_path / "in" / "b.npz", features=rows[:3])
    (tmp_path / "in" / "notes.txt").write_text("no matrix")
    answer = run_command(tmp_path, "predict", "input=in", "output=out")
    assert answer.code == 0, answer.err
    whole, part = (np.load(tmp_path / "out" / name)["probabilities"] for name in ("a.npz", "b.npz"))
    assert len(whole) == len(rows)
    np.testing.assert_allclose(whole[:3], part, rtol=1e-6)


@pytest.mark.long
def test_folders_named_by_values_are_columns(tmp_path: Path, run_command: RunCommand) -> None:
    lines = [f"{row % 7 - 3},{'yes' if row % 7 + row % 2 * 2 > 3 else 'no'}" for row in range(80)]
    for month, part in ((1, lines[::2]), (2, lines[1::2])):
        for zone in ("north", "south"):
            folder = tmp_path / "in" / f"month={month}" / f"zone={zone}"
            folder.mkdir(parents=True)
            (folder / "a.csv").write_text("\n".join(["x,y", *part]) + "\n")
    whole = ["x,month,zone,y"]
    for month, part in ((1, lines[::2]), (2, lines[1::2])):
        for zone in ("north", "south"):
            whole += [line.replace(",", f",{month},{zone},") for line in part]
    (tmp_path / "whole.csv").write_text("\n".join(whole) + "\n")
    train(tmp_path, "dataset=table", "dataset.path=in", "dataset.target=y", "l2=0.01", "report=brief")
    assert run_command(tmp_path, "predict", "input=in", "output=out", "keep=[month,zone]").code == 0
    assert run_command(tmp_path, "predict", "input=whole.csv", "output=whole.out.csv", "keep=[month,zone]").code == 0
    parts = [table_of(tmp_path / "out" / name) for name in files_in(tmp_path / "out")]
    assert pa.concat_tables(parts).equals(table_of(tmp_path / "whole.out.csv"))


def test_two_files_of_one_output_are_refused(here: Path, run_command: RunCommand) -> None:
    shutil.copy(here / "in" / "2026" / "a.csv", here / "in" / "c.csv")
    answer = run_command(here, "predict", "input=in", "output=out")
    assert answer.code == 2
    assert answer.err == "`input` must not have both c.csv and c.csv.gz, whose output is c.csv.\n"


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (("input=in", "output=in"), "`output` must be another folder than `input`.\n"),
        (("input=in", "output=in/out"), "`output` must be outside of the folder in, got in/out.\n"),
        (("input=in", "output=file"), "`output` must be a folder, as `input` is, got the file file.\n"),
        (
            ("input=in", "output=file/out"),
            "`output` must be a place to write to, and file is not. Name another folder.\n",
        ),
        (("input=empty", "output=out"), "`input` must have files to predict, got none in empty (.csv, "),
        (("input=in",), "`input` must be a table with the columns "),
    ],
)
def test_folders_that_do_not_go_together_are_refused(
    typed: tuple[str, ...], sentence: str, here: Path, run_command: RunCommand
) -> None:
    (here / "file").touch()
    (here / "empty").mkdir()
    answer = run_command(here, "predict", *typed)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(sentence)
    assert not (here / "out").exists()
    if len(typed) == 1:
        assert answer.err.endswith(" A folder of such files needs output=FOLDER.\n")


def torchrun(here: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        (*TORCHRUN, *typed), cwd=here, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def together(here: Path, *typed: str) -> list[tuple[int, str, str]]:
    """Exit code, output, and what was written to stderr, of two processes that share the files."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    return typed_in_processes(here, [{**address, "RANK": str(rank)} for rank in range(2)], *typed, script=SCRIPT)


def test_processes_share_the_files_and_one_speaks(here: Path, run_command: RunCommand) -> None:
    assert run_command(here, "predict", "input=in", "output=alone").code == 0
    first, second = together(here, "input=in", "output=out")
    assert first[:2] == (0, ""), first
    assert first[2].count("75 rows of 6 files in ") == 1
    assert second == (0, "", "")
    assert files_in(here / "out") == sorted(OUTPUTS)
    for name in OUTPUTS:
        assert_same(table_of(here / "out" / name), table_of(here / "alone" / name))


def test_a_mistake_in_a_file_of_one_process_ends_all(here: Path) -> None:
    (here / "in" / "z.csv").write_text("size,color\n1,red\n")  # the smallest one is of the second process
    sentence = "`input` must have the column 'wet' that the model learned from [in z.csv].\n"
    # without a launcher, which would end the second one before it speaks
    assert together(here, "input=in", "output=out") == [(2, "", sentence)] * 2
    assert not (here / "out").exists()


def write_groups(table: pa.Table, file: Path) -> None:
    """Writes a table in row groups of 7 rows, with an empty one after each."""
    with pyarrow.parquet.ParquetWriter(file, table.schema) as writer:
        for start in range(0, max(1, table.num_rows), 7):
            writer.write_table(table.slice(start, 7))
            writer.write_table(table.slice(0, 0))


@pytest.mark.slow
def test_processes_share_the_row_groups_of_a_file(here: Path, run_command: RunCommand) -> None:
    text = "\n".join([TABLE_HEADER, *table_rows(90, seed=3)])
    whole = pyarrow.csv.read_csv(pa.py_buffer(text.encode()))
    none, some = pa.nulls(14, pa.string()), whole["color"].slice(14).combine_chunks()
    whole = whole.set_column(2, "color", pa.chunked_array([none, some]).dictionary_encode())
    write_groups(whole, here / "in" / "large.parquet")
    assert run_command(here, "predict", "input=in", "output=alone", "keep=[size,color]").code == 0
    done = torchrun(here, "input=in", "output=out", "keep=[size,color]")
    assert done.returncode == 0, done.stderr
    assert left_in(here / "out") == left_in(here / "alone")  # no part is left
    assert_same(table_of(here / "out" / "large.parquet"), table_of(here / "alone" / "large.parquet"))
    assert "165 rows of 7 files in " in done.stderr

    done = torchrun(here, "input=in/large.parquet", "output=one.parquet", "keep=[size,color]")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("90 rows in ") == 1
    assert_same(table_of(here / "one.parquet"), table_of(here / "alone" / "large.parquet"))

    sizes = whole["size"].to_pylist()
    bad = whole.set_column(1, "size", pa.array([*sizes[:80], float("inf"), *sizes[81:]]))
    write_groups(bad, here / "bad.parquet")
    failed = torchrun(here, "input=bad.parquet", "output=bad.out.parquet")
    assert failed.stderr.count("got inf in row 81 [in bad.parquet]. Fix the row.\n") == 1
    assert not [name for name in left_in(here) if "bad.out" in name]
    write_groups(whole.slice(0, 0), here / "none.parquet")
    failed = torchrun(here, "input=none.parquet", "output=bad.out.parquet")
    assert failed.stderr.count("`input` must have rows, got none [in none.parquet].\n") == 1
    assert not [name for name in left_in(here) if "bad.out" in name]


@pytest.mark.parametrize(("sizes", "parts"), [((10, 10), [4, 1]), ((100, 10, 1), [6, 1, 1]), ((1,) * 20, [1] * 20)])
def test_large_files_are_in_parts(tmp_path: Path, sizes: tuple[int, ...], parts: list[int]) -> None:
    """Of two processes each gets four parts or more, unless row groups are few."""

    class Groups:
        def row_groups(self, path: str) -> int:
            return 6 if path == "0" else 1

    files = [Task(str(number), f"out/{number}.parquet", size) for number, size in enumerate(sizes)]
    found = _parts(Groups(), files, 2)  # type: ignore[arg-type]  # all that is asked of a reader
    assert [sum(task.source == file.source for task in found) for file in files] == parts
    assert [task.size for task in found] == sorted((task.size for task in found), reverse=True)
    of_parts = [task.groups for task in found if task.groups is not None]
    assert sorted(group for one in of_parts for group in one) == ([*range(6)] if of_parts else [])
    assert {task.target for task in found} == {file.target for file in files}


KILLED = """
import os, signal
from pathlib import Path
from logreg.commands import predicting
from logreg.commands.predict import main
from logreg.commands.process import run_process

predicted, pattern, number = predicting.predicted, PATTERN, NUMBER

def killed(*arguments):
    if sum(1 for _ in Path().rglob(pattern)) >= number:
        os.kill(os.getpid(), signal.SIGKILL)
    return predicted(*arguments)

predicting.predicted = killed
run_process(main)
"""
"""The command, whose process is killed where so many files of a pattern are there, while it makes another one."""


def killing(here: Path, pattern: str, number: int) -> str:
    """A program for `KILLED`."""
    (here / "killed.py").write_text(KILLED.replace("PATTERN", repr(pattern)).replace("NUMBER", str(number)))
    return str(here / "killed.py")


@pytest.mark.slow
def test_a_killed_prediction_leaves_whole_files_and_goes_on(here: Path) -> None:
    table = pyarrow.parquet.read_table(here / "in" / "d.parquet")
    shutil.rmtree(here / "in")
    (here / "in").mkdir()
    for number in range(4):
        pyarrow.parquet.write_table(pa.concat_tables([table] * 2000), here / "in" / f"{number}.parquet")
    words = ("input=in", "output=out")
    killed = subprocess.run((sys.executable, killing(here, "out/[0-9].parquet", 2), *words), cwd=here, check=False)
    assert killed.returncode == -signal.SIGKILL
    made = list((here / "out").glob("[0-9]*.parquet"))
    assert len(made) == 2
    for file in made:
        assert pyarrow.parquet.read_table(file).num_rows == 2000 * table.num_rows
    assert len(left_in(here / "out")) > 2  # of the third
    again = subprocess.run((sys.executable, str(SCRIPT), *words), cwd=here, capture_output=True, text=True, check=False)
    assert again.stderr.startswith("already in out: 2 files; ")
    assert files_in(here / "out") == sorted(f"{number}.parquet" for number in range(4))


@pytest.mark.slow
def test_parts_of_killed_processes_are_removed_by_the_next_command(here: Path) -> None:
    rows = pyarrow.parquet.read_table(here / "in" / "d.parquet")
    shutil.rmtree(here / "in")
    (here / "in").mkdir()
    pyarrow.parquet.write_table(pa.concat_tables([rows] * 6000), here / "in" / "a.parquet", row_group_size=5000)
    program = (*TORCHRUN[:-1], killing(here, "*.logreg-*", 4))
    killed = subprocess.run((*program, "input=in", "output=out"), cwd=here, capture_output=True, check=False)
    assert killed.returncode != 0
    assert [name for name in left_in(here) if ".logreg-" in name]
    again = subprocess.run(
        (sys.executable, str(SCRIPT), "input=in", "output=out"), cwd=here, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert left_in(here / "out") == ["a.parquet"]
