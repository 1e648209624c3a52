"""`TableEncoder`: a table with numbers, categories, booleans, text and missing values as a matrix of numbers."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data
from torch import Tensor

from logreg.constraints import check, flag, lengths, listed, one_of, optional, power, whole, whole_of
from logreg.csr import as_scipy, is_sparse, with_values
from logreg.data.arrow_numbers import text_array
from logreg.data.base import Table
from logreg.data.encoding.columns import Columns, ngrams_of, read_columns
from logreg.data.encoding.encode import encode
from logreg.data.encoding.learning import learn_encoding, learn_stored_form
from logreg.data.formats.frames import arrow_column, columns_of, is_frame
from logreg.data.formats.text_tables import missing_words
from logreg.data.preparation_steps import moments_of, of_scaled_columns
from logreg.errors import ConfigError, DataError, did_you_mean, name_list, nearest
from logreg.estimators.input import Array
from logreg.facts import Column, DataFacts, names_of_features
from logreg.stored_form import Moments, StoredForm
from logreg.terminal import counted, format_bytes

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MAX_DENSE_FEATURES = 1000
"""Features of a trained model up to which its encoder returns a dense matrix; more are those of many levels."""

MOST_NAMES = 20
"""Number of columns that one message lists."""


class TableEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Encodes the columns of a table as ``dataset=table`` of ``scripts/train.py`` does.

    A number is a feature; a missing one is replaced by the median, and marked by a feature ``carat is missing``.  A
    category or a boolean has a feature of 0 or 1 for each level, ``color=D``; a missing one is replaced by the most
    frequent level, and marked.  A level that `fit` has not seen is 0 in all features of its column, or counts as rare
    where there are rare levels.  A text has a feature for each n-gram, ``review:good``, weighted by sublinear TF-IDF,
    which is not standardized.  Columns that are constant or have no values are left out.

    The types of the frame count: text is a category also where it looks like numbers, and numbers are numbers unless
    ``categorical`` names their column or the frame has them as categories.  Dates and times are refused, also as text
    by ISO 8601 unless ``categorical`` names their column.

    Args:
        features: Columns to learn from; ``None`` for all.  `transform` ignores other columns if it is given, and else
            refuses columns that it does not know.
        drop: Columns to leave out.
        categorical: Columns of categories that look like numbers.  As in the two above, a whole number is the position
            of a column; the columns of an array are also called x0, x1, ...
        text: Columns of text.
        word_ngrams: Smallest and largest number of words of an n-gram of text; ``None`` for none.
        char_ngrams: Smallest and largest number of characters of an n-gram within a word; ``None`` for none.
        min_df: Smallest number of rows with an n-gram that is learned.
        missing: "impute", or "error" to refuse missing values.
        missing_values: Words that mean a missing value, besides None, nan and NA.
        max_levels: Number of levels, >= 2, above which a column of text is refused where it looks like an id: nearly
            every row has a level of its own.
        min_level_rows: Number of rows, >= 1, below which a level joins the rare levels of its column, whose feature is
            ``color=(rare)``.
        hash: Number of buckets, such as 2**18, that the levels of a column with more than ``max_levels`` are hashed
            into, as scikit-learn's FeatureHasher does; ``None`` for one feature a level.
        standardize: Whether features have mean 0 and standard deviation 1 over the rows of `fit`.  So it is by default,
            as in the command, so that a penalty weighs all columns alike whatever their units are.  The features of
            text, and of a column with more than 100 of them, stay as they are.
        sparse_output: Whether `transform` returns a sparse matrix, for columns of many levels.  Only numbers have mean
            0 then; features of 0 and 1 are divided by their standard deviation, and the zeros stay.  A fit with an
            intercept that is not penalized has the same coefficients.

    Attributes:
        columns_: The encoding of each column that is used, as `logreg.facts.Column`.
        mean_: Number that is subtracted from each feature, shape (D,), where ``standardize`` is set; else ``None``.
        scale_: Divisor of each feature, shape (D,): its standard deviation; ``None`` as above.
        notes_: Sentences on what was filled and left out.
        n_features_in_: Number of columns of the table.
        feature_names_in_: Their names, where the table has names.
    """

    def __init__(
        self,
        *,
        features: Sequence[str | int] | None = None,
        drop: Sequence[str | int] = (),
        categorical: Sequence[str | int] = (),
        text: Sequence[str | int] = (),
        word_ngrams: tuple[int, int] | None = (1, 1),
        char_ngrams: tuple[int, int] | None = None,
        min_df: int = 1,
        missing: Literal["impute", "error"] = "impute",
        missing_values: Sequence[str] = (),
        max_levels: int = 100,
        min_level_rows: int = 1,
        hash: int | None = None,
        standardize: bool = True,
        sparse_output: bool = False,
    ) -> None:
        self.features = features
        self.drop = drop
        self.categorical = categorical
        self.text = text
        self.word_ngrams = word_ngrams
        self.char_ngrams = char_ngrams
        self.min_df = min_df
        self.missing = missing
        self.missing_values = missing_values
        self.max_levels = max_levels
        self.min_level_rows = min_level_rows
        self.hash = hash
        self.standardize = standardize
        self.sparse_output = sparse_output

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learns the encoding of the columns.

        Args:
            X: A DataFrame of pandas or polars, a table of Arrow, or an array of numbers or objects; N rows.
            y: Ignored.

        Raises:
            LogregError: A column cannot be used, or a parameter breaks its constraint; a ValueError.
        """
        self._learn(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Array | csr_array:
        """Learns the encoding of the columns and encodes them; as `fit`, then `transform`, in less time."""
        return self._scaled(self._learn(X))

    def transform(self, X: Any) -> Array | csr_array:
        """Encodes a table as the one of `fit`.

        Args:
            X: A table with the columns that `fit` learned from, in any order; an array has them in the order of `fit`.

        Returns:
            Features, shape (N, D), float64, under the names of `get_feature_names_out`; a CSR array of SciPy where
            ``sparse_output`` is set.

        Raises:
            LogregError: A column is missing, is not known, or has another type than in `fit`; a number is infinite.  A
                ValueError.
        """
        check_is_fitted(self)
        given = self._read_as_learned(X)
        cells = {
            column.name: self._as_learned(arrow_column(column.name, given[column.name]), column)
            for column in self.columns_
        }
        columns = self._columns(cells, [column.name for column in self.columns_ if column.kind != "number"])
        features = self._encode(columns, free=True)
        return self._scaled(features)

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Names of the D features: ``carat``, ``carat is missing``, ``color=D``, ...

        Args:
            input_features: Names of the columns; ``None`` for those of `fit`.
        """
        check_is_fitted(self)
        named = dict(zip(self._names, _check_feature_names_in(self, input_features), strict=True))
        columns = [dataclasses.replace(column, name=named[column.name]) for column in self.columns_]
        return np.array(names_of_features(columns), dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags

    @classmethod
    def _of_run(cls, facts: DataFacts, dtype: torch.dtype) -> Self:
        """The encoder of a model that was trained on a table; its features are in source units.

        Args:
            facts: Facts of the model.
            dtype: Floating type in which the model reads features: they are rounded to it, so that probabilities are
                those of the model.
        """
        names = [column.name for column in facts.columns]
        words = list(dict.fromkeys(missing_words(facts.missing_values)))
        sparse = facts.num_features > MAX_DENSE_FEATURES
        self = cls(features=names, missing_values=words, standardize=False, sparse_output=sparse)
        self.feature_names_in_, self.n_features_in_, self._names = np.array(names, dtype=object), len(names), names
        self.columns_, self.notes_ = facts.columns, ()
        self.mean_ = self.scale_ = None
        self._stored, self._dtype = facts.stored, dtype
        return self

    # Learning

    def _learn(self, X: Any) -> Tensor:
        """Learns the encoding, and returns the stored features, shape (N, D), float64."""
        names = listed(in_python=True)
        for key, constraint in {
            "features": optional(names),
            "drop": names,
            "categorical": names,
            "text": names,
            "word_ngrams": optional(lengths()),
            "char_ngrams": optional(lengths()),
            "min_df": whole(at_least=1),
            "missing": one_of(("impute", "error")),
            "missing_values": names,
            "max_levels": whole(at_least=2),
            "min_level_rows": whole(at_least=1),
            "hash": optional(power()),
            "standardize": flag(),
            "sparse_output": flag(),
        }.items():
            check(key, self._given(key), constraint)
        given = self._read(X)
        chosen, categorical = self._chosen(), [*self._named("categorical"), *self._named("text")]
        words = [str(word).strip() for word in self._given("missing_values")]
        cells = {name: _without_words(arrow_column(name, given[name]), words, name in categorical) for name in chosen}
        columns = self._columns(cells, categorical)
        encoding, notes = learn_encoding(columns, None)
        self.columns_, self.notes_ = encoding, notes
        self._stored, self._dtype = StoredForm.plain(sum(column.num_features for column in encoding)), torch.float64
        if self.standardize:
            self._stored, _, _ = learn_stored_form(columns, encoding, None, None, shifts=True)
        features = self._encode(columns)
        self.mean_ = self.scale_ = None
        if self.standardize:
            found = of_scaled_columns(self._moments(features), encoding)
            mean, scale = self._stored.standardization(found)
            self.mean_, self.scale_ = np.array(mean), np.array(scale)
        empty = [series.name for series in columns.series if series.kind == "none"]
        if empty:
            warnings.warn(f"left out, since all values are missing: {name_list(empty)}", stacklevel=3)
        return features

    def _read(self, X: Any) -> dict[str, Any]:
        """The columns of the table of `fit`; sets their names and their number.

        Raises:
            ValueError: It is no table of at least two rows.
        """
        if is_frame(X):
            columns = columns_of(X)
            shape = len(next(iter(columns.values()), ())), len(columns)
            if shape[0] < 2:
                raise DataError(f"`X` must have at least 2 rows and 1 column, got shape {shape}.")
            self.feature_names_in_ = np.array(list(columns), dtype=object)
            self.n_features_in_ = len(columns)
        else:
            array = validate_data(self, _objects(X), dtype=None, ensure_all_finite=False, ensure_min_samples=2)
            columns = {f"x{place}": array[:, place] for place in range(array.shape[1])}
        self._names = list(columns)
        return columns

    def _given(self, key: str) -> Any:
        """A parameter as a plain value: a list where it is an array of names."""
        value = getattr(self, key)
        return value.tolist() if hasattr(value, "tolist") else value

    def _named(self, key: str) -> list[str]:
        """Names of the columns that a parameter names, each by its name or its position.

        Raises:
            ConfigError: There is no such column.
        """
        found = []
        for given in self._given(key):
            is_place = isinstance(given, int) and 0 <= given < len(self._names)
            name = self._names[given] if is_place else given
            if name not in self._names:
                advice = did_you_mean(name, self._names) or f"X has {name_list(self._names, MOST_NAMES)}."
                raise ConfigError.broken(key, "name a column of X", given, advice)
            found.append(name)
        return found

    def _chosen(self) -> list[str]:
        """Names of the columns to learn from.

        Raises:
            ConfigError: A parameter names a column that X lacks.
        """
        wanted = self._names if self.features is None else dict.fromkeys(self._named("features"))
        dropped = set(self._named("drop"))
        return [name for name in wanted if name not in dropped]

    def _columns(self, cells: dict[str, Any], as_category: Iterable[str]) -> Columns:
        """The columns as the encoding reads them."""
        import pyarrow as pa

        return read_columns(
            pa.table(cells),
            set(as_category),
            "X",
            missing=self.missing,
            max_levels=self._given("max_levels"),
            text=self._named("text"),
            ngrams=ngrams_of(self._given("word_ngrams"), self._given("char_ngrams"), ""),
            min_df=self._given("min_df"),
            min_level_rows=self._given("min_level_rows"),
            buckets=whole_of(self._given("hash")),
            settings={
                f"dataset.{key}": list(self._given(key) or ())
                for key in ("features", "drop", "categorical", "text", "missing_values")
            },
            in_python=True,
        )

    # Encoding

    def _read_as_learned(self, X: Any) -> dict[str, Any]:
        """The columns of the table of `transform`.

        Raises:
            ValueError: It lacks a column, has one that is not known, or has no rows.
        """
        if not is_frame(X):
            array = validate_data(self, _objects(X), reset=False, dtype=None, ensure_all_finite=False)
            return {name: array[:, place] for place, name in enumerate(self._names)}
        columns = columns_of(X)
        if not len(next(iter(columns.values()), ())):
            raise DataError("`X` must have rows, got 0 samples.")
        if not hasattr(self, "feature_names_in_"):  # of an array
            if len(columns) != len(self._names):
                raise DataError(f"`X` must have {counted(len(self._names), 'column')} as in fit, got {len(columns)}.")
            return dict(zip(self._names, columns.values(), strict=True))
        extra = [name for name in columns if name not in self._names]
        for column in self.columns_:
            if column.name not in columns:
                near = nearest(column.name, extra)
                advice = f" Is it {near!r}? Rename that one." if near else ""
                raise DataError(f"`X` must have the column {column.name!r} that fit learned from.{advice}")
        if extra and self.features is None:
            raise DataError(
                f"`X` must have the columns of fit, and also has {name_list(extra, MOST_NAMES)}. Leave them out, or "
                "name the columns to learn from: TableEncoder(features=[...])."
            )
        return columns

    def _as_learned(self, column: Any, learned: Column) -> Any:
        """A column of text as the command reads one: without the words of missing values, numbers as numbers."""
        import pyarrow as pa
        import pyarrow.compute as pc

        words = {str(word).strip() for word in self._given("missing_values")} - set(learned.places)
        if not _is_text(column.type) or not (words or learned.kind == "number"):
            return column
        column = _mark(column, sorted(words))
        if learned.kind != "number":
            return column
        try:
            return pc.cast(pc.utf8_trim_whitespace(column), pa.float64())
        except pa.ArrowInvalid as error:
            raise DataError(
                f"`X` must hold numbers where fit learned from numbers, and {learned.name!r} has text. "
                "Make numbers of it, or None where there is none."
            ) from error

    def _encode(self, columns: Columns, free: bool = False) -> Tensor:
        """The stored features of columns, shape (N, D).

        Raises:
            DataError: They take more memory as a dense matrix than there is.
        """
        try:
            return encode(columns, self.columns_, self._dtype, self._stored, free, sparse=self.sparse_output)[0]
        except (OSError, MemoryError) as error:
            width = sum(column.num_features for column in self.columns_)
            size = format_bytes(width * len(columns) * self._dtype.itemsize)
            raise DataError(
                "`sparse_output` must be True where a dense matrix does not fit into memory, and that of "
                f"{counted(len(columns), 'row')} with {counted(width, 'feature')} takes {size}."
            ) from error

    def _moments(self, features: Tensor) -> Moments:
        """The moments of stored features (N, D) in source units; of sparse ones, only numbers have a mean other than 0.

        So the zeros of the others stay.
        """
        labels = torch.zeros(features.shape[0], dtype=torch.int64)  # moments have no use for them
        found = self._stored.moments_in_source_units(moments_of(Table(features, labels)))
        if not self.sparse_output:
            return found
        parts = [(column.kind == "number", column.num_values, column.indicator) for column in self.columns_]
        has_mean = np.concatenate(
            [[is_number] * values + [False] * indicator for is_number, values, indicator in parts]
        )
        return found._replace(mean=torch.where(torch.from_numpy(has_mean), found.mean, 0.0))

    def _scaled(self, features: Tensor) -> Array | csr_array:
        """Stored features (N, D), which are changed in place -> features as `transform` returns them."""
        if self.mean_ is not None:
            center, scale = self._stored.of_stored(torch.from_numpy(self.mean_), torch.from_numpy(self.scale_))
        else:
            center, scale = self._stored.of_stored(*StoredForm.plain(len(self._stored.unit)))
        if is_sparse(features):
            places = features.col_indices().long()
            return as_scipy(with_values(features, (features.values().double() - center[places]) / scale[places]))
        if self.mean_ is not None:
            features = features.sub_(center).div_(scale)
        elif not self._stored.is_plain:
            features = self._stored.inverse_transform(features)
        return np.asarray(features.double().numpy())


def _objects(X: Any) -> Any:
    """Rows that are lists, as an array of objects: NumPy would make text of numbers beside text."""
    return np.array(X, dtype=object) if isinstance(X, list | tuple) else X


def _is_text(kind: Any) -> bool:
    """Whether a type of Arrow is text, dictionary-encoded or not."""
    import pyarrow.types as kinds

    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind))


def _mark(column: Any, words: Sequence[str]) -> Any:
    """A column of text with null where it has one of these words, with or without blanks around it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.cast(column, pa.string())
    is_missing = pc.is_in(pc.utf8_trim_whitespace(column), value_set=text_array(words))
    return pc.if_else(is_missing, pa.nulls(len(column), pa.string()), column)


def _without_words(column: Any, words: Sequence[str], is_category: bool) -> Any:
    """A column without the words of missing values; numbers that stood beside such words as text are numbers again."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not words or not _is_text(column.type):
        return column
    marked = _mark(column, words)
    if marked.null_count == column.null_count or is_category:
        return marked
    try:
        return pc.cast(pc.utf8_trim_whitespace(marked), pa.float64())
    except pa.ArrowInvalid:
        return marked
