"""Which pairs of sections are matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from napari_stnreg.stacks.matching.coarse import SURE, CoarseMatch
from napari_stnreg.stacks.settings import StackSettings

Pair = tuple[int, int]
FARTHEST = 6
"""A gap of more sections than this is not bridged by a match: nothing in them is still alike."""


def usable(faults: Sequence[str]) -> list[int]:
    """Numbers of the sections that can be matched."""
    return [z for z, fault in enumerate(faults) if not fault]


def neighbor_pairs(sections: Sequence[int]) -> list[Pair]:
    """Each usable section with the next one."""
    return _pairs(sections, 1)


def bridging_pairs(sections: Sequence[int], matches: Mapping[Pair, CoarseMatch]) -> list[Pair]:
    """What to match besides, once neighbors are: the sections around every match that is not believed.

    One bad section then does not cut the stack in two. The list is empty for a good stack.
    """
    places = {z: k for k, z in enumerate(sections)}
    found = set()
    for (a, b), match in matches.items():
        if match.confidence < SURE:
            around = [sections[k] for k in range(max(places[a] - 1, 0), min(places[b] + 2, len(sections)))]
            found |= {(p, q) for p in around for q in around if p < q and places[q] - places[p] > 1}
    return sorted(p for p in found if p not in matches and p[1] - p[0] <= FARTHEST)


def fine_pairs(sections: Sequence[int], settings: StackSettings) -> list[Pair]:
    """Each usable section with the next ones, as far as ``settings.neighbors``."""
    return _pairs(sections, settings.neighbors)


def long_range_pairs(sections: Sequence[int], settings: StackSettings) -> list[Pair]:
    """Pair each usable section with the one ``settings.long_range_stride`` after it, beyond ``settings.neighbors``."""
    near, chosen, reach = set(fine_pairs(sections, settings)), set(sections), settings.long_range_stride
    return [(z, z + reach) for z in sections if reach and z + reach in chosen and (z, z + reach) not in near]


def _pairs(sections: Sequence[int], reach: int) -> list[Pair]:
    found = []
    for k, a in enumerate(sections):
        near = [b for b in sections[k + 1 : k + 1 + reach] if b - a <= FARTHEST + reach]
        found += [(a, b) for b in near]
    return found
