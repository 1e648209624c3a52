"""`TableEncoder`: a data frame becomes the features that the command makes of a file."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from logreg import LogisticRegression, TableEncoder
from logreg.data import RawData, Table, TensorDataModule
from logreg.data.encoding.columns import read_columns
from logreg.data.encoding.encode import encode
from logreg.data.new_rows import NewRowsReader
from logreg.errors import ConfigError, DataError, LogregError
from logreg.estimators import table_encoder
from logreg.training.module import LogisticModule
from models import Models, write_table
from tables import table as read_table
from tables import write
from whole_runs import Answer, train

RunCommand = Callable[..., Answer]


@parametrize_with_checks([TableEncoder(), TableEncoder(standardize=False), TableEncoder(sparse_output=True)])  # type: ignore[untyped-decorator] # no types
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_global_output_transform_pandas",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_n_features_in_after_fitting",
    ],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")  # the checks fit frames and transform arrays
def test_scikit_learns_checks_of_its_own_estimators(check: str) -> None:
    # check_dataframe_column_names_consistency is not among them: it wants columns in another order to be refused, and
    # a table's columns have names so that their order does not matter
    if "pandas" in check:
        pytest.importorskip("pandas", reason="only for who has it: logreg does not need it")
    if "polars" in check:
        pytest.importorskip("polars", reason="only for who has it: logreg does not need it")
    getattr(estimator_checks, check)("TableEncoder", TableEncoder())


# The features are those of the command


def features_of(data: TensorDataModule, standardize: bool) -> np.ndarray[Any, Any]:
    """The train rows as the command's model multiplies them with its coefficients, or in source units."""
    stored = data.rows("train", range(data.facts.rows["train"])).features
    module = LogisticModule(data.facts, precision="64")
    features = module.model.standardize(stored) if standardize else data.facts.stored.inverse_transform(stored)
    return features.numpy()


KINDS: dict[str, tuple[st.SearchStrategy[Any], pa.DataType]] = {
    "float": (st.floats(-1e3, 1e3, width=16), pa.float64()),
    "far": (st.floats(0, 1e3, width=16).map(lambda one: one + 1.7e9), pa.float64()),
    "float32": (st.floats(-1e3, 1e3, width=16), pa.float32()),
    "int": (st.integers(-1000, 1000), pa.int64()),
    "bool": (st.booleans(), pa.bool_()),
    "text": (st.sampled_from(["a", "ß", "日本", "x y", "a=b", " a"]), pa.string()),
    "dictionary": (st.sampled_from(["a", "b", "c"]), pa.dictionary(pa.int32(), pa.string())),
    "codes": (st.sampled_from([1, 20, 3]), pa.dictionary(pa.int32(), pa.int64())),
}
"""Kinds of columns; each may also have missing values."""


@st.composite
def tables(draw: st.DrawFn, rows: int = 16) -> pa.Table:
    """Some columns of any kind."""
    columns = {}
    for place, kind in enumerate(draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=4))):
        one, arrow = KINDS[kind]
        values = draw(st.lists(one | st.none() if draw(st.booleans()) else one, min_size=rows, max_size=rows))
        column = pa.array(values, arrow.value_type if pa.types.is_dictionary(arrow) else arrow)
        columns[f"{kind}{place}"] = column.dictionary_encode() if pa.types.is_dictionary(arrow) else column
    return pa.table(columns)


class InMemory:
    """A dataset of a given table, as a Parquet file of it would be read."""

    name = "table"

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def read(self) -> RawData:
        labels = torch.arange(len(self.table)) % 2
        return RawData({"train": Table(read_columns(self.table), labels)}, ("no", "yes"))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:left out, since all values are missing")
@given(table=tables(), standardize=st.booleans())
@settings(max_examples=60)
def test_any_table_gives_the_features_of_the_command(table: pa.Table, standardize: bool) -> None:
    data = TensorDataModule(InMemory(table), split={"val": 0, "test": 0}, dtype=torch.float64, standardize=standardize)
    try:
        data.setup()
    except DataError as error:
        assume("varies over train" not in str(error))
        raise
    encoder = TableEncoder(standardize=standardize)
    found = encoder.fit_transform(table)
    if data.facts.stored.is_plain or standardize:
        np.testing.assert_array_equal(found, features_of(data, standardize))
    else:  # a far column is stored minus an offset, and adding it again may round
        np.testing.assert_allclose(found, features_of(data, standardize), rtol=1e-15)
    np.testing.assert_array_equal(encoder.transform(table), found)
    np.testing.assert_array_equal(encoder.fit(table).transform(table), found)
    assert encoder.get_feature_names_out().tolist() == list(data.facts.feature_names)
    assert encoder.columns_ == data.facts.columns


