"""Imports Lightning without packages that a linear model never uses: half the time to the first epoch.

Lightning imports torchmetrics for two class names, and torchmetrics imports all of its metrics,
image and audio ones too, with torchvision's models, SciPy's signal processing and matplotlib.  It
imports them only if lightning_utilities finds those packages installed.  Here it does not find them,
for the duration of that one import.  The metrics of classification work as usual; those of images and
audio, those that need SciPy, and plots do not.  The packages themselves can be imported as usual.

Lightning also imports torch's compiler, for a class to compare with and for functions that it must not
compile, and so do torch's optimizers.  Nothing is compiled here, so a small stand-in replaces it until
Lightning is imported; a later import of the compiler gets the real one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"

UNUSED = frozenset({"torchvision", "scipy", "matplotlib"})
"""Packages that torchmetrics does not find."""


def import_lightning() -> None:
    """Imports ``lightning.pytorch``; does nothing where it is imported already.

    Nothing stays changed but ``sys.modules``, and that torch's optimizers are no longer excluded from compilation.
    """
    if "torchmetrics" not in sys.modules:
        from lightning_utilities.core import imports

        requirement_met, package_available = imports.RequirementCache.__bool__, imports.package_available

        def requirement_met_and_used(self: imports.RequirementCache) -> bool:
            name = re.match(r"[\w-]*", self.requirement or self.module or "")
            return (name is None or name.group() not in UNUSED) and requirement_met(self)

        imports.RequirementCache.__bool__ = requirement_met_and_used  # type: ignore[method-assign]
        imports.package_available = lambda name: name not in UNUSED and package_available(name)  # type: ignore[assignment]
        try:
            with without_compiler():
                import torchmetrics  # noqa: F401  # for the side effect, which is the point
        finally:
            imports.RequirementCache.__bool__ = requirement_met  # type: ignore[method-assign]
            imports.package_available = package_available
    with without_compiler() as is_away:
        import lightning.pytorch  # noqa: F401

        if is_away:
            _keep_away()


@contextmanager
def without_compiler() -> Iterator[bool]:
    """Replaces torch's compiler by an empty module; yields False where the compiler is imported already."""
    if COMPILER in sys.modules:
        yield False
        return
    import torch  # noqa: F401  # torch itself must not see the empty module

    sys.modules[COMPILER] = _empty_compiler()
    try:
        yield True
    finally:
        del sys.modules[COMPILER]


def _keep_away() -> None:
    """Makes an optimizer's first calls, which would import the compiler in order to be excluded from it."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)])
    optimizer.load_state_dict(optimizer.state_dict())


def _empty_compiler() -> ModuleType:
    def disable(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:
        return (lambda decorated: decorated) if function is None else function

    compiler: Any = ModuleType(COMPILER)
    compiler.__path__ = []
    compiler.OptimizedModule = type("OptimizedModule", (), {})  # of which there are none
    compiler.disable = disable
    module: ModuleType = compiler
    return module
