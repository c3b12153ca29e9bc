"""Register two images: the one call that scripts, the command line and the panel share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.device import is_out_of_memory, pick_device
from napari_stnreg.core.errors import OutOfMemoryError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.registration import stages
from napari_stnreg.registration.pair import Fit, fit_pair
from napari_stnreg.registration.preprocessing import check_pair, prepare
from napari_stnreg.registration.result import LossHistory, Progress, Result, StopReason, make_result
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.resampling.warp import warp
from napari_stnreg.transforms import Transform

if TYPE_CHECKING:
    from napari_stnreg.models.model import Model

Steps = Generator[Progress, "str | None", Result]


def register(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings | None = None,
    *,
    fixed_landmarks: npt.ArrayLike | None = None,
    moving_landmarks: npt.ArrayLike | None = None,
    start_transform: Transform | None = None,
    model: Model | str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Result:
    """Find the transform that takes a moving image onto a fixed one.

    Parameters
    ----------
    fixed, moving
        2D or 3D images; the registration happens in the world, so scale, rotation, shape and unit may differ.
    settings
        See :class:`~napari_stnreg.registration.settings.RegistrationSettings`; or give its fields by name in ``options``, such as
        ``family="affine+diffeomorphic", similarity="lncc", device="cpu", seed=0``.
    fixed_landmarks, moving_landmarks
        World points ``(N, D)``, each in its own image's unit, paired by order: they start the transform off and stay
        as a soft term.
    start_transform
        Where to begin, such as an earlier result's transform.
    model
        A trained model, its file, or the name of a bundled model: the answer then comes in one pass, and the setting
        ``refine`` adds so many steps of optimization for this pair.
    progress
        Called after every step.

    Returns
    -------
    Result
        With the transform (fixed world to moving world), the warped image, and the scores before and after.

    Raises
    ------
    InputError
        If the images or settings cannot be used; one sentence says why.

    Examples
    --------
    >>> import numpy as np, napari_stnreg as sr
    >>> y, x = np.mgrid[:64, :64]
    >>> blob = lambda cy, cx: np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 150)
    >>> fixed, moving = sr.Image.from_array(blob(32, 32)), sr.Image.from_array(blob(36, 29))
    >>> result = sr.register(fixed, moving, family="translation")
    >>> result.transform.map_points([[32, 32]]).round(1).tolist()
    [[36.0, 29.0]]
    """
    steps = register_steps(
        fixed,
        moving,
        settings,
        fixed_landmarks=fixed_landmarks,
        moving_landmarks=moving_landmarks,
        start_transform=start_transform,
        model=model,
        **options,
    )
    return run_to_completion(steps, progress)


def register_steps(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings | None = None,
    *,
    fixed_landmarks: npt.ArrayLike | None = None,
    moving_landmarks: npt.ArrayLike | None = None,
    start_transform: Transform | None = None,
    model: Model | str | os.PathLike[str] | None = None,
    **options: Any,
) -> Steps:
    """:func:`register` as a generator, for who wants to watch, to stop, or to run it beside something else.

    Yields :class:`Progress` and returns :class:`Result`. Sending ``"stop"`` ends the fit and keeps the best so far;
    closing the generator drops everything.
    """
    settings = RegistrationSettings.merge(settings, options)
    if model is None:
        model = settings.model
    device = pick_device(settings.device)
    stages.dense_similarity(settings, fixed.ndim)  # an unknown name is told before anything is computed
    _check_fill(moving, settings)
    warnings: list[str] = []
    began = time.perf_counter()
    landmarks = (fixed_landmarks, moving_landmarks)
    losses: LossHistory = []
    stop_reason: StopReason = "finished"
    transform, told = start_transform, None
    if model is not None:
        from napari_stnreg.models.model_file import as_model  # most registrations need no network

        trained = as_model(model)
        check_pair(fixed, moving, settings)
        transform = _predict(trained, fixed, moving, settings, device, start_transform, warnings)
        settings, refining = _settings_with(trained, settings)
        told = yield _predicted(trained, transform, settings)
    else:
        refining = settings
    if model is None or (settings.refine > 0 and told != "stop"):
        fit = _fit_where_it_fits(fixed, moving, refining, device, landmarks, transform, warnings)
        transform, losses, stop_reason = yield from fit
    elif told == "stop":
        stop_reason = "stopped"
    assert transform is not None
    seconds = time.perf_counter() - began
    if stop_reason == "diverged":
        warnings.append("The loss became non-finite; the best transform so far is returned.")
    return make_result(
        fixed, moving, settings, transform, losses, stop_reason, seconds, warnings, fixed_landmarks, moving_landmarks
    )


def _fit_where_it_fits(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    device: torch.device,
    landmarks: tuple[npt.ArrayLike | None, npt.ArrayLike | None],
    start: Transform | None,
    warnings: list[str],
) -> Fit:
    """Prepare and fit on the device, or on the CPU if its memory is not enough; the transform is of the world."""
    while True:
        try:
            problem = prepare(fixed, moving, settings, device, *landmarks, given_start=start is not None)
            transform, losses, stop_reason = yield from fit_pair(problem, settings, start, fixed.grid.size)
            break
        except (RuntimeError, MemoryError) as error:
            device = _smaller_device(error, device, fixed, moving, warnings)
    warnings += problem.warnings
    transform = (
        transform.to("cpu")
        .translated_frame(problem.center)
        .with_coordinate_systems(fixed.coordinate_system, moving.coordinate_system)
    )
    return transform, losses, stop_reason


def _smaller_device(
    error: Exception, device: torch.device, fixed: Image, moving: Image, warnings: list[str]
) -> torch.device:
    """Where to try again after an error, which is raised on if it is not about memory or there is no other place."""
    if not is_out_of_memory(error):
        raise error
    if device.type == "cpu":
        raise OutOfMemoryError(
            f"The memory was not enough to register '{fixed.name}' and '{moving.name}'; "
            "crop or shrink the images first."
        ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    warnings.append(f"The memory of {device} was not enough, so the fit ran on the CPU.")
    return torch.device("cpu")


def _predict(
    model: Model,
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    device: torch.device,
    start: Transform | None,
    warnings: list[str],
) -> Transform:
    """One pass of the network, on the CPU if the device has not the memory."""
    while True:
        try:
            return model.predict(
                fixed,
                moving,
                device=device,
                fixed_channel=settings.fixed_channel,
                moving_channel=settings.moving_channel,
                start_transform=start,
                warnings=warnings,
            )
        except (RuntimeError, MemoryError) as error:
            device = _smaller_device(error, device, fixed, moving, warnings)


def _settings_with(model: Model, settings: RegistrationSettings) -> tuple[RegistrationSettings, RegistrationSettings]:
    """The settings as they will be reported, and those of the fit that refines what a model gave."""
    similarity = settings.similarity if "similarity" in settings.model_fields_set else model.similarity
    reported = settings.model_copy(update={"family": model.family, "model": model.name, "similarity": similarity})
    levels = settings.levels or (1 if settings.refine < 20 else 2)
    steps = max(-(-settings.refine // levels), 1)
    last = reported.stages[-1]
    return reported, reported.model_copy(update={"family": last, "levels": levels, "iterations": steps})


def _predicted(model: Model, transform: Transform, settings: RegistrationSettings) -> Progress:
    message = f"one pass of {model.name}"
    return Progress(model.name, 0, 1, 1, 1 + settings.refine, float("nan"), lambda: transform, message)


def _check_fill(moving: Image, settings: RegistrationSettings) -> None:
    """Let a fill value that the image cannot hold be refused before the work and not after it."""
    shape = (2,) * moving.ndim
    like = np.zeros(shape + moving.data.shape[moving.ndim :], dtype=moving.data.dtype)
    tiny = Image(like, Grid.from_spacing(shape), name=moving.name)
    warp(tiny, None, tiny.grid, fill=settings.fill)
