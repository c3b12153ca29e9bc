"""Register images by spatial transformers, in napari and without it.

>>> import napari_stnreg as sr
>>> result = sr.register(fixed, moving)  # doctest: +SKIP

Importing the package is quick: torch is loaded when something of it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_stnreg._version import __version__

if TYPE_CHECKING:
    from napari_stnreg.core.device import available_devices as available_devices
    from napari_stnreg.core.errors import FitError as FitError
    from napari_stnreg.core.errors import InputError as InputError
    from napari_stnreg.core.errors import OutOfMemoryError as OutOfMemoryError
    from napari_stnreg.core.errors import RegistrationError as RegistrationError
    from napari_stnreg.core.grid import Grid as Grid
    from napari_stnreg.core.image import Image as Image
    from napari_stnreg.evaluation.report import Scorecard as Scorecard
    from napari_stnreg.evaluation.scorecard import evaluate as evaluate
    from napari_stnreg.io import read as read
    from napari_stnreg.io import read_series as read_series
    from napari_stnreg.io.save_load import load as load
    from napari_stnreg.io.save_load import save as save
    from napari_stnreg.models.model import Model as Model
    from napari_stnreg.networks.spatial_transformer import SpatialTransformer as SpatialTransformer
    from napari_stnreg.registration.api import register as register
    from napari_stnreg.registration.api import register_steps as register_steps
    from napari_stnreg.registration.memory import estimate_memory as estimate_memory
    from napari_stnreg.registration.result import Progress as Progress
    from napari_stnreg.registration.result import Result as Result
    from napari_stnreg.registration.settings import RegistrationSettings as RegistrationSettings
    from napari_stnreg.resampling.warp import warp as warp
    from napari_stnreg.stacks.api import align_stack as align_stack
    from napari_stnreg.stacks.api import align_stack_steps as align_stack_steps
    from napari_stnreg.stacks.output.apply import apply_points as apply_points
    from napari_stnreg.stacks.output.apply import apply_stack as apply_stack
    from napari_stnreg.stacks.output.apply import export_field as export_field
    from napari_stnreg.stacks.output.ome_zarr import AlignedStack as AlignedStack
    from napari_stnreg.stacks.settings import StackSettings as StackSettings
    from napari_stnreg.stacks.sources.base import open_stack as open_stack
    from napari_stnreg.training.api import train as train
    from napari_stnreg.training.api import train_steps as train_steps
    from napari_stnreg.training.data.datasets import open_training_data as open_training_data
    from napari_stnreg.training.progress import TrainingProgress as TrainingProgress
    from napari_stnreg.training.settings import TrainingSettings as TrainingSettings
    from napari_stnreg.transforms.conversion import compose as compose
    from napari_stnreg.transforms.inversion import invert as invert


_HOMES = {
    "AlignedStack": "stacks.output.ome_zarr",
    "FitError": "core.errors",
    "Grid": "core.grid",
    "Image": "core.image",
    "InputError": "core.errors",
    "Model": "models.model",
    "OutOfMemoryError": "core.errors",
    "Progress": "registration.result",
    "RegistrationError": "core.errors",
    "RegistrationSettings": "registration.settings",
    "Result": "registration.result",
    "Scorecard": "evaluation.report",
    "SpatialTransformer": "networks.spatial_transformer",
    "StackSettings": "stacks.settings",
    "TrainingProgress": "training.progress",
    "TrainingSettings": "training.settings",
    "align_stack": "stacks.api",
    "align_stack_steps": "stacks.api",
    "apply_points": "stacks.output.apply",
    "apply_stack": "stacks.output.apply",
    "available_devices": "core.device",
    "compose": "transforms.conversion",
    "estimate_memory": "registration.memory",
    "evaluate": "evaluation.scorecard",
    "export_field": "stacks.output.apply",
    "invert": "transforms.inversion",
    "load": "io.save_load",
    "open_stack": "stacks.sources.base",
    "open_training_data": "training.data.datasets",
    "read": "io",
    "read_series": "io",
    "register": "registration.api",
    "register_steps": "registration.api",
    "save": "io.save_load",
    "train": "training.api",
    "train_steps": "training.api",
    "warp": "resampling.warp",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
