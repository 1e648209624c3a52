"""Imports Lightning and torchvision without what a linear model never uses, which takes most of the time.

Lightning imports torchmetrics for two class names, and torchmetrics imports all of its metrics,
image and audio ones too, with torchvision's models, SciPy's signal processing and matplotlib.  It
imports them only if lightning_utilities finds those packages installed.  Here it does not find them,
for the duration of that one import.  The metrics of classification work as usual; those of images and
audio, those that need SciPy, and plots do not.  The packages themselves can be imported as usual.

Lightning also imports torch's compiler, for a class to compare with and for functions that it must not
compile, and so do torch's optimizers; and it imports Triton, for a class whose operations it counts.
Nothing is compiled here, so small stand-ins replace both until Lightning is imported; a later import
gets the real ones.

torchvision imports the compiler for one function, which asks whether the compiler works here, and for one that it must
not compile.

Where a release of Lightning or torchvision does not come with less, it is imported whole.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

COMPILER, TRITON = "torch._dynamo", "triton"

UNUSED = frozenset({"torchvision", "scipy", "matplotlib"})
"""Packages that torchmetrics does not find."""


@contextmanager
def without_collector() -> Iterator[None]:
    """Turns the garbage collector off for the imports inside, and has it leave alone what they made.

    The modules of torch are a million objects that stay.  The collector would go through all of them many times, which
    takes a good part of the time of the import.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_lightning() -> None:
    """Imports ``lightning.pytorch``; does nothing where it is imported already.

    Nothing stays changed but ``sys.modules``, and that torch's optimizers are no longer excluded from compilation.
    """
    import torch  # noqa: F401  # first: a torch that cannot be imported says why, and only once

    before = {*sys.modules}
    try:
        _import_less()
    except Exception:  # of a release that has other parts
        for name in {*sys.modules} - before:
            if name.partition(".")[0] in ("lightning", "torchmetrics"):
                del sys.modules[name]
    import lightning.pytorch  # noqa: F401  # for its effect: later imports find it


def import_torchvision() -> Any:
    """Imports ``torchvision``, and returns it.

    Nothing stays changed but ``sys.modules``, and that ``torchvision.tv_tensors.wrap`` may be compiled.
    """
    try:
        with without_compiler():
            import torchvision
    except Exception:  # of a release that has other parts; Python has removed those whose import failed
        import torchvision
    return torchvision


def _import_less() -> None:
    """Imports ``lightning.pytorch`` without what a linear model never uses; raises anything where that is needed."""
    if "torchmetrics" not in sys.modules:
        from lightning_utilities.core import imports

        requirement_met, package_available = imports.RequirementCache.__bool__, imports.package_available

        def requirement_met_and_used(self: imports.RequirementCache) -> bool:
            name = re.match(r"[\w-]*", self.requirement or self.module or "")
            return (name is None or name.group() not in UNUSED) and requirement_met(self)

        imports.RequirementCache.__bool__ = requirement_met_and_used  # type: ignore[method-assign]  # for this import
        imports.package_available = lambda name: name not in UNUSED and package_available(name)  # type: ignore[assignment]  # it is cached
        try:
            with without_compiler():
                import torchmetrics  # noqa: F401  # for the side effect, which is the point
        finally:
            imports.RequirementCache.__bool__ = requirement_met  # type: ignore[method-assign]  # as it was
            imports.package_available = package_available
    with without_compiler() as is_away, without_triton():
        import lightning.pytorch  # noqa: F401  # for its effect: later imports find it

        if is_away:
            _keep_away()


@contextmanager
def without_compiler() -> Iterator[bool]:
    """Replaces torch's compiler by an empty module; yields False where the compiler is imported already."""
    if COMPILER in sys.modules:
        yield False
        return
    import torch  # noqa: F401  # torch itself must not see the empty module

    with _replaced(_compiler()):
        yield True


@contextmanager
def without_triton() -> Iterator[None]:
    """Replaces Triton by empty modules, where it is installed and not imported yet."""
    if TRITON in sys.modules or find_spec(TRITON) is None:
        yield
        return
    names = [TRITON, f"{TRITON}.runtime", f"{TRITON}.runtime.jit"]
    stand_ins: dict[str, Any] = {name: _empty(name) for name in names}
    stand_ins[names[-1]].JITFunction = type("JITFunction", (), {})  # of which there are none
    with _replaced(stand_ins):
        yield


@contextmanager
def _replaced(stand_ins: dict[str, Any]) -> Iterator[None]:
    """Puts modules in the place of others that are not imported yet, and removes them again."""
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _keep_away() -> None:
    """Makes an optimizer's first calls, which would import the compiler in order to be excluded from it."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)])
    optimizer.load_state_dict(optimizer.state_dict())


def _compiler() -> dict[str, Any]:
    """By name, what stands in for the compiler: the package, and its module of tools."""

    def disable(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:
        return (lambda decorated: decorated) if function is None else function

    def is_compile_supported(device: Any) -> Any:
        from torch._dynamo.utils import is_compile_supported  # the compiler's own, for who calls this later

        return is_compile_supported(device)

    compiler, tools = _empty(COMPILER), _empty(f"{COMPILER}.utils")
    compiler.OptimizedModule = type("OptimizedModule", (), {})  # of which there are none
    compiler.disable = disable
    tools.is_compile_supported = is_compile_supported
    return {COMPILER: compiler, tools.__name__: tools}


def _empty(name: str) -> Any:
    """A package without content."""
    package = ModuleType(name)
    package.__path__ = []
    return package
