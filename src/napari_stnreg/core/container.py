"""One safetensors file with a JSON header: what transforms, models and checkpoints are kept in.

The header is one key of the file's metadata. It states what the file is and which version wrote it. Nothing in
such a file can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from napari_stnreg.core.atomic_io import write_bytes
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.file_errors import parser_errors

_KEY = "napari-stnreg"
FORMATS = {
    "napari-stnreg transform": "a transform",
    "napari-stnreg model": "a model",
    "napari-stnreg checkpoint": "the checkpoint of a training",
}


def write(path: Path, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a file that appears whole or not at all.

    Parameters
    ----------
    path
        Where; the ending ``.safetensors`` is added if there is none.
    header
        With ``format`` and ``version``; anything JSON can hold.
    tensors
        By name; copied to the CPU.

    Raises
    ------
    InputError
        If the header is not JSON or the file cannot be written.
    """
    target = path if path.suffix else path.with_suffix(".safetensors")
    try:
        text = json.dumps(header)
    except (TypeError, ValueError) as error:
        raise InputError(f"The notes to be saved in '{target.name}' cannot be written as JSON: {error}.") from error
    # Cloned: two names may share memory, which the format does not allow.
    content = save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, metadata={_KEY: text})
    write_bytes(target, content)
    return target


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors of a file that :func:`write` wrote.

    Raises
    ------
    InputError
        If the file is missing, cut short, or something else.
    """
    with parser_errors(path, "safetensors"):
        header, tensors = _read(path)
    if not isinstance(header, dict) or not isinstance(header.get("format"), str) or header["format"] not in FORMATS:
        raise InputError(f"'{path.name}' is a safetensors file, but holds no transform or model of napari-stnreg.")
    return header, tensors


def expect(header: Mapping[str, Any], kind: str, newest: int, path: Path) -> None:
    """Refuse a file of another kind or of a newer version.

    Raises
    ------
    InputError
        With what it is instead.
    """
    if header["format"] != kind:
        raise InputError(f"'{path.name}' holds {FORMATS[header['format']]}, not {FORMATS[kind]}.")
    version = header.get("version")
    if not isinstance(version, int) or version > newest:
        raise InputError(
            f"'{path.name}' was written by a newer napari-stnreg (format {version}). Update napari-stnreg."
        )


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
        # Checked only now: the length that a good file begins with may look like any of these.
        if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
            raise InputError(
                f"'{source.name}' is a pickle or an archive, as torch.save makes them. Such files can run code and are "
                "not opened. Save transforms and models with napari-stnreg."
            ) from error
        raise InputError(f"'{source.name}' is cut short, or is neither a transform nor a model.") from error
    try:
        return json.loads(metadata.get(_KEY, "null")), tensors
    except json.JSONDecodeError as error:
        raise InputError(f"'{source.name}' is damaged: its header cannot be read.") from error
