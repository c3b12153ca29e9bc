"""Transform of one section: an affine map and a B-spline displacement for each fragment.

Coordinates are full-resolution pixels (y, x), with pixel centers at integers. A transform maps the canvas of the
aligned stack to the raw section (pull-back): ``aligned(x) = raw(transform(x))``. The working image of a section holds
means over blocks of ``factor`` pixels; its pixel ``i`` is at ``(i + 0.5) * factor - 0.5``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.linalg import fit_affine

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Lattice:
    """Control points of cubic B-splines over the canvas; the outermost ring is outside of it.

    Parameters
    ----------
    origin
        Canvas position of the first control point, pixels.
    spacing
        Distance of control points, pixels.
    shape
        Number of control points along y and x, at least 4.
    """

    origin: tuple[float, float]
    spacing: tuple[float, float]
    shape: tuple[int, int]

    @classmethod
    def covering(
        cls, low: npt.ArrayLike, high: npt.ArrayLike, spacing: float, center: npt.ArrayLike | None = None
    ) -> Lattice:
        """Create the lattice of square cells that covers a box of canvas positions.

        A control point is at ``center``, by default the middle of the box.
        """
        low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        size = high - low
        cells = np.maximum(np.ceil(size / spacing - 1e-6), 1).astype(int)
        origin = low + size / 2 - (cells / 2 + 1) * spacing
        if center is not None:
            middle = np.asarray(center, dtype=np.float64)
            before = np.ceil((middle - low) / spacing - 1e-6).astype(int)
            cells = before + np.maximum(np.ceil((high - middle) / spacing - 1e-6), 1).astype(int)
            origin = middle - (before + 1) * spacing
        return cls((float(origin[0]), float(origin[1])), (spacing, spacing), (int(cells[0]) + 3, int(cells[1]) + 3))

    def index(self, points: FloatArray) -> FloatArray:
        """Convert canvas positions ``(..., 2)`` to units of control points."""
        return np.asarray((points - np.asarray(self.origin)) / np.asarray(self.spacing))

    def axis(self, axis: int) -> FloatArray:
        """Return the canvas coordinates of the control points along one axis."""
        return np.asarray(self.origin[axis] + self.spacing[axis] * np.arange(self.shape[axis]))

    def points(self) -> FloatArray:
        """Return the canvas positions ``(gy, gx, 2)`` of all control points."""
        return np.stack(np.meshgrid(self.axis(0), self.axis(1), indexing="ij"), axis=-1)


@dataclass(frozen=True)
class SectionTransform:
    """Transform from canvas to section, ``raw = affine(x + v(x))`` with a cubic B-spline displacement ``v``.

    Parameters
    ----------
    affines
        ``(P, 3, 3)`` homogeneous, canvas to section, for each of ``P`` fragments; usually one.
    vectors
        ``(P, 2, gy, gx)`` B-spline coefficients, canvas pixels.
    lattice
        Control points of the coefficients.
    shape
        Size of the section in full-resolution pixels.
    fragment_labels
        ``(h, w)`` fragment of each pixel of the working image, or ``None`` for a single fragment.
    factor
        Full-resolution pixels per pixel of the working image, along each axis.
    """

    affines: FloatArray
    vectors: FloatArray
    lattice: Lattice
    shape: tuple[int, int]
    fragment_labels: Labels | None = None
    factor: int = 1

    @classmethod
    def from_affine(
        cls,
        affine: FloatArray,
        lattice: Lattice,
        shape: tuple[int, int],
        fragment_labels: Labels | None = None,
        factor: int = 1,
    ) -> SectionTransform:
        """Create a transform without deformation, the same for all fragments."""
        count = 1 if fragment_labels is None else int(fragment_labels.max()) + 1
        zeros = np.zeros((count, 2, *lattice.shape))
        affines = np.repeat(np.asarray(affine, dtype=np.float64)[None], count, axis=0)
        return cls(affines, zeros, lattice, shape, fragment_labels if count > 1 else None, factor)

    @property
    def n_fragments(self) -> int:
        """Number of fragments."""
        return len(self.affines)

    def with_vectors(self, vectors: FloatArray) -> SectionTransform:
        """Return a copy with other coefficients."""
        return replace(self, vectors=vectors)

    def __call__(self, points: npt.ArrayLike) -> FloatArray:
        """Map canvas positions ``(..., 2)`` to positions of the section."""
        points = np.asarray(points, dtype=np.float64)
        return self._combine_fragments(lambda which: self.map_fragment(which, points))

    def on_axes(self, y: FloatArray, x: FloatArray) -> FloatArray:
        """Map the grid of canvas positions ``y`` by ``x``, ``(h, w, 2)``; much faster than a call."""
        points = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
        return self._combine_fragments(
            lambda which: self._apply_affine(
                which, points + evaluate_spline_on_axes(self.vectors[which], self.lattice, y, x)
            )
        )

    def _combine_fragments(self, map_fragment: Callable[[int], FloatArray]) -> FloatArray:
        """Combine the transforms of the fragments, each where it maps into its own fragment."""
        first = map_fragment(0)
        if self.fragment_labels is None:
            return first
        # A point belongs to the fragment whose own transform maps into it, and to the first one if none does.
        result, assigned = first.copy(), self._label(first) == 0
        for k in range(1, self.n_fragments):
            there = map_fragment(k)
            own = ~assigned & (self._label(there) == k)
            result[own], assigned = there[own], assigned | own
        return result

    def map_fragment(self, which: int, points: FloatArray) -> FloatArray:
        """Map canvas positions by the transform of one fragment, extrapolated over the whole canvas."""
        return self._apply_affine(which, points + spline(self.vectors[which], self.lattice, points))

    def _apply_affine(self, which: int, moved: FloatArray) -> FloatArray:
        matrix = self.affines[which]
        return np.asarray(moved @ matrix[:2, :2].T + matrix[:2, 2])

    def _label(self, raw: FloatArray) -> Labels:
        assert self.fragment_labels is not None
        index = np.rint((raw + 0.5) / self.factor - 0.5).astype(int)
        return np.asarray(
            self.fragment_labels[
                np.clip(index[..., 0], 0, self.fragment_labels.shape[0] - 1),
                np.clip(index[..., 1], 0, self.fragment_labels.shape[1] - 1),
            ]
        )

    def fragment_at(self, point: FloatArray) -> int:
        """Return the fragment at a position ``(2,)`` of the section."""
        return 0 if self.fragment_labels is None else int(self._label(np.asarray(point, dtype=np.float64)))

    def inverse(self, points: npt.ArrayLike, iterations: int = 30) -> FloatArray:
        """Map positions ``(..., 2)`` of the section to the canvas, by fixed-point iteration."""
        points = np.asarray(points, dtype=np.float64)
        labels = np.zeros(points.shape[:-1], dtype=int) if self.fragment_labels is None else self._label(points)
        result = np.empty_like(points)
        for k in range(self.n_fragments):
            own = labels == k
            back = np.linalg.inv(self.affines[k])
            goal = points[own] @ back[:2, :2].T + back[:2, 2]
            guess = goal
            for _ in range(iterations):
                before, guess = guess, goal - spline(self.vectors[k], self.lattice, guess)
                if not own.any() or np.abs(guess - before).max() < 1e-6:
                    break
            result[own] = guess
        return result

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the fields as named arrays."""
        found: dict[str, npt.NDArray[np.generic]] = {
            "affines": self.affines,
            "vectors": self.vectors,
            "lattice": np.array([self.lattice.origin, self.lattice.spacing, self.lattice.shape], dtype=np.float64),
            "shape": np.array([*self.shape, self.factor]),
        }
        if self.fragment_labels is not None:
            found["fragment_labels"] = self.fragment_labels
        return found

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[np.generic]]) -> SectionTransform:
        """Restore a transform from :meth:`to_arrays`."""
        origin, spacing, cells = np.asarray(arrays["lattice"], dtype=np.float64).tolist()
        height, width, factor = (int(n) for n in np.asarray(arrays["shape"]))
        lattice = Lattice((origin[0], origin[1]), (spacing[0], spacing[1]), (int(cells[0]), int(cells[1])))
        fragment_labels = np.asarray(arrays["fragment_labels"], dtype=np.uint8) if "fragment_labels" in arrays else None
        affines, vectors = (np.asarray(arrays[name], dtype=np.float64) for name in ("affines", "vectors"))
        return cls(affines, vectors, lattice, (height, width), fragment_labels, factor)


