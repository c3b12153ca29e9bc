"""Read the transforms of an HDF5 file of ITK; run as a script of its own, with limits of time and memory.

A damaged file can crash or hang the HDF5 library. The script takes the file and the limit of memory in bytes, and
writes one line of JSON and the numbers as float64. It imports nothing of this package.
"""

from __future__ import annotations

import json
import sys


def main(path: str, limit: int) -> None:
    """Write note, kinds and numbers of the transforms to the standard output."""
    import h5py
    import numpy as np

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, ValueError, OSError):  # not on Windows; then time alone is limited
        pass
    parts, numbers = [], []
    with h5py.File(path, "r") as stream:
        note = str(stream.attrs.get("napari-stnreg", ""))
        group = stream["TransformGroup"]
        for key in sorted(group, key=int):
            kind = group[key]["TransformType"][0]
            sizes = []
            for name in ("TransformParameters", "TransformFixedParameters"):
                # ITK 5.0 and older wrote "Tranform".
                given = next((n for n in (name, name.replace("Transform", "Tranform", 1)) if n in group[key]), None)
                values = group[key][given] if given else None
                if values is not None and values.size * 8 > limit:
                    raise MemoryError
                array = np.asarray([] if values is None else values[()], dtype="<f8").ravel()
                sizes.append(array.size)
                numbers.append(array)
            parts.append([kind.decode() if isinstance(kind, bytes) else str(kind), *sizes])
    sys.stdout.buffer.write(json.dumps({"note": note, "parts": parts}).encode() + b"\n")
    for array in numbers:
        sys.stdout.buffer.write(array.tobytes())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
