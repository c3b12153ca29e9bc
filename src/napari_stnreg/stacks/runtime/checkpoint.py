"""What a run has done so far: one small file for each result, which is there whole or not at all.

A run that is killed leaves the files of the tasks that ended. Going on means to leave out tasks whose files are there.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.atomic_io import TEMPORARY_PREFIX, atomic_path, write_bytes
from napari_stnreg.core.errors import InputError

Arrays = dict[str, npt.NDArray[Any]]
_FACTS = "__facts__"
_PART = "part.json"
"""Notes that a range is being aligned again."""


class WorkFolder:
    """A folder of results, each known by a kind and a name; can be pickled.

    Parameters
    ----------
    path
        Where; made by :meth:`begin`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WorkFolder) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def begin(self, identity: Mapping[str, Any], *, resume: bool, overwrite: bool = False) -> bool:
        """Make the folder, or take up the one that is there; true when there is something to go on with.

        Parameters
        ----------
        identity
            What makes this the same run: the stack, the settings. JSON-ready.
        resume
            Go on if the folder is that of the same run.
        overwrite
            Remove a folder that is there.

        Raises
        ------
        InputError
            If the folder is there and neither was asked for, or it is that of another run.
        """
        note = self.path / "run.json"
        text = json.dumps(identity, sort_keys=True, indent=1)
        if note.exists() and resume:
            if note.read_text(encoding="utf-8") != text:
                changed = _differing(json.loads(note.read_text(encoding="utf-8")), json.loads(text))
                raise InputError(
                    f"'{self.path.name}' is of another run ({changed} differ): resume with the same stack and choices, "
                    "or begin anew with --overwrite."
                )
            self._sweep()
            return True
        if note.exists() and not overwrite:
            raise InputError(
                f"'{self.path.name}' holds a run that did not end; add --resume to go on, or --overwrite to begin anew."
            )
        if self.path.exists():
            shutil.rmtree(self.path)
        try:
            self.path.mkdir(parents=True)
            write_bytes(note, text.encode())
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be made: {error.strerror or error}.") from error
        return False

    def part_begun(
        self, identity: Mapping[str, Any], *, resume: bool, overwrite: bool = False
    ) -> tuple[bool, set[int]]:
        """Whether a range that is aligned again was begun, and the sections of ranges given up, now half done.

        Parameters
        ----------
        identity
            What makes this the same: the stack, the choices, and ``only``, the first and last section. JSON-ready.
        resume
            Go on with a range that was begun.
        overwrite
            Give up a range that was begun.

        Raises
        ------
        InputError
            If a range was begun and neither was asked for, or it was begun with other choices.
        """
        note = self.path / _PART
        if not note.exists():
            return False, set()
        begun = json.loads(note.read_text(encoding="utf-8"))
        stale, (first, last) = set(begun.pop("stale")), begun["only"]
        if resume:
            wanted = json.loads(json.dumps(identity))
            if begun != wanted:
                raise InputError(
                    f"Sections {first} to {last} were being aligned again with other choices "
                    f"({_differing(begun, wanted)} differ): resume with the same, or give that up with --overwrite."
                )
            self._sweep()
            return True, stale
        if not overwrite:
            raise InputError(
                f"Sections {first} to {last} were being aligned again, and that did not end; add --resume to go on, "
                "or --overwrite to give it up."
            )
        return False, stale | set(range(first, last + 1))

    def begin_part(self, identity: Mapping[str, Any], stale: set[int]) -> None:
        """Note down that a range is aligned again, until :meth:`end_part`."""
        write_bytes(self.path / _PART, json.dumps({**identity, "stale": sorted(stale)}, indent=1).encode())

    def end_part(self) -> None:
        """The range that was begun is done."""
        (self.path / _PART).unlink(missing_ok=True)

    def file(self, kind: str, name: int | str) -> Path:
        """The file of a result; sections are numbered so that names sort."""
        return self.path / kind / (f"{name:06d}.npz" if isinstance(name, int) else f"{name}.npz")

    def has(self, kind: str, name: int | str) -> bool:
        """Whether the result is there."""
        return self.file(kind, name).exists()

    def put(self, kind: str, name: int | str, arrays: Mapping[str, Any] = {}, **facts: Any) -> None:
        """Keep arrays and JSON-ready facts; an earlier result of that name is replaced.

        Raises
        ------
        InputError
            If the system refuses: no room, no permission.
        """
        path = self.file(kind, name)
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"'{path.parent}' cannot be created: {error.strerror or error}.") from error
        with atomic_path(path) as part, part.open("wb") as stream:
            np.savez(stream, **{_FACTS: np.array(json.dumps(facts)), **arrays})

    def get(self, kind: str, name: int | str) -> tuple[Arrays, dict[str, Any]]:
        """Arrays and facts of a result.

        Raises
        ------
        InputError
            If it is not there, or broken.
        """
        arrays = self.some(kind, name)
        return arrays, json.loads(str(arrays.pop(_FACTS)))

    def facts(self, kind: str, name: int | str) -> dict[str, Any]:
        """Facts of a result, without reading its arrays."""
        kept: dict[str, Any] = json.loads(str(self.some(kind, name, [_FACTS])[_FACTS]))
        return kept

    def some(self, kind: str, name: int | str, wanted: Sequence[str] | None = None) -> Arrays:
        """Some of the arrays of a result, or all."""
        path = self.file(kind, name)
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in (stored.files if wanted is None else wanted)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"'{path}' is missing or broken; begin the alignment anew.") from error

    def forget(self, kind: str, names: Any = None) -> None:
        """Remove results of a kind: all, or those named."""
        if names is None:
            shutil.rmtree(self.path / kind, ignore_errors=True)
            return
        for name in names:
            self.file(kind, name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder and everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _sweep(self) -> None:
        """Take away the halves of files that a killed run left."""
        for part in self.path.glob(f"*/{TEMPORARY_PREFIX}*"):
            part.unlink(missing_ok=True)


def _differing(a: Any, b: Any, name: str = "") -> str:
    """The names under which two descriptions differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = [_differing(a.get(k), b.get(k), k) for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
        return ", ".join(found)
    return name
