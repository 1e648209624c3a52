"""The profile of a dataset: counts, rows that occur in two splits, and the error of data that cannot be trained on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from logreg.data import RawData, Table, TensorDataModule
from logreg.data.profile import Repeated, profile_data
from tables import alternating, write
from whole_runs import data_of


class Given:
    """A dataset of given tensors."""

    name = "given"

    def __init__(self, train: Tensor, test: Tensor) -> None:
        labels = {"train": torch.arange(len(train)) % 2, "test": torch.arange(len(test)) % 2}
        tables = {"train": Table(train, labels["train"]), "test": Table(test, labels["test"])}
        self.raw = RawData(tables, ("no", "yes"))  # type: ignore[arg-type]  # keys are splits

    def read(self) -> RawData:
        return self.raw


def test_rows_that_occur_in_two_splits_are_counted_by_their_features() -> None:
    train = torch.arange(40.0).reshape(20, 2)
    test = torch.cat([train[[3, 7]], torch.full((4, 2), -1.0)])
    found = profile_data(TensorDataModule(Given(train, test), split={"val": 0}))
    assert found.repeated == (Repeated("test", "train", count=2, total=6),)
    assert {split: counts.tolist() for split, counts in found.class_counts.items()} == {
        "train": [10, 10],
        "test": [3, 3],
    }
    assert (found.error, found.columns, found.feature_type) == (None, (), "float32")
    assert found.feature_bytes == train.nbytes + test.nbytes
    assert found.facts is not None


def test_zero_and_minus_zero_are_the_same_row() -> None:
    train = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    found = profile_data(TensorDataModule(Given(train, torch.tensor([[-0.0, 1.0], [9.0, 9.0]])), split={"val": 0}))
    assert [one.count for one in found.repeated] == [1]


def test_data_that_cannot_be_trained_on_have_a_profile_and_the_error(tmp_path: Path) -> None:
    path = write(tmp_path, a=[*range(59), "tall"], y=alternating("no", "yes"))
    found = profile_data(data_of("table", f"dataset.path={path}", "dataset.target=y"))
    assert found.facts is None
    assert "'tall'" in str(found.error)
    assert [one.series.name for one in found.columns] == ["a"]
    assert sum(int(counts.sum()) for counts in found.class_counts.values()) == 60
