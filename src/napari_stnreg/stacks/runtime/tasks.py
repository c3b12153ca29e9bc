"""What an alignment does with one section or one pair: read, compute, write; nothing large goes in or comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from napari_stnreg.stacks.preprocessing.features import Extractor, PreparedSection, prepare
from napari_stnreg.stacks.quality.sections import measure
from napari_stnreg.stacks.runtime.checkpoint import WorkFolder
from napari_stnreg.stacks.section_transform import SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.sources.base import SectionError, StackSource

PREPARED, COARSE, TRANSFORMS, QUALITY, RENDERED = "prepared", "coarse", "transforms", "quality", "rendered"


def pair_name(pair: tuple[int, int]) -> str:
    """The name under which the results of a pair are kept."""
    return f"{pair[0]:06d}-{pair[1]:06d}"


def pair_of(name: str) -> tuple[int, int]:
    """The pair of a name."""
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
    """Read a section, shrink it and keep what matching needs of it; gives its fault.

    The auto-encoder's features are made with the model in the file ``encoder``.
    """
    image, mask, reason = _read(source, masks, z, settings)
    shape = (source.shape[1], source.shape[2])
    extractor = None if encoder is None else _extractor(encoder, encoder.stat().st_mtime_ns)
    found = prepare(image, settings, shape=shape, factor=settings.factor(shape), mask=mask, extractor=extractor)
    fault = "unreadable" if reason else found.fault
    work.put(PREPARED, z, found.arrays(), fault=fault, reason=reason, figures=found.figures)
    return fault


@lru_cache(maxsize=1)
def _extractor(path: Path, _written: int) -> Extractor:
    from napari_stnreg.stacks.preprocessing.encoder import load_extractor

    return load_extractor(path)


def training_section(
    source: StackSource, masks: StackSource | None, z: int, settings: StackSettings
) -> npt.NDArray[np.float32] | None:
    """A section as an auto-encoder sees it, to train one on; ``None`` where there is little to see."""
    image, mask, reason = _read(source, masks, z, settings)
    plain = settings.model_copy(update={"features": "intensity"})
    shape = (source.shape[1], source.shape[2])
    found = prepare(image, plain, shape=shape, factor=settings.factor(shape), mask=mask)
    return None if reason or found.fault else found.image


def _read(
    source: StackSource, masks: StackSource | None, z: int, settings: StackSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None, str]:
    """A section at the working resolution, its mask, and why it could not be read."""
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
    """What a map needs to know of a section: its shape, its pieces, and how far it was shrunk."""

    shape: tuple[int, int]
    fragment_labels: npt.NDArray[np.uint8] | None
    factor: int


def outline(work: WorkFolder, z: int) -> tuple[str, Outline]:
    """Fault and outline of a prepared section, without its features."""
    facts = work.facts(PREPARED, z)
    several = facts["figures"]["fragments"] > 1
    arrays = work.some(PREPARED, z, ["fragment_labels", "shape"] if several else ["shape"])
    height, width, factor = (int(n) for n in arrays["shape"])
    return facts["fault"], Outline((height, width), arrays["fragment_labels"] if several else None, factor)


def load_prepared(work: WorkFolder, z: int) -> PreparedSection:
    """What :func:`prepare_section` kept; pairs follow each other, so the last few sections are held."""
    file = work.file(PREPARED, z)
    return _prepared(work, z, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=4)
def _prepared(work: WorkFolder, z: int, _written: int) -> PreparedSection:
    arrays, facts = work.get(PREPARED, z)
    return PreparedSection.from_arrays(arrays, facts["fault"], facts["figures"])


def match_coarse(work: WorkFolder, pair: tuple[int, int], settings: StackSettings) -> None:
    """Find how the second section of a pair lies to the first."""
    a, b = (load_prepared(work, z) for z in pair)
    work.put(COARSE, pair_name(pair), coarse_match(a, b, settings).arrays())


def match_fine(
    work: WorkFolder,
    kind: str,
    pair: tuple[int, int],
    transforms: tuple[SectionTransform, SectionTransform],
    settings: StackSettings,
    again: int,
    outline: bool,
) -> None:
    """Find how the vectors of a pair's sections should differ."""
    a, b = (load_prepared(work, z) for z in pair)
    work.put(kind, pair_name(pair), fine_match(a, b, *transforms, settings, again, outline=outline).arrays())


class KeptMatches(Mapping[Pair, FineMatch]):
    """The matches of one round, each read from its file when it is asked for: all of them would not fit into memory.

    Parameters
    ----------
    work, kind
        Where :func:`match_fine` left them.
    pairs
        Which.
    """

    def __init__(self, work: WorkFolder, kind: str, pairs: Iterable[Pair]) -> None:
        self._work, self._kind, self._pairs = work, kind, dict.fromkeys(pairs)

    def __getitem__(self, pair: Pair) -> FineMatch:
        if pair not in self._pairs:
            raise KeyError(pair)
        return FineMatch.from_arrays(self._work.get(self._kind, pair_name(pair))[0])

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


def measure_pair(
    work: WorkFolder, pair: tuple[int, int], transforms: tuple[SectionTransform, SectionTransform]
) -> None:
    """Find how well two neighbors fit, before and after."""
    a, b = (load_prepared(work, z) for z in pair)
    before, after = measure(a, b, *transforms)
    work.put(QUALITY, pair_name(pair), before=asdict(before), after=asdict(after))


def render_section(
    work: WorkFolder,
    source: StackSource,
    writer: SectionWriter,
    z: int,
    section_map: SectionTransform,
    canvas: OutputCanvas,
    rows: int,
    empty: bool,
) -> None:
    """Write a section's displacement, and its pixels unless there are none."""
    field = sample_displacement(section_map, canvas)
    writer.write_displacement(z, field)
    if not empty:
        transform = displacement_transform(field, canvas)
        try:
            writer.write(z, render_bands(source, z, transform, canvas.grid, rows, step=canvas.step))
        except SectionError:
            # It could be read before and cannot be now: the person must know, as it was matched.
            raise InputError(f"Section {z} of '{source.name}' can no longer be read; resume when it can.") from None
    work.put(RENDERED, z)
