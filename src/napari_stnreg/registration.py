"""Register two images: the one call that scripts, the command line and the panel share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.errors import InputError, OutOfMemoryError
from napari_stnreg.evaluation.scorecard import image_scores, landmark_scores
from napari_stnreg.fitting import stages
from napari_stnreg.fitting.problem import Problem, check_pair, pick_device, prepare
from napari_stnreg.fitting.progress import Ending, Progress, Result
from napari_stnreg.fitting.schedule import Schedule, schedule_for
from napari_stnreg.fitting.stages import Found, Step
from napari_stnreg.fitting.start import find_start
from napari_stnreg.images import FloatArray, Grid, Image
from napari_stnreg.settings import LINEAR_FAMILIES, RegistrationSettings
from napari_stnreg.steps import finish
from napari_stnreg.transforms import AffineTransform, Transform, chain
from napari_stnreg.warping import warp

if TYPE_CHECKING:
    from napari_stnreg.learning.model import Model

Steps = Generator[Progress, "str | None", Result]
Fit = Generator[Progress, "str | None", tuple[Transform, list[tuple[str, int, int, float]], Ending]]

SMALL_VOXELS = 2**16
"""Images up to this size are fitted by a single thread."""


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
        See :class:`~napari_stnreg.settings.RegistrationSettings`; or give its fields by name in ``options``, such as
        ``family="affine+diffeomorphic", similarity="lncc", device="cpu", seed=0``.
    fixed_landmarks, moving_landmarks
        World points ``(N, D)``, each in its own image's unit, paired by order: they start the transform off and stay
        as a soft term.
    start_transform
        Where to begin, such as an earlier result's transform.
    model
        A trained model, its file, or the name of one in the box: the answer then comes in one pass, and the setting
        ``refine`` adds so many steps of optimisation for this pair.
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
    return finish(steps, progress)


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
    settings = RegistrationSettings.given(settings, options)
    if model is None:
        model = settings.model
    device = pick_device(settings.device)
    stages.dense_similarity(settings, fixed.ndim)  # an unknown name is told before anything is computed
    _check_fill(moving, settings)
    warnings: list[str] = []
    began = time.perf_counter()
    landmarks = (fixed_landmarks, moving_landmarks)
    losses: list[tuple[str, int, int, float]] = []
    ending: Ending = "finished"
    transform, told = start_transform, None
    if model is not None:
        trained = _loaded(model)
        check_pair(fixed, moving, settings)
        transform = _predict(trained, fixed, moving, settings, device, start_transform, warnings)
        settings, refining = _settings_with(trained, settings)
        told = yield _predicted(trained, transform, settings)
    else:
        refining = settings
    if model is None or (settings.refine > 0 and told != "stop"):
        fit = _fit_where_it_fits(fixed, moving, refining, device, landmarks, transform, warnings)
        transform, losses, ending = yield from fit
    elif told == "stop":
        ending = "stopped"
    assert transform is not None
    seconds = time.perf_counter() - began
    if ending == "not finite":
        warnings.append("The fit ran into values that are not finite and was ended; this is the best it had found.")
    return _result(
        fixed, moving, settings, transform, losses, ending, seconds, warnings, fixed_landmarks, moving_landmarks
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
            transform, losses, ending = yield from _guarded(_fit(problem, settings, start), fixed)
            break
        except (RuntimeError, MemoryError) as error:
            device = _smaller_device(error, device, fixed, moving, warnings)
    warnings += problem.warnings
    transform = transform.to("cpu").relocated(problem.center).in_spaces(fixed.space, moving.space)
    return transform, losses, ending


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


def _loaded(model: Model | str | os.PathLike[str]) -> Model:
    if isinstance(model, str | os.PathLike):
        from napari_stnreg.learning.model_file import load_model  # most registrations need no network

        return load_model(model)
    return model


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
    return Progress(model.name, 0, 1, 1, 1 + settings.refine, float("nan"), {}, lambda: transform, message)


def is_out_of_memory(error: Exception) -> bool:
    """Whether it means that; only CUDA has a class for it."""
    text = str(error)
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text or "out of memory" in text
    )


def _check_fill(moving: Image, settings: RegistrationSettings) -> None:
    """Let a fill value that the image cannot hold be refused before the work and not after it."""
    shape = (2,) * moving.ndim
    like = np.zeros(shape + moving.data.shape[moving.ndim :], dtype=moving.data.dtype)
    tiny = Image(like, Grid.from_spacing(shape), name=moving.name)
    warp(tiny, None, tiny.grid, fill=settings.fill)


def _guarded(fit: Fit, fixed: Image) -> Fit:
    """Run a fit without gradients and, for small images, on one thread; who watches it keeps their own settings.

    Waking a second thread for each of thousands of tiny steps costs more than it gives.
    """
    told: str | None = None
    with closing(fit):
        while True:
            before = torch.get_num_threads()
            try:
                if fixed.grid.size <= SMALL_VOXELS:
                    torch.set_num_threads(1)
                with torch.no_grad():
                    step = fit.send(told)
            except StopIteration as end:
                found: tuple[Transform, list[tuple[str, int, int, float]], Ending] = end.value
                return found
            finally:
                torch.set_num_threads(before)
            told = yield step


def _fit(problem: Problem, settings: RegistrationSettings, start: Transform | None) -> Fit:
    torch.manual_seed(settings.seed)
    schedule = schedule_for(settings)
    total = stages.planned_steps(problem, settings, schedule)
    outer: Transform | None = None
    begin: FloatArray | None = None
    if start is not None:
        if start.unit != problem.unit or start.ndim != len(problem.center):
            raise InputError("The transform to start from has another unit or number of axes than the fixed image.")
        local = start.relocated(-problem.center).to(problem.pyramid.device)
        if isinstance(local, AffineTransform):
            begin = local.numpy()
        else:
            problem, outer, begin = problem.through(local), local, np.eye(len(problem.center) + 1)
    losses: list[tuple[str, int, int, float]] = []
    ending: Ending = "finished"
    found = Found(np.eye(len(problem.center) + 1))
    search = find_start(problem, settings, begin)
    while ending == "finished":
        try:
            loss, found.affine = next(search)
        except StopIteration as end:
            found.affine = end.value
            break
        step = Step("start", 0, 1, loss, partial(AffineTransform, found.affine.copy(), problem.unit))
        if (yield _progress(step, 0, total, outer, problem)) == "stop":
            ending = "stopped"
    planned, done = 0, 0
    for position in range(len(settings.stages)):
        if ending != "finished":
            break
        if found.deformation is not None:  # the next deformation goes before all that was found so far
            inner = found.transform(problem.unit)
            problem = problem.through(inner)
            outer = inner if outer is None else chain(inner, outer)
            found = Found(np.eye(len(problem.center) + 1))
        levels = stages.stage_shrinks(problem, settings, schedule, position)
        with closing(_stage(problem, settings, schedule, position, found)) as steps:
            for step in steps:
                done += 1
                losses.append((step.stage, step.level, done, step.loss))
                if not np.isfinite(step.loss):
                    ending = "not finite"
                    break
                # levels may settle early; the bar then jumps ahead rather than lag behind
                ahead = planned + sum(
                    stages.level_steps(settings, schedule, position, i, levels) for i in range(step.level)
                )
                done = max(done, ahead)
                if (yield _progress(step, done, total, outer, problem)) == "stop":
                    ending = "stopped"
                    break
        planned += sum(stages.level_steps(settings, schedule, position, i, levels) for i in range(len(levels)))
    transform = found.transform(problem.unit)
    return (transform if outer is None else chain(transform, outer)), losses, ending


def _stage(
    problem: Problem, settings: RegistrationSettings, schedule: Schedule, position: int, found: Found
) -> Generator[Step]:
    name = settings.stages[position]
    if name in LINEAR_FAMILIES:
        return stages.run_linear(problem, settings, schedule, position, found)
    if name in ("bspline", "tps"):
        return stages.run_bending(problem, settings, schedule, position, found)
    return stages.run_dense(problem, settings, schedule, position, found)


def _progress(step: Step, done: int, total: int, outer: Transform | None, problem: Problem) -> Progress:
    def preview() -> Transform:
        inner = step.snapshot()
        return (inner if outer is None else chain(inner, outer)).to("cpu").relocated(problem.center)

    level = f"{step.stage}, level {step.level + 1} of {step.levels}"
    message = "looking for the start" if step.stage == "start" else level
    return Progress(step.stage, step.level, step.levels, done, max(total, done), step.loss, {}, preview, message)


def _result(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    transform: Transform,
    losses: list[tuple[str, int, int, float]],
    ending: Ending,
    seconds: float,
    warnings: list[str],
    fixed_landmarks: npt.ArrayLike | None,
    moving_landmarks: npt.ArrayLike | None,
) -> Result:
    grid = output_grid(fixed, moving, transform, settings)
    warped = warp(moving, transform, grid, fill=settings.fill)
    warped = warped.replace(name=f"{moving.name} -> {fixed.name} ({settings.family})")
    determinant = transform.jacobian_determinant(fixed.grid)
    # a mirrored start or landmarks turn the whole image over, which is no fold
    orientation = float(np.sign(np.median(determinant)) or 1.0)
    folded = float((determinant * orientation <= 0).mean())
    if folded > 0:
        warnings.append(
            f"{100 * folded:.2f} % of the image is folded over; raise the smoothness or take the diffeomorphic family."
        )
    scores = _scores(fixed, moving, settings, transform, fixed_landmarks, moving_landmarks)
    return Result(
        transform,
        grid,
        warped,
        scores,
        folded,
        losses,
        ending,
        seconds,
        settings,
        versions(),
        list(dict.fromkeys(warnings)),
    )


def output_grid(fixed: Image, moving: Image, transform: Transform, settings: RegistrationSettings) -> Grid:
    """Where the warped image lies: the fixed grid, or the fixed lattice over the moving image's or both extents."""
    if settings.extent == "fixed":
        return fixed.grid
    corners = moving.with_unit(fixed.grid.unit).grid
    edge = corners.resized([min(n, 9) for n in corners.shape]).points().reshape(-1, fixed.ndim)
    landed = transform.inverse().map_points(np.concatenate([edge, corners.corners()]))
    if settings.extent == "union":
        return fixed.grid.union(landed)
    index = fixed.grid.to_index(landed)
    start = np.floor(index.min(axis=0) + 0.5).astype(int)
    stop = np.maximum(np.ceil(index.max(axis=0) + 0.5).astype(int), start + 1)
    return fixed.grid.cropped(start.tolist(), stop.tolist())


def _scores(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    transform: Transform,
    fixed_landmarks: npt.ArrayLike | None,
    moving_landmarks: npt.ArrayLike | None,
) -> dict[str, dict[str, float]]:
    """Scores before and after, where both images are defined."""
    channels = settings.fixed_channel, settings.moving_channel
    found = image_scores(fixed, moving, transform, fixed_channel=channels[0], moving_channel=channels[1])
    if fixed_landmarks is not None and moving_landmarks is not None and len(np.asarray(fixed_landmarks)):
        for when, by in (("before", None), ("after", transform)):
            error = landmark_scores(fixed, moving, by, fixed_landmarks, moving_landmarks)
            found[when] |= {f"landmark_{name}": value for name, value in error.to_dict().items()}
    return found


def versions() -> dict[str, str]:
    """Versions of what made a result."""
    names = ("napari-stnreg", "torch", "numpy")
    known = {}
    for name in names:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            known[name] = "not installed"
    return known
