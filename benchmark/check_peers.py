"""Hold every method's displacement against a known affine map: ``python -m benchmark.check_peers [--methods ...]``.

A wrong order of axes, sign or direction shows here as an error of several voxels. The map shifts each axis by another
amount and shears, so that no two mistakes cancel; the images have different shapes.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import ndimage

from benchmark.peers import METHODS, Array, grid_points, make_method
from benchmark.threads import limit_threads


def known_pair(ndim: int) -> tuple[Array, Array, Array]:
    """Blobs, the same blobs under an affine map, and the true displacement ``(D, *shape)`` on the fixed grid."""
    fixed_shape, moving_shape = ((96, 88), (90, 100)) if ndim == 2 else ((48, 56, 52), (52, 50, 58))
    random = np.random.default_rng(3)
    moving = ndimage.gaussian_filter(random.standard_normal(moving_shape), 3.0)
    axes = zip(grid_points(moving_shape), moving_shape, strict=True)
    distance = np.linalg.norm([(p - (n - 1) / 2) / (0.42 * n) for p, n in axes], axis=0)
    moving = (100 + 60 * moving / moving.std()) * ndimage.gaussian_filter((distance < 1).astype(float), 1.0)
    linear = np.eye(ndim) + 0.04 * np.triu(np.ones((ndim, ndim)), 1)
    shift = np.array([3.0, -2.0, 1.5])[:ndim] + (np.array(moving_shape) - np.array(fixed_shape)) / 2
    points = grid_points(fixed_shape)
    center = (np.array(fixed_shape).reshape(-1, *[1] * ndim) - 1) / 2
    target = np.einsum("ij,j...->i...", linear, points - center) + center + shift.reshape(-1, *[1] * ndim)
    fixed = ndimage.map_coordinates(moving, target, order=3, mode="constant")
    return np.clip(fixed, 0, 255).astype(np.uint8), np.clip(moving, 0, 255).astype(np.uint8), target - points


def main() -> None:
    """Print, for each method in 2D and 3D, the median error of its displacement inside the blob."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default=",".join(METHODS))
    limit_threads(2)
    for name in parser.parse_args().methods.split(","):
        for ndim, kind in ((2, "cardiac"), (2, "histology"), (3, "hippocampus")):
            fixed, moving, truth = known_pair(ndim)
            method = make_method(name, kind, 2)
            field = method.field(method.fit(fixed, moving))
            errors = np.linalg.norm(field - truth, axis=0)[fixed > 30]
            still = np.linalg.norm(truth, axis=0)[fixed > 30]
            print(f"{name}, {kind}: median error {np.median(errors):.2f} voxels, {np.median(still):.2f} before")


if __name__ == "__main__":
    main()
