"""Transform geometry between the two sides of a transform: points, shapes, tracks, vectors, surfaces, images.

A transform ``T`` maps points of the fixed world to points of the moving world. Therefore

- points of the **moving** side are mapped to the fixed side by ``T.inverse()``,
- points of the **fixed** side are mapped to the moving side by ``T``,
- an image of the moving side is warped onto the fixed side by sampling it at ``T(x)``, and an image of the fixed side
  onto the moving side by sampling it at ``T.inverse()(x)``.

:class:`GeometryTransformer` chooses the direction by the side of the data. Everything here is plain arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.resampling.warp import Interpolation, warp

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform

Side = Literal["moving", "fixed"]

ELLIPSE_VERTICES = 64
"""Vertices of the polygon that replaces an ellipse."""
EDGE_PIECES = 32
"""Pieces of the longest edge of a shape that bends."""
OUTLINE_POINTS = 9
"""Points along each axis of an image that are mapped to find its outline on the other side."""


class GeometryTransformer:
    """Transforms data from one side of a transform to the other.

    Parameters
    ----------
    transform
        Fixed world to moving world.
    side
        Side of the data; usually ``"moving"``.
    matrix
        ``(K + 1, K + 1)`` from data coordinates to the world, for ``K`` axes; ``None`` for world coordinates. The last
        ``D`` axes are those of the transform; the matrix alone applies to axes before them (time).
    unit
        Unit of the data's world; ``None`` for that of the transform.
    target_unit
        Unit of the results; ``None`` for that of the transform.

    Raises
    ------
    InputError
        If the data have fewer axes than the transform, or the units cannot be converted.
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
            raise InputError(f"A layer is on the moving or the fixed side, not on '{side}'.")
        self.transform, self.side = transform, side
        self.point_transform = transform.solved_inverse() if side == "moving" else transform
        """Transform that maps the points."""
        self.matrix: FloatArray | None = None if matrix is None else np.asarray(matrix, dtype=np.float64)
        self._image_transform: Transform | None = None
        self._inward = conversion_factor(unit or transform.unit, transform.unit)
        self._outward = conversion_factor(transform.unit, target_unit or transform.unit)
        if self.matrix is not None and len(self.matrix) <= transform.ndim:
            self._too_few(len(self.matrix) - 1)

    @property
    def direction_text(self) -> str:
        """The direction of the mapping, for the user."""
        other = "fixed" if self.side == "moving" else "moving"
        by = "the inverse of the transform" if self.side == "moving" else "the transform"
        if self.side == "moving" and self.transform.inversion_method != "exact":
            by += ", solved point by point"
        return f"Points of the {self.side} side are mapped to the {other} side by {by}."

    @property
    def warning(self) -> str | None:
        """Warning for the user if the inverse had no solution at some of the points so far."""
        used = (self.point_transform, self._image_transform)
        return next((one.warning for one in used if one is not None and one.warning is not None), None)

    def transform_points(self, coordinates: npt.ArrayLike) -> FloatArray:
        """Map data coordinates ``(N, K)`` to world coordinates ``(N, K)`` on the other side."""
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
            world[:, -ndim:] = self._outward * self.point_transform.map_points(self._inward * data[:, -ndim:])
        return world

    def transform_tracks(self, rows: npt.ArrayLike) -> FloatArray:
        """Map tracks ``(N, 1 + K)``: identifier, time, position. Identifiers stay; time goes to the world."""
        data = np.asarray(rows, dtype=np.float64)
        if data.ndim != 2 or data.shape[1] < self.transform.ndim + 2:
            shape = data.shape
            raise InputError(f"Tracks are rows of number, time and {self.transform.ndim} coordinates, not {shape}.")
        return np.concatenate([data[:, :1], self.transform_points(data[:, 1:])], axis=1)

    def transform_vectors(self, vectors: npt.ArrayLike) -> FloatArray:
        """Map vectors ``(N, 2, K)``, start and direction; both ends are mapped, so that directions rotate and scale."""
        data = np.asarray(vectors, dtype=np.float64)
        if data.ndim != 3 or data.shape[1] != 2:
            raise InputError(f"Vectors are start and direction, (N, 2, D), not an array of shape {data.shape}.")
        start, end = self.transform_points(data[:, 0]), self.transform_points(data[:, 0] + data[:, 1])
        return np.stack([start, end - start], axis=1)

    @property
    def is_reflection(self) -> bool:
        """Whether a linear map mirrors space, so that the faces of a surface must be reversed."""
        matrix = self.point_transform.as_matrix()
        return matrix is not None and bool(np.linalg.det(matrix[:-1, :-1]) < 0)

    def transform_shapes(
        self, shapes: Sequence[npt.ArrayLike], shape_types: Sequence[str]
    ) -> list[tuple[FloatArray, str]]:
        """Map shapes to the other side.

        Parameters
        ----------
        shapes
            Vertices ``(V, K)`` of every shape, as in napari's Shapes layers.
        shape_types
            ``rectangle``, ``ellipse``, ``polygon``, ``path`` or ``line`` for each.

        Returns
        -------
        list of (array, str)
            World coordinates and shape types. A rectangle or an ellipse that does not stay one becomes a polygon. Where
            the map bends, edges are subdivided and lines become paths.
        """
        if len(shapes) != len(shape_types):
            raise InputError(f"There are {len(shapes)} shapes, but {len(shape_types)} shape types.")
        pairs = zip(shapes, shape_types, strict=True)
        return [self._transform_shape(np.asarray(vertices, dtype=np.float64), kind) for vertices, kind in pairs]

    def _transform_shape(self, vertices: FloatArray, kind: str) -> tuple[FloatArray, str]:
        matrix = self.point_transform.as_matrix()
        if matrix is not None:
            keeps_axes = np.allclose(matrix[:-1, :-1], np.diag(np.diag(matrix[:-1, :-1])), atol=1e-9)
            upright = self.matrix is None or _is_diagonal(self.matrix[:-1, :-1])
            if kind not in ("rectangle", "ellipse") or (keeps_axes and upright):
                return self.transform_points(vertices), kind
        if kind == "ellipse":
            vertices = ellipse_outline(vertices)
        closed = kind in ("rectangle", "ellipse", "polygon")
        if matrix is None:
            vertices = subdivide(vertices, closed=closed, pieces=1 if kind == "ellipse" else None)
        kept = {"path": "path", "line": "line" if matrix is not None else "path"}
        return self.transform_points(vertices), kept.get(kind, "polygon")

    def warp_image(
        self,
        image: Image,
        grid: Grid,
        interpolation: Interpolation | None = None,
        fill: float | Sequence[float] | None = 0,
    ) -> Image:
        """Sample an image (or labels, with ``"nearest"``) of this side once on a grid of the other side."""
        back = self.transform if self.side == "moving" else self.transform.inverse()
        self._image_transform = back
        return warp(image, back, grid, interpolation, fill)

    def layer_data(self, layer_type: str, data: Any, shape_types: Sequence[str] = ()) -> tuple[Any, list[str]]:
        """Transform the data of a napari layer and return it in the layer's own data coordinates.

        The scale and unit of the layer, and with them the sizes of points and the widths of lines, thus stay valid.

        Parameters
        ----------
        layer_type
            ``"points"``, ``"tracks"``, ``"vectors"``, ``"surface"`` or ``"shapes"``.
        data
            The data of such a layer.
        shape_types
            Types of the shapes of a Shapes layer.

        Returns
        -------
        object, list of str
            The new data and, for shapes, their new types.
        """
        matrix = np.eye(self.transform.ndim + 1) if self.matrix is None else self.matrix
        back = np.linalg.inv(matrix)

        def to_data(world: FloatArray) -> FloatArray:
            return np.asarray(world @ back[:-1, :-1].T + back[:-1, -1])

        if layer_type == "points":
            return to_data(self.transform_points(data)), []
        if layer_type == "tracks":
            rows = self.transform_tracks(data)
            return np.concatenate([rows[:, :1], to_data(rows[:, 1:])], axis=1), []
        if layer_type == "vectors":
            vectors = self.transform_vectors(data)
            return np.stack([to_data(vectors[:, 0]), vectors[:, 1] @ back[:-1, :-1].T], axis=1), []
        if layer_type == "surface":
            vertices, faces, *rest = data
            faces = faces[:, ::-1] if self.is_reflection else faces
            return (to_data(self.transform_points(vertices)), faces, *rest), []
        if layer_type == "shapes":
            shapes = self.transform_shapes(data, shape_types)
            return [to_data(vertices) for vertices, _ in shapes], [shape_type for _, shape_type in shapes]
        raise InputError(f"Layers of type '{layer_type}' cannot be transformed as coordinates.")

    def covering_grid(self, grid: Grid) -> Grid:
        """Return the smallest axis-aligned grid that covers an image on the other side, with the same voxel size.

        Parameters
        ----------
        grid
            Grid of the image.
        """
        other = GeometryTransformer(
            self.transform, self.side, matrix=grid.matrix, unit=grid.unit, target_unit=grid.unit
        )
        # Points on the outline, not the corners alone: a deformed image may bulge between them.
        ticks = [np.linspace(-0.5, n - 0.5, OUTLINE_POINTS) for n in grid.shape]
        index = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(-1, grid.ndim)
        return Grid.covering(other.transform_points(index), grid.spacing, unit=grid.unit)

    def layer_affine(self, matrix: npt.ArrayLike | None = None) -> FloatArray:
        """Return the data-to-world matrix ``(K + 1, K + 1)`` that moves a layer to the other side without resampling.

        Parameters
        ----------
        matrix
            Present data-to-world matrix of the layer; that of the transformer if not given.

        Returns
        -------
        array
            New ``affine`` of the layer; it includes scale, rotate, shear and translate, which must be reset. The last
            axes are in ``target_unit``.

        Raises
        ------
        InputError
            If the transform is not linear.
        """
        given = self.matrix if matrix is None else np.asarray(matrix, dtype=np.float64)
        linear = self.point_transform.as_matrix()
        ndim = self.transform.ndim
        if linear is None:
            raise InputError(
                f"A transform of family '{self.transform.family}' is not linear. Resample the layer instead of "
                "changing its matrix."
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
        raise InputError(f"A layer with {count} axes cannot be transformed by a {self.transform.ndim}D transform.")


def ellipse_outline(corners: npt.ArrayLike, count: int = ELLIPSE_VERTICES) -> FloatArray:
    """Return a polygon ``(count, K)`` on the ellipse inscribed in a parallelogram with four corners ``(4, K)``."""
    box = np.asarray(corners, dtype=np.float64)
    center = box.mean(axis=0)
    first, second = (box[1] - box[0]) / 2, (box[3] - box[0]) / 2
    angle = 2 * np.pi * np.arange(count)[:, None] / count
    return np.asarray(center + np.cos(angle) * first + np.sin(angle) * second)


def subdivide(vertices: npt.ArrayLike, *, closed: bool, pieces: int | None = None) -> FloatArray:
    """Split every edge of an outline into equal pieces; the given vertices are kept.

    Without ``pieces`` the longest edge is split into :data:`EDGE_PIECES` and shorter ones into proportionally fewer.
    """
    points = np.asarray(vertices, dtype=np.float64)
    ends = np.concatenate([points, points[:1]]) if closed else points
    lengths = np.linalg.norm(np.diff(ends, axis=0), axis=1)
    if not len(lengths) or lengths.max() == 0:
        return points
    counts = np.maximum(np.ceil(EDGE_PIECES * lengths / lengths.max()), 1).astype(int)
    if pieces is not None:
        counts[:] = pieces
    parts = [ends[i] + np.arange(n)[:, None] / n * (ends[i + 1] - ends[i]) for i, n in enumerate(counts)]
    return np.concatenate(parts if closed else [*parts, ends[-1:]])


def _is_diagonal(matrix: FloatArray) -> bool:
    return bool(np.allclose(matrix, np.diag(np.diag(matrix)), atol=1e-12 * np.abs(matrix).max()))
