"""Registering: masks, landmarks, channels, what comes out, chains and running again."""

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from napari_stnreg.transforms import AffineTransform, ChainTransform
from tests.helpers.scenes import FAST, affine_map, bent_map, bent_pair, grid, pair, registered

# ---------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("family", ["affine", "affine+bspline", "affine+diffeomorphic"])
def test_voxels_outside_the_masks_have_no_influence(family):
    images = bent_pair(size=64)
    points = np.linalg.norm(images.fixed.grid.points(), axis=-1)
    masks = points < 38, np.linalg.norm(images.moving.grid.points() - 2.0, axis=-1) < 38
    rng = np.random.default_rng(0)
    found = []
    for garbage in (None, "noise", "nan"):
        spoiled = []
        for image, mask in zip((images.fixed, images.moving), masks, strict=True):
            values = image.data.copy()
            if garbage == "noise":
                values[~mask] = rng.normal(100, 300, int((~mask).sum()))
            elif garbage == "nan":
                values[~mask] = np.nan
            spoiled.append(image.replace(data=values, mask=mask))
        found.append(sr.register(*spoiled, family=family, **FAST))
        assert images.error(found[-1].transform, 0.28) < {"affine": 2.5}.get(family, 0.6)
    for other in found[1:]:
        assert torch.equal(
            torch.as_tensor(other.transform.displacement(images.fixed.grid)),
            torch.as_tensor(found[0].transform.displacement(images.fixed.grid)),
        )
        assert other.scores["after"] == pytest.approx(found[0].scores["after"], rel=1e-5)


def test_mask_on_one_side_excludes_a_foreign_body():
    images = bent_pair(size=96)
    values = images.moving.data.copy()
    values[20:50, 55:80] = 4.0
    mask = np.ones(values.shape, bool)
    mask[18:52, 53:82] = False
    spoiled = images.moving.replace(data=values)
    plain = sr.register(images.fixed, spoiled, device="cpu")
    masked = sr.register(images.fixed, spoiled.replace(mask=mask), device="cpu")
    assert images.error(masked.transform) < 0.5 * images.error(plain.transform)
    assert images.error(masked.transform) < 0.7


# ------------------------------------------------------------------------------------------------ landmarks


def test_landmarks_initialize_and_guide_uniform_regions():
    images = bent_pair(size=96)
    # a hole in both images: only the landmarks know what happens there
    hole = images.fixed.data.copy()
    hole[34:62, 34:62] = hole[34, 34]
    blind = images.fixed.replace(data=hole)
    rng = np.random.default_rng(0)
    fixed_points = rng.uniform(-14, 14, (12, 2))
    moving_points = images.truth(fixed_points)

    def missed(**options):
        result = sr.register(blind, images.moving, **{**FAST, **options})
        return np.linalg.norm(result.transform.map_points(fixed_points) - moving_points, axis=1).mean(), result

    plain, _ = missed()
    for family in ("affine+diffeomorphic", "affine+displacement", "affine+bspline", "affine+tps"):
        with_landmarks, result = missed(family=family, fixed_landmarks=fixed_points, moving_landmarks=moving_points)
        assert with_landmarks < min(0.8 * plain, 0.8)
        assert result.scores["after"]["landmark_mean"] < result.scores["before"]["landmark_mean"]
        assert result.folding_fraction == 0
    without_pull, _ = missed(fixed_landmarks=fixed_points, moving_landmarks=moving_points, landmark_weight=0.0)
    assert with_landmarks < without_pull


def test_landmarks_hold_through_a_chain_and_a_start():
    images = bent_pair(size=64)
    points = np.random.default_rng(0).uniform(-20, 20, (15, 2))
    options = {"fixed_landmarks": points, "moving_landmarks": images.truth(points)}
    first = registered(images, family="affine+bspline+diffeomorphic", **options)
    assert images.error(first.transform) < 0.5
    again = registered(images, start_transform=first.transform, family="diffeomorphic", **options)
    assert again.scores["after"]["landmark_mean"] < 0.6


