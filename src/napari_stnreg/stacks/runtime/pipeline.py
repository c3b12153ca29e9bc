"""The way of an alignment: a plan of tasks, each kept on disk as it ends, so that any run can go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from napari_stnreg.core.errors import FitError, InputError
from napari_stnreg.stacks.matching.coarse import CoarseMatch
from napari_stnreg.stacks.matching.fine import FineMatch, initial_transforms
from napari_stnreg.stacks.matching.landmarks import landmark_match
from napari_stnreg.stacks.matching.pair_selection import (
    Pair,
    anchor_pairs,
    bridging_pairs,
    coarse_pairs,
    fine_pairs,
    usable,
)
from napari_stnreg.stacks.output.canvas import OutputCanvas
from napari_stnreg.stacks.output.ome_zarr import CHUNK, AlignedStack, SectionWriter, create, update_attributes
from napari_stnreg.stacks.preprocessing.encoder import training_steps
from napari_stnreg.stacks.quality.sections import PairQuality, judge
from napari_stnreg.stacks.quality.slope_preservation import SlopeEstimates, estimate_slopes
from napari_stnreg.stacks.runtime import tasks
from napari_stnreg.stacks.runtime.checkpoint import WorkFolder
from napari_stnreg.stacks.runtime.executor import Cluster, Executor, Task
from napari_stnreg.stacks.runtime.job import Request
from napari_stnreg.stacks.runtime.progress import StackProgress
from napari_stnreg.stacks.section_transform import SectionTransform, union_canvas
from napari_stnreg.stacks.solver.pose_graph import solve_poses
from napari_stnreg.stacks.solver.windowed import solve_stack
from napari_stnreg.stacks.sources.base import ArraySource, StackSource, open_stack

NODE_STEP = 4
"""Pixels between the nodes of the displacement; that of the working image where it is coarser."""
ENCODER_SECTIONS = 12
"""Sections, spread over the stack, on which an auto-encoder is trained."""


class Stopped(Exception):
    """The person asked to stop."""


class StackRun:
    """One alignment on its way: stages of tasks, each task kept on disk as it ends.

    Parameters
    ----------
    request
        What was asked for.
    path
        The OME-Zarr to write.
    work
        Where tasks leave what they found.
    executor
        Runs the tasks.
    """

    def __init__(self, request: Request, path: Path, work: WorkFolder, executor: Executor) -> None:
        self.request, self.path, self.work, self.executor = request, path, work, executor
        self.source, self.settings, self.count = request.source, request.settings, request.count
        self.shape = (self.source.shape[1], self.source.shape[2])
        self.reader = self.source
        self.estimate_slopes: SlopeEstimates | None = None
        rounds = self.settings.iterations if self.settings.deform else 0
        self._weights = {"encoder": 4.0} if self.settings.features == "auto-encoder" else {}
        self._weights |= {"prepare": 2.0, "coarse": 2.0, "gaps": 0.0, **{f"fine {r + 1}": 2.0 for r in range(rounds)}}
        self._weights |= {"quality": 1.0, "render": 3.0}
        self._behind = 0.0

    # -- the two ways through

    def whole(self, *, resume: bool) -> Generator[StackProgress, str | None, Any]:
        """Align everything."""
        faults, sections = yield from self._prepared()
        good = usable(faults)
        if len(good) < 2:
            raise FitError(f"Only {len(good)} of {self.count} sections can be used; there is nothing to align.")
        coarse = yield from self._coarse(good)
        affines = solve_poses(self.count, coarse, [self.shape] * self.count, self.settings)
        transforms = initial_transforms(
            affines, cast(Any, sections), self.settings
        )  # it asks for no more than an outline
        transforms, matches = yield from self._fine(transforms, good, "fine")
        for z, one in enumerate(transforms):
            self.work.put(tasks.TRANSFORMS, z, one.arrays())
        found = yield from self._judged(transforms, faults, matches)
        # one that fits nowhere may have been laid anywhere; it must not blow the canvas up
        failed = {one.section for one in found[0] if one.verdict == "failed"}
        canvas = self._canvas(transforms, [z for z in good if z not in failed] or good)
        everything = set(range(self.count))
        done = {z for z in everything if resume and self.work.has(tasks.RENDERED, z)}
        writer = SectionWriter(self.path)
        if not done or not self.path.exists():
            done = set()
            writer = create(self.path, self.source, canvas, canvas.shape, attributes=self._attributes())
        yield from self._render(writer, transforms, faults, canvas, sorted(everything - done))
        update_attributes(self.path, finished=True, verdicts=[one.verdict for one in found[0]])
        return found

    def part(self, *, resume: bool, overwrite: bool) -> Generator[StackProgress, str | None, Any]:
        """Align a range again while all other sections keep their place.

        The kept maps change last: whenever a run is killed, it finds again what it began with.
        """
        assert self.request.only is not None
        first, last = self.request.only
        canvas = AlignedStack(self.path).canvas
        if canvas.input_shape != self.shape or not all(self.work.has(tasks.TRANSFORMS, z) for z in range(self.count)):
            raise InputError(
                f"'{self.path.name}' cannot be aligned again in part: that needs the same stack, and an alignment "
                "that ended and kept its work."
            )
        free, identity = set(range(first, last + 1)), {**self.request.identity(), "only": [first, last]}
        going_on, stale = self.work.part_begun(identity, resume=resume, overwrite=overwrite)
        if not going_on:
            for r in range(self.settings.iterations):
                self.work.forget(f"again {r + 1}")
            known = [file.stem for file in self.work.path.glob(f"{tasks.QUALITY}/*.npz")]
            self.work.forget(tasks.QUALITY, [name for name in known if (free | stale) & set(tasks.pair_of(name))])
            self.work.forget(tasks.RENDERED, free | stale)
            self.work.begin_part(identity, stale)
        faults, sections = yield from self._prepared()
        before = [SectionTransform.from_arrays(self.work.get(tasks.TRANSFORMS, z)[0]) for z in range(self.count)]
        held = {z: one for z, one in enumerate(before) if z not in free}
        good = usable(faults)
        coarse = yield from self._coarse(good, free)
        poses = {z: one.affines[0] for z, one in held.items()}
        affines = solve_poses(self.count, coarse, [self.shape] * self.count, self.settings, held=poses)
        lattice = before[0].lattice
        transforms = [
            SectionTransform.from_affine(
                affines[z], lattice, self.shape, sections[z].fragment_labels, sections[z].factor
            )
            if z in free
            else before[z]
            for z in range(self.count)
        ]
        transforms, matches = yield from self._fine(transforms, good, "again", held)
        found = yield from self._judged(transforms, faults, matches)
        left = [z for z in sorted(free | stale) if not self.work.has(tasks.RENDERED, z)]
        yield from self._render(SectionWriter(self.path), transforms, faults, canvas, left)
        for z in free:
            self.work.put(tasks.TRANSFORMS, z, transforms[z].arrays())
        update_attributes(self.path, verdicts=[one.verdict for one in found[0]])
        self.work.end_part()
        return found

    # -- its parts

    def _prepared(self) -> Generator[StackProgress, str | None, tuple[list[str], list[tasks.Outline]]]:
        """Read what was not read yet; gives each section's fault, and what the maps need to know of it."""
        if isinstance(self.executor, Cluster) and isinstance(self.source, ArraySource):
            self.reader = self._on_disk(self.source)
        encoder = yield from self._encoder()
        call = (self.work, self.reader, self.request.masks)
        missing = [z for z in range(self.count) if not self.work.has(tasks.PREPARED, z)]
        yield from self._stage(
            "prepare", "reading sections", self.count,
            [(z, tasks.prepare_section, (*call, z, self.settings, encoder)) for z in missing],
        )  # fmt: skip
        faults, sections = [], []
        for z in range(self.count):
            fault, outline = tasks.outline(self.work, z)
            faults.append("excluded" if z in self.request.exclude and not fault else fault)
            sections.append(outline)
        return faults, sections

    def _encoder(self) -> Generator[StackProgress, str | None, Path | None]:
        """The file of the auto-encoder whose features are compared: a given one, or one trained on this stack."""
        if self.settings.features != "auto-encoder":
            return None
        path = self.work.path / "encoder.safetensors"
        share = self._weights["encoder"] / sum(self._weights.values())
        if not path.exists() and self.settings.encoder is not None:
            shutil.copyfile(self.settings.encoder, path)
        if path.exists():
            self._behind += share
            return path
        chosen = np.unique(np.linspace(0, self.count - 1, min(self.count, ENCODER_SECTIONS)).round().astype(int))
        seen = (tasks.training_section(self.source, self.request.masks, int(z), self.settings) for z in chosen)
        steps = training_steps([section for section in seen if section is not None])
        with closing(steps):
            while True:
                try:
                    now = next(steps)
                except StopIteration as end:
                    end.value.save(path)
                    break
                message = f"training the auto-encoder, epoch {now.epoch} of {now.epochs}"
                told = StackProgress("encoder", now.epoch, now.epochs, share * now.fraction, message, None, None)
                if (yield told) == "stop":
                    raise Stopped
        self._behind += share
        return path

    def _on_disk(self, source: ArraySource) -> StackSource:
        """A stack in this process's memory as a file that other processes can read."""
        path = self.work.path / "input.npy"
        if not path.exists():
            part = path.with_suffix(".part")
            stored: Any = np.lib.format.open_memmap(part, mode="w+", dtype=source.dtype, shape=source.shape)
            for z in range(self.count):
                stored[z] = source.read(z)
            stored.flush()
            part.rename(path)
        return open_stack(path, spacing=source.spacing, unit=source.unit)

    def _coarse(
        self, good: list[int], free: set[int] | None = None
    ) -> Generator[StackProgress, str | None, dict[Pair, CoarseMatch]]:
        """How near neighbors lie to each other; a second look farther off where the near ones found nothing."""

        def wanted(pairs: Iterable[Pair]) -> list[Pair]:
            return [pair for pair in pairs if free is None or free & set(pair)]

        pairs = wanted(coarse_pairs(good, self.settings))
        yield from self._coarse_stage(pairs)
        found = self._coarse_kept(pairs)
        if farther := wanted(bridging_pairs(good, found)):
            yield from self._coarse_stage(farther, again=True)
            found |= self._coarse_kept(farther)
        if free is not None:  # what is held says how firmly neighbors usually fit, and so how much each match counts
            others = [pair for pair in coarse_pairs(good, self.settings) if pair not in found]
            found |= self._coarse_kept([p for p in others if self.work.has(tasks.COARSE, tasks.pair_name(p))])
        for pair, points in self.request.landmarks.items():
            found[pair] = landmark_match(*points, found.get(pair), self.settings)
        return found

    def _coarse_stage(self, pairs: list[Pair], *, again: bool = False) -> Generator[StackProgress, str | None, None]:
        missing = [pair for pair in pairs if not self.work.has(tasks.COARSE, tasks.pair_name(pair))]
        calls = [(pair[1], tasks.match_coarse, (self.work, pair, self.settings)) for pair in missing]
        message = "looking across gaps" if again else "finding shifts and turns"
        yield from self._stage("gaps" if again else "coarse", message, len(pairs), calls)

    def _coarse_kept(self, pairs: list[Pair]) -> dict[Pair, CoarseMatch]:
        return {p: CoarseMatch.from_arrays(self.work.get(tasks.COARSE, tasks.pair_name(p))[0]) for p in pairs}

    def _fine(
        self,
        transforms: list[SectionTransform],
        good: list[int],
        kind: str,
        held: Mapping[int, SectionTransform] | None = None,
    ) -> Generator[StackProgress, str | None, tuple[list[SectionTransform], Mapping[Pair, FineMatch]]]:
        """Match and solve in turn; of what is held nothing but its matches with others is looked at."""
        keep = held or {}
        far = set(anchor_pairs(good, self.settings))
        pairs = sorted(p for p in far.union(fine_pairs(good, self.settings)) if not (p[0] in keep and p[1] in keep))
        matches: Mapping[Pair, FineMatch] = {}
        for again in range(self.settings.iterations if self.settings.deform else 0):
            folder = f"{kind} {again + 1}"
            missing = [pair for pair in pairs if not self.work.has(folder, tasks.pair_name(pair))]
            yield from self._stage(
                f"fine {again + 1}", f"bending, round {again + 1} of {self.settings.iterations}", len(pairs),
                [
                    (b, tasks.match_fine,
                     (self.work, folder, (a, b), (transforms[a], transforms[b]), self.settings, again, (a, b) in far))
                    for a, b in missing
                ],
            )  # fmt: skip
            matches = tasks.KeptMatches(self.work, folder, pairs)
            transforms = solve_stack(transforms, matches, self.settings, held, self.request.landmarks)
        return transforms, matches

    def _canvas(self, transforms: list[SectionTransform], good: list[int]) -> OutputCanvas:
        step = max(NODE_STEP, self.settings.factor(self.shape))
        if self.settings.canvas == "input":
            return OutputCanvas((0, 0), self.shape, self.shape, step)
        origin, shape = union_canvas([transforms[z] for z in good])
        return OutputCanvas(origin, shape, self.shape, step)

    def _judged(
        self, transforms: list[SectionTransform], faults: list[str], matches: Mapping[Pair, FineMatch]
    ) -> Generator[StackProgress, str | None, Any]:
        """A verdict on every section, figures of every gap, and what a person should be told."""
        pairs = coarse_pairs(usable(faults), self.settings)
        missing = [pair for pair in pairs if not self.work.has(tasks.QUALITY, tasks.pair_name(pair))]
        yield from self._stage(
            "quality", "measuring", len(pairs),
            [(b, tasks.measure_pair, (self.work, (a, b), (transforms[a], transforms[b]))) for a, b in missing],
        )  # fmt: skip
        facts = {pair: self.work.facts(tasks.QUALITY, tasks.pair_name(pair)) for pair in pairs}
        before, after = (
            {pair: PairQuality(**known[when]) for pair, known in facts.items()} for when in ("before", "after")
        )
        verdicts = judge(transforms, faults, before, after, matches)
        good = usable(faults)
        gaps = [
            {
                "section": a,
                "next": b,
                "correlation_before": before[a, b].correlation,
                "correlation_after": after[a, b].correlation,
                "worst_after": after[a, b].worst,
                "overlap": after[a, b].overlap,
            }
            for a, b in pairwise(good)
            if (a, b) in after
        ]
        self.estimate_slopes = estimate_slopes(transforms, matches)
        sentences = (self.source.sentence, self.estimate_slopes.sentence(self.settings.trend))
        return verdicts, gaps, [sentence for sentence in sentences if sentence]

    def _render(
        self,
        writer: SectionWriter,
        transforms: list[SectionTransform],
        faults: list[str],
        canvas: OutputCanvas,
        sections: list[int],
    ) -> Generator[StackProgress, str | None, None]:
        empty = [fault in ("missing", "unreadable") for fault in faults]
        yield from self._stage(
            "render", "rendering sections", self.count,
            [
                (z, tasks.render_section, (self.work, self.reader, writer, z, transforms[z], canvas, CHUNK, empty[z]))
                for z in sections
            ],
        )  # fmt: skip

    def _attributes(self) -> dict[str, Any]:
        return {
            "stack": self.source.identity(),
            "settings": self.settings.model_dump(),
            "finished": False,
        }

    def _stage(
        self, stage: str, message: str, total: int, calls: list[tuple[int, Callable[..., Any], tuple[Any, ...]]]
    ) -> Generator[StackProgress, str | None, None]:
        """Run the tasks of a stage that are not done yet; raises Stopped when asked to."""
        share = self._weights[stage] / sum(self._weights.values())
        done = total - len(calls)
        output = self.path if stage == "render" else None
        plan = (Task(f"{stage} {number}", function, words) for number, (_, function, words) in enumerate(calls))

        def told(section: int | None) -> StackProgress:
            fraction = self._behind + share * done / max(total, 1)
            return StackProgress(stage, done, total, min(fraction, 1.0), message, section, output)

        if (yield told(None)) == "stop":
            raise Stopped
        with closing(self.executor.run(plan)) as ended:  # type: ignore[type-var]
            for name, _ in ended:
                done += 1
                if (yield told(calls[int(name.rsplit(" ", 1)[1])][0])) == "stop":
                    raise Stopped
        self._behind += share
