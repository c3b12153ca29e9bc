"""Replay of a training in the viewer: the warped images of the validation pair over the fixed image."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.napari_layers import LayerData, placement
from napari_stnreg.visualization.overlays import limits_of
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress
from napari_stnreg.widgets.train.job import Trained

if TYPE_CHECKING:
    from napari_stnreg.teaching.replay import Replay


def training_record(trained: Trained) -> dict[str, Any]:
    """Return the metadata (key ``"stnreg_training"``) that describes how the model was made."""
    summary = trained.model.summary
    names = ("best", "data", "settings", "seed", "versions")
    return {"model": trained.model.name, **{name: summary[name] for name in names if name in summary}}


def replay_of(
    trained: Trained, unit: str, _control: TaskControl
) -> Generator[TaskProgress, None, tuple[Replay, list[LayerData]]]:
    """Return the replay of a training and its layers, fixed image first; runs in the worker.

    Parameters
    ----------
    trained
        The model with its pictures.
    unit
        Unit of the time axis; one that the viewer's other layers have there.

    Raises
    ------
    InputError
        If the training kept no pictures.
    """
    yield TaskProgress(0.0, "Making the replay")
    model, example, grid = trained.model, trained.example, trained.grid
    if model.replay is None or not len(model.replay) or example is None or grid is None:
        raise InputError("The training kept no images. Set snapshots to more than 0 (under Advanced).")
    from napari_stnreg.teaching.replay import Replay  # imports torch, which opening the panel must not

    replay = Replay.from_model(model, grid)
    record = {"stnreg_training": training_record(trained)}
    fixed = np.asarray(example.fixed, dtype=np.float32)
    look = {"name": f"{model.name}: fixed image of the pair", "colormap": "green", "contrast_limits": limits_of(fixed)}
    pictures, film, kind = replay.layer(unit)
    film |= {"colormap": "magenta", "blending": "additive", "metadata": film["metadata"] | record}
    return replay, [(fixed, {**look, "metadata": record, **placement(grid)}, "image"), (pictures, film, kind)]