def test_landmarks_of_another_unit():
    images = pair(affine_map(2, degrees=60, shift=9.0), grid(64, 2, unit="um"))
    points = np.random.default_rng(0).uniform(-25, 25, (6, 2))
    nano = images.moving.with_unit("nm")
    result = sr.register(
        images.fixed,
        nano,
        family="affine",
        fixed_landmarks=points,
        moving_landmarks=images.truth(points) * 1000,
        **FAST,
    )
    assert images.error(result.transform) < 0.3
    assert result.scores["after"]["landmark_mean"] < 0.5
    assert result.scores["before"]["landmark_mean"] > 10


@pytest.mark.parametrize(
    ("fixed", "moving", "sentence"),
    [
        (
            np.zeros((3, 2)),
            np.zeros((2, 2)),
            "There are 3 fixed and 2 moving landmarks",
        ),
        (np.zeros((3, 2)), None, "given for one image only"),
        (np.zeros((3, 3)), np.zeros((3, 3)), r"array of shape \(N, 2\)"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "NaN or infinite"),
    ],
)
def test_landmarks_that_cannot_be_used(fixed, moving, sentence):
    images = bent_pair(size=32)
    with pytest.raises(InputError, match=sentence):
        registered(images, fixed_landmarks=fixed, moving_landmarks=moving)


# ----------------------------------------------------------------------------------- color, channels, output


def test_color_is_seen_by_its_luminance_and_warped_in_every_channel():
    images = bent_pair(size=64)
    shades = [np.clip(image.data / image.data.max() * 250, 0, 250) for image in (images.fixed, images.moving)]
    color = [
        sr.Image.from_array(np.stack([s, 255 - s, s / 2], axis=-1).astype(np.uint8), channels=True).replace(
            grid=image.grid
        )
        for s, image in zip(shades, (images.fixed, images.moving), strict=True)
    ]
    result = sr.register(*color, **FAST)
    assert images.error(result.transform) < 0.6
    assert result.warped.data.shape == (64, 64, 3)
    assert result.warped.data.dtype == np.uint8
    assert result.warped.rgb


def test_a_channel_is_chosen_on_either_side():
    images = bent_pair(size=64)
    nothing = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    fixed = sr.Image(np.stack([nothing[0], images.fixed.data], axis=-1), images.fixed.grid)
    moving = sr.Image(np.stack([images.moving.data, nothing[1]], axis=-1), images.moving.grid)
    result = sr.register(fixed, moving, fixed_channel=1, moving_channel=0, **FAST)
    assert images.error(result.transform) < 0.5
    assert result.warped.data.shape == (64, 64, 2)
    with pytest.raises(InputError, match="Channel 2 does not exist"):
        sr.register(fixed, moving, fixed_channel=2, **FAST)


def test_extent_and_fill():
    images = pair(affine_map(2, shift=(20.0, 0.0)), grid(50, 2), grid((80, 40), extent=(160.0, 80.0)))
    moving = images.moving.replace(data=images.moving.data + 7)
    options = {"family": "translation", **FAST}
    fixed = sr.register(images.fixed, moving, **options)
    assert fixed.grid == images.fixed.grid
    assert fixed.warped.grid == fixed.grid
    translated = sr.register(images.fixed, moving, extent="moving", fill=-3.0, **options)
    corners = fixed.transform.inverse().map_points(moving.grid.corners())
    assert np.allclose(translated.grid.spacing, images.fixed.grid.spacing)
    assert np.abs(translated.grid.corners().min(axis=0) - corners.min(axis=0)).max() <= 2.0
    assert np.abs(translated.grid.corners().max(axis=0) - corners.max(axis=0)).max() <= 2.0
    union = sr.register(images.fixed, moving, extent="union", fill=-3.0, **options)
    low, high = union.grid.corners().min(axis=0), union.grid.corners().max(axis=0)
    assert (low <= np.minimum(corners.min(axis=0), -50) + 1e-6).all()
    assert (high >= np.maximum(corners.max(axis=0), 50) - 1e-6).all()
    assert union.warped.mask is not None
    assert (union.warped.data[~union.warped.mask] == -3.0).all()
    assert np.allclose(union.grid.to_index(images.fixed.grid.origin) % 1, 0, atol=1e-6)
    border = sr.register(images.fixed, moving, extent="union", **options)
    assert np.allclose(border.warped.data[~border.warped.mask], 7.0, atol=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float64, np.bool_])
