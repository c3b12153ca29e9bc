"""Convert stack layers of the viewer to inputs of the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer, Points

from napari_stnreg.core.errors import InputError

if TYPE_CHECKING:
    from napari.viewer import Viewer


def raw_data(layer: Image) -> Any:
    """Return the finest data of a layer ``(z, y, x)``, in memory or lazy."""
    return layer.data[0] if layer.multiscale else layer.data


def source_of(layer: Image) -> Any:
    """Return the stack of a layer, read section by section with the layer's pixel size.

    Raises
    ------
    InputError
        If it is no stack of gray sections with square pixels.
    """
    from napari_stnreg.stacks.sources.base import from_array

    unit = str(layer.units[-1])
    source = from_array(raw_data(layer), tuple(float(s) for s in layer.scale), unit, layer.name)
    z, y, x = (float(t) for t in layer.translate)
    return replace(source, origin=(z, y, x))


def aligned_layer(output: Path, raw: Image) -> Layer:
    """Make a layer of the aligned stack in its place beside the raw one.

    It shows the arrays on disk themselves, without a cache between, so that it fills in as sections are rendered.
    """
    from napari_stnreg.stacks.aligned_stack import AlignedStack

    aligned = AlignedStack(output)
    levels = aligned.levels
    shift = np.array([0.0, *aligned.canvas.origin])
    linear = np.asarray(raw.affine.affine_matrix)[:3, :3]
    keywords = {
        "name": f"{raw.name} aligned",
        "scale": raw.scale,
        "translate": raw.translate + raw.scale * shift,
        "units": raw.units,
        "axis_labels": raw.axis_labels,
        "contrast_limits": list(raw.contrast_limits),
        "colormap": raw.colormap,
        "metadata": {"stnreg_stack": str(output)},
    }
    if not np.allclose(linear, np.eye(3)):
        keywords["affine"] = raw.affine
    return Image(levels if len(levels) > 1 else levels[0], multiscale=len(levels) > 1, **keywords)


def pixels_of(layer: Image, viewer: Viewer) -> tuple[int, int, int]:
    """Section, row and column of a stack layer at the slider and the middle of the view."""
    world = np.array(viewer.dims.point, dtype=float)[-3:]
    center = np.array(viewer.scene.camera.center, dtype=float)  # (z, y, x), or fewer while the view changes
    displayed = [axis - (viewer.dims.ndim - 3) for axis in viewer.dims.displayed]
    for place, axis in enumerate(displayed, start=len(center) - len(displayed)):
        if axis >= 0:
            world[axis] = center[place]
    return pixels_at(layer, viewer, world)


def pixels_at(layer: Image, viewer: Viewer, position: Any) -> tuple[int, int, int]:
    """Section, row and column of a stack layer at a position of the viewer, such as that of the cursor."""
    world = np.array(position, dtype=float)[-3:]
    units = getattr(viewer.layers.extent, "units", None)
    if units is not None:
        for axis, (seen, own) in enumerate(zip(units[-3:], layer.units, strict=False)):
            try:
                world[axis] *= (1 * seen).to(own).magnitude
            except Exception:  # mixed units: napari drops them for the whole viewer too
                continue
    index = np.rint(np.asarray(layer.world_to_data(world), dtype=float)).astype(int)
    return int(index[0]), int(index[1]), int(index[2])


def number_landmarks(layer: Points) -> None:
    """Write beside each point its number within its section; points of one number belong together."""
    counts: dict[int, int] = {}
    numbers = []
    for section in np.rint(layer.data[:, 0]).astype(int).tolist():
        counts[section] = counts.get(section, 0) + 1
        numbers.append(str(counts[section]))
    beside = layer.current_size / 2  # outside of the ring
    with layer.events.data.blocker():
        layer.features = {"number": np.array(numbers, dtype=object)}
        layer.text = {
            "string": "{number}", "size": 14, "color": "#ff9f1c", "anchor": "upper_left",
            "translation": [0, -beside / 2, beside],
        }  # fmt: skip


def section_landmarks(layer: Points | None, raw: Image) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Convert the points over a raw stack to pairs between two sections.

    Sections that hold points belong together two by two, from the first on; their points pair up in the order in which
    they were made.

    Raises
    ------
    InputError
        If the numbers do not match.
    """
    if layer is None or not len(layer.data):
        return {}
    points = np.array([raw.world_to_data(layer.data_to_world(point)) for point in layer.data], dtype=float)
    sections = np.rint(points[:, 0]).astype(int)
    which = sorted(set(sections.tolist()))
    if len(which) % 2:
        raise InputError(
            f"There are landmarks in an odd number of sections ({', '.join(map(str, which))}). They work between two, "
            "so mark the same places in a neighbor."
        )
    found = {}
    for a, b in zip(which[::2], which[1::2], strict=True):
        one, other = points[sections == a, 1:], points[sections == b, 1:]
        if len(one) != len(other):
            raise InputError(
                f"Section {a} has {len(one)} landmarks and section {b} {len(other)}. They work in pairs, so add or "
                "remove points until the counts match."
            )
        found[a, b] = (one, other)
    return found
