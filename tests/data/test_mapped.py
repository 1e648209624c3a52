"""Tables in many files, in memory and mapped from a cache: the rows, splits, encoding and model are always the same."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import os
import signal
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from logreg.csr import arrays_of, is_sparse
from logreg.data import TensorDataModule
from logreg.data.blocks import WINDOW_RUNS, BlockDataset, BlockSampler
from logreg.data.formats.find_shards import find_shards, first_file
from logreg.data.formats.gathering import gather
from logreg.data.row_source import SplitRows
from logreg.data.sources.table import TableFile
from logreg.errors import ConfigError
from logreg.hardware import available_memory
from process_groups import forked
from tables import as_text, table
from whole_runs import Answer, data_of, left_in, train, working_in

RunCommand = Callable[..., Answer]

ROWS = 3_000


def rows(seed: int = 0, count: int = ROWS) -> pa.Table:
    """Columns of every kind; numbers far from zero and of float32, integers with and without gaps, text, booleans."""
    draw = np.random.default_rng(seed)
    x, far = draw.standard_normal(count), 1e6 + draw.standard_normal(count)
    gaps = draw.random((3, count)) < 0.1
    color = draw.choice(["red", "green", "blue"], count)
    y = x + (color == "red") + draw.logistic(size=count) > 0
    return pa.table(
        {
            "x": pa.array(x.astype(np.float32)),
            "far": pa.array(far),
            "half": pa.array(draw.standard_normal(count).astype(np.float16)),
            "count": pa.array(draw.integers(0, 100, count), mask=gaps[0]),
            "big": pa.array(draw.integers(0, 2**40, count)),
            "color": pa.array(color, mask=gaps[1]),
            "size": pa.array(draw.choice(["s", "m"], count)).dictionary_encode(),
            "flag": pa.array(draw.random(count) < 0.5, mask=gaps[2]),
            "weight": pa.array(draw.integers(0, 4, count)),
            "y": pa.array(np.where(y, "yes", "no")),
        }
    )


def sharded(whole: pa.Table, folder: Path, parts: int = 4) -> Path:
    """The rows in some Parquet files of unequal length, with two row groups each."""
    folder.mkdir(parents=True)
    bounds = np.unique(np.linspace(0, len(whole) ** 0.5, parts + 1).round() ** 2).astype(int)
    bounds[-1] = len(whole)
    for part, (first, end) in enumerate(pairwise(bounds.tolist())):
        pq.write_table(whole.slice(first, end - first), folder / f"part-{part}.parquet", (end - first) // 2 + 1)
    return folder


def assert_same_rows(ours: TensorDataModule, reference: TensorDataModule) -> None:
    """All facts but the source, and every number."""
    for split in reference.splits:
        mine, other = ours.tables[split], reference.tables[split]
        for one, two in zip(arrays_of(mine.matrix), arrays_of(other.matrix), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0)
        assert torch.equal(mine.labels, other.labels)
        assert torch.equal(mine.row_numbers, other.row_numbers)
        weights = [table.sample_weight for table in (mine, other) if table.sample_weight is not None]
        assert not weights or torch.equal(*weights)
    facts, known = ours.facts.as_dict(), reference.facts.as_dict()
    del facts["source"], known["source"]
    assert facts == known
    assert ours.leaks.target == reference.leaks.target
    assert [note for note in ours.notes if "[in" not in note] == [note for note in reference.notes if "[in" not in note]


@pytest.fixture
def whole(tmp_path: Path) -> TensorDataModule:
    """All rows in one file in memory."""
    pq.write_table(rows(), tmp_path / "all.parquet")
    return table(tmp_path / "all.parquet", "dataset.weight=weight", "dataset.storage=memory")


@pytest.mark.parametrize("storage", ["memory", "mapped"])
@pytest.mark.parametrize("names", ["", "/*.parquet", "/part-?.parquet", "/**/*.parquet"])
def test_many_files_are_the_rows_of_one(tmp_path: Path, whole: TensorDataModule, storage: str, names: str) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    arguments = ["dataset.weight=weight", f"dataset.storage={storage}", f"dataset.cache={tmp_path / 'cache'}"]
    assert_same_rows(table(Path(f"{folder}{names}"), *arguments), whole)


def test_one_file_may_be_mapped_whatever_its_name(tmp_path: Path, whole: TensorDataModule) -> None:
    (tmp_path / "all.parquet").rename(tmp_path / "_all.parquet")
    arguments = ["dataset.weight=weight", "dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}"]
    assert_same_rows(table(tmp_path / "_all.parquet", *arguments), whole)


@pytest.mark.parametrize("options", [["dataset.categorical=[count]"], ["dataset.hash=4", "dataset.max_levels=2"]])
def test_sparse_features_are_mapped_too(tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logreg.data.encoding.encode.SMALL_BYTES", 0)
    monkeypatch.setattr("logreg.data.encoding.encode.DENSE_SPEED", 0)
    monkeypatch.setattr("logreg.data.memory.MAPPED_BYTES", 0)
    folder = sharded(rows(), tmp_path / "rows")
    held = table(folder, "dataset.storage=memory", *options)
    assert is_sparse(held.tables["train"].matrix)
    mapped = table(folder, "dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}", *options)
    assert_same_rows(mapped, held)


@pytest.mark.parametrize("storage", ["memory", "mapped"])
def test_text_files_are_the_rows_of_one(tmp_path: Path, storage: str) -> None:
    columns = {name: column for name, column in rows(count=300).to_pydict().items() if name != "big"}
    (tmp_path / "all.csv").write_text(as_text(columns))
    (tmp_path / "rows").mkdir()
    for part, (first, end) in enumerate([(0, 7), (7, 150), (150, 300)]):
        text = as_text({name: column[first:end] for name, column in columns.items()})
        (tmp_path / "rows" / f"{part}.csv").write_text(text)
    arguments = ["dataset.weight=weight", f"dataset.cache={tmp_path / 'cache'}"]
    one = table(tmp_path / "all.csv", *arguments)
    assert_same_rows(table(tmp_path / "rows", f"dataset.storage={storage}", *arguments), one)


def test_folders_become_columns(tmp_path: Path) -> None:
    parts = {("2023", "north"): rows(0, 200), ("2024", "south east"): rows(1, 100)}
    joined = []
    for (year, place), part in parts.items():
        folder = tmp_path / "rows" / f"year={year}" / f"place={place.replace(' ', '%20')}"
        sharded(part, folder, 2)
        joined.append(
            part.append_column("year", [[int(year)] * len(part)]).append_column("place", [[place] * len(part)])
        )
    pq.write_table(pa.concat_tables(joined), tmp_path / "all.parquet")
    reference = table(tmp_path / "all.parquet")
    assert {"year", "place=north"} <= {*reference.facts.feature_names}
    for storage in ("memory", "mapped"):
        ours = table(tmp_path / "rows", f"dataset.storage={storage}", f"dataset.cache={tmp_path / 'cache'}")
        assert_same_rows(ours, reference)


def test_the_second_start_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    arguments = ["dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}"]
    first = table(folder, *arguments)
    made = left_in(tmp_path / "cache")
    monkeypatch.setattr("logreg.data.formats.shards.Shards.read", lambda *_, **__: pytest.fail("read again"))
    again = table(folder, *arguments)
    assert_same_rows(again, first)
    assert left_in(tmp_path / "cache") == made
    with pytest.raises(pytest.fail.Exception, match="read again"):
        table(folder, *arguments, "seed=1")
    monkeypatch.undo()
    part = folder / "part-1.parquet"
    pq.write_table(pq.read_table(part).slice(1), part)
    assert sum(table(folder, *arguments).facts.rows.values()) == ROWS - 1


def test_a_change_of_mapped_features_stays_in_this_process(tmp_path: Path) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    arguments = ["dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}"]
    first = table(folder, *arguments)
    first.tables["train"].matrix.zero_()
    assert bool(table(folder, *arguments).tables["train"].matrix.any())


def test_a_model_reads_the_rows_that_it_was_trained_on_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    typed = [f"dataset.path={folder}", "dataset.target=y", "dataset.weight=weight", "dataset.missing=impute"]
    cache = ["dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}"]
    fitted = data_of("table", *typed, *cache)
    fitted.setup()
    made = left_in(tmp_path / "cache")
    reference = data_of("table", *typed, "dataset.storage=memory", model=fitted.facts)
    reference.setup()
    with monkeypatch.context() as patched:
        patched.setattr("logreg.data.formats.shards.Shards.read", lambda *_, **__: pytest.fail("read again"))
        ours = data_of("table", *typed, *cache, model=fitted.facts)
        ours.setup()
    assert left_in(tmp_path / "cache") == made
    assert ours.notes == reference.notes
    assert_same_rows(ours, reference)
    other = data_of("table", *typed, *cache, model=dataclasses.replace(fitted.facts, fingerprint=1))
    other.setup()
    assert left_in(tmp_path / "cache") != made  # the model has seen other rows


@pytest.mark.parametrize("given", ["false", "null", "true"])
@pytest.mark.parametrize("offset", ["null", "x"])  # which keeps its scale
def test_a_certificate_reads_the_rows_of_the_fit_from_the_cache(tmp_path: Path, given: str, offset: str) -> None:
    """It needs mean and deviation of each feature, whether the fit did or not."""
    folder = sharded(rows(), tmp_path / "rows")
    typed = ["dataset.weight=weight", f"dataset.offset={offset}"]
    cache = ["dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}"]
    fitted = table(folder, *typed, *cache, f"dataset.standardize={given}")
    made = left_in(tmp_path / "cache")
    ours = table(folder, *typed, *cache, "dataset.standardize=true")
    assert left_in(tmp_path / "cache") == made
    assert bool(fitted.facts.mean) == (given != "false")
    assert_same_rows(ours, table(folder, *typed, "dataset.storage=memory", "dataset.standardize=true"))


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_the_model_is_the_same(tmp_path: Path, optimizer: str) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    runs = []
    for storage in ("memory", "mapped"):
        (tmp_path / storage).mkdir()
        runs.append(
            train(
                tmp_path / storage,
                *("dataset=table", f"dataset.path={folder}", "dataset.target=y", f"dataset.storage={storage}"),
                *(f"optimizer={optimizer}", "tolerance=1e-13", "precision=64", "l2=1e-3", "report=brief"),
            )
        )
    held, mapped = (run.summary for run in runs)
    for split, scores in held["metrics"].items():
        assert mapped["metrics"][split] == pytest.approx(scores, abs=1e-9)
    one, other = (np.loadtxt(run.folder / "coefficients.csv", delimiter=",", skiprows=1, usecols=1) for run in runs)
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-9)


@pytest.mark.long
def test_mapped_rows_take_no_memory_of_their_own(tmp_path: Path) -> None:
    """The features of 500,000 x 50 take 100 MB: a copy of them would be seen."""
    count, wide = 500_000, 50
    draw = np.random.default_rng(0)
    columns = {f"x{number}": draw.standard_normal(count, np.float32) for number in range(wide)}
    whole = pa.table(columns | {"y": draw.integers(0, 2, count)})
    pq.write_table(whole, tmp_path / "all.parquet")
    pq.write_table(whole[:1000], tmp_path / "few.parquet")
    del columns, whole

    def anonymous() -> int:
        """Bytes of anonymous memory, without those that allocators keep for later."""
        pa.default_memory_pool().release_unused()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    def read(name: str) -> TensorDataModule:
        return table(tmp_path / name, "dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}")

    read("few.parquet")  # which imports what reading needs
    before = anonymous()
    data = read("all.parquet")
    source = data.row_source("train")
    assert float(sum(block.features.double().sum() for block in source.blocks())) != 0
    assert not source.may_be_held
    assert anonymous() - before < 4 * count * wide


@pytest.mark.parametrize(
    ("run_rows", "chosen"),
    [
        (1, lambda place: place % 5 == 0),
        (7, lambda place: place // 7 % 5 == 0),
        (400, lambda place: place // 20 % 5 == 0),  # not one run alone
    ],
)
def test_a_part_of_the_rows_is_the_same_whichever_process_has_them(
    run_rows: int, chosen: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.data.row_source.RUN_SPACING", 100)
    whole = BlockDataset(torch.arange(1000.0).unsqueeze(1), torch.zeros(1000).long(), None, 1.0, torch.float32)
    for shares in ([0, 1000], [0, 333, 666, 1000], [0, 0, 3, 3, 998, 1000]):
        found = []
        for first, last in pairwise(shares):
            source = SplitRows(whole.part(range(first, last)), torch.device("cpu"), run_rows=run_rows)
            source.block_rows = 100
            for block in source.blocks(5):
                assert block.positions is not None
                assert torch.equal(block.features[:, 0], block.positions.float())
                found += block.positions.tolist()
        assert found == list(filter(chosen, range(1000)))


@pytest.mark.long
def test_the_next_command_reads_one_of_the_files(tmp_path: Path, run_command: RunCommand) -> None:
    sharded(rows(count=200), tmp_path / "rows")
    typed = ["dataset=table", "dataset.path=rows", "dataset.target=y", "l2=1e-2", "report=brief"]
    answer = run_command(tmp_path, "train", *typed)
    (line,) = [line for line in answer.out.splitlines() if "predict.py" in line]
    assert "input=rows/part-0.parquet" in line
    done = run_command(tmp_path, "predict", *(word for word in line.split() if "=" in word))
    assert done.code == 0, done.err
    sharded(rows(count=200), tmp_path / "years" / "year=1")  # no single file has all columns
    for path, advised in {"years": None, "rows/*-1.parquet": "rows/part-1.parquet", "s3://bucket/rows": None}.items():
        with working_in(tmp_path):
            assert first_file(path) == advised


@pytest.mark.long
def test_processes_of_a_machine_share_a_large_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fits into memory, so that its rows have the order of rows in memory; one process reads it for all."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    cache, folder = tmp_path / "cache", sharded(rows(), tmp_path / "rows")
    pq.write_table(rows(), tmp_path / "all.parquet")
    held = table(folder, "dataset.storage=memory")
    for path in (folder, tmp_path / "all.parquet"):
        assert_same_rows(table(path, f"dataset.cache={cache}"), held)
        assert not cache.exists()  # it is small
    monkeypatch.setattr("logreg.data.sources.table_reading.SHARED_BYTES", 0)
    for count, path in enumerate((folder, tmp_path / "all.parquet"), start=1):
        ours = table(path, f"dataset.cache={cache}")
        assert_same_rows(ours, held)
        assert len([*cache.glob("*.pt")]) == count
        assert ours.row_source("train").may_be_held
        batches = [next(iter(data.train_dataloader())).labels for data in (ours, held)]
        assert torch.equal(*batches)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setattr(TableFile, "read", lambda _: pytest.fail("read"))
    with pytest.raises(pytest.fail.Exception, match="read"):
        table(folder, f"dataset.cache={cache}")


# First-order training


def test_rows_are_shuffled_within_windows_of_runs() -> None:
    run, count, block = 3, 9_999, 64
    sampler = BlockSampler(count, block, blocks=-(-count // block), shuffle=True, seed=5, run_rows=run)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        blocks = [torch.as_tensor(rows) for rows in sampler]
        assert len(blocks) == len(sampler)
        assert {len(rows) for rows in blocks[:-1]} == {block}
        orders.append(torch.cat(blocks))
        assert torch.equal(orders[-1].sort().values, torch.arange(count))
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    window = orders[0][: WINDOW_RUNS * run]
    assert len((window // run).unique()) == WINDOW_RUNS  # whole runs
    assert not torch.equal(window[: 3 * run], window[: 3 * run].sort().values)


@pytest.mark.long
def test_a_mapped_run_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows have many runs and windows, as those of a large file."""
    monkeypatch.setattr("logreg.data.blocks.RUN_BYTES", 2**10)
    monkeypatch.setattr("logreg.data.blocks.WINDOW_RUNS", 8)
    folder = sharded(rows(), tmp_path / "rows")
    typed = ["dataset=table", f"dataset.path={folder}", "dataset.target=y", "dataset.storage=mapped", "optimizer=sgd"]
    typed += ["l2=1e-3", "batch_size=32", "report=brief"]
    (tmp_path / "whole").mkdir()
    whole = train(tmp_path / "whole", *typed, "max_epochs=4")
    (tmp_path / "parts").mkdir()
    train(tmp_path / "parts", *typed, "max_epochs=2")
    resumed = train(tmp_path / "parts", "ckpt_path=latest", "max_epochs=4")
    for key, value in whole.checkpoint()["state_dict"].items():
        assert torch.equal(resumed.checkpoint()["state_dict"][key], value)


