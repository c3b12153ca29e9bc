"""The panels in napari. Only this package uses Qt and napari, and it computes nothing itself."""
