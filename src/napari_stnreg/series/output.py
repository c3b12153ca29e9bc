"""The folder of a registered series: its frames, its transforms and its motion, written while the series is registered.

``frames.jsonl`` is the journal: its first line names the run that the folder belongs to, and each further line holds
one fitted frame. A run that is stopped or killed leaves the lines of the frames that it finished; resuming skips them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile

from napari_stnreg.core.atomic_io import write_json, write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.image import Image
from napari_stnreg.core.output_guard import check_output, remove_folder, sync_path
from napari_stnreg.io.ome_zarr import CHUNK, SMALLEST_LEVEL, halved, ome_axes
from napari_stnreg.io.tiff import ome_metadata
from napari_stnreg.io.transform_io import load_transform, save
from napari_stnreg.series.motion import FrameFit
from napari_stnreg.transforms import Transform

OutputFormat = Literal["zarr", "tiff"]

_JOURNAL = "frames.jsonl"
_NAMES: dict[str, str] = {"zarr": "registered.ome.zarr", "tiff": "registered.ome.tif"}


class SeriesFolder:
    """The output folder of a series.

    Parameters
    ----------
    path
        The folder.
    output_format
        Format of the registered frames.
    """

    kind = "series"
    """What the journal calls the folder."""

    def __init__(self, path: str | os.PathLike[str], output_format: OutputFormat = "zarr") -> None:
        self.path, self.format = Path(path), output_format
        self._levels: list[Any] = []

    @property
    def frames_path(self) -> Path | None:
        """File or folder of the registered frames; ``None`` if the caller writes them."""
        return self.path / _NAMES[self.format]

    def begin(self, identity: Mapping[str, Any], inputs: list[Path], *, resume: bool, overwrite: bool) -> None:
        """Create the folder, or reopen that of an unfinished run.

        Raises
        ------
        InputError
            If the folder holds something else, or another run, or a run that is neither resumed nor overwritten.
        """
        wanted = json.loads(json.dumps(identity))
        found = self.identity()
        if found is not None and resume:
            if found != wanted:
                keys = [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)]
                raise InputError(
                    f"'{self.path}' belongs to another run ({', '.join(sorted(keys))} differ). Use the same series and "
                    "settings, or start again with --overwrite."
                )
            return
        if found is not None and not overwrite:
            raise InputError(
                f"'{self.path}' holds a registered series. Continue it with --resume, or start again with --overwrite."
            )
        self._clear(inputs, is_ours=found is not None)
        write_text(self.path / _JOURNAL, json.dumps({"stnreg": self.kind, "run": wanted}) + "\n")

    def _clear(self, inputs: list[Path], *, is_ours: bool) -> None:
        """Make an empty folder for a new run."""
        check_output(self.path, inputs, overwrite=True, folder=True, is_ours=lambda _: is_ours)
        if is_ours:
            remove_folder(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The folder '{self.path}' cannot be created: {error.strerror or error}.") from error

    def identity(self) -> dict[str, Any] | None:
        """Return what the run of the folder is known by; ``None`` if it was not written by this module."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            with (self.path / _JOURNAL).open(encoding="utf-8") as file:
                first = json.loads(file.readline())
            if first["stnreg"] == self.kind:
                return dict(first["run"])
        return None

    def report(self) -> dict[str, Any] | None:
        """Return the report of the last run; ``None`` if it ended without one."""
        with suppress(OSError, ValueError, TypeError):
            return dict(json.loads((self.path / "report.json").read_text(encoding="utf-8")))
        return None

    def fits(self) -> dict[tuple[int, int], FrameFit]:
        """Return the fits in the journal by pass and frame; a line that was cut off is left out."""
        found: dict[tuple[int, int], FrameFit] = {}
        with suppress(OSError):
            for line in (self.path / _JOURNAL).read_text(encoding="utf-8").splitlines()[1:]:
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    number = int(entry.pop("pass"))
                    entry["matrix"], entry["shift"] = np.array(entry["matrix"]), np.array(entry["shift"])
                    fit = FrameFit(**entry)
                    if not self._has_file(fit) or self._field(number, fit.frame).exists():
                        found[number, fit.frame] = fit
        return found

    def record(self, number: int, fit: FrameFit, transform: Transform) -> None:
        """Append a fitted frame; a deformation is written to its own file first."""
        if self._has_file(fit):
            path = self._field(number, fit.frame)
            path.parent.mkdir(exist_ok=True)
            self._save(fit, transform, path)
        entry = {"pass": number, **vars(fit), "matrix": fit.matrix.tolist(), "shift": fit.shift.tolist()}
        if fit.report is None:
            del entry["report"]
        elif fit.report["stop_reason"] == "stopped":  # the best so far; a resumed run fits the frame again
            return
        with (self.path / _JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def transform(self, number: int, frame: int) -> Transform:
        """Load the deformation of a frame."""
        return load_transform(self._field(number, frame))

    def _has_file(self, fit: FrameFit) -> bool:
        return fit.deformed

    def _save(self, fit: FrameFit, transform: Transform, path: Path) -> None:
        save(transform, path)

    def _field(self, number: int, frame: int) -> Path:
        return self.path / f"transforms_{number}" / f"{frame:05d}.safetensors"

    # -- the registered frames

    def open_frames(self, count: int, first: Image, interval: float) -> None:
        """Create the registered frames, filled with zeros, or reopen those of the run that is resumed."""
        data = _stored(first)
        shape = (count, *data.shape)
        path = self.frames_path
        if path is None:
            return
        if path.exists():
            with suppress(Exception):
                self._levels = self._reopen(path)
                if tuple(self._levels[0].shape) == shape and self._levels[0].dtype == data.dtype:
                    return
            raise InputError(f"'{path}' is damaged. Start again with --overwrite.")
        names = ["t", *(["c"] if first.has_channel_axis else []), *"zyx"[-first.ndim :]]
        create = _create_zarr if self.format == "zarr" else _create_tiff
        create(path, shape, data.dtype, names, first, interval)
        self._levels = self._reopen(path)

    def _reopen(self, path: Path) -> list[Any]:
        if self.format == "tiff":
            return [tifffile.memmap(path, mode="r+")]
        import zarr

        group = zarr.open_group(str(path), mode="r+")
        return [group[str(level)] for level in range(len(group))]

    def write_frame(self, frame: int, image: Image) -> None:
        """Write one registered frame."""
        data = _stored(image)
        lead = data.ndim - image.ndim
        for level, array in enumerate(self._levels):
            data = data if level == 0 else halved(data, lead)[0]
            array[frame] = data

    def close(self, report: Mapping[str, Any], motion: str, plot: str) -> None:
        """Write the report and the motion, and force everything to disk."""
        if self.format == "tiff" and self._levels:
            self._levels[0].flush()
        self._levels = []
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "motion.csv", motion)
        write_text(self.path / "motion.svg", plot)
        write_json(self.path / "report.json", dict(report))
        sync_path(self.path / _JOURNAL)


