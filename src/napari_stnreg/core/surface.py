"""Triangle meshes of surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray


@dataclass(frozen=True)
class Surface:
    """A triangle mesh in the world of an image.

    Parameters
    ----------
    vertices
        World coordinates ``(N, 3)`` in (z, y, x) order.
    triangles
        Vertices of each triangle ``(M, 3)``.

    Raises
    ------
    InputError
        If a coordinate is not finite, or a triangle names a vertex that does not exist.
    """

    vertices: FloatArray
    triangles: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        vertices, triangles = np.asarray(self.vertices, np.float64), np.asarray(self.triangles, np.int64)
        if vertices.ndim != 2 or vertices.shape[1] != 3 or triangles.ndim != 2 or triangles.shape[1] != 3:
            raise InputError(
                f"A surface has vertices (N, 3) and triangles (M, 3), not {vertices.shape} and {triangles.shape}."
            )
        if not len(triangles) or not np.isfinite(vertices).all():
            raise InputError("A surface has no triangles, or a coordinate that is not a finite number.")
        if triangles.min() < 0 or triangles.max() >= len(vertices):
            raise InputError("A triangle of a surface names a vertex that does not exist.")
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "triangles", triangles)

    def simplified(self, most: int) -> Surface:
        """Return a surface of at most that many triangles, by joining vertices in cells of a lattice."""
        if len(self.triangles) <= most:
            return self
        low = self.vertices.min(axis=0)
        size = float(np.ptp(self.vertices, axis=0).max()) / max((most / 2) ** 0.5, 1)
        while True:
            cells, joined = np.unique(np.floor((self.vertices - low) / size), axis=0, return_inverse=True)
            joined = joined.reshape(-1)
            triangles = joined[self.triangles]
            a, b, c = triangles.T
            triangles = np.unique(triangles[(a != b) & (b != c) & (a != c)], axis=0)
            if len(triangles) <= most:
                counts = np.bincount(joined, minlength=len(cells))[:, None]
                means = np.stack([np.bincount(joined, self.vertices[:, i], len(cells)) for i in range(3)], axis=1)
                return Surface(means / counts, triangles)
            size *= 1.2
