"""Register two images: the function shared by scripts, the command line and the panel."""

from __future__ import annotations

import logging
import os
import time
import warnings as python_warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import Unpack

from napari_stnreg.core.device import is_out_of_memory, pick_device, single_thread
from napari_stnreg.core.errors import OutOfMemoryError, RegistrationWarning
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image, placement_notes
from napari_stnreg.core.progress import interruptible, run_to_completion
from napari_stnreg.io.conversion import ImageLike, as_image_pair
from napari_stnreg.registration import stages
from napari_stnreg.registration.lost_orientation import orient_as_partner
from napari_stnreg.registration.pair import SINGLE_THREAD_VOXELS, fit_pair
from napari_stnreg.registration.preprocessing import check_pair, mask_missing_values, prepare
from napari_stnreg.registration.result import LossHistory, Progress, Result, StopReason, result_steps
from napari_stnreg.registration.settings import (
    Extent,
    Initialization,
    PresetName,
    RegistrationOptions,
    RegistrationSettings,
)
from napari_stnreg.registration.similarity_choice import SimilarityChoice
from napari_stnreg.resampling.warp import warp
from napari_stnreg.transforms import AffineTransform, Transform

if TYPE_CHECKING:
    from napari_stnreg.models.model import Model

RegistrationSteps = Generator[Progress, "str | None", Result]
_DeviceSteps = Generator[Progress, "str | None", tuple[Transform, LossHistory, StopReason, torch.device]]

_logger = logging.getLogger(__name__)


ACTIVITY_VOXELS = 2**21
"""Voxels of both images above which reading, warping and scoring are shown as progress; below they take no time."""


