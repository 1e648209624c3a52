"""Whole runs on sparse features as a user types them: the numbers of the same features as a dense matrix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import dump_svmlight_file
from torch import Tensor

from logreg.csr import checked_sparse
from logreg.data import RawData, Table, TensorDataModule
from logreg.data.preparation_steps import moments_of
from logreg.data.profile import profile_data
from logreg.training.checkpoint_reading import TrainedModel
from whole_runs import Answer, Run, newest, train

RunCommand = Callable[..., Answer]

ROWS, WIDTH = 240, 30
SAME = 1e-9
"""How far apart the coefficients of sparse and of dense rows may be, relative to the largest."""


def rows_of(
    classes: int, seed: int = 0, rows: int = ROWS, is_far: bool = True
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Random features, about four of five 0; feature 1 is in no row, feature 2 in all, and so is 3, far from 0."""
    draw = np.random.default_rng(seed)
    dense = draw.standard_normal((rows, WIDTH)) * (draw.random((rows, WIDTH)) < 0.2)
    dense[::40] = 0
    dense[:, 1], dense[:, 2], dense[:, 3] = 0, 1 + draw.random(rows), 5 * is_far + draw.random(rows)
    logits = dense @ np.random.default_rng(99).standard_normal((WIDTH, classes)) + draw.gumbel(size=(rows, classes))
    return dense, (logits - logits.mean(0)).argmax(1)


class Written(NamedTuple):
    """The same rows in each format, as ``dataset.path`` names them."""

    dense: str
    sparse: str
    svmlight: str


def write(
    folder: Path, classes: int = 2, seed: int = 0, name: str = "X", rows: int = ROWS, is_far: bool = True
) -> Written:
    features, labels = rows_of(classes, seed, rows, is_far)
    np.savez(folder / f"{name}_dense.npz", features=features, labels=labels)
    sparse.save_npz(folder / f"{name}.npz", sparse.csr_array(features))
    np.save(folder / f"{name}_labels.npy", labels)
    dump_svmlight_file(features, labels, str(folder / f"{name}.svm"), zero_based=False)
    return Written(f"{name}_dense.npz", f"[{name}.npz,{name}_labels.npy]", f"{name}.svm")


def fitted(folder: Path, path: str, *arguments: str) -> Run:
    return train(folder, "dataset=features", f"dataset.path={path}", "precision=64", *arguments)


def model_of(run: Run) -> tuple[Tensor, Tensor]:
    return TrainedModel.load(run.folder / "checkpoints" / "last.ckpt").module.model.in_source_units()


def assert_same_model(ours: Run, theirs: Run, same: float = SAME) -> None:
    (coef, intercept), (other, other_intercept) = model_of(ours), model_of(theirs)
    size = float(other.abs().max())
    torch.testing.assert_close(coef, other, rtol=0, atol=same * size)
    torch.testing.assert_close(intercept, other_intercept, rtol=0, atol=same * max(size, 1.0))


@pytest.mark.long
@pytest.mark.parametrize(
    ("classes", "arguments", "standardize"),
    [
        (2, ("optimizer=newton", "l2=1e-2"), True),
        (2, ("optimizer=newton", "l2=1e-2"), False),
        (2, ("optimizer=lbfgs", "l2=1e-2"), True),
        (2, ("optimizer=auto", "l2=1e-3", "l1=1e-2"), True),
        (2, ("optimizer=auto", "l2=1e-3", "l1=1e-2"), False),
        (3, ("optimizer=newton", "l2=1e-2"), True),
        (3, ("optimizer=lbfgs", "l2=1e-2", "loss=bce"), False),
        (2, ("optimizer=newton", "l2=1e-2", "intercept=false"), True),
        (2, ("optimizer=newton", "l2=1e-2", "dataset.class_weight=balanced"), True),
    ],
)
def test_exact_fits_are_those_of_dense_rows(
    tmp_path: Path, classes: int, arguments: tuple[str, ...], standardize: bool
) -> None:
    written = write(tmp_path, classes)
    arguments = (*arguments, f"dataset.standardize={standardize}", "tolerance=1e-22")
    dense, ours = (fitted(tmp_path, path, *arguments) for path in (written.dense, written.sparse))
    assert_same_model(ours, dense)
    mine, theirs = ours.summary, dense.summary
    assert mine["optimality"]["rigorous"] is theirs["optimality"]["rigorous"] is True
    assert mine["optimality"]["value"] == pytest.approx(theirs["optimality"]["value"], rel=1e-12)
    for split in ("train", "val", "test"):
        assert mine["metrics"][split] == pytest.approx(theirs["metrics"][split], rel=1e-7)


