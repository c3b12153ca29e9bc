"""Memory of the process."""

from __future__ import annotations


def resident_mb() -> float:
    """What this process holds now."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def peak_mb(*, children: bool = False) -> float:
    """The most that this process took so far, or any of its children that ended. Linux only."""
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss / 1024
