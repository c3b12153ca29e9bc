"""Try the candidates of the similarity `auto` on coarse levels, and judge each by more than what it optimizes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace

import numpy as np

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.evaluation.chance import Chance, compare_with_chance
from napari_stnreg.registration import stages
from napari_stnreg.registration.optimizers.dense import DenseState, fit_dense
from napari_stnreg.registration.preprocessing import Problem
from napari_stnreg.registration.presets import Preset, dense_options
from napari_stnreg.registration.pyramid import Level
from napari_stnreg.registration.settings import SIMILARITY_TITLES, RegistrationSettings, fit_method
from napari_stnreg.registration.similarity_choice import PARAMETERS, SimilarityChoice, compare_at, trial_level
from napari_stnreg.registration.stages import IterationState, StageResult

CANDIDATES = ("lncc", "mi")


def choose_by_trial(
    problem: Problem, settings: RegistrationSettings, preset: Preset, found: StageResult
) -> Generator[IterationState, None, SimilarityChoice]:
    """Choose a similarity for the linear and one for the deformable stages, each by a short fit.

    The affine of the better linear fit replaces the start if the images are further above chance there.

    Parameters
    ----------
    problem, settings, preset
        The pair and how it is fitted.
    found
        The start; its affine is replaced.

    Yields
    ------
    IterationState
        Steps of the trials.
    """
    level = trial_level(problem.pyramid)
    linear, sentences = "lncc", []
    if fit_method(settings.stages[0]) == "linear":
        best = compare_at(level, found.affine).z
        evidence = {}
        unheard = replace(problem, warnings=[])  # a trial that collapses is not the fit
        begin = found.affine.copy()
        for name in CANDIDATES:
            trial = StageResult(begin.copy())
            # as many steps as a linear fit that stands alone
            named = settings.model_copy(update={"similarity": name, "family": settings.stages[0]})
            with closing(stages.run_linear(unheard, named, preset, 0, trial, levels=PARAMETERS.linear_levels)) as steps:
                for step in steps:
                    if not np.isfinite(step.loss):
                        break
                    yield step
            evidence[name] = compare_at(level, trial.affine).z
            margin = PARAMETERS.weak_margin if evidence[name] < PARAMETERS.weak else 0.0
            if evidence[name] > best + margin:
                best, found.affine = evidence[name], trial.affine
        linear = max(CANDIDATES, key=lambda name: evidence[name])
        sentences.append("the affine fit stands {:z.0f} (NCC) and {:z.0f} (MI) deviations above chance".format(
            *(evidence[name] for name in CANDIDATES)
        ))  # fmt: skip
    chosen = linear
    if any(fit_method(stage) != "linear" for stage in settings.stages):
        information = {}
        for name in CANDIDATES:
            named = settings.model_copy(update={"similarity": name})
            information[name] = _deformed(level, named, found.affine).mutual_information
        needed = (1 + PARAMETERS.information_margin) * information["mi"]
        chosen = "lncc" if information["lncc"] > needed else "mi"
        sentences.append("a coarse deformation leads to {:.2f} (local NCC) and {:.2f} nats (MI) of information".format(
            *(information[name] for name in CANDIDATES)
        ))  # fmt: skip
    text = "; ".join(sentences)
    reason = f"Chosen by a trial: {text}."
    if linear != chosen:
        reason += f" The linear stage uses {SIMILARITY_TITLES['ncc' if linear == 'lncc' else linear]}."
    return SimilarityChoice(chosen, reason, linear)


def _deformed(level: Level, settings: RegistrationSettings, affine: FloatArray) -> Chance:
    """Fit a coarse deformation and compare the result with chance."""
    ndim = level.fixed_grid.ndim
    state: DenseState | None = None
    for current in (level.shrunk(2.0), level):
        shape = tuple(current.fixed.shape[2:])
        state = (
            DenseState.identity(shape, level.fixed.device, velocity=False) if state is None else state.resized(shape)
        )
        similarity = stages.deformable_similarity(settings, ndim)
        options = dense_options(stages.stiffened(settings), ndim, 1)
        for loss, _ in fit_dense(current, affine, similarity, state, PARAMETERS.dense_steps, options):
            if not np.isfinite(loss):
                break
        state = state.unfolded()
    assert state is not None
    linear, shift = level.sampling_matrix(affine)
    coordinates = (level.points() + state.displacement.movedim(1, -1)) @ linear.T + shift
    warped, weight = level.sample_moving(coordinates, masked=True)
    assert weight is not None
    return compare_with_chance(
        level.fixed, warped, weight if level.fixed_weight is None else weight * level.fixed_weight, mirror=False
    )
