"""Select the pairs of sections to match."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from napari_stnreg.stacks.matching.coarse import PARAMETERS, CoarseMatch
from napari_stnreg.stacks.settings import StackSettings

Pair = tuple[int, int]
MAX_GAP = 6
"""Largest gap, in sections, that a match bridges. Set by hand; no tuning is recorded."""


def usable(faults: Sequence[str]) -> list[int]:
    """Return the numbers of the sections without a fault."""
    return [z for z, fault in enumerate(faults) if not fault]


def neighbor_pairs(sections: Sequence[int]) -> list[Pair]:
    """Pair each usable section with the next one."""
    return _pairs(sections, 1)


def bridging_pairs(sections: Sequence[int], matches: Mapping[Pair, CoarseMatch]) -> list[Pair]:
    """Select further pairs around every match of low confidence, so that one bad section does not split the stack.

    The list is empty if all neighbors match well.
    """
    places = {z: k for k, z in enumerate(sections)}
    found = set()
    for (a, b), match in matches.items():
        if match.confidence < PARAMETERS.sure_confidence:
            around = [sections[k] for k in range(max(places[a] - 1, 0), min(places[b] + 2, len(sections)))]
            found |= {(p, q) for p in around for q in around if p < q and places[q] - places[p] > 1}
    return sorted(p for p in found if p not in matches and p[1] - p[0] <= MAX_GAP)


def find_inverted(matches: Mapping[Pair, CoarseMatch]) -> set[int]:
    """Return the sections whose contrast is inverted relative to most sections that they are linked to.

    The contrasts follow from the tree of the best matches, near ones first: a chance match decides nothing where a
    better one is known. Beyond a section that fits nowhere, only a sure match decides.
    """
    groups: dict[int, dict[int, bool]] = {}
    least = {
        pair: PARAMETERS.min_confidence if pair[1] - pair[0] == 1 else PARAMETERS.sure_confidence for pair in matches
    }
    known = {pair: match for pair, match in matches.items() if match.confidence >= least[pair]}
    for a, b in sorted(known, key=lambda pair: (pair[1] - pair[0], -known[pair].confidence, pair)):
        one, other = (groups.setdefault(z, {z: False}) for z in (a, b))
        if one is not other:
            differ = (one[a] != other[b]) != known[a, b].inverted
            one.update({z: inverted != differ for z, inverted in other.items()})
            groups.update(dict.fromkeys(other, one))
    found: set[int] = set()
    for z, group in groups.items():
        if z == min(group):
            found |= minority(group, {k for k, inverted in group.items() if inverted})
    return found


def minority(sections: Iterable[int], inverted: Collection[int]) -> set[int]:
    """Return the sections whose contrast differs from that of most; only the relative contrast is known."""
    ones, others = set(sections) & set(inverted), set(sections) - set(inverted)
    return ones if len(ones) <= len(others) else others


def find_swapped(sections: Sequence[int], scores: Mapping[Pair, npt.ArrayLike], margin: float) -> list[Pair]:
    """Return the neighbors that fit better in exchanged order, in the mean by more than a margin.

    ``scores`` holds the correlation at each level, the finest first, NaN where a level was not used. Pairs are compared
    at the finest level that all of them used, since a finer level always correlates less, and by Fisher's z, since a
    difference close to 1 weighs more.

    Both sides must agree, so that one bad section is not moved. The first and the last pair have one side only and are
    not judged.
    """
    found: list[Pair] = []
    for k in range(1, len(sections) - 2):
        p, a, b, q = sections[k - 1 : k + 3]
        if found and found[-1][1] == a:
            continue
        near, far = ((p, a), (b, q)), ((p, b), (a, q))
        if not all(pair in scores for pair in (*near, *far)):
            continue
        gains = np.stack([_fisher(scores[one]) - _fisher(scores[other]) for one, other in zip(far, near, strict=True)])
        common = gains.reshape(2, -1)[:, np.isfinite(gains.reshape(2, -1)).all(axis=0)]
        if common.size and common[:, 0].min() > 0 and common[:, 0].sum() > 2 * margin:
            found.append((a, b))
    return found


def _fisher(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(np.arctanh(np.clip(np.asarray(scores, dtype=np.float64), -0.999, 0.999)))


def fine_pairs(sections: Sequence[int], settings: StackSettings) -> list[Pair]:
    """Pair each usable section with the next ``settings.neighbors`` ones."""
    return _pairs(sections, settings.neighbors)


def long_range_pairs(sections: Sequence[int], settings: StackSettings) -> list[Pair]:
    """Pair each usable section with the one ``settings.long_range_stride`` after it, beyond ``settings.neighbors``."""
    near, chosen, distance = set(fine_pairs(sections, settings)), set(sections), settings.long_range_stride
    return [
        (z, z + distance) for z in sections if distance and z + distance in chosen and (z, z + distance) not in near
    ]


def _pairs(sections: Sequence[int], distance: int) -> list[Pair]:
    found = []
    for k, a in enumerate(sections):
        near = [b for b in sections[k + 1 : k + 1 + distance] if b - a <= MAX_GAP + distance]
        found += [(a, b) for b in near]
    return found