def test_an_earlier_result_is_not_changed() -> None:
    """It lies in memory that this package has made, and is the caller's."""
    numbers = np.arange(2**16) % 97 + 0.5
    once = TableEncoder(standardize=False).fit_transform(pa.table({"x": numbers}))
    twice = TableEncoder(standardize=False).fit(pa.table({"x": once[:, 0]})).transform(pa.table({"x": once[:, 0]}))
    np.testing.assert_array_equal(once[:, 0], numbers)
    np.testing.assert_array_equal(twice, once)


def small() -> dict[str, list[Any]]:
    """A column of each kind, all but the last with missing values, 40 rows, and rows of each class."""
    draw = np.random.default_rng(0)
    gaps = [draw.random(40) < 0.2 for _ in range(4)]
    kinds = {
        "carat": draw.normal(2, 1, 40).round(2).tolist(),
        "seconds": draw.integers(1_700_000_000, 1_700_000_900, 40).astype(float).tolist(),
        "color": draw.choice(["D", "E", "deep blue"], 40).tolist(),
        "wet": draw.choice([True, False], 40).tolist(),
    }
    columns = {
        name: [None if gap else one for one, gap in zip(values, missing, strict=True)]
        for (name, values), missing in zip(kinds.items(), gaps, strict=True)
    }
    return columns | {"year": draw.integers(1990, 1999, 40).tolist(), "y": draw.choice(["no", "yes"], 40).tolist()}


ALL_TRAIN = ("dataset.split={val: 0, test: 0}", "precision=64")


@pytest.mark.parametrize("standardize", [True, False])
def test_a_frame_gives_the_features_of_its_csv(tmp_path: Path, standardize: bool) -> None:
    columns = small()
    path = write(tmp_path, **columns)
    data = read_table(path, *ALL_TRAIN, f"dataset.standardize={str(standardize).lower()}", "dataset.categorical=[year]")
    del columns["y"]
    encoder = TableEncoder(standardize=standardize, categorical=["year"])
    np.testing.assert_array_equal(encoder.fit_transform(pa.table(columns)), features_of(data, standardize))
    assert encoder.get_feature_names_out().tolist() == list(data.facts.feature_names)
    if standardize:
        np.testing.assert_array_equal(encoder.mean_, data.facts.mean)
        np.testing.assert_array_equal(encoder.scale_, data.facts.std)


@pytest.mark.parametrize(("name", "target"), [("diamonds", "cut"), ("planets", "method")])
def test_true_tables_give_the_features_of_the_command(name: str, target: str, true_tables: Path) -> None:
    path = true_tables / f"{name}.csv"
    frame = pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True))
    data = read_table(path, *ALL_TRAIN, target=target)
    encoder = TableEncoder()
    np.testing.assert_array_equal(encoder.fit_transform(frame.drop_columns([target])), features_of(data, True))
    assert encoder.get_feature_names_out().tolist() == list(data.facts.feature_names)


NEW = {
    "carat": [None, 1.5, -7.0],
    "seconds": [1.7e9, None, 1.8e9],
    "color": ["F", "D", None],
    "wet": [None, True, False],
    "year": [1990, 1991, 2050],
}
"""Rows with gaps where train has none, and with a level that train lacks."""


def test_new_levels_and_gaps_are_encoded_as_predict_encodes_them(tmp_path: Path) -> None:
    columns = small()
    data = read_table(write(tmp_path, **columns), *ALL_TRAIN)
    del columns["y"]
    encoder = TableEncoder(standardize=False).fit(pa.table(columns))
    pq.write_table(pa.table(NEW), tmp_path / "new.parquet")
    _, blocks = NewRowsReader(data.facts, {}, torch.float64).read(str(tmp_path / "new.parquet"))
    wanted = data.facts.stored.inverse_transform(next(blocks).features).numpy()
    np.testing.assert_allclose(encoder.transform(pa.table(NEW)), wanted, rtol=1e-15)
    assert encoder.transform(pa.table(NEW))[0, 3:6].tolist() == [0, 0, 0]  # F is none of the three colors


