"""The sampler against scipy and itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy import ndimage

from napari_stnreg.ops.interpolation import (
    index_points,
    normalized,
    resize,
    sample,
    sample_normalized,
    self_composed,
)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@given(shape=st.lists(st.integers(1, 7), min_size=2, max_size=3))
@examples(max_examples=30, deadline=None)
def test_sampling_at_voxel_centers_returns_the_voxels(shape):
    image = noise(2, 3, *shape)
    points = index_points(shape, dtype=torch.float64).expand(2, *shape, len(shape))
    for mode in ("linear", "nearest"):
        torch.testing.assert_close(sample(image, points, mode=mode), image)


@pytest.mark.parametrize("shape", [(5, 8), (4, 6, 7)])
@pytest.mark.parametrize(("padding", "mode"), [("border", "nearest"), ("zeros", "grid-constant")])
def test_linear_sampling_agrees_with_scipy_inside_and_outside(shape, padding, mode):
    image = noise(*shape)
    points = np.random.default_rng(0).uniform(-1.5, np.asarray(shape) + 0.5, size=(200, len(shape)))
    expected = ndimage.map_coordinates(image.numpy(), points.T, order=1, mode=mode)
    ours = sample(image[None, None], torch.from_numpy(points)[None], padding=padding)
    np.testing.assert_allclose(ours[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 64), (6, 7, 301)])
def test_nearest_rounds_half_up_everywhere(shape, dtype, padding):
    image = noise(1, 1, *shape).to(dtype)
    points = index_points(shape, dtype=dtype)[None] + 0.5
    index = np.floor(points.numpy() + 0.5).astype(int)
    inside = (index < np.asarray(shape)).all(axis=-1)
    index = np.minimum(index, np.asarray(shape) - 1)
    expected = image[0, 0].numpy()[tuple(np.moveaxis(index, -1, 0))]
    if padding == "zeros":
        expected = expected * inside
    for ours in (
        sample(image, points, padding=padding, mode="nearest"),
        sample_normalized(image, normalized(points, shape), padding=padding, mode="nearest"),
    ):
        np.testing.assert_array_equal(ours[0].numpy(), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_unit_shift_along_each_axis(axis):
    image = noise(1, 1, 4, 6, 9)
    points = index_points((4, 6, 9), dtype=torch.float64)[None].clone()
    points[..., axis] += 1
    expected = torch.roll(image, -1, dims=axis + 2).narrow(axis + 2, 0, image.shape[axis + 2] - 1)
    ours = sample(image, points)
    torch.testing.assert_close(ours.narrow(axis + 2, 0, expected.shape[axis + 2]), expected)
    assert (ours.select(axis + 2, -1) == 0).all()


@pytest.mark.parametrize("shape", [(61, 57, 43), (397, 411)])
def test_sampling_is_bit_identical_for_any_number_of_threads(shape):
    image = noise(1, 2, *shape).float()
    points = index_points(shape)[None] + 0.3
    grid = normalized(points, shape)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(sample_normalized(image, grid))
    finally:
        torch.set_num_threads(threads)
    whole = F.grid_sample(image, grid, "bilinear", "zeros", align_corners=False)
    assert all(torch.equal(result, whole) for result in results)


def test_sampling_broadcasts_over_images_and_points():
    images, points = noise(3, 1, 5, 6), 2 + noise(3, 20, 2)
    for b in range(3):
        alone = sample(images[:1], points[b : b + 1])
        torch.testing.assert_close(sample(images[:1], points)[b], alone[0])
        alone = sample(images[b : b + 1], points[:1])
        torch.testing.assert_close(sample(images, points[:1])[b], alone[0])


@pytest.mark.parametrize("shape", [(8, 12), (8, 6, 4)])
def test_resize_keeps_the_outer_faces(shape):
    """A ramp over the extent is the same ramp in fewer or more voxels, away from the border."""
    ramp = (torch.arange(float(shape[0])) + 0.5).reshape(1, 1, -1, *[1] * (len(shape) - 1)).expand(1, 1, *shape)
    for factor in (0.5, 2):
        new = [int(n * factor) for n in shape]
        resized = resize(ramp, new)
        expected = (torch.arange(float(new[0])) + 0.5) / factor
        middle = resized[0, 0].flatten(1)[:, 0]
        torch.testing.assert_close(middle[2:-2], expected[2:-2], atol=0.02, rtol=0)


def test_downsampling_does_not_alias():
    stripes = torch.zeros(1, 1, 64, 64)
    stripes[..., ::2] = 1
    gray = resize(stripes, (21, 21))[0, 0, 2:-2, 2:-2]
    assert (gray - 0.5).abs().max() < 0.12


@pytest.mark.parametrize("shape", [(12, 14), (6, 8, 7)])
def test_self_composition_agrees_with_composition(shape):
    flow = 0.5 * noise(2, len(shape), *shape)
    here = index_points(shape, dtype=torch.float64)[None]
    expected = flow
    for _ in range(3):
        where = here + expected.movedim(1, -1)
        expected = expected + sample(expected, where, padding="border")
    torch.testing.assert_close(self_composed(flow, 3), expected, atol=1e-9, rtol=0)
