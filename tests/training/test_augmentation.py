"""Random poses, bends and brightness: what is drawn is what is done, in the world and in the right direction."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_stnreg import Grid, Image
from napari_stnreg.networks import warp_batch
from napari_stnreg.training.augmentation.intensity import IntensityAugmentation
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.image_sets import ImageSet
from napari_stnreg.training.data.pair_sampler import collate, seeded_rng
from napari_stnreg.training.data.paired_images import Augmentation, PairedImages
from napari_stnreg.training.data.pairing import FixedPairs
from napari_stnreg.training.synthetic.heads import generated_head, generated_heads
from napari_stnreg.training.synthetic.shapes import GeneratedShapes, ShapeSettings, smooth_noise

MOVES = SpatialAugmentation(rotation=15, scale=0.1, shear=0.05, shift=4, deformation=3, control_spacing=20)


def dots(grid, places, width):
    """Round spots at world places, drawn by their formula."""
    apart = ((grid.points()[..., None, :] - places) ** 2).sum(-1)
    return np.exp(-apart / (2 * width**2)).sum(-1)


def found(image, grid, near, width):
    """The world place of the spot next to a place: the middle of its brightness."""
    points = grid.points()
    weight = image * np.exp(-((points - near) ** 2).sum(-1) / (2 * (1.5 * width) ** 2))
    weight = np.where(np.linalg.norm(points - near, axis=-1) < 2.5 * width, weight, 0)
    return (weight[..., None] * points).reshape(-1, grid.ndim).sum(0) / weight.sum()


@pytest.mark.parametrize(
    ("shape", "spacing", "together"),
    [((80, 60), (1.0, 1.0), None), ((40, 90), (2.0, 1.0), MOVES), ((24, 40, 36), (3.0, 2.0, 2.0), MOVES)],
)
def test_the_known_transform_takes_every_spot_of_the_fixed_image_to_its_place_in_the_moving_one(
    shape, spacing, together
):
    ndim = len(shape)
    grid = Grid.from_spacing(shape, spacing, unit="mm")
    width = 2.0 * max(spacing) / 1.5
    middle = grid.center
    offsets = np.array(np.meshgrid(*[[-14.0, 0.0, 14.0]] * ndim, indexing="ij")).reshape(ndim, -1).T
    image = Image(255 * dots(grid, middle + offsets, width), grid)
    images = ImageSet.from_images([image])
    data = PairedImages(
        images, images, FixedPairs([(0, 0)] * 3), augmentation=Augmentation(together, MOVES), same_image=True
    )
    (batch,) = data.batches("train", epoch=0, batch_size=3, seed=4)
    worst = []
    for i in range(3):
        fixed, moving = batch.fixed[i, 0].numpy(), batch.moving[i, 0].numpy()
        truth = type(batch.truth).from_state(
            {name: t[i : i + 1] for name, t in batch.truth.tensors().items()}, batch.truth.settings()
        )
        # Spots of the fixed image, wherever the drawing has put them.
        peaks = ndimage.maximum_filter(fixed, 5) == fixed
        inner = ndimage.binary_erosion(np.ones(shape), iterations=5)
        for index in np.argwhere(peaks & (fixed > 0.6) & inner):
            here = found(fixed, data.grid, data.grid.to_world(index), width)
            there = truth.map_points([here])[0]
            if (np.abs(data.grid.to_index(there) - (np.array(shape) - 1) / 2) > np.array(shape) / 2 - 5).any():
                continue
            worst.append(np.linalg.norm((found(moving, data.grid, there, width) - there) / np.array(spacing)))
    assert len(worst) > 8
    assert np.mean(worst) < 0.25
    moved = np.linalg.norm(truth.map_points(middle - data.grid.center + np.zeros((1, ndim)) - middle + 3))
    assert moved > 0.5  # and it is a move worth finding


def test_shift_agrees_with_the_transform():
    grid = Grid.from_spacing((32, 32), (2.0, 1.0), unit="mm")
    data = torch.zeros(1, 1, 32, 32)
    data[0, 0, 16, 16] = 1
    augmentation = SpatialAugmentation(shift=8.0)
    shift = augmentation.draw(np.random.default_rng(3), grid)
    seen = warp_batch(data, shift, grid, grid, padding="zeros")[0, 0].numpy()
    rows, columns = np.indices(seen.shape)
    middle = np.array([(seen * rows).sum(), (seen * columns).sum()]) / seen.sum()
    # x -> I(x + t): what lay at p is seen at p - t, and a millimeter is half a row
    np.testing.assert_allclose(middle, 16 - shift.as_matrix()[:2, 2] / (2.0, 1.0), atol=1e-4)
    assert np.abs(shift.as_matrix()[:2, 2]).max() <= 8


def test_draws_stay_within_their_sizes_and_fill_them():
    grid = Grid.from_spacing((20, 20, 20), 2.0, unit="mm")
    augmentation = SpatialAugmentation(rotation=20, scale=0.15, shift=20)
    matrices = [augmentation.draw_affine(np.random.default_rng(i), grid).as_matrix() for i in range(200)]
    scales = np.array([np.cbrt(np.linalg.det(m[:3, :3])) for m in matrices])
    angles = np.array(
        [np.degrees(np.arccos((np.trace(m[:3, :3] / s) - 1) / 2)) for m, s in zip(matrices, scales, strict=True)]
    )
    shifts = np.array([m[:3, :3] @ grid.center + m[:3, 3] - grid.center for m in matrices])
    for values, most in ((np.abs(scales - 1), 0.15), (angles, 20), (np.abs(shifts), 20)):
        assert 0.9 * most < values.max() <= most * 1.0001


@pytest.mark.parametrize("shape", [(48, 40), (24, 20, 22)])
def test_augmentation_deformation_never_folds(shape):
    grid = Grid.from_spacing(shape, 1.5)
    bends = [
        SpatialAugmentation(deformation=100, control_spacing=12).draw(np.random.default_rng(i), grid) for i in range(5)
    ]
    assert min(bend.jacobian_determinant(grid).min() for bend in bends) > 0
    assert max(np.abs(bend.displacement(grid)).max() for bend in bends) > 1


def test_brightness_changes_by_the_requested_amount_only():
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    for i in range(4):
        same = IntensityAugmentation()(image, np.random.default_rng(i))
        assert torch.equal(same, image)
        turned = IntensityAugmentation(invert=1)(image, np.random.default_rng(i))
        assert torch.allclose(turned, 1 - image)
        curved = IntensityAugmentation(gamma=0.5)(image, np.random.default_rng(i))
        exponent = (curved.double().log() / image.double().log())[image > 0.05]
        assert float(exponent.std()) < 1e-3
        assert np.exp(-0.5) <= float(exponent.mean()) <= np.exp(0.5)
        rough = IntensityAugmentation(noise=0.2)(image, np.random.default_rng(i)) - image
        assert float(rough.std()) <= 0.21
        assert abs(float(rough.mean())) < 0.02
        shaded = IntensityAugmentation(bias=0.3)(image, np.random.default_rng(i)) / image
        assert 0.7 - 1e-5 <= float(shaded.min()) < float(shaded.max()) <= 1.3 + 1e-5
        assert float((shaded[..., 1:] - shaded[..., :-1]).abs().max()) < 0.05  # it varies slowly


@pytest.mark.parametrize("shape", [(64, 48), (32, 28, 24)])
def test_generated_shapes_have_a_known_transform(shape):
    few = ShapeSettings(bodies=(3, 7), cells=(2, 4))  # so that most voxels are not at an edge
    data = GeneratedShapes(Grid.from_spacing(shape, 1.5), few, count=6)
    batch = collate([data.draw_pair("train", 0, i, 3) for i in range(6)])
    moved = warp_batch(batch.moving_labels, batch.truth, data.grid, data.grid)
    before = float((batch.moving_labels == batch.fixed_labels).float().mean())
    after = float((moved == batch.fixed_labels).float().mean())
    assert after > 0.9
    assert 1 - after < 0.65 * (1 - before)
    assert float(batch.fixed.min()) >= 0
    assert float(batch.fixed.max()) <= 1


def test_generated_shapes_show_one_contrast_or_another():
    same = GeneratedShapes(Grid.from_spacing((64, 64)), ShapeSettings(other_contrast=0))
    other = GeneratedShapes(Grid.from_spacing((64, 64)), ShapeSettings(other_contrast=1))
    correlation = []
    for data in (same, other):
        found = []
        for i in range(8):
            pair = data.draw_pair("train", 0, i, 1)
            moved = warp_batch(pair.moving, pair.truth, data.grid, data.grid)
            found.append(np.corrcoef(pair.fixed.flatten(), moved.flatten())[0, 1])
        correlation.append(np.abs(found).mean())
    assert correlation[0] > 0.75
    assert correlation[1] < correlation[0] - 0.2


def test_cached_scenes_are_reused_with_new_brightness():
    data = GeneratedShapes(Grid.from_spacing((32, 32)), keep=True)
    first, second, again = (data.draw_pair("train", e, 0, 0) for e in (0, 1, 0))
    assert torch.equal(first.fixed_labels, second.fixed_labels)
    assert not torch.allclose(first.fixed, second.fixed, atol=0.05)
    assert torch.equal(first.fixed, again.fixed)
    assert not torch.equal(first.fixed_labels, data.draw_pair("validation", 0, 0, 0).fixed_labels)


def test_scenes_cached_for_two_epochs_do_not_depend_on_order():
    data = GeneratedShapes(Grid.from_spacing((32, 32)), keep=2)
    labels = {epoch: data.draw_pair("train", epoch, 0, 0).fixed_labels for epoch in (3, 0, 2, 1)}
    assert torch.equal(labels[0], labels[1])
    assert torch.equal(labels[2], labels[3])
    assert not torch.equal(labels[1], labels[2])


def test_local_changes_of_size_are_in_the_known_transform():
    still = ShapeSettings(deformation=1e-6, rotation=0, scale=0, shift=0)
    largest = []
    for settings in (still, replace(still, local_scale=0.6)):
        data = GeneratedShapes(Grid.from_spacing((48, 48)), settings)
        pairs = [data.draw_pair("train", 0, i, 0) for i in range(6)]
        largest.append(max(float(np.abs(pair.truth.displacement(data.grid)).max()) for pair in pairs))
        pair = pairs[0]
        moved = warp_batch(pair.moving_labels, pair.truth, data.grid, data.grid)
        assert float((moved == pair.fixed_labels).float().mean()) > 0.9
    assert largest[0] < 0.1
    assert largest[1] > 1.5


def test_octaves_make_the_texture_finer():
    rough = []
    for octaves in (1, 4):
        data = GeneratedShapes(Grid.from_spacing((96, 96)), ShapeSettings(texture_octaves=octaves))
        patterns = [data._bodies(seeded_rng(i))[1][0, 0].numpy() for i in range(4)]
        rough.append(np.mean([np.diff(pattern, axis=0).std() / pattern.std() for pattern in patterns]))
    assert rough[1] > 1.1 * rough[0]


def test_smooth_noise_has_the_requested_scale():
    random = seeded_rng(1)
    lengths = []
    for cells in (3, 6, 12):
        noise = smooth_noise(random, 8, cells, (96, 96))
        steep = np.sqrt(np.mean(np.diff(noise, axis=1) ** 2))
        lengths.append(noise.std() / steep)
    np.testing.assert_allclose(np.array(lengths[:2]) / lengths[1:], 2, rtol=0.35)


def test_generated_heads_differ_in_shape_and_contrast_and_may_be_stripped():
    grid = Grid.from_spacing((40, 40, 30), 6.0, unit="mm")
    heads = generated_heads(grid, 4, stripped=0.5)
    volumes = {int((heads.labels(i).data > 0).sum()) for i in range(4)}
    assert len(volumes) == 4
    for i, stripped in enumerate((True, True, False, False)):
        outside = np.asarray(heads.image(i).data)[np.asarray(heads.labels(i).data) == 0]
        assert (outside == 0).all() == stripped
    white = [
        float(np.asarray(image.data)[np.asarray(labels.data) == 2].mean() - np.asarray(image.data).mean())
        for image, labels in (generated_head(grid, np.random.default_rng(i)) for i in range(4))
    ]
    assert np.ptp(white) > 20
