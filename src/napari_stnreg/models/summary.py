"""What a model tells of its training, and what it expects of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_stnreg.core.provenance import package_versions
from napari_stnreg.models.input_spec import InputSpec, Sizing
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
    """What the header of a model file says of how it was trained.

    Parameters
    ----------
    data, settings, state
        Of the training at its end.
    stop_reason
        ``"finished"`` or ``"stopped"``.
    seconds
        How long it took, pauses left out.
    device
        Kind of the device.
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


def contract_of(data: TrainingData, network: Network, settings: TrainingSettings) -> InputSpec:
    """What a model trained on some data will expect of images.

    Where pixels have no size and the network sees whole images, images of other sizes are fitted into its lattice;
    otherwise voxels keep the size they had.
    """
    grid = data.grid
    sizing: Sizing = getattr(getattr(data, "contract", None), "sizing", "spacing")
    if settings.sizing != "auto":
        sizing = settings.sizing
    elif sizing == "spacing" and grid.unit == "pixel":
        if all(one.fixed_size for one in network.networks()):
            sizing = "extent"
    spacing = tuple(float(s) for s in np.abs(np.diag(grid.linear)))
    return InputSpec(grid.ndim, data.channels, grid.shape, spacing, grid.unit, sizing, data.normalization)
