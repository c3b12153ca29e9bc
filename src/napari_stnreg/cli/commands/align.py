"""``stnreg align``: align a stack of serial sections."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from napari_stnreg.cli.exit_code import ExitCode
from napari_stnreg.cli.options import AsOptions, AsSettings, Config, convert_text, merge_config
from napari_stnreg.cli.progress import PROGRESS, Interrupt, ProgressDisplay, logger
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output
from napari_stnreg.core.progress import ReturnType, run_to_completion
from napari_stnreg.stacks.settings import StackSettings

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_stnreg.stacks.result import StackResult
    from napari_stnreg.stacks.runtime.progress import StackProgress
    from napari_stnreg.stacks.sources.base import StackSource

_COLUMNS = ("section_a", "y_a", "x_a", "section_b", "y_b", "x_b")
STOPPING = "Stopping after the current sections. Continue with --resume. Press Ctrl+C again to abort."
"""Answer to Ctrl+C of the commands that can be resumed."""
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def _memory(text: str) -> float:
    """Convert ``4GB``, ``800 MB`` or a number of bytes."""
    word = text.strip().lower().replace(" ", "").removesuffix("b").removesuffix("i")
    unit = word[-1:] if word[-1:] in "kmgt" else ""
    amount = float(word.removesuffix(unit)) * _BYTES[unit]
    if not 0 < amount < float("inf"):
        raise ValueError(text)
    return amount


def _section_numbers(text: str) -> tuple[int, ...]:
    """Convert ``3,7,12``."""
    return tuple(int(word) for word in text.split(","))


def _section_range(text: str) -> tuple[int, int]:
    """Convert ``10:14``; both ends are included."""
    first, last = text.split(":")
    return int(first), int(last)


def _one_word(convert: Callable[[str], Any], expected: str, group: str, metavar: str) -> Parameter:
    converter = convert_text(convert, expected)
    return Parameter(converter=converter, n_tokens=1, group=group, metavar=metavar, show_default=False)


@dataclass(frozen=True)
class StackReading:
    """How a stack is read.

    Parameters
    ----------
    level
        Resolution level of an OME-Zarr. 0 is the finest.
    channel
        Channel, counted from 0, if there are several.
    pattern
        Names of the files of a folder that are sections, such as '*_DAPI.tif'.
    """

    level: Annotated[int, Parameter(group="Reading")] = 0
    channel: Annotated[int | None, Parameter(group="Reading")] = None
    pattern: Annotated[str | None, Parameter(group="Reading")] = None

    def open(self, path: str | Path) -> StackSource:
        """Open the stack and log what had to be assumed."""
        from napari_stnreg.stacks.sources.open import open_stack

        source = open_stack(path, **vars(self))
        if source.warning:
            logger.log(PROGRESS, "%s", source.warning)
        return source


@dataclass(frozen=True)
class Execution:
    """Where the tasks of a stack run.

    Parameters
    ----------
    scheduler
        'threads' of this computer, or the address of a Dask cluster that sees the same files.
    workers
        Tasks at a time. Default: all cores.
    memory
        Memory that the whole program may use, such as 4GB. It lowers the number of workers.
    """

    scheduler: Annotated[str, Parameter(group="Execution")] = "threads"
    workers: Annotated[int | None, Parameter(group="Execution")] = None
    memory: Annotated[float | None, _one_word(_memory, "an amount of memory, such as 4GB", "Execution", "SIZE")] = None


def align(
    stack: str,
    output: Path,
    /,
    *,
    resume: bool = False,
    overwrite: bool = False,
    config: Config = None,
    settings: Annotated[StackSettings, AsSettings] = StackSettings(),  # noqa: B008
    masks: Annotated[str | None, Parameter(group="Masks and landmarks")] = None,
    exclude: Annotated[
        tuple[int, ...],
        _one_word(_section_numbers, "a list of sections, such as 3,7,12", "Masks and landmarks", "INT,..."),
    ] = (),
    landmarks: Annotated[Path | None, Parameter(group="Masks and landmarks")] = None,
    section_range: Annotated[
        tuple[int, int] | None,
        _one_word(_section_range, "a range of sections, such as 10:14", "Execution", "A:B"),
    ] = None,
    reading: Annotated[StackReading, AsOptions] = StackReading(),
    execution: Annotated[Execution, AsOptions] = Execution(),
    keep_work: Annotated[bool, Parameter(group="Execution")] = False,
) -> int:
    """Align a stack of serial sections.

    STACK is an OME-Zarr image, a multi-page TIFF file, a .npy file, or a folder with one image per section. An OME-Zarr
    may also be a URL, such as s3://bucket/stack.zarr or https://host/stack.zarr. The
    output then holds the aligned stack as OME-Zarr with its pyramid, and the array 'displacement' that made it; next
    to it are OUTPUT.report.json and OUTPUT.quality.csv. Every finished section is kept in OUTPUT.work until the end:
    after Ctrl+C, a kill or a power cut, the same command with --resume continues with a bit-identical result.
    Sections must be whole; stitch tiles first.

    Parameters
    ----------
    stack
        The sections.
    output
        The OME-Zarr folder to write, such as OUT.zarr.
    resume
        Continue a stopped or killed run.
    overwrite
        Replace the output if it exists.
    config
        JSON file of settings. Flags win.
    masks
        A stack that is not zero on cracks, folds and dirt.
    exclude
        Sections that are not matched, such as 3,7,12.
    landmarks
        CSV file of points that correspond, with the columns section_a,y_a,x_a,section_b,y_b,x_b in pixels of the raw
        sections.
    section_range
        Align sections A:B (both included) again and leave all others where the output, made with --keep-work, has
        them.
    keep_work
        Keep OUTPUT.work, which --section-range needs.

    Examples
    --------
    stnreg align sections.zarr aligned.zarr --neighbors 2
    """
    settings = merge_config(settings, config)
    from napari_stnreg.stacks.api import align_stack_steps
    from napari_stnreg.stacks.runtime.checkpoint import work_folder
    from napari_stnreg.stacks.runtime.job import report_paths

    for path in (output, work_folder(output).path, *report_paths(output)):
        check_output(path, [landmarks], overwrite=True, folder=path.suffix in (".zarr", ".work"), is_ours=bool)

    steps = align_stack_steps(
        reading.open(stack),
        output,
        settings,
        masks=masks,
        landmarks=None if landmarks is None else read_section_landmarks(landmarks),
        exclude=exclude,
        section_range=section_range,
        scheduler=execution.scheduler,
        workers=execution.workers,
        memory=execution.memory,
        resume=resume,
        overwrite=overwrite,
        keep_work=keep_work,
    )
    with Interrupt(STOPPING) as interrupt:
        result = run_with_progress(steps, interrupt, "align")
    if result.stop_reason == "stopped":
        logger.log(PROGRESS, "Stopped. The same command with --resume continues.")
        return ExitCode.INTERRUPTED
    _print(result)
    return ExitCode.FAILED_VERDICT if result.is_broken else ExitCode.SUCCESS


def run_with_progress(
    steps: Generator[StackProgress, str | None, ReturnType], interrupt: Interrupt, name: str
) -> ReturnType:
    """Run a generator of stack progress to its end and show the progress."""
    with ProgressDisplay(1.0, name) as display:
        return run_to_completion(steps, partial(_show, display), lambda: interrupt.requested)


def _show(display: ProgressDisplay, progress: StackProgress) -> None:
    display.update(progress.fraction, 1.0, f"{progress.message} {progress.done}/{progress.total}")


def read_section_landmarks(path: Path) -> dict[tuple[int, int], tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Read pairs of points between sections from a CSV file.

    Raises
    ------
    InputError
        If the file does not have the six columns.
    """
    from napari_stnreg.io.points import read_table

    table = read_table(path)
    if table.header and not set(_COLUMNS) <= set(table.header):
        raise InputError(f"'{path.name}' needs the columns {','.join(_COLUMNS)}.")
    columns = [table.header.index(name) for name in _COLUMNS] if table.header else list(range(6))
    if table.values.shape[1] < 6:
        raise InputError(f"'{path.name}' has {table.values.shape[1]} columns. It needs {','.join(_COLUMNS)}.")
    values = table.values[:, columns]
    landmarks = {}
    for a, b in {(int(row[0]), int(row[3])) for row in values}:
        rows = values[(values[:, 0] == a) & (values[:, 3] == b)]
        landmarks[a, b] = (rows[:, 1:3], rows[:, 4:6])
    return landmarks


def _print(result: StackResult) -> None:
    for line in result.summary:
        print(line)
    print(f"{result.seconds:.0f} s")
    for one in result.verdicts:
        if one.verdict != "good":
            print(f"section {one.section}: {one.status}, {one.verdict}, {one.reason}")
    print(result.path)
    for sentence in result.warnings:
        logger.log(PROGRESS, "%s", sentence)
