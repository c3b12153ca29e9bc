"""Drive the stack panel as a person would and take pictures: ``python docs/pictures/align_stack.py [SCENE ...]``.

Needs a display with OpenGL (``make pictures`` brings one). ``--stack`` takes any stack that can be opened, such as the
real sections of a benchmark; without it the package's own serial sections are aligned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from driving import Stage, pump, run_scenes

# name: theme, width of the dock, what is unfolded, Qt's scale
SCENES: dict[str, tuple[str, int, bool, float]] = {
    "sections": ("dark", 340, False, 1.0),
    "sections_light": ("light", 340, False, 1.0),
    "sections_narrow": ("dark", 300, True, 1.0),
    "sections_straightened": ("dark", 300, False, 1.5),
    "sections_straightened_light": ("light", 300, False, 1.5),
}
STRAIGHTENED = "sections_straightened"
"""Scenes in which oblique neurites get straightened, and the panel says so."""


def scene(name: str, folder: Path, written: argparse.Namespace) -> None:
    """One scene: before, during and after a run, the cuts, a section mended, the result saved."""
    import numpy as np
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    from napari_stnreg.datasets import SerialSections
    from napari_stnreg.datasets.serial_sections import section_stack
    from napari_stnreg.stacks.sources.open import open_stack

    theme, width, unfolded, scale = SCENES[name]
    stage = Stage(name, folder, theme, width, scale)
    viewer = stage.viewer
    if written.stack is None and name.startswith(STRAIGHTENED):
        made = SerialSections((20, 320, 320), seed=1)
        data, scales, unit = np.stack(list(made)), made.spacing, "nm"
    elif written.stack is None:
        image = section_stack().moving
        data, scales, unit = np.asarray(image.data).copy(), image.grid.spacing, image.grid.unit
        data[6] = 0  # a section that was lost
    else:
        source = open_stack(written.stack)
        data = np.stack([source.read(z) for z in range(source.shape[0])])
        scales, unit = source.spacing, source.unit
    viewer.add_image(data, name="sections", scale=scales, units=(unit,) * 3, axis_labels=("z", "y", "x"))
    panel = stage.dock("Align section stack")
    if name.startswith(STRAIGHTENED):
        panel.inputs.field("trend").set_current("remove")
    if unfolded:
        stage.expand((panel.inputs.advanced, panel.corrections_section))
    pump(1.0)
    viewer.reset_view()

    def press(button: object) -> None:
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    def finished() -> None:
        pump(900, lambda: not panel.running)
        pump(0.5)

    stage.picture("1_before")
    press(panel.align_button)
    pump(600, lambda: panel.bar.value() > 150 or not panel.running)
    stage.picture("2_during")
    finished()
    viewer.reset_view()  # the aligned stack is larger
    stage.picture("3_after")
    panel.findings.picked.emit(3)
    press(panel.flicker_button)
    stage.picture("4_flicker")
    press(panel.flicker_button)
    press(panel.reslice_button)
    finished()
    stage.picture("5_cuts")
    panel.corrections_section.expand(animate=False)
    pump(0.5)
    press(panel.corrections.exclude_button)
    press(panel.corrections.again_button)
    finished()
    panel.scroll_area.verticalScrollBar().setValue(panel.scroll_area.verticalScrollBar().maximum())
    stage.picture("6_mended")
    panel.save_to(folder / f"{name}.zarr")
    finished()
    viewer.close()


if __name__ == "__main__":
    run_scenes(__doc__, {name: one[3] for name, one in SCENES.items()}, scene, {"stack": Path})
