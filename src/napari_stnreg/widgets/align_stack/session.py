"""State of one stack in the viewer: its layers, result, corrections, and the folder of unsaved results."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer, Points

from napari_stnreg.widgets.align_stack.layers import (
    aligned_layer,
    number_landmarks,
    pixels_of,
    raw_data,
    section_landmarks,
    source_of,
)
from napari_stnreg.widgets.align_stack.tasks import AlignJob
from napari_stnreg.widgets.common.navigation import world_point

if TYPE_CHECKING:
    from napari.viewer import Viewer

_KEPT: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""Where results lie until they are saved, by the path of the output: at the longest as long as this program runs, since
layers read from there."""


@dataclass(eq=False)
class StackWork:
    """A stack's layer and all that belongs to it."""

    viewer: Viewer
    raw: Image
    aligned: Layer | None = None
    points: Points | None = None
    result: Any = None
    excluded: set[int] = field(default_factory=set)
    reopened: bool = False
    """Whether the layer is a saved alignment, whose raw stack is not known."""
    unfinished: AlignJob | None = None
    """What was stopped, and can go on."""
    outputs: list[str] = field(default_factory=list)
    """Where its runs were rendered."""

    def take(self, job: AlignJob, result: Any) -> None:
        """Take up what a run returned."""
        if result.stop_reason == "stopped":
            self.unfinished = job
            return
        self.unfinished, self.reopened = None, False
        if job.section_range is not None and self.result is not None and result.slope.get("kept") is None:
            from napari_stnreg.stacks.quality.slope_preservation import SLOPE_WARNING

            # A few sections give no slope estimate; that of the whole stack remains valid. Everything else was judged
            # again.
            before = self.result
            slope_warnings = [one for one in before.warnings if one.startswith(SLOPE_WARNING)]
            result = replace(result, slope=before.slope, warnings=[*result.warnings, *slope_warnings])
        self.result = result

    # -- jobs

    def whole(self, settings: Any, workers: int | None, memory: float | None) -> AlignJob:
        """Align the whole stack, or continue a stopped alignment with the same settings.

        Raises
        ------
        InputError
            If the layer is no stack, or landmarks do not pair up.
        """
        job = AlignJob(
            source_of(self.raw),
            Path(),
            settings,
            tuple(sorted(self.excluded)),
            section_landmarks(self.points, self.raw),
            workers=workers,
            memory=memory,
        )
        if self.unfinished is not None and job.same_as(self.unfinished):
            return replace(job, output=self.unfinished.output, resume=True)
        holder = tempfile.TemporaryDirectory(prefix="stnreg-", ignore_cleanup_errors=True)
        output = Path(holder.name) / "aligned.zarr"
        _KEPT[str(output)] = holder
        self.outputs.append(str(output))
        return replace(job, output=output)

    def part(self, first: int, last: int, workers: int | None, memory: float | None) -> AlignJob:
        """Align some sections again, from the result that there is.

        Raises
        ------
        InputError
            If landmarks do not pair up.
        """
        job = AlignJob(
            source_of(self.raw),
            self.result.path,
            self.result.settings,
            tuple(sorted(self.excluded)),
            section_landmarks(self.points, self.raw),
            (max(first, 0), min(last, raw_data(self.raw).shape[0] - 1)),
            workers=workers,
            memory=memory,
        )
        return replace(job, resume=self.unfinished is not None and job.same_as(self.unfinished))

    # -- looking at it

    def has(self, layer: Layer | None) -> bool:
        """Return whether the viewer still has a layer."""
        return layer is not None and layer in self.viewer.layers

    @property
    def section(self) -> int:
        """The section that is shown."""
        if not self.has(self.raw) or self.viewer.dims.ndim < 3:
            return 0
        return int(min(max(pixels_of(self.raw, self.viewer)[0], 0), raw_data(self.raw).shape[0] - 1))

    def go_to_section(self, section: int) -> None:
        """Show a section."""
        if self.has(self.raw):
            z = min(max(section, 0), raw_data(self.raw).shape[0] - 1)
            self.viewer.dims.set_point(self.viewer.dims.ndim - 3, world_point(self.raw, (z, 0, 0), self.viewer)[0])

    def set_shown(self, *, after: bool) -> None:
        """Show the aligned stack, or the raw one."""
        for layer, visible in ((self.aligned, after), (self.raw, not after)):
            if layer is not None and self.has(layer):
                layer.visible = visible

    def flicker(self) -> None:
        """Switch between the two."""
        if self.aligned is not None and self.has(self.aligned):
            self.set_shown(after=not self.aligned.visible)

    # -- its layers

    def aligned_from(self, output: Path) -> bool:
        """Return whether the aligned layer shows what is rendered into ``output``."""
        return self.aligned is not None and self.aligned.metadata.get("stnreg_stack") == str(output)

    def make_aligned(self, output: Path) -> Layer:
        """Make a layer of what is rendered into ``output``, in place of the previous one."""
        self.aligned = aligned_layer(output, self.raw)
        return self.aligned

    def make_points(self) -> Points:
        """Add an empty landmark layer over the stack."""
        raw = self.raw
        size = max(*raw_data(raw).shape[1:]) / 40
        points = Points(
            np.empty((0, 3)), name=f"{raw.name} landmarks", scale=raw.scale, translate=raw.translate, units=raw.units,
            axis_labels=raw.axis_labels, size=max(size, 4), face_color="transparent", border_color="#ff9f1c",
            border_width=0.2, out_of_slice_display=False,
        )  # fmt: skip
        points.events.data.connect(lambda _event: number_landmarks(points))
        self.points = points
        return points

    def drop_outputs(self) -> None:
        """Remove from disk what earlier runs left and no layer shows any more: a stack may be aligned many times."""
        used = {layer.metadata.get("stnreg_stack") for layer in self.viewer.layers}
        used |= {str(self.result.path)} if self.result is not None else set()
        used |= {str(self.unfinished.output)} if self.unfinished is not None else set()
        for output in [one for one in self.outputs if one not in used]:
            self.outputs.remove(output)
            _KEPT.pop(output).cleanup()
