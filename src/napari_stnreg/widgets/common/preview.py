"""Live preview: the moving image settling onto the fixed one, with the deformed grid over it.

:class:`PreviewRenderer` works in the worker on a small copy of the pair and gives arrays of one shape and dtype.
:class:`PreviewLayers` hands them to two layers on the GUI thread, which takes a few milliseconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Layer

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.napari_layers import placement
from napari_stnreg.visualization.layers import FIXED_LOOK, WARPED_LOOK, grid_layer
from napari_stnreg.visualization.overlays import grid_lines, lattice_lines, limits_of
from napari_stnreg.widgets.common.result_layers import OWN

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.transforms.base import Transform

_MAX_SIZE = {2: 512, 3: 96}
_MAX_TIME_FRACTION = 0.2
"""Largest fraction of the worker's time that is spent on previews."""


@dataclass(frozen=True)
class PreviewFrame:
    """Arrays of the preview layers.

    Parameters
    ----------
    fixed, warped
        The fixed and the warped image, from 0 to 1.
    lines
        An image of the deformed grid, or for the 3D view its line segments ``(N, 2, D)`` in the fixed world.
    """

    fixed: np.ndarray
    warped: np.ndarray
    lines: np.ndarray


def preview_grid(fixed: Grid) -> Grid:
    """Return the fixed grid, coarsened so that it can be warped and drawn several times per second."""
    factor = max(max(fixed.shape) / _MAX_SIZE[fixed.ndim], 1.0)
    return fixed if factor == 1 else fixed.resized([max(round(n / factor), 1) for n in fixed.shape])


class PreviewRenderer:
    """Render the previews of one run; for use in the worker.

    Parameters
    ----------
    fixed, moving
        The pair, with the grids in one unit.
    channels
        Channel of the fixed and of the moving image; ``None`` for luminance or mean.
    rate
        Previews a second at most; 0 for none.
    volume
        Whether the viewer shows three dimensions: the grid is then a lattice instead of a net.
    """

    def __init__(
        self, fixed: Image, moving: Image, channels: tuple[int | None, int | None], rate: float, *, volume: bool = False
    ) -> None:
        self.rate, self.volume = rate, volume
        self.grid = preview_grid(fixed.grid)
        self._moving_grid = moving.grid
        self._fixed = self._small(fixed, self.grid.shape, channels[0])
        coarse = preview_grid(moving.grid)
        self._moving = self._small(moving, coarse.shape, channels[1])
        self._coarse = coarse
        self._next = 0.0

    @staticmethod
    def _small(image: Image, shape: tuple[int, ...], channel: int | None) -> np.ndarray:
        import torch

        from napari_stnreg.ops.interpolation import resize

        values = image.intensity(channel)
        low, high = limits_of(values, image.mask)
        values = np.nan_to_num(np.clip((values - low) / (high - low), 0, 1), nan=0.0)
        return np.asarray(resize(torch.from_numpy(values)[None, None], shape)[0, 0].numpy())

    def is_due(self) -> bool:
        """Return whether the next preview may be rendered."""
        return self.rate > 0 and time.perf_counter() >= self._next

    def render(self, transform: Transform) -> PreviewFrame:
        """Warp the small moving image and draw the grid."""
        import torch

        from napari_stnreg.ops.interpolation import sample

        started = time.perf_counter()
        with torch.no_grad():
            mapped = transform.on_grid(self.grid, torch.float32)[0].cpu().numpy()
            index = torch.from_numpy(self._coarse.to_index(mapped).astype(np.float32))[None]
            warped = sample(torch.from_numpy(self._moving)[None, None], index)[0, 0].numpy()
        if self.volume:
            lines = lattice_lines(transform.inverse(), self._moving_grid)
        else:
            lines = grid_lines(mapped, self._moving_grid, width=1.2 if self.grid.ndim == 2 else 1.0)
        # the first one also loads libraries, so the next is not as slow
        seconds = time.perf_counter() - started if self._next else 0.0
        self._next = started + max(1 / self.rate if self.rate else 0, seconds / _MAX_TIME_FRACTION)
        return PreviewFrame(self._fixed, warped, lines)


class PreviewLayers:
    """The three preview layers; lives on the GUI thread.

    Parameters
    ----------
    viewer
        The viewer.
    grid
        Grid of the fixed image; the layers have a coarser grid of the same extent.
    first
        First preview; later ones have the same shapes.
    name
        Name of the run.
    """

    def __init__(self, viewer: Viewer, grid: Grid, first: PreviewFrame, name: str) -> None:
        self._viewer = viewer
        where = placement(preview_grid(grid)) | {"contrast_limits": (0, 1), "metadata": {OWN: True}}
        self.fixed = ImageLayer(first.fixed, name=f"fixed preview · {name}", **FIXED_LOOK, **where)
        self.warped = ImageLayer(
            first.warped, name=f"preview · {name}", interpolation2d="linear", **WARPED_LOOK, **where
        )
        lines = grid_layer(first.lines, preview_grid(grid), name=f"grid preview · {name}", metadata={OWN: True})
        self.lines = Layer.create(*lines)
        self._pending = [self.fixed, self.warped, self.lines]

    def next_layer(self) -> Layer | None:
        """Return the next layer that is to be added. One per turn keeps the window responsive."""
        return self._pending.pop(0) if self._pending else None

    def show(self, preview: PreviewFrame) -> None:
        """Show new arrays; a layer that the user has deleted or hidden is skipped."""
        for layer, data in ((self.warped, preview.warped), (self.lines, preview.lines)):
            if layer in self._viewer.layers and layer.visible and layer.data.shape == data.shape:
                layer.data = data

    def all_layers(self) -> list[Layer]:
        """All preview layers."""
        return [self.fixed, self.warped, self.lines]

    def remaining(self) -> dict[str, Layer]:
        """Return the preview layers that are still in the viewer."""
        layers = {"overlay": self.fixed, "warped": self.warped, "grid": self.lines}
        return {key: layer for key, layer in layers.items() if layer in self._viewer.layers}
