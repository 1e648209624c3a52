"""Tables of the user: from a file to a logistic regression, with each step checked against a computation by hand."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shlex
import statistics
from collections import Counter
from contextlib import redirect_stderr
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logreg.commands.overrides import parse_overrides
from logreg.commands.train import main
from logreg.data import Table, TensorDataModule
from logreg.data.arrow_numbers import types_in_words
from logreg.data.encoding.columns import Columns, read_columns
from logreg.data.encoding.encode import encode
from logreg.data.formats.tables import column_names, open_blocks, read_table
from logreg.data.formats.text_input import TextInput
from logreg.data.formats.text_layout import TextLayout, text_layout
from logreg.data.new_rows import NewRowsReader
from logreg.data.preparation_steps import adopt_classes
from logreg.data.sources.table import TableFile
from logreg.errors import DataError, LogregError, as_typed
from logreg.facts import SPLITS
from logreg.training.module import LogisticModule
from tables import alternating, as_text, table, write
from whole_runs import Run, data_of, train, working_in

ROWS = 120


def stones() -> dict[str, list[Any]]:
    """A typical table: numbers, text, booleans and missing values, and three classes that depend on them."""
    draw = np.random.default_rng(0)
    carat = draw.uniform(0.2, 3, ROWS).round(2).tolist()
    color = draw.choice(["D", "E", "F"], ROWS).tolist()
    cleaned = (draw.random(ROWS) < 0.5).tolist()
    mass = [None if draw.random() < 0.2 else round(draw.uniform(0, 9), 3) for _ in range(ROWS)]
    shape = [None if draw.random() < 0.1 else str(draw.choice(["oval", "round"])) for _ in range(ROWS)]
    score = np.array(carat) + (np.array(color) == "E") - 0.5 * np.array(cleaned) + draw.normal(size=ROWS)
    cut = ["fair" if value < 1.2 else "good" if value < 2.2 else "ideal" for value in score.tolist()]
    return {"carat": carat, "color": color, "cleaned": cleaned, "mass": mass, "shape": shape, "cut": cut}


def features_of(data: TensorDataModule, split: str = "train") -> Tensor:
    part = data.tables[split]  # type: ignore[index]  # train, val or test
    assert isinstance(part.features, Tensor)
    return part.select(part.features)


def rows_of(data: TensorDataModule, split: str) -> list[int]:
    """The numbers of a split's rows in the file, from 0."""
    rows = data.tables[split].index  # type: ignore[index]  # train, val or test
    return list(range(len(data.tables["train"].labels))) if rows is None else rows.tolist()


def column(data: TensorDataModule, name: str, split: str = "train") -> list[float]:
    """Values of one feature."""
    values: list[float] = features_of(data, split)[:, data.facts.feature_names.index(name)].tolist()
    return values


# Files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One table in every format."""
    folder = tmp_path_factory.mktemp("files")
    columns = stones()
    text = as_text(columns)
    arrow = pa.table(columns)
    (folder / "t.csv").write_text(text, encoding="utf-8")
    (folder / "bom.csv").write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8")
    (folder / "t.tsv").write_text(as_text(columns, "\t"), encoding="utf-8")
    (folder / "semicolon.csv").write_text(as_text(columns, ";"), encoding="utf-8")
    (folder / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(arrow, folder / "t.parquet")
    pyarrow.feather.write_feather(arrow, folder / "t.feather")
    dictionaries = pa.table(
        {
            name: arrow[name].dictionary_encode() if name in ("color", "shape", "cut") else arrow[name]
            for name in columns
        }
    )
    with pa.OSFile(str(folder / "t.arrow"), "wb") as file, pa.ipc.new_file(file, dictionaries.schema) as writer:
        writer.write_table(dictionaries)
    return folder


@pytest.mark.parametrize(
    "typed",
    ["bom.csv", "t.tsv", "semicolon.csv dataset.separator=;", "t.csv.gz", "t.parquet", "t.feather", "t.arrow"],
)
def test_every_format_gives_the_same_rows_features_and_classes(files: Path, typed: str) -> None:
    name, *more = typed.split()
    ours = table(files / "t.csv", target="cut").facts.as_dict()
    theirs = table(files / name, *more, target="cut").facts.as_dict()
    assert ours.pop("source") == "t.csv"
    assert theirs.pop("source") == name
    assert ours == theirs  # the fingerprint is a checksum of features, labels and split


@pytest.mark.long
def test_two_formats_give_the_same_coefficients(files: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("t.csv.gz", "t.parquet"):
        run = train(
            tmp_path, "dataset=table", f"dataset.path={files / name}", "dataset.target=cut",
            "max_epochs=2", "accelerator=cpu",
        )  # fmt: skip
        pages.append((run.folder / "coefficients.csv").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]


@pytest.mark.parametrize(("train_name", "test_name"), [("t.csv", "t.parquet"), ("t.parquet", "t.arrow")])
def test_the_files_of_the_splits_may_be_of_different_formats(files: Path, train_name: str, test_name: str) -> None:
    data = data_of(
        "table", f"dataset.train_path={files / train_name}", f"dataset.test_path={files / test_name}",
        "dataset.target=cut", "dataset.split.val=0",
    )  # fmt: skip
    assert data.facts.rows == {"train": ROWS, "test": ROWS}
    torch.testing.assert_close(features_of(data, "train"), features_of(data, "test"))


# Columns


def test_features_are_named_after_column_and_level(files: Path) -> None:
    assert table(files / "t.csv", target="cut").facts.feature_names == (
        "carat", "color=D", "color=E", "color=F", "cleaned=false", "cleaned=true", "mass", "mass is missing",
        "shape=oval", "shape=round", "shape is missing",
    )  # fmt: skip


def test_features_drop_and_categorical_choose_columns(files: Path) -> None:
    path = files / "t.csv"
    assert table(path, "dataset.features=[color,carat]", target="cut").facts.feature_names == (
        "color=D", "color=E", "color=F", "carat",
    )  # fmt: skip
    dropped = table(path, "dataset.drop=[color,mass,shape]", target="cut").facts.feature_names
    assert dropped == ("carat", "cleaned=false", "cleaned=true")


def test_a_number_can_be_taken_for_a_category(tmp_path: Path) -> None:
    path = write(tmp_path, zip=alternating(8001, 8002, 3001), y=alternating("no", "yes"))
    assert table(path).facts.feature_names == ("zip",)
    data = table(path, "dataset.categorical=[zip]")
    assert data.facts.feature_names == ("zip=3001", "zip=8001", "zip=8002")


def test_names_that_are_numbers_can_be_typed(tmp_path: Path) -> None:
    # A table of pandas without names of columns: 0, 1, 2.
    columns = {
        "0": list(range(60)),
        "1": alternating("a", "b", "c"),
        "2": alternating(2, 1),
        "3": alternating("n", "y"),
    }
    data = table(write(tmp_path, **columns), "dataset.weight=2", "dataset.features=[1]", target="3")
    assert data.facts.feature_names == ("1=a", "1=b", "1=c")


def test_names_with_spaces_and_other_letters_can_be_typed(tmp_path: Path) -> None:
    path = write(tmp_path, **{"größe in cm": list(range(60)), "日本": alternating("n", "y", "y")})
    assert table(path, "dataset.features=['größe in cm']", target="日本").facts.feature_names == ("größe in cm",)


def test_constant_and_empty_columns_are_left_out_with_a_note(tmp_path: Path) -> None:
    path = write(
        tmp_path, a=list(range(60)), same=alternating(5), word=alternating("x"), nothing=alternating(None),
        y=alternating("no", "yes"),
    )  # fmt: skip
    data = table(path)
    assert data.facts.feature_names == ("a",)
    assert any(re.search(r"left out.*constant.*: same, word$", note) for note in data.notes)
    assert any(re.search(r"left out.*missing.*: nothing$", note) for note in data.notes)


def test_columns_that_are_constant_in_train_are_left_out(tmp_path: Path) -> None:
    part = ["train"] * 40 + ["test"] * 20
    path = write(tmp_path, a=list(range(60)), b=[1] * 40 + [2] * 20, part=part, y=alternating("no", "yes"))
    assert table(path, "dataset.split.column=part").facts.feature_names == ("a",)


def test_a_level_that_train_lacks_is_all_zeros_and_counted(tmp_path: Path) -> None:
    part = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    color = alternating("D", "E", rows=40) + alternating("D", "F", rows=10) + alternating("G", rows=10)
    path = write(tmp_path, color=color, part=part, y=alternating("no", "yes"))
    data = table(path, "dataset.split.column=part")
    assert data.facts.feature_names == ("color=D", "color=E")
    assert features_of(data, "val").tolist() == [[1, 0], [0, 0]] * 5
    assert features_of(data, "test").tolist() == [[0, 0]] * 10
    counted = [re.search(r"^([\d,]+) rows of (\w+) with a level of color", note) for note in data.notes]
    assert [match.groups() for match in counted if match] == [("5", "val"), ("10", "test")]


# Missing values


def test_missing_values_are_filled_by_median_and_most_frequent_of_train_and_marked(files: Path) -> None:
    columns, data = stones(), table(files / "t.csv", target="cut")
    learned_from = rows_of(data, "train")
    median = statistics.median(value for row in learned_from if (value := columns["mass"][row]) is not None)
    assert median != statistics.median(value for value in columns["mass"] if value is not None)  # else no test
    most = Counter(value for row in learned_from if (value := columns["shape"][row]) is not None).most_common()[0][0]
    for split in SPLITS:
        rows = rows_of(data, split)
        mass = [columns["mass"][row] for row in rows]
        assert None in mass
        assert column(data, "mass", split) == pytest.approx([median if value is None else value for value in mass])
        assert column(data, "mass is missing", split) == [value is None for value in mass]
        shape = [columns["shape"][row] for row in rows]
        assert column(data, f"shape={most}", split) == [value in (None, most) for value in shape]
        assert column(data, "shape is missing", split) == [value is None for value in shape]
    (line,) = [note for note in data.notes if "missing values" in note]
    shares = {name: f"{sum(value is None for value in columns[name]) / ROWS:.1%}" for name in ("mass", "shape")}
    assert all(f"{name} {share}" in line for name, share in shares.items())


def test_a_missing_value_in_a_column_complete_in_train_is_filled_by_the_exact_median(tmp_path: Path) -> None:
    # 300,000 train rows in a rhythm: of every other row the median is another one.
    rows = 300_000
    a = [float(row if row % 2 else row + 10**6) for row in range(rows)]
    part = ["train"] * rows + ["test"] * 10
    columns = {"a": [*a, *[None] * 10], "part": part, "y": alternating("n", "y", rows=rows + 10)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    data = table(tmp_path / "t.parquet", "dataset.split.column=part", "precision=64")
    assert set(column(data, "a", "test")) == {statistics.median(a)}
    assert data.facts.feature_names == ("a",)
    assert not any("marked" in note for note in data.notes)


def test_words_for_a_missing_value_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, a=[*range(50), *["unknown"] * 10], y=alternating("no", "yes"))
    data = table(path, "dataset.missing_values=[unknown]")
    assert data.facts.feature_names == ("a", "a is missing")


@pytest.mark.parametrize("written", ["", "NA", "NaN", "nan", "null", "N/A"])
def test_a_missing_value_is_written_in_many_ways(tmp_path: Path, written: str) -> None:
    path = write(tmp_path, a=[*range(40), *[written] * 20], y=alternating("no", "yes"))
    assert table(path).facts.feature_names == ("a", "a is missing")


# Classes


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["low", "high", "mid"], ("high", "low", "mid")),
        ([10, 9, 2], ("2", "9", "10")),
        ([-1, 1], ("-1", "1")),
        ([True, False], ("false", "true")),
        ([2.0, 1.0, 10.0], ("1", "2", "10")),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_labels_may_be_text_whole_numbers_or_booleans(
    tmp_path: Path, values: list[Any], names: tuple[str, ...], suffix: str
) -> None:
    columns = {"a": list(range(60)), "y": alternating(*values)}
    path = write(tmp_path, **columns)
    if suffix == "parquet":
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table(columns), path)
    data = table(path)
    assert data.facts.class_names == names
    spoken = dict(zip(names, sorted(values), strict=True))
    labels = data.tables["train"].labels.tolist()
    assert [spoken[names[label]] for label in labels] == columns["y"]


