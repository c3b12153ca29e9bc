"""Render aligned sections and write them as OME-Zarr."""
