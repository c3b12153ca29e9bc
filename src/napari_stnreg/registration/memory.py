"""Estimate the memory of a registration before it starts. The estimate for the CPU needs no torch."""

from __future__ import annotations

from typing import Protocol

from napari_stnreg.core.errors import OutOfMemoryError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.memory import format_bytes
from napari_stnreg.registration.settings import RegistrationSettings

BYTES_PER_VOXEL = {"linear": (150, 140), "tps": (280, 270), "bspline": (190, 210), "dense": (250, 260)}
"""Peak at full resolution in 2D and 3D, measured: fields, momenta, coordinates, windows of local NCC, the result."""
USABLE_FRACTION = 0.8
"""Fraction of the free memory that a registration may take; the rest is for other programs and for rounding."""
WHOLE_BYTES = 70
"""The part of it that stays when the fit stops at a coarser level: the images, the warped one, its Jacobian."""
MIND_BYTES = (30, 200)
"""What MIND's descriptors take besides."""


def require_memory(needed: int, free: int, activity: str) -> None:
    """Refuse what does not fit in memory, before it is tried.

    Parameters
    ----------
    needed, free
        Bytes.
    activity
        What needs them, as the subject of the sentence: ``"Warping 'a'"``.

    Raises
    ------
    OutOfMemoryError
        If more than the free memory is needed.
    """
    if needed > free:
        raise _too_large(needed, free, activity)


def _too_large(needed: int, free: int, activity: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"{activity} needs {format_bytes(needed, round_up=True)} of memory and at most {format_bytes(free)} can be "
        "used. Crop or shrink the images first."
    )


class HasGrid(Protocol):
    """What is known of an image before it is read: an :class:`~napari_stnreg.core.image.Image`, or a layer's source."""

    @property
    def name(self) -> str:
        """What a sentence calls it."""

    @property
    def grid(self) -> Grid:
        """Grid of the voxels."""


def estimate_memory(fixed: HasGrid, moving: HasGrid, settings: RegistrationSettings | None = None) -> int:
    """Bytes that a registration takes at full resolution, besides the images themselves.

    Parameters
    ----------
    fixed, moving
        The pair.
    settings
        Linear families need less.
    """
    settings = settings or RegistrationSettings.parse()
    place = fixed.grid.ndim - 2
    kinds = dict.fromkeys(("displacement", "diffeomorphic", "velocity"), "dense") | {"bspline": "bspline", "tps": "tps"}
    per_voxel = max(BYTES_PER_VOXEL[kinds.get(stage, "linear")][place] for stage in settings.stages)
    if settings.similarity == "mind":
        per_voxel += MIND_BYTES[place]
    return fixed.grid.size * per_voxel + moving.grid.size * 16


def affordable_shrink(fixed: HasGrid, moving: HasGrid, settings: RegistrationSettings, free: int) -> float:
    """Return the smallest power of two by which the images must be downsampled to fit in memory.

    Raises
    ------
    OutOfMemoryError
        If not even a 64th of the resolution fits, or not what the images themselves and the result take.
    """
    need = estimate_memory(fixed, moving, settings)
    whole = min(fixed.grid.size * WHOLE_BYTES + moving.grid.size * 16, need)
    shrink = 1.0
    while whole + (need - whole) / shrink**fixed.grid.ndim > USABLE_FRACTION * free:
        shrink *= 2
        if shrink > 64:
            raise _too_large(need, int(USABLE_FRACTION * free), f"Registering '{fixed.name}' and '{moving.name}'")
    return shrink
