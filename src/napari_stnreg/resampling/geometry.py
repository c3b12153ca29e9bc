"""Carry layers from one side of a transform to the other: points, shapes, tracks, vectors, surfaces, images.

A transform ``T`` maps points of the fixed world to points of the moving world. So

- a list of points of the **moving** side goes to the fixed side by ``T.inverse()``,
- a list of points of the **fixed** side goes to the moving side by ``T``,
- an image of the moving side is brought onto the fixed side by reading it at ``T(x)``, and an image of the fixed side
  onto the moving side by reading it at ``T.inverse()(x)``.

:class:`GeometryTransformer` keeps that straight: it is told on which side a layer lies and does the rest. Everything here is plain
arrays; no layer is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.resampling.warp import Interpolation, warp
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.conversion import linear_matrix
from napari_stnreg.transforms.inverse import solver_warning
from napari_stnreg.transforms.inversion import inversion_method, solved_inverse

Side = Literal["moving", "fixed"]

ELLIPSE_CORNERS = 64
_PIECES = 32


class GeometryTransformer:
    """Takes what lies on one side of a transform to the other side.

    Parameters
    ----------
    transform
        Fixed world to moving world.
    side
        Where the layer lies now; ``"moving"`` is the ordinary case.
    matrix
        ``(K + 1, K + 1)`` from the layer's data to its world, for its ``K`` axes; ``None`` if the coordinates are the
        world's already. The last ``D`` axes are the transform's; axes before them (time) are only placed.
    unit
        Unit of the layer's world; ``None`` for the transform's.
    target_unit
        Unit in which coordinates are wanted; ``None`` for the transform's.

    Raises
    ------
    InputError
        If the layer has fewer axes than the transform, or the units cannot be converted.
    """

    def __init__(
        self,
        transform: Transform,
        side: Side = "moving",
        *,
        matrix: npt.ArrayLike | None = None,
        unit: str | None = None,
        target_unit: str | None = None,
    ) -> None:
        if side not in ("moving", "fixed"):
            raise InputError(f"A layer lies on the moving or the fixed side; '{side}' is neither.")
        self.transform, self.side = transform, side
        self.through = solved_inverse(transform) if side == "moving" else transform
        """What points are mapped by."""
        self.matrix: FloatArray | None = None if matrix is None else np.asarray(matrix, dtype=np.float64)
        self._read_by: Transform | None = None
        self._inward = conversion_factor(unit or transform.unit, transform.unit)
        self._outward = conversion_factor(transform.unit, target_unit or transform.unit)
        if self.matrix is not None and len(self.matrix) <= transform.ndim:
            self._too_few(len(self.matrix) - 1)

    @property
    def sentence(self) -> str:
        """The direction in a person's words."""
        other = "fixed" if self.side == "moving" else "moving"
        by = "the inverse of the transform" if self.side == "moving" else "the transform"
        if self.side == "moving" and inversion_method(self.transform) != "exact":
            by += ", solved point by point"
        return f"Points of the {self.side} side go to the {other} side by {by}."

    @property
    def warning(self) -> str | None:
        """What a person should know about what was carried so far: where the inverse has no solution."""
        by = solver_warning(self.through)
        return by if by is not None or self._read_by is None else solver_warning(self._read_by)

    def points(self, coordinates: npt.ArrayLike) -> FloatArray:
        """World coordinates ``(N, K)`` on the other side of data coordinates ``(N, K)``."""
        data = np.asarray(coordinates, dtype=np.float64)
        if data.ndim != 2:
            raise InputError(f"Coordinates are a list (N, D), not an array of shape {data.shape}.")
        ndim, count = self.transform.ndim, data.shape[1]
        if count < ndim:
            self._too_few(count)
        if self.matrix is not None:
            if len(self.matrix) != count + 1:
                raise InputError(f"Coordinates with {count} axes do not fit a matrix for {len(self.matrix) - 1}.")
            data = data @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]
        world = data.copy()
        if len(world):
            world[:, -ndim:] = self._outward * self.through.map_points(self._inward * data[:, -ndim:])
        return world

    def tracks(self, rows: npt.ArrayLike) -> FloatArray:
        """Tracks ``(N, 1 + K)``: a number, then time and place; the numbers stay, time is placed, the place carried."""
        data = np.asarray(rows, dtype=np.float64)
        if data.ndim != 2 or data.shape[1] < self.transform.ndim + 2:
            shape = data.shape
            raise InputError(f"Tracks are rows of number, time and {self.transform.ndim} coordinates, not {shape}.")
        return np.concatenate([data[:, :1], self.points(data[:, 1:])], axis=1)

    def vectors(self, vectors: npt.ArrayLike) -> FloatArray:
        """Vectors ``(N, 2, K)``, start and direction: both ends are carried, so that directions turn and stretch."""
        data = np.asarray(vectors, dtype=np.float64)
        if data.ndim != 3 or data.shape[1] != 2:
            raise InputError(f"Vectors are start and direction, (N, 2, D), not an array of shape {data.shape}.")
        start, end = self.points(data[:, 0]), self.points(data[:, 0] + data[:, 1])
        return np.stack([start, end - start], axis=1)

    def surface(self, vertices: npt.ArrayLike) -> FloatArray:
        """Vertices ``(N, K)`` of a surface; its faces and values stay as they are.

        A surface turned inside out by a mirroring transform needs its faces reversed: see :attr:`mirrors`.
        """
        return self.points(vertices)

    @property
    def mirrors(self) -> bool:
        """Whether the linear part of the map turns space over, so that faces change their orientation."""
        matrix = linear_matrix(self.through)
        return matrix is not None and bool(np.linalg.det(matrix[:-1, :-1]) < 0)

    def shapes(self, shapes: Sequence[npt.ArrayLike], kinds: Sequence[str]) -> list[tuple[FloatArray, str]]:
        """Vertices and kinds of shapes on the other side.

        Parameters
        ----------
        shapes
            Vertices ``(V, K)`` of every shape, as napari's Shapes layers hold them.
        kinds
            ``rectangle``, ``ellipse``, ``polygon``, ``path`` or ``line`` for each.

        Returns
        -------
        list of (array, str)
            World coordinates. A rectangle or an ellipse that does not stay one becomes a polygon; where the map bends,
            edges get vertices in between (those that were there are kept) and lines become paths.
        """
        if len(shapes) != len(kinds):
            raise InputError(f"There are {len(shapes)} shapes, but {len(kinds)} kinds.")
        return [self._shape(np.asarray(s, dtype=np.float64), kind) for s, kind in zip(shapes, kinds, strict=True)]

    def _shape(self, vertices: FloatArray, kind: str) -> tuple[FloatArray, str]:
        matrix = linear_matrix(self.through)
        if matrix is not None:
            shifted = np.allclose(matrix[:-1, :-1], np.diag(np.diag(matrix[:-1, :-1])), atol=1e-9)
            upright = self.matrix is None or _is_diagonal(self.matrix[:-1, :-1])
            if kind not in ("rectangle", "ellipse") or (shifted and upright):
                return self.points(vertices), kind
        if kind == "ellipse":
            vertices = ellipse_outline(vertices)
        closed = kind in ("rectangle", "ellipse", "polygon")
        if matrix is None:
            vertices = subdivided(vertices, closed=closed, pieces=1 if kind == "ellipse" else None)
        kept = {"path": "path", "line": "line" if matrix is not None else "path"}
        return self.points(vertices), kept.get(kind, "polygon")

    def image(
        self,
        image: Image,
        grid: Grid,
        interpolation: Interpolation = "linear",
        fill: float | Sequence[float] | None = 0,
    ) -> Image:
        """An image (or labels, with ``"nearest"``) of this side, sampled once on a grid of the other side."""
        back = self.transform if self.side == "moving" else self.transform.inverse()
        self._read_by = back
        return warp(image, back, grid, interpolation, fill)

    def layer_affine(self, matrix: npt.ArrayLike | None = None) -> FloatArray:
        """The data-to-world matrix ``(K + 1, K + 1)`` that puts a layer on the other side without resampling it.

        Parameters
        ----------
        matrix
            The layer's present one; that of the carrier if not given.

        Returns
        -------
        array
            To be the layer's ``affine``, with its scale, rotate, shear and translate taken out of the way (they are
            contained); its last axes are in ``target_unit``.

        Raises
        ------
        InputError
            If the transform is not linear.
        """
        given = self.matrix if matrix is None else np.asarray(matrix, dtype=np.float64)
        linear = linear_matrix(self.through)
        ndim = self.transform.ndim
        if linear is None:
            raise InputError(
                f"A transform of family '{self.transform.family}' bends, which a layer's matrix cannot; resample the "
                "layer instead."
            )
        given = np.eye(ndim + 1) if given is None else given
        if len(given) <= ndim:
            self._too_few(len(given) - 1)
        extra = len(given) - 1 - ndim
        whole = np.eye(len(given))
        inward, outward = (np.diag([f] * ndim + [1.0]) for f in (self._inward, self._outward))
        place = [*range(extra, len(given))]
        whole[np.ix_(place, place)] = outward @ linear @ inward
        return np.asarray(whole @ given)

    def _too_few(self, count: int) -> None:
        raise InputError(f"A layer with {count} axes cannot be carried by a {self.transform.ndim}D transform.")