@pytest.mark.parametrize("l1", [0, 1e-3])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # nothing resolves such a tolerance
def test_a_pipeline_ends_at_the_coefficients_of_the_command(tmp_path: Path, l1: float) -> None:
    path = write_table(tmp_path / "t.csv", 300)
    typed = ("dataset=table", f"dataset.path={path}", "dataset.target=kind", "dataset.drop=[id]", "precision=64")
    l2, tolerance = 0.1, 1e-15
    run = train(tmp_path, *typed, f"l2={l2}", f"l1={l1}", f"tolerance={tolerance}", "max_epochs=300")
    data = read_table(path, *typed[3:], target="kind")
    frame = pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True))
    rows = frame.take(pa.array(data.source_row_numbers("train").numpy()))
    model = LogisticRegression(
        C=1 / (len(rows) * (l1 + l2)), l1_ratio=l1 / (l1 + l2), tol=tolerance, precision=64, max_iter=300
    )
    pipeline = make_pipeline(TableEncoder(drop=["id"]), model)
    pipeline.fit(rows.drop_columns(["kind"]), rows.column("kind").to_pylist())
    held = run.checkpoint()["state_dict"]
    order = [pipeline.classes_.tolist().index(name) for name in data.facts.class_names]
    np.testing.assert_allclose(model.coef_[order], held["model.coef"].numpy(), atol=1e-9)
    np.testing.assert_allclose(model.intercept_[order], held["model.intercept"].numpy(), atol=1e-9)


# Frames of any kind


def frames() -> dict[str, Any]:
    columns = small()
    del columns["y"]
    table = pa.table(columns)
    found = {"arrow": table, "batch": table.combine_chunks().to_batches()[0]}
    array = np.empty((40, 5), dtype=object)
    for place, name in enumerate(columns):
        array[:, place] = columns[name]
    found["objects"] = array
    found["lists"] = array.tolist()
    return found


@pytest.mark.parametrize("kind", ["batch", "objects", "lists"])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_every_kind_of_table_says_the_same(kind: str) -> None:
    given = frames()
    wanted = TableEncoder().fit_transform(given["arrow"])
    np.testing.assert_array_equal(TableEncoder().fit_transform(given[kind]), wanted)
    np.testing.assert_array_equal(TableEncoder().fit(given["arrow"]).transform(given[kind]), wanted)
    np.testing.assert_array_equal(TableEncoder().fit(given[kind]).transform(given["arrow"]), wanted)


def test_frames_of_pandas_say_the_same() -> None:
    pandas = pytest.importorskip("pandas", reason="only for who has it: logreg does not need it")
    columns = small()
    del columns["y"]
    wanted = TableEncoder().fit_transform(pa.table(columns))
    frame = pandas.DataFrame(columns)
    typed = frame.astype({"color": "category", "wet": "boolean", "year": "Int64", "carat": "Float64"})
    arrow = pandas.DataFrame({name: pandas.Series(values, dtype=object) for name, values in columns.items()})
    for one in (frame, typed, arrow, frame.convert_dtypes(dtype_backend="pyarrow")):
        np.testing.assert_array_equal(TableEncoder().fit_transform(one), wanted)
    encoder = TableEncoder().fit(frame)
    rows = frame.sample(frac=1, random_state=0)  # the index is no column
    np.testing.assert_array_equal(encoder.transform(rows), wanted[rows.index])
    np.testing.assert_array_equal(encoder.transform(frame[[*reversed(columns)]]), wanted)
    out = TableEncoder().set_output(transform="pandas").fit(frame).transform(rows)
    assert out.index.tolist() == rows.index.tolist()
    assert out.columns.tolist() == encoder.get_feature_names_out().tolist()
    sparse = frame.assign(year=pandas.arrays.SparseArray(columns["year"]))
    np.testing.assert_array_equal(TableEncoder().fit_transform(sparse), wanted)
    numbered = pandas.DataFrame(np.arange(12.0).reshape(4, 3) ** 2)
    assert TableEncoder().fit(numbered).get_feature_names_out().tolist() == ["x0", "x1", "x2"]


