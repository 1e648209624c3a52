from __future__ import annotations

import hashlib
import math
import re
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from torch import Tensor

from fake_mnist import write_fake_mnist
from logreg.csr import checked_sparse
from logreg.data import DATASETS, Dataset, RawData, Table, TensorDataModule, build_dataset
from logreg.data.blocks import LOADED_BLOCK_BYTES, BlockDataset, BlockSampler, FeatureReader, block_loader
from logreg.data.sources.blobs import Blobs
from logreg.data.sources.table import TableFile
from logreg.data.splits import stratified_split
from logreg.errors import ConfigError, DataError, DatasetNotFoundError
from logreg.facts import Batch
from logreg.processes import share
from logreg.stored_form import StoredForm
from process_groups import Simulated


class Given:
    """A dataset of given tensors."""

    name = "given"

    def __init__(self, features: Tensor, labels: Tensor, classes: int = 2) -> None:
        self.raw = RawData({"train": Table(features, labels)}, tuple(str(label) for label in range(classes)))

    def read(self) -> RawData:
        return self.raw


# splits


@pytest.mark.long
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    val=st.floats(0, 0.45),
    test=st.floats(0, 0.45),
    seed=st.integers(0, 5),
)
def test_splits_are_disjoint_complete_and_stratified(counts: list[int], val: float, test: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    rows = stratified_split(labels, {"val": val, "test": test}, seed)
    together = torch.cat(list(rows.values()))
    assert together.sort().values.tolist() == list(range(len(labels)))
    assert ("val" in rows) == (val > 0)
    for label, count in enumerate(counts):
        # Each class keeps a row to learn from, and gets its share to within one row.
        assert int((labels[rows["train"]] == label).sum()) >= 1
        for split, fraction in (("val", val), ("test", test)):
            if split in rows:
                got = int((labels[rows[split]] == label).sum())
                assert abs(got - fraction * count) <= 1 or int((labels[rows["train"]] == label).sum()) == 1


def test_the_split_depends_on_the_seed_alone() -> None:
    labels = torch.arange(100) % 3
    first, again, other = (stratified_split(labels, {"val": 0.3}, seed)["val"].tolist() for seed in (1, 1, 2))
    assert first == again != other


# blocks


def blocks_of(rows: int, batch_size: int, features: int = 3, shuffle: bool = True, epoch: int = 0) -> list[Batch]:
    values = torch.arange(rows, dtype=torch.float32).unsqueeze(1).expand(rows, features).contiguous()
    dataset = BlockDataset(values, torch.arange(rows), None, 1.0, torch.float32)
    loader = block_loader(dataset, batch_size, shuffle, seed=3)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # ours has it
    return list(loader)


@given(rows=st.integers(1, 300), batch_size=st.integers(1, 400), shuffle=st.booleans())
@settings(max_examples=30)
def test_an_epoch_is_each_row_once_with_its_own_label(rows: int, batch_size: int, shuffle: bool) -> None:
    blocks = blocks_of(rows, batch_size, shuffle=shuffle)
    labels = torch.cat([block.labels for block in blocks])
    assert labels.sort().values.tolist() == list(range(rows))
    torch.testing.assert_close(torch.cat([block.features[:, 0] for block in blocks]), labels.float())


def test_all_blocks_but_the_last_hold_whole_batches_within_the_size() -> None:
    wide = LOADED_BLOCK_BYTES // 4 // 100
    blocks = blocks_of(1000, 7, features=wide)
    assert len(blocks) > 2
    for block in blocks[:-1]:
        assert len(block.features) % 7 == 0
        assert block.features.nbytes <= LOADED_BLOCK_BYTES


def test_each_epoch_has_its_own_order_which_the_seed_reproduces() -> None:
    first, again, second = (torch.cat([b.labels for b in blocks_of(50, 5, epoch=e)]).tolist() for e in (1, 1, 2))
    assert first == again != second


def test_each_seed_has_its_own_orders() -> None:
    orders = {tuple(torch.as_tensor(next(iter(BlockSampler(20, 1, 1, True, seed)))).tolist()) for seed in range(50)}
    assert len(orders) == 50


def test_a_full_batch_is_not_shuffled() -> None:
    assert blocks_of(20, 20)[0].labels.tolist() == list(range(20))


def test_fixed_blocks_are_the_rows_in_order_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logreg.data.blocks.LOADED_BLOCK_BYTES", 400)
    data = TensorDataModule(Blobs(rows=300), full_passes_from_epoch=0)
    everything = data.tables["train"].matrix.float().tolist()
    for epoch in (0, 1):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # ours has it
        blocks = [block.features.tolist() for block in loader]
        assert len(blocks) > 2
        assert [row for block in blocks for row in block] == everything


def test_converted_rows_can_be_freed_and_are_made_again() -> None:
    data = TensorDataModule(Blobs(rows=300), split={"val": 0.2}, full_passes_from_epoch=0)
    loader = data.train_dataloader()
    before = torch.cat([block.features for block in loader])
    held = weakref.ref(loader.dataset.features)  # type: ignore[attr-defined]  # ours has them
    data.free_converted()
    assert held() is None
    assert torch.equal(torch.cat([block.features for block in data.train_dataloader()]), before)


# what callers may ask of the rows of a split


def test_rows_by_position_are_those_of_the_blocks_and_of_the_source() -> None:
    features = 1e6 + torch.arange(60, dtype=torch.float64).reshape(30, 2).square()
    labels = torch.arange(30) % 2
    data = TensorDataModule(Given(features, labels), split={"val": 0.3})
    numbers = data.source_row_numbers("val")
    blocks = Batch(*(torch.cat(parts) for parts in list(zip(*data.blocks("val"), strict=True))[:2]))
    rows = data.rows("val", [4, 0])
    assert torch.equal(rows.features, blocks.features[[4, 0]])
    assert torch.equal(rows.labels, labels[numbers[[4, 0]]])
    assert torch.equal(data.labels("val"), labels[numbers])
    assert (data.sample_weight("val"), data.groups("val"), data.source_columns("val", [0])) == (None, None, {})
    torch.testing.assert_close(
        data.facts.stored.inverse_transform(data.feature_reader("val")[:]), features[numbers], rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.uint8])
