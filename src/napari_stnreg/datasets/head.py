"""Head phantom: scalp, skull, folded cortex, ventricles, cerebellum, eyes; T1-like or T2-like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.datasets.primitives import PlaneWaves, affine_about, blend, rotation_3d, soft_step
from napari_stnreg.datasets.sample import Sample, inner_points, to_bytes
from napari_stnreg.io.nifti import KEY, AxisOrientation

Contrast = Literal["t1", "t2"]

LABELS = {1: "cortex", 2: "white matter", 3: "ventricles", 4: "deep gray matter", 5: "cerebellum", 6: "brain stem",
          7: "eyes"}  # fmt: skip
"""What the label values mean."""

# Brightness of each tissue, T1-like and T2-like.
TISSUES = {
    "skin": (0.80, 0.50),
    "muscle": (0.42, 0.25),
    "skull": (0.10, 0.06),
    "fluid": (0.14, 0.95),
    "gray": (0.50, 0.62),
    "white": (0.78, 0.38),
    "deep": (0.58, 0.50),
    "lens": (0.45, 0.20),
}
MIDDLE = np.array([92.0, 96.0, 80.0])
"""Center of the head's world, in mm; the head is within about 110 mm of it."""
_SOFT = 1.0  # mm over which tissues blend


def head_pair(contrast: Contrast = "t1", seed: int = 31) -> Sample:
    """Make a 3D pair of heads that differ in pose, voxel size, size and folds, with label maps of both.

    The fixed one has voxels of 2.9 x 2.6 x 2.6 mm. The moving one has voxels of 2.7 x 3.2 x 2.5 mm
    shifted and rotated in the scanner, 4 % larger and smoothly different in shape.

    Parameters
    ----------
    contrast
        Of the moving head; ``"t2"`` shows fluid bright where the fixed one shows it dark.
    seed
        Of the noise.
    """
    fixed_grid = Grid.from_spacing((64, 78, 62), (2.9, 2.6, 2.6), (0.0, 0.0, 0.0), unit="mm")
    # Upright, as napari shows tilted volumes slice by slice only in 3D; the head itself is turned.
    moving_grid = Grid.from_spacing((72, 64, 68), (2.7, 3.2, 2.5), (-6.0, 0.0, -7.0), unit="mm")
    linear = affine_about(rotation_3d(-7.0, 5.0, 6.0) * 1.04, MIDDLE, [-3.0, 5.0, -4.0])
    growth = PlaneWaves.random(41, 3, wavelength=95.0, height=5.0, count=6)

    def true_map(points: npt.ArrayLike) -> FloatArray:
        points = np.asarray(points, dtype=np.float64)
        return linear(points) + growth(points)

    fixed, fixed_labels = _draw(true_map(fixed_grid.points()), fixed_grid, "t1", seed, "head_fixed", "RAS")
    moving, moving_labels = _draw(moving_grid.points(), moving_grid, contrast, seed + 1, "head_moving", "PSR")
    return Sample("head", fixed, moving, true_map, inner_points(fixed_grid, 12, seed=3, margin=0.3),
                  (fixed_labels, moving_labels))  # fmt: skip


def _draw(points: FloatArray, grid: Grid, contrast: Contrast, seed: int, name: str, codes: str) -> tuple[Image, Image]:
    tissue = {tissue: values[0 if contrast == "t1" else 1] for tissue, values in TISSUES.items()}
    values, labels = head_scene(points.reshape(-1, 3), tissue)
    metadata = {KEY: _header(grid, codes)}
    image = Image(to_bytes(values, grid, seed, noise=2.5), grid, name=name, metadata=metadata)
    return image, Image(labels.reshape(grid.shape), grid, name=f"{name}_labels", metadata=metadata)


def _header(grid: Grid, codes: str) -> dict[str, object]:
    """Return the metadata that a file with these axis codes would have, so that it is written in that orientation."""
    table = nib.orientations.axcodes2ornt(codes, labels=(("I", "S"), ("P", "A"), ("L", "R"))).astype(int)
    turn = AxisOrientation(tuple(table[:, 0].tolist()), tuple(table[:, 1].tolist()))
    affine = turn.affine(grid)
    header = nib.Nifti1Header()
    header.set_data_shape([grid.shape[axis] for axis in turn.axes])
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    return {"header": bytes(header.binaryblock), "endianness": header.endianness, "version": 1}