def test_dtypes(dtype):
    images = bent_pair(size=64)
    scaled = [
        image.replace(data=(image.data / image.data.max() * (1 if dtype == np.bool_ else 100) + 0.3).astype(dtype))
        for image in (images.fixed, images.moving)
    ]
    if dtype == np.bool_:
        scaled = [i.replace(data=o.data > 0.5) for i, o in zip(scaled, (images.fixed, images.moving), strict=True)]
    result = sr.register(*scaled, **FAST)
    assert result.warped.data.dtype == dtype
    assert images.error(result.transform) < (1.2 if dtype == np.bool_ else 0.5)


def test_result_describes_the_registration():
    images = bent_pair(size=48)
    result = registered(images, family="affine+diffeomorphic")
    assert result.warped.name == "moving -> fixed (affine+diffeomorphic)"
    assert result.stop_reason == "finished"
    assert result.scores["after"]["ncc"] > result.scores["before"]["ncc"]
    assert result.scores["after"]["ncc"] > 0.99
    assert {stage for stage, *_ in result.losses} == {"affine", "diffeomorphic"}
    assert set(result.versions) == {"napari-stnreg", "torch", "numpy"}
    assert result.report()["settings"]["preset"] == "fast"
    assert np.array_equal(
        result.warped.data, sr.warp(images.moving, result.transform, images.fixed.grid, fill=None).data
    )


# ------------------------------------------------------------------------------------- chains, running again


@pytest.mark.parametrize(
    "family",
    [
        "affine+bspline+diffeomorphic",
        "rigid+affine",
        "translation+similarity+tps+displacement",
        "bspline",
        "diffeomorphic",
    ],
)
def test_chains(family):
    linear = affine_map(2, degrees=4, shift=2.0) if "+" in family else None
    images = pair(bent_map(2, height=2.0 if "+" not in family else 3.0, linear=linear), grid(64, 2))
    result = registered(images, family=family)
    limit = 2.2 if family == "rigid+affine" else 0.5
    assert images.error(result.transform) < limit
    assert result.folding_fraction == 0


def test_running_again_from_an_affine_and_from_a_deformation():
    images = bent_pair(size=96)
    first = registered(images, family="affine")
    deformed = registered(images, family="diffeomorphic", start_transform=first.transform)
    assert images.error(deformed.transform) < 0.4 * images.error(first.transform)
    again = sr.register(
        images.fixed, images.moving, family="diffeomorphic", start_transform=deformed.transform, device="cpu"
    )
    assert images.error(again.transform) < 1.1 * images.error(deformed.transform)
    assert isinstance(again.transform, ChainTransform)
    # the original is sampled once, through both: no blur is added by the second run
    once = sr.warp(images.moving, again.transform, images.fixed.grid, fill=None)
    assert np.array_equal(again.warped.data, once.data)
    # nothing is fitted: what comes out is what went in
    kept = next(
        sr.register_steps(images.fixed, images.moving, family="affine", start_transform=deformed.transform, **FAST)
    )
    grid_points = images.points()
    assert np.abs(kept.preview().map_points(grid_points) - deformed.transform.map_points(grid_points)).max() < 1e-3


def test_a_start_of_another_unit_or_dimension_is_refused():
    images = bent_pair(size=32)
    for start in (AffineTransform.identity(2, "um"), AffineTransform.identity(3)):
        with pytest.raises(InputError, match="transform to start from"):
            registered(images, start_transform=start)
