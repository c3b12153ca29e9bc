"""What a finished run shows on the canvas: the verdict as text, and the moving image before registration on a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image as ImageLayer
from napari.layers import Layer

from napari_stnreg.visualization.layers import WARPED_LOOK
from napari_stnreg.widgets.common.result_layers import OWN

if TYPE_CHECKING:
    from napari.viewer import Viewer


class CanvasView:
    """The canvas of one viewer after a run.

    Parameters
    ----------
    viewer
        The viewer. Its text overlay is used while it shows no other text.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._text = ""
        self._after: Layer | None = None
        self._before: Layer | None = None
        self._moving: Layer | None = None

    def show_run(self, text: str, color: str, layers: dict[str, Layer], moving: Layer | None) -> None:
        """Write the verdict beside the images and take the layers of a run.

        Parameters
        ----------
        text, color
            The verdict.
        layers
            The result layers of the run by kind.
        moving
            The moving layer as the user has it.
        """
        self.clear()
        self._after = layers.get("magenta") or layers.get("warped")
        self._moving = moving
        self._write(text, color)

    def _write(self, text: str, color: str = "") -> None:
        overlay = self._viewer.canvas.overlays.text
        if overlay.visible and overlay.text not in ("", self._text):
            return  # the user's own text
        self._text = overlay.text = text
        if color:
            overlay.color = color
        overlay.visible = bool(text)

    def clear(self) -> None:
        """Remove the text; the layers stay."""
        if self._text:
            self._write("")
        self._after = self._before = self._moving = None

    @property
    def can_switch(self) -> bool:
        """Whether the warped and the moving image are still in the viewer."""
        return all(layer is not None and layer in self._viewer.layers for layer in (self._after, self._moving))

    @property
    def shows_before(self) -> bool:
        """Whether the moving image is shown as it was before registration."""
        return self._before is not None and self._before in self._viewer.layers and self._before.visible

    def switch(self, name: str) -> Layer | None:
        """Show the moving image in the place of the warped one, or the warped one again.

        Parameters
        ----------
        name
            Name of the layer of the moving image, which is added at the first switch.

        Returns
        -------
        Layer or None
            The layer that was added.
        """
        layers = self._viewer.layers
        after, moving = self._after, self._moving
        if after is None or after not in layers or moving is None or moving not in layers:
            return None
        added = None
        if self._before is None or self._before not in layers:
            data, keywords, _ = moving.as_layer_data_tuple()
            look = {} if keywords.get("rgb") else WARPED_LOOK
            keywords |= {**look, "blending": "additive", "name": name, "metadata": {OWN: True}, "visible": False}
            self._before = added = ImageLayer(data, **keywords)
            selected = set(layers.selection)
            layers.insert(layers.index(after) + 1, added)
            layers.selection = selected
        assert self._before is not None
        shows_before = not self._before.visible
        for layer, visible in ((self._before, shows_before), (after, not shows_before)):
            layer.visible = visible
        return added