def test_frames_of_polars_say_the_same() -> None:
    polars = pytest.importorskip("polars", reason="only for who has it: logreg does not need it")
    columns = small()
    del columns["y"]
    wanted = TableEncoder().fit_transform(pa.table(columns))
    frame = polars.DataFrame(columns)
    for one in (frame, frame.with_columns(polars.col("color").cast(polars.Categorical))):
        np.testing.assert_array_equal(TableEncoder().fit_transform(one), wanted)
    out = TableEncoder().set_output(transform="polars").fit_transform(frame)
    assert out.columns[:2] == ["carat", "carat is missing"]
    with pytest.raises(DataError, match=r"^`X` must be a table with named columns, got Series\.$"):
        TableEncoder().fit(frame["carat"])


def test_columns_that_mix_numbers_and_text_are_text() -> None:
    mixed = np.array([[1, "a"], [2.0, "b"], ["x", None], [None, True], [True, "a"], ["x", "b"]], dtype=object)
    encoder = TableEncoder(standardize=False, categorical=[0]).fit(mixed)
    assert [column.levels for column in encoder.columns_] == [("1", "2", "true", "x"), ("a", "b", "true")]
    wide = np.array([[1.5], [2.5]], dtype=np.longdouble)
    assert TableEncoder(standardize=False).fit_transform(wide).tolist() == [[1.5], [2.5]]
    assert TableEncoder().fit([[1, "a"], [2, "b"], [3, "a"]]).columns_[0].kind == "number"
    large = np.array([[2**70], [1], [None], [0.5]], dtype=object)
    assert TableEncoder(standardize=False).fit_transform(large)[:, 0].tolist() == [2.0**70, 1, 1, 0.5]


def test_numbers_beside_a_word_for_a_missing_value_are_numbers() -> None:
    table = pa.table(
        {
            "mass": ["1.5", " ?", "2.5", "4", None],
            "code": ["01", "?", "2", "01", "01"],
            "key": ["01", "2", "2", "01", "01"],  # text without such a word stays text
        }
    )
    encoder = TableEncoder(standardize=False, missing_values=["?"], categorical=["code"])
    features = encoder.fit_transform(table)
    assert [column.levels for column in encoder.columns_] == [(), ("01", "2"), ("01", "2")]
    assert features[:, :2].tolist() == [[1.5, 0], [2.5, 1], [2.5, 0], [4, 0], [2.5, 1]]
    new = pa.table({"mass": ["?"], "code": [" ? "], "key": ["?"]})
    assert encoder.transform(new).tolist() == [[2.5, 1, 1, 0, 1, 1, 0]]


def test_names_come_from_the_frame_or_from_the_step_before() -> None:
    encoder = TableEncoder(categorical=[1]).fit(np.array([[0.5, 1], [1, 2], [np.nan, 2]]))
    assert encoder.get_feature_names_out().tolist() == ["x0", "x0 is missing", "x1=1", "x1=2"]
    assert encoder.get_feature_names_out(["a", "b"]).tolist() == ["a", "a is missing", "b=1", "b=2"]
    assert not hasattr(encoder, "feature_names_in_")
    named = encoder.fit(pa.table({"q": [1.0, 2.0], "r": ["u", "v"]}))
    assert (named.n_features_in_, named.feature_names_in_.tolist()) == (2, ["q", "r"])
    assert not hasattr(named.fit(np.eye(3)), "feature_names_in_")


# Columns of many levels


