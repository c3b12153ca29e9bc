"""The run in the background: engine, previews and result layers, all in one thread that always ends.

The generator given to the worker owns the engine's generator and closes it in the worker thread, so that a stopped or
canceled run gives its memory back at once. Updates wait for the window: the next one is made only when the last one
was shown, at most ten a second.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Layer

from napari_stnreg.core.device import free_memory
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.napari_layers import LayerData
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.widgets.common.layer_io import Source
from napari_stnreg.widgets.common.result_layers import Naming, make_layer, named, result_layers, run_record, stacked
from napari_stnreg.widgets.common.task_runner import UPDATE_SECONDS, Control, TaskRunner
from napari_stnreg.widgets.models.session import KnownModel
from napari_stnreg.widgets.register.preview import Preview, PreviewMaker

if TYPE_CHECKING:
    from napari_stnreg.registration.result import Result
    from napari_stnreg.transforms.base import Transform


@dataclass(frozen=True)
class Job:
    """Everything about a run, taken down when Register is pressed."""

    fixed: Source
    moving: Source
    settings: RegistrationSettings
    # Each in its own layer's unit.
    fixed_landmarks: np.ndarray | None = None
    moving_landmarks: np.ndarray | None = None
    start: Transform | None = None
    model: KnownModel | None = None
    kinds: frozenset[str] = frozenset()
    preview_rate: float = 5.0
    every_frame: bool = False
    volume: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def naming(self) -> Naming:
        """How its layers are called."""
        how = self.settings.family if self.model is None else self.model.name
        return Naming(self.moving.name, self.fixed.name, how)

    @property
    def frames(self) -> list[int]:
        """Which frames of the moving side are registered."""
        return list(range(self.moving.frames)) if self.every_frame else [self.moving.frame]


@dataclass(frozen=True)
class Update:
    """What the panel shows of a running fit."""

    fraction: float
    message: str
    losses: list[tuple[str, int, int, float]]
    preview: Preview | None = None
    fresh: bool = False


@dataclass
class Outcome:
    """What a run hands back to the panel."""

    job: Job
    results: list[Result]
    layers: dict[str, LayerData]
    made: dict[str, Layer]
    warnings: list[str]

    @property
    def result(self) -> Result:
        """The (last) registration's result."""
        return self.results[-1]


def registration(job: Job, control: Control) -> Generator[Update, None, Outcome | None]:
    """Run a job in the worker: yields updates, returns the outcome, or ``None`` when canceled."""
    yield Update(0.0, "reading the images", [])
    fixed = job.fixed.image()
    results: list[Result] = []
    layers: list[dict[str, LayerData]] = []
    for number, frame in enumerate(job.frames):
        moving = job.moving.image(frame).with_unit(fixed.grid.unit)
        part = (number, len(job.frames))
        result = yield from _one(job, control, fixed, moving, part)
        if result is None:
            return None
        yield Update((number + 0.99) / part[1], "making the layers", [])
        finest = _from_finest(job, result, frame)
        still = fixed if job.fixed.level == 0 else job.fixed.image(full=True, masked=False)
        still = still if finest.warped is not result.warped else fixed
        layers.append(result_layers(finest, still, moving, job.moving, job.kinds, volume=job.volume))
        results.append(finest)
        if control.cancel.is_set():
            return None
        if control.stop.is_set():
            break
    return _outcome(job, results, layers)


def _one(
    job: Job, control: Control, fixed: Image, moving: Image, part: tuple[int, int]
) -> Generator[Update, None, Result | None]:
    """Register one pair, passing on what the engine yields at a rate that a window can follow."""
    import napari_stnreg as sr

    points = job.moving_landmarks
    if points is not None:  # in the unit of the moving layer, as a script gives them; the image is in the fixed one's
        points = points * conversion_factor(job.moving.grid.unit, moving.grid.unit)
    steps = sr.register_steps(
        fixed,
        moving,
        job.settings,
        fixed_landmarks=job.fixed_landmarks,
        moving_landmarks=points,
        start_transform=job.start,
        model=None if job.model is None else job.model.source,
    )
    maker: PreviewMaker | None = None
    losses: list[tuple[str, int, int, float]] = []
    last, told, fresh = 0.0, False, True
    where = f"frame {part[0] + 1} of {part[1]}: " if part[1] > 1 else ""
    try:
        progress = next(steps)
        while True:
            if control.cancel.is_set():
                return None
            losses.append((progress.stage, progress.level, progress.step, progress.loss))
            now = time.perf_counter()
            if now - last >= UPDATE_SECONDS and control.shown.is_set():
                if maker is None and job.preview_rate > 0:
                    maker = PreviewMaker(fixed, moving, job.settings, job.preview_rate, volume=job.volume)
                preview = maker.make(progress.preview()) if maker is not None and maker.due() else None
                control.shown.clear()
                message = where + (progress.message or progress.stage)
                yield Update((part[0] + progress.fraction) / part[1], message, losses, preview, fresh)
                losses, last, fresh = [], time.perf_counter(), False
            if control.stop.is_set() and not told:
                told = True
                progress = steps.send("stop")
            else:
                progress = next(steps)
    except StopIteration as end:
        yield Update((part[0] + 1) / part[1], where + "done", losses, None, fresh)
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def _from_finest(job: Job, result: Result, frame: int) -> Result:
    """Warp the finest level of a multiscale layer, when a coarser one was registered and memory allows."""
    if not (job.moving.level or job.fixed.level):
        return result
    import dataclasses

    import napari_stnreg as sr

    grid = job.fixed.full_grid if job.settings.extent == "fixed" else result.grid
    itemsize = np.dtype(job.moving.full.dtype).itemsize * (4 if job.moving.rgb else 1)
    # Input, output, and the vector of every voxel of a slab; the pictures made of it take a few times more.
    wanted = job.moving.full_grid.size * itemsize + grid.size * (itemsize + 16 * grid.ndim)
    if wanted > free_memory("cpu") / 2:
        sentence = (
            f"The finest level would need {wanted / 2**30:.1f} GB; the warped image was made at the level "
            "that was registered instead."
        )
        return dataclasses.replace(result, warnings=[*result.warnings, sentence])
    moving = job.moving.image(frame, full=True, masked=False).with_unit(grid.unit)
    warped = sr.warp(moving, result.transform, grid, fill=job.settings.fill)
    return dataclasses.replace(result, warped=warped, grid=grid)


def _outcome(job: Job, results: list[Result], layers: list[dict[str, LayerData]]) -> Outcome:
    one = layers[0] if not job.every_frame else stacked(layers, results[0].warped.grid, job.moving.time)
    record = run_record(results[-1], job.naming, job.run, job.moving.full_grid)
    if job.every_frame:
        record["frames"] = [run_record(result, job.naming, job.run, job.moving.full_grid) for result in results]
    folded = float(np.mean([result.folding_fraction for result in results]))
    warnings = list(dict.fromkeys(warning for result in results for warning in result.warnings))
    layer_data = named(one, job.naming, record, folded, job.moving.metadata)
    # Made here and only inserted by the window: limits, features and thumbnails take longer than a person should wait.
    made = {key: make_layer(data) for key, data in layer_data.items()}
    return Outcome(job, results, layer_data, made, warnings)


class Runner(TaskRunner):
    """Owns the worker of the registration in progress; ``finished`` brings an :class:`Outcome`."""

    def start(self, job: Job) -> None:
        """Start a job.

        Raises
        ------
        InputError
            If one is running already.
        """
        if self.running:
            raise InputError("A registration is running already; stop it first.")
        self.start_task(registration, job)