def spline(vectors: FloatArray, lattice: Lattice, points: FloatArray) -> FloatArray:
    """Evaluate B-spline vectors ``(2, gy, gx)`` at canvas positions ``(..., 2)``; constant beyond the lattice."""
    import torch  # only the evaluation needs torch

    from napari_stnreg.transforms.bspline import BSplineTransform

    if not vectors.any():
        return np.zeros_like(points)
    place = np.diag([*lattice.spacing, 1.0])
    place[:2, 2] = lattice.origin
    transform = BSplineTransform(torch.from_numpy(np.ascontiguousarray(vectors)), Grid(lattice.shape, place))
    return np.asarray(transform.map_points(points.reshape(-1, 2)).reshape(points.shape) - points)


def evaluate_spline_on_axes(vectors: FloatArray, lattice: Lattice, y: FloatArray, x: FloatArray) -> FloatArray:
    """Evaluate B-spline vectors on the grid ``y`` by ``x``, ``(h, w, 2)``, as two matrix products."""
    from napari_stnreg.ops.bspline import cubic_bspline_matrix

    if not vectors.any():
        return np.zeros((len(y), len(x), 2))
    down, across = (
        cubic_bspline_matrix((np.asarray(values) - lattice.origin[axis]) / lattice.spacing[axis], lattice.shape[axis])
        for axis, values in enumerate((y, x))
    )
    return np.ascontiguousarray(np.moveaxis(down @ vectors @ across.T, 0, -1))


