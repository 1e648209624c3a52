"""dataset=features of sparse files: SciPy's .npz and svmlight files, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from logreg.csr import as_scipy, is_sparse
from logreg.data.base import RawData
from logreg.data.formats import compression
from logreg.data.sources.features import Features
from logreg.errors import ConfigError, DataError, LogregError

ROWS, WIDTH = 12, 6


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that messages have short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def matrix(rows: int = ROWS, dtype: Any = np.float64) -> sparse.csr_array:
    """Small whole numbers; row 3 and column 4 are empty, and the last column is not."""
    dense = np.arange(rows * WIDTH).reshape(rows, WIDTH) * (np.arange(rows * WIDTH).reshape(rows, WIDTH) % 3 == 0) % 100
    dense[3], dense[:, 4], dense[0, -1] = 0, 0, 7
    return sparse.csr_array(dense.astype(dtype))


def labels(rows: int = ROWS) -> np.ndarray[Any, Any]:
    return np.arange(rows) % 3


def write_labels(values: Any = None) -> None:
    np.save("y.npy", labels() if values is None else values)


def write_svm(path: str, zero_based: bool = False, **given: Any) -> str:
    dump_svmlight_file(matrix(), labels(), path, zero_based=zero_based, **given)
    return path


def assert_is_matrix(raw: RawData, expected: sparse.csr_array | None = None) -> None:
    table = raw.tables["train"]
    assert is_sparse(table.matrix)
    assert table.matrix.col_indices().dtype == torch.int32
    np.testing.assert_array_equal(as_scipy(table.matrix).toarray(), (expected or matrix()).toarray())
    np.testing.assert_array_equal([int(raw.class_names[label]) for label in table.labels], labels())


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("compressed", [False, True])
def test_every_form_of_scipys_files_is_read(form: str, compressed: bool) -> None:
    sparse.save_npz("X.npz", matrix().asformat(form), compressed)
    write_labels()
    assert_is_matrix(Features(path=["X.npz", "y.npy"]).read())


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(np.float32, torch.float32), (np.float64, torch.float64), (np.int64, torch.float64), (np.int8, torch.float32)],
)
def test_numbers_are_floating_and_none_loses_digits(dtype: Any, kept: torch.dtype) -> None:
    sparse.save_npz("X.npz", matrix(dtype=dtype))
    write_labels()
    raw = Features(path=["X.npz", "y.npy"]).read()
    assert raw.tables["train"].matrix.dtype == kept
    assert_is_matrix(raw)


def test_unsorted_columns_are_sorted_and_equal_ones_added() -> None:
    unsorted = sparse.csr_array((np.array([1.0, 2, 3, 4]), np.array([2, 0, 1, 1]), np.array([0, 2, 4])), shape=(2, 3))
    sparse.save_npz("X.npz", unsorted)
    write_labels(np.array([0, 1]))
    found = Features(path=["X.npz", "y.npy"]).read().tables["train"].matrix
    assert found.col_indices().tolist() == [0, 2, 1]
    assert found.values().tolist() == [2, 1, 7]


@pytest.mark.parametrize("suffix", [".svm", ".libsvm", ".svmlight", ".svm.gz", ".libsvm.bz2"])
def test_svmlight_files_have_features_and_labels(suffix: str) -> None:
    plain = Path(write_svm("a.svm")).read_bytes()
    packed = {".gz": gzip.compress(plain), ".bz2": bz2.compress(plain)}.get(Path(suffix).suffix, plain)
    Path(f"b{suffix}").write_bytes(packed)
    assert_is_matrix(Features(path=f"b{suffix}").read())


@pytest.mark.parametrize("zero_based", [False, True])
def test_features_are_numbered_from_0_where_the_file_has_a_feature_0(zero_based: bool) -> None:
    raw = Features(path=write_svm("a.svm", zero_based)).read()
    assert raw.first_index == (0 if zero_based else 1)
    assert_is_matrix(raw)
    theirs, _ = load_svmlight_file("a.svm")
    np.testing.assert_array_equal(as_scipy(raw.tables["train"].matrix).toarray(), theirs.toarray())


def test_features_that_no_row_has_are_named() -> None:
    Path("a.svm").write_text("0 1:1 4:2\n1 4:2 6:1\n")
    note = "nothing is learned of {} that no row of {} has: {}"
    assert Features(path="a.svm").read().notes == (note.format("3 features", "a.svm", "2, 3, 5"),)
    Path("b.svm").write_text("0 0:1\n1 2:2\n")  # numbered from 0
    assert Features(path="b.svm").read().notes == (note.format("1 feature", "b.svm", "1"),)
    Path("c.svm").write_text("0 1:1\n1 2:2\n")
    assert Features(path="c.svm").read().notes == ()


def test_further_files_have_the_width_and_the_numbers_of_train() -> None:
    Path("train.svm").write_text("1 0:1 4:2\n-1 1:1\n")
    Path("val.svm").write_text("-1 1:5\n1 2:3\n")  # alone it would be numbered from 1
    raw = Features(train_path="train.svm", val_path="val.svm").read()
    assert raw.class_names == ("-1", "1")
    np.testing.assert_array_equal(as_scipy(raw.tables["val"].matrix).toarray(), [[0, 5, 0, 0, 0], [0, 0, 3, 0, 0]])


def test_queries_are_groups() -> None:
    raw = Features(path=write_svm("a.svm", query_id=np.arange(ROWS) // 2), group="qid").read()
    groups = raw.tables["train"].groups
    assert groups is not None
    assert groups.tolist() == [row // 2 for row in range(ROWS)]


def test_comments_and_empty_rows_are_read() -> None:
    Path("a.svm").write_text("# made by hand\n1 1:2 # first\n0\n\n0 2:1\n")
    table = Features(path="a.svm").read().tables["train"]
    assert as_scipy(table.matrix).toarray().tolist() == [[2, 0], [0, 0], [0, 1]]


HEAD = (
    "`dataset.path` must have lines such as 1 3:0.5 7:2, a class and then index:value in ascending order, got {} "
    "[in a.svm]. sklearn.datasets.dump_svmlight_file writes such files."
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 1:2\n0 -3:1\n", HEAD.format("the negative index -3 in line 2")),
        ("1 1:2\n0 3:1 2:5\n", HEAD.format("index 2 after 3 in line 2")),
        ("1 1:2\n0 3:1 3:5\n", HEAD.format("index 3 after 3 in line 2")),
        ("1 1:2\ncat 3:1\n", HEAD.format("the class 'cat', which is no number, in line 2")),
        ("1,2 1:2\n0 3:1\n", HEAD.format("several classes, 1,2, in line 1")),
        ("1 1:2\n1:2 3:1\n", HEAD.format("no class before 1:2 in line 2")),
        ("1 1:2\n0 3:\n", HEAD.format("'3:' in line 2")),
        ("1 1:2\n0 3\n", HEAD.format("'3' in line 2")),
        ("1 1:2\n0 99999999999:1\n", HEAD.format("the index 99999999999 above 2147483647 in line 2")),
        ("1 1:2\n0 2000000000:1\n", "must have at most 134,217,728 columns, got 2,000,000,000: a fit needs memory"),
        ("1 1:2\n0 1:x\n", HEAD.format("'1:x' in line 2")),
        ("", "`dataset.path` must have rows, got none [in a.svm]."),
        ("# nothing\n", "`dataset.path` must have rows, got none [in a.svm]."),
        ("1\n0\n", "`dataset.features=features` must have rows and features, got shape (2, 0) [in a.svm]."),
        (
            "1 qid:1 1:2\n0 1:3\n",
            "`dataset.path` must have qid in every line or in none, got it in 1 of 2 [in a.svm].",
        ),
        ("1 1:2\n0.5 2:1\n1 3:1\n", "`dataset.labels=labels`"),
    ],
)
def test_broken_svmlight_files_are_refused(content: str, message: str) -> None:
    Path("a.svm").write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        Features(path="a.svm").read()


def test_a_file_wider_than_train_is_refused() -> None:
    Path("train.svm").write_text("1 1:1 3:2\n0 2:1\n")
    Path("test.svm").write_text("1 1:1 5:2\n0 2:1\n")
    with pytest.raises(
        DataError,
        match=re.escape(
            "`dataset.test_path` must have features that train has, 1 to 3, got 5 [in test.svm]. "
            "Leave the others out of the file."
        ),
    ):
        Features(train_path="train.svm", test_path="test.svm").read()


def test_a_file_numbered_otherwise_than_train_is_refused() -> None:
    Path("train.svm").write_text("1 1:1 3:2\n0 2:1\n")
    Path("test.svm").write_text("1 0:1 1:2\n0 2:1\n")
    with pytest.raises(DataError, match="must number its features from 1 on, as the file of train does, got 0"):
        Features(train_path="train.svm", test_path="test.svm").read()


def test_a_compressed_file_that_is_cut_off_is_refused() -> None:
    Path("a.svm.gz").write_bytes(gzip.compress(Path(write_svm("a.svm")).read_bytes())[:-20])
    with pytest.raises(DataError, match=re.escape("`dataset.path` must be a complete file, and a.svm.gz")):
        Features(path="a.svm.gz").read()


def test_a_small_file_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "ALWAYS_ALLOWED_BYTES", 0)
    Path("a.svm.gz").write_bytes(gzip.compress(b"1 1:1\n" * 2**15))
    with pytest.raises(DataError, match="must decompress to at most 100 times its size"):
        Features(path="a.svm.gz").read()


def rewritten(**arrays: Any) -> None:
    """X.npz with other arrays in place of those of the matrix."""
    sparse.save_npz("X.npz", matrix(), compressed=False)
    with np.load("X.npz") as held:
        every = {name: held[name] for name in held.files} | arrays
    np.savez("X.npz", **every)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"indices": np.full(matrix().nnz, WIDTH)},
            "must have arrays that fit each other, got: indices must be < 6 [in X.npz].",
        ),
        (
            {"indices": np.full(matrix().nnz, -1)},
            "got: indices must be >= 0 [in X.npz]. Make it again from its entries: scipy.sparse.coo_array(",
        ),
        ({"shape": np.array([ROWS, 2])}, "got: indices must be < 2 [in X.npz]"),
        ({"shape": np.array([ROWS + 1, WIDTH])}, "must be a complete file, and X.npz could not be read"),
        ({"indptr": np.arange(ROWS + 1)[::-1]}, "must be a complete file, and X.npz could not be read"),
        ({"data": matrix().data.astype(complex)}, "a sparse matrix must hold real numbers, got complex128 [in X.npz]"),
        ({"data": matrix().data.astype(object)}, "could not be read"),
        ({"format": np.array("xyz")}, "could not be read"),
        ({"format": np.array("csc"), "shape": np.array([4, ROWS])}, "got: indices must be < 4 [in X.npz]"),
    ],
)
def test_matrices_whose_arrays_do_not_fit_are_refused(arrays: dict[str, Any], message: str) -> None:
    rewritten(**arrays)
    write_labels()
    with pytest.raises(DataError, match=re.escape(message)):
        Features(path=["X.npz", "y.npy"]).read()


def test_a_matrix_that_is_cut_off_is_refused() -> None:
    sparse.save_npz("X.npz", matrix())
    Path("X.npz").write_bytes(Path("X.npz").read_bytes()[:-40])
    write_labels()
    with pytest.raises(DataError, match=r"must be a complete file, and X\.npz"):
        Features(path=["X.npz", "y.npy"]).read()


def test_a_sparse_matrix_needs_a_file_of_labels() -> None:
    sparse.save_npz("X.npz", matrix())
    with pytest.raises(ConfigError, match=re.escape("Set dataset.path=[X.npz,LABELS.npy].")):
        Features(path="X.npz").read()


def test_a_dense_matrix_has_its_labels_in_the_file() -> None:
    np.savez("X.npz", features=matrix().toarray(), labels=labels())
    write_labels()
    with pytest.raises(DataError, match=r"must be a sparse matrix of scipy\.sparse\.save_npz beside a file of labels"):
        Features(path=["X.npz", "y.npy"]).read()


def test_labels_of_another_number_are_refused() -> None:
    sparse.save_npz("X.npz", matrix())
    write_labels(labels(5))
    with pytest.raises(DataError, match=f"must have a value for each of the {ROWS} rows of features, got 5"):
        Features(path=["X.npz", "y.npy"]).read()


def test_another_width_of_val_is_refused() -> None:
    sparse.save_npz("X.npz", matrix())
    sparse.save_npz("Z.npz", sparse.csr_array(matrix().toarray()[:, :4]))
    write_labels()
    with pytest.raises(LogregError, match=f"must have the {WIDTH} features of `dataset.train_path`, got 4"):
        Features(train_path=["X.npz", "y.npy"], val_path=["Z.npz", "y.npy"]).read()


def test_nothing_of_a_file_is_unpickled() -> None:
    rewritten(data=np.array([print] * matrix().nnz, dtype=object))
    assert "data.npy" in zipfile.ZipFile("X.npz").namelist()
    write_labels()
    with pytest.raises(DataError, match="could not be read"):
        Features(path=["X.npz", "y.npy"]).read()
