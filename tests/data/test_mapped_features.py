"""Matrices in many files, in memory and mapped: the rows are those of one file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_mapped import assert_same_rows

from logreg.data import TensorDataModule
from logreg.data.sources import features as source
from whole_runs import Answer, data_of

RunCommand = Callable[..., Answer]

BOUNDS = [0, 30, 100, 240]


def arrays(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(BOUNDS[-1], 3, generator=draw, dtype=torch.float64)
    labels = (features[:, 0] + torch.randn(BOUNDS[-1], generator=draw) > 0).long()
    weights = torch.randint(0, 4, (BOUNDS[-1],), generator=draw).float()
    groups = torch.arange(BOUNDS[-1]) // 4
    return {"features": (features + 100).to(dtype), "labels": labels, "weight": weights, "group": groups}


def write(folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """``one.safetensors``, and the same rows in ``many``."""
    (folder / "many").mkdir()
    save_file(whole := arrays(dtype), folder / "one.safetensors")
    for number, (first, end) in enumerate(itertools.pairwise(BOUNDS)):
        part = {name: values[first:end].clone() for name, values in whole.items()}
        save_file(part, folder / "many" / f"{number}.safetensors")


def matrix(path: object, *typed: str) -> TensorDataModule:
    data = data_of("features", f"dataset.path={path}", *typed)
    data.setup()
    return data


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("storage", ["memory", "mapped"])
def test_many_files_are_the_rows_of_one(tmp_path: Path, storage: str, dtype: torch.dtype) -> None:
    write(tmp_path, dtype)
    roles = ["dataset.weight=weight", "dataset.split.group=group"]
    typed = [*roles, f"dataset.storage={storage}", f"dataset.cache={tmp_path / 'cache'}"]
    one = matrix(tmp_path / "one.safetensors", *roles)
    many = matrix(tmp_path / "many", *typed)
    assert_same_rows(many, one)
    assert many.row_source("train").may_be_held == (storage == "memory")
    ours, reference = (next(data.row_source("train").blocks()) for data in (many, one))
    assert torch.equal(ours.features, reference.features)


def test_a_folder_of_features_and_one_of_labels_are_read_in_pairs(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    for number, (first, end) in enumerate(itertools.pairwise(BOUNDS)):
        np.save(tmp_path / "x" / f"{number}.npy", arrays()["features"][first:end].numpy())
        np.save(tmp_path / "y" / f"{number}.npy", arrays()["labels"][first:end].numpy())
    pair = f"[{tmp_path / 'x'},{tmp_path / 'y'}]"
    typed = ["dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}"]
    assert_same_rows(matrix(pair, *typed), matrix(tmp_path / "one.safetensors"))
    (tmp_path / "y" / "2.npy").unlink()
    with pytest.raises(ValueError, match=r"a file of labels for each of features, got 3 files in .*/x and 2 in"):
        matrix(pair)


def test_one_mapped_file_is_not_copied(tmp_path: Path) -> None:
    write(tmp_path, torch.float64)
    data = matrix(tmp_path / "one.safetensors", "dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}")
    assert not data.row_source("train").may_be_held
    assert data._blocks("train").features is data.tables["train"].matrix
    assert not (tmp_path / "cache").exists()
    held = matrix(tmp_path / "one.safetensors")
    ours, reference = (next(one.row_source("train").blocks()).features for one in (data, held))
    assert torch.equal(ours, reference)


def test_the_second_start_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    typed = ["dataset.storage=mapped", f"dataset.cache={tmp_path / 'cache'}"]
    first = matrix(tmp_path / "many", *typed)
    monkeypatch.setattr(source, "open_arrays", lambda *_: pytest.fail("read again"))
    assert_same_rows(matrix(tmp_path / "many", *typed), first)


def refusal(run_command: RunCommand, here: Path, *typed: str) -> str:
    answer = run_command(here, "train", "dataset=features", "dataset.path=many", *typed)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert not (here / "data").exists()
    assert not (here / "runs").exists()
    return answer.err


@pytest.mark.parametrize("storage", ["memory", "mapped"])
def test_files_that_do_not_fit(tmp_path: Path, run_command: RunCommand, storage: str) -> None:
    write(tmp_path)
    part = arrays()
    for message, change in {
        "number of features in all files, and 1.safetensors has 2, 0.safetensors 3": {
            "features": part["features"][:, 1:]
        },
        "type of features in all files, and 1.safetensors has torch.float16": {"features": part["features"].half()},
        "type of labels in all files, and 1.safetensors has float": {"labels": part["labels"].float()},
    }.items():
        save_file({name: values.clone() for name, values in (part | change).items()}, tmp_path / "many/1.safetensors")
        assert message in refusal(run_command, tmp_path, f"dataset.storage={storage}")


@pytest.mark.parametrize("storage", ["memory", "mapped"])
def test_a_file_that_is_cut_off_or_changes(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    write(tmp_path)
    part = tmp_path / "many" / "1.safetensors"
    content, true = part.read_bytes(), source._joined
    part.write_bytes(content[:300])
    assert "many/1.safetensors" in refusal(run_command, tmp_path, f"dataset.storage={storage}")
    part.write_bytes(content)

    def joined(*arguments: Any) -> Any:
        os.utime(part, ns=(1, 1))
        return true(*arguments)

    monkeypatch.setattr(source, "_joined", joined)
    message = refusal(run_command, tmp_path, f"dataset.storage={storage}")
    assert "must not change while it is read, and many/1.safetensors did" in message


def test_a_folder_without_matrices(tmp_path: Path, run_command: RunCommand) -> None:
    (tmp_path / "many").mkdir()
    assert "and the folder many has none. Name another folder, or a file." in refusal(run_command, tmp_path)


def test_only_some_formats_are_mapped(tmp_path: Path, run_command: RunCommand) -> None:
    np.savez(tmp_path / "a.npz", features=arrays()["features"].numpy(), labels=arrays()["labels"].numpy())
    message = refusal(run_command, tmp_path, "dataset.path=a.npz", "dataset.storage=mapped")
    assert "must end in one of .npy, .safetensors with dataset.storage=mapped, got 'a.npz'" in message
