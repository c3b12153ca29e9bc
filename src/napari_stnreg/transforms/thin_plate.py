"""Thin-plate splines: the transform with the least bending through control points, and its family.

References
----------
Bookstein, Principal warps: thin-plate splines and the decomposition of deformations, IEEE Transactions on Pattern
Analysis and Machine Intelligence 11, 1989.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.ops.lattice import apply_matrix, lattice_points
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.family import TransformFamily
from napari_stnreg.transforms.inverse import InverseTransform

MAX_FIT_WORK = 3e7
"""Voxels times control points up to which a pyramid level is fitted: each voxel depends on every control point, and a
few control points need no finer image."""
MAX_CONTROL_POINTS = {2: 9, 3: 6}
"""Control points along the longest side that a registration chooses by itself, by dimension."""

_CHUNK_ENTRIES = 2**18
_CACHED_ENTRIES = 2**26  # 256 MiB in single precision: a level of 64 voxels cubed with 5 points an axis


class ThinPlateBasis:
    """The part of a thin-plate spline that depends on the control points alone: kernels and the factorized system.

    Parameters
    ----------
    control_points
        ``(N, D)`` in the fixed world.
    stiffness
        0 interpolates the targets; larger values trade accuracy for less bending (lengths are relative to the
        root-mean-square radius of the control points).

    Raises
    ------
    InputError
        If the points are too few, not finite, on one line (plane), or two are at one place.
    """

    def __init__(self, control_points: npt.ArrayLike, stiffness: float = 0.0) -> None:
        points = np.asarray(control_points, dtype=np.float64)
        count, ndim = points.shape
        if not np.isfinite(points).all():
            raise InputError("The control points contain NaN or infinite values.")
        if count < ndim + 1:
            raise InputError(f"A thin-plate spline in {ndim}D needs at least {ndim + 1} points. There are {count}.")
        self.points, self.stiffness, self.ndim = points, float(stiffness), ndim
        self.center: FloatArray = points.mean(axis=0)
        self.scale = float(np.sqrt(((points - self.center) ** 2).sum(axis=1).mean())) or 1.0
        scaled = (points - self.center) / self.scale
        if np.linalg.svd(scaled, compute_uv=False)[-1] < 1e-6 * np.sqrt(count):
            flat = "line" if ndim == 2 else "plane"
            raise InputError(
                f"All points lie on one {flat}, which does not fix a thin-plate spline. Add a point off it."
            )
        if stiffness == 0 and len(np.unique(scaled.round(9), axis=0)) < count:
            raise InputError("Two of the fixed points are at the same place. Remove one, or set a stiffness.")
        self._scaled = torch.from_numpy(scaled)
        system = np.zeros((count + ndim + 1, count + ndim + 1))
        system[:count, :count] = self._kernel(self._scaled, self._scaled).numpy() + self.stiffness * np.eye(count)
        system[:count, count:-1], system[:count, -1] = scaled, 1
        system[count:, :count] = system[:count, count:].T
        # (N + D + 1, N): displacements of the control points to the weights of kernels, slopes and shift.
        self._solve = torch.from_numpy(np.linalg.inv(system)[:, :count].copy())
        self._cached: tuple[tuple[Grid, torch.dtype, torch.device], Tensor] | None = None

    def weights(self, displacements: Tensor) -> Tensor:
        """Return weights ``(B, N + D + 1, D)`` for displacements ``(B, N, D)`` of the control points."""
        wide = displacements.dtype if displacements.device.type == "mps" else torch.float64
        solve = self._solve.to(displacements.device, wide)
        return (solve @ displacements.to(wide)).to(displacements.dtype)

    def displacements(self, points: Tensor, weights: Tensor) -> Tensor:
        """Return displacements ``(B, P, D)`` at points ``(B or 1, P, D)``; large sets are processed in chunks."""
        rows = max(_CHUNK_ENTRIES // len(self.points), 1)
        pieces = [
            # Recomputed in the backward pass: stored, the kernels would dominate the memory.
            checkpoint(self._displacements_chunk, part, weights, use_reentrant=False)
            if torch.is_grad_enabled() and points.shape[1] > rows
            else self._displacements_chunk(part, weights)
            for part in torch.split(points, rows, dim=1)
        ]
        return torch.cat(pieces, dim=1)

    def displacements_on_grid(self, grid: Grid, weights: Tensor) -> Tensor:
        """Return displacements ``(B, *grid.shape, D)``; in a fit the kernels of a small grid are cached."""
        key = (grid, weights.dtype, weights.device)
        matrix = torch.tensor(grid.matrix, dtype=weights.dtype, device=weights.device)[None]
        if not torch.is_grad_enabled() or grid.size * len(self.points) > _CACHED_ENTRIES:
            points = lattice_points(matrix, grid.shape).reshape(1, -1, self.ndim)
            flat = self.displacements(points, weights)
        else:
            if self._cached is None or self._cached[0] != key:
                with torch.no_grad():
                    points = lattice_points(matrix, grid.shape).reshape(1, -1, self.ndim)
                    self._cached = (key, self.features(points)[0])
            flat = self._cached[1] @ weights
        return flat.reshape(-1, *grid.shape, self.ndim)

    def _displacements_chunk(self, points: Tensor, weights: Tensor) -> Tensor:
        return self.features(points) @ weights

    @property
    def solve_matrix(self) -> FloatArray:
        """Displacements of the control points to the weights of kernels, slopes and shift, ``(N + D + 1, N)``."""
        return np.asarray(self._solve.numpy())

    def features(self, points: Tensor) -> Tensor:
        """Return kernels, coordinates and one at each point ``(B, P, D)``, as ``(B, P, N + D + 1)``."""
        center = torch.tensor(self.center, dtype=points.dtype, device=points.device)
        scaled = (points - center) / self.scale
        kernels = self._kernel(scaled, self._scaled.to(points.device, points.dtype))
        return torch.cat([kernels, scaled, torch.ones_like(scaled[..., :1])], dim=-1)

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the fundamental solution: ``r**2 log r`` in 2D, ``-r`` in 3D (with this sign the stiffness adds)."""
        if self.ndim == 3 and not torch.compiler.is_compiling():
            return -torch.cdist(a, b.expand(*a.shape[:-2], *b.shape), compute_mode="donot_use_mm_for_euclid_dist")
        square = sum(((a[..., i, None] - b[:, i]) ** 2 for i in range(self.ndim)), torch.zeros((), dtype=a.dtype))
        square = square.clamp_min(1e-20)
        if self.ndim == 3:  # of a traced program; ONNX has no cdist
            return -square.sqrt()
        return square * square.log() / 2