def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    y = alternating("no", "yes", "no", None)
    data = table(write(tmp_path, a=list(range(60)), y=y))
    assert sum(data.facts.rows.values()) == 45
    assert any(re.search(r"left out 15 rows.*\by\b", note) for note in data.notes)
    assert all(y[row] is not None for split in SPLITS for row in rows_of(data, split))
    assert data.facts.class_names == ("no", "yes")


@pytest.mark.parametrize(
    ("typed", "names"), [("9", ("not 9", "9")), ("[2,9]", ("10", "2 or 9")), ("[9]", ("not 9", "9"))]
)
def test_positive_makes_a_binary_task_of_more_classes(tmp_path: Path, typed: str, names: tuple[str, str]) -> None:
    y = alternating(10, 9, 2)
    data = table(write(tmp_path, a=list(range(60)), y=y), f"dataset.positive={typed}")
    assert data.facts.class_names == names
    asked = {int(word) for word in re.findall(r"\d+", typed)}
    assert data.tables["train"].labels.tolist() == [int(value in asked) for value in y]


def test_classes_selects_rows(tmp_path: Path) -> None:
    y = alternating("a", "b", "c", "d")
    data = table(write(tmp_path, n=list(range(60)), y=y), "dataset.classes=[d,b]")
    assert data.facts.class_names == ("b", "d")
    for split in SPLITS:
        assert {y[row] for row in rows_of(data, split)} == {"b", "d"}


# Splits


@pytest.fixture(scope="module")
def long_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(1)
    return write(
        tmp_path_factory.mktemp("long"), a=draw.normal(size=200).round(3).tolist(),
        b=draw.choice(["p", "q"], 200).tolist(), c=[None if row % 9 == 0 else row % 5 for row in range(200)],
        w=[row % 4 for row in range(200)], g=[row // 3 for row in range(200)],
        y=draw.choice(["x", "y", "z"], 200).tolist(),
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        "dataset.features=[a]", "dataset.drop=[b]", "dataset.categorical=[c]", "dataset.missing_values=[p]",
        "dataset.weight=w", "dataset.class_weight=balanced", "dataset.positive=z", "dataset.limit=20",
        "dataset.standardize=false", "precision=64", "dataset.split.val=0.3", "dataset.split.val=0",
        "loss=bce", "dataset.max_levels=50", "optimizer.name=sgd lr=0.1 batch_size=7",
    ],
)  # fmt: skip
def test_the_same_rows_are_test_whatever_else_changes(long_table: Path, change: str) -> None:
    before, after = table(long_table), table(long_table, *change.split())
    assert rows_of(after, "test") == rows_of(before, "test")
    if "split.val" not in change:
        assert rows_of(after, "val") == rows_of(before, "val")
    if "split.val" not in change and "limit" not in change:
        assert rows_of(after, "train") == rows_of(before, "train")


def test_rows_of_the_selected_classes_stay_in_their_splits(long_table: Path) -> None:
    before, after = table(long_table), table(long_table, "dataset.classes=[x,z]")
    for split in SPLITS:
        assert set(rows_of(after, split)) < set(rows_of(before, split))


def test_a_limit_takes_train_rows_only_and_a_smaller_one_a_part_of_them(long_table: Path) -> None:
    full, some, few = (table(long_table, *more) for more in ([], ["dataset.limit=60"], ["dataset.limit=20"]))
    assert (some.facts.rows["train"], few.facts.rows["train"]) == (60, 20)
    assert set(rows_of(few, "train")) <= set(rows_of(some, "train")) <= set(rows_of(full, "train"))


def test_fractions_are_stratified_and_another_seed_is_another_split(long_table: Path) -> None:
    data = table(long_table, "dataset.split.val=0.1", "dataset.split.test=0.3")
    assert data.facts.rows == {"train": 120, "val": 20, "test": 60}
    whole = Counter(data.tables["train"].labels.tolist())
    for label, count in Counter(data.tables["test"].select(data.tables["test"].labels).tolist()).items():
        assert abs(count - 0.3 * whole[label]) < 1
    assert rows_of(table(long_table, "seed=1"), "test") != rows_of(table(long_table), "test")


def test_a_column_may_say_which_split(tmp_path: Path) -> None:
    part = alternating("train", "train", "test", "train", "val")
    path = write(tmp_path, a=list(range(60)), part=part, y=alternating("no", "yes"))
    data = table(path, "dataset.split.column=part")
    for split in SPLITS:
        assert rows_of(data, split) == [row for row, word in enumerate(part) if word == split]
    assert data.facts.feature_names == ("a",)


def test_a_split_that_the_split_column_lacks_is_held_out_only_on_request(tmp_path: Path) -> None:
    part = alternating("train", "train", "test")
    path = write(tmp_path, a=list(range(60)), part=part, y=alternating("no", "yes"))
    assert table(path, "dataset.split.column=part").facts.rows == {"train": 40, "test": 20}
    asked = table(path, "dataset.split.column=part", "dataset.split.val=0.25")
    assert asked.facts.rows == {"train": 30, "val": 10, "test": 20}