def test_a_reader_of_features_gives_the_same_numbers_at_once_and_in_parts(dtype: torch.dtype) -> None:
    features = (torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * 200).to(dtype)
    index, form = torch.arange(0, 50, 2), StoredForm(torch.full((3,), 1.7).double(), torch.full((3,), 0.5).double())
    for stored in (None, form) if dtype == torch.float64 else (None,):
        once, in_parts = (FeatureReader(features, index, stored, held) for held in (2**20, 0))
        assert once.shape == in_parts.shape == (25, 3)
        assert torch.equal(once[:], torch.cat([in_parts[:10], in_parts[torch.arange(10, 25)]]))
        assert torch.equal(
            once[:], features[index] if stored is None else stored.transform(features[index], torch.float64)
        )


def test_a_polished_run_reads_shuffled_batches_first_and_fixed_blocks_later() -> None:
    data = TensorDataModule(Blobs(rows=300), batch_size=20, full_passes_from_epoch=2)
    sampler = data.train_dataloader().sampler
    epochs = []
    for epoch in range(4):
        sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # ours has it
        everything = torch.arange(data.facts.rows["train"])
        epochs.append([everything[rows].tolist() for rows in sampler])
    assert epochs[0] != epochs[1] != epochs[2] == epochs[3]
    assert all(sorted(row for block in epoch for row in block) == everything.tolist() for epoch in epochs)


# the DataModule


def test_setting_up_twice_changes_nothing() -> None:
    data = TensorDataModule(Blobs(rows=50), split={"val": 0.2, "test": 0.2}, standardize=True)
    data.setup("fit")
    facts, order = data.facts, [block.labels.tolist() for block in data.train_dataloader()]
    data.setup("test")
    assert data.facts is facts
    assert [block.labels.tolist() for block in data.train_dataloader()] == order


def test_splits_that_a_dataset_lacks_are_absent() -> None:
    data = TensorDataModule(build_dataset("toy", {}))
    assert data.splits == ("train",)
    assert data.facts.rows == {"train": 3}
    assert data.val_dataloader() == data.test_dataloader() == []


