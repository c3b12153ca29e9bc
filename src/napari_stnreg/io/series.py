"""Writing a time series as one file, and an image with another file's header."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib

from napari_stnreg.core.atomic_io import atomic_path
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.image import Image
from napari_stnreg.io.image import suffix_of, writable_format, write_images
from napari_stnreg.io.nifti import KEY, save_nifti


def write_series(path: str | os.PathLike[str], images: Sequence[Image], *, labels: bool = False) -> None:
    """Write the frames of a time series, or a single image, in the format that the name ends in.

    Parameters
    ----------
    path
        A name that :func:`~napari_stnreg.write_image` knows.
    images
        At least one, all on one grid.
    labels
        Mark the values as labels, where the format can (NIfTI).

    Raises
    ------
    InputError
        If the format cannot hold the images, or the file cannot be written.
    """
    path = Path(path)
    writable_format(path)
    if suffix_of(path) in (".nii", ".nii.gz"):
        with atomic_path(path) as part:
            save_nifti(part, images, labels=labels)
    else:
        write_images(path, images)


def write_or_tiff(path: Path, images: Sequence[Image]) -> tuple[Path, str | None]:
    """Write images in a format, or as TIFF where that cannot hold them.

    Returns
    -------
    Path, str or None
        What was written, and the reason why it is a TIFF.
    """
    try:
        write_series(path, images)
    except InputError as error:
        other = path.with_name(path.name.removesuffix(suffix_of(path)) + ".tif")
        write_series(other, images)
        return other, f"{error} It was written as TIFF."
    return path, None


def placed_as(image: Image, metadata: Mapping[str, Any]) -> Image:
    """Attach the header of a reference, so that a NIfTI file takes its orientation and form codes.

    What the header states about the reference's own values (display range, intent, private extensions) is left out;
    time between frames is the image's own.
    """
    kept = metadata.get(KEY)
    if kept is None:
        return image
    header = _header(kept)
    own = image.metadata.get(KEY)
    if own is not None:
        header["pixdim"][4] = _header(own)["pixdim"][4]
        header.set_xyzt_units(header.get_xyzt_units()[0], _header(own).get_xyzt_units()[1])
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    mine = {**kept, "header": bytes(header.binaryblock), "extensions": []}
    return image.replace(metadata={**image.metadata, KEY: mine})


def _header(kept: Mapping[str, Any]) -> Any:
    kind: Any = nib.Nifti2Header if kept["version"] == 2 else nib.Nifti1Header
    return kind(kept["header"], kept["endianness"], check=False)
