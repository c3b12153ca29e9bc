"""The panel that places an image by hand before it is registered."""
