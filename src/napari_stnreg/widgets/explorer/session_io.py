"""Save and load the state of the explorer, for handouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_stnreg.core.errors import InputError

if TYPE_CHECKING:
    from napari_stnreg.widgets.explorer.panel import ExplorerPanel


def save_to(panel: ExplorerPanel, path: str | Path) -> None:
    """Write the state to a JSON file."""
    from napari_stnreg.teaching import save_state

    if panel.scene is None:
        raise InputError("There is nothing to save yet. Choose an image first.")
    tab = panel.gradient_tab
    view = {
        "tab": panel.tab,
        "text": panel.size_box.currentData(),
        "numbers": panel.theta_form.frame.currentData(),
        "points": panel.grid_tab.count.value(),
        "links": panel.grid_tab.links.isChecked(),
        "smoothing": tab.smoothing.value(),
        "step": tab.length.value(),
    }
    save_state(path, panel.scene.state, view)


def load_from(panel: ExplorerPanel, path: str | Path) -> None:
    """Show a saved state on the picture at hand.

    Raises
    ------
    InputError
        If the file is none of ours, or no image is chosen.
    """
    from napari_stnreg.teaching import load_state

    state, view = load_state(path)
    if panel.scene is None:
        raise InputError("Choose an image first, then load the state.")
    panel.scene.state = state
    panel.downhill.forget()
    panel.size_box.set_current(view.get("text", "Normal"))
    panel.theta_form.frame.set_current(view.get("numbers", "normalized"))
    for field, key in ((panel.grid_tab.count, "points"), (panel.gradient_tab.smoothing, "smoothing"),
                       (panel.gradient_tab.length, "step")):  # fmt: skip
        if isinstance(view.get(key), (int, float)):
            field.put(view[key])
    panel.grid_tab.links.setChecked(bool(view.get("links", False)))
    panel.choose_tab(str(view.get("tab", "Grid")))
    panel.show_now()
    panel.show_beside()