def test_moments_are_those_of_all_blocks(monkeypatch: pytest.MonkeyPatch, draw: torch.Generator) -> None:
    monkeypatch.setattr("logreg.data.preparation_steps.CACHED_BLOCK_BYTES", 16 * 7)  # of 7 rows
    features = torch.randn(100, 2, generator=draw, dtype=torch.float64)
    for rows in (features, checked_sparse(csr_array(features.numpy()))):
        data = TensorDataModule(Given(rows, torch.arange(100) % 2), split={"val": 0.3}, standardize=True)
        train = features[data.source_row_numbers("train")]
        assert data.facts.mean == pytest.approx(train.mean(0).tolist())
        assert data.facts.std == pytest.approx(train.std(0, correction=0).tolist())


def test_facts_come_from_the_train_split_alone(draw: torch.Generator) -> None:
    features = torch.randn(40, 3, generator=draw, dtype=torch.float64) * 5 + 2
    features[:, 2] = 0.1 + 0.2  # constant: its deviation must not become a divisor
    data = TensorDataModule(Given(features, torch.arange(40) % 2), split={"val": 0.25, "test": 0.25}, standardize=True)
    train = torch.cat([block.features for block in data.blocks("train")]).double()
    assert len(train) == 20
    torch.testing.assert_close(torch.tensor(data.facts.mean, dtype=torch.float64), train.mean(0), atol=1e-6, rtol=1e-6)
    expected = train.std(0, correction=0)
    expected[2] = 1.0
    torch.testing.assert_close(torch.tensor(data.facts.std, dtype=torch.float64), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("features", "labels", "classes", "message"),
    [
        (
            torch.zeros(4, 1),
            torch.tensor([0, 1, 2, 0]),
            2,
            "`labels` must lie in [0, 2), got 0 to 2 [in train of given].",
        ),
        (
            torch.tensor([[0.0], [1.0], [math.nan], [0.0]]),
            torch.tensor([0, 1, 0, 1]),
            2,
            "`features` must be finite, got nan or inf in row 2, counted from 0 [in given]. "
            "Fix the row, or leave it out.",
        ),
        (
            torch.zeros(4, 1),
            torch.zeros(4).long(),
            2,
            "train of `dataset=given` must hold at least 2 classes, got only '0'.",
        ),
        (torch.zeros(4, 1), torch.zeros(4).long(), 1, "`dataset=given` must hold at least 2 classes, got only '0'."),
    ],
)
def test_bad_data_is_refused_with_a_message_that_names_it(
    features: Tensor, labels: Tensor, classes: int, message: str
) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        TensorDataModule(Given(features, labels, classes)).setup()


def test_large_finite_features_are_not_taken_for_infinite() -> None:
    # Their sum overflows; each of them is fine.
    features = torch.full((4, 1), 3e38)
    TensorDataModule(Given(features, torch.arange(4) % 2)).setup()


# the datasets


def test_unknown_names_and_arguments_offer_the_nearest() -> None:
    with pytest.raises(ConfigError, match=re.escape("got 'mnits'. Did you mean mnist?")):
        build_dataset("mnits", {})
    with pytest.raises(
        ConfigError, match=re.escape("`dataset.row` is not an argument of dataset=blobs. Did you mean rows?")
    ):
        build_dataset("blobs", {"row": 3})


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [
        ("toy", 3, 1, 2),
        ("blobs", 3000, 2, 2),
        ("breast_cancer", 569, 30, 2),
        ("iris", 150, 4, 3),
        ("wine", 178, 13, 3),
        ("digits", 1797, 64, 10),
    ],
)
def test_datasets_have_their_true_shapes(name: str, rows: int, features: int, classes: int) -> None:
    raw = build_dataset(name, {}).read()
    assert raw.tables["train"].matrix.shape == (rows, features)
    assert raw.tables["train"].labels.unique().tolist() == list(range(classes))
    assert len(raw.class_names) == classes
    assert len(raw.feature_names) in (0, features)
    assert math.prod(raw.image_shape) in (1, features)


