"""Limits on torch's threads."""

from __future__ import annotations

import threading

import pytest
import torch

from napari_stnreg.core.device import single_thread


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_single_thread_limits_only_the_calling_thread(two_threads):
    seen = []
    with single_thread():
        assert torch.get_num_threads() == 1
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
    assert torch.get_num_threads() == 2
    assert seen == [2], "a thread that begins while another is limited keeps its own number"


def test_single_thread_is_restored_after_an_error(two_threads):
    with pytest.raises(RuntimeError), single_thread():
        raise RuntimeError
    assert torch.get_num_threads() == 2
    with single_thread(False):
        assert torch.get_num_threads() == 2
