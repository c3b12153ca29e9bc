"""``stnreg evaluate``: the scorecard of a registration."""

from __future__ import annotations

import argparse
import sys

from napari_stnreg.cli.outputs import check_new, write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.evaluation.scorecard import evaluate
from napari_stnreg.io.conversion import override_geometry
from napari_stnreg.io.image import read_image
from napari_stnreg.io.inputs import labels_for, read_one
from napari_stnreg.io.points import read_landmarks
from napari_stnreg.io.transforms import load_transform
from napari_stnreg.resampling.masks import read_mask


def run(options: argparse.Namespace) -> None:
    """Do what was asked; see ``stnreg evaluate --help``.

    Raises
    ------
    InputError
        If something given cannot be used.
    """
    if options.output is not None:
        check_new(options.output, overwrite=options.overwrite)
        if options.output.suffix.lower() not in (".csv", ".json"):
            raise InputError(f"'{options.output.name}' must end in .csv or .json.")
    fixed = read_one(options.fixed, options.fixed_frame, "--fixed-frame")
    fixed = override_geometry(fixed, options.fixed_spacing, options.fixed_unit)
    moving = read_one(options.moving, options.frame, "--frame")
    moving = override_geometry(moving, options.moving_spacing, options.moving_unit)
    if options.fixed_mask is not None:
        fixed = fixed.replace(mask=read_mask(options.fixed_mask, fixed, options.fixed_frame or 0))
    if options.moving_mask is not None:
        moving = moving.replace(mask=read_mask(options.moving_mask, moving, options.frame or 0))
    transform = None if options.transform is None else load_transform(options.transform, fixed=fixed, moving=moving)
    reverse = None if options.reverse is None else load_transform(options.reverse, fixed=moving, moving=fixed)
    landmarks = read_landmarks(options.landmarks, options.fixed_landmarks, options.moving_landmarks, fixed.ndim)
    if transform is None and options.result is None and options.result_labels is None:
        print("stnreg evaluate: there is no --transform and no --result, so this is only the state before.",
              file=sys.stderr)  # fmt: skip
    card = evaluate(
        fixed,
        moving,
        transform,
        result=None if options.result is None else read_image(options.result),
        fixed_labels=labels_for(options.fixed_labels, fixed),
        moving_labels=labels_for(options.moving_labels, moving),
        result_labels=labels_for(options.result_labels, fixed),
        fixed_landmarks=landmarks[0],
        moving_landmarks=landmarks[1],
        reverse=reverse,
    )
    print(card.to_text())
    if options.output is not None:
        write_text(options.output, card.to_csv() if options.output.suffix.lower() == ".csv" else card.to_json())
        print(options.output)
