"""Stages of an alignment: prepare, coarse, fine, quality, render; every task is stored on disk as it ends."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from napari_stnreg.core.atomic_io import atomic_path
from napari_stnreg.core.errors import FitError, InputError
from napari_stnreg.stacks.matching.coarse import PARAMETERS as COARSE_PARAMETERS
from napari_stnreg.stacks.matching.coarse import CoarseMatch
from napari_stnreg.stacks.matching.fine import FineMatch, initial_transforms
from napari_stnreg.stacks.matching.landmarks import landmark_match
from napari_stnreg.stacks.matching.pair_selection import (
    Pair,
    bridging_pairs,
    find_inverted,
    find_swapped,
    fine_pairs,
    long_range_pairs,
    minority,
    neighbor_pairs,
    usable,
)
from napari_stnreg.stacks.output.canvas import OutputCanvas
from napari_stnreg.stacks.output.ome_zarr import CHUNK, SectionWriter, create, read_attributes, update_attributes
from napari_stnreg.stacks.preprocessing.encoder import training_steps
from napari_stnreg.stacks.quality.sections import (
    CHANCE_DIRECTIONS,
    REPEATED,
    UNMATCHED,
    PairQuality,
    assess_sections,
    chance_limit,
    describe_breaks,
    describe_faults,
    judge_gaps,
    split_into_segments,
)
from napari_stnreg.stacks.quality.sections import PARAMETERS as QUALITY_PARAMETERS
from napari_stnreg.stacks.quality.slope_preservation import SlopeEstimates, estimate_slopes
from napari_stnreg.stacks.runtime import tasks
from napari_stnreg.stacks.runtime.checkpoint import RENDERED, WorkFolder
from napari_stnreg.stacks.runtime.executor import Cluster, Executor, Task
from napari_stnreg.stacks.runtime.job import AlignmentJob
from napari_stnreg.stacks.runtime.progress import StackProgress
from napari_stnreg.stacks.section_transform import SectionTransform, union_canvas
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.pose_graph import lay_as_recorded, place_between, solve_poses
from napari_stnreg.stacks.solver.windowed import solve_stack
from napari_stnreg.stacks.sources.base import ArraySource, StackSource, reorder_sections
from napari_stnreg.stacks.sources.open import open_stack

NODE_SPACING_PX = 4
"""Smallest distance of the nodes of the displacement; the reduction factor of the sections if that is larger."""
ENCODER_SECTIONS = 12
"""Number of sections, spread over the stack, on which an auto-encoder is trained."""
STAGE_WEIGHTS = {
    "encoder": 4.0, "order": 2.0, "prepare": 2.0, "coarse": 2.0, "gaps": 0.0, "fine": 2.0, "quality": 1.0,
    "render": 3.0,
}  # fmt: skip
"""Rough duration of the stages relative to each other, for the progress of the whole run."""
QUALITY_PASSES = 3
"""Largest number of passes of the quality stage: neighbors, chance, neighbors again around unmatched sections."""


class Stopped(Exception):
    """The run was stopped by its caller."""


class AlignmentPipeline:
    """One alignment: stages of tasks, each task stored on disk as it ends.

    Parameters
    ----------
    job
        Inputs and settings.
    path
        The OME-Zarr folder to write.
    work
        Folder of intermediate results.
    executor
        Runs the tasks.
    """

    def __init__(self, job: AlignmentJob, path: Path, work: WorkFolder, executor: Executor) -> None:
        self.job, self.path, self.work, self.executor = job, path, work, executor
        self.source, self.settings, self.count = job.source, job.settings, job.count
        self.shape = (self.source.shape[1], self.source.shape[2])
        self.reader = self.source
        self.slopes: SlopeEstimates | None = None
        self.requested, self.order, self._repeats = job, list(range(job.count)), dict[int, int]()
        self._encoder: Path | None = None
        self.iterations = self.settings.iterations if self.settings.deform else 0
        stages = ["encoder"] if self.settings.features == "auto-encoder" else []
        stages += ["order"] if self.settings.reorder and job.section_range is None else []
        stages += ["prepare", "coarse", "gaps", *(f"fine {k + 1}" for k in range(self.iterations)), "quality", "render"]
        weights = {stage: STAGE_WEIGHTS[stage.split()[0]] for stage in stages}
        self._fractions = {stage: weight / sum(weights.values()) for stage, weight in weights.items()}
        self._completed = 0.0
        self._passes = {"quality": QUALITY_PASSES}

    # -- entry points

    def align_all(self, *, resume: bool) -> Generator[StackProgress, str | None, Any]:
        """Align all sections; returns verdicts, gaps, warnings and segments."""
        self._share_input()
        if self.settings.reorder:
            yield from self._find_order()
        faults = yield from self._prepare()
        good = usable(faults)
        if len(good) < 2:
            raise FitError(f"Only {len(good)} of {self.count} sections can be used. There is nothing to align.")
        coarse = yield from self._match_coarse(good)
        sections = yield from self._confirm_artifacts(good, coarse)
        affines = solve_poses(self.count, coarse, [self.shape] * self.count, self.settings)
        transforms = initial_transforms(affines, cast(Any, sections), self.settings)  # outlines are enough
        transforms, matches = yield from self._match_fine(transforms, good, "fine")
        transforms, found = yield from self._judge(transforms, faults, matches)
        for z, one in enumerate(transforms):
            self.work.put(tasks.TRANSFORMS, z, one.to_arrays())
        # A section that fits nowhere may be anywhere; it must not enlarge the canvas.
        failed = {one.section for one in found[0] if one.verdict == "failed"}
        canvas = self._canvas(transforms, [z for z in good if z not in failed] or good)
        everything = set(range(self.count))
        done = {z for z in everything if resume and self.work.has(RENDERED, z)}
        writer = SectionWriter(self.path)
        if not done or not self.path.exists():
            done = set()
            self.work.forget(RENDERED)
            writer = create(self.path, self.source, canvas, canvas.shape, attributes=self._attributes())
        yield from self._render(writer, transforms, faults, canvas, sorted(everything - done))
        update_attributes(self.path, finished=True, verdicts=[one.verdict for one in found[0]])
        return found

    def align_range(self, *, resume: bool, overwrite: bool) -> Generator[StackProgress, str | None, Any]:
        """Align a range of sections again while all others stay; returns verdicts, gaps, warnings and segments.

        The stored transforms change last, so that a killed run finds what it started from.
        """
        assert self.job.section_range is not None
        first, last = self.job.section_range
        if not self.path.exists():
            raise InputError(f"'{self.path}' does not exist. A range is aligned again within a finished alignment.")
        canvas = OutputCanvas.from_dict(read_attributes(self.path))
        stored = all(self.work.has(tasks.TRANSFORMS, z) for z in range(self.count))
        if canvas.input_shape != self.shape or not stored:
            raise InputError(
                f"A range of '{self.path.name}' cannot be aligned again. This needs the same stack, and a finished "
                "alignment that was made with --keep-work."
            )
        free, identity = set(range(first, last + 1)), {**self.requested.identity(), "section_range": [first, last]}
        resumed, stale = self.work.check_range(identity, resume=resume, overwrite=overwrite)
        if not resumed:
            for k in range(self.settings.iterations):
                self.work.forget(f"range {k + 1}")
            changed = [name for name in self.work.names(tasks.QUALITY) if (free | stale) & set(tasks.pair_of(name))]
            self.work.forget(tasks.QUALITY, changed)
            self.work.forget(tasks.BRIDGED_QUALITY)
            self.work.forget(f"{tasks.EXCHANGED} quality")
            self.work.forget(RENDERED, free | stale)
            self.work.begin_range(identity, stale)
        update_attributes(self.path, finished=False)
        self._share_input()
        self._use_order()
        faults = yield from self._prepare()
        before = [SectionTransform.from_arrays(self.work.get(tasks.TRANSFORMS, z)[0]) for z in range(self.count)]
        fixed = {z: one for z, one in enumerate(before) if z not in free}
        good = usable(faults)
        coarse = yield from self._match_coarse(good, free)
        sections = yield from self._confirm_artifacts(good, coarse)
        poses = {z: one.affines[0] for z, one in fixed.items()}
        affines = solve_poses(self.count, coarse, [self.shape] * self.count, self.settings, fixed=poses)
        lattice = before[0].lattice
        transforms = [
            SectionTransform.from_affine(
                affines[z], lattice, self.shape, sections[z].fragment_labels, sections[z].factor
            )
            if z in free
            else before[z]
            for z in range(self.count)
        ]
        transforms, matches = yield from self._match_fine(transforms, good, "range", fixed)
        transforms, found = yield from self._judge(transforms, faults, matches, fixed)
        left = [z for z in sorted(free | stale) if not self.work.has(RENDERED, z)]
        yield from self._render(SectionWriter(self.path), transforms, faults, canvas, left)
        for z in free:
            self.work.put(tasks.TRANSFORMS, z, transforms[z].to_arrays())
        update_attributes(self.path, finished=True, verdicts=[one.verdict for one in found[0]])
        self.work.end_range()
        return found

    # -- stages

    def _prepare(self) -> Generator[StackProgress, str | None, list[str]]:
        """Prepare the sections that are not prepared yet; returns the faults of all sections."""
        self._encoder = self._encoder or (yield from self._encoder_file())
        call = (self.work, self.reader, self.job.masks)
        missing = [z for z in range(self.count) if not self.work.has(tasks.PREPARED, z)]
        yield from self._stage(
            "prepare", "reading sections", self.count,
            [(z, tasks.prepare_section, (*call, z, self.settings, self._encoder)) for z in missing],
        )  # fmt: skip
        faults = [self.work.facts(tasks.PREPARED, z)["fault"] for z in range(self.count)]
        faults = ["excluded" if z in self.job.exclude and not fault else fault for z, fault in enumerate(faults)]
        return [
            f"{REPEATED} {self._repeats[z]}" if z in self._repeats and not fault else fault
            for z, fault in enumerate(faults)
        ]

    def _find_order(self) -> Generator[StackProgress, str | None, None]:
        """Find swapped neighbors and repeated sections, and go on with the corrected order.

        The sections are matched in the order of the input first. What is stored of sections that do not move is used
        again.
        """
        if not self.work.has(tasks.ORDER, tasks.ORDER):
            self._passes |= dict.fromkeys(("prepare", "coarse", "gaps", "order"), 2)
            good = usable((yield from self._prepare()))
            coarse = yield from self._match_coarse(good)
            settings = self.settings.model_copy(update={"deform": True, "neighbors": 2})
            poses = solve_poses(self.count, coarse, [self.shape] * self.count, settings)
            outlines = [tasks.outline(self.work, z) for z in range(self.count)]
            transforms = initial_transforms(poses, cast(Any, outlines), settings)
            facts = yield from self._compare(fine_pairs(good, settings), transforms, settings)
            repeats: dict[int, int] = {}
            for a, b in neighbor_pairs(good):
                if facts[a, b]["same"]:
                    repeats[b] = repeats.get(a, a)
            kept = [z for z in good if z not in repeats]
            facts = yield from self._compare(fine_pairs(kept, settings), transforms, settings)
            scores = {p: self.work.get(tasks.COMPARED, tasks.pair_name(p))[0]["level_scores"] for p in facts}
            swapped = yield from self._find_swapped(kept, scores, transforms, "order")
            order, moved = list(range(self.count)), {z for pair in swapped for z in pair}
            for a, b in swapped:
                order[a], order[b] = b, a
            # Matches first: a section that is read again must not meet a match of its earlier contrast.
            changed = [name for name in self.work.names(tasks.COARSE) if moved & set(tasks.pair_of(name))]
            self.work.forget(tasks.COARSE, changed)
            self.work.forget(tasks.PREPARED, moved)
            self.work.put(tasks.ORDER, tasks.ORDER, order=order, repeats=list(repeats.items()))
        self._use_order()

    def _compare(
        self, pairs: list[Pair], transforms: list[SectionTransform], settings: StackSettings
    ) -> Generator[StackProgress, str | None, dict[Pair, dict[str, Any]]]:
        """Compare pairs of sections at the positions of the coarse matches."""
        missing = [pair for pair in pairs if not self.work.has(tasks.COMPARED, tasks.pair_name(pair))]
        yield from self._stage(
            "order", "checking the order of the sections", len(pairs),
            [
                (b, tasks.compare_order, (self.work, (a, b), (transforms[a], transforms[b]), settings))
                for a, b in missing
            ],
        )  # fmt: skip
        return {pair: self.work.facts(tasks.COMPARED, tasks.pair_name(pair)) for pair in pairs}

    def _use_order(self) -> None:
        """Show every later stage the sections in the stored order, if there is one."""
        if not self.work.has(tasks.ORDER, tasks.ORDER):
            return
        facts = self.work.facts(tasks.ORDER, tasks.ORDER)
        self.order = facts["order"]
        place = {raw: z for z, raw in enumerate(self.order)}
        self._repeats = {place[z]: place[first] for z, first in facts["repeats"]}
        self.job = self.requested.reordered(self.order)
        self.source, self.settings = self.job.source, self.job.settings
        self.reader = reorder_sections(self.reader, self.order)

    def _describe_order(self) -> str:
        """Describe which sections were exchanged, and which are copies."""
        found = [
            f"Sections {z} and {raw} were swapped: the aligned stack shows section {raw} of the input as section {z}, "
            f"and section {z} as section {raw}."
            for z, raw in enumerate(self.order)
            if z < raw
        ]
        found += [
            f"Section {z} is the same image as section {first}: it keeps its place, is not matched, and is moved like "
            f"section {first}."
            for z, first in self._repeats.items()
        ]
        return " ".join(found)

    def _confirm_artifacts(
        self, good: list[int], matches: Mapping[Pair, CoarseMatch]
    ) -> Generator[StackProgress, str | None, list[tasks.Outline]]:
        """Confirm dirt and cracks by the neighbors; returns the outlines of all sections."""
        near: dict[int, dict[int, Any]] = {z: {} for z in good}
        for (a, b), match in matches.items():
            if match.confidence >= COARSE_PARAMETERS.min_confidence and a in near and b in near:
                near[a][b], near[b][a] = match.matrix, np.linalg.inv(match.matrix)
        calls = []
        for z in good:
            figures = self.work.facts(tasks.PREPARED, z)["figures"]
            if self.work.has(tasks.CONFIRMED, z) or not (figures["dirt"] > 0 or figures["fragments"] > 1):
                continue
            sides = [max((k for k in near[z] if k < z), default=z), min((k for k in near[z] if k > z), default=z)]
            chosen = [(k, near[z][k]) for k in sides if k != z]
            calls.append((z, tasks.confirm_section, (self.work, z, chosen, self.settings, self._encoder)))
        yield from self._stage("gaps", "comparing dirt and cracks with neighbors", len(calls), calls)
        return [tasks.outline(self.work, z) for z in range(self.count)]

    def _encoder_file(self) -> Generator[StackProgress, str | None, Path | None]:
        """File of the auto-encoder whose features are compared: copied, or trained on this stack."""
        if self.settings.features != "auto-encoder":
            return None
        path = self.work.path / "encoder.safetensors"
        fraction = self._fractions["encoder"]
        if not path.exists() and self.settings.encoder is not None:
            with atomic_path(path) as part:
                part.write_bytes(Path(self.settings.encoder).read_bytes())
        if not path.exists():
            chosen = np.unique(np.linspace(0, self.count - 1, min(self.count, ENCODER_SECTIONS)).round().astype(int))
            found = (tasks.training_section(self.source, self.job.masks, int(z), self.settings) for z in chosen)
            steps = training_steps([section for section in found if section is not None])
            with closing(steps):
                while True:
                    try:
                        now = next(steps)
                    except StopIteration as end:
                        end.value.save(path)
                        break
                    message = f"training the auto-encoder, epoch {now.epoch} of {now.epochs}"
                    progress = StackProgress("encoder", now.epoch, now.epochs, fraction * now.fraction, message)
                    if (yield progress) == "stop":
                        raise Stopped
        self._completed += fraction
        return path

    def _share_input(self) -> None:
        """Write a stack that is in memory for the other processes of a cluster."""
        if isinstance(self.executor, Cluster) and isinstance(self.source, ArraySource):
            self.reader = self._write_input(self.source)

    def _write_input(self, source: ArraySource) -> StackSource:
        """Write a stack that is in memory to a file that other processes can read."""
        path = self.work.path / "input.npy"
        if not path.exists():
            with atomic_path(path) as part:
                stored: Any = np.lib.format.open_memmap(part, mode="w+", dtype=source.dtype, shape=source.shape)
                for z in range(self.count):
                    stored[z] = source.read(z)
                stored.flush()
        return open_stack(path, spacing=source.spacing, unit=source.unit)

    def _match_coarse(
        self, good: list[int], free: set[int] | None = None
    ) -> Generator[StackProgress, str | None, dict[Pair, CoarseMatch]]:
        """Match neighbors coarsely, then pairs across gaps where neighbors do not match.

        With ``free``, only pairs that involve these sections are matched.
        """

        def involved(pairs: Iterable[Pair]) -> list[Pair]:
            return [pair for pair in pairs if free is None or free & set(pair)]

        pairs = involved(neighbor_pairs(good))
        yield from self._coarse_stage("coarse", "matching neighbors", pairs)
        found = self._coarse_matches(pairs)
        if farther := involved(bridging_pairs(good, found)):
            yield from self._coarse_stage("gaps", "matching across gaps", farther)
            found |= self._coarse_matches(farther)
        if inverted := find_inverted(found) & (set(good) if free is None else free):
            again = [pair for pair in found if inverted & set(pair)]
            self.work.forget(tasks.COARSE, map(tasks.pair_name, again))
            for z in sorted(inverted):
                tasks.invert_section(self.work, z)
            yield from self._coarse_stage("gaps", "matching inverted sections", again)
            found |= self._coarse_matches(again)
        if free is not None:  # the fixed sections show how well neighbors usually fit, and so the weight of a match
            others = [pair for pair in neighbor_pairs(good) if pair not in found]
            found |= self._coarse_matches([p for p in others if self.work.has(tasks.COARSE, tasks.pair_name(p))])
        for pair, points in self.job.landmarks.items():
            found[pair] = landmark_match(*points, found.get(pair), self.settings)
        return found

    def _coarse_stage(self, stage: str, message: str, pairs: list[Pair]) -> Generator[StackProgress, str | None, None]:
        missing = [pair for pair in pairs if not self.work.has(tasks.COARSE, tasks.pair_name(pair))]
        calls = [(pair[1], tasks.match_coarse, (self.work, pair, self.settings)) for pair in missing]
        yield from self._stage(stage, message, len(pairs), calls)

    def _coarse_matches(self, pairs: list[Pair]) -> dict[Pair, CoarseMatch]:
        return {p: CoarseMatch.from_arrays(self.work.get(tasks.COARSE, tasks.pair_name(p))[0]) for p in pairs}

    def _match_fine(
        self,
        transforms: list[SectionTransform],
        good: list[int],
        kind: str,
        fixed: Mapping[int, SectionTransform] | None = None,
    ) -> Generator[StackProgress, str | None, tuple[list[SectionTransform], Mapping[Pair, FineMatch]]]:
        """Alternate between matching and solving; pairs of fixed sections are skipped."""
        keep = fixed or {}
        far = set(long_range_pairs(good, self.settings))
        pairs = sorted(p for p in far.union(fine_pairs(good, self.settings)) if not (p[0] in keep and p[1] in keep))
        matches: Mapping[Pair, FineMatch] = {}
        for k in range(self.iterations):
            folder = f"{kind} {k + 1}"
            missing = [pair for pair in pairs if not self.work.has(folder, tasks.pair_name(pair))]
            yield from self._stage(
                f"fine {k + 1}", f"fine matching, iteration {k + 1} of {self.iterations}", len(pairs),
                [
                    (b, tasks.match_fine,
                     (self.work, folder, (a, b), (transforms[a], transforms[b]), self.settings, k, (a, b) in far))
                    for a, b in missing
                ],
            )  # fmt: skip
            matches = tasks.StoredMatches(self.work, folder, pairs)
            transforms = solve_stack(transforms, matches, self.settings, fixed, self.job.landmarks)
        return transforms, matches

    def _canvas(self, transforms: list[SectionTransform], good: list[int]) -> OutputCanvas:
        step = max(NODE_SPACING_PX, self.settings.factor(self.shape))
        if self.settings.canvas == "input":
            return OutputCanvas((0, 0), self.shape, self.shape, step)
        origin, shape = union_canvas([transforms[z] for z in good])
        return OutputCanvas(origin, shape, self.shape, step)

    def _judge(
        self,
        transforms: list[SectionTransform],
        faults: list[str],
        matches: Mapping[Pair, FineMatch],
        fixed: Mapping[int, SectionTransform] | None = None,
    ) -> Generator[StackProgress, str | None, Any]:
        """Return the transforms, and the verdicts on the sections, figures of the gaps, warnings and segments.

        A single section that fits neither neighbor is placed between them.
        """
        good, done = usable(faults), self._completed + self._fractions["quality"]
        neighbors, everything, as_matched = neighbor_pairs(good), matches, transforms
        before, after = yield from self._measure(tasks.QUALITY, transforms, good)
        chance = yield from self._measure_chance(transforms, neighbors)
        judged = judge_gaps(after, chance)
        segments = split_into_segments(good, judged)
        single = {one[0] for one in segments if len(one) == 1} - set(fixed or {})
        if single and 2 * len(single) <= len(good):  # most sections cannot be the exception
            faults = [UNMATCHED if z in single else fault for z, fault in enumerate(faults)]
            if isinstance(matches, tasks.StoredMatches):
                matches = matches.without(single)
                transforms = solve_stack(transforms, matches, self.settings, fixed, self.job.landmarks)
            transforms, good = place_between(transforms, single), usable(faults)
            before, after = yield from self._measure(tasks.BRIDGED_QUALITY, transforms, good)
            judged = judge_gaps(after, chance)
            segments = split_into_segments(good, judged)
        if len(segments) > 1 and isinstance(matches, tasks.StoredMatches):
            matches = matches.within(segments)
            if not fixed and not self.job.landmarks and self.settings.reference is None:
                # neither a chance match across a break, nor its tension, may move a part of the stack
                transforms = solve_stack(transforms, matches, self.settings)
                transforms = lay_as_recorded(transforms, segments)
                placed = {z for segment in segments for z in segment}
                transforms = place_between(transforms, set(range(self.count)) - placed)
        scores = {pair: everything[pair].level_scores for pair in everything}
        swapped = yield from self._find_swapped(good, scores, as_matched, "quality", chance)
        self._completed = done
        transforms = [
            transforms[self._repeats[z]] if faults[z].startswith(REPEATED) and z not in (fixed or {}) else one
            for z, one in enumerate(transforms)
        ]
        verdicts = assess_sections(transforms, faults, before, after, matches, judged, self.order)
        limit = chance_limit(chance)
        gaps = [
            {
                "section": a,
                "next": b,
                "verdict": judged[a, b],
                "correlation_before": before[a, b].correlation,
                "correlation_after": after[a, b].correlation,
                "chance": limit,
                "worst_after": after[a, b].worst,
                "overlap": after[a, b].overlap,
            }
            for a, b in pairwise(good)
            if (a, b) in after
        ]
        self.slopes = estimate_slopes(transforms, matches)
        coarse = self._coarse_matches([p for p in neighbors if self.work.has(tasks.COARSE, tasks.pair_name(p))])
        known = {z for z in good if self.work.facts(tasks.PREPARED, z)["figures"].get("inverted")}
        # contrasts do not compare across a break
        inverted = [z for segment in segments for z in sorted(minority(segment, known))]
        warnings = (
            describe_breaks(segments, after),
            self._describe_order(),
            describe_faults(
                transforms,
                good,
                inverted,
                before,
                swapped,
                self.settings.motion,
                coarse,
                deformed=self.settings.deform,
            ),
            self.requested.source.warning,  # a reordered view has no notes of its own
            self.slopes.warning(self.settings.trend),
        )
        return transforms, (verdicts, gaps, [sentence for sentence in warnings if sentence], segments)

    def _measure(
        self, kind: str, transforms: list[SectionTransform], good: list[int]
    ) -> Generator[StackProgress, str | None, tuple[dict[Pair, PairQuality], dict[Pair, PairQuality]]]:
        """Correlations of neighboring usable sections before and after alignment."""
        pairs = neighbor_pairs(good)
        missing = [pair for pair in pairs if not self.work.has(kind, tasks.pair_name(pair))]
        yield from self._stage(
            "quality", "measuring quality", len(pairs),
            [(b, tasks.measure_pair, (self.work, kind, (a, b), (transforms[a], transforms[b]))) for a, b in missing],
        )  # fmt: skip
        facts = {pair: self.work.facts(kind, tasks.pair_name(pair)) for pair in pairs}
        before, after = (
            {pair: PairQuality(**known[when]) for pair, known in facts.items()} for when in ("before", "after")
        )
        return before, after

    def _measure_chance(
        self, transforms: list[SectionTransform], pairs: list[Pair], stage: str = "quality"
    ) -> Generator[StackProgress, str | None, list[float]]:
        """Correlations of some sections with shifted copies of their neighbors."""
        if not pairs:
            return []
        count = min(len(pairs), QUALITY_PARAMETERS.chance_samples)
        directions = min(-(-QUALITY_PARAMETERS.chance_samples // count), len(CHANCE_DIRECTIONS))
        chosen = [pairs[k] for k in np.unique(np.linspace(0, len(pairs) - 1, count).round().astype(int))]
        return (
            yield from self._measure_matches(f"{tasks.CHANCE} {stage}", transforms, chosen, stage, range(directions))
        )

    def _measure_matches(
        self,
        kind: str,
        transforms: list[SectionTransform],
        pairs: list[Pair],
        stage: str,
        directions: Sequence[int | None] = (None,),
    ) -> Generator[StackProgress, str | None, list[float]]:
        """Correlations of pairs at their own match, or of copies shifted in some directions."""
        missing = [pair for pair in pairs if not self.work.has(kind, tasks.pair_name(pair))]
        yield from self._stage(
            stage, "measuring chance", len(pairs),
            [
                (b, tasks.measure_match, (self.work, kind, (a, b), (transforms[a], transforms[b]), self.settings,
                                          tuple(directions)))
                for a, b in missing
            ],
        )  # fmt: skip
        found = [self.work.facts(kind, tasks.pair_name(pair))["correlations"] for pair in pairs]
        return [value for values in found for value in values]

    def _find_swapped(
        self,
        sections: list[int],
        scores: Mapping[Pair, Any],
        transforms: list[SectionTransform],
        stage: str,
        chance: list[float] | None = None,
    ) -> Generator[StackProgress, str | None, list[Pair]]:
        """Find swapped neighbors whose matches in the exchanged order are above chance: others fit nothing."""
        found, places, completed = [], {z: k for k, z in enumerate(sections)}, self._completed
        candidates = find_swapped(sections, scores, QUALITY_PARAMETERS.swap_margin)
        if candidates and chance is None:
            chance = yield from self._measure_chance(transforms, neighbor_pairs(sections), stage)
        for a, b in candidates:
            far = [(sections[places[a] - 1], b), (a, sections[places[b] + 1])]
            fits = yield from self._measure_matches(f"{tasks.EXCHANGED} {stage}", transforms, far, stage)
            if min(fits) > chance_limit(chance or ()):
                found.append((a, b))
        self._completed = completed
        return found

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
        requested = self.requested
        found = {
            "stack": requested.source.identity(), "settings": requested.settings.model_dump(), "finished": False,
        }  # fmt: skip
        return found if self.job is requested else {**found, "order": self.order}

    def _stage(
        self, stage: str, message: str, total: int, calls: list[tuple[int, Callable[..., Any], tuple[Any, ...]]]
    ) -> Generator[StackProgress, str | None, None]:
        """Run the missing tasks of a stage; raises Stopped if the caller stops the run."""
        fraction = self._fractions[stage] / self._passes.get(stage, 1)
        done = total - len(calls)
        output = self.path if stage == "render" else None
        plan = (Task(f"{stage} {number}", function, words) for number, (_, function, words) in enumerate(calls))

        def progress(section: int | None) -> StackProgress:
            completed = self._completed + fraction * done / max(total, 1)
            return StackProgress(stage, done, total, min(completed, 1.0), message, section, output)

        if (yield progress(None)) == "stop":
            raise Stopped
        with closing(self.executor.run(plan)) as ended:  # type: ignore[type-var]
            for name, _ in ended:
                done += 1
                if (yield progress(calls[int(name.rsplit(" ", 1)[1])][0])) == "stop":
                    raise Stopped
        self._completed += fraction
