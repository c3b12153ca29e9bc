"""Before a run that would not fit in memory: say so and offer the smaller level."""

from __future__ import annotations

from qtpy.QtWidgets import QMessageBox, QWidget

from napari_stnreg.core.device import free_memory
from napari_stnreg.registration import memory
from napari_stnreg.widgets.register.worker import Job


def smaller_level(job: Job, device: str) -> str | None:
    """What to ask when a job is too large for a device's free memory, or ``None`` when it fits.

    Raises
    ------
    OutOfMemoryError
        If no smaller level helps either.
    """
    free = free_memory(device)
    shrink = memory.affordable_shrink(job.fixed, job.moving, job.settings, free)
    if shrink <= 1:
        return None
    need = memory.estimate_memory(job.fixed, job.moving, job.settings)
    return (
        f"Registering '{job.moving.name}' to '{job.fixed.name}' at full resolution needs about {need / 2**30:.1f} GiB, "
        f"and {free / 2**30:.1f} GiB are free. Fit it at 1/{shrink:.0f} of the resolution instead? "
        "The result is still warped at full resolution."
    )


def accepted(parent: QWidget, question: str) -> bool:
    """Ask; true when the smaller level is taken."""
    box = QMessageBox(QMessageBox.Icon.Question, "Not enough memory", question, parent=parent)
    take = box.addButton("Fit the smaller level", QMessageBox.ButtonRole.AcceptRole)
    box.addButton(QMessageBox.StandardButton.Cancel)
    box.setDefaultButton(take)
    box.exec()
    return box.clickedButton() is take
