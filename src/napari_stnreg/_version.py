"""The version of the installed package, which the build takes from the git tag."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("napari-stnreg")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.1.0"
