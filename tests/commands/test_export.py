"""`scripts/export.py`: every format, read by its real consumer, gives the probabilities of the model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from logreg.export.formats import FORMATS
from logreg.export.sklearn_only import as_sklearn
from logreg.facts import DataFacts
from logreg.training.checkpoint_reading import TrainedModel
from logreg.training.linear import Linear
from models import MODELS, Models
from summaries import EVALUATION, summary_of
from whole_runs import Answer, train

RunCommand = Callable[..., Answer]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "weighted"])  # not every format can
@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "torch_export"])
def test_every_model_goes_into_every_format(
    kind: str, name: str, models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    file = tmp_path / f"model{FORMATS[kind].suffix}"
    answer = run_command(models(name), "export", f"format={kind}", f"output={file}")
    assert answer.code == 0, answer.err
    agrees = float(answer.out.split("agrees to ")[1].split()[0])
    # float32 in the output of onnx, float64 in the others
    assert agrees <= (1e-6 if kind == "onnx" else 1e-12)
    assert file.is_file()
    assert (tmp_path / "MODEL_CARD.md").is_file()


@pytest.mark.parametrize("name", ["softmax", "one_vs_rest"])
def test_a_program_of_torch_takes_any_number_of_rows(
    name: str, models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    file = tmp_path / "model.pt2"
    assert run_command(models(name), "export", "format=torch_export", f"output={file}").code == 0
    described = {"logreg.json": ""}
    program = torch.export.load(file, extra_files=described).module()
    trained = TrainedModel.load(models.run(name).folder / "checkpoints" / "last.ckpt")
    for rows in (1, 2, 57):
        features = torch.randn(rows, 4)
        torch.testing.assert_close(program(features), Linear.of(trained.module).probabilities(features))
    assert json.loads(described["logreg.json"])["classes"] == ["setosa", "versicolor", "virginica"]


@pytest.mark.long
def test_the_onnx_file_runs_where_there_is_no_torch(models: Models, run_command: RunCommand, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    here = models("table")
    assert run_command(here, "export", "format=onnx", f"output={file}").code == 0
    program = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
column = lambda values, kind: np.array(values, dtype=kind).reshape(-1, 1)
label, probabilities = session.run(["label", "probabilities"], {
    "size": column([0.5, np.nan, -3], np.float32),
    "color": column(["red", "", "violet"], object),
    "wet": column(["true", "false", "true"], object),
})
assert "torch" not in sys.modules
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
print(json.dumps([label.tolist(), probabilities.tolist(), classes]))
"""
    process = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    labels, probabilities, classes = json.loads(process.stdout)
    (here / "three.csv").write_text("size,color,wet\n0.5,red,true\n,,false\n-3,violet,true\n")
    assert run_command(here, "predict", "input=three.csv", "output=three_out.csv", "overwrite=true").code == 0
    import pyarrow.csv

    rows = pyarrow.csv.read_csv(here / "three_out.csv").to_pydict()
    assert labels == rows["predicted"]
    np.testing.assert_allclose(probabilities, np.column_stack([rows[name] for name in classes]), atol=2e-6)


@pytest.mark.long
def test_the_file_of_scikit_learn_alone_needs_no_logreg(
    models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    file, here = tmp_path / "model.joblib", models("table")
    assert run_command(here, "export", "format=sklearn_only", f"output={file}").code == 0
    program = """
import json, sys
sys.modules["logreg"] = None
import joblib, numpy as np
estimator = joblib.load(sys.argv[1])
rows = np.array([[0.5, "red", True], [None, None, False], [-3, "violet", True]], dtype=object)
assert "torch" not in sys.modules
print(json.dumps(estimator.predict_proba(rows).tolist()))
"""
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    rows = [{"size": "0.5", "color": "red", "wet": "true"}, {"size": "", "color": "", "wet": "false"}]
    _, probabilities = predicted_by_us(run_command, here, [*rows, {"size": "-3", "color": "violet", "wet": "true"}])
    np.testing.assert_allclose(json.loads(done.stdout), probabilities, atol=1e-9)


@pytest.mark.long
def test_onnx_takes_pixels_that_are_no_bytes_of_255_as_they_are_in_the_source(
    run_command: RunCommand, tmp_path: Path
) -> None:
    import onnxruntime
    from sklearn.datasets import load_digits

    train(tmp_path, "dataset=digits", "l2=1e-2", "max_epochs=3")
    answer = run_command(tmp_path, "export", "format=onnx", "output=m.onnx")
    assert answer.code == 0, answer.err
    assert "of shape (rows, 8, 8), uint8: pixels from 0 to 16." in (tmp_path / "MODEL_CARD.md").read_text()
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    images = load_digits().images
    (probabilities,) = session.run(["probabilities"], {"images": images.astype(np.uint8)})
    np.savez(tmp_path / "digits.npz", features=images.reshape(-1, 64) / 16)
    assert run_command(tmp_path, "predict", "input=digits.npz", "output=out.csv").code == 0
    ours = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1, usecols=range(1, 11))
    np.testing.assert_allclose(probabilities, ours, atol=2e-6)