def wide(rows: int = 500) -> tuple[pa.Table, Any]:
    """A column of 60 levels, some of them missing, beside numbers far from zero; and classes."""
    draw = np.random.default_rng(2)
    codes, x = draw.integers(0, 60, rows), 1e6 + draw.integers(-3, 3, rows)
    gaps = np.where(draw.random(rows) < 0.1, np.nan, draw.normal(size=rows))
    table = pa.table({"town": [None if code < 3 else f"t{code}" for code in codes], "x": x, "gaps": gaps})
    return table, draw.random(rows) < 1 / (1 + np.exp(-draw.normal(size=60)[codes] - (x - 1e6)))


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("parameters", [{}, {"min_level_rows": 8}, {"hash": 32, "max_levels": 20}])
def test_sparse_output_is_the_dense_one_up_to_the_means_of_levels(
    standardize: bool, parameters: dict[str, Any]
) -> None:
    table, _ = wide()
    dense = TableEncoder(standardize=standardize, **parameters)
    sparse = TableEncoder(standardize=standardize, sparse_output=True, **parameters)
    wanted: Any = dense.fit_transform(table)
    found: Any = sparse.fit_transform(table)
    again: Any = sparse.transform(table)
    names = dense.get_feature_names_out()
    assert names.tolist() == sparse.get_feature_names_out().tolist()
    is_number = np.isin(names, ["x", "gaps"])
    assert found.nnz == np.count_nonzero(wanted > 0 if not standardize else wanted > wanted.min(0), axis=0)[
        ~is_number
    ].sum() + 2 * len(table)
    moved = wanted - found.toarray()
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-12)
    np.testing.assert_allclose(moved[:, is_number], 0, atol=1e-12)
    np.testing.assert_array_equal(again.toarray(), found.toarray())
    if standardize:
        assert sparse.scale_ is not None
        assert dense.scale_ is not None
        assert sparse.mean_ is not None
        np.testing.assert_allclose(sparse.scale_, dense.scale_, rtol=1e-12)
        assert (sparse.mean_[~is_number] == 0).all()


@pytest.mark.filterwarnings("ignore:LogisticRegression has not reached tol=1e-19")  # as close as float64 can
def test_a_fit_of_sparse_output_is_that_of_the_dense_one() -> None:
    table, labels = wide()
    fits = []
    for sparse in (False, True):
        encoder = TableEncoder(sparse_output=sparse, min_level_rows=5)
        model = LogisticRegression(C=1.0, tol=1e-19, solver="newton", precision=64)
        fits.append(make_pipeline(encoder, model).fit(table, labels))
    coefs = [one[-1].coef_ for one in fits]
    np.testing.assert_allclose(coefs[1], coefs[0], atol=1e-9)
    np.testing.assert_allclose(fits[1].predict_proba(table), fits[0].predict_proba(table), atol=1e-9)


def test_a_dense_matrix_that_does_not_fit_is_refused_with_advice_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments: Any, **options: Any) -> Any:
        if not options["sparse"]:
            raise OSError("Cannot allocate memory")
        return encode(*arguments, **options)

    monkeypatch.setattr(table_encoder, "encode", out_of_memory)
    table, _ = wide()
    with pytest.raises(DataError, match=r"`sparse_output` must be True .* 500 rows with 61 features takes 244 kB\."):
        TableEncoder().fit(table)
    TableEncoder(sparse_output=True).fit(table)


