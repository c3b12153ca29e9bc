"""How long a large registration takes to notice Stop: the longest CPU time between two places that look for it.

``python -m benchmark.stopping --size 8000,8000`` and ``--size 512,512,512``, one thread. The run is stopped after
``--seconds`` of CPU time, and what the stop itself takes is reported as well.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import closing

import numpy as np
import torch

from benchmark.memory import peak_mb
from napari_stnreg import Image, RegistrationSettings, register_steps
from napari_stnreg.core.progress import StopRequested, StopSignal, interruptible, listening
from napari_stnreg.registration.result import Result


def make_pair(shape: tuple[int, ...]) -> tuple[Image, Image]:
    """Texture of two scales as uint8, and the same moved by a few voxels."""
    generator = torch.Generator().manual_seed(0)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    total = torch.zeros(shape)
    for step in (64, 8):
        coarse = torch.rand([1, 1, *(n // step + 1 for n in shape)], generator=generator)
        total += torch.nn.functional.interpolate(coarse, shape, mode=mode)[0, 0]
    fixed = (total * 127).to(torch.uint8).numpy()
    return Image.from_array(fixed), Image.from_array(np.roll(fixed, (5,) * fixed.ndim, tuple(range(fixed.ndim))))


class Watch(StopSignal):
    """Records the CPU time between two checks and where they are."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        super().__init__(stop)
        self.gaps: list[tuple[float, str, str]] = []
        self.last, self.place = time.process_time(), "begin"

    def mark(self, place: str) -> None:
        """Note a place where a stop would be noticed."""
        now = time.process_time()
        self.gaps.append((now - self.last, self.place, place))
        self.last, self.place = now, place

    def check(self) -> None:
        """Note the caller, then look for a stop."""
        frame = sys._getframe(2)
        self.mark(f"{frame.f_code.co_filename.rpartition('napari_stnreg/')[2]}:{frame.f_lineno}")
        super().check()


def run(shape: tuple[int, ...], seconds: float, settings: RegistrationSettings) -> None:
    """Register until the CPU time is spent, stop, and print the longest gaps."""
    fixed, moving = make_pair(shape)
    began = time.process_time()
    asked: list[float] = []

    def stop() -> bool:
        if time.process_time() - began < seconds:
            return False
        asked.append(time.process_time())
        return True

    watch = Watch(stop)
    last = ""
    with closing(register_steps(fixed, moving, settings)) as steps, listening(watch):
        try:
            item = next(steps)
            while True:
                last = item.message or item.stage
                watch.mark(f"progress: {last}")
                item = steps.send("stop") if watch.take() else next(steps)
        except StopIteration as end:
            result: Result = end.value
    spent = time.process_time() - began
    print(f"{shape}: {spent:.0f} CPU seconds, ended in '{last}', {result.stop_reason}, peak {peak_mb() / 1024:.1f} GiB")
    ordinary = [gap for gap in watch.gaps if not asked or gap[0] <= spent]
    for gap, start, end in sorted(ordinary, reverse=True)[:12]:
        print(f"  {gap:.2f} s from {start} to {end}")
    if asked:
        print(f"  stop until the result: {time.process_time() - asked[0]:.2f} s")
    # a second stop: everything ends at the next check
    with listening(StopSignal(lambda: False, lambda: True)), interruptible():
        before = time.process_time()
        try:
            result.transform.displacement(fixed.grid)
        except StopRequested:
            print(f"  a second stop ends warping after {time.process_time() - before:.2f} s")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="2048,2048", help="voxels along each axis")
    parser.add_argument("--seconds", type=float, default=300.0, help="CPU seconds until the stop")
    parser.add_argument("--family", default="auto")
    parser.add_argument("--preset", default="fast")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = RegistrationSettings.parse(preset=given.preset, device="cpu")
    if given.family != "auto":
        settings = RegistrationSettings.merge(settings, {"family": given.family})
    run(tuple(int(n) for n in given.size.split(",")), given.seconds, settings)


if __name__ == "__main__":
    main()
