"""The command ``stnreg``. Each module holds one command; :mod:`~napari_stnreg.cli.app` joins them.

Commands compute nothing themselves. Their options come from function signatures and from the settings models, and
torch is imported only after the arguments have been parsed.
"""

from napari_stnreg.cli.app import main

__all__ = ["main"]
