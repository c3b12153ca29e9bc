"""The film on the first page of the site: a registration of the sample pair, as ``make pictures`` records it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import napari_stnreg as sr
from napari_stnreg.datasets import shapes_pair
from napari_stnreg.teaching.replay import Replay, record_frames
from napari_stnreg.transforms import AffineTransform
from napari_stnreg.visualization.overlays import grid_lines, overlay, rescaled

ROOT = Path(__file__).parents[2]
ORANGE = np.array([255, 159, 28])


def main() -> None:
    """Register, keep a picture of every few steps, and write the film."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "settling.gif")
    options = parser.parse_args()
    pair = shapes_pair()
    small = pair.fixed.grid.resized([n // 2 for n in pair.fixed.grid.shape])
    fixed = rescaled(sr.warp(pair.fixed, AffineTransform.identity(2, small.unit), small).data)

    def picture(now: Any) -> Any:
        if now.step % 10:
            return None
        transform = now.preview()
        warped = rescaled(sr.warp(pair.moving, transform, small).data)
        mapped = transform.on_grid(small)[0].detach().cpu().numpy()
        alpha = 0.7 * grid_lines(mapped, pair.moving.grid)[..., None] / 255
        return (overlay(fixed, warped) * (1 - alpha) + ORANGE * alpha).astype(np.uint8)

    def error(now: Any) -> dict[str, float]:
        # The loss of one level cannot be compared with that of the next; the distance from the truth can.
        off = now.preview().map_points(pair.fixed_points) - pair.moving_points
        return {"landmark error (um)": float(np.linalg.norm(off, axis=1).mean())}

    kept: list[Any] = []
    settings = sr.RegistrationSettings(family="affine+diffeomorphic", preset="fast", seed=0, device="cpu")
    steps = sr.register_steps(pair.fixed, pair.moving, settings)
    for _ in record_frames(steps, picture, lambda now: float(now.step), error, kept):
        pass
    Replay.from_frames(kept[:40], "register").save(options.out, seconds=0.12, width=384)


if __name__ == "__main__":
    main()
