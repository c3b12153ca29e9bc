"""Fit a prepared pair: look for the start, then one stage after the other."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from functools import partial

import numpy as np
import torch

from napari_stnreg.core.device import single_thread
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.progress import StopRequested, interruptible
from napari_stnreg.registration import stages
from napari_stnreg.registration.initialization import find_start, nearest_scale, start_level
from napari_stnreg.registration.preprocessing import Problem
from napari_stnreg.registration.presets import Preset, preset_for
from napari_stnreg.registration.result import LossHistory, Progress, StopReason
from napari_stnreg.registration.settings import RegistrationSettings, fit_method
from napari_stnreg.registration.similarity_choice import SimilarityChoice, choose_by_contrast
from napari_stnreg.registration.similarity_trial import choose_by_trial
from napari_stnreg.registration.stages import IterationState, StageResult
from napari_stnreg.transforms import AffineTransform, Transform, chain

PairSteps = Generator[Progress, "str | None", tuple[Transform, LossHistory, StopReason]]

SINGLE_THREAD_VOXELS = 2**18
"""Levels of up to this many voxels are fitted by a single thread: a second one gained nothing on 147,000 voxels (2.3
and 2.2 s), 40 % on 614,000, and cost ten times the time on a busy machine."""


def fit_pair(problem: Problem, settings: RegistrationSettings, start: Transform | None, voxels: int) -> PairSteps:
    """Fit the families of the settings one after the other.

    It runs without gradients and, for small images, on one thread; who watches it keeps their own settings.

    Parameters
    ----------
    problem
        The pair; its world has its origin in the middle of the fixed image.
    settings
        All choices.
    start
        The start, in the images' own world.
    voxels
        Size of the fixed image.

    Yields
    ------
    Progress
        After every step; takes ``"stop"``.

    Returns
    -------
    tuple
        The best transform, in the problem's world; the losses; how it ended.
    """
    command: str | None = None
    size = float(voxels)
    with closing(_stages(problem, settings, start)) as fit:
        while True:
            try:
                with single_thread(size <= SINGLE_THREAD_VOXELS), torch.no_grad(), interruptible():
                    step = fit.send(command)
                size = voxels / 2.0 ** (len(problem.center) * (step.levels - 1 - step.level))
            except StopIteration as end:
                found: tuple[Transform, LossHistory, StopReason] = end.value
                return found
            command = yield step


def _stages(problem: Problem, settings: RegistrationSettings, start: Transform | None) -> PairSteps:
    preset = preset_for(settings)
    total = stages.planned_steps(problem, settings, preset)
    outer: Transform | None = None
    begin: FloatArray | None = None
    if start is not None:
        if start.unit != problem.unit or start.ndim != len(problem.center):
            raise InputError("The transform to start from has another unit or number of axes than the fixed image.")
        local = start.translated_frame(-problem.center).to(problem.pyramid.device)
        begin = local.as_matrix()
        if begin is None:
            problem, outer, begin = problem.through(local), local, np.eye(len(problem.center) + 1)
    losses: LossHistory = []
    stop_reason: StopReason = "finished"
    found = StageResult(np.eye(len(problem.center) + 1))
    search = find_start(problem, settings, begin)
    while stop_reason == "finished":
        try:
            loss, found.affine = next(search)
        except StopIteration as end:
            found.affine = end.value
            break
        except StopRequested:
            stop_reason = "stopped"
            break
        step = IterationState("start", 0, 1, loss, partial(AffineTransform, found.affine.copy(), problem.unit))
        if (yield _progress(step, 0, total, outer, problem)) == "stop":
            stop_reason = "stopped"
    problem.pyramid.moving_scale = nearest_scale(found.affine)
    linear_settings = settings
    if settings.similarity == "auto" and stop_reason == "finished":
        try:
            if not problem.choice:
                problem.choice.append((yield from _choose_similarity(problem, settings, preset, found, total, outer)))
            linear_settings = settings.model_copy(update={"similarity": problem.choice[-1].linear_similarity})
            settings = settings.model_copy(update={"similarity": problem.choice[-1].similarity})
        except StopRequested:
            stop_reason = "stopped"
    planned, done = 0, 0
    for position in range(len(settings.stages)):
        if stop_reason != "finished":
            break
        if found.deformation is not None:  # the next deformation goes before all that was found so far
            inner = found.transform(problem.unit)
            try:
                problem = problem.through(inner)
            except StopRequested:
                stop_reason = "stopped"
                break
            outer = inner if outer is None else chain(inner, outer)
            found = StageResult(np.eye(len(problem.center) + 1))
        levels = stages.stage_shrinks(problem, settings, preset, position)
        try:
            now = linear_settings if fit_method(settings.stages[position]) == "linear" else settings
            with closing(_stage(problem, now, preset, position, found)) as steps:
                for step in steps:
                    done += 1
                    losses.append((step.stage, step.level, done, step.loss))
                    if not np.isfinite(step.loss):
                        stop_reason = "diverged"
                        break
                    # levels may settle early; the bar then jumps ahead rather than lag behind
                    ahead = planned + sum(
                        stages.level_steps(settings, preset, position, i, levels) for i in range(step.level)
                    )
                    done = max(done, ahead)
                    if (yield _progress(step, done, total, outer, problem)) == "stop":
                        stop_reason = "stopped"
                        break
        except StopRequested:
            stop_reason = "stopped"
        planned += sum(stages.level_steps(settings, preset, position, i, levels) for i in range(len(levels)))
    transform = found.transform(problem.unit)
    return (transform if outer is None else chain(transform, outer)), losses, stop_reason


def _choose_similarity(
    problem: Problem,
    settings: RegistrationSettings,
    preset: Preset,
    found: StageResult,
    total: int,
    outer: Transform | None,
) -> Generator[Progress, str | None, SimilarityChoice]:
    """Choose by the contrast of the images where the start has placed them, else by trials; ``"stop"`` raises."""
    choice = choose_by_contrast(start_level(problem.pyramid), found.affine, color=problem.color)
    if choice is not None:
        return choice
    trial = choose_by_trial(problem, settings, preset, found)
    while True:
        try:
            step = next(trial)
        except StopIteration as end:
            chosen: SimilarityChoice = end.value
            return chosen
        if (yield _progress(step, 0, total, outer, problem, "choosing the similarity")) == "stop":
            raise StopRequested


def _stage(
    problem: Problem, settings: RegistrationSettings, preset: Preset, position: int, found: StageResult
) -> Generator[IterationState]:
    name = settings.stages[position]
    method = fit_method(name)
    if method == "linear":
        return stages.run_linear(problem, settings, preset, position, found)
    if method == "control-points":
        return stages.run_bending(problem, settings, preset, position, found)
    return stages.run_dense(problem, settings, preset, position, found)


def _progress(
    step: IterationState, done: int, total: int, outer: Transform | None, problem: Problem, message: str = ""
) -> Progress:
    def preview() -> Transform:
        inner = step.snapshot()
        return (inner if outer is None else chain(inner, outer)).to("cpu").translated_frame(problem.center)

    level = f"{step.stage}, level {step.level + 1} of {step.levels}"
    message = message or ("looking for the start" if step.stage == "start" else level)
    return Progress(step.stage, step.level, step.levels, done, max(total, done), step.loss, preview, message)
