"""Transforms in the files of other programs: ITK, ANTs, elastix, OME-Zarr."""