def _ellipsoid(points: FloatArray, center: npt.ArrayLike, axes: npt.ArrayLike) -> FloatArray:
    """Signed distance to an ellipsoid in mm, roughly: positive inside."""
    axes = np.asarray(axes, dtype=np.float64)
    scaled = (points - MIDDLE - np.asarray(center)) / axes
    return np.asarray((1 - np.linalg.norm(scaled, axis=1)) * axes.min())


def _either(*levels: FloatArray, rounding: float = 2.0) -> FloatArray:
    """Inside of any of several bodies, with a fillet where they meet."""
    return np.asarray(np.logaddexp.reduce(np.array(levels) / rounding, axis=0) * rounding)


def _folds(directions: FloatArray) -> FloatArray:
    """Return a winding pattern on the brain's surface, 1 on a gyrus and -1 in a sulcus.

    Waves of one length and many directions add up to the labyrinth that folded sheets show.
    """
    rng = np.random.default_rng(63)
    count, length = 14, 17.5
    waves = rng.normal(size=(count, 3))
    waves *= 2 * np.pi / (length * np.linalg.norm(waves, axis=1, keepdims=True))
    sums = np.sin(directions @ waves.T + rng.uniform(0, 2 * np.pi, count)).sum(axis=1)
    return np.asarray(np.tanh(1.1 * np.sqrt(2 / count) * sums))


def head_scene(points: FloatArray, tissue: Mapping[str, float]) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Evaluate the head at any points.

    Parameters
    ----------
    points
        ``(N, 3)``, mm toward superior, anterior, right.
    tissue
        Brightness 0 to 1 of each tissue in :data:`TISSUES`.

    Returns
    -------
    values, labels
        Brightness 0 to 1 and :data:`LABELS`, ``(N,)``.
    """
    values, labels = np.full(len(points), 0.02), np.zeros(len(points), dtype=np.uint8)
    outside = _outside(points)
    near = outside > -6  # half of the volume is air, which needs no thought
    values[near], labels[near] = _tissues(points[near], outside[near], tissue)
    # Coils see what is near them better: a few per cent of shading, as in every scan.
    shade = 1 + 0.06 * PlaneWaves.random(71, 3, 260.0, 1.0, count=3)(points)[:, 0]
    return np.clip(values * shade, 0, 1), labels


def _outside(points: FloatArray) -> FloatArray:
    """Return the signed distance to the head's outer surface (face, neck and nose included), positive inside."""
    up, front, right = (points - MIDDLE).T
    neck = np.minimum(43 - np.hypot(right / 0.95, (front + 14 - 0.1 * up) / 1.1), -up - 18)
    return _either(
        _ellipsoid(points, (10, -2, 0), (78, 92, 71)),
        _ellipsoid(points, (-42, 34, 0), (44, 46, 44)),
        _ellipsoid(points, (-20, 38, 0), (42, 46, 52)),
        _ellipsoid(points, (-26, 86, 0), (14, 13, 8)),
        neck,
        rounding=5.0,
    )


