"""``stnreg apply-series``: warp another channel or the labels of a registered series."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from napari_stnreg.cli.options import AsOptions, Output, SeriesReading
from napari_stnreg.cli.progress import PROGRESS, logger
from napari_stnreg.core.errors import InputError
from napari_stnreg.io.image import check_image_output


def apply_series(
    folder: Path,
    series: Path,
    /,
    *,
    output: Output,
    interpolation: Literal["nearest", "linear", "cubic"] | None = None,
    fill: float | None = None,
    overwrite: bool = False,
    reading: Annotated[SeriesReading, AsOptions] = SeriesReading(),  # noqa: B008
) -> None:
    """Warp a series by the transforms of a registered one: every frame by its own.

    The result is on the grid of the reference. Name the registered series itself to write its frames in another
    format, such as NIfTI with four axes.

    Parameters
    ----------
    folder
        The folder that 'register-series' wrote.
    series
        Other channels, labels, or the registered series; TIFF, NIfTI, NumPy or OME-Zarr with as many frames.
    output
        File to write: TIFF, NIfTI or OME-Zarr.
    interpolation
        Default: nearest for labels, else linear; see 'apply'.
    fill
        Value outside a frame (default: the value of the first frame's border; 0 with nearest).
    overwrite
        Replace the output if it exists.

    Examples
    --------
    stnreg apply-series registered red-channel.tif -o red-channel.ome.tif
    """
    from napari_stnreg.core.device import free_memory
    from napari_stnreg.core.labels import choose_interpolation
    from napari_stnreg.io.series import write_series
    from napari_stnreg.registration.memory import require_memory
    from napari_stnreg.series.result import SeriesResult

    check_image_output(output, (folder, series), overwrite=overwrite)
    opened = reading.open(series)
    result = SeriesResult.load(folder, opened)
    if not result.complete:
        raise InputError(
            f"Only {len(result)} of {len(opened)} frames of '{folder}' are registered. "
            "Continue with register-series --resume first."
        )
    first = opened[0]
    if interpolation is None:
        interpolation, note = choose_interpolation(first)
        if note:
            logger.log(PROGRESS, "%s", note)
    # the file is written at once
    size = result.grid.size * first.channels * len(opened) * first.data.dtype.itemsize
    require_memory(2 * size, free_memory("cpu"), f"Writing '{output.name}'")
    if fill is None and interpolation == "nearest":
        fill = 0.0
    images = list(result.frames(interpolation=interpolation, fill=fill))
    write_series(output, images, labels=bool(first.is_labels) and interpolation == "nearest")
    print(output)
    if result.failed:
        named = ", ".join(str(frame) for frame in list(result.failed)[:10])
        logger.log(PROGRESS, "The registration of these frames failed: %s. They were warped anyway.", named)
