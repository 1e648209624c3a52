"""Text as features: n-grams and weights are those of scikit-learn's vectorizers, and survive a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_array, hstack
from sklearn.feature_extraction.text import TfidfVectorizer

from logreg.csr import as_scipy
from logreg.data.encoding.columns import Columns, read_columns
from logreg.data.encoding.encode import encode
from logreg.data.encoding.learning import learn_encoding
from logreg.data.encoding.text import TextPart, looks_like_text, vectorizer
from logreg.errors import DataError
from logreg.facts import Column, DataFacts, Vocabulary

TEXTS = [
    "The court heard the attorney; the court adjourned.",
    "An ATTORNEY at law, and a law of nature",
    None,
    "naïve café — déjà vu, naïve!",
    "x = 3 + 4\nprint(x_1)\tend",
    "The court heard the attorney; the court adjourned.",
    "?! ... -",
    "nature of   the\u00a0café",
]

TRAIN = torch.tensor([0, 1, 2, 3, 5, 6])

KINDS = [
    {"word": (1, 1)},
    {"word": (1, 2)},
    {"char_wb": (2, 4)},
    {"word": (2, 3), "char_wb": (3, 3)},
]


def columns_of(texts: list[str | None], **policy: object) -> Columns:
    return read_columns(pa.table({"t": pa.array(texts, pa.string())}), ["t"], "t.csv", text={"t"}, **policy)


def of_scikit_learn(
    texts: list[str | None], train: torch.Tensor, kinds: dict[Any, Any], min_df: int
) -> tuple[list[str], csr_array]:
    """Feature names and features of all rows, by vectorizers that scikit-learn fits to train."""
    documents = [text or "" for text in texts]
    names, parts = [], []
    for analyzer, lengths in kinds.items():
        made = TfidfVectorizer(analyzer=analyzer, ngram_range=lengths, min_df=min_df, sublinear_tf=True)
        made.fit([documents[row] for row in train])
        parts.append(made.transform(documents))
        mark = "'" if analyzer == "char_wb" else ""
        names += [f"t:{mark}{token}{mark}" for token in made.get_feature_names_out()]
    return names, csr_array(hstack(parts))


@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("min_df", [1, 2])
def test_tokens_and_values_are_those_of_scikit_learn(kinds: dict[Any, Any], min_df: int) -> None:
    columns = columns_of(TEXTS, ngrams=kinds, min_df=min_df)
    encoding, notes = learn_encoding(columns, TRAIN)
    names, expected = of_scikit_learn(TEXTS, TRAIN, kinds, min_df)
    assert notes == ()
    assert list(encoding[0].feature_names) == names
    assert encoding[0].num_features == len(names)
    counted_once, unseen = encode(columns, encoding, torch.float64)
    counted_anew, _ = encode(columns_of(TEXTS), encoding, torch.float64)
    assert np.array_equal(counted_once.numpy(), expected.toarray())
    assert np.array_equal(counted_anew.numpy(), expected.toarray())
    assert unseen["t"].tolist() == (np.diff(expected.indptr) == 0).nonzero()[0].tolist()


@pytest.mark.parametrize("block", [slice(0, 8), slice(2, 3), slice(1, 7)], ids=str)
def test_a_part_gives_the_same_dense_and_sparse(block: slice) -> None:
    columns = columns_of(TEXTS, ngrams={"word": (1, 2), "char_wb": (2, 3)})
    (column,), _ = learn_encoding(columns, TRAIN)
    part = TextPart(column, columns.series[0])
    _, expected = of_scikit_learn(TEXTS, TRAIN, dict(columns.ngrams), 1)
    dense = np.zeros((block.stop - block.start, part.width))
    part.write(dense, block)
    counts, features, values = part.entries(block)
    rows = csr_array((values, features, np.concatenate([[0], np.cumsum(counts)])), shape=dense.shape)
    assert np.array_equal(dense, expected[block].toarray())
    assert np.array_equal(rows.toarray(), dense)
    assert np.array_equal(part.counts(block), counts)
    assert rows.has_sorted_indices
    assert part.most_entries == expected.nnz


def test_many_texts_are_sparse_rows() -> None:
    draw = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(5_000)])
    texts: list[str | None] = [" ".join(words[draw.integers(0, 5_000, 20)]) for _ in range(2_000)]
    columns = columns_of(texts)
    encoding, _ = learn_encoding(columns, None)
    features, _ = encode(columns, encoding, torch.float32)
    _, expected = of_scikit_learn(texts, torch.arange(2_000), {"word": (1, 1)}, 1)
    assert features.layout == torch.sparse_csr
    assert (as_scipy(features) != expected.astype(np.float32)).nnz == 0


def test_the_known_answer_of_two_short_texts() -> None:
    columns = columns_of(["red red blue", "red"])
    encoding, _ = learn_encoding(columns, None)
    features, _ = encode(columns, encoding, torch.float64)
    blue, red = math.log(3 / 2) + 1, math.log(2) + 1
    length = math.hypot(blue, red)
    assert encoding[0].feature_names == ("t:blue", "t:red")
    assert features.tolist() == pytest.approx(np.array([[blue / length, red / length], [0, 1]]))


def facts_of(column: Column) -> DataFacts:
    return DataFacts("text", column.num_features, ("a", "b"), {"train": 6}, column.feature_names, columns=(column,))


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_a_vocabulary_survives_the_checkpoint(kinds: dict[Any, Any], tmp_path: Path) -> None:
    (column,), _ = learn_encoding(columns_of(TEXTS, ngrams=kinds), TRAIN)
    facts = facts_of(column)
    torch.save(facts.as_dict(), tmp_path / "facts.pt")
    again = DataFacts.from_dict(torch.load(tmp_path / "facts.pt", weights_only=True))
    assert again == facts
    documents = [text or "" for text in TEXTS]
    _, expected = of_scikit_learn(TEXTS, TRAIN, kinds, 1)
    rebuilt = hstack([vectorizer(one).transform(documents) for one in again.columns[0].vocabularies])
    assert np.array_equal(rebuilt.toarray(), expected.toarray())


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": "b"},
        {"tokens": "b\nb"},
        {"tokens": ["b", "c"]},
        {"idf": torch.tensor([1.0, math.nan])},
        {"idf": torch.tensor([1.0, 2.0, 3.0])},
        {"idf": ["1", "2"]},
        {"analyzer": "char"},
        {"ngram_range": [2, 1]},
        {"ngram_range": [1]},
    ],
    ids=str,
)
def test_a_checkpoint_with_another_vocabulary_is_refused(changed: dict[str, Any]) -> None:
    column = Column("t", "text", fill="", vocabularies=(Vocabulary("word", (1, 1), "b\nc", (1.0, 2.0)),))
    plain = facts_of(column).as_dict()
    assert DataFacts.from_dict(plain) == facts_of(column)
    plain["columns"][0]["vocabularies"][0] |= changed
    with pytest.raises(ValueError, match="columns does not fit"):
        DataFacts.from_dict(plain)


@pytest.mark.parametrize(
    ("texts", "policy", "message"),
    [
        (
            ["? !", "- -"],
            {},
            r"column 't' must hold text.* no words of two letters.*\[in t.csv\]. Add dataset.drop=\[t\].",
        ),
        ([None, "a"], {}, r"column 't' must hold text, and has no words"),
        (
            ["red", "red", "blue"],
            {"min_df": 3},
            r"`dataset.min_df=3` .* in more than 2 rows of train .*dataset.min_df=2.",
        ),
        (["a b", "b"], {"ngrams": {"char_wb": (9, 9)}, "min_df": 9}, r"`dataset.min_df=9` .* more than 2 rows"),
    ],
)
def test_a_vocabulary_without_ngrams_is_refused(texts: list[str | None], policy: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        learn_encoding(columns_of(texts, **policy), None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["The court heard an attorney today", "She said that it was all over"], True),
        (["Allen, Mr. William Henry", "Heikkinen, Miss. Laina"], False),
        (["2024-01-01 12:00:00 +0000", "A/5 21171 3 4 5 6"], False),
        (["7f3a9b", "PC 17599"], False),
        ([], False),
    ],
)
def test_sentences_are_told_from_names_and_ids(values: list[str], expected: bool) -> None:
    assert looks_like_text(values) is expected


@pytest.mark.parametrize("in_python", [False, True])
def test_a_column_of_sentences_is_offered_as_text(in_python: bool) -> None:
    texts = [f"the number of this sentence is {'abcdefghij'[row % 10] * (row // 10 + 2)}" for row in range(120)]
    columns = read_columns(pa.table({"t": texts, "x": range(120)}), (), "t.csv", in_python=in_python)
    line = "text=['t']" if in_python else r"dataset.text=\[t\]"
    if in_python:
        line = r"text=\['t'\]"
    with pytest.raises(DataError, match=rf"must name the columns of text, and column 't' has 120 .* Add {line} to"):
        learn_encoding(columns, None)
