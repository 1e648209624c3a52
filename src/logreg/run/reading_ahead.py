"""Begins to read a table while torch is imported.  Nothing here imports torch."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from logreg.config import RunConfig
from logreg.errors import LogregError
from logreg.launchers import placement
from logreg.sections import DATASET_SETTINGS, IMAGE_SETTINGS

SPLIT_BY = {"column": "split_column", "group": "group"}
"""Keys of ``dataset.split`` that name a column, and the dataset's argument for each."""


def dataset_arguments(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any], dict[Any, Any]]:
    """The settings of a dataset: the arguments of its source, those of any dataset, and the fractions of the splits."""
    own = dict(config.dataset)
    del own["name"]
    split = dict(own.pop("split", {}))
    own.pop("recipe", None)  # the command line has filled in the settings from it
    generic = {key: own.pop(key) for key in (*DATASET_SETTINGS, *IMAGE_SETTINGS) if key in own}
    # A column that splits rows is an argument of the source; fractions are one of the DataModule.
    own |= {argument: split.pop(key) for key, argument in SPLIT_BY.items() if key in split}
    return own, generic, split


def read_ahead(config: RunConfig) -> None:
    """Has a thread read the table of a run, where torch is not imported yet: that occupies a core for seconds.

    What is wrong with the table, or the settings, is said by the run, in its order.
    """
    if config.dataset["name"] != "table" or "torch" in sys.modules or placement() is not None:
        return
    from logreg.data.sources.table_reading import TableReading

    with suppress(LogregError, TypeError, OSError):
        TableReading(**dataset_arguments(config)[0]).begin()
