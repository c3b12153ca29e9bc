"""Score a registration as a whole: images, labels, landmarks and deformation, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg import evaluation
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import ROUNDED_AXES, FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.output_guard import PathLike
from napari_stnreg.core.progress import check_stop
from napari_stnreg.core.surface import Surface
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.evaluation.report import Better, Score, Scorecard
from napari_stnreg.io.conversion import ImageLike, as_image, as_image_pair
from napari_stnreg.io.surfaces import as_surface
from napari_stnreg.ops.jacobian import folding_fraction
from napari_stnreg.ops.triangles import distance_to_mesh
from napari_stnreg.resampling.warp import HasTransform, warp
from napari_stnreg.transforms import Transform, invert

SCORED_VOXELS = 4_000_000
"""Larger images are scored on every n-th voxel along each axis."""
QUICKLY_SCORED_VOXELS = 2**17
"""The same for a run that was stopped, whose user waits: its scores take 0.1 s of CPU time."""
STOP_INTERVAL = 0.1
"""Seconds between two looks for a stop while images are compared."""
_BETTER: dict[str, Better] = {"mse": "lower", "mean_surface_distance": "lower", "hausdorff95": "lower"}
_CONSISTENCY_POINTS = 100_000


def evaluate(
    fixed: ImageLike,
    moving: ImageLike,
    transform: Transform | HasTransform | None = None,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    moving_spacing: float | Sequence[float] | None = None,
    moving_unit: str | None = None,
    result: ImageLike | None = None,
    fixed_labels: ImageLike | None = None,
    moving_labels: ImageLike | None = None,
    result_labels: ImageLike | None = None,
    fixed_landmarks: npt.ArrayLike | None = None,
    moving_landmarks: npt.ArrayLike | None = None,
    result_landmarks: npt.ArrayLike | None = None,
    fixed_surface: Surface | PathLike | None = None,
    moving_surface: Surface | PathLike | None = None,
    reverse: Transform | None = None,
    labels: Sequence[int] | None = None,
    fixed_channel: int | None = None,
    moving_channel: int | None = None,
) -> Scorecard:
    """Score a registration before and after.

    Give the transform, or the output of another program (``result``, ``result_labels``, ``result_landmarks``), or both.
    Such output is scored as it is; everything else is computed with the transform.

    Parameters
    ----------
    fixed, moving
        The two images, see :func:`~napari_stnreg.as_image`; their masks restrict the scores.
    transform
        Fixed world to moving world, or the result of a registration.
    spacing, unit, moving_spacing, moving_unit
        Voxel size and unit of both images, or of the moving image; override what the objects themselves say.
    result
        The warped moving image, in the fixed world.
    fixed_labels, moving_labels, result_labels
        Label images of both sides, and the warped moving labels. Arrays without a position of their own are on the
        voxels of their image. Without a transform or ``result_labels`` there is no "after" for labels.
    fixed_landmarks, moving_landmarks
        World points ``(N, D)``, each in the unit of its own image, paired by order. Points of the fixed side are mapped
        to the moving side and compared there.
    result_landmarks
        The moving landmarks mapped to the fixed side, in the fixed image's unit.
    fixed_surface, moving_surface
        Triangle meshes or their files, each in the world of its own image (3D). Vertices of the fixed surface are
        mapped to the moving side; both surfaces are compared there, by the distances of the vertices of each to the
        triangles of the other.
    reverse
        The transform of an independent registration in the other direction, for the inverse consistency. Without it
        the transform's own inverse is used, which only measures how accurately it can be inverted.
    labels
        Labels to score; all that occur on either side by default.
    fixed_channel, moving_channel
        Channels to compare; the luminance or mean by default.

    Returns
    -------
    Scorecard
        Lengths are in the fixed image's unit.

    Raises
    ------
    InputError
        If shapes, dimensions or units do not match, or only one of two paired arguments is given.
    """
    fixed, moving = as_image_pair(
        fixed, moving, spacing=spacing, unit=unit, moving_spacing=moving_spacing, moving_unit=moving_unit
    )
    if transform is not None and not isinstance(transform, Transform):
        transform = transform.transform
    _check_paired(fixed_labels, moving_labels if result_labels is None else result_labels, "labels")
    compared = moving_landmarks if result_landmarks is None else result_landmarks
    _check_paired(fixed_landmarks, compared, "landmarks")
    warped = None if result is None else as_image(result, like=fixed)
    scores = _image_scores(fixed, moving, transform, warped, fixed_channel, moving_channel)
    if fixed_labels is not None:
        sides = [
            None if one is None else as_image(one, like=image)
            for one, image in ((fixed_labels, fixed), (moving_labels, moving), (result_labels, fixed))
        ]
        scores += _label_scores(fixed, sides, transform, labels)
    if fixed_landmarks is not None:
        scores += _landmark_scores(fixed, moving, transform, fixed_landmarks, moving_landmarks, result_landmarks)
    _check_paired(fixed_surface, moving_surface, "surfaces")
    if fixed_surface is not None and moving_surface is not None:
        scores += _surface_scores(fixed, moving, transform, fixed_surface, moving_surface)
    warnings: list[str] = []
    if transform is not None:
        scores += _deformation_scores(fixed, transform, warnings)
        scores += _consistency_scores(fixed, moving, transform, reverse, warnings)
    info = {
        "fixed": fixed.name,
        "moving": moving.name,
        "family": None if transform is None else transform.family,
        "unit": fixed.grid.unit,
    }
    return Scorecard(tuple(scores), info, tuple(warnings))


def score_stride(grid: Grid, max_voxels: int = SCORED_VOXELS) -> int:
    """Return the stride along each axis of a grid that compares at most a number of voxels."""
    return max(int(np.ceil((grid.size / max_voxels) ** (1 / grid.ndim))), 1)


def image_scores(
    fixed: Image,
    moving: Image,
    transform: Transform | None,
    *,
    result: Image | None = None,
    fixed_channel: int | None = None,
    moving_channel: int | None = None,
    device: torch.device | str = "cpu",
    stride: int | None = None,
) -> dict[str, dict[str, float]]:
    """Compute image similarity ``"before"`` and ``"after"``, where both images are defined.

    Parameters
    ----------
    fixed, moving
        The two images; voxels interpolated across the border of the moving mask are left out.
    transform
        Fixed world to moving world; ``None`` and no ``result`` leaves "after" empty.
    result
        The warped image, if it exists already.
    fixed_channel, moving_channel
        Channels to compare.
    device
        Device on which the moving image is warped.
    stride
        Only every n-th voxel of the fixed image is compared; by default that of :func:`score_stride`.

    Returns
    -------
    dict
        The scores of :func:`napari_stnreg.evaluation.compare` by ``"before"`` and ``"after"``; empty where the images
        do not overlap.
    """
    stride = stride or score_stride(fixed.grid)
    every = tuple(slice(None, None, stride) for _ in fixed.grid.shape)
    step = np.diag([float(stride)] * fixed.ndim + [1.0])
    thin = np.asarray(fixed.data)[every]
    grid = Grid(thin.shape[: fixed.ndim], fixed.grid.matrix @ step, fixed.grid.unit)
    values = fixed.replace(data=thin, grid=grid, mask=None).intensity(fixed_channel)
    inside = np.ones(values.shape, bool) if fixed.mask is None else fixed.mask[every]
    found: dict[str, dict[str, float]] = {"before": {}, "after": {}}
    compared: list[tuple[str, npt.NDArray[Any], npt.NDArray[np.bool_]]] = []
    inputs: list[tuple[str, Image, Transform | None]] = [("before", moving, None)]
    if result is not None:
        inputs.append(("after", result, None))
    elif transform is not None:
        inputs.append(("after", moving, transform))
    plain: Image | None = None
    previous: Image | None = None
    for when, source, applied in inputs:
        if plain is None or source is not previous:
            check_stop()
            intensity = source.intensity(moving_channel)
            check_stop()
            if source.mask is not None:
                intensity = np.where(source.mask, intensity, 0)
            plain, previous = Image(intensity, source.grid, source.mask, source.name), source
        check_stop()
        image = warp(plain, applied, grid, "linear", device=device)
        both = inside if image.mask is None else inside & image.mask
        if source.mask is not None:
            coverage = plain.replace(data=source.mask.astype(np.float32))
            both = both & (warp(coverage, applied, grid, "linear", device=device).data > 0.999)
        if both.sum() > 1:
            compared.append((when, image.data, both))
    check_stop()
    pool = ThreadPoolExecutor(max_workers=2)  # SciPy's filters release the interpreter lock
    try:
        scores = [pool.submit(evaluation.compare, values, image, both) for _, image, both in compared]
        while wait(scores, timeout=STOP_INTERVAL).not_done:
            check_stop()
        found |= {when: dict(each.result()) for (when, _, _), each in zip(compared, scores, strict=True)}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a stop does not wait for a filter
    return found


def landmark_scores(
    fixed: Image,
    moving: Image,
    transform: Transform | None,
    fixed_landmarks: npt.ArrayLike,
    moving_landmarks: npt.ArrayLike,
) -> evaluation.LandmarkError:
    """Compute the distances of landmark pairs in the moving world, in the fixed image's unit.

    Parameters
    ----------
    fixed, moving
        The images, whose units the points have.
    transform
        Maps the fixed landmarks to the moving world; ``None`` for the distances before.
    fixed_landmarks, moving_landmarks
        World points ``(N, D)`` paired by order.
    """
    unit = fixed.grid.unit
    mapped = _points(fixed_landmarks, fixed.ndim)
    target = _points(moving_landmarks, fixed.ndim) * conversion_factor(moving.grid.unit, unit)
    if transform is not None:
        factor = conversion_factor(unit, transform.unit)
        mapped = transform.map_points(mapped * factor) / factor
    return evaluation.landmark_error(mapped, target, fixed.grid.diagonal)


def _image_scores(
    fixed: Image,
    moving: Image,
    transform: Transform | None,
    result: Image | None,
    fixed_channel: int | None,
    moving_channel: int | None,
) -> list[Score]:
    found = image_scores(
        fixed, moving, transform, result=result, fixed_channel=fixed_channel, moving_channel=moving_channel
    )
    names = ("ncc", "local_ncc", "mutual_information", "ssim", "mse")
    return [
        Score("image", name, "", found["before"].get(name), found["after"].get(name), "", _BETTER.get(name, "higher"))
        for name in names
    ]


def _label_scores(
    fixed: Image, sides: Sequence[Image | None], transform: Transform | None, labels: Sequence[int] | None
) -> list[Score]:
    fixed_labels, moving_labels, result_labels = sides
    assert fixed_labels is not None
    # distances need orthogonal axes: a sheared grid is resampled by nearest neighbor
    grid = fixed_labels.grid.with_unit(fixed.grid.unit)
    grid = grid if grid.is_orthogonal(ROUNDED_AXES) else grid.orthogonal()
    reference = _resample_labels(fixed_labels, None, grid)
    compared: dict[str, npt.NDArray[Any]] = {}
    if moving_labels is not None:
        compared["before"] = _resample_labels(moving_labels, None, grid)
    if result_labels is not None:
        compared["after"] = _resample_labels(result_labels, None, grid)
    elif moving_labels is not None and transform is not None:
        compared["after"] = _resample_labels(moving_labels, transform, grid)
    if labels is None:
        occurring = [reference, *compared.values()]
        labels = sorted({int(v) for values in occurring for v in np.unique(values) if v != 0})
    if not labels:
        raise InputError("Neither side has a label other than 0.")
    by_time = {
        when: label_scores(reference, values, labels, grid.spacing.tolist()) for when, values in compared.items()
    }
    rows: list[Score] = []
    for name in ("dice", "jaccard", "hausdorff95", "mean_surface_distance"):
        unit = grid.unit if name in ("hausdorff95", "mean_surface_distance") else ""
        better = _BETTER.get(name, "higher")
        means = {when: _mean([each[name] for each in scores.values()]) for when, scores in by_time.items()}
        rows.append(Score("labels", name, "mean", means.get("before"), means.get("after"), unit, better))
        for label in labels:
            before, after = (by_time[when][label][name] if when in by_time else None for when in ("before", "after"))
            rows.append(Score("labels", name, str(label), before, after, unit, better))
    return rows


def label_scores(
    first: npt.ArrayLike, second: npt.ArrayLike, labels: Sequence[int], spacing: Sequence[float]
) -> dict[int, dict[str, float]]:
    """Compute Dice, Jaccard, Hausdorff 95 and mean surface distance of each label; both images on one grid."""
    a, b = np.asarray(first), np.asarray(second)
    overlap, union = evaluation.dice(a, b, labels), evaluation.jaccard(a, b, labels)
    found = {}
    for label in labels:
        from_first, from_second = evaluation.surface_distances(a == label, b == label, spacing)
        both = np.concatenate([from_first, from_second])
        found[label] = {
            "dice": overlap[label],
            "jaccard": union[label],
            "hausdorff95": float(max(np.percentile(from_first, 95), np.percentile(from_second, 95)))
            if both.size
            else np.nan,
            "mean_surface_distance": float(both.mean()) if both.size else np.nan,
        }
    return found


def _landmark_scores(
    fixed: Image,
    moving: Image,
    transform: Transform | None,
    fixed_landmarks: npt.ArrayLike,
    moving_landmarks: npt.ArrayLike | None,
    result_landmarks: npt.ArrayLike | None,
) -> list[Score]:
    errors: dict[str, evaluation.LandmarkError] = {}
    if moving_landmarks is not None:
        errors["before"] = landmark_scores(fixed, moving, None, fixed_landmarks, moving_landmarks)
    if result_landmarks is not None:
        fixed_points, mapped = (_points(points, fixed.ndim) for points in (fixed_landmarks, result_landmarks))
        errors["after"] = evaluation.landmark_error(mapped, fixed_points, fixed.grid.diagonal)
    elif transform is not None and moving_landmarks is not None:
        errors["after"] = landmark_scores(fixed, moving, transform, fixed_landmarks, moving_landmarks)
    sums = {when: error.to_dict() for when, error in errors.items()}
    rows = []
    for item in ("mean", "median", "max", "relative_mean", "relative_median", "relative_max"):
        unit = "" if item.startswith("relative") else fixed.grid.unit
        before, after = (sums[when].get(item) if when in sums else None for when in ("before", "after"))
        rows.append(Score("landmarks", "landmark", item, before, after, unit, "lower"))
    for pair in range(len(next(iter(errors.values())).each) if errors else 0):
        before, after = (float(errors[when].each[pair]) if when in errors else None for when in ("before", "after"))
        rows.append(Score("landmarks", "landmark", str(pair), before, after, fixed.grid.unit, "lower"))
    return rows


def _surface_scores(
    fixed: Image,
    moving: Image,
    transform: Transform | None,
    fixed_surface: Surface | PathLike,
    moving_surface: Surface | PathLike,
) -> list[Score]:
    """Compare two surfaces in the moving world, in the unit of the fixed image."""
    one, other = (as_surface(surface, image) for surface, image in ((fixed_surface, fixed), (moving_surface, moving)))
    target = torch.from_numpy(other.vertices * conversion_factor(moving.grid.unit, fixed.grid.unit))
    triangles = torch.from_numpy(one.triangles), torch.from_numpy(other.triangles)
    found: dict[str, dict[str, float]] = {}
    for when in ("before", "after") if transform is not None else ("before",):
        vertices = one.vertices
        if when == "after":
            assert transform is not None
            vertices = transform.with_unit(fixed.grid.unit).map_points(vertices)
        mapped = torch.from_numpy(np.ascontiguousarray(vertices))
        distances = [
            distance_to_mesh(points, mesh, faces).numpy()
            for points, mesh, faces in ((mapped, target, triangles[1]), (target, mapped, triangles[0]))
        ]
        found[when] = {
            "mean": float(np.mean([each.mean() for each in distances])),
            "hausdorff95": float(max(np.percentile(each, 95) for each in distances)),
            "max": float(max(each.max() for each in distances)),
        }
    return [
        Score("surfaces", "point_to_surface", item, found["before"][item], found.get("after", {}).get(item),
              fixed.grid.unit, "lower")
        for item in ("mean", "hausdorff95", "max")
    ]  # fmt: skip


def _deformation_scores(fixed: Image, transform: Transform, warnings: list[str]) -> list[Score]:
    determinant = transform.jacobian_determinant(fixed.grid)
    values = determinant[fixed.mask] if fixed.mask is not None and fixed.mask.any() else determinant.ravel()
    folded = folding_fraction(determinant, fixed.mask)
    low, middle, high = (float(v) for v in np.percentile(values, (1, 50, 99)))
    rows = [
        Score("deformation", "jacobian_min", after=float(values.min())),
        Score("deformation", "jacobian_p01", after=low),
        Score("deformation", "jacobian_median", after=middle),
        Score("deformation", "jacobian_p99", after=high),
        Score("deformation", "jacobian_max", after=float(values.max())),
        Score("deformation", "folding_fraction", after=folded, better="zero"),
    ]
    if folded:
        warnings.append(f"{100 * folded:.2g} % of the voxels are folded.")
    return rows


def _consistency_scores(
    fixed: Image, moving: Image, transform: Transform, reverse: Transform | None, warnings: list[str]
) -> list[Score]:
    unit = fixed.grid.unit
    factor = conversion_factor(transform.unit, unit)
    if reverse is None:
        found = invert(transform, moving.grid)
        if found.warning is not None:
            warnings.append(found.warning)
        mean, largest = found.mean_error, found.max_error
    else:
        mean, largest = (float(v) for v in _round_trip_error(fixed, transform, reverse))
        if (message := reverse.warning) is not None:
            warnings.append(message)
    return [
        Score("deformation", "inverse_consistency", item, after=value * factor, unit=unit)
        for item, value in (("mean", mean), ("max", largest))
    ]


def _round_trip_error(fixed: Image, transform: Transform, reverse: Transform) -> tuple[float, float]:
    """Return the mean and largest distance between ``x`` and ``reverse(transform(x))`` over the fixed image."""
    grid = transform.check_grid(fixed.grid)
    stride = max(int(np.ceil((grid.size / _CONSISTENCY_POINTS) ** (1 / grid.ndim))), 1)
    axes = [np.arange((n - 1) % stride // 2, n, stride) for n in grid.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.ndim)
    if fixed.mask is not None:
        index = index[fixed.mask[tuple(index.T)]]
    points = grid.to_world(index)
    factor = conversion_factor(transform.unit, reverse.unit)
    again = reverse.map_points(transform.map_points(points) * factor) / factor
    errors = np.linalg.norm(again - points, axis=1)
    return float(errors.mean()), float(errors.max(initial=0.0))


def _resample_labels(labels: Image, transform: Transform | None, grid: Grid) -> npt.NDArray[Any]:
    if labels.has_channel_axis or labels.data.dtype.kind not in "iub":
        kinds = f"{labels.data.dtype} with {labels.channels} channels"
        if labels.has_channel_axis or not np.array_equal(labels.data, np.rint(labels.data)):
            raise InputError(f"'{labels.name}' is not a label image ({kinds}). Labels must be integers.")
        labels = labels.replace(data=np.rint(labels.data).astype(np.int64))
    if transform is None and labels.grid.with_unit(grid.unit).same_lattice(grid):
        return np.asarray(labels.data)
    return np.asarray(warp(labels.replace(mask=None), transform, grid, "nearest").data)


def _points(points: npt.ArrayLike, ndim: int) -> FloatArray:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != ndim or not len(array):
        raise InputError(f"Landmarks of {ndim}D images have the shape (N, {ndim}), not {array.shape}.")
    return array


def _check_paired(fixed: object, other: object, what: str) -> None:
    if (fixed is None) != (other is None):
        given, missing = ("fixed", "moving") if other is None else ("moving", "fixed")
        raise InputError(f"The {given} {what} are given without the {missing} ones. Give both.")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
