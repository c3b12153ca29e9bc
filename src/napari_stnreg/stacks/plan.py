"""Which pairs of sections are matched."""

from __future__ import annotations

from collections.abc import Sequence

from napari_stnreg.stacks.settings import StackSettings

Pair = tuple[int, int]
FARTHEST = 6
"""A gap of more sections than this is not bridged by a match: nothing in them is still alike."""


def usable(faults: Sequence[str]) -> list[int]:
    """Numbers of the sections that can be matched."""
    return [z for z, fault in enumerate(faults) if not fault]


def coarse_pairs(sections: Sequence[int], settings: StackSettings) -> list[Pair]:
    """Each usable section with the next one and the one after: one bad match must not cut the stack in two."""
    return _pairs(sections, 2)


def fine_pairs(sections: Sequence[int], settings: StackSettings) -> list[Pair]:
    """Each usable section with the next ones, as far as ``settings.window``."""
    return _pairs(sections, max(settings.window, 1))


def _pairs(sections: Sequence[int], reach: int) -> list[Pair]:
    found = []
    for k, a in enumerate(sections):
        near = [b for b in sections[k + 1 : k + 1 + reach] if b - a <= FARTHEST + reach]
        found += [(a, b) for b in near]
    return found
