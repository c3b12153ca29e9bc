"""Free memory of the machine, and of the container that the program runs in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def free_system_memory() -> int:
    """Return the free memory in bytes: what the machine has left, or its container if that is less."""
    import psutil

    return min([int(psutil.virtual_memory().available), *container_headroom()])


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
