"""What can be written on the command line; the options of a registration are made from its settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from napari_stnreg import __version__
from napari_stnreg.cli.setting_options import add_setting
from napari_stnreg.cli.stack_options import add_stack_commands
from napari_stnreg.cli.train_options import add_train
from napari_stnreg.core.errors import InputError
from napari_stnreg.registration.settings import FAMILY_HELP, START_HELP, RegistrationSettings

_REGISTER = """\
Find the transform that takes MOVING onto FIXED. DIR then holds the warped image in MOVING's format on FIXED's grid,
transform.safetensors, and report.json. Ctrl+C ends the fit and keeps the best so far; twice aborts.
Exit codes: 0 done, 2 something given cannot be used, 1 any other failure, 130 aborted."""
_APPLY = """\
Warp MOVING by a transform that 'register' wrote, onto the grid of FIXED; every frame and channel is warped.
MOVING may be a .csv of points instead: points of the moving side then go to the fixed side, through the transform's
inverse, and -r is not needed."""

_BATCH = """\
Register every pair of JOBS, a CSV file with the columns fixed and moving and, as wanted, name, fixed_mask, moving_mask,
fixed_labels, moving_labels, landmarks, fixed_landmarks, moving_landmarks, start_transform, and any setting for its row
alone. Paths start at the file's folder. DIR then holds scores.csv, summary.html and a folder for each pair. A pair that
fails does not end the batch; the same command again keeps what is done and goes on.
Exit codes: 0 all done, 1 some pairs failed, 2 something given cannot be used, 130 aborted."""
_EVALUATE = """\
Score a registration before and after: agreement of the images, overlap and surface distance of labels, landmark errors,
change of volume and folding, inverse consistency. Give the transform, or what a program made of MOVING."""
_CONVERT = """\
Write a transform as another program's file; the endings decide. Between images from NIfTI it is written in the
scanner's space (LPS, millimeters), between all others as x, y, z without a flip: --fixed and --moving tell which, or
--space does."""


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one sentence, and keeps every option's whole name."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser() -> Parser:
    """The parser of the whole command."""
    parser = Parser(prog="stnreg", description="Register 2D and 3D images by spatial transformers.")
    parser.add_argument("--version", action="version", version=f"stnreg {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_register(commands)
    _add_apply(commands)
    _add_batch(commands)
    _add_evaluate(commands)
    _add_convert(commands)
    add_stack_commands(commands)
    add_train(commands, _DEBUG)
    told = "say what an image, transform or model file is"
    info = commands.add_parser("info", help=told, description="Describe a file.")
    info.add_argument("file", type=Path, metavar="FILE", help="an image, a transform or a model")
    info.add_argument("--debug", action="store_true", help=_DEBUG)
    return parser


def numbers(text: str) -> tuple[float, ...]:
    """Voxel sizes as they are written: ``2`` or ``2,0.5,0.5``."""
    sizes = tuple(float(word) for word in text.split(","))
    if not all(0 < size < float("inf") for size in sizes):
        raise ValueError
    return sizes


numbers.__name__ = "voxel size"  # argparse says "invalid voxel size value"


_HELP = {"family": FAMILY_HELP, "start": START_HELP}
_DEBUG = "show the whole traceback of a failure"


def _add_register(commands: Any) -> None:
    parser = commands.add_parser("register", help="register one image to another", description=_REGISTER)
    parser.add_argument("fixed", type=Path, metavar="FIXED", help="the image that stays")
    parser.add_argument("moving", type=Path, metavar="MOVING", help="the image that is brought onto it")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="write into DIR even if it holds files")
    parser.add_argument("--debug", action="store_true", help=_DEBUG)

    settings = parser.add_argument_group("settings")
    for name, field in RegistrationSettings.model_fields.items():
        add_setting(settings, name, field, _HELP.get(name))

    given = parser.add_argument_group("what is known beforehand")
    _add_masks_and_landmarks(given)
    given.add_argument(
        "--start-transform", type=Path, metavar="FILE", help="begin at this transform, ours or another program's"
    )

    files = parser.add_argument_group("reading")
    which = files.add_mutually_exclusive_group()
    which.add_argument("--frame", type=int, metavar="N", help="frame of a moving time series, counted from 0")
    which.add_argument("--all-frames", action="store_true", help="register every frame of the moving series")
    files.add_argument("--fixed-frame", type=int, metavar="N", help="frame of a fixed time series")
    _add_placing(files)


def _add_apply(commands: Any) -> None:
    parser = commands.add_parser("apply", help="warp an image or points by a transform", description=_APPLY)
    parser.add_argument(
        "transform", type=Path, metavar="TRANSFORM", help="a transform, ours or any file that 'convert' knows"
    )
    parser.add_argument("moving", type=Path, metavar="MOVING", help="the image (or .csv of points) to warp")
    parser.add_argument("-r", "--reference", type=Path, metavar="FIXED", help="image on whose grid the result lies")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="file to write")
    parser.add_argument(
        "--interpolation",
        choices=("nearest", "linear", "cubic"),
        default="linear",
        help="nearest is the one for labels: values stay exactly as they are (default: linear)",
    )
    parser.add_argument(
        "--fill",
        type=float,
        metavar="NUMBER",
        help="value outside MOVING (default: its border's value as in 'register'; 0 with nearest)",
    )
    parser.add_argument(
        "--inverse",
        action="store_true",
        help="go the other way: MOVING is then of the fixed side and FIXED of the moving one",
    )
    parser.add_argument("--frame", type=int, metavar="N", help="only this frame of MOVING, counted from 0")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--debug", action="store_true", help=_DEBUG)
    _add_placing(parser.add_argument_group("reading"))


def _add_batch(commands: Any) -> None:
    parser = commands.add_parser("batch", help="register many pairs from a list", description=_BATCH)
    parser.add_argument("jobs", type=Path, metavar="JOBS", help="CSV file, one pair in each row")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="folder for the results")
    parser.add_argument("--restart", action="store_true", help="run every row again, also what is done")
    parser.add_argument("--debug", action="store_true", help=_DEBUG)
    settings = parser.add_argument_group("settings of all pairs")
    for name, field in RegistrationSettings.model_fields.items():
        add_setting(settings, name, field, _HELP.get(name))


def _add_masks_and_landmarks(given: Any) -> None:
    for side in ("fixed", "moving"):
        given.add_argument(
            f"--{side}-mask",
            type=Path,
            metavar="FILE",
            help=f"image that is not zero where the {side} image counts; on any grid, or with the image's own shape",
        )
    given.add_argument(
        "--landmarks",
        type=Path,
        metavar="CSV",
        help="pairs of points: columns fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x (2D without z), or without "
        "a header in this order; world coordinates, each in its own image's unit",
    )
    for side in ("fixed", "moving"):
        given.add_argument(
            f"--{side}-landmarks",
            type=Path,
            metavar="CSV",
            help=f"points of the {side} side alone, paired by order: columns z,y,x, or as napari saves a Points layer "
            "(index,axis-0,axis-1,...; these are world coordinates if the layer had no scale)",
        )


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser("evaluate", help="score a registration, before and after", description=_EVALUATE)
    parser.add_argument("fixed", type=Path, metavar="FIXED", help="the image that stayed")
    parser.add_argument("moving", type=Path, metavar="MOVING", help="the image that was brought onto it")
    parser.add_argument("-t", "--transform", type=Path, metavar="FILE", help="the transform that was found")
    parser.add_argument("--reverse", type=Path, metavar="FILE", help="transform of MOVING to FIXED's registration, for "
                        "the inverse consistency")  # fmt: skip
    parser.add_argument("--result", type=Path, metavar="FILE", help="the warped image, of whatever program")
    for side, text in (("fixed", "of FIXED"), ("moving", "of MOVING"), ("result", "of MOVING, warped")):
        parser.add_argument(f"--{side}-labels", type=Path, metavar="FILE", help=f"label image {text}")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write the scores as .csv or .json")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--debug", action="store_true", help=_DEBUG)
    _add_masks_and_landmarks(parser.add_argument_group("what is known"))
    files = parser.add_argument_group("reading")
    files.add_argument("--frame", type=int, metavar="N", help="frame of MOVING, counted from 0")
    files.add_argument("--fixed-frame", type=int, metavar="N", help="frame of FIXED, counted from 0")
    _add_placing(files)


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser("convert", help="a transform for another program", description=_CONVERT)
    parser.add_argument("input", type=Path, metavar="IN", help="a transform: .safetensors, .tfm, .txt (ITK or "
                        "elastix), .h5, .mat, .nii(.gz), .zarr")  # fmt: skip
    parser.add_argument("output", type=Path, metavar="OUT", help=".safetensors, .tfm, .txt, .h5, .nii(.gz) or .zarr")
    parser.add_argument("--fixed", type=Path, metavar="IMAGE", help="the fixed image: tells its space, and the voxels "
                        "of displacement fields")  # fmt: skip
    parser.add_argument("--moving", type=Path, metavar="IMAGE", help="the moving image: tells its space")
    parser.add_argument("--space", choices=("scanner", "world"), help="say it instead: scanner for images from NIfTI, "
                        "world for all others")  # fmt: skip
    parser.add_argument("--unit", metavar="UNIT", help="unit of a plain world: pixel, um, mm, ...")
    parser.add_argument("--inverse", action="store_true", help="write the inverse; it is sampled on MOVING's voxels")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--debug", action="store_true", help=_DEBUG)


def _add_placing(group: Any) -> None:
    for side in ("fixed", "moving"):
        group.add_argument(
            f"--{side}-spacing",
            type=numbers,
            metavar="Z,Y,X",
            help=f"voxel size of the {side} image, instead of the file's",
        )
        group.add_argument(f"--{side}-unit", metavar="UNIT", help="its unit, instead of the file's: pixel, um, mm, ...")


def needed(value: Any, option: str, why: str) -> Any:
    """The value of an option that only sometimes must be there.

    Raises
    ------
    InputError
        If it was not given.
    """
    if value is None:
        raise InputError(f"Give {option}, {why}.")
    return value
