"""The folder of a run's results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output, is_same_path, remove_folder
from napari_stnreg.io.image import WRITABLE_SUFFIXES
from napari_stnreg.io.ome_zarr import is_written_image


def is_result_folder(path: Path) -> bool:
    """Return whether ``register`` wrote its results, or some of them before it was interrupted, into a folder."""
    from napari_stnreg.series.output import PairsFolder

    if PairsFolder(path).identity() is not None:
        return True
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        return "outputs" in report and "inputs" in report
    except (OSError, ValueError, TypeError):
        return False


class ResultFolder:
    """A folder that is not overwritten unless requested, and whose files never replace an input.

    Parameters
    ----------
    path
        The folder. Entering the context creates it with its parents. If the run fails, a folder created for it that
        is still empty is removed again.
    inputs
        Files of the run, which must not be replaced.
    overwrite
        Whether the folder may hold files already.

    Raises
    ------
    InputError
        If the folder is not empty, is a file, or cannot be created.
    """

    def __init__(self, path: Path, inputs: Iterable[Path], *, overwrite: bool) -> None:
        self.path, self._is_new, self._inputs = path, not path.exists(), list(inputs)
        if not self._is_new and not path.is_dir():
            raise InputError(f"'{path}' is a file. Choose a folder for the results.")
        is_empty = self._is_new or not any(path.iterdir())
        if not is_empty and not overwrite:
            raise InputError(f"The folder '{path}' is not empty. Choose another folder, or add --overwrite.")
        check_output(path, self._inputs, overwrite=True, folder=True, is_ours=is_result_folder)

    def __enter__(self) -> ResultFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The folder '{self.path}' cannot be created: {error.strerror or error}.") from error
        if not os.access(self.path, os.W_OK):
            raise InputError(f"The folder '{self.path}' is not writable: permission denied.")
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_new:
            with suppress(OSError):
                self.path.rmdir()

    def file(self, name: str) -> Path:
        """Return the path of a result.

        Raises
        ------
        InputError
            If the path is an input of the run.
        """
        path = self.path / name
        if self._is_input(path):
            raise InputError(f"'{path}' is an input of this run and would be overwritten. Choose another folder.")
        return path

    def clear(self, stem: str, patterns: Iterable[str]) -> None:
        """Remove what an earlier run left under a result's name, in any format. Inputs are never removed."""
        for name in (*(stem + suffix for suffix in WRITABLE_SUFFIXES), *patterns):
            for old in self.path.glob(name):
                if old.is_dir() and is_written_image(old):
                    remove_folder(old)
                elif not self._is_input(old) and not old.is_dir():
                    old.unlink(missing_ok=True)

    def _is_input(self, path: Path) -> bool:
        return any(is_same_path(path, one) for one in self._inputs)
