"""``facts=only``: one screen of what stands in the data, and nothing else."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from logreg.data import RawData, Table, TensorDataModule
from logreg.errors import DataError
from logreg.reports.data_profile import print_facts
from tables import alternating, write
from whole_runs import Answer, data_of

SCREEN = 120
"""Characters of a line."""


class Given:
    """A dataset of given tensors."""

    name = "given"

    def __init__(self, **features: Tensor) -> None:
        tables = {split: Table(rows, torch.arange(len(rows)) % 2) for split, rows in features.items()}
        self.raw = RawData(tables, ("no", "yes"))  # type: ignore[arg-type]  # train, val, test

    def read(self) -> RawData:
        return self.raw


def screen(data: TensorDataModule) -> str:
    """What is printed, faults of the data or not."""
    text = io.StringIO()
    console = Console(file=text, width=SCREEN)
    try:
        print_facts(data, console)
    except DataError as error:
        console.print(f"refused: {error}", markup=False)
    return text.getvalue()


def facts_of(path: Path, *arguments: str) -> str:
    return screen(data_of("table", f"dataset.path={path}", "dataset.target=y", *arguments))


def cells(text: str, first: str) -> list[str]:
    """The line of a table that starts with this."""
    for line in text.splitlines():
        parts = [part.strip() for part in re.split("[│┃|]", line)[1:-1]]
        if parts and parts[0] == first:
            return parts
    raise AssertionError(f"no line of {first!r} in\n{text}")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """60 rows; 45 no, 15 yes."""
    columns: dict[str, list[Any]] = {
        "size": [float(row * row) for row in range(60)],
        "twice": [float(row * row) for row in range(60)],
        "color": alternating("D", "E", "F"),
        "cleaned": alternating(True, False),
        "mass": [None if row % 4 == 1 else row / 8 for row in range(60)],
        "same": alternating(5),
        "nothing": alternating(None),
    }
    return write(tmp_path, **columns, y=alternating("no", "no", "yes", "no"))


def test_the_screen_counts_rows_and_classes_in_each_split(mixed: Path) -> None:
    text = facts_of(mixed)
    assert re.search(r"t\.csv.* 60 rows, 2 classes", text)
    assert cells(text, "no") == ["no", "27", "75.0%", "9", "75.0%", "9", "75.0%"]
    assert cells(text, "yes") == ["yes", "9", "25.0%", "3", "25.0%", "3", "25.0%"]
    assert [cell for cell in cells(text, "all") if cell] == ["all", "36", "12", "12"]
    assert re.search(r"most frequent.*rarest.*: 3\.0\b", text)


def test_the_screen_shows_kind_missing_values_and_encoding_of_each_column(mixed: Path) -> None:
    text = facts_of(mixed)
    assert cells(text, "size")[1:4] == ["number", "", "1"]
    assert cells(text, "color")[1:4] == ["category", "", "3"]
    assert "D E F" in cells(text, "color")[4]
    assert cells(text, "cleaned")[1:4] == ["boolean", "", "2"]
    assert cells(text, "mass")[1:4] == ["number", "25.0%", "2"]
    assert "missing values marked" in cells(text, "mass")[4]
    assert "constant" in cells(text, "same")[4]
    assert cells(text, "same")[3] == "0"
    assert cells(text, "nothing")[2] == "100.0%"
    assert re.search("missing|empty", cells(text, "nothing")[4])
    assert re.search(r"same as size|duplicate of size", cells(text, "twice")[4])


def test_the_screen_shows_the_memory_of_the_features(mixed: Path) -> None:
    # size, twice, 3 colors, 2 of cleaned, mass and its gaps: 9 features of 4 bytes in 60 rows.
    assert re.search(r"9 of float32, 2 kB", facts_of(mixed))
    assert re.search(r"9 of float64, 4 kB", facts_of(mixed, "precision=64"))


def test_it_is_one_screen_however_many_columns_and_classes(tmp_path: Path) -> None:
    values = torch.rand(61, 300, generator=torch.Generator().manual_seed(0))
    columns: dict[str, list[Any]] = {f"c{number}": values[number].tolist() for number in range(1, 61)}
    columns["c60"] = [1] * 300  # what there is to say of a column comes first, wherever it stands
    text = facts_of(write(tmp_path, **columns, y=[f"k{row % 30}" for row in range(300)]))
    assert len(text.splitlines()) <= 45
    assert max(map(len, text.splitlines())) <= SCREEN
    assert "constant" in cells(text, "c60")[4]
    assert re.search(r"and 20 more", text)
    assert re.search(r"and 44 more", text)


# rows and columns that stand there twice


def test_rows_that_occur_in_two_splits_are_counted(tmp_path: Path) -> None:
    # 40 rows of train; 10 of test, of which 4 are in train; 10 of val, of which none is.
    a = [*range(40), *range(100, 110), 3, 5, 7, 9, *range(200, 206)]
    part = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    path = write(tmp_path, a=a, b=[value / 8 for value in a], part=part, y=alternating("no", "yes"))
    text = facts_of(path, "dataset.split.column=part")
    lines = [line for line in text.splitlines() if "also occur in" in line]
    assert len(lines) == 1
    assert re.search(r"\b4 of 10 rows of test .*train", lines[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize("width", [1, 3, 8])
def test_different_rows_are_never_counted_as_equal(dtype: torch.dtype, width: int, draw: torch.Generator) -> None:
    # Small whole numbers, in which a careless checksum sees the same sums again and again.
    every = torch.cartesian_prod(*[torch.arange(200 if width == 1 else 6)] * min(width, 3)).reshape(-1, min(width, 3))
    every = torch.cat([every, torch.zeros(len(every), width - every.shape[1], dtype=torch.int64)], 1)
    every = every[torch.randperm(len(every), generator=draw)].to(dtype)
    half = len(every) // 2
    apart = TensorDataModule(Given(train=every[:half], test=every[half:]), split={"val": 0})
    assert "also occur in" not in screen(apart)
    shared = TensorDataModule(Given(train=every[:half], test=every[half - 5 :]), split={"val": 0})
    assert re.search(rf"\b5 of {len(every) - half + 5} rows of test", screen(shared))


def test_numbers_that_are_equal_only_in_float32_are_different_rows(tmp_path: Path) -> None:
    # Seconds since 1970: float32 knows every 128th of them.
    a = [1_600_000_000 + row for row in range(60)]
    assert "also occur in" not in facts_of(write(tmp_path, a=a, y=alternating("no", "yes")))


def test_levels_that_train_lacks_do_not_make_rows_the_same(tmp_path: Path) -> None:
    color = alternating("D", "E", rows=40) + ["F"] * 10 + ["G"] * 10
    part = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    path = write(tmp_path, color=color, part=part, y=alternating("no", "yes"))
    assert "of test also occur in val" not in facts_of(path, "dataset.split.column=part")


def test_columns_that_differ_in_one_row_are_not_duplicates(tmp_path: Path) -> None:
    a = [float(row) for row in range(60)]
    columns = {"a": a, "b": [*a[:-1], 60.0], "c": a[::-1], "d": [-value for value in a]}
    text = facts_of(
        write(tmp_path, **columns, y=alternating("no", "yes")), "dataset.split.val=0", "dataset.split.test=0"
    )
    assert "same as" not in text


def test_the_screen_shows_recodings_and_leaks(tmp_path: Path) -> None:
    y = alternating("no", "yes", "yes", rows=200)
    sex = alternating("m", "f", "f", "m", "m", rows=200)
    path = write(tmp_path, sex=sex, male=[int(one == "m") for one in sex], alive=[label == "yes" for label in y], y=y)
    text = facts_of(path)
    assert cells(text, "male")[4] == "a recoding of sex"
    assert cells(text, "alive")[4] == "determines the class: the target under another name?"
    assert "'alive' alone determines the class in all 120 rows of train" in text
    assert "dataset.drop=[alive]" in text


@pytest.mark.parametrize(
    ("typed", "features", "remark"),
    [
        ("", "12", "one-hot: t0 t1 t10 t11 t2 t3 ..."),
        ("dataset.min_level_rows=5", "3", "one-hot: t0 t1; 10 rare levels in 10 train rows"),
        ("dataset.min_level_rows=50", "0", "left out: all levels rare"),
        ("dataset.hash=4 dataset.max_levels=10", "4", "12 levels hashed into 4 buckets, 8 collide"),
    ],
)
def test_the_screen_counts_rare_and_hashed_levels(tmp_path: Path, typed: str, features: str, remark: str) -> None:
    towns = [f"t{row if row < 12 else row % 2}" for row in range(60)]
    path = write(tmp_path, town=towns, a=list(range(60)), y=alternating("no", "yes", rows=60))
    text = facts_of(path, "dataset.split.val=0", "dataset.split.test=0", *typed.split())
    assert cells(text, "town")[3:] == [features, remark]


# data that would be refused


@pytest.mark.parametrize(
    ("columns", "typed", "shown", "refused"),
    [
        ({"code": [f"id{row}" for row in range(60)]}, "dataset.max_levels=10", r"code .*id\?", "like an id"),
        ({"born": [f"2020-01-{row % 28 + 1:02}" for row in range(60)]}, "", r"born .*refused", "dates"),
        ({"tall": [*range(59), "tall"]}, "", r"tall .*text among numbers", "'tall'"),
        ({"mass": [*range(59), None]}, "dataset.missing=error", r"mass .*1\.7%", "missing=error"),
        ({"y": [*alternating("no", "yes", rows=59), "rare"]}, "", r"rare .* 1 ", "'rare'"),
        ({"size": [*range(59), "inf"]}, "", r"size .*number", "inf"),
        ({"part": alternating("train", "test")}, "dataset.split.column=part", r"no .*30", "only 'no'"),
    ],
)  # fmt: skip
def test_the_screen_is_shown_also_where_training_would_be_refused(
    tmp_path: Path, columns: dict[str, list[Any]], typed: str, shown: str, refused: str
) -> None:
    path = write(tmp_path, **({"a": list(range(60)), "y": alternating("no", "yes")} | columns))
    text = facts_of(path, *typed.split())
    body, _, fault = text.rpartition("\nrefused: ")
    assert re.search(shown, body), text
    assert cells(text, "no")
    assert cells(text, "a")[1] == "number"
    assert refused in re.sub(r"\s+", " ", fault), text


def test_all_bad_columns_are_on_the_screen_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path, a=list(range(60)), born=[f"2020-01-{row % 28 + 1:02}" for row in range(60)],
        tall=[*range(59), "tall"], y=alternating("no", "yes"),
    )  # fmt: skip
    text = facts_of(path)
    assert "refused" in cells(text, "born")[4]
    assert "refused" in cells(text, "tall")[4]


# as it is typed


def test_facts_only_prints_and_leaves_nothing(run_train: Callable[[str], Answer], mixed: Path) -> None:
    answer = run_train(f"dataset=table dataset.path={mixed.name} dataset.target=y facts=only")
    assert (answer.code, answer.err, answer.left) == (0, "", ["t.csv"])
    assert "9 of float32" in answer.out
    assert "epoch" not in answer.out


def test_facts_only_of_data_that_would_be_refused_is_the_screen_and_one_line(
    run_train: Callable[[str], Answer], mixed: Path
) -> None:
    answer = run_train(f"dataset=table dataset.path={mixed.name} dataset.target=y dataset.missing=error facts=only")
    assert (answer.code, answer.err.count("\n"), answer.left) == (2, 1, ["t.csv"])
    assert re.search(r"`dataset\.missing=error` .*'mass'", answer.err)
    assert cells(answer.out, "color")[1] == "category"


@pytest.mark.long
def test_facts_show_is_the_screen_and_then_the_run(run_train: Callable[[str], Answer], mixed: Path) -> None:
    answer = run_train(
        f"dataset=table dataset.path={mixed.name} dataset.target=y facts=show max_epochs=1 report=brief accelerator=cpu"
    )
    assert answer.code == 0
    assert answer.out.index("9 of float32") < answer.out.index("accuracy")
    assert any(path.endswith("last.ckpt") for path in answer.left)


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    columns = {"speed [/s]": list(range(60)), "temp [c]": alternating(1, 2, 3), "y": alternating("[bold]", "[/a]")}
    text = facts_of(write(tmp_path, **columns))
    for name in ("speed [/s]", "temp [c]", "[bold]", "[/a]"):
        assert name in text


def test_a_table_without_a_usable_column_is_shown_and_refused(
    run_train: Callable[[str], Answer], tmp_path: Path
) -> None:
    path = write(tmp_path, born=[f"2020-01-{1 + row % 28:02}" for row in range(60)], y=alternating("no", "yes"))
    answer = run_train(f"dataset=table dataset.path={path} dataset.target=y facts=only")
    assert "refused: dates" in answer.out
    assert answer.code == 2
    assert answer.err.count("\n") == 1


def test_facts_only_goes_with_one_run(run_train: Callable[[str], Answer]) -> None:
    answer = run_train("-m facts=only seed=0,1")
    assert (answer.code, answer.out, answer.left) == (2, "", [])
    assert answer.err == "`facts=only` must go with one run. Leave -m out.\n"