def test_no_group_is_in_two_splits(long_table: Path) -> None:
    data = table(long_table, "dataset.split.group=g")
    groups_of = [{row // 3 for row in rows_of(data, split)} for split in SPLITS]
    assert all(groups_of)
    assert not groups_of[0] & groups_of[1]
    assert not groups_of[0] & groups_of[2]
    assert not groups_of[1] & groups_of[2]
    assert "g" not in data.facts.feature_names


@pytest.mark.parametrize("values", [alternating(*"abcdefgh"), alternating(*(n / 2 for n in range(9)))])
def test_groups_may_have_names_or_any_numbers(tmp_path: Path, values: list[Any]) -> None:
    path = write(tmp_path, a=list(range(60)), who=values, y=alternating("no", "yes", "yes"))
    data = table(path, "dataset.split.group=who")
    groups_of = [{values[row] for row in rows_of(data, split)} for split in SPLITS]
    assert sum(map(len, groups_of)) == len(set(values))


def test_each_split_may_be_a_file(tmp_path: Path) -> None:
    for split, rows in (("train", 40), ("val", 10), ("test", 20)):
        a, color = list(range(rows)), alternating("D", "E" if split == "train" else "F", rows=rows)
        columns = {"a": a, "color": color, "y": alternating("no", "yes", rows=rows)}
        (tmp_path / f"{split}.csv").write_text(as_text(columns), encoding="utf-8")
    data = data_of("table", *(f"dataset.{split}_path={tmp_path / split}.csv" for split in SPLITS), "dataset.target=y")
    assert data.facts.rows == {"train": 40, "val": 10, "test": 20}
    assert column(data, "a", "test") == list(range(20))
    assert data.facts.feature_names == ("a", "color=D", "color=E")


# Whole runs


RECIPE = (
    "dataset=table", "dataset.target=cut", "l2=0.1", "precision=64", "batch_size=full", "lr=0.5",
    "optimizer.momentum=0.9", "max_epochs=300", "accelerator=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("run"), f"dataset.path={files / 't.csv'}", *RECIPE)


def encoded_by_hand(rows: list[int]) -> np.ndarray[Any, Any]:
    """The features of all rows of `stones`, with the medians and most frequent levels of these rows."""
    columns = stones()
    median = statistics.median(value for row in rows if (value := columns["mass"][row]) is not None)
    most = Counter(value for row in rows if (value := columns["shape"][row]) is not None).most_common()[0][0]
    matrix = []
    for carat, color, cleaned, mass, shape, _ in zip(*columns.values(), strict=True):
        shown = shape or most
        matrix.append([
            carat, color == "D", color == "E", color == "F", not cleaned, cleaned, median if mass is None else mass,
            mass is None, shown == "oval", shown == "round", shape is None,
        ])  # fmt: skip
    return np.array(matrix, dtype=np.float64)


def test_a_run_ends_at_scikit_learns_optimum_in_source_units(run: Run, files: Path) -> None:
    rows = rows_of(table(files / "t.csv", target="cut"), "train")
    features, labels = encoded_by_hand(rows)[rows], np.array(stones()["cut"])[rows]
    mean, std = features.mean(0), features.std(0)
    scaled = (features - mean) / std
    theirs = LogisticRegression(C=1 / (len(rows) * 0.1), tol=1e-12, solver="newton-cholesky").fit(scaled, labels)
    with (run.folder / "coefficients.csv").open(encoding="utf-8") as file:
        header, *lines = list(csv.reader(file))
    assert header == ["feature", "fair", "good", "ideal"]
    ours = {name: [float(value) for value in values] for name, *values in lines}
    names = list(ours)
    assert names[0] == "intercept"
    assert tuple(names[1:]) == table(files / "t.csv", target="cut").facts.feature_names
    coef = np.array([ours[name] for name in names[1:]]).T
    # 300 steps with momentum 0.9 shrink the distance by about 0.95 each, and the recipe starts within 1 of the end.
    np.testing.assert_allclose(coef, theirs.coef_ / std, atol=1e-6)
    offset = theirs.intercept_ - theirs.coef_ @ (mean / std)
    mine = np.array(ours["intercept"])
    np.testing.assert_allclose(mine - mine.mean(), offset - offset.mean(), atol=1e-6)  # softmax sees differences alone
    chance = theirs.predict_proba(scaled)[np.arange(len(rows)), np.searchsorted(theirs.classes_, labels)]
    their_value = -np.log(chance).mean() + 0.05 * (theirs.coef_**2).sum()
    assert run.summary["objective"]["train"] == pytest.approx(their_value, rel=1e-10)


def test_a_checkpoint_alone_takes_raw_rows_to_the_same_probabilities(run: Run, files: Path) -> None:
    path = run.folder / "checkpoints" / "last.ckpt"
    torch.load(path, weights_only=True)  # nothing but tensors and plain values
    module = LogisticModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    data = table(files / "t.csv", "precision=64", target="cut")
    expected = torch.cat([module.predict_step(block, 0) for block in data.blocks("test")])
    raw = pq.read_table(files / "t.parquet").take(rows_of(data, "test")).drop_columns("cut")
    as_category = [column.name for column in module.facts.columns if column.kind != "number"]
    features, _ = encode(read_columns(raw, as_category), module.facts.columns, torch.float64)
    torch.testing.assert_close(torch.softmax(module(features), 1), expected, atol=1e-12, rtol=0)
    # One row, with a level that was never seen and a missing value.
    one = pa.table({"carat": [1.0], "color": ["Z"], "cleaned": [True], "mass": pa.nulls(1), "shape": ["oval"]})
    features, unseen = encode(read_columns(one, as_category), module.facts.columns, torch.float64)
    assert unseen["color"].tolist() == [0]
    assert torch.softmax(module(features), 1).sum().item() == pytest.approx(1)


def test_the_report_describes_the_table(run: Run) -> None:
    page = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "t.csv" in page
    assert re.search(r"missing values.*mass.*shape", page)
    assert re.search(r"color=[DEF]", page)
    assert run.summary["majority"]["accuracy"].keys() == {"train", "val", "test"}


@pytest.mark.long
@pytest.mark.parametrize("weights", ["dataset.class_weight=balanced", "dataset.class_weight={good: 3}", ""])
def test_the_report_warns_that_class_weights_change_probabilities(files: Path, tmp_path: Path, weights: str) -> None:
    run = train(
        tmp_path, "dataset=table", f"dataset.path={files / 't.csv'}", "dataset.target=cut", "max_epochs=1",
        "accelerator=cpu", *filter(None, [weights]),
    )  # fmt: skip
    page = (run.folder / "report.md").read_text(encoding="utf-8")
    said = re.search(r"class weights .*probabilities", page)
    assert bool(said) == bool(weights)
    if "good" in weights:
        assert run.summary["dataset"]["class_weight"] == {"fair": 1.0, "good": 3.0, "ideal": 1.0}


@pytest.mark.long
def test_a_resumed_run_on_a_table_equals_an_uninterrupted_one(long_table: Path, tmp_path: Path) -> None:
    recipe = (
        "dataset=table", f"dataset.path={long_table}", "dataset.target=y", "dataset.weight=w",
        "dataset.class_weight=balanced", "dataset.split.group=g", "batch_size=16", "accelerator=cpu",
    )  # fmt: skip
    whole = train(tmp_path, *recipe, "max_epochs=4").checkpoint()["state_dict"]
    first = train(tmp_path, *recipe, "max_epochs=2")
    resumed = train(tmp_path, f"ckpt_path={first.folder}", "max_epochs=4").checkpoint()["state_dict"]
    for name, values in whole.items():
        assert torch.equal(values, resumed[name]), name


# Real tables


@pytest.mark.long
def test_diamonds_beat_the_majority(true_tables: Path, tmp_path: Path) -> None:
    run = train(
        tmp_path, "dataset=table", f"dataset.path={true_tables / 'diamonds.csv'}", "dataset.target=cut",
        "optimizer=sgd", "max_epochs=1", "accelerator=cpu",
    )  # fmt: skip
    summary = run.summary
    assert sum(summary["dataset"]["rows"].values()) == 53_940
    assert summary["dataset"]["features"] == 7 + 7 + 8  # numbers, colors, clarities
    assert summary["dataset"]["classes"] == ["Fair", "Good", "Ideal", "Premium", "Very Good"]
    assert summary["majority"]["class"] == "Ideal"
    assert summary["metrics"]["test"]["accuracy"] > summary["majority"]["accuracy"]["test"] + 0.15


def test_planets_are_refused_for_their_rare_classes_and_the_advice_works(true_tables: Path) -> None:
    path = true_tables / "planets.csv"
    with pytest.raises(DataError, match=r"'Pulsation Timing Variations' \(1\)") as refused:
        table(path, target="method")
    advised = re.search(r"'(dataset\.classes=\[[^']*\])'", str(refused.value))
    assert advised
    data = table(path, advised.group(1), target="method")
    assert {"Radial Velocity", "Transit"} <= set(data.facts.class_names)
    assert "Pulsation Timing Variations" not in data.facts.class_names
    assert {"orbital_period is missing", "mass is missing", "distance is missing"} <= set(data.facts.feature_names)
    every = table(path, "dataset.split.val=0", "dataset.split.test=0", target="method")
    assert every.facts.rows == {"train": 1035}
    assert every.facts.num_classes == 10


# Special cases


def test_a_positive_class_needs_no_rows_of_each_other_class_in_every_split(tmp_path: Path) -> None:
    y = [*alternating("yes", "no"), "rare", "maybe", "maybe"]
    path = write(tmp_path, a=list(range(63)), y=y)
    data = table(path, "dataset.positive=yes")
    assert data.facts.class_names == ("not yes", "yes")
    assert sum(data.facts.rows.values()) == 63


@pytest.mark.parametrize("separate", [False, True])
def test_a_dictionary_of_numbers_is_a_category_however_many_files(tmp_path: Path, separate: bool) -> None:
    zips = pa.array(alternating(8001, 8002, 3001)).dictionary_encode()
    columns = pa.table({"zip": zips, "y": alternating("no", "yes")})
    for name in ("a.feather", "b.feather"):
        pyarrow.feather.write_feather(columns, tmp_path / name)
    files = {"train": "a.feather", "test": "b.feather"} if separate else {"": "a.feather"}
    named = [f"dataset.{split}_path={tmp_path / name}".replace("._", ".") for split, name in files.items()]
    data = data_of("table", *named, "dataset.target=y")
    data.setup()
    assert data.facts.feature_names == ("zip=3001", "zip=8001", "zip=8002")


def test_the_index_of_pandas_is_left_out_and_an_id_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    # An index without a name, sorted by class: it would know every answer.
    rows = [f"{row},{1000 + 7 * row},{row % 3},{'no' if row < 40 else 'yes'}" for row in range(80)]
    path.write_text("\n".join([",id,a,y", *rows]), encoding="utf-8")
    data = table(path)
    assert data.facts.feature_names == ("id", "a")
    assert any("without a name" in note for note in data.notes)
    assert any(re.search(r"ids.*: id$", note) for note in data.notes)


@pytest.mark.long
def test_a_checkpoint_reads_new_files_with_the_missing_values_of_its_training(tmp_path: Path) -> None:
    a = [*range(50), *["?"] * 10]
    path = write(tmp_path, a=a, b=alternating(1, 2, 3), y=alternating("no", "yes"))
    typed = ["dataset.missing_values=[?]", "dataset.categorical=[b]"]
    run = train(
        tmp_path, "dataset=table", f"dataset.path={path}", "dataset.target=y", *typed, "max_epochs=2",
        "precision=64", "accelerator=cpu",
    )  # fmt: skip
    last = run.folder / "checkpoints" / "last.ckpt"
    module = LogisticModule.load_from_checkpoint(last, map_location="cpu", weights_only=True)
    reader = NewRowsReader(module.facts, {"target": "y"}, torch.float64)
    [rows] = reader.read(str(path))[1]
    assert rows.unseen == {}
    data = table(path, *typed, "precision=64")
    assert torch.equal(rows.features, data.tables["train"].matrix)
    (tmp_path / "new.csv").write_text("b,a\n3,?\n9,1\n", encoding="utf-8")
    [rows] = reader.read(str(tmp_path / "new.csv"))[1]
    assert rows.features[:, module.facts.feature_names.index("a is missing")].tolist() == [1, 0]
    assert rows.unseen == {"b": 1}
    with pytest.raises(DataError, match="'b'"):
        reader.read(str(write(tmp_path, a=[1])))


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"velocity": "v"}, "names of the features"),
        ({"level": "P"}, "encoding|names of the features"),
        ({"swap": "split"}, "checksum|rows of each split"),
    ],
)
def test_a_run_does_not_resume_with_other_data(tmp_path: Path, change: dict[str, str], what: str) -> None:
    part = alternating("train", "train", "val", "train", "test")
    columns = {"v": list(range(60)), "l": alternating("p", "q"), "part": part, "y": alternating("n", "y", "y")}
    path = write(tmp_path, **columns)
    typed = ["dataset=table", f"dataset.path={path}", "dataset.target=y", "dataset.split.column=part", "max_epochs=1"]
    first = train(tmp_path, *typed, "accelerator=cpu")
    if "velocity" in change:
        columns["velocity"] = columns.pop("v")
    elif "level" in change:
        columns["l"] = alternating("P", "Q")
    else:
        columns["part"] = [{"val": "test", "test": "val"}.get(word, word) for word in part]
    write(tmp_path, **columns)
    with working_in(tmp_path), redirect_stderr(io.StringIO()) as said:
        assert main([f"ckpt_path={first.folder}", "max_epochs=2"]) == 2
    assert re.search(rf"`ckpt_path` must fit the run: the ({what})", said.getvalue())


