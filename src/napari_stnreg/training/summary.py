"""Training summary in the header of a model file, and the images that the model expects."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_stnreg.core.provenance import package_versions
from napari_stnreg.models.input_spec import InputSpec, SizeMode
from napari_stnreg.networks import Network
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
        "versions": package_versions(),
    }


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
