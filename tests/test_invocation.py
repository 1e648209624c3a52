"""Commands are named as the user started this one."""

from __future__ import annotations

import sys

import pytest

from logreg import invocation
from logreg.invocation import as_started, command_words

STARTS = {
    "scripts/predict.py": ["python", "scripts/train.py"],
    "/elsewhere/checkout/scripts/train.py": ["python", "scripts/train.py"],
    "/elsewhere/bin/logreg": ["logreg", "train"],
    "/elsewhere/site-packages/logreg/__main__.py": ["python", "-m", "logreg", "train"],
    "": ["python", "scripts/train.py"],  # the prompt of Python
}


@pytest.mark.parametrize("started", STARTS)
def test_a_command_is_named_as_this_one_was_started(started: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert command_words("train") == STARTS[started]


def test_without_a_checkout_there_are_no_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    monkeypatch.setattr(invocation, "_IN_CHECKOUT", False)
    assert command_words("train") == ["logreg", "train"]


@pytest.mark.parametrize(
    ("started", "text"),
    [
        ("scripts/train.py", "type python scripts/train.py lr=1, as scripts/train.py has it"),
        ("bin/logreg", "type logreg train lr=1, as logreg train has it"),
        ("logreg/__main__.py", "type python -m logreg train lr=1, as python -m logreg train has it"),
    ],
)
def test_texts_of_ours_name_commands_so(started: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert as_started("type python scripts/train.py lr=1, as scripts/train.py has it") == text
