"""Serial sections of nervous tissue, each lying a little elsewhere on its slide."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.datasets.common import Sample, inner_points
from napari_stnreg.datasets.serial_sections import SerialSections


def section_stack(seed: int = 51) -> Sample:
    """A stack of 12 sections as they were in the tissue (fixed) and as they lie on the slides (moving), 3D.

    Each section of the moving stack was bent, turned, stretched and shifted on its own within its plane, and its
    contrast and shading differ. The true map takes a point of the tissue to where its section has it.

    Parameters
    ----------
    seed
        Of the tissue, and of what happened to the sections.

    See Also
    --------
    SerialSections : stacks of any size, with every fault that sections have.
    """
    made = SerialSections(
        (12, 128, 128), seed, bend=1.8, walk=0.3, shift=4.0, turn=2.0, contrast=0.7, noise=4.0, slope=1.0, spread=0.8,
        cell=26.0, spacing=(50.0, 10.0, 10.0),
    )  # fmt: skip
    grid = Grid.from_spacing(made.shape, made.spacing, unit="nm")
    thickness, pixel = made.spacing[0], np.asarray(made.spacing[1:])

    def true_map(points: npt.ArrayLike) -> FloatArray:
        points = np.asarray(points, dtype=np.float64)
        section = np.clip(np.rint(points[..., 0] / thickness), 0, len(made) - 1).astype(int)
        moved = points.copy()
        for z in range(len(made)):
            here = section == z
            moved[here, 1:] = made.place(z, points[here, 1:] / pixel) * pixel
        return moved

    fixed = Image(np.stack([made.straight(z) for z in range(len(made))]), grid, name="sections_true")
    moving = Image(np.stack(list(made)), grid, name="sections")
    points = inner_points(grid, 24, seed=6)
    points[:, 0] = np.rint(points[:, 0] / thickness) * thickness
    return Sample("sections", fixed, moving, true_map, points)