def register(
    fixed: ImageLike,
    moving: ImageLike,
    settings: RegistrationSettings | None = None,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    moving_spacing: float | Sequence[float] | None = None,
    moving_unit: str | None = None,
    fixed_landmarks: npt.ArrayLike | None = None,
    moving_landmarks: npt.ArrayLike | None = None,
    start_transform: Transform | None = None,
    model: Model | str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], object] | None = None,
    family: str | None = None,
    similarity: str | None = None,
    preset: PresetName | None = None,
    start: Initialization | None = None,
    mirror: bool | None = None,
    fixed_channel: int | None = None,
    moving_channel: int | None = None,
    window: int | None = None,
    smoothness: float | None = None,
    control_spacing: float | None = None,
    diffusion: float | None = None,
    bending: float | None = None,
    folding: float | None = None,
    landmark_weight: float | None = None,
    levels: int | None = None,
    iterations: int | None = None,
    extent: Extent | None = None,
    fill: float | None = None,
    refine: int | None = None,
    device: str | None = None,
    seed: int | None = None,
) -> Result:
    """Find the transform that maps the fixed image onto the moving image, and warp the moving image.

    Parameters
    ----------
    fixed, moving
        2D or 3D images: NumPy arrays, torch tensors, nibabel or SimpleITK images, xarray DataArrays, napari layers,
        paths, or :class:`~napari_stnreg.Image`; see :func:`~napari_stnreg.as_image`. They are compared in world
        coordinates, so voxel size, rotation, shape and unit of the two may differ.
    settings
        A settings object. Single settings can be given by name as well; they win.
    spacing, unit
        Voxel size (one number or one per axis in (z, y, x) order) and unit of both images, such as
        ``spacing=(2, 0.5, 0.5), unit="um"``; override what the objects themselves say.
    moving_spacing, moving_unit
        The same for the moving image, where it differs from the fixed one.
    fixed_landmarks, moving_landmarks
        World points ``(N, D)``, each in the unit of its own image, paired by order. They initialize the transform and
        remain as a soft term of the loss.
    start_transform
        Initial transform, fixed world to moving world, such as the transform of an earlier result.
    model
        A trained model, its file, or the name of a pretrained model such as ``"box-2d"``. The transform is then
        predicted in one pass, and ``refine`` steps of optimization follow.
    progress
        Called with a :class:`~napari_stnreg.Progress` after every step.
    family
        ``"translation"``, ``"rigid"``, ``"similarity"``, ``"affine"``, ``"bspline"``, ``"tps"``, ``"displacement"``,
        ``"diffeomorphic"``, ``"velocity"``, or several joined by ``+`` that are fitted in this order. Default
        ``"affine+diffeomorphic"``.
    similarity
        ``"auto"`` (default: looks at both images and chooses ``"lncc"`` or ``"mi"``), ``"lncc"``, ``"ncc"``, ``"mse"``,
        ``"mi"``, ``"mind"``, or the file of a trained auto-encoder.
    preset
        ``"fast"``, ``"balanced"`` (default) or ``"thorough"``.
    start
        Initialization: ``"auto"`` (default), ``"none"``, ``"center"``, ``"moments"``, ``"phase"`` or ``"search"``.
    mirror
        Include mirrored orientations in the search.
    fixed_channel, moving_channel
        Channel to register; by default the luminance of RGB and the mean of other channels.
    window
        Radius of the window of local NCC in voxels.
    smoothness
        Stiffness of the deformation; 1 by default.
    control_spacing
        Distance of control points in voxels of the fixed image.
    diffusion, bending, folding
        Additional weights of the diffusion regularizer, the bending energy and the folding penalty.
    landmark_weight
        Weight of the landmark term.
    levels, iterations
        Number of pyramid levels, and steps per level; chosen by size and preset by default.
    extent
        What the warped image covers: ``"fixed"`` (default), ``"moving"`` or ``"union"``.
    fill
        Value outside the moving image; the median of its border by default.
    refine
        Steps of optimization after the prediction of a model.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    seed
        Seed of random sampling. Global random states are never touched.

    Returns
    -------
    Result
        The transform, the warped image, and scores before and after.

    Raises
    ------
    InputError
        If images or settings cannot be used.
    OutOfMemoryError
        If the memory is not sufficient.

    Warns
    -----
    RegistrationWarning
        If the result may be unreliable; the sentences are in ``result.warnings`` too.

    Examples
    --------
    >>> import numpy as np, napari_stnreg as sr
    >>> y, x = np.mgrid[:64, :64]
    >>> blob = lambda cy, cx: np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 150)
    >>> result = sr.register(blob(32, 32), blob(36, 29), family="translation")
    >>> result.transform.map_points([[32, 32]]).round(1).tolist()
    [[36.0, 29.0]]
    """
    names = RegistrationSettings.model_fields.keys() - {"model"}
    given = locals()
    options = {name: given[name] for name in names if given[name] is not None}
    pair = as_image_pair(
        fixed, moving, spacing=spacing, unit=unit, moving_spacing=moving_spacing, moving_unit=moving_unit
    )
    steps = register_steps(
        *pair,
        settings,
        fixed_landmarks=fixed_landmarks,
        moving_landmarks=moving_landmarks,
        start_transform=start_transform,
        model=model,
        **options,
    )
    result = run_to_completion(steps, progress)
    (result.fixed, result.moving), result.landmarks = pair, (fixed_landmarks, moving_landmarks)
    for text in result.warnings:
        python_warnings.warn(text, RegistrationWarning, stacklevel=2)
    return result


def register_steps(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings | None = None,
    *,
    fixed_landmarks: npt.ArrayLike | None = None,
    moving_landmarks: npt.ArrayLike | None = None,
    start_transform: Transform | None = None,
    model: Model | str | os.PathLike[str] | None = None,
    **options: Unpack[RegistrationOptions],
) -> RegistrationSteps:
    """Generator form of :func:`register`, for progress reporting and cancellation.

    Parameters
    ----------
    fixed, moving, settings, fixed_landmarks, moving_landmarks, start_transform, model
        As for :func:`register`; the images are :class:`~napari_stnreg.Image`.
    **options
        Fields of :class:`~napari_stnreg.RegistrationSettings` by name.

    Yields
    ------
    Progress
        After every step. Send ``"stop"`` to end with the best transform so far; close the generator to discard it.

    Returns
    -------
    Result
    """
    settings = RegistrationSettings.merge(settings, dict(options))
    model = model or settings.model
    partner = orient_as_partner(fixed, moving) if start_transform is None else None
    if partner is None:
        landmarks = (fixed_landmarks, moving_landmarks)
        return (yield from _register_steps(fixed, moving, settings, landmarks, start_transform, model))
    landmarks = (fixed_landmarks, partner.reoriented_points(moving_landmarks))
    command: str | None = None
    with closing(_register_steps(fixed, partner.reoriented(), settings, landmarks, None, model)) as steps:
        while True:
            try:
                step = steps.send(command)
            except StopIteration as end:
                return partner.result(end.value)
            command = yield partner.progress(step)


