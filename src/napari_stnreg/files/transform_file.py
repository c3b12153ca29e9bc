"""Our own file for transforms: one safetensors file with a JSON header, every family kept exactly.

The header lies under one key of the file's metadata: format, version, family, number of axes, unit, the settings that
rebuild the transform (grids and the like), and ``info``, where a run writes whatever it wants to keep. The parameters
are the tensors. Nothing in such a file can run code.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from napari_stnreg.errors import InputError
from napari_stnreg.images import Space
from napari_stnreg.transforms import Transform, transform_class

FORMAT = "napari-stnreg transform"
VERSION = 1
_KEY = "napari-stnreg"


def save_transform(transform: Transform, path: str | os.PathLike[str], info: Mapping[str, Any] | None = None) -> Path:
    """Write a transform; the file appears whole or not at all.

    Parameters
    ----------
    transform
        Any family, a chain, or an inverse (which is kept as its forward transform).
    path
        Where; the ending ``.safetensors`` is added if there is none.
    info
        Anything JSON can hold that should travel along, such as settings, scores and versions of a run.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InputError
        If ``info`` cannot be written as JSON or the file cannot be written.
    """
    target = Path(path)
    target = target if target.suffix else target.with_suffix(".safetensors")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "family": transform.family,
        "ndim": transform.ndim,
        "unit": transform.unit,
        "spaces": list(transform.spaces),
        "settings": transform.settings(),
        "info": dict(info or {}),
    }
    try:
        text = json.dumps(header)
    except (TypeError, ValueError) as error:
        raise InputError(f"The notes to be saved with the transform cannot be written as JSON: {error}.") from error
    # Cloned: two names may share memory, which the format does not allow.
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in transform.tensors().items()}
    content = save(tensors, metadata={_KEY: text})
    try:
        _write_whole(target, content)
    except OSError as error:
        raise InputError(f"'{target}' cannot be written: {error.strerror or error}.") from error
    return target


def load_transform(path: str | os.PathLike[str]) -> tuple[Transform, dict[str, Any]]:
    """Read what :func:`save_transform` wrote.

    Returns
    -------
    Transform, dict
        The transform, and the ``info`` saved with it.

    Raises
    ------
    InputError
        If the file is missing, cut short, of another kind, from a newer version, or contradicts itself.
    """
    source = Path(path)
    header, tensors = _read(source)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"'{source.name}' is a safetensors file, but holds no transform of napari-stnreg.")
    version = header.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(f"'{source.name}' was written by a newer napari-stnreg (format {version}); please update.")
    damaged = f"'{source.name}' is damaged: its header and its parameters do not fit together"
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise InputError(f"'{source.name}' is damaged: '{name}' holds values that are not finite numbers.")
    try:
        transform = transform_class(header["family"]).from_state(tensors, header["settings"])
        fixed, moving = (_space(name) for name in header.get("spaces", ("world", "world")))
        transform = transform.in_spaces(fixed, moving)
        info = dict(header.get("info") or {})
    except InputError as error:
        raise InputError(f"{damaged} ({error})") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise InputError(f"{damaged}.") from error
    if (transform.ndim, transform.unit) != (header.get("ndim"), header.get("unit")):
        raise InputError(f"{damaged}.")
    return transform, info


def _space(name: str) -> Space:
    if name not in get_args(Space):
        raise InputError(f"there is no space '{name}'")
    return cast(Space, name)


def _read(source: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    try:
        with source.open("rb") as stream:
            start = stream.read(8)
    except OSError as error:
        raise InputError(f"'{source}' cannot be read: {error.strerror or error}.") from error
    try:
        with safe_open(source, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        # Asked only now: the length that a good file begins with may look like any of these.
        if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
            raise InputError(
                f"'{source.name}' is a pickle or an archive, as torch.save makes them; such files can run code and are "
                "not opened. Save the transform with napari-stnreg."
            ) from error
        raise InputError(f"'{source.name}' is cut short, or is no transform file.") from error
    try:
        return json.loads(metadata.get(_KEY, "null")), tensors
    except json.JSONDecodeError as error:
        raise InputError(f"'{source.name}' is damaged: its header cannot be read.") from error


def _write_whole(target: Path, content: bytes) -> None:
    """Write beside the target and rename, so that a reader never sees half a file."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        # A temporary file is private; the result gets the rights any new file would have.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
