"""An engine of few lines with the contract of the real one, for tests in which the fit is not the point."""

from __future__ import annotations

import time

import numpy as np


class FakeEngine:
    """Moves from the identity to a known transform in equal steps; what it saw and did can be asked afterward."""

    def __init__(self, steps=30, pause=0.005, shift=3.0, error=None):
        self.steps, self.pause, self.shift, self.error = steps, pause, shift, error
        self.calls, self.closed, self.thread, self.verdict = [], 0, None, "good"
        self.warnings = []

    def truth(self, grid, fraction=1.0):
        import torch

        from napari_stnreg.core.grid import Grid
        from napari_stnreg.transforms import DiffeomorphicTransform

        small = grid.resized([max(n // 4, 2) for n in grid.shape])
        points = small.points()
        low, size = grid.corners().min(axis=0), np.ptp(grid.corners(), axis=0)
        phase = np.sin(2 * np.pi * (points - low) / size)
        field = np.moveaxis(phase[..., ::-1], -1, 0) * fraction * self.shift * grid.spacing.mean()
        return DiffeomorphicTransform(
            torch.from_numpy(field.astype(np.float32)), Grid(small.shape, small.matrix, small.unit)
        )

    def register_steps(self, fixed, moving, settings, **options):
        import threading

        from napari_stnreg.evaluation.verdict import Verdict
        from napari_stnreg.registration.result import Progress, Result
        from napari_stnreg.resampling.warp import warp

        self.calls.append((fixed, moving, settings, options))
        self.thread = threading.current_thread()
        losses, stop_reason, step = [], "finished", 0
        try:
            for step in range(self.steps):
                time.sleep(self.pause)
                if self.error is not None and step == 3:
                    raise self.error
                level = 0 if step < self.steps // 2 else 1
                fraction = (step + 1) / self.steps
                losses.append(("diffeomorphic", level, step, 1 / (1 + step)))
                told = yield Progress(
                    "diffeomorphic", level, 2, step + 1, self.steps, 1 / (1 + step),
                    lambda fraction=fraction: self.truth(fixed.grid, fraction),
                    f"diffeomorphic, level {level + 1} of 2",
                )  # fmt: skip
                if told == "stop":
                    stop_reason = "stopped"
                    break
            transform = self.truth(fixed.grid, (step + 1) / self.steps)
            warped = warp(moving, transform, fixed.grid, fill=settings.fill)
            scores = {"before": {"ncc": 0.5, "local_ncc": 0.4}, "after": {"ncc": 0.9, "local_ncc": 0.8}}
            judgment = Verdict(self.verdict, 0.9, ("The engine is a fake.",))
            return Result(
                transform, fixed.grid, warped, scores, 0.0, losses, stop_reason, 1.2, settings, {"napari-stnreg": "0"},
                judgment=judgment, warnings=list(self.warnings),
            )  # fmt: skip
        finally:
            self.closed += 1

    def available_devices(self):
        return [("cpu", "CPU, 2 threads")]