def _register_steps(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    landmarks: tuple[npt.ArrayLike | None, npt.ArrayLike | None],
    start_transform: Transform | None,
    model: Model | str | os.PathLike[str] | None,
) -> RegistrationSteps:
    device = pick_device(settings.device)
    stages.deformable_similarity(settings, fixed.ndim)  # reject an unknown name before anything is computed
    _check_fill(moving, settings)
    warnings = [*placement_notes(fixed.metadata), *placement_notes(moving.metadata)]
    same = fixed is moving
    fixed = mask_missing_values(fixed, warnings)
    moving = fixed if same else mask_missing_values(moving, warnings)
    start_time = time.perf_counter()
    losses: LossHistory = []
    choice: list[SimilarityChoice] = []
    stop_reason: StopReason = "finished"
    transform, command = start_transform, None
    uncertainty: Image | None = None
    _logger.info("Registering '%s' to '%s': %s on %s", moving.name, fixed.name, settings.family, device)
    if model is not None:
        from napari_stnreg.models.model_file import as_model  # most registrations need no network

        trained = as_model(model)
        check_pair(fixed, moving, settings)
        transform, device = _predict(trained, fixed, moving, settings, device, start_transform, warnings)
        used = trained.summary.get("settings", {}).get("similarity_used", trained.similarity)
        if settings.refine > 0 and used != trained.similarity and "similarity" not in settings.model_fields_set:
            warnings.append(
                f"'{trained.name}' was trained with the loss '{used}', which is not in its file. The refinement uses "
                f"{trained.similarity}."
            )
        settings, refinement = _settings_for_model(trained, settings)
        command = yield _prediction_progress(trained, transform, settings)
    else:
        refinement = settings
    if model is not None and trained.is_probabilistic and command != "stop":
        uncertainty = trained.uncertainty(
            fixed, moving, device=device, fixed_channel=settings.fixed_channel, moving_channel=settings.moving_channel,
            start_transform=start_transform, smoothness=settings.smoothness, seed=settings.seed,
        )  # fmt: skip
    if model is None or (settings.refine > 0 and command != "stop"):
        steps = _fit_with_fallback(fixed, moving, refinement, device, landmarks, transform, warnings, choice)
        transform, losses, stop_reason, device = yield from steps
    elif command == "stop":
        stop_reason = "stopped"
    assert transform is not None
    seconds = time.perf_counter() - start_time
    _logger.info("Registered '%s' in %.1f s (%s)", moving.name, seconds, stop_reason)
    if stop_reason == "diverged":
        warnings.append("The loss became non-finite. The best transform so far is returned.")
    large = fixed.grid.size + moving.grid.size > ACTIVITY_VOXELS
    while True:
        try:
            final = result_steps(
                fixed, moving, settings, transform, losses, stop_reason, seconds, warnings, landmarks, device,
                choice[-1] if choice else None,
            )  # fmt: skip
            command = None
            with closing(final):
                while True:
                    try:
                        with single_thread(fixed.grid.size <= SINGLE_THREAD_VOXELS):
                            message = final.send(command)
                    except StopIteration as end:
                        result: Result = end.value
                        result.uncertainty = uncertainty
                        return result
                    # a stopped run ends with its answer; the second stop interrupts what is left
                    if large and stop_reason != "stopped":
                        command = yield _activity("result", message, transform)
        except (RuntimeError, MemoryError) as error:
            device = _fallback_device(error, device, fixed, moving, warnings)


