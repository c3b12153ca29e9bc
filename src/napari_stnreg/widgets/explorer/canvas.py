"""The explorer's layers: input, output, comparison image, grid, handles, and hovered pixel."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Points, Vectors

from napari_stnreg.widgets.common.result_layers import OWN
from napari_stnreg.widgets.explorer.source import Picture

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.teaching import Gradient, InterpolationStencil

PREFIX = "explorer: "
_ORDER = ("input", "output", "beside", "grid", "nodes", "arrows", "handles", "look", "titles")
"""The layers from bottom to top."""
_GAP = 0.14
_GRID, _FRAME, _LINK, _ARROW = "#ff9f1c", "#2ec4f3", "#b0b0b0", "#e83f6f"
_REACH = 0.025
"""Distance within which a handle is picked, as a fraction of the image's longer side."""


class Canvas:
    """Layers in the viewer; every place given to it is in pixels of the input, (y, x).

    Parameters
    ----------
    viewer
        Where to show them.
    picture
        What is explored.
    """

    def __init__(self, viewer: Viewer, picture: Picture) -> None:
        self._viewer = viewer
        self.shape = np.asarray(picture.values.shape[:2])
        self.scale, self._translate, self._units = picture.scale, picture.translate, picture.units
        self._look = picture.look
        # Input and output side by side, and what is compared with the output below it.
        step = self.shape + max(round(_GAP * float(self.shape.max())), 2)
        self._corners = np.array([[0, 0], [0, step[1]], [step[0], step[1]]])
        self._text = 12
        self.layers: dict[str, Any] = {}
        self._deleted: set[str] = set()
        self._image("input", picture.values)
        self.handles: list[tuple[str, Any]] = []
        self.handle_positions = np.zeros((0, 2))

    # -- where things are

    def place(self, world: Any) -> tuple[int, np.ndarray]:
        """Return which picture (0 input, 1 output, 2 beside) is at a world position, and the position in it."""
        pixel = self.place_over_input(world)
        middles = self._corners + (self.shape - 1) / 2
        slot = int((np.abs(pixel - middles) / self.shape).max(axis=1).argmin())
        return slot, pixel - self._corners[slot]

    def place_over_input(self, world: Any) -> np.ndarray:
        """Return the position in pixels of the input, which may be outside of it."""
        return np.asarray((np.asarray(world, dtype=np.float64)[-2:] - self._translate) / self.scale)

    def world(self, slot: int, place: Any) -> np.ndarray:
        """Return the last two world coordinates of a position in one of the pictures."""
        return np.asarray((np.asarray(place) + self._corners[slot]) * self.scale + self._translate)

    def handle_at(self, world: Any) -> int | None:
        """Return the handle at a position over the input, as an index into :attr:`handles`."""
        if not len(self.handle_positions):
            return None
        distance = np.linalg.norm(self.handle_positions - self.place_over_input(world), axis=1)
        nearest = int(distance.argmin())
        return nearest if distance[nearest] <= max(_REACH * self.shape.max(), 1.0) else None

    def _about(self, slot: int, ratio: Any = (1.0, 1.0)) -> dict[str, Any]:
        ratio = np.asarray(ratio)
        corner = self.world(slot, (ratio - 1) / 2)
        return {"scale": self.scale * ratio, "translate": corner, "units": self._units}

    @property
    def is_complete(self) -> bool:
        """Whether the viewer still shows the input and, once it was made, the output."""
        return not any(self._is_deleted(key) for key in ("input", "output"))

    def _is_deleted(self, key: str) -> bool:
        """Whether the user has deleted a layer; it is not added again."""
        layer = self.layers.get(key)
        if layer is not None and layer not in self._viewer.layers:
            self._deleted.add(key)
        return key in self._deleted

    # -- pictures

    def _image(self, key: str, values: np.ndarray, slot: int = 0) -> None:
        if self._is_deleted(key):
            return
        values = np.ascontiguousarray(values)
        ratio = self.shape / np.asarray(values.shape[:2])
        layer = self.layers.get(key)
        if layer is None:
            look = {"rgb": True} if values.ndim == 3 else dict(self._look)
            layer = ImageLayer(values, name=PREFIX + key, **look, **self._about(slot, ratio))
            self._add(key, layer)
            return
        if layer.data.shape != values.shape:
            about = self._about(slot, ratio)
            layer.scale, layer.translate = about["scale"], about["translate"]
        _put(layer, values)

    def _add(self, key: str, layer: Any) -> None:
        """Add a layer at its place in :data:`_ORDER`; the user's selection stays."""
        active = self._viewer.layers.selection.active
        layer.metadata[OWN] = True
        if not isinstance(layer, ImageLayer):
            # A thumbnail of 300 lines takes longer than the lines, and shows nothing that can be seen.
            layer.refresh = partial(layer.refresh, thumbnail=False)
        self.layers[key] = layer
        self._viewer.add_layer(layer)
        above = [self._viewer.layers.index(other) for name, other in self.layers.items()
                 if _ORDER.index(name) > _ORDER.index(key) and other in self._viewer.layers]  # fmt: skip
        if above:
            self._viewer.layers.move(len(self._viewer.layers) - 1, min(above))
        keep = active if active in self.layers.values() else self.layers.get("input")
        if keep in self._viewer.layers:
            self._viewer.layers.selection.active = keep

    def show_input(self, picture: Picture) -> None:
        """Show another slice of the same size."""
        self._look = picture.look
        self._image("input", picture.values)

    def show_output(self, values: np.ndarray) -> None:
        """Show the transformer's output."""
        self._image("output", values, 1)

    def show_beside(self, values: np.ndarray | None, title: str) -> None:
        """Show the comparison image as a layer named like its title, or remove it."""
        if values is None:
            self.drop("beside")
            return
        self._image("beside", values, 2)
        if not self._is_deleted("beside"):
            self.layers["beside"].name = PREFIX + title

    def titles(self, beside: str = "") -> None:
        """Show titles above the images."""
        if self._is_deleted("titles"):
            return
        names = ["input U", "output V", beside]
        count = 3 if beside else 2
        # At the left edge: the handle that rotates is above the middle.
        where = self._corners[:count] - [0.03 * float(self.shape.max()), 0.5]
        self.drop("titles")
        text = {"string": names[:count], "size": self._text, "color": "#808080", "anchor": "upper_left"}
        layer = Points(where, name=PREFIX + "titles", size=0.01, face_color="transparent", border_color="transparent",
                       text=text, **self._about(0))  # fmt: skip
        self._add("titles", layer)

    def text_size(self, points: int) -> None:
        """Return the size of the names above the pictures."""
        self._text = points
        if "titles" in self.layers:
            self.layers["titles"].text.size = points

    # -- the grid

    def show_grid(self, regular: np.ndarray, mapped: np.ndarray, *, links: bool) -> None:
        """Show the regular grid over the output, its image over the input, and lines between both.

        Parameters
        ----------
        regular, mapped
            ``(rows, columns, 2)``.
        links
            Whether points that belong together are joined.
        """
        shift = self._corners[1]
        inner = [_segments(regular + shift), _segments(mapped)]
        frame = [_outline(regular + shift), _outline(mapped)]
        pieces = [*inner, *frame]
        colors = [_GRID] * (len(inner[0]) * 2) + [_FRAME] * (len(frame[0]) * 2)
        if links:
            starts, ends = (nodes[::2, ::2].reshape(-1, 2) for nodes in (mapped, regular + shift))
            pieces.append(np.stack([starts, ends - starts], axis=1))
            colors += [_LINK] * len(starts)
        self._vectors("grid", np.concatenate(pieces), colors, width=0.006)
        if self._is_deleted("nodes"):
            return
        dots = np.concatenate([regular.reshape(-1, 2) + shift, mapped.reshape(-1, 2)])
        layer = self.layers.get("nodes")
        if layer is not None and len(layer.data) == len(dots):
            _put(layer, dots)
            return
        self.drop("nodes")
        hues = np.tile(_hues(*regular.shape[:2]), (2, 1))
        layer = Points(dots, name=PREFIX + "nodes", size=0.022 * self.shape.max(), face_color=hues, symbol="disc",
                       border_color="black", border_width=0.05, **self._about(0))  # fmt: skip
        self._add("nodes", layer)

    def show_handles(self, names: list[tuple[str, Any]], where: np.ndarray, symbols: list[str]) -> None:
        """Show the handles over the input."""
        self.handles, self.handle_positions = names, where
        if self._is_deleted("handles"):
            self.handles, self.handle_positions = [], np.zeros((0, 2))
            return
        layer = self.layers.get("handles")
        if layer is not None and len(layer.data) == len(where):
            _put(layer, where)
            return
        self.drop("handles")
        layer = Points(where, name=PREFIX + "handles", size=0.03 * self.shape.max(), face_color=_FRAME, symbol=symbols,
                       border_color="white", border_width=0.12, **self._about(0))  # fmt: skip
        self._add("handles", layer)

    def show_arrows(self, gradient: Gradient | None) -> None:
        """Show the descent direction of the grid as arrows over the input; ``None`` removes them."""
        if gradient is None or gradient.flat:
            self.drop("arrows")
            return
        length = 0.12 * float(self.shape.max())
        pairs = np.stack([gradient.positions, gradient.arrows * length], axis=1)
        self._vectors("arrows", pairs, [_ARROW] * len(pairs), width=0.005, style="arrow")

    def show_look(self, pixel: np.ndarray | None, output_shape: Any, look: InterpolationStencil | None) -> None:
        """Mark an output pixel, the place where it samples, and the pixels that it reads; ``None`` marks nothing."""
        if pixel is None or look is None:
            self.drop("look")
            return
        if self._is_deleted("look"):
            return
        ratio = self.shape / np.asarray(output_shape)
        there = (np.asarray(pixel) + 0.5) * ratio - 0.5 + self._corners[1]
        near = [n.index for n in look.neighbors]
        tiny = 0.006 * float(self.shape.max())
        where = np.array([there, look.position, *near], dtype=np.float64)
        sizes = np.array([max(float(ratio.max()), 2 * tiny), max(0.35, tiny)] + [1.0] * len(near))
        layer = self.layers.get("look")
        if layer is not None and len(layer.data) == len(where):
            _put(layer, where)
            return
        self.drop("look")
        colors = ["#00000000", "#ffe14d"] + ["#00000000"] * len(near)
        layer = Points(where, name=PREFIX + "hovered pixel", size=sizes, face_color=colors, border_color="#ffe14d",
                       symbol=["square", "disc"] + ["square"] * len(near), border_width=0.12,
                       **self._about(0))  # fmt: skip
        self._add("look", layer)

    def _vectors(self, key: str, pairs: np.ndarray, colors: list[str], width: float, style: str = "line") -> None:
        if self._is_deleted(key):
            return
        pairs = np.asarray(pairs, dtype=np.float32)
        layer = self.layers.get(key)
        if layer is not None and len(layer.data) == len(pairs):
            _put(layer, pairs)
            return
        self.drop(key)
        layer = Vectors(pairs, name=PREFIX + key, vector_style=style, edge_width=width * float(self.shape.max()),
                        edge_color=colors, opacity=0.9, **self._about(0))  # fmt: skip
        self._add(key, layer)

    # -- the end

    def drop(self, key: str) -> None:
        """Remove one layer."""
        if self._is_deleted(key):
            return
        layer = self.layers.pop(key, None)
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def close(self) -> None:
        """Remove all layers."""
        for key in list(self.layers):
            self.drop(key)
        self.layers.clear()

    def fit(self, count: int) -> None:
        """Fit the camera to all images."""
        last = self.world(count - 1, self.shape)
        first = self.world(0, (-0.16 * self.shape.max(), -0.1 * self.shape.max()))
        size = last - first
        self._viewer.scene.camera.center = (0, *((first + last) / 2))
        canvas = np.asarray(self._viewer.canvas.size, dtype=np.float64)
        self._viewer.scene.camera.zoom = float((canvas / size).min() * 0.95)


