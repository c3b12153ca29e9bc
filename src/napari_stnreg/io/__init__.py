"""Files: images with their place in the world, and what registrations leave behind."""

from napari_stnreg.io.image import SUPPORTED_SUFFIXES, read_image, read_series, write_image

__all__ = ["SUPPORTED_SUFFIXES", "read_image", "read_series", "write_image"]
