"""Columns of many levels: rare levels, hashed levels, levels that train lacks, and columns that look like an id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.feature_extraction import FeatureHasher
from torch import Tensor

from logreg.csr import is_sparse
from logreg.data.encoding.columns import read_columns
from logreg.data.encoding.encode import encode
from logreg.data.encoding.hashing import buckets_of
from logreg.data.encoding.learning import learn_encoding, profile_columns
from logreg.errors import DataError
from logreg.facts import Column, DataFacts, names_of_features
from logreg.losses.objective import Objective
from logreg.solvers.fit import fit

TOWNS = ["a"] * 5 + ["b"] * 3 + ["c", "d"] + [None] * 2
"""Two levels of a single row, and missing values."""

HASHES = {"red": 252163, "blue": 3837, "Zürich": 88401, "日本": 132798, "": 0, "a b": 49021}
"""Buckets of 2**18, as they have been since the first version."""


def learned(
    train: Sequence[str | None], new: Sequence[str | None] = (), **policy: Any
) -> tuple[Column, dict[str, list[int]], dict[str, Tensor], list[str]]:
    """Encodes one column beside a number: its encoding, rows by feature, rows of unknown levels, and the notes."""
    values = [*train, *new]
    columns = read_columns(pa.table({"town": pa.array(values, pa.string()), "x": np.arange(len(values)) / 2}), **policy)
    (column, *_), notes = learn_encoding(columns, torch.arange(len(train)))
    features, unseen = encode(columns, [column], torch.float64)
    rows = {name: features[:, place].nonzero()[:, 0].tolist() for place, name in enumerate(column.feature_names)}
    assert bool(((features == 0) | (features == 1)).all())
    return column, rows, unseen, list(notes)


def test_few_sentences_are_levels_and_a_note_offers_their_words() -> None:
    texts = [f"the weather was fine on day number {word}" for word in ("one", "two", "three", "four", "five", "six")]
    *_, notes = learned(texts)
    assert notes == ["sentences, used as levels; to learn from their words, add them to dataset.text: town"]
    assert not learned([*texts, *texts])[3]
    assert not learned(["one", "two", "three", "four"])[3]


# Rare levels


def test_rare_levels_share_a_feature_with_levels_that_train_lacks() -> None:
    column, rows, unseen, notes = learned(TOWNS, ["a", "c", "new", None], min_level_rows=2)
    assert column == Column("town", "category", ("a", "b"), "a", indicator=True, rare_levels=2)
    assert rows == {
        "town=a": [0, 1, 2, 3, 4, 10, 11, 12, 15],  # missing values are filled with the most frequent level
        "town=b": [5, 6, 7],
        "town=(rare)": [8, 9, 13, 14],
        "town is missing": [10, 11, 15],
    }
    assert unseen == {}
    assert "joined levels with fewer than 2 train rows in one feature, (rare): town 2 of 4 levels, 2 rows" in notes
    assert column.num_features == len(column.feature_names) == 4


def test_by_default_no_level_is_rare_and_a_level_that_train_lacks_is_in_no_feature() -> None:
    column, rows, unseen, _ = learned(TOWNS, ["new"])
    assert column.levels == ("a", "b", "c", "d")
    assert all(12 not in of_feature for of_feature in rows.values())
    assert unseen["town"].tolist() == [12]
    # nor where no level of train is rare
    column, rows, unseen, _ = learned(["a", "b"] * 3, ["new"], min_level_rows=3)
    assert (column.rare_levels, unseen["town"].tolist()) == (0, [6])


def test_a_level_that_is_called_rare_is_rare_where_others_are() -> None:
    train = ["a"] * 3 + ["(rare)"] * 4 + ["b"]
    column, rows, _, _ = learned(train, min_level_rows=2)
    assert rows == {"town=a": [0, 1, 2], "town=(rare)": [3, 4, 5, 6, 7]}
    assert column.rare_levels == 2
    assert learned(train)[0].feature_names == ("town=(rare)", "town=a", "town=b")


def test_a_column_of_rare_levels_alone_is_left_out_unless_some_are_missing() -> None:
    columns = read_columns(pa.table({"town": ["a", "b", "c", "d"], "x": [1.0, 2.0, 3.0, 4.0]}), min_level_rows=2)
    (only,), notes = learn_encoding(columns, None)
    assert only.name == "x"
    assert notes == ("left out, since no level has 2 train rows: town",)
    column, rows, _, _ = learned(["a", None, "b", "c"], min_level_rows=2)
    assert rows == {"town is missing": [1]}
    assert (column.levels, column.constant, column.num_features) == ((), True, 1)


def test_booleans_have_no_rare_levels() -> None:
    columns = read_columns(pa.table({"wet": [True] + [False] * 9}), min_level_rows=5)
    assert learn_encoding(columns, None)[0][0].feature_names == ("wet=false", "wet=true")


# Hashing


def test_buckets_are_those_of_scikit_learn_whatever_the_number() -> None:
    levels = [f"level {place}" for place in range(2000)] + list(HASHES)
    for number in (2, 1000, 2**18, 2**30):
        hasher = FeatureHasher(number, input_type="string", alternate_sign=False)
        theirs = hasher.transform([[level] for level in levels])
        np.testing.assert_array_equal(buckets_of(levels, number), theirs.indices)


def test_buckets_are_the_same_in_every_process_and_version() -> None:
    assert buckets_of(list(HASHES), 2**18).tolist() == list(HASHES.values())  # Python's own hash has a seed per process


def test_levels_of_wide_columns_are_hashed_and_collisions_are_counted() -> None:
    levels = [f"level {place}" for place in range(40)]
    of_level = buckets_of(levels, 64)
    used = sorted(set(of_level.tolist()))
    assert len(used) < 40  # some collide
    unused = next(name for name in map(str, range(1000)) if buckets_of([name], 64)[0] not in used)
    table = pa.table({"town": [*levels, *levels, "level 7 ", unused], "few": ["a", "b"] * 41})
    columns = read_columns(table, max_levels=39, buckets=64)
    encoding, notes = learn_encoding(columns, torch.arange(80))
    wide, few = encoding
    assert wide.levels == tuple(f"#{bucket}" for bucket in used)
    assert wide.feature_names[0] == f"town=#{used[0]}"
    assert few.levels == ("a", "b")  # a column of few levels keeps their names
    assert (
        f"hashed levels into 64 buckets: town 40 levels, {40 - len(used)} of them into the bucket of another" in notes
    )
    features, unseen = encode(columns, [wide], torch.float64)
    # blanks around a level do not count
    place = [used.index(bucket) for bucket in [*of_level, *of_level, of_level[7]]]
    assert features[:81].argmax(1).tolist() == place
    assert features.sum(1).tolist() == [1.0] * 81 + [0.0]
    assert unseen["town"].tolist() == [81]


def test_rare_buckets_join_too() -> None:
    levels = ["a"] * 4 + ["b"] * 3 + ["c"]
    columns = read_columns(pa.table({"town": levels}), max_levels=2, buckets=2**20, min_level_rows=2)
    (column,), _ = learn_encoding(columns, None)
    assert column.feature_names == (
        *(f"town=#{bucket}" for bucket in sorted(buckets_of(["a", "b"], 2**20))),
        "town=(rare)",
    )
    assert column.fill == f"#{buckets_of(['a'], 2**20)[0]}"
    assert encode(columns, [column], torch.float64)[0][:, 2].tolist() == [0.0] * 7 + [1.0]


# Ids


@pytest.mark.parametrize(("singles", "is_refused"), [(90, False), (91, True)])
def test_a_column_is_refused_where_more_than_nine_in_ten_rows_have_a_level_of_their_own(
    singles: int, is_refused: bool
) -> None:
    levels = [f"level {place if place < singles else singles}" for place in range(100)]
    policies: list[tuple[dict[str, Any], bool]] = [
        ({"max_levels": 50}, is_refused),
        ({"max_levels": 100}, False),  # the column is not wide
        ({"max_levels": 50, "min_level_rows": 2}, False),  # the levels of a single row join one feature
    ]
    for policy, refused in policies:
        (profile,) = profile_columns(read_columns(pa.table({"town": levels}), **policy), None)
        assert bool(profile.problem) == refused
        assert (profile.column is None) == refused


def test_180_levels_are_180_features() -> None:
    codes = np.random.default_rng(0).integers(0, 180, 4000)
    columns = read_columns(pa.table({"town": [f"level {code}" for code in codes]}))
    (column,), notes = learn_encoding(columns, None)
    assert column.num_features == 180
    assert notes == ()


def test_the_advice_names_the_column_and_its_levels() -> None:
    columns = read_columns(pa.table({"town": [f"level {place}" for place in range(200)]}), source="t.csv")
    with pytest.raises(
        DataError, match=r"'town' .* has 200 levels in 200 train rows \[in t.csv\].* dataset.max_levels=200\."
    ):
        learn_encoding(columns, None)


# Sparse rows, and the checkpoint


def wide_table(rows: int, **policy: Any) -> tuple[Any, Tensor]:
    """Columns of 600 and 50 levels beside numbers, and classes that depend on them."""
    draw = np.random.default_rng(1)
    codes, few, x = draw.integers(0, 600, rows), draw.integers(0, 50, rows), draw.normal(3, 2, rows)
    logits = draw.normal(size=600)[codes] + draw.normal(size=50)[few] + (x - 3) / 2
    table = pa.table(
        {
            "wide": [f"w{code}" for code in codes],
            "few": [None if code < 3 else f"f{code}" for code in few],
            "x": x,
        }
    )
    return read_columns(table, **policy), torch.from_numpy((draw.random(rows) < 1 / (1 + np.exp(-logits))).astype(int))


@pytest.mark.long
@pytest.mark.parametrize("policy", [{}, {"min_level_rows": 6}, {"buckets": 256}])
def test_a_fit_of_sparse_rows_is_that_of_dense_ones(policy: dict[str, Any]) -> None:
    columns, labels = wide_table(3000, **policy)
    encoding, _ = learn_encoding(columns, None)
    found = []
    for sparse in (False, True):
        features, _ = encode(columns, encoding, torch.float64, sparse=sparse)
        assert is_sparse(features) == sparse
        found.append(fit(features, labels, Objective("bce", l2=1e-2), optimizer="newton", tolerance=1e-19))
    dense, sparse_one = found
    torch.testing.assert_close(sparse_one.coef, dense.coef, rtol=0, atol=1e-9)
    torch.testing.assert_close(sparse_one.intercept, dense.intercept, rtol=0, atol=1e-9)
    assert sparse_one.bound.value == pytest.approx(dense.bound.value, abs=1e-14)


@pytest.mark.parametrize("policy", [{}, {"min_level_rows": 6}, {"buckets": 256, "min_level_rows": 3}])
def test_facts_of_many_levels_go_through_plain_values_without_the_names(policy: dict[str, Any]) -> None:
    columns, _ = wide_table(3000, **policy)
    encoding, _ = learn_encoding(columns, None)
    names = names_of_features(encoding)
    facts = DataFacts("table", len(names), ("no", "yes"), {"train": 3000}, names, columns=encoding)
    plain = facts.as_dict()
    assert "feature_names" not in plain
    assert DataFacts.from_dict(plain) == facts
    # earlier versions wrote the names, and no rare levels and no buckets
    if not policy:
        plain["feature_names"] = list(names)
        for column in plain["columns"]:
            del column["rare_levels"], column["buckets"]
        assert DataFacts.from_dict(plain) == facts
    plain["columns"][0]["rare_levels"] = -1
    with pytest.raises(ValueError, match="columns does not fit"):
        DataFacts.from_dict(plain)