def test_onnx_takes_pixels_of_16_bits_as_they_are_in_the_files(tmp_path: Path) -> None:
    import onnxruntime

    pixels = {"white_level": 4095, "background": 255}
    facts = DataFacts("image_folder", 4, ("a", "b"), {"train": 9}, image_shape=(2, 2), pixels=pixels)
    model = Linear(torch.tensor([[1.0, -2.0, 3.0, 0.5]]).double(), torch.tensor([-0.7]).double(), "bce", facts, "32")
    FORMATS["onnx"].write(model, tmp_path / "model.onnx")
    raw = np.array([[[0, 4095], [2047, 1]], [[100, 2000], [3000, 5000]]], dtype=np.uint16)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": raw})
    logits = raw.reshape(2, 4) / 4095 @ [1, -2, 3, 0.5] - 0.7
    np.testing.assert_allclose(probabilities[:, 1], 1 / (1 + np.exp(-logits)), rtol=1e-6)


@pytest.mark.parametrize("name", ["binary", "softmax", "one_vs_rest", "two_outputs"])
def test_scikit_learn_decides_as_the_model(name: str, models: Models) -> None:
    trained = TrainedModel.load(models.run(name).folder / "checkpoints" / "last.ckpt")
    linear = Linear.of(trained.module)
    estimator = as_sklearn(linear)
    features = torch.randn(50, trained.facts.num_features, dtype=torch.float64) * 3
    names = np.array(trained.facts.class_names)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an array has no names of features, and says so
        taken = estimator.predict(features.numpy())
    np.testing.assert_array_equal(taken, names[linear.probabilities(features).argmax(1)])


# spellings

SPELLED = {
    "size": ["1.5", " 2 ", "3e-1", "+4.", "", "NA", "NaN", "null", "?"],
    "code": ["1", "2 ", "10", "1.0", "1e0", "01", "", "N/A", " ?"],
    "color": ["red", " red", "deep blue ", "Red", "violet", "", "NA", "nan", "NULL", "?", "-1"],
    "wet": [
        *("true", "True", "TRUE", "tRuE", " true", "1", "false", "False", "FALSE ", "0"),
        *("yes", "no", "2", "1.0", "t", "", "NA", "?"),
    ],
}
"""What a user may write into the columns of a CSV, in every way that is read as a level, a missing value or neither."""

CLASSES: dict[str, list[Any]] = {
    "booleans": [False, True],
    "whole numbers": [10, 9],
    "fractions": [1.0, 2.0],
    "text": ["low", "high"],
    "three": [1, 2, 30],
}


def spelled_rows() -> list[dict[str, str]]:
    """A row for each spelling, beside plain ones of the other columns."""
    plain = {"size": "0.5", "code": "2", "color": "green", "wet": "false"}
    return [plain | {name: word} for name, words in SPELLED.items() for word in words]


