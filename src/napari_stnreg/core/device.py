"""How many threads torch computes with, for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_thread(wanted: bool = True) -> Iterator[None]:
    """Compute with one thread, if that is wanted; who called keeps their own setting.

    Small images take longer on two: waking the second for each of thousands of tiny steps costs more than it gives.
    """
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
