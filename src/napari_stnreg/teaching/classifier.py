"""A small digit classifier twice over, with a spatial transformer in front and without, trained side by side.

References
----------
Jaderberg et al., Spatial transformer networks, NeurIPS 2015, section 4.1.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_stnreg.core.device import single_thread
from napari_stnreg.networks.spatial_transformer import SpatialTransformer
from napari_stnreg.teaching.digits import DigitData

NAMES = ("plain", "transformer")
SHOWN = 8
"""How many test digits are shown as they are learned."""


class DigitClassifier(nn.Module):
    """Two convolutions with pooling and two layers on top; with a spatial transformer in front, or without.

    Parameters
    ----------
    size
        Side of the pictures in pixels.
    transformer
        Whether an affine spatial transformer looks first. It hands on a picture of 0.6 times the side, which has to be
        filled with what matters.
    """

    def __init__(self, size: int, *, transformer: bool) -> None:
        super().__init__()
        seen = round(0.6 * size) if transformer else size
        self.transformer: SpatialTransformer | None = None
        if transformer:
            self.transformer = SpatialTransformer.with_cnn(
                1, (size, size), "affine", features=(12, 24, 24), hidden=48, output_shape=(seen, seen)
            )
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(24 * (seen // 4) ** 2, 48), nn.ReLU(), nn.Linear(48, 10),
        )  # fmt: skip

    def seen(self, pictures: Tensor) -> Tensor:
        """What the classifier is shown of pictures ``(B, 1, y, x)``."""
        looked: Tensor = pictures if self.transformer is None else self.transformer(pictures)
        return looked

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores of the ten classes, ``(B, 10)``."""
        scores: Tensor = self.body(self.seen(pictures))
        return scores

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters())


@dataclass(frozen=True)
class ClassifierProgress:
    """How far the two are.

    Parameters
    ----------
    step, total
        Batches done and planned.
    accuracy
        Share of the test digits that each names rightly, by ``"plain"`` and ``"transformer"``.
    loss
        Mean cross-entropy of each since the last progress.
    pictures
        The same few test digits, ``(SHOWN, size, size)``.
    seen
        What the transformer shows its classifier of them, ``(SHOWN, y, x)``.
    seconds
        Processor time of each so far.
    """

    step: int
    total: int
    accuracy: dict[str, float]
    loss: dict[str, float]
    pictures: npt.NDArray[np.float32]
    seen: npt.NDArray[np.float32]
    seconds: dict[str, float]


@dataclass
class ClassifierResult:
    """The two classifiers and how they learned."""

    models: dict[str, DigitClassifier]
    progress: list[ClassifierProgress] = field(default_factory=list)

    @property
    def accuracy(self) -> dict[str, float]:
        """Of the end."""
        return self.progress[-1].accuracy

    def frames(self) -> npt.NDArray[np.float32]:
        """What the transformer showed at each progress, ``(T, SHOWN, y, x)``."""
        return np.stack([item.seen for item in self.progress])


def train_classifiers(
    data: DigitData,
    *,
    steps: int = 1500,
    batch: int = 64,
    every: int = 50,
    test_count: int = 512,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Generator[ClassifierProgress, Any, ClassifierResult]:
    """Train both on the same batches in the same order.

    Parameters
    ----------
    data
        The digits.
    steps, batch
        Batches, and pictures in each.
    every
        A progress is yielded each so many steps, and at the start and the end.
    test_count
        Distorted test digits that the accuracy is measured on; they are the same each time.
    learning_rate
        Of Adam. The localization network learns at a fifth of it: it must not jump before the classifier knows what it
        wants.
    seed
        Of the weights and the batches.

    Yields
    ------
    ClassifierProgress
        ``send("stop")`` ends the training after the current step.

    Returns
    -------
    ClassifierResult
    """
    result = ClassifierResult(_models(data.size, seed))
    optimizers = {name: _optimizer(model, learning_rate) for name, model in result.models.items()}
    schedules = {
        name: torch.optim.lr_scheduler.CosineAnnealingLR(each, max(steps, 1), learning_rate * 0.02)
        for name, each in optimizers.items()
    }
    test = data.batch(test_count, seed=-1 - seed, test=True)
    seconds, losses = dict.fromkeys(NAMES, 0.0), {name: [0.0] for name in NAMES}
    told = yield _keep(result, 0, steps, test, losses, seconds)
    for step, (pictures, classes) in enumerate(data.batches(batch, steps, seed), start=1):
        if told == "stop":
            break
        for name, model in result.models.items():
            began = time.process_time()
            with single_thread():
                loss = F.cross_entropy(model.train()(pictures), classes)
                optimizers[name].zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizers[name].step()
            schedules[name].step()
            losses[name].append(float(loss.detach()))
            seconds[name] += time.process_time() - began
        if step % every == 0 or step == steps:
            told = yield _keep(result, step, steps, test, losses, seconds)
            losses = {name: [] for name in NAMES}
    return result


def _models(size: int, seed: int) -> dict[str, DigitClassifier]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: DigitClassifier(size, transformer=name == "transformer") for name in NAMES}


def _optimizer(model: DigitClassifier, rate: float) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": list(model.body.parameters()), "lr": rate}]
    if model.transformer is not None:
        groups.append({"params": list(model.transformer.parameters()), "lr": rate / 5})
    return torch.optim.Adam(groups)


def _keep(
    result: ClassifierResult, step: int, total: int, test: tuple[Tensor, Tensor], losses: dict[str, list[float]],
    seconds: dict[str, float],
) -> ClassifierProgress:  # fmt: skip
    pictures, classes = test
    accuracy = {}
    with torch.no_grad():
        for name, model in result.models.items():
            accuracy[name] = float((model.eval()(pictures).argmax(1) == classes).float().mean())
        seen = result.models["transformer"].seen(pictures[:SHOWN])[:, 0]
    means = {name: float(np.mean(values)) if values else float("nan") for name, values in losses.items()}
    shown = np.array(pictures[:SHOWN, 0].numpy())
    progress = ClassifierProgress(step, total, accuracy, means, shown, np.array(seen.numpy()), dict(seconds))
    result.progress.append(progress)
    return progress
