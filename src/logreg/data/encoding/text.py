"""Text as features: n-grams of words and of characters, counted and weighted as scikit-learn's TfidfVectorizer does.

A feature is (1 + ln count) * idf of an n-gram, 0 where it is absent (sublinear TF-IDF), and the features of one kind of
n-grams have length 1 in a row.  Different texts are counted once, and texts of train are not counted again to encode
them.

scikit-learn's vectorizers give the same numbers, and tests hold that.  They are not used here because a run loads
nothing else of scikit-learn, whose import takes longer than the counting (``python -X importtime``); the whole command
is compared with scikit-learn's in ``benchmarks/text.py``.

References:
    Salton and Buckley (1988), Term-weighting approaches in automatic text retrieval, Information Processing &
    Management 24(5).
    scikit-learn, Text feature extraction, https://scikit-learn.org/stable/modules/feature_extraction.html
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from logreg.data.encoding.columns import Columns, Series, Values
from logreg.data.encoding.parts import Entries, Part
from logreg.errors import DataError
from logreg.facts import Column, Vocabulary

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MIN_WORDS = 5
"""Mean number of words of a value from which a column with many different values looks like text: names have fewer."""

SAMPLE_TEXTS = 1_000
"""Texts whose words are counted to tell text from ids."""

WORD = re.compile(r"\b[^\W\d_]{2,}\b")
"""A word of letters: codes, dates and numbers have few."""

TOKEN = re.compile(r"\b\w\w+\b")
"""A word as scikit-learn has it: two letters, digits or underscores or more."""


def looks_like_text(values: Sequence[str]) -> bool:
    """Whether the different values of a column are sentences rather than categories or ids."""
    words = [len(WORD.findall(text)) for text in values[:: max(1, len(values) // SAMPLE_TEXTS)]]
    return bool(words) and sum(words) >= MIN_WORDS * len(words)


def learn_text(series: Series, codes: Values, columns: Columns) -> Column:
    """Learns the n-grams of a text column and their inverse document frequencies.

    Args:
        series: The column, all M rows.
        codes: Its values in the train rows, shape (N,).
        columns: The table, for its settings.

    Raises:
        DataError: No n-gram is in enough rows.
    """
    vocabularies = []
    for analyzer, lengths in columns.ngrams.items():
        tokens, counts = _count(series.levels, analyzer, lengths)
        rows_with = np.bincount(counts[codes].indices, minlength=len(tokens))
        kept = (rows_with >= columns.min_df).nonzero()[0]
        if not len(kept):
            raise DataError(_is_empty(series, analyzer, int(rows_with.max(initial=0)), columns))
        idf = np.log((1 + len(codes)) / (1 + rows_with[kept])) + 1
        vocabularies.append(Vocabulary(analyzer, lengths, "\n".join(tokens[kept]), tuple(idf.tolist())))
        series.counted[vocabularies[-1]] = counts[:, kept]
    return Column(series.name, "text", fill="", vocabularies=tuple(vocabularies))


class TextPart(Part):
    """The features of a text column.

    Attributes:
        unknown: Whether each row has no n-gram that train has, shape (M,), boolean: all its features are 0.
    """

    def __init__(self, column: Column, series: Series) -> None:
        """Weighs the n-grams of each different text."""
        from scipy.sparse import csr_array, hstack

        self.codes = series.values
        self.texts = csr_array(hstack([_weighted(series, one) for one in column.vocabularies], format="csr"))
        self.lengths = np.diff(self.texts.indptr)
        self.width = column.num_features
        self.unknown: Values = self.lengths[self.codes] == 0
        self.most_entries = int(self.lengths[self.codes].sum())

    def write(self, block: Values, rows: slice) -> None:
        """Writes some rows into a block of zeros, shape (n, k)."""
        counts, features, values = self.entries(rows)
        block[np.repeat(np.arange(len(counts)), counts), features] = values

    def entries(self, rows: slice) -> Entries:
        """The entries of some rows."""
        texts = self.texts[self.codes[rows]]
        return Entries(np.diff(texts.indptr), texts.indices, texts.data)

    def counts(self, rows: slice) -> Values:
        """Number of entries of each of some rows, shape (n,), integers."""
        lengths: Values = self.lengths[self.codes[rows]]
        return lengths


def vectorizer(vocabulary: Vocabulary) -> Any:
    """scikit-learn's fitted `TfidfVectorizer` of a vocabulary."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    fitted = TfidfVectorizer(
        analyzer=vocabulary.analyzer,
        ngram_range=vocabulary.ngram_range,
        sublinear_tf=True,
        vocabulary=dict(vocabulary.places),
    )
    fitted.idf_ = np.array(vocabulary.idf)
    return fitted


