"""Image registration with spatial transformers, in napari and from Python.

>>> import napari_stnreg as sr
>>> result = sr.register(fixed, moving)  # doctest: +SKIP

The public names and their types are listed in ``__init__.pyi``. Each is imported when it is first used, so importing
the package is fast and loads neither torch nor napari.
"""

import os

import lazy_loader

# OpenMP reads its environment once, when torch loads it. By default a waiting thread spins; where other programs use
# the cores, it takes the time that the working thread needs. See decision 0065.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