@pytest.mark.long
def test_sparse_features_are_not_standardized_by_default(tmp_path: Path) -> None:
    written = write(tmp_path)
    by_default = fitted(tmp_path, written.sparse, "l2=1e-2")
    assert not by_default.checkpoint()["hyper_parameters"]["facts"]["mean"]
    assert fitted(tmp_path, written.dense, "l2=1e-2").checkpoint()["hyper_parameters"]["facts"]["mean"]


@pytest.mark.long
@pytest.mark.parametrize("arguments", [("l2=auto",), ("l2=path", "cv=3"), ("l1=[0.1,0.03,0.01,0.003]", "l2=0", "cv=3")])
def test_the_strength_that_is_chosen_is_that_of_dense_rows(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    written = write(tmp_path)
    dense = fitted(tmp_path, written.dense, "dataset.standardize=false", *arguments)
    ours = fitted(tmp_path, written.sparse, *arguments)
    assert ours.checkpoint()["hyper_parameters"]["l2"] == dense.checkpoint()["hyper_parameters"]["l2"]
    assert ours.checkpoint()["hyper_parameters"]["l1"] == pytest.approx(
        dense.checkpoint()["hyper_parameters"]["l1"], rel=1e-6
    )
    if arguments[0] == "l2=auto":  # a rough search, whose fits end where they end
        return
    mine, theirs = (run.summary["cross_validation"]["metrics"] for run in (ours, dense))
    assert mine["loss"]["mean"] == pytest.approx(theirs["loss"]["mean"], rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("classes", "arguments", "standardize"),
    [
        (2, ("optimizer=sgd", "lr=0.05", "optimizer.momentum=0.9", "l2=1e-2"), True),
        (2, ("optimizer=sgd", "lr=0.05", "optimizer.momentum=0.9", "l2=1e-2"), False),
        (2, ("optimizer=adam", "lr=0.01", "l1=1e-3"), False),
        (3, ("optimizer=adamw", "lr=0.01", "l2=1e-2", "reduction=sum"), True),
        (2, ("optimizer=sgd", "lr=0.05", "batch_size=full", "dataset.class_weight=balanced"), True),
    ],
)
def test_first_order_fits_are_those_of_dense_rows(
    tmp_path: Path, classes: int, arguments: tuple[str, ...], standardize: bool
) -> None:
    written = write(tmp_path, classes, is_far=False)  # nothing is subtracted from the dense ones either
    arguments = ("batch_size=32", "max_epochs=3", f"dataset.standardize={standardize}", "l2=0", *arguments)
    arguments = tuple({argument.partition("=")[0]: argument for argument in arguments}.values())
    dense, ours = (fitted(tmp_path, path, *arguments) for path in (written.dense, written.sparse))
    assert_same_model(ours, dense, same=1e-6)
    assert ours.curve("loss/train") == pytest.approx(dense.curve("loss/train"), rel=1e-6)


# the commands after a run


@pytest.fixture(scope="module")
def sparse_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rows, 50 further ones, and a run on svmlight rows."""
    folder = tmp_path_factory.mktemp("sparse")
    write(folder, seed=5, name="new", rows=50)
    fitted(folder, write(folder, classes=2).svmlight, "l2=1e-2", "tolerance=1e-22")
    return folder


def predictions(run_command: RunCommand, folder: Path, file: str) -> np.ndarray[Any, Any]:
    answer = run_command(folder, "predict", f"input={file}", "output=p.csv", "ckpt_path=latest")
    assert answer.code == 0, answer.err
    lines = (folder / "p.csv").read_text().splitlines()[1:]
    (folder / "p.csv").unlink()
    return np.array([[float(cell) for cell in line.split(",")[1:]] for line in lines])


def test_predictions_of_new_rows_are_the_same_in_every_format(sparse_run: Path, run_command: RunCommand) -> None:
    found = [predictions(run_command, sparse_run, file) for file in ("new.svm", "new.npz", "new_dense.npz")]
    assert found[0].shape == (50, 2)
    np.testing.assert_allclose(found[0], found[2], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[1], found[2], rtol=0, atol=1e-12)


def test_new_rows_need_not_have_the_last_features(sparse_run: Path, run_command: RunCommand) -> None:
    (sparse_run / "few.svm").write_text("0 1:2 3:1\n0\n")
    few = sparse.csr_array(([2.0, 1.0], ([0, 0], [0, 2])), shape=(2, WIDTH))
    sparse.save_npz(sparse_run / "few.npz", few)
    found = [predictions(run_command, sparse_run, file) for file in ("few.svm", "few.npz")]
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 31:1\n", "`input` must have features that train has, 1 to 30, got 31 [in bad.svm]. Leave the others out"),
        ("0 0:1\n", "`input` must number its features from 1 on, as the file of train does, got 0 [in bad.svm]."),
        ("0 1:nan\n", "`input` must be finite, got nan in row 0 [in bad.svm]."),
        ("0 1:1 x\n", "got 'x' in line 1 [in bad.svm]."),
    ],
)
def test_new_rows_that_do_not_fit_are_refused(
    sparse_run: Path, run_command: RunCommand, content: str, message: str
) -> None:
    (sparse_run / "bad.svm").write_text(content)
    answer = run_command(sparse_run, "predict", "input=bad.svm", "output=p.csv", "ckpt_path=latest")
    assert answer.code == 2
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1


def test_new_rows_of_another_width_are_refused(sparse_run: Path, run_command: RunCommand) -> None:
    sparse.save_npz(sparse_run / "wide.npz", sparse.csr_array(np.eye(3, WIDTH + 1)))
    answer = run_command(sparse_run, "predict", "input=wide.npz", "output=p.csv", "ckpt_path=latest")
    assert answer.code == 2
    assert "`input` must have rows of 30 numbers as the model, got 31 [in wide.npz]." in answer.err


def test_evaluation_repeats_the_numbers_of_the_run_and_takes_other_files(
    sparse_run: Path, run_command: RunCommand
) -> None:
    answer = run_command(sparse_run, "evaluate", "json=true", "ckpt_path=latest")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["metrics"] == newest(sparse_run).summary["metrics"]
    (sparse_run / "narrow.svm").write_text("".join(f"{row % 2} 2:{row} 3:1\n" for row in range(20)))
    other = run_command(sparse_run, "evaluate", "json=true", "ckpt_path=latest", "dataset.path=narrow.svm")
    assert other.code == 0, other.err
    assert json.loads(other.out)["rows"] == {"train": 20}
    (sparse_run / "wide.svm").write_text("".join(f"{row % 2} 2:{row} 31:1\n" for row in range(20)))
    wide = run_command(sparse_run, "evaluate", "ckpt_path=latest", "dataset.path=wide.svm")
    assert wide.code == 2
    assert "must have features that train has, 1 to 30, got 31" in wide.err


@pytest.mark.long
def test_a_zero_that_is_written_states_that_features_begin_with_0(tmp_path: Path, run_command: RunCommand) -> None:
    lines = [f"{row % 2} 1:{row} 3:1\n" for row in range(20)]
    (tmp_path / "new.svm").write_text("0 0:1 3:1\n")
    for head, code in (("", 2), ("0 0:0\n", 0)):
        (tmp_path / "train.svm").write_text(head + "".join(lines))
        fitted(tmp_path, "train.svm", "l2=1e-2")
        answer = run_command(tmp_path, "predict", "input=new.svm", "output=-")
        assert answer.code == code
        assert ("0:0 in a line of the file of train states that it begins with 0." in answer.err) is (code == 2)


def test_the_certificate_is_that_of_dense_rows(tmp_path: Path, run_command: RunCommand) -> None:
    written = write(tmp_path)
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "coef.npz", coef=draw.standard_normal((1, WIDTH)) / 10, intercept=np.zeros(1))
    found = []
    for path in (written.dense, written.sparse, written.svmlight):
        answer = run_command(
            tmp_path, "certify", "coef=coef.npz", "dataset=features", f"dataset.path={path}", "C=1", "json=true"
        )
        found.append(json.loads(answer.out))
    for one in found[1:]:
        assert one["value"] == pytest.approx(found[0]["value"], rel=1e-12)
        assert one["gap"] == pytest.approx(found[0]["gap"], rel=2e-2)  # of a gap that is found to 1 %
        assert one["rigorous"] is found[0]["rigorous"] is True


def test_the_checkpoint_of_a_sparse_run_is_certified(sparse_run: Path, run_command: RunCommand) -> None:
    answer = run_command(sparse_run, "certify", "ckpt_path=latest", "json=true")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["optimal"] is True


@pytest.mark.long
@pytest.mark.parametrize("name", ["json", "safetensors", "sklearn", "sklearn_only", "torch_export", "onnx"])
def test_every_format_agrees_with_the_model(sparse_run: Path, run_command: RunCommand, name: str) -> None:
    answer = run_command(sparse_run, "export", f"format={name}", "overwrite=true", "ckpt_path=latest")
    assert answer.code == 0, answer.err
    assert "agrees to" in answer.out


@pytest.mark.long
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    path, settings = write(tmp_path).sparse, ("l2=1e-3", "optimizer=adam", "lr=0.01", "batch_size=32")
    whole = model_of(fitted(tmp_path, path, *settings, "max_epochs=4"))
    first = fitted(tmp_path, path, *settings, "max_epochs=2")
    resumed = train(tmp_path, f"ckpt_path={first.folder}/checkpoints/last.ckpt", "max_epochs=4")
    torch.testing.assert_close(model_of(resumed), whole, rtol=0, atol=0)


@pytest.mark.long
def test_a_report_of_very_many_features_is_small(tmp_path: Path) -> None:
    width, rows = 50_000, 300
    draw = np.random.default_rng(0)
    features = sparse.random_array((rows, width), density=20 / width, rng=draw, format="csr")
    sparse.save_npz(tmp_path / "X.npz", features)
    np.save(tmp_path / "y.npy", np.arange(rows) % 3)
    run = train(tmp_path, "dataset=features", "dataset.path=[X.npz,y.npy]", "l2=1e-3", "report=full")
    assert run.summary["optimality"]["rigorous"] is True
    for file in ("report.md", "summary.json", "metrics.csv", "report.html"):
        assert (run.folder / file).stat().st_size < 2**20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dataset.path=X.npz",), "Set dataset.path=[X.npz,LABELS.npy]."),
        (("dataset.path=nan.svm",), "`features` must be finite, got nan in row 1, column 0, counted from 0"),
        (("dataset.path=kinds.svm",), "got the class 'cat', which is no number, in line 2"),
        (("dataset.path=missing.svm",), "and missing.svm is missing"),
        (("dataset.path=X.svm.zip",), "must be a .npz, .safetensors, .parquet or .svm file, or two files"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    tmp_path: Path, run_command: RunCommand, arguments: tuple[str, ...], message: str
) -> None:
    write(tmp_path)
    (tmp_path / "nan.svm").write_text("1 1:1\n0 1:nan\n" * 20)
    (tmp_path / "kinds.svm").write_text("1 1:1\ncat 1:2\n")
    answer = run_command(tmp_path, "train", "dataset=features", *arguments)
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert message in answer.err
    assert not (tmp_path / "runs").exists()


# what is measured of the data


class Source(NamedTuple):
    """A dataset of given tables."""

    raw: RawData
    name: str = "given"

    def read(self) -> RawData:
        return self.raw


def tables_of(features: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[RawData, RawData]:
    """The same rows, dense and sparse, in a file of the user: train and val share them."""
    rows = torch.arange(len(labels))
    sources = []
    for matrix in (features, checked_sparse(sparse.csr_array(features.numpy()))):
        tables = {
            "train": Table(matrix, labels, rows[: len(rows) // 2], weights),
            "val": Table(matrix, labels, rows[len(rows) // 2 :], weights),
        }
        sources.append(RawData(tables, ("0", "1"), source="given.svm"))  # type: ignore[arg-type]  # names of splits
    return sources[0], sources[1]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("factor", [1.0, 1e-200, 1e200])
def test_means_and_deviations_are_those_of_dense_rows(factor: float, weighted: bool) -> None:
    features, labels = (torch.from_numpy(part) for part in rows_of(2))
    features[:, 4], features[:, 5], features[:, 6] = 3.0, 1e6 + features[:, 6], factor * features[:, 7]
    weights = torch.arange(ROWS).double() % 3 / 7 if weighted else None
    dense, ours = (moments_of(raw.tables["train"]) for raw in tables_of(features, labels, weights))
    torch.testing.assert_close(ours.mean, dense.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.std, dense.std, rtol=1e-9, atol=1e-14)
    assert ours.is_constant.nonzero()[:, 0].tolist() == dense.is_constant.nonzero()[:, 0].tolist() == [1, 4]
    assert float(ours.std[6] / factor) == pytest.approx(float(dense.std[6] / factor), rel=1e-12)


def test_leaks_and_repeated_rows_are_those_of_dense_rows() -> None:
    features, labels = (torch.from_numpy(part) for part in rows_of(2))
    features[:, 7] = labels * 2.0  # the target under another name
    features[ROWS // 2] = features[3]  # a row of val that is one of train
    features[ROWS // 2, 8], features[3, 8] = -0.0, 0.0
    dense, ours = (
        profile_data(TensorDataModule(Source(raw), split={"test": 0})) for raw in tables_of(features, labels)
    )
    leaks = [TensorDataModule(Source(raw), split={"test": 0}) for raw in tables_of(features, labels)]
    for data in leaks:
        data.setup()
    assert leaks[0].leaks.target == leaks[1].leaks.target == ("feature 7",)
    assert [one.count for one in ours.repeated] == [one.count for one in dense.repeated]
    assert ours.repeated[0].count >= 1
    nonzeros = int((features != 0).sum())
    assert ours.feature_bytes == nonzeros * 12 + (ROWS + 1) * 4


def test_separation_is_found_in_few_sparse_features(tmp_path: Path) -> None:
    features, labels = rows_of(2)
    features[:, 7] = labels * 2.0
    sparse.save_npz(tmp_path / "X.npz", sparse.csr_array(features))
    np.save(tmp_path / "y.npy", labels)
    run = train(tmp_path, "dataset=features", "dataset.path=[X.npz,y.npy]", "l2=0", "optimizer=newton")
    assert "feature 7 separates '1' from '0' perfectly" in run.summary["optimality"]["separation"]


@pytest.mark.long
def test_units_of_tiny_and_huge_features_cost_no_digits(tmp_path: Path) -> None:
    features, labels = rows_of(2)
    coef = []
    for factor in (1.0, 2.0**60):
        scaled = features.copy()
        scaled[:, 5] *= factor
        scaled[:, 6] /= factor
        sparse.save_npz(tmp_path / "X.npz", sparse.csr_array(scaled))
        np.save(tmp_path / "y.npy", labels)
        run = train(
            tmp_path, "dataset=features", "dataset.path=[X.npz,y.npy]", "l2=1e-2", "dataset.standardize=true",
            "tolerance=1e-22", "precision=64"
        )  # fmt: skip
        found = model_of(run)[0][0]
        found[5] *= factor
        found[6] /= factor
        coef.append(found)
    torch.testing.assert_close(coef[1], coef[0], rtol=0, atol=SAME * float(coef[0].abs().max()))


def test_blocks_of_an_epoch_are_each_row_once() -> None:
    features, labels = (torch.from_numpy(part) for part in rows_of(2))
    data = TensorDataModule(Source(tables_of(features, labels)[1]), batch_size=7, split={"test": 0}, seed=3)
    blocks = list(data.train_dataloader())
    order = torch.cat([block.features.to_dense() for block in blocks])
    own = features[: ROWS // 2].float()
    assert not torch.equal(order, own)
    assert sorted(map(tuple, order.tolist())) == sorted(map(tuple, own.tolist()))