# auto


def test_auto_maps_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    needed = find_shards(str(folder), "dataset.path").memory_bytes(["x", "far"], ["x", "far", "y"])
    assert needed == ROWS * (4 + 4 + 8 + 4)
    arguments = [f"dataset.cache={tmp_path / 'cache'}", "dataset.features=[x,far]"]
    for available, mapped in ((2 * needed, False), (needed, True)):
        monkeypatch.setattr("logreg.data.memory.available_memory", lambda found=available: found)
        assert table(folder, *arguments).row_source("train").may_be_held != mapped
    monkeypatch.setattr("logreg.data.memory.available_memory", lambda: None)
    assert table(folder, *arguments).row_source("train").may_be_held


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used"),
    [
        ("0::/job/step", "job", "memory.max", "anon"),
        ("7:cpu,memory:/job/step", "memory/job/step", "memory.limit_in_bytes", "total_rss"),
        ("7:memory:/outside/job", "memory", "memory.limit_in_bytes", "total_rss"),
    ],
)
def test_available_memory_counts_the_limits_of_control_groups(
    tmp_path: Path, line: str, folder: str, limit: str, used: str
) -> None:
    meminfo, own, root = tmp_path / "meminfo", tmp_path / "own", tmp_path / "groups"
    assert available_memory(meminfo, own, root) is None
    meminfo.write_text("MemTotal:  400 kB\nMemAvailable:  300 kB\n")
    assert available_memory(meminfo, own, root) == 300 * 1024
    own.write_text(f"3:pids:/job\n{line}\n")
    (root / folder).mkdir(parents=True)
    (root / folder / "memory.stat").write_text(f"{used} 50000\nfile 900000\n")
    (root / folder / limit).write_text("max\n")
    assert available_memory(meminfo, own, root) == 300 * 1024
    (root / folder / limit).write_text("200000\n")
    assert available_memory(meminfo, own, root) == 150_000
    (root / folder / limit).write_text("20000\n")
    assert available_memory(meminfo, own, root) == 0


