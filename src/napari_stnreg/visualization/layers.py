"""Layers of a registration as napari's layer tuples: warped image, comparisons, grid, arrows and Jacobian.

napari is not imported: the tuples ``(data, keywords, layer type)`` are made in a worker or in a script, and become
layers with ``napari.layers.Layer.create(*layer_data)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.napari_layers import AXIS_LABELS, LayerData, placement
from napari_stnreg.visualization.deformation import arrows, deformed_grid
from napari_stnreg.visualization.overlays import checkerboard, lattice_lines, limits_of, rescaled

if TYPE_CHECKING:
    from napari_stnreg.registration.result import Result
    from napari_stnreg.transforms.base import Transform

KINDS = {
    "warped": ("Warped image", "The moving image on the fixed one's grid, sampled once from the original."),
    "overlay": ("Overlay", "Fixed in green under warped in magenta: gray where they agree."),
    "grid": ("Deformed grid", "A regular grid over the moving image, deformed like the image."),
    "vectors": ("Displacement vectors", "Arrows from points of the fixed image to where their values come from."),
    "jacobian": ("Jacobian determinant", "Local change of volume: 1 keeps it, 0 or less folds."),
    "uncertainty": ("Uncertainty", "Standard deviation of the displacement, for probabilistic models."),
    "difference": ("Difference", "Warped minus fixed, each scaled to 0 to 1."),
    "checkerboard": ("Checkerboard", "Squares of fixed and warped in turn."),
}
"""Result layers by key: title in the panel and one line of description."""

LAYER_PREFIXES = {
    "warped": "warped",
    "overlay": "fixed",
    "magenta": "warped intensity",
    "grid": "grid",
    "vectors": "displacement",
    "jacobian": "jacobian",
    "uncertainty": "uncertainty",
    "difference": "difference",
    "checkerboard": "checkerboard",
}
"""First word of a layer's name by its key. An overlay is two layers: ``"overlay"``, the fixed image in green, and above
it the warped image in magenta, or ``"magenta"`` if the warped image has channels."""

FIXED_LOOK: dict[str, Any] = {"colormap": "green", "blending": "translucent_no_depth", "gamma": 1.0}
"""The fixed image hides what is below it, so that the colors add up in 2D and 3D regardless of other visible layers."""
WARPED_LOOK: dict[str, Any] = {"colormap": "magenta", "blending": "additive", "gamma": 1.0}

DEFAULT_KINDS = ("warped", "overlay", "grid", "vectors", "jacobian", "uncertainty", "difference")

DIVERGING_COLORMAP: dict[str, Any] = {
    "name": "stnreg diverging",
    "display_name": "blue to red",
    "colors": [[0.02, 0.19, 0.38], [0.26, 0.58, 0.76], [0.97, 0.97, 0.97], [0.84, 0.38, 0.30], [0.40, 0.0, 0.12]],
}
"""From blue over white to red, for values that are equally good or bad on both sides of a neutral one."""

GRID_COLORMAP: dict[str, Any] = {
    "name": "stnreg grid",
    "display_name": "deformed grid",
    "colors": [[1.0, 0.62, 0.0, 0.0], [1.0, 0.62, 0.0, 1.0]],
}
"""From transparent to orange, which is visible on black, on white and on the overlay's colors."""

GRID_LOOK: dict[str, Any] = {
    "colormap": GRID_COLORMAP,
    "contrast_limits": (0, 255),
    "blending": "translucent_no_depth",
    "interpolation2d": "linear",
    "opacity": 0.8,
}


QUICKLY_DRAWN_VOXELS = 2**19
"""Voxels of the drawn grid and of the Jacobian determinant after a stop; a volume of 128^3 has four times as many."""


def result_layers(
    result: Result,
    fixed: Image,
    moving: Image,
    display: dict[str, Any],
    kinds: frozenset[str],
    *,
    volume: bool = False,
    drawn_voxels: int | None = None,
) -> dict[str, LayerData]:
    """Make the layers of one registered pair, without names and metadata; runs in the worker.

    Parameters
    ----------
    result
        What the fit found; ``result.warped`` may have been made again from a finer level.
    fixed, moving
        The pair as it was registered.
    display
        Display keywords of the moving layer, such as its colormap.
    kinds
        Keys of :data:`KINDS`.
    volume
        Whether the viewer shows three dimensions: the deformed grid is then a lattice instead of a net in each slice.
    drawn_voxels
        Largest number of voxels of what is drawn of the transform; by default as fine as the image or finer.
    """
    made: dict[str, LayerData] = {}
    grid = result.warped.grid
    drawn = grid if drawn_voxels is None else _coarsened(grid, drawn_voxels)
    if "warped" in kinds:
        made["warped"] = image_layer(result.warped, display)
    if kinds & {"overlay", "difference", "checkerboard"}:
        made |= _comparisons(result, fixed, kinds)
    if "warped" in made and "overlay" in made:
        if "magenta" in made:
            made["warped"][1]["visible"] = False
        else:
            made["warped"][1].update(WARPED_LOOK, contrast_limits=limits_of(result.warped.data, result.warped.mask))
    if "jacobian" in kinds:
        made["jacobian"] = jacobian_layer(result.transform.jacobian_determinant(drawn), drawn)
    if "uncertainty" in kinds and result.uncertainty is not None:
        deviation = result.uncertainty
        top = max(float(np.percentile(deviation.data, 99)), 1e-9)
        look = {"colormap": "magma", "contrast_limits": (0, top), "visible": False}
        made["uncertainty"] = (deviation.data, {**placement(deviation.grid), **look}, "image")
    if "vectors" in kinds:
        made["vectors"] = vectors_layer(result.transform, grid)
    if "grid" in kinds:
        made["grid"] = deformed_grid_layer(
            result.transform,
            drawn,
            moving.grid.with_unit(result.transform.unit),
            volume=volume,
            finer=drawn_voxels is None,
        )
    # In the order in which they lie on each other, the grid on top of all.
    order = ("difference", "checkerboard", "jacobian", "uncertainty", "overlay", "warped", "magenta", "vectors", "grid")
    return {key: made[key] for key in order if key in made}