def fit_affine_matrix(points: FloatArray, mapped: FloatArray) -> FloatArray:
    """Fit the ``(3, 3)`` affine matrix that takes ``(N, 2)`` points to their images, by least squares.

    Raises
    ------
    InputError
        If the fitted map is singular.
    """
    matrix = fit_affine(points, mapped)
    if abs(np.linalg.det(matrix[:2, :2])) < 1e-6:
        raise InputError("The points of a section are mapped onto one line. Check its displacement or its landmarks.")
    return matrix


def corners(shape: tuple[int, int]) -> FloatArray:
    """Return the outer corners and the centers of the sides of a section, ``(8, 2)``."""
    height, width = shape
    ys, xs = (-0.5, (height - 1) / 2, height - 0.5), (-0.5, (width - 1) / 2, width - 0.5)
    return np.array([(y, x) for y in ys for x in xs if (y, x) != (ys[1], xs[1])])


def bounding_box(transforms: Iterable[SectionTransform]) -> tuple[FloatArray, FloatArray]:
    """Return the bounding box of all sections on the canvas, as lowest and highest position."""
    edges = np.concatenate([m.inverse(_border(m.shape)) for m in transforms])
    return edges.min(axis=0), edges.max(axis=0)


def union_canvas(transforms: Iterable[SectionTransform]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the origin (integer canvas pixels) and the shape of the canvas that contains all sections."""
    low, high = bounding_box(transforms)
    first = np.floor(low + 0.5 + 1e-6).astype(int)
    last = np.ceil(high - 0.5 - 1e-6).astype(int)
    size = last - first + 1
    return (int(first[0]), int(first[1])), (int(size[0]), int(size[1]))


def _border(shape: tuple[int, int], count: int = 17) -> FloatArray:
    height, width = shape
    y, x = np.linspace(-0.5, height - 0.5, count), np.linspace(-0.5, width - 0.5, count)
    sides = [(y, x[:1]), (y, x[-1:]), (y[:1], x), (y[-1:], x)]
    return np.concatenate([np.stack(np.broadcast_arrays(a, b), axis=-1) for a, b in sides])