def _tissues(
    points: FloatArray, outside: FloatArray, tissue: Mapping[str, float]
) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Brightness and labels inside the head and just around it."""
    up, front, right = (points - MIDDLE).T
    # What comes in pairs is drawn once, in a space folded at the middle.
    paired = np.column_stack([points[:, :2], MIDDLE[2] + np.abs(right)])

    # Brain: a hull, a flat underside, a fissure between the halves, and folds that run inwards from the surface.
    dome = _ellipsoid(points, (14, -3, 0), (61, 76, 57))
    hull = np.minimum(dome, -_ellipsoid(points, (-60, 6, 0), (38, 75, 66)) - 2)
    center = MIDDLE + [6, -3, 0]
    outward = (paired - center) / [1.0, 1.25, 0.95]
    fold = _folds(outward / (np.linalg.norm(outward, axis=1, keepdims=True) + 1e-9) * 55)
    fissure = np.where(dome < 30, np.abs(right) - 1.2, 99.0)
    pial = np.minimum(hull - 11 * np.clip((-fold - 0.45) / 0.4, 0, 1), fissure)
    white = np.minimum(hull - 10.0 + 5.0 * fold, fissure - 4.5)
    cerebellum = np.maximum(
        _ellipsoid(paired, (-27, -39, 20), (20, 23, 25)), _ellipsoid(points, (-26, -40, 0), (17, 19, 14))
    )
    stem = np.minimum(9.5 - np.hypot(right, front + 8 - 0.25 * up), np.minimum(2 - up, up + 78))
    stem = _either(stem, _ellipsoid(points, (-26, 0, 0), (15, 11, 13)))

    # Around it: fluid and bone.
    contents = _either(hull, cerebellum, stem, rounding=4.0)
    fluid = np.minimum(_ellipsoid(points, (12, -3, 0), (66, 80, 60.5)), contents + 4.5)
    bone = np.minimum(_ellipsoid(points, (12, -3, 0), (72, 86, 66)), contents + 11.0)
    values = blend(np.full(len(points), 0.02), soft_step(outside, _SOFT), tissue["skin"])
    fibres = PlaneWaves.random(51, 3, 16.0, 1.0, count=5)(points)[:, 0]
    values = blend(values, soft_step(outside - 5.5, _SOFT), tissue["muscle"] + 0.06 * fibres)
    airway = np.minimum(_ellipsoid(points, (-40, 40, 0), (14, 26, 7)), outside - 4)
    values = blend(values, soft_step(airway, _SOFT), 0.03)
    for level, name in ((bone, "skull"), (fluid, "fluid"), (pial, "gray"), (white, "white")):
        values = blend(values, soft_step(level, _SOFT), tissue[name])

    # Inside, in pairs: ventricles that bend outwards at both ends, caudate, thalamus, putamen.
    bent = paired - np.column_stack([np.zeros((len(points), 2)), np.clip((front - 2) ** 2 / 75, 0, 14)])
    ventricles = np.max([
        _ellipsoid(bent, (17, 0, 6.5), (7.5, 31, 5.0)),
        _ellipsoid(points, (4, -2, 0), (9, 11, 2.6)),
    ], axis=0)  # fmt: skip
    deep = np.max([
        _ellipsoid(paired, (13, 17, 15), (9, 12, 5.5)),
        _ellipsoid(paired, (4, -8, 11), (9, 13, 7.5)),
        _ellipsoid(paired, (3, 6, 26), (11, 17, 5.5)),
    ], axis=0)  # fmt: skip
    values = blend(values, soft_step(deep, _SOFT), tissue["deep"])
    values = blend(values, soft_step(ventricles, _SOFT), tissue["fluid"])

    # Below: the brain stem, and a cerebellum of thin leaves around a white core.
    leaf = np.sin((up + 27 - 0.45 * (front + 30) + 0.12 * np.abs(right)) * 2 * np.pi / 9.5)
    leaves = tissue["gray"] + 0.16 * (leaf - 0.3) * (tissue["white"] - tissue["fluid"])
    core = _ellipsoid(paired, (-25, -33, 13), (8, 12, 12))
    values = blend(values, soft_step(cerebellum, _SOFT), leaves)
    values = blend(values, soft_step(core, _SOFT), tissue["white"])
    values = blend(values, soft_step(stem, _SOFT), 0.92 * tissue["white"])

    # The eyes with their lenses, in sockets of fat.
    socket = np.minimum(np.minimum(_ellipsoid(paired, (-20, 60, 30), (16, 28, 16)), outside - 4), -bone)
    eyes = _ellipsoid(paired, (-20, 67, 31), (11.5, 11.5, 11.5))
    values = blend(values, soft_step(socket, _SOFT), 0.9 * tissue["skin"])
    values = blend(values, soft_step(eyes, _SOFT), tissue["fluid"])
    values = blend(values, soft_step(_ellipsoid(paired, (-20, 75, 31), (4.5, 3.0, 4.5)), _SOFT), tissue["lens"])

    labels = np.zeros(len(points), dtype=np.uint8)
    for number, inside in ((1, pial), (2, white), (4, deep), (3, ventricles), (5, cerebellum), (6, stem), (7, eyes)):
        labels[inside > 0] = number
    return values, labels
