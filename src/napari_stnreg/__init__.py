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
    from napari_stnreg.errors import FitError as FitError
    from napari_stnreg.errors import InputError as InputError
    from napari_stnreg.errors import OutOfMemoryError as OutOfMemoryError
    from napari_stnreg.errors import RegistrationError as RegistrationError
    from napari_stnreg.evaluation.report import Scorecard as Scorecard
    from napari_stnreg.evaluation.scorecard import evaluate as evaluate
    from napari_stnreg.files import read as read
    from napari_stnreg.files import read_series as read_series
    from napari_stnreg.files.saving import load as load
    from napari_stnreg.files.saving import save as save
    from napari_stnreg.fitting.memory import estimate_memory as estimate_memory
    from napari_stnreg.fitting.problem import available_devices as available_devices
    from napari_stnreg.fitting.progress import Progress as Progress
    from napari_stnreg.fitting.progress import Result as Result
    from napari_stnreg.images import Grid as Grid
    from napari_stnreg.images import Image as Image
    from napari_stnreg.learning.model import Model as Model
    from napari_stnreg.learning.opening import open_training_data as open_training_data
    from napari_stnreg.learning.progress import TrainingProgress as TrainingProgress
    from napari_stnreg.learning.settings import TrainingSettings as TrainingSettings
    from napari_stnreg.learning.training import train as train
    from napari_stnreg.learning.training import train_steps as train_steps
    from napari_stnreg.networks.spatial_transformer import SpatialTransformer as SpatialTransformer
    from napari_stnreg.registration import register as register
    from napari_stnreg.registration import register_steps as register_steps
    from napari_stnreg.settings import RegistrationSettings as RegistrationSettings
    from napari_stnreg.stacks.apply import apply_points as apply_points
    from napari_stnreg.stacks.apply import apply_stack as apply_stack
    from napari_stnreg.stacks.apply import export_field as export_field
    from napari_stnreg.stacks.pipeline import align_stack as align_stack
    from napari_stnreg.stacks.pipeline import align_stack_steps as align_stack_steps
    from napari_stnreg.stacks.settings import StackSettings as StackSettings
    from napari_stnreg.stacks.sources import open_stack as open_stack
    from napari_stnreg.stacks.store import AlignedStack as AlignedStack
    from napari_stnreg.transforms.conversion import compose as compose
    from napari_stnreg.transforms.inversion import invert as invert
    from napari_stnreg.warping import warp as warp


_HOMES = {
    "AlignedStack": "stacks.store",
    "FitError": "errors",
    "Grid": "images",
    "Image": "images",
    "InputError": "errors",
    "Model": "learning.model",
    "OutOfMemoryError": "errors",
    "Progress": "fitting.progress",
    "RegistrationError": "errors",
    "RegistrationSettings": "settings",
    "Result": "fitting.progress",
    "Scorecard": "evaluation.report",
    "SpatialTransformer": "networks.spatial_transformer",
    "StackSettings": "stacks.settings",
    "TrainingProgress": "learning.progress",
    "TrainingSettings": "learning.settings",
    "align_stack": "stacks.pipeline",
    "align_stack_steps": "stacks.pipeline",
    "apply_points": "stacks.apply",
    "apply_stack": "stacks.apply",
    "available_devices": "fitting.problem",
    "compose": "transforms.conversion",
    "estimate_memory": "fitting.memory",
    "evaluate": "evaluation.scorecard",
    "export_field": "stacks.apply",
    "invert": "transforms.inversion",
    "load": "files.saving",
    "open_stack": "stacks.sources",
    "open_training_data": "learning.opening",
    "read": "files",
    "read_series": "files",
    "register": "registration",
    "register_steps": "registration",
    "save": "files.saving",
    "train": "learning.training",
    "train_steps": "learning.training",
    "warp": "warping",
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