def test_toy_is_the_tutorials_three_students() -> None:
    raw = DATASETS["toy"]().read()
    assert raw.tables["train"].matrix.tolist() == [[1.0], [2.0], [3.0]]
    assert [raw.class_names[label] for label in raw.tables["train"].labels] == ["fail", "fail", "pass"]


@pytest.mark.parametrize(("features", "correlation"), [(1, 0.0), (3, 0.0), (5, 0.8)])
def test_blobs_closed_form_is_that_of_their_covariance(features: int, correlation: float) -> None:
    blobs = Blobs(rows=200_000, features=features, distance=1.5, correlation=correlation, seed=1)
    raw = blobs.read()
    assert raw.bayes_classifier is not None
    x, y = raw.tables["train"].matrix, raw.tables["train"].labels
    shift = x[y == 1].mean(0) - x[y == 0].mean(0)
    within = torch.cat([x[y == label] - x[y == label].mean(0) for label in (0, 1)])
    covariance = within.T @ within / len(x)
    # 200,000 rows: means and covariances to about 1 / sqrt(200,000) = 0.002, a few times that in coef.
    torch.testing.assert_close(torch.linalg.solve(covariance, shift), raw.bayes_classifier.coef, atol=0.03, rtol=0)
    distance = math.sqrt(float(shift @ torch.linalg.solve(covariance, shift)))
    assert distance == pytest.approx(1.5, abs=0.02)
    predicted = (x @ raw.bayes_classifier.coef + raw.bayes_classifier.intercept > 0).long()
    assert float((predicted == y).double().mean()) == pytest.approx(raw.bayes_classifier.accuracy, abs=0.004)


def test_blobs_best_accuracy_is_phi_of_half_the_distance() -> None:
    answer = Blobs(rows=10, distance=2.0).read().bayes_classifier
    assert answer is not None
    assert answer.accuracy == pytest.approx(0.841344746068543)  # Phi(1), from a table


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_images_are_read_in_their_true_file_format(
    tmp_path: Path, name: str, folder: str, gzipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fake_mnist(tmp_path, folder, gzipped=gzipped)
    if gzipped:  # torchvision knows the checksums of the true files
        reader = getattr(torchvision.datasets, folder)
        sums = [(n, hashlib.md5((tmp_path / folder / "raw" / n).read_bytes()).hexdigest()) for n, _ in reader.resources]
        monkeypatch.setattr(reader, "resources", sums)
    data = TensorDataModule(build_dataset(name, {"root": str(tmp_path)}), split={"val": 0.1})
    assert data.facts.rows == {"train": 180, "val": 20, "test": 50}
    assert data.facts.image_shape == (28, 28)
    (block,) = data.blocks("test")
    assert block.features.dtype == torch.float32
    assert float(block.features.max()) == 1.0  # in [0, 1], as served
    assert float(block.features.min()) >= 0.0
    # Row 2k of class k is bright, so pixels and labels belong together.
    assert (block.features.view(-1, 28, 28)[torch.arange(50), block.labels * 2] == 1).all()


def test_missing_images_say_what_and_where(tmp_path: Path) -> None:
    message = (
        f"mnist not found in `dataset.root={tmp_path}`: MNIST/raw/train-images-idx3-ubyte is missing. "
        "Run again with `dataset.download=true`, or set `dataset.root` to the folder that has it."
    )
    with pytest.raises(DatasetNotFoundError, match=f"^{re.escape(message)}$"):
        build_dataset("mnist", {"root": str(tmp_path), "download": False}).read()


def test_a_broken_archive_is_named_and_nothing_is_fetched(tmp_path: Path) -> None:
    write_fake_mnist(tmp_path, gzipped=True)  # its checksum is not that of the true MNIST
    with pytest.raises(
        DatasetNotFoundError, match=re.escape("train-images-idx3-ubyte.gz is broken, its checksum is not")
    ):
        build_dataset("mnist", {"root": str(tmp_path)}).read()


def test_a_cut_off_file_is_named_as_broken(tmp_path: Path) -> None:
    write_fake_mnist(tmp_path)
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:1000])
    with pytest.raises(DatasetNotFoundError, match=r"^mnist could not be read from"):
        build_dataset("mnist", {"root": str(tmp_path)}).read()


