from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from logreg.training.fast_import import COMPILER, without_compiler

CHECK = """
import sys
from lightning_utilities.core import imports
before = imports.RequirementCache.__bool__, imports.package_available
from logreg.training.fast_import import import_lightning
import_lightning()
there = [name for name in ("torchvision", "scipy", "matplotlib", "torch._dynamo") if name in sys.modules]
assert not there, there
assert before == (imports.RequirementCache.__bool__, imports.package_available)
# What was hidden for that one import is there as ever.
assert imports.RequirementCache("torchvision") and imports.package_available("scipy")
import torch, torchvision, scipy.signal, matplotlib.pyplot
from torchmetrics.classification import BinaryAUROC
assert float(BinaryAUROC()(torch.tensor([0.1, 0.9]), torch.tensor([0, 1]))) == 1
twice = torch.compile(lambda x: 2 * x, backend="eager")
assert float(twice(torch.tensor(3.0))) == 6
assert torch._dynamo.__file__
import_lightning()
"""


def test_the_empty_compiler_is_removed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, COMPILER, raising=False)
    with without_compiler() as is_away:
        stand_in: Any = sys.modules[COMPILER]
        assert is_away
        assert stand_in.disable(len) is len
        assert stand_in.disable(recursive=False)(len) is len
        assert not isinstance(torch.nn.Linear(1, 1), stand_in.OptimizedModule)
    assert COMPILER not in sys.modules


def test_a_compiler_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ModuleType(COMPILER)
    monkeypatch.setitem(sys.modules, COMPILER, there)
    with without_compiler() as is_away:
        assert not is_away
        assert sys.modules[COMPILER] is there
    assert sys.modules[COMPILER] is there


@pytest.mark.slow
def test_lightning_comes_without_what_a_linear_model_never_uses() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
