"""`scripts/predict.py`: probabilities for new rows of every kind, in every format, and nothing half-written."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from sklearn.datasets import load_digits

import whole_runs
from logreg.losses import LOSSES
from logreg.training.checkpoint_reading import TrainedModel
from models import TABLE_HEADER, Models, table_rows, write_pictures, write_table
from tables import write_csv
from whole_runs import Answer, left_in

RunCommand = Callable[..., Answer]

SCRIPT = Path(__file__).parents[2] / "scripts" / "predict.py"


def rows_of(file: Path) -> dict[str, list[Any]]:
    plain: dict[str, list[Any]] = pyarrow.csv.read_csv(file).to_pydict()
    return plain


def predicted(run_command: RunCommand, here: Path, *arguments: str) -> dict[str, list[Any]]:
    """What the command writes for these arguments."""
    answer = run_command(here, "predict", "output=out.csv", "overwrite=true", *arguments)
    assert answer.code == 0, answer.err
    return rows_of(here / "out.csv")


def model_of(models: Models, name: str) -> TrainedModel:
    return TrainedModel.load(models.run(name).folder / "checkpoints" / "last.ckpt")


def test_a_row_out_of_the_command_line(models: Models, run_command: RunCommand) -> None:
    answer = run_command(models("toy"), "predict", "hours=3.5")
    coef, intercept = model_of(models, "toy").module.model.in_source_units()
    p = float(torch.sigmoid(3.5 * coef[0, 0] + intercept[0]))
    assert p > 0.5
    assert answer.out == f"pass\n  {p:.4f}  pass\n  {1 - p:.4f}  fail\n"


def test_a_row_with_gaps_and_levels_out_of_the_command_line(models: Models, run_command: RunCommand) -> None:
    here = models("table")
    answer = run_command(here, "predict", "size=", "color=deep blue", "wet=true")
    (here / "one.csv").write_text("size,color,wet\n,deep blue,true\n")
    rows = predicted(run_command, here, "input=one.csv")
    assert answer.out.splitlines()[0] == rows["predicted"][0]
    for line in answer.out.splitlines()[1:]:
        p, name = line.split(maxsplit=1)
        assert float(p) == pytest.approx(rows[name][0], abs=1e-4)


def test_a_table_gives_the_probabilities_of_its_encoding(models: Models, run_command: RunCommand) -> None:
    here = models("table")
    write_table(here / "new.csv", number=60, seed=3)
    rows = predicted(run_command, here, "input=new.csv", "keep=[id]", "drop=[]")
    assert list(rows) == ["id", "predicted", "high, very", "low", "mid"]
    assert rows["id"] == [f"r{row}" for row in range(60)]
    from logreg.data.new_rows import NewRowsReader

    trained = model_of(models, "table")
    [block] = NewRowsReader(trained.facts, {"drop": ["id", "kind"]}, torch.float64).read(str(here / "new.csv"))[1]
    features = trained.facts.stored.inverse_transform(block.features)
    coef, intercept = trained.module.model.in_source_units()
    expected = LOSSES["cross_entropy"].class_probabilities(features.double() @ coef.T + intercept).numpy()
    ours = np.column_stack([rows[name] for name in trained.facts.class_names])
    np.testing.assert_allclose(ours, expected, atol=2e-6)
    assert rows["predicted"] == [trained.facts.class_names[place] for place in expected.argmax(1)]


def written_as(name: str, table: pa.Table, file: Path) -> None:
    if name == "csv":
        pyarrow.csv.write_csv(table, file)
    elif name == "tsv":
        pyarrow.csv.write_csv(table, file, pyarrow.csv.WriteOptions(delimiter="\t"))
    elif name == "csv.gz":
        sink = io.BytesIO()
        pyarrow.csv.write_csv(table, sink)
        file.write_bytes(gzip.compress(sink.getvalue()))
    elif name == "parquet":
        pyarrow.parquet.write_table(table, file)
    elif name == "feather":
        pyarrow.feather.write_feather(table, file)
    else:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "parquet", "feather", "arrow"])
def test_every_format_of_a_table_says_the_same(
    kind: str, models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    here = models("table")
    write_table(here / "same.csv", number=40, seed=4)
    gaps = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    table = pyarrow.csv.read_csv(here / "same.csv", convert_options=gaps).select(
        ["wet", "size", "color"]
    )  # in another order
    file = tmp_path / f"new.{kind}"
    written_as(kind, table, file)
    assert predicted(run_command, here, f"input={file}") == predicted(run_command, here, "input=same.csv", "drop=[id]")


def test_every_format_of_predictions_says_the_same(models: Models, run_command: RunCommand, tmp_path: Path) -> None:
    here = models("softmax")
    columns = [f"{part} {side} (cm)" for part in ("sepal", "petal") for side in ("length", "width")]
    draw = np.random.default_rng(0).normal(3, 2, (25, 4)).astype(np.float32)
    more = {
        "at": pa.array([None, *range(24)], pa.timestamp("ns")),
        "on": pa.array([True] * 25),
        "of": pa.array([1.0] * 25),
    }
    table = pa.table(dict(zip(columns, draw.T, strict=True)) | more)
    pyarrow.parquet.write_table(table, tmp_path / "new.parquet")
    typed = (f"input={tmp_path / 'new.parquet'}", f"keep=[{','.join(more)}]")
    for suffix in ("csv", "tsv", "parquet", "npz"):
        assert run_command(here, "predict", *typed, f"output={tmp_path / 'p'}.{suffix}").code == 0
    tables = [
        pyarrow.csv.read_csv(tmp_path / "p.csv"),
        pyarrow.csv.read_csv(tmp_path / "p.tsv", parse_options=pyarrow.csv.ParseOptions(delimiter="\t")),
        pyarrow.parquet.read_table(tmp_path / "p.parquet"),
    ]
    with np.load(tmp_path / "p.npz", allow_pickle=False) as held:
        arrays = dict(held)
    classes = arrays["classes"].tolist()
    for table in tables:
        assert table.column_names == [*more, "predicted", *classes]
        ours = np.column_stack([table.column(name).to_numpy() for name in classes])
        np.testing.assert_array_equal(ours, arrays["probabilities"])
        assert table.column("predicted").to_pylist() == [classes[place] for place in arrays["predicted"]]
    kept = tables[-1].select([*more]).to_pydict()
    assert {name: [text or "" for text in kept[name]] for name in more} == {
        name: arrays[name].tolist() for name in more
    }
    assert arrays["at"][2] == "1970-01-01 00:00:00.000000001"
    np.testing.assert_allclose(arrays["probabilities"].sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("suffix", ["npz", "npy", "safetensors", "parquet"])
def test_a_matrix_in_every_format(suffix: str, models: Models, run_command: RunCommand, tmp_path: Path) -> None:
    here = models("features")
    features = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    file = tmp_path / f"new.{suffix}"
    if suffix == "npz":
        np.savez(file, features=features)
    elif suffix == "npy":
        np.save(file, features)
    elif suffix == "safetensors":
        from safetensors.numpy import save_file

        save_file({"features": features}, file)
    else:
        pyarrow.parquet.write_table(pa.table({"features": features.tolist()}), file)
    rows = predicted(run_command, here, f"input={file}")
    trained = model_of(models, "features")
    expected = trained.module.probabilities(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(np.column_stack([rows[name] for name in "xyz"]), expected, atol=1e-6)


def test_a_folder_of_pictures_and_one_alone(models: Models, run_command: RunCommand) -> None:
    here = models("pictures")
    write_pictures(here / "new", number=3)
    rows = predicted(run_command, here, "input=new")
    assert rows["file"] == [f"{name}/{place}.png" for name in ("bright", "dark") for place in range(3)]
    assert rows["predicted"] == ["bright"] * 3 + ["dark"] * 3
    alone = predicted(run_command, here, "input=new/dark/1.png")
    assert alone["file"] == ["1.png"]
    assert alone["dark"] == [rows["dark"][4]]
    # as bytes in an array the pixels mean the same
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(here / "new" / file)) for file in rows["file"]])
    np.savez(here / "new.npz", images=pixels)
    assert predicted(run_command, here, "input=new.npz")["dark"] == rows["dark"]


@pytest.mark.long
def test_bytes_of_digits_mean_what_they_meant_in_training(tmp_path: Path, run_command: RunCommand) -> None:
    # scikit-learn's digits go from 0 to 16, and are read in [0, 1]
    here = tmp_path
    trained = run_command(
        here, "train", "dataset=digits", "dataset.limit=300", "optimizer=newton", "l2=1e-3", "report=brief"
    )
    assert trained.code == 0
    bunch = load_digits()
    np.save(here / "bytes.npy", bunch.data[:200].astype(np.uint8))
    np.save(here / "parts.npy", bunch.data[:200] / 16)
    rows = predicted(run_command, here, "input=bytes.npy")
    assert rows == predicted(run_command, here, "input=parts.npy")
    right = [str(said) == str(label) for said, label in zip(rows["predicted"], bunch.target, strict=False)]
    assert sum(right) > 150


@pytest.mark.parametrize("threshold", [0.05, 0.95])
def test_the_threshold_decides_and_leaves_the_probabilities(
    threshold: float, models: Models, run_command: RunCommand
) -> None:
    here = models("toy")
    (here / "hours.csv").write_text("hours\n1\n2\n3\n4\n")
    rows = predicted(run_command, here, "input=hours.csv", f"threshold={threshold}")
    assert rows["predicted"] == ["pass" if p >= threshold else "fail" for p in rows["pass"]]
    assert rows["pass"] == predicted(run_command, here, "input=hours.csv")["pass"]


@pytest.mark.long
def test_from_standard_input_to_standard_output(models: Models) -> None:
    process = subprocess.run(
        [sys.executable, str(SCRIPT), "input=-"],
        input=b"hours\n1\n4\n",
        capture_output=True,
        cwd=models("toy"),
        check=False,
    )
    assert process.returncode == 0, process.stderr
    lines = process.stdout.decode().splitlines()
    assert lines[0] == "predicted,fail,pass"
    assert [line.split(",")[0].strip('"') for line in lines[1:]] == ["fail", "pass"]
    assert process.stderr.decode().startswith("2 rows in ")


@pytest.mark.long
def test_the_size_of_blocks_changes_no_prediction(
    models: Models, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = models("table")
    write_table(here / "long.csv", number=3000, seed=6)
    whole = predicted(run_command, here, "input=long.csv", "drop=[id]")
    monkeypatch.setattr("logreg.data.formats.text_tables.TEXT_BLOCK_BYTES", 2000)
    parts = predicted(run_command, here, "input=long.csv", "drop=[id]")
    assert parts.keys() == whole.keys()
    assert parts["predicted"] == whole["predicted"]
    for name in parts.keys() - {"predicted"}:  # a product of fewer rows may be another kernel's
        assert parts[name] == pytest.approx(whole[name], rel=1e-12)


def test_a_level_that_the_model_does_not_know_is_counted(models: Models, run_command: RunCommand) -> None:
    here = models("table")
    (here / "odd.csv").write_text("size,color,wet\n1,violet,true\n1,red,true\n1,ochre,false\n")
    answer = run_command(here, "predict", "input=odd.csv", "output=odd_out.csv", "overwrite=true")
    assert answer.code == 0
    assert "2 rows with a level of color that the model lacks: encoded as no level\n" in answer.err


@pytest.mark.long
def test_a_missing_value_where_train_has_none_is_told(tmp_path: Path, run_command: RunCommand) -> None:
    from whole_runs import train

    rows = "\n".join(f"{n % 7},{'ab'[n % 5 == 0]},{n % 3 if n % 4 else ''},{'ny'[n % 7 > 3]}" for n in range(60))
    (tmp_path / "t.csv").write_text(f"size,kind,gaps,y\n{rows}\n")
    train(tmp_path, "dataset=table", "dataset.path=t.csv", "dataset.target=y", "l2=1e-2")
    (tmp_path / "new.csv").write_text("size,kind,gaps\n,a,1\n2,,1\n,b,\n3,b,0\n")
    answer = run_command(tmp_path, "predict", "input=new.csv", "output=new_out.csv")
    told = [line for line in answer.err.splitlines() if "without" in line]
    assert told == [
        "2 rows without a value of size, which no train row lacks: filled with 3, the median of train",
        "1 row without a value of kind, which no train row lacks: filled with 'a', the most frequent level of train",
    ]
    single = run_command(tmp_path, "predict", "size=", "kind=b", "gaps=")
    assert told[0].replace("2 rows", "1 row") in single.err.splitlines()
    (tmp_path / "filled.csv").write_text("size,kind,gaps\n3,a,1\n2,a,1\n3,b,\n3,b,0\n")
    filled = predicted(run_command, tmp_path, "input=filled.csv")
    assert filled == predicted(run_command, tmp_path, "input=new.csv")


def test_a_class_with_the_name_of_another_column_is_told_apart() -> None:
    from logreg.export.predictions import column_names

    assert column_names(["predicted", "yes"], ["yes", "id"]) == ["p(predicted)", "p(yes)"]
    assert column_names(["no", "yes"], ["id"]) == ["no", "yes"]


NEW = {
    "lacking.csv": "size,wet\n1,true\n",
    "renamed.csv": "Size,color,wet\n1,red,true\n",
    "extra.csv": "size,color,wet,weight\n1,red,true,5\n",
    "twice.csv": "size,color,wet,size\n1,red,true,5\n",
    "text.csv": "size,color,wet\n1,red,true\nlarge,red,true\n",
    "hexadecimal.csv": "size,color,wet\n0x1F,red,true\nlarge,red,true\n",
    "mixed.csv": "size,color,wet\n0x1F,red,true\n0.5,red,true\n",
    "comma.csv": 'size,color,wet\n1,red,true\n"7,25",red,true\n',
    "ragged.csv": "size,color,wet\n1,red,true\n1,red\n",
    "header.csv": "size,color,wet\n",
    "empty.csv": "",
}
"""Files that are no good."""


@pytest.mark.long
def test_a_tilde_is_the_home_folder_and_no_folder_of_that_name_is_made(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "a home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    rows = [f"{row / 8:.3f},{'yes' if row % 3 else 'no'}" for row in range(100)]
    (home / "old.csv").write_text("\n".join(["x,y", *rows]))
    (home / "new.csv").write_text("x\n1\n2\n")
    np.savez(home / "matrix.npz", features=np.arange(60.0).reshape(20, 3), labels=[0, 1] * 10)
    for typed in (
        ("train", "dataset=table", "dataset.path=~/old.csv", "dataset.target=y", "l2=0.1", "hydra.run.dir=~/run"),
        ("train", "dataset=features", 'dataset.path="~/matrix.npz"', "l2=0.1", "hydra.run.dir=~/other"),
        ("predict", "ckpt_path=~/run", "input=~/new.csv", "output=~/predicted.csv"),
        ("evaluate", "ckpt_path=~/run", "output=~/scores.json"),
        ("export", "ckpt_path=~/run", "format=json", "output=~/model.json"),
    ):
        answer = run_command(here, *typed)
        assert answer.code == 0, answer.err
    np.save(home / "x.npy", np.arange(60.0).reshape(20, 3))
    np.save(home / "y.npy", [0, 1] * 10)
    listed = ("dataset=features", "dataset.path=[~/x.npy, '~/y.npy']", "l2=0.1", "hydra.run.dir=~/third")
    assert (answer := run_command(here, "train", *listed)).code == 0, answer.err
    made = {"run", "other", "third", "predicted.csv", "scores.json", "model.json"}
    assert made < {path.name for path in home.iterdir()}
    assert {path.name for path in here.iterdir()} <= {"runs"}


@pytest.mark.long
def test_a_tilde_in_a_text_to_be_classified_stays_as_it_is(tmp_path: Path, run_command: RunCommand) -> None:
    rows = [f"{where},{label}" for where, label in [("~/x", "yours"), ("/usr", "ours")] * 20]
    (tmp_path / "paths.csv").write_text("\n".join(["place,owner", *rows]))
    learned = ("dataset=table", "dataset.path=paths.csv", "dataset.target=owner", "l2=0.1")
    assert run_command(tmp_path, "train", *learned).code == 0
    answer = run_command(tmp_path, "predict", "place=~/x")
    assert (answer.code, answer.out.splitlines()[0]) == (0, "yours"), answer.err


@pytest.mark.long
def test_files_without_a_header_are_read_from_their_first_line_on(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"{row / 8:.3f},{row % 5},{'yes' if row % 3 else 'no'}" for row in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "named.csv").write_text("\n".join(["column_1,column_2,column_3", *rows]) + "\n")
    learned = ("dataset=table", "dataset.path=rows.csv", "l2=0.1", "report=brief")
    answer = run_command(tmp_path, "train", *learned, "dataset.target=class")
    assert (answer.code, answer.err) == (
        2,
        "`dataset.target` must name a column of rows.csv, got 'class'. rows.csv has 0.000, 0, no. If its first line is "
        "a row and no header, set dataset.header=false: its columns are then column_1 to column_3.\n",
    )
    answer = run_command(tmp_path, "train", *learned, "dataset.target=column_3", "dataset.header=false")
    assert answer.code == 0, answer.err
    expected = run_command(tmp_path, "predict", "input=named.csv", "header=true")
    assert (expected.code, expected.out.count("\n")) == (0, 41), expected.err
    assert run_command(tmp_path, "predict", "input=rows.csv").out == expected.out
    for line_ends in ("\n", "\r\n"):
        text = line_ends.join([*rows, ""]).encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert run_command(tmp_path, "predict", "input=-").out == expected.out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1.5,1,yes\n2\n")))
    assert "got 1 in line 2" in run_command(tmp_path, "predict", "input=-").err
    (tmp_path / "headed.csv").write_text("\n".join(["hours,size,class", *rows]) + "\n")
    for typed in ((), ("keep=[column_1,column_2]",), ("header=true",)):
        answer = run_command(tmp_path, "predict", "input=headed.csv", *typed)
        advice = "the first line of this one looks like a header. Leave it out: tail -n +2 old.csv > new.csv."
        assert answer.code == 2
        assert advice in answer.err
    (tmp_path / "wrong.csv").write_text("soup,1,yes\n")
    for typed in ((), ("keep=[column_1]",)):
        assert "Write numbers with a dot" in run_command(tmp_path, "predict", "input=wrong.csv", *typed).err
    (tmp_path / "commas.csv").write_text("1,5;2,5;yes\n")
    assert "Set decimal=, if all" in run_command(tmp_path, "predict", "input=commas.csv").err
    pyarrow.parquet.write_table(pa.table({"column_1": [1.5], "7": [1]}), tmp_path / "short.parquet")
    answer = run_command(tmp_path, "predict", "input=short.parquet")
    assert answer.err.startswith("`input` must have the column 'column_2' that the model learned from")
    assert "header" not in answer.err
    (tmp_path / "short.csv").write_text("1.5\n")
    answer = run_command(tmp_path, "predict", "input=short.csv")
    assert (answer.code, answer.err) == (
        2,
        "`input` must have the column 'column_2' that the model learned from [in short.csv]. Without a header "
        "columns are known by their places, which must be those of training: leave the column of the classes empty, or "
        "out if it is the last.\n",
    )


LONG = "x" * 300
"""A longer name than file systems take."""


@pytest.mark.long
@pytest.mark.parametrize(
    "typed",
    [
        f"predict input={LONG}.csv",
        f"predict input=rows.csv output={LONG}.csv",
        f"export format=json output={LONG}.json",
        f"compare {LONG}",
        f"train dataset=table dataset.path={LONG}.csv dataset.target=y",
        f"train dataset=text dataset.path={LONG}",
        f"train dataset=features dataset.path=[{LONG}.npy,y.npy]",
        f"train dataset=image_folder dataset.path={LONG}",
        f"train dataset=mnist dataset.root={LONG}",
        f"train dataset={LONG}",
        f"evaluate {LONG}",
    ],
)
def test_a_name_that_is_too_long_for_the_system_is_a_mistake_of_its_own_key(
    typed: str, models: Models, run_command: RunCommand
) -> None:
    here = models("toy")
    (here / "rows.csv").write_text("hours\n1\n")
    there = left_in(here)
    answer = run_command(here, *typed.split())
    key = next(word for word in typed.split() if LONG in word).rpartition("=")[0] or LONG
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert answer.err.startswith(f"`{key}` must ")
    assert left_in(here) == there


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("gone", "Relative paths start at the current folder."),
        ("s3://bucket/rows", "Addresses are for training: copy the files to this machine."),
        ("gone/*.csv", "It is no pattern: name one file, or a folder of files with output=FOLDER."),
    ],
)
def test_an_input_that_is_missing_is_said_before_anything_of_the_output(
    path: str, advice: str, tmp_path: Path, run_command: RunCommand
) -> None:
    answer = run_command(tmp_path, "predict", f"input={path}", "output=predictions")
    assert (answer.code, answer.err) == (2, f"`input` must be there, and {path} is missing. {advice}\n")


@pytest.mark.long
def test_decimal_commas_are_read_as_in_training(tmp_path: Path, run_command: RunCommand) -> None:
    rows = [f"{row / 8:.3f};{row % 7};{'yes' if row % 3 else 'no'}" for row in range(100)]
    for name, old, new in (("dots", "", ""), ("commas", ".", ",")):
        text = "\n".join(["x;n;y", *rows])
        (tmp_path / f"{name}.csv").write_text(text.replace(old, new) if old else text)
    typed = ("dataset=table", "dataset.target=y", "l2=0.1", "report=brief")
    answers = {}
    for name, more in (("dots", ()), ("commas", ("dataset.decimal=,",))):
        answer = run_command(tmp_path, "train", *typed, f"dataset.path={name}.csv", *more)
        assert answer.code == 0, answer.err
        assert run_command(tmp_path, "evaluate", f"dataset.path={name}.csv").code == 0
        answers[name] = [
            run_command(tmp_path, "predict", *words).out
            for words in (("x=1.5", "n=2"), (f"input={name}.csv", "drop=[y]"), (f"input={name}.csv", "keep=[n]"))
        ]
    assert answers["dots"] == answers["commas"]
    answer = run_command(tmp_path, "evaluate", "dataset.path=dots.csv")
    assert (answer.code, answer.err.partition(". ")[2]) == (
        2,
        "Set dataset.decimal=. if all columns have it before the decimals. Else fix the row.\n",
    )
    assert run_command(tmp_path, "evaluate", "dataset.path=dots.csv", "dataset.decimal=.").code == 0
    assert run_command(tmp_path, "predict", "x=1,5", "n=2").out == answers["dots"][0]
    assert run_command(tmp_path, "predict", "input=dots.csv", "decimal=.").out == answers["dots"][1]
    for more in ((), ("keep=[x]",)):
        answer = run_command(tmp_path, "predict", "input=dots.csv", *more)
        assert (answer.code, answer.err) == (
            2,
            "`input` must hold numbers where the model learned from numbers, got '0.000' in column 'x' [in dots.csv]. "
            "Set decimal=. if all columns have it before the decimals. Else write numbers with a comma before the "
            "decimals and nothing else around them; leave missing ones empty.\n",
        )


FAULTS = {
    "lacking.csv": "`input` must have the column 'color' that the model learned from [in lacking.csv].",
    "renamed.csv": (
        "`input` must have the column 'size' that the model learned from [in renamed.csv]. "
        "Is it 'Size'? Rename that one."
    ),
    "extra.csv": (
        "`input` must have the columns that the model learned from, and also has weight [in extra.csv]. "
        "Ignore: drop=[weight], or copy: keep=[weight]."
    ),
    "twice.csv": "`input` must have columns of different names, got 'size' twice [in twice.csv]. Rename one.",
    **{
        file: (
            f"`input` must hold numbers where the model learned from numbers, got '{word}' in column "
            f"'size' [in {file}]. {advice}"
            "rite numbers with a dot before the decimals and nothing else around them; leave missing ones empty."
        )
        for file, word, advice in (
            ("text.csv", "large", "W"),
            ("comma.csv", "7,25", "Set decimal=, if all columns have it before the decimals. Else w"),
            ("hexadecimal.csv", "large", "W"),
            ("mixed.csv", "0x1F", "W"),
        )
    },
    "ragged.csv": "`input` must have 3 values in every line, got 2 in line 3 [in ragged.csv]: '1,red'. Fix the line.",
    "header.csv": "`input` must have rows, got none [in header.csv].",
    "empty.csv": "`input` must have rows, and empty.csv is empty.",
    "gone.csv": "`input` must be there, and gone.csv is missing. Relative paths start at the current folder.",
    "gone*.csv": (
        "`input` must be there, and gone*.csv is missing. "
        "It is no pattern: name one file, or a folder of files with output=FOLDER."
    ),
    "matrix.npz": ("`input` must be a table with the columns size, color, wet, as in training, got matrix.npz."),
}


@pytest.mark.parametrize(("file", "sentence"), FAULTS.items())
def test_bad_input_leaves_what_was_there(file: str, sentence: str, models: Models, run_command: RunCommand) -> None:
    here = models("table")
    for name, text in NEW.items():
        (here / name).write_text(text)
    np.savez(here / "matrix.npz", features=np.zeros((2, 3)))
    (here / "kept.csv").write_text("mine")
    before = sorted(path.name for path in here.iterdir())
    answer = run_command(here, "predict", f"input={file}", "output=kept.csv", "overwrite=true")
    assert (answer.code, answer.err) == (2, sentence + "\n")
    assert (here / "kept.csv").read_text() == "mine"
    assert sorted(path.name for path in here.iterdir()) == before


def test_a_ragged_line_is_named_however_many_threads_arrow_has(models: Models, run_command: RunCommand) -> None:
    before = pa.cpu_count()
    try:
        pa.set_cpu_count(4)
        test_bad_input_leaves_what_was_there("ragged.csv", FAULTS["ragged.csv"], models, run_command)
    finally:
        pa.set_cpu_count(before)


@pytest.mark.parametrize("before", ["", "\n\n", "sep=,\n"])
def test_a_ragged_line_of_standard_input_is_numbered_as_in_a_file(
    before: str, models: Models, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = models("table")
    text = before + NEW["ragged.csv"]
    line = 1 + text.splitlines().index("1,red")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    answer = run_command(here, "predict", "input=-")
    sentence = FAULTS["ragged.csv"].replace("line 3", f"line {line}").replace("ragged.csv", "standard input")
    assert (answer.code, answer.err) == (2, sentence + "\n")


def test_a_fault_in_the_last_block_leaves_nothing(
    models: Models, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = models("table")
    monkeypatch.setattr("logreg.data.formats.text_tables.TEXT_BLOCK_BYTES", 2000)
    lines = [TABLE_HEADER, *table_rows(500, 1), "r500,soup,red,true,7,low"]
    (here / "late.csv").write_text("\n".join(lines) + "\n")
    answer = run_command(here, "predict", "input=late.csv", "output=late_out.csv", "drop=[id]")
    assert answer.code == 2
    assert "got 'soup' in column 'size' [in late.csv]" in answer.err
    assert [path for path in here.iterdir() if "late_out" in path.name] == []


def test_a_full_disk_leaves_no_part_of_a_file(
    models: Models, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = models("toy")
    (here / "many.csv").write_text("hours\n" + "3\n" * 100)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    answer = run_command(here, "predict", "input=many.csv", "output=full.csv")
    assert answer.code == 2
    assert answer.err.startswith("`output` must be a place to write to: [Errno 28] No space left on device.")
    assert [path for path in here.iterdir() if "full" in path.name] == []


MISTAKES = {
    ("toy", ()): "`input` must be given, or a value for each column, such as hours=3.5.",
    ("toy", ("hour=3",)): "`hour` must be a column that the model of toy learned from, or a key. Did you mean hours?",
    ("toy", ("new.csv",)): "`new.csv` must be written as key=value, such as input=new.csv. `--help` lists the keys.",
    ("toy", ("hours=long",)): "`hours` must be a number, got 'long'.",
    ("toy", ("hours=3", "threshold=2")): "`threshold` must be a finite number > 0 and < 1 or null, got 2.",
    ("toy", ("input=x.csv", "hours=3")): "`hours` must be a key of predict beside input=. `--help` lists the keys.",
    ("toy", ("input=-", "output=x.xls")): "`output` must end in one of .csv, .tsv, .parquet, .npz, got 'x.xls'.",
    ("softmax", ("hours=3", "threshold=0.3")): (
        "`threshold` must go with two classes, and the model has 3. Leave it out."
    ),
    ("table", ("size=1", "wet=true")): "`color` must be given too: the model learned from size, color, wet.",
    ("table", ("size=1", "wet=true", "color=rde")): (
        "`color` must be one of deep blue, green, red, got 'rde'. Did you mean red?"
    ),
    ("features", ("a=1",)): (
        "`input` must be given: the model has features without names, a matrix of 5 features "
        "(.npz, .npy, .safetensors, .svm, .libsvm, .svmlight)."
    ),
    ("toy", ("hours=3", "accelerator=gpu")): (
        "`accelerator=gpu` must name hardware that torch can use here, and there is no CUDA device. "
        "Use accelerator=cpu, or accelerator=auto to take whatever there is."
    ),
}


@pytest.mark.parametrize(("which", "typed", "sentence"), [(*case, sentence) for case, sentence in MISTAKES.items()])
def test_a_mistake_is_answered_in_one_line(
    which: str, typed: tuple[str, ...], sentence: str, models: Models, run_command: RunCommand
) -> None:
    if "accelerator=gpu" in typed and torch.cuda.is_available():
        pytest.skip("there is a GPU here")  # the sentence is about there being none
    answer = run_command(models(which), "predict", *typed)
    assert (answer.code, answer.err, answer.out) == (2, sentence + "\n", "")


def test_a_matrix_of_another_width_and_one_with_nan_are_refused(models: Models, run_command: RunCommand) -> None:
    here = models("features")
    np.savez(here / "wide.npz", features=np.zeros((4, 6), dtype=np.float32))
    bad = np.zeros((4, 5), dtype=np.float32)
    bad[2, 1] = np.nan
    np.savez(here / "nan.npz", features=bad)
    for file, sentence in (
        ("wide", "`input` must have rows of 5 numbers as the model, got 6 [in wide.npz]."),
        ("nan", "`input` must be finite, got nan or inf in row 2 [in nan.npz]."),
    ):
        answer = run_command(here, "predict", f"input={file}.npz", "output=never.csv")
        assert (answer.code, answer.err) == (2, sentence + "\n")
        assert not (here / "never.csv").exists()


def test_pictures_of_another_size_are_refused(models: Models, run_command: RunCommand) -> None:
    here = models("pictures")
    write_pictures(here / "larger", number=1, size=9)
    answer = run_command(here, "predict", "input=larger", "output=never.csv")
    sentence = "`input` must hold images of 6 x 6 pixels as the model, got bright/0.png of 9 x 9.\n"
    assert (answer.code, answer.err) == (2, sentence)


def test_what_is_only_copied_stays_as_it_is(models: Models, run_command: RunCommand) -> None:
    here = models("table")
    (here / "ids.csv").write_text("size,color,wet,code\n0.190,red,true,NA\n,NA,false,007\n2,green,true,\n")
    answer = run_command(
        here, "predict", "input=ids.csv", "output=ids_out.csv", "keep=[code,size,color]", "overwrite=true"
    )
    assert answer.code == 0, answer.err
    everything = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(("code", "size", "color"), pa.string()))
    rows = pyarrow.csv.read_csv(here / "ids_out.csv", convert_options=everything).to_pydict()
    assert (rows["code"], rows["size"], rows["color"]) == (
        ["NA", "007", ""],
        ["0.190", "", "2"],
        ["red", "NA", "green"],
    )
    # and means what it meant
    plain = predicted(run_command, here, "input=ids.csv", "drop=[code]")
    assert {name: rows[name] for name in ("predicted", "low", "mid")} == {
        name: plain[name] for name in ("predicted", "low", "mid")
    }


def test_the_same_values_in_another_spelling(models: Models, run_command: RunCommand) -> None:
    here = models("table")
    (here / "a.csv").write_text("size,color,wet\n1,red,true\n2,green,false\n")
    (here / "b.csv").write_text("\nsize,color,wet\n 1 , red,1\n2.0,green,0\n")
    table = pa.table({"size": [1, 2], "color": pa.array(["red", "green"]).cast(pa.string_view()), "wet": [1, 0]})
    with pa.OSFile(str(here / "c.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    expected = predicted(run_command, here, "input=a.csv")
    assert predicted(run_command, here, "input=b.csv") == expected
    assert predicted(run_command, here, "input=c.arrow") == expected


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (pa.array([0, 1], pa.int32()).cast(pa.date32()), "dates [in d.parquet]. Convert it."),
        (pa.array(["1", "2"]), "text [in d.parquet]. Convert it."),
        (pa.array(["1", "big"]), "'big' in row 2 [in d.parquet]. Fix the row."),
    ],
)
def test_a_column_of_another_type_is_no_column_of_gaps(
    models: Models, run_command: RunCommand, sizes: pa.Array, words: str
) -> None:
    here = models("table")
    pyarrow.parquet.write_table(
        pa.table({"size": sizes, "color": ["red", "red"], "wet": [True, False]}), here / "d.parquet"
    )
    answer = run_command(here, "predict", "input=d.parquet", "output=never.csv")
    assert answer.code == 2
    assert answer.err == f"column 'size' must be a number as in train, got {words}\n"


def test_a_column_whose_name_has_an_equals_sign_can_be_typed(tmp_path: Path, run_command: RunCommand) -> None:
    from whole_runs import train

    rows = "\n".join(f"{number % 7},{number % 3},{'yes' if number % 7 > 3 else 'no'}" for number in range(60))
    (tmp_path / "t.csv").write_text(f"a=b,a,kind\n{rows}\n")
    train(tmp_path, "dataset=table", "dataset.path=t.csv", "dataset.target=kind", "l2=1e-2")
    answer = run_command(tmp_path, "predict", "a=b=6", "a=1")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("yes\n")


MORE_MISTAKES = {
    ("table", ("input=x.csv", "keep=[predicted]")): (
        "`keep` must not name 'predicted', since the output has a column of that name. Rename it first."
    ),
    ("table", ("input=x.csv", "output=p.npz", "keep=[classes]")): (
        "`keep` must not name 'classes', since the output has a column of that name. Rename it first."
    ),
    ("toy", ("hours=3", "output=p.csv")): "`output` must go with input=: a single row is printed. Leave it out.",
    ("toy", ("input=x.csv", "output=x.csv", "overwrite=true")): "`output` must be another file than `input`.",
    ("toy", ("input=x.csv", "separator=;;")): "`separator` must be one character, such as ';' or null, got ';;'.",
    ("features", ("input=m.npz", "keep=[a]")): (
        "`keep` must go with a table, and m.npz has no columns by name. Leave it out."
    ),
}


@pytest.mark.parametrize(
    ("which", "typed", "sentence"), [(*case, sentence) for case, sentence in MORE_MISTAKES.items()]
)
def test_what_would_be_ignored_or_lost_is_refused(
    which: str, typed: tuple[str, ...], sentence: str, models: Models, run_command: RunCommand
) -> None:
    here = models(which)
    np.savez(here / "m.npz", features=np.zeros((2, 5), dtype=np.float32))
    answer = run_command(here, "predict", *typed)
    assert (answer.code, answer.err) == (2, sentence + "\n")


def test_the_header_shows_the_separator(
    models: Models, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = models("table")
    (here / "comma.csv").write_text("size,color,wet\n1,red,true\n2,blue,false\n")
    expected = run_command(here, "predict", "input=comma.csv").out
    assert expected.count("\n") == 3
    for separator in ";\t|":
        text = (here / "comma.csv").read_text().replace(",", separator)
        (here / "other.csv").write_text(text)
        assert run_command(here, "predict", "input=other.csv").out == expected
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert run_command(here, "predict", "input=-").out == expected
        # a separator that is typed is the one
        assert run_command(here, "predict", "input=other.csv", "separator=,").err == (
            "`input` must have the column 'size' that the model learned from [in other.csv].\n"
        )


@pytest.mark.parametrize(("name", "file", "usual"), [("size; cm", "new.csv", ","), ("size, cm", "new.tsv", "\\t")])
def test_a_header_of_one_name_with_a_mark_in_it_is_kept_whole_as_the_message_says(
    name: str, file: str, usual: str, tmp_path: Path, run_command: RunCommand
) -> None:
    write_csv(tmp_path, {name: list(range(20)), "y": ["no", "yes"] * 10})
    whole_runs.train(tmp_path, "dataset=table", "dataset.path=t.csv", "dataset.target=y", "l2=0.1", "report=brief")
    (tmp_path / file).write_text(f"{name}\n3\n4\n")
    assert run_command(tmp_path, "predict", f"input={file}").err == (
        f"`input` must have the column {name!r} that the model learned from [in {file}]. Its header was split: "
        f"separator='{usual}' keeps it whole.\n"
    )
    assert run_command(tmp_path, "predict", f"input={file}", f"separator={usual}").out.count("\n") == 3


@pytest.mark.long
@pytest.mark.parametrize("form", ["\u00a0{}", "{:#04x}"])
def test_numbers_are_those_of_training_however_they_are_written(
    form: str, run_command: RunCommand, tmp_path: Path
) -> None:
    rows = "".join(f"{form.format(n % 7)},{n},{'yes' if n % 7 > 2 + n % 2 else 'no'}\n" for n in range(40))
    (tmp_path / "t.csv").write_text(f"x,z,y\n{rows}")
    typed = ("dataset=table", "dataset.path=t.csv", "dataset.target=y", "l2=0.1", "report=brief")
    assert run_command(tmp_path, "train", *typed).code == 0
    (tmp_path / "plain.csv").write_text((tmp_path / "t.csv").read_text().replace("\u00a0", "").replace("0x0", ""))
    assert run_command(tmp_path, "predict", "input=t.csv", "output=a.csv").code == 0
    assert run_command(tmp_path, "predict", "input=plain.csv", "output=b.csv").code == 0
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    (tmp_path / "bad.csv").write_text("x,z\n\u00a01,2\n\u2003three,2\n")
    answer = run_command(tmp_path, "predict", "input=bad.csv", "output=c.csv")
    assert answer.code == 2
    assert answer.err.startswith("`input` must hold numbers where the model learned from numbers, got ")
    assert not (tmp_path / "c.csv").exists()


# Intervals


@pytest.fixture(scope="module")
def unpenalized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three classes and one of two, without a penalty."""
    here = tmp_path_factory.mktemp("unpenalized")
    write_table(here / "train.csv")
    table = ("dataset=table", "dataset.path=train.csv", "dataset.target=kind", "dataset.drop=[id]", "l2=0")
    whole_runs.train(here, *table, "hydra.run.dir=runs/three", "report=brief")
    whole_runs.train(here, *table, "dataset.classes=[low,mid]", "hydra.run.dir=runs/two", "report=brief")
    return here