def test_a_block_is_moved_whole() -> None:
    module = TensorDataModule(build_dataset("toy", {}))
    features, labels, weight = torch.ones(2, 3), torch.tensor([0, 1]), torch.tensor([1.0, 2.0])
    there = module.transfer_batch_to_device(
        Batch(features, labels, weight, 2 * weight, labels), torch.device("meta"), 0
    )
    assert [part is not None and part.device.type for part in there] == ["meta"] * 5
    same = Batch(features, labels)
    assert all(a is b for a, b in zip(module.transfer_batch_to_device(same, torch.device("cpu"), 0), same, strict=True))


# several processes


def modules_of(datasets: Sequence[Dataset]) -> list[TensorDataModule]:
    """The DataModules of processes that read these datasets, set up at the same time."""
    meeting, parts = Barrier(len(datasets), timeout=60), [None] * len(datasets)

    def module(rank: int) -> TensorDataModule:
        data = TensorDataModule(
            datasets[rank],
            split={"val": 0.2, "test": 0},
            full_passes_from_epoch=0,
            processes=Simulated(rank, parts, meeting),
        )
        data.setup()
        return data

    with ThreadPoolExecutor(len(datasets)) as pool:
        return list(pool.map(module, range(len(datasets))))


@pytest.mark.parametrize("processes", [2, 3, 40])
@pytest.mark.parametrize("sparse", [False, True])
def test_processes_serve_each_row_of_a_split_once(processes: int, sparse: bool, draw: torch.Generator) -> None:
    features, labels = torch.randn(40, 3, generator=draw), torch.arange(40) % 2
    matrix = checked_sparse(csr_array(features.numpy())) if sparse else features
    given = [Given(matrix, labels) for _ in range(processes)]
    alone = TensorDataModule(given[0], split={"val": 0.2, "test": 0}, full_passes_from_epoch=0)
    modules = modules_of(given)
    for split in ("train", "val"):
        whole = dense_of(alone.row_source(split).blocks())
        for rank, data in enumerate(modules):
            own = share(len(whole), rank, processes)
            mine = data.row_source(split)
            assert mine.processes is data.processes
            assert mine.num_rows == len(own)
            if len(own):
                assert torch.equal(dense_of(mine.blocks()), whole[own.start : own.stop])
            assert torch.equal(dense_of(data.row_source(split, is_share=False).blocks()), whole)
            served = [*(data.train_dataloader() if split == "train" else data.val_dataloader())]
            assert served  # an empty block where there are no rows: Lightning skips an epoch without any
            found, expected = dense_of(served), whole[own.start : own.stop]
            assert torch.equal(found.sort(0).values, expected.sort(0).values)
        assert all(torch.equal(data.labels(split), alone.labels(split)) for data in modules)


def dense_of(blocks: Iterable[Batch]) -> Tensor:
    """The features of blocks, one after another, as a dense tensor."""
    return torch.cat([block.features.to_dense() for block in blocks])


def test_processes_that_read_other_rows_are_refused(draw: torch.Generator) -> None:
    features, labels = torch.randn(40, 3, generator=draw), torch.arange(40) % 2
    with pytest.raises(DataError, match="those of process 1 have another checksum than those of process 0"):
        modules_of([Given(features, labels), Given(features + 1, labels)])


def test_only_the_processes_of_one_machine_share_the_cache(tmp_path: Path) -> None:
    """The only process of another machine holds the rows; both find the same ones, and none waits for ever."""
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(f"{row},{'no' if row % 3 else 'yes'}" for row in range(60)))
    tables = [
        TableFile(path=str(tmp_path / "t.csv"), target="y", cache=str(tmp_path / f"cache-{rank}")) for rank in range(2)
    ]
    for one, is_shared in zip(tables, (True, False), strict=True):
        vars(one)["_is_shared"] = is_shared
    modules = modules_of(tables)
    assert modules[0].facts == modules[1].facts
    assert [(tmp_path / f"cache-{rank}").exists() for rank in range(2)] == [True, False]
