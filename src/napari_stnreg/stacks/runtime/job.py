"""Inputs of an alignment, checked before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output
from napari_stnreg.stacks.matching.pair_selection import Pair
from napari_stnreg.stacks.output.ome_zarr import is_aligned_stack, read_attributes
from napari_stnreg.stacks.preprocessing.encoder import load_extractor
from napari_stnreg.stacks.runtime.checkpoint import WorkFolder, describe_differences
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.sources.base import StackSource, reorder_sections
from napari_stnreg.stacks.sources.open import open_stack

Landmarks = Mapping[Pair, tuple[npt.ArrayLike, npt.ArrayLike]]


class AlignmentJob:
    """Inputs and settings of one alignment; see :func:`~napari_stnreg.align_stack` for the parameters.

    Raises
    ------
    InputError
        If an input cannot be used.
    """

    def __init__(
        self,
        source: StackSource,
        settings: StackSettings,
        masks: Any = None,
        landmarks: Landmarks | None = None,
        exclude: Sequence[int] = (),
        section_range: tuple[int, int] | None = None,
    ) -> None:
        self.source, self.settings = source, settings
        self.count = source.shape[0]
        if settings.encoder is not None and settings.features != "auto-encoder":
            raise InputError("An encoder is given, but the features are not 'auto-encoder'. Choose one or the other.")
        if settings.encoder is not None:
            load_extractor(settings.encoder)
        self.masks = None if masks is None else open_stack(masks)
        if self.masks is not None and self.masks.shape != source.shape:
            raise InputError(f"The masks have the shape {self.masks.shape}, the stack {source.shape}.")
        self.landmarks: dict[Pair, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}
        for (a, b), sides in (landmarks or {}).items():
            one, other = (np.asarray(points, dtype=np.float64).reshape(-1, 2) for points in sides)
            self._check_sections((a, b), "landmarks")
            if a == b or len(one) != len(other) or not len(one):
                raise InputError(
                    f"Sections {a} and {b} have {len(one)} and {len(other)} landmarks. Landmarks come in pairs between "
                    "two sections."
                )
            self.landmarks[(a, b) if a < b else (b, a)] = (one, other) if a < b else (other, one)
        self._check_sections(exclude, "exclude")
        self.exclude = frozenset(int(z) for z in exclude)
        if settings.reference is not None:
            self._check_sections([settings.reference], "reference")
        if section_range is not None:
            self._check_sections(section_range, "range")
            if section_range[0] > section_range[1]:
                raise InputError(f"The range {section_range[0]} to {section_range[1]} ends before it begins.")
        self.section_range = section_range

    def _check_sections(self, sections: Iterable[int], what: str) -> None:
        for z in sections:
            if not 0 <= z < self.count:
                raise InputError(f"The stack has sections 0 to {self.count - 1}. There is no section {z} ({what}).")

    @property
    def input_paths(self) -> list[str]:
        """Files and folders that the run reads."""
        found = [*self.source.paths, *(self.masks.paths if self.masks is not None else ())]
        return found + ([os.path.abspath(self.settings.encoder)] if self.settings.encoder else [])

    def reordered(self, order: Sequence[int]) -> AlignmentJob:
        """Return the job with the section ``order[z]`` of its inputs at ``z``; the range, of the output, stays."""
        if list(order) == list(range(self.count)):
            return self
        place = {raw: z for z, raw in enumerate(order)}
        settings = self.settings
        if settings.reference is not None:
            settings = settings.model_copy(update={"reference": place[settings.reference]})
        return AlignmentJob(
            reorder_sections(self.source, order),
            settings,
            None if self.masks is None else reorder_sections(self.masks, order),
            {(place[a], place[b]): sides for (a, b), sides in self.landmarks.items()},
            [place[z] for z in self.exclude],
            self.section_range,
        )

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the interrupted one, JSON-ready."""
        return {
            "stack": self.source.identity(),
            "masks": None if self.masks is None else self.masks.identity(),
            "settings": self.settings.model_dump(),
            "exclude": sorted(self.exclude),
            "landmarks": [[a, b, one.tolist(), other.tolist()] for (a, b), (one, other) in self.landmarks.items()],
        }

    def check_output(self, path: Path, work: WorkFolder, *, resume: bool, overwrite: bool) -> bool:
        """Refuse an output that must not be written; true if it is this very alignment, finished.

        Parameters
        ----------
        path
            The folder ``OUT.zarr``.
        work
            Its folder of intermediate results.
        resume, overwrite
            As in :func:`~napari_stnreg.align_stack`.

        Raises
        ------
        InputError
            If the output is an input under another name, is not ours, or exists without permission to replace it.
        """
        if not path.name.endswith(".zarr"):
            raise InputError(f"'{path.name}' must be an OME-Zarr folder. Choose a name that ends in .zarr.")
        if not path.parent.is_dir():
            raise InputError(f"The folder '{path.parent}' for '{path.name}' does not exist.")
        again = self.section_range is not None
        for one in (path, work.path, *report_paths(path)):
            folder = one in (path, work.path)
            ours = _always if one != path else (lambda found: is_aligned_stack(found) or _is_half_made(found, work))
            check_output(one, self.input_paths, overwrite=True, folder=folder, is_ours=ours)
        if again or not path.exists():
            if not again:
                work.check(self.identity(), resume=resume, overwrite=overwrite)
            return False
        if not resume and not overwrite:
            raise InputError(
                f"'{path.name}' exists. Choose another name, or allow replacing it with --overwrite or continuing it "
                "with --resume."
            )
        if work.check(self.identity(), resume=resume, overwrite=overwrite) and work.may_replace_output:
            return False
        if resume and not overwrite and is_aligned_stack(path):
            found = read_attributes(path)
            identity = {"stack": self.source.identity(), "settings": self.settings.model_dump()}
            if differ := describe_differences({name: found.get(name) for name in identity}, identity):
                raise InputError(
                    f"'{path.name}' is another alignment ({differ}). Choose another name, or allow replacing it "
                    "with --overwrite."
                )
            return bool(found.get("finished", False)) and not work.path.exists()
        return False


def report_paths(output: Path) -> tuple[Path, Path]:
    """Paths of the report ``OUT.report.json`` and the table ``OUT.quality.csv`` of an alignment ``OUT.zarr``."""
    if output.name in ("", ".."):  # "." and the like
        output = Path(os.path.realpath(output))
    stem = output.name.removesuffix(".zarr")
    return output.with_name(f"{stem}.report.json"), output.with_name(f"{stem}.quality.csv")


def _always(_: Path) -> bool:
    return True


def _is_half_made(path: Path, work: WorkFolder) -> bool:
    """Return whether a run was killed while creating the output, so that it has no metadata yet."""
    note = path / "zarr.json"
    return work.is_ours and (not note.exists() or not note.stat().st_size) and not any(path.glob("*/c/*"))
