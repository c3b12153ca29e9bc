"""Warp layers in a separate thread while a landmark is dragged, always with the newest transform."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_stnreg.core.errors import RegistrationError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.progress import StopRequested, StopSignal, interruptible, listening
from napari_stnreg.widgets.common.layer_io import LayerSource

if TYPE_CHECKING:
    from napari_stnreg.core.image import Image
    from napari_stnreg.landmarks.live_warp import LiveWarper
    from napari_stnreg.transforms.base import Transform

MAX_EXACT_VOXELS = 2**26
"""Larger results are only shown at the resolution of live warping."""
_SHOWN_SECONDS = 1.0
"""Longest time that the thread waits until its last result is on screen."""


@dataclass(frozen=True)
class WarpedFrame:
    """Warped arrays of the requested layers, by position, and their grid."""

    arrays: dict[int, np.ndarray]
    grid: Grid
    exact: bool


@dataclass(frozen=True)
class _Request:
    transform: Transform
    wanted: frozenset[int]
    exact: bool


class LiveWarping(QObject):
    """Owns the thread; lives on the GUI thread.

    Parameters
    ----------
    sources
        The moving layer and those that are warped with it.
    labels
        Whether each holds labels.
    fixed
        Grid of the result.

    Signals
    -------
    ready(), warped(WarpedFrame), failed(Exception)
        The images are read; a result; the thread has ended with an error.
    """

    ready = Signal()
    warped = Signal(object)
    failed = Signal(object)

    def __init__(
        self, sources: Sequence[LayerSource], labels: Sequence[bool], fixed: Grid, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._sources, self._labels, self._fixed = tuple(sources), tuple(labels), fixed
        self._condition = threading.Condition()
        self._request: _Request | None = None
        self._closed = False
        self._shown = threading.Event()
        self._shown.set()
        self._thread = threading.Thread(target=self._run, name="landmarks-live-warp", daemon=True)

    def start(self) -> None:
        """Begin to read the images."""
        self._thread.start()

    def request(self, transform: Transform, wanted: Sequence[int], *, exact: bool = False) -> None:
        """Warp by a transform; a request that is still waiting is replaced.

        Parameters
        ----------
        transform
            Fixed world to moving world, in the unit of the fixed grid.
        wanted
            Positions of the layers to warp.
        exact
            Whether to sample the originals at full resolution, as a saved result is.
        """
        with self._condition:
            self._request = _Request(transform, frozenset(wanted), exact)
            self._condition.notify()

    def mark_shown(self) -> None:
        """Signal the thread that its last result is on screen."""
        self._shown.set()

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._shown.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    # -- in the thread

    def _run(self) -> None:
        try:
            images, warpers = self._read()
            self._emit(self.ready)
            while True:
                with self._condition:
                    while self._request is None and not self._closed:
                        self._condition.wait()
                    if self._closed:
                        return
                    request, self._request = self._request, None
                assert request is not None
                frame = self._exact(images, request) if request.exact else self._live(warpers, request)
                if frame is not None:
                    self._shown.wait(_SHOWN_SECONDS)
                    self._shown.clear()
                    self._emit(self.warped, frame)
        except (RegistrationError, RuntimeError, MemoryError, OSError, ValueError) as error:
            self._emit(self.failed, error)

    def _emit(self, signal: Any, *values: Any) -> None:
        if not self._closed:
            with suppress(RuntimeError):  # the program ended, and Qt has deleted the signals
                signal.emit(*values)

    def _read(self) -> tuple[list[Image], list[tuple[list[int], LiveWarper]]]:
        from napari_stnreg.landmarks.live_warp import LiveWarper

        images = [source.image(full=True, masked=False).with_unit(self._fixed.unit) for source in self._sources]
        groups: list[list[int]] = []
        for number, image in enumerate(images):
            group = next((one for one in groups if images[one[0]].grid.same_lattice(image.grid)), None)
            groups.append([number]) if group is None else group.append(number)
        return images, [
            (group, LiveWarper([images[n] for n in group], self._fixed, [self._labels[n] for n in group]))
            for group in groups
        ]

    def _live(self, warpers: list[tuple[list[int], LiveWarper]], request: _Request) -> WarpedFrame:
        arrays: dict[int, np.ndarray] = {}
        for group, warper in warpers:
            wanted = [n for n in group if n in request.wanted]
            made = warper.warp(request.transform, [group.index(n) for n in wanted])
            arrays |= dict(zip(wanted, made, strict=True))
        return WarpedFrame(arrays, warpers[0][1].grid, exact=False)

    def _exact(self, images: list[Image], request: _Request) -> WarpedFrame | None:
        """Sample the originals; ``None`` if something newer is wanted meanwhile."""
        from napari_stnreg.resampling.warp import warp

        if self._fixed.size > MAX_EXACT_VOXELS:
            return None
        signal = StopSignal(lambda: False, lambda: self._request is not None or self._closed)
        try:
            with listening(signal), interruptible():
                arrays = {
                    n: warp(
                        images[n], request.transform, self._fixed, "nearest" if self._labels[n] else "linear",
                        0 if self._labels[n] else None,
                    ).data
                    for n in sorted(request.wanted)
                }  # fmt: skip
        except StopRequested:
            return None
        return WarpedFrame(arrays, self._fixed, exact=True)
