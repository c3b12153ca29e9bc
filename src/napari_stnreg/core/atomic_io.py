"""Atomic writing: files that appear complete or not at all, and survive a power failure.

The content goes to a temporary file in the same folder, which is flushed to disk and then renamed over the target. A
reader never sees half a file, and a failure leaves the previous file untouched.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from napari_stnreg.core.errors import InputError

TEMPORARY_PREFIX = ".part-"
"""Names of temporary files begin with this; those left by a killed process can be removed."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces ``path`` when the block succeeds and is removed when it fails.

    The temporary name has the extensions of ``path``, because many writers choose the format by them.

    Raises
    ------
    InputError
        If ``path`` is a folder, its folder does not exist, or the system refuses (no permission, no space).
    """
    if path.is_dir():
        raise InputError(f"'{path}' is a folder. Choose another name.")
    if not path.parent.is_dir():
        raise InputError(f"'{path.name}' cannot be written: the folder '{path.parent}' does not exist.")
    part: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix="".join(path.suffixes[-2:]), dir=path.parent)
        os.close(handle)
        part = Path(name)
        yield part
        _set_default_mode(part)
        _sync(part)
        os.replace(part, path)
        part = None
        _sync(path.parent)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror or error}.") from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder path to create; it replaces the folder ``path`` when the block succeeds.

    Raises
    ------
    InputError
        If the system refuses.
    """
    part = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
        _sync(path.parent)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically; raises :class:`InputError` as :func:`atomic_path` does."""
    with atomic_path(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, with the line ends of ``text``; raises as :func:`atomic_path` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; NaN and infinity become ``null``. Raises as :func:`atomic_path` does."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")


def _set_default_mode(path: Path) -> None:
    """Give a temporary file, which is private, the permissions of any new file."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def _sync(path: Path) -> None:
    """Flush a file or folder to disk; folders cannot be opened on Windows, where renaming is safe without it."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError:
        if not folder:
            raise
    finally:
        os.close(descriptor)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
