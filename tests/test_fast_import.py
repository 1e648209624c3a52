from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from logreg import fast_import
from logreg.fast_import import COMPILER, TRITON, without_compiler, without_triton

CHECK = """
import sys
from lightning_utilities.core import imports
before = imports.RequirementCache.__bool__, imports.package_available
from logreg.fast_import import import_lightning, import_torchvision
import_lightning()
there = [name for name in ("torchvision", "scipy", "matplotlib", "torch._dynamo", "triton") if name in sys.modules]
assert not there, there
import_torchvision()
there = [name for name in ("torch._dynamo", "torch._inductor", "triton") if name in sys.modules]
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
assert torchvision.ops.roi_align.__globals__["is_compile_supported"]("cpu")
import_lightning()
import_torchvision()
"""


def test_the_empty_compiler_is_removed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (COMPILER, f"{COMPILER}.utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with without_compiler() as is_away:
        stand_in: Any = sys.modules[COMPILER]
        assert is_away
        assert stand_in.disable(len) is len
        assert stand_in.disable(recursive=False)(len) is len
        assert not isinstance(torch.nn.Linear(1, 1), stand_in.OptimizedModule)
    assert not {COMPILER, f"{COMPILER}.utils"} & {*sys.modules}


def test_a_compiler_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ModuleType(COMPILER)
    monkeypatch.setitem(sys.modules, COMPILER, there)
    with without_compiler() as is_away:
        assert not is_away
        assert sys.modules[COMPILER] is there
    assert sys.modules[COMPILER] is there


def test_triton_is_replaced_only_where_it_would_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == TRITON]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(fast_import, "find_spec", lambda name: None)
    with without_triton():
        assert TRITON not in sys.modules
    monkeypatch.setattr(fast_import, "find_spec", lambda name: ModuleSpec(name, None))
    with without_triton():
        from triton.runtime.jit import JITFunction  # type: ignore[import-not-found, import-untyped, unused-ignore]  # it is not everywhere, and has no types

        assert not isinstance(len, JITFunction)
    assert not [name for name in sys.modules if name.partition(".")[0] == TRITON]


def test_the_collector_is_off_during_imports_alone() -> None:
    code = """
    import gc
    from logreg.fast_import import without_collector
    with without_collector():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 1000
    gc.unfreeze()
    import sys
    sys.modules["torch"] = gc  # a process that has imported it keeps its own objects
    with without_collector():
        assert gc.isenabled()
    assert not gc.get_freeze_count()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_torch_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "parts.py").touch()
    (tmp_path / "torch" / "__init__.py").write_text(
        "import sys\n"
        "if 'torch.parts' in sys.modules:\n"
        "    raise RuntimeError('imported twice')\n"
        "import torch.parts\n"
        "raise OSError('libcudart.so: cannot open shared object file')\n"
    )
    code = "import sys; sys.path.insert(0, '.'); from logreg.fast_import import import_lightning as i; i()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("OSError: libcudart.so: cannot open shared object file\n")


@pytest.mark.parametrize(
    ("needs", "is_whole"),
    [("utils import is_compile_supported", False), ("utils import other", True), ("new import other", True)],
)
def test_a_torchvision_that_needs_more_of_the_compiler_gets_it(tmp_path: Path, needs: str, is_whole: bool) -> None:
    files = {
        "torch/__init__.py": "",
        "torch/_dynamo/__init__.py": "",
        "torch/_dynamo/new.py": "other = 1",
        "torch/_dynamo/utils.py": "other = 1\ndef is_compile_supported(device): return f'asked for {device}'",
        "torchvision/operators.py": "import sys\nassert sys.argv.pop() == 'x'  # registered once in a process",
        "torchvision/__init__.py": f"import torch\nfrom torchvision import operators\nfrom torch._dynamo.{needs}",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    code = f"""
    import sys
    sys.path.insert(0, ".")
    from logreg.fast_import import import_torchvision
    torchvision = import_torchvision()
    assert torchvision is import_torchvision() and torchvision.operators
    assert ("torch._dynamo" in sys.modules) == {is_whole}
    assert {is_whole} or torchvision.is_compile_supported("cpu") == "asked for cpu"
    """
    code = textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code, "x"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("change", ["fast_import._compiler = lambda: {COMPILER: None}", "fast_import.re = None"])
def test_a_release_that_does_not_come_with_less_is_imported_whole(change: str) -> None:
    code = f"""
    import sys
    from logreg import fast_import
    from logreg.fast_import import COMPILER
    {change}
    fast_import.import_lightning()
    import lightning.pytorch, torch
    assert torch._dynamo.__file__
    lightning.pytorch.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_lightning_comes_without_what_a_linear_model_never_uses() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
