"""Landmarks as linear constraints on the vectors of the elastic solver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.stacks.section_transform import SectionTransform

LANDMARK_WEIGHT = 300.0
"""Weight of a pair of landmarks, relative to about 1 for a well-textured vector of an image match.

A point depends on sixteen vectors, each held by several matches; with this weight about a twentieth of their error
remains at the point.
"""
Index = npt.NDArray[np.intp]
Landmarks = Mapping[tuple[int, int], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class LandmarkConstraints:
    """Constraints ``matrix @ u = shift`` of ``T`` pairs of landmarks on the vectors of all fragments.

    Parameters
    ----------
    matrix
        ``(T, fragments * gy * gx)`` B-splines of the second section where both points meet, minus those of the first.
    shift
        ``(T, 2)`` canvas pixels by which the vectors should differ.
    """

    matrix: csr_matrix
    shift: FloatArray

    @classmethod
    def from_landmarks(
        cls, landmarks: Landmarks, transforms: Sequence[SectionTransform], offsets: Sequence[int] | Index
    ) -> LandmarkConstraints:
        """Convert landmarks, by section numbers ``(N, 2)`` raw pixels of both sections, to constraints.

        A point ``p`` of a section lies at ``x`` where ``x + u(x) = q``, the place to which the section's affine map
        alone takes it. Two points lie on each other if ``u_b - u_a = q_b - q_a`` where they meet. Where that is follows
        from the maps so far, half-way between the two.

        Parameters
        ----------
        landmarks, maps
            Corresponding points, and the current transforms of the sections.
        offsets
            Index of the first fragment of each section, and the number of fragments at the end.
        """
        size = int(np.prod(transforms[0].lattice.shape))
        columns, values, shift = [], [], []
        for (a, b), sides in sorted(landmarks.items()):
            where = (transforms[a].inverse(sides[0]) + transforms[b].inverse(sides[1])) / 2
            for k, pair in enumerate(zip(*sides, strict=True)):
                nodes, splines = _splines_at(where[k], transforms[a])
                goal = []
                for z, point, sign in zip((a, b), pair, (-1, 1), strict=True):
                    map_fragment = transforms[z].fragment_at(point)
                    back = np.linalg.inv(transforms[z].affines[map_fragment])
                    goal.append(back[:2, :2] @ point + back[:2, 2])
                    columns.append((int(offsets[z]) + map_fragment) * size + nodes)
                    values.append(sign * splines)
                shift.append(goal[1] - goal[0])
        count = len(shift)
        entries = np.concatenate(values) if values else np.zeros(0)
        place = np.repeat(np.arange(count), 32), np.concatenate(columns) if columns else np.zeros(0, dtype=int)
        matrix = csr_matrix((entries, place), shape=(count, int(offsets[-1]) * size))
        return cls(matrix, np.asarray(shift, dtype=np.float64).reshape(-1, 2))

    def __len__(self) -> int:
        return len(self.shift)

    def residuals(self, vectors: FloatArray) -> FloatArray:
        """Differences ``(T, 2)`` of the vectors ``(fragments, 2, gy, gx)`` of both sides at the landmarks."""
        return np.asarray(self.matrix @ vectors.reshape(*vectors.shape[:2], -1).swapaxes(1, 2).reshape(-1, 2))

    def forces(self, gaps: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        """Apply the weighted adjoint of :meth:`residuals` to vectors of ``shape``."""
        flat = np.asarray(LANDMARK_WEIGHT * (self.matrix.T @ gaps))
        return flat.reshape(shape[0], -1, 2).swapaxes(1, 2).reshape(shape)

    def diagonal(self, shape: tuple[int, ...]) -> FloatArray:
        """Return the diagonal ``(pieces, 1, gy, gx)`` of ``forces(residuals(.))``, for preconditioning."""
        squares = np.asarray(self.matrix.multiply(self.matrix).sum(axis=0))
        return LANDMARK_WEIGHT * squares.reshape(shape[0], 1, *shape[2:])


def _splines_at(point: FloatArray, there: SectionTransform) -> tuple[Index, FloatArray]:
    """Return the 16 control points around a canvas position and their cubic B-spline weights."""
    from napari_stnreg.ops.bspline import cubic_bspline_support

    index = there.lattice.index(point)
    numbers, values = [], []
    for along, size in zip(index, there.lattice.shape, strict=True):
        first, weights = cubic_bspline_support(np.array([along]), size)
        numbers.append(first[0] + np.arange(4))
        values.append(weights[0])
    rows, columns = np.meshgrid(numbers[0], numbers[1], indexing="ij")
    return (rows * there.lattice.shape[1] + columns).ravel(), np.outer(values[0], values[1]).ravel()