class ThinPlateTransform(Transform):
    """The thin-plate spline that maps control points of the fixed world to targets in the moving world.

    Parameters
    ----------
    control_points
        ``(N, D)`` in the fixed world, the same for every pair.
    targets
        ``(B, N, D)`` or ``(N, D)`` in the moving world.
    stiffness
        0 interpolates every target; larger values bend less.
    unit
        Unit of both worlds.
    basis
        Basis of the same control points and stiffness, to reuse it.

    Raises
    ------
    InputError
        If the counts differ or the points do not determine a spline (see :class:`ThinPlateBasis`).
    """

    family = "tps"

    def __init__(
        self,
        control_points: Tensor | npt.ArrayLike,
        targets: Tensor,
        stiffness: float = 0.0,
        unit: str = "pixel",
        basis: ThinPlateBasis | None = None,
    ) -> None:
        if isinstance(control_points, Tensor):
            control_points = control_points.detach().cpu().numpy()
        points = np.asarray(control_points, dtype=np.float64)
        targets = targets if targets.ndim == 3 else targets[None]
        if points.ndim != 2 or points.shape[1] not in (2, 3) or tuple(targets.shape[1:]) != points.shape:
            raise InputError(f"Control points of shape {points.shape} and targets {tuple(targets.shape)} do not pair.")
        self.basis = basis or ThinPlateBasis(points, stiffness)
        self.targets, self.unit, self.ndim = targets, unit, points.shape[1]
        self.length_scale = self.basis.scale / len(points) ** (1 / self.ndim)

    def _weights(self, dtype: torch.dtype) -> Tensor:
        wide = self.targets.dtype if self.targets.device.type == "mps" else torch.float64
        here = torch.tensor(self.basis.points, dtype=wide, device=self.targets.device)
        return self.basis.weights(self.targets.to(wide) - here).to(dtype)

    @override
    def __call__(self, points: Tensor) -> Tensor:
        flat = points.reshape(points.shape[0], -1, self.ndim)
        moved = self.basis.displacements(flat, self._weights(points.dtype))
        return points + moved.reshape(moved.shape[0], *points.shape[1:])

    @override
    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        grid = self.check_grid(grid)
        weights = self._weights(dtype or self.targets.dtype)
        matrix = torch.tensor(grid.matrix, dtype=weights.dtype, device=weights.device)[None]
        return lattice_points(matrix, grid.shape) + self.basis.displacements_on_grid(grid, weights)

    @override
    def inverse(self) -> Transform:
        return InverseTransform(self)

    @override
    def native_grid(self) -> Grid:
        points = self.basis.points
        return Grid.covering(points, np.maximum(np.ptp(points, axis=0), 1e-9) / 64, unit=self.unit)

    @override
    def _change_coordinates(self, matrix: FloatArray, unit: str) -> ThinPlateTransform:
        outward = torch.from_numpy(matrix).to(self.device)
        targets = self.targets.double() @ outward[:-1, :-1].T + outward[:-1, -1]
        points = self.basis.points @ matrix[:-1, :-1].T + matrix[:-1, -1]
        return ThinPlateTransform(points, targets, self.basis.stiffness, unit)

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"targets": self.targets, "control_points": torch.from_numpy(self.basis.points.copy())}

    @override
    def settings(self) -> dict[str, Any]:
        return {"stiffness": self.basis.stiffness, "unit": self.unit}

    @classmethod
    @override
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        return cls(tensors["control_points"], tensors["targets"], float(settings["stiffness"]), settings["unit"])


