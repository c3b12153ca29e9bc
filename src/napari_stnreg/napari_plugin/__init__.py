"""Readers, writers and sample data that the napari manifest names. No Qt."""
