"""When which network is trained, and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_stnreg.training.settings import TrainingSettings


@dataclass(frozen=True)
class Schedule:
    """The epochs of a training, divided among the networks that are trained in turn.

    Parameters
    ----------
    settings
        Epochs, learning rate, schedule and warm-up.
    steps
        Batches in an epoch.
    phases
        How many networks are trained one after the other; 1 if all are trained together.
    """

    settings: TrainingSettings
    steps: int
    phases: int

    def phase(self, epoch: int) -> int:
        """Which network is trained, when they are trained in turn."""
        return min(epoch * self.phases // self.settings.epochs, self.phases - 1)

    def ends(self, phase: int) -> tuple[int, int]:
        """First epoch of a phase, and the first after it."""
        first = [math.ceil(self.settings.epochs * p / self.phases) for p in (phase, phase + 1)]
        return first[0], first[1]

    def rate(self, epoch: int, step: int) -> float:
        """The rate of one batch; every phase has a whole schedule of its own."""
        first, end = self.ends(self.phase(epoch))
        done = (epoch - first + step / self.steps) / (end - first)
        settings = self.settings
        rate = settings.learning_rate
        if settings.schedule == "cosine":
            rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        elif settings.schedule == "step":
            rate *= 0.1 ** (int(done * 10 >= 6) + int(done * 10 >= 8.5))
        if done < settings.warmup:
            rate *= (done * (end - first) * self.steps + 1) / (settings.warmup * (end - first) * self.steps + 1)
        return rate
