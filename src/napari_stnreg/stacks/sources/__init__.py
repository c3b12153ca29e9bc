"""Readers of section stacks: arrays, folders, TIFF and Zarr."""