def _count(texts: Sequence[str], analyzer: str, lengths: tuple[int, int]) -> tuple[Values, csr_array]:
    """Counts all n-grams of L texts.

    Returns:
        The V n-grams in order, shape (V,), objects; and how often each text has each, shape (L + 1, V), whose last row,
        of a missing text, is empty.
    """
    from scipy.sparse import csr_array

    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a new n-gram gets the next number
    found, ends = array("i"), [0]
    numbers_of = _NUMBERS[analyzer](lengths, numbers)
    for text in texts:
        found.extend(numbers_of(text.lower()))
        ends.append(len(found))
    tokens = np.array(sorted(numbers), dtype=object)
    place = np.empty(len(tokens), dtype=np.int32)
    place[[numbers[token] for token in tokens]] = np.arange(len(tokens), dtype=np.int32)
    columns = place[np.frombuffer(found, dtype=np.int32)] if found else np.zeros(0, dtype=np.int32)
    counts = csr_array((np.ones(len(columns)), columns, [*ends, ends[-1]]), shape=(len(texts) + 1, len(tokens)))
    counts.sum_duplicates()
    return tokens, counts


def _of_words(lengths: tuple[int, int], numbers: defaultdict[str, int]) -> Callable[[str], Iterable[int]]:
    """A function of a text in lower case that gives the numbers of its n-grams of words."""

    def of_text(text: str) -> Iterable[int]:
        words = TOKEN.findall(text)
        for length in range(lengths[0], min(lengths[1], len(words)) + 1):
            for start in range(len(words) - length + 1):
                yield numbers[" ".join(words[start : start + length])]

    return of_text if lengths != (1, 1) else lambda text: map(numbers.__getitem__, TOKEN.findall(text))


def _of_characters(lengths: tuple[int, int], numbers: defaultdict[str, int]) -> Callable[[str], Iterable[int]]:
    """A function of a text in lower case that gives the numbers of its n-grams of characters within words.

    A word has a blank before and after it; one that is shorter than an n-gram is an n-gram itself, once.
    """

    @cache
    def of_word(word: str) -> list[int]:
        padded, found = f" {word} ", list[int]()
        for length in range(lengths[0], lengths[1] + 1):
            if len(padded) <= length:
                return [*found, numbers[padded]]
            found += [numbers[padded[start : start + length]] for start in range(len(padded) - length + 1)]
        return found

    return lambda text: (number for word in text.split() for number in of_word(word))


_NUMBERS = {"word": _of_words, "char_wb": _of_characters}


def _weighted(series: Series, vocabulary: Vocabulary) -> csr_array:
    """The features of each text, shape (L + 1, V); the last row, of a missing text, is empty."""
    from scipy.sparse import csr_array

    counts = series.counted.pop(vocabulary, None)
    if counts is None:
        tokens, all_counts = _count(series.levels, vocabulary.analyzer, vocabulary.ngram_range)
        places = np.array([vocabulary.places.get(token, -1) for token in tokens], dtype=np.int32)
        known = all_counts[:, places >= 0]  # both are in order, so the columns stay sorted
        columns = places[places >= 0][known.indices]
        counts = csr_array((known.data, columns, known.indptr), shape=(known.shape[0], len(vocabulary.idf)))
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    values = (np.log(counts.data) + 1) * np.array(vocabulary.idf)[counts.indices]
    values /= np.sqrt(np.bincount(rows, values**2, counts.shape[0]))[rows]
    return csr_array((values, counts.indices, counts.indptr), shape=counts.shape)


def _is_empty(series: Series, analyzer: str, most: int, columns: Columns) -> str:
    """The message for a column without an n-gram in ``min_df`` rows of train; ``most`` is the most rows of any."""
    kind = "words of two letters or more" if analyzer == "word" else "characters"
    if not most:
        return (
            f"column {series.name!r} must hold text, and has no {kind} in train [in {columns.source}]. "
            f"Add {columns.setting('dataset.drop', [series.name])}."
        )
    return (
        f"`{columns.value('dataset.min_df', columns.min_df)}` must leave n-grams of column {series.name!r}, and none "
        f"is in more than {most:,} rows of train [in {columns.source}]. Set {columns.value('dataset.min_df', most)}."
    )
