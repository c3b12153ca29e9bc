"""Digit classifiers with and without a spatial transformer, trained side by side.

References
----------
Jaderberg et al., Spatial transformer networks, NeurIPS 2015, section 4.1.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Literal

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
"""Number of test digits that are shown during training."""


class DigitClassifier(nn.Module):
    """A small classifier, optionally with a spatial transformer as its first layer.

    Parameters
    ----------
    size
        Side of the images in pixels.
    transformer
        Whether the first layer is an affine spatial transformer. Its output has 0.7 times the side, so it learns to
        crop to the digit.
    body
        ``"dense"``: three fully connected layers, as in the first row of the paper's Table 1. They know nothing of
        shifts, so the whole invariance must come from the data or from the transformer. ``"convolutional"``: two
        convolutions with pooling, and two dense layers.
    """

    def __init__(self, size: int, *, transformer: bool, body: Literal["dense", "convolutional"] = "dense") -> None:
        super().__init__()
        seen = round(0.7 * size) if transformer else size
        self.transformer: SpatialTransformer | None = None
        if transformer:
            self.transformer = SpatialTransformer.with_cnn(
                1, (size, size), "affine", features=(16, 32, 32), hidden=64, output_shape=(seen, seen)
            )
        if body == "dense":
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(seen * seen, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
            )
        else:
            self.body = nn.Sequential(
                nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(16, 24, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(24 * (seen // 4) ** 2, 48), nn.ReLU(), nn.Linear(48, 10),
            )  # fmt: skip

    def transformed(self, images: Tensor) -> Tensor:
        """Return images ``(B, 1, y, x)`` after the spatial transformer."""
        output: Tensor = images if self.transformer is None else self.transformer(images)
        return output

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits of the ten classes, ``(B, 10)``."""
        scores: Tensor = self.body(self.transformed(pictures))
        return scores

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters())


@dataclass(frozen=True)
class ClassifierProgress:
    """Progress of both classifiers.

    Parameters
    ----------
    step, total
        Batches done and planned.
    accuracy
        Fraction of test digits that each classifies correctly, by ``"plain"`` and ``"transformer"``.
    loss
        Mean cross-entropy of each since the last progress.
    pictures
        Some test digits, ``(SHOWN, size, size)``.
    transformed
        The same digits after the spatial transformer, ``(SHOWN, y, x)``.
    seconds
        Processor time of each so far.
    """

    step: int
    total: int
    accuracy: dict[str, float]
    loss: dict[str, float]
    pictures: npt.NDArray[np.float32]
    transformed: npt.NDArray[np.float32]
    seconds: dict[str, float]


@dataclass
class ClassifierResult:
    """The two classifiers and their training curves."""

    models: dict[str, DigitClassifier]
    progress: list[ClassifierProgress] = field(default_factory=list)

    @property
    def accuracy(self) -> dict[str, float]:
        """Final accuracy of each classifier."""
        return self.progress[-1].accuracy

    def frames(self) -> npt.NDArray[np.float32]:
        """Return the transformed test digits during training, ``(T, SHOWN, y, x)``."""
        return np.stack([item.transformed for item in self.progress])


def train_classifiers(
    data: DigitData,
    *,
    steps: int = 2500,
    batch: int = 64,
    every: int = 50,
    test_count: int = 512,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Generator[ClassifierProgress, Any, ClassifierResult]:
    """Train both classifiers on the same batches.

    Parameters
    ----------
    data
        Digits to train and test on.
    steps, batch
        Number of batches, and images per batch.
    every
        Steps between two progress reports; the start and the end are reported too.
    test_count
        Number of distorted test digits for the accuracy; the same ones each time.
    learning_rate
        Learning rate of Adam. The localization network learns as fast as the classifier: at a fifth of it, it learned
        to center and to zoom, but not to rotate; at twice, it lost the digits.
    seed
        Seed of the weights and the batches.

    Yields
    ------
    ClassifierProgress
        ``send("stop")`` ends the training after the current step.

    Returns
    -------
    ClassifierResult
    """
    result = ClassifierResult(_models(data.size, seed))
    optimizers = {name: torch.optim.Adam(model.parameters(), learning_rate) for name, model in result.models.items()}
    schedules = {
        name: torch.optim.lr_scheduler.CosineAnnealingLR(each, max(steps, 1), learning_rate * 0.02)
        for name, each in optimizers.items()
    }
    test = data.batch(test_count, seed=-1 - seed, test=True)
    seconds, losses = dict.fromkeys(NAMES, 0.0), {name: [0.0] for name in NAMES}
    command = yield _evaluate(result, 0, steps, test, losses, seconds)
    for step, (pictures, classes) in enumerate(data.batches(batch, steps, seed), start=1):
        if command == "stop":
            break
        for name, model in result.models.items():
            start_time = time.process_time()
            with single_thread():
                loss = F.cross_entropy(model.train()(pictures), classes)
                optimizers[name].zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizers[name].step()
            schedules[name].step()
            losses[name].append(float(loss.detach()))
            seconds[name] += time.process_time() - start_time
        if step % every == 0 or step == steps:
            command = yield _evaluate(result, step, steps, test, losses, seconds)
            losses = {name: [] for name in NAMES}
    return result


def _models(size: int, seed: int) -> dict[str, DigitClassifier]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: DigitClassifier(size, transformer=name == "transformer") for name in NAMES}


def _evaluate(
    result: ClassifierResult, step: int, total: int, test: tuple[Tensor, Tensor], losses: dict[str, list[float]],
    seconds: dict[str, float],
) -> ClassifierProgress:  # fmt: skip
    pictures, classes = test
    accuracy = {}
    with torch.no_grad():
        for name, model in result.models.items():
            accuracy[name] = float((model.eval()(pictures).argmax(1) == classes).float().mean())
        transformed = result.models["transformer"].transformed(pictures[:SHOWN])[:, 0]
    means = {name: float(np.mean(values)) if values else float("nan") for name, values in losses.items()}
    shown = np.array(pictures[:SHOWN, 0].numpy())
    progress = ClassifierProgress(step, total, accuracy, means, shown, np.array(transformed.numpy()), dict(seconds))
    result.progress.append(progress)
    return progress
