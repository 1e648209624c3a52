"""Small operations run on one thread."""

from __future__ import annotations

import threading

import torch
from threadpoolctl import ThreadpoolController

from logreg.solvers.threads import threads_for


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
