"""Rows that are ready to be served: the result of the setup of a DataModule, and its form in the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from logreg.csr import arrays_of, csr
from logreg.data.base import RawData, Table
from logreg.data.blocks import BlockDataset
from logreg.data.formats.cache import ArrayFiles, referenced
from logreg.data.leaks import Leaks
from logreg.data.preparation_steps import moments_of, moments_of_columns
from logreg.facts import DataFacts, Split
from logreg.stored_form import StoredForm

PREPARED_VERSION = 2
"""Version of prepared rows in the cache: raise it when rows are read, split, encoded or measured in another way."""


@dataclass
class Prepared:
    """Result of ``setup``, kept so that a second call changes nothing."""

    raw: RawData
    """The content of the source, without its tables."""
    tables: dict[Split, Table]
    """The encoded rows of each split."""
    facts: DataFacts
    """The facts of the rows."""
    notes: tuple[str, ...]
    """What a user is told of the rows, a sentence each."""
    to_store: StoredForm | None = None
    """Takes the features of the tables to the stored form of the blocks; ``None`` where they have that form."""
    leaks: Leaks = field(default_factory=Leaks)
    notes_for_model: tuple[str, ...] = ()
    """The notes without those on what was learned of the rows, for a model that has learned it already."""
    datasets: dict[Split, BlockDataset] = field(default_factory=dict)
    """The splits as they are served; made when they are first needed."""
    converted: BlockDataset | None = None
    """The train rows, converted and put in order, for an exact optimizer, which reads them many times."""
    is_mapped: bool = False
    """Whether the features lie in files, because they do not fit into memory."""

    def content(self, files: ArrayFiles) -> dict[str, Any]:
        """Plain values and tensors from which `of_content` makes the same again; large arrays are in ``files``."""
        raw = {one.name: getattr(self.raw, one.name) for one in dataclasses.fields(self.raw) if one.name != "tables"}
        tables = {
            split: {
                "features": [files.reference(part) for part in arrays_of(table.matrix)],
                "width": table.matrix.shape[1],
                **{name: getattr(table, name) for name in ("labels", "index", "sample_weight", "groups")},
            }
            for split, table in self.tables.items()
        }
        stored = None if self.to_store is None else tuple(self.to_store)
        leaks = {"target": self.leaks.target, "duplicates": dict(self.leaks.duplicates), "advice": self.leaks.advice}
        facts = self.facts.as_dict()
        notes = {"notes": self.notes, "notes_for_model": self.notes_for_model}
        return {"raw": raw, "tables": tables, "facts": facts, "stored": stored, "leaks": leaks, **notes}

    @classmethod
    def of_content(cls, path: Path, content: Mapping[str, Any]) -> Prepared:
        """The rows of the entry ``path`` of the cache."""
        tables: dict[Split, Table] = {}
        shared: dict[str, Tensor] = {}  # splits that share their features go on sharing them
        for split, plain in content["tables"].items():
            name = repr([part if isinstance(part, dict) else id(part) for part in plain["features"]])
            if name not in shared:
                parts = [referenced(path, part) for part in plain["features"]]
                shared[name] = parts[0] if len(parts) == 1 else csr(parts[0], parts[1], parts[2], plain["width"])
            others = {key: plain[key] for key in ("labels", "index", "sample_weight", "groups")}
            tables[split] = Table(shared[name], **others)
        return cls(
            RawData(tables={}, **content["raw"]),
            tables,
            DataFacts.from_dict(content["facts"]),
            tuple(content["notes"]),
            None if content["stored"] is None else StoredForm(*content["stored"]),
            Leaks(**content["leaks"]),
            tuple(content["notes_for_model"]),
        )

    def standardized(self) -> Prepared:
        """The same rows, whose facts hold mean and standard deviation of each feature over train."""
        if self.facts.mean:
            return self
        facts, train, columns = self.facts, self.tables["train"], self.facts.columns
        found = moments_of_columns(train, facts.stored, columns) if columns else moments_of(train, self.raw.scale)
        if found is None:
            return self
        mean, std = facts.stored.standardization(found)
        return dataclasses.replace(self, facts=dataclasses.replace(facts, mean=tuple(mean), std=tuple(std)))