def image_layer(warped: Image, display: dict[str, Any], *, labels: bool = False) -> LayerData:
    """Make a layer of a warped image with the appearance and channel axis of its source."""
    data, where = warped.data, placement(warped.grid)
    if labels:
        return data, {**where, **display, "visible": True}, "labels"
    if warped.rgb:
        where["rgb"] = True
    elif warped.has_channel_axis:
        data, where = _with_axis(np.moveaxis(data, -1, 0), where, warped.grid, (1.0, 0.0, "pixel", "c"))
    return data, {**where, **display, "visible": True}, "image"


def _comparisons(result: Result, fixed: Image, kinds: frozenset[str]) -> dict[str, LayerData]:
    import napari_stnreg as sr

    grid, settings = result.warped.grid, result.settings
    still = fixed.replace(data=fixed.intensity(settings.fixed_channel), rgb=False, mask=None)
    if not grid.same_lattice(fixed.grid):
        still = sr.warp(still, None, grid)
    values = result.warped.intensity(settings.moving_channel)
    where = placement(grid)
    made: dict[str, LayerData] = {}
    if "overlay" in kinds:
        limits = limits_of(still.data, fixed.mask)
        look = {**FIXED_LOOK, "contrast_limits": limits, "visible": True}
        # napari draws NaN transparent, and the user's own layers would be seen through it
        shown = np.nan_to_num(still.data, nan=limits[0]) if np.isnan(still.data).any() else still.data
        made["overlay"] = (shown, {**where, **look}, "image")
        if "warped" not in kinds or result.warped.has_channel_axis:
            look = {**WARPED_LOOK, "contrast_limits": limits_of(values, result.warped.mask), "visible": True}
            made["magenta"] = (values, {**where, **look}, "image")
    a = rescaled(still.data) if kinds & {"difference", "checkerboard"} else np.empty(0)
    b = rescaled(values, result.warped.mask) if a.size else a
    if "difference" in kinds:
        look = {"colormap": DIVERGING_COLORMAP, "contrast_limits": (-1, 1), "visible": False}
        made["difference"] = (b - a, {**where, **look}, "image")
    if "checkerboard" in kinds:
        look = {"contrast_limits": (0, 1), "colormap": "gray", "visible": False}
        made["checkerboard"] = (checkerboard(a, b), {**where, **look}, "image")
    return made


def jacobian_layer(determinant: np.ndarray, grid: Grid) -> LayerData:
    """Make a layer of the Jacobian determinant that is white where volume is preserved."""
    reach = float(np.percentile(np.abs(determinant - 1), 99)) if determinant.size else 1.0
    reach = min(max(reach, 0.05), 1.0)
    look = {"colormap": DIVERGING_COLORMAP, "contrast_limits": (1 - reach, 1 + reach), "visible": False}
    return determinant, {**placement(grid), **look}, "image"


def vectors_layer(transform: Transform, grid: Grid) -> LayerData:
    """Displacement arrows as a layer, colored by their length."""
    drawn = arrows(transform, grid)
    step, length = drawn.step, drawn.length
    longest = float(np.percentile(length, 99)) if length.size else 1.0
    look = {
        "vector_style": "arrow",
        "edge_width": step * (0.12 if grid.ndim == 2 else 0.08),
        "features": {"length": length},
        "edge_color": "length",
        "edge_colormap": "viridis",
        "edge_contrast_limits": (0.0, max(longest, 1e-9)),
        "visible": False,
    }
    return drawn.index, {**placement(grid), **look}, "vectors"


def _coarsened(grid: Grid, voxels: int) -> Grid:
    factor = (grid.size / voxels) ** (1 / grid.ndim)
    return grid if factor <= 1 else grid.resized([max(int(n / factor), 1) for n in grid.shape])


