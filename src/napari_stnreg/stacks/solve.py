"""All vectors of a stack at once: neighbours' wishes against staying put and staying smooth.

The energy is the sum over matched pairs of ``w |u_b - u_a - m|^2`` (robust), and over sections of ``t |u|^2`` (the
tether) and of the bending of ``u``. Along the stack this is a filter that lets pass what changes from section to
section and holds back what changes slowly. How slow is slow follows from the stack itself: displacements that are
independent from section to section are the same at a distance of one and of two, displacements of the tissue's own
course add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from napari_stnreg.images import FloatArray
from napari_stnreg.stacks.fine import FineMatch
from napari_stnreg.stacks.maps import SectionMap
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.spline_fit import smoothness_matrix
from napari_stnreg.stacks.ties import Landmarks, Ties

Pair = tuple[int, int]
Index = npt.NDArray[np.intp]
COURSE = {"natural": 1.0, "balanced": 0.2, "straight": 0.02}
"""What each course multiplies the tether with."""
SMOOTH = 0.03
"""Stiffness of a section's own vectors at ``smoothness=1``."""
TOGETHER = 0.05
"""How firmly the pieces of a torn section hold together."""
LEAST_COURSE = 0.1
"""Share of the differences that is always put down to the tissue's own course."""
MOST_COURSE = 0.7
"""The same at most: sections always lie off by a little."""
LOOSE = 0.01
"""Share of the tether with which links are first judged."""
LEAST_SCALE = 0.004
"""Disagreement of links, as a share of the section's side, that never speaks against one of them."""
REWEIGHTINGS = 3
STEPS = 300


def tether_of(chain: Sequence[tuple[FloatArray, FloatArray] | None], spread: float) -> float:
    """The tether that suits a stack: the tissue's own change a section over the sections' own displacement, squared.

    Parameters
    ----------
    chain
        For each section in turn how the next one differs from it (any shape), and where that is known (0 or 1);
        ``None`` where no next one was matched.
    spread
        Variance of the differences that is always put down to the tissue, square pixels.

    Notes
    -----
    A section that lies off by ``x`` steps there and back: its two differences are opposed, by ``-var(x)`` in the mean,
    and those two apart know nothing of each other. The tissue's own course goes on for a while, so that its differences
    are alike with a correlation ``r``, and ``r^2`` two apart. Three products of differences thus tell the variances of
    both, and ``r``.
    """
    products = []
    for lag in (0, 1, 2):
        top = bottom = 0.0
        for one, other in zip(chain, chain[lag:], strict=False):
            if one is not None and other is not None:
                known = one[1] * other[1]
                top += float((one[0] * other[0] * known).sum())
                bottom += float(known.sum())
        products.append(top / bottom if bottom else 0.0)
    total, next_one, second = products
    if total <= 0:
        return 1.0
    half = max(next_one + total / 2, 0.0)
    second = min(max(second, 0.0), total)
    course = 2 * (half + second - np.sqrt(second * (second + 2 * half)))
    course = float(np.clip(max(course, spread), LEAST_COURSE * total, MOST_COURSE * total))
    return 2 * course / (total - course)


def solve_fine(
    maps: list[SectionMap],
    matches: Mapping[Pair, FineMatch],
    settings: StackSettings,
    held: Mapping[int, SectionMap] | None = None,
    landmarks: Landmarks | None = None,
) -> list[SectionMap]:
    """Vectors for every section.

    Parameters
    ----------
    maps
        One a section, on one lattice; their vectors only matter for sections that are held or matched with nothing.
    matches
        By section numbers ``(a, b)``, ``a < b``.
    settings
        Tether, stiffness, course, and the section that is pinned.
    held
        Sections whose maps stay as they are: those outside a range that is aligned again, or the pinned one.
    landmarks
        By section numbers, two arrays ``(N, 2)`` of raw pixels that belong together; they outweigh comparisons.
    """
    shape = maps[0].lattice.shape
    first = np.concatenate([[0], np.cumsum([m.pieces for m in maps])]).astype(int)
    fixed = np.zeros(first[-1], dtype=bool)
    state = np.zeros((first[-1], 2, *shape))
    keep = dict(held or {})
    if settings.reference is not None and settings.reference < len(maps):
        keep.setdefault(settings.reference, maps[settings.reference].with_vectors(0 * maps[settings.reference].vectors))
    for z, there in keep.items():
        fixed[first[z] : first[z + 1]] = True
        state[first[z] : first[z + 1]] = there.vectors
    links = _links(matches, first)
    ties = Ties.of(landmarks or {}, maps, first)
    if not links and not len(ties):
        return [m.with_vectors(state[first[z] : first[z + 1]]) for z, m in enumerate(maps)]
    if not links:
        none = np.zeros(0, dtype=np.intp)
        links = none, none, np.zeros((0, 2, *shape)), np.zeros((0, 3, *shape))
    ia, ib, shift, weight = links
    tether = settings.tether * COURSE[settings.course] * _estimated(ia, ib, shift, weight, maps)
    stiffness = smoothness_matrix(shape) * SMOOTH * settings.smoothness
    siblings = [(k, k + 1) for z in range(len(maps)) for k in range(first[z], first[z + 1] - 1)]
    robust = np.ones(shift[:, :1].shape)
    least = LEAST_SCALE * max(maps[0].shape)
    # Loose at first: what the links say of each other decides which of them to believe, not the tether's tension.
    tethers = np.full((first[-1], 1, 1, 1), LOOSE * tether)
    for _ in range(REWEIGHTINGS):
        state = _conjugate_gradients(
            state, ~fixed, (ia, ib, shift, weight * robust), ties, tethers, stiffness, siblings
        )
        # a section that lies off by much more than most is not held back: it is to be mended
        size = np.sqrt((state**2).mean(axis=(1, 2, 3), keepdims=True))
        tethers = tether / (1.0 + (size / (3.0 * float(np.median(size)) + 1e-6)) ** 2)
        off = np.sqrt(((state[ib] - state[ia] - shift) ** 2).sum(axis=1, keepdims=True))
        seen = weight[:, :1] + weight[:, 2:] > 0.5
        scale = least + (1.5 * float(np.median(off[seen])) if seen.any() else 0.0)
        robust = 1.0 / (1.0 + (off / (2.0 * scale)) ** 2)
    return [m.with_vectors(state[first[z] : first[z + 1]]) for z, m in enumerate(maps)]


