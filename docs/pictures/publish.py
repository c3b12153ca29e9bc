"""Put the pictures of README and site into ``docs/images``: ``python docs/pictures/publish.py [--from FOLDER]``.

The drivers leave many pictures, of every theme and width, to be looked at; those named here are shown to readers. Large
ones are reduced to 128 colors, which a window of a program hardly needs more than.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "images"
LARGE = 150_000
"""Bytes above which a picture is reduced."""
COLORS = 128
VIVID = 60
"""Between a pixel's largest and smallest channel, above which it is colored."""

# what the site shows: what a driver wrote in the dark theme, as {}, and in the light one, as {} = "_light"
PUBLISHED = {
    "panel": "cells{}_during",
    "panel_result": "cells{}_after",
    "train_panel": "train{}_replay",
    "movie": "movie{}_after",
    "landmarks": "landmarks{}_pairs",
    "place": "place{}",
    "workbench": "workbench{}_applied",
    "scorecard": "scorecard{}_scored",
    "batch": "batch{}_done",
    "align_stack": "sections{}_5_cuts",
    "align_straightened": "sections_straightened{}_3_after",
    "explorer_classifier": "classifier{}",
    **{f"explorer_{name}": f"explorer_{name}{{}}"
       for name in ("grid", "direction", "sampler", "gradient", "thin_plate", "projector")},
}  # fmt: skip


def few_colors(picture: Image.Image) -> Image.Image:
    """A picture in :data:`COLORS`, a share of them for what is colored: curves are few pixels among grays."""
    pixels = np.asarray(picture)
    bright = pixels[np.ptp(pixels.astype(int), axis=-1) > VIVID]
    kept = COLORS // 4 if len(bright) else 0
    palette = picture.quantize(COLORS - kept).getpalette() or []
    if kept:
        palette = palette[: 3 * (COLORS - kept)] + (Image.fromarray(bright[None]).quantize(kept).getpalette() or [])
    wanted = Image.new("P", (1, 1))
    wanted.putpalette(palette[: 3 * COLORS])
    return picture.quantize(palette=wanted, dither=Image.Dither.NONE)


def reduce(path: Path) -> None:
    """Reduce a PNG in place, if it is large and not reduced yet."""
    if path.stat().st_size <= LARGE:
        return
    with Image.open(path) as picture:
        if picture.mode == "P" and picture.getcolors(COLORS) is not None:
            return
        small = few_colors(picture.convert("RGB"))
    small.save(path, optimize=True)


def main() -> None:
    """Take over what there is, and reduce what is large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="folder", type=Path, default=ROOT / "pictures-output")
    options = parser.parse_args()
    for name, written in PUBLISHED.items():
        for theme in ("", "_light"):
            source, target = options.folder / f"{written.format(theme)}.png", TARGET / f"{name}{theme}.png"
            if source.exists():
                target.write_bytes(source.read_bytes())
    for path in sorted(TARGET.glob("*.png")):
        reduce(path)
        sys.stdout.write(f"{path.name}: {path.stat().st_size // 1000} kB\n")


if __name__ == "__main__":
    main()
