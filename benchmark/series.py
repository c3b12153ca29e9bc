"""Registration of movies: error and frames a second, beside pystackreg (linear) and pyflowreg (deformable).

Run ``python -m benchmark.series`` in an environment that has this package; peers that are installed there
(``pip install pystackreg pyflowreg``) are measured in the same run, others are left out. Movies are drawn with known
motion and noise (:mod:`napari_stnreg.datasets.movie`). The error is the mean distance, in pixels, between true and
found position over all pixels and frames.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.datasets.movie import Movie, make_movie

Array = npt.NDArray[Any]

CASES = (
    ("translation", 256, 0.2), ("translation", 512, 1.0),
    ("rigid", 256, 0.2), ("rigid", 256, 1.0), ("rigid", 512, 0.5),
    ("affine", 256, 0.2), ("affine", 256, 1.0), ("affine", 512, 0.5),
)  # fmt: skip
"""Motion, side of a frame in pixels, and standard deviation of the noise; that of the tissue is 1."""
ELASTIC = (("elastic", 256, 0.2), ("elastic", 256, 1.0))

Fitted = tuple[float, list[Array]]
"""Seconds, and the displacement ``(2, y, x)`` of every frame in pixels."""


def ours(movie: Movie, family: str, **options: Any) -> Fitted:
    """Register with ``register_series``."""
    import napari_stnreg as sr

    start = time.perf_counter()
    result = sr.register_series(movie.frames, family=family, **options)
    seconds = time.perf_counter() - start
    return seconds, [transform.displacement(result.grid) for transform in result.transforms]


def stackreg(movie: Movie, family: str) -> Fitted:
    """Register with pystackreg to the first frame."""
    from pystackreg import StackReg

    kinds = {"translation": StackReg.TRANSLATION, "rigid": StackReg.RIGID_BODY, "affine": StackReg.AFFINE}
    start = time.perf_counter()
    matrices = StackReg(kinds[family]).register_stack(movie.frames, reference="first")
    seconds = time.perf_counter() - start
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])  # theirs are (x, y)
    place = np.indices(movie.frames.shape[1:]).astype(np.float64)
    found = []
    for matrix in matrices:
        turned = swap @ matrix @ swap
        moved = np.tensordot(turned[:2, :2], place, axes=1) + turned[:2, 2][:, None, None]
        found.append(moved - place)
    return seconds, found


def flowreg(movie: Movie, _family: str) -> Fitted:
    """Register with pyflowreg's variational optical flow to the first frame, at its default settings."""
    import pyflowreg

    frames = movie.frames - movie.frames.min()
    frames = (frames / frames.max()).astype(np.float64)
    pyflowreg.get_displacement(frames[0], frames[0])  # compiled at the first call
    start = time.perf_counter()
    flows = [pyflowreg.get_displacement(frames[0], frame) for frame in frames]
    seconds = time.perf_counter() - start
    return seconds, [np.stack([flow[..., 1], flow[..., 0]]) for flow in flows]


def measure(name: str, run: Callable[..., Fitted], movie: Movie, case: tuple[str, int, float], **options: Any) -> str:
    """Return a row of the table."""
    seconds, found = run(movie, *([options.pop("family")] if "family" in options else [case[0]]), **options)
    errors = movie.errors(found)[1:]
    cells = (
        f"{case[0]}, {case[1]}, noise {case[2]:g}", name, f"{errors.mean():.4f}", f"{errors.max():.3f}",
        f"{len(movie.frames) / seconds:.1f}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40, help="frames of a movie")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--only", choices=("linear", "elastic"), help="leave out the other half")
    arguments = parser.parse_args()
    print("| movie | program | mean error (px) | largest (px) | frames a second |\n|---|---|---|---|---|", flush=True)
    peers: list[tuple[str, str, Callable[..., Fitted]]] = [
        ("pystackreg", "linear", stackreg), ("pyflowreg", "elastic", flowreg)
    ]  # fmt: skip
    for kind, cases in (("linear", CASES), ("elastic", ELASTIC)):
        if arguments.only not in (None, kind):
            continue
        for case in cases:
            motion, side, noise = case
            movie = make_movie(arguments.frames, (side, side), motion, noise=noise, seed=arguments.seed)
            if kind == "linear":
                print(measure("register_series", ours, movie, case), flush=True)
            else:
                options = {"family": "translation+diffeomorphic"}
                print(measure("register_series", ours, movie, case, **options), flush=True)
            for name, group, run in peers:
                if group == kind and importlib.util.find_spec(name):
                    print(measure(name, run, movie, case), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
