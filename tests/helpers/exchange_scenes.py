"""What the tests of other programs' files share."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms import (
    InverseTransform,
    chain,
)
from tests.resampling.test_applying import smooth


def turn(axis: int, angle: float) -> np.ndarray:
    matrix = np.eye(3)
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[[a, b], [a, b]] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def bent(name: str, grid: Grid):
    if name == "chain":
        return chain(smooth("displacement", grid), smooth("affine", grid, 0.05))
    if name == "inverse":
        return InverseTransform(smooth("bspline", grid))
    return smooth(name, grid, 0.05)


def theirs_of(kind: str, ndim: int = 3):
    """A SimpleITK transform of a kind, with everything about it unusual."""
    rng = np.random.default_rng(3)
    if kind == "euler":
        one = sitk.Euler3DTransform((5.0, -4, 3), 0.2, -0.1, 0.3, (1.0, 2, -3))
        one.SetComputeZYX(True)
        return one
    if kind == "euler2d":
        return sitk.Euler2DTransform((5.0, -4), 0.2, (1.0, -2))
    if kind == "versor":
        return sitk.VersorRigid3DTransform((0.1, -0.2, 0.05, 0.97), (1.0, 2, 3), (4.0, 5, 6))
    if kind == "similarity":
        return sitk.Similarity3DTransform(1.2, (0.0, 0.0, 1.0), 0.3, (1.0, 2, 3), (9.0, 8, 7))
    if kind in ("ScaleVersor3D", "ScaleSkewVersor3D", "ComposeScaleSkewVersor3D"):
        one = getattr(sitk, f"{kind}Transform")()
        one.SetCenter((4.0, -3, 2))
        one.SetParameters(np.array(one.GetParameters()) + rng.normal(0, 0.05, len(one.GetParameters())))
        return one
    if kind == "translation":
        return sitk.TranslationTransform(3, (3.0, -2, 1))
    if kind == "scale":
        return sitk.ScaleTransform(3, (1.1, 0.9, 1.05))
    if kind == "affine":
        one = sitk.AffineTransform(3)
        one.SetMatrix((np.eye(3) + 0.1 * rng.normal(size=(3, 3))).ravel())
        one.SetTranslation((3.0, 2, 1))
        one.SetCenter((10.0, 20, -5))
        return one
    if kind == "bspline":
        one = sitk.BSplineTransform(ndim, 3)
        one.SetTransformDomainMeshSize([3, 4, 5][:ndim])
        one.SetTransformDomainOrigin([-22.0, -21, -20][:ndim])
        one.SetTransformDomainPhysicalDimensions([44.0, 42, 46][:ndim])
        one.SetParameters(2 * rng.normal(size=len(one.GetParameters())))
        return one
    if kind == "field":
        vectors = 2 * rng.normal(size=(8, 9, 10, 3)[3 - ndim :][:ndim] + (ndim,))
        picture = sitk.GetImageFromArray(vectors, isVector=True)
        picture.SetSpacing([5.0, 6, 7][:ndim])
        picture.SetOrigin([20.0, 22, -25][:ndim])
        direction = np.diag([-1.0, -1, 1]) @ turn(1, 0.1)
        picture.SetDirection((direction if ndim == 3 else np.diag([-1.0, -1])).ravel())
        return sitk.DisplacementFieldTransform(picture)
    parts = ("euler", "affine", "field", "bspline", "translation")
    return sitk.CompositeTransform([theirs_of(part) for part in parts])


def inner_points(ndim: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-12, 12, (60, ndim))
