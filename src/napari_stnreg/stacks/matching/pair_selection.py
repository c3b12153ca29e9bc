"""Select the pairs of sections to match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    """Return the sections whose contrast is inverted relative to most sections that they are linked to."""
    links: dict[int, list[tuple[int, bool]]] = {}
    for (a, b), match in sorted(matches.items()):
        if match.confidence >= PARAMETERS.min_confidence:
            links.setdefault(a, []).append((b, match.inverted))
            links.setdefault(b, []).append((a, match.inverted))
    found: set[int] = set()
    inverted: dict[int, bool] = {}
    for begin in sorted(links):
        if begin in inverted:
            continue
        inverted[begin], group, queue = False, [begin], [begin]
        while queue:
            a = queue.pop(0)
            for b, opposite in links[a]:
                if b not in inverted:
                    inverted[b] = inverted[a] != opposite
                    group.append(b)
                    queue.append(b)
        ones = {z for z in group if inverted[z]}
        found |= ones if 2 * len(ones) <= len(group) else set(group) - ones
    return found


def find_swapped(sections: Sequence[int], scores: Mapping[Pair, float], margin: float) -> list[Pair]:
    """Return the neighbors that fit better in exchanged order, in the mean by more than a margin.

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
        gains = [scores[one] - scores[other] for one, other in zip(far, near, strict=True)]
        if min(gains) > 0 and sum(gains) > 2 * margin:
            found.append((a, b))
    return found


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
