"""Where results go: a folder that is not overwritten unasked, and files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from napari_stnreg.core.atomic_io import write_json, write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.io.image import SUPPORTED_SUFFIXES

__all__ = ["Folder", "check_new", "write_json", "write_text"]


class Folder:
    """The folder of a run's results.

    Parameters
    ----------
    path
        Where; made, with its parents, by entering the context. If the run fails, a folder made for it that is still
        empty is removed again.
    inputs
        Files of the run, which must not be written over.
    overwrite
        Whether the folder may hold files already.

    Raises
    ------
    InputError
        If the folder holds files, is none, or cannot be made.
    """

    def __init__(self, path: Path, inputs: Iterable[Path], *, overwrite: bool) -> None:
        self.path, self._made = path, not path.exists()
        self._inputs = {one.resolve() for one in inputs}
        if not self._made and not path.is_dir():
            raise InputError(f"'{path}' is a file; name a folder for the results.")
        if not self._made and any(path.iterdir()) and not overwrite:
            raise InputError(f"The folder '{path}' is not empty; name another, or add --overwrite.")

    def __enter__(self) -> Folder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The folder '{self.path}' cannot be made: {error.strerror or error}.") from error
        if not os.access(self.path, os.W_OK):
            raise InputError(f"The folder '{self.path}' may not be written to: permission denied.")
        return self

    def __exit__(self, *_: object) -> None:
        if self._made:
            with suppress(OSError):
                self.path.rmdir()

    def file(self, name: str) -> Path:
        """The path of a result.

        Raises
        ------
        InputError
            If that is one of the run's own inputs.
        """
        path = self.path / name
        if path.resolve() in self._inputs:
            raise InputError(f"'{path}' is an input of this run and would be written over; name another folder.")
        return path

    def clear(self, stem: str, patterns: Iterable[str]) -> None:
        """Remove what an earlier run left under a result's name, in whatever format; never an input."""
        for name in (*(stem + ending for ending in SUPPORTED_SUFFIXES), *patterns):
            for old in self.path.glob(name):
                if old.resolve() not in self._inputs:
                    old.unlink(missing_ok=True)


def check_new(path: Path, inputs: Iterable[Path | None] = (), *, overwrite: bool) -> None:
    """Refuse to replace a file unasked, and one of the ``inputs`` in any case.

    Raises
    ------
    InputError
        If it is there.
    """
    if path.resolve() in {one.resolve() for one in inputs if one is not None}:
        raise InputError(f"'{path}' is an input and would be written over; name another file.")
    if path.exists() and not overwrite:
        raise InputError(f"'{path}' is there already; name another file, or add --overwrite.")
