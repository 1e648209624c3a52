"""Imports matplotlib without the help texts of its classes, which take a third of its import.

matplotlib writes, for each class of things that are drawn, a list of all properties into the help texts of methods.
Nobody reads them in a command.  Properties are set as ever.
"""

from __future__ import annotations

import sys
from typing import Any

SIGNATURES = "_update_set_signature_and_docstring"
"""The class method by which a class of matplotlib lists its properties."""


def import_matplotlib() -> None:
    """Imports ``matplotlib.figure``; does nothing where matplotlib is imported already.

    A release that writes its help texts in another way is imported with them.
    """
    if "matplotlib.artist" in sys.modules:
        return
    from matplotlib import artist

    module: Any = artist
    before = getattr(module, "kwdoc", None), vars(artist.Artist).get(SIGNATURES)
    if None in before:
        return
    module.kwdoc = lambda of: ""
    setattr(artist.Artist, SIGNATURES, classmethod(lambda cls: None))
    try:
        import matplotlib.figure  # noqa: F401  # for its effect: later imports find it
    finally:
        module.kwdoc = before[0]
        setattr(artist.Artist, SIGNATURES, before[1])
