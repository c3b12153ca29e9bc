"""Displacement fields as NRRD and MetaImage: grid transforms of 3D Slicer, deformation fields of transformix."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.exchange.itk import field_from_itk, field_to_itk
from napari_stnreg.io.itk_image import simpleitk
from napari_stnreg.transforms import DisplacementTransform, Transform, as_displacement

_NOTE = "napari_stnreg_transform"


def read_grid_image(path: Path) -> tuple[Transform, str]:
    """Read a displacement field in ITK's coordinates (x, y, z; LPS), and the note of this package if there is one.

    Raises
    ------
    InputError
        If the file is damaged or holds no field of vectors.
    """
    sitk = simpleitk()
    try:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size, components = reader.GetSize(), reader.GetNumberOfComponents()
        if len(size) not in (2, 3) or components != len(size):
            raise InputError(
                f"'{path.name}' has {len(size)} axes and {components} values in a voxel. A displacement field has as "
                "many values as axes. Is it an image?"
            )
        picture = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"'{path.name}' cannot be read. It is incomplete or damaged.") from error
    if not np.isfinite(sitk.GetArrayViewFromImage(picture)).all():
        raise InputError(f"'{path.name}' holds vectors that are not finite numbers.")
    note = picture.GetMetaData(_NOTE) if picture.HasMetaDataKey(_NOTE) else ""
    return field_from_itk(picture), note


def field_for_itk(transform: Transform, domain: Grid | None) -> DisplacementTransform:
    """Return a transform as one displacement field on an orthogonal grid, sampled if it is not one already.

    Parameters
    ----------
    transform
        In ITK's coordinates (x, y, z).
    domain
        The field's voxels; those of a field or flow if not given.

    Raises
    ------
    InputError
        If no grid is known.
    """
    grid = domain or transform.native_grid()
    if grid is None:
        raise InputError(
            "A linear transform has no voxels of its own, which a displacement field needs. Give the fixed image's "
            "grid, or write a .tfm or .h5 file."
        )
    grid = grid.orthogonal()  # ITK's images have no shear
    plain = transform.displacement_field()
    return plain if plain is not None and plain.grid.same_lattice(grid) else as_displacement(transform, grid)


def write_grid_image(transform: Transform, path: Path, note: str, domain: Grid | None) -> None:
    """Write a transform as one displacement field.

    Parameters
    ----------
    transform
        In ITK's coordinates (x, y, z).
    path
        A name ending in ``.nrrd`` or ``.mha``.
    note
        A line to be kept in the file.
    domain
        The field's voxels; those of a field or flow if not given.

    Raises
    ------
    InputError
        If no grid is known.
    """
    sitk = simpleitk()
    picture = field_to_itk(field_for_itk(transform, domain))
    picture.SetMetaData(_NOTE, note)
    try:
        sitk.WriteImage(picture, str(path), useCompression=True)
    except RuntimeError as error:
        raise InputError(f"'{path.name}' cannot be written as a displacement field.") from error
