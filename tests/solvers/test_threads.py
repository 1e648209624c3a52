"""Small operations run on one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
import torch
from threadpoolctl import ThreadpoolController

from logreg.solvers.threads import NUMBERS_PER_THREAD, _openblas, in_runs, threads_for


def test_little_work_is_done_by_one_thread_and_no_setting_is_left_behind() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with threads_for(1e3):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with threads_for(1e12):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_share_parts_with_many_numbers() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for numbers, runs in {NUMBERS_PER_THREAD - 1: 1, 2 * NUMBERS_PER_THREAD: 2, 2**40: 3}.items():
            both, seen = threading.Barrier(runs, timeout=60), set[int]()

            def work(parts: Sequence[int], both: threading.Barrier = both, seen: set[int] = seen) -> list[int]:
                seen.add(threading.get_ident())
                both.wait()  # for threads that run at once
                return list(parts)

            found = in_runs(work, range(10), numbers)
            assert len(found) == len(seen) == runs
            assert [part for run in found for part in run] == list(range(10))
        assert in_runs(len, range(2), 2**40) == [1, 1]
        with pytest.raises(ZeroDivisionError):
            in_runs(lambda parts: 1 // (parts[0] - 6), range(9), 2**40)
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment that does not give OpenBLAS one thread."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    _openblas.cache_clear()
    yield
    _openblas.cache_clear()


@pytest.mark.usefixtures("many_threads")
def test_openblas_has_one_thread_during_fits_and_its_own_number_after_the_last() -> None:
    def threads() -> set[int]:
        return {library["num_threads"] for library in controller.info()}

    def other_fit() -> None:
        with threads_for(1e12):
            inside.set()
            assert first_is_over.wait(60)

    controller = ThreadpoolController().select(internal_api="openblas")
    inside, first_is_over = threading.Event(), threading.Event()
    with controller.limit(limits=3):
        assert threads() == {3}
        with threads_for(1e3):
            assert threads() == {1}
            with threads_for(1e12):
                assert threads() == {1}
            assert threads() == {1}
        assert threads() == {3}
        other = threading.Thread(target=other_fit)
        with threads_for(1e3):
            other.start()
            assert inside.wait(60)
        first_is_over.set()
        other.join()
        assert threads() == {3}


@pytest.mark.usefixtures("many_threads")
@pytest.mark.parametrize(
    ("typed", "is_sought"),
    [
        ({"OMP_NUM_THREADS": "1"}, False),
        ({"OPENBLAS_NUM_THREADS": "1"}, False),
        ({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "2"}, True),
        ({}, True),
    ],
)
def test_openblas_is_not_sought_where_the_environment_gives_it_one_thread(
    typed: dict[str, str], is_sought: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in typed.items():
        monkeypatch.setenv(name, value)
    assert bool(_openblas()) == is_sought
