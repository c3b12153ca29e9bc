"""Two boxes that choose the fixed and the moving image of a viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Layer
from qtpy.QtCore import QObject, Signal

from napari_stnreg.core.errors import InputError
from napari_stnreg.widgets.common.forms import Combo, FormLayout
from napari_stnreg.widgets.common.layer_io import LayerSource, default_pair, layer_source
from napari_stnreg.widgets.common.result_layers import input_images

if TYPE_CHECKING:
    from napari.viewer import Viewer


class PairBoxes(QObject):
    """Boxes of the fixed and the moving image layer, the first two rows of a form.

    Parameters
    ----------
    viewer
        The viewer.
    moving_tip
        Tooltip of the box of the moving image.
    rows
        The form.

    Signals
    -------
    changed()
        Another layer was chosen, by the user or because a layer was added or removed.
    """

    changed = Signal()

    def __init__(self, viewer: Viewer, moving_tip: str, rows: FormLayout) -> None:
        super().__init__()
        self._viewer = viewer
        self._fixed_box = Combo("The image that stays in place.", "fixed image")
        self._moving_box = Combo(moving_tip, "moving image")
        rows.add("Fixed", self._fixed_box)
        rows.add("Moving", self._moving_box)
        for box in (self._fixed_box, self._moving_box):
            box.currentIndexChanged.connect(self.changed)

    @property
    def fixed(self) -> Layer | None:
        """The fixed layer."""
        return self._fixed_box.currentData()

    @property
    def moving(self) -> Layer | None:
        """The moving layer."""
        return self._moving_box.currentData()

    @property
    def can_choose(self) -> bool:
        """Whether there are two images."""
        return self._fixed_box.count() > 1

    def refresh(self, *, prefill: bool) -> bool:
        """Update the boxes from the viewer's layers, and choose a pair once there are two images if ``prefill``.

        Returns
        -------
        bool
            Whether there are two images now and were not before, so that a message about it no longer holds.
        """
        before, could_choose = (self.fixed, self.moving), self.can_choose
        images = input_images(self._viewer)
        fixed, moving = before
        if prefill and images and not could_choose:
            chosen = default_pair(images, self._viewer.layers.selection)
            fixed, moving = chosen[0], chosen[-1]
        for box, layer in ((self._fixed_box, fixed), (self._moving_box, moving)):
            box.set_items([(one.name, one) for one in images], layer)
        if self.fixed is not before[0] or self.moving is not before[1]:
            self.changed.emit()
        return self.can_choose and not could_choose

    def choose(self, fixed: Layer, moving: Layer) -> None:
        """Choose the two layers.

        Raises
        ------
        InputError
            If one is not an image layer of the viewer.
        """
        for box, layer in ((self._fixed_box, fixed), (self._moving_box, moving)):
            if not box.set_current(layer):
                raise InputError(f"'{layer.name}' is not an image layer of this viewer.")

    def sources(self) -> tuple[LayerSource, LayerSource]:
        """Return both images, at the finest level.

        Raises
        ------
        InputError
            If these are not two images of the same dimensions.
        """
        if self.fixed is None or self.moving is None:
            raise InputError("There are no two images. Open two images and choose one for each side.")
        if self.fixed is self.moving:
            raise InputError("Fixed and moving are the same layer. Choose two different layers.")
        fixed, moving = (layer_source(layer, self._viewer, level=0) for layer in (self.fixed, self.moving))
        if fixed.grid.ndim != moving.grid.ndim:
            raise InputError(
                f"'{fixed.name}' is {fixed.grid.ndim}D and '{moving.name}' is {moving.grid.ndim}D. "
                "Choose two images of the same dimensions."
            )
        return fixed, moving
