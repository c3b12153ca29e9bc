"""Intermediate results of an alignment on disk: one small file for each, complete or absent.

A run that is killed leaves the files of the tasks that ended. Resuming skips tasks whose files exist. A file that a
power failure emptied or truncated counts as absent.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.atomic_io import TEMPORARY_PREFIX, atomic_path, write_bytes
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import replace_folder

Arrays = dict[str, npt.NDArray[Any]]
_FACTS = "__facts__"
_MARKER = "napari-stnreg work folder"
_RUN = "run.json"
_RANGE = "range.json"
RENDERED = "rendered"
"""Kind of the marks of sections that are written to the output."""


class WorkFolder:
    """A folder of results, each identified by a kind and a name; can be pickled.

    Parameters
    ----------
    path
        The folder; :meth:`begin` creates it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WorkFolder) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    # -- the run that the folder belongs to

    @property
    def is_ours(self) -> bool:
        """Return whether the marker file shows that this class created the folder."""
        return self._note() is not None

    @property
    def may_replace_output(self) -> bool:
        """Whether the run was started with the permission to overwrite its output."""
        return bool((self._note() or {}).get("overwrite", False))

    def _note(self) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            found = json.loads((self.path / _RUN).read_text(encoding="utf-8"))
            if isinstance(found, dict) and found.get("folder") == _MARKER:
                return found
        return None

    def check(self, identity: Mapping[str, Any], *, resume: bool, overwrite: bool = False) -> bool:
        """Check whether :meth:`begin` would succeed; true if there is a run to resume. Nothing is written.

        Raises
        ------
        InputError
            If the folder exists and neither ``resume`` nor ``overwrite`` is set, belongs to another run, or was not
            created by this program.
        """
        note = self._note()
        if note is None:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise InputError(
                    f"'{self.path}' would hold intermediate results but was not written by this program. "
                    "Rename it, or choose another output."
                )
            return False
        if resume:
            wanted = json.loads(json.dumps(identity))
            if note["run"] != wanted:
                raise InputError(
                    f"'{self.path.name}' belongs to another run ({describe_differences(note['run'], wanted)}). "
                    "Resume with the same stack and settings, or start again with --overwrite."
                )
            return True
        if not overwrite:
            raise InputError(
                f"'{self.path.name}' holds an unfinished run. Continue it with --resume, or start again with "
                "--overwrite."
            )
        return False

    def begin(self, identity: Mapping[str, Any], *, resume: bool, overwrite: bool = False) -> bool:
        """Create the folder, or reopen the existing one; true if there is a run to resume.

        Parameters
        ----------
        identity
            What makes this the same run: stack, settings, landmarks. JSON-ready.
        resume
            Continue if the folder belongs to the same run.
        overwrite
            Replace the folder of an unfinished run.

        Raises
        ------
        InputError
            As :meth:`check`, or if the system refuses.
        """
        if self.check(identity, resume=resume, overwrite=overwrite):
            self._remove_broken()
            return True
        replace_folder(self.path)
        note = {"folder": _MARKER, "overwrite": overwrite, "run": identity}
        write_bytes(self.path / _RUN, json.dumps(note, indent=1).encode())
        return False

    # -- a range that is aligned again

    def check_range(
        self, identity: Mapping[str, Any], *, resume: bool, overwrite: bool = False
    ) -> tuple[bool, set[int]]:
        """Check whether a partial realignment was interrupted, and find the sections that it left unfinished.

        Parameters
        ----------
        identity
            What makes this the same range: stack, settings, and ``section_range``. JSON-ready.
        resume
            Continue an interrupted range.
        overwrite
            Abandon an interrupted range.

        Raises
        ------
        InputError
            If a range was interrupted and neither ``resume`` nor ``overwrite`` is set, or it had other settings.
        """
        note = self.path / _RANGE
        if not note.exists():
            return False, set()
        begun = json.loads(note.read_text(encoding="utf-8"))
        stale, (first, last) = set(begun.pop("stale")), begun["section_range"]
        if resume:
            wanted = json.loads(json.dumps(identity))
            if begun != wanted:
                raise InputError(
                    f"Aligning sections {first} to {last} again was interrupted and had other settings "
                    f"({describe_differences(begun, wanted)}). Resume with the same, or abandon it with --overwrite."
                )
            self._remove_broken()
            return True, stale
        if not overwrite:
            raise InputError(
                f"Aligning sections {first} to {last} again was interrupted. Continue it with --resume, or abandon it "
                "with --overwrite."
            )
        return False, stale | set(range(first, last + 1))

    def begin_range(self, identity: Mapping[str, Any], stale: set[int]) -> None:
        """Record that a range is being aligned again, until :meth:`end_range`."""
        write_bytes(self.path / _RANGE, json.dumps({**identity, "stale": sorted(stale)}, indent=1).encode())

    def end_range(self) -> None:
        """Record that the range is done."""
        (self.path / _RANGE).unlink(missing_ok=True)

    # -- results

    def file(self, kind: str, name: int | str) -> Path:
        """Path of a result; section numbers are padded so that names sort."""
        return self.path / kind / (f"{name:06d}.npz" if isinstance(name, int) else f"{name}.npz")

    def has(self, kind: str, name: int | str) -> bool:
        """Return whether a complete result exists."""
        return zipfile.is_zipfile(self.file(kind, name))

    def put(self, kind: str, name: int | str, arrays: Mapping[str, Any] = {}, **facts: Any) -> None:
        """Store arrays and JSON-ready facts; an earlier result of that name is replaced.

        Raises
        ------
        InputError
            If the system refuses (no space, no permission).
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
            If it does not exist or is damaged.
        """
        arrays = self.get_arrays(kind, name)
        return arrays, json.loads(str(arrays.pop(_FACTS)))

    def facts(self, kind: str, name: int | str) -> dict[str, Any]:
        """Facts of a result, without reading its arrays."""
        found: dict[str, Any] = json.loads(str(self.get_arrays(kind, name, [_FACTS])[_FACTS]))
        return found

    def get_arrays(self, kind: str, name: int | str, wanted: Sequence[str] | None = None) -> Arrays:
        """Return some arrays of a result, or all of them."""
        path = self.file(kind, name)
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in (stored.files if wanted is None else wanted)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"'{path}' is missing or damaged. Start the alignment again with --overwrite.") from error

    def names(self, kind: str) -> list[str]:
        """Names of all results of a kind."""
        return [file.stem for file in self.path.glob(f"{kind}/*.npz")]

    def forget(self, kind: str, names: Iterable[int | str] | None = None) -> None:
        """Delete results of a kind: all, or those named."""
        if names is None:
            shutil.rmtree(self.path / kind, ignore_errors=True)
            return
        for name in names:
            self.file(kind, name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _remove_broken(self) -> None:
        """Delete temporary and incomplete files that a killed run or a power failure left."""
        for part in self.path.glob(f"**/{TEMPORARY_PREFIX}*"):
            part.unlink(missing_ok=True)
        for file in self.path.glob("*/*.npz"):
            if not zipfile.is_zipfile(file):
                file.unlink()


def work_folder(output: Path | str) -> WorkFolder:
    """Folder of the intermediate results of ``OUT.zarr``: ``OUT.work`` beside it."""
    output = Path(output).absolute()
    return WorkFolder(output.with_name(output.name.removesuffix(".zarr") + ".work"))


def describe_differences(stored: Any, wanted: Any, name: str = "") -> str:
    """Describe where two JSON-ready descriptions of a run differ: the name, and both values if they are short."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = [k for k in sorted({*stored, *wanted}) if stored.get(k) != wanted.get(k)]
        return ", ".join(describe_differences(stored.get(k), wanted.get(k), k) for k in keys)
    if name != "sums" and not isinstance(wanted, dict) and len(f"{stored}{wanted}") <= 200:
        return f"{name} was {stored}, is {wanted}"
    return f"{name} differ"
