"""Volumes that nibabel reads and that are no single NIfTI file: Analyze and NIfTI pairs, FreeSurfer MGH."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.image import Image
from napari_stnreg.io.content import FileContent
from napari_stnreg.io.nifti import nifti_content, save_nifti


def open_nibabel(path: Path) -> FileContent:
    """Open a volume with nibabel; voxels are loaded frame by frame on request.

    Raises
    ------
    InputError
        If the other file of a pair is missing, the affine is singular, or there are more than four axes.
    """
    name = path.name.lower()
    ends = ((".img.gz", ".hdr.gz"), (".img.gz", ".hdr"), (".img", ".hdr"), (".hdr", ".img"), (".hdr", ".img.gz"))
    others = [path.with_name(path.name[: -len(one)] + other) for one, other in ends if name.endswith(one)]
    if others and not any(other.is_file() for other in others):
        raise InputError(f"'{path.name}' is one of a pair of files, and '{others[0].name}' is missing beside it.")
    image: Any
    if name.endswith((".mgz", ".mgh")):
        # From memory, as nibabel leaves such files open.
        content = path.read_bytes()
        image = nib.MGHImage.from_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    else:
        image = nib.load(path)
    if isinstance(image, nib.Nifti1Pair):
        pair: Any = image
        return nifti_content(pair, path.name)
    if not isinstance(image, nib.AnalyzeImage | nib.MGHImage):
        raise InputError(f"'{path.name}' is not an Analyze or MGH image.")
    # The array stays a proxy, so that nothing is loaded here.
    header = nib.Nifti1Header()
    header.set_data_dtype(image.get_data_dtype())
    header.set_xyzt_units("mm")
    return nifti_content(nib.Nifti1Image(image.dataobj, image.affine, header), path.name)


def save_nifti_image(path: Path, *images: Image) -> None:
    """Write an image, or the frames of a time series, as NIfTI; see :func:`~napari_stnreg.io.nifti.save_nifti`."""
    save_nifti(path, images)