def _fit_with_fallback(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    device: torch.device,
    landmarks: tuple[npt.ArrayLike | None, npt.ArrayLike | None],
    start_transform: Transform | None,
    warnings: list[str],
    choice: list[SimilarityChoice],
) -> _DeviceSteps:
    """Fit on the device, or on the CPU if the device's memory is exhausted; the transform is in world coordinates.

    The last item of the return value is the device that the fit ended on.
    """
    unmoved = start_transform or AffineTransform.identity(fixed.ndim, fixed.grid.unit)
    while True:
        try:
            if fixed.grid.size + moving.grid.size > ACTIVITY_VOXELS:
                command = yield _activity("prepare", "reading intensities", unmoved)
                if command == "stop":
                    return unmoved, [], "stopped", device
            with interruptible():
                problem = prepare(fixed, moving, settings, device, *landmarks, has_start=start_transform is not None)
            choice[:] = []
            transform, losses, stop_reason = yield from fit_pair(problem, settings, start_transform, fixed.grid.size)
            break
        except (RuntimeError, MemoryError) as error:
            device = _fallback_device(error, device, fixed, moving, warnings)
    warnings += problem.warnings
    choice += problem.choice
    transform = transform.to("cpu").translated_frame(problem.center).between(fixed, moving).with_domain(fixed.grid)
    return transform, losses, stop_reason, device


def _fallback_device(
    error: Exception, device: torch.device, fixed: Image, moving: Image, warnings: list[str]
) -> torch.device:
    """Return the CPU after memory of a GPU was exhausted; re-raise every other error."""
    if not is_out_of_memory(error):
        raise error
    if device.type == "cpu":
        raise OutOfMemoryError(
            f"Not enough memory to register '{fixed.name}' and '{moving.name}'. Crop or downsample the images first."
        ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    warnings.append(f"The memory of {device} was not sufficient, so the registration ran on the CPU.")
    return torch.device("cpu")


def _predict(
    model: Model,
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    device: torch.device,
    start_transform: Transform | None,
    warnings: list[str],
) -> tuple[Transform, torch.device]:
    """Predict the transform by one pass of the network, on the CPU if the device's memory is exhausted.

    Returns the transform and the device that was used.
    """
    while True:
        try:
            transform = model.predict(
                fixed,
                moving,
                device=device,
                fixed_channel=settings.fixed_channel,
                moving_channel=settings.moving_channel,
                start_transform=start_transform,
                smoothness=settings.smoothness,
                warnings=warnings,
            )
            return transform, device
        except (RuntimeError, MemoryError) as error:
            device = _fallback_device(error, device, fixed, moving, warnings)


def _settings_for_model(
    model: Model, settings: RegistrationSettings
) -> tuple[RegistrationSettings, RegistrationSettings]:
    """Return the settings to report, and the settings of the refinement after the prediction."""
    similarity = settings.similarity if "similarity" in settings.model_fields_set else model.similarity
    reported = settings.model_copy(update={"family": model.family, "model": model.name, "similarity": similarity})
    levels = settings.levels or (1 if settings.refine < 20 else 2)
    steps = max(-(-settings.refine // levels), 1)
    last = reported.stages[-1]
    return reported, reported.model_copy(update={"family": last, "levels": levels, "iterations": steps})


def _prediction_progress(model: Model, transform: Transform, settings: RegistrationSettings) -> Progress:
    message = f"one pass of {model.name}"
    return Progress(model.name, 0, 1, 1, 1 + settings.refine, float("nan"), lambda: transform, message)


def _activity(stage: str, message: str, transform: Transform) -> Progress:
    """Progress outside the fit: reading before it, warping and scoring after it."""
    step = int(stage == "result")
    return Progress(stage, 0, 1, step, 1, float("nan"), lambda: transform, message)


def _check_fill(moving: Image, settings: RegistrationSettings) -> None:
    """Reject a fill value that the image's dtype cannot represent before the registration runs."""
    shape = (2,) * moving.ndim
    data = np.zeros(shape + moving.data.shape[moving.ndim :], dtype=moving.data.dtype)
    tiny = Image(data, Grid.from_spacing(shape), name=moving.name)
    warp(tiny, None, tiny.grid, fill=settings.fill)
