"""Features of an auto-encoder for the matching of sections, as ssEMnet compares them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.stacks.preprocessing.artifacts import Plane

if TYPE_CHECKING:
    from napari_stnreg.models.model import Model
    from napari_stnreg.networks.auto_encoder import AutoEncoder
    from napari_stnreg.training.trainer import TrainingSteps

DEPTHS = (0, 1)
"""Layers whose channels are compared: those at a half and a quarter of the resolution."""


@dataclass(frozen=True)
class EncoderFeatures:
    """Makes features ``(C, h, w)`` of a normalized section ``(h, w)``; give it to ``prepare`` as the extractor.

    Parameters
    ----------
    network
        A trained auto-encoder for 2D images of one channel.
    """

    network: AutoEncoder

    def __call__(self, image: Plane) -> Plane:
        """Features, brought to the image's own size."""
        with torch.no_grad():
            seen = self.network.eval().encode(torch.from_numpy(np.ascontiguousarray(image))[None, None])
            full = [
                F.interpolate(seen[d], size=image.shape, mode="bilinear", align_corners=False)
                for d in DEPTHS
                if d < len(seen)
            ]
        return np.asarray(torch.cat(full, dim=1)[0].numpy(), dtype=np.float32)


def load_extractor(model: str | os.PathLike[str] | Model) -> EncoderFeatures:
    """The features of a trained auto-encoder, from a model file or a model.

    Raises
    ------
    InputError
        If the model is no auto-encoder for 2D images of one channel.
    """
    from napari_stnreg.models.model import Model
    from napari_stnreg.networks.auto_encoder import AutoEncoder

    if not isinstance(model, Model):
        from napari_stnreg.models.model_file import load

        found = load(model)
        if not isinstance(found, Model):
            raise InputError(f"'{os.fspath(model)}' holds no trained network.")
        model = found
    network = model.network
    if not isinstance(network, AutoEncoder) or network.ndim != 2 or network.channels != 1:
        raise InputError(f"'{model.name}' is no auto-encoder for 2D images of one channel.")
    return EncoderFeatures(network.to("cpu"))


def training_steps(sections: Sequence[Plane], *, epochs: int = 30, seed: int = 0) -> TrainingSteps:
    """Train an auto-encoder on sections of the very stack that is to be aligned; returns the model.

    Parameters
    ----------
    sections
        Some sections ``(h, w)`` at the working resolution, normalized as ``prepare`` does; at least two, a few tens are
        plenty.
    epochs, seed
        Of the training.
    """
    from napari_stnreg.training.api import train_steps
    from napari_stnreg.training.data.datasets import open_training_data

    if len(sections) < 2:
        raise InputError("An auto-encoder is trained on two sections or more.")
    images = [
        Image(np.asarray(s, dtype=np.float32), Grid(s.shape, np.eye(3)), name=f"section {k}")
        for k, s in enumerate(sections)
    ]
    # Two are a pair, and none is left to be held back: the best weights are then those of the least training loss.
    data = open_training_data(images, validation_fraction=0.0) if len(images) == 2 else open_training_data(images)
    return train_steps(data, network="auto-encoder", epochs=epochs, seed=seed, device="cpu")


def train_extractor(sections: Sequence[Plane], *, epochs: int = 30, seed: int = 0) -> EncoderFeatures:
    """Features of an auto-encoder trained on sections; :func:`training_steps` run to its end."""
    return load_extractor(run_to_completion(training_steps(sections, epochs=epochs, seed=seed)))
