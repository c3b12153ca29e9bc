"""Offer a lower resolution before a registration that does not fit in memory."""

from __future__ import annotations

from qtpy.QtWidgets import QMessageBox, QWidget

from napari_stnreg.core.device import free_memory
from napari_stnreg.core.memory import format_bytes
from napari_stnreg.registration import memory
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.widgets.common.layer_io import LayerSource


def memory_question(fixed: LayerSource, moving: LayerSource, settings: RegistrationSettings, device: str) -> str | None:
    """Return the question to show if a registration exceeds a device's free memory, or ``None`` if it fits.

    Raises
    ------
    OutOfMemoryError
        If no lower resolution fits either.
    """
    free = free_memory(device)
    shrink = memory.affordable_shrink(fixed, moving, settings, free)
    if shrink <= 1:
        return None
    need = memory.estimate_memory(fixed, moving, settings)
    usable = memory.USABLE_FRACTION * free
    return (
        f"Registering '{moving.name}' to '{fixed.name}' at full resolution needs about "
        f"{format_bytes(need, round_up=True)} of memory, and {format_bytes(usable)} of the {format_bytes(free)} free "
        "can be used. "
        f"Fit it at 1/{shrink:.0f} of the resolution instead? The result is still warped at full resolution."
    )


def accepts_lower_resolution(parent: QWidget, question: str) -> bool:
    """Ask the question; return whether the user accepts the lower resolution."""
    box = QMessageBox(QMessageBox.Icon.Question, "Not enough memory", question, parent=parent)
    take = box.addButton("Use the lower resolution", QMessageBox.ButtonRole.AcceptRole)
    box.addButton(QMessageBox.StandardButton.Cancel)
    box.setDefaultButton(take)
    box.exec()
    return box.clickedButton() is take
