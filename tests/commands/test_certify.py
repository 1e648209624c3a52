"""`scripts/certify.py` as a user types it, on coefficients of this program and of others."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from logreg.commands.certify import main
from logreg.commands.train import main as train
from whole_runs import left_in, working_in

SCRIPT = Path(__file__).parents[2] / "scripts" / "certify.py"

ALL = "dataset.split.val=0 dataset.split.test=0"
"""All rows, as scikit-learn's users fit them."""

TUMOURS = f"coef=model.npz dataset=breast_cancer {ALL}"

Certify = Callable[[str], dict[str, Any]]


@pytest.fixture
def answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Certify:
    """What is answered to a command, typed where the files of a test lie."""

    def type_(command: str) -> dict[str, Any]:
        capsys.readouterr()
        before = left_in(tmp_path)
        with working_in(tmp_path):
            assert main([*shlex.split(command), "json=true"]) == 0
        assert left_in(tmp_path) == before
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return type_


@cache
def converged(C: float = 1.0, **others: Any) -> LogisticRegression:
    """Of the raw breast_cancer table."""
    settings = {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 1000, **others}
    return LogisticRegression(C=C, **settings).fit(*load_breast_cancer(return_X_y=True))


def save(folder: Path, model: LogisticRegression, scaler: StandardScaler | None = None) -> None:
    """As model.npz, in source units."""
    coef, intercept = model.coef_, model.intercept_
    if scaler is not None:
        coef = coef / scaler.scale_
        intercept = intercept - coef @ scaler.mean_
    np.savez(folder / "model.npz", coef=coef, intercept=intercept)


def objective_of(model: LogisticRegression, C: float) -> float:
    """scikit-learn's objective over all rows, divided by C * rows; written down once more."""
    features, labels = load_breast_cancer(return_X_y=True)
    logits = features @ model.coef_[0] + model.intercept_[0]
    loss = np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean()
    return float(loss + (model.coef_**2).sum() / (2 * C * len(labels)))


# Coefficients of scikit-learn


def test_the_default_of_scikit_learn_on_raw_units_is_far_from_optimal(tmp_path: Path, answered: Certify) -> None:
    with pytest.warns(ConvergenceWarning):
        model = LogisticRegression().fit(*load_breast_cancer(return_X_y=True))
    save(tmp_path, model)
    answer = answered(f"{TUMOURS} C=1")
    best = objective_of(converged(), 1.0)
    assert answer["value"] == pytest.approx(objective_of(model, 1.0), rel=1e-10)
    assert 1 <= answer["gap"] / (answer["value"] - best) <= 1.01
    assert answer["gap"] > 0.1 * best
    assert answer["rigorous"]
    assert not answer["optimal"]
    assert answer["nearest"] is None
    assert answer["verdict"].startswith("not optimal: 0.0")
    assert (answer["rows"], answer["features"], answer["stated"]) == (569, "raw", "C=1")


def test_coefficients_that_converged_are_optimal(tmp_path: Path, answered: Certify) -> None:
    save(tmp_path, converged())
    answer = answered(f"{TUMOURS} C=1")
    assert answer["optimal"]
    assert answer["rigorous"]
    assert answer["relative_gap"] < 1e-9
    assert answer["optimum"] is None
    assert answer["verdict"].startswith("optimal to ")


def test_every_convention_states_the_same_penalty(tmp_path: Path, answered: Certify) -> None:
    save(tmp_path, converged())
    l2 = 1 / 569
    stated = ["C=1", f"l2={l2}", f"lambda={l2}", f"weight_decay={l2}", "C=1 reduction=sum"]
    answers = [answered(f"{TUMOURS} {words}") for words in stated]
    values = [answer["value"] for answer in answers]
    assert values == pytest.approx([objective_of(converged(), 1.0)] * 4 + [569 * objective_of(converged(), 1.0)])
    assert all(answer["optimal"] for answer in answers)


@pytest.mark.parametrize("C", [0.1, 10.0])
def test_the_C_that_was_fitted_is_found_where_another_is_stated(C: float, tmp_path: Path, answered: Certify) -> None:
    save(tmp_path, converged(C))
    answer = answered(f"{TUMOURS} C=1")
    assert 1 / (569 * answer["nearest"]["l2"]) == pytest.approx(C, rel=1e-4)
    assert f"(C={C:g})" in answer["verdict"]


def test_a_penalty_on_standardized_features_is_found(tmp_path: Path, answered: Certify) -> None:
    features, labels = load_breast_cancer(return_X_y=True)
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(tol=1e-8, max_iter=1000).fit(scaler.transform(features), labels)
    save(tmp_path, model, scaler)
    raw = answered(f"{TUMOURS} C=1")
    assert not raw["optimal"]
    assert "(C=1) on standardized features (dataset.standardize=true), to a relative gap" in raw["verdict"]
    standardized = answered(f"{TUMOURS} C=1 dataset.standardize=true")
    assert standardized["optimal"]
    assert standardized["features"] == "standardized"


