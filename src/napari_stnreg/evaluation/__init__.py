"""Registration quality: label overlap, surface distance, landmark error, image similarity, folding.

The scores are computed with NumPy and SciPy from arrays on the same grid. Lengths are in the unit of ``spacing``, the
voxel size along each axis; masks are boolean and true inside. :mod:`napari_stnreg.evaluation.scorecard` scores a
whole pair, which includes warping and needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_stnreg.evaluation.intensity import compare, local_ncc, mse, mutual_information, ncc, psnr, ssim
from napari_stnreg.evaluation.labels import (
    common_labels,
    dice,
    hausdorff95,
    jaccard,
    mean_surface_distance,
    surface_distances,
)
from napari_stnreg.evaluation.landmarks import LandmarkError, landmark_error

if TYPE_CHECKING:
    from napari_stnreg.ops.jacobian import folding_fraction
    from napari_stnreg.ops.jacobian import jacobian_determinant_array as jacobian_determinant

__all__ = [
    "LandmarkError",
    "common_labels",
    "compare",
    "dice",
    "folding_fraction",
    "hausdorff95",
    "jaccard",
    "jacobian_determinant",
    "landmark_error",
    "local_ncc",
    "mean_surface_distance",
    "mse",
    "mutual_information",
    "ncc",
    "psnr",
    "ssim",
    "surface_distances",
]


def __getattr__(name: str) -> Any:
    if name not in ("folding_fraction", "jacobian_determinant"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from napari_stnreg.ops import jacobian  # it needs torch, the other scores do not

    return jacobian.folding_fraction if name == "folding_fraction" else jacobian.jacobian_determinant_array
