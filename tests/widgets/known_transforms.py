"""Transforms whose action is known, and where they are used: shared by the tests of workbench, scorecard and layers."""

from __future__ import annotations

import numpy as np
import torch

from napari_stnreg.core.grid import Grid
from napari_stnreg.io.transform_entry import TransformEntry
from napari_stnreg.transforms import AffineTransform, VelocityTransform

SHAPE = (48, 64)


def bend(unit="pixel", spacing=1.0, shape=(12, 16)):
    """A smooth flow over the fixed image, up to a few voxels long."""
    step = spacing * 4
    grid = Grid.from_spacing(shape, step, spacing * 1.5, unit=unit)
    y, x = np.meshgrid(*(np.linspace(0, np.pi, n) for n in shape), indexing="ij")
    field = np.stack([3 * np.sin(y) * np.sin(2 * x), -2 * np.sin(2 * y) * np.sin(x)]) * spacing
    return VelocityTransform(torch.from_numpy(field.astype(np.float32)), grid)


def turn(angle=0.2, shift=(3.0, -2.0), unit="pixel"):
    c, s = np.cos(angle), np.sin(angle)
    return AffineTransform(np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1]]), unit)


def make_entry(transform, fixed="fixed", moving="moving", grid=None):
    grid = grid or Grid.from_spacing(SHAPE, unit=transform.unit)
    return TransformEntry.of(transform, fixed, moving, transform.family, grid=grid, moving_grid=grid, source="made")


def solved(transform, points):
    """Where the transform takes to these points, by fixed-point steps in plain numpy."""
    guess = points.copy()
    for _ in range(200):
        guess = guess - (transform.map_points(guess) - points)
    return guess


def choose(bench, layer, side="moving"):
    bench.refresh()
    assert bench.applying.layer_box.set_current(layer)
    assert bench.applying.side_box.set_current(side)
    bench.show_state()
