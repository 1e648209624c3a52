"""Settings of all commands: declared once, and shown by --help as they are declared."""

from __future__ import annotations

from importlib import import_module

import pytest

from logreg.__main__ import COMMANDS
from logreg.config import SETTINGS
from logreg.constraints import check, number
from logreg.settings import WIDTH, Setting, help_lines

OTHERS = sorted(set(COMMANDS) - {"train"})
"""Commands with keys of their own."""


def own(command: str) -> dict[str, Setting]:
    found: dict[str, Setting] = import_module(f"logreg.commands.{command}").OWN
    return found


def test_a_line_of_help_has_the_name_the_default_and_the_text_in_columns() -> None:
    settings = {"l1": Setting(0.0, number(), "a word " * 20), "lr": Setting("${dataset.recipe.lr}", number(), "step")}
    first, second, third = help_lines(settings).splitlines()
    assert first.startswith("  l1           0.0       a word a word")
    assert second.startswith(" " * 25)
    assert second[25] != " "
    assert third == "  lr           D         step"


@pytest.mark.parametrize("command", OTHERS)
def test_the_help_of_a_command_has_its_keys_as_they_are_declared(command: str) -> None:
    text = " ".join(import_module(f"logreg.commands.{command}").help_text().split())
    for name, setting in own(command).items():
        assert " ".join(f"{name} {setting.default_in_help} {setting.help}".split()) in text


@pytest.mark.parametrize("command", OTHERS)
def test_no_line_of_help_is_too_wide(command: str) -> None:
    assert max(map(len, import_module(f"logreg.commands.{command}").help_text().splitlines())) <= WIDTH


@pytest.mark.parametrize("command", OTHERS)
def test_a_default_satisfies_its_constraint(command: str) -> None:
    for name, setting in own(command).items():
        if setting.default is not None:  # None: the key was not typed
            check(name, setting.default, setting.constraint)


def test_help_texts_are_one_line_of_plain_text() -> None:
    for setting in [*SETTINGS.values(), *(setting for command in OTHERS for setting in own(command).values())]:
        assert setting.help == " ".join(setting.help.split())
