"""Small operations run on one thread."""

from __future__ import annotations

import torch

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
