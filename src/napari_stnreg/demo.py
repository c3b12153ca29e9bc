"""``python -m napari_stnreg.demo``: open napari on a sample pair and register it.

Without a real screen (``STNREG_DEMO_HEADLESS=1``, or ``CI`` is set) it does the same on the virtual one that
it was given, leaves a screenshot and the scores in ``demo-output/``, prints where, and ends.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

OUTPUT = Path("demo-output")
WATCH_MS = 1500
"""Time to look at the pair before it is registered."""


def headless() -> bool:
    """Return whether the demo runs without a screen."""
    return any(os.environ.get(name, "") not in ("", "0", "false") for name in ("STNREG_DEMO_HEADLESS", "CI"))


def open_pair() -> tuple[Any, Any]:
    """Open a viewer with the sample pair and the registration panel; return both."""
    import napari

    viewer = napari.Viewer(title="napari-stnreg")
    viewer.open_sample("napari-stnreg", "shapes")
    viewer.layers.selection = set(viewer.layers)
    _, panel = viewer.window.add_plugin_dock_widget("napari-stnreg", "STN registration")
    viewer.window.resize(1400, 900)
    return viewer, panel


def leave_results(viewer: Any, panel: Any) -> int:
    """Write the screenshot and the scores, and say where; the exit code."""
    OUTPUT.mkdir(exist_ok=True)
    picture, scores = OUTPUT / "registered.png", OUTPUT / "scores.json"
    viewer.screenshot(str(picture), canvas_only=False, flash=False)
    if panel.result is None:
        print(f"The registration did not succeed: {panel.status.text()}", file=sys.stderr)
        return 1
    report = panel.result.report()
    scores.write_text(json.dumps(report, indent=2) + "\n")
    before, after = report["scores"]["before"], report["scores"]["after"]
    print(f"Registered in {report['seconds']:.1f} s. Correlation {before['ncc']:.3f} before, {after['ncc']:.3f} after.")
    print(f"Screenshot: {picture.resolve()}")
    print(f"Scores:     {scores.resolve()}")
    return 0


def main() -> int:
    """Run the demo."""
    import napari
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication

    viewer, panel = open_pair()
    nobody = headless()
    code = 0
    done = QTimer()

    def look() -> None:
        nonlocal code
        if panel.running:
            return
        done.stop()
        code = leave_results(viewer, panel)
        viewer.close()
        QApplication.quit()

    def begin() -> None:
        panel.start()
        if nobody:
            # A moment after the last layer came, so that the screenshot shows it.
            done.timeout.connect(look)
            done.start(1000)

    QTimer.singleShot(WATCH_MS, begin)
    napari.run()
    return code


if __name__ == "__main__":
    raise SystemExit(main())
