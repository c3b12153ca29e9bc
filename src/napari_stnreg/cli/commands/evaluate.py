"""``stnreg evaluate``: the scorecard of a registration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_stnreg.cli.options import Annotations, AsOptions, Frame, Placement
from napari_stnreg.cli.progress import PROGRESS, logger
from napari_stnreg.core.atomic_io import write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output


def evaluate(
    fixed: Path,
    moving: Path,
    /,
    *,
    transform: Annotated[Path | None, Parameter(alias="-t")] = None,
    reverse: Path | None = None,
    result: Path | None = None,
    fixed_labels: Path | None = None,
    moving_labels: Path | None = None,
    result_labels: Path | None = None,
    fixed_surface: Path | None = None,
    moving_surface: Path | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    overwrite: bool = False,
    annotations: Annotated[Annotations, AsOptions] = Annotations(),  # noqa: B008
    frame: Frame = None,
    fixed_frame: Frame = None,
    placement: Annotated[Placement, AsOptions] = Placement(),  # noqa: B008
) -> None:
    """Score a registration before and after.

    Scores: image similarity, overlap and surface distance of labels, landmark errors, distance of surfaces, change of
    volume, folding and inverse consistency. Give the transform, or the warped image of any program.

    Parameters
    ----------
    fixed
        The fixed image.
    moving
        The moving image.
    transform
        The transform that was found.
    reverse
        Transform of the registration of FIXED to MOVING, for the inverse consistency.
    result
        The warped image of any program.
    fixed_labels
        Label image of FIXED.
    moving_labels
        Label image of MOVING.
    result_labels
        Label image of MOVING, warped.
    fixed_surface
        Triangle mesh in the world of FIXED: GIFTI, FreeSurfer, VTK, PLY, STL or OBJ.
    moving_surface
        Triangle mesh in the world of MOVING, for the distance of the surfaces.
    output
        Write the scores to this .csv or .json file.
    overwrite
        Replace the output if it exists.
    frame
        Frame of MOVING, counted from 0.
    fixed_frame
        Frame of FIXED, counted from 0.

    Examples
    --------
    stnreg evaluate fixed.nii.gz moving.nii.gz -t registered/transform.safetensors -o scores.csv
    """
    if output is not None:
        inputs = (fixed, moving, transform, reverse, result, fixed_labels, moving_labels, result_labels, fixed_surface,
                  moving_surface)  # fmt: skip
        check_output(output, (*inputs, *vars(annotations).values()), overwrite=overwrite)
        if output.suffix.lower() not in (".csv", ".json"):
            raise InputError(f"'{output.name}' must end in .csv or .json.")
    from napari_stnreg.evaluation import scorecard
    from napari_stnreg.io.frames import labels_for, read_one
    from napari_stnreg.io.image import read_image
    from napari_stnreg.io.transform_io import load_transform

    fixed_image = read_one(fixed, fixed_frame, "--fixed-frame")
    fixed_image = placement.place(fixed_image, "fixed", annotations.fixed_mask, fixed_frame)
    moving_image = placement.place(read_one(moving, frame, "--frame"), "moving", annotations.moving_mask, frame)
    landmarks = annotations.read_landmarks(fixed_image, moving_image)
    if transform is None and result is None and result_labels is None:
        logger.log(
            PROGRESS, "Neither --transform nor --result is given, so only the state before registration is scored."
        )
    card = scorecard.evaluate(
        fixed_image,
        moving_image,
        None if transform is None else load_transform(transform, fixed=fixed_image, moving=moving_image),
        result=None if result is None else read_image(result),
        fixed_labels=labels_for(fixed_labels, fixed_image),
        moving_labels=labels_for(moving_labels, moving_image),
        result_labels=labels_for(result_labels, fixed_image),
        fixed_landmarks=landmarks[0],
        moving_landmarks=landmarks[1],
        fixed_surface=fixed_surface,
        moving_surface=moving_surface,
        reverse=None if reverse is None else load_transform(reverse, fixed=moving_image, moving=fixed_image),
    )
    print(card.to_text())
    if output is not None:
        write_text(output, card.to_csv() if output.suffix.lower() == ".csv" else card.to_json())
        print(output)
