"""How many cracks are found, and how much sound tissue is cut. ``python -m benchmark.cracks [--data DIR]``

A straight gap of one gray value (and a little noise) is cut into sections without cracks, in a random direction, before
contrast and brightness change; it counts as found if the section then falls into two pieces. Nothing else is done to
the sections, so what is counted is the finding alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmark.stacks import fibsem
from napari_stnreg.datasets.section_deformation import Tear
from napari_stnreg.datasets.serial_sections import SerialSections
from napari_stnreg.stacks.preprocessing.features import prepare
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.sources.base import reduce_section
from napari_stnreg.stacks.sources.open import open_stack

WIDTHS, GRAYS = (8, 12, 16, 24), (235, 170, 30)
EACH = 4
"""Sections of a tissue that are torn, for each width and gray."""


def tissues(data: Path | None) -> dict[str, list[np.ndarray]]:
    """Sections without cracks, by tissue."""
    found = {"generated": [SerialSections((12, 512, 512), seed)[z] for seed in range(3) for z in (1, 4, 7, 10)]}
    if data is not None:
        found |= {f"FIB-SEM, axis {axis}": list(fibsem(data, axis)) for axis in range(3)}
        lung = open_stack(data / "lung_sem" / "lung_sem.tif")
        found["lung"] = [lung.read(z) for z in range(lung.shape[0])]
    return found


def n_fragments(section: np.ndarray) -> int:
    """Into how many pieces a section is cut."""
    settings = StackSettings()
    factor = settings.factor(section.shape)
    small = reduce_section(section.astype(np.float64), factor)
    return prepare(small, settings, shape=section.shape, factor=factor).n_fragments


def torn(section: np.ndarray, width: float, gray: float, rng: np.random.Generator) -> np.ndarray:
    """A section with a gap through its middle."""
    tear = Tear(tuple(n / 2 for n in section.shape), float(rng.uniform(0, np.pi)), width)
    points = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in section.shape), indexing="ij"), axis=-1)
    gap = np.abs(tear.across(points)) < width / 2
    out = section.astype(np.float64)
    out[gap] = gray + rng.normal(0, 2, int(gap.sum()))
    return np.clip((out - 128) * rng.uniform(0.75, 1.1) + 128 + rng.uniform(-15, 15), 1, 255).round()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="folder that holds fibsem and lung_sem; the generator alone without it"
    )
    sections, rng = tissues(parser.parse_args().data), np.random.default_rng(5)
    for name, whole in sections.items():
        print(f"{name}: {sum(n_fragments(one) > 1 for one in whole)} of {len(whole)} sound sections cut", flush=True)
    for width in WIDTHS:
        for gray in GRAYS:
            found = {n: sum(n_fragments(torn(s, width, gray, rng)) == 2 for s in w[:EACH]) for n, w in sections.items()}
            each = ", ".join(f"{name} {count}" for name, count in found.items())
            print(f"{width} px, gray {gray}: {sum(found.values())} of {EACH * len(found)} found ({each})", flush=True)


if __name__ == "__main__":
    main()
