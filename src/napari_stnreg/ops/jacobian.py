"""Jacobian determinant of a deformation, and the fraction of the image that folds.

Folding is defined once, here: **the fraction of voxels whose Jacobian determinant is not positive**. A determinant that
is not a number counts as folded. :data:`FOLDING_BORDER` voxels at the border of the grid are left out, because the
derivatives are one-sided there and peers pad their fields; an axis too short for that keeps all its voxels. A map
that mirrors the whole image has a negative mean determinant and is compared with that orientation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import check_stop
from napari_stnreg.ops.filters import per_axis

Spacing = float | Sequence[float]

FOLDING_BORDER = 4
"""Voxels at each side of the grid that :func:`folding_fraction` leaves out."""


def jacobian_determinant(displacement: Tensor, spacing: Spacing = 1.0) -> Tensor:
    """Return the local change of volume of ``x -> x + u(x)``: below 1 it shrinks, not positive where it folds.

    Central differences, one-sided at the border, 0 along an axis of one voxel; exact for affine fields.

    Parameters
    ----------
    displacement
        ``(B, D, *shape)`` along the grid's own axes, in units of ``spacing`` (voxels if that is 1).
    spacing
        Voxel size along each axis.

    Returns
    -------
    Tensor
        ``(B, *shape)``; differentiable.
    """
    steps = per_axis(spacing, displacement.ndim - 2)
    by_axis = [_derivative(displacement, axis, step) for axis, step in enumerate(steps, start=2)]
    rows = [[d[:, i] + float(i == j) for j, d in enumerate(by_axis)] for i in range(len(steps))]
    if len(steps) == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def smallest_cell_determinant(displacement: Tensor) -> Tensor:
    """Return the smallest determinant of ``x -> x + u(x)`` over the cells around each voxel.

    The derivatives along each axis are one-sided, in all ``2**D`` combinations: the determinants at the corners of the
    cells. :func:`jacobian_determinant` is their mean, so it is positive wherever they are. In 2D the determinant inside
    a cell is a weighted mean of its corners, so that a positive result means that the interpolated map nowhere folds.
    Beyond the border of the grid the displacement is constant along the normal, as in a displacement transform.

    Parameters
    ----------
    displacement
        ``(B, D, *shape)`` in voxels.

    Returns
    -------
    Tensor
        ``(B, *shape)``.
    """
    ndim = displacement.ndim - 2
    sides: list[list[list[Tensor]]] = []
    for axis in range(ndim):
        check_stop()
        still = torch.zeros_like(displacement.narrow(axis + 2, 0, 1))
        steps = torch.cat([still, torch.diff(displacement, dim=axis + 2), still], axis + 2)
        steps[:, axis] += 1
        size = displacement.shape[axis + 2]
        ahead, behind = steps.narrow(axis + 2, 1, size), steps.narrow(axis + 2, 0, size)
        sides.append([[one[:, i] for i in range(ndim)] for one in (ahead, behind)])
    smallest: Tensor | None = None
    if ndim == 2:
        for a, b in sides[0]:
            for c, d in sides[1]:
                check_stop()
                value = a * d - b * c
                smallest = value if smallest is None else torch.minimum(smallest, value, out=smallest)
    else:
        for a, b, c in sides[0]:
            for d, e, f in sides[1]:
                check_stop()
                normal = (b * f - c * e, c * d - a * f, a * e - b * d)
                for g, h, i in sides[2]:
                    check_stop()
                    value = (normal[0] * g).addcmul_(normal[1], h).addcmul_(normal[2], i)
                    smallest = value if smallest is None else torch.minimum(smallest, value, out=smallest)
    assert smallest is not None
    return smallest


def jacobian_determinant_array(displacement: npt.ArrayLike, spacing: Spacing = 1.0) -> npt.NDArray[Any]:
    """:func:`jacobian_determinant` of an array ``(D, *shape)``; single or double precision is kept.

    Raises
    ------
    InputError
        If the number of components differs from the number of axes.
    """
    u = np.asarray(displacement)
    ndim = u.ndim - 1
    if len(u) != ndim or ndim not in (2, 3):
        raise InputError(f"A displacement field in {ndim}D has {ndim} components first, not {len(u)}.")
    if u.dtype != np.float32:
        u = u.astype(np.float64)
    tensor = torch.from_numpy(np.array(u, copy=not u.flags.writeable))[None]
    with torch.no_grad():
        return np.asarray(jacobian_determinant(tensor, np.broadcast_to(spacing, ndim).tolist())[0].numpy())


def folding_fraction(
    determinant: npt.ArrayLike, mask: npt.ArrayLike | None = None, *, border: int = FOLDING_BORDER
) -> float:
    """Return the fraction of voxels whose Jacobian determinant is not positive (see the definition above).

    Parameters
    ----------
    determinant
        ``(*shape)``.
    mask
        ``(*shape)``, true where voxels count; ignored if it is false everywhere.
    border
        Voxels at each side that are left out; 0 for points that are not a voxel grid.
    """
    values = np.asarray(determinant)
    inside = tuple(slice(border, n - border) if n > 2 * border else slice(None) for n in values.shape)
    inner = values[inside]
    if mask is not None:
        chosen = np.asarray(mask, dtype=bool)
        if chosen[inside].any():
            inner = inner[chosen[inside]]
        elif chosen.any():
            inner = values[chosen]
    check_stop()
    finite = inner[np.isfinite(inner)]
    check_stop()
    orientation = -1.0 if finite.size and finite.mean(dtype=np.float64) < 0 else 1.0
    return float(np.mean(~(inner * orientation > 0)))


def _derivative(u: Tensor, axis: int, step: float) -> Tensor:
    check_stop()
    result: Tensor = _Derivative.apply(u, axis, step)  # type: ignore[no-untyped-call]
    return result


class _Derivative(torch.autograd.Function):
    """Central difference inside, one-sided at the ends, 0 along an axis of one voxel."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, axis: int, step: float) -> Tensor:
        ctx.axis, ctx.step = axis, step
        size = u.shape[axis]
        out = torch.zeros_like(u)
        if size < 2:
            return out
        if size > 2:
            torch.sub(u.narrow(axis, 2, size - 2), u.narrow(axis, 0, size - 2), out=out.narrow(axis, 1, size - 2))
        for at, high, low in ((0, 1, 0), (size - 1, size - 1, size - 2)):
            out.narrow(axis, at, 1).copy_(2 * (u.narrow(axis, high, 1) - u.narrow(axis, low, 1)))
        return out.div_(2 * step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        axis = ctx.axis
        size = grad.shape[axis]
        out = torch.zeros_like(grad)
        if size < 2:
            return out, None, None
        if size > 2:
            inner = grad.narrow(axis, 1, size - 2)
            out.narrow(axis, 2, size - 2).add_(inner)
            out.narrow(axis, 0, size - 2).sub_(inner)
        for at, high, low in ((0, 1, 0), (size - 1, size - 1, size - 2)):
            out.narrow(axis, high, 1).add_(grad.narrow(axis, at, 1), alpha=2)
            out.narrow(axis, low, 1).sub_(grad.narrow(axis, at, 1), alpha=2)
        return out.div_(2 * ctx.step), None, None
