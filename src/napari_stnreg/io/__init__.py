"""Files: images with their place in the world, and what registrations leave behind."""

from napari_stnreg.io.image import SUPPORTED_SUFFIXES, read, read_series, write

__all__ = ["SUPPORTED_SUFFIXES", "read", "read_series", "write"]
