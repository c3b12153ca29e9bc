"""A user's script, checked by ``mypy --strict`` in :mod:`tests.test_package`."""

from pathlib import Path

import numpy as np

import napari_stnreg as sr


def main(folder: Path) -> float:
    fixed = np.zeros((64, 64), dtype=np.float32)
    moving = sr.read_image(folder / "moving.tif")
    settings = sr.RegistrationSettings(family="affine", preset="fast")
    result = sr.register(fixed, moving, settings, similarity="mi", spacing=(0.5, 0.5), unit="um", seed=1)
    warped: sr.Image = sr.warp(moving, result.transform, result.grid, interpolation="cubic")
    labels = result.warp(folder / "labels.tif", "nearest")
    sr.write_image(folder / "warped.tif", warped)
    sr.save(result, folder / "transform.safetensors")
    transform: sr.Transform = sr.load_transform(folder / "transform.safetensors")
    points = transform.map_points([[1.0, 2.0]])
    card: sr.Scorecard = sr.evaluate(fixed, moving, result, fixed_labels=labels, moving_labels=labels)
    dice = card.value("dice", item="mean")
    model = sr.load_model("box-2d")
    prediction: sr.Result = model(sr.as_image(fixed, unit="um"), moving)
    return float(points.sum()) + (dice or 0.0) + prediction.seconds