def test_a_line_may_be_longer_than_a_megabyte(tmp_path: Path) -> None:
    path = write(tmp_path, a=list(range(60)), b=["x" * 1_200_000, *["y"] * 59], y=alternating("no", "yes"))
    assert table(path, "dataset.features=[a]").facts.rows["train"] == 36


def test_an_arrow_stream_is_read(tmp_path: Path) -> None:
    columns = pa.table({"a": list(range(60)), "y": alternating("no", "yes")})
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as file, pa.ipc.new_stream(file, columns.schema) as writer:
        writer.write_table(columns)
    assert sum(table(tmp_path / "t.arrow").facts.rows.values()) == 60


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a=list(range(60)), y=alternating("no", "yes"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert table(Path("~/t.csv")).facts.source == "t.csv"


def test_positive_and_negative_zero_are_one_class(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(60)), "y": alternating(-0.0, 0.0, 1.0)}), tmp_path / "t.parquet")
    assert table(tmp_path / "t.parquet").facts.class_names == ("0", "1")


@pytest.mark.parametrize("name", ["Price (USD)", "a,b", "größe", "2020_01", "true", "it's", 'q"q', "a b"])
def test_an_advised_list_can_be_typed(tmp_path: Path, name: str) -> None:
    (word,) = shlex.split(as_typed("dataset.drop", [name]))
    (override,) = parse_overrides([word])
    typed = override.value()
    assert isinstance(typed, list)
    assert [str(value) for value in typed] == [name]


# Types of Arrow

BITS = pa.array(alternating(1, 0, rows=20))
WORDS = pa.array(alternating("q", "p", rows=20))
RUNS = pa.array(range(1, 21), pa.int32())


def extension(kind: pa.DataType, storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, storage.cast(kind.storage_type))


READ: dict[str, pa.Array] = {
    "bool": BITS.cast(pa.bool_()),
    **{str(kind): BITS.cast(kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(kind): BITS.cast(kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    **{str(kind): BITS.cast(kind) for kind in (pa.float16(), pa.float32(), pa.float64())},
    **{
        str(kind): pa.array([Decimal(bit) for bit in BITS.to_pylist()], kind)
        for kind in (pa.decimal32(5, 2), pa.decimal64(5, 2), pa.decimal128(5, 2), pa.decimal256(5, 2))
    },
    **{str(kind): WORDS.cast(kind) for kind in (pa.string(), pa.large_string(), pa.string_view())},
    "dictionary of string": WORDS.dictionary_encode(),
    "dictionary of large_string": WORDS.cast(pa.large_string()).dictionary_encode(),
    "dictionary of string_view": pa.DictionaryArray.from_arrays(
        pa.array(alternating(0, 1, rows=20), pa.uint8()), pa.array(["q", "p"]).cast(pa.string_view())
    ),
    "dictionary of int64": BITS.dictionary_encode(),
    "dictionary of bool": BITS.cast(pa.bool_()).dictionary_encode(),
    "runs of int64": pa.RunEndEncodedArray.from_arrays(RUNS, BITS),
    "runs of string": pa.RunEndEncodedArray.from_arrays(RUNS, WORDS),
    "runs of string_view": pa.RunEndEncodedArray.from_arrays(RUNS, WORDS.cast(pa.string_view())),
    "runs of large_string": pa.RunEndEncodedArray.from_arrays(RUNS, WORDS.cast(pa.large_string())),
    "runs of a dictionary": pa.RunEndEncodedArray.from_arrays(RUNS, WORDS.dictionary_encode()),
    "runs of bool": pa.RunEndEncodedArray.from_arrays(RUNS, BITS.cast(pa.bool_())),
    "bool8": extension(pa.bool8(), BITS),
    "json": extension(pa.json_(), WORDS),
}
"""A column of every type that is read, which alternates between two values, the larger one first."""

REFUSED: dict[str, pa.Array] = {
    **{str(kind): WORDS.cast(pa.binary()).cast(kind) for kind in (pa.binary(), pa.large_binary(), pa.binary(1))},
    "binary_view": WORDS.cast(pa.binary()).cast(pa.binary_view()),
    **{str(kind): BITS.cast(pa.int32()).cast(kind) for kind in (pa.date32(), pa.time32("s"))},
    **{str(kind): BITS.cast(kind) for kind in (pa.date64(), pa.time64("us"), pa.timestamp("us"), pa.duration("s"))},
    "month_day_nano_interval": pa.array([pa.MonthDayNano([bit, 0, 0]) for bit in BITS.to_pylist()]),
    **{
        str(kind): pa.array([[bit] for bit in BITS.to_pylist()], kind)
        for kind in (pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_view(pa.int64()), pa.list_(pa.int64(), 1))
    },
    "map<string, int64>": pa.array([[("k", bit)] for bit in BITS.to_pylist()], pa.map_(pa.string(), pa.int64())),
    "struct<k: int64>": pa.array([{"k": bit} for bit in BITS.to_pylist()]),
    "sparse_union": pa.UnionArray.from_sparse(pa.array([0] * 20, pa.int8()), [BITS]),
    "run_end_encoded": pa.RunEndEncodedArray.from_arrays(RUNS, pa.array([[bit] for bit in BITS.to_pylist()])),
    "extension<arrow.uuid>": extension(pa.uuid(), pa.array([b"a" * 16, b"b" * 16] * 10, pa.binary(16))),
    "extension<arrow.opaque": extension(pa.opaque(pa.int64(), "kind", "vendor"), BITS),
}
"""A column of every type that is not numbers, text or booleans, by its name in the error."""


def arrow_file(folder: Path, **columns: pa.Array) -> str:
    held = pa.table(columns)
    with pa.OSFile(str(folder / "t.arrow"), "wb") as file, pa.ipc.new_file(file, held.schema) as writer:
        writer.write_table(held)
    return str(folder / "t.arrow")


@pytest.mark.parametrize("kind", READ)
def test_a_type_of_arrow_is_read_as_feature_target_and_group(kind: str, tmp_path: Path) -> None:
    path = arrow_file(tmp_path, c=READ[kind], y=READ[kind])
    read_in = TableFile(path, target="y", group="y").read().tables["train"]
    assert isinstance(read_in.features, Columns)
    assert read_in.features.series[0].values.tolist() == alternating(1, 0, rows=20)
    assert read_in.labels.tolist() == alternating(1, 0, rows=20)
    assert read_in.groups is not None
    assert read_in.groups.tolist() == alternating(1, 0, rows=20)


@pytest.mark.parametrize("kind", ["int64", "string_view"])
def test_a_slice_of_a_run_end_encoded_array_is_decoded(kind: str) -> None:
    from logreg.data.arrow_numbers import plain_values

    values = READ[kind].slice(0, 3)
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3, 7], pa.int32()), values)
    one, other, another = values.to_pylist()
    assert plain_values(runs.slice(1, 5)).to_pylist() == [one, other, another, another, another]
    assert plain_values(pa.chunked_array([runs, runs.slice(2, 2)])).to_pylist() == (
        [one, one, other, *[another] * 4, other, another]
    )


