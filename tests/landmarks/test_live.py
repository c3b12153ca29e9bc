"""Editing pairs, and warping while a point is dragged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.landmarks.fit import fit_landmarks
from napari_stnreg.landmarks.live_warp import LiveParameters, LiveWarper
from napari_stnreg.landmarks.pairs import LandmarkPairs


def picture(shape, seed=0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3)
    return ((noise - noise.min()) / np.ptp(noise) * 250).astype(np.uint8)


@pytest.mark.parametrize("family", ["rigid", "affine", "tps"])
@pytest.mark.parametrize("shape", [(90, 70), (24, 30, 28)])
def test_live_warp_is_close_to_the_exact_warp(shape, family):
    image = sr.as_image(picture(shape)).replace(grid=Grid.from_spacing(shape, 0.5, 3.0, unit="um"))
    fixed = Grid.from_spacing(shape, 0.6, 1.0, unit="um")
    rng = np.random.default_rng(1)
    points = fixed.to_world(rng.random((9, len(shape))) * shape)
    fit = fit_landmarks(points, points * 0.9 + 2 + 0.3 * rng.standard_normal(points.shape), family, unit="um")
    warper = LiveWarper([image], fixed)
    assert warper.is_full_resolution
    (live,) = warper.warp(fit.transform)
    exact = sr.warp(image, fit, fixed, fill=None)
    assert live.dtype == np.uint8
    error = np.abs(live.astype(float) - exact.data)[ndimage.binary_erosion(_inside(exact, fixed), iterations=2)]
    assert np.percentile(error, 99) <= (1 if family != "tps" else 8)


def _inside(image, grid):
    return np.ones(grid.shape, bool) if image.mask is None else image.mask


def test_kernels_are_recomputed_when_a_fixed_point_moves():
    image = sr.as_image(picture((64, 64)))
    rng = np.random.default_rng(0)
    fixed = rng.random((8, 2)) * 64
    moving = fixed + rng.standard_normal((8, 2))
    warper = LiveWarper([image], image.grid)
    warper.warp(fit_landmarks(fixed, moving, "tps").transform)
    for changed in (fixed, moving):
        changed[0] += 4
        fit = fit_landmarks(fixed, moving, "tps")
        np.testing.assert_array_equal(
            warper.warp(fit.transform)[0], LiveWarper([image], image.grid).warp(fit.transform)[0]
        )


def test_large_images_are_warped_coarsely_and_labels_stay_labels():
    grid = Grid.from_spacing((80, 60))
    labels = Image((np.indices(grid.shape).sum(axis=0) // 20 * 7).astype(np.uint16), grid)
    color = Image(np.stack([picture(grid.shape, n) for n in range(3)], axis=-1), grid, rgb=True)
    warper = LiveWarper([labels, color], grid, [True, False], LiveParameters(max_voxels=(1200, 1200)))
    assert not warper.is_full_resolution
    assert warper.grid.shape == (40, 30)
    np.testing.assert_allclose(warper.grid.corners(), grid.corners())
    fit = fit_landmarks([(0, 0)], [(3.2, -2.3)], "translation")
    warped, painted = warper.warp(fit.transform)
    assert set(np.unique(warped)) <= set(np.unique(labels.data)) | {0}
    assert painted.shape == (40, 30, 3)
    exact = sr.warp(labels, fit, warper.grid, "nearest")
    assert (warped == exact.data).mean() > 0.99


def test_pairs_are_edited_and_every_change_is_undone():
    pairs = LandmarkPairs(2)
    row = pairs.add("fixed", (1, 2), (5, 6))
    assert (pairs.rows[row].predicted, pairs.placed) == ("moving", [])
    pairs.predict(lambda points, side: points + 10)
    np.testing.assert_array_equal(pairs.points("moving"), [(11, 12)])
    pairs.begin_move()
    for step in range(5):
        pairs.move(row, "moving", (step, step))
    assert pairs.placed == [0]
    pairs.undo()
    np.testing.assert_array_equal(pairs.points("moving"), [(11, 12)])
    pairs.redo()
    np.testing.assert_array_equal(pairs.points("moving"), [(4, 4)])
    pairs.extend([(7, 7), (8, 8)], [(1, 1), (2, 2)])
    assert pairs.reorder(2, 0) == 0
    np.testing.assert_array_equal(pairs.points("fixed"), [(8, 8), (1, 2), (7, 7)])
    pairs.lock([1])
    for change in (lambda: pairs.delete([1]), lambda: pairs.place(1, "fixed", (0, 0))):
        with pytest.raises(sr.InputError, match="Pair 2 is locked"):
            change()
    pairs.delete([0, 2])
    assert len(pairs) == 1
    while pairs.can_undo:
        pairs.undo()
    assert len(pairs) == 0
    with pytest.raises(sr.InputError, match="finite coordinates"):
        pairs.add("moving", (np.nan, 0), (0, 0))
