"""How a network learned, as layers: a slider goes through the pictures of its validation pair."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from napari_stnreg.errors import InputError
from napari_stnreg.files.layer_data import AXIS_LABELS, LayerData, placement
from napari_stnreg.widgets.task import Control, Step
from napari_stnreg.widgets.train.work import Trained


def replay_record(trained: Trained) -> dict[str, Any]:
    """What the layers carry in their metadata under ``"stnreg_training"``: the curve above all."""
    summary = trained.model.summary
    names = ("curve", "replay_epochs", "best", "data", "settings", "seed", "versions")
    return {"model": trained.model.name, **{name: summary[name] for name in names if name in summary}}


def replay_layers(trained: Trained, unit: str, _control: Control) -> Generator[Step, None, list[LayerData]]:
    """The layers of a replay; for use in the worker.

    Parameters
    ----------
    trained
        The model with its pictures.
    unit
        Unit of the first axis, which counts epochs; one that the viewer's other layers have there.

    Raises
    ------
    InputError
        If the training kept no pictures.
    """
    yield Step(0.0, "making the replay")
    model, example, grid = trained.model, trained.example, trained.grid
    if model.replay is None or not len(model.replay) or example is None or grid is None:
        raise InputError("The training kept no pictures; give it more than 0 snapshots (under Advanced).")
    record = {"stnreg_training": replay_record(trained)}
    pictures = np.asarray(model.replay, dtype=np.float32)
    epochs = model.summary.get("replay_epochs") or list(range(len(pictures)))
    step = (epochs[-1] - epochs[0]) / max(len(epochs) - 1, 1) or 1.0
    affine = np.eye(grid.ndim + 2)
    affine[0, 0], affine[0, -1] = step, epochs[0]
    affine[1:, 1:] = grid.matrix
    fixed = np.asarray(example.fixed, dtype=np.float32)
    return [
        (
            fixed,
            {"name": f"{model.name}: fixed image of the pair", "colormap": "green", "contrast_limits": _limits(fixed),
             "metadata": record, **placement(grid)},
            "image",
        ),
        (
            pictures,
            {"name": f"{model.name}: how it learned", "colormap": "magenta", "contrast_limits": _limits(pictures),
             "blending": "additive", "metadata": record, "affine": affine,
             "units": (unit, *(grid.unit,) * grid.ndim), "axis_labels": ("epoch", *AXIS_LABELS[-grid.ndim :])},
            "image",
        ),
    ]  # fmt: skip


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))
