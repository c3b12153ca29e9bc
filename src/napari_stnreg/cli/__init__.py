"""The command ``stnreg``: register, apply, evaluate, convert and info, for who has no screen or many files.

Nothing here computes. The options are those of :class:`~napari_stnreg.registration.settings.RegistrationSettings`, and torch is
imported only once the arguments are known to be good.
"""

from napari_stnreg.cli.entry import main

__all__ = ["main"]
