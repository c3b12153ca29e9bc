"""Samples for napari's File > Open Sample: lists of layer tuples, made without napari."""

from __future__ import annotations

from napari_stnreg.datasets.digit import digit_pair
from napari_stnreg.datasets.head import head_pair
from napari_stnreg.datasets.sample import Sample
from napari_stnreg.datasets.serial_sections import section_stack
from napari_stnreg.datasets.shapes import shapes_pair
from napari_stnreg.io.napari_layers import LayerData, layer_data, placement


def napari_sample_shapes() -> list[LayerData]:
    """Open two views of a sheet of cells: green and magenta where they differ, white where they agree."""
    return _pair(shapes_pair())


def napari_sample_digit() -> list[LayerData]:
    """Open a handwritten three in two hands."""
    return _pair(digit_pair())


def napari_sample_head() -> list[LayerData]:
    """Open two heads in 3D with their label maps, which are hidden at first."""
    sample = head_pair()
    labels = [layer_data(image, "labels", visible=False, opacity=0.5) for image in sample.labels or ()]
    return [*labels, *_pair(sample)]


def napari_sample_sections() -> list[LayerData]:
    """Open a stack of misaligned serial sections."""
    return [layer_data(section_stack().moving, contrast_limits=(0, 255))]


def landmark_layers(sample: Sample) -> list[LayerData]:
    """Make points layers of the landmarks of both sides, paired by order."""
    sides = ((sample.fixed, sample.fixed_points, "lime"), (sample.moving, sample.moving_points, "magenta"))
    layers: list[LayerData] = []
    for image, points, color in sides:
        place = {key: value for key, value in placement(image.grid).items() if key in ("units", "axis_labels")}
        keywords = {"name": f"{image.name}_points", "face_color": color, "size": 4 * float(image.grid.spacing.max())}
        layers.append((points, keywords | place, "points"))
    return layers


def _pair(sample: Sample) -> list[LayerData]:
    return [
        layer_data(sample.fixed, colormap="green", blending="additive", contrast_limits=(0, 255)),
        layer_data(sample.moving, colormap="magenta", blending="additive", contrast_limits=(0, 255)),
    ]
