"""OUT.zarr: an OME-Zarr image with its pyramid, and beside it the displacement that made it.

The image follows OME-Zarr 0.5, which is Zarr format 3 and what viewers read today. The array ``displacement`` has the
shape ``(z, 2, y, x)``: ``raw = p + displacement[z, :, node]`` in pixels of the input, order (y, x), where ``p`` is the
node's place in the input's own frame, ``origin + node * scale``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_stnreg._version import __version__
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.units import canonical
from napari_stnreg.stacks.output.canvas import OutputCanvas, displacement_transform
from napari_stnreg.stacks.output.render import halved
from napari_stnreg.stacks.sources.base import StackSource

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform

Array = npt.NDArray[Any]
CHUNK = 512
_SMALLEST = 128
"""The pyramid ends with a level whose longer side is at most twice this."""

_OME_UNITS = {
    "m": "meter",
    "cm": "centimeter",
    "mm": "millimeter",
    "um": "micrometer",
    "nm": "nanometer",
    "pm": "picometer",
    "angstrom": "angstrom",
    "inch": "inch",
}


class SectionWriter:
    """Writes sections into the levels of an OME-Zarr image; can be pickled, and several may write at a time.

    Parameters
    ----------
    path
        The group.
    labels
        Whether the values are labels, which are picked rather than averaged for the pyramid.
    """

    def __init__(self, path: Path | str, *, labels: bool = False) -> None:
        self.path, self.labels = Path(path), labels

    def write(self, z: int, bands: Iterable[tuple[slice, Array]]) -> None:
        """Write a section from its bands, whose heights are even but for the last; makes the coarser levels."""
        levels = _levels(self.path)
        half: Array | None = None
        for rows, data in bands:
            levels[0][z, rows] = data
            if len(levels) > 1:
                smaller = halved(data, labels=self.labels)
                if half is None:
                    half = np.empty(levels[1].shape[1:], dtype=data.dtype)
                half[rows.start // 2 : rows.start // 2 + len(smaller)] = smaller
        for level in levels[1:]:
            assert half is not None
            level[z] = half
            half = halved(half, labels=self.labels)

    def write_displacement(self, z: int, displacement: Array) -> None:
        """Write a section's displacement ``(2, y, x)``."""
        _node(self.path, "displacement")[z] = displacement


def create(
    path: Path,
    source: StackSource,
    canvas: OutputCanvas,
    shape: tuple[int, int],
    *,
    scale: float = 1.0,
    attributes: Mapping[str, Any] | None = None,
    displacement: bool = True,
    fill: float = 0.0,
    labels: bool = False,
) -> SectionWriter:
    """Make an empty OME-Zarr image for the aligned sections of a stack; what is there is removed.

    Parameters
    ----------
    path
        Folder of the group.
    source
        The stack that is rendered: number of sections, type, pixel size, unit, name.
    canvas
        Where the sections come to lie.
    shape
        Canvas ``(y, x)`` in the source's own pixels.
    scale
        Input pixels in one pixel of the source.
    attributes
        What else to keep under ``stnreg``.
    displacement
        Whether to make the array of displacements.
    fill
        Value where nothing was written.
    labels
        Whether the values are labels.

    Raises
    ------
    InputError
        If the system refuses.
    """
    import zarr

    try:
        if path.exists():
            shutil.rmtree(path)
        group = zarr.open_group(str(path), mode="w", zarr_format=3)
        count = source.shape[0]
        size, level = shape, 0
        datasets: list[Any] = []
        z, y, x = source.spacing
        corner = [(o - 0.5 + scale / 2) / scale for o in canvas.origin]  # of the first pixel, in the source's pixels
        while True:
            group.create_array(
                str(level),
                shape=(count, *size),
                chunks=(1, min(CHUNK, size[0]), min(CHUNK, size[1])),
                dtype=source.dtype,
                fill_value=np.asarray(fill).astype(source.dtype).item(),
                dimension_names=("z", "y", "x"),
            )
            factor = 2**level
            # Labels are picked from the upper left of each block, gray values averaged over it.
            middle = 0.0 if labels else (factor - 1) / 2
            datasets.append({
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [z, y * factor, x * factor]},
                    {"type": "translation", "translation": [0.0, (corner[0] + middle) * y, (corner[1] + middle) * x]},
                ],
            })  # fmt: skip
            if max(size) <= 2 * _SMALLEST:
                break
            size, level = ((size[0] + 1) // 2, (size[1] + 1) // 2), level + 1
        unit = _OME_UNITS.get(canonical(source.unit))
        space = {"type": "space"} | ({"unit": unit} if unit else {})
        group.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [{
                "name": source.name,
                "axes": [{"name": name, **space} for name in "zyx"],
                "datasets": datasets,
                "type": "pick" if labels else "mean",
            }],
        }  # fmt: skip
        group.attrs["stnreg"] = {"version": __version__, **canvas.to_dict(), **(attributes or {})}
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
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror or error}.") from error
    return SectionWriter(path, labels=labels)


class AlignedStack:
    """An alignment on disk: its image, its displacement and what they mean.

    Parameters
    ----------
    path
        The folder that :func:`napari_stnreg.align_stack` wrote.

    Raises
    ------
    InputError
        If there is none.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        if not self.path.is_dir():
            raise InputError(f"'{path}' does not exist, or is no folder; name an aligned OUT.zarr.")
        import zarr

        try:
            group = zarr.open_group(str(self.path), mode="r")
            described: Any = group.attrs["stnreg"]
            self.canvas = OutputCanvas.from_dict(described)
            self._displacement: Any = group["displacement"]
            ome: Any = group.attrs["ome"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{self.path.name}' is not an alignment that this program wrote.") from error
        self.attributes: dict[str, Any] = dict(described)
        self.levels: list[Any] = [group[one["path"]] for one in ome["multiscales"][0]["datasets"]]
        self._group = group

    @property
    def sections(self) -> int:
        """Number of sections."""
        return int(self._displacement.shape[0])

    @property
    def finished(self) -> bool:
        """Whether the run that made it came to its end."""
        return bool(self.attributes.get("finished", False))

    def displacement(self, z: int) -> npt.NDArray[np.float32]:
        """One section's displacement ``(2, y, x)`` at its nodes, in pixels of the input."""
        return np.asarray(self._displacement[z], dtype=np.float32)

    def transform(self, z: int) -> Transform:
        """One section's pull-back, canvas to raw section, in pixels of the input."""
        return displacement_transform(self.displacement(z), self.canvas)


def update_attributes(path: Path, **changes: Any) -> None:
    """Change what is kept under ``stnreg``."""
    import zarr

    group = zarr.open_group(str(path), mode="r+")
    kept: Any = group.attrs["stnreg"]
    group.attrs["stnreg"] = {**kept, **changes}


def _levels(path: Path) -> list[Any]:
    import zarr

    group = zarr.open_group(str(path), mode="r+")
    ome: Any = group.attrs["ome"]
    return [group[one["path"]] for one in ome["multiscales"][0]["datasets"]]


def _node(path: Path, name: str) -> Any:
    import zarr

    return zarr.open_group(str(path), mode="r+")[name]
