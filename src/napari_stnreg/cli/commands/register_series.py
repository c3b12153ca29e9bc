"""``stnreg register-series``: register the frames of a movie or a 4D scan and write the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from napari_stnreg.cli.exit_code import ExitCode
from napari_stnreg.cli.options import AsOptions, AsSettings, Config, Output, SeriesReading, merge_config
from napari_stnreg.cli.progress import PROGRESS, Interrupt, ProgressDisplay, logger
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.series.settings import SeriesSettings


def register_series(
    series: Path,
    /,
    *,
    output: Output,
    overwrite: bool = False,
    resume: bool = False,
    accept: bool = False,
    reference: str = "first",
    temporal_smoothing: float = 0.0,
    output_format: str | None = None,
    config: Config = None,
    settings: Annotated[SeriesSettings, AsSettings] = SeriesSettings(),  # noqa: B008
    reading: Annotated[SeriesReading, AsOptions] = SeriesReading(),  # noqa: B008
) -> int:
    """Register the frames of a movie or a 4D scan.

    The output folder then holds the registered frames (OME-Zarr or OME-TIFF), the motion as motion.csv and motion.svg,
    the transforms, and report.json with the frames that failed. Without flags: family rigid, similarity mse,
    smoothness 4, preset fast. Ctrl+C keeps the frames that are done; run the same command with --resume to continue.

    Parameters
    ----------
    series
        TIFF, NIfTI, NumPy or OME-Zarr with a time axis.
    output
        Folder for the results.
    overwrite
        Replace the registered series in the output folder.
    resume
        Continue the unfinished run in the output folder.
    accept
        Exit with 0 even if the registration of a frame or of the series failed.
    reference
        first, mean (two passes), previous (transforms are composed), the index of a frame, or an image file.
    temporal_smoothing
        Smooth the motion over time by a Gaussian of this standard deviation in frames.
    output_format
        zarr or tiff; TIFF for a TIFF series by default.
    config
        JSON file of settings, or a report.json whose settings are used again. Flags win.

    Examples
    --------
    stnreg register-series movie.tif -o registered --reference mean
    """
    from napari_stnreg.series.api import register_series_steps
    from napari_stnreg.series.result import SeriesProgress

    settings = merge_config(settings, config)
    opened = reading.open(series)
    is_tiff = series.name.lower().endswith((".tif", ".tiff"))
    chosen = output_format or ("tiff" if is_tiff else "zarr")
    if chosen not in ("zarr", "tiff"):
        raise InputError(f"There is no output format '{chosen}'. Choose zarr or tiff.")
    steps = register_series_steps(
        opened, settings, reference=reference, temporal_smoothing=temporal_smoothing, output=output,
        output_format="tiff" if chosen == "tiff" else "zarr", resume=resume, overwrite=overwrite,
    )  # fmt: skip
    answer = "Stopping. Finished frames are kept. Press Ctrl+C again to abort."
    with Interrupt(answer) as interrupt, ProgressDisplay(1, "start") as display:

        def show(progress: SeriesProgress) -> None:
            display.update(progress.done, progress.total, progress.message)

        result = run_to_completion(steps, show, lambda: interrupt.requested)
        if result.complete:
            display.complete()
    median = result.report()["median_ncc"]
    scored = f", median correlation {median:.3f}" if median is not None else ""
    failed = f", {len(result.failed)} failed" if result.failed else ""
    aligned = len(result) - len(result.failed)
    print(f"{aligned} of {len(opened)} frames registered in {result.seconds:.1f} s{scored}{failed}")
    print(f"verdict: {result.judgment}")
    for path in sorted(output.iterdir()):
        print(path)
    for sentence in result.warnings:
        logger.log(PROGRESS, "%s", sentence)
    if result.stop_reason == "stopped":
        logger.log(PROGRESS, "Continue with the same command and --resume.")
        return ExitCode.INTERRUPTED
    bad = result.failed or result.verdict == "failed"
    return ExitCode.FAILED_VERDICT if bad and not accept else ExitCode.SUCCESS
