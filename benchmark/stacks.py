"""Sections warped by known fields, aligned, and scored against the truth.

Run ``python -m benchmark.stacks [--data DIR]``. The sections come from the package's generator, or, where the data are,
from a volume that is continuous by nature (FIB-SEM). Every section is warped by a smooth field of its own and by a
deformation that accumulates along z, is shifted, turned and given another contrast. How that is scored is in
:mod:`napari_stnreg.stacks.quality.ground_truth`; an alignment gives a map for each section, canvas to section.
With ``--stack FILE`` a recorded stack is aligned instead; neighbors are correlated, since its truth is not known.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

import napari_stnreg as sr
from benchmark.stack_peers import PEERS, Map, NotInstalled, align
from napari_stnreg.datasets.section_deformation import SectionDeformation, SmoothField, Tear
from napari_stnreg.datasets.serial_sections import SerialSections
from napari_stnreg.stacks.quality.ground_truth import StackTruth, TruthScores, correlations, score_truth
from napari_stnreg.stacks.runtime.checkpoint import work_folder
from napari_stnreg.stacks.runtime.tasks import TRANSFORMS
from napari_stnreg.stacks.section_transform import SectionTransform

KINDS = ("warped", "still", "missing", "crack", "fold", "dirt", "turned")


@dataclass
class Case:
    """A stack, and where its sections belong."""

    name: str
    truth: StackTruth | RecordedStack
    options: dict[str, object] = field(default_factory=dict)  # what a person would ask for, seeing the stack

    @property
    def raw(self) -> np.ndarray:
        """The sections ``(z, y, x)``, uint8."""
        return np.stack([self.truth[z] for z in range(self.truth.shape[0])])


@dataclass
class WarpedVolume:
    """Slices of a continuous volume, each on a slide of its own; its neurites are not known."""

    pictures: np.ndarray
    deformations: list[SectionDeformation]
    faults: Mapping[int, str]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.pictures.shape

    @property
    def heights(self) -> np.ndarray:
        return np.arange(len(self.pictures), dtype=float)

    def __getitem__(self, z: int) -> np.ndarray:
        return self.pictures[z]

    def deformation(self, z: int) -> SectionDeformation:
        return self.deformations[z]

    def paths(self, first: int, last: int) -> np.ndarray:
        return np.zeros((0, last - first + 1, 2))


def warped(
    tissue: np.ndarray, seed: int, *, name: str, still: bool = False, missing: int | None = None,
    cracked: int | None = None, own: float = 3.0, shift: float = 4.0, turn: float = 0.5, accumulated: float = 0.5,
    opening: float = 16.0,
) -> Case:  # fmt: skip
    """Warp every section of a continuous stack; ``own`` and so on are pixels rms and degrees."""
    rng = np.random.default_rng(seed)
    shape = tissue.shape[1:]
    middle = (np.array(shape) - 1) / 2
    points = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1)
    walk = np.zeros((2, 4, 4))
    raw, deformations = np.empty(tissue.shape, np.uint8), []
    for z, slice_ in enumerate(tissue):
        mine = SmoothField.random(rng, shape, own).values
        walk = walk + SmoothField.random(rng, shape, accumulated).values
        angle, moved = np.deg2rad(rng.normal(0, turn)), rng.normal(0, shift, 2)
        c, s = np.cos(angle), np.sin(angle)
        deformation = SectionDeformation(
            middle, np.array([[c, -s], [s, c]]), moved, SmoothField(mine + walk, shape),
            Tear(tuple(middle), 0.5, opening) if z == cracked else None,
        )  # fmt: skip
        if still:
            deformation = SectionDeformation(middle, np.eye(2), np.zeros(2), SmoothField(np.zeros((2, 4, 4)), shape))
        section = map_coordinates(
            slice_.astype(np.float32), np.moveaxis(deformation.to_tissue(points), -1, 0), order=1, cval=0
        )  # fmt: skip
        if deformation.tear is not None:
            gap = np.abs(deformation.tear.across(points)) < opening / 2
            section[gap] = 235 + rng.normal(0, 2, int(gap.sum()))
        if not still:
            gain, offset = rng.uniform(0.75, 1.1), rng.uniform(-15, 15)
            section = np.where(section > 0, np.clip((section - 128) * gain + 128 + offset, 1, 255), 0)
        if z == missing:
            section[:] = 0
        raw[z] = np.rint(section)
        deformations.append(deformation)
    named = {missing: "missing", cracked: "crack"}
    return Case(name, WarpedVolume(raw, deformations, {z: fault for z, fault in named.items() if z is not None}))


def fibsem(data: Path, axis: int, every: int = 8, count: int = 20, mirrored: bool = True) -> np.ndarray:
    """Slices of the FIB-SEM volume as sections, cut along one of its axes."""
    import tifffile

    volume = np.moveaxis(tifffile.imread(data / "fibsem" / "training_sample2_raw.tif"), axis, 0)
    sections = volume[: every * count : every]
    if mirrored:  # 500 x 500, continued by reflection: the fields are then as smooth as on a large section
        sections = np.pad(sections, ((0, 0), (0, sections.shape[1]), (0, sections.shape[2])), mode="symmetric")
    return np.clip(sections, 1, 255).astype(np.uint8)


def fibsem_cases(data: Path, seed: int) -> Iterator[Case]:
    """Real tissue, every fault that can be put into it."""
    tissue = fibsem(data, seed % 3)
    yield warped(tissue, seed, name="fibsem warped")
    yield warped(tissue, seed, name="fibsem still", still=True)
    yield warped(tissue, seed, name="fibsem missing", missing=9)
    yield warped(tissue, seed, name="fibsem crack", cracked=10)


def generated_cases(seed: int, shape: tuple[int, int, int] = (20, 512, 512)) -> Iterator[Case]:
    """The generator's tissue, every fault once."""
    yield Case("warped", SerialSections(shape, seed))
    yield Case("still", SerialSections(shape, seed, bend=0.0, drift=0.0, shift=0.0, rotation=0.0, stretch=0.0))
    for fault, z in (("missing", 9), ("crack", 10), ("fold", 10), ("dirt", 10)):
        yield Case(fault, SerialSections(shape, seed, faults={z: fault}))
    faults = {5: "mirrored", 9: "reversed", 13: "turned", 16: "far"}
    yield Case("turned", SerialSections(shape, seed, faults=faults), {"mirror": True})


