"""Text as features: n-grams of words and of characters, counted and weighted as scikit-learn's vectorizers do.

A feature is (1 + ln count) * idf of an n-gram, 0 where it is absent (sublinear TF-IDF), and the features of one kind of
n-grams have length 1 in a row.  Different texts are counted once, and texts of train are not counted again to encode
them.

References:
    Salton and Buckley (1988), Term-weighting approaches in automatic text retrieval, Information Processing &
    Management 24(5).
    scikit-learn, Text feature extraction, https://scikit-learn.org/stable/modules/feature_extraction.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from logreg.data.encoding.columns import Columns, Series, Values
from logreg.data.encoding.parts import Entries, Part
from logreg.errors import DataError
from logreg.facts import Column, Vocabulary

MIN_WORDS = 5
"""Mean number of words of a value from which a column with many different values looks like text: names have fewer."""

SAMPLE_TEXTS = 1_000
"""Texts whose words are counted to tell text from ids."""

WORD = re.compile(r"\b[^\W\d_]{2,}\b")
"""A word of letters: codes, dates and numbers have few."""


def looks_like_text(values: Sequence[str]) -> bool:
    """Whether the different values of a column are sentences rather than categories or ids."""
    words = [len(WORD.findall(text)) for text in values[:: max(1, len(values) // SAMPLE_TEXTS)]]
    return bool(words) and sum(words) >= MIN_WORDS * len(words)


def learn_text(series: Series, chosen: Values, columns: Columns) -> Column:
    """Learns the n-grams of a text column and their inverse document frequencies.

    Args:
        series: The column, all M rows.
        chosen: Numbers of the train rows, shape (N,).
        columns: The table, for its settings.

    Raises:
        DataError: No n-gram is in enough rows.
    """
    from sklearn.feature_extraction.text import TfidfTransformer

    vocabularies = []
    for analyzer, lengths in columns.ngrams.items():
        tokens, counts = _count(series.levels, analyzer, lengths)
        train = counts[series.values[chosen]]
        rows_with = np.bincount(train.indices, minlength=len(tokens))
        kept = (rows_with >= columns.min_df).nonzero()[0]
        if not len(kept):
            raise DataError(_is_empty(series, analyzer, int(rows_with.max(initial=0)), columns))
        idf = TfidfTransformer(sublinear_tf=True).fit(train[:, kept]).idf_
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
        return self.lengths[self.codes[rows]]


def vectorizer(vocabulary: Vocabulary) -> Any:
    """scikit-learn's fitted `TfidfVectorizer` of a vocabulary."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    fitted = TfidfVectorizer(
        analyzer=vocabulary.analyzer,
        ngram_range=vocabulary.ngram_range,
        sublinear_tf=True,
        vocabulary={token: place for place, token in enumerate(vocabulary.names)},
    )
    fitted.idf_ = np.array(vocabulary.idf)
    return fitted


def _count(texts: Sequence[str], analyzer: str, lengths: tuple[int, int]) -> tuple[Values, Any]:
    """Counts all n-grams of L texts.

    Returns:
        The V n-grams in alphabetical order, shape (V,), objects; and how often each text has each, a CSR array
        (L + 1, V), whose last row, of a missing text, is empty.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(analyzer=analyzer, ngram_range=lengths)
    try:
        counts = counter.fit_transform([*texts, ""])
    except ValueError:  # "empty vocabulary": no text has an n-gram
        return np.array([], dtype=object), csr_array((len(texts) + 1, 0), dtype=np.int64)
    return counter.get_feature_names_out(), csr_array(counts)


def _weighted(series: Series, vocabulary: Vocabulary) -> Any:
    """The features of each text (L + 1, V), a sparse matrix; the last row, of a missing text, is empty."""
    from sklearn.feature_extraction.text import TfidfTransformer

    counts = series.counted.pop(vocabulary, None)
    if counts is None:
        return vectorizer(vocabulary).transform([*series.levels, ""])
    weights = TfidfTransformer(sublinear_tf=True)
    weights.idf_ = np.array(vocabulary.idf)
    return weights.transform(counts)


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