# Mistakes


def run_on(run_command: RunCommand, here: Path, path: object, *typed: str) -> Answer:
    answer = run_command(here, "train", "dataset=table", f"dataset.path={path}", "dataset.target=y", *typed)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert {entry.name for entry in here.iterdir()} <= {"rows", "t.arrow"}  # nothing is written
    return answer


def test_a_folder_without_readable_files(tmp_path: Path, run_command: RunCommand) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "_SUCCESS").write_text("")
    (tmp_path / "rows" / "notes.md").write_text("x")
    assert "and rows has none. Name another folder." in run_on(run_command, tmp_path, "rows").err


@pytest.mark.long
def test_a_pattern_that_matches_no_file(tmp_path: Path, run_command: RunCommand) -> None:
    for name in ("notes.md", "inner/b.csv", "a.csv"):
        (tmp_path / "rows" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rows" / name).write_text("x,y\n")
    patterns = ["rows/*.parquet", "rows/*.md", "rows/[b]*.csv", "rows/inner/a*.csv", "rows/**/a*.parquet"]
    for pattern in [*patterns, "x*.csv", "nowhere/*.csv"]:
        message = run_on(run_command, tmp_path, pattern).err
        assert f"and the pattern {pattern} matches none" in message
        advice = {
            "rows/inner/a*.csv": " in rows/inner. It has b.csv: correct the pattern.",
            "rows/**/a*.parquet": " in rows. It has a.csv, inner/b.csv: correct the pattern.",
            "x*.csv": " in the current folder. Name another folder or pattern.",
            "nowhere/*.csv": ", since nowhere is missing. Relative paths start at the current folder.",
        }
        assert message.endswith(advice.get(pattern, " in rows. It has a.csv: correct the pattern.") + "\n")
    (tmp_path / "rows" / "none").mkdir()
    assert "in rows/none. Name another folder or pattern." in run_on(run_command, tmp_path, "rows/none/*.csv").err


@pytest.mark.long
@pytest.mark.parametrize("storage", ["memory", "mapped"])
def test_files_with_other_columns_or_types(tmp_path: Path, run_command: RunCommand, storage: str) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    part, good = folder / "part-2.parquet", pq.read_table(folder / "part-2.parquet")
    first = f"{folder}/part-0.parquet"
    faults = {
        f"{part} lacks 'x', unlike {first}": good.drop_columns("x"),
        f"{part} also has 'new', unlike {first}": good.append_column("new", good["x"]),
        f"'x' holds text in {part}, numbers in {first}": good.set_column(0, "x", good["x"].cast(pa.string())),
    }
    for message, bad in faults.items():
        pq.write_table(bad, part)
        assert message in run_on(run_command, tmp_path, folder, f"dataset.storage={storage}").err
    pq.write_table(good.set_column(0, "x", good["x"].cast(pa.float64())), part)
    assert table(folder).facts.num_features > 1  # another width of numbers is no fault


@pytest.mark.parametrize("storage", ["memory", "mapped"])
def test_text_files_with_other_columns_or_types(tmp_path: Path, run_command: RunCommand, storage: str) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "0.csv").write_text("x,y\n1,a\n2,b\n")
    for message, text in {
        f"'x' holds text in {folder}/1.csv, numbers in {folder}/0.csv": "x,y\nc1,a\nd2,b\n",
        f"{folder}/1.csv lacks 'x', unlike {folder}/0.csv": "z,y\n1,a\n",
    }.items():
        (folder / "1.csv").write_text(text)
        assert message in run_on(run_command, tmp_path, folder, f"dataset.storage={storage}").err


