"""How long the plugin blocks the window: ``python -m benchmark.gui_latency [--out DIR]`` where napari and a display are
(for example under ``xvfb-run -a``; ``make latency``).

A timer beats every 5 ms in the GUI thread. While the thread is busy with anything else the beat is late: the lateness
is the block that a user feels, and the CPU time of the thread between two beats is its own share of it, which other
programs do not change. Beats are kept from the moment Register is pressed until the results are in the layer list and
drawn, while they are removed again by Undo, and while a second run is stopped. The one-time import of torch is made
before, as the plugin makes it while the program is idle. A stop ends when the result so far is scored; the CPU time of
all threads until then is given beside it. A second table gives the rate at which the moving image follows a landmark
that is dragged.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmark.data import smooth_field

BEAT = 0.005
PATIENCE = 300.0
# Previews a second, if the panel's own default is lower.
PREVIEW_RATE = 4.0
RUNS = {"128^3": (128, 128, 128), "1024^2": (1024, 1024)}
# A beat that is this much late already counts as a block; below it is the timer's own jitter.
LEAST_BLOCK = 0.001


@dataclass
class Heartbeat:
    """A timer in the GUI thread that notes how late each of its beats is, and the CPU time since the one before."""

    blocks: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    _last: float = 0.0
    _last_work: float = 0.0
    _timer: Any = None

    def start(self) -> None:
        """Begin to beat."""
        from qtpy.QtCore import Qt, QTimer

        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(round(1000 * BEAT))
        self._timer.timeout.connect(self._beat)
        self._last, self._last_work = time.perf_counter(), time.thread_time()
        self._timer.start()

    def _beat(self) -> None:
        now, work = time.perf_counter(), time.thread_time()
        self.blocks.append(max(now - self._last - BEAT, 0.0))
        self.work.append(work - self._last_work)
        self._last, self._last_work = now, work

    def stop(self) -> None:
        """Stop, counting the time since the last beat too."""
        self._beat()
        self._timer.stop()

    def summary(self) -> dict[str, float]:
        """Blocks in milliseconds: how many, their median, 99th percentile and longest; the longest own work."""
        blocks = 1000 * np.array([b for b in self.blocks if b >= LEAST_BLOCK] or [0.0])
        return {
            "beats": len(self.blocks),
            "blocks": sum(b >= LEAST_BLOCK for b in self.blocks),
            "median_ms": float(np.median(blocks)),
            "p99_ms": float(np.percentile(blocks, 99)),
            "longest_ms": float(blocks.max()),
            "longest_work_ms": 1000 * max(self.work, default=0.0),
            "work_over_100_ms": sum(work > 0.1 for work in self.work),
        }


def made_pair(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A textured picture and the same warped smoothly, made before the clock runs."""
    small = tuple(n // 4 for n in shape)
    noise = np.random.default_rng(0).standard_normal(small)
    texture = ndimage.gaussian_filter(noise, 2)
    moving = ndimage.zoom((128 + 50 * texture / texture.std()).clip(0, 255), 4, order=1)
    step = np.stack([ndimage.zoom(part, 4, order=1) for part in smooth_field(small, seed=1, rms=min(shape) / 32)])
    fixed = ndimage.map_coordinates(moving, np.indices(shape) + step, order=1, mode="nearest")
    return fixed.astype(np.uint8), moving.astype(np.uint8)


def open_panel(viewer: Any, fixed: Any, moving: Any) -> Any:
    """Open the panel on two layers with the preview on.

    This and :func:`press_register` hold everything that depends on the widget's attributes.
    """
    _, widget = viewer.window.add_plugin_dock_widget("napari-stnreg", "STN registration")
    widget.set_fixed(fixed)
    widget.set_moving(moving)
    widget.options.rate_box.setValue(max(widget.options.rate_box.value(), PREVIEW_RATE))
    return widget


def press_register(widget: Any) -> Callable[[], bool]:
    """Press Register; give a function that says when the run is over and its layers are there."""
    if not widget.start():
        sys.exit(f"The run did not start: {widget.status.text()}")
    return lambda: not widget.running


def pump(until: Callable[[], bool], seconds: float, poll: float = 0.05) -> bool:
    """Let the GUI work until something is true; false when it took longer than allowed."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    deadline = time.perf_counter() + seconds
    reached = False

    def look() -> None:
        nonlocal reached
        reached = until()
        if reached or time.perf_counter() > deadline:
            loop.quit()

    timer = QTimer()
    timer.setInterval(round(1000 * poll))
    timer.timeout.connect(look)
    timer.start()
    loop.exec()
    timer.stop()
    return reached


def wait(seconds: float) -> None:
    """Let the GUI work for some time."""
    pump(lambda: False, seconds)


def measure(shape: tuple[int, ...], threads: int, preset: str = "fast") -> dict[str, Any]:
    """Register a made pair of a shape in a new viewer and return the blocks of the GUI thread."""
    import napari
    import torch

    torch.set_num_threads(threads)
    images = made_pair(shape)
    viewer = napari.Viewer(show=True)
    fixed, moving = (viewer.add_image(im, name=name) for im, name in zip(images, ("fixed", "moving"), strict=True))
    widget = open_panel(viewer, fixed, moving)
    widget.options.set_values({"preset": preset})
    wait(4.0)  # the panel imports what a run needs while the program is idle
    idle, heart, undo, stopping = (Heartbeat() for _ in range(4))
    idle.start()
    wait(2.0)
    idle.stop()
    heart.start()
    began = time.perf_counter()
    first: list[float] = []
    viewer.layers.events.inserted.connect(lambda _event: first.append(time.perf_counter() - began))
    done = press_register(widget)
    finished = pump(done, PATIENCE)
    seconds = time.perf_counter() - began
    wait(1.0)  # the results are added and drawn after the run
    heart.stop()
    layers = len(viewer.layers)
    undo.start()
    widget.undo()
    pump(done, PATIENCE)
    wait(1.0)
    undo.stop()
    stopping.start()
    done = press_register(widget)
    pump(lambda: widget.bar.value() > 200, PATIENCE)
    asked, stop_work = time.perf_counter(), time.process_time()
    widget.stop()
    pump(lambda: not widget.stopping, PATIENCE, 0.01)
    stop_seconds, stop_work = time.perf_counter() - asked, time.process_time() - stop_work
    pump(done, PATIENCE)
    stopping.stop()
    viewer.close()
    return {
        "finished": finished, "seconds": seconds, "first_preview_s": first[0] if first else None, "layers": layers,
        "stop_s": stop_seconds, "stop_cpu_s": stop_work, "idle": idle.summary(), "undo": undo.summary(),
        "stopping": stopping.summary(),
        **heart.summary(),
    }  # fmt: skip


def measure_landmarks(shape: tuple[int, ...], threads: int, seconds: float = 3.0) -> dict[str, Any]:
    """Drag one of 20 landmarks of a thin-plate spline, 60 moves a second; return updates and CPU times.

    ``engine_ms`` is the CPU time of fit and warp in the thread that warps, ``gui_ms`` that of the GUI thread without
    drawing, ``drawn_ms`` with it. All are CPU times of one core, which other programs on the machine change little.
    """
    import napari
    import torch
    from qtpy.QtCore import QTimer

    torch.set_num_threads(threads)
    images = made_pair(shape)
    viewer = napari.Viewer(show=True)
    fixed, moving = (viewer.add_image(im, name=name) for im, name in zip(images, ("fixed", "moving"), strict=True))
    _, panel = viewer.window.add_plugin_dock_widget("napari-stnreg", "Landmark registration")
    panel.set_layers(fixed, moving)
    rng = np.random.default_rng(0)
    points = (0.05 + 0.9 * rng.random((20, len(shape)))) * shape
    panel.landmarks.family_box.set_current("tps")
    panel.add_pairs(points, points + rng.normal(0, 4, points.shape))
    panel.place()
    pump(lambda: panel.updates > 0, PATIENCE)
    wait(2.0)
    times: dict[str, list[float]] = {"engine": [], "gui": []}
    live = panel._live._live

    def timed_live(*arguments: Any) -> Any:
        started = time.thread_time()
        frame = live(*arguments)
        times["engine"].append(time.thread_time() - started)
        return frame

    panel._live._live = timed_live
    numbers = count()

    def move() -> None:
        started = time.thread_time()
        panel.pairs.move(3, "moving", points[3] + 0.3 * next(numbers))
        panel._refit(dragging=True)
        times["gui"].append(time.thread_time() - started)

    mouse = QTimer()
    mouse.setInterval(1000 // 60)
    mouse.timeout.connect(move)
    updates, began, work = panel.updates, time.perf_counter(), time.thread_time()
    panel.pairs.begin_move()
    mouse.start()
    wait(seconds)
    mouse.stop()
    elapsed, work = time.perf_counter() - began, time.thread_time() - work
    updates = panel.updates - updates
    panel.leave()
    viewer.close()
    return {
        "updates_per_s": updates / elapsed,
        "engine_ms": 1000 * float(np.median(times["engine"])),
        "gui_ms": 1000 * float(np.median(times["gui"])),
        "drawn_ms": 1000 * work / max(updates, 1),
    }


def main() -> None:
    """Print a table and, with ``--out``, write ``gui_latency.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for gui_latency.json")
    parser.add_argument("--runs", default=",".join(RUNS), help="of: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--landmarks", action="store_true", help="measure the drag of a landmark alone")
    options = parser.parse_args()
    try:
        import napari  # noqa: F401
        import torch  # noqa: F401
        from qtpy.QtWidgets import QApplication  # noqa: F401
    except ImportError as error:
        sys.exit(f"The GUI was not measured: {error}.")
    landmarks = {name: measure_landmarks(RUNS[name], options.threads) for name in options.runs.split(",")}
    print("| landmarks | updates/s | fit and warp, CPU ms | GUI thread, CPU ms | with drawing, CPU ms |")
    print("| --- | --- | --- | --- | --- |")
    for name, r in landmarks.items():
        work = " | ".join(f"{r[key]:.0f}" for key in ("engine_ms", "gui_ms", "drawn_ms"))
        print(f"| {name} | {r['updates_per_s']:.1f} | {work} |")
    if options.landmarks:
        return
    results = {name: measure(RUNS[name], options.threads, options.preset) for name in options.runs.split(",")}
    titles = (
        "run",
        "s",
        "first preview s",
        "stop s",
        "stop, CPU s",
        "own work: run ms",
        "undo ms",
        "stopped run ms",
        "wall: longest ms",
    )
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    for name, r in results.items():
        work = " | ".join(f"{part['longest_work_ms']:.0f}" for part in (r, r["undo"], r["stopping"]))
        first = "-" if r["first_preview_s"] is None else f"{r['first_preview_s']:.1f}"
        note = "" if r["finished"] else " (not finished)"
        stop = f"{r['stop_s']:.1f} | {r['stop_cpu_s']:.1f}"
        print(f"| {name}{note} | {r['seconds']:.1f} | {first} | {stop} | {work} | {r['longest_ms']:.0f} |")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gui_latency.json").write_text(json.dumps({**results, "landmarks": landmarks}, indent=1) + "\n")


if __name__ == "__main__":
    main()
