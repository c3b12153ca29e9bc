"""Read and write images, transforms, and points."""

from napari_stnreg.io.image import SUPPORTED_SUFFIXES, read_image, read_series, write_image

__all__ = ["SUPPORTED_SUFFIXES", "read_image", "read_series", "write_image"]