def ellipse_outline(corners: npt.ArrayLike, count: int = ELLIPSE_CORNERS) -> FloatArray:
    """A polygon ``(count, K)`` on the ellipse that touches the sides of a parallelogram of four corners ``(4, K)``."""
    box = np.asarray(corners, dtype=np.float64)
    center = box.mean(axis=0)
    first, second = (box[1] - box[0]) / 2, (box[3] - box[0]) / 2
    angle = 2 * np.pi * np.arange(count)[:, None] / count
    return np.asarray(center + np.cos(angle) * first + np.sin(angle) * second)


def subdivided(vertices: npt.ArrayLike, *, closed: bool, pieces: int | None = None) -> FloatArray:
    """The outline with every edge cut into equal pieces; the given vertices are among the result's.

    Without ``pieces`` the longest edge gets 32 and shorter ones fewer, in proportion.
    """
    points = np.asarray(vertices, dtype=np.float64)
    ends = np.concatenate([points, points[:1]]) if closed else points
    lengths = np.linalg.norm(np.diff(ends, axis=0), axis=1)
    if not len(lengths) or lengths.max() == 0:
        return points
    counts = np.maximum(np.ceil(_PIECES * lengths / lengths.max()), 1).astype(int)
    if pieces is not None:
        counts[:] = pieces
    parts = [ends[i] + np.arange(n)[:, None] / n * (ends[i + 1] - ends[i]) for i, n in enumerate(counts)]
    return np.concatenate(parts if closed else [*parts, ends[-1:]])


def _is_diagonal(matrix: FloatArray) -> bool:
    return bool(np.allclose(matrix, np.diag(np.diag(matrix)), atol=1e-12 * np.abs(matrix).max()))
