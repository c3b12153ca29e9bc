"""An alignment on disk, and everything that can be done with it: warp other stacks, map points, export, reslice."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.atomic_io import TEMPORARY_PREFIX, atomic_path
from napari_stnreg.core.errors import InputError, RegistrationWarning
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.image import Image
from napari_stnreg.core.labels import choose_interpolation
from napari_stnreg.core.output_guard import OutputLock, check_output, remove_folder, sync_tree
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.stacks.output.canvas import OutputCanvas, dense_displacement, displacement_transform
from napari_stnreg.stacks.output.ome_zarr import (
    CHUNK,
    SectionWriter,
    create,
    is_aligned_stack,
    read_attributes,
)
from napari_stnreg.stacks.output.render import PixelMap, map_pixels, render_bands, scale_canvas
from napari_stnreg.stacks.runtime.job import report_paths
from napari_stnreg.stacks.runtime.memory import rendering_bytes
from napari_stnreg.stacks.runtime.progress import StackProgress
from napari_stnreg.stacks.runtime.rendering import RenderingJob, render_steps
from napari_stnreg.stacks.sources.base import SectionError, StackSource, reorder_sections
from napari_stnreg.stacks.sources.open import open_stack

if TYPE_CHECKING:
    from napari_stnreg.resampling.warp import Interpolation
    from napari_stnreg.transforms.base import Transform

_JUDGED_SIZE = 2048
"""Side of the part of a section from which labels are recognized."""


class AlignedStack:
    """An alignment on disk: its image, its displacement, and what can be done with them.

    Parameters
    ----------
    path
        The folder that :func:`napari_stnreg.align_stack` wrote.

    Attributes
    ----------
    path : Path
        The folder.
    canvas : OutputCanvas
        Extent of the aligned stack in the frame of the input.
    levels : list of zarr arrays
        The image ``(z, y, x)`` from fine to coarse, read lazily.
    attributes : dict
        What the alignment recorded about itself: stack, settings, whether it is finished, verdicts.

    Raises
    ------
    InputError
        If the folder does not exist or is not an alignment.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        if not self.path.is_dir():
            raise InputError(f"'{path}' does not exist or is not a folder. Name an aligned OUT.zarr.")
        import zarr

        self.attributes: dict[str, Any] = read_attributes(self.path)
        try:
            group = zarr.open_group(str(self.path), mode="r")
            self.canvas = OutputCanvas.from_dict(self.attributes)
            self._displacement: Any = group["displacement"]
            ome: Any = group.attrs["ome"]
            self.levels: list[Any] = [group[one["path"]] for one in ome["multiscales"][0]["datasets"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{self.path.name}' is not an aligned stack written by napari-stnreg.") from error

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"AlignedStack('{self.path.name}', shape={tuple(self.levels[0].shape)}, {state})"

    @property
    def n_sections(self) -> int:
        """Number of sections."""
        return int(self._displacement.shape[0])

    @property
    def order(self) -> list[int]:
        """Section of the input that each section of the aligned stack shows; see the setting ``reorder``."""
        return list(self.attributes.get("order") or range(self.n_sections))

    @property
    def finished(self) -> bool:
        """Whether the run that wrote it came to its end."""
        return bool(self.attributes.get("finished", False))

    @property
    def report(self) -> dict[str, Any]:
        """The report of the alignment, read from ``OUT.report.json`` beside it.

        Raises
        ------
        InputError
            If there is none.
        """
        path = report_paths(self.path)[0]
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError) as error:
            raise InputError(f"'{path}' does not exist or is not a report.") from error

    def displacement(self, z: int) -> npt.NDArray[np.float32]:
        """Displacement ``(2, y, x)`` of a section at its nodes, order (y, x), in pixels of the input."""
        return np.asarray(self._displacement[z], dtype=np.float32)

    def transform(self, z: int) -> Transform:
        """Pull-back transform of a section, canvas to raw section, in pixels of the input."""
        return displacement_transform(self.displacement(z), self.canvas)

    # -- other images of the same sections

    def apply(
        self,
        stack: Any,
        output: Path | str,
        *,
        interpolation: Interpolation | None = None,
        fill: float = 0.0,
        scheduler: str = "threads",
        workers: int | None = None,
        memory: float | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Warp another stack of the same sections; :meth:`apply_steps` run to its end, with the same parameters."""
        return run_to_completion(
            self.apply_steps(
                stack, output, interpolation=interpolation, fill=fill, scheduler=scheduler, workers=workers,
                memory=memory, resume=resume, overwrite=overwrite,
            )
        )  # fmt: skip

    def apply_steps(
        self,
        stack: Any,
        output: Path | str,
        *,
        interpolation: Interpolation | None = None,
        fill: float = 0.0,
        scheduler: str = "threads",
        workers: int | None = None,
        memory: float | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Generator[StackProgress, str | None, Path]:
        """Warp another stack of the same sections step by step, for progress reporting and cancellation.

        Parameters
        ----------
        stack
            Another channel, labels, or the same sections at another resolution; anything that
            :func:`~napari_stnreg.open_stack` opens.
        output
            OME-Zarr folder to write, on the canvas of the alignment.
        interpolation
            ``"linear"``, ``"cubic"`` or ``"nearest"``; by default nearest for labels, see :func:`~napari_stnreg.warp`.
        fill
            Value outside the sections.
        scheduler, workers, memory
            As in :func:`~napari_stnreg.align_stack`.
        resume
            Continue a stopped or killed run; sections that are written are skipped.
        overwrite
            Replace ``output`` if this program wrote it.

        Yields
        ------
        StackProgress
            After every section. ``send("stop")`` ends the run; the sections written so far stay on disk.

        Raises
        ------
        InputError
            If the alignment is unfinished, the two stacks differ in extent, or ``output`` cannot be written.
        """
        from napari_stnreg.resampling.warp import Interpolation

        self._require_finished()
        source = open_stack(stack)
        if interpolation is None:
            interpolation, note = stack_interpolation(source)
            if note:
                warnings.warn(note, RegistrationWarning, stacklevel=2)
        if interpolation not in get_args(Interpolation):
            raise InputError(f"There is no interpolation '{interpolation}'. Choose linear, nearest or cubic.")
        if source.shape[0] != self.n_sections:
            raise InputError(
                f"'{source.name}' has {source.shape[0]} sections and the alignment {self.n_sections}. "
                "An alignment applies to stacks of the same sections."
            )
        if not str(output).rstrip("/").endswith(".zarr"):
            raise InputError(f"'{Path(output).name}' must be an OME-Zarr folder. Choose a name that ends in .zarr.")
        pixels = map_pixels(source, self.canvas.input_shape, self.attributes.get("stack") or {})
        grid, labels = scale_canvas(self.canvas, pixels.scale), interpolation == "nearest"
        known = {name: self.attributes.get(name) for name in ("stack", "settings", "verdicts", "order")}
        identity = {
            "alignment": {"location": str(self.path), **known}, "stack": source.identity(),
            "interpolation": interpolation, "fill": float(fill),
        }  # fmt: skip
        sections = reorder_sections(source, self.order)
        job = RenderingJob(
            output, [self.path, *source.paths], identity, source.shape[0], rendering_bytes(source),
            create=lambda path: create(
                path, source, self.canvas, (grid.shape[0], grid.shape[1]), pixels=pixels, displacement=False, fill=fill,
                labels=labels, attributes={"alignment": self.path.name, "finished": False},
            ),
            task=lambda writer, z: partial(
                _warp_section, self.path, sections, writer, z, pixels, interpolation, fill
            ),
            labels=labels,
        )  # fmt: skip
        return (
            yield from render_steps(
                job, scheduler=scheduler, workers=workers, memory=memory, resume=resume, overwrite=overwrite
            )
        )

    # -- points and displacement

    def map_points(self, points: npt.ArrayLike, *, inverse: bool = False) -> FloatArray:
        """Map points of the raw sections to the aligned stack.

        Parameters
        ----------
        points
            ``(N, 3)``: section, and pixel (y, x) of the raw stack.
        inverse
            Map points of the aligned stack to the raw one instead.

        Returns
        -------
        ndarray
            ``(N, 3)``: section, and pixel (y, x) of the aligned image.

        Raises
        ------
        InputError
            If the alignment is unfinished, or a point is in no section of the stack.
        """
        self._require_finished()
        given = np.asarray(points, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != 3:
            raise InputError(f"Points of a stack have three columns, z, y, x. These have the shape {given.shape}.")
        sections = np.rint(given[:, 0]).astype(int)
        if len(given) and not (sections.min() >= 0 and sections.max() < self.n_sections):
            raise InputError(f"A point is outside the stack, which has sections 0 to {self.n_sections - 1}.")
        corner = np.asarray(self.canvas.origin, dtype=np.float64)
        result = given.copy()
        order = np.asarray(self.order)
        there = order if inverse else np.argsort(order)
        for z in np.unique(sections):
            here = sections == z
            transform = self.transform(int(z if inverse else there[z]))
            result[here, 0] += there[z] - z
            if inverse:
                result[here, 1:] = transform.map_points(given[here, 1:] + corner)
            else:
                result[here, 1:] = transform.inverse().map_points(given[here, 1:]) - corner
        return result

    def export_displacement(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write the displacement at every pixel of the input's canvas as a ``.npy`` file, section by section.

        The array has the shape ``(z, 2, y, x)``, float32, in pixels, order (y, x), pull-back:
        ``aligned[z, y, x] = raw[order[z], y + d[0], x + d[1]]``, where :attr:`order` is 0, 1, 2, ... unless sections
        were reordered. ``aligned`` is on the canvas of the input here; subtract ``canvas.origin`` to index the image in
        ``OUT.zarr``.

        Raises
        ------
        InputError
            If the alignment is unfinished, or the file cannot be written.
        """
        self._require_finished()
        if Path(path).suffix != ".npy":
            raise InputError(f"'{Path(path).name}' must be a NumPy file. Choose a name that ends in .npy.")
        target = check_output(path, [self.path], overwrite=overwrite)
        with OutputLock(target), atomic_path(target) as part:
            shape = (self.n_sections, 2, *self.canvas.input_shape)
            field = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
            for z in range(self.n_sections):
                field[z] = dense_displacement(self.displacement(z), self.canvas)
            field.flush()
            del field
        return target

    def export(self, target: Path | str, kind: str, *, overwrite: bool = False) -> str:
        """Write the stack, or its transforms, for another program; :meth:`export_steps` run to its end."""
        return run_to_completion(self.export_steps(target, kind, overwrite=overwrite))

    def export_steps(
        self, target: Path | str, kind: str, *, overwrite: bool = False
    ) -> Generator[StackProgress, str | None, str]:
        """Write the stack, or its transforms, for another program, section by section.

        Parameters
        ----------
        target
            File or folder; for ``"zarr"`` and ``"precomputed"`` also a URL, such as ``s3://bucket/stack.zarr``.
        kind
            ``"zarr"`` (one shard for each section and level), ``"precomputed"`` (Neuroglancer), ``"affine-csv"``,
            ``"bigwarp"`` (a folder of landmarks), ``"sofima"`` (coordinate map) or ``"render"`` (Render, TrakEM2).
        overwrite
            Replace the target if it exists.

        Yields
        ------
        StackProgress
            After every section of an image. ``send("stop")`` ends the run; the image stays unfinished.

        Raises
        ------
        InputError
            If the alignment is unfinished, or the target cannot be written.
        """
        from napari_stnreg.stacks.export import export_steps

        self._require_finished()
        return (yield from export_steps(self, target, kind, overwrite=overwrite))

    @property
    def nodes(self) -> Any:
        """The array ``(z, 2, y, x)`` of displacements, read lazily."""
        return self._displacement

    # -- looking at it

    def profile(self, z: int, axis: Literal["y", "x"], position: int) -> npt.NDArray[Any]:
        """Return one row or column of an aligned section over the input's extent; zero where it is empty.

        Parameters
        ----------
        z
            The section.
        axis
            ``"y"`` for the row, ``"x"`` for the column at ``position``.
        position
            Pixel of the input.
        """
        along = 1 if axis == "y" else 0
        image, origin = self.levels[0], self.canvas.origin
        size = self.canvas.input_shape[along]
        out = np.zeros(size, dtype=image.dtype)
        across = position - origin[1 - along]
        if not 0 <= across < image.shape[1 + (1 - along)]:
            return out
        low, high = max(origin[along], 0), min(origin[along] + image.shape[1 + along], size)
        part = slice(low - origin[along], high - origin[along])
        out[low:high] = image[(z, across, part) if along == 1 else (z, part, across)]
        return out

    def reslice(
        self, axis: Literal["y", "x"], position: int, sections: Sequence[int] | None = None
    ) -> npt.NDArray[Any]:
        """Cut across the sections, on the extent of the input.

        Parameters
        ----------
        axis
            ``"y"`` for an XZ cut at the row ``position``, ``"x"`` for a YZ cut at the column.
        position
            Pixel of the input.
        sections
            Sections to cut; all if not given.

        Returns
        -------
        ndarray
            ``(sections, x)`` or ``(sections, y)``.
        """
        return np.stack([self.profile(z, axis, position) for z in (sections or range(self.n_sections))])

    # -- copies

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Copy the alignment with its report to another folder; :meth:`save_steps` run to its end."""
        return run_to_completion(self.save_steps(path, overwrite=overwrite))

    def save_steps(self, path: Path | str, *, overwrite: bool = False) -> Generator[StackProgress, str | None, Path]:
        """Copy the alignment with its report to another folder, file by file.

        Parameters
        ----------
        path
            The folder to write.
        overwrite
            Replace it if this program wrote it.

        Yields
        ------
        StackProgress
            After every file. ``send("stop")`` ends the copy; nothing is left of it.

        Raises
        ------
        InputError
            If the folder cannot be written.
        """
        target = check_output(path, [self.path], overwrite=overwrite, folder=True, is_ours=is_aligned_stack)
        part = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
        with OutputLock(target):
            try:
                files = [file for file in self.path.rglob("*") if file.is_file()]
                for done, file in enumerate(files, start=1):
                    to = part / file.relative_to(self.path)
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, to)
                    if (yield StackProgress("save", done, len(files), done / len(files), "writing files")) == "stop":
                        return target
                sync_tree(part)
                remove_folder(target)
                part.rename(target)
                for ours, theirs in zip(report_paths(self.path), report_paths(target), strict=True):
                    if ours.exists():
                        with atomic_path(theirs) as copy:
                            shutil.copyfile(ours, copy)
            except OSError as error:
                raise InputError(f"'{target}' cannot be written: {error.strerror or error}.") from error
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return target

    def _require_finished(self) -> None:
        if not self.finished:
            raise InputError(
                f"The alignment '{self.path.name}' is unfinished. Run 'stnreg align' again with --resume first."
            )


def stack_interpolation(source: StackSource) -> tuple[Interpolation, str]:
    """Return the interpolation of a stack when none is given, judged from a section in its middle, and a sentence.

    See :func:`~napari_stnreg.core.labels.choose_interpolation`.
    """
    height, width = source.shape[1:]
    window = tuple(slice(max((n - _JUDGED_SIZE) // 2, 0), (n + _JUDGED_SIZE) // 2) for n in (height, width))
    for z in sorted(range(source.shape[0]), key=lambda z: abs(z - source.shape[0] // 2)):
        with suppress(SectionError):
            section = source.read(z, (window[0], window[1]))
            return choose_interpolation(Image.from_array(section, name=source.name))
    return "linear", ""


def _warp_section(
    alignment: Path, source: StackSource, writer: SectionWriter, z: int, pixels: PixelMap, interpolation: Any,
    fill: float,
) -> None:  # fmt: skip
    aligned = AlignedStack(alignment)
    canvas = aligned.canvas
    bands = render_bands(
        source, z, aligned.transform(z), scale_canvas(canvas, pixels.scale), CHUNK, pixels=pixels, step=canvas.step,
        interpolation=interpolation, fill=fill,
    )  # fmt: skip
    writer.write(z, bands)
