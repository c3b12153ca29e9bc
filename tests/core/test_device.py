"""Limits on torch's threads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
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


@pytest.mark.skipif(
    sys.platform != "linux" or not torch.backends.mkl.is_available(), reason="Linux lists the threads; MKL has its own."
)
def test_single_thread_limits_matrix_products(two_threads):
    matrix = torch.rand(600, 600, dtype=torch.float64)
    counts = []

    def multiply():
        torch.get_num_threads()
        for limited in (True, False):
            with single_thread(limited):
                before = len(os.listdir("/proc/self/task"))
                matrix @ matrix
                counts.append(len(os.listdir("/proc/self/task")) - before)

    thread = threading.Thread(target=multiply)
    thread.start()
    thread.join()
    assert counts == [0, 1], "the product starts a second thread, but not inside the limit"


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "100"}])
def test_waiting_threads_sleep_unless_the_user_decides(chosen):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {key: value for key, value in os.environ.items() if key not in names} | chosen
    code = f"import os, napari_stnreg; print({{n: os.environ[n] for n in {names} if n in os.environ}})"
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    ).stdout
    assert ast.literal_eval(printed) == (chosen or {"OMP_WAIT_POLICY": "PASSIVE"})
