"""The names of the splits.  Imports the standard library only: files and columns are found without torch."""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""The splits in their usual order; a dataset may lack val, test or both."""