@pytest.mark.parametrize("kind", REFUSED)
def test_another_type_of_arrow_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = arrow_file(tmp_path, c=REFUSED[kind], y=WORDS, z=BITS)
    read_in = TableFile(path, target="y").read().tables["train"].features
    assert isinstance(read_in, Columns)
    assert "column 'c'" in read_in.series[0].problem
    with pytest.raises(DataError, match=rf"`dataset\.target=c` must .*got .*{re.escape(types_in_words(kind)[0])}"):
        TableFile(path, target="c").read()


def test_a_column_of_weights_without_values_is_said_to_have_none(tmp_path: Path) -> None:
    path = arrow_file(tmp_path, c=BITS, w=pa.nulls(len(WORDS), pa.float64()), y=WORDS)
    with pytest.raises(DataError, match=r"`dataset\.weight=w` must hold finite numbers >= 0, got no values \[in t"):
        TableFile(path, target="y", weight="w").read()


@pytest.mark.parametrize("kind", ["list<item: int64>", "binary_view", "extension<arrow.uuid>"])
def test_groups_that_cannot_be_compared_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = arrow_file(tmp_path, c=REFUSED[kind], y=WORDS, z=BITS)
    with pytest.raises(DataError, match=rf"`dataset\.split\.group=c` must .*got {re.escape(types_in_words(kind)[0])}"):
        TableFile(path, target="y", group="c").read()


# Several refused columns


def troubled(rows: int = 600) -> dict[str, list[Any]]:
    """A table with a column for each reason to refuse a column."""
    return {
        "id": [f"r{row}" for row in range(rows)],
        "when it was": [f"2020-01-{row % 28 + 1:02}" for row in range(rows)],
        "price": [f'"{row},50"' for row in range(rows)],
        "zip": [f"{10 + row % 7} kg" for row in range(rows)],
        "age": [*range(rows - 2), "?", "-"],
        "town": [f"t{row % 120}" for row in range(rows)],
        "mass": [*range(rows - 1), None],
        "fine": alternating(1, 2, 4, rows=rows),
        "y": alternating("no", "yes", "yes", rows=rows),
    }


def advised(message: str) -> list[str]:
    """The command-line arguments that a message advises, as the shell splits them."""
    assert "\n" not in message
    return shlex.split(message.rpartition(" or type: ")[2])


def test_decimal_commas_are_named_as_such_in_both_directions(tmp_path: Path) -> None:
    rows = [f"{row / 8:.3f};{row / 16:.4f};{'yes' if row % 3 else 'no'}\n" for row in range(100)]
    dots, commas = tmp_path / "dots.csv", tmp_path / "commas.csv"
    dots.write_text("a;b;y\n" + "".join(rows))
    commas.write_text(dots.read_text().replace(".", ","))
    for path, read, mark in ((commas, ".", ","), (dots, ",", ".")):
        advice = f"Set dataset.decimal={mark} if all columns have it before the decimals. Else "
        with pytest.raises(
            DataError, match=re.escape(f"{advice}fix the file, or type: dataset.categorical=[a,b]") + "$"
        ):
            table(path, f"dataset.decimal={read}")
        with pytest.raises(DataError, match=re.escape(f"{advice}write a ")):
            table(path, f"dataset.decimal={read}", "dataset.drop=[b]")
    commas.write_text(commas.read_text().replace("0,125;", "1.000,5;"))
    advice = "got '1.000,5' in row 2 [in commas.csv]. Write a comma before the decimals and nothing else between"
    with pytest.raises(DataError, match=re.escape(advice)):
        table(commas, "dataset.decimal=,")
    commas.write_text(commas.read_text().replace("1.000,5;", "?;"))
    with pytest.raises(DataError, match=re.escape("""got '?' in row 2 [in commas.csv]. Fix it, declare it""")):
        table(commas, "dataset.decimal=,")


def test_a_file_whose_columns_all_have_the_other_decimal_mark_is_told_of_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x;z;y\n" + "".join(f"{row},5;{row * 7},25;{'ab'[row % 2]}\n" for row in range(300)))
    with pytest.raises(DataError) as refused:
        table(path, "dataset.target=y")
    assert str(refused.value).endswith(
        "'z' has '0,25' in row 1 [in t.csv]. "
        "Set dataset.decimal=, if all columns have it before the decimals. Else fix the file."
    )
    assert table(path, "dataset.target=y", "dataset.decimal=,").facts.num_features == 2


def test_all_refused_columns_are_named_at_once_and_the_advice_works(tmp_path: Path) -> None:
    path = write(tmp_path, **troubled())
    typed = ["dataset.missing=error", "dataset.drop=[fine]", "dataset.missing_values=[none]"]
    with pytest.raises(DataError) as refused:
        table(path, *typed)
    message = str(refused.value)
    assert "6 do not [in t.csv]: 'id' has 360 levels in 360 train rows, 'when it was' holds dates, " in message
    assert "'price' has '0,50' in row 1" in message
    assert "'zip' has '10 kg' in row 1" in message
    assert "'age' has '?' in row 599" in message
    assert "town" not in message
    assert message.endswith(
        "'mass' has 1 missing value. "
        "Set dataset.decimal=, if all columns have it before the decimals. Else fix the file, or type: "
        + (
            '\'dataset.drop=["fine","id","when it was","price"]\' dataset.categorical=[zip] '
            '\'dataset.missing_values=["none","-","?"]\' dataset.missing=impute'
        )
    )
    # whether "age" and "mass" have a missing value in train is a matter of chance
    names = [name for name in table(path, *typed, *advised(message)).facts.feature_names if "missing" not in name]
    assert names == [*(f"zip={10 + k} kg" for k in range(7)), "age", *sorted(f"town=t{k}" for k in range(120)), "mass"]


def test_words_that_the_advice_turns_into_missing_values_are_filled(tmp_path: Path) -> None:
    columns = {name: values for name, values in troubled().items() if name in ("id", "age", "y")}
    with pytest.raises(DataError) as refused:
        table(write(tmp_path, **columns), "dataset.missing=error")
    facts = table(tmp_path / "t.csv", "dataset.missing=error", *advised(str(refused.value))).facts
    assert facts.columns[0].name == "age"


