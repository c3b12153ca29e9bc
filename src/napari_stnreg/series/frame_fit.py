"""Register one frame after the other to a reference."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.device import single_thread
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.intensity import constant_error
from napari_stnreg.core.linalg import fit_affine
from napari_stnreg.evaluation.intensity import ncc as correlation
from napari_stnreg.registration.api import register_steps
from napari_stnreg.registration.optimizers.gauss_newton import GaussNewtonFitter
from napari_stnreg.registration.pair import fit_pair
from napari_stnreg.registration.preprocessing import mask_missing_values, prepare
from napari_stnreg.registration.result import Progress
from napari_stnreg.registration.settings import RegistrationSettings, fit_method
from napari_stnreg.resampling.warp import warp
from napari_stnreg.series.motion import FrameFit, describe
from napari_stnreg.transforms import AffineTransform, Transform

if TYPE_CHECKING:
    from napari_stnreg.models.model import Model

Fitted = TypeVar("Fitted")
FrameSteps = Generator[Progress, "str | None", "tuple[FrameFit, Transform] | None"]

SAME_CONTRAST = frozenset({"auto", "lncc", "ncc", "mse"})
"""Similarities for which the linear part is fitted by correlation; frames of one series have one contrast."""
SINGLE_THREAD_VOXELS = 2**20
"""Frames up to this size are fitted by one thread; more threads take longer."""
_COMPARED_SIDE = {2: 256, 3: 64}
"""Longest side of the copies by which a deformed frame is compared with the reference, by number of axes."""


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of the reference and of the frames, world points ``(N, D)``."""

    fixed: npt.ArrayLike | None = None
    moving: npt.ArrayLike | None = None

    def __bool__(self) -> bool:
        return self.fixed is not None or self.moving is not None


