"""The errors that a person is meant to read: one sentence, what is wrong and what to do."""

from __future__ import annotations


class RegistrationError(Exception):
    """Base of every error this package raises on purpose; its text is shown to the person as it is."""


class InputError(RegistrationError, ValueError):
    """What was given cannot be used: a wrong shape, unit, file, option or combination."""


class FitError(RegistrationError):
    """The fit could not go on and no usable result exists."""


class OutOfMemoryError(RegistrationError):
    """The work needs more memory than there is, even at the smallest level."""