def test_where_the_features_were_named_the_advice_names_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, **troubled())
    with pytest.raises(DataError) as refused:
        table(path, "dataset.features=[id,'when it was',zip,fine]")
    (line, _) = advised(str(refused.value))
    assert line == 'dataset.features=["zip","fine"]'.replace('"', "")
    facts = table(path, *advised(str(refused.value))).facts
    assert facts.feature_names == (*(f"zip={10 + k} kg" for k in range(7)), "fine")


def test_settings_of_text_files_are_not_advised_for_other_files(tmp_path: Path) -> None:
    columns = {
        name: list(map(str, values)) for name, values in troubled().items() if name in ("id", "age", "fine", "y")
    }
    pq.write_table(pa.table({**columns, "fine": alternating(1, 2, rows=600)}), tmp_path / "t.parquet")
    with pytest.raises(DataError) as refused:
        table(tmp_path / "t.parquet")
    assert advised(str(refused.value)) == ["dataset.drop=[id,age]"]
    assert table(tmp_path / "t.parquet", *advised(str(refused.value))).facts.feature_names == ("fine",)
    with pytest.raises(DataError) as alone:
        table(tmp_path / "t.parquet", "dataset.drop=[id]")
    assert "missing_values" not in str(alone.value)


def test_nothing_is_advised_that_leaves_no_column(tmp_path: Path) -> None:
    columns = {name: values for name, values in troubled().items() if name in ("id", "when it was", "y")}
    with pytest.raises(DataError, match=r"2 do not .*Fix the file\.$"):
        table(write(tmp_path, **columns))


def test_advice_on_one_column_keeps_what_was_typed(tmp_path: Path) -> None:
    path = write(
        tmp_path, **{name: values for name, values in troubled().items() if name in ("id", "fine", "zip", "y")}
    )
    with pytest.raises(DataError, match=r"add dataset\.drop=\[zip,id\]\. To use"):
        table(path, "dataset.drop=[zip]")


# Layouts of files


@pytest.mark.parametrize("kind", ["index.parquet", "named.parquet", "unnamed.csv", "nameless.csv"])
def test_the_index_of_pandas_is_not_a_feature(kind: str, tmp_path: Path) -> None:
    y = ["no"] * 30 + ["yes"] * 30
    x = alternating(1.5, 2.5, 4.0)
    name = {"unnamed.csv": "Unnamed: 0", "nameless.csv": "", "named.parquet": "who"}.get(kind, "__index_level_0__")
    held = pa.table({name: list(range(60)), "x": x, "y": y})
    path = tmp_path / kind
    if kind.endswith(".csv"):
        path.write_text(as_text(held.to_pydict()), encoding="utf-8")
    else:
        metadata = {"index_columns": [name], "columns": [], "column_indexes": []}
        pq.write_table(held.replace_schema_metadata({"pandas": json.dumps(metadata)}), path)
    data = table(path)
    assert data.facts.feature_names == ("x",)
    assert sum("index of pandas" in note and repr(name) in note for note in data.notes) == 1
    if name:  # whoever wants it names it
        read_in = TableFile(str(path), target="y", features=[name]).read().tables["train"].features
        assert isinstance(read_in, Columns)
        assert read_in.series[0].values.tolist() == list(range(60))
    incoming = NewRowsReader(data.facts, {"target": "y"})
    _, blocks = incoming.read(str(path))
    stored = data.facts.stored.transform(torch.tensor(x, dtype=torch.float64)[:, None], torch.float32)
    assert torch.equal(torch.cat([block.features for block in blocks]), stored)


def test_several_columns_may_have_no_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y,,\n" + "".join(f"{row},{'no' if row % 3 else 'yes'},,\n" for row in range(60)) + ",,,\n" * 5)
    data = table(path, "dataset.split.val=0", "dataset.split.test=0")
    assert data.facts.feature_names == ("a",)
    assert len(data.tables["train"]) == 60
    assert not any("missing values" in note for note in data.notes)


@pytest.mark.parametrize("missing", ["impute", "error"])
def test_missing_values_in_rows_of_no_split_do_not_count(missing: str, tmp_path: Path) -> None:
    # 8 rows without a label and 12 of a class that is left out: their missing values do not count.
    values = [*range(60), *[None] * 20]
    path = write(tmp_path, a=values, b=[1, *values[1:]], y=[*alternating("no", "yes"), *[None] * 8, *["other"] * 12])
    data = table(path, "dataset.classes=[no,yes]", f"dataset.missing={missing}")
    assert data.facts.feature_names == ("a", "b")
    assert not any("missing values" in note for note in data.notes)
    write(tmp_path, a=[None, None, *values[2:]], y=[*alternating("no", "yes"), *[None] * 8, *["other"] * 12])
    typed = [str(path), "dataset.classes=[no,yes]", f"dataset.missing={missing}"]
    if missing == "error":
        with pytest.raises(DataError, match="column 'a' has 2, the first in row 1 "):
            table(Path(typed[0]), *typed[1:])
    else:
        (note,) = [note for note in table(Path(typed[0]), *typed[1:]).notes if "missing values" in note]
        assert note.endswith(("a 3.3%", "a 2"))  # of 60


def test_blanks_around_the_names_in_a_header_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a , b, y\n" + "".join(f"{row % 7},p{row % 2},{'no' if row % 3 else 'yes'}\n" for row in range(60)))
    data = table(path, "dataset.split.val=0", "dataset.split.test=0")
    assert data.facts.feature_names == ("a", "b=p0", "b=p1")
    assert features_of(data)[:3].tolist() == [[0, 1, 0], [1, 0, 1], [2, 1, 0]]
    (tmp_path / "twice.csv").write_text("a, a,y\n1,2,no\n3,4,yes\n")
    with pytest.raises(DataError, match="got 'a' twice"):
        table(tmp_path / "twice.csv")
    for source in (str(path), "-"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        _, blocks = NewRowsReader(data.facts, {"target": "y"}, keep=["b"]).read(source)
        (block,) = blocks
        assert torch.equal(block.features, features_of(data))
        assert block.kept["b"].to_pylist()[:3] == ["p0", "p1", "p0"]


@pytest.mark.long
def test_a_wide_table_is_read_in_few_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    tasks = []
    submit = ThreadPoolExecutor.submit

    def counted(*given: Any, **named: Any) -> Any:
        tasks.append(given)
        return submit(*given, **named)

    monkeypatch.setattr("logreg.data.encoding.parallel.usable_cores", lambda: 2)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    columns = {f"c{number}": alternating(number, 1.5, 2.5) for number in range(999)}
    data = table(write(tmp_path, y=alternating("no", "yes"), **columns))
    assert data.facts.feature_names == tuple(columns)
    assert len(tasks) < 50


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ("2020-01-01", "2020-01-02", "dates"),
        ("12:30", "13:30:01", "times of day"),
        ("2020-01-01 10:00", "2020-01-01T11:00Z", None),
        ("2020-01-01T10:00", "2020-01-02 11:00", "timestamps"),
        ("2020-01-01", "2020-02-30", None),
        ("01/02/2020", "02/02/2020", None),
    ],
)
def test_dates_as_text_are_refused_in_every_format_alike(
    first: str, second: str, kind: str | None, tmp_path: Path
) -> None:
    columns = {"day": alternating(first, second), "y": alternating("no", "no", "yes", "yes")}
    (tmp_path / "t.csv").write_text(as_text(columns))
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        taken = table(tmp_path / name, "dataset.categorical=[day]")
        assert taken.facts.feature_names == (f"day={first}", f"day={second}")
        if kind is None:
            assert table(tmp_path / name).facts.columns == taken.facts.columns
            continue
        message = (
            f"`dataset.drop` must leave dates out, and column 'day' holds {kind} [in {name}]. Make numbers of it "
            "first, such as days since a start, or add dataset.drop=[day]; dataset.categorical=[day] makes a level of "
            "each."
        )
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            table(tmp_path / name)
        # a model that has learned such levels before goes on reading them
        held = read_columns(pa.table({"day": columns["day"]}))
        assert torch.equal(
            encode(held, taken.facts.columns, torch.float32)[0],
            features_of(taken)[:0].new_tensor(
                [[float(value == first), float(value == second)] for value in columns["day"]]
            ),
        )


