"""Auto-encoder features for section matching, as in ssEMnet."""

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

FEATURE_LAYERS = (0, 1)
"""Encoder layers whose channels are features: those at 1/2 and 1/4 of the resolution."""


@dataclass(frozen=True)
class EncoderFeatures:
    """Feature extractor for :func:`~napari_stnreg.stacks.preprocessing.features.prepare`.

    Parameters
    ----------
    network
        A trained auto-encoder for 2D images of one channel.
    """

    network: AutoEncoder

    def __call__(self, image: Plane) -> Plane:
        """Compute features ``(C, h, w)`` of a normalized section ``(h, w)``, resized to the section."""
        with torch.no_grad():
            seen = self.network.eval().encode(torch.from_numpy(np.ascontiguousarray(image))[None, None])
            full = [
                F.interpolate(seen[d], size=image.shape, mode="bilinear", align_corners=False)
                for d in FEATURE_LAYERS
                if d < len(seen)
            ]
        return np.asarray(torch.cat(full, dim=1)[0].numpy(), dtype=np.float32)


def load_extractor(model: str | os.PathLike[str] | Model) -> EncoderFeatures:
    """Create the feature extractor of a trained auto-encoder, from a model file or a model.

    Raises
    ------
    InputError
        If the model is not an auto-encoder for 2D images with one channel.
    """
    from napari_stnreg.models.model import Model
    from napari_stnreg.networks.auto_encoder import AutoEncoder

    if not isinstance(model, Model):
        from napari_stnreg.models.model_file import load

        found = load(model)
        if not isinstance(found, Model):
            raise InputError(f"'{os.fspath(model)}' does not contain a trained network.")
        model = found
    network = model.network
    if not isinstance(network, AutoEncoder) or network.ndim != 2 or network.channels != 1:
        raise InputError(f"'{model.name}' is not an auto-encoder for 2D images with one channel.")
    return EncoderFeatures(network.to("cpu"))


def training_steps(sections: Sequence[Plane], *, epochs: int = 30, seed: int = 0) -> TrainingSteps:
    """Train an auto-encoder on sections of the stack to align; returns the model.

    Parameters
    ----------
    sections
        Sections ``(h, w)`` at the working resolution, normalized by ``prepare``. At least two; a few tens suffice.
    epochs, seed
        Number of training epochs and random seed.
    """
    from napari_stnreg.training.api import train_steps
    from napari_stnreg.training.data.datasets import open_training_data

    if len(sections) < 2:
        raise InputError("Training an auto-encoder needs at least two sections.")
    images = [
        Image(np.asarray(s, dtype=np.float32), Grid(s.shape, np.eye(3)), name=f"section {k}")
        for k, s in enumerate(sections)
    ]
    # Two sections leave none for validation; the best weights are then those of the lowest training loss.
    data = open_training_data(images, validation_fraction=0.0) if len(images) == 2 else open_training_data(images)
    return train_steps(data, network="auto-encoder", epochs=epochs, seed=seed, device="cpu")


def train_extractor(sections: Sequence[Plane], *, epochs: int = 30, seed: int = 0) -> EncoderFeatures:
    """Train an auto-encoder on sections and return its features; runs :func:`training_steps` to completion."""
    return load_extractor(run_to_completion(training_steps(sections, epochs=epochs, seed=seed)))