@dataclass(frozen=True)
class RecordedStack:
    """Sections as a microscope recorded them; where they belong is not known."""

    pictures: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sections, rows, columns."""
        return self.pictures.shape

    def __getitem__(self, z: int, /) -> np.ndarray:
        return self.pictures[z]


@dataclass(frozen=True)
class Found:
    """A program's answer: a map for each section, and what it cost in CPU seconds, nothing if that was not measured."""

    transforms: list[Map]
    seconds: float | None = None
    training: float | None = None  # of features, which is not among the seconds


def ours(case: Case, **options: object) -> Found:
    """The package as people run it, through its work files, in one thread; it is stopped when all maps are there."""
    raw, settings = case.raw, sr.StackSettings.parse(**case.options, **options)
    warm_up(settings.features)
    training = None
    with tempfile.TemporaryDirectory(prefix="stnreg-benchmark-") as folder:
        output, begin = Path(folder) / "aligned.zarr", time.process_time()
        steps = sr.align_stack_steps(raw, output, settings, workers=1)
        before = ""
        for now in steps:
            if before == "encoder" != now.stage:
                training = time.process_time() - begin
            if (before := now.stage) == "render":
                break
        seconds = time.process_time() - begin - (training or 0.0)
        with suppress(StopIteration):
            steps.send("stop")
        work = work_folder(output)
        transforms = [SectionTransform.from_arrays(work.get(TRANSFORMS, z)[0]) for z in range(len(raw))]
    return Found(list(transforms), seconds, training)