def _put(layer: Any, data: np.ndarray) -> None:
    """New data of the same kind.

    For new data, napari measures the whole world again and slices every layer, which takes ten times as long
    as drawing them. What moves here stays near the pictures, so the viewer need not hear of it.
    """
    with layer.events.data.blocker():
        layer.data = data


def _segments(nodes: np.ndarray) -> np.ndarray:
    """Return the lines of a grid of nodes ``(rows, columns, 2)`` as starts and directions ``(N, 2, 2)``."""
    along = [np.stack([nodes[:, :-1], np.diff(nodes, axis=1)], axis=2).reshape(-1, 2, 2),
             np.stack([nodes[:-1], np.diff(nodes, axis=0)], axis=2).reshape(-1, 2, 2)]  # fmt: skip
    return np.concatenate(along)


def _outline(nodes: np.ndarray) -> np.ndarray:
    """Return the border of a grid of nodes, to be drawn in another color."""
    ring = np.concatenate([nodes[0], nodes[1:, -1], nodes[-1, -2::-1], nodes[-2::-1, 0]])
    return np.stack([ring[:-1], np.diff(ring, axis=0)], axis=1)


def _hues(rows: int, columns: int) -> np.ndarray:
    """Return a color for each node that identifies the same point on both sides."""
    y, x = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return np.stack([0.25 + 0.75 * x, 0.9 - 0.6 * y, 0.25 + 0.75 * (1 - x), np.ones_like(x)], axis=-1).reshape(-1, 4)
