"""The two positions of a NIfTI file, sform and qform, and where ITK puts its voxels.

nibabel, FSL, SPM and this package use the sform if its code is not zero, then the qform. ITK chooses by rules that
changed between its versions, and takes no position at all from a file without codes. Where the two differ, the
difference is kept with the image, so that transforms for programs built on ITK fit their position of the file.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from napari_stnreg.core.grid import FloatArray

TOLERANCE = 0.01
"""Distance between the two positions of a voxel, in voxels, up to which they are the same."""
_TO_MM = {"meter": 1e3, "micron": 1e-3}
_LPS_TO_RAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])
_CODES = {0: "unknown", 1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI", 5: "template"}


@dataclass(frozen=True)
class ItkPlacement:
    """What ITK makes of a file whose position is not certain.

    Parameters
    ----------
    matrix
        From the (right, anterior, superior) millimeters of this package to those of ITK, ``(4, 4)``; ``None`` if they
        agree, or ITK does not read the file.
    note
        One sentence for the user.
    unoriented
        Whether the file states neither position nor orientation.
    """

    matrix: FloatArray | None
    note: str
    unoriented: bool = False


def itk_placement(header: nib.Nifti1Header, affine: FloatArray, name: str) -> ItkPlacement | None:
    """Compare the position of a file's voxels with the one that ITK takes; ``None`` if there is nothing to report.

    Parameters
    ----------
    header
        Header of the file.
    affine
        The affine that is used here, in the header's unit.
    name
        Name of the file in the sentence.
    """
    if _is_certain(header):
        return None
    scale = np.diag([*[_TO_MM.get(header.get_xyzt_units()[0], 1.0)] * 3, 1.0])
    ours = scale @ affine
    codes = int(header["sform_code"]), int(header["qform_code"])
    used = "sform" if codes[0] else "qform" if codes[1] else ""
    theirs = _itk_affine(header)
    if theirs is None:
        return ItkPlacement(None, f"The sform of '{name}' is sheared and it has no qform. Programs built on ITK do not "
                                  "read such files.")  # fmt: skip
    shape = (*header.get_data_shape(), 1, 1)[:3]
    ends = [(0, n - 1) for n in shape]
    corners = np.array([[i, j, k, 1.0] for i in ends[0] for j in ends[1] for k in ends[2]])
    apart = float(np.linalg.norm((corners @ (theirs - ours).T)[:, :3], axis=1).max())
    agrees = apart <= TOLERANCE * float(np.linalg.norm(ours[:3, :3], axis=0).min())
    if agrees and not all(codes):
        return None
    if not used:
        text = (
            f"'{name}' states no position: the codes of its sform and qform are 0. Its center is taken as the origin "
            f"and left may be right (see the setting mirror). ITK puts its voxels {apart:.3g} mm away."
        )
    else:
        named = [f"(code {code}, {_CODES.get(code, 'unknown')})" for code in codes]
        listed = f"sform {named[0]} and qform {named[1]}"
        text = f"The {listed} of '{name}' differ. The {used} is used"
        if agrees:
            return ItkPlacement(None, f"{text}, as in ITK. Other programs may use the qform.")
        text = f"{text}. ITK puts the voxels {apart:.3g} mm away."
    text = f"{text} Transforms written for ITK fit its position."
    return ItkPlacement(theirs @ np.linalg.inv(ours), text, unoriented=not used)


def _is_certain(header: nib.Nifti1Header) -> bool:
    """Return whether every program takes the same position."""
    sform, qform = header.get_sform(coded=True), header.get_qform(coded=True)
    if sform[1] == 0:
        return bool(qform[1] != 0)
    zooms = np.asarray(header.get_zooms()[:3], dtype=np.float64)
    if len(zooms) < 3:
        return False
    own = np.asarray(sform[0], dtype=np.float64)
    axes = own[:3, :3] / zooms
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        return False
    return bool(qform[1] == 0 or np.allclose(qform[0], own, rtol=0, atol=0.1 * TOLERANCE * float(zooms.min())))


def _itk_affine(header: nib.Nifti1Header) -> FloatArray | None:
    """The affine of a header in ITK's eyes, (right, anterior, superior) millimeters; ``None`` if it refuses it."""
    from napari_stnreg.io.itk_image import simpleitk

    sitk = simpleitk()
    own = nib.Nifti1Header()
    for key in ("sform_code", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
                "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"):  # fmt: skip
        own[key] = header[key]
    own.set_data_shape((2, 2, 2))
    own.set_data_dtype(np.uint8)
    own["pixdim"][:4] = header["pixdim"][:4]
    own["magic"], own["vox_offset"] = b"n+1", 352
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "header.nii")
        path.write_bytes(bytes(own.binaryblock) + bytes(4 + 8))
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return None
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(reader.GetDirection()).reshape(3, 3) * np.asarray(reader.GetSpacing())
    matrix[:3, 3] = reader.GetOrigin()
    return np.asarray(_LPS_TO_RAS @ matrix)
