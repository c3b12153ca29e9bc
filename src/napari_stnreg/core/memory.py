"""Free memory of the machine and of its container, and sizes as text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def free_system_memory() -> int:
    """Return the free memory in bytes: what the machine has left, or its container if that is less."""
    import psutil

    return min([int(psutil.virtual_memory().available), *container_headroom()])


def format_bytes(size: float, *, round_up: bool = False) -> str:
    """Format a number of bytes with three digits, such as ``"12.3 MiB"`` or ``"1.50 GiB"``.

    Parameters
    ----------
    size
        Bytes.
    round_up
        For what is needed: at least ``size``. Otherwise at most ``size``, for what is available. So what does not fit
        never looks as if it did.
    """
    power = min(int(math.log2(max(size, 1))) // 10, 4)
    rounded = math.ceil if round_up else math.floor
    value = size / 1024**power
    digits = 0 if power == 0 or value >= 100 else 1 if value >= 10 else 2
    value = rounded(round(value * 10**digits, 9)) / 10**digits
    return f"{value:.{digits}f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def container_headroom(own: Path = _OWN_CGROUPS, root: Path = _CGROUP) -> Iterator[int]:
    """Yield what each enclosing control group still allows, in bytes; nothing where no limit is set.

    Both versions of Linux's control groups are read. File cache that the kernel can drop counts as free.

    Parameters
    ----------
    own
        The file that names the groups of this process.
    root
        Where the control groups are mounted.
    """
    lines: list[str] = []
    with suppress(OSError):
        lines = own.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            yield from _headroom(root, path, *names)
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _headroom(root / "memory", path, *names)


def _headroom(mount: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    # The group's own folder may not be visible inside a container; its mount then shows the group as the root.
    folder = mount / path.lstrip("/")
    for group in (folder, *folder.parents):
        with suppress(OSError, ValueError):
            allowed = int((group / limit).read_text())  # "max" where there is no limit
            if allowed < 2**60:  # version 1 writes a huge number for no limit
                used = int((group / usage).read_text()) - _cached(group, cache)
                yield max(allowed - used, 0)
        if group == mount:
            return


def _cached(group: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text().splitlines():
            key, value = line.split()
            if key == name:
                return int(value)
    return 0
