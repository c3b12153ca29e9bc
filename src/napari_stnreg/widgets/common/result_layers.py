"""Names, records and creation of the result layers of a registration run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from napari.layers import Layer

from napari_stnreg.core.grid import Grid
from napari_stnreg.io.napari_layers import LayerData, transform_to_metadata
from napari_stnreg.visualization.layers import LAYER_PREFIXES, folding_text

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.registration.result import Result


OWN = "stnreg_own"
"""Key in the metadata of previews and views."""


@dataclass(frozen=True)
class RunName:
    """Name of a run and of its layers."""

    moving: str
    fixed: str
    method: str

    def __str__(self) -> str:
        return f"{self.moving} -> {self.fixed} ({self.method})"

    def layer(self, kind: str) -> str:
        """Return the name of one result layer."""
        return f"{kind} · {self}"


def run_record(result: Result, name: RunName, run: str, moving: Grid) -> dict[str, Any]:
    """Return the metadata (key ``"stnreg"``) of every layer of a run; ``moving`` is the moving image's grid."""
    return {
        "grid": result.grid.to_dict(),
        "moving_grid": moving.to_dict(),
        "run": run,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "fixed": name.fixed,
        "moving": name.moving,
        "seed": result.settings.seed,
        "transform": transform_to_metadata(result.transform),
        **result.report(),
    }


def name_layers(
    layers: dict[str, LayerData], name: RunName, record: dict[str, Any], folding: float, metadata: dict[str, Any]
) -> dict[str, LayerData]:
    """Name the layers and record the run in their metadata."""
    out: dict[str, LayerData] = {}
    for key, (data, keywords, kind) in layers.items():
        what = LAYER_PREFIXES[key]
        if key == "jacobian":
            what += f", {folding_text(folding)}"
        # What the moving layer carried (such as the orientation of its file) goes with the warped image alone.
        own = dict(metadata) if key == "warped" else {}
        own["stnreg"] = {**record, "what": key}
        out[key] = (data, {**keywords, "name": name.layer(what), "metadata": own}, kind)
    return out


def result_record(layer: Layer | None) -> dict[str, Any] | None:
    """Return the record of a layer that is a result of a run, or ``None``."""
    record = None if layer is None else layer.metadata.get("stnreg")
    return record if isinstance(record, dict) and record.get("what") in LAYER_PREFIXES else None


def is_own_layer(layer: Layer) -> bool:
    """Return whether a layer is a result, a preview or a view of the plugin, which is not offered as an input."""
    return result_record(layer) is not None or bool(layer.metadata.get(OWN))


def input_images(viewer: Viewer) -> list[ImageLayer]:
    """List the image layers of a viewer that are offered as inputs."""
    return [layer for layer in viewer.layers if isinstance(layer, ImageLayer) and not is_own_layer(layer)]


def make_layer(layer_data: LayerData) -> Layer:
    """Make a layer that is not yet in a viewer."""
    data, keywords, kind = layer_data
    return Layer.create(data, keywords, kind)


def insert_unselected(viewer: Viewer, layer: Layer, position: int | None = None) -> None:
    """Insert a layer, by default on top, and leave the selection: to select it would rebuild napari's controls."""
    layers = viewer.layers
    selected = set(layers.selection)
    with layers.selection.events.blocker_all():
        layers.insert(len(layers) if position is None else position, layer)
        layers.selection.clear()
        layers.selection.update(selected)


def update_layer(layer: Layer, layer_data: LayerData) -> None:
    """Turn a preview layer into a result layer, ten times as fast as removing the one and adding the other."""
    data, keywords, _ = layer_data
    names: tuple[str, ...] = ("contrast_limits", "colormap", "gamma", "blending")
    if layer.data.shape != data.shape:
        names = ("scale", "translate", "affine", "plane", *names)
    update_data(layer, layer_data)
    _set(layer, keywords, names)


def update_data(layer: Layer, layer_data: LayerData) -> None:
    """Show a new result on the same grid in a result layer, which is drawn as the user has set it."""
    data, keywords, _ = layer_data
    layer.data = data
    _set(layer, keywords, ("features", "edge_contrast_limits", "name", "metadata"))
    if "edge_contrast_limits" in keywords:
        layer.refresh_colors(update_color_mapping=False)  # of the arrows


def _set(layer: Layer, keywords: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if name in keywords:
            setattr(layer, name, keywords[name])
