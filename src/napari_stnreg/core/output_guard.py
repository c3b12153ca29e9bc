"""Protect inputs and foreign files from being overwritten, and outputs from two concurrent runs.

Every command and API function that writes a file or a folder calls :func:`check_output` before it writes.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_stnreg.core.errors import InputError

PathLike = str | os.PathLike[str]


def check_output(
    path: PathLike,
    inputs: Iterable[PathLike | None] = (),
    *,
    overwrite: bool = False,
    folder: bool = False,
    is_ours: Callable[[Path], bool] | None = None,
) -> Path:
    """Refuse an output that would destroy an input or somebody else's files.

    Paths are compared by the files that they lead to, so that ``sub/../raw.zarr``, symbolic links and names that
    differ only in case on a case-insensitive file system are recognized.

    Parameters
    ----------
    path
        File or folder to write.
    inputs
        Files and folders that the run reads; ``None`` and empty names are skipped. The output must neither be one of
        them, nor contain one, nor lie inside one.
    overwrite
        Allow an existing output to be replaced.
    folder
        Whether the output is a folder that is replaced as a whole. An existing one must be empty or satisfy
        ``is_ours``, and must not be a symbolic link.
    is_ours
        Returns whether an existing folder was written by this package. Without it, no folder with content is replaced.

    Returns
    -------
    Path
        The absolute path, symbolic links not resolved.

    Raises
    ------
    InputError
        If the output must not be written.
    """
    output = Path(path).absolute()
    for one in inputs:
        if one is None or not os.fspath(one):
            continue
        _check_apart(output, Path(one).absolute())
    if not os.path.lexists(output):
        return output
    if folder and output.is_symlink():
        raise InputError(f"'{output}' is a symbolic link. Name the folder itself, or choose another output.")
    if output.is_dir() and not folder:
        raise InputError(f"'{output}' is a folder. Choose a file name.")
    if folder and not output.is_dir():
        raise InputError(f"'{output}' is a file. Choose another name for the output folder.")
    if not overwrite:
        raise InputError(f"'{output}' exists. Choose another name, or allow overwriting with --overwrite.")
    if folder and any(output.iterdir()) and not (is_ours is not None and is_ours(output)):
        raise InputError(f"'{output}' was not written by this program and is not overwritten. Choose another name.")
    return output


def _check_apart(output: Path, source: Path) -> None:
    if is_same_path(output, source):
        raise InputError(f"'{output}' is an input of this run and would be overwritten. Choose another output.")
    if is_inside(source, output):
        raise InputError(f"The input '{source}' is inside the output '{output}'. Choose another output.")
    if is_inside(output, source):
        raise InputError(f"The output '{output}' is inside the input '{source}'. Choose another output.")


def is_same_path(a: PathLike, b: PathLike) -> bool:
    """Return whether two paths lead to the same file or folder; neither has to exist."""
    first, second = os.path.realpath(a), os.path.realpath(b)
    if first == second:
        return True
    with suppress(OSError):
        # Two hard links are the same file but not the same place: replacing one keeps the other.
        return os.path.isdir(first) and os.path.samefile(first, second)
    return False


def is_inside(path: PathLike, folder: PathLike) -> bool:
    """Return whether a path is below a folder, symbolic links resolved; neither need exist."""
    outer = os.path.realpath(folder)
    return any(is_same_path(parent, outer) for parent in Path(os.path.realpath(path)).parents)


class OutputLock:
    """A lock file beside an output, so that two runs never write the same output.

    The file holds host, process number and start time. A lock whose process no longer runs on this host is replaced.

    Parameters
    ----------
    output
        File or folder that is written.

    Raises
    ------
    InputError
        On entering, if another run holds the lock.
    """

    def __init__(self, output: PathLike) -> None:
        resolved = Path(os.path.realpath(output))
        self.output = resolved
        self.path = resolved.with_name(f".{resolved.name}.lock")
        self._content = ""

    def __enter__(self) -> OutputLock:
        self._content = json.dumps({**_this_process(), "token": uuid.uuid4().hex})
        for _ in range(3):
            if self._create():
                return self
            self._remove_stale()
        raise InputError(
            f"'{self.output.name}' is locked by '{self.path.name}'. Try again when the other run has ended."
        )

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            if self.path.read_text(encoding="utf-8") == self._content:
                self.path.unlink()

    def _create(self) -> bool:
        # The content is complete before the name appears: a lock that can be seen can be read.
        part = self.path.with_name(f"{self.path.name}-{uuid.uuid4().hex}")
        try:
            part.write_text(self._content, encoding="utf-8")
            try:
                os.link(part, self.path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                try:
                    handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                except FileExistsError:
                    return False
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(self._content)
            return True
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be written: {error.strerror or error}.") from error
        finally:
            with suppress(OSError):
                part.unlink()

    def _remove_stale(self) -> None:
        try:
            seen = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be read: {error.strerror or error}.") from error
        holder = _parse(seen)
        if holder is not None and _may_run(holder):
            raise InputError(
                f"Process {holder['pid']} on '{holder['host']}' is writing '{self.output.name}'. Wait until it ends. "
                f"If it no longer runs, delete '{self.path}'."
            )
        # Rename before deleting: if another run replaced the lock meanwhile, it is given back.
        taken = self.path.with_name(f"{self.path.name}-{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):
            self.path.rename(taken)
            if taken.read_text(encoding="utf-8") != seen and not self.path.exists():
                taken.rename(self.path)
            else:
                taken.unlink()


def _this_process() -> dict[str, Any]:
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _parse(text: str) -> dict[str, Any] | None:
    """Return the holder of a lock, or ``None`` if a power cut left the file empty."""
    with suppress(ValueError, KeyError, TypeError):
        found = json.loads(text)
        return {"host": str(found["host"]), "pid": int(found["pid"]), "started": float(found["started"])}
    return None


def _may_run(holder: dict[str, Any]) -> bool:
    """Return whether the process that holds a lock may still run; always true for another host."""
    if holder["host"] != socket.gethostname():
        return True
    import psutil

    try:
        return bool(abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1.0)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def remove_folder(path: Path) -> None:
    """Delete a folder of results, if it exists.

    It is renamed first, so that a killed run never leaves a folder that looks complete but is not. What a killed call
    left is deleted as well.

    Raises
    ------
    InputError
        If the system refuses.
    """
    try:
        if path.exists():
            path.rename(path.with_name(f".{path.name}-{uuid.uuid4().hex}.deleted"))
        for condemned in path.parent.glob(f".{glob.escape(path.name)}-*.deleted"):
            shutil.rmtree(condemned)
    except OSError as error:
        raise InputError(f"'{path}' cannot be deleted: {error.strerror or error}.") from error


def replace_folder(path: Path) -> None:
    """Create an empty folder, with its parents; an existing one is deleted as by :func:`remove_folder`.

    Raises
    ------
    InputError
        If the system refuses.
    """
    remove_folder(path)
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"'{path}' cannot be created: {error.strerror or error}.") from error


def sync_path(path: Path) -> None:
    """Force the content of a file, or the entries of a folder, to disk.

    Raises
    ------
    OSError
        If the disk reports an error; a system that cannot sync folders does not.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows does not open folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Force a folder with all its files to disk; nothing happens if it does not exist."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync_path(Path(root) / name)
        sync_path(Path(root))
