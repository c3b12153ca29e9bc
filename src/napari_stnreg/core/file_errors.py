"""Failures of file parsers as one sentence, and declared sizes against the size of the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.core.memory import format_bytes

LARGEST_DEFLATE_RATIO = 1032
"""Bytes that one byte of a deflate stream (gzip, zip, PNG) can stand for; the limit of the format."""
_SLACK = 4096


@contextmanager
def parser_errors(path: Path, kind: str = "") -> Iterator[None]:
    """Turn every failure of the parser in the block into one sentence that names the file.

    Parameters
    ----------
    path
        The file that is read.
    kind
        What it should be, such as ``".nii"`` or ``"transform"``.

    Raises
    ------
    InputError
        For every exception in the block but the package's own. Parsers raise anything: errors of struct, zlib and
        tifffile, AttributeError, OverflowError, RecursionError, MemoryError.
    """
    try:
        yield
    except RegistrationError:
        raise
    except PermissionError as error:
        raise InputError(f"'{path.name}' cannot be read: permission denied.") from error
    except MemoryError as error:
        raise InputError(f"'{path.name}' cannot be read. It declares more data than fit into the memory.") from error
    except Exception as error:
        what = f"incomplete or not a {kind} file" if kind else "incomplete or damaged"
        raise InputError(f"'{path.name}' cannot be read. It is {what} ({reason_of(error)}).") from error


def reason_of(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def check_declared_size(name: str, declared: float, stored: float, *, ratio: float = 1.0) -> None:
    """Refuse a file that declares more data than its bytes can hold, before memory is taken.

    Parameters
    ----------
    name
        Name of the file in the message.
    declared
        Bytes that the header declares.
    stored
        Bytes in the file.
    ratio
        Largest ratio of compression; 1 if the data are not compressed.

    Raises
    ------
    InputError
        If they do not fit together.
    """
    if not 0 <= declared <= stored * ratio + _SLACK:
        raise InputError(
            f"'{name}' cannot be read. It declares {format_bytes(declared)} of data, and "
            f"{format_bytes(stored)} in the file cannot hold them."
        )
