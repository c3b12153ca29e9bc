"""Training summary in the header of a model file, and the images that the model expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_stnreg.core.provenance import package_versions
from napari_stnreg.models.input_spec import InputSpec, SizeMode
from napari_stnreg.networks import LocalizationNetwork, Network
from napari_stnreg.training.checkpoint import TrainingState
from napari_stnreg.training.data.batch import TrainingData
from napari_stnreg.training.settings import TrainingSettings


def training_summary(
    data: TrainingData,
    settings: TrainingSettings,
    state: TrainingState,
    *,
    stop_reason: str,
    seconds: float,
    device: str,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Summarize a training for the header of a model file.

    Parameters
    ----------
    data, settings, state
        Data, settings and final state of the training.
    stop_reason
        ``"finished"`` or ``"stopped"``.
    seconds
        Duration without pauses.
    device
        Device type.
    warnings
        What makes the model doubtful.
    """
    best = next(one for one in reversed(state.curve) if one.epoch == state.best_epoch)
    used = settings.model_dump(mode="json")
    used["similarity_used"] = settings.similarity_name
    return {
        "data": data.summary(),
        "pairs": data.count("train"),
        "epochs": state.epoch,
        "stop_reason": stop_reason,
        "best": {"epoch": best.epoch, "validation_loss": best.validation_loss, "scores": best.scores},
        "seed": settings.seed,
        "seconds": round(seconds, 1),
        "device": device,
        "settings": used,
        "curve": [
            {"epoch": one.epoch, "loss": one.loss, "validation_loss": one.validation_loss, "scores": one.scores}
            for one in state.curve
        ],
        "replay_epochs": state.replay_epochs,
        "warnings": list(warnings),
        "versions": package_versions(),
    }


@dataclass(frozen=True)
class SubjectCounts:
    """Numbers of subjects below which a training is announced to have few.

    Parameters
    ----------
    dense
        For networks that predict a field: each pair has many places to learn from.
    regression
        For networks that read a whole image for a few numbers: each pair is one example. A regression of 3D affine
        transforms, trained on pairs of four heads, improved 3 of 10 unseen pairs, 5 with augmentation, and 10 if each
        head was registered to itself, moved by known transforms.
    """

    dense: int = 20
    regression: int = 100


SUBJECT_COUNTS = SubjectCounts()


def data_warnings(data: TrainingData, network: Network) -> list[str]:
    """Return a warning if a network has few subjects to learn from; generated data are never few."""
    description = data.summary()
    subjects = description.get("subjects")
    if subjects is None and description.get("kind") == "dataset":
        subjects = data.count("train")
    if subjects is None or not isinstance(network, LocalizationNetwork):
        return []
    names = [one.name for one in network.networks()]
    regresses = any(one.fixed_size for one in network.networks())
    if regresses and description.get("same_image"):
        return []  # known transforms give as many examples as are drawn
    if subjects >= (SUBJECT_COUNTS.regression if regresses else SUBJECT_COUNTS.dense):
        return []
    weights = sum(parameter.numel() for parameter in network.parameters())
    advice = (
        "register each image to itself by known transforms (--known-transforms, truth_weight 1, similarity_weight 0)"
        if regresses
        else "augment strongly, or start from a trained model"
    )
    return [
        f"{subjects} {'subject is' if subjects == 1 else 'subjects are'} few for the {weights:,} weights of "
        f"{'+'.join(names)}, so the model can make new pairs worse: add images, {advice}, and refine the results."
    ]


def input_spec_of(data: TrainingData, network: Network, settings: TrainingSettings) -> InputSpec:
    """Return the images that a model trained on some data will expect.

    With ``size_mode="auto"``, images without a physical unit are scaled to the size of a fixed-size network; otherwise
    voxels keep the size of the training data.
    """
    grid = data.grid
    size_mode: SizeMode = "spacing"
    if settings.size_mode != "auto":
        size_mode = settings.size_mode
    elif grid.unit == "pixel" and all(one.fixed_size for one in network.networks()):
        size_mode = "extent"
    spacing = tuple(float(s) for s in np.abs(np.diag(grid.linear)))
    return InputSpec(grid.ndim, data.channels, grid.shape, spacing, grid.unit, size_mode, data.normalization)