@pytest.fixture(scope="module", params=CLASSES)
def spelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A folder with a model of a table that has a column of every kind, with missing values, and the classes."""
    folder, classes = tmp_path_factory.mktemp("spelled"), CLASSES[request.param]
    draw = np.random.default_rng(0)
    lines = ["size,code,color,wet,flat,y"]
    for _ in range(400):
        size, code, wet = draw.normal(), draw.choice(["1", "2", "10"]), draw.choice(["true", "false"])
        color = draw.choice(["red", "green", "deep blue"])
        score = size + (code == "1") - 2 * (color == "red") + (wet == "true") + draw.normal()
        label = classes[min(int(score > -0.5) + int(score > 1), len(classes) - 1)]
        flat = "" if size > 0.7 else "7"  # only its missing values are informative
        cells = [f"{size:.3f}", code, color, wet]
        shown = ["?" if draw.random() < 0.1 else cell for cell in cells]
        lines.append(",".join([*shown, flat, str(label).lower() if isinstance(label, bool) else str(label)]))
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    typed = ("dataset=table", "dataset.path=t.csv", "dataset.target=y", "dataset.categorical=[code]", "l2=1e-3")
    train(folder, *typed, "dataset.missing_values=[?]")
    return folder, classes


def predicted_by_us(run_command: RunCommand, folder: Path, rows: list[dict[str, str]]) -> tuple[list[str], Any]:
    """Labels and probabilities that predict.py gives to rows as they stand in a CSV."""
    import csv

    with (folder / "new.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    assert run_command(folder, "predict", "input=new.csv", "output=out.csv", "overwrite=true").code == 0
    with (folder / "out.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header[0] == "predicted"
    return [line[0] for line in lines], np.array([line[1:] for line in lines], dtype=float)


def as_number(word: str) -> float:
    return float("nan") if word in ("", "NA", "NaN", "null", "?") else float(word)


@pytest.mark.long
def test_every_spelling_says_the_same_to_predict_onnx_and_scikit_learn(
    spelled: tuple[Path, list[Any]], run_command: RunCommand, tmp_path: Path
) -> None:
    import joblib
    import onnxruntime

    folder, classes = spelled
    rows = [row | {"flat": flat} for row in spelled_rows() for flat in ("7", "")]
    labels, probabilities = predicted_by_us(run_command, folder, rows)
    assert run_command(folder, "export", "format=onnx", f"output={tmp_path / 'm.onnx'}").code == 0
    estimators = {}
    for kind in ("sklearn", "sklearn_only"):
        assert run_command(folder, "export", f"format={kind}", f"output={tmp_path / kind}.joblib").code == 0
        estimators[kind] = joblib.load(tmp_path / f"{kind}.joblib")
        # classes keep their type
        held = estimators[kind].classes_.tolist()
        assert held == sorted(classes)
        assert [type(one) for one in held] == [type(one) for one in sorted(classes)]
    # ONNX: text without blanks around it, numbers as numbers
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    kinds = {one.name: np.float32 if "float" in one.type else object for one in session.get_inputs()}
    assert [name for name, kind in kinds.items() if kind is np.float32] == ["size", "flat"]
    columns = {
        name: [as_number(row[name]) if kind is np.float32 else row[name].strip() for row in rows]
        for name, kind in kinds.items()
    }
    feed = {name: np.array(values, dtype=kinds[name]).reshape(-1, 1) for name, values in columns.items()}
    label, theirs = session.run(["label", "probabilities"], feed)
    np.testing.assert_allclose(theirs, probabilities, atol=1e-6)
    assert {type(one) for one in label.tolist()} == {type(one) for one in classes}
    names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    named = dict(zip(names, sorted(classes), strict=True))
    assert label.tolist() == [named[one] for one in labels]
    # scikit-learn: text as it stands
    array = np.empty((len(rows), len(kinds)), dtype=object)
    for place, name in enumerate(kinds):
        array[:, place] = columns[name] if kinds[name] is np.float32 else [row[name] for row in rows]
    table = pa.table({name: array[:, place].tolist() for place, name in enumerate(kinds)})
    for kind, given in (("sklearn", table), ("sklearn", array), ("sklearn_only", array)):
        estimator = estimators[kind]
        with catch_warnings(action="ignore"):  # an array has no names of columns, and says so
            assert estimator.predict(given).tolist() == [named[one] for one in labels]
            np.testing.assert_allclose(estimator.predict_proba(given), probabilities, atol=1e-9)


def test_the_card_says_what_to_pass(spelled: tuple[Path, list[Any]], run_command: RunCommand, tmp_path: Path) -> None:
    import sklearn

    import logreg

    folder, _ = spelled
    said = {}
    for name in ("onnx", "sklearn", "sklearn_only", "json"):
        file = tmp_path / name / f"m{FORMATS[name].suffix}"
        file.parent.mkdir()
        assert run_command(folder, "export", f"format={name}", f"output={file}").code == 0
        card = (file.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
        said[name] = card.split("## What to pass\n")[1].split("\n## ")[0]
    for name in ("onnx", "sklearn", "sklearn_only"):
        assert "\n- `size`: a number\n- `code`: text, written so: `1`, `10`, `2`; anything else" in said[name]
        assert "\n- `wet`: " in said[name]
        assert "true or false in any case, 1 or 0" in said[name]
        assert "`NA`" in said[name]
        assert "`?`, unless that is a level." in said[name]
    assert "float32" in said["onnx"]
    assert f"Made with scikit-learn {sklearn.__version__}: load it with that version" in said["sklearn_only"]
    assert f"Made with logreg {logreg.__version__} and scikit-learn {sklearn.__version__}" in said["sklearn"]
    for name in ("sklearn", "sklearn_only"):
        assert "in order: `size`, `code`, `color`, `wet`, `flat`." in said[name]
    assert "It takes features, not rows of the table" in said["json"]


@pytest.mark.parametrize("kind", ["sklearn", "sklearn_only"])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")  # of an array
def test_values_of_python_and_pandas_say_the_same_to_scikit_learn_as_in_a_file(
    spelled: tuple[Path, list[Any]], run_command: RunCommand, tmp_path: Path, kind: str
) -> None:
    import joblib

    pandas = pytest.importorskip("pandas", reason="only for who has it: logreg does not need it")
    folder, _ = spelled
    assert run_command(folder, "export", f"format={kind}", f"output={tmp_path / 'm.joblib'}").code == 0
    estimator = joblib.load(tmp_path / "m.joblib")
    cells: dict[str, list[Any]] = {
        "size": [1.5, None, 2, float("nan")],
        "code": [1, 2, None, 10],
        "color": ["red", None, float("nan"), "green"],
        "wet": [True, False, None, True],
        "flat": [7, None, 7, None],
    }
    rows = [
        {name: "" if one is None or one != one else str(one) for name, one in zip(cells, row, strict=True)}
        for row in zip(*cells.values(), strict=True)
    ]
    _, probabilities = predicted_by_us(run_command, folder, rows)
    frame = pandas.DataFrame({name: pandas.Series(values, dtype=object) for name, values in cells.items()})
    np.testing.assert_allclose(estimator.predict_proba(frame), probabilities, atol=1e-9)
    np.testing.assert_allclose(estimator.predict_proba(frame[[*reversed(cells)]]), probabilities, atol=1e-9)
    np.testing.assert_allclose(estimator.predict_proba(frame.to_numpy()), probabilities, atol=1e-9)
    frame = frame.astype({"size": float, "flat": float, "code": "Int64", "wet": "boolean", "color": "string"})
    frame["code"] = frame["code"].astype(
        "string"
    )  # as the card says: pandas gives whole numbers beside missing values as 1.0
    np.testing.assert_allclose(estimator.predict_proba(frame), probabilities, atol=1e-9)
    whole = pandas.DataFrame(
        {"size": [1.0, 2.0], "code": [1, 2], "color": ["red"] * 2, "wet": [True, False], "flat": 7}
    )
    _, probabilities = predicted_by_us(run_command, folder, whole.astype(str).to_dict("records"))
    np.testing.assert_allclose(estimator.predict_proba(whole), probabilities, atol=1e-9)


@pytest.mark.parametrize("kind", ["sklearn", "sklearn_only", "onnx"])
def test_columns_near_zero_and_far_from_it_are_rounded_as_the_model_reads_them(
    tmp_path: Path, run_command: RunCommand, kind: str
) -> None:
    # the classes depend on small differences of two columns, so that the rounding of either one shows
    random = np.random.default_rng(0)
    one, gap = random.uniform(1, 10, 400).round(2), random.normal(0, 0.03, 400).round(2)
    far = random.normal(60, 0.1, 400).round(2)
    label = np.where(gap + random.normal(0, 0.01, 400) > 0, "up", "down")
    lines = [f"{a},{a + b:.2f},{c},{d}" for a, b, c, d in zip(one, gap, far, label, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["one,other,far,label", *lines]))
    train(tmp_path, "dataset=table", "dataset.path=t.csv", "dataset.target=label", "l2=1e-6", "report=brief")
    answer = run_command(tmp_path, "export", f"format={kind}")
    assert answer.code == 0, answer.err


def test_the_coefficients_are_of_raw_features_and_calibrated(
    models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    file = tmp_path / "model.json"
    assert run_command(models("softmax"), "export", "format=json", f"output={file}").code == 0
    plain = json.loads(file.read_text())
    held = models.run("softmax").checkpoint()
    parameters, heat = held["state_dict"], held["calibration"]["temperature"]
    coef = parameters["model.coef"].double() / parameters["model.std"].double() / heat
    np.testing.assert_allclose(plain["coef"], coef.numpy(), rtol=1e-6)
    assert plain["link"] == "softmax"
    assert plain["outputs"] == ["setosa", "versicolor", "virginica"]


def test_what_does_not_agree_is_refused_and_leaves_nothing(
    models: Models, run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    def off(file: Path, model: Linear, sample: Any) -> Any:
        return FORMATS["safetensors"].read(file, model, sample) + 1e-5

    monkeypatch.setitem(FORMATS, "json", dataclasses.replace(FORMATS["safetensors"], suffix=".json", read=off))
    answer = run_command(models("binary"), "export", "format=json", f"output={tmp_path / 'm.json'}")
    assert answer.code == 2
    assert answer.err == (
        "`format=json` must give the probabilities of the model to 1e-06, and is off by 1e-05 on 114 rows. "
        "Subtract an offset from the features, or use format=onnx or torch_export.\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_what_one_format_cannot_hold_the_formats_that_its_message_names_can(
    run_command: RunCommand, tmp_path: Path
) -> None:
    # The intercept of numbers so far away, about 1e14, has no digit left for the logit.
    draw = np.random.default_rng(0)
    z = draw.normal(size=(100, 2))
    labels = np.where(draw.random(100) < 1 / (1 + np.exp(-z[:, 0])), "yes", "no")
    np.savez(tmp_path / "far.npz", features=1e12 + 1e-2 * z, labels=labels)
    train(tmp_path, "dataset=features", "dataset.path=far.npz", "l2=0")
    refused = run_command(tmp_path, "export", "format=json", "output=m.json")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "or use format=onnx or torch_export." in refused.err
    for name, file in (("onnx", "m.onnx"), ("torch_export", "m.pt2")):
        assert run_command(tmp_path, "export", f"format={name}", f"output={file}").code == 0


def test_the_card_says_what_the_summary_knows(models: Models, run_command: RunCommand, tmp_path: Path) -> None:
    assert run_command(models("binary"), "export", "format=json", f"output={tmp_path / 'model.json'}").code == 0
    card = (tmp_path / "MODEL_CARD.md").read_text()
    summary = models.run("binary").summary
    assert card.startswith("# breast_cancer\n")
    for words in (
        "2 classes: malignant, benign",
        summary["command"],
        summary["optimality"]["verdict"],
        "| log loss | ",
        "## When not to use it",
        summary["largest_coefficients"][0]["feature"],
    ):
        assert words in card


def test_the_card_names_the_types_of_an_onnx_graph(models: Models, run_command: RunCommand, tmp_path: Path) -> None:
    import onnxruntime

    assert run_command(models("binary"), "export", "format=onnx", f"output={tmp_path / 'model.onnx'}").code == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    kinds = {"tensor(float)": "float32", "tensor(double)": "float64"}
    given, (_, gives) = session.get_inputs()[0], session.get_outputs()
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert f"Outputs: `label`, and `probabilities` of shape (rows, 2), {kinds[gives.type]}." in card
    assert f"An input `features` of shape (rows, 30), {kinds[given.type]}." in card


def test_a_card_warns_of_what_the_numbers_show() -> None:
    from logreg.reports.model_card import warnings

    score = {"value": 0.5, "low": 0.4, "high": 0.6}
    classes = [
        {"class": "a", "weight": 40.0, "precision": score, "recall": score | {"value": 1.0}, "f1": score},
        {"class": "b", "weight": 0.0, "precision": score, "recall": score | {"value": float("nan")}, "f1": score},
    ]
    found = {"rows": 40, "metrics": {"log_loss": {"value": 0.6, "low": 0.5, "high": 0.9}}, "classes": classes}
    changes: dict[str, Any] = {
        "dataset": {"class_weight": {"a": 2.0}},
        "metrics": {"train": {"accuracy": 0.99}, "test": {"accuracy": 0.7}},
    }
    summary = summary_of(**changes, evaluation=EVALUATION | found)
    text = "\n".join(warnings(summary))
    for words in (
        "40 rows",
        "base rates",
        "stronger penalty",
        "'b'",
        "class weights",
        "one-vs-rest",
        "before the optimum",
    ):
        assert words in text
    assert "trained on, and on no others" in "\n".join(
        warnings(summary_of(**changes, evaluation=EVALUATION | {"split": "train"}))
    )


def test_without_the_package_the_extra_is_named(
    models: Models, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnx" else found(name))
    answer = run_command(models("binary"), "export", "format=onnx")
    assert answer.code == 2
    assert answer.err == "`format=onnx` must have the package onnx: pip install onnx.\n"


MISTAKES = {
    ("onnx",): "`onnx` must be written as key=value, such as format=onnx. `--help` lists the keys.",
    (): "`format` must be given: one of onnx, torch_export, safetensors, json, sklearn, sklearn_only.",
    ("format=onxx",): (
        "`format` must be one of onnx, torch_export, safetensors, json, sklearn, sklearn_only, got 'onxx'. "
        "Did you mean onnx?"
    ),
    ("format=json", "output=model.onnx"): "`output` must end in one of .json, got 'model.onnx'.",
    ("format=json", "output=there.json"): (
        "`output` must not exist, and there.json does. Name another one, or set overwrite=true."
    ),
}


@pytest.mark.parametrize(("typed", "sentence"), MISTAKES.items())
def test_a_mistake_is_answered_in_one_line(
    typed: tuple[str, ...], sentence: str, models: Models, run_command: RunCommand
) -> None:
    here = models("binary")
    (here / "there.json").write_text("mine")
    answer = run_command(here, "export", *typed)
    assert (answer.code, answer.err) == (2, sentence + "\n")
    assert (here / "there.json").read_text() == "mine"


@pytest.mark.parametrize("content", ["", "[]", '{"status": "finished"}', 5000 * "["])
def test_a_summary_that_is_none_is_one_line_and_nothing_is_written(
    content: str, models: Models, run_command: RunCommand, tmp_path: Path
) -> None:
    shutil.copytree(models.run("toy").folder, tmp_path / "strange", ignore=shutil.ignore_patterns("export"))
    (tmp_path / "strange" / "summary.json").write_text(content)
    answer = run_command(tmp_path, "export", "format=json", "ckpt_path=strange")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "`strange/summary.json` must be the summary of a run, and cannot be read as that. Remove it, or train anew.\n"
    )
    assert not (tmp_path / "strange" / "export").exists()
    (tmp_path / "strange" / "summary.json").unlink()  # as it says
    assert run_command(tmp_path, "export", "format=json", "ckpt_path=strange").code == 0


@pytest.mark.long
@pytest.mark.parametrize("level", ["", "  "])
def test_a_level_of_no_letters_beside_gaps_is_refused_where_both_are_the_same_text(
    level: str, tmp_path: Path, run_command: RunCommand
) -> None:
    levels = [[level, "b", None][row % 3] for row in range(90)]
    table = pa.table({"a": levels, "y": [["no", "yes"][row % 2] for row in range(90)]})
    pq.write_table(table, tmp_path / "t.parquet")
    train(tmp_path, "dataset=table", "dataset.path=t.parquet", "dataset.target=y", "l2=0.1", "report=brief")
    for kind in ("onnx", "sklearn_only"):
        answer = run_command(tmp_path, "export", f"format={kind}")
        assert answer.code == 2
        assert answer.err == (
            f"`format` must distinguish a missing value of 'a' from its level {level!r}, and onnx and "
            "sklearn_only have '' for both. Use format=sklearn, json, safetensors or torch_export, or give the level a "
            "name in the file.\n"
        )
    for kind in ("sklearn", "json", "safetensors", "torch_export"):  # as it says
        assert run_command(tmp_path, "export", f"format={kind}").code == 0


def test_levels_of_a_binary_file_that_differ_in_blanks_stay_different(tmp_path: Path, run_command: RunCommand) -> None:
    import joblib

    levels = ["c", " c", "d ", ""]
    values, classes = [levels[row % 4] for row in range(90)], [["no", "yes"][row % 7 % 2] for row in range(90)]
    pq.write_table(pa.table({"a": values, "y": classes}), tmp_path / "t.parquet")
    train(tmp_path, "dataset=table", "dataset.path=t.parquet", "dataset.target=y", "l2=1e-3", "report=brief")
    asked = [*levels, "d", " d", "c ", "other"]
    pq.write_table(pa.table({"a": asked}), tmp_path / "asked.parquet")
    assert run_command(tmp_path, "predict", "input=asked.parquet", "output=p.csv").code == 0
    expected = np.loadtxt(tmp_path / "p.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    assert len({*expected[:4, 0]}) == 4
    for kind in ("onnx", "sklearn", "sklearn_only"):
        answer = run_command(tmp_path, "export", f"format={kind}", f"output={tmp_path / kind}{FORMATS[kind].suffix}")
        assert answer.code == 0, answer.err
    for kind in ("sklearn", "sklearn_only"):
        estimator = joblib.load(tmp_path / f"{kind}.joblib")
        with catch_warnings(action="ignore"):  # an array has no names of columns, and says so
            given = estimator.predict_proba(np.array(asked, dtype=object)[:, None])
        np.testing.assert_allclose(given, expected, atol=1e-9)
