"""Imports Lightning without what a linear model never uses: half the time to the first epoch.

Lightning imports torchmetrics for two class names, and torchmetrics imports all of its metrics,
image and audio ones too, with torchvision's models, SciPy's signal processing and matplotlib.  It
imports them only if lightning_utilities finds those packages installed; here it is told that they
are not, for as long as that one import takes.  The metrics of classification work as ever; those of
images and audio, what needs SciPy, and plots do not.  The packages themselves can be imported as ever.
"""

from __future__ import annotations

import re
import sys

UNUSED = frozenset({"torchvision", "scipy", "matplotlib"})
"""What torchmetrics need not find."""


def import_lightning() -> None:
    """Imports ``lightning.pytorch``; without the detour if it is imported already.

    Leaves nothing changed but ``sys.modules``.
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
            import torchmetrics  # noqa: F401  # for the side effect, which is the point
        finally:
            imports.RequirementCache.__bool__ = requirement_met  # type: ignore[method-assign]
            imports.package_available = package_available
    import lightning.pytorch  # noqa: F401
