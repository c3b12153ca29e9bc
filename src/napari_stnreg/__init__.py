"""Image registration with spatial transformers, in napari and from Python.

>>> import napari_stnreg as sr
>>> result = sr.register(fixed, moving)  # doctest: +SKIP

The public names and their types are listed in ``__init__.pyi``. Each is imported when it is first used, so importing
the package is fast and loads neither torch nor napari.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
