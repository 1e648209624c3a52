"""Whole runs on text as a user types them: train, evaluate, certify, predict and export."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_union

from whole_runs import Answer, Run, data_of, newest, train, working_in

RunCommand = Callable[..., Answer]

WORDS = {
    "law": "court attorney judge verdict jury appeal",
    "sea": "ship sailor wave harbor anchor tide",
    "art": "paint canvas color brush museum gallery",
}
"""Words of each topic."""

L2 = 1e-2

LETTERS = ("dataset=text", "dataset.path=letters.csv", f"l2={L2}")

MODEL = "ckpt_path=model"


def texts(rows: int = 90) -> list[tuple[str, str]]:
    """Texts with three words of their topic and some of all topics, and the topic."""
    draw = np.random.default_rng(0)
    common = [f"{kind}word" for kind in "abcdefghijkl"]
    topics = [list(WORDS)[row % len(WORDS)] for row in range(rows)]
    return [
        (" ".join([*draw.choice(WORDS[topic].split(), 3), *draw.choice(common, 4)]).capitalize() + ".", topic)
        for topic in topics
    ]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, and the folder ``model`` of a run on it."""
    folder = tmp_path_factory.mktemp("text")
    with (folder / "letters.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "topic"), *texts()])
    run = train(folder, *LETTERS, "dataset.char_ngrams=[2,3]", "precision=64", "tolerance=1e-12")
    run.folder.rename(folder / "model")
    return folder


def rows_of(out: str) -> dict[str, list[Any]]:
    frame = pd.read_csv(io.StringIO(out))
    return {str(name): list(frame[name]) for name in frame}


def test_the_coefficients_are_those_of_scikit_learn(here: Path) -> None:
    with working_in(here):  # the rows of train
        numbers = data_of("text", "dataset.path=letters.csv").source_row_numbers("train").tolist()
    documents, topics = zip(*(texts()[row] for row in numbers), strict=True)
    words = TfidfVectorizer(sublinear_tf=True)
    pieces = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 3))
    features = make_union(words, pieces).fit_transform(documents)
    theirs = LogisticRegression(C=1 / (len(documents) * L2), tol=1e-10, max_iter=10_000).fit(features, topics)
    names = [f"text:{token}" for token in words.get_feature_names_out()]
    names += [f"text:'{token}'" for token in pieces.get_feature_names_out()]
    run = Run(here / "model")
    ours = pd.read_csv(run.folder / "coefficients.csv", index_col=0)
    assert sorted(ours.index.drop("intercept")) == sorted(names)
    assert np.abs(ours.loc[names, list(theirs.classes_)].to_numpy().T - theirs.coef_).max() < 1e-5
    assert run.summary["optimality"]["converged"]