def deformed_grid_layer(
    transform: Transform, grid: Grid, moving: Grid, *, volume: bool, finer: bool = True
) -> LayerData:
    """Make a layer of the deformed grid: a net in each slice, or a lattice for the 3D view."""
    if volume:
        return grid_layer(lattice_lines(transform.inverse(), moving), grid.with_unit(transform.unit), visible=True)
    lines, fine = deformed_grid(transform, grid, moving, finer=finer)
    return grid_layer(lines, fine, visible=True)


def _with_axis(
    data: np.ndarray, where: dict[str, Any], grid: Grid, axis: tuple[float, float, str, str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Placement with one more axis in front: its scale, translate, unit and label."""
    scale, translate, unit, label = axis
    affine = np.eye(grid.ndim + 2)
    affine[0, 0], affine[0, -1] = scale, translate
    affine[1:, 1:] = grid.matrix
    rest = {key: value for key, value in where.items() if key not in ("scale", "translate", "affine")}
    rest |= {"units": (unit, *where["units"]), "axis_labels": (label, *where["axis_labels"])}
    if "affine" in where:
        return data, rest | {"affine": affine}
    return data, rest | {
        "scale": np.concatenate([[scale], where["scale"]]),
        "translate": np.concatenate([[translate], where["translate"]]),
    }


def stack_frames(
    frames: list[dict[str, LayerData]], grid: Grid, time_axis: tuple[float, float, str]
) -> dict[str, LayerData]:
    """Stack the layers of many frames along a leading time axis."""
    together: dict[str, LayerData] = {}
    axis = (*time_axis, "t")
    for key, (first, keywords, kind) in frames[0].items():
        parts = [frame[key][0] for frame in frames]
        own = Grid(tuple(first.shape[: grid.ndim]), _matrix(keywords, grid.ndim), grid.unit)
        if kind == "vectors":
            data = np.concatenate([_at_time(part, t) for t, part in enumerate(parts)])
            keywords = {**keywords, "features": {
                name: np.concatenate([frame[key][1]["features"][name] for frame in frames])
                for name in keywords["features"]
            }}  # fmt: skip
        else:
            data = np.stack(parts)
        if kind == "image" and len(keywords["axis_labels"]) > grid.ndim:
            # Frames with channels: time goes in front of them.
            channel = Grid(tuple(first.shape[1:]), _matrix(keywords, grid.ndim + 1)[1:, 1:], grid.unit)
            data, keywords = _with_time_and_channels(data, keywords, channel, axis)
        else:
            data, keywords = _with_axis(data, keywords, own, axis)
        together[key] = (data, keywords, kind)
    return together


def _at_time(arrows: np.ndarray, t: int) -> np.ndarray:
    out = np.zeros((len(arrows), 2, arrows.shape[2] + 1), arrows.dtype)
    out[:, :, 1:] = arrows
    out[:, 0, 0] = t
    return out


def _matrix(keywords: dict[str, Any], ndim: int) -> np.ndarray:
    if "affine" in keywords:
        return np.asarray(keywords["affine"])
    matrix = np.diag([*keywords["scale"], 1.0])
    matrix[:-1, -1] = keywords["translate"]
    return matrix[:, :]


def _with_time_and_channels(
    data: np.ndarray, keywords: dict[str, Any], grid: Grid, axis: tuple[float, float, str, str]
) -> tuple[np.ndarray, dict[str, Any]]:
    affine = np.eye(grid.ndim + 3)
    affine[0, 0], affine[0, -1] = axis[0], axis[1]
    affine[2:, 2:] = grid.matrix
    rest = {key: value for key, value in keywords.items() if key not in ("scale", "translate", "affine")}
    rest |= {"units": (axis[2], *keywords["units"]), "axis_labels": (axis[3], *keywords["axis_labels"])}
    return data, rest | {"affine": affine}


def grid_layer(lines: np.ndarray, grid: Grid, **keywords: Any) -> LayerData:
    """Make a layer of the deformed grid: an image on a grid, or line segments in the grid's world."""
    if lines.ndim == 3 and lines.shape[1] == 2 and lines.dtype == np.float32:
        look = {
            "vector_style": "line",
            "edge_width": float(grid.spacing.min()) * 0.4,
            "edge_color": GRID_COLORMAP["colors"][-1],
            "opacity": 0.8,
            "blending": "translucent_no_depth",
            "units": (grid.unit,) * grid.ndim,
            "axis_labels": AXIS_LABELS[-grid.ndim :],
        }
        return lines, {**look, **keywords}, "vectors"
    look = dict(GRID_LOOK)
    if grid.ndim == 3:
        # The lines of all slices would hide everything: the 3D view shows those of the middle slice.
        middle = tuple(n / 2 for n in grid.shape)
        look |= {
            "depiction": "plane",
            "plane": {"position": middle, "normal": (1, 0, 0), "thickness": 1},
            "opacity": 0.6,
        }
    return lines, {**placement(grid), **look, **keywords}, "image"


def folding_text(fraction: float) -> str:
    """Format the folding fraction as text such as ``"0 % folded"``."""
    if fraction <= 0:
        return "0 % folded"
    return f"{100 * fraction:.2g} % folded" if fraction >= 1e-5 else "< 0.001 % folded"
