"""Tasks of an alignment: read, compute and write one section or one pair; arguments and results are small."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.stacks.matching.coarse import coarse_match
from napari_stnreg.stacks.matching.fine import FineMatch, fine_match
from napari_stnreg.stacks.matching.pair_selection import Pair
from napari_stnreg.stacks.output.canvas import OutputCanvas, displacement_transform, sample_displacement
from napari_stnreg.stacks.output.ome_zarr import SectionWriter
from napari_stnreg.stacks.output.render import render_bands
from napari_stnreg.stacks.preprocessing.artifact_continuity import confirm_artifacts
from napari_stnreg.stacks.preprocessing.features import Extractor, PreparedSection, prepare
from napari_stnreg.stacks.quality.sections import correlate_match, correlate_pair
from napari_stnreg.stacks.runtime.checkpoint import RENDERED, WorkFolder
from napari_stnreg.stacks.section_transform import SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.sources.base import SectionError, StackSource

PREPARED, COARSE, TRANSFORMS, QUALITY = "prepared", "coarse", "transforms", "quality"
CHANCE, BRIDGED_QUALITY, CONFIRMED = "chance", "quality bridged", "artifacts confirmed"
COMPARED, ORDER, EXCHANGED = "order compared", "order", "exchanged"
"""Kinds of results in the work folder."""


def pair_name(pair: Pair) -> str:
    """Name of the results of a pair."""
    return f"{pair[0]:06d}-{pair[1]:06d}"


def pair_of(name: str) -> Pair:
    """Pair of a name that :func:`pair_name` made."""
    a, b = name.split("-")
    return int(a), int(b)


def prepare_section(
    work: WorkFolder,
    source: StackSource,
    masks: StackSource | None,
    z: int,
    settings: StackSettings,
    encoder: Path | None = None,
) -> str:
    """Read and reduce a section and store what matching needs; returns its fault.

    ``encoder`` is the model file for the features of an auto-encoder.
    """
    image, mask, reason = _read(source, masks, z, settings)
    shape = (source.shape[1], source.shape[2])
    extractor = None if encoder is None else _extractor(encoder, encoder.stat().st_mtime_ns)
    found = prepare(image, settings, shape=shape, factor=settings.factor(shape), mask=mask, extractor=extractor)
    fault = ("missing" if z in source.missing else "unreadable") if reason else found.fault
    work.put(PREPARED, z, found.to_arrays(), fault=fault, reason=reason, figures=found.figures)
    return fault


@lru_cache(maxsize=1)
def _extractor(path: Path, _written: int) -> Extractor:
    from napari_stnreg.stacks.preprocessing.encoder import load_extractor

    return load_extractor(path)


def training_section(
    source: StackSource, masks: StackSource | None, z: int, settings: StackSettings
) -> npt.NDArray[np.float32] | None:
    """Read a section to train an auto-encoder on; ``None`` if it cannot be used."""
    image, mask, reason = _read(source, masks, z, settings)
    plain = settings.model_copy(update={"features": "intensity"})
    shape = (source.shape[1], source.shape[2])
    found = prepare(image, plain, shape=shape, factor=settings.factor(shape), mask=mask)
    return None if reason or found.fault else found.image


def _read(
    source: StackSource, masks: StackSource | None, z: int, settings: StackSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None, str]:
    """Read a section at the working resolution with its mask, or the reason why it could not be read."""
    shape = (source.shape[1], source.shape[2])
    factor, reason = settings.factor(shape), ""
    try:
        image = source.read_reduced(z, factor)
    except SectionError as error:
        reason = str(error)
        image = np.full(tuple(-(-n // factor) for n in shape), np.nan, dtype=np.float32)
    mask = None
    if masks is not None and not reason:
        mask = masks.read_reduced(z, factor, nonzero=True) > 0
    return image, mask, reason


@dataclass(frozen=True)
class Outline:
    """Shape, fragments and reduction factor of a prepared section."""

    shape: tuple[int, int]
    fragment_labels: npt.NDArray[np.uint8] | None
    factor: int


def outline(work: WorkFolder, z: int) -> Outline:
    """Outline of a prepared section, without reading its features."""
    facts = work.facts(PREPARED, z)
    several = facts["figures"]["fragments"] > 1
    arrays = work.get_arrays(PREPARED, z, ["fragment_labels", "shape"] if several else ["shape"])
    height, width, factor = (int(n) for n in arrays["shape"])
    return Outline((height, width), arrays["fragment_labels"] if several else None, factor)


def load_prepared(work: WorkFolder, z: int) -> PreparedSection:
    """Load what :func:`prepare_section` stored; the last few sections are cached."""
    file = work.file(PREPARED, z)
    return _prepared(work, z, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=4)
def _prepared(work: WorkFolder, z: int, _written: int) -> PreparedSection:
    arrays, facts = work.get(PREPARED, z)
    return PreparedSection.from_arrays(arrays, facts["fault"], facts["figures"])


def invert_section(work: WorkFolder, z: int) -> None:
    """Invert the contrast of a prepared section."""
    found = load_prepared(work, z).inverted()
    facts = work.facts(PREPARED, z)
    work.put(PREPARED, z, found.to_arrays(), fault=found.fault, reason=facts["reason"], figures=found.figures)


def confirm_section(
    work: WorkFolder,
    z: int,
    neighbors: list[tuple[int, npt.NDArray[np.float64]]],
    settings: StackSettings,
    encoder: Path | None = None,
) -> None:
    """Confirm the artifacts of a prepared section by its neighbors, and store the section again.

    Repeating it changes nothing: what it reads of the neighbors and of the section itself stays as it was.
    """
    section = load_prepared(work, z)
    there = [(load_prepared(work, k), matrix) for k, matrix in neighbors]
    extractor = None if encoder is None else _extractor(encoder, encoder.stat().st_mtime_ns)
    found = confirm_artifacts(section, there, settings, extractor)
    if found is not section:
        reason = work.facts(PREPARED, z)["reason"]
        work.put(PREPARED, z, found.to_arrays(), fault=found.fault, reason=reason, figures=found.figures)
    work.put(CONFIRMED, z)


def match_coarse(work: WorkFolder, pair: Pair, settings: StackSettings) -> None:
    """Match two sections coarsely and store the match."""
    a, b = (load_prepared(work, z) for z in pair)
    work.put(COARSE, pair_name(pair), coarse_match(a, b, settings).to_arrays())


def match_fine(
    work: WorkFolder,
    kind: str,
    pair: Pair,
    transforms: tuple[SectionTransform, SectionTransform],
    settings: StackSettings,
    iteration: int,
    outline: bool,
) -> None:
    """Match two sections finely and store the match under ``kind``."""
    a, b = (load_prepared(work, z) for z in pair)
    work.put(kind, pair_name(pair), fine_match(a, b, *transforms, settings, iteration, outline=outline).to_arrays())


class StoredMatches(Mapping[Pair, FineMatch]):
    """Fine matches of one iteration, each read from its file on access, because all of them may not fit into memory.

    Parameters
    ----------
    work, kind
        Where :func:`match_fine` stored them.
    pairs
        Pairs of section numbers.
    """

    def __init__(self, work: WorkFolder, kind: str, pairs: Iterable[Pair]) -> None:
        self._work, self._kind, self._pairs = work, kind, dict.fromkeys(pairs)

    def without(self, sections: Collection[int]) -> StoredMatches:
        """Return the matches that involve none of some sections."""
        return StoredMatches(self._work, self._kind, [p for p in self._pairs if not set(p) & set(sections)])

    def within(self, segments: Iterable[Iterable[int]]) -> StoredMatches:
        """The matches between sections of one segment."""
        place = {z: k for k, segment in enumerate(segments) for z in segment}
        inside = [(a, b) for a, b in self._pairs if a in place and place[a] == place.get(b)]
        return StoredMatches(self._work, self._kind, inside)

    def __getitem__(self, pair: Pair) -> FineMatch:
        if pair not in self._pairs:
            raise KeyError(pair)
        return FineMatch.from_arrays(self._work.get(self._kind, pair_name(pair))[0])

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


def compare_order(
    work: WorkFolder, pair: Pair, transforms: tuple[SectionTransform, SectionTransform], settings: StackSettings
) -> None:
    """Store how well two sections fit, and whether they are the same image to the last bit."""
    a, b = (load_prepared(work, z) for z in pair)
    found = fine_match(a, b, *transforms, settings)
    same = np.array_equal(a.image, b.image)
    work.put(COMPARED, pair_name(pair), {"level_scores": found.level_scores}, same=same)


def measure_match(
    work: WorkFolder,
    kind: str,
    pair: Pair,
    transforms: tuple[SectionTransform, SectionTransform],
    settings: StackSettings,
    directions: Sequence[int | None] = (None,),
) -> None:
    """Measure how well two sections match, or how well copies match that are shifted in some directions.

    The correlations are stored under ``kind``.
    """
    a, b = (load_prepared(work, z) for z in pair)
    found = [correlate_match(a, b, *transforms, settings, k) for k in directions]
    work.put(kind, pair_name(pair), correlations=found)


def measure_pair(
    work: WorkFolder, kind: str, pair: Pair, transforms: tuple[SectionTransform, SectionTransform]
) -> None:
    """Measure how well two neighbors match before and after the alignment, and store both under ``kind``."""
    a, b = (load_prepared(work, z) for z in pair)
    before, after = correlate_pair(a, b, *transforms)
    work.put(kind, pair_name(pair), before=asdict(before), after=asdict(after))


def render_section(
    work: WorkFolder,
    source: StackSource,
    writer: SectionWriter,
    z: int,
    transform: SectionTransform,
    canvas: OutputCanvas,
    rows: int,
    empty: bool,
) -> None:
    """Write the displacement of a section, and its pixels unless it is empty; then record it as done."""
    field = sample_displacement(transform, canvas)
    writer.write_displacement(z, field)
    if not empty:
        pull_back = displacement_transform(field, canvas)
        try:
            writer.write(z, render_bands(source, z, pull_back, canvas.grid, rows, step=canvas.step))
        except SectionError:
            raise InputError(
                f"Section {z} of '{source.name}' was matched but can no longer be read. Resume when it can."
            ) from None
    writer.sync(z)
    work.put(RENDERED, z)
