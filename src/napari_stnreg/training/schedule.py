"""Learning-rate schedule, and the phases of sequential training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_stnreg.training.settings import TrainingSettings


@dataclass(frozen=True)
class LearningRateSchedule:
    """Learning rates and training phases.

    Parameters
    ----------
    settings
        Epochs, learning rate, schedule and warm-up.
    steps
        Batches in an epoch.
    phases
        Number of networks that are trained sequentially; 1 for joint training.
    """

    settings: TrainingSettings
    steps: int
    phases: int

    def phase(self, epoch: int) -> int:
        """Return the index of the network that is trained in an epoch."""
        return min(epoch * self.phases // self.settings.epochs, self.phases - 1)

    def epochs_of(self, phase: int) -> tuple[int, int]:
        """Return the first epoch of a phase and the first after it."""
        first = [math.ceil(self.settings.epochs * p / self.phases) for p in (phase, phase + 1)]
        return first[0], first[1]

    def learning_rate(self, epoch: int, step: int) -> float:
        """Return the learning rate of one batch; every phase has its own schedule."""
        first, end = self.epochs_of(self.phase(epoch))
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