def test_the_most_telling_words_are_shown(here: Path, run_command: RunCommand) -> None:
    answer = run_command(here, "train", *LETTERS, "report=brief")
    run = newest(here)
    for topic, words in WORDS.items():
        shown = run.summary["tokens"][topic][:3]
        assert set(shown) <= set(words.split())
        assert f"largest for {topic}: {', '.join(shown)}" in answer.out
        assert f"| {topic} | {', '.join(shown)}" in (run.folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.long
def test_a_coefficient_of_text_is_per_unit_and_one_of_a_number_per_deviation(tmp_path: Path) -> None:
    rows = [(text, len(text) + 20 * (topic == "sea"), topic) for text, topic in texts() if topic != "art"]
    with (tmp_path / "letters.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "length", "topic"), *rows])
    typed = ("dataset.path=letters.csv", "dataset.target=topic", "dataset.text=[text]")
    run = train(tmp_path, "dataset=table", *typed, "l2=1e-2")
    with working_in(tmp_path):
        numbers = data_of("table", *typed).source_row_numbers("train").tolist()
    largest = {one["feature"]: one for one in run.summary["largest_coefficients"]}
    number, word = largest.pop("length"), next(iter(largest.values()))
    deviation = np.std([rows[row][1] for row in numbers])
    assert number["coef_per_std"] == pytest.approx(number["coef"] * deviation, rel=1e-5)
    assert all(one["coef_per_std"] is None for one in largest.values())
    report = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "## Largest coefficients per standard deviation, or per unit where not standardized" in report
    assert f"| {word['feature']} | sea | {word['coef']:.4g} |  |" in report


def test_two_classes_have_the_words_of_both(here: Path) -> None:
    run = train(here, *LETTERS, "dataset.classes=[law,sea]")
    for topic in ("law", "sea"):
        assert set(run.summary["tokens"][topic][:3]) <= set(WORDS[topic].split())


@pytest.mark.long
@pytest.mark.parametrize("typed", ["loss=bce l2=1e-3", "l2=auto", "l2=[1e-2,1e-3]", "dataset.text=[text] l2=1e-3"])
def test_every_penalty_and_loss_ends_certified(here: Path, typed: str) -> None:
    run = train(here, "dataset=text", "dataset.path=letters.csv", *typed.split())
    assert run.summary["optimality"]["converged"]
    assert run.summary["evaluation"]["metrics"]["accuracy"]["value"] > 0.9


def test_evaluate_and_certify_the_run(here: Path, run_command: RunCommand) -> None:
    run = Run(here / "model")
    evaluated = run_command(here, "evaluate", MODEL)
    assert evaluated.code == 0, evaluated.err
    assert f"{run.summary['metrics']['test']['loss']:.4f}" in evaluated.out
    others = run_command(here, "evaluate", MODEL, "dataset.path=letters.csv")
    assert "90" in others.out
    certified = run_command(here, "certify", MODEL)
    assert certified.code == 0, certified.err
    assert "optimal to" in certified.out


def test_predictions_of_a_table_of_standard_input_and_of_a_folder_are_the_same(
    here: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (here / "new.csv").write_text('other,text\n1,"The court, the JUDGE"\n2,a ship at sea\n', encoding="utf-8")
    (here / "new").mkdir(exist_ok=True)
    (here / "new" / "1.txt").write_text("The court, the JUDGE", encoding="utf-8")
    (here / "new" / "2.txt").write_text("a ship at sea", encoding="utf-8")
    of_table = run_command(here, "predict", MODEL, "input=new.csv", "output=-", "keep=[other]")
    of_folder = run_command(here, "predict", MODEL, "input=new", "output=-")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((here / "new.csv").read_bytes())))
    of_input = run_command(here, "predict", MODEL, "input=-", "output=-", "keep=[other]")
    one = run_command(here, "predict", MODEL, "text=a ship at sea")
    assert rows_of(of_table.out) == rows_of(of_input.out)
    assert rows_of(of_folder.out)["file"] == ["1.txt", "2.txt"]
    assert rows_of(of_folder.out)["law"] == rows_of(of_table.out)["law"]
    assert rows_of(of_table.out)["predicted"] == ["law", "sea"]
    assert one.out.startswith("sea\n")


def test_a_txt_file_is_one_text_unless_its_header_names_the_column(here: Path, run_command: RunCommand) -> None:
    (here / "letter.txt").write_text("a ship at sea,\nthe text of a sailor\n", encoding="utf-8")
    (here / "table.txt").write_text("other\ttext\n1\ta ship at sea\n2\tThe court\n", encoding="utf-8")
    answer = run_command(here, "predict", MODEL, "input=letter.txt", "output=-")
    assert answer.code == 0, answer.err
    one = rows_of(answer.out)
    assert (one["file"], one["predicted"]) == (["letter.txt"], ["sea"])
    assert rows_of(run_command(here, "predict", MODEL, "input=table.txt", "output=-").out)["predicted"] == [
        "sea",
        "law",
    ]


def test_the_intercept_decides_on_text_without_a_known_word(here: Path, run_command: RunCommand) -> None:
    run = Run(here / "model")
    (here / "unknown.csv").write_text('text\n""\nzzz qqq\njudge\n', encoding="utf-8")
    answer = run_command(here, "predict", MODEL, "input=unknown.csv", "output=-")
    assert "2 rows without an n-gram of text that the model has: all its features are 0" in answer.err
    intercept = run.checkpoint()["state_dict"]["model.intercept"].double()
    rows = rows_of(answer.out)
    for place, topic in enumerate(sorted(WORDS)):
        expected = float(intercept.softmax(0)[place])
        assert rows[topic][:2] == pytest.approx([expected, expected])
    single = run_command(here, "predict", MODEL, "text=zzz")
    assert single.code == 0, single.err


@pytest.mark.parametrize("name", ["sklearn", "sklearn_only", "json", "safetensors", "torch_export"])
def test_a_model_of_text_is_exported(here: Path, run_command: RunCommand, name: str) -> None:
    answer = run_command(here, "export", MODEL, f"format={name}", "overwrite=true")
    assert answer.code == 0, answer.err
    assert "agrees to" in answer.out
    card = (here / "model" / "export" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "## Largest coefficients of text" in card


def test_scikit_learn_alone_predicts_from_a_data_frame(here: Path, run_command: RunCommand) -> None:
    run_command(here, "export", MODEL, "format=sklearn_only", "output=model.joblib", "overwrite=true")
    run_command(here, "export", MODEL, "format=sklearn", "output=ours.joblib", "overwrite=true")
    (here / "gaps.csv").write_text('text\n"The court, the JUDGE"\nNA\nNone of the ships\n', encoding="utf-8")
    expected = rows_of(run_command(here, "predict", MODEL, "input=gaps.csv", "output=-").out)
    frame = pd.DataFrame({"text": ["The court, the JUDGE", None, "None of the ships"]})
    for file, needs_logreg in (("model.joblib", False), ("ours.joblib", True)):
        assert (b"logreg" in (here / file).read_bytes()) is needs_logreg  # a pickle names the modules of its objects
        found = joblib.load(here / file).predict_proba(frame)
        for place, topic in enumerate(sorted(WORDS)):
            assert found[:, place] == pytest.approx(expected[topic], abs=1e-6)


def test_onnx_has_no_operators_for_text(here: Path, run_command: RunCommand) -> None:
    answer = run_command(here, "export", MODEL, "format=onnx")
    assert answer.code == 2
    assert answer.err == (
        "`format=onnx` must have operators for all columns, and ONNX has none that takes n-grams of text as "
        "scikit-learn does. Use format=sklearn, sklearn_only or json.\n"
    )


@pytest.mark.long
def test_text_without_the_setting_is_offered_and_the_line_works(here: Path, run_command: RunCommand) -> None:
    rows = [(f"{text} once upon a time in row {row}", topic) for row, (text, topic) in enumerate(texts(180))]
    with (here / "long.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "topic"), *rows])
    typed = ("dataset=table", "dataset.path=long.csv", "dataset.target=topic", f"l2={L2}")
    answer = run_command(here, "train", *typed)
    assert answer.code == 2
    assert "Add dataset.text=[text] to learn from its words, or dataset.drop=[text]." in answer.err
    assert train(here, *typed, "dataset.text=[text]").summary["dataset"]["features"] > 100


def test_a_word_that_is_a_folder_of_text_is_offered_as_a_dataset(here: Path, run_command: RunCommand) -> None:
    for topic in ("a", "b"):
        (here / "folder" / topic).mkdir(parents=True, exist_ok=True)
        (here / "folder" / topic / "1.txt").write_text("words")
    answer = run_command(here, "train", "dataset=folder")
    assert "For data of your own set dataset=text dataset.path=folder." in answer.err


def test_settings_of_the_vocabulary_belong_to_the_model(here: Path, run_command: RunCommand) -> None:
    answer = run_command(here, "evaluate", MODEL, "dataset.path=letters.csv", "dataset.min_df=2")
    assert answer.code == 2
    assert "`dataset.min_df` must be that of the checkpoint." in answer.err


@pytest.mark.long
def test_a_large_vocabulary_is_learned_and_used_as_sparse_rows(tmp_path: Path, run_command: RunCommand) -> None:
    draw = np.random.default_rng(0)
    words = ["".join(letters) for letters in draw.choice(list("abcdefgh"), (6_000, 8))]
    rows = []
    for row in range(1_200):
        topic = list(WORDS)[row % len(WORDS)]
        rows.append((" ".join([*draw.choice(words, 25), *draw.choice(WORDS[topic].split(), 4)]), topic))
    with (tmp_path / "many.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "topic"), *rows])
    run = train(tmp_path, "dataset=text", "dataset.path=many.csv", "l2=1e-3", "dataset.split.test=0.5")
    assert run.summary["optimality"]["converged"]
    assert run.summary["dataset"]["features"] > 4_500
    scored = run_command(tmp_path, "evaluate")
    assert f"{run.summary['metrics']['test']['accuracy']:.2%}" in scored.out
    predicted = rows_of(run_command(tmp_path, "predict", "input=many.csv", "output=-").out)
    right = np.mean([one == topic for one, (_, topic) in zip(predicted["predicted"], rows, strict=True)])
    assert right > 0.9
    for name in ("sklearn", "sklearn_only"):
        answer = run_command(tmp_path, "export", f"format={name}", "overwrite=true")
        assert "agrees to" in answer.out


def test_the_profile_names_text(here: Path, run_command: RunCommand) -> None:
    answer = run_command(here, "train", *LETTERS, "facts=only")
    assert re.search(r"text +│ text +│ +│ +\d+ │ TF-IDF of n-grams", answer.out)
