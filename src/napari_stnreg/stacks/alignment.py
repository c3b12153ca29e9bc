"""The whole alignment of a stack in memory, step by step: what every way of running it has to do."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_stnreg.errors import InputError
from napari_stnreg.stacks.coarse import CoarseMatch, coarse_match
from napari_stnreg.stacks.fine import FineMatch, fine_match, start_maps
from napari_stnreg.stacks.maps import SectionMap
from napari_stnreg.stacks.plan import Pair, bridging_pairs, coarse_pairs, fine_pairs, usable
from napari_stnreg.stacks.poses import solve_coarse
from napari_stnreg.stacks.prepare import Extractor, PreparedSection, prepare
from napari_stnreg.stacks.quality import PairQuality, SectionQuality, judge, measure
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solve import solve_fine
from napari_stnreg.stacks.sources import reduced
from napari_stnreg.steps import finish


@dataclass(frozen=True)
class StackStep:
    """One finished task of a running alignment.

    Parameters
    ----------
    stage
        ``prepare``, ``coarse``, ``fine 1`` and so on.
    done, total
        Tasks of the whole alignment.
    """

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class StackAlignment:
    """Where every section belongs, and what is known of it.

    Parameters
    ----------
    maps
        Canvas to section, one a section.
    faults
        Why a section could not be matched; empty for all others.
    figures
        What :func:`prepare` found out about each section.
    coarse, fine
        The matches behind the maps.
    rows
        Verdict and figures of every section.
    settings
        As they were used.
    """

    maps: list[SectionMap]
    faults: list[str]
    figures: list[dict[str, float]]
    coarse: dict[Pair, CoarseMatch]
    fine: dict[Pair, FineMatch]
    rows: list[SectionQuality]
    settings: StackSettings


def align_steps(
    stack: npt.NDArray[np.generic],
    settings: StackSettings,
    *,
    masks: npt.NDArray[np.generic] | None = None,
    exclude: tuple[int, ...] = (),
    extractor: Extractor | None = None,
) -> Generator[StackStep, str | None, StackAlignment]:
    """Align a stack ``(z, y, x)`` that fits into memory.

    Parameters
    ----------
    stack
        Sections; NaN counts as empty.
    settings
        All choices.
    masks
        ``(z, y, x)``, non-zero where pixels are to be left out.
    exclude
        Sections that are not to be matched; they are bridged.
    extractor
        Makes the features of ``features="auto-encoder"``.

    Yields
    ------
    StackStep
        After every task.
    """
    if stack.ndim != 3 or not stack.size:
        raise InputError(f"A stack of sections has the axes (z, y, x); this array has the shape {stack.shape}.")
    count = len(stack)
    shape = (int(stack.shape[1]), int(stack.shape[2]))
    factor = settings.factor(shape)
    sections: list[PreparedSection] = []
    rounds = settings.rounds if settings.deform else 0
    total = count * (3 + rounds)
    for z in range(count):
        mask = None if masks is None else reduced(np.asarray(masks[z]) != 0, factor) > 0
        sections.append(
            prepare(reduced(stack[z], factor), settings, shape=shape, factor=factor, mask=mask, extractor=extractor)
        )
        yield StackStep("prepare", z + 1, total)
    faults = ["excluded" if z in exclude else s.fault for z, s in enumerate(sections)]
    good = usable(faults)
    coarse: dict[Pair, CoarseMatch] = {}
    pairs = coarse_pairs(good, settings)
    for k, (a, b) in enumerate(pairs):
        coarse[a, b] = coarse_match(sections[a], sections[b], settings)
        yield StackStep("coarse", count + (k + 1) * count // len(pairs), total)
    for a, b in bridging_pairs(good, coarse):
        coarse[a, b] = coarse_match(sections[a], sections[b], settings)
        yield StackStep("coarse", 2 * count, total)
    affines = solve_coarse(count, coarse, [shape] * count, settings)
    maps = start_maps(affines, sections, settings)
    fine: dict[Pair, FineMatch] = {}
    for again in range(rounds):
        fine = {}
        pairs = fine_pairs(good, settings)
        for k, (a, b) in enumerate(pairs):
            fine[a, b] = fine_match(sections[a], sections[b], maps[a], maps[b], settings, again)
            yield StackStep(f"fine {again + 1}", count * (2 + again) + (k + 1) * count // len(pairs), total)
        maps = solve_fine(maps, fine, settings)
    before: dict[Pair, PairQuality] = {}
    after: dict[Pair, PairQuality] = {}
    for a, b in coarse_pairs(good, settings):
        before[a, b], after[a, b] = measure(sections[a], sections[b], maps[a], maps[b])
        yield StackStep("measure", total - count + b, total)
    rows = judge(maps, faults, before, after, fine)
    return StackAlignment(maps, faults, [s.figures for s in sections], coarse, fine, rows, settings)


def align(stack: npt.NDArray[np.generic], settings: StackSettings | None = None, **options: object) -> StackAlignment:
    """Run :func:`align_steps` to its end."""
    return finish(align_steps(stack, settings or StackSettings(), **options))  # type: ignore[arg-type, unused-ignore]


def render(
    stack: npt.NDArray[np.generic], maps: list[SectionMap], origin: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """The aligned stack ``(z, *size)``, float32, each section read once, linearly; zero where there is none."""
    from scipy.ndimage import map_coordinates

    points = np.stack(
        np.meshgrid(*(o + np.arange(n) for o, n in zip(origin, size, strict=True)), indexing="ij"), axis=-1
    )
    out = np.zeros((len(maps), *size), dtype=np.float32)
    for z, there in enumerate(maps):
        raw = there(points.astype(np.float64))
        out[z] = map_coordinates(np.asarray(stack[z], dtype=np.float32), raw.transpose(2, 0, 1), order=1, cval=0)
    return out
