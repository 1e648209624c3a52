"""The shares of processes, and what torch.distributed reduces and gathers for them."""

from __future__ import annotations

import os
import pickle
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.sparse import csr_array
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch exports it without a list of names

from logreg import processes
from logreg.csr import checked_sparse, some_rows
from logreg.errors import ConfigError, DataError, LogregError, LostProcessError
from logreg.facts import Batch
from logreg.hardware import core_numbers, usable_cores
from logreg.launchers import Placement
from logreg.processes import Accumulators, Processes, ProcessGroup, in_each, in_first, in_turn, process_group, share
from process_groups import in_processes, started


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 1000])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_adjacent_ranges_of_like_length(rows: int, size: int) -> None:
    shares = [share(rows, rank, size) for rank in range(size)]
    assert [position for one in shares for position in one] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def _accumulators(rank: int) -> Accumulators:
    return Accumulators(
        {
            "matrix": torch.full((2, 3), 1.0 + rank, dtype=torch.float64),
            "single": torch.tensor(2.0**-rank),  # a scalar, in float32
            "nothing": torch.zeros(0),
            "large": torch.full((processes.LARGE_NUMBERS // 2 + 1, 2), 2.0**-rank).T,  # not contiguous, in float32
        },
        {
            "largest": torch.tensor([[-1.0 - rank, 10.0 * rank], [float("-inf"), float("inf")]]),
            "flags": torch.tensor([rank == 1, False]).to(torch.int8),
        },
        {
            "rows": [torch.full((rank, 2), float(rank))] * rank,
            "some": [torch.arange(2 * rank).view(2, rank).T, torch.ones(rank) > 0],  # none, or not contiguous
            "words": [f"rank {rank}"],
        },
    )


class Sending(ProcessGroup):
    """One process, which notes how much it would send."""

    sent = 0

    def __init__(self) -> None:
        self.rank, self.size, self._memory = 0, 1, None

    def gather(self, own: Any) -> list[Any]:
        self.sent = len(pickle.dumps(own))
        return [own]


def test_samples_that_are_views_are_sent_without_the_rest() -> None:
    group, whole = Sending(), torch.ones(1000, 100)
    block = Batch(whole[::100], whole[::100, 0].long(), None)
    total = group.reduce(
        Accumulators({}, {}, {"blocks": [block], "sparse": [some_rows(checked_sparse(csr_array(whole.numpy())), 0, 2)]})
    )
    assert group.sent < 20_000  # ten rows of 100 numbers and a few more; all take 400,000 bytes
    assert torch.equal(total.samples["blocks"][0].features, whole[:10])


def _reduced(group: ProcessGroup, max_slots: int, in_memory: bool) -> tuple[Accumulators, Accumulators, list[int]]:
    processes.MAX_SLOTS = max_slots
    if in_memory:
        assert (group._memory is not None) == (sys.platform == "linux" and platform.machine() == "x86_64")
    else:
        group._memory = None  # as on several machines
    group.barrier()
    return group.reduce(_accumulators(group.rank)), group.reduce(Accumulators({}, {}, {})), group.gather(group.rank**2)


@pytest.mark.parametrize(("max_slots", "in_memory"), [(2**16, True), (2**16, False), (0, False)])
def test_sums_maxima_and_samples_over_real_processes(max_slots: int, in_memory: bool) -> None:
    for total, nothing, squares in in_processes(3, _reduced, max_slots, in_memory):
        torch.testing.assert_close(total.sums["matrix"], torch.full((2, 3), 6.0, dtype=torch.float64))
        assert total.sums["single"].dtype == torch.float32
        assert total.sums["single"].shape == ()
        assert total.sums["single"] == 1.75
        assert total.sums["nothing"].shape == (0,)
        assert total.sums["large"].shape == (2, processes.LARGE_NUMBERS // 2 + 1)
        assert bool((total.sums["large"] == 1.75).all())
        assert total.maxima["largest"].tolist() == [[-1.0, 20.0], [float("-inf"), float("inf")]]
        assert total.maxima["flags"].tolist() == [1, 0]
        assert total.maxima["flags"].dtype == torch.int8
        assert [row.tolist() for row in total.samples["rows"]] == [[[1.0] * 2]] + [[[2.0] * 2] * 2] * 2
        assert [one.tolist() for one in total.samples["some"][:5]] == [[], [], [[0, 1]], [True], [[0, 2], [1, 3]]]
        assert total.samples["words"] == ["rank 0", "rank 1", "rank 2"]
        assert nothing == Accumulators({}, {}, {})
        assert squares == [0, 1, 4]


def _mistaken(group: Processes) -> list[str]:
    """What each way to do work says where process 1, or the first one, meets a mistake of the user."""
    found = []

    def work() -> int:
        if group.rank == 1:
            raise DataError("no such file")
        return group.rank

    def of_first() -> str:
        if group.rank:
            raise AssertionError("another process than the first one works")
        return "of the first"

    def wrong() -> None:
        raise ConfigError("no room")

    for way, what in ((in_each, lambda: group.rank), (in_each, work), (in_first, of_first), (in_first, wrong)):
        try:
            found.append(str(way(group, what)))
        except LogregError as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def test_a_mistake_of_one_process_is_one_of_all() -> None:
    for rank, found in enumerate(in_processes(2, _mistaken)):
        assert found == [str(rank), "DataError: no such file", "of the first", "ConfigError: no room"]
    assert in_each(None, lambda: 3) == in_first(None, lambda: 3) == 3


def _mistaken_elsewhere(group: Processes) -> list[str]:
    """What the processes of two machines are told of a mistake of the second one, and of one of both."""
    found = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("platform.node", lambda: f"node{group.rank}")
        for ranks in ([1], [0, 1]):

            def work(ranks: Sequence[int] = ranks) -> None:
                if group.rank in ranks:
                    raise DataError("no such file")

            with pytest.raises(DataError) as raised:
                in_each(group, work)
            found.append(str(raised.value))
    return found


def test_a_mistake_of_one_machine_names_it_to_the_others() -> None:
    told = in_processes(2, _mistaken_elsewhere)
    assert told == [["no such file [on node1]", "no such file"], ["no such file", "no such file"]]


def _leaving(group: Processes) -> str:
    """What the others see when process 1 leaves."""
    if group.rank == 1:
        return "left"
    with pytest.raises(LostProcessError) as raised:
        group.reduce(_accumulators(group.rank))
    return str(raised.value)


def test_a_process_that_has_ended_is_noticed() -> None:
    first, left = in_processes(2, _leaving)
    assert first.startswith("another process has ended: ")
    assert left == "left"


def _one_after_another(group: Processes, folder: Path) -> list[str]:
    """What each process finds that the first one of each machine, of two processes, has left; and a mistake of it."""
    os.environ.update(LOCAL_RANK=str(group.rank % 2), LOCAL_WORLD_SIZE="2")

    def work() -> str:
        there = sorted(file.name for file in folder.iterdir())
        (folder / str(group.rank)).touch()
        if len(there) == 3:
            raise DataError("full")
        return " ".join(there)

    found = in_turn(group, work)
    with pytest.raises(DataError, match="full"):
        in_turn(group, work)
    return [found]


def test_the_first_process_of_each_machine_works_before_the_others(tmp_path: Path) -> None:
    found = [one for (one,) in in_processes(3, _one_after_another, tmp_path)]
    assert found[1] == "0 2"
    assert set(found[0]) | set(found[2]) <= set("0 2")


def _on_one_core_each(group: Processes) -> tuple[int, int]:
    """Number of cores of a process during work and after it; a launcher has given each process a core."""
    os.environ["LOCAL_RANK"] = str(group.rank)
    os.sched_setaffinity(0, {sorted(core_numbers())[group.rank]})
    return in_turn(group, lambda: len(pool_cores())), usable_cores()


def pool_cores() -> frozenset[int]:
    """The cores of a thread that is started now."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(core_numbers).result()


@pytest.mark.skipif(len(core_numbers()) < 2, reason="each of two processes needs a core of its own")
def test_the_first_process_of_a_machine_works_on_the_cores_of_all() -> None:
    assert in_processes(2, _on_one_core_each) == [(2, 1), (1, 1)]


def _started_again(rank: int, port: int) -> None:
    """Meets the other process, and meets it again after a restart, in which process 1 is late."""
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    for attempt in range(2):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
        time.sleep(attempt * rank)
        with process_group(Placement(rank, 2, rank, 2, "torchrun", ("127.0.0.1", str(port))), is_gpu=False):
            assert ProcessGroup().gather(rank) == [0, 1]


def test_processes_that_torchrun_starts_again_meet_at_the_store_that_it_keeps() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started(_started_again, (store.port,), 2)