@pytest.mark.parametrize("storage", ["memory", "mapped"])
@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_file_that_is_cut_off(tmp_path: Path, run_command: RunCommand, storage: str, kept: float) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    part = folder / "part-1.parquet"
    part.write_bytes(part.read_bytes()[: int(kept * part.stat().st_size)])
    answer = run_on(run_command, tmp_path, folder, f"dataset.storage={storage}")
    assert str(part) in answer.err
    assert answer.err.endswith("Write it again.\n")


def test_a_broken_page_names_its_file(tmp_path: Path, run_command: RunCommand) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    part = folder / "part-3.parquet"
    content = bytearray(part.read_bytes())
    content[4:200] = bytes(196)
    part.write_bytes(content)
    answer = run_on(run_command, tmp_path, folder, "dataset.storage=mapped")
    assert f"`dataset.path` must be a complete file, and {part} could not be read" in answer.err


def test_files_of_two_formats(tmp_path: Path, run_command: RunCommand) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    (folder / "more.csv").write_text("x,y\n1,a\n")
    answer = run_on(run_command, tmp_path, folder)
    advised = answer.err.rsplit("such as ", 1)[1].rstrip(".\n")
    assert advised == f"{folder}/*.csv"
    table(Path(f"{folder}/*.parquet"))


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    part = folder / "part-1.parquet"

    def changing(*arguments: Any) -> Any:
        os.utime(part, ns=(1, 1))
        return gather(*arguments)

    monkeypatch.setattr("logreg.data.formats.shards.gather", changing)
    answer = run_on(run_command, tmp_path, folder, "dataset.storage=mapped")
    assert f"must not change while it is read, and {part} did" in answer.err


