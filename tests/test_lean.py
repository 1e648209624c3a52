from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = """
import sys
from lightning_utilities.core import imports
before = imports.RequirementCache.__bool__, imports.package_available
from logreg.lean import import_lightning
import_lightning()
there = [name for name in ("torchvision", "scipy", "matplotlib") if name in sys.modules]
assert not there, there
assert before == (imports.RequirementCache.__bool__, imports.package_available)
# What was hidden for that one import is there as ever.
assert imports.RequirementCache("torchvision") and imports.package_available("scipy")
import torch, torchvision, scipy.signal, matplotlib.pyplot
from torchmetrics.classification import BinaryAUROC
assert float(BinaryAUROC()(torch.tensor([0.1, 0.9]), torch.tensor([0, 1]))) == 1
import_lightning()
"""


@pytest.mark.slow
def test_lightning_comes_without_what_a_linear_model_never_uses() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
