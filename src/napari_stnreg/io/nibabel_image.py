"""Volumes read by nibabel other than single NIfTI files: Analyze and NIfTI pairs, FreeSurfer MGH."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.file_errors import LARGEST_DEFLATE_RATIO, check_declared_size
from napari_stnreg.core.image import Image
from napari_stnreg.io.file_content import FileContent, check_memory
from napari_stnreg.io.nifti import nifti_content, save_nifti

_MGH_HEADER = 284


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
        is_compressed = content[:2] == b"\x1f\x8b"
        _check_mgh_size(content, path.name, is_compressed=is_compressed)
        image = nib.MGHImage.from_bytes(gzip.decompress(content) if is_compressed else content)
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


def _check_mgh_size(content: bytes, name: str, *, is_compressed: bool) -> None:
    """Hold the size in the header against the file, before it is decompressed."""
    head = zlib.decompressobj(31).decompress(content, _MGH_HEADER) if is_compressed else content[:_MGH_HEADER]
    header = nib.MGHImage.header_class.from_fileobj(io.BytesIO(head.ljust(_MGH_HEADER, b"\0")))
    size = float(np.prod(header.get_data_shape(), dtype=np.float64)) * header.get_data_dtype().itemsize
    check_declared_size(name, size, len(content), ratio=LARGEST_DEFLATE_RATIO if is_compressed else 1.0)
    check_memory(name, int(size))


def save_nifti_image(path: Path, *images: Image) -> None:
    """Write an image, or the frames of a time series, as NIfTI; see :func:`~napari_stnreg.io.nifti.save_nifti`."""
    save_nifti(path, images)
