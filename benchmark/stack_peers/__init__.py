"""Other programs that align serial sections, each used as its own documentation recommends.

An adapter takes the sections ``(z, y, x)`` uint8, 0 where there is no section, and the numbers of those that are
missing, and gives a map for each section, canvas to section, pixels (y, x). They need an environment of their own, made
by ``make benchmark-stacks``.
"""

from __future__ import annotations

import importlib
import resource
import time
from collections.abc import Callable, Collection

import numpy as np

Map = Callable[[np.ndarray], np.ndarray]
PEERS = {"sofima": "SOFIMA 0.1", "feabas": "feabas 3.0.6"}


class NotInstalled(Exception):
    """A peer that cannot be imported; the message is one sentence for people."""


def align(peer: str, raw: np.ndarray, missing: Collection[int]) -> tuple[list[Map], float]:
    """The maps that a peer finds, and the CPU seconds they took, child processes included.

    A peer that compiles on first use is run on the first sections beforehand, which is not counted.
    """
    try:
        adapter = importlib.import_module(f"benchmark.stack_peers.{peer}_sections")
    except ImportError as error:
        raise NotInstalled(
            f"{PEERS[peer]} is left out: it cannot be imported ({error}); make benchmark-stacks installs it."
        ) from error
    adapter.warm_up(raw)
    began = _cpu()
    transforms = adapter.align(raw, frozenset(missing))
    return transforms, _cpu() - began


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def bridged(transforms: dict[int, Map], count: int) -> list[Map]:
    """All maps, those of missing sections taken from the nearest section that has one."""
    return [transforms[min(transforms, key=lambda k, z=z: (abs(k - z), k))] for z in range(count)]
