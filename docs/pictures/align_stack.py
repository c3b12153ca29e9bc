"""Drive the stack panel as a person would and take pictures: ``python docs/pictures/align_stack.py [SCENE ...]``.

Needs a display with OpenGL (``make pictures`` brings one). ``--stack`` takes any stack that can be opened, such as the
real sections of a benchmark; without it the package's own serial sections are aligned. Each scene runs in a process of
its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from register_panel import pump

HERE = Path(__file__).parent

# name: theme, width of the dock, what is unfolded
SCENES: dict[str, tuple[str, int, bool]] = {
    "sections": ("dark", 340, False),
    "sections_light": ("light", 340, False),
    "sections_narrow": ("dark", 300, True),
}


def scene(name: str, folder: Path, stack: Path | None) -> None:
    """One scene: before, during and after a run, the cuts, a section mended, the result saved."""
    import napari
    import numpy as np
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    from napari_stnreg.samples.sections import section_stack
    from napari_stnreg.stacks.sources import open_stack
    from napari_stnreg.widgets.align import AlignWidget

    theme, width, unfolded = SCENES[name]
    viewer = napari.Viewer(show=True)
    viewer.theme = theme
    if stack is None:
        image = section_stack().moving
        data, scale, unit = np.asarray(image.data).copy(), image.grid.spacing, image.grid.unit
        data[6] = 0  # a section that was lost
    else:
        source = open_stack(stack)
        data = np.stack([source.read(z) for z in range(source.shape[0])])
        scale, unit = source.spacing, source.unit
    viewer.add_image(data, name="sections", scale=scale, units=(unit,) * 3, axis_labels=("z", "y", "x"))
    panel = AlignWidget(viewer)
    dock = viewer.window.add_dock_widget(panel, name="Align section stack")
    main = viewer.window._qt_window
    main.resize(1400, 900)
    main.resizeDocks([dock], [width], Qt.Orientation.Horizontal)
    if unfolded:
        for part in (panel.inputs.more, panel.mend):
            part.expand(animate=False)
    pump(2.0)
    viewer.reset_view()

    def picture(moment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        pump(0.8)
        viewer.screenshot(str(folder / f"{name}_{moment}.png"), canvas_only=False, flash=False)

    def press(button: object) -> None:
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    def finished() -> None:
        pump(900, lambda: not panel.running)
        pump(0.5)

    picture("1_before")
    press(panel.align_button)
    pump(600, lambda: panel.bar.value() > 150 or not panel.running)
    picture("2_during")
    finished()
    picture("3_after")
    panel.plot.picked.emit(3)
    press(panel.flicker_button)
    picture("4_flicker")
    press(panel.flicker_button)
    press(panel.reslice_button)
    finished()
    picture("5_cuts")
    panel.mend.expand(animate=False)
    pump(0.5)
    press(panel.exclude_button)
    press(panel.again_button)
    finished()
    panel.scroll.verticalScrollBar().setValue(panel.scroll.verticalScrollBar().maximum())
    picture("6_mended")
    panel.save_to(folder / f"{name}.zarr")
    finished()
    viewer.close()


def main() -> None:
    """Run the scenes that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*", default=list(SCENES))
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "pictures-output")
    parser.add_argument("--stack", type=Path)
    parser.add_argument("--here", action="store_true", help="run one scene in this process")
    options = parser.parse_args()
    if options.here:
        scene(options.scenes[0], options.out, options.stack)
        return
    for name in options.scenes:
        command = [sys.executable, __file__, name, "--here", "--out", str(options.out)]
        subprocess.run(command + ([] if options.stack is None else ["--stack", str(options.stack)]), check=True)


if __name__ == "__main__":
    main()