@cache
def warm_up(features: str) -> None:
    """Load what libraries load on first use, which is not counted; nor is what the peers compile."""
    sr.align_stack(SerialSections((3, 64, 64), 0)[:], features=features, workers=1)


def nothing(case: Case) -> Found:
    """The sections as they are."""
    return Found([lambda p: p] * case.truth.shape[0])


def line(name: str, scores: TruthScores, found: Found) -> str:
    """A row of the table for people."""
    row = scores.row()
    sentence = row.pop("over_straightened", "")
    text = "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    if found.seconds is not None:
        text += f"  s/section {found.seconds / len(found.transforms):.3f}"
    if found.training is not None:
        text += f"  training {found.training:.1f} s"
    return f"{name:34s}{text}" + ("  OVER-STRAIGHTENED" if sentence else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder that holds fibsem; the generator alone without it")
    parser.add_argument("--stack", type=Path, metavar="FILE", help="TIFF of a recorded stack to align instead")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], metavar="CASE", help="warped, 'fibsem crack' and so on")
    parser.add_argument("--programs", nargs="*", default=["nothing", "ours"], choices=["nothing", "ours", *PEERS])
    parser.add_argument("--trends", nargs="*", default=["keep"], metavar="TREND", help="of ours")
    parser.add_argument("--output", type=Path, help="CSV to append the rows to")
    parser.add_argument("options", nargs="*", help="settings as name=value")
    args = parser.parse_args()
    options = dict(text.split("=", 1) for text in args.options)
    if args.stack:
        recorded(args.stack, args.programs, args.trends, options)
        return
    for seed in range(args.seeds):
        for case in chain(generated_cases(seed), fibsem_cases(args.data, seed) if args.data else ()):
            if args.only and case.name not in args.only:
                continue
            for name, found in runs(case, args.programs, args.trends, options):
                scores = score_truth(case.truth, found.transforms)
                print(line(f"{case.name} {seed} {name}", scores, found), flush=True)
                if args.output:
                    each = None if found.seconds is None else found.seconds / len(found.transforms)
                    row = {"case": case.name, "seed": seed, "program": name, "s/section": each, **scores.row()}
                    append(args.output, {**row, "training": found.training})


def runs(case: Case, programs: list[str], trends: list[str], options: dict[str, str]) -> Iterator[tuple[str, Found]]:
    """What every program found on a case, by its name; what cannot be run says so in a sentence."""
    if "nothing" in programs:
        yield "nothing", nothing(case)
    for trend in trends if "ours" in programs else []:
        yield trend, ours(case, trend=trend, **options)
    for peer in [p for p in PEERS if p in programs]:
        raw = case.raw
        try:
            yield peer, Found(*align(peer, raw, [z for z, section in enumerate(raw) if not section.any()]))
        except NotInstalled as reason:
            print(reason, flush=True)


def recorded(path: Path, programs: list[str], trends: list[str], options: dict[str, str]) -> None:
    """Align a recorded stack and print how neighbors correlate then, which is all that can be known."""
    import tifffile

    case = Case(path.stem, RecordedStack(np.maximum(tifffile.imread(path), 1)))
    count = len(case.truth.pictures)
    for name, found in runs(case, programs, trends, options):
        values = [one.correlation for one in correlations(case.truth, found.transforms, range(count)).values()]
        text = f"correlation of neighbors {np.mean(values):.3f}, lowest {np.min(values):.3f}"
        cost = "" if found.seconds is None else f"  s/section {found.seconds / count:.3f}"
        print(f"{case.name:20s}{name:10s}{text}{cost}", flush=True)


def append(path: Path, row: dict[str, object]) -> None:
    """Add a row to a table, with a line of names if it is new."""
    names = ["case", "seed", "program", "s/section", *TruthScores.__dataclass_fields__, "training"]
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, names)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