def fill_up(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Lets the disk have room for only some more files."""
    monkeypatch.setattr("logreg.data.memory.MAPPED_BYTES", 0)
    true, calls = os.posix_fallocate, []

    def full(*arguments: int) -> None:
        calls.append(arguments)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", full)


@pytest.mark.parametrize("after", [0, 3, 12, 19])
def test_a_cache_that_fills_up_keeps_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    folder = sharded(rows(), tmp_path / "rows")
    fill_up(monkeypatch, after)
    with pytest.raises(ConfigError, match="No space left on device: name another folder, make room in it, or hold"):
        table(folder, "dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}")
    assert {name for name in left_in(tmp_path / "cache") if not name.endswith(".lock")} == set()


def test_a_cache_that_fills_up_at_the_end_keeps_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch writes the last file itself, and does not say why it cannot; here a file may not be longer."""
    resource = pytest.importorskip("resource", reason="this system has no limits of files")
    folder, true, limits = sharded(rows(), tmp_path / "rows"), torch.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*arguments: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        true(*arguments)

    monkeypatch.setattr("logreg.data.memory.MAPPED_BYTES", 0)
    monkeypatch.setattr(torch, "save", full)
    try:
        with pytest.raises(ConfigError, match="File too large: name another folder, make room in it, or hold"):
            table(folder, "dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {name for name in left_in(tmp_path / "cache") if not name.endswith(".lock")} == set()


def test_a_cache_that_fills_up_is_one_line(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sharded(rows(count=200), tmp_path / "rows")
    with monkeypatch.context() as patched:
        fill_up(patched, 3)
        answer = run_on(run_command, tmp_path, folder, "dataset.storage=mapped")
    assert "`dataset.cache` must be a folder that can be written to, got 'data/cache'. No space left" in answer.err
    table(folder, "dataset.storage=memory")


@pytest.mark.parametrize(
    "moment",
    ["logreg.data.formats.cache.ArrayFiles.keep", "torch.save", "logreg.data.preparation.find_leaks"],
    ids=["keep", "save", "leaks"],
)
def test_a_killed_process_leaves_nothing_that_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed while it learns, before the arrays have their names, and after it."""
    folder = sharded(rows(count=300), tmp_path / "rows")
    arguments = ["dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}"]
    monkeypatch.setattr("logreg.data.memory.MAPPED_BYTES", 0)

    def encode_until_killed() -> None:
        monkeypatch.setattr(moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))  # in this process alone
        table(folder, *arguments)

    assert forked(2, encode_until_killed) == [-signal.SIGKILL] * 2
    assert [*(tmp_path / "cache").glob("table-*.pt")] == []
    assert_same_rows(table(folder, *arguments), table(folder, "dataset.storage=memory"))
    assert {Path(name).suffix for name in left_in(tmp_path / "cache")} == {".0", ".pt", ".lock"}


def test_only_some_formats_are_mapped(tmp_path: Path, run_command: RunCommand) -> None:
    import pyarrow.feather

    pyarrow.feather.write_feather(rows(), str(tmp_path / "t.arrow"))
    answer = run_on(run_command, tmp_path, "t.arrow", "dataset.storage=mapped")
    assert "must end in one of .parquet" in answer.err


def test_the_place_of_a_bad_value_names_its_file(tmp_path: Path, run_command: RunCommand) -> None:
    whole = rows()
    folder = sharded(whole, tmp_path / "rows")
    part = folder / "part-2.parquet"
    bad = pq.read_table(part)
    values = bad["far"].to_numpy().copy()
    values[4] = np.inf
    pq.write_table(bad.set_column(1, "far", pa.array(values)), part)
    assert "got inf in row 5 [in part-2.parquet]" in run_on(run_command, tmp_path, folder).err