def test_a_penalty_on_the_intercept_is_found(tmp_path: Path, answered: Certify) -> None:
    save(tmp_path, converged(solver="liblinear", tol=1e-8, max_iter=10_000))
    answer = answered(f"{TUMOURS} C=1")
    assert not answer["optimal"]
    assert answer["nearest"]["intercept"]
    assert "(C=1) with the intercept penalized too" in answer["verdict"]


def test_a_penalty_on_a_mean_that_was_put_on_a_sum_is_found(tmp_path: Path, answered: Certify) -> None:
    save(tmp_path, converged())
    assert "as if the loss were summed over the rows and not averaged" in answered(f"{TUMOURS} l2=1")["verdict"]


def test_other_rows_are_not_mistaken_for_another_penalty(tmp_path: Path, answered: Certify) -> None:
    save(tmp_path, converged())
    answer = answered("coef=model.npz dataset=breast_cancer C=1")
    assert (answer["rows"], answer["left_out"]) == (341, {"val": 114, "test": 114})
    assert answer["nearest"] is None
    assert answer["verdict"].endswith(f"({ALL} takes those rows too)")


def test_without_a_penalty_the_columns_that_separate_are_named(tmp_path: Path, answered: Certify) -> None:
    save(tmp_path, converged())
    answer = answered(f"{TUMOURS} C=inf")
    assert not answer["optimal"]
    assert answer["verdict"].startswith("no finite optimum: ")


# Shapes and files


def test_json_of_three_classes_by_other_names_will_do(tmp_path: Path, answered: Certify) -> None:
    model = LogisticRegression(C=0.5, tol=1e-9, max_iter=1000).fit(*load_iris(return_X_y=True))
    plain = {"coef_": model.coef_.tolist(), "intercept_": model.intercept_.tolist()}
    (tmp_path / "model.json").write_text(json.dumps(plain))
    answer = answered(f"coef=model.json dataset=iris {ALL} C=0.5")
    assert answer["optimal"]
    assert answer["classes"] == ["setosa", "versicolor", "virginica"]
    assert answer["objective"].startswith("mean softmax cross-entropy")


def test_a_vector_and_a_number_are_the_logit_of_the_second_class(tmp_path: Path, answered: Certify) -> None:
    plain = {"coef": converged().coef_[0].tolist(), "intercept": float(converged().intercept_[0])}
    (tmp_path / "model.json").write_text(json.dumps(plain))
    assert answered(f"coef=model.json dataset=breast_cancer {ALL} C=1")["optimal"]


def test_two_rows_for_two_classes_are_a_softmax(tmp_path: Path, answered: Certify) -> None:
    half = converged().coef_ / 2, converged().intercept_ / 2
    coef, intercept = (np.concatenate([-part, part]) for part in half)
    np.savez(tmp_path / "model.npz", coef=coef, intercept=intercept)
    answer = answered(f"{TUMOURS} l2={2 / 569}")
    assert answer["objective"].startswith("mean softmax cross-entropy")
    assert answer["optimal"]


def test_a_model_without_an_intercept_need_not_bring_one(tmp_path: Path, answered: Certify) -> None:
    model = converged(fit_intercept=False)
    np.savez(tmp_path / "model.npz", coef=model.coef_)
    answer = answered(f"{TUMOURS} C=1 intercept=false")
    assert answer["optimal"]
    assert answer["value"] == pytest.approx(objective_of(model, 1.0))
    save(tmp_path, model)
    assert not answered(f"{TUMOURS} C=1")["optimal"]


# Checkpoints


@pytest.mark.long
def test_a_checkpoint_is_held_against_its_own_run(
    tmp_path: Path, answered: Certify, capsys: pytest.CaptureFixture[str]
) -> None:
    with working_in(tmp_path):
        GlobalHydra.instance().clear()
        assert train(shlex.split("dataset=iris optimizer=newton l2=1e-2 report=brief")) == 0
    own = answered("")
    assert answered("ckpt_path=latest") == own
    assert own["optimal"]
    assert (own["rows"], own["features"], own["stated"], own["notes"]) == (90, "standardized", "", [])
    other = answered("ckpt_path=latest l2=0.1")
    assert not other["optimal"]
    assert other["nearest"]["l2"] == pytest.approx(0.01, rel=1e-4)
    more = answered("ckpt_path=latest dataset.split.val=0")
    assert more["rows"] == 120
    assert more["notes"] == ["these are not the rows that the checkpoint was trained on"]
    checkpoint = next(tmp_path.glob("runs/iris/*/checkpoints/last.ckpt")).rename(tmp_path / "moved.ckpt")
    assert answered(f"ckpt_path={checkpoint.name} dataset=iris")["value"] == own["value"]
    with working_in(tmp_path):
        assert main(["ckpt_path=moved.ckpt"]) == 2
    assert capsys.readouterr().err == "`dataset` must be given: the data that the coefficients were fitted to.\n"


