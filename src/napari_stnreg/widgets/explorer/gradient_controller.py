"""Controller of the gradient tab: descent arrows, steps, and a pose to recover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer

from napari_stnreg.widgets.explorer.source import picture_of

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.teaching import GradientDescent
    from napari_stnreg.widgets.explorer.panel import ExplorerPanel


class GradientController:
    """Drives the gradient tab of the explorer.

    Parameters
    ----------
    panel
        Whose scene is changed.
    viewer
        Whose layers can be the goal.
    """

    def __init__(self, panel: ExplorerPanel, viewer: Viewer) -> None:
        self._panel, self._viewer, self.tab = panel, viewer, panel.gradient_tab
        self._descent: GradientDescent | None = None
        self._runs = QTimer(panel)
        self._runs.setInterval(80)
        self._runs.timeout.connect(self._on_run)
        self.tab.changed.connect(self.on_goal)
        self.tab.step.clicked.connect(self.step)
        self.tab.back.clicked.connect(self.back)
        self.tab.randomize.clicked.connect(self._on_randomize)
        self.tab.run.toggled.connect(self._on_run_toggled)

    def forget(self) -> None:
        """Discard the descent of the previous scene."""
        self._descent = None

    def leave(self) -> None:
        """End the descent after the user changed theta."""
        if self._descent is not None:
            self._descent.history.clear()
        self.pause()

    def pause(self) -> None:
        """Stop stepping automatically."""
        self.tab.run.setChecked(False)

    def halt(self) -> None:
        """Stop the timer of the steps."""
        self._runs.stop()
        self.pause()

    def fill_goals(self) -> None:
        """List the images that can be the goal: those as large as the input."""
        entries: list[tuple[str, Any]] = [("the input as it is", None)]
        if self._panel.scene is not None:
            for layer in self._panel.images():
                if layer is not self._panel.layer and tuple(layer.data.shape) == self._panel.scene.image.shape:
                    entries.append((layer.name, layer))
        self.tab.goal.set_items(entries, self.tab.goal.currentData())

    def goal(self) -> np.ndarray:
        """Return the target of the output."""
        assert self._panel.scene is not None
        layer = self.tab.goal.currentData()
        if layer is None or layer not in self._viewer.layers:
            return self._panel.scene.image
        return picture_of(layer, self._viewer).values

    def on_goal(self) -> None:
        """Update the descent after the goal or the smoothing changed."""
        self._descent = None
        self.tab.run.setChecked(False)
        self._panel.changed()

    def descent(self) -> GradientDescent:
        """Return the descent that the buttons control; it is created again if the target or the smoothing changed."""
        from napari_stnreg.teaching import GradientDescent

        assert self._panel.scene is not None
        if self._descent is None:
            self._descent = GradientDescent(self._panel.scene, self.goal(), self.tab.smoothing.value())
        return self._descent

    def show(self) -> None:
        """Show arrows, loss, and curve."""
        assert self._panel.canvas is not None
        assert self._panel.scene is not None
        tab, descent = self.tab, self.descent()
        gradient = descent.gradient()
        self._panel.canvas.show_arrows(gradient)
        words = f"Loss {gradient.loss:.4f} after {len(descent.history)} steps."
        if self._panel.scene.state.kernel == "nearest":
            words += " The integer kernel has no gradient: no arrow, no step. Choose another kernel under Sampler."
        elif gradient.flat:
            words += " The gradient is zero here."
        else:
            words += " Arrows show the descent direction of each grid point. The longest arrow has a fixed length."
        tab.words.setText(words)
        tab.back.setEnabled(bool(descent.history))
        losses = [loss for _, loss in descent.history] + [gradient.loss]
        tab.plot.clear()
        tab.plot.add([("descent", 0, i, loss) for i, loss in enumerate(losses)])

    def step(self) -> bool:
        """Take one gradient step; return false at a minimum."""
        if not self._panel.has_scene():
            return False
        moved = self.descent().step(self.tab.length.value())
        self._panel.show_now()
        assert self._panel.scene is not None
        if not moved and self._panel.scene.state.kernel != "nearest":
            self.tab.words.setText(self.tab.words.text() + " No step of this direction lowers it.")
        return moved > 0

    def back(self) -> None:
        """Undo one gradient step."""
        if self._panel.has_scene() and self.descent().undo():
            self._panel.show_now()

    def _on_run_toggled(self, on: bool) -> None:
        self.tab.run.setText("Pause" if on else "Run")
        if on:
            self._runs.start()
        else:
            self._runs.stop()

    def _on_run(self) -> None:
        if not self.step():
            self.tab.run.setChecked(False)

    def _on_randomize(self) -> None:
        if not self._panel.has_scene():
            return
        assert self._panel.scene is not None
        from napari_stnreg.teaching import AffineParameters, Theta

        rng = np.random.default_rng()
        size = max(self._panel.scene.grid.shape)
        if self._panel.scene.state.family == "affine":
            turn, x, y = rng.uniform(-20, 20), *rng.uniform(-0.07, 0.07, 2) * size
            scale = np.exp(rng.uniform(-0.2, 0.2, 2))
            self._panel.scene.theta = Theta.from_parameters(
                AffineParameters(turn, scale[0], scale[1], rng.uniform(-0.15, 0.15), x, y)
            )
        else:
            spread = 0.15 * size / self._panel.scene.state.lattice
            self._panel.scene.displacements = rng.normal(0, spread, self._panel.scene.displacements.shape)
        self._panel.by_hand()