@pytest.mark.parametrize("run", ["two", "three"])
def test_limits_follow_the_probabilities(run: str, unpenalized: Path, run_command: RunCommand) -> None:
    here, typed = unpenalized, (f"ckpt_path=runs/{run}", "interval=0.9")
    write_table(here / "new.csv", number=60, seed=3)
    rows = predicted(run_command, here, "input=new.csv", "drop=[kind]", *typed)
    names = ["low", "mid"] if run == "two" else ["high, very", "low", "mid"]
    limits = [f"{name} {end}" for end in ("low", "high") for name in names]
    assert list(rows) == ["predicted", *names, *limits]
    for name in names:
        p, low, high = (np.array(rows[column]) for column in (name, f"{name} low", f"{name} high"))
        assert (low < p).all()
        assert (p < high).all()
    wider = predicted(run_command, here, "input=new.csv", "drop=[kind]", typed[0], "interval=0.99", "covariance=HC1")
    assert (np.array(wider["mid low"]) < np.array(rows["mid low"])).mean() > 0.9
    answer = run_command(here, "predict", "input=new.csv", "output=p.npz", "drop=[kind]", "overwrite=true", *typed)
    assert answer.code == 0, answer.err
    with np.load(here / "p.npz") as arrays:
        np.testing.assert_allclose(arrays["low"], np.column_stack([rows[f"{name} low"] for name in names]))
        np.testing.assert_allclose(arrays["high"], np.column_stack([rows[f"{name} high"] for name in names]))
    one = ("size=1.5", "color=red", "wet=true")
    (here / "one.csv").write_text("size,color,wet\n1.5,red,true\n", encoding="utf-8")
    alone = predicted(run_command, here, "input=one.csv", *typed)
    shown = run_command(here, "predict", *typed, *one)
    assert f"{alone['mid'][0]:.4f} ({alone['mid low'][0]:.4f} to {alone['mid high'][0]:.4f})  mid" in shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("interval=95",), "`interval` must be a number > 0 and < 1, such as 0.95 or null, got 95."),
        (("covariance=HC3",), "`covariance` must go with interval=. Leave it out, or set interval=0.95."),
        (("interval=0.9", "covariance=HC3"), "`covariance=HC3` must be asked of a model of two classes"),
        (("interval=0.9", "covariance=cluster:colour"), "`covariance` must name a column of "),
        (("interval=0.9", "weights=sampling"), "`weights=sampling` must go with a run with dataset.weight"),
    ],
)
def test_a_mistake_about_limits_is_one_line(
    arguments: tuple[str, ...], message: str, unpenalized: Path, run_command: RunCommand
) -> None:
    row = ("size=1.5", "color=red", "wet=true")
    answer = run_command(unpenalized, "predict", "ckpt_path=runs/three", *arguments, *row)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(message)
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "row", "message"),
    [
        ("toy", "hours=2", "`ckpt_path` must be of a fit without penalty, got l2=0.1"),
        (
            "softmax",
            "",
            "`interval` must go with probabilities of the fit itself, and those of this run are calibrated.",
        ),
    ],
)
def test_a_fit_without_limits_is_refused(
    model: str, row: str, message: str, models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    names = model_of(models, model).facts.feature_names
    cells = [row] if row else [f"{name}=1" for name in names]
    answer = run_command(models(model), "predict", "interval=0.95", *cells)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(message)
    assert "firth" not in answer.err  # which predictions do not have


def test_a_kept_column_must_not_have_the_name_of_a_limit(unpenalized: Path, run_command: RunCommand) -> None:
    here = unpenalized
    (here / "taken.csv").write_text("size,color,wet,mid low\n1,red,true,7\n", encoding="utf-8")
    typed = ("ckpt_path=runs/three", "interval=0.9", "input=taken.csv", "output=no.csv", "keep=[mid low]")
    answer = run_command(here, "predict", *typed)
    assert answer.code == 2
    assert answer.err.startswith("`interval` must not go with a column or class 'mid low'")
    assert not (here / "no.csv").exists()
