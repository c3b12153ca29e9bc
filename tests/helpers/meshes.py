"""Triangle meshes as other programs write them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel import freesurfer

from napari_stnreg.core.surface import Surface


def sphere(radius=10.0, center=(0, 0, 0), level=8):
    """A sphere as triangles, its vertices in (z, y, x)."""
    up, around = np.meshgrid(np.linspace(0, np.pi, level + 1), np.linspace(0, 2 * np.pi, 2 * level + 1), indexing="ij")
    points = np.stack([np.cos(up), np.sin(up) * np.sin(around), np.sin(up) * np.cos(around)], axis=-1).reshape(-1, 3)
    row, column = (each.ravel() for each in np.mgrid[:level, : 2 * level])
    first = row * (2 * level + 1) + column
    below = first + 2 * level + 1
    faces = np.concatenate([np.stack([first, below, first + 1], 1), np.stack([first + 1, below, below + 1], 1)])
    corners = points[faces]
    sides = [np.abs(corners[:, i] - corners[:, i - 1]).sum(1) > 1e-9 for i in range(3)]  # none at the poles
    return Surface(points * radius + center, faces[np.all(sides, axis=0)])


def write_mesh(path, surface):
    """Write a mesh with vertices in scanner coordinates (S, A, R) in the format of its extension; return the path."""
    ras, triangles = surface.vertices[:, ::-1].astype(np.float32), surface.triangles.astype(np.int32)
    if path.suffix == ".gii":
        system = nib.gifti.GiftiCoordSystem(1, 1)
        arrays = [nib.gifti.GiftiDataArray(ras, "NIFTI_INTENT_POINTSET", coordsys=system),
                  nib.gifti.GiftiDataArray(triangles, "NIFTI_INTENT_TRIANGLE")]  # fmt: skip
        nib.save(nib.gifti.GiftiImage(darrays=arrays), path)
    elif path.suffix in (".pial", ".white", ".smoothwm", ".inflated", ".orig", ".surf"):
        center = np.array([3.0, -4, 5])
        info = {
            "head": [2, 0, 20],
            "valid": "1  # volume info valid",
            "filename": "v",
            "volume": [1, 1, 1],
            "voxelsize": [1, 1, 1],
            "xras": [-1, 0, 0],
            "yras": [0, 0, -1],
            "zras": [0, 1, 0],
            "cras": center,
        }
        freesurfer.write_geometry(str(path), ras - center, triangles, volume_info=info)
    else:
        meshio = pytest.importorskip("meshio")
        meshio.write(path, meshio.Mesh(ras * [-1, -1, 1], [("triangle", triangles)]))
    return path