class PairsFolder(SeriesFolder):
    """The output folder of a series whose frames are registered like pairs, each with a transform file of its own.

    The caller owns the folder and writes the warped frames.

    Parameters
    ----------
    path
        The folder.
    inputs
        What else a resumed run must have in common, JSON-ready.
    """

    kind = "pairs"

    def __init__(self, path: str | os.PathLike[str], inputs: Mapping[str, Any] | None = None) -> None:
        super().__init__(path)
        self._inputs = dict(inputs or {})

    def begin(self, identity: Mapping[str, Any], inputs: list[Path], *, resume: bool, overwrite: bool) -> None:
        """Start a journal, or go on with that of an unfinished run."""
        super().begin({**identity, "inputs": self._inputs}, inputs, resume=resume, overwrite=overwrite)

    @property
    def frames_path(self) -> None:
        """``None``: the caller writes the frames."""
        return None

    def _clear(self, inputs: list[Path], *, is_ours: bool) -> None:
        for old in self.path.glob("transform_*.safetensors"):
            old.unlink()

    def _has_file(self, fit: FrameFit) -> bool:
        return True

    def _save(self, fit: FrameFit, transform: Transform, path: Path) -> None:
        transform.save(path, None if fit.report is None else dict(fit.report))

    def _field(self, number: int, frame: int) -> Path:
        return self.path / f"transform_{frame:04d}.safetensors"


def _stored(image: Image) -> npt.NDArray[Any]:
    data = np.asarray(image.data)
    data = np.moveaxis(data, -1, 0) if image.has_channel_axis else data
    if data.dtype.kind == "b":
        return data.astype(np.uint8)
    return data.astype(np.float32) if data.dtype == np.float16 else data


def _create_zarr(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], names: list[str], first: Image, interval: float
) -> None:
    import zarr
    from ome_zarr_models.v05.image import ImageAttrs
    from ome_zarr_models.v05.multiscales import Dataset, Multiscale

    grid = first.grid
    lead = len(names) - grid.ndim
    group = zarr.create_group(str(path), zarr_format=3)
    datasets: list[Any] = []
    factors = np.ones(grid.ndim)
    while True:
        chunks = (*(1,) * lead, *(min(16, n) for n in shape[lead:-2]), *(min(2 * CHUNK, n) for n in shape[-2:]))
        level = str(len(datasets))
        group.create_array(level, shape=shape, chunks=chunks, dtype=dtype, dimension_names=names)
        scale = [interval, *(1.0,) * (lead - 1), *(grid.spacing * factors).tolist()]
        # OME-Zarr 0.5 cannot say a rotation; the whole grid is kept beside it.
        origin = grid.origin + grid.spacing * (factors - 1) / 2
        datasets.append(Dataset.build(path=level, scale=scale, translation=[*(0.0,) * lead, *origin.tolist()]))
        if max(shape[lead:]) <= 2 * SMALLEST_LEVEL:
            break
        step = [2 if n > SMALLEST_LEVEL else 1 for n in shape[lead:]]
        shape = (*shape[:lead], *(n // k for n, k in zip(shape[lead:], step, strict=True)))
        factors = factors * step
    model = Multiscale(axes=ome_axes(names, grid.unit), datasets=tuple(datasets), name=first.name)
    ome = ImageAttrs(version="0.5", multiscales=[model]).model_dump(mode="json", exclude_none=True)
    group.attrs.update({"ome": ome, "stnreg": {"series": {"grid": grid.to_dict(), "unit": grid.unit}}})


def _create_tiff(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], names: list[str], first: Image, interval: float
) -> None:
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(
            f"'{first.name}' holds values of type {dtype}, which OME-TIFF does not have. Write zarr instead."
        )
    # OME orders channels before slices, as the frames are stored
    axes = "".join(names).upper()
    metadata = ome_metadata(axes, first.grid, first.coordinate_system)
    metadata |= {"TimeIncrement": float(interval), "Name": first.name}
    nbytes = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
    array = tifffile.memmap(
        path, shape=shape, dtype=dtype, ome=True, bigtiff=nbytes > 3 * 2**30, photometric="minisblack",
        metadata=metadata,
    )  # fmt: skip
    array.flush()
    del array
