"""What can be written on the command line about stacks of sections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_stnreg.cli.setting_options import add_setting
from napari_stnreg.stacks.settings import FEATURES_HELP, TREND_HELP, StackSettings

_ALIGN = """\
Align the serial sections of STACK: an OME-Zarr image, a multi-page TIFF, a .npy file, or a folder with one image a
section. OUT.zarr then holds the aligned stack as OME-Zarr with its pyramid, and the array 'displacement' that made it;
beside it lie OUT.report.json and OUT.quality.csv. Each section that is done is kept in OUT.work until the end: after a
Ctrl+C, a kill or a power cut the same command with --resume goes on, and the result is the same to the last bit.
Stitching tiles into a section is not this command's work: give it whole sections.
Exit codes: 0 done, 2 something given cannot be used, 1 any other failure, 130 stopped."""
_APPLY = """\
Warp another stack of the same sections through an alignment: another channel, labels (--interpolation nearest), or the
full-resolution stack when a smaller one was aligned. THING may be a .csv of points instead, with the columns z,y,x in
pixels of the raw stack; they go to pixels of the aligned one."""
_EXPORT = """\
Write the displacement of every pixel as FIELD.npy, shape (z, 2, y, x), on the input's own canvas, in pixels:
aligned[z,y,x] = raw[z, y+d[0], x+d[1]]."""

_DEBUG = "show the whole traceback of a failure"
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def size(text: str) -> float:
    """An amount of memory as it is written: ``4GB``, ``800 MB`` or a number of bytes."""
    word = text.strip().lower().replace(" ", "").removesuffix("b").removesuffix("i")
    unit = word[-1:] if word[-1:] in "kmgt" else ""
    amount = float(word.removesuffix(unit)) * _UNITS[unit]
    if not 0 < amount < float("inf"):
        raise ValueError
    return amount


def sections(text: str) -> tuple[int, ...]:
    """Section numbers as they are written: ``3,7,12``."""
    return tuple(int(word) for word in text.split(","))


def extent(text: str) -> tuple[int, int]:
    """A range of sections as it is written: ``10:14``, both included."""
    first, last = text.split(":")
    return int(first), int(last)


# argparse says "invalid memory value" and so on
size.__name__, sections.__name__, extent.__name__ = "memory", "section number", "range"


def add_stack_commands(commands: Any) -> None:
    """Add ``align``, ``apply-stack`` and ``export-field``."""
    align = commands.add_parser("align", help="align a stack of serial sections", description=_ALIGN)
    align.add_argument("stack", type=Path, metavar="STACK", help="the sections")
    align.add_argument("output", type=Path, metavar="OUT.zarr", help="the OME-Zarr folder to write")
    align.add_argument("--resume", action="store_true", help="go on where a stopped or killed run left off")
    align.add_argument("--overwrite", action="store_true", help="replace OUT.zarr if it exists")
    align.add_argument("--debug", action="store_true", help=_DEBUG)
    settings = align.add_argument_group("settings")
    for name, field in StackSettings.model_fields.items():
        add_setting(settings, name, field, {"trend": TREND_HELP, "features": FEATURES_HELP}.get(name))
    known = align.add_argument_group("what is known beforehand")
    known.add_argument("--masks", type=Path, metavar="STACK", help="a stack that is not zero on cracks, folds and dirt")
    known.add_argument("--exclude", type=sections, metavar="N,N", default=(), help="sections not to be matched")
    known.add_argument(
        "--landmarks",
        type=Path,
        metavar="CSV",
        help="points that belong together: columns section_a,y_a,x_a,section_b,y_b,x_b, pixels of the raw sections",
    )
    known.add_argument(
        "--only",
        type=extent,
        metavar="A:B",
        help="align sections A to B again and leave all others where OUT.zarr (made with --keep-work) has them",
    )
    _add_reading(align.add_argument_group("reading"))
    work = align.add_argument_group("work")
    _add_scheduler(work)
    work.add_argument("--memory", type=size, metavar="4GB", help="what the tasks together may take; lowers --workers")
    work.add_argument("--keep-work", action="store_true", help="keep OUT.work, which --only needs")

    apply = commands.add_parser("apply-stack", help="warp another stack, or points, as aligned", description=_APPLY)
    apply.add_argument("alignment", type=Path, metavar="OUT.zarr", help="what 'align' wrote")
    apply.add_argument("thing", type=Path, metavar="THING", help="a stack of the same sections, or a .csv of points")
    apply.add_argument("-o", "--output", type=Path, metavar="RESULT", required=True, help="a .zarr folder, or a .csv")
    apply.add_argument(
        "--interpolation",
        choices=("linear", "nearest", "cubic"),
        default="linear",
        help="nearest for labels",
    )
    apply.add_argument("--fill", type=float, metavar="NUMBER", default=0.0, help="value where there is nothing (0)")
    apply.add_argument("--inverse", action="store_true", help="points go from the aligned stack to the raw one")
    apply.add_argument("--overwrite", action="store_true", help="replace RESULT if it exists")
    apply.add_argument("--debug", action="store_true", help=_DEBUG)
    _add_reading(apply.add_argument_group("reading"))
    _add_scheduler(apply.add_argument_group("work"))

    export = commands.add_parser("export-field", help="write every pixel's displacement", description=_EXPORT)
    export.add_argument("alignment", type=Path, metavar="OUT.zarr", help="what 'align' wrote")
    export.add_argument("output", type=Path, metavar="FIELD.npy", help="the file to write")
    export.add_argument("--overwrite", action="store_true", help="replace FIELD.npy if it exists")
    export.add_argument("--debug", action="store_true", help=_DEBUG)


def _add_reading(group: Any) -> None:
    group.add_argument("--level", type=int, metavar="N", default=0, help="resolution of an OME-Zarr (0: the finest)")
    group.add_argument("--channel", type=int, metavar="N", help="channel, counted from 0, where there are several")


def _add_scheduler(group: Any) -> None:
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        default="threads",
        help="'threads' of this computer (default), or a Dask cluster that sees the same files: tcp://host:8786",
    )
    group.add_argument("--workers", type=int, metavar="N", help="tasks at a time (default: all cores)")