def test_a_model_of_many_features_reads_sparse_rows(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rows = models.run("table").folder, pyarrow.csv.read_csv(models("table") / "train.csv")
    dense = LogisticRegression.from_checkpoint(folder)
    monkeypatch.setattr(table_encoder, "MAX_DENSE_FEATURES", 0)
    sparse = LogisticRegression.from_checkpoint(folder)
    rows = rows.select(dense[0].feature_names_in_.tolist())
    assert not isinstance(sparse[0].transform(rows), np.ndarray)
    np.testing.assert_allclose(sparse.predict_proba(rows), dense.predict_proba(rows), atol=1e-12)


# In scikit-learn's tools


def test_it_goes_through_clone_pickle_and_joblib(tmp_path: Path) -> None:
    given = frames()["arrow"]
    names: Any = np.array(["year"])
    encoder = TableEncoder(drop=names, max_levels=5)
    assert clone(encoder).get_params() == encoder.get_params()
    wanted = encoder.fit_transform(given)
    joblib.dump(encoder, tmp_path / "encoder.joblib")
    for again in (pickle.loads(pickle.dumps(encoder)), joblib.load(tmp_path / "encoder.joblib")):
        np.testing.assert_array_equal(again.transform(given), wanted)


@pytest.mark.long
def test_it_is_a_step_of_pipelines_whose_parameters_are_searched() -> None:
    pandas = pytest.importorskip("pandas", reason="GridSearchCV takes rows of frames by pandas")
    frame = pandas.DataFrame(small())
    target = frame.pop("y")
    columns = ColumnTransformer([("table", TableEncoder(), ["carat", "color", "wet"])], remainder="drop")
    pipeline = make_pipeline(columns, LogisticRegression())
    grid = {
        "columntransformer__table__standardize": [True, False],
        "columntransformer__table__max_levels": np.array([3, 50]),
    }
    found = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(frame, target)
    assert found.best_estimator_.predict_proba(frame).shape == (40, 2)
    assert len(set(found.cv_results_["mean_test_score"])) > 1  # the strength of a penalty depends on the scale


# Trained models as estimators


def test_a_run_of_a_table_becomes_a_pipeline_that_takes_the_frame_as_it_stands(
    models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    run = models.run("table")
    pipeline = LogisticRegression.from_checkpoint(run.folder)
    frame = pyarrow.csv.read_csv(models("table") / "train.csv")
    assert run_command(models("table"), "predict", "input=train.csv", f"output={tmp_path / 'p.parquet'}").code == 0
    ours = pq.read_table(tmp_path / "p.parquet")
    probabilities = np.column_stack([ours.column(name).to_numpy() for name in pipeline.classes_])
    np.testing.assert_allclose(pipeline.predict_proba(frame), probabilities, atol=1e-12)
    assert pipeline.predict(frame).tolist() == ours.column("predicted").to_pylist()
    # the coefficients are in source units: a number's is the change of the logit for one unit more
    names = pipeline[0].get_feature_names_out().tolist()
    row = {"size": [1.0, 2.0], "color": ["red", "red"], "wet": [True, True]}
    one, two = pipeline.decision_function(pa.table(row))
    np.testing.assert_allclose(two - one, pipeline[-1].coef_[:, names.index("size")], rtol=1e-9)
    assert pipeline[-1].certificate_.value == run.checkpoint()["optimality"]["value"]
    assert "size is missing" in names


@pytest.mark.parametrize("name", ["softmax", "one_vs_rest", "two_outputs", "features", "pictures"])
def test_a_run_of_a_matrix_becomes_an_estimator(name: str, models: Models) -> None:
    from logreg.training.checkpoint_reading import TrainedModel
    from logreg.training.linear import Linear

    run = models.run(name)
    estimator = LogisticRegression.from_checkpoint(run.folder)
    model = Linear.of(TrainedModel.load(run.folder / "checkpoints" / "last.ckpt").module)
    features = torch.rand(20, model.facts.num_features, dtype=torch.float64)
    wanted = model.probabilities(features).numpy()[:, np.argsort(model.facts.class_names)]
    rows: Any = features.numpy()
    if model.facts.feature_names:
        pandas = pytest.importorskip("pandas", reason="only for who has it: logreg does not need it")
        rows = pandas.DataFrame(rows, columns=list(model.facts.feature_names))
    np.testing.assert_allclose(estimator.predict_proba(rows), wanted, atol=1e-6)


def test_class_weights_that_no_coefficients_hold_are_refused(models: Models) -> None:
    with pytest.raises(LogregError, match=r"has not\. Train with loss=cross_entropy link=logit, or export"):
        LogisticRegression.from_checkpoint(models.run("weighted").folder)


# Mistakes

LONG = 300
"""Rows of the tables below."""

NUMBERS = [float(row) for row in range(LONG)]

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, list[dict[str, Any]]]] = {
    "an id": (
        {"id": [f"r{row}" for row in range(LONG)], "x": NUMBERS},
        {},
        "column 'id' must have levels that recur, and has 300 levels in 300 train rows [in X]. It looks like an id: "
        "add drop=['id']. To use it all the same, join the levels of a single row with min_level_rows=2, or set "
        "max_levels=300.",
        [{"drop": ["id"]}, {"min_level_rows": 2}, {"max_levels": 300}],
    ),
    "dates": (
        {"day": pa.array(range(LONG), pa.date32()), "x": NUMBERS},
        {"categorical": ["x"], "max_levels": 300},
        "`drop` must leave dates out, and column 'day' holds dates [in X]. "
        "Make numbers of it first, such as days since a start, or add drop=['day'].",
        [{"drop": ["day"]}],
    ),
    "dates as text": (
        {"day": [f"2020-01-0{row % 9 + 1}" for row in range(LONG)], "x": NUMBERS},
        {"drop": ["x"]},
        "`drop` must leave dates out, and column 'day' holds dates [in X]. Make numbers of it first, such as "
        "days since a start, or add drop=['x', 'day']; categorical=['day'] makes a level of each.",
        [{"categorical": ["day"]}],
    ),
    "times as text": (
        {"at": ["12:30", "13:45", None] * 100, "x": NUMBERS},
        {},
        "`drop` must leave dates out, and column 'at' holds times of day [in X]. Make numbers of it first, such as "
        "days since a start, or add drop=['at']; categorical=['at'] makes a level of each.",
        [{"drop": ["at"]}, {"categorical": ["at"]}],
    ),
    "lists": (
        {"l": [[1]] * LONG, "x": NUMBERS},
        {},
        "column 'l' must hold numbers, text or true and false, got lists [in X]. Add drop=['l'].",
        [{"drop": ["l"]}],
    ),
    "bytes": (
        {"b": [b"\xff"] * LONG, "x": NUMBERS},
        {"features": ["b", "x"]},
        "column 'b' must be text in UTF-8, and holds other bytes [in X]. Decode them, or add features=['x'].",
        [{"features": ["x"]}],
    ),
    "a word among numbers": (
        {"m": ["1", "2", "?"] * 100, "x": NUMBERS},
        {},
        "column 'm' must hold numbers, got '?' in row 2, counted from 0 [in X]. Fix it, declare it a missing value: "
        "missing_values=['?'], or use it as text: categorical=['m'].",
        [{"missing_values": ["?"]}, {"categorical": ["m"]}],
    ),
    "numbers with marks": (
        {"m": ["1,5", "2,5"] * 150, "x": NUMBERS},
        {},
        "column 'm' must hold plain numbers, got '1,5' with ',' in row 0, counted from 0 [in X]. Write a dot before "
        "the decimals and nothing else between or around the digits, or use it as text: categorical=['m'].",
        [{"categorical": ["m"]}],
    ),
    "several": (
        {"id": [f"r{row}" for row in range(LONG)], "l": [[1]] * LONG, "x": NUMBERS},
        {},
        "columns must hold usable values, and 2 do not [in X]: 'id' has 300 levels in 300 train rows, "
        "'l' holds lists. Fix the table, or set drop=['id', 'l'].",
        [{"drop": ["id", "l"]}],
    ),
    "gaps": (
        {"x": [1.0, 2.0, None] * 100},
        {"missing": "error"},
        "`missing='error'` must find no missing values, and column 'x' has 100, the first in row 2, counted from 0 "
        "[in X]. Fill them, or set missing='impute'.",
        [{"missing": "impute"}],
    ),
    "infinity": (
        {"x": [*NUMBERS[1:], float("inf")]},
        {},
        "column 'x' must hold finite numbers, got inf in row 299, counted from 0 [in X]. Fix the row.",
        [],
    ),
    "constants": (
        {"x": [1.0] * LONG},
        {},
        "`features` must leave a column that varies over train, got none [in X].",
        [],
    ),
    "no column of that name": (
        {"x": NUMBERS},
        {"drop": ["xx"]},
        "`drop` must name a column of X, got 'xx'. Did you mean x?",
        [{"drop": []}],
    ),
    "no list": (
        {"x": NUMBERS, "y": NUMBERS},
        {"drop": "x"},
        "`drop` must be a list, such as ['a', 'b'], got 'x'. Set drop=['x'].",
        [{"drop": ["x"]}],
    ),
    "few levels": ({"x": NUMBERS}, {"max_levels": 1}, "`max_levels` must be a whole number >= 2, got 1.", []),
    "one row": ({"x": [1.0]}, {}, "`X` must have at least 2 rows and 1 column, got shape (1, 1).", []),
    "no rows": (
        {"x": pa.array([], pa.float64())},
        {},
        "`X` must have at least 2 rows and 1 column, got shape (0, 1).",
        [],
    ),
    "no columns": ({}, {}, "`X` must have at least 2 rows and 1 column, got shape (0, 0).", []),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_is_refused_with_advice_that_works(name: str) -> None:
    columns, parameters, sentence, advice = REFUSED[name]
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the message is compared whole
        TableEncoder(**parameters).fit(pa.table(columns))
    assert str(refused.value) == sentence
    for change in advice:
        TableEncoder(**parameters | change).fit(pa.table(columns))


def test_a_column_without_values_is_left_out_with_a_warning() -> None:
    table = pa.table({"x": [1.0, 2.0], "empty": pa.array([None, None], pa.float64())})
    with pytest.warns(UserWarning, match=r"^left out, since all values are missing: empty$"):
        encoder = TableEncoder().fit(table)
    assert encoder.get_feature_names_out().tolist() == ["x"]
    assert encoder.notes_ == ("left out, since all values are missing in train: empty",)


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.table([[1.0, 2.0], [3.0, 4.0]], names=["a", "a"])
    with pytest.raises(DataError, match=r"^`X` must have columns of different names, got 'a' twice\. Rename one\.$"):
        TableEncoder().fit(table)


def test_objects_that_are_no_values_are_refused() -> None:
    rows = np.array([[1.0, 2], [2.0, {"a": 1}]], dtype=object)
    with pytest.raises(
        DataError, match=r"'x1' must hold .*got dict in row 1, counted from 0 \[in X\]\. Add drop=\['x1'\]"
    ):
        TableEncoder().fit(rows)
    assert TableEncoder(drop=["x1"]).fit(rows).get_feature_names_out().tolist() == ["x0"]


CHANGES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "a column less": (
        lambda table: table.drop_columns(["carat"]),
        "`X` must have the column 'carat' that fit learned from.",
    ),
    "another name": (
        lambda table: table.rename_columns(["Carat", *table.column_names[1:]]),
        "`X` must have the column 'carat' that fit learned from. Is it 'Carat'? Rename that one.",
    ),
    "a column more": (
        lambda table: table.append_column("price", [[1.0] * len(table)]),
        "`X` must have the columns of fit, and also has price. Leave them out, or name the columns to learn from: "
        "TableEncoder(features=[...]).",
    ),
    "text": (
        lambda table: table.set_column(0, "carat", [["big"] * len(table)]),
        "`X` must hold numbers where fit learned from numbers, and 'carat' has text. "
        "Make numbers of it, or None where there is none.",
    ),
    "infinity": (
        lambda table: table.set_column(0, "carat", [[float("inf")] * len(table)]),
        "column 'carat' must hold finite numbers, got inf in row 0, counted from 0 [in X]. Fix the row.",
    ),
    "lists": (
        lambda table: table.set_column(0, "carat", [[[1.0]] * len(table)]),
        "column 'carat' must be a number as in train, got lists [in X]. Convert it.",
    ),
    "no rows": (lambda table: table.slice(0, 0), "`X` must have rows, got 0 samples."),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_table_that_is_not_like_the_one_of_fit_is_refused(name: str) -> None:
    change, sentence = CHANGES[name]
    table = frames()["arrow"]
    encoder = TableEncoder().fit(table)
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the message is compared whole
        encoder.transform(change(table))
    assert str(refused.value) == sentence


def test_other_columns_are_ignored_where_features_are_named() -> None:
    table = frames()["arrow"]
    encoder = TableEncoder(features=["wet", "carat"]).fit(table)
    more = table.append_column("price", [[1.0] * 40]).drop_columns(["color"])
    np.testing.assert_array_equal(encoder.transform(more), encoder.transform(table))
    assert encoder.get_feature_names_out().tolist()[:2] == ["wet=false", "wet=true"]


@pytest.mark.parametrize("sparse", [False, True])
def test_text_is_that_of_scikit_learn_and_is_not_standardized(sparse: bool) -> None:
    texts = ["the red rose", "a blue sea and a red sky", None, "the blue sky", "red red rose"]
    frame = pa.table({"review": texts, "size": [1.0, 2.0, 3.0, 4.0, 5.0]})
    encoder = TableEncoder(text=["review"], word_ngrams=(1, 2), char_ngrams=(2, 3), sparse_output=sparse)
    features: Any = encoder.fit_transform(frame)
    features = features.toarray() if sparse else features
    documents = [text or "" for text in texts]
    parts = [
        TfidfVectorizer(sublinear_tf=True, **kind).fit_transform(documents).toarray()
        for kind in ({"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 3)})
    ]
    size = (np.arange(1, 6) - 3) / np.sqrt(2)
    assert np.allclose(features, np.column_stack([*parts, size]), rtol=0, atol=1e-15)
    again: Any = encoder.transform(frame)
    assert np.array_equal(again.toarray() if sparse else again, features)
    assert "review:red rose" in encoder.get_feature_names_out()


def test_text_needs_a_kind_of_ngrams() -> None:
    frame = pa.table({"review": ["red rose", "blue sea"]})
    with pytest.raises(ConfigError, match=r"`word_ngrams` must be given where `char_ngrams` is not"):
        TableEncoder(text=["review"], word_ngrams=None).fit(frame)
