"""Tables with a column of many levels, from the command line to predictions and exported models."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from logreg.training.checkpoint_reading import TrainedModel
from logreg.training.linear import Linear
from whole_runs import Answer, train

RunCommand = Callable[..., Answer]

LEVELS, ROWS, L2 = 180, 1500, 1e-2

NEW = ["shop 3", "shop 999", " shop 4 ", "", "NA", "shop 179"]
"""Known and unknown levels, one with blanks around it, and missing values."""


def cells() -> tuple[list[str], np.ndarray[Any, Any]]:
    """The shop of each row, some missing, and the classes (N,)."""
    draw = np.random.default_rng(0)
    rates = (1 + np.arange(LEVELS)) ** -0.8
    codes = draw.choice(LEVELS, ROWS, p=rates / rates.sum())
    labels = draw.random(ROWS) < 1 / (1 + np.exp(-draw.normal(size=LEVELS)[codes]))
    return ["" if row % 50 == 0 else f"shop {code}" for row, code in enumerate(codes)], labels


def trained(folder: Path, *typed: str) -> TrainedModel:
    """A model of all rows of ``t.csv``, as the command trains it."""
    shops, labels = cells()
    lines = [f"{shop},{'yes' if label else 'no'}" for shop, label in zip(shops, labels, strict=True)]
    (folder / "t.csv").write_text("\n".join(["shop,y", *lines]) + "\n")
    run = train(
        folder,
        *("dataset=table", "dataset.path=t.csv", "dataset.target=y", "dataset.split={val: 0, test: 0}"),
        *(f"l2={L2}", "dataset.standardize=false", "precision=64", "optimizer=newton", "tolerance=1e-12", *typed),
    )
    return TrainedModel.load(run.folder / "checkpoints" / "last.ckpt")


def predicted(run_command: RunCommand, folder: Path) -> tuple[np.ndarray[Any, Any], str]:
    """Probability of yes of each new row, and what predict.py says."""
    (folder / "new.csv").write_text("\n".join(["shop,kept", *(f"{shop},1" for shop in NEW)]) + "\n")
    answer = run_command(folder, "predict", "input=new.csv", "output=out.csv", "drop=[kept]", "overwrite=true")
    assert answer.code == 0, answer.err
    with (folder / "out.csv").open(newline="") as lines:
        return np.array([float(row["yes"]) for row in csv.DictReader(lines)]), answer.err


def optimum(features: Any, labels: Any) -> LogisticRegression:
    """scikit-learn's optimum of the same objective."""
    return LogisticRegression(C=1 / (L2 * len(labels)), tol=1e-10, max_iter=10_000).fit(features, labels)


