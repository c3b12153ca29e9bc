"""Versions of what made a result."""

from __future__ import annotations

from importlib import metadata


def versions() -> dict[str, str]:
    """By the names of the packages."""
    names = ("napari-stnreg", "torch", "numpy")
    known = {}
    for name in names:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            known[name] = "not installed"
    return known