def test_columns_that_depend_on_each_other_are_named_and_nothing_is_called_optimal(
    tmp_path: Path, answered: Certify
) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((300, 3))
    x[:, 2] = x[:, 0] + x[:, 1]
    y = draw.random(300) < 1 / (1 + np.exp(-x[:, 2]))
    np.savetxt(tmp_path / "t.csv", np.column_stack([x, y]), "%.17g", ",", header="u,v,total,y", comments="")
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(x[:, :2], y)
    np.savez(tmp_path / "model.npz", coef=np.append(model.coef_, 0), intercept=model.intercept_)
    answer = answered(f"coef=model.npz dataset=table dataset.path=t.csv dataset.target=y l2=0 {ALL}")
    assert not answer["optimal"]
    assert not answer["rigorous"]
    assert answer["relative_gap"] < 1e-9
    assert answer["dependent"] == ["u", "v", "total"]
    assert answer["nearest"] is None
    words = "by estimate: 'u', 'v' and 'total' are linearly dependent to within rounding, so no bound holds; drop one, "
    assert words in answer["verdict"]


# The command line


def test_the_table_shows_the_gap_and_the_penalty_that_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, converged(10.0))
    with working_in(tmp_path):
        assert main(shlex.split(f"{TUMOURS} C=1")) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["objective"] == (
        "mean binary cross-entropy + 0.00175747/2 |coef|^2, intercept free, on raw features [C=1]"
    )
    assert lines["classes"] == "malignant, benign"
    assert lines["rows"] == "569 of train"
    assert lines["gap"].endswith("of the value; rigorous")
    assert "0.1 times the stated strength" in lines["verdict"]


MISTAKES = {
    "coef=a.json ckpt_path=latest": "`coef` or `ckpt_path` must name the coefficients, not both. Leave one out.",
    "coef=a.json dataset=iris": "`l2` must be stated, or C, lambda or weight_decay: see --help. l2=0 is no penalty.",
    "coef=a.json dataset=iris C=1 l2=1": "`l2` must be the only name for the penalty, got l2 and C.",
    "coef=a.json dataset=iris C=0": "`C` must be a number > 0, or inf for no penalty, got 0.",
    "coef=a.json dataset=iris l2=1,2": "`l2` must be a finite number >= 0, got '1,2'.",
    "coef=a.json l2=1": "`dataset` must be given: the data that the coefficients were fitted to.",
    "coef=a.json l2=1 dataset=iris seed=1,2": "`seed` must be one value, got several in seed=1,2.",
    "coef=a.json l2=1 dataset=iris lr=1": (
        "`lr` must be a key of certify, and there is none of that name. `--help` lists the keys."
    ),
    "--verbose": "`--verbose` must be written as key=value. `--help` lists the keys.",
    "": (
        "`ckpt_path=latest` must find a run, and runs/latest is missing. "
        "Name a run folder or a .ckpt file, or train one first: scripts/train.py."
    ),
    "coef=a.json l2=1 dataset=iris": "`coef=a.json` must be a file, and there is none of that name.",
    "coef=shape.json l2=1 dataset=iris": (
        "`coef` must hold coef (3, 4) and intercept (3,) for loss=cross_entropy, 3 classes and 4 features "
        "(sepal length (cm), sepal width (cm), petal length (cm), ...) of iris, got (1, 2) and (1,)."
    ),
    "coef=nan.json l2=1 dataset=iris": "`coef=nan.json` must hold finite numbers, got nan or inf in coef.",
    "coef=names.json l2=1 dataset=iris": (
        "`coef=names.json` must hold coef and intercept, got w. Of a model without one, type intercept=false."
    ),
    **{
        f"coef={file} l2=1 dataset=iris": (
            f"`coef={file}` must be .npz or .json with numbers under coef and intercept, and cannot be read as that. "
            "Nothing is unpickled: numpy.savez(file, coef=model.coef_, intercept=model.intercept_) writes a good one."
        )
        for file in ("objects.npz", "claims.npz", "deep.json")
    },
    "ckpt_path=objects.npz dataset=iris": ("`ckpt_path` must be a checkpoint of logreg, and objects.npz is not one."),
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_answered_in_one_line(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("shape", '{"coef": [1, 2], "intercept": 0}'), ("names", '{"w": [1]}')):
        (tmp_path / f"{name}.json").write_text(content)
    (tmp_path / "nan.json").write_text('{"coef": [NaN], "intercept": 0}')
    (tmp_path / "deep.json").write_text(100_000 * "[")
    np.savez(tmp_path / "objects.npz", coef=np.array([{}], dtype=object), intercept=0.0)
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive, archive.open("coef.npy", "w") as member:
        claimed = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)}  # and no value
        np.lib.format.write_array_header_1_0(member, claimed)
    with working_in(tmp_path):
        code = main(shlex.split(command))
    assert (code, *capsys.readouterr()) == (2, "", MISTAKES[command] + "\n")


@pytest.mark.long
def test_help_and_mistakes_are_answered_without_torch(tmp_path: Path) -> None:
    for command, code in (("--help", 0), ("lr=0.1", 2)):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(SCRIPT), command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
        assert done.returncode == code
        assert "hydra" in imported
        assert not imported & {"torch", "lightning", "numpy"}
        assert done.stdout.startswith("Certifies how far" if code == 0 else "")