class FrameFitter:
    """Register frames to one reference; what depends on the reference alone is computed once.

    Parameters
    ----------
    reference
        The image to register to.
    settings
        Settings of the registration.
    device
        Device of the computation.
    landmarks
        Landmarks that hold for every frame.
    model
        A trained model instead of a fit.
    start
        Transform to start from.
    as_pairs
        Register every frame on its own, like a pair; a stopped fit then returns its best transform so far.
    """

    def __init__(
        self,
        reference: Image,
        settings: RegistrationSettings,
        device: torch.device,
        landmarks: Landmarks = Landmarks(),
        model: Model | str | None = None,
        start: Transform | None = None,
        as_pairs: bool = False,
    ) -> None:
        self.reference, self.settings, self.device = masked(reference), settings, device
        self._pair_reference = reference if as_pairs else None
        self._landmarks, self._model, self._start = landmarks, model, start
        linear = [name for name in settings.stages if fit_method(name) == "linear"]
        deformable = [name for name in settings.stages if fit_method(name) != "linear"]
        self._deformable = "+".join(deformable)
        fast = settings.similarity in SAME_CONTRAST and model is None and not landmarks and not as_pairs
        fast = fast and settings.start in ("auto", "none", "phase") and not settings.mirror
        fast = fast and (start is None or start.as_matrix() is not None)
        self._linear: GaussNewtonFitter | None = None
        if fast and (linear or deformable):
            values = self.reference.intensity(settings.fixed_channel)
            inside = values if self.reference.mask is None else values[self.reference.mask]
            if not inside.size or float(inside.max()) <= float(inside.min()):
                raise constant_error(reference.name, reference.mixes_channels(settings.fixed_channel))
            # a deformation alone is not preceded by a linear fit
            family = linear[-1] if linear else "translation"
            with torch.no_grad(), single_thread(reference.grid.size <= SINGLE_THREAD_VOXELS):
                self._linear = GaussNewtonFitter(values, self.reference.mask, reference.grid, family, device)
        self._has_linear = bool(linear)

    def steps(self, frame: int, image: Image, starts: list[FloatArray]) -> FrameSteps:
        """Register a frame.

        Parameters
        ----------
        frame
            Its index.
        image
            Its voxels.
        starts
            Matrices from which the fit starts, the likeliest first.

        Yields
        ------
        Progress
            During a deformable or a general fit; ``"stop"`` ends it without a result.

        Returns
        -------
        FrameFit, Transform
            ``None`` if stopped.
        """
        plain, image = image, masked(image.with_unit(self.reference.grid.unit))
        try:
            if self._pair_reference is not None:
                return (yield from self._as_pair(frame, self._pair_reference, plain, image))
            if self._linear is None:
                return (yield from self._general(frame, image, starts))
            return (yield from self._fast(frame, image, starts))
        except InputError as error:
            unmoved = AffineTransform(starts[0], self.reference.grid.unit)
            return describe(frame, float("nan"), 0.0, starts[0], unmoved, self.reference.grid, str(error)), unmoved

    def _fast(self, frame: int, image: Image, starts: list[FloatArray]) -> FrameSteps:
        assert self._linear is not None
        grid = self.reference.grid
        matrix, ncc, overlap = np.eye(grid.ndim + 1), float("nan"), 1.0
        if self._has_linear:
            values = image.intensity(self.settings.moving_channel)
            if not np.isfinite(values if image.mask is None else values[image.mask]).any():
                raise InputError("it has no finite values")
            with torch.no_grad(), single_thread(grid.size <= SINGLE_THREAD_VOXELS):
                found = self._linear.fit(values, image.mask, image.grid, starts)
            matrix, ncc, overlap = found.matrix, found.ncc, found.overlap
        affine = AffineTransform(matrix, grid.unit)
        if not self._deformable:
            return describe(frame, ncc, overlap, matrix, affine, grid), affine
        settings = self.settings.model_copy(update={"family": self._deformable, "start": "none"})
        reference, image = (mask_missing_values(one, []) for one in (self.reference, image))
        problem = prepare(reference, image, settings, self.device, has_start=True)
        found_pair = yield from _until_stopped(fit_pair(problem, settings, affine, grid.size))
        if found_pair is None or found_pair[2] == "stopped":
            return None
        transform = found_pair[0].to("cpu").translated_frame(problem.center).with_domain(grid)
        ncc, overlap = self._compare(image, transform)
        return describe(frame, ncc, overlap, matrix, transform, grid), transform

    def _general(self, frame: int, image: Image, starts: list[FloatArray]) -> FrameSteps:
        """Register by :func:`register_steps`: other similarities, landmarks, trained models."""
        grid = self.reference.grid
        start = self._start
        if start is None and not self._landmarks and self.settings.start == "auto" and frame_moved(starts[0]):
            start = AffineTransform(starts[0], grid.unit)
        steps = register_steps(
            self.reference, image, self.settings, fixed_landmarks=self._landmarks.fixed,
            moving_landmarks=self._landmarks.moving, start_transform=start, model=self._model,
        )  # fmt: skip
        result = yield from _until_stopped(steps)
        if result is None or result.stop_reason == "stopped":
            return None
        ncc, overlap = self._compare(image, result.transform)
        if self.settings.similarity not in SAME_CONTRAST:
            ncc = abs(ncc)  # other contrasts may correlate inversely
        matrix = linear_part(result.transform, grid)
        reason = " ".join(result.reasons) if result.verdict == "failed" else ""
        return describe(frame, ncc, overlap, matrix, result.transform, grid, reason), result.transform

    def _as_pair(self, frame: int, reference: Image, moving: Image, image: Image) -> FrameSteps:
        result = yield from register_steps(
            reference, moving, self.settings, fixed_landmarks=self._landmarks.fixed,
            moving_landmarks=self._landmarks.moving, start_transform=self._start, model=self._model,
        )  # fmt: skip
        ncc, overlap = self._compare(image, result.transform)
        matrix = linear_part(result.transform, reference.grid)
        reason = " ".join(result.reasons) if result.verdict == "failed" else ""
        fit = describe(frame, ncc, overlap, matrix, result.transform, reference.grid, reason)
        return replace(fit, report=result.report()), result.transform

    def _compare(self, image: Image, transform: Transform) -> tuple[float, float]:
        """Return correlation and overlap of the reference and the warped frame, on small copies."""
        longest = _COMPARED_SIDE[self.reference.ndim]
        grid = self.reference.grid.resized([min(n, longest) for n in self.reference.grid.shape])
        pair = []
        for source, channel, applied in (
            (self.reference, self.settings.fixed_channel, None),
            (image, self.settings.moving_channel, transform),
        ):
            plain = Image(np.nan_to_num(source.intensity(channel)), source.grid, source.mask, source.name)
            pair.append(warp(plain, applied, grid, "linear"))
        both = np.ones(grid.shape, bool)
        for one in pair:
            both &= True if one.mask is None else one.mask
        known = both.size if pair[0].mask is None else int(pair[0].mask.sum())
        overlap = float(both.sum()) / max(known, 1)
        value = correlation(pair[0].data, pair[1].data, both) if both.sum() >= 8 else 0.0
        return (value if np.isfinite(value) else 0.0), overlap


def _until_stopped(steps: Generator[Progress, Any, Fitted]) -> Generator[Progress, str | None, Fitted | None]:
    """Pass on the progress of a fit and return its result; ``"stop"`` closes it and returns ``None``."""
    with closing(steps):
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                result: Fitted = end.value
                return result
            if (yield progress) == "stop":
                return None


def masked(image: Image) -> Image:
    """Return the image with voxels that are not finite masked out."""
    if np.asarray(image.data).dtype.kind not in "fc":
        return image
    finite = np.isfinite(image.data)
    finite = finite.all(axis=-1) if image.has_channel_axis else finite
    if finite.all():
        return image
    mask = finite if image.mask is None else finite & image.mask
    return image.replace(mask=mask)


def frame_moved(matrix: FloatArray) -> bool:
    """Return whether a matrix is not the identity."""
    return not np.allclose(matrix, np.eye(len(matrix)), atol=1e-12)


def linear_part(transform: Transform, grid: Grid) -> FloatArray:
    """Return the affine ``(D + 1, D + 1)`` that fits a transform over a grid with the least squares."""
    matrix = transform.as_matrix()
    if matrix is not None:
        return matrix
    probe = grid.resized([min(n, 12) for n in grid.shape])
    points = probe.points().reshape(-1, grid.ndim)
    moved = points + transform.displacement(probe).reshape(grid.ndim, -1).T
    return fit_affine(points, moved)
