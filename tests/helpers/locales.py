"""The locale of the process, which libraries change."""

import locale
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_locale() -> Iterator[None]:
    """Restore the locale after the block: GDCM sets it to "C" when it writes DICOM, and later texts would be ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)
