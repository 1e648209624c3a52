"""Runs with changed train images: what is optimized and certified, folds, runs that continue, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import logreg
from logreg import Objective
from logreg.run.cross_validating import make_folds
from whole_runs import Answer, Run, data_of, newest, train

Type = Callable[[str], Answer]
ROWS = ("dataset.limit=300", "precision=64")
EXACT = (*ROWS, "optimizer=newton", "l2=0.01", "tolerance=1e-13")
"""A fit whose coefficients are those of the optimum to many digits."""


def point_of(run: Run) -> Tensor:
    state = run.checkpoint()["state_dict"]
    return torch.cat([state["model.coef"], state["model.intercept"].unsqueeze(1)], dim=1)


def enlarged(*arguments: str) -> tuple[Tensor, Tensor]:
    """The train rows of digits with their copies, in [0, 1], and the labels."""
    data = data_of("digits", *arguments)
    return data.tables["train"].matrix / 16, data.labels("train")


@pytest.mark.long
def test_an_exact_fit_is_the_optimum_over_rows_and_copies(tmp_path: Path) -> None:
    changes = ("dataset.augment={shift: 1, affine: 5}", "dataset.copies=2", "seed=4")
    run = train(tmp_path, "dataset=digits", *EXACT, *changes)
    features, labels = enlarged(*ROWS, *changes)
    assert len(features) == 900
    expected = logreg.fit(features, labels, Objective("cross_entropy", l2=0.01), optimizer="newton", tolerance=1e-13)
    theirs = torch.cat([expected.coef, expected.intercept.unsqueeze(1)], dim=1)
    torch.testing.assert_close(point_of(run), theirs, rtol=0, atol=1e-9)
    optimality = run.summary["optimality"]
    assert optimality["value"] == pytest.approx(expected.bound.value, abs=1e-12)
    assert optimality["converged"]
    assert (optimality["rows"], run.summary["dataset"]["rows"]["train"]) == (900, 900)
    assert run.summary["dataset"]["copies"] == 2
    note = "train counts 300 rows and 2 changed copies of each, 900 in all: shift (pixels 1), affine (degrees 5)"
    assert note in run.summary["dataset"]["notes"]
    assert f"- {note}" in (run.folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        (["optimizer.name=newton"], 1),
        (["optimizer.name=lbfgs"], 1),
        (["optimizer.name=sgd", "lr=1", "polish=true"], 1),
        (["optimizer.name=sgd", "lr=1", "dataset.copies=3"], 3),
        (["optimizer.name=sgd", "lr=1"], 0),
    ],
)
def test_rows_that_must_not_change_get_a_copy_by_default(settings: list[str], copies: int) -> None:
    assert data_of("digits", *settings, "dataset.augment=flip").preparation.copies == copies


@pytest.mark.long
def test_a_run_that_draws_anew_claims_no_optimum(tmp_path: Path) -> None:
    changes = ("dataset=digits", "optimizer=sgd", "max_epochs=4", "l2=0.1")
    run = train(tmp_path, *changes, "dataset.augment=shift")
    plain = train(tmp_path, *changes)
    summary = run.summary
    optimality = summary["optimality"]
    assert optimality["draws_anew"]
    assert not optimality["converged"]
    assert optimality["verdict"].startswith("no certificate: each epoch draws other changes of the train images")
    assert "nats above the optimum at most" in optimality["verdict"]
    assert "draws_anew" not in plain.summary["optimality"]
    # val, test and the majority are those of the rows as they are.
    assert summary["dataset"]["rows"] == plain.summary["dataset"]["rows"]
    assert summary["majority"] == plain.summary["majority"]
    assert run.curve("loss/train") != plain.curve("loss/train")
    fixed = train(tmp_path, *changes, "dataset.augment=shift", "dataset.copies=1").summary["optimality"]
    assert ("draws_anew" in fixed, fixed["rows"]) == (False, 2 * optimality["rows"])
    assert "dataset.augment" not in fixed["verdict"]


@pytest.mark.long
def test_copies_stay_in_the_fold_of_their_row_and_are_not_scored(tmp_path: Path) -> None:
    changes = ("dataset.augment=shift", "dataset.copies=2", "dataset.split.val=0")
    run = train(tmp_path, "dataset=digits", *EXACT, *changes, "cv=3")
    features, labels = enlarged(*ROWS, *changes)
    (fold,) = make_folds(data_of("digits", *ROWS, *changes), 3, 1, seed=0)
    assert fold.shape == (300,)
    losses = []
    for number in range(3):
        kept = (fold != number).repeat(3)
        model = logreg.fit(
            features[kept], labels[kept], Objective("cross_entropy", l2=0.01), num_classes=10, tolerance=1e-13
        )
        held = fold == number
        logits = features[:300][held] @ model.coef.T + model.intercept
        losses.append(torch.nn.functional.cross_entropy(logits, labels[:300][held], reduction="sum"))
    assert run.summary["metrics"]["cv"]["loss"] == pytest.approx(float(sum(losses)) / 300, rel=1e-7)
    assert run.summary["cross_validation"]["rows"] == 300
    assert "| cv | 300 |" in (run.folder / "report.md").read_text()


@pytest.mark.long
def test_a_path_counts_rows_and_not_copies(run_train: Type) -> None:
    answer = run_train("dataset=digits dataset.limit=600 dataset.augment=flip dataset.copies=4 report=brief")
    assert answer.code == 0, answer.err
    assert "5-fold cross-validation over the 600 train rows, the default below 2,000" in answer.err


@pytest.mark.long
def test_a_run_continues_only_with_its_own_changes(run_train: Type) -> None:
    recipe = "dataset=digits optimizer=sgd report=brief"
    assert run_train(f"{recipe} max_epochs=1 dataset.augment=shift").code == 0
    for typed, what in (("dataset.augment=flip", "augmentation"), ("dataset.copies=1", "number of copies")):
        answer = run_train(f"ckpt_path=latest max_epochs=2 {typed}")
        assert answer.code == 2
        assert answer.err.splitlines()[-1].startswith(f"`ckpt_path` must fit the run: the {what}")


@pytest.mark.long
def test_later_commands_take_the_rows_as_they_are(tmp_path: Path, run_command: Callable[..., Answer]) -> None:
    train(tmp_path, "dataset=digits", *EXACT, "dataset.augment=shift", "dataset.copies=2")
    answer = run_command(tmp_path, "evaluate", "json=true")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["rows"]["train"] == 300
    assert found["notes"] == []
    answer = run_command(tmp_path, "certify", "ckpt_path=latest", "json=true")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["rows"], found["optimal"]) == (900, True)
    train(tmp_path, "dataset=digits", "optimizer=sgd", "max_epochs=1", "dataset.augment=shift", "l2=0.1")
    answer = run_command(tmp_path, "certify", "ckpt_path=latest", "json=true")
    found = json.loads(answer.out)
    assert found["rows"] == 1079
    assert any(note.startswith("these are the train rows as they are, without") for note in found["notes"])


NAMES = "`dataset.augment` must be one of shift, flip, crop, affine, got "
FORMS = (
    "`dataset.augment` must be a name, a list of names, or strengths by name, such as [shift,flip] or "
    "{shift: 2, flip: 0.5} or null, got "
)
BRACKETS = "Type strengths in curly brackets: 'dataset.augment={shift: 2, flip: 0.5}'."


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("dataset.augment=shft", f"{NAMES}'shft'. Did you mean shift?"),
        ("dataset.augment=[shift:2]", f"{NAMES}'shift:2'. {BRACKETS}"),
        ("dataset.augment=[{shift:2}]", f"{NAMES}{{'shift': 2}}. {BRACKETS}"),
        ("dataset.augment=[flip,flip]", "`dataset.augment` must name each change once, got ['flip', 'flip']."),
        ("dataset.augment=3", f"{FORMS}3."),
        ("dataset.augment=[]", f"{FORMS}[]."),
        ("'dataset.augment={shift: 0}'", "`dataset.augment.shift` must be a whole number >= 1, got 0."),
        (
            "'dataset.augment={shift: 8}'",
            "`dataset.augment.shift` must be less than 8 pixels, the shorter side of the images, got 8.",
        ),
        ("'dataset.augment={flip: 1.5}'", "`dataset.augment.flip` must be a finite number > 0 and <= 1, got 1.5."),
        ("'dataset.augment={crop: 0}'", "`dataset.augment.crop` must be a finite number > 0 and <= 1, got 0."),
        (
            "'dataset.augment={affine: {scale: 1}}'",
            "`dataset.augment.affine.scale` must be a finite number >= 0 and < 1, got 1.",
        ),
        (
            "'dataset.augment={affine: {degres: 5}}'",
            "`dataset.augment.affine` must be one of degrees, translate, scale, shear, got 'degres'. "
            "Did you mean degrees?",
        ),
        (
            "dataset.copies=2",
            "`dataset.copies` must go with dataset.augment, by which copies differ from their rows. "
            "Set dataset.augment=[shift], or leave copies out.",
        ),
        ("dataset.augment=flip dataset.copies=0", "`dataset.copies` must be a whole number >= 1 or null, got 0."),
    ],
)
def test_a_mistake_is_answered_in_one_line(run_train: Type, typed: str, message: str) -> None:
    answer = run_train(f"dataset=digits {typed}")
    assert (answer.code, answer.out, answer.err) == (2, "", f"{message}\n")
    assert not list(Path("runs").rglob("*.ckpt"))


@pytest.mark.long
def test_a_table_has_no_images(run_train: Type) -> None:
    answer = run_train("dataset=table dataset.augment=[flip]")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(
        "`dataset.augment` must go with dataset=cifar10, cifar100, digits, emnist, fashion_mnist"
    )
    assert run_train("dataset=digits dataset.augment=[flip] dataset.limit=50 report=brief").code == 0
    assert newest(Path()).summary["dataset"]["copies"] == 1