def test_dates_are_classes_where_the_user_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        as_text({"a": alternating(1, 2, 3), "day": alternating("2020-01-01", "2020-01-02")})
    )
    message = (
        "`dataset.target=day` must hold text, whole numbers or true and false, got dates. Name another column, "
        "or add dataset.categorical=[day], which makes a class of each."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        table(tmp_path / "t.csv", target="day")
    data = table(tmp_path / "t.csv", "dataset.categorical=[day]", target="day")
    assert data.facts.class_names == ("2020-01-01", "2020-01-02")


@pytest.mark.parametrize("word", ["", "#N/A", "NA", "n/a"])
def test_words_for_missing_values_hide_no_dates(word: str, tmp_path: Path) -> None:
    columns = {"day": alternating("2020-01-01", word, "2020-01-02"), "y": alternating("no", "no", "yes", "yes")}
    (tmp_path / "t.csv").write_text(as_text(columns))
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(DataError, match=r"column 'day' holds dates"):
            table(tmp_path / name)


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", mark) for mark in ";\t|"] + [(".txt", ","), (".tsv", ";")])
def test_the_header_shows_the_separator_and_a_note_says_so(
    suffix: str, separator: str, files: Path, tmp_path: Path
) -> None:
    name = f"t{suffix}"
    (tmp_path / name).write_text(as_text(stones(), separator), encoding="utf-8")
    data, known = table(tmp_path / name, target="cut"), table(files / "t.csv", target="cut")
    assert data.facts.fingerprint == known.facts.fingerprint
    assert data.notes == (f"read with {separator!r} between values, as in the header of {name}", *known.notes)


@pytest.mark.parametrize("marks", [",;", ";,", ";|", "||"])
def test_each_file_of_a_folder_shows_its_separator(marks: str, files: Path, tmp_path: Path) -> None:
    for number, mark in enumerate(marks):
        (tmp_path / f"{number}.csv").write_text(as_text(stones(), mark), encoding="utf-8")
    data = table(tmp_path, target="cut")
    assert sum(data.facts.rows.values()) == 2 * sum(table(files / "t.csv", target="cut").facts.rows.values())
    one, *others = dict.fromkeys(marks)
    where = "the header of each file" if others else "the header"
    shown = " or ".join(map(repr, [one, *others]))
    assert data.notes[0] == f"read with {shown} between values, as in {where} of {tmp_path.name}"


def test_a_header_of_one_name_with_a_mark_stays_one_name(tmp_path: Path) -> None:
    for header, names in (
        ('"a;b"', ["a;b"]),
        ("a b", ["a b"]),
        ("a;b|c;d", ["a", "b|c", "d"]),
        ('"a,b";c', ["a,b", "c"]),
    ):
        (tmp_path / "t.csv").write_text(f"{header}\n1\n")
        assert column_names(str(tmp_path / "t.csv"), "k") == names
    (tmp_path / "t.csv").write_text("a;b\n1;2\n")
    assert column_names(str(tmp_path / "t.csv"), "k", ",") == ["a;b"]


@pytest.mark.parametrize("first", ["", "sep=,\n", "\ufeff"])
@pytest.mark.parametrize("rows", [60, 60_000])
def test_files_without_a_header_have_all_their_rows(first: str, rows: int, tmp_path: Path) -> None:
    columns = {"column_1": [*range(rows)], "column_2": alternating("a", "b", "c", rows=rows)}
    text = as_text(columns | {"column_3": alternating("no", "yes", rows=rows)})
    (tmp_path / "named.csv").write_text(text)
    expected = table(tmp_path / "named.csv", target="column_3")
    bare = tmp_path / "bare.csv"
    bare.write_text(first + text.partition("\n")[2])
    assert table(bare, "dataset.header=false", target="column_3").facts.fingerprint == expected.facts.fingerprint
    folder = tmp_path / "folder"
    folder.mkdir()
    half = text.index("\n", len(text) // 2) + 1
    (folder / "1.csv").write_text(first + text[:half].partition("\n")[2])
    (folder / "2.csv").write_text(first + text[half:])
    assert table(folder, "dataset.header=false", target="column_3").facts.fingerprint == expected.facts.fingerprint


def test_a_first_line_that_may_be_a_row_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("1.5,0\n2.5,1\n" * 30)
    advice = "dataset.header=false: its columns are then column_1 to column_2"
    assert table(tmp_path / "t.csv", target="0").notes[0] == (
        f"the first line of t.csv names the columns, and all its names are numbers; if it is a row, set {advice}"
    )
    for line, target in (("1.5,0", "y"), ("7,7", "7")):
        (tmp_path / "t.csv").write_text(f"{line}\n" * 60)
        with pytest.raises(LogregError, match=f"If its first line is a row and no header, set {advice}[.]"):
            table(tmp_path / "t.csv", target=target)
    write(tmp_path, **{"0": alternating(1, 2), "1": alternating("no", "yes")})  # as pandas names those of a matrix
    assert not [note for note in table(tmp_path / "t.csv", target="1").notes if "header" in note]


def test_the_header_of_a_file_is_read_once_before_its_rows(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(file: TextInput, *more: Any) -> TextLayout:
        read.append(Path(file.name).name)
        return text_layout(file, *more)

    for name in ("tables", "shards"):
        monkeypatch.setattr(f"logreg.data.formats.{name}.text_layout", counted)
    table(files / "t.csv", target="cut")
    assert read == ["t.csv"]
    for part in ("1.csv", "2.csv"):
        (tmp_path / part).write_bytes((files / "t.csv").read_bytes())
    read.clear()
    table(tmp_path, target="cut")
    assert read == ["1.csv", "2.csv"] * 2  # once for the separators, once to compare the columns of each file


@pytest.mark.parametrize("line", ["sep=;\n", '"sep=;"\r\n', "\ufeffsep=;\n"])
def test_the_sep_line_of_spreadsheets_states_the_separator(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "a;y\n" + "".join(f"{row % 7};{'no' if row % 3 else 'yes'}\n" for row in range(60))
    path = tmp_path / "t.csv"
    path.write_text(line + rows, encoding="utf-8")
    data = table(path)
    values = [row % 7 for row in range(60)]
    assert data.facts.feature_names == ("a",)
    stored = data.facts.stored.transform(torch.tensor(values, dtype=torch.float64)[:, None], torch.float32)
    for source in (str(path), "-"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        _, blocks = NewRowsReader(data.facts, {"target": "y"}).read(source)
        assert torch.equal(torch.cat([block.features for block in blocks]), stored)


@pytest.mark.long
def test_a_header_or_a_value_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "h" * 1_200_000  # a block of Arrow's has 2**20 bytes
    path = tmp_path / "t.csv"
    lines = [f"{row % 7},{row % 5},{'no' if row % 3 else 'yes'},w" for row in range(60)]
    path.write_text("\n".join([f"a,{long},y,t", *lines[:40], f'1,2,no,"{"z" * 3_000_000}"', *lines[40:], ""]))
    assert column_names(str(path), "k") == ["a", long, "y", "t"]
    held = read_table(str(path), "k", ["a", long, "t"])
    assert held.column(long).to_pylist() == [*(row % 5 for row in range(40)), 2, *(row % 5 for row in range(40, 60))]
    for block in (2**11, 2**20, 2**22):  # rows before the long one have been passed on
        monkeypatch.setattr("logreg.data.formats.text_tables.TEXT_BLOCK_BYTES", block)
        _, blocks = open_blocks(str(path), "input", lambda names: ["a", long], ["a", long])
        whole = pa.concat_tables(list(blocks))
        assert whole.column(long).to_pylist() == held.column(long).to_pylist()
        assert whole.column("a").to_pylist() == held.column("a").to_pylist()


def test_a_line_of_standard_input_that_is_longer_than_a_block_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logreg.data.formats.text_tables.TEXT_BLOCK_BYTES", 2**11)
    content = b"a,b\n1,y\n1," + b"x" * 5000 + b"\n2,z\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    _, blocks = open_blocks("-", "input", list, ["a"])
    message = (
        "`input` must have lines of at most 2,048 bytes on standard input, got a longer one. "
        "Write the table to a file, and name the file."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        list(blocks)


# Text, numbers and classes


def both(folder: Path, **columns: list[str]) -> tuple[str, str]:
    """A CSV, and a Parquet file whose columns but ``x`` are text."""
    pq.write_table(pa.table({**columns, "x": [float(word) for word in columns["x"]]}), folder / "t.parquet")
    return str(write(folder, **columns)), str(folder / "t.parquet")


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        (["12E1", "120", "0120", "77"], ("0120", "120", "12E1", "77")),
        (["18446744073709551614", "18446744073709551615"], ("18446744073709551614", "18446744073709551615")),
        (["007", "7"], ("007", "7")),
        (["+1", "1"], ("+1", "1")),
    ],
)
def test_codes_that_are_not_plain_numbers_stay_text(words: list[str], classes: tuple[str, ...], tmp_path: Path) -> None:
    x = [str(value) for value in alternating(1, 2, 5)]
    for path in both(tmp_path, x=x, code=alternating(*words)):
        raw = TableFile(path, target="code", group="code").read()
        assert raw.class_names == classes
        labels = [classes.index(word) for word in alternating(*words)]
        assert raw.tables["train"].labels.tolist() == labels
        assert raw.tables["train"].groups is not None
        assert raw.tables["train"].groups.tolist() == labels


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        (["10", "9"], ("9", "10")),
        (["1.0", "0.0"], ("0", "1")),
        (["-1", "1"], ("-1", "1")),
        (["True", "false"], ("false", "true")),
    ],
)
def test_classes_that_are_plain_numbers_or_booleans_are_sorted_by_value(
    words: list[str], classes: tuple[str, ...], tmp_path: Path
) -> None:
    path = write(tmp_path, x=alternating(1, 2, 5), y=alternating(*words))
    assert TableFile(str(path), target="y").read().class_names == classes


@pytest.mark.parametrize("words", [["1.50", "2.25", "2.00"], ["1e-3", "2", "3"]])
def test_fractions_are_not_classes_however_they_are_written(words: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, x=alternating(1, 2, 5), y=alternating(*words))
    with pytest.raises(DataError, match="numbers that are not whole"):
        TableFile(str(path), target="y").read()


def test_blanks_around_a_value_of_a_text_file_do_not_count(tmp_path: Path) -> None:
    def text(blank: str) -> str:
        rows = [
            (
                f"{row % 7}",
                ["Private", "?", "State gov"][row % 3],
                ["?", "3", "4.5"][row % 3],
                ["<=50K", ">50K"][row % 2],
            )
            for row in range(60)
        ]
        return "a,work,n,y\n" + "".join(f",{blank}".join(row) + blank + "\n" for row in rows)

    (tmp_path / "plain.csv").write_text(text(""))
    (tmp_path / "blanks.csv").write_text(text(" "))
    plain, blanks = (table(tmp_path / f"{name}.csv", "dataset.missing_values=[?]") for name in ("plain", "blanks"))
    assert plain.facts.class_names == blanks.facts.class_names == ("<=50K", ">50K")
    assert plain.facts.columns == blanks.facts.columns
    assert torch.equal(features_of(plain), features_of(blanks))
    found = [
        torch.cat(
            [block.features for block in NewRowsReader(plain.facts, {"target": "y"}).read(str(tmp_path / name))[1]]
        )
        for name in ("plain.csv", "blanks.csv")
    ]
    assert torch.equal(*found)
    for words in (["yes", "yes "], [" yes", "yes"]):
        path = write(tmp_path, x=alternating(1, 2, 5), y=alternating(*words))
        with pytest.raises(DataError, match="at least 2 classes, got only 'yes'"):
            table(path)


def test_classes_that_differ_by_blanks_case_or_a_dot_are_named(tmp_path: Path) -> None:
    for first, second in (("yes", "yes "), ("Yes", "yes"), ("<=50K", "<=50K."), ("a b", "ab")):
        pq.write_table(
            pa.table({"x": alternating(1.0, 2.0, 5.0), "y": alternating(first, second)}), tmp_path / "t.parquet"
        )
        data = table(tmp_path / "t.parquet")
        assert data.facts.class_names == tuple(sorted([first, second]))
        assert [note for note in data.notes if repr(first) in note and repr(second) in note and "blanks, case" in note]
    write(tmp_path, x=alternating(1, 2, 5), y=alternating("a", "b")).rename(tmp_path / "train.csv")
    write(tmp_path, x=alternating(1, 2, 5), y=alternating("a.", "b.")).rename(tmp_path / "test.csv")
    typed = (*(f"dataset.{split}_path={tmp_path / split}.csv" for split in ("train", "test")), "dataset.target=y")
    data = data_of("table", *typed)
    alike = "only by blanks, case or a dot: if they are one class, spell them alike in the data. Else leave it out with"
    with pytest.raises(DataError, match=rf"'a\.' is only in test\. 'a' and 'a\.' differ {alike} dataset\.classes="):
        data.setup()
    with pytest.raises(DataError, match=r"got none \[in test of table\]. Name classes that test has too, or"):
        data_of("table", *typed, "dataset.classes=[a,b]").setup()


@pytest.mark.parametrize(
    ("words", "mark"),
    [
        (["1,0", "1,5", "2,5"], ","),
        (["7,25", "8,5"], ","),
        (["1.100,5", "1.200,5"], ","),
        (["1 200", "1 300"], " "),
        (["10%", "15%"], "%"),
        (["$1.0", "$3"], "$"),
        (["5 kg", "7 kg", "9 kg"], "kg"),
        (["5cm", "7cm", "9.5cm"], "cm"),
    ],
)
def test_formatted_numbers_are_refused_by_their_mark(words: list[str], mark: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "a;y\n" + "".join(f"{word};{'yes' if row % 4 else 'no'}\n" for row, word in enumerate(alternating(*words)))
    )
    semicolon = "dataset.separator=;"
    with pytest.raises(DataError, match=re.escape(f"got {words[0]!r} with {mark!r} in row 1")) as refused:
        table(path, semicolon)
    is_decimal = re.fullmatch(r"\d+,\d+", words[0]) is not None
    assert ("Set dataset.decimal=, if all" in str(refused.value)) == is_decimal
    if is_decimal:
        (tmp_path / "dots.csv").write_text(path.read_text().replace(",", "."))
        commas, dots = table(path, semicolon, "dataset.decimal=,"), table(tmp_path / "dots.csv", semicolon)
        assert torch.equal(commas.tables["train"].matrix, dots.tables["train"].matrix)
    assert table(path, semicolon, "dataset.categorical=[a]").facts.columns[0].levels == tuple(sorted(words))


@pytest.mark.parametrize(
    "words", [["l0", "l1", "l2"], ["4wd", "2wd"], ["A7", "B12"], ["1.0.2", "1.0.3"], ["3a", "3b", "4a"]]
)
def test_codes_with_digits_are_levels(words: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, a=alternating(*words), y=alternating("no", "yes", "yes", "no"))
    assert table(path).facts.columns[0].levels == tuple(sorted(words))


def test_a_new_level_that_looks_like_a_known_number_is_unknown(tmp_path: Path) -> None:
    path = write(tmp_path, code=alternating("100", "501", "A7"), y=alternating("no", "yes", "yes", "no"))
    facts = table(path, "dataset.categorical=[code]").facts
    new = ["100", "1E2", "00100", "1e+2", "+100", "501", "00501", "5.01e2", "A7", "a7", "zzz", " 100"]
    path = write(tmp_path, code=new)
    known = torch.zeros(12, 3)
    known[0, 0] = known[5, 1] = known[8, 2] = known[11, 0] = 1
    [block] = list(NewRowsReader(facts, {"target": "y"}).read(str(path))[1])
    assert torch.equal(block.features, known)
    assert block.unseen == {"code": 8}


@pytest.mark.parametrize(("kind", "spread"), [(pa.float16(), 1.0), (pa.float32(), 1e-3), (pa.float64(), 1e-12)])
def test_a_column_whose_type_rounds_its_variation_away_is_noted(
    kind: pa.DataType, spread: float, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0).normal(size=60)
    y = alternating("no", "yes")
    for name, values in (("t.arrow", 1000 + spread * draw), ("fine.arrow", 1000 + 1000 * spread * draw)):
        held = pa.table({"x": pa.array(values).cast(kind, safe=False), "y": y})
        pyarrow.feather.write_feather(held, tmp_path / name)
    spoken = [
        [
            note
            for note in table(tmp_path / name).notes
            if re.search(r"few significant digits in the source, .*: x$", note)
        ]
        for name in ("t.arrow", "fine.arrow")
    ]
    assert [len(notes) for notes in spoken] == [1, 0]


def test_an_older_model_whose_classes_have_blanks_matches_those_of_a_text_file() -> None:
    rows = {"test": Table(torch.zeros(3, 1), torch.tensor([0, 1, 0]))}
    labels = adopt_classes(rows, ["<=50K", ">50K"], [" >50K", " <=50K"], "table")["test"].labels  # type: ignore[arg-type]  # a dict
    assert labels.tolist() == [1, 0, 1]


def test_a_model_of_booleans_reads_every_spelling_of_them() -> None:
    words = ["0", "1", "True", "false", "TRUE", " true "]
    rows = {"test": Table(torch.zeros(6, 1), torch.arange(6))}
    labels = adopt_classes(rows, words, ["false", "true"], "table")["test"].labels  # type: ignore[arg-type]  # a dict
    assert labels.tolist() == [0, 1, 1, 0, 1, 1]
    with pytest.raises(DataError, match="got 'Yes'"):
        adopt_classes(rows, ["Yes", *words[1:]], ["false", "true"], "table")  # type: ignore[arg-type]  # a dict


@pytest.mark.parametrize(
    ("values", "kind"),
    [([1, 2], "integer"), ([1.0, 2.0], "float"), ([True, False], "boolean"), (["1a", "2"], "text")],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_kind_of_the_classes_is_stored(values: list[Any], kind: str, suffix: str, tmp_path: Path) -> None:
    columns = {"a": list(range(60)), "y": alternating(*values)}
    path = write(tmp_path, **columns)
    if suffix == "parquet":
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table(columns), path)
    assert table(path).facts.class_kind == kind


def test_classes_made_by_positive_are_text(tmp_path: Path) -> None:
    path = write(tmp_path, a=list(range(60)), y=alternating(1, 2, 3))
    assert table(path, "dataset.classes=[1,3]").facts.class_kind == "integer"
    assert table(path, "dataset.positive=1").facts.class_kind == "text"