class ThinPlateFamily(TransformFamily):
    """Thin-plate splines over a lattice of control points, from face to face of the domain.

    Parameters are the displacements of the control points, ``(N, D)``, in voxels along the domain's own axes.

    Parameters
    ----------
    points
        Number of control points along each axis, one number or one for each; at least 2.
    stiffness
        See :class:`ThinPlateTransform`.
    """

    name = "tps"

    def __init__(self, points: int | Sequence[int] = 5, stiffness: float = 0.0) -> None:
        self.points, self.stiffness = np.atleast_1d(np.asarray(points, dtype=int)), stiffness
        if (self.points < 2).any():
            raise InputError("A thin-plate lattice needs at least 2 control points along every axis.")
        self._last: tuple[Grid, ThinPlateBasis] | None = None

    @classmethod
    @override
    def for_registration(cls, domain: Grid, control_spacing: float | None = None, coarsening: float = 1.0) -> Self:
        sizes = domain.extent / domain.spacing.min()
        most = MAX_CONTROL_POINTS[domain.ndim]
        spacing = control_spacing or float(sizes.max()) / (most - 1)
        return cls([int(np.clip(round(n / spacing) + 1, 2, 2 * most)) for n in sizes])

    @override
    def max_voxels(self, domain: Grid) -> float:
        return MAX_FIT_WORK / float(np.prod(self._counts(domain)))

    def _counts(self, domain: Grid) -> tuple[int, ...]:
        if len(self.points) not in (1, domain.ndim):
            raise InputError(f"{len(self.points)} numbers of control points were given for {domain.ndim} axes.")
        return tuple(int(n) for n in np.broadcast_to(self.points, (domain.ndim,)))

    def control_points(self, domain: Grid) -> FloatArray:
        """Return world positions ``(N, D)``, equal on all levels of a pyramid."""
        axes = [np.linspace(-0.5, n - 0.5, k) for n, k in zip(domain.shape, self._counts(domain), strict=True)]
        return domain.to_world(np.array(list(itertools.product(*axes))))

    @override
    def parameter_shape(self, domain: Grid) -> tuple[int, ...]:
        return (int(np.prod(self._counts(domain))), domain.ndim)

    @override
    def __call__(self, theta: Tensor, domain: Grid) -> ThinPlateTransform:
        if self._last is None or self._last[0] != domain:
            self._last = (domain, ThinPlateBasis(self.control_points(domain), self.stiffness))
        basis = self._last[1]
        here = torch.tensor(basis.points, dtype=theta.dtype, device=theta.device)
        moved = apply_matrix(domain.linear, theta.transpose(1, 2)[..., *[None] * (domain.ndim - 1)])
        return ThinPlateTransform(basis.points, here + moved.flatten(2).transpose(1, 2), unit=domain.unit, basis=basis)

    @override
    def resample(self, theta: Tensor, old: Grid, new: Grid) -> Tensor:
        new = new.with_unit(old.unit)
        source, points = self(theta, old), self.control_points(new)
        here = torch.tensor(points, dtype=theta.dtype, device=theta.device)[None]
        moved = (source.targets if np.allclose(points, source.basis.points) else source(here)) - here
        change = torch.tensor(np.linalg.inv(new.linear), dtype=theta.dtype, device=theta.device)
        return moved @ change.T
