"""``stnreg export-field``: every pixel's displacement as a NumPy array."""

from __future__ import annotations

from pathlib import Path


def export_field(alignment: Path, output: Path, /, *, overwrite: bool = False) -> None:
    """Write the displacement of every pixel of an aligned stack.

    The array has the shape (z, 2, y, x), on the canvas of the input, in pixels:
    aligned[z, y, x] = raw[z, y + d[0], x + d[1]]. If the alignment exchanged sections (--reorder), raw is the stack in
    the new order.

    Parameters
    ----------
    alignment
        The OME-Zarr folder that 'align' wrote.
    output
        The .npy file to write.
    overwrite
        Replace the output if it exists.

    Examples
    --------
    stnreg export-field aligned.zarr displacement.npy
    """
    from napari_stnreg.stacks.aligned_stack import AlignedStack

    print(AlignedStack(alignment).export_displacement(output, overwrite=overwrite))
