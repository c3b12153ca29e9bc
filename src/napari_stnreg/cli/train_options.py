"""What can be written after ``stnreg train``; most of it is made from the settings of a training."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from napari_stnreg.cli.setting_options import add_setting, written_settings
from napari_stnreg.core.errors import InputError
from napari_stnreg.training.settings import NETWORK_HELP, TrainingSettings

DESCRIPTION = """\
Train a network on DATA (a folder of images, an .npz of arrays, a stack, or a CSV list with the columns fixed and
moving) and write the model of the best validation. A checkpoint lies beside it after every epoch; --resume goes on
from there. Ctrl+C ends the training and keeps the best so far; twice aborts.
Then: stnreg register FIXED MOVING -o DIR --model MODEL [--refine N]
Exit codes: 0 done, 2 something given cannot be used, 1 any other failure, 130 aborted."""

_PAIRINGS = ("random", "group", "template", "neighbors", "matched")
_AUGMENTATIONS = ("none", "light", "strong")


def add_train(commands: Any, debug: str) -> None:
    """Add the command; ``debug`` is the help of ``--debug``."""
    parser = commands.add_parser("train", help="train a network that registers in one pass", description=DESCRIPTION)
    parser.add_argument("data", type=Path, metavar="DATA", help="images to train on")
    parser.add_argument("-o", "--output", type=Path, metavar="MODEL", required=True, help="model.safetensors to write")
    parser.add_argument("--resume", action="store_true", help="go on from MODEL's checkpoint, if there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace MODEL if it exists")
    parser.add_argument("--debug", action="store_true", help=debug)

    group = parser.add_argument_group("data")
    group.add_argument("--moving", type=Path, metavar="DATA", help="the moving images, if they are a set of their own")
    group.add_argument("--pairing", choices=_PAIRINGS, default="random", help="how images are paired (default: random)")
    group.add_argument("--template", metavar="NAME", help="name or number of the image all others are registered to")
    group.add_argument("--pairs", type=int, metavar="N", help="pairs in an epoch of random ones")
    group.add_argument("--validation-fraction", type=float, default=0.15, metavar="FRACTION",
                       help="fraction of the subjects kept for validation (default: 0.15)")  # fmt: skip
    group.add_argument("--labels", metavar="DATA", help="folder of label maps, or the name of an array of the .npz")
    group.add_argument("--image", default="image", metavar="NAME", help="array of an .npz (default: image)")
    group.add_argument("--moving-image", metavar="NAME", help="array of an .npz to be paired one to one with --image")
    group.add_argument("--group", metavar="WHAT",
                       help="which subject an image is of: a regular expression, or an array of the .npz")  # fmt: skip
    group.add_argument("--spacing", metavar="Z,Y,X", help="voxel size of an .npz's images, or the array that holds it")
    group.add_argument("--unit", default="pixel", help="its unit (default: pixel)")
    group.add_argument("--sections", action="store_true", help="take a volume's sections as 2D images")
    group.add_argument("--size", type=working_size, metavar="N",
                       help="shrink images longer than N pixels; auto: 256 in 2D, 96 in 3D")  # fmt: skip
    group.add_argument("--augment", choices=_AUGMENTATIONS, default="none",
                       help="change pairs at random (default: none)")  # fmt: skip
    group.add_argument("--known-transforms", action="store_true",
                       help="show each image against itself, moved by up to 20 degrees, 15 %% and a tenth of its size, "
                       "so that --truth-weight has a truth to compare with")  # fmt: skip

    settings = parser.add_argument_group("settings")
    for name, field in TrainingSettings.model_fields.items():
        if name == "network":
            told = "; ".join(f"{key}: {value.rstrip('.')}" for key, value in NETWORK_HELP.items())
            settings.add_argument("--network", metavar="NAME", default=argparse.SUPPRESS,
                                  help=f"what is trained (default: voxelmorph); {told}")  # fmt: skip
        elif name == "network_options":
            settings.add_argument(
                "--option", action="append", dest="network_options", metavar="NAME=VALUE", default=argparse.SUPPRESS,
                help="a size of the network, such as resolution=half or features=[16,32]; of one among several "
                "networks affine.hidden=64",
            )  # fmt: skip
        else:
            add_setting(settings, name, field)


def working_size(text: str) -> int:
    """A number of pixels; 0 for ``auto``."""
    number = 0 if text == "auto" else int(text)
    if text != "auto" and number < 1:
        raise ValueError(text)
    return number


def training_settings(options: argparse.Namespace) -> TrainingSettings:
    """The settings that were written; the model itself checks and converts them.

    Raises
    ------
    InputError
        If a value is not allowed.
    """
    words = getattr(options, "network_options", None)
    return written_settings(
        TrainingSettings, options, **({} if words is None else {"network_options": network_options(words)})
    )


def network_options(words: list[str]) -> dict[str, Any]:
    """``["resolution=half", "affine.hidden=64"]`` as a mapping, of networks where a name has a point.

    Raises
    ------
    InputError
        If a word is not of this form.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name:
            raise InputError(f"'{word}' is no option of a network; write NAME=VALUE.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *owner, name = name.rsplit(".", 1)
        place = found.setdefault(owner[0], {}) if owner else found
        if not isinstance(place, dict):
            raise InputError(f"'{word}' is an option of a network whose name is an option itself.")
        place[name] = value
    return found
