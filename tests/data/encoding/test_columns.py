"""Any table: what is learned of it is the same in any order, and plain values carry it to a checkpoint and back."""

from __future__ import annotations

import dataclasses
import inspect
import io
import re
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from logreg.data import RawData, Table, TensorDataModule
from logreg.data.encoding.columns import Columns, read_columns
from logreg.data.encoding.encode import encode
from logreg.data.encoding.learning import learn_encoding, learn_stored_form
from logreg.data.sources.table import TableFile
from logreg.errors import DataError
from logreg.facts import Column, DataFacts
from logreg.losses import one_vs_rest
from logreg.training.module import LogisticModule

ROWS = 16

MISSING = st.none()
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "float": st.floats(-1e3, 1e3, width=16) | st.just(float("nan")),
    "int": st.integers(-1000, 1000),
    "bool": st.booleans(),
    "text": st.sampled_from(["a", "ß", "日本", "x y", "a=b", "is missing", ","]),
    "levels like numbers": st.sampled_from(["1", "2", "01", "3.0", "1e3"]),
    "dictionary": st.sampled_from(["a", "b", "c"]),
}
"""Kinds of columns; each may also have missing values, be constant or be all missing."""

TYPES = {"float": pa.float64(), "int": pa.int64(), "bool": pa.bool_(), "dictionary": pa.string()}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Some columns of any kind, with any names."""
    alphabet = st.characters(exclude_categories=["Cs", "Cc"])
    names = draw(st.lists(st.text(alphabet, min_size=1, max_size=5), min_size=1, max_size=4, unique=True))
    columns = {}
    for name in names:
        kind = draw(st.sampled_from(list(KINDS)))
        one = KINDS[kind] | MISSING if draw(st.booleans()) else KINDS[kind]
        values = draw(st.lists(one, min_size=ROWS, max_size=ROWS))
        column = pa.array(values, TYPES.get(kind, pa.string()))
        columns[name] = column.dictionary_encode() if kind == "dictionary" else column
    return pa.table(columns)


class Given:
    """A dataset of a given table; two rows of one class, two of the other, and so on."""

    name = "given"

    def __init__(self, table: pa.Table, rows: Tensor | None = None) -> None:
        labels = torch.arange(len(table)) // 2 % 2
        self.raw = RawData({"train": Table(read_columns(table), labels, rows)}, ("no", "yes"))

    def read(self) -> RawData:
        return self.raw


def read(table: pa.Table, rows: Tensor | None = None) -> TensorDataModule:
    """Float64, nothing held out; a table that nothing can be learned from is not looked at any further."""
    data = TensorDataModule(Given(table, rows), split={"val": 0, "test": 0}, dtype=torch.float64, standardize=True)
    try:
        data.setup()
    except DataError as error:
        assume("varies over train" not in str(error))
        raise
    return data


def features_of(data: TensorDataModule) -> Tensor:
    """Of all rows, those of train or not."""
    features = data.tables["train"].features
    assert isinstance(features, Tensor)
    return features


def by_name(data: TensorDataModule, values: Tensor) -> dict[str, list[float]]:
    """A list per feature, of values of shape (..., D)."""
    assert len(set(data.facts.feature_names)) == data.facts.num_features
    return dict(zip(data.facts.feature_names, values.T.tolist(), strict=True))


def learned(data: TensorDataModule) -> Tensor:
    """The coefficients in source units after some full-batch steps, (1, D)."""
    module = LogisticModule(data.facts, l2=0.1, precision="64")
    model = module.model
    features, labels = model.standardize(features_of(data)), data.tables["train"].labels
    targets = one_vs_rest(labels, 1, torch.float64)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        for _ in range(10):
            logits = torch.empty_like(targets)
            module.objective.gradient_(features, targets, model.coef, model.intercept, 1.0, logits)
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=0.5)
    return model.in_source_units()[0]


@pytest.mark.long
@given(table=tables(), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_encode_save_load_predict_gives_the_same_probabilities(table: pa.Table, seed: int) -> None:
    data = read(table)
    module = LogisticModule(data.facts, init="linear", seed=seed, precision="64")
    before = module.predict_step(next(iter(data.blocks("train"))), 0)
    file = io.BytesIO()
    held = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(held | {"pytorch-lightning_version": lightning.__version__}, file)
    # From here on there is nothing but the file and the raw rows.
    file.seek(0)
    load = inspect.unwrap(LogisticModule.load_from_checkpoint)  # the wrapper reads the source of all its callers
    loaded = load(LogisticModule, file, map_location="cpu", weights_only=True)
    facts = loaded.facts
    assert facts == data.facts
    rows = read_columns(table, [column.name for column in facts.columns if column.kind != "number"])
    features, unseen = encode(rows, facts.columns, torch.float64)
    assert unseen == {}
    after = loaded.probabilities(features)
    torch.testing.assert_close(after, before, atol=0, rtol=0)


@pytest.mark.long
@given(table=tables())
@settings(max_examples=25)
def test_the_matrix_is_as_wide_as_it_has_names_and_finite_and_each_block_of_levels_sums_to_one_or_none(
    table: pa.Table,
) -> None:
    data = read(table, torch.arange(0, ROWS, 2))  # levels and medians of every other row only
    features = features_of(data)
    assert features.shape == (ROWS, len(data.facts.feature_names)) == (ROWS, data.facts.num_features)
    assert bool(features.isfinite().all())
    start = 0
    for column in data.facts.columns:
        block = features[:, start : start + len(column.feature_names)]
        start += len(column.feature_names)
        if column.indicator:
            gaps = table.column(column.name).is_null(nan_is_null=True).to_pylist()
            assert block[:, -1].tolist() == [float(gap) for gap in gaps]
            block = block[:, :-1]
        if column.kind != "number" and not column.constant:
            assert set(block.sum(1).tolist()) <= {0.0, 1.0}
            assert set(block[::2].sum(1).tolist()) == {1.0}  # a level of train is a level
    assert start == features.shape[1]


@pytest.mark.long
@given(table=tables(), order=st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_the_order_of_the_columns_changes_nothing_but_the_order(table: pa.Table, order: Any) -> None:
    names = list(table.column_names)
    order.shuffle(names)
    one, other = read(table), read(table.select(names))
    assert by_name(one, features_of(one)) == by_name(other, features_of(other))
    coefs, theirs = by_name(one, learned(one)), by_name(other, learned(other))
    for name, coef in coefs.items():
        assert coef == pytest.approx(theirs[name], rel=1e-9, abs=1e-12)  # sums in another order


@pytest.mark.long
@given(table=tables(), order=st.permutations(range(ROWS)))
@settings(max_examples=20)
def test_the_order_of_the_rows_changes_neither_levels_nor_fills(table: pa.Table, order: list[int]) -> None:
    one = read(table)
    other = read(table.take(order))
    assert one.facts.columns == other.facts.columns
    torch.testing.assert_close(features_of(one)[order], features_of(other), atol=0, rtol=0)


@pytest.mark.long
@given(table=tables())
@settings(max_examples=20)
def test_the_encoding_comes_back_from_plain_values(table: pa.Table) -> None:
    facts = read(table).facts
    assert DataFacts.from_dict(facts.as_dict()) == facts


# single columns, by hand


def encoded(values: Any, *more: Any, train: int | None = None) -> tuple[Column, list[list[float]]]:
    """Encoding and features of one column ``c``, learned on the first ``train`` rows."""
    columns = read_columns(pa.table({"c": values}), *more)
    encoding, _ = learn_encoding(columns, None if train is None else torch.arange(train))
    features, _ = encode(columns, encoding, torch.float64)
    return encoding[0], features.tolist()


def test_numbers_are_not_changed() -> None:
    column, features = encoded([3, 1, 2])
    assert column.feature_names == ("c",)
    assert features == [[3.0], [1.0], [2.0]]


@pytest.mark.parametrize(
    ("values", "names", "features"),
    [
        (["E", "D", "E"], ("c=D", "c=E"), [[0, 1], [1, 0], [0, 1]]),
        ([True, False, True], ("c=false", "c=true"), [[0, 1], [1, 0], [0, 1]]),
        (pa.array(["E", "D", "E"]).dictionary_encode(), ("c=D", "c=E"), [[0, 1], [1, 0], [0, 1]]),
        (pa.array([7, 5, 7]).dictionary_encode(), ("c=5", "c=7"), [[0, 1], [1, 0], [0, 1]]),
        (pa.array(["10", "9", "10"]), ("c=10", "c=9"), [[1, 0], [0, 1], [1, 0]]),
    ],
)
def test_text_booleans_and_dictionaries_are_a_feature_per_level(
    values: Any, names: tuple[str, ...], features: list[list[float]]
) -> None:
    column, ours = encoded(values)
    assert column.feature_names == names
    assert ours == features


def test_levels_of_a_dictionary_that_no_row_has_are_no_features() -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0, 2, 0]), pa.array(["a", "b", "c"]))
    assert encoded(values)[0].feature_names == ("c=a", "c=c")


def test_levels_and_the_median_are_those_of_train() -> None:
    column, features = encoded(["a", "b", "a", "new", None], train=3)
    assert column.feature_names == ("c=a", "c=b")
    assert features[3] == [0.0, 0.0]
    assert features[4] == [1.0, 0.0]  # the most frequent of train, which had no missing value to mark
    column, features = encoded([1.0, None, 2.0, 9.0, None, 100.0], train=4)
    assert (column.fill, column.feature_names) == (2.0, ("c", "c is missing"))
    assert features == [[1, 0], [2, 1], [2, 0], [9, 0], [2, 1], [100, 0]]


def test_of_equally_frequent_levels_the_first_in_the_alphabet_fills() -> None:
    # Else the order of the rows would decide.
    assert encoded(["b", "a", "b", "a", None])[0].fill == encoded(["a", "b", None, "a", "b"])[0].fill == "a"


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("rows", [300_000, 310_000, 310_001])
def test_the_median_is_that_of_all_train_rows_however_many(rows: int, first: int) -> None:
    # Also for a column without missing values: a raw row may have one when the model is used.
    values = np.random.default_rng(0).exponential(size=rows)
    values[first::2] += 100  # a sample of every 31st row encloses the median; one of every 30th row does not
    assert encoded(values)[0].fill == float(np.median(values))


def test_the_moments_of_a_column_are_those_of_its_filled_values() -> None:
    values = np.array([np.nan, 1e9, 1e9 + 1, 1e9 + 2, np.nan, 1e9 + 9])
    columns = read_columns(pa.table({"c": values}))
    encoding, _ = learn_encoding(columns, None)
    form, found, _ = learn_stored_form(columns, encoding, None, None, shifts=True)
    filled = np.where(np.isnan(values), np.nanmedian(values), values)
    assert found.mean[0] == pytest.approx(filled.mean(), rel=1e-12)
    assert found.std[0] == pytest.approx(filled.std(), rel=1e-9)
    assert float(form.shift[0]) == pytest.approx(1e9, rel=1e-6)


@pytest.mark.parametrize("outlier", [-1e45, 1e45])
def test_an_outlier_beyond_float32_does_not_measure_its_column(outlier: float) -> None:
    columns = read_columns(pa.table({"c": [0.0, 1.0, 2.0, 3.0, outlier]}))
    encoding, _ = learn_encoding(columns, None)
    form, found, _ = learn_stored_form(columns, encoding, None, None, shifts=True)
    assert form.is_plain
    assert (float(found.mean[0]), float(found.std[0])) == (0.0, 1.0)


def test_train_rows_alone_say_whether_a_column_is_empty_or_unique() -> None:
    columns = read_columns(pa.table({"empty": [None] * 40 + [1.0, 2.0], "id": [*range(40), 0, 0]}))
    encoding, notes = learn_encoding(columns, torch.arange(40))
    assert [column.name for column in encoding] == ["id"]
    assert any(note.startswith("whole numbers that are unique") and note.endswith("id") for note in notes)
    assert "left out, since all values are missing in train: empty" in notes


def test_levels_that_nearly_all_are_of_one_row_may_be_an_id() -> None:
    table = pa.table(
        {
            "id": [f"r{row}" for row in range(60)],
            "typed": [f"r{row}" for row in range(60)],
            "town": [f"t{row % 10}" for row in range(60)],
            "late": [*(f"r{row}" for row in range(29)), *["r"] * 31],
            "sentence": [f"there are the words of row {row}" for row in range(60)],
        }
    )
    columns = read_columns(table, settings={"dataset.categorical": ["typed"]})
    for rows, expected in ((None, ["id"]), (torch.arange(30), ["id, late"]), (torch.arange(29), [])):
        _, notes = learn_encoding(columns, rows)
        assert [note.partition("dataset.drop: ")[2] for note in notes if note.startswith("nearly every")] == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_that_have_no_fraction_for_their_size_alone_are_no_ids(dtype: Any) -> None:
    first = 2 ** np.finfo(dtype).nmant  # from here on, all floats of the type are whole
    large, counts = (np.arange(40, dtype=dtype) + dtype(start) for start in (first, 1))
    columns = read_columns(pa.table({"large": large, "counts": counts, "both": np.concatenate([counts[1:], [first]])}))
    _, notes = learn_encoding(columns, None)
    assert [note.partition("dataset.drop: ")[2] for note in notes if note.startswith("whole")] == ["counts, both"]


def test_a_constant_column_with_missing_values_becomes_its_indicator() -> None:
    column, features = encoded([5.0, None, 5.0])
    assert (column.feature_names, features) == (("c is missing",), [[0], [1], [0]])
    column, features = encoded(["x", None, "x"])
    assert (column.feature_names, features) == (("c is missing",), [[0], [1], [0]])


@pytest.mark.parametrize("values", [[1, 1, 1], ["x", "x", "x"], [True] * 3, [None] * 3, [float("nan")] * 3])
def test_a_column_without_information_is_left_out_and_named(values: Any) -> None:
    columns = read_columns(pa.table({"says": [1, 2, 3], "says_nothing": values}))
    encoding, notes = learn_encoding(columns, None)
    assert [column.name for column in encoding] == ["says"]
    assert [note for note in notes if "says_nothing" in note] == list(notes) != []


def test_a_column_that_train_has_as_numbers_is_not_read_as_text() -> None:
    encoding, _ = learn_encoding(read_columns(pa.table({"c": [1.0, 2.0]})), None)
    with pytest.raises(DataError, match=r"'c'.*number.*got 'a' in row 1"):
        encode(read_columns(pa.table({"c": ["a", "b"]})), encoding, torch.float32)


def test_a_column_that_the_model_learned_from_must_be_there() -> None:
    encoding, _ = learn_encoding(read_columns(pa.table({"c": [1.0, 2.0]})), None)
    with pytest.raises(DataError, match="'c'"):
        encode(read_columns(pa.table({"d": [1.0, 2.0]})), encoding, torch.float32)


def test_a_row_with_a_missing_value_alone_is_filled_like_any_other() -> None:
    table = pa.table({"n": [1.0, None, 5.0], "t": ["a", "a", "b"], "b": [True, True, False]})
    encoding, _ = learn_encoding(read_columns(table), None)
    raw = pa.table({"n": pa.nulls(1), "t": pa.nulls(1), "b": pa.nulls(1)})
    features, unseen = encode(read_columns(raw), encoding, torch.float64)
    assert (features.tolist(), unseen) == ([[3.0, 1.0, 1.0, 0.0, 0.0, 1.0]], {})


def many_kinds(rows: int = 70_000) -> pa.Table:
    """Columns of every kind, more rows than a block has."""
    numbers = np.random.default_rng(0).normal(size=rows)
    return pa.table(
        {
            "double": numbers,
            "far": 1.7e9 + numbers,
            "gaps": pa.array(np.where(numbers > 1, np.nan, numbers)),
            "single": numbers.astype(np.float32),
            "whole": np.arange(rows) % 7,
            "text": pa.array([f"w{row % 3}" for row in range(rows)]),
        }
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_that_are_freed_are_encoded_alike(dtype: torch.dtype) -> None:
    columns = read_columns(many_kinds())
    encoding, _ = learn_encoding(columns, None)
    stored, _, _ = learn_stored_form(columns, encoding, None, None, True)
    kept, _ = encode(columns, encoding, dtype, stored)
    assert len(columns.series) == 6
    freed, _ = encode(columns, encoding, dtype, stored, free=True)
    assert torch.equal(kept, freed)
    assert kept.dtype == dtype
    assert not columns.series


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(("value", "advice"), [(np.inf, "Fix the row."), (1e39, "Set precision=64, or fix the row.")])
def test_an_infinite_number_is_named(value: float, advice: str, free: bool) -> None:
    columns = read_columns(many_kinds(), source="t.csv")
    encoding, _ = learn_encoding(columns, None)
    values = columns.series[0].values.copy()
    values[40_000] = value
    columns.series[0] = dataclasses.replace(columns.series[0], values=values)
    message = f"column 'double' must hold finite numbers, got {value:g} in row 40001 [in t.csv]. {advice}"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        encode(columns, encoding, torch.float32, free=free)


@pytest.mark.parametrize("for_model", [False, True])
def test_columns_are_freed_unless_someone_has_read_them_before(tmp_path: Path, for_model: bool) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{row / 7},{row % 2}\n" for row in range(60)))
    model = TensorDataModule(TableFile(path=str(path), target="y")).facts if for_model else None

    raw = TableFile(path=str(path), target="y").read()
    columns = raw.tables["train"].features
    assert isinstance(columns, Columns)
    reader = TensorDataModule(Once(raw), model=model)
    if for_model:
        reader.keep_columns()  # for `source_columns`
    else:
        assert reader.preparation.raw is raw  # as `profile_data` does
    reader.setup()
    assert len(columns.series) == 1
    assert ("raw" in vars(reader.preparation)) == for_model
    alone = TensorDataModule(Once(raw), model=model)
    alone.setup()
    assert not columns.series
    assert "raw" not in vars(alone.preparation)


class Once:
    """A dataset that gives what was read already."""

    name = "table"

    def __init__(self, raw: RawData) -> None:
        self.raw = raw

    def read(self) -> RawData:
        return self.raw
