"""Alignments as people run them: the whole way through files, and what it leaves, for tests to look at."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import napari_stnreg as sr
from napari_stnreg.stacks.quality.sections import SectionQuality
from napari_stnreg.stacks.runtime import tasks
from napari_stnreg.stacks.runtime.checkpoint import work_folder
from napari_stnreg.stacks.section_transform import SectionTransform
from napari_stnreg.stacks.settings import StackSettings


@dataclass(frozen=True)
class Aligned:
    """What an alignment found.

    Parameters
    ----------
    maps
        Canvas to section, one a section.
    rows
        Verdict and figures of every section.
    figures
        What was found out about each section when it was read.
    """

    transforms: list[SectionTransform]
    rows: list[SectionQuality]
    figures: list[dict[str, float]]


def align(stack: Any, settings: StackSettings, **how: Any) -> Aligned:
    """Align a stack into a folder that goes again, in one thread; ``how`` as for ``sr.align_stack``."""
    with tempfile.TemporaryDirectory(prefix="stnreg-test-") as folder:
        output = Path(folder) / "out.zarr"
        result = sr.align_stack(stack, output, settings, keep_work=True, workers=1, **how)
        work = work_folder(output)
        figures = [tasks.load_prepared(work, row.section).figures for row in result.verdicts]
        return Aligned(kept_maps(output, len(result.verdicts)), result.verdicts, figures)


def kept_maps(output: Path, sections: int) -> list[SectionTransform]:
    """The maps of an alignment that kept its work."""
    work = work_folder(output)
    return [SectionTransform.from_arrays(work.get(tasks.TRANSFORMS, z)[0]) for z in range(sections)]


def contents(path: Path) -> dict[str, Any]:
    """The arrays of an aligned stack on disk."""
    group = zarr.open_group(str(path), mode="r")
    return {name: np.asarray(array[:]) for name, array in group.arrays()}


def same_result(path: Path, other: Path) -> None:
    """Check that two aligned stacks are the same to the last bit."""
    a, b = contents(path), contents(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
