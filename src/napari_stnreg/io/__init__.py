"""Files: images with their place in the world, and what registrations leave behind."""

from napari_stnreg.io.image import ENDINGS, read, read_series, write

__all__ = ["ENDINGS", "read", "read_series", "write"]
