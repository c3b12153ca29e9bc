"""The moving image as it was before a run, in the place of the warped one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image as ImageLayer
from napari.layers import Layer

from napari_stnreg.io.napari_layers import placement
from napari_stnreg.visualization.layers import WARPED_LOOK
from napari_stnreg.widgets.common.result_layers import OWN

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.widgets.common.layer_io import LayerSource


class CanvasView:
    """The canvas of one viewer after a run.

    Parameters
    ----------
    viewer
        The viewer.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._after: Layer | None = None
        self._before: Layer | None = None
        self._moving: Layer | None = None
        self._source: LayerSource | None = None
        self._channel: int | None = None

    def show_run(
        self,
        layers: dict[str, Layer],
        moving: Layer | None,
        source: LayerSource | None = None,
        channel: int | None = None,
    ) -> None:
        """Take the result layers of a run, and the moving side.

        Parameters
        ----------
        layers
            By kind.
        moving
            The moving layer as the user has it.
        source, channel
            What was registered of it, if it has channels: its intensity is what the warped intensity is compared with.
        """
        self._before = None
        self._source, self._channel = (source if "magenta" in layers else None), channel
        self._after = layers.get("magenta") or layers.get("warped")
        self._moving = moving

    def clear(self) -> None:
        """Forget the layers."""
        self._after = self._before = self._moving = self._source = None

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
        if not self.can_switch:
            return None
        layers = self._viewer.layers
        after, moving = self._after, self._moving
        assert after is not None
        assert moving is not None
        added = None
        if self._before is None or self._before not in layers:
            if self._source is not None:
                image = self._source.image(masked=False)
                data, keywords = image.intensity(self._channel), placement(image.grid)
            else:
                data, keywords, _ = moving.as_layer_data_tuple()
            look = {} if keywords.get("rgb") else {**WARPED_LOOK, "contrast_limits": after.contrast_limits}
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