def _links(matches: Mapping[Pair, FineMatch], first: Index) -> tuple[Index, Index, FloatArray, FloatArray] | None:
    """Pieces matched: indices, shifts ``(K, 2, gy, gx)``, weights ``(K, 3, gy, gx)`` and distances along the stack."""
    rows = []
    for (a, b), match in sorted(matches.items()):
        for p in range(match.shift.shape[0]):
            for q in range(match.shift.shape[1]):
                trust = max(match.score[p, q], 0.0) ** 2
                if trust > 0 and match.weight[p, q].any():
                    rows.append((first[a] + p, first[b] + q, match.shift[p, q], match.weight[p, q], trust, b - a))
    if not rows:
        return None
    ia, ib, lag = (np.array([r[k] for r in rows]) for k in (0, 1, 5))
    trust = np.array([r[4] for r in rows])
    near = trust[lag == lag.min()]
    trust = np.minimum(trust / float(np.median(near)), 2.0)
    weight = np.stack([r[3] for r in rows]) * trust[:, None, None, None]
    # more than a well-textured place's share is not better known: its error is the tissue's, not the camera's
    size = 0.5 * (weight[:, :1] + weight[:, 2:])
    weight = weight / np.maximum(size, 1.0)
    return ia, ib, np.stack([r[2] for r in rows]), weight / lag[:, None, None, None]


def _estimated(ia: Index, ib: Index, shift: FloatArray, weight: FloatArray, maps: list[SectionMap]) -> float:
    after = {int(a): k for k, a in reversed(list(enumerate(ia)))}  # the nearest of a section's followers
    chain: list[tuple[FloatArray, FloatArray] | None] = []
    for piece in range(int(ib.max(initial=0))):
        k = after.get(piece)
        if k is None or ib[k] != piece + 1:
            chain.append(None)
        else:
            seen = (0.5 * (weight[k, 0] + weight[k, 2]) > 0.3).astype(float)
            chain.append((shift[k], np.stack([seen, seen])))
    return tether_of(chain, spread=(0.001 * max(maps[0].shape)) ** 2)


def _conjugate_gradients(
    state: FloatArray,
    free: FloatArray,
    links: tuple[Index, Index, FloatArray, FloatArray],
    ties: Ties,
    tether: FloatArray,
    stiffness: FloatArray,
    siblings: list[Pair],
) -> FloatArray:
    ia, ib, shift, weight = links
    left, right = (np.array([s[k] for s in siblings], dtype=int) for k in (0, 1))

    def spread(force: FloatArray) -> FloatArray:
        """Forces on links as forces on sections, weighted."""
        y = weight[:, 0] * force[:, 0] + weight[:, 1] * force[:, 1]
        x = weight[:, 1] * force[:, 0] + weight[:, 2] * force[:, 1]
        both = np.stack([y, x], axis=1)
        out = np.zeros_like(state)
        np.add.at(out, ib, both)
        np.subtract.at(out, ia, both)
        return out

    def apply(u: FloatArray) -> FloatArray:
        out = spread(u[ib] - u[ia]) + ties.forces(ties.gaps(u), u.shape) + tether * u
        flat = u.reshape(*u.shape[:2], -1)
        out += (flat @ stiffness).reshape(u.shape)
        if siblings:
            apart = TOGETHER * (u[right] - u[left])
            np.add.at(out, right, apart)
            np.subtract.at(out, left, apart)
        return out

    mask = free[:, None, None, None]
    diagonal = np.zeros_like(state) + tether + float(np.diag(stiffness).mean())
    for index in (ia, ib):
        np.add.at(diagonal, index, weight[:, [0, 2]])
    diagonal = diagonal + ties.diagonal(state.shape)
    residual = np.where(mask, spread(shift) + ties.forces(ties.shift, state.shape) - apply(state), 0)
    goal = 1e-5 * float(np.sqrt((residual**2).sum())) + 1e-9
    ahead = residual / diagonal
    direction, product = ahead.copy(), float((residual * ahead).sum())
    for _ in range(STEPS):
        if float(np.sqrt((residual**2).sum())) <= goal:
            break
        pushed = np.where(mask, apply(direction), 0)
        pace = product / max(float((direction * pushed).sum()), 1e-30)
        state = state + pace * direction
        residual = residual - pace * pushed
        ahead = residual / diagonal
        product, before = float((residual * ahead).sum()), product
        direction = ahead + (product / before) * direction
    return state