@pytest.mark.long
def test_180_levels_are_learned_from_as_scikit_learn_does(tmp_path: Path, run_command: RunCommand) -> None:
    model = Linear.of(trained(tmp_path).module)
    shops, labels = cells()
    values, counts = np.unique([shop for shop in shops if shop], return_counts=True)
    filled = [shop or values[counts.argmax()] for shop in shops]
    encoder = OneHotEncoder(categories=[values], handle_unknown="ignore").fit(np.array(filled)[:, None])
    indicator = np.array([[not shop] for shop in shops])
    theirs = optimum(np.hstack([encoder.transform(np.array(filled)[:, None]).toarray(), indicator]), labels)
    np.testing.assert_allclose(model.coef.numpy(), theirs.coef_, atol=1e-5)
    found, said = predicted(run_command, tmp_path)
    new = [values[counts.argmax()] if shop in ("", "NA") else shop.strip() for shop in NEW]
    features = np.hstack([encoder.transform(np.array(new)[:, None]).toarray(), [[shop in ("", "NA")] for shop in NEW]])
    np.testing.assert_allclose(found, theirs.predict_proba(features)[:, 1], atol=1e-5)
    assert "1 row with a level of shop that the model lacks: encoded as no level" in said


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")  # of an array
def test_rare_levels_reach_the_predictions_and_every_format(tmp_path: Path, run_command: RunCommand) -> None:
    held = trained(tmp_path, "dataset.min_level_rows=5")
    (column,) = held.facts.columns
    shops, labels = cells()
    values, counts = np.unique([shop for shop in shops if shop], return_counts=True)
    assert column.levels == tuple(values[counts >= 5])
    assert column.rare_levels == (counts < 5).sum()
    assert held.facts.feature_names[-2:] == ("shop=(rare)", "shop is missing")
    found, said = predicted(run_command, tmp_path)
    assert found[1] == found[5] != found[0]  # shop 999 is unknown, shop 179 is rare
    assert "does not know" not in said
    # scikit-learn joins infrequent levels in the same way
    filled = np.array([[shop or values[counts.argmax()]] for shop in shops])
    encoder = OneHotEncoder(min_frequency=5, handle_unknown="infrequent_if_exist").fit(filled)
    theirs = optimum(np.hstack([encoder.transform(filled).toarray(), [[not shop] for shop in shops]]), labels)
    new = encoder.transform([[values[counts.argmax()] if shop in ("", "NA") else shop.strip()] for shop in NEW])
    features = np.hstack([new.toarray(), [[shop in ("", "NA")] for shop in NEW]])
    np.testing.assert_allclose(found, theirs.predict_proba(features)[:, 1], atol=1e-5)
    # and the formats that read rows of the table
    import joblib
    import onnxruntime

    for name, suffix in (("onnx", "onnx"), ("sklearn", "joblib"), ("sklearn_only", "joblib")):
        answer = run_command(tmp_path, "export", f"format={name}", f"output={name}.{suffix}", "overwrite=true")
        assert answer.code == 0, answer.err
    given = np.array([[shop.strip()] for shop in NEW], dtype=object)
    session = onnxruntime.InferenceSession(tmp_path / "onnx.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["probabilities"], {"shop": given})[0][:, 1], found, atol=1e-6)
    for name in ("sklearn", "sklearn_only"):
        rows = pa.table({"shop": given[:, 0]}) if name == "sklearn" else given
        theirs = joblib.load(tmp_path / f"{name}.joblib")
        np.testing.assert_allclose(theirs.predict_proba(rows)[:, 1], found, atol=1e-12)
    assert "anything else is a rare level" in (tmp_path / "MODEL_CARD.md").read_text()


@pytest.mark.long
def test_hashed_levels_are_learned_from_as_scikit_learn_does(tmp_path: Path, run_command: RunCommand) -> None:
    held = trained(tmp_path, "dataset.hash=2**18")
    (column,) = held.facts.columns
    assert column.buckets == 2**18
    shops, labels = cells()
    values, counts = np.unique([shop for shop in shops if shop], return_counts=True)
    hasher = FeatureHasher(2**18, input_type="string", alternate_sign=False)
    hashed = hasher.transform([[shop or values[counts.argmax()]] for shop in shops])
    used = np.unique(hashed.indices)
    assert held.facts.feature_names[:-1] == tuple(f"shop=#{bucket}" for bucket in used)
    theirs = optimum(np.hstack([hashed[:, used].toarray(), [[not shop] for shop in shops]]), labels)
    found, _ = predicted(run_command, tmp_path)
    new = hasher.transform([[values[counts.argmax()] if shop in ("", "NA") else shop.strip()] for shop in NEW])
    features = np.hstack([new[:, used].toarray(), [[shop in ("", "NA")] for shop in NEW]])
    np.testing.assert_allclose(found, theirs.predict_proba(features)[:, 1], atol=1e-5)
    answer = run_command(tmp_path, "predict", "shop=a shop that no one knows")  # the levels are open
    assert answer.code == 0, answer.err
    answer = run_command(tmp_path, "export", "format=onnx", "output=m.onnx")
    assert answer.code == 2
    assert "`format` must compute the hash of the levels of 'shop'" in answer.err
    assert run_command(tmp_path, "export", "format=sklearn", "output=m.joblib").code == 0


def test_levels_of_a_wide_column_are_not_standardized(tmp_path: Path) -> None:
    lines = [f"{row % 101},l{row % 101},l{row % 100},{row % 2}" for row in range(404)]
    (tmp_path / "t.csv").write_text("\n".join(["x,wide,narrow,y", *lines]) + "\n")
    run = train(
        tmp_path,
        *("dataset=table", "dataset.path=t.csv", "dataset.target=y", "dataset.split={val: 0, test: 0}", "l2=1"),
    )
    facts = TrainedModel.load(run.folder / "checkpoints" / "last.ckpt").facts
    found = dict(zip(facts.feature_names, zip(facts.mean, facts.std, strict=True), strict=True))
    assert found["wide=l7"] == (0, 1)
    assert found["narrow=l7"][0] == pytest.approx(4 / 404)
    assert found["narrow=l50"][1] == pytest.approx((4 / 404 * 400 / 404) ** 0.5)
    assert found["x"][0] == pytest.approx(50)
