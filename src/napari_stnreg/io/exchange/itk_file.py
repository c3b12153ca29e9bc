"""Transform files of ITK as checked numbers: text, HDF5 and MATLAB 4.

SimpleITK crashes or takes all memory on damaged files, so they are parsed here: HDF5 in a child process with limits,
text and MATLAB in this one. SimpleITK then sees linear transforms of checked size alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.io.exchange import hdf5_child

HDF5_SUFFIXES = (".h5", ".hdf5")
_SECONDS = 6.0
"""Time to read an HDF5 file, and one second more for every 20 MB."""
_BASE_MEMORY = 1_000_000_000
_KIND = re.compile(r"([A-Za-z0-9]+?)_(?:double|float)_(\d+)_(\d+)")


@dataclass(frozen=True)
class ItkPart:
    """One transform of a file.

    Parameters
    ----------
    kind
        ITK's class, such as ``"AffineTransform"``.
    ndim
        Number of axes.
    parameters, fixed
        Its numbers.
    """

    kind: str
    ndim: int
    parameters: FloatArray
    fixed: FloatArray


def read_parts(path: Path) -> tuple[list[ItkPart], str]:
    """Read the transforms of a file in ITK's order, and the text in which a note of this package may be.

    Raises
    ------
    InputError
        If the file is damaged, or the numbers are not finite.
    """
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        raw, note = _read_hdf5(path)
    elif suffix == ".mat":
        raw, note = _read_matlab(path), ""
    else:
        text = path.read_text(encoding="utf-8", errors="replace")
        raw, note = _read_text(text, path.name), text[:400]
    if not raw:
        raise InputError(f"'{path.name}' cannot be read as an ITK transform file.")
    parts = []
    for name, parameters, fixed in raw:
        match = _KIND.fullmatch(name.strip())
        if match is None or match[2] != match[3]:
            raise InputError(f"'{path.name}' holds a transform of type {name[:60]}, which cannot be read.")
        if not (np.isfinite(parameters).all() and np.isfinite(fixed).all()):
            raise InputError(f"'{path.name}' is damaged: its parameters are not finite numbers.")
        ndim = int(match[2])
        if ndim not in (2, 3):
            raise InputError(f"'{path.name}' holds a {ndim}D transform. 2D and 3D are supported.")
        parts.append(ItkPart(match[1], ndim, parameters, fixed))
    if len({one.ndim for one in parts}) > 1:
        raise InputError(f"'{path.name}' is damaged: it mixes transforms in 2D and 3D.")
    return parts, note


def lattice_shape(part: ItkPart, name: str) -> tuple[int, ...]:
    """Return the shape, in array order, of a lattice that the fixed parameters describe, checked against the numbers.

    Raises
    ------
    InputError
        If the parameters are too few or too many.
    """
    ndim = part.ndim
    if len(part.fixed) != ndim * (3 + ndim):
        raise InputError(f"'{name}' is damaged: {len(part.fixed)} fixed parameters instead of {ndim * (3 + ndim)}.")
    sizes, spacing = part.fixed[:ndim], part.fixed[2 * ndim : 3 * ndim]
    if (sizes < 1).any() or (sizes != np.round(sizes)).any() or (spacing <= 0).any():
        raise InputError(f"'{name}' is damaged: its grid has no valid size or spacing.")
    if float(np.prod(sizes)) * ndim != len(part.parameters):
        listed = " x ".join(f"{n:.0f}" for n in sizes)
        raise InputError(f"'{name}' is damaged: {len(part.parameters)} parameters for a grid of {listed}.")
    return tuple(int(n) for n in sizes[::-1])


_Raw = list[tuple[str, FloatArray, FloatArray]]


def _read_text(text: str, name: str) -> _Raw:
    raw: _Raw = []
    kind, found = "", dict[str, FloatArray]()

    def finish() -> None:
        if kind:
            raw.append((kind, found.get("Parameters", np.zeros(0)), found.get("FixedParameters", np.zeros(0))))

    for line in text.splitlines():
        key, _, rest = line.partition(":")
        key = key.strip()
        if key == "Transform":
            finish()
            kind, found = rest.strip(), {}
        elif key in ("Parameters", "FixedParameters"):
            try:
                found[key] = np.array([float(word) for word in rest.split()])
            except ValueError as error:
                raise InputError(f"'{name}' is damaged: its {key} are not numbers.") from error
    finish()
    return raw


def _read_matlab(path: Path) -> _Raw:
    from scipy.io import loadmat

    found = {key: np.asarray(one, dtype=np.float64).ravel() for key, one in loadmat(path).items() if key[:2] != "__"}
    kinds = [key for key in found if _KIND.fullmatch(key)]
    if len(kinds) != 1:
        raise InputError(f"'{path.name}' holds {len(kinds)} ITK transforms. A .mat file of ANTs must hold one.")
    return [(kinds[0], found[kinds[0]], found.get("fixed", np.zeros(0)))]


def _read_hdf5(path: Path) -> tuple[_Raw, str]:
    size = path.stat().st_size
    limit = _BASE_MEMORY + 3 * size
    command = [sys.executable, "-I", hdf5_child.__file__, str(path), str(limit)]
    damaged = f"'{path.name}' cannot be read as an ITK transform file. It is damaged or another kind of file."
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS + size / 20e6, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(damaged) from error
    head, _, data = done.stdout.partition(b"\n")
    if done.returncode != 0 or not head:
        raise InputError(damaged)
    described = json.loads(head)
    numbers = np.frombuffer(data, dtype="<f8").astype(np.float64)
    raw: _Raw = []
    start = 0
    for kind, *sizes in described["parts"]:
        ends = np.cumsum([start, *sizes])
        raw.append((kind, numbers[ends[0] : ends[1]], numbers[ends[1] : ends[2]]))
        start = int(ends[2])
    return raw, described["note"]


def linear_text(part: ItkPart) -> str:
    """Return a linear transform as an ITK text file, for SimpleITK to evaluate."""
    kind = "AffineTransform" if part.kind == "MatrixOffsetTransformBase" else part.kind

    def row(values: Sequence[float] | FloatArray) -> str:
        return " ".join(repr(float(value)) for value in values)

    return (
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}_double_{part.ndim}_{part.ndim}\n"
        f"Parameters: {row(part.parameters)}\nFixedParameters: {row(part.fixed)}\n"
    )
