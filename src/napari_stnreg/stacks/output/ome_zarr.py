"""Write aligned sections as an OME-Zarr pyramid, together with their displacement fields.

The image follows OME-Zarr 0.5 (Zarr format 3). The array ``displacement`` has the shape ``(z, 2, y, x)``:
``raw = p + displacement[z, :, node]`` in pixels of the input, order (y, x), where ``p = origin + node * scale`` is the
position of the node in the frame of the input.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg._version import __version__
from napari_stnreg.core.atomic_io import write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import remove_folder, sync_tree
from napari_stnreg.io.ome_zarr import ome_axes
from napari_stnreg.stacks.output.canvas import OutputCanvas
from napari_stnreg.stacks.output.render import PixelMap, halve, scale_canvas
from napari_stnreg.stacks.sources.base import StackSource

Array = npt.NDArray[Any]

CHUNK = 512
"""Side of the chunks of the image, pixels."""
SMALLEST_LEVEL = 128
"""The pyramid ends with a level whose longer side is at most twice this, pixels."""


class SectionWriter:
    """Writes sections into the levels of an OME-Zarr image; can be pickled, and several may write at a time.

    Parameters
    ----------
    path
        The group.
    labels
        Whether the values are labels, which are subsampled rather than averaged for the pyramid.
    """

    def __init__(self, path: Path | str, *, labels: bool = False) -> None:
        self.path, self.labels = Path(path), labels

    def write(self, z: int, bands: Iterable[tuple[slice, Array]]) -> None:
        """Write a section from bands of rows, whose heights are even except for the last, and its coarser levels.

        Raises
        ------
        InputError
            If the system refuses, for example because the disk is full.
        """
        levels = _levels(self.path)
        half: Array | None = None
        for rows, data in bands:
            with _writing(self.path):
                levels[0][z, rows] = data
            if len(levels) > 1:
                smaller = halve(data, labels=self.labels)
                if half is None:
                    half = np.empty(levels[1].shape[1:], dtype=data.dtype)
                half[rows.start // 2 : rows.start // 2 + len(smaller)] = smaller
        for level in levels[1:]:
            assert half is not None
            with _writing(self.path):
                level[z] = half
            half = halve(half, labels=self.labels)

    def write_displacement(self, z: int, displacement: Array) -> None:
        """Write the displacement ``(2, y, x)`` of a section."""
        import zarr

        group: Any = zarr.open_group(str(self.path), mode="r+")
        with _writing(self.path):
            group["displacement"][z] = displacement

    def sync(self, z: int) -> None:
        """Force the chunks of a section to disk, before it is recorded as done."""
        with _writing(self.path):
            for chunks in self.path.glob(f"*/c/{z}"):
                sync_tree(chunks)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"'{path.name}' cannot be written: {error.strerror or error}. Resume when it can.") from error


def create(
    path: Path,
    source: StackSource,
    canvas: OutputCanvas,
    shape: tuple[int, int],
    *,
    pixels: PixelMap = PixelMap(),  # noqa: B008
    attributes: Mapping[str, Any] | None = None,
    displacement: bool = True,
    fill: float = 0.0,
    labels: bool = False,
) -> SectionWriter:
    """Create an empty OME-Zarr image for the aligned sections of a stack; an existing folder is deleted.

    Parameters
    ----------
    path
        Folder of the group. The caller has checked it with :func:`~napari_stnreg.core.output_guard.check_output`.
    source
        The stack that is rendered; it determines number of sections, type, pixel size, unit and name.
    canvas
        Extent of the aligned stack.
    shape
        Canvas ``(y, x)`` in pixels of the source.
    pixels
        Where the pixels of the source are in pixels of the input.
    attributes
        Further entries under ``stnreg``.
    displacement
        Whether to create the array of displacements.
    fill
        Value of unwritten pixels.
    labels
        Whether the values are labels.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    import zarr

    remove_folder(path)
    shapes = [shape]
    while max(shapes[-1]) > 2 * SMALLEST_LEVEL:
        shapes.append(((shapes[-1][0] + 1) // 2, (shapes[-1][1] + 1) // 2))
    count = source.shape[0]
    try:
        group = zarr.create_group(
            str(path),
            zarr_format=3,
            attributes={
                "ome": _metadata(source, canvas, len(shapes), pixels, labels=labels),
                "stnreg": {"version": __version__, **canvas.to_dict(), **(attributes or {})},
            },
        )
        for level, size in enumerate(shapes):
            group.create_array(
                str(level),
                shape=(count, *size),
                chunks=(1, min(CHUNK, size[0]), min(CHUNK, size[1])),
                dtype=source.dtype,
                fill_value=np.asarray(fill).astype(source.dtype).item(),
                dimension_names=("z", "y", "x"),
            )
        if displacement:
            rows, columns = canvas.field_shape
            array = group.create_array(
                "displacement",
                shape=(count, 2, rows, columns),
                chunks=(1, 2, min(CHUNK, rows), min(CHUNK, columns)),
                dtype=np.float32,
                fill_value=0.0,
                dimension_names=("z", "component", "y", "x"),
            )
            array.attrs.update({
                **canvas.to_dict(),
                "order": ["y", "x"],
                "direction": "pull-back: aligned(p) = raw(p + displacement(p))",
                "unit": "pixel of the input",
            })  # fmt: skip
        sync_tree(path)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror or error}.") from error
    return SectionWriter(path, labels=labels)


def _metadata(
    source: StackSource, canvas: OutputCanvas, levels: int, pixels: PixelMap, *, labels: bool
) -> dict[str, Any]:
    """Create the validated OME-Zarr metadata of the image."""
    from ome_zarr_models.v05.image import ImageAttrs
    from ome_zarr_models.v05.multiscales import Dataset, Multiscale

    z, y, x = source.spacing
    corner = pixels.from_input(scale_canvas(canvas, pixels.scale).origin)  # center of the first pixel, source pixels
    origin = source.origin
    datasets = []
    for level in range(levels):
        factor = 2**level
        # Labels are taken from the upper left of each block, intensities are averaged over it.
        middle = 0.0 if labels else (factor - 1) / 2
        datasets.append(
            Dataset.build(
                path=str(level),
                scale=[z, y * factor, x * factor],
                translation=[origin[0], origin[1] + (corner[0] + middle) * y, origin[2] + (corner[1] + middle) * x],
            )
        )
    multiscale = Multiscale(
        axes=ome_axes("zyx", source.unit),
        datasets=tuple(datasets),
        name=source.name,
        type="subsample" if labels else "mean",
    )
    found: dict[str, Any] = ImageAttrs(version="0.5", multiscales=[multiscale]).model_dump(
        mode="json", exclude_none=True
    )
    return found


def read_attributes(path: Path) -> dict[str, Any]:
    """Read the entries under ``stnreg`` of an aligned stack.

    Raises
    ------
    InputError
        If the folder is not an aligned stack.
    """
    try:
        found = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]["stnreg"]
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path.name}' is not an aligned stack written by napari-stnreg.") from error


def is_aligned_stack(path: Path) -> bool:
    """Return whether a folder was written by this module: an aligned stack, or a stack warped by one."""
    with suppress(InputError):
        return bool(read_attributes(path))
    return False


def update_attributes(path: Path, **changes: Any) -> None:
    """Change entries under ``stnreg``, in one atomic write."""
    note = path / "zarr.json"
    found = json.loads(note.read_text(encoding="utf-8"))
    found["attributes"]["stnreg"].update(changes)
    write_text(note, json.dumps(found, indent=2))


def _levels(path: Path) -> list[Any]:
    import zarr

    group = zarr.open_group(str(path), mode="r+")
    ome: Any = group.attrs["ome"]
    return [group[one["path"]] for one in ome["multiscales"][0]["datasets"]]
