"""Distances of points to triangle meshes, exact and differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

_CANDIDATES = 16
"""Triangles that are compared with a point first; more of them where these do not decide."""
_CHUNK = 2**22
"""Pairs of points and triangles that are compared at once."""


def distance_to_mesh(points: Tensor, vertices: Tensor, triangles: Tensor) -> Tensor:
    """Return the distance of each point to the nearest point of a triangle mesh.

    Parameters
    ----------
    points
        ``(N, 3)``.
    vertices, triangles
        ``(V, 3)`` and ``(M, 3)`` integers.

    Returns
    -------
    Tensor
        ``(N,)``, differentiable in points and vertices.
    """
    corners = vertices[triangles]
    found = []
    for part in points.split(max(_CHUNK // len(corners), 1)):
        chosen = _nearest_triangles(part.detach(), corners.detach())
        squares = _squared_distance(part, corners[chosen])
        found.append((squares + 1e-12).sqrt())
    return torch.cat(found) if found else points.new_zeros(0)


def _nearest_triangles(points: Tensor, corners: Tensor) -> Tensor:
    """Return the nearest triangle of each point, by bounds from centers and radii of the triangles."""
    centers = corners.mean(dim=1)
    radii = (corners - centers[:, None]).norm(dim=-1).amax(dim=1)
    bounds = torch.cdist(points, centers, compute_mode="donot_use_mm_for_euclid_dist") - radii
    count = min(_CANDIDATES, len(corners))
    low, chosen = bounds.topk(count, largest=False)
    squares, place = _squared_distance(points[:, None], corners[chosen]).min(dim=1)
    nearest: Tensor = chosen.gather(1, place[:, None])[:, 0]
    if count < len(corners):  # a triangle that was left out may be nearer where its bound is lower
        for row in (squares.sqrt() > low[:, -1]).nonzero()[:, 0].tolist():
            possible = (bounds[row] <= squares[row].sqrt()).nonzero()[:, 0]
            nearest[row] = possible[_squared_distance(points[row, None], corners[possible]).argmin()]
    return nearest


def _squared_distance(points: Tensor, corners: Tensor) -> Tensor:
    """Return the squared distance of points ``(..., 3)`` to triangles ``(..., 3, 3)``."""
    a, b, c = corners.unbind(dim=-2)
    edges = torch.stack([_to_segment(points, *one) for one in ((a, b), (b, c), (c, a))]).amin(dim=0)
    u, v, w = b - a, c - a, points - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    area = (uu * vv - uv * uv).clamp_min(1e-20)
    first, second = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
    inside = (first >= 0) & (second >= 0) & (first + second <= 1) & (area > 1e-20)
    rest = w - first[..., None] * u - second[..., None] * v
    return torch.where(inside, (rest * rest).sum(-1), edges)


def _to_segment(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    along = end - start
    fraction = ((points - start) * along).sum(-1) / (along * along).sum(-1).clamp_min(1e-20)
    rest = points - start - fraction.clamp(0, 1)[..., None] * along
    return (rest * rest).sum(-1)
