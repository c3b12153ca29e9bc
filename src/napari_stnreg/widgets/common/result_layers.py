"""What a run leaves behind, as layers: made in the worker, added on the GUI thread one at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.napari_layers import LayerData, placement
from napari_stnreg.napari_plugin.deformation_layers import (
    JACOBIAN_COLORMAP,
    deformed_grid_layer,
    jacobian_layer,
    vectors_layer,
)
from napari_stnreg.napari_plugin.transform_entry import transform_state
from napari_stnreg.visualization.overlays import checkerboard, overlay, rescaled

if TYPE_CHECKING:
    from napari_stnreg.registration.result import Result
    from napari_stnreg.widgets.common.layer_io import LayerSource

KINDS = {
    "warped": ("Warped image", "The moving image on the fixed one's grid, sampled once from the original."),
    "overlay": ("Overlay", "Fixed in green and warped in magenta: gray where they agree."),
    "grid": ("Deformed grid", "A regular grid over the moving image, bent as the image is."),
    "vectors": ("Displacement vectors", "Arrows from points of the fixed image to where their values come from."),
    "jacobian": ("Jacobian determinant", "Local change of volume: 1 keeps it, 0 or less folds."),
    "difference": ("Difference", "Warped minus fixed, each scaled to 0 to 1."),
    "checkerboard": ("Checkerboard", "Squares of fixed and warped in turn."),
}
"""Result layers by key: what the panel calls them, and one line that says what they show."""

DEFAULT_KINDS = ("warped", "overlay", "grid", "vectors", "jacobian", "difference")


@dataclass(frozen=True)
class RunName:
    """Name of a run and of its layers."""

    moving: str
    fixed: str
    method: str

    def __str__(self) -> str:
        return f"{self.moving} -> {self.fixed} ({self.method})"

    def layer(self, what: str) -> str:
        """The name of one result layer."""
        return f"{self}: {what}"


def run_record(result: Result, name: RunName, run: str, moving: Grid) -> dict[str, Any]:
    """What every layer of a run carries in its metadata under ``"stnreg"``; ``moving`` is the moving image's grid."""
    return {
        "grid": result.grid.to_dict(),
        "moving_grid": moving.to_dict(),
        "run": run,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "fixed": name.fixed,
        "moving": name.moving,
        "seed": result.settings.seed,
        "transform": transform_state(result.transform),
        **result.report(),
    }


def result_layers(
    result: Result, fixed: Image, moving: Image, source: LayerSource, kinds: frozenset[str], *, volume: bool = False
) -> dict[str, LayerData]:
    """The layers of one registered pair, without names and metadata; for use in the worker.

    Parameters
    ----------
    result
        What the fit found; ``result.warped`` may have been made again from a finer level.
    fixed, moving
        The pair as it was registered.
    source
        The moving layer, for its colors.
    kinds
        Keys of :data:`KINDS`.
    volume
        Whether the viewer shows three dimensions: the deformed grid is then a lattice instead of a net in each slice.
    """
    made: dict[str, LayerData] = {}
    grid = result.warped.grid
    if "warped" in kinds:
        made["warped"] = image_layer(result.warped, source)
    if kinds & {"overlay", "difference", "checkerboard"}:
        made |= _comparisons(result, fixed, kinds)
        if volume and "overlay" in made:
            made["overlay"][1]["visible"] = False  # napari draws no color volumes
    if "jacobian" in kinds:
        determinant = result.transform.jacobian_determinant(grid)
        made["jacobian"] = jacobian_layer(determinant, grid)
    if "vectors" in kinds:
        made["vectors"] = vectors_layer(result.transform, grid)
    if "grid" in kinds:
        made["grid"] = deformed_grid_layer(
            result.transform, grid, moving.grid.with_unit(result.transform.unit), volume=volume
        )
    # In the order in which they lie on each other, the grid on top of all.
    order = ("warped", "difference", "checkerboard", "jacobian", "overlay", "vectors", "grid")
    return {key: made[key] for key in order if key in made}


def image_layer(warped: Image, source: LayerSource, *, labels: bool = False) -> LayerData:
    """A warped image as a layer that looks as its source did, with channels where the source had them in front."""
    data, where = warped.data, placement(warped.grid)
    if labels:
        return data, {**where, **source.display, "visible": True}, "labels"
    if warped.rgb:
        where["rgb"] = True
    elif warped.has_channel_axis:
        data, where = _with_axis(np.moveaxis(data, -1, 0), where, warped.grid, (1.0, 0.0, "pixel", "c"))
    return data, {**where, **source.display, "visible": True}, "image"


def _comparisons(result: Result, fixed: Image, kinds: frozenset[str]) -> dict[str, LayerData]:
    import napari_stnreg as sr

    grid, settings = result.warped.grid, result.settings
    still = fixed.replace(data=fixed.intensity(settings.fixed_channel), rgb=False, mask=None)
    if not grid.same_lattice(fixed.grid):
        still = sr.warp(still, None, grid)
    a = rescaled(still.data)
    b = rescaled(result.warped.intensity(settings.moving_channel), result.warped.mask)
    where = placement(grid)
    made: dict[str, LayerData] = {}
    if "overlay" in kinds:
        made["overlay"] = (overlay(a, b), {**where, "rgb": True, "visible": True}, "image")
    if "difference" in kinds:
        look = {"colormap": JACOBIAN_COLORMAP, "contrast_limits": (-1, 1), "visible": False}
        made["difference"] = (b - a, {**where, **look}, "image")
    if "checkerboard" in kinds:
        look = {"contrast_limits": (0, 1), "colormap": "gray", "visible": False}
        made["checkerboard"] = (checkerboard(a, b), {**where, **look}, "image")
    return made


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
    """The layers of many frames, one after the other along a time axis in front."""
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


def name_layers(
    layers: dict[str, LayerData], name: RunName, record: dict[str, Any], folding: float, metadata: dict[str, Any]
) -> dict[str, LayerData]:
    """The layers with their names, and the run recorded in their metadata."""
    out: dict[str, LayerData] = {}
    for key, (data, keywords, kind) in layers.items():
        what = KINDS[key][0].lower()
        if key == "jacobian":
            what += f", {folding_text(folding)}"
        # What the moving layer carried (such as the orientation of its file) goes with the warped image alone.
        own = dict(metadata) if key == "warped" else {}
        own["stnreg"] = {**record, "what": key}
        out[key] = (data, {**keywords, "name": name.layer(what), "metadata": own}, kind)
    return out


def folding_text(fraction: float) -> str:
    """The folding fraction as text, such as ``"0 % folded"``."""
    if fraction <= 0:
        return "0 % folded"
    return f"{100 * fraction:.2g} % folded" if fraction >= 1e-5 else "< 0.001 % folded"


def make_layer(layer_data: LayerData) -> Layer:
    """A layer that is in no viewer yet."""
    data, keywords, kind = layer_data
    return Layer.create(data, keywords, kind)


def update_layer(layer: Layer, layer_data: LayerData) -> None:
    """Turn a preview layer into a result layer, ten times as fast as removing the one and adding the other."""
    data, keywords, _ = layer_data
    if layer.data.shape != data.shape or layer.data.dtype != data.dtype:
        layer.data = data
        where = {key: keywords[key] for key in ("scale", "translate", "affine", "plane") if key in keywords}
        for key, value in where.items():
            setattr(layer, key, value)
    else:
        layer.data = data
    layer.name = keywords["name"]
    layer.metadata = keywords["metadata"]
