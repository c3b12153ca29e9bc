"""Provenance of results: versions of the packages that computed them."""

from __future__ import annotations

from importlib import metadata


def package_versions() -> dict[str, str]:
    """Return the installed versions of this package, torch and numpy, by package name."""
    versions = {}
    for name in ("napari-stnreg", "torch", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
