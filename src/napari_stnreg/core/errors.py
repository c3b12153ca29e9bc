"""Errors and warnings whose text is shown to the user, and the package's logger.

Log messages of every module go to the logger ``napari_stnreg`` or a child of it:
``logging.getLogger("napari_stnreg").setLevel(logging.INFO)`` shows them.
"""

from __future__ import annotations

import logging
import warnings

logger = logging.getLogger("napari_stnreg")
"""Logger of the package; silent until the application configures logging."""
logger.addHandler(logging.NullHandler())


class RegistrationError(Exception):
    """Base class of all errors that this package raises on purpose; its text is shown to the user unchanged."""


class InputError(RegistrationError, ValueError):
    """An argument, file, setting or combination of them is invalid."""


class FitError(RegistrationError):
    """The optimization failed and no usable result exists."""


class OutOfMemoryError(RegistrationError):
    """The computation needs more memory than is free, even at the coarsest level."""


class RegistrationWarning(UserWarning):
    """A result exists but may be unreliable, or the computation deviated from the request."""


def announce(text: str, stacklevel: int = 3) -> None:
    """Inform the user about a decision or a limitation of a call: a line on the command line, a warning in Python."""
    logger.warning("%s", text)
    warnings.warn(text, RegistrationWarning, stacklevel=stacklevel)
